"""Random numbers by item: those of item k depend on its own seed alone, never on the batch around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsample.sampling.sampler import mix


class Draws:
    """One stream of numbers for each of P items: number i of a stream is SplitMix64 of (seed, i), on any device.

    Steele, Lea and Flood (OOPSLA 2014), written with tensors, so that a batch costs no loop over its items.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.seeds, self._taken = list(seeds), 0
        self._start = torch.tensor(self.seeds, dtype=torch.int64, device=device)[:, None]

    def uniform(self, *shape: int) -> Tensor:
        """The next numbers of each stream, uniform in (0, 1), `[P, *shape]` float64 with 52 random bits."""
        count = math.prod(shape)
        at = torch.arange(self._taken + 1, self._taken + count + 1, device=self._start.device)
        self._taken += count
        z = self._start + at * _signed(0x9E3779B97F4A7C15)  # integers of 64 bits wrap around
        z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
        z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
        bits = _shift(z ^ _shift(z, 31), 12)
        return ((bits.double() + 0.5) * 2.0**-52).reshape(-1, *shape)

    def spins(self, *shape: int) -> Tensor:
        """Uniform random spins, `[P, *shape]` int8."""
        return (self.uniform(*shape) < 0.5).to(torch.int8) * 2 - 1

    def subsets(self, reads: int, size: int, of: int) -> Tensor:
        """`[P, reads, size]`: different numbers in 0..of-1, each such subset equally likely."""
        return self.uniform(reads, of).argsort(dim=-1, stable=True)[..., :size]

    def generators(self, reads: int | None = None) -> list[torch.Generator]:
        """A torch generator for each item, or for each of its `reads` chains: for the samplers that a kernel calls."""
        seeds = [mix(seed, 1) for seed in self.seeds]
        if reads is not None:
            seeds = [mix(seed, r) for seed in seeds for r in range(reads)]
        return [torch.Generator().manual_seed(seed) for seed in seeds]


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(z: Tensor, bits: int) -> Tensor:
    """A logical shift right: torch's keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
