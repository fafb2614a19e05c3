"""The temperature of a device, measured at every call, and the local fields that it is seen in.

Reads tell the chip's inverse temperature by how their spins align with their local fields
(`pooled_beta`); from call to call it is followed by a moving average (`Track`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.sampling.samples import Estimate
from qsample.sampling.temperature import beta_of_alignment

# A chip's beta in its own units of h and J, where nothing is known yet: D-Wave's range from 4.5 to
# 8.9.
TYPICAL = 6.35
NEWTON_STEPS = 12
NEWTON_TOLERANCE = 1e-9  # relative change of beta at which Newton's steps end


@dataclass
class Track:
    r"""The chip's inverse temperature, a local-level model of its logarithm.

    That is a moving average that knows its errors:

    $$\log\beta_{t+1} = \log\beta_t + d\,\epsilon, \qquad K = \frac{P + d^2}{P + d^2 + \sigma^2}$$

    with d the drift from call to call, sigma the relative error of a measurement and P the variance
    of the present value, so that K is the weight of the new one (Kalman, J. Basic Eng. 82, 1960).

    Args:
        value: beta, in the chip's units. Default: what D-Wave's processors typically have.
        variance: variance P of log beta. Default: infinite, as nothing was measured.
        calls: number of measurements taken in.
    """

    value: float = TYPICAL
    variance: float = math.inf
    calls: int = 0

    @staticmethod
    def of(values: Sequence[Any]) -> Track:
        """The track in a checkpoint's `[value, variance, calls]`.

        Raises:
            ValueError: values that a temperature cannot have.
        """
        value, variance, calls = values
        if not (0 < value < math.inf and variance >= 0 and isinstance(calls, int) and calls >= 0):
            raise ValueError(f"no temperature: {values}")
        return Track(float(value), float(variance), calls)

    @property
    def known(self) -> bool:
        """Whether it was ever measured."""
        return math.isfinite(self.variance)

    def update(self, measured: Estimate, drift: float) -> bool:
        """Take in a measurement; False, and no change, where it says nothing of the temperature.

        Args:
            measured: the chip's beta in its own units, with its error.
            drift: relative change of beta from call to call.
        """
        if not math.isfinite(measured.value) or not measured.value > 2 * measured.stderr:
            return False
        noise = max(measured.stderr / measured.value, 1e-6) ** 2
        predicted = self.variance + drift**2
        gain = 1.0 if not self.known else predicted / (predicted + noise)
        self.value *= (measured.value / self.value) ** gain
        self.variance = noise if not self.known else (1 - gain) * predicted
        self.calls += 1
        return True


def chip_beta(fields: Tensor, spins: Tensor, start: float) -> Estimate:
    """The chip's own beta, by its reads and the local fields that were programmed.

    Args:
        fields: local fields of the reads in the chip's units, float64 `[P, R, n]`.
        spins: the reads `[P, R, n]`.
        start: beta where the search begins.
    """
    alignment = (-2 * fields * spins).flatten(0, 1)
    return pooled_beta(alignment.numpy(), start)


def pooled_beta(alignment: np.ndarray, start: float) -> Estimate:
    r"""One beta for all reads, of one problem or of many, by maximum pseudo-likelihood.

    The log-likelihood $\sum \log \mathrm{sigmoid}(\beta a)$ of the alignments $a = -2 s f$ is
    concave; see `qsample.effective_beta`. Here Newton's steps go from a `start` near the root, each
    three passes over the reads, and only where they fail in brackets. The sandwich error vanishes
    for a single read, so the error is here at least $1/\sqrt{H}$, which it would be if the spins of
    a read were independent.

    Args:
        alignment: a `[R, n]`, float64.
        start: beta where Newton's steps begin.
    """
    a = torch.from_numpy(alignment)
    beta = torch.tensor(start, dtype=torch.float64)
    reads = len(alignment)
    smallest, largest = a.aminmax()
    if smallest < 0 < largest:
        for _ in range(NEWTON_STEPS):
            # the derivatives of the negative log-likelihood
            pull = torch.mul(a, -beta).sigmoid_().mul_(a)
            curvature = (pull.flatten() @ a.flatten()) - pull.square().sum()
            if not curvature > 0:
                # Newton has run away: far from the root nothing is left of the curvature in double
                # precision
                break
            step = pull.sum() / curvature
            beta = beta + step
            if step.abs() <= NEWTON_TOLERANCE * beta.abs():
                spread = pull.sum(-1).square().sum().sqrt()
                sandwich = float(spread / curvature * (reads / max(reads - 1, 1)) ** 0.5)
                stderr = max(sandwich, float(curvature) ** -0.5)
                return Estimate(float(beta), stderr, float(reads))
    weight = torch.full((reads,), 1 / reads, dtype=a.dtype)
    beta, stderr, note = beta_of_alignment(a, weight)
    return Estimate(float(beta), float(stderr), float(reads), note)


# ---- the fields of reads ----------------


def local_fields(problem: Ising, spins: Tensor) -> Tensor:
    """The local fields f_i of a flat batch, spins `[P, R, n]` -> float64 `[P, R, n]`.

    Where J is sparse by a sparse product.
    """
    if problem.graph.kind != "sparse":
        return problem.to(dtype=torch.float64).field(spins)
    from scipy.sparse import csr_array

    start = problem.graph.csr[0].numpy()
    neighbour = problem.graph.csr[1].numpy()
    edge = problem.graph.csr[2].numpy()
    problems, reads, n = spins.shape
    flat = problem.flat()
    h = flat.h.double().numpy()
    J = flat.J.double().numpy()
    s = spins.numpy().astype(np.float64)
    if len(J) == 1:  # shared: one product for all problems
        pull = csr_array((J[0][edge], neighbour, start), shape=(n, n)) @ s.reshape(-1, n).T
        pull = np.ascontiguousarray(pull.T).reshape(problems, reads, n)
        return torch.from_numpy(pull + h[:, None])
    pulls = []
    for k in range(problems):
        pull = csr_array((J[k][edge], neighbour, start), shape=(n, n)) @ s[k].T
        pulls.append(pull.T)
    return torch.from_numpy(np.stack(pulls) + h[:, None])


def energies(problem: Ising, spins: Tensor, field: Tensor) -> Tensor:
    """E = offset + sum_i s_i (h_i + f_i) / 2, in double precision `[P, R]`.

    Args:
        problem: a flat batch of P problems.
        spins: `[P, R, n]`.
        field: their local fields f, float64 `[P, R, n]`.
    """
    h = problem.h.double()
    offset = problem.offset.double()
    s = spins.double()
    linear = (s @ h.expand(len(s), -1)[..., None])[..., 0]
    return offset.reshape(-1, 1) + ((s * field).sum(-1) + linear) / 2


def repaired(problem: Ising, spins: Tensor, broken: Tensor, generator: torch.Generator) -> Tensor:
    """The reads after a heat-bath step on the spins of broken chains alone, colour by colour.

    Each is drawn from P(s_i | rest) at beta 1.

    Args:
        problem: a flat batch of P problems.
        spins: reads `[P, R, n]`; left as they are.
        broken: whether each spin's chain was broken, `[P, R, n]`.
        generator: source of the draws.
    """
    spins = spins.clone()
    for colour in problem.graph.colours:
        torn = broken[..., colour]
        if not torn.any():
            continue
        field = local_fields(problem, spins)[..., colour]
        u = torch.rand(field.shape, generator=generator, dtype=field.dtype)
        drawn = torch.where(u < (-2 * field).sigmoid(), 1, -1).to(torch.int8)
        spins[..., colour] = torch.where(torn, drawn, spins[..., colour])
    return spins
