"""Everything small is enumerated: all states, their energies, log Z. Batched, chunked, differentiable in h and J."""

from __future__ import annotations

import torch
from torch import Tensor

from qsample.ising import Ising
from qsample.products import product

CHUNK = 1 << 18  # numbers worked on at once: what stays in a core's cache


def states_of(number: Tensor, n: int) -> Tensor:
    """The states of n spins with the given numbers, `[..., n]` int8; spin i is +1 where bit i is set."""
    return ((number[..., None] >> torch.arange(n, device=number.device)) & 1).to(torch.int8) * 2 - 1


def states(n: int, start: int = 0, stop: int | None = None) -> Tensor:
    """States number start..stop-1 of n spins (all 2^n by default), `[count, n]` int8."""
    return states_of(torch.arange(start, 1 << n if stop is None else stop), n)


def log_2cosh(x: Tensor) -> Tensor:
    """log(2 cosh x), without overflow: what a free spin in field x sums to.

    (torch's softplus rounds a number by its place in the tensor.)
    """
    return x.abs() + (-2 * x.abs()).exp().log1p()


def small_side(problem: Ising) -> int | None:
    """The side (0 left, 1 right) of a bipartite problem with fewer spins; None for other graphs."""
    if problem.graph.kind != "bipartite":
        return None
    return int(problem.graph.sizes[0] > problem.graph.sizes[1])


def num_enumerated(problem: Ising) -> int:
    """Spins whose states must be listed: all, or the smaller side of a bipartite graph."""
    side = small_side(problem)
    return problem.num_spins if side is None else problem.graph.sizes[side]


def side_log_weights(problem: Ising, side: int, listed: Tensor) -> Tensor:
    r"""For states `listed` [*B or none, count, k] of one side: log of the Boltzmann weight summed over the other side.

    $\log w(v) = -\mathrm{offset} - h_v \cdot v + \sum_j \log 2\cosh f_j(v)$, f_j = h_j + (v J)_j; `[*B, count]`.
    """
    h = problem.h.split(problem.graph.sizes, -1)
    v = listed.to(problem.h)
    f = h[1 - side][..., None, :] + product(v, problem.J if side == 0 else problem.J.mT)
    return log_2cosh(f).sum(-1) - (v * h[side][..., None, :]).sum(-1) - problem.offset[..., None]


def log_weights(problem: Ising) -> Tensor:
    """-E of all 2^n states, `[*B, 2^n]`, in the order of `states`: built by doubling, two additions a state.

    Adding spin k to the energies e of the first k spins gives [e - x, e + x], x = h_k + (its couplings to them),
    and x itself is built the same way.
    """
    batch, n = problem.batch_shape, problem.num_spins
    if problem.graph.kind == "complete":
        J = problem.J
    else:
        i, j = problem.graph.edges.to(problem.device)
        values = problem.graph.edge_values(problem.J)
        J = values.new_zeros(*values.shape[:-1], n, n)
        J[..., i, j] = values
        J = J + J.mT
    e = problem.offset.expand(batch)[..., None]
    for k in range(n):
        x = problem.h[..., k, None]
        for i in range(k):
            x = torch.cat([x - J[..., i, k, None], x + J[..., i, k, None]], -1)
        e = torch.cat([e - x, e + x], -1)
    return -e


def log_partition(problem: Ising, limit: int = 24) -> Tensor:
    """Exact log Z = log of the sum over states of exp(-E), `[*B]`, in the problem's dtype; differentiable.

    A bipartite problem is summed over its smaller side only, in chunks.

    Raises:
        ValueError: more than `limit` spins would have to be listed.
    """
    k = num_enumerated(problem)
    if k > limit:
        raise ValueError(
            f"exact log Z would list 2^{k} states (limit 2^{limit}): use log_partition(problem, method='ais')"
        )
    if problem.num_spins == 0:
        return -problem.offset.expand(problem.batch_shape)
    side = small_side(problem)
    if side is None:
        return log_weights(problem).logsumexp(-1)
    step = max(1, CHUNK // (max(1, problem.num_spins - k) * max(1, problem.batch_shape.numel())))
    parts = [
        side_log_weights(problem, side, states(k, a, min(a + step, 1 << k)).to(problem.device)).logsumexp(-1)
        for a in range(0, 1 << k, step)
    ]
    return torch.stack(torch.broadcast_tensors(*parts)).logsumexp(0).expand(problem.batch_shape)
