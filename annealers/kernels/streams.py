"""Random numbers by problem: stream k depends on the seed of problem k alone, not on the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Streams:
    """One stream of uniform numbers for each of P problems.

    On the CPU they are counter based (Philox, in the native module): position i of a stream is a
    function of (seed, i), so any split of the stream gives the same bits. Elsewhere each problem
    has a torch generator.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.position = 0
        self.passes = 0  # of native kernels that number their draws by pass, not by position
        self.seeds = np.array(seeds, dtype=np.int64)
        if device.type == "cpu":
            from qsample.annealers._engine import fill_uniform

            self._fill = fill_uniform
        else:
            self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.count = len(seeds)

    def fill(self, out: Tensor) -> Tensor:
        """The next numbers of each stream, inside (0, 1), in a contiguous float32 `[P, ...]`."""
        if self.device.type == "cpu":
            flat = out.view(self.count, -1)
            self._fill(flat.numpy(), self.seeds, self.position)
            self.position += flat.shape[1]
        else:
            for row, generator in zip(out, self._generators, strict=True):
                torch.rand(row.shape, generator=generator, out=row)
        return out

    def uniform(self, *shape: int) -> Tensor:
        """Fresh uniform float32 numbers `[P, *shape]`, a multiple of 2^-24 each."""
        return self.fill(torch.empty(self.count, *shape, dtype=torch.float32, device=self.device))

    def uniform64(self, *shape: int) -> Tensor:
        """Uniform float64 numbers `[P, *shape]` of 46 random bits, for long cumulative sums."""
        high, low = self.uniform(2, *shape).double().unbind(1)
        return (high * 2**23 - 0.5 + low) * 2**-23

    def keep(self, index: Sequence[int]) -> None:
        """Go on with the streams of these problems alone; what they draw does not change."""
        self.seeds = self.seeds[list(index)]
        self.count = len(index)
        if self.device.type != "cpu":
            self._generators = [self._generators[k] for k in index]

    def spins(self, *shape: int) -> Tensor:
        """Uniform random spins `[P, *shape]`, int8."""
        return (self.uniform(*shape) < 0.5).to(torch.int8) * 2 - 1
