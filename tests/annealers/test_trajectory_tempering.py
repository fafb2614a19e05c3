"""Trajectory tempering leaves the law invariant, knows log Z, and grows its path in training."""

from dataclasses import replace

import pytest
import torch

from qsample import ContrastiveDivergence, Exactness, Graph, Ising, Samples
from qsample.annealers import Exact, Gibbs, TrajectoryTempering
from qsample.annealers.trajectory_tempering import log_densities
from qsample.models import BernoulliRBM
from qsample.problem.enumeration import log_partition, log_weights, states
from qsample.testing import FALSE_ALARM
from qsample.testing.contract import g_test, reference_cases
from tests.support.exact import KINDS, Z_MAX, untyped
from tests.support.problems import two_modes, up
from tests.support.seeds import generator

CASES = {case.name: case.problem for case in reference_cases() if case.problem.num_spins == 7}


def towards(problem, *parts):
    """Checkpoints with parts of the couplings."""
    return [Ising(problem.graph, problem.h, part * problem.J) for part in parts]


def equilibrium(path, problem, reads):
    """Every level drawn from its own law."""
    levels = [
        Exact().sample(point, reads, generator=generator(9 + k)).spins
        for k, point in enumerate([*path, problem])
    ]
    carry = {
        "path_h": torch.stack([point.h for point in path]),
        "path_J": torch.stack([point.J for point in path]),
        "trajectory": torch.stack(levels[:-1], 1),
    }
    return Samples(levels[-1], problem.energy(levels[-1]), carry=carry)


@pytest.mark.parametrize("kind", KINDS)
def test_densities_are_those_of_what_is_compared(kind):
    """On a bipartite graph with the right side summed out."""
    problem = two_modes(kind).to(dtype=torch.float64)
    x = states(12)
    levels = Ising(problem.graph, problem.h[None, None], problem.J[None, None])
    log_q = log_densities(levels, x[None, None])[0, 0]
    expected = log_weights(problem)
    if kind == "bipartite":
        left, right = problem.graph.sizes
        summed = expected.reshape(2**right, 2**left).logsumexp(0)  # the right side's bits are high
        expected = summed.repeat(2**right)
    torch.testing.assert_close(log_q, expected)


@pytest.mark.parametrize("name", CASES)
def test_one_call_leaves_the_law_invariant(name):
    problem = CASES[name].without_offset()
    start = equilibrium(towards(problem, 0.0, 0.5), problem, 4_000)
    found = TrajectoryTempering(sweeps=2).sample(
        problem, 4_000, initial=start, generator=generator()
    )
    assert min(p for p, _, _ in g_test(problem, found)) > FALSE_ALARM / 100
    assert not torch.equal(found.spins, start.spins)


def test_the_invariance_test_has_power():
    problem = CASES["bipartite"].without_offset()
    start = equilibrium(towards(problem, 0.0, 0.5), problem, 10_000)
    assert start.carry is not None
    wrong = {**start.carry, "trajectory": torch.ones_like(start.carry["trajectory"])}
    found = TrajectoryTempering(sweeps=2).sample(
        problem, 10_000, initial=replace(start, carry=wrong), generator=generator()
    )
    assert g_test(problem, found)[0][0] < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_finds_both_modes_and_log_z(kind):
    problem = two_modes(kind)
    reads = 200
    law = log_weights(problem.to(dtype=torch.float64)).softmax(-1)
    p = float(law[states(12).sum(-1) < 0].sum())  # down
    sampler = TrajectoryTempering(towards(problem, 0.0, 0.15, 0.3, 0.5, 0.7), 120)
    found = sampler.sample(problem, reads, generator=generator())
    down = float((found.spins.sum(-1) < 0).double().mean())
    assert abs(down - p) / (p * (1 - p) / reads) ** 0.5 < Z_MAX
    info = found.info
    exact = float(log_partition(problem.to(dtype=torch.float64)))
    assert 0 < info["log_partition_stderr"] < 0.1
    assert abs(info["log_partition"] - exact) / info["log_partition_stderr"] < Z_MAX
    assert info["swap_rate"].shape == (5,) and info["round_trips"] > 100
    assert info["rhat"] < 1.05 and info["note"] == ""


def test_each_problem_of_a_batch_draws_what_it_draws_alone():
    problem = two_modes("bipartite")
    batch = Ising(problem.graph, torch.stack([problem.h, -problem.h]), problem.J)
    seeds = [generator(3), generator(4)]
    together = TrajectoryTempering(sweeps=6).sample(batch, 8, generator=seeds)
    alone = TrajectoryTempering(sweeps=6).sample(problem, 8, generator=[generator(3)])
    assert torch.equal(together.spins[0], alone.spins)
    assert together.info["log_partition"][0] == alone.info["log_partition"]


def test_checkpoints_that_hardly_swap_are_named():
    problem = two_modes("sparse").scale(8.0)
    path = towards(problem, 0.0)
    info = TrajectoryTempering(path, 40).sample(problem, 32, generator=generator()).info
    assert "hardly swap between checkpoints 0 and 1 of 2" in info["note"]
    stuck = Gibbs(40).sample(problem, 32, initial=up(problem, 32), generator=generator())
    assert (stuck.spins.sum(-1) > 0).all()


def test_the_path_grows_where_the_problem_has_moved_on():
    problem = two_modes("bipartite")
    sampler = TrajectoryTempering(sweeps=4, grow=0.3)
    found = sampler.sample(problem.scale(0.1), 64, generator=generator())
    counts = []
    for part in (0.2, 0.4, 0.8, 1.6):
        found = sampler.sample(problem.scale(part), 64, initial=found, generator=generator(1))
        assert found.carry is not None
        counts.append(found.carry["path_h"].shape[0])
        assert found.carry["trajectory"].shape == (64, counts[-1], 12)
    assert counts[0] == 1 < counts[-1] and counts == sorted(counts)
    never = replace(sampler, grow=0.0).sample(problem.scale(9.0), 8, generator=generator())
    assert never.carry is not None and len(never.carry["path_h"]) == 1


def test_calls_of_one_round_swap_even_and_odd_pairs_by_turns():
    """So a mode that only the far end of the path knows comes down to the reads."""
    problem = two_modes("bipartite")
    path = towards(problem, 0.0, 0.2, 0.4, 0.7)
    start = equilibrium(path, problem, 200)
    start = replace(start, spins=torch.ones_like(start.spins))
    for _ in range(60):
        start = TrajectoryTempering(sweeps=1).sample(
            problem, 200, initial=start, generator=generator()
        )
    assert int((start.spins.sum(-1) < 0).sum()) > 20


def test_it_tempers_along_the_past_of_a_training():
    torch.manual_seed(0)
    model = BernoulliRBM(6, 4)
    data = torch.tensor([[0.0] * 6, [1.0] * 6])
    sampler = TrajectoryTempering(sweeps=1)
    cd = ContrastiveDivergence(model, sampler, num=64, generator=generator())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.8)
    for _ in range(50):
        optimizer.zero_grad()
        cd(data).backward()
        optimizer.step()
    assert cd.samples is not None and cd.carry is not None and len(cd.carry["path_h"]) > 1
    # the ladder goes on, as long as a number is wanted to be good
    problem = model.ising().detach()
    info = replace(sampler, sweeps=40).sample(problem, 64, initial=cd.samples).info
    exact = float(log_partition(problem.to(dtype=torch.float64)))
    assert info["log_partition_stderr"] < 0.1
    assert abs(info["log_partition"] - exact) / info["log_partition_stderr"] < Z_MAX


def test_a_path_of_few_checkpoints():
    problem = two_modes("bipartite")
    points = towards(problem, *(k / 100 for k in range(101)))
    path = TrajectoryTempering.thinned(points, 0.5, generator=generator())
    assert path[0].J.abs().sum() == 0 and 1 < len(path) < 12
    info = TrajectoryTempering(path, 100).sample(problem, 64, generator=generator()).info
    assert info["swap_rate"].min() > 0.25


def test_reads_that_are_right_stay_so():
    """From exact reads no swap touches the last level."""
    problem = two_modes("sparse").scale(1e3)
    start = replace(up(problem, 8), exactness=Exactness.EXACT)
    found = TrajectoryTempering(sweeps=3).sample(problem, 8, initial=start, generator=generator())
    assert torch.equal(found.spins, start.spins)


def test_what_is_refused():
    problem = two_modes("sparse")
    other = Ising(Graph.sparse(12, []), torch.zeros(12), torch.zeros(0))
    batch = Ising(problem.graph, problem.h.expand(2, -1), problem.J)
    with pytest.raises(ValueError, match="number 0 is a batch"):
        TrajectoryTempering([batch])
    with pytest.raises(ValueError, match="checkpoint 1 is on another graph"):
        TrajectoryTempering([problem, other])
    with pytest.raises(ValueError, match="expected a problem on the path's graph"):
        TrajectoryTempering([problem]).sample(other, 2)
    with pytest.raises(ValueError, match="expected 0 <= grow < 1; got 1"):
        TrajectoryTempering(grow=1)
    with pytest.raises(ValueError, match="expected checkpoints"):
        TrajectoryTempering.thinned([])
    with untyped(), pytest.raises(TypeError, match="Ising problems or models as checkpoints"):
        TrajectoryTempering(["checkpoint-7"])
