"""Dense problems on the native kernel: fields are kept, and a flip adds a row of J to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.kernels.native import Swept
from qsample.annealers.kernels.update import Rule, flatten
from qsample.problem.ising import Ising


def sweep_dense(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    spins: Tensor | None = None,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    palindromic: bool = False,
    alive: Callable[[], bool] | None = None,
) -> Swept:
    """Sweeps of P problems on one dense graph, R = `num` replicas each; see `compiled.sweep` for the arguments."""
    from qsample.annealers import _engine

    h, J = flatten(problem)
    J = square(problem, J)
    n = J.shape[-1]
    row = -(-J.shape[-1] // 16) * 16
    rows = torch.zeros(len(J), n, row, dtype=torch.float32)
    rows[..., :n] = J
    fields = h.to(torch.float32).contiguous().numpy()
    beta = torch.as_tensor(betas, dtype=torch.float32)
    beta = beta.reshape(len(beta), beta[:1].numel() or 1).contiguous().numpy()
    start = torch.empty(len(h) * num, n, dtype=torch.int8)
    if spins is not None:
        start.copy_(spins.reshape(len(h) * num, n))
    energy = np.empty(len(h) * num)
    done = np.empty(len(h) * num, dtype=np.int32)
    fewest = _engine.sweep_dense(
        start.numpy(),
        energy,
        done,
        fields,
        rows.numpy(),
        beta,
        np.array(seeds, dtype=np.int64),
        first_sweep,
        rule == "metropolis",
        palindromic,
        spins is None,
        torch.get_num_threads(),
        alive,
    )
    offset = problem.offset.detach().double().expand(problem.batch_shape).reshape(-1, 1)
    energies, dones = (torch.from_numpy(a).reshape(len(h), num) for a in (energy, done))
    return Swept(start.reshape(len(h), num, n), energies + offset, fewest, dones)


def square(problem: Ising, J: Tensor) -> Tensor:
    """J `[P, n, n]` of a complete graph as it is, of a sparse graph `[P, k]` filled in."""
    if problem.graph.kind == "complete":
        return J
    i, j = problem.graph.pairs.to(J.device)
    full = J.new_zeros(len(J), problem.num_spins, problem.num_spins)
    full[:, i, j] = full[:, j, i] = J
    return full
