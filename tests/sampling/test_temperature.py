"""The effective beta of draws whose beta is known, and whether its error bar is one."""

import math
import warnings

import pytest
import torch

from qsample import Graph, Ising, ReliabilityWarning, Samples, effective_beta
from qsample.annealers import Exact
from tests.support.exact import KINDS, Z_MAX, a_graph, a_problem
from tests.support.thinning import thinned

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
    """64 independent repetitions in one batch: the rms z is within Z_MAX of its own error, 1/sqrt(2
    * 64).

    The spins of a read are dependent, so an inverse Hessian, which counts them as independent,
    would be too small.
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


@pytest.mark.parametrize("kind", thinned(KINDS, 3))
def test_weighted_draws_recover_the_target(kind):
    """Draws at beta 0.6 with importance weights exp(-0.4 E) are draws at 1, with the error bar of
    their ESS.
    """
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
    noise = torch.randn(3, 2, 200, generator=torch.Generator().manual_seed(0))
    weight = noise / 2 if weighted else None
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
@pytest.mark.parametrize("declared", [False, True])
def test_blocks_see_through_copies(m, declared):
    problem = a_problem(LARGER["complete"], scale=0.3)
    s = draws(problem, 1.0, 400, 1)
    one = effective_beta(problem, s)
    info = {"block": m} if declared else {}
    spins, energy = s.spins.repeat_interleave(m, 0), s.energy.repeat_interleave(m)
    copies = Samples(spins, energy, info=info)
    blocked = effective_beta(problem, copies, block=None if declared else m)
    naive = effective_beta(problem, copies, block=1)
    assert blocked.value == pytest.approx(one.value)
    # but for what the model asks of 400 reads at least
    assert blocked.stderr == pytest.approx(one.stderr, rel=0.05)
    assert naive.stderr == pytest.approx(one.stderr / math.sqrt(m), rel=0.05)  # what copies pretend
    for bad in (0, 7):
        with pytest.raises(
            ValueError, match=f"a block that divides the {400 * m} reads; got {bad}"
        ):
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
        assert best > log_pseudo_likelihood(found + step) and best > log_pseudo_likelihood(
            found - step
        )


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_any_units(scale):
    """Beta times energy is a pure number."""
    problem = a_problem(LARGER["sparse"], scale=0.4)
    s = draws(problem, 1.0, 500, 0)
    one, other = effective_beta(problem, s), effective_beta(problem.scale(scale), s)
    assert other.value * scale == pytest.approx(
        one.value
    ) and other.stderr * scale == pytest.approx(one.stderr)
    # an antiferromagnet read as a ferromagnet: negative beta
    turned = effective_beta(problem.scale(-scale), s)
    assert turned.value * scale == pytest.approx(-one.value)


def quiet(problem, samples, **how):
    """The estimate, and the one warning that says its note."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = effective_beta(problem, samples, **how)
    said = [str(w.message) for w in caught if w.category is ReliabilityWarning]
    assert said == ([found.note] if found.note else []) and len(said) == len(caught)
    return found


def ground_states(problem):
    spins = torch.tensor([[1] * problem.num_spins, [-1] * problem.num_spins], dtype=torch.int8)
    return Samples(spins, problem.energy(spins))


def test_local_minima_only_have_no_finite_beta():
    ring = Graph.sparse(6, [(i, (i + 1) % 6) for i in range(6)])
    ferro = Ising(ring, torch.zeros(6), -torch.ones(6))
    found = quiet(ferro, ground_states(ferro))
    assert found.value == math.inf and found.stderr == math.inf and "local minima" in found.note
    hot = quiet(ferro.scale(-1.0), ground_states(ferro))
    assert hot.value == -math.inf and hot.stderr == math.inf and "against their fields" in hot.note
    flat = quiet(ferro.scale(0.0), ground_states(ferro))
    assert math.isnan(flat.value) and "no spin feels a field" in flat.note
    # one excited spin of weight zero is no evidence; of any weight it is
    up = ground_states(ferro)
    spins = torch.cat([up.spins, torch.tensor([[-1, 1, 1, 1, 1, 1]], dtype=torch.int8)])
    for weight, finite in ((-math.inf, False), (-3.0, True)):
        s = Samples(spins, ferro.energy(spins), torch.tensor([0.0, 0.0, weight]))
        assert math.isfinite(quiet(ferro, s).value) is finite


def test_infinite_members_of_a_batch_leave_the_others_alone():
    ring = Graph.sparse(6, [(i, (i + 1) % 6) for i in range(6)])
    batch = Ising(ring, torch.zeros(3, 6), -torch.ones(6))
    s = draws(batch, 0.7, 200, 0)
    s.spins[1] = 1
    found = quiet(batch, s)
    assert found.value[1] == math.inf and found.note
    for k in (0, 2):
        alone = quiet(Ising(ring, batch.h[k], batch.J), Samples(s.spins[k], s.energy[k]))
        assert float(found.value[k]) == pytest.approx(alone.value, rel=1e-5)
        assert float(found.stderr[k]) == pytest.approx(alone.stderr, rel=1e-5)


# ---- few reads ----------------


def few_cases():
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def ring(n, J, h):
        graph = Graph.sparse(n, [(i, (i + 1) % n) for i in range(n)])
        return Ising(graph, torch.full((n,), h).double(), torch.full((n,), J).double())

    def glass(n, scale, h):
        J = (normal(n, n) * scale / n**0.5).triu(1)
        return Ising(Graph.complete(n), h * normal(n), J + J.mT)

    return {
        "ring": ring(10, -0.5, 0.0),
        "ring in a field": ring(13, -0.4, 0.3),
        "glass of 5": glass(5, 1.0, 0.5),
        "glass of 11": glass(11, 1.0, 0.3),
        "cold glass": glass(10, 2.5, 0.3),
        "strong fields": glass(10, 1.0, 2.0),
        "RBM": Ising(Graph.bipartite(20, 8), normal(28) * 0.5, normal(20, 8) * 0.6),
        "free spins": Ising(Graph.sparse(6, []), normal(6), torch.zeros(0).double()),
    }


def coverage(problem, R, times, seed, dtype=torch.float64):
    """The part of 95 % intervals that hold 1, and their median width over the estimate's own 95 %
    spread.

    Where all reads are local minima the interval has no end and holds 1. It counts: of a cold
    problem's fives 42 % are such, and those that are left were chosen by their own draws.
    """
    batch = Ising(problem.graph, problem.h.expand(times, -1), problem.J).to(dtype=dtype)
    found = quiet(batch, draws(batch, 1.0, R, seed))
    value, stderr = found.value.double(), found.stderr.double()
    finite = value.isfinite()
    covered = float((~finite | ((value - 1).abs() <= 1.96 * stderr)).double().mean())
    value, stderr = value[finite], stderr[finite]
    spread = float(value.quantile(0.975) - value.quantile(0.025))
    return covered, 2 * 1.96 * float(stderr.median()) / spread


@pytest.mark.parametrize("name", few_cases())
@pytest.mark.parametrize(("R", "times"), thinned([(5, 400), (10, 400), (30, 200), (100, 100)], 2))
def test_intervals_of_few_reads_cover(name, R, times):
    """Nominal .95; a rate of .90 is 3.2 errors below it at 100 repetitions, 4.6 at 400."""
    covered, width = coverage(few_cases()[name], R, times, 7)
    assert covered >= 0.90
    assert R < 10 or width <= 1.5


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", few_cases())
@pytest.mark.parametrize("R", [5, 7, 10, 15, 30, 100])
def test_intervals_of_few_reads_cover_in_many_repetitions(name, R, dtype):
    covered, width = coverage(few_cases()[name], R, 4000 if R < 50 else 1000, 8, dtype)
    assert covered >= 0.93
    assert R < 10 or width <= 1.5


@pytest.mark.parametrize("R", [1, 2, 4])
@pytest.mark.parametrize("block", [1, 3])
def test_an_error_is_not_determined_below_five_reads(R, block):
    problem = a_problem(LARGER["complete"], scale=0.3)
    s = draws(problem, 1.0, R * block, 0)
    found = quiet(problem, s, block=block)
    assert found.stderr == math.inf and math.isfinite(found.value)
    unit = "reads" if block == 1 else "blocks"
    assert found.note == f"only {R} independent {unit}: the error is not determined"
    many = quiet(problem, draws(problem, 1.0, 12 * block, 0), block=block)
    assert math.isfinite(many.stderr) and "the error is itself uncertain" in many.note
    # weights that leave 4 of 100 reads are 4 reads
    s = draws(problem, 1.0, 100, 0)
    weight = torch.where(torch.arange(100) < R, 0.0, -torch.inf)
    assert quiet(problem, Samples(s.spins, s.energy, weight)).stderr == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_the_variance_of_a_score_is_that_of_the_enumerated_law(kind):
    """The mean of `score_variance` over the law is the score's own variance: sums over all states,
    in plain Python.
    """
    from qsample.sampling.temperature import score_variance
    from tests.support.exact import coupling_list, slow_law

    problem = a_problem(a_graph(kind), scale=0.8)
    states, chance, _ = slow_law(problem)
    couplings = coupling_list(problem)
    scores = []
    for s in states:
        field = problem.h.tolist()
        for i, j, J in couplings:
            field[i] += J * s[j]
            field[j] += J * s[i]
        a = [-2 * x * f for x, f in zip(s, field, strict=True)]
        scores.append(sum(x / (1 + math.exp(x)) for x in a))
    mean = sum(p * u for p, u in zip(chance, scores, strict=True))
    variance = sum(p * u * u for p, u in zip(chance, scores, strict=True))
    assert mean == pytest.approx(0, abs=1e-12)
    spins = torch.tensor(states, dtype=torch.float64)
    found = score_variance(problem, spins, problem.field(spins), torch.ones(()).double())
    assert float(found @ torch.tensor(chance, dtype=torch.float64)) == pytest.approx(
        variance, rel=1e-10
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_problems_are_judged_in_single(dtype):
    problem = a_problem(LARGER["bipartite"], scale=0.4).to(dtype=dtype)
    s = draws(problem.to(dtype=torch.float64), 1.0, 500, 0)
    half = effective_beta(problem, s)
    full = effective_beta(problem.to(dtype=torch.float64), s)
    assert half.value == pytest.approx(full.value, rel=1e-5) and half.stderr == pytest.approx(
        full.stderr, rel=1e-4
    )


def test_reads_that_are_no_spins_are_refused():
    problem = a_problem(LARGER["sparse"], scale=0.4)
    s = draws(problem, 1.0, 50, 0)
    with pytest.raises(
        ValueError, match=r"expected spins of -1 and \+1; got 0: reads of 0 and 1 .* 2 \* spins - 1"
    ):
        effective_beta(problem, Samples((s.spins + 1) // 2, s.energy))
    with pytest.raises(ValueError, match="the weights are nan"):
        effective_beta(problem, Samples(s.spins, s.energy, torch.full((50,), -torch.inf)))
