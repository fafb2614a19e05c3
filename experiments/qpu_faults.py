"""A thousand calls of `DWave` while the service fails in every way it knows: what was lost, doubled or overspent?

    python experiments/qpu_faults.py --out runs/qpu_faults

Each call draws two problems, a gauge a job, from a loopback processor under a random mix of all faults. Every read is
compared with what the processor drew for that very job. Calls go on until the budget refuses one. Writes results.json
and faults.png; the ledger and the recording lie beside them. Exits with 1 where anything was wrong.
"""

from __future__ import annotations

import collections
import json
import os
import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import DWave
from qsample.annealers.dwave import BudgetExceeded, DeviceError
from qsample.support.progress import progress_bar
from qsample.testing.sapi import EVERY, SolverServer

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Options:
    """Calls, faults and budget."""

    out: Path = Path("runs/qpu_faults")
    """folder for results.json, faults.png, ledger.jsonl and recording.jsonl"""
    calls: int = 1000
    """calls at most"""
    chance: float = 0.01
    """of each kind of fault at each request"""
    budget: float = 52.0
    """seconds of QPU access time, of which a call without faults takes about 0.05"""
    seed: int = 0
    """of problems, gauges and faults"""


def random_problem(seed: int) -> qs.Ising:
    """A batch of two on K_4,4, one cell of the chip."""
    g = torch.Generator().manual_seed(seed)
    graph = qs.Graph.sparse(8, [(a, b) for a in range(4) for b in range(4, 8)])
    return qs.Ising(graph, torch.randn(2, 8, generator=g) / 2, torch.randn(16, generator=g) / 2)


def call(device: DWave, server: SolverServer, used: set[str], k: int) -> None:
    """Draw, and compare each read with the job that it is said to come from; AssertionError where it differs."""
    problem = random_problem(k)
    found = device.sample(problem, 4, generator=torch.Generator().manual_seed(k))
    jobs, names = {job.id: job for job in server.jobs}, found.info["job_ids"]
    assert len(names) == 4 and not used & set(names), f"call {k}: jobs lost or counted twice"
    used.update(names)
    for place, name in enumerate(names):
        b, part = divmod(place, 2)
        gauge = found.info["gauge"][b, part]
        drawn = torch.from_numpy(jobs[name].spins) * gauge
        assert torch.equal(drawn, found.spins[b].reshape(2, 2, 8)[part]), (
            f"call {k}: reads that {name} did not draw"
        )
        h = torch.from_numpy(jobs[name].problem.h) * gauge / found.info["scale"]
        assert torch.allclose(h, problem.h[b].double(), atol=1e-5), (
            f"call {k}: {name} is of another problem"
        )


def main(o: Options) -> None:
    """Run, judge, draw."""
    torch.set_num_threads(1)
    os.environ |= {"DWAVE_CONFIG_FILE": os.devnull, "DWAVE_CACHE_ENABLED": "0"}
    o.out.mkdir(parents=True, exist_ok=True)
    ledger, record = o.out / "ledger.jsonl", o.out / "recording.jsonl"
    for path in (ledger, record):
        path.unlink(missing_ok=True)
    bar = progress_bar(range(o.calls), unit="call")
    threads = set(threading.enumerate())  # the bar's own among them
    seconds, wrong, used = list[float](), list[str](), set[str]()
    outcomes: collections.Counter[str] = collections.Counter()
    with SolverServer("chimera-4") as server:
        where: dict[str, Any] = {"client": {"endpoint": server.endpoint}, "token": server.token}
        limits: dict[str, Any] = {"timeout": 20.0, "backoff": 0.01, "budget": o.budget}
        with DWave(
            num_reads=2, gauges=2, copies=1, ledger=ledger, record=record, **limits, **where
        ) as device:
            device.sample(random_problem(0), 4)  # the pilot's job belongs to no call
            server.faults.mix(dict.fromkeys(EVERY, o.chance), seed=o.seed)
            for k in bar:
                begun = time.perf_counter()
                try:
                    call(device, server, used, o.seed * o.calls + k)
                    outcomes["right"] += 1
                except BudgetExceeded:
                    outcomes["refused by the budget"] += 1
                except DeviceError as error:
                    outcomes["an error in one line"] += 1
                    if "refused the token" not in str(error) or "\n" in str(error):
                        wrong.append(f"call {k}: {error}")
                except AssertionError as error:
                    wrong.append(str(error))
                seconds.append(time.perf_counter() - begun)
                if server.charged > 1e6 * min(device.spent, o.budget) + 1e-3:
                    wrong.append(
                        f"call {k}: {server.charged / 1e6:.3f} s charged, {device.spent:.3f} in the ledger"
                    )
            spent, charged = device.spent, server.charged / 1e6
            faults = collections.Counter(f"{fault[0]} {fault[1]}" for fault in server.faults.seen)
        token = server.token
    left = [one.name for one in threading.enumerate() if one not in threads]
    leaks = [
        path.name
        for path in o.out.iterdir()
        if path.suffix == ".jsonl" and token in path.read_text()
    ]
    wrong += [f"thread left: {name}" for name in left] + [
        f"the token is in {name}" for name in leaks
    ]
    result = {
        "outcomes": outcomes,
        "faults": faults,
        "wrong": wrong,
        "spent": spent,
        "charged": charged,
    }
    result |= {
        "budget": o.budget,
        "median_seconds": statistics.median(seconds),
        "worst_seconds": max(seconds),
    }
    (o.out / "results.json").write_text(json.dumps(result, indent=1))
    told = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    print(
        f"{len(seconds)} calls under {faults.total()} faults of {len(faults)} kinds: {told}; {len(wrong)} wrong"
    )
    print(
        f"ledger {spent:.2f} s, charged {charged:.2f} s, budget {o.budget:g} s; worst call {max(seconds):.2f} s"
    )
    print("\n".join([*wrong[:10], f"{o.out / 'results.json'}\n{o.out / 'faults.png'}"]))
    picture(faults, seconds, o)
    if wrong:
        raise SystemExit(1)


def picture(faults: collections.Counter[str], seconds: list[float], o: Options) -> None:
    """How often each fault was met, and how long calls took."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 6))
    names = sorted(faults)
    left.barh(names, [faults[name] for name in names], color="#b35806")
    left.tick_params(axis="y", labelsize=7)
    left.set(xlabel="faults met")
    right.plot(sorted(seconds), torch.linspace(0, 1, len(seconds)), color="#2166ac")
    right.set(xscale="log", xlabel="seconds a call", ylabel="share of calls that took less")
    right.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(o.out / "faults.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
