r"""Products with the columns of W that one rank holds, with the bits that all of W would give.

A weight is rounded to a multiple of one unit $g = 2^{-24} A$, where A is the least power of two
above any sum of |w| over 1024 rows of a column, or over 1024 columns of a row (rows and columns
counted from multiples of 1024, through all ranks). So sums within such a piece are exact in single
precision, and what ranks add up are whole numbers, exact in any order: neither the number of ranks
nor that of threads changes a bit of a field. A is of exact sums itself, of |w| rounded up to 13
bits. Rounding moves a weight by g/2 at most, which is within the error bound of an ordinary sum of
the piece with the largest weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qsample.learning.distributed import ALONE, Ranks, Summed, add_over_ranks

SIDE = 1024  # of a piece: 4 MiB, which a last-level cache holds beside the rows
BITS = 24  # of single precision's significand
ABOVE = 13  # bits of a weight, rounded up, in the bound: 1024 of them add up exactly
LOWEST = 2.0**-90  # sums of weights that count as nothing
HIGHEST = 2.0**126
MOST = 1 << 17  # hidden units whose fields are whole numbers of 32 bits


class Place(NamedTuple):
    """What one rank has of a run.

    Args:
        chains: ranks with the same hidden units, between which chains are spread.
        hidden: ranks with the same chains, between which hidden units are spread.
        first: number of this rank's first hidden unit, among the hidden ones.
        total: hidden units of all ranks.
    """

    chains: Ranks
    hidden: Ranks = ALONE
    first: int = 0
    total: int = 0


class Columns:
    """Products of rows of 0 and 1 with W, of which this rank has some columns; see the module.

    Args:
        W: the columns, `[n, m / ranks]` float32.
        place: where they belong.

    Raises:
        ValueError: a weight that is not finite, on every rank.
    """

    dtype = torch.float32

    def __init__(self, W: Tensor, place: Place) -> None:
        self.W = W.detach()
        self.place = place
        bound = self._bound()
        if not bound < HIGHEST:
            raise ValueError(
                "W holds a weight that is not finite, or sums beyond 2^126: expected finite numbers"
            )
        _, exponent = math.frexp(bound)
        self.unit = 2.0 ** (exponent - BITS)
        # being added and taken away again, it rounds to multiples of the unit
        self._shift = 1.5 * 2.0 ** (exponent - 1)
        total = place.total or W.shape[1]
        self._several = total > SIDE
        self._only: tuple[slice, slice, Tensor] | None = None
        self._whole = torch.int32 if total <= MOST else torch.int64

    def from_left(self, v: Tensor) -> Tensor:
        """The product v W, `[R, m / ranks]`; v `[R, n]` of 0 and 1."""
        n, m = self.W.shape
        # one piece is exact as it is, several are in double precision
        dtype = torch.float32 if n <= SIDE else torch.float64
        out = v.new_zeros(len(v), m, dtype=dtype)
        for rows, columns, block in self._blocks():
            out[:, columns] += v[:, rows] @ block
        return out.to(torch.float32)

    def from_right(self, h: Tensor) -> Summed:
        """The product h W' of all ranks, `[R, n]`, on its way; `values` makes it single precision.

        Of several pieces it is whole numbers of units, one is exact as it is.

        Args:
            h: this rank's hidden units `[R, m / ranks]`, of 0 and 1.
        """
        if not self._several:
            out = h.new_empty(len(h), self.W.shape[0])
            for rows, _, block in self._blocks():
                out[:, rows] = h @ block.T
            return Summed(out, self.place.hidden)
        out = h.new_zeros(len(h), self.W.shape[0], dtype=self._whole)
        for rows, columns, block in self._blocks():
            out[:, rows] += (h[:, columns] @ block.T).mul_(1 / self.unit).to(self._whole)
        return Summed(out, self.place.hidden)

    def values(self, whole: Tensor) -> Tensor:
        """A product in single precision, rounded once."""
        if not self._several:
            return whole
        return (whole.to(torch.float64) * self.unit).to(torch.float32)

    # ---- pieces ----------------

    def _pieces(self) -> Iterator[tuple[slice, slice]]:
        """Rows, and this rank's columns, of each piece."""
        n, m = self.W.shape
        first = self.place.first
        edges = [0, *range(SIDE - first % SIDE, m, SIDE), m]
        for i in range(0, n, SIDE):
            for left, right in zip(edges, edges[1:], strict=False):
                yield slice(i, min(i + SIDE, n)), slice(left, right)

    def _blocks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """The rounded pieces, each in the memory of the one before; one that is all stays."""
        if self._only is not None:
            yield self._only
            return
        memory = self.W.new_empty(SIDE * SIDE)
        for rows, columns in self._pieces():
            weights = self.W[rows, columns]
            block = memory[: weights.numel()].view(weights.shape)
            torch.add(weights, self._shift, out=block).sub_(self._shift)
            if weights.shape == self.W.shape:
                self._only = rows, columns, block
            yield rows, columns, block

    def _bound(self) -> float:
        """The largest of all ranks' sums of |w| over a piece's rows or columns."""
        n, m = self.W.shape
        place = self.place
        low, high = torch.aminmax(self.W)
        # a backend may take any number for larger than NaN
        own = torch.maximum(-low, high).nan_to_num(math.inf)
        largest = float(Summed(own, place.hidden, largest=True).wait())
        if not LOWEST < largest < HIGHEST:
            return max(largest, LOWEST)
        step = 2.0 ** (math.frexp(largest)[1] - ABOVE)
        total = place.total or m
        # of the rows, a rank may have some columns of a piece only
        of_rows = self.W.new_zeros(math.ceil(total / SIDE), n)
        of_columns = self.W.new_zeros(1)
        memory = self.W.new_empty(SIDE * SIDE)
        for rows, columns in self._pieces():
            weights = self.W[rows, columns]
            sizes = torch.abs(weights, out=memory[: weights.numel()].view(weights.shape))
            sizes.mul_(1 / step).ceil_()
            of_rows[(place.first + columns.start) // SIDE, rows] += sizes.sum(1)
            torch.maximum(of_columns, sizes.sum(0).amax(), out=of_columns)
        add_over_ranks(of_rows, place.hidden)
        torch.maximum(of_columns, of_rows.amax(), out=of_columns)
        Summed(of_columns, place.hidden, largest=True).wait()
        # four times the largest weight: as much as the shift bears
        return max(float(of_columns) * step, 4 * largest)
