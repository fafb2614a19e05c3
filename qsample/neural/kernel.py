"""What kernels on a neural energy share: the contract, its checks, chains that accept or reject."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from qsample.neural.energy import Counted, Energy
from qsample.sampling.random import Draws, Generators, draw_seeds
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import check_spins


@runtime_checkable
class Kernel(Protocol):
    """Moves chains so that exp(-E) stays their law, for any energy E of spins.

    Item k of a batch moves as it would alone with its generator, bit for bit where the energy
    rounds alike.
    """

    @property
    def reversible(self) -> bool:
        """Whether the kernel satisfies detailed balance."""
        ...

    def sample(
        self,
        energy: Energy,
        x: Tensor,
        *,
        anchor: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """One call's moves from `x`.

        Args:
            energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
            x: spins `[*B, R, n]`, R chains for each of the `*B` items. An image is an item of one
                chain: `x[:, None]`.
            anchor: spins `[*B, n]`, a guess at good states that was made without looking at x: x_t,
                or the sign of a denoiser's x_0. None leaves the guess to the kernel.
            generator: one for the batch, or a list with one per item; None is torch's default.

        Returns:
            The chains moved, spins int8. `info` holds `acceptance` `[*B]` (of moves, over chains)
            and the rows that the call evaluated: `evaluations`, `gradients`, `hessian_vectors`.
        """
        ...


def check_kernel(kernel: object) -> None:
    """TypeError for what is no kernel: a sampler of Ising problems, a name, an uncalled class."""
    if isinstance(kernel, type) or not isinstance(kernel, Kernel) or hasattr(kernel, "warm_start"):
        raise TypeError(f"expected a kernel, such as SiteGibbs(steps=10); got {kernel!r}")


def weaker(tag: Exactness, other: Exactness) -> Exactness:
    """The tag of moves by two kernels or samplers: heuristic if either is."""
    return other if other is Exactness.HEURISTIC else tag


class Chains:
    """The state of chains during a call: spins `s` `[*B, R, n]` as floats, and their randomness.

    Args:
        energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
        x: where the chains begin, spins `[*B, R, n]`.
        generator: one for the batch, or a list with one per item; None is torch's default.

    Raises:
        ValueError: x of another shape, or of other numbers than -1 and +1.
    """

    def __init__(self, energy: Energy, x: Tensor, generator: Generators | None) -> None:
        if x.dim() < 2 or x.numel() == 0:
            raise ValueError(
                f"expected x [*B, R, n], R chains for each item; got {list(x.shape)}: x[:, None] "
                "makes one"
            )
        check_spins("spins x", x)
        self.energy = Counted.of(energy)
        self._counts_before = dict(self.energy.counts)
        self.s = x.detach() if x.is_floating_point() else x.to(torch.get_default_dtype())
        self.batch = x.shape[:-2]
        self.reads, self.n = x.shape[-2:]
        self.draws = Draws(draw_seeds(generator, self.batch), x.device)
        self._accepted = torch.zeros(self.batch, dtype=torch.float64, device=x.device)
        self._proposed = 0

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers `[*B, R, *shape]`."""
        return self.draws.uniform(self.reads, *shape).reshape(*self.batch, self.reads, *shape)

    def accept(self, log_ratio: Tensor) -> Tensor:
        """Metropolis and Hastings: True with probability min(1, exp(log_ratio)); `[*B, R]` both."""
        return self.count(self.uniform().log() < log_ratio)

    def count(self, accepted: Tensor) -> Tensor:
        """Note which moves were accepted, `[*B, R]`; returns them."""
        self._accepted += accepted.double().mean(-1)
        self._proposed += 1
        return accepted

    def move(self, accepted: Tensor, y: Tensor) -> None:
        """Go to states y `[*B, R, n]` where the move was accepted `[*B, R]`."""
        self.s = torch.where(accepted[..., None], y, self.s)

    def result(self, E: Tensor, tag: Exactness = Exactness.ASYMPTOTIC, **info: Any) -> Samples:
        """The chains as they stand.

        Args:
            E: their energies `[*B, R]`.
            tag: what is known about their law.
            info: what the kernel adds to acceptance and cost, or puts in their place.
        """
        acceptance = self._accepted / max(1, self._proposed)
        counted = {"acceptance": acceptance, **self.cost()}
        return Samples(self.s.to(torch.int8), E, exactness=tag, info={**counted, **info})

    def cost(self) -> Mapping[str, int]:
        """Rows evaluated since the call began."""
        return {
            name: count - self._counts_before[name] for name, count in self.energy.counts.items()
        }

    def spins_like(self, anchor: Tensor | None) -> Tensor:
        """An anchor `[*B, n]` as floats `[*B, R, n]`; fresh random spins for None."""
        if anchor is None:
            return (self.uniform(self.n) < 0.5).to(self.s) * 2 - 1
        if anchor.device != self.s.device:
            raise ValueError(f"the anchor is on {anchor.device}, x on {self.s.device}: move one")
        if anchor.shape != (*self.batch, self.n):
            raise ValueError(
                f"expected an anchor {[*self.batch, self.n]}, one state per item; got "
                f"{list(anchor.shape)}"
            )
        check_spins("an anchor", anchor, "take its sign")
        return anchor.detach().to(self.s)[..., None, :].expand_as(self.s)


@dataclass(frozen=True, eq=False)
class Point:
    """States s `[*B, R, n]` with their energies E `[*B, R]` and gradients g `[*B, R, n]`."""

    s: Tensor
    E: Tensor
    g: Tensor


@runtime_checkable
class GradientProposal(Protocol):
    """A move that the gradient at the present state proposes."""

    def log_proposal(self, s: Tensor, g: Tensor, y: Tensor) -> Tensor:
        """Log q(s -> y), `[*B, R]`.

        Args:
            s: present states `[*B, R, n]`.
            g: gradient of E at s.
            y: proposed states.
        """
        ...

    def propose(self, s: Tensor, g: Tensor, chains: Chains) -> Tensor:
        """States y `[*B, R, n]` drawn from q(s -> y).

        Args:
            s: present states `[*B, R, n]`.
            g: gradient of E at s.
            chains: whose random numbers are used.
        """
        ...


def gradient_moves(proposal: GradientProposal, steps: int, chains: Chains) -> Samples:
    """The chains after `steps` proposals, each accepted or rejected; one gradient per step.

    Args:
        proposal: q.
        steps: proposals per chain.
        chains: where they begin.
    """
    present = Point(chains.s, *chains.energy.gradient(chains.s))
    for _ in range(steps):
        y = proposal.propose(present.s, present.g, chains)
        proposed = Point(y, *chains.energy.gradient(y))
        accepted = chains.accept(log_ratio(proposal, present, proposed))
        chains.move(accepted, y)
        E = torch.where(accepted, proposed.E, present.E)
        g = torch.where(accepted[..., None], proposed.g, present.g)
        present = Point(chains.s, E, g)
    return chains.result(present.E)


def log_ratio(proposal: GradientProposal, x: Point, y: Point) -> Tensor:
    r"""Log acceptance ratio, $E(x) - E(y) + \log q(y \to x) - \log q(x \to y)$.

    Args:
        proposal: q.
        x: the present states.
        y: the proposed ones.
    """
    forward = proposal.log_proposal(x.s, x.g, y.s)
    backward = proposal.log_proposal(y.s, y.g, x.s)
    return x.E.double() - y.E.double() + backward - forward


def flip(s: Tensor, site: Tensor) -> Tensor:
    """The states `[..., n]`, each with its own site `[...]` flipped."""
    index = site[..., None]
    return s.scatter(-1, index, -s.gather(-1, index))
