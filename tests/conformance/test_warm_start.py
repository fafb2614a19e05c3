"""A kernel that starts from exact reads keeps their law: every sampler that continues chains."""

import pytest
import torch

from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import (
    AnnealedImportance,
    Corrected,
    Exact,
    Gibbs,
    ParallelTempering,
    PopulationAnnealing,
    TemperedGibbs,
)
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import Z_MAX, slow_law
from tests.support.samplers import LOCAL
from tests.support.seeds import generator
from tests.support.thinning import thinned

RING = Graph.sparse(8, [(i, (i + k) % 8) for i in range(8) for k in (1, 3)])
FEW = Graph.bipartite(4, 3)
G = torch.Generator().manual_seed(5)
PROBLEMS = {
    "frustrated": Ising(
        RING, 0.3 * torch.randn(8, generator=G), 1.2 * torch.randn(16, generator=G)
    ),
    "two modes": Ising(RING, torch.full((8,), 0.05), torch.full((16,), -0.4)),
    "bipartite": Ising(
        FEW, 0.4 * torch.randn(7, generator=G), 1.5 * torch.randn(4, 3, generator=G)
    ),
}
# Any settings leave the law of exact reads as it is.
KERNELS = {
    name: row.quick
    for name, row in LOCAL.items()
    if row.quick.warm_start and row.tag is Exactness.ASYMPTOTIC
} | {
    "tempering, 1 sweep": ParallelTempering(1, 8),
    "tempering, 20 sweeps": ParallelTempering(20, 5, swap_every=3),
}
CASES = [
    (kernel, name)
    for kernel in KERNELS
    for name, problem in PROBLEMS.items()
    if kernel not in LOCAL or problem.graph.kind in LOCAL[kernel].kinds
]
READS = 20_000
SHARE = FALSE_ALARM / (len(CASES) + 20)


def p_value(problem, reads):
    return g_test(problem, reads)[0][0]


@pytest.fixture(scope="module")
def exact():
    return {name: Exact().sample(p, READS, generator=generator(1)) for name, p in PROBLEMS.items()}


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_exact_reads_stay_exact(exact, kernel, name):
    problem = PROBLEMS[name]
    found = KERNELS[kernel].sample(problem, READS, initial=exact[name], generator=generator(2))
    assert found.exactness is Exactness.ASYMPTOTIC and found.log_weight is None
    assert p_value(problem, found) > SHARE
    assert not torch.equal(found.spins, exact[name].spins)  # it did move


@pytest.mark.parametrize("name", thinned(PROBLEMS, 3))
def test_exact_reads_without_their_tag_nearly_stay(exact, name):
    """Hot replicas that start from the reads stay out of the cold end until they have burnt in."""
    problem, plain = PROBLEMS[name], Samples(exact[name].spins, exact[name].energy)
    found = ParallelTempering(20, 8).sample(problem, READS, initial=plain, generator=generator(2))
    assert p_value(problem, found) > SHARE


@pytest.mark.parametrize(
    "first", [Exact(), AnnealedImportance(4), PopulationAnnealing(2, 2048)], ids=repr
)
def test_corrected_by_tempering_keeps_right_reads_right(first):
    problem = PROBLEMS["frustrated"]
    found = Corrected(first, ParallelTempering(6, 8)).sample(problem, 4096, generator=generator(3))
    states, p, _ = slow_law(problem)
    mean = torch.tensor(p, dtype=torch.float64) @ torch.tensor(states, dtype=torch.float64)
    error = ((1 - mean**2) / found.ess().double()).sqrt()
    assert ((found.mean().double() - mean).abs() / error).max() < Z_MAX
    assert (found.log_weight is None) == isinstance(first, Exact)


@pytest.mark.parametrize("name", thinned(PROBLEMS, 3))
def test_tempering_goes_on_from_its_own_carry(exact, name):
    """The second call swaps: the hot replicas have had a whole call to come to rest."""
    problem, sampler = PROBLEMS[name], ParallelTempering(20, 8)
    first = sampler.sample(problem, READS, initial=exact[name], generator=generator(2))
    assert (first.info["round_trips"] == 0).all()
    second = sampler.sample(problem, READS, initial=first, generator=generator(3))
    assert (second.info["round_trips"] > 0).all() and p_value(problem, second) > SHARE


def test_wrong_reads_are_put_right():
    """All spins up, against the field: only swaps bring the other mode in."""
    graph = Graph.complete(10)
    J = torch.full((10, 10), -0.35).fill_diagonal_(0)
    problem = Ising(graph, torch.full((10,), 0.02), J)
    up = torch.ones(2000, 10, dtype=torch.int8)
    wrong = Samples(up, problem.energy(up))
    found = ParallelTempering(100, 6).sample(problem, 2000, initial=wrong, generator=generator(4))
    assert p_value(problem, found) > SHARE
    alone = Gibbs(100).sample(problem, 2000, initial=wrong, generator=generator(4))
    assert p_value(problem, alone) < 1e-10


def test_weights_and_families_are_those_of_the_read_a_ladder_goes_on_from():
    problem = PROBLEMS["frustrated"]
    spins = Exact().sample(problem, 6, generator=generator()).spins
    weight, family = torch.arange(6.0), torch.tensor([0, 0, 1, 2, 2, 3])
    initial = Samples(spins, problem.energy(spins), weight, family=family)
    found = ParallelTempering(2, 3, reads_per_ladder=2).sample(problem, 6, initial=initial)
    assert found.log_weight is not None and found.family is not None
    assert found.log_weight.tolist() == [1, 1, 3, 3, 5, 5] and found.family.tolist() == [
        0,
        0,
        2,
        2,
        3,
        3,
    ]
    fresh = ParallelTempering(2, 3, reads_per_ladder=2).sample(problem, 6)
    assert (
        fresh.family is not None
        and fresh.family.tolist() == [0, 0, 1, 1, 2, 2]
        and fresh.ess() < 3.001
    )
    for kernel in (Gibbs(1), TemperedGibbs(2)):
        kept = kernel.sample(problem, 6, initial=initial)
        assert kept.family is not None and torch.equal(kept.family, family)
