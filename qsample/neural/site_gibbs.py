"""Gibbs sampling of any energy, a random site at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.neural.energy import Energy
from qsample.neural.kernel import Chains, flip
from qsample.sampling.random import Generators
from qsample.sampling.samples import Samples
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.diffusion")
@dataclass(frozen=True)
class SiteGibbs:
    r"""Random-scan Gibbs: a uniformly random site is redrawn from its conditional.

    The site is flipped with probability $\sigma(E(x) - E(x^{(i)}))$ (Geman and Geman 1984). One
    evaluation per step; needs no gradient. `info["acceptance"]` is the rate of flips.

    Args:
        steps: sites redrawn per call.

    Raises:
        ValueError: steps < 1.
    """

    steps: int = 1

    reversible = True

    def __post_init__(self) -> None:
        whole_settings(self, steps=1)

    @uncompiled
    def sample(
        self,
        energy: Energy,
        x: Tensor,
        *,
        anchor: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Redraw `steps` sites of each chain; see `Kernel.sample`.

        Args:
            energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
            x: spins `[*B, R, n]`, R chains per item.
            anchor: not used.
            generator: one for the batch, or a list with one per item; None is torch's default.
        """
        chains = Chains(energy, x, generator)
        E = chains.energy(chains.s)
        for _ in range(self.steps):
            place, level = chains.uniform(2).unbind(-1)
            y = flip(chains.s, (place * chains.n).long())
            E_y = chains.energy(y)
            flipped = chains.count(level < torch.sigmoid(E.double() - E_y.double()))
            chains.move(flipped, y)
            E = torch.where(flipped, E_y, E)
        return chains.result(E)
