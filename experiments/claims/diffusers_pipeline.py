"""diffusers' UNet2DModel and VQModel under our scheduler: trained, saved, loaded elsewhere, timed.

    python experiments/claims/diffusers_pipeline.py --out runs/diffusers_pipeline

Three pipelines learn 8 x 8 digits: pixels with independent bits, pixels with couplings (features of
the UNet's further channels, pseudo-likelihood, drawn by Gibbs sampling), and the index bits of a
VQModel. Two are saved; a new process loads them and draws from the same seed. Last, the time of a
step at J = 0 of one pipeline with our scheduler and with a factorised step written by hand, beside
a bare loop around diffusers' DiscreteDDIMScheduler; all with one untrained UNet on 16 x 16 pixels.
Rounds are paired and ratios are medians over rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib.pyplot as plt
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_discrete_ddim import DiscreteDDIMScheduler
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import mse_loss

from qsample.data import Dataset, load
from qsample.diffusion import IsingDiffusionPipeline, IsingScheduler
from qsample.integrations.diffusers.latents import decode, encode
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bit_pipeline import NEIGHBOURS, quiet, train
from experiments.common import (
    CommonOptions,
    Report,
    command_line,
    medians,
    mosaic,
    paired_rounds,
    progress_bar,
    ratio,
)

TIMED_STEPS = 16
FRESH = """
import sys, torch
torch.set_num_threads(int(sys.argv[3]))
from qsample.diffusion import IsingDiffusionPipeline
for name in sys.argv[4:]:
    pipe = IsingDiffusionPipeline.from_pretrained(f"{sys.argv[1]}/{name}")
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(int(sys.argv[2]))
    images = pipe(8, seed, len(pipe.scheduler), "pt").images
    torch.save(images, f"{sys.argv[1]}/{name}.pt")
"""
Pipes = dict[str, IsingDiffusionPipeline]


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to train, draw and time."""

    updates: int = 600
    """gradient steps of each UNet"""
    codebook_updates: int = 600
    """gradient steps of the VQModel"""
    batch: int = 64
    """images per update"""
    steps: int = 4
    """denoising steps, in training and sampling"""
    features: int = 4
    """pair features per pixel"""
    sweeps: int = 30
    """Gibbs sweeps of a step with couplings"""
    images: int = 1000
    """images drawn from each pipeline"""
    rounds: int = 15
    """rounds of timing"""
    seed: int = 0
    """seed of everything random"""


def main(options: Options) -> None:
    """Train, draw, save, load elsewhere, time."""
    report = Report(options, __file__, packages=("diffusers",))
    train_set, _, test = load("digits", coding="spins").split(test=397)
    pipes, losses, decoded = pipelines(train_set.x.reshape(-1, 1, 8, 8), options)
    images = {name: drawn(pipe, options) for name, pipe in pipes.items()}
    through = torch.where(decoded > 0, 1.0, -1.0).flatten(1)
    images["data through the VQModel"] = through[: options.images]
    quality = judged(images, train_set, test, options)
    result = {
        "quality": quality,
        "loss": losses,
        "same_elsewhere": elsewhere(pipes, report.folder, options),
        "timing": {f"batch {batch}": timing(batch, options) for batch in (1, 4)},
    }
    show(result)
    report.finish(result, picture({"test data": test.x} | images, result))


# ---- training ---------------------------------------------------------------------------------


def unet(size: int, channels: int, features: int = 0) -> UNet2DModel:
    """A tiny denoiser: 164 thousand parameters at 16 x 16 and one channel.

    Args:
        size: side of an image, pixels.
        channels: channels of an image.
        features: pair features per channel and pixel; none by default.
    """
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels * (1 + features),
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )


def codebook(x: Tensor, options: Options) -> VQModel:
    """A VQModel of 16 entries: 8 x 8 pixels become 4 x 4 indices of 4 bits."""
    model = VQModel(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 16),
        norm_num_groups=8,
        latent_channels=4,
        num_vq_embeddings=16,
        vq_embed_dim=4,
        mid_block_add_attention=False,
    )
    # Entries start among the latents, or all images share one.
    with torch.no_grad():
        latents = model.encode(x[: options.batch]).latents.movedim(1, -1).reshape(-1, 4)
        model.quantize.embedding.weight.copy_(latents[torch.randperm(len(latents))[:16]])
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in progress_bar(range(options.codebook_updates), desc="VQModel"):
        rows = x[torch.randint(len(x), (options.batch,), generator=generator)]
        reconstruction, commitment = model(rows, return_dict=False)
        optimizer.zero_grad()
        (mse_loss(reconstruction, rows) + commitment.mean()).backward()
        optimizer.step()
    return model.eval()


def pipelines(x: Tensor, options: Options) -> tuple[Pipes, dict[str, float], Tensor]:
    """The three, trained; their losses; the pixels after the VQModel's own round trip."""
    torch.manual_seed(options.seed)
    vqvae = codebook(x, options)
    with torch.no_grad():
        bits = torch.cat([encode(vqvae, images) for images in x.split(256)])
        decoded = torch.cat([decode(vqvae, latents) for latents in bits.split(256)])
    joint = IsingScheduler(
        options.steps,
        neighbours=NEIGHBOURS,
        pair_features=options.features,
        sampler="gibbs",
        sampler_settings={"sweeps": options.sweeps},
    )
    independent = unet(8, 1)
    coupled = unet(8, 1, options.features)
    latent = unet(4, 4)
    pipes = {
        "independent": IsingDiffusionPipeline(independent, IsingScheduler(options.steps)),
        "coupled": IsingDiffusionPipeline(coupled, joint),
        "latent": IsingDiffusionPipeline(latent, IsingScheduler(options.steps), vqvae),
    }
    losses = {
        name: train(
            quiet(pipe),
            bits if name == "latent" else x,
            updates=options.updates,
            batch=options.batch,
            seed=options.seed,
            name=name,
        )
        for name, pipe in pipes.items()
    }
    return pipes, losses, decoded


# ---- what is drawn ----------------------------------------------------------------------------


def drawn(pipe: IsingDiffusionPipeline, options: Options) -> Tensor:
    """Images as spins `[N, 64]`; those of a decoder are thresholded."""
    generator = torch.Generator().manual_seed(options.seed + 1)
    (images,) = pipe(options.images, generator, options.steps, "pt", return_dict=False)
    return torch.where(images > 0.5, 1.0, -1.0).flatten(1)


def judged(
    images: dict[str, Tensor], train_set: Dataset, test: Dataset, options: Options
) -> dict[str, dict[str, float]]:
    """Distance of images to test data; training data are the floor.

    Args:
        images: images `[N, 64]` by name.
        train_set: digits that were trained on.
        test: digits that were not.
        options: options of the run.
    """
    assert train_set.labels is not None
    features = ImageFeatures(train_set.x, train_set.labels, (8, 8), seed=options.seed)
    real = features(test.x)
    floor = {"training data": train_set.x[: options.images]}
    return {
        name: {
            "pair_correlation_error": pair_correlation_error(test.x, x),
            "frechet_distance": frechet_distance(real, features(x)),
        }
        for name, x in (floor | images).items()
    }


def elsewhere(pipes: Pipes, folder: Path, options: Options) -> dict[str, bool]:
    """Whether a new process draws the same images from the saved pipelines.

    Args:
        pipes: trained pipelines.
        folder: where they are saved.
        options: options of the run.
    """
    names = [name for name in pipes if name != "independent"]
    for name in names:
        pipes[name].save_pretrained(folder / name)
    arguments = [str(folder), str(options.seed), str(options.threads), *names]
    line = [sys.executable, "-c", FRESH, *arguments]
    subprocess.run(line, check=True, stderr=subprocess.DEVNULL)
    same: dict[str, bool] = {}
    for name in names:
        generator = torch.Generator().manual_seed(options.seed)
        (images,) = pipes[name](8, generator, options.steps, "pt", return_dict=False)
        path = folder / f"{name}.pt"
        same[name] = torch.equal(images, torch.load(path))
        path.unlink()
    return same


# ---- what a step costs ------------------------------------------------------------------------


class ByHand(IsingScheduler):
    """A factorised step as one would write it."""

    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
        *,
        original: Any = None,
        keep: Any = None,
    ) -> Any:
        """Both values of x_0, each with its posterior; no mask.

        The noise is `near` in this step, `start` in all steps before it.
        """
        s = timestep - 1 / len(self.timesteps)
        near = (1 - timestep) / (1 - s)
        start = 1 - s.clamp_min(1e-7)
        field = near.atanh() * sample
        pull = start.atanh()
        p = model_output.sigmoid()
        up = p * (2 * (field + pull)).sigmoid() + (1 - p) * (2 * (field - pull)).sigmoid()
        uniform = torch.rand(sample.shape, generator=generator)
        return torch.where(uniform < up, 1.0, -1.0), 2 * p - 1


def loops(batch: int, seed: int) -> dict[str, Callable[[], Any]]:
    """Runs of 16 x 16 pixels at J = 0; the first two differ in the scheduler alone."""
    torch.manual_seed(seed)
    steps = TIMED_STEPS
    network = unet(16, 1).eval()
    generator = torch.Generator().manual_seed(seed)
    pipe = quiet(IsingDiffusionPipeline(network, IsingScheduler()))
    plain = quiet(IsingDiffusionPipeline(network, ByHand()))
    theirs: Any = DiscreteDDIMScheduler()
    theirs.set_timesteps(steps)

    @torch.no_grad()
    def by_ddim() -> None:
        tokens: Any = torch.randint(0, 2, (batch, 256), generator=generator)
        for k in range(steps):
            pixels = (tokens * 2.0 - 1).reshape(batch, 1, 16, 16)
            logits = network(pixels, torch.tensor(1000 * (1 - k / steps))).sample
            two = torch.stack([torch.zeros_like(logits), logits], -1).reshape(batch, 256, 2)
            step = theirs.step(two, k, tokens, temperature=1.0, generator=generator)
            tokens = step.prev_sample

    return {
        "IsingScheduler": lambda: pipe(batch, generator, steps, "latent"),
        "by hand": lambda: plain(batch, generator, steps, "latent"),
        "DiscreteDDIMScheduler": by_ddim,
    }


def timing(batch: int, options: Options) -> dict[str, Any]:
    """Milliseconds per step, and ratios to the step by hand: of CPU time, and of wall time.

    Others' work on a shared machine shows in the second, not in the first.
    """
    calls = loops(batch, options.seed)
    for call in calls.values():
        call()
    seconds = paired_rounds(calls, options.rounds, what=f"batch {batch}")
    base = seconds["by hand"]
    return {
        clock: {
            name: {
                "ms_per_step": 1e3 * getattr(medians(rounds), clock) / TIMED_STEPS,
                "ratio": ratio(rounds, base, clock),
            }
            for name, rounds in seconds.items()
        }
        for clock in ("cpu", "wall")
    }


# ---- figures ----------------------------------------------------------------------------------


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    for name, row in result["quality"].items():
        print(f"{name:26} " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))
    print("same images elsewhere     ", result["same_elsewhere"])
    for batch, clocks in result["timing"].items():
        for clock, row in clocks.items():
            cells = "  ".join(f"{name} {cell['ratio']:.3f}" for name, cell in row.items())
            print(f"{batch}, {clock:4} time to the step by hand  {cells}")


def picture(images: dict[str, Tensor], result: dict[str, Any]) -> Figure:
    """Images of each pipeline beside the data, and what a step costs."""
    figure = plt.figure(figsize=(11, 6.2), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(1.5, 1))
    left = grid[0].subgridspec(len(images), 1)
    for i, (name, x) in enumerate(images.items()):
        axis = figure.add_subplot(left[i])
        frame = mosaic(x[:24], (8, 8), columns=12, fill=0.0)
        axis.imshow(frame.numpy(), cmap="gray_r", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
        title = name
        if name in result["quality"]:
            row = result["quality"][name]
            title += f": pair error {row['pair_correlation_error']:.3f}"
            title += f", Fréchet {row['frechet_distance']:.2f}"
        axis.set_title(title, fontsize=10, loc="left")
    draw_timing(figure.add_subplot(grid[1]), result["timing"])
    return figure


def draw_timing(axis: Any, timing: dict[str, Any]) -> None:
    """CPU time of a step over that of the step by hand."""
    for i, clocks in enumerate(timing.values()):
        for j, (name, cell) in enumerate(clocks["cpu"].items()):
            label = name if i == 0 else None
            bar = axis.bar(i + 0.27 * (j - 1), cell["ratio"], 0.25, color=f"C{j}", label=label)
            axis.bar_label(bar, [f"{cell['ms_per_step']:.1f} ms"], fontsize=8)
    axis.axhline(1.2, color="grey", linestyle=":", linewidth=1)
    axis.set(xticks=range(len(timing)), xticklabels=list(timing))
    axis.set(ylabel="CPU time of a step / that of the step by hand")
    axis.set(title="a step at J = 0, tiny UNet on 16 x 16")
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])
    axis.legend(fontsize=8, loc="upper right")


if __name__ == "__main__":
    command_line(main, Options)
