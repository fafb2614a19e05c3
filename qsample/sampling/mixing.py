"""Do chains mix? Autocorrelation time, effective reads, R-hat; plain and of ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    x = x.detach().cpu().double()
    y = x - x.mean(1, keepdim=True)
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
    if x.dim() < 2 or x.shape[0] < 4 or x.shape[1] < 2:
        raise ValueError(f"expected at least 4 times of 2 chains, [T, R, ...]; got {[*x.shape]}")
    halves = _halves(x)
    n = len(halves)
    between = halves.mean(0).var(0).mean()
    within = halves.var(0).mean()
    if within == 0:
        return torch.where(between == 0, 1.0, torch.inf).to(within)
    return ((n - 1) / n + between / within).sqrt()


# ---- of ranks: each statistic by itself, whatever its law ----------------


def rank_rhat(x: Tensor) -> Tensor:
    r"""R-hat of ranks, of statistics of R chains at T times, `[T, R, ...]`: one each, `[...]`.

    The larger of two split R-hats: of the draws' normal scores, which sees chains that stay in
    different places, and of the scores of their distances from the median (folded), which sees
    chains of different spread. Scores are $\Phi^{-1}((r - 3/8) / (S + 1/4))$ of the rank r among
    all S draws, ties sharing their mean rank: so neither heavy tails nor infinite variance hide
    anything (Vehtari, Gelman, Simpson, Carpenter and Bürkner, Bayesian Analysis 16, 2021, section
    4; chains are taken to agree up to 1.01, with four or more of them).

    Where no half chain moves: 1 where they agree, else inf. A statistic with a nan gives nan.

    Args:
        x: statistics of the chains; trailing dimensions are more of them.

    Raises:
        ValueError: less than 4 times of one chain.
    """
    check_chains(x)
    halves = _halves(x)
    ranked = _scored_rhat(halves)
    folded = _scored_rhat((halves - _median(halves)).abs())
    rhat = torch.maximum(ranked, folded)
    return torch.where(x.isnan().any(0).any(0), torch.nan, rhat)


def bulk_ess(x: Tensor) -> Tensor:
    r"""Independent draws that R chains of T times are worth, in the bulk: `[T, R, ...]` to `[...]`.

    The effective sample size of the normal scores of split chains (Vehtari et al. 2021, section
    4.2): $S / \tau$ with $\tau = 1 + 2 \sum_k \rho_k$ and $\rho_k = 1 - (W - \bar c_k) / V$, where
    $\bar c_k$ is the mean covariance of a chain at lag k, W the mean variance of a chain and V that
    of all draws. So chains that disagree count for little, however freely each of them moves. The
    sum is cut and made monotone by pairs (Geyer 1992); at most $S \log_{10} S$. Chains of which
    none moves are worth as many draws as there are different places.

    Args:
        x: statistics of the chains; trailing dimensions are more of them.

    Raises:
        ValueError: less than 4 times of one chain.
    """
    check_chains(x)
    return _ess(_scores(_halves(x)), x)


def tail_ess(x: Tensor) -> Tensor:
    """Independent draws that R chains of T times are worth, in the tails: `[T, R, ...]` to `[...]`.

    The smaller effective sample size of the events "at most the 5 % quantile" and "at most the 95 %
    quantile", of split chains (Vehtari et al. 2021, section 4.3). A tail that ties with the bulk,
    as that of a statistic of two values, is no event, and is left out.

    Args:
        x: statistics of the chains; trailing dimensions are more of them.

    Raises:
        ValueError: less than 4 times of one chain.
    """
    check_chains(x)
    halves = _halves(x)
    ordered = halves.flatten(0, 1).sort(0).values
    last = len(ordered) - 1
    sizes = []
    for part in (0.05, 0.95):
        # interpolated, as by torch.quantile, which takes no long tensors
        place = part * last
        low = ordered[math.floor(place)]
        high = ordered[math.ceil(place)]
        inside = halves <= low + (place - math.floor(place)) * (high - low)
        size = _ess(inside.double(), x)
        always = inside.all(0).all(0)
        sizes.append(torch.where(always, torch.inf, size))
    tails = torch.minimum(*sizes)
    return torch.where(tails.isinf(), bulk_ess(x), tails)


def nested_rhat(x: Tensor, sizes: Sequence[int]) -> Tensor:
    r"""R-hat of ranks between groups of chains, `[T, R, ...]` to `[...]`: for many short chains.

    $\hat R = \sqrt{1 + \hat B / \hat W}$ with $\hat B$ the variance of the groups' means, each of
    chains that started in one place, and $\hat W$ the mean over groups of the variance between
    their chains' means plus the mean variance within their chains (Margossian, Hoffman, Sountsov,
    Riou-Durand, Vehtari and Gelman, Bayesian Analysis 2024), of normal scores as in `rank_rhat`.
    Where starts are forgotten it goes to 1 with the chains of a group: a few times of each suffice,
    which R-hat between chains would call too short. Where nothing varies within groups: 1 where
    they agree, else inf.

    Args:
        x: statistics of R chains at T times, group by group.
        sizes: number of chains of each group.

    Raises:
        ValueError: less than 2 groups, sizes that do not add up to R, or nothing within groups to
            compare with: one time of groups of one chain.
    """
    check_tensors(x=x)
    sizes = list(sizes)
    whole = x.dim() >= 2 and len(sizes) > 1 and min(sizes) > 0 and sum(sizes) == x.shape[1]
    if not whole or (len(x) < 2 and max(sizes) < 2):
        raise ValueError(
            "expected times of 2 groups of chains or more, [T, R, ...], whose sizes add up to R; "
            f"got {[*x.shape]} and sizes {sizes}"
        )
    groups = _scores(x.double()).split(sizes, 1)
    means = torch.stack([group.mean((0, 1)) for group in groups])
    within = torch.zeros_like(means)
    for k, group in enumerate(groups):
        if len(x) > 1:
            within[k] += group.var(0).mean(0)
        if sizes[k] > 1:
            within[k] += group.mean(0).var(0)
    rhat = (1 + means.var(0) / within.mean(0)).sqrt()
    rhat = torch.where(rhat.isnan(), 1.0, rhat)
    return torch.where(x.isnan().flatten(0, 1).any(0), torch.nan, rhat)


def check_chains(x: Tensor) -> None:
    """ValueError unless `x` is `[T, R, ...]` with at least 4 times of one chain."""
    check_tensors(x=x)
    if x.dim() < 2 or x.shape[0] < 4 or x.shape[1] < 1:
        raise ValueError(f"expected at least 4 times of a chain, [T, R, ...]; got {[*x.shape]}")


def _halves(x: Tensor) -> Tensor:
    """The first and last half of each chain, `[T // 2, 2 R, ...]`, double."""
    n = len(x) // 2
    return torch.cat([x[:n], x[len(x) - n :]], 1).double()


def _scored_rhat(halves: Tensor) -> Tensor:
    """R-hat of normal scores of half chains `[n, C, ...]`, `[...]`."""
    n = len(halves)
    scores = _scores(halves)
    between = scores.mean(0).var(0)
    within = scores.var(0).mean(0)
    # chains at rest in one place have equal ranks, and agree
    agree = (halves == halves[:1, :1]).all(0).all(0)
    still = (halves == halves[:1]).all(0).all(0)
    rhat = ((n - 1) / n + between / within).sqrt()
    rhat = torch.where(still, torch.inf, rhat)
    return torch.where(agree, 1.0, rhat)


def _scores(x: Tensor) -> Tensor:
    """Normal scores of the draws `[n, C, ...]` among all of their statistic, the same shape."""
    rows = x.reshape(x.shape[0] * x.shape[1], -1).T.contiguous()
    S = rows.shape[1]
    ordered = rows.sort(-1).values
    below = torch.searchsorted(ordered, rows)
    up_to = torch.searchsorted(ordered, rows, right=True)
    rank = (below + up_to + 1) / 2
    return torch.special.ndtri((rank.double() - 0.375) / (S + 0.25)).T.reshape(x.shape)


def _median(x: Tensor) -> Tensor:
    """The median of all draws `[n, C, ...]` of a statistic, `[...]`: midway between two."""
    ordered = x.flatten(0, 1).sort(0).values
    S = len(ordered)
    return (ordered[(S - 1) // 2] + ordered[S // 2]) / 2


def _ess(chains: Tensor, x: Tensor) -> Tensor:
    """Effective sample size of half chains `[n, C, ...]` of the draws `x`, `[...]`."""
    n, C = chains.shape[:2]
    S = n * C
    centred = chains - chains.mean(0)
    # covariances of each chain at all lags, by the Fourier transform, and their mean over chains
    f = torch.fft.rfft(centred, n=2 * n, dim=0)
    covariance = torch.fft.irfft(f * f.conj(), n=2 * n, dim=0)[:n].mean(1) / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (chains.mean(0).var(0) if C > 1 else 0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1
    # pairs of lags, up to the first negative one and not rising
    pairs = rho[: n - n % 2].unflatten(0, (-1, 2)).sum(1)
    kept = (pairs >= 0).cumprod(0).bool()
    sums = torch.where(kept, pairs.cummin(0).values, 0).sum(0)
    # the even lag of the pair that was cut counts where it is positive
    cut = kept.sum(0).clamp_max(len(pairs) - 1)
    even = rho[: n - n % 2 : 2].gather(0, cut[None])[0].clamp_min(0)
    tau = 2 * sums - 1 + torch.where(kept.all(0), 0, even)
    size = S / tau.clamp_min(1 / math.log10(S))
    # chains at rest are worth their number at most, those in one place no more than one
    moves = (chains != chains[:1]).any(0).any(0)
    ends = x[-1].reshape(x.shape[1], -1).sort(0).values
    places = 1 + (ends.diff(dim=0) != 0).sum(0).reshape(size.shape)
    size = torch.where(moves, size, places.to(size))
    return torch.where(x.isnan().any(0).any(0), torch.nan, size)
