"""A PCD-10 step of a 784 x 500 RBM on one rank and on two, and a model of what more ranks bring.

    python experiments/benchmarks/ranks.py --out runs/ranks

A rank is a process of one thread on this machine, gloo on 127.0.0.1. Teams of one and of two wait
side by side; a round lets each take some steps, in random order, and a ratio is the median over
rounds of the ratio within a round. `chains` spreads 512 chains (`exact_sums`), `hidden units` the
weights (`shard_hidden`). Then the team of two times all-reduce and all-gather of some sizes, and

    t = alpha steps + bytes / beta,    2 (p - 1) steps of 1/p for an all-reduce, p - 1 for a gather

is fitted to them. The last part is that model, no measurement: a step on p ranks, from the measured
steps and alpha and beta, or those that are given for another network. `--publish` writes the table
of docs/guides/beyond-one-machine.md too.
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from matplotlib.figure import Figure
from scipy.optimize import nnls

import qsample as qs
from qsample.annealers import Gibbs
from qsample.learning.distributed import join
from qsample.learning.sharded import shard_hidden
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import OURS, ROOT, THEIRS, CommonOptions, Report, command_line

GUIDE = ROOT / "docs" / "guides" / "beyond-one-machine.md"
BEGIN = "<!-- ranks.json -->\n"
END = "<!-- end of ranks.json -->\n"
HERE = "127.0.0.1"
WAYS = ("chains", "hidden units")
TEAMS = (1, 2)


@dataclass(frozen=True)
class Options(CommonOptions):
    """Sizes, rounds, and what is extrapolated."""

    visible: int = 784
    """visible units"""
    hidden: int = 500
    """hidden units"""
    chains: int = 512
    """chains, and rows of data"""
    sweeps: int = 10
    """Gibbs sweeps of a step"""
    rounds: int = 15
    """paired rounds"""
    steps: int = 5
    """steps of a team in a round"""
    sizes: tuple[int, ...] = tuple(4**k for k in range(5, 13))
    """bytes of a message"""
    exchanges: int = 30
    """exchanges of each size"""
    alpha: float | None = None
    """seconds of a message without bytes; by default as fitted"""
    beta: float | None = None
    """bytes per second; by default as fitted"""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    """ranks of the model"""


def main(options: Options) -> None:
    """Measure, fit, extrapolate, print, draw."""
    report = Report(options, __file__)
    teams = {size: Team(size, options) for size in TEAMS}
    try:
        steps = measured_steps(teams, options)
        exchanges = teams[2].ask("exchanges")[0]
    finally:
        for team in teams.values():
            team.end()
    fit = fitted(exchanges, options)
    model = extrapolated(steps, fit, options)
    result = {"steps": steps, "exchanges": exchanges, "fit": fit, "model": model}
    say(result)
    report.finish(result, picture(result))
    if options.publish:
        GUIDE.write_text(rewritten(GUIDE.read_text(), result))


# ---- teams of processes -----------------------------------------------------------------------


class Team:
    """Processes that take steps when they are asked to, and sleep otherwise.

    Args:
        size: number of ranks.
        options: sizes.
    """

    def __init__(self, size: int, options: Options) -> None:
        with socket.socket() as free:
            free.bind((HERE, 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self.pipes = []
        self.processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            place = {"RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
            process = context.Process(target=serve, args=(theirs, place, options), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)
        self.ask("ready")

    def ask(self, what: str) -> list[Any]:
        """What each rank answers; an error where one does not."""
        for pipe in self.pipes:
            pipe.send(what)
        answers = []
        for pipe in self.pipes:
            if not pipe.poll(300):
                raise SystemExit(f"no answer to {what!r} in 300 s")
            answers.append(pipe.recv())
        return answers

    def end(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.terminate()
            process.join()


def serve(pipe: Any, place: dict[str, int], options: Options) -> None:
    """A rank: answers what it is asked until its pipe closes."""
    os.environ |= {"MASTER_ADDR": HERE, **{name: str(value) for name, value in place.items()}}
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    join(seconds=200)
    made = {way: step_of(way, options) for way in WAYS}
    while True:
        what = pipe.recv()
        if what == "ready":
            for step in made.values():
                step()
                step()
            pipe.send(what)
        elif what == "exchanges":
            pipe.send(timed_exchanges(options))
        else:
            pipe.send(timed(made[what], options.steps))


def timed(step: Callable[[], Any], count: int) -> tuple[float, float]:
    """Wall and CPU seconds of a step, from when all ranks are there."""
    torch.distributed.barrier()
    wall = time.perf_counter()
    cpu = time.process_time()
    for _ in range(count):
        step()
    torch.distributed.barrier()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def step_of(way: str, options: Options) -> Callable[[], Any]:
    """A PCD step with its update, spread over the ranks in one of two ways."""
    generator = torch.Generator().manual_seed(0)
    model = BernoulliRBM(options.visible, options.hidden, generator=generator)
    if way == "hidden units":
        shard_hidden(model)
    rows = (torch.rand(options.chains, options.visible, generator=generator) < 0.2).float()
    cd = qs.ContrastiveDivergence(
        model, Gibbs(options.sweeps), num=options.chains, exact_sums=True, generator=generator
    )

    def step() -> None:
        cd.zero_grad()
        cd(rows).backward()
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p.add_(p.grad, alpha=-1e-3)

    return step


def timed_exchanges(options: Options) -> list[dict[str, Any]]:
    """Median seconds of an all-reduce and an all-gather of each size, in random order."""
    seconds: dict[tuple[str, int], list[float]] = {}
    order = random.Random(0)
    cells = [(kind, size) for kind in ("all-reduce", "all-gather") for size in options.sizes]
    for _ in range(options.exchanges):
        for kind, size in order.sample(cells, len(cells)):
            t = torch.zeros(size // 4)
            world = torch.distributed.get_world_size()
            parts = [torch.zeros(size // 4) for _ in range(world)]
            torch.distributed.barrier()
            began = time.perf_counter()
            if kind == "all-reduce":
                torch.distributed.all_reduce(t)
            else:
                torch.distributed.all_gather(parts, t)
            seconds.setdefault((kind, size), []).append(time.perf_counter() - began)
    return [
        {"kind": kind, "bytes": size, "seconds": statistics.median(seconds[kind, size])}
        for kind, size in cells
    ]


# ---- what is measured -------------------------------------------------------------------------


def measured_steps(teams: dict[int, Team], options: Options) -> dict[str, dict[str, float]]:
    """Medians of the rounds, by the way of spreading."""
    cells = [(way, size) for way in WAYS for size in TEAMS]
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {cell: [] for cell in cells}
    order = random.Random(0)
    for _ in range(options.rounds):
        for way, size in order.sample(cells, len(cells)):
            # the slowest rank counts
            seconds[way, size].append(max(teams[size].ask(way)))
    rows = {}
    for way in WAYS:
        alone, two = seconds[way, 1], seconds[way, 2]
        ratios = [a[0] / b[0] for a, b in zip(alone, two, strict=True)]
        rows[way] = {
            "one_ms": 1e3 * statistics.median(s[0] for s in alone),
            "two_ms": 1e3 * statistics.median(s[0] for s in two),
            "one_cpu_ms": 1e3 * statistics.median(s[1] for s in alone),
            "two_cpu_ms": 1e3 * statistics.median(s[1] for s in two),
            "speedup": statistics.median(ratios),
        }
    return rows


# ---- the model --------------------------------------------------------------------------------


def terms(kind: str, size: float, ranks: int) -> tuple[float, float]:
    """Messages one after the other, and bytes through one link, of a ring.

    Args:
        kind: "all-reduce", or "all-gather".
        size: bytes of each rank's tensor.
        ranks: number of ranks.
    """
    others = ranks - 1
    if kind == "all-reduce":
        return 2 * others, 2 * others * size / ranks
    return others, others * size


def fitted(exchanges: list[dict[str, Any]], options: Options) -> dict[str, float]:
    """Alpha in seconds and beta in bytes per second, least squares of relative errors."""
    rows = [terms(row["kind"], row["bytes"], 2) for row in exchanges]
    seconds = np.array([row["seconds"] for row in exchanges])
    (alpha, inverse), _ = nnls(np.array(rows) / seconds[:, None], np.ones(len(rows)))
    predicted = np.array(rows) @ [alpha, inverse]
    return {
        "alpha": alpha if options.alpha is None else options.alpha,
        "beta": 1 / max(inverse, 1e-15) if options.beta is None else options.beta,
        "alpha_us": 1e6 * (alpha if options.alpha is None else options.alpha),
        "gigabytes_per_second": 1e-9 * (1 / max(inverse, 1e-15)),
        "largest_ratio": float(np.exp(np.abs(np.log(predicted / seconds)).max())),
    }


def seconds_of(kind: str, size: float, ranks: int, fit: dict[str, float]) -> float:
    """The model of an exchange."""
    messages, through = terms(kind, size, ranks)
    return messages * fit["alpha"] + through / fit["beta"]


def exchanged(way: str, options: Options, ranks: int, chains: int) -> list[tuple[str, float, int]]:
    """Kind, bytes of each rank's tensor and number of the exchanges of a step.

    Args:
        way: what is spread.
        options: sizes of the model.
        ranks: number of ranks.
        chains: chains of all ranks, and rows.
    """
    n, m = options.visible, options.hidden
    if way == "chains":
        own = chains / ranks
        return [
            ("all-gather", 40, 1),
            ("all-gather", own * (n + m + 20), 1),
            ("all-reduce", 4 * (n * m + n + m), 1),
        ]
    return [
        ("all-gather", 40, 1),
        ("all-reduce", 4 * n * -(-m // 1024), 3),
        ("all-reduce", 4 * chains * n / 2, 2 * options.sweeps),
        ("all-reduce", 8 * chains, 3),
        ("all-gather", chains * m / ranks, 1),
    ]


def extrapolated(
    steps: dict[str, dict[str, float]], fit: dict[str, float], options: Options
) -> dict[str, list[dict[str, float]]]:
    """Seconds of a step by the model, which is not measured beyond two ranks.

    What ranks do not share (checks, the reads of all) is what the two ranks took beyond half of the
    one's time and their exchanges.
    """
    model: dict[str, list[dict[str, float]]] = {}
    for way in WAYS:
        alone = steps[way]["one_ms"] / 1e3
        two = steps[way]["two_ms"] / 1e3

        def sent(ranks: int, way: str = way, chains: int = options.chains) -> float:
            parts = exchanged(way, options, ranks, chains)
            return sum(count * seconds_of(kind, size, ranks, fit) for kind, size, count in parts)

        unshared = min(max(2 * (two - sent(2)) - alone, 0.0), alone)
        model[way] = []
        for ranks in options.ranks:
            exchange = sent(ranks) if ranks > 1 else 0.0
            seconds = unshared + (alone - unshared) / ranks + exchange
            model[way].append(
                {
                    "ranks": ranks,
                    "seconds": seconds,
                    "exchange_ms": 1e3 * exchange,
                    "speedup": alone / seconds,
                }
            )
    model["chains per rank"] = grown(steps, fit, options)
    return model


def grown(
    steps: dict[str, dict[str, float]], fit: dict[str, float], options: Options
) -> list[dict[str, float]]:
    """As many chains on each rank as one has alone: chains per second, in those of one rank."""
    alone = steps["chains"]["one_ms"] / 1e3
    rows = []
    for ranks in options.ranks:
        parts = exchanged("chains", options, ranks, options.chains * ranks)
        sent = sum(count * seconds_of(kind, size, ranks, fit) for kind, size, count in parts)
        # statistics beyond 1,024 chains are in double precision
        seconds = alone + (sent if ranks > 1 else 0.0)
        rows.append({"ranks": ranks, "seconds": seconds, "speedup": ranks * alone / seconds})
    return rows


# ---- words and pictures -----------------------------------------------------------------------


def say(result: dict[str, Any]) -> None:
    """The figures, as lines."""
    for way, row in result["steps"].items():
        print(
            "{way:14} one rank {one_ms:7.1f} ms   two {two_ms:7.1f} ms   {speedup:.2f} x   "
            "(CPU {one_cpu_ms:.1f}, {two_cpu_ms:.1f} ms)".format(way=way, **row)
        )
    print(
        "fitted: {alpha_us:.0f} us, {gigabytes_per_second:.2f} GB/s, within a factor of "
        "{largest_ratio:.2f}".format(**result["fit"])
    )
    for way, rows in result["model"].items():
        each = "  ".join(f"{row['ranks']}: {row['speedup']:.1f}" for row in rows)
        print(f"model, {way}: {each}")


def table(result: dict[str, Any]) -> str:
    """Lines of Markdown, each with the marks of its figures."""
    lines = [
        "| a PCD step | one rank | two ranks | | by the model, of ranks |",
        "|---|---|---|---|---|",
    ]
    for way, row in result["steps"].items():
        model = result["model"][way]
        shown = range(3, len(model), 3)
        marks = [f"ranks/steps/{way}/{key}_ms .0f" for key in ("one", "two")]
        marks += [f"ranks/steps/{way}/speedup .2f"]
        marks += [f"ranks/model/{way}/{k}/speedup .1f" for k in shown]
        of_ranks = ", ".join(f"{model[k]['ranks']}: {model[k]['speedup']:.1f} x" for k in shown)
        lines.append(
            f"| {way} spread | {row['one_ms']:.0f} ms | {row['two_ms']:.0f} ms | "
            f"{row['speedup']:.2f} x | {of_ranks} <!-- figures: {'; '.join(marks)} --> |"
        )
    grown = result["model"]["chains per rank"]
    shown = range(3, len(grown), 3)
    of_ranks = ", ".join(f"{grown[k]['ranks']}: {grown[k]['speedup']:.1f} x" for k in shown)
    marks = [f"ranks/model/chains per rank/{k}/speedup .1f" for k in shown]
    lines.append(
        f"| as many chains on each rank | | | | {of_ranks} <!-- figures: {'; '.join(marks)} --> |"
    )
    fit = result["fit"]
    lines += [
        "",
        f"Fitted to two ranks on one machine: α = {fit['alpha_us']:.0f} µs, "
        f"β = {fit['gigabytes_per_second']:.2f} GB/s, within a factor of "
        f"{fit['largest_ratio']:.1f} of every size from 1 KiB to 16 MiB.",
        "<!-- figures: ranks/fit/alpha_us .0f; ranks/fit/gigabytes_per_second .2f; "
        "ranks/fit/largest_ratio .1f -->",
    ]
    return "\n".join(lines) + "\n"


def rewritten(page: str, result: dict[str, Any]) -> str:
    """The page with the table between its marks."""
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}{table(result)}{END}{tail}"


def picture(result: dict[str, Any]) -> Figure:
    """Exchanges with their fit, and the model's speed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    for kind, colour in (("all-reduce", OURS), ("all-gather", THEIRS)):
        rows = [row for row in result["exchanges"] if row["kind"] == kind]
        sizes = [row["bytes"] for row in rows]
        left.plot(sizes, [row["seconds"] for row in rows], "o", color=colour, label=kind)
        model = [seconds_of(kind, size, 2, result["fit"]) for size in sizes]
        left.plot(sizes, model, "-", color=colour)
    left.set(xlabel="bytes", ylabel="seconds, two ranks", xscale="log", yscale="log")
    for (way, rows), line in zip(result["model"].items(), ("-", "--", ":"), strict=True):
        ranks = [row["ranks"] for row in rows]
        right.plot(ranks, [row["speedup"] for row in rows], line, color=OURS, label=way)
    for way, row in result["steps"].items():
        label = "measured" if way == WAYS[0] else None
        right.plot([1, 2], [1, row["speedup"]], "o", color=THEIRS, label=label)
    right.set(
        xlabel="ranks (beyond 2 a model)", ylabel="times one rank", xscale="log", yscale="log"
    )
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
