"""Is this sample right, and how many independent reads is it worth?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qsample.enumerate import log_partition, num_enumerated
from qsample.ising import Ising
from qsample.samples import Estimate, Samples, check_samples
from qsample.temperature import effective_beta


@dataclass(frozen=True)
class Diagnosis:
    """What could be checked about a set of reads. `ok` is False where a check failed at |z| > 4.

    A check that passed is no proof: the temperature is a local test, the mean energy needs a small problem.
    """

    ok: bool
    text: str
    beta: Estimate
    energy_z: float | None

    def __str__(self) -> str:
        return self.text


def diagnose(problem: Ising, samples: Samples, *, limit: int = 20) -> Diagnosis:
    """Are these reads of one problem right? Effective beta against 1, and the mean energy against the exact one.

    The exact mean energy and its variance are derivatives of log Z(beta) at 1; they are found where at most
    2^`limit` states must be listed.
    """
    check_samples(samples)
    if samples.spins.dim() != 2:
        raise ValueError(f"expected reads of one problem [R, n]; got {list(samples.spins.shape)}")
    beta = effective_beta(problem, samples)
    if math.isnan(beta.value):
        z = 0.0  # no spin feels a field: any beta would do
    else:
        z = (beta.value - 1) / beta.stderr if beta.stderr > 0 else math.inf
    hot = "too hot" if z < 0 else "too cold"
    said = [
        f"effective beta {beta.value:.3f} ± {beta.stderr:.3f}: " + (hot if not abs(z) <= 4 else "consistent with 1")
    ]
    if beta.note:
        said = [beta.note]
    ok, energy_z = abs(z) <= 4, None
    if num_enumerated(problem) <= limit:
        mean, variance = _energy_moments(problem)
        # of double precision and without the offset: the reads' own energies may have lost what tells them apart
        each = problem.to(dtype=torch.float64).without_offset().energy(samples.spins)
        energy = float(samples.weight.double() @ each)
        energy_z = (energy - mean) / max(variance / float(samples.ess()), 1e-300) ** 0.5
        ok &= abs(energy_z) <= 4
        verdict = "right" if abs(energy_z) <= 4 else "too high" if energy_z > 0 else "too low"
        offset = float(problem.offset)
        said.append(f"mean energy {energy + offset:.3f}, exact {mean + offset:.3f} (z = {energy_z:+.1f}): {verdict}")
    if samples.log_weight is not None:
        said.append(f"weights: {float(samples.ess()):.0f} effective of {samples.num} reads")
    said.append(f"tag: {samples.exactness.value}")
    return Diagnosis(ok, "; ".join(said), beta, energy_z)


def _energy_moments(problem: Ising) -> tuple[float, float]:
    """Exact mean and variance of E, without the offset: -d/dbeta and d^2/dbeta^2 of log Z(beta) at beta = 1."""
    with torch.enable_grad():
        beta = torch.ones((), dtype=torch.float64, device=problem.device, requires_grad=True)
        log_z = log_partition(problem.detach().to(dtype=torch.float64).without_offset().scale(beta))
        (first,) = torch.autograd.grad(log_z, beta, create_graph=True)
        (second,) = torch.autograd.grad(first, beta)
    return -float(first.detach()), float(second)
