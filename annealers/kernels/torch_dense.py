"""Sweeps over a dense problem, spin by spin, with the local fields cached."""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.annealers.kernels.native_dense import square
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import Rule, draw, flatten
from qsample.problem.exact_products import product
from qsample.problem.ising import Ising


class Dense:
    """State and fields `[n, P, R]`; a flip of spin i adds its change times row i of J to all fields.

    Fields are recomputed at the start of each sweep, so that rounding does not build up.
    """

    def __init__(self, problem: Ising, spins: Tensor, streams: Streams) -> None:
        self.streams = streams
        self.groups = problem.num_spins
        self.rule: Rule = "gibbs"
        self.h, J = flatten(problem)
        J = square(problem, J)
        P, R, n = spins.shape
        self.J = J.contiguous()
        self.rows = self.J.permute(1, 2, 0)[..., None].contiguous()  # [i, n, P or 1, 1]
        self.state = spins.to(problem.dtype).permute(2, 0, 1).contiguous()
        self.u = torch.empty(P, R, dtype=torch.float32, device=problem.device)

    def update(self, group: int, beta: float | Tensor) -> None:
        """Redraw spin `group` given the others."""
        i = group
        if i == 0 or not hasattr(self, "field"):
            state = self.state.permute(1, 2, 0)
            self.field = (self.h[:, None, :] + product(state, self.J)).permute(2, 0, 1).contiguous()
        current = self.state[i]
        bits = torch.empty_like(current)
        draw(
            -2 * beta * self.field[i], self.streams.fill(self.u), (current + 1) / 2, self.rule, bits
        )
        change = bits.mul_(2).sub_(1) - current
        self.field.addcmul_(self.rows[i], change)
        current += change

    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8."""
        return self.state.permute(1, 2, 0).to(torch.int8).contiguous()
