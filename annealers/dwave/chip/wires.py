"""Complete bipartite graphs on a chip: wires along y crossed by wires along x, around defects.

The idea is that of Boothby, King and Roy (arXiv:1507.04774): in a window of the lattice every wire
of one direction crosses every wire of the other, so that each variable is one wire cut to the
window.
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
        lines: the line of each run, for the runs along y and for those along x.
        crossing: `[runs along y, runs along x, 2]`, places in `qubits` where two runs are coupled,
            or -1.
        per_line: number of runs of a line without defects.
    """

    qubits: np.ndarray
    lines: tuple[np.ndarray, np.ndarray]
    crossing: np.ndarray
    per_line: int

    @staticmethod
    def of(chip: Chip) -> Wires:
        """The wires of a chip with a known lattice."""
        assert chip.lattice is not None
        # on Zephyr, qubits two apart on a line are coupled without a third between them: each line
        # is two wires
        step = 2 if chip.topology == "zephyr" else 1
        u, w, k, p = chip.lattice.coordinates(chip.nodes)
        # qubits of one wire in a row, a run where each is coupled to the next
        order = np.lexsort([p, p % step, k, w, u])
        qubits = chip.nodes[order]
        key = np.stack([u, w, k, p % step])[:, order]
        p = p[order]
        joined = (key[:, 1:] == key[:, :-1]).all(0) & (np.diff(p) == step)
        joined &= chip.coupled(np.stack([qubits[1:], qubits[:-1]], 1))
        start = np.concatenate([[True], ~joined])
        run = start.cumsum() - 1
        # couplers between the two directions, the qubit along y first
        direction = key[0]
        number_y = int((start & (direction == 0)).sum())
        place = np.zeros(chip.span, dtype=np.int64)
        place[qubits] = np.arange(len(qubits))
        ends = place[chip.edges]
        ends = ends[direction[ends[:, 0]] != direction[ends[:, 1]]]
        ends = np.take_along_axis(ends, direction[ends].argsort(1), 1)
        crossing = np.full((number_y, int(start.sum()) - number_y, 2), -1)
        crossing[run[ends[:, 0]], run[ends[:, 1]] - number_y] = ends
        lines = key[1, start]
        per_line = 12 if chip.topology == "pegasus" else step * chip.lattice.shape[-1]
        return Wires(qubits, (lines[:number_y], lines[number_y:]), crossing, per_line)

    def bipartite(self, n: int, m: int, deadline: float) -> tuple[tuple[int, ...], ...] | None:
        """Chains of n and m variables in the smallest window that holds them; None without one.

        Of the windows of that size the one with the shortest chains.

        Args:
            n: number of variables of the first side.
            m: number of variables of the second side.
            deadline: when to stop, on the monotonic clock, in seconds.
        """
        columns = int(self.lines[0].max(initial=-1)) + 1
        rows = int(self.lines[1].max(initial=-1)) + 1
        for extra in range(max(columns, rows)):
            candidates = []
            for along_y, along_x in {(n, m), (m, n)}:
                width = min(math.ceil(along_y / self.per_line) + extra, columns)
                height = min(math.ceil(along_x / self.per_line) + extra, rows)
                for x, y in _corners(columns - width, rows - height):
                    if time.monotonic() > deadline:
                        return None
                    chains = self._window((x, x + width), (y, y + height), along_y, along_x)
                    if chains is None:
                        continue
                    if along_y != n:  # the sides lie the other way round
                        chains = chains[along_y:] + chains[:along_y]
                    candidates.append(chains)
            if candidates:
                return min(
                    candidates, key=lambda chains: (max(map(len, chains)), sum(map(len, chains)))
                )
        return None

    def _window(
        self, x: tuple[int, int], y: tuple[int, int], along_y: int, along_x: int
    ) -> tuple[tuple[int, ...], ...] | None:
        """Chains of runs that all cross each other; None where the window has too few.

        Args:
            x: first line along y of the window, and the one after its last.
            y: first line along x of the window, and the one after its last.
            along_y: number of runs along y.
            along_x: number of runs along x.
        """
        rows = np.flatnonzero((self.lines[0] >= x[0]) & (self.lines[0] < x[1]))
        columns = np.flatnonzero((self.lines[1] >= y[0]) & (self.lines[1] < y[1]))
        # runs go until no crossing is missing
        misses = self.crossing[rows[:, None], columns, 0] < 0
        while True:
            if len(rows) < along_y or len(columns) < along_x:
                return None
            by_row = misses.sum(1)
            by_column = misses.sum(0)
            if not by_row.any():
                break
            # the run that misses most crossings goes, of its kind all that miss more than half
            if by_row.max() * len(rows) >= by_column.max() * len(columns):
                kept = by_row < min(by_row.max(), len(columns) / 2)
                rows = rows[kept]
                misses = misses[kept]
            else:
                kept = by_column < min(by_column.max(), len(rows) / 2)
                columns = columns[kept]
                misses = misses[:, kept]
        # each run is cut to its outermost crossings
        places = self.crossing[rows[:along_y, None], columns[:along_x]]
        low_y = places[..., 0].min(1)
        high_y = places[..., 0].max(1)
        low_x = places[..., 1].min(0)
        high_x = places[..., 1].max(0)
        ends = zip(np.concatenate([low_y, low_x]), np.concatenate([high_y, high_x]), strict=True)
        return tuple(tuple(self.qubits[low : high + 1].tolist()) for low, high in ends)


def _corners(right: int, up: int) -> Iterator[tuple[int, int]]:
    """The lower left corners of all windows, row by row."""
    return ((x, y) for y in range(up + 1) for x in range(right + 1))
