"""Local moves on any energy, one or many flips by first-order information, each with its exact correction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from qsample.neural.energy import Energy
from qsample.neural.kernel import Chains, check_positive
from qsample.sampling.sampler import Generators
from qsample.sampling.samples import Samples
from qsample.support.transforms import uncompiled


@dataclass(frozen=True)
class SiteGibbs:
    r"""Random-scan Gibbs: a uniformly random site is redrawn from its conditional, $\sigma(E(x) - E(x^{(i)}))$ to flip.

    One evaluation a step; needs no gradient (Geman and Geman 1984). `info["acceptance"]` is the rate of flips.

    Args:
        steps: sites redrawn a call.
    """

    steps: int = 1

    reversible = True

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)

    @uncompiled
    def sample(
        self, energy: Energy, x: Tensor, *, anchor: Tensor | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Kernel.sample`; the anchor is not used."""
        chains = Chains(energy, x, generator)
        E = chains.energy(chains.s)
        for _ in range(self.steps):
            where, level = chains.uniform(2).unbind(-1)
            y = flip(chains.s, (where * chains.n).long())
            E_y = chains.energy(y)
            yes = chains.count(level < torch.sigmoid(E.double() - E_y.double()))
            chains.s, E = torch.where(yes[..., None], y, chains.s), torch.where(yes, E_y, E)
        return chains.result(E)


@dataclass(frozen=True)
class GibbsWithGradients:
    r"""One flip a step, at a site the gradient picks (Grathwohl et al., ICML 2021), accepted or rejected.

    $q(i|x) = \mathrm{softmax}_i(x_i\, \partial_i E(x))$: half the first-order drop of E by flip i. The reverse
    probability is that of the same site from the flipped state. One gradient a step.

    Args:
        steps: steps a call.
    """

    steps: int = 1

    reversible = True

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)

    def log_proposal(self, s: Tensor, g: Tensor, y: Tensor) -> Tensor:
        """Log of q(s -> y), where y is s with one site flipped and g the gradient at s."""
        return ((s * g).log_softmax(-1) * (s != y)).sum(-1)

    def propose(self, s: Tensor, g: Tensor, chains: Chains) -> Tensor:
        """A draw of y."""
        below = (s * g).double().softmax(-1).cumsum(-1) < chains.uniform(1)
        return flip(s, below.sum(-1).clamp(max=s.shape[-1] - 1))

    @uncompiled
    def sample(
        self, energy: Energy, x: Tensor, *, anchor: Tensor | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Kernel.sample`; the anchor is not used."""
        return _first_order(self, self.steps, Chains(energy, x, generator))


@dataclass(frozen=True)
class DiscreteLangevin:
    r"""Every site flipped at once with its own probability, accepted or rejected (DMALA; Zhang et al., ICML 2022).

    $$q(y|x) = \prod_i q_i, \qquad P(\text{flip } i) = \sigma(x_i\, \partial_i E(x) - 2/\alpha)$$

    One gradient a step.

    Args:
        step_size: alpha; larger steps flip more sites and are accepted less often.
        steps: steps a call.
    """

    step_size: float = 0.2
    steps: int = 1

    reversible = True

    def __post_init__(self) -> None:
        check_positive("steps", self.steps)
        if not 0 < self.step_size < math.inf:
            raise ValueError(f"expected step_size > 0; got {self.step_size!r}")

    def _logit(self, s: Tensor, g: Tensor) -> Tensor:
        return (s * g).double() - 2 / self.step_size

    def log_proposal(self, s: Tensor, g: Tensor, y: Tensor) -> Tensor:
        """Log of q(s -> y), where g is the gradient at s."""
        logit = self._logit(s, g)
        return logsigmoid(torch.where(s != y, logit, -logit)).sum(-1)

    def propose(self, s: Tensor, g: Tensor, chains: Chains) -> Tensor:
        """A draw of y."""
        return torch.where(chains.uniform(s.shape[-1]) < torch.sigmoid(self._logit(s, g)), -s, s)

    @uncompiled
    def sample(
        self, energy: Energy, x: Tensor, *, anchor: Tensor | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Kernel.sample`; the anchor is not used."""
        return _first_order(self, self.steps, Chains(energy, x, generator))


@runtime_checkable
class _Proposal(Protocol):
    def log_proposal(self, s: Tensor, g: Tensor, y: Tensor) -> Tensor: ...

    def propose(self, s: Tensor, g: Tensor, chains: Chains) -> Tensor: ...


def log_ratio(kernel: _Proposal, here: tuple[Tensor, Tensor, Tensor], there: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    r"""Log acceptance ratio between two (state, E, gradient): E(x) - E(y) + log q(y -> x) - log q(x -> y)."""
    (s, E, g), (y, E_y, g_y) = here, there
    return E.double() - E_y.double() + kernel.log_proposal(y, g_y, s) - kernel.log_proposal(s, g, y)


def _first_order(kernel: _Proposal, steps: int, chains: Chains) -> Samples:
    E, g = chains.energy.gradient(chains.s)
    for _ in range(steps):
        y = kernel.propose(chains.s, g, chains)
        E_y, g_y = chains.energy.gradient(y)
        yes = chains.accept(log_ratio(kernel, (chains.s, E, g), (y, E_y, g_y)))
        chains.s, g = (torch.where(yes[..., None], new, old) for new, old in ((y, chains.s), (g_y, g)))
        E = torch.where(yes, E_y, E)
    return chains.result(E)


def flip(s: Tensor, site: Tensor) -> Tensor:
    """The states `[..., n]` with one site each `[...]` flipped."""
    return s.scatter(-1, site[..., None], -s.gather(-1, site[..., None]))
