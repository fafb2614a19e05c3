"""Which problem lies where: problems, gauges and copies on programmings, and their reads put together again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Layout:
    """`problems` times `gauges` slots on programmings of `copies` tiles each.

    Where slots are more than tiles, they fill programming after programming; where they are fewer,
    each slot is on several tiles of one programming, and fewer reads are needed.
    """

    problems: int
    gauges: int
    num: int  # reads wanted of each problem
    copies: int

    @property
    def slots(self) -> int:
        """Problems times gauges."""
        return self.problems * self.gauges

    @property
    def tiles(self) -> np.ndarray:
        """The slot on each tile, `[programmings, copies]`."""
        programmings = -(-self.slots // self.copies)
        return (np.arange(programmings * self.copies) % self.slots).reshape(
            programmings, self.copies
        )

    @property
    def reads(self) -> int:
        """Reads of each programming."""
        wanted = -(-self.num // self.gauges)
        return -(-wanted // max(1, self.copies // self.slots))

    def gather(self, spins: list[np.ndarray]) -> np.ndarray:
        """Reads `[copies, R, ...]` of each programming as those of each problem, `[problems, num, ...]`."""
        wanted = -(-self.num // self.gauges)
        tiles = self.tiles
        found = [[] for _ in range(self.slots)]
        for row, of in zip(tiles, spins, strict=True):
            for slot, reads in zip(row.tolist(), of, strict=True):
                found[slot].append(reads)
        slots = np.stack([np.concatenate(reads)[:wanted] for reads in found])
        return slots.reshape(self.problems, self.gauges * wanted, *slots.shape[2:])[:, : self.num]
