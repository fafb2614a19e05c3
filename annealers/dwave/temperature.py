"""The temperature of a device as a state that is measured at every call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from qsample.sampling.samples import Estimate
from qsample.sampling.temperature import beta_of_alignment

TYPICAL = 6.35  # a chip's beta in its own units of h and J, where nothing is known yet: D-Wave's range from 4.5 to 8.9


@dataclass
class Track:
    r"""The chip's inverse temperature, a local-level model of its logarithm (a moving average that knows its errors).

    $$\log\beta_{t+1} = \log\beta_t + d\,\epsilon, \qquad K = \frac{P + d^2}{P + d^2 + \sigma^2}$$

    with d the drift from call to call, sigma the relative error of a measurement and P the variance of the present
    value, so that K is the weight of the new one (Kalman, J. Basic Eng. 82, 1960).
    """

    value: float = TYPICAL
    variance: float = math.inf
    calls: int = 0

    @staticmethod
    def of(values: Sequence[Any]) -> Track:
        """What a checkpoint holds: value, variance, calls; ValueError for what they cannot be."""
        value, variance, calls = values
        if not (0 < value < math.inf and variance >= 0 and isinstance(calls, int) and calls >= 0):
            raise ValueError(f"no temperature: {values}")
        return Track(float(value), float(variance), calls)

    @property
    def known(self) -> bool:
        """Whether it was ever measured."""
        return math.isfinite(self.variance)

    def update(self, found: Estimate, drift: float) -> bool:
        """Take in a measurement; False, and no change, where it says nothing of the temperature."""
        if not math.isfinite(found.value) or not found.value > 2 * found.stderr:
            return False
        noise = max(found.stderr / found.value, 1e-6) ** 2
        before = self.variance + drift**2
        gain = 1.0 if not self.known else before / (before + noise)
        self.value *= (found.value / self.value) ** gain
        self.variance = noise if not self.known else (1 - gain) * before
        self.calls += 1
        return True


def pooled_beta(alignment: np.ndarray, start: float) -> Estimate:
    r"""One beta of all reads, of one problem or of many, by maximum pseudo-likelihood from a = -2 s f, `[R, n]`.

    See `qsample.effective_beta`; here Newton's steps go from a `start` near the root, each three passes over the reads,
    and only where they fail in brackets. Its sandwich error vanishes for a single read, so the error is here at least
    $1/\sqrt{H}$, which it would be if the spins of a read were independent.
    """
    a, beta, R = torch.from_numpy(alignment), torch.tensor(start, dtype=torch.float64), len(alignment)
    least, most = a.aminmax()
    if least < 0 < most:
        for _ in range(12):
            pull = torch.mul(a, -beta).sigmoid_().mul_(a)
            curvature = (pull.flatten() @ a.flatten()) - pull.square().sum()
            if not curvature > 0:
                break  # Newton has run away: far from the root nothing is left of the curvature in double precision
            step = pull.sum() / curvature
            beta = beta + step
            if step.abs() <= 1e-9 * beta.abs():
                score = pull.sum(-1).square().sum().sqrt() / curvature * (R / max(R - 1, 1)) ** 0.5
                return Estimate(float(beta), max(float(score), float(curvature) ** -0.5), float(R))
    beta, stderr, note = beta_of_alignment(a, torch.full((R,), 1 / R, dtype=a.dtype))
    return Estimate(float(beta), float(stderr), float(R), note)
