"""A trained model on one page: data beside samples, where they differ, how it was learnt."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qsample.evaluation.fidelity import Fidelity
from qsample.evaluation.two_samples import UNITS, components
from qsample.models.energy import EnergyModel
from qsample.support.optional import needs
from qsample.support.pictures import mosaic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DATA = "#1f4e79"
TRAIN = "#8fb8de"
SAMPLES = "#d95f02"
SHOWN = 64  # images of data and of samples
POINTS = 1000  # rows in the scatter of principal components
PAIRS = 4000  # pairs in the scatter of correlations
WIDTH = 68  # characters in a line of the numbers


@dataclass(frozen=True, eq=False)
class Page:
    """What is drawn.

    Args:
        model: the model.
        train: rows that it learnt from, `[N, n_visible]` in its coding.
        test: rows that were held out; empty without any.
        samples: visible rows of its samples.
        image_shape: (rows, columns) of an image; None where the data are none.
        history: the metrics of the run.
        fidelity: the samples beside the data, in numbers.
        title: name of the run and its data.
        lines: more numbers, by name, as they shall be read.
    """

    model: EnergyModel
    train: Tensor
    test: Tensor
    samples: Tensor
    image_shape: tuple[int, int] | None
    history: Sequence[Mapping[str, Any]]
    fidelity: Fidelity
    title: str
    lines: Mapping[str, str] = field(default_factory=dict)

    @property
    def judged_by(self) -> Tensor:
        """The rows that samples are compared with."""
        return self.test if len(self.test) >= 2 else self.train


@torch.no_grad()
def draw(page: Page, kind: str = "png") -> bytes:
    """The page as the bytes of a file.

    Args:
        page: what is drawn.
        kind: "png", "pdf" or "svg".

    Raises:
        ImportError: matplotlib is not installed; the message names the extra that brings it.
    """
    with needs("experiments", "a picture"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(17.5, 8.6), dpi=110, layout="constrained")
    figure.suptitle(page.title, fontsize=12, x=0.01, ha="left")
    # data D over samples S, components C over pairs P, free energies F over learning L, numbers N
    axes = figure.subplot_mosaic("DCFN;SPLN", width_ratios=[1, 1, 1, 1.42])
    _rows(axes["D"], page, page.judged_by, "data", DATA)
    _rows(axes["S"], page, page.samples, "samples", SAMPLES)
    _components(axes["C"], page)
    _pairs(axes["P"], page)
    _free_energies(axes["F"], page)
    _curve(axes["L"], page)
    _numbers(axes["N"], page)
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()


# ---- the panels ----------------


def _rows(axes: Axes, page: Page, rows: Tensor, name: str, colour: str) -> None:
    """Rows as images on one page, or as the lines of a matrix."""
    bits = (rows[:SHOWN] > 0).to("cpu", torch.uint8).numpy()
    if page.image_shape is not None:
        sheet = mosaic(bits, page.image_shape)
    else:
        sheet = 255 * (1 - bits)
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="equal")
    if page.image_shape is None:
        axes.set_aspect("auto")
        axes.set_xlabel("unit")
        axes.set_ylabel("row")
    else:
        axes.set_axis_off()
    axes.set_title(f"{name}: {len(bits)} of {len(rows):,}", color=colour)


def _components(axes: Axes, page: Page) -> None:
    """Data and samples along the two leading principal components of the data."""
    data = _spins(page.judged_by)
    axes.set_title("along the data's principal components")
    if data.shape[1] < 2 or len(data) < 3:
        axes.set_axis_off()
        return
    U = components(data)[:, :2]
    middle = data.mean(0)
    points = []
    for rows, colour, name in ((data, DATA, "data"), (_spins(page.samples), SAMPLES, "samples")):
        along = ((rows[:POINTS] - middle) @ U).tolist()
        # in turn, so that neither hides the other
        points += [(k / len(along), *point, colour) for k, point in enumerate(along)]
        axes.scatter([], [], s=14, c=colour, lw=0, label=name)
    points.sort(key=lambda point: point[0])
    (_, x, y, colours) = zip(*points, strict=True)
    axes.scatter(x, y, s=7, c=colours, alpha=0.6, lw=0)
    share = ((data - middle) @ U).square().sum(0) / (data - middle).square().sum()
    axes.set_xlabel(f"first, {float(share[0]):.0%} of the variance")
    axes.set_ylabel(f"second, {float(share[1]):.0%}")
    axes.legend(loc="best", fontsize=8)


def _pairs(axes: Axes, page: Page) -> None:
    """Connected correlations of pairs of spins: the samples' against the data's."""
    data = _spins(page.judged_by)
    samples = _spins(page.samples)
    axes.set_title("connected correlations of pairs")
    variance = data.var(0) if len(data) > 1 else data[0] * 0
    kept = variance.topk(min(UNITS, data.shape[1])).indices
    if len(kept) < 2:
        axes.set_axis_off()
        return
    C = torch.cov(data[:, kept].T, correction=0)
    D = torch.cov(samples[:, kept].T, correction=0)
    i, j = torch.triu_indices(len(kept), len(kept), offset=1)
    x = C[i, j]
    y = D[i, j]
    # by strength: most of the strong ones, few of the many weak ones
    order = x.abs().argsort(descending=True)
    rank = torch.linspace(0, 1, PAIRS, dtype=torch.float64) ** 3 * (len(order) - 1)
    shown = order[rank.long().unique()]
    ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
    axes.plot(ends, ends, c="0.6", lw=1)
    axes.scatter(x[shown], y[shown], s=4, c=SAMPLES, alpha=0.4, lw=0)
    axes.set_xlabel("data")
    axes.set_ylabel("samples")
    pairs = page.fidelity["pair correlations"]
    axes.text(
        0.03,
        0.97,
        f"rms error {pairs.value:.3g}; of a right model {pairs.expected:.3g}",
        transform=axes.transAxes,
        va="top",
    )


def _free_energies(axes: Axes, page: Page) -> None:
    """Histograms of the free energy of training rows, of test rows and of samples."""
    axes.set_title("free energy")
    if not page.model.tractable:
        axes.text(0.5, 0.5, "hidden units are coupled", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    parts = [("train", page.train, TRAIN), ("test", page.test, DATA)]
    parts.append(("samples", page.samples, SAMPLES))
    free = {
        name: page.model.free_energy(rows).double().cpu()
        for name, rows, _ in parts
        if len(rows) > 0
    }
    everything = torch.cat(list(free.values()))
    low, high = everything.quantile(torch.tensor([0.002, 0.998], dtype=torch.float64)).tolist()
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    for name, _, colour in parts:
        if name in free:
            values = free[name].numpy()
            label = f"{name}, mean {float(free[name].mean()):.2f}"
            filled = {"histtype": "stepfilled", "alpha": 0.6} if name == "train" else {}
            axes.hist(
                values,
                bins=edges.tolist(),
                density=True,
                color=colour,
                label=label,
                **({"histtype": "step", "lw": 1.8} | filled),
            )
    axes.set_xlabel("F(x) in nats")
    axes.set_yticks([])
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper right", fontsize=8)


def _curve(axes: Axes, page: Page) -> None:
    """The likelihood of the metrics, or what stands in its place, against updates."""
    names = ("log_likelihood", "pseudo_log_likelihood", "loss")
    found = [name for name in names if page.history and name in page.history[-1]]
    axes.set_title("learning")
    if not found:
        axes.set_axis_off()
        return
    name = found[0]
    lines = [line for line in page.history if name in line]
    axes.plot(
        [line["update"] for line in lines], [line[name] for line in lines], c=DATA, marker=".", ms=3
    )
    unit = "" if name == "loss" else ", nats per row"
    axes.set_xlabel("update")
    axes.set_ylabel(f"{name.replace('_', ' ')}{unit}")
    axes.grid(alpha=0.3)


def _numbers(axes: Axes, page: Page) -> None:
    """The verdict, the measures and what a right model would show, and the other numbers."""
    axes.set_axis_off()
    texts = []
    for name, value in page.lines.items():
        texts += textwrap.wrap(f"{name}: {value}", WIDTH, subsequent_indent="  ")
    texts += ["", *textwrap.wrap(page.fidelity.text, WIDTH, subsequent_indent="  "), ""]
    texts.append(f"{'':31}{'value':>9} {'95 % of right ones':>20}  p")
    for measure in page.fidelity.measures:
        band = f"{measure.low:.3g} to {measure.high:.3g}"
        mark = "*" if measure.p_value <= 0.01 else " "
        texts.append(
            f"{measure.name:31}{measure.value:>9.3g} {band:>20} {measure.p_value:5.3f}{mark}"
        )
    if page.fidelity.note:
        texts += ["", *textwrap.wrap(page.fidelity.note, WIDTH)]
    text = axes.text(0, 1, "\n".join(texts), fontsize=7.5, va="top", family="monospace")
    text.set_in_layout(False)


def _spins(rows: Tensor) -> Tensor:
    """Rows of -1 and +1 in single precision, on the CPU."""
    return (rows > 0).to("cpu", torch.float32) * 2 - 1
