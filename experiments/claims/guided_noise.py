"""Guidance by annealed noise beside its rivals, at equal evaluations of the network.

    python experiments/claims/guided_noise.py --out runs/guided_noise
    python experiments/claims/guided_noise.py --data mnist5k --out runs/guided_mnist

The script trains a small DDPM of digits, a classifier of noisy images that guides, and a judge on
other rows that never does. Two energies: a wanted class, and the upper half of a held-out digit
(inpainting). A budget is a number of network evaluations per image that is kept. Plain samples,
classifier guidance and annealed noise spend it on steps; best of N and Feynman-Kac steering
(Singhal et al., arXiv 2501.06848) on N images or particles, of which one is kept; SMC spends it on
steps and keeps all particles, which compete with those of the same wish. Of each is told the energy
of the final images against their diversity, over scales of the energy, and what the judge says.

A run that was ended goes on where it was.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from matplotlib.figure import Figure
from torch import Tensor, nn

from qsample.metrics import ImageFeatures, frechet_distance

sys.path.append(str(Path(__file__).parents[2]))
from experiments.cells import Kept
from experiments.common import (
    CommonOptions,
    Report,
    check_choices,
    check_range,
    command_line,
    mosaic,
    progress_bar,
)
from experiments.guidance_rivals import Draw, Energy, EnergyOf, Noise, Setting, drawn
from experiments.noisy_images import (
    CLEAN,
    NoisyClassifier,
    Training,
    World,
    fold,
    plain_scheduler,
    train_world,
    unfold,
)

FAMILIES = {
    "plain": "black",
    "best of N": "tab:gray",
    "FK steering": "tab:green",
    "SMC": "tab:olive",
    "classifier guidance": "tab:orange",
    "annealed noise": "tab:blue",
    "annealed noise, J = 0": "tab:cyan",
}
NAMES = {
    "FK steering": "Feynman-Kac steering, best of N particles",
    "SMC": "SMC, all particles kept",
    "annealed noise": "annealed noise, second order",
}
SHARES = (1.0, 0.75, 0.5)
"""of the diversity of real images of one class"""
DOT = 15.0
"""area of the dot of the smallest scale, square points"""
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """The defaults take some ten minutes of one core."""

    data: str = "digits"
    """images: digits (8 x 8) or mnist5k (28 x 28)"""
    updates: int = 1000
    """gradient steps of the UNet and of the guide"""
    batch: int = 64
    """images of a gradient step of the UNet"""
    width: int = 16
    """channels of the UNet at full size"""
    wishes: int = 100
    """images of each cell"""
    steps: int = 20
    """network evaluations of the smallest budget: steps of a run"""
    budgets: tuple[int, ...] = (1, 2, 4, 8)
    """budgets, in units of `steps`"""
    grid: int = 4
    """the budget at which all scales are drawn; the others take the scale of the lowest energy"""
    scales: tuple[float, ...] = (1.0, 10.0, 100.0)
    """scales of guidance"""
    families: tuple[str, ...] = tuple(FAMILIES)
    """methods to compare"""
    sweeps: int = 20
    """Gibbs sweeps of the annealed noise"""
    moves: int = 1
    """corrections by Metropolis and Hastings"""
    seed: int = 0
    """seed of all randomness"""


class Task(NamedTuple):
    """An energy, the labels that are wanted, and which images share a wish."""

    energy_of: EnergyOf
    labels: Tensor
    groups: Tensor


# Options that change no cell.
FREE = ("out", "publish", "threads", "budgets", "grid", "scales", "families")


def main(options: Options) -> None:
    """Train, draw by every method, judge."""
    check_choices("families", options.families, FAMILIES)
    check_range("steps", [options.steps], 1)
    check_range("budgets", options.budgets, 1)
    check_range("grid", [options.grid], 1)
    variant = "" if options.data == "digits" else f"_{options.data}"
    report = Report(options, __file__, ("diffusers",), variant)
    kept = Kept(report.folder, {k: v for k, v in asdict(options).items() if k not in FREE})
    start = time.process_time()
    training = Training(options.updates, options.batch, options.width, options.seed)
    world = train_world(options.data, training, kept)
    rows: list[Row] = []
    images: dict[tuple[str, str], Tensor] = {}
    asked: dict[str, Tensor] = {}
    for name, task in tasks(world, options).items():
        asked[name] = wanted(name, task, world)
        for family in progress_bar(options.families, desc=name):
            cells = cells_of(name, family, task, world, kept, options)
            rows += [row for row, _ in cells]
            _, images[name, family] = min(cells, key=at_grid(options))
            report.write({"rows": rows})
    real = held_out(world, options)
    claims = {name: claim(name, rows, real["diversity"], options) for name in asked}
    result = {
        "held_out": real,
        "claims": claims,
        "rows": rows,
        "cpu_seconds": time.process_time() - start,
    }
    show(result)
    report.finish(result, picture(rows, images, asked, world.side, options))


# ---- energies ---------------------------------------------------------------------------------


def tasks(world: World, options: Options) -> dict[str, Task]:
    """Both energies, with a wish for each image."""
    label = torch.arange(options.wishes) % 10
    wish = torch.arange(options.wishes) % min(10, max(1, options.wishes // 2))
    known = fold(world.unseen[wish])
    digit = world.labels[world.training :][wish]
    scheduler = plain_scheduler()
    return {
        "class": Task(lambda index: class_energy(world.guide, label[index]), label, label),
        "inpainting": Task(lambda index: inpainting_energy(scheduler, known[index]), digit, wish),
    }


def wanted(name: str, task: Task, world: World) -> Tensor:
    """Ten images of what a task asks: the mean of each class, or the known half.

    Args:
        name: name of the task.
        task: energy and wishes.
        world: images and labels.
    """
    if name == "class":
        means = [world.images[world.labels == k].mean(0) for k in task.labels[:10]]
        return torch.stack(means)
    known = world.unseen[task.groups[:10]]
    upper = torch.arange(world.side)[:, None] < world.side // 2
    return torch.where(upper, known, torch.zeros(()))


def class_energy(net: NoisyClassifier, labels: Tensor) -> Energy:
    """-log p(label | x at t)."""
    return lambda x, x0, t: nn.functional.cross_entropy(net(x, t), labels, reduction="none")


def inpainting_energy(scheduler: DDPMScheduler, known: Tensor, blur: float = 0.1) -> Energy:
    """-log of the normal law of the upper half of x at t; 0 for a perfect image.

    Args:
        scheduler: forward process.
        known: images, as the denoiser has them, whose upper half is wanted.
        blur: standard deviation to within which its pixels are known.
    """

    def energy(x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        signal = scheduler.alphas_cumprod[int(t)] if t >= 0 else torch.tensor(1.0)
        difference = (x - signal**0.5 * known)[:, :, : known.shape[2] // 2]
        variance = 1 - signal + signal * blur**2
        return difference.flatten(1).square().sum(1) / (2 * variance)

    return energy


# ---- cells ------------------------------------------------------------------------------------


def setting_of(task: Task, world: World, options: Options) -> Setting:
    """What all ways to draw share; second derivatives are taken in one block of 64 coordinates."""
    d = world.side**2
    K = min(256, 1 << (d.bit_length() - 1))
    noise = {"annealed noise": Noise(64, 1), "annealed noise, J = 0": Noise(K, d // K)}
    return Setting(
        world.pipe,
        task.energy_of,
        task.groups,
        noise,
        options.sweeps,
        options.moves,
        options.seed + 1,
    )


def way(family: str, budget: int, scale: float, options: Options) -> Draw:
    """How a method spends a budget, a number of runs of `steps` network evaluations."""
    if family in ("best of N", "FK steering"):
        return Draw(family, options.steps, scale, budget)
    return Draw(family, options.steps * budget, scale)


def cells_of(
    name: str, family: str, task: Task, world: World, kept: Kept, options: Options
) -> list[tuple[Row, Tensor]]:
    """Rows and images of a method: all scales at one budget, the best one at the others.

    Args:
        name: name of the task.
        family: key of FAMILIES.
        task: energy and wishes.
        world: what was trained.
        kept: what is there already.
        options: options of the run.
    """
    setting = setting_of(task, world, options)

    def cell(budget: int, scale: float) -> tuple[Row, Tensor]:
        def make() -> tuple[Row, Tensor]:
            start = time.process_time()
            x, spent = drawn(way(family, budget, scale, options), setting)
            row: Row = {"task": name, "family": family, "budget": budget, "scale": scale, **spent}
            row["cpu_seconds"] = time.process_time() - start
            return row | judged(x, task, world), unfold(x)

        return kept.part(f"{name}, {family}, {budget}, {scale:g}", make)

    scales = (0.0,) if family in ("plain", "best of N") else options.scales
    cells = [cell(options.grid, scale) for scale in scales]
    best = min(cells, key=lambda row_and_images: energy_of(row_and_images[0]))[0]["scale"]
    alone = family in ("best of N", "FK steering")  # of one there is nothing to choose
    rest = [b for b in options.budgets if b != options.grid and not (alone and b == 1)]
    return cells + [cell(budget, best) for budget in rest]


def energy_of(row: Row) -> float:
    """The mean energy of a row; infinite where it diverged."""
    return row.get("energy", math.inf)


def at_grid(options: Options) -> Any:
    """An order of cells: those of the budget of all scales first, by energy."""
    return lambda cell: (cell[0]["budget"] != options.grid, energy_of(cell[0]))


# ---- what is told of images -------------------------------------------------------------------


def diversity(images: Tensor, groups: Tensor) -> float:
    """Mean distance of two images of the same group."""
    parts = [images[groups == group].flatten(1) for group in groups.unique()]
    return sum(float(torch.pdist(part).mean()) for part in parts) / len(parts)


def accuracy(judge: ImageFeatures, images: Tensor, labels: Tensor) -> float:
    """Share of images that the judge sees as their label.

    Args:
        judge: classifier of clean images.
        images: images `[N, pixels]`.
        labels: labels `[N]`.
    """
    return float((judge.logits(images).argmax(1) == labels).double().mean())


def judged(x: Tensor, task: Task, world: World) -> Row:
    """Energy of the final images, diversity, and what the judge says of them.

    Args:
        x: images as the denoiser has them.
        task: energy and wishes.
        world: judge and real images.
    """
    if not x.isfinite().all():
        return {"diverged": True}
    energy = task.energy_of(torch.arange(len(x)))(x, x, CLEAN)
    flat = unfold(x).flatten(1)
    logits = world.judge.logits(flat)
    return {
        "energy": float(energy.mean()),
        "energy_stderr": float(energy.std() / len(energy) ** 0.5),
        "diversity": diversity(flat, task.groups),
        "judge_accuracy": accuracy(world.judge, flat, task.labels),
        "judge_cross_entropy": float(nn.functional.cross_entropy(logits, task.labels)),
        "frechet": frechet_distance(world.judge(world.seen.flatten(1)), world.judge(flat)),
    }


def held_out(world: World, options: Options) -> Row:
    """What the judge says of as many images that nobody has seen, and the diversity of a class."""
    x = world.unseen.flatten(1)
    labels = world.labels[world.training :]
    some = x[: options.wishes]
    return {
        "judge_accuracy": accuracy(world.judge, x, labels),
        "frechet": frechet_distance(world.judge(world.seen.flatten(1)), world.judge(some)),
        "diversity": diversity(x, labels),
    }


def claim(task: str, rows: list[Row], real: float, options: Options) -> Row:
    """The lowest energy of each method: by budget, and at least as diverse as a share of real ones.

    Args:
        task: name of the task.
        rows: all rows.
        real: diversity of real images of one class.
        options: options of the run.
    """
    of_task = [row for row in rows if row["task"] == task and "energy" in row]
    keys = ("scale", "network", "energy", "energy_stderr", "diversity", "judge_accuracy", "frechet")

    def lowest(some: list[Row]) -> Row | None:
        if not some:
            return None
        best = min(some, key=energy_of)
        return {key: best[key] for key in keys}

    table: Row = {}
    for family in options.families:
        mine = [row for row in of_task if row["family"] == family]
        grid = [row for row in mine if row["budget"] == options.grid]
        table[family] = {
            "budgets": {
                str(b): lowest([row for row in mine if row["budget"] == b]) for b in options.budgets
            },
            "as_diverse_as": {
                f"{share:g}": lowest([row for row in grid if row["diversity"] >= share * real])
                for share in SHARES
            },
        }
    return table


def show(result: Row) -> None:
    """Print the figures."""
    print("unseen digits:", {key: round(value, 3) for key, value in result["held_out"].items()})
    for task, table in result["claims"].items():
        for family, cells in table.items():
            for kind, of_kind in cells.items():
                texts = [
                    f"{key}: {cell['energy']:.3g} (diversity {cell['diversity']:.2f}, "
                    f"right {cell['judge_accuracy']:.2f}, Frechet {cell['frechet']:.1f})"
                    for key, cell in of_kind.items()
                    if cell is not None
                ]
                print(f"{task}, {family}, {kind}: {'; '.join(texts)}")


# ---- the picture ------------------------------------------------------------------------------


def picture(
    rows: list[Row],
    images: dict[tuple[str, str], Tensor],
    asked: dict[str, Tensor],
    side: int,
    options: Options,
) -> Figure:
    """For each energy: reached against evaluations, against diversity, the judge; and images.

    Args:
        rows: all rows.
        images: images of the lowest energy by task and method.
        asked: images of what each task wants.
        side: rows of an image.
        options: options of the run.
    """
    figure = plt.figure(figsize=(20, 7.6 * len(asked)), layout="constrained")
    panels = figure.subfigures(len(asked), 1, squeeze=False)[:, 0]
    for panel, task in zip(panels, asked, strict=True):
        upper, lower = panel.subfigures(2, 1, height_ratios=(1.6, 1))
        budget = options.grid * options.steps
        upper.suptitle(
            f"{task} energy, {options.wishes} images per point, {options.data}", fontweight="bold"
        )
        axes = upper.subplots(1, 4)
        for family in options.families:
            mine = [row for row in rows if (row["task"], row["family"]) == (task, family)]
            draw_family(axes, family, mine, options)
        label_axes(axes, options)
        handles, labels = axes[0].get_legend_handles_labels()
        upper.legend(handles, labels, loc="outside lower center", ncols=4)
        lower.supxlabel(f"{budget} evaluations; the first row: what is wanted", fontsize=10)
        axes = lower.subplots(1, len(options.families), squeeze=False)[0]
        for axis, family in zip(axes, options.families, strict=True):
            page = torch.cat([asked[task], images[task, family][:40]])
            frame = mosaic(page, (side, side), columns=10, fill=1.0)
            axis.imshow(frame.numpy(), cmap="gray", vmin=-1, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.set_title(family, fontsize=10, color=FAMILIES[family])
    return figure


def draw_family(axes: Any, family: str, rows: list[Row], options: Options) -> None:
    """A method's rows in the four panels.

    Args:
        axes: the four panels.
        family: key of FAMILIES.
        rows: rows of the method and task.
        options: options of the run.
    """
    colour = FAMILIES[family]
    mine = [row for row in rows if "energy" in row]
    by_scale = [row for row in mine if row["budget"] == options.grid]
    if not by_scale:
        return
    label = NAMES.get(family, family)
    if len(mine) < len(rows):
        label += f" ({len(rows) - len(mine)} of its runs diverged)"
    style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 4, "label": label}
    scale = min(by_scale, key=energy_of)["scale"]
    curve = [row for row in mine if row["scale"] == scale]
    curve.sort(key=lambda row: row["network"])
    energy = [row["energy"] for row in curve]
    error = [2 * row["energy_stderr"] for row in curve]
    spent = [row["energy_evaluations"] + row["hessian_vectors"] for row in curve]
    axes[0].errorbar([row["network"] for row in curve], energy, error, **style)
    axes[1].errorbar(spent, energy, error, **style)
    by_scale.sort(key=lambda row: row["scale"])
    sizes = [DOT * 3 ** place(row["scale"], options) for row in by_scale]
    for axis, x, y in (
        (axes[2], "diversity", "energy"),
        (axes[3], "frechet", "judge_accuracy"),
    ):
        across = [row[x] for row in by_scale]
        up = [row[y] for row in by_scale]
        axis.plot(across, up, color=colour)
        axis.scatter(across, up, sizes, color=colour, alpha=0.7)


def place(scale: float, options: Options) -> int:
    """The number of a scale among the options'; 0 where a method has none."""
    return sorted(options.scales).index(scale) if scale in options.scales else 0


def label_axes(axes: Any, options: Options) -> None:
    """Labels and scales of the four panels."""
    axes[0].set(xlabel="network evaluations per image", xscale=scale_of(axes[0].dataLim.minposx))
    ticks = [options.steps * budget for budget in sorted(options.budgets)]
    axes[0].set_xticks(ticks, map(str, ticks))
    axes[0].minorticks_off()
    axes[1].set(xlabel="evaluations of energy and gradient, Hessian-vectors")
    axes[1].set_xscale("symlog", linthresh=1)
    scales = ", ".join(f"{scale:g}" for scale in options.scales)
    axes[2].set(xlabel=f"diversity; larger dots: scale {scales}")
    axes[3].set(xlabel="Frechet distance to real digits", ylabel="judge's accuracy")
    for axis in axes:
        axis.grid(alpha=0.3)
    for axis in axes[:3]:
        axis.set(yscale=scale_of(axis.dataLim.minposy), ylabel="mean energy, nats")


def scale_of(least: float) -> str:
    """The scale of an axis by its least positive value: no logarithm where there is none."""
    return "log" if math.isfinite(least) else "linear"


if __name__ == "__main__":
    command_line(main, Options)
