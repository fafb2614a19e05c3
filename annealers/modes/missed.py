"""Does an annealing run miss a mode? It is compared with runs that begin in each basin found."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.modes import apart
from qsample.problem.enumeration import log_2cosh
from qsample.problem.ising import Ising
from qsample.sampling.random import mix
from qsample.sampling.weights import log_mean_exp, relative_error
from qsample.support.checks import evenly

BASINS = 6  # the most that are compared
CHAINS = 256  # the most runs of the comparison
ROWS = 48  # the most random rows from which basins are sought, and as many minima
Z = 4.0  # standard errors by which runs from a basin must exceed the runs at hand

# from problems, runs of each, seeds and base fields to spins [P, R, n] and log weights [P, R],
# whose mean exp estimates Z
Anneal = Callable[[Ising, int, Sequence[int], Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Missed:
    """What the runs of each of P problems miss.

    Attributes:
        log_z: log Z with it, `[P]`.
        stderr: its error, which covers both answers, `[P]`.
        nats: nats missed, `[P]`.
        notes: one per problem, "" where nothing is missed.
    """

    log_z: Tensor
    stderr: Tensor
    nats: Tensor
    notes: list[str]


def missed(
    problem: Ising,
    spins: Tensor,
    log_w: Tensor,
    sweeps: int,
    seeds: Sequence[int],
    anneal: Anneal,
    starts: Tensor | None = None,
) -> Missed:
    r"""Compare annealing runs of a flat batch of P problems with runs that begin elsewhere.

    Basins are found as in `apart`: chains from rows spread over the space, from local minima of the
    energy, from `starts` and from the ends of the runs themselves are grouped by where they stay. A
    basin c with mean spins m is the base of annealing runs of its own, from independent spins in
    fields $-\mathrm{artanh}\, m$. States belong to the basin whose independent spins give them the
    largest probability; the weights of the runs that end in c estimate $Z_c = \sum_{s \in c}
    e^{-E(s)}$ without bias, whichever base they came from. So where runs from c's own base find
    significantly more in c than the runs at hand, these miss it, and log Z becomes the log of $\hat
    Z + \sum_c (\hat Z_c^{own} - \hat Z_c)$ over such c. Its error is as wide as the disagreement.

    Args:
        problem: P problems, as `Ising.flat` gives them.
        spins: ends of the runs at hand `[P, R, n]`.
        log_w: their log weights `[P, R]`, float64, whose mean exp estimates Z.
        sweeps: number of sweeps of those runs, to which the search is sized.
        seeds: one 63-bit seed per problem.
        anneal: function that makes more runs.
        starts: further rows `[S, n]` to begin from, such as data; None for none.
    """
    P, R, _ = spins.shape
    groups = _search(problem, spins, sweeps, seeds, starts)
    log_z = log_mean_exp(log_w)
    stderr = relative_error(log_w)
    nats = torch.zeros_like(log_z)
    notes = [""] * P
    # problems with as many basins are annealed in one call
    for count in sorted({len(means) for means in groups}):
        places = [p for p in range(P) if len(groups[p]) == count]
        num = max(16, min(CHAINS, max(R, 64)) // count)
        base = apart.log_odds(torch.cat([groups[p] for p in places]))
        problems = problem.take(
            torch.tensor(places, device=problem.device).repeat_interleave(count)
        )
        run_seeds = [mix(mix(seeds[p], 21), k) for p in places for k in range(count)]
        ends, weights = anneal(problems, num, run_seeds, base.to(problem.h))
        for k, p in enumerate(places):
            part = slice(k * count, (k + 1) * count)
            runs = (spins[p], log_w[p], ends[part], weights[part])
            excess = _excess(base[part], *(of_runs.to(base.device) for of_runs in runs))
            if excess is None:
                continue
            gap, error = excess
            log_z[p] += gap
            nats[p] = gap
            stderr[p] = math.hypot(error, gap)
            notes[p] = (
                f"a mode is missed: runs from {count} basins found apart see {gap:.2f} nats more "
                "than the runs from the base; the value counts it, the error covers both"
            )
    return Missed(log_z, stderr, nats, notes)


def _search(
    problem: Ising, spins: Tensor, sweeps: int, seeds: Sequence[int], starts: Tensor | None
) -> list[Tensor]:
    """Mean spins `[K, n]` of the basins of each problem, within (-1, 1)."""
    P, R, _ = spins.shape
    num = max(8, min(ROWS, R // 2))
    length = max(16, min(64, sweeps))
    rows = apart.spread_rows(problem, num, seeds)
    low = apart.minima(problem, rows, seeds)
    parts = [rows, low, spins[:, : num // 2]]
    if starts is not None:
        chosen = starts[evenly(len(starts), num)]
        parts.append(chosen.to(spins).expand(P, -1, -1))
    first, second, _ = apart.mean_spins(problem, torch.cat(parts, 1), seeds, length)
    groups = []
    for k in range(P):
        means = []
        for basin in apart.basins(first[k], second[k], BASINS):
            # as if one spin more had been seen up and one down: none is held for certain
            seen = len(basin.members) * length / 2
            means.append(basin.mean * (seen / (seen + 2)))
        groups.append(torch.stack(means))
    return groups


def _excess(
    base: Tensor, spins: Tensor, log_w: Tensor, ends: Tensor, weights: Tensor
) -> tuple[float, float] | None:
    """Nats by which runs from the bases find more in their own basins, and the error, or None.

    Args:
        base: fields of K bases, `[K, n]`.
        spins: ends of the runs at hand, `[R, n]`.
        log_w: their log weights, `[R]`.
        ends: ends of the runs from the bases, `[K, M, n]`.
        weights: their log weights, `[K, M]`.
    """
    K = len(base)
    R = len(spins)
    M = weights.shape[1]
    norm = log_2cosh(base).sum(-1)

    def basin_of(states: Tensor) -> Tensor:
        """The base whose independent spins are likeliest in each state."""
        return (-states.to(base) @ base.T - norm).argmax(-1)

    top = max(float(log_w.max()), float(weights.max()))
    w = (log_w - top).exp()
    label = basin_of(spins)
    total = float(w.mean())
    # what one run typically counts: where none is seen in a basin, up to Z^2 / 2 of them may have
    # been due
    unit = float(w.square().sum() / w.sum()) / R
    more = 0.0
    variance = float(w.var()) / R
    own_error = variance**0.5
    for k in range(K):
        inside = w * (label == k)
        own = (weights[k] - top).exp() * (basin_of(ends[k]) == k)
        # without the largest, which alone may lift the mean
        careful = float(own.sort().values[:-1].sum()) / M
        error = math.hypot(float(own.std()) / M**0.5, float(inside.std()) / R**0.5)
        if careful - float(inside.mean()) > Z * error + Z**2 / 2 * unit:
            more += float(own.mean() - inside.mean())
            variance += error**2
    # nothing, or so little that the error has it already
    if more <= 2 * own_error:
        return None
    return math.log1p(more / total), variance**0.5 / (total + more)
