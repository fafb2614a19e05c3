"""The best energy after equal time on one thread: ours and other packages', on spin glasses.

    python experiments/benchmarks/energy.py --out runs/energy

Instances are those of instances.py. A pilot sizes the sweeps of each engine to the time allowed, by
processor time, so that a busy machine takes none away; the betas of annealing run linearly over the
range of the instance. Residuals are over `KNOWN`, energies near the ground state; a negative one
beats it.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import ParallelTempering, SimulatedAnnealing

sys.path.append(str(Path(__file__).parents[2]))
from experiments.benchmarks.calls import caller, isolated, spins_of
from experiments.benchmarks.instances import BETAS, make
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    Stopwatch,
    command_line,
    progress_bar,
)

Run = Callable[[int, int], torch.Tensor]
"""sweeps and a seed to spins [R, n]"""
READS = 64
PILOT_SEED = 1000
KNOWN: dict[str, float] = {"pegasus-16": -8934.7, "3d-16": -7312.0, "sk-1000": -754.80}
"""lowest energies of a minute of annealing on two cores: estimates from above, to be beaten"""
LADDERS = {
    "pegasus": [*np.linspace(1, 4, 56), *np.geomspace(4.5, 16, 8)],
    "3d": [*np.geomspace(1, 3, 60), 3.3, 3.6, 3.8, 4],
    "sk": [*np.geomspace(0.5, 8, 32)],
}
"""betas of a ladder: dense where replicas stop to move, a few at the end where they come to rest"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """Where to look, and for how long."""

    problems: tuple[str, ...] = ("pegasus-16", "3d-16", "sk-1000")
    """which instances"""
    engines: tuple[str, ...] = (
        "qsample tempering",
        "qsample annealing",
        "dwave Metropolis",
        "dwave Gibbs",
        "openjij",
    )
    """which engines"""
    seconds: float = 5.0
    """processor time of a run"""
    seeds: int = 3
    """runs of each"""
    cell: tuple[str, str, int] | None = None
    """a problem, an engine and a seed: run just that, in this process, and print it as JSON"""


def main(options: Options) -> None:
    """Run all cells, print the residuals, draw them."""
    if options.cell is not None:
        print(json.dumps(cell(*options.cell, options.seconds)))
        return
    report = Report(options, __file__)
    rows, left_out = measure(options)
    add_residuals(rows)
    for row in left_out:
        print("left out: {engine} on {problem} ({reason})".format(**row))
    result = {"known": KNOWN, "rows": rows, "left_out": left_out, "summary": summary(rows)}
    report.finish(result, picture(rows, options))


def runner(engine: str, problem: qs.Ising, kind: str) -> Run:
    """A run of an engine on a problem; everything anneals to the same beta, where reads are kept.

    Args:
        engine: engine by name.
        problem: instance.
        kind: kind of instance, the key of `BETAS` and `LADDERS`.
    """
    first, last = BETAS.get(kind, (0.1, 3.0))
    if engine == "qsample tempering":
        ladder = LADDERS.get(kind, LADDERS["3d"])
        return lambda sweeps, seed: tempering(problem, ladder, sweeps, seed)

    def annealing(sweeps: int, seed: int) -> torch.Tensor:
        sampler = SimulatedAnnealing(sweeps, (first, last), "linear", "metropolis")
        return sampler.sample(problem, READS, generator=torch.Generator().manual_seed(seed)).spins

    def peer(sweeps: int, seed: int) -> torch.Tensor:
        betas = np.linspace(first, last, sweeps).tolist()
        call = caller(engine, problem, betas, READS, warm=False, seed=seed)
        return torch.tensor(spins_of(call()[0]))

    return annealing if engine == "qsample annealing" else peer


def tempering(problem: qs.Ising, betas: list[float], sweeps: int, seed: int) -> torch.Tensor:
    """64 replicas on ladders: annealed for 85 % of the sweeps, then tempered, ten reads per ladder.

    The problem is scaled so that the coldest beta is 1. Replicas swap every 20 sweeps: at the
    kernel's speed a swap costs as much as two sweeps.

    Args:
        problem: instance.
        betas: ladder, the coldest last.
        sweeps: sweeps of each replica in all.
        seed: seed of the generator.
    """
    cold = float(betas[-1])
    reads = 10
    each = max(1, 3 * sweeps // 20 // reads)
    sampler = ParallelTempering(
        each,
        [*(float(beta / cold) for beta in betas[:-1]), 1.0],
        swap_every=20,
        reads_per_ladder=reads,
        anneal=sweeps - reads * each,
        rule="metropolis",
    )
    num = reads * max(1, READS // len(betas))
    generator = torch.Generator().manual_seed(seed)
    return sampler.sample(problem.scale(cold), num, generator=generator).spins


def cell(name: str, engine: str, seed: int, seconds: float) -> dict[str, Any]:
    """One run of about so many seconds; in a process of its own.

    Args:
        name: instance.
        engine: engine by name.
        seed: seed of the run.
        seconds: processor time that it may take.
    """
    torch.set_num_threads(1)
    problem = make(name)
    run = runner(engine, problem, name.partition("-")[0])
    run(10, PILOT_SEED)  # lays out the graph

    # The pilot: more and more sweeps until they take an eighth of the time.
    sweeps = 10
    taken = 0.0
    while taken < seconds / 8 and sweeps < 10**6:
        sweeps *= 4 if taken > seconds / 100 else 8
        watch = Stopwatch()
        run(sweeps, PILOT_SEED)
        taken = watch.read().cpu

    sweeps = max(2, int(sweeps * seconds / taken))
    watch = Stopwatch()
    spins = run(sweeps, seed)
    taken = watch.read().cpu
    energy = problem.to(dtype=torch.float64).energy(spins)
    return {
        "problem": name,
        "engine": engine,
        "seed": seed,
        "sweeps": sweeps,
        "seconds": taken,
        "lowest": float(energy.min()),
        "mean": float(energy.mean()),
    }


def measure(options: Options) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each problem, engine and seed; and what is left out, and why."""
    rows: list[dict[str, Any]] = []
    missing: dict[tuple[str, str], str] = {}
    cells = list(product(options.problems, options.engines, range(options.seeds)))
    for name, engine, seed in progress_bar(cells, unit="run"):
        if (name, engine) in missing:
            continue
        arguments = ("--cell", name, engine, seed, "--seconds", options.seconds)
        row = isolated(__file__, *arguments)
        if isinstance(row, str):
            missing[name, engine] = row
        else:
            rows.append(row)
    left_out = [
        {"problem": name, "engine": engine, "reason": reason}
        for (name, engine), reason in missing.items()
    ]
    return rows, left_out


def add_residuals(rows: list[dict[str, Any]]) -> None:
    """How far each run is above the lowest energy known, percent; better ones are told."""
    for name in dict.fromkeys(row["problem"] for row in rows):
        of_problem = [row for row in rows if row["problem"] == name]
        lowest = min(float(row["lowest"]) for row in of_problem)
        known: float = KNOWN.get(name, lowest)
        if lowest < known - 0.05:
            print(f"{name}: {lowest:.3f} is lower than {known}")
        for row in of_problem:
            row["residual_percent"] = 100 * (1 - row["lowest"] / known) if known else 0.0


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Residuals of each problem and engine over the seeds."""
    results: dict[str, dict[str, Any]] = {}
    for name, engine in dict.fromkeys((row["problem"], row["engine"]) for row in rows):
        runs = [row for row in rows if (row["problem"], row["engine"]) == (name, engine)]
        residuals = [row["residual_percent"] for row in runs]
        figures = {
            "median": statistics.median(residuals),
            "best": min(residuals),
            "worst": max(residuals),
            "lowest": min(row["lowest"] for row in runs),
            "sweeps": statistics.median(row["sweeps"] for row in runs),
        }
        results.setdefault(name, {})[engine] = figures
        print(
            f"{name:12} {engine:19} residual {figures['median']:6.3f} % "
            f"(best {figures['best']:6.3f}, worst {figures['worst']:6.3f}), "
            f"lowest {figures['lowest']:10.3f}, {figures['sweeps']:.0f} sweeps"
        )
    return results


def picture(rows: list[dict[str, Any]], options: Options) -> Figure:
    """A panel for each instance: the residual of each run, by engine."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))[::-1]
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    size = (4 * len(problems) + 1.5, 3.2)
    figure, axes = plt.subplots(1, len(problems), figsize=size, sharey=True, squeeze=False)
    for axis, name in zip(axes[0], problems, strict=True):
        for row in rows:
            if row["problem"] == name:
                colour = OURS if row["engine"].startswith("qsample") else THEIRS
                height = engines.index(row["engine"])
                axis.scatter(row["residual_percent"], height, color=colour, alpha=0.7)
        axis.set_yticks(range(len(engines)), engines)
        axis.set_xscale("symlog", linthresh=0.1)
        axis.set(title=name, xlabel="residual energy, %")
        axis.margins(x=0.08, y=0.15)
        axis.grid(alpha=0.3)
    title = f"best of a run of {options.seconds:g} s on one thread, over the lowest energy known"
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
