"""The error of the slices of a transverse field, against exact diagonalisation.

    python experiments/claims/transverse_field.py --out runs/transverse_field

A spin glass of 8 spins, all pairs coupled, in transverse fields of several strengths: log Z and the
correlations of sigma_z by diagonalisation of its 2^8 x 2^8 matrix, by m slices without sampling
error (the m-th power of the transfer matrix, which is what the sum over all states of the slices
is), and by Gibbs on the sliced problem.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import Gibbs

sys.path.append(str(Path(__file__).parents[2]))
from experiments.claims.quantum_proposal import all_states, spin_glass
from experiments.common import CommonOptions, Report, command_line, progress_bar


@dataclass(frozen=True)
class Options(CommonOptions):
    """Settings."""

    spins: int = 8
    """spins of the problem"""
    beta: float = 0.5
    """its inverse temperature"""
    fields: tuple[float, ...] = (0.4, 1.2, 3.0)
    """transverse fields"""
    slices: tuple[int, ...] = (4, 8, 16, 32, 64)
    """numbers of slices"""
    reads: int = 4000
    """reads of Gibbs"""
    sweeps: int = 300
    """its sweeps"""


def main(options: Options) -> None:
    """Diagonalise, slice, sample, draw."""
    report = Report(options, __file__)
    problem = spin_glass(options.spins, options.beta, 0)
    rows: dict[float, Any] = {}
    for field in progress_bar(options.fields, desc="fields"):
        log_z, correlations = quantum(problem, field)
        rows[field] = {}
        for slices in options.slices:
            sliced = transfer(problem, field, slices)
            sampled, error = by_gibbs(problem, field, slices, options)
            rows[field][slices] = {
                "log_z_error": abs(float(sliced[0] - log_z)),
                "correlation_error": largest(sliced[1] - correlations),
                "sampled_error": largest(sampled - correlations),
                "sampled_stderr": largest(error),
            }
    result = {"fields": rows, "order": {field: order(row) for field, row in rows.items()}}
    print(result["order"])
    report.finish(result, picture(result))


def hamiltonian(problem: qs.Ising, field: float) -> Tensor:
    """E(sigma_z) - field sum of sigma_x, `[2^n, 2^n]`."""
    n = problem.num_spins
    number = torch.arange(1 << n)
    H = torch.diag(problem.energy(all_states(n)))
    for i in range(n):
        H[number, number ^ (1 << i)] -= field
    return H


def moments(law: Tensor, n: int) -> Tensor:
    """Means of s_i s_j of a law of all states."""
    s = all_states(n).double()
    return s.T @ (law[:, None] * s)


def quantum(problem: qs.Ising, field: float) -> tuple[Tensor, Tensor]:
    """Log Z and correlations by diagonalisation."""
    values, vectors = torch.linalg.eigh(hamiltonian(problem, field))
    law = vectors.square() @ (-values).softmax(0)
    return (-values).logsumexp(0), moments(law, problem.num_spins)


def transfer(problem: qs.Ising, field: float, slices: int) -> tuple[Tensor, Tensor]:
    """Log Z and correlations of the slices, without sampling error."""
    E = problem.energy(all_states(problem.num_spins))
    half = torch.diag((-(E - E.min()) / (2 * slices)).exp())
    X = torch.diag(E) - hamiltonian(problem, field)
    power = torch.linalg.matrix_power(half @ torch.linalg.matrix_exp(X / slices) @ half, slices)
    law = power.diagonal() / power.trace()
    return power.trace().log() - E.min(), moments(law, problem.num_spins)


def by_gibbs(
    problem: qs.Ising, field: float, slices: int, options: Options
) -> tuple[Tensor, Tensor]:
    """Correlations by sampling the slices, and their standard errors."""
    generator = torch.Generator().manual_seed(slices)
    sliced = qs.transverse_field(problem, field, slices)
    reads = Gibbs(sweeps=options.sweeps).sample(sliced, options.reads, generator=generator)
    s = reads.spins.unflatten(-1, (slices, problem.num_spins)).double()
    values = torch.einsum("rki,rkj->rij", s, s) / slices
    return values.mean(0), values.std(0) / len(values) ** 0.5


def largest(values: Tensor) -> float:
    """The largest of the numbers in size."""
    return float(values.abs().max())


def order(row: dict[int, dict[str, float]]) -> float:
    """The k of an error m^-k, between the two finest."""
    fine = sorted(row)[-2:]
    errors = torch.tensor([row[m]["log_z_error"] for m in fine], dtype=torch.float64)
    ratio = torch.tensor(fine[1] / fine[0], dtype=torch.float64)
    return float((errors[0] / errors[1]).log() / ratio.log())


def picture(result: dict[str, Any]) -> Figure:
    """Errors of log Z and of correlations over the number of slices."""
    figure, axes = plt.subplots(1, 2, figsize=(10.0, 4.4))
    for k, (field, row) in enumerate(result["fields"].items()):
        m = list(row)
        for axis, key in zip(axes, ("log_z_error", "correlation_error"), strict=True):
            values = [row[slices][key] for slices in m]
            axis.loglog(m, values, "o-", color=f"C{k}", ms=4, label=f"Γ = {field}")
        sampled = [row[slices]["sampled_error"] for slices in m]
        axes[1].loglog(m, sampled, "x", color=f"C{k}", label=f"Γ = {field}, Gibbs")
    first = next(iter(result["fields"].values()))
    for axis, key in zip(axes, ("log_z_error", "correlation_error"), strict=True):
        m = list(first)
        guide = [first[m[0]][key] * (m[0] / slices) ** 2 for slices in m]
        axis.loglog(m, guide, "k--", lw=1, label="slices⁻²")
        axis.set_xticks(m, [str(slices) for slices in m])
        axis.minorticks_off()
        axis.set(xlabel="slices")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("error of log Z, nats")
    axes[1].set_ylabel("largest error of ⟨σz σz⟩")
    figure.suptitle("Slices of a transverse field against exact diagonalisation, 8 spins")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
