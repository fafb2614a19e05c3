"""Do brackets of log Z hold the truth? Random RBMs, and laws with a mode that hides.

    python experiments/claims/likelihood_modes.py --publish

1. RBMs of 20 × 20 from weak to glassy, whose log Z is summed over the 2^20 states of one side.
2. RBMs of 60 × 12 with a mode of mass 5 to 99 % that no row of data visits (case B of
   `missed_modes.py`): annealing from the data, up or down, agrees with itself and is wrong.
3. The ferromagnet whose order turns over on the way down (case A).

Of each: the bracket less the exact value, its note, and annealing up and down from where peers
begin, the data's means and the data.
"""

from __future__ import annotations

import math
import statistics
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs

sys.path.append(str(Path(__file__).parents[2]))
from experiments.claims.missed_modes import ferromagnet, hidden_mode
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    Stopwatch,
    command_line,
    progress_bar,
)
from qsample.annealers.log_z.annealing import anneal_down
from qsample.annealers.log_z.path import Path as Annealing
from qsample.sampling.weights import log_mean_exp

SCALES = (0.5, 1, 2, 4, 6, 8, 10, 14, 18, 24)
"""4 times the standard deviation of a coupling, times sqrt(20): 4 and more are glassy"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """Settings."""

    random: int = 100
    """random RBMs"""
    planted: int = 20
    """RBMs with a planted mode"""
    cores: tuple[int, ...] = (30, 40)
    """spins of the ferromagnets that are coupled all to all"""
    steps: int = 20_000
    """the most temperatures of annealing, and sweeps of a ladder"""
    chains: int = 256
    """annealing runs at once"""


def main(options: Options) -> None:
    """Run, judge, draw."""
    report = Report(options, __file__)
    result: dict[str, Any] = {}
    groups = {
        "random": (options.random, random_rbms(options)),
        "planted": (options.planted, planted_rbms(options)),
        "ferromagnets": (len(options.cores), ferromagnets(options)),
    }
    for name, (count, runs) in groups.items():
        done = list(progress_bar(runs, total=count, desc=name))
        result[name] = {**summary(done), "runs": done}
        report.write(result)
        print({key: value for key, value in result[name].items() if key != "runs"})
    report.finish(result, picture(result))


# ---- the laws ---------------------------------------------------------------------------------


def random_rbms(options: Options) -> Iterator[dict[str, Any]]:
    """Brackets of log Z of random RBMs."""
    for seed in range(options.random):
        generator = torch.Generator().manual_seed(seed)
        scale = SCALES[seed % len(SCALES)]
        J = torch.randn(20, 20, generator=generator, dtype=torch.float64) * scale / 4 / 20**0.5
        h = torch.randn(40, generator=generator, dtype=torch.float64) / 2
        problem = qs.Ising(qs.Graph.bipartite(20, 20), h, J)
        exact = qs.log_partition(problem, "exact").value
        yield {"scale": scale} | measured(problem, exact, None, seed, options)


def planted_rbms(options: Options) -> Iterator[dict[str, Any]]:
    """Brackets of log Z where the data visit all modes but one."""
    for seed in range(options.planted):
        mass = 0.05 + 0.94 * seed / max(1, options.planted - 1)
        model, data, exact = hidden_mode(seed, mass)
        yield {"mass": mass} | measured(model.ising().detach(), exact, (model, data), seed, options)


def ferromagnets(options: Options) -> Iterator[dict[str, Any]]:
    """Brackets of log Z where annealing goes through a transition of first order."""
    for m in options.cores:
        problem, exact = ferromagnet(m)
        yield {"spins": 2 * m} | measured(problem, exact, None, m, options)


def measured(
    problem: qs.Ising,
    exact: float,
    trained: tuple[Any, torch.Tensor] | None,
    seed: int,
    options: Options,
) -> dict[str, Any]:
    """A bracket less the exact value, as JSON keeps it.

    Args:
        problem: the problem.
        exact: its log Z.
        trained: a model and its data, from which runs begin; None for a problem alone.
        seed: seed of the runs.
        options: options of the run.
    """
    generator = torch.Generator().manual_seed(seed)
    budget: dict[str, Any] = {
        "steps": options.steps,
        "chains": options.chains,
        "generator": generator,
    }
    watch = Stopwatch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", qs.ReliabilityWarning)  # its text is in the note
        if trained is None:
            found = qs.log_partition(problem, "bracket", **budget)
            naive = {}
        else:
            model, data = trained
            free = -float(model.free_energy(data).mean().detach())
            found = qs.log_likelihood(model, data, "bracket", **budget)
            assert isinstance(found, qs.Bracket)
            found = found.taken_from(free)
            naive = from_data(problem, model, data, exact, seed)
    return {
        "low": found.low - exact,
        "high": found.high - exact,
        "inside": exact in found,
        "note": found.note,
        "sides": [
            f"{side.method}: {side.value - exact:.4f} ± {side.stderr:.4f}" for side in found.sides
        ],
        "cpu_seconds": watch.read().cpu,
        **naive,
    }


def beside(side: qs.Side, exact: float) -> str:
    """A measurement less the exact value."""
    return f"{side.method}: {side.value - exact:.4f} ± {side.stderr:.4f}"


def from_data(
    problem: qs.Ising, model: Any, data: torch.Tensor, exact: float, seed: int
) -> dict[str, float]:
    """What is printed where a bracket is annealing up from the data's means and down from the data.

    Args:
        problem: Ising form of the model.
        model: the model.
        data: its data.
        exact: log Z.
        seed: seed of the runs.
    """
    up = qs.log_likelihood(
        model, data, "ais", check=False, generator=torch.Generator().manual_seed(seed)
    )
    free = -float(model.free_energy(data).mean().detach())
    mean = data.mean(0).clamp(1e-3, 1 - 1e-3)
    base = torch.cat([-mean.logit() / 2, torch.zeros(model.num_hidden, dtype=mean.dtype)])
    path = Annealing(problem, base)
    spins = torch.ones(256, problem.num_spins, dtype=torch.int8)
    spins[:, : model.num_visible] = (2 * data[:256] - 1).to(torch.int8)
    log_w = anneal_down(path, torch.linspace(0, 1, 1001, dtype=torch.float64), spins, seed)
    down = path.log_z0 - float(log_mean_exp(log_w)) - float(problem.offset)
    return {"annealed_up": free - up.value - exact, "annealed_down": down - exact}


# ---- what comes of it -------------------------------------------------------------------------


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts and widths."""
    widths = sorted(run["high"] - run["low"] for run in runs)
    return {
        "count": len(runs),
        "inside": sum(run["inside"] for run in runs),
        "noted": sum(bool(run["note"]) for run in runs),
        "inside_or_noted": sum(run["inside"] or bool(run["note"]) for run in runs),
        "median_width": statistics.median(widths),
        "centile_95_width": widths[min(len(widths) - 1, math.floor(0.95 * len(widths)))],
        "cpu_seconds": sum(run["cpu_seconds"] for run in runs),
    }


def picture(result: dict[str, Any]) -> Figure:
    """Each bracket as a bar around the exact value; hollow ends where it carries a note."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.6))
    titles = {
        "random": "RBMs of 20 × 20, from weak to glassy",
        "planted": "a mode that no row of data visits",
    }
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        runs = result[name]["runs"]
        axis.axhline(0, color="k", lw=1)
        for k, run in enumerate(runs):
            fill = "white" if run["note"] else OURS
            axis.plot([k, k], [run["low"], run["high"]], "o-", color=OURS, mfc=fill, ms=3, lw=1)
            if "annealed_up" in run:
                axis.plot(k - 0.15, run["annealed_up"], "v", color=THEIRS, ms=5)
                axis.plot(k + 0.15, run["annealed_down"], "^", color=THEIRS, ms=5)
        text = "{inside} of {count} inside, {noted} noted, median width {median_width:.3f}"
        axis.set(title=f"{title}\n{text.format(**result[name])}", xlabel="law")
        axis.grid(alpha=0.3, axis="y")
    axes[0].set_ylabel("log Z less its exact value, nats")
    axes[1].plot([], [], "v", color=THEIRS, label="annealed up from the data's means")
    axes[1].plot([], [], "^", color=THEIRS, label="annealed down from the data")
    axes[1].plot([], [], "o-", color=OURS, mfc="white", label="bracket (hollow: with a note)")
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
