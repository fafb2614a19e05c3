"""The parts of an Ising problem to and from dimod's BQMs and QUBO dictionaries, by arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from qsample.problem.graph import Graph
from qsample.support.checks import WAYS_TO_BQM, WAYS_TO_QUBO, wrong_kind

if TYPE_CHECKING:
    import dimod


Parts = tuple[Graph, Tensor, Tensor, float]  # graph, h, J in its layout, offset


def from_bqm(bqm: dimod.BinaryQuadraticModel, dtype: torch.dtype) -> Parts:
    """See `Ising.from_bqm`."""
    import dimod

    check_bqm(bqm)
    spin = bqm if bqm.vartype is dimod.SPIN else bqm.change_vartype(dimod.SPIN, inplace=False)
    labels = list(spin.variables)
    vectors = spin.to_numpy_vectors(variable_order=labels)
    ends = np.sort(
        np.stack([vectors.quadratic.row_indices, vectors.quadratic.col_indices]).astype(np.int64), 0
    )
    # each class of BQM lists its pairs in its own order; equal BQMs, equal graphs
    order = np.lexsort(ends[::-1])
    graph = Graph.sparse(len(labels), ends[:, order].T, _plain(labels))
    h = np.asarray(vectors.linear_biases, dtype=float)
    J = np.asarray(vectors.quadratic.biases, dtype=float)[order]
    return graph, _tensor(h, dtype), _tensor(J, dtype), float(spin.offset)


def check_bqm(bqm: object) -> None:
    """TypeError for what is no BQM, with the way to one."""
    import dimod

    if not isinstance(bqm, dimod.BinaryQuadraticModel):
        raise wrong_kind("a dimod BinaryQuadraticModel", bqm, WAYS_TO_BQM)


def to_bqm(graph: Graph, h: Tensor, J: Tensor, offset: float) -> dimod.BinaryQuadraticModel:
    """See `Ising.to_bqm`.

    Args:
        graph: Graph of one problem.
        h: Fields, `[n]` float64.
        J: Couplings in the graph's layout, float64.
        offset: Constant of the energy.
    """
    import dimod

    quadratic = (*graph.edges.numpy(), graph.edge_values(J).numpy())
    return dimod.BinaryQuadraticModel.from_numpy_vectors(
        h.numpy(), quadratic, offset, dimod.SPIN, variable_order=list(graph.labels)
    )


def from_qubo(
    Q: Mapping[tuple[Hashable, Hashable], float], offset: float, dtype: torch.dtype
) -> Parts:
    """See `Ising.from_qubo`: h_i = Q_ii/2 + sum_j Q_ij/4, J_ij = Q_ij/4.

    Args:
        Q: Values by pairs of labels.
        offset: Constant of the energy.
        dtype: Floating-point type of the problem.
    """
    # a polynomial is a mapping too
    if not isinstance(Q, Mapping) or type(Q).__name__ in WAYS_TO_QUBO:
        raise wrong_kind("a QUBO as a dictionary {(i, j): value}", Q, WAYS_TO_QUBO)
    odd = next((pair for pair in Q if not (isinstance(pair, tuple) and len(pair) == 2)), None)
    if odd is not None:  # a word of two letters, say, would be two variables
        raise TypeError(f"expected a QUBO with keys (i, j); got the key {odd!r}")

    # labels are numbered as they appear
    place: dict[Hashable, int] = {}
    ends = [place.setdefault(label, len(place)) for pair in Q for label in pair]
    i, j = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    values = np.fromiter((float(value) for value in Q.values()), dtype=float, count=len(Q))
    n = len(place)

    # (i, i) is a field, (i, j) and (j, i) together a coupling, which pulls at both ends
    diagonal = i == j
    h = np.bincount(i[diagonal], values[diagonal] / 2, n) + np.zeros(n)
    low = np.minimum(i, j)[~diagonal]
    high = np.maximum(i, j)[~diagonal]
    code, which = np.unique(low * n + high, return_inverse=True)
    J = np.bincount(which, values[~diagonal] / 4, len(code))
    low = code // max(n, 1)
    high = code % max(n, 1)
    h = h + np.bincount(low, J, n) + np.bincount(high, J, n)
    offset = offset + float(values[diagonal].sum()) / 2 + float(J.sum())
    graph = Graph.sparse(n, np.stack([low, high], 1), _plain(list(place)))
    return graph, _tensor(h, dtype), _tensor(J, dtype), offset


def to_qubo(
    graph: Graph, fields: Tensor, couplings: Tensor, offset: float
) -> tuple[dict[tuple[Hashable, Hashable], float], float]:
    """See `Ising.to_qubo`.

    Args:
        graph: Graph of one problem.
        fields: h, `[n]` float64.
        couplings: J in the graph's layout, float64.
        offset: Constant of the energy.
    """
    h = fields.numpy()
    J = graph.edge_values(couplings).numpy()
    i, j = graph.edges.numpy()
    n = graph.num_spins
    labels = list(graph.labels)
    linear = 2 * h - 2 * (np.bincount(i, J, n) + np.bincount(j, J, n))
    Q: dict[tuple[Hashable, Hashable], float] = {
        (label, label): value for label, value in zip(labels, linear.tolist(), strict=True)
    }
    for a, b, value in zip(i.tolist(), j.tolist(), (4 * J).tolist(), strict=True):
        Q[labels[a], labels[b]] = value
    return Q, offset + float(J.sum() - h.sum())


def _tensor(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(values).to(dtype)


def _plain(labels: list[Hashable]) -> list[Hashable] | None:
    """None, for `range(n)`, where the labels are just that."""
    return None if labels == list(range(len(labels))) else labels
