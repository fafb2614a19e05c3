"""Parallel tempering: replicas on a ladder of temperatures that swap places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qsample.annealers.kernels.results import samples_of
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.annealers.kernels.update import Rule
from qsample.annealers.modes import ladders as judged
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.sampling.weights import ordered_sum
from qsample.support.checks import check_choice, is_whole, whole_settings
from qsample.support.faces import public

ROUNDS = 5  # of adaptation, each twice as long as the one before


@public("qsample.annealers")
@dataclass(frozen=True)
class ParallelTempering:
    r"""Non-reversible parallel tempering: L Gibbs chains at betas up to 1, which swap places.

    Neighbours on the ladder swap with probability $\min(1, e^{(\beta_{l+1} - \beta_l)(E_{l+1} -
    E_l)})$ (Hukushima and Nemoto 1996), even pairs and odd pairs in turn, which carries replicas up
    and down in straight runs (Okabe et al. 2001; Syed et al., JRSS B 84, 2022). Ladders are adapted
    as in Syed et al.: with $r_l$ the mean rejection of pair l, $\Lambda(\beta_l) = \sum_{k<l} r_k$
    is interpolated and cut into equal steps, which evens the rates.

    A read is the replica at beta 1 of a ladder of its own: reads are independent, and cost L chains
    each. With `reads_per_ladder` k the reads come ladder by ladder, k of each, `sweeps` sweeps
    apart: far cheaper where mixing is slow and reads are many, but then correlated: reads of a
    ladder are one `family` (`info["block"]` is k).

    Half the sweeps of a fresh call are burn-in: there the ladder of a problem is adapted, from the
    rates of all its ladders together, and then frozen. `carry` holds ladder and hot replicas: a
    call from such an `initial` goes on without burn-in or adaptation, and leaves the law invariant
    as far as the hot replicas have come to rest.

    From an `initial` without it hot replicas start from the reads themselves, and none of them
    swaps into the cold end during burn-in. That is no kernel yet: what a hot replica has not
    forgotten leaks into the reads. So where they are known to be right (EXACT, or weighted), no
    swap touches the cold end in the whole call: reads move by sweeps at beta 1 alone, which leaves
    their law exactly as it is and keeps their weights, and tempering begins with the next call,
    from this one's `carry`.

    So that the answer can be doubted, the ladders of a call without a `carry` start apart: half of
    them or more at up to three minima of the energy, far from each other. They are no worse for it
    than the others, and cold ends are compared after burn-in. Beside an `initial` of 20 chains or
    more start witnesses, one ladder in 20, which are not read.

    As an optimiser, give it `problem.scale(beta)` with beta far above 1 and anneal before: from
    random spins the cold end of a long ladder takes most of a short run to come to rest.

    Args:
        sweeps: number of sweeps of each replica before a read.
        betas: number of temperatures, or the temperatures themselves as betas: increasing, from 0
            or more to 1.
        swap_every: number of sweeps between rounds of swaps; a round costs about as much as one
            sweep of a small problem.
        adapt: whether to adapt the ladder.
        reads_per_ladder: number of reads taken from one ladder; must divide the number of reads.
        anneal: number of sweeps before the burn-in that cool every replica from beta 0 to its own;
            none where `initial` is given.
        rule: "gibbs" or "metropolis", as in `SimulatedAnnealing`.

    Raises:
        ValueError: a setting that is none of these.

    `info`, after burn-in: "betas" `[*B, L]`; "swap_rate" `[*B, L - 1]`, mean acceptance; "barrier"
    Lambda(1) `[*B]` (L near 2 Lambda is best; rates are then near 1/2); "pair_barrier_max" `[*B, L
    - 1]`, the largest running mean of each pair's rejection; "round_trips" `[*B]` (hot, cold and
    back, all ladders) and "round_trips_expected" `[*B]` (of replicas that forget between swaps);
    "rhat" `[*B]`, nested R-hat between ladders that started apart, where there are such;
    "note", what of this speaks against the reads and what to do, "" for nothing.
    """

    sweeps: int = 100
    betas: int | Sequence[float] = 16
    swap_every: int = 1
    adapt: bool = True
    reads_per_ladder: int = 1
    anneal: int = 0
    rule: Rule = "gibbs"

    name = "parallel-tempering"
    about = "8 temperatures that swap, and share the sweeps; continues chains"
    exactness = Exactness.ASYMPTOTIC
    preset = {"betas": 8}
    sweep_share = ("sweeps", 8)
    warm_start = True
    reversible = False

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1, swap_every=1, reads_per_ladder=1, anneal=0)
        if is_whole(self.betas):
            object.__setattr__(self, "betas", int(self.betas))  # pyright: ignore[reportArgumentType]
        check_choice("rule", self.rule, Rule)
        if isinstance(self.betas, int):
            good = self.betas >= 2
        else:
            ladder = [float(beta) for beta in self.betas]
            rises = len(ladder) > 1 and ladder == sorted(set(ladder))
            good = rises and ladder[0] >= 0 and ladder[-1] == 1
        if not good:
            raise ValueError(
                f"expected 2 betas or more, increasing, from 0 or more to 1; got {self.betas!r}"
            )

    @property
    def _ladder(self) -> Tensor:
        """Where adaptation starts, `[L]`."""
        if isinstance(self.betas, int):
            return torch.linspace(0, 1, self.betas, dtype=torch.float32)
        return torch.tensor([float(beta) for beta in self.betas], dtype=torch.float32)

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

        Of each ladder it is the weight of the last read.

        Args:
            problem: the problems, a batch of any dimensions `*B`.
            num: reads of each problem, a multiple of `reads_per_ladder`.
            initial: chains to continue, `[*B, num, n]`; None starts from uniform random spins.
            generator: randomness, as in `Sampler.sample`.
        """
        problem = check_request(self, problem, num, initial)
        block = self.reads_per_ladder
        if num % block:
            raise ValueError(f"expected reads in blocks of reads_per_ladder={block}; got num={num}")
        seeds = draw_seeds(generator, problem.batch_shape)
        start = self._start(problem, initial, num // block, seeds)
        right = initial is not None and (
            initial.exactness is Exactness.EXACT or initial.log_weight is not None
        )
        starts = self._starts_apart(problem, start, block, seeds, initial is not None, right)
        start = start._replace(spins=starts.placed(start.spins))
        ladders = Ladders(problem.without_offset(), start.beta, start.spins, seeds, self.rule)
        if start.carried and initial is not None:
            ladders.parity = judged.parity_of(initial.carry)
        if initial is None:
            ladders.cool(self.anneal)
        if not start.carried:
            self._burn_in(ladders, swap_cold=initial is None)
        # reads known to be right stay so: no swap with hot replicas that are not at rest
        swap_cold = start.carried or not right
        reads = []
        burnt = 0 if start.carried else self.sweeps // 2
        state = start.spins
        rounds = -(-(self.sweeps - burnt) // self.swap_every)
        rounds += (block - 1) * -(-self.sweeps // self.swap_every)
        ladders.watch = judged.Watch(problem.flat(), starts, rounds)
        for _ in range(block):
            ladders.run(self.sweeps - burnt, self.swap_every, swap_cold=swap_cold)
            burnt = 0
            state = ladders.states()[:, : num // block]  # without witnesses
            reads.append(state[:, :, -1])
        spins = torch.stack(reads, 2).flatten(1, 2)
        return samples_of(
            problem,
            spins,
            Exactness.ASYMPTOTIC,
            {"sweeps": self.sweeps, "block": block} | ladders.info(),
            log_weight=_of_ladders(None if initial is None else initial.log_weight, block),
            family=self._family(initial, spins),
            carry={
                "betas": ladders.beta.clone(),
                "hot": state[:, :, :-1].clone(),
                "parity": torch.full((len(seeds),), ladders.parity),
            },
        )

    def _start(
        self, problem: Ising, initial: Samples | None, N: int, seeds: Sequence[int]
    ) -> Start:
        """Where the N ladders of each problem start."""
        P = len(seeds)
        n = problem.num_spins
        beta = self._ladder.expand(P, -1)
        L = beta.shape[1]
        if initial is None:
            streams = Streams([mix(seed, 2) for seed in seeds], problem.device)
            return Start(beta, streams.spins(N, L, n), carried=False)
        cold = initial.spins.reshape(P, N, -1, n)[:, :, -1:]
        carry = initial.carry or {}
        hot = carry.get("hot")
        ladder = carry.get("betas")
        batch = problem.batch_shape
        fits = (
            hot is not None
            and ladder is not None
            and hot.shape == (*batch, N, L - 1, n)
            and ladder.shape == (*batch, L)
        )
        if not fits:
            return Start(beta, cold.expand(P, N, L, n).contiguous(), carried=False)
        assert hot is not None and ladder is not None
        hot = hot.to(problem.device).reshape(P, N, L - 1, n)
        beta = ladder.reshape(P, L).float().cpu()
        return Start(beta, torch.cat([hot, cold], 2), carried=True)

    def _starts_apart(
        self,
        problem: Ising,
        start: Start,
        block: int,
        seeds: Sequence[int],
        given: bool,
        right: bool,
    ) -> judged.Starts:
        """Where ladders start apart: nowhere if they go on, are annealed, or known to be right."""
        _, N, L, _ = start.spins.shape
        annealed = self.anneal > 0 and not given
        ladders = 0 if start.carried or right or annealed else N
        flat = problem.without_offset().flat()
        again = [mix(seed, 3) for seed in seeds]
        return judged.starts_of(flat, ladders, self.sweeps * block * N * L, again, given=given)

    def _burn_in(self, ladders: Ladders, swap_cold: bool) -> None:
        """Half the sweeps, in rounds each twice as long, after which the ladder is adapted."""
        total = self.sweeps // 2
        ends = sorted({total >> k for k in range(ROUNDS)} - {0})
        begin = 0
        for end in ends:
            ladders.run(end - begin, self.swap_every, swap_cold=swap_cold)
            begin = end
            if self.adapt:
                ladders.beta = even_out(ladders.beta, ladders.rejection)
            ladders.forget()

    def _family(self, initial: Samples | None, spins: Tensor) -> Tensor | None:
        """Families of `initial`, or else one per ladder, `[P, R]` or `[*B, R]`."""
        block = self.reads_per_ladder
        if initial is not None and initial.family is not None:
            return _of_ladders(initial.family, block)
        if block == 1:
            return None
        count, num = spins.shape[:2]
        read = torch.arange(num, device=spins.device)
        return read.div(block, rounding_mode="floor").expand(count, num)


class Start(NamedTuple):
    """Where ladders start."""

    beta: Tensor  # [P, L] of each problem
    spins: Tensor  # [P, N, L, n] level by level, the cold end last
    carried: bool  # whether both come from the `carry` of the call before


def _of_ladders(x: Tensor | None, block: int) -> Tensor | None:
    """Numbers `[*B, R]` of the reads that chains start from, for those that come of them.

    A ladder goes on from the last read of each `block`.
    """
    if x is None:
        return None
    last = x.unflatten(-1, (-1, block))[..., -1:]
    return last.expand(*last.shape[:-1], block).flatten(-2).clone()


class Ladders:
    """N ladders of L replicas for each of P problems.

    Betas are swapped, not states: `holder` says which replica is where.

    Args:
        problem: a batch of P problems.
        beta: ladders `[P, L]`, the same for all N of a problem.
        spins: where to start, level by level, `[P, N, L, n]`.
        seeds: one 63-bit seed per problem.
        rule: of the sweeps; see `update.rule_of`.
    """

    def __init__(
        self,
        problem: Ising,
        beta: Tensor,
        spins: Tensor,
        seeds: Sequence[int],
        rule: Rule = "gibbs",
    ) -> None:
        P, N, L = spins.shape[:3]
        self.shape = (P, N, L)
        self.beta = beta
        self.sweeper = Sweeper(problem, N * L, seeds, spins, rule=rule)
        self.streams = Streams([mix(seed, 1) for seed in seeds], torch.device("cpu"))
        self.holder = torch.arange(L).expand(P, N, L).contiguous()  # the replica at each level
        self.parity = 0
        self.trips = judged.Trips((P, N, L))
        self.watch: judged.Watch | None = None
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        P, _, L = self.shape
        self._rejections = judged.Rejections((P, L - 1))
        self.trips.forget()

    @property
    def rejection(self) -> Tensor:
        """Mean probability that a swap of levels l and l + 1 is refused, `[P, L - 1]`."""
        return self._rejections.mean

    def info(self) -> dict[str, Any]:
        """What was learned since `forget`, a number or more per problem, and what to make of it."""
        seen = self._rejections
        trips = self.trips.total
        expected = judged.trips_per_round(seen.mean) * seen.rounds * self.shape[1]
        notes = judged.doubts(seen.worst, trips, expected, self._pair_note)
        info: dict[str, Any] = {
            "betas": self.beta,
            "swap_rate": 1 - self.rejection,
            "barrier": ordered_sum(self.rejection),
            "pair_barrier_max": seen.worst,
            "round_trips": trips,
            "round_trips_expected": expected,
        }
        if self.watch is not None:
            agreement = self.watch.agreement()
            if agreement is not None:
                info["rhat"] = agreement.rhat
                notes = [agreement.note, *notes] if agreement.note else notes
        info["note"] = "; ".join(notes)
        return info

    def _pair_note(self, p: int, pair: int, rate: float) -> str:
        low, high = self.beta[p, pair : pair + 2].tolist()
        count = self.shape[2]
        return (
            f"replicas hardly swap between betas {low:.3g} and {high:.3g} ({rate:.1%} at times): "
            f"use more betas than {count}, such as betas={2 * count}"
        )

    @property
    def replica_beta(self) -> Tensor:
        """The beta of each replica, `[P, N L]`."""
        level = self.holder.argsort(-1)
        return self.beta[:, None].expand(self.shape).gather(-1, level).flatten(1)

    def cool(self, sweeps: int) -> None:
        """Sweeps in which every replica comes down from beta 0 to its own in equal steps."""
        steps = torch.arange(1, sweeps + 1, dtype=torch.float32) / max(sweeps, 1)
        for part in steps.split(64):
            self.sweeper.sweep(part[:, None, None] * self.replica_beta)

    def run(self, sweeps: int, swap_every: int, swap_cold: bool = True) -> None:
        """Sweeps of every replica at its beta, with rounds of swaps between them.

        Args:
            sweeps: sweeps of each replica.
            swap_every: sweeps before each round of swaps, of the even or the odd pairs by turns.
            swap_cold: whether the replica at beta 1 takes part in swaps.
        """
        for done in range(0, sweeps, swap_every):
            beta = self.replica_beta
            self.sweeper.sweep(beta.expand(min(swap_every, sweeps - done), *beta.shape))
            self.swap(swap_cold)

    def swap(self, swap_cold: bool = True) -> None:
        """One round of swaps; pairs that do not take part in it are counted too."""
        P, N, L = self.shape
        # probability that each pair of neighbours would swap
        energy = self.sweeper.energy().reshape(P, N, L).gather(-1, self.holder)
        beta = self.beta.double()[:, None]
        beta_gap = beta[..., 1:] - beta[..., :-1]
        energy_gap = energy[..., 1:] - energy[..., :-1]
        accept = (beta_gap * energy_gap).clamp_max(0).exp()
        self._rejections.see(ordered_sum((1 - accept).mT) / N)
        if self.watch is not None and self.watch.due:
            self.watch.see(self.cold(), energy[..., -1])
        # swap the pairs of this round's parity
        low = torch.arange(self.parity, L - 1, 2)
        u = self.streams.uniform(N, L - 1)[..., low]
        swapped = (u < accept[..., low]) & (swap_cold | (low < L - 2))
        first = self.holder[..., low]
        second = self.holder[..., low + 1]
        self.holder[..., low] = torch.where(swapped, second, first)
        self.holder[..., low + 1] = torch.where(swapped, first, second)
        self.parity = 1 - self.parity
        self.trips.see(self.holder)

    def states(self) -> Tensor:
        """The spins level by level, `[P, N, L, n]`."""
        spins = self.sweeper.spins.reshape(*self.shape, -1)
        return spins.take_along_dim(self.holder.to(spins.device)[..., None], 2)

    def cold(self) -> Tensor:
        """The spins of the cold ends, `[P, N, n]`."""
        P, N, L = self.shape
        place = torch.arange(P * N).reshape(P, N) * L + self.holder[..., -1]
        spins = self.sweeper.spins.flatten(0, 1)
        return spins[place.to(spins.device)]


def even_out(beta: Tensor, rejection: Tensor) -> Tensor:
    """The ladders `[P, L]` on which all pairs would be refused alike.

    They take equal steps of the cumulative rejection. The cumulative rejection is taken as linear
    between the old betas `[P, L]`; the ends stay.
    """
    P, L = beta.shape
    # increasing, so that it can be inverted
    mean = ordered_sum(rejection)[:, None] / (L - 1)
    step = rejection + 1e-3 * (mean + 1e-9)
    total = torch.cat([torch.zeros(P, 1, dtype=step.dtype), step.cumsum(-1)], -1)
    goal = total[:, -1:] * torch.arange(1, L - 1) / (L - 1)
    k = torch.searchsorted(total, goal.contiguous()).clamp(1, L - 1)
    left = total.gather(-1, k - 1)
    right = total.gather(-1, k)
    old = beta.double()
    below = old.gather(-1, k - 1)
    above = old.gather(-1, k)
    inner = below + (goal - left) / (right - left) * (above - below)
    return torch.cat([beta[:, :1], inner.to(beta), beta[:, -1:]], -1)
