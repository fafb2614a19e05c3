"""Replicas of a batch of problems, swept by the kernel that serves them: beneath every chain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from qsample.annealers.kernels.betas import BLOCK, LISTENING, Betas, blocks
from qsample.annealers.kernels.choose import native_kernel, torch_kernel
from qsample.annealers.kernels.double import sweep_mixed
from qsample.annealers.kernels.energies import energies, narrowed
from qsample.annealers.kernels.native import (
    Bipartite,
    Native,
    sweep_bipartite,
    sweep_sparse,
)
from qsample.annealers.kernels.precision import wide_problems, working
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import Kernel, Precision, Rule, Scan, sweep_groups
from qsample.problem.ising import Ising
from qsample.sampling.cost import count_updates
from qsample.sampling.random import mix_each

Alive = Callable[[], bool]

EPOCH = 1 << 30  # sweeps that one seed numbers
AT_ONCE = 1 << 22  # betas of a block, where each replica has one of its own
NO_BETAS = torch.empty(0, dtype=torch.float32)


class Sweeper:
    """R replicas of each of P problems, and the sweeps that move them.

    Replica r of a problem draws from numbers of its own, and the draws of a problem are a function
    of its seed alone: neither the batch nor how sweeps are split into calls changes them.

    Args:
        problem: a batch of P problems, of any batch dimensions, checked.
        num: number R of replicas of each problem.
        seeds: one 63-bit seed per problem.
        spins: where to start, `[*B, R, n]`; by default uniform random spins, which the first sweep
            makes for itself, or `scatter`.
        rule: "gibbs" (heat bath) or "metropolis"; see `update.rule_of`.
        scan: "forward", or "palindromic": each sweep visits the groups forward and back, which
            makes any number of sweeps of the heat bath reversible.
        precision: number format of the fields; see `Gibbs`.
        coldest: the largest beta of all sweeps to come, which decides between single and double.
        hardest: the problem with the largest fields that replicas will `move` to, which decides it
            too; None is `problem`.
        alive: function asked now and then whether to go on: once it says no, the present sweeps are
            the last; None never ends.
        native: whether the native kernels may serve; torch's do elsewhere, as on other devices.
        first_replica: number of replica 0, for randomness.

    Raises:
        ValueError: a precision that does not serve this problem, or fields that double precision
            cannot hold; a first replica where kernels do not number replicas.
    """

    def __init__(
        self,
        problem: Ising,
        num: int,
        seeds: Sequence[int],
        spins: Tensor | None = None,
        *,
        rule: Rule = "gibbs",
        scan: Scan = "forward",
        precision: Precision = "full",
        coldest: float = 1.0,
        hardest: Ising | None = None,
        alive: Alive | None = None,
        native: bool = True,
        first_replica: int = 0,
    ) -> None:
        self.num = num
        self.rule: Rule = rule
        self.scan: Scan = scan
        self.precision: Precision = precision
        self._batch = problem.batch_shape
        self._problem = problem.flat()
        self._coldest = coldest
        self._hardest = problem if hardest is None else hardest
        self._alive = alive
        self._seeds = list(seeds)
        self._streams: Streams | None = None
        self._native = native_for(self._hardest, precision, coldest) if native else None
        if first_replica:
            self._native = numbered(self._native, first_replica)
        self._dtype = problem.dtype
        if self._native is None:
            self._dtype = working(self._hardest, coldest, precision).dtype
        self._kernel: Kernel | None = None
        self._chains: Bipartite | None = None  # from the second native call on
        self._goes_on = False
        self._taken = False  # whether the spins are others than those of the chains
        self._spins = None if spins is None else spins.reshape(len(seeds), num, problem.num_spins)
        self._energy: Tensor | None = None
        self._sweeps = 0  # done: numbers those to come, for randomness
        self._missed: Tensor | int = 0  # sweeps that `alive` took from each replica, `[P, R]`

    # ---- where the replicas are ----------------

    @property
    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8; not to be written to."""
        if self._kernel is not None:
            self._spins = self._kernel.spins()
        elif self._spins is None and self._chains is not None:
            self._spins = self._chains.spins.clone()
        if self._spins is None:
            self.scatter()
        assert self._spins is not None
        return self._spins

    def scatter(self) -> None:
        """Uniform random spins now, for energies before the first sweep."""
        self.take(self.streams.spins(self.num, self._problem.num_spins))

    @property
    def streams(self) -> Streams:
        """Numbers for what the native kernels do not draw."""
        if self._streams is None:
            self._streams = Streams(self._seeds, self._problem.device)
        return self._streams

    @property
    def done(self) -> Tensor:
        """Sweeps of each replica, `[P, R]` int64."""
        return torch.full((len(self._seeds), self.num), self._sweeps) - self._missed

    def energy(self, problem: Ising | None = None) -> Tensor:
        """E of each replica, `[P, R]` float64 on the CPU, without a sweep.

        Args:
            problem: any problem of this size; the present one by default.
        """
        return self._energies(problem).cpu().double()

    def reads(self) -> tuple[Tensor, Tensor]:
        """Spins `[*B, R, n]` and their energies `[*B, R]` in the problem's dtype."""
        spins = self.spins.reshape(*self._batch, self.num, -1)
        energy = narrowed(self._energies(), self._problem.dtype)
        return spins, energy.reshape(*self._batch, self.num)

    def _energies(self, problem: Ising | None = None) -> Tensor:
        """E of each replica, `[P, R]`, as the kernel sums it."""
        if problem is not None:
            return self._summed(problem.flat())
        if self._energy is None:
            self._energy = self._summed(self._problem)
        return self._energy

    def _summed(self, problem: Ising) -> Tensor:
        if self._native is None:
            return problem.to(dtype=self._dtype).energy(self.spins)
        # the native kernels take couplings in single precision
        if problem.dtype == torch.float64:
            return energies(problem, self.spins)
        # a call of no sweeps, so that rounding is the same with and without sweeps before
        return self._native(problem, self.num, NO_BETAS, self._seeds, spins=self.spins).energy

    # ---- sweeps ----------------

    def run(self, betas: Betas) -> None:
        """One sweep at each beta of a schedule, a block at a time, until `alive` says no."""
        steps: Iterable[tuple[int, Tensor]] = blocks(betas, self._longest(betas))
        independent = self.rule == "gibbs" and self._problem.graph.num_edges == 0
        if independent and self._native is None:
            # one heat-bath update of independent spins is an exact draw
            steps = [(0, betas.block(betas.count - 1, betas.count))]
        for first, block in steps:
            if first and self._alive is not None and not self._alive():
                break
            self.sweep(block)

    def sweep(self, betas: Tensor) -> None:
        """One sweep at each beta: `[S]`, or one per problem `[S, P, 1]` or replica `[S, P, R]`."""
        if betas.dim() > 1:
            betas = betas.expand(-1, -1, self.num)
        if self._native is not None:
            self._sweep_native(self._native, betas)
        else:
            self._sweep_torch(betas)
        self._sweeps += len(betas)
        visits = len(betas) * (2 if self.scan == "palindromic" else 1)
        count_updates(visits * len(self._seeds) * self.num * self._problem.num_spins)

    def _sweep_native(self, native: Native, betas: Tensor) -> None:
        # a seed numbers 2^30 sweeps; beyond them another goes on
        epoch, first_sweep = divmod(self._sweeps, EPOCH)
        if native is sweep_bipartite and self._goes_on and not epoch:
            swept = self._kept().sweep(betas, first_sweep, self._alive)
            self._spins = None
        else:
            swept = native(
                self._problem,
                self.num,
                betas,
                mix_each(self._seeds, epoch + 8) if epoch else self._seeds,
                spins=self._spins if self._chains is None else self.spins,
                first_sweep=first_sweep,
                rule=self.rule,
                scan=self.scan,
                alive=self._alive,
            )
            self._spins = swept.spins
            self._chains = None
        self._goes_on = True
        self._energy = None if self._problem.dtype == torch.float64 else swept.energy
        if self._alive is not None:
            self._missed = self._missed + (len(betas) - swept.done.long())

    def _kept(self) -> Bipartite:
        """Chains at the present spins, which keep from call to call what a call makes ready."""
        if self._chains is None:
            self._chains = Bipartite(
                self._problem,
                self.num,
                self._seeds,
                spins=self._spins,
                rule=self.rule,
                scan=self.scan,
            )
        elif self._taken and self._spins is not None:
            self._chains.take(self._spins)
        self._taken = False
        return self._chains

    def _sweep_torch(self, betas: Tensor) -> None:
        if self._kernel is None:
            work = self._problem.to(dtype=self._dtype)
            self._kernel = torch_kernel(work, self.spins, self.streams, self.precision)
        done = sweep_groups(
            self._kernel,
            betas.to(self._problem.device, self._dtype),
            rule=self.rule,
            scan=self.scan,
            first_sweep=self._sweeps,
            alive=self._alive,
        )
        self._energy = None
        self._missed = self._missed + (len(betas) - done)

    def _longest(self, betas: Betas) -> int:
        """Sweeps of a block, a power of two: fewer where each replica has a beta of its own."""
        longest = BLOCK if self._alive is None else LISTENING
        if betas.block(0, 1).dim() == 1:
            return longest
        while longest > 64 and longest * len(self._seeds) * self.num > AT_ONCE:
            longest //= 2
        return longest

    # ---- to other states and problems ----------------

    def take(self, spins: Tensor) -> None:
        """Go on from other spins, `[P, R, n]`: resampled ones, or those before a refused move."""
        self._spins = spins.contiguous()
        self._taken = True
        self._kernel = None
        self._energy = None

    def move(self, problem: Ising) -> None:
        """Go on under another problem on the same graph."""
        self.take(self.spins)
        self._problem = problem.flat()
        self._chains = None
        self._goes_on = False

    def keep(self, places: Tensor) -> None:
        """Go on with the problems at `places` `[P']` alone; their draws do not change."""
        spins = self.spins
        numbers = places.tolist()
        places = places.to(spins.device)
        self._batch = torch.Size([len(numbers)])
        self._seeds = [self._seeds[k] for k in numbers]
        if self._streams is not None:
            self._streams.keep(numbers)
        if isinstance(self._missed, Tensor):
            self._missed = self._missed[numbers]
        self._hardest = self._hardest.take(places)
        if self._native is not None:
            self._native = native_for(self._hardest, self.precision, self._coldest)
        self._problem = self._problem.take(places)
        self._chains = None
        self.take(spins[places])


def native_for(
    problem: Ising, precision: Precision = "full", coldest: float = 1.0
) -> Native | None:
    """The native call that serves a problem at betas up to `coldest`, or None where torch does.

    The kernels take h and J in single precision, whatever the problem's, and round fields to a unit
    of their own (see `native`): problems of a batch of which that would draw other spins go to
    `double.sweep_double`.

    Args:
        problem: any problems of one graph.
        precision: number format of the fields; see `Gibbs`.
        coldest: the largest beta of all sweeps.

    Raises:
        ValueError: fields that double precision cannot hold.
    """
    native = native_kernel(problem, precision)
    if native is None:
        return None
    wide = wide_problems(problem, coldest)
    return native if wide is None else partial(sweep_mixed, native=native, wide=wide)


def numbered(native: Native | None, first_replica: int) -> Native:
    """The native call whose replica 0 draws the numbers of another.

    Raises:
        ValueError: a kernel that does not number its replicas.
    """
    if native is sweep_bipartite:
        return partial(sweep_bipartite, first_replica=first_replica)
    if native is sweep_sparse:
        return partial(sweep_sparse, first_replica=first_replica)
    raise ValueError(
        f"first_replica={first_replica} is for sparse and bipartite problems on the CPU whose "
        "fields single precision can hold: use first_replica=0"
    )


def clock(seconds: float | None) -> Alive | None:
    """Whether so many seconds from now are not over yet; None for no limit."""
    if seconds is None:
        return None
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def check_time_limit(seconds: float | None) -> None:
    """ValueError for a limit that is no time."""
    if seconds is not None and not seconds > 0:
        raise ValueError(f"expected time_limit > 0 seconds, or None for none; got {seconds!r}")
