"""Products with a matrix that is not copied, rounded alike however many rows they are taken of."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

SIDE = 1024  # of a block: 4 MiB, which a last-level cache holds beside the rows


class Blocks:
    r"""$v W$ and $h W^\top$ of rows v, h of 0 and 1, for a W that is as large as memory allows.

    On a CPU W is read in blocks of 1024 by 1024. The weights of a block are rounded to multiples of
    $g = 2^{-p} A$, where p are the bits of the dtype's significand and A is the least power of two
    above the largest sum of |w| over a row or a column of the block: then each sum within a block
    is exact, in whatever order BLAS takes it. The blocks' sums are added one after the other. So
    an entry of a product depends on its own row and on W alone, not on the other rows nor on the
    number of threads. Rounding moves a weight by g/2 at most, within the error bound of an ordinary
    sum. On other devices it is their own product, `wide_product`.

    Args:
        W: a matrix `[n, m]`; one of 16 bits is widened to single precision block by block.

    Raises:
        ValueError: a weight that is not finite, when a product first meets it.
    """

    def __init__(self, W: Tensor) -> None:
        self.W = W.detach()
        # of the products
        self.dtype = torch.promote_types(W.dtype, torch.float32)
        self._shift: dict[tuple[int, int], float] = {}

    def from_left(self, v: Tensor) -> Tensor:
        """The product v W, `[R, m]`; v `[R, n]` of 0 and 1, of `dtype`."""
        if self.W.device.type != "cpu":
            return wide_product(v, self.W)
        out = torch.zeros(len(v), self.W.shape[1], dtype=self.dtype)
        for rows, columns, block in self._blocks():
            out[:, columns] += v[:, rows] @ block
        return out

    def from_right(self, h: Tensor) -> Tensor:
        """The product h W', `[R, n]`; h `[R, m]` of 0 and 1, of `dtype`."""
        if self.W.device.type != "cpu":
            return wide_product(h, self.W.T)
        out = torch.zeros(len(h), self.W.shape[0], dtype=self.dtype)
        for rows, columns, block in self._blocks():
            out[:, rows] += h[:, columns] @ block.T
        return out

    def _blocks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """The rounded blocks, each in the memory of the one before."""
        n, m = self.W.shape
        memory = torch.empty(SIDE * SIDE, dtype=self.dtype)
        for i in range(0, n, SIDE):
            rows = slice(i, min(i + SIDE, n))
            for j in range(0, m, SIDE):
                columns = slice(j, min(j + SIDE, m))
                weights = self.W[rows, columns]
                block = memory[: weights.numel()].view(weights.shape)
                yield rows, columns, self._rounded(weights, (i, j), block)

    def _rounded(self, weights: Tensor, place: tuple[int, int], out: Tensor) -> Tensor:
        """A block's weights on its grid: adding 1.5 2^(p-1) g rounds to multiples of g."""
        weights = weights.to(self.dtype)
        shift = self._shift.get(place)
        if shift is None:
            shift = self._shift[place] = _shift(torch.abs(weights, out=out))
        return torch.add(weights, shift, out=out).sub_(shift)


def wide_product(v: Tensor, W: Tensor) -> Tensor:
    """The product v W of bits and weights, with sums in single precision at least.

    Where the device multiplies numbers of 16 bits they are not widened, and only sums are wide.

    Args:
        v: rows `[R, n]` of 0 and 1.
        W: a matrix `[n, m]`, not on a CPU.
    """
    if W.dtype not in (torch.bfloat16, torch.float16):
        return v.to(W) @ W
    if W.device.type == "cuda" and torch.__version__ >= "2.8":
        return torch.mm(v.to(W), W, out_dtype=torch.float32)
    return (v.to(W) @ W).to(torch.float32)  # rounded once, at the end


def _shift(sizes: Tensor) -> float:
    """The number that rounds a block's weights, of these sizes, by being added: 3 A / 4."""
    # a quarter of A is as much as the shift bears
    bounds = torch.stack([sizes.sum(0).amax(), sizes.sum(1).amax(), 4 * sizes.amax()])
    bound = float(bounds.amax())
    if not math.isfinite(bound):
        raise ValueError("W holds a weight that is not finite: expected finite numbers only")
    # the sums are rounded themselves; the least of all weights have no finer grid than they are
    least = torch.finfo(sizes.dtype).tiny / torch.finfo(sizes.dtype).eps
    _, exponent = math.frexp(max(1.001 * bound, least))
    return 0.75 * 2.0**exponent
