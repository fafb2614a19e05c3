"""A small neural energy, and every kernel that moves on it, with settings at which it mixes."""

from functools import partial

import torch

from qsample.annealers import Exact, Gibbs, TemperedGibbs
from qsample.diffusion import (
    BlockMetropolis,
    Cycle,
    DiscreteLangevin,
    GibbsWithGradients,
    SiteGibbs,
    TemperedTransitions,
    linear,
    regression,
)
from qsample.neural.kernel import Kernel
from tests.support.seeds import generator

PALINDROMIC = Gibbs(2, scan="palindromic")


def network(n, seed=0, scale=1.0):
    """The energy of n sites by one hidden layer of 16 units."""
    g = generator(seed)
    W = torch.randn(n, 16, generator=g, dtype=torch.float64)
    b = torch.randn(16, generator=g, dtype=torch.float64)
    v = torch.randn(16, generator=g, dtype=torch.float64)
    return lambda s: scale * (torch.tanh((s @ W + b) / 2) @ v)


SITES = 10
CHAINS = 10_000
NET = network(SITES, scale=1.5)
FITTED = regression(
    NET,
    torch.ones(SITES).double(),
    flips=0.5,
    states=500,
    generator=generator(4),
)
KERNELS: dict[str, Kernel] = {
    "site": SiteGibbs(20),
    "gwg": GibbsWithGradients(20),
    "dmala": DiscreteLangevin(1.0, 20),
    "blocks, secant": BlockMetropolis(PALINDROMIC, block=6, moves=3),
    "blocks, regression": BlockMetropolis(
        PALINDROMIC, partial(regression, flips=0.5, sampler=PALINDROMIC), 4, 3
    ),
    "blocks, exact": BlockMetropolis(
        Exact(), linear, torch.tensor([[0, 1, 2, 3, 4], [9, 8, 7, 6, 5]]), 5
    ),
    "blocks, fitted once": BlockMetropolis(PALINDROMIC, FITTED, 6, 3),
    "all sites, tempered": BlockMetropolis(TemperedGibbs(4), FITTED, SITES, 3),
    "mixture": Cycle(
        [
            BlockMetropolis(TemperedGibbs(3), FITTED, SITES),
            BlockMetropolis(PALINDROMIC, block=5),
            SiteGibbs(3),
        ]
    ),
    "tempered": TemperedTransitions(SiteGibbs(4), (1.0, 0.7, 0.4), 3),
    "cycle": Cycle([GibbsWithGradients(3), BlockMetropolis(PALINDROMIC, block=5), SiteGibbs(3)], 2),
}
