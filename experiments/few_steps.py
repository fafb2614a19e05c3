"""Few steps: a denoiser that draws each bit independently beside one whose steps are Ising problems, at 1 to 16 steps.

    python experiments/few_steps.py --out runs/few_steps
    python experiments/few_steps.py --data mnist5k --seeds 0 --width 512 --out runs/few_steps_mnist

For each number of steps two models are trained, with the same network, data and updates: the factorised denoiser by
cross entropy, the Ising copula by pseudo-likelihood and then by contrastive divergence. Half of the images train, the
other half judge; a floor is the distance between these halves, what a perfect model of the first would reach.
Writes results.json and few_steps.png.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro
from torch import Tensor, nn

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.data import Dataset, load
from qsample.diffusion import UniformBits, log_times
from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error
from qsample.models import IsingCopula
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KINDS = {"factorised": "tab:red", "copula": "tab:blue"}


@dataclass(frozen=True)
class Options:
    """Both models share everything here."""

    out: Path = Path("runs/few_steps")
    """folder for results.json and few_steps.png"""
    data: str = "digits"
    """images: digits (8 x 8) or mnist5k (28 x 28)"""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    """reverse steps; a model is trained for each number"""
    updates: int = 1200
    """gradient steps of a model"""
    batch: int = 100
    """images a gradient step"""
    lr: float = 0.002
    """Adam's learning rate, falling to zero"""
    width: int = 256
    """units of a layer of the network"""
    rank: int = 0
    """features a bit that make couplings depend on x_k; 0: couplings are the step's own"""
    contrastive: float = 0.3
    """part of the copula's updates, the last ones, that are contrastive divergence"""
    sweeps: tuple[int, ...] = (20, 100, 1000)
    """sweeps of a joint step when images are drawn, half annealing, half at the target; the last one counts"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """of all randomness; a model each"""
    threads: int = 1
    """torch threads"""


class Denoiser(nn.Module):
    """Two residual layers and an embedding of the step: x_k to logits of x_0 and, with a rank, features a bit."""

    def __init__(self, bits: int, steps: int, width: int, rank: int) -> None:
        super().__init__()
        self.bits, self.rank = bits, rank
        self.first, self.step = nn.Linear(bits, width), nn.Embedding(steps + 1, width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)
            )
            for _ in range(2)
        )
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, bits)
        self.features = nn.Linear(width, bits * rank) if rank else None
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, k: Tensor) -> Any:
        """Logits `[B, n]`, or (logits, features `[B, n, r]`)."""
        y = self.first(x) + self.step(k)
        for layer in self.layers:
            y = y + layer(y)
        y = self.norm(y)
        logits = self.last(y)
        return (
            logits
            if self.features is None
            else (logits, self.features(y).unflatten(1, (self.bits, self.rank)))
        )


def graph_of(kind: str, shape: tuple[int, int]) -> qs.Graph:
    """No edges for the factorised step; else all pairs of up to 100 bits, or neighbours near and some far."""
    rows, columns = shape
    if kind == "factorised":
        return qs.Graph.sparse(rows * columns, [])
    if rows * columns <= 100:
        return qs.Graph.complete(rows * columns)
    near = [(a, b) for a in range(3) for b in range(-2, 3) if (a, b) > (0, 0)]
    far = [(0, 4), (4, 0), (4, 4), (4, -4), (0, 8), (8, 0)]
    site = torch.arange(rows * columns).reshape(rows, columns)
    edges = []
    for a, b in near + far:
        left, right = max(0, -b), columns - max(0, b)
        edges.append(
            torch.stack([site[: rows - a, left:right], site[a:, left + b : right + b]], -1).reshape(
                -1, 2
            )
        )
    return qs.Graph.sparse(rows * columns, torch.cat(edges))


def annealing(sweeps: int) -> SimulatedAnnealing:
    """To beta 1, and as many sweeps there: a schedule that ends as it arrives leaves its reads too hot."""
    rise = max(1, sweeps // 2)
    return SimulatedAnnealing(
        schedule=[*torch.linspace(0, 1, rise + 1)[1:].tolist(), *[1.0] * rise]
    )


def train(
    kind: str, steps: int, seed: int, data: Dataset, options: Options, bar: Any
) -> IsingCopula:
    """One model; the factorised one is the copula on a graph without edges."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    assert data.image_shape is not None
    rank = options.rank if kind == "copula" else 0
    denoiser = Denoiser(data.x.shape[1], steps, options.width, rank)
    model = IsingCopula(denoiser, graph_of(kind, data.image_shape), UniformBits(log_times(steps)))
    optimizer = torch.optim.Adam(model.parameters(), lr=options.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda u: 1 - u / options.updates)
    turn = round(options.updates * (1 - options.contrastive))
    for update in range(options.updates):
        x_0 = data.x[torch.randint(len(data), (options.batch,), generator=generator)]
        x, after, k = model.pairs(x_0, generator)
        if kind == "factorised":
            logits = model(after, k).logits
            loss = nn.functional.binary_cross_entropy_with_logits(
                logits, (x_0 + 1) / 2, reduction="sum"
            ) / len(x_0)
        elif update < turn:
            loss = -model.pseudo_likelihood(x, after, k).mean()
        else:
            loss = model.cd_loss(x, after, k, Gibbs(sweeps=10), generator=generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.update()
    return model


def main(options: Options) -> None:
    """Train every model, draw from it, compare."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    data = load(options.data, coding="spins")
    if data.image_shape is None or data.labels is None:
        raise SystemExit(f"expected images with labels, digits or mnist5k; got {options.data!r}")
    half, _, other = data.split(test=len(data) // 2)
    assert half.labels is not None
    features = ImageFeatures(half.x, half.labels, data.image_shape)
    judge = other.x, features(other.x)

    def save(results: dict[str, Any]) -> None:
        (options.out / "results.json").write_text(json.dumps(results, indent=1))

    def scores(x: Tensor) -> dict[str, float]:
        error = pair_correlation_error(judge[0], x.float())
        return {
            "pair_correlation_error": error,
            "frechet": frechet_distance(judge[1], features(x.float())),
        }

    floor = scores(half.x[: len(other)])
    rows: list[dict[str, Any]] = []
    results: dict[str, Any] = {
        "options": asdict(options) | {"out": str(options.out)},
        "floor": floor,
        "rows": rows,
    }
    images: dict[tuple[str, int], Tensor] = {}
    bar = progress_bar(
        total=len(KINDS) * len(options.steps) * len(options.seeds) * options.updates, unit="update"
    )
    for seed in options.seeds:
        for steps in options.steps:
            for kind in KINDS:
                wall = time.perf_counter()
                model = train(kind, steps, seed, half, options, bar)
                trained = time.perf_counter() - wall
                for sweeps in (
                    options.sweeps if kind == "copula" else (1,)
                ):  # one sweep draws independent bits exactly
                    sampler = annealing(sweeps) if kind == "copula" else Gibbs(sweeps)
                    wall = time.perf_counter()
                    x = model.sample(
                        sampler, len(other), generator=torch.Generator().manual_seed(seed)
                    )
                    row = {
                        "kind": kind,
                        "steps": steps,
                        "seed": seed,
                        "sweeps": sweeps,
                        **scores(x),
                    }
                    rows.append(
                        {
                            **row,
                            "train_seconds": trained,
                            "draw_seconds": time.perf_counter() - wall,
                        }
                    )
                    if seed == options.seeds[0]:
                        images[kind, steps] = x
                save(results)  # a run that is ended leaves what it has
    bar.close()
    results["matches"] = verdict = matches(rows, options)
    save(results)
    print(f"floor: {floor['pair_correlation_error']:.4f}, Frechet {floor['frechet']:.2f}")
    for steps in options.steps:
        parts = []
        for kind in KINDS:
            error, distance = (
                of(rows, kind, steps, name, options)
                for name in ("pair_correlation_error", "frechet")
            )
            parts.append(
                f"{kind} {error.mean():.4f} ± {spread(error):.4f}, Frechet {distance.mean():.2f}"
            )
        print(
            f"{times(steps)}: {'; '.join(parts)}; the copula matches {verdict[str(steps)]} factorised steps"
        )
    picture(rows, images, floor, data.image_shape, options)
    print(f"{options.out / 'results.json'}\n{options.out / 'few_steps.png'}")


def of(rows: list[dict[str, Any]], kind: str, steps: int, name: str, options: Options) -> Tensor:
    """A figure of each seed, from the copula's most sweeps."""
    sweeps = options.sweeps[-1] if kind == "copula" else 1
    found = [
        row[name]
        for row in rows
        if (row["kind"], row["steps"], row["sweeps"]) == (kind, steps, sweeps)
    ]
    return torch.tensor(found)


def times(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def spread(values: Tensor) -> float:
    """Standard deviation over the seeds."""
    return float(values.std()) if len(values) > 1 else 0.0


def matches(rows: list[dict[str, Any]], options: Options) -> dict[str, int]:
    """For each number of copula steps the most factorised steps whose mean error is no lower; 0: not even its own."""

    def error(kind: str, steps: int) -> float:
        return float(of(rows, kind, steps, "pair_correlation_error", options).mean())

    return {
        str(k): max(
            (T for T in options.steps if error("copula", k) <= error("factorised", T)), default=0
        )
        for k in options.steps
    }


def picture(
    rows: list[dict[str, Any]],
    images: dict[tuple[str, int], Tensor],
    floor: dict[str, float],
    shape: tuple[int, int],
    options: Options,
) -> None:
    """Both figures against the steps, the copula's against its sweeps, and images of both models."""
    count = len(options.steps)
    figure = plt.figure(figsize=(13, 9.5), layout="constrained")
    panels: Any = figure.subfigures(2, 1, height_ratios=(1, 1.35))
    top, bottom = panels
    axes = top.subplots(1, 3)
    names = {
        "pair_correlation_error": "error of pair correlations",
        "frechet": "Frechet distance of features",
    }
    for axis, (name, label) in zip(axes, names.items(), strict=False):
        for kind, colour in KINDS.items():
            values = [of(rows, kind, steps, name, options) for steps in options.steps]
            means = [float(v.mean()) for v in values]
            axis.errorbar(
                options.steps,
                means,
                [spread(v) for v in values],
                color=colour,
                marker="o",
                capsize=3,
            )
            axis.plot([], [], color=colour, label=kind)
        axis.axhline(
            floor[name], color="grey", linestyle="--", label="floor: two halves of the data"
        )
        axis.set(xscale="log", xlabel="reverse steps", ylabel=label, ylim=(0, None))
        axis.set_xticks(options.steps, map(str, options.steps))
        axis.legend()
    for steps, shade in zip(options.steps, torch.linspace(0.3, 1, count).tolist(), strict=True):
        some = [row for row in rows if row["kind"] == "copula" and row["steps"] == steps]
        means = [
            sum(row["pair_correlation_error"] for row in some if row["sweeps"] == sweeps)
            / len(options.seeds)
            for sweeps in options.sweeps
        ]
        axes[2].plot(
            options.sweeps,
            means,
            marker="o",
            color=plt.get_cmap("Blues")(shade),
            label=times(steps),
        )
    axes[2].axhline(floor["pair_correlation_error"], color="grey", linestyle="--")
    axes[2].set(
        xscale="log",
        xlabel="sweeps of a joint step",
        ylabel="error of pair correlations",
        ylim=(0, None),
    )
    axes[2].set_xticks(options.sweeps, map(str, options.sweeps))
    axes[2].legend(title="copula")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.minorticks_off()
    grids = bottom.subplots(len(KINDS), count, squeeze=False)
    for row, kind in zip(grids, KINDS, strict=True):
        for axis, steps in zip(row, options.steps, strict=True):
            side = (shape[0] + 1) * 6 - 1, (shape[1] + 1) * 6 - 1
            frame = torch.full(side, 0.6)
            for k, image in enumerate(images[kind, steps][:36].reshape(-1, *shape)):
                y, x = k // 6 * (shape[0] + 1), k % 6 * (shape[1] + 1)
                frame[y : y + shape[0], x : x + shape[1]] = (1 - image.float()) / 2
            axis.imshow(frame.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(f"{kind}, {times(steps)}", color=KINDS[kind])
            axis.set(xticks=[], yticks=[])
    figure.savefig(options.out / "few_steps.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
