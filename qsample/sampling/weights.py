"""Importance weights: what they are worth, what they add up to, and reads drawn by them.

Sums go from left to right, so that they are rounded alike for any batch and thread count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.problem.ising import Ising


def ordered_sum(x: Tensor) -> Tensor:
    """The sum over the last dimension, from left to right."""
    return x.cumsum(-1)[..., -1]


def log_mean_exp(x: Tensor) -> Tensor:
    """Log of the mean of exp(x) over the last dimension."""
    top = x.amax(-1, keepdim=True)
    mean = ordered_sum((x - top).exp()) / x.shape[-1]
    return mean.log() + top[..., 0]


def relative_error(x: Tensor) -> Tensor:
    """The standard error of the mean of independent exp(x), over that mean; last dimension."""
    ratio = (x - log_mean_exp(x)[..., None]).exp()
    count = x.shape[-1]
    return (ordered_sum((ratio - 1).square()) / ((count - 1) * count)).sqrt()


def effective_fraction(x: Tensor) -> Tensor:
    r"""The effective sample size of weights exp(x) over their number N, last dimension.

    $(\sum w)^2 / (N \sum w^2)$ (Kong 1992): 1 where all are equal, 1/N where one has it all.
    """
    w = (x - x.amax(-1, keepdim=True)).exp()
    return ordered_sum(w).square() / ordered_sum(w.square()) / x.shape[-1]


def as_log_weight(log_w: Tensor, problem: Ising) -> Tensor:
    """Log-weights `[P, R]` as `Samples` holds them, `[*B, R]`: the largest of each problem is 0.

    So few digits tell them apart. They are in single precision at least: in 8 bits a weight of
    e^-10 would be 3 % off.
    """
    dtype = torch.promote_types(problem.dtype, torch.float32)
    relative = log_w - log_w.amax(-1, keepdim=True)
    return relative.to(problem.device, dtype).reshape(*problem.batch_shape, -1)


def systematic(weight: Tensor, u: Tensor, num: int) -> Tensor:
    r"""Places `[..., num]` of the reads that systematic resampling keeps.

    Points $(i + u) / \mathrm{num}$ of the cumulative sum: read r is kept $\mathrm{num}\, w_r / \sum
    w$ times on average, and no further from that than one (Kitagawa, J. Comput. Graph. Stat. 5,
    1996).

    Args:
        weight: weights `[..., R]` >= 0, of any sum, in double precision.
        u: one uniform number per row, `[..., 1]`.
        num: reads to keep.
    """
    total = weight.cumsum(-1)
    step = torch.arange(num, dtype=weight.dtype, device=weight.device)
    points = (step + u) / num * total[..., -1:]
    # right=True: a point on a boundary never picks a read of weight zero
    return torch.searchsorted(total, points, right=True).clamp_max(weight.shape[-1] - 1)
