"""Has training lost the data? What a run can see of it, without false alarms."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsample.annealers.gibbs import Gibbs
from qsample.learning import by_products, large_looks
from qsample.problem.ising import Ising
from qsample.sampling.random import mix
from qsample.sampling.sampler import check_finite
from qsample.sampling.samples import Samples

if TYPE_CHECKING:
    from qsample.models import EnergyModel

ROWS = 256  # rows of data, evenly spread, that are looked at
READS = 16  # reads of the hidden units of each row: the lowest is taken
PROBES = 64  # random states that are relaxed, in search of low energies
# what weights may cost, in times the nats of a fair coin for each unit: on the way, where what
# swings may come back, and at the end
ON_THE_WAY = 10
AT_THE_END = 5


class Diverged(FloatingPointError):
    """Training went out of bounds; the message says where, and the remedy."""


class Judge:
    r"""Bounds the training rows' mean negative log-likelihood from below, for models of any size.

    For any state x, log Z >= -F(x), so that

    $$-\log p(\mathrm{data}) \ge \langle F \rangle_{\mathrm{data}} - \min_x F(x):$$

    data that lie far above the lowest free energy one can find are unlikely, whatever the sampler
    was worth. It is looked for from random states, from the data and among the reads, by some
    sweeps each; of a model that is too large to copy, from fewer (`large_looks`). Where hidden
    units are coupled, joint energies stand in for F, with the best hidden units drawn given the
    data.

    Args:
        model: the model as it is at the start.
        data: training rows `[N, n_visible]`.
        seed: seed of the random states.

    Raises:
        ValueError: weights that are not finite.
    """

    def __init__(self, model: EnergyModel, data: Tensor, seed: int) -> None:
        strongest = strength_of(model)
        if not math.isfinite(strongest):
            check_finite(model.ising().detach())
        self.model = model
        self.seed = seed
        self.rows = data[:: max(1, len(data) // ROWS)][:ROWS]
        units = model.num_visible if model.tractable else model.graph.num_spins
        coins = units * math.log(2)
        start = self.bound(None)
        self.coins = max(coins, start if math.isfinite(start) else 0.0)
        self.strongest = max(2.0**23, 4 * strongest)  # 2^24 is float32's one

    @torch.no_grad()
    def bound(self, states: Tensor | None) -> float:
        """Nats per row that the training rows cost at least.

        Args:
            states: joint spins `[R, n]` to look at too, such as reads; None for none.
        """
        with torch.autocast(self.rows.device.type, enabled=False):
            if by_products.is_large(self.model):
                return large_looks.bound(self.model, self.rows, states, self._generator(3))
            problem = self.model.ising().detach()
            joint = self._data_spins()
            probes = self._probes(problem, joint, states)
            model = copy.deepcopy(self.model).double()
            problem = problem.to(dtype=torch.float64)
            if model.tractable:
                energy = model.free_energy(self.rows.double())
                lowest = model.free_energy(model.split(probes)[0].double()).min()
            else:
                energy = problem.energy(joint)
                lowest = problem.energy(probes).min()
            return float(energy.mean() - lowest)

    def limit(self, last: bool) -> float:
        """The nats per row that the weights may cost; `last`: after the last update."""
        factor = AT_THE_END if last else ON_THE_WAY
        return factor * self.coins + 20.0

    def _generator(self, purpose: int) -> torch.Generator:
        return torch.Generator().manual_seed(mix(self.seed, -(1 << 40) - purpose))

    def _data_spins(self) -> Tensor:
        """The rows with hidden units that suit them, as joint spins."""
        model = self.model
        rows = self.rows
        if model.num_hidden == 0:
            return model.join(rows, rows[:, :0])
        given = model.ising(visible=rows).detach()
        reads = Gibbs(3).sample(given, READS, generator=self._generator(0))
        best = reads.energy.argmin(1)
        hidden = reads.spins[torch.arange(len(rows), device=best.device), best]
        return model.join(rows, model.decode(hidden))

    def _probes(self, problem: Ising, joint: Tensor, states: Tensor | None) -> Tensor:
        """States that should be low in energy."""
        sampler = Gibbs(8)
        random = sampler.sample(problem, PROBES, generator=self._generator(1))
        spins = joint[:PROBES]
        start = Samples(spins, spins.new_zeros(len(spins), dtype=torch.float32))
        near_data = sampler.sample(problem, len(spins), initial=start, generator=self._generator(2))
        probes = [random.spins, near_data.spins]
        if states is not None:
            probes.append(states.to(joint))
        return torch.cat(probes)


def strength_of(model: EnergyModel) -> float:
    """The largest number among fields and couplings; nan or infinite where one of them is."""
    if by_products.is_large(model):
        return large_looks.strength(model)
    problem = model.ising().detach()
    largest = [float(t.abs().max()) for t in (problem.h, problem.J) if t.numel()]
    # an offset that is not finite makes the sum so
    return max(largest, default=0.0) + 0.0 * float(problem.offset.abs().max())


def check_precision(model: EnergyModel) -> None:
    """A ValueError for weights of 16 bits, which no optimiser's small steps can move."""
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            kind = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(
                f"expected weights of float32 or float64; got {name} of {kind}: 16 bits round "
                "small steps away, and Adam's eps is 0 in float16. Pass model.float(), and call "
                "fit under torch.autocast(device, torch.bfloat16) for the speed"
            )
