"""Few steps: independent bits beside steps that are Ising problems, at 1 to 16 reverse steps.

    python experiments/claims/few_steps.py --out runs/few_steps
    python experiments/claims/few_steps.py --data mnist5k --seeds 0 --out runs/mnist

One denoiser per seed, a UNet of diffusers', is trained by cross entropy for all numbers of steps.
Both kinds of step use it, frozen, from the same x_T: the factorised step draws the bits
independently in its fields; the joint one adds centred couplings, trained on the evidence bound,
scaled at every step to what validation rows like best, and switched off where they do not surely
gain. Judged by the Frechet distance of features, the error of pair correlations and the evidence
bound of test rows; a floor is the distance between two halves of the data, what a perfect model of
the first would reach. Cells that are there already are kept: a run that was ended goes on.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from scipy.special import stdtr
from torch import Tensor, nn

import qsample as qs
from qsample.annealers import Gibbs
from qsample.data import load
from qsample.diffusion import UniformBits, log_times
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error
from qsample.models import IsingCopula

sys.path.append(str(Path(__file__).parents[2]))
from experiments.cells import Cells, digest
from experiments.common import (
    CommonOptions,
    Report,
    Stopwatch,
    check_choices,
    check_range,
    command_line,
    mosaic,
    progress_bar,
)
from experiments.denoiser import Denoiser, Remembered, train_denoiser
from experiments.joint_steps import (
    AtSteps,
    Learning,
    annealing,
    bounds,
    choose_scales,
    train_steps,
    without_couplings,
)

STARTS = ("fresh", "independent")
KINDS = {"factorised": "tab:red", "copula": "tab:blue"}
METRICS = {
    "pair_correlation_error": "error of pair correlations",
    "frechet": "Frechet distance of features",
    "minus_bound": "minus the evidence bound, nats per image",
}
# Offsets (down, right) of coupled bits of a large image.
NEAR = [(a, b) for a in range(3) for b in range(-2, 3) if (a, b) > (0, 0)]
FAR = [(0, 4), (4, 0), (4, 4), (4, -4), (0, 8), (8, 0)]
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Both kinds of step share everything here."""

    data: str = "digits"
    """images: digits (8 x 8) or mnist5k (28 x 28)"""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    """reverse steps"""
    updates: int = 2000
    """gradient steps of the denoiser"""
    coupling_updates: int = 150
    """gradient steps of the couplings of a reverse step"""
    pool: int = 6000
    """draws of x_k from which the couplings of a reverse step learn"""
    coupling_batch: int = 400
    """how many of them a gradient step of the couplings takes"""
    batch: int = 100
    """images of a gradient step of the denoiser"""
    lr: float = 0.002
    """the highest learning rate of the denoiser"""
    coupling_lr: float = 0.01
    """the most that a coupling changes in a gradient step, falling to zero"""
    width: int = 24
    """channels of the denoiser at full size"""
    finest: int = 16
    """number of steps whose times the denoiser is trained at"""
    chain: int = 5
    """sweeps of a gradient step's chains"""
    sweeps: tuple[int, ...] = (200,)
    """sweeps of a joint step when images are drawn, half annealing, half at the target; the last
    one counts"""
    start: str = "fresh"
    """where a joint step begins when images are drawn: fresh, annealed from coins; independent, at
    a draw of the factorised step, all sweeps at the target"""
    images: int = 2000
    """images drawn for a distance"""
    validation: int = 200
    """rows of the training half that decide whether a step keeps its couplings"""
    rows: int = 250
    """test rows of the evidence bound"""
    anneal: int = 30
    """temperatures at which log Z is measured"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of all randomness; a model for each"""
    device: str = "cpu"
    """where the denoiser is: cpu, cuda or mps; steps are drawn on the CPU, by the native kernels"""


def main(options: Options) -> None:
    """Train every model, draw from it, compare."""
    check_range("steps", options.steps, 1)
    check_choices("start", [options.start], STARTS)
    variant = "" if options.data == "digits" else f"_{options.data}"
    variant += "" if options.start == "fresh" else f"_{options.start}"
    report = Report(options, __file__, ("diffusers",), variant)
    judge = Judge(options)
    floor = judge(judge.half.x[: options.images])
    rows: list[Row] = []
    images: dict[tuple[str, int], Tensor] = {}
    cells = list(product(options.seeds, options.steps))
    kept = Kept(report.folder, options)
    with progress_bar(total=len(cells), unit="cell") as bar:
        for seed, steps in cells:
            bar.set_description(f"seed {seed}, {steps} steps")
            name = f"{kept.cell}-{seed}-{steps}"
            cell = kept.get(name)
            if cell is None:
                cell = kept.put(name, cell_of(steps, seed, judge, kept, options))
            rows += cell["rows"]
            if seed == options.seeds[0]:
                images |= {(kind, steps): drawn for kind, drawn in cell["images"].items()}
            report.write({"floor": floor, "rows": rows})
            bar.update()
    result = {
        "floor": floor,
        "means": means(rows, options),
        "paired": paired(rows, options),
        "matches": matches(rows, options),
        "rows": rows,
    }
    show(result, rows, options)
    report.finish(result, picture(rows, images, floor, judge.shape, options))


# Options of the denoiser; those that change no cell; and those of images, which change no model.
NETWORK = ("data", "updates", "batch", "lr", "width", "finest", "validation")
FREE = ("out", "publish", "threads", "seeds", "steps", "device")
DRAWN = ("sweeps", "start", "images")


class Kept(Cells):
    """Results of this run's folder, by name, for a run of the same options that goes on."""

    def __init__(self, folder: Path, options: Options) -> None:
        """Make the folder.

        Args:
            folder: folder of the run.
            options: options of the run; other seeds and steps share what is there.
        """
        super().__init__(folder)
        about = asdict(options)
        network = {name: about[name] for name in NETWORK}
        cell = {name: value for name, value in about.items() if name not in FREE}
        learned = {name: value for name, value in cell.items() if name not in DRAWN}
        self.network = digest(network)
        self.learned = digest(learned)
        self.cell = digest(cell)


class Judge:
    """Half of the images to train on, less validation rows, and metrics against the other half."""

    def __init__(self, options: Options) -> None:
        data = load(options.data, coding="spins")
        if data.image_shape is None or data.labels is None:
            raise SystemExit(f"expected images with labels, digits or mnist5k; got {options.data}")
        self.shape = data.image_shape
        self.half, _, self.other = data.split(test=len(data) // 2)
        assert self.half.labels is not None
        self.train = self.half.x[options.validation :]
        self.validation = self.half.x[: options.validation]
        self.rows = self.other.x[: options.rows]
        self.features = ImageFeatures(self.half.x, self.half.labels, self.shape)
        self.judged = self.features(self.other.x)

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Distance of images `[N, n]` to the other half."""
        return {
            "pair_correlation_error": pair_correlation_error(self.other.x, x.float()),
            "frechet": frechet_distance(self.judged, self.features(x.float())),
        }


# ---- couplings on top of a denoiser --------------------------------------------------------------


def graph_of(shape: tuple[int, int]) -> qs.Graph:
    """All pairs of up to 100 bits, or some near and far."""
    rows, columns = shape
    if rows * columns <= 100:
        return qs.Graph.complete(rows * columns)
    site = torch.arange(rows * columns).reshape(rows, columns)
    edges = []
    for a, b in NEAR + FAR:
        left = max(0, -b)
        right = columns - max(0, b)
        pairs = torch.stack([site[: rows - a, left:right], site[a:, left + b : right + b]], -1)
        edges.append(pairs.reshape(-1, 2))
    return qs.Graph.sparse(rows * columns, torch.cat(edges))


def copula_of(net: nn.Module, steps: int, judge: Judge) -> IsingCopula:
    """A centred copula whose couplings are 0.

    Args:
        net: denoiser of times.
        steps: number of reverse steps.
        judge: holds the shape of the images.
    """
    process = UniformBits(log_times(steps))
    return IsingCopula(AtSteps(net, steps), graph_of(judge.shape), process, centred=True)


# ---- a number of steps ------------------------------------------------------------------------


def cell_of(steps: int, seed: int, judge: Judge, kept: Kept, options: Options) -> dict[str, Any]:
    """Rows of both kinds of step, and images of each.

    Args:
        steps: number of reverse steps.
        seed: seed of everything random.
        judge: images and metrics.
        kept: holds the denoiser of the seed.
        options: options of the run.
    """
    net = Remembered(denoiser_of(seed, judge, kept, options))
    model = copula_of(net, steps, judge)
    plain = without_couplings(model)
    name = f"couplings-{kept.learned}-{seed}-{steps}"
    learned = kept.get(name)
    if learned is None:
        learned = kept.put(name, learned_couplings(model, seed, judge, options))
    scale = torch.tensor([row["scale"] for row in learned["switches"]])[:, None]
    assert model.b is not None
    with torch.no_grad():
        model.J.copy_(scale * learned["J"])
        model.b.copy_(scale * learned["b"])
    rows: list[Row] = []
    images = {}
    for kind, each in (("factorised", plain), ("copula", model)):
        judged, images[kind] = judged_rows(kind, each, seed, judge, options)
        rows += [row | learned["bounds"][kind] for row in judged]
    rows[-1] |= {name: learned[name] for name in ("switches", "train_seconds")}
    return {"rows": rows, "images": images}


def learned_couplings(
    model: IsingCopula, seed: int, judge: Judge, options: Options
) -> dict[str, Any]:
    """Train couplings of every step and choose how much of them it keeps; the bound of both kinds.

    Args:
        model: a copula whose couplings are 0; they are scaled in the end.
        seed: seed of everything random.
        judge: images.
        options: options of the run.
    """
    watch = Stopwatch()
    learning = Learning(
        options.pool,
        options.coupling_batch,
        options.chain,
        options.coupling_updates,
        options.coupling_lr,
    )
    train_steps(model, judge.train, learning, seed)
    trained = watch.read().cpu
    assert model.b is not None
    learned: dict[str, Any] = {"J": model.J.detach().clone(), "b": model.b.detach().clone()}
    learned["switches"] = choose_scales(model, judge.validation, options.anneal)
    learned["train_seconds"] = trained
    learned["bounds"] = {
        kind: bound_of(each, judge, options)
        for kind, each in (("factorised", without_couplings(model)), ("copula", model))
    }
    return learned


@torch.no_grad()
def bound_of(model: IsingCopula, judge: Judge, options: Options) -> dict[str, Any]:
    """Both ends of minus the evidence bound of test rows, its terms, and that of each row."""
    low, high = bounds(model, judge.rows, options.anneal)
    return {
        "minus_bound": -float(low.sum(-1).mean()),
        "minus_bound_low": -float(high.sum(-1).mean()),
        "terms": low.mean((0, 1)).tolist(),
        "terms_high": high.mean((0, 1)).tolist(),
        "by_row": low.sum(-1).mean(0).tolist(),
    }


def denoiser_of(seed: int, judge: Judge, kept: Kept, options: Options) -> Denoiser:
    """The denoiser of a seed, trained unless it was.

    Args:
        seed: seed of weights and noise.
        judge: holds the images to train on.
        kept: holds the weights.
        options: options of the run.
    """
    name = f"denoiser-{kept.network}-{seed}"
    weights = kept.get(name)
    if weights is None:
        trained = train_denoiser(
            judge.train,
            judge.shape,
            width=options.width,
            finest=options.finest,
            updates=options.updates,
            batch=options.batch,
            lr=options.lr,
            seed=seed,
            device=options.device,
        )
        weights = kept.put(name, trained.cpu().state_dict())
    net = Denoiser(judge.shape, options.width)
    net.load_state_dict(weights)
    return net.eval().to(options.device)


@torch.no_grad()
def judged_rows(
    kind: str, model: IsingCopula, seed: int, judge: Judge, options: Options
) -> tuple[list[Row], Tensor]:
    """A row for each number of sweeps, and the first images of the last.

    Args:
        kind: key of KINDS.
        model: model to draw from.
        seed: seed of the images.
        judge: images and metrics.
        options: options of the run.
    """
    steps = model.process.steps
    start: Any = options.start
    rows: list[Row] = []
    x = torch.empty(0)
    for sweeps in options.sweeps:
        generator = torch.Generator().manual_seed(seed)
        sampler = annealing(sweeps) if start == "fresh" else Gibbs(sweeps)
        x = model.sample(sampler, options.images, start=start, generator=generator)
        row = {"kind": kind, "steps": steps, "seed": seed, "sweeps": sweeps}
        rows.append({**row, **judge(x)})
    return rows, x[:36].clone()


# ---- figures ----------------------------------------------------------------------------------


def of(rows: list[Row], kind: str, steps: int, metric: str, options: Options) -> list[float]:
    """A figure of each seed, from the most sweeps.

    Args:
        rows: all rows.
        kind: key of KINDS.
        steps: number of reverse steps.
        metric: key of METRICS.
        options: options of the run.
    """
    cell = (kind, steps, options.sweeps[-1])
    return [row[metric] for row in rows if (row["kind"], row["steps"], row["sweeps"]) == cell]


def means(rows: list[Row], options: Options) -> dict[str, Any]:
    """Mean over the seeds of all metrics, by kind and number of steps."""
    return {
        kind: {
            str(steps): {
                metric: statistics.fmean(of(rows, kind, steps, metric, options))
                for metric in METRICS
            }
            for steps in options.steps
        }
        for kind in KINDS
    }


def paired(rows: list[Row], options: Options) -> dict[str, Any]:
    """Joint less factorised by metric and number of steps: below 0 where the joint step is better.

    With the p-value of a paired t-test over the seeds that the joint step is no better, null for
    fewer than two; and the share of steps whose couplings were switched off.
    """
    table: dict[str, Any] = {}
    for steps in options.steps:
        entry: dict[str, Any] = {}
        for metric in METRICS:
            joint = of(rows, "copula", steps, metric, options)
            plain = of(rows, "factorised", steps, metric, options)
            change = [a - b for a, b in zip(joint, plain, strict=True)]
            entry[metric] = {
                "mean": statistics.fmean(change),
                "by_seed": change,
                "p": p_value(change),
            }
        switches = [
            switch["on"]
            for row in rows
            if row["steps"] == steps
            for switch in row.get("switches", [])
        ]
        entry["switched_off"] = switches.count(False) / len(switches) if switches else None
        table[str(steps)] = entry
    return table


def p_value(change: list[float]) -> float | None:
    """Of Student's test that the mean is no less than 0; None for fewer than two seeds."""
    error = spread(change) / len(change) ** 0.5
    if not error:
        return None
    return float(stdtr(len(change) - 1, statistics.fmean(change) / error))


def matches(rows: list[Row], options: Options) -> dict[str, int]:
    """For each number of copula steps the most factorised steps whose mean error is no lower.

    0 where not even as many are matched.
    """
    table = means(rows, options)

    def error(kind: str, steps: int) -> float:
        return table[kind][str(steps)]["pair_correlation_error"]

    return {
        str(k): max(
            (T for T in options.steps if error("copula", k) <= error("factorised", T)), default=0
        )
        for k in options.steps
    }


def times(steps: int) -> str:
    """A number of steps in words."""
    return "1 step" if steps == 1 else f"{steps} steps"


def spread(values: list[float]) -> float:
    """Standard deviation over the seeds."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def show(result: dict[str, Any], rows: list[Row], options: Options) -> None:
    """Print the figures.

    Args:
        result: result of the script.
        rows: all rows.
        options: options of the run.
    """
    print("floor: {pair_correlation_error:.4f}, Frechet {frechet:.2f}".format(**result["floor"]))
    for steps in options.steps:
        cells = []
        for kind in KINDS:
            row = result["means"][kind][str(steps)]
            deviation = spread(of(rows, kind, steps, "pair_correlation_error", options))
            error = f"{row['pair_correlation_error']:.4f} ± {deviation:.4f}"
            bound = f"bound {-row['minus_bound']:.2f}"
            cells.append(f"{kind} {error}, Frechet {row['frechet']:.2f}, {bound}")
        matched = f"the copula matches {result['matches'][str(steps)]} factorised steps"
        print(f"{times(steps)}: {'; '.join(cells)}; {matched}")
        entry = result["paired"][str(steps)]
        changes = [
            f"{metric} {entry[metric]['mean']:+.4g} (p {entry[metric]['p']})" for metric in METRICS
        ]
        print(f"    joint - factorised: {', '.join(changes)}; off: {entry['switched_off']}")


# ---- the picture ------------------------------------------------------------------------------


def picture(
    rows: list[Row],
    images: dict[tuple[str, int], Tensor],
    floor: dict[str, float],
    shape: tuple[int, int],
    options: Options,
) -> Figure:
    """All figures against the steps, and images of both.

    Args:
        rows: all rows.
        images: images `[N, n]` by kind and number of steps.
        floor: metrics of the two halves of the data.
        shape: rows and columns of an image.
        options: options of the run.
    """
    figure = plt.figure(figsize=(13, 9.5), layout="constrained")
    panels: Any = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    axes = panels[0].subplots(1, 3)
    for axis, metric in zip(axes, METRICS, strict=True):
        by_steps(axis, rows, metric, floor.get(metric), options)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.minorticks_off()
    grids = panels[1].subplots(len(KINDS), len(options.steps), squeeze=False)
    for line, kind in zip(grids, KINDS, strict=True):
        for axis, steps in zip(line, options.steps, strict=True):
            ink = (1 - images[kind, steps][:36].float()) / 2
            axis.imshow(mosaic(ink, shape, fill=0.6).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(f"{kind}, {times(steps)}", color=KINDS[kind])
            axis.set(xticks=[], yticks=[])
    return figure


def by_steps(
    axis: Any, rows: list[Row], metric: str, floor: float | None, options: Options
) -> None:
    """A metric against the number of steps.

    Args:
        axis: where to draw.
        rows: all rows.
        metric: key of METRICS.
        floor: the metric of two halves of the data; None where there is none.
        options: options of the run.
    """
    for kind, colour in KINDS.items():
        values = [of(rows, kind, steps, metric, options) for steps in options.steps]
        heights = [statistics.fmean(v) for v in values]
        errors = [spread(v) for v in values]
        axis.errorbar(options.steps, heights, errors, color=colour, marker="o", capsize=3)
        axis.plot([], [], color=colour, label=kind)
    axis.set(xscale="log", xlabel="reverse steps", ylabel=METRICS[metric])
    if floor is not None:
        axis.axhline(floor, color="grey", linestyle="--", label="floor: two halves of the data")
        axis.set(ylim=(0, None))
    axis.set_xticks(options.steps, map(str, options.steps))
    axis.legend()


if __name__ == "__main__":
    command_line(main, Options)
