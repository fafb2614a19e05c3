import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsample.annealers import _engine

SEEDS = np.array([0, 1, 2, 2**31, 2**63, 2**64 - 1], dtype=np.uint64)
U32 = 2**32 - 1


def uniform(n: int, seeds: np.ndarray = SEEDS, start: int = 0) -> np.ndarray:
    out = np.full((len(seeds), n), np.nan, dtype=np.float32)
    _engine.fill_uniform(out, seeds, start)
    return out


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((U32, U32, U32, U32), (U32, U32), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, words):
    assert _engine.philox4x32(counter, key) == words


# 2**34: the block counter's upper word
@pytest.mark.parametrize("start", [0, 1, 6, 2**34 - 5, 2**62 + 3])
def test_uniforms_are_the_streams_words(start):
    out = uniform(300, start=start)
    for p, seed in enumerate(SEEDS.tolist()):
        for i in (0, 1, 2, 3, 130, 255, 256, 299):
            index, word = divmod(start + i, 4)
            block = _engine.philox4x32((index & U32, index >> 32, 0, 0), (seed & U32, seed >> 32))
            assert out[p, i] == ((block[word] >> 9) + 0.5) * 2.0**-23


@given(
    cuts=st.lists(st.integers(0, 700), max_size=6),
    start=st.integers(0, 2**40) | st.integers(2**34 - 700, 2**34),
)
def test_any_split_of_the_stream_is_one_stream(cuts, start):
    edges = [0, *sorted(cuts), 700]
    parts = [uniform(b - a, start=start + a) for a, b in zip(edges, edges[1:], strict=False)]
    assert np.array_equal(np.concatenate(parts, axis=1), uniform(700, start=start))


def test_a_row_does_not_depend_on_its_batch():
    together = uniform(333, start=5)
    for p in range(len(SEEDS)):
        assert np.array_equal(uniform(333, SEEDS[p : p + 1], start=5)[0], together[p])


def test_torch_and_int64_seeds_give_the_same_bits():
    out = torch.empty(len(SEEDS), 77)
    _engine.fill_uniform(out, torch.from_numpy(SEEDS.view(np.int64)), 9)
    assert np.array_equal(out.numpy(), uniform(77, start=9))


def test_empty_arrays_are_fine():
    assert uniform(0).shape == (6, 0)
    assert uniform(5, SEEDS[:0]).shape == (0, 5)


def test_uniform_inside_the_open_interval_and_symmetric():
    u = uniform(1 << 18, np.arange(4, dtype=np.uint64))
    assert u.min() > 0 and u.max() < 1
    # The extreme words give the ends of the range, which are exact in float32.
    assert np.float32(0.5 * 2.0**-23) > 0 and np.float32((2**23 - 0.5) * 2.0**-23) == 1 - 2.0**-24


def test_uniform_by_chi_square():
    draws, bins = 1 << 20, 1 << 10
    u = uniform(draws, np.arange(1, 5, dtype=np.uint64), start=7).astype(np.float64)
    for row in u:
        counts = np.bincount((row * bins).astype(int), minlength=bins)
        chi2 = ((counts - draws / bins) ** 2).sum() / (draws / bins)
        assert abs(chi2 - (bins - 1)) / np.sqrt(2 * (bins - 1)) < 5
        low_bits = np.bincount((row * 2**23).astype(int) % bins, minlength=bins)
        chi2 = ((low_bits - draws / bins) ** 2).sum() / (draws / bins)
        assert abs(chi2 - (bins - 1)) / np.sqrt(2 * (bins - 1)) < 5


def test_neighbours_are_uncorrelated():
    u = uniform(1 << 14, np.arange(64, dtype=np.uint64)).astype(np.float64) - 0.5

    def z(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).sum() * 12 / np.sqrt(a.size))  # Var(u) = 1/12

    assert abs(z(u[1:], u[:-1])) < 5  # neighbouring seeds, same word
    for lag in (1, 2, 3, 4, 64, 128, 256):
        assert abs(z(u[:, lag:], u[:, :-lag])) < 5


@pytest.mark.parametrize(
    ("out", "seeds", "start", "error", "message"),
    [
        (
            np.empty((2, 3)),
            SEEDS[:2],
            0,
            TypeError,
            "expected out to be .* float32 .* another dtype",
        ),
        (np.empty(3, np.float32), SEEDS[:2], 0, ValueError, r"expected out .* got shape \[3\]"),
        (
            np.empty((3, 2), np.float32).T,
            SEEDS[:2],
            0,
            ValueError,
            "got one that is not C-contiguous",
        ),
        ([[0.0]], SEEDS[:1], 0, TypeError, "expected out .* got list"),
        (
            np.empty((2, 3), np.float32),
            SEEDS[:2].astype(np.int32),
            0,
            TypeError,
            "expected seeds .* another dtype",
        ),
        (
            np.empty((2, 3), np.float32),
            SEEDS[::3],
            0,
            ValueError,
            "expected seeds .* not C-contiguous",
        ),
        (
            np.empty((2, 3), np.float32),
            SEEDS[:3],
            0,
            ValueError,
            r"one seed per row .* \[3\] for out .* \[2, 3\]",
        ),
        (np.empty((2, 3), np.float32), SEEDS[:2], -1, ValueError, "0 <= start .* got -1"),
        (np.empty((2, 3), np.float32), SEEDS[:2], 2**63 - 3, ValueError, "0 <= start < 2"),
        (np.empty((2, 3), np.float32), SEEDS[:2], 2**80, ValueError, "0 <= start < 2"),
        (
            np.empty((2, 3), np.float32),
            SEEDS[:2],
            1.0,
            TypeError,
            "expected start to be an int; got float",
        ),
    ],
)
def test_errors_are_one_line(out, seeds, start, error, message):
    with pytest.raises(error, match=message) as caught:
        _engine.fill_uniform(out, seeds, start)
    assert "\n" not in str(caught.value)
