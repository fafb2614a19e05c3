"""The engine's law once more in NumPy: the same roundings, no shared code.

Whole groups of uncoupled spins are redrawn at once, from fields that one product of floats gives:
sums of integers below 2^53 are exact in them, in any order.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from qsample import Graph, Ising
from qsample.annealers import _engine
from qsample.annealers.kernels.native import Swept
from tests.support.exact import one_by_one

LOW = np.uint64(2**32 - 1)
HALF = np.uint32(2**16 - 1)
GOLDEN = 0x9E3779B97F4A7C15
START = 2**32 - 1  # the pass of a random start


# ---- random words ----------------


def _u64(x) -> np.ndarray:
    return np.asarray(x, dtype=np.uint64)


def mix(z) -> np.ndarray:
    """The finaliser of SplitMix64."""
    with np.errstate(over="ignore"):
        z = _u64(z)
        z = (z ^ (z >> _u64(30))) * _u64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> _u64(27))) * _u64(0x94D049BB133111EB)
        return z ^ (z >> _u64(31))


def hashed(lane: np.ndarray, visit: np.ndarray) -> np.ndarray:
    """32 bits of the keys of a lane and of a visit, which broadcast."""
    with np.errstate(over="ignore"):
        x = ((lane & LOW) + (visit & LOW)) & LOW
        x = ((x ^ (x >> _u64(16))) * _u64(0x7FEB352D)) & LOW
        x = ((x ^ (x >> _u64(15))) + ((lane ^ visit) >> _u64(32))) & LOW
        x = ((x ^ (x >> _u64(16))) * _u64(0x846CA68B)) & LOW
        return (((x ^ (x >> _u64(13))) * _u64(0xC2B2AE35)) & LOW).astype(np.uint32)


def random_bits(seed: int, replicas, passes, spins) -> np.ndarray:
    """The word of 32 random bits by replica and (pass, spin), which broadcast.

    Replicas 2 k and 2 k + 1 share two hashes: the first has the upper 16 bits of both words, their
    top bits turned, and the second the lower ones.
    """
    replicas = _u64(replicas)
    with np.errstate(over="ignore"):
        pair = (replicas >> _u64(1)) + _u64(1)
        lane = mix(mix(_u64(seed) + _u64(GOLDEN)) + pair * _u64(0xD1B54A32D192ED03))
        visit = mix((_u64(passes) << _u64(32) | _u64(spins)) + _u64(GOLDEN))
    odd = (replicas & _u64(1)) > 0
    upper, lower = (
        np.where(odd, x >> np.uint32(16), x & HALF)
        for x in (
            hashed(lane, visit),
            hashed(lane ^ _u64(0x5BD1E995), visit ^ _u64(0x9E3779B9 << 32)),
        )
    )
    return (upper ^ np.uint32(0x8000)) << np.uint32(16) | lower


# ---- fields in whole units ----------------


class Rounded(NamedTuple):
    """A problem in whole multiples of its unit."""

    unit: float
    h: np.ndarray  # int64 [n]
    J: np.ndarray  # int64 [n, n], symmetric


def matrix(problem: Ising) -> np.ndarray:
    """The couplings of one problem of any kind, float64 `[n, n]`, rounded to single precision."""
    i, j = problem.graph.edges.numpy()
    J = np.zeros((problem.num_spins,) * 2)
    J[i, j] = J[j, i] = problem.graph.edge_values(problem.J).float().numpy()
    return J


def rounded(problem: Ising) -> Rounded:
    """h and J as the engine takes them: the unit is 2^-27 of a power of two that bounds fields."""
    h = problem.h.float().double().numpy()
    J = matrix(problem)
    a = np.abs(J).sum(1).max(initial=0.0)
    b = np.abs(h).max(initial=0.0)
    exponents = [_ceil_log2(x) - less for x, less in ((a, 0), (b, 3)) if x > 0]
    unit = 2.0 ** (max([*exponents, -99]) - 27) if exponents else 1.0
    # halves go to even
    return Rounded(unit, np.rint(h / unit).astype(np.int64), np.rint(J / unit).astype(np.int64))


def _ceil_log2(x: float) -> int:
    significand, exponent = np.frexp(x)
    return int(exponent) - (significand == 0.5)


# ---- the rule ----------------


def power(x: np.ndarray) -> np.ndarray:
    """2^x in single precision, by a polynomial; no product is added to unrounded."""
    x = x.clip(np.float32(-126), np.float32(126))
    whole = (x + np.float32(12582912)) - np.float32(12582912)
    r = x - whole
    p = np.full_like(r, 1.3264715e-3)
    for c in (9.6715083e-3, 5.5507336e-2, 2.4022242e-1, 6.9314700e-1, 1.0):
        p = p * r + np.float32(c)
    return (p.view(np.int32) + (whole.astype(np.int32) << 23)).view(np.float32)


def redrawn(
    rule: str, rate: np.ndarray, field: np.ndarray, word: np.ndarray, up: np.ndarray
) -> np.ndarray:
    """Which spins are +1 after their visit.

    Args:
        rule: "gibbs" or "metropolis", of this sweep.
        rate: 2 beta u / ln 2, float32 `[R, 1]`.
        field: in units, `[R, g]`.
        word: 32 random bits for each.
        up: which are +1 before.
    """
    x = rate * field.astype(np.int64).astype(np.float32)
    w = word.astype(np.float32)
    with np.errstate(over="ignore"):
        if rule == "gibbs":
            return ~(w * power(x) + w > np.float32(2**32))
        return up ^ ~(w > power(np.where(up, x, -x)) * np.float32(2**32))


# ---- sweeps ----------------


class Slow(NamedTuple):
    """What `native.Swept` says of one problem."""

    spins: torch.Tensor  # int8 [R, n]
    energy: torch.Tensor  # float64 [R], with the offset


def groups(graph: Graph, order: str, scan: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Uncoupled spins in the order of a sweep, and of its way back.

    Args:
        graph: any graph.
        order: "sparse", colour by colour; "bipartite", the right side and then the left; or
            "complete", spin by spin.
        scan: "forward" or "palindromic".
    """
    if order == "bipartite":
        n = graph.sizes[0]
        left, right = np.split(np.arange(graph.num_spins), [n])
        forward, back = [right, left], [right]
    else:
        if order == "sparse":
            forward = [colour.numpy() for colour in graph.colours]
        else:
            forward = list(np.arange(graph.num_spins)[:, None])
        back = forward[::-1]
    return forward, back if scan == "palindromic" else []


def slow_sweep(
    problem: Ising,
    num: int,
    betas: np.ndarray,
    seed: int,
    *,
    spins: torch.Tensor | None = None,
    first_replica: int = 0,
    first_sweep: int = 0,
    rule: str = "gibbs",
    scan: str = "forward",
    order: str = "",
) -> Slow:
    """The native sweeps of one problem.

    Args:
        problem: one problem of any kind.
        num: number R of replicas.
        betas: `[S]` or `[S, R]`.
        seed: of the problem.
        spins: where to start, `[R, n]`.
        first_replica: number of replica 0.
        first_sweep: number of the first sweep.
        rule: "gibbs" or "metropolis".
        scan: "forward" or "palindromic".
        order: as in `groups`; that of the kind of graph by default.
    """
    unit, H, K = rounded(problem)
    everywhere = np.arange(problem.num_spins)
    replicas = first_replica + np.arange(num)[:, None]
    if spins is None:
        up = random_bits(seed, replicas, START, everywhere) < 2**31
    else:
        up = spins.numpy() > 0
    forward, back = groups(problem.graph, order or problem.graph.kind, scan)

    def fields(group: np.ndarray) -> np.ndarray:
        return H[group] + (2.0 * up - 1) @ K[:, group].astype(np.float64)

    for sweep, beta in enumerate(np.asarray(betas, dtype=np.float32), first_sweep):
        # the first of every four sweeps of Metropolis is a heat bath
        now = rule if sweep % 4 else "gibbs"
        beta = np.broadcast_to(beta, num)[:, None].astype(np.float64)
        rate = (2 * 1.4426950408889634 * beta * unit).astype(np.float32)
        for number, visited in ((2 * sweep, forward), (2 * sweep + 1, back)):
            words = random_bits(seed, replicas, number, everywhere) if visited else None
            for group in visited:
                assert words is not None
                up[:, group] = redrawn(now, rate, fields(group), words[:, group], up[:, group])
    s = 2 * up.astype(np.int64) - 1
    total = (s * (H + fields(everywhere).astype(np.int64))).sum(1)
    energy = torch.from_numpy(unit * total / 2) + problem.offset.double()
    return Slow(torch.from_numpy(s.astype(np.int8)), energy)


def assert_lawful(
    native: Callable[..., Swept],
    problem: Ising,
    num: int,
    betas: torch.Tensor,
    seeds: Sequence[int],
    *,
    spins: torch.Tensor | None = None,
    order: str = "",
    **how: Any,
) -> torch.Tensor:
    """Spins and energies are those of the reference, bit for bit, on every instruction set.

    Args:
        native: one of the native kernels.
        problem: P problems.
        num: number R of replicas of each.
        betas: `[S]` or `[S, P, R]`.
        seeds: one per problem.
        spins: where to start, `[P, R, n]`.
        order: as in `groups`.
        **how: further arguments, of both.

    Returns:
        The spins, `[P, R, n]`.
    """
    slow: list[Slow] = []
    for p, (_, alone) in enumerate(one_by_one(problem)):
        own = betas if betas.dim() == 1 else betas[:, p]
        start = None if spins is None else spins[p]
        slow.append(slow_sweep(alone, num, own.numpy(), seeds[p], spins=start, order=order, **how))
    expected = torch.stack([one.spins for one in slow])
    energy = torch.stack([one.energy for one in slow])
    for isa in _engine.instruction_sets():
        swept = native(problem, num, betas, seeds, spins=spins, isa=isa, **how)
        assert torch.equal(swept.spins, expected), isa
        assert torch.equal(swept.energy, energy), isa
        assert swept.sweeps == len(betas), isa
    return expected


def onsager(beta: float, size: int) -> float:
    """Mean energy of a ferromagnet on a size x size torus, J = -1.

    Kaufman's exact sum, Phys. Rev. 76, 1232 (1949).
    """
    K = torch.tensor(beta, dtype=torch.float64, requires_grad=True)
    m = n = size

    def gamma(r: int) -> torch.Tensor:
        if r == 0:
            return 2 * K + torch.log(torch.tanh(K))
        cosh = torch.cosh(2 * K) / torch.tanh(2 * K) - np.cos(np.pi * r / n)
        return torch.acosh(cosh)

    odd, even = ([gamma(r) * (m / 2) for r in range(k, 2 * n, 2)] for k in (1, 0))

    def log_product(terms: Sequence[torch.Tensor], sign: int) -> torch.Tensor:
        """log prod |2 cosh x| or |2 sinh x|; in the disordered phase gamma_0 < 0."""
        return torch.stack(
            [x.abs() + torch.log1p(sign * torch.exp(-2 * x.abs())) for x in terms]
        ).sum()

    logs = torch.stack(
        [log_product(odd, 1), log_product(odd, -1), log_product(even, 1), log_product(even, -1)]
    )
    signs = torch.tensor([1.0, 1.0, 1.0, float(gamma(0).detach().sign())], dtype=torch.float64)
    top = logs.max().detach()
    log_z = (
        m * n / 2 * torch.log(2 * torch.sinh(2 * K))
        + torch.log((signs * (logs - top).exp()).sum())
        + top
    )
    return -float(torch.autograd.grad(log_z, K)[0])
