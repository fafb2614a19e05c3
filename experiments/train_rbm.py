"""Train an RBM from annealed samples and look at it: likelihood, temperature, filters, samples. JSON and a picture.

python experiments/train_rbm.py --out runs/demo          # what `make demo` runs, with --resume
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import SimulatedAnnealing
from qsample.annealers.registry import named
from qsample.data import Dataset, load
from qsample.models import BernoulliRBM

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Options:
    """The run; the defaults are the demo's."""

    out: Path = Path("runs/demo")
    """folder for metrics.json, report.png and the checkpoint"""
    data: str = "digits"
    """digits, bars-and-stripes, mnist5k, or a file of 0/1 images"""
    test: int = 397
    """rows held out for the test likelihood"""
    hidden: int = 16
    """hidden units"""
    start: qs.Start = "fresh"
    """negative samples: fresh (annealed anew each update), persistent chains, or data (CD)"""
    sampler: str = "simulated-annealing"
    """a name that `qsample samplers` lists"""
    sweeps: int = 50
    """its sweeps an update"""
    updates: int = 3000
    """gradient steps"""
    lr: float = 0.03
    """Adam's learning rate, falling to zero"""
    batch: int = 200
    """rows of data an update"""
    chains: int = 512
    """negative samples an update"""
    seed: int = 0
    """of all randomness"""
    threads: int = 1
    """torch threads; more pays for wide models only"""
    resume: bool = False
    """go on from the checkpoint in the folder"""


def main(options: Options) -> None:
    """Train, evaluate, draw."""
    began = time.perf_counter()
    torch.set_num_threads(options.threads)
    dataset = load(options.data)
    train, _, test = (part.x for part in dataset.split(options.test))
    held_out = test if len(test) else train
    model = BernoulliRBM(
        train.shape[1], options.hidden, generator=torch.Generator().manual_seed(options.seed)
    )
    model.set_visible_bias(train)
    settings = qs.Settings(
        updates=options.updates,
        batch=options.batch,
        lr=options.lr,
        start=options.start,
        chains=options.chains,
        seed=options.seed,
        evaluate_every=max(1, options.updates // 20),
    )
    sampler = named(options.sampler, options.sweeps)
    config: dict[str, Any] = {  # what `qsample evaluate` and `qsample sample` build the model from
        "data": options.data,
        "model": "rbm",
        "visible": model.num_visible,
        "hidden": model.num_hidden,
        "test": options.test,
        "image_shape": dataset.image_shape and list(dataset.image_shape),
        "model_seed": options.seed,
        "sampler": options.sampler,
        "sweeps": options.sweeps,
    }
    history = qs.fit(
        model,
        train,
        sampler,
        settings,
        validation=held_out,
        out=options.out,
        resume=options.resume,
        config=config,
    )

    problem = model.ising().detach()
    generator = torch.Generator().manual_seed(options.seed + 1)
    judged = SimulatedAnnealing(sweeps=1000, beta_range=(0.0, 1.0), schedule="linear")
    samples = judged.sample(problem, 2000, generator=generator)
    diagnosis = qs.diagnose(problem, samples)
    likelihood = qs.log_likelihood(model, held_out, generator=generator)
    result: dict[str, Any] = {
        "test_log_likelihood": likelihood.value,
        "test_log_likelihood_stderr": likelihood.stderr,
        "train_log_likelihood": qs.log_likelihood(model, train, generator=generator).value,
        "beta": diagnosis.beta.value,
        "beta_stderr": diagnosis.beta.stderr,
        "verdict": diagnosis.text,
        "seconds": time.perf_counter() - began,
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
    }
    result["independent_pixels"] = independent(train, held_out)
    (options.out / "metrics.json").write_text(json.dumps(result, indent=1))
    picture(model, dataset, samples, history, result, options)
    exact = (
        "exact"
        if likelihood.stderr == 0
        else f"± {likelihood.stderr:.3f}, by annealed importance sampling"
    )
    print(f"test log-likelihood   {likelihood.value:.3f} nats an image ({exact})")
    print(
        f"effective beta        {diagnosis.beta.value:.3f} ± {diagnosis.beta.stderr:.3f} of 2,000 annealed samples"
    )
    print(f"verdict               {diagnosis.text}")
    print(f"picture               {options.out / 'report.png'}")
    print(f"checkpoint            {options.out / 'checkpoint.json'}")


def picture(
    model: BernoulliRBM,
    dataset: Dataset,
    samples: qs.Samples,
    history: list[dict[str, float]],
    result: dict[str, Any],
    options: Options,
) -> None:
    """Data beside samples, the filters, the learning curve, and the energies of data and samples."""
    shape = dataset.image_shape or (1, model.num_visible)
    figure = plt.figure(figsize=(13, 8))
    grid = figure.add_gridspec(2, 3, height_ratios=(1.15, 1), hspace=0.28, wspace=0.2)
    drawn = model.split(samples.spins)[0]
    for column, (title, images) in enumerate((("data", dataset.x), ("annealed samples", drawn))):
        axis = figure.add_subplot(grid[0, column])
        axis.imshow(
            mosaic(images[:64], shape).numpy(),
            cmap="gray_r",
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        axis.set(title=title, xticks=[], yticks=[])
    filters = model.W.detach().T[:64]
    limit = float(filters.abs().quantile(0.995))  # a few large weights should not pale the rest
    axis = figure.add_subplot(grid[0, 2])
    shown = axis.imshow(
        mosaic(filters, shape, fill=float("nan")).numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit
    )
    axis.set(title=f"filters (the weights of {len(filters)} hidden units)", xticks=[], yticks=[])
    figure.colorbar(shown, ax=axis, fraction=0.046, pad=0.03)

    axis = figure.add_subplot(grid[1, :2])
    name = "log_likelihood" if "log_likelihood" in history[0] else "pseudo_log_likelihood"
    axis.plot(
        [m["update"] for m in history],
        [m[name] for m in history],
        "o-",
        color="#2166ac",
        ms=3,
        label="model",
    )
    if name == "log_likelihood":
        alone = result["independent_pixels"]
        axis.axhline(alone, color="gray", ls=":", label=f"independent pixels {alone:.2f}")
    axis.set(xlabel="update", ylabel=f"{name.replace('_', '-')}, nats an image")
    axis.set_title(f"test log-likelihood {result['test_log_likelihood']:.2f} at the end")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")

    axis = figure.add_subplot(grid[1, 2])
    with torch.no_grad():
        energies = [model.free_energy(x).numpy() for x in (dataset.x, drawn)]
    for title, energy, colour in zip(
        ("data", "samples"), energies, ("#b35806", "#2166ac"), strict=True
    ):
        axis.hist(energy, 40, density=True, histtype="step", lw=1.6, label=title, color=colour)
    axis.set(xlabel="free energy", ylabel="density", yticks=[])
    axis.set_title(f"effective beta {result['beta']:.3f} ± {result['beta_stderr']:.3f}")
    axis.legend()
    figure.suptitle(
        f"RBM {model.num_visible} × {model.num_hidden} on {dataset.name}: {options.sampler}, "
        f"{options.sweeps} sweeps, {options.start} start, {options.updates:,} updates"
    )
    temporary = options.out / "report.tmp.png"
    figure.savefig(temporary, dpi=110, bbox_inches="tight")
    os.replace(temporary, options.out / "report.png")
    plt.close(figure)


def independent(train: torch.Tensor, test: torch.Tensor) -> float:
    """Mean log-likelihood of `test` when each pixel is drawn alone, with its (smoothed) mean over `train`."""
    mean = (train.sum(0) + 1) / (len(train) + 2)
    return float((test * mean.log() + (1 - test) * (1 - mean).log()).sum(1).mean())


def mosaic(images: torch.Tensor, shape: tuple[int, int], fill: float = 0.5) -> torch.Tensor:
    """Images `[N, rows * columns]` side by side in a near-square frame, one pixel of `fill` between them."""
    across = int(len(images) ** 0.5 + 0.999)
    down = -(-len(images) // across)
    rows, columns = shape
    frame = torch.full((down * (rows + 1) - 1, across * (columns + 1) - 1), fill)
    for k, image in enumerate(images.reshape(-1, rows, columns)):
        top, left = k // across * (rows + 1), k % across * (columns + 1)
        frame[top : top + rows, left : left + columns] = image
    return frame


if __name__ == "__main__":
    main(tyro.cli(Options))
