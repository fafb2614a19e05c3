"""One update of a group of uncoupled spins, and a sweep of them: what all kernels share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

Rule = Literal["gibbs", "metropolis"]
Scan = Literal["forward", "palindromic"]
Precision = Literal["full", "bfloat16", "fixed16"]  # the last is another name of "full"

METROPOLIS_CYCLE = 4


def is_full(precision: Precision) -> bool:
    """Whether a precision rounds no more than the law of the kernels: "full" and its alias.

    "fixed16" was a law of its own, with fields and probabilities in 16 bits. Now all fields are
    decided in 16 bits first, and again by the full rule where that could differ: full precision is
    as fast, and "fixed16" means it.
    """
    return precision != "bfloat16"


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
    """New bits (0/1 floats) in `out`, drawn from their logits.

    Heat bath: P(1) = sigmoid(logit). Metropolis: flip with probability min(1, exp(-dE)), dE = (2b -
    1) logit. `u < p` is one pass; `torch.bernoulli` costs a third more.

    Args:
        logits: -2 beta f of each spin; overwritten.
        u: uniform numbers of the same shape.
        current: the present bits, which Metropolis' rule alone reads.
        rule: "gibbs" (heat bath) or "metropolis".
        out: where the bits go, of the dtype of the logits; may be `logits` or `current`.
    """
    if rule == "gibbs":
        return torch.lt(u, logits.sigmoid_(), out=out)
    flip = u < logits.mul_(1 - 2 * current).exp_()
    return out.copy_(current).sub_(flip.to(out)).abs_()


@runtime_checkable
class Kernel(Protocol):
    """A torch kernel: P problems with R replicas each, one group of uncoupled spins at a time."""

    groups: int
    rule: Rule

    def update(self, group: int, beta: float | Tensor) -> None:
        """Redraw one group given all others, at inverse temperature beta: a number, or `[P, R]`."""
        ...

    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8."""
        ...


def sweep_groups(
    kernel: Kernel,
    betas: Tensor,
    *,
    rule: Rule,
    scan: Scan,
    first_sweep: int = 0,
    alive: Callable[[], bool] | None = None,
    before: Callable[[int], None] = lambda _: None,
) -> int:
    """Sweeps of a torch kernel, one at each of `betas`, until `alive` says no: the sweeps done.

    Args:
        kernel: the state, updated in place.
        betas: `[S]`, or one per replica `[S, P, R]`, on the kernel's device.
        rule: "gibbs" or "metropolis"; see `rule_of`.
        scan: "forward", or "palindromic": the groups forward and back.
        first_sweep: the number of the first sweep.
        alive: asked before each sweep whether to go on; None is always.
        before: called with the number of each sweep before it.
    """
    order = [*range(kernel.groups)]
    if scan == "palindromic":
        order += order[-2::-1]
    each = betas.tolist() if betas.dim() == 1 else betas  # numbers are cheaper than tensors of one
    for done in range(len(betas)):
        if alive is not None and not alive():
            return done
        before(first_sweep + done)
        kernel.rule = rule_of(rule, first_sweep + done)
        for group in order:
            kernel.update(group, each[done])
    return len(betas)
