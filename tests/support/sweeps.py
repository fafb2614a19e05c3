"""Whole runs of a sweeper, on the native kernels or on those of torch."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from qsample import Ising
from qsample.annealers.kernels.betas import Betas, listed
from qsample.annealers.kernels.sweeper import Sweeper


def run(
    problem: Ising, num: int, betas: Betas | Sequence[float], seeds: Sequence[int], **settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Spins, energies and sweeps done of `num` reads from random spins, one sweep at each beta."""
    schedule = listed(betas) if isinstance(betas, Sequence) else betas
    sweeper = Sweeper(problem, num, seeds, coldest=schedule.coldest, **settings)
    sweeper.run(schedule)
    spins, energy = sweeper.reads()
    return spins, energy, sweeper.done.reshape(energy.shape)
