"""Products of a matrix that is not copied with rows of bits, and of such rows with few numbers."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Multiplies(Protocol):
    """What takes products of W with rows of 0 and 1."""

    @property
    def dtype(self) -> torch.dtype:
        """Of rows and products."""
        ...

    def from_left(self, v: Tensor) -> Tensor:
        """The product v W, `[R, m]`."""
        ...

    def from_right(self, h: Tensor) -> Tensor:
        """The product h W', `[R, n]`."""
        ...


class Products:
    r"""$v W$ and $h W^\top$ of rows v, h of 0 and 1, for a W that is as large as memory allows.

    On a CPU nothing is multiplied. Of each four rows of W all sixteen sums are made once, and every
    row of bits looks its own up, in the native module; W is read once, as it lies in memory, of 16
    bits or of 32. These are additions in an order that the numbers of the rows of W decide. So an
    entry of a product depends on its own row and on W alone, not on the other rows nor on the
    number of threads nor on the processor. On other devices it is their own product.

    Args:
        W: a matrix `[n, m]` of float32 or bfloat16.

    Raises:
        ValueError: a weight that is not finite, when a product meets it.
    """

    dtype = torch.float32  # of bits and products

    def __init__(self, W: Tensor) -> None:
        W = W.detach()
        self.W = W if W.device.type != "cpu" or W.stride(1) == 1 else W.contiguous()

    def from_left(self, v: Tensor, out: Tensor | None = None) -> Tensor:
        """The product v W, `[R, m]`; v `[R, n]` of 0 and 1, of `dtype`.

        Args:
            v: the bits.
            out: where the product goes, contiguous; None makes a new tensor.
        """
        if self.W.device.type != "cpu":
            product = wide_product(v, self.W)
            return product if out is None else out.copy_(product)
        return self._looked_up(v, self.W.shape[1], transposed=False, out=out)

    def from_right(self, h: Tensor) -> Tensor:
        """The product h W', `[R, n]`; h `[R, m]` of 0 and 1, of `dtype`."""
        if self.W.device.type != "cpu":
            return wide_product(h, self.W.T)
        return self._looked_up(h, self.W.shape[0], transposed=True)

    def _looked_up(
        self, bits: Tensor, width: int, transposed: bool, out: Tensor | None = None
    ) -> Tensor:
        from qsample.annealers._engine import bit_product

        bits = bits.detach().to(torch.float32).contiguous()
        if out is None:
            out = bits.new_empty(len(bits), width)
        if not bit_product(words(self.W), bits, out, transposed, torch.get_num_threads()):
            raise ValueError(
                "W holds a weight that is not finite, or weights whose sum is not: expected finite "
                "numbers only"
            )
        return out


def add_outer(into: Tensor, x: Tensor, p: Tensor, keep: float = 1.0, times: float = 1.0) -> None:
    r"""Into becomes keep into + times $x^\top p$, in place, in one pass over it.

    Args:
        into: a contiguous matrix `[n, m]` of float32 or bfloat16; where `keep` is 0 it need not
            hold numbers.
        x: rows `[K, n]` of 0 and 1, of float32.
        p: rows `[K, m]`, of float32.
        keep: factor of what is there.
        times: factor of the product.
    """
    if into.device.type != "cpu":
        _add_elsewhere(into, x, p, keep, times)
        return
    from qsample.annealers._engine import add_outer as add

    x = x.detach().contiguous()
    p = p.detach().contiguous()
    add(words(into), x, p, keep, times, torch.get_num_threads())


def _add_elsewhere(into: Tensor, x: Tensor, p: Tensor, keep: float, times: float) -> None:
    """As `add_outer`, by a product of the device's own, with sums in single precision."""
    if into.dtype == torch.bfloat16:
        # units are exact in 16 bits; two numbers of them hold 16 bits of a probability
        head = p.to(into)
        x = x.to(into).repeat(2, 1)
        p = torch.cat([head, (p - head).to(into)])
    into.addmm_(x.T, p, beta=keep, alpha=times)


def words(W: Tensor) -> Tensor:
    """A matrix as the native module takes it, which has no bfloat16: of its words.

    It is handed over as it is, as `Tensor.numpy` forbids its storage ever to be resized, which
    FSDP does.
    """
    W = W.detach()
    return W.view(torch.int16) if W.dtype == torch.bfloat16 else W


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
