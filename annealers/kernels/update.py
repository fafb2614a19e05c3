"""One update of a group of uncoupled spins: what all kernels share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qsample.problem.ising import Ising

Rule = Literal["gibbs", "metropolis"]
Precision = Literal["full", "bfloat16", "fixed16"]

METROPOLIS_CYCLE = 4


def rule_of(rule: Rule, sweep: int) -> Rule:
    """The rule of a sweep by its number: the first of every four Metropolis sweeps is a heat bath.

    Metropolis flips a spin in no field (and nearly always one in hardly any) at each visit: under a
    fixed order of visits domain walls then circulate for ever and never meet, as on a ring in no
    field. A cycle of kernels that leave the law invariant leaves it invariant. With a heat-bath
    sweep in so many (relaxation in sweeps, from the spectrum; mean energies of an annealed Gaussian
    glass on a torus of 24 x 24, in 64 sweeps to +-0.3 and in 1024 to +-0.2):

    | | 1 | 2 | 4 | 8 | 16 | none |
    |---|---|---|---|---|---|---|
    | ring of 8, J = 1 | 13.7 | 6.8 | 3.9 | 7.1 | 14 | never |
    | frustrated K5, J = 2 | 1.6 | 4.1 | 6.6 | 16 | 26 | never |
    | glass, 64 sweeps | -714.4 | -717.2 | -718.2 | -718.5 | -718.8 | -719.1 |
    | glass, 1024 sweeps | -740.0 | -741.2 | -741.6 | -741.7 | -741.4 | -741.8 |
    """
    return rule if sweep % METROPOLIS_CYCLE else "gibbs"


def draw(logits: Tensor, u: Tensor, current: Tensor, rule: Rule, out: Tensor) -> Tensor:
    """New bits (0/1 floats) into `out`, from `logits` = -2 beta f (overwritten), uniform numbers, and current bits.

    Heat bath: P(1) = sigmoid(logit). Metropolis: flip with probability min(1, exp(-dE)), dE = (2b -
    1) logit. `u < p` is one pass; `torch.bernoulli` costs a third more.
    """
    if rule == "gibbs":
        return torch.lt(u, logits.sigmoid_(), out=out)
    flip = u < logits.mul_(1 - 2 * current).exp_()
    return out.copy_(current).sub_(flip.to(out)).abs_()


def flatten(problem: Ising) -> tuple[Tensor, Tensor]:
    """H `[P or 1, n]` and J `[P or 1, *layout]`: batch dimensions in one, J copied only where it truly varies."""
    batch = problem.batch_shape
    n = problem.num_spins
    layout = problem.graph.coupling_shape
    P = batch.numel()  # not -1: J may have no numbers
    h = problem.h.expand(*batch, n).reshape(P, n)
    own = problem.J.shape[: problem.J.dim() - len(layout)]
    J = (
        problem.J.reshape(1, *layout)
        if own.numel() == 1
        else problem.J.expand(*batch, *layout).reshape(P, *layout)
    )
    return h, J


def one_batch(problem: Ising) -> Ising:
    """The same problems with one batch dimension; a shared J stays shared."""
    batch = problem.batch_shape
    n = problem.num_spins
    layout = problem.graph.coupling_shape
    P = batch.numel()  # not -1: J may have no numbers
    h = problem.h.expand(*batch, n).reshape(P, n)
    offset = problem.offset.expand(batch).reshape(P)
    J = problem.J
    if J.dim() > len(layout):
        J = J.expand(*batch, *layout).reshape(P, *layout)
    return Ising(problem.graph, h, J, offset)


def some_of(problem: Ising, index: slice | Tensor) -> Ising:
    """Some problems of `one_batch`."""
    shared = problem.J.dim() == len(problem.graph.coupling_shape)
    J = problem.J if shared else problem.J[index]
    return Ising(problem.graph, problem.h[index], J, problem.offset[index])
