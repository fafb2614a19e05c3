"""Annealed importance sampling: unbiased weights from any schedule, log Z and its error."""

from dataclasses import replace

import pytest
import torch

from qsample import Exactness, Ising, ReliabilityWarning
from qsample.annealers import AnnealedImportance, Corrected, Gibbs
from qsample.problem.enumeration import log_partition, log_weights, states
from qsample.testing import ContractError, check_sampler
from tests.support.exact import Z_MAX
from tests.support.problems import GRAPHS, problems, z_scores
from tests.support.seeds import generator
from tests.support.thinning import thinned

pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of runs this short


@pytest.mark.parametrize("base", thinned(["own", "zero"], 2))
def test_log_partition_and_its_error(base):
    z = []
    for kind in GRAPHS:
        problem = problems(kind)
        fields = torch.zeros(problem.num_spins) if base == "zero" else None
        found = AnnealedImportance(100, base=fields).sample(problem, 1000, generator=generator())
        assert (found.info["ess"] > 30).all() and found.info["note"] == ""
        torch.testing.assert_close(found.info["ess"].float(), found.ess(), rtol=1e-3, atol=0)
        z.append(z_scores(problem, found.info))
    every = torch.cat(z)
    assert len(every) == 30 and every.abs().max() < Z_MAX
    # chi-squared of 30: 0.44 and 1.61 are one in 10^5
    assert 0.5 < every.square().mean().sqrt() < 1.5


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("schedule", [[0.2, 0.5, 1.0], [1.0], [0.1, 0.1, 0.4, 0.7, 1.0, 1.0]])
def test_weighted_means_are_right_however_short_the_run(kind, schedule):
    """The mean of w (f - E f) is zero: z-scores of it, with its own error over independent runs."""
    problem = problems(kind, 4).scale(0.6)
    found = AnnealedImportance(schedule=schedule).sample(problem, 20_000, generator=generator())
    assert found.exactness is Exactness.ASYMPTOTIC and found.log_weight is not None
    exact = log_weights(problem.to(dtype=torch.float64)).softmax(-1)
    every, reads = states(problem.num_spins).double(), found.spins.double()
    i, j = problem.graph.edges
    for f, of_reads in ((every, reads), (every[:, i] * every[:, j], reads[..., i] * reads[..., j])):
        d = found.weight.double()[..., None] * (of_reads - (exact @ f)[:, None])
        assert (d.sum(-2) / d.square().sum(-2).sqrt()).abs().max() < Z_MAX
    assert z_scores(problem, found.info).abs().max() < Z_MAX


def test_without_weights_such_short_runs_are_wrong():
    problem = problems("sparse", 4).scale(0.6)
    found = AnnealedImportance(schedule=[0.2, 0.5, 1.0]).sample(
        problem, 20_000, generator=generator()
    )
    mean = log_weights(problem.to(dtype=torch.float64)).softmax(-1) @ states(12).double()
    error = ((1 - mean**2) / 20_000).sqrt()
    assert ((found.spins.double().mean(-2) - mean).abs() / error).max() > 2 * Z_MAX


def test_no_couplings_no_variance():
    problem = problems("sparse", 3, torch.float64)
    free = Ising(problem.graph, problem.h, torch.zeros(24).double(), problem.offset)
    info = AnnealedImportance(5).sample(free, 10, generator=generator()).info
    torch.testing.assert_close(info["log_partition"], log_partition(free), rtol=1e-12, atol=0)
    assert (info["log_partition_stderr"] < 1e-12).all() and torch.allclose(
        info["ess"], torch.full((3,), 10.0).double()
    )


def test_weights_pass_through_a_valid_kernel():
    problem = problems("bipartite", 2)
    found = Corrected(AnnealedImportance(20), Gibbs(5)).sample(problem, 50, generator=generator())
    assert found.log_weight is not None and found.exactness is Exactness.ASYMPTOTIC


class Wrong(AnnealedImportance):
    def sample(self, problem, num, *, initial=None, generator=None):
        found = super().sample(problem.scale(1.1), num, initial=initial, generator=generator)
        return replace(found, energy=problem.detach().energy(found.spins))


class Unweighted(AnnealedImportance):
    def sample(self, problem, num, *, initial=None, generator=None):
        found = super().sample(problem, num, initial=initial, generator=generator)
        return replace(found, log_weight=None)


@pytest.mark.parametrize("sampler", thinned([Unweighted(2), Wrong(40)], 2))
def test_wrong_samplers_are_rejected(sampler):
    with pytest.raises(ContractError, match=r"the reads do not follow|log_partition.* is off"):
        check_sampler(sampler)


def test_a_wrong_beta_shows_in_log_z():
    problem = problems("sparse")
    info = AnnealedImportance(100).sample(problem.scale(1.1), 1000, generator=generator()).info
    assert z_scores(problem, info).abs().max() > Z_MAX


def test_too_fast_is_told():
    cold = problems("complete", 1).scale(8.0)
    with pytest.warns(ReliabilityWarning) as warned:
        info = AnnealedImportance(1, check=False).sample(cold, 50, generator=generator(1)).info
    assert info["note"] == f"only {float(info['ess'].min()):.1f} effective runs: raise sweeps"
    assert [str(w.message) for w in warned] == [info["note"]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sweeps": 0}, "sweeps >= 1; got 0"),
        ({"schedule": [0.5, 0.9]}, r"betas that increase, above 0, to 1; got \[0.5, 0.9"),
        ({"schedule": [0.0, 1.0]}, "above 0"),
        ({"schedule": [0.7, 0.5, 1.0]}, "increase"),
        ({"schedule": []}, "betas that increase"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        AnnealedImportance(**settings)


def test_base_must_fit():
    with pytest.raises(ValueError, match=r"base fields of shape \[12\]; got \[3\]"):
        AnnealedImportance(base=torch.zeros(3)).sample(problems("sparse", 1), 5)
