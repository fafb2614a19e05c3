"""Autocorrelation against chains of known memory; diagnoses against reads known to be right or wrong."""

import math

import pytest
import torch
from dwave.samplers import TabuSampler

from qsample import Graph, Samples, diagnose
from qsample.annealers import DimodAnnealer, Exact
from qsample.diagnostics import _energy_moments
from qsample.mixing import autocorrelation_time, chain_ess
from tests.oracle import KINDS, Z_MAX, a_graph, a_problem, slow_energy, slow_law


def ar1(phi, T, R, seed):
    """Stationary chains x_t = phi x_(t-1) + noise, whose autocorrelation time is (1 + phi)/(1 - phi)."""
    x = torch.randn(T, R, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for t in range(1, T):
        x[t] = phi * x[t - 1] + (1 - phi * phi) ** 0.5 * x[t]
    return x


# ---- autocorrelation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("drift", [False, True])
def test_autocorrelation_time_of_chains_with_a_known_one(phi, drift):
    """The error is Madras and Sokal's (J. Stat. Phys. 50, 1988): var tau = tau^2 2 (2 M + 1) / (T R), window M.

    M is where the autocorrelation sinks into its own noise, phi^M = (T R)^(-1/2); at least a pair of lags.
    """
    T, R = 2000, 64
    x = ar1(phi, T, R, seed=0)
    if drift:  # common to all chains: a model that learns, not a chain that remembers
        x = x + torch.linspace(0, 30, T, dtype=torch.float64)[:, None] + 5 * torch.randn(T, 1).double().cumsum(0)
    tau = (1 + phi) / (1 - phi)
    window = max(2.0, -0.5 * math.log(T * R) / math.log(phi)) if phi else 2.0
    error = tau * (2 * (2 * window + 1) / (T * R)) ** 0.5
    assert abs(autocorrelation_time(x) - tau) < Z_MAX * error
    assert chain_ess(x) == R / autocorrelation_time(x)


def test_reads_without_memory_count_fully():
    times = [autocorrelation_time(ar1(0.0, 64, 512, seed)) for seed in range(20)]
    assert min(times) >= 1
    assert max(times) < 1 + Z_MAX * (10 / (64 * 512)) ** 0.5


def test_antithetic_chains_count_no_more_than_all():
    assert autocorrelation_time(ar1(-0.8, 500, 64, 0)) == 1


@pytest.mark.parametrize("T", [4, 7, 64])
def test_frozen_chains_never_forget(T):
    start = torch.randn(9, generator=torch.Generator().manual_seed(0))
    assert autocorrelation_time(start.expand(T, 9)) == T
    assert autocorrelation_time(start.expand(T, 9) + torch.arange(T)[:, None]) == pytest.approx(T, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_that_are_all_alike_are_one(dtype):
    one = torch.randn(64, 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert autocorrelation_time(one.expand(64, 7)) == 64
    assert autocorrelation_time(torch.ones(64, 7, dtype=dtype)) == 64


@pytest.mark.parametrize("shape", [(3, 5), (8, 1)])
def test_too_short_to_tell(shape):
    with pytest.raises(ValueError, match=f"expected at least 4 times of 2 chains; got {shape[0]} of {shape[1]}"):
        autocorrelation_time(torch.zeros(shape))


# ---- diagnose -------------------------------------------------------------------------------------------------------

GRAPHS = {
    "sparse": Graph.sparse(8, [(i, (i + 1) % 8) for i in range(8)] + [(0, 4)]),
    "bipartite": Graph.bipartite(5, 4),
    "complete": Graph.complete(6),
}


def a_case(kind):
    return a_problem(GRAPHS[kind], scale=0.5, offset=())


def reads(problem, num, seed):
    return Exact().sample(problem, num, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_exact_reads_pass_and_their_z_scores_are_standard(kind):
    """60 seeds: |z| > 4 is one in 16,000 each; the sum of squares is chi-squared, here within one in 10^6."""
    problem, found = a_case(kind), []
    for seed in range(60):
        diagnosis = diagnose(problem, reads(problem, 2000, seed))
        assert diagnosis.ok and "consistent with 1" in diagnosis.text and "): right" in str(diagnosis)
        assert "tag: exact" in diagnosis.text and diagnosis.energy_z is not None
        found.append(((diagnosis.beta.value - 1) / diagnosis.beta.stderr, diagnosis.energy_z))
    from scipy.stats import chi2

    for z in torch.tensor(found).T:
        assert chi2.ppf(1e-6, 60) < float(z.square().sum()) < chi2.isf(1e-6, 60)
        assert abs(float(z.mean())) < Z_MAX / 60**0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("beta", "said", "energy"), [(1.2, "too cold", "too low"), (0.8, "too hot", "too high")])
def test_reads_at_another_temperature_are_flagged(kind, beta, said, energy):
    problem = a_case(kind)
    diagnosis = diagnose(problem, reads(problem.scale(beta), 20_000, 0))
    assert not diagnosis.ok and said in diagnosis.text and energy in diagnosis.text
    assert abs(diagnosis.beta.value - beta) < Z_MAX * diagnosis.beta.stderr
    silent = diagnose(problem, reads(problem.scale(beta), 20_000, 1), limit=2)  # too large to enumerate
    assert not silent.ok and said in silent.text and silent.energy_z is None and "mean energy" not in silent.text


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimiser_is_flagged(kind):
    problem = a_case(kind)
    diagnosis = diagnose(problem, DimodAnnealer(TabuSampler(), timeout=1).sample(problem, 50))
    assert not diagnosis.ok and diagnosis.beta.value == math.inf
    assert "no finite beta explains the reads" in diagnosis.text and "local minima" in diagnosis.text


def test_a_law_of_the_right_temperature_but_the_wrong_mean_energy_is_flagged():
    """Half the phases of a ferromagnet: locally right, so that only the energy can tell."""
    problem = a_problem(Graph.complete(6), scale=0.0, offset=())
    J = torch.full((6, 6), -0.6, dtype=torch.float64).fill_diagonal_(0)
    problem = type(problem)(problem.graph, torch.full((6,), -0.3, dtype=torch.float64), J)
    found = reads(problem, 20_000, 0)
    kept = found.spins.sum(-1) < 0
    wrong = Samples(found.spins[kept], found.energy[kept])
    assert diagnose(problem, wrong).energy_z is not None and not diagnose(problem, wrong).ok


def test_weights_are_honoured_and_reported():
    problem = a_case("complete")
    hot = reads(problem.scale(0.7), 20_000, 0)
    log_weight = -problem.energy(hot.spins) + problem.scale(0.7).energy(hot.spins)
    weighted = Samples(hot.spins, problem.energy(hot.spins), log_weight)
    diagnosis = diagnose(problem, weighted)
    assert diagnosis.ok and not diagnose(problem, hot).ok
    assert f"weights: {float(weighted.ess()):.0f} effective of 20000 reads" in diagnosis.text


def test_one_problem_at_a_time():
    problem = a_problem(a_graph("complete"), h=(2,))
    with pytest.raises(ValueError, match=r"expected reads of one problem \[R, n\]; got \[2, 3, 5\]"):
        diagnose(problem, reads(problem, 3, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_energy_moments_are_those_of_the_enumerated_law(kind):
    problem = a_problem(a_graph(kind), offset=())
    states, p, _ = slow_law(problem)
    energies = [slow_energy(problem, s) for s in states]
    mean = sum(q * e for q, e in zip(p, energies, strict=True))
    variance = sum(q * (e - mean) ** 2 for q, e in zip(p, energies, strict=True))
    assert _energy_moments(problem) == pytest.approx((mean - float(problem.offset), variance), rel=1e-10)
