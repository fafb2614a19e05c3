"""Which spins of a graph a model shows and which it hides: a value, the same on every device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.problem.graph import Clamping, Graph
from qsample.support.faces import public


@public("qsample.models")
class FixedIndex:
    """Numbers of a module's structure, int64 `[k]`, on whatever device its parameters are.

    No buffer: what casts, averages, broadcasts or empties buffers
    (`AveragedModel(use_buffers=True)`, `DistributedDataParallel`, `to_empty`) must leave them as
    they are. Copies of a module share them.
    """

    def __init__(self, values: Sequence[int]) -> None:
        with torch.inference_mode(False):  # autograd may keep them
            self.cpu = torch.tensor(list(values), dtype=torch.int64, device="cpu")
        self._elsewhere: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """The numbers on a device."""
        if device.type == "cpu":
            return self.cpu
        if device not in self._elsewhere:
            with torch.inference_mode(False):
                self._elsewhere[device] = self.cpu.to(device)
        return self._elsewhere[device]

    def __deepcopy__(self, memo: dict[int, object]) -> FixedIndex:
        return self

    def __len__(self) -> int:
        return len(self.cpu)


@public("qsample.models")
@dataclass(frozen=True, eq=False)
class Units:
    """The visible and the hidden spins of a graph, both ascending, as a clamp leaves them.

    Args:
        visible: numbers of the visible spins.
        hidden: numbers of the hidden ones.
        order: where each spin stands in (visible, hidden), so that `cat([x, hidden])[order]` are
            joint spins.
        given: what remains of the graph when the visible spins are fixed.
        ranges: both as slices where they are neighbours, which are read without gathering.
    """

    visible: FixedIndex
    hidden: FixedIndex
    order: FixedIndex
    given: Clamping
    ranges: tuple[slice | None, slice | None]

    @staticmethod
    def of(graph: Graph, hidden: Tensor) -> Units:
        """The hidden spins by number; all others are visible."""
        with torch.device("cpu"), torch.inference_mode(False):
            latent = sorted(hidden.tolist())
            shown = sorted(set(range(graph.num_spins)) - set(latent))
            place = {spin: k for k, spin in enumerate([*shown, *latent])}
            order = [place[spin] for spin in range(graph.num_spins)]
            visible = FixedIndex(shown)
            given = graph.without(visible.cpu)
        ranges = _range(shown), _range(latent)
        return Units(visible, FixedIndex(latent), FixedIndex(order), given, ranges)

    def __deepcopy__(self, memo: dict[int, object]) -> Units:
        return self


def _range(numbers: Sequence[int]) -> slice | None:
    """Ascending numbers as a slice, where they are neighbours."""
    first = numbers[0] if numbers else 0
    span = range(first, first + len(numbers))
    return slice(span.start, span.stop) if list(span) == list(numbers) else None
