"""Train an RBM from annealed samples and look at it: likelihood, temperature, filters, samples.

    python experiments/train_rbm.py --out runs/demo          # what `make demo` runs, with --resume

The folder holds the checkpoint, results.json and report.png.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import SimulatedAnnealing
from qsample.annealers.registry import named
from qsample.data import Dataset, load
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[1]))
from experiments.common import OURS, THEIRS, CommonOptions, Report, command_line, mosaic

SHOWN = 64
"""images and filters shown"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """The run; the defaults are the demo's."""

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
    """sweeps of the sampler per update"""
    updates: int = 3000
    """gradient steps"""
    lr: float = 0.03
    """Adam's learning rate, falling to zero"""
    batch: int = 200
    """rows of data per update"""
    chains: int = 512
    """negative samples per update"""
    seed: int = 0
    """seed of all randomness"""
    resume: bool = False
    """go on from the checkpoint in the folder"""


def main(options: Options) -> None:
    """Train, evaluate, draw."""
    report = Report(options, __file__)
    dataset = load(options.data)
    train, _, test = (part.x for part in dataset.split(options.test))
    held_out = test if len(test) else train
    model, history = trained(train, held_out, dataset, report.folder, options)
    samples, result = evaluated(model, train, held_out, options)
    result["history"] = history
    figure = picture(model, dataset, samples, result, options)
    show(result)
    print(f"checkpoint            {report.folder / 'checkpoint.json'}")
    report.finish(result, figure)


def trained(
    train: torch.Tensor, held_out: torch.Tensor, dataset: Dataset, folder: Path, options: Options
) -> tuple[BernoulliRBM, list[dict[str, float]]]:
    """The model after training, and its metrics along the way.

    Args:
        train: rows `[N, visible]` to train on.
        held_out: rows to evaluate.
        dataset: data set that both are from.
        folder: folder of the checkpoint.
        options: options of the run.
    """
    generator = torch.Generator().manual_seed(options.seed)
    model = BernoulliRBM(train.shape[1], options.hidden, generator=generator)
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
        named(options.sampler, options.sweeps),
        settings,
        validation=held_out,
        out=folder,
        resume=options.resume,
        config=config,
    )
    return model, history


def evaluated(
    model: BernoulliRBM, train: torch.Tensor, held_out: torch.Tensor, options: Options
) -> tuple[qs.Samples, dict[str, Any]]:
    """Annealed samples of the model, and figures of both.

    Args:
        model: trained model.
        train: rows that it was trained on.
        held_out: rows that it was not.
        options: options of the run.
    """
    problem = model.ising().detach()
    generator = torch.Generator().manual_seed(options.seed + 1)
    annealing = SimulatedAnnealing(sweeps=1000, beta_range=(0.0, 1.0), schedule="linear")
    samples = annealing.sample(problem, 2000, generator=generator)
    diagnosis = qs.diagnose(problem, samples)
    log_z = qs.model_log_partition(model, train, generator=generator)
    return samples, {
        **ends("test_log_likelihood", qs.log_likelihood(model, held_out, log_z=log_z)),
        **ends("train_log_likelihood", qs.log_likelihood(model, train, log_z=log_z)),
        "independent_pixels": independent(train, held_out),
        "beta": diagnosis.beta.value,
        "beta_stderr": diagnosis.beta.stderr,
        "verdict": diagnosis.text,
    }


def ends(name: str, found: qs.Estimate | qs.Bracket) -> dict[str, float]:
    """An exact number by its name, or the ends of a bracket."""
    if isinstance(found, qs.Bracket):
        return {name: found.low, f"{name}_high": found.high}
    return {name: found.value}


def independent(train: torch.Tensor, test: torch.Tensor) -> float:
    """Mean log-likelihood of test rows when each pixel is drawn alone, with its smoothed mean."""
    mean = (train.sum(0) + 1) / (len(train) + 2)
    return float((test * mean.log() + (1 - test) * (1 - mean).log()).sum(1).mean())


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    low = result["test_log_likelihood"]
    high = result.get("test_log_likelihood_high")
    found = f"{low:.3f}" if high is None else f"between {low:.3f} and {high:.3f}"
    kind = "exact" if high is None else "99 % ends"
    print(f"test log-likelihood   {found} nats per image ({kind})")
    beta = f"{result['beta']:.3f} ± {result['beta_stderr']:.3f}"
    print(f"effective beta        {beta} of 2,000 annealed samples")
    print(f"verdict               {result['verdict']}")


def picture(
    model: BernoulliRBM,
    dataset: Dataset,
    samples: qs.Samples,
    result: dict[str, Any],
    options: Options,
) -> Figure:
    """Data beside samples, the filters, the learning curve, and energies of data and samples.

    Args:
        model: trained model.
        dataset: data set.
        samples: annealed samples of the model.
        result: figures and history of the run.
        options: options of the run.
    """
    shape = dataset.image_shape or (1, model.num_visible)
    drawn = model.split(samples.spins)[0]
    figure = plt.figure(figsize=(13, 8))
    grid = figure.add_gridspec(2, 3, height_ratios=(1.15, 1), hspace=0.28, wspace=0.2)
    for column, images in enumerate((dataset.x, drawn)):
        axis = figure.add_subplot(grid[0, column])
        axis.imshow(mosaic(images[:SHOWN], shape).numpy(), cmap="gray_r", vmin=0, vmax=1)
        axis.set(title=("data", "annealed samples")[column], xticks=[], yticks=[])
    draw_filters(figure, figure.add_subplot(grid[0, 2]), model, shape)
    draw_curve(figure.add_subplot(grid[1, :2]), result)
    axis = figure.add_subplot(grid[1, 2])
    for title, rows, colour in (("data", dataset.x, THEIRS), ("samples", drawn, OURS)):
        with torch.no_grad():
            energy = model.free_energy(rows).numpy()
        axis.hist(energy, 40, density=True, histtype="step", lw=1.6, label=title, color=colour)
    axis.set(xlabel="free energy", ylabel="density", yticks=[])
    axis.set_title(f"effective beta {result['beta']:.3f} ± {result['beta_stderr']:.3f}")
    axis.legend()
    figure.suptitle(
        f"RBM {model.num_visible} × {model.num_hidden} on {dataset.name}: {options.sampler}, "
        f"{options.sweeps} sweeps, {options.start} start, {options.updates:,} updates"
    )
    return figure


def draw_filters(figure: Figure, axis: Any, model: BernoulliRBM, shape: tuple[int, int]) -> None:
    """The weights of each hidden unit as an image.

    Args:
        figure: figure of the axis.
        axis: where to draw.
        model: trained model.
        shape: rows and columns of an image.
    """
    filters = model.W.detach().T[:SHOWN]
    limit = float(filters.abs().quantile(0.995))  # a few large weights should not pale the rest
    frame = mosaic(filters, shape, fill=float("nan")).numpy()
    image = axis.imshow(frame, cmap="RdBu_r", vmin=-limit, vmax=limit)
    title = f"filters (the weights of {len(filters)} hidden units)"
    axis.set(title=title, xticks=[], yticks=[])
    figure.colorbar(image, ax=axis, fraction=0.046, pad=0.03)


def draw_curve(axis: Any, result: dict[str, Any]) -> None:
    """The learning curve, beside independent pixels where the likelihood is exact."""
    history = result["history"]
    exact = "log_likelihood" in history[0]
    name = "log_likelihood" if exact else "pseudo_log_likelihood"
    updates = [metrics["update"] for metrics in history]
    values = [metrics[name] for metrics in history]
    axis.plot(updates, values, "o-", color=OURS, ms=3, label="model")
    if exact:
        level = result["independent_pixels"]
        axis.axhline(level, color="gray", ls=":", label=f"independent pixels {level:.2f}")
    axis.set(xlabel="update", ylabel=f"{name.replace('_', '-')}, nats per image")
    axis.set_title(f"test log-likelihood {result['test_log_likelihood']:.2f} at the end")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")


if __name__ == "__main__":
    command_line(main, Options)
