"""Quadratic surrogates of any energy: an Ising problem that an annealer can answer in the energy's stead.

Each takes an energy `[*B, M, n] -> [*B, M]` and anchors `[*B, n]` of spins, one a problem, and gives one batched
problem. Kernels call them on blocks of sites and correct what they get wrong (`BlockMetropolis`). On a small tanh
network `secant` is best for short steps and `regression` for long ones, with a sampler most of all; `taylor` is an
option only, since the curvature of a saturated network says nothing about flips.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from qsample.neural.energy import Counted, Energy
from qsample.problem.exact_products import product
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.random import Draws
from qsample.sampling.sampler import Generators, Sampler, draw_seeds


@runtime_checkable
class Surrogate(Protocol):
    """What `BlockMetropolis` asks of a surrogate; `functools.partial(regression, flips=0.5)` sets its options."""

    def __call__(self, energy: Energy, anchor: Tensor, *, generator: Generators | None = None) -> Ising:
        """A problem for each anchor."""
        ...


def linear(energy: Energy, anchor: Tensor, *, generator: Generators | None = None) -> Ising:
    r"""First order: $h = \nabla E(a)$, no couplings; one gradient, and `generator` unused."""
    a = _anchors(anchor)
    E, g = Counted.of(energy).gradient(a[..., None, :])
    return _problem(Graph.sparse(a.shape[-1], []), a, E[..., 0], -2 * a * g[..., 0, :], a.new_zeros(0))


def secant(energy: Energy, anchor: Tensor, *, graph: Graph | None = None, generator: Generators | None = None) -> Ising:
    r"""Exact at the anchor and wherever one site, or the two ends of an edge of `graph`, are flipped.

    With $d_i = E(a^{(i)}) - E(a)$ and $D_{ij} = E(a^{(ij)}) - E(a) - d_i - d_j$ (a with those sites flipped)

    $$J_{ij} = D_{ij} a_i a_j / 4, \qquad h_i = -a_i \Big(d_i/2 + \sum_j D_{ij}/4\Big)$$

    1 + n + edges evaluations and no gradient. `graph` is complete by default. `generator` is not used.
    """
    a = _anchors(anchor)
    graph = _graph(graph, a)
    n, (i, j) = a.shape[-1], graph.edges.to(a.device)
    flips = a.new_ones(1 + n + len(i), n)
    flips[1 + torch.arange(n), torch.arange(n)] = -1
    pairs = 1 + n + torch.arange(len(i), device=a.device)
    flips[pairs, i] = flips[pairs, j] = -1
    E = Counted.of(energy)(a[..., None, :] * flips)
    base, d, both = E[..., :1], E[..., 1 : n + 1] - E[..., :1], E[..., n + 1 :] - E[..., :1]
    return _problem(graph, a, base[..., 0], d, both - d[..., i] - d[..., j])


def taylor(energy: Energy, anchor: Tensor, *, graph: Graph | None = None, generator: Generators | None = None) -> Ising:
    r"""Second order: $J_{ij} = H_{ij}$ on the edges of `graph`, $h = g - H a$, of gradient g and Hessian H at a.

    One gradient and n Hessian-vector products. The diagonal of H reaches the constant alone, for $s_i^2 = 1$. Loses
    to `linear` where the network saturates. `generator` is not used.
    """
    a, energy = _anchors(anchor), Counted.of(energy)
    graph = _graph(graph, a)
    n, (i, j) = a.shape[-1], graph.edges.to(a.device)
    E, g = energy.gradient(a[..., None, :])
    units = torch.eye(n, dtype=a.dtype, device=a.device).expand(*a.shape, n)
    H = energy.hessian_vector(a[..., None, :].expand(*a.shape, n), units)
    d = -2 * a * g[..., 0, :] + 2 * H.diagonal(dim1=-2, dim2=-1)
    return _problem(graph, a, E[..., 0], d, 4 * a[..., i] * a[..., j] * H[..., i, j])


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

    $$\min_{c,h,J} \frac1M \sum_m \Big(E(s_m) - c - h\cdot s_m - \sum_{ij} J_{ij} s_{m,i} s_{m,j}\Big)^2
      + \mathrm{ridge}\,(|h|^2 + |J|^2)$$

    At `flips` = 1/2 the states are uniform and the anchor does not matter. With a `sampler` the fit goes where the mass
    is: a first share of the states lies near the anchor, and each further round's are the sampler's reads of the fit
    so far at beta 1/2. Any sampler will do: a poor one makes a poor fit, never a wrong chain.

    Args:
        energy: `[*B, M, n]` to `[*B, M]`.
        anchor: `[*B, n]` of -1 and +1.
        graph: the couplings fitted, all by default. The cost is M evaluations, and p^2 (M + p) operations for p
            coefficients.
        flips: of each site, in (0, 1/2].
        states: M in all, by default twice the number of coefficients; or the states themselves, `[*B, M, n]` or
            `[M, n]`: rows of data, reads of another run, made without looking at the chains that the fit will move.
        ridge: keeps a fit on few states from running wild.
        sampler: draws the states of the rounds after the first.
        rounds: of states and fits, with a sampler.
        generator: of the states, one for all anchors or a list.
    """
    a, energy = _anchors(anchor), Counted.of(energy)
    graph = _graph(graph, a)
    if not 0 < flips <= 0.5:
        raise ValueError(f"expected 0 < flips <= 0.5; got {flips}")
    if isinstance(states, Tensor):
        if states.dim() < 2 or states.shape[-1] != a.shape[-1] or not (states.abs() == 1).all():
            raise ValueError(f"expected states [*B, M, {a.shape[-1]}] of -1 and +1; got {list(states.shape)}")
        s = states.to(a).expand(*a.shape[:-1], *states.shape[-2:])
        return _fit(graph, s, energy(s), ridge)
    n, rounds = a.shape[-1], 1 if sampler is None else rounds
    count = 2 * (1 + n + graph.num_edges) if states is None else states
    if not 1 <= rounds <= count:
        raise ValueError(f"expected states >= rounds >= 1; got {count} states in {rounds} rounds")
    draws = Draws(draw_seeds(generator, a.shape[:-1]), a.device)
    shares = [count // rounds + (k < count % rounds) for k in range(rounds)]
    flipped = (draws.uniform(shares[0], n) < flips).reshape(*a.shape[:-1], shares[0], n)
    s = torch.where(flipped, -a[..., None, :], a[..., None, :])
    E = energy(s)
    for share in shares[1:]:
        assert sampler is not None
        found = sampler.sample(_fit(graph, s, E, ridge).scale(0.5), share, generator=generator)
        more = found.spins.to(s)
        s, E = torch.cat([s, more], -2), torch.cat([E, energy(more)], -1)
    return _fit(graph, s, E, ridge)


def restricted(problem: Ising, x: Tensor, sites: Tensor) -> Ising:
    """The problem `[*B]` of n spins on `sites` `[*B, R, K]` alone, all others as in x `[*B, R, n]`: one a chain.

    Its offset leaves out what does not depend on the sites. With all sites in order J stays shared by the chains.
    """
    graph, n, K = problem.graph, x.shape[-1], sites.shape[-1]
    if graph.num_spins != n or problem.device != x.device:
        ours = f"{graph.num_spins} spins on {problem.device}"
        raise ValueError(f"the surrogate has {ours}, x {n} sites on {x.device}: expected one problem of all sites")
    problem = problem.detach()
    if K == n and (sites == torch.arange(n, device=sites.device)).all():
        own = problem.J.dim() > len(graph.coupling_shape)
        J = problem.J.unsqueeze(-1 - len(graph.coupling_shape)) if own else problem.J
        return Ising(graph, problem.h[..., None, :].expand(x.shape), J)
    (i, j), outside = graph.edges.to(x.device), x.to(problem.h).scatter(-1, sites, 0)  # which the block cannot enter
    values = graph.edge_values(problem.J)
    full = values.new_zeros(*values.shape[:-1], n, n)
    full[..., i, j] = full[..., j, i] = values
    field = problem.h[..., None, :] + product(outside, full)
    rows = full[..., None, :, :].expand(*sites.shape[:-1], n, n).gather(-2, sites[..., None].expand(*sites.shape, n))
    J = rows.gather(-1, sites[..., None, :].expand(*sites.shape[:-1], K, K))
    return Ising(_complete(K), field.gather(-1, sites), J)


def _fit(graph: Graph, s: Tensor, E: Tensor, ridge: float) -> Ising:
    """Least squares by the normal equations, in double precision, about the means (the constant is not shrunk)."""
    x, y = s.double(), E.double()
    (i, j), n = graph.edges.to(s.device), s.shape[-1]
    features = torch.cat([x, x[..., i] * x[..., j]], -1)
    centre, middle = features.mean(-2, keepdim=True), y.mean(-1, keepdim=True)
    X, y = features - centre, (y - middle)[..., None]
    gram = X.mT @ X / s.shape[-2] + ridge * torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    found = torch.linalg.solve(gram, X.mT @ y / s.shape[-2])
    h, J = found[..., 0].to(s).split([n, len(i)], -1)
    return Ising(graph, h, graph.couplings(J), (middle - (centre @ found)[..., 0])[..., 0].to(s))


def _problem(graph: Graph, a: Tensor, E: Tensor, d: Tensor, D: Tensor) -> Ising:
    """The problem of energy E at a, changed by d_i when site i is flipped, and by d_i + d_j + D_ij with both."""
    i, j = graph.edges.to(a.device)
    quarter = (D / 4).expand(*a.shape[:-1], -1)
    total = torch.zeros_like(a).index_add(-1, i, quarter.to(a)).index_add(-1, j, quarter.to(a))
    h, J = -a * (d / 2 + total), quarter * a[..., i] * a[..., j]
    return Ising(graph, h, graph.couplings(J.to(h)), E.to(h) - (h * a).sum(-1) - quarter.to(h).sum(-1))


def _anchors(anchor: Tensor) -> Tensor:
    if anchor.dim() < 1 or anchor.shape[-1] == 0 or not (anchor.abs() == 1).all():
        odd = anchor[anchor.abs() != 1] if anchor.dim() else anchor
        found = f"{float(odd.flatten()[0]):g}" if odd.numel() else f"shape {list(anchor.shape)}"
        raise ValueError(f"expected an anchor [*, n] of -1 and +1; got {found}: take its sign")
    return anchor if anchor.is_floating_point() else anchor.to(torch.get_default_dtype())


def _graph(graph: Graph | None, a: Tensor) -> Graph:
    n = a.shape[-1]
    if graph is not None and graph.num_spins != n:
        raise ValueError(f"the graph has {graph.num_spins} spins, the anchor {n} sites: expected as many")
    return _complete(n) if graph is None else graph


def _complete(n: int) -> Graph:
    """Kept, with what is cached on it."""
    if n not in _COMPLETE:
        _COMPLETE[n] = Graph.complete(n)
    return _COMPLETE[n]


_COMPLETE: dict[int, Graph] = {}
