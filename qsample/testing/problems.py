"""The problems of the contract: small ones of every kind, and larger ones of known law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qsample.problem.graph import Graph, Kind
from qsample.problem.ising import Ising
from qsample.support.faces import public


@public("qsample.testing")
class Case(NamedTuple):
    """A problem (or batch) whose connected parts can be enumerated, with a name.

    `share`: the case's part of the `reads` of `check_sampler`.
    """

    name: str
    problem: Ising
    share: float = 1.0


class Normals:
    """Normal numbers from a seed, in the order they are asked for."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The next ones, rounded to a dtype."""
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).to(dtype)

    def couplings(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Of both signs and 0.5 to 1 in size: none so small that leaving it out would not show."""
        return (
            self(*shape).sign()
            * (0.5 + torch.rand(shape, generator=self.generator, dtype=torch.float32) / 2)
        ).to(dtype)

    def symmetric(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Couplings of a complete graph, `[..., n, n]`."""
        upper = self.couplings(*shape, shape[-1]).triu(1)
        return (upper + upper.mT).to(dtype)


def single(*values: float) -> Tensor:
    """Numbers in single precision, whatever the default dtype."""
    return torch.tensor(values, dtype=torch.float32)


def ring(
    n: int, chords: Sequence[tuple[int, int]] = (), labels: Sequence[str] | None = None
) -> Graph:
    """A ring of n spins, its edges given both ways round, and chords.

    Args:
        n: number of spins.
        chords: further edges, none by default.
        labels: labels of the spins, 0..n-1 by default.
    """
    around = [(k, (k + 1) % n) if k % 2 else ((k + 1) % n, k) for k in range(n)]
    return Graph.sparse(n, [*around, *chords], labels)


def chain(n: int) -> Graph:
    """A row of n spins."""
    return Graph.sparse(n, [(k, k + 1) for k in range(n - 1)])


def reference_cases() -> list[Case]:
    """What a caller can vary, each value in more than one problem.

    Kinds of graph, 1 to 132 spins, connected or not; weak, unit and strong couplings, no fields;
    single and double precision; an offset or none; batches of every shape in which h, J, the offset
    or all of them differ.
    """
    double = torch.float64
    normal = Normals(20)
    return [
        Case("sparse", Ising(ring(6, [(0, 3)]), 0.4 * normal(6), 0.9 * normal.couplings(7), 0.3)),
        Case(
            "sparse, double, labelled",
            Ising(
                ring(7, [(2, 5)], "gacbfed"),
                0.4 * normal(7, dtype=double),
                0.8 * normal.couplings(8, dtype=double),
            ),
        ),
        Case(
            "bipartite", Ising(Graph.bipartite(4, 3), 0.4 * normal(7), 0.5 * normal.couplings(4, 3))
        ),
        Case(
            "complete, a batch",
            Ising(Graph.complete(5), 0.3 * normal(2, 5), 0.5 * normal.symmetric(2, 5)),
            0.7,
        ),
        Case(
            "bipartite, double, a batch of J",
            Ising(
                Graph.bipartite(6, 5),
                0.4 * normal(11, dtype=double),
                0.3 * normal.couplings(3, 6, 5, dtype=double),
                -2.5,
            ),
            0.5,
        ),
        Case(
            "complete, double",
            Ising(
                Graph.complete(11),
                0.3 * normal(11, dtype=double),
                0.2 * normal.symmetric(11, dtype=double),
                7.0,
            ),
        ),
        Case(
            "sparse, a batch sharing J",
            Ising(
                ring(6, [(0, 3)]),
                (0.6 * normal(6, 3)).mT.requires_grad_(),
                0.8 * normal.couplings(7),
            ),
            0.5,
        ),
        Case(
            "sparse, a batch of 2 by 3, broadcast",
            Ising(chain(5), 0.5 * normal(2, 1, 5), 0.8 * normal.couplings(3, 4), 3 * normal(2, 3)),
            0.3,
        ),
        Case(
            "sparse, a batch of offsets",
            Ising(
                Graph.sparse(5, [(0, 1), (1, 3), (3, 4)]),  # spin 2 stands alone
                0.5 * normal(5, dtype=double),
                0.8 * normal.couplings(3, dtype=double),
                normal(2, dtype=double),
            ),
            0.3,
        ),
        Case(  # as a caller may hand it over: strides of a transposed matrix, and a gradient wanted
            "bipartite, wider than high",
            Ising(
                Graph.bipartite(3, 6),
                0.4 * normal(9),
                (0.6 * normal.couplings(6, 3)).mT.requires_grad_(),
            ),
            0.7,
        ),
        Case(
            "complete, a batch sharing J",
            Ising(Graph.complete(6), 0.4 * normal(4, 6), 0.5 * normal.symmetric(6)),
            0.3,
        ),
        Case("free spins", Ising(Graph.sparse(5, []), 0.7 * normal(5), single()), 0.5),
        Case(
            "bipartite: right side empty",
            Ising(Graph.bipartite(4, 0), 0.7 * normal(4), normal(4, 0)),
            0.5,
        ),
        Case(
            "conditional: one side empty",
            Ising(Graph.bipartite(0, 4), 0.7 * normal(2, 4), normal(0, 4)),
            0.5,
        ),
        Case("one spin", Ising(Graph.sparse(1, []), single(0.9), single())),
        Case(
            "two spins, a batch of one", Ising(chain(2), single(0.2, -0.4)[None], single(0.8)), 0.5
        ),
        Case("no fields", Ising(ring(10), single(*[0.0] * 10), 0.9 * normal.couplings(10), 1.5)),
        Case("strong", strong()),
        Case(
            "weak",
            Ising(ring(16, [(1, 7)]), 0.15 * normal(16), 0.25 * normal.couplings(17), 5000.0),
        ),
        Case("many parts", many_parts(Normals(21)), 0.2),
        Case(
            "a batch of 48",
            Ising(ring(6), 0.6 * normal(48, 6), 0.8 * normal.couplings(6), 0.3 * normal(48)),
            0.016,
        ),
    ]


def strong() -> Ising:
    """Fields and couplings of 4 to 16 that nearly cancel, so that spins at even odds mix.

    Three pinned spins with two free ones each; the free ones stand in a row of weak couplings.
    """
    h = single(14.0, -15.0, 16.0, 6.7, 4.4, -5.9, 7.6, 5.2, -7.3)
    pinned = [(0, 3), (0, 4), (1, 5), (1, 6), (2, 7), (2, 8)]
    J = single(6.0, 5.0, 5.3, -7.0, 6.0, -6.5, 0.7, -0.6, 0.8, 0.5, -0.7)
    return Ising(Graph.sparse(9, [*pinned, *((k, k + 1) for k in range(3, 8))]), h, J)


def many_parts(normal: Normals, parts: int = 44) -> Ising:
    """132 spins in rows of three, each with its own numbers: those far down the list count too."""
    edges = [(3 * k + i, 3 * k + i + 1) for k in range(parts) for i in (0, 1)]
    h = 0.8 * normal.couplings(3 * parts)
    return Ising(Graph.sparse(3 * parts, edges), h, 0.8 * normal.couplings(2 * parts))


def other_dtype(problem: Ising) -> Ising:
    """The problem in the other precision: single for double, double for all others."""
    return problem.to(dtype=torch.float32 if problem.dtype == torch.float64 else torch.float64)


def alone(problem: Ising, at: int = 0) -> Ising:
    """Problem number `at` of a batch (counted through `batch_shape`), in memory of its own."""
    batch = problem.batch_shape
    layout = problem.graph.coupling_shape
    place = torch.unravel_index(torch.tensor(at), batch) if batch else ()
    h = problem.h.expand(*batch, -1)[place].clone()
    J = problem.J.expand(*batch, *layout)[place].clone()
    return Ising(problem.graph, h, J, problem.offset.expand(batch)[place].clone())


def twins(problem: Ising) -> Ising:
    """A batch of two alike, by its fields."""
    first = alone(problem)
    return Ising(first.graph, first.h.expand(2, -1), first.J, first.offset)


# ---- problems for the claims ----------------


def two_modes(kind: Kind) -> Ising:
    """A ferromagnet of 12 spins, all coupled: 69 % of its mass all down, 31 % all up.

    A wall of about 20 in energy lies between the two.

    Only for samplers that claim exact draws: chains from random starts end in either mode as often.
    """
    h = torch.full((12,), 0.035, dtype=torch.float32)
    if kind == "bipartite":
        return Ising(Graph.bipartite(6, 6), h, torch.full((6, 6), -1.2, dtype=torch.float32))
    pull = torch.full((12, 12), -0.6, dtype=torch.float32).fill_diagonal_(0)
    if kind == "complete":
        return Ising(Graph.complete(12), h, pull)
    i, j = torch.triu_indices(12, 12, 1)
    return Ising(Graph.sparse(12, torch.stack([i, j], 1)), h, pull[i, j])


def rows_of_three(kind: Kind, strengths: Sequence[float], copies: int) -> tuple[Ising, Tensor]:
    """Rows of three spins, and the spins of each row `[strengths, copies, 3]`.

    The middle one is alone on the right side of a bipartite graph. Small fields make the three
    unlike each other.

    Args:
        kind: kind of the graph.
        strengths: coupling strengths.
        copies: number of rows of each strength.
    """
    rows = len(strengths) * copies
    n = 3 * rows
    number = torch.arange(rows)
    if kind == "bipartite":
        spins = torch.stack([2 * number, 2 * rows + number, 2 * number + 1], -1)
    else:
        spins = torch.arange(n).reshape(rows, 3)
    size = single(*strengths).repeat_interleave(copies)
    h = torch.zeros(n, dtype=torch.float32)
    J = torch.zeros(n, n, dtype=torch.float32)
    h[spins[:, 0]] = 0.1
    h[spins[:, 1]] = -0.2
    h[spins[:, 2]] = 0.3
    J[spins[:, 0], spins[:, 1]] = size
    J[spins[:, 2], spins[:, 1]] = -size
    spins = spins.reshape(len(strengths), copies, 3)
    return dense(kind, h, J + J.mT, split=2 * rows), spins


def long_row(kind: Kind, n: int = 128) -> tuple[Ising, Tensor]:
    """A row of strongly coupled spins without fields, and one of its two ground states `[n]`.

    No sampler of a few sweeps turns the whole row over, and what it finds from elsewhere has walls:
    each costs 8 to 16, so that no swap of replicas brings it in.
    """
    normal = Normals(3)
    J = 8 * normal.couplings(n - 1)
    ground = torch.cat([single(1.0), -J.sign()]).cumprod(0)
    # on a bipartite graph every second spin of the row lies on the right
    order = (
        torch.cat([torch.arange(0, n, 2), torch.arange(1, n, 2)])
        if kind == "bipartite"
        else torch.arange(n)
    )
    matrix = torch.diag(J, 1) + torch.diag(J, -1)
    return dense(kind, J.new_zeros(n), matrix[order][:, order], split=(n + 1) // 2), ground[
        order
    ].to(torch.int8)


def dense(kind: Kind, h: Tensor, J: Tensor, split: int) -> Ising:
    """A problem of the given kind from a symmetric matrix.

    Args:
        kind: kind of the graph.
        h: fields `[n]`.
        J: couplings `[n, n]`, symmetric; a bipartite problem keeps those between its sides.
        split: number of spins on the left side of a bipartite graph.
    """
    n = len(h)
    if kind == "bipartite":
        return Ising(Graph.bipartite(split, n - split), h, J[:split, split:].contiguous())
    if kind == "complete":
        return Ising(Graph.complete(n), h, J)
    i, j = J.triu(1).nonzero().T
    return Ising(Graph.sparse(n, torch.stack([i, j], 1)), h, J[i, j])
