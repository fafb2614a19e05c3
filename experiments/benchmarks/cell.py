"""What the process of a column times: an engine on a case, as often as `Effort` says."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch

import qsample as qs
from experiments.benchmarks import pcd, products
from experiments.benchmarks.calls import Call, caller
from experiments.benchmarks.cases import Case
from experiments.benchmarks.instances import BETAS, make, numbers, sizes
from experiments.common import Seconds, instruction_sets, medians, paired_rounds, ratio, timed
from qsample.annealers.kernels import native

Row = dict[str, Any]


@dataclass(frozen=True)
class Effort:
    """How long an engine is timed on a case, each time that it is its turn."""

    calls: int = 3
    """timed calls; more where they are short"""
    shortest: float = 0.3
    """seconds for which short calls go on"""
    longest: float = 1.8
    """seconds after which a slow call is not repeated"""
    pairs: int = 9
    """calls of a case and its base in turn; fewer where they are slow"""


QUICK = Effort(calls=1, shortest=0.0, longest=0.0, pairs=1)


def visit(case: Case, engine: str, effort: Effort) -> list[Row] | str:
    """A row for each number of threads; or why there is none.

    Args:
        case: what to call.
        engine: "qsample", or one of another package, as `caller` names it.
        effort: how often and how long.
    """
    try:
        if case.base is not None:
            return [paired(case, threads, effort) for threads in case.threads]
        threads = case.threads if engine == "qsample" else (1,)
        return [alone(case, engine, number, effort) for number in threads]
    except Exception as error:  # a package that is missing, a problem that it refuses
        return f"{type(error).__name__}: {error}"


# ---- calls of a sampler -----------------------------------------------------------------------


def alone(case: Case, engine: str, threads: int, effort: Effort) -> Row:
    """A row of whole calls.

    Args:
        case: what to call.
        engine: whose call.
        threads: threads of the call.
        effort: how often and how long.
    """
    torch.set_num_threads(threads)
    instance, reads, sweeps = sizes(case.name)
    problem = instance_of(instance)
    call = warm_call(case, engine)
    seconds: list[Seconds] = []
    while not enough(seconds, effort):
        seconds.append(timed(call))
    return (
        head(case, engine, threads)
        | {"problems": problem.batch_shape.numel(), "spins": problem.num_spins}
        | {"reads": reads, "sweeps": sweeps}
        | clocks(seconds)
    )


@cache
def instance_of(name: str) -> qs.Ising:
    """The instance, made once, so that what a graph lays out is there in the next round."""
    return make(name)


@cache
def warm_call(case: Case, engine: str) -> Call:
    """The call, made once before it is timed."""
    instance, reads, sweeps = sizes(case.name)
    first, last = BETAS.get(case.kind, (1.0, 1.0))
    betas = np.linspace(first, last, sweeps).tolist()
    call = caller(engine, instance_of(instance), betas, reads, warm=case.kind == "rbm")
    call()
    return call


def enough(seconds: Sequence[Seconds], effort: Effort) -> bool:
    """Whether a call has been timed often enough: at least once, few times where it is slow."""
    total = sum(s.wall for s in seconds)
    limit = effort.longest if len(seconds) < effort.calls else effort.shortest
    return len(seconds) > 0 and total >= limit


# ---- calls beside a base ----------------------------------------------------------------------


def paired(case: Case, threads: int, effort: Effort) -> Row:
    """A row of calls in turn with the base's.

    Args:
        case: what to call.
        threads: threads of both.
        effort: how many pairs.
    """
    torch.set_num_threads(threads)
    calls = warm_pair(case)
    slow = sum(timed(call).wall for call in calls.values())
    pairs = min(effort.pairs, 1 + int(effort.longest / slow))
    seconds = paired_rounds(calls, pairs, pause=0.1, quiet=True)
    more: Row = {}
    if case.kind == "products":
        each = 1 / products.SWEEPS
        ours = [
            Seconds((a.wall - b.wall) * each, (a.cpu - b.cpu) * each)
            for a, b in zip(seconds["more"], seconds["one"], strict=True)
        ]
        base = [Seconds(s.wall * each, s.cpu * each) for s in seconds["products"]]
        more["seconds_of_a_single_call"] = medians(seconds["one"]).wall
    else:
        ours = seconds["qsample"]
        base = seconds["plain torch"]
    _, chains, sweeps = sizes(case.name)
    of_base = {f"base_{key}": value for key, value in clocks(base).items()}
    return (
        head(case, "qsample", threads)
        | {"reads": chains, "sweeps": sweeps, "base": case.base}
        | clocks(ours)
        | more
        | of_base
        | {"times_base": ratio(ours, base), "times_base_cpu": ratio(ours, base, "cpu")}
    )


@cache
def warm_pair(case: Case) -> dict[str, Callable[[], Any]]:
    """The calls by name, each made before it is timed."""
    instance, chains, sweeps = sizes(case.name)
    size = instance.partition("-")[2]
    if case.kind == "products":
        calls = products.calls(instance_of(f"rbm-{size}"), chains)
    else:
        visible, hidden = numbers(size)
        options = pcd.Options(visible=visible, hidden=hidden, batch=chains, sweeps=sweeps)
        if case.kind == "cd":
            options = replace(options, start="data", steps=20)
        calls = pcd.pair(options, bfloat16=case.kind == "pcd_bfloat16")
    for call in calls.values():
        call()
    return calls


# ---- rows -------------------------------------------------------------------------------------


def head(case: Case, engine: str, threads: int) -> Row:
    """What a row begins with; its instruction set is that which this process in truth uses.

    Args:
        case: case.
        engine: engine.
        threads: threads.
    """
    isa = (native.ISA or instruction_sets()[0]) if engine == "qsample" else None
    return {"problem": case.name, "engine": engine, "isa": isa, "threads": threads}


def clocks(seconds: Sequence[Seconds]) -> Row:
    """Medians and the fastest call."""
    wall, cpu = medians(seconds)
    return {"seconds": wall, "cpu_seconds": cpu, "fastest": min(s.wall for s in seconds)}


def median_row(rows: Sequence[Row]) -> Row:
    """The row of several rounds: medians of the figures, the fastest call of all."""
    figures = {}
    for key, value in rows[0].items():
        if isinstance(value, float):
            figures[key] = statistics.median(row[key] for row in rows)
        if key.endswith("fastest"):
            figures[key] = min(row[key] for row in rows)
    return rows[0] | figures | {"rounds": len(rows)}
