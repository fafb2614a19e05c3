"""Depth at equal cost: denoising thermodynamic models of 1, 2, 4 and 8 steps, on 64 and 784 bits.

    python experiments/claims/thermodynamic_model.py --out runs/thermodynamic_model
    python experiments/claims/thermodynamic_model.py --data mnist5k --side 56 --penalties False \
        --held-out 1000 --lrs 0.01 0.02 --workers 16

With the penalty off and on. A gradient step and a generated image cost the same number of spin
updates at every depth: T machines get 1/T of the sweeps each. Depth 1 is a plain Boltzmann machine.
The learning rate of each depth is the one with the best Frechet distance to validation images, and
so is the moment of training (of a moving average of the weights); both are then judged on test
images, by Frechet distance in the features of a small classifier and by the error of pair
correlations. The floor of a metric is that of as many training images. Three curves say why: split
R-hat from random starts (do reverse steps mix within their sweeps?), the energy of chains that
start at random above that of chains that start at data, after the same sweeps, and the distance at
other sweeps per image. The device of arXiv 2510.23972 is modelled with 2 fJ per spin update; no
chip was run. Runs that are there already are kept: a script that was ended goes on.
"""

from __future__ import annotations

import math
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
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
from qsample.sampling import Samples

sys.path.append(str(Path(__file__).parents[2]))
from experiments.cells import Cells, digest
from experiments.common import (
    RESULTS,
    CommonOptions,
    Report,
    Stopwatch,
    command_line,
    mosaic,
    progress_bar,
    published,
)

SHOWN = 48
"""images shown of each depth"""
NAMES = {"digits": "thermodynamic_model", "mnist5k": "thermodynamic_model_mnist5k"}
"""published results by data set"""
FEMTOJOULES = 2.0
"""of a spin update, in the model of the device"""
FREE = ("out", "publish", "threads", "depths", "seeds", "lrs", "penalties", "workers")
"""options that change no run"""
Run = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """One budget for all depths."""

    data: str = "digits"
    """images: digits (8 x 8) or mnist5k (28 x 28, which wants a side of 40 at least)"""
    depths: tuple[int, ...] = (1, 2, 4, 8)
    """numbers of steps, T"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of weights, places and chains"""
    penalties: tuple[bool, ...] = (False, True)
    """whether the correlation penalty is on; False must be one"""
    lrs: tuple[float, ...] = (0.02, 0.05)
    """Adam's learning rates, of which each depth keeps one"""
    side: int = 12
    """side of the torus of spins"""
    degree: int = 12
    """neighbours of a spin"""
    updates: int = 500
    """gradient steps"""
    batch: int = 100
    """images of a gradient step"""
    chains: int = 2
    """chains of each image"""
    sweeps: int = 64
    """sweeps of each phase, all machines together"""
    generation: int = 64
    """sweeps of a generated image, all steps together"""
    budgets: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """other sweeps per image, at the end"""
    images: int = 2000
    """images generated at each evaluation"""
    evaluations: int = 5
    """evaluations during training"""
    held_out: int = 400
    """validation images, and as many test images"""
    workers: int = 2
    """processes, each of so many threads; with 1 all runs in this one"""


@dataclass(frozen=True)
class Job:
    """One training run."""

    depth: int
    penalty: bool
    lr: float
    seed: int


def main(options: Options) -> None:
    """Choose learning rates, train every depth with every seed, compare."""
    if options.data not in NAMES or False not in options.penalties:
        raise SystemExit(
            f"expected data of {', '.join(NAMES)} and runs without the penalty; got "
            f"{options.data} and penalties {options.penalties}"
        )
    variant = NAMES[options.data].removeprefix(NAMES["digits"])
    report = Report(options, __file__, variant=variant)
    kept = Cells(report.folder)
    judge = Judge(options)
    data, _, test = judge.datasets
    floor = judge(data.x, test)
    lrs, trials = choose(options, judge, kept)
    jobs = [
        Job(depth, penalty, lrs[depth], seed)
        for depth in options.depths
        for penalty in options.penalties
        for seed in options.seeds
    ]
    runs = sorted(run_all(jobs, "training", options, judge, kept), key=lambda run: run["seed"])
    table = [
        summary(depth, penalty, lrs[depth], runs)
        for depth in options.depths
        for penalty in options.penalties
    ]
    updates = options.side**2 * options.generation
    result = {
        "floor": floor,
        "bits": data.x.shape[1],
        "updates_per_image": updates,
        "modelled_nanojoules_per_image": updates * FEMTOJOULES * 1e-6,
        "table": table,
        "depths": {str(row["depth"]): row for row in table if not row["penalty"]},
        "verdict": verdict(table),
    }
    show(result)
    result["runs"] = [{k: run[k] for k in run if k != "images"} for run in (*trials, *runs)]
    report.finish(result, picture(result, runs, judge, options))


# ---- training ---------------------------------------------------------------------------------


class Judge:
    """Metrics against held-out images; the classifier has seen all of them."""

    def __init__(self, options: Options) -> None:
        data = load(options.data, coding="spins")
        assert data.image_shape is not None and data.labels is not None
        self.shape = data.image_shape
        self.features = ImageFeatures(data.x, data.labels, self.shape)
        self.datasets = data.split(test=options.held_out, validation=options.held_out)
        self.held_out = options.held_out

    def __call__(self, images: torch.Tensor, against: Dataset) -> dict[str, float]:
        """Means over sets of as many images as are held out: a distance depends on the number."""
        real = self.features(against.x)
        sets = images.float().split(self.held_out)
        sets = [images for images in sets if len(images) == self.held_out]
        frechet = [frechet_distance(real, self.features(images)) for images in sets]
        pairs = [pair_correlation_error(against.x, images) for images in sets]
        return {"frechet": statistics.fmean(frechet), "pairs": statistics.fmean(pairs)}


def run_all(jobs: list[Job], what: str, options: Options, judge: Judge, kept: Cells) -> list[Run]:
    """The runs of all jobs, those that are not there yet trained, several at a time.

    Args:
        jobs: training runs.
        what: text of the progress bar.
        options: options of the run.
        judge: data and metrics.
        kept: holds the runs that are done.
    """
    about = {name: value for name, value in asdict(options).items() if name not in FREE}
    names = {job: digest(about | asdict(job)) for job in jobs}
    runs = [run for job in jobs if (run := kept.get(names[job])) is not None]
    left = [job for job in jobs if kept.get(names[job]) is None]
    show = partial(progress_bar, desc=what, total=len(jobs), initial=len(runs), dynamic_ncols=True)
    if options.workers == 1:
        return runs + [kept.put(names[job], train(job, options, judge)) for job in show(left)]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        longest_first = sorted(left, key=lambda job: -job.depth)
        names_of = {pool.submit(train, job, options, judge): names[job] for job in longest_first}
        for done in show(as_completed(names_of)):
            runs.append(kept.put(names_of[done], done.result()))
    return runs


def choose(options: Options, judge: Judge, kept: Cells) -> tuple[dict[int, float], list[Run]]:
    """The learning rate of each depth that validation picks, and all that were tried.

    Args:
        options: options of the run.
        judge: data and metrics.
        kept: holds the runs that are done.
    """
    if len(options.lrs) == 1:
        return dict.fromkeys(options.depths, options.lrs[0]), []
    seed = options.seeds[0] + 1000  # of no other use
    jobs = [Job(depth, False, lr, seed) for depth in options.depths for lr in options.lrs]
    trials = run_all(jobs, "learning rates", options, judge, kept)

    def distance(run: Run) -> float:
        return best_of(run)["validation"]["frechet"]

    lrs = {
        depth: min((run for run in trials if run["depth"] == depth), key=distance)["lr"]
        for depth in options.depths
    }
    return lrs, trials


class Training:
    """One model in training, the average of its weights, and what is measured along the way."""

    def __init__(self, job: Job, options: Options, judge: Judge) -> None:
        """Make the model.

        Args:
            job: depth, penalty, learning rate and seed.
            options: options of the run.
            judge: data and metrics.
        """
        self.job = job
        self.options = options
        self.judge = judge
        self.generator = torch.Generator().manual_seed(job.seed)
        data = judge.datasets[0]
        graph = grid(options.side, degree=options.degree)
        bits = data.x.shape[1]
        self.model = DenoisingThermodynamicModel(graph, bits, job.depth, generator=self.generator)
        self.model.set_visible_bias(data.x, generator=self.generator)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.98))
        self.sampler = Gibbs(max(1, options.sweeps // job.depth))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=job.lr)
        threshold = AdaptivePenalty().threshold if job.penalty else math.inf
        self.controller = AdaptivePenalty(threshold=threshold)

    def step(self, update: int) -> None:
        """One gradient step, at the learning rate of its number."""
        options = self.options
        self.optimizer.param_groups[0]["lr"] = self.job.lr * decay(update / options.updates)
        data = self.judge.datasets[0]
        batch = torch.randint(len(data), (options.batch,), generator=self.generator)
        settings: dict[str, Any] = {"chains": options.chains, "generator": self.generator}
        loss = denoising_loss(self.model, data.x[batch], self.sampler, **settings)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average.update_parameters(self.model)

    def draw(self, sweeps: int) -> torch.Tensor:
        """Images of the averaged model, with so many sweeps in all."""
        averaged: Any = self.average.module
        sampler = Gibbs(max(1, sweeps // self.job.depth))
        return averaged.sample(sampler, self.options.images, generator=self.generator)

    def measure(self, update: int) -> tuple[dict[str, Any], torch.Tensor]:
        """Figures of a moment, and its images; the penalty follows the mixing of reverse steps."""
        _, validation, test = self.judge.datasets
        settings: dict[str, Any] = {"draws": 8, "generator": self.generator}
        rhat = reverse_rhat(self.model, validation.x[:32], self.sampler, **settings)
        self.controller(self.model, rhat)
        images = self.draw(self.options.generation)
        row = {
            "update": update,
            "validation": self.judge(images, validation),
            "test": self.judge(images, test),
            "rhat": rhat.tolist(),
            "energy_gap": self.energy_gap(validation.x[:32]),
            "penalty": self.model.penalty.tolist(),
        }
        return row, images

    @torch.no_grad()
    def energy_gap(self, x: torch.Tensor, chains: int = 8) -> list[float]:
        """Energy of chains that start at random less that of chains that start at data, per step.

        After the sweeps of a phase, in units of kT: 0 where chains forget their start.

        Args:
            x: images, which are noised for the conditions.
            chains: chains of each image.
        """
        model = self.model
        clean = model.encode(x)
        gaps = []
        for k in range(1, model.steps + 1):
            before = model.process.noise(clean, k - 1, generator=self.generator)
            after = model.process.noise(before, k, k - 1, self.generator)
            problem = model.ising(k, after)
            start = self.at_data(k, before).repeat(1, chains, 1)
            initial = Samples(start, problem.energy(start))
            energies = [
                self.sampler.sample(
                    problem, chains, initial=begin, generator=self.generator
                ).energy.mean()
                for begin in (None, initial)
            ]
            gaps.append(float(energies[0] - energies[1]))
        return gaps

    def at_data(self, k: int, before: torch.Tensor) -> torch.Tensor:
        """Spins `[N, 1, n]` with x_{k-1} = `before` and latent spins drawn given it."""
        machine = self.model.machine(k)
        visible = before[:, self.model.sites.argsort()]
        latent = Gibbs(1).sample(machine.ising(visible=visible), 1, generator=self.generator)
        spins = latent.spins.new_empty(len(before), 1, self.model.graph.num_spins)
        spins[:, 0, machine.visible_index] = visible
        spins[..., machine.hidden_index] = latent.spins
        return spins


def train(job: Job, options: Options, judge: Judge) -> Run:
    """Train one model; metrics along the way, and images of the best moment.

    Args:
        job: depth, penalty, learning rate and seed.
        options: options of the run.
        judge: data and metrics.
    """
    torch.set_num_threads(options.threads)
    training = Training(job, options, judge)
    every = max(1, options.updates // options.evaluations)
    curve: list[dict[str, Any]] = []
    best = math.inf
    images = judge.datasets[0].x[:0]
    watch = Stopwatch()
    for update in range(1, options.updates + 1):
        training.step(update)
        if update % every == 0:
            row, drawn = training.measure(update)
            curve.append(row)
            if row["validation"]["frechet"] < best:
                best = row["validation"]["frechet"]
                images = drawn[:SHOWN]
    test = judge.datasets[2]
    budgets = {
        sweeps: judge(training.draw(sweeps), test)["frechet"]
        for sweeps in options.budgets
        if sweeps >= job.depth
    }
    return {
        **asdict(job),
        "curve": curve,
        "budgets": budgets,
        "cpu_seconds": watch.read().cpu,
        "images": images.tolist(),
    }


def decay(progress: float) -> float:
    """The learning rate's factor: half a cosine from 1 to 0.1."""
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


# ---- figures ----------------------------------------------------------------------------------


def best_of(run: Run) -> dict[str, Any]:
    """The moment that validation picks."""
    return min(run["curve"], key=lambda row: row["validation"]["frechet"])


def select(runs: list[Run], depth: int, penalty: bool) -> list[Run]:
    """The runs of a depth with or without the penalty, by seed.

    Args:
        runs: all runs.
        depth: number of steps.
        penalty: whether the penalty is on.
    """
    return [run for run in runs if (run["depth"], run["penalty"]) == (depth, penalty)]


def summary(depth: int, penalty: bool, lr: float, runs: list[Run]) -> dict[str, Any]:
    """Figures of each seed, and means over them.

    Args:
        depth: number of steps.
        penalty: whether the penalty is on.
        lr: learning rate that was chosen.
        runs: all runs.
    """
    mine = select(runs, depth, penalty)
    moments = [best_of(run) for run in mine]
    last = [run["curve"][-1] for run in mine]
    row: dict[str, Any] = {"depth": depth, "penalty": penalty, "lr": lr}
    for metric in ("frechet", "pairs"):
        row[metric] = [moment["test"][metric] for moment in moments]
        row[f"mean_{metric}"] = statistics.fmean(row[metric])
        row[f"last_{metric}"] = [moment["test"][metric] for moment in last]
    worst_rhat = [max(moment["rhat"]) for moment in last]
    return row | {
        "budgets": [run["budgets"] for run in mine],
        "worst_rhat": worst_rhat,
        "mean_rhat": statistics.fmean(worst_rhat),
        "energy_gap": [max(moment["energy_gap"]) for moment in last],
        "update": [moment["update"] for moment in moments],
    }


def spread(values: list[float]) -> str:
    """Mean and range over the seeds."""
    return f"{statistics.fmean(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def verdict(table: list[dict[str, Any]]) -> str:
    """Does depth win (without the penalty)? And what the two curves say about why."""
    rows = {row["depth"]: row for row in table if not row["penalty"]}
    flat = rows[min(rows)]
    deep = rows.get(4, rows[max(rows)])
    names = [f"depth {row['depth']}" for row in (deep, flat)]
    if max(deep["frechet"]) < min(flat["frechet"]):
        outcome = "depth wins with every seed"
    elif min(deep["frechet"]) > max(flat["frechet"]):
        outcome = "depth loses with every seed"
    else:
        outcome = "the seeds overlap"
    if flat["mean_rhat"] < 1.1:
        reason = "so there is little for depth to mend"
    else:
        reason = "so its chains do not forget their start"
    largest = max(flat["budgets"][0])
    distances = [statistics.fmean(b[largest] for b in row["budgets"]) for row in (deep, flat)]
    against = f"{spread(deep['frechet'])} against {spread(flat['frechet'])}"
    return "; ".join(
        [
            f"{names[0]} against {names[1]}, Frechet: {against}",
            outcome,
            f"R-hat of {names[1]} is {flat['mean_rhat']:.3f}, {reason}",
            f"with {largest} sweeps per image {distances[0]:.4g} against {distances[1]:.4g}",
        ]
    )


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    for row in result["table"]:
        penalty = "on " if row["penalty"] else "off"
        print(
            f"depth {row['depth']}, penalty {penalty} (lr {row['lr']:g}): "
            f"Frechet {spread(row['frechet'])}, pairs {spread(row['pairs'])}, "
            f"R-hat at the end {spread(row['worst_rhat'])}, "
            f"energy gap {spread(row['energy_gap'])}"
        )
    print("floor: Frechet {frechet:.4g}, pairs {pairs:.4g}".format(**result["floor"]))
    print(result["verdict"])


# ---- the picture ------------------------------------------------------------------------------


def picture(result: dict[str, Any], runs: list[Run], judge: Judge, options: Options) -> Figure:
    """Distance and mixing along training and against depth, and what each depth draws.

    Args:
        result: result of the script.
        runs: training runs.
        judge: holds the images.
        options: options of the run.
    """
    figure = plt.figure(figsize=(16, 12))
    rows = figure.add_gridspec(3, 1, hspace=0.32)
    panels = [rows[k].subgridspec(1, 4, wspace=0.3) for k in range(2)]
    axes = [figure.add_subplot(panel[0, k]) for panel in panels for k in range(4)]
    for k, depth in enumerate(options.depths):
        curves(axes[:4], depth, f"C{k}", select(runs, depth, penalty=False))
    label_curves(axes[:4], result["floor"], options)
    by_seed(axes[4], "frechet", "Frechet, each seed", result["floor"], result["table"], options)
    by_seed(axes[5], "pairs", "pair error, each seed", result["floor"], result["table"], options)
    by_depth(axes[6:], result, options)
    for axis in axes:
        axis.grid(alpha=0.3)
    pages = {
        f"depth {depth}": torch.tensor(select(runs, depth, penalty=False)[0]["images"])
        for depth in options.depths
    }
    pages[options.data] = judge.datasets[0].x[:SHOWN]
    bottom = rows[2].subgridspec(1, len(pages), wspace=0.05)
    for k, title in enumerate(pages):
        axis = figure.add_subplot(bottom[0, k])
        frame = mosaic(pages[title], judge.shape, columns=6, fill=0.0)
        axis.imshow(frame.numpy(), cmap="gray_r", vmin=-1, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])
    return figure


def curves(axes: list[Any], depth: int, colour: str, runs: list[Run]) -> None:
    """Curves of a depth: means over seeds, bands from the lowest to the highest.

    Args:
        axes: where to draw distance, distance by sweeps, mixing and energy.
        depth: number of steps.
        colour: colour of the depth.
        runs: its runs.
    """
    updates = [row["update"] for row in runs[0]["curve"]]
    budgets = list(runs[0]["budgets"])
    distance = [[row["test"]["frechet"] for row in run["curve"]] for run in runs]
    at_budgets = [list(run["budgets"].values()) for run in runs]
    mixing = [[max(max(row["rhat"]) - 1, 1e-3) for row in run["curve"]] for run in runs]
    energy = [[max(row["energy_gap"], key=abs) for row in run["curve"]] for run in runs]
    panels = ((updates, distance), (budgets, at_budgets), (updates, mixing), (updates, energy))
    for axis, (x, lines) in zip(axes, panels, strict=True):
        values = torch.tensor(lines)
        axis.plot(x, values.mean(0), f"{colour}.-", label=f"depth {depth}")
        low, high = values.min(0).values, values.max(0).values
        axis.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def label_curves(axes: list[Any], floor: dict[str, float], options: Options) -> None:
    """Titles, floors and scales of the panels of curves.

    Args:
        axes: the panels.
        floor: metrics of training images.
        options: options of the run.
    """
    for axis in axes[:2]:
        axis.axhline(floor["frechet"], color="black", ls=":", label="training images")
        axis.set_yscale("log")
        axis.yaxis.set_minor_formatter(ScalarFormatter())
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.tick_params(axis="y", which="both", labelsize=8)
    axes[0].set(xlabel="gradient steps, of equal updates", title="Frechet distance")
    axes[0].legend(fontsize=8)
    axes[1].set(xlabel="sweeps per image, all steps together", xscale="log")
    axes[1].set(title="Frechet distance, at the end")
    axes[1].set_xticks(options.budgets, [str(sweeps) for sweeps in options.budgets], minor=False)
    axes[1].minorticks_off()
    axes[2].set(xlabel="gradient steps", title="R-hat - 1 of the worst step", yscale="log")
    axes[3].set(xlabel="gradient steps", title="energy from random starts less from data, kT")


def by_depth(axes: list[Any], result: dict[str, Any], options: Options) -> None:
    """What depth gains and how it mixes, beside the published run of the other data set.

    Args:
        axes: where to draw the distance over that of the least depth, and R-hat.
        result: result of the script.
        options: options of the run.
    """
    results = {options.data: result}
    for data, name in NAMES.items():
        if data not in results and (RESULTS / f"{name}.json").exists():
            results[data] = published(name)["result"]
    for k, (data, other) in enumerate(results.items()):
        rows = list(other["depths"].values())
        depths = [row["depth"] for row in rows]
        flat = rows[0]["frechet"]
        gains = [[a / b for a, b in zip(row["frechet"], flat, strict=True)] for row in rows]
        rhats = [[rhat - 1 for rhat in row["worst_rhat"]] for row in rows]
        label = f"{data}, {other['bits']} bits"
        for axis, values in zip(axes, (gains, rhats), strict=True):
            style = {"color": f"C{4 + k}", "marker": "o"}
            axis.plot(depths, [statistics.fmean(v) for v in values], label=label, **style)
            axis.vlines(depths, [min(v) for v in values], [max(v) for v in values], f"C{4 + k}")
    axes[0].axhline(1, color="black", lw=0.8)
    axes[0].set(title="Frechet distance over that of depth 1")
    axes[1].axhline(0.3, color="black", lw=0.8)
    axes[1].set(title="R-hat - 1 of the worst step, at the end", yscale="log")
    for axis in axes:
        axis.set(xlabel="depth", xscale="log")
        axis.set_xticks(options.depths, [str(depth) for depth in options.depths])
        axis.minorticks_off()
        axis.legend(fontsize=8)


def by_seed(
    axis: Any,
    metric: str,
    title: str,
    floor: dict[str, float],
    table: list[dict[str, Any]],
    options: Options,
) -> None:
    """A metric of each seed against depth, with the penalty off and on.

    Args:
        axis: where to draw.
        metric: frechet or pairs.
        title: title of the panel.
        floor: metrics of training images.
        table: figures of each depth.
        options: options of the run.
    """
    for row in table:
        k = options.depths.index(row["depth"])
        place = k + (0.12 if row["penalty"] else -0.12)
        values = row[metric]
        colour, marker = ("C3", "^") if row["penalty"] else ("C0", "o")
        label = f"penalty {'on' if row['penalty'] else 'off'}" if k == 0 else None
        style = {"color": colour, "marker": marker, "ls": "", "ms": 5, "alpha": 0.8}
        axis.plot([place] * len(values), values, label=label, **style)
    axis.axhline(floor[metric], color="black", ls=":", label="training images")
    axis.set(title=title, xlabel="depth")
    axis.set(xticks=range(len(options.depths)), xticklabels=options.depths)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, loc="lower right")


if __name__ == "__main__":
    command_line(main, Options)
