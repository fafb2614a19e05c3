"""Chains started apart: where a law may have modes, and whether chains that begin in them agree.

Chains that begin in one place agree with each other long before they have seen the law. Only a
comparison of chains that begin in different places can show a mode that some of them miss (Gelman
and Rubin, Stat. Sci. 7, 1992).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.problem.exact_products import product
from qsample.problem.ising import Ising
from qsample.sampling.mixing import split_rhat
from qsample.sampling.random import Generators, draw_seeds, mix

COLD = 1e3  # the beta that stands for a temperature of zero
POWERS = (2, 5, 10, 20)  # of the couplings, applied to random vectors
AGREE = 1.05  # R-hat up to which chains started apart agree


# ---- where to begin ----------------


def couple(problem: Ising, x: Tensor) -> Tensor:
    """The pull of all others on each unit, sum_j J_ij x_j, for real `x` `[P, R, n]`."""
    if problem.graph.kind == "sparse":
        i, j = problem.graph.pairs.to(x.device)
        J = problem.J[..., None, :]
        on_i = J * x[..., j]
        on_j = J * x[..., i]
        total = x.new_zeros(*on_i.shape[:-1], problem.num_spins)
        return total.index_add(-1, i, on_i).index_add(-1, j, on_j)
    if problem.graph.kind == "bipartite":
        left, right = x.split(problem.graph.sizes, -1)
        return torch.cat([product(right, problem.J.mT), product(left, problem.J)], -1)
    return product(x, problem.J)


def spread_rows(problem: Ising, num: int, seeds: Sequence[int]) -> Tensor:
    """`num` rows `[P, num, n]` of a flat batch of P problems, spread over the space of states.

    A quarter each: uniform random spins; spins with a mean of their own in each row (on a bipartite
    graph, on each side); the signs of random vectors to which powers of the couplings were applied,
    which lie along the directions of lowest energy; and the states that one unit alone pulls the
    others into. The first three rows of the second quarter are all up, all down, and each spin
    along its own field.

    Args:
        problem: P problems, as `Ising.flat` gives them.
        num: rows of each.
        seeds: one 63-bit seed per problem.
    """
    P = len(seeds)
    n = problem.num_spins
    streams = Streams([mix(seed, 11) for seed in seeds], problem.device)
    quarter = -(-num // 4)
    uniform = streams.spins(quarter, n)
    return torch.cat(
        [
            uniform,
            _tilted(problem, streams, P, quarter),
            _along_couplings(problem, streams, quarter),
            _pulled_by_one(problem, streams, quarter),
        ],
        1,
    )[:, :num]


def _tilted(problem: Ising, streams: Streams, P: int, num: int) -> Tensor:
    sizes = problem.graph.sizes if problem.graph.kind == "bipartite" else (problem.num_spins,)
    parts = [
        (streams.uniform(num, size) < streams.uniform(num, 1)).to(torch.int8) * 2 - 1
        for size in sizes
    ]
    rows = torch.cat(parts, -1)
    rows[:, :1] = 1
    rows[:, 1:2] = -1
    rows[:, 2:3] = torch.where(problem.h > 0, -1, 1).to(torch.int8).expand(P, -1)[:, None]
    return rows


def _along_couplings(problem: Ising, streams: Streams, num: int) -> Tensor:
    """Signs of (c - J)^k x for random x.

    c, half the largest row sum of |J|, makes the directions of low energy the large ones.
    """
    n = problem.num_spins
    pull = _Pull(problem.to(dtype=torch.float32), streams.count)
    size = pull.sums().amax(-1)[:, None, None] / 2
    x = 2 * streams.uniform(num, n) - 1
    powers = []
    for k in range(max(POWERS) + 1):
        if k in POWERS:
            powers.append(x)
        x = size * x - pull(x)
        x = x / x.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    power = torch.arange(num) % len(POWERS)
    rows = torch.stack(powers, 2)[:, torch.arange(num), power]
    return torch.where(rows < 0, -1, 1).to(torch.int8)


class _Pull:
    """`couple`, many times and in plain rounding: what it needs of J is made ready once.

    Args:
        problem: P problems in single precision.
        count: P.
    """

    def __init__(self, problem: Ising, count: int) -> None:
        self.problem = problem
        self.P = count
        self.J = problem.J
        if problem.graph.kind != "sparse":
            self.J = problem.J.expand(self.P, *problem.J.shape[-2:])

    def sums(self) -> Tensor:
        """Row sums of |J|, `[P, n]`."""
        kind = self.problem.graph.kind
        if kind == "sparse":
            ones = self.J.new_ones(1, 1, self.problem.num_spins)
            return couple(_absolute(self.problem), ones)[:, 0].expand(self.P, -1)
        size = self.J.abs()
        if kind == "bipartite":
            return torch.cat([size.sum(-1), size.sum(-2)], -1)
        return size.sum(-1)

    def __call__(self, x: Tensor) -> Tensor:
        kind = self.problem.graph.kind
        if kind == "sparse":
            return couple(self.problem, x)
        # one product per problem, of a shape that no batch changes
        if kind == "bipartite":
            left, right = x.split(self.problem.graph.sizes, -1)
            return torch.cat([torch.bmm(right, self.J.mT), torch.bmm(left, self.J)], -1)
        return torch.bmm(x, self.J)


def _pulled_by_one(problem: Ising, streams: Streams, num: int) -> Tensor:
    """A unit chosen at random, up or down by turns, and all others along the field they feel."""
    P = streams.count
    n = problem.num_spins
    site = (streams.uniform(num) * n).long().clamp_max(n - 1)
    up = (torch.arange(num, device=site.device) % 2 * 2 - 1).to(problem.dtype)
    pull = up[:, None] * _row(problem, site)
    rows = torch.where(pull == 0, streams.spins(num, n).to(pull), -pull.sign())
    rows.scatter_(-1, site[..., None], up.expand(P, num)[..., None])
    return rows.to(torch.int8)


def _row(problem: Ising, site: Tensor) -> Tensor:
    """The couplings of one unit with all, `[P, R, n]`, for sites `[P, R]`."""
    P, R = site.shape
    n = problem.num_spins
    if problem.graph.kind == "sparse":
        x = torch.zeros(P, R, n, dtype=problem.dtype, device=problem.device)
        return couple(problem, x.scatter_(-1, site[..., None], 1))
    J = problem.J.expand(P, *problem.J.shape[-2:])
    p = torch.arange(P, device=site.device)[:, None]
    if problem.graph.kind == "complete":
        return J[p, site]
    left, right = problem.graph.sizes
    row = torch.zeros(P, R, n, dtype=problem.dtype, device=problem.device)
    if left and right:
        on_left = (site < left)[..., None]
        row[..., left:] = J[p, site.clamp_max(left - 1)] * on_left
        row[..., :left] = J.mT[p, (site - left).clamp_min(0)] * ~on_left
    return row


def _absolute(problem: Ising) -> Ising:
    return Ising(problem.graph, problem.h, problem.J.abs(), problem.offset)


def minima(problem: Ising, rows: Tensor, seeds: Sequence[int], sweeps: int = 12) -> Tensor:
    """Rows `[P, R, n]` after descent at zero temperature: local minima of the energy, nearly all.

    Ties are broken at random, so that a spin without a field does not hold others fast.

    Args:
        problem: P problems, as `Ising.flat` gives them.
        rows: spins `[P, R, n]` from which descent begins.
        seeds: one 63-bit seed per problem.
        sweeps: sweeps of descent.
    """
    sweeper = Sweeper(problem, rows.shape[1], [mix(seed, 12) for seed in seeds], rows)
    sweeper.sweep(torch.full((sweeps,), COLD))
    return sweeper.spins


# ---- where chains stay ----------------


@dataclass(frozen=True, eq=False)
class Basin:
    """A set of chains of one problem that stay near each other.

    Attributes:
        mean: mean spins `[n]`.
        members: numbers of the chains.
    """

    mean: Tensor
    members: Tensor


def mean_spins(
    problem: Ising, rows: Tensor, seeds: Sequence[int], sweeps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean spins of chains at beta 1, over their 3rd and over their 4th quarter, `[P, R, n]` each.

    The third value is where the chains end.

    Args:
        problem: P problems, as `Ising.flat` gives them.
        rows: spins `[P, R, n]` where chains begin.
        seeds: one 63-bit seed per problem.
        sweeps: sweeps of each chain.
    """
    sweeper = Sweeper(problem, rows.shape[1], [mix(seed, 13) for seed in seeds], rows)
    stride = max(1, sweeps // 64)
    steps = max(4, sweeps // stride) // 4
    sweeper.sweep(torch.ones(2 * steps * stride))
    halves = []
    for _ in range(2):
        total = torch.zeros(rows.shape, dtype=torch.int32, device=rows.device)
        for _ in range(steps):
            sweeper.sweep(torch.ones(stride))
            total += sweeper.spins
        halves.append(total.double() / steps)
    return halves[0], halves[1], sweeper.spins


def basins(first: Tensor, second: Tensor, limit: int) -> list[Basin]:
    """The chains of one problem in sets that lie further apart than their own motion explains.

    Centres are found farthest first. Chains whose halves lie as far apart as two chains do are
    moving freely: they all make one basin.

    Args:
        first: mean spins of each chain over one half of its run, `[R, n]`.
        second: over the other half.
        limit: largest number of sets.
    """
    mean = (first + second) / 2
    # two chains at rest in one basin are half as far apart as two halves of one: four times that is
    # another basin
    noise = (first - second).square().mean(-1) / 2 + 1e-3
    centre = int(mean.var(-1, correction=0).argmax())
    centres = [centre]
    label = torch.zeros(len(mean), dtype=torch.int64)
    nearest = (mean - mean[centre]).square().mean(-1)
    while len(centres) < limit:
        excess = nearest - 2 * (noise + noise[torch.tensor(centres)][label])
        farthest = int(excess.argmax())
        if float(excess[farthest]) <= 0:
            break
        distance = (mean - mean[farthest]).square().mean(-1)
        label[distance < nearest] = len(centres)
        nearest = torch.minimum(nearest, distance)
        centres.append(farthest)
    sets = [(label == k).nonzero()[:, 0] for k in range(len(centres))]
    return [Basin(mean[members].mean(0), members) for members in sets if len(members)]


# ---- do they agree ----------------


@dataclass(frozen=True, eq=False)
class Agreement:
    """Whether chains started apart agree: `rhat` of the statistic that agrees least, and its name.

    `means` holds the mean spins `[n]` of each group of starts, `energy` its mean energy, `note`
    what disagrees, in words ("" where R-hat is at most 1.05).
    """

    rhat: float
    statistic: str
    means: Mapping[str, Tensor]
    energy: Mapping[str, float]
    note: str = ""


@torch.no_grad()
def started_apart(
    problem: Ising,
    starts: Mapping[str, Tensor] | None = None,
    sweeps: int = 200,
    generator: Generators | None = None,
    *,
    num: int = 32,
) -> Agreement:
    """Gibbs chains of one problem from groups of starts, compared by R-hat.

    The statistics are energy, mean spin and directions. The directions are those between the mean
    spins of the groups and of all chains, and the three directions in which the chains' own means
    differ most. A frozen or glassy law disagrees too: R-hat says that chains of this length do not
    mix, not that a weighted sampler is wrong.

    Args:
        problem: one problem.
        starts: groups of rows `[R, n]` of spins by name, in the user's own words; to them are added
            "random" and "minima" (of the energy, found from `spread_rows`), unless they are among
            them.
        sweeps: sweeps of each chain; the first quarter is left out, the second chooses directions.
        generator: randomness, as in `Sampler.sample`.
        num: number of rows of "random", and of "minima".

    Raises:
        ValueError: a batch of problems, or starts of another number of spins.
    """
    if problem.batch_shape:
        raise ValueError(
            f"started_apart takes one problem; got a batch {list(problem.batch_shape)}"
        )
    problem = problem.detach()
    seeds = draw_seeds(generator, ())
    groups = _groups(problem, {} if starts is None else starts, num, seeds)
    sizes = [len(rows) for rows in groups.values()]
    # the chains: a quarter of their sweeps is left out
    rows = torch.cat([group.to(problem.device, torch.int8) for group in groups.values()])
    sweeper = Sweeper(problem, len(rows), [mix(seeds[0], 15)], rows[None])
    stride = max(1, sweeps // 128)
    quarter = max(2, sweeps // stride // 4)
    sweeper.sweep(torch.ones(quarter * stride))
    spins = []
    energy = []
    for _ in range(3 * quarter):
        sweeper.sweep(torch.ones(stride))
        spins.append(sweeper.spins[0].clone())
        energy.append(sweeper.energy()[0])
    # directions are chosen on one part of the chains and judged on the rest: else the choice would
    # look like a finding
    trace = torch.stack(spins).float()  # [T, R, n]
    directions = _directions(trace[:quarter].mean(0), groups, sizes)
    trace = trace[quarter:]
    energies = torch.stack(energy)[quarter:]
    statistics = {"energy": energies, "mean spin": trace.mean(-1).double()}
    statistics |= {name: (trace @ v).double() for name, v in directions.items()}
    rhats = {name: float(split_rhat(_dithered(x))) for name, x in statistics.items()}
    worst = max(rhats, key=lambda name: rhats[name])
    # what each group came to
    spins_of = trace.mean(0).split(sizes)
    means = {name: part.mean(0) for name, part in zip(groups, spins_of, strict=True)}
    energies_of = energies.split(sizes, 1)
    levels = {name: float(part.mean()) for name, part in zip(groups, energies_of, strict=True)}
    note = ""
    if rhats[worst] > AGREE:
        between = ", ".join(f"{name} {level:.1f}" for name, level in levels.items())
        note = (
            f"chains started apart disagree after {4 * quarter * stride} sweeps: R-hat "
            f"{rhats[worst]:.2f} of {worst} (mean energy from {between})"
        )
    return Agreement(rhats[worst], worst, means, levels, note)


def _groups(
    problem: Ising, starts: Mapping[str, Tensor], num: int, seeds: Sequence[int]
) -> dict[str, Tensor]:
    """The user's groups of rows, checked, and "random" and "minima" beside them."""
    n = problem.num_spins
    groups = dict(starts)
    for name, rows in groups.items():
        if rows.dim() != 2 or rows.shape[1] != n or len(rows) == 0:
            raise ValueError(f"expected starts {name!r} of shape [R, {n}]; got {list(rows.shape)}")
    if "random" not in groups:
        groups["random"] = Streams([mix(seeds[0], 14)], problem.device).spins(num, n)[0]
    if "minima" not in groups:
        groups["minima"] = minima(problem, spread_rows(problem, num, seeds), seeds)[0]
    return groups


def _directions(
    means: Tensor, groups: Mapping[str, Tensor], sizes: Sequence[int]
) -> dict[str, Tensor]:
    """Directions `[n]` in which chains of mean spins `[R, n]` may differ, by name."""
    centre = means.mean(0)
    parts = means.split(list(sizes))
    directions = {
        f"the direction of {name}": part.mean(0) - centre
        for name, part in zip(groups, parts, strict=True)
    }
    principal = torch.linalg.svd(means - centre, full_matrices=False).Vh[:3]
    directions |= {f"principal direction {k + 1}": v for k, v in enumerate(principal)}
    return directions


def _dithered(x: Tensor) -> Tensor:
    """`x` itself, or zeros where it varies by rounding only: chains at rest in one place agree."""
    small = 1e-6 * (1 + float(x.abs().max()))
    return torch.zeros_like(x) if float(x.max() - x.min()) < small else x


def log_odds(mean: Tensor) -> Tensor:
    """The fields of independent spins with these means, -atanh(mean), of means within (-1, 1)."""
    return -torch.atanh(mean.clamp(-1 + 1e-15, 1 - 1e-15))


__all__ = ["Agreement", "Basin", "basins", "mean_spins", "minima", "spread_rows", "started_apart"]
