"""A function as a sampler: what its numbers mean, and what is refused."""

import numpy as np
import pytest
import torch

from qsample import Exactness, Graph, Ising
from qsample.annealers import Corrected, FromCallable, Gibbs
from tests.support.seeds import generator

PROBLEM = Ising(Graph.complete(3), torch.tensor([0.1, -0.2, 0.3]), torch.zeros(3, 3))
BITS = [[0, 1, 1], [1, 0, 0]]


def giving(rows):
    """A function that returns these rows whatever it is asked."""

    def kit(problem, num, seed):
        return rows

    return kit


@pytest.mark.parametrize(
    ("returns", "rows", "spins"),
    [
        ("bits", BITS, [[-1, 1, 1], [1, -1, -1]]),
        ("qubits", BITS, [[1, -1, -1], [-1, 1, 1]]),
        ("spins", [[-1, 1, 1], [1, -1, -1]], [[-1, 1, 1], [1, -1, -1]]),
    ],
)
@pytest.mark.parametrize(
    "kind",
    [list, np.array, torch.tensor, lambda r: torch.tensor(r).double(), lambda r: np.array(r, "f")],
)
def test_bits_are_ones_up_and_qubits_zeros_up(returns, rows, spins, kind):
    samples = FromCallable(giving(kind(rows)), returns).sample(PROBLEM, 2)
    assert samples.spins.tolist() == spins
    assert samples.spins.dtype == torch.int8
    assert samples.exactness is Exactness.HEURISTIC
    torch.testing.assert_close(samples.energy, PROBLEM.energy(torch.tensor(spins)))


@pytest.mark.parametrize("rows", [np.array(BITS) > 0, torch.tensor(BITS) > 0])
def test_bools_are_bits(rows):
    spins = FromCallable(giving(rows), "bits").sample(PROBLEM, 2).spins
    assert spins.tolist() == [[-1, 1, 1], [1, -1, -1]]


@pytest.mark.parametrize(
    ("returns", "rows", "error", "message"),
    [
        ("spins", [[1, 1, 1]] * 3, ValueError, r"of shape \[2, 3\], .*got \[3, 3\]: .*num=2 reads"),
        ("spins", [[1, 1]] * 3, ValueError, r"got \[3, 2\]: return its transpose"),
        ("spins", [1, 1, 1], ValueError, r"of shape \[2, 3\], a row per read; got \[3\]$"),
        ("spins", BITS, ValueError, r'of -1 and 1; got 0: .*returns="bits"'),
        ("bits", [[1, -1, 1]] * 2, ValueError, r'bits of 0 and 1; got -1: .*returns="spins"'),
        ("bits", [[0.5, 1, 0]] * 2, ValueError, "got 0.5: round or threshold"),
        ("bits", [[float("nan"), 1, 0]] * 2, ValueError, "got nan"),
        ("spins", torch.full((2, 3), 255, dtype=torch.uint8), ValueError, "got 255"),
        ("bits", ["010", "110"], TypeError, r"got list: count strings"),
        ("bits", {"010": 1, "110": 1}, TypeError, r"got dict: count strings"),
        ("bits", torch.zeros(2, 3, dtype=torch.complex64), TypeError, "amplitudes: measure first"),
        ("bits", None, TypeError, "got NoneType"),
    ],
)
def test_wrong_answers_are_refused_in_one_line(returns, rows, error, message):
    with pytest.raises(error, match=message) as raised:
        FromCallable(giving(rows), returns).sample(PROBLEM, 2)
    assert "expected kit to return" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"expected a function of \(problem, num, seed\).*got 'x'"):
        FromCallable("x")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="expected a function"):
        FromCallable(Gibbs)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="unknown returns 'counts'; expected one of spins, bits"):
        FromCallable(giving(BITS), "counts")  # pyright: ignore[reportArgumentType]


def test_each_problem_is_asked_alone_with_a_seed_of_31_bits():
    asked = []

    def kit(problem, num, seed):
        asked.append((problem.h.tolist(), num, seed))
        return np.ones((num, problem.num_spins))

    batch = Ising(PROBLEM.graph, torch.stack([PROBLEM.h, -PROBLEM.h]), PROBLEM.J)
    FromCallable(kit).sample(batch, 4, generator=generator())
    assert [h for h, _, _ in asked] == batch.h.tolist()
    assert [num for _, num, _ in asked] == [4, 4]
    seeds = [seed for _, _, seed in asked]
    assert len(set(seeds)) == 2 and all(0 <= seed < 1 << 31 for seed in seeds)


def test_corrected_makes_a_law_of_it():
    sampler = Corrected(FromCallable(giving(np.ones((4, 3)))), Gibbs(sweeps=2))
    assert sampler.sample(PROBLEM, 4).exactness is Exactness.ASYMPTOTIC
