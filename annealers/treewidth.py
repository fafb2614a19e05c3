"""An order in which to eliminate the spins of a sparse graph, and the treewidth it shows."""

from __future__ import annotations

import heapq

from qsample.problem.graph import Graph

LIMIT = 25  # spins joined at once: 2^25 numbers


def elimination(graph: Graph) -> tuple[int, list[int]]:
    """The width and the order of the narrower of two orders; beyond `LIMIT` there is no order.

    They go by least degree first, and row by row. Eliminating a spin joins its neighbours to each
    other; the width is the largest number joined, an upper bound of the treewidth (Bodlaender and
    Koster, Inf. Comput. 208, 2010). The second order is the best there is for a grid.
    """

    def make() -> list[tuple[int, list[int]]]:
        return [_eliminate(graph, least_first) for least_first in (True, False)]

    return min(graph.cached("elimination", make), key=lambda elimination: elimination[0])


def _eliminate(graph: Graph, least_first: bool) -> tuple[int, list[int]]:
    """Width and order by least degree first, or else by number."""
    near: list[set[int]] = [set() for _ in range(graph.num_spins)]
    for i, j in graph.edges.T.tolist():
        near[i].add(j)
        near[j].add(i)
    heap = [(len(near[i]) if least_first else i, i) for i in range(graph.num_spins)]
    heapq.heapify(heap)
    width = 0
    order = []
    gone = set[int]()
    while heap:
        key, i = heapq.heappop(heap)
        if i in gone or (least_first and key != len(near[i])):
            # an outdated entry: the spin is gone, or in the heap again under its present degree
            continue
        width = max(width, len(near[i]))
        if width > LIMIT:
            return width, []
        gone.add(i)
        order.append(i)
        for j in near[i]:
            near[j] |= near[i]
            near[j] -= {i, j}
            if least_first:
                heapq.heappush(heap, (len(near[j]), j))
    return width, order
