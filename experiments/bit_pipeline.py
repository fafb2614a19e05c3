"""What scripts on `IsingDiffusionPipeline` share: how a pipeline learns the law of its steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import softplus

from experiments.common import progress_bar
from qsample import Ising
from qsample.diffusion import IsingDiffusionPipeline
from qsample.sampling.sampler import Sampler

Loss = Callable[[Ising, Tensor, torch.Generator], Tensor]
"""of a step's problems `[B]`, what was to come out `[B, n]`, and a source of randomness"""
NEIGHBOURS = [[0, 1], [1, 0], [1, 1], [1, -1], [0, 2], [2, 0]]
"""offsets (down, right) of coupled pixels"""


def quiet(pipe: IsingDiffusionPipeline) -> IsingDiffusionPipeline:
    """A pipeline without a progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def train(
    pipe: IsingDiffusionPipeline,
    x: Tensor,
    *,
    updates: int,
    batch: int,
    seed: int,
    name: str,
    numbers: Sequence[int] = (),
    loss: Loss | None = None,
    lr: float = 2e-3,
) -> float:
    """Pseudo-likelihood of x_s given x_t, t one of the steps; its mean at the end.

    Without couplings it is the likelihood.

    Args:
        pipe: pipeline to train.
        x: images, `[N, channels, rows, columns]`, -1 and +1.
        updates: gradient steps.
        batch: images per gradient step.
        seed: seed of rows and noise.
        name: text of the progress bar.
        numbers: numbers of steps to serve, one of them in turn per gradient step, of which the
            network is told (`told`); by default the scheduler's own, of which it is not.
        loss: loss per image in place of the pseudo-likelihood's.
        lr: the highest learning rate of Adam; it falls to zero as a cosine.
    """
    network = pipe.unet.train()
    loss_of = loss or pseudo_likelihood
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    losses: list[float] = []
    for update in progress_bar(range(updates), desc=name):
        rows = torch.randint(len(x), (batch,), generator=generator)
        steps = numbers[update % len(numbers)] if numbers else None
        value = loss_of(*problem_of(pipe, x[rows], generator, steps), generator)
        # a chain of N steps has N such terms
        value = value * (steps or 1)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        decay.step()
        losses.append(float(value.detach()))
    network.eval()
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


def told(steps: int, count: int) -> Tensor:
    """How far a step goes, as the denoiser is told beside the time: 1000/N, `[count]`.

    Couplings are those of x_s, so that a network which serves several numbers of steps has to know
    s, and the time says t alone. A UNet2DModel of `class_embed_type="timestep"` takes it as its
    `class_labels`.
    """
    return torch.full((count,), 1000 / steps)


def problem_of(
    pipe: IsingDiffusionPipeline, x: Tensor, generator: torch.Generator, steps: int | None
) -> tuple[Ising, Tensor]:
    """A random step's problems for x_s, and x_s itself, `[B, n]`.

    Args:
        pipe: pipeline.
        x: images.
        generator: source of step and noise.
        steps: number of steps, of which the denoiser is told; None leaves the scheduler's.
    """
    scheduler = pipe.scheduler
    classes = {}
    if steps is not None:
        scheduler.set_timesteps(steps)
        classes = {"class_labels": told(steps, len(x))}
    times = [*scheduler.timesteps.tolist(), 0.0]
    k = int(torch.randint(len(scheduler), (), generator=generator))
    t, s = times[k], times[k + 1]
    noise = torch.randn(2, *x.shape, generator=generator)
    x_s = scheduler.add_noise(x, noise[0], torch.tensor([s]))
    # From s on to t: 1 - u = (1 - t) / (1 - s).
    x_t = scheduler.add_noise(x_s, noise[1], torch.tensor([(t - s) / (1 - s)]))
    output = pipe.unet(x_t, t * pipe.config["time_scale"], **classes)
    output = getattr(output, "sample", output)
    return scheduler.ising(output, t, x_t), x_s.flatten(1)


def pseudo_likelihood(problem: Ising, x: Tensor, generator: torch.Generator) -> Tensor:
    """Minus the log pseudo-likelihood per image.

    Args:
        problem: problems `[B]`.
        x: an image for each, `[B, n]`.
        generator: not used.
    """
    # each problem's field at its own image: [B, n] would be read as B states of each problem
    field = problem.field(x[:, None])[:, 0]
    return softplus(2 * x * field).sum(1).mean()


def given(known: Tensor, sampler: Sampler) -> Loss:
    """A loss with the gradient of minus log P(other bits | known bits), per image.

    That is the energy of an image above that of a draw of the law it is given, as log Z's gradient
    is the mean of the energy's. Its value is no likelihood.

    Args:
        known: which bits are known, bool `[n]`.
        sampler: draws the others.
    """
    index = known.nonzero()[:, 0]

    def loss(problem: Ising, x: Tensor, generator: torch.Generator) -> Tensor:
        clamped = problem.detach().clamp(index, x[:, index])
        drawn = x.clone()
        drawn[:, ~known] = sampler.sample(clamped, 1, generator=generator).spins[:, 0].to(x)
        return (problem.energy(x[:, None]) - problem.energy(drawn[:, None])).mean()

    return loss
