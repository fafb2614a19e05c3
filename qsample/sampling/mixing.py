"""Do chains mix? Autocorrelation time, effective reads, R-hat."""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.support.checks import check_tensors


def autocorrelation_time(x: Tensor) -> float:
    r"""Integrated autocorrelation time, in steps, of a statistic of R chains at T times, `[T, R]`.

    $\tau = 1 + 2 \sum_k \rho_k$, cut where the sum of a neighbouring pair of $\rho$ turns negative
    (Geyer, Stat. Sci. 7, 1992); covariances are averaged over chains after the mean over chains is
    taken off at each time, so that a drifting model does not count as correlation. Between 1
    (independent) and T.
    """
    check_tensors(x=x)
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
    """Independent reads that R chains deliver per step, R / tau, by a statistic `x` `[T, R]`."""
    return x.shape[1] / autocorrelation_time(x)


def split_rhat(x: Tensor) -> Tensor:
    r"""Split R-hat of statistics of R chains at T times, `[T, R, ...]`: 1 where they agree.

    $$\hat R = \sqrt{\tfrac{n-1}{n} + \tfrac{B}{nW}}$$

    over the 2R half chains of n draws, B/n the variance of their means and W their mean variance
    (Gelman et al., Bayesian Data Analysis, 3rd ed., 2013, 11.4). Trailing dimensions are more
    statistics (or problems) of these chains: their variances are averaged before the ratio is
    taken. Chains that do not move give 1 where they agree, else inf.
    """
    check_tensors(x=x)
    n = x.shape[0] // 2
    R = x.shape[1]
    if n < 2 or R < 2:
        raise ValueError(f"expected at least 4 times of 2 chains; got {x.shape[0]} of {R}")
    halves = torch.cat([x[:n], x[x.shape[0] - n :]], 1).double()
    between = halves.mean(0).var(0).mean()
    within = halves.var(0).mean()
    if within == 0:
        return torch.where(between == 0, 1.0, torch.inf).to(within)
    return ((n - 1) / n + between / within).sqrt()
