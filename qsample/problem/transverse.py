"""A quantum Ising problem in a transverse field as a classical one, slice by slice."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.support.checks import WAYS_TO_ISING, whole, wrong_kind
from qsample.support.faces import public


@public("qsample")
def transverse_field(problem: Ising, gamma: Tensor | float, slices: int) -> Ising:
    r"""The classical problem of m coupled slices whose law is that of a quantum Ising problem.

    For $H = E(\sigma^z) - \Gamma \sum_i \sigma^x_i$ at inverse temperature 1 (Suzuki, Prog. Theor.
    Phys. 56, 1454, 1976):

    $$\mathrm{Tr}\, e^{-H} = \sum_{s_1 \dots s_m} \exp\Big(-\frac1m \sum_k E(s_k)
      + K \sum_{k,i} s_{k,i} s_{k+1,i} + n m \ln A\Big) + O(m^{-2}),$$

    $K = -\tfrac12 \ln\tanh(\Gamma/m)$, $A^2 = \tfrac12 \sinh(2\Gamma/m)$, slices closed to a ring.
    Any sampler takes it. Its log Z is that of the quantum problem, and spins of one slice have the
    law of $\sigma^z$: with `s = samples.spins.unflatten(-1, (slices, n))`, means over slices of
    $s_{k,i} s_{k,j}$ estimate $\langle \sigma^z_i \sigma^z_j \rangle$. The error falls as m^-2, and
    spins of neighbouring slices hold each other ever faster: sweeps grow with m.

    Args:
        problem: E of n spins, a batch `*B` of any graph.
        gamma: transverse field, above 0: a number, or a tensor `[*B]`, differentiable.
        slices: number m of slices.

    Returns:
        A problem of m n spins on a sparse graph: spin i of slice k is number k n + i, its label
        (k, label of i). Labels, graph and colouring are made once per graph and m.

    Raises:
        ValueError: gamma that is not above 0 and finite, or of batch dimensions that do not
            broadcast; fewer than one slice.
        TypeError: no Ising problem, or gamma that is no number.
    """
    if not isinstance(problem, Ising):
        raise wrong_kind("an Ising problem, such as model.ising()", problem, WAYS_TO_ISING)
    slices = whole("slices", slices, 1)
    field = _field(problem, gamma) / slices
    n = problem.num_spins

    # ln cosh and ln sinh of the field of a slice, from e^-2 of it, which does not overflow
    log_cosh = field + (-2 * field).exp().log1p() - math.log(2)
    log_sinh = field + (-(-2 * field).expm1()).log() - math.log(2)
    h = problem.h.repeat(*[1] * (problem.h.dim() - 1), slices) / slices
    J = problem.graph.edge_values(problem.J)
    J = J.repeat(*[1] * (J.dim() - 1), slices) / slices
    if slices == 1:  # a ring of one: a slice meets itself, s s = 1
        offset = problem.offset - n * log_cosh
        return Ising(_graph(problem.graph, 1), h, J, offset)

    # two slices meet twice
    links = n if slices == 2 else n * slices
    bond = (log_sinh - log_cosh) / 2 * (2 if slices == 2 else 1)
    bonds = bond[..., None].expand(*bond.shape, links)
    offset = problem.offset - n * slices * (log_sinh + log_cosh) / 2
    batch = torch.broadcast_shapes(J.shape[:-1], bonds.shape[:-1])
    J = torch.cat([J.expand(*batch, -1), bonds.expand(*batch, -1)], -1)
    return Ising(_graph(problem.graph, slices), h, J, offset)


def _field(problem: Ising, gamma: Tensor | float) -> Tensor:
    """Gamma as a tensor of the problem's dtype, checked."""
    if not isinstance(gamma, Tensor) and (isinstance(gamma, bool) or not isinstance(gamma, Real)):
        raise TypeError(
            f"expected gamma as a number or a tensor [*B]; got {type(gamma).__name__}: "
            "use torch.as_tensor"
        )
    field = torch.as_tensor(gamma).to(problem.h)
    wrong = ~((field > 0) & field.isfinite())
    if wrong.any():
        raise ValueError(
            f"expected gamma > 0 and finite; got {float(field.detach()[wrong][0]):g}: "
            "without a transverse field the slices are one, the problem itself"
        )
    try:
        torch.broadcast_shapes(field.shape, problem.batch_shape)
    except RuntimeError:
        raise ValueError(
            f"gamma of shape {list(field.shape)} does not broadcast with the problem's batch "
            f"{list(problem.batch_shape)}"
        ) from None
    return field


def _graph(graph: Graph, slices: int) -> Graph:
    """The graph of the slices: each one's own edges, slice by slice, then the bonds between them.

    Bonds of slice k are those to slice k + 1, the last to the first.
    """

    def make() -> Graph:
        n = graph.num_spins
        start = n * torch.arange(slices)
        own = (graph.edges[:, None, :] + start[:, None]).flatten(1)
        number = torch.arange(n * slices).reshape(slices, n)
        ends = number.roll(-1, 0)
        rows = {1: 0, 2: 1}.get(slices, slices)
        between = torch.stack([number[:rows].flatten(), ends[:rows].flatten()])
        labels = [(k, label) for k in range(slices) for label in graph.labels]
        return Graph.sparse(n * slices, torch.cat([own, between], 1).T, labels)

    return graph.cached(("transverse field", slices), make)
