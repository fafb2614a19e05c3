"""Joint steps of tokens: 28 x 28 digits as 49 letters of a small alphabet, lost to masks.

    python experiments/claims/tokens.py --out runs/tokens

Patches of 4 x 4 pixels of mnist5k are letters by k-means: a digit is a word of 7 x 7 letters. A
small convolutional denoiser learns to fill in masked letters, for all numbers of steps. Both kinds
of step use it, frozen: independent letters, and a `PottsCopula` with a table of K x K costs for
each pair of near sites, trained by pseudo-likelihood, then by contrastive divergence, scaled at
every step to what validation rows like best, and switched off where they do not surely gain. The
gain in log-likelihood of a step is measured by annealed importance sampling. Words are spelled out
as images and judged by the Frechet distance of features to the other half of the data, and as
letters by the error of covariances of all pairs of letters. The floors are words of images that the
models have learned from: what a perfect model of them would reach.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import one_hot

import qsample as qs
from qsample.data import load
from qsample.diffusion import Absorbing, Potts, PottsGibbs, log_times
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error
from qsample.models import PottsCopula
from qsample.problem.lattices import grid_edges

sys.path.append(str(Path(__file__).parents[2]))
from experiments.cells import Cells, digest
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar
from experiments.joint_steps import SCALES, SURE, AtSteps
from experiments.two_kinds import SHOWN, Row, TwoKinds

IMAGE = (28, 28)
PATCH = 4
GRID = (7, 7)
NEAR = [(0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0)]  # of coupled letters: down, right
METRICS = {
    "frechet": "Frechet distance of spelled images",
    "pair_correlation_error": "error of covariances of pairs of letters",
}
FREE = ("out", "publish", "threads", "seeds", "steps")  # options that change no cell


@dataclass(frozen=True)
class Options(CommonOptions):
    """Both kinds of step share everything here."""

    letters: int = 16
    """letters of the alphabet, K"""
    steps: tuple[int, ...] = (1, 2, 4, 8)
    """reverse steps"""
    finest: int = 8
    """steps at whose times the denoiser learns"""
    updates: int = 700
    """gradient steps of the denoiser"""
    width: int = 32
    """channels of the denoiser"""
    batch: int = 100
    """rows of a gradient step"""
    lr: float = 0.002
    """the highest learning rate of the denoiser"""
    coupling_updates: int = 60
    """gradient steps of the couplings of a reverse step"""
    contrastive: float = 0.4
    """share of them, the last ones, by contrastive divergence"""
    coupling_lr: float = 0.03
    """Adam's learning rate of the couplings, falling to zero"""
    chain: int = 2
    """sweeps of a gradient step's chains"""
    sweeps: int = 20
    """sweeps of a joint step when words are drawn"""
    images: int = 1000
    """words drawn for a distance"""
    validation: int = 200
    """words that decide whether a step keeps its couplings"""
    anneal: int = 20
    """temperatures at which a step's gain is measured"""
    seeds: tuple[int, ...] = (0, 1)
    """seeds of the denoiser and of all draws; one alphabet serves them all"""


def main(options: Options) -> None:
    """Make an alphabet, train both kinds of step on its words, spell and compare."""
    report = Report(options, __file__, ("scikit-learn",))
    judge = Judge(options)
    kept = Cells(report.folder)
    about = {name: value for name, value in asdict(options).items() if name not in FREE}
    name = digest(about)
    few = judge.train[: options.images]
    floor = judge(few)
    floor["spelled_test"] = judge(judge.test)["frechet"]
    floor["two_halves"] = judge.distance(judge.half.x[: options.images])
    rows: list[Row] = []
    words: dict[tuple[str, int], Tensor] = {}
    cells = list(product(options.seeds, options.steps))
    for seed, steps in progress_bar(cells, desc="cells"):
        cell = kept.get(f"{name}-{seed}-{steps}")
        if cell is None:
            net = denoiser_of(seed, judge, kept, name, options)
            cell = kept.put(f"{name}-{seed}-{steps}", cell_of(net, steps, seed, judge, options))
        rows += cell["rows"]
        if seed == options.seeds[0]:
            words |= {(kind, steps): drawn for kind, drawn in cell["words"].items()}
        report.write({"floor": floor, "rows": rows})
    figures = TwoKinds(rows, options.steps, METRICS, floor)
    figures.show()
    spell = judge.alphabet.spell
    pages = {"test images": judge.other.x, "in letters": spell(judge.test[:SHOWN])}
    images = {cell: spell(drawn) for cell, drawn in words.items()}
    result = {"floor": floor, "means": figures.means(), "rows": rows}
    report.finish(result, figures.picture(pages, images, IMAGE))


# ---- words ------------------------------------------------------------------------------------


class Alphabet:
    """Letters of patches: the nearest of K centres."""

    def __init__(self, images: Tensor, letters: int) -> None:
        """Find the centres by k-means.

        Args:
            images: images to learn from, spins `[N, 784]`.
            letters: K.
        """
        patches = self.patches(images).flatten(0, 1)
        some = patches[:: max(1, len(patches) // 20_000)]
        found = KMeans(letters, n_init="auto", random_state=0).fit(some.numpy())
        self.centres = torch.from_numpy(found.cluster_centers_).to(images)

    @staticmethod
    def patches(images: Tensor) -> Tensor:
        """Patches `[N, 49, 16]` of images `[N, 784]`."""
        framed = images.reshape(-1, 1, *IMAGE)
        return nn.functional.unfold(framed, PATCH, stride=PATCH).mT

    def read(self, images: Tensor) -> Tensor:
        """Words `[N, 49]`, int64, of images `[N, 784]`."""
        parts = [torch.cdist(self.patches(rows), self.centres) for rows in images.split(500)]
        return torch.cat([distance.argmin(-1) for distance in parts])

    def spell(self, words: Tensor) -> Tensor:
        """Images, spins `[N, 784]`, of words `[N, 49]`."""
        pixels = torch.where(self.centres > 0, 1.0, -1.0)[words]
        return nn.functional.fold(pixels.mT, IMAGE, PATCH, stride=PATCH).flatten(1)


class Judge:
    """Half of the words to learn from, and the distance of others to the other half."""

    def __init__(self, options: Options) -> None:
        data = load("mnist5k", coding="spins")
        self.half, _, self.other = data.split(test=len(data) // 2)
        assert self.half.labels is not None
        self.features = ImageFeatures(self.half.x, self.half.labels, IMAGE)
        self.judged = self.features(self.other.x)
        self.alphabet = Alphabet(self.half.x, options.letters)
        words = self.alphabet.read(self.half.x)
        self.train = words[options.validation :]
        self.validation = words[: options.validation]
        self.test = self.alphabet.read(self.other.x)
        self.letters = options.letters

    def __call__(self, words: Tensor) -> dict[str, float]:
        """Distance of words `[N, 49]`."""
        error = pair_correlation_error(self.bits(self.test), self.bits(words))
        return {
            "frechet": self.distance(self.alphabet.spell(words)),
            "pair_correlation_error": error,
        }

    def distance(self, images: Tensor) -> float:
        """Frechet distance of images `[N, 784]`."""
        return frechet_distance(self.judged, self.features(images))

    def bits(self, words: Tensor) -> Tensor:
        """Words in a one-hot code, spins `[N, 49 K]`."""
        return 2.0 * one_hot(words, self.letters).flatten(1) - 1


# ---- the denoiser -----------------------------------------------------------------------------


class Denoiser(nn.Module):
    """Words with masks at k/T to logits of the letters: residual convolutions on the 7 x 7 grid.

    Args:
        letters: K; the mask is the number K.
        width: channels.
    """

    def __init__(self, letters: int, width: int) -> None:
        super().__init__()
        self.states = letters + 1
        self.first = nn.Conv2d(self.states + 1, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(width, *GRID))
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )
            for _ in range(2)
        )
        self.last = nn.Conv2d(width, letters, 1)

    def forward(self, x: Tensor, fraction: Tensor) -> Tensor:
        """Logits `[B, 49, K]` of x_k `[B, 49]` at k/T = `fraction` `[B]`."""
        code = one_hot(x, self.states).float().mT.unflatten(2, GRID)
        time = fraction.float().reshape(-1, 1, 1, 1).expand(-1, 1, *GRID)
        y = self.first(torch.cat([code, time], 1)) + self.place
        for layer in self.layers:
            y = y + layer(y)
        return self.last(y).flatten(2).mT


def denoiser_of(seed: int, judge: Judge, kept: Cells, name: str, options: Options) -> Denoiser:
    """The denoiser of a seed, trained unless it was: cross entropy of masked letters.

    Args:
        seed: seed of weights and noise.
        judge: holds the words to train on.
        kept: holds the weights.
        name: name of the options.
        options: options of the run.
    """
    torch.manual_seed(seed)
    net = Denoiser(options.letters, options.width)
    weights = kept.get(f"{name}-denoiser-{seed}")
    if weights is None:
        generator = torch.Generator().manual_seed(seed)
        process = Absorbing(log_times(options.finest), states=options.letters)
        optimizer = torch.optim.AdamW(net.parameters(), lr=options.lr)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.updates)
        for _ in progress_bar(range(options.updates), desc=f"denoiser {seed}", leave=False):
            x_0 = some_of(judge.train, options.batch, generator)
            k = torch.randint(1, options.finest + 1, (options.batch,), generator=generator)
            after = process.noise(x_0, k, generator=generator)
            lost = after == options.letters
            logits = net(after, k / options.finest)
            loss = nn.functional.cross_entropy(logits[lost], x_0[lost])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        weights = kept.put(f"{name}-denoiser-{seed}", net.state_dict())
    net.load_state_dict(weights)
    return net.eval().requires_grad_(False)


def some_of(words: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Rows of a gradient step."""
    return words[torch.randint(len(words), (num,), generator=generator)]


# ---- steps ------------------------------------------------------------------------------------


def cell_of(net: Denoiser, steps: int, seed: int, judge: Judge, options: Options) -> dict[str, Any]:
    """Rows of both kinds of step, and words of each.

    Args:
        net: trained denoiser.
        steps: number of reverse steps.
        seed: seed of everything random.
        judge: words to train on, and metrics.
        options: options of the run.
    """
    process = Absorbing(log_times(steps), states=options.letters)
    graph = qs.Graph.sparse(GRID[0] * GRID[1], grid_edges(GRID, NEAR))
    model = PottsCopula(AtSteps(net, steps), graph, process)
    plain = PottsCopula(AtSteps(net, steps), graph, process)
    watch = Stopwatch()
    generator = torch.Generator().manual_seed(seed + 1)
    for k in range(1, steps + 1):
        train_couplings(model, k, judge.train, generator, options)
    seen = [choose_scale(model, k, judge.validation, options) for k in range(1, steps + 1)]
    seconds = watch.read().cpu
    rows: list[Row] = []
    words = {}
    for kind, each in {"independent": plain, "joint": model}.items():
        # letters without couplings are right after a sweep
        sampler = PottsGibbs(options.sweeps if each.J.any() else 1)
        draws = torch.Generator().manual_seed(seed)
        drawn = each.sample(sampler, options.images, generator=draws)
        rows.append({"kind": kind, "steps": steps, "seed": seed} | judge(drawn))
        words[kind] = drawn[:SHOWN]
    rows[-1] |= {"switches": seen, "train_seconds": seconds}
    return {"rows": rows, "words": words}


def train_couplings(
    model: PottsCopula, k: int, words: Tensor, generator: torch.Generator, options: Options
) -> None:
    """The couplings of a step: pseudo-likelihood, then contrastive divergence.

    Args:
        model: a copula of a trained denoiser, which stays as it is.
        k: the step.
        words: words to train on.
        generator: randomness.
        options: options of the run.
    """
    optimizer = torch.optim.Adam([model.J], lr=options.coupling_lr)
    decay = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda update: 1 - update / options.coupling_updates
    )
    for update in range(options.coupling_updates):
        x_0 = some_of(words, options.batch, generator)
        x = model.process.noise(x_0, k - 1, generator=generator)
        after = model.process.noise(x, k, k - 1, generator)
        if update < (1 - options.contrastive) * options.coupling_updates:
            loss = -model.pseudo_likelihood(x, after, k).mean()
        else:
            loss = model.cd_loss(x, after, k, PottsGibbs(options.chain), generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()


# ---- which couplings are kept -----------------------------------------------------------------


@torch.no_grad()
def choose_scale(model: PottsCopula, k: int, words: Tensor, options: Options) -> Row:
    """Couplings of a step times the scale that validation words like best, or 0; what was seen.

    Args:
        model: a copula.
        k: the step.
        words: validation words.
        options: options of the run.
    """
    generator = torch.Generator().manual_seed(k)
    x = model.process.noise(words, k - 1, generator=generator)
    after = model.process.noise(x, k, k - 1, generator)
    problem = model.step_problem(after, k, x == model.process.states)
    gains = []
    for scale in SCALES:
        scaled = Potts(problem.graph, problem.h, scale * problem.J)
        gains.append(gain_of(scaled, x, options.anneal, generator))
    every = torch.stack(gains)
    means = every.mean(1)
    best = int(means.argmax())
    error = float(every[best].std() / len(words) ** 0.5)
    gain = float(means[best])
    on = gain > SURE * error
    scale = SCALES[best] if on else 0.0
    model.J[k - 1] *= scale
    return {
        "step": k,
        "gain": gain,
        "error": error,
        "on": on,
        "scale": scale,
        "gains": means.tolist(),
    }


def gain_of(problem: Potts, x: Tensor, anneal: int, generator: torch.Generator) -> Tensor:
    r"""What couplings add to log P(x), `[N]`: $-E_J(x) - \log(Z_J / Z_0)$.

    The ratio of Z by annealed importance sampling from the independent law, one chain per row: its
    logarithm is too small in the mean and the gain too large, the less so the more temperatures.

    Args:
        problem: the step's problems `[N]`.
        x: states `[N, n]`.
        anneal: temperatures.
        generator: randomness.
    """
    graph = problem.graph
    couplings = Potts(graph, torch.zeros_like(problem.h), problem.J)
    alone = Potts(graph, problem.h, 0 * problem.J)
    y = PottsGibbs(1).sample(alone, generator=generator)
    log_ratio = torch.zeros(len(x)).to(problem.h)
    for step in range(1, anneal + 1):
        log_ratio -= couplings.energy(y)[:, 0] / anneal
        law = Potts(graph, problem.h, step / anneal * problem.J)
        y = PottsGibbs(1).sample(law, initial=y, generator=generator)
    return -couplings.energy(x[:, None])[:, 0] - log_ratio


if __name__ == "__main__":
    command_line(main, Options)
