"""Bipartite problems (RBMs) on the native kernel: the couplings are read where they lie, nothing is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.kernels.native import Swept
from qsample.annealers.kernels.update import Precision, Rule, flatten
from qsample.problem.ising import Ising


def sweep_bipartite(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    spins: Tensor | None = None,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    palindromic: bool = False,
    precision: Precision = "full",
    alive: Callable[[], bool] | None = None,
    isa: str = "",
) -> Swept:
    """Sweeps of P problems on one bipartite graph, R = `num` replicas each; see `compiled.sweep` for the arguments.

    The right side (hidden units) is updated first, then the left; palindromic, then the right once
    more. The energy takes the fields of the side that was visited last, in single precision, and
    adds them up in double.

    With precision "fixed16" fields are 16 bits, rounded and refused as `compiled.sweep` says; of
    five couplings the sum is looked up at once. A problem of a batch is rounded in its own unit, so
    problems are then taken one by one, and those of fewer than 32 replicas leave lanes idle.
    Energies are those of the true couplings all the same.
    """
    from qsample.annealers import _engine

    h, J = (t.detach().to(torch.float32).contiguous() for t in flatten(problem))
    beta = torch.as_tensor(betas, dtype=torch.float32)
    beta = beta.reshape(len(beta), beta[:1].numel() or 1).contiguous().numpy()
    start = torch.empty(len(h) * num, h.shape[-1], dtype=torch.int8)
    if spins is not None:
        start.copy_(spins.reshape(start.shape))
    energy = np.empty(len(start))
    done = np.empty(len(start), dtype=np.int32)
    fewest = _engine.sweep_bipartite(
        start.numpy(),
        energy,
        done,
        h.numpy(),
        J.numpy(),
        beta,
        np.array(seeds, dtype=np.int64),
        first_sweep,
        rule == "metropolis",
        palindromic,
        spins is None,
        precision == "fixed16",
        torch.get_num_threads(),
        isa,
        alive,
    )
    offset = problem.offset.detach().double().expand(problem.batch_shape).reshape(-1, 1)
    energies, dones = (torch.from_numpy(a).reshape(len(h), num) for a in (energy, done))
    return Swept(start.reshape(len(h), num, -1), energies + offset, fewest, dones)
