"""What swaps cost: 16 temperatures x 128 ladders on a 784 x 500 RBM beside 2,048 plain chains.

    python experiments/benchmarks/tempering.py --out runs/tempering --threads 1

Both make the same sweeps in all. Rounds are paired: each runs every call once, in random order, and
a ratio is the median over rounds of the ratio of CPU times within a round.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import qsample as qs
from qsample.annealers import Gibbs, ParallelTempering

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import (
    CommonOptions,
    Report,
    command_line,
    instruction_sets,
    medians,
    paired_rounds,
    ratio,
)

PLAIN = "plain chains"


@dataclass(frozen=True)
class Options(CommonOptions):
    """Sizes and rounds."""

    visible: int = 784
    """visible units"""
    hidden: int = 500
    """hidden units"""
    temperatures: int = 16
    """temperatures of a ladder"""
    ladders: int = 128
    """ladders"""
    sweeps: int = 100
    """sweeps of each replica"""
    swap_every: tuple[int, ...] = (1, 4)
    """sweeps between rounds of swaps, one call each"""
    rounds: int = 9
    """paired rounds"""
    threads: int = 1
    """torch threads"""


def main(options: Options) -> None:
    """Time, print, draw."""
    report = Report(options, __file__)
    problem = random_rbm(options)
    num = options.temperatures * options.ladders
    plain = Gibbs(sweeps=options.sweeps)
    calls = {PLAIN: lambda: plain.sample(problem, num)}
    for every in options.swap_every:
        tempering = ParallelTempering(
            sweeps=options.sweeps, betas=options.temperatures, swap_every=every
        )
        name = f"swaps every {every}"
        calls[name] = lambda sampler=tempering: sampler.sample(problem, options.ladders)
    paired_rounds(calls, 1, quiet=True)
    seconds = paired_rounds(calls, options.rounds)
    rows = {}
    for name, values in seconds.items():
        wall, cpu = medians(values)
        times = ratio(values, seconds[PLAIN], "cpu")
        rows[name] = {"wall_s": wall, "cpu_s": cpu, "over_plain": times}
        print(
            f"{name:16} wall {wall:7.3f} s   cpu {cpu:7.3f} s   {times:.2f} x {PLAIN}   "
            f"{options.threads} threads, {instruction_sets()[0]}"
        )
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.barh(list(rows), [row["over_plain"] for row in rows.values()])
    axes.set_xlabel(f"CPU time over that of {num} {PLAIN}")
    report.finish({"calls": rows, "isa": instruction_sets()[0]}, figure)


def random_rbm(options: Options) -> qs.Ising:
    """Couplings and fields of a normal law, about as large as those of a trained RBM."""
    g = torch.Generator().manual_seed(0)
    n, m = options.visible, options.hidden
    h = 0.1 * torch.randn(n + m, generator=g)
    J = 0.02 * torch.randn(n, m, generator=g)
    return qs.Ising(qs.Graph.bipartite(n, m), h, J)


if __name__ == "__main__":
    command_line(main, Options)
