from collections.abc import Callable, Sequence

import numpy as np
import torch

NUMBERING: int
"""Draws of the same seed are bit for bit the same under one numbering: the law's, and its words'.

1 has fields in single precision and a hash for each replica; 2 is what `native` says.
"""

def fill_uniform(
    out: np.ndarray | torch.Tensor, seeds: np.ndarray | torch.Tensor, start: int
) -> None:
    """Fill `out` [P, N] with words start .. start + N - 1 of the stream of each seed [P].

    The streams are of Philox4x32-10. A word becomes `(k + 0.5) * 2**-23` with k its top 23 bits:
    strictly inside (0, 1), exact in float32.
    The stream of a seed does not depend on how it is split into calls, nor on the other rows.

    Args:
        out: C-contiguous CPU float32, written in place.
        seeds: C-contiguous CPU int64 or uint64, the 64 bits of each row's key.
        start: the first word, >= 0.
    """

def philox4x32(counter: Sequence[int], key: Sequence[int]) -> tuple[int, int, int, int]:
    """One block of four 32-bit words: Philox4x32-10 of four counter words and two key words."""

def sweep(
    spins: np.ndarray,
    energy: np.ndarray,
    done: np.ndarray,
    order: np.ndarray,
    place: np.ndarray,
    start: np.ndarray,
    near: np.ndarray,
    edge: np.ndarray,
    colour: np.ndarray,
    h: np.ndarray,
    J: np.ndarray,
    beta: np.ndarray,
    seed: np.ndarray,
    first_replica: int,
    first_sweep: int,
    metropolis: bool,
    palindromic: bool,
    random_start: bool,
    threads: int,
    isa: str,
    alive: Callable[[], bool] | None,
) -> int:
    """Sweeps of P problems on one sparse graph with R replicas each, in place.

    `qsample.annealers.kernels.native` calls it.

    Args:
        spins: int8 [P R, n], the start unless `random_start`, and the result.
        energy: float64 [P R], the result, without the offset.
        done: int32 [P R], the result: sweeps, fewer than S where `alive` ended the call.
        order: int32 [n], the caller's number of each spin in the order of a sweep.
        place: int32 [n], its inverse.
        start: int32 [n + 1], where the neighbours of each spin begin.
        near: int32 [2 k], neighbours, renumbered.
        edge: int32 [2 k], their edges.
        colour: int32 [C + 1], where each group of mutually uncoupled spins begins in the order of a
            sweep.
        h: float32 [P, n].
        J: float32 [1 or P, k].
        beta: float32 [S, 1 or P R].
        seed: int64 [P].
        first_replica: the number of replica 0, for randomness.
        first_sweep: the number of the first sweep, for randomness.
        metropolis: whether three of four sweeps are of that rule, instead of the heat bath.
        palindromic: whether each sweep goes forward and back.
        random_start: whether to start from uniform random spins.
        threads: the most threads to use.
        isa: one of `instruction_sets()`, or "" for the best.
        alive: asked now and then; False ends the call after the present sweep.

    Returns:
        The fewest sweeps that any row did.
    """

def random_bits(out: np.ndarray, seed: int, replica: int, pass_: int, spin: int) -> None:
    """The 32-bit words that decide spins, into `out` uint32 [replicas, passes, spins].

    They are consecutive from the given replica, pass and spin on. A sweep s makes pass 2 s, and
    pass 2 s + 1 on its way back; a random start is pass 2**32 - 1.
    """

def instruction_sets() -> list[str]:
    """Those of "avx512", "avx2", "sse41", "neon" and "plain" that this machine has, best first."""

def draw_bits(
    product: np.ndarray,
    bits: np.ndarray,
    bias: np.ndarray,
    beta: np.ndarray,
    seed: np.ndarray,
    pass_number: int,
    first_spin: int,
    metropolis: bool,
    first_replica: int = 0,
    threads: int = 1,
) -> None:
    """Bits of one side of a bipartite problem from its matrix product, in one pass and in place.

    A bit becomes 1 with probability sigmoid(beta (product + bias)), or is flipped by Metropolis'
    rule. The number that decides it is a function of (seed of its problem, replica, pass_number,
    first_spin + column) alone.

    Args:
        product: [P R, n] float32, or bfloat16 as 16-bit words.
        bits: the same type: 0 and 1, the old ones for Metropolis, the new ones after.
        bias: float32 [1 or P, n].
        beta: float32 [1] or [P R].
        seed: int64 [P].
        pass_number: counts the updates of a run.
        first_spin: the number of column 0.
        metropolis: whether by that rule, instead of the heat bath.
        first_replica: the number of replica 0, for randomness.
        threads: threads that rows may be shared out over; the bits are the same.
    """

def bit_product(
    matrix: torch.Tensor, bits: torch.Tensor, out: torch.Tensor, transposed: bool, threads: int
) -> bool:
    """Sums of the rows of a matrix that bits choose, or of its columns, by looking sums of four up.

    An entry depends on its own row of bits and on the matrix alone: neither on the other rows nor
    on threads nor on the instruction set.

    Args:
        matrix: [n, m] float32, or bfloat16 as 16-bit words; rows lie together.
        bits: float32 [R, n] of 0 and 1; [R, m] where transposed.
        out: float32 [R, m], the result; [R, n] where transposed.
        transposed: whether columns are added.
        threads: threads to use.

    Returns:
        Whether the matrix is finite.
    """

def add_outer(
    into: torch.Tensor,
    bits: torch.Tensor,
    numbers: torch.Tensor,
    keep: float,
    times: float,
    threads: int,
) -> None:
    """Add the product of bits, transposed, and a few rows of numbers to a matrix in one pass.

    Args:
        into: [n, m] float32, or bfloat16 as 16-bit words: it becomes keep into + times the product.
        bits: float32 [K, n] of 0 and 1.
        numbers: float32 [K, m].
        keep: factor of what is there; 0 does not read it.
        times: factor of the product.
        threads: threads to use.
    """

def sweep_dense(
    spins: np.ndarray,
    energy: np.ndarray,
    done: np.ndarray,
    h: np.ndarray,
    J: np.ndarray,
    beta: np.ndarray,
    seed: np.ndarray,
    first_sweep: int,
    metropolis: bool,
    palindromic: bool,
    random_start: bool,
    threads: int,
    isa: str,
    alive: Callable[[], bool] | None,
) -> int:
    """Sweeps of P problems of n spins, each coupled to all, with R replicas each, in place.

    Args:
        spins: int8 [P R, n], the start unless `random_start`, and the result.
        energy: float64 [P R], the result, without the offset.
        done: int32 [P R], the sweeps of each.
        h: float32 [P, n].
        J: float32 [1 or P, n, row], symmetric with zero diagonal, rows padded with zeros to a
            multiple of 16.
        beta: float32 [S, 1 or P R].
        seed: int64 [P].
        first_sweep: the number of the first sweep, for randomness.
        metropolis: whether three of four sweeps are of that rule, instead of the heat bath.
        palindromic: whether each sweep goes forward and back.
        random_start: whether to start from uniform random spins.
        threads: the most threads to use.
        isa: one of `instruction_sets()`, or "" for the best.
        alive: asked now and then; False ends the call after the present sweep.

    Returns:
        The fewest sweeps that any row did.
    """

def energies(
    spins: np.ndarray,
    energy: np.ndarray,
    start: np.ndarray,
    near: np.ndarray,
    edge: np.ndarray,
    h: np.ndarray,
    J: np.ndarray,
    threads: int,
) -> None:
    """Energies of R reads of each of P problems on one sparse graph, in double precision.

    Args:
        spins: int8 [P R, n].
        energy: float64 [P R], the result, without the offset.
        start: int32 [n + 1], where the neighbours of each spin begin.
        near: int32 [2 k], neighbours, ascending for each spin.
        edge: int32 [2 k], their edges.
        h: float64 [P, n].
        J: float64 [1 or P, k].
        threads: the most threads to use.
    """

class Bipartite:
    """Chains of P problems of n left and m right spins with R replicas each.

    Args:
        spins: int8 [P R, n + m], the start unless random, and the result of `write`.
        energy: float64 [P R], the result of `sweep`, without the offset.
        done: int32 [P R], the sweeps of each.
        h: float32 [P, n + m].
        J: float32 [1 or P, n, m].
        seed: int64 [P].
        first_replica: the number of replica 0, for randomness.
        metropolis: whether three of four sweeps are of that rule, instead of the heat bath.
        palindromic: whether each sweep ends with the right side once more.
        kept: whether calls to come pay for the tables of this one.
        isa: one of `instruction_sets()`, or "" for the best.
    """

    def __init__(
        self,
        spins: np.ndarray,
        energy: np.ndarray,
        done: np.ndarray,
        h: np.ndarray,
        J: np.ndarray,
        seed: np.ndarray,
        first_replica: int,
        metropolis: bool,
        palindromic: bool,
        kept: bool,
        isa: str,
    ) -> None: ...
    def sweep(
        self,
        beta: np.ndarray,
        first_sweep: int,
        random_start: bool,
        threads: int,
        alive: Callable[[], bool] | None,
    ) -> int:
        """Sweeps from where the chains are: the fewest that any row did.

        Args:
            beta: float32 [S, 1 or P R].
            first_sweep: the number of the first sweep, for randomness.
            random_start: whether to start from uniform random spins.
            threads: the most threads to use.
            alive: asked now and then; False ends the call after the present sweep.
        """

    def write(self) -> None:
        """Spins to their array."""

    def read(self) -> None:
        """Go on from that array, which has been written to."""
