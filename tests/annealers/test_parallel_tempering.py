"""Parallel tempering leaves the law invariant, crosses between modes, and evens its ladder."""

from dataclasses import replace

import pytest
import torch

from experiments.claims.missed_modes import hidden_mode
from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import (
    AnnealedImportance,
    Exact,
    Gibbs,
    ParallelTempering,
    PopulationAnnealing,
)
from qsample.annealers.registry import named
from qsample.problem.enumeration import log_weights, states
from qsample.testing import FALSE_ALARM, ContractError, check_sampler
from qsample.testing.contract import g_test, reference_cases
from qsample.testing.law import MAX_SPINS
from tests.support.exact import Z_MAX, untyped
from tests.support.problems import two_modes, up
from tests.support.seeds import generator
from tests.support.thinning import thinned

CASES = {
    case.name: case.problem for case in reference_cases() if case.problem.num_spins <= MAX_SPINS
}


@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_finds_both_modes_where_gibbs_does_not(kind):
    problem, reads = two_modes(kind), 500
    law = log_weights(problem.to(dtype=torch.float64)).softmax(-1)
    p = float(law[states(12).sum(-1) < 0].sum())  # down
    assert 0.2 < p < 0.5
    stuck = Gibbs(160).sample(problem, reads, initial=up(problem, reads), generator=generator())
    assert int((stuck.spins.sum(-1) < 0).sum()) < 10
    found = ParallelTempering(40, 4).sample(
        problem, reads, initial=up(problem, reads), generator=generator()
    )
    down = float((found.spins.sum(-1) < 0).double().mean())
    assert abs(down - p) / (p * (1 - p) / reads) ** 0.5 < Z_MAX
    assert int(found.info["round_trips"]) > 0


@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_adaptation_evens_the_swap_rates(kind):
    problem, ladder = two_modes(kind), (0.0, 0.02, 0.04, 0.06, 0.5, 1.0)

    def run(adapt):
        sampler = ParallelTempering(120, ladder, adapt=adapt)
        return sampler.sample(problem, 200, generator=generator()).info

    before, after = run(False), run(True)
    assert torch.equal(before["betas"], torch.tensor(ladder))
    assert after["betas"][0] == 0 and after["betas"][-1] == 1 and (after["betas"].diff() > 0).all()
    spread = [float(info["swap_rate"].max() - info["swap_rate"].min()) for info in (before, after)]
    assert spread[1] < spread[0] / 3
    assert after["swap_rate"].min() > before["swap_rate"].min()
    assert torch.allclose(after["barrier"], (1 - after["swap_rate"]).sum())


def equilibrium(problem, reads, betas):
    """Every level of every ladder drawn from its own law."""
    levels = [
        Exact().sample(problem.scale(b), reads, generator=generator(9 + k)).spins
        for k, b in enumerate(betas)
    ]
    carry = {
        "betas": torch.tensor(betas).expand(*problem.batch_shape, -1),
        "hot": torch.stack(levels[:-1], -2),
    }
    return Samples(levels[-1], problem.energy(levels[-1]), carry=carry)


@pytest.mark.parametrize("name", thinned(CASES, 2))
@pytest.mark.parametrize("sweeps", thinned([2, 1, 5], 3))
def test_one_call_leaves_the_law_invariant(name, sweeps):
    """From equilibrium at every level, however few the sweeps."""
    problem, betas = CASES[name], (0.3, 0.6, 1.0)
    start = equilibrium(problem, 20_000, betas)
    found = ParallelTempering(sweeps, betas).sample(
        problem, 20_000, initial=start, generator=generator()
    )
    assert min(p for p, _, _ in g_test(problem, found)) > FALSE_ALARM / 100
    assert not torch.equal(found.spins, start.spins)
    assert found.carry is not None and start.carry is not None
    assert torch.equal(found.carry["betas"], start.carry["betas"])


def test_the_invariance_test_has_power():
    """Hot replicas that do not follow their law disturb the cold ones, within two sweeps."""
    problem, betas = CASES["sparse"], (0.3, 0.6, 1.0)
    start = equilibrium(problem, 20_000, betas)
    assert start.carry is not None
    wrong = replace(start, carry={**start.carry, "hot": torch.ones_like(start.carry["hot"])})
    found = ParallelTempering(2, betas).sample(
        problem, 20_000, initial=wrong, generator=generator()
    )
    assert g_test(problem, found)[0][0] < 1e-10


def test_warm_starts():
    problem = CASES["bipartite"]
    sampler = ParallelTempering(30, 5)
    first = sampler.sample(problem, 50, generator=generator())
    assert first.carry is not None
    weighted = replace(first, log_weight=torch.arange(50.0))
    kept, moved = first.spins.clone(), {k: v.clone() for k, v in first.carry.items()}
    following = sampler.sample(problem, 50, initial=weighted, generator=generator(1))
    assert following.log_weight is not None and torch.equal(
        following.log_weight, torch.arange(50.0)
    )
    assert torch.equal(following.info["betas"], first.info["betas"])  # frozen
    assert torch.equal(first.spins, kept) and all(
        torch.equal(first.carry[k], moved[k]) for k in moved
    )
    # missing, or another's
    for carry in (None, {"hot": torch.zeros(3)}, {**first.carry, "betas": torch.zeros(4)}):
        anew = sampler.sample(
            problem, 50, initial=replace(first, carry=carry), generator=generator(1)
        )
        assert (
            anew.spins.shape == (50, 7)
            and anew.carry is not None
            and anew.carry["hot"].shape == (50, 4, 7)
        )


def test_hot_replicas_are_carried():
    """Ladders frozen by cold: a replica goes on from where it stood, level by level."""
    problem = Ising(
        Graph.sparse(6, []), torch.tensor([1.0, -2.0, 3.0, -1.0, 2.0, 1.0]), torch.zeros(0)
    ).scale(1e4)
    betas = (0.5, 0.7, 1.0)
    found = ParallelTempering(3, betas).sample(problem, 4, generator=generator())
    assert found.carry is not None
    assert torch.equal(found.carry["hot"], (-problem.h.sign()).to(torch.int8).expand(4, 2, 6))


def test_reads_of_one_ladder():
    """k reads a ladder, ladder by ladder: each is a read of the law, and fewer chains make them."""
    problem = CASES["sparse"]
    found = ParallelTempering(40, 3, reads_per_ladder=10).sample(
        problem, 20_000, generator=generator()
    )
    assert (
        found.info["block"] == 10
        and found.carry is not None
        and found.carry["hot"].shape == (2000, 2, 6)
    )
    for k in (0, 9):  # reads of different ladders are independent
        spins = found.spins.reshape(2000, 10, 6)[:, k]
        assert g_test(problem, Samples(spins, problem.energy(spins)))[0][0] > FALSE_ALARM
    with pytest.raises(ValueError, match="reads in blocks of reads_per_ladder=10; got num=15"):
        ParallelTempering(reads_per_ladder=10).sample(problem, 15)
    following = ParallelTempering(1, 3, reads_per_ladder=10).sample(problem, 20_000, initial=found)
    assert following.spins.shape == (20_000, 6)


@pytest.mark.parametrize(
    "sampler",
    thinned(
        [PopulationAnnealing(20, target_ess=0.5), ParallelTempering(40, 3), AnnealedImportance(40)],
        3,
    ),
    ids=lambda s: type(s).__name__,
)
@pytest.mark.long
def test_the_torch_kernels_serve_too(sampler, monkeypatch):
    """As on other devices: every graph, betas one a replica."""
    monkeypatch.setattr("qsample.annealers.kernels.sweeper.native_for", lambda *_: None)
    cases = [case for case in reference_cases() if case.problem.num_spins in (7, 10)]
    check_sampler(sampler, cases=cases)


class Wrong(ParallelTempering):
    def sample(self, problem, num, *, initial=None, generator=None):
        found = super().sample(problem.scale(1.1), num, initial=initial, generator=generator)
        return replace(found, energy=problem.detach().energy(found.spins))


def test_a_wrong_beta_is_rejected():
    with pytest.raises(ContractError, match=r"the reads do not follow|means of .* are off"):
        check_sampler(Wrong(40, 3), cases=reference_cases()[:3])


# ---- whether to trust it ----------------


@pytest.fixture(scope="module")
def hidden():
    """A mode of 95 % that ladders from random spins rarely come down into (case B)."""
    model, _, _ = hidden_mode(0, 0.95)
    return model.ising().detach().to(dtype=torch.float32)


def test_ladders_started_apart_see_a_mode_that_the_swaps_do_not(hidden):
    found = ParallelTempering(100, 12).sample(hidden, 32, generator=generator())
    info = found.info
    # the ladder's own numbers see nothing
    assert info["pair_barrier_max"].max() < 0.6
    assert info["round_trips"] > 0.5 * info["round_trips_expected"] > 20
    inside = ((found.spins[:, 60:] > 0).sum(-1) >= 6).double().mean()
    assert inside < 0.6  # where 0.95 is right
    assert info["rhat"] > 1.5
    assert "ladders started apart disagree (R-hat" in info["note"] and ";" in info["note"]


def test_no_doubt_where_ladders_mix(hidden):
    info = ParallelTempering(80, 8).sample(hidden.scale(0.3), 32, generator=generator()).info
    assert info["rhat"] < 1.05 and info["note"] == ""
    # replicas that forget between swaps make the round trips that the rates promise
    assert 0.7 < info["round_trips"] / info["round_trips_expected"] < 1.3


def test_calls_of_one_round_swap_even_and_odd_pairs_by_turns(hidden):
    sampler = ParallelTempering(1, 4)
    found = sampler.sample(hidden, 4, generator=generator())
    turns = []
    for _ in range(4):
        found = sampler.sample(hidden, 4, initial=found, generator=generator())
        assert found.carry is not None
        turns.append(int(found.carry["parity"]))
    assert turns in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_a_batch_is_judged_one_by_one(hidden):
    h = torch.stack([hidden.h, 0.3 * hidden.h])
    batch = Ising(hidden.graph, h, torch.stack([hidden.J, 0.3 * hidden.J]))
    info = ParallelTempering(60, 8).sample(batch, 32, generator=generator()).info
    assert (info["rhat"] > 1.3).tolist() == [True, False] and "disagree" in info["note"]
    two = [generator(k) for k in (3, 4)]
    together = ParallelTempering(30, 8).sample(batch, 16, generator=two)
    alone = ParallelTempering(30, 8).sample(hidden, 16, generator=[generator(3)])
    assert torch.equal(together.spins[0], alone.spins)
    assert together.info["rhat"][0] == alone.info["rhat"]


def test_too_few_temperatures_are_named(hidden):
    sampler = ParallelTempering(100, (0.0, 1.0))
    info = sampler.sample(hidden.scale(3.0), 8, generator=generator()).info
    assert info["pair_barrier_max"].max() > 0.95
    assert "hardly swap between betas 0 and 1" in info["note"] and "betas=4" in info["note"]


def test_given_chains_stay_and_hot_replicas_start_apart(hidden):
    """Ladders that go on from reads are compared with those whose hot replicas begin at minima."""
    data = -torch.ones(32, 72, dtype=torch.int8)
    start = Samples(data, hidden.energy(data))
    info = ParallelTempering(80, 8).sample(hidden, 32, initial=start, generator=generator()).info
    assert info["rhat"] > 1.05 and "started apart" in info["note"]
    exact = replace(start, exactness=Exactness.EXACT)
    frozen = ParallelTempering(2, 16).sample(hidden.scale(1e4), 32, initial=exact)
    still = Gibbs(2).sample(hidden.scale(1e4), 32, initial=exact)
    assert torch.equal(frozen.spins, still.spins)  # no swap has touched them


def test_chains_that_go_on_are_not_judged_by_their_start(hidden):
    sampler = ParallelTempering(30, 8)
    first = sampler.sample(hidden, 16, generator=generator())
    following = sampler.sample(hidden, 16, initial=first, generator=generator())
    assert "rhat" in first.info and "rhat" not in following.info


def test_round_trips_of_a_free_ladder():
    """Without rejections L replicas go up and down in 2 L rounds: half a trip each round."""
    problem = Ising(Graph.sparse(3, []), torch.zeros(3), torch.zeros(0))
    info = ParallelTempering(120, 5).sample(problem, 2, generator=generator()).info
    assert info["round_trips_expected"] == 60  # 2 ladders, 60 rounds after burn-in
    assert abs(info["round_trips"] - 60) <= 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sweeps": 0}, "expected sweeps >= 1; got 0"),
        ({"swap_every": -1}, "expected swap_every >= 1; got -1"),
        ({"anneal": -1}, "expected anneal >= 0; got -1"),
        ({"rule": "wolff"}, "unknown rule 'wolff'; expected one of gibbs, metropolis"),
        ({"reads_per_ladder": 0}, "expected reads_per_ladder >= 1; got 0"),
        ({"betas": 1}, "2 betas or more.*got 1"),
        ({"betas": (0.5,)}, "2 betas or more"),
        ({"betas": (0.0, 0.9)}, r"to 1; got \(0.0, 0.9\)"),
        ({"betas": (0.0, 0.7, 0.5, 1.0)}, "increasing"),
        ({"betas": (-0.5, 1.0)}, "from 0 or more"),
    ],
)
def test_settings_are_checked(settings, message):
    with untyped(), pytest.raises(ValueError, match=message):
        ParallelTempering(**settings)


def test_by_name_the_sweeps_are_shared_by_the_temperatures():
    assert named("parallel-tempering", 800) == ParallelTempering(sweeps=100, betas=8)


def test_annealing_brings_every_level_near_its_law():
    """After one sweep more, a level has the mean energy of its temperature; without, it has not."""
    problem, betas = CASES["sparse"], (0.2, 0.6, 1.0)

    def mean(anneal, level):
        sampler = ParallelTempering(1, betas, adapt=False, anneal=anneal)
        found = sampler.sample(problem, 4000, generator=generator())
        assert found.carry is not None
        spins = torch.cat([found.carry["hot"], found.spins[:, None]], 1)[:, level]
        return float(problem.energy(spins).double().mean())

    energy = problem.offset.double() - log_weights(problem)

    def excess(anneal, level):
        """Of the mean energy over that of the law, in standard errors."""
        law = (-betas[level] * energy).softmax(-1)
        exact = float(law @ energy)
        return (mean(anneal, level) - exact) / float((law @ energy**2 - exact**2) / 4000) ** 0.5

    assert all(abs(excess(200, level)) < Z_MAX for level in range(3))
    assert abs(excess(0, 2)) > Z_MAX


def test_annealing_leaves_given_chains_alone():
    problem = CASES["sparse"]
    start = up(problem, 50)
    found = [
        ParallelTempering(1, 3, anneal=k).sample(problem, 50, initial=start, generator=generator())
        for k in (0, 9)
    ]
    assert torch.equal(found[0].spins, found[1].spins)
