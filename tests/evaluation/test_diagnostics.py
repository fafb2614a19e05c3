"""Autocorrelation of chains of known memory; diagnoses of reads known to be right or wrong."""

import dataclasses
import math

import pytest
import torch
from dwave.samplers import TabuSampler

from qsample import Graph, Ising, Samples, diagnose
from qsample.annealers import (
    AnnealedImportance,
    DimodAnnealer,
    Exact,
    Gibbs,
    ParallelTempering,
    PopulationAnnealing,
)
from qsample.evaluation.enumerated import listed_law, total_cumulants
from qsample.evaluation.reference import plain
from qsample.sampling.mixing import autocorrelation_time, chain_ess
from tests.support.exact import KINDS, Z_MAX, a_graph, a_problem, slow_energy, slow_law, untyped
from tests.support.thinning import thinned


def ar1(phi, T, R, seed):
    """Stationary chains x_t = phi x_(t-1) + noise.

    Their autocorrelation time is (1 + phi)/(1 - phi).
    """
    x = torch.randn(T, R, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for t in range(1, T):
        x[t] = phi * x[t - 1] + (1 - phi * phi) ** 0.5 * x[t]
    return x


# ---- autocorrelation ----------------


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("drift", [False, True])
def test_autocorrelation_time_of_chains_with_a_known_one(phi, drift):
    """The error is Madras and Sokal's (J. Stat. Phys. 50, 1988).

    With window M it is var tau = tau^2 2 (2 M + 1) / (T R).

    M is where the autocorrelation sinks into its own noise, phi^M = (T R)^(-1/2); at least a pair
    of lags.
    """
    T, R = 2000, 64
    x = ar1(phi, T, R, seed=0)
    if drift:  # common to all chains: a model that learns, not a chain that remembers
        x = (
            x
            + torch.linspace(0, 30, T, dtype=torch.float64)[:, None]
            + 5 * torch.randn(T, 1).double().cumsum(0)
        )
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
    assert autocorrelation_time(start.expand(T, 9) + torch.arange(T)[:, None]) == pytest.approx(
        T, rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chains_that_are_all_alike_are_one(dtype):
    one = torch.randn(64, 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert autocorrelation_time(one.expand(64, 7)) == 64
    assert autocorrelation_time(torch.ones(64, 7, dtype=dtype)) == 64


@pytest.mark.parametrize("shape", [(3, 5), (8, 1)])
def test_too_short_to_tell(shape):
    with pytest.raises(
        ValueError, match=f"expected at least 4 times of 2 chains; got {shape[0]} of {shape[1]}"
    ):
        autocorrelation_time(torch.zeros(shape))


# ---- diagnose ----------------

GRAPHS = {
    "sparse": Graph.sparse(8, [(i, (i + 1) % 8) for i in range(8)] + [(0, 4)]),
    "bipartite": Graph.bipartite(5, 4),
    "complete": Graph.complete(6),
}


def a_case(kind):
    return a_problem(GRAPHS[kind], scale=0.5, offset=())


def reads(problem, num, seed):
    return Exact().sample(problem, num, generator=torch.Generator().manual_seed(seed))


def judge(problem, samples, seed=0, **how):
    return diagnose(problem, samples, generator=torch.Generator().manual_seed(seed), **how)


def of(problem, spins, **more):
    return Samples(spins, problem.energy(spins), **more)


@pytest.mark.parametrize("kind", thinned(["bipartite", "sparse", "complete"], 3))
def test_exact_reads_pass_and_their_z_scores_are_standard(kind):
    """The z of 8 seeds is standard normal: |z| > 4 is one in 16,000 each.

    The sum of squares is chi-squared, here within one in 10^6.
    """
    problem, found = a_case(kind), []
    for seed in range(8):
        diagnosis = judge(problem, reads(problem, 300, seed))
        assert (
            diagnosis.ok and "consistent with 1" in diagnosis.text and "): right" in str(diagnosis)
        )
        assert "tag: exact" in diagnosis.text and diagnosis.energy_z is not None
        found.append(((diagnosis.beta.value - 1) / diagnosis.beta.stderr, diagnosis.energy_z))
    from scipy.stats import chi2

    for z in torch.tensor(found).T:
        assert chi2.ppf(1e-6, 8) < float(z.square().sum()) < chi2.isf(1e-6, 8)
        assert abs(float(z.mean())) < Z_MAX / 8**0.5


@pytest.mark.parametrize("kind", thinned(["complete", "bipartite", "sparse"], 3))
@pytest.mark.parametrize(
    ("beta", "said", "energy"), [(1.2, "too cold", "too low"), (0.8, "too hot", "too high")]
)
def test_reads_at_another_temperature_are_flagged(kind, beta, said, energy):
    problem = a_case(kind)
    hot = reads(problem.scale(beta), 3000, 0).spins
    diagnosis = judge(problem, of(problem, hot))
    assert diagnosis.ok is False and said in diagnosis.text and energy in diagnosis.text
    assert abs(diagnosis.beta.value - beta) < Z_MAX * diagnosis.beta.stderr
    silent = judge(problem, of(problem, hot), limit=2, budget=64)  # too large to enumerate
    assert silent.ok is False and said in silent.text and silent.energy_z is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimiser_is_flagged(kind):
    problem = a_case(kind)
    # as many restarts, however slow the machine is
    tabu = DimodAnnealer(TabuSampler(), timeout=10_000, num_restarts=2)
    diagnosis = judge(problem, tabu.sample(problem, 50))
    assert not diagnosis.ok and diagnosis.beta.value == math.inf
    assert (
        "no finite beta explains the reads" in diagnosis.text and "local minima" in diagnosis.text
    )


def ferromagnet(n, J, h):
    coupling = -J * (torch.ones(n, n) - torch.eye(n))
    return Ising(Graph.complete(n), torch.full((n,), -h), coupling)


def glass(n, scale, h, seed=0):
    g = torch.Generator().manual_seed(seed)
    J = (torch.randn(n, n, generator=g) * scale / n**0.5).triu(1)
    return Ising(Graph.complete(n), torch.randn(n, generator=g) * h, J + J.T)


def rbm(n, m, scale, seed=0):
    g = torch.Generator().manual_seed(seed)
    h, J = torch.randn(n + m, generator=g) * 0.3, torch.randn(n, m, generator=g) * scale
    return Ising(Graph.bipartite(n, m), h, J)


def chain(n, scale, h=0.2, seed=0):
    g = torch.Generator().manual_seed(seed)
    J = torch.randn(n - 1, generator=g) * scale
    return Ising.from_edges(torch.randn(n, generator=g) * h, [(i, i + 1) for i in range(n - 1)], J)


LAWS = {  # listed, listed on one side, decomposed; and the last as a dense problem
    "glass of 11": glass(11, 1.2, 0.3),
    "RBM 30 x 6": rbm(30, 6, 0.4),
    "chain of 40": chain(40, 0.9),
    "chain of 40, dense": Ising.from_dense(
        chain(40, 0.9).h, torch.diag(chain(40, 0.9).J, 1) + torch.diag(chain(40, 0.9).J, -1)
    ),
}


def exact_spins(name, num, seed, scale=1.0):
    """Exact reads of a problem of LAWS; those of the dense chain are the sparse one's."""
    problem = LAWS["chain of 40" if name.endswith("dense") else name]
    return reads(problem.scale(scale), num, seed).spins


@pytest.mark.parametrize(
    "name", thinned(["glass of 11", "RBM 30 x 6", "chain of 40, dense", "chain of 40"], 2)
)
@pytest.mark.parametrize("num", thinned([1, 2, 7, 40, 400, 1000], 2))
@pytest.mark.parametrize("dtype", thinned([torch.bfloat16, torch.float32, torch.float64], 3))
def test_right_reads_of_any_number_and_dtype_pass(name, num, dtype):
    problem = LAWS[name].to(dtype=dtype)
    law = problem.to(dtype=torch.float64)  # of these very numbers
    sparse = (
        LAWS["chain of 40"].to(dtype=dtype).to(dtype=torch.float64)
        if name.endswith("dense")
        else law
    )
    verdict = judge(problem, of(problem, reads(sparse, num, 3).spins))
    # from fewer nothing is called right
    assert verdict.ok is (True if num >= 5 else None), verdict.text


def wrong_reads(kind, name, num, seed):
    """Reads of a problem of LAWS that are wrong in one way."""
    g = torch.Generator().manual_seed(seed)
    problem, spins = LAWS[name], exact_spins(name, num, seed)
    if kind == "12 states":
        return of(problem, spins[torch.randint(12, (num,), generator=g)])
    if kind == "40 % repeated":
        keep = int(0.6 * num)
        spins = torch.cat([spins[:keep], spins[torch.randint(keep, (num - keep,), generator=g)]])
        return of(problem, spins[torch.randperm(num, generator=g)])
    if kind == "twice":
        return of(problem, spins[: num // 2].repeat_interleave(2, 0))
    if kind == "again":
        return of(problem, spins[: num // 2].repeat(2, 1))
    if kind == "antithetic":
        return of(problem, torch.stack([spins[: num // 2], -spins[: num // 2]], 1).flatten(0, 1))
    if kind == "sorted":
        return of(problem, spins[problem.energy(spins).argsort()])
    if kind == "sorted as numbers":
        return of(
            problem,
            spins[(spins.double() @ 2.0 ** -torch.arange(spins.shape[1]).double()).argsort()],
        )
    if kind == "one half":
        twice = exact_spins(name, 4 * num, seed)
        centred = twice.float() - twice.float().mean(0)
        axis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
        return of(problem, twice[centred @ axis > 0][:num])
    if kind == "even":
        twice = exact_spins(name, 3 * num, seed)
        return of(problem, twice[(twice < 0).sum(1) % 2 == 0][:num])
    if kind == "a coupling dropped":
        values = problem.graph.edge_values(problem.J).clone()
        values[values.abs().argmax()] = 0
        other = Ising(problem.graph, problem.h, problem.graph.couplings(values))
        return of(problem, reads(other, num, seed).spins)
    if kind == "moved":
        return of(problem, spins.roll(1, -1))
    if kind == "flipped":
        return of(problem, -spins)
    if kind == "0 and 1":
        return Samples((spins + 1) // 2, problem.energy(spins))
    if kind == "energies":
        return Samples(spins, problem.energy(spins).roll(1))
    if kind == "energies shifted":
        return Samples(spins, problem.energy(spins) + 0.5)
    if kind == "weights":
        return of(problem, spins, log_weight=0.2 * problem.energy(spins))
    if kind == "no weights":
        return of(problem, exact_spins(name, num, seed, 0.7))
    assert kind == "nan"
    return Samples(spins, problem.energy(spins) * math.nan)


WRONG = [
    "12 states",
    "40 % repeated",
    "twice",
    "again",
    "antithetic",
    "sorted",
    "sorted as numbers",
    "one half",
    "even",
    "a coupling dropped",
    "moved",
    "flipped",
    "0 and 1",
    "energies",
    "energies shifted",
    "weights",
    "no weights",
    "nan",
]


@pytest.mark.parametrize("name", thinned(["glass of 11", "RBM 30 x 6", "chain of 40"], 3))
@pytest.mark.parametrize("kind", thinned(WRONG, 2))
def test_wrong_reads_are_called_wrong(kind, name):
    verdict = judge(LAWS[name], wrong_reads(kind, name, 1000 if name != "glass of 11" else 500, 5))
    assert verdict.ok is False, verdict.text


@pytest.mark.parametrize(("up", "ok"), [(1.0, False), (0.9, False), (0.5, True)])
def test_the_weights_of_two_modes(up, ok):
    """A ferromagnet without a field: both modes are equal. 20 spins, all coupled, listed."""
    problem = ferromagnet(14, 0.2, 0.0)
    spins = reads(problem, 1000, 0).spins
    side = spins.sum(1, keepdim=True).sign()
    wanted = torch.where(
        torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)) < up, 1, -1
    )
    turned = torch.where(side == 0, spins, spins * side * wanted).to(torch.int8)
    verdict = judge(problem, of(problem, turned))
    assert verdict.ok is ok, verdict.text


# ---- beyond enumeration and decomposition ----------------


def test_a_ferromagnet_of_40_spins_with_the_wrong_weights_of_its_modes():
    """All coupled: the magnetisation's law is a sum over k spins up, in closed form."""
    n, J, h = 40, 0.05, 0.1
    problem = ferromagnet(n, J, h)
    up = torch.arange(n + 1, dtype=torch.float64)
    M = 2 * up - n
    choose = (
        torch.lgamma(torch.tensor(n + 1.0).double())
        - torch.lgamma(up + 1)
        - torch.lgamma(n - up + 1)
    )
    law = (choose + J * (M * M - n) / 2 + h * M).softmax(0)
    assert float(law[n // 2 + 1 :].sum()) > 0.998
    g = torch.Generator().manual_seed(0)

    def draw(weights, num):
        number = torch.multinomial(weights, num, replacement=True, generator=g)
        rank = torch.rand(num, n, generator=g).argsort(-1).argsort(-1)
        return ((rank < number[:, None]).to(torch.int8) * 2 - 1).to(torch.int8)

    verdict = judge(problem, of(problem, draw(law, 500)), budget=64)
    assert verdict.ok is True, verdict.text
    lower = torch.where(M < 0, law, 0)
    mixed = torch.cat([draw(law, 293), draw(lower, 207)])[torch.randperm(500, generator=g)]
    verdict = judge(problem, of(problem, mixed), budget=64)
    assert verdict.ok is False and "kernel" in verdict.text, verdict.text
    # which the temperature cannot tell
    assert abs(verdict.beta.value - 1) < Z_MAX * verdict.beta.stderr
    silent = judge(problem, of(problem, mixed), budget=0)
    assert silent.ok is None and silent.text.startswith("not judged: ")


def test_what_cannot_be_judged_is_not():
    """A cold glass on a graph that is no tree: its ladders do not mix, so there is no verdict."""
    g = torch.Generator().manual_seed(3)
    edges = {
        tuple(sorted(e)) for e in torch.randint(120, (400, 2), generator=g).tolist() if e[0] != e[1]
    }
    J = torch.randn(len(edges), generator=g) * 3
    problem = Ising.from_edges(torch.zeros(120), sorted(edges), J)
    found = Gibbs(200).sample(problem, 200, generator=g)
    verdict = judge(problem, found, budget=64)
    assert verdict.ok is not True, verdict.text
    if verdict.ok is None:
        assert verdict.text.startswith("not judged: ") and verdict.reference in verdict.text


@pytest.mark.parametrize(
    "sampler",
    thinned(
        [
            PopulationAnnealing(4, population=512),
            AnnealedImportance(100),
            ParallelTempering(20, betas=8, reads_per_ladder=5),
            Gibbs(100),
        ],
        2,
    ),
)
@pytest.mark.parametrize("problem", thinned([glass(11, 1.2, 0.3), ferromagnet(40, 0.03, 0.05)], 2))
def test_reads_of_our_samplers_pass_weighted_or_in_families(sampler, problem):
    found = sampler.sample(problem, 500, generator=torch.Generator().manual_seed(0))
    verdict = judge(problem, found, budget=128)
    assert verdict.ok is True, verdict.text
    hot = sampler.sample(problem.scale(0.6), 500, generator=torch.Generator().manual_seed(0))
    verdict = judge(problem, dataclasses.replace(hot, energy=problem.energy(hot.spins)), budget=128)
    assert verdict.ok is False, verdict.text


@pytest.mark.long
@pytest.mark.parametrize("part", range(4))
def test_right_reads_are_seldom_called_wrong(part):
    """500 sets of 5 problems in each part.

    At a rate of 1e-4, more than one alarm is one in a thousand parts.
    """
    from experiments.claims.judge_calibration import problems, right_sets

    alarms = []
    for name, problem in list(problems().items())[part::4]:
        for k, (one, samples) in enumerate(right_sets(name, problem, 100)):
            verdict = judge(one, samples, k)
            alarms += [f"{name}, set {k}: {verdict.text}"] if verdict.ok is False else []
    assert len(alarms) <= 1, alarms


@pytest.mark.long
def test_a_verdict_is_a_function_of_the_seed():
    problem = ferromagnet(24, 0.03, 0.05)
    found = Gibbs(50).sample(problem, 100, generator=torch.Generator().manual_seed(0))
    assert (
        judge(problem, found, budget=64, limit=4).text
        == judge(problem, found, budget=64, limit=4).text
    )


def test_weights_are_honoured_and_reported():
    problem = a_case("complete")
    hot = reads(problem.scale(0.7), 20_000, 0)
    log_weight = -problem.energy(hot.spins) + problem.scale(0.7).energy(hot.spins)
    weighted = Samples(hot.spins, problem.energy(hot.spins), log_weight)
    diagnosis = judge(problem, weighted)
    assert diagnosis.ok and not judge(problem, of(problem, hot.spins)).ok
    assert f"weights: {float(weighted.ess()):.0f} effective of 20000 reads" in diagnosis.text


def test_one_problem_at_a_time():
    problem = a_problem(a_graph("complete"), h=(2,))
    with pytest.raises(
        ValueError, match=r"expected reads of one problem \[R, n\]; got \[2, 3, 5\]"
    ):
        diagnose(problem, reads(problem, 3, 0))
    one = Ising(problem.graph, problem.h[0], problem.J)
    with pytest.raises(ValueError, match=r"expected one problem; got \[2\]"):
        diagnose(problem, reads(one, 3, 0))
    with pytest.raises(ValueError, match=r"expected reads of 5 spins; got \[3, 4\]"):
        diagnose(one, Samples(torch.ones(3, 4, dtype=torch.int8), torch.zeros(3)))


def test_bits_are_no_reads():
    problem = a_problem(a_graph("complete"))
    bits = torch.zeros(3, 5)
    with untyped(), pytest.raises(TypeError, match=r"got torch\.bool: 2 \* spins\.to\(torch"):
        diagnose(problem, Samples(bits > 0, torch.zeros(3)))
    verdict = diagnose(problem, Samples(bits.to(torch.uint8), torch.zeros(3)))
    assert verdict.ok is False and "2 * spins.to(torch.int8) - 1" in verdict.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [None, 0, 1])
def test_energy_cumulants_are_those_of_the_enumerated_law(kind, side):
    if side is not None and kind != "bipartite":
        return
    problem = a_problem(a_graph(kind), offset=())
    states, p, _ = slow_law(problem)
    energies = [slow_energy(problem, s) for s in states]
    mean = sum(q * e for q, e in zip(p, energies, strict=True))
    variance = sum(q * (e - mean) ** 2 for q, e in zip(p, energies, strict=True))
    third = sum(q * (e - mean) ** 3 for q, e in zip(p, energies, strict=True))
    weights, *given = listed_law(plain(problem), side)
    found = total_cumulants(weights.softmax(-1), *given)
    assert found == pytest.approx((mean - float(problem.offset), variance, third), rel=1e-9)


@pytest.mark.parametrize("beta", thinned([1.0, 0.8, 3.0, 1.5], 2))
@pytest.mark.parametrize("num", thinned([3, 10, 300, 30], 2))
def test_cold_reads_that_hardly_leave_their_minima_pass(beta, num):
    """Rare excitations: what some thousand exact reads do not show is not impossible."""
    ring = Ising.from_edges(
        torch.zeros(10), [(i, (i + 1) % 10) for i in range(10)], -2 * torch.ones(10)
    )
    problem = ring.scale(beta)
    for seed in range(3):
        verdict = judge(problem, reads(problem, num, seed), seed)
        assert verdict.ok is (True if num >= 5 else None), verdict.text
    if num >= 30:
        assert judge(problem, of(problem, reads(problem.scale(0.3), num, 0).spins)).ok is False


# ---- reads that say less than their number ----------------


def cold_ferromagnet():
    """Twelve spins that hardly ever leave their two ground states, of weights .39 and .61."""
    return Ising.from_dense(torch.full((12,), 0.02), -0.4 * (torch.ones(12, 12) - torch.eye(12)))


@pytest.mark.parametrize("seed", thinned(range(8), 2))
def test_right_reads_of_minima_with_families_pass(seed):
    """Reads that show no spread at all: the law's own counts, not what families of them show."""
    problem = cold_ferromagnet()
    g = torch.Generator().manual_seed(100 + seed)
    exact = Exact().sample(problem, 256, generator=g)
    paired = dataclasses.replace(exact, family=torch.arange(256) // 2)
    copied = Samples(
        exact.spins[:100].repeat(2, 1), exact.energy[:100].repeat(2), family=torch.arange(200) % 100
    )
    for samples in (exact, paired, copied):
        assert diagnose(problem, samples).ok


def test_one_read_however_often_is_not_judged():
    problem = cold_ferromagnet()
    spins = torch.ones(2000, 12, dtype=torch.int8)
    energy = problem.energy(spins)
    one = torch.cat([torch.zeros(1), torch.full((1999,), -50.0)])
    for samples in (
        Samples(spins, energy, family=torch.zeros(2000, dtype=torch.long)),
        Samples(spins, energy, info={"block": 2000}),
        Samples(spins, energy, log_weight=one),
    ):
        verdict = diagnose(problem, samples)
        assert verdict.ok is None
        assert verdict.text.startswith(
            "not judged: only 1.0 effective reads, at least 5 are needed"
        )
        assert "consistent with 1" not in verdict.text
