"""Local fields of many reads of large sparse problems, and the repair of broken chains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qsample.problem.ising import Ising


def local_fields(problem: Ising, spins: Tensor) -> Tensor:
    """f_i of a flat batch of problems, spins `[P, R, n]` -> float64 `[P, R, n]`; a sparse product where J is sparse."""
    if problem.graph.kind != "sparse":
        return problem.to(dtype=torch.float64).field(spins)
    from scipy.sparse import csr_array

    start, neighbour, edge = (part.numpy() for part in problem.graph.csr)
    flat = problem.flat()
    P, R, n = spins.shape
    h = flat.h.double().numpy()
    values = flat.J.double().numpy()
    s = spins.numpy().astype(np.float64)
    if len(values) == 1:  # one J for all: one product
        pull = csr_array((values[0][edge], neighbour, start), shape=(n, n)) @ s.reshape(-1, n).T
        return torch.from_numpy(np.ascontiguousarray(pull.T).reshape(P, R, n) + h[:, None])
    each = [csr_array((values[k][edge], neighbour, start), shape=(n, n)) @ s[k].T for k in range(P)]
    return torch.from_numpy(np.stack([pull.T for pull in each]) + h[:, None])


def energies(problem: Ising, spins: Tensor, field: Tensor) -> Tensor:
    """E = offset + sum_i s_i (h_i + f_i) / 2 of a flat batch, `[P, R]`, in double precision."""
    H = problem.h.double()
    offset = problem.offset.double()
    s = spins.double()
    return (
        offset.reshape(-1, 1)
        + ((s * field).sum(-1) + (s @ H.expand(len(s), -1)[..., None])[..., 0]) / 2
    )


def repaired(problem: Ising, spins: Tensor, broken: Tensor, generator: torch.Generator) -> Tensor:
    """Each broken spin drawn from P(s_i | rest), colour by colour: a heat-bath step on the broken spins alone."""
    spins = spins.clone()
    for colour in problem.graph.colours:
        if broken[..., colour].any():
            field = local_fields(problem, spins)[..., colour]
            up = (
                torch.rand(field.shape, generator=generator, dtype=field.dtype)
                < (-2 * field).sigmoid()
            )
            new = torch.where(up, 1, -1).to(torch.int8)
            spins[..., colour] = torch.where(broken[..., colour], new, spins[..., colour])
    return spins
