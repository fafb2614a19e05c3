"""Figures and the picture of scripts that set joint steps beside independent ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common import mosaic

KINDS = {"independent": "tab:red", "joint": "tab:blue"}
SHOWN = 36
"""images shown of each cell"""
Row = dict[str, Any]


@dataclass(frozen=True)
class TwoKinds:
    """Rows of both kinds of step, each with `kind`, `steps`, `seed` and the metrics.

    Args:
        rows: rows of all seeds.
        steps: numbers of reverse steps.
        metrics: names of the metrics, and what they are called in the picture.
        floor: metrics of a perfect model, of those that have one.
    """

    rows: Sequence[Row]
    steps: Sequence[int]
    metrics: Mapping[str, str]
    floor: Mapping[str, float]

    def of(self, kind: str, steps: int, metric: str) -> list[float]:
        """A figure of each seed.

        Args:
            kind: key of KINDS.
            steps: number of reverse steps.
            metric: key of the metrics.
        """
        return [row[metric] for row in self.rows if (row["kind"], row["steps"]) == (kind, steps)]

    def means(self) -> dict[str, Any]:
        """Mean over the seeds of all metrics, by kind and number of steps."""
        return {
            kind: {
                str(steps): {
                    metric: statistics.fmean(self.of(kind, steps, metric))
                    for metric in self.metrics
                }
                for steps in self.steps
            }
            for kind in KINDS
        }

    def show(self) -> None:
        """Print the figures."""
        print("floor: " + ", ".join(f"{name} {value:.4g}" for name, value in self.floor.items()))
        for steps, kind in product(self.steps, KINDS):
            texts = []
            for metric in self.metrics:
                values = self.of(kind, steps, metric)
                mean = statistics.fmean(values)
                texts.append(f"{metric} {mean:.4g} ({min(values):.4g} to {max(values):.4g})")
            print(f"{kind}, steps {steps}: {'; '.join(texts)}")
        off = [
            f"{row['steps']}: {sum(not switch['on'] for switch in row['switches'])}"
            for row in self.rows
            if "switches" in row
        ]
        print(f"steps whose couplings are off, by number of steps: {', '.join(off)}")

    # ---- the picture ----------------

    def picture(
        self,
        pages: Mapping[str, Tensor],
        images: Mapping[tuple[str, int], Tensor],
        shape: tuple[int, int],
    ) -> Figure:
        """All figures against the steps, and images of data and of both kinds of step.

        Args:
            pages: two sets of images of spins `[N, n]`, by title.
            images: images by kind and number of steps.
            shape: rows and columns of an image.
        """
        across = len(self.steps) + 1
        figure = plt.figure(figsize=(2.7 * across, 9.5), layout="constrained")
        panels: Any = figure.subfigures(2, 1, height_ratios=(1, 1.45))
        axes = panels[0].subplots(1, len(self.metrics))
        for axis, metric in zip(axes, self.metrics, strict=True):
            self.by_steps(axis, metric)
        grids = panels[1].subplots(2, across, squeeze=False)
        for (kind, colour), line, (title, data) in zip(
            KINDS.items(), grids, pages.items(), strict=True
        ):
            cells = [(title, data, "black")]
            for steps in self.steps:
                cells.append((f"{kind}, steps {steps}", images[kind, steps], colour))
            for axis, (name, drawn, ink) in zip(line, cells, strict=True):
                frame = mosaic((1 - drawn[:SHOWN]) / 2, shape, fill=0.6)
                axis.imshow(frame.numpy(), cmap="gray", vmin=0, vmax=1)
                axis.set_title(name, fontsize=9, color=ink)
                axis.set(xticks=[], yticks=[])
        return figure

    def by_steps(self, axis: Any, metric: str) -> None:
        """A metric against the number of steps, mean and range of the seeds.

        Args:
            axis: where to draw.
            metric: key of the metrics.
        """
        for kind, colour in KINDS.items():
            values = [self.of(kind, steps, metric) for steps in self.steps]
            heights = [statistics.fmean(v) for v in values]
            axis.plot(self.steps, heights, color=colour, marker="o", label=kind)
            axis.vlines(self.steps, [min(v) for v in values], [max(v) for v in values], colour)
        axis.set(xscale="log", xlabel="reverse steps", ylabel=self.metrics[metric])
        floor = self.floor.get(metric)
        if floor is not None:
            axis.axhline(floor, color="grey", linestyle="--", label="floor: training images")
            axis.set(ylim=(0, None))
        axis.set_xticks(self.steps, [str(steps) for steps in self.steps])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
