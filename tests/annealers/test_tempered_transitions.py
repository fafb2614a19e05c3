"""Tempered transitions: detailed balance by counts, the law, and both modes of two."""

import pytest
import torch

from qsample import Graph, Ising, Samples
from qsample.annealers import Exact, Gibbs, TemperedGibbs
from qsample.annealers.kernels.streams import Streams
from qsample.problem.enumeration import log_weights, states
from qsample.testing import FALSE_ALARM
from qsample.testing.contract import g_test, reference_cases
from qsample.testing.law import MAX_SPINS
from tests.support.exact import Z_MAX, a_graph, a_problem
from tests.support.problems import two_modes, up
from tests.support.seeds import generator

CASES = {
    case.name: case.problem for case in reference_cases() if case.problem.num_spins <= MAX_SPINS
}
READS = 20_000
SHORT = (1.0, 0.6, 0.2)


def law_start(problem, reads=READS):
    spins = Exact().sample(problem, reads, generator=generator(9)).spins
    return Samples(spins, problem.energy(spins))


@pytest.mark.parametrize("name", CASES)
def test_one_round_leaves_the_law_invariant(name):
    problem, start = CASES[name], law_start(CASES[name])
    found = TemperedGibbs(SHORT).sample(problem, READS, initial=start, generator=generator())
    assert min(p for p, _, _ in g_test(problem, found)) > FALSE_ALARM / 100
    assert not torch.equal(found.spins, start.spins)
    assert found.info["acceptance"].shape == problem.batch_shape
    assert (found.info["acceptance"] > 0.1).all()


def asymmetry(sampler, problem):
    """The largest z of "as often from a to b as back" over all pairs of states, from the law."""
    start = law_start(problem, 100_000)
    end = sampler.sample(problem, 100_000, initial=start, generator=generator()).spins
    size = 1 << problem.num_spins
    place = 1 << torch.arange(problem.num_spins)
    a, b = (((s > 0).long() * place).sum(-1) for s in (start.spins, end))
    seen = torch.bincount(a * size + b, minlength=size**2).reshape(size, size).double()
    return float(((seen - seen.T).abs() / (seen + seen.T).sqrt().clamp(min=1)).max())


# native lanes and kept fields, RBMs in torch
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "graph", [Graph.bipartite(2, 1), Graph.complete(3), Graph.sparse(3, [(0, 1), (1, 2)])]
)
def test_as_often_there_as_back(graph, dtype):
    problem = a_problem(graph, dtype=dtype, scale=0.8)
    assert asymmetry(TemperedGibbs((1.0, 0.3)), problem) < Z_MAX
    assert asymmetry(Gibbs(1), problem) > Z_MAX  # an ordered sweep: the count sees it


def test_a_round_must_be_judged(monkeypatch):
    """Accepted always, a round comes from the hot end and leaves another law."""
    monkeypatch.setattr(
        Streams, "uniform", lambda self, *shape: torch.full((self.count, *shape), 1e-30)
    )
    problem = CASES["sparse"]
    found = TemperedGibbs((1.0, 0.1), rounds=3).sample(
        problem, READS, initial=law_start(problem), generator=generator()
    )
    assert float(found.info["acceptance"]) == 1
    assert g_test(problem, found)[0][0] < 1e-10


@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_crosses_where_gibbs_does_not(kind):
    problem, reads = two_modes(kind), 500
    law = log_weights(problem.to(dtype=torch.float64)).softmax(-1)
    p = float(law[states(12).sum(-1) < 0].sum())
    sampler = TemperedGibbs(16, rounds=20)
    found = sampler.sample(problem, reads, initial=up(problem, reads), generator=generator())
    down = float((found.spins.sum(-1) < 0).double().mean())
    assert abs(down - p) / (p * (1 - p) / reads) ** 0.5 < Z_MAX


def test_weights_and_the_ladder():
    problem = a_problem(a_graph("sparse"), dtype=torch.float32)
    start = law_start(problem, 50)
    weighted = Samples(start.spins, start.energy, torch.arange(50.0))
    found = TemperedGibbs(2).sample(problem, 50, initial=weighted, generator=generator())
    assert found.log_weight is not None and torch.equal(found.log_weight, torch.arange(50.0))
    assert TemperedGibbs(4).ladder == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert TemperedGibbs([1.0, 0.5]).ladder == [1.0, 0.5]


def test_nothing_to_climb():
    """Without couplings or fields every round is accepted."""
    problem = Ising(Graph.sparse(3, []), torch.zeros(3), torch.zeros(0))
    found = TemperedGibbs(5).sample(problem, 20, generator=generator())
    assert float(found.info["acceptance"]) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": 0}, r"betas >= 1, or the betas 1 = b_0 > b_1 .*; got 0"),
        ({"betas": (1.0,)}, r"1 = b_0 > b_1 .*got \(1\.0,\)"),
        ({"betas": (0.9, 0.1)}, r"1 = b_0 > b_1 .*got \(0\.9, 0\.1\)"),
        ({"betas": (1.0, 0.1, 0.4)}, r"1 = b_0 > b_1"),
        ({"sweeps": 0}, r"sweeps >= 1; got 0"),
        ({"rounds": True}, r"rounds >= 1; got True"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        TemperedGibbs(**settings)
