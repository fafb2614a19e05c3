"""One PCD-10 step of a 784 x 500 RBM, batch = chains = 500: ours, plain torch by hand, and peers.

    python experiments/benchmarks/pcd.py --out runs/pcd --threads 2
    python experiments/benchmarks/pcd.py --start data --batch 64 --sweeps 1 --steps 20 --out runs/cd

Rounds are paired: each runs every implementation once, in random order, and a ratio is the median
over rounds of the ratio within a round, so that a noisy machine slows both sides. `plain torch` is
a hand-written step with manual gradients and `rand < p`; every step updates the parameters by SGD.
`qsample, bfloat16` is under `torch.autocast`: the loss rounds, the chains do not. A peer that is
not installed is left out. `engine.py` times the pairs of ours and plain torch once more, for each
instruction set.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import Gibbs
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import (
    OURS,
    CommonOptions,
    Report,
    Seconds,
    command_line,
    medians,
    paired_rounds,
    ratio,
)

Step = Callable[[], Any]
LR = 1e-2


@dataclass(frozen=True)
class Options(CommonOptions):
    """Sizes and rounds."""

    visible: int = 784
    """visible units"""
    hidden: int = 500
    """hidden units"""
    batch: int = 500
    """rows of data, and chains"""
    sweeps: int = 10
    """Gibbs sweeps of a step"""
    start: str = "persistent"
    """where chains begin: persistent, or data, where peers do not"""
    steps: int = 1
    """steps of a timing: many where one is short, after a pause"""
    rounds: int = 30
    """paired rounds"""
    threads: int = 2
    """torch threads"""


def main(options: Options) -> None:
    """Time, print, draw."""
    report = Report(options, __file__, packages=("rbms", "scikit-learn"))
    steps, left_out = installed(implementations(options, random_rows(options)))
    steps = {name: repeated(step, options) for name, step in steps.items()}
    # The pause lets the threads of the library before stop spinning.
    seconds = paired_rounds(steps, options.rounds, pause=0.1)
    result = {"steps": {name: row(seconds, name) for name in steps}, "left_out": left_out}
    for name, figures in result["steps"].items():
        print(
            "{name:26} wall {wall_ms:7.1f} ms (best {wall_best_ms:.1f})   cpu {cpu_ms:7.1f} ms   "
            "{over_plain_torch:.3f} x plain torch".format(name=name, **figures)
        )
    report.finish(result, picture(seconds, options))


def random_rows(options: Options) -> torch.Tensor:
    """Rows `[batch, visible]` of 0 and 1."""
    torch.manual_seed(0)
    return (torch.rand(options.batch, options.visible) < 0.2).float()


def pair(options: Options, bfloat16: bool) -> dict[str, Step]:
    """Our step and that of plain torch, whose products are float32 whatever ours are."""
    data = random_rows(options)
    return {
        "qsample": repeated(ours(options, data, bfloat16=bfloat16), options),
        "plain torch": repeated(plain(options, data, torch.float32), options),
    }


def repeated(step: Step, options: Options) -> Step:
    """As many steps as a timing has."""

    def steps() -> None:
        for _ in range(options.steps):
            step()

    return steps


def implementations(options: Options, data: torch.Tensor) -> dict[str, Callable[[], Step]]:
    """What makes each step."""
    o = options
    return {
        "plain torch": lambda: plain(o, data, torch.float32),
        "plain torch, centred": lambda: plain(o, data, torch.float32, centred=True),
        "plain torch, bfloat16": lambda: plain(o, data, torch.bfloat16),
        "qsample": lambda: ours(o, data),
        "qsample, centred": lambda: ours(o, data, centred=True),
        "qsample, bfloat16": lambda: ours(o, data, bfloat16=True),
    } | ({} if o.start == "data" else peers(o, data))


def peers(options: Options, data: torch.Tensor) -> dict[str, Callable[[], Step]]:
    """What makes the steps of other packages."""
    return {
        "rbms": lambda: rbms(options, data),
        "scikit-learn": lambda: scikit_learn(options, data),
    }


def installed(makers: dict[str, Callable[[], Step]]) -> tuple[dict[str, Step], dict[str, str]]:
    """The steps that can be made, warm, and why the others cannot."""
    steps: dict[str, Step] = {}
    left_out: dict[str, str] = {}
    for name, make in makers.items():
        try:
            step = make()
        except ImportError as error:
            left_out[name] = str(error)
            print(f"left out: {name} ({error})")
            continue
        step()
        step()
        steps[name] = step
    return steps, left_out


def row(seconds: dict[str, list[Seconds]], name: str) -> dict[str, float]:
    """Figures of an implementation."""
    wall, cpu = medians(seconds[name])
    return {
        "wall_ms": 1e3 * wall,
        "wall_best_ms": 1e3 * min(s.wall for s in seconds[name]),
        "cpu_ms": 1e3 * cpu,
        "over_plain_torch": ratio(seconds[name], seconds["plain torch"]),
    }


# ---- implementations --------------------------------------------------------------------------


def weights(options: Options) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """W, b and c to start from."""
    W = torch.randn(options.visible, options.hidden) * 1e-2
    return W, torch.zeros(options.visible), torch.zeros(options.hidden)


def plain(options: Options, data: torch.Tensor, dtype: torch.dtype, centred: bool = False) -> Step:
    """The step as one would write it by hand.

    Args:
        options: sizes.
        data: rows `[batch, visible]` of 0 and 1.
        dtype: type of chains and products.
        centred: whether the gradient is centred, by the data's means.
    """
    W, b, c = weights(options)
    chains = [(torch.rand_like(data) < 0.5).to(dtype)]
    rows = data.to(dtype)
    from_data = options.start == "data"

    def draw(p: torch.Tensor) -> torch.Tensor:
        return (torch.rand_like(p, dtype=torch.float32) < p).to(dtype)

    @torch.no_grad()
    def step() -> None:
        W_t, b_t, c_t = W.to(dtype), b.to(dtype), c.to(dtype)
        p = torch.sigmoid_(torch.addmm(c_t, rows, W_t))
        # Gibbs sweeps of the chains.
        v = rows if from_data else chains[0]
        for sweep in range(options.sweeps):
            known = from_data and sweep == 0
            h = draw(p if known else torch.sigmoid_(torch.addmm(c_t, v, W_t)))
            v = draw(torch.sigmoid_(torch.addmm(b_t, h, W_t.T)))
        chains[0] = v
        # The gradient: moments of the data less moments of the chains.
        q = torch.sigmoid_(torch.addmm(c_t, v, W_t))
        grad_W = ((rows.T @ p).float() - (v.T @ q).float()) / len(rows)
        mu = rows.float().mean(0)
        lam = p.float().mean(0)
        grad_b = mu - v.float().mean(0)
        grad_c = lam - q.float().mean(0)
        if centred:
            grad_W = grad_W - torch.outer(mu, grad_c) - torch.outer(grad_b, lam)
            grad_b, grad_c = grad_b - grad_W @ lam, grad_c - mu @ grad_W
        W.add_(grad_W, alpha=LR)
        b.add_(grad_b, alpha=LR)
        c.add_(grad_c, alpha=LR)

    return step


def ours(
    options: Options,
    data: torch.Tensor,
    *,
    bfloat16: bool = False,
    **settings: Any,
) -> Step:
    """The same through the library, as a user writes it.

    Args:
        options: sizes.
        data: rows `[batch, visible]` of 0 and 1.
        bfloat16: whether the loss is computed under autocast.
        settings: further arguments of ContrastiveDivergence.
    """
    model = BernoulliRBM(options.visible, options.hidden)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    sampler = Gibbs(options.sweeps)
    start: Any = options.start
    cd = qs.ContrastiveDivergence(model, sampler, start=start, num=options.batch, **settings)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = cd(data)
        loss.backward()
        optimizer.step()

    return step


def rbms(options: Options, data: torch.Tensor) -> Step:
    """The package rbms (its gradient is centred)."""
    classes = importlib.import_module("rbms.bernoulli_bernoulli.classes")
    W, b, c = weights(options)
    model = classes.BBRBM(weight_matrix=W, vbias=b, hbias=c)
    model.init_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, maximize=True)
    chains = [model.init_chains(num_samples=options.batch)]
    equal = torch.ones(options.batch, 1)

    @torch.no_grad()
    def step() -> None:
        optimizer.zero_grad(set_to_none=False)
        positive = model.init_chains(num_samples=options.batch, weights=equal, start_v=data)
        chains[0] = model.sample_state(chains=chains[0], n_steps=options.sweeps, beta=1.0)
        model.compute_gradient(data=positive, chains=chains[0], centered=True)
        optimizer.step()

    return step


def scikit_learn(options: Options, data: torch.Tensor) -> Step:
    """scikit-learn's `partial_fit` is PCD-1: the other sweeps by its own private samplers."""
    from sklearn.neural_network import BernoulliRBM as TheirRBM

    model: Any = TheirRBM(
        n_components=options.hidden, batch_size=options.batch, learning_rate=LR, random_state=0
    )
    X = data.numpy()
    model.partial_fit(X)

    def step() -> None:
        rng = model.random_state_
        for _ in range(options.sweeps - 1):
            visible = model._sample_visibles(model.h_samples_, rng)
            model.h_samples_ = 1.0 * model._sample_hiddens(visible, rng)
        model.partial_fit(X)

    return step


def picture(seconds: dict[str, list[Seconds]], options: Options) -> Figure:
    """The median step of each, with the spread of the rounds from 10 to 90 %."""
    names = list(seconds)[::-1]
    figure, axis = plt.subplots(figsize=(8.5, 0.5 * len(names) + 1.2))
    for y, name in enumerate(names):
        wall = torch.tensor([1e3 * s.wall for s in seconds[name]])
        low, median, high = wall.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        colour = OURS if name.startswith("qsample") else "#999999"
        axis.barh(y, median, color=colour, height=0.6)
        axis.plot([low, high], [y, y], color="black", lw=1)
        axis.text(high, y, f"  {median:.0f} ms", va="center")
    axis.set_yticks(range(len(names)), names)
    size = f"{options.visible} x {options.hidden}"
    kind = "CD" if options.start == "data" else "PCD"
    count = "one step" if options.steps == 1 else f"{options.steps} steps"
    axis.set_xlabel(
        f"{count} of {kind}-{options.sweeps} of a {size} RBM, {options.batch} chains, "
        f"{options.threads} threads, ms"
    )
    axis.margins(x=0.15)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
