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

import sys
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qsample as qs
from qsample.data import load
from qsample.diffusion import UniformBits, log_times
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error
from qsample.models import IsingCopula

sys.path.append(str(Path(__file__).parents[2]))
from experiments.cells import Cells, digest
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar
from experiments.denoiser import Denoiser, Remembered, train_denoiser
from experiments.joint_steps import (
    AtSteps,
    Learning,
    annealing,
    bounds,
    choose_scales,
    train_steps,
    without_couplings,
)
from experiments.two_kinds import SHOWN, Row, TwoKinds

SIDE = 8
BITS = SIDE**2
IMAGE = (28, 28)
MARGIN = 2  # pixels around an image, so that its side is four times the code's
METRICS = {
    "frechet": "Frechet distance of decoded images",
    "pair_correlation_error": "error of pair correlations of codes",
    "minus_bound": "minus the evidence bound of codes, nats",
}
# Options that change no cell, and those of the autoencoder.
FREE = ("out", "publish", "threads", "seeds", "steps")
CODER = ("code_updates", "code_width", "flips", "batch", "lr", "validation")


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
    finest: int = 8
    """steps at whose times the denoiser learns"""
    updates: int = 1000
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
    seeds: tuple[int, ...] = (0, 1)
    """seeds of the denoiser and of all draws; one autoencoder serves them all"""


def main(options: Options) -> None:
    """Train the autoencoder, then both kinds of step on its codes; decode and compare."""
    report = Report(options, __file__, ("diffusers",))
    judge = Judge(options)
    kept = Cells(report.folder)
    about = {name: value for name, value in asdict(options).items() if name not in FREE}
    name = digest(about)
    coder = coder_of(judge, kept, options)
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
    figures = TwoKinds(rows, options.steps, METRICS, floor)
    figures.show()
    shown = judge.other.x[:SHOWN]
    pages = {"test images": shown, "their codes, decoded": coder.decode(coder.encode(shown))}
    result = {"floor": floor, "means": figures.means(), "rows": rows}
    report.finish(result, figures.picture(pages, images, IMAGE))


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


def coder_of(judge: Judge, kept: Cells, options: Options) -> Coder:
    """The autoencoder, trained unless it was: cross entropy of the pixels.

    Args:
        judge: holds the images to train on.
        kept: holds the weights.
        options: options of the run.
    """
    name = f"coder-{digest({option: getattr(options, option) for option in CODER})}"
    torch.manual_seed(0)
    coder = Coder(options.code_width)
    weights = kept.get(name)
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
        weights = kept.put(name, coder.state_dict())
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
            finest=options.finest,
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
    learning = Learning(
        options.pool,
        options.batch,
        options.chain,
        options.coupling_updates,
        options.coupling_lr,
    )
    train_steps(model, codes.train, learning, seed)
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


if __name__ == "__main__":
    command_line(main, Options)
