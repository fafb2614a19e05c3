"""The largest numbers of a problem: whether all are finite, and how far its fields may reach."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qsample.problem.ising import Ising

_KEPT = "_largest"


class Largest(NamedTuple):
    """The largest absolute values of a batch: infinite or NaN where a number of it is."""

    h: float
    J: float
    offset: float


def largest(problem: Ising) -> Largest:
    """The largest |h|, |J| and |offset| of a batch."""
    kept = problem.__dict__.get(_KEPT)
    return _look(problem) if kept is None else kept


def for_one_call(problem: Ising) -> Ising:
    """The problem detached, whose numbers are looked at once: they stay as they are in a call."""
    problem = problem.detach()
    problem.__dict__[_KEPT] = _look(problem)
    return problem


def _look(problem: Ising) -> Largest:
    return Largest(_size(problem.h), _size(problem.J), _size(problem.offset))


def _size(t: Tensor) -> float:
    t = t.detach()
    if t.numel() == 0:
        return 0.0
    # NumPy looks at a CPU tensor on one thread: torch's threads would go on spinning beside those
    # of the native kernels
    if t.device.type == "cpu" and t.dtype in (torch.float32, torch.float64):
        a = t.numpy()
        return max(float(a.max()), -float(a.min()))  # NaN is both
    return float(t.abs().max())
