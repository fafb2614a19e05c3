"""From what a sampler knows of P problems to `Samples` of the batch they came in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qsample.annealers.kernels.energies import energies_of
from qsample.problem.ising import Ising
from qsample.sampling.samples import Exactness, Samples


def samples_of(
    problem: Ising,
    spins: Tensor,
    exactness: Exactness,
    info: Mapping[str, Any],
    *,
    log_weight: Tensor | None = None,
    family: Tensor | None = None,
    carry: Mapping[str, Tensor] | None = None,
) -> Samples:
    """Samples of a batch `*B` of P problems, with energies in the problem's dtype.

    Args:
        problem: the batch, as the caller gave it.
        spins: `[P, R, n]`.
        exactness: what is known about the law of the reads.
        info: as in `Samples`; tensors of it are `[P, ...]`, and become `[*B, ...]`.
        log_weight: as in `Samples`, `[*B, R]`; None means equal weights.
        family: labels `[P, R]` or `[*B, R]`; None means independent reads.
        carry: tensors `[P, ...]`, which become `[*B, ...]`.
    """
    batch = problem.batch_shape
    spins = spins.reshape(batch + spins.shape[1:])
    if family is not None:
        family = family.reshape(spins.shape[:-1]).to(problem.device)
    return Samples(
        spins,
        energies_of(problem, spins),
        log_weight,
        exactness,
        _unflattened(info, batch),
        None if carry is None else _unflattened(carry, batch),
        family,
    )


def passed_on(initial: Samples | None) -> tuple[Tensor | None, Tensor | None]:
    """Weights and families of `initial`, for a kernel that leaves the problem's law invariant."""
    if initial is None:
        return None, None
    weight = initial.log_weight
    return None if weight is None else weight.clone(), initial.family


def _unflattened(values: Mapping[str, Any], batch: torch.Size) -> dict[str, Any]:
    """Tensors `[P, ...]` with the batch dimensions `[*B, ...]`, the rest as it is."""
    return {
        name: value.reshape(batch + value.shape[1:]) if isinstance(value, Tensor) else value
        for name, value in values.items()
    }
