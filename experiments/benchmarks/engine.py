"""The speed of whole sampler calls: ours on every instruction set, and other packages', in rounds.

    python experiments/benchmarks/engine.py             # writes runs/engine/
    python experiments/benchmarks/engine.py --publish   # ... and experiments/results, README

A call is all that a training loop pays: the problem handed over, sweeps, reads and energies back
(for other packages their own problem object is ready beforehand). Each instruction set of this
machine is a process of its own, other packages are another, and in a round all of them take their
turn on a case, so that a slow minute of the machine slows them alike: ratios are within a round,
figures are medians over rounds, processor time stands beside wall time. A package that is not
installed is left out, and the report says so; a row of ours that is missing is an error.

A run that is killed goes on where it was. The published file holds a section for each machine, by
processor and instruction set: publishing replaces that of this one alone.
"""

from __future__ import annotations

import importlib
import random
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.append(str(Path(__file__).parents[2]))
from experiments import readme_table
from experiments.benchmarks.cases import ALL, BASES, Case, case
from experiments.benchmarks.cell import QUICK, Effort, Row, median_row
from experiments.benchmarks.columns import Column
from experiments.benchmarks.instances import sizes
from experiments.benchmarks.journal import Journal
from experiments.common import (
    CommonOptions,
    Report,
    command,
    command_line,
    instruction_sets,
    machine,
    progress_bar,
    published,
    versions,
)

PEERS = ("dwave Metropolis", "dwave Gibbs", "openjij")
PACKAGES = ("dwave-samplers", "dwave-graphs", "openjij")
COLOURS = {
    "avx512": "#053061",
    "avx2": "#2166ac",
    "sse41": "#4393c3",
    "neon": "#1b7837",
    "plain": "#92c5de",
    "dwave Metropolis": "#b35806",
    "dwave Gibbs": "#fdb863",
}
PEER = "times dwave Metropolis"
"""the ratio that is written beside a dot"""
Key = tuple[str, str, str | None, int]
"""case, engine, instruction set, threads"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to time."""

    problems: tuple[str, ...] = tuple(case.name for case in ALL)
    """which rows; "name, R x S" sets reads and sweeps, which are otherwise 64 x 100"""
    isas: tuple[str, ...] = ()
    """which columns: instruction sets; all of this machine by default"""
    peers: tuple[str, ...] = PEERS
    """other packages"""
    rounds: int = 3
    """rounds, in each of which all take their turn"""
    quick: bool = False
    """one round of single calls: whether everything runs, not how fast"""
    remark: str = ""
    """what a reader of the published figures should know of the machine, such as its load"""


def main(options: Options) -> None:
    """Time all cases, print the table, draw it."""
    sets = columns_of(options)
    if options.publish and not whole(options, sets):
        raise SystemExit(
            "only a run of all rows, on the best instruction set or on all, can be published: "
            f"not --quick, 3 rounds or more, and --isas {sets[0]} or none"
        )
    report = Report(options, __file__, PACKAGES)
    journal = Journal(report.folder / "finished.jsonl", settings(options, sets))
    rows, left_out = measure(options, sets, journal)
    section = {
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(options.threads),
        "remark": options.remark,
        "versions": versions(report.packages),
        "numbering": numbering(),
        "rows": rows,
        "left_out": left_out,
    }
    missing = list(lacking(options, sets, rows))
    publish = options.publish and not missing
    sections = merged(published("engine")["result"]["sections"] if publish else [], section)
    print(readme_table.table([section]))
    for line in reasons(left_out):
        print(f"left out: {line}")
    if missing:
        report.write({"sections": sections})
        journal.end()
        raise SystemExit("\n".join(["rows are missing, nothing is published:", *missing]))
    report.finish({"sections": sections}, picture(sections))
    journal.end()
    if publish:
        readme_table.rewrite()


# ---- rows and columns -------------------------------------------------------------------------


def columns_of(options: Options) -> list[str]:
    """Instruction sets to time, the best first.

    Raises:
        SystemExit: One that this machine has not.
    """
    known = instruction_sets()
    unknown = [isa for isa in options.isas if isa not in known]
    if unknown:
        raise SystemExit(f"this machine has {', '.join(known)}; got {', '.join(unknown)}")
    return [isa for isa in known if not options.isas or isa in options.isas]


def whole(options: Options, sets: Sequence[str]) -> bool:
    """Whether a run measures every row of this machine, on its best instruction set at least.

    Lesser ones are measured everywhere; a machine of the best one may be at hand for minutes only.
    """
    every_row = {case.name for case in ALL} <= set(options.problems)
    columns = list(sets) in (instruction_sets(), instruction_sets()[:1])
    return every_row and columns and not options.quick and options.rounds >= 3


def lacking(options: Options, sets: Sequence[str], rows: Sequence[Row]) -> Iterator[str]:
    """Rows of ours that were asked for and are not there.

    Args:
        options: options of the run.
        sets: instruction sets.
        rows: rows that are there.
    """
    there = {key_of(row) for row in rows}
    for name, isa in product(options.problems, sets):
        for threads in case(name).threads:
            if (name, "qsample", isa, threads) not in there:
                yield f"{name}, {isa}, threads: {threads}"


def key_of(row: Row) -> Key:
    """What names a row."""
    return row["problem"], row["engine"], row["isa"], row["threads"]


def reasons(left_out: Iterable[Row]) -> list[str]:
    """Why engines were left out, a line for each engine and reason."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in left_out:
        engine = row["engine"] if row["isa"] is None else f"{row['engine']}, {row['isa']}"
        where.setdefault((engine, row["reason"]), []).append(row["problem"])
    return [
        f"{engine} on {'; '.join(problems)} ({reason})"
        for (engine, reason), problems in where.items()
    ]


def numbering() -> int:
    """The engine's numbering of its random numbers, by which builds are told apart."""
    return getattr(importlib.import_module("qsample.annealers._engine"), "NUMBERING", 1)


def merged(sections: Sequence[Row], section: Row) -> list[Row]:
    """A section, and those of other machines; of older builds, what the table still shows."""
    everywhere = [section, *(other for other in sections if place(other) != place(section))]
    shown = readme_table.chosen(everywhere).values()
    return [
        other
        for other in everywhere
        if other["numbering"] >= section["numbering"] or any(other is used for used in shown)
    ]


def place(section: Row) -> tuple[str, str, str]:
    """What tells machines apart: processor, its model, and its best instruction set."""
    machine = section["machine"]
    return machine["processor"], machine.get("model", ""), machine["instruction_set"]


# ---- rounds -----------------------------------------------------------------------------------


def settings(options: Options, sets: Sequence[str]) -> list[Any]:
    """What finished turns depend on, beside the library itself."""
    return [sets, options.peers, options.quick, machine(1), versions(PACKAGES)]


def measure(options: Options, sets: Sequence[str], journal: Journal) -> tuple[list[Row], list[Row]]:
    """Rows of all cases, and what was left out, and why.

    Args:
        options: options of the run.
        sets: instruction sets.
        journal: where finished turns are kept.
    """
    rounds = 1 if options.quick else options.rounds
    effort = QUICK if options.quick else Effort()
    columns = {isa: Column(isa) for isa in [*sets, None]}
    turns = [(case(name), number) for number in range(rounds) for name in options.problems]
    order = random.Random(0)
    rows: list[Row] = []
    left_out: list[Row] = []
    try:
        with progress_bar(turns, unit="turn") as bar:
            for of_case, number in bar:
                bar.set_description(of_case.name, refresh=False)
                name = f"{of_case.name}, round {number}"
                if name not in journal:
                    part = turn(of_case, columns, options.peers, effort, order)
                    journal.add(name, part)
                if number == rounds - 1:
                    parts = [journal[f"{of_case.name}, round {k}"] for k in range(rounds)]
                    of_rounds = summary([part["rows"] for part in parts])
                    for row in of_rounds:
                        bar.write(told(row), file=sys.stdout)
                    rows += of_rounds
                    left_out += parts[0]["left_out"]
    finally:
        for column in columns.values():
            column.close()
    return rows, left_out


def turn(
    case: Case,
    columns: dict[str | None, Column],
    peers: Sequence[str],
    effort: Effort,
    order: random.Random,
) -> dict[str, list[Row]]:
    """A round of a case: every engine once, in random order.

    Args:
        case: what to call.
        columns: processes, by instruction set; that of None is for other packages.
        peers: other packages' engines.
        effort: how often and how long.
        order: randomness of the order.
    """
    engines = [(isa, "qsample") for isa in columns if isa is not None]
    if case.peers and case.base is None:
        engines += [(None, peer) for peer in peers]
    measured: dict[tuple[str | None, str], list[Row] | str] = {}
    for isa, engine in order.sample(engines, len(engines)):
        measured[isa, engine] = columns[isa].measure(case, engine, effort)
    rows: list[Row] = []
    left_out: list[Row] = []
    for isa, engine in engines:
        result = measured[isa, engine]
        if isinstance(result, str):
            reason = {"problem": case.name, "engine": engine, "isa": isa, "reason": result}
            left_out.append(reason)
        else:
            rows += result
    return {"rows": rows, "left_out": left_out}


def summary(rounds: Sequence[Sequence[Row]]) -> list[Row]:
    """Rows of a case over its rounds: medians, and ratios as medians of those within a round."""
    by_round = [{key_of(row): row for row in rows} for rows in rounds]
    keys = [key for key in by_round[0] if all(key in rows for rows in by_round)]
    rows: list[Row] = []
    for key in keys:
        row = median_row([rows[key] for rows in by_round])
        for other in keys:
            ratios = [rows[other]["seconds"] / rows[key]["seconds"] for rows in by_round]
            if key[1] == "qsample" and other[1] != "qsample":
                row[f"times {other[1]}"] = statistics.median(ratios)
            if other[:3] == key[:3] and (other[3], key[3]) == (1, 2):
                row["times one thread"] = statistics.median(ratios)
        if "base" not in row:
            reads = row["problems"] * row["reads"]
            updates = reads * row["sweeps"] * row["spins"]
            row["updates_per_ns"] = updates / row["seconds"] / 1e9
            row["reads_per_second"] = reads / row["seconds"]
        rows.append(row)
    return rows


def told(row: Row) -> str:
    """A row in a line."""
    name = f"{row['problem']:30} {row['isa'] or row['engine']:16} threads: {row['threads']}"
    clocks = f"wall {1e3 * row['seconds']:9.2f} ms  CPU {1e3 * row['cpu_seconds']:9.2f} ms"
    if "base" in row:
        base = f"{1e3 * row['base_seconds']:.2f} ms, CPU {1e3 * row['base_cpu_seconds']:.2f} ms"
        figures = [f"{row['times_base']:.3f} x {row['base']} ({base})"]
    else:
        figures = [
            f"{row['updates_per_ns']:7.4f} updates/ns {row['reads_per_second']:9.0f} reads/s"
        ]
        keys = [key for key in row if key.startswith("times ")]
        figures += [f"{row[key]:.2f} x {key.removeprefix('times ')}" for key in keys]
    return "  ".join([name, clocks, *figures])


# ---- the picture ------------------------------------------------------------------------------


def picture(sections: Sequence[Row]) -> Figure:
    """Dots by instruction set: speed of calls, and below time over what a case is measured beside.

    Args:
        sections: sections of machines; each instruction set is drawn from that of the table.
    """
    chosen = readme_table.chosen(sections)
    rows = [row for isa in chosen for row in chosen[isa]["rows"] if row["isa"] in (isa, None)]
    calls = [row for row in rows if "base" not in row]
    beside = [row for row in rows if "base" in row]
    names = [name for name in dict.fromkeys(row["problem"] for row in calls)][::-1]
    based = [name for name in dict.fromkeys(row["problem"] for row in beside)][::-1]
    heights = [len(names) + 1, max(1, len(based)) + 0.5]
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(9, 0.5 * sum(heights) + 2), height_ratios=heights
    )
    dots(top, calls, names, "updates_per_ns")
    for row in calls:
        if row["isa"] == next(iter(chosen)) and row["threads"] == 1 and row.get(PEER):
            dot = (row["updates_per_ns"], names.index(row["problem"]))
            top.annotate(f"{row[PEER]:.0f}×", dot, (0, 7), textcoords="offset points")
    top.set_xlabel("spin updates per ns, whole call (×: over dwave Metropolis; open: two threads)")
    top.legend(frameon=False, ncol=4, loc="lower center", bbox_to_anchor=(0.45, 1), fontsize=8)
    dots(bottom, beside, based, "times_base")
    bottom.axvline(1, color="black", ls=":", lw=1)
    bottom.set_xlabel(f"time over that of {', or '.join(dict.fromkeys(BASES.values()))}")
    bottom.set_visible(bool(based))
    figure.tight_layout()
    return figure


def dots(axis: Axes, rows: Sequence[Row], names: Sequence[str], figure: str) -> None:
    """A dot for each row, open for two threads, in the colour of its instruction set or engine.

    Args:
        axis: where to draw.
        rows: rows.
        names: cases, from below.
        figure: key of what is drawn.
    """
    labelled: set[str] = set()
    for row in rows:
        name = row["isa"] or row["engine"]
        colour = COLOURS.get(name, "#999999")
        axis.scatter(
            row[figure],
            names.index(row["problem"]),
            s=60,
            edgecolor=colour,
            facecolor="none" if row["threads"] == 2 and "base" not in row else colour,
            label=None if name in labelled else name,
            zorder=3,
        )
        labelled.add(name)
    labels = ["{}\n{} × {}".format(*sizes(name)) for name in names]
    axis.set_yticks(range(len(names)), labels, fontsize=8)
    axis.set_xscale("log")
    axis.set_ylim(-0.6, max(len(names), 1) - 0.2)
    axis.grid(alpha=0.3)


if __name__ == "__main__":
    command_line(main, Options)
