"""The native dense kernel and the torch kernels, against the enumerated law and each other."""

import numpy as np
import pytest
import torch

from qsample import Graph, Ising, Samples
from qsample.annealers import Gibbs, _engine
from qsample.annealers.kernels.native import sweep_dense, sweep_sparse
from qsample.annealers.kernels.sweeper import clock, native_for
from qsample.testing import FALSE_ALARM, g_test
from tests.support.problems import NUMBERS, numbered, random_graph
from tests.support.reference_sweep import assert_lawful
from tests.support.sweeps import run
from tests.support.thinning import thinned


def complete(n=7, batch=(), seed=0, own=True):
    g = torch.Generator().manual_seed(seed)
    J = torch.randn(*(batch if own else ()), n, n, generator=g).triu(1) * 0.4
    return Ising(
        Graph.complete(n),
        torch.randn(*batch, n, generator=g) * 0.3,
        J + J.mT,
        torch.randn(batch, generator=g),
    )


def dense_edges(seed=0):
    g = torch.Generator().manual_seed(seed)
    pairs = torch.combinations(torch.arange(6))[1:]
    return Ising(
        Graph.sparse(6, pairs),
        torch.randn(2, 6, generator=g) * 0.3,
        torch.randn(14, generator=g) * 0.5,
    )


def ring(seed=0):
    g = torch.Generator().manual_seed(seed)
    edges = [(i, (i + 1) % 6) for i in range(6)]
    return Ising(
        Graph.sparse(6, edges), torch.randn(2, 6, generator=g) * 0.3, torch.randn(2, 6, generator=g)
    )


PROBLEMS = {
    "own J": complete(batch=(3,)),
    "shared J": complete(batch=(4,), own=False),
    "single": complete(),
    "edges": dense_edges(),
}
SCANS = ["forward", "palindromic"]
ISAS = _engine.instruction_sets()
RULES = ["gibbs", "metropolis"]
COUNTS = [1, 2, 3, 7, 8, 9, 31, 33, 64, 65, 130]
CASES = [(name, rule, scan) for name in PROBLEMS for rule in RULES for scan in SCANS]
TORCH = {"ring": ring(), "complete": complete(batch=(2,)), "edges": dense_edges()}
SHARE = FALSE_ALARM / (4 * len(CASES) + 4 * 2 * len(TORCH))


@pytest.mark.parametrize(("name", "rule", "scan"), CASES)
def test_law(name, rule, scan):
    problem = PROBLEMS[name]
    seeds = list(range(problem.batch_shape.numel()))
    swept = sweep_dense(problem, 10_000, [1.0] * 80, seeds, rule=rule, scan=scan)
    batch = problem.batch_shape
    samples = Samples(swept.spins.reshape(*batch, 10_000, -1), swept.energy.reshape(*batch, 10_000))
    for p_value, *_ in g_test(problem, samples):
        assert p_value > SHARE
    exact = problem.to(dtype=torch.float64).energy(samples.spins)
    torch.testing.assert_close(samples.energy, exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scan", thinned(["forward", "palindromic"], 2))
def test_torch_kernels_law(name, rule, scan):
    """What other devices run, on this one."""
    problem = TORCH[name]
    spins, energy, _ = run(problem, 10_000, [1.0] * 60, [1, 2], rule=rule, scan=scan, native=False)
    for p_value, *_ in g_test(problem, Samples(spins, energy)):
        assert p_value > SHARE


def test_replicas_at_their_own_temperatures():
    """beta by lane: replicas at beta 0 are free spins, those at 1 follow the law."""
    problem = complete()
    betas = torch.cat([torch.zeros(5000), torch.ones(10_000)]).expand(60, 1, 15_000)
    swept = sweep_dense(problem, 15_000, betas, [3])
    free, law = swept.spins[:, :5000], swept.spins[0, 5000:]
    assert float(free.double().mean().abs()) * (5000 * 7) ** 0.5 < 5
    assert g_test(problem, Samples(law, swept.energy[0, 5000:]))[0][0] > SHARE


# ---- bit for bit ----------------


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scan", SCANS)
def test_the_law_bit_for_bit(n, rule, scan):
    rng = np.random.default_rng(n)
    problem = numbered(Graph.complete(n), seed=n)
    draw = {"rule": rule, "scan": scan}
    for num in COUNTS:
        seed, sweep = (int(x) for x in rng.integers(0, 2**30, 2))
        betas = torch.from_numpy(rng.uniform(0, 2, (2, 1, num)).astype(np.float32))
        spins = assert_lawful(sweep_dense, problem, num, betas, [seed], first_sweep=sweep, **draw)
        how = {"spins": spins, "first_sweep": sweep + 2, **draw}
        assert_lawful(sweep_dense, problem, num, betas[:1, 0, 0], [seed], **how)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("rule", thinned(RULES, 2))
def test_numbers_of_every_size_bit_for_bit(numbers, rule):
    problem = numbered(Graph.complete(40), numbers)
    betas = torch.logspace(-1.5, 1, 20)
    for num in (1, 5, 40):
        assert_lawful(sweep_dense, problem, num, betas, [num], rule=rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("by_lane", thinned([True, False], 2))
def test_ten_million_decisions_are_those_of_the_plain_rule(rule, by_lane):
    """What a filter decides by its bounds, and leaves open, on each instruction set."""
    problem = numbered(Graph.complete(160))
    betas = torch.linspace(0.1, 2, 250)
    if by_lane:
        betas = betas[:, None, None] * torch.linspace(0.5, 1.5, 256)
    plain = sweep_dense(problem, 256, betas, [1], rule=rule, isa="plain")
    for isa in ISAS:
        swept = sweep_dense(problem, 256, betas, [1], rule=rule, isa=isa)
        assert torch.equal(swept.spins, plain.spins), isa
        assert torch.equal(swept.energy, plain.energy), isa


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_batches_bit_for_bit(own, rule):
    """Also those of a sparse graph, which is visited in the order of the spins here."""
    rng = np.random.default_rng(1)
    for graph in (Graph.complete(21), random_graph(21, 150)):
        problem = numbered(graph, "normal", (3,), (3,) if own else ())
        for num in (1, 6, 33):
            betas = torch.from_numpy(rng.uniform(0, 2, (3, 3, num)).astype(np.float32))
            start = 2 * torch.from_numpy(rng.integers(0, 2, (3, num, 21), dtype=np.int8)) - 1
            how = {"spins": start, "rule": rule, "order": "complete"}
            assert_lawful(sweep_dense, problem, num, betas, [7, 8, 9], **how)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("reads", [3, 40])
def test_a_run_goes_on_where_it_stopped(rule, scan, reads):
    """Kept fields are whole numbers: those that a call begins with are those the last left."""
    problem, betas = complete(61, (2,)), torch.linspace(0.2, 1.5, 90)
    draw = {"rule": rule, "scan": scan}
    whole = sweep_dense(problem, reads, betas, [4, 5], **draw)
    first = sweep_dense(problem, reads, betas[:37], [4, 5], **draw)
    how = {"spins": first.spins, "first_sweep": 37, **draw}
    rest = sweep_dense(problem, reads, betas[37:], [4, 5], **how)
    assert torch.equal(rest.spins, whole.spins) and torch.equal(rest.energy, whole.energy)


@pytest.mark.parametrize("own", [True, False])
def test_bits_do_not_depend_on_batch_or_threads(own):
    problem, before = complete(61, (5,), own=own), torch.get_num_threads()
    whole = sweep_dense(problem, 9, [0.5, 1.0] * 20, [7, 8, 9, 10, 11])
    try:
        torch.set_num_threads(2)
        again = sweep_dense(problem, 9, [0.5, 1.0] * 20, [7, 8, 9, 10, 11])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(whole.spins, again.spins) and torch.equal(whole.energy, again.energy)
    for k in range(5):
        J = problem.J[k] if own else problem.J
        alone = sweep_dense(
            Ising(problem.graph, problem.h[k], J, problem.offset[k]), 9, [0.5, 1.0] * 20, [7 + k]
        )
        assert torch.equal(alone.spins[0], whole.spins[k])
        assert torch.equal(alone.energy[0], whole.energy[k])


@pytest.mark.parametrize("reads", [1, 7, 8, 9, 17, 40])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scan", SCANS)
def test_first_reads_do_not_depend_on_how_many(reads, rule, scan):
    """Up to 8 reads send out each flip at once, more of them those of 24 spins: the same bits."""
    problem = complete(61)
    many = sweep_dense(problem, 64, [0.2] * 70, [2], rule=rule, scan=scan)
    few = sweep_dense(problem, reads, [0.2] * 70, [2], rule=rule, scan=scan)
    assert torch.equal(few.spins[0], many.spins[0, :reads])
    torch.testing.assert_close(
        many.energy[0], problem.to(dtype=torch.float64).energy(many.spins)[0], rtol=1e-6, atol=1e-4
    )


def test_interrupt_returns_what_is_done():
    problem = complete(200)
    swept = sweep_dense(problem, 64, [1.0] * 100_000, [1], alive=clock(0.1))
    assert 0 < int(swept.done.max()) < 100_000 and swept.sweeps == int(swept.done.min())
    torch.testing.assert_close(
        swept.energy[0],
        problem.to(dtype=torch.float64).energy(swept.spins)[0],
        rtol=1e-6,
        atol=1e-4,
    )


def test_who_serves_whom():
    assert native_for(ring()) is sweep_sparse
    assert native_for(complete()) is native_for(dense_edges()) is sweep_dense
    assert Gibbs(3).sample(complete(), 4).spins.shape == (4, 7)
    with pytest.raises(ValueError, match="instruction set 'mmx'"):
        sweep_dense(complete(), 2, [1.0], [1], isa="mmx")
