"""How strong the correlation penalty of each step must be: as strong as keeps its chains mixing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from qsample.models.diffusion.thermodynamic import DenoisingThermodynamicModel
from qsample.sampling.mixing import split_rhat
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.support.wrapped import bare


@torch.no_grad()
def reverse_rhat(
    model: DenoisingThermodynamicModel,
    x: Shaped[Tensor, "N bits"],
    sampler: Sampler,
    *,
    labels: Tensor | None = None,
    steps: Iterable[int] | None = None,
    chains: int = 8,
    draws: int = 16,
    statistics: int = 8,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " steps"]:
    """Split R-hat of each reverse step: do chains from random spins forget their starts within the sampler's sweeps?

    For each row's x_k, `chains` chains start where the sampler starts them (uniform spins: dispersed), make one call
    of the sampler, unrecorded, then `draws` recorded ones; the statistics are random +-1 projections of all spins.
    Variances are averaged over conditions before their ratio is taken. A chain that is stuck looks mixed by its
    own autocorrelation; beside others that are stuck elsewhere it does not.

    Raises:
        ValueError: a sampler that cannot continue chains.
    """
    model = bare(model, "machine")
    check_is_sampler(sampler)
    if not sampler.warm_start:
        raise ValueError(f"R-hat follows chains and {type(sampler).__name__} cannot continue them: use Gibbs(sweeps=)")
    clean, found = model.encode(x, labels), []
    for k in range(1, model.steps + 1) if steps is None else steps:
        after = model.process.noise(clean, k, 0, generator)
        problem = model.ising(k, after)
        sign = torch.randint(2, (model.graph.num_spins, statistics), generator=generator).to(problem.h) * 2 - 1
        reads = sampler.sample(problem, chains, generator=generator)
        values = []
        for _ in range(draws):
            reads = sampler.sample(problem, chains, initial=reads, generator=generator)
            values.append((reads.spins.to(problem.h) @ sign).transpose(0, 1))  # [chains, N, statistics]
        found.append(split_rhat(torch.stack(values)))
    return torch.stack(found)


@dataclass(frozen=True)
class AdaptivePenalty:
    """Moves each step's penalty by how well the step mixes, once an epoch (arXiv 2510.23972, App. F.3, with R-hat - 1
    where it has an autocorrelation).

    R-hat - 1 below the threshold: the penalty shrinks by the factor 1 - change, to 0 below `least`. Above it, and above
    the last measurement: it grows by 1 + change, from `least` at least. Above it, but falling: it stays.

    Args:
        threshold: of R-hat - 1.
        change: relative, a call.
        least: smallest penalty that is not 0.
    """  # noqa: D205

    threshold: float = 0.02
    change: float = 0.2
    least: float = 1e-3

    def __call__(self, model: DenoisingThermodynamicModel, rhat: Tensor, steps: Iterable[int] | None = None) -> None:
        """Update `model.penalty` and `model.rhat` from new measurements of these steps (all by default)."""
        model = bare(model, "machine")
        for k, new in zip(range(1, model.steps + 1) if steps is None else steps, rhat.tolist(), strict=True):
            strength, last = float(model.penalty[k - 1]), float(model.rhat[k - 1])
            if new - 1 < self.threshold:
                strength *= 1 - self.change
                strength = strength if strength >= self.least else 0.0
            elif not new <= last:  # nan before the first measurement
                strength = max(self.least, strength * (1 + self.change))
            model.penalty[k - 1], model.rhat[k - 1] = strength, new
