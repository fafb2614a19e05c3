"""Log Z between two ends: annealing bounds it from below, tempered ladders from above."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from qsample.annealers.kernels.streams import Streams
from qsample.annealers.log_z.annealing import anneal_down, anneal_up
from qsample.annealers.log_z.bennett import Ratio, log_ratio
from qsample.annealers.log_z.ladders import Ladders, Trace, places
from qsample.annealers.log_z.path import Path
from qsample.annealers.modes import apart
from qsample.problem.ising import Ising
from qsample.sampling.mixing import rank_rhat
from qsample.sampling.random import mix
from qsample.sampling.samples import Bracket, Side
from qsample.sampling.weights import log_mean_exp, relative_error
from qsample.support.checks import evenly
from qsample.support.progress import counted

TAIL = 0.005  # probability beyond each end
AGREE = 1.05  # R-hat up to which ladders started apart agree
LADDERS = 24  # a third from each kind of start
SWEEPS = 2  # of a round, between swaps
ROUNDS = 128  # of a ladder before its first judgement
PILOT_ROUNDS = 24
PILOT_STEPS = 60  # of annealing
FIRST_LEVELS = 12
MOST_LEVELS = 400
DIRECTIONS = 8
BASINS = 6
MOST_RUNS = 3  # of annealing up, each as slow as the error of the one before asks for
DOWN = 8  # times of the ladders from which annealing goes down
AT_ONCE = 1 << 20  # couplings times runs that cost little more than a call


@dataclass(frozen=True)
class Effort:
    """How much work a bracket may take.

    Args:
        width: nats between the ends at which it is good enough.
        chains: number of annealing runs.
        steps: the most temperatures of an annealing run, and sweeps of each ladder.
    """

    width: float = 0.1
    chains: int = 256
    steps: int = 20_000


class Begin(NamedTuple):
    """Where runs begin."""

    kinds: dict[str, Tensor]  # starts `[M, n]` of ladders by name
    bases: list[Tensor]  # fields `[n]` of independent spins


@torch.no_grad()
def bracket(
    problem: Ising, base: Tensor | None, starts: Tensor | None, effort: Effort, seed: int
) -> Bracket:
    r"""Log Z of one problem, in double precision, between two ends of 99 %.

    From below: annealed importance sampling, whose estimate of Z is unbiased whatever mixes, so
    that its logarithm is low on average. From above there is no general bound. Bennett's ratio
    between the levels of tempered ladders, and annealing down from their cold ends, hold if the
    ladders are equilibrated; so the ladders begin at three kinds of states, and the upper end
    counts without a note only if all of them agree.

    Args:
        problem: one problem, float64.
        base: fields `[n]` of the independent spins where the path to it begins; None is its own.
        starts: rows of spins `[S, n]` such as data; None takes draws from `base`.
        effort: how much work it may take.
        seed: of all randomness.
    """
    base = problem.h if base is None else base.to(problem.h)
    n = problem.num_spins
    if base.shape != (n,):
        raise ValueError(f"expected base fields of shape [{n}]; got {list(base.shape)}")
    if starts is not None and (starts.dim() != 2 or starts.shape[1] != n or len(starts) == 0):
        raise ValueError(f"expected starts of shape [S, {n}]; got {list(starts.shape)}")
    begin = _begin(problem, base, starts, seed)
    path = Path(problem, base)
    ladders, rejection = _pilot(path, begin, mix(seed, 1))
    above = _from_above(path, ladders, begin, effort)
    below = _from_below(path, begin, ladders.b, rejection, effort, mix(seed, 2))
    down = _annealed_down(path, ladders.b, rejection, above.cold, below.steps, mix(seed, 3))
    offset = float(problem.offset)
    return _joined(below, above, down, path, offset)


# ---- where to begin ----------------


def _begin(problem: Ising, base: Tensor, starts: Tensor | None, seed: int) -> Begin:
    """Starts of three kinds, and a base in each basin that chains started apart find."""
    flat = problem.flat()
    num = LADDERS // 3
    random = Streams([mix(seed, 4)], problem.device).spins(num, problem.num_spins)[0]
    rows = apart.spread_rows(flat, 6 * num, [seed])
    low = apart.minima(flat, rows, [seed])
    if starts is None:
        path = Path(problem, base)
        starts = path.independent(4 * num, Streams([mix(seed, 5)], problem.device))
        name = "independent spins"
    else:
        name = "data"
    starts = starts.to(low)
    own = starts[evenly(len(starts), num)]
    group = torch.cat([low, starts[evenly(len(starts), 3 * num)][None]], 1)
    first, second, ends = apart.mean_spins(flat, group, [seed], 64)
    basins = apart.basins(first[0], second[0], BASINS)
    # a chain of each basin in turn, those of lowest energy first
    energy = problem.energy(ends[0])
    queues = [sorted(basin.members.tolist(), key=lambda k: float(energy[k])) for basin in basins]
    order = [queue[turn] for turn in range(len(energy)) for queue in queues if turn < len(queue)]
    minima = ends[0][torch.tensor(order[:num])]
    bases = [base]
    if len(basins) > 1:
        for basin in basins:
            seen = len(basin.members) * 32
            bases.append(apart.log_odds(basin.mean * (seen / (seen + 2))).to(base))
    return Begin({name: own, "random spins": random, "local minima": minima}, bases)


def _directions(problem: Ising, seed: int) -> Tensor:
    """Unit vectors `[S, n']` on the CPU: all spins alike, and the leading singular vectors of J."""
    graph = problem.graph
    J = problem.J.reshape(problem.graph.coupling_shape)
    n = graph.sizes[0] if graph.kind == "bipartite" else graph.num_spins
    matrix = J.cpu()
    if graph.kind == "sparse":
        i, j = graph.pairs
        both = torch.stack([torch.cat([i, j]), torch.cat([j, i])])
        matrix = torch.sparse_coo_tensor(both, matrix.repeat(2), (n, n), check_invariants=True)
    # it draws from torch's default generator, which is not ours
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vectors = torch.svd_lowrank(matrix, min(DIRECTIONS, *matrix.shape))[0].T
    alike = torch.full((1, n), n**-0.5, dtype=vectors.dtype)
    return torch.cat([alike, vectors]).contiguous()


# ---- from above ----------------


class Above(NamedTuple):
    """What the ladders say."""

    ratio: Ratio
    high: float  # 99 % end of log Z, less Z_0 and the offset
    note: str
    cold: Tensor  # states at b = 1, `[M, N, n]`, M times of N ladders


def _pilot(path: Path, begin: Begin, seed: int) -> tuple[Ladders, Tensor]:
    """Ladders with as many levels as the path needs, in places that are refused alike."""
    starts = torch.cat(list(begin.kinds.values()))
    directions = _directions(path.problem, mix(seed, 2) >> 1)
    b = torch.linspace(0, 1, FIRST_LEVELS, dtype=torch.float64)
    ladders = Ladders(path, b, starts, directions, seed)
    rejection = _settle(ladders)
    while float(rejection.mean()) > 0.5 and len(b) < MOST_LEVELS:
        b = places(ladders.b, rejection, min(2 * len(b), MOST_LEVELS))
        ladders = Ladders(path, b, ladders.states[-1], directions, mix(seed, len(b)))
        rejection = _settle(ladders)
    # neighbours refused one time in four or so
    count = max(4, min(MOST_LEVELS, math.ceil(3 * float(rejection.sum())) + 3))
    b = places(ladders.b, rejection, count)
    ladders = Ladders(path, b, starts, directions, mix(seed, 1))
    trace = ladders.run(2 * PILOT_ROUNDS, SWEEPS)
    b = places(b, trace.rejection, count)
    ladders.place(b)
    return ladders, trace.rejection


def _settle(ladders: Ladders) -> Tensor:
    """Move the levels to where they are refused alike; the rejection seen last."""
    rejection = torch.ones(len(ladders.b) - 1)
    for _ in range(3):
        rejection = ladders.run(PILOT_ROUNDS, SWEEPS).rejection
        ladders.place(places(ladders.b, rejection, len(ladders.b)))
    return rejection


def _from_above(path: Path, ladders: Ladders, begin: Begin, effort: Effort) -> Above:
    """Ladders run until they agree and the error is small, or the work is done."""
    traces: list[Trace] = []
    cold: list[Tensor] = []
    rounds = ROUNDS
    most = max(rounds, effort.steps // SWEEPS)
    total = 0
    with counted(most, "tempered ladders", "round") as bar:
        while True:
            quarter = -(-rounds // 4)
            for _ in range(4):
                traces.append(ladders.run(quarter, SWEEPS))
                cold.append(ladders.states[-1].clone())
                bar.update(quarter)
            total += 4 * quarter
            seen = Trace.joined(traces).last(0.5)
            rhat = float(rank_rhat(seen.statistics).max())
            ratio = log_ratio(seen.forward, seen.backward)
            half = _quantile(LADDERS - 1) * ratio.stderr
            done = rhat <= AGREE and half <= effort.width / 3
            if done or total >= most:
                break
            rounds = min(total, most - total)
    high = ratio.value + half
    note = ""
    if rhat > AGREE:
        high, note = _disagreement(seen, begin, rhat, high, path.log_z0)
    late = cold[len(cold) // 2 :][-DOWN:]
    return Above(ratio, high, note, torch.stack(late))


def _disagreement(
    seen: Trace, begin: Begin, rhat: float, high: float, log_z0: float
) -> tuple[float, str]:
    """The end that all kinds of start lie below together, and what is to be said."""
    first = 0
    values = {}
    ends = []
    for name, rows in begin.kinds.items():
        part = seen.of(torch.arange(first, first + len(rows)))
        first += len(rows)
        ratio = log_ratio(part.forward, part.backward)
        values[name] = log_z0 + ratio.value
        ends.append(ratio.value + _quantile(len(rows) - 1) * ratio.stderr)
    # none of the kinds has seen all: what they saw may add up
    together = float(torch.tensor(ends, dtype=torch.float64).logsumexp(0))
    apart_by = max(values.values()) - min(values.values())
    listed = ", ".join(f"{name} {value:.2f}" for name, value in values.items())
    note = (
        f"the upper end is not sure: ladders started apart disagree (R-hat {rhat:.2f}; log Z from "
        f"{listed}: {apart_by:.2f} nats apart); raise steps"
    )
    return max(high, together), note


def _quantile(freedom: int) -> float:
    return float(stdtrit(freedom, 1 - TAIL))


# ---- from below ----------------


class Below(NamedTuple):
    """What annealing up says."""

    value: float
    stderr: float
    steps: int
    runs: int


def _from_below(
    path: Path, begin: Begin, b: Tensor, rejection: Tensor, effort: Effort, seed: int
) -> Below:
    """The best base of a pilot, then runs as slow as that one asks for."""
    pilot_steps = min(PILOT_STEPS, effort.steps)
    best = path
    schedule = (b, rejection)
    value, variance = _pilot_value(path, places(b, rejection, pilot_steps + 1), effort, seed)
    chosen = value
    for k, base in enumerate(begin.bases[1:]):
        other = Path(path.problem, base)
        even = torch.linspace(0, 1, pilot_steps + 1, dtype=torch.float64)
        value, spread = _pilot_value(other, even, effort, mix(seed, k + 1))
        # twice: a pilot of few steps is low
        if value > chosen + 2 * min(1.0, spread**0.5):
            best, chosen, variance = other, value, spread
            schedule = (even, torch.ones(pilot_steps, dtype=torch.float64))
    # more runs cost little where the problem is small
    edges = max(1, path.problem.graph.num_edges)
    runs = max(effort.chains, min(16 * effort.chains, AT_ONCE // edges))
    # normal log w of variance v have weights of relative variance exp(v) - 1
    goal = math.log1p((effort.width / 3 / _quantile(runs - 1)) ** 2 * runs)
    steps = pilot_steps
    turn = 0
    while True:
        # v falls as 1 / steps at best, and a fast run does not see all of it
        steps = max(steps, min(math.ceil(steps * variance / goal), effort.steps))
        log_w = anneal_up(best, places(*schedule, steps + 1), runs, mix(seed, 99 + turn))
        error = float(relative_error(log_w))
        variance = math.log1p(error**2 * runs)
        turn += 1
        if variance <= goal or steps == effort.steps or turn == MOST_RUNS:
            break
    value = best.log_z0 + float(log_mean_exp(log_w))
    return Below(value, error, steps, runs)


def _pilot_value(path: Path, b: Tensor, effort: Effort, seed: int) -> tuple[float, float]:
    """Log Z by few runs, and the variance of their log weights."""
    log_w = anneal_up(path, b, max(16, effort.chains // 4), seed)
    return path.log_z0 + float(log_mean_exp(log_w)), float(log_w.var())


# ---- together ----------------


def _annealed_down(
    path: Path, b: Tensor, rejection: Tensor, cold: Tensor, steps: int, seed: int
) -> Side:
    """Annealing down from the cold ends of the ladders; its error is over ladders."""
    times, num = cold.shape[:2]
    log_w = anneal_down(path, places(b, rejection, steps + 1), cold.flatten(0, 1), seed)
    by_ladder = log_mean_exp(log_w.reshape(times, num).T)
    value = path.log_z0 - float(log_mean_exp(by_ladder))
    error = float(relative_error(by_ladder))
    return Side("high", f"annealing down, {steps} steps", value, error, "if equilibrated")


def _joined(below: Below, above: Above, down: Side, path: Path, offset: float) -> Bracket:
    """The bracket of log Z, with the problem's offset."""
    up = Side("low", f"annealing up, {below.steps} steps", below.value, below.stderr, "bound")
    bennett = Side(
        "high",
        "Bennett's ratio on tempered ladders",
        path.log_z0 + above.ratio.value,
        above.ratio.stderr,
        "if equilibrated",
    )
    error = _quantile(below.runs - 1) * below.stderr
    low = below.value - error
    high = path.log_z0 + above.high
    note = above.note
    if low > high and not note:
        note = (
            f"the upper end is not sure: annealing up sees {low - high:.2f} nats more than the "
            "ladders; raise steps"
        )
    if note:
        # neither has seen all: what they saw may add up
        high = float(np.logaddexp(high, below.value + error))
    sides = tuple(replace(side, value=side.value - offset) for side in (up, bennett, down))
    return Bracket(low - offset, high - offset, note, sides)
