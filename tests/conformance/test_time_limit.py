"""Sweeps that are not reached cost neither time nor memory, and a limit ends a call."""

import time
import tracemalloc

import pytest
import torch

from qsample import Graph, Ising
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.annealers.kernels.betas import BLOCK, Constant, Ramp, blocks, listed, schedule
from qsample.annealers.kernels.native import Swept
from qsample.annealers.kernels.sweeper import EPOCH, native_for
from tests.support.exact import a_graph, a_problem
from tests.support.problems import random_graph
from tests.support.sweeps import run

FEW = Ising.from_edges(torch.zeros(4), [(0, 1), (1, 2), (2, 3)], torch.ones(3))


@pytest.mark.parametrize("make", [Gibbs, SimulatedAnnealing])
@pytest.mark.parametrize(
    "graph",
    [random_graph(200, 600), Graph.complete(60), Graph.bipartite(40, 30)],
    ids=lambda g: g.kind,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_time_limit_returns_what_is_done(make, graph, dtype):
    problem = Ising(
        graph,
        torch.zeros(graph.num_spins, dtype=dtype),
        torch.ones(graph.coupling_shape, dtype=dtype),
    )
    if graph.kind == "complete":
        problem = Ising(graph, problem.h, 1 - torch.eye(60, dtype=dtype))
    begun = time.monotonic()
    found = make(500_000, time_limit=0.1).sample(problem, 100)
    assert time.monotonic() - begun < 30
    assert 0 < found.info["done"].max() < 500_000 and found.info["done"].shape == (100,)
    assert torch.allclose(found.energy, problem.energy(found.spins))
    assert make(3, time_limit=60.0).sample(problem, 2).info["done"].tolist() == [3, 3]


@pytest.mark.parametrize("make", [Gibbs, SimulatedAnnealing])
def test_time_limit_must_be_positive(make):
    with pytest.raises(ValueError, match="time_limit > 0 seconds, or None for none; got 0.0"):
        make(10, time_limit=0.0)


ENDLESS = {
    "constant": lambda sweeps: Gibbs(sweeps, time_limit=0.01),
    "bfloat16": lambda sweeps: Gibbs(sweeps, precision="bfloat16", time_limit=0.01),
    "geometric": lambda sweeps: SimulatedAnnealing(sweeps, time_limit=0.01),
    "linear": lambda sweeps: SimulatedAnnealing(
        sweeps, (0.0, 2.0), "linear", "metropolis", time_limit=0.01
    ),
    "adaptive": lambda sweeps: SimulatedAnnealing(sweeps, (0.0, 2.0), "adaptive", time_limit=0.01),
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("sweeps", [10**8, 10**12])
@pytest.mark.parametrize("scale", [1.0, 3e4], ids=["native", "double"])
def test_sweeps_that_are_not_reached_cost_nothing(name, sweeps, scale):
    """10**8 betas in a list took 7 s and 1.4 GB; a busy machine may take its time, memory does not depend on it."""
    kind = "bipartite" if name == "bfloat16" else "sparse"
    problem = a_problem(a_graph(kind), scale=1.0 if name == "bfloat16" else scale)
    ENDLESS[name](4).sample(problem, 2)  # what is made once
    tracemalloc.start()
    begun = time.process_time()
    found = ENDLESS[name](sweeps).sample(problem, 2)
    spent = time.process_time() - begun
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert spent < 1.0 and memory < 2**24
    assert found.info["sweeps"] == sweeps and found.info["done"].max() < sweeps
    assert torch.allclose(found.energy, problem.energy(found.spins))


@pytest.mark.parametrize("betas", [Constant(BLOCK + 70), Ramp("geometric", BLOCK + 70, 0.01, 1.0)])
@pytest.mark.parametrize("problem", [FEW, Ising(Graph.complete(4), FEW.h, 1 - torch.eye(4))])
def test_more_sweeps_than_a_block_are_those_of_one_call(betas, problem):
    """The draws of sweep t depend on its number, not on how sweeps are split."""
    spins, energy, done = run(problem, 3, betas, [5])
    native = native_for(problem)
    assert native is not None
    whole = native(problem, 3, betas.block(0, betas.count), [5])
    assert torch.equal(spins, whole.spins[0]) and torch.equal(energy.double(), whole.energy[0])
    assert done.tolist() == [betas.count] * 3


def test_more_sweeps_than_one_seed_numbers(monkeypatch):
    """Beyond them another seed goes on: no number comes twice, and none leaves its 31 bits."""
    seen = []

    def counted(problem, num, betas, seeds, *, spins=None, first_sweep=0, **_):
        seen.append((tuple(seeds), first_sweep, len(betas)))
        done = torch.full((1, num), len(betas))
        return Swept(torch.ones(1, num, 4, dtype=torch.int8), torch.zeros(1, num), len(betas), done)

    monkeypatch.setattr("qsample.annealers.kernels.sweeper.EPOCH", 2 * BLOCK)
    monkeypatch.setattr("qsample.annealers.kernels.sweeper.native_for", lambda *_: counted)
    done = run(FEW, 1, Constant(5 * BLOCK + 7), [5])[2]
    assert done.tolist() == [5 * BLOCK + 7]
    assert [first for _, first, _ in seen] == [0, BLOCK] * 3 and seen[-1][2] == 7
    assert len({seeds for seeds, _, _ in seen}) == 3 and seen[0][0] == (5,)
    assert EPOCH < 2**31 and EPOCH % BLOCK == 0


def test_schedules_by_blocks_are_those_in_one_piece():
    linear, geometric = Ramp("linear", 1001, 0.25, 3.0), Ramp("geometric", 1001, 0.01, 2.0)
    for betas in (linear, geometric, Constant(1001, 0.5), listed(torch.linspace(0, 1, 1001))):
        whole = betas.block(0, 1001)
        assert torch.equal(torch.cat([part for _, part in blocks(betas, 64)]), whole)
        assert betas.coldest == whole.max()
    assert torch.allclose(
        linear.block(0, 1001), torch.linspace(0.25, 3, 1001, dtype=torch.float64), rtol=1e-14
    )
    steps = geometric.block(0, 1001).log().diff()
    assert torch.allclose(steps, steps.mean().expand(1000), rtol=1e-10)
    assert (geometric.block(0, 1)[0], geometric.block(1000, 1001)[0]) == (0.01, 2.0)
    assert Ramp("linear", 1, 0.25, 3.0).block(0, 1).tolist() == [3.0]


def test_a_schedule_of_a_billion_sweeps_is_checked_at_once():
    begun = time.process_time()
    assert schedule("geometric", 10**9, (0.01, 1.0)).count == 10**9
    with pytest.raises(ValueError, match="expected finite betas >= 0"):
        SimulatedAnnealing(10**9, (0.1, float("inf")))
    with pytest.raises(ValueError, match="expected finite betas >= 0"):
        SimulatedAnnealing(10**9, (1e-300, 1e300))
    assert time.process_time() - begun < 0.5


def test_an_adaptive_schedule_tells_the_betas_it_swept():
    problem = a_problem(a_graph("sparse"), h=(2,))
    whole = SimulatedAnnealing(50, (0.0, 1.0), "adaptive").sample(problem, 3)
    limited = SimulatedAnnealing(50, (0.0, 1.0), "adaptive", time_limit=60.0).sample(problem, 3)
    assert whole.info["betas"].shape == limited.info["betas"].shape == (2, 50)
    assert limited.info["done"].tolist() == [[50] * 3] * 2
