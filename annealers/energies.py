"""Energies in double precision, of reads by problem."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.update import flatten
from qsample.graph import Graph
from qsample.ising import Ising


def energies(problem: Ising, spins: Tensor) -> Tensor:
    """E of spins `[P, R, n]` on the CPU, summed in double precision with the offset: `[P, R]` float64."""
    if problem.graph.kind != "sparse":
        wide = problem.to(dtype=torch.float64)
        return wide.energy(spins.reshape(*problem.batch_shape, *spins.shape[1:])).reshape(spins.shape[:-1])
    from qsample.annealers import _engine

    h, J = (t.detach().double().contiguous().numpy() for t in flatten(problem))
    reads = spins.shape[:-1]
    energy = np.empty(reads.numel())
    rows = spins.reshape(len(energy), -1).contiguous().numpy()
    _engine.energies(rows, energy, *_csr(problem.graph), h, J, torch.get_num_threads())
    offset = problem.offset.detach().double().expand(problem.batch_shape).reshape(-1, 1)
    return torch.from_numpy(energy).reshape(reads) + offset


def _csr(graph: Graph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The graph's neighbours as the native code reads them, int32."""

    def make() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        start, near, edge = (np.ascontiguousarray(part.numpy().astype(np.int32)) for part in graph.csr)
        return start, near, edge

    return graph.cached("native csr", make)
