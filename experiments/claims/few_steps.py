"""Few steps: independent bits beside steps that are Ising problems, at 1 to 16 reverse steps.

    python experiments/claims/few_steps.py --out runs/few_steps
    python experiments/claims/few_steps.py --data mnist5k --seeds 0 --width 512 --out runs/mnist

For each number of steps two models are trained, with the same network, data and updates: the
factorised denoiser by cross entropy, the Ising copula by pseudo-likelihood and then by contrastive
divergence. Half of the images train, the other half judge; a floor is the distance between these
halves, what a perfect model of the first would reach.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.data import load
from qsample.diffusion import UniformBits, log_times
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error
from qsample.models import IsingCopula

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import (
    CommonOptions,
    Report,
    Stopwatch,
    command_line,
    mosaic,
    progress_bar,
)

KINDS = {"factorised": "tab:red", "copula": "tab:blue"}
METRICS = {
    "pair_correlation_error": "error of pair correlations",
    "frechet": "Frechet distance of features",
}
# Offsets (down, right) of coupled bits of a large image.
NEAR = [(a, b) for a in range(3) for b in range(-2, 3) if (a, b) > (0, 0)]
FAR = [(0, 4), (4, 0), (4, 4), (4, -4), (0, 8), (8, 0)]
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Both models share everything here."""

    data: str = "digits"
    """images: digits (8 x 8) or mnist5k (28 x 28)"""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    """reverse steps; a model is trained for each number"""
    updates: int = 1200
    """gradient steps of a model"""
    batch: int = 100
    """images of a gradient step"""
    lr: float = 0.002
    """Adam's learning rate, falling to zero"""
    width: int = 256
    """units of a layer of the network"""
    rank: int = 0
    """features per bit that make couplings depend on x_k; 0: couplings are the step's own"""
    contrastive: float = 0.3
    """share of the copula's updates, the last ones, that are contrastive divergence"""
    sweeps: tuple[int, ...] = (20, 100, 1000)
    """sweeps of a joint step when images are drawn, half annealing, half at the target; the last
    one counts"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of all randomness; a model for each"""


def main(options: Options) -> None:
    """Train every model, draw from it, compare."""
    report = Report(options, __file__)
    judge = Judge(options.data)
    floor = judge(judge.half.x[: len(judge.other)])
    rows: list[Row] = []
    images: dict[tuple[str, int], Tensor] = {}
    total = len(KINDS) * len(options.steps) * len(options.seeds) * options.updates
    with progress_bar(total=total, unit="update") as bar:
        for seed, steps, kind in product(options.seeds, options.steps, KINDS):
            more, drawn = train_and_draw(kind, steps, seed, judge, options, bar)
            rows += more
            if seed == options.seeds[0]:
                images[kind, steps] = drawn
            report.write({"floor": floor, "rows": rows})
    result = {
        "floor": floor,
        "means": means(rows, options),
        "matches": matches(rows, options),
        "rows": rows,
    }
    show(result, rows, options)
    report.finish(result, picture(rows, images, floor, judge.shape, options))


class Judge:
    """Half of the images to train on, and metrics against the other half."""

    def __init__(self, name: str) -> None:
        data = load(name, coding="spins")
        if data.image_shape is None or data.labels is None:
            raise SystemExit(f"expected images with labels, digits or mnist5k; got {name!r}")
        self.shape = data.image_shape
        self.half, _, self.other = data.split(test=len(data) // 2)
        assert self.half.labels is not None
        self.features = ImageFeatures(self.half.x, self.half.labels, self.shape)
        self.judged = self.features(self.other.x)

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Distance of images `[N, n]` to the other half."""
        return {
            "pair_correlation_error": pair_correlation_error(self.other.x, x.float()),
            "frechet": frechet_distance(self.judged, self.features(x.float())),
        }


# ---- models -----------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """Two residual layers and an embedding of the step: x_k to logits of x_0 and features."""

    def __init__(self, bits: int, steps: int, width: int, rank: int) -> None:
        """Make the layers.

        Args:
            bits: bits of an image, n.
            steps: number of steps.
            width: units of a layer.
            rank: features per bit, r; 0 for none.
        """
        super().__init__()
        self.bits = bits
        self.rank = rank
        self.first = nn.Linear(bits, width)
        self.step = nn.Embedding(steps + 1, width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, bits)
        self.features = nn.Linear(width, bits * rank) if rank else None
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, k: Tensor) -> Any:
        """Logits `[B, n]`, or (logits, features `[B, n, r]`)."""
        y = self.first(x) + self.step(k)
        for layer in self.layers:
            y = y + layer(y)
        y = self.norm(y)
        logits = self.last(y)
        if self.features is None:
            return logits
        return logits, self.features(y).unflatten(1, (self.bits, self.rank))


def graph_of(kind: str, shape: tuple[int, int]) -> qs.Graph:
    """No edges for the factorised step; else all pairs of up to 100 bits, or some near and far."""
    rows, columns = shape
    if kind == "factorised":
        return qs.Graph.sparse(rows * columns, [])
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


def annealing(sweeps: int) -> SimulatedAnnealing:
    """To beta 1 and as many sweeps there: a schedule that ends as it arrives is too hot."""
    rise = max(1, sweeps // 2)
    return SimulatedAnnealing(
        schedule=[*torch.linspace(0, 1, rise + 1)[1:].tolist(), *[1.0] * rise]
    )


def train(
    kind: str, steps: int, seed: int, judge: Judge, options: Options, bar: Any
) -> IsingCopula:
    """One model; the factorised one is the copula on a graph without edges.

    Args:
        kind: key of KINDS.
        steps: number of reverse steps.
        seed: seed of weights, noise and chains.
        judge: holds the images to train on.
        options: options of the run.
        bar: progress bar of updates.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    data = judge.half
    rank = options.rank if kind == "copula" else 0
    denoiser = Denoiser(data.x.shape[1], steps, options.width, rank)
    model = IsingCopula(denoiser, graph_of(kind, judge.shape), UniformBits(log_times(steps)))
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: 1 - u / options.updates)
    turn = round(options.updates * (1 - options.contrastive))
    for update in range(options.updates):
        x_0 = data.x[torch.randint(len(data), (options.batch,), generator=generator)]
        loss = loss_of(model, kind, x_0, update >= turn, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        bar.update()
    return model


def loss_of(
    model: IsingCopula, kind: str, x_0: Tensor, contrastive: bool, generator: torch.Generator
) -> Tensor:
    """Cross entropy of independent bits; pseudo-likelihood or contrastive divergence of coupled.

    Args:
        model: model to train.
        kind: key of KINDS.
        x_0: images `[B, n]`.
        contrastive: whether the copula is at its last updates.
        generator: source of noise and chains.
    """
    x, after, k = model.pairs(x_0, generator)
    if kind == "factorised":
        logits = model(after, k).logits
        bits = (x_0 + 1) / 2
        cross_entropy = nn.functional.binary_cross_entropy_with_logits
        return cross_entropy(logits, bits, reduction="sum") / len(x_0)
    if contrastive:
        return model.cd_loss(x, after, k, Gibbs(sweeps=10), generator=generator).mean()
    return -model.pseudo_likelihood(x, after, k).mean()


def train_and_draw(
    kind: str, steps: int, seed: int, judge: Judge, options: Options, bar: Any
) -> tuple[list[Row], Tensor]:
    """A row for each number of sweeps, and the images of the last.

    Args:
        kind: key of KINDS.
        steps: number of reverse steps.
        seed: seed of everything random.
        judge: images and metrics.
        options: options of the run.
        bar: progress bar of updates.
    """
    watch = Stopwatch()
    model = train(kind, steps, seed, judge, options, bar)
    trained = watch.read().wall
    rows: list[Row] = []
    x = torch.empty(0)
    for sweeps in sweeps_of(kind, options):
        sampler = annealing(sweeps) if kind == "copula" else Gibbs(sweeps)
        watch = Stopwatch()
        generator = torch.Generator().manual_seed(seed)
        x = model.sample(sampler, len(judge.other), generator=generator)
        seconds = {"train_seconds": trained, "draw_seconds": watch.read().wall}
        row = {"kind": kind, "steps": steps, "seed": seed, "sweeps": sweeps}
        rows.append({**row, **judge(x), **seconds})
    return rows, x


def sweeps_of(kind: str, options: Options) -> tuple[int, ...]:
    """Numbers of sweeps at which images are drawn: one sweep draws independent bits exactly."""
    return options.sweeps if kind == "copula" else (1,)


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
    cell = (kind, steps, sweeps_of(kind, options)[-1])
    return [row[metric] for row in rows if (row["kind"], row["steps"], row["sweeps"]) == cell]


def means(rows: list[Row], options: Options) -> dict[str, Any]:
    """Mean over the seeds of both metrics, by kind and number of steps."""
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
            cells.append(f"{kind} {error}, Frechet {row['frechet']:.2f}")
        matched = f"the copula matches {result['matches'][str(steps)]} factorised steps"
        print(f"{times(steps)}: {'; '.join(cells)}; {matched}")


# ---- the picture ------------------------------------------------------------------------------


def picture(
    rows: list[Row],
    images: dict[tuple[str, int], Tensor],
    floor: dict[str, float],
    shape: tuple[int, int],
    options: Options,
) -> Figure:
    """Both figures against the steps, the copula's against its sweeps, and images of both.

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
    for axis, metric in zip(axes, METRICS, strict=False):
        by_steps(axis, rows, metric, floor[metric], options)
    by_sweeps(axes[2], rows, floor["pair_correlation_error"], options)
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


def by_steps(axis: Any, rows: list[Row], metric: str, floor: float, options: Options) -> None:
    """A metric against the number of steps.

    Args:
        axis: where to draw.
        rows: all rows.
        metric: key of METRICS.
        floor: the metric of two halves of the data.
        options: options of the run.
    """
    for kind, colour in KINDS.items():
        values = [of(rows, kind, steps, metric, options) for steps in options.steps]
        heights = [statistics.fmean(v) for v in values]
        errors = [spread(v) for v in values]
        axis.errorbar(options.steps, heights, errors, color=colour, marker="o", capsize=3)
        axis.plot([], [], color=colour, label=kind)
    axis.axhline(floor, color="grey", linestyle="--", label="floor: two halves of the data")
    axis.set(xscale="log", xlabel="reverse steps", ylabel=METRICS[metric], ylim=(0, None))
    axis.set_xticks(options.steps, map(str, options.steps))
    axis.legend()


def by_sweeps(axis: Any, rows: list[Row], floor: float, options: Options) -> None:
    """The copula's error against the sweeps of a joint step.

    Args:
        axis: where to draw.
        rows: all rows.
        floor: the error of two halves of the data.
        options: options of the run.
    """
    shades = torch.linspace(0.3, 1, len(options.steps)).tolist()
    for steps, shade in zip(options.steps, shades, strict=True):
        errors = []
        for sweeps in options.sweeps:
            cell = ("copula", steps, sweeps)
            values = [
                row["pair_correlation_error"]
                for row in rows
                if (row["kind"], row["steps"], row["sweeps"]) == cell
            ]
            errors.append(statistics.fmean(values))
        colour = plt.get_cmap("Blues")(shade)
        axis.plot(options.sweeps, errors, marker="o", color=colour, label=times(steps))
    axis.axhline(floor, color="grey", linestyle="--")
    axis.set(xscale="log", xlabel="sweeps of a joint step", ylim=(0, None))
    axis.set_ylabel(METRICS["pair_correlation_error"])
    axis.set_xticks(options.sweeps, map(str, options.sweeps))
    axis.legend(title="copula")


if __name__ == "__main__":
    command_line(main, Options)
