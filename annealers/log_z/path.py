"""The path from independent spins to a problem, on which log Z is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.annealers.kernels.streams import Streams
from qsample.problem.enumeration import log_2cosh
from qsample.problem.exact_products import product
from qsample.problem.ising import Ising

FIRST = 2.0**-10  # the least b above 0: below, fields that are divided by it lose digits
MANY = 1 << 16  # couplings of a bipartite graph from which fields are summed in single precision


class Path:
    r"""Laws $p_b(s) \propto e^{-E_b(s)}$, $E_b(s) = (1 - b)\, base \cdot s + b\, E(s)$.

    At b = 0 spins are independent and $\log Z_0 = \sum_i \log 2 \cosh base_i$; at b = 1 they follow
    the problem. The offset of the problem is left out.

    Args:
        problem: one problem, in double precision.
        base: fields `[n]` of the independent spins.
    """

    def __init__(self, problem: Ising, base: Tensor) -> None:
        self.problem = problem.without_offset().flat()
        self.base = base.to(self.problem.h)
        self.log_z0 = float(log_2cosh(self.base).sum())
        self._up = torch.sigmoid(-2 * self.base)
        J = self.problem.J[0]
        # rounding is some 1e-4 of a density then, far below what chains of that size can tell
        self._J = J.float() if self.problem.graph.kind == "bipartite" and J.numel() >= MANY else J

    def independent(self, num: int, streams: Streams) -> Tensor:
        """`num` exact draws at b = 0, `[num, n]` int8."""
        u = streams.uniform(num, len(self.base))[0]
        return torch.where(u < self._up, 1, -1).to(torch.int8)

    def tempered(self, b: Tensor) -> Ising:
        r"""K problems that share J, whose laws at inverse temperature $b_k$ are $p_{b_k}$.

        $E_b = b\,(E + \tfrac{1 - b}{b}\, base \cdot s)$.

        Args:
            b: places `[K]` on the path, `FIRST` or more.
        """
        b = b.to(self.base)
        h = self.problem.h + ((1 - b) / b)[:, None] * self.base
        return Ising(self.problem.graph, h, self.problem.J, h.new_zeros(len(h)))

    def log_density(self, spins: Tensor, b: Tensor) -> Tensor:
        r"""$-E_b(s)$, or on a bipartite graph $\log \sum_{right} e^{-E_b}$, `[K, N, B]` float64.

        (In double precision; the fields of the right side in single where there are many.)

        A state has its density at each of B places for the price of one, since $E_b$ is linear in
        b. The sum over the right side has the smaller variance (Salakhutdinov and Murray, ICML
        2008).

        Args:
            spins: states `[K, N, n]`.
            b: places `[K, B]` of the states k.
        """
        b = b.to(self.base)[:, None, :]  # [K, 1, B]
        graph = self.problem.graph
        if graph.kind != "bipartite":
            s = spins.to(self.base)
            start = (s @ self.base)[..., None]
            end = self.problem.energy(s.flatten(0, 1)).reshape(s.shape[:2])[..., None]
            return -((1 - b) * start + b * end)
        left = spins[..., : graph.sizes[0]].to(self.base)
        base = self.base.split(graph.sizes)
        h = self.problem.h[0].split(graph.sizes)
        start = (left @ base[0])[..., None]
        end = (left @ h[0])[..., None]
        total = -((1 - b) * start + b * end)
        pull = product(left.to(self._J).flatten(0, 1), self._J)  # [K N, m]
        pull = pull.reshape(*left.shape[:2], -1)
        pull += h[1].to(pull)
        hot = base[1].to(pull)
        for k in range(b.shape[-1]):
            place = b[..., k, None].to(pull)
            free = log_2cosh((1 - place) * hot + place * pull)
            total[..., k] += free.sum(-1, dtype=torch.float64)
        return total
