"""Products over the edges of a sparse graph, a block of edges at a time.

What a block computes stays in the processor's cache, and its memory serves the next block. Numbers
of all edges at once are fresh memory at each step, whose pages cost more than the arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qsample.support.transforms import is_transforming

BLOCK = 1 << 17  # numbers of a block: half a megabyte in single precision
LEAST = 8  # problems times reads: with fewer, rows are too short to be worth it


def is_plain(*tensors: Tensor) -> bool:
    """Whether products of these may go block by block: numbers on the CPU, of no derivative.

    A derivative would keep every block, a transform does not allow writing in place, a GPU is
    slower at many small products, and half precision is summed in wider numbers within a block.
    """
    if is_transforming() or torch.compiler.is_compiling():
        return False
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    wide = all(t.dtype in (torch.float32, torch.float64) for t in tensors)
    return wide and not learns and all(t.device.type == "cpu" for t in tensors)


def edge_blocks(edges: int, columns: int) -> list[slice]:
    """Ranges of edges that are computed at once.

    Args:
        edges: Number of edges.
        columns: Numbers per edge.
    """
    size = max(1, BLOCK // max(1, columns))
    return [slice(first, first + size) for first in range(0, edges, size)]


def pulls(pairs: Tensor, J: Tensor, s: Tensor) -> Tensor:
    r"""What neighbours add to local fields, $\sum_j J_{ij} s_j$, `[*B, R, n]`.

    Each spin sums the edges of which it is the first end, in their order, then those of which it is
    the second, and adds the two: rounding does not depend on the batch, nor on the way.

    Args:
        pairs: Ends of the edges, i < j, `[2, k]`, beside J.
        J: Couplings, `[*B, k]`; without batch dimensions they are shared by the batch.
        s: Spins, or their means, `[*B, R, n]`, in J's dtype.
    """
    batch = torch.broadcast_shapes(J.shape[:-1], s.shape[:-2])
    if batch.numel() * s.shape[-2] >= LEAST and is_plain(J, s):
        return _pulls_in_blocks(pairs, J, s.expand(*batch, *s.shape[-2:]))
    i, j = pairs
    J = J[..., None, :]
    on_first = J * s.index_select(-1, j)
    on_second = J * s.index_select(-1, i)
    nothing = s.new_zeros(*on_first.shape[:-1], s.shape[-1])
    return nothing.index_add(-1, i, on_first) + nothing.index_add(-1, j, on_second)


def _pulls_in_blocks(pairs: Tensor, J: Tensor, s: Tensor) -> Tensor:
    """`pulls` of numbers alone, of s with all batch dimensions."""
    *batch, R, n = s.shape
    problems = math.prod(batch)
    i, j = pairs
    if J.shape[:-1].numel() == 1:
        J = J.reshape(1, len(i))
    else:
        J = J.expand(*batch, len(i)).reshape(problems, len(i))
    sums = BlockPulls(s.reshape(problems, R, n))
    for block in edge_blocks(len(i), problems * R):
        sums.add(i[block], j[block], J[:, block].T.contiguous())
    return sums.total().reshape(s.shape)


class BlockPulls:
    """`pulls` of couplings that come block by block.

    Args:
        s: Spins, or their means, `[P, R, n]`.
    """

    def __init__(self, s: Tensor) -> None:
        # a row per spin and per edge, so that an end picks a row of all problems
        self._rows = s.permute(2, 0, 1).contiguous()
        columns = s.shape[0] * s.shape[1]
        self._of_first = self._rows.new_zeros(len(self._rows), columns)
        self._of_second = torch.zeros_like(self._of_first)

    def add(self, first: Tensor, second: Tensor, J: Tensor) -> None:
        """Take in the next edges.

        Args:
            first: Their first ends, `[e]`.
            second: Their second ends.
            J: Their couplings, `[e, P]`, or `[e, 1]` shared by the problems.
        """
        self._add(self._of_first, first, second, J[..., None])
        self._add(self._of_second, second, first, J[..., None])

    def _add(self, sums: Tensor, end: Tensor, other: Tensor, J: Tensor) -> None:
        product = self._rows.index_select(0, other).mul_(J)
        sums.index_add_(0, end, product.flatten(1))

    def total(self) -> Tensor:
        """The sums of all edges so far, `[P, R, n]`."""
        both = self._of_first + self._of_second
        return both.reshape(self._rows.shape).permute(1, 2, 0).contiguous()
