"""The best energy after equal time on one thread: ours and other packages', on spin glasses.

    python experiments/bench_energy.py --out runs/bench_energy

Instances are those of bench_engine.py. A pilot sizes the sweeps of each engine to the time allowed, by processor time,
so that a busy machine takes none away; the betas of annealing run linearly over the range of the instance. Residuals
are over `KNOWN`, energies near the ground state; a negative one beats it. Writes results.json and energy.png.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_engine
import matplotlib
import numpy as np
import torch
import tyro

import qsample as qs
from qsample.annealers import ParallelTempering, SimulatedAnnealing
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Run = Callable[[int, int], torch.Tensor]  # (sweeps, seed) to the spins found, [R, n]
ENGINES = ("qsample tempering", "qsample annealing", "dwave Metropolis", "dwave Gibbs", "openjij")
READS = 64
# The lowest energies of a minute of annealing on two cores: estimates from above, which a run may beat.
KNOWN = {"pegasus-16": -8934.7, "3d-16": -7312.0, "sk-1000": -754.80}
# Temperatures of a ladder: dense where replicas stop to move, a few at the end where they only come to rest.
LADDERS = {
    "pegasus": [*np.linspace(1, 4, 56), *np.geomspace(4.5, 16, 8)],
    "3d": [*np.geomspace(1, 3, 60), 3.3, 3.6, 3.8, 4],
    "sk": [*np.geomspace(0.5, 8, 32)],
}


@dataclass(frozen=True)
class Options:
    """Where to look, and for how long."""

    out: Path = Path("runs/bench_energy")
    """folder for results.json and energy.png"""
    problems: tuple[str, ...] = ("pegasus-16", "3d-16", "sk-1000")
    """which instances"""
    engines: tuple[str, ...] = ENGINES
    """which engines"""
    seconds: float = 5.0
    """processor time of a run"""
    seeds: int = 3
    """runs of each"""
    cell: tuple[str, str, int] | None = None
    """a problem, an engine and a seed: run just that, in this process, and print the row as JSON"""


def runner(engine: str, problem: qs.Ising, kind: str) -> Run:
    """A run of an engine on a problem. Everything anneals to the same beta, where 64 reads are kept."""
    first, last = bench_engine.BETAS.get(kind, (0.1, 3.0))
    if engine == "qsample tempering":
        return lambda sweeps, seed: tempering(
            problem, LADDERS.get(kind, LADDERS["3d"]), sweeps, seed
        )
    if engine == "qsample annealing":

        def annealing(sweeps: int, seed: int) -> torch.Tensor:
            sampler = SimulatedAnnealing(sweeps, (first, last), "linear", "metropolis")
            return sampler.sample(
                problem, READS, generator=torch.Generator().manual_seed(seed)
            ).spins

        return annealing

    def other(sweeps: int, seed: int) -> torch.Tensor:
        betas = np.linspace(first, last, sweeps).tolist()
        found = bench_engine.caller(engine, problem, betas, READS, False, seed)()[0]
        order = np.argsort(np.asarray(found.variables, dtype=int))
        return torch.tensor(found.record.sample[:, order])

    return other


def tempering(problem: qs.Ising, betas: list[float], sweeps: int, seed: int) -> torch.Tensor:
    """64 replicas on ladders over `betas`: annealed for 85 % of the sweeps, then tempered, read ten times a ladder.

    The problem is scaled so that the coldest beta is 1; replicas swap every 20 sweeps, since at the kernel's speed a
    swap costs as much as two.
    """
    cold, k = betas[-1], 10
    each = max(1, 3 * sweeps // 20 // k)
    ladder = [*(float(beta / cold) for beta in betas[:-1]), 1.0]
    sampler = ParallelTempering(
        each, ladder, swap_every=20, reads_per_ladder=k, anneal=sweeps - k * each, rule="metropolis"
    )
    num = k * max(1, READS // len(betas))
    return sampler.sample(
        problem.scale(float(cold)), num, generator=torch.Generator().manual_seed(seed)
    ).spins


def cell(name: str, engine: str, seed: int, seconds: float) -> dict[str, Any]:
    """One run of about `seconds`; in a process of its own."""
    torch.set_num_threads(1)
    problem = bench_engine.make(name)
    run = runner(engine, problem, name.partition("-")[0])

    def timed(sweeps: int, seed: int) -> tuple[float, torch.Tensor]:
        start = time.process_time()
        spins = run(sweeps, seed)
        return time.process_time() - start, spins

    run(10, 1000)  # to warm up
    sweeps, taken = 10, 0.0
    while taken < seconds / 8 and sweeps < 10**6:
        sweeps *= 4 if taken > seconds / 100 else 8
        taken, _ = timed(sweeps, 1000)
    sweeps = max(2, int(sweeps * seconds / taken))
    taken, spins = timed(sweeps, seed)
    energy = problem.to(dtype=torch.float64).energy(spins)
    row = {"problem": name, "engine": engine, "seed": seed, "sweeps": sweeps, "seconds": taken}
    return row | {"lowest": float(energy.min()), "mean": float(energy.mean())}


def main(o: Options) -> None:
    """Run all cells, print the residuals, draw them."""
    if o.cell is not None:
        print(json.dumps(cell(*o.cell, o.seconds)))
        return
    o.out.mkdir(parents=True, exist_ok=True)
    cells = [(p, e, seed) for p in o.problems for e in o.engines for seed in range(o.seeds)]
    rows, missing = [], {}
    for name, engine, seed in progress_bar(cells, unit="run"):
        if (name, engine) in missing:
            continue
        row = bench_engine.isolated(__file__, "--cell", name, engine, seed, "--seconds", o.seconds)
        if isinstance(row, str):
            missing[name, engine] = row
        else:
            rows.append(row)
    lowest = {
        p: min(row["lowest"] for row in rows if row["problem"] == p)
        for p in {row["problem"] for row in rows}
    }
    for name, energy in lowest.items():
        if name in KNOWN and energy < KNOWN[name] - 0.05:
            print(f"{name}: {energy:.3f} is lower than {KNOWN[name]}")
    for row in rows:
        known = KNOWN.get(row["problem"], lowest[row["problem"]])
        row["residual_percent"] = 100 * (1 - row["lowest"] / known) if known else 0.0
    for name, engine in dict.fromkeys((row["problem"], row["engine"]) for row in rows):
        own = [row for row in rows if (row["problem"], row["engine"]) == (name, engine)]
        residual = [row["residual_percent"] for row in own]
        sweeps, energy = (
            statistics.median(row["sweeps"] for row in own),
            min(row["lowest"] for row in own),
        )
        print(
            f"{name:12} {engine:19} residual {statistics.median(residual):6.3f} % (best {min(residual):6.3f}, "
            f"worst {max(residual):6.3f}), lowest {energy:10.3f}, {sweeps:.0f} sweeps"
        )
    for (name, engine), reason in missing.items():
        print(f"left out: {engine} on {name} ({reason})")
    results = {
        "about": bench_engine.about() | {"seconds": o.seconds},
        "known": KNOWN,
        "results": rows,
    }
    (o.out / "results.json").write_text(json.dumps(results, indent=1))
    picture(rows, o)
    print(f"{o.out / 'results.json'}\n{o.out / 'energy.png'}")


def picture(rows: list[dict[str, Any]], o: Options) -> None:
    """A panel an instance: the residual of each run, by engine."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))[::-1]
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    figure, axes = plt.subplots(
        1, len(problems), figsize=(4 * len(problems) + 1.5, 3.2), sharey=True, squeeze=False
    )
    for axis, name in zip(axes[0], problems, strict=True):
        for row in (row for row in rows if row["problem"] == name):
            colour = "#2166ac" if row["engine"].startswith("qsample") else "#b35806"
            axis.scatter(
                row["residual_percent"], engines.index(row["engine"]), color=colour, alpha=0.7
            )
        axis.set_yticks(range(len(engines)), engines)
        axis.set_xscale("symlog", linthresh=0.1)
        axis.set(title=name, xlabel="residual energy, %")
        axis.margins(x=0.08, y=0.15)
        axis.grid(alpha=0.3)
    figure.suptitle(
        f"best of a run of {o.seconds:g} s on one thread, over the lowest energy known", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(o.out / "energy.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
