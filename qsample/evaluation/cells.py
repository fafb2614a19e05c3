"""Each read falls into one of K cells: do two sets of reads fill them alike?

Cells are states of a few spins, quantiles of the energy, or intervals along the directions in
which modes differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from qsample.evaluation.reads import LEAST, Finding, Reads
from qsample.evaluation.spin_products import compare_moments, moments_of, products
from qsample.problem.ising import Ising

SUBSETS = 16  # sets of spins whose joint law is tested


def compare_cells(
    name: str, reads: Reads, other: Reads, cells: Tensor, other_cells: Tensor
) -> Finding:
    """Numbers of reads in cells: a G-test of two samples.

    Cells of fewer than LEAST expected reads are pooled. Where reads cannot be counted, the largest
    z of a cell.

    Args:
        name: name of the test.
        reads: reads under test.
        other: reads of the right law.
        cells: number of the cell of each read under test, `[R]`, from 0.
        other_cells: number of the cell of each other read, `[M]`.
    """
    K = int(max(cells.max(), other_cells.max())) + 1
    if K == 1:
        return Finding(name, 1.0)
    if not (reads.independent and other.independent):
        # "in cell k" is a statistic of two values, as a spin is
        each = products(name, torch.arange(K)[:, None])
        moments = moments_of(replace(reads, spins=_signs(cells, K)), each)
        other_moments = moments_of(replace(other, spins=_signs(other_cells, K)), each)
        deviations, tried = compare_moments(reads, other, moments, other_moments)
        p = min((deviation.p_value for deviation in deviations), default=1.0)
        return Finding(name, min(1.0, p * tried))
    counts = torch.bincount(cells, minlength=K)
    other_counts = torch.bincount(other_cells, minlength=K)
    table = torch.stack([counts, other_counts]).double()
    table = _pooled(table, min(len(reads), len(other)))
    if table.shape[1] < 2:
        return Finding(name, 1.0)
    return _g_test(name, table)


def _signs(cells: Tensor, K: int) -> Tensor:
    """+1 in a read's own cell, -1 in all others, `[R, K]`."""
    return torch.nn.functional.one_hot(cells, K).float() * 2 - 1


def _g_test(name: str, counts: Tensor) -> Finding:
    """Are both rows of `counts` [2, K] of one law? With Williams' correction (1976)."""
    from scipy.stats import chi2

    rows = counts.sum(1, keepdim=True)
    columns = counts.sum(0)
    N = counts.sum()
    expected = rows * columns / N
    G = 2 * torch.special.xlogy(counts, counts / expected).sum()
    free = counts.shape[1] - 1
    williams = 1 + ((N / rows).sum() - 1) * ((N / columns).sum() - 1) / (6 * N * free)
    p = float(chi2.sf(float(G / williams), free))
    return Finding(name, p, f"G = {float(G):.1f} of {free} degrees of freedom")


def _pooled(counts: Tensor, size: int) -> Tensor:
    """`counts` [2, K] with rare cells in one.

    A cell is rare where fewer than LEAST reads are expected in the smaller sample, of `size` reads.
    """
    counts = counts[:, counts.sum(0) > 0]
    expected = counts.sum(0) / counts.sum() * size
    order = expected.argsort(descending=True)
    counts = counts[:, order]
    expected = expected[order]
    large = int((expected >= LEAST).sum())
    if large == len(expected):
        return counts
    rest = counts[:, large:].sum(1, keepdim=True)
    mass = float(expected[large:].sum())
    if mass >= LEAST or large == 0:
        return torch.cat([counts[:, :large], rest], 1)
    # all rare cells together are rare too: they go to the smallest of the others
    cells = counts[:, :large].clone()
    cells[:, -1:] += rest
    return cells


def quantile_cells(values: Tensor, other_values: Tensor, cells: int = 10) -> tuple[Tensor, Tensor]:
    """Cells of a real statistic, cut at quantiles of both samples together.

    Args:
        values: values in the first sample, `[R]`.
        other_values: values in the second sample, `[M]`.
        cells: number of cells; fewer where values repeat.
    """
    pooled = torch.cat([values, other_values]).double()
    place = torch.arange(1, cells) * (len(pooled) - 1) // cells
    cuts = pooled.sort().values[place.to(pooled.device)].unique()
    cells_of_values = torch.searchsorted(cuts, values.double())
    return cells_of_values, torch.searchsorted(cuts, other_values.double())


# ---- a few spins together ----------------


def subset_laws(problem: Ising, reads: Reads, other: Reads, generator: torch.Generator) -> Finding:
    """The joint law of 2 to 6 spins, for 16 sets of them; Bonferroni over the sets.

    Args:
        problem: problem of which both are reads.
        reads: reads under test.
        other: reads of the right law.
        generator: randomness of the choice of sets.
    """
    # as many spins as leave some 20 reads for each of their states
    enough = max(4.0, min(reads.effective, other.effective) / 20)
    size = min(problem.num_spins, max(2, min(6, int(math.log2(enough)))))
    worst = Finding("laws of a few spins", 1.0)
    subsets = _subsets(problem, size, generator)
    for subset in subsets:
        index = list(subset)
        power = 1 << torch.arange(size, device=reads.spins.device)
        cells = ((reads.spins[:, index] > 0).long() * power).sum(-1)
        other_cells = ((other.spins[:, index] > 0).long() * power).sum(-1)
        finding = compare_cells(f"law of spins {index}", reads, other, cells, other_cells)
        if finding.p_value < worst.p_value:
            worst = Finding(worst.name, finding.p_value, f"spins {index}: {finding.text}")
    return worst._replace(p_value=min(1.0, worst.p_value * len(subsets)))


def _subsets(problem: Ising, size: int, generator: torch.Generator) -> list[tuple[int, ...]]:
    """Random sets of spins, sorted; every other one of neighbours where the graph is sparse."""
    neighbours: dict[int, list[int]] = {}
    if problem.graph.kind == "sparse":
        for i, j in problem.graph.pairs.T.tolist():
            neighbours.setdefault(i, []).append(j)
            neighbours.setdefault(j, []).append(i)
    subsets = set[tuple[int, ...]]()
    for k in range(SUBSETS):
        order = torch.randperm(problem.num_spins, generator=generator).tolist()
        subset = order[:size]
        if k % 2 and neighbours:
            # breadth first from one spin; the loop goes on over what it appends
            subset = order[:1]
            for i in subset:
                subset += [j for j in neighbours.get(i, []) if j not in subset]
                if len(subset) >= size:
                    break
            # a small component is filled up with other spins
            subset = (subset + [i for i in order if i not in subset])[:size]
        subsets.add(tuple(sorted(subset)))
    return sorted(subsets)


# ---- the weights of modes ----------------


def projections(reads: Reads, other: Reads) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Directions in which modes differ: name, and the values of both sets of reads along them.

    They are the magnetisation and the two principal components of all reads together.
    """
    both = torch.cat([reads.spins, other.spins])
    n = both.shape[1]
    yield "magnetisation", reads.spins.sum(-1), other.spins.sum(-1)
    if n > 2 and len(both) > 4:
        centred = both - both.mean(0)
        covariance = (centred.T @ centred).double() / len(both)
        axes = torch.linalg.eigh(covariance).eigenvectors[:, -2:].float()
        for k, name in ((1, "first mode"), (0, "second mode")):
            # rounded: equal states must fall into equal cells
            values = ((reads.spins @ axes[:, k]) * 1e4).round()
            other_values = ((other.spins @ axes[:, k]) * 1e4).round()
            yield name, values, other_values


def compare_modes(reads: Reads, other: Reads) -> Finding:
    """The weights of modes: cells along each projection; Bonferroni over them."""
    tests = []
    for name, values, other_values in projections(reads, other):
        cells, other_cells = quantile_cells(values, other_values)
        tests.append(compare_cells(name, reads, other, cells, other_cells))
    worst = min(tests, key=lambda test: test.p_value)
    return Finding("modes", min(1.0, worst.p_value * len(tests)), f"{worst.name}, {worst.text}")
