"""Replicas at temperatures of their own: what tempering, population annealing and importance sampling sweep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qsample.annealers.kernels.energies import energies
from qsample.annealers.kernels.stepwise import Kernel, kernel_for, sweep_kernel, working
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.sweeper import native_for
from qsample.annealers.kernels.update import Rule, some_of
from qsample.problem.ising import Ising


class Replicas:
    """R replicas of each of P problems: spins `[P, R, n]` int8, on the native kernels or those of torch.

    `heat_bath.native_for` decides which. Replica r of a problem draws from numbers of its own, and
    the draws of a problem are a function of its seed alone.

    Args:
        problem: the first problem.
        num: R.
        seeds: one a problem.
        spins: where to start; uniform random spins by default.
        rule: of the sweeps; see `update.rule_of`.
        palindromic: sweeps forward and back.
        hardest: the problem with the largest fields that replicas will `move` to, which decide the
            precision; by default the first.
        coldest: the largest beta of all sweeps.
    """

    def __init__(
        self,
        problem: Ising,
        num: int,
        seeds: Sequence[int],
        spins: Tensor | None = None,
        rule: Rule = "gibbs",
        palindromic: bool = False,
        hardest: Ising | None = None,
        coldest: float = 1.0,
    ) -> None:
        self._problem = problem
        self.num = num
        self._seeds = seeds
        self._rule: Rule = rule
        self._back = palindromic
        hardest = problem if hardest is None else hardest
        self._native = native_for(hardest, "full", coldest)
        self._dtype = problem.dtype if self._native is not None else working(hardest, coldest).dtype
        self._streams = Streams(seeds, problem.device)
        self._kernel: Kernel | None = None
        self._sweeps = 0  # done: numbers those to come, for randomness
        self._energy: Tensor | None = None
        start = (
            self._streams.spins(num, problem.num_spins)
            if spins is None
            else spins.reshape(-1, num, spins.shape[-1])
        )
        self._spins = start

    @property
    def spins(self) -> Tensor:
        """The state; not to be written to."""
        if self._kernel is not None:
            self._spins = self._kernel.spins()
        return self._spins

    @property
    def energy(self) -> Tensor:
        """E of each replica under the present problem, `[P, R]` float64 on the CPU, without a sweep."""
        if self._energy is None:  # of the same rounding with and without a sweep before
            self._energy = self.energy_under(self._problem)
        return self._energy

    def energy_under(self, problem: Ising) -> Tensor:
        """E of each replica under any problem on the same graph, `[P, R]` float64 on the CPU.

        The native kernels take couplings in single precision; a problem in double is not theirs
        here.
        """
        if self._native is not None and problem.dtype != torch.float64:
            none = torch.empty(0, dtype=torch.float32)
            return self._native(problem, self.num, none, self._seeds, spins=self.spins).energy
        if self._native is None:
            spins = self.spins.reshape(*problem.batch_shape, *self.spins.shape[1:])
            found = problem.to(dtype=self._dtype).energy(spins)
            return found.reshape(len(self._seeds), self.num).cpu().double()
        return energies(problem, self.spins)

    def sweep(self, betas: Tensor) -> None:
        """One sweep at each of `betas`: `[S]`, or `[S, P, R]` with one a replica."""
        if self._native is not None:
            swept = self._native(
                self._problem,
                self.num,
                betas,
                self._seeds,
                spins=self._spins,
                first_sweep=self._sweeps,
                rule=self._rule,
                palindromic=self._back,
            )
            self._spins = swept.spins
            self._energy = None if self._problem.dtype == torch.float64 else swept.energy
        else:
            work = self._problem.to(dtype=self._dtype)
            if self._kernel is None:
                self._kernel = kernel_for(work, self._spins, self._streams, "full")
            sweep_kernel(
                self._kernel,
                betas.to(work.device, work.dtype),
                self._rule,
                first_sweep=self._sweeps,
                palindromic=self._back,
            )
            self._energy = None
        self._sweeps += len(betas)

    def take(self, spins: Tensor) -> None:
        """Go on from other spins, `[P, R, n]`: resampled ones, or those of replicas that stopped."""
        self._spins = spins.contiguous()
        self._kernel = None
        self._energy = None

    def keep(self, index: Tensor) -> None:
        """Go on with some of the problems of a batch of one dimension; their draws do not change."""
        self._problem = some_of(self._problem, index.to(self._problem.device))
        spins = self.spins
        kept = index.tolist()
        self._seeds = [self._seeds[k] for k in kept]
        self._streams.keep(kept)
        self.take(spins[index.to(spins.device)])

    def move(self, problem: Ising) -> None:
        """Go on under another problem on the same graph."""
        self.take(self.spins)
        self._problem = problem


def ordered_sum(x: Tensor) -> Tensor:
    """The sum over the last dimension from left to right: rounded alike for any batch and thread count."""
    return x.cumsum(-1)[..., -1]


def log_mean_exp(x: Tensor) -> Tensor:
    """Log of the mean of exp(x) over the last dimension, by `ordered_sum`."""
    top = x.amax(-1, keepdim=True)
    return (ordered_sum((x - top).exp()) / x.shape[-1]).log() + top[..., 0]


def relative_error(x: Tensor) -> Tensor:
    """The standard error of the mean of independent exp(x), over that mean; last dimension, by `ordered_sum`."""
    ratio = (x - log_mean_exp(x)[..., None]).exp()
    return (ordered_sum((ratio - 1).square()) / ((x.shape[-1] - 1) * x.shape[-1])).sqrt()


def as_log_weight(log_w: Tensor, problem: Ising) -> Tensor:
    """Log-weights `[P, R]` as `Samples` holds them, `[*B, R]`: the largest is 0, so that few digits tell them apart.

    They are in single precision at least: in 8 bits a weight of e^-10 would be 3 % off.
    """
    dtype = torch.promote_types(problem.dtype, torch.float32)
    relative = log_w - log_w.amax(-1, keepdim=True)
    return relative.to(problem.device, dtype).reshape(*problem.batch_shape, -1)


def effective_fraction(x: Tensor) -> Tensor:
    r"""The effective sample size of weights exp(x) over their number, $(\sum w)^2 / (N \sum w^2)$, last dimension."""
    w = (x - x.amax(-1, keepdim=True)).exp()
    return ordered_sum(w).square() / ordered_sum(w.square()) / x.shape[-1]
