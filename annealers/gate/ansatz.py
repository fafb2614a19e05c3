r"""QAOA's circuit as data, its fixed angles, and the order of amplitudes in the kits.

A circuit is layers of $e^{-i \gamma C}$, with the diagonal $C = \sum_i h_i Z_i + \sum_{ij} J_{ij}
Z_i Z_j$, and $e^{-i \beta \sum_i X_i}$, from |+...+> or from any state. As gates these are
RZ(2 gamma h_i), RZZ(2 gamma J_ij) and RX(2 beta), the same in every kit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.problem.ising import Ising

SLOPES = (0.5, 0.6)  # last gamma and first beta of the ramp, in units of the scaled problem


@dataclass(frozen=True)
class Circuit:
    """Layers for one problem; a gate whose angle is 0 is left out.

    Args:
        fields: h_i, one per qubit.
        pairs: (i, j) of each coupling.
        couplings: J_ij, in their order.
        gamma: phase angle of each layer; floats, or scalar tensors that gradients reach.
        beta: mixer angle of each layer.
    """

    fields: list[float]
    pairs: list[tuple[int, int]]
    couplings: list[float]
    gamma: list[float] | list[Tensor]
    beta: list[float] | list[Tensor]

    @property
    def num_qubits(self) -> int:
        """Number of qubits, n."""
        return len(self.fields)

    @staticmethod
    def of(problem: Ising, gamma: Tensor, beta: Tensor) -> Circuit:
        """The circuit of one problem.

        Args:
            problem: one problem, without batch dimensions.
            gamma: phase angles, `[layers]`; tensors that want gradients stay tensors.
            beta: mixer angles, `[layers]`.
        """
        graph = problem.graph
        J = graph.edge_values(problem.J.detach().double()).tolist()
        used = [
            (int(i), int(j), value)
            for (i, j), value in zip(graph.edges.T.tolist(), J, strict=True)
            if value != 0
        ]
        tracked = gamma.requires_grad or beta.requires_grad
        return Circuit(
            problem.h.detach().double().tolist(),
            [(i, j) for i, j, _ in used],
            [value for _, _, value in used],
            list(gamma.unbind()) if tracked else gamma.detach().tolist(),
            list(beta.unbind()) if tracked else beta.detach().tolist(),
        )


def ramp(depth: int) -> Tensor:
    r"""Fixed angles of a linear ramp, `[2, depth]` float64: gamma and beta of each layer.

    $\gamma_k = \gamma\,(k + 1) / p$, $\beta_k = \beta\,(1 - k / p)$ for k = 0..p-1: a coarse
    annealing from the mixer to the problem, whose angles serve every problem of the same scale
    (arXiv 2506.03241).

    Args:
        depth: number p of layers.
    """
    k = torch.arange(depth, dtype=torch.float64)
    return torch.stack([SLOPES[0] * (k + 1) / depth, SLOPES[1] * (1 - k / depth)])


def order(n: int, first_is_high: bool) -> Tensor:
    """The place in a kit's state vector of each state of `enumeration.states`, `[2^n]` int64.

    Our spin i is +1, qubit i in |0>, where bit i of the number is set.

    Args:
        n: number of qubits.
        first_is_high: whether qubit 0 is the highest bit of the kit's place, as PennyLane and Cirq
            have it; the lowest in Qiskit.
    """
    number = torch.arange(1 << n)
    place = torch.zeros_like(number)
    for i in range(n):
        qubit = 1 - ((number >> i) & 1)
        place |= qubit << (n - 1 - i if first_is_high else i)
    return place
