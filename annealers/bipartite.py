"""Sweeps over a bipartite problem (an RBM): one matrix product for each side."""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.annealers.streams import Streams
from qsample.annealers.update import Precision, Rule, draw, flatten
from qsample.ising import Ising


class Bipartite:
    r"""The right side (hidden units) is updated first, then the left.

    With bits b = (1 + s)/2 the logit of a left bit is $-2 f = -2(h - J 1) - 4 J b$, linear in the right side's bits.
    A batch is one product a problem, `baddbmm`, so that rounding does not depend on the batch.
    """

    groups = 2

    def __init__(self, problem: Ising, spins: Tensor, streams: Streams, rule: Rule, precision: Precision) -> None:
        self.problem, self.streams = problem, streams
        self.rule: Rule = rule
        P, R, _ = spins.shape
        sizes = problem.graph.sizes
        h, J = flatten(problem)
        kind = torch.bfloat16 if precision == "bfloat16" else problem.dtype
        h_left, h_right = h.split(sizes, -1)
        weight = (-4 * J).to(kind).contiguous()
        self.weight = {0: weight.mT.expand(P, *sizes[::-1]), 1: weight.expand(P, *sizes)}
        self.bias = {0: -2 * (h_left - J.sum(-1))[:, None, :], 1: -2 * (h_right - J.sum(-2))[:, None, :]}
        self.bits = {k: (part > 0).to(kind) for k, part in enumerate(spins.split(sizes, -1))}
        self.u = {k: torch.empty(P, R, size, device=problem.device) for k, size in enumerate(sizes)}
        self.logits = {k: problem.h.new_empty(P, R, size) for k, size in enumerate(sizes)}

    def update(self, group: int, beta: float) -> None:
        """Redraw the right side (group 0) or the left (group 1) given the other."""
        side = 1 - group
        if self.problem.graph.sizes[side] == 0:
            return
        logits, other = self.logits[side], self.bits[1 - side]
        if other.shape[-1] == 0:
            logits.copy_(self.bias[side])
        elif other.dtype == logits.dtype:
            torch.baddbmm(self.bias[side], other, self.weight[side], out=logits)
        else:  # products of rounded weights, the bias and all after it in full precision
            torch.add(self.bias[side], torch.bmm(other, self.weight[side]), out=logits)
        if beta != 1.0:
            logits.mul_(beta)
        draw(logits, self.streams.fill(self.u[side]), self.bits[side], self.rule, self.bits[side])

    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8."""
        return torch.cat([self.bits[0], self.bits[1]], -1).to(torch.int8).mul_(2).sub_(1)
