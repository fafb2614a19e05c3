"""How a thermodynamic model learns: two phases per step, and a penalty that keeps it mixing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Shaped
from torch import Tensor

from qsample.models.diffusion.thermodynamic import DenoisingThermodynamicModel
from qsample.models.diffusion.thermodynamic_moments import Reads
from qsample.sampling.random import Generators
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.support.faces import public
from qsample.support.wrapped import bare


@public("qsample.models")
def denoising_loss(
    model: DenoisingThermodynamicModel,
    x: Shaped[Tensor, "N bits"],
    sampler: Sampler,
    *,
    labels: Tensor | None = None,
    steps: Iterable[int] | None = None,
    chains: int = 2,
    penalty: Tensor | float | None = None,
    positive: Sampler | None = None,
    generator: Generators | None = None,
) -> Tensor:
    r"""A scalar whose gradient is that of the bound on -log p(x_0); its value is not a likelihood.

    $$\sum_k E_{q(x_{k-1}, x_k)}\Bigl[\langle\nabla E_k\rangle_{P(z | x_{k-1})} -
      \langle\nabla E_k\rangle_{P_k(x_{k-1}, z | x_k)}\Bigr] + \lambda_k \nabla L_k$$

    (arXiv 2510.23972; both phases see the field of the same x_k, which on clamped spins is a
    constant). The penalty is on the total correlation of the reverse step, $L_k = E_{x_k}
    KL(\prod_i P(s_i | x_k) \| P(s | x_k))$, its gradient with the factorised law held fixed:

    $$\partial L_k / \partial J_{ij} =
      E_{x_k}[\langle s_i\rangle\langle s_j\rangle - \langle s_i s_j\rangle], \quad
      \partial L_k / \partial h_i = 0$$

    The product of means is that of one condition x_k, unbiased: spins i and j of different chains.
    Averaging over conditions first would also punish the correlation that the data's x_k itself
    causes.

    Args:
        model: its machines get gradients; those of other steps none, so one optimizer serves any
            subset.
        x: data, spins -1 and +1 `[N, bits]`.
        sampler: draws the free phase: one call per step, `N` problems with one J.
        labels: `[N]`, for a model with classes.
        steps: numbers of the steps whose machines learn; all by default.
        chains: independent reads of each condition; a penalty needs two.
        penalty: lambda, for all steps or `[T]`; `model.penalty` by default.
        positive: draws latent spins given x_{k-1} where they are coupled; the sampler itself by
            default.
        generator: one, or a list with one per row; None is torch's default.

    Raises:
        ValueError: bad data or labels (see `DenoisingThermodynamicModel.encode`), an unknown step,
            one chain and a penalty.
    """
    model = bare(model, "machine")
    strength = model.penalty if penalty is None else torch.as_tensor(penalty).expand(model.steps)
    clean = model.encode(x, labels)
    loss = torch.zeros((), dtype=next(model.parameters()).dtype, device=x.device)
    for k in range(1, model.steps + 1) if steps is None else steps:
        model.machine(k)  # an unknown step is refused before anything is drawn
        before = model.process.noise(clean, k - 1, 0, generator)
        after = model.process.noise(before, k, k - 1, generator)
        loss = loss + step_loss(
            model,
            k,
            before,
            after,
            sampler,
            chains=chains,
            penalty=float(strength[k - 1]),
            positive=positive,
            generator=generator,
        )
    return loss


def step_loss(
    model: DenoisingThermodynamicModel,
    k: int,
    before: Shaped[Tensor, "N v"],
    after: Shaped[Tensor, "N v"],
    sampler: Sampler,
    *,
    weight: Tensor | None = None,
    chains: int = 2,
    penalty: float = 0.0,
    positive: Sampler | None = None,
    generator: Generators | None = None,
) -> Tensor:
    """The part of `denoising_loss` that is of one step.

    Args:
        model: its machine of step k gets gradients.
        k: number of the step.
        before: x_{k-1}, visible spins `[N, v]`.
        after: x_k, visible spins `[N, v]`.
        sampler: draws the free phase.
        weight: of the rows, `[N]`, which sums to 1; equal by default.
        chains: independent reads of each condition; a penalty needs two.
        penalty: lambda of the step.
        positive: draws latent spins given x_{k-1} where they are coupled; the sampler itself by
            default.
        generator: one, or a list with one per row; None is torch's default.
    """
    check_is_sampler(sampler)
    if positive is not None:
        check_is_sampler(positive)
    if penalty and chains < 2:
        raise ValueError(
            f"step {k} has a penalty of {penalty:g}, which needs chains >= 2; got {chains}"
        )
    model = bare(model, "machine")
    machine = model.machine(k)
    with torch.no_grad():
        if weight is None:
            share = machine.h.new_full((len(before),), 1 / len(before))
        else:
            share = weight.to(machine.h)

        # the data's phase, then the model's own
        clamped = latent_reads(model, k, before, share, positive or sampler, chains, generator)
        samples = sampler.sample(model.ising(k, after), chains, generator=generator)
        free = Reads.of(samples, share)

        # moments of pairs (with the penalty's, which has none of single spins) and of spins
        joint = free.pairs(model.graph)
        pairs = clamped.pairs(model.graph) - joint
        if penalty:
            pairs = pairs + penalty * (free.products(model.graph) - joint)
        means = clamped.means() - free.means()
    h, J = machine.weights()
    return means @ h + pairs @ J


def latent_reads(
    model: DenoisingThermodynamicModel,
    k: int,
    before: Tensor,
    share: Tensor,
    sampler: Sampler,
    chains: int,
    generator: Generators | None,
) -> Reads:
    """All spins with the visible ones at x_{k-1} = `before`.

    Latent spins that are not coupled to each other are averaged out: their conditional means stand
    for them, which is exact for every edge, as it has one such end at most. Others are drawn.

    Args:
        model: whose machine of step k it is.
        k: number of the step.
        before: x_{k-1}, visible spins `[N, v]`.
        share: of each row in the averages, `[N]`, which sums to 1.
        sampler: draws latent spins that are coupled.
        chains: reads per row of those.
        generator: one, or a list with one per row; None is torch's default.
    """
    machine = model.machine(k)
    visible = before[:, model.sites.argsort()]
    conditional = machine.ising(visible=visible)
    if machine.tractable:
        latent = -conditional.h.tanh()[:, None]
        weight = latent.new_ones(latent.shape[:2])
    else:
        samples = sampler.sample(conditional, chains, generator=generator)
        latent = samples.spins.to(machine.h)
        weight = samples.weight.to(machine.h)
    spins = latent.new_empty(*latent.shape[:2], model.graph.num_spins)
    spins[..., machine.visible_index] = visible[:, None].to(spins)
    spins[..., machine.hidden_index] = latent
    return Reads(spins, weight, share)
