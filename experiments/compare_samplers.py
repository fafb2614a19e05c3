"""Every sampler on the same problems: distance to the exact law, effective beta, time. JSON and a picture.

    python experiments/compare_samplers.py --out runs/compare_samplers

Problems of 12 spins are enumerated, so the total variation between the reads and exp(-E) is known; beside it stands
what the same number of exact draws would show. A right sampler sits on that floor with an effective beta of 1.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import Corrected, DimodAnnealer, Exact, Gibbs, Neal, SimulatedAnnealing
from qsample.support.progress import progress_bar
from qsample.testing import g_test

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D


@dataclass(frozen=True)
class Options:
    """What to compare."""

    out: Path = Path("runs/compare_samplers")
    """folder for results.json and comparison.png"""
    reads: int = 50_000
    """reads of each sampler"""
    coupling: float = 1.5
    """coupling strength: 1 is where quick anneals start to fail, 2 is cold"""
    seed: int = 0
    """of the problems and of the samplers"""
    threads: int = 1
    """torch threads"""


def problems(coupling: float, seed: int) -> dict[str, qs.Ising]:
    """One 12-spin problem of each kind of graph."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    place = torch.arange(12).reshape(3, 4)
    edges = torch.cat(
        [torch.stack([place, place.roll(-1, axis)], -1).reshape(-1, 2) for axis in (0, 1)]
    )
    J = normal(12, 12).triu(1) * coupling / 12**0.5
    return {
        "3 x 4 torus": qs.Ising(
            qs.Graph.sparse(12, edges), 0.2 * normal(12), coupling * normal(len(edges))
        ),
        "6 x 6 bipartite": qs.Ising(
            qs.Graph.bipartite(6, 6), 0.2 * normal(12), coupling / 6**0.5 * normal(6, 6)
        ),
        "12 complete": qs.Ising(qs.Graph.complete(12), 0.2 * normal(12), J + J.mT),
    }


def samplers() -> dict[str, Any]:
    """The samplers compared, most of them twice: hurried and patient."""
    from dwave.samplers import SimulatedAnnealingSampler

    hurried, patient = 10, 300
    linear: dict[str, Any] = {"beta_range": (0.0, 1.0), "schedule": "linear"}
    return {
        "Exact": Exact(),
        f"Gibbs, {hurried} sweeps": Gibbs(hurried),
        f"Gibbs, {patient} sweeps": Gibbs(patient),
        f"SimulatedAnnealing, {hurried}": SimulatedAnnealing(hurried, **linear),
        f"SimulatedAnnealing, {patient}": SimulatedAnnealing(patient, **linear),
        f"Neal, {hurried}": Neal(hurried, **linear),
        f"Neal, {patient}": Neal(patient, **linear),
        f"Corrected(Neal {hurried}, Gibbs {hurried})": Corrected(
            Neal(hurried, **linear), Gibbs(hurried)
        ),
        "dwave-samplers' defaults": DimodAnnealer(SimulatedAnnealingSampler(), num_sweeps=patient),
    }


def main(options: Options) -> None:
    """Run the comparison."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    cells = [
        (p, s) for p in problems(options.coupling, options.seed).items() for s in samplers().items()
    ]
    for (problem_name, problem), (name, sampler) in progress_bar(cells, unit="cell"):
        generator = torch.Generator().manual_seed(options.seed)
        wall, cpu = time.perf_counter(), time.process_time()
        samples = sampler.sample(problem, options.reads, generator=generator)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        p_value, distance, floor = g_test(problem, samples)[0]
        beta = qs.effective_beta(problem, samples)
        row = {"problem": problem_name, "sampler": name, "exactness": samples.exactness.value}
        row |= {"total_variation": distance, "floor": floor, "p_value": p_value}
        rows.append(
            row
            | {"beta": beta.value, "beta_stderr": beta.stderr, "seconds": wall, "cpu_seconds": cpu}
        )
    finite = json.loads(
        json.dumps(rows), parse_constant=lambda _: None
    )  # JSON has no infinity: null
    (options.out / "results.json").write_text(
        json.dumps({"reads": options.reads, "results": finite}, indent=1)
    )
    for row in rows:
        print(
            f"{row['problem']:16} {row['sampler']:34} {row['exactness']:11} TV {row['total_variation']:.4f} "
            f"(floor {row['floor']:.4f})  beta {row['beta']:.3f} ± {row['beta_stderr']:.3f}  {row['seconds']:6.2f} s"
        )
    picture(rows, options)
    print(f"{options.out / 'results.json'}\n{options.out / 'comparison.png'}")


def picture(rows: list[dict[str, Any]], options: Options) -> None:
    """Three columns (distance, beta, time), one line a sampler, one mark a problem."""
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    kinds = list(dict.fromkeys(row["problem"] for row in rows))
    colours = {"exact": "#1b7837", "asymptotic": "#2166ac", "heuristic": "#b35806"}
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 0.5 * len(names) + 1.8), sharey=True
    )
    for row in rows:
        y = len(names) - names.index(row["sampler"]) + 0.22 * (1 - kinds.index(row["problem"]))
        colour, marker = colours[row["exactness"]], "os^"[kinds.index(row["problem"])]
        left.plot([row["floor"], row["total_variation"]], [y, y], color=colour, lw=1, alpha=0.6)
        left.plot(row["floor"], y, "|", color="black", ms=9)
        left.plot(row["total_variation"], y, marker, color=colour, ms=6)
        if row["beta"] < 2:
            middle.errorbar(
                row["beta"],
                y,
                xerr=2 * row["beta_stderr"],
                fmt=marker,
                color=colour,
                ms=6,
                capsize=2,
            )
        else:  # off the scale: an optimiser
            text = "∞ →" if row["beta"] == float("inf") else f"{row['beta']:.3g} →"
            edge = middle.get_yaxis_transform()
            middle.text(
                0.98, y, text, transform=edge, ha="right", va="center", color=colour, fontsize=8
            )
        right.plot(row["seconds"], y, marker, color=colour, ms=6)
    left.set(xscale="log", xlabel="total variation to the exact law\n(bar: what exact draws show)")
    middle.axvline(1, color="black", lw=0.8)
    middle.set(xlabel="effective beta, ± 2 standard errors\n(1 is right)")
    right.set(
        xscale="log",
        xlabel=f"seconds for {options.reads:,} reads\n({options.threads} torch thread)",
    )
    left.set_yticks(range(1, len(names) + 1), names[::-1])
    for axis in (left, middle, right):
        axis.grid(axis="x", alpha=0.3)
    handles = [Line2D([], [], color=c, marker="s", ls="", label=tag) for tag, c in colours.items()]
    handles += [
        Line2D([], [], color="gray", marker="os^"[i], ls="", label=k) for i, k in enumerate(kinds)
    ]
    figure.legend(handles=handles, loc="upper center", ncol=6, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(options.out / "comparison.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
