"""Noise made of spins: blocks of coordinates whose Gaussian noise is replaced by a rotation of random signs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from qsample.sampling.random import Draws


def walsh_hadamard(x: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """H x for Sylvester's Hadamard matrix H (symmetric, H H = K), in K log2 K sums and differences."""
    K = x.shape[-1]
    for width in (1 << k for k in range(K.bit_length() - 1)):
        a, b = x.unflatten(-1, (-1, 2, width)).unbind(-2)
        x = torch.stack([a + b, a - b], -2).flatten(-3)
    return x


@dataclass(frozen=True, eq=False)
class Frame:
    r"""Where spins become noise: blocks of K coordinates, each $z_{block} = \mathrm{diag}(\epsilon)\,H s/\sqrt K$.

    $D = \mathrm{diag}(\epsilon)\,H/\sqrt K$ is orthogonal: uniform s give z of mean 0, covariance 1 and length
    $\sqrt K$. The signs $\epsilon$ stand on the side of the pixels. There they make the mean of a block, whose kurtosis
    is $3 - 6/K + 4/K^2$, nearly Gaussian; on the side of s, uniform already, they would do nothing, and that mean would
    be $\pm 1/\sqrt K$, of kurtosis 1.

    Args:
        sites: `[B, n]`, n = blocks K: different coordinates of each item, block after block.
        signs: `[B, n]`: the $\epsilon$ of each.
        K: coordinates of a block.
    """

    sites: Int[Tensor, "B n"]
    signs: Float[Tensor, "B n"]
    K: int

    @staticmethod
    def draw(draws: Draws, d: int, K: int, blocks: int) -> Frame:
        """The first blocks that a uniform permutation of d coordinates is cut into, and uniform signs."""
        sites = draws.subsets(1, K * blocks, d)[:, 0]
        return Frame(sites, draws.spins(K * blocks).float(), K)

    def noise(self, s: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """D s: the noise at the sites; linear in s."""
        turned = walsh_hadamard(s.unflatten(-1, (-1, self.K))).flatten(-2)
        return self.signs.to(s) * turned / self.K**0.5

    def spins(self, z: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """The s of `noise`: D's transpose is its inverse."""
        return walsh_hadamard((self.signs.to(z) * z).unflatten(-1, (-1, self.K))).flatten(-2) / self.K**0.5
