"""Two far clusters: which chains train an RBM as the exact gradient does, and know its likelihood?

    python experiments/claims/clustered_data.py --out runs/clustered_data

Rows of 64 bits are a random pattern or its complement, one in four the latter, with a tenth of the
bits flipped. An RBM of few hidden units is trained on them, with the gradient by enumeration of the
hidden states and with negative samples from persistent chains, tempering, trajectory tempering and
chains with Jarzynski's weights: same start, same rates, same number of updates. Each likelihood is
exact. No chain of Gibbs sweeps crosses between the clusters, so plain persistent chains say nothing
of how much of the model lies in each.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import Gibbs, ParallelTempering, TrajectoryTempering
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar

VISIBLE = 64
# how negative samples are drawn: the sampler, and where its chains begin
METHODS: dict[str, tuple[qs.Sampler, qs.Start]] = {
    "persistent chains (PCD-10)": (Gibbs(10), "persistent"),
    "tempering": (ParallelTempering(2, 8), "persistent"),
    "trajectory tempering": (TrajectoryTempering(sweeps=1), "persistent"),
    "Jarzynski's weights": (Gibbs(1), "jarzynski"),
}
EXACT = "exact gradient"
COLOURS = {EXACT: "black", "persistent chains (PCD-10)": "C3", "tempering": "C0"}
COLOURS |= {"trajectory tempering": "C2", "Jarzynski's weights": "C1"}


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of data and training"""
    updates: int = 1000
    """updates of each training"""
    lr: float = 0.05
    """learning rate of the first update, from where it falls to 0"""
    hidden: int = 8
    """hidden units, at most 16"""
    rows: int = 2000
    """rows of data"""
    chains: int = 256
    """chains, or ladders"""
    evaluations: int = 20
    """evaluations of each training"""


def main(options: Options) -> None:
    """Train, judge, draw."""
    report = Report(options, __file__)
    result: dict[str, Any] = {"runs": {}}
    for name in (EXACT, *METHODS):
        runs = [train(name, seed, options) for seed in options.seeds]
        result["runs"][name] = runs
        result |= verdict(result["runs"])
        nats = result["nats_below_exact"][name]
        print(f"{name:28} {runs[-1]['log_likelihood'][-1]:9.3f} nats  below exact: {nats}")
        report.write(result)
    report.finish(result, picture(result, options))


# ---- data, and one training -------------------------------------------------------------------


def clusters(rows: int, seed: int, share: float = 0.25, flip: float = 0.1) -> Tensor:
    """A random pattern or its complement, with noise, `[rows, 64]`.

    Args:
        rows: number of rows.
        seed: seed of pattern and rows.
        share: part of the rows that are of the complement.
        flip: chance that a bit is flipped.
    """
    generator = torch.Generator().manual_seed(seed)
    pattern = (torch.rand(VISIBLE, generator=generator) < 0.5).float()
    turned = torch.rand(rows, 1, generator=generator) < share
    noise = torch.rand(rows, VISIBLE, generator=generator) < flip
    return (pattern - (turned ^ noise).float()).abs()


def exact_loss(model: BernoulliRBM, data: Tensor) -> Tensor:
    """The negative log-likelihood, by all states of the hidden units."""
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * model.num_hidden)
    fields = states.reshape(-1, model.num_hidden) @ model.W.T + model.b
    log_weights = torch.nn.functional.softplus(fields).sum(1) + states @ model.c
    return model.free_energy(data).mean() + log_weights.logsumexp(0)


def train(name: str, seed: int, options: Options) -> dict[str, Any]:
    """One training: exact likelihoods on the way, and what the chains say of log Z at the end."""
    data = clusters(options.rows, seed)
    torch.manual_seed(seed)
    model = BernoulliRBM(VISIBLE, options.hidden)
    model.set_visible_bias(data)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr)
    cd = None
    if name != EXACT:
        sampler, start = METHODS[name]
        generator = torch.Generator().manual_seed(seed)
        cd = qs.ContrastiveDivergence(
            model, sampler, start=start, num=options.chains, generator=generator
        )
    every = max(1, options.updates // options.evaluations)
    curve: dict[str, list[float]] = {"update": [], "log_likelihood": [], "seconds": []}
    seconds = 0.0
    log_z_error = None
    for update in progress_bar(range(options.updates), desc=name):
        watch = Stopwatch()
        for group in optimizer.param_groups:
            group["lr"] = options.lr * (1 - update / options.updates)
        optimizer.zero_grad()
        loss = exact_loss(model, data) if cd is None else cd(data)
        loss.backward()
        seconds += watch.read().cpu
        if update == options.updates - 1:  # of the parameters that the reads are of
            log_z_error = error_of_log_z(model, cd)
        optimizer.step()
        if (update + 1) % every == 0 or update + 1 == options.updates:
            curve["update"].append(update + 1)
            curve["log_likelihood"].append(qs.log_likelihood(model, data, "exact").value)
            curve["seconds"].append(seconds)
    return curve | {"seed": seed, "log_z_error": log_z_error}


def error_of_log_z(model: BernoulliRBM, cd: qs.ContrastiveDivergence | None) -> list[float] | None:
    """Log Z by the chains less the exact one, and its standard error; None where they know none."""
    if cd is None or cd.samples is None or "log_partition" not in cd.samples.info:
        return None
    info = cd.samples.info
    exact = qs.log_partition(model.ising().detach(), "exact").value
    return [float(info["log_partition"]) - float(exact), float(info["log_partition_stderr"])]


# ---- what came of it --------------------------------------------------------------------------


def verdict(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Nats by which each run ends below the exact gradient's, and CPU seconds per update."""
    best = [run["log_likelihood"][-1] for run in runs[EXACT]]
    below = {
        name: [round(b - run["log_likelihood"][-1], 4) for b, run in zip(best, each, strict=True)]
        for name, each in runs.items()
    }
    seconds = {
        name: statistics.median(run["seconds"][-1] / run["update"][-1] for run in each)
        for name, each in runs.items()
    }
    return {"nats_below_exact": below, "cpu_seconds_per_update": seconds}


def picture(result: dict[str, Any], options: Options) -> Figure:
    """Nats against updates and against CPU seconds."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for name, runs in result["runs"].items():
        for k, run in enumerate(runs):
            label = name if k == 0 else None
            style = {"color": COLOURS[name], "lw": 1.2, "ls": "--" if name == EXACT else "-"}
            axes[0].plot(run["update"], run["log_likelihood"], label=label, **style)
            axes[1].plot(run["seconds"], run["log_likelihood"], **style)
    top = max(run["log_likelihood"][-1] for run in result["runs"][EXACT])
    for axis, what in zip(axes, ("updates", "CPU seconds"), strict=True):
        axis.set_xlabel(what)
        axis.set_ylim(top - 6, top + 0.6)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("exact log-likelihood, nats per row")
    axes[0].legend(fontsize=8)
    figure.suptitle(
        f"Two far clusters of {VISIBLE} bits, {options.hidden} hidden units, "
        f"{options.chains} chains, {len(options.seeds)} seeds"
    )
    return figure


if __name__ == "__main__":
    command_line(main, Options)
