"""Complete bipartite graphs on a chip: wires along y crossed by wires along x, around defects.

The idea is that of Boothby, King and Roy (arXiv:1507.04774): in a window of the lattice every wire of one direction
crosses every wire of the other, so that each variable is one wire cut to the window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qsample.annealers.dwave.chip.chip import Chip


@dataclass(frozen=True, eq=False)
class Wires:
    """The unbroken runs of coupled qubits along the lines of a lattice, and where they cross.

    Args:
        qubits: numbers of all qubits, run after run in the order of the line.
        lines: for each direction (along y, along x) the line of each run.
        crossing: [runs along y, runs along x, 2] places in `qubits` where two runs are coupled, or -1.
        per_line: runs of a line without defects.
    """

    qubits: np.ndarray
    lines: tuple[np.ndarray, np.ndarray]
    crossing: np.ndarray
    per_line: int

    @staticmethod
    def of(chip: Chip) -> Wires:
        """The wires of a chip with a known lattice."""
        assert chip.lattice is not None
        # on Zephyr, qubits two apart on a line are coupled without a third between them: two wires a line
        step = 2 if chip.topology == "zephyr" else 1
        u, w, k, p = chip.lattice.coordinates(chip.nodes)
        order = np.lexsort([p, p % step, k, w, u])
        qubits, key, p = chip.nodes[order], np.stack([u, w, k, p % step])[:, order], p[order]
        joined = (key[:, 1:] == key[:, :-1]).all(0) & (np.diff(p) == step)
        joined &= chip.coupled(np.stack([qubits[1:], qubits[:-1]], 1))
        start = np.concatenate([[True], ~joined])
        run, direction = start.cumsum() - 1, key[0]
        number_y = int((start & (direction == 0)).sum())
        place = np.zeros(chip.span, dtype=np.int64)
        place[qubits] = np.arange(len(qubits))
        ends = place[chip.edges]
        ends = ends[direction[ends[:, 0]] != direction[ends[:, 1]]]
        ends = np.take_along_axis(ends, direction[ends].argsort(1), 1)  # along y first
        crossing = np.full((number_y, int(start.sum()) - number_y, 2), -1)
        crossing[run[ends[:, 0]], run[ends[:, 1]] - number_y] = ends
        lines = key[1, start]
        thick = 12 if chip.topology == "pegasus" else step * chip.lattice.shape[-1]
        return Wires(qubits, (lines[:number_y], lines[number_y:]), crossing, thick)

    def bipartite(self, n: int, m: int, deadline: float) -> tuple[tuple[int, ...], ...] | None:
        """Chains of n and m variables in the smallest window that holds them, the shortest of that size; or None."""
        across, along = (int(line.max(initial=-1)) + 1 for line in self.lines)
        for extra in range(max(across, along)):
            found = []
            for along_y, along_x in {(n, m), (m, n)}:
                wide, high = (min(math.ceil(count / self.per_line) + extra, most)
                              for count, most in ((along_y, across), (along_x, along)))  # fmt: skip
                for x, y in _corners(across - wide, along - high):
                    if time.monotonic() > deadline:
                        return None
                    chains = self._window((x, x + wide), (y, y + high), along_y, along_x)
                    if chains is not None:
                        found.append(chains if along_y == n else chains[along_y:] + chains[:along_y])
            if found:
                return min(found, key=lambda chains: (max(map(len, chains)), sum(map(len, chains))))
        return None

    def _window(
        self, x: tuple[int, int], y: tuple[int, int], along_y: int, along_x: int
    ) -> tuple[tuple[int, ...], ...] | None:
        """Chains of as many runs as asked for, all crossing each other, on lines x[0] <= x < x[1] and so for y."""
        rows, columns = (
            np.flatnonzero((line >= low) & (line < high)) for line, (low, high) in zip(self.lines, (x, y), strict=True)
        )
        misses = self.crossing[rows[:, None], columns, 0] < 0
        while True:
            if len(rows) < along_y or len(columns) < along_x:
                return None
            by_row, by_column = misses.sum(1), misses.sum(0)
            if not by_row.any():
                break
            # the run that misses the most goes, of its kind all that miss more than half
            if by_row.max() * len(rows) >= by_column.max() * len(columns):
                kept = by_row < min(by_row.max(), len(columns) / 2)
                rows, misses = rows[kept], misses[kept]
            else:
                kept = by_column < min(by_column.max(), len(rows) / 2)
                columns, misses = columns[kept], misses[:, kept]
        places = self.crossing[rows[:along_y, None], columns[:along_x]]
        low_y, high_y = places[..., 0].min(1), places[..., 0].max(1)
        low_x, high_x = places[..., 1].min(0), places[..., 1].max(0)
        ends = zip(np.concatenate([low_y, low_x]), np.concatenate([high_y, high_x]), strict=True)
        return tuple(tuple(self.qubits[low : high + 1].tolist()) for low, high in ends)


def _corners(right: int, up: int) -> Iterator[tuple[int, int]]:
    return ((x, y) for y in range(up + 1) for x in range(right + 1))
