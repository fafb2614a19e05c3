"""Spin updates per nanosecond of whole sampler calls: ours and other packages', on known problems.

    python experiments/benchmarks/engine.py             # writes runs/engine/
    python experiments/benchmarks/engine.py --publish   # ... and experiments/results, README

Each cell is a process of its own, and the engines of a problem run one after the other, in rounds.
A call is all that a training loop pays: the problem handed over, sweeps, reads and energies back
(for other packages their own problem object is ready beforehand). Figures are medians; processor
time stands beside wall time. An engine that is not installed is left out, and the report says so.
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

sys.path.append(str(Path(__file__).parents[2]))
from experiments import readme_table
from experiments.benchmarks.calls import caller, isolated
from experiments.benchmarks.instances import BETAS, make, sizes
from experiments.common import (
    CommonOptions,
    Report,
    Seconds,
    command_line,
    medians,
    progress_bar,
    timed,
)

SHORTEST = 0.5
"""seconds for which a cell of short calls goes on"""
LONGEST = 5.0
"""seconds after which a slow call is not repeated"""
PEERS = ("dwave Metropolis", "dwave Gibbs")
COLOURS = {
    "qsample": "#2166ac",
    "qsample, 2 threads": "#67a9cf",
    "qsample, 16-bit": "#1b7837",
    "qsample, 16-bit, 2 threads": "#7fbf7b",
    "dwave Metropolis": "#b35806",
    "dwave Gibbs": "#fdb863",
}
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to time."""

    problems: tuple[str, ...] = (
        "pegasus-16",
        "zephyr-15",
        "3d-16",
        "sk-1000",
        "2d-128",
        "rbm-784x500, 64 x 1",
        "shared-512x200, 1 x 20",
        "pegasus-16, 1 x 1000",
        "zephyr-12",
        "zephyr-12, 512 x 100",
    )
    """which problems; "name, R x S" sets reads and sweeps, which are otherwise 64 x 100"""
    engines: tuple[str, ...] = (*COLOURS, "openjij")
    """which engines"""
    repeats: int = 5
    """timed calls of a cell, after one to warm up; more of short calls"""
    rounds: int = 3
    """times that each cell is run"""
    cell: tuple[str, str] | None = None
    """a problem and an engine: time just that, in this process, and print the row as JSON"""


def main(options: Options) -> None:
    """Time all cells, print the ratios, draw them."""
    if options.cell is not None:
        print(json.dumps(cell(*options.cell, options.repeats)))
        return
    report = Report(options, __file__)
    rows: list[Row] = []
    left_out: list[Row] = []
    for name in progress_bar(options.problems, unit="problem"):
        of_problem, missing = measure(name, options)
        rows += of_problem
        left_out += missing
    for row in left_out:
        print("left out: {engine} on {problem} ({reason})".format(**row))
    report.finish({"rows": rows, "left_out": left_out}, picture(rows))
    if options.publish:
        readme_table.rewrite()


def cell(name: str, engine: str, repeats: int) -> Row:
    """Time one engine on one problem; runs in a process of its own.

    Args:
        name: problem, "name, R x S".
        engine: engine, as `caller` names it.
        repeats: timed calls after the first; more where calls are short.
    """
    torch.set_num_threads(1)
    instance, reads, sweeps = sizes(name)
    problem = make(instance)
    kind = instance.partition("-")[0]
    first, last = BETAS.get(kind, (1.0, 1.0))
    betas = np.linspace(first, last, sweeps).tolist()
    call = caller(engine, problem, betas, reads, warm=kind == "rbm")
    call()  # lays out the graph
    seconds: list[Seconds] = []
    while not seconds or sum(s.wall for s in seconds) < enough(len(seconds), repeats):
        seconds.append(timed(call))
    wall, cpu = medians(seconds)
    problems = problem.batch_shape.numel()
    return {
        "problem": name,
        "engine": engine,
        "spins": problem.num_spins,
        "reads": reads,
        "sweeps": sweeps,
        "seconds": wall,
        "fastest": min(s.wall for s in seconds),
        "cpu_seconds": cpu,
        "updates_per_ns": problems * reads * sweeps * problem.num_spins / wall / 1e9,
        "reads_per_second": problems * reads / wall,
    }


def enough(calls: int, repeats: int) -> float:
    """Seconds of calls that end a cell: few for many short calls, more until all are repeated."""
    return LONGEST if calls < repeats else SHORTEST


def measure(name: str, options: Options) -> tuple[list[Row], list[Row]]:
    """All engines on a problem, in rounds: the median row of each, and which are left out, why."""
    rounds: dict[str, list[Row]] = {engine: [] for engine in options.engines}
    missing: dict[str, str] = {}
    for _ in range(options.rounds):
        for engine in options.engines:
            if engine in missing:
                continue
            row = isolated(__file__, "--cell", name, engine, "--repeats", options.repeats)
            if isinstance(row, str):
                missing[engine] = row
            else:
                rounds[engine].append(row)
    rows = {engine: median_row(rounds[engine]) for engine in rounds if rounds[engine]}
    for engine, row in rows.items():
        for peer in PEERS:
            times = rows[peer]["seconds"] / row["seconds"] if peer in rows else None
            row[f"times {peer}"] = times
        print(
            f"{name:24} {engine:27} {row['updates_per_ns']:8.4f} updates/ns "
            f"{1e3 * row['seconds']:9.2f} ms {row['reads_per_second']:9.0f} reads/s "
            f"{row['times dwave Metropolis'] or 0:7.1f} x dwave Metropolis"
        )
    reasons = [{"problem": name, "engine": e, "reason": reason} for e, reason in missing.items()]
    return list(rows.values()), reasons


def median_row(rows: list[Row]) -> Row:
    """The row of the median time; the slower of two."""
    return sorted(rows, key=lambda row: row["seconds"])[len(rows) // 2]


def picture(rows: list[Row]) -> Figure:
    """Updates per nanosecond: a row of dots for each problem, a colour for each engine."""
    names = list(dict.fromkeys(row["problem"] for row in rows))[::-1]
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    figure, axis = plt.subplots(figsize=(9, 0.55 * len(names) + 1.8))
    for engine in engines:
        of_engine = [row for row in rows if row["engine"] == engine]
        place = [names.index(row["problem"]) for row in of_engine]
        values = [row["updates_per_ns"] for row in of_engine]
        colour = COLOURS.get(engine, "#999999")
        axis.scatter(values, place, s=60, color=colour, label=engine, zorder=3)
    for row in rows:
        if row["engine"] == "qsample" and row["times dwave Metropolis"]:
            label = f"{row['times dwave Metropolis']:.0f}×"
            dot = (row["updates_per_ns"], names.index(row["problem"]))
            axis.annotate(label, dot, (0, 7), textcoords="offset points")
    labels = ["{}\n{} × {}".format(*sizes(name)) for name in names]
    axis.set_yticks(range(len(names)), labels, fontsize=8)
    axis.set(xscale="log", xlabel="spin updates per ns, whole call (×: over dwave Metropolis)")
    axis.margins(y=0.12)
    axis.legend(frameon=False, ncol=4, loc="lower center", bbox_to_anchor=(0.45, 1), fontsize=8)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
