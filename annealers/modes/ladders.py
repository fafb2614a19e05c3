"""Ladders started apart: does tempering cross between modes, and do its own numbers say so?

Swap rates and round trips judge the ladder alone: replicas may travel freely between hot and cold
and still come down into the same mode, as where another one is narrow while it is hot. What sees it
is a comparison of ladders that began in different places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.modes import apart
from qsample.problem.ising import Ising
from qsample.sampling.mixing import nested_rhat

AGREE = 1.05  # R-hat up to which groups of ladders agree
SURE = 1e-4  # chance of a disagreement by accident, of all statistics of all problems
TIMES = 16  # at which cold ends are looked at
MINIMA = 3  # the most from which ladders start
WITNESS = 20  # ladders of the caller's chains for each that is added to be compared with them
SHARE = 0.03  # of all sweeps, spent on the search for minima
DESCENT = 12  # sweeps of one
ROWS = (8, 24)  # from which minima are sought: with fewer than the first there is no search
RARE = 0.05  # swap rate below which a pair holds up the others
SLOW = 0.25  # part of the expected round trips below which replicas do not forget
MEMORY = 16  # rounds of swaps that the running mean of a rejection looks back
FEW = 16.0  # expected round trips below which they are not counted


# ---- where ladders start ----------------


@dataclass(frozen=True, eq=False)
class Starts:
    """Where ladders start apart.

    Attributes:
        minima: minima of the energy, `[P, K, n]`; K = 0 where no comparison is made.
        sizes: number of ladders of each group, the first of which starts elsewhere.
        witnesses: ladders at the end that are not read.
    """

    minima: Tensor
    sizes: list[int]
    witnesses: int = 0

    def placed(self, spins: Tensor) -> Tensor:
        """Spins of the ladders `[P, N, L, n]`: witnesses added, and each group at its minimum."""
        if self.minima.shape[1] == 0:
            return spins
        if self.witnesses:
            spins = torch.cat([spins, spins[:, :1].expand(-1, self.witnesses, -1, -1)], 1)
        spins = spins.clone()
        first = self.sizes[0]
        for k, size in enumerate(self.sizes[1:]):
            spins[:, first : first + size] = self.minima[:, k, None, None].to(spins)
            first += size
        return spins


def starts_of(
    problem: Ising, ladders: int, budget: float, seeds: Sequence[int], *, given: bool
) -> Starts:
    """Groups of ladders, and where they start.

    Where the caller gives no chains the ladders themselves are shared among the groups, which costs
    nothing; else one ladder in twenty is added as a witness, where there are so many.

    Args:
        problem: P problems, as `Ising.flat` gives them.
        ladders: number N of ladders of each problem; 0 where no comparison is wanted.
        budget: sweeps of one replica that all ladders of a problem make.
        seeds: one 63-bit seed per problem.
        given: whether the ladders start from the caller's chains.
    """
    most = ladders // WITNESS if given else max(1, ladders // 4)
    count = min(MINIMA, most)
    rows = min(ROWS[1], int(SHARE * budget / DESCENT))
    if count == 0 or ladders < 2 or rows < ROWS[0]:
        nowhere = torch.zeros(len(seeds), 0, problem.num_spins, dtype=torch.int8)
        return Starts(nowhere, [ladders])
    minima = far_minima(problem, count, rows, seeds)
    if given:
        size = most // count
        return Starts(minima, [ladders, *[size] * count], size * count)
    size = ladders // (count + 1)
    return Starts(minima, [ladders - size * count, *[size] * count])


def far_minima(problem: Ising, count: int, rows: int, seeds: Sequence[int]) -> Tensor:
    """Minima of the energy of each problem, far from each other: `[P, count, n]`.

    The deepest, then of the deeper half those that resemble the chosen ones least.

    Args:
        problem: P problems, as `Ising.flat` gives them.
        count: number of minima.
        rows: number of rows from which they are sought.
        seeds: one 63-bit seed per problem.
    """
    spread = apart.spread_rows(problem, rows, seeds)
    low = apart.minima(problem, spread, seeds, DESCENT)
    energy = problem.energy(low)
    dear = energy > energy.median(-1, keepdim=True).values
    chosen = [energy.argmin(-1)]
    units = low.float()
    likest = torch.where(dear, 2.0, -2.0)  # the largest overlap with those chosen
    for _ in range(count - 1):
        last = units.take_along_dim(chosen[-1][:, None, None], 1)
        overlap = (units @ last.mT)[..., 0] / problem.num_spins
        likest = torch.maximum(likest, overlap)
        chosen.append(likest.argmin(-1))
    return low.take_along_dim(torch.stack(chosen, 1)[..., None], 1)


# ---- what they see ----------------


class Watch:
    """The cold ends of ladders that began apart, looked at some times.

    Args:
        problem: P problems, as `Ising.flat` gives them.
        starts: where they began.
        rounds: rounds of swaps to come.
    """

    def __init__(self, problem: Ising, starts: Starts, rounds: int) -> None:
        minima = starts.minima
        self.sizes = starts.sizes
        self._stride = max(1, rounds // TIMES)
        self._round = 0
        self._seen: list[Tensor] = []
        # one column per statistic: the mean of each side, the overlap with each minimum
        n = problem.num_spins
        sides = [size for size in problem.graph.sizes if size]
        whose = ["the right side's" if problem.graph.sizes[0] == 0 else "the left side's"]
        whose = [*whose, "the right side's"][: len(sides)]
        if problem.graph.kind != "bipartite":
            whose = ["the"]
        P, K = minima.shape[:2]
        columns = torch.zeros(P, n, len(sides) + K, dtype=torch.float32)
        first = 0
        for k, size in enumerate(sides):
            columns[:, first : first + size, k] = 1 / size
            first += size
        columns[..., len(sides) :] = minima.mT.cpu() / n
        self._columns = columns.to(problem.device)
        overlaps = (f"the overlap with minimum {k + 1}" for k in range(K))
        self.names = ["the energy", *(f"{side} mean spin" for side in whose), *overlaps]

    @property
    def due(self) -> bool:
        """Whether this round is to be seen; called once per round."""
        self._round += 1
        return len(self.sizes) > 1 and self._round % self._stride == 0

    def see(self, spins: Tensor, energy: Tensor) -> None:
        """The cold ends of this round, spins `[P, N, n]` and energies `[P, N]`."""
        values = torch.bmm(spins.to(self._columns), self._columns).double().cpu()
        self._seen.append(torch.cat([energy.double().cpu()[..., None], values], -1))

    def agreement(self) -> Agreement | None:
        """Whether the groups agree; None where there are no groups, or too little was seen."""
        short = len(self._seen) < 2 and max(self.sizes) < 2
        if not self._seen or short or len(self.sizes) == 1:
            return None
        x = _still(torch.stack(self._seen).transpose(1, 2))  # [T, N, P, statistics]
        rhat = nested_rhat(x, self.sizes)
        worst = rhat.argmax(-1)
        p = int(rhat.amax(-1).argmax())
        value = float(rhat[p, worst[p]])
        note = ""
        if value > AGREE:
            statistic = int(worst[p])
            ladders = x[..., p, statistic].mean(0)
            sure = _chance(ladders, self.sizes) * rhat.numel() < SURE
            means = [float(group.mean()) for group in ladders.split(self.sizes)]
            note = self._note(value, self.names[statistic], means, sure)
        return Agreement(rhat.amax(-1), note)

    def _note(self, rhat: float, statistic: str, means: Sequence[float], sure: bool) -> str:
        """What disagrees, and what to do about it."""
        others = ", ".join(f"{mean:.3g}" for mean in means[1:])
        says = f"R-hat {rhat:.2f} of {statistic}: {means[0]:.3g}, from minima {others}"
        if sure:
            return (
                f"ladders started apart disagree ({says}): they do not cross between modes, and "
                "the reads may miss some of the law; raise sweeps, or begin at reads that cover it"
            )
        return (
            f"too short to tell whether ladders started apart agree ({says}): raise sweeps or the "
            "number of reads"
        )


@dataclass(frozen=True, eq=False)
class Agreement:
    """Whether ladders started apart agree.

    Attributes:
        rhat: nested R-hat of the statistic that agrees least, `[P]`.
        note: of the problem that agrees least, "" where R-hat is at most 1.05.
    """

    rhat: Tensor
    note: str


def _still(x: Tensor) -> Tensor:
    """`x` with zeros where a statistic varies by rounding only: ladders in one place agree."""
    flat = x.flatten(0, 1)
    spread = flat.amax(0) - flat.amin(0)
    return torch.where(spread < 1e-6 * (1 + flat.abs().amax(0)), 0.0, x)


def _chance(means: Tensor, sizes: Sequence[int]) -> float:
    """The chance that groups differ so much where their ladders agree: the F law of variances.

    Args:
        means: means of a statistic of each ladder, `[N]`, group by group.
        sizes: number of ladders of each group.
    """
    from scipy.special import fdtrc

    groups = means.split(list(sizes))
    freedom = len(means) - len(sizes)
    if freedom == 0:
        return 1.0
    inside = sum(float((group - group.mean()).square().sum()) for group in groups) / freedom
    between = sum(len(group) * float(group.mean() - means.mean()) ** 2 for group in groups)
    if inside == 0:
        return 0.0
    return float(fdtrc(len(sizes) - 1, freedom, between / (len(sizes) - 1) / inside))


# ---- what the ladder's own numbers say ----------------


def trips_per_round(rejection: Tensor) -> Tensor:
    r"""Round trips of a ladder per round of swaps, of replicas that forget between rounds.

    $1 / (2 + 2 \sum_l r_l / (1 - r_l))$ with $r_l$ the mean rejection of pair l, of even and odd
    pairs by turns (Syed et al., JRSS B 84, 2022, theorem 1).

    Args:
        rejection: r, `[P, L - 1]`.
    """
    return 1 / (2 + 2 * (rejection / (1 - rejection).clamp_min(1e-12)).sum(-1))


def parity_of(carry: Mapping[str, Tensor] | None) -> int:
    """Whether the odd pairs are next to swap (1): calls of one round each would else swap half."""
    parity = None if carry is None else carry.get("parity")
    return 0 if parity is None or not parity.numel() else int(parity.flatten()[0]) % 2


class Trips:
    """Round trips of replicas: hot, cold and back.

    Args:
        shape: (P, N, L): N ladders of L replicas of each of P problems.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._count = torch.zeros(shape, dtype=torch.float32)
        self._seen_cold = torch.zeros(shape, dtype=torch.bool)

    def see(self, holder: Tensor) -> None:
        """The replica at each level, `[P, N, L]`, after a round of swaps."""
        # a replica at the hot end that has seen the cold one is back from a round trip
        hot = holder[..., :1]
        cold = holder[..., -1:]
        self._count.scatter_add_(-1, hot, self._seen_cold.gather(-1, hot).to(self._count))
        self._seen_cold.scatter_(-1, hot, False)
        self._seen_cold.scatter_(-1, cold, True)

    def forget(self) -> None:
        """Count anew; where replicas have been is known."""
        self._count.zero_()

    @property
    def total(self) -> Tensor:
        """Trips of all ladders, `[P]`."""
        return self._count.sum((-2, -1))


class Rejections:
    """Mean rejections of each pair of levels, and the largest that they were for a while.

    Args:
        shape: (P, L - 1).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.rounds = 0
        self._sum = torch.zeros(shape, dtype=torch.float64)
        self._running = torch.zeros(shape, dtype=torch.float64)
        self._worst = torch.zeros(shape, dtype=torch.float64)

    def see(self, rejected: Tensor) -> None:
        """The mean over ladders of one round, `[P, L - 1]`."""
        self._sum += rejected
        self.rounds += 1
        self._running += (rejected - self._running) / min(self.rounds, MEMORY)
        if self.rounds >= MEMORY:
            self._worst = torch.maximum(self._worst, self._running)

    @property
    def mean(self) -> Tensor:
        """The mean over all rounds, `[P, L - 1]`."""
        return self._sum / max(self.rounds, 1)

    @property
    def worst(self) -> Tensor:
        """The largest running mean, `[P, L - 1]`."""
        return self._worst if self.rounds >= MEMORY else self.mean


def doubts(
    worst: Tensor,
    trips: Tensor,
    expected: Tensor,
    pair_note: Callable[[int, int, float], str],
) -> list[str]:
    """What the ladders' own numbers say against them, of the worst problem; empty for nothing.

    Args:
        worst: the largest running mean of each pair's rejection, `[P, L - 1]`.
        trips: round trips made, `[P]`.
        expected: round trips that the mean rejections promise, `[P]`.
        pair_note: function that says what to do about a pair that hardly swaps, from the problem's
            number, the pair's and its swap rate.
    """
    notes = []
    p, pair = divmod(int(worst.argmax()), worst.shape[1])
    if float(worst[p, pair]) > 1 - RARE:
        notes.append(pair_note(p, pair, 1 - float(worst[p, pair])))
    part = torch.where(expected < FEW, 1.0, trips / expected)
    p = int(part.argmin())
    if float(part[p]) < SLOW:
        notes.append(
            f"replicas made {int(trips[p])} of the {int(expected[p])} round trips that the swap "
            "rates promise: they do not forget between swaps; raise swap_every, or sweeps"
        )
    return notes
