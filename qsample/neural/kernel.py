"""What every kernel on a neural energy shares: the contract, the checks, and chains that accept or reject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from qsample.neural.energy import Counted, Energy
from qsample.sampling.random import Draws
from qsample.sampling.sampler import Generators, draw_seeds
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import whole


@runtime_checkable
class Kernel(Protocol):
    """Moves chains so that exp(-E) stays their law, for any energy E of spins.

    `x` `[*B, R, n]` holds R chains for each of the `*B` items, the energy takes states `[*B, M, n]` to `[*B, M]`. An
    image is an item of one chain: `x[:, None]`. The result's spins are x moved, int8; its `info` holds `acceptance`
    `[*B]` (of moves over reads) and what the call cost: `evaluations`, `gradients`, `hessian_vectors`, in rows.
    `anchor` `[*B, n]` is a guess at good states, made without looking at x: x_t, or the sign of a denoiser's x_0.
    Item k of a batch moves as it would alone with its generator, bit for bit where the energy rounds alike.
    """

    @property
    def reversible(self) -> bool:
        """Whether the kernel satisfies detailed balance."""
        ...

    def sample(
        self, energy: Energy, x: Tensor, *, anchor: Tensor | None = None, generator: Generators | None = None
    ) -> Samples:
        """One call's moves from `x`."""
        ...


class Chains:
    """The state of chains in a call: spins `s` `[*B, R, n]` as floats, their energies, their random numbers."""

    def __init__(self, energy: Energy, x: Tensor, generator: Generators | None) -> None:
        if x.dim() < 2 or x.numel() == 0:
            raise ValueError(
                f"expected x [*B, R, n], R chains for each item; got {list(x.shape)}: x[:, None] makes one"
            )
        if not (x.abs() == 1).all():
            odd = float(x[x.abs() != 1][0])
            raise ValueError(f"expected spins x of -1 and +1; got {odd:g}: 2 * bits - 1 makes spins of bits")
        self.energy = Counted.of(energy)
        self._before = dict(self.energy.counts)
        self.s = x.detach() if x.is_floating_point() else x.to(torch.get_default_dtype())
        self.batch, (self.reads, self.n) = x.shape[:-2], x.shape[-2:]
        self.draws = Draws(draw_seeds(generator, self.batch), x.device)
        self._accepted, self._tried = torch.zeros(self.batch, dtype=torch.float64, device=x.device), 0

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers `[*B, R, *shape]`."""
        return self.draws.uniform(self.reads, *shape).reshape(*self.batch, self.reads, *shape)

    def accept(self, log_ratio: Tensor) -> Tensor:
        """Metropolis and Hastings: yes with probability min(1, exp(log_ratio)); `[*B, R]` both."""
        return self.count(self.uniform().log() < log_ratio)

    def count(self, yes: Tensor) -> Tensor:
        """Note the moves accepted."""
        self._accepted += yes.double().mean(-1)
        self._tried += 1
        return yes

    def result(self, E: Tensor, tag: Exactness = Exactness.ASYMPTOTIC, **more: Any) -> Samples:
        """The chains as they stand, with energies E and what was counted."""
        info = {"acceptance": self._accepted / max(1, self._tried), **self.cost(), **more}
        return Samples(self.s.to(torch.int8), E, exactness=tag, info=info)

    def cost(self) -> Mapping[str, int]:
        """Rows evaluated since the call began."""
        return {name: count - self._before[name] for name, count in self.energy.counts.items()}

    def spins_like(self, anchor: Tensor | None) -> Tensor:
        """An anchor as floats `[*B, R, n]`; fresh random spins for None."""
        if anchor is None:
            return (self.uniform(self.n) < 0.5).to(self.s) * 2 - 1
        if anchor.device != self.s.device:
            raise ValueError(f"the anchor is on {anchor.device}, x on {self.s.device}: move one")
        if anchor.shape != (*self.batch, self.n):
            raise ValueError(f"expected an anchor {[*self.batch, self.n]}, one state an item; got {list(anchor.shape)}")
        if not (anchor.abs() == 1).all():
            odd = float(anchor[anchor.abs() != 1][0])
            raise ValueError(f"expected an anchor of -1 and +1; got {odd:g}: take its sign")
        return anchor.detach().to(self.s)[..., None, :].expand_as(self.s)


def check_positive(name: str, value: object) -> None:
    """ValueError unless `value` is a whole number >= 1."""
    whole(name, value, 1)
