r"""The native kernels: what their calls share is made ready once, and each has a short call.

All obey one law, bit for bit: neither the kernel's inner path nor the instruction set, the batch,
the threads (torch's) nor how sweeps are split into calls can change a draw. Kernels differ in the
order of visits alone. `_engine.NUMBERING` counts the laws so far; this is number 2.

- **Fields are whole numbers of a unit** $u = 2^{e-27}$ of their problem, $2^e$ being the least
  power of two that is neither below $a = \max_i \sum_j |J_{ij}|$ nor below $\max_i |h_i| / 8$. h
  and J, taken in single precision whatever the problem's, are rounded to multiples of u; from there
  on fields are sums of integers, exact in any order. So the problem that is sampled is an Ising
  problem whose h and J are each off by u/2 at most: by $2^{-27}$ of the larger of a and
  $\max_i |h_i| / 8$.
- **Words.** The 32 random bits that decide a spin are a function of (seed of its problem, replica,
  pass, spin). Sweep s makes pass 2 s, its way back is pass 2 s + 1, and a random start is pass
  $2^{32} - 1$: its spins are +1 where the top bit is 0. Replicas 2 k and 2 k + 1 share a hash, each
  taking the upper 16 bits of its word from one half of it; the lower 16 bits are of a second hash,
  which one decision in $2^{15}$ needs.
- **The rule** of a field f and a word w, in single precision, each operation rounded by itself
  (nothing fused): $x = 2 \beta u f \log_2 e$, and the heat bath makes a spin +1 unless
  $w \, 2^x + w > 2^{32}$; Metropolis turns it unless $w > 2^{32 + s x}$. Kernels decide most spins
  by bounds of 16 bits, and those that lie between them by this rule.
- **Energies** are those of the rounded problem: sums of 64-bit integers, times u.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.kernels.torch_dense import square
from qsample.annealers.kernels.update import Rule, Scan
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising

ISA = os.environ.get("QSAMPLE_ISA", "")
"""instruction set of calls that name none: the environment variable QSAMPLE_ISA, read once, as this
module is imported; "" is the best of this machine"""


class Swept(NamedTuple):
    """What a call leaves; one that was ended leaves some blocks of replicas undone."""

    spins: Tensor  # int8 [P, R, n]
    energy: Tensor  # float64 [P, R], with the offset
    sweeps: int  # done by every replica
    done: Tensor  # int32 [P, R], by each


class Native(Protocol):
    """What every kernel on the CPU takes; `sweep_sparse` documents it."""

    def __call__(
        self,
        problem: Ising,
        num: int,
        betas: Tensor | Sequence[float],
        seeds: Sequence[int],
        *,
        spins: Tensor | None = None,
        first_sweep: int = 0,
        rule: Rule = "gibbs",
        scan: Scan = "forward",
        alive: Callable[[], bool] | None = None,
    ) -> Swept:
        """Sweeps of P problems on one graph, R = `num` replicas each.

        Args:
            problem: P problems on the CPU; all arguments are as in `sweep_sparse`.
            num: number of replicas of each problem.
            betas: inverse temperatures, `[S]` or `[S, P, R]`.
            seeds: one 63-bit seed per problem.
            spins: where to start, `[P, R, n]`.
            first_sweep: number of the first sweep.
            rule: "gibbs" or "metropolis".
            scan: "forward" or "palindromic".
            alive: False ends the call after the present sweep.
        """
        ...


def sweep_sparse(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    spins: Tensor | None = None,
    first_replica: int = 0,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    alive: Callable[[], bool] | None = None,
    isa: str = ISA,
) -> Swept:
    """Sweeps of P problems on one sparse graph, R = `num` replicas each, on the CPU.

    Args:
        problem: sparse problems on the CPU, checked, batch dimensions of any number.
        num: number of replicas of each problem.
        betas: one inverse temperature per sweep, `[S]`, or one per sweep and replica, `[S, P, R]`.
        seeds: one 63-bit seed per problem.
        spins: where to start, `[P, R, n]`; by default uniform random spins of the kernel's own.
        first_replica: number of replica 0, for randomness.
        first_sweep: number of the first sweep, for randomness: S, after a call of S sweeps, goes on
            with it.
        rule: "gibbs" or "metropolis"; see `update.rule_of`.
        scan: "forward", or "palindromic": each sweep visits the spins forward and back, which is
            reversible under the heat bath.
        alive: function asked some times per second; False ends the call after the present sweep.
        isa: one of `_engine.instruction_sets()`; the best of this machine by default.
    """
    from qsample.annealers import _engine

    call = Call(problem, num, seeds, spins)
    fewest = _engine.sweep(
        *call.results,
        *structure(problem.graph),
        call.h,
        _single(call.flat.J),
        columns_of(betas),
        call.seeds,
        first_replica,
        first_sweep,
        rule == "metropolis",
        scan == "palindromic",
        spins is None,
        torch.get_num_threads(),
        isa,
        alive,
    )
    return call.swept(fewest)


def sweep_dense(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    spins: Tensor | None = None,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    alive: Callable[[], bool] | None = None,
    isa: str = ISA,
) -> Swept:
    """Sweeps of P problems, each spin coupled to most: fields are kept, a flip adds a row of J.

    Args:
        problem: complete or sparse problems on the CPU; the rest is as in `sweep_sparse`.
        num: number of replicas of each problem.
        betas: inverse temperatures, `[S]` or `[S, P, R]`.
        seeds: one 63-bit seed per problem.
        spins: where to start, `[P, R, n]`.
        first_sweep: number of the first sweep.
        rule: "gibbs" or "metropolis".
        scan: "forward" or "palindromic".
        alive: False ends the call after the present sweep.
        isa: an instruction set; the best of this machine by default.
    """
    from qsample.annealers import _engine

    call = Call(problem, num, seeds, spins)
    J = square(call.flat)
    # rows padded with zeros to a multiple of 16 numbers, which the kernel adds at once
    rows = torch.zeros(*J.shape[:2], -(-J.shape[-1] // 16) * 16, dtype=torch.float32)
    rows[..., : J.shape[-1]] = J
    fewest = _engine.sweep_dense(
        *call.results,
        call.h,
        rows.numpy(),
        columns_of(betas),
        call.seeds,
        first_sweep,
        rule == "metropolis",
        scan == "palindromic",
        spins is None,
        torch.get_num_threads(),
        isa,
        alive,
    )
    return call.swept(fewest)


def sweep_bipartite(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    spins: Tensor | None = None,
    first_replica: int = 0,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    alive: Callable[[], bool] | None = None,
    isa: str = ISA,
) -> Swept:
    """Sweeps of P problems on one bipartite graph (RBMs): couplings are read where they lie.

    The right side (hidden units) is updated first, then the left; palindromic, then the right once
    more.

    Args:
        problem: bipartite problems on the CPU; the rest is as in `sweep_sparse`.
        num: number of replicas of each problem.
        betas: inverse temperatures, `[S]` or `[S, P, R]`.
        seeds: one 63-bit seed per problem.
        spins: where to start, `[P, R, n]`.
        first_replica: number of replica 0, for randomness.
        first_sweep: number of the first sweep.
        rule: "gibbs" or "metropolis".
        scan: "forward" or "palindromic".
        alive: False ends the call after the present sweep.
        isa: an instruction set; the best of this machine by default.
    """
    chains = Bipartite(
        problem,
        num,
        seeds,
        spins=spins,
        first_replica=first_replica,
        rule=rule,
        scan=scan,
        isa=isa,
        kept=False,
    )
    swept = chains.sweep(betas, first_sweep, alive)
    return swept._replace(spins=chains.spins)


class Bipartite:
    """Replicas of bipartite problems between calls: what a call makes ready serves the next one.

    Couplings that are packed and looked up, and packed spins, stay as they are from one call of
    `sweep` to the next (where problems share J and a unit). Draws are those of `sweep_bipartite`.

    Args:
        problem: bipartite problems on the CPU, as in `sweep_bipartite`.
        num: number of replicas of each problem.
        seeds: one 63-bit seed per problem.
        spins: where to start, `[P, R, n]`; by default uniform random spins of the kernel's own.
        first_replica: number of replica 0, for randomness.
        rule: "gibbs" or "metropolis".
        scan: "forward" or "palindromic".
        isa: an instruction set; the best of this machine by default.
        kept: whether many calls are to come, which pay for tables that one would not.
    """

    def __init__(
        self,
        problem: Ising,
        num: int,
        seeds: Sequence[int],
        *,
        spins: Tensor | None = None,
        first_replica: int = 0,
        rule: Rule = "gibbs",
        scan: Scan = "forward",
        isa: str = ISA,
        kept: bool = True,
    ) -> None:
        from qsample.annealers import _engine

        self._call = Call(problem, num, seeds, spins)
        self._random = spins is None
        self._engine = _engine.Bipartite(
            *self._call.results,
            self._call.h,
            _single(self._call.flat.J),
            self._call.seeds,
            first_replica,
            rule == "metropolis",
            scan == "palindromic",
            kept,
            isa,
        )

    def sweep(
        self,
        betas: Tensor | Sequence[float],
        first_sweep: int,
        alive: Callable[[], bool] | None = None,
    ) -> Swept:
        """One sweep at each beta; the result's `spins` are not up to date.

        Args:
            betas: inverse temperatures, `[S]` or `[S, P, R]`.
            first_sweep: number of the first sweep.
            alive: False ends the call after the present sweep.
        """
        fewest = self._engine.sweep(
            columns_of(betas), first_sweep, self._random, torch.get_num_threads(), alive
        )
        self._random = False
        return self._call.swept(fewest)

    @property
    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8, in the memory of these chains."""
        self._engine.write()
        return self._call.spins

    def take(self, spins: Tensor) -> None:
        """Go on from other spins, `[P, R, n]`."""
        self._call.spins.copy_(spins.reshape(self._call.spins.shape))
        self._engine.read()
        self._random = False


# ---- what the calls share ----------------


class Call:
    """What every kernel reads of a call, as arrays, and where it writes.

    Args:
        problem: P problems.
        num: replicas R of each.
        seeds: one per problem.
        spins: where to start, `[P, R, n]`; None leaves the start to the kernel.

    Attributes:
        flat: the problems in one batch dimension.
        h: fields, float32 `[P, n]`.
        seeds: int64 `[P]`.
        results: spins `[P R, n]` int8, which hold the start before; energy `[P R]` float64, without
            the offset; done `[P R]` int32.
    """

    def __init__(
        self,
        problem: Ising,
        num: int,
        seeds: Sequence[int],
        spins: Tensor | None,
    ) -> None:
        self.flat = problem.flat()
        self.h = _single(self.flat.h)
        self.seeds = np.array(seeds, dtype=np.int64)
        problems, n = self.h.shape
        self._shape = (problems, num)
        self._spins = torch.empty(problems * num, n, dtype=torch.int8)
        if spins is not None:
            self._spins.copy_(spins.reshape(problems * num, n))
        self._energy = np.empty(problems * num)
        self._done = np.empty(problems * num, dtype=np.int32)

    @property
    def results(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spins, energies and sweeps done, which the kernel writes in place."""
        return self._spins.numpy(), self._energy, self._done

    @property
    def spins(self) -> Tensor:
        """The spins, `[P, R, n]`, as they lie in the results."""
        return self._spins.reshape(*self._shape, self.flat.num_spins)

    def swept(self, fewest: int) -> Swept:
        """The results as tensors, given the sweeps that every replica did."""
        offset = _array(self.flat.offset, torch.float64)[:, None]
        energy = torch.from_numpy(self._energy.reshape(self._shape) + offset)
        done = torch.from_numpy(self._done.reshape(self._shape))
        return Swept(self.spins, energy, fewest, done)


def columns_of(betas: Tensor | Sequence[float]) -> np.ndarray:
    """Inverse temperatures `[S]` or `[S, P, R]` as `[S, 1 or P R]`."""
    # lists too in single precision, whatever the default dtype
    beta = _array(torch.as_tensor(betas, dtype=torch.float32), torch.float32)
    return beta if beta.ndim == 2 else beta.reshape(len(beta), math.prod(beta.shape[1:]))


def _single(t: Tensor) -> np.ndarray:
    return _array(t, torch.float32)


def _array(t: Tensor, dtype: torch.dtype) -> np.ndarray:
    return t.detach().to(dtype).contiguous().numpy()


class Structure(NamedTuple):
    """A graph as the sparse kernel reads it, int32: spins renumbered in the order of a sweep."""

    order: np.ndarray  # [n] the graph's number of each renumbered spin
    place: np.ndarray  # [n] the inverse
    start: np.ndarray  # [n + 1] where the neighbours of each spin begin
    near: np.ndarray  # [2 k] renumbered neighbours, in the graph's order
    edge: np.ndarray  # [2 k] their edges
    colour: np.ndarray  # [C + 1] where each colour begins


def structure(graph: Graph) -> Structure:
    """The structure of a graph, laid out once.

    Colour by colour, within a colour by degree: no spin waits for the one just before it, and loops
    run evenly.
    """

    def make() -> Structure:
        start, neighbour, edge = graph.csr
        colours = [colour[(-graph.degree[colour]).argsort(stable=True)] for colour in graph.colours]
        order = torch.cat(colours) if colours else torch.empty(0, dtype=torch.int64)
        place = order.argsort()
        # the neighbours of each renumbered spin: its stretch of the graph's CSR, moved
        degree = graph.degree[order]
        first = torch.zeros(len(order) + 1, dtype=torch.int64)
        first[1:] = degree.cumsum(0)
        shift = (start[order] - first[:-1]).repeat_interleave(degree)
        position = torch.arange(int(first[-1])) + shift
        ends = torch.tensor([0, *map(len, colours)]).cumsum(0)
        parts = (order, place, first, place[neighbour[position]], edge[position], ends)
        return Structure(*(np.ascontiguousarray(part.numpy().astype(np.int32)) for part in parts))

    return graph.cached("structure", make)
