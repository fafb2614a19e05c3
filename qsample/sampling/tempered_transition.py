"""One tempered transition: up a ladder of temperatures and down again, as one move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor


def check_ladder(betas: Sequence[float]) -> None:
    """ValueError unless the betas fall from 1 to 0 or above."""
    falling = all(cold > hot >= 0 for cold, hot in pairwise(betas))
    if len(betas) < 2 or betas[0] != 1 or not falling:
        raise ValueError(f"expected betas 1 = b_0 > b_1 > ... >= 0; got {list(betas)[:8]}")


def tempered_transition(
    betas: Sequence[float], E: Tensor, move: Callable[[float], Tensor]
) -> tuple[Tensor, Tensor]:
    r"""Moves chains up and down a ladder; the log acceptance ratio, and its part from the way up.

    Neal, Stat. Comput. 6, 1996: with $1 = b_0 > b_1 > \dots > b_L$ the chain moves at $b_1, \dots,
    b_L$ and then at $b_L, \dots, b_1$. With $x_l$ the states between the moves at $b_l$ and
    $b_{l+1}$ the end is accepted with the log ratio

    $$\sum_l (b_l - b_{l+1})\,\big(E(x_l^{\mathrm{up}}) - E(x_l^{\mathrm{down}})\big)$$

    if the moves are reversible.

    Args:
        betas: $b_0$ to $b_L$.
        E: energies at b = 1 of where the round begins, any shape.
        move: moves the chains at an inverse temperature; returns their energies at b = 1.

    Returns:
        The sum, and its first half $\sum_l (b_l - b_{l+1})\,E(x_l^{\mathrm{up}})$, like E.
    """
    steps = list(pairwise(betas))
    log_ratio = torch.zeros((), dtype=torch.float64)
    for cold, hot in steps:
        log_ratio = log_ratio + (cold - hot) * E
        E = move(hot)
    log_weight = log_ratio
    for cold, hot in reversed(steps):
        E = move(hot)
        log_ratio = log_ratio - (cold - hot) * E
    return log_ratio, log_weight
