"""Random numbers: one seed per problem, and streams per item that never depend on the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qsample.support.faces import public
from qsample.support.transforms import uncompiled

Generators = torch.Generator | Sequence[torch.Generator]
MASK = (1 << 64) - 1


@public("qsample.sampling")
def mix(seed: int, k: int) -> int:
    """A 63-bit seed from (seed, k): SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    z = (seed + (k + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return (z ^ (z >> 31)) >> 1


def mix_many(seed: int, count: int) -> list[int]:
    """`[mix(seed, k) for k in range(count)]`, by NumPy where that is faster.

    A training step may hold 512 problems.
    """
    if count < 8:
        return [mix(seed, k) for k in range(count)]
    # modulo 2^64
    return _finish(
        np.uint64(seed & MASK)
        + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    )


def mix_each(seeds: Sequence[int], k: int) -> list[int]:
    """`[mix(seed, k) for seed in seeds]`, the same."""
    if len(seeds) < 8:
        return [mix(seed, k) for seed in seeds]
    return _finish(
        np.array(seeds, dtype=np.uint64) + np.uint64((k + 1) * 0x9E3779B97F4A7C15 & MASK)
    )


def step_generators(seeds: Sequence[int], step: int, branch: int = 0) -> list[torch.Generator]:
    """A generator per seed for one purpose of one step; branch 0 is the step's first draw.

    Args:
        seeds: one per item.
        step: number of the step.
        branch: number of the purpose.
    """
    numbers = mix_each(seeds, step)
    if branch:
        numbers = mix_each(numbers, branch)
    return [torch.Generator().manual_seed(number) for number in numbers]


def _finish(z: np.ndarray) -> list[int]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(1)).tolist()


@public("qsample.sampling")
@uncompiled
def draw_seeds(generator: Generators | None, batch: Sequence[int]) -> list[int]:
    """One 63-bit seed per problem, the only randomness that a sampler takes from outside.

    One generator serves the whole batch (seed k is `mix(seed, k)`); a list holds one for each
    problem, and problem k then draws what it would draw alone. None is torch's default generator.
    """
    count = math.prod(batch)
    if generator is None or isinstance(generator, torch.Generator):
        return mix_many(draw_seed(generator), count)
    generators = list(generator) if isinstance(generator, Sequence) else [generator]
    if not all(isinstance(g, torch.Generator) for g in generators):
        wanted = "a torch.Generator, such as torch.Generator().manual_seed(0), or a list of them"
        raise TypeError(f"expected {wanted}; got {generator!r}")
    if len(generators) != count:
        raise ValueError(
            f"expected one generator, or one for each of {count} problems; got {len(generators)}"
        )
    return [mix(draw_seed(g), 0) for g in generators]


def draw_seed(generator: torch.Generator | None) -> int:
    """One number of 63 bits from a generator; None is torch's default."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


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
