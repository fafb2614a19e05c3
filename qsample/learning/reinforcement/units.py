"""Spaces of gymnasium as units of a model: observations and actions as rows of numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.support.optional import needs

MAX_ACTIONS = 4096  # actions that are tried one by one


@dataclass(frozen=True)
class Code:
    """How elements of a space are written in units.

    Args:
        num: number of units.
        encode: elements to units, `[N, num]`.
        decode: one row of units to an element of the space.
        every: units of all elements, `[A, num]`, where they are few.
        space: the space, as text.
    """

    num: int
    encode: Callable[[Sequence[Any]], Tensor]
    decode: Callable[[Tensor], Any]
    every: Tensor | None
    space: str


def code_of(space: Any, off: int, levels: int, what: str) -> Code:
    """The code of a space: one-hot for `Discrete` and `MultiDiscrete`, bits for `MultiBinary`.

    A bounded `Box` has a thermometer of `levels` units per number: unit k is on from low + (k +
    1)/(levels + 1) of the range. A one-hot unit is 1 or 0, any other 1 or `off`.

    Args:
        space: a space of gymnasium.
        off: value of a unit that is off, 0 or -1.
        levels: units per number of a `Box`.
        what: what the space is of, for the error.

    Raises:
        TypeError: any other space, or none of gymnasium's.
        ImportError: gymnasium is not installed.
    """
    with needs("rl", "an agent"):
        from gymnasium import spaces

    if isinstance(space, spaces.Discrete):
        return _one_hot(space)
    if isinstance(space, spaces.MultiDiscrete) and len(space.shape) == 1:
        return _several(space)
    if isinstance(space, spaces.MultiBinary):
        return _binary(space, off)
    if isinstance(space, spaces.Box) and what == "observation":
        return _thermometer(space, off, levels)
    remedy = (
        "wrap the environment so that it has Discrete, MultiDiscrete or MultiBinary actions"
        if what == "action"
        else "pass observe=, a function from an observation to units"
    )
    raise TypeError(f"an agent cannot read the {what} space {space!r}: {remedy}")


def _one_hot(space: Any) -> Code:
    n = int(space.n)
    start = int(space.start)
    unit = torch.eye(n)

    def encode(values: Sequence[Any]) -> Tensor:
        return unit[torch.as_tensor(np.asarray(values).astype(np.int64)).reshape(-1) - start]

    def decode(row: Tensor) -> Any:
        return np.int64(int(row.argmax()) + start)

    return Code(n, encode, decode, unit, str(space))


def _several(space: Any) -> Code:
    sizes = [int(n) for n in space.nvec]
    starts = np.asarray(space.start).astype(np.int64)
    units = [torch.eye(n) for n in sizes]

    def encode(values: Any) -> Tensor:
        numbers = torch.as_tensor(np.asarray(values).astype(np.int64) - starts)
        numbers = numbers.reshape(-1, len(sizes))
        return torch.cat([unit[numbers[:, k]] for k, unit in enumerate(units)], 1)

    def decode(row: Tensor) -> Any:
        parts = row.split(sizes)
        return np.array([int(part.argmax()) for part in parts], dtype=np.int64) + starts

    every = None
    if math.prod(sizes) <= MAX_ACTIONS:
        listed = list(itertools.product(*(range(n) for n in sizes)))
        every = encode(np.array(listed) + starts)
    return Code(sum(sizes), encode, decode, every, str(space))


def _binary(space: Any, off: int) -> Code:
    shape = space.shape
    n = math.prod(shape)

    def encode(values: Any) -> Tensor:
        bits = torch.as_tensor(np.asarray(values).astype(np.float32)).reshape(-1, n)
        return bits * (1 - off) + off

    def decode(row: Tensor) -> Any:
        return (row > (1 + off) / 2).cpu().numpy().astype(np.int8).reshape(shape)

    every = None
    if 1 << n <= MAX_ACTIONS:
        every = encode(np.array(list(itertools.product((0, 1), repeat=n))))
    return Code(n, encode, decode, every, str(space))


def _thermometer(space: Any, off: int, levels: int) -> Code:
    low = torch.as_tensor(space.low, dtype=torch.float64).reshape(-1, 1)
    high = torch.as_tensor(space.high, dtype=torch.float64).reshape(-1, 1)
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise TypeError(
            f"an agent cannot read the observation space {space!r}: it has no bounds; pass "
            "observe=, a function from an observation to units"
        )
    n = len(low) * levels
    bounds = low + (high - low) * torch.arange(1, levels + 1) / (levels + 1)

    def encode(values: Sequence[Any]) -> Tensor:
        x = torch.as_tensor(np.asarray(values).astype(np.float64)).reshape(-1, len(low), 1)
        return ((x > bounds).float() * (1 - off) + off).reshape(-1, n)

    def decode(row: Tensor) -> Any:
        raise NotImplementedError  # observations are never made of units

    return Code(n, encode, decode, None, str(space))
