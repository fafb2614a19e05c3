"""How far from the Boltzmann law each engine is, against the time it takes: total variation and the energy of a magnet.

    python experiments/bench_distance.py --out runs/bench_distance

Sixteen spins, all coupled, at beta 1 and 2: the total variation between the reads after more and more sweeps from
random spins and the enumerated law, beside its floor, the mean total variation of as many independent exact draws
(simulated). And a 32 x 32 ferromagnet on a torus at beta 0.40: the mean energy against Kaufman's exact value. One
thread, a process for each engine. Writes results.json and distance.png.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_engine
import matplotlib
import numpy as np
import torch
import tyro

import qsample as qs
from qsample.annealers import SimulatedAnnealing
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, NullLocator

COLOURS = {"qsample Gibbs": "#2166ac", "qsample Metropolis": "#67a9cf"}
COLOURS |= {"dwave Gibbs": "#fdb863", "dwave Metropolis": "#b35806"}
MARKERS = {
    "qsample Gibbs": "o",
    "qsample Metropolis": "s",
    "dwave Gibbs": "o",
    "dwave Metropolis": "s",
}


@dataclass(frozen=True)
class Options:
    """Which engines, how many reads."""

    out: Path = Path("runs/bench_distance")
    """folder for results.json and distance.png"""
    engines: tuple[str, ...] = (
        "qsample Gibbs",
        "qsample Metropolis",
        "dwave Gibbs",
        "dwave Metropolis",
    )
    """which engines; openjij is another, but makes its reads one by one"""
    betas: tuple[float, ...] = (1.0, 2.0)
    """inverse temperatures of the sixteen spins"""
    sweeps: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50, 100)
    """sweeps from random spins"""
    reads: int = 65536
    """reads of the sixteen spins"""
    size: int = 32
    """side of the ferromagnet"""
    chains: int = 512
    """independent chains of the ferromagnet"""
    relax: int = 500
    """sweeps of each chain; neighbours forget each other in tens of sweeps at beta 0.40"""
    cell: str | None = None
    """an engine: measure just that, in this process, and print the rows as JSON"""


def sixteen() -> qs.Ising:
    """Sixteen spins, all coupled: J normal of variance 1/16, h of deviation 0.2."""
    rng, n = np.random.default_rng(1), 16
    J, values = torch.zeros(n, n), rng.normal(0, n**-0.5, n * (n - 1) // 2)
    J[tuple(torch.triu_indices(n, n, 1))] = torch.tensor(values).float()
    return qs.Ising(qs.Graph.complete(n), torch.tensor(rng.normal(0, 0.2, n)).float(), J + J.T)


def exact_law(problem: qs.Ising, beta: float) -> np.ndarray:
    """Probabilities of all states, spin 0 the lowest bit."""
    n = problem.num_spins
    states = ((torch.arange(1 << n)[:, None] >> torch.arange(n)) & 1).to(torch.int8) * 2 - 1
    return (-beta * problem.to(dtype=torch.float64).energy(states)).softmax(0).numpy()


def torus_energy(beta: float, size: int) -> float:
    """Mean energy of the ferromagnet J = -1 on a size x size torus: Kaufman's exact sum, Phys. Rev. 76, 1232 (1949)."""

    def log_z(K: float) -> float:
        r = np.arange(2 * size)
        gamma = np.arccosh(
            np.maximum(np.cosh(2 * K) / np.tanh(2 * K) - np.cos(np.pi * r / size), 1)
        )
        gamma[0] = 2 * K + np.log(np.tanh(K))  # negative in the disordered phase
        x = np.abs(gamma) * size / 2
        logs = [
            (y + np.log1p(sign * np.exp(-2 * y))).sum()
            for y in (x[1::2], x[::2])
            for sign in (1, -1)
        ]
        signs = np.array([1, 1, 1, np.sign(gamma[0])])
        top = max(logs)
        return (
            size**2 / 2 * np.log(2 * np.sinh(2 * K))
            + top
            + np.log((signs * np.exp(np.array(logs) - top)).sum())
        )

    step = 1e-4
    return -(log_z(beta + step) - log_z(beta - step)) / (2 * step)


def draw(
    engine: str, problem: qs.Ising, beta: float, sweeps: int, reads: int
) -> tuple[np.ndarray, float]:
    """Reads `[R, n]` after sweeps at constant beta from random spins, and the seconds of the call."""
    if engine.startswith("qsample"):
        rule = "metropolis" if "Metropolis" in engine else "gibbs"
        sampler = SimulatedAnnealing(schedule=[beta] * sweeps, rule=rule)
        start = time.perf_counter()
        spins = sampler.sample(problem, reads, generator=torch.Generator().manual_seed(1)).spins
        return spins.numpy(), time.perf_counter() - start
    call = bench_engine.caller(engine, problem, [beta] * sweeps, reads, False)
    start = time.perf_counter()
    (found,) = call()
    seconds = time.perf_counter() - start
    return found.record.sample[:, np.argsort(np.asarray(found.variables, dtype=int))], seconds


def cell(engine: str, o: Options) -> dict[str, Any]:
    """All measurements of an engine; in a process of its own."""
    torch.set_num_threads(1)
    problem, rows = sixteen(), []
    draw(engine, problem, 1.0, 1, 64)  # to warm up
    for beta in o.betas:
        law = exact_law(problem, beta)
        for sweeps in o.sweeps:
            spins, seconds = draw(engine, problem, beta, sweeps, o.reads)
            state = (spins > 0).astype(np.int64) @ (1 << np.arange(16))
            distance = np.abs(np.bincount(state, minlength=len(law)) / o.reads - law).sum() / 2
            rows.append(
                {
                    "beta": beta,
                    "sweeps": sweeps,
                    "seconds": seconds,
                    "total_variation": float(distance),
                }
            )
    magnet = bench_engine.make(f"2d-{o.size}")
    spins, seconds = draw(engine, magnet, 0.4, o.relax, o.chains)
    energy = magnet.to(dtype=torch.float64).energy(torch.tensor(spins))
    exact, error = torus_energy(0.4, o.size), float(energy.std()) / len(energy) ** 0.5
    torus = {"energy": float(energy.mean()), "stderr": error, "exact": exact, "seconds": seconds}
    return {
        "engine": engine,
        "sixteen": rows,
        "torus": torus | {"z": (float(energy.mean()) - exact) / error},
    }


def main(o: Options) -> None:
    """Measure, print, draw."""
    sizes = ["--reads", o.reads, "--size", o.size, "--chains", o.chains, "--relax", o.relax]
    sizes += ["--betas", *o.betas, "--sweeps", *o.sweeps]
    if o.cell is not None:
        print(json.dumps(cell(o.cell, o)))
        return
    o.out.mkdir(parents=True, exist_ok=True)
    dice, problem, found = np.random.default_rng(0), sixteen(), []
    floors = {}
    for beta in o.betas:
        law = exact_law(problem, beta)
        draws = dice.multinomial(o.reads, law / law.sum(), 20) / o.reads
        floors[beta] = float(np.abs(draws - law).sum(1).mean() / 2)
    for engine in progress_bar(o.engines, unit="engine"):
        result = bench_engine.isolated(__file__, "--cell", engine, *sizes)
        if isinstance(result, str):
            print(f"left out: {engine} ({result})")
            continue
        found.append(result)
        for row in result["sixteen"]:
            floor = floors[row["beta"]]
            print(
                f"{engine:19} beta {row['beta']:g}, {row['sweeps']:3} sweeps, {1e3 * row['seconds']:8.1f} ms: "
                f"total variation {row['total_variation']:.4f}, floor {floor:.4f}"
            )
        torus = result["torus"]
        print(
            f"{engine:19} torus at beta 0.4: energy {torus['energy']:.2f} ± {torus['stderr']:.2f}, "
            f"exact {torus['exact']:.2f} (z = {torus['z']:+.1f}), {torus['seconds']:.2f} s"
        )
    results = {"about": bench_engine.about(), "reads": o.reads, "floors": floors, "results": found}
    (o.out / "results.json").write_text(json.dumps(results, indent=1))
    picture(found, floors, o)
    print(f"{o.out / 'results.json'}\n{o.out / 'distance.png'}")


def picture(found: list[dict[str, Any]], floors: dict[float, float], o: Options) -> None:
    """Total variation against time, a panel a beta, with the floor of independent exact draws."""
    figure, axes = plt.subplots(
        1, len(floors), figsize=(4.6 * len(floors), 3.8), sharey=True, squeeze=False
    )
    for axis, (beta, floor) in zip(axes[0], floors.items(), strict=True):
        axis.axhline(floor, color="black", lw=1, ls="--", label="independent exact draws")
        for result in found:
            own = [row for row in result["sixteen"] if row["beta"] == beta]
            colour, name = COLOURS.get(result["engine"], "#999999"), result["engine"]
            x, y = [row["seconds"] for row in own], [row["total_variation"] for row in own]
            axis.plot(x, y, marker=MARKERS.get(name, "^"), color=colour, label=name, markersize=5)
        axis.set(
            xscale="log",
            yscale="log",
            title=f"beta {beta:g}",
            xlabel=f"seconds for {o.reads:,} reads",
        )
        axis.grid(alpha=0.3, which="both")
        axis.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
    axes[0][0].set_ylabel("total variation to the exact law")
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(o.out / "distance.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
