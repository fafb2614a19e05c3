"""Ladders on a path: the law at their cold end, their places, and annealing both ways."""

import pytest
import torch

from qsample.annealers.log_z.annealing import anneal_down, anneal_up
from qsample.annealers.log_z.bennett import log_ratio
from qsample.annealers.log_z.ladders import Ladders, Trace, places
from qsample.annealers.log_z.path import FIRST, Path
from qsample.problem.enumeration import log_partition, log_weights, states
from qsample.sampling.weights import log_mean_exp, relative_error
from tests.support.exact import KINDS, a_graph, a_problem

EVEN = torch.linspace(0, 1, 6, dtype=torch.float64)


def a_path(kind):
    problem = a_problem(a_graph(kind), scale=1.0).to(dtype=torch.float64)
    return problem, Path(problem, torch.zeros(problem.num_spins))


def run_ladders(kind, rounds, num=64):
    problem, path = a_path(kind)
    starts = torch.ones(num, problem.num_spins, dtype=torch.int8)
    ladders = Ladders(path, EVEN, starts, torch.eye(problem.num_spins).double()[:2], 7)
    return problem, path, ladders, ladders.run(rounds)


@pytest.mark.parametrize("kind", KINDS)
def test_log_z_and_the_cold_law(kind):
    problem, path, ladders, trace = run_ladders(kind, 120)
    exact = float(log_partition(problem.without_offset()))
    ratio = log_ratio(trace.forward[20:], trace.backward[20:])
    assert abs(path.log_z0 + ratio.value - exact) < 4.5 * ratio.stderr
    assert ratio.stderr < 0.05
    # the mean of the first spins at b = 1, one number per ladder
    p = log_weights(problem).softmax(-1)
    listed = states(problem.num_spins).double()
    size = ladders.directions.shape[1]
    mean = (p @ listed)[:size] @ ladders.directions.T
    seen = trace.statistics[20:, :, 1:].mean(0)
    assert ((seen.mean(0) - mean).abs() < 4.5 * seen.std(0) / len(seen) ** 0.5 + 1e-12).all()
    assert trace.trips.sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_annealing_up_and_down_meet(kind):
    problem, path = a_path(kind)
    exact = float(log_partition(problem.without_offset())) - path.log_z0
    b = torch.linspace(0, 1, 31, dtype=torch.float64)
    up = anneal_up(path, b, 400, 3)
    assert abs(float(log_mean_exp(up)) - exact) < 4.5 * float(relative_error(up))
    p = log_weights(problem).softmax(-1)
    draws = torch.multinomial(p, 400, True, generator=torch.Generator().manual_seed(2))
    down = anneal_down(path, b, states(problem.num_spins)[draws], 4)
    assert abs(float(log_mean_exp(down)) + exact) < 4.5 * float(relative_error(down))


def test_runs_are_a_function_of_their_seed_alone():
    _, _, _, first = run_ladders("bipartite", 10)
    _, _, _, again = run_ladders("bipartite", 10)
    assert torch.equal(first.forward, again.forward)


def test_traces_join_and_part():
    _, _, _, trace = run_ladders("sparse", 8, num=6)
    joined = Trace.joined([trace, trace])
    assert len(joined) == 16
    assert torch.equal(joined.last(0.5).forward, trace.forward)
    part = trace.of(torch.tensor([1, 4]))
    assert torch.equal(part.statistics, trace.statistics[:, [1, 4]])
    assert ((trace.rejection >= 0) & (trace.rejection <= 1)).all()


def test_places_go_where_swaps_are_refused():
    rejection = torch.tensor([0.0, 0.0, 0.9, 0.1, 0.0])
    found = places(EVEN, rejection, 21)
    assert found[0] == 0 and found[-1] == 1 and len(found) == 21
    assert (found.diff() > 0).all() and found[1] >= FIRST
    inside = (found > EVEN[2]) & (found < EVEN[3])
    assert int(inside.sum()) > 10
