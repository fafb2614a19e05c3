"""One reverse step for 64 images of 28 x 28 bits: degree-12 grid of 1,568 spins, 100 sweeps, 10 million spin updates.

    python experiments/bench_reverse_step.py --out runs/bench_reverse_step

The whole call is timed, from the tensor x_k to the tensor x_{k-1}: fields, sampling, reading out. Rounds run every
engine once, in random order, on every number of threads; wall and CPU seconds are medians over rounds. `torch` is the
heat bath without native code. Writes results.json and step.png.
"""

from __future__ import annotations

import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import Gibbs
from qsample.annealers.kernels.betas import Constant
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.models import DenoisingThermodynamicModel
from qsample.problem.lattices import grid
from qsample.sampling.sampler import draw_seeds
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt

GOAL = 0.05


@dataclass(frozen=True)
class Options:
    """Sizes and rounds."""

    out: Path = Path("runs/bench_reverse_step")
    """folder for results.json and step.png"""
    images: int = 64
    """conditions x_k, one batched problem"""
    rows: int = 28
    """of the grid"""
    columns: int = 56
    """of the grid"""
    degree: int = 12
    """of the grid"""
    sweeps: int = 100
    """of the step"""
    steps: int = 4
    """T of the model"""
    rounds: int = 15
    """each runs every engine once"""
    torch_rounds: int = 2
    """rounds of the slow one"""
    threads: tuple[int, ...] = (1, 2)
    """torch threads, each timed"""


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
    o = options
    torch.set_num_threads(1)
    o.out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    graph = grid(o.rows, o.columns, degree=o.degree)
    bits = graph.num_spins // 2
    model = DenoisingThermodynamicModel(graph, bits, o.steps, scale=0.3, generator=generator)
    k = max(1, o.steps // 2)
    x = model.process.prior((o.images, bits), generator)
    samplers: dict[str, Any] = {
        "native": Gibbs(o.sweeps),
        "native, 16-bit": Gibbs(o.sweeps, precision="fixed16"),
        "torch": TorchGibbs(o.sweeps),
    }
    cells = [(name, threads) for name in samplers for threads in o.threads]
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {cell: [] for cell in cells}
    dice = random.Random(0)
    for at in progress_bar(range(o.rounds + 1), "rounds", dynamic_ncols=True):
        for name, threads in dice.sample(cells, len(cells)):
            if name != "torch" or at <= o.torch_rounds:
                torch.set_num_threads(threads)
                taken = timed(partial(model.step, samplers[name], x, k, generator=generator))
                if at:  # the first lays out the graph
                    seconds[name, threads].append(taken)
    updates = o.images * graph.num_spins * o.sweeps
    results: list[dict[str, Any]] = []
    for (name, threads), pairs in seconds.items():
        wall, cpu = (statistics.median(part) for part in zip(*pairs, strict=True))
        row = {"engine": name, "threads": threads, "wall": wall, "fastest": min(wall for wall, _ in pairs), "cpu": cpu}
        results.append(row | {"updates_per_ns": updates / wall / 1e9})
        print(
            f"{name:>15}, {threads} threads: {wall:.4f} s wall (fastest {row['fastest']:.4f}), {cpu:.4f} s CPU, "
            f"{updates / wall / 1e9:.2g} updates/ns; goal {GOAL} s"
        )
    about = {
        "images": o.images,
        "bits": bits,
        "spins": graph.num_spins,
        "degree": o.degree,
        "sweeps": o.sweeps,
        "updates": updates,
        "goal_seconds": GOAL,
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    (o.out / "results.json").write_text(json.dumps({"about": about, "results": results}, indent=1))
    picture(results, about, o.out / "step.png")
    print(f"{o.out / 'results.json'}\n{o.out / 'step.png'}")


def timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - cpu


def picture(results: list[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """Wall and CPU seconds of every engine, and the goal."""
    figure, axis = plt.subplots(figsize=(7, 3.6))
    names = [f"{row['engine']}, {row['threads']} thread{'s' * (row['threads'] > 1)}" for row in results]
    for k, row in enumerate(results):
        for value, shift, colour in ((row["wall"], -0.2, "C0"), (row["cpu"], 0.2, "C1")):
            axis.barh(k + shift, value, 0.38, color=colour)
            axis.text(value * 1.05, k + shift, f"{value:.3g} s", va="center", fontsize=8)
    axis.barh([0], [0], color="C0", label="wall")
    axis.barh([0], [0], color="C1", label="CPU")
    axis.axvline(about["goal_seconds"], color="black", ls=":", label="goal (wall)")
    axis.set(xscale="log", yticks=range(len(results)), yticklabels=names, xlabel="seconds")
    axis.set_title(f"{about['images']} images, {about['spins']} spins, {about['sweeps']} sweeps", fontsize=10)
    axis.set_xlim(right=axis.get_xlim()[1] * 2)
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
