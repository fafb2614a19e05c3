"""A problem laid on the qubits of an embedding, and read back, by index tensors made once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int8
from torch import Tensor

from qsample.annealers.dwave.chip.chip import Chip
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising

Embedding = tuple[tuple[tuple[int, ...], ...], ...]  # by copy and variable: the qubits of a chain


@dataclass(frozen=True, eq=False)
class Placement:
    r"""Copies of a graph on disjoint qubits of a chip, each variable a chain of coupled qubits.

    With C_i the chain of variable i and K_ij the couplers between the chains of i and j, the
    physical problem is

    $$h_q = \frac{h_i}{|C_i|}\ (q \in C_i), \qquad
      J_{qr} = \frac{J_{ij}}{|K_{ij}|}\ (qr \in K_{ij}), \qquad
      J_{qr} = -\text{chain strength}\ (q, r \in C_i),$$

    so that where no chain is broken its energy is that of the logical problem but for a constant.

    Attributes:
        graph: the logical graph.
        chains: the embedding, qubits by copy and variable.
        qubits: the Q qubits in use, chain after chain, copy after copy.
        edges: `[E, 2]`, the couplers in use as positions into `qubits`: those between chains, then
            those within.
        copies: number of times that the graph is laid out.
    """

    graph: Graph
    chains: Embedding
    qubits: list[int]
    edges: Tensor
    copies: int
    _variable: Tensor  # [Q] logical variable of each qubit
    _copy: Tensor  # [Q]
    _part: Tensor  # [Q] 1 / |C_i|
    _edge: Tensor  # [E'] logical coupling of each coupler between chains
    _edge_copy: Tensor  # [E']
    _edge_part: Tensor  # [E'] 1 / |K_ij|
    _chain_copy: Tensor  # [E - E'] copy of each coupler within a chain
    _start: Tensor  # [copies * n] first position of each chain
    _length: Tensor  # [copies * n]

    @staticmethod
    def of(graph: Graph, chip: Chip, chains: Embedding) -> Placement:
        """The placement of these chains, with all their couplers in use.

        Args:
            graph: the logical graph.
            chip: where its chains lie.
            chains: the embedding, qubits by copy and variable.

        Raises:
            ValueError: the chains do not embed the graph.
        """
        n = graph.num_spins
        copies = len(chains)
        # one chain of at least one qubit for each variable, no qubit in two of them
        flat = [chain for copy in chains for chain in copy]
        length = np.array([len(chain) for chain in flat], dtype=np.int64)
        if not copies or any(len(copy) != n for copy in chains) or not length.all():
            raise ValueError(
                f"expected a chain of one or more qubits for each of {n} variables in every copy"
            )
        qubits = np.fromiter((q for chain in flat for q in chain), np.int64, int(length.sum()))
        if not np.isin(qubits, chip.nodes).all() or len(np.unique(qubits)) < len(qubits):
            raise ValueError(f"the chains use a qubit twice, or one that {chip.name} does not have")
        # couplers within chains, which hold each in one piece, and between them
        chain = np.repeat(np.arange(len(flat)), length)  # of each position
        position = np.full(chip.span, -1)
        position[qubits] = np.arange(len(qubits))
        ends = position[chip.edges]
        ends = ends[(ends >= 0).all(1)]
        inside = chain[ends[:, 0]] == chain[ends[:, 1]]
        _connected(chain, ends[inside], len(flat))
        between, edge, copy = _couplers(graph, chain, ends[~inside])
        # each coupling of each copy is served by at least one coupler
        slot = copy * graph.num_edges + edge
        count = np.bincount(slot, minlength=copies * graph.num_edges)
        if not count.all():
            i, j = graph.edges[:, int(count.argmin()) % graph.num_edges].tolist()
            pair = graph.labels[i], graph.labels[j]
            raise ValueError(
                f"no coupler of {chip.name} joins the chains of {pair[0]!r} and {pair[1]!r}"
            )
        tensor = torch.from_numpy
        return Placement(
            graph=graph,
            chains=chains,
            qubits=qubits.tolist(),
            edges=tensor(np.concatenate([between, ends[inside]])),
            copies=copies,
            _variable=tensor(chain % n),
            _copy=tensor(chain // n),
            _part=tensor(1 / length[chain]),
            _edge=tensor(edge),
            _edge_copy=tensor(copy),
            _edge_part=tensor(1 / count[slot]),
            _chain_copy=tensor(chain[ends[inside][:, 0]] // n),
            _start=tensor(length.cumsum() - length),
            _length=tensor(length),
        )

    def __repr__(self) -> str:
        size = f"{self.graph.num_spins} spins x {self.copies} on {len(self.qubits)} qubits"
        return f"Placement({size}, longest chain {self.longest_chain})"

    @property
    def native(self) -> bool:
        """Whether every variable is a single qubit."""
        return self.longest_chain == 1

    @property
    def longest_chain(self) -> int:
        """Qubits of the longest chain."""
        return max(len(chain) for chain in self.chains[0])

    def physical(
        self, problem: Ising, chain_strength: Tensor | float | int | None = None
    ) -> tuple[Float[Tensor, "*batch qubits"], Float[Tensor, "*batch edges"]]:
        """Fields `[*B, Q]` and couplings `[*B, E]` on the chip, every copy the same problem.

        Args:
            problem: problems `*B` on this placement's graph.
            chain_strength: a float or `[*B]`, in the problem's units. Default:
                `uniform_torque_compensation` of each problem.
        """
        values, strength = self._checked(problem, chain_strength)
        variable = self._variable.to(problem.device)
        edge = self._edge.to(problem.device)
        batch = problem.batch_shape
        h = problem.h[..., variable] * self._part.to(problem.h)
        J = values[..., edge] * self._edge_part.to(problem.h)
        within = -strength[..., None].expand(*batch, len(self._chain_copy))
        if within.shape[-1]:
            J = torch.cat([J.expand(*batch, -1), within], -1)
        return h.expand(*batch, -1), J.expand(*batch, -1)

    def physical_tiled(
        self, problem: Ising, chain_strength: Tensor | float | int | None = None
    ) -> tuple[Float[Tensor, " qubits"], Float[Tensor, " edges"]]:
        """A batch `[B]` of problems side by side, `[Q]` and `[E]`: copy k holds problem k modulo B.

        With `spins, broken = logical(reads)`, the reads of problem b are `spins[:, b::B]`.

        Args:
            problem: a batch of at most `copies` problems on this placement's graph.
            chain_strength: a float or `[B]`, in the problem's units. Default:
                `uniform_torque_compensation` of each problem.
        """
        if len(problem.batch_shape) != 1 or not 1 <= problem.batch_shape[0] <= self.copies:
            batch = list(problem.batch_shape)
            raise ValueError(
                f"expected a batch of 1 to {self.copies} problems, one per copy; got batch {batch}"
            )
        values, strength = self._checked(problem, chain_strength)
        (size,) = problem.batch_shape
        device = problem.device
        h = problem.h.expand(size, -1)
        values = values.expand(size, -1)
        # the problem of each qubit, of each coupler between chains and of each within one
        qubit_problem = self._copy.to(device) % size
        edge_problem = self._edge_copy.to(device) % size
        chain_problem = self._chain_copy.to(device) % size
        h = h[qubit_problem, self._variable.to(device)] * self._part.to(problem.h)
        J = values[edge_problem, self._edge.to(device)] * self._edge_part.to(problem.h)
        return h, torch.cat([J, -strength.expand(size)[chain_problem]])

    def logical(
        self, spins: Int[Tensor, "*batch reads qubits"], generator: torch.Generator | None = None
    ) -> tuple[Int8[Tensor, "*batch reads copies n"], Bool[Tensor, "*batch reads copies n"]]:
        """The majority of each chain, and whether the chain is broken (its qubits differ).

        Args:
            spins: reads `[*B, R, Q]` in the order of `qubits`, -1 and +1.
            generator: source of the spins of chains that are split evenly. Default: those take the
                spin of their first qubit.
        """
        if spins.shape[-1] != len(self.qubits):
            raise ValueError(
                f"expected spins of shape [*, R, {len(self.qubits)}]; got {list(spins.shape)}"
            )
        spins = spins.to(torch.int8)
        grid = (self.copies, self.graph.num_spins)
        if self.native:
            whole = spins.unflatten(-1, grid)
            return whole.clone(), torch.zeros_like(whole, dtype=torch.bool)
        start = self._start.to(spins.device)
        length = self._length.to(spins.device)
        # the sum of each chain, as a difference of running sums
        first = spins[..., start]
        total = spins.cumsum(-1, dtype=torch.int32)
        votes = total[..., start + length - 1] - total[..., start] + first
        if generator is not None:
            drawn = torch.randint(
                0, 2, first.shape, generator=generator, device=generator.device, dtype=torch.int8
            )
            first = 2 * drawn.to(spins.device) - 1
        majority = torch.where(votes == 0, first, votes.sign().to(torch.int8))
        return majority.unflatten(-1, grid), (votes.abs() != length).unflatten(-1, grid)

    def _checked(
        self, problem: Ising, chain_strength: Tensor | float | int | None
    ) -> tuple[Tensor, Tensor]:
        """A coupling per edge, and a strength that broadcasts with the batch."""
        if problem.graph is not self.graph and problem.graph.hash != self.graph.hash:
            graph = problem.graph
            raise ValueError(
                f"this placement holds another graph than the problem's ({graph.kind} graph of "
                f"{graph.num_spins} spins and {graph.num_edges} couplings): call place(graph, chip)"
            )
        if chain_strength is None:
            strength = uniform_torque_compensation(problem)
        else:
            strength = torch.as_tensor(chain_strength).to(problem.h)
        if not (strength > 0).all():
            raise ValueError(f"expected chain_strength > 0; got {float(strength.min()):g}")
        return self.graph.edge_values(problem.J), strength


def uniform_torque_compensation(
    problem: Ising, prefactor: float = 1.414
) -> Float[Tensor, "*batch"]:
    r"""A chain strength for each problem, with k couplings on n spins.

    $$c\,\sqrt{2k/n}\,\sqrt{\sum_{ij} J_{ij}^2 / k}$$

    Root mean degree times root mean square coupling: what the two halves of a chain feel from
    random neighbours (`dwave.embedding.chain_strength` in D-Wave's Ocean, with the same prefactor
    c). Where all couplings are zero: 1.
    """
    values = problem.graph.edge_values(problem.J)
    strength = prefactor * (2 * values.square().sum(-1) / problem.num_spins).sqrt()
    return torch.where(strength > 0, strength, 1.0)


def _connected(chain: np.ndarray, ends: np.ndarray, number: int) -> None:
    """ValueError unless the couplers `ends` within chains join each chain into one piece.

    Args:
        chain: the chain of each position in the qubits.
        ends: `[k, 2]`, positions that couplers within chains join.
        number: number of chains.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = len(chain)
    joined = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    pieces, piece = connected_components(joined, directed=False)
    if pieces != number:
        first = np.unique(piece, return_index=True)[1]
        parts = np.bincount(chain[first], minlength=number)
        raise ValueError(
            f"chain {int(parts.argmax())} falls into {int(parts.max())} pieces: its qubits are "
            "not coupled"
        )


def _couplers(
    graph: Graph, chain: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The couplers `[E', 2]` that serve the graph's edges, with the edge and copy of each `[E']`.

    In the order of the edges, copy after copy.

    Args:
        graph: the logical graph.
        chain: the chain of each position in the qubits.
        ends: `[k, 2]`, positions that couplers between chains join.
    """
    n = graph.num_spins
    pairs = graph.edges.numpy()
    copy, variable = np.divmod(chain[ends], n)
    # the edge of each coupler's two variables, by binary search among the sorted edges
    edges = pairs[0] * n + pairs[1]
    coupled = variable.min(1) * n + variable.max(1)
    if len(edges):
        order = np.argsort(edges)
        edge = order[np.searchsorted(edges[order], coupled).clip(max=len(edges) - 1)]
        serves = (edges[edge] == coupled) & (copy[:, 0] == copy[:, 1])
    else:
        edge = np.zeros(len(ends), dtype=np.int64)
        serves = np.zeros(len(ends), dtype=bool)
    # those that serve one, in order
    ends = ends[serves]
    edge = edge[serves]
    copy = copy[serves, 0]
    order = np.lexsort([ends[:, 1], ends[:, 0], edge, copy])
    return ends[order], edge[order], copy[order]
