"""Ladders of replicas on a path, which swap states between neighbours, and what they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.annealers.log_z.path import FIRST, Path
from qsample.sampling.random import mix


@dataclass(eq=False)
class Trace:
    """What T rounds of N ladders of K levels saw.

    Attributes:
        forward: log q_{k+1}/q_k of the states of level k, `[T, K - 1, N]`.
        backward: log q_k/q_{k+1} of the states of level k + 1, likewise.
        statistics: numbers of the states at b = 1, `[T, N, S]`.
        trips: round trips of each ladder.
    """

    forward: Tensor
    backward: Tensor
    statistics: Tensor
    trips: Tensor

    def __len__(self) -> int:
        return len(self.forward)

    @staticmethod
    def joined(traces: Sequence[Trace]) -> Trace:
        """One trace of several runs of the same ladders, one after another."""
        return Trace(
            torch.cat([trace.forward for trace in traces]),
            torch.cat([trace.backward for trace in traces]),
            torch.cat([trace.statistics for trace in traces]),
            torch.stack([trace.trips for trace in traces]).sum(0),
        )

    def last(self, share: float) -> Trace:
        """The last rounds, of that share."""
        first = round(len(self) * (1 - share))
        return Trace(
            self.forward[first:], self.backward[first:], self.statistics[first:], self.trips
        )

    def of(self, ladders: Tensor) -> Trace:
        """These ladders alone."""
        return Trace(
            self.forward[..., ladders],
            self.backward[..., ladders],
            self.statistics[:, ladders],
            self.trips[ladders],
        )

    @property
    def rejection(self) -> Tensor:
        """Mean probability that a swap of levels k and k + 1 is refused, `[K - 1]`."""
        accept = (self.forward + self.backward).clamp_max(0).exp()
        return 1 - accept.mean((0, 2))


class Ladders:
    """N ladders of K replicas each; level 0 is drawn anew each round, level K - 1 is at b = 1.

    (Parallel tempering; swaps of even and odd pairs by turns: Okabe et al. 2001; Syed et al., J. R.
    Stat. Soc. B 84, 2022.) On a bipartite graph swaps compare densities with the right side summed
    out, which the next sweep draws anew.

    Args:
        path: the laws.
        b: places of the levels, from 0 to 1, `[K]`.
        spins: where the ladders start, `[N, n]`, at every level, or `[K, N, n]`.
        directions: vectors `[S, n']` on the spins, or on the left side, that `Trace.statistics`
            projects states on.
        seed: of all randomness.
    """

    def __init__(self, path: Path, b: Tensor, spins: Tensor, directions: Tensor, seed: int) -> None:
        self.path = path
        self.directions = directions
        K = len(b)
        spins = spins.expand(K, *spins.shape[-2:]).contiguous()
        self._streams = Streams([mix(seed, 1)], spins.device)
        self._chances = Streams([mix(seed, -1)], torch.device("cpu"))
        self._spins = spins  # level by level
        self._seed = seed
        self._round = 0
        N = spins.shape[1]
        self._number = torch.arange(K)[:, None].expand(K, N).contiguous()  # which replica is where
        self._has_been_cold = torch.zeros(K, N, dtype=torch.bool)
        self._trips = torch.zeros(N)
        self.place(b)

    def place(self, b: Tensor) -> None:
        """Move the levels to other places on the path, as many."""
        self.b = b
        problem = self.path.tempered(b[1:])
        seeds = [mix(mix(self._seed, 2 + self._round), k) for k in range(len(b) - 1)]
        self._sweeper = Sweeper(problem, self._spins.shape[1], seeds, self._spins[1:].contiguous())
        self._betas = b[1:, None].float()
        below = torch.cat([b[:1], b[:-1]])
        above = torch.cat([b[1:], b[-1:]])
        self._places = torch.stack([below, b, above], -1)

    @property
    def states(self) -> Tensor:
        """The spins level by level, `[K, N, n]` int8."""
        return self._spins

    def run(self, rounds: int, sweeps: int = 1) -> Trace:
        """Rounds of sweeps of every replica, each with swaps at its end.

        Args:
            rounds: number of rounds.
            sweeps: sweeps of a round.
        """
        forward = []
        backward = []
        statistics = []
        self._trips.zero_()
        betas = self._betas.expand(sweeps, *self._betas.shape)
        for _ in range(rounds):
            self._sweeper.sweep(betas)
            N = self._spins.shape[1]
            self._spins = torch.cat(
                [self.path.independent(N, self._streams)[None], self._sweeper.spins]
            )
            density = self.path.log_density(self._spins, self._places).cpu()  # [K, N, 3]
            up = (density[..., 2] - density[..., 1])[:-1]
            down = (density[..., 0] - density[..., 1])[1:]
            forward.append(up)
            backward.append(down)
            statistics.append(self._statistics(density[-1, :, 1]))
            self._swap(up + down)
        return Trace(
            torch.stack(forward),
            torch.stack(backward),
            torch.stack(statistics),
            self._trips.clone(),
        )

    def _statistics(self, density: Tensor) -> Tensor:
        cold = self._spins[-1, :, : self.directions.shape[1]].to(self.directions)  # to the CPU
        return torch.cat([density[:, None], cold @ self.directions.T], -1)

    def _swap(self, log_accept: Tensor) -> None:
        """One round of swaps; `log_accept` `[K - 1, N]` is of all pairs."""
        K, N = log_accept.shape[0] + 1, log_accept.shape[1]
        order = torch.arange(K)[:, None].repeat(1, N)
        u = self._chances.uniform(K - 1, N)[0]
        swapped = u.log() < log_accept
        swapped[1 - self._round % 2 :: 2] = False
        low, ladder = swapped.nonzero(as_tuple=True)
        order[low, ladder] = low + 1
        order[low + 1, ladder] = low
        self._round += 1
        moved = order.to(self._spins.device)[..., None].expand_as(self._spins)
        self._spins = self._spins.gather(0, moved)
        self._sweeper.take(self._spins[1:])
        self._number = self._number.gather(0, order)
        self._count_trips()

    def _count_trips(self) -> None:
        """A replica at b = 0 that has been at b = 1 is back from a round trip."""
        hot = self._number[:1]
        cold = self._number[-1:]
        self._trips += self._has_been_cold.gather(0, hot)[0]
        self._has_been_cold.scatter_(0, hot, False)
        self._has_been_cold.scatter_(0, cold, True)


def places(b: Tensor, rejection: Tensor, num: int) -> Tensor:
    """`num` places from 0 to 1 whose neighbours are refused alike, by what a pilot saw.

    The cumulative rejection is taken as linear between the pilot's places (Syed et al. 2022). No
    step is longer than four equal ones, and none lies below `FIRST`.

    Args:
        b: places of the pilot `[K]`.
        rejection: its rejection of neighbours, `[K - 1]`.
        num: number of places.
    """
    gaps = b.diff()
    share = rejection.double() / rejection.sum().clamp_min(1e-9)
    step = 0.75 * share + 0.25 * gaps.double()
    total = torch.cat([torch.zeros(1, dtype=torch.float64), step.cumsum(0)])
    total = total / total[-1]
    goal = torch.linspace(0, 1, num, dtype=torch.float64)[1:-1]
    k = torch.searchsorted(total, goal).clamp(1, len(b) - 1)
    left = total[k - 1]
    part = (goal - left) / (total[k] - left)
    inner = b[k - 1] + part * (b[k] - b[k - 1])
    inner = inner.clamp(FIRST, 1)
    return torch.cat([b[:1], inner, b[-1:]])
