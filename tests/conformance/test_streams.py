"""The same draws for any batch, any thread count and any split of the work: bit for bit, for every sampler."""

import pytest
import torch

from qsample import Graph, Ising, Samples
from qsample.annealers import (
    AnnealedImportance,
    Corrected,
    DimodAnnealer,
    Exact,
    Gibbs,
    Neal,
    ParallelTempering,
    PopulationAnnealing,
    SimulatedAnnealing,
)
from qsample.sampling.sampler import mix, mix_each, mix_many
from tests.support.thinning import thinned

# of so few reads, some have few effective runs: what is asked here is which they are
pytestmark = pytest.mark.filterwarnings("ignore::qsample.sampling.samples.ReliabilityWarning")

GRAPHS = {
    # colour by colour
    "sparse": Graph.sparse(40, [(i, (i + k) % 40) for i in range(40) for k in (1, 7)]),
    # sparse, but served spin by spin
    "dense": Graph.sparse(11, [(i, j) for i in range(11) for j in range(i)]),
    "bipartite": Graph.bipartite(33, 9),
    "complete": Graph.complete(13),
    "tree": Graph.sparse(30, [(i, i // 2) for i in range(1, 30)]),
    "loose": Graph.sparse(5, []),
}
SAMPLERS = {
    "exact": Exact(),
    "gibbs": Gibbs(sweeps=3),
    "gibbs palindromic": Gibbs(sweeps=3, scan="palindromic"),
    "gibbs schedule": Gibbs(betas=[0.3, 1.0]),
    "annealing": SimulatedAnnealing(sweeps=5),
    "annealing adaptive": SimulatedAnnealing(sweeps=40, schedule="adaptive"),
    "annealing metropolis": SimulatedAnnealing(sweeps=5, rule="metropolis"),
    "tempering": ParallelTempering(sweeps=6, betas=4),
    "tempering annealed": ParallelTempering(sweeps=4, betas=3, anneal=3, rule="metropolis"),
    "population": PopulationAnnealing(sweeps=1, population=64),
    "importance": AnnealedImportance(sweeps=3),
    "neal": Neal(sweeps=5),
    "neal metropolis": Neal(sweeps=5, rule="metropolis"),
    "corrected": Corrected(SimulatedAnnealing(sweeps=3), Gibbs(sweeps=2)),
    "corrected neal": Corrected(Neal(sweeps=3), Gibbs(sweeps=2)),
}
# its treewidth is too large
CASES = [(s, g) for s in SAMPLERS for g in GRAPHS if (s, g) != ("exact", "sparse")]
CASES += [("gibbs bfloat16", "bipartite")]
SAMPLERS["gibbs bfloat16"] = Gibbs(sweeps=3, precision="bfloat16")
cases = pytest.mark.parametrize(("sampler", "graph"), thinned(CASES, 2))


def problem_of(name, batch=(), J_batch=(), dtype=torch.float32):
    graph = GRAPHS[name]
    g = torch.Generator().manual_seed(0)
    values = torch.randn(*J_batch, graph.num_edges, generator=g, dtype=dtype) / 3
    return Ising(
        graph,
        torch.randn(*batch, graph.num_spins, generator=g, dtype=dtype),
        graph.couplings(values),
    )


def generators(n):
    return [torch.Generator().manual_seed(100 + k) for k in range(n)]


def assert_same(ours, theirs):
    assert torch.equal(ours.spins, theirs.spins)
    assert torch.equal(ours.energy, theirs.energy)  # rounding too
    log_z = ours.info.get("log_partition"), theirs.info.get("log_partition")
    if isinstance(log_z[0], torch.Tensor):
        assert torch.equal(*log_z)


def alone(sampler, problem, k, num):
    J = (
        problem.J[k % len(problem.J)]
        if problem.J.dim() > len(problem.graph.coupling_shape)
        else problem.J
    )
    return sampler.sample(Ising(problem.graph, problem.h[k], J), num, generator=generators(7)[k])


@cases
@pytest.mark.parametrize(
    ("J_batch", "dtype"),
    thinned([((7,), torch.float32), ((), torch.float32), ((1,), torch.float64)], 3),
)
def test_a_problem_of_a_batch_draws_what_it_would_draw_alone(sampler, graph, J_batch, dtype):
    problem, sampler = problem_of(graph, (7,), J_batch, dtype), SAMPLERS[sampler]
    together = sampler.sample(problem, 9, generator=generators(7))
    assert together.spins.shape == (7, 9, problem.num_spins) and together.spins.dtype == torch.int8
    assert together.energy.dtype == dtype
    for k in (0, 6):
        assert_same(pick(together, k), alone(sampler, problem, k, 9))
    J = problem.J[[2, 5]] if J_batch == (7,) else problem.J
    pair = Ising(problem.graph, problem.h[[2, 5]], J)
    found = sampler.sample(pair, 9, generator=[generators(7)[k] for k in (2, 5)])
    for at, k in enumerate((2, 5)):
        assert_same(pick(found, at), pick(together, k))


def pick(samples, k):
    """Problem k of a batch of answers."""
    info = {key: value[k] for key, value in samples.info.items() if key == "log_partition"}
    return Samples(samples.spins[k], samples.energy[k], info=info)


@cases
def test_threads_change_nothing(sampler, graph):
    problem, sampler = problem_of(graph, (3,)), SAMPLERS[sampler]
    runs = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(sampler.sample(problem, 300, generator=torch.Generator().manual_seed(1)))
    finally:
        torch.set_num_threads(1)
    assert_same(*runs)


@cases
def test_seeds(sampler, graph):
    problem, sampler = problem_of(graph), SAMPLERS[sampler]

    def spins(seed):
        return sampler.sample(problem, 20, generator=torch.Generator().manual_seed(seed)).spins

    assert torch.equal(spins(1), spins(1)) and not torch.equal(spins(1), spins(2))
    one = torch.Generator().manual_seed(1)
    first, second = (sampler.sample(problem, 20, generator=one).spins for _ in range(2))
    assert torch.equal(first, spins(1)) and not torch.equal(first, second)  # the generator moves on
    state = torch.get_rng_state()
    spins(1)
    assert torch.equal(state, torch.get_rng_state())  # nothing global is touched
    torch.manual_seed(5)
    default = sampler.sample(problem, 20).spins
    torch.manual_seed(5)
    assert torch.equal(sampler.sample(problem, 20).spins, default)
    assert not torch.equal(sampler.sample(problem, 20).spins, default)


@cases
def test_one_generator_for_a_batch_of_any_size(sampler, graph):
    """Seed k is mix(seed, k): problem k of 5 draws what problem k of 3 draws, and no two draw the same."""
    sampler = SAMPLERS[sampler]
    problem = problem_of(graph)
    batches = [
        sampler.sample(
            Ising(problem.graph, problem.h.expand(n, -1), problem.J),
            20,
            generator=torch.Generator().manual_seed(3),
        ).spins
        for n in (1, 3, 5)
    ]
    assert torch.equal(batches[2][:3], batches[1]) and torch.equal(batches[1][:1], batches[0])
    assert len({bytes(row.numpy().tobytes()) for row in batches[2]}) == 5
    shaped = sampler.sample(
        Ising(problem.graph, problem.h.expand(1, 5, -1), problem.J),
        20,
        generator=torch.Generator().manual_seed(3),
    )
    assert torch.equal(shaped.spins[0], batches[2])


@cases
def test_answers_are_fresh_and_detached(sampler, graph):
    sampler, plain = SAMPLERS[sampler], problem_of(graph)
    problem = Ising(
        plain.graph, plain.h.clone().requires_grad_(), plain.J.clone().requires_grad_(), 0.5
    )
    before = problem.detach().h.clone(), problem.detach().J.clone()
    found = sampler.sample(problem, 4, generator=torch.Generator())
    assert not found.energy.requires_grad and bool((found.spins.abs() == 1).all())
    torch.testing.assert_close(found.energy, problem.detach().energy(found.spins))
    assert found.spins.is_contiguous()
    found.spins.fill_(0)
    found.energy.fill_(0)
    assert torch.equal(problem.h, before[0]) and torch.equal(problem.J, before[1])
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


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("scan", ["forward", "palindromic"])
def test_warm_starts_continue(graph, scan):
    """At beta = infinity, or nearly, a chain stays in its local minimum; a fresh one would be anywhere."""
    problem = problem_of(graph, (2,))
    h = problem.h + problem.h.sign()  # no near ties
    cold = Ising(problem.graph, h, problem.J).scale(1e4)
    first = Gibbs(sweeps=50, scan=scan).sample(cold, 8, generator=torch.Generator().manual_seed(0))
    stays = Gibbs(sweeps=5, scan=scan).sample(
        cold, 8, initial=first, generator=torch.Generator().manual_seed(1)
    )
    stable = (first.spins * cold.field(first.spins) <= 0).all(-1)
    assert stable.any() and torch.equal(stays.spins[stable], first.spins[stable])
    weight = torch.arange(16.0).reshape(2, 8)
    weighted = Samples(first.spins, first.energy, weight)
    kept = Gibbs(sweeps=1, scan=scan).sample(cold, 8, initial=weighted).log_weight
    assert kept is not None and torch.equal(kept, weight) and kept.data_ptr() != weight.data_ptr()
    # a carry that means nothing, and energies that lie, change nothing
    odd = Samples(first.spins, torch.full_like(first.energy, float("nan")), carry={"x": weight})
    runs = [
        Gibbs(sweeps=2).sample(problem, 8, initial=s, generator=torch.Generator().manual_seed(2))
        for s in (first, odd)
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
        GRAPHS["tree"]
        if "tree" in sampler
        else Graph.sparse(12, [(i, (i + 1) % 12) for i in range(12)])
    )
    sampler = SAMPLERS[sampler.removesuffix(" tree")]
    one = Ising(graph, torch.zeros(graph.num_spins), torch.full((graph.num_edges,), 0.1))
    reads = sampler.sample(one, count, generator=torch.Generator().manual_seed(0)).spins
    many = Ising(graph, torch.zeros(count, graph.num_spins), one.J)
    calls = sampler.sample(many, 1, generator=torch.Generator().manual_seed(1)).spins[:, 0]
    distinct = [len(s.unique(dim=0)) for s in (calls, reads)]
    assert distinct[0] >= 0.95 * distinct[1]


def test_mix_is_splitmix64():
    """The first outputs of SplitMix64 from seed 0 and 1234567, known answers, less their last bit."""
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
        Gibbs().sample(problem_of("complete", (3,)), 2, generator=generators(2))


@pytest.mark.parametrize("sampler", [*SAMPLERS.values(), DimodAnnealer(Neal()._annealer.sampler)])
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
def test_every_sampler_checks_what_it_is_given(sampler, change, message):
    n = change.get("n", 2)
    h, J = torch.zeros(2 * n), torch.zeros(n, n)
    if "h" in change:
        h[1] = change["h"]
    if "J" in change:
        J[1, 0] = change["J"]
    problem = Ising(Graph.bipartite(n, n), h, J, change.get("offset", 0.0))
    with pytest.raises(ValueError, match=message):
        sampler.sample(problem, change.get("num", 2))
