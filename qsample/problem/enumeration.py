"""Everything small is enumerated: all states, their energies, log Z.

Batched, in chunks, differentiable in h and J. Log-weights are float64 whatever the problem's dtype,
and without the offset, which is in no law: a large one would take the digits that tell states
apart.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qsample.problem.exact_products import product
from qsample.problem.ising import Ising

# the largest local field that double precision serves: one rounding moves a logit by 2^-10
DOUBLE = 2.0**42
CHUNK = 1 << 18  # numbers worked on at once: what stays in a core's cache


def states_of(number: Tensor, n: int) -> Tensor:
    """The states of n spins with the given numbers, `[..., n]` int8.

    Spin i is +1 where bit i of the number is set.
    """
    return ((number[..., None] >> torch.arange(n, device=number.device)) & 1).to(torch.int8) * 2 - 1


def states(n: int, start: int = 0, stop: int | None = None) -> Tensor:
    """States of n spins in the order of their numbers, `[stop - start, n]` int8.

    Args:
        n: Number of spins.
        start: Number of the first state; 0 by default.
        stop: Number after the last state; 2^n by default.
    """
    stop = 1 << n if stop is None else stop
    return states_of(torch.arange(start, stop), n)


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


def check_range(problem: Ising) -> None:
    """ValueError where double precision cannot hold an energy, or loses its small parts.

    A sum of fields as large as F is rounded to 2^-53 F. Beyond F = 2^42 that is no longer small
    beside 1, unless all h and J are multiples of one number that F holds no more than 2^53 times.
    """
    numbers = (problem.h, problem.J)
    largest = max((float(t.detach().abs().max()) for t in numbers if t.numel()), default=0.0)
    if 4.0 * largest * (problem.num_spins + problem.graph.num_edges) == float("inf"):
        raise ValueError(
            f"fields or couplings of {largest:.3g} add up to more than double precision holds:"
            " use problem.scale(...) or other units"
        )
    graph = problem.graph
    neighbours = max(graph.sizes)
    if graph.kind == "sparse":
        neighbours = int(graph.degree.max()) if graph.num_spins else 0
    reach = largest * (1 + neighbours)
    if reach > DOUBLE and not _one_unit(numbers, largest):
        raise ValueError(
            f"beside fields or couplings of {largest:.3g} smaller ones are lost: "
            f"beyond {DOUBLE:.2g} not even double precision tells neighbouring states apart: "
            f"scale it down, as by problem.scale({1 / largest:.0e})"
        )


def _one_unit(numbers: tuple[Tensor, Tensor], largest: float) -> bool:
    """Whether all are multiples of one number: double precision does not round their sums."""
    unit = 2.0 ** (math.frexp(largest)[1] - 45)  # 2^53 units hold sums of 256 of the largest
    scaled = (t.detach().double() / unit for t in numbers)
    return all(bool((t == t.round()).all()) for t in scaled)


def side_log_weights(problem: Ising, side: int, listed: Tensor) -> Tensor:
    r"""Log-weights of states of one side, summed over the other: `[*B, count]` float64.

    $\log w(v) = -h_v \cdot v + \sum_j \log 2\cosh f_j(v)$, f_j = h_j + (v J)_j, without the offset.

    Args:
        problem: A bipartite problem.
        side: The side whose states are given, 0 (left) or 1 (right).
        listed: States of it, `[count, k]`, or `[*B, count, k]` with some for each problem.
    """
    h = problem.h.double().split(problem.graph.sizes, -1)
    J = problem.J.double()
    if side == 1:
        J = J.mT
    v = listed.to(h[side])
    field = h[1 - side][..., None, :] + product(v, J)
    return log_2cosh(field).sum(-1) - (v * h[side][..., None, :]).sum(-1)


def log_weights(problem: Ising) -> Tensor:
    """Offset - E of all 2^n states in the order of `states`, `[*B, 2^n]` float64.

    Two additions per state: adding spin k to the energies E of the first k spins gives
    [E - f, E + f], f = h_k + (its couplings to them), and f itself is built the same way.
    """
    batch = problem.batch_shape
    n = problem.num_spins
    h = problem.h.double()
    if problem.graph.kind == "complete":
        J = problem.J.double()
    else:
        i, j = problem.graph.edges.to(problem.device)
        values = problem.graph.edge_values(problem.J.double())
        J = values.new_zeros(*values.shape[:-1], n, n)
        J[..., i, j] = values
        J = J + J.mT
    energy = h.new_zeros(*batch, 1)
    for k in range(n):
        field = h[..., k, None]
        for i in range(k):
            coupling = J[..., i, k, None]
            field = torch.cat([field - coupling, field + coupling], -1)
        energy = torch.cat([energy - field, energy + field], -1)
    return -energy


def log_partition(problem: Ising, limit: int = 24) -> Tensor:
    """Exact log Z = log of the sum over states of exp(-E), float64 `[*B]`; differentiable.

    A bipartite problem is summed over its smaller side only, in chunks.

    Raises:
        ValueError: More than 2^`limit` states would have to be listed.
    """
    k = num_enumerated(problem)
    if k > limit:
        raise ValueError(
            f"exact log Z would list 2^{k} states (limit 2^{limit}): "
            "use log_partition(problem, method='ais')"
        )
    check_range(problem)
    offset = problem.offset.double().expand(problem.batch_shape)
    if problem.num_spins == 0:
        return -offset
    side = small_side(problem)
    if side is None:
        return log_weights(problem).logsumexp(-1) - offset
    summed_over = max(1, problem.num_spins - k)
    step = max(1, CHUNK // (summed_over * max(1, problem.batch_shape.numel())))
    parts = []
    for start in range(0, 1 << k, step):
        listed = states(k, start, min(start + step, 1 << k)).to(problem.device)
        parts.append(side_log_weights(problem, side, listed).logsumexp(-1))
    return torch.stack(torch.broadcast_tensors(*parts)).logsumexp(0) - offset
