"""The README's table of speed, from the committed figures of benchmarks/engine.py.

    python experiments/readme_table.py    # rewrites the lines between the marks in README.md

`engine.py --publish` does the same after a run. A test holds the README to the committed figures.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from experiments.benchmarks.instances import sizes
from experiments.common import ROOT, published

BEGIN = "<!-- engine.json -->\n"
END = "<!-- end of engine.json -->\n"
HEAD = (
    "problem, reads × sweeps",
    "updates/ns",
    "× Metropolis",
    "× its Gibbs",
    "× 16-bit",
    "× two threads",
)
NAMED = ("qsample", "torch", "dwave-samplers")
"""packages whose versions stand under the table"""


def table(report: dict[str, Any]) -> str:
    """The table of a report of engine.py, in Markdown, and what it was measured on."""
    rows = {(row["problem"], row["engine"]): row for row in report["result"]["rows"]}
    lines = [f"| {' | '.join(HEAD)} |", "|---|" + "---|" * (len(HEAD) - 1)]
    for name in dict.fromkeys(problem for problem, _ in rows):
        row = rows.get((name, "qsample"))
        if row is None:
            continue
        instance, reads, sweeps = sizes(name)
        columns = [
            f"{instance}, {reads} × {sweeps}",
            f"{row['updates_per_ns']:.3g}",
            times(row),
            times(row, "dwave Gibbs"),
            times(rows.get((name, "qsample, 16-bit"))),
            times(rows.get((name, "qsample, 2 threads"))),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join([*lines, "", measured_on(report)]) + "\n"


def times(row: dict[str, Any] | None, peer: str = "dwave Metropolis") -> str:
    """How many times the peer's speed; a dash where there is no such row."""
    ratio = row[f"times {peer}"] if row else None
    if not ratio:
        return "–"
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"


def measured_on(report: dict[str, Any]) -> str:
    """Machine and versions of a report."""
    machine = report["machine"]
    width = {"avx512": "AVX-512", "avx2": "AVX2"}.get(machine["instruction_set"], "neither AVX")
    packages = ", ".join(f"{name} {report['versions'][name]}" for name in NAMED)
    where = f"{machine['cores']} cores of {machine['processor']}, {width}"
    return f"{where}; {packages}; wall time, medians."


def rewritten(text: str, report: dict[str, Any]) -> str:
    """The README with the table of a report between its marks."""
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return head + BEGIN + table(report) + END + tail


def rewrite() -> None:
    """Rewrite the README from the committed figures."""
    readme = ROOT / "README.md"
    readme.write_text(rewritten(readme.read_text(), published("engine")))


if __name__ == "__main__":
    rewrite()
