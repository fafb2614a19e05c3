"""Is this sample right, and how many independent reads is it worth?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.enumerate import log_partition, num_enumerated
from qsample.ising import Ising
from qsample.samples import Estimate, Samples
from qsample.temperature import effective_beta


def autocorrelation_time(x: Tensor) -> float:
    r"""Integrated autocorrelation time of `x` [T, R], a statistic of R chains at T successive times, in steps.

    $\tau = 1 + 2 \sum_k \rho_k$, cut where the sum of a neighbouring pair of $\rho$ turns negative (Geyer, Stat.
    Sci. 7, 1992); covariances are averaged over chains after the mean over chains is taken off at each time, so that a
    drifting model does not count as correlation. Between 1 (independent) and T.
    """
    T, R = x.shape
    if T < 4 or R < 2:
        raise ValueError(f"expected at least 4 times of 2 chains; got {T} of {R}")
    if (x == x[:, :1]).all():
        return float(T)  # all alike: one chain, and nothing is left when the mean is taken off
    y = x.double() - x.double().mean(1, keepdim=True)
    f = torch.fft.rfft(y, n=2 * T, dim=0)
    covariance = torch.fft.irfft(f * f.conj(), dim=0)[:T].mean(1) / torch.arange(T, 0, -1)
    if covariance[0] <= 0:
        return float(T)
    rho = covariance / covariance[0]
    pairs = rho[: T - T % 2].reshape(-1, 2).sum(1)
    negative = (pairs < 0).nonzero()
    stop = int(negative[0]) if len(negative) else len(pairs)
    return min(float(T), max(1.0, float(2 * pairs[:stop].sum() - 1)))


def chain_ess(x: Tensor) -> float:
    """Independent reads that R chains deliver a step, R / tau, for a statistic `x` [T, R] recorded along the run."""
    return x.shape[1] / autocorrelation_time(x)


def split_rhat(x: Tensor) -> Tensor:
    r"""Split R-hat of `x` [T, R, ...], statistics of R chains at T successive times: 1 where the chains agree.

    $$\hat R = \sqrt{\tfrac{n-1}{n} + \tfrac{B}{nW}}$$

    over the 2R half chains of n draws, B/n the variance of their means and W their mean variance (Gelman et al.,
    Bayesian Data Analysis, 3rd ed., 2013, 11.4). Trailing dimensions are more statistics (or problems) of these
    chains:
    their variances are averaged before the ratio is taken. Chains that do not move give 1 where they agree, else inf.
    """
    n, R = x.shape[0] // 2, x.shape[1]
    if n < 2 or R < 2:
        raise ValueError(f"expected at least 4 times of 2 chains; got {x.shape[0]} of {R}")
    halves = torch.cat([x[:n], x[x.shape[0] - n :]], 1).double()
    between, within = halves.mean(0).var(0).mean(), halves.var(0).mean()
    if within == 0:
        return torch.where(between == 0, 1.0, torch.inf).to(within)
    return ((n - 1) / n + between / within).sqrt()


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
        energy = float(samples.mean(samples.energy.double()))
        energy_z = (energy - mean) / max(variance / float(samples.ess()), 1e-300) ** 0.5
        ok &= abs(energy_z) <= 4
        verdict = "right" if abs(energy_z) <= 4 else "too high" if energy_z > 0 else "too low"
        said.append(f"mean energy {energy:.3f}, exact {mean:.3f} (z = {energy_z:+.1f}): {verdict}")
    if samples.log_weight is not None:
        said.append(f"weights: {float(samples.ess()):.0f} effective of {samples.num} reads")
    said.append(f"tag: {samples.exactness.value}")
    return Diagnosis(ok, "; ".join(said), beta, energy_z)


def _energy_moments(problem: Ising) -> tuple[float, float]:
    """Exact mean and variance of E: -d/dbeta and d^2/dbeta^2 of log Z(beta) at beta = 1."""
    with torch.enable_grad():
        beta = torch.ones((), dtype=torch.float64, device=problem.device, requires_grad=True)
        log_z = log_partition(problem.detach().to(dtype=torch.float64).scale(beta))
        (first,) = torch.autograd.grad(log_z, beta, create_graph=True)
        (second,) = torch.autograd.grad(first, beta)
    return -float(first.detach()), float(second)
