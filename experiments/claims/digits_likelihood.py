"""Exact test log-likelihood of an RBM on the 8 x 8 digits, for each way to get its gradient.

    python experiments/claims/digits_likelihood.py --publish

Binarised at >= 8, split by a permutation of seed 0 into 1,400 rows to train on and 397 to test; 16
hidden units, so that log Z is a sum. The settings are chosen on the last 200 of the 1,400 (models
trained on the first 1,200, mean of the seeds), for the trainers of `tuned`; others take those of
the trainer that they are most like. Then every trainer learns from all 1,400, with every seed and
equally many updates, and is judged on the test rows. The recipe is the tuned sampler with the best
validation rows. What is not searched by default (batch, weight decay, updates) was set before, on
the same validation rows; every option of several values is searched. Some 20 CPU minutes on cores
that others use too, a third of it the exact gradient.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import Gibbs, ParallelTempering, SimulatedAnnealing, TrajectoryTempering
from qsample.data import load
from qsample.models import BernoulliRBM, EnergyModel

sys.path.append(str(Path(__file__).parents[2]))
from experiments.claims.exact_gradient import fit_exactly
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar

KEPT = "runs.jsonl"
"""file of the runs that are done"""


class Trainer(NamedTuple):
    """A way to get the gradient.

    Attributes:
        about: text of the picture.
        colour: of its line.
        like: trainer whose settings it takes where its own are not chosen.
        lrs: learning rates to choose from.
        sampler: draws negative samples; None for the exact gradient.
        start: where its chains begin.
        chains: negative samples of an update; chains from the data are as many as its rows.
    """

    about: str
    colour: str
    like: str
    lrs: tuple[float, ...]
    sampler: qs.Sampler | None = None
    start: qs.Start = "persistent"
    chains: int = 512


TRAINERS = {
    "exact": Trainer("exact gradient", "black", "data", (0.04, 0.08)),
    "data": Trainer(
        "chains from the data, 10 sweeps (CD-10)", "C0", "data", (0.04, 0.08), Gibbs(10), "data"
    ),
    "persistent": Trainer(
        "persistent chains, 10 sweeps (PCD-10)", "C3", "persistent", (0.02, 0.04), Gibbs(10)
    ),
    "fresh": Trainer(
        "annealed anew, 50 sweeps",
        "C5",
        "persistent",
        (0.02, 0.04),
        SimulatedAnnealing(50, (0.0, 1.0), "linear"),
        "fresh",
    ),
    "tempering": Trainer(
        "tempering, 8 temperatures", "C4", "persistent", (0.02, 0.04), ParallelTempering(2, 8)
    ),
    "trajectory": Trainer(
        "trajectory tempering, 64 ladders",
        "C2",
        "trajectory",
        (0.02, 0.04),
        TrajectoryTempering(sweeps=1, grow=0.1),
        chains=64,
    ),
    "jarzynski": Trainer(
        "Jarzynski's weights", "C1", "persistent", (0.02, 0.04), Gibbs(5), "jarzynski"
    ),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run."""

    trainers: tuple[str, ...] = tuple(TRAINERS)
    """which of exact, data, persistent, fresh, tempering, trajectory, jarzynski"""
    tuned: tuple[str, ...] = ("data", "persistent")
    """those whose settings are chosen"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of every setting"""
    updates: int = 2000
    """updates of every training"""
    lrs: tuple[float, ...] = ()
    """learning rates to choose from; none are those of TRAINERS"""
    decays: tuple[str, ...] = ("linear",)
    """schedules of the rate to choose from: linear, none"""
    weight_decays: tuple[float, ...] = (0.0003,)
    """L2 penalties to choose from"""
    averages: tuple[str, ...] = ("none",)
    """averages of the weights to choose from: none, ema, mean"""
    average_decay: float = 0.99
    """weight of the former average in ema"""
    optimizers: tuple[str, ...] = ("adam",)
    """optimisers to choose from: adam, sgd"""
    centred: tuple[bool, ...] = (False,)
    """whether to centre the gradient, to choose from; the exact one is what it is"""
    batches: tuple[int, ...] = (1200,)
    """rows of an update to choose from"""
    chains: int | None = None
    """negative samples of an update; None is those of TRAINERS"""
    hidden: int = 16
    """hidden units"""
    evaluations: int = 10
    """evaluations of each training"""
    workers: int = 2
    """processes"""
    resume: bool = False
    """take up the runs that are done, in runs.jsonl of the folder"""


class Job(NamedTuple):
    """One training run.

    Attributes:
        trainer: key of TRAINERS.
        setting: what was chosen, arguments of `qs.Settings`.
        seed: seed of weights, batches and chains.
        final: whether to train on all rows and be judged on the test rows.
    """

    trainer: str
    setting: dict[str, Any]
    seed: int
    final: bool


def main(options: Options) -> None:
    """Choose, train, test."""
    report = Report(options, __file__)
    if not options.resume:
        (report.folder / KEPT).unlink(missing_ok=True)
    tried = [
        job
        for name in options.trainers
        if name in options.tuned
        for job in jobs_of(name, settings_of(name, options), options.seeds, final=False)
    ]
    runs = run_all(tried, "choosing", options, report.folder)
    trials = means(runs)
    for trial in trials:
        print(f"{trial['trainer']:12} validation {trial['mean']:.3f}  {trial['setting']}")
    result: dict[str, Any] = {"trials": trials}
    report.write(result)
    jobs = [
        job
        for name in options.trainers
        for job in jobs_of(name, [setting_of(name, trials, options)], options.seeds, final=True)
    ]
    result["runs"] = run_all(jobs, "training", options, report.folder)
    result["test"] = {row["trainer"]: row for row in means(result["runs"])}
    result["recipe"] = verdict(trials, result["test"])
    spent = sum(run["cpu_seconds_with_judging"] for run in [*runs, *result["runs"]])
    result["cpu_minutes"] = spent / 60
    for name, row in result["test"].items():
        print(f"{TRAINERS[name].about:42} TEST {row['mean']:.3f} ± {row['spread']:.3f}")
    print(result["recipe"])
    report.finish(result, picture(result, options))


# ---- what is run ------------------------------------------------------------------------------


def settings_of(name: str, options: Options) -> list[dict[str, Any]]:
    """The settings that a trainer may have.

    Args:
        name: key of TRAINERS.
        options: options of the run.
    """
    exact = TRAINERS[name].sampler is None
    choices: dict[str, Sequence[Any]] = {
        "lr": options.lrs or TRAINERS[name].lrs,
        "decay": options.decays,
        "weight_decay": options.weight_decays,
        "average": options.averages,
        "optimizer": options.optimizers,
        "centred": (False,) if exact else options.centred,
        "batch": options.batches,
    }
    products = itertools.product(*choices.values())
    return [dict(zip(choices, values, strict=True)) for values in products]


def jobs_of(
    name: str, settings: list[dict[str, Any]], seeds: Sequence[int], final: bool
) -> list[Job]:
    """One job for each setting and seed."""
    return [Job(name, setting, seed, final) for setting in settings for seed in seeds]


def run_all(jobs: list[Job], what: str, options: Options, folder: Path) -> list[dict[str, Any]]:
    """The runs of all jobs in their order, several at a time; each is kept as soon as it is done.

    Args:
        jobs: training runs.
        what: text of the progress bar.
        options: options of the run.
        folder: folder of the report, which keeps those that are done.
    """
    path = folder / KEPT
    done: dict[str, dict[str, Any]] = {}
    if path.exists():
        done = dict(json.loads(line) for line in path.read_text().splitlines())
    names = {key_of(job, options): job for job in jobs}
    waiting = {name: job for name, job in names.items() if name not in done}
    context = get_context("spawn")
    with (
        ProcessPoolExecutor(
            options.workers, context, torch.set_num_threads, (options.threads,)
        ) as pool,
        path.open("a") as file,
    ):
        futures = {pool.submit(train, job, options): name for name, job in waiting.items()}
        for future in progress_bar(
            as_completed(futures), desc=what, total=len(waiting), unit="run"
        ):
            name = futures[future]
            done[name] = future.result()
            file.write(json.dumps([name, done[name]]) + "\n")
            file.flush()
    return [done[name] for name in names]


def key_of(job: Job, options: Options) -> str:
    """All that a run depends on, as text."""
    names = ("updates", "chains", "hidden", "average_decay", "evaluations")
    values = [getattr(options, name) for name in names]
    return json.dumps([*job, repr(TRAINERS[job.trainer]), *values])


# ---- one training -----------------------------------------------------------------------------


class Judge:
    """Exact likelihoods along a training, with the CPU seconds that it took without them."""

    def __init__(self) -> None:
        self.watch = Stopwatch()
        self.judging = 0.0

    def __call__(self, model: EnergyModel, rows: Tensor) -> dict[str, float]:
        """Metrics of a model and rows."""
        before = self.watch.read().cpu
        value = qs.log_likelihood(model, rows, "exact").value
        seconds = before - self.judging
        self.judging += self.watch.read().cpu - before
        return {"log_likelihood": value, "cpu_seconds": seconds}


@cache
def splits() -> tuple[Tensor, Tensor, Tensor]:
    """Rows to train on, of validation and of test: 1,200, 200 and 397."""
    first, validation, test = (dataset.x for dataset in load("digits").split(397, 200))
    return first, validation, test


def train(job: Job, options: Options) -> dict[str, Any]:
    """One run: the exact log-likelihood of held-out rows along it.

    Args:
        job: what to train.
        options: options of the run.
    """
    first, validation, test = splits()
    rows = torch.cat([first, validation]) if job.final else first
    held_out = test if job.final else validation
    trainer = TRAINERS[job.trainer]
    generator = torch.Generator().manual_seed(job.seed)
    model = BernoulliRBM(rows.shape[1], options.hidden, generator=generator)
    model.set_visible_bias(rows)
    settings = qs.Settings(
        updates=options.updates,
        start=trainer.start,
        chains=options.chains or trainer.chains,
        average_decay=options.average_decay,
        seed=job.seed,
        evaluate_every=max(1, options.updates // options.evaluations),
        **job.setting,
    )
    judge = Judge()
    if trainer.sampler is None:
        history = fit_exactly(model, rows, settings, held_out, judge)
    else:
        history = qs.fit(
            model,
            rows,
            trainer.sampler,
            settings,
            validation=held_out,
            progress=False,
            evaluate=judge,
        )
    keys = ("update", "log_likelihood", "cpu_seconds")
    curve = {key: [metrics[key] for metrics in history] for key in keys}
    return job._asdict() | {
        "log_likelihood": curve["log_likelihood"][-1],
        "curve": curve,
        "cpu_seconds_with_judging": judge.watch.read().cpu,
    }


# ---- what came of it --------------------------------------------------------------------------


def means(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds of each trainer and setting, whose runs stand together."""
    rows = []
    for (trainer, setting), group in itertools.groupby(
        runs, key=lambda run: (run["trainer"], run["setting"])
    ):
        same = list(group)
        values = [run["log_likelihood"] for run in same]
        rows.append(
            {
                "trainer": trainer,
                "setting": setting,
                "mean": statistics.fmean(values),
                "worst": min(values),
                "spread": max(values) - min(values),
                "cpu_seconds": statistics.fmean(run["curve"]["cpu_seconds"][-1] for run in same),
            }
        )
    return rows


def setting_of(name: str, trials: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """The setting of a trainer that validation rows like best, or of the one it is most like.

    Args:
        name: key of TRAINERS.
        trials: means over the seeds of what was tried.
        options: options of the run.
    """
    tuned = name if name in options.tuned else TRAINERS[name].like
    tried = [trial for trial in trials if trial["trainer"] == tuned]
    if not tried:
        return settings_of(name, options)[0]
    return max(tried, key=lambda trial: trial["mean"])["setting"]


def verdict(trials: list[dict[str, Any]], test: dict[str, Any]) -> dict[str, Any]:
    """The sampled trainer that validation rows like best, on the test rows beside the exact one.

    Args:
        trials: means over the seeds of what was tried.
        test: means over the seeds on test rows, by trainer.
    """
    sampled = [trial for trial in trials if TRAINERS[trial["trainer"]].sampler is not None]
    if not sampled:
        return {}
    best = max(sampled, key=lambda trial: trial["mean"])
    found = {key: best[key] for key in ("trainer", "setting")} | {"validation": best["mean"]}
    found["test"] = test[best["trainer"]]["mean"]
    if "exact" in test:
        found["below_exact"] = test["exact"]["mean"] - found["test"]
    return found


def picture(result: dict[str, Any], options: Options) -> Figure:
    """Test log-likelihood along training, against updates and against CPU seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), sharey=True)
    for name, row in result["test"].items():
        curves = [run["curve"] for run in result["runs"] if run["trainer"] == name]
        draw(axes, curves, f"{TRAINERS[name].about}: {row['mean']:.2f}", TRAINERS[name])
    top = max(row["mean"] for row in result["test"].values())
    axes[0].set(xlabel="updates", ylim=(top - 4, top + 0.2))
    axes[0].set_ylabel("exact test log-likelihood, nats per image")
    axes[1].set(xlabel=f"CPU seconds ({options.threads} thread)", xscale="log")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, loc="lower right")
    figure.suptitle(
        f"8 x 8 digits, {options.hidden} hidden units: mean of {len(options.seeds)} seeds, "
        "and from the least to the greatest"
    )
    figure.tight_layout()
    return figure


def draw(axes: Sequence[Axes], curves: list[dict[str, Any]], label: str, trainer: Trainer) -> None:
    """The mean of some runs, and their range, in both panels."""
    values = torch.tensor([curve["log_likelihood"] for curve in curves])
    seconds = torch.tensor([curve["cpu_seconds"] for curve in curves]).mean(0)
    style = "--" if trainer.sampler is None else "-"
    for axis, x in zip(axes, (torch.tensor(curves[0]["update"]), seconds), strict=True):
        axis.plot(x, values.mean(0), style, color=trainer.colour, label=label, lw=1.4)
        low = values.min(0).values
        axis.fill_between(x, low, values.max(0).values, color=trainer.colour, alpha=0.15, lw=0)


if __name__ == "__main__":
    command_line(main, Options)
