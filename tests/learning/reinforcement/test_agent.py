"""An agent on small environments: returns, codes, learning, refusals."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from qsample import AgentSettings, FreeEnergyAgent, FreeEnergyCritic, layered_machine
from qsample.annealers import DWave, Gibbs
from qsample.learning.reinforcement.replay import Replay
from qsample.learning.reinforcement.units import code_of
from qsample.models import BernoulliRBM
from tests.support.exact import untyped
from tests.support.seeds import generator

gymnasium = pytest.importorskip("gymnasium", reason="the extra rl")
spaces = gymnasium.spaces


class Copy(gymnasium.Env):
    """A state is shown; the action that equals it pays 1 and the episode ends."""

    def __init__(self, space, actions=None):
        self.observation_space = space
        self.action_space = actions or space
        self.shown = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.shown = self.np_random.integers(0, 2, 3, dtype=np.int8)
        if isinstance(self.observation_space, spaces.Discrete):
            self.shown = self.np_random.integers(self.observation_space.n)
        return self.shown, {}

    def step(self, action):
        return self.shown, float(np.mean(action == self.shown)), True, False, {}


class Zero(nn.Module):
    """A critic of one number per state and action, all 0 at first."""

    off = 0

    def __init__(self, num_state, num_action):
        super().__init__()
        self.num_state = num_state
        self.num_action = num_action
        self.weight = nn.Parameter(torch.zeros(num_state, num_action))

    def forward(self, state, action, *, generator=None):
        return ((state @ self.weight) * action).sum(-1)


def rbm(num_state, num_action, hidden=4, **settings):
    model = BernoulliRBM(num_state + num_action, hidden, generator=generator())
    return FreeEnergyCritic(model, num_state, **settings)


def layers():
    return layered_machine(3, (3, 3), 3, generator=generator())


def agent_of(env, critic, seed=0, **settings):
    sampler = settings.pop("sampler", None)
    return FreeEnergyAgent(
        env, critic, AgentSettings(**settings), sampler=sampler, generator=generator(seed)
    )


# ---- returns ----------------


def filled(steps, *, ended=False, cut=False):
    """Four steps of rewards 1, 10, 100, 1000 through states 0 to 4, discount 1/2."""
    replay = Replay(8, 1, 1, discount=0.5, steps=steps)
    for k, reward in enumerate((1.0, 10.0, 100.0, 1000.0)):
        last = k == 3
        before, after = torch.tensor([float(k)]), torch.tensor([k + 1.0])
        replay.add(before, torch.zeros(1), reward, after, ended and last, cut and last)
    rows = replay._rows
    n = len(replay)
    return [
        tuple(float(part[k]) for part in (rows.reward, rows.discount, rows.after)) for k in range(n)
    ]


def test_returns_of_one_step():
    assert filled(1) == [(1, 0.5, 1), (10, 0.5, 2), (100, 0.5, 3), (1000, 0.5, 4)]
    assert filled(1, ended=True)[3] == (1000, 0, 4)
    assert filled(1, cut=True)[3] == (1000, 0.5, 4)


def test_returns_of_three_steps():
    whole = [(1 + 5 + 25, 0.125, 3), (10 + 50 + 250, 0.125, 4)]
    assert filled(3) == whole  # the others are still open
    assert filled(3, cut=True) == [*whole, (600, 0.25, 4), (1000, 0.5, 4)]
    end = [(10 + 50 + 250, 0, 4), (600, 0, 4), (1000, 0, 4)]
    assert filled(3, ended=True) == [whole[0], *end]


def test_replay_forgets_the_oldest():
    replay = Replay(2, 1, 1, discount=1.0, steps=1)
    for k in range(5):
        replay.add(torch.tensor([float(k)]), torch.zeros(1), 0.0, torch.zeros(1), False, False)
    assert len(replay) == 2
    assert set(replay.draw(50, generator()).state.flatten().tolist()) == {3.0, 4.0}


def test_one_update_of_a_table_is_the_rule_of_the_books():
    """Q <- Q + alpha (r + gamma max Q' - Q), alpha twice the rate of a squared error."""
    env = Copy(spaces.Discrete(2))
    critic = Zero(2, 2)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    agent = agent_of(env, critic, discount=0.5, lr=0.1, optimizer="sgd", batch=1, target_every=1)
    row = (torch.tensor([1.0, 0]), torch.tensor([0.0, 1]), 10.0, torch.tensor([0.0, 1]))
    agent.replay.add(*row, False, False)
    agent.update()
    right = torch.tensor([[1.0, 2 + 0.2 * (10 + 0.5 * 4 - 2)], [3, 4]])
    torch.testing.assert_close(critic.weight.detach(), right)
    torch.testing.assert_close(agent.target.weight, right)


# ---- codes ----------------


def test_returns_of_environments_side_by_side():
    """Each lane its own: steps of another never enter a return."""
    replay = Replay(8, 1, 1, discount=0.5, steps=2, lanes=2)
    for k in range(2):
        for lane in range(2):
            reward = 10.0**lane
            unit = torch.tensor([float(lane)])
            replay.add(unit, torch.zeros(1), reward, unit, False, k == 1, lane)
    rows = replay._rows
    assert rows.reward[:4].tolist() == [1.5, 1.0, 15.0, 10.0]
    assert rows.after[:4, 0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("space", "value", "units"),
    [
        (spaces.Discrete(3, start=5), 6, [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 2]), [0, 1, 0, 0, 1]),
        (spaces.MultiBinary(3), np.array([1, 0, 1], dtype=np.int8), [1, -1, 1]),
        (spaces.MultiBinary([1, 2]), np.array([[0, 1]], dtype=np.int8), [-1, 1]),
    ],
)
def test_codes_go_both_ways(space, value, units):
    code = code_of(space, -1, 4, "action")
    rows = code.encode([value, value])
    assert rows.tolist() == [units, units] and code.num == len(units)
    assert np.array_equal(code.decode(rows[0]), value)
    assert space.contains(code.decode(rows[0]))
    listed = code.every
    assert listed is not None and len(listed.unique(dim=0)) == len(listed)
    assert all(space.contains(code.decode(row)) for row in listed)


def test_a_box_is_a_thermometer():
    code = code_of(spaces.Box(-1, 1, (2,), np.float64), 0, 3, "observation")
    rows = code.encode([np.array([-1.0, 0.2]), np.array([0.6, 1.0])])
    assert rows.tolist() == [[0, 0, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]]


# ---- learning ----------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: rbm(3, 3),
        pytest.param(lambda: FreeEnergyCritic(layers(), 3), marks=pytest.mark.long),
        pytest.param(
            lambda: rbm(3, 3, sampler=Gibbs(3), num=20, estimator="entropy"),
            marks=pytest.mark.long,
        ),
    ],
)
def test_it_learns_what_pays(make):
    """Three states, three actions; the same agent, whatever measures its free energy."""
    env = Copy(spaces.Discrete(3))
    agent = agent_of(env, make(), discount=0.0, lr=0.1, explore=(1.0, 1.0))
    agent.train(150)
    assert [int(a) for a in agent.greedy(range(3))] == [0, 1, 2]


@pytest.mark.long
def test_sampled_actions_learn_bits():
    """Eight environments side by side."""
    envs = [Copy(spaces.MultiBinary(3)) for _ in range(8)]
    critic = rbm(3, 3, hidden=8)
    settings = {"explore": (1.0, 0.3), "explore_steps": 800, "candidates": 32}
    settings |= {"policy": "sampled", "discount": 0.0, "lr": 0.05, "update_every": 4}
    settings["reward_scale"] = 5.0
    agent = agent_of(envs, critic, sampler=Gibbs(10), **settings)
    agent.train(1200)
    assert (agent.steps, agent.updates) == (1200, 300)
    assert critic.spent.reads >= 1200
    shown = [np.array(bits, dtype=np.int8) for bits in ((0, 0, 0), (1, 0, 1), (1, 1, 0))]
    right = np.mean([a == s for a, s in zip(agent.greedy(shown), shown, strict=True)])
    assert right > 0.8


def test_softmax_prefers_what_is_better():
    env = Copy(spaces.Discrete(2))
    critic = Zero(2, 2)
    with torch.no_grad():
        critic.weight[0, 1] = np.log(3.0)
    agent = agent_of(env, critic, policy="softmax", explore=(1.0, 1.0))
    taken = np.mean([int(agent.act(0)[0]) for _ in range(800)])
    assert abs(taken - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 800)


def run_of(seed=0, steps=25, **settings):
    critic = rbm(3, 3, sampler=Gibbs(2), num=5, estimator="entropy")
    agent = agent_of(Copy(spaces.Discrete(3)), critic, seed=seed, n_step=2, **settings)
    return agent.train(steps)


def test_a_seed_sets_the_whole_run():
    first = run_of()
    torch.manual_seed(5)  # nobody else's draws move it
    second = run_of()
    third = run_of(seed=1)
    for name, weight in first.critic.state_dict().items():
        assert torch.equal(weight, second.critic.state_dict()[name])
    assert not torch.equal(first.critic.model.W, third.critic.model.W)


def test_a_run_goes_on_where_it_stopped():
    halves = run_of(steps=10).train(15)
    assert torch.equal(halves.critic.model.W, run_of().critic.model.W)


def test_rewards_are_scaled_before_they_are_learnt():
    agent = agent_of(Copy(spaces.Discrete(2)), Zero(2, 2), reward_scale=3.0, updates=0)
    mean = np.mean([agent.step() for _ in range(20)])
    assert float(agent.replay._rows.reward[:20].mean()) == pytest.approx(3 * mean)


def test_the_end_of_a_run_and_updates_now_and_then():
    agent = agent_of(Copy(spaces.Discrete(2)), Zero(2, 2), update_every=4, updates=2)
    agent.train(100, after=lambda agent: agent.steps == 10)
    assert (agent.steps, agent.updates) == (10, 4)


def test_gymnasium_s_own_environment():
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    agent = agent_of(env, rbm(16, 4)).train(10)
    assert agent.values([0, 5]).shape == (2, 4)


@pytest.mark.long
def test_a_recorded_processor_replays_the_run(sapi, isolated, tmp_path):
    """Reads of a loopback QPU, and again from the recording: the same weights, no device."""
    pytest.importorskip("dwave.cloud")

    def run(device):
        machine = layered_machine(2, (2, 2), 2, generator=generator())
        critic = FreeEnergyCritic(machine, 2, sampler=device, num=10)
        env = Copy(spaces.Discrete(2))
        return agent_of(env, critic, batch=4).train(4).critic.model.J.detach()

    client = {"endpoint": sapi.endpoint, "token": sapi.token}
    with DWave(client=client, record=tmp_path / "reads.jsonl") as device:
        first = run(device)
    with DWave(replay=tmp_path / "reads.jsonl") as device:
        assert torch.equal(run(device), first)


# ---- what is refused ----------------


class Unbounded(Copy):
    def __init__(self):
        super().__init__(spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: agent_of(Copy(spaces.Discrete(3)), rbm(4, 3)),
            r"observations Discrete\(3\) take 3 units, but the critic has 4 state units: give it 3",
        ),
        (
            lambda: agent_of(Copy(spaces.Discrete(3)), rbm(3, 2)),
            r"actions Discrete\(3\) take 3 units, but the critic has 2 action units",
        ),
        (
            lambda: agent_of(Copy(spaces.MultiBinary(40)), rbm(40, 40)),
            r'MultiBinary\(40\) has too many actions to try .* policy="sampled"',
        ),
        (
            lambda: agent_of(
                Copy(spaces.Discrete(3)),
                rbm(3, 3),
                sampler=Gibbs(1),
                policy="sampled",
                explore=(1.0, 0.1),
            ),
            r"sampled actions are free bits, and Discrete\(3\) is none",
        ),
        (
            lambda: agent_of(
                Copy(spaces.MultiBinary(3)), rbm(3, 3), policy="sampled", explore=(1.0, 0.1)
            ),
            'policy="sampled" needs a sampler',
        ),
        (lambda: agent_of(Unbounded(), rbm(2, 2)), "no bounds; pass observe="),
        (
            lambda: agent_of(Copy(spaces.Discrete(2), spaces.Box(-1, 1, (1,))), rbm(2, 1)),
            "cannot read the action space Box.* wrap the environment",
        ),
        (lambda: agent_of(Copy(spaces.Text(3)), rbm(2, 2)), "cannot read the action space Text"),
        (lambda: AgentSettings(policy="best"), "unknown policy 'best'"),  # pyright: ignore
        (lambda: AgentSettings(discount=1.5), "discount from 0 to 1; got 1.5"),
        (lambda: AgentSettings(lr=0), "lr > 0; got 0"),
        (lambda: AgentSettings(reward_scale=-1.0), "reward_scale > 0 and finite; got -1"),
        (lambda: AgentSettings(batch=0), "batch >= 1; got 0"),
        (lambda: AgentSettings(explore=(2.0, 0.1)), "probabilities to explore"),
        (lambda: AgentSettings(policy="softmax", explore=(1.0, 0.0)), "temperatures above 0"),
    ],
)
def test_refusals_are_one_line(call, message):
    with untyped(), pytest.raises((ValueError, TypeError), match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_observe_that_gives_other_units():
    env = Copy(spaces.Discrete(3))
    agent = FreeEnergyAgent(env, rbm(3, 3), observe=lambda _: torch.ones(2))
    with pytest.raises(ValueError, match=r"units of shape \[2\]; expected \[3\]"):
        agent.train(1)


def test_a_reward_that_is_no_number():
    env = Copy(spaces.Discrete(3))
    env.step = lambda action: (0, float("nan"), True, False, {})
    with pytest.raises(ValueError, match="reward of nan"):
        agent_of(env, rbm(3, 3)).train(1)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    env = Copy(spaces.Discrete(3))
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r'pip install "qsample-torch\[rl\]"') as error:
        FreeEnergyAgent(env, rbm(3, 3))
    assert "\n" not in str(error.value)
