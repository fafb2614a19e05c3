"""Bars and stripes, 3 x 3: a restricted Boltzmann machine trained on each back end's samples.

    python experiments/claims/gate_training.py --out runs/gate_training

KL(data || model) is exact. The same model, data, learning rate, number of negatives and seed for
all; what differs is who draws the negatives: exact draws, persistent Gibbs chains, annealing, QAOA
as it comes, QAOA corrected by Gibbs, the same with its angles moved by the optimiser that moves the
weights, quantum-enhanced chains, and a loopback of D-Wave's processor, corrected too. QAOA runs on
`--kit`; all kits have the same circuit.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import (
    QAOA,
    Corrected,
    DWave,
    Exact,
    Gibbs,
    QuantumProposal,
    SimulatedAnnealing,
)
from qsample.models import BernoulliRBM
from qsample.testing.sapi import Chip, SolverServer

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, Stopwatch, command_line, progress_bar

SIDE = 3


@dataclass(frozen=True)
class Options(CommonOptions):
    """One setting for all."""

    hidden: int = 3
    """hidden units"""
    updates: int = 400
    """gradient steps"""
    lr: float = 0.05
    """Adam's learning rate"""
    chains: int = 64
    """negative samples of a step"""
    depth: int = 3
    """layers of QAOA"""
    kit: str = "torch"
    """who runs QAOA's circuit"""
    seed: int = 0
    """seed of all randomness"""


def main(options: Options) -> None:
    """Train on each, compare."""
    report = Report(options, __file__, ("pennylane", "qiskit", "cirq-core"))
    angles = torch.nn.Parameter(torch.tensor([[0.3] * options.depth, [0.3] * options.depth]))
    fixed = QAOA(options.depth, kit=options.kit)  # pyright: ignore[reportArgumentType]
    moved = QAOA(options.depth, kit=options.kit, angles=angles)  # pyright: ignore[reportArgumentType]
    runs: dict[str, tuple[qs.Sampler, qs.Start, QAOA | None]] = {
        "exact": (Exact(), "fresh", None),
        "Gibbs, persistent": (Gibbs(5), "persistent", None),
        "annealed": (SimulatedAnnealing(40, (0.0, 1.0), "linear"), "fresh", None),
        "QAOA": (fixed, "fresh", None),
        "QAOA, corrected": (Corrected(fixed, Gibbs(5)), "fresh", None),
        "QAOA, corrected, angles learned": (Corrected(moved, Gibbs(5)), "fresh", moved),
        "quantum-enhanced": (QuantumProposal(2, layers=8), "persistent", None),
    }
    result: dict[str, Any] = {}
    with SolverServer("zephyr-2", chip=Chip(beta=3.0, noise=0.03)) as server:
        client = {"endpoint": server.endpoint, "token": server.token}
        with DWave(client=client) as device:
            runs["loopback QPU, corrected"] = (Corrected(device, Gibbs(5)), "fresh", None)
            for name, (sampler, start, moving) in runs.items():
                result[name] = train(sampler, start, moving, options)
                print(f"{name}: KL {result[name]['kl']:.4f}")
                report.write(result)
    report.finish(result, picture(result))


def bars_and_stripes() -> torch.Tensor:
    """The 14 patterns of whole rows or whole columns, `[14, 9]` of 0 and 1."""
    bits = (torch.arange(1 << SIDE)[:, None] >> torch.arange(SIDE)) & 1
    bars = bits[:, :, None].expand(-1, SIDE, SIDE)
    both = torch.cat([bars, bars.mT]).reshape(-1, SIDE * SIDE)
    return both.unique(dim=0).float()


def train(
    sampler: qs.Sampler, start: qs.Start, moving: QAOA | None, options: Options
) -> dict[str, Any]:
    """Train a model: its divergence, CPU time and curve.

    Args:
        sampler: source of negative samples.
        start: where its chains start.
        moving: the circuit whose angles the optimiser moves too, or None.
        options: options of the run.
    """
    generator = torch.Generator().manual_seed(options.seed)
    patterns = bars_and_stripes()
    model = BernoulliRBM(patterns.shape[1], options.hidden, generator=generator)
    cd = qs.ContrastiveDivergence(
        model, sampler, start=start, num=options.chains, generator=generator
    )
    parameters = list(model.parameters())
    if moving is not None and isinstance(moving.angles, torch.nn.Parameter):
        parameters.append(moving.angles)
    optimiser = torch.optim.Adam(parameters, lr=options.lr)
    watch = Stopwatch()
    curve: list[tuple[int, float]] = []
    for update in progress_bar(range(options.updates + 1)):
        if update % max(1, options.updates // 25) == 0:
            curve.append((update, divergence(model, patterns)))
        loss = cd(patterns)
        if moving is not None:
            loss = loss + moving.expected_energy(model.ising())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    last = [kl for _, kl in curve[-5:]]
    return {
        "kl": sum(last) / len(last),
        "cpu_seconds": watch.read().cpu,
        "curve": curve,
        "angles": None if moving is None else torch.as_tensor(moving.angles).detach(),
    }


def divergence(model: BernoulliRBM, patterns: torch.Tensor) -> float:
    """KL(data || model), exact, nats."""
    return -math.log(len(patterns)) - qs.log_likelihood(model, patterns, "exact").value


def picture(result: dict[str, Any]) -> Figure:
    """The divergence along training."""
    figure, axis = plt.subplots(figsize=(7.5, 4.6))
    for name, row in result.items():
        style = "--" if name.startswith("QAOA") else "-"
        axis.plot(*zip(*row["curve"], strict=True), style, label=f"{name}: {row['kl']:.2f}")
    axis.set(yscale="log", xlabel="update", ylabel="KL(data || model), nats")
    axis.set_title("Bars and stripes 3 × 3, by who draws the negatives (mean of the last 5)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
