"""One reverse step for 64 images of 28 x 28 bits: 1,568 spins, 100 sweeps, 10 million updates.

    python experiments/benchmarks/reverse_step.py --out runs/reverse_step

The spins are a grid of degree 12. The whole call is timed, from the tensor x_k to the tensor
x_{k-1}: fields, sampling, reading out. Rounds run every engine once, in random order, on every
number of threads; wall and CPU seconds are medians over rounds. `torch` is the heat bath without
native code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import Gibbs
from qsample.annealers.kernels.betas import Constant
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.models import DenoisingThermodynamicModel
from qsample.problem.lattices import grid
from qsample.sampling import draw_seeds

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import (
    CommonOptions,
    Report,
    Seconds,
    command_line,
    medians,
    paired_rounds,
)

GOAL = 0.05
"""wall seconds"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """Sizes and rounds."""

    images: int = 64
    """conditions x_k, one batched problem"""
    rows: int = 28
    """rows of the grid"""
    columns: int = 56
    """columns of the grid"""
    degree: int = 12
    """neighbours of a spin of the grid"""
    sweeps: int = 100
    """sweeps of the step"""
    steps: int = 4
    """steps of the model, T"""
    rounds: int = 15
    """rounds, each of which runs every engine once"""
    torch_rounds: int = 2
    """rounds of the slow engine"""
    teams: tuple[int, ...] = (1, 2)
    """numbers of threads that are timed"""


@dataclass(frozen=True)
class TorchGibbs:
    """The heat bath on torch alone."""

    sweeps: int

    warm_start = False
    reversible = False

    def sample(
        self,
        problem: qs.Ising,
        num: int,
        *,
        initial: qs.Samples | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> qs.Samples:
        """See `qsample.Sampler`."""
        seeds = draw_seeds(generator, problem.batch_shape)
        sweeper = Sweeper(problem, num, seeds, native=False)
        sweeper.run(Constant(self.sweeps))
        return qs.Samples(*sweeper.reads())


def main(options: Options) -> None:
    """Time the step on every engine."""
    report = Report(options, __file__)
    model, calls = steps(options)
    seconds = measure(calls, options)
    spins = model.graph.num_spins
    updates = options.images * spins * options.sweeps
    result = {
        "bits": spins // 2,
        "spins": spins,
        "updates": updates,
        "goal_seconds": GOAL,
        "engines": {name: row(seconds[name], updates) for name in seconds},
    }
    for name, figures in result["engines"].items():
        print(
            "{name:>26}: {wall:.4f} s wall (fastest {fastest:.4f}), {cpu:.4f} s CPU, "
            "{updates_per_ns:.2g} updates/ns; goal {goal} s".format(name=name, goal=GOAL, **figures)
        )
    report.finish(result, picture(result, options))


def steps(
    options: Options,
) -> tuple[DenoisingThermodynamicModel, dict[str, Callable[[], Any]]]:
    """The model, and a step of it on each engine and number of threads."""
    generator = torch.Generator().manual_seed(0)
    graph = grid(options.rows, options.columns, degree=options.degree)
    model = DenoisingThermodynamicModel(
        graph, graph.num_spins // 2, options.steps, scale=0.3, generator=generator
    )
    k = max(1, options.steps // 2)
    x = model.process.prior((options.images, graph.num_spins // 2), generator)
    samplers: dict[str, Any] = {
        "native": Gibbs(options.sweeps),
        "torch": TorchGibbs(options.sweeps),
    }

    def step(sampler: Any, threads: int) -> Callable[[], Any]:
        def call() -> Any:
            torch.set_num_threads(threads)
            return model.step(sampler, x, k, generator=generator)

        return call

    calls = {
        f"{name}, {threads} thread{'s' * (threads > 1)}": step(sampler, threads)
        for name, sampler in samplers.items()
        for threads in options.teams
    }
    return model, calls


def measure(calls: dict[str, Callable[[], Any]], options: Options) -> dict[str, list[Seconds]]:
    """Seconds of each call by round; the slow engine takes part in the first rounds only."""
    for call in calls.values():
        call()  # the first lays out the graph
    fast = {name: call for name, call in calls.items() if not name.startswith("torch")}
    together = min(options.rounds, options.torch_rounds)
    seconds = paired_rounds(calls, together)
    for name, more in paired_rounds(fast, options.rounds - together).items():
        seconds[name] += more
    return seconds


def row(seconds: list[Seconds], updates: int) -> dict[str, float]:
    """Figures of an engine."""
    wall, cpu = medians(seconds)
    fastest = min(s.wall for s in seconds)
    return {"wall": wall, "fastest": fastest, "cpu": cpu, "updates_per_ns": updates / wall / 1e9}


def picture(result: dict[str, Any], options: Options) -> Figure:
    """Wall and CPU seconds of every engine, and the goal."""
    engines = result["engines"]
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for k, figures in enumerate(engines.values()):
        for clock, shift, colour in (("wall", -0.2, "C0"), ("cpu", 0.2, "C1")):
            value = figures[clock]
            label = clock if k == 0 else None
            axis.barh(k + shift, value, 0.38, color=colour, label=label)
            axis.text(value * 1.05, k + shift, f"{value:.3g} s", va="center", fontsize=8)
    axis.axvline(GOAL, color="black", ls=":", label="goal (wall)")
    axis.set(xscale="log", xlabel="seconds", yticks=range(len(engines)), yticklabels=list(engines))
    title = f"{options.images} images, {result['spins']} spins, {options.sweeps} sweeps"
    axis.set_title(title, fontsize=10)
    axis.set_xlim(right=axis.get_xlim()[1] * 2)
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
