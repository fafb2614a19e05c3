"""What a study found: one table, a row per cell of its grid, and a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsample.cli.study.costs import Cost, cost_of
from qsample.cli.study.folder import State, state_of
from qsample.cli.study.plan import Plan, Planned
from qsample.support.optional import needs

# what a report calls its score: the first that all runs that are done have
SCORES = (
    "test_log_likelihood",
    "log_likelihood",
    "log_likelihood_low",
    "test_pseudo_log_likelihood",
    "pseudo_log_likelihood",
)
MEASURED = ("simulator_seconds", "joules", "joules_per_read", "joules_sources")
"""keys of a report that two runs of one study do not share: times, and what is made of them"""


def report_of(plan: Plan, folder: Path) -> dict[str, Any]:
    """The report, of plain values: the runs, the rows of the table, and the ledger of all costs.

    Args:
        plan: the study.
        folder: its folder.
    """
    states = {run: state_of(run, folder) for run in plan.runs}
    costs = {run: cost_of(folder / run.key) for run in plan.runs}
    results = [state.result for state in states.values() if state.result is not None]
    score = next((name for name in SCORES if results and all(name in r for r in results)), None)
    cells: dict[tuple[Any, ...], list[Planned]] = {}
    for run in plan.runs:
        cells.setdefault(run.cell, []).append(run)
    total = sum(costs.values(), Cost())
    return {
        "study": plan.path.name,
        "about": plan.about,
        "score": score,
        "runs": [_run(run, states[run], costs[run]) for run in plan.runs],
        "rows": [_row(cell, runs, states, costs, score) for cell, runs in cells.items()],
        "ledger": _costs(total),
    }


def _run(run: Planned, state: State, cost: Cost) -> dict[str, Any]:
    """One run."""
    words = {"error": state.text} if state.name == "failed" else {}
    return {
        "key": run.key,
        **run.labels,
        "state": state.name,
        **words,
        "result": state.result,
        **_costs(cost),
    }


def _costs(cost: Cost) -> dict[str, Any]:
    """Costs by their names."""
    joules = cost.joules if cost.reads else None
    return {
        "qpu_us": cost.qpu_us,
        "spin_updates": cost.spin_updates,
        "simulator_seconds": cost.simulator_seconds,
        "joules": joules,
        "joules_per_read": None if joules is None else joules / cost.reads,
        "joules_sources": list(cost.sources),
    }


def _row(
    cell: tuple[Any, ...],
    runs: Sequence[Planned],
    states: dict[Planned, State],
    costs: dict[Planned, Cost],
    score: str | None,
) -> dict[str, Any]:
    """One row: means over the runs of a cell that are done, and what all of them cost together."""
    done = [result for run in runs if (result := states[run].result) is not None]
    row: dict[str, Any] = {**dict(cell), "runs": len(runs), "done": len(done)}
    if score is not None:
        row |= _mean("score", [float(result[score]) for result in done])
    row |= _mean("beta", [float(r["beta"]) for r in done if r.get("beta") is not None])
    return row | _costs(sum((costs[run] for run in runs), Cost()))


def _mean(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard error of the mean; None where there are too few."""
    if not values:
        return {name: None, f"{name}_stderr": None}
    mean = sum(values) / len(values)
    stderr = None
    if len(values) > 1:
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        stderr = math.sqrt(variance / len(values))
    return {name: mean, f"{name}_stderr": stderr}


# ---- as text ----------------


def table_of(report: dict[str, Any]) -> str:
    """The table as Markdown, with the sources of its joules and the failures below."""
    axes = [name for name in report["rows"][0] if name not in ("runs", "done", *_NUMBERS)]
    score = (report["score"] or "score").replace("_", " ")
    heads = [*axes, "done", score, "beta", "spin updates", "QPU µs", "sampler CPU s", "J per read*"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in report["rows"]:
        cells = [
            *(str(row[axis]) for axis in axes),
            f"{row['done']} of {row['runs']}",
            _pair(row.get("score"), row.get("score_stderr"), 3),
            _pair(row["beta"], row["beta_stderr"], 2),
            _number(row["spin_updates"]),
            _number(row["qpu_us"]),
            _number(row["simulator_seconds"]),
            _number(row["joules_per_read"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    total = report["ledger"]
    joules = total["joules"]
    lines += [
        "",
        f"In all: {_number(total['spin_updates'])} spin updates, {_number(total['qpu_us'])} µs of "
        f"QPU time, {_number(total['simulator_seconds'])} CPU seconds of samplers, "
        f"{'joules not known' if joules is None else _number(joules) + ' J (modelled)'}.",
        f"* modelled, power times time. {'; '.join(total['joules_sources']) or 'No reads yet'}.",
    ]
    for run in report["runs"]:
        if run["state"] == "failed":
            labels = ", ".join(f"{k} {run[k]}" for k in (*axes, "seed") if k in run)
            lines.append(f"Failed: {labels}: {run['error']}")
    return "\n".join(lines) + "\n"


_NUMBERS = (
    *(f"{name}{end}" for name in ("score", "beta") for end in ("", "_stderr")),
    *("qpu_us", "spin_updates", *MEASURED),
)


def _pair(value: float | None, stderr: float | None, digits: int) -> str:
    """A mean with its error."""
    if value is None:
        return "–"
    error = "" if stderr is None else f" ± {stderr:.{digits}f}"
    return f"{value:.{digits}f}{error}"


def _number(value: float | None) -> str:
    """A number of a few digits."""
    if value is None:
        return "not known"
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


# ---- as a picture ----------------


def picture_of(report: dict[str, Any], kind: str = "png") -> bytes:
    """Scores of all runs by cell, and over the samplers' time, as the bytes of a file.

    Args:
        report: what `report_of` gives.
        kind: "png", "pdf" or "svg".

    Raises:
        ImportError: matplotlib is not installed.
    """
    with needs("experiments", "a picture"):
        from matplotlib.figure import Figure
    rows = report["rows"]
    axes = [name for name in rows[0] if name not in ("runs", "done", *_NUMBERS)]
    names = [" ".join(str(row[axis]) for axis in axes) for row in rows]
    figure = Figure(figsize=(11.0, 1.8 + 0.35 * len(rows)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    score = report["score"]
    for place, row in enumerate(rows):
        own = [
            run
            for run in report["runs"]
            if run["state"] == "done" and all(run[axis] == row[axis] for axis in axes)
        ]
        if score is None or not own:
            continue
        values = [run["result"][score] for run in own]
        left.plot(values, [place] * len(own), "o", color=f"C{place}", alpha=0.5, ms=5)
        left.plot(row["score"], place, "|", color=f"C{place}", ms=18, mew=2)
        seconds = [run["simulator_seconds"] for run in own]
        right.plot(seconds, values, "o", color=f"C{place}", label=names[place], ms=5)
    left.set_yticks(range(len(rows)), names)
    left.invert_yaxis()
    said = (score or "no run is done").replace("_", " ")
    left.set(xlabel=said, title="a dot per run, a bar for the mean")
    right.set(xlabel="CPU seconds of the sampler", ylabel=said, xscale="log")
    right.set_title("what it cost")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    if right.get_lines():
        right.legend(fontsize=7)
    figure.suptitle(report["about"] or report["study"], fontsize=11)
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()
