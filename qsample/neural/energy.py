"""A neural energy as kernels and surrogates use it: on many states at once, checked, and every evaluation counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Energy = Callable[[Tensor], Tensor]
CHUNK = 1 << 22  # numbers handed to an energy at once


class NoGradient(ValueError):
    """The energy is a detached or discrete function of the spins."""


class Counted:
    """E of states `[*B, M, n]` (floats of -1 and +1) as `[*B, M]`, like `Ising.energy`: any network or function.

    A row's energy is a function of that row and of its place in `*B` alone (x_t, a label), never of other rows: no
    batch normalisation in training mode. `evaluations`, `gradients` and `hessian_vectors` count rows: network passes
    forward, and forward-backward passes of first and second order.

    Args:
        energy: the function; differentiable where gradients are asked for.
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
        child = Counted(energy)
        child.counts, child._width = self.counts, width
        return child

    def scale(self, beta: float) -> Counted:
        """The energy times beta, with the same counts."""
        return self._derived(lambda s: beta * self.energy(s), self._width)

    def within(self, s: Tensor, sites: Tensor) -> Counted:
        """E of states of `sites` `[*B, R, K]` alone, with all others as in `s` `[*B, R, n]`, and the same counts.

        Its states are `[*B, R, M, K]`, its energies `[*B, R, M]`.
        """

        def energy(part: Tensor) -> Tensor:
            M = part.shape[-2]
            whole = s[..., None, :].expand(*s.shape[:-1], M, -1)
            whole = whole.scatter(-1, sites[..., None, :].expand(*sites.shape[:-1], M, -1), part)
            return self.energy(whole.flatten(-3, -2)).unflatten(-1, (s.shape[-2], M))

        return self._derived(energy, s.shape[-1])

    def __call__(self, s: Tensor) -> Tensor:
        """E of each row, detached."""
        with torch.no_grad():
            parts = [self._checked(part) for part in self._chunks(s)]
        self.counts["evaluations"] += s.shape[:-1].numel()
        return torch.cat(parts, -1)

    def gradient(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """E and its gradient in each row, of the function's own extension to real numbers; detached."""
        found = [self._slope(part) for part in self._chunks(s)]
        self.counts["gradients"] += s.shape[:-1].numel()
        return torch.cat([E.detach() for E, *_ in found], -1), torch.cat([g.detach() for _, g, _ in found], -2)

    def hessian_vector(self, s: Tensor, v: Tensor) -> Tensor:
        """H(s) v of each row, `[*B, M, n]`."""
        parts = []
        for some, direction in zip(self._chunks(s), self._chunks(v), strict=True):
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
                _, g, at = self._slope(some, create_graph=True)
            with torch.enable_grad():
                flat = not g.requires_grad  # linear in s
                parts.append(
                    torch.zeros_like(g)
                    if flat
                    else torch.autograd.grad((g * direction).sum(), at, materialize_grads=True)[0]
                )
        self.counts["hessian_vectors"] += s.shape[:-1].numel()
        return torch.cat(parts, -2).detach()

    def _slope(self, s: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            at = s.detach().clone().requires_grad_()
            E = self._checked(at)
            if not E.requires_grad:
                raise NoGradient(
                    "the energy has no gradient (a detached or discrete function): use secant or SiteGibbs"
                )
            return E, torch.autograd.grad(E.sum(), at, create_graph=create_graph, materialize_grads=True)[0], at

    def _chunks(self, s: Tensor) -> tuple[Tensor, ...]:
        width = self._width or s.shape[-1]
        return s.split(max(1, CHUNK // (s.shape[:-2].numel() * width)), -2)

    def _checked(self, s: Tensor) -> Tensor:
        E = self.energy(s)
        if E.shape != s.shape[:-1]:
            expected, got = list(s.shape[:-1]), list(E.shape)
            raise ValueError(f"expected energies {expected} of states {list(s.shape)}; got {got}: one number a state")
        if E.device != s.device:
            raise ValueError(f"the energy is on {E.device}, the states on {s.device}: move the network or x")
        if E.isnan().any():
            raise ValueError("the energy of a state is nan: expected numbers, or inf for what is forbidden")
        return E
