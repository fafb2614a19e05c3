"""Sweeps over a dense problem, spin by spin, with the local fields cached."""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import Rule, draw
from qsample.problem.exact_products import product
from qsample.problem.ising import Ising


class Dense:
    """State and fields `[n, P, R]`: a flip of spin i adds its change times row i of J to them.

    Fields are recomputed at the start of each sweep, so that rounding does not build up.

    Args:
        problem: P problems, in the dtype to work in.
        spins: where to start, `[P, R, n]`.
        streams: randomness, one stream per problem.
    """

    def __init__(self, problem: Ising, spins: Tensor, streams: Streams) -> None:
        self.streams = streams
        self.groups = problem.num_spins
        self.rule: Rule = "gibbs"
        flat = problem.flat()
        P, R, _ = spins.shape
        self.h = flat.h
        self.J = square(flat).contiguous()
        self.rows = self.J.permute(1, 2, 0)[..., None].contiguous()  # [i, n, P or 1, 1]
        self.state = spins.to(problem.dtype).permute(2, 0, 1).contiguous()
        self.u = torch.empty(P, R, dtype=torch.float32, device=problem.device)

    def update(self, group: int, beta: float | Tensor) -> None:
        """Redraw spin `group` given the others."""
        i = group
        if i == 0 or not hasattr(self, "field"):
            state = self.state.permute(1, 2, 0)
            field = self.h[:, None, :] + product(state, self.J)
            self.field = field.permute(2, 0, 1).contiguous()
        current = self.state[i]
        bits = torch.empty_like(current)
        logits = -2 * beta * self.field[i]
        draw(logits, self.streams.fill(self.u), (current + 1) / 2, self.rule, bits)
        change = bits.mul_(2).sub_(1) - current
        self.field.addcmul_(self.rows[i], change)
        current += change

    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8."""
        return self.state.permute(1, 2, 0).to(torch.int8).contiguous()


def square(problem: Ising) -> Tensor:
    """J of flat problems as matrices `[P or 1, n, n]`; a sparse graph's are filled in."""
    J = problem.J
    if problem.graph.kind == "complete":
        return J
    i, j = problem.graph.pairs.to(J.device)
    full = J.new_zeros(len(J), problem.num_spins, problem.num_spins)
    full[:, i, j] = J
    full[:, j, i] = J
    return full
