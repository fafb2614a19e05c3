"""The effective beta of draws whose beta is known, and whether its error bar is one."""

import math

import pytest
import torch

from qsample import Graph, Ising, Samples, effective_beta
from qsample.annealers import Exact
from tests.oracle import KINDS, Z_MAX, a_graph, a_problem

LARGER = {
    "sparse": Graph.sparse(16, [(i, (i + k) % 16) for i in range(16) for k in (1, 5)]),
    "bipartite": Graph.bipartite(12, 5),
    "complete": Graph.complete(10),
}
BETAS = [0.3, 1.0, 2.5]


def draws(problem, beta, num, seed):
    return Exact().sample(problem.scale(beta), num, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", BETAS)
def test_recovers_the_beta_of_exact_draws(kind, beta):
    for seed in range(3):
        problem = a_problem(LARGER[kind], scale=0.4, seed=seed)
        found = effective_beta(problem, draws(problem, beta, 4000, seed))
        assert isinstance(found.value, float) and found.stderr > 0 and found.note == ""
        assert found.ess == pytest.approx(4000)
        assert abs(found.value - beta) < Z_MAX * found.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_bar_is_calibrated(kind):
    """64 independent repetitions in one batch: the rms z is within Z_MAX of its own error, 1/sqrt(2 * 64).

    The spins of a read are dependent, so an inverse Hessian, which counts them as independent, would be too small.
    """
    times, problem = 64, a_problem(LARGER[kind], scale=0.5, seed=1)
    batch = Ising(problem.graph, problem.h.expand(times, -1), problem.J)
    samples = draws(batch, 1.0, 500, 3)
    found = effective_beta(batch, samples)
    assert found.value.shape == found.stderr.shape == (times,)
    rms = float(((found.value - 1) / found.stderr).square().mean().sqrt())
    assert abs(rms - 1) < Z_MAX / math.sqrt(2 * times) and 0.7 < rms < 1.4
    a = -2 * samples.spins * batch.field(samples.spins)
    p = (-found.value[:, None, None] * a).sigmoid()
    inverse_hessian = (a**2 * p * (1 - p)).sum((-1, -2)).rsqrt()
    assert float(((found.value - 1) / inverse_hessian).square().mean().sqrt()) > rms


@pytest.mark.parametrize("kind", KINDS)
def test_weighted_draws_recover_the_target(kind):
    """Draws at beta 0.6 with importance weights exp(-0.4 E) are draws at 1, with the error bar of their ESS."""
    times, problem = 64, a_problem(LARGER[kind], scale=0.3, seed=2)
    batch = Ising(problem.graph, problem.h.expand(times, -1), problem.J)
    hot = draws(batch, 0.6, 1000, 5)
    weighted = Samples(hot.spins, hot.energy, -0.4 * batch.energy(hot.spins))
    found = effective_beta(batch, weighted)
    z = (found.value - 1) / found.stderr
    assert abs(z.mean()) < Z_MAX / math.sqrt(times) and z.abs().max() < Z_MAX
    assert abs(float(z.square().mean().sqrt()) - 1) < Z_MAX / math.sqrt(2 * times)
    plain = effective_beta(batch, hot)
    assert abs(((plain.value - 0.6) / plain.stderr).mean()) < Z_MAX / math.sqrt(times)
    assert (found.stderr > plain.stderr).double().mean() > 0.9 and (found.ess < 1000).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_is_a_loop(weighted):
    problem = a_problem(LARGER["sparse"], h=(3, 2), J=(2,), scale=0.4)
    samples = draws(problem, 1.3, 200, 0)
    weight = torch.randn(3, 2, 200, generator=torch.Generator().manual_seed(0)) if weighted else None
    together = effective_beta(problem, Samples(samples.spins, samples.energy, weight))
    for i in range(3):
        for j in range(2):
            w = None if weight is None else weight[i, j]
            one = Ising(problem.graph, problem.h[i, j], problem.J[j])
            alone = effective_beta(one, Samples(samples.spins[i, j], samples.energy[i, j], w))
            assert float(together.value[i, j]) == pytest.approx(alone.value)
            assert float(together.stderr[i, j]) == pytest.approx(alone.stderr)
            assert float(together.ess[i, j]) == pytest.approx(alone.ess)


@pytest.mark.parametrize("m", [2, 5])
def test_blocks_see_through_copies(m):
    problem = a_problem(LARGER["complete"], scale=0.3)
    s = draws(problem, 1.0, 400, 1)
    one = effective_beta(problem, s)
    copies = Samples(s.spins.repeat_interleave(m, 0), s.energy.repeat_interleave(m))
    blocked, naive = effective_beta(problem, copies, block=m), effective_beta(problem, copies)
    assert blocked.value == pytest.approx(one.value) and blocked.stderr == pytest.approx(one.stderr)
    assert naive.stderr == pytest.approx(one.stderr / math.sqrt(m))  # what copies pretend
    for bad in (0, 7):
        with pytest.raises(ValueError, match=f"a block that divides the {400 * m} reads; got {bad}"):
            effective_beta(problem, copies, block=bad)


def test_weights_are_counts():
    problem = a_problem(LARGER["complete"], scale=0.3)
    s = draws(problem, 1.0, 50, 1)
    count = torch.arange(50)
    rows = Samples(s.spins.repeat_interleave(count, 0), s.energy.repeat_interleave(count))
    weighted = effective_beta(problem, Samples(s.spins, s.energy, count.double().log()))
    assert weighted.value == pytest.approx(effective_beta(problem, rows).value)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_maximum_of_the_pseudo_likelihood(kind):
    """The definition of `dwave.system.temperatures`: a root of the score, here found on a grid."""
    problem = a_problem(a_graph(kind), scale=0.8)
    s = draws(problem, 0.8, 300, 2)
    found = effective_beta(problem, s).value
    a = -2 * s.spins * problem.field(s.spins)

    def log_pseudo_likelihood(beta):
        return float(torch.nn.functional.logsigmoid(beta * a).sum())

    best = log_pseudo_likelihood(found)
    for step in (1e-3, 0.1, 1.0):
        assert best > log_pseudo_likelihood(found + step) and best > log_pseudo_likelihood(found - step)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_any_units(scale):
    """Beta times energy is a pure number."""
    problem = a_problem(LARGER["sparse"], scale=0.4)
    s = draws(problem, 1.0, 500, 0)
    one, other = effective_beta(problem, s), effective_beta(problem.scale(scale), s)
    assert other.value * scale == pytest.approx(one.value) and other.stderr * scale == pytest.approx(one.stderr)
    turned = effective_beta(problem.scale(-scale), s)  # an antiferromagnet read as a ferromagnet: negative beta
    assert turned.value * scale == pytest.approx(-one.value)


def ground_states(problem):
    spins = torch.tensor([[1] * problem.num_spins, [-1] * problem.num_spins], dtype=torch.int8)
    return Samples(spins, problem.energy(spins))


def test_local_minima_only_have_no_finite_beta():
    ring = Graph.sparse(6, [(i, (i + 1) % 6) for i in range(6)])
    ferro = Ising(ring, torch.zeros(6), -torch.ones(6))
    found = effective_beta(ferro, ground_states(ferro))
    assert found.value == math.inf and found.stderr == math.inf and "local minima" in found.note
    hot = effective_beta(ferro.scale(-1.0), ground_states(ferro))
    assert hot.value == -math.inf and hot.stderr == math.inf and "against their fields" in hot.note
    flat = effective_beta(ferro.scale(0.0), ground_states(ferro))
    assert math.isnan(flat.value) and "no spin feels a field" in flat.note
    # one excited spin of weight zero is no evidence; of any weight it is
    up = ground_states(ferro)
    spins = torch.cat([up.spins, torch.tensor([[-1, 1, 1, 1, 1, 1]], dtype=torch.int8)])
    for weight, finite in ((-math.inf, False), (-3.0, True)):
        s = Samples(spins, ferro.energy(spins), torch.tensor([0.0, 0.0, weight]))
        assert math.isfinite(effective_beta(ferro, s).value) is finite


def test_infinite_members_of_a_batch_leave_the_others_alone():
    ring = Graph.sparse(6, [(i, (i + 1) % 6) for i in range(6)])
    batch = Ising(ring, torch.zeros(3, 6), -torch.ones(6))
    s = draws(batch, 0.7, 200, 0)
    s.spins[1] = 1
    found = effective_beta(batch, s)
    assert found.value[1] == math.inf and found.note
    for k in (0, 2):
        alone = effective_beta(Ising(ring, batch.h[k], batch.J), Samples(s.spins[k], s.energy[k]))
        assert float(found.value[k]) == pytest.approx(alone.value, rel=1e-5)
        assert float(found.stderr[k]) == pytest.approx(alone.stderr, rel=1e-5)
