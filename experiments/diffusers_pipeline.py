"""diffusers' UNet2DModel and VQModel under our scheduler: trained, sampled, saved, loaded elsewhere, and timed.

    python experiments/diffusers_pipeline.py --out runs/diffusers_pipeline

Three pipelines learn 8 x 8 digits: pixels with independent bits, pixels with couplings (features of the UNet's further
channels, pseudo-likelihood, drawn by Gibbs sampling), and the index bits of a VQModel. Two are saved; a new process
loads them and draws from the same seed. Last, the time of a step at J = 0 of one pipeline with our scheduler and with
a factorised step written by hand, beside a bare loop around diffusers' DiscreteDDIMScheduler; all with one untrained
UNet on 16 x 16 pixels. Rounds are paired and ratios are medians over rounds. Writes results.json and pipelines.png.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib
import torch
import tyro
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_discrete_ddim import DiscreteDDIMScheduler
from torch import Tensor
from torch.nn.functional import mse_loss, softplus

from qsample.data import load
from qsample.diffusion import IsingDiffusionPipeline, IsingScheduler
from qsample.integrations.diffusers.latents import decode, encode
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Options:
    """What to train, draw and time."""

    out: Path = Path("runs/diffusers_pipeline")
    """folder for results.json, pipelines.png and the saved pipelines"""
    updates: int = 600
    """of each UNet"""
    codebook_updates: int = 600
    """of the VQModel"""
    batch: int = 64
    """images an update"""
    steps: int = 4
    """denoising steps, in training and sampling"""
    features: int = 4
    """pair features a pixel"""
    sweeps: int = 30
    """Gibbs sweeps a step with couplings"""
    images: int = 1000
    """drawn from each pipeline"""
    rounds: int = 15
    """of timing"""
    seed: int = 0
    """of everything random"""
    threads: int = 1
    """torch threads"""


NEIGHBOURS = [[0, 1], [1, 0], [1, 1], [1, -1], [0, 2], [2, 0]]
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


def unet(size: int, channels: int, features: int = 0) -> UNet2DModel:
    """A tiny denoiser: 164 thousand parameters at 16 x 16 and one channel."""
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


def train(pipe: IsingDiffusionPipeline, x: Tensor, options: Options, name: str) -> float:
    """Pseudo-likelihood of x_s given x_t, t one of the steps; without couplings the likelihood. Its last mean."""
    network, scheduler = pipe.unet.train(), pipe.scheduler
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.updates)
    times, losses = [*scheduler.timesteps.tolist(), 0.0], []
    for _ in progress_bar(range(options.updates), desc=name):
        rows = torch.randint(len(x), (options.batch,), generator=generator)
        k = int(torch.randint(len(scheduler), (), generator=generator))
        t, s = times[k], times[k + 1]
        noise = torch.randn(2, *x[rows].shape, generator=generator)
        x_s = scheduler.add_noise(x[rows], noise[0], torch.tensor([s]))
        x_t = scheduler.add_noise(
            x_s, noise[1], torch.tensor([(t - s) / (1 - s)])
        )  # 1 - u = (1 - t) / (1 - s)
        problem = scheduler.ising(network(x_t, t * pipe.config["time_scale"]).sample, t, x_t)
        spins = x_s.flatten(1)
        loss = softplus(2 * spins * problem.field(spins)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        losses.append(float(loss.detach()))
    network.eval()
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


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
    with torch.no_grad():  # entries among the latents, or all images share one
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


def quiet(pipe: IsingDiffusionPipeline) -> IsingDiffusionPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipelines(
    x: Tensor, options: Options
) -> tuple[dict[str, IsingDiffusionPipeline], dict[str, float], Tensor]:
    """The three, trained; their losses; the pixels after the VQModel's own round trip."""
    how: dict[str, Any] = {"sampler": "gibbs", "sampler_settings": {"sweeps": options.sweeps}}
    joint = {"neighbours": NEIGHBOURS, "pair_features": options.features, **how}
    torch.manual_seed(options.seed)
    vqvae = codebook(x, options)
    with torch.no_grad():
        bits = torch.cat([encode(vqvae, some) for some in x.split(256)])
        again = torch.cat([decode(vqvae, some) for some in bits.split(256)])
    made = {
        "independent": quiet(IsingDiffusionPipeline(unet(8, 1), IsingScheduler(options.steps))),
        "coupled": quiet(
            IsingDiffusionPipeline(
                unet(8, 1, options.features), IsingScheduler(options.steps, **joint)
            )
        ),
        "latent": quiet(IsingDiffusionPipeline(unet(4, 4), IsingScheduler(options.steps), vqvae)),
    }
    losses = {
        name: train(pipe, bits if name == "latent" else x, options, name)
        for name, pipe in made.items()
    }
    return made, losses, again


def drawn(pipe: IsingDiffusionPipeline, options: Options) -> Tensor:
    """Images as spins `[N, 64]`; those of a decoder are thresholded."""
    generator = torch.Generator().manual_seed(options.seed + 1)
    (images,) = pipe(options.images, generator, options.steps, "pt", return_dict=False)
    return torch.where(images > 0.5, 1.0, -1.0).flatten(1)


def elsewhere(made: dict[str, IsingDiffusionPipeline], options: Options) -> dict[str, bool]:
    """Whether a new process draws the same images from the saved pipelines."""
    names = [name for name in made if name != "independent"]
    for name in names:
        made[name].save_pretrained(options.out / name)
    arguments = [str(options.out), str(options.seed), str(options.threads), *names]
    subprocess.run([sys.executable, "-c", FRESH, *arguments], check=True, stderr=subprocess.DEVNULL)
    same = {}
    for name in names:
        generator = torch.Generator().manual_seed(options.seed)
        (images,) = made[name](8, generator, options.steps, "pt", return_dict=False)
        same[name] = torch.equal(images, torch.load(options.out / f"{name}.pt"))
        (options.out / f"{name}.pt").unlink()
    return same


class ByHand(IsingScheduler):
    """A factorised step as one would write it."""

    def step(
        self,
        model_output: Any,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> Any:
        """Both values of x_0, each with its posterior: a of the step is `near`, of all steps before it `start`."""
        s = timestep - 1 / len(self.timesteps)
        near, start = (1 - timestep) / (1 - s), 1 - s.clamp_min(1e-7)
        field, pull = near.atanh() * sample, start.atanh()
        p = model_output.sigmoid()
        up = p * (2 * (field + pull)).sigmoid() + (1 - p) * (2 * (field - pull)).sigmoid()
        return torch.where(torch.rand(sample.shape, generator=generator) < up, 1.0, -1.0), 2 * p - 1


def loops(batch: int, steps: int, seed: int) -> dict[str, Callable[[], Any]]:
    """One run of `steps` steps each, 16 x 16 pixels, J = 0; the first two differ in the scheduler alone."""
    torch.manual_seed(seed)
    network = unet(16, 1).eval()
    pipe = quiet(IsingDiffusionPipeline(network, IsingScheduler()))
    theirs: Any = DiscreteDDIMScheduler()
    theirs.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)

    def ours() -> None:
        pipe(batch, generator, steps, "latent")

    plain = quiet(IsingDiffusionPipeline(network, ByHand()))

    def by_hand() -> None:
        plain(batch, generator, steps, "latent")

    @torch.no_grad()
    def by_ddim() -> None:
        tokens: Any = torch.randint(0, 2, (batch, 256), generator=generator)
        for k in range(steps):
            logits = network(
                (tokens * 2.0 - 1).reshape(batch, 1, 16, 16), torch.tensor(1000 * (1 - k / steps))
            ).sample
            two = torch.stack([torch.zeros_like(logits), logits], -1).reshape(batch, 256, 2)
            tokens = theirs.step(two, k, tokens, temperature=1.0, generator=generator).prev_sample

    return {"IsingScheduler": ours, "by hand": by_hand, "DiscreteDDIMScheduler": by_ddim}


def timed(batch: int, options: Options, steps: int = 16) -> dict[str, Any]:
    """Milliseconds a step, and ratios to the step by hand: of CPU time (`threads` is 1), and of wall time.

    Others' work on a shared machine shows in the second, not in the first.
    """
    run = loops(batch, steps, options.seed)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in run}
    order = random.Random(options.seed)
    for call in run.values():
        call()
    for _ in progress_bar(range(options.rounds), desc=f"batch {batch}"):
        for name in order.sample(list(run), len(run)):
            began = time.process_time(), time.perf_counter()
            run[name]()
            seconds[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    result: dict[str, Any] = {"batch": batch}
    for i, clock in enumerate(("cpu", "wall")):
        hand = [pair[i] for pair in seconds["by hand"]]
        each = {name: [pair[i] for pair in pairs] for name, pairs in seconds.items()}
        result[clock] = {
            name: {
                "ms_a_step": 1000 * statistics.median(values) / steps,
                "ratio": statistics.median(a / b for a, b in zip(values, hand, strict=True)),
            }
            for name, values in each.items()
        }
    return result


def picture(rows: dict[str, Tensor], result: dict[str, Any], path: Path) -> None:
    """Images of each pipeline beside the data, and what a step costs."""
    figure = plt.figure(figsize=(11, 6.2), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=(1.5, 1))
    left = grid[0].subgridspec(len(rows), 1)
    for i, (name, images) in enumerate(rows.items()):
        axis = figure.add_subplot(left[i])
        tiles = torch.nn.functional.pad(images[:24].reshape(-1, 8, 8), (1, 1, 1, 1)).reshape(
            2, -1, 10, 10
        )
        axis.imshow(
            tiles.permute(0, 2, 1, 3).reshape(20, -1).numpy(), cmap="gray_r", vmin=-1, vmax=1
        )
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=10, loc="left")
    axis = figure.add_subplot(grid[1])
    for i, row in enumerate(result["timing"]):
        for j, (name, cell) in enumerate(row["cpu"].items()):
            bar = axis.bar(
                i + 0.27 * (j - 1), cell["ratio"], 0.25, color=f"C{j}", label=None if i else name
            )
            axis.bar_label(bar, [f"{cell['ms_a_step']:.1f} ms"], fontsize=8)
    axis.axhline(1.2, color="grey", linestyle=":", linewidth=1)
    axis.set(
        xticks=range(len(result["timing"])),
        xticklabels=[f"batch {row['batch']}" for row in result["timing"]],
        ylabel="CPU time of a step / that of the step by hand",
        title="a step at J = 0, tiny UNet on 16 x 16",
    )
    axis.set_ylim(0, 1.25 * axis.get_ylim()[1])
    axis.legend(fontsize=8, loc="upper right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(options: Options) -> None:
    """Train, draw, save, load elsewhere, time."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    train_set, _, test = load("digits", coding="spins").split(test=397)
    x = train_set.x.reshape(-1, 1, 8, 8)
    made, losses, again = pipelines(x, options)
    images = {name: drawn(pipe, options) for name, pipe in made.items()}
    images["data through the VQModel"] = torch.where(again > 0, 1.0, -1.0).flatten(1)[
        : options.images
    ]
    assert train_set.labels is not None
    features = ImageFeatures(train_set.x, train_set.labels, (8, 8), seed=options.seed)
    quality = {
        name: {
            "pair_correlation_error": pair_correlation_error(test.x, one),
            "frechet_distance": frechet_distance(features(test.x), features(one)),
        }
        for name, one in {"training data": train_set.x[: options.images], **images}.items()
    }
    result = {
        "quality": quality,
        "loss": losses,
        "same_elsewhere": elsewhere(made, options),
        "timing": [timed(batch, options) for batch in (1, 4)],
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
    }
    (options.out / "results.json").write_text(json.dumps(result, indent=1))
    titles = {"test data": test.x} | {
        f"{name}: pair error {quality[name]['pair_correlation_error']:.3f}, "
        f"Fréchet {quality[name]['frechet_distance']:.2f}": one
        for name, one in images.items()
    }
    picture(titles, result, options.out / "pipelines.png")
    for name, row in quality.items():
        print(f"{name:26} " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))
    print("same images elsewhere     ", result["same_elsewhere"])
    for row in result["timing"]:
        for clock in ("cpu", "wall"):
            cells = "  ".join(f"{name} {cell['ratio']:.3f}" for name, cell in row[clock].items())
            print(f"batch {row['batch']:2}, {clock:4} time to the step by hand  {cells}")
    print(options.out / "pipelines.png")


if __name__ == "__main__":
    main(tyro.cli(Options))
