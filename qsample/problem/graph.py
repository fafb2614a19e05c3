"""The structure of an Ising problem, without its numbers: who is coupled to whom.

A `Graph` knows the layout of a coupling tensor J and everything that depends on structure alone (hash, CSR,
colouring, the graph that a clamp leaves). All of it is computed once and cached on the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from qsample.support.checks import WAYS_TO_GRAPH, as_numbers, is_whole, wrong_kind

if TYPE_CHECKING:
    import networkx

    from qsample.problem.clamping import Clamping

Kind = Literal["sparse", "bipartite", "complete"]
T = TypeVar("T")
MAX_CLAMPINGS = 256  # kept on a graph, the oldest given up first


@contextmanager
def lasting() -> Iterator[None]:
    """Where tensors are made that outlive the call: fit for training, on the CPU, whatever the caller's mode is.

    A tensor of `torch.inference_mode` can never be saved for a backward pass, and one of the meta device holds nothing.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        yield


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph of one of three kinds, each with its own layout of J.

    | kind | made by | J |
    |---|---|---|
    | sparse | `Graph.sparse(n, edges)` | `[*B, k]`, one number an edge, in the caller's order |
    | bipartite | `Graph.bipartite(n, m)` | `[*B, n, m]`; spins 0..n-1 are the left side, n..n+m-1 the right |
    | complete | `Graph.complete(n)` | `[*B, n, n]`, symmetric with a zero diagonal |

    `labels` are the caller's names of the spins (any hashables; default `range(num_spins)`); J and h go by index.
    """

    kind: Kind
    sizes: tuple[int, ...]
    pairs: Tensor  # [2, k] int64 on the CPU, i < j: the edges of a sparse graph (empty for the other kinds)
    labels: Sequence[Hashable]
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def sparse(
        n: int, edges: Iterable[Sequence[int]] | Tensor | np.ndarray, labels: Sequence[Hashable] | None = None
    ) -> Graph:
        """A graph of `n` spins and the given edges; self-loops, duplicates and ends outside 0..n-1 raise ValueError."""
        if hasattr(edges, "nodes") or isinstance(edges, Mapping) or not isinstance(edges, Iterable):
            raise wrong_kind("edges as pairs of spin numbers, [k, 2]", edges, WAYS_TO_GRAPH)
        with lasting():
            return Graph._sparse(_size(n), edges, labels)

    @staticmethod
    def _sparse(
        n: int, edges: Iterable[Sequence[int]] | Tensor | np.ndarray, labels: Sequence[Hashable] | None
    ) -> Graph:
        if isinstance(edges, Tensor):
            edges = edges.cpu().numpy()
        raw = edges if isinstance(edges, np.ndarray) else np.array(list(edges))
        raw = raw.reshape(-1, 2) if raw.size == 0 else raw
        if raw.ndim != 2 or raw.shape[1] != 2 or raw.size and raw.dtype.kind not in "iu":
            raise ValueError(f"expected edges as pairs of spin numbers, [k, 2]; got {raw.dtype} {list(raw.shape)}")
        array = torch.from_numpy(raw.astype(np.int64))
        pairs, names = array.T.sort(0).values.contiguous(), range(n) if labels is None else labels
        first, second = pairs
        if pairs.numel():
            bad = ((first < 0) | (second >= n)).nonzero()
            if len(bad):
                raise ValueError(f"edge {tuple(array[bad[0, 0]].tolist())} leaves the graph: expected spins 0..{n - 1}")
            loops = (first == second).nonzero()
            if len(loops):
                i = int(first[loops[0, 0]])
                raise ValueError(f"self-loop {(names[i], names[i])}: a spin cannot couple to itself")
            code, count = (first * n + second).unique(return_counts=True)
            if (count > 1).any():
                twice, times = (int(found[count > 1][0]) for found in (code, count))
                edge = names[twice // n], names[twice % n]
                raise ValueError(f"edge {edge} is given {times} times: expected once")
        return Graph("sparse", (n,), pairs, _labels(labels, n))

    @staticmethod
    def bipartite(n: int, m: int, labels: Sequence[Hashable] | None = None) -> Graph:
        """Every one of `n` left spins coupled to every one of `m` right spins (an RBM's graph)."""
        return Graph("bipartite", (_size(n), _size(m)), _no_edges(), _labels(labels, n + m))

    @staticmethod
    def complete(n: int, labels: Sequence[Hashable] | None = None) -> Graph:
        """Every spin coupled to every other."""
        return Graph("complete", (_size(n),), _no_edges(), _labels(labels, n))

    @staticmethod
    def from_networkx(graph: networkx.Graph) -> Graph:
        """A sparse graph with the nodes as labels, in the order networkx lists nodes and edges."""
        if not (hasattr(graph, "nodes") and hasattr(graph, "edges")):
            raise wrong_kind("a networkx graph", graph, WAYS_TO_GRAPH)
        labels = list(graph.nodes)
        index = {label: i for i, label in enumerate(labels)}
        return Graph.sparse(len(labels), [(index[a], index[b]) for a, b in graph.edges()], labels)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        return self  # a value: copies of a model share it, with all that is cached on it

    # ---- sizes and layout ------------------------------------------------------------------------------------

    @property
    def num_spins(self) -> int:
        """Spins, n."""
        return sum(self.sizes)

    @property
    def num_edges(self) -> int:
        """Couplings: pairs counted once."""
        if self.kind == "sparse":
            return self.pairs.shape[1]
        return self.sizes[0] * self.sizes[1] if self.kind == "bipartite" else self.sizes[0] * (self.sizes[0] - 1) // 2

    @property
    def coupling_shape(self) -> tuple[int, ...]:
        """The shape of J without batch dimensions."""
        if self.kind == "sparse":
            return (self.num_edges,)
        return self.sizes if self.kind == "bipartite" else self.sizes * 2

    @property
    def edges(self) -> Tensor:
        """All edges `[2, k]`, i < j, in the order of `edge_values`: the caller's, or row by row."""

        def make() -> Tensor:
            if self.kind == "bipartite":
                n, m = self.sizes
                return torch.stack([torch.arange(n).repeat_interleave(m), n + torch.arange(m).repeat(n)])
            return torch.triu_indices(*self.sizes * 2, offset=1)

        return self.pairs if self.kind == "sparse" else self.cached("edges", make)

    def edge_values(self, J: Tensor) -> Tensor:
        """J in this graph's layout as one number an edge, `[*B, k]`, in the order of `edges`."""
        if self.kind == "complete":
            i, j = self.edges.to(J.device)
            return J[..., i, j]
        return J if self.kind == "sparse" else J.flatten(-2)

    def couplings(self, values: Tensor) -> Tensor:
        """The inverse of `edge_values`: one number an edge becomes J in this graph's layout; differentiable."""
        if self.kind == "complete":
            i, j = self.edges.to(values.device)
            upper = values.new_zeros(*values.shape[:-1], *self.coupling_shape)
            upper[..., i, j] = values
            return upper + upper.mT
        return values if self.kind == "sparse" else values.unflatten(-1, self.sizes)

    # ---- computed once -----------------------------------------------------------------------------------------

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, computed at the first call with this key and kept with the graph."""
        if key not in self._cache:
            with lasting():
                self._cache[key] = make()
        return self._cache[key]

    @property
    def hash(self) -> str:
        """SHA-256 of kind, sizes and edges (labels do not enter): equal structure, equal hash, on any machine."""

        def make() -> str:
            digest = hashlib.sha256(f"{self.kind} {self.sizes}".encode())
            digest.update(np.ascontiguousarray(self.pairs.numpy().astype("<i8")).tobytes())
            return digest.hexdigest()

        return self.cached("hash", make)

    @property
    def csr(self) -> tuple[Tensor, Tensor, Tensor]:
        """Neighbours by spin, `(start [n+1], neighbour [2k], edge [2k])`: spin i's at `start[i]:start[i+1]`."""

        def make() -> tuple[Tensor, Tensor, Tensor]:
            ends = torch.cat([self.edges, self.edges.flip(0)], 1)
            edge = torch.arange(self.num_edges).repeat(2)
            order = (ends[0] * self.num_spins + ends[1]).argsort()
            start = torch.zeros(self.num_spins + 1, dtype=torch.int64)
            start[1:] = ends[0].bincount(minlength=self.num_spins).cumsum(0)
            return start, ends[1, order], edge[order]

        return self.cached("csr", make)

    @property
    def degree(self) -> Tensor:
        """The number of neighbours of each spin, `[n]`."""
        if self.kind == "sparse":
            return self.cached("degree", lambda: self.pairs.flatten().bincount(minlength=self.num_spins))
        other = self.sizes[::-1] if self.kind == "bipartite" else (self.sizes[0] - 1,)
        parts = [torch.full((n,), k, device="cpu") for n, k in zip(self.sizes, other, strict=True)]
        return torch.cat(parts)

    @property
    def colours(self) -> list[Tensor]:
        """Groups of mutually uncoupled spins: a sweep updates one group at a time, all its spins at once.

        Two for a bipartite graph, in the spins' own order: each connected part without an odd cycle is coloured by the
        parity of distances. Other parts are coloured greedily, largest degree first (Welsh and Powell, Comput. J. 10,
        1967); ties go by index.
        """

        def make() -> list[Tensor]:
            if self.kind == "bipartite":
                n, m = self.sizes
                sides = [torch.arange(n), n + torch.arange(m)]
                return [side for side in sides if len(side)]
            if self.kind == "complete":
                return [torch.tensor([i]) for i in range(self.num_spins)]
            side = self._sides()
            colour = side.tolist()
            start, neighbour, _ = (part.tolist() for part in self.csr)
            for i in (-self.degree).argsort(stable=True).tolist():
                if side[i] >= 0:
                    continue
                taken = {colour[j] for j in neighbour[start[i] : start[i + 1]]}
                colour[i] = next(c for c in range(len(taken) + 1) if c not in taken)
            every = torch.tensor(colour, dtype=torch.int64)
            return [(every == c).nonzero()[:, 0] for c in range(max(colour, default=-1) + 1)]

        return self.cached("colours", make)

    def _sides(self) -> np.ndarray:
        """The two colours of spins in parts without an odd cycle, 0 and 1; -1 elsewhere: `[n]`."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components, dijkstra

        n, (i, j) = self.num_spins, self.pairs.numpy()
        if not len(i):
            return np.zeros(n, dtype=np.int64)
        shape = (n + 1, n + 1)  # one more spin, coupled to the first of each part: then all distances are of one search
        count, part = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=shape), directed=False)
        first = np.full(count, n)
        np.minimum.at(first, part[:n], np.arange(n))
        first = first[first < n]
        ends = np.concatenate([i, first]), np.concatenate([j, np.full(len(first), n)])
        joined = coo_array((np.ones(len(ends[0])), ends), shape=shape)
        distance = dijkstra(joined, directed=False, indices=n, unweighted=True)[:n]
        side = (distance.astype(np.int64) + 1) % 2
        odd = np.zeros(count, dtype=bool)
        odd[part[i[side[i] == side[j]]]] = True
        return np.where(odd[part[:n]], -1, side)

    def index(self, labels: Iterable[Hashable]) -> Tensor:
        """Spin numbers of the given labels; an unknown or repeated label raises ValueError."""
        labels = list(labels)
        table = self.cached("index", lambda: {label: i for i, label in enumerate(self.labels)})
        found = [table.get(label) for label in labels]
        if None in found:
            example = list(self.labels[:3])
            raise ValueError(f"no spin is labelled {labels[found.index(None)]!r}; labels are like {example!r}")
        if len(set(found)) < len(found):
            raise ValueError(f"a label is given twice in {labels[:8]!r}")
        return torch.tensor(found, dtype=torch.int64, device="cpu")

    def without(self, index: Tensor) -> Clamping:
        """The graph that remains when the spins `index` are fixed; it keeps the kind, also with an empty side."""
        index = as_numbers("index", index)
        if index.dim() != 1 or index.numel() and (index.dtype == torch.bool or index.is_floating_point()):
            raise ValueError(f"expected spin numbers to clamp, [c]; got {index.dtype} {list(index.shape)}")
        known: dict[bytes, Clamping] = self.cached("clampings", dict)
        key = index.detach().to("cpu", torch.int64).numpy().tobytes()
        if key not in known:
            from qsample.problem.clamping import leave_out

            if len(known) == MAX_CLAMPINGS:  # ever new blocks, say, would fill the memory
                del known[next(iter(known))]
            with lasting():  # a copy: the cache keeps it, and the caller may write into theirs
                known[key] = leave_out(self, index.detach().to("cpu", torch.int64, copy=True))
        return known[key]


def check_graph(graph: object) -> None:
    """TypeError for what is no `Graph`, with the way to one."""
    if not isinstance(graph, Graph):
        raise wrong_kind("a qsample Graph", graph, WAYS_TO_GRAPH)


def _size(n: int) -> int:
    if not is_whole(n):
        ways = {**WAYS_TO_GRAPH, "float": "", "str": ""}
        raise wrong_kind("a number of spins", n, ways)
    if n < 0:
        raise ValueError(f"expected a number of spins >= 0; got {n}")
    return int(n)


def _no_edges() -> Tensor:
    with lasting():
        return torch.empty(2, 0, dtype=torch.int64)


def _labels(labels: Sequence[Hashable] | None, n: int) -> Sequence[Hashable]:
    if labels is None:
        return range(n)
    labels = tuple(labels)
    if len(labels) != n or len(set(labels)) != n:
        raise ValueError(f"expected {n} different labels; got {len(labels)}, {len(set(labels))} of them different")
    return labels
