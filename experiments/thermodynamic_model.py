"""Depth at equal cost: denoising thermodynamic models of 1, 2, 4 and 8 steps on 8 x 8 digits, penalty off and on.

    python experiments/thermodynamic_model.py --out runs/thermodynamic_model

A gradient step and a generated image cost the same number of spin updates at every depth: T machines get 1/T of the
sweeps each. Depth 1 is a plain Boltzmann machine. The learning rate of each depth is the one with the best Frechet
distance to validation images, and so is the moment of training (of a moving average of the weights); both are then
judged on test images, by Frechet distance in the features of a small classifier and by the error of pair
correlations. The floor of a metric is that of as many training images. Two curves say why: split R-hat from random
starts (do reverse steps mix within their sweeps?), and the distance at other sweeps an image. Writes results.json
and depth.png.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qsample.annealers import Gibbs
from qsample.data import Dataset, load
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error
from qsample.models import (
    AdaptivePenalty,
    DenoisingThermodynamicModel,
    denoising_loss,
    reverse_rhat,
)
from qsample.problem.lattices import grid
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter


@dataclass(frozen=True)
class Options:
    """One budget for all depths."""

    out: Path = Path("runs/thermodynamic_model")
    """folder for results.json and depth.png"""
    depths: tuple[int, ...] = (1, 2, 4, 8)
    """T"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """of weights, places and chains"""
    lrs: tuple[float, ...] = (0.02, 0.05)
    """Adam's learning rates, of which each depth keeps one"""
    side: int = 12
    """of the torus of spins"""
    degree: int = 12
    """neighbours of a spin"""
    updates: int = 500
    """gradient steps"""
    batch: int = 100
    """images a step"""
    chains: int = 2
    """of each image"""
    sweeps: int = 64
    """of each phase, all machines together"""
    generation: int = 64
    """sweeps of a generated image, all steps together"""
    budgets: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """other sweeps an image, at the end"""
    images: int = 2000
    """generated at each evaluation"""
    evaluations: int = 5
    """during training"""
    held_out: int = 400
    """validation images, and as many test images"""
    workers: int = 2
    """processes; with 1 all runs in this one"""


@dataclass(frozen=True)
class Job:
    """One training run."""

    depth: int
    penalty: bool
    lr: float
    seed: int


class Judge:
    """Metrics against held-out images; the classifier has seen all of them."""

    def __init__(self, options: Options) -> None:
        data = load("digits", coding="spins")
        assert data.image_shape is not None and data.labels is not None
        self.features = ImageFeatures(data.x, data.labels, data.image_shape)
        self.parts = data.split(test=options.held_out, validation=options.held_out)
        self.held_out = options.held_out

    def __call__(self, images: torch.Tensor, against: Dataset) -> dict[str, float]:
        """Means over sets of as many images as are held out: a Frechet distance depends on the number."""
        real, sets = self.features(against.x), images.float().split(self.held_out)
        sets = [one for one in sets if len(one) == self.held_out]
        return {
            "frechet": statistics.fmean(frechet_distance(real, self.features(one)) for one in sets),
            "pairs": statistics.fmean(pair_correlation_error(against.x, one) for one in sets),
        }


def train(job: Job, o: Options, judge: Judge) -> dict[str, Any]:
    """Train one model; metrics along the way, and images of the best moment."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(job.seed)
    data, validation, test = judge.parts
    steps = job.depth
    graph = grid(o.side, degree=o.degree)
    model = DenoisingThermodynamicModel(graph, data.x.shape[1], steps, generator=generator)
    model.set_visible_bias(data.x, generator=generator)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
    sampler = Gibbs(max(1, o.sweeps // steps))
    optimizer = torch.optim.Adam(model.parameters(), lr=job.lr)
    every, controller = max(1, o.updates // o.evaluations), AdaptivePenalty()
    curve: list[dict[str, Any]] = []
    best, images = math.inf, data.x[:0]

    def draw(sweeps: int) -> torch.Tensor:
        averaged: DenoisingThermodynamicModel = average.module  # pyright: ignore[reportAssignmentType]
        return averaged.sample(Gibbs(max(1, sweeps // steps)), o.images, generator=generator)

    start = time.process_time()
    for update in range(1, o.updates + 1):
        optimizer.param_groups[0]["lr"] = job.lr * (
            0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * update / o.updates))
        )
        rows = torch.randint(len(data), (o.batch,), generator=generator)
        loss = denoising_loss(model, data.x[rows], sampler, chains=o.chains, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        if update % every == 0:
            rhat = reverse_rhat(model, validation.x[:32], sampler, draws=8, generator=generator)
            (controller if job.penalty else replace(controller, threshold=math.inf))(model, rhat)
            drawn = draw(o.generation)
            row = {
                "validation": judge(drawn, validation),
                "test": judge(drawn, test),
                "update": update,
            }
            row |= {"rhat": rhat.tolist(), "penalty": model.penalty.tolist()}
            curve.append(row)
            if row["validation"]["frechet"] < best:
                best, images = row["validation"]["frechet"], drawn[:48]
    budgets = {
        sweeps: judge(draw(sweeps), test)["frechet"] for sweeps in o.budgets if sweeps >= steps
    }
    seconds = time.process_time() - start
    return {
        **asdict(job),
        "curve": curve,
        "budgets": budgets,
        "cpu_seconds": seconds,
        "images": images.tolist(),
    }


def best_of(run: dict[str, Any]) -> dict[str, Any]:
    """The moment that validation picks."""
    return min(run["curve"], key=lambda row: row["validation"]["frechet"])


def spread(values: list[float]) -> str:
    """Mean and range over the seeds."""
    return f"{statistics.fmean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def main(options: Options) -> None:
    """Choose learning rates, train every depth with every seed, compare."""
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    judge = Judge(options)
    data, _, test = judge.parts
    floor = judge(data.x, test)

    def run(jobs: list[Job], what: str) -> list[dict[str, Any]]:
        show = partial(progress_bar, desc=what, total=len(jobs), dynamic_ncols=True)
        if options.workers == 1:
            return [train(job, options, judge) for job in show(jobs)]
        with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
            longest_first = sorted(jobs, key=lambda job: -job.depth)
            futures = [pool.submit(train, job, options, judge) for job in longest_first]
            return [done.result() for done in show(as_completed(futures))]

    first = options.seeds[0] + 1000  # of no other use
    trials = run(
        [Job(T, False, lr, first) for T in options.depths for lr in options.lrs], "learning rates"
    )
    chosen = {
        T: min(
            (r for r in trials if r["depth"] == T),
            key=lambda r: best_of(r)["validation"]["frechet"],
        )["lr"]
        for T in options.depths
    }
    jobs = [
        Job(T, on, chosen[T], seed)
        for T in options.depths
        for on in (False, True)
        for seed in options.seeds
    ]
    runs = sorted(run(jobs, "training"), key=lambda r: r["seed"])
    table: list[dict[str, Any]] = []
    for T in options.depths:
        for on in (False, True):
            moments = [best_of(r) for r in runs if (r["depth"], r["penalty"]) == (T, on)]
            last = [r["curve"][-1] for r in runs if (r["depth"], r["penalty"]) == (T, on)]
            table.append(
                {"depth": T, "penalty": on, "lr": chosen[T]}
                | {metric: [moment["test"][metric] for moment in moments] for metric in floor}
                | {"last_" + metric: [row["test"][metric] for row in last] for metric in floor}
                | {"budgets": [r["budgets"] for r in runs if (r["depth"], r["penalty"]) == (T, on)]}
                | {
                    "worst_rhat": [max(row["rhat"]) for row in last],
                    "update": [moment["update"] for moment in moments],
                }
            )
    for row in table:
        on = "on " if row["penalty"] else "off"
        print(
            f"depth {row['depth']}, penalty {on} (lr {row['lr']:g}): Frechet {spread(row['frechet'])}, "
            f"pairs {spread(row['pairs'])}, R-hat at the end {spread(row['worst_rhat'])}"
        )
    print(f"floor: Frechet {floor['frechet']:.4g}, pairs {floor['pairs']:.4g}")
    said = verdict(table)
    print(said)
    results = {
        "options": {**asdict(options), "out": str(options.out)},
        "floor": floor,
        "table": table,
        "verdict": said,
    }
    kept = [{k: v for k, v in r.items() if k != "images"} for r in (*trials, *runs)]
    (options.out / "results.json").write_text(json.dumps(results | {"runs": kept}, indent=1))
    picture(options, floor, runs, table)
    print(f"{options.out / 'results.json'}\n{options.out / 'depth.png'}")


def verdict(table: list[dict[str, Any]]) -> str:
    """Does depth win (without the penalty)? And what the two curves say about why."""
    rows = {row["depth"]: row for row in table if not row["penalty"]}
    flat, deep = rows[min(rows)], rows.get(4, rows[max(rows)])
    names = [f"depth {row['depth']}" for row in (deep, flat)]
    if max(deep["frechet"]) < min(flat["frechet"]):
        outcome = "depth wins with every seed"
    elif min(deep["frechet"]) > max(flat["frechet"]):
        outcome = "depth loses with every seed"
    else:
        outcome = "the seeds overlap"
    parts = [
        f"{names[0]} against {names[1]}, Frechet: {spread(deep['frechet'])} against {spread(flat['frechet'])}"
    ]
    mixing = statistics.fmean(flat["worst_rhat"])
    reason = (
        "so there is little for depth to mend"
        if mixing < 1.1
        else "so its chains do not forget their start"
    )
    parts += [outcome, f"R-hat of {names[1]} is {mixing:.3f}, {reason}"]
    most = max(flat["budgets"][0])
    at_most = [statistics.fmean(one[most] for one in row["budgets"]) for row in (deep, flat)]
    return "; ".join(
        [*parts, f"with {most} sweeps an image {at_most[0]:.4g} against {at_most[1]:.4g}"]
    )


def picture(
    o: Options, floor: dict[str, float], runs: list[dict[str, Any]], table: list[dict[str, Any]]
) -> None:
    """Distance and mixing along training, the metrics against depth, and what each depth draws."""
    figure = plt.figure(figsize=(16, 8))
    rows = figure.add_gridspec(2, 1, height_ratios=(1.2, 1), hspace=0.32)
    top, bottom = rows[0].subgridspec(1, 5, wspace=0.35), rows[1].subgridspec(1, len(o.depths) + 1)
    axes = [figure.add_subplot(top[0, k]) for k in range(5)]
    for k, T in enumerate(o.depths):
        mine = [r for r in runs if r["depth"] == T and not r["penalty"]]
        at = [row["update"] for row in mine[0]["curve"]]
        budgets = list(mine[0]["budgets"])
        for axis, x, lines in (
            (axes[0], at, [[row["test"]["frechet"] for row in r["curve"]] for r in mine]),
            (axes[1], budgets, [list(r["budgets"].values()) for r in mine]),
            (axes[2], at, [[max(max(row["rhat"]) - 1, 1e-3) for row in r["curve"]] for r in mine]),
        ):
            points = list(zip(*lines, strict=True))
            axis.plot(x, list(map(statistics.fmean, points)), f"C{k}.-", label=f"depth {T}")
            axis.fill_between(
                x, list(map(min, points)), list(map(max, points)), color=f"C{k}", alpha=0.2, lw=0
            )
        axis = figure.add_subplot(bottom[0, k])
        axis.imshow(mosaic(torch.tensor(mine[0]["images"])).numpy(), cmap="gray_r", vmin=-1, vmax=1)
        axis.set(title=f"depth {T}", xticks=[], yticks=[])
    for axis in axes[:2]:
        axis.axhline(floor["frechet"], color="black", ls=":", label="training images")
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter(ScalarFormatter())
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.tick_params(axis="y", which="both", labelsize=8)
    axes[0].set(xlabel="gradient steps, of equal updates", title="Frechet distance")
    axes[0].legend(fontsize=8)
    axes[1].set(
        xlabel="sweeps an image, all steps together",
        title="Frechet distance, at the end",
        xscale="log",
    )
    axes[1].set_xticks(o.budgets, [str(sweeps) for sweeps in o.budgets], minor=False)
    axes[1].minorticks_off()
    axes[2].set(xlabel="gradient steps", title="R-hat - 1 of the worst step", yscale="log")
    for axis, metric, name in (
        (axes[3], "frechet", "Frechet, each seed"),
        (axes[4], "pairs", "pair error, each seed"),
    ):
        for on, offset in ((False, -0.12), (True, 0.12)):
            for k, T in enumerate(o.depths):
                (values,) = (
                    row[metric] for row in table if (row["depth"], row["penalty"]) == (T, on)
                )
                style = {"color": f"C{3 * on}", "marker": "o^"[on], "ls": "", "ms": 5, "alpha": 0.8}
                label = f"penalty {'on' if on else 'off'}" if k == 0 else None
                axis.plot([k + offset] * len(values), values, label=label, **style)
        axis.axhline(floor[metric], color="black", ls=":", label="training images")
        axis.set(title=name, xlabel="depth", xticks=range(len(o.depths)), xticklabels=o.depths)
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8, loc="lower right")
    axis = figure.add_subplot(bottom[0, -1])
    axis.imshow(
        mosaic(load("digits", coding="spins").x[:48]).numpy(), cmap="gray_r", vmin=-1, vmax=1
    )
    axis.set(title="digits", xticks=[], yticks=[])
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(o.out / "depth.png", dpi=120, bbox_inches="tight")
    plt.close(figure)


def mosaic(images: torch.Tensor, columns: int = 6) -> torch.Tensor:
    """8 x 8 images in rows, with a grey frame."""
    tiles = torch.zeros(-(-len(images) // columns), columns, 9, 9)
    tiles.view(-1, 9, 9)[: len(images), :8, :8] = images.reshape(-1, 8, 8).float()
    return tiles.permute(0, 2, 1, 3).reshape(len(tiles) * 9, columns * 9)[:-1, :-1]


if __name__ == "__main__":
    main(tyro.cli(Options))
