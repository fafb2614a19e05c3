"""Values as negative free energies: every sum against the states, every estimate by reads."""

import copy
import itertools
import math
from typing import Any

import pytest
import torch

import qsample as qs
from qsample import Exactness, FreeEnergyCritic, Graph, Samples, layered_machine
from qsample.annealers import Exact, Gibbs, PopulationAnnealing, SimulatedAnnealing
from qsample.learning.reinforcement.free_energy import entropy, from_reads, keys, seen
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.problem.enumeration import log_partition, states
from tests.support.exact import Z_MAX, untyped
from tests.support.models import MODELS, randomise
from tests.support.seeds import generator

LINEAR: Any = torch.nn.Linear(2, 2)
NAME: Any = "gibbs"
HIDDEN = [name for name in MODELS if name != "sparse, none hidden"]


def every(model, num_state):
    """All states and actions of a model, in its coding: `[S, 1, s]` and `[1, A, a]`."""
    low = 0 if model.coding == "bits" else -1

    def all_of(n):
        return torch.tensor(list(itertools.product((low, 1), repeat=n))).double()

    return all_of(num_state)[:, None], all_of(model.num_visible - num_state)[None]


def by_states(model, state, action):
    """-F, hidden units listed one by one."""
    low = 0 if model.coding == "bits" else -1
    shape = torch.broadcast_shapes(state.shape[:-1], action.shape[:-1])
    x = torch.cat([part.expand(*shape, -1) for part in (state, action)], -1)
    hidden = itertools.product((low, 1), repeat=model.num_hidden)
    terms = [-model.energy(x, torch.tensor(h).double()) for h in hidden]
    return torch.stack(terms).logsumexp(0)


def deep(hidden=(2, 3), **settings):
    model = randomise(layered_machine(3, hidden, 2))
    return FreeEnergyCritic(model, 3, **settings)


@pytest.mark.parametrize("name", HIDDEN)
def test_the_sum_of_every_model(name):
    """Values and gradients."""
    model = MODELS[name]()
    state, action = every(model, 1)
    value = FreeEnergyCritic(model, 1)(state, action)
    right = by_states(model, state, action)
    torch.testing.assert_close(value, right)
    ours = torch.autograd.grad(value.square().sum(), list(model.parameters()))
    theirs = torch.autograd.grad(right.square().sum(), list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_scale_is_the_root_of_the_number_of_state_units():
    model = MODELS["rbm"]()
    state, action = every(model, 2)
    value = FreeEnergyCritic(model, 2)(state, action)
    torch.testing.assert_close(value * math.sqrt(2), by_states(model, state, action))


@pytest.mark.parametrize("slices", [1, 2, 3, 4])
def test_a_transverse_field_by_matrices_is_the_sum_over_slices(slices):
    critic = deep((1, 2), transverse=0.7, slices=slices)
    state, action = every(critic.model, 3)
    units = torch.cat([state.expand(-1, 4, -1), action.expand(8, -1, -1)], -1)
    problem = critic.model.ising(visible=units)
    right = log_partition(qs.transverse_field(problem, 0.7, slices))
    torch.testing.assert_close(critic(state, action) * math.sqrt(3), right)


def test_a_unit_at_zero_adds_nothing():
    critic = deep()
    state, action = torch.zeros(3), torch.zeros(2)
    joint = critic.model.ising()
    index = critic.model.hidden_index
    alone = FreeEnergyCritic(critic.model, 3)
    for i in critic.model.visible_index:
        with torch.no_grad():
            critic.model.get_parameter("h")[i] += 5.0
    torch.testing.assert_close(alone(state, action), critic(state, action))
    rest = joint.graph.without(critic.model.visible_index)
    own = qs.Ising(rest.graph, joint.h[index], joint.J[rest.kept])
    torch.testing.assert_close(alone(state, action) * math.sqrt(3), log_partition(own))


# ---- from reads ----------------


def a_problem(sizes=(2, 3)):
    critic = deep(sizes)
    x = torch.tensor([[1.0, -1, 1, 1, -1], [-1.0, -1, 1, -1, 1]]).double()
    return critic.model.ising(visible=x)


def listed_reads(problem, weight=None):
    spins = states(problem.num_spins).expand(*problem.batch_shape, -1, -1)
    return Samples(spins, problem.energy(spins).detach(), weight)


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1), (4,), (2, 2, 2)])
def test_all_states_seen_is_the_sum(sizes):
    problem = a_problem(sizes)
    torch.testing.assert_close(-seen(problem, listed_reads(problem).spins), log_partition(problem))


def test_what_was_seen_is_never_below_and_repeats_count_once():
    problem = a_problem()
    free = -log_partition(problem)
    reads = Gibbs(5).sample(problem.detach(), 6, generator=generator())
    some = seen(problem, reads.spins)
    assert (some >= free - 1e-9).all()
    twice = seen(problem, torch.cat([reads.spins, reads.spins.flip(-2)], -2))
    torch.testing.assert_close(twice, some)
    more = torch.cat([reads.spins, states(5).expand(2, -1, -1)], -2)
    torch.testing.assert_close(seen(problem, more), free)


def test_entropy_of_the_law_itself_gives_the_free_energy():
    """All states once, weighted by the law: mean energy less entropy."""
    problem = a_problem()
    spins = states(5).expand(2, -1, -1)
    reads = listed_reads(problem, -problem.energy(spins).detach())
    right = log_partition(problem)
    told = from_reads(problem, reads, "entropy")
    torch.testing.assert_close(-told, right)
    ours = torch.autograd.grad(-told.sum(), [problem.h], retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(right.sum(), [problem.h]))


def test_entropy_counts_states():
    spins = torch.tensor([[1, 1], [-1, 1], [1, 1], [1, -1]], dtype=torch.int8)
    weight = torch.full((4,), 0.25, dtype=torch.float64)
    right = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert float(entropy(spins, weight)) == pytest.approx(right)


def test_keys_tell_states_apart():
    few = states(10)
    assert len(keys(few).unique()) == 1024
    many = torch.randint(2, (2000, 200), generator=generator()).to(torch.int8) * 2 - 1
    number = keys(torch.cat([many, many]))
    assert len(number.unique()) == 2000 and torch.equal(number[:2000], number[2000:])


@pytest.mark.parametrize("sampler", [Exact(), PopulationAnnealing(20)])
def test_a_sampler_that_tells_log_z_is_believed(sampler):
    problem = a_problem().detach()
    reads = sampler.sample(problem, 50, generator=generator())
    free = from_reads(problem, reads, "auto")
    torch.testing.assert_close(free, -reads.info["log_partition"])


@pytest.mark.parametrize("estimator", ["auto", "seen", "entropy"])
def test_gradients_from_exact_draws(estimator):
    """Within their own statistical error of the sum's; "seen" on the nose."""
    critic = deep(sampler=Exact(), num=4000, estimator=estimator)
    exact = deep()
    state, action = torch.tensor([1.0, -1, 1]).double(), torch.tensor([-1.0, 1]).double()
    value = critic(state, action, generator=generator())
    right = exact(state, action)
    slack = 1e-6 if estimator != "entropy" else 0.05
    assert abs(float((value - right).detach())) < slack
    ours = torch.autograd.grad(value, list(critic.model.parameters()))
    theirs = torch.autograd.grad(right, list(exact.model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        # means of -1 and +1 over 4,000 reads, by the root of 3
        assert float((mine - other).abs().max()) < Z_MAX / math.sqrt(3 * 4000)


def test_transverse_reads_are_of_the_slices():
    field = {"transverse": 0.7, "slices": 3}
    exact = deep((1, 2), **field)
    critic = deep((1, 2), **field, sampler=Gibbs(20), num=2000)
    state, action = every(critic.model, 3)
    gap = exact(state, action) - critic(state, action, generator=generator())
    # the mass that R draws of k states miss is k/(e R) on average, or less; here k = 2^6
    assert (gap > -1e-9).all() and float(gap.detach().max()) < 2**6 / 2000


def test_equal_rows_are_one_problem_and_reads_are_counted():
    critic = deep(sampler=Gibbs(2), num=7)
    state = torch.tensor([[1.0, -1, 1]]).double().expand(5, -1)
    action = torch.tensor([-1.0, 1]).double()
    value = critic(state, action, generator=generator())
    assert len(value.unique()) == 1
    assert (critic.spent.problems, critic.spent.reads) == (1, 7)
    twin = copy.deepcopy(critic)
    assert twin.sampler is critic.sampler and twin.model is not critic.model
    twin(state, action)
    assert critic.spent.reads == 14
    again = critic(state, action, generator=generator())
    assert torch.equal(value, again)


# ---- actions ----------------


@pytest.mark.parametrize("name", ["rbm", "sparse, hidden coupled", "complete, hidden coupled"])
def test_sampled_actions_follow_the_softmax(name):
    """At the default temperature: counts against probabilities, a z-score each."""
    model = MODELS[name]()
    critic = FreeEnergyCritic(model, 1)
    state, every_action = every(model, 1)
    drawn = critic.actions(state[:, 0], 4000, Exact(), generator=generator())
    assert drawn.shape == (2, 4000, model.num_visible - 1)
    law = critic(state, every_action).softmax(-1)
    for k in range(2):
        for a, p in zip(every_action[0], law[k], strict=True):
            count = int((drawn[k] == a).all(-1).sum())
            p = p.detach()
            z = (count - 4000 * p) / (4000 * p * (1 - p)).sqrt()
            assert abs(float(z)) < Z_MAX


def test_the_coldest_actions_are_of_the_lowest_energy():
    model = MODELS["rbm"]()
    critic = FreeEnergyCritic(model, 1)
    state = torch.tensor([[1.0]]).double()
    drawn = critic.actions(state, 20, Exact(), temperature=1e-3, generator=generator())
    a = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2))).double()
    h = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2))).double()
    x = torch.cat([state.expand(4, -1), a], -1)
    energy = model.energy(x[:, None], h[None]).amin(-1)
    assert (drawn[0] == a[energy.argmin()]).all()


# ---- the machine in layers ----------------


def test_layers_meet_their_neighbours_only():
    machine = layered_machine(3, (2, 4), 1)
    assert (machine.num_visible, machine.num_hidden) == (4, 6)
    edges = {tuple(pair) for pair in machine.graph.edges.T.tolist()}
    first, second = range(4, 6), range(6, 10)
    right = set(itertools.product(range(3), first)) | set(itertools.product(first, second))
    assert edges == right | {(3, j) for j in second}
    assert layered_machine(3, (2,), 2).tractable


# ---- what is refused ----------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FreeEnergyCritic(LINEAR, 1), "expected an energy model"),
        (lambda: FreeEnergyCritic(BernoulliRBM(4, 2), 4), "num_state below the model's 4 visible"),
        (lambda: FreeEnergyCritic(BernoulliRBM(4, 2), 0), "expected num_state >= 1; got 0"),
        (lambda: FreeEnergyCritic(BernoulliRBM(4, 2), 2, sampler=NAME), "expected a sampler"),
        (lambda: deep(estimator="counts"), "unknown estimator 'counts'"),
        (lambda: deep(transverse=-1.0), "transverse >= 0"),
        (lambda: deep(transverse="0.5"), "transverse as a number; got str"),
        (lambda: deep(slices=0), "expected slices >= 1; got 0"),
        (lambda: deep((17, 17))(torch.ones(3), torch.ones(2)), "list 2\\^17 states .* sampler"),
        (
            lambda: deep((5, 5), transverse=1.0)(torch.ones(3), torch.ones(2)),
            "10 hidden spins .* give the critic a sampler",
        ),
        (lambda: deep()(torch.ones(2), torch.ones(2)), r"state units of shape \[\*, 3\]; got \[2"),
        (lambda: deep()(torch.ones(3), torch.ones(4)), r"action units of shape \[\*, 2\]; got"),
        (lambda: deep().actions(torch.ones(3), 1, Gibbs(1), temperature=0.0), "above 0; got 0"),
        (
            lambda: deep(transverse=1.0).actions(torch.ones(3), 1, Gibbs(1)),
            "not sampled in a transverse field",
        ),
        (lambda: layered_machine(3, (), 2), "at least one hidden layer"),
        (lambda: layered_machine(3, (2, 0), 2), "units of a hidden layer >= 1; got 0"),
    ],
)
def test_refusals_are_one_line(call, message):
    with untyped(), pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_tag_of_the_sampler_does_not_matter_to_what_was_seen():
    """A heuristic sampler's reads bring the same sum, once they hold the states that matter."""
    assert SimulatedAnnealing(5).exactness is Exactness.HEURISTIC
    critic = deep(sampler=SimulatedAnnealing(5, (0.0, 1.0), "linear"), num=500)
    exact = deep()
    state, action = every(critic.model, 3)
    gap = exact(state, action) - critic(state, action, generator=generator())
    assert (gap > -1e-9).all() and float(gap.detach().max()) < 2**2 / 500


def test_a_graph_of_the_users_own():
    graph = Graph.sparse(5, [(0, 3), (1, 4), (2, 3), (3, 4)])
    critic = FreeEnergyCritic(randomise(BoltzmannMachine(graph, hidden=(3, 4))), 2)
    state, action = every(critic.model, 2)
    right = by_states(critic.model, state, action) / math.sqrt(2)
    torch.testing.assert_close(critic(state, action), right)
