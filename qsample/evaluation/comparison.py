"""Do two sets of reads follow one law? Tests whose false-alarm rate is known, for reads with weights and families."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.sampling.temperature import score_variance

MANY = 10_000  # pairs of one kind that are looked at, at most
MANY_PRODUCTS = 3000  # and products of three and of four spins
LEAST = 8.0  # expected reads in a cell of a G-test


class Finding(NamedTuple):
    """One test: what it looked at, the chance of such reads or stranger ones from a right sampler, and what it saw."""

    name: str
    p_value: float
    text: str = ""


@dataclass(frozen=True)
class Reads:
    """Reads of one problem in the form that tests take.

    Attributes:
        spins: `[R, n]` float32.
        energy: `[R]` float64, recomputed.
        score: derivative of the log pseudo-likelihood in beta, at 1, `[R]`: of mean 0 under the law.
        weight: `[R]` float64, of sum 1; None for equal ones.
        cluster: `[R]`, labels; reads of one label are correlated. None: all are independent.
    """

    spins: Tensor
    energy: Tensor
    score: Tensor
    weight: Tensor | None = None
    cluster: Tensor | None = None

    @staticmethod
    def of(problem: Ising, spins: Tensor, weight: Tensor | None = None, cluster: Tensor | None = None) -> Reads:
        """Reads `spins` [R, n] of a problem in double precision, energies and scores computed."""
        parts = []
        for some in spins.split(max(1, (1 << 22) // max(1, problem.graph.num_edges + problem.num_spins))):
            s = some.to(problem.h)
            a = -2 * s * problem.field(s)
            parts.append((problem.energy(s), (a * (-a).sigmoid()).sum(-1)))
        energy, score = (torch.cat(part) for part in zip(*parts, strict=True))
        return Reads(spins.float(), energy, score, weight, cluster)

    def __len__(self) -> int:
        return len(self.energy)

    @property
    def independent(self) -> bool:
        """Whether reads are independent and equal in weight, so that they can be counted."""
        return self.weight is None and self.cluster is None

    @property
    def w(self) -> Tensor:
        """The weights, `[R]`."""
        if self.weight is not None:
            return self.weight
        return torch.full_like(self.energy, 1 / len(self))

    def by_cluster(self, values: Tensor) -> Tensor:
        """Sums of `values` [R, q] over clusters, `[K, q]`."""
        if self.cluster is None:
            return values
        _, label = self.cluster.unique(return_inverse=True)
        return values.new_zeros(int(label.max()) + 1, values.shape[1]).index_add_(0, label, values)

    @property
    def effective(self) -> float:
        """Independent reads that these are worth at least."""
        return 1 / float(self.by_cluster(self.w[:, None]).square().sum())

    def take(self, index: Tensor) -> Reads:
        """Some of the reads, with their weights."""
        weight = None
        if self.weight is not None:
            weight = self.weight[index] / self.weight[index].sum()
        cluster = None if self.cluster is None else self.cluster[index]
        return Reads(self.spins[index], self.energy[index], self.score[index], weight, cluster)

    def countable(self, generator: torch.Generator) -> Reads | None:
        """Independent reads of equal weight among these; None where there is no way to choose them.

        Of clusters of one size (blocks of a chain) a random member each. Of weighted reads, those that rejection
        keeps, with probability w / max w. Families of different sizes carry weight in their size: no choice is fair.
        """
        reads = self
        if reads.cluster is not None:
            order = reads.cluster.argsort(stable=True)
            size = reads.cluster.unique(return_counts=True)[1]
            if (size != size[0]).any():
                return None
            rows = order.reshape(-1, int(size[0]))
            pick = torch.randint(rows.shape[1], (len(rows), 1), generator=generator).to(rows.device)
            index = rows.gather(1, pick)[:, 0].sort().values
            reads = replace(reads.take(index), cluster=None)
        if reads.weight is not None:
            u = torch.rand(len(reads), generator=generator, dtype=torch.float64).to(reads.weight.device)
            index = (u < reads.weight / reads.weight.max()).nonzero()[:, 0]
            reads = replace(reads.take(index), weight=None)
        return reads


# ---- columns: statistics of a read that take two values ----------------------------------------------------------


class Columns(NamedTuple):
    """`number` statistics of -1 or +1 of each read.

    `make(spins, start, stop)` gives `[R, stop - start]`, `sums(spins)` the sums of all over reads, `[number]` float64.
    """

    name: str
    number: int
    make: Callable[[Tensor, int, int], Tensor]
    sums: Callable[[Tensor], Tensor]
    label: Callable[[int], str]


def products(name: str, index: Tensor) -> Columns:
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
        n = spins.shape[1]
        first, second = torch.triu_indices(n, n, offset=1)
        pairs = spins[:, first] * spins[:, second]
        number = torch.zeros(n, n, dtype=torch.long)
        number[first, second] = torch.arange(len(first))
        left = number[index[:, 0], index[:, 1]]
        if k == 3:
            return (pairs.T @ spins).double()[left, index[:, 2]]
        return (pairs.T @ pairs).double()[left, number[index[:, 2], index[:, 3]]]

    def label(row: int) -> str:
        return "spins " + ", ".join(map(str, index[row].tolist()))

    return Columns(name, len(index), make, sums, label)


def parities(name: str, members: Tensor) -> Columns:
    """Products of the spins of subsets, `members` [q, n] of 0 and 1."""

    def make(spins: Tensor, start: int, stop: int) -> Tensor:
        down = (spins < 0).float() @ members[start:stop].to(spins).T
        return 1 - 2 * (down % 2)

    def sums(spins: Tensor) -> Tensor:
        return make(spins, 0, len(members)).sum(0).double()

    return Columns(name, len(members), make, sums, lambda k: f"a product of {int(members[k].sum())} spins")


def all_columns(problem: Ising, generator: torch.Generator) -> Iterator[Columns]:
    """Spins, coupled pairs, other pairs, three and four spins, random and full parities: MANY of each at most."""
    n = problem.num_spins
    yield products("spins", torch.arange(n)[:, None])
    edges = problem.graph.edges.T.cpu()
    if len(edges) > MANY:
        edges = edges[torch.randperm(len(edges), generator=generator)[:MANY]]
    if len(edges):
        yield products("coupled pairs", edges)
    coupled = torch.zeros(n, n, dtype=torch.bool)
    first, second = problem.graph.edges.cpu()
    coupled[first, second] = True
    apart = (~coupled).triu(1).nonzero()
    if len(apart) > MANY:
        apart = apart[torch.randperm(len(apart), generator=generator)[:MANY]]
    if len(apart):
        yield products("other pairs", apart)
    for k, name in ((3, "three spins"), (4, "four spins")):
        if k <= n and math.comb(n, k) <= MANY_PRODUCTS:
            yield products(name, torch.tensor(list(combinations(range(n), k))))
    if n > 4:
        size = (3 * (n / 3) ** torch.rand(64, 1, generator=generator)).round()
        rank = torch.rand(64, n, generator=generator).argsort(-1).argsort(-1)
        members = torch.cat([(rank < size).float(), torch.ones(1, n)])
        yield parities("products of many spins", members.unique(dim=0))


def compare_columns(reads: Reads, other: Reads, columns: Columns) -> Finding:
    """The largest difference of two sets of reads in any column; p is Bonferroni's over the columns."""
    if reads.independent and other.independent:
        best = _by_count(reads, other, columns.sums(reads.spins), columns.sums(other.spins))
        tried = columns.number
    else:
        moments = [_moments(part, columns) for part in (reads, other)]
        best, tried = _by_variance(reads, other, *moments)
    if not best:
        return Finding(columns.name, 1.0)
    p, k, text = min(best)
    return Finding(columns.name, min(1.0, p * tried), f"{columns.label(k)}: {text}")


Moments = tuple[Tensor, Callable[[Tensor], Tensor]]


def _moments(part: Reads, columns: Columns) -> Moments:
    r"""The means `[q]`, and a function that gives their variances about a middle `[q]`.

    That is $\sum_c (\sum_{r \in c} w_r (x_r - m))^2 = A - 2 m B + m^2 C$ over clusters c.
    """
    if part.independent:
        mean = columns.sums(part.spins) / len(part)
        return mean, lambda middle: (1 - 2 * middle * mean + middle.square()) / len(part)
    step = max(1, (1 << 22) // len(part))
    weight = part.by_cluster(part.w[:, None])
    means, squares, cross = [], [], []
    for start in range(0, columns.number, step):
        x = columns.make(part.spins, start, min(start + step, columns.number)).double()
        sums = part.by_cluster(part.w[:, None] * x)
        means.append(sums.sum(0))
        squares.append(sums.square().sum(0))
        cross.append((weight * sums).sum(0))
    mean, A, B = torch.cat(means), torch.cat(squares), torch.cat(cross)
    C = weight.square().sum()
    return mean, lambda middle: (A - 2 * middle * B + middle.square() * C).clamp_min(0)


def _by_count(reads: Reads, other: Reads, ours: Tensor, theirs: Tensor) -> list[tuple[float, int, str]]:
    """Fisher's exact test of each column from its sums, worked out for those that deviate most."""
    from scipy.stats import hypergeom

    R, M = len(reads), len(other)
    up, others = (R + ours.double()) / 2, (M + theirs.double()) / 2
    total = up + others
    chance = total / (R + M)
    spread = (chance * (1 - chance) * (1 / R + 1 / M)).sqrt()
    z = ((up / R - others / M) / spread).nan_to_num(0.0)
    found = []
    for k in z.abs().topk(min(4, len(z))).indices.tolist():
        law = hypergeom(R + M, int(total[k]), R)
        p = 2 * min(float(law.cdf(int(up[k]))), float(law.sf(int(up[k]) - 1)))
        means = 2 * float(up[k]) / R - 1, 2 * float(others[k]) / M - 1
        found.append((p, k, f"mean {means[0]:.3f}, expected {means[1]:.3f}"))
    return found


def _by_variance(
    reads: Reads, other: Reads, ours: Moments, theirs: Moments
) -> tuple[list[tuple[float, int, str]], int]:
    """The z of each column from the variance between clusters, where enough reads take either value."""
    a, b = reads.effective, other.effective
    mean, expected = ours[0], theirs[0]
    middle = (a * mean + b * expected) / (a + b)
    variance = ours[1](middle) + theirs[1](middle)
    lesser = (1 - middle.abs()) / 2 * min(a, b)
    z = ((mean - expected) / variance.sqrt()).nan_to_num(0.0).where(lesser >= LEAST, 0)
    freedom = min(a, b) - 1
    found = []
    for k in z.abs().topk(min(4, len(z))).indices.tolist():
        p = student(float(z[k]), freedom)
        found.append((p, k, f"mean {float(mean[k]):.3f}, expected {float(expected[k]):.3f}"))
    return found, max(1, int((lesser >= LEAST).sum()))


def student(z: float, freedom: float) -> float:
    """Two-sided p-value of Student's t; 1 below two degrees of freedom, where it says nothing."""
    from scipy.stats import t

    return 2 * float(t.sf(abs(z), freedom)) if freedom >= 2 else 1.0


# ---- cells: a read falls into one of K ---------------------------------------------------------------------------


def compare_cells(name: str, reads: Reads, other: Reads, ours: Tensor, theirs: Tensor) -> Finding:
    """Numbers of reads in cells, `ours` [R] and `theirs` [M] non-negative cell numbers: a G-test of two samples.

    Cells of fewer than LEAST expected reads are pooled. Where reads cannot be counted, the largest z of a cell.
    """
    from scipy.stats import chi2

    K = int(max(ours.max(), theirs.max())) + 1
    if K == 1:
        return Finding(name, 1.0)
    if not (reads.independent and other.independent):
        moments = []
        for part, codes in ((reads, ours), (other, theirs)):
            signs = torch.nn.functional.one_hot(codes, K).float() * 2 - 1
            columns = products(name, torch.arange(K)[:, None])
            moments.append(_moments(replace(part, spins=signs), columns))
        found, number = _by_variance(reads, other, *moments)
        p = min((p for p, _, _ in found), default=1.0)
        return Finding(name, min(1.0, p * number))
    counts = torch.stack([torch.bincount(codes, minlength=K) for codes in (ours, theirs)]).double()
    counts = _pooled(counts, min(len(reads), len(other)))
    if counts.shape[1] < 2:
        return Finding(name, 1.0)
    rows, columns, N = counts.sum(1, keepdim=True), counts.sum(0), counts.sum()
    expected = rows * columns / N
    G = 2 * torch.special.xlogy(counts, counts / expected).sum()
    free = counts.shape[1] - 1
    williams = 1 + ((N / rows).sum() - 1) * ((N / columns).sum() - 1) / (6 * N * free)
    return Finding(name, float(chi2.sf(float(G / williams), free)), f"G = {float(G):.1f} of {free} degrees of freedom")


def _pooled(counts: Tensor, lesser: int) -> Tensor:
    """Columns of `counts` [2, K] whose expected number in the smaller sample is LEAST or more, the rest in one."""
    counts = counts[:, counts.sum(0) > 0]
    expected = counts.sum(0) / counts.sum() * lesser
    order = expected.argsort(descending=True)
    counts, expected = counts[:, order], expected[order]
    large = int((expected >= LEAST).sum())
    if large == len(expected):
        return counts
    rest, mass = counts[:, large:].sum(1, keepdim=True), float(expected[large:].sum())
    if mass >= LEAST or large == 0:
        return torch.cat([counts[:, :large], rest], 1)
    kept = counts[:, :large].clone()
    kept[:, -1:] += rest
    return kept


def quantile_cells(ours: Tensor, theirs: Tensor, cells: int = 10) -> tuple[Tensor, Tensor]:
    """Cells of a real statistic, cut at quantiles of both samples together."""
    pooled = torch.cat([ours, theirs]).double()
    cut = torch.arange(1, cells) * (len(pooled) - 1) // cells
    cuts = pooled.sort().values[cut.to(pooled.device)].unique()
    return torch.searchsorted(cuts, ours.double()), torch.searchsorted(cuts, theirs.double())


def subset_laws(problem: Ising, reads: Reads, other: Reads, generator: torch.Generator) -> Finding:
    """The law of some spins together: 16 sets of 2 to 6 spins, half of them neighbours; Bonferroni over them."""
    n = problem.num_spins
    size = min(n, max(2, min(6, int(math.log2(max(4.0, min(reads.effective, other.effective) / 20))))))
    near: dict[int, list[int]] = {}
    if problem.graph.kind == "sparse":
        for i, j in problem.graph.pairs.T.tolist():
            near.setdefault(i, []).append(j)
            near.setdefault(j, []).append(i)
    best = Finding("laws of a few spins", 1.0)
    sets = set[tuple[int, ...]]()
    for k in range(16):
        order = torch.randperm(n, generator=generator).tolist()
        chosen = order[:size]
        if k % 2 and near:
            chosen = order[:1]
            for i in chosen:
                chosen += [j for j in near.get(i, []) if j not in chosen]
                if len(chosen) >= size:
                    break
            chosen = (chosen + [i for i in order if i not in chosen])[:size]
        sets.add(tuple(sorted(chosen)))
    for chosen in sorted(sets):
        index = list(chosen)
        power = 1 << torch.arange(size, device=reads.spins.device)
        ours, theirs = (((part.spins[:, index] > 0).long() * power).sum(-1) for part in (reads, other))
        found = compare_cells(f"law of spins {index}", reads, other, ours, theirs)
        if found.p_value < best.p_value:
            best = Finding(best.name, found.p_value, f"spins {index}: {found.text}")
    return best._replace(p_value=min(1.0, best.p_value * len(sets)))


def projections(reads: Reads, other: Reads) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Where modes differ: the two principal components of all reads together, the magnetisation."""
    both = torch.cat([part.spins for part in (reads, other)])
    n = both.shape[1]
    yield "magnetisation", reads.spins.sum(-1), other.spins.sum(-1)
    if n > 2 and len(both) > 4:
        centred = both - both.mean(0)
        covariance = (centred.T @ centred).double() / len(both)
        axes = torch.linalg.eigh(covariance).eigenvectors[:, -2:].float()
        for k, name in ((1, "first mode"), (0, "second mode")):
            # rounded: equal states must fall into equal cells
            yield name, *(((part.spins @ axes[:, k]) * 1e4).round() for part in (reads, other))


def compare_modes(reads: Reads, other: Reads) -> Finding:
    """The weights of modes: cells along each projection; Bonferroni over them."""
    tests = [
        compare_cells(name, reads, other, *quantile_cells(ours, theirs))
        for name, ours, theirs in projections(reads, other)
    ]
    best = min(tests, key=lambda test: test.p_value)
    return Finding("modes", min(1.0, best.p_value * len(tests)), f"{best.name}, {best.text}")


# ---- means -------------------------------------------------------------------------------------------------------


def compare_means(
    name: str,
    reads: Reads,
    values: Tensor,
    other: Reads,
    others: Tensor,
    *,
    exact: tuple[float, float, float] | None = None,
    shift: float = 0.0,
    generator: torch.Generator,
) -> tuple[Finding, float]:
    """The mean of a real statistic `values` [R] against `others` [M], or its `exact` cumulants; p and z.

    The tail is that of a Pearson III law of the right skewness; under 20 reads, of means drawn from both sets of reads
    together. `shift` is added in the text.
    """
    from scipy.stats import pearson3

    a, b = reads.effective, other.effective
    mean, expected = float(reads.w @ values), float(other.w @ others)
    known = "expected" if exact is None else "exact"
    pooled = torch.cat([values, others])
    if exact is None:
        away = pooled - pooled.mean()
        goal, variance, third = expected, float(away.square().mean()), float((away**3).mean())
    else:
        goal, variance, third = exact
    error = (variance * (1 / a + (0 if exact is not None else 1 / b))) ** 0.5
    skew = third / max(variance, 1e-300) ** 1.5 / a**0.5
    skew = 0.0 if abs(skew) < 1e-4 else skew

    def tail(z: float) -> float:
        one_sided = pearson3.sf(z, skew) if z > 0 else pearson3.cdf(z, skew)
        return min(1.0, 2 * float(one_sided))

    if not (reads.independent and other.independent):
        middle = (a * mean + b * expected) / (a + b) if exact is None else exact[0]
        parts = [(reads, values)] if exact is not None else [(reads, values), (other, others)]
        square = 0.0
        for part, x in parts:
            square += float(part.by_cluster((part.w * (x - middle))[:, None]).square().sum())
        # rare states that the reads do not show count as well: never less than the law's own variance
        z = (mean - goal) / max(square, error**2, 1e-300) ** 0.5
        z = 0.0 if abs(mean - goal) <= 1e-9 * (1 + abs(goal)) else z
        freedom = (a if exact is not None else min(a, b)) - 1
        p = max(student(z, freedom), tail(z) if z else 1.0)
        return Finding(name, p, f"{mean + shift:.3f}, {known} {goal + shift:.3f} (z = {z:+.1f})"), z
    R = len(reads)
    z = (mean - goal) / max(error, 1e-150)
    if abs(mean - goal) <= 1e-9 * (1 + abs(goal)):
        z, p = 0.0, 1.0
    elif R < 20:
        p = _drawn(mean, goal, R, pooled, generator)
    else:
        p = tail(z)
    return Finding(name, p, f"{mean + shift:.3f}, {known} {goal + shift:.3f} (z = {z:+.1f})"), z


def score_cumulants(problem: Ising, reads: Reads) -> tuple[float, float, float]:
    """Mean 0, variance and third cumulant of the score under the law, from independent reads of it.

    Where reads hardly ever leave their minima, what they do not show is in the conditional laws of single spins and
    pairs: the larger of what the reads show and what those say.
    """
    most = max(200, (1 << 21) // max(1, problem.graph.num_edges))
    s = reads.spins[:most].double()
    field = problem.field(s)
    a = -2 * s * field
    p = (-a).sigmoid()
    said = float(score_variance(problem, s, field, torch.ones(()).double()).mean())
    variance = max(said, float(reads.score.square().mean()))
    third = float((a**3 * p * (1 - p) * (2 * p - 1)).sum(-1).mean())
    shown = float((reads.score**3).mean())
    return 0.0, variance, third if abs(third) > abs(shown) else shown


def temperature_alone(reads: Reads) -> Finding:
    """The score against 0, its mean under the law, with the variance that the reads themselves show."""
    square = float(reads.by_cluster((reads.w * reads.score)[:, None]).square().sum())
    z = float(reads.w @ reads.score) / max(square, 1e-300) ** 0.5
    p = student(z, reads.effective - 1) if reads.effective >= 30 else 1.0
    return Finding("temperature", p, f"score z = {z:+.1f}")


def _drawn(mean: float, goal: float, R: int, values: Tensor, generator: torch.Generator) -> float:
    """The chance that the mean of R draws from `values` is as far from the goal, on the same side; twice that."""
    times, beyond = 400_000, 0
    for _ in range(4):
        pick = torch.randint(len(values), (times // 4, R), generator=generator)
        drawn = values[pick].mean(-1)
        slack = 1e-9 * (1 + abs(mean))
        far = drawn >= mean - slack if mean > goal else drawn <= mean + slack
        beyond += int(far.sum())
    return min(1.0, 2 * (beyond + 1) / (times + 1))


# ---- independence ------------------------------------------------------------------------------------------------


def order_test(reads: Reads) -> Finding | None:
    r"""Does the order of the reads matter? Autocorrelation at any lag, where the reads could stand in any order.

    $T_L = \sum_r x_r \cdot x_{r+L}$ (cyclic), x the spins less their mean as unit vectors (less their mean), or the
    ranks of the energies. All orders being equally likely, its mean is $-\sum_r |x_r|^2 / (R - 1)$ and its variance
    V near $R\,\mathrm{tr}(C^2)$ with C the covariance; p is Bernstein's bound $2 \exp(-t^2 / 2 (V + b t / 3))$, b the
    largest $|x_r|^2$: rare reads are far from normal. Lag 1 (sorted or antithetic reads, one chain) counts as one
    test, all others together as one.
    """
    R = len(reads)
    if R < 20:
        return None
    spins = reads.spins.double() - reads.spins.double().mean(0)
    if spins.shape[1] > 256:
        turn = torch.Generator().manual_seed(0)
        spins = spins @ torch.randn(spins.shape[1], 256, generator=turn, dtype=torch.float64).to(spins)
    spins = spins / spins.norm(dim=1, keepdim=True).clamp_min(1e-9)
    found = []
    for name, x in (("spins", spins), ("energies", _ranks(reads.energy)[:, None])):
        x = x - x.mean(0)
        square = float((x.T @ x / R).square().sum())
        if square <= 1e-18:
            continue
        f = torch.fft.rfft(x, dim=0)
        T = torch.fft.irfft((f * f.conj()).real.sum(-1), n=R)[1 : R // 2 + 1]
        away = (T + float(x.square().sum()) / (R - 1)).abs()
        variance = torch.full_like(T, R * square)
        if R % 2 == 0:
            variance[-1] *= 2  # the cyclic sum at lag R/2 holds each pair twice
        bound = float(x.square().sum(1).max())
        p = 2 * (-away.square() / 2 / (variance + bound * away / 3)).exp()
        lag = int(p.argmin()) + 1
        any_lag = float(p.min()) * len(p)
        lag = 1 if float(p[0]) <= any_lag else lag
        text = f"{name} of reads {lag} apart are correlated"
        found.append(Finding("order", min(1.0, 2 * min(float(p[0]), any_lag)), text))
    if not found:
        return None
    best = min(found, key=lambda test: test.p_value)
    return best._replace(p_value=min(1.0, best.p_value * len(found)))


def _ranks(x: Tensor) -> Tensor:
    """Ranks from -1 to 1, those of equal numbers averaged; numbers are equal up to rounding."""
    _, label, count = (
        (x / x.abs().max().clamp_min(1e-300) * 1e9).round().unique(return_inverse=True, return_counts=True)
    )
    last = count.cumsum(0).double()
    return ((last - (count - 1) / 2)[label] / len(x)) * 2 - 1


def repeats(reads: Reads, fresh: Tensor, generator: torch.Generator) -> Finding | None:
    """Do states come back more often than they should? `fresh` [R, n]: another draw in the place of each read.

    A random half C of the reads; of each read of the other half and the draw in its place, at most one is in C: by
    symmetry the read as often as the draw (a sign test, exact).
    """
    from scipy.stats import binom

    R = min(len(reads), len(fresh))
    if R < 20:
        return None
    order = torch.randperm(R, generator=generator)
    rows = [np.packbits((t[order] > 0).cpu().numpy(), axis=1) for t in (reads.spins[:R], fresh[:R].float())]
    kind = np.dtype((np.void, rows[0].shape[1]))
    ours, theirs = (np.ascontiguousarray(row).view(kind)[:, 0] for row in rows)
    seen = {state.tobytes() for state in ours[: R // 2]}
    mine = np.array([state.tobytes() in seen for state in ours[R // 2 :]])
    other = np.array([state.tobytes() in seen for state in theirs[R // 2 :]])
    more, fewer = int((mine & ~other).sum()), int((other & ~mine).sum())
    total = more + fewer
    p = 2 * min(float(binom.sf(more - 1, total, 0.5)), float(binom.cdf(more, total, 0.5)))
    text = f"{int(mine.sum())} of {len(mine)} reads are found in the other half, expected {int(other.sum())}"
    return Finding("repeats", min(1.0, p), text)


# ---- an enumerated law -------------------------------------------------------------------------------------------


def state_tests(codes: Tensor, chance: Tensor, generator: torch.Generator) -> Iterator[Finding]:
    """Independent reads as states, `codes` [R], against the exact `chance` [K] of each: a G-test, and single states."""
    from scipy.stats import binom, chi2

    R, K = len(codes), len(chance)
    counts = torch.bincount(codes, minlength=K).double()
    expected = R * chance
    order = torch.randperm(K, generator=generator).to(chance.device)
    rare = order[expected[order] < LEAST]
    often = (expected >= LEAST).nonzero()[:, 0]
    cell = (expected[rare].cumsum(0) / LEAST).floor().long()
    cells = int(cell[-1]) + 1 if len(rare) else 0
    pooled = [t.new_zeros(cells).index_add_(0, cell, t[rare]) for t in (counts, expected)]
    if cells > 1:  # the last cell may be short of LEAST
        for t in pooled:
            t[-2] += t[-1]
        pooled = [t[:-1] for t in pooled]
    q, e = (torch.cat([t[often], part]) for t, part in zip((counts, expected), pooled, strict=True))
    if len(e) > 1 and e[-1] < LEAST:
        least = int(e[:-1].argmin())
        for t in (q, e):
            t[least] += t[-1]
        q, e = q[:-1], e[:-1]
    free = len(e) - 1
    if free > 0:
        williams = 1 + (float((R / e).sum()) - 1) / (6 * R * free)
        G = 2 * float(torch.special.xlogy(q, q / e).sum()) / williams
        p = float(chi2.sf(G, free))
        if free >= 10:
            p = 2 * min(p, float(chi2.cdf(G, free)))  # too even is wrong as well
        yield Finding("states", min(1.0, p), f"G = {G:.1f} of {free} degrees of freedom")
    visited = (counts > 0).nonzero()[:, 0]
    more = binom.sf(counts[visited].cpu().numpy() - 1, R, chance[visited].clamp_max(1).cpu().numpy()) * K
    fewer = binom.cdf(counts[often].cpu().numpy(), R, chance[often].clamp_max(1).cpu().numpy()) * len(often)
    p, state = float(more.min()), int(visited[int(more.argmin())])
    if len(often) and fewer.min() < p:
        p, state = float(fewer.min()), int(often[int(fewer.argmin())])
    text = f"state {state} in {int(counts[state])} reads, expected {float(expected[state]):.2f}"
    yield Finding("single states", min(1.0, 2 * p), text)


# ---- a kernel that leaves the law as it is -----------------------------------------------------------------------


def kernel_tests(problem: Ising, before: Reads, after: Reads, generator: torch.Generator) -> Iterator[Finding]:
    """Reads before and after a reversible kernel: of a right law each pair is as likely the other way round.

    Of the reads in which a statistic changed, it rises in half: a sign test, exact for independent reads; elsewhere z
    from the sums over clusters. The sum of changes over the root of the sum of their squares is the other test.
    """
    names, ps, texts = [], [], []

    def paired(name: str, change: Tensor) -> None:  # change [R, q]
        p, k, text = _paired(before, change.double())
        names.append(name)
        ps.append(p)
        texts.append(text.format(k))

    paired("spins", after.spins - before.spins)
    edges = problem.graph.edges.to(before.spins.device)
    if edges.shape[1] > 4000:
        edges = edges[:, torch.randperm(edges.shape[1], generator=generator)[:4000].to(edges.device)]
    if edges.shape[1]:
        i, j = edges
        paired("coupled pairs", after.spins[:, i] * after.spins[:, j] - before.spins[:, i] * before.spins[:, j])
    energy = after.energy - before.energy
    energy = energy.where(energy.abs() > 1e-9 * (1 + before.energy.abs()), 0)
    score = after.score - before.score
    score = score.where(score.abs() > 1e-9 * (1 + before.score.abs()), 0)
    paired("energy", energy[:, None])
    paired("temperature", score[:, None])
    for name, first, last in projections(before, after):
        middle = torch.cat([first, last]).double().mean()
        change = torch.stack([last - first, (last > middle).double() - (first > middle).double()], 1)
        paired(name, change)
    least = min(range(len(ps)), key=ps.__getitem__)
    yield Finding("kernel", min(1.0, ps[least] * len(ps)), f"{names[least]} change one way: {texts[least]}")


def _paired(before: Reads, change: Tensor) -> tuple[float, int, str]:
    from scipy.stats import binom

    q = change.shape[1]
    sums = before.by_cluster(before.w[:, None] * change)
    z = (sums.sum(0) / sums.square().sum(0).sqrt()).nan_to_num(0.0)
    moved = (sums != 0).sum(0)
    z = z.where(moved >= 20, 0)
    freedom = before.effective - 1
    k = int(z.abs().argmax())
    p = student(float(z[k]), freedom)
    if before.independent:  # Hoeffding's bound for sums of given sizes and random signs
        p = 2 * math.exp(-(float(z[k]) ** 2) / 2)
    text = f"z = {float(z[k]):+.1f}"
    if before.independent:
        up, down = (change > 0).sum(0).cpu().numpy(), (change < 0).sum(0).cpu().numpy()
        tail = 2 * binom.cdf(np.minimum(up, down), up + down, 0.5)
        at = int(tail.argmin())
        if tail[at] < p:
            p, text = float(tail[at]), f"{up[at]} up, {down[at]} down"
        p = min(1.0, 2 * p)
    return min(1.0, p * q), k, text
