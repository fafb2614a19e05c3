"""The gradient of an RBM of up to a billion weights: time and memory of a CD-1 step, both sides.

    python experiments/benchmarks/billion.py --out runs/billion

A step is `ContrastiveDivergence` from the data, one sweep, and `backward()`, with as many units on
either side and 64 rows. Beside it stand a step by hand in plain torch, and the four products that
any step takes: the hidden units' field of the data, the visible units' of those, the hidden units'
of these, and one stacked product of both statistics. The three are timed in turn, in one process
that has W and its gradient once; each round makes every call once, in random order. A process of
its own then measures the peak of each one's memory, bfloat16 storage, and a run of `fit` that
applies each gradient as it is made, so that none exists. `qsample` zeroes its
`.grad` and adds to it; `qsample, new gradient` lets each step allocate it. The largest size needs
11 GiB; one that does not fit is left out, with the reason.

With `--device cuda` all is measured in one process, a time is that of many steps between two
synchronisations, the peak is that of torch's allocator, and the results are named `billion_cuda`.
There the steps of bfloat16 weights are timed beside plain torch's too.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import Gibbs
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.benchmarks.calls import isolated
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    Seconds,
    command_line,
    medians,
    paired_rounds,
    ratio,
)

Step = Callable[[], Any]
GIB = 2**30
ALONE = ("qsample", "qsample, bfloat16", "plain torch", "fit, fused")
"""what is measured in a process of its own"""
CALLS = 20
"""steps of a timing on a GPU, where one takes milliseconds"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """Sizes and rounds."""

    sides: tuple[int, ...] = (1024, 4096, 8192, 16384, 32768)
    """units on either side; the weights are their squares"""
    batch: int = 64
    """rows of data, and chains"""
    rounds: int = 5
    """rounds of each size"""
    threads: int = 2
    """torch threads"""
    device: str = "cpu"
    """where: cpu, or cuda"""
    cell: tuple[int, str] | None = None
    """a size, and times or one of what is measured alone: print just that as JSON"""


def main(options: Options) -> None:
    """Measure each size in processes of their own, print, draw."""
    if options.cell is not None:
        torch.set_num_threads(options.threads)
        side, what = options.cell
        print(json.dumps(measured(side, what, options)))
        return
    on_gpu = options.device != "cpu"
    report = Report(options, __file__, variant="_cuda" if on_gpu else "")
    card = {"card": torch.cuda.get_device_name(options.device)} if on_gpu else {}
    kinds = ("times", *(["times, bfloat16"] if on_gpu else []), *ALONE)
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, Any]] = []
    for side in options.sides:
        row: dict[str, Any] = {"side": side, "weights": side * side}
        for what in kinds:
            cell = on_device(side, what, options) if on_gpu else apart(side, what, options)
            if isinstance(cell, str):
                left_out.append({"side": side, "what": what, "reason": cell})
                print(f"left out: {what} of {side} ({cell})")
            else:
                row[what] = cell
        rows.append(row)
        say(row)
        report.write({**card, "rows": rows, "left_out": left_out})
    report.finish({**card, "rows": rows, "left_out": left_out}, picture(rows))


def measured(side: int, what: str, options: Options) -> dict[str, Any]:
    """One cell of the table."""
    if what.startswith("times"):
        return times(side, options, dtype_of(what))
    return alone(side, what, options)


def apart(side: int, what: str, options: Options) -> dict[str, Any] | str:
    """A cell by a process of its own; or why there is none."""
    arguments = ["--batch", options.batch, "--rounds", options.rounds]
    arguments += ["--threads", options.threads, "--device", options.device]
    return isolated(__file__, "--cell", side, what, *arguments)


def on_device(side: int, what: str, options: Options) -> dict[str, Any] | str:
    """A cell on a GPU, whose memory is as empty as in a process of its own."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(options.device)
    try:
        return measured(side, what, options)
    except (MemoryError, ValueError, torch.OutOfMemoryError) as error:
        return str(error).splitlines()[0]


def dtype_of(what: str) -> torch.dtype:
    """The type of the weights."""
    return torch.bfloat16 if what.endswith("bfloat16") else torch.float32


def say(row: dict[str, Any]) -> None:
    """One size, as a line for each figure."""
    for kind in ("times", "times, bfloat16"):
        for name, figures in row.get(kind, {}).items():
            label = name + kind.removeprefix("times")
            print(
                f"{row['side']:6} {label:32} {figures['seconds']:9.4f} s "
                f"(best {figures['fastest']:.4f}), {figures['over_products']:.3f} x its products"
            )
    for name in ALONE:
        if name in row:
            print(
                "{side:6} {name:32} {peak_gib:8.3f} GiB, {over_weights:.3f} x (weights + gradient),"
                " {seconds:.4f} s".format(side=row["side"], name=name, **row[name])
            )


# ---- what is measured -------------------------------------------------------------------------


def times(side: int, options: Options, dtype: torch.dtype) -> dict[str, Any]:
    """Seconds of each step in paired rounds, and its ratio to the products'."""
    model, data = made(side, options, dtype)
    model.W.grad = torch.zeros_like(model.W)
    settled = [settled_on(options.device, step) for step in steps(model, data)]
    names = ("qsample", "plain torch", "products")
    calls: dict[str, Step] = dict(zip(names, settled, strict=True))
    for call in calls.values():
        call()
    seconds = paired_rounds(calls, options.rounds, pause=0.1, quiet=True)
    # its gradient is its own, so it comes last, when nothing else needs the memory
    model.zero_grad()
    last = settled_on(options.device, ours(model, data, keeps=False))
    last()
    new = paired_rounds({"new": last}, options.rounds, pause=0.1, quiet=True)["new"]
    steps_of = calls_of(options.device)
    rows = {name: figures(seconds[name], seconds["products"], steps_of) for name in seconds}
    rows["qsample, new gradient"] = figures(new, seconds["products"], steps_of)
    return rows


def figures(seconds: list[Seconds], base: list[Seconds], calls: int) -> dict[str, float]:
    """Medians of so many calls, for one; and the ratio to the products of the same round."""
    wall, cpu = medians(seconds)
    return {
        "seconds": wall / calls,
        "cpu_seconds": cpu / calls,
        "fastest": min(s.wall for s in seconds) / calls,
        "over_products": ratio(seconds, base),
        "over_products_cpu": ratio(seconds, base, "cpu"),
    }


def alone(side: int, what: str, options: Options) -> dict[str, float]:
    """Peak memory and time of one kind of step, in a process that does nothing else."""
    before = peak(options.device)
    model, data = made(side, options, dtype_of(what))
    if what == "fit, fused":
        wall = fused(model, data, options)
        return {"seconds": wall} | memory(model, before, options)
    if what == "plain torch":
        model.W.grad = torch.zeros_like(model.W)
        step = steps(model, data)[1]
    else:
        step = ours(model, data, keeps=True)
    step = settled_on(options.device, step)
    step()
    wall, cpu = medians(paired_rounds({what: step}, options.rounds, quiet=True)[what])
    calls = calls_of(options.device)
    times = {"seconds": wall / calls, "cpu_seconds": cpu / calls}
    return times | memory(model, before, options)


def memory(model: BernoulliRBM, before: int, options: Options) -> dict[str, float]:
    """Peak memory, and what of it is new in times of the weights and their gradient."""
    used = peak(options.device)
    both = 2 * model.W.numel() * model.W.element_size()
    return {"peak_gib": used / GIB, "over_weights": (used - before) / both}


class Clock(qs.Callback):
    """The times at which updates end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_update(self, run: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def fused(model: BernoulliRBM, data: Tensor, options: Options) -> float:
    """Median seconds of an update of `fit` without a gradient; not of the last, which is judged."""
    clock = Clock()
    updates = options.rounds + 2
    settings = qs.Settings(
        updates=updates,
        batch=len(data),
        chains=len(data),
        start="data",
        optimizer="sgd",
        lr=1e-3,
        fused_update=True,
        evaluate_every=updates,
    )
    qs.fit(model, data, Gibbs(1), settings, progress=False, callbacks=[clock])
    return statistics.median(b - a for a, b in pairwise(clock.times[:-1]))


def made(side: int, options: Options, dtype: torch.dtype) -> tuple[BernoulliRBM, Tensor]:
    """A model of `side` units on either side, and rows of 0 and 1."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)  # so that W is never in another one
    with torch.device(options.device):
        model = BernoulliRBM(side, side)
    torch.set_default_dtype(torch.float32)
    data = (torch.rand(options.batch, side) < 0.2).float().to(options.device)
    return model, data


def calls_of(device: str) -> int:
    """Steps of one timing."""
    return 1 if device == "cpu" else CALLS


def settled_on(device: str, step: Step) -> Step:
    """So many steps, until the device has done them."""
    if device == "cpu":
        return step

    def whole() -> None:
        for _ in range(calls_of(device)):
            step()
        torch.cuda.synchronize()

    return whole


def peak(device: str) -> int:
    """Bytes that were in use at most: of the process, or of the device's allocator."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return torch.cuda.max_memory_allocated()


# ---- steps ------------------------------------------------------------------------------------


def ours(model: BernoulliRBM, data: Tensor, keeps: bool) -> Step:
    """Our step; `keeps`: the gradient's memory, which is set to zero."""
    cd = qs.ContrastiveDivergence(model, Gibbs(1), start="data")

    def step() -> None:
        model.zero_grad(set_to_none=not keeps)
        cd(data).backward()

    return step


def steps(model: BernoulliRBM, data: Tensor) -> tuple[Step, Step, Step]:
    """Our step, that of plain torch and the products alone, on one W and one gradient."""
    ours_of = ours(model, data, keeps=True)
    W, b, c = (p.detach() for p in model.parameters())
    grad = model.W.grad
    assert grad is not None
    N = len(data)
    data = data.to(W)
    stacked = torch.rand(2 * N, W.shape[0], device=W.device).round().to(W)
    hidden = torch.rand(2 * N, W.shape[1], device=W.device).to(W)

    def drawn(field: Tensor) -> Tensor:
        return (torch.rand_like(field) < field.sigmoid()).to(field)

    def plain() -> None:
        field = torch.addmm(c, data, W)
        v = drawn(torch.addmm(b, drawn(field), W.T))
        negative = torch.addmm(c, v, W).sigmoid()
        x = torch.cat([data, v])
        p = torch.cat([field.sigmoid().neg_(), negative]).div_(N)
        torch.mm(x.T, p, out=grad)
        model.b.grad = v.mean(0) - data.mean(0)
        model.c.grad = p.sum(0)

    def products() -> None:
        torch.mm(data, W)
        torch.mm(hidden[:N], W.T)
        torch.mm(stacked[:N], W)
        torch.mm(stacked.T, hidden, out=grad)

    return ours_of, plain, products


# ---- picture ----------------------------------------------------------------------------------


def picture(rows: list[dict[str, Any]]) -> Figure:
    """Time and peak memory against the number of weights."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
    styles = {"qsample": (OURS, "-"), "plain torch": (THEIRS, "-"), "products": ("0.5", ":")}
    timed = [row for row in rows if "times" in row]
    for name, (colour, line) in styles.items():
        seconds = [row["times"][name]["seconds"] for row in timed]
        left.plot([row["weights"] for row in timed], seconds, line, color=colour, label=name)
    left.set(xlabel="weights", ylabel="seconds per step", xscale="log", yscale="log")
    for name, line in zip(ALONE, ("-", "--", "-", ":"), strict=True):
        measured = [row for row in rows if name in row]
        colour = THEIRS if name == "plain torch" else OURS
        peaks = [row[name]["peak_gib"] for row in measured]
        right.plot([row["weights"] for row in measured], peaks, line, color=colour, label=name)
    least = [8 * row["weights"] / GIB for row in rows]
    right.plot(
        [row["weights"] for row in rows], least, ":", color="0.5", label="W and its gradient"
    )
    right.set(xlabel="weights", ylabel="peak memory, GiB", xscale="log", yscale="log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
