"""Annealers on any energy, exactly: a sampler proposes by a surrogate, Metropolis corrects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.neural.energy import Energy
from qsample.neural.kernel import Chains, weaker
from qsample.neural.surrogates import Surrogate, restricted, secant
from qsample.problem.ising import Ising
from qsample.sampling.random import Generators
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.diffusion")
@dataclass(frozen=True, eq=False)
class BlockMetropolis:
    r"""Surrogate transitions (Liu, 2001, ch. 9.4) on random blocks of sites, the rest held fixed.

    For each chain a block and a quadratic surrogate U of E on it are made; `sampler`, started at x,
    runs on $e^{-U}$ for as long as it likes, and its end y is accepted with probability

    $$\min\big(1, \exp\{[E(x) - U(x)] - [E(y) - U(y)]\}\big)$$

    which is exact for any U, and any number of sweeps, if the sampler is reversible and U is made
    without looking at x inside the block. So the surrogate's anchor is `anchor` inside the block
    and x outside, and never x itself: an anchor that follows the chain's present state would need
    the normaliser of U. All blocks of all chains are one batch of problems: one call of the sampler
    per move.

        kernel = BlockMetropolis(Gibbs(10, scan="palindromic"), block=16, moves=8)
        # x [B, n]: one chain per image
        samples = kernel.sample(energy, x[:, None], anchor=x_t, generator=generators)

    Args:
        sampler: `Gibbs(sweeps, scan="palindromic")`, or any that declares itself reversible. One
            that cannot continue chains must draw from e^-U itself (`Exact()`): an independence
            sampler.
        surrogate: `secant`, `regression`, `linear`, `taylor`, or `functools.partial` of one with
            its options; or one problem on all sites, made without looking at these chains: a move
            then costs one evaluation.
        block: number of sites of a block, drawn anew for each chain and move; or the blocks to
            choose from, `[m, K]` site numbers (patches of an image; a surrogate's `graph` is then
            one of places in a patch).
        moves: blocks moved per call.

    Raises:
        ValueError: a sampler that is not reversible, block or moves < 1, repeated sites in a block.
        TypeError: no sampler.
    """

    sampler: Sampler
    surrogate: Surrogate | Ising = secant
    block: int | Tensor = 16
    moves: int = 1

    reversible = True

    def __post_init__(self) -> None:
        check_is_sampler(self.sampler)
        if not self.sampler.reversible:
            raise ValueError(
                f"{self.sampler!r} is not reversible, so no correction makes it exact: use "
                'Gibbs(scan="palindromic")'
            )
        whole_settings(self, moves=1)
        if isinstance(self.block, Tensor):
            _check_blocks(self.block)
        else:
            whole_settings(self, block=1)

    @uncompiled
    def sample(
        self,
        energy: Energy,
        x: Tensor,
        *,
        anchor: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Move `moves` blocks of each chain; see `Kernel.sample`.

        Args:
            energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
            x: spins `[*B, R, n]`, R chains per item.
            anchor: spins `[*B, n]` that the surrogate is made at. None takes fresh random spins at
                each move (all that `regression` at flips=0.5 needs).
            generator: one for the batch, or a list with one per item; None is torch's default.

        Returns:
            The chains moved. `info["flips"]` `[*B]` is the mean number of sites a move changed.
        """
        chains = Chains(energy, x, generator)
        E = chains.energy(chains.s)
        tag = Exactness.ASYMPTOTIC
        flips = 0.0
        generators = chains.draws.generators(chains.reads)
        for _ in range(self.moves):
            # a block of each chain, and E as a function of the block alone
            sites = self._sites(chains)
            within = chains.energy.within(chains.s, sites)
            block = chains.s.gather(-1, sites)

            # the surrogate U: it must not see the present state inside the block
            anchors = chains.spins_like(anchor).gather(-1, sites)
            if isinstance(self.surrogate, Ising):
                problem = restricted(self.surrogate, chains.s, sites)
            else:
                problem = self.surrogate(within, anchors, generator=generators)

            # y from a reversible chain on U, corrected for E - U
            y, fall, tag_y = self.propose(problem, block, generators)
            E_y = within(y[..., None, :])[..., 0]
            accepted = chains.accept((E.double() - E_y.double()) - fall)

            tag = weaker(tag, tag_y)
            flips += ((y != block).sum(-1) * accepted).double().mean(-1) / self.moves
            chains.move(accepted, chains.s.scatter(-1, sites, y))
            E = torch.where(accepted, E_y, E)
        return chains.result(E, tag, flips=flips)

    def propose(
        self, problem: Ising, x: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor, Exactness]:
        """Where the sampler ends from each x: (y, U(x) - U(y) in float64, the tag of the draw).

        Args:
            problem: U `[*B, R]`, made without looking at x.
            x: states of the blocks, `[*B, R, K]`.
            generators: one per problem.
        """
        # single precision: U is then what the native kernels sample, to the last bit of h and J
        problem = problem.detach().to(dtype=torch.float32)
        start = x[..., None, :].to(torch.int8)
        initial = Samples(start, problem.energy(start)) if self.sampler.warm_start else None
        samples = self.sampler.sample(problem, 1, initial=initial, generator=generators)

        both = torch.cat([start, samples.spins], -2)
        U = problem.to(dtype=torch.float64).energy(both)
        return samples.spins[..., 0, :].to(x), U[..., 0] - U[..., 1], samples.exactness

    def _sites(self, chains: Chains) -> Tensor:
        """A block for each chain, `[*B, R, K]`, chosen without looking at the state."""
        if isinstance(self.block, Tensor):
            blocks = self.block.to(chains.s.device, torch.int64)
            if int(blocks.max()) >= chains.n:
                raise ValueError(
                    f"a block holds site {int(blocks.max())}: expected sites 0..{chains.n - 1} of x"
                )
            return blocks[(chains.uniform() * len(blocks)).long()]
        if self.block > chains.n:
            raise ValueError(
                f"block {self.block} is larger than x, {chains.n} sites: use block={chains.n} or "
                "fewer"
            )
        # one order for all: a problem on all sites stays shared by the chains
        if self.block == chains.n:
            return torch.arange(chains.n, device=chains.s.device).expand(chains.s.shape)
        sites = chains.draws.subsets(chains.reads, self.block, chains.n)
        return sites.reshape(*chains.batch, chains.reads, self.block)


def _check_blocks(blocks: Tensor) -> None:
    """ValueError unless blocks are `[m, K]`, each of K different sites."""
    good = blocks.dim() == 2 and blocks.numel() > 0 and bool(blocks.min() >= 0)
    if not good or (blocks.sort(-1).values.diff() == 0).any():
        raise ValueError(f"expected blocks [m, K] of different sites; got {blocks.tolist()[:4]}")
