"""Moments of single spins and of the pairs of a graph, from reads of many problems."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from qsample.problem.graph import Graph
from qsample.sampling.samples import Samples

CHUNK = 1 << 22  # numbers held at once for the pairs of a large graph


@dataclass(frozen=True, eq=False)
class Reads:
    """R reads of N problems.

    Args:
        spins: spins, or conditional means, `[N, R, n]`.
        weight: of the reads, `[N, R]`, which sums to 1 over R.
        share: of each problem in the averages below, `[N]`, which sums to 1.
    """

    spins: Tensor
    weight: Tensor
    share: Tensor

    @staticmethod
    def of(samples: Samples, share: Tensor) -> Reads:
        """In the precision of `share`."""
        return Reads(samples.spins.to(share), samples.weight.to(share), share)

    def means(self) -> Float[Tensor, " n"]:
        """<s_i>, over reads and problems."""
        return self._weights.flatten() @ self.spins.flatten(0, 1)

    def pairs(self, graph: Graph) -> Float[Tensor, " k"]:
        """<s_i s_j> of every edge, over reads and problems."""
        return pair_sums(graph, self.spins.flatten(0, 1), self._weights.flatten())

    def products(self, graph: Graph) -> Float[Tensor, " k"]:
        r"""<s_i><s_j> of every edge, the means each problem's own, without bias.

        Only spins of different reads are multiplied:

        $\sum_{r \ne r'} w_r w_{r'} s_{ri} s_{r'j} / (1 - \sum_r w_r^2)$, averaged over problems.
        """
        each = self.share / (1 - self.weight.square().sum(1))
        mean = torch.einsum("pr,prn->pn", self.weight, self.spins)
        same = (self.weight.square() * each[:, None]).flatten()
        return pair_sums(graph, mean, each) - pair_sums(graph, self.spins.flatten(0, 1), same)

    @property
    def _weights(self) -> Tensor:
        return self.weight * self.share[:, None]


def pair_sums(
    graph: Graph, rows: Float[Tensor, "M n"], weight: Float[Tensor, " M"]
) -> Float[Tensor, " k"]:
    """sum_m w_m s_mi s_mj of every edge (i, j), in the order of `graph.edges`.

    Args:
        graph: the edges.
        rows: s, spins or means `[M, n]`.
        weight: w, of the rows, `[M]`.
    """
    i, j = graph.edges.to(rows.device)
    # all pairs by one product: faster on few spins, measured
    if graph.num_spins**2 < 100 * graph.num_edges:
        return (rows.T @ (rows * weight[:, None]))[i, j]
    columns = rows.T.contiguous()  # an edge reads two of its rows
    weighted = columns * weight
    size = max(1, CHUNK // max(1, len(rows)))
    sums = []
    for first, second in zip(i.split(size), j.split(size), strict=True):
        sums.append((weighted[first] * columns[second]).sum(1))
    return torch.cat(sums) if sums else rows.new_zeros(0)
