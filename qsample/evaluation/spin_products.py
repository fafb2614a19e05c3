"""Means of spins, pairs and larger products: do two sets of reads agree in every one of them?

A product of spins is -1 or +1, so independent reads are counted (Fisher's exact test); of weighted
or correlated reads the variance between clusters gives a z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from qsample.evaluation.reads import CHUNK, LEAST, Finding, Reads, student
from qsample.problem.ising import Ising

MANY = 10_000  # largest number of pairs of one kind that are tested
MANY_PRODUCTS = 3000  # largest number of products of three and of four spins
WORST = 4  # products whose p-value is worked out: those that deviate most


class Products(NamedTuple):
    """`number` statistics of a read that are -1 or +1.

    Attributes:
        name: name of their kind.
        number: number of statistics.
        make: function (spins, start, stop) of the statistics from start to stop,
            `[R, stop - start]`.
        sums: function (spins) of the sums of all over reads, `[number]` float64.
        label: function (k) of the name of statistic k.
    """

    name: str
    number: int
    make: Callable[[Tensor, int, int], Tensor]
    sums: Callable[[Tensor], Tensor]
    label: Callable[[int], str]


class Deviation(NamedTuple):
    """A product whose mean deviates: its p-value, its number, and both means in words."""

    p_value: float
    number: int
    text: str


class Moments(NamedTuple):
    """The means `[q]`, and a function that gives their variances `[q]` about a middle `[q]`."""

    mean: Tensor
    variance: Callable[[Tensor], Tensor]


# ---- the products of a problem ----------------


def products(name: str, index: Tensor) -> Products:
    """Products of the spins in each row of `index` [q, k], k from 1 to 4."""
    k = index.shape[1]

    def make(spins: Tensor, start: int, stop: int) -> Tensor:
        rows = spins.T.contiguous()  # whole rows are gathered quickly
        product = rows[index[start:stop, 0]]
        for i in range(1, k):
            product *= rows[index[start:stop, i]]
        return product.T

    def sums(spins: Tensor) -> Tensor:
        if k == 1:
            return spins.sum(0).double()[index[:, 0]]
        if k == 2:
            return (spins.T @ spins).double()[index[:, 0], index[:, 1]]
        # all pairs first; a product of three or four spins is one of a pair and the rest
        n = spins.shape[1]
        first, second = torch.triu_indices(n, n, offset=1)
        pairs = spins[:, first] * spins[:, second]
        number = torch.zeros(n, n, dtype=torch.long)
        number[first, second] = torch.arange(len(first))
        pair = number[index[:, 0], index[:, 1]]
        if k == 3:
            return (pairs.T @ spins).double()[pair, index[:, 2]]
        return (pairs.T @ pairs).double()[pair, number[index[:, 2], index[:, 3]]]

    def label(row: int) -> str:
        return "spins " + ", ".join(map(str, index[row].tolist()))

    return Products(name, len(index), make, sums, label)


def parities(name: str, members: Tensor) -> Products:
    """Products of the spins of subsets, `members` [q, n] of 0 and 1."""

    def make(spins: Tensor, start: int, stop: int) -> Tensor:
        down = (spins < 0).float() @ members[start:stop].to(spins).T
        return 1 - 2 * (down % 2)

    def sums(spins: Tensor) -> Tensor:
        return make(spins, 0, len(members)).sum(0).double()

    def label(row: int) -> str:
        return f"a product of {int(members[row].sum())} spins"

    return Products(name, len(members), make, sums, label)


def all_products(problem: Ising, generator: torch.Generator) -> Iterator[Products]:
    """The products that `diagnose` tests, kind by kind; those that are too many by a random choice.

    Spins, coupled pairs, other pairs, three and four spins, random subsets and all spins together.
    """
    n = problem.num_spins
    yield products("spins", torch.arange(n)[:, None])
    edges = _at_most(MANY, problem.graph.edges.T.cpu(), generator)
    if len(edges):
        yield products("coupled pairs", edges)
    coupled = torch.zeros(n, n, dtype=torch.bool)
    first, second = problem.graph.edges.cpu()
    coupled[first, second] = True
    apart = _at_most(MANY, (~coupled).triu(1).nonzero(), generator)
    if len(apart):
        yield products("other pairs", apart)
    for k, name in ((3, "three spins"), (4, "four spins")):
        if k <= n and math.comb(n, k) <= MANY_PRODUCTS:
            yield products(name, torch.tensor(list(combinations(range(n), k))))
    if n > 4:
        # subsets of 3 to n spins, their sizes spread evenly in the logarithm
        size = (3 * (n / 3) ** torch.rand(64, 1, generator=generator)).round()
        rank = torch.rand(64, n, generator=generator).argsort(-1).argsort(-1)
        members = torch.cat([(rank < size).float(), torch.ones(1, n)])
        yield parities("products of many spins", members.unique(dim=0))


def _at_most(number: int, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The rows, or a random choice of `number` of them."""
    if len(rows) <= number:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:number]]


# ---- their means, compared ----------------


def compare_products(reads: Reads, other: Reads, products: Products) -> Finding:
    """The largest difference of two sets of reads in the mean of any product.

    Args:
        reads: the reads under test.
        other: reads of the right law.
        products: the statistics; p is Bonferroni's over them.
    """
    if reads.independent and other.independent:
        sums = products.sums(reads.spins)
        deviations = _by_count(reads, other, sums, products.sums(other.spins))
        tried = products.number
    else:
        moments = moments_of(reads, products)
        deviations, tried = compare_moments(reads, other, moments, moments_of(other, products))
    if not deviations:
        return Finding(products.name, 1.0)
    worst = min(deviations)
    text = f"{products.label(worst.number)}: {worst.text}"
    return Finding(products.name, min(1.0, worst.p_value * tried), text)


def moments_of(reads: Reads, products: Products) -> Moments:
    r"""The means of all products, and the variances of these means about any middle.

    The variance about m is $\sum_c (\sum_{r \in c} w_r (x_r - m))^2 = A - 2 m B + m^2 C$ over
    clusters c.
    """
    R = len(reads)
    if reads.independent:
        mean = products.sums(reads.spins) / R
        return Moments(mean, lambda middle: (1 - 2 * middle * mean + middle.square()) / R)
    step = max(1, CHUNK // R)
    weight = reads.by_cluster(reads.shares[:, None])
    means = []
    squares = []
    cross = []
    for start in range(0, products.number, step):
        x = products.make(reads.spins, start, min(start + step, products.number)).double()
        sums = reads.by_cluster(reads.shares[:, None] * x)
        means.append(sums.sum(0))
        squares.append(sums.square().sum(0))
        cross.append((weight * sums).sum(0))
    A = torch.cat(squares)
    B = torch.cat(cross)
    C = weight.square().sum()

    def variance(middle: Tensor) -> Tensor:
        return (A - 2 * middle * B + middle.square() * C).clamp_min(0)

    return Moments(torch.cat(means), variance)


def _by_count(reads: Reads, other: Reads, sums: Tensor, other_sums: Tensor) -> list[Deviation]:
    """Fisher's exact test of each product from its sums `[q]` over the reads of either set."""
    from scipy.stats import hypergeom

    # reads in which a product is +1
    R = len(reads)
    M = len(other)
    up = (R + sums.double()) / 2
    other_up = (M + other_sums.double()) / 2
    total = up + other_up
    # the exact test is slow: only for those with the largest z
    chance = total / (R + M)
    spread = (chance * (1 - chance) * (1 / R + 1 / M)).sqrt()
    z = ((up / R - other_up / M) / spread).nan_to_num(0.0)
    deviations = []
    for k in z.abs().topk(min(WORST, len(z))).indices.tolist():
        law = hypergeom(R + M, int(total[k]), R)
        p = 2 * min(float(law.cdf(int(up[k]))), float(law.sf(int(up[k]) - 1)))
        mean = 2 * float(up[k]) / R - 1
        expected = 2 * float(other_up[k]) / M - 1
        deviations.append(Deviation(p, k, f"mean {mean:.3f}, expected {expected:.3f}"))
    return deviations


def compare_moments(
    reads: Reads, other: Reads, moments: Moments, other_moments: Moments
) -> tuple[list[Deviation], int]:
    """The z of each mean from the variance between clusters, and how many means were tested.

    A mean is tested where both values are expected in LEAST effective reads.

    Args:
        reads: reads under test.
        other: reads of the right law.
        moments: moments of the reads under test.
        other_moments: moments of the other reads.
    """
    a = reads.effective
    b = other.effective
    mean = moments.mean
    expected = other_moments.mean
    middle = (a * mean + b * expected) / (a + b)
    variance = moments.variance(middle) + other_moments.variance(middle)
    rarer = (1 - middle.abs()) / 2 * min(a, b)
    z = ((mean - expected) / variance.sqrt()).nan_to_num(0.0).where(rarer >= LEAST, 0)
    freedom = min(a, b) - 1
    deviations = []
    for k in z.abs().topk(min(WORST, len(z))).indices.tolist():
        text = f"mean {float(mean[k]):.3f}, expected {float(expected[k]):.3f}"
        deviations.append(Deviation(student(float(z[k]), freedom), k, text))
    return deviations, max(1, int((rarer >= LEAST).sum()))
