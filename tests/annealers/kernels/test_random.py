"""The generator of the native sweeps: words by (seed, replica, pass, spin).

Every test has the suite's false alarm.
"""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from qsample import Graph, Ising
from qsample.annealers import _engine
from qsample.annealers.kernels.native import sweep_sparse
from qsample.testing import FALSE_ALARM
from tests.support import reference_sweep as slow_sweep
from tests.support.thinning import thinned

P_MIN = FALSE_ALARM / 5000  # some thousand p-values below
AXES = ("seed", "replica", "pass", "spin")
LENGTH = 1 << 16


def words(
    seed: int, shape: tuple[int, int, int], replica: int = 0, number: int = 0, spin: int = 0
) -> np.ndarray:
    out = np.empty(shape, dtype=np.uint32)
    _engine.random_bits(out, seed, replica, number, spin)
    return out


def along(axis: str, at: tuple[int, int, int, int], length: int, step: int = 1) -> np.ndarray:
    """Words as one coordinate counts up from `at` and the others stay."""
    seed, replica, number, spin = at
    if axis == "seed":
        return np.array(
            [
                words(seed + step * k, (1, 1, 1), replica, number, spin)[0, 0, 0]
                for k in range(length)
            ]
        )
    shape = [1, 1, 1]
    shape[AXES.index(axis) - 1] = (length - 1) * step + 1
    return words(seed, (shape[0], shape[1], shape[2]), replica, number, spin).reshape(-1)[::step]


def planes(shape: tuple[int, int, int], seeds: int = 1) -> np.ndarray:
    """[seeds, replicas, passes, spins], from zero."""
    return np.stack([words(s, shape) for s in range(seeds)])


STARTS = [(0, 0, 0, 0), (1, 0, 0, 0), (2**63 - 1, 5, 2, 7), (0xDEADBEEF, 2**31, 2**30, 2**20)]
EACH_AXIS = pytest.mark.parametrize("axis", AXES)
EACH_START = pytest.mark.parametrize("at", STARTS)


def bits_of(w: np.ndarray) -> np.ndarray:
    """[..., 32] of 0 and 1."""
    return (w[..., None] >> np.arange(32, dtype=np.uint32)) & 1


def agree(z: np.ndarray | float, tests: int = 1) -> None:
    """Standard normal numbers, `tests` of them besides these."""
    p = 2 * stats.norm.sf(np.abs(z))
    assert np.min(p) * np.size(p) * tests > P_MIN, f"p = {np.min(p):.2g} of {np.size(p)}"


def uniform_counts(counts: np.ndarray) -> None:
    assert stats.chisquare(counts.reshape(-1)).pvalue > P_MIN


def test_it_is_the_function_the_formula_says():
    shape = (5, 6, 7)
    r, p, i = np.ogrid[:5, :6, :7]
    for seed, replica, number, spin in [*STARTS, (2**64 - 1, 2**32 - 5, 2**32 - 6, 2**32 - 7)]:
        slow = slow_sweep.random_bits(seed, replica + r, number + p, spin + i)
        assert np.array_equal(words(seed, shape, replica, number, spin), slow)


WALKS = list(itertools.product([1, 2, 64], STARTS[::-1]))


@EACH_AXIS
@pytest.mark.parametrize(("step", "at"), thinned(WALKS, len(WALKS)))
def test_a_walk_along_any_axis(axis, at, step):
    length = LENGTH // 4 if axis == "seed" else LENGTH
    w = along(axis, at, length, step)
    b = bits_of(w).astype(float)
    agree((b.sum(0) - length / 2) / (length / 4) ** 0.5)  # each bit as often 1 as 0
    for byte in range(4):  # frequency by bytes
        uniform_counts(np.bincount(w >> np.uint32(8 * byte) & np.uint32(255), minlength=256))
    pairs = (w[:-1:2] >> np.uint32(26)).astype(int) * 64 + (w[1::2] >> np.uint32(26))
    uniform_counts(np.bincount(pairs, minlength=4096))  # of neighbours' top bits
    low = (w[:-1:2] & np.uint32(63)).astype(int) * 64 + (w[1::2] & np.uint32(63))
    uniform_counts(np.bincount(low, minlength=4096))
    u = w / 2.0**32 - 0.5
    for lag in (1, 2, 3, 7, 16, 64):  # serial correlation
        agree((u[lag:] * u[:-lag]).sum() * 12 / (length - lag) ** 0.5)
    runs = 1 + (u[1:] > 0).__ne__(u[:-1] > 0).sum()  # about the median
    agree((runs - length / 2) / (length / 4) ** 0.5)
    ups = (u[1:] > u[:-1]).astype(int)  # runs up and down: (2 n - 1) / 3 +- sqrt((16 n - 29) / 90)
    agree(
        (1 + (ups[1:] != ups[:-1]).sum() - (2 * length - 1) / 3) / ((16 * length - 29) / 90) ** 0.5
    )
    a, c = (2 * b[:-1] - 1), (2 * b[1:] - 1)
    agree(a.T @ c / (length - 1) ** 0.5)  # no bit tells any bit of the next word
    same = a.T @ a / (length - 1) ** 0.5  # nor any other of its own
    agree(same[np.triu_indices(32, 1)])


@pytest.mark.parametrize("axis", thinned(["spin", "seed", "replica", "pass"], 4))
def test_avalanche(axis):
    """One input bit flipped turns each output bit with probability 1/2, pairs independently."""
    rng = np.random.default_rng(1)
    width = {"seed": 63, "replica": 32, "pass": 32, "spin": 32}[axis]
    trials = 2000
    for bit in range(width):
        flips = []
        for seed, *rest in rng.integers(0, 2**32, (trials, 4), dtype=np.uint64).tolist():
            at = [seed * 0x9E3779B1 % 2**63, *rest]
            before = words(at[0], (1, 1, 1), *at[1:])
            at[AXES.index(axis)] ^= 1 << bit
            flips.append(before ^ words(at[0], (1, 1, 1), *at[1:]))
        b = 2 * bits_of(np.concatenate(flips).reshape(-1)).astype(float) - 1
        agree(b.sum(0) / trials**0.5, width)
        agree((b.T @ b)[np.triu_indices(32, 1)] / trials**0.5, width)


@EACH_AXIS
def test_whole_fields_of_neighbours_are_independent(axis):
    """Every replica with the next one, and so on, over many spins: not one pair may stand out."""
    w = planes((64, 16, 64), 64)
    u = np.moveaxis(w, AXES.index(axis), 0).reshape(w.shape[AXES.index(axis)], -1) / 2.0**32 - 0.5
    z = u @ u.T * 12 / u.shape[1] ** 0.5
    agree(z[np.triu_indices(len(u), 1)])


def test_low_numbers_in_all_four_coordinates():
    w = planes((32, 32, 32), 32).reshape(-1)
    for shift in (0, 8, 16):
        uniform_counts(np.bincount(w >> np.uint32(shift) & np.uint32(0xFFFF), minlength=1 << 16))


@pytest.mark.parametrize("shape", [(1, 1, 4), (64, 16, 4), (1, 64, 64), (4096, 1, 1)])
def test_collisions(shape):
    """Birthdays: words that occur twice among N random ones are Poisson of mean N^2 / 2^33."""
    w = np.sort(planes(shape, (1 << 17) // int(np.prod(shape))).reshape(-1))
    expected = len(w) ** 2 / 2.0**33
    found = int((w[1:] == w[:-1]).sum())
    assert min(stats.poisson.cdf(found, expected), stats.poisson.sf(found - 1, expected)) > P_MIN


def test_birthday_spacings():
    """Spacings that occur twice among m birthdays of 2^32 days: Poisson, m^3 / 2^34.

    (Marsaglia 1985.)
    """
    m = 4096
    for axis in AXES:
        found = 0
        for k in range(16):
            spacings = np.sort(
                np.diff(np.sort(along(axis, (100000 * k, 0, 0, 0), m).astype(np.int64)))
            )
            found += int((spacings[1:] == spacings[:-1]).sum())
        expected = 16 * m**3 / 2.0**34
        assert (
            min(stats.poisson.cdf(found, expected), stats.poisson.sf(found - 1, expected)) > P_MIN
        )


@pytest.mark.parametrize("ones", [(0, 1), (1, 2), (0, 3), (2, 3), (1, 3), (0, 2)])
def test_mixed_differences_cancel_nowhere(ones):
    """w(a, b) ^ w(a', b) ^ w(a, b') ^ w(a', b') of neighbours is as random as a word."""
    w = planes((16, 16, 16), 16)
    for axis in ones:
        w = w ^ np.roll(w, 1, axis)
    some = w[tuple(slice(None, None, 2) for _ in range(4))].reshape(-1)  # disjoint squares
    agree((bits_of(some).sum(0) - len(some) / 2) / (len(some) / 4) ** 0.5)
    for byte in range(4):
        uniform_counts(np.bincount(some >> np.uint32(8 * byte) & np.uint32(255), minlength=256))


@pytest.mark.parametrize("rule", ["gibbs", "metropolis"])
def test_seeds_are_as_good_as_replicas(rule):
    """5,000 calls with a seed each leave as many distinct states as one call of 5,000 reads."""
    g = torch.Generator().manual_seed(0)
    pairs = torch.triu_indices(16, 16, 1).T
    problem = Ising(
        Graph.sparse(16, pairs),
        0.2 * torch.randn(16, generator=g),
        torch.randn(120, generator=g) / 4,
    )
    start = torch.ones(1, 5000, 16, dtype=torch.int8)

    def distinct(spins: torch.Tensor) -> int:
        return len(spins.reshape(5000, 16).unique(dim=0))

    reads = distinct(sweep_sparse(problem, 5000, [0.5], [1], spins=start, rule=rule).spins)
    batch = Ising(problem.graph, problem.h.expand(5000, -1), problem.J)
    for seeds in (list(range(5000)), torch.randint(2**62, (5000,), generator=g).tolist()):
        each = sweep_sparse(
            batch, 1, [0.5], seeds, spins=start.reshape(5000, 1, 16), rule=rule
        ).spins
        assert distinct(each) > 0.95 * reads
