"""Lattices: the grids of thermodynamic hardware, tori whose sites are coupled at fixed offsets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsample.problem.graph import Graph

# of the degrees 8, 12 and 16: arXiv 2510.23972, Table II; 20 and 24 are those of its public
# replication
OFFSETS: dict[int, tuple[tuple[int, int], ...]] = {
    4: ((0, 1),),
    8: ((0, 1), (4, 1)),
    12: ((0, 1), (4, 1), (9, 10)),
    16: ((0, 1), (4, 1), (8, 7), (14, 9)),
    20: ((0, 1), (4, 1), (10, 9), (11, 14), (23, 6)),
    24: ((0, 1), (4, 1), (10, 9), (11, 14), (23, 6), (3, 28)),
}


def grid(rows: int, columns: int | None = None, *, degree: int = 8, torus: bool = True) -> Graph:
    """A grid of sites (r, c), each coupled to four others for every offset (a, b).

    These are (r+a, c+b), (r-b, c+a), (r-a, c-b) and (r+b, c-a). a + b is odd, so that the
    chequerboard colours the grid: a sweep is two parallel updates. Labels are the pairs (r, c).

    Args:
        rows: Number of rows of sites.
        columns: Number of columns; as many as rows by default.
        degree: Number of neighbours of a site, 4, 8, 12, 16, 20 or 24 (arXiv 2510.23972, appendix
            on connectivity).
        torus: Whether the grid closes on itself; otherwise offsets that leave it are dropped.

    Raises:
        ValueError: An unknown degree, a size below 1, a torus of odd size (it has no two colours)
            or one so small that two offsets meet.
    """
    columns = rows if columns is None else columns
    if degree not in OFFSETS:
        raise ValueError(f"expected degree {', '.join(map(str, OFFSETS))}; got {degree!r}")
    if min(rows, columns) < 1:
        raise ValueError(f"expected rows, columns >= 1; got {rows} x {columns}")
    if torus and (rows % 2 or columns % 2):
        raise ValueError(
            f"expected even sides of a torus; got {rows} x {columns}: an odd one has no two colours"
        )
    r = torch.arange(rows).repeat_interleave(columns)
    c = torch.arange(columns).repeat(rows)
    edges = []
    for a, b in OFFSETS[degree]:
        for down, right in ((a, b), (-b, a)):  # the other two are these, seen from the far end
            i = r + down
            j = c + right
            ends = torch.stack([r * columns + c, i % rows * columns + j % columns], 1)
            if not torus:
                ends = ends[(0 <= i) & (i < rows) & (0 <= j) & (j < columns)]
            edges.append(ends)
    pairs = torch.cat(edges)
    if len(pairs.sort(1).values.unique(dim=0)) < len(pairs):
        raise ValueError(
            f"a torus of {rows} x {columns} is too small for degree {degree}: "
            "two neighbours of a site are one; use torus=False"
        )
    graph = Graph.sparse(rows * columns, pairs, list(zip(r.tolist(), c.tolist(), strict=True)))
    odd = (r + c) % 2 == 1  # a greedy colouring of an open grid may take a third colour
    graph.cached("colours", lambda: [side.nonzero()[:, 0] for side in (~odd, odd) if side.any()])
    return graph


def open_grid(rows: int, columns: int) -> Graph:
    """A grid with open ends, each site coupled to the next one in its row and in its column.

    Sites are numbered row by row; the edges across come first, then those down.
    """
    return Graph.sparse(rows * columns, grid_edges((rows, columns), [(0, 1), (1, 0)]))


def grid_edges(shape: Sequence[int], offsets: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of sites of a grid that stand an offset apart, without wrapping around.

    Sites are numbered row by row. Offsets may leave out leading axes: [0, 1] on a grid [C, H, W] is
    [0, 0, 1].

    Raises:
        ValueError: an offset of more axes than the grid has, or one of zeros alone.
    """
    shape = tuple(shape)
    sites = torch.arange(math.prod(shape)).reshape(shape)
    edges: list[tuple[int, int]] = []
    for offset in offsets:
        if not 0 < len(offset) <= len(shape) or not any(offset):
            raise ValueError(
                f"expected offsets on the grid {list(shape)}, not all zero; got {list(offset)}"
            )
        steps = [0] * (len(shape) - len(offset)) + list(offset)
        # the sites whose partner lies inside, and the partners, in the same order
        near = tuple(_overlap(-step, size) for step, size in zip(steps, shape, strict=True))
        far = tuple(_overlap(step, size) for step, size in zip(steps, shape, strict=True))
        pairs = zip(sites[near].flatten().tolist(), sites[far].flatten().tolist(), strict=True)
        edges.extend(pairs)
    return edges


def _overlap(step: int, size: int) -> slice:
    """Where an axis lies inside itself when it is moved by a step."""
    return slice(max(0, step), max(0, size + min(0, step)))


def scatter(graph: Graph, num: int, generator: torch.Generator | None = None) -> Tensor:
    """Random spins of the largest colour class, in random order, `[num]`.

    Where it is too small, those of the next class follow.

    Args:
        graph: The graph that colours the spins.
        num: Number of spins.
        generator: Source of the order; torch's default generator by default.
    """
    spins = []
    for group in sorted(graph.colours, key=len, reverse=True):
        spins.append(group[torch.randperm(len(group), generator=generator)])
    return torch.cat(spins)[:num]
