"""Times of the steps: schedules of the forward process, and the falling times of a reverse run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qsample.support.checks import whole
from qsample.support.faces import public

Times = Sequence[float] | Tensor

# ---- of the forward process ----------------


@public("qsample.diffusion")
def log_times(steps: int) -> Tensor:
    r"""$t_k = -\ln(1 - k/T)$: a bit is still its own at step k with probability 1 - k/T.

    `[steps + 1]`, float64; the last time is infinite.

    Raises:
        ValueError: steps < 1.
    """
    return log_time(_fractions(steps))


@public("qsample.diffusion")
def cosine_times(steps: int, s: float = 0.008) -> Tensor:
    r"""$e^{-t_k} = f(k)/f(0)$ with $f(k) = \cos^2\frac{k/T + s}{1 + s}\frac\pi2$.

    Nichol and Dhariwal, ICML 2021. `[steps + 1]`, float64; the last time is infinite.

    Raises:
        ValueError: steps < 1.
    """
    return cosine_time(_fractions(steps), s)


def log_time(fraction: Tensor) -> Tensor:
    """The time of `log_times` at a fraction k/T in [0, 1]."""
    return -torch.log1p(-fraction)


def cosine_time(fraction: Tensor, s: float = 0.008) -> Tensor:
    """The time of `cosine_times` at a fraction k/T in [0, 1]."""

    def f(u: Tensor) -> Tensor:
        return torch.cos((u + s) / (1 + s) * math.pi / 2).square()

    times = -(f(fraction) / f(torch.zeros_like(fraction))).log()
    return times.masked_fill(fraction <= 0, 0.0).masked_fill(fraction >= 1, math.inf)


def _fractions(steps: int) -> Tensor:
    """0, 1/T, ..., 1."""
    if steps < 1:
        raise ValueError(f"expected steps >= 1; got {steps}")
    return torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps


# ---- of a reverse run ----------------


def falling_times(steps: int | None, timesteps: Times | None) -> Tensor:
    """N equal `steps` from 1 down to 1/N, or the given `timesteps`, checked; float64 on the CPU.

    Raises:
        ValueError: both or neither given, steps < 1, timesteps that do not fall within (0, 1].
    """
    if (steps is None) == (timesteps is None):
        raise ValueError("expected num_inference_steps or timesteps, one of them")
    if steps is not None:
        steps = whole("num_inference_steps", steps, 1)
        timesteps = [k / steps for k in range(steps, 0, -1)]
    t = torch.as_tensor(timesteps, dtype=torch.float64).cpu()
    if t.dim() != 1 or not len(t) or not (0 < t[-1] and t[0] <= 1 and (t.diff() < 0).all()):
        raise ValueError(f"expected timesteps that fall, in (0, 1]; got {t.tolist()[:8]}")
    return t


def index_of_time(timestep: int | float | Tensor, falling: Sequence[float]) -> int:
    """Where in `falling` a timestep stands; an integer is that number already.

    Raises:
        ValueError: a timestep that is none of them.
    """
    t = timestep.item() if isinstance(timestep, Tensor | np.generic) else timestep
    if isinstance(t, int):
        index = t
        known = 0 <= index < len(falling)
    else:
        distances = [abs(time - t) for time in falling]
        index = distances.index(min(distances))
        known = distances[index] < 1e-3
    if not known:
        ends = f"{falling[0]:g} to {falling[-1]:g}"
        raise ValueError(
            f"timestep {t} is none of the {len(falling)} from {ends}: pass those of "
            "scheduler.timesteps"
        )
    return index
