"""Gibbs with gradients: one flip per step, at a site that the gradient picks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from qsample.neural.energy import Energy
from qsample.neural.kernel import Chains, flip, gradient_moves
from qsample.sampling.random import Generators
from qsample.sampling.samples import Samples
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.diffusion")
@dataclass(frozen=True)
class GibbsWithGradients:
    r"""One flip per step, at a site the gradient picks, accepted or rejected.

    Grathwohl et al., ICML 2021: $q(i|x) = \mathrm{softmax}_i(x_i\, \partial_i E(x))$, half the
    first-order drop of E by flip i. The reverse probability is that of the same site from the
    flipped state. One gradient per step.

    Args:
        steps: flips proposed per call.

    Raises:
        ValueError: steps < 1.
    """

    steps: int = 1

    reversible = True

    def __post_init__(self) -> None:
        whole_settings(self, steps=1)

    def log_proposal(self, s: Tensor, g: Tensor, y: Tensor) -> Tensor:
        """Log q(s -> y), `[*B, R]`.

        Args:
            s: present states, spins `[*B, R, n]`.
            g: gradient of E at s.
            y: proposed states, s with one site flipped.
        """
        return ((s * g).log_softmax(-1) * (s != y)).sum(-1)

    def propose(self, s: Tensor, g: Tensor, chains: Chains) -> Tensor:
        """States `[*B, R, n]` drawn from q, by its inverse distribution function.

        Args:
            s: present states, spins `[*B, R, n]`.
            g: gradient of E at s.
            chains: whose random numbers are used.
        """
        cumulative = (s * g).double().softmax(-1).cumsum(-1)
        site = (cumulative < chains.uniform(1)).sum(-1)
        return flip(s, site.clamp(max=s.shape[-1] - 1))

    @uncompiled
    def sample(
        self,
        energy: Energy,
        x: Tensor,
        *,
        anchor: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Propose `steps` flips in each chain; see `Kernel.sample`.

        Args:
            energy: E, a differentiable function of states `[*B, M, n]` to `[*B, M]`.
            x: spins `[*B, R, n]`, R chains per item.
            anchor: not used.
            generator: one for the batch, or a list with one per item; None is torch's default.
        """
        return gradient_moves(self, self.steps, Chains(energy, x, generator))
