"""Quadratic surrogates of any energy: Ising problems that an annealer answers in its stead.

Each takes an energy `[*B, M, n] -> [*B, M]` and anchors `[*B, n]` of spins, one per problem, and
gives one batched problem. Kernels call them on blocks of sites and correct what they get wrong
(`BlockMetropolis`).

For energies of spins: `linear`, `secant`, `taylor` and `regression`, about the anchor. On a small
tanh network `secant` is best for short steps and `regression` for long ones, with a sampler most of
all; `taylor` is an option only, since the curvature of a saturated network says nothing about
flips.

For energies that are smooth between their spins: `first_order` and `second_order`, about the
centre of the cube, s = 0. The energy of guided noise is one (`AnnealedGuidance`): at s = 0 the
block has no noise. Both ignore the anchor, but for its shape, so they never see the present state.
"""

from __future__ import annotations

from functools import cache
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from qsample.neural.energy import Counted, Energy, NoGradient
from qsample.problem.exact_products import product
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.random import Draws, Generators, draw_seeds
from qsample.sampling.sampler import Sampler
from qsample.support.checks import check_spins
from qsample.support.faces import public


@runtime_checkable
class Surrogate(Protocol):
    """What `BlockMetropolis` asks of a surrogate.

    `functools.partial(regression, flips=0.5)` sets its options.
    """

    def __call__(
        self, energy: Energy, anchor: Tensor, *, generator: Generators | None = None
    ) -> Ising:
        """A problem for each anchor.

        Args:
            energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
            anchor: spins `[*B, n]` that the problem is made at.
            generator: one for the batch, or a list with one per anchor; None is torch's default.
        """
        ...


# ---- about an anchor ----------------


@public("qsample.diffusion")
def linear(energy: Energy, anchor: Tensor, *, generator: Generators | None = None) -> Ising:
    r"""First order: $h = \nabla E(a)$ and no couplings, by one gradient.

    Args:
        energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
        anchor: a, spins `[*B, n]`.
        generator: not used.
    """
    a = _anchors(anchor)
    E, g = Counted.of(energy).gradient(a[..., None, :])
    change = -2 * a * g[..., 0, :]
    return _problem(_edgeless(a.shape[-1]), a, E[..., 0], change, a.new_zeros(0))


@public("qsample.diffusion")
def secant(
    energy: Energy,
    anchor: Tensor,
    *,
    graph: Graph | None = None,
    generator: Generators | None = None,
) -> Ising:
    r"""Exact at the anchor and wherever one site, or both ends of an edge of `graph`, are flipped.

    With $d_i = E(a^{(i)}) - E(a)$ and $D_{ij} = E(a^{(ij)}) - E(a) - d_i - d_j$ (a with those sites
    flipped)

    $$J_{ij} = D_{ij} a_i a_j / 4, \qquad h_i = -a_i \Big(d_i/2 + \sum_j D_{ij}/4\Big)$$

    1 + n + edges evaluations and no gradient.

    Args:
        energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
        anchor: a, spins `[*B, n]`.
        graph: the couplings of the problem; complete by default.
        generator: not used.
    """
    a = _anchors(anchor)
    graph = _graph(graph, a)
    n = a.shape[-1]
    i, j = graph.edges.to(a.device)

    # the anchor, then each site flipped, then each edge's two ends
    signs = a.new_ones(1 + n + len(i), n)
    signs[1 + torch.arange(n), torch.arange(n)] = -1
    pairs = 1 + n + torch.arange(len(i), device=a.device)
    signs[pairs, i] = signs[pairs, j] = -1
    E = Counted.of(energy)(a[..., None, :] * signs)

    base = E[..., :1]
    single = E[..., 1 : n + 1] - base
    both = E[..., n + 1 :] - base
    return _problem(graph, a, base[..., 0], single, both - single[..., i] - single[..., j])


@public("qsample.diffusion")
def taylor(
    energy: Energy,
    anchor: Tensor,
    *,
    graph: Graph | None = None,
    generator: Generators | None = None,
) -> Ising:
    r"""Second order: $J_{ij} = H_{ij}$ and $h = g - H a$, of gradient g and Hessian H at a.

    One gradient and n Hessian-vector products. The diagonal of H reaches the constant alone, for
    $s_i^2 = 1$. Loses to `linear` where the network saturates.

    Args:
        energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
        anchor: a, spins `[*B, n]`.
        graph: the couplings of the problem; complete by default.
        generator: not used.
    """
    a = _anchors(anchor)
    energy = Counted.of(energy)
    graph = _graph(graph, a)
    n = a.shape[-1]
    i, j = graph.edges.to(a.device)
    E, g = energy.gradient(a[..., None, :])
    units = torch.eye(n, dtype=a.dtype, device=a.device).expand(*a.shape, n)
    H = energy.hessian_vector(a[..., None, :].expand(*a.shape, n), units)
    change = -2 * a * g[..., 0, :] + 2 * H.diagonal(dim1=-2, dim2=-1)
    pair_change = 4 * a[..., i] * a[..., j] * H[..., i, j]
    return _problem(graph, a, E[..., 0], change, pair_change)


@public("qsample.diffusion")
def regression(
    energy: Energy,
    anchor: Tensor,
    *,
    graph: Graph | None = None,
    flips: float = 0.25,
    states: int | Tensor | None = None,
    ridge: float = 1e-2,
    sampler: Sampler | None = None,
    rounds: int = 4,
    generator: Generators | None = None,
) -> Ising:
    r"""Least squares on states near the anchor: each of its sites flipped with probability `flips`.

    $$\min_{c,h,J} \frac1M \sum_m
      \Big(E(s_m) - c - h\cdot s_m - \sum_{ij} J_{ij} s_{m,i} s_{m,j}\Big)^2
      + \mathrm{ridge}\,(|h|^2 + |J|^2)$$

    At `flips` = 1/2 the states are uniform and the anchor does not matter. With a `sampler` the fit
    goes where the mass is: a first share of the states lies near the anchor, and each further
    round's are the sampler's reads of the fit so far at beta 1/2. Any sampler will do: a poor one
    makes a poor fit, never a wrong chain.

    Args:
        energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
        anchor: a, spins `[*B, n]`.
        graph: the couplings fitted; complete by default. The cost is M evaluations, and p^2 (M + p)
            operations for p coefficients.
        flips: probability that a site of a state is flipped, in (0, 1/2].
        states: M in all, by default twice the number of coefficients; or the states themselves,
            `[*B, M, n]` or `[M, n]`: rows of data, reads of another run, made without looking at
            the chains that the fit will move.
        ridge: penalty that keeps a fit on few states from running wild.
        sampler: draws the states of the rounds after the first; None makes one round.
        rounds: number of draws and fits, with a sampler.
        generator: one for all anchors, or a list with one per anchor; None is torch's default.

    Raises:
        ValueError: flips outside (0, 1/2], states that are no spins, fewer states than rounds.
    """
    a = _anchors(anchor)
    energy = Counted.of(energy)
    graph = _graph(graph, a)
    if not 0 < flips <= 0.5:
        raise ValueError(f"expected 0 < flips <= 0.5; got {flips}")
    if isinstance(states, Tensor):
        s = _given(states, a)
        return _fit(graph, s, energy(s), ridge)

    # how many states each round adds
    n = a.shape[-1]
    rounds = 1 if sampler is None else rounds
    count = 2 * (1 + n + graph.num_edges) if states is None else states
    if not 1 <= rounds <= count:
        raise ValueError(f"expected states >= rounds >= 1; got {count} states in {rounds} rounds")
    shares = [count // rounds + (k < count % rounds) for k in range(rounds)]

    # the first round's: near the anchor
    draws = Draws(draw_seeds(generator, a.shape[:-1]), a.device)
    flipped = draws.uniform(shares[0], n) < flips
    flipped = flipped.reshape(*a.shape[:-1], shares[0], n)
    s = torch.where(flipped, -a[..., None, :], a[..., None, :])
    E = energy(s)

    # the others': where the fit so far puts the mass, at half its beta
    for share in shares[1:]:
        assert sampler is not None
        hot = _fit(graph, s, E, ridge).scale(0.5)
        reads = sampler.sample(hot, share, generator=generator).spins.to(s)
        s = torch.cat([s, reads], -2)
        E = torch.cat([E, energy(reads)], -1)
    return _fit(graph, s, E, ridge)


# ---- about the centre of the cube ----------------


@public("qsample.diffusion")
def first_order(energy: Energy, anchor: Tensor, *, generator: Generators | None = None) -> Ising:
    r"""First order: $h = \nabla E(0)$ and no couplings, by one gradient.

    Args:
        energy: E, a function of states `[*B, M, n]` to `[*B, M]`, smooth between spins.
        anchor: a tensor `[*B, n]`, of which the shape, dtype and device are used.
        generator: not used.

    Raises:
        ValueError: an energy without a gradient.
    """
    centre = torch.zeros_like(anchor)
    try:
        E, g = Counted.of(energy).gradient(centre[..., None, :])
    except NoGradient:
        raise NoGradient(_advice(anchor.shape[-1])) from None
    h = g[..., 0, :]
    return Ising(_edgeless(anchor.shape[-1]), h, h.new_zeros(0), E[..., 0])


@public("qsample.diffusion")
def second_order(energy: Energy, anchor: Tensor, *, generator: Generators | None = None) -> Ising:
    r"""Second order: $h = \nabla E(0)$ and $J = \mathrm{offdiag}\,\nabla^2 E(0)$.

    Exact for a quadratic E, offset and all. One gradient and n Hessian-vector products. Attention
    is evaluated by its plain formula here: its fused kernels have no second derivative.

    Args:
        energy: E, a function of states `[*B, M, n]` to `[*B, M]`, smooth between spins.
        anchor: a tensor `[*B, n]`, of which the shape, dtype and device are used.
        generator: not used.

    Raises:
        ValueError: an energy without a gradient, or without a second derivative.
    """
    energy = Counted.of(energy)
    n = anchor.shape[-1]
    # one pass forward for all rows of the Hessian, n passes back
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        centre = torch.zeros_like(anchor).requires_grad_()
        E = energy.energy(centre[..., None, :])[..., 0]
        if not E.requires_grad:
            raise NoGradient(_advice(n))
        (g,) = torch.autograd.grad(E.sum(), centre, create_graph=True, materialize_grads=True)
        rows = [_hessian_row(g, centre, k) for k in range(n)]
    energy.counts["gradients"] += anchor.shape[:-1].numel()
    energy.counts["hessian_vectors"] += anchor.shape.numel()

    H = torch.stack(rows, -2)
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    J = (H + H.mT) / 2 - torch.diag_embed(diagonal)  # symmetric to the last bit
    return Ising(_complete(n), g.detach(), J, E.detach() + diagonal.sum(-1) / 2)


def _hessian_row(g: Tensor, centre: Tensor, k: int) -> Tensor:
    """Row k of the Hessian, `[*B, n]`: the derivative of g_k."""
    if not g.requires_grad:  # E is linear
        return torch.zeros_like(g)
    slope = g[..., k].sum()
    try:
        (row,) = torch.autograd.grad(slope, centre, retain_graph=True, materialize_grads=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # a kernel of the network that autograd cannot derive twice
        cause = str(error).splitlines()[0]
        raise ValueError(
            f"the energy has no second derivative: use surrogate=first_order ({cause})"
        ) from error
    return row


def _advice(n: int) -> str:
    """A fit without couplings: twice as many evaluations as it has coefficients."""
    fit = f"partial(regression, flips=0.5, graph=qs.Graph.sparse({n}, []))"
    return f"the energy has no gradient: use surrogate={fit}, {2 * (n + 1)} evaluations a step"


# ---- a fixed problem on blocks ----------------


def restricted(problem: Ising, x: Tensor, sites: Tensor) -> Ising:
    """A problem of n spins as one of `sites` alone, per chain; all others stay as in x.

    Its offset leaves out what does not depend on the sites. With all sites in order J stays shared
    by the chains.

    Args:
        problem: the problem `[*B]` on all sites.
        x: spins `[*B, R, n]`.
        sites: K site numbers per chain, `[*B, R, K]`.

    Raises:
        ValueError: a problem of another number of spins, or on another device.
    """
    graph = problem.graph
    n = x.shape[-1]
    K = sites.shape[-1]
    if graph.num_spins != n or problem.device != x.device:
        raise ValueError(
            f"the surrogate has {graph.num_spins} spins on {problem.device}, x {n} sites on "
            f"{x.device}: expected one problem of all sites"
        )
    problem = problem.detach()
    if K == n and (sites == torch.arange(n, device=sites.device)).all():
        pairs = len(graph.coupling_shape)
        batched = problem.J.dim() > pairs
        J = problem.J.unsqueeze(-1 - pairs) if batched else problem.J
        return Ising(graph, problem.h[..., None, :].expand(x.shape), J)

    # J as a full matrix, symmetric with zero diagonal
    i, j = graph.edges.to(x.device)
    values = graph.edge_values(problem.J)
    full = values.new_zeros(*values.shape[:-1], n, n)
    full[..., i, j] = full[..., j, i] = values

    # fields of the spins outside, which the block cannot enter
    outside = x.to(problem.h).scatter(-1, sites, 0)
    field = problem.h[..., None, :] + product(outside, full)

    # rows, then columns of the block
    full = full[..., None, :, :].expand(*sites.shape[:-1], n, n)
    rows = full.gather(-2, sites[..., None].expand(*sites.shape, n))
    J = rows.gather(-1, sites[..., None, :].expand(*sites.shape[:-1], K, K))
    return Ising(_complete(K), field.gather(-1, sites), J)


# ---- shared steps ----------------


def _fit(graph: Graph, s: Tensor, E: Tensor, ridge: float) -> Ising:
    """Least squares on states s `[*B, M, n]` of energies E `[*B, M]`, by the normal equations.

    In double precision, about the means: the constant is not shrunk.
    """
    x = s.double()
    i, j = graph.edges.to(s.device)
    M, n = s.shape[-2:]
    features = torch.cat([x, x[..., i] * x[..., j]], -1)
    mean = features.mean(-2, keepdim=True)
    mean_energy = E.double().mean(-1, keepdim=True)

    X = features - mean
    y = (E.double() - mean_energy)[..., None]
    identity = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    gram = X.mT @ X / M + ridge * identity
    coefficients = torch.linalg.solve(gram, X.mT @ y / M)

    h, J = coefficients[..., 0].to(s).split([n, len(i)], -1)
    offset = (mean_energy - (mean @ coefficients)[..., 0])[..., 0]
    return Ising(graph, h, graph.couplings(J), offset.to(s))


def _problem(graph: Graph, a: Tensor, E: Tensor, change: Tensor, pair_change: Tensor) -> Ising:
    """The problem of energy E at a, by what flips change.

    The energy changes by `change`_i when site i is flipped, and by `change`_i + `change`_j +
    `pair_change`_ij with both ends of an edge.
    """
    i, j = graph.edges.to(a.device)
    quarter = (pair_change / 4).expand(*a.shape[:-1], -1)
    total = torch.zeros_like(a)
    total = total.index_add(-1, i, quarter.to(a)).index_add(-1, j, quarter.to(a))
    h = -a * (change / 2 + total)
    J = quarter * a[..., i] * a[..., j]
    offset = E.to(h) - (h * a).sum(-1) - quarter.to(h).sum(-1)
    return Ising(graph, h, graph.couplings(J.to(h)), offset)


def _given(states: Tensor, a: Tensor) -> Tensor:
    """The user's states as `[*B, M, n]` in the anchors' dtype; a ValueError for others."""
    n = a.shape[-1]
    if states.dim() < 2 or states.shape[-1] != n or not (states.abs() == 1).all():
        raise ValueError(f"expected states [*B, M, {n}] of -1 and +1; got {list(states.shape)}")
    return states.to(a).expand(*a.shape[:-1], *states.shape[-2:])


def _anchors(anchor: Tensor) -> Tensor:
    """Checked anchors as floats."""
    if anchor.dim() < 1 or anchor.shape[-1] == 0:
        raise ValueError(
            f"expected an anchor [*, n] of -1 and +1; got shape {list(anchor.shape)}: take its sign"
        )
    check_spins("an anchor [*, n]", anchor, "take its sign")
    return anchor if anchor.is_floating_point() else anchor.to(torch.get_default_dtype())


def _graph(graph: Graph | None, a: Tensor) -> Graph:
    """The graph given, checked; the complete one for None."""
    n = a.shape[-1]
    if graph is not None and graph.num_spins != n:
        raise ValueError(
            f"the graph has {graph.num_spins} spins, the anchor {n} sites: expected as many"
        )
    return _complete(n) if graph is None else graph


@cache
def _complete(n: int) -> Graph:
    """The same graph each time, with what is cached on it."""
    return Graph.complete(n)


@cache
def _edgeless(n: int) -> Graph:
    """The same graph each time, with what is cached on it."""
    return Graph.sparse(n, [])
