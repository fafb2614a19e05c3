"""Functions of numbers, each as if it stood alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
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
    flat = t.reshape(-1)
    if t.numel() % WHOLE:
        flat = torch.nn.functional.pad(flat, (0, WHOLE - t.numel() % WHOLE))
    out = torch.empty_like(flat)
    for piece, of_piece in zip(flat.split(PIECE), out.split(PIECE), strict=True):
        of_piece.copy_(function(piece))
    return out[: t.numel()].view(t.shape)
