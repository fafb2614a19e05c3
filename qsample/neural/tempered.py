"""Tempered transitions on any energy: moves between far modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.neural.energy import Counted, Energy
from qsample.neural.kernel import Chains, Kernel, check_kernel, weaker
from qsample.sampling.random import Generators
from qsample.sampling.samples import Exactness, Samples
from qsample.sampling.tempered_transition import check_ladder, tempered_transition
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.diffusion")
@dataclass(frozen=True)
class TemperedTransitions:
    r"""Up a ladder of temperatures and down again as one move between far modes.

    Neal, Stat. Comput. 6, 1996: with $1 = b_0 > b_1 > \dots > b_L$, `kernel` moves on $b_1 E,
    \dots, b_L E$ and then on $b_L E, \dots, b_1 E$; the end is accepted with the log ratio
    $\sum_l (b_l - b_{l+1})\,(E(x_l^{\mathrm{up}}) - E(x_l^{\mathrm{down}}))$, where $x_l$ are the
    states between the moves at $b_l$ and $b_{l+1}$.

    `info["log_weight"]` `[*B, R]` is the way up's sum alone: from x of the right law the mean of
    its exponential is $Z(b_L)/Z(1)$ (Jarzynski 1997).

    Args:
        kernel: any reversible kernel, such as `SiteGibbs(steps=n)`.
        betas: $b_0$ to $b_L$, falling from 1.
        moves: rounds per call.

    Raises:
        ValueError: betas that do not fall from 1 to 0 or above; a kernel that is not reversible.
    """

    kernel: Kernel
    betas: Sequence[float] = (1.0, 0.8, 0.6, 0.4, 0.2)
    moves: int = 1

    reversible = True

    def __post_init__(self) -> None:
        check_kernel(self.kernel)
        whole_settings(self, moves=1)
        if not self.kernel.reversible:
            raise ValueError(
                f"{self.kernel!r} is not reversible: tempered transitions need one that is, as "
                "SiteGibbs"
            )
        check_ladder(self.betas)

    @uncompiled
    def sample(
        self,
        energy: Energy,
        x: Tensor,
        *,
        anchor: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Make `moves` rounds from `x`; see `Kernel.sample`.

        Args:
            energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
            x: spins `[*B, R, n]`, R chains per item.
            anchor: spins `[*B, n]`, handed to the kernel.
            generator: one for the batch, or a list with one per item; None is torch's default.
        """
        chains = Chains(energy, x, generator)
        generators = chains.draws.generators()
        E = chains.energy(chains.s)
        tag = Exactness.ASYMPTOTIC
        log_weight = torch.zeros_like(E)
        for _ in range(self.moves):
            y = _Walk(self.kernel, chains.energy, chains.s, E, anchor, generators)
            log_ratio, log_weight = tempered_transition(self.betas, E.double(), y.move)
            accepted = chains.accept(log_ratio)
            tag = weaker(tag, y.tag)
            chains.move(accepted, y.s)
            E = torch.where(accepted, y.E, E)
        return chains.result(E, tag, log_weight=log_weight)


@dataclass
class _Walk:
    """States s of energy E on their way up and down, and the tag of the kernel's moves."""

    kernel: Kernel
    energy: Counted
    s: Tensor
    E: Tensor
    anchor: Tensor | None
    generators: Sequence[torch.Generator]
    tag: Exactness = Exactness.ASYMPTOTIC

    def move(self, beta: float) -> Tensor:
        """Move the states on beta E; their energies at beta = 1, in double precision."""
        samples = self.kernel.sample(
            self.energy.scale(beta), self.s, anchor=self.anchor, generator=self.generators
        )
        self.tag = weaker(self.tag, samples.exactness)
        self.s = samples.spins.to(self.s)
        self.E = self.energy(self.s)
        return self.E.double()
