"""Both ways across the bridge to Ocean, by dimod's own conformance suite and by hand."""

import unittest
import warnings

import dimod
import dimod.testing
import numpy as np
import pytest
import torch
from dimod.exceptions import SamplerUnknownArgWarning
from dimod.generators import gnm_random_bqm
from dwave.samplers import SimulatedAnnealingSampler, SteepestDescentSampler, TreeDecompositionSampler

from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import AsDimod, Corrected, DimodAnnealer, Exact, Gibbs, Neal, SimulatedAnnealing
from tests.oracle import Z_MAX, slow_law, untyped

OURS = [Exact(), Gibbs(sweeps=2), SimulatedAnnealing(sweeps=2), Neal(sweeps=2), Corrected(Neal(sweeps=2))]
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
    bqm = cls({"b": 1.0, ("a", (1,)): -0.5, 0: 0.25}, {("b", 0): 1.5, (0, ("a", (1,))): -1.0}, 3.0, vartype)
    before = bqm.copy()
    found = AsDimod(sampler).sample(bqm, num_reads=7, seed=1)
    assert bqm == before
    assert found.vartype is bqm.vartype and set(found.variables) == set(bqm.variables)
    assert int(found.record.num_occurrences.sum()) == 7
    dimod.testing.assert_sampleset_energies(found, bqm, precision=5)
    assert found.info["exactness"] in {tag.value for tag in Exactness}
    again = AsDimod(sampler).sample(bqm, num_reads=7, seed=1)
    assert np.array_equal(found.record.sample, again.record.sample)
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
def test_weights_are_not_lost(vartype):
    """Reads without their weights would be another law, silently."""
    found = AsDimod(Weighted()).sample(dimod.BQM({"a": 1.0}, {}, vartype), num_reads=6)
    energy = Ising.from_bqm(dimod.BQM({"a": 1.0}, {}, vartype)).energy(
        torch.from_numpy(2 * found.record.sample - 1 if vartype == "BINARY" else found.record.sample)
    )
    np.testing.assert_allclose(found.record.log_weight, -energy)


# ---- dimod's samplers as ours ----------------------------------------------------------------------------------


class Histogram(dimod.Sampler):
    """Answers 99:1 as a histogram, in BINARY, columns in the opposite order: all a sampler may do."""

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
        found = dimod.SampleSet.from_samples((rows, labels), "BINARY", [0, 0], num_occurrences=counts)
        return found.relabel_variables(dict(zip(labels, labels, strict=True)), inplace=False)


def test_occurrences_are_spread_and_columns_mapped():
    """(dwave's plugin read 99:1 as 50:50 in the positive phase.)"""
    graph = Graph.sparse(4, [(0, 1), (2, 3)], ["d", "a", ("c", 1), 0])
    problem = Ising(graph, torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, -1.0]), 2.0)
    found = DimodAnnealer(Histogram()).sample(problem, 100)
    assert found.spins.shape == (100, 4) and found.spins.dtype == torch.int8
    expected = torch.tensor([1, -1, 1, -1])  # columns 0 1 0 1 in the opposite order of labels
    assert int((found.spins == expected).all(-1).sum()) == 99 and int((found.spins == 1).all(-1).sum()) == 1
    torch.testing.assert_close(found.energy, problem.energy(found.spins))
    torch.testing.assert_close(found.mean()[1], torch.tensor(-0.98))


def test_a_batch_is_one_bqm_a_problem():
    h, J = torch.randn(2, 3, 4), torch.randn(3, 2)
    graph = Graph.sparse(4, [(0, 1), (2, 3)], "wxyz")
    inner = Histogram()
    found = DimodAnnealer(inner).sample(Ising(graph, h, J), 5, generator=torch.Generator().manual_seed(0))
    assert found.spins.shape == (2, 3, 5, 4) and len(found.info.get("problems", range(6))) == 6
    assert len(set(inner.seeds)) == 6 and all(0 <= seed < 2**31 for seed in inner.seeds)
    for k, bqm in enumerate(inner.bqms):
        i, j = divmod(k, 3)
        assert [bqm.get_linear(v) for v in "wxyz"] == pytest.approx(h[i, j].tolist())
        assert [bqm.get_quadratic("w", "x"), bqm.get_quadratic("y", "z")] == pytest.approx(J[j].tolist())


@pytest.mark.parametrize("wrong", [1, -3])
def test_a_wrong_count_is_refused(wrong):
    problem = Ising(Graph.complete(2), torch.zeros(2), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=f"asked for 10 reads, the sampler returned {10 + wrong}"):
        DimodAnnealer(Histogram(wrong)).sample(problem, 10)


def test_samplers_that_take_no_num_reads_are_refused():
    with pytest.raises(ValueError, match="ExactSolver takes no num_reads"):
        DimodAnnealer(dimod.ExactSolver())


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
    """One strong field a spin: the reads must line up with the problem's spins, whatever the labels say."""
    labels = [3, "b", (0, ("x",)), 0, 1]
    for graph in (Graph.sparse(5, [(4, 0), (1, 3)], labels), Graph.bipartite(2, 3, labels), Graph.complete(5, labels)):
        h = torch.tensor([30.0, -30.0, 30.0, 30.0, -30.0])
        found = sampler.sample(Ising(graph, h, torch.zeros(graph.coupling_shape)), 6)
        assert (found.spins == -h.sign()).all() and found.exactness is Exactness.HEURISTIC
        assert found.log_weight is None
        torch.testing.assert_close(found.energy, torch.full((6,), -150.0))


# ---- Neal ------------------------------------------------------------------------------------------------------


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
    assert kwargs["num_reads"] == 6 and 0 <= kwargs["seed"] < 2**31  # one more than asked: the first is dropped


def test_neal_draws_the_law():
    """Every state's count against its probability; slow annealing of a small problem is as good as exact."""
    problem = Ising.from_edges(
        torch.tensor([0.3, -0.2, 0.1]).double(), [(0, 1), (1, 2)], torch.tensor([0.5, -0.7]).double()
    )
    found = Neal(sweeps=50).sample(problem, 20000, generator=torch.Generator().manual_seed(0))
    states, p, _ = slow_law(problem)
    for state, q in zip(states, p, strict=True):
        count = int((found.spins == torch.tensor(state)).all(-1).sum())
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
