"""Chains that carry weights through a training: Jarzynski's equality, and log Z as it goes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qsample.annealers.annealed_importance import AnnealedImportance
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Estimate, Exactness, Samples
from qsample.sampling.weights import (
    effective_fraction,
    log_mean_exp,
    relative_error,
    systematic,
)

if TYPE_CHECKING:
    from qsample.models import EnergyModel

START = 100  # sweeps of the annealed importance sampling that the first chains come from
FEW = 0.1  # fraction of effective chains below which log Z is doubted


@dataclass(frozen=True, eq=False)
class Walkers:
    r"""R chains with weights for the parameters $\theta$ at which they moved last.

    Each change of the parameters multiplies a chain's weight by the ratio of its densities, $\log w
    \mathrel{+}= F_\theta(x) - F_{\theta'}(x)$, and moves at $\theta'$ leave its law invariant: so
    weighted means are those of $\theta'$ in the limit of many chains, however far these are from
    equilibrium, and the mean weight is the ratio of the Z (Jarzynski, Phys. Rev. Lett. 78, 1997;
    Carbone, Hua, Coste and Vanden-Eijnden, arXiv 2305.19414; of RBMs: 2506.07843). F is the free
    energy, or the joint energy where hidden units are coupled.

    Attributes:
        spins: states `[R, n]`.
        log_weight: log weights `[R]` float64 since they were all 0.
        energy: F of the states `[R]` float64 at these parameters.
        log_z: log Z when all log weights were 0; with the log of the mean weight, log Z now.
        variance: of `log_z`.
    """

    spins: Tensor
    log_weight: Tensor
    energy: Tensor
    log_z: Tensor
    variance: Tensor

    # ---- between updates they lie in the trainer ----------------

    def carry(self) -> dict[str, Tensor]:
        """All but the spins, as checkpoints hold it."""
        return {
            "log_weight": self.log_weight,
            "free_energy": self.energy,
            "log_partition": self.log_z,
            "log_partition_variance": self.variance,
        }

    @staticmethod
    def of(spins: Tensor, carry: Mapping[str, Tensor] | None) -> Walkers | None:
        """Chains and their `carry`; None where there is none, or of another number of chains."""
        carry = {} if carry is None else carry
        names = ("log_weight", "free_energy", "log_partition", "log_partition_variance")
        if any(name not in carry for name in names):
            return None
        parts = [carry[name].to(spins.device) for name in names]
        if len(parts[0]) != len(spins):
            return None
        return Walkers(spins, *parts)

    # ---- what they do ----------------

    def moved_to(self, model: EnergyModel) -> Walkers:
        """Weights for the present parameters of the model; the states stay."""
        energy = free_energies(model, self.spins)
        log_weight = self.log_weight + self.energy - energy
        return replace(self, log_weight=log_weight, energy=energy)

    def resampled(self, generator: torch.Generator | None) -> Walkers:
        """Chains of equal weights, by systematic resampling."""
        device = self.spins.device if generator is None else generator.device
        u = torch.rand(1, generator=generator, dtype=torch.float64, device=device)
        weight = self.log_weight.softmax(-1)
        place = systematic(weight, u.to(weight), len(weight))
        return Walkers(
            self.spins[place],
            torch.zeros_like(self.log_weight),
            self.energy[place],
            self.log_z + log_mean_exp(self.log_weight),
            self.variance + relative_error(self.log_weight).square(),
        )

    @property
    def fraction(self) -> float:
        """Effective number of chains over their number."""
        return float(effective_fraction(self.log_weight))

    def log_partition(self) -> Estimate:
        """Log Z at the parameters of the weights, as of independent chains."""
        value = float(self.log_z + log_mean_exp(self.log_weight))
        stderr = float((self.variance + relative_error(self.log_weight).square()).sqrt())
        ess = self.fraction * len(self.spins)
        note = ""
        if self.fraction < FEW or not math.isfinite(value):
            note = (
                f"only {ess:.1f} of {len(self.spins)} chains are effective: lower the learning "
                "rate, or raise the sweeps of the sampler"
            )
        return Estimate(value, stderr, ess, note)


def first_walkers(model: EnergyModel, num: int, generator: torch.Generator | None) -> Walkers:
    """Chains from annealed importance sampling of the model as it is, with its log Z.

    Args:
        model: the model, whose couplings are best still weak.
        num: number of chains.
        generator: randomness; None is torch's default generator.
    """
    problem = model.ising().detach()
    samples = AnnealedImportance(START, check=False).annealed(problem, num, generator=generator)
    assert samples.log_weight is not None
    log_weight = samples.log_weight.double()
    log_z = samples.info["log_partition"].to(log_weight)
    return Walkers(
        samples.spins,
        log_weight - log_mean_exp(log_weight),
        free_energies(model, samples.spins),
        log_z,
        torch.zeros_like(log_z),
    )


def step(
    walkers: Walkers,
    model: EnergyModel,
    sampler: Sampler,
    resample_below: float,
    generator: torch.Generator | None,
) -> tuple[Samples, Walkers]:
    """Weighted reads of the model at its present parameters, and chains moved on from there.

    The reads are the chains as they come, reweighted; the moves are for the next call. So a change
    of the parameters, which depends on the reads, meets chains that have moved since: weighed on
    the reads themselves it would look cheaper than it is, and log Z would drift.

    Args:
        walkers: chains, with weights for the parameters before.
        model: the model, at the present parameters.
        sampler: a kernel that leaves the law invariant.
        resample_below: effective fraction of the chains below which they are resampled.
        generator: randomness; None is torch's default generator.

    Raises:
        ValueError: a sampler whose reads are no kernel's.
    """
    walkers = walkers.moved_to(model)
    if walkers.fraction < resample_below:
        walkers = walkers.resampled(generator)
    log_z = walkers.log_partition()
    problem = model.ising().detach()
    reads = Samples(
        walkers.spins, problem.energy(walkers.spins), walkers.log_weight, Exactness.ASYMPTOTIC
    )
    moved = sampler.sample(problem, len(walkers.spins), initial=reads, generator=generator)
    if moved.exactness is Exactness.HEURISTIC:
        raise ValueError(
            f"weights need a kernel that leaves the law invariant, such as Gibbs(sweeps=10); the "
            f"reads of {sampler!r} are heuristic"
        )
    info = dict(moved.info) | {
        "log_partition": log_z.value,
        "log_partition_stderr": log_z.stderr,
        "ess": log_z.ess,
        "note": log_z.note,
    }
    following = replace(walkers, spins=moved.spins, energy=free_energies(model, moved.spins))
    return replace(reads, info=info), following


@torch.no_grad()
def free_energies(model: EnergyModel, spins: Tensor) -> Tensor:
    """F of the visible units of joint spins `[R, n]`, or E where it is intractable; float64."""
    if model.tractable:
        return model.free_energy(model.split(spins)[0]).double()
    return model.ising().energy(spins).double()
