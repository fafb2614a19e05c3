"""The sweeper: its draws do not depend on the problems beside them, nor on how sweeps are split."""

import pytest
import torch

from qsample import Ising
from qsample.annealers.kernels.betas import Constant
from qsample.annealers.kernels.sweeper import Sweeper
from tests.support.exact import a_graph, a_problem

KINDS = ["sparse", "bipartite", "complete"]
SEEDS = [4, 5, 6]


def batch(kind: str) -> Ising:
    """Three problems, of which single precision does not serve the second."""
    problem = a_problem(a_graph(kind), h=(3,), J=(3,), offset=(3,), dtype=torch.float32)
    large = problem.h.clone()
    large[1] *= 3e6
    return Ising(problem.graph, large, problem.J, problem.offset)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [[0, 2], [1], [1, 2]])
@pytest.mark.parametrize("native", [True, False])
def test_problems_that_are_kept_draw_as_if_the_others_had_stayed(kind, places, native):
    whole = Sweeper(batch(kind), 7, SEEDS, native=native)
    part = Sweeper(batch(kind), 7, SEEDS, native=native)
    for sweeper in (whole, part):
        sweeper.scatter()
        sweeper.sweep(torch.ones(2))
    # a torch kernel begins anew from other spins: both must
    whole.take(whole.spins)
    part.keep(torch.tensor(places))
    for sweeper in (whole, part):
        sweeper.sweep(torch.ones(3))
    assert torch.equal(part.spins, whole.spins[places])
    assert torch.equal(part.energy(), whole.energy()[places])
    assert part.done.tolist() == [[5] * 7] * len(places)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("native", [True, False])
def test_reads_have_the_batch_dimensions_and_their_energies(kind, native):
    problem = a_problem(a_graph(kind), h=(2, 3))
    sweeper = Sweeper(problem, 4, range(6), native=native)
    sweeper.run(Constant(3))
    spins, energy = sweeper.reads()
    assert spins.shape == (2, 3, 4, problem.num_spins) and spins.dtype == torch.int8
    torch.testing.assert_close(energy, problem.energy(spins))
    torch.testing.assert_close(sweeper.energy(problem.scale(2.0)), 2 * energy.reshape(6, 4))


def test_energies_follow_the_problem_and_the_spins():
    problem = a_problem(a_graph("sparse"), h=(3,))
    sweeper = Sweeper(problem, 4, SEEDS)
    sweeper.sweep(torch.ones(3))
    before = sweeper.energy()
    sweeper.move(problem.scale(3.0))
    torch.testing.assert_close(sweeper.energy(), 3 * before)
    turned = -sweeper.spins
    sweeper.take(turned)
    torch.testing.assert_close(sweeper.energy(), problem.scale(3.0).energy(turned))
