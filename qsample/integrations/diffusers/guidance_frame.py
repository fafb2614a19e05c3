"""Noise made of spins: in blocks of coordinates a rotation of random signs stands for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qsample.sampling.random import Draws


def walsh_hadamard(x: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """H x for Sylvester's Hadamard matrix H, in K log2 K sums and differences.

    H is symmetric and H H = K.
    """
    K = x.shape[-1]
    for width in (1 << k for k in range(K.bit_length() - 1)):
        a, b = x.unflatten(-1, (-1, 2, width)).unbind(-2)
        x = torch.stack([a + b, a - b], -2).flatten(-3)
    return x


@dataclass(frozen=True, eq=False)
class Frame:
    r"""Where spins become noise: blocks of K coordinates.

    Each has $z_{block} = \mathrm{diag}(\epsilon)\,H s/\sqrt K$, and $D = \mathrm{diag}(\epsilon)\,
    H/\sqrt K$ is orthogonal: uniform s give z of mean 0, covariance 1 and length $\sqrt K$. The
    signs $\epsilon$ stand on the side of the pixels. There they make the mean of a block, whose
    kurtosis is $3 - 6/K + 4/K^2$, nearly Gaussian; on the side of s, uniform already, they would do
    nothing, and that mean would be $\pm 1/\sqrt K$, of kurtosis 1.

    Args:
        sites: different coordinates of each item, block after block, `[B, n]`, n = blocks K.
        signs: the $\epsilon$ of each, `[B, n]`.
        K: number of coordinates of a block.
    """

    sites: Int[Tensor, "B n"]
    signs: Float[Tensor, "B n"]
    K: int

    @staticmethod
    def draw(draws: Draws, d: int, K: int, blocks: int) -> Frame:
        """Blocks and signs at random, uniformly.

        Args:
            draws: a stream of random numbers per item.
            d: number of coordinates of an item.
            K: number of coordinates of a block.
            blocks: number of blocks.
        """
        sites = draws.subsets(1, K * blocks, d)[:, 0]
        return Frame(sites, draws.spins(K * blocks).float(), K)

    def noise(self, s: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """D s: the noise at the sites; linear in s."""
        turned = walsh_hadamard(s.unflatten(-1, (-1, self.K))).flatten(-2)
        return self.signs.to(s) * turned / self.K**0.5

    def spins(self, z: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """The s of `noise`: D's transpose is its inverse."""
        blocks = (self.signs.to(z) * z).unflatten(-1, (-1, self.K))
        return walsh_hadamard(blocks).flatten(-2) / self.K**0.5
