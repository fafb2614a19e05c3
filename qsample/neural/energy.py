"""A neural energy as kernels and surrogates use it: on many states at once, checked and counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from qsample.support.faces import public

Energy = Callable[[Tensor], Tensor]
CHUNK = 1 << 22  # numbers handed to an energy at once


class NoGradient(ValueError):
    """The energy is a detached or discrete function of the spins."""


@public("qsample.diffusion")
class Counted:
    """E of states `[*B, M, n]` as `[*B, M]`, like `Ising.energy`: any network or function.

    States are floats of -1 and +1. A row's energy is a function of that row and of its place in
    `*B` alone (x_t, a label), never of other rows: no batch normalisation in training mode.
    `evaluations`, `gradients` and `hessian_vectors` count rows: network passes forward, and
    forward-backward passes of first and second order.

    Args:
        energy: the function; differentiable where gradients are asked for.

    Raises:
        TypeError: an energy that cannot be called.
    """

    def __init__(self, energy: Energy) -> None:
        if not callable(energy):
            raise TypeError(f"expected an energy, a function of states [*B, M, n]; got {energy!r}")
        self.energy = energy
        self.counts = {"evaluations": 0, "gradients": 0, "hessian_vectors": 0}
        self._width: int | None = None

    @staticmethod
    def of(energy: Energy) -> Counted:
        """`energy` itself if it counts already."""
        return energy if isinstance(energy, Counted) else Counted(energy)

    def _derived(self, energy: Energy, width: int | None) -> Counted:
        """Another function with the same counts, of states that stand for `width` numbers."""
        child = Counted(energy)
        child.counts = self.counts
        child._width = width
        return child

    def scale(self, beta: float) -> Counted:
        """The energy times beta, with the same counts."""
        return self._derived(lambda s: beta * self.energy(s), self._width)

    def within(self, s: Tensor, sites: Tensor) -> Counted:
        """E as a function of the spins on some sites alone, with the same counts.

        Its states are `[*B, R, M, K]`, its energies `[*B, R, M]`.

        Args:
            s: all spins `[*B, R, n]`, which hold outside the sites.
            sites: K site numbers per row, `[*B, R, K]`.
        """

        def energy(block: Tensor) -> Tensor:
            M = block.shape[-2]
            states = s[..., None, :].expand(*s.shape[:-1], M, -1)
            index = sites[..., None, :].expand(*sites.shape[:-1], M, -1)
            states = states.scatter(-1, index, block)
            return self.energy(states.flatten(-3, -2)).unflatten(-1, (s.shape[-2], M))

        return self._derived(energy, s.shape[-1])

    def __call__(self, s: Tensor) -> Tensor:
        """E of each row, detached."""
        with torch.no_grad():
            energies = [self._checked(chunk) for chunk in self._chunks(s)]
        self.counts["evaluations"] += s.shape[:-1].numel()
        return torch.cat(energies, -1)

    def gradient(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """E and its gradient in each row, detached.

        The gradient is that of the function's own extension to real numbers.
        """
        energies = []
        gradients = []
        for chunk in self._chunks(s):
            E, g, _ = self._slope(chunk)
            energies.append(E.detach())
            gradients.append(g.detach())
        self.counts["gradients"] += s.shape[:-1].numel()
        return torch.cat(energies, -1), torch.cat(gradients, -2)

    def hessian_vector(self, s: Tensor, v: Tensor) -> Tensor:
        """H(s) v of each row, `[*B, M, n]`."""
        products = []
        for states, directions in zip(self._chunks(s), self._chunks(v), strict=True):
            # the fused kernels of attention have no second derivative
            with sdpa_kernel(SDPBackend.MATH):
                _, g, point = self._slope(states, create_graph=True)
            if g.requires_grad:
                along = (g * directions).sum()
                (product,) = torch.autograd.grad(along, point, materialize_grads=True)
            else:  # E is linear in s
                product = torch.zeros_like(g)
            products.append(product)
        self.counts["hessian_vectors"] += s.shape[:-1].numel()
        return torch.cat(products, -2).detach()

    def _slope(self, s: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """E and its gradient in each row, and the leaf that they are functions of."""
        with torch.enable_grad():
            point = s.detach().clone().requires_grad_()
            E = self._checked(point)
            if not E.requires_grad:
                raise NoGradient(
                    "the energy has no gradient (a detached or discrete function): use secant or "
                    "SiteGibbs"
                )
            (g,) = torch.autograd.grad(
                E.sum(), point, create_graph=create_graph, materialize_grads=True
            )
        return E, g, point

    def _chunks(self, s: Tensor) -> tuple[Tensor, ...]:
        """The states in chunks of at most `CHUNK` numbers, or of one row per item."""
        width = self._width or s.shape[-1]
        rows = CHUNK // (s.shape[:-2].numel() * width)
        return s.split(max(1, rows), -2)

    def _checked(self, s: Tensor) -> Tensor:
        """E of states, a ValueError unless it is one number per state."""
        E = self.energy(s)
        if E.shape != s.shape[:-1]:
            raise ValueError(
                f"expected energies {list(s.shape[:-1])} of states {list(s.shape)}; got "
                f"{list(E.shape)}: one number per state"
            )
        if E.device != s.device:
            raise ValueError(
                f"the energy is on {E.device}, the states on {s.device}: move the network or x"
            )
        if E.isnan().any():
            raise ValueError(
                "the energy of a state is nan: expected numbers, or inf for what is forbidden"
            )
        return E
