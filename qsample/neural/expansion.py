"""Surrogates about the centre of the cube, s = 0: for energies that are smooth between their spins.

The energy of guided noise is one (`AnnealedGuidance`): at s = 0 the block has no noise. Both ignore the anchor, but for
its shape, so they never see the present state; energies of spins alone want `secant` or `regression`.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from qsample.neural.energy import Counted, Energy, NoGradient
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators


def first_order(energy: Energy, anchor: Tensor, *, generator: Generators | None = None) -> Ising:
    r"""No couplings, $h = \nabla E(0)$: one gradient, and `generator` unused."""
    try:
        E, g = Counted.of(energy).gradient(torch.zeros_like(anchor)[..., None, :])
    except NoGradient:
        raise NoGradient(_advice(anchor.shape[-1])) from None
    h = g[..., 0, :]
    return Ising(_free(anchor.shape[-1]), h, h.new_zeros(0), E[..., 0])


def second_order(energy: Energy, anchor: Tensor, *, generator: Generators | None = None) -> Ising:
    r"""$h = \nabla E(0)$, $J = \mathrm{offdiag}\,\nabla^2 E(0)$: one gradient, n Hessian-vector products.

    Exact for a quadratic E, offset and all. `generator` is not used.

    Attention is evaluated by its plain formula here: its fused kernels have no second derivative.

    Raises:
        ValueError: an energy without a gradient, or without a second derivative.
    """
    energy, n = Counted.of(energy), anchor.shape[-1]
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # one pass forward for all, n passes back
        at = torch.zeros_like(anchor).requires_grad_()
        E = energy.energy(at[..., None, :])[..., 0]
        if not E.requires_grad:
            raise NoGradient(_advice(n))
        g = torch.autograd.grad(E.sum(), at, create_graph=True, materialize_grads=True)[0]
        rows = [_row(g, at, k) for k in range(n)]
    H = torch.stack(rows, -2)
    energy.counts["gradients"] += anchor.shape[:-1].numel()
    energy.counts["hessian_vectors"] += anchor.shape.numel()
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    J = (H + H.mT) / 2 - torch.diag_embed(diagonal)  # symmetric to the last bit
    return Ising(_complete(n), g.detach(), J, E.detach() + diagonal.sum(-1) / 2)


def _advice(n: int) -> str:
    """A fit without couplings: as many evaluations as it has coefficients, twice."""
    fit = f"partial(regression, flips=0.5, graph=qs.Graph.sparse({n}, []))"
    return f"the energy has no gradient: use surrogate={fit}, {2 * (n + 1)} evaluations a step"


def _row(g: Tensor, at: Tensor, k: int) -> Tensor:
    """Row k of the Hessian, `[*B, n]`."""
    if not g.requires_grad:  # linear
        return torch.zeros_like(g)
    try:
        return torch.autograd.grad(g[..., k].sum(), at, retain_graph=True, materialize_grads=True)[0]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # a kernel of the network that autograd cannot derive twice
        cause = str(error).splitlines()[0]
        raise ValueError(f"the energy has no second derivative: use surrogate=first_order ({cause})") from error


@cache
def _free(n: int) -> Graph:
    return Graph.sparse(n, [])


@cache
def _complete(n: int) -> Graph:
    return Graph.complete(n)
