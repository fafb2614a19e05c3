"""The G-test itself: its p-values, its floor, its weights."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, kstest

from qsample import Graph, Ising, Samples
from qsample.annealers import Exact
from qsample.problem.enumeration import log_weights, states_of
from qsample.testing import FALSE_ALARM, g_test
from qsample.testing.contract import Verdict, reference_cases
from tests.support.exact import Z_MAX
from tests.support.thinning import thinned

CASES = {case.name: case.problem for case in reference_cases()[:3]}
REPEATS = 200
READS = [300, 2000, 20_000]
SHARE = FALSE_ALARM / (2 * len(CASES) * len(READS))


def exact_draws(problem, num, repeats, seed):
    """`repeats` sets of independent draws, by numpy."""
    p = log_weights(problem.to(dtype=torch.float64)).softmax(-1).numpy()
    dice = np.random.default_rng(seed)
    for _ in range(repeats):
        number = torch.from_numpy(np.repeat(np.arange(len(p)), dice.multinomial(num, p / p.sum())))
        yield Samples(states_of(number, problem.num_spins), torch.zeros(num))


@pytest.mark.parametrize("name", thinned(CASES, 3))
@pytest.mark.parametrize("num", READS)
def test_p_values_of_exact_draws_are_uniform_and_the_floor_is_their_mean_distance(name, num):
    repeats = REPEATS
    results = [g_test(CASES[name], s)[0] for s in exact_draws(CASES[name], num, repeats, seed=num)]
    p, distance, floor = torch.tensor(results, dtype=torch.float64).T
    assert kstest(p.numpy(), "uniform").pvalue > SHARE
    assert binom.sf(int((p < 0.01).sum()) - 1, repeats, 0.01) > SHARE
    assert (floor == floor[0]).all()
    assert abs(float(distance.mean() - floor[0])) < Z_MAX * float(distance.std()) / repeats**0.5


def test_reads_of_weight_zero_do_not_count():
    problem = CASES["sparse"]
    found = Exact().sample(problem, 3000, generator=torch.Generator().manual_seed(0))
    log_weight = torch.zeros(3000)
    log_weight[1000:] = -torch.inf
    weighted = Samples(
        torch.cat([found.spins[:1000], -torch.ones(2000, 6, dtype=torch.int8)]),
        found.energy,
        log_weight,
    )
    alone = Samples(found.spins[:1000], found.energy[:1000])
    assert g_test(problem, weighted)[0] == pytest.approx(g_test(problem, alone)[0], rel=1e-4)


def test_proper_weights_make_hot_reads_right():
    problem, rejected = CASES["bipartite"], 0
    for seed in range(50):
        hot = Exact().sample(
            problem.scale(0.8), 2000, generator=torch.Generator().manual_seed(seed)
        )
        energy = problem.energy(hot.spins)
        weighted = Samples(hot.spins, energy, -energy + problem.scale(0.8).energy(hot.spins))
        assert weighted.ess() < 2000
        assert g_test(problem, Samples(hot.spins, energy))[0][0] < 1e-4
        rejected += g_test(problem, weighted)[0][0] < 0.01
    assert binom.sf(rejected - 1, 50, 0.01) > 1e-6


def test_few_reads_and_rare_states():
    """Pools that are rare themselves, laws of a single state, one read: no alarm, no error."""
    cold = Ising(
        Graph.sparse(3, [(0, 1), (1, 2)]), torch.full((3,), -20.0), torch.full((2,), -20.0)
    )
    for num in (1, 4, 100):
        for problem in (CASES["sparse"], cold):
            found = Exact().sample(problem, num, generator=torch.Generator().manual_seed(0))
            ((p_value, distance, floor),) = g_test(problem, found)
            assert 1e-3 < p_value <= 1 and 0 <= distance <= 1 and 0 <= floor <= 1
    wrong = Samples(torch.ones(100, 3, dtype=torch.int8).neg(), torch.zeros(100))
    assert g_test(cold, wrong)[0][0] < 1e-12


def test_a_batch_is_its_problems_one_by_one():
    (problem,) = (case.problem for case in reference_cases() if case.name == "complete, a batch")
    found = Exact().sample(problem, 1000, generator=torch.Generator().manual_seed(0))
    alone = [
        g_test(
            Ising(problem.graph, problem.h[k], problem.J[k]),
            Samples(found.spins[k], found.energy[k]),
        )[0]
        for k in range(2)
    ]
    assert g_test(problem, found) == alone


def test_a_verdict_sets_the_distance_beside_its_floor():
    verdict = Verdict("sparse", 0.25, 0.0125, 0.012)
    assert str(verdict) == "sparse: p = 0.25, total variation 0.0125 where exact draws show 0.0120"


def test_more_states_than_can_be_counted_are_refused():
    (problem,) = (case.problem for case in reference_cases() if case.name == "many parts")
    with pytest.raises(ValueError, match="132 spins.*at most 16"):
        g_test(problem, Exact().sample(problem, 2))
