"""One PCD-10 step of a 784 x 500 RBM, batch = chains = 500: ours, plain torch by hand, and peers if installed.

    python experiments/bench_pcd.py --out runs/bench_pcd --threads 2

Rounds are paired: each runs every implementation once, in random order, and a ratio is the median over rounds of the
ratio within a round, so that a noisy machine slows both sides. `plain torch` is a hand-written step with manual
gradients and `rand < p`; every step updates the parameters by SGD. `qsample, bfloat16` is under `torch.autocast`: the
loss rounds, the chains do not. `qsample, fixed16` is the same with chains whose fields have 16 bits. Writes
results.json and steps.png.
"""

from __future__ import annotations

import importlib
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import Gibbs
from qsample.models import BernoulliRBM
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Step = Callable[[], Any]
LR = 1e-2


@dataclass(frozen=True)
class Options:
    """Sizes and rounds."""

    out: Path = Path("runs/bench_pcd")
    """folder for results.json and steps.png"""
    visible: int = 784
    """visible units"""
    hidden: int = 500
    """hidden units"""
    batch: int = 500
    """rows of data, and chains"""
    sweeps: int = 10
    """Gibbs sweeps a step"""
    rounds: int = 30
    """paired rounds"""
    threads: int = 2
    """torch threads"""


def plain(o: Options, data: torch.Tensor, dtype: torch.dtype, centred: bool) -> Step:
    """The step as one would write it by hand."""
    W, b, c = torch.randn(o.visible, o.hidden) * 1e-2, torch.zeros(o.visible), torch.zeros(o.hidden)
    chains, d = [(torch.rand_like(data) < 0.5).to(dtype)], data.to(dtype)

    def draw(p: torch.Tensor) -> torch.Tensor:
        return (torch.rand_like(p, dtype=torch.float32) < p).to(dtype)

    @torch.no_grad()
    def step() -> None:
        w, bb, cc, v = W.to(dtype), b.to(dtype), c.to(dtype), chains[0]
        for _ in range(o.sweeps):
            h = draw(torch.sigmoid_(torch.addmm(cc, v, w)))
            v = draw(torch.sigmoid_(torch.addmm(bb, h, w.T)))
        chains[0] = v
        p, q = torch.sigmoid_(torch.addmm(cc, d, w)), torch.sigmoid_(torch.addmm(cc, v, w))
        gW = ((d.T @ p).float() - (v.T @ q).float()) / len(d)
        mu, lam = d.float().mean(0), p.float().mean(0)
        gb, gc = mu - v.float().mean(0), lam - q.float().mean(0)
        if centred:
            gW = gW - torch.outer(mu, gc) - torch.outer(gb, lam)
            gb, gc = gb - gW @ lam, gc - mu @ gW
        W.add_(gW, alpha=LR)
        b.add_(gb, alpha=LR)
        c.add_(gc, alpha=LR)

    return step


def ours(o: Options, data: torch.Tensor, **settings: Any) -> Step:
    """The same through the library, as a user writes it."""
    model = BernoulliRBM(o.visible, o.hidden)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    half, precision = settings.pop("bfloat16", False), settings.pop("precision", "full")
    cd = qs.ContrastiveDivergence(
        model, Gibbs(o.sweeps, precision=precision), num=o.batch, **settings
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = cd(data)
        loss.backward()
        optimizer.step()

    return step


def rbms(o: Options, data: torch.Tensor) -> Step:
    """The package rbms (its gradient is centred)."""
    classes = importlib.import_module("rbms.bernoulli_bernoulli.classes")
    W, b, c = torch.randn(o.visible, o.hidden) * 1e-2, torch.zeros(o.visible), torch.zeros(o.hidden)
    model = classes.BBRBM(weight_matrix=W, vbias=b, hbias=c)
    model.init_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, maximize=True)
    chains, weights = [model.init_chains(num_samples=o.batch)], torch.ones(o.batch, 1)

    @torch.no_grad()
    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        current = model.init_chains(num_samples=o.batch, weights=weights, start_v=data)
        chains[0] = model.sample_state(chains=chains[0], n_steps=o.sweeps, beta=1.0)
        model.compute_gradient(data=current, chains=chains[0], centered=True)
        optimizer.step()

    return step


def scikit_learn(o: Options, data: torch.Tensor) -> Step:
    """scikit-learn's `partial_fit` is PCD-1: the other sweeps by its own private samplers."""
    from sklearn.neural_network import BernoulliRBM as Theirs

    model: Any = Theirs(n_components=o.hidden, batch_size=o.batch, learning_rate=LR, random_state=0)
    X = data.numpy()
    model.partial_fit(X)

    def step() -> None:
        random = model.random_state_
        for _ in range(o.sweeps - 1):
            model.h_samples_ = 1.0 * model._sample_hiddens(
                model._sample_visibles(model.h_samples_, random), random
            )
        model.partial_fit(X)

    return step


def main(o: Options) -> None:
    """Time, print, draw."""
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    o.out.mkdir(parents=True, exist_ok=True)
    data = (torch.rand(o.batch, o.visible) < 0.2).float()
    makers: dict[str, Callable[[], Step]] = {
        "plain torch": lambda: plain(o, data, torch.float32, False),
        "plain torch, centred": lambda: plain(o, data, torch.float32, True),
        "plain torch, bfloat16": lambda: plain(o, data, torch.bfloat16, False),
        "qsample": lambda: ours(o, data),
        "qsample, centred": lambda: ours(o, data, centred=True),
        "qsample, bfloat16": lambda: ours(o, data, bfloat16=True),
        "qsample, fixed16": lambda: ours(o, data, bfloat16=True, precision="fixed16"),
        f"rbms {installed('rbms')}": lambda: rbms(o, data),
        f"scikit-learn {installed('scikit-learn')}": lambda: scikit_learn(o, data),
    }
    steps: dict[str, Step] = {}
    for name, make in makers.items():
        try:
            steps[name] = make()
            for _ in range(2):
                steps[name]()
        except ImportError as error:
            print(f"left out: {name} ({error})")
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for _ in progress_bar(range(o.rounds), unit="round"):
        for name in random.sample(list(steps), len(steps)):
            time.sleep(0.1)  # the threads of the library before stop spinning
            w, c = time.perf_counter(), time.process_time()
            steps[name]()
            wall[name].append(1e3 * (time.perf_counter() - w))
            cpu[name].append(1e3 * (time.process_time() - c))
    results: dict[str, Any] = {}
    for name in steps:
        ratios = [a / b for a, b in zip(wall[name], wall["plain torch"], strict=True)]
        results[name] = {"wall_ms": statistics.median(wall[name]), "wall_best_ms": min(wall[name])}
        results[name] |= {
            "cpu_ms": statistics.median(cpu[name]),
            "over_plain_torch": statistics.median(ratios),
        }
        print(
            f"{name:26} wall {results[name]['wall_ms']:7.1f} ms (best {results[name]['wall_best_ms']:.1f})   "
            f"cpu {results[name]['cpu_ms']:7.1f} ms   {results[name]['over_plain_torch']:.3f} x plain torch"
        )
    for name in ("bfloat16", "fixed16"):
        ratios = [a / b for a, b in zip(wall["qsample"], wall[f"qsample, {name}"], strict=True)]
        results[f"full over {name}"] = statistics.median(ratios)
        print(f"qsample over itself, {name}: {results[f'full over {name}']:.2f}")
    about = {
        "threads": o.threads,
        "rounds": o.rounds,
        "torch": torch.__version__,
        "sweeps": o.sweeps,
    }
    about |= {"visible": o.visible, "hidden": o.hidden, "batch": o.batch}
    (o.out / "results.json").write_text(json.dumps({"about": about, "results": results}, indent=1))
    picture(wall, o)
    print(f"{o.out / 'results.json'}\n{o.out / 'steps.png'}")


def installed(package: str) -> str:
    """Its version, or nothing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def picture(wall: dict[str, list[float]], o: Options) -> None:
    """The median step of each, with the spread of the rounds."""
    names = list(wall)[::-1]
    figure, axis = plt.subplots(figsize=(8.5, 0.5 * len(names) + 1.2))
    for y, name in enumerate(names):
        colour = "#2166ac" if name.startswith("qsample") else "#999999"
        low, middle, high = (
            sorted(wall[name])[int(q * (len(wall[name]) - 1))] for q in (0.1, 0.5, 0.9)
        )
        axis.barh(y, middle, color=colour, height=0.6)
        axis.plot([low, high], [y, y], color="black", lw=1)
        axis.text(high, y, f"  {middle:.0f} ms", va="center")
    axis.set_yticks(range(len(names)), names)
    axis.set(
        xlabel=f"one PCD-{o.sweeps} step of a {o.visible} x {o.hidden} RBM, {o.batch} chains, {o.threads} threads, ms"
    )
    axis.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(o.out / "steps.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
