"""The README's table of speed, from the committed figures of bench_engine.py.

    python experiments/readme_table.py    # rewrites the lines between the marks in README.md

`bench_engine.py --publish` does the same after a run. A test holds the README to the committed figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARKS = "<!-- engine.json -->\n", "<!-- end of engine.json -->\n"


def sizes(name: str) -> tuple[str, int, int]:
    """The instance of a cell, its reads and its sweeps: "name, R x S", 64 x 100 where it does not say."""
    instance, _, rest = name.partition(", ")
    reads, sweeps = (int(part) for part in (rest or "64 x 100").split(" x "))
    return instance, reads, sweeps


def table(results: dict[str, Any]) -> str:
    """The README's table of a run, in Markdown."""
    rows = {(row["problem"], row["engine"]): row for row in results["results"]}
    machine, versions = results["about"], results["about"]["versions"]
    head = (
        "problem, reads × sweeps",
        "updates/ns",
        "× Metropolis",
        "× its Gibbs",
        "× 16-bit",
        "× two threads",
    )
    lines = [f"| {' | '.join(head)} |", "|---|" + "---|" * (len(head) - 1)]

    def times(row: dict[str, Any] | None, peer: str = "dwave Metropolis") -> str:
        ratio = None if row is None else row[f"times {peer}"]
        return f"{ratio:.{0 if ratio >= 10 else 1}f}" if ratio else "–"

    for name in dict.fromkeys(problem for problem, _ in rows):
        instance, reads, sweeps = sizes(name)
        one, two = rows.get((name, "qsample")), rows.get((name, "qsample, 2 threads"))
        if one is None:
            continue
        columns = [f"{instance}, {reads} × {sweeps}", f"{one['updates_per_ns']:.3g}", times(one)]
        columns += [
            times(one, "dwave Gibbs"),
            times(rows.get((name, "qsample, 16-bit"))),
            times(two),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    width = "AVX-512" if machine["avx512"] else "no AVX-512"
    lines += ["", f"{machine['cores']} cores of {machine['processor']}, {width}; "]
    lines[-1] += (
        ", ".join(f"{name} {number}" for name, number in versions.items()) + "; wall time, medians."
    )
    return "\n".join(lines) + "\n"


def rewritten(text: str, results: dict[str, Any]) -> str:
    """The README with the table of `results` between its marks."""
    head, _, rest = text.partition(MARKS[0])
    return head + MARKS[0] + table(results) + MARKS[1] + rest.partition(MARKS[1])[2]


def main() -> None:
    """Rewrite the README."""
    readme = ROOT / "README.md"
    readme.write_text(
        rewritten(
            readme.read_text(), json.loads((ROOT / "experiments/results/engine.json").read_text())
        )
    )


if __name__ == "__main__":
    main()
