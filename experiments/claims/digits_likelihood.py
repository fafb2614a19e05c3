"""Exact test log-likelihood of an RBM on the 8 x 8 digits, for each way to get negative samples.

    python experiments/claims/digits_likelihood.py --out runs/digits_likelihood

Binarised at >= 8, split by a permutation of seed 0 into 1,400 rows to train on and 397 to test; 16
hidden units. The annealing schedule, the learning rate and the number of updates of each method are
chosen on the last 200 of the 1,400 (models trained on the first 1,200, mean of three seeds); then
the seeds are trained on all 1,400 and tested once.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import Exact, Gibbs, SimulatedAnnealing
from qsample.data import load
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, Stopwatch, command_line

RISE = torch.linspace(0, 1, 50).tolist()
# Samplers for each start; where there are several, the validation rows choose.
METHODS: dict[str, tuple[dict[str, qs.Sampler], qs.Start]] = {
    "exact": ({"exact draws": Exact()}, "fresh"),
    "persistent": ({"persistent chains, 10 sweeps (PCD-10)": Gibbs(10)}, "persistent"),
    "fresh": (
        {
            "annealed anew, 50 sweeps to beta 1": SimulatedAnnealing(50, (0.0, 1.0), "linear"),
            "annealed anew, 50 sweeps to beta 1 and 50 there": SimulatedAnnealing(
                schedule=[*RISE, *[1.0] * 50]
            ),
        },
        "fresh",
    ),
    "data": ({"chains from the data, 10 sweeps (CD-10)": Gibbs(10)}, "data"),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run."""

    methods: tuple[str, ...] = ("persistent", "fresh", "exact", "data")
    """which of exact, persistent, fresh, data"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of every setting"""
    lrs: tuple[float, ...] = (0.01, 0.02, 0.04)
    """learning rates to choose from"""
    updates: tuple[int, ...] = (6000,)
    """numbers of updates to choose from"""
    chains: int = 512
    """negative samples of an update"""
    hidden: int = 16
    """hidden units"""


class Setting(NamedTuple):
    """What the validation rows choose."""

    method: str
    sampler: str
    lr: float
    updates: int


def main(options: Options) -> None:
    """Choose, train, test."""
    report = Report(options, __file__)
    first, validation, test = (dataset.x for dataset in load("digits").split(397, 200))
    result: dict[str, Any] = {}
    for method in options.methods:
        best, tried = choose(method, first, validation, options)
        rows = torch.cat([first, validation])
        runs = [train(best, rows, test, seed, options) for seed in options.seeds]
        values = [run["log_likelihood"] for run in runs]
        result[method] = {
            "about": best.sampler,
            "mean": statistics.fmean(values),
            "worst": min(values),
            "lr": best.lr,
            "updates": best.updates,
            "runs": runs,
            "validation": tried,
        }
        seeds = ", ".join(f"{value:.3f}" for value in values)
        print(f"{best.sampler:50} TEST {result[method]['mean']:.3f}  ({seeds})", flush=True)
        report.write(result)
    report.finish(result, picture(result, options))


def choose(
    method: str, rows: torch.Tensor, validation: torch.Tensor, options: Options
) -> tuple[Setting, list[dict[str, Any]]]:
    """The setting of a method with the best mean over the seeds on validation rows; all tried.

    Args:
        method: key of METHODS.
        rows: rows to train on.
        validation: rows to judge by.
        options: options of the run.
    """
    tried: list[dict[str, Any]] = []
    names = METHODS[method][0]
    for name, lr, updates in itertools.product(names, options.lrs, options.updates):
        setting = Setting(method, name, lr, updates)
        runs = [train(setting, rows, validation, seed, options) for seed in options.seeds]
        value = statistics.fmean(run["log_likelihood"] for run in runs)
        tried.append({**setting._asdict(), "log_likelihood": value})
        print(f"{name:50} validation {value:.3f}   lr {lr:<5} {updates} updates", flush=True)
    best = max(tried, key=lambda row: row["log_likelihood"])
    return Setting(**{key: best[key] for key in Setting._fields}), tried


def train(
    setting: Setting, rows: torch.Tensor, held_out: torch.Tensor, seed: int, options: Options
) -> dict[str, Any]:
    """One run: its exact log-likelihood on held-out rows, times and curve.

    Args:
        setting: method, sampler, learning rate and updates.
        rows: rows to train on.
        held_out: rows to evaluate.
        seed: seed of weights and chains.
        options: options of the run.
    """
    samplers, start = METHODS[setting.method]
    generator = torch.Generator().manual_seed(seed)
    model = BernoulliRBM(rows.shape[1], options.hidden, generator=generator)
    model.set_visible_bias(rows)
    settings = qs.Settings(
        updates=setting.updates,
        lr=setting.lr,
        start=start,
        chains=options.chains,
        seed=seed,
        evaluate_every=max(1, setting.updates // 20),
    )
    watch = Stopwatch()
    sampler = samplers[setting.sampler]
    history = qs.fit(model, rows, sampler, settings, validation=held_out, progress=False)
    wall, cpu = watch.read()
    return {
        "lr": setting.lr,
        "updates": setting.updates,
        "seed": seed,
        "seconds": wall,
        "cpu_seconds": cpu,
        "log_likelihood": qs.log_likelihood(model, held_out, "exact").value,
        "curve": [(m["update"], m["log_likelihood"]) for m in history],
    }


def picture(result: dict[str, Any], options: Options) -> Figure:
    """Test log-likelihood along training, against updates and against processor time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True)
    for method, row in result.items():
        colour = f"C{list(METHODS).index(method)}"
        for k, run in enumerate(row["runs"]):
            updates, values = zip(*run["curve"], strict=True)
            seconds = [run["cpu_seconds"] * u / run["updates"] for u in updates]
            label = f"{row['about']}: {row['mean']:.2f}" if k == 0 else None
            left.plot(updates, values, color=colour, label=label, lw=1.3)
            right.plot(seconds, values, color=colour, lw=1.3)
    lowest = min(row["worst"] for row in result.values())
    left.set(xlabel="update", ylim=(lowest - 1, None))
    left.set_ylabel("exact test log-likelihood, nats per image")
    right.set(xlabel=f"processor seconds ({options.threads} torch thread)", xscale="log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    left.legend(loc="lower right")
    figure.suptitle("8 x 8 digits, 16 hidden units: mean of the seeds, a line for each")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
