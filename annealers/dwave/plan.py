"""What a call programs: problems in gauges on the chip, and their reads brought back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.dwave.chip.placement import Placement
from qsample.annealers.dwave.chip.ranges import Limits
from qsample.annealers.dwave.layout import Layout
from qsample.annealers.dwave.programming import Programming, Wiring
from qsample.problem.ising import Ising


@dataclass(frozen=True, eq=False)
class Site:
    """A graph's place on the chip, with what follows from it."""

    placement: Placement
    wiring: Wiring
    limits: Limits
    variable: np.ndarray  # [Q] the spin that each qubit holds

    native: bool  # every spin is a single qubit

    def logical(self, spins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each spin `[copies, R, n]` of reads `[R, Q]`, by the majority of its chain; whether that was broken."""
        if self.native:
            found = spins.reshape(len(spins), self.placement.copies, -1).swapaxes(0, 1)
            return found, np.zeros(found.shape, dtype=bool)
        majority, broken = self.placement.logical(torch.from_numpy(spins))
        return majority.numpy().swapaxes(0, 1), broken.numpy().swapaxes(0, 1)

    @staticmethod
    def of(placement: Placement, properties: Any) -> Site:
        """Of a placement on a solver of these properties."""
        wiring = Wiring(
            np.asarray(placement.qubits, dtype=np.int64), np.asarray(placement.edges).reshape(-1, 2)
        )
        chains = [chain for copy in placement.chains for chain in copy]
        number = np.arange(len(chains)) % placement.graph.num_spins
        variable = number.repeat([len(chain) for chain in chains])
        return Site(
            placement,
            wiring,
            Limits.of(placement.edges, properties, placement.qubits),
            variable,
            placement.native,
        )


class Plan:
    r"""Programmings of a call at scale 1, and the way back.

    A gauge (spin-reversal transform) g in {-1, +1}^n programs $h_i g_i$ and $J_{ij} g_i g_j$; its
    reads times g are reads of the problem, and errors of the chip that favour one direction average
    out over gauges.

    Args:
        problem: a batch of P problems, flattened: h `[P, n]`.
        gauge: `[P, G, n]`.
        num: reads of each problem.
        states: `[P, num, n]` where reverse anneals begin, or None.
    """

    def __init__(
        self,
        problem: Ising,
        gauge: np.ndarray,
        num: int,
        site: Site,
        strength: float | None,
        states: np.ndarray | None,
    ) -> None:
        self.site = site
        self.num = num
        self.states = states
        P, G, n = gauge.shape
        self.gauge = gauge.reshape(P * G, n)
        # problem, state and its reads, where states are
        self.counts: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.layout = Layout(P, G, num, site.placement.copies)
        graph = problem.graph
        edges = problem.graph.edges
        flat = problem.flat()
        H = flat.h.double().cpu()
        J = graph.edge_values(flat.J).double().cpu()
        if states is not None:
            for k in range(P):
                found, where = np.unique(states[k], axis=0, return_inverse=True)
                self.counts += [
                    (k, found[v], np.flatnonzero(where.reshape(-1) == v)) for v in range(len(found))
                ]
        rows = self.rows
        fields = []
        couplings = []
        for row in (
            [np.concatenate(rows)] if site.placement.copies == 1 or states is not None else rows
        ):
            g = torch.from_numpy(self.gauge[row]).double()
            of = row // G
            signed = J[of if len(J) > 1 else [0]] * (g[:, edges[0]] * g[:, edges[1]])
            gauged = Ising(graph, H[of] * g, graph.couplings(signed))
            tiled = site.placement.copies > 1 and states is None
            lay = site.placement.physical_tiled if tiled else site.placement.physical
            h, j = lay(gauged, strength)
            laid = 1 if tiled else len(row)
            fields.append(h.reshape(laid, -1))
            couplings.append(j.reshape(laid, j.shape[-1]))
        self.h = torch.cat(fields)
        self.J = torch.cat(couplings)

    @property
    def rows(self) -> list[np.ndarray]:
        """The slots (problem G + gauge) of each programming."""
        if self.states is not None:
            return [np.array([k * self.layout.gauges]) for k, _, _ in self.counts]
        tiles = self.layout.tiles
        return list(tiles[:, : min(self.layout.slots, tiles.shape[1])])

    @property
    def largest_scale(self) -> float:
        """The largest factor that every range allows every programming."""
        return self.site.limits.largest_factor(self.h, self.J)

    def programmings(self, scale: float) -> list[Programming]:
        """The programmings at a scale."""
        pairs = zip((scale * self.h).numpy(), (scale * self.J).numpy(), strict=True)
        return [Programming(self.site.wiring, h, J) for h, J in pairs]

    @property
    def params(self) -> list[dict[str, Any]]:
        """What each programming asks for beside its problem: reads, and a state to begin at."""
        if self.states is None:
            return [{"num_reads": self.layout.reads}] * len(self.h)
        copies = self.layout.copies
        nodes = self.site.wiring.qubits.tolist()
        found = []
        for k, state, which in self.counts:
            begin = (state * self.gauge[k * self.layout.gauges])[self.site.variable]
            reads = -(-len(which) // copies)
            found.append(
                {"num_reads": reads, "initial_state": dict(zip(nodes, begin.tolist(), strict=True))}
            )
        return found

    def first(self, spins: np.ndarray) -> tuple[Tensor, Tensor]:
        """The reads `[copies, R, n]` in the first programming's `[R, Q]`, and the problem `[copies]` on each copy."""
        of = (
            self.layout.tiles[0] if self.states is None else self.rows[0].repeat(self.layout.copies)
        )
        found = self.site.logical(spins)[0] * self.gauge[of][:, None]
        return torch.from_numpy(found), torch.from_numpy(of // self.layout.gauges)

    def gather(self, answers: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Reads `[P, num, n]` from each programming's `[R, Q]`, and which of their chains were broken."""
        parts = [self.site.logical(spins) for spins in answers]
        if self.states is None:
            spins, broken = (self.layout.gather([part[k] for part in parts]) for k in (0, 1))
            each = -(-self.num // self.layout.gauges)
            gauge = self.gauge.reshape(self.layout.problems, self.layout.gauges, -1).repeat(
                each, 1
            )[:, : self.num]
            return torch.from_numpy(spins * gauge), torch.from_numpy(broken)
        spins = np.zeros((self.layout.problems, self.num, self.gauge.shape[-1]), np.int8)
        broken = np.zeros(spins.shape, bool)
        for (k, _, which), (found, torn) in zip(self.counts, parts, strict=True):
            n = spins.shape[-1]
            spins[k, which] = (
                found.reshape(-1, n)[: len(which)] * self.gauge[k * self.layout.gauges]
            )
            broken[k, which] = torn.reshape(-1, n)[: len(which)]
        return torch.from_numpy(spins), torch.from_numpy(broken)
