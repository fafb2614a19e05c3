"""Joint steps in a space of binary latents: 28 x 28 digits as 64 sign bits each.

    python experiments/claims/binary_latents.py --out runs/binary_latents

An autoencoder of mnist5k has one bit at every place of an 8 x 8 grid, the sign of its encoder's
output, with a straight-through gradient; a share of the bits is flipped in training, so that the
decoder bears a wrong one. A UNet then learns to denoise codes, and both kinds of step use it,
frozen, from the same x_T: independent bits, and joint ones with centred couplings of all pairs,
trained on the evidence bound and kept where validation rows surely gain. Codes are decoded, and the
images judged by the Frechet distance of features to the other half of the data; the codes by the
error of pair correlations and by the evidence bound of test codes. The floors are codes of images
that the models have learned from: what a perfect model of them would reach.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import qsample as qs
from qsample.annealers import Gibbs
from qsample.data import load
from qsample.diffusion import UniformBits, log_times
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error
from qsample.models import IsingCopula

sys.path.append(str(Path(__file__).parents[2]))
from experiments.cells import Cells, digest
from experiments.common import CommonOptions, Report, Stopwatch, command_line, mosaic, progress_bar
from experiments.denoiser import Denoiser, Remembered, train_denoiser
from experiments.joint_steps import (
    AtSteps,
    annealing,
    bounds,
    choose_scales,
    train_step,
    without_couplings,
)

SIDE = 8
BITS = SIDE**2
IMAGE = (28, 28)
MARGIN = 2  # pixels around an image, so that its side is four times the code's
KINDS = {"independent": "tab:red", "joint": "tab:blue"}
METRICS = {
    "frechet": "Frechet distance of decoded images",
    "pair_correlation_error": "error of pair correlations of codes",
    "minus_bound": "minus the evidence bound of codes, nats",
}
SHOWN = 36
FREE = ("out", "publish", "threads", "seeds", "steps")  # options that change no cell
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """Both kinds of step share everything here."""

    steps: tuple[int, ...] = (1, 2, 4, 8)
    """reverse steps"""
    code_updates: int = 1500
    """gradient steps of the autoencoder"""
    code_width: int = 16
    """channels of the autoencoder at half size"""
    flips: float = 0.02
    """share of a code's bits that are flipped before it is decoded, in training"""
    updates: int = 1500
    """gradient steps of the denoiser"""
    width: int = 24
    """channels of the denoiser at full size"""
    batch: int = 100
    """rows of a gradient step"""
    lr: float = 0.002
    """the highest learning rate of both networks"""
    coupling_updates: int = 150
    """gradient steps of the couplings of a reverse step"""
    coupling_lr: float = 0.01
    """the most that a coupling changes in a gradient step, falling to zero"""
    pool: int = 2000
    """draws of x_k from which the couplings of a reverse step learn"""
    chain: int = 5
    """sweeps of a gradient step's chains"""
    sweeps: int = 200
    """sweeps of a joint step when codes are drawn, half annealing, half at the target"""
    images: int = 2000
    """images drawn for a distance"""
    validation: int = 200
    """codes that decide whether a step keeps its couplings"""
    rows: int = 200
    """test codes of the evidence bound"""
    anneal: int = 30
    """temperatures at which log Z is measured"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of the denoiser and of all draws; one autoencoder serves them all"""


def main(options: Options) -> None:
    """Train the autoencoder, then both kinds of step on its codes; decode and compare."""
    report = Report(options, __file__, ("diffusers",))
    judge = Judge(options)
    kept = Cells(report.folder)
    about = {name: value for name, value in asdict(options).items() if name not in FREE}
    about["finest"] = max(options.steps)
    name = digest(about)
    coder = coder_of(judge, kept, name, options)
    codes = Codes(coder, judge, options)
    floor = judge(coder.decode(codes.train[: options.images])) | codes(codes.train)
    floor["decoded_test"] = judge(coder.decode(codes.test))["frechet"]
    floor["two_halves"] = judge(judge.half.x[: options.images])["frechet"]
    rows: list[Row] = []
    images: dict[tuple[str, int], Tensor] = {}
    cells = list(product(options.seeds, options.steps))
    for seed, steps in progress_bar(cells, desc="cells"):
        cell = kept.get(f"{name}-{seed}-{steps}")
        if cell is None:
            net = denoiser_of(seed, codes, kept, name, options)
            made = cell_of(net, steps, seed, coder, codes, judge, options)
            cell = kept.put(f"{name}-{seed}-{steps}", made)
        rows += cell["rows"]
        if seed == options.seeds[0]:
            images |= {(kind, steps): drawn for kind, drawn in cell["images"].items()}
        report.write({"floor": floor, "rows": rows})
    result = {"floor": floor, "means": means(rows, options), "rows": rows}
    show(result, options)
    shown = judge.other.x[:SHOWN]
    pages = {"test images": shown, "their codes, decoded": coder.decode(coder.encode(shown))}
    report.finish(result, picture(pages, images, result, options))


# ---- images and codes -------------------------------------------------------------------------


class Judge:
    """Half of the images to learn from, and the distance of others to the other half."""

    def __init__(self, options: Options) -> None:
        data = load("mnist5k", coding="spins")
        self.half, _, self.other = data.split(test=len(data) // 2)
        assert self.half.labels is not None
        self.features = ImageFeatures(self.half.x, self.half.labels, IMAGE)
        self.judged = self.features(self.other.x)
        self.train = self.half.x[options.validation :]
        self.validation = self.half.x[: options.validation]

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Distance of images `[N, 784]`."""
        return {"frechet": frechet_distance(self.judged, self.features(images))}


class Coder(nn.Module):
    """An autoencoder whose code is a bit at every place of a grid.

    Args:
        width: channels at half of the images' size; twice as many at a quarter.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        double = 2 * width
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, double, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(double, double, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(double, 1, 1),
            nn.BatchNorm2d(1, affine=False),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(1, 2 * double, 5, padding=2),
            nn.SiLU(),
            nn.Conv2d(2 * double, double, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(double, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
        )

    def code(self, x: Tensor) -> Tensor:
        """Signs `[B, 64]` of images `[B, 784]`, with the gradient of a hyperbolic tangent."""
        margins = (MARGIN, MARGIN, MARGIN, MARGIN)
        framed = nn.functional.pad(x.reshape(-1, 1, *IMAGE), margins, value=-1.0)
        soft = self.encoder(framed).flatten(1).tanh()
        hard = torch.where(soft > 0, 1.0, -1.0)
        return soft + (hard - soft).detach()

    def logits(self, code: Tensor) -> Tensor:
        """Logits `[B, 784]` of the pixels of codes `[B, 64]`."""
        framed = self.decoder(code.float().reshape(-1, 1, SIDE, SIDE))
        return framed[..., MARGIN:-MARGIN, MARGIN:-MARGIN].flatten(1)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes, spins `[B, 64]`, of images `[B, 784]`."""
        return torch.cat([self.code(rows).sign() for rows in x.split(500)])

    @torch.no_grad()
    def decode(self, code: Tensor) -> Tensor:
        """The likeliest pixels, spins `[B, 784]`, of codes `[B, 64]`."""
        rows = [torch.where(self.logits(rows) > 0, 1.0, -1.0) for rows in code.split(500)]
        return torch.cat(rows)


def coder_of(judge: Judge, kept: Cells, name: str, options: Options) -> Coder:
    """The autoencoder, trained unless it was: cross entropy of the pixels.

    Args:
        judge: holds the images to train on.
        kept: holds the weights.
        name: name of the options.
        options: options of the run.
    """
    torch.manual_seed(0)
    coder = Coder(options.code_width)
    weights = kept.get(f"{name}-coder")
    if weights is None:
        optimizer = torch.optim.Adam(coder.parameters(), lr=options.lr)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.code_updates)
        for _ in progress_bar(range(options.code_updates), desc="autoencoder", leave=False):
            x = judge.train[torch.randint(len(judge.train), (options.batch,))]
            code = coder.code(x)
            flipped = torch.where(torch.rand(code.shape) < options.flips, -code, code)
            loss = nn.functional.binary_cross_entropy_with_logits(
                coder.logits(flipped), (x + 1) / 2, reduction="sum"
            )
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()
            decay.step()
        weights = kept.put(f"{name}-coder", coder.state_dict())
    coder.load_state_dict(weights)
    return coder.eval().requires_grad_(False)


class Codes:
    """Codes of all images, and the error of others in pair correlations."""

    def __init__(self, coder: Coder, judge: Judge, options: Options) -> None:
        """Encode.

        Args:
            coder: the autoencoder.
            judge: holds the images.
            options: options of the run.
        """
        self.train = coder.encode(judge.train)
        self.validation = coder.encode(judge.validation)
        self.test = coder.encode(judge.other.x)
        self.rows = self.test[: options.rows]

    def __call__(self, codes: Tensor) -> dict[str, float]:
        """Distance of codes to those of test images."""
        return {"pair_correlation_error": pair_correlation_error(self.test, codes.float())}


# ---- steps ------------------------------------------------------------------------------------


def denoiser_of(seed: int, codes: Codes, kept: Cells, name: str, options: Options) -> Denoiser:
    """The denoiser of a seed, trained unless it was.

    Args:
        seed: seed of weights and noise.
        codes: codes to train on.
        kept: holds the weights.
        name: name of the options.
        options: options of the run.
    """
    weights = kept.get(f"{name}-denoiser-{seed}")
    if weights is None:
        trained = train_denoiser(
            codes.train,
            (SIDE, SIDE),
            width=options.width,
            finest=max(options.steps),
            updates=options.updates,
            batch=options.batch,
            lr=options.lr,
            seed=seed,
        )
        weights = kept.put(f"{name}-denoiser-{seed}", trained.state_dict())
    net = Denoiser((SIDE, SIDE), options.width)
    net.load_state_dict(weights)
    return net.eval()


def cell_of(
    net: Denoiser,
    steps: int,
    seed: int,
    coder: Coder,
    codes: Codes,
    judge: Judge,
    options: Options,
) -> dict[str, Any]:
    """Rows of both kinds of step, and images of each.

    Args:
        net: trained denoiser.
        steps: number of reverse steps.
        seed: seed of everything random.
        coder: the autoencoder.
        codes: codes to train on and to judge by.
        judge: judges images.
        options: options of the run.
    """
    process = UniformBits(log_times(steps))
    remembered = AtSteps(Remembered(net), steps)
    model = IsingCopula(remembered, qs.Graph.complete(BITS), process, centred=True)
    watch = Stopwatch()
    train_couplings(model, seed, codes, options)
    seen = choose_scales(model, codes.validation, options.anneal)
    seconds = watch.read().cpu
    rows: list[Row] = []
    images = {}
    for kind, each in {"independent": without_couplings(model), "joint": model}.items():
        low, high = bounds(each, codes.rows, options.anneal)
        generator = torch.Generator().manual_seed(seed)
        drawn = each.sample(annealing(options.sweeps), options.images, generator=generator)
        decoded = coder.decode(drawn)
        row = {
            "kind": kind,
            "steps": steps,
            "seed": seed,
            "minus_bound": -float(low.sum(-1).mean()),
            "minus_bound_low": -float(high.sum(-1).mean()),
        }
        rows.append(row | judge(decoded) | codes(drawn))
        images[kind] = decoded[:SHOWN]
    rows[-1] |= {"switches": seen, "train_seconds": seconds}
    return {"rows": rows, "images": images}


def train_couplings(model: IsingCopula, seed: int, codes: Codes, options: Options) -> None:
    """The couplings of every step, from a pool of draws of x_k: the denoiser sees each once.

    Args:
        model: a centred copula of a trained denoiser, which stays as it is.
        seed: seed of noise and chains.
        codes: codes to train on.
        options: options of the run.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    for k in range(1, model.process.steps + 1):
        picked = torch.randint(len(codes.train), (options.pool,), generator=generator)
        x_0 = codes.train[picked]
        noisy = model.process.noise(x_0, k, generator=generator)

        def batch(x_0: Tensor = x_0, noisy: Tensor = noisy) -> tuple[Tensor, Tensor]:
            some = torch.randint(options.pool, (options.batch,), generator=generator)
            return x_0[some], noisy[some]

        train_step(
            model,
            k,
            noisy,
            batch,
            Gibbs(options.chain),
            updates=options.coupling_updates,
            longest=options.coupling_lr,
            generator=generator,
        )


# ---- figures ----------------------------------------------------------------------------------


def of(rows: list[Row], kind: str, steps: int, metric: str) -> list[float]:
    """A figure of each seed.

    Args:
        rows: all rows.
        kind: key of KINDS.
        steps: number of reverse steps.
        metric: key of METRICS.
    """
    return [row[metric] for row in rows if (row["kind"], row["steps"]) == (kind, steps)]


def means(rows: list[Row], options: Options) -> dict[str, Any]:
    """Mean over the seeds of all metrics, by kind and number of steps."""
    return {
        kind: {
            str(steps): {
                metric: statistics.fmean(of(rows, kind, steps, metric)) for metric in METRICS
            }
            for steps in options.steps
        }
        for kind in KINDS
    }


def show(result: Row, options: Options) -> None:
    """Print the figures."""
    print("floor: " + ", ".join(f"{name} {value:.4g}" for name, value in result["floor"].items()))
    for steps, kind in product(options.steps, KINDS):
        texts = []
        for metric in METRICS:
            values = of(result["rows"], kind, steps, metric)
            mean = statistics.fmean(values)
            texts.append(f"{metric} {mean:.4g} ({min(values):.4g} to {max(values):.4g})")
        print(f"{kind}, steps {steps}: {'; '.join(texts)}")
    off = [
        f"{row['steps']}: {sum(not switch['on'] for switch in row['switches'])}"
        for row in result["rows"]
        if "switches" in row
    ]
    print(f"steps whose couplings are off, by number of steps: {', '.join(off)}")


# ---- the picture ------------------------------------------------------------------------------


def picture(
    pages: dict[str, Tensor], images: dict[tuple[str, int], Tensor], result: Row, options: Options
) -> Figure:
    """All figures against the steps, test images, and images of both kinds of step.

    Args:
        pages: images `[N, 784]` by title.
        images: images by kind and number of steps.
        result: result of the script.
        options: options of the run.
    """
    across = len(options.steps) + 1
    figure = plt.figure(figsize=(2.7 * across, 9.5), layout="constrained")
    panels: Any = figure.subfigures(2, 1, height_ratios=(1, 1.45))
    axes = panels[0].subplots(1, 3)
    for axis, metric in zip(axes, METRICS, strict=True):
        by_steps(axis, metric, result, options)
    grids = panels[1].subplots(2, across, squeeze=False)
    for k, (kind, line) in enumerate(zip(KINDS, grids, strict=True)):
        titled = {f"{kind}, steps {steps}": images[kind, steps] for steps in options.steps}
        title = list(pages)[k]
        for axis, (name, drawn) in zip(line, ({title: pages[title]} | titled).items(), strict=True):
            ink = (1 - drawn[:SHOWN]) / 2
            axis.imshow(mosaic(ink, IMAGE, fill=0.6).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_title(name, fontsize=9, color=KINDS[kind] if name in titled else "black")
            axis.set(xticks=[], yticks=[])
    return figure


def by_steps(axis: Any, metric: str, result: Row, options: Options) -> None:
    """A metric against the number of steps, mean and range of the seeds.

    Args:
        axis: where to draw.
        metric: key of METRICS.
        result: result of the script.
        options: options of the run.
    """
    for kind, colour in KINDS.items():
        values = [of(result["rows"], kind, steps, metric) for steps in options.steps]
        heights = [statistics.fmean(v) for v in values]
        axis.plot(options.steps, heights, color=colour, marker="o", label=kind)
        axis.vlines(options.steps, [min(v) for v in values], [max(v) for v in values], colour)
    axis.set(xscale="log", xlabel="reverse steps", ylabel=METRICS[metric])
    floor = result["floor"].get(metric)
    if floor is not None:
        axis.axhline(floor, color="grey", linestyle="--", label="floor: codes of training images")
        axis.set(ylim=(0, None))
    axis.set_xticks(options.steps, [str(steps) for steps in options.steps])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


if __name__ == "__main__":
    command_line(main, Options)
