"""Masks and conditions: digits filled in by a clamp, of a joint step and of independent bits.

    python experiments/claims/inpainting.py --out runs/inpainting

One denoiser learns 8 x 8 digits together with a one-hot code of their class, 74 bits, by cross
entropy, for all numbers of steps; the couplings of an Ising copula are then trained on the evidence
bound. Test digits lose their lower half, three of four pixels, all but their class, or their class
alone, and are filled in by `IsingCopula.sample(..., known=...)`: with couplings, where a step's
known bits act on the others within the step, and without, where only the next step sees them.
`repeats` takes each step back by noise and draws it again. Judged by a classifier that saw neither
(the share of digits with the class that they had), and by the Frechet distance to the test digits.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import qsample as qs
from qsample.annealers import Gibbs
from qsample.data import load
from qsample.diffusion import UniformBits, log_times
from qsample.metrics import ImageFeatures, frechet_distance
from qsample.models import IsingCopula

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, Stopwatch, command_line, mosaic, progress_bar
from experiments.joint_steps import AtSteps, annealing, train_step

SHAPE = (8, 8)
PIXELS = 64
CLASSES = 10
BITS = PIXELS + CLASSES
KINDS = {"independent": "tab:red", "joint": "tab:blue"}
GREY = 0.6  # of a pixel that is not known
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Both kinds of step share everything here."""

    steps: tuple[int, ...] = (1, 2, 4, 8)
    """reverse steps"""
    repeats: tuple[int, ...] = (1, 4)
    """draws of each step; the first one counts in the picture"""
    updates: int = 3000
    """gradient steps of the denoiser"""
    coupling_updates: int = 150
    """gradient steps of the couplings of a reverse step"""
    batch: int = 100
    """images of a gradient step"""
    width: int = 256
    """units of a layer of the network"""
    lr: float = 0.002
    """Adam's learning rate of the denoiser, falling to zero"""
    coupling_lr: float = 0.01
    """the most that a coupling changes in a gradient step, falling to zero"""
    chain: int = 5
    """sweeps of a gradient step's chains"""
    sweeps: int = 200
    """sweeps of a joint step when digits are drawn, half annealing, half at the target"""
    rows: int = 898
    """test digits that are filled in"""
    seed: int = 0
    """seed of all randomness"""


def main(options: Options) -> None:
    """Train, hide, fill in, judge."""
    report = Report(options, __file__)
    data = load("digits", coding="spins")
    half, _, other = data.split(test=len(data) // 2)
    assert half.labels is not None
    assert other.labels is not None
    train = with_class(half.x, half.labels)
    test = with_class(other.x, other.labels)[: options.rows]
    judge = Judge(ImageFeatures(half.x, half.labels, SHAPE), other.x, other.labels[: options.rows])
    watch = Stopwatch()
    net = trained_denoiser(train, options)
    seconds = {"denoiser": watch.read().cpu}
    rows: list[Row] = []
    filled: dict[tuple[str, str, int], Tensor] = {}
    for steps in progress_bar(options.steps, desc="steps"):
        watch = Stopwatch()
        joint = train_couplings(net, steps, train, options)
        seconds[f"couplings of {steps}"] = watch.read().cpu
        models = {"independent": copula_of(net, steps), "joint": joint}
        for (kind, model), (task, mask) in product(models.items(), tasks().items()):
            for repeats in options.repeats:
                row, drawn = fill(model, test * mask, repeats, judge, options)
                about = {"task": task, "kind": kind, "steps": steps, "repeats": repeats}
                rows.append(about | row)
                if repeats == options.repeats[0]:
                    filled[task, kind, steps] = drawn
        report.write({"seconds": seconds, "rows": rows})
    floor = judge(other.x[: options.rows]) | {"frechet": judge.distance(half.x)}
    result = {"floor": floor, "seconds": seconds, "rows": rows, "table": table(rows)}
    show(result, options)
    report.finish(result, picture(test, filled, result, options))


# ---- the digits -------------------------------------------------------------------------------


def with_class(x: Tensor, labels: Tensor) -> Tensor:
    """Digits `[N, 64]` and a one-hot code of their class, spins `[N, 74]`."""
    return torch.cat([x, 2.0 * nn.functional.one_hot(labels, CLASSES) - 1], 1)


def tasks() -> dict[str, Tensor]:
    """What is known, `[74]` of 0 and 1, by task; the class is known where it alone is."""
    pixels = torch.zeros(4, *SHAPE)
    pixels[0, :4] = 1
    pixels[1, ::2, ::2] = 1
    pixels[3] = 1
    classes = torch.zeros(4, CLASSES)
    classes[2] = 1
    names = ("lower half hidden", "every fourth pixel known", "class known", "class hidden")
    known = torch.cat([pixels.flatten(1), classes], 1)
    return dict(zip(names, known, strict=True))


class Judge:
    """A classifier of digits that saw no model, and the test digits."""

    def __init__(self, features: ImageFeatures, real: Tensor, labels: Tensor) -> None:
        """Look at the test digits.

        Args:
            features: classifier, trained on the digits that the models are trained on.
            real: test digits.
            labels: classes of those that are filled in.
        """
        self.features = features
        self.real = features(real)
        self.labels = labels

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Of digits `[N, 64]`, each in the place of the test digit that it was."""
        seen = self.features.logits(x).argmax(1)
        return {"right": float((seen == self.labels).double().mean()), "frechet": self.distance(x)}

    def distance(self, x: Tensor) -> float:
        """Frechet distance of digits to the test digits."""
        return frechet_distance(self.real, self.features(x))


# ---- models -----------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """Two residual layers: x_k and the share a of bits that are still their own, to logits."""

    def __init__(self, width: int) -> None:
        """Make the layers.

        Args:
            width: units of a layer.
        """
        super().__init__()
        self.first = nn.Linear(BITS + 2, width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, BITS)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, fraction: Tensor) -> Tensor:
        """Logits `[B, n]` of x_k `[B, n]` at k/T = `fraction` `[B]`."""
        # at a = 0 the bits say nothing, and are not looked at
        kept = (1 - fraction)[:, None]
        y = self.first(torch.cat([x * (kept > 0), kept, kept.square()], 1))
        for layer in self.layers:
            y = y + layer(y)
        return self.last(self.norm(y))


def copula_of(net: Denoiser, steps: int) -> IsingCopula:
    """A centred copula of all pairs of bits, whose couplings are 0: the independent step."""
    process = UniformBits(log_times(steps))
    return IsingCopula(AtSteps(net, steps), qs.Graph.complete(BITS), process, centred=True)


def some(train: Tensor, options: Options, generator: torch.Generator) -> Tensor:
    """Rows of a gradient step."""
    return train[torch.randint(len(train), (options.batch,), generator=generator)]


def trained_denoiser(train: Tensor, options: Options) -> Denoiser:
    """Cross entropy of x_0, at times of the finest run."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    finest = max(options.steps)
    process = UniformBits(log_times(finest))
    net = Denoiser(options.width)
    optimizer = torch.optim.Adam(net.parameters(), lr=options.lr)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: 1 - u / options.updates)
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    for _ in progress_bar(range(options.updates), desc="denoiser"):
        x_0 = some(train, options, generator)
        k = torch.randint(1, finest + 1, (len(x_0),), generator=generator)
        logits = net(process.noise(x_0, k, generator=generator), k / finest)
        loss = cross_entropy(logits, (x_0 + 1) / 2, reduction="sum") / len(x_0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    return net.requires_grad_(False)


def train_couplings(net: Denoiser, steps: int, train: Tensor, options: Options) -> IsingCopula:
    """Couplings by the slope of the evidence bound, on a denoiser that stays as it is."""
    model = copula_of(net, steps)
    generator = torch.Generator().manual_seed(options.seed + 1)
    for k in range(1, steps + 1):
        x_0 = train[torch.randint(len(train), (500,), generator=generator)]
        train_step(
            model,
            k,
            model.process.noise(x_0, k, generator=generator),
            lambda: (some(train, options, generator), None),
            Gibbs(options.chain),
            updates=options.coupling_updates,
            longest=options.coupling_lr,
            generator=generator,
        )
    return model


# ---- filling in -------------------------------------------------------------------------------


def fill(
    model: IsingCopula, known: Tensor, repeats: int, judge: Judge, options: Options
) -> tuple[Row, Tensor]:
    """Figures of digits that are filled in, and the digits.

    Args:
        model: a copula.
        known: spins of the test digits, 0 where they are hidden, `[N, 74]`.
        repeats: draws of each step.
        judge: classifier and test digits.
        options: options of the run.
    """
    watch = Stopwatch()
    generator = torch.Generator().manual_seed(options.seed)
    # independent bits are right after a sweep
    sampler = annealing(options.sweeps) if model.J.any() else Gibbs(1)
    x = model.sample(sampler, len(known), known=known, repeats=repeats, generator=generator)
    row: Row = {"draw_seconds": watch.read().cpu}
    digits = x[:, :PIXELS].float()
    if (known[:, :PIXELS] != 0).all():
        # the classes are what was drawn: nothing but one bit of the right class
        code = 2 * nn.functional.one_hot(judge.labels, CLASSES) - 1
        row["right"] = float((x[:, PIXELS:] == code).all(1).double().mean())
    else:
        row |= judge(digits)
    return row, digits


def table(rows: list[Row]) -> dict[str, Any]:
    """Rows by task, kind, repeats and number of steps."""
    nested: dict[str, Any] = {}
    for row in rows:
        task = nested.setdefault(row["task"], {})
        kind = task.setdefault(row["kind"], {})
        cells = kind.setdefault(f"repeats {row['repeats']}", {})
        cells[str(row["steps"])] = {name: row[name] for name in ("right", "frechet") if name in row}
    return nested


def show(result: Row, options: Options) -> None:
    """Print the figures."""
    floor = result["floor"]
    print(f"test digits: {floor['right']:.3f} right; training digits: {floor['frechet']:.2f}")
    for task, kinds in result["table"].items():
        for (kind, cells), repeats in product(kinds.items(), options.repeats):
            texts = []
            for steps, cell in cells[f"repeats {repeats}"].items():
                far = f", Frechet {cell['frechet']:.1f}" if "frechet" in cell else ""
                texts.append(f"{steps}: {cell['right']:.3f} right{far}")
            print(f"{task}, {kind}, {repeats} per step: {'; '.join(texts)}")
    print("seconds: " + ", ".join(f"{name} {s:.0f}" for name, s in result["seconds"].items()))


# ---- the picture ------------------------------------------------------------------------------


def picture(
    test: Tensor, filled: dict[tuple[str, str, int], Tensor], result: Row, options: Options
) -> Figure:
    """What is known and what it became, and the shares that are right.

    Args:
        test: test digits with their classes, `[N, 74]`.
        filled: digits by task, kind and number of steps.
        result: result of the script.
        options: options of the run.
    """
    shown = list(tasks().items())[:3]
    columns = ["known", *product(KINDS, options.steps)]
    figure = plt.figure(figsize=(1.75 * len(columns), 12.5), layout="constrained")
    panels: Any = figure.subfigures(2, 1, height_ratios=(2.9, 1))
    grids = panels[0].subplots(len(shown), len(columns), squeeze=False)
    for line, (task, mask) in zip(grids, shown, strict=True):
        for axis, column in zip(line, columns, strict=True):
            if column == "known":
                images = (test * mask)[:, :PIXELS]
                title = task
            else:
                images = filled[task, *column]
                title = f"{column[0]}, {column[1]}"
            ink = torch.where(images == 0, GREY, (1 - images) / 2)
            frame = mosaic(ink[:24], SHAPE, 4, 0.8).numpy()
            axis.imshow(frame, cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=9, color=KINDS.get(column[0], "black"))
            axis.set(xticks=[], yticks=[])
    axes = panels[1].subplots(1, len(result["table"]))
    for axis, (task, kinds) in zip(axes, result["table"].items(), strict=True):
        for (kind, cells), repeats in product(kinds.items(), options.repeats):
            heights = [cell["right"] for cell in cells[f"repeats {repeats}"].values()]
            style = "-" if repeats == options.repeats[0] else ":"
            label = f"{kind}, {repeats} per step"
            axis.plot(options.steps, heights, style, color=KINDS[kind], marker="o", label=label)
        axis.axhline(result["floor"]["right"], color="grey", linestyle="--", label="test digits")
        axis.set(xscale="log", xlabel="reverse steps", ylim=(0, 1), title=task)
        axis.set_xticks(options.steps, map(str, options.steps))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share with the right class")
    axes[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    command_line(main, Options)
