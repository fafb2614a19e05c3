"""Functions of numbers, each as if it stood alone."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

WHOLE = 64  # numbers of which torch takes all by vectors, whose two are 32 at most
PIECE = 1 << 14  # numbers that it leaves to one thread


def one_by_one(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """A function of each number, the same whatever stands beside it.

    On a CPU torch takes whole vectors by other instructions than the numbers left over, where a
    tensor ends or a thread's part of it does: so here pieces are whole and no thread's.

    Args:
        function: maps numbers one by one.
        t: any numbers.
    """
    if t.device.type != "cpu":
        return function(t)
    flat = t.new_zeros(-(-t.numel() // WHOLE) * WHOLE)
    flat[: t.numel()] = t.reshape(-1)
    for piece in flat.split(PIECE):
        piece.copy_(function(piece))
    return flat[: t.numel()].view(t.shape)
