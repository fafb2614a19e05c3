"""The structure of an Ising problem, without its numbers: who is coupled to whom.

A `Graph` knows the layout of a coupling tensor J and everything that depends on structure alone
(hash, CSR, colouring, the graph that a clamp leaves). All of it is computed once and cached on the
graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from qsample.support.checks import WAYS_TO_GRAPH, as_numbers, is_whole, wrong_kind
from qsample.support.faces import public

if TYPE_CHECKING:
    import networkx

Kind = Literal["sparse", "bipartite", "complete"]
T = TypeVar("T")
MAX_CLAMPINGS = 256  # kept on a graph, the oldest given up first


@contextmanager
def lasting() -> Iterator[None]:
    """A place to make tensors that outlive the call: on the CPU, and fit for training.

    Whatever the caller's mode is: a tensor of `torch.inference_mode` can never be saved for a
    backward pass, and one of the meta device holds nothing.
    """
    with torch.inference_mode(False), torch.no_grad(), torch.device("cpu"):
        yield


@public("qsample")
@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph of one of three kinds, each with its own layout of J.

    | kind | made by | J |
    |---|---|---|
    | sparse | `Graph.sparse(n, edges)` | `[*B, k]`, one number per edge, in the caller's order |
    | bipartite | `Graph.bipartite(n, m)` | `[*B, n, m]`; left spins are 0..n-1, right n..n+m-1 |
    | complete | `Graph.complete(n)` | `[*B, n, n]`, symmetric with a zero diagonal |

    `labels` are the caller's names of the spins (any hashables; default `range(num_spins)`); J and
    h go by index.
    """

    kind: Kind
    sizes: tuple[int, ...]
    # [2, k] int64 on the CPU, i < j: the edges of a sparse graph (empty for the other kinds)
    pairs: Tensor
    labels: Sequence[Hashable]
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def sparse(
        n: int,
        edges: Iterable[Sequence[int]] | Tensor | np.ndarray,
        labels: Sequence[Hashable] | None = None,
    ) -> Graph:
        """A graph of n spins and the given edges.

        Args:
            n: Number of spins.
            edges: Pairs of spin numbers, `[k, 2]`, in any order: J follows it.
            labels: Names of the spins, any hashables; `range(n)` by default.

        Raises:
            ValueError: A self-loop, an edge given twice, an end outside 0..n-1, labels that are not
                n different ones.
            TypeError: `edges` are no pairs: a graph of another library, a dictionary.
        """
        if hasattr(edges, "nodes") or isinstance(edges, Mapping) or not isinstance(edges, Iterable):
            raise wrong_kind("edges as pairs of spin numbers, [k, 2]", edges, WAYS_TO_GRAPH)
        with lasting():
            size = _size(n)
            names = range(size) if labels is None else labels
            pairs = _pairs(edges, size, names)
            return Graph("sparse", (size,), pairs, _labels(labels, size))

    @staticmethod
    def bipartite(n: int, m: int, labels: Sequence[Hashable] | None = None) -> Graph:
        """Every left spin coupled to every right spin: an RBM's graph.

        Args:
            n: Number of left spins.
            m: Number of right spins.
            labels: Names of the spins, left ones first; `range(n + m)` by default.
        """
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

    # ---- sizes and layout ----------------

    @property
    def num_spins(self) -> int:
        """Spins, n."""
        return sum(self.sizes)

    @property
    def num_edges(self) -> int:
        """Couplings: pairs counted once."""
        if self.kind == "sparse":
            return self.pairs.shape[1]
        if self.kind == "bipartite":
            return self.sizes[0] * self.sizes[1]
        return self.sizes[0] * (self.sizes[0] - 1) // 2

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
                left = torch.arange(n).repeat_interleave(m)
                right = n + torch.arange(m).repeat(n)
                return torch.stack([left, right])
            return torch.triu_indices(*self.sizes * 2, offset=1)

        return self.pairs if self.kind == "sparse" else self.cached("edges", make)

    def edge_values(self, J: Tensor) -> Tensor:
        """J in this graph's layout as one number per edge, `[*B, k]`, in the order of `edges`."""
        if self.kind == "complete":
            i, j = self.edges.to(J.device)
            return J[..., i, j]
        return J if self.kind == "sparse" else J.flatten(-2)

    def couplings(self, values: Tensor) -> Tensor:
        """J in this graph's layout, of one number per edge `[*B, k]`: `edge_values` undone.

        Differentiable.
        """
        if self.kind == "complete":
            i, j = self.edges.to(values.device)
            upper = values.new_zeros(*values.shape[:-1], *self.coupling_shape)
            upper[..., i, j] = values
            return upper + upper.mT
        return values if self.kind == "sparse" else values.unflatten(-1, self.sizes)

    # ---- computed once ----------------

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, computed at the first call with this key and kept with the graph."""
        if key not in self._cache:
            with lasting():
                self._cache[key] = make()
        return self._cache[key]

    @property
    def hash(self) -> str:
        """SHA-256 of kind, sizes and edges: equal structure, equal hash, on any machine.

        Labels do not enter.
        """

        def make() -> str:
            digest = hashlib.sha256(f"{self.kind} {self.sizes}".encode())
            digest.update(np.ascontiguousarray(self.pairs.numpy().astype("<i8")).tobytes())
            return digest.hexdigest()

        return self.cached("hash", make)

    @property
    def csr(self) -> tuple[Tensor, Tensor, Tensor]:
        """Neighbours by spin: `start` `[n+1]`, `neighbour` `[2k]` and `edge` `[2k]`.

        Those of spin i stand at `start[i]:start[i+1]`.
        """

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
        n = self.num_spins
        if self.kind == "sparse":
            return self.cached("degree", lambda: self.pairs.flatten().bincount(minlength=n))
        if self.kind == "complete":
            return torch.full((n,), n - 1, device="cpu")
        left, right = self.sizes
        of_left = torch.full((left,), right, device="cpu")
        of_right = torch.full((right,), left, device="cpu")
        return torch.cat([of_left, of_right])

    @property
    def colours(self) -> list[Tensor]:
        """Groups of mutually uncoupled spins: a sweep updates all spins of a group at once.

        Two for a bipartite graph, in the spins' own order: each connected part without an odd cycle
        is coloured by the parity of distances. Other parts are coloured greedily, largest degree
        first (Welsh and Powell, Comput. J. 10, 1967); ties go by index.
        """

        def make() -> list[Tensor]:
            if self.kind == "complete":
                return [torch.tensor([i]) for i in range(self.num_spins)]
            if self.kind == "bipartite":
                n, m = self.sizes
                sides = [torch.arange(n), n + torch.arange(m)]
                return [side for side in sides if len(side)]
            colour = torch.tensor(self._colour_numbers(), dtype=torch.int64)
            count = int(colour.max()) + 1 if len(colour) else 0
            return [(colour == c).nonzero()[:, 0] for c in range(count)]

        return self.cached("colours", make)

    def _colour_numbers(self) -> list[int]:
        """The colour of each spin of a sparse graph."""
        side = self._sides()
        colour = side.tolist()
        start = self.csr[0].tolist()
        neighbour = self.csr[1].tolist()
        for i in (-self.degree).argsort(stable=True).tolist():
            if side[i] >= 0:
                continue
            taken = {colour[j] for j in neighbour[start[i] : start[i + 1]]}
            colour[i] = next(c for c in range(len(taken) + 1) if c not in taken)
        return colour

    def _sides(self) -> np.ndarray:
        """The two colours of spins in parts without an odd cycle, 0 and 1; -1 elsewhere: `[n]`."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components, dijkstra

        n = self.num_spins
        (i, j) = self.pairs.numpy()
        if not len(i):
            return np.zeros(n, dtype=np.int64)
        # one more spin, coupled to the first of each part: then one search has all distances
        shape = (n + 1, n + 1)
        couplings = coo_array((np.ones(len(i)), (i, j)), shape=shape)
        count, part = connected_components(couplings, directed=False)
        first = np.full(count, n)
        np.minimum.at(first, part[:n], np.arange(n))
        first = first[first < n]
        start = np.concatenate([i, first])
        end = np.concatenate([j, np.full(len(first), n)])
        joined = coo_array((np.ones(len(start)), (start, end)), shape=shape)
        distance = dijkstra(joined, directed=False, indices=n, unweighted=True)[:n]
        side = (distance.astype(np.int64) + 1) % 2
        # an edge between two spins of one parity closes an odd cycle in its part
        odd = np.zeros(count, dtype=bool)
        odd[part[i[side[i] == side[j]]]] = True
        return np.where(odd[part[:n]], -1, side)

    # ---- by name, and in part ----------------

    def index(self, labels: Iterable[Hashable]) -> Tensor:
        """Spin numbers of the given labels, `[c]`.

        Raises:
            ValueError: A label that no spin has, or one given twice.
        """
        labels = list(labels)
        table = self.cached("index", lambda: {label: i for i, label in enumerate(self.labels)})
        numbers = [table.get(label) for label in labels]
        if None in numbers:
            unknown = labels[numbers.index(None)]
            example = list(self.labels[:3])
            raise ValueError(f"no spin is labelled {unknown!r}; labels are like {example!r}")
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"a label is given twice in {labels[:8]!r}")
        return torch.tensor(numbers, dtype=torch.int64, device="cpu")

    def without(self, index: Tensor) -> Clamping:
        """The graph that remains when the spins `index` `[c]` are fixed.

        It keeps the kind, also with an empty side, and is made once for each `index`.

        Raises:
            ValueError: `index` holds no spin numbers, or one of them twice.
        """
        index = as_numbers("index", index)
        no_numbers = index.dtype == torch.bool or index.is_floating_point()
        if index.dim() != 1 or (index.numel() and no_numbers):
            raise ValueError(
                f"expected spin numbers to clamp, [c]; got {index.dtype} {list(index.shape)}"
            )
        known: dict[bytes, Clamping] = self.cached("clampings", dict)
        key = index.detach().to("cpu", torch.int64).numpy().tobytes()
        if key not in known:
            if len(known) == MAX_CLAMPINGS:  # ever new blocks, say, would fill the memory
                del known[next(iter(known))]
            with lasting():  # a copy: the cache keeps it, and the caller may write into theirs
                known[key] = _leave_out(self, index.detach().to("cpu", torch.int64, copy=True))
        return known[key]


@public("qsample")
class Clamping(NamedTuple):
    """What is left of a graph when some spins are fixed: numbers of its spins and edges.

    Attributes:
        graph: The graph of the spins that stay.
        free: Spins that stay, ascending, `[n']`.
        clamped: Spins that are fixed, in the caller's order, `[c]`.
        kept: Edges between two free spins, of a sparse graph.
        cut: Of each edge of a sparse graph between a free and a fixed spin: the edge, the place of
            its free end in `free`, the place of its fixed end in `clamped`; `[3, c']`.
        inside: Of each edge of a sparse graph between two fixed spins: the edge, and the places of
            its ends in `clamped`; `[3, c'']`.
    """

    graph: Graph
    free: Tensor
    clamped: Tensor
    kept: Tensor
    cut: Tensor
    inside: Tensor


def _leave_out(graph: Graph, index: Tensor) -> Clamping:
    """What remains of a graph when the spins `index` (a CPU tensor) are fixed."""
    n = graph.num_spins
    if index.numel() and (index.min() < 0 or index.max() >= n):
        listed = index.tolist()[:8]
        raise ValueError(f"expected a list of spins in 0..{n - 1} to clamp; got {listed}")
    if len(index.unique()) < len(index):
        raise ValueError(f"a spin is clamped twice in {index.tolist()[:8]}")

    # the place of each spin among the free ones, or among the clamped ones
    is_free = torch.ones(n, dtype=torch.bool)
    is_free[index] = False
    free = is_free.nonzero()[:, 0]
    place = torch.empty(n, dtype=torch.int64)
    place[free] = torch.arange(len(free))
    place[index] = torch.arange(len(index))
    labels = [graph.labels[i] for i in free.tolist()]

    # a bipartite or complete graph has no list of edges
    none = torch.empty(3, 0, dtype=torch.int64)
    if graph.kind == "bipartite":
        left = int(is_free[: graph.sizes[0]].sum())
        rest = Graph.bipartite(left, len(free) - left, labels)
        return Clamping(rest, free, index, none[0], none, none)
    if graph.kind == "complete":
        rest = Graph.complete(len(free), labels)
        return Clamping(rest, free, index, none[0], none, none)

    # edges with two, one and no free ends
    ends_free = is_free[graph.pairs]
    kept = ends_free.all(0).nonzero()[:, 0]
    crossing = (ends_free[0] != ends_free[1]).nonzero()[:, 0]
    fixed = (~ends_free.any(0)).nonzero()[:, 0]
    rest = Graph.sparse(len(free), place[graph.pairs[:, kept]].T, labels)
    first, second = graph.pairs[:, crossing]
    first_is_free = ends_free[0, crossing]
    free_end = torch.where(first_is_free, first, second)
    fixed_end = torch.where(first_is_free, second, first)
    cut = torch.stack([crossing, place[free_end], place[fixed_end]])
    inside = torch.stack([fixed, *place[graph.pairs[:, fixed]]])
    return Clamping(rest, free, index, kept, cut, inside)


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


def _pairs(
    edges: Iterable[Sequence[int]] | Tensor | np.ndarray, n: int, names: Sequence[Hashable]
) -> Tensor:
    """Edges as `[2, k]`, i < j, in their order, each checked."""
    if isinstance(edges, Tensor):
        edges = edges.cpu().numpy()
    raw = edges if isinstance(edges, np.ndarray) else np.array(list(edges))
    if raw.size == 0:
        raw = raw.reshape(-1, 2)
    no_integers = raw.size and raw.dtype.kind not in "iu"
    if raw.ndim != 2 or raw.shape[1] != 2 or no_integers:
        raise ValueError(
            f"expected edges as pairs of spin numbers, [k, 2]; got {raw.dtype} {list(raw.shape)}"
        )
    array = torch.from_numpy(raw.astype(np.int64))
    pairs = array.T.sort(0).values.contiguous()
    if not pairs.numel():
        return pairs
    first, second = pairs

    outside = ((first < 0) | (second >= n)).nonzero()
    if len(outside):
        edge = tuple(array[outside[0, 0]].tolist())
        raise ValueError(f"edge {edge} leaves the graph: expected spins 0..{n - 1}")

    loops = (first == second).nonzero()
    if len(loops):
        name = names[int(first[loops[0, 0]])]
        raise ValueError(f"self-loop {(name, name)}: a spin cannot couple to itself")

    code, count = (first * n + second).unique(return_counts=True)
    repeated = count > 1
    if repeated.any():
        twice = int(code[repeated][0])
        edge = (names[twice // n], names[twice % n])
        raise ValueError(f"edge {edge} is given {int(count[repeated][0])} times: expected once")
    return pairs


def _no_edges() -> Tensor:
    with lasting():
        return torch.empty(2, 0, dtype=torch.int64)


def _labels(labels: Sequence[Hashable] | None, n: int) -> Sequence[Hashable]:
    if labels is None:
        return range(n)
    labels = tuple(labels)
    different = len(set(labels))
    if len(labels) != n or different != n:
        raise ValueError(
            f"expected {n} different labels; got {len(labels)}, {different} of them different"
        )
    return labels
