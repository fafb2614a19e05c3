"""Schedules of inverse temperatures, made a block at a time.

So sweeps that have not begun take no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from qsample.support.checks import check_choice

Schedule = Literal["geometric", "linear", "adaptive"]

BLOCK = 1 << 16  # sweeps that are asked for at once, at most: a multiple of the dense kernel's 64
LISTENING = 1 << 12  # under a time limit, which small calls do not hear
COLDEST = 1e37  # with room for a factor in single precision


@runtime_checkable
class Betas(Protocol):
    """One beta per sweep, `count` of them; `coldest` is at least the largest."""

    @property
    def count(self) -> int:
        """Sweeps."""
        ...

    @property
    def coldest(self) -> float:
        """At least as large as any beta."""
        ...

    def block(self, first: int, last: int) -> Tensor:
        """The betas of sweeps first to last - 1: `[S]`, or one per problem, `[S, P, 1]`."""
        ...


@dataclass(frozen=True)
class Constant:
    """`count` sweeps at one beta."""

    count: int
    beta: float = 1.0

    @property
    def coldest(self) -> float:
        """The beta."""
        return self.beta

    def block(self, first: int, last: int) -> Tensor:
        """See `Betas`."""
        return torch.full((last - first,), self.beta, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Listed:
    """Betas that are given one by one, `[S]`."""

    values: Tensor

    @property
    def count(self) -> int:
        """Sweeps."""
        return len(self.values)

    @property
    def coldest(self) -> float:
        """The largest beta."""
        return float(self.values.max())

    def block(self, first: int, last: int) -> Tensor:
        """See `Betas`."""
        return self.values[first:last]


@dataclass(frozen=True)
class Ramp:
    """From `first_beta` to `last_beta`, both ends exact.

    In equal steps ("linear") or by equal factors ("geometric").
    """

    name: Schedule
    count: int
    first_beta: float
    last_beta: float

    @property
    def coldest(self) -> float:
        """The colder end."""
        return max(self.first_beta, self.last_beta)

    def block(self, first: int, last: int) -> Tensor:
        """See `Betas`."""
        fraction = torch.arange(first, last, dtype=torch.float64) / max(self.count - 1, 1)
        if self.name == "geometric":
            betas = self.first_beta * (self.last_beta / self.first_beta) ** fraction
        else:
            betas = self.first_beta + (self.last_beta - self.first_beta) * fraction
        if last == self.count:
            betas[-1] = self.last_beta
        return betas


def listed(betas: Tensor | Sequence[float]) -> Listed:
    """Given betas, checked."""
    values = torch.as_tensor(betas, dtype=torch.float64, device="cpu").detach()
    check_finite(values)
    return Listed(values)


def schedule(
    name: Schedule | Tensor | Sequence[float], sweeps: int, beta_range: tuple[float, float]
) -> Betas:
    """A named schedule, its ends exact, or the given betas.

    Args:
        name: "geometric" or "linear", or the betas themselves.
        sweeps: number of sweeps of a named schedule.
        beta_range: first and last beta of a named schedule.

    Raises:
        ValueError: betas that are negative or not finite, a geometric schedule from 0, or one that
            depends on the problem.
    """
    if not isinstance(name, str):
        return listed(name)
    first, last = beta_range
    if name == "geometric" and not 0 < min(beta_range):
        raise ValueError(
            f"a geometric schedule needs beta_range > 0; got {beta_range}: use schedule='linear'"
        )
    check_choice("schedule", name, Schedule)
    if name == "adaptive":
        raise ValueError(
            "an adaptive schedule depends on the problem: info['betas'] of its samples holds it"
        )
    ramp = Ramp(name, sweeps, float(first), float(last))
    middle = ramp.block(sweeps // 2, sweeps // 2 + 1)
    check_finite(torch.cat([torch.tensor(beta_range), middle]))
    return ramp


def blocks(betas: Betas, longest: int = BLOCK) -> Iterator[tuple[int, Tensor]]:
    """The number of the first sweep of each block, and its betas."""
    for first in range(0, betas.count, longest):
        yield first, betas.block(first, min(first + longest, betas.count))


def check_finite(betas: Tensor) -> None:
    """ValueError unless there are betas, each of them from 0 to `COLDEST`."""
    if betas.numel() == 0 or not ((betas >= 0) & (betas < COLDEST)).all():
        raise ValueError(f"expected finite betas >= 0, at least one; got {betas[:4].tolist()}")
