"""How a denoising thermodynamic model learns: the two phases of each step, and a penalty that keeps it mixing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Shaped
from torch import Tensor

from qsample.models.diffusion.thermodynamic import DenoisingThermodynamicModel
from qsample.models.diffusion.thermodynamic_moments import Reads
from qsample.sampling.sampler import Generators, Sampler, check_is_sampler
from qsample.support.wrapped import bare


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

    (arXiv 2510.23972; both phases see the field of the same x_k, which on clamped spins is a constant). The penalty is
    on the total correlation of the reverse step, $L_k = E_{x_k} KL(\prod_i P(s_i | x_k) \| P(s | x_k))$, its gradient
    with the factorised law held fixed:

    $$\partial L_k / \partial J_{ij} = E_{x_k}[\langle s_i\rangle\langle s_j\rangle - \langle s_i s_j\rangle],
      \quad \partial L_k / \partial h_i = 0$$

    The product of means is that of one condition x_k, unbiased: spins i and j of different chains. Averaging over
    conditions first would also punish the correlation that the data's x_k itself causes.

    Args:
        model: its machines get gradients; those of other steps none, so one optimizer serves any subset.
        x: data, spins -1 and +1.
        sampler: draws the free phase: one call a step, `N` problems with one J.
        labels: `[N]`, for a model with classes.
        steps: of which machines learn; all by default.
        chains: independent reads of each condition; a penalty needs two.
        penalty: lambda, for all steps or `[T]`; `model.penalty` by default.
        positive: draws latent spins given x_{k-1} where they are coupled; the sampler itself by default.
        generator: one, or one for each row.

    Raises:
        ValueError: bad data or labels (see `DenoisingThermodynamicModel.encode`), an unknown step, one chain and a
            penalty.
    """
    model = bare(model, "machine")
    strength = model.penalty if penalty is None else torch.as_tensor(penalty).expand(model.steps)
    clean, loss = model.encode(x, labels), torch.zeros((), dtype=next(model.parameters()).dtype, device=x.device)
    how = {"chains": chains, "positive": positive, "generator": generator}
    for k in range(1, model.steps + 1) if steps is None else steps:
        model.machine(k)  # an unknown step is refused before anything is drawn
        before = model.process.noise(clean, k - 1, 0, generator)
        after = model.process.noise(before, k, k - 1, generator)
        loss = loss + step_loss(model, k, before, after, sampler, penalty=float(strength[k - 1]), **how)
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
    """The part of `denoising_loss` of step k, from visible spins x_{k-1} = `before` and x_k = `after`.

    `weight` `[N]`, of the rows, sums to 1; equal by default.
    """
    for one in (sampler, *([] if positive is None else [positive])):
        check_is_sampler(one)
    if penalty and chains < 2:
        raise ValueError(f"step {k} has a penalty of {penalty:g}, which needs chains >= 2; got {chains}")
    model = bare(model, "machine")
    machine = model.machine(k)
    with torch.no_grad():
        share = machine.h.new_full((len(before),), 1 / len(before)) if weight is None else weight.to(machine.h)
        clamped = latent_reads(model, k, before, share, positive or sampler, chains, generator)
        free = Reads.of(sampler.sample(model.ising(k, after), chains, generator=generator), share)
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

    Latent spins that are not coupled to each other are averaged out: their conditional means stand for them, which
    is exact for every edge, as it has one such end at most. Others are drawn.
    """
    machine = model.machine(k)
    visible = before[:, model.sites.argsort()]
    conditional = machine.ising(visible=visible)
    if machine.tractable:
        latent = -conditional.h.tanh()[:, None]
        weight = latent.new_ones(latent.shape[:2])
    else:
        samples = sampler.sample(conditional, chains, generator=generator)
        latent, weight = samples.spins.to(machine.h), samples.weight.to(machine.h)
    spins = latent.new_empty(*latent.shape[:2], model.graph.num_spins)
    spins[..., machine.visible_index] = visible[:, None].to(spins)
    spins[..., machine.hidden_index] = latent
    return Reads(spins, weight, share)
