"""The README's table of speed, from the committed figures of benchmarks/engine.py.

    python experiments/readme_table.py    # rewrites the lines between the marks in README.md

`engine.py --publish` does the same after a run. A test holds the README to the committed figures.
The table has a column for each instruction set. Where several machines have measured one, it is
taken from a machine whose best set it is, under the newest numbering of random numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from experiments.benchmarks.cases import LINES, Line
from experiments.common import ROOT, published

BEGIN = "<!-- engine.json -->\n"
END = "<!-- end of engine.json -->\n"
SETS = {
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "sse41": "SSE4.1",
    "neon": "NEON",
    "plain": "plain C++",
}
"""instruction sets in the order of columns, and how they are written"""
NAMED = ("qsample", "torch", "dwave-samplers")
"""packages whose versions stand under the table"""
NUMBERING = 2
"""of the random numbers; figures of an older one are of an older build"""
DASH = "–"
Section = dict[str, Any]


# ---- figures of a cell ------------------------------------------------------------------------


def short(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def times(row: Mapping[str, Any]) -> str | None:
    """How many times the speed of dwave-samplers' Metropolis rule, and updates per ns."""
    ratio = row.get("times dwave Metropolis")
    updates = f"{row['updates_per_ns']:.3g}"
    return f"{short(ratio) if ratio else DASH} ({updates})"


def threads(row: Mapping[str, Any]) -> str | None:
    """How many times the speed of one thread."""
    ratio = row.get("times one thread")
    return f"{ratio:.2f}" if ratio else None


def reads(row: Mapping[str, Any]) -> str:
    """Reads per second, to hundreds."""
    return f"{round(row['reads_per_second'], -2):,.0f}"


def share(row: Mapping[str, Any]) -> str:
    """Time over that of the base."""
    return f"{row['times_base']:.2f}"


FIGURES: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "times": times,
    "threads": threads,
    "reads": reads,
    "share": share,
}
"""text of a row's figure, by the measure of a line"""


def cell(line: Line, isa: str, section: Section) -> str:
    """The figures of a line on an instruction set, a dash for each that is not there.

    Args:
        line: line of the table.
        isa: instruction set.
        section: the machine's figures.
    """
    rows = {(row["problem"], row["threads"]): row for row in section["rows"] if row["isa"] == isa}
    figure = FIGURES[line.measure]
    texts = [(figure(rows[key]) if key in rows else None) or DASH for key in line.rows]
    return DASH if set(texts) == {DASH} else " / ".join(texts)


# ---- the table --------------------------------------------------------------------------------


def chosen(sections: Sequence[Section]) -> dict[str, Section]:
    """The section that each instruction set's column is taken from, in the order of columns."""
    columns: dict[str, Section] = {}
    measured = [row["isa"] for section in sections for row in section["rows"] if row["isa"]]
    for isa in dict.fromkeys([*SETS, *measured]):
        having = [s for s in sections if any(row["isa"] == isa for row in s["rows"])]
        if having:
            columns[isa] = max(having, key=lambda section: rank(section, isa))
    return columns


def rank(section: Section, isa: str) -> tuple[int, int, bool, str]:
    """The newest numbering first, most rows, machines whose best set it is, the latest run.

    An older build lacks the rows that were added since.
    """
    rows = len({row["problem"] for row in section["rows"] if row["isa"] == isa})
    native = section["machine"]["instruction_set"] == isa
    return section["numbering"], rows, native, section["date"]


def table(sections: Sequence[Section]) -> str:
    """The table in Markdown, and what each column was measured on.

    Args:
        sections: the figures of each machine.
    """
    columns = chosen(sections)
    head = ["reads × sweeps", *map(written, columns)]
    lines = [row_of(head), "|---" * len(head) + "|"]
    for line in LINES:
        cells = [cell(line, isa, section) for isa, section in columns.items()]
        if set(cells) != {DASH}:
            lines.append(row_of([line.label, *cells]))
    return "\n".join([*lines, "", measured_on(columns)]) + "\n"


def written(isa: str) -> str:
    """An instruction set as people write it."""
    return SETS.get(isa, isa)


def row_of(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def measured_on(columns: Mapping[str, Section]) -> str:
    """Machine and versions of each column; those of one section together."""
    texts: list[str] = []
    sections = {id(section): section for section in columns.values()}
    for number, section in sections.items():
        names = [written(isa) for isa, other in columns.items() if id(other) == number]
        machine = section["machine"]
        packages = ", ".join(f"{name} {section['versions'][name]}" for name in NAMED)
        model = f" ({machine['model']})" if machine.get("model") else ""
        where = f"{machine['cores']} cores of {machine['processor']}{model}"
        text = f"{', '.join(names)}: {where}, {packages}"
        if section["numbering"] < NUMBERING:
            text += ", **an older build**, before the present numbering of random numbers"
        if section.get("remark"):
            text += f", {section['remark']}"
        texts.append(text)
    return f"{'; '.join(texts)}. Wall time, medians of rounds."


def rewritten(text: str, sections: Sequence[Section]) -> str:
    """The README with the table of some sections between its marks."""
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return head + BEGIN + table(sections) + END + tail


def rewrite() -> None:
    """Rewrite the README from the committed figures."""
    readme = ROOT / "README.md"
    sections = published("engine")["result"]["sections"]
    readme.write_text(rewritten(readme.read_text(), sections))


if __name__ == "__main__":
    rewrite()
