"""Small environments of gymnasium whose best values are known exactly, and two critics to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

Table = dict[int, dict[int, list[tuple[float, int, float, bool]]]]
"""P[state][action]: (probability, state after, reward, whether the episode ends), as in toy_text"""


# ---- environments ----------------


class Finite(gymnasium.Env):
    """An environment with a table of transitions, as FrozenLake has one.

    Args:
        table: transitions.
        observations: what is observed of each state.
        starts: states that an episode starts in, each equally likely.
        space: space of the observations.
        limit: steps after which an episode is cut off.
    """

    def __init__(
        self,
        table: Table,
        observations: Sequence[Any],
        starts: Sequence[int],
        space: spaces.Space,
        limit: int,
    ) -> None:
        self.P = table
        self.observations = list(observations)
        self.starts = list(starts)
        self.observation_space = space
        self.action_space = spaces.Discrete(len(table[self.starts[0]]))
        self.limit = limit
        self._state = self.starts[0]
        self._left = limit

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start an episode."""
        super().reset(seed=seed)
        self._state = self.starts[int(self.np_random.integers(len(self.starts)))]
        self._left = self.limit
        return self.observations[self._state], {}

    def step(self, action: Any) -> Any:
        """One transition of the table."""
        rows = self.P[self._state][int(action)]
        chances = [row[0] for row in rows]
        _, after, reward, ended = rows[int(self.np_random.choice(len(rows), p=chances))]
        self._state = after
        self._left -= 1
        return self.observations[after], reward, ended, self._left == 0 and not ended, {}


MAZE = ("....G", ".#.P.", ".....")
"""5 x 3 cells: goal, penalty, wall"""


def maze() -> Finite:
    """A maze of 5 x 3 cells, with goal, penalty and wall, after Crawford et al. (arXiv 1612.05695).

    Five actions: up, right, down, left, stay. Entering the goal pays 1 and ends the episode,
    entering the penalty costs 1; episodes start anywhere.
    """
    height = len(MAZE)
    width = len(MAZE[0])
    cells = [MAZE[row][column] for row in range(height) for column in range(width)]
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0))
    table: Table = {}
    for cell in range(height * width):
        table[cell] = {}
        for action, (down, right) in enumerate(moves):
            row = cell // width + down
            column = cell % width + right
            inside = 0 <= row < height and 0 <= column < width
            after = row * width + column if inside else cell
            if cells[after] == "#":
                after = cell
            entered = cells[after] if after != cell else "."
            reward = {"G": 1.0, "P": -1.0}.get(entered, 0.0)
            table[cell][action] = [(1.0, after, reward, entered == "G")]
    starts = [cell for cell, kind in enumerate(cells) if kind == "."]
    return Finite(table, range(len(cells)), starts, spaces.Discrete(len(cells)), 30)


@dataclass(frozen=True)
class Line:
    """A transfer line with one steering dipole ahead of a target, linear optics, one plane.

    Args:
        beta: Twiss beta at dipole and target, m.
        phase: phase advance from one to the other, radians.
        kick: change of the dipole's deflection by an action, rad.
        sigma: size of the beam at the target, m.
        half: half the width of the target, m.
    """

    beta: tuple[float, float] = (16.0, 4.0)
    phase: float = math.pi / 2
    kick: float = 1.25e-4
    sigma: float = 1.5e-3
    half: float = 3e-3

    @property
    def shift(self) -> float:
        """How far an action moves the beam at the target, m: R12 = sqrt(β β') sin μ, kicked."""
        return math.sqrt(self.beta[0] * self.beta[1]) * math.sin(self.phase) * self.kick

    def hit(self, position: float) -> float:
        """The part of a Gaussian beam that hits the target."""
        scale = math.sqrt(2) * self.sigma
        right = math.erf((self.half - position) / scale)
        return (right + math.erf((self.half + position) / scale)) / 2


def steering(line: Line = Line(), cells: int = 21, limit: int = 25) -> Finite:
    """Beam steering in one dimension, after Schenk et al. (arXiv 2209.11044).

    The beam's position at the target is observed, in mm. Two actions turn the dipole one step up
    or down; the reward is the part of the beam that hits the target. Nothing ends an episode but
    its limit; at the ends of its range the dipole stays.
    """
    middle = cells // 2
    positions = [(cell - middle) * line.shift for cell in range(cells)]
    table: Table = {}
    for cell in range(cells):
        table[cell] = {}
        for action, move in enumerate((-1, 1)):
            after = min(max(cell + move, 0), cells - 1)
            table[cell][action] = [(1.0, after, line.hit(positions[after]), False)]
    reach = middle * line.shift * 1e3
    space = spaces.Box(-reach, reach, (1,), np.float64)
    observed = [np.array([position * 1e3]) for position in positions]
    return Finite(table, observed, range(cells), space, limit)


def frozen_lake() -> Finite:
    """FrozenLake of gymnasium, 4 x 4 and not slippery, with its own table."""
    lake: Any = gymnasium.make("FrozenLake-v1", is_slippery=False).unwrapped
    table: Table = {s: {a: list(rows) for a, rows in row.items()} for s, row in lake.P.items()}
    return Finite(table, range(16), [0], lake.observation_space, 100)


class KeyPairs(gymnasium.Env):
    """The task with 2^40 actions of Sallans and Hinton (JMLR 5, 1063, 2004).

    Some pairs of a state and an action, both of random bits, are keys. A random state is shown; the
    reward of an action is the part of its bits that agree with the action of the key whose state is
    nearest (Hamming). Every action ends the episode.

    Args:
        keys: number of pairs.
        state_bits: bits of a state.
        action_bits: bits of an action.
        seed: of the pairs.
    """

    def __init__(
        self, keys: int = 13, state_bits: int = 12, action_bits: int = 40, seed: int = 0
    ) -> None:
        random = np.random.default_rng(seed)
        self.key_states = random.integers(0, 2, (keys, state_bits), dtype=np.int8)
        self.key_actions = random.integers(0, 2, (keys, action_bits), dtype=np.int8)
        self.observation_space = spaces.MultiBinary(state_bits)
        self.action_space = spaces.MultiBinary(action_bits)
        self._state = self.key_states[0]

    def best(self, states: np.ndarray) -> np.ndarray:
        """The best action of each state, `[N, action_bits]`; of keys equally near the first."""
        distance = (np.asarray(states)[:, None] != self.key_states[None]).sum(-1)
        return self.key_actions[distance.argmin(-1)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Show a random state."""
        super().reset(seed=seed)
        self._state = self.np_random.integers(0, 2, self.key_states.shape[1], dtype=np.int8)
        return self._state, {}

    def step(self, action: Any) -> Any:
        """The part of the bits that are right."""
        right = float((np.asarray(action) == self.best(self._state[None])[0]).mean())
        return self._state, right, True, False, {}


# ---- what is best ----------------


class Solved:
    """The best values of a finite environment, and those of any policy, exactly.

    Args:
        env: the environment.
        discount: weight of a reward one step later.
    """

    def __init__(self, env: Finite, discount: float) -> None:
        states = len(env.P)
        actions = len(env.P[0])
        self.env = env
        self.discount = discount
        self.reward = np.zeros((states, actions))
        self.chance = np.zeros((states, actions, states))
        for s, row in env.P.items():
            for a, ways in row.items():
                for chance, after, reward, ended in ways:
                    self.reward[s, a] += chance * reward
                    self.chance[s, a, after] += 0.0 if ended else chance
        value = np.zeros(states)
        for _ in range(2000):
            value = (self.reward + discount * self.chance @ value).max(1)
        self.values = self.reward + discount * self.chance @ value
        """the best Q, `[S, A]`"""
        self.best = float(value[env.starts].mean())

    def part_of_best(self, actions: Sequence[int]) -> float:
        """The mean value over starting states of a policy, as a part of the best.

        Args:
            actions: its action in each state.
        """
        rows = np.arange(len(actions))
        chance = self.chance[rows, np.asarray(actions)]
        reward = self.reward[rows, np.asarray(actions)]
        value = np.linalg.solve(np.eye(len(rows)) - self.discount * chance, reward)
        return float(value[self.env.starts].mean()) / self.best


# ---- critics to beat ----------------


class TableCritic(nn.Module):
    """One number per one-hot state and one-hot action: tabular Q-learning.

    Args:
        num_state: number of states.
        num_action: number of actions.
    """

    off = 0

    def __init__(self, num_state: int, num_action: int) -> None:
        super().__init__()
        self.num_state = num_state
        self.num_action = num_action
        self.weight = nn.Parameter(torch.zeros(num_state, num_action))

    def forward(
        self, state: Tensor, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Q of states and actions, `[*]`."""
        return ((state @ self.weight) * action).sum(-1)


class NetworkCritic(nn.Module):
    """A network with a value per action: the critic of a DQN (Mnih et al., Nature 518, 529, 2015).

    Args:
        num_state: number of state units.
        num_action: number of actions.
        width: units of each of two hidden layers.
    """

    off = 0

    def __init__(self, num_state: int, num_action: int, width: int) -> None:
        super().__init__()
        self.num_state = num_state
        self.num_action = num_action
        self.net = nn.Sequential(
            nn.Linear(num_state, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, num_action),
        )

    def forward(
        self, state: Tensor, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Q of states and actions, `[*]`."""
        return (self.net(state) * action).sum(-1)
