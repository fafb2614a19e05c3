"""Bennett's acceptance ratio: log Z along neighbours of a path from reads of both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STEPS = 60  # of Newton's method, each held inside a shrinking interval


@dataclass(frozen=True, eq=False)
class Ratio:
    """Log Z of the last of K laws over that of the first.

    Attributes:
        value: the log ratio.
        influence: what each of the N ladders adds to it, `[N]`: deviations of mean 0, whose
            variance over N is that of the value.
    """

    value: float
    influence: Tensor

    @property
    def stderr(self) -> float:
        """Standard error of the value: the ladders are independent."""
        return float(self.influence.std()) / len(self.influence) ** 0.5


def log_ratio(forward: Tensor, backward: Tensor) -> Ratio:
    r"""$\log Z_K / Z_1$ by Bennett's ratio between neighbours (J. Comput. Phys. 22, 1976).

    With $F = \log q_{k+1}(x)/q_k(x)$ of reads of law k and $G = \log q_k(y)/q_{k+1}(y)$ of reads of
    law k + 1, as many of both, $\Delta_k = \log Z_{k+1}/Z_k$ solves

    $$\sum \sigma(F - \Delta_k) = \sum \sigma(G + \Delta_k),$$

    and the values add up. Reads of one ladder are correlated, over time and over levels, so the
    error is that of the means of N independent ladders (the delta method's jackknife).

    Args:
        forward: F of T reads of N ladders at K - 1 levels, `[T, K - 1, N]` float64.
        backward: G of the level above, likewise.
    """
    delta = (forward.mean((0, 2)) - backward.mean((0, 2))) / 2
    spread = torch.stack([forward.abs().amax((0, 2)), backward.abs().amax((0, 2))]).amax(0) + 1
    low = -spread
    high = spread.clone()
    for _ in range(STEPS):
        accept_up = torch.sigmoid(forward - delta[:, None])
        accept_down = torch.sigmoid(backward + delta[:, None])
        excess = accept_up.mean((0, 2)) - accept_down.mean((0, 2))
        low = torch.where(excess > 0, delta, low)
        high = torch.where(excess > 0, high, delta)
        slope = _slope(accept_up) + _slope(accept_down)
        step = delta + excess / slope.clamp_min(1e-300)
        inside = (step > low) & (step < high)
        following = torch.where(inside, step, (low + high) / 2)
        if float((following - delta).abs().max()) < 1e-10:
            break
        delta = following
    accept_up = torch.sigmoid(forward - delta[:, None])
    accept_down = torch.sigmoid(backward + delta[:, None])
    slope = _slope(accept_up) + _slope(accept_down)
    excess = accept_up.mean(0) - accept_down.mean(0)  # [K - 1, N]
    influence = (excess / slope.clamp_min(1e-300)[:, None]).sum(0)
    return Ratio(float(delta.sum()), influence)


def _slope(accept: Tensor) -> Tensor:
    return (accept * (1 - accept)).mean((0, 2))
