"""The steps of a diffusion: their times, the reverse draw from its Ising problem, the forward one from given noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.sampling.random import Draws
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import whole


def falling_times(steps: int | None, timesteps: Sequence[float] | Tensor | None) -> Tensor:
    """N equal `steps` from 1 down to 1/N, or the given `timesteps`, checked; float64 on the CPU."""
    if (steps is None) == (timesteps is None):
        raise ValueError("expected num_inference_steps or timesteps, one of them")
    steps = None if steps is None else whole("num_inference_steps", steps, 1)
    given = [k / steps for k in range(steps, 0, -1)] if steps is not None else timesteps
    t = torch.as_tensor(given, dtype=torch.float64).cpu()
    if t.dim() != 1 or not len(t) or not (0 < t[-1] and t[0] <= 1 and (t.diff() < 0).all()):
        raise ValueError(f"expected timesteps that fall, in (0, 1]; got {t.tolist()[:8]}")
    return t


def index_of_time(timestep: int | float | Tensor, falling: Sequence[float]) -> int:
    """Where in `falling` a timestep stands; an integer is that number already."""
    t = timestep.item() if isinstance(timestep, Tensor | np.generic) else timestep
    index = t if isinstance(t, int) else min(range(len(falling)), key=lambda i: abs(falling[i] - t))
    if not 0 <= index < len(falling) or not isinstance(t, int) and not abs(falling[index] - t) < 1e-3:
        ends = f"{falling[0]:g} to {falling[-1]:g}"
        raise ValueError(f"timestep {t} is none of the {len(falling)} from {ends}: pass those of scheduler.timesteps")
    return index


def draw(problem: Ising, draws: Draws, sampler: Callable[[], Sampler], reads: int = 1) -> Samples:
    r"""One read of each problem `[B]`, spins `[B, 1, n]`; of `reads`, one is kept by weight.

    Without couplings the spins are independent, $P(s_i = +1) = \sigma(-2h_i)$, and no sampler is asked. With them, a
    sampler that continues chains starts from that factorised law, which is near.
    """
    p = (-2 * problem.h).sigmoid()[:, None]
    if not problem.J.any():
        spins = _signs(draws.uniform(1, problem.num_spins) < p)
        return Samples(spins, problem.h.new_zeros(len(spins), 1), None, Exactness.EXACT)
    annealer, initial = sampler(), None
    if annealer.warm_start:
        start = _signs(draws.uniform(reads, problem.num_spins) < p)
        initial = Samples(start, problem.h.new_zeros(start.shape[:-1]))
    found = annealer.sample(problem, reads, initial=initial, generator=draws.generators())
    up_to = found.weight.double().cumsum(-1)
    pick = torch.searchsorted(up_to, draws.uniform(1) * up_to[:, -1:], right=True).clamp_(max=reads - 1)
    spins = found.spins.take_along_dim(pick[..., None], 1)
    return Samples(spins, found.energy.gather(1, pick), None, found.exactness, found.info)


def noised(spins: Tensor, noise: Tensor, lost: Tensor, draws: Callable[[], Draws]) -> Tensor:
    r"""Spins `[B, n]` of which each was resampled with probability `lost` `[B, 1]` or `[1, 1]`.

    Normal `noise` decides alone: a spin flips where $\Phi(\mathrm{noise}) < \mathrm{lost}/2$. Noise of spins -1 and
    +1 shows where a number of `draws` is under `lost`.
    """
    if (noise.abs() == 1).all():
        return torch.where(draws().uniform(spins.shape[1]) < lost, noise.to(spins), spins)
    return torch.where(noise < torch.special.ndtri(lost / 2), -spins, spins)


def _signs(up: Tensor) -> Tensor:
    return up.to(torch.int8) * 2 - 1
