"""Super-resolution by a clamp, through diffusers: every second row and column of a digit is known.

    python experiments/claims/super_resolution.py --out runs/super_resolution

Two `IsingDiffusionPipeline`s learn mnist5k's 28 x 28 bits, one with independent bits in a step, one
with couplings of neighbours (features of the UNet). Test digits lose three of four pixels, and
`pipe(image=..., mask_image=...)` draws them: given the known ones within each step, in the joint
one, or from one step to the next. Judged by the share of hidden bits that are wrong, by how many
are ink, by how ragged they are (neighbours that differ, beside the test digits'), by a classifier,
and by the Frechet distance to the test digits; beside them the known pixels' bilinear
interpolation, rounded.

Each network serves all numbers of steps, of which it is told. Couplings learn by
pseudo-likelihood, which makes them too strong ("pseudo-likelihood" in the figures): drawn jointly,
a region is all ink or all paper. A few updates by the likelihood of the hidden bits given the known
ones, by short chains, mend that ("joint").
"""

from __future__ import annotations

import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import matplotlib.pyplot as plt
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from matplotlib.figure import Figure
from torch import Tensor, nn

from qsample.annealers import Gibbs
from qsample.data import load
from qsample.diffusion import IsingDiffusionPipeline, IsingScheduler
from qsample.metrics import ImageFeatures, frechet_distance

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bit_pipeline import NEIGHBOURS, given, quiet, told, train
from experiments.cells import Kept
from experiments.common import CommonOptions, Report, Stopwatch, command_line, mosaic

SIDE = 28
KINDS = {"independent": "tab:red", "pseudo-likelihood": "tab:cyan", "joint": "tab:blue"}
GREY = 0.6  # of a pixel that is not known
MENDED = 10  # updates by pseudo-likelihood for each one by likelihood
CHAIN = Gibbs(20)
"""draws the hidden bits in training by likelihood"""
FREE = ("out", "publish", "threads", "steps", "images", "sweeps")
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Both kinds of step share everything here."""

    updates: int = 2500
    """gradient steps of each UNet"""
    batch: int = 64
    """images per gradient step"""
    width: int = 16
    """channels of the UNet at its full size, 14 x 14"""
    features: int = 4
    """pair features per pixel"""
    trained_steps: int = 8
    """the most steps in training, beside its halves: 8, 4, 2 and 1"""
    steps: tuple[int, ...] = (1, 2, 4, 8)
    """reverse steps"""
    sweeps: int = 50
    """Gibbs sweeps of a joint step"""
    images: int = 500
    """test digits"""
    seed: int = 0
    """seed of all randomness"""


def main(options: Options) -> None:
    """Train, hide, fill in, judge."""
    report = Report(options, __file__, packages=("diffusers",))
    about = {name: value for name, value in asdict(options).items() if name not in FREE}
    kept = Kept(report.folder, about)
    data, _, test = load("mnist5k", coding="spins").split(test=1000)
    assert data.labels is not None and test.labels is not None
    features = ImageFeatures(data.x, data.labels, (SIDE, SIDE), seed=options.seed)
    real = test.x[: options.images]
    labels = test.labels[: options.images]
    rows: list[Row] = []
    filled: dict[tuple[str, int], Tensor] = {}
    for kind in KINDS:
        pipe = trained(kind, data.x.reshape(-1, 1, SIDE, SIDE), kept, options)
        for steps in options.steps:
            watch = Stopwatch()
            x = fill(pipe, real, steps, options)
            seconds = watch.read().cpu
            filled[kind, steps] = x
            about_row = {"kind": kind, "steps": steps, "cpu_seconds": seconds}
            rows.append(about_row | judged(x, real, labels, features))
            report.write({"rows": rows})
    result = {
        "test_digits": judged(real, real, labels, features),
        "interpolated": judged(interpolated(real), real, labels, features),
        "table": table(rows),
        "rows": rows,
    }
    show(result)
    report.finish(result, picture(real, filled, result, options))


# ---- the pipelines ----------------------------------------------------------------------------


class Folded(nn.Module):
    """A UNet of 14 x 14 images of four channels, for bits of 28 x 28, as the pipeline calls it.

    Args:
        width: channels at full size.
        features: pair features per pixel.
    """

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(in_channels=1, sample_size=SIDE)
        self.dtype = torch.float32
        self.device = torch.device("cpu")
        self.net = UNet2DModel(
            sample_size=SIDE // 2,
            in_channels=4,
            out_channels=4 * (1 + features),
            block_out_channels=(width, 2 * width),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            add_attention=False,
            class_embed_type="timestep",
        )

    def forward(self, x: Tensor, time: Any, class_labels: Tensor) -> Tensor:
        """Logits and features `[B, 1 + features, 28, 28]`.

        Args:
            x: spins `[B, 1, 28, 28]`.
            time: their time.
            class_labels: how far the step goes (`told`), `[B]`.
        """
        folded = nn.functional.pixel_unshuffle(x, 2)
        return nn.functional.pixel_shuffle(self.net(folded, time, class_labels).sample, 2)


def trained(kind: str, x: Tensor, kept: Kept, options: Options) -> IsingDiffusionPipeline:
    """A pipeline that has learned images.

    Args:
        kind: key of KINDS.
        x: images `[N, 1, 28, 28]`, -1 and +1.
        kept: holds the weights of a run that goes on.
        options: options of the run.
    """
    torch.manual_seed(options.seed)
    coupled: dict[str, Any] = {}
    if kind != "independent":
        settings = {"sweeps": options.sweeps}
        coupled = {"neighbours": NEIGHBOURS, "pair_features": options.features}
        coupled |= {"sampler": "gibbs", "sampler_settings": settings}
    net = Folded(options.width, coupled.get("pair_features", 0))
    pipe = quiet(IsingDiffusionPipeline(net, IsingScheduler(options.trained_steps, **coupled)))
    shared: dict[str, Any] = {
        "batch": options.batch,
        "seed": options.seed,
        "numbers": halves(options.trained_steps),
    }

    def weights() -> dict[str, Tensor]:
        train(pipe, x, updates=options.updates, name=kind, **shared)
        return net.state_dict()

    def mended() -> dict[str, Tensor]:
        loss = given(known_pixels().flatten(), CHAIN)
        updates = math.ceil(options.updates / MENDED)
        train(pipe, x, updates=updates, name=kind, loss=loss, lr=1e-3, **shared)
        return net.state_dict()

    net.load_state_dict(kept.part("coupled" if coupled else kind, weights))
    if kind == "joint":
        net.load_state_dict(kept.part(kind, mended))
    net.eval().requires_grad_(False)
    return pipe


def halves(steps: int) -> list[int]:
    """A number of steps, its half, and so on down to 1."""
    return [steps >> k for k in range(steps.bit_length())]


def known_pixels() -> Tensor:
    """Which pixels are known: every second row and column, bool `[28, 28]`."""
    known = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    known[::2, ::2] = True
    return known


def interpolated(real: Tensor) -> Tensor:
    """Digits `[N, 784]` whose hidden pixels are the means of the nearest known ones, rounded."""
    coarse = real.reshape(-1, 1, SIDE, SIDE)[..., ::2, ::2]
    wider = nn.functional.pad(coarse, (0, 1, 0, 1), mode="replicate")
    fine = nn.functional.interpolate(
        wider, size=(SIDE + 1, SIDE + 1), mode="bilinear", align_corners=True
    )
    return torch.where(fine[..., :-1, :-1] > 0, 1.0, -1.0).flatten(1)


def fill(pipe: IsingDiffusionPipeline, real: Tensor, steps: int, options: Options) -> Tensor:
    """Digits `[N, 784]` of which the pipeline drew what is not known.

    Args:
        pipe: pipeline.
        real: test digits, spins `[N, 784]`.
        steps: reverse steps.
        options: options of the run.
    """
    mask = (~known_pixels()).float().reshape(1, 1, SIDE, SIDE)
    (x,) = pipe(
        generator=torch.Generator().manual_seed(options.seed),
        num_inference_steps=steps,
        class_labels=told(steps, len(real)),
        output_type="latent",
        return_dict=False,
        image=(real.reshape(-1, 1, SIDE, SIDE) + 1) / 2,
        mask_image=mask,
    )
    return x.flatten(1)


# ---- figures ----------------------------------------------------------------------------------


def judged(x: Tensor, real: Tensor, labels: Tensor, features: ImageFeatures) -> Row:
    """Of digits `[N, 784]`, each in the place of the test digit that it was.

    Args:
        x: digits.
        real: test digits.
        labels: their classes.
        features: classifier of training digits.
    """
    hidden = ~known_pixels().flatten()
    image = x.reshape(-1, SIDE, SIDE)
    across = (image.diff(dim=2) != 0).double().mean()
    down = (image.diff(dim=1) != 0).double().mean()
    return {
        "wrong_bits": float((x != real)[:, hidden].double().mean()),
        "ink": float((x[:, hidden] > 0).double().mean()),
        "ragged": float(across + down) / 2,
        "right": float((features.logits(x).argmax(1) == labels).double().mean()),
        "frechet": frechet_distance(features(real), features(x)),
    }


def table(rows: list[Row]) -> dict[str, Any]:
    """Rows by kind and number of steps."""
    keys = ("wrong_bits", "ink", "ragged", "right", "frechet")
    nested: dict[str, Any] = {kind: {} for kind in KINDS}
    for row in rows:
        nested[row["kind"]][str(row["steps"])] = {key: row[key] for key in keys}
    return nested


def show(result: Row) -> None:
    """Print the figures."""
    rows = {"test digits": result["test_digits"], "interpolated": result["interpolated"]}
    for kind, cells in result["table"].items():
        rows |= {f"{kind}, {steps}": cell for steps, cell in cells.items()}
    for name, row in rows.items():
        print(f"{name:16} " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))


def picture(
    real: Tensor, filled: dict[tuple[str, int], Tensor], result: Row, options: Options
) -> Figure:
    """What is known, what it became, and the figures against the steps.

    Args:
        real: test digits.
        filled: digits by kind and number of steps.
        result: result of the script.
        options: options of the run.
    """
    columns = len(options.steps) + 1
    figure = plt.figure(figsize=(2.9 * columns, 12.4), layout="constrained")
    panels: Any = figure.subfigures(2, 1, height_ratios=(3.1, 1))
    grids = panels[0].subplots(len(KINDS), columns, squeeze=False)
    coarse = torch.where(known_pixels().flatten(), real, 0.0)
    firsts = (
        (coarse, "known"),
        (interpolated(real), "interpolated"),
        (real, "test digits"),
    )
    for line, kind, first in zip(grids, KINDS, firsts, strict=True):
        shown = [(*first, "black")]
        for steps in options.steps:
            title = f"{kind}, {steps} step" + "s" * (steps > 1)
            shown.append((filled[kind, steps], title, KINDS[kind]))
        for axis, (images, title, colour) in zip(line, shown, strict=True):
            ink = torch.where(images == 0, GREY, (1 - images) / 2)
            frame = mosaic(ink[:16], (SIDE, SIDE), 4, 0.8).numpy()
            axis.imshow(frame, cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, fontsize=10, color=colour)
            axis.set(xticks=[], yticks=[])
    names = {
        "wrong_bits": "hidden bits that are wrong",
        "ragged": "neighbours that differ",
        "right": "digits of the right class",
        "frechet": "Frechet distance of features",
    }
    axes = panels[1].subplots(1, len(names))
    for axis, (key, title) in zip(axes, names.items(), strict=True):
        for kind, cells in result["table"].items():
            heights = [cell[key] for cell in cells.values()]
            axis.plot(options.steps, heights, color=KINDS[kind], marker="o", label=kind)
        for name, style in (("test digits", "--"), ("interpolated", ":")):
            if key in ("ragged", "right") or name == "interpolated":
                height = result[name.replace(" ", "_")][key]
                axis.axhline(height, color="grey", linestyle=style, label=name)
        axis.set(xscale="log", xlabel="reverse steps")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(options.steps, map(str, options.steps))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    handles, labels = axes[1].get_legend_handles_labels()
    panels[1].legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


if __name__ == "__main__":
    command_line(main, Options)
