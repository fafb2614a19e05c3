"""What scripts on guidance share: a small DDPM of digits, a classifier that guides, a judge.

Images of 28 x 28 pixels are folded: four channels of half the size, a quarter of the work.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from experiments.cells import Kept
from experiments.common import progress_bar
from qsample.data import load
from qsample.metrics import ImageFeatures

CLEAN = torch.tensor(-1)
"""the timestep of a final image"""
SEEN = 8 / 9
"""share of images that the denoiser learns from; half of them teach the guide, half the judge"""


class World(NamedTuple):
    """What is trained, and the images that it is judged by."""

    pipe: DDPMPipeline
    guide: NoisyClassifier
    judge: ImageFeatures
    images: Tensor
    labels: Tensor
    training: int
    """the images before this one are seen in training, the others by nobody"""

    @property
    def side(self) -> int:
        """Rows of an image, and columns."""
        return self.images.shape[-1]

    @property
    def seen(self) -> Tensor:
        """Images that the denoiser learned from, `[N, 1, side, side]`."""
        return self.images[: self.training]

    @property
    def unseen(self) -> Tensor:
        """Images that nobody has seen, `[N, 1, side, side]`."""
        return self.images[self.training :]


class Training(NamedTuple):
    """How the networks are trained."""

    updates: int
    """gradient steps of the guide, and of the denoiser"""
    batch: int
    """images of a gradient step of the denoiser"""
    width: int
    """channels of the denoiser at its full size"""
    seed: int
    """seed of all randomness"""


def plain_scheduler() -> DDPMScheduler:
    """DDPM without guidance."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def fold(images: Tensor) -> Tensor:
    """Images as the denoiser has them: of `[N, 1, 28, 28]` it is `[N, 4, 14, 14]`."""
    return nn.functional.pixel_unshuffle(images, 2) if images.shape[-1] > 16 else images


def unfold(images: Tensor) -> Tensor:
    """The inverse of `fold`."""
    return nn.functional.pixel_shuffle(images, 2) if images.shape[1] == 4 else images


def train_world(data: str, training: Training, kept: Kept) -> World:
    """The guide, the judge and the denoiser.

    Args:
        data: digits (8 x 8) or mnist5k (28 x 28), grey.
        training: how the networks are trained.
        kept: holds the weights of a run that goes on.
    """
    seed = training.seed
    rows = load(data, binarise="sample", seed=seed)
    assert rows.grey is not None and rows.labels is not None and rows.image_shape is not None
    torch.manual_seed(seed)
    order = torch.randperm(len(rows.labels))
    x = (2 * rows.grey.reshape(-1, 1, *rows.image_shape) - 1)[order]
    y = rows.labels[order]
    seen = int(SEEN * len(x))
    half = seen // 2
    scheduler = plain_scheduler()

    def guide_weights() -> dict[str, Tensor]:
        torch.manual_seed(seed + 1)
        return train_classifier(fold(x[:half]), y[:half], scheduler, training.updates).state_dict()

    def denoiser_weights() -> dict[str, Tensor]:
        torch.manual_seed(seed + 2)
        return train_unet(fold(x[:seen]), scheduler, training).state_dict()

    guide = NoisyClassifier(x[0].numel())
    guide.load_state_dict(kept.part("guide", guide_weights))
    unet = unet_of(fold(x[:1]), training.width)
    unet.load_state_dict(kept.part("denoiser", denoiser_weights))
    judge = ImageFeatures(
        x[half:seen].flatten(1), y[half:seen], rows.image_shape, epochs=40, seed=seed
    )
    pipe = DDPMPipeline(unet.eval().requires_grad_(False), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return World(pipe, guide.eval().requires_grad_(False), judge, x, y, seen)


class NoisyClassifier(nn.Module):
    """Class logits of images at a timestep; smooth, for it is asked for second derivatives."""

    def __init__(self, pixels: int, width: int = 192) -> None:
        super().__init__()
        self.inner = nn.Linear(pixels + 32, width)
        self.outer = nn.Sequential(
            nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 10)
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Of x `[B, ...]`, t `[B]` or a number; -1 is a clean image."""
        angles = (t.float().reshape(-1, 1) + 1) / 1000 * (2.0 ** torch.arange(16)) * math.pi / 2
        times = torch.cat([angles.sin(), angles.cos()], -1).expand(len(x), -1)
        return self.outer(self.inner(torch.cat([x.flatten(1), times], -1)))


def noisy(scheduler: DDPMScheduler, x: Tensor, t: Tensor) -> Tensor:
    """Images as the forward process leaves them at t; untouched at -1.

    Args:
        scheduler: forward process.
        x: clean images.
        t: timestep of each.
    """
    noise = torch.randn(x.shape)
    added = scheduler.add_noise(x, noise, t.clamp(min=0))  # pyright: ignore[reportArgumentType]
    return torch.where(t.reshape(-1, 1, 1, 1) < 0, x, added)


def unet_of(images: Tensor, width: int) -> Any:
    """A denoiser of images of this shape, untrained."""
    return UNet2DModel(
        sample_size=images.shape[-1],
        in_channels=images.shape[1],
        out_channels=images.shape[1],
        layers_per_block=1,
        block_out_channels=(width, 2 * width),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )


def train_unet(x: Tensor, scheduler: DDPMScheduler, training: Training) -> Any:
    """The denoiser, by the simple loss of Ho et al. (2020); its weights' running mean.

    Args:
        x: images `[N, channels, rows, columns]`, -1 to 1.
        scheduler: forward process.
        training: how it is trained.
    """
    unet = unet_of(x, training.width)
    optimizer = torch.optim.Adam(unet.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.updates)
    mean = AveragedModel(unet, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    for _ in progress_bar(range(training.updates), desc="UNet"):
        image = x[torch.randint(len(x), (training.batch,))]
        t: Any = torch.randint(1000, (training.batch,))
        noise = torch.randn(image.shape)
        predicted = unet(scheduler.add_noise(image, noise, t), t).sample
        loss = (predicted - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        mean.update_parameters(unet)
    return mean.module


def train_classifier(
    x: Tensor, y: Tensor, scheduler: DDPMScheduler, updates: int
) -> NoisyClassifier:
    """The guide: cross entropy at all timesteps, the clean image's among them.

    Args:
        x: images `[N, channels, rows, columns]`.
        y: labels `[N]`.
        scheduler: forward process.
        updates: gradient steps.
    """
    net = NoisyClassifier(x[0].numel())
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, weight_decay=1e-4)
    for _ in progress_bar(range(updates), desc="classifier"):
        rows = torch.randint(len(x), (256,))
        t = torch.randint(-100, 1000, (256,)).clamp(min=-1)
        logits = net(noisy(scheduler, x[rows], t), t)
        loss = nn.functional.cross_entropy(logits, y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net
