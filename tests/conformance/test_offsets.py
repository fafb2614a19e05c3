"""An offset is in no law: draws, weights and log Z where it dwarfs what tells states apart, in every dtype."""

from typing import Any

import pytest
import torch

import qsample as qs
from qsample import Graph, Ising
from qsample.annealers import (
    AnnealedImportance,
    Exact,
    ParallelTempering,
    PopulationAnnealing,
    SimulatedAnnealing,
    TemperedGibbs,
)
from qsample.problem.enumeration import log_partition, log_weights
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import Z_MAX, slow_law
from tests.support.seeds import generator

OFFSETS = {torch.bfloat16: 3e4, torch.float16: 3e4, torch.float32: 3e7, torch.float64: 1e15}
TREE = Graph.sparse(30, [(i, i + 1) for i in range(29)])  # too many spins to list
GRAPHS = {
    "sparse": Graph.sparse(4, [(0, 1), (1, 2), (2, 3), (0, 3)]),
    "bipartite": Graph.bipartite(2, 3),
    "complete": Graph.complete(4),
    "tree": TREE,
}
CASES = [(kind, dtype) for kind in GRAPHS for dtype in OFFSETS]
each_case = pytest.mark.parametrize(
    ("kind", "dtype"), CASES, ids=lambda v: str(v).removeprefix("torch.")
)


def problem_of(kind, dtype=torch.float64, offset=0.0, scale=1.0):
    graph, g = GRAPHS[kind], generator(4)
    h = scale * torch.randn(graph.num_spins, generator=g, dtype=torch.float64)
    J = scale * torch.randn(graph.num_edges, generator=g, dtype=torch.float64)
    return Ising(graph, h.to(dtype), graph.couplings(J.to(dtype)), offset)


def mean_spin(problem):
    """Of every spin, and log Z, by sums over all states in pure Python; of a chain by transfer matrices."""
    wide = problem.to(dtype=torch.float64).without_offset()
    if problem.graph is not TREE:
        states, p, log_z = slow_law(wide)
        return torch.tensor(p, dtype=torch.float64) @ torch.tensor(
            states, dtype=torch.float64
        ), log_z
    with torch.enable_grad():
        h = wide.h.clone().requires_grad_()
        s = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        log_z = -h[0] * s
        for i, J in enumerate(wide.J, 1):
            log_z = (log_z[:, None] - (J * s[:, None] + h[i]) * s).logsumexp(0)
        (slope,) = torch.autograd.grad(log_z.logsumexp(0), h)
    return -slope, float(log_z.detach().logsumexp(0))


@each_case
def test_exact_draws_do_not_see_the_offset(kind, dtype):
    problem = problem_of(kind, dtype, OFFSETS[dtype])
    found = Exact().sample(problem, 4000, generator=generator())
    mean, log_z = mean_spin(problem)
    z = (found.spins.double().mean(0) - mean) / ((1 - mean**2) / 4000).sqrt()
    assert z.abs().max() < Z_MAX
    plain = Exact().sample(problem.without_offset(), 4000, generator=generator())
    assert torch.equal(found.spins, plain.spins)
    assert float(plain.info["log_partition"]) == pytest.approx(log_z, abs=1e-9)
    shift = found.info["log_partition"] - (plain.info["log_partition"] - problem.offset.double())
    assert abs(float(shift)) <= 1e-15 * OFFSETS[dtype]


def test_the_three_spins_that_were_reported():
    h, J = torch.tensor([0.5, -0.25, 0.75]), torch.tensor([0.5, -0.5])
    problem = Ising.from_edges(h, [(0, 1), (1, 2)], J, 3e7)
    mean = Exact().sample(problem, 20_000, generator=generator()).mean()
    torch.testing.assert_close(mean, torch.tensor([-0.45, 0.16, -0.50]), atol=0.03, rtol=0)


@pytest.mark.parametrize("dtype", OFFSETS, ids=str)
def test_a_penalty_in_a_qubo_leaves_the_law(dtype):
    """sum b = 1 by a penalty of 2e4: the offset, fields and couplings are all as large."""
    Q: dict[Any, float] = {(i, i): -2e4 + 0.5 * i for i in range(3)}
    Q |= {(i, j): 4e4 for i in range(3) for j in range(i)}
    problem = Ising.from_qubo(Q, 2e4 + 3e7 * (dtype == torch.float64), torch.float64)
    if dtype == torch.float64:
        p = torch.tensor([0.0, -0.5, -1.0]).softmax(0).double()
        found = Exact().sample(problem, 10_000, generator=generator())
        up = ((found.spins + 1) // 2).double().mean(0)
        assert ((up - p) / (p * (1 - p) / 10_000).sqrt()).abs().max() < Z_MAX
    narrow = problem.to(dtype=dtype)
    p_value, *_ = g_test(narrow, Exact().sample(narrow, 10_000, generator=generator()))[0]
    assert p_value > FALSE_ALARM / len(OFFSETS)


@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_fields_at_the_end_of_half_precision(kind):
    """Sums of fields of 6e4 overflow a float16, which is said; in single precision the same numbers have a law."""
    graph, n = GRAPHS[kind], GRAPHS[kind].num_spins
    h = torch.full((n,), 6e4, dtype=torch.float16)
    h[-1] = 0.25
    problem = Ising(graph, h, torch.zeros(graph.coupling_shape, dtype=torch.float16))
    with pytest.raises(
        ValueError, match=r"do not fit torch.float16.*problem.to\(dtype=torch.float32\)"
    ):
        Exact().sample(problem, 4000)
    spins = (
        Exact().sample(problem.to(dtype=torch.float32), 4000, generator=generator()).spins.double()
    )
    assert (spins[:, :-1] == -1).all()
    z = (spins[:, -1].mean() - torch.tanh(torch.tensor(-0.25))) * 4000**0.5
    assert abs(float(z)) < Z_MAX


def test_beyond_double_precision_is_refused():
    h = torch.tensor([1e308, 1e308], dtype=torch.float64)
    problem = Ising.from_edges(h, [(0, 1)], h[:1])
    for call in (lambda: Exact().sample(problem, 2), lambda: qs.log_partition(problem)):
        with pytest.raises(ValueError, match=r"1e\+308 add up to more than double precision holds"):
            call()


WEIGHTED = {"AIS": AnnealedImportance(20), "population": PopulationAnnealing(4, 1024)}


@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
@pytest.mark.parametrize("name", WEIGHTED)
@pytest.mark.parametrize("dtype", OFFSETS, ids=str)
def test_weights_and_log_z_do_not_see_it(name, kind, dtype):
    problem, sampler = problem_of(kind, dtype, OFFSETS[dtype]), WEIGHTED[name]
    found = sampler.sample(problem, 1024, generator=generator())
    plain = sampler.sample(problem.without_offset(), 1024, generator=generator())
    assert torch.equal(found.spins, plain.spins) and found.log_weight is not None
    assert torch.equal(found.weight, plain.weight) and found.log_weight.dtype != torch.bfloat16
    mean, log_z = mean_spin(problem)
    error = ((1 - mean**2) / found.ess().double()).sqrt()
    assert ((found.weight.double() @ found.spins.double() - mean) / error).abs().max() < Z_MAX
    z = (float(plain.info["log_partition"]) - log_z) / float(plain.info["log_partition_stderr"])
    assert abs(z) < Z_MAX
    shift = float(
        found.info["log_partition"] + problem.offset.double() - plain.info["log_partition"]
    )
    assert abs(shift) <= 1e-15 * OFFSETS[dtype]


@pytest.mark.parametrize(
    "sampler",
    [ParallelTempering(6, 4), TemperedGibbs(4), SimulatedAnnealing(8, schedule="adaptive")],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_temperatures_do_not_see_it(sampler, kind, dtype):
    problem = problem_of(kind, dtype, 1e15)
    found = sampler.sample(problem, 50, generator=generator())
    assert torch.equal(
        found.spins, sampler.sample(problem.without_offset(), 50, generator=generator()).spins
    )


@each_case
def test_enumeration_is_in_double_precision_and_differentiable(kind, dtype):
    if kind == "tree":
        return
    problem = problem_of(kind, dtype, OFFSETS[dtype])
    problem.h.requires_grad_()
    problem.J.requires_grad_()
    mean, log_z = mean_spin(problem.detach())
    value = log_partition(problem)
    assert value.dtype == log_weights(problem).dtype == torch.float64
    assert float(value.detach() + problem.offset.double()) == pytest.approx(
        log_z, abs=1e-15 * OFFSETS[dtype] + 1e-9
    )
    (slope,) = torch.autograd.grad(value, problem.h)
    torch.testing.assert_close(-slope.double(), mean, atol=4 * torch.finfo(dtype).eps, rtol=0)


def test_diagnose_and_its_moments_do_not_see_it():
    problem = problem_of("sparse", torch.float32, 3e7)
    reads = Exact().sample(problem, 4000, generator=generator())
    plain = Exact().sample(problem.without_offset(), 4000, generator=generator())
    assert qs.diagnose(problem, reads).ok
    assert qs.diagnose(problem, reads).energy_z == pytest.approx(
        qs.diagnose(problem.without_offset(), plain).energy_z, abs=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_many_equal_weights_sum_to_one_in_half_precision(dtype):
    """1/300,000 is no number of a float16."""
    spins = torch.ones(300_000, 1, dtype=torch.int8)
    reads = qs.Samples(spins, torch.zeros(300_000, dtype=dtype))
    assert float(reads.weight.double().sum()) == pytest.approx(1, abs=1e-5)
    assert float(reads.ess()) == pytest.approx(300_000, rel=1e-5) and float(reads.mean()) == 1
