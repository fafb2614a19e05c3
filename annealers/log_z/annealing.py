"""Annealing along a path, up or down, with weights (annealed importance sampling)."""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.annealers.log_z.path import Path
from qsample.sampling.random import mix
from qsample.support.progress import tracked


def anneal_up(path: Path, b: Tensor, num: int, seed: int) -> Tensor:
    r"""Log weights `[num]` of runs from b = 0 to 1, whose mean exp is $Z / Z_0$ without bias.

    (Neal, Stat. Comput. 11, 2001.)

    Args:
        path: the laws.
        b: places of the runs, from 0 to 1, `[S + 1]`.
        num: number of runs.
        seed: of all randomness.
    """
    start = path.independent(num, Streams([mix(seed, 1)], path.base.device))
    return _anneal(path, b, start, seed, "annealing up")


def anneal_down(path: Path, b: Tensor, spins: Tensor, seed: int) -> Tensor:
    r"""Log weights `[N]` of runs from b = 1 to 0, whose mean exp is $Z_0 / Z$ from exact starts.

    From starts that follow the law of a part A of the space it is $Z_0 / Z_A$.

    Args:
        path: the laws.
        b: places, from 0 to 1, as the runs up take them, `[S + 1]`.
        spins: states at b = 1, `[N, n]`.
        seed: of all randomness.
    """
    return _anneal(path, b.flip(0), spins, seed, "annealing down")


def _anneal(path: Path, b: Tensor, spins: Tensor, seed: int, what: str) -> Tensor:
    """Weigh the states of each b under the next law, then sweep under it, but for the last."""
    log_w = torch.zeros(len(spins), dtype=torch.float64)
    pairs = torch.stack([b[:-1], b[1:]], -1)
    inner = b[1:] if b[0] == 0 else b[:-1]
    sweeper = Sweeper(path.tempered(inner[:1]), len(spins), [mix(seed, 2)], spins[None])
    last = len(pairs) - 1
    for t, pair in enumerate(tracked(list(pairs), what, "temperature")):
        density = path.log_density(sweeper.spins, pair[None])[0]
        log_w += (density[:, 1] - density[:, 0]).cpu()
        if t < last:
            sweeper.move(path.tempered(pair[1:]))
            sweeper.sweep(pair[1:].float())
    return log_w
