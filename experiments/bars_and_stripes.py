"""Bars and stripes, 4 x 4: KL(data || model) after training on exact, persistent and annealed negatives, side by side.

    python experiments/bars_and_stripes.py --out runs/bars_and_stripes

The 30 patterns are the whole data distribution, so the divergence is exact: -log 30 minus the mean log-likelihood.
Writes results.json and curves.png.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import Exact, Gibbs, SimulatedAnnealing
from qsample.data import load
from qsample.models import BernoulliRBM

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Options:
    """One setting for all three."""

    out: Path = Path("runs/bars_and_stripes")
    """folder for results.json and curves.png"""
    hidden: int = 16
    """hidden units"""
    updates: int = 5000
    """gradient steps"""
    lr: float = 0.02
    """Adam's learning rate, falling to zero"""
    chains: int = 1000
    """negative samples a step"""
    sweeps: int = 20
    """Gibbs sweeps a step of the persistent chains; annealing takes five times as many"""
    seed: int = 0
    """of all randomness"""
    threads: int = 1
    """torch threads"""


def main(options: Options) -> None:
    """Train three times, compare."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    patterns = load("bars-and-stripes").x
    # to beta 1 and as many sweeps there: a schedule that ends as it arrives leaves its reads too hot
    rise = 5 * options.sweeps // 2
    annealing = SimulatedAnnealing(
        schedule=[*torch.linspace(0, 1, rise + 1)[1:].tolist(), *[1.0] * rise]
    )
    runs: dict[str, tuple[qs.Sampler, qs.Start]] = {
        "exact": (Exact(), "fresh"),
        "persistent": (Gibbs(options.sweeps), "persistent"),
        "fresh": (annealing, "fresh"),
    }
    results: dict[str, Any] = {}
    samples: dict[str, torch.Tensor] = {}
    for name, (sampler, start) in runs.items():
        generator = torch.Generator().manual_seed(options.seed)
        model = BernoulliRBM(patterns.shape[1], options.hidden, generator=generator)
        model.set_visible_bias(patterns)
        settings = qs.Settings(
            updates=options.updates,
            batch=len(patterns),
            lr=options.lr,
            start=start,
            chains=options.chains,
            seed=options.seed,
            evaluate_every=max(1, options.updates // 25),
        )
        wall, cpu = time.perf_counter(), time.process_time()
        history = qs.fit(model, patterns, sampler, settings)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        divergence = -math.log(len(patterns)) - qs.log_likelihood(model, patterns, "exact").value
        curve = [(m["update"], -math.log(len(patterns)) - m["log_likelihood"]) for m in history]
        results[name] = {"kl": divergence, "seconds": wall, "cpu_seconds": cpu, "curve": curve}
        drawn = Exact().sample(model.ising().detach(), 36, generator=generator)
        samples[name] = model.split(drawn.spins)[0]
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    print(
        "  ".join(
            f"{name}: KL {r['kl']:.4f} in {r['seconds']:.0f} s" for name, r in results.items()
        )
    )
    picture(results, samples, options)
    print(f"{options.out / 'results.json'}\n{options.out / 'curves.png'}")


def picture(results: dict[str, Any], samples: dict[str, torch.Tensor], options: Options) -> None:
    """The divergence along training, and what each model draws; patterns that are no bars or stripes in red."""
    figure = plt.figure(figsize=(12, 4.2))
    grid = figure.add_gridspec(1, 5, width_ratios=(1.1, 1.1, 1, 1, 1))
    axis = figure.add_subplot(grid[0, :2])
    for name, result in results.items():
        axis.plot(
            *zip(*result["curve"], strict=True), label=f"{name} negatives: {result['kl']:.3f}"
        )
    axis.set(yscale="log", xlabel="update", ylabel="KL(data || model), nats")
    axis.grid(alpha=0.3)
    axis.legend()
    for column, (name, images) in enumerate(samples.items()):
        axis = figure.add_subplot(grid[0, 2 + column])
        frame = torch.full((6 * 5 - 1, 6 * 5 - 1, 3), 0.8)
        for k, image in enumerate(images.reshape(-1, 4, 4)):
            top, left = k // 6 * 5, k % 6 * 5
            right = bool((image == image[:1]).all() or (image == image[:, :1]).all())
            ink = torch.tensor([0.0, 0.0, 0.0] if right else [0.8, 0.1, 0.1])
            frame[top : top + 4, left : left + 4] = 1 - image[..., None] * (1 - ink)
        axis.imshow(frame.numpy(), interpolation="nearest")
        axis.set(title=f"draws after {name}", xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(options.out / "curves.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
