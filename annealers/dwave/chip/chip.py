"""A chip: which qubits and couplers work, and where they lie in the lattice."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qsample.support.optional import needs

if TYPE_CHECKING:
    import networkx


@dataclass(frozen=True, eq=False)
class Lattice:
    """Chimera, Pegasus or Zephyr of a given shape, each as lines of qubits across a grid.

    A qubit is (u, w, k, p): u = 0 runs along y and lies at x = w, u = 1 runs along x and lies at y
    = w; p is its place along its line and k which of several lines there. Moving x and y by whole
    steps maps couplers to couplers away from the border, and so does renumbering k among all lines
    of one u on Chimera and Zephyr. Linear numbers as dwave-graphs defines them; on Zephyr p = 2 z +
    j.
    """

    family: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The size by which tiles of a chip grow."""
        return self.shape[0] if self.family != "chimera" else min(self.shape[:2])

    @property
    def _bounds(self) -> tuple[Sequence[int], Sequence[int], int]:
        """Exclusive upper bounds of w and of p, each for u = 0 and 1, and of k."""
        m = self.shape[0]
        if self.family == "chimera":
            columns = self.shape[1]
            return (columns, m), (m, columns), self.shape[2]
        if self.family == "pegasus":
            return (m, m), (m - 1, m - 1), 12
        return (2 * m + 1,) * 2, (2 * m,) * 2, self.shape[1]

    def coordinates(self, qubits: np.ndarray) -> np.ndarray:
        """(u, w, k, p) of linear numbers `[N]`, as `[4, N]`."""
        _, _, size = self._bounds
        if self.family == "chimera":
            cell, rest = np.divmod(qubits, 2 * size)
            y, x = np.divmod(cell, self.shape[1])
            u, k = np.divmod(rest, size)
            return np.stack([u, np.where(u == 0, x, y), k, np.where(u == 0, y, x)])
        m = self.shape[0]
        if self.family == "pegasus":
            rest, p = np.divmod(qubits, m - 1)
            rest, k = np.divmod(rest, 12)
            u, w = np.divmod(rest, m)
            return np.stack([u, w, k, p])
        rest, z = np.divmod(qubits, m)
        rest, j = np.divmod(rest, 2)
        rest, k = np.divmod(rest, size)
        u, w = np.divmod(rest, 2 * m + 1)
        return np.stack([u, w, k, 2 * z + j])

    def numbers(self, coordinates: np.ndarray) -> np.ndarray:
        """Linear numbers `[N]` of coordinates `[4, N]`: the inverse of `coordinates`."""
        (u, w, k, p) = coordinates
        size = self._bounds[2]
        if self.family == "chimera":
            y = np.where(u == 0, p, w)
            x = np.where(u == 0, w, p)
            return ((y * self.shape[1] + x) * 2 + u) * size + k
        m = self.shape[0]
        if self.family == "pegasus":
            return ((u * m + w) * 12 + k) * (m - 1) + p
        return (((u * (2 * m + 1) + w) * size + k) * 2 + p % 2) * m + p // 2

    def moves(self, coordinates: np.ndarray) -> Iterator[np.ndarray]:
        """Linear numbers `[N]` of every place where qubits at `[4, N]` can be moved to.

        The present place comes first.
        """
        u, w, k, p = coordinates
        across, along, size = self._bounds
        # positions on the grid, and their exclusive upper bounds, by qubit
        x = np.where(u == 0, w, p)
        y = np.where(u == 0, p, w)
        width = np.where(u == 0, across[0], along[1])
        height = np.where(u == 0, along[0], across[1])
        # every step that keeps all qubits inside, with every turn of the lines of each direction
        turns = [(0, 0)]
        if self.family != "pegasus":
            turns = [(a, b) for a in range(size) for b in range(size)]
        steps = [
            (dx, dy, turn)
            for dy in range(-int(y.min()), int((height - y).min()))
            for dx in range(-int(x.min()), int((width - x).min()))
            for turn in turns
        ]
        steps.sort(key=lambda step: step != (0, 0, (0, 0)))
        for dx, dy, turn in steps:
            moved_w = w + np.where(u == 0, dx, dy)
            moved_k = (k + np.where(u == 0, *turn)) % size
            moved_p = p + np.where(u == 0, dy, dx)
            yield self.numbers(np.stack([u, moved_w, moved_k, moved_p]))


@dataclass(frozen=True, eq=False)
class Chip:
    """The working graph of a solver.

    Args:
        name: the solver's name.
        topology: "chimera", "pegasus" or "zephyr"; others get no templates and no tiling.
        shape: the topology's sizes, as in the solver's properties.
        nodelist: qubits that work, in the solver's order.
        edgelist: couplers that work, as pairs of qubits.
    """

    name: str
    topology: str
    shape: tuple[int, ...]
    nodelist: tuple[int, ...]
    edgelist: tuple[tuple[int, int], ...]

    def __repr__(self) -> str:
        return f"Chip({self.name}, {len(self.nodelist)} qubits, {len(self.edgelist)} couplers)"

    @staticmethod
    def from_properties(properties: Mapping[str, Any]) -> Chip:
        """The chip in the properties of a solver.

        They are `DWaveSampler().properties`, or `["properties"]` of a definition.
        """
        topology = properties.get("topology", {"type": "unknown", "shape": []})
        return Chip(
            str(properties.get("chip_id", "a solver")),
            str(topology["type"]),
            tuple(map(int, topology["shape"])),
            tuple(map(int, properties["qubits"])),
            tuple((int(a), int(b)) for a, b in properties["couplers"]),
        )

    @staticmethod
    def perfect(topology: str, *shape: int) -> Chip:
        """A chip without defects, such as `Chip.perfect("zephyr", 12)`."""
        graph = _generator(topology)(*shape)
        name = "-".join([topology, *map(str, shape)])
        edges = tuple((min(pair), max(pair)) for pair in graph.edges)
        return Chip(name, topology, shape, tuple(sorted(graph.nodes)), tuple(sorted(edges)))

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of topology, shape, qubits and couplers, in any order, without the name."""
        digest = hashlib.sha256(f"{self.topology} {self.shape}".encode())
        for numbers in (np.sort(self.nodes), np.sort(self.codes)):
            digest.update(numbers.astype("<i8").tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def nodes(self) -> np.ndarray:
        """`nodelist` as int64 `[N]`."""
        return np.array(self.nodelist, dtype=np.int64)

    @functools.cached_property
    def edges(self) -> np.ndarray:
        """`edgelist` as int64 `[M, 2]`."""
        return np.array(self.edgelist, dtype=np.int64).reshape(-1, 2)

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """Each coupler as one number, low end times `span` plus high end, sorted."""
        return np.sort(self.code(self.edges))

    @property
    def span(self) -> int:
        """One more than the largest number of a qubit."""
        return int(self.nodes.max(initial=0)) + 1

    def code(self, pairs: np.ndarray) -> np.ndarray:
        """Pairs of qubits `[..., 2]`, in either order, as numbers of `codes`."""
        return pairs.min(-1) * self.span + pairs.max(-1)

    def coupled(self, pairs: np.ndarray) -> np.ndarray:
        """Whether each pair of numbers `[..., 2]` has a coupler; False where one is no qubit."""
        if not len(self.codes):
            return np.zeros(pairs.shape[:-1], dtype=bool)
        inside = (pairs.max(-1) < self.span) & (pairs.min(-1) >= 0)
        code = np.where(inside, self.code(pairs), -1)
        place = np.searchsorted(self.codes, code).clip(max=len(self.codes) - 1)
        return self.codes[place] == code

    @functools.cached_property
    def max_degree(self) -> int:
        """The largest number of couplers at one qubit."""
        return int(np.bincount(self.edges.ravel(), minlength=1).max())

    @functools.cached_property
    def lattice(self) -> Lattice | None:
        """Where the qubits lie; None for a topology that is not one of the three."""
        if self.topology not in ("chimera", "pegasus", "zephyr"):
            return None
        default = {"zephyr": (4,), "pegasus": (), "chimera": (self.shape[0], 4)}[self.topology]
        return Lattice(self.topology, self.shape + default[len(self.shape) - 1 :])

    def tile(self, size: int) -> Chip:
        """A small perfect chip of the same family, `size` rows and columns."""
        if self.lattice is None:
            raise ValueError(f"a {self.topology} chip has no tiles")
        sizes = {"zephyr": 1, "pegasus": 1, "chimera": 2}[self.topology]
        lines = () if self.topology == "pegasus" else self.lattice.shape[-1:]
        return Chip.perfect(self.topology, *(size,) * sizes, *lines)

    def graph(self) -> networkx.Graph:
        """The working graph, as dwave-graphs would make it."""
        if self.lattice is None:
            import networkx

            graph = networkx.Graph(self.edgelist)
            graph.add_nodes_from(self.nodelist)
            return graph
        return _generator(self.topology)(
            *self.lattice.shape, node_list=self.nodelist, edge_list=self.edgelist
        )


def _generator(topology: str) -> Any:
    """The function of dwave-graphs that makes a topology's graph."""
    with needs("dwave", "D-Wave's graphs"):
        import dwave.graphs
    try:
        return getattr(dwave.graphs, f"{topology}_graph")
    except AttributeError:
        raise ValueError(
            f"unknown topology {topology!r}: expected chimera, pegasus or zephyr"
        ) from None
