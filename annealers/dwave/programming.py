"""What a call programs on the chip, and the way back from its reads to the problem.

The words of this folder, from the problem to the processor:

- a *chain* is the qubits that together hold one variable (`chip/chains.py`);
- an *embedding* is one chain for each variable, in each of several disjoint copies
  (`chip/embedding.py`);
- a *placement* is an embedding as index tensors, which lay fields and couplings on its qubits and
  read the variables back (`chip/placement.py`);
- a *programming* is the numbers that one job puts on the qubits and couplers of a placement.

A call has P problems, each in G gauges. That makes P G *groups* of reads, each with its own fields
and couplings. The copies of a placement are filled with groups: several share a programming where
the placement has room, and a group fills several copies where it has more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.dwave.chip.placement import Placement
from qsample.annealers.dwave.chip.ranges import Limits
from qsample.problem.ising import Ising

# ---- one programming ----------------


@dataclass(frozen=True, eq=False)
class Wiring:
    """The qubits and couplers of a placement: the client's keys, and a sparse product.

    Args:
        qubits: `[Q]`, the solver's numbers of the qubits in use.
        pairs: `[E, 2]`, the couplers in use as positions into `qubits`.
    """

    qubits: np.ndarray
    pairs: np.ndarray

    @cached_property
    def keys(self) -> tuple[list[int], list[tuple[int, int]]]:
        """The keys of the client's dictionaries of fields and of couplings."""
        ends = self.qubits[self.pairs].tolist()
        couplers = [(first, second) for first, second in ends]
        return self.qubits.tolist(), couplers

    @cached_property
    def _csr(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The coupling of each stored entry, with the indices and row starts of a CSR matrix."""
        from scipy.sparse import coo_array

        size = len(self.qubits)
        number = np.arange(len(self.pairs))
        first, second = self.pairs.T
        # numbers from 1, as a stored zero would be dropped
        entries = coo_array((number + 1, (first, second)), shape=(size, size)).tocsr()
        return entries.data - 1, entries.indices, entries.indptr

    def quadratic(self, spins: np.ndarray, J: np.ndarray) -> np.ndarray:
        """The sum of J_ij s_i s_j for each of the int8 spins `[R, Q]`, in double precision."""
        from scipy.sparse import csr_array

        order, indices, indptr = self._csr
        size = len(self.qubits)
        s = spins.T.astype(np.float64)
        pull = csr_array((J[order], indices, indptr), shape=(size, size)) @ s
        return (s * pull).sum(0)


@dataclass(frozen=True, eq=False)
class Programming:
    """The fields and couplings of one job, as they are sent.

    Args:
        wiring: the qubits and couplers that they lie on.
        h: fields `[Q]`, in the chip's units.
        J: couplings `[E]`, in the chip's units.
    """

    wiring: Wiring
    h: np.ndarray
    J: np.ndarray

    @property
    def qubits(self) -> np.ndarray:
        """The solver's numbers of the qubits in use, `[Q]`."""
        return self.wiring.qubits

    def energy(self, spins: np.ndarray) -> tuple[np.ndarray, float]:
        """The energy of each read `[R, Q]`, and a bound on it, which sets the rounding."""
        size = float(np.abs(self.h).sum() + np.abs(self.J).sum())
        return spins @ self.h + self.wiring.quadratic(spins, self.J), size


# ---- where a graph lies ----------------


@dataclass(frozen=True, eq=False)
class Site:
    """A graph's placement on one solver, with what follows from the two.

    Args:
        placement: chains for each variable in each copy.
        wiring: the placement's qubits and couplers.
        limits: the solver's ranges on them.
        variable: `[Q]`, the variable that each qubit holds.
    """

    placement: Placement
    wiring: Wiring
    limits: Limits
    variable: np.ndarray

    @staticmethod
    def of(placement: Placement, properties: Mapping[str, Any]) -> Site:
        """The site of a placement on a solver of these properties."""
        qubits = np.asarray(placement.qubits, dtype=np.int64)
        pairs = np.asarray(placement.edges).reshape(-1, 2)
        chains = [chain for copy in placement.chains for chain in copy]
        number = np.arange(len(chains)) % placement.graph.num_spins
        return Site(
            placement,
            Wiring(qubits, pairs),
            Limits.of(placement.edges, properties, placement.qubits),
            number.repeat([len(chain) for chain in chains]),
        )

    def logical(self, reads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Spins `[copies, R, n]` of reads `[R, Q]`, and which of their chains were broken.

        A chain of several qubits is read as the spin of their majority.
        """
        if self.placement.native:
            spins = reads.reshape(len(reads), self.placement.copies, -1).swapaxes(0, 1)
            return spins, np.zeros(spins.shape, dtype=bool)
        majority, broken = self.placement.logical(torch.from_numpy(reads))
        return majority.numpy().swapaxes(0, 1), broken.numpy().swapaxes(0, 1)


# ---- a call's programmings ----------------


@dataclass(frozen=True, eq=False)
class Group:
    """Reads that share a problem, a gauge and, in reverse annealing, the state they begin at.

    Args:
        problem: place of the problem in the flat batch.
        gauge: place of the gauge in the flattened `[P * G, n]`.
        rows: places of these reads among the problem's `num`.
        state: spins `[n]` where the anneals begin; None anneals forward.
    """

    problem: int
    gauge: int
    rows: np.ndarray
    state: np.ndarray | None = None


class Programmings:
    r"""The programmings of a call at scale 1, and the way back from their reads.

    A gauge (spin-reversal transform) g in {-1, +1}^n programs $h_i g_i$ and $J_{ij} g_i g_j$; its
    reads times g are reads of the problem, and errors of the chip that favour one direction average
    out over gauges.

    Args:
        problem: a flat batch of P problems, h `[P, n]`, on the CPU.
        gauge: signs `[P, G, n]`, -1 and +1.
        num: number of reads of each problem.
        site: where the problems' graph lies.
        chain_strength: coupling within chains in the problems' units; None compensates the torque
            of each problem.
        states: spins `[P, num, n]` where reverse anneals begin; None anneals forward.

    Attributes:
        h: fields `[K, Q]` of the K programmings at scale 1, in double precision.
        J: couplings `[K, E]`.
        largest_scale: the largest factor that every range of the solver allows all of them.
    """

    def __init__(
        self,
        problem: Ising,
        gauge: np.ndarray,
        num: int,
        site: Site,
        chain_strength: float | None,
        states: np.ndarray | None,
    ) -> None:
        problems, gauges, n = gauge.shape
        self.site = site
        self.num = num
        self.problems = problems
        self.gauge = gauge.reshape(problems * gauges, n)
        self.reverse = states is not None
        if states is None:
            self.groups = _forward_groups(problems, gauges, num)
        else:
            self.groups = _reverse_groups(states, gauges)
        self._problem = np.array([group.problem for group in self.groups])
        self._gauge = np.array([group.gauge for group in self.groups])
        self._fill(site.placement.copies)
        self._lay(problem, chain_strength)
        self.largest_scale = site.limits.largest_factor(self.h, self.J)

    def _fill(self, copies: int) -> None:
        """Choose the group `[K, copies]` of each copy of each programming, and its reads `[K]`."""
        number = len(self.groups)
        if self.reverse:
            # a state belongs to a whole job, so each group has a programming of its own
            self.tiles = np.arange(number)[:, None].repeat(copies, 1)
            self.reads = [-(-len(group.rows) // copies) for group in self.groups]
            return
        # groups fill the copies of programming after programming; few of them are laid repeatedly
        programmings = -(-number // copies)
        self.tiles = (np.arange(programmings * copies) % number).reshape(programmings, copies)
        largest = max(len(group.rows) for group in self.groups)
        self.reads = [-(-largest // max(1, copies // number))] * programmings

    def _lay(self, problem: Ising, chain_strength: float | None) -> None:
        """Fields and couplings on the qubits, for all programmings."""
        placement = self.site.placement
        tiled = placement.copies > 1 and not self.reverse
        if tiled:
            distinct = min(len(self.groups), placement.copies)
            parts = list(self.tiles[:, :distinct])
        else:
            parts = [np.arange(len(self.groups))]  # every copy holds the same group
        problem = problem.to(dtype=torch.float64)
        fields = []
        couplings = []
        for numbers in parts:
            gauged = self._gauged(problem, numbers)
            if tiled:
                h, J = placement.physical_tiled(gauged, chain_strength)
                fields.append(h[None])
                couplings.append(J[None])
            else:
                h, J = placement.physical(gauged, chain_strength)
                fields.append(h)
                couplings.append(J)
        self.h = torch.cat(fields)
        self.J = torch.cat(couplings)

    def _gauged(self, problem: Ising, numbers: np.ndarray) -> Ising:
        """The problems of some groups, by their numbers, in the groups' gauges."""
        graph = problem.graph
        first, second = graph.edges
        problems = torch.from_numpy(self._problem[numbers])
        g = torch.from_numpy(self.gauge[self._gauge[numbers]]).double()
        J = graph.edge_values(problem.J)
        if len(J) > 1:  # one that all share broadcasts
            J = J[problems]
        couplings = J * (g[:, first] * g[:, second])
        return Ising(graph, problem.h[problems] * g, graph.couplings(couplings))

    def at(self, scale: float) -> list[Programming]:
        """The K programmings at a scale: all fields and couplings times it."""
        fields = (scale * self.h).numpy()
        couplings = (scale * self.J).numpy()
        pairs = zip(fields, couplings, strict=True)
        return [Programming(self.site.wiring, h, J) for h, J in pairs]

    @cached_property
    def params(self) -> list[dict[str, Any]]:
        """What each programming asks for beside its problem: reads, and a state to begin at."""
        params = []
        for numbers, reads in zip(self.tiles, self.reads, strict=True):
            asked: dict[str, Any] = {"num_reads": reads}
            group = self.groups[numbers[0]]
            if group.state is not None:
                start = (group.state * self.gauge[group.gauge])[self.site.variable]
                qubits = self.site.wiring.qubits.tolist()
                asked["initial_state"] = dict(zip(qubits, start.tolist(), strict=True))
            params.append(asked)
        return params

    # ---- back ----------------

    def first(self, reads: np.ndarray) -> tuple[Tensor, Tensor]:
        """The reads `[copies, R, n]` in the first programming's `[R, Q]`, out of their gauges.

        With the problem `[copies]` that each copy holds.
        """
        numbers = self.tiles[0]
        gauge = self.gauge[self._gauge[numbers]]
        spins = self.site.logical(reads)[0] * gauge[:, None]
        return torch.from_numpy(spins), torch.from_numpy(self._problem[numbers])

    def gather(self, answers: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Reads `[P, num, n]` from each programming's `[R, Q]`, and which chains were broken."""
        # the reads of each group, from all its copies in order
        spins_of: list[list[np.ndarray]] = [[] for _ in self.groups]
        broken_of: list[list[np.ndarray]] = [[] for _ in self.groups]
        for numbers, reads in zip(self.tiles, answers, strict=True):
            spins, broken = self.site.logical(reads)
            for copy, number in enumerate(numbers):
                spins_of[number].append(spins[copy])
                broken_of[number].append(broken[copy])
        # as many as the group asks for, out of its gauge, to their places among the problem's
        shape = (self.problems, self.num, self.gauge.shape[-1])
        gathered = np.zeros(shape, np.int8)
        torn = np.zeros(shape, bool)
        for group, spins, broken in zip(self.groups, spins_of, broken_of, strict=True):
            count = len(group.rows)
            spins = np.concatenate(spins)[:count] * self.gauge[group.gauge]
            gathered[group.problem, group.rows] = spins
            torn[group.problem, group.rows] = np.concatenate(broken)[:count]
        return torch.from_numpy(gathered), torch.from_numpy(torn)


def _forward_groups(problems: int, gauges: int, num: int) -> list[Group]:
    """A group for each problem and gauge: the gauges share the problem's reads evenly."""
    share = -(-num // gauges)
    rows = [np.arange(g * share, min((g + 1) * share, num)) for g in range(gauges)]
    return [Group(k, k * gauges + g, rows[g]) for k in range(problems) for g in range(gauges)]


def _reverse_groups(states: np.ndarray, gauges: int) -> list[Group]:
    """A group for each problem and distinct state, in the problem's first gauge."""
    groups = []
    for k, starts in enumerate(states):
        distinct, which = np.unique(starts, axis=0, return_inverse=True)
        for number, state in enumerate(distinct):
            rows = np.flatnonzero(which.reshape(-1) == number)
            groups.append(Group(k, k * gauges, rows, state))
    return groups
