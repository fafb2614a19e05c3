"""What scripts on `IsingDiffusionPipeline` share: a pipeline that learns by pseudo-likelihood."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor
from torch.nn.functional import softplus

from experiments.common import progress_bar
from qsample.diffusion import IsingDiffusionPipeline

NEIGHBOURS = [[0, 1], [1, 0], [1, 1], [1, -1], [0, 2], [2, 0]]
"""offsets (down, right) of coupled pixels"""


def quiet(pipe: IsingDiffusionPipeline) -> IsingDiffusionPipeline:
    """A pipeline without a progress bar."""
    pipe.set_progress_bar_config(disable=True)
    return pipe


def train(
    pipe: IsingDiffusionPipeline, x: Tensor, *, updates: int, batch: int, seed: int, name: str
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
    """
    network = pipe.unet.train()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    losses: list[float] = []
    for _ in progress_bar(range(updates), desc=name):
        rows = torch.randint(len(x), (batch,), generator=generator)
        loss = pseudo_likelihood(pipe, x[rows], generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(float(loss.detach()))
    network.eval()
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


def pseudo_likelihood(
    pipe: IsingDiffusionPipeline, x: Tensor, generator: torch.Generator
) -> Tensor:
    """Minus the log pseudo-likelihood per image at a random step.

    Args:
        pipe: pipeline.
        x: images.
        generator: source of step and noise.
    """
    scheduler = pipe.scheduler
    times = [*scheduler.timesteps.tolist(), 0.0]
    k = int(torch.randint(len(scheduler), (), generator=generator))
    t, s = times[k], times[k + 1]
    noise = torch.randn(2, *x.shape, generator=generator)
    x_s = scheduler.add_noise(x, noise[0], torch.tensor([s]))
    # From s on to t: 1 - u = (1 - t) / (1 - s).
    x_t = scheduler.add_noise(x_s, noise[1], torch.tensor([(t - s) / (1 - s)]))
    output = pipe.unet(x_t, t * pipe.config["time_scale"])
    output = getattr(output, "sample", output)
    spins = x_s.flatten(1)
    field = scheduler.ising(output, t, x_t).field(spins)
    return softplus(2 * spins * field).sum(1).mean()
