"""The negative phase of a step: persistent chains of its own, or the answers of any sampler."""

from __future__ import annotations

import numpy as np
import torch

from qsample.integrations.sklearn.machine import SINGLE, Array, Machine
from qsample.models.rbm.bernoulli import BernoulliRBM
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Samples

_BETA = np.ones(1, SINGLE)


class Chains:
    """Persistent chains, one Gibbs sweep per step: v given h, then h given v (Tieleman 2008).

    Their products are the step's own, so that a sweep costs one product more and its random bits;
    `Gibbs(sweeps=1)` has the same law.

    Args:
        start: hidden units where the chains begin, `[chains, m]` of 0 and 1.
        machine: the machine whose law they follow.
        seed: seed of all draws, 63 bits.
    """

    spins = None

    def __init__(self, start: Array, machine: Machine, seed: int) -> None:
        from qsample.annealers._engine import draw_bits

        chains, units = start.shape
        visible = machine.visible
        self.hidden = start.astype(SINGLE, order="C")
        self._draw_bits = draw_bits
        self._seed = np.array([seed], np.int64)
        self._passes = 0
        # (h - lambda, 1), and the visible units given them
        rows = np.ones((chains, units + 1), SINGLE)
        self._rows = torch.from_numpy(rows)
        self._centred = rows[:, :units]
        logits = np.empty((chains, visible), SINGLE)
        self._logits = torch.from_numpy(logits)
        self._visible = np.zeros((chains, visible), SINGLE)
        # logits, bits and biases of the two draws
        self._to_visible = logits, self._visible, np.zeros((1, visible), SINGLE)
        self._to_hidden = machine.read_logits, self.hidden, np.zeros((1, units), SINGLE)

    def draw(self, machine: Machine) -> None:
        """The visible units given the hidden ones."""
        np.subtract(self.hidden, machine.lam, out=self._centred)
        torch.mm(self._rows, machine.to_visible, out=self._logits)
        self._draw_bits(*self._to_visible, _BETA, self._seed, self._passes, 0, False)
        np.subtract(self._visible, machine.mu, out=machine.reads)

    def follow(self, machine: Machine) -> None:
        """The hidden units given the visible ones."""
        first = machine.visible
        self._draw_bits(*self._to_hidden, _BETA, self._seed, self._passes, first, False)
        self._passes += 1


class Answers:
    """A sampler's reads of the present model; its chains go on where it can continue any.

    Args:
        sampler: any sampler.
        start: spins where its chains begin, `[chains, n + m]`, or None.
        seed: seed of all draws, 63 bits.
    """

    def __init__(self, sampler: Sampler, start: Array | None, seed: int) -> None:
        self.sampler = sampler
        self._chains = None if start is None else torch.from_numpy(start)
        self._carry: dict[str, torch.Tensor] | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self._model: BernoulliRBM | None = None

    @property
    def spins(self) -> Array | None:
        """See `Negatives`."""
        return None if self._chains is None else self._chains.numpy()

    @property
    def hidden(self) -> Array | None:
        """See `Negatives`."""
        if self._chains is None or self._model is None:
            return None
        return self._model.split(self._chains)[1].numpy()

    @torch.no_grad()
    def draw(self, machine: Machine) -> None:
        """Reads of the joint problem; see `Negatives.draw`."""
        model = self._set(machine)
        initial = self._initial() if self.sampler.warm_start else None
        problem = model.ising()
        reads = self.sampler.sample(
            problem, machine.chains, initial=initial, generator=self._generator
        )
        visible, _ = model.split(reads.spins)
        np.subtract(visible.numpy(), machine.mu, out=machine.reads, casting="same_kind")
        machine.weigh_reads(reads.weight.numpy())
        # the next model is another: weights are spent now
        if reads.log_weight is not None:
            reads = reads.resample(generator=self._generator)
        self._chains = reads.spins.to(torch.int8).clone()
        self._carry = None if reads.carry is None else dict(reads.carry)

    def follow(self, machine: Machine) -> None:
        """Nothing: the sampler drew all units at once."""

    def _set(self, machine: Machine) -> BernoulliRBM:
        """The machine as a model."""
        now = machine.parameters
        if self._model is None:
            hidden, visible = now.components.shape
            self._model = BernoulliRBM(visible, hidden, generator=self._generator).float()
        for name, value in (("W", now.components.T), ("b", now.visible), ("c", now.hidden)):
            self._model.set_parameter(name, torch.from_numpy(value))
        return self._model

    def _initial(self) -> Samples | None:
        """The last step's reads; their energies were of other weights."""
        if self._chains is None:
            return None
        energy = torch.full(self._chains.shape[:1], float("nan"), device="cpu")
        return Samples(self._chains, energy, carry=self._carry)
