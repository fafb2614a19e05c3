"""Guidance by annealed noise against classifier guidance and best-of-N, on a small DDPM of digits.

    python experiments/claims/guided_noise.py --out runs/guided_noise

The script trains a UNet on scikit-learn's 8 x 8 digits, a classifier of noisy images that guides,
and a judge on other rows that never does. Two energies: a wanted class, and the upper half of a
held-out digit (inpainting). Each method draws the same wishes through diffusers' DDPMPipeline; it
differs in `pipe.scheduler` alone. Of each is told: the energy of the final images, evaluations per
image (network, energy, Hessian-vector), diversity, and what the judge says.

Against best-of-N annealed noise spends a fraction of the network evaluations. Against classifier
guidance it spends three evaluations of the energy for one; its noise keeps its length, so that it
bears any scale, while the shifted mean of classifier guidance diverges where the energy is steep
(inpainting). J costs 64 Hessian-vector products per step and buys diversity at large scales. Strong
guidance by any of them moves the images away from real ones in the judge's features.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qsample.annealers import Gibbs
from qsample.diffusion import AnnealedGuidance, first_order, second_order
from qsample.integrations.diffusers.guidance_step import ddpm
from qsample.metrics import ImageFeatures, frechet_distance

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, command_line, mosaic, progress_bar

SIDE = 8
D = SIDE * SIDE
CLEAN = torch.tensor(-1)
"""the timestep of a final image"""
METHODS = {
    "plain": "black",
    "best of": "tab:gray",
    "classifier guidance": "tab:orange",
    "annealed noise": "tab:blue",
    "annealed noise, J = 0": "tab:cyan",
}
NAMES = {"best of": "best of N", "annealed noise": "annealed noise, second order"}
Energy = Callable[[Tensor, Tensor, Tensor], Tensor]
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """The defaults take some six minutes of one core."""

    updates: int = 2500
    """gradient steps of the UNet, batches of 128"""
    wishes: int = 200
    """images of each method and energy"""
    steps: tuple[int, ...] = (10, 20, 40)
    """reverse steps; the grid of scales is drawn at the middle one"""
    scales: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
    """scales of guidance"""
    best_of: tuple[int, ...] = (2, 4, 8)
    """samples drawn for each one kept"""
    sweeps: int = 20
    """Gibbs sweeps of the annealed noise"""
    moves: int = 1
    """corrections by Metropolis and Hastings"""
    seed: int = 0
    """seed of all randomness"""

    @property
    def middle(self) -> int:
        """The number of steps at which scales are tried."""
        return self.steps[len(self.steps) // 2]


class Task(NamedTuple):
    """An energy, the labels that are wanted, and which images share a wish."""

    energy: Energy
    labels: Tensor
    wishes: Tensor


class World(NamedTuple):
    """What is trained, and the images that it is judged by."""

    pipe: DDPMPipeline
    guide: NoisyClassifier
    judge: ImageFeatures
    images: Tensor
    labels: Tensor
    training: int
    """the images before this one are seen in training, the others by nobody"""


def main(options: Options) -> None:
    """Train, draw by every method, judge."""
    report = Report(options, __file__, packages=("diffusers",))
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    world = train(options)
    floor = held_out(world) | {"training_seconds": time.perf_counter() - start}
    rows: list[Row] = []
    images: dict[tuple[str, str], Tensor] = {}
    asked: dict[str, Tensor] = {}
    for name, task in tasks(world, options).items():
        for method in METHODS:
            images[name, method] = draw_all(name, task, method, world, rows, options)
        asked[name] = wanted(name, task, world)
    claims = {name: claim(name, rows, options) for name in asked}
    for name, row in claims.items():
        print(name, row)
    result = {
        "held_out": floor,
        "claims": claims,
        "rows": rows,
        "seconds": time.perf_counter() - start,
    }
    report.finish(result, picture(rows, images, asked, options))


def train(options: Options) -> World:
    """The guide, the judge and the denoiser."""
    digits: Any = load_digits()
    order = torch.randperm(len(digits.target))
    x = (torch.from_numpy(digits.data).float().reshape(-1, 1, SIDE, SIDE) / 8 - 1)[order]
    y = torch.from_numpy(digits.target)[order]
    scheduler = plain_scheduler()
    guide = train_classifier(x[:800], y[:800], scheduler, options.updates)
    rows = x[800:1600].flatten(1)
    judge = ImageFeatures(rows, y[800:1600], (SIDE, SIDE), epochs=40, seed=options.seed)
    unet = train_unet(x[:1600], scheduler, options.updates)
    pipe = DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return World(pipe, guide, judge, x, y, 1600)


def tasks(world: World, options: Options) -> dict[str, Task]:
    """Both energies, with a wish for each image."""
    label = torch.arange(options.wishes) % 10
    wish = torch.arange(options.wishes) % min(10, max(1, options.wishes // 2))
    known = world.images[world.training :][wish]
    digit = world.labels[world.training :][wish]
    return {
        "class": Task(class_energy(world.guide, label), label, label),
        "inpainting": Task(inpainting_energy(plain_scheduler(), known), digit, wish),
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
    known = world.images[world.training :][task.wishes[:10]]
    upper = torch.arange(SIDE)[:, None] < SIDE // 2
    return torch.where(upper, known, torch.zeros(()))


# ---- what is trained --------------------------------------------------------------------------


class NoisyClassifier(nn.Module):
    """Class logits of images at a timestep; smooth, for it is asked for second derivatives."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.inner = nn.Linear(D + 32, width)
        self.outer = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 10)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Of x `[B, 1, 8, 8]`, t `[B]` or a number; -1 is a clean image."""
        angles = (t.float().reshape(-1, 1) + 1) / 1000 * (2.0 ** torch.arange(16)) * math.pi / 2
        times = torch.cat([angles.sin(), angles.cos()], -1).expand(len(x), -1)
        return self.outer(self.inner(torch.cat([x.flatten(1), times], -1)))


def noisy(scheduler: DDPMScheduler, x: Tensor, t: Tensor) -> Tensor:
    """Images as the forward process leaves them at t; untouched at -1.

    Args:
        scheduler: forward process.
        x: clean images.
        t: timestep of each.
    """
    noise = torch.randn(x.shape)
    added = scheduler.add_noise(x, noise, t.clamp(min=0))  # pyright: ignore[reportArgumentType]
    return torch.where(t.reshape(-1, 1, 1, 1) < 0, x, added)


def train_unet(x: Tensor, scheduler: DDPMScheduler, updates: int) -> Any:
    """The denoiser, by the simple loss of Ho et al. (2020); its weights' running mean.

    Args:
        x: images `[N, 1, 8, 8]`, -1 to 1.
        scheduler: forward process.
        updates: gradient steps.
    """
    unet = UNet2DModel(
        sample_size=SIDE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )
    optimizer = torch.optim.Adam(unet.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    mean = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    for _ in progress_bar(range(updates), desc="UNet"):
        image = x[torch.randint(len(x), (128,))]
        t: Any = torch.randint(1000, (128,))
        noise = torch.randn(image.shape)
        predicted = unet(scheduler.add_noise(image, noise, t), t).sample
        loss = (predicted - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        mean.update_parameters(unet)
    return mean.module.eval().requires_grad_(False)


def train_classifier(
    x: Tensor, y: Tensor, scheduler: DDPMScheduler, updates: int
) -> NoisyClassifier:
    """The guide: cross entropy at all timesteps, the clean image's among them.

    Args:
        x: images `[N, 1, 8, 8]`.
        y: labels `[N]`.
        scheduler: forward process.
        updates: gradient steps.
    """
    net = NoisyClassifier()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in progress_bar(range(updates), desc="classifier"):
        rows = torch.randint(len(x), (256,))
        t = torch.randint(-100, 1000, (256,)).clamp(min=-1)
        logits = net(noisy(scheduler, x[rows], t), t)
        loss = nn.functional.cross_entropy(logits, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


# ---- energies ---------------------------------------------------------------------------------


def class_energy(net: NoisyClassifier, labels: Tensor) -> Energy:
    """-log p(label | x at t)."""
    return lambda x, x0, t: nn.functional.cross_entropy(net(x, t), labels, reduction="none")


def inpainting_energy(scheduler: DDPMScheduler, known: Tensor, blur: float = 0.1) -> Energy:
    """-log of the normal law of the upper half of x at t; 0 for a perfect image.

    Args:
        scheduler: forward process.
        known: images whose upper half is wanted.
        blur: standard deviation to within which its pixels are known.
    """

    def energy(x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        signal = scheduler.alphas_cumprod[int(t)] if t >= 0 else torch.tensor(1.0)
        difference = (x - signal**0.5 * known)[:, :, : SIDE // 2]
        variance = 1 - signal + signal * blur**2
        return difference.flatten(1).square().sum(1) / (2 * variance)

    return energy


# ---- methods ----------------------------------------------------------------------------------


class ClassifierGuidance(DDPMScheduler):
    """Dhariwal and Nichol (NeurIPS 2021), Algorithm 1: the mean moved by -scale sigma^2 grad G."""

    energy: Energy
    scale: float
    gradients = 0

    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Any,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """DDPM's step, moved; the gradient is that at the mean."""
        arguments = {"model_output": model_output, "timestep": timestep, "sample": sample}
        reverse = ddpm(self, arguments)
        out: Any = super().step(model_output, timestep, sample, generator)
        if reverse.std > 0:
            with torch.enable_grad():
                mean = reverse.mean.detach().requires_grad_()
                total = self.energy(mean, reverse.x0, reverse.t).sum()
                (gradient,) = torch.autograd.grad(total, mean)
            self.gradients += len(mean)
            out.prev_sample = out.prev_sample - self.scale * reverse.std**2 * gradient
        return out


def plain_scheduler() -> DDPMScheduler:
    """DDPM without guidance."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def draw(pipe: DDPMPipeline, count: int, steps: int, generator: torch.Generator) -> Tensor:
    """Images `[count, 1, 8, 8]`, -1 to 1.

    Args:
        pipe: pipeline with its scheduler.
        count: number of images.
        steps: reverse steps.
        generator: source of the noise.
    """
    out: Any = pipe(count, generator=generator, num_inference_steps=steps, output_type="np")
    return torch.from_numpy(out.images).permute(0, 3, 1, 2) * 2 - 1


def sample(
    pipe: DDPMPipeline, method: str, energy: Energy, steps: int, scale: float, options: Options
) -> tuple[Tensor, Row]:
    """Images of a method, and evaluations per image of network, energy and Hessian-vectors.

    Args:
        pipe: pipeline, whose scheduler is replaced.
        method: key of METHODS, or "best of N".
        energy: energy that guides.
        steps: reverse steps.
        scale: scale of guidance.
        options: options of the run.
    """
    generator = torch.Generator().manual_seed(options.seed + 1)
    n = options.wishes
    if method == "plain":
        return best_of(pipe, 1, energy, steps, generator, n)
    if method.startswith("best of"):
        return best_of(pipe, int(method.split()[-1]), energy, steps, generator, n)
    if method == "classifier guidance":
        guided: Any = ClassifierGuidance.from_config(plain_scheduler().config)
        guided.energy = energy
        guided.scale = scale
        pipe.scheduler = guided
        images = draw(pipe, n, steps, generator)
        gradients = guided.gradients / n
        return images, {"network": steps, "energy_evaluations": gradients, "hessian_vectors": 0}
    annealed: Any = AnnealedGuidance(
        plain_scheduler(),
        energy,
        Gibbs(options.sweeps, scan="palindromic"),
        scale,
        K=D,
        surrogate=second_order if method == "annealed noise" else first_order,
        moves=options.moves,
    )
    pipe.scheduler = annealed
    images = draw(pipe, n, steps, generator)
    info = annealed.info
    return images, {
        "network": info["network"] / n,
        "energy_evaluations": info["energy"] / n,
        "hessian_vectors": info["hessian_vectors"] / n,
        "acceptance": info["acceptance"],
    }


def best_of(
    pipe: DDPMPipeline,
    tries: int,
    energy: Energy,
    steps: int,
    generator: torch.Generator,
    count: int,
) -> tuple[Tensor, Row]:
    """Plain samples; of several for each wish the one of the lowest final energy.

    Args:
        pipe: pipeline, whose scheduler is replaced.
        tries: samples for each wish, N.
        energy: energy that chooses.
        steps: reverse steps.
        generator: source of the noise.
        count: number of wishes.
    """
    pipe.scheduler = plain_scheduler()
    samples = torch.stack([draw(pipe, count, steps, generator) for _ in range(tries)])
    energies = torch.stack([energy(x, x, CLEAN) for x in samples])
    images = samples[energies.argmin(0), torch.arange(count)]
    evaluations = tries if tries > 1 else 0
    cost = {"network": tries * steps, "energy_evaluations": evaluations, "hessian_vectors": 0}
    return images, cost


def draw_all(
    name: str, task: Task, method: str, world: World, rows: list[Row], options: Options
) -> Tensor:
    """All scales and numbers of steps of a method, which add to the rows; its best images.

    Args:
        name: name of the task.
        task: energy and wishes.
        method: key of METHODS.
        world: what was trained.
        rows: where rows are added.
        options: options of the run.
    """

    def draws(full_name: str, steps: int, scale: float) -> tuple[Row, Tensor]:
        start = time.process_time()
        images, cost = sample(world.pipe, full_name, task.energy, steps, scale, options)
        row: Row = {"task": name, "family": method, "method": full_name}
        row |= {"steps": steps, "scale": scale, **cost}
        row["cpu_seconds"] = time.process_time() - start
        row |= judged(images, task, world)
        rows.append(row)
        reached = "diverged" if "diverged" in row else f"energy {row['energy']:9.4f}"
        print(f"{name:10} {full_name:21} {steps:3} steps  scale {scale:5g}  {reached}", flush=True)
        return row, images

    if method == "best of":
        results = [draws(f"best of {N}", options.middle, 0.0) for N in options.best_of]
        return results[-1][1]
    scales = (0.0,) if method == "plain" else options.scales
    results = [draws(method, options.middle, scale) for scale in scales]
    row, images = min(results, key=lambda result: result[0].get("energy", math.inf))
    for steps in options.steps:
        if steps != options.middle:
            draws(method, steps, row["scale"])
    return images


# ---- what is told of images -------------------------------------------------------------------


def diversity(images: Tensor, wishes: Tensor) -> float:
    """Mean distance of two images of the same wish."""
    groups = [images[wishes == wish].flatten(1) for wish in wishes.unique()]
    return sum(float(torch.pdist(group).mean()) for group in groups) / len(groups)


def accuracy(judge: ImageFeatures, images: Tensor, labels: Tensor) -> float:
    """Share of images that the judge sees as their label.

    Args:
        judge: classifier of clean images.
        images: images `[N, 64]`.
        labels: labels `[N]`.
    """
    return float((judge.logits(images).argmax(1) == labels).double().mean())


def judged(images: Tensor, task: Task, world: World) -> Row:
    """Energy of the final images, diversity, and what the judge says of them.

    Args:
        images: images `[N, 1, 8, 8]`.
        task: energy and wishes.
        world: judge and real images.
    """
    if not images.isfinite().all():
        return {"diverged": True}
    energy = task.energy(images, images, CLEAN)
    flat = images.flatten(1)
    logits = world.judge.logits(flat)
    real = world.judge(world.images[: world.training].flatten(1))
    return {
        "energy": float(energy.mean()),
        "energy_stderr": float(energy.std() / len(energy) ** 0.5),
        "diversity": diversity(images, task.wishes),
        "judge_accuracy": accuracy(world.judge, flat, task.labels),
        "judge_cross_entropy": float(nn.functional.cross_entropy(logits, task.labels)),
        "frechet": frechet_distance(real, world.judge(flat)),
    }


def held_out(world: World) -> Row:
    """What the judge says of images that nobody has seen."""
    images = world.images.flatten(1)
    unseen = images[world.training :]
    seen = images[: world.training]
    return {
        "judge_accuracy": accuracy(world.judge, unseen, world.labels[world.training :]),
        "frechet": frechet_distance(world.judge(seen), world.judge(unseen)),
    }


def claim(task: str, rows: list[Row], options: Options) -> Row:
    """Annealed noise at its best scale against the best of N, N the largest tried.

    Args:
        task: name of the task.
        rows: all rows.
        options: options of the run.
    """
    of_task = [row for row in rows if row["task"] == task]
    annealed = [row for row in of_task if row["method"] == "annealed noise" and "energy" in row]
    best = min(annealed, key=lambda row: row["energy"])
    peer_name = f"best of {max(options.best_of)}"
    peer = next(row for row in of_task if row["method"] == peer_name)
    keys = ("method", "steps", "scale", "network", "energy", "energy_stderr")
    keys += ("diversity", "judge_accuracy", "frechet")
    return {
        "holds": best["energy"] < peer["energy"] and best["network"] <= peer["network"],
        "annealed": {key: best[key] for key in keys},
        "best_of": {key: peer[key] for key in keys},
    }


# ---- the picture ------------------------------------------------------------------------------


def picture(
    rows: list[Row],
    images: dict[tuple[str, str], Tensor],
    asked: dict[str, Tensor],
    options: Options,
) -> Figure:
    """For each energy: reached against evaluations, against diversity, the judge; and images.

    Args:
        rows: all rows.
        images: best images by task and method.
        asked: images of what each task wants.
        options: options of the run.
    """
    figure = plt.figure(figsize=(17, 6.4 * len(asked)), layout="constrained")
    panels = figure.subfigures(len(asked), 1, squeeze=False)[:, 0]
    for panel, task in zip(panels, asked, strict=True):
        upper, lower = panel.subfigures(2, 1, height_ratios=(1.5, 1))
        upper.suptitle(f"{task} energy, {options.wishes} images per point", fontweight="bold")
        axes = upper.subplots(1, 4)
        of_task = [row for row in rows if row["task"] == task]
        for method in METHODS:
            draw_method(axes, method, of_task, options)
        label_axes(axes, options)
        handles, labels = axes[0].get_legend_handles_labels()
        upper.legend(handles, labels, loc="outside lower center", ncols=len(METHODS))
        for axis, method in zip(lower.subplots(1, len(METHODS)), METHODS, strict=True):
            page = torch.cat([asked[task], images[task, method][:40]])
            frame = mosaic(page, (SIDE, SIDE), columns=10, fill=1.0)
            axis.imshow(frame.numpy(), cmap="gray", vmin=-1, vmax=1)
            title = f"best of {max(options.best_of)}" if method == "best of" else method
            axis.set(title=title, xticks=[], yticks=[], xlabel="first row: what is wanted")
    return figure


def draw_method(axes: Any, method: str, rows: list[Row], options: Options) -> None:
    """A method's rows in the four panels; those far worse than plain samples count as diverged.

    Args:
        axes: the four panels.
        method: key of METHODS.
        rows: rows of the task.
        options: options of the run.
    """
    worst = max(row["energy"] for row in rows if row["method"] == "plain")
    family = [row for row in rows if row["family"] == method]
    mine = [row for row in family if row.get("energy", math.inf) <= 1.5 * worst]
    by_scale = [row for row in mine if row["steps"] == options.middle]
    if not by_scale:
        return
    colour = METHODS[method]
    label = NAMES.get(method, method)
    if len(mine) < len(family):
        label += f" ({len(family) - len(mine)} of its runs diverged)"
    style: dict[str, Any] = {"color": colour, "marker": "o", "ms": 4, "label": label}
    scale = min(by_scale, key=lambda row: row["energy"])["scale"]
    curve = [row for row in mine if row["scale"] == scale]
    curve.sort(key=lambda row: row["network"])
    energy = [row["energy"] for row in curve]
    error = [2 * row["energy_stderr"] for row in curve]
    spent = [row["energy_evaluations"] + row["hessian_vectors"] for row in curve]
    axes[0].errorbar([row["network"] for row in curve], energy, error, **style)
    axes[1].errorbar(spent, energy, error, **style)
    for axis, x, y in (
        (axes[2], "diversity", "energy"),
        (axes[3], "frechet", "judge_accuracy"),
    ):
        axis.plot([row[x] for row in by_scale], [row[y] for row in by_scale], **style)
        if len(by_scale) > 1 and method != "best of":
            for row in by_scale:
                axis.annotate(f"{row['scale']:g}", (row[x], row[y]), fontsize=7, color=colour)


def label_axes(axes: Any, options: Options) -> None:
    """Labels and scales of the four panels."""
    axes[0].set(xlabel="network evaluations per image", xscale="log")
    axes[0].set_ylabel("mean energy of the image, nats")
    axes[1].set(xlabel="evaluations of the energy, gradients, Hessian-vectors")
    axes[1].set_ylabel("mean energy, nats")
    axes[1].set_xscale("symlog", linthresh=1)
    axes[2].set(xlabel="diversity: distance of images of one wish")
    axes[2].set_ylabel(f"mean energy, {options.middle} steps, by scale")
    axes[3].set(xlabel="Frechet distance to real digits", ylabel="judge's accuracy")
    for axis in axes:
        axis.grid(alpha=0.3)
    for axis in axes[:3]:
        axis.set_yscale("log")


if __name__ == "__main__":
    command_line(main, Options)
