"""The restricted Boltzmann machine on binary data."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from qsample.models.energy import EnergyModel, column_sums, normal, with_gradient
from qsample.models.rbm.arrays import Orientation, weights_of
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.support.autocast import rounded_alone, widened
from qsample.support.checks import is_whole
from qsample.support.faces import public


@public("qsample.models")
class BernoulliRBM(EnergyModel):
    r"""$E(v, h) = -v^\top W h - b \cdot v - c \cdot h$ on {0,1} (Smolensky 1986; Hinton 2002).

    Its Ising form, by s = 2 (v, h) - 1: J = -W/4, fields -b/2 - (row sums of W)/4 and -c/2 -
    (column sums of W)/4, offset -(sum W)/4 - (sum b)/2 - (sum c)/2.

    Args:
        n_visible: visible units.
        n_hidden: hidden units.
        scale: standard deviation of the initial W times (n_visible n_hidden)^(1/4). In spins the
            couplings are W/4 and order sets in near scale 4; the default 0.4 starts deep in the
            disordered (paramagnetic) phase.
        generator: draws the initial W; None is torch's default.

    Parameters: `W` [n_visible, n_hidden], `b` [n_visible], `c` [n_hidden].
    """

    names = ("W", "b", "c")

    def __init__(
        self,
        n_visible: int,
        n_hidden: int,
        *,
        scale: float = 0.4,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, size in (("n_visible", n_visible), ("n_hidden", n_hidden)):
            if not is_whole(size):
                raise TypeError(f"expected {name} as a number of units; got {type(size).__name__}")
        n_visible = int(n_visible)
        n_hidden = int(n_hidden)
        if n_visible < 1 or n_hidden < 1:
            raise ValueError(
                f"expected at least one visible and one hidden unit; got {n_visible} and {n_hidden}"
            )
        hidden = n_visible + torch.arange(n_hidden, device="cpu")
        super().__init__(Graph.bipartite(n_visible, n_hidden), hidden, "bits")
        std = torch.tensor(scale / (n_visible * n_hidden) ** 0.25, device="cpu")
        self.W = nn.Parameter(normal(std.expand(n_visible, n_hidden), generator))
        self.b = nn.Parameter(torch.zeros(n_visible))
        self.c = nn.Parameter(torch.zeros(n_hidden))

    @classmethod
    def from_arrays(
        cls,
        W: Any,
        b: Any,
        c: Any,
        *,
        orientation: Orientation | None = None,
        visible_offset: Any = None,
        hidden_offset: Any = None,
    ) -> BernoulliRBM:
        r"""The model of weights that were trained elsewhere, on {0,1}: arrays of NumPy or torch.

        They are `w`, `bv`, `bh` of PyDeep (and its `ov`, `oh` the offsets); `weight_matrix`,
        `vbias`, `hbias` of rbms; `components_`, `intercept_visible_`, `intercept_hidden_` of
        scikit-learn, whose W lies the other way.

        With offsets $\mu$ of the visible and $\lambda$ of the hidden units the energy is taken as
        $-(v-\mu)^\top W (h-\lambda) - b\cdot(v-\mu) - c\cdot(h-\lambda)$ (Melchior, Fischer and
        Wiskott, JMLR 17(99), 2016). The law is the same; the constant $b\cdot\mu + c\cdot\lambda -
        \mu^\top W\lambda$ is left out of the energy, so log Z is larger than that of PyDeep by it.

        Args:
            W: weights, `[n_visible, n_hidden]`, or transposed as `orientation` says.
            b: visible biases, `[n_visible]` or `[1, n_visible]`.
            c: hidden biases, `[n_hidden]` or `[1, n_hidden]`.
            orientation: axes of W, "visible-hidden" or "hidden-visible", or the name of the package
                that keeps it so; None goes by the lengths of b and c.
            visible_offset: offsets of a centred model's visible units, `[n_visible]` or one number;
                None is 0.
            hidden_offset: those of its hidden units, `[n_hidden]` or one number; None is 0.

        Returns:
            The model in double precision where an array is, else in single precision.

        Raises:
            ValueError: shapes that do not fit (the message says which orientation would), a square
                W without an orientation, or numbers that are not finite.
            TypeError: what holds no numbers.
        """
        weights = weights_of(W, b, c, orientation, visible_offset, hidden_offset)
        # its initial weights are replaced: torch's default generator stays as it is
        model = cls(*weights.W.shape, generator=torch.Generator()).to(weights.W)
        for name, value in weights._asdict().items():
            model.set_parameter(name, value)
        return model

    def arguments(self) -> dict[str, int]:
        """What the constructor takes to make this model with other weights."""
        return {"n_visible": self.num_visible, "n_hidden": self.num_hidden}

    def _joint(self) -> Ising:
        W, b, c = self.weights()
        rows = W.sum(1)
        h = torch.cat([-b / 2 - rows / 4, -c / 2 - W.sum(0) / 4])
        return Ising(self.graph, h, W / -4, -rows.sum() / 4 - b.sum() / 2 - c.sum() / 2)

    def energy(
        self, x: Shaped[Tensor, "... v"], hidden: Shaped[Tensor, "... h"]
    ) -> Float[Tensor, "..."]:
        """E(x, hidden); see `EnergyModel.energy`."""
        self._check_between(x, self.num_visible, "data")
        self._check_between(hidden, self.num_hidden, "hidden")
        W, b, c = self.weights()
        x = x.to(W)
        hidden = hidden.to(W)
        return -((x @ W + c) * hidden).sum(-1) - x @ b

    def free_energy(self, x: Shaped[Tensor, "*batch v"]) -> Float[Tensor, "*batch"]:
        r"""$F(v) = -b \cdot v - \sum_j \log(1 + e^{c_j + (vW)_j})$; see `EnergyModel`."""
        self._check_between(x, self.num_visible, "data")
        return self._free_energy(x)

    def free_energy_of_units(self, x: Tensor) -> Float[Tensor, "*batch"]:
        """See `EnergyModel.free_energy_of_units`; x of the parameters' dtype, or of autocast's."""
        return self._free_energy(x)

    def _free_energy(self, x: Tensor) -> Tensor:
        W, b, c = self.weights()
        if widened(x.device.type, W.dtype):
            with torch.autocast(x.device.type, enabled=False):
                wide = _free_energy_of(x.float(), W.float(), b.float(), c.float())
            return wide.to(W.dtype)
        if rounded_alone(x.device.type, W.dtype):
            with torch.autocast(x.device.type, enabled=False):
                return _free_energy_of(x.to(W), W.to(torch.bfloat16).to(W), b, c)
        # autocast takes products in its own dtype, but leaves those in double precision alone
        rounded = torch.is_autocast_enabled(x.device.type) and W.dtype != torch.float64
        return _free_energy_of(x if rounded and x.is_floating_point() else x.to(W), W, b, c)

    def centred(self, weights: tuple[Tensor, ...], offsets: Tensor) -> tuple[Tensor, ...]:
        """See `EnergyModel.centred`; offsets are the visible means, then the hidden ones."""
        W, b, c = weights
        if not W.requires_grad:
            return weights
        mu, lam = offsets.to(W).split([self.num_visible, self.num_hidden])
        # a frozen bias makes up for nothing
        mu = mu if c.requires_grad else torch.zeros_like(mu)
        lam = lam if b.requires_grad else torch.zeros_like(lam)

        def back(W: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
            W = W.addr(mu, c, alpha=-1).addr_(b, lam, alpha=-1)
            return W, b - W @ lam, c - mu @ W

        return with_gradient(back, W, b, c)

    @torch.no_grad()
    def set_visible_bias(self, data: Tensor, weight: Tensor | None = None) -> None:
        """See `EnergyModel.set_visible_bias`: b = logit of (sum + 1)/(N + 2)."""
        data = self.check_rows(data).to(self.b)
        total = column_sums(data, weight)
        self.set_parameter("b", ((total + 1) / (len(data) + 2)).logit())


def _free_energy_of(x: Tensor, W: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """F of rows `[*, n_visible]`; products in autocast's dtype, sums in that of W."""
    latent = torch.addmm(c, x, W) if x.dim() == 2 else x @ W + c
    visible = (x @ b).to(W)
    latent = latent.to(W)
    return -visible - torch.nn.functional.softplus(latent).sum(-1)
