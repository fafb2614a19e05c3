"""Two laws on which annealed importance sampling is sure and wrong, and what comparing runs started apart makes of it.

    python experiments/missed_modes.py --out runs/missed_modes

A. A ferromagnet whose order turns over on the way down: m spins coupled all to all (J = -4/m) in a field that holds
them down, each with a leaf that would rather be up. Log Z is a sum of m + 1 terms. Annealing follows the mode that is
best while it is hot, and stays there.

B. An RBM of 60 x 12 with a mode that holds 95 % of the mass and that no row of data visits. Log Z is a sum over the 13
numbers of hidden units that are on. Annealing starts from the data's means, and stays there.

Each is estimated with `check=False` (annealed importance sampling alone), as it comes (runs from every basin that
chains started apart find), and by population annealing. JSON and a picture.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import PopulationAnnealing
from qsample.models import BernoulliRBM

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Options:
    """Settings."""

    out: Path = Path("runs/missed_modes")
    """folder for the JSON and the picture"""
    seeds: int = 20
    """runs of each"""
    steps: int = 1000
    """temperatures of an annealing run"""
    chains: int = 256
    """runs at once"""
    cores: tuple[int, ...] = (30, 40)
    """spins of the ferromagnet that are coupled all to all, m; it has 2 m in all"""
    mass: float = 0.95
    """of the RBM's hidden mode"""
    threads: int = 1
    """torch threads"""


def log_binomial(n: int) -> torch.Tensor:
    """Log of n choose k, k = 0..n."""
    k = torch.arange(n + 1, dtype=torch.float64)
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def ferromagnet(
    m: int, coupling: float = 4.0, field: float = 0.45, leaf: float = 1.0, leaf_field: float = 1.0
) -> tuple[qs.Ising, float]:
    r"""The problem of case A and its log Z.

    $$Z = \sum_k \binom{m}{k} e^{(J_0/m)(M^2 - m)/2 - h M} (2\cosh(J_a + h_a))^k (2\cosh(h_a - J_a))^{m - k}$$

    with M = 2k - m.
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
    """The RBM of case B, its data, and its log Z: states with half of the hidden units on, or more, hold `mass`."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(visible, generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, (visible,), generator=generator).double() * 2 - 1
    on = torch.arange(hidden + 1, dtype=torch.float64)
    given = torch.nn.functional.softplus(b + on[:, None] * weight * sign).sum(-1)

    def terms(c: float) -> torch.Tensor:
        return log_binomial(hidden) + c * on + given

    c, low, high = 0.0, -100.0, 100.0
    for _ in range(100):  # by bisection: the mass grows with c
        c = (low + high) / 2
        share = terms(c).softmax(0)[hidden // 2 :].sum()
        low, high = (low, c) if share > mass else (c, high)
    model = BernoulliRBM(visible, hidden).double()
    with torch.no_grad():
        model.W.copy_(weight * sign[:, None].expand(visible, hidden))
        model.b.copy_(b)
        model.c.fill_(c)
    data = torch.rand(2000, visible, generator=generator, dtype=torch.float64) < b.sigmoid()
    return model, data.double(), float(terms(c).logsumexp(0))


def measured(estimate: qs.Estimate, truth: float, seconds: float) -> dict[str, Any]:
    """One run as JSON keeps it."""
    result = {
        "error": estimate.value - truth,
        "stderr": estimate.stderr,
        "ess": float(estimate.ess),
    }
    return result | {"note": estimate.note, "cpu_seconds": seconds}


def population(problem: qs.Ising, generator: torch.Generator) -> qs.Estimate:
    """Log Z by population annealing at its defaults."""
    info = PopulationAnnealing().sample(problem, 1, generator=generator).info
    value, stderr, ess = (float(info[k]) for k in ("log_partition", "log_partition_stderr", "ess"))
    return qs.Estimate(value, stderr, ess, info["note"])


def runs(case: Any, options: Options) -> dict[str, list[dict[str, Any]]]:
    """Every way to log Z of a case, which `case(seed)` makes: likelihood or log Z by AIS, the problem, its log Z."""
    found: dict[str, list[dict[str, Any]]] = {"AIS alone": [], "qsample": [], "population": []}
    for seed in range(options.seeds):
        estimate, problem, truth, log_z = case(seed)
        ways = {
            "AIS alone": lambda generator, ais=estimate: ais(check=False, generator=generator),
            "qsample": lambda generator, ais=estimate: ais(generator=generator),
            "population": lambda generator, p=problem: population(p, generator),
        }
        for name, way in ways.items():
            began = time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", qs.ReliabilityWarning)  # its text is in the note
                value = way(torch.Generator().manual_seed(seed))
            right = log_z if name == "population" else truth
            found[name].append(measured(value, right, time.process_time() - began))
    return found


def cases(options: Options) -> dict[str, Any]:
    """Each case as a function of the seed."""

    def turning(m: int) -> Any:
        problem, log_z = ferromagnet(m)

        def case(seed: int) -> Any:
            def ais(**how: Any) -> qs.Estimate:
                return qs.log_partition(
                    problem, "ais", steps=options.steps, chains=options.chains, **how
                )

            return ais, problem, log_z, log_z

        return case

    def rbm(seed: int) -> Any:
        model, data, log_z = hidden_mode(seed, options.mass)
        exact = qs.log_likelihood(model, data, "exact").value

        def ais(**how: Any) -> qs.Estimate:
            return qs.log_likelihood(
                model, data, "ais", steps=options.steps, chains=options.chains, **how
            )

        return ais, model.ising().detach(), exact, log_z

    named = {f"A: ferromagnet of {2 * m} spins, log Z": turning(m) for m in options.cores}
    return named | {"B: RBM of 60 × 12, nats a row": rbm}


def verdict(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many runs are right within 4 of their standard errors, say so in a note, or are wrong without a word."""
    within = [abs(run["error"]) <= 4 * run["stderr"] for run in rows]
    noted = [bool(run["note"]) for run in rows]
    silent = sum(not good and not said for good, said in zip(within, noted, strict=True))
    return {
        "runs": len(rows),
        "within": sum(within),
        "noted": sum(noted),
        "wrong_and_silent": silent,
    }


def main(options: Options) -> None:
    """Run, judge, draw."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"options": asdict(options) | {"out": str(options.out)}, "cases": {}}
    for name, case in cases(options).items():
        found = runs(case, options)
        results["cases"][name] = {
            way: {"verdict": verdict(rows), "runs": rows} for way, rows in found.items()
        }
        for way, rows in found.items():
            errors = sorted(run["error"] for run in rows)
            print(
                f"{name:40} {way:12} {verdict(rows)}, median error {errors[len(errors) // 2]:+.3f}"
            )
        (options.out / "results.json").write_text(json.dumps(results, indent=1))
    picture(results["cases"], options.out / "missed_modes.png")
    print(f"{options.out / 'results.json'}\n{options.out / 'missed_modes.png'}")


COLOURS = {"AIS alone": "C3", "population": "C7", "qsample": "C0"}


def picture(found: dict[str, Any], path: Path) -> None:
    """The error of each run with its stated one, the truth as a line; hollow where there is a note."""
    figure, axes = plt.subplots(1, len(found), figsize=(4.6 * len(found), 5.0), squeeze=False)
    for axis, (name, ways) in zip(axes[0], found.items(), strict=True):
        axis.axhline(0, color="k", lw=1, label="exact")
        for k, (way, colour) in enumerate(COLOURS.items()):
            rows = ways[way]["runs"]
            judged = ways[way]["verdict"]
            label = f"{way}: {judged['wrong_and_silent']} of {judged['runs']} wrong without a word"
            for i, run in enumerate(rows):
                x = k + (i + 0.5) / len(rows) * 0.8
                axis.errorbar(
                    x,
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
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
