"""The same draws for any thread count, generator and process: bit for bit, for every sampler."""

import pickle

import pytest
import torch

from qsample import Graph, Ising, Samples
from qsample.annealers import Exact, Gibbs
from qsample.sampling.random import mix, mix_each, mix_many
from tests.support.problems import SHAPES, random_problem
from tests.support.samplers import LOCAL, pairs
from tests.support.seeds import generator
from tests.support.thinning import thinned

# Of so few reads, some have few effective runs: what is asked here is which they are.
pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")

CASES = pairs(SHAPES)
# 7 and the six shapes have no common factor: each shape and each sampler keeps its share.
cases = pytest.mark.parametrize(("name", "shape"), thinned(CASES, 7))


def assert_same(ours, theirs):
    assert torch.equal(ours.spins, theirs.spins)
    assert torch.equal(ours.energy, theirs.energy)  # rounding too
    for samples in (ours, theirs):
        assert ("log_partition" in samples.info) == ("log_partition" in ours.info)
    if isinstance(ours.info.get("log_partition"), torch.Tensor):
        assert torch.equal(ours.info["log_partition"], theirs.info["log_partition"])


@cases
def test_threads_change_nothing(name, shape):
    problem, sampler = random_problem(shape, (3,)), LOCAL[name].quick
    runs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(sampler.sample(problem, 300, generator=generator(1)))
    finally:
        torch.set_num_threads(1)
    assert_same(*runs)


@cases
def test_seeds(name, shape):
    problem, sampler = random_problem(shape), LOCAL[name].quick

    def spins(seed):
        return sampler.sample(problem, 20, generator=generator(seed)).spins

    # The generator decides, and nothing global is touched.
    state = torch.get_rng_state()
    assert torch.equal(spins(1), spins(1))
    assert not torch.equal(spins(1), spins(2))
    assert torch.equal(state, torch.get_rng_state())
    # It moves on from call to call.
    moving = generator(1)
    first = sampler.sample(problem, 20, generator=moving).spins
    second = sampler.sample(problem, 20, generator=moving).spins
    assert torch.equal(first, spins(1))
    assert not torch.equal(first, second)
    # Without one, torch's own decides.
    torch.manual_seed(5)
    default = sampler.sample(problem, 20).spins
    torch.manual_seed(5)
    assert torch.equal(sampler.sample(problem, 20).spins, default)
    assert not torch.equal(sampler.sample(problem, 20).spins, default)


@cases
def test_one_generator_for_a_batch_of_any_size(name, shape):
    """Seed k is mix(seed, k): problem k draws the same in a batch of 5 and of 3."""
    problem = random_problem(shape)

    def spins(*batch):
        alike = Ising(problem.graph, problem.h.expand(*batch, -1), problem.J)
        return LOCAL[name].quick.sample(alike, 20, generator=generator(3)).spins

    five = spins(5)
    assert torch.equal(five[:3], spins(3))
    assert torch.equal(five[:1], spins(1))
    assert torch.equal(five, spins(1, 5)[0])
    assert len({row.numpy().tobytes() for row in five}) == 5


@pytest.mark.parametrize("name", LOCAL)
def test_a_pickled_sampler_draws_the_same(name):
    row = LOCAL[name]
    shape = "tree" if "sparse" in row.kinds else "bipartite"
    problem = random_problem("dense" if row.max_spins < 30 else shape)
    again = pickle.loads(pickle.dumps(row.quick))
    assert repr(again) == repr(row.quick)
    ours, theirs = (s.sample(problem, 6, generator=generator()) for s in (row.quick, again))
    assert_same(ours, theirs)
    assert ours.exactness is row.tag


@cases
def test_answers_are_fresh_and_detached(name, shape):
    sampler, plain = LOCAL[name].quick, random_problem(shape)
    h, J = plain.h.clone().requires_grad_(), plain.J.clone().requires_grad_()
    problem = Ising(plain.graph, h, J, 0.5)
    samples = sampler.sample(problem, 4, generator=torch.Generator())
    assert not samples.energy.requires_grad
    assert samples.spins.is_contiguous()
    assert bool((samples.spins.abs() == 1).all())
    torch.testing.assert_close(samples.energy, problem.detach().energy(samples.spins))
    # What a caller does to the answer changes neither the problem nor a later answer.
    samples.spins.fill_(0)
    samples.energy.fill_(0)
    assert torch.equal(h, plain.h)
    assert torch.equal(J, plain.J)
    again = sampler.sample(problem, 4, generator=torch.Generator())
    assert bool((again.spins.abs() == 1).all())
    if not sampler.warm_start:
        with pytest.raises(
            ValueError, match=rf"{type(sampler).__name__} cannot continue chains.*Gibbs.*Corrected"
        ):
            sampler.sample(problem, 4, initial=again)
        return
    start = again.spins.clone()
    going_on = sampler.sample(problem, 4, initial=again, generator=torch.Generator())
    assert torch.equal(again.spins, start)  # the caller's chains are the caller's
    going_on.spins.fill_(0)
    assert torch.equal(again.spins, start)
    for wrong in (Samples(start[:3], again.energy[:3]), Samples(start[None], again.energy[None])):
        with pytest.raises(ValueError, match=r"initial spins of shape \[4, "):
            sampler.sample(problem, 4, initial=wrong)


@pytest.mark.parametrize("graph", SHAPES)
@pytest.mark.parametrize("scan", ["forward", "palindromic"])
def test_warm_starts_continue(graph, scan):
    """At nearly infinite beta a chain stays in its local minimum; a fresh one would be anywhere."""
    problem = random_problem(graph, (2,))
    h = problem.h + problem.h.sign()  # no near ties
    cold = Ising(problem.graph, h, problem.J).scale(1e4)
    first = Gibbs(sweeps=50, scan=scan).sample(cold, 8, generator=generator(0))
    stays = Gibbs(sweeps=5, scan=scan).sample(cold, 8, initial=first, generator=generator(1))
    stable = (first.spins * cold.field(first.spins) <= 0).all(-1)
    assert stable.any() and torch.equal(stays.spins[stable], first.spins[stable])
    weight = torch.arange(16.0).reshape(2, 8)
    weighted = Samples(first.spins, first.energy, weight)
    kept = Gibbs(sweeps=1, scan=scan).sample(cold, 8, initial=weighted).log_weight
    assert kept is not None and torch.equal(kept, weight) and kept.data_ptr() != weight.data_ptr()
    # a carry that means nothing, and energies that lie, change nothing
    odd = Samples(first.spins, torch.full_like(first.energy, float("nan")), carry={"x": weight})
    runs = [
        Gibbs(sweeps=2).sample(problem, 8, initial=s, generator=generator(2)) for s in (first, odd)
    ]
    assert_same(*runs)


@pytest.mark.parametrize(
    ("sampler", "count"),
    [
        ("exact", 5000),
        ("exact tree", 1000),
        ("gibbs", 5000),
        ("annealing", 5000),
        pytest.param("neal", 5000, marks=pytest.mark.long),
    ],
)
def test_seeds_are_as_good_as_reads(sampler, count):
    """Calls that differ in their seed give as many distinct states as reads of one call.

    (The first read of dwave-samplers' annealer hardly depends on its seed.)
    """
    graph = (
        SHAPES["tree"]
        if "tree" in sampler
        else Graph.sparse(12, [(i, (i + 1) % 12) for i in range(12)])
    )
    sampler = LOCAL[sampler.removesuffix(" tree")].quick
    one = Ising(graph, torch.zeros(graph.num_spins), torch.full((graph.num_edges,), 0.1))
    reads = sampler.sample(one, count, generator=generator(0)).spins
    many = Ising(graph, torch.zeros(count, graph.num_spins), one.J)
    calls = sampler.sample(many, 1, generator=generator(1)).spins[:, 0]
    distinct = [len(s.unique(dim=0)) for s in (calls, reads)]
    assert distinct[0] >= 0.95 * distinct[1]


def test_mix_is_splitmix64():
    """The first outputs of SplitMix64 from seeds 0 and 1234567, as known, less their last bit."""
    assert [mix(0, k) for k in range(2)] == [0xE220A8397B1DCDAF >> 1, 0x6E789E6AA1B965F4 >> 1]
    assert [mix(1234567, k) for k in range(2)] == [
        6457827717110365317 >> 1,
        3203168211198807973 >> 1,
    ]
    assert len({mix(seed, k) for seed in range(100) for k in range(100)}) == 10000


@pytest.mark.parametrize("count", [0, 1, 7, 8, 600])
@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, -5])
def test_many_seeds_at_once_are_those_one_by_one(seed, count):
    assert mix_many(seed, count) == [mix(seed, k) for k in range(count)]
    seeds = mix_many(seed, count)
    assert mix_each(seeds, 3) == [mix(one, 3) for one in seeds]


@pytest.mark.parametrize(
    "graph",
    [
        Graph.complete(25),
        Graph.complete(40),
        Graph.bipartite(21, 21),
        Graph.sparse(40, Graph.complete(40).edges.T),
    ],
)
def test_exact_refuses_what_it_cannot_list(graph):
    problem = Ising(graph, torch.zeros(graph.num_spins), torch.zeros(graph.coupling_shape))
    with pytest.raises(ValueError, match=f"Exact cannot sample {graph.num_spins} spins.*use Gibbs"):
        Exact().sample(problem, 2)


def test_lists_of_generators_must_fit():
    with pytest.raises(ValueError, match="one generator, or one for each of 3 problems; got 2"):
        two = [generator(), generator(1)]
        Gibbs().sample(random_problem("complete", (3,)), 2, generator=two)


@pytest.mark.parametrize("name", [name for name, row in LOCAL.items() if "bipartite" in row.kinds])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num": 0}, "num >= 1 reads; got 0"),
        ({"h": float("nan")}, r"h\[1\] is nan: expected finite"),
        ({"J": float("inf")}, r"J\[1, 0\] is inf: expected finite"),
        ({"offset": float("-inf")}, r"offset\[\] is -inf: expected finite"),
        ({"n": 0}, r"the problem is empty \(0 spins\)"),
    ],
)
def test_every_sampler_checks_what_it_is_given(name, change, message):
    n = change.get("n", 2)
    h, J = torch.zeros(2 * n), torch.zeros(n, n)
    if "h" in change:
        h[1] = change["h"]
    if "J" in change:
        J[1, 0] = change["J"]
    problem = Ising(Graph.bipartite(n, n), h, J, change.get("offset", 0.0))
    with pytest.raises(ValueError, match=message):
        LOCAL[name].quick.sample(problem, change.get("num", 2))
