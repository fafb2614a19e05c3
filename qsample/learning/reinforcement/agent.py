"""An agent that learns by temporal differences, with a free energy as its critic."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from qsample.learning.reinforcement.replay import Batch, Replay
from qsample.learning.reinforcement.units import code_of
from qsample.sampling.random import draw_seed
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.support.checks import check_choice, whole_settings
from qsample.support.faces import public

Policy = Literal["greedy", "softmax", "sampled"]
Optimizer = Literal["adam", "sgd"]
ROWS = 1 << 14  # states and actions whose values are computed at once


class Critic(Protocol):
    """What an agent asks of its critic: `FreeEnergyCritic`, or any module with these members."""

    @property
    def num_state(self) -> int:
        """Number of state units."""
        ...

    @property
    def num_action(self) -> int:
        """Number of action units."""
        ...

    @property
    def off(self) -> int:
        """Value of a unit that is off, 0 or -1."""
        ...

    def __call__(
        self, state: Tensor, action: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Q `[*]` of states `[*, num_state]` and actions `[*, num_action]`."""
        ...


@public("qsample")
@dataclass(frozen=True)
class AgentSettings:
    r"""How an agent acts and learns.

    Args:
        policy: how actions are chosen. "greedy": the best, or with probability epsilon a random
            one. "softmax": with probability proportional to $e^{Q/T}$. Both look at every action.
            "sampled": the best of `candidates` actions that a sampler draws from the critic with
            the state clamped (`FreeEnergyCritic.actions`), however many there are.
        explore: epsilon ("greedy") or the temperature T (else) at the first step and in the end.
        explore_steps: steps in which it falls from one to the other, epsilon linearly, T
            geometrically.
        candidates: reads per action that "sampled" draws: 1 while exploring, all of them where the
            best is asked for.
        discount: weight γ of a reward one step later, from 0 to 1.
        reward_scale: what rewards are multiplied by before they are learnt, so that values are too.
            Free energies learn fastest where values differ by several units; this and the learning
            rate matter most.
        n_step: steps n of a return, $r_1 + \gamma r_2 + \dots + \gamma^n \max_a Q(s_n, a)$; 1 is
            TD(0).
        lr: learning rate.
        optimizer: "adam" or "sgd".
        batch: transitions per update.
        memory: transitions that are kept for replay; 1 learns from each as it comes, with batch 1.
        update_every: steps per update.
        updates: updates at a time; 0 only collects.
        target_every: updates after which the target copy takes the critic's weights; 1 is no copy.

    Raises:
        ValueError: a setting that is none of these.
    """

    policy: Policy = "greedy"
    explore: tuple[float, float] = (1.0, 0.05)
    explore_steps: int = 500
    candidates: int = 16
    discount: float = 0.9
    reward_scale: float = 1.0
    n_step: int = 1
    lr: float = 0.01
    optimizer: Optimizer = "adam"
    batch: int = 32
    memory: int = 10_000
    update_every: int = 1
    updates: int = 1
    target_every: int = 20

    def __post_init__(self) -> None:
        check_choice("policy", self.policy, Policy)
        check_choice("optimizer", self.optimizer, Optimizer)
        whole_settings(
            self,
            explore_steps=1,
            candidates=1,
            n_step=1,
            batch=1,
            memory=1,
            update_every=1,
            updates=0,
            target_every=1,
        )
        if not 0 <= self.discount <= 1:
            raise ValueError(f"expected discount from 0 to 1; got {self.discount!r}")
        if not self.lr > 0:
            raise ValueError(f"expected lr > 0; got {self.lr!r}")
        if not 0 < self.reward_scale < math.inf:
            raise ValueError(f"expected reward_scale > 0 and finite; got {self.reward_scale!r}")
        first, last = self.explore
        if self.policy == "greedy" and not (0 <= first <= 1 and 0 <= last <= 1):
            raise ValueError(f"expected probabilities to explore; got {self.explore!r}")
        if self.policy != "greedy" and not (first > 0 and last > 0):
            raise ValueError(f"expected temperatures above 0 to explore; got {self.explore!r}")


@public("qsample")
class FreeEnergyAgent:
    """Q-learning with replay and a target copy on an environment of gymnasium.

    Observations and actions become units: one-hot for `Discrete` and `MultiDiscrete`, bits for
    `MultiBinary`, a thermometer for a bounded `Box` of observations.

    Args:
        env: an environment of gymnasium, or a list of such of one kind, which are stepped in turn:
            values and sampled actions of all are then asked for at once.
        critic: a `FreeEnergyCritic`, or any module that is called alike and has its `num_state`,
            `num_action` and `off`.
        settings: how it acts and learns.
        sampler: draws actions where `policy="sampled"`, such as `Gibbs(20)`.
        observe: from an observation to state units `[num_state]`, in place of those above.
        levels: units per number of a `Box`.
        generator: randomness of all that the agent does; None is torch's default.

    Raises:
        ValueError: observations or actions that do not fit the critic's units, or too many actions
            to try one by one.
        TypeError: a space that is none of these.
        ImportError: gymnasium is not installed.
    """

    def __init__(
        self,
        env: Any,
        critic: Critic,
        settings: AgentSettings | None = None,
        *,
        sampler: Sampler | None = None,
        observe: Callable[[Any], Tensor] | None = None,
        levels: int = 8,
        generator: torch.Generator | None = None,
    ) -> None:
        self.envs: list[Any] = list(env) if isinstance(env, list | tuple) else [env]
        if not self.envs:
            raise ValueError("expected at least one environment; got none")
        env = self.envs[0]
        self.critic: Any = critic
        self.settings = settings or AgentSettings()
        self.sampler = sampler
        self._observe = observe
        self._action = code_of(env.action_space, critic.off, levels, "action")
        self._state = None
        if observe is None:
            self._state = code_of(env.observation_space, critic.off, levels, "observation")
        self._check_fit()
        # one seed, then streams of its own: nobody else's draws move it
        self.generator = torch.Generator().manual_seed(draw_seed(generator))
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.steps = 0
        self.updates = 0
        self.replay = Replay(
            self.settings.memory,
            critic.num_state,
            critic.num_action,
            discount=self.settings.discount,
            steps=self.settings.n_step,
            lanes=len(self.envs),
        )
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        make = kinds[self.settings.optimizer]
        self.optimizer = make(self.critic.parameters(), lr=self.settings.lr)
        self._observations: list[Any] = []

    def _check_fit(self) -> None:
        critic = self.critic
        if self._state is not None and self._state.num != critic.num_state:
            raise ValueError(
                f"observations {self._state.space} take {self._state.num} units, but the critic "
                f"has {critic.num_state} state units: give it {self._state.num}, or pass observe="
            )
        if self._action.num != critic.num_action:
            raise ValueError(
                f"actions {self._action.space} take {self._action.num} units, but the critic has "
                f"{critic.num_action} action units: give its model {self._action.num} more visible "
                "units than num_state"
            )
        if self.settings.policy == "sampled":
            if self.sampler is None:
                raise ValueError(
                    'policy="sampled" needs a sampler that draws actions: pass sampler=Gibbs(20)'
                )
            check_is_sampler(self.sampler)
            if not self._action.space.startswith("MultiBinary"):
                raise ValueError(
                    f"sampled actions are free bits, and {self._action.space} is none: use "
                    'policy="greedy" or "softmax"'
                )
        elif self._action.every is None:
            raise ValueError(
                f"{self._action.space} has too many actions to try one by one: use "
                'policy="sampled" with a sampler'
            )

    # ---- values and actions ----------------

    def units(self, observations: Sequence[Any]) -> Tensor:
        """State units of observations, `[N, num_state]`."""
        if self._state is not None:
            return self._state.encode(observations)
        if self._observe is None:
            raise AssertionError
        rows = torch.stack([torch.as_tensor(self._observe(x)) for x in observations]).float()
        if rows.shape[1:] != (self.critic.num_state,):
            raise ValueError(
                f"observe= gave units of shape {[*rows.shape[1:]]}; expected "
                f"[{self.critic.num_state}]"
            )
        if not rows.isfinite().all():
            raise ValueError("observe= gave units that are not finite")
        return rows

    @torch.no_grad()
    def values(self, observations: Sequence[Any]) -> Tensor:
        """Q of every action, `[N, A]`, in the order of the space.

        Raises:
            ValueError: too many actions to list.
        """
        return self._values(self.critic, self.units(observations))

    def greedy(self, observations: Sequence[Any]) -> list[Any]:
        """The best action for each observation; of "sampled" actions the best of those drawn."""
        return [self._action.decode(row) for row in self._best(self.units(observations))[1]]

    def act(self, observation: Any) -> tuple[Any, Tensor]:
        """An action for an observation while learning, and its units `[num_action]`."""
        row = self._explore(self.units([observation]))[0]
        return self._action.decode(row), row

    def _explore(self, state: Tensor) -> Tensor:
        """Units of an action for each state, `[N, num_action]`, as the policy explores."""
        level = self.exploration
        if self.settings.policy == "sampled":
            return self._drawn(self.critic, state, 1, level)[:, 0]
        every = self._every
        if self.settings.policy == "softmax":
            with torch.no_grad():
                chance = (self._values(self.critic, state) / level).softmax(-1)
            return every[torch.multinomial(chance, 1, generator=self.generator)[:, 0]]
        at_random = torch.rand(len(state), generator=self.generator) < level
        rows = torch.empty(len(state), every.shape[1])
        if at_random.any():
            count = (int(at_random.sum()),)
            rows[at_random] = every[torch.randint(len(every), count, generator=self.generator)]
        if not at_random.all():
            rows[~at_random] = self._best(state[~at_random])[1]
        return rows

    @property
    def exploration(self) -> float:
        """Epsilon or temperature at the present step."""
        first, last = self.settings.explore
        part = min(1.0, self.steps / self.settings.explore_steps)
        if self.settings.policy == "greedy":
            return first + part * (last - first)
        return first * (last / first) ** part

    @property
    def _every(self) -> Tensor:
        every = self._action.every
        if every is None:
            raise ValueError(f"{self._action.space} has too many actions to list their values")
        return every

    def _values(self, critic: Any, state: Tensor) -> Tensor:
        """Q of every action `[N, A]`."""
        every = self._every
        parts = []
        for rows in state.split(max(1, ROWS // len(every))):
            parts.append(critic(rows[:, None], every[None], generator=self.generator).cpu())
        return torch.cat(parts)

    def _drawn(self, critic: Any, state: Tensor, num: int, temperature: float) -> Tensor:
        """Actions drawn for each state, `[N, num, num_action]`."""
        drawn = critic.actions(
            state, num, self.sampler, temperature=temperature, generator=self.generator
        )
        return drawn.cpu()

    @torch.no_grad()
    def _best(self, state: Tensor, critic: Any = None) -> tuple[Tensor, Tensor]:
        """The highest value over actions, `[N]`, and the action's units, `[N, num_action]`."""
        critic = self.critic if critic is None else critic
        if self.settings.policy != "sampled":
            value, place = self._values(critic, state).max(-1)
            return value, self._every[place]
        coldest = self.settings.explore[1]
        rows = self._drawn(critic, state, self.settings.candidates, coldest)
        value, place = critic(state[:, None], rows, generator=self.generator).cpu().max(-1)
        return value, rows[torch.arange(len(rows)), place]

    # ---- learning ----------------

    def train(
        self,
        steps: int,
        *,
        after: Callable[[FreeEnergyAgent], bool | None] | None = None,
        seed: int | None = None,
    ) -> FreeEnergyAgent:
        """Act and learn for a number of steps; a call goes on where the last one stopped.

        Args:
            steps: steps of the environment; of several all together.
            after: called after each step, or each round of several environments; ends the run where
                it returns True.
            seed: of the environments' first resets, which count up from it; None draws one.
        """
        self._start(seed)
        goal = self.steps + steps
        while self.steps < goal:
            self.step()
            if after is not None and after(self):
                break
        return self

    def _start(self, seed: int | None = None) -> None:
        """Reset the environments, unless they run."""
        if self._observations:
            return
        seed = draw_seed(self.generator) & 0x7FFFFFFF if seed is None else seed
        self._observations = [env.reset(seed=seed + k)[0] for k, env in enumerate(self.envs)]

    def step(self) -> float:
        """One step of each environment and the updates that belong to it; the mean reward."""
        self._start()
        state = self.units(self._observations)
        rows = self._explore(state)
        ways = []
        for env, row in zip(self.envs, rows, strict=True):
            ways.append(env.step(self._action.decode(row)))
        beyond = self.units([way[0] for way in ways])
        total = 0.0
        for lane, (after, reward, ended, cut, _) in enumerate(ways):
            if not math.isfinite(reward):
                raise ValueError(
                    f"the environment gave a reward of {reward}: expected finite numbers"
                )
            learnt = float(reward) * self.settings.reward_scale
            self.replay.add(
                state[lane], rows[lane], learnt, beyond[lane], bool(ended), bool(cut), lane
            )
            over = ended or cut
            self._observations[lane] = self.envs[lane].reset()[0] if over else after
            total += float(reward)
        before = self.steps // self.settings.update_every
        self.steps += len(self.envs)
        if len(self.replay):
            owed = self.steps // self.settings.update_every - before
            for _ in range(owed * self.settings.updates):
                self.update()
        return total / len(self.envs)

    def update(self) -> float:
        """One update from a batch of the replay; the mean squared error of it."""
        batch = self.replay.draw(self.settings.batch, self.generator)
        goal = self._goal(batch)
        value = self.critic(batch.state, batch.action, generator=self.generator)
        loss = (value - goal.to(value)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.settings.target_every == 0:
            self.target.load_state_dict(self.critic.state_dict())
        return float(loss.detach())

    def _goal(self, batch: Batch) -> Tensor:
        """Return of each transition, with the target copy's value of the state after."""
        goal = batch.reward
        alive = batch.discount > 0
        if alive.any():
            goal = goal.clone()
            best = self._best(batch.after[alive], self.target)[0]
            goal[alive] += batch.discount[alive] * best.to(goal)
        return goal
