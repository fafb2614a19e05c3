"""What a sweep of an RBM's chains costs beside its two matrix products alone, on one thread.

The products, float32 and by torch, are what any sweep made of matrix products pays before it draws
a spin. A sweep is the difference of a long call and one of a single sweep, so that what a call
makes ready once (tables, energies) is left out; the single call stands beside it, whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import qsample as qs
from qsample.annealers import Gibbs

SWEEPS = 10
"""sweeps whose mean is taken"""


def calls(problem: qs.Ising, chains: int) -> dict[str, Callable[[], Any]]:
    """Calls to time in turn: one sweep, `SWEEPS` more, and the products of `SWEEPS` sweeps.

    Args:
        problem: bipartite problem.
        chains: chains, which are continued.
    """
    left, right = problem.J.shape[-2:]
    generator = torch.Generator().manual_seed(1)
    spins = torch.ones(chains, problem.num_spins, dtype=torch.int8)
    start = qs.Samples(spins, problem.energy(spins))
    visible = torch.rand(chains, left, generator=generator).round()
    hidden = torch.rand(chains, right, generator=generator).round()
    W = problem.J

    def sweeps(number: int) -> Callable[[], Any]:
        sampler = Gibbs(number)
        return lambda: sampler.sample(problem, chains, initial=start, generator=generator)

    def products() -> None:
        for _ in range(SWEEPS):
            torch.mm(visible, W)
            torch.mm(hidden, W.T)

    return {"one": sweeps(1), "more": sweeps(1 + SWEEPS), "products": products}
