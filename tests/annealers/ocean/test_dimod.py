"""Both ways across the bridge to Ocean, by dimod's own conformance suite and by hand."""

# dimod's types: a Sample's fields, models that are not listed, numbers of NumPy
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import unittest
import warnings

import dimod
import dimod.testing
import numpy as np
import pytest
import torch
from dimod.exceptions import SamplerUnknownArgWarning
from dimod.generators import gnm_random_bqm
from dwave.samplers import (
    SimulatedAnnealingSampler,
    SteepestDescentSampler,
    TreeDecompositionSampler,
)

from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import (
    AnnealedImportance,
    AsDimod,
    Corrected,
    DimodAnnealer,
    Exact,
    Gibbs,
    Neal,
    ParallelTempering,
    PopulationAnnealing,
    SimulatedAnnealing,
)
from qsample.annealers.ocean.dimod import optimising_range
from tests.support.exact import Z_MAX, slow_law, untyped
from tests.support.thinning import thinned

OURS = [
    Exact(),
    Gibbs(sweeps=2),
    SimulatedAnnealing(sweeps=2),
    Neal(sweeps=2),
    Corrected(Neal(sweeps=2)),
]
ours = pytest.mark.parametrize("sampler", OURS, ids=lambda s: type(s).__name__)


class TestExact(unittest.TestCase): ...


class TestGibbs(unittest.TestCase): ...


class TestSimulatedAnnealing(unittest.TestCase): ...


class TestNeal(unittest.TestCase): ...


class TestCorrected(unittest.TestCase): ...


# dimod's own suite: empty, one-variable and path problems of every BQM type and vartype
for sampler, case in zip(OURS, unittest.TestCase.__subclasses__()[-len(OURS) :], strict=True):
    assert case.__name__ == f"Test{type(sampler).__name__}"
    dimod.testing.load_sampler_bqm_tests(AsDimod(sampler))(case)


@ours
def test_sampler_api(sampler):
    dimod.testing.assert_sampler_api(AsDimod(sampler))


@ours
@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
@pytest.mark.parametrize("cls", [dimod.Float32BQM, dimod.Float64BQM, dimod.DictBQM])
def test_energies_vartype_and_labels(sampler, vartype, cls):
    bqm = cls(
        {"b": 1.0, ("a", (1,)): -0.5, 0: 0.25},
        {("b", 0): 1.5, (0, ("a", (1,))): -1.0},
        3.0,
        vartype,
    )
    before = bqm.copy()
    result = AsDimod(sampler).sample(bqm, num_reads=7, seed=1)
    assert bqm == before
    assert result.vartype is bqm.vartype and set(result.variables) == set(bqm.variables)
    assert int(result.record.num_occurrences.sum()) == 7
    dimod.testing.assert_sampleset_energies(result, bqm, precision=5)
    assert result.info["exactness"] in {tag.value for tag in Exactness}
    again = AsDimod(sampler).sample(bqm, num_reads=7, seed=1)
    assert np.array_equal(result.record.sample, again.record.sample)
    assert AsDimod(sampler).sample_ising({"x": 1.0}, {}, num_reads=2).vartype is dimod.SPIN
    assert AsDimod(sampler).sample_qubo({("x", "y"): 1.0}, num_reads=2).vartype is dimod.BINARY


@ours
def test_bad_requests(sampler):
    adapter = AsDimod(sampler)
    with pytest.raises(ValueError, match="expected num_reads >= 1; got 0"):
        adapter.sample(dimod.BQM({"a": 1.0}, {}, "SPIN"), num_reads=0)
    with pytest.warns(SamplerUnknownArgWarning, match="chain_strength"):
        adapter.sample(dimod.BQM({"a": 1.0}, {}, "SPIN"), chain_strength=2)
    assert len(adapter.sample(dimod.BQM("BINARY"), num_reads=3)) in (0, 3)


def test_seeds():
    bqm = gnm_random_bqm(12, 20, "SPIN", random_state=0)
    adapter = AsDimod(Gibbs(sweeps=3))
    first, same, other = (adapter.sample(bqm, num_reads=9, seed=s).record.sample for s in (1, 1, 2))
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    torch.manual_seed(0)
    default = adapter.sample(bqm, num_reads=9).record.sample
    assert not np.array_equal(default, adapter.sample(bqm, num_reads=9).record.sample)


class Weighted:
    """Uniform reads of one spin, weighted to the law of h."""

    warm_start = False
    reversible = False

    def sample(self, problem, num, *, initial=None, generator=None):
        spins = torch.ones(num, problem.num_spins, dtype=torch.int8)
        spins[::2] = -1
        energy = problem.energy(spins)
        return Samples(spins, energy, -energy, Exactness.ASYMPTOTIC)


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_weights_are_kept_on_request(vartype):
    """Reads without their weights would be another law, silently."""
    adapter = AsDimod(Weighted(), keep_weights=True)
    result = adapter.sample(dimod.BQM({"a": 1.0}, {}, vartype), num_reads=6)
    energy = Ising.from_bqm(dimod.BQM({"a": 1.0}, {}, vartype)).energy(
        torch.from_numpy(
            2 * result.record.sample - 1 if vartype == "BINARY" else result.record.sample
        )
    )
    np.testing.assert_allclose(result.record.log_weight, -energy)


def weighted_problem():
    """A frustrated ring in a field, which three sweeps of annealing leave far from its law."""
    h = {i: 0.8 if i % 2 else -0.3 for i in range(6)}
    return dimod.BQM(h, {(i, (i + 1) % 6): -0.9 for i in range(6)}, "SPIN")


@pytest.mark.parametrize(
    "client", ["plain", "aggregate", "composite", "our own", "our own, weights kept"]
)
def test_ocean_sees_the_law_of_weighted_reads(client):
    """Clients that know no weights: resampled reads are right without them."""
    bqm, num = weighted_problem(), 20_000
    problem, sampler = Ising.from_bqm(bqm), AnnealedImportance(3)
    adapter = AsDimod(sampler, keep_weights=client == "our own, weights kept")
    states, p, _ = slow_law(problem)
    mean = torch.tensor(p, dtype=torch.float64) @ torch.tensor(states, dtype=torch.float64)
    if client.startswith("our own"):
        reads = DimodAnnealer(adapter).sample(
            problem, num, generator=torch.Generator().manual_seed(1)
        )
        assert (reads.log_weight is None) == (client == "our own")
        result = reads.mean().double()
    else:
        if client == "composite":
            poly = dimod.BinaryPolynomial.from_hising(bqm.linear, bqm.quadratic)
            answer = dimod.HigherOrderComposite(adapter).sample_poly(poly, num_reads=num, seed=3)
        else:
            answer = adapter.sample(bqm, num_reads=num, seed=3)
        answer = answer.aggregate() if client == "aggregate" else answer
        rows = answer.record.sample[:, [answer.variables.index(i) for i in range(6)]]
        result = torch.from_numpy(np.average(rows, axis=0, weights=answer.record.num_occurrences))
        if client != "composite":  # which makes an info of its own
            left = answer.info["resampled"]
            assert 0.05 * num < left < 0.8 * num
    error = ((1 - mean**2) / (0.05 * num)).sqrt()
    assert ((result - mean).abs() / error).max() < Z_MAX
    unweighted = (
        sampler.sample(problem, num, generator=torch.Generator().manual_seed(3))
        .spins.double()
        .mean(0)
    )
    assert ((unweighted - mean).abs() / error).max() > Z_MAX  # what the clients saw before


def test_the_same_seed_resamples_alike():
    one, two = (
        AsDimod(AnnealedImportance(3)).sample(weighted_problem(), num_reads=50, seed=8)
        for _ in range(2)
    )
    assert np.array_equal(one.record.sample, two.record.sample) and one.info == two.info


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, int])
def test_numpy_integers_are_seeds_and_numbers_of_reads(kind):
    bqm, adapter = weighted_problem(), AsDimod(Gibbs(3))
    with untyped():
        result = adapter.sample(bqm, num_reads=kind(5), seed=kind(3))
        assert result == adapter.sample(bqm, num_reads=5, seed=3) and len(result) == 5
        for seed in (1.5, "1", True):
            with pytest.raises(ValueError, match="expected a seed of 64 bits"):
                adapter.sample(bqm, seed=seed)
        with pytest.raises(ValueError, match=r"expected num_reads >= 1; got 2\.5"):
            adapter.sample(bqm, num_reads=2.5)


def test_no_number_of_reads_is_one():
    for bqm in (weighted_problem(), dimod.BQM("SPIN")):
        assert len(AsDimod(Gibbs(3)).sample(bqm, num_reads=None)) == 1


# ---- optimisation ----------------


def instances():
    rng = np.random.default_rng(7)
    torus = [
        ((r, c), ((r + a) % 8, (c + 1 - a) % 8)) for r in range(8) for c in range(8) for a in (0, 1)
    ]
    yield (
        "spin glass of +-1",
        dimod.BQM.from_ising({}, {edge: float(rng.choice([-1, 1])) for edge in torus}),
    )
    K = {(i, j): float(rng.normal()) for i in range(30) for j in range(i)}
    yield (
        "complete, scaled by 1,000",
        dimod.BQM.from_ising({}, {pair: 1e3 * J for pair, J in K.items()}),
    )
    yield (
        "QUBO of integers",
        gnm_random_bqm(
            40, 160, "BINARY", random_state=4, bias_generator=lambda n: rng.integers(-9, 9, n)
        ),
    )
    yield (
        "weak",
        dimod.BQM.from_ising(
            {i: 0.01 for i in range(30)}, {pair: 1e-2 * J for pair, J in K.items()}
        ),
    )


INSTANCES = list(instances())
OPTIMISERS = {
    "annealing": SimulatedAnnealing(500),
    "annealing, metropolis": SimulatedAnnealing(500, rule="metropolis"),
    "neal": Neal(500),
    "tempering": ParallelTempering(200, 8),
    "corrected": Corrected(SimulatedAnnealing(500), Gibbs(5)),
    "population": PopulationAnnealing(5, 256),
}


# all of one family: it is the ground state's
@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")
@pytest.mark.parametrize("name", thinned(OPTIMISERS, 9))
@pytest.mark.parametrize(
    ("kind", "bqm"), thinned(INSTANCES, 3), ids=[kind for kind, _ in INSTANCES]
)
def test_an_optimiser_finds_what_dwave_samplers_annealing_finds(kind, bqm, name):
    theirs = (
        SimulatedAnnealingSampler().sample(bqm, num_reads=40, num_sweeps=1000, seed=1).first.energy
    )
    result = AsDimod(OPTIMISERS[name], optimise=True).sample(bqm, num_reads=40, seed=1)
    assert result.first.energy <= theirs + 1e-9 * abs(theirs)
    assert (
        result.first.energy == pytest.approx(bqm.energy(result.first.sample))
        and result.vartype is bqm.vartype
    )
    hot, cold = result.info["beta_range"]
    assert 0 < hot < cold


@pytest.mark.long
def test_without_it_the_reads_follow_the_law():
    """Weak couplings at beta 1 find no ground state: that is the law, and it surprised users."""
    bqm = dict(INSTANCES)["weak"]
    cold = AsDimod(SimulatedAnnealing(500), optimise=True).sample(bqm, num_reads=40, seed=1)
    plain = AsDimod(SimulatedAnnealing(500)).sample(bqm, num_reads=40, seed=1)
    assert plain.record.energy.mean() > 0.2 * cold.first.energy


def test_the_range_is_that_of_the_energies():
    """Two spins by hand.

    Flips change E by 2 (|h| + |J|) = 5 at most, and by 2 |J| = 1 at least, which both spins feel.
    """
    problem = Ising.from_bqm(dimod.BQM({"a": 2.0, "b": 0.0}, {"ab": 0.5}, "SPIN"))
    hot, cold = optimising_range(problem)
    assert hot == pytest.approx(np.log(2) / 5) and cold == pytest.approx(np.log(200) / 1)
    flat = Ising.from_bqm(dimod.BQM({"a": 0.0}, {}, "SPIN"))
    assert optimising_range(flat) == (1, 1)
    assert len(AsDimod(Gibbs(1), optimise=True).sample_ising({"a": 0.0}, {}, num_reads=3)) == 3
    noisy = Ising.from_bqm(dimod.BQM({"a": 1.0, "b": 1e-12}, {}, "SPIN"))
    assert optimising_range(noisy)[1] <= 1e6


# ---- dimod's samplers as ours ----------------


class Histogram(dimod.Sampler):
    """Answers 99:1 as a histogram, in BINARY, columns in the opposite order: all is allowed."""

    parameters = {"num_reads": [], "seed": []}  # pyright: ignore
    properties = {}  # pyright: ignore

    def __init__(self, wrong=0):
        self.wrong, self.seeds, self.bqms = wrong, [], []

    def sample(self, bqm, num_reads=1, seed=None, **kwargs):
        self.seeds.append(seed)
        self.bqms.append(bqm)
        labels = list(bqm.variables)[::-1]
        rows = np.array([[k % 2 for k in range(len(labels))], [1] * len(labels)], dtype=np.int64)
        counts = [num_reads - 1 + self.wrong, 1]
        result = dimod.SampleSet.from_samples(
            (rows, labels), "BINARY", [0, 0], num_occurrences=counts
        )
        return result.relabel_variables(dict(zip(labels, labels, strict=True)), inplace=False)


def test_occurrences_are_spread_and_columns_mapped():
    """(dwave's plugin read 99:1 as 50:50 in the positive phase.)"""
    graph = Graph.sparse(4, [(0, 1), (2, 3)], ["d", "a", ("c", 1), 0])
    problem = Ising(graph, torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, -1.0]), 2.0)
    result = DimodAnnealer(Histogram()).sample(problem, 100)
    assert result.spins.shape == (100, 4) and result.spins.dtype == torch.int8
    expected = torch.tensor([1, -1, 1, -1])  # columns 0 1 0 1 in the opposite order of labels
    assert (
        int((result.spins == expected).all(-1).sum()) == 99
        and int((result.spins == 1).all(-1).sum()) == 1
    )
    torch.testing.assert_close(result.energy, problem.energy(result.spins))
    torch.testing.assert_close(result.mean()[1], torch.tensor(-0.98))


def test_a_batch_is_one_bqm_a_problem():
    h, J = torch.randn(2, 3, 4), torch.randn(3, 2)
    graph = Graph.sparse(4, [(0, 1), (2, 3)], "wxyz")
    inner = Histogram()
    result = DimodAnnealer(inner).sample(
        Ising(graph, h, J), 5, generator=torch.Generator().manual_seed(0)
    )
    assert result.spins.shape == (2, 3, 5, 4) and len(result.info.get("problems", range(6))) == 6
    assert len(set(inner.seeds)) == 6 and all(0 <= seed < 2**31 for seed in inner.seeds)
    for k, bqm in enumerate(inner.bqms):
        i, j = divmod(k, 3)
        assert [bqm.get_linear(v) for v in "wxyz"] == pytest.approx(h[i, j].tolist())
        assert [bqm.get_quadratic("w", "x"), bqm.get_quadratic("y", "z")] == pytest.approx(
            J[j].tolist()
        )


@pytest.mark.parametrize("wrong", [1, -3])
def test_a_wrong_count_is_refused(wrong):
    problem = Ising(Graph.complete(2), torch.zeros(2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=f"asked for 10 reads, the sampler returned {10 + wrong}"):
        DimodAnnealer(Histogram(wrong)).sample(problem, 10)


def test_samplers_that_take_no_num_reads_are_refused():
    with pytest.raises(ValueError, match="ExactSolver takes no num_reads"):
        DimodAnnealer(dimod.ExactSolver())


def test_options_that_a_sampler_does_not_have_are_refused():
    with pytest.raises(TypeError, match="no option 'num_sweep': did you mean 'num_sweeps'"):
        DimodAnnealer(SimulatedAnnealingSampler(), num_sweep=3)
    with pytest.raises(TypeError, match=r"no option 'xyz': it has .*'num_reads'"):
        DimodAnnealer(SimulatedAnnealingSampler(), xyz=3)


@pytest.mark.parametrize(
    "sampler",
    [
        DimodAnnealer(SimulatedAnnealingSampler(), num_sweeps=3),
        DimodAnnealer(SteepestDescentSampler()),
        DimodAnnealer(TreeDecompositionSampler()),
        DimodAnnealer(AsDimod(Gibbs(sweeps=3))),
        Neal(sweeps=3),
    ],
    ids=repr,
)
def test_labels_in_any_order(sampler):
    """One strong field per spin: reads line up with the problem's spins, whatever the labels."""
    labels = [3, "b", (0, ("x",)), 0, 1]
    for graph in (
        Graph.sparse(5, [(4, 0), (1, 3)], labels),
        Graph.bipartite(2, 3, labels),
        Graph.complete(5, labels),
    ):
        h = torch.tensor([30.0, -30.0, 30.0, 30.0, -30.0])
        result = sampler.sample(Ising(graph, h, torch.zeros(graph.coupling_shape)), 6)
        assert (result.spins == -h.sign()).all() and result.exactness is Exactness.HEURISTIC
        assert result.log_weight is None
        torch.testing.assert_close(result.energy, torch.full((6,), -150.0))


# ---- Neal ----------------


def test_neal_asks_for_a_boltzmann_law(monkeypatch):
    """Its own defaults are an optimiser's: a final beta of its choice, Metropolis."""
    calls = []
    original = SimulatedAnnealingSampler.sample

    def spy(self, bqm, **kwargs):
        calls.append(kwargs)
        return original(self, bqm, **kwargs)

    monkeypatch.setattr(SimulatedAnnealingSampler, "sample", spy)
    problem = Ising(Graph.complete(3), torch.zeros(3), torch.zeros(3, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Neal().sample(problem, 5)
    (kwargs,) = calls
    betas = kwargs["beta_schedule"]
    assert kwargs["beta_schedule_type"] == "custom" and len(betas) == 1000
    assert betas[0] == pytest.approx(0.01) and betas[-1] == 1.0 and list(betas) == sorted(betas)
    assert kwargs["proposal_acceptance_criteria"] == "Gibbs"
    # one more than asked: the first is dropped
    assert kwargs["num_reads"] == 6 and 0 <= kwargs["seed"] < 2**31


def test_neal_draws_the_law():
    """Every state's count against its probability: slow annealing of a small problem is exact."""
    problem = Ising.from_edges(
        torch.tensor([0.3, -0.2, 0.1]).double(),
        [(0, 1), (1, 2)],
        torch.tensor([0.5, -0.7]).double(),
    )
    result = Neal(sweeps=50).sample(problem, 20000, generator=torch.Generator().manual_seed(0))
    states, p, _ = slow_law(problem)
    for state, q in zip(states, p, strict=True):
        count = int((result.spins == torch.tensor(state)).all(-1).sum())
        assert abs(count - 20000 * q) / (20000 * q * (1 - q)) ** 0.5 < Z_MAX


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sweeps": 0}, "expected sweeps >= 1; got 0"),
        ({"rule": "heat"}, "unknown rule 'heat'; expected one of gibbs, metropolis"),
        ({"schedule": ()}, "finite betas >= 0, at least one"),
        ({"schedule": (0.1, float("nan"))}, "finite betas >= 0"),
        ({"beta_range": (0.0, 1.0)}, "geometric schedule needs beta_range > 0"),
    ],
)
def test_bad_settings(kwargs, message):
    for make in (Neal, SimulatedAnnealing):
        with untyped(), pytest.raises(ValueError, match=message):
            make(**kwargs)
