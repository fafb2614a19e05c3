"""A thousand calls of `DWave` while the service fails in every way: what was lost or overspent?

    python experiments/claims/qpu_faults.py --out runs/qpu_faults

Each call draws two problems, each job under a gauge of its own, from a loopback processor under a
random mix of all faults. Every read is compared with what the processor drew for that very job.
Calls go on until the budget refuses one. The ledger and the recording lie beside the report. Exits
with 1 where anything was wrong.
"""

from __future__ import annotations

import os
import statistics
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import DWave
from qsample.annealers.dwave import BudgetExceeded, DeviceError
from qsample.testing.sapi import EVERY, SolverServer

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import OURS, THEIRS, CommonOptions, Report, command_line, progress_bar

READS = 4
GAUGES = 2


@dataclass(frozen=True)
class Options(CommonOptions):
    """Calls, faults and budget."""

    calls: int = 1000
    """calls at most"""
    chance: float = 0.01
    """probability of each kind of fault at each request"""
    budget: float = 52.0
    """seconds of QPU access time, of which a call without faults takes about 0.05"""
    seed: int = 0
    """seed of problems, gauges and faults"""


@dataclass
class Tally:
    """What became of the calls."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    jobs: set[str] = field(default_factory=set)


def main(options: Options) -> None:
    """Run, judge, draw."""
    os.environ |= {"DWAVE_CONFIG_FILE": os.devnull, "DWAVE_CACHE_ENABLED": "0"}
    report = Report(options, __file__, packages=("dwave-cloud-client",))
    files = [report.folder / "ledger.jsonl", report.folder / "recording.jsonl"]
    for path in files:
        path.unlink(missing_ok=True)
    tally = Tally()
    bar = progress_bar(range(options.calls), unit="call")
    before = set(threading.enumerate())  # the bar's own thread among them
    with SolverServer("chimera-4") as server:
        spent = run(server, files, bar, tally, options)
        charged = server.charged / 1e6
        faults = Counter(f"{fault[0]} {fault[1]}" for fault in server.faults.seen)
        leaks = [path.name for path in files if server.token in path.read_text()]
    tally.wrong += [f"thread left: {t.name}" for t in threading.enumerate() if t not in before]
    tally.wrong += [f"the token is in {name}" for name in leaks]
    result = {
        "calls": len(tally.seconds),
        "outcomes": tally.outcomes,
        "faults": faults,
        "faults_met": faults.total(),
        "wrong": tally.wrong,
        "spent": spent,
        "charged": charged,
        "budget": options.budget,
        "median_seconds": statistics.median(tally.seconds),
        "worst_seconds": max(tally.seconds),
    }
    show(result)
    report.finish(result, picture(faults, tally.seconds))
    if tally.wrong:
        raise SystemExit(1)


def run(server: SolverServer, files: list[Path], bar: Any, tally: Tally, options: Options) -> float:
    """Call until the calls or the budget end; seconds in the ledger.

    Args:
        server: loopback service.
        files: ledger and recording.
        bar: the numbers of the calls.
        tally: what becomes of them.
        options: options of the run.
    """
    settings: dict[str, Any] = {
        "client": {"endpoint": server.endpoint},
        "token": server.token,
        "num_reads": READS // GAUGES,
        "gauges": GAUGES,
        "copies": 1,
        "ledger": files[0],
        "record": files[1],
        "timeout": 20.0,
        "backoff": 0.01,
        "budget": options.budget,
    }
    with DWave(**settings) as device:
        device.sample(random_problem(0), READS)  # the pilot's job belongs to no call
        server.faults.mix(dict.fromkeys(EVERY, options.chance), seed=options.seed)
        for k in bar:
            start = time.perf_counter()
            judge(device, server, tally, k, options)
            tally.seconds.append(time.perf_counter() - start)
            if server.charged > 1e6 * min(device.spent, options.budget) + 1e-3:
                charged = f"{server.charged / 1e6:.3f} s charged"
                tally.wrong.append(f"call {k}: {charged}, {device.spent:.3f} in the ledger")
        return device.spent


def judge(device: DWave, server: SolverServer, tally: Tally, k: int, options: Options) -> None:
    """One call, and what became of it.

    Args:
        device: sampler on the loopback processor.
        server: the processor.
        tally: where it is noted.
        k: number of the call.
        options: options of the run.
    """
    try:
        call(device, server, tally.jobs, options.seed * options.calls + k)
        tally.outcomes["right"] += 1
    except BudgetExceeded:
        tally.outcomes["refused by the budget"] += 1
    except DeviceError as error:
        tally.outcomes["an error in one line"] += 1
        if "refused the token" not in str(error) or "\n" in str(error):
            tally.wrong.append(f"call {k}: {error}")
    except AssertionError as error:
        tally.wrong.append(str(error))


def random_problem(seed: int) -> qs.Ising:
    """A batch of two on K_4,4, one cell of the chip."""
    g = torch.Generator().manual_seed(seed)
    graph = qs.Graph.sparse(8, [(a, b) for a in range(4) for b in range(4, 8)])
    return qs.Ising(graph, torch.randn(2, 8, generator=g) / 2, torch.randn(16, generator=g) / 2)


def call(device: DWave, server: SolverServer, used: set[str], k: int) -> None:
    """Draw, and compare each read with the job that it is said to come from.

    Args:
        device: sampler on the loopback processor.
        server: the processor.
        used: jobs of earlier calls; those of this one are added.
        k: seed of problem and gauges.

    Raises:
        AssertionError: a job is lost or counted twice, or a read is not what its job drew.
    """
    problem = random_problem(k)
    samples = device.sample(problem, READS, generator=torch.Generator().manual_seed(k))
    names = samples.info["job_ids"]
    assert len(names) == 4 and not used & set(names), f"call {k}: jobs lost or counted twice"
    used.update(names)
    jobs = {job.id: job for job in server.jobs}
    for place, name in enumerate(names):
        b, g = divmod(place, GAUGES)
        gauge = samples.info["gauge"][b, g]
        drawn = torch.from_numpy(jobs[name].spins) * gauge
        reads = samples.spins[b].reshape(GAUGES, READS // GAUGES, 8)[g]
        assert torch.equal(drawn, reads), f"call {k}: reads that {name} did not draw"
        h = torch.from_numpy(jobs[name].problem.h) * gauge / samples.info["scale"]
        same = torch.allclose(h, problem.h[b].double(), atol=1e-5)
        assert same, f"call {k}: {name} is of another problem"


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    outcomes = ", ".join(f"{count} {name}" for name, count in result["outcomes"].items())
    kinds = len(result["faults"])
    print(
        f"{result['calls']} calls under {result['faults_met']} faults of {kinds} kinds: {outcomes}"
    )
    print(
        "ledger {spent:.2f} s, charged {charged:.2f} s, budget {budget:g} s; "
        "worst call {worst_seconds:.2f} s".format(**result)
    )
    print("\n".join([f"{len(result['wrong'])} wrong", *result["wrong"][:10]]))


def picture(faults: Counter[str], seconds: list[float]) -> Figure:
    """How often each fault was met, and how long calls took."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 6))
    names = sorted(faults)
    left.barh(names, [faults[name] for name in names], color=THEIRS)
    left.tick_params(axis="y", labelsize=7)
    left.set(xlabel="faults met")
    right.plot(sorted(seconds), torch.linspace(0, 1, len(seconds)), color=OURS)
    right.set(xscale="log", xlabel="seconds per call", ylabel="share of calls that took less")
    right.grid(alpha=0.3)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
