"""Tests that reads are independent: of each other, of other problems and of other calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qsample.testing.law import CLEAR, Law, Reads, codes, whitened

# Least variance of a feature whose products are summed: products of rare events have heavy tails.
STEADY = 0.25
LEAST_WEIGHTED = 50  # reads of each problem, where they have weights


class Part(NamedTuple):
    """One look at the reads: its p-value, and what was seen in words."""

    p_value: float
    seen: str


class Finding(NamedTuple):
    """Several looks as one p-value, uniform where they are independent (Sidak), and the worst."""

    p_value: float
    seen: str

    @staticmethod
    def of(parts: Sequence[Part]) -> Finding:
        """The least p-value of several, as a p-value."""
        worst = min(parts, key=lambda part: part.p_value)
        return Finding(least_of(worst.p_value, len(parts)), worst.seen)


def least_of(p_value: float, number: int) -> float:
    """The p-value of the least of `number` independent p-values: 1 - (1 - p)^number."""
    if p_value >= 1:
        return 1.0
    return -math.expm1(number * math.log1p(-p_value))


def two_sided(z: float) -> float:
    """The chance of a normal number this far from 0, on either side."""
    return math.erfc(abs(z) / math.sqrt(2))


def slices(law: Law) -> dict[str, slice]:
    """The kinds of features: what is summed over a kind cannot cancel against another."""
    n = law.graph.num_spins
    return {"spins": slice(0, n), "products": slice(n, len(law.mean))}


class Standard(NamedTuple):
    """Features of one kind with mean 0 and variance 1.

    Args:
        z: the features of each read, `[R, f]`.
        correlation: their exact correlations, `[f, f]`.
        kept: which features of the kind they are, a mask.
    """

    z: Tensor
    correlation: Tensor
    kept: Tensor


def standard(reads: Reads, kind: slice) -> Standard:
    """The steady features of one kind."""
    variance = reads.covariance.diagonal()[kind]
    kept = reads.law.covariance.diagonal()[kind] >= STEADY
    scale = variance[kept].rsqrt()
    covariance = reads.covariance[kind, kind][kept][:, kept]
    z = reads.deviation[:, kind][:, kept] * scale
    return Standard(z, scale[:, None] * covariance * scale, kept)


# ---- within a call ----------------


def autocorrelation(z: Tensor) -> Tensor:
    """sum_r z_r . z_(r+L) of the reads in a circle, for L = 1 .. R // 2.

    If R is even, the last meets each pair twice and is scaled to the variance of the others.
    """
    R = len(z)
    power = torch.fft.rfft(z, dim=0).abs().square().sum(-1)
    total = torch.fft.irfft(power, n=R)[1 : R // 2 + 1]
    if R % 2 == 0:
        total[-1] /= math.sqrt(2)  # each pair was met twice
    return total


def neighbours(call: Sequence[Reads], name: str) -> tuple[Tensor, float] | None:
    """Autocorrelations of one kind of features, summed over a call's problems; their variance."""
    total = None
    variance = 0.0
    for reads in call:
        z, correlation, _ = standard(reads, slices(reads.law)[name])
        if z.shape[1]:
            products = autocorrelation(z)
            total = products if total is None else total + products
            variance += reads.num * float(correlation.square().sum())
    return None if total is None else (total, variance)


def within(call: Sequence[Reads]) -> Finding | None:
    """The reads of a call: correlations at every distance, drift, repeats; None if all is rare."""
    parts = []
    for name in ("spins", "products"):
        correlations = neighbours(call, name)
        if correlations is None:
            continue
        total, variance = correlations
        z = total / math.sqrt(variance)
        nearest = float(z[0])
        seen = f"{name} of neighbouring reads are correlated: z = {nearest:.1f}"
        parts.append(Part(two_sided(nearest), seen))
        if len(z) > 1:
            parts.append(_farthest(z[1:], 2, f"{name} of reads"))
    parts += [part for reads in call for part in (drift(reads), repeats(reads)) if part is not None]
    return Finding.of(parts) if parts else None


def _farthest(z: Tensor, first: int, what: str) -> Part:
    """The largest of many correlations at distances first, first + 1, ..."""
    place = int(z.abs().argmax())
    worst = float(z[place])
    p_value = least_of(two_sided(worst), len(z))
    return Part(p_value, f"{what} at distance {first + place} are correlated: z = {worst:.1f}")


def drift(reads: Reads) -> Part | None:
    """Whether features rise or fall along the reads, as they do while a start is forgotten."""
    from scipy.stats import chi2

    time = torch.linspace(-1, 1, reads.num, dtype=torch.float64)
    time /= time.square().mean().sqrt()
    basis = whitened(reads.covariance, CLEAR / reads.num)
    if not basis.shape[1]:
        return None
    slope = (time @ reads.deviation @ basis) / math.sqrt(reads.num)
    p_value = float(chi2.sf(float(slope.square().sum()), len(slope)))
    return Part(p_value, "reads change along the call, from the first to the last")


def repeats(reads: Reads) -> Part | None:
    r"""Equal pairs of reads against their number for independent ones.

    Of $R (R-1) / 2$ pairs a fraction $a = \sum p^2$ is equal, with variance $a - a^2 + 2 (R - 2)(b
    - a^2)$ per pair, $b = \sum p^3$. Judged where states are many: else the G-test sees as much.
    """
    R = reads.num
    a = reads.law.coincidence(2)
    b = reads.law.coincidence(3)
    pairs = R * (R - 1) / 2
    if reads.weight is not None or not _countable(reads.law, pairs):
        return None
    _, count = codes(reads.spins).unique(return_counts=True)
    equal = float((count * (count - 1)).sum()) / 2
    sigma = math.sqrt(pairs * (a - a * a + 2 * (R - 2) * (b - a * a)))
    z = (equal - pairs * a) / sigma
    return Part(
        two_sided(z),
        f"{equal:.0f} pairs of reads are equal, where independent reads have {pairs * a:.0f} ± "
        f"{sigma:.0f}",
    )


def _countable(law: Law, pairs: float | int) -> bool:
    """Whether equal pairs are many enough for a normal law, and states too many for a G-test."""
    n = law.graph.num_spins
    return n <= 62 and law.coincidence() < 0.02 and pairs * law.coincidence() >= 100


# ---- between problems, and between calls ----------------


def between(reads: Reads, other: Reads, pair: str, *, alike: bool) -> list[Part]:
    """Two sets of reads: correlations read by read and at every shift, and equal pairs.

    Args:
        reads: reads of one problem.
        other: reads of another problem or call.
        pair: a name for the two, for messages.
        alike: whether both have the same law, so that equal pairs can be counted.
    """
    R = min(reads.num, other.num)
    parts = []
    for name, kind in slices(reads.law).items():
        first = standard(reads, kind)
        second = standard(other, kind)
        both = first.kept & second.kept
        if not both.any():
            continue
        a = first.z[:R, both[first.kept]]
        b = second.z[:R, both[second.kept]]
        square = _of(first, both) * _of(second, both)
        cross = torch.fft.rfft(a, dim=0).conj() * torch.fft.rfft(b, dim=0)
        z = torch.fft.irfft(cross.sum(-1), n=R) / math.sqrt(R * float(square.sum()))
        seen = f"{name} of {pair}, read by read, are correlated: z = {float(z[0]):.1f}"
        parts.append(Part(two_sided(float(z[0])), seen))
        if R > 1:
            parts.append(_farthest(z[1:], 1, f"{name} of {pair}"))
    if alike and _countable(reads.law, R * R) and reads.weight is None and other.weight is None:
        parts.append(_shared(reads, other, pair))
    return parts


def _of(features: Standard, both: Tensor) -> Tensor:
    """The correlations of those features that are in `both`, a mask over the kind."""
    shared = both[features.kept]
    return features.correlation[shared][:, shared]


def _shared(reads: Reads, other: Reads, pair: str) -> Part:
    """Equal pairs across two sets of reads of one law; for the variance see `repeats`."""
    a = reads.law.coincidence(2)
    b = reads.law.coincidence(3)
    N = reads.num
    M = other.num
    state, place = torch.cat([codes(reads.spins), codes(other.spins)]).unique(return_inverse=True)
    count_one = place[:N].bincount(minlength=len(state))
    count_two = place[N:].bincount(minlength=len(state))
    equal = float((count_one * count_two).sum())
    pairs = N * M
    sigma = math.sqrt(pairs * (a - a * a + (N + M - 2) * (b - a * a)))
    return Part(
        two_sided((equal - pairs * a) / sigma),
        f"{pair} have {equal:.0f} equal pairs, where independent reads have {pairs * a:.0f} ± "
        f"{sigma:.0f}",
    )


def across(call: Sequence[Reads]) -> Finding | None:
    """The problems of a batch, read by read: random numbers used twice correlate their reads.

    Few problems are compared pair by pair; of many, all pairs are summed at once. A mean by weights
    that are normalised over R reads is off by about 1/R, alike in problems that are alike, so a
    few weighted reads are not compared.
    """
    if len(call) < 2 or call[0].num * len(call) < 100:
        return None
    if call[0].weight is not None and call[0].num < LEAST_WEIGHTED:
        return None
    if len(call) <= 6:
        pairs = [(i, j) for j in range(len(call)) for i in range(j)]
        parts = [
            part
            for i, j in pairs
            for part in between(call[i], call[j], f"problems {i} and {j}", alike=False)
        ]
        return Finding.of(parts) if parts else None
    parts = []
    for name, kind in slices(call[0].law).items():
        features = [standard(reads, kind) for reads in call]
        size = len(features[0].kept)
        wide = torch.zeros(len(call), call[0].num, size, dtype=torch.float64)
        correlation = torch.zeros(len(call), size, size, dtype=torch.float64)
        for k, (z, own, kept) in enumerate(features):
            wide[k][:, kept] = z
            correlation[k][kept.outer(kept)] = own.flatten()
        total = (wide.sum(0).square().sum() - wide.square().sum()) / 2
        square = correlation.sum(0).square().sum() - correlation.square().sum()
        variance = call[0].num * float(square) / 2
        if variance > 0:
            z = float(total) / math.sqrt(variance)
            seen = f"{name} of the batch's problems, read by read, are correlated: z = {z:.1f}"
            parts.append(Part(two_sided(z), seen))
    return Finding.of(parts) if parts else None
