"""Parallel trajectory tempering: replicas on the checkpoints of a training that swap places."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsample.annealers.kernels.results import samples_of
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.annealers.log_z.bennett import log_ratio
from qsample.annealers.modes import ladders as judged
from qsample.problem import enumeration
from qsample.problem.exact_products import product
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.sampling.weights import ordered_sum
from qsample.support.checks import whole_settings
from qsample.support.faces import public

LISTED = 16  # log2 of the largest number of states that are summed for log Z of a first checkpoint


@public("qsample.annealers")
@dataclass(frozen=True, eq=False)
class TrajectoryTempering:
    r"""Parallel trajectory tempering: one Gibbs chain per checkpoint of a training, which swap.

    (Béreux, Decelle, Furtlehner, Rosset and Seoane, arXiv 2405.15376.) Temperature may lead through
    a transition of first order, at which no replica passes; a training that began at independent
    units has led through continuous ones. Neighbours a and b swap their states x and y with
    probability

    $$\min\left(1, \frac{q_a(y)\, q_b(x)}{q_a(x)\, q_b(y)}\right),$$

    even pairs and odd pairs in turn, $q = e^{-E}$, or that summed over the right side of a
    bipartite graph (an RBM's hidden units), which the next sweep draws anew. All checkpoints are
    swept at once. A read is the state of the problem itself, which is the last level of a ladder
    of its own.

    The same states give log Z: Bennett's ratios between neighbours, from a first checkpoint whose
    log Z is known (independent units, or a side of at most 16 spins).

    In training, pass an empty path and go on from the reads: `carry` holds path and replicas, and
    grows by the present problem wherever the swap rate with the last checkpoint has come down to
    `grow`. So `ContrastiveDivergence(model, TrajectoryTempering(sweeps=1))` tempers along its own
    past.

    Half the sweeps of a fresh call are burn-in. A call from an `initial` without `carry` begins
    with its spins at every level. `Samples.info["note"]` says what speaks against the reads, as in
    `ParallelTempering`, whose ladders start apart likewise.

    Args:
        path: checkpoints before the problem that is asked for, from the first on: problems on its
            graph, or models (`model.ising()` is taken). Empty: independent units in the fields of
            the first problem that is asked for.
        sweeps: number of sweeps of each replica before a read.
        swap_every: number of sweeps between rounds of swaps.
        grow: swap rate between the last checkpoint and the problem at or below which a `carry`
            takes the problem as one more checkpoint; 0 for never.

    Raises:
        ValueError: a setting that is none of these; checkpoints that are batches, or of different
            graphs.

    `info`, after burn-in: "swap_rate" `[*B, K]` between the K + 1 levels; "barrier" `[*B]`, the sum
    of their rejections; "round_trips" and "round_trips_expected" `[*B]`; "rhat" `[*B]`, nested
    R-hat between ladders that started apart, where there are such; "log_partition" and
    "log_partition_stderr" `[*B]`, nan where the first log Z is unknown; "note".
    """

    path: Sequence[Any] = ()
    sweeps: int = 100
    swap_every: int = 1
    grow: float = 0.3

    name = "trajectory-tempering"
    about = "checkpoints of a training that swap; continues chains"
    exactness = Exactness.ASYMPTOTIC
    warm_start = True
    reversible = False

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1, swap_every=1)
        if not 0 <= self.grow < 1:
            raise ValueError(f"expected 0 <= grow < 1; got {self.grow}")
        problems = tuple(as_problem(point) for point in self.path)
        for k, problem in enumerate(problems):
            if problem.batch_shape:
                raise ValueError(
                    f"expected checkpoints of one problem each; number {k} is a batch "
                    f"{list(problem.batch_shape)}"
                )
            if problem.graph.hash != problems[0].graph.hash:
                raise ValueError(f"checkpoint {k} is on another graph than the first: {problem!r}")
        object.__setattr__(self, "path", problems)

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw `num` reads of each problem; weights of `initial` are kept.

        Args:
            problem: the problems, a batch of any dimensions `*B`, the last level of each ladder.
            num: reads of each problem, and ladders.
            initial: chains to continue, `[*B, num, n]`; None starts from draws of the first level.
            generator: randomness, as in `Sampler.sample`.

        Raises:
            ValueError: a problem on another graph than the path's.
        """
        problem = check_request(self, problem, num, initial)
        if self.path and problem.graph.hash != self.path[0].graph.hash:
            raise ValueError(
                f"expected a problem on the path's graph {self.path[0].graph!r}; got "
                f"{problem.graph!r}"
            )
        seeds = draw_seeds(generator, problem.batch_shape)
        flat = problem.without_offset().flat()
        carry = _carried(problem, num, initial)
        path = self._path(flat, len(seeds)) if carry is None else _path_of(problem, carry)
        levels = _stacked(path, flat)
        right = initial is not None and (
            initial.exactness is Exactness.EXACT or initial.log_weight is not None
        )
        spins, starts = self._start(levels, num, initial, carry, seeds, right)
        rungs = Rungs(levels, spins, seeds, judged.parity_of(carry))
        swap_last = carry is not None or not right
        burnt = 0
        if carry is None:
            burnt = self.sweeps // 2
            rungs.run(burnt, self.swap_every, swap_last=initial is None)
            rungs.forget()
        rounds = -(-(self.sweeps - burnt) // self.swap_every)
        rungs.watch = judged.Watch(flat, starts, rounds)
        rungs.run(self.sweeps - burnt, self.swap_every, swap_last=swap_last)
        state = rungs.spins[:, :, :num]
        info: dict[str, Any] = {"sweeps": self.sweeps} | rungs.info()
        info |= _log_z(levels, rungs, problem)
        hot = state[:, :-1]
        if 0 < self.grow >= float(info["swap_rate"][:, -1].min()):
            # the problem of this call, and its reads, are the path's next checkpoint
            hot = state
            path = levels
        weight = None if initial is None else initial.log_weight
        return samples_of(
            problem,
            state[:, -1],
            Exactness.ASYMPTOTIC,
            info,
            log_weight=None if weight is None else weight.clone(),
            family=None if initial is None else initial.family,
            carry={
                "trajectory": hot.transpose(1, 2).contiguous(),
                "parity": torch.full((len(seeds),), rungs.parity),
                "path_h": path.h[:, : hot.shape[1]].clone(),
                "path_J": path.J[:, : hot.shape[1]].clone(),
            },
        )

    @staticmethod
    def thinned(
        checkpoints: Iterable[Any],
        swap_rate: float = 0.4,
        *,
        num: int = 64,
        sweeps: int = 4,
        generator: torch.Generator | None = None,
    ) -> list[Ising]:
        """A path through many checkpoints: as few of them as swap at a rate.

        Chains run along all of them. The first is kept, and then each before the one whose swap
        rate with the last kept one, by the chains at both, falls below `swap_rate`.

        Args:
            checkpoints: problems or models, in the order of training, the target last.
            swap_rate: swap rate of neighbours, > 0 and < 1.
            num: number of chains.
            sweeps: sweeps at each checkpoint.
            generator: randomness; None is torch's default generator.

        Raises:
            ValueError: no checkpoints, or a rate out of range.
        """
        problems = [as_problem(point).without_offset() for point in checkpoints]
        if not problems or not 0 < swap_rate < 1:
            raise ValueError(
                f"expected checkpoints, and 0 < swap_rate < 1; got {len(problems)} and {swap_rate}"
            )
        sweeper = Sweeper(problems[0].flat(), num, draw_seeds(generator, ()))
        sweeper.sweep(torch.ones(sweeps))
        kept = [problems[0]]
        kept_spins = sweeper.spins
        former = problems[0]
        former_spins = kept_spins
        for problem in problems[1:]:
            sweeper.move(problem.flat())
            sweeper.sweep(torch.ones(sweeps))
            last = Ising(problem.graph, kept[-1].h[None, None], kept[-1].J[None, None])
            pair = _stacked(last, problem.flat())
            gain = gains(pair, torch.stack([kept_spins, sweeper.spins], 1))
            rate = float((gain[0] + gain[1]).clamp_max(0).exp().mean())
            if rate < swap_rate and former is not kept[-1]:
                kept.append(former)
                kept_spins = former_spins
            former = problem
            former_spins = sweeper.spins
        return kept

    def _path(self, flat: Ising, count: int) -> Ising:
        """The checkpoints of each of P problems: a batch `[P, K - 1]` without offset."""
        graph = flat.graph
        if not self.path:
            J = flat.J.new_zeros(count, 1, *graph.coupling_shape)
            return Ising(graph, flat.h[:, None], J)
        h = torch.stack([point.h.to(flat.h) for point in self.path])
        J = torch.stack([point.J.to(flat.J) for point in self.path])
        return Ising(graph, h.expand(count, *h.shape), J.expand(count, *J.shape))

    def _start(
        self,
        levels: Ising,
        num: int,
        initial: Samples | None,
        carry: dict[str, Tensor] | None,
        seeds: Sequence[int],
        right: bool,
    ) -> tuple[Tensor, judged.Starts]:
        """Where the replicas start, `[P, K, N, n]`, and how they start apart."""
        P, K, n = levels.h.shape
        if initial is not None:
            cold = initial.spins.reshape(P, 1, num, n)
            if carry is not None:
                hot = carry["trajectory"].reshape(P, num, K - 1, n).transpose(1, 2)
                nothing = judged.starts_of(levels.flat(), 0, 0, seeds, given=True)
                return torch.cat([hot.to(cold), cold], 1), nothing
            spins = cold.expand(P, K, num, n)
        else:
            first = Ising(levels.graph, levels.h[:, 0], levels.J[:, 0])
            sweeper = Sweeper(first, K * num, [mix(seed, 4) for seed in seeds])
            sweeper.sweep(torch.ones(1))  # an exact draw where units are independent
            spins = sweeper.spins.reshape(P, K, num, n)
        last = Ising(levels.graph, levels.h[:, -1], levels.J[:, -1]).flat()
        again = [mix(seed, 3) for seed in seeds]
        wanted = 0 if right else num
        starts = judged.starts_of(
            last, wanted, self.sweeps * num * K, again, given=initial is not None
        )
        return starts.placed(spins.transpose(1, 2)).transpose(1, 2), starts


def as_problem(point: Any) -> Ising:
    """A checkpoint as a problem: an `Ising`, or what a model's `ising()` gives.

    Raises:
        TypeError: neither.
    """
    if isinstance(point, Ising):
        return point.detach()
    if callable(getattr(point, "ising", None)):
        return point.ising().detach()
    raise TypeError(f"expected Ising problems or models as checkpoints; got {point!r}")


# ---- the levels ----------------


class Rungs:
    """N ladders of K levels for each of P problems; states move between levels.

    Args:
        levels: problems `[P, K]` without offset.
        spins: where to start, `[P, K, N, n]`.
        seeds: one 63-bit seed per problem.
        parity: pairs that swap first, 0 the even ones, 1 the odd ones.
    """

    def __init__(self, levels: Ising, spins: Tensor, seeds: Sequence[int], parity: int = 0) -> None:
        P, K, N, _ = spins.shape
        self.levels = levels
        self.shape = (P, N, K)
        level_seeds = [mix(mix(seed, 5), k) for seed in seeds for k in range(K)]
        self._sweeper = Sweeper(levels, N, level_seeds, spins.contiguous())
        self._streams = Streams([mix(seed, 1) for seed in seeds], torch.device("cpu"))
        self._holder = torch.arange(K).expand(P, N, K).contiguous()  # the replica at each level
        self.parity = parity
        self._trips = judged.Trips((P, N, K))
        self.watch: judged.Watch | None = None
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        P, _, K = self.shape
        self._rejections = judged.Rejections((P, K - 1))
        self._trips.forget()
        self._gains: list[Tensor] = []

    @property
    def rounds(self) -> int:
        """Rounds of swaps since `forget`."""
        return self._rejections.rounds

    @property
    def spins(self) -> Tensor:
        """The state, `[P, K, N, n]`."""
        P, N, K = self.shape
        return self._sweeper.spins.reshape(P, K, N, -1)

    def run(self, sweeps: int, swap_every: int, swap_last: bool) -> None:
        """Sweeps of every replica, each part of them after a round of swaps.

        So a call ends with a sweep, which draws what the swaps summed over.

        Args:
            sweeps: sweeps of each replica.
            swap_every: sweeps after each round of swaps.
            swap_last: whether the last level takes part in swaps.
        """
        for done in range(0, sweeps, swap_every):
            self.swap(swap_last)
            self._sweeper.sweep(torch.ones(min(swap_every, sweeps - done)))

    def swap(self, swap_last: bool) -> None:
        """One round of swaps; pairs that do not take part in it are counted too."""
        P, N, K = self.shape
        spins = self.spins
        gain = gains(self.levels, spins)  # [2, P, K - 1, N]
        self._gains.append(gain)
        accept = (gain[0] + gain[1]).clamp_max(0).exp()
        self._rejections.see(ordered_sum(1 - accept) / N)
        if self.watch is not None and self.watch.due:
            last = Ising(self.levels.graph, self.levels.h[:, -1], self.levels.J[:, -1])
            self.watch.see(spins[:, -1], last.energy(spins[:, -1]))
        # swap the pairs of this round's parity
        low = torch.arange(self.parity, K - 1, 2)
        u = self._streams.uniform(N, K - 1).transpose(1, 2)[:, low]
        swapped = (u < accept[:, low]) & (swap_last | (low < K - 2))[:, None]
        place = torch.arange(K).expand(P, N, K).transpose(1, 2).contiguous()  # [P, K, N]
        place[:, low] += swapped.long()
        place[:, low + 1] -= swapped.long()
        self._holder = self._holder.gather(-1, place.transpose(1, 2))
        self.parity = 1 - self.parity
        self._trips.see(self._holder)
        moved = spins.take_along_dim(place.to(spins.device)[..., None], 1)
        self._sweeper.take(moved.reshape(P * K, N, -1))

    def info(self) -> dict[str, Any]:
        """What was learned since `forget`, and what to make of it."""
        seen = self._rejections
        expected = judged.trips_per_round(seen.mean) * seen.rounds * self.shape[1]
        notes = judged.doubts(seen.worst, self._trips.total, expected, self._pair_note)
        agreement = None if self.watch is None else self.watch.agreement()
        if agreement is not None and agreement.note:
            notes = [agreement.note, *notes]
        return {
            "swap_rate": 1 - seen.mean,
            "barrier": ordered_sum(seen.mean),
            "round_trips": self._trips.total,
            "round_trips_expected": expected,
            "note": "; ".join(notes),
        } | ({} if agreement is None else {"rhat": agreement.rhat})

    def _pair_note(self, p: int, pair: int, rate: float) -> str:
        return (
            f"replicas hardly swap between checkpoints {pair} and {pair + 1} of "
            f"{self.shape[2]} ({rate:.1%} at times): put checkpoints of the training between them"
        )

    def log_ratio(self, p: int) -> tuple[float, float]:
        """Log of the last Z of problem p over its first, and its standard error."""
        gain = torch.stack([part[:, p] for part in self._gains])  # [T, 2, K - 1, N]
        ratio = log_ratio(gain[:, 0], gain[:, 1])
        return ratio.value, ratio.stderr if gain.shape[-1] > 1 else math.nan


def gains(levels: Ising, spins: Tensor) -> Tensor:
    """What neighbours think of each other's states, `[2, P, K - 1, N]` float64 on the CPU.

    First log q_{k+1}/q_k of the states of level k, then log q_k/q_{k+1} of those of level k + 1.

    Args:
        levels: problems `[P, K]`.
        spins: states `[P, K, N, n]`.
    """
    N = spins.shape[2]
    below = spins.roll(1, 1)  # the states of level k - 1 at k
    above = spins.roll(-1, 1)
    log_q = log_densities(levels, torch.cat([below, spins, above], 2))
    of_below, own, of_above = log_q.split(N, -1)
    up = of_below[:, 1:] - own[:, :-1]
    down = of_above[:, :-1] - own[:, 1:]
    return torch.stack([up, down])


def log_densities(levels: Ising, spins: Tensor) -> Tensor:
    """Log q of states `[P, K, R, n]` at their levels, `[P, K, R]` float64 on the CPU."""
    if levels.graph.kind != "bipartite":
        return -levels.energy(spins).double().cpu()
    sizes = levels.graph.sizes
    h_left, h_right = levels.h.split(sizes, -1)
    left = spins[..., : sizes[0]].to(levels.dtype)
    field = product(left, levels.J) + h_right[..., None, :]
    log_q = enumeration.log_2cosh(field).sum(-1) - (left * h_left[..., None, :]).sum(-1)
    return log_q.double().cpu()


def _log_z(levels: Ising, rungs: Rungs, problem: Ising) -> dict[str, Tensor]:
    """Log Z of the problem and its error, `[P]` each, by Bennett's ratios from the first level."""
    P = levels.h.shape[0]
    first = Ising(levels.graph, levels.h[:, 0], levels.J[:, 0]).detach()
    if not first.J.any():
        start = enumeration.log_2cosh(first.h.double()).sum(-1).cpu()
    elif enumeration.num_enumerated(first) <= LISTED:
        start = enumeration.log_partition(first).cpu()
    else:
        start = torch.full((P,), torch.nan, dtype=torch.float64)
    ratios = torch.tensor([rungs.log_ratio(p) for p in range(P)], dtype=torch.float64)
    offset = problem.offset.double().expand(problem.batch_shape).reshape(-1).cpu()
    return {
        "log_partition": start + ratios[:, 0] - offset,
        "log_partition_stderr": ratios[:, 1],
    }


def _stacked(path: Ising, last: Ising) -> Ising:
    """The levels `[P, K]`: the path `[P, K - 1]`, then the problems `[P]`."""
    P = path.h.shape[0]
    J = last.J.expand(P, *last.J.shape[1:])
    return Ising(
        path.graph,
        torch.cat([path.h, last.h[:, None].to(path.h)], 1),
        torch.cat([path.J, J[:, None].to(path.J)], 1),
    )


def _carried(problem: Ising, num: int, initial: Samples | None) -> dict[str, Tensor] | None:
    """The path and its replicas in a `carry`, where they fit; else None."""
    carry = dict((None if initial is None else initial.carry) or {})
    if not carry.keys() >= {"trajectory", "path_h", "path_J"}:
        return None
    batch = problem.batch_shape
    n = problem.num_spins
    points = carry["path_h"].shape[-2] if carry["path_h"].dim() > 1 else 0
    fits = (
        carry["path_h"].shape == (*batch, points, n)
        and carry["path_J"].shape == (*batch, points, *problem.graph.coupling_shape)
        and carry["trajectory"].shape == (*batch, num, points, n)
        and points > 0
    )
    return carry if fits else None


def _path_of(problem: Ising, carry: dict[str, Tensor]) -> Ising:
    """The path in a `carry`, `[P, K - 1]`."""
    h = carry["path_h"].to(problem.h)
    J = carry["path_J"].to(problem.J)
    points = h.shape[-2]
    layout = problem.graph.coupling_shape
    count = problem.batch_shape.numel()  # not -1: a J of no edges has no numbers
    return Ising(
        problem.graph,
        h.reshape(count, points, problem.num_spins),
        J.reshape(count, points, *layout),
    )
