"""Sums over all 2^n states in pure Python, which share no code with the package."""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jaxtyping
import torch
from torch import Tensor

from qsample import Graph, Ising

KINDS = ["sparse", "bipartite", "complete"]
Z_MAX = 5.0  # |z| of every z-test: a false alarm in 2 million


@contextmanager
def untyped():
    """Without the type checks that only tests make: what a user of a wrong type sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def a_graph(kind: str, labels: Sequence | None = None) -> Graph:
    """Five spins: a sparse graph with a triangle and an isolated spin, or K(2, 3), or K5."""
    if kind == "sparse":
        return Graph.sparse(5, [(3, 1), (0, 1), (3, 0), (1, 4)], labels)
    return Graph.bipartite(2, 3, labels) if kind == "bipartite" else Graph.complete(5, labels)


def a_problem(
    graph: Graph,
    *,
    h: tuple[int, ...] = (),
    J: tuple[int, ...] = (),
    offset: tuple[int, ...] = (),
    scale: float = 1.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Ising:
    """A problem of normal numbers.

    Args:
        graph: the graph.
        h: batch dimensions of the fields, none by default.
        J: those of the couplings.
        offset: those of the offset.
        scale: standard deviation of the numbers.
        dtype: their dtype.
        seed: seed of the numbers.
    """
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return (scale * torch.randn(shape, generator=g, dtype=torch.float64)).to(dtype)

    couplings = normal(*J, *graph.coupling_shape)
    if graph.kind == "complete":
        couplings = couplings.triu(1) + couplings.triu(1).mT
    return Ising(graph, normal(*h, graph.num_spins), couplings, normal(*offset))


def one_by_one(problem: Ising) -> Iterator[tuple[tuple[int, ...], Ising]]:
    """(place in the batch, that problem alone), every number copied out of its place by hand."""
    batch = problem.batch_shape
    h = problem.h.broadcast_to(*batch, problem.num_spins)
    J = problem.J.broadcast_to(*batch, *problem.graph.coupling_shape)
    offset = problem.offset.broadcast_to(batch)
    for place in itertools.product(*map(range, batch)):
        numbers = h[place].clone(), J[place].clone(), offset[place].clone()
        yield place, Ising(problem.graph, *numbers)


def all_states(n: int) -> list[tuple[int, ...]]:
    """The 2^n states of n spins, the last spin changing first."""
    return list(itertools.product((-1, 1), repeat=n))


def coupling_list(problem: Ising) -> list[tuple[int, int, float]]:
    """(i, j, J_ij) of one problem, read off its layout."""
    graph, J = problem.graph, problem.J.tolist()
    if graph.kind == "sparse":
        return [(i, j, J[k]) for k, (i, j) in enumerate(graph.pairs.T.tolist())]
    if graph.kind == "bipartite":
        n, m = graph.sizes
        return [(i, n + j, J[i][j]) for i in range(n) for j in range(m)]
    return [(i, j, J[i][j]) for i, j in itertools.combinations(range(graph.num_spins), 2)]


def slow_energy(problem: Ising, state: Sequence[int]) -> float:
    """E(s) of one problem, term by term."""
    fields = sum(h * s for h, s in zip(problem.h.tolist(), state, strict=True))
    total = float(problem.offset) + fields
    return total + sum(J * state[i] * state[j] for i, j, J in coupling_list(problem))


def slow_law(problem: Ising) -> tuple[list[tuple[int, ...]], list[float], float]:
    """All states, their probabilities, and log Z."""
    states = all_states(problem.num_spins)
    energies = [slow_energy(problem, s) for s in states]
    low = min(energies)
    weights = [math.exp(low - e) for e in energies]
    return states, [w / sum(weights) for w in weights], math.log(sum(weights)) - low
