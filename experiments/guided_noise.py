"""Guidance by annealed noise against classifier guidance, best-of-N and plain sampling, on a small DDPM of digits.

    python experiments/guided_noise.py --out runs/guided_noise

The script trains a UNet on scikit-learn's 8 x 8 digits, a classifier of noisy images that guides, and a judge on other
rows that never does. Two energies: a wanted class, and the upper half of a held-out digit (inpainting). Each method
draws the same wishes through diffusers' DDPMPipeline; it differs in `pipe.scheduler` alone. Told of each: the energy
of the final images, evaluations an image (network, energy, Hessian-vector), diversity, and what the judge says.

Annealed noise beats best-of-8 by far at an eighth of its network evaluations. Against classifier guidance it spends
three evaluations of the energy for one, reaches the same energies at the same diversity on the class, and where the
energy is steep (inpainting) lower ones: its noise keeps its length, so it bears any scale, while the shifted mean of
classifier guidance diverges. J costs 64 Hessian-vector products a step and buys diversity at large scales. Strong
guidance by any of them moves the images away from real ones in the judge's features.

Writes results.json and guided_noise.png.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from sklearn.datasets import load_digits
from torch import Tensor, nn

from qsample.annealers import Gibbs
from qsample.diffusion import AnnealedGuidance, first_order, second_order
from qsample.integrations.diffusers.guidance_step import ddpm
from qsample.metrics import ImageFeatures, frechet_distance
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SIDE, D = 8, 64
Energy = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Options:
    """The defaults take some six minutes of one core."""

    out: Path = Path("runs/guided_noise")
    """folder for results.json and guided_noise.png"""
    updates: int = 2500
    """of the UNet, batches of 128"""
    wishes: int = 200
    """images of each method and energy"""
    steps: tuple[int, ...] = (10, 20, 40)
    """reverse steps; the grid of scales is drawn at the middle one"""
    scales: tuple[float, ...] = (1.0, 3.0, 10.0, 30.0, 100.0)
    """of guidance"""
    best_of: tuple[int, ...] = (2, 4, 8)
    """samples drawn for each one kept"""
    sweeps: int = 20
    """Gibbs sweeps of the annealed noise"""
    moves: int = 1
    """corrections by Metropolis and Hastings"""
    seed: int = 0
    """of all randomness"""
    threads: int = 1
    """torch threads"""


# ---- what is trained -----------------------------------------------------------------------------------------------


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
        time_features = torch.cat([angles.sin(), angles.cos()], -1).expand(len(x), -1)
        return self.outer(self.inner(torch.cat([x.flatten(1), time_features], -1)))


def noisy(scheduler: DDPMScheduler, x: Tensor, t: Tensor) -> Tensor:
    """Images as the forward process leaves them at t; untouched at -1."""
    added = scheduler.add_noise(x, torch.randn(x.shape), t.clamp(min=0))  # pyright: ignore[reportArgumentType]
    return torch.where(t.reshape(-1, 1, 1, 1) < 0, x, added)


def train_unet(x: Tensor, scheduler: DDPMScheduler, updates: int) -> Any:
    """The denoiser, by the simple loss of Ho et al. (2020); its weights' running mean."""
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
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    mean = torch.optim.swa_utils.AveragedModel(
        unet, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    for _ in progress_bar(range(updates), desc="UNet"):
        image, t = x[torch.randint(len(x), (128,))], torch.randint(1000, (128,))
        noise = torch.randn(image.shape)
        seen: Any = scheduler.add_noise(image, noise, t)  # pyright: ignore[reportArgumentType]
        loss = (unet(seen, t).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        mean.update_parameters(unet)
    return mean.module.eval().requires_grad_(False)


def train_classifier(
    x: Tensor, y: Tensor, scheduler: DDPMScheduler, updates: int
) -> NoisyClassifier:
    """The guide: cross entropy at all timesteps, the clean image's among them."""
    net = NoisyClassifier()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in progress_bar(range(updates), desc="classifier"):
        rows, t = torch.randint(len(x), (256,)), torch.randint(-100, 1000, (256,)).clamp(min=-1)
        loss = nn.functional.cross_entropy(net(noisy(scheduler, x[rows], t), t), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


# ---- energies ------------------------------------------------------------------------------------------------------


def class_energy(net: NoisyClassifier, labels: Tensor) -> Energy:
    """-log p(label | x at t)."""
    return lambda x, x0, t: nn.functional.cross_entropy(net(x, t), labels, reduction="none")


def inpainting_energy(scheduler: DDPMScheduler, known: Tensor, blur: float = 0.1) -> Energy:
    """-log of the normal law of the upper half of x at t, its pixels known to within `blur`; 0 for a perfect image."""

    def energy(x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        signal = scheduler.alphas_cumprod[int(t)] if t >= 0 else torch.tensor(1.0)
        distance = (x - signal**0.5 * known)[:, :, : SIDE // 2].flatten(1).square().sum(1)
        return distance / (2 * (1 - signal + signal * blur**2))

    return energy


# ---- methods -------------------------------------------------------------------------------------------------------


class ClassifierGuidance(DDPMScheduler):
    """Dhariwal and Nichol (NeurIPS 2021), Algorithm 1: the mean moved by -scale sigma^2 grad G(mu)."""

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
    ):
        """DDPM's step, moved."""
        reverse = ddpm(self, {"model_output": model_output, "timestep": timestep, "sample": sample})
        out: Any = super().step(model_output, timestep, sample, generator)
        if reverse.std > 0:
            with torch.enable_grad():
                at = reverse.mean.detach().requires_grad_()
                gradient = torch.autograd.grad(self.energy(at, reverse.x0, reverse.t).sum(), at)[0]
            self.gradients += len(at)
            out.prev_sample = out.prev_sample - self.scale * reverse.std**2 * gradient
        return out


def draw(pipe: DDPMPipeline, count: int, steps: int, generator: torch.Generator) -> Tensor:
    """Images `[count, 1, 8, 8]`, -1 to 1."""
    out: Any = pipe(count, generator=generator, num_inference_steps=steps, output_type="np")
    return torch.from_numpy(out.images).permute(0, 3, 1, 2) * 2 - 1


def plain_scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def sample(
    pipe: DDPMPipeline, method: str, energy: Energy, steps: int, scale: float, options: Options
) -> Any:
    """(images, evaluations an image, notes) of one method; best-of-N keeps the image of the lowest final energy."""
    generator, n = torch.Generator().manual_seed(options.seed + 1), options.wishes
    notes: dict[str, Any] = {}
    if method == "plain" or method.startswith("best of"):
        pipe.scheduler, N = plain_scheduler(), 1 if method == "plain" else int(method.split()[-1])
        tries = torch.stack([draw(pipe, n, steps, generator) for _ in range(N)])
        E = torch.stack([energy(x, x, torch.tensor(-1)) for x in tries])
        images = tries[E.argmin(0), torch.arange(n)]
        cost = {"network": N * steps, "energy_evaluations": N if N > 1 else 0, "hessian_vectors": 0}
    elif method == "classifier guidance":
        guided: Any = ClassifierGuidance.from_config(plain_scheduler().config)
        guided.energy, guided.scale = energy, scale
        pipe.scheduler = guided
        images = draw(pipe, n, steps, generator)
        cost = {"network": steps, "energy_evaluations": guided.gradients / n, "hessian_vectors": 0}
    else:
        surrogate = second_order if method == "annealed noise" else first_order
        sampler = Gibbs(options.sweeps, scan="palindromic")
        annealed = AnnealedGuidance(
            plain_scheduler(), energy, sampler, scale, K=D, surrogate=surrogate, moves=options.moves
        )
        pipe.scheduler = annealed  # pyright: ignore[reportAttributeAccessIssue]
        images = draw(pipe, n, steps, generator)
        cost = {name: annealed.info[name] / n for name in ("network", "hessian_vectors")}
        cost["energy_evaluations"] = annealed.info["energy"] / n
        notes["acceptance"] = annealed.info["acceptance"]
    return images, cost, notes


# ---- what is told of images ----------------------------------------------------------------------------------------


def diversity(images: Tensor, wishes: Tensor) -> float:
    """Mean distance of two images of the same wish."""
    groups = [images[wishes == one].flatten(1) for one in wishes.unique()]
    return sum(float(torch.pdist(group).mean()) for group in groups) / len(groups)


def judged(
    images: Tensor, energy: Energy, labels: Tensor, wishes: Tensor, real: Tensor, judge: Any
) -> dict[str, Any]:
    """Energy of the final images, diversity, and the judge's accuracy and Frechet distance to real images."""
    if not images.isfinite().all():
        return {"diverged": True}
    E = energy(images, images, torch.tensor(-1))
    flat = images.flatten(1)
    return {
        "energy": float(E.mean()),
        "energy_stderr": float(E.std() / len(E) ** 0.5),
        "diversity": diversity(images, wishes),
        "judge_accuracy": float((judge.logits(flat).argmax(1) == labels).double().mean()),
        "judge_cross_entropy": float(nn.functional.cross_entropy(judge.logits(flat), labels)),
        "frechet": frechet_distance(judge(real.flatten(1)), judge(flat)),
    }


def main(options: Options) -> None:
    """Train, draw by every method, judge."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    digits: Any = load_digits()
    order = torch.randperm(len(digits.target))
    x = (torch.from_numpy(digits.data).float().reshape(-1, 1, SIDE, SIDE) / 8 - 1)[order]
    y = torch.from_numpy(digits.target)[order]
    scheduler = plain_scheduler()
    guide = train_classifier(x[:800], y[:800], scheduler, options.updates)
    judge = ImageFeatures(
        x[800:1600].flatten(1), y[800:1600], (SIDE, SIDE), epochs=40, seed=options.seed
    )
    held_x, held_y = x[1600:], y[1600:]  # seen by none of the three
    unet = train_unet(x[:1600], scheduler, options.updates)
    pipe = DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)

    label = torch.arange(options.wishes) % 10
    wish = torch.arange(options.wishes) % min(10, max(1, options.wishes // 2))
    tasks: dict[str, tuple[Energy, Tensor, Tensor]] = {
        "class": (class_energy(guide, label), label, label),
        "inpainting": (inpainting_energy(scheduler, held_x[wish]), held_y[wish], wish),
    }
    floor = {
        "judge_accuracy": float(
            (judge.logits(held_x.flatten(1)).argmax(1) == held_y).double().mean()
        ),
        "frechet": frechet_distance(judge(x[:1600].flatten(1)), judge(held_x.flatten(1))),
        "training_seconds": time.perf_counter() - start,
    }
    rows: list[dict[str, Any]] = []
    grids: dict[tuple[str, str], Tensor] = {}
    for task, (energy, labels, wishes) in tasks.items():

        def draws(
            method: str,
            steps: int,
            scale: float,
            *,
            task=task,
            energy=energy,
            labels=labels,
            wishes=wishes,
        ):
            begin = time.process_time()
            family = "best of" if method.startswith("best of") else method
            images, cost, notes = sample(pipe, method, energy, steps, scale, options)
            row = {
                "task": task,
                "family": family,
                "method": method,
                "steps": steps,
                "scale": scale,
                **cost,
                **notes,
            }
            row["cpu_seconds"] = time.process_time() - begin
            row |= judged(images, energy, labels, wishes, x[:1600], judge)
            rows.append(row)
            reached = "diverged" if "diverged" in row else f"energy {row['energy']:9.4f}"
            print(f"{task:10} {method:21} {steps:3} steps  scale {scale:5g}  {reached}", flush=True)
            return row, images

        middle = options.steps[len(options.steps) // 2]
        for method in METHODS:
            if method == "best of":
                grids[task, method] = [
                    draws(f"best of {N}", middle, 0.0)[1] for N in options.best_of
                ][-1]
                continue
            scales = (0.0,) if method == "plain" else options.scales
            found = [draws(method, middle, scale) for scale in scales]
            row, grids[task, method] = min(found, key=lambda one: one[0].get("energy", math.inf))
            for steps in options.steps:
                if steps != middle:
                    draws(method, steps, row["scale"])
    results = {
        "options": {**asdict(options), "out": str(options.out)},
        "held_out": floor,
        "claims": [claim(task, rows, options) for task in tasks],
        "results": rows,
        "seconds": time.perf_counter() - start,
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    half = torch.where(torch.arange(SIDE)[:, None] < SIDE // 2, held_x[wish[:10]], torch.zeros(()))
    means = torch.stack([x[y == k].mean(0) for k in label[:10]])
    picture(rows, grids, {"class": means, "inpainting": half}, options)
    for one in results["claims"]:
        print(json.dumps(one))
    print(f"{options.out / 'results.json'}\n{options.out / 'guided_noise.png'}")


METHODS = {
    "plain": "black",
    "best of": "tab:gray",
    "classifier guidance": "tab:orange",
    "annealed noise": "tab:blue",
    "annealed noise, J = 0": "tab:cyan",
}


def claim(task: str, rows: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Annealed noise at its best scale against the best of N, N the most tried."""
    mine = [
        row
        for row in rows
        if row["task"] == task and row["method"] == "annealed noise" and "energy" in row
    ]
    best = min(mine, key=lambda row: row["energy"])
    other = next(
        row
        for row in rows
        if row["task"] == task and row["method"] == f"best of {max(options.best_of)}"
    )
    told = (
        "method",
        "scale",
        "network",
        "energy",
        "energy_stderr",
        "diversity",
        "judge_accuracy",
        "frechet",
    )
    return {
        "task": task,
        "holds": best["energy"] < other["energy"] and best["network"] <= other["network"],
        "annealed": {name: best[name] for name in told},
        "other": {name: other[name] for name in told},
    }


def picture(
    rows: list[dict[str, Any]],
    grids: dict[tuple[str, str], Tensor],
    asked: dict[str, Tensor],
    options: Options,
) -> None:
    """For each energy: reached against evaluations, against diversity, the judge's view; and images of each method."""
    tasks, middle = (
        list(dict.fromkeys(row["task"] for row in rows)),
        options.steps[len(options.steps) // 2],
    )
    figure = plt.figure(figsize=(17, 6.4 * len(tasks)), layout="constrained")
    for part, task in zip(
        figure.subfigures(len(tasks), 1, squeeze=False)[:, 0], tasks, strict=True
    ):
        upper, lower = part.subfigures(2, 1, height_ratios=(1.5, 1))
        upper.suptitle(f"{task} energy, {options.wishes} images a point", fontweight="bold")
        axes = upper.subplots(1, 4)
        worst = max(
            row["energy"] for row in rows if row["task"] == task and row["method"] == "plain"
        )
        for method, colour in METHODS.items():
            mine = [row for row in rows if row["task"] == task and row["family"] == method]
            mine = [row for row in mine if row.get("energy", math.inf) <= 1.5 * worst]
            at_middle = [row for row in mine if row["steps"] == middle]
            if not at_middle:
                continue
            lost = sum(
                row["task"] == task and row["family"] == method and row not in mine for row in rows
            )
            scale = min(at_middle, key=lambda row: row["energy"])["scale"]
            curve = sorted(
                (row for row in mine if row["scale"] == scale), key=lambda row: row["network"]
            )
            style: dict[str, Any] = {
                "color": colour,
                "marker": "o",
                "ms": 4,
                "label": NAMES.get(method, method),
            }
            style["label"] += f" ({lost} of its runs diverged)" if lost else ""
            energy, error = ([row[name] for row in curve] for name in ("energy", "energy_stderr"))
            axes[0].errorbar(
                [row["network"] for row in curve], energy, [2 * e for e in error], **style
            )
            spent = [row["energy_evaluations"] + row["hessian_vectors"] for row in curve]
            axes[1].errorbar(spent, energy, [2 * e for e in error], **style)
            axes[2].plot(
                [row["diversity"] for row in at_middle],
                [row["energy"] for row in at_middle],
                **style,
            )
            axes[3].plot(
                [row["frechet"] for row in at_middle],
                [row["judge_accuracy"] for row in at_middle],
                **style,
            )
            for row in at_middle if len(at_middle) > 1 and method != "best of" else ():
                for axis, at in (
                    (axes[2], ("diversity", "energy")),
                    (axes[3], ("frechet", "judge_accuracy")),
                ):
                    axis.annotate(
                        f"{row['scale']:g}", [row[k] for k in at], fontsize=7, color=colour
                    )
        axes[0].set(
            xlabel="network evaluations an image",
            ylabel="mean energy of the image, nats",
            xscale="log",
        )
        axes[1].set(
            xlabel="evaluations of the energy, gradients, Hessian-vectors",
            ylabel="mean energy, nats",
        )
        axes[1].set_xscale("symlog", linthresh=1)
        axes[2].set(
            xlabel="diversity: distance of images of one wish",
            ylabel=f"mean energy, {middle} steps, by scale",
        )
        axes[3].set(xlabel="Frechet distance to real digits", ylabel="judge's accuracy")
        for axis in axes:
            axis.grid(alpha=0.3)
        for axis in axes[:3]:
            axis.set_yscale("log")
        upper.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS)
        )
        for axis, method in zip(lower.subplots(1, len(METHODS)), METHODS, strict=True):
            axis.imshow(
                grid(torch.cat([asked[task], grids[task, method][:40]])),
                cmap="gray",
                vmin=-1,
                vmax=1,
                interpolation="nearest",
            )
            name = f"best of {max(options.best_of)}" if method == "best of" else method
            axis.set(title=name, xticks=[], yticks=[], xlabel="first row: what is wanted")
    figure.savefig(options.out / "guided_noise.png", dpi=100)
    plt.close(figure)


NAMES = {"best of": "best of N", "annealed noise": "annealed noise, second order"}


def grid(images: Tensor, rows: int = 5, columns: int = 10) -> Any:
    """The first images side by side, a line between them."""
    count = min(len(images), rows * columns)
    frame = torch.ones(rows * (SIDE + 1) - 1, columns * (SIDE + 1) - 1)
    for k, image in enumerate(images[:count, 0]):
        top, left = k // columns * (SIDE + 1), k % columns * (SIDE + 1)
        frame[top : top + SIDE, left : left + SIDE] = image
    return frame.numpy()


if __name__ == "__main__":
    main(tyro.cli(Options))
