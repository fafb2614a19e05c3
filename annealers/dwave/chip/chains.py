"""Chains for a graph in one region of a chip: by a subgraph, a template or the heuristic, whichever is shortest."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qsample.annealers.dwave.chip.chip import Chip
from qsample.annealers.dwave.chip.wires import Wires
from qsample.problem.graph import Graph

# most spins for which a chain-free place is searched: the solver's memory grows as their square
SUBGRAPH_SPINS = 400
HEURISTIC_EDGES = 1000  # most couplings for which the heuristic competes with a template
ATTEMPT = 2.0  # seconds of one search in a region that is not the last hope

Chain = tuple[int, ...]  # numbers of qubits
Chains = tuple[Chain, ...]  # of one copy, by variable
Found = Mapping[int, Sequence[int]] | None


def chains_in(
    graph: Graph, region: Chip, seed: int, deadline: float, *, last: bool = False
) -> Chains | None:
    """Chains of each variable, the shortest found by `deadline` (in `time.monotonic()`); None if there are none.

    Complete graphs get the template of minorminer's busclique, bipartite ones wires that cross, and
    minorminer's heuristic competes where they are small. Dense sparse graphs get the heuristic and
    the complete graph's template. In the `last` region the heuristic has all the time that is left.
    """
    if fewest_qubits(graph, region)[1] > len(region.nodelist):
        return None
    linked = np.flatnonzero(graph.degree.numpy())
    target = region.graph()
    found = []
    if len(linked) <= SUBGRAPH_SPINS and int(graph.degree.max()) <= region.max_degree:
        found.append(_subgraph(graph, target, seed, deadline))
    if not found or found[0] is None:
        dense = (
            graph.kind != "sparse"
            or last
            or 4 * graph.num_edges > graph.num_spins * (graph.num_spins - 1)
        )
        template = _template(graph, region, target, seed, deadline) if dense else None
        found.append(template)
        hopeful = graph.kind == "sparse" or region.lattice is None  # has no template of its own
        if hopeful or (graph.num_edges <= HEURISTIC_EDGES if template else last):
            most = math.inf if last and (hopeful or not template) else ATTEMPT
            found.append(_heuristic(graph, target, seed, deadline, most))
    complete = [_with_isolated(graph, region, one) for one in found if one is not None]
    valid = [chains for chains in complete if chains is not None]
    return min(
        valid, key=lambda chains: (max(map(len, chains)), sum(map(len, chains))), default=None
    )


def fewest_qubits(graph: Graph, chip: Chip) -> tuple[np.ndarray, int]:
    """Lower bounds on the length of each variable's chain, [n], and on the qubits of all.

    A chain of L qubits spends 2 (L - 1) ends of its at most L D couplers on itself, which leaves L
    (D - 2) + 2 for its k neighbours, where D is the chip's largest degree: L >= (k - 2) / (D - 2).
    """
    degree = graph.degree.numpy()
    longest = np.ceil((degree - 2) / max(chip.max_degree - 2, 1)).astype(np.int64)
    length = np.where(degree <= chip.max_degree, 1, longest)
    return length, int(length.sum())


def check_counts(graph: Graph, chip: Chip) -> None:
    """ValueError, with the numbers, for a graph that needs more qubits or couplers than the chip has."""
    length, qubits = fewest_qubits(graph, chip)
    couplers = graph.num_edges + qubits - graph.num_spins
    if qubits <= len(chip.nodelist) and couplers <= len(chip.edgelist):
        return
    sides = np.unique(length) if graph.kind == "bipartite" else [length.max()]
    need = f"needs chains of at least {' and '.join(map(str, sides))} qubits, {qubits} qubits and {couplers} couplers"
    raise ValueError(f"{described(graph)} {need}; {capacity(graph, chip)}: use a smaller model")


def check_template(graph: Graph, chip: Chip) -> None:
    """ValueError for a complete or bipartite graph larger than any template, unless the heuristic may do better."""
    side = largest(graph.kind, chip)
    if side is not None and graph.num_edges > HEURISTIC_EDGES and min(graph.sizes) > side:
        raise ValueError(
            f"{described(graph)} does not fit; {capacity(graph, chip)}: use a smaller model"
        )


def described(graph: Graph) -> str:
    """The graph in an error's words."""
    if graph.kind == "bipartite":
        return f"an RBM of {graph.sizes[0]} x {graph.sizes[1]}"
    if graph.kind == "complete":
        return f"a complete graph of {graph.num_spins} spins"
    return f"a graph of {graph.num_spins} spins and {graph.num_edges} couplings"


def capacity(graph: Graph, chip: Chip) -> str:
    """What the chip holds, in an error's words."""
    has = f"{chip.name} has {len(chip.nodelist)} qubits and {len(chip.edgelist)} couplers"
    side = largest(graph.kind, chip)
    if side is None:
        return has
    size = (
        f"bipartite graph on it is about {side} x {side}"
        if graph.kind == "bipartite"
        else f"graph on it is about {side}"
    )
    return f"{has}, and the largest complete {size}, less what its defects take"


def largest(kind: str, chip: Chip) -> int | None:
    """Spins (of one side) of the largest complete (balanced bipartite) template without defects; None without one."""
    if kind == "sparse" or chip.lattice is None:
        return None
    size = chip.lattice.rows
    thick = chip.lattice.shape[-1]
    if chip.topology == "pegasus":
        return 12 * (size - 1) - (8 if kind == "bipartite" else 0)
    return thick * (4 * size - 2) if chip.topology == "zephyr" else thick * size


# ---- the three ways ----------------


def _subgraph(graph: Graph, target: Any, seed: int, deadline: float) -> Found:
    """A place where each linked variable is one qubit (the Glasgow subgraph solver)."""
    from minorminer.subgraph import find_subgraph

    if deadline - time.monotonic() < 1:
        return None
    edges = graph.edges.T.tolist()
    if not edges:
        return {}
    found = find_subgraph(
        edges, target, timeout=int(min(ATTEMPT, deadline - time.monotonic())), seed=seed
    )
    return {i: (q,) for i, q in found.items()} or None


def _template(graph: Graph, region: Chip, target: Any, seed: int, deadline: float) -> Found:
    """The chains of a complete or complete bipartite graph along the lines of the lattice; complete for sparse."""
    if region.lattice is None:
        return None
    if graph.kind == "bipartite":
        n, m = graph.sizes
        chains = Wires.of(region).bipartite(n, m, deadline)
        return dict(enumerate(chains)) if chains else None
    if region.topology != "pegasus" and graph.num_spins <= 2 * region.lattice.shape[-1]:
        # minorminer 0.2.22 without its own cache fills the memory here, and the heuristic serves
        return None
    from minorminer.busclique import find_clique_embedding

    return find_clique_embedding(graph.num_spins, target, seed=seed, use_cache=False) or None


def _heuristic(graph: Graph, target: Any, seed: int, deadline: float, most: float) -> Found:
    """The heuristic of Cai, Macready and Roy (arXiv:1406.2741), minorminer."""
    from minorminer import find_embedding

    left = min(deadline - time.monotonic(), most)
    if left <= 0:
        return None
    return (
        find_embedding(
            graph.edges.T.tolist(), target, random_seed=seed, timeout=max(1, round(left))
        )
        or None
    )


def _with_isolated(graph: Graph, region: Chip, found: Mapping[int, Sequence[int]]) -> Chains | None:
    """The chains in order, spins without neighbours on the first free qubits; None if the region is too small."""
    used = {int(q) for chain in found.values() for q in chain}
    free = iter([q for q in region.nodelist if q not in used])
    chains = [
        tuple(sorted(map(int, found[i]))) if i in found else (next(free, -1),)
        for i in range(graph.num_spins)
    ]
    return None if (-1,) in chains else tuple(chains)
