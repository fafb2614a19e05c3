"""Population annealing: log Z and its error, weights, families, steps."""

import warnings
from dataclasses import replace

import pytest
import torch

from qsample import Exactness, Ising, ReliabilityWarning
from qsample.annealers import PopulationAnnealing
from qsample.annealers import population_annealing as population
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.annealers.population_annealing import step, survivors
from qsample.problem.enumeration import log_partition, log_weights, states
from qsample.sampling.weights import effective_fraction
from qsample.testing import ContractError, check_sampler
from tests.support.exact import Z_MAX
from tests.support.problems import GRAPHS, problems, z_scores
from tests.support.seeds import generator
from tests.support.thinning import thinned

pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of runs this short


def test_log_partition_and_its_error():
    z = []
    for kind in GRAPHS:
        problem = problems(kind)
        found = PopulationAnnealing(sweeps=5, population=2048).sample(
            problem, 1, generator=generator()
        )
        assert (found.info["ess"] > 100).all() and found.info["note"] == ""
        assert (found.info["log_partition_stderr"] < 0.1).all()
        z.append(z_scores(problem, found.info))
    every = torch.cat(z)
    assert len(every) == 30 and every.abs().max() < Z_MAX
    # chi-squared of 30: 0.44 and 1.61 are one in 10^5
    assert 0.5 < every.square().mean().sqrt() < 1.5


def test_the_error_is_honest_where_populations_are_small():
    """Few replicas, large steps: runs of other seeds spread as the error says, Z is unbiased."""
    problem = problems("complete", 1)
    many = Ising(problem.graph, problem.h.expand(200, -1), problem.J, problem.offset)
    info = (
        PopulationAnnealing(sweeps=1, population=320, target_ess=0.3)
        .sample(many, 1, generator=generator())
        .info
    )
    z = z_scores(many, info)
    assert (info["ess"] < 320).all()
    assert abs(float(z.mean())) < 1 and 0.7 < float(z.square().mean().sqrt()) < 1.5


@pytest.mark.parametrize("kind", thinned(GRAPHS, 3))
def test_weighted_means_are_right(kind):
    problem = problems(kind, 6)
    found = PopulationAnnealing(sweeps=10, population=4096).sample(
        problem, 4096, generator=generator()
    )
    assert found.exactness is Exactness.ASYMPTOTIC and found.log_weight is not None
    assert ((found.log_weight[:, :, None] - found.log_weight[:, None, :]) == 0).any()
    exact = log_weights(problem.to(dtype=torch.float64)).softmax(-1)
    every = states(problem.num_spins).double()
    mean = exact @ every
    # reads of a family count once: the error at the most
    error = ((1 - mean**2) / found.info["ess"][:, None]).sqrt()
    assert ((found.mean().double() - mean).abs() / error).max() < Z_MAX


def test_reads_are_a_random_part_of_the_population():
    problem = problems("sparse", 2)
    few = PopulationAnnealing(population=1000).sample(problem, 7, generator=generator())
    many = PopulationAnnealing(population=1000).sample(problem, 1024, generator=generator())
    assert (
        few.spins.shape == (2, 7, 12) and few.info["population"] == many.info["population"] == 1024
    )
    assert torch.equal(few.info["log_partition"], many.info["log_partition"])
    assert torch.equal(few.spins, many.spins[:, :7])


def test_problems_of_a_batch_go_at_their_own_pace():
    g = problems("complete", 1)
    both = Ising(g.graph, torch.cat([g.h, 0.05 * g.h]), torch.cat([g.J, 0.05 * g.J]))
    found = PopulationAnnealing().sample(both, 5, generator=[generator(1), generator(2)])
    steps = found.info["steps"]
    assert (
        steps[0] > 2 * steps[1] and found.info["family_size"][0] > found.info["family_size"][1] >= 1
    )
    for k in range(2):
        alone = Ising(both.graph, both.h[k], both.J[k])
        one = PopulationAnnealing().sample(alone, 5, generator=generator(1 + k))
        assert torch.equal(one.spins, found.spins[k]) and one.info["steps"] == steps[k]
        for name in ("log_partition", "log_partition_stderr", "ess", "family_size"):
            assert torch.equal(one.info[name], found.info[name][k]), name


def test_steps_have_the_effective_size_asked_for():
    g = generator()
    energy = torch.randn(5, 1000, generator=g, dtype=torch.float64) * torch.tensor(
        [[0.0], [0.1], [3.0], [30.0], [300.0]]
    )
    beta = torch.tensor([0.0, 0.2, 0.2, 0.5, 0.9]).double()
    following = step(energy, beta, 0.7)
    assert torch.equal(following[:2], torch.ones(2).double())  # one step does
    reached = effective_fraction((beta - following)[:, None] * energy)[2:]
    torch.testing.assert_close(reached, torch.full((3,), 0.7).double(), atol=2e-3, rtol=0)
    assert torch.equal(step(energy, torch.ones(5).double(), 0.7), torch.ones(5).double())


def test_systematic_resampling_keeps_each_replica_as_its_weight_says():
    g = generator()
    log_w = 3 * torch.randn(4, 3, 50, generator=g, dtype=torch.float64)
    mean = 50 * log_w.softmax(-1)
    total, runs = torch.zeros(4, 150, dtype=torch.float64), 400
    for _ in range(runs):
        index = survivors(log_w, torch.rand(4, 3, 1, generator=g))
        assert (index // 50 == torch.arange(3).repeat_interleave(50)).all()
        count = torch.zeros(4, 150, dtype=torch.float64).scatter_add_(
            1, index, torch.ones(4, 150).double()
        )
        assert ((count.reshape(4, 3, 50) - mean).abs() < 1 + 1e-9).all()
        total += count
    fraction = (mean % 1).flatten(1)
    error = (fraction * (1 - fraction) / runs).sqrt() + 1e-6
    assert ((total / runs - mean.flatten(1)).abs() / error).max() < Z_MAX
    assert torch.equal(
        survivors(torch.zeros(1, 1, 7).double(), torch.full((1, 1, 1), 0.999)),
        torch.arange(7)[None],
    )


class Wrong(PopulationAnnealing):
    def sample(self, problem, num, *, initial=None, generator=None):
        found = super().sample(problem.scale(1.1), num, initial=initial, generator=generator)
        return replace(found, energy=problem.detach().energy(found.spins))


def test_a_wrong_beta_is_rejected():
    with pytest.raises(ContractError, match=r"the reads do not follow|log_partition.* is off"):
        check_sampler(Wrong(10))
    problem = problems("sparse")
    info = (
        PopulationAnnealing(population=2048)
        .sample(problem.scale(1.1), 1, generator=generator())
        .info
    )
    assert z_scores(problem, info).abs().max() > Z_MAX


def test_a_cold_problem_is_told():
    problem = problems("complete", 1).scale(30.0)
    with pytest.warns(ReliabilityWarning, match="effective families"):
        found = PopulationAnnealing(sweeps=1, population=64).sample(problem, 1)
    assert found.info["note"].startswith("only ") and "effective families" in found.info["note"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sweeps": 0}, "sweeps >= 1; got 0"),
        ({"population": 0}, "population >= 1; got 0"),
        ({"target_ess": 1.0}, "target_ess between 0 and 1; got 1.0"),
        ({"target_ess": 0.0}, "target_ess between 0 and 1; got 0.0"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        PopulationAnnealing(**settings)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_steps_have_a_limit_and_the_note_says_it(scale):
    problem = problems("complete", 2).scale(scale)
    sampler = PopulationAnnealing(sweeps=1, population=64, max_steps=5)
    with pytest.warns(
        ReliabilityWarning, match=r"steps ran out at beta .* \(max_steps=5\): raise max_steps"
    ):
        found = sampler.sample(problem, 8, generator=generator())
    assert (found.info["steps"] == 5).all() and "raise max_steps" in found.info["note"]
    assert found.info["log_partition"].isfinite().all() and (found.spins.abs() == 1).all()


def test_the_last_step_keeps_the_estimate_of_z_unbiased():
    """Two steps where ten would do: weights are wide, the mean of Z over runs is right anyway."""
    one = problems("sparse", 1).scale(0.4)
    many = Ising(one.graph, one.h.expand(300, -1), one.J, one.offset)
    with pytest.warns(ReliabilityWarning, match="steps ran out"):
        info = (
            PopulationAnnealing(sweeps=1, population=320, max_steps=2)
            .sample(many, 1, generator=generator())
            .info
        )
    ratio = (info["log_partition"] - log_partition(one)).exp()
    assert abs(float((ratio.mean() - 1) / (ratio.std() / 300**0.5))) < Z_MAX


def test_coupling_scale_does_not_make_a_call_endless():
    graph = GRAPHS["complete"]
    J = torch.where(torch.rand(graph.num_edges, generator=generator(1)) < 0.5, -1e3, 1e3)
    problem = Ising(graph, torch.zeros(10), graph.couplings(J))
    assert int(PopulationAnnealing(1, 64).sample(problem.scale(1e-3), 4).info["steps"]) < 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReliabilityWarning)
        found = PopulationAnnealing(1, 64).sample(problem, 4, generator=generator())
    assert int(found.info["steps"]) <= PopulationAnnealing().max_steps


def test_nobody_waits_for_the_slowest_of_a_batch(monkeypatch):
    """Replicas swept grow with the number of problems, not with that times the longest run."""
    swept = []
    found = Sweeper.sweep
    monkeypatch.setattr(
        Sweeper, "sweep", lambda self, betas: swept.append(betas.shape[1]) or found(self, betas)
    )
    g = problems("complete", 1).scale(0.05)
    slow = torch.ones(400)
    slow[7] = 400.0
    batch = Ising(g.graph, g.h * slow[:, None], g.J * slow[:, None, None], g.offset.expand(400))
    with pytest.warns(ReliabilityWarning):
        whole = PopulationAnnealing(1, 64).sample(batch, 1, generator=generator())
    steps = whole.info["steps"]
    assert sum(swept) == int(steps.sum()) and int(steps[7]) > 4 * int(steps.median())
    monkeypatch.setattr(population, "AT_ONCE", 64 * 10 * 30)
    swept.clear()
    with pytest.warns(ReliabilityWarning):
        parts = PopulationAnnealing(1, 64).sample(batch, 1, generator=generator())
    assert max(swept) == 30 and torch.equal(parts.spins, whole.spins)
    alone = PopulationAnnealing(1, 64).sample(g, 1, generator=[generator(3)])
    pair = Ising(
        g.graph, torch.cat([9 * g.h, g.h]), torch.cat([9 * g.J, g.J]), torch.cat([g.offset] * 2)
    )
    both = PopulationAnnealing(1, 64).sample(pair, 1, generator=[generator(9), generator(3)])
    assert torch.equal(both.spins[1], alone.spins[0])
