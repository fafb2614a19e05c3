"""Annealers on any energy, exactly: a reversible sampler of a quadratic surrogate proposes, Metropolis corrects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from qsample.neural.energy import Counted, Energy
from qsample.neural.kernel import Chains, Kernel, check_positive
from qsample.neural.surrogates import Surrogate, restricted, secant
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators, Sampler, check_is_sampler
from qsample.sampling.samples import Exactness, Samples
from qsample.support.transforms import uncompiled


@dataclass(frozen=True, eq=False)
class BlockMetropolis:
    r"""Surrogate transitions (Liu, 2001, ch. 9.4) on random blocks of sites, the rest held fixed.

    For each chain a block and a quadratic surrogate U of E on it are made; `sampler`, started at x, runs on
    $e^{-U}$ for as long as it likes, and its end y is accepted with probability

    $$\min\big(1, \exp\{[E(x) - U(x)] - [E(y) - U(y)]\}\big)$$

    which is exact for any U, and any number of sweeps, if the sampler is reversible and U is made without looking at
    x inside the block. So the surrogate's anchor is `anchor` inside the block and x outside, and never x itself: an
    anchor that follows the chain's present state would need the normaliser of U. All blocks of all chains are one
    batch of problems: one call of the sampler a move.

        kernel = BlockMetropolis(Gibbs(10, scan="palindromic"), block=16, moves=8)
        found = kernel.sample(energy, x[:, None], anchor=x_t, generator=generators)  # x [B, n], one chain an image

    Args:
        sampler: `Gibbs(sweeps, scan="palindromic")`, or any that declares itself reversible. One that cannot continue
            chains must draw from e^-U itself (`Exact()`): an independence sampler.
        surrogate: `secant`, `regression`, `linear`, `taylor`, or `functools.partial` of one with its options; or one
            problem on all sites, made without looking at these chains: a move then costs one evaluation.
        block: sites of a block, drawn anew for each chain and move; or the blocks to choose from, `[m, K]` site
            numbers (patches of an image; a surrogate's `graph` is then one of places in a patch).
        moves: blocks moved a call.

    Raises:
        ValueError: a sampler that is not reversible, block or moves < 1.
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
                f'{self.sampler!r} is not reversible, so no correction makes it exact: use Gibbs(scan="palindromic")'
            )
        check_positive("moves", self.moves)
        if isinstance(self.block, Tensor):
            ordered = self.block.sort(-1).values
            if self.block.dim() != 2 or self.block.numel() == 0 or (ordered.diff() == 0).any() or self.block.min() < 0:
                raise ValueError(f"expected blocks [m, K] of different sites; got {self.block.tolist()[:4]}")
        else:
            check_positive("block", self.block)

    @uncompiled
    def sample(
        self, energy: Energy, x: Tensor, *, anchor: Tensor | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Kernel.sample`. `info["flips"]` `[*B]`: sites that a move changed, on average.

        Without an anchor, fresh random spins stand for one at each move (all that `regression` at flips=0.5 needs).
        """
        chains = Chains(energy, x, generator)
        E, tag, flips = chains.energy(chains.s), Exactness.ASYMPTOTIC, 0.0
        generators = chains.draws.generators(chains.reads)
        for _ in range(self.moves):
            sites = self._sites(chains)
            within = chains.energy.within(chains.s, sites)
            at, now = chains.spins_like(anchor).gather(-1, sites), chains.s.gather(-1, sites)
            if isinstance(self.surrogate, Ising):
                fitted = restricted(self.surrogate, chains.s, sites)
            else:
                fitted = self.surrogate(within, at, generator=generators)
            y, U, tag_y = self.propose(fitted, now, generators)
            E_y = within(y[..., None, :])[..., 0]
            yes = chains.accept((E.double() - E_y.double()) - U)
            tag = tag_y if tag_y is Exactness.HEURISTIC else tag
            flips += ((y != now).sum(-1) * yes).double().mean(-1) / self.moves
            chains.s = torch.where(yes[..., None], chains.s.scatter(-1, sites, y), chains.s)
            E = torch.where(yes, E_y, E)
        return chains.result(E, tag, flips=flips)

    def propose(
        self, problem: Ising, x: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor, Exactness]:
        """For states of blocks `[*B, R, K]` and U, made without x: (y, U(x) - U(y), the tag of its draw)."""
        # single precision: U is then what the native kernels sample, to the last bit of h and J
        problem = problem.detach().to(dtype=torch.float32)
        start = x[..., None, :].to(torch.int8)
        exact = problem.to(dtype=torch.float64)
        initial = Samples(start, problem.energy(start)) if self.sampler.warm_start else None
        found = self.sampler.sample(problem, 1, initial=initial, generator=generators)
        U = exact.energy(torch.cat([start, found.spins], -2))
        return found.spins[..., 0, :].to(x), U[..., 0] - U[..., 1], found.exactness

    def _sites(self, chains: Chains) -> Tensor:
        """A block for each chain, `[*B, R, K]`, chosen without looking at the state."""
        if isinstance(self.block, Tensor):
            blocks = self.block.to(chains.s.device, torch.int64)
            if int(blocks.max()) >= chains.n:
                raise ValueError(f"a block holds site {int(blocks.max())}: expected sites 0..{chains.n - 1} of x")
            return blocks[(chains.uniform() * len(blocks)).long()]
        if self.block > chains.n:
            raise ValueError(f"block {self.block} is larger than x, {chains.n} sites: use block={chains.n} or fewer")
        if self.block == chains.n:  # one order for all: a problem on all sites stays shared by the chains
            return torch.arange(chains.n, device=chains.s.device).expand(chains.s.shape)
        sites = chains.draws.subsets(chains.reads, self.block, chains.n)
        return sites.reshape(*chains.batch, chains.reads, self.block)


@dataclass(frozen=True)
class TemperedTransitions:
    r"""Up a ladder of temperatures and down again as one move (Neal, Stat. Comput. 6, 1996): between far modes.

    With $1 = b_0 > b_1 > \dots > b_L$, `kernel` moves on $b_1 E, \dots, b_L E$ and then on $b_L E, \dots, b_1 E$; the
    end is accepted with the log ratio $\sum_l (b_l - b_{l+1})\,(E(x_l^{\mathrm{up}}) - E(x_l^{\mathrm{down}}))$, where
    $x_l$ are the states between the moves at $b_l$ and $b_{l+1}$.

    `info["log_weight"]` `[*B, R]` is the way up's sum alone: from x of the right law the mean of its exponential is
    $Z(b_L)/Z(1)$ (Jarzynski 1997).

    Args:
        kernel: any reversible kernel, such as `SiteGibbs(steps=n)`.
        betas: $b_0$ to $b_L$, falling from 1.
        moves: rounds a call.

    Raises:
        ValueError: betas that do not fall from 1 to 0 or above; a kernel that is not reversible.
    """

    kernel: Kernel
    betas: Sequence[float] = (1.0, 0.8, 0.6, 0.4, 0.2)
    moves: int = 1

    reversible = True

    def __post_init__(self) -> None:
        check_kernel(self.kernel)
        check_positive("moves", self.moves)
        if not self.kernel.reversible:
            raise ValueError(f"{self.kernel!r} is not reversible: tempered transitions need one that is, as SiteGibbs")
        fall = all(a > b >= 0 for a, b in pairwise(self.betas))
        if len(self.betas) < 2 or self.betas[0] != 1 or not fall:
            raise ValueError(f"expected betas 1 = b_0 > b_1 > ... >= 0; got {list(self.betas)[:8]}")

    @uncompiled
    def sample(
        self, energy: Energy, x: Tensor, *, anchor: Tensor | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Kernel.sample`; the anchor is handed to the kernel."""
        chains = Chains(energy, x, generator)
        generators, E, tag = chains.draws.generators(), chains.energy(chains.s), Exactness.ASYMPTOTIC
        up = torch.zeros_like(E)
        for _ in range(self.moves):
            y, E_y, up, down, tag_y = self.propose(chains.energy, chains.s, E, anchor, generators)
            yes = chains.accept(up - down)
            tag = tag_y if tag_y is Exactness.HEURISTIC else tag
            chains.s, E = torch.where(yes[..., None], y, chains.s), torch.where(yes, E_y, E)
        return chains.result(E, tag, log_weight=up)

    def propose(
        self, energy: Counted, x: Tensor, E: Tensor, anchor: Tensor | None, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Exactness]:
        """From x of energy E: the end y, its energy, the sums over l on the way up and down, the tag."""
        up, tag, steps = torch.zeros_like(E, dtype=torch.float64), Exactness.ASYMPTOTIC, list(pairwise(self.betas))

        def move(x: Tensor, beta: float) -> tuple[Tensor, Tensor]:
            nonlocal tag
            found = self.kernel.sample(energy.scale(beta), x, anchor=anchor, generator=generators)
            tag = Exactness.HEURISTIC if found.exactness is Exactness.HEURISTIC else tag
            return found.spins.to(x), energy(found.spins.to(x))

        for hot, cold in ((b, a) for a, b in steps):
            up = up + (cold - hot) * E.double()
            x, E = move(x, hot)
        down = torch.zeros_like(up)
        for cold, hot in reversed(steps):
            x, E = move(x, hot)
            down = down + (cold - hot) * E.double()
        return x, E, up, down, tag


@dataclass(frozen=True)
class Cycle:
    """Kernels in turn: blocks for far moves, local ones for what the surrogate gets wrong.

    Each leaves the law alone, so all of them do. Reversible only if the turn reads the same backward, such as
    `Cycle([local, blocks, local])`. `info["kernels"]` lists what each accepted and cost.

    Args:
        kernels: in their order; a kernel may come twice.
        rounds: turns a call.
    """

    kernels: Sequence[Kernel]
    rounds: int = 1

    def __post_init__(self) -> None:
        if not len(self.kernels):
            raise ValueError("a cycle of no kernels: expected at least one, such as SiteGibbs()")
        for kernel in self.kernels:
            check_kernel(kernel)
        check_positive("rounds", self.rounds)

    @property
    def reversible(self) -> bool:
        """Whether the kernels are, and read the same backward."""
        there, back = list(self.kernels), list(reversed(self.kernels))
        return there == back and all(kernel.reversible for kernel in there)

    @uncompiled
    def sample(
        self, energy: Energy, x: Tensor, *, anchor: Tensor | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Kernel.sample`; `info["acceptance"]` is the mean over the kernels."""
        chains = Chains(energy, x, generator)
        generators, tag = chains.draws.generators(), Exactness.ASYMPTOTIC
        notes: list[dict[str, Any]] = [{} for _ in self.kernels]
        E = torch.empty(0)
        for _ in range(self.rounds):
            for kernel, note in zip(self.kernels, notes, strict=True):
                found = kernel.sample(chains.energy, chains.s, anchor=anchor, generator=generators)
                tag = found.exactness if found.exactness is Exactness.HEURISTIC else tag
                chains.s, E = found.spins.to(chains.s), found.energy
                for name in ("acceptance", *chains.cost()):
                    note[name] = note.get(name, 0) + (
                        found.info[name] / self.rounds if name == "acceptance" else found.info[name]
                    )
        acceptance = torch.stack([note["acceptance"] for note in notes]).mean(0)
        return chains.result(E, tag, acceptance=acceptance, kernels=notes)


def check_kernel(kernel: object) -> None:
    """TypeError for what is no kernel: a sampler of Ising problems, a name, a class not yet called."""
    if isinstance(kernel, type) or not isinstance(kernel, Kernel) or hasattr(kernel, "warm_start"):
        raise TypeError(f"expected a kernel, such as SiteGibbs(steps=10); got {kernel!r}")
