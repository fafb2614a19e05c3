"""Tempered transitions: annealing up and down again as one reversible move between modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from qsample.annealers.kernels.results import passed_on, samples_of
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.sampling.tempered_transition import tempered_transition
from qsample.support.checks import is_whole, whole_settings
from qsample.support.faces import public


@public("qsample.annealers")
@dataclass(frozen=True)
class TemperedGibbs:
    r"""Gibbs with tempered transitions: an annealer that is reversible.

    (Neal, Stat. Comput. 6, 1996.) A round goes up a ladder $1 = b_0 > b_1 > \dots > b_L$ and down
    again, with palindromic Gibbs sweeps at $b_1, \dots, b_L$ and then at $b_L, \dots, b_1$. Its end
    is accepted with the log ratio $\sum_l (b_l - b_{l+1})\,(E(x_l^{\mathrm{up}}) -
    E(x_l^{\mathrm{down}}))$, where $x_l$ are the states between the moves at $b_l$ and $b_{l+1}$;
    else the chain goes back to where the round began. One more palindromic sweep at 1 before each
    round moves the chain within its mode.

    Being reversible it can propose for `BlockMetropolis`, which plain annealing and
    `ParallelTempering` cannot. From random spins use those: a cold start is no place to anneal
    from.

    Args:
        betas: number L of steps, evenly spaced down to 0, or the ladder itself, falling from 1 to 0
            or above: one that `ParallelTempering` adapted, turned over, is a good one.
        sweeps: palindromic sweeps per step of the ladder.
        rounds: ways up and down per call.

    Raises:
        ValueError: a setting that is none of these.

    `info`: "acceptance" `[*B]`, the fraction of rounds accepted, over all reads.
    """

    betas: int | Sequence[float] = 32
    sweeps: int = 1
    rounds: int = 1

    name = "tempered-gibbs"
    about = "up and down 8 temperatures as one reversible move; continues chains"
    exactness = Exactness.ASYMPTOTIC
    preset = {"betas": 8}
    sweep_share = ("rounds", 32)
    warm_start = True
    reversible = True

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1, rounds=1)
        if is_whole(self.betas):
            object.__setattr__(self, "betas", int(self.betas))  # pyright: ignore[reportArgumentType]
        if isinstance(self.betas, int):
            good = self.betas >= 1 and not isinstance(self.betas, bool)
        else:
            falling = all(beta > hotter >= 0 for beta, hotter in pairwise(self.betas))
            good = len(self.betas) > 1 and self.betas[0] == 1 and falling
        if not good:
            raise ValueError(
                f"expected betas >= 1, or the betas 1 = b_0 > b_1 > ... >= 0; got {self.betas!r}"
            )

    @property
    def ladder(self) -> list[float]:
        """b_0 to b_L."""
        if not isinstance(self.betas, int):
            return [float(beta) for beta in self.betas]
        return [1 - k / self.betas for k in range(self.betas)] + [0.0]

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

        The kernel leaves the problem's law invariant.

        Args:
            problem: the problems, a batch of any dimensions `*B`.
            num: reads of each problem.
            initial: chains to continue, `[*B, num, n]`; None starts from uniform random spins.
            generator: randomness, as in `Sampler.sample`.
        """
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        start = None if initial is None else initial.spins
        sweeper = Sweeper(problem.without_offset(), num, seeds, start, scan="palindromic")
        if start is None:
            sweeper.scatter()
        streams = Streams([mix(seed, 5) for seed in seeds], problem.device)
        sweeps_at_one = torch.ones(self.sweeps, dtype=torch.float32)
        accepted = torch.zeros(len(seeds), dtype=torch.float64)
        for _ in range(self.rounds):
            sweeper.sweep(sweeps_at_one)
            before = sweeper.spins.clone()
            log_ratio = self._up_and_down(sweeper)
            # accept the end of the round, or go back to its beginning
            accept = streams.uniform(num).cpu().log() < log_ratio
            accepted += accept.double().mean(-1)
            kept = accept.to(before.device)[..., None]
            sweeper.take(torch.where(kept, sweeper.spins, before))
        # sweeps, round, sweeps, ..., sweeps: the call reads the same backward
        sweeper.sweep(sweeps_at_one)
        weight, family = passed_on(initial)
        info = {"sweeps": self.sweeps, "acceptance": accepted / self.rounds}
        return samples_of(
            problem,
            sweeper.spins,
            Exactness.ASYMPTOTIC,
            info,
            log_weight=weight,
            family=family,
        )

    def _up_and_down(self, sweeper: Sweeper) -> Tensor:
        """One round from where the replicas stand; the log ratio of its acceptance, `[P, R]`."""
        sweeps_at_one = torch.ones(self.sweeps, dtype=torch.float32)

        def move(beta: float) -> Tensor:
            sweeper.sweep(sweeps_at_one * beta)
            return sweeper.energy()

        log_ratio, _ = tempered_transition(self.ladder, sweeper.energy(), move)
        return log_ratio
