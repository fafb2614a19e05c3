"""What an agent went through, in one block of memory per kind of number."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Transitions over up to n steps.

    Attributes:
        state: units `[N, num_state]` before.
        action: units `[N, num_action]` of the first action.
        reward: discounted sum of the rewards, `[N]`.
        discount: what the value of the state after counts, `[N]`; 0 where the episode ended.
        after: units `[N, num_state]` of the state after.
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    after: Tensor


@dataclass
class _Step:
    state: Tensor
    action: Tensor
    reward: float
    after: Tensor


class Replay:
    """The last transitions, of which batches are drawn with replacement.

    Args:
        size: number of transitions that are kept.
        num_state: number of state units.
        num_action: number of action units.
        discount: weight of a reward one step later.
        steps: steps n of a return: rewards of n steps, then the value of the state after.
        lanes: environments side by side, each with steps of its own.
    """

    def __init__(
        self,
        size: int,
        num_state: int,
        num_action: int,
        *,
        discount: float,
        steps: int,
        lanes: int = 1,
    ) -> None:
        self._discount = discount
        self._steps = steps
        self._open: list[deque[_Step]] = [deque() for _ in range(lanes)]
        self._added = 0
        self._size = size
        self._rows = Batch(
            torch.zeros(size, num_state),
            torch.zeros(size, num_action),
            torch.zeros(size),
            torch.zeros(size),
            torch.zeros(size, num_state),
        )

    def __len__(self) -> int:
        return min(self._added, self._size)

    def add(
        self,
        state: Tensor,
        action: Tensor,
        reward: float,
        after: Tensor,
        ended: bool,
        cut: bool,
        lane: int = 0,
    ) -> None:
        """Add a step; its return is written down n steps later, or where the episode ends.

        Args:
            state: units before, `[num_state]`.
            action: units of the action, `[num_action]`.
            reward: reward of the step.
            after: units of the state after, `[num_state]`.
            ended: whether the episode ended there: nothing comes after.
            cut: whether it was cut off there: what would come after still counts.
            lane: number of the environment.
        """
        still_open = self._open[lane]
        still_open.append(_Step(state, action, float(reward), after))
        if len(still_open) == self._steps:
            self._close(still_open, 0.0 if ended else 1.0)
        if ended or cut:
            while still_open:
                self._close(still_open, 0.0 if ended else 1.0)

    def _close(self, still_open: deque[_Step], alive: float) -> None:
        """Write the oldest open step, with the rewards of all that came after."""
        reward = 0.0
        weight = 1.0
        for step in still_open:
            reward += weight * step.reward
            weight *= self._discount
        last = still_open[-1]
        first = still_open.popleft()
        place = self._added % self._size
        self._rows.state[place] = first.state
        self._rows.action[place] = first.action
        self._rows.reward[place] = reward
        self._rows.discount[place] = alive * weight
        self._rows.after[place] = last.after
        self._added += 1

    def draw(self, count: int, generator: torch.Generator) -> Batch:
        """A batch, each transition equally likely."""
        rows = torch.randint(len(self), (count,), generator=generator)
        return Batch(*(values[rows] for values in self._rows))
