"""Random numbers per item: those of item k depend on its own seed alone, never on the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qsample.sampling.sampler import mix


class Draws:
    """One stream of numbers per item: number i of a stream is SplitMix64 of (seed, i).

    Steele, Lea and Flood (OOPSLA 2014), written with tensors, so that a batch costs no loop over
    its items. The same on any device.

    Args:
        seeds: one per item, P of them.
        device: where the numbers are made.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.seeds = list(seeds)
        self._taken = 0
        self._start = torch.tensor(self.seeds, dtype=torch.int64, device=device)[:, None]

    def uniform(self, *shape: int) -> Tensor:
        """The next numbers of each stream, uniform in (0, 1): `[P, *shape]`, float64.

        Each has 52 random bits.
        """
        count = math.prod(shape)
        first = self._taken + 1
        number = torch.arange(first, first + count, device=self._start.device)
        self._taken += count
        z = self._start + number * _signed(0x9E3779B97F4A7C15)  # integers of 64 bits wrap around
        z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
        z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
        bits = _shift(z ^ _shift(z, 31), 12)
        return ((bits.double() + 0.5) * 2.0**-52).reshape(-1, *shape)

    def spins(self, *shape: int) -> Tensor:
        """Uniform random spins, `[P, *shape]` int8."""
        return (self.uniform(*shape) < 0.5).to(torch.int8) * 2 - 1

    def subsets(self, reads: int, size: int, of: int) -> Tensor:
        """Different numbers, `[P, reads, size]`; each subset equally likely.

        Args:
            reads: subsets per item.
            size: numbers per subset.
            of: the numbers are in 0..of-1.
        """
        return self.uniform(reads, of).argsort(dim=-1, stable=True)[..., :size]

    def generators(self, reads: int | None = None) -> list[torch.Generator]:
        """A torch generator for each item, or for each of its `reads` chains.

        For the samplers that a kernel calls.
        """
        seeds = [mix(seed, 1) for seed in self.seeds]
        if reads is not None:
            seeds = [mix(seed, r) for seed in seeds for r in range(reads)]
        return [torch.Generator().manual_seed(seed) for seed in seeds]


def _signed(word: int) -> int:
    """A word of 64 bits as the signed integer of the same bits."""
    return word - (1 << 64) if word >> 63 else word


def _shift(z: Tensor, bits: int) -> Tensor:
    """A logical shift right: torch's keeps the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
