"""Sweeps over a bipartite problem (an RBM): one matrix product for each side."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import Precision, Rule, draw
from qsample.problem.ising import Ising


class Bipartite:
    r"""The right side (hidden units) is updated first, then the left.

    With bits b = (1 + s)/2 the logit of a left bit is $-2 f = -2(h - J 1) - 4 J b$, linear in the
    right side's bits. The weights -4 J lie on a grid (see `on_grid`), so that a product is the same
    for any batch and thread count, and problems that share J are one product, however many they
    are.

    Args:
        problem: P problems, in the dtype to work in.
        spins: where to start, `[P, R, n + m]`.
        streams: randomness, one stream per problem.
        precision: "bfloat16" rounds the factors of the products.
    """

    groups = 2

    def __init__(
        self, problem: Ising, spins: Tensor, streams: Streams, precision: Precision
    ) -> None:
        self.streams = streams
        self.sizes = problem.graph.sizes
        self.rule: Rule = "gibbs"
        kind = torch.bfloat16 if precision == "bfloat16" else problem.dtype
        flat = problem.flat()
        h_left, h_right = flat.h.split(self.sizes, -1)
        weight = on_grid(-4 * flat.J)
        rounded = weight.to(kind).contiguous()
        # by side: 0 is the left, 1 the right
        self.weight = {0: rounded.mT, 1: rounded}
        self.bias = {
            0: (weight.sum(-1) / -2 - 2 * h_left)[:, None],
            1: (weight.sum(-2) / -2 - 2 * h_right)[:, None],
        }
        left, right = spins.split(self.sizes, -1)
        self.bits = {
            0: (left > 0).to(kind).contiguous(),
            1: (right > 0).to(kind).contiguous(),
        }
        self.native = problem.device.type == "cpu" and problem.dtype == torch.float32
        self.product = {side: torch.empty_like(bits) for side, bits in self.bits.items()}

    def update(self, group: int, beta: float | Tensor) -> None:
        """Redraw the right side (group 0) or the left (group 1) given the other."""
        side = 1 - group
        if self.sizes[side] == 0:
            return
        weight = self.weight[side]
        other = self.bits[1 - side]
        product = self.product[side]
        if len(weight) == 1:
            torch.mm(other.flatten(0, 1), weight[0], out=product.flatten(0, 1))
        else:
            torch.bmm(other, weight, out=product)
        if self.native:
            self.draw(side, beta)
            return
        scale = beta[..., None] if isinstance(beta, Tensor) else beta
        logits = (product + self.bias[side]).mul_(scale)
        u = self.streams.uniform(*logits.shape[1:])
        draw(logits, u, self.bits[side], self.rule, self.bits[side])

    def draw(self, side: int, beta: float | Tensor) -> None:
        """From products to bits in one native pass: bias, temperature, sigmoid and comparison."""
        from qsample.annealers._engine import draw_bits

        words = torch.int16 if self.product[side].dtype == torch.bfloat16 else torch.float32
        if isinstance(beta, Tensor):
            betas = beta.flatten().numpy()
        else:
            betas = np.array([beta], dtype=np.float32)
        draw_bits(
            self.product[side].flatten(0, 1).view(words).numpy(),
            self.bits[side].flatten(0, 1).view(words).numpy(),
            self.bias[side].flatten(0, 1).numpy(),
            betas,
            self.streams.seeds,
            self.streams.passes,
            side * self.sizes[0],
            self.rule == "metropolis",
            threads=torch.get_num_threads(),
        )
        self.streams.passes += 1

    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8."""
        return torch.cat([self.bits[0], self.bits[1]], -1).to(torch.int8).mul_(2).sub_(1)


def on_grid(weight: Tensor) -> Tensor:
    """Weights `[P, n, m]` as multiples of g = 2^-p M.

    M is the power of two over their largest row or column sum of |w|. With p the bits of the
    dtype's significand, sums of such weights are exact in any order, so they do not depend on how a
    matrix product goes about it (batch, threads, alignment). The rounding, at most g/2 per weight,
    is within the error bound of an ordinary sum in that dtype.
    """
    if weight.numel() == 0:
        return weight
    size = weight.abs()
    largest = torch.maximum(size.sum(-1).amax(-1), size.sum(-2).amax(-1))[:, None, None]
    dtype = torch.finfo(weight.dtype)
    p = 1 - round(math.log2(dtype.eps))
    # largest < 2^exponent, with room for its own rounding
    exponent = torch.frexp(largest).exponent + 1
    grid = torch.ldexp(torch.ones_like(largest), exponent - p).clamp_min(dtype.tiny)
    return (weight / grid).round_().mul_(grid)
