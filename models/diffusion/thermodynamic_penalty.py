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
from qsample.support.faces import public
from qsample.support.wrapped import bare


@public("qsample.models")
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
    """Split R-hat of each reverse step: do chains forget their starts within the sampler's sweeps?

    For each row's x_k, `chains` chains start where the sampler starts them (uniform spins:
    dispersed), make one call of the sampler, unrecorded, then `draws` recorded ones; the statistics
    are random +-1 projections of all spins. Variances are averaged over conditions before their
    ratio is taken. A chain that is stuck looks mixed by its own autocorrelation; beside others that
    are stuck elsewhere it does not.

    Args:
        model: the model measured.
        x: data, spins -1 and +1 `[N, bits]`, which are noised for the conditions.
        sampler: draws the steps, with its own number of sweeps.
        labels: `[N]`, for a model with classes.
        steps: numbers of the steps measured; all by default.
        chains: chains per condition.
        draws: recorded calls of the sampler.
        statistics: random projections per step.
        generator: of all randomness; None is torch's default.

    Returns:
        R-hat per step, 1 where chains mix.

    Raises:
        ValueError: a sampler that cannot continue chains.
    """
    model = bare(model, "machine")
    check_is_sampler(sampler)
    if not sampler.warm_start:
        raise ValueError(
            f"R-hat follows chains and {type(sampler).__name__} cannot continue them: use "
            "Gibbs(sweeps=)"
        )
    clean = model.encode(x, labels)
    rhats = []
    for k in range(1, model.steps + 1) if steps is None else steps:
        after = model.process.noise(clean, k, 0, generator)
        problem = model.ising(k, after)
        bits = torch.randint(2, (model.graph.num_spins, statistics), generator=generator)
        signs = bits.to(problem.h) * 2 - 1
        reads = sampler.sample(problem, chains, generator=generator)
        values = []
        for _ in range(draws):
            reads = sampler.sample(problem, chains, initial=reads, generator=generator)
            projected = reads.spins.to(problem.h) @ signs
            values.append(projected.transpose(0, 1))  # [chains, N, statistics]
        rhats.append(split_rhat(torch.stack(values)))
    return torch.stack(rhats)


@public("qsample.models")
@dataclass(frozen=True)
class AdaptivePenalty:
    """Moves each step's penalty by how well the step mixes, once per epoch.

    arXiv 2510.23972, App. F.3, with R-hat - 1 where it has an autocorrelation.

    R-hat - 1 below the threshold: the penalty shrinks by the factor 1 - change, to 0 below `least`.
    Above it, and above the last measurement: it grows by 1 + change, from `least` at least. Above
    it, but falling: it stays.

    Args:
        threshold: R-hat - 1 below which a step mixes well.
        change: relative change of a penalty per call.
        least: smallest penalty that is not 0.
    """

    threshold: float = 0.02
    change: float = 0.2
    least: float = 1e-3

    def __call__(
        self, model: DenoisingThermodynamicModel, rhat: Tensor, steps: Iterable[int] | None = None
    ) -> None:
        """Update `model.penalty` and `model.rhat`.

        Args:
            model: the model measured.
            rhat: new measurements, one per step.
            steps: numbers of the steps measured; all by default.
        """
        model = bare(model, "machine")
        steps = range(1, model.steps + 1) if steps is None else steps
        for k, new in zip(steps, rhat.tolist(), strict=True):
            strength = float(model.penalty[k - 1])
            last = float(model.rhat[k - 1])
            if new - 1 < self.threshold:
                strength *= 1 - self.change
                strength = strength if strength >= self.least else 0.0
            elif not new <= last:  # nan before the first measurement
                strength = max(self.least, strength * (1 + self.change))
            model.penalty[k - 1] = strength
            model.rhat[k - 1] = new
