"""A joint step of 64 images of 28 x 28 bits beside one evaluation of the denoiser that it follows.

    python experiments/benchmarks/joint_step.py --out runs/joint_step

The denoiser is the UNet of `few_steps.py`. Its answers are given, so that a step is what comes on
top of them: fields, the problem, chains, reads. Chains anneal from coins, or begin at independent
bits, as `few_steps.py --start independent` has them. `own` couplings differ from image to image, by
features of the denoiser's; `shared` ones are those of the step alone. Rounds make every call once,
in random order; `share` is the ratio to the evaluation of the same round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from qsample.annealers import Gibbs
from qsample.diffusion import UniformBits, log_times
from qsample.models import IsingCopula

sys.path.append(str(Path(__file__).parents[2]))
from experiments.claims.few_steps import graph_of
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    command_line,
    medians,
    paired_rounds,
    ratio,
)
from experiments.denoiser import Denoiser
from experiments.joint_steps import annealing

SHAPE = (28, 28)
GOAL = 0.25
"""of the denoiser's time, at the sweeps of few_steps"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """Sizes and rounds."""

    images: int = 64
    """conditions x_k, one batched problem"""
    sweeps: tuple[int, ...] = (16, 60, 200, 1000)
    """sweeps of a step that anneals; 60 are those of few_steps' figures on mnist5k"""
    short: tuple[int, ...] = (10,)
    """sweeps of a step that begins at independent bits; 10 are those of its figures so"""
    width: int = 24
    """channels of the denoiser at full size"""
    rank: int = 4
    """features for each bit"""
    rounds: int = 9
    """rounds, each of which makes every call once"""


class Answer(nn.Module):
    """A denoiser whose answer is known: the step alone is timed.

    Args:
        logits: its logits `[B, n]`.
        features: its features `[B, n, r]`; None for couplings of the step alone.
    """

    def __init__(self, logits: Tensor, features: Tensor | None) -> None:
        super().__init__()
        self.logits = logits
        self.features = features

    def forward(self, x: Tensor, k: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """What was given, whatever is asked."""
        del x, k
        return self.logits if self.features is None else (self.logits, self.features)


def main(options: Options) -> None:
    """Time the denoiser and the steps in turn."""
    report = Report(options, __file__, ("diffusers",))
    torch.manual_seed(0)
    net = Denoiser(SHAPE, options.width).eval()
    calls = calls_of(net, options)
    for call in calls.values():
        call()
    seconds = paired_rounds(calls, options.rounds)
    result = {
        "goal": GOAL,
        "denoiser_weights": sum(p.numel() for p in net.parameters()),
        "calls": {
            name: {
                "seconds": medians(rounds).wall,
                "cpu_seconds": medians(rounds).cpu,
                "share": ratio(rounds, seconds["denoiser"]),
                "share_cpu": ratio(rounds, seconds["denoiser"], "cpu"),
            }
            for name, rounds in seconds.items()
        },
    }
    for name, figures in result["calls"].items():
        print(
            "{name:>32}: {seconds:.4f} s, {share:.3f} of the denoiser".format(name=name, **figures)
        )
    report.finish(result, picture(result, options))


def calls_of(net: Denoiser, options: Options) -> dict[str, Callable[[], Any]]:
    """The denoiser's evaluation, and a step with each kind of couplings and number of sweeps."""
    generator = torch.Generator().manual_seed(0)
    n = SHAPE[0] * SHAPE[1]
    process = UniformBits(log_times(4))
    x = process.prior((options.images, n), generator)
    at = torch.full((options.images,), 0.5)

    @torch.no_grad()
    def evaluate() -> Tensor:
        return net(x.float(), at)

    logits = evaluate()
    features = 0.3 * torch.randn(options.images, n, options.rank, generator=generator)
    calls: dict[str, Callable[[], Any]] = {"denoiser": evaluate}
    for kind, given in (("own", features), ("shared", None)):
        model = IsingCopula(Answer(logits, given), graph_of(SHAPE), process, centred=True)
        with torch.no_grad():
            model.J.normal_(0, 0.05, generator=generator)
        for sweeps in options.sweeps:
            calls[f"{kind}, {sweeps} sweeps"] = step_of(model, x, sweeps, generator)
        last = IsingCopula(model.denoiser, model.graph, UniformBits(log_times(1)), centred=True)
        with torch.no_grad():
            last.J.copy_(model.J[:1])
        for sweeps in options.short:
            calls[f"{kind}, {sweeps} sweeps, independent"] = partial(
                last.sample,
                Gibbs(sweeps),
                options.images,
                start="independent",
                generator=generator,
            )
    return calls


def step_of(
    model: IsingCopula, x: Tensor, sweeps: int, generator: torch.Generator
) -> Callable[[], Any]:
    """A joint step from x_k, as a call.

    Args:
        model: a copula whose denoiser answers at once.
        x: conditions x_k `[B, n]`.
        sweeps: sweeps of the step.
        generator: randomness.
    """
    sampler = annealing(sweeps)

    @torch.no_grad()
    def call() -> Tensor:
        return sampler.sample(model.step_problem(x, 2), 1, generator=generator).spins[:, 0]

    return call


def picture(result: dict[str, Any], options: Options) -> Figure:
    """Seconds of a step against its sweeps, and the denoiser's."""
    figure, axis = plt.subplots(figsize=(6, 3.6))
    calls = result["calls"]
    for kind, line in (("own", "-"), ("shared", "--")):
        seconds = [calls[f"{kind}, {sweeps} sweeps"]["seconds"] for sweeps in options.sweeps]
        label = f"joint step, {kind} couplings"
        axis.plot(options.sweeps, seconds, line, color=OURS, marker="o", label=label)
        seconds = [calls[f"{kind}, {s} sweeps, independent"]["seconds"] for s in options.short]
        label = f"{kind}, from independent bits"
        fill = "full" if kind == "own" else "none"
        axis.plot(options.short, seconds, "D", color=OURS, fillstyle=fill, label=label)
    whole = calls["denoiser"]["seconds"]
    axis.axhline(whole, color=THEIRS, label="the denoiser")
    axis.axhline(GOAL * whole, color=THEIRS, ls=":", label=f"{GOAL:g} of it")
    axis.set(
        xscale="log", yscale="log", xlabel="sweeps", ylabel=f"seconds, {options.images} images"
    )
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
