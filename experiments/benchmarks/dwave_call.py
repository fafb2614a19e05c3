"""Our own time in a call of `DWave`, beside that of D-Wave's PyTorch plugin, on a loopback chip.

    python experiments/benchmarks/dwave_call.py --out runs/dwave_call

Own time is what is left of a call without dwave-cloud-client's check and encoding (`_sample`) and
the wait for HTTP, decoding and its SampleSet (`Future.wait`, `wait_id`, `wait_sampleset`), by
timestamps at those calls. Rounds are paired and in random order; a ratio is the median over rounds
of the ratio within a round. The plugin is left out where it is not installed. The second part draws
100 conditional problems in one call and counts the programmings.
"""

from __future__ import annotations

import functools
import importlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import DWave
from qsample.testing.sapi import Chip, SolverServer

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, command_line, progress_bar

Call = Callable[[], Any]


@dataclass(frozen=True)
class Options(CommonOptions):
    """The chip and the rounds."""

    topology: str = "zephyr-12"
    """topology of the loopback chip"""
    rounds: int = 15
    """paired rounds"""
    problems: int = 100
    """conditional problems in one call"""


def main(options: Options) -> None:
    """Time calls of one read, then lay many problems beside each other."""
    os.environ |= {"DWAVE_CACHE_ENABLED": "0", "DWAVE_CONFIG_FILE": os.devnull}
    packages = ("dwave-cloud-client", "dwave-pytorch-plugin")
    report = Report(options, __file__, packages)
    clock = client_clock()
    with SolverServer(options.topology, chip=Chip(sweeps=2)) as server:
        result = one_read(server, clock, options)
        result["tiles"] = tiles(server, options)
    for name, row in result["calls"].items():
        print(f"{name:8} {1e3 * row['own']:.2f} ms of its own of {1e3 * row['total']:.1f} ms")
    print("{problems} problems in {programmings} programmings".format(**result["tiles"]))
    report.finish(result, picture(result["calls"], options))


class Clock:
    """Seconds inside the client, from outside: those of the outermost of the calls wrapped."""

    def __init__(self) -> None:
        self.inside = 0.0
        self._depth = 0

    def wrap(self, owner: Any, name: str) -> None:
        """Time a method."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            self._depth += 1
            try:
                return original(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.inside += time.perf_counter() - start

        setattr(owner, name, timed)

    def measure(self, call: Call) -> dict[str, float]:
        """Seconds of a call: in all, and of its own."""
        self.inside = 0.0
        start = time.perf_counter()
        call()
        total = time.perf_counter() - start
        return {"total": total, "own": total - self.inside}


def client_clock() -> Clock:
    """A clock on the client's check, encoding, and wait for HTTP and decoding."""
    from dwave.cloud.computation import Future
    from dwave.cloud.solver import StructuredSolver

    clock = Clock()
    clock.wrap(StructuredSolver, "_sample")
    for name in ("wait", "wait_id", "_load_result", "wait_sampleset"):
        clock.wrap(Future, name)
    return clock


def one_read(server: SolverServer, clock: Clock, options: Options) -> dict[str, Any]:
    """Calls of one read of the whole chip: ours, and the plugin's.

    Args:
        server: loopback service.
        clock: tells the client's time.
        options: options of the run.
    """
    with ExitStack() as stack:
        device = stack.enter_context(DWave(**access(server), prefactor=1.0))
        properties = dict(device.state.device(device).properties)
        problem = whole_chip(properties)
        calls: dict[str, Call] = {"DWave": lambda: device.sample(problem, 1)}
        theirs = plugin(server, properties, problem.J, stack)
        if theirs is not None:
            calls["plugin"] = theirs
        for call in calls.values():
            call()  # imports, placements, connections
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
        order = random.Random(0)
        for _ in progress_bar(range(options.rounds)):
            for name in order.sample(list(calls), len(calls)):
                rounds[name].append(clock.measure(calls[name]))
    result: dict[str, Any] = {
        "spins": problem.num_spins,
        "couplers": problem.graph.num_edges,
        "calls": {name: {k: median(rows, k) for k in rows[0]} for name, rows in rounds.items()},
    }
    if "plugin" in rounds:
        pairs = zip(rounds["DWave"], rounds["plugin"], strict=True)
        ratios = [ours["own"] / theirs["own"] for ours, theirs in pairs]
        result["own_ratio"] = statistics.median(ratios)
    return result


def access(server: SolverServer) -> dict[str, Any]:
    """The settings by which a `DWave` reaches a loopback server."""
    return {"client": {"endpoint": server.endpoint}, "token": server.token}


def whole_chip(properties: dict[str, Any]) -> qs.Ising:
    """Small random couplings on every coupler of a chip."""
    qubits = list(properties["qubits"])
    place = {q: k for k, q in enumerate(qubits)}
    edges = torch.tensor([[place[a], place[b]] for a, b in properties["couplers"]])
    J = 0.05 * torch.randn(len(edges), generator=torch.Generator().manual_seed(0))
    graph = qs.Graph.sparse(len(qubits), edges, qubits)
    return qs.Ising(graph, torch.zeros(len(qubits)), J)


def plugin(
    server: SolverServer, properties: dict[str, Any], J: torch.Tensor, stack: ExitStack
) -> Call | None:
    """One read by dwave-pytorch-plugin's DimodSampler on DWaveSampler, where it is installed.

    Args:
        server: loopback service.
        properties: the chip's properties.
        J: coupling of each coupler.
        stack: closes the client at its end.
    """
    try:
        models: Any = importlib.import_module("dwave.plugins.torch.models")
        samplers: Any = importlib.import_module("dwave.plugins.torch.samplers")
    except ImportError:
        return None
    from dwave.system import DWaveSampler

    edges = [tuple(pair) for pair in properties["couplers"]]
    quadratic = dict(zip(edges, J.tolist(), strict=True))
    model = models.GraphRestrictedBoltzmannMachine(
        properties["qubits"], edges, quadratic=quadratic, linear={}
    )
    device = DWaveSampler(endpoint=server.endpoint, token=server.token)
    stack.callback(device.close)
    settings = {"num_reads": 1, "auto_scale": False}
    return samplers.DimodSampler(model, device, 1.0, sample_kwargs=settings).sample


def median(rows: list[dict[str, float]], key: str) -> float:
    """Median of a figure over rounds."""
    return statistics.median(row[key] for row in rows)


def tiles(server: SolverServer, options: Options) -> dict[str, Any]:
    """Many small problems in one call: the programmings, seconds and QPU time that it takes."""
    generator = torch.Generator().manual_seed(1)
    h = torch.randn(options.problems, 16, generator=generator)
    batch = qs.Ising(qs.Graph.bipartite(8, 8), h, torch.full((8, 8), 0.1))
    with DWave(**access(server)) as device:
        device.sample(batch, 1)  # the pilot, and the placement
        before = server.programmings
        start = time.perf_counter()
        samples = device.sample(batch, 100)
        return {
            "problems": options.problems,
            "programmings": server.programmings - before,
            "seconds": time.perf_counter() - start,
            "qpu_access_time": samples.info["qpu_access_time"],
        }


def picture(calls: dict[str, dict[str, float]], options: Options) -> Figure:
    """Bars of each call: its own time, and the client's."""
    size = (6, 1.5 + 0.5 * len(calls))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    own = [1e3 * row["own"] for row in calls.values()]
    rest = [1e3 * (row["total"] - row["own"]) for row in calls.values()]
    axes.barh(list(calls), own, label="own")
    axes.barh(list(calls), rest, left=own, label="client and HTTP", color="0.85")
    axes.set_xlabel(f"ms of a call: 1 read on {options.topology}, no QPU time")
    axes.legend()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
