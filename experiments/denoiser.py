"""A denoiser of binary images at any time: diffusers' UNet2DModel, averaged over its updates."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from experiments.common import progress_bar
from qsample.diffusion import UniformBits, log_times

GROUPS = 8  # of GroupNorm
WARM_UP = 100  # updates until the learning rate is whole
AVERAGE = 0.998  # share of the average that a late update keeps


class Denoiser(nn.Module):
    """x_k at k/T to logits of x_0, for any T.

    Pixels of a large image enter two by two, as channels of an image of half the size: a quarter of
    the work, and the network sees as far.

    Args:
        shape: rows and columns of an image, even numbers.
        width: channels at full size; twice as many at half, where the UNet turns.
    """

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        self.shape = shape
        self.block = 2 if shape[0] * shape[1] > 100 else 1
        self.net = UNet2DModel(
            sample_size=(shape[0] // self.block, shape[1] // self.block),
            in_channels=self.block**2,
            out_channels=self.block**2,
            block_out_channels=(width, 2 * width),
            layers_per_block=1,
            norm_num_groups=GROUPS,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            add_attention=False,
        )

    def forward(self, x: Tensor, fraction: Tensor) -> Tensor:
        """Logits `[B, n]` of x_k `[B, n]` at k/T = `fraction` `[B]`."""
        pixels = x.reshape(-1, 1, *self.shape)
        shuffled = nn.functional.pixel_unshuffle(pixels, self.block)
        logits = self.net(shuffled, 1000 * fraction).sample  # its embedding is for times to 1000
        return nn.functional.pixel_shuffle(logits, self.block).reshape(x.shape)


class Remembered(nn.Module):
    """A denoiser that stands still, asked once for each x_k; rows and answers are on the CPU.

    Args:
        net: the network, on any device; each row's answer must depend on that row alone.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.ask = net.forward  # no part of this module: a model goes where its parts are
        self.device = next(net.parameters()).device
        self.answers: dict[tuple[bytes, float], Tensor] = {}
        for parameter in net.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor, fraction: Tensor) -> Tensor:
        """Logits `[B, n]` of x_k `[B, n]` at k/T = `fraction` `[B]`."""
        bits = (x > 0).numpy()
        keys = [(row.tobytes(), t) for row, t in zip(bits, fraction.tolist(), strict=True)]
        new = [n for n, key in enumerate(keys) if key not in self.answers]
        for first in range(0, len(new), 250):
            some = torch.tensor(new[first : first + 250])
            logits = self.ask(x[some].to(self.device), fraction[some].to(self.device))
            for n, row in zip(some.tolist(), logits.cpu(), strict=True):
                self.answers[keys[n]] = row
        return torch.stack([self.answers[key] for key in keys])


@torch.no_grad()
def keep_most(averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int) -> None:
    """Move averages towards weights, the early ones further: else they would hold their start.

    Args:
        averages: averages of the weights, changed in place.
        weights: weights after an update.
        updates: updates before.
    """
    kept = min(AVERAGE, (1 + int(updates)) / (10 + int(updates)))
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, 1 - kept)


def train_denoiser(
    data: Tensor,
    shape: tuple[int, int],
    *,
    width: int,
    finest: int,
    updates: int,
    batch: int,
    lr: float,
    seed: int,
    device: str = "cpu",
) -> Denoiser:
    """A denoiser by cross entropy of x_0, with the averages of its weights.

    Args:
        data: images to train on, spins `[N, n]`.
        shape: rows and columns of an image.
        width: channels at full size.
        finest: number of steps whose times it is trained at.
        updates: gradient steps of AdamW.
        batch: images of a gradient step.
        lr: the highest learning rate; it falls to zero as a cosine.
        seed: seed of weights and noise.
        device: where it is trained.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    process = UniformBits(log_times(finest))
    net = Denoiser(shape, width).to(device)
    average = AveragedModel(net, multi_avg_fn=keep_most)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda u: min(1, (u + 1) / WARM_UP) * (1 + math.cos(math.pi * u / updates)) / 2,
    )
    cross_entropy = nn.functional.binary_cross_entropy_with_logits
    for _ in progress_bar(range(updates), desc=f"denoiser {seed}", leave=False):
        x_0 = data[torch.randint(len(data), (batch,), generator=generator)]
        k = torch.randint(1, finest + 1, (batch,), generator=generator)
        after = process.noise(x_0, k, generator=generator).to(torch.float32)
        logits = net(after.to(device), (k / finest).to(device))
        loss = cross_entropy(logits, ((x_0 + 1) / 2).to(device), reduction="sum") / batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        average.update_parameters(net)
    trained = average.module
    assert isinstance(trained, Denoiser)
    return trained
