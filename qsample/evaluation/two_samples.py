"""Distances between two sets of rows, for one labelling of the pooled rows or for many.

Each function takes pooled rows and labels `[P, 2n]` of P ways to call n of the rows data and the
other n samples, and returns P values: the first of the true labels, the others of a permutation
test (Fisher 1935; Lehmann and Romano 2005, ch. 15). What does not depend on the labels is computed
once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qsample.support.progress import tracked

NEIGHBOURS = 32  # nearest rows that are kept of each
COMPONENTS = 10  # leading principal components
UNITS = 1000  # units whose pairs are looked at, those of the largest variance
ITERATIONS = 8  # of the subspace iteration, begun at the components of all rows


def hamming(spins: Float[Tensor, "rows d"]) -> Float[Tensor, "rows rows"]:
    """Number of spins in which two rows differ."""
    return (spins.shape[1] - spins @ spins.T) / 2


class Accuracies(NamedTuple):
    """The two adversarial accuracies, `[P]` each: of the data's rows, and of the samples'."""

    data: Tensor
    samples: Tensor


def adversarial_accuracies(
    distance: Float[Tensor, "rows rows"], labels: Bool[Tensor, "P rows"]
) -> Accuracies:
    r"""How often a row's nearest neighbour is of its own set (Yale et al., ESANN 2019, Eq. 1-2).

    $$\mathrm{AA}_{data} = \tfrac1n \sum_i \mathbf 1\bigl(d_{DS}(i) > d_{DD}(i)\bigr), \quad
      \mathrm{AA}_{samples} = \tfrac1n \sum_i \mathbf 1\bigl(d_{SD}(i) > d_{SS}(i)\bigr)$$

    with the distance to the nearest row of the other and of the own set, the row itself left out;
    equal distances, which binary rows often have, count one half. 1/2 is right; 1 means that the
    sets lie apart, 0 that each row has a twin in the other set.

    Args:
        distance: distances of all pooled rows.
        labels: True where a row is called data.
    """
    apart = distance.clone().fill_diagonal_(float("inf"))
    near = apart.topk(min(NEIGHBOURS, len(apart) - 1), largest=False)
    shares = [_shares(apart, near.values, near.indices, label) for label in labels]
    both = torch.stack(shares, 1)
    return Accuracies(both[0], both[1])


def _shares(apart: Tensor, values: Tensor, indices: Tensor, label: Tensor) -> Tensor:
    """The two accuracies of one labelling, `[2]`."""
    same = label[indices] == label[:, None]
    own = _nearest(values, same)
    other = _nearest(values, ~same)
    for nearest, alike in ((own, True), (other, False)):
        # none of the nearest rows is of that set: all are looked at
        rest = (~(same == alike).any(1)).nonzero()[:, 0]
        if len(rest):
            asked = (label[rest, None] == label) == alike
            nearest[rest] = apart[rest].masked_fill(~asked, float("inf")).amin(1)
    nearer = (other > own).double() + (other == own).double() / 2
    return torch.stack([nearer[label].mean(), nearer[~label].mean()])


def _nearest(values: Tensor, kept: Tensor) -> Tensor:
    """The first of the ascending distances that is kept, in each row; the first where none is."""
    first = kept.to(torch.uint8).argmax(1, keepdim=True)
    return values.gather(1, first)[:, 0]


def energy_distances(
    distance: Float[Tensor, "rows rows"], labels: Bool[Tensor, "P rows"]
) -> Float[Tensor, "P"]:
    r"""The energy distance (Szekely and Rizzo, J. Stat. Plan. Inference 143:1249, 2013).

    $$2\,\mathbb E|X - Y| - \mathbb E|X - X'| - \mathbb E|Y - Y'|$$

    with Euclidean distances, the roots of Hamming's: it is 0 for equal laws only (of Hamming's
    distance itself it would see the means alone). Without the pairs of a row with itself, so that
    it is 0 on average for equal laws.

    Args:
        distance: Hamming distances of all pooled rows.
        labels: True where a row is called data.
    """
    root = distance.double().clamp_min(0).sqrt()
    z = labels.T.double()
    n = int(labels[0].sum())
    m = len(root) - n
    near_data = root @ z
    within = (z * near_data).sum(0)
    across = ((1 - z) * near_data).sum(0)
    other = root.sum() - within - 2 * across
    return 2 * across / (n * m) - within / (n * (n - 1)) - other / (m * (m - 1))


def wasserstein(
    values: Float[Tensor, "rows k"], labels: Bool[Tensor, "P rows"]
) -> Float[Tensor, "P k"]:
    r"""Wasserstein's distance of one-dimensional laws, $\int |F_{data} - F_{samples}|\,dx$.

    Args:
        values: k numbers of each pooled row.
        labels: True where a row is called data.
    """
    distances = []
    for column in values.double().T:
        ordered, order = column.sort()
        z = labels[:, order].double()
        n = z.sum(1, keepdim=True)
        m = z.shape[1] - n
        difference = (z / n - (1 - z) / m).cumsum(1)[:, :-1]
        distances.append(difference.abs() @ ordered.diff())
    return torch.stack(distances, 1)


# ---- moments ----------------


def mean_errors(
    spins: Float[Tensor, "rows d"], labels: Bool[Tensor, "P rows"]
) -> Float[Tensor, "P"]:
    """Root mean square difference of the spins' means.

    Args:
        spins: pooled rows of -1 and +1.
        labels: True where a row is called data.
    """
    z = labels.to(spins)
    data = z @ spins / z.sum(1, keepdim=True)
    samples = (1 - z) @ spins / (1 - z).sum(1, keepdim=True)
    return (data - samples).double().square().mean(1).sqrt()


class SecondMoments(NamedTuple):
    """What the covariances say, `[P]` each; see `second_moments`."""

    pairs: Tensor
    largest: Tensor
    overlap: Tensor


def second_moments(spins: Float[Tensor, "rows d"], labels: Bool[Tensor, "P rows"]) -> SecondMoments:
    r"""Root mean square and largest error of a pair's connected correlation, and the PCA overlap.

    $C_{ij} = \langle s_i s_j\rangle - \langle s_i\rangle\langle s_j\rangle$ of data and samples are
    compared over all pairs i < j. The overlap is the data's variance along the k leading
    principal components of the samples, over that along the k of the data themselves,

    $$\operatorname{tr}(U_S^\top C_D U_S) / \operatorname{tr}(U_D^\top C_D U_D),$$

    1 where the samples vary in the directions in which the data do.

    Args:
        spins: pooled rows of -1 and +1.
        labels: True where a row is called data.
    """
    # constant units have no covariance
    variance = spins.var(0)
    kept = variance.topk(min(UNITS, spins.shape[1])).indices
    s = spins[:, kept[variance[kept] > 0]]
    if s.shape[1] < 2:
        zero = torch.zeros(len(labels), dtype=torch.float64)
        return SecondMoments(zero, zero, zero + 1)
    start = components(s)
    sums = s.T @ s
    total = s.sum(0)
    i, j = torch.triu_indices(s.shape[1], s.shape[1], offset=1, device=s.device)
    values = []
    for label in tracked(list(labels), "pair correlations", "permutation"):
        data = s[label]
        n = len(data)
        # whole numbers, exact in single precision: the other set's are the rest
        products = data.T @ data
        C = _covariance(products, data.sum(0), n)
        D = _covariance(sums - products, total - data.sum(0), len(s) - n)
        error = (C - D)[i, j]
        own = _along(C, _turned(C, start))
        theirs = _along(C, _turned(D, start))
        values.append(
            torch.stack([error.square().mean().sqrt(), error.abs().max(), theirs / own]).double()
        )
    both = torch.stack(values, 1)
    return SecondMoments(both[0], both[1], both[2])


def _covariance(products: Tensor, sums: Tensor, n: int) -> Tensor:
    mean = sums / n
    return products / n - mean[:, None] * mean


def _along(C: Tensor, U: Tensor) -> Tensor:
    """The variance along orthonormal columns."""
    return ((C @ U) * U).sum().clamp_min(1e-30)


def _turned(C: Tensor, U: Tensor) -> Tensor:
    """The columns turned towards the leading eigenvectors of C."""
    for _ in range(ITERATIONS):
        U = torch.linalg.qr(C @ U).Q
    return U


def components(rows: Float[Tensor, "rows d"]) -> Float[Tensor, "d k"]:
    """The leading principal components of rows, orthonormal; at most COMPONENTS of them."""
    away = (rows - rows.mean(0)).double()
    k = min(COMPONENTS, rows.shape[1], len(rows) - 1)
    if rows.shape[1] <= len(rows):
        U = torch.linalg.eigh(away.T @ away).eigenvectors
        return U[:, -k:].flip(1).to(rows)
    # of the smaller matrix
    vectors = torch.linalg.eigh(away @ away.T).eigenvectors[:, -k:].flip(1)
    return torch.linalg.qr(away.T @ vectors).Q.to(rows)


def component_distances(
    spins: Float[Tensor, "rows d"], labels: Bool[Tensor, "P rows"]
) -> Float[Tensor, "P"]:
    """Wasserstein's distance along the leading principal components of all rows, on average.

    In standard deviations of each component.

    Args:
        spins: pooled rows of -1 and +1.
        labels: True where a row is called data.
    """
    projected = (spins @ components(spins)).double()
    deviation = projected.std(0)
    kept = deviation > 1e-6 * deviation.max().clamp_min(1e-30)
    if not kept.any():
        return torch.zeros(len(labels), dtype=torch.float64)
    return wasserstein(projected[:, kept] / deviation[kept], labels).mean(1)
