"""Tempered transitions: annealing up and down again as one reversible move, so that Gibbs crosses between modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from qsample.annealers.kernels.energies import energies_of
from qsample.annealers.kernels.replicas import Replicas
from qsample.annealers.kernels.streams import Streams
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators, check_request, draw_seeds, mix
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import is_whole, whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.annealers")
@dataclass(frozen=True)
class TemperedGibbs:
    r"""Gibbs with tempered transitions (Neal, Stat. Comput. 6, 1996): an annealer whose kernel is reversible.

    A round goes up a ladder $1 = b_0 > b_1 > \dots > b_L$ and down again, with palindromic Gibbs
    sweeps at $b_1, \dots, b_L$ and then at $b_L, \dots, b_1$. Its end is accepted with the log
    ratio $\sum_l (b_l - b_{l+1})\,(E(x_l^{\mathrm{up}}) - E(x_l^{\mathrm{down}}))$, where $x_l$ are
    the states between the moves at $b_l$ and $b_{l+1}$; else the chain goes back to where the round
    began. One more palindromic sweep at 1 before each round moves the chain within its mode.

    Being reversible it can propose for `BlockMetropolis`, which plain annealing and
    `ParallelTempering` cannot. From random spins use those: a cold start is no place to anneal
    from.

    Args:
        betas: L, evenly spaced down to 0, or the ladder itself, falling from 1 to 0 or above: one
            that `ParallelTempering` adapted, turned over, is a good one.
        sweeps: palindromic sweeps a step of the ladder.
        rounds: up and down a call.

    `info`: "acceptance" `[*B]`, of rounds over reads.
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
        ladder = [1.0, 0.0] if isinstance(self.betas, int) else self.betas
        fall = len(ladder) > 1 and ladder[0] == 1 and all(a > b >= 0 for a, b in pairwise(ladder))
        if not fall or (
            isinstance(self.betas, int) and (self.betas < 1 or isinstance(self.betas, bool))
        ):
            raise ValueError(
                f"expected betas >= 1, or the betas 1 = b_0 > b_1 > ... >= 0; got {self.betas!r}"
            )

    @property
    def ladder(self) -> list[float]:
        """b_0 to b_L."""
        L = self.betas
        return (
            [1 - k / L for k in range(L)] + [0.0] if isinstance(L, int) else [float(b) for b in L]
        )

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`. Weights of `initial` are kept: the kernel leaves the problem's law invariant."""
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        batch = problem.batch_shape
        start = None if initial is None else initial.spins
        replicas = Replicas(problem.without_offset(), num, seeds, start, palindromic=True)
        streams = Streams([mix(seed, 5) for seed in seeds], problem.device)
        steps = list(pairwise(self.ladder))
        accepted = torch.zeros(len(seeds), dtype=torch.float64)
        cold = torch.ones(self.sweeps, dtype=torch.float32)

        def move(beta: float) -> Tensor:
            replicas.sweep(cold * beta)
            return replicas.energy

        for _ in range(self.rounds):
            E = move(1.0)
            log_ratio = torch.zeros((), dtype=torch.float64)
            before = replicas.spins.clone()
            for b, hotter in steps:
                log_ratio = log_ratio + (b - hotter) * E
                E = move(hotter)
            for b, hotter in reversed(steps):
                E = move(hotter)
                log_ratio = log_ratio - (b - hotter) * E
            yes = streams.uniform(num).cpu().log() < log_ratio
            accepted += yes.double().mean(-1)
            replicas.take(torch.where(yes.to(before.device)[..., None], replicas.spins, before))
        replicas.sweep(cold)  # sweeps, round, sweeps, ..., sweeps: the call reads the same backward
        spins = replicas.spins.reshape(*batch, num, problem.num_spins)
        weight = (
            None if initial is None or initial.log_weight is None else initial.log_weight.clone()
        )
        info = {"sweeps": self.sweeps, "acceptance": (accepted / self.rounds).reshape(batch)}
        family = None if initial is None else initial.family
        return Samples(
            spins, energies_of(problem, spins), weight, Exactness.ASYMPTOTIC, info, family=family
        )
