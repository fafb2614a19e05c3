"""Means of real statistics, compared: the energy, and the score of the temperature.

Both are skewed, so their means are judged by a law of the right skewness.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qsample.evaluation.reads import Finding, Reads, student
from qsample.problem.ising import Ising
from qsample.sampling.temperature import score_variance

FEW = 20  # reads below which the law of a mean is drawn, not computed
DRAWN = 400_000  # means that are drawn for it


class Cumulants(NamedTuple):
    """Mean, variance and third cumulant of a statistic."""

    mean: float
    variance: float
    third: float


def compare_means(
    name: str,
    reads: Reads,
    values: Tensor,
    other: Reads,
    other_values: Tensor,
    *,
    exact: Cumulants | None = None,
    generator: torch.Generator,
) -> tuple[Finding, float]:
    """The mean of a real statistic against its mean under the right law; the finding and z.

    The tail is that of a Pearson III law of the right skewness; under 20 reads, of means drawn from
    both sets of reads together. Of weighted or correlated reads the variance is what the clusters
    show, but never less than the law's own.

    Args:
        name: name of the test.
        reads: reads under test.
        values: the statistic of each, `[R]`.
        other: reads of the right law.
        other_values: the statistic of each other read, `[M]`.
        exact: the law's own cumulants; None where they are not known. Where they are,
            `other_values` enter in the law of few reads only.
        generator: randomness of the means that are drawn.
    """
    mean = float(reads.shares @ values)
    law = _cumulants(other, values, other_values) if exact is None else exact
    equal = abs(mean - law.mean) <= 1e-9 * (1 + abs(law.mean))  # up to rounding

    # the error of the difference under the law, and the skewness of a mean of so many reads
    a = reads.effective
    b = other.effective
    error = (law.variance * (1 / a + (0 if exact is not None else 1 / b))) ** 0.5
    skewness = law.third / max(law.variance, 1e-300) ** 1.5 / a**0.5

    if reads.independent and other.independent:
        z = 0.0 if equal else (mean - law.mean) / max(error, 1e-150)
        if equal:
            p = 1.0
        elif len(reads) < FEW:
            p = _drawn(mean, law.mean, len(reads), torch.cat([values, other_values]), generator)
        else:
            p = _pearson_tail(z, skewness)
    else:
        square = _spread(reads, values, other, other_values, exact)
        # rare states that the reads do not show count as well
        z = 0.0 if equal else (mean - law.mean) / max(square, error**2, 1e-300) ** 0.5
        freedom = (a if exact is not None else min(a, b)) - 1
        p = max(student(z, freedom), _pearson_tail(z, skewness) if z else 1.0)

    known = "expected" if exact is None else "exact"
    return Finding(name, p, f"{mean:.3f}, {known} {law.mean:.3f} (z = {z:+.1f})"), z


def _cumulants(other: Reads, values: Tensor, other_values: Tensor) -> Cumulants:
    """Mean of the other reads; variance and third cumulant of both sets together."""
    pooled = torch.cat([values, other_values])
    away = pooled - pooled.mean()
    variance = float(away.square().mean())
    return Cumulants(float(other.shares @ other_values), variance, float((away**3).mean()))


def _pearson_tail(z: float, skewness: float) -> float:
    """Twice the chance of z or beyond, on its side, of a standardised Pearson III law."""
    from scipy.stats import pearson3

    skewness = 0.0 if abs(skewness) < 1e-4 else skewness
    tail = pearson3.sf if z > 0 else pearson3.cdf
    return min(1.0, 2 * float(tail(z, skewness)))


def _spread(
    reads: Reads, values: Tensor, other: Reads, other_values: Tensor, exact: Cumulants | None
) -> float:
    """The variance of the difference of means that the clusters themselves show."""

    def square(sample: Reads, x: Tensor, middle: float) -> float:
        away = sample.shares * (x - middle)
        return float(sample.by_cluster(away[:, None]).square().sum())

    if exact is not None:
        return square(reads, values, exact.mean)
    a = reads.effective
    b = other.effective
    mean = float(reads.shares @ values)
    expected = float(other.shares @ other_values)
    middle = (a * mean + b * expected) / (a + b)
    return square(reads, values, middle) + square(other, other_values, middle)


def _drawn(mean: float, goal: float, R: int, values: Tensor, generator: torch.Generator) -> float:
    """Twice the chance that a mean of R draws from `values` is as far off, on the same side."""
    slack = 1e-9 * (1 + abs(mean))
    beyond = 0
    for _ in range(4):
        pick = torch.randint(len(values), (DRAWN // 4, R), generator=generator)
        drawn = values[pick].mean(-1)
        far = drawn >= mean - slack if mean > goal else drawn <= mean + slack
        beyond += int(far.sum())
    return min(1.0, 2 * (beyond + 1) / (DRAWN + 1))


# ---- the temperature ----------------


def score_cumulants(problem: Ising, reads: Reads) -> Cumulants:
    """Mean 0, variance and third cumulant of the score under the law, from independent reads of it.

    Where reads hardly ever leave their minima, what they do not show is in the conditional laws of
    single spins and pairs: the larger of what the reads show and what those say.
    """
    number = max(200, (1 << 21) // max(1, problem.graph.num_edges))
    s = reads.spins[:number].double()
    field = problem.field(s)
    a = -2 * s * field
    p = (-a).sigmoid()
    conditional = float(score_variance(problem, s, field, torch.ones(()).double()).mean())
    variance = max(conditional, float(reads.score.square().mean()))
    third = float((a**3 * p * (1 - p) * (2 * p - 1)).sum(-1).mean())
    shown = float((reads.score**3).mean())
    return Cumulants(0.0, variance, third if abs(third) > abs(shown) else shown)


def temperature_alone(reads: Reads) -> Finding:
    """The score against 0, its mean under the law, with the variance that the reads show."""
    square = float(reads.by_cluster((reads.shares * reads.score)[:, None]).square().sum())
    z = float(reads.shares @ reads.score) / max(square, 1e-300) ** 0.5
    p = student(z, reads.effective - 1) if reads.effective >= 30 else 1.0
    return Finding("temperature", p, f"score z = {z:+.1f}")
