"""Problems that several tests ask: frustrated ones with a known log Z, two modes, random graphs."""

import torch

from qsample import Graph, Ising, Samples
from qsample.problem.enumeration import log_partition
from tests.support.seeds import generator

# Graphs of every shape that a kernel treats in a way of its own.
SHAPES = {
    # Served colour by colour.
    "sparse": Graph.sparse(40, [(i, (i + k) % 40) for i in range(40) for k in (1, 7)]),
    # Sparse, but served spin by spin.
    "dense": Graph.sparse(11, [(i, j) for i in range(11) for j in range(i)]),
    "bipartite": Graph.bipartite(33, 9),
    "complete": Graph.complete(13),
    "tree": Graph.sparse(30, [(i, i // 2) for i in range(1, 30)]),
    "loose": Graph.sparse(5, []),
}
# Graphs whose states can be enumerated.
GRAPHS = {
    "sparse": Graph.sparse(12, [(i, (i + k) % 12) for i in range(12) for k in (1, 3)]),
    "bipartite": Graph.bipartite(8, 5),
    "complete": Graph.complete(10),
}


def random_problem(shape, batch=(), J_batch=(), dtype=torch.float32):
    """Normal fields and couplings on a graph of SHAPES, always the same for the same arguments."""
    graph, g = SHAPES[shape], generator()
    values = torch.randn(*J_batch, graph.num_edges, generator=g, dtype=dtype) / 3
    h = torch.randn(*batch, graph.num_spins, generator=g, dtype=dtype)
    return Ising(graph, h, graph.couplings(values))


# Sizes of couplings and fields that a kernel rounds, or bounds, each in its own way.
NUMBERS = {
    "normal": lambda J, h: (J, h),
    # sums that cancel, and fields of exactly nothing
    "whole": lambda J, h: (J.sign(), h.round()),
    # a field that sets the unit, eight times as far as couplings do
    "pinned": lambda J, h: (J.sign(), torch.where(h == h.amax(-1, keepdim=True), 256.0, h)),
    "one coupling": lambda J, h: (torch.where(J == J.amax(-1, keepdim=True), 64.0, J), h),
    "weak": lambda J, h: (1e-6 * J, 1e-6 * h),
    "strong": lambda J, h: (30 * J, 30 * h),
    "fields alone": lambda J, h: (0 * J, h),
    "nothing": lambda J, h: (0 * J, 0 * h),
}


def numbered(graph, numbers="normal", batch=(), J_batch=(), seed=0):
    """A problem on any graph with fields and couplings of NUMBERS, and an offset."""
    g = generator(seed)
    # fields of about 1, whatever the degree
    scale = 1 / (1 + float(graph.degree.double().mean())) ** 0.5 if graph.num_spins else 1.0
    J = scale * torch.randn(*J_batch, graph.num_edges, generator=g)
    h = scale * torch.randn(*batch, graph.num_spins, generator=g)
    if graph.num_edges and graph.num_spins:
        J, h = NUMBERS[numbers](J, h)
    return Ising(graph, h, graph.couplings(J), torch.randn(batch, generator=g))


def problems(kind, count=10, dtype=torch.float32):
    """A frustrated random batch; log Z differs from that of free spins by several units."""
    graph, g = GRAPHS[kind], generator(3)
    values = torch.randn(count, graph.num_edges, generator=g, dtype=dtype) * 2
    values = values / graph.degree.double().mean().sqrt()
    h = torch.randn(count, graph.num_spins, generator=g, dtype=dtype) / 2
    offset = torch.randn(count, generator=g, dtype=dtype) / 2
    return Ising(graph, h, graph.couplings(values.to(dtype)), offset)


def z_scores(problem, info):
    """1 - Z / (Z estimated), in units of its standard error."""
    exact = log_partition(problem.to(dtype=torch.float64))
    return (1 - (exact - info["log_partition"]).exp()) / info["log_partition_stderr"]


def two_modes(kind, n=12):
    """A ferromagnet in a weak field: all up or all down, and hardly anything between."""
    graph = {
        "sparse": Graph.sparse(n, [(i, (i + k) % n) for i in range(n) for k in (1, 2)]),
        "bipartite": Graph.bipartite(n // 2, n // 2),
        "complete": Graph.complete(n),
    }[kind]
    strength = {"sparse": 1.2, "bipartite": 0.8, "complete": 0.5}[kind]
    values = torch.full((graph.num_edges,), -strength)
    return Ising(graph, torch.full((n,), -0.02), graph.couplings(values))


def up(problem, num):
    """`num` chains that start from all spins up."""
    spins = torch.ones(num, problem.num_spins, dtype=torch.int8)
    return Samples(spins, problem.energy(spins))


def random_graph(n: int, edges: int, seed: int = 0) -> Graph:
    """`edges` of the pairs of n spins, drawn without replacement."""
    pairs = torch.triu_indices(n, n, 1).T
    order = torch.randperm(len(pairs), generator=generator(seed))
    return Graph.sparse(n, pairs[order[:edges]])
