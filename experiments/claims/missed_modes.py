"""Two laws on which annealed importance sampling is sure and wrong, and what its check finds.

    python experiments/claims/missed_modes.py --out runs/missed_modes

A. A ferromagnet whose order turns over on the way down: m spins coupled all to all (J = -4/m) in a
field that holds them down, each with a leaf that would rather be up. Log Z is a sum of m + 1 terms.
Annealing follows the mode that is best while it is hot, and stays there.

B. An RBM of 60 x 12 with a mode that holds 95 % of the mass and that no row of data visits. Log Z
is a sum over the 13 numbers of hidden units that are on. Annealing starts from the data's means,
and stays there.

Each is estimated with `check=False` (annealed importance sampling alone), as it comes (runs from
every basin that chains started apart find), and by population annealing.
"""

from __future__ import annotations

import math
import statistics
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import PopulationAnnealing
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar

COLOURS = {"AIS alone": "C3", "population": "C7", "qsample": "C0"}


@dataclass(frozen=True)
class Options(CommonOptions):
    """Settings."""

    seeds: int = 20
    """runs of each"""
    steps: int = 1000
    """temperatures of an annealing run"""
    chains: int = 256
    """annealing runs at once"""
    cores: tuple[int, ...] = (30, 40)
    """spins of the ferromagnet that are coupled all to all, m; it has 2 m in all"""
    mass: float = 0.95
    """mass of the RBM's hidden mode"""


class Case(NamedTuple):
    """A problem, its log Z, and an estimate by AIS of a number that is known."""

    ais: Callable[..., qs.Estimate]
    exact: float
    problem: qs.Ising
    log_z: float


def main(options: Options) -> None:
    """Run, judge, draw."""
    report = Report(options, __file__)
    result: dict[str, Any] = {}
    for name, make in cases(options).items():
        result[name] = {}
        for method, runs in estimates(make, name, options).items():
            judged = verdict(runs)
            result[name][method] = {"verdict": judged, "runs": runs}
            print(f"{name:40} {method:12} {judged}")
        report.write(result)
    report.finish(result, picture(result))


# ---- the laws ---------------------------------------------------------------------------------


def log_binomial(n: int) -> torch.Tensor:
    """Log of n choose k, k = 0..n."""
    k = torch.arange(n + 1, dtype=torch.float64)
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def ferromagnet(
    m: int,
    coupling: float = 4.0,
    field: float = 0.45,
    leaf: float = 1.0,
    leaf_field: float = 1.0,
) -> tuple[qs.Ising, float]:
    r"""The problem of case A and its log Z.

    $$Z = \sum_k \binom{m}{k} e^{(J_0/m)(M^2 - m)/2 - h M}
          (2\cosh(J_a + h_a))^k (2\cosh(h_a - J_a))^{m - k}$$

    with M = 2k - m.

    Args:
        m: spins coupled all to all.
        coupling: J_0, m times the coupling of a pair of them.
        field: h, the field that holds each of them down.
        leaf: J_a, the coupling of a spin and its leaf.
        leaf_field: h_a, the field that holds each leaf up.
    """
    core = [(i, j) for i in range(m) for j in range(i + 1, m)]
    leaves = [(i, m + i) for i in range(m)]
    J = torch.tensor([-coupling / m] * len(core) + [-leaf] * m, dtype=torch.float64)
    h = torch.tensor([field] * m + [-leaf_field] * m, dtype=torch.float64)
    up = torch.arange(m + 1, dtype=torch.float64)
    total = 2 * up - m
    terms = log_binomial(m) + coupling / m * (total**2 - m) / 2 - field * total
    terms += up * math.log(2 * math.cosh(leaf + leaf_field))
    terms += (m - up) * math.log(2 * math.cosh(leaf_field - leaf))
    return qs.Ising.from_edges(h, core + leaves, J), float(terms.logsumexp(0))


def hidden_mode(
    seed: int, mass: float, visible: int = 60, hidden: int = 12, weight: float = 0.42
) -> tuple[BernoulliRBM, torch.Tensor, float]:
    """The RBM of case B, its data, and its log Z.

    Args:
        seed: seed of biases, signs and data.
        mass: probability of the states with half of the hidden units on, or more.
        visible: visible units.
        hidden: hidden units.
        weight: size of every weight.
    """
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(visible, generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, (visible,), generator=generator).double() * 2 - 1
    on = torch.arange(hidden + 1, dtype=torch.float64)
    given = torch.nn.functional.softplus(b + on[:, None] * weight * sign).sum(-1)

    def terms(c: float) -> torch.Tensor:
        return log_binomial(hidden) + c * on + given

    # The hidden bias of this mass, by bisection: the mass grows with it.
    c = 0.0
    low = -100.0
    high = 100.0
    for _ in range(100):
        c = (low + high) / 2
        share = terms(c).softmax(0)[hidden // 2 :].sum()
        if share > mass:
            high = c
        else:
            low = c

    model = BernoulliRBM(visible, hidden).double()
    with torch.no_grad():
        model.W.copy_(weight * sign[:, None].expand(visible, hidden))
        model.b.copy_(b)
        model.c.fill_(c)
    uniform = torch.rand(2000, visible, generator=generator, dtype=torch.float64)
    data = (uniform < b.sigmoid()).double()
    return model, data, float(terms(c).logsumexp(0))


def cases(options: Options) -> dict[str, Callable[[int], Case]]:
    """Each case as a function of the seed."""
    budget: dict[str, Any] = {"steps": options.steps, "chains": options.chains}

    def turning(m: int) -> Callable[[int], Case]:
        problem, log_z = ferromagnet(m)

        def ais(**settings: Any) -> qs.Estimate:
            return qs.log_partition(problem, "ais", **budget, **settings)

        return lambda seed: Case(ais, log_z, problem, log_z)

    def rbm(seed: int) -> Case:
        model, data, log_z = hidden_mode(seed, options.mass)
        exact = qs.log_likelihood(model, data, "exact").value

        def ais(**settings: Any) -> qs.Estimate:
            found = qs.log_likelihood(model, data, "ais", **budget, **settings)
            assert isinstance(found, qs.Estimate)
            return found

        return Case(ais, exact, model.ising().detach(), log_z)

    named = {f"A: ferromagnet of {2 * m} spins, log Z": turning(m) for m in options.cores}
    return named | {"B: RBM of 60 × 12, nats per row": rbm}


# ---- the estimates ----------------------------------------------------------------------------


def estimates(
    make: Callable[[int], Case], name: str, options: Options
) -> dict[str, list[dict[str, Any]]]:
    """Runs of a case by each method.

    Args:
        make: makes the case of a seed.
        name: name of the case.
        options: options of the run.
    """
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in COLOURS}
    for seed in progress_bar(range(options.seeds), desc=name):
        case = make(seed)
        for method in runs:
            generator = torch.Generator().manual_seed(seed)
            watch = Stopwatch()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", qs.ReliabilityWarning)  # its text is in the note
                estimate = estimated(case, method, generator)
            exact = case.log_z if method == "population" else case.exact
            runs[method].append(measured(estimate, exact, watch.read().cpu))
    return runs


def estimated(case: Case, method: str, generator: torch.Generator) -> qs.Estimate:
    """One estimate of a case.

    Args:
        case: the case.
        method: key of COLOURS.
        generator: source of the estimate.
    """
    if method == "population":
        return population(case.problem, generator)
    if method == "AIS alone":
        return case.ais(check=False, generator=generator)
    return case.ais(generator=generator)


def population(problem: qs.Ising, generator: torch.Generator) -> qs.Estimate:
    """Log Z by population annealing at its defaults."""
    info = PopulationAnnealing().sample(problem, 1, generator=generator).info
    keys = ("log_partition", "log_partition_stderr", "ess")
    value, stderr, ess = (float(info[key]) for key in keys)
    return qs.Estimate(value, stderr, ess, info["note"])


def measured(estimate: qs.Estimate, exact: float, seconds: float) -> dict[str, Any]:
    """An estimate beside the exact value, as JSON keeps it.

    Args:
        estimate: the estimate.
        exact: what it should be.
        seconds: CPU time that it took.
    """
    return {
        "error": estimate.value - exact,
        "stderr": estimate.stderr,
        "ess": float(estimate.ess),
        "note": estimate.note,
        "cpu_seconds": seconds,
    }


def verdict(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """How many runs are right within 4 standard errors, have a note, or are wrong without one."""
    within = [abs(run["error"]) <= 4 * run["stderr"] for run in runs]
    noted = [bool(run["note"]) for run in runs]
    silent = [not right and not note for right, note in zip(within, noted, strict=True)]
    error = statistics.median(run["error"] for run in runs)
    return {
        "runs": len(runs),
        "within": sum(within),
        "noted": sum(noted),
        "wrong_and_silent": sum(silent),
        "median_error": error,
        "nats_off": abs(error),
    }


def picture(result: dict[str, Any]) -> Figure:
    """The error of each run with its stated one, the truth as a line; hollow: it has a note."""
    size = (4.6 * len(result), 5.0)
    figure, axes = plt.subplots(1, len(result), figsize=size, squeeze=False)
    for axis, (name, methods) in zip(axes[0], result.items(), strict=True):
        axis.axhline(0, color="k", lw=1, label="exact")
        for k, (method, colour) in enumerate(COLOURS.items()):
            runs = methods[method]["runs"]
            label = "{0}: {wrong_and_silent} of {runs} wrong without a word"
            label = label.format(method, **methods[method]["verdict"])
            for i, run in enumerate(runs):
                axis.errorbar(
                    k + (i + 0.5) / len(runs) * 0.8,
                    run["error"],
                    yerr=run["stderr"],
                    color=colour,
                    fmt="o",
                    ms=4,
                    mfc="white" if run["note"] else colour,
                    elinewidth=1,
                    label=label if i == 0 else None,
                )
        axis.set(title=name, xticks=[])
        axis.grid(alpha=0.3, axis="y")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.03), fontsize=8)
    axes[0, 0].set_ylabel("estimate less exact, nats (bars: stated error)")
    figure.suptitle("A mode that annealing misses; hollow: the estimate carries a note")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
