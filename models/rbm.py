"""The restricted Boltzmann machine on binary data."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from qsample.checks import is_whole
from qsample.graph import Graph
from qsample.ising import Ising
from qsample.models.energy import EnergyModel, with_gradient


class BernoulliRBM(EnergyModel):
    r"""$E(v, h) = -v^\top W h - b \cdot v - c \cdot h$ on {0,1} (Smolensky 1986; Hinton 2002).

    Its Ising form, by s = 2 (v, h) - 1: J = -W/4, fields -b/2 - (row sums of W)/4 and -c/2 - (column sums of W)/4,
    offset -(sum W)/4 - (sum b)/2 - (sum c)/2.

    Args:
        n_visible: visible units.
        n_hidden: hidden units.
        scale: standard deviation of the initial W times (n_visible n_hidden)^(1/4). In spins the couplings are W/4
            and order sets in near scale 4; the default 0.4 starts deep in the disordered (paramagnetic) phase.
        generator: draws the initial W; None is torch's default.

    Parameters: `W` [n_visible, n_hidden], `b` [n_visible], `c` [n_hidden].
    """

    def __init__(
        self, n_visible: int, n_hidden: int, *, scale: float = 0.4, generator: torch.Generator | None = None
    ) -> None:
        for name, size in (("n_visible", n_visible), ("n_hidden", n_hidden)):
            if not is_whole(size):
                raise TypeError(f"expected {name} as a number of units; got {type(size).__name__}")
        n_visible, n_hidden = int(n_visible), int(n_hidden)
        if n_visible < 1 or n_hidden < 1:
            raise ValueError(f"expected at least one visible and one hidden unit; got {n_visible} and {n_hidden}")
        hidden = n_visible + torch.arange(n_hidden)
        super().__init__(Graph.bipartite(n_visible, n_hidden), hidden, "bits")
        std = scale / (n_visible * n_hidden) ** 0.25
        self.W = nn.Parameter(std * torch.randn(n_visible, n_hidden, generator=generator))
        self.b = nn.Parameter(torch.zeros(n_visible))
        self.c = nn.Parameter(torch.zeros(n_hidden))

    def _joint(self) -> Ising:
        W, b, c = self.W, self.b, self.c
        rows = W.sum(1)
        h = torch.cat([-b / 2 - rows / 4, -c / 2 - W.sum(0) / 4])
        return Ising(self.graph, h, W / -4, -rows.sum() / 4 - b.sum() / 2 - c.sum() / 2)

    def energy(self, x: Shaped[Tensor, "... v"], hidden: Shaped[Tensor, "... h"]) -> Float[Tensor, "..."]:
        """E(x, hidden); see `EnergyModel.energy`."""
        x, hidden = self.check(x).to(self.W), self._check(hidden, self.num_hidden, "hidden").to(self.W)
        return -((x @ self.W + self.c) * hidden).sum(-1) - x @ self.b

    def free_energy(self, x: Shaped[Tensor, "batch v"]) -> Float[Tensor, " batch"]:
        r"""$F(v) = -b \cdot v - \sum_j \log(1 + e^{c_j + (vW)_j})$."""
        return self.free_energy_of_units(self.check(x).to(self.W))

    def free_energy_of_units(self, x: Tensor) -> Float[Tensor, " batch"]:
        """See `EnergyModel.free_energy_of_units`; x of the parameters' dtype, or of autocast's."""
        visible, given = (x @ self.b).to(self.W), torch.addmm(self.c, x, self.W).to(self.W)  # rounded by autocast
        return -visible - torch.nn.functional.softplus(given).sum(-1)

    def centred(self, offsets: Tensor) -> dict[str, Tensor]:
        """See `EnergyModel.centred`; offsets are the visible means, then the hidden ones."""
        mu, lam = offsets.to(self.W).split([self.num_visible, self.num_hidden])

        def back(W: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
            W = W.addr(mu, c, alpha=-1).addr_(b, lam, alpha=-1)
            return W, b - W @ lam, c - mu @ W

        return dict(zip("Wbc", with_gradient(back, self.W, self.b, self.c), strict=True))

    @torch.no_grad()
    def set_visible_bias(self, data: Tensor, weight: Tensor | None = None) -> None:
        """See `EnergyModel.set_visible_bias`: b = logit of (sum + 1)/(N + 2)."""
        data = self.check_rows(data).to(self.b)
        total = data.sum(0) if weight is None else weight.to(data) @ data / weight.sum() * len(data)
        self.b.copy_(((total + 1) / (len(data) + 2)).logit())
