"""Small laws in full: the probability of every state, the moments, and tests of reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from qsample.problem.enumeration import log_weights, states
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.samples import Samples
from qsample.support.faces import public

MAX_SPINS = 16  # of a connected part: all of its states are listed
# A direction of variance v is tested where reads x v is at least this: chi-squared's tail holds.
CLEAR = 80


@dataclass(frozen=True, eq=False)
class Part:
    """A connected part of a problem: its spins, its edges, its states' probabilities, its log Z."""

    spins: Tensor
    edges: Tensor
    p: Tensor
    log_z: float


@dataclass(frozen=True, eq=False)
class Law:
    r"""The law of one problem, part by connected part, in double precision and without the offset.

    Features of a state are its spins and the products over the edges, $x = (s_i, s_i s_j)$: the
    sufficient statistics, with $E(s) = c \cdot x$, c = (h, J).
    """

    graph: Graph
    coefficients: Tensor  # [n + k], h and then J
    parts: tuple[Part, ...]

    @staticmethod
    def of(problem: Ising) -> list[Law]:
        """The laws of a batch, in its order (`batch_shape` flattened)."""
        problem = problem.detach().to("cpu", torch.float64)
        batch = problem.batch_shape
        n = problem.num_spins
        values = problem.graph.edge_values(problem.J)
        fields = problem.h.expand(*batch, n).reshape(-1, n)
        k = values.shape[-1]
        couplings = values.expand(*batch, k).reshape(batch.numel(), k)
        return [_law(problem.graph, h, J) for h, J in zip(fields, couplings, strict=True)]

    @cached_property
    def mean(self) -> Tensor:
        """Exact means of the features, `[n + k]`."""
        return self._moments[0]

    @cached_property
    def covariance(self) -> Tensor:
        """Exact covariance of the features, `[n + k, n + k]`."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        n = self.graph.num_spins
        size = n + self.graph.num_edges
        mean = torch.zeros(size, dtype=torch.float64)
        covariance = torch.zeros(size, size, dtype=torch.float64)
        place = torch.zeros(n, dtype=torch.int64)
        for part in self.parts:
            place[part.spins] = torch.arange(len(part.spins))
            s = states(len(part.spins)).double()
            i, j = place[self.graph.edges[:, part.edges]]
            x = torch.cat([s, s[:, i] * s[:, j]], -1)
            at = torch.cat([part.spins, n + part.edges])
            m = part.p @ x
            mean[at] = m
            covariance[at[:, None], at] = (x - m).mT @ (part.p[:, None] * (x - m))
        return mean, covariance

    @property
    def energy_variance(self) -> float:
        """Var E, the Fisher information of one read about beta."""
        return float(self.coefficients @ self.covariance @ self.coefficients)

    @property
    def log_z(self) -> float:
        """Log of the sum of exp(-E) over all states, without the offset."""
        return sum(part.log_z for part in self.parts)

    def coincidence(self, power: int = 2) -> float:
        """Sum of p^power over states: for 2, the chance that two reads are equal."""
        product = 1.0
        for part in self.parts:
            product *= float(part.p.pow(power).sum())
        return product

    def features(self, spins: Tensor) -> Tensor:
        """Spins and products of `[R, n]` spins, `[R, n + k]` in double precision."""
        s = spins.double()
        i, j = self.graph.edges
        return torch.cat([s, s[:, i] * s[:, j]], -1)

    def draw(self, num: int, generator: torch.Generator) -> Tensor:
        """`num` independent reads `[num, n]`, by a table of each part's states."""
        spins = torch.empty(num, self.graph.num_spins, dtype=torch.int8)
        for part in self.parts:
            pick = torch.multinomial(part.p, num, replacement=True, generator=generator)
            spins[:, part.spins] = states(len(part.spins))[pick]
        return spins


def _law(graph: Graph, h: Tensor, J: Tensor) -> Law:
    parts = []
    for spins, edges in graph.cached("connected parts", lambda: _connected(graph)):
        if len(spins) > MAX_SPINS:
            raise ValueError(
                f"a connected part of {len(spins)} spins cannot be enumerated: expected at most "
                f"{MAX_SPINS}"
            )
        place = torch.zeros(graph.num_spins, dtype=torch.int64)
        place[spins] = torch.arange(len(spins))
        small = Graph.sparse(len(spins), place[graph.edges[:, edges]].T)
        weights = log_weights(Ising(small, h[spins], J[edges]))
        parts.append(Part(spins, edges, weights.softmax(-1), float(weights.logsumexp(-1))))
    return Law(graph, torch.cat([h, J]), tuple(parts))


def _connected(graph: Graph) -> list[tuple[Tensor, Tensor]]:
    """(spins, edges) of each connected part of a graph."""
    root = list(range(graph.num_spins))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = i = root[root[i]]
        return i

    for i, j in graph.edges.T.tolist():
        root[find(i)] = find(j)
    of_spin = torch.tensor([find(i) for i in range(graph.num_spins)])
    of_edge = of_spin[graph.edges[0]]
    return [
        ((of_spin == r).nonzero()[:, 0], (of_edge == r).nonzero()[:, 0])
        for r in of_spin.unique().tolist()
    ]


# ---- the G-test ----------------


@public("qsample.testing")
def g_test(problem: Ising, samples: Samples) -> list[tuple[float, float, float]]:
    r"""`(p-value, total variation, its floor)` of reads against the enumerated law, per problem.

    $G = 2 N \sum_k q_k \log(q_k / p_k)$ over states, those of expected count under 5 pooled,
    against chi-squared, with Williams' correction for small counts (Sokal and Rohlf, Biometry).
    Reads must be independent; weighted reads count by their effective number N. The floor is the
    expected total variation of N independent exact draws.

    Raises:
        ValueError: more than 16 spins.
    """
    n = problem.num_spins
    if n > MAX_SPINS:
        raise ValueError(
            f"the states of {n} spins are too many to be counted: expected at most {MAX_SPINS}"
        )
    # counted on the CPU, wherever they were drawn
    samples = samples.to("cpu")
    wide = problem.detach().to("cpu", torch.float64)
    exact = log_weights(wide).softmax(-1).reshape(-1, 1 << n)
    code = codes(samples.spins.reshape(-1, samples.num, n))
    weight = samples.weight.double().reshape(code.shape)
    numbers = samples.ess().double().reshape(-1)
    return [g_of(p, k, w, N) for p, k, w, N in zip(exact, code, weight, numbers, strict=True)]


def codes(spins: Tensor) -> Tensor:
    """The number of each state, `[..., n]` to `[...]`: bit i is set where spin i is +1."""
    return (((spins + 1) // 2).long() << torch.arange(spins.shape[-1])).sum(-1)


def g_of(p: Tensor, k: Tensor, w: Tensor, N: Tensor) -> tuple[float, float, float]:
    """`g_test` of one problem.

    Args:
        p: exact probabilities of the states, `[S]`.
        k: the state of each read, `[R]`.
        w: the weight of each read, `[R]`, of sum 1.
        N: effective number of reads.
    """
    from scipy.stats import binom, chi2

    q = torch.zeros_like(p).index_add_(0, k, w)
    floor = float(_mean_deviation(p, N).sum() / 2)
    distance = float((q - p).abs().sum() / 2)
    rare = N * p < 5
    # Rare states are pooled; a pool that is rare itself joins the smallest of the others.
    if rare.any():
        q = torch.cat([q[~rare], q[rare].sum()[None]])
        p = torch.cat([p[~rare], p[rare].sum()[None]])
        # No third state to join: an exact test of the number of reads in rare states.
        if N * p[-1] < 5 and len(p) == 2:
            number = int((N * q[-1]).round()) - 1
            return float(binom.sf(number, int(N.round()), float(p[-1]))), distance, floor
        if N * p[-1] < 5 and len(p) > 1:
            least = int(p[:-1].argmin())
            q[least] += q[-1]
            p[least] += p[-1]
            q = q[:-1]
            p = p[:-1]
    free = max(1, len(p) - 1)
    G = 2 * N * torch.special.xlogy(q, q / p).sum() / (1 + ((1 / p).sum() - 1) / (6 * N * free))
    return float(chi2.sf(float(G), free)), distance, floor


def _mean_deviation(p: Tensor, N: Tensor) -> Tensor:
    """E|X/N - p| of a binomial X (N, p), by De Moivre (1730).

    2 v C(N, v) p^v (1 - p)^(N - v + 1) / N with v = floor(N p) + 1.
    """
    v = (N * p).floor() + 1
    choose = torch.lgamma(N + 1) - torch.lgamma(v + 1) - torch.lgamma((N - v).clamp_min(0) + 1)
    return 2 * v / N * (choose + torch.xlogy(v, p) + torch.xlogy(N - v + 1, 1 - p)).exp() * (p < 1)


# ---- reads beside their law ----------------


@dataclass(frozen=True, eq=False)
class Reads:
    """The reads of one problem beside its law; `weight` sums to 1, None where all are equal."""

    law: Law
    spins: Tensor  # [R, n] int8
    weight: Tensor | None = None
    ess: float = 0.0

    @staticmethod
    def of(laws: Sequence[Law], samples: Samples) -> list[Reads]:
        """The reads of each problem of the batch beside its law."""
        n = samples.spins.shape[-1]
        num = samples.num
        rows = samples.spins.reshape(-1, num, n).cpu()
        ess = samples.ess().double().reshape(-1).tolist()
        if samples.log_weight is None:
            weights: list[Tensor | None] = [None] * len(rows)
        else:
            weights = list(samples.log_weight.double().cpu().softmax(-1).reshape(-1, num))
        return [Reads(*row) for row in zip(laws, rows, weights, ess, strict=True)]

    @property
    def num(self) -> int:
        """Reads, R."""
        return self.spins.shape[0]

    @cached_property
    def deviation(self) -> Tensor:
        """R w_r (x_r - E x), `[R, n + k]`, of mean zero; independent where the reads are."""
        x = self.law.features(self.spins) - self.law.mean
        return x if self.weight is None else x * (self.num * self.weight)[:, None]

    @cached_property
    def covariance(self) -> Tensor:
        """Covariance of a row of `deviation`: exact, or estimated where reads are weighted."""
        if self.weight is None:
            return self.law.covariance
        return self.deviation.mT @ self.deviation / self.num


def whitened(covariance: Tensor, least: float) -> Tensor:
    """Columns that whiten `covariance`, of its directions of variance `least` or more."""
    value, vector = torch.linalg.eigh(covariance)
    keep = value >= least
    return vector[:, keep] / value[keep].sqrt()


def quadratic(total: Tensor, covariance: Tensor, num: int) -> tuple[float, int]:
    r"""$d^\top C^{-1} d / N$ of a sum d of N independent rows of covariance C, and its rank.

    With the exact covariance of the sufficient statistics this is Rao's score test of all fields
    and couplings.

    Args:
        total: the sum d, `[f]`.
        covariance: the covariance C of one row, `[f, f]`; directions that hardly vary are left out.
        num: number of rows, N.
    """
    basis = whitened(covariance, CLEAR / num)
    return float((total @ basis).square().sum() / num), basis.shape[1]
