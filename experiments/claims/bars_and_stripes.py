"""Bars and stripes, 4 x 4: KL(data || model) on exact, persistent and annealed negatives.

    python experiments/claims/bars_and_stripes.py --out runs/bars_and_stripes

The 30 patterns are the whole data distribution, so the divergence is exact: -log 30 minus the mean
log-likelihood.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import Exact, Gibbs, SimulatedAnnealing
from qsample.data import load
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, Stopwatch, command_line

SIDE = 4
DRAWN = 36
"""images shown of each model"""
BLACK = torch.tensor([0.0, 0.0, 0.0])
RED = torch.tensor([0.8, 0.1, 0.1])


@dataclass(frozen=True)
class Options(CommonOptions):
    """One setting for all three."""

    hidden: int = 16
    """hidden units"""
    updates: int = 5000
    """gradient steps"""
    lr: float = 0.02
    """Adam's learning rate, falling to zero"""
    chains: int = 1000
    """negative samples of a step"""
    sweeps: int = 20
    """Gibbs sweeps per step of the persistent chains; annealing takes five times as many"""
    seed: int = 0
    """seed of all randomness"""


def main(options: Options) -> None:
    """Train three times, compare."""
    report = Report(options, __file__)
    patterns = load("bars-and-stripes").x
    runs: dict[str, tuple[qs.Sampler, qs.Start]] = {
        "exact": (Exact(), "fresh"),
        "persistent": (Gibbs(options.sweeps), "persistent"),
        "fresh": (annealing(options.sweeps), "fresh"),
    }
    result: dict[str, Any] = {}
    images: dict[str, torch.Tensor] = {}
    for name, (sampler, start) in runs.items():
        result[name], images[name] = train(patterns, sampler, start, options)
        print("{0}: KL {kl:.4f} in {seconds:.0f} s".format(name, **result[name]))
    report.finish(result, picture(result, images))


def annealing(sweeps: int) -> SimulatedAnnealing:
    """To beta 1 and as many sweeps there: a schedule that ends as it arrives is too hot."""
    rise = 5 * sweeps // 2
    return SimulatedAnnealing(
        schedule=[*torch.linspace(0, 1, rise + 1)[1:].tolist(), *[1.0] * rise]
    )


def train(
    patterns: torch.Tensor, sampler: qs.Sampler, start: qs.Start, options: Options
) -> tuple[dict[str, Any], torch.Tensor]:
    """Train a model: its divergence, time and curve, and exact draws of it.

    Args:
        patterns: rows `[30, 16]` of 0 and 1.
        sampler: source of negative samples.
        start: where its chains start.
        options: options of the run.
    """
    generator = torch.Generator().manual_seed(options.seed)
    model = BernoulliRBM(patterns.shape[1], options.hidden, generator=generator)
    model.set_visible_bias(patterns)
    settings = qs.Settings(
        updates=options.updates,
        batch=len(patterns),
        lr=options.lr,
        start=start,
        chains=options.chains,
        seed=options.seed,
        evaluate_every=max(1, options.updates // 25),
    )
    watch = Stopwatch()
    history = qs.fit(model, patterns, sampler, settings)
    wall, cpu = watch.read()

    def divergence(log_likelihood: float) -> float:
        return -math.log(len(patterns)) - log_likelihood

    row = {
        "kl": divergence(qs.log_likelihood(model, patterns, "exact").value),
        "seconds": wall,
        "cpu_seconds": cpu,
        "curve": [(m["update"], divergence(m["log_likelihood"])) for m in history],
    }
    samples = Exact().sample(model.ising().detach(), DRAWN, generator=generator)
    return row, model.split(samples.spins)[0]


def picture(result: dict[str, Any], images: dict[str, torch.Tensor]) -> Figure:
    """The divergence along training, and what each model draws; other patterns in red."""
    figure = plt.figure(figsize=(12, 4.2))
    grid = figure.add_gridspec(1, 5, width_ratios=(1.1, 1.1, 1, 1, 1))
    axis = figure.add_subplot(grid[0, :2])
    for name, row in result.items():
        label = f"{name} negatives: {row['kl']:.3f}"
        axis.plot(*zip(*row["curve"], strict=True), label=label)
    axis.set(yscale="log", xlabel="update", ylabel="KL(data || model), nats")
    axis.grid(alpha=0.3)
    axis.legend()
    for column, name in enumerate(images):
        axis = figure.add_subplot(grid[0, 2 + column])
        axis.imshow(page(images[name]).numpy(), interpolation="nearest")
        axis.set(title=f"draws after {name}", xticks=[], yticks=[])
    figure.tight_layout()
    return figure


def page(images: torch.Tensor) -> torch.Tensor:
    """Images side by side, `[rows, columns, 3]`: bars and stripes in black, others in red."""
    pitch = SIDE + 1
    frame = torch.full((6 * pitch - 1, 6 * pitch - 1, 3), 0.8)
    for k, image in enumerate(images.reshape(-1, SIDE, SIDE)):
        top = k // 6 * pitch
        left = k % 6 * pitch
        stripes = bool((image == image[:1]).all())
        bars = bool((image == image[:, :1]).all())
        ink = BLACK if stripes or bars else RED
        frame[top : top + SIDE, left : left + SIDE] = 1 - image[..., None] * (1 - ink)
    return frame


if __name__ == "__main__":
    command_line(main, Options)
