"""How far from the Boltzmann law each engine is, against time: total variation and a magnet.

    python experiments/benchmarks/distance.py --out runs/distance

Sixteen spins, all coupled, at beta 1 and 2: the total variation between the reads after more and
more sweeps from random spins and the enumerated law, beside its floor, the mean total variation of
as many independent exact draws (simulated). And a 32 x 32 ferromagnet on a torus at beta 0.40: the
mean energy against Kaufman's exact value. One thread, a process for each engine.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

import qsample as qs
from qsample.annealers import SimulatedAnnealing

sys.path.append(str(Path(__file__).parents[2]))
from experiments.benchmarks.calls import caller, isolated, spins_of
from experiments.benchmarks.instances import make
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar

STYLES = {
    "qsample Gibbs": {"color": "#2166ac", "marker": "o"},
    "qsample Metropolis": {"color": "#67a9cf", "marker": "s"},
    "dwave Gibbs": {"color": "#fdb863", "marker": "o"},
    "dwave Metropolis": {"color": "#b35806", "marker": "s"},
}
MAGNET_BETA = 0.4


@dataclass(frozen=True)
class Options(CommonOptions):
    """Which engines, how many reads."""

    engines: tuple[str, ...] = tuple(STYLES)
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


def main(options: Options) -> None:
    """Measure, print, draw."""
    if options.cell is not None:
        print(json.dumps(cell(options.cell, options)))
        return
    report = Report(options, __file__)
    floors = {beta: floor(exact_law(sixteen(), beta), options.reads) for beta in options.betas}
    engines: list[dict[str, Any]] = []
    for engine in progress_bar(options.engines, unit="engine"):
        result = isolated(__file__, "--cell", engine, *arguments(options))
        if isinstance(result, str):
            print(f"left out: {engine} ({result})")
            continue
        engines.append(result)
        show(result, floors)
    result = {"reads": options.reads, "floors": floors, "engines": engines}
    report.finish(result, picture(engines, floors, options))


def arguments(options: Options) -> list[Any]:
    """The sizes, for the command line of a cell."""
    sizes = ["--reads", options.reads, "--size", options.size]
    sizes += ["--chains", options.chains, "--relax", options.relax]
    return [*sizes, "--betas", *options.betas, "--sweeps", *options.sweeps]


def sixteen() -> qs.Ising:
    """Sixteen spins, all coupled: J normal of variance 1/16, h of deviation 0.2."""
    n = 16
    rng = np.random.default_rng(1)
    J = torch.zeros(n, n)
    values = rng.normal(0, n**-0.5, n * (n - 1) // 2)
    J[tuple(torch.triu_indices(n, n, 1))] = torch.tensor(values).float()
    h = torch.tensor(rng.normal(0, 0.2, n)).float()
    return qs.Ising(qs.Graph.complete(n), h, J + J.T)


def exact_law(problem: qs.Ising, beta: float) -> np.ndarray:
    """Probabilities of all states, spin 0 the lowest bit."""
    n = problem.num_spins
    bits = (torch.arange(1 << n)[:, None] >> torch.arange(n)) & 1
    energy = problem.to(dtype=torch.float64).energy(bits.to(torch.int8) * 2 - 1)
    return (-beta * energy).softmax(0).numpy()


def floor(law: np.ndarray, reads: int) -> float:
    """Mean total variation of as many independent exact draws, by simulation."""
    counts = np.random.default_rng(0).multinomial(reads, law / law.sum(), 20)
    return float(np.abs(counts / reads - law).sum(1).mean() / 2)


def torus_energy(beta: float, size: int) -> float:
    """Mean energy of the ferromagnet J = -1 on a size x size torus: -d log Z / d beta."""
    step = 1e-4
    return -(torus_log_z(beta + step, size) - torus_log_z(beta - step, size)) / (2 * step)


def torus_log_z(K: float, size: int) -> float:
    """Kaufman's exact sum, Phys. Rev. 76, 1232 (1949), less a constant.

    Half of four products over odd or even r: 2 cosh and 2 sinh of size gamma_r / 2, with
    cosh gamma_r = cosh 2K coth 2K - cos(pi r / size).
    """
    r = np.arange(2 * size)
    cosh = np.cosh(2 * K) / np.tanh(2 * K) - np.cos(np.pi * r / size)
    gamma = np.arccosh(np.maximum(cosh, 1))
    gamma[0] = 2 * K + np.log(np.tanh(K))  # negative in the disordered phase
    x = np.abs(gamma) * size / 2
    logs = [
        (half + np.log1p(sign * np.exp(-2 * half))).sum()
        for half in (x[1::2], x[::2])
        for sign in (1, -1)
    ]
    signs = np.array([1, 1, 1, np.sign(gamma[0])])
    top = max(logs)
    products = (signs * np.exp(np.array(logs) - top)).sum()
    return size**2 / 2 * np.log(2 * np.sinh(2 * K)) + top + np.log(products)


def draw(
    engine: str, problem: qs.Ising, beta: float, sweeps: int, reads: int
) -> tuple[np.ndarray, float]:
    """Reads `[R, n]` after sweeps at constant beta from random spins, and seconds of the call.

    Args:
        engine: engine by name.
        problem: instance.
        beta: inverse temperature of every sweep.
        sweeps: sweeps of each read.
        reads: number of reads, R.
    """
    betas = [beta] * sweeps
    if engine.startswith("qsample"):
        rule = "metropolis" if "Metropolis" in engine else "gibbs"
        sampler = SimulatedAnnealing(schedule=betas, rule=rule)
        generator = torch.Generator().manual_seed(1)
        watch = Stopwatch()
        spins = sampler.sample(problem, reads, generator=generator).spins
        return spins.numpy(), watch.read().wall
    call = caller(engine, problem, betas, reads, warm=False)
    watch = Stopwatch()
    (sampleset,) = call()
    seconds = watch.read().wall
    return spins_of(sampleset), seconds


def cell(engine: str, options: Options) -> dict[str, Any]:
    """All measurements of an engine; in a process of its own."""
    torch.set_num_threads(1)
    problem = sixteen()
    draw(engine, problem, 1.0, 1, 64)  # lays out the graph
    rows: list[dict[str, Any]] = []
    for beta in options.betas:
        law = exact_law(problem, beta)
        for sweeps in options.sweeps:
            spins, seconds = draw(engine, problem, beta, sweeps, options.reads)
            state = (spins > 0).astype(np.int64) @ (1 << np.arange(16))
            share = np.bincount(state, minlength=len(law)) / options.reads
            distance = float(np.abs(share - law).sum() / 2)
            row = {"beta": beta, "sweeps": sweeps, "seconds": seconds}
            rows.append(row | {"total_variation": distance})
    return {"engine": engine, "sixteen": rows, "torus": torus(engine, options)}


def torus(engine: str, options: Options) -> dict[str, float]:
    """Mean energy of the magnet by an engine, beside the exact one."""
    magnet = make(f"2d-{options.size}")
    spins, seconds = draw(engine, magnet, MAGNET_BETA, options.relax, options.chains)
    energy = magnet.to(dtype=torch.float64).energy(torch.tensor(spins))
    mean = float(energy.mean())
    stderr = float(energy.std()) / len(energy) ** 0.5
    exact = torus_energy(MAGNET_BETA, options.size)
    return {
        "energy": mean,
        "stderr": stderr,
        "exact": exact,
        "z": (mean - exact) / stderr,
        "seconds": seconds,
    }


def show(result: dict[str, Any], floors: dict[float, float]) -> None:
    """Print an engine's figures."""
    name = result["engine"]
    for row in result["sixteen"]:
        print(
            f"{name:19} beta {row['beta']:g}, {row['sweeps']:3} sweeps, "
            f"{1e3 * row['seconds']:8.1f} ms: total variation {row['total_variation']:.4f}, "
            f"floor {floors[row['beta']]:.4f}"
        )
    print(
        "{name:19} torus at beta 0.4: energy {energy:.2f} ± {stderr:.2f}, exact {exact:.2f} "
        "(z = {z:+.1f}), {seconds:.2f} s".format(name=name, **result["torus"])
    )


def picture(engines: list[dict[str, Any]], floors: dict[float, float], options: Options) -> Figure:
    """Total variation against time, a panel for each beta, with the floor of exact draws.

    Args:
        engines: results of the engines.
        floors: total variation of independent exact draws, by beta.
        options: options of the run.
    """
    size = (4.6 * len(floors), 3.8)
    figure, axes = plt.subplots(1, len(floors), figsize=size, sharey=True, squeeze=False)
    for axis, beta in zip(axes[0], floors, strict=True):
        axis.axhline(floors[beta], color="black", lw=1, ls="--", label="independent exact draws")
        for result in engines:
            rows = [row for row in result["sixteen"] if row["beta"] == beta]
            seconds = [row["seconds"] for row in rows]
            distances = [row["total_variation"] for row in rows]
            style: dict[str, Any] = STYLES.get(
                result["engine"], {"color": "#999999", "marker": "^"}
            )
            axis.plot(seconds, distances, label=result["engine"], markersize=5, **style)
        axis.set(xscale="log", yscale="log", title=f"beta {beta:g}")
        axis.set_xlabel(f"seconds for {options.reads:,} reads")
        axis.grid(alpha=0.3, which="both")
        axis.yaxis.set_major_locator(FixedLocator([0.02, 0.05, 0.1, 0.2, 0.5, 1.0]))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
    axes[0][0].set_ylabel("total variation to the exact law")
    axes[0][-1].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
