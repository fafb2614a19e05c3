"""The problems that benchmarks run on, by name: chips, lattices, spin glasses, an RBM, batches."""

from __future__ import annotations

import numpy as np
import torch

import qsample as qs
from qsample.support.optional import needs

NEAR = [(down, right) for down in range(3) for right in range(-2, 3) if (down, right) > (0, 0)]
PIXELS = [*NEAR, (0, 4), (4, 0), (4, 4), (4, -4), (0, 8), (8, 0)]
"""offsets of coupled pixels: rows down, columns to the right"""
BETAS = {
    "pegasus": (0.05, 4.0),
    "zephyr": (0.05, 4.0),
    "2d": (0.44, 0.44),
    "3d": (0.1, 3.0),
    "sk": (0.1, 8.0),
}
"""first and last beta of annealing, by kind of problem"""


def sizes(name: str) -> tuple[str, int, int]:
    """Instance, reads and sweeps of "name, R x S"; 64 x 100 where it does not say."""
    instance, _, rest = name.partition(", ")
    reads, _, sweeps = (rest or "64 x 100").partition(" x ")
    return instance, int(reads), int(sweeps)


def make(name: str) -> qs.Ising:
    """The instance of a name, always the same.

    Couplings are uniform on chips, +-1 in 3D, -1 in 2D, normal of variance 1/n in SK.
    """
    kind, _, size = name.partition("-")
    rng = np.random.default_rng(1)
    if kind == "rbm":
        return rbm(*numbers(size), rng)
    if kind == "sk":
        return sherrington_kirkpatrick(int(size), rng)
    if kind == "shared":
        return shared(*numbers(size), rng)
    if kind == "own":
        return own(*numbers(size), rng)
    if kind in ("2d", "3d"):
        edges = lattice((int(size),) * int(kind[0]))
    else:
        edges = chip(kind, int(size))
    if kind == "2d":
        J = -np.ones(len(edges))
    elif kind == "3d":
        J = rng.choice([-1.0, 1.0], len(edges))
    else:
        J = rng.uniform(-1, 1, len(edges))
    n = int(edges.max()) + 1
    return qs.Ising(qs.Graph.sparse(n, edges), torch.zeros(n), torch.tensor(J).float())


def numbers(size: str) -> tuple[int, int]:
    """Both numbers of "a x b", written without spaces."""
    first, _, second = size.partition("x")
    return int(first), int(second)


def rbm(visible: int, hidden: int, rng: np.random.Generator) -> qs.Ising:
    """A bipartite problem of small normal weights.

    Args:
        visible: spins of the first side.
        hidden: spins of the second side.
        rng: source of weights and fields.
    """
    W = rng.normal(0, 0.05, (visible, hidden))
    h = rng.normal(0, 0.1, visible + hidden)
    graph = qs.Graph.bipartite(visible, hidden)
    return qs.Ising(graph, torch.tensor(h).float(), torch.tensor(W).float())


def sherrington_kirkpatrick(n: int, rng: np.random.Generator) -> qs.Ising:
    """All spins coupled by normal numbers of variance 1/n."""
    J = torch.zeros(n, n)
    values = rng.normal(0, n**-0.5, n * (n - 1) // 2)
    J[tuple(torch.triu_indices(n, n, 1))] = torch.tensor(values).float()
    return qs.Ising(qs.Graph.complete(n), torch.zeros(n), J + J.T)


def shared(count: int, n: int, rng: np.random.Generator) -> qs.Ising:
    """A batch of problems that share J and differ in h, each spin coupled to 8 others.

    Args:
        count: number of problems.
        n: spins of a problem.
        rng: source of fields and couplings.
    """
    edges = torch.tensor([(i, (i + k) % n) for i in range(n) for k in (1, 7, 31, 63)])
    h = rng.normal(0, 0.3, (count, n))
    J = rng.normal(0, 0.3, len(edges))
    graph = qs.Graph.sparse(n, edges)
    return qs.Ising(graph, torch.tensor(h).float(), torch.tensor(J).float())


def own(count: int, side: int, rng: np.random.Generator) -> qs.Ising:
    """A batch of problems with fields and couplings of their own, as a diffusion step has them.

    The spins are the pixels of a square image, coupled to the 24 nearest ones and to 12 more, 4 and
    8 away, as the steps of `claims/few_steps.py` are.

    Args:
        count: number of problems.
        side: pixels of a row.
        rng: source of fields and couplings.
    """
    site = torch.arange(side * side).reshape(side, side)
    edges = []
    for down, right in PIXELS:
        first, last = max(0, -right), side - max(0, right)
        pairs = [site[: side - down, first:last], site[down:, first + right : last + right]]
        edges.append(torch.stack(pairs, -1).reshape(-1, 2))
    graph = qs.Graph.sparse(side * side, torch.cat(edges))
    h = rng.normal(0, 0.3, (count, side * side))
    J = rng.normal(0, 0.1, (count, graph.num_edges))
    return qs.Ising(graph, torch.tensor(h).float(), torch.tensor(J).float())


def lattice(shape: tuple[int, ...]) -> torch.Tensor:
    """Edges of a periodic lattice."""
    site = torch.arange(torch.Size(shape).numel()).reshape(shape)
    pairs = [torch.stack([site, site.roll(-1, axis)], -1) for axis in range(len(shape))]
    return torch.cat([pair.reshape(-1, 2) for pair in pairs])


def chip(kind: str, size: int) -> torch.Tensor:
    """Edges of a quantum processor's graph, nodes numbered in their order."""
    if kind not in ("pegasus", "zephyr"):
        kinds = "pegasus, zephyr, 2d, 3d, sk, rbm, shared or own"
        raise ValueError(f"unknown problem {kind}-{size}: expected {kinds}")
    with needs("experiments", f"{kind}-{size}"):
        import dwave.graphs
    graph = getattr(dwave.graphs, f"{kind}_graph")(size)
    number = {node: i for i, node in enumerate(sorted(graph.nodes))}
    return torch.tensor([(number[a], number[b]) for a, b in graph.edges])
