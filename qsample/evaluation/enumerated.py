"""The law of all states, where they can be listed, and reads against it state by state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsample.evaluation.means import Cumulants
from qsample.evaluation.reads import LEAST, Finding
from qsample.problem.enumeration import log_weights, side_log_weights, states
from qsample.problem.ising import Ising

EVEN = 10  # degrees of freedom from which on too even counts are wrong as well


class ListedLaw(NamedTuple):
    """Log-weights of states `[2^k]`, and the cumulants of the energy in each.

    Attributes:
        weights: log-weights `[2^k]`.
        first: mean energy `[2^k]`.
        second: variance of the energy, `[2^k]` or `[]`.
        third: third cumulant of the energy, `[2^k]` or `[]`.
    """

    weights: Tensor
    first: Tensor
    second: Tensor
    third: Tensor


def listed_law(problem: Ising, side: int | None) -> ListedLaw:
    r"""The law of all states, or of those of one side of a bipartite problem.

    Given the states v of a side, the others are independent: with fields f, and m = -tanh f their
    means, E has the cumulants $h_v v + \sum f m$, $\sum f^2 (1 - m^2)$ and $\sum f^3 (-2 m)(1 -
    m^2)$.

    Args:
        problem: one problem.
        side: the side of a bipartite problem to list, 0 or 1; None for all spins.
    """
    if side is None:
        weights = log_weights(problem)
        return ListedLaw(weights, -weights, torch.zeros(()), torch.zeros(()))
    k = problem.graph.sizes[side]
    h = problem.h.split(problem.graph.sizes, -1)
    step = max(1, (1 << 20) // problem.num_spins)
    chunks = []
    for start in range(0, 1 << k, step):
        v = states(k, start, min(start + step, 1 << k))
        s = v.to(problem.h)
        f = h[1 - side] + s @ (problem.J if side == 0 else problem.J.mT)
        m = -f.tanh()
        variance = 1 - m.square()
        first = s @ h[side] + (f * m).sum(-1)
        second = (f.square() * variance).sum(-1)
        third = (-2 * f**3 * m * variance).sum(-1)
        chunks.append((side_log_weights(problem, side, v), first, second, third))
    return ListedLaw(*map(torch.cat, zip(*chunks, strict=True)))


def total_cumulants(chance: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Cumulants:
    """Cumulants of a number whose cumulants in each state are given (Brillinger 1969).

    Args:
        chance: probabilities of the states `[K]`.
        first: mean in each state `[K]`.
        second: variance in each state, `[K]` or `[]`.
        third: third cumulant in each state, `[K]` or `[]`.
    """
    mean = chance @ first
    away = first - mean
    variance = chance @ (second + away.square())
    skew = chance @ (third + 3 * away * second + away**3)
    return Cumulants(float(mean), float(variance), float(skew))


def state_tests(codes: Tensor, chance: Tensor, generator: torch.Generator) -> Iterator[Finding]:
    """Independent reads against the exact chance of each state: a G-test, and single states.

    Args:
        codes: the state of each read, `[R]`.
        chance: probabilities of the states `[K]`.
        generator: randomness of the order in which rare states are pooled.
    """
    counts = torch.bincount(codes, minlength=len(chance)).double()
    finding = _g_test(counts, len(codes) * chance, generator)
    if finding is not None:
        yield finding
    yield _single_states(counts, chance, len(codes))


def _g_test(counts: Tensor, expected: Tensor, generator: torch.Generator) -> Finding | None:
    """Counts `[K]` of states against expected ones; None where one cell holds all."""
    from scipy.stats import chi2

    R = int(counts.sum())
    q, e = _cells(counts, expected, generator)
    free = len(e) - 1
    if free <= 0:
        return None
    williams = 1 + (float((R / e).sum()) - 1) / (6 * R * free)
    G = 2 * float(torch.special.xlogy(q, q / e).sum()) / williams
    p = float(chi2.sf(G, free))
    if free >= EVEN:
        p = 2 * min(p, float(chi2.cdf(G, free)))
    return Finding("states", min(1.0, p), f"G = {G:.1f} of {free} degrees of freedom")


def _cells(counts: Tensor, expected: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Counts and expected counts of cells: frequent states, and rare ones pooled to LEAST."""
    # rare states in random order are cut where LEAST more are expected
    order = torch.randperm(len(expected), generator=generator).to(expected.device)
    rare = order[expected[order] < LEAST]
    frequent = (expected >= LEAST).nonzero()[:, 0]
    cell = (expected[rare].cumsum(0) / LEAST).floor().long()
    cells = int(cell[-1]) + 1 if len(rare) else 0

    def pooled(t: Tensor) -> Tensor:
        t = t.new_zeros(cells).index_add_(0, cell, t[rare])
        if cells > 1:  # the last cell may be short of LEAST
            t[-2] += t[-1]
            t = t[:-1]
        return t

    q = torch.cat([counts[frequent], pooled(counts)])
    e = torch.cat([expected[frequent], pooled(expected)])
    # a single pooled cell that is short of LEAST goes to the smallest of the others
    if len(e) > 1 and e[-1] < LEAST:
        smallest = int(e[:-1].argmin())
        for t in (q, e):
            t[smallest] += t[-1]
        q = q[:-1]
        e = e[:-1]
    return q, e


def _single_states(counts: Tensor, chance: Tensor, R: int) -> Finding:
    """The state that is visited most strangely often, or, if frequent, seldom (binomial tails)."""
    from scipy.stats import binom

    expected = R * chance
    visited = (counts > 0).nonzero()[:, 0]
    frequent = (expected >= LEAST).nonzero()[:, 0]

    def count_and_chance(index: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return counts[index].cpu().numpy(), chance[index].clamp_max(1).cpu().numpy()

    # Bonferroni: every state might have been visited, every frequent one too seldom
    number, probability = count_and_chance(visited)
    too_often = binom.sf(number - 1, R, probability) * len(chance)
    number, probability = count_and_chance(frequent)
    too_seldom = binom.cdf(number, R, probability) * len(frequent)
    p = float(too_often.min())
    state = int(visited[int(too_often.argmin())])
    if len(frequent) and too_seldom.min() < p:
        p = float(too_seldom.min())
        state = int(frequent[int(too_seldom.argmin())])
    text = f"state {state} in {int(counts[state])} reads, expected {float(expected[state]):.2f}"
    return Finding("single states", min(1.0, 2 * p), text)
