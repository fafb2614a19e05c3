r"""State vectors in torch: alternating phases and mixers on batches of problems and chains.

A circuit is a row of angles $(\gamma_k, \beta_k)$: layer k is $e^{-i \beta_k \sum_j X_j}
e^{-i \gamma_k C}$ with the diagonal $C = E(s)$, without the offset. Amplitude number k belongs to
state number k of `enumeration.states`, so spin i is +1 where bit i is set: Z_i = s_i.

Real and imaginary parts are numbers of their own, `[2, P, 2^n, M]` in single precision, and every
step is a plain sum or product, which any CPU rounds alike wherever the number stands: problem k of
a batch draws what it draws alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.problem.enumeration import check_range, log_weights
from qsample.problem.ising import Ising

MAX_QUBITS = 20  # 8 MiB an amplitude vector in complex64
AMPLITUDES = 1 << 18  # worked on at once: 2 MiB, and as much beside it, which caches hold


def check_qubits(who: str, n: int, limit: int = MAX_QUBITS) -> None:
    """ValueError for more qubits than a simulation holds, with the memory that they would take.

    Args:
        who: the sampler, as the user named it.
        n: number of spins.
        limit: the most that are simulated.
    """
    if n > limit:
        raise ValueError(
            f"{who} simulates a qubit per spin: {n} spins are 2^{n} amplitudes, "
            f"{size(8 << n)} per state vector in complex64, and at most {limit} "
            f"({size(8 << limit)}) are simulated: use Gibbs or ParallelTempering"
        )


def size(count: int) -> str:
    """A number of bytes in words: "8 MiB"."""
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    unit = min((count.bit_length() - 1) // 10, len(units) - 1)
    return f"{count >> (10 * unit)} {units[unit]}"


def energies(problem: Ising) -> Tensor:
    """E of all states without the offset, `[P, 2^n]` float64, of flat problems."""
    check_range(problem)
    return -log_weights(problem.without_offset())


def ones(n: int, device: torch.device) -> Tensor:
    """Number of bits set in 0 to 2^n - 1, `[2^n]` float64."""
    count = torch.zeros(1, dtype=torch.float64, device=device)
    for _ in range(n):
        count = torch.cat([count, count + 1])
    return count


def basis(number: Tensor, n: int) -> Tensor:
    """The basis states of the given numbers `[P, M]` as state vectors, `[2, P, 2^n, M]`."""
    states = torch.arange(1 << n, device=number.device)
    real = (states[:, None] == number[:, None, :]).float()
    return torch.stack([real, torch.zeros_like(real)])


def uniform(problems: int, n: int, device: torch.device) -> Tensor:
    """The uniform superposition of all states for each problem, `[2, P, 2^n, 1]`.

    Args:
        problems: problems P.
        n: spins.
        device: where the vectors are.
    """
    shape = (problems, 1 << n, 1)
    real = torch.full(shape, 2.0 ** (-n / 2), dtype=torch.float32, device=device)
    return torch.stack([real, torch.zeros_like(real)])


def evolved(state: Tensor, energy: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    r"""The state after all layers, each $e^{-i \beta_k \sum X} e^{-i \gamma_k C}$.

    Args:
        state: `[2, P, 2^n, M]`; it is overwritten.
        energy: C of all states, `[P, 2^n]` float64.
        gamma: angles of the phases, `[P, layers]` float64.
        beta: angles of the mixers, `[P, layers]` float64.
    """
    n = energy.shape[-1].bit_length() - 1
    # the eigenvalues of the sum of X in the basis of Hadamard's transform
    mixer = n - 2 * ones(n, energy.device)
    other = torch.empty_like(state)
    for k in range(gamma.shape[-1]):
        if gamma[:, k].any():
            turn(state, energy * gamma[:, k, None], other)
        state, other = hadamard(state, other)
        turn(state, mixer * beta[:, k, None], other)
        state, other = hadamard(state, other)
        state *= 2.0**-n  # of two transforms; exact
    return state


def turn(state: Tensor, angle: Tensor, spare: Tensor) -> None:
    r"""Multiplies `[2, P, 2^n, M]` by $e^{-i \mathrm{angle}}$ in place; angles `[P, 2^n]`.

    Args:
        state: real and imaginary parts.
        angle: one per amplitude, float64.
        spare: memory like the state, which is overwritten.
    """
    cos = angle.cos().float()[..., None]
    sin = angle.sin().float()[..., None]
    torch.mul(state[0], sin, out=spare[0])
    torch.mul(state[1], sin, out=spare[1])
    state *= cos
    state[0] += spare[1]
    state[1] -= spare[0]


def hadamard(state: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Hadamard's transform of the state, unscaled, and the memory that is free now.

    Args:
        state: `[2, P, 2^n, M]`.
        other: memory like it. Both are overwritten.
    """
    chains = state.shape[-1]
    stride = chains
    while stride < state.shape[-2] * chains:
        pairs = state.view(-1, 2, stride)
        result = other.view(-1, 2, stride)
        torch.add(pairs[:, 0], pairs[:, 1], out=result[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=result[:, 1])
        state, other = other, state
        stride *= 2
    return state, other


def cumulated(state: Tensor) -> Tensor:
    """Sums of |amplitude|^2 over the states up to each, `[P, 2^n, M]` float64."""
    return state.double().square_().sum(0).cumsum_(-2)


def drawn(total: Tensor, column: Tensor, point: Tensor) -> Tensor:
    """A measured state for each point, by inverting its column's cumulative sum; int64 `[P, R]`.

    Args:
        total: `[P, 2^n, M]`, as `cumulated` makes it.
        column: which of the M columns, `[P, R]` int64.
        point: uniform numbers in (0, 1), `[P, R]` float64.
    """
    problem = torch.arange(len(total), device=total.device)[:, None]
    states = total.shape[-2]
    point = point * total[problem, states - 1, column]
    number = torch.zeros_like(column)
    half = states // 2
    while half:  # states below `number` hold too little
        higher = number + half
        number = torch.where(total[problem, higher - 1, column] <= point, higher, number)
        half //= 2
    return number
