"""Energies of reads: in double precision, and in the problem's own."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qsample.problem.graph import Graph
from qsample.problem.ising import Ising


def energies(problem: Ising, spins: Tensor) -> Tensor:
    """E of spins `[P, R, n]` on the CPU, `[P, R]` float64: with the offset, in double precision."""
    flat = problem.flat().to(dtype=torch.float64)
    if problem.graph.kind != "sparse":
        return flat.energy(spins)
    from qsample.annealers import _engine

    reads = spins.shape[:-1]
    energy = np.empty(reads.numel())
    rows = spins.reshape(len(energy), -1).contiguous().numpy()
    h = flat.h.detach().contiguous().numpy()
    J = flat.J.detach().contiguous().numpy()
    _engine.energies(rows, energy, *_csr(problem.graph), h, J, torch.get_num_threads())
    return torch.from_numpy(energy).reshape(reads) + flat.offset.detach()[:, None]


def energies_of(problem: Ising, spins: Tensor) -> Tensor:
    """E of spins `[*B, R, n]` in the problem's dtype, `[*B, R]`.

    Half precision is summed in single.

    Raises:
        ValueError: energies that float16 cannot hold.
    """
    if problem.dtype in (torch.float16, torch.bfloat16):
        return narrowed(problem.to(dtype=torch.float32).energy(spins), problem.dtype)
    return problem.energy(spins)


def narrowed(energy: Tensor, dtype: torch.dtype) -> Tensor:
    """Energies in the problem's dtype.

    Raises:
        ValueError: energies that float16 cannot hold.
    """
    largest = torch.finfo(dtype).max
    if dtype == torch.float16 and (energy.abs() > largest).any():
        raise ValueError(
            f"energies of up to {float(energy.abs().max()):g} do not fit {dtype}, whose numbers "
            f"end at {largest:g}: use problem.to(dtype=torch.float32)"
        )
    return energy.to(dtype)


def _csr(graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The graph's neighbours as the native code reads them, int32."""

    def make() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start, neighbour, edge = graph.csr
        return _narrow(start), _narrow(neighbour), _narrow(edge)

    return graph.cached("native csr", make)


def _narrow(numbers: Tensor) -> np.ndarray:
    return np.ascontiguousarray(numbers.numpy().astype(np.int32))
