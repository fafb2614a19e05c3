"""The Boltzmann machine on any graph, with hidden units that may be coupled to each other."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor, nn

from qsample.models.energy import EnergyModel, column_sums, normal, with_gradient
from qsample.problem.graph import Graph, check_graph
from qsample.problem.ising import Ising
from qsample.support.faces import public


@public("qsample.models")
class BoltzmannMachine(EnergyModel):
    r"""$E(s) = \sum_i h_i s_i + \sum_{(i,j)} J_{ij} s_i s_j$ on spins -1/+1.

    Ackley, Hinton and Sejnowski (1985).

    Args:
        graph: any `Graph`; visible data are the spins that are not hidden, in the graph's order.
        hidden: labels of the hidden spins.
        scale: standard deviation of the initial J_ij times (degree_i degree_j)^(1/4): order sets in
            near 1, the default 0.1 starts deep in the disordered (paramagnetic) phase whatever the
            connectivity.
        generator: draws the initial J; None is torch's default.

    Parameters: `h` [n] and `J` [k], one number per edge in the order of `graph.edges`.

    Raises:
        ValueError: an unknown or repeated hidden label, or no visible spin left.
    """

    names = ("h", "J")

    def __init__(
        self,
        graph: Graph,
        hidden: Iterable[Hashable] = (),
        *,
        scale: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        check_graph(graph)
        super().__init__(graph, graph.index(hidden), "spins")
        if self.num_visible == 0:
            raise ValueError(
                f"no visible spin: all {graph.num_spins} spins of the graph are hidden"
            )
        i, j = graph.edges
        std = scale / (graph.degree[i] * graph.degree[j]).to(torch.get_default_dtype()) ** 0.25
        self.h = nn.Parameter(torch.zeros(graph.num_spins))
        self.J = nn.Parameter(normal(std, generator))

    def arguments(self) -> dict[str, Graph | list[Hashable]]:
        """What the constructor takes to make this model with other weights."""
        hidden = [self.graph.labels[i] for i in self.units.hidden.cpu.tolist()]
        return {"graph": self.graph, "hidden": hidden}

    def _joint(self) -> Ising:
        h, J = self.weights()
        return Ising(self.graph, h, self.graph.couplings(J))

    def centred(self, weights: tuple[Tensor, ...], offsets: Tensor) -> tuple[Tensor, ...]:
        """See `EnergyModel.centred`.

        grad J_ij - mu_i grad h_j - mu_j grad h_i, then grad h_i - sum_j (that) mu_j.
        """
        h, J = weights
        if not (h.requires_grad and J.requires_grad):
            return weights
        mu = offsets.to(J)
        i, j = self.graph.edges.to(mu.device)

        def back(h: Tensor, J: Tensor) -> tuple[Tensor, ...]:
            J = J - mu[i] * h[j] - mu[j] * h[i]
            h = h.index_add(0, i, J * mu[j], alpha=-1)
            return h.index_add_(0, j, J * mu[i], alpha=-1), J

        return with_gradient(back, h, J)

    @torch.no_grad()
    def set_visible_bias(self, data: Tensor, weight: Tensor | None = None) -> None:
        """See `EnergyModel.set_visible_bias`: h = -atanh(mean), with one more read of each sign."""
        data = self.check_rows(data).to(self.h)
        total = column_sums(data, weight)
        h = self.h.index_copy(0, self.visible_index, -(total / (len(data) + 2)).atanh())
        self.set_parameter("h", h)
