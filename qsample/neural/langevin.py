"""Discrete Langevin: every site may flip at once, each by its own part of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from qsample.neural.energy import Energy
from qsample.neural.kernel import Chains, gradient_moves
from qsample.sampling.random import Generators
from qsample.sampling.samples import Samples
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.diffusion")
@dataclass(frozen=True)
class DiscreteLangevin:
    r"""Every site flipped at once with its own probability, accepted or rejected (DMALA).

    Zhang et al., ICML 2022:

    $$q(y|x) = \prod_i q_i, \qquad P(\text{flip } i) = \sigma(x_i\, \partial_i E(x) - 2/\alpha)$$

    One gradient per step.

    Args:
        step_size: alpha > 0; larger steps flip more sites and are accepted less often.
        steps: proposals per call.

    Raises:
        ValueError: steps < 1, or a step_size that is not positive and finite.
    """

    step_size: float = 0.2
    steps: int = 1

    reversible = True

    def __post_init__(self) -> None:
        whole_settings(self, steps=1)
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"expected step_size > 0; got {self.step_size!r}")

    def _logit(self, s: Tensor, g: Tensor) -> Tensor:
        """Of the probability that a site flips, `[*B, R, n]`."""
        return (s * g).double() - 2 / self.step_size

    def log_proposal(self, s: Tensor, g: Tensor, y: Tensor) -> Tensor:
        """Log q(s -> y), `[*B, R]`.

        Args:
            s: present states, spins `[*B, R, n]`.
            g: gradient of E at s.
            y: proposed states.
        """
        logit = self._logit(s, g)
        return logsigmoid(torch.where(s != y, logit, -logit)).sum(-1)

    def propose(self, s: Tensor, g: Tensor, chains: Chains) -> Tensor:
        """States `[*B, R, n]` drawn from q.

        Args:
            s: present states, spins `[*B, R, n]`.
            g: gradient of E at s.
            chains: whose random numbers are used.
        """
        flipped = chains.uniform(s.shape[-1]) < torch.sigmoid(self._logit(s, g))
        return torch.where(flipped, -s, s)

    @uncompiled
    def sample(
        self,
        energy: Energy,
        x: Tensor,
        *,
        anchor: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Make `steps` proposals in each chain; see `Kernel.sample`.

        Args:
            energy: E, a differentiable function of states `[*B, M, n]` to `[*B, M]`.
            x: spins `[*B, R, n]`, R chains per item.
            anchor: not used.
            generator: one for the batch, or a list with one per item; None is torch's default.
        """
        return gradient_moves(self, self.steps, Chains(energy, x, generator))
