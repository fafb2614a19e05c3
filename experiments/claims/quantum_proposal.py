"""Exact spectral gaps of quantum-enhanced MCMC beside classical moves, and what it costs.

    python experiments/claims/quantum_proposal.py --out runs/quantum_proposal

Fully coupled spin glasses, h and J normal (Layden et al., Nature 619, 282, 2023), whose chains'
transition matrices are written down in full, 2^n x 2^n, and diagonalised. A move's rate is

    -log |second largest eigenvalue| / (energy differences that it looks at),

so that all moves are compared at equal energy evaluations:

- local: the flip of a random spin, Metropolis; 1 evaluation.
- uniform: any state, Metropolis; 1.
- quench, symmetric ramp: `QuantumProposal`'s, averaged over its times and strengths; 1. What the
  evolution costs is not in it: a quantum computer's time, or 2^n numbers here.
- Gibbs: a palindromic sweep; 2n - 1.
- tempered: a palindromic Gibbs sweep at the target, then two at a hotter temperature as one
  Metropolis move (a tempered transition of one step, Neal 1996), the best of a few temperatures,
  then a sweep again; 4 (2n - 1).

There is no speed-up in the worst case for any unital proposal (Orfi and Sels, arXiv 2403.03087);
averages over instances, as here, are not in that bound.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import QuantumProposal

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar

COLOURS = {
    "symmetric ramp": "C0",
    "quench": "C1",
    "local": "C2",
    "uniform": "C7",
    "Gibbs": "C4",
    "tempered": "C3",
}
QUENCH = QuantumProposal(ramp="quench", gamma=(0.25, 0.6), time=(2.0, 20.0), layers=25)
"""the settings of Layden et al."""
HOT = (0.05, 0.1, 0.2, 0.4, 0.7)


@dataclass(frozen=True)
class Options(CommonOptions):
    """Settings."""

    sizes: tuple[int, ...] = (4, 5, 6, 7, 8, 9, 10)
    """spins"""
    instances: int = 20
    """spin glasses of each size"""
    betas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    """inverse temperatures, at the size below"""
    at: int = 8
    """spins of the figure over temperature"""
    draws: int = 16
    """strengths and times that a quantum proposal is averaged over"""


def main(options: Options) -> None:
    """Diagonalise, average, draw."""
    report = Report(options, __file__)
    watch = Stopwatch()
    sizes = {n: rates(n, 1.0, options) for n in progress_bar(options.sizes, desc="sizes")}
    betas = {
        beta: rates(options.at, beta, options)
        for beta in progress_bar(options.betas, desc="temperatures")
    }
    result = {
        "sizes": sizes,
        "betas": betas,
        "halving": {name: halving(sizes, name) for name in COLOURS},
        "cpu_seconds": watch.read().cpu,
    }
    for name in COLOURS:
        row = [f"{sizes[n][name]['rate']:.4f}" for n in options.sizes]
        print(f"{name:15} {' '.join(row)}   2^(-{result['halving'][name]:.2f} n)")
    report.finish(result, picture(result, options))


# ---- problems and moves -----------------------------------------------------------------------


def spin_glass(n: int, beta: float, seed: int) -> qs.Ising:
    """Fields and couplings of all pairs, normal of variance beta^2.

    Args:
        n: spins.
        beta: inverse temperature.
        seed: seed of the numbers.
    """
    generator = torch.Generator().manual_seed(1000 * n + seed)
    J = torch.randn(n, n, generator=generator, dtype=torch.float64).triu(1)
    h = torch.randn(n, generator=generator, dtype=torch.float64)
    return qs.Ising.from_dense(h, J + J.mT).scale(beta)


def all_states(n: int) -> Tensor:
    """All states, `[2^n, n]` int8; spin i is +1 where bit i of the number is set."""
    number = torch.arange(1 << n)[:, None]
    return ((number >> torch.arange(n)) & 1).to(torch.int8) * 2 - 1


def metropolis(proposal: Tensor, energy: Tensor) -> Tensor:
    """Transition matrix `[2^n, 2^n]` of Metropolis steps, rows sum to 1.

    Args:
        proposal: probability of each proposal from the row's state; symmetric, or reversible at
            the rest of the law.
        energy: the part of E that acceptance corrects for, of all states.
    """
    accept = (energy[:, None] - energy).clamp(max=0).exp()
    P = proposal * accept
    return P + torch.diag(1 - P.sum(-1))


def local(n: int) -> Tensor:
    """A flip of one random spin."""
    number = torch.arange(1 << n)
    Q = torch.zeros(1 << n, 1 << n, dtype=torch.float64)
    for i in range(n):
        Q[number, number ^ (1 << i)] = 1 / n
    return Q


def quantum(problem: qs.Ising, sampler: QuantumProposal, draws: int) -> Tensor:
    """Mean of |U|^2 over strengths and times, by draws of a low-discrepancy sequence."""
    points = torch.quasirandom.SobolEngine(2).draw(draws + 1, dtype=torch.float64)[1:]
    matrices = [sampler.proposal_matrix(problem, point) for point in points]
    return torch.stack(matrices).mean(0)


def gibbs_sweep(problem: qs.Ising, energy: Tensor, beta: float) -> Tensor:
    """Transition matrix of a palindromic sweep of heat baths at beta.

    Args:
        problem: the problem.
        energy: its E of all states.
        beta: inverse temperature, 1 at the target.
    """
    n = problem.num_spins
    number = torch.arange(1 << n)
    sweep = torch.eye(1 << n, dtype=torch.float64)
    for i in [*range(n), *reversed(range(n - 1))]:
        other = number ^ (1 << i)
        flip = (beta * (energy[other] - energy)).neg().sigmoid()
        # rows of the product: stay with 1 - flip, or go to the flipped state
        sweep = sweep * (1 - flip) + sweep[:, other] * flip[other]
    return sweep


def tempered(problem: qs.Ising, energy: Tensor) -> Tensor:
    """Transition matrix of the best tempered transition of one step between two sweeps."""
    at_one = gibbs_sweep(problem, energy, 1.0)

    def at(beta: float) -> Tensor:
        hot = gibbs_sweep(problem, energy, beta)
        return at_one @ metropolis(hot @ hot, (1 - beta) * energy) @ at_one

    return max((at(beta) for beta in HOT), key=lambda P: rate(P, energy))


def rate(P: Tensor, energy: Tensor, evaluations: int = 1) -> float:
    """-log of the second largest eigenvalue in size, per energy evaluation.

    Args:
        P: transition matrix, reversible at exp(-energy).
        energy: E of all states.
        evaluations: energy differences of a step.
    """
    root = (-(energy - energy.min()) / 2).exp()
    S = root[:, None] * P / root
    values = torch.linalg.eigvalsh((S + S.mT) / 2).abs().sort(descending=True).values
    second = min(float(values[1]), 1 - 1e-15)
    return -math.log(max(second, 1e-300)) / evaluations


def rates(n: int, beta: float, options: Options) -> dict[str, dict[str, float]]:
    """Mean and standard error over instances of each move's rate.

    Args:
        n: spins.
        beta: inverse temperature.
        options: options of the run.
    """
    moves: dict[str, Callable[[qs.Ising, Tensor], tuple[Tensor, int]]] = {
        "symmetric ramp": lambda p, E: (
            metropolis(quantum(p, QuantumProposal(), options.draws), E),
            1,
        ),
        "quench": lambda p, E: (
            metropolis(quantum(p, QUENCH, options.draws), E),
            1,
        ),
        "local": lambda p, E: (metropolis(local(n), E), 1),
        "uniform": lambda p, E: (
            metropolis(torch.full((1 << n, 1 << n), 0.5**n, dtype=E.dtype), E),
            1,
        ),
        "Gibbs": lambda p, E: (gibbs_sweep(p, E, 1.0), 2 * n - 1),
        "tempered": lambda p, E: (tempered(p, E), 4 * (2 * n - 1)),
    }
    values: dict[str, list[float]] = {name: [] for name in moves}
    for seed in range(options.instances):
        problem = spin_glass(n, beta, seed)
        energy = problem.energy(all_states(n))
        for name, move in moves.items():
            P, evaluations = move(problem, energy)
            values[name].append(rate(P, energy, evaluations))
    return {name: summary(numbers) for name, numbers in values.items()}


def summary(numbers: list[float]) -> dict[str, float]:
    """Mean, its standard error, and the worst."""
    tensor = torch.tensor(numbers, dtype=torch.float64)
    error = float(tensor.std()) / len(numbers) ** 0.5 if len(numbers) > 1 else 0.0
    return {"rate": float(tensor.mean()), "stderr": error, "worst": float(tensor.min())}


def halving(sizes: dict[int, dict[str, Any]], name: str) -> float:
    """The k of a fit 2^(-k n) to mean rates."""
    if len(sizes) < 2:
        return 0.0
    n = torch.tensor(list(sizes), dtype=torch.float64)
    log2 = torch.tensor([row[name]["rate"] for row in sizes.values()]).double().log2()
    centred = n - n.mean()
    return -float((centred * log2).sum() / centred.square().sum())


def picture(result: dict[str, Any], options: Options) -> Figure:
    """Mean rate over the size at beta 1, and over beta at one size."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.6))
    for axis, key in zip(axes, ("sizes", "betas"), strict=True):
        for name, colour in COLOURS.items():
            rows = [row[name] for row in result[key].values()]
            label = name
            if key == "sizes":
                label = f"{name}: $2^{{-{result['halving'][name]:.2f}\\,n}}$"
            axis.errorbar(
                list(result[key]),
                [row["rate"] for row in rows],
                yerr=[row["stderr"] for row in rows],
                color=colour,
                marker="o",
                ms=4,
                capsize=2,
                label=label,
            )
        axis.set(yscale="log", ylabel="rate per energy evaluation: -log|λ₂| / evaluations")
        axis.grid(alpha=0.3)
    axes[0].set(xlabel="spins n (β = 1)")
    axes[0].legend(fontsize=8)
    axes[1].set(xlabel=f"inverse temperature β (n = {options.at})", xscale="log")
    figure.suptitle(
        f"Exact spectral gaps, spin glasses of all pairs, mean of {options.instances}; "
        "the quantum evolution itself is not charged"
    )
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
