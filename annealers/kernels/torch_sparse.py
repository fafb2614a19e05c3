"""Sweeps over a sparse problem, colour by colour, all spins of a colour at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import Rule, draw
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising


class Plan(NamedTuple):
    """Spins renumbered so that each colour is a range, and tables of their neighbours."""

    order: Tensor  # the graph's number of each renumbered spin
    place: Tensor  # the inverse
    ranges: list[tuple[int, int]]
    neighbour: list[Tensor]  # of each colour [degree, spins of it], renumbered
    edge: list[Tensor]  # likewise, the edges; k, a coupling of zero, where there is none


def plan(graph: Graph, device: torch.device) -> Plan:
    """The plan of a graph on a device, made once."""

    def make() -> Plan:
        start, neighbour, edge = graph.csr
        order = torch.cat(graph.colours) if graph.num_spins else torch.empty(0, dtype=torch.int64)
        place = order.argsort()
        ranges = []
        neighbours = []
        edges = []
        first = 0
        for colour in graph.colours:
            # one row for each neighbour of the spin that has most
            slot = torch.arange(int(graph.degree[colour].max()))[:, None]
            real = slot < graph.degree[colour]
            position = torch.where(real, start[colour] + slot, 0)
            if len(edge):
                neighbours.append(place[neighbour[position]].to(device))
                edges.append(torch.where(real, edge[position], graph.num_edges).to(device))
            else:
                neighbours.append(position.to(device))
                edges.append(position.to(device))
            ranges.append((first, first + len(colour)))
            first += len(colour)
        return Plan(order.to(device), place.to(device), ranges, neighbours, edges)

    return graph.cached(("plan", str(device)), make)


class Chromatic:
    """State `[n, P, R]`, spins of -1 and +1, one column per replica.

    Products with J are exact and neighbours are added in a fixed order, so rounding does not depend
    on the batch.

    Args:
        problem: P problems, in the dtype to work in.
        spins: where to start, `[P, R, n]`.
        streams: randomness, one stream per problem.
    """

    def __init__(self, problem: Ising, spins: Tensor, streams: Streams) -> None:
        self.streams = streams
        self.rule: Rule = "gibbs"
        self.plan = plan(problem.graph, problem.device)
        self.groups = len(self.plan.ranges)
        flat = problem.flat()
        self.h = flat.h.T[self.plan.order][:, :, None]
        # one coupling of zero more, for the places that a spin of few neighbours leaves empty
        padded = torch.cat([flat.J, flat.J.new_zeros(len(flat.J), 1)], 1).T
        self.J = [padded[edge][..., None] for edge in self.plan.edge]
        self.state = spins.permute(2, 0, 1)[self.plan.order].to(problem.dtype)
        P, R = self.state.shape[1:]
        like = {"dtype": torch.float32, "device": problem.device}
        self.u = [torch.empty(P, b - a, R, **like) for a, b in self.plan.ranges]

    def update(self, group: int, beta: float | Tensor) -> None:
        """Redraw all spins of one colour given the others."""
        first, last = self.plan.ranges[group]
        current = self.state[first:last]
        f = self.h[first:last].expand_as(current).clone()
        for neighbour, J in zip(self.plan.neighbour[group], self.J[group], strict=True):
            f += self.state.index_select(0, neighbour).mul_(J)
        u = self.streams.fill(self.u[group]).transpose(0, 1)
        present = (current + 1) / 2 if self.rule == "metropolis" else current
        bits = draw(f.mul_(-2 * beta), u, present, self.rule, f)
        current.copy_(bits).mul_(2).sub_(1)

    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8."""
        return self.state[self.plan.place].permute(1, 2, 0).to(torch.int8).contiguous()
