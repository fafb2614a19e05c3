"""Chains for one copy of a graph in one region of a chip: connected qubits that hold each variable.

They make the graph a minor of the region. Three ways are tried, a subgraph (no chains), a template
and minorminer's heuristic, and the one with the shortest chains is taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qsample.annealers.dwave.chip.chip import Chip
from qsample.annealers.dwave.chip.wires import Wires
from qsample.problem.graph import Graph

# Number of spins up to which a place without chains is searched: the solver's memory grows as its
# square.
SUBGRAPH_SPINS = 400
HEURISTIC_EDGES = 1000  # number of couplings up to which the heuristic competes with a template
ATTEMPT = 2.0  # seconds of one search in a region that is not the last hope

Chain = tuple[int, ...]  # numbers of qubits
Chains = tuple[Chain, ...]  # of one copy, by variable
ByVariable = Mapping[int, Sequence[int]]  # chains, of variables with neighbours at least


def chains_in(
    graph: Graph, region: Chip, seed: int, deadline: float, *, last: bool = False
) -> Chains | None:
    """The shortest chains of each variable; None if there are none.

    Complete graphs get the template of minorminer's busclique, bipartite ones wires that cross, and
    minorminer's heuristic competes where they are small. Dense sparse graphs get the heuristic and
    the complete graph's template.

    Args:
        graph: the problem's graph.
        region: the chip, or a tile of its family.
        seed: seed of the searches.
        deadline: when to stop, on the monotonic clock, in seconds.
        last: whether no further region is tried: the heuristic then has all the time that is left.
    """
    if fewest_qubits(graph, region)[1] > len(region.nodelist):
        return None
    linked = np.flatnonzero(graph.degree.numpy())
    target = region.graph()
    candidates = []

    # without chains nothing is shorter
    if len(linked) <= SUBGRAPH_SPINS and int(graph.degree.max()) <= region.max_degree:
        candidates.append(_subgraph(graph, target, seed, deadline))

    # else by a template, where the graph is dense, and by the heuristic, where it may do better
    if not candidates or candidates[0] is None:
        full = graph.num_spins * (graph.num_spins - 1) // 2
        dense = graph.kind != "sparse" or last or 2 * graph.num_edges > full
        template = _template(graph, region, target, seed, deadline) if dense else None
        candidates.append(template)
        untemplated = graph.kind == "sparse" or region.lattice is None
        competes = graph.num_edges <= HEURISTIC_EDGES if template else last
        if untemplated or competes:
            patient = last and (untemplated or not template)
            limit = math.inf if patient else ATTEMPT
            candidates.append(_heuristic(graph, target, seed, deadline, limit))

    # the shortest longest chain, then the fewest qubits
    complete = [
        _with_isolated(graph, region, chains) for chains in candidates if chains is not None
    ]
    valid = [chains for chains in complete if chains is not None]
    return min(
        valid, key=lambda chains: (max(map(len, chains)), sum(map(len, chains))), default=None
    )


def fewest_qubits(graph: Graph, chip: Chip) -> tuple[np.ndarray, int]:
    """Lower bounds on the length of each variable's chain `[n]`, and on the qubits of all.

    A chain of L qubits spends 2 (L - 1) ends of its at most L D couplers on itself, which leaves L
    (D - 2) + 2 for its k neighbours, where D is the chip's largest degree: L >= (k - 2) / (D - 2).
    """
    degree = graph.degree.numpy()
    longest = np.ceil((degree - 2) / max(chip.max_degree - 2, 1)).astype(np.int64)
    length = np.where(degree <= chip.max_degree, 1, longest)
    return length, int(length.sum())


def check_counts(graph: Graph, chip: Chip) -> None:
    """ValueError, with the numbers, for a graph that needs more than the chip has."""
    length, qubits = fewest_qubits(graph, chip)
    couplers = graph.num_edges + qubits - graph.num_spins
    if qubits <= len(chip.nodelist) and couplers <= len(chip.edgelist):
        return
    sides = np.unique(length) if graph.kind == "bipartite" else [length.max()]
    lengths = " and ".join(map(str, sides))
    raise ValueError(
        f"{described(graph)} needs chains of at least {lengths} qubits, {qubits} qubits and "
        f"{couplers} couplers; {capacity(graph, chip)}: use a smaller model"
    )


def check_template(graph: Graph, chip: Chip) -> None:
    """ValueError for a graph larger than any template, unless the heuristic may do better."""
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
    size = f"graph on it is about {side}"
    if graph.kind == "bipartite":
        size = f"bipartite graph on it is about {side} x {side}"
    return f"{has}, and the largest complete {size}, less what its defects take"


def largest(kind: str, chip: Chip) -> int | None:
    """Number of spins of the largest complete template without defects; None without one.

    Of one side, for a balanced bipartite template.
    """
    if kind == "sparse" or chip.lattice is None:
        return None
    size = chip.lattice.rows
    lines = chip.lattice.shape[-1]
    if chip.topology == "pegasus":
        return 12 * (size - 1) - (8 if kind == "bipartite" else 0)
    return lines * (4 * size - 2) if chip.topology == "zephyr" else lines * size


# ---- the three ways ----------------


def _subgraph(graph: Graph, target: Any, seed: int, deadline: float) -> ByVariable | None:
    """A place where each linked variable is one qubit (the Glasgow subgraph solver)."""
    from minorminer.subgraph import find_subgraph

    remaining = deadline - time.monotonic()
    if remaining < 1:
        return None
    edges = graph.edges.T.tolist()
    if not edges:
        return {}
    qubits = find_subgraph(edges, target, timeout=int(min(ATTEMPT, remaining)), seed=seed)
    return {variable: (qubit,) for variable, qubit in qubits.items()} or None


def _template(
    graph: Graph, region: Chip, target: Any, seed: int, deadline: float
) -> ByVariable | None:
    """The chains of a complete or complete bipartite graph along the lines of the lattice.

    A sparse graph gets those of the complete one.
    """
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


def _heuristic(
    graph: Graph, target: Any, seed: int, deadline: float, limit: float
) -> ByVariable | None:
    """The chains of minorminer, the heuristic of Cai, Macready and Roy (arXiv:1406.2741).

    In `limit` seconds, and before the `deadline`.
    """
    from minorminer import find_embedding

    remaining = min(deadline - time.monotonic(), limit)
    if remaining <= 0:
        return None
    edges = graph.edges.T.tolist()
    timeout = max(1, round(remaining))
    return find_embedding(edges, target, random_seed=seed, timeout=timeout) or None


def _with_isolated(graph: Graph, region: Chip, linked: ByVariable) -> Chains | None:
    """The chains in the order of variables, those without neighbours on the first free qubits.

    None if the region is too small for these.
    """
    used = {int(qubit) for chain in linked.values() for qubit in chain}
    free = iter([qubit for qubit in region.nodelist if qubit not in used])
    chains = []
    for variable in range(graph.num_spins):
        if variable in linked:
            chains.append(tuple(sorted(map(int, linked[variable]))))
        else:
            chains.append((next(free, -1),))
    return None if (-1,) in chains else tuple(chains)
