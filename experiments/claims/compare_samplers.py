"""Every sampler on the same problems: distance to the exact law, effective beta, time.

    python experiments/claims/compare_samplers.py --out runs/compare_samplers

Problems of 12 spins are enumerated, so the total variation between the reads and exp(-E) is known;
beside it stands what the same number of exact draws would show. A right sampler sits on that floor
with an effective beta of 1.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import qsample as qs
from qsample.annealers import Corrected, DimodAnnealer, Exact, Gibbs, Neal, SimulatedAnnealing
from qsample.testing import g_test

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar

COLOURS = {"exact": "#1b7837", "asymptotic": "#2166ac", "heuristic": "#b35806"}
MARKERS = "os^"


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to compare."""

    reads: int = 50_000
    """reads of each sampler"""
    coupling: float = 1.5
    """coupling strength: 1 is where quick anneals start to fail, 2 is cold"""
    seed: int = 0
    """seed of the problems and of the samplers"""


def main(options: Options) -> None:
    """Run the comparison."""
    report = Report(options, __file__)
    cells = product(problems(options.coupling, options.seed).items(), samplers().items())
    rows: list[dict[str, Any]] = []
    for (kind, problem), (name, sampler) in progress_bar(list(cells), unit="cell"):
        rows.append({"problem": kind, "sampler": name, **measure(problem, sampler, options)})
    for row in rows:
        print(
            "{problem:16} {sampler:34} {exactness:11} TV {total_variation:.4f} (floor {floor:.4f})"
            "  beta {beta:.3f} ± {beta_stderr:.3f}  {seconds:6.2f} s".format(**row)
        )
    report.finish(rows, picture(rows, options))


def problems(coupling: float, seed: int) -> dict[str, qs.Ising]:
    """One 12-spin problem of each kind of graph."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    site = torch.arange(12).reshape(3, 4)
    pairs = [torch.stack([site, site.roll(-1, axis)], -1).reshape(-1, 2) for axis in (0, 1)]
    edges = torch.cat(pairs)
    J = normal(12, 12).triu(1) * coupling / 12**0.5
    torus = qs.Graph.sparse(12, edges)
    sides = qs.Graph.bipartite(6, 6)
    return {
        "3 x 4 torus": qs.Ising(torus, 0.2 * normal(12), coupling * normal(len(edges))),
        "6 x 6 bipartite": qs.Ising(sides, 0.2 * normal(12), coupling / 6**0.5 * normal(6, 6)),
        "12 complete": qs.Ising(qs.Graph.complete(12), 0.2 * normal(12), J + J.mT),
    }


def samplers() -> dict[str, Any]:
    """The samplers compared, most of them twice: hurried and patient."""
    from dwave.samplers import SimulatedAnnealingSampler

    hurried = 10
    patient = 300
    linear: dict[str, Any] = {"beta_range": (0.0, 1.0), "schedule": "linear"}
    corrected = Corrected(Neal(hurried, **linear), Gibbs(hurried))
    return {
        "Exact": Exact(),
        f"Gibbs, {hurried} sweeps": Gibbs(hurried),
        f"Gibbs, {patient} sweeps": Gibbs(patient),
        f"SimulatedAnnealing, {hurried}": SimulatedAnnealing(hurried, **linear),
        f"SimulatedAnnealing, {patient}": SimulatedAnnealing(patient, **linear),
        f"Neal, {hurried}": Neal(hurried, **linear),
        f"Neal, {patient}": Neal(patient, **linear),
        f"Corrected(Neal {hurried}, Gibbs {hurried})": corrected,
        "dwave-samplers' defaults": DimodAnnealer(SimulatedAnnealingSampler(), num_sweeps=patient),
    }


def measure(problem: qs.Ising, sampler: Any, options: Options) -> dict[str, Any]:
    """Distance to the law, effective beta and time of a sampler on a problem.

    Args:
        problem: enumerable problem.
        sampler: sampler.
        options: options of the run.
    """
    generator = torch.Generator().manual_seed(options.seed)
    watch = Stopwatch()
    samples = sampler.sample(problem, options.reads, generator=generator)
    wall, cpu = watch.read()
    p_value, distance, floor = g_test(problem, samples)[0]
    beta = qs.effective_beta(problem, samples)
    return {
        "exactness": samples.exactness.value,
        "total_variation": distance,
        "floor": floor,
        "p_value": p_value,
        "beta": beta.value,
        "beta_stderr": beta.stderr,
        "seconds": wall,
        "cpu_seconds": cpu,
    }


def picture(rows: list[dict[str, Any]], options: Options) -> Figure:
    """Three columns (distance, beta, time), a line for each sampler, a mark for each problem."""
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    kinds = list(dict.fromkeys(row["problem"] for row in rows))
    size = (13, 0.5 * len(names) + 1.8)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=size, sharey=True)
    for row in rows:
        kind = kinds.index(row["problem"])
        y = len(names) - names.index(row["sampler"]) + 0.22 * (1 - kind)
        colour = COLOURS[row["exactness"]]
        marker = MARKERS[kind]
        ends = [row["floor"], row["total_variation"]]
        left.plot(ends, [y, y], color=colour, lw=1, alpha=0.6)
        left.plot(row["floor"], y, "|", color="black", ms=9)
        left.plot(row["total_variation"], y, marker, color=colour, ms=6)
        right.plot(row["seconds"], y, marker, color=colour, ms=6)
        if row["beta"] < 2:
            error = 2 * row["beta_stderr"]
            style = {"fmt": marker, "color": colour, "ms": 6, "capsize": 2}
            middle.errorbar(row["beta"], y, xerr=error, **style)
        else:  # off the scale: an optimiser
            text = f"{row['beta']:.3g} →" if math.isfinite(row["beta"]) else "∞ →"
            edge = middle.get_yaxis_transform()
            style = {"ha": "right", "va": "center", "color": colour, "fontsize": 8}
            middle.text(0.98, y, text, transform=edge, **style)
    left.set(xscale="log", xlabel="total variation to the exact law\n(bar: what exact draws show)")
    middle.axvline(1, color="black", lw=0.8)
    middle.set(xlabel="effective beta, ± 2 standard errors\n(1 is right)")
    thread = f"({options.threads} torch thread)"
    right.set(xscale="log", xlabel=f"seconds for {options.reads:,} reads\n{thread}")
    left.set_yticks(range(1, len(names) + 1), names[::-1])
    for axis in (left, middle, right):
        axis.grid(axis="x", alpha=0.3)
    handles = [Line2D([], [], color=COLOURS[tag], marker="s", ls="", label=tag) for tag in COLOURS]
    for k, kind in enumerate(kinds):
        handles.append(Line2D([], [], color="gray", marker=MARKERS[k], ls="", label=kind))
    figure.legend(handles=handles, loc="upper center", ncol=6, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    return figure


if __name__ == "__main__":
    command_line(main, Options)
