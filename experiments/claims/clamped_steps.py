"""Known bits and exact steps: what a clamp gets wrong when steps are many, by enumeration.

    python experiments/claims/clamped_steps.py --out runs/clamped_steps

Laws of 8 bits, half of them known, and reverse steps that are the exact posterior p(x_{k-1} | x_k):
no network, no training, no sampling error. `IsingCopula.sample(..., known=..., repeats=...)` takes
known bits back as the forward process came and draws the others given them. One step is exact. Of
more, an early one sees the known bits through noise and decides without them, and no later one
takes it back: the total variation distance from p(x_0^U | x_0^K) grows with the steps. Draws of a
step that are repeated take it back. Beside it, independent bits with the exact marginals.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from qsample.diffusion import UniformBits, log_times
from qsample.problem.enumeration import states

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, check_range, command_line, progress_bar

KINDS = {"independent": "tab:red", "joint": "tab:blue"}
MOST_BITS = 12
"""a step's law is a matrix of 4^bits numbers, 128 MiB at 12"""
Row = dict[str, Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """A run takes some seconds."""

    bits: int = 8
    """bits of a law; the first half of them is known"""
    steps: tuple[int, ...] = (1, 2, 4, 8, 16)
    """reverse steps"""
    repeats: tuple[int, ...] = (1, 4, 16)
    """draws of each step"""
    patterns: int = 5
    """images of a law of patterns"""
    flips: float = 0.05
    """share of a pattern's bits that are wrong"""
    coupling: float = 0.5
    """standard deviation of the couplings of an Ising law"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """seeds of the laws"""


def main(options: Options) -> None:
    """Enumerate every law, step and clamp."""
    check_range("bits", [options.bits], 2, MOST_BITS)
    check_range("steps", options.steps, 1)
    check_range("repeats", options.repeats, 1)
    report = Report(options, __file__)
    parts = parts_of(options.bits)
    rows: list[Row] = []
    for seed in progress_bar(options.seeds, desc="laws"):
        for (law, p), kind, steps in product(laws(seed, options).items(), KINDS, options.steps):
            chain = reverse_chain(p, kind, UniformBits(log_times(steps)), parts)
            for repeats in options.repeats:
                error = distance(p, chain, repeats, parts)
                about = {"law": law, "kind": kind, "steps": steps, "repeats": repeats}
                rows.append({**about, "seed": seed, "total_variation": error})
    result = {"rows": rows, "table": table(rows)}
    for (law, kinds), kind in product(table(rows).items(), KINDS):
        for repeats, cells in kinds[kind].items():
            texts = [f"{steps}: {error:.4f}" for steps, error in cells.items()]
            print(f"{law}, {kind}, {repeats}: {', '.join(texts)}")
    report.finish(result, picture(result["table"], options))


def laws(seed: int, options: Options) -> dict[str, Tensor]:
    """Probabilities of all states, `[2^n]`, by name."""
    generator = torch.Generator().manual_seed(seed)
    s = states(options.bits).double()
    n = options.bits
    patterns = 2.0 * torch.randint(2, (options.patterns, n), generator=generator).double() - 1
    wrong = (n - patterns @ s.T) / 2
    chance = options.flips**wrong * (1 - options.flips) ** (n - wrong)
    J = options.coupling * torch.randn(n, n, generator=generator, dtype=torch.float64)
    energy = ((s @ J.triu(1)) * s).sum(-1)
    return {"patterns": chance.mean(0), "an Ising law": (-energy).softmax(0)}


# ---- exact steps ------------------------------------------------------------------------------


class Parts(NamedTuple):
    """Which state has which known and unknown bits."""

    known: Tensor
    """number of each state's known part, `[2^n]`"""
    unknown: Tensor
    """number of the other part, `[2^n]`"""
    states: Tensor
    """number of the state of both, `[known, unknown]`"""


class Step(NamedTuple):
    """A reverse step of all states."""

    back: Tensor
    """P(x_{k-1}^U | x_k, x_{k-1}^K), `[known, unknown, x_k]`"""
    clamp: Tensor
    """q(x_{k-1}^K | x_k^K, x_0^K), `[x_{k-1}^K, x_k^K, x_0^K]`"""
    noise: Tensor
    """q(x_k | x_{k-1}), `[x_k, x_{k-1}]`"""


def parts_of(bits: int) -> Parts:
    """The first half of the bits is known."""
    s = (states(bits) > 0).long()
    half = bits // 2
    known = (s[:, :half] * 2 ** torch.arange(half)).sum(-1)
    unknown = (s[:, half:] * 2 ** torch.arange(bits - half)).sum(-1)
    both = torch.empty(2**half, 2 ** (bits - half), dtype=torch.long)
    both[known, unknown] = torch.arange(2**bits)
    return Parts(known, unknown, both)


def kernel(process: UniformBits, k: int, start: int, bits: int) -> Tensor:
    """q(x_k | x_start) of all states of so many bits, `[2^n, 2^n]`, symmetric."""
    site = process.kernel(k, start)
    same = (states(bits).double() @ states(bits).double().T + bits) / 2
    return site[0, 0] ** same * site[0, 1] ** (bits - same)


def reverse_chain(p: Tensor, kind: str, process: UniformBits, parts: Parts) -> list[Step]:
    """The reverse steps of a law, from the last time on.

    Args:
        p: the law, `[2^n]`.
        kind: "joint", the posterior of all bits; "independent", the product of its marginals.
        process: forward process.
        parts: which bits are known.
    """
    bits = len(p).bit_length() - 1
    half = parts.states.shape[0].bit_length() - 1
    places = states(half) > 0
    order = (places.long() * 2 ** torch.arange(half)).sum(-1).argsort()
    chain = []
    for k in range(process.steps, 0, -1):
        noise = kernel(process, k, k - 1, bits)
        before = kernel(process, k - 1, 0, bits) @ p
        posterior = before[:, None] * noise
        posterior = posterior / posterior.sum(0)
        if kind == "independent":
            posterior = product_of_marginals(posterior)
        both = posterior[parts.states]
        back = both / both.sum(1, keepdim=True).clamp_min(1e-300)
        near = kernel(process, k, k - 1, half)[order][:, order]
        start = kernel(process, k - 1, 0, half)[order][:, order]
        clamp = near[:, :, None] * start[:, None, :]
        clamp = clamp / clamp.sum(0).clamp_min(1e-300)
        chain.append(Step(back, clamp, noise))
    return chain


def product_of_marginals(posterior: Tensor) -> Tensor:
    """Independent bits of the same marginals, `[x_{k-1}, x_k]`."""
    up = states(len(posterior).bit_length() - 1) > 0
    chances = [torch.where(site[:, None], (q := posterior[site].sum(0)), 1 - q) for site in up.T]
    return reduce(torch.mul, chances)


def distance(p: Tensor, chain: list[Step], repeats: int, parts: Parts) -> float:
    """Total variation distance of what is drawn from p(x_0^U | x_0^K), a mean over x_0^K.

    Args:
        p: the law, `[2^n]`.
        chain: its reverse steps.
        repeats: draws of each step.
        parts: which bits are known.
    """
    n_known = len(parts.states)
    x = torch.full((len(p), n_known), 1 / len(p), dtype=p.dtype)  # of each x_0^K
    for step in chain:
        for turn in range(repeats):
            if turn:
                x = step.noise @ x
            x = one_step(x, step, parts)
    drawn = x[parts.states, torch.arange(n_known)[:, None]]
    joint = p[parts.states]
    right = joint / joint.sum(1, keepdim=True)
    return float((joint.sum(1) * (drawn - right).abs().sum(1) / 2).sum())


def one_step(x: Tensor, step: Step, parts: Parts) -> Tensor:
    """The law of x_{k-1} `[2^n, x_0^K]` by that of x_k, for each known part of x_0."""
    weight = step.clamp[:, parts.known] * x  # [x_{k-1}^K, x_k, x_0^K]
    drawn = step.back @ weight  # [known, unknown, x_0^K]
    return drawn[parts.known, parts.unknown]


# ---- figures ----------------------------------------------------------------------------------


def table(rows: list[Row]) -> Row:
    """Means over the laws of a kind, by law, kind of step, repeats and number of steps."""
    values: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        key = (row["law"], row["kind"], f"repeats {row['repeats']}", str(row["steps"]))
        values.setdefault(key, []).append(row["total_variation"])
    nested: Row = {}
    for (law, kind, repeats, steps), errors in values.items():
        cells = nested.setdefault(law, {}).setdefault(kind, {}).setdefault(repeats, {})
        cells[steps] = statistics.fmean(errors)
    return nested


def picture(results: Row, options: Options) -> Figure:
    """The distance against the steps, for each kind of law.

    Args:
        results: the table.
        options: options of the run.
    """
    figure = plt.figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, len(results))
    names = [f"repeats {r}" for r in options.repeats]
    styles: dict[str, str] = dict(zip(names, ("-", "--", ":"), strict=False))
    for axis, (law, kinds) in zip(axes, results.items(), strict=True):
        for kind, by_repeats in kinds.items():
            for repeats, cells in by_repeats.items():
                label = f"{kind}, {repeats.split()[1]} draws of a step"
                style = styles.get(repeats, "-.")
                errors = list(cells.values())
                axis.plot(options.steps, errors, style, color=KINDS[kind], marker="o", label=label)
        axis.set(xscale="log", xlabel="reverse steps", title=law)
        axis.set_xticks(options.steps, map(str, options.steps))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("total variation distance from p(unknown | known)")
    axes[0].legend(fontsize=7)
    return figure


if __name__ == "__main__":
    command_line(main, Options)
