"""The graph that a clamp leaves, and how its spins and edges sit in the whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qsample.problem.graph import Graph


class Clamping(NamedTuple):
    """What is left when some spins are fixed; index tensors into spins and, for a sparse graph, into edges."""

    graph: Graph
    free: Tensor  # spins that stay, ascending
    clamped: Tensor  # spins that are fixed, in the caller's order
    kept: Tensor  # sparse: edges between two free spins
    cut: Tensor  # sparse [3, c]: edge, position of its free end in `free`, position of its clamped end in `clamped`
    inside: Tensor  # sparse [3, c]: edge, positions of its two clamped ends in `clamped`


def leave_out(graph: Graph, index: Tensor) -> Clamping:
    """What remains of a graph when the spins `index` (a CPU tensor) are fixed; see `Graph.without`."""
    n = graph.num_spins
    if index.numel() and (index.min() < 0 or index.max() >= n):
        raise ValueError(f"expected a list of spins in 0..{n - 1} to clamp; got {index.tolist()[:8]}")
    if len(index.unique()) < len(index):
        raise ValueError(f"a spin is clamped twice in {index.tolist()[:8]}")
    is_free = torch.ones(n, dtype=torch.bool)
    is_free[index] = False
    free = is_free.nonzero()[:, 0]
    place = torch.empty(n, dtype=torch.int64)
    place[free], place[index] = torch.arange(len(free)), torch.arange(len(index))
    labels = [graph.labels[i] for i in free.tolist()]
    none = torch.empty(3, 0, dtype=torch.int64)
    if graph.kind == "bipartite":
        left = int(is_free[: graph.sizes[0]].sum())
        return Clamping(Graph.bipartite(left, len(free) - left, labels), free, index, none[0], none, none)
    if graph.kind == "complete":
        return Clamping(Graph.complete(len(free), labels), free, index, none[0], none, none)
    ends_free = is_free[graph.pairs]
    kept, fixed = ends_free.all(0).nonzero()[:, 0], (~ends_free.any(0)).nonzero()[:, 0]
    crossing = (ends_free[0] != ends_free[1]).nonzero()[:, 0]
    first_free = ends_free[0, crossing]
    here, there = graph.pairs[:, crossing]
    ends = torch.where(first_free, here, there), torch.where(first_free, there, here)
    rest = Graph.sparse(len(free), place[graph.pairs[:, kept]].T, labels)
    cut = torch.stack([crossing, place[ends[0]], place[ends[1]]])
    return Clamping(rest, free, index, kept, cut, torch.stack([fixed, *place[graph.pairs[:, fixed]]]))
