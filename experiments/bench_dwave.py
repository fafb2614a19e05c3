"""Our own time in a call of `DWave`, beside that of D-Wave's PyTorch plugin if it is installed, on a loopback chip.

    python experiments/bench_dwave.py --out runs/bench_dwave

Own time is what is left of a call without dwave-cloud-client's check and encoding (`_sample`) and the wait for HTTP,
decoding and its SampleSet (`Future.wait`, `wait_id`, `wait_sampleset`), by timestamps at those calls. Rounds are paired
and in random order; a ratio is the median over rounds of the ratio within a round. The second part draws 100
conditional problems in one call and counts the programmings. Writes results.json and calls.png.
"""

from __future__ import annotations

import functools
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import DWave
from qsample.support.progress import progress_bar
from qsample.testing.sapi import Chip, SolverServer

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Options:
    """The chip and the rounds."""

    out: Path = Path("runs/bench_dwave")
    """folder for results.json and calls.png"""
    topology: str = "zephyr-12"
    """of the loopback chip"""
    rounds: int = 15
    """paired rounds"""
    problems: int = 100
    """conditional problems in one call"""


class Clock:
    """Seconds inside the client, from outside: the outermost of the calls wrapped."""

    def __init__(self) -> None:
        self.inside, self._depth = 0.0, 0

    def wrap(self, where: Any, name: str) -> None:
        """Time a method."""
        original = getattr(where, name)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun, self._depth = time.perf_counter(), self._depth + 1
            try:
                return original(*args, **kwargs)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.inside += time.perf_counter() - begun

        setattr(where, name, timed)

    def measure(self, call: Callable[[], Any]) -> dict[str, float]:
        """Seconds of a call: in all, and of its own."""
        self.inside, begun = 0.0, time.perf_counter()
        call()
        total = time.perf_counter() - begun
        return {"total": total, "own": total - self.inside}


def clock() -> Clock:
    """On the client's check, encoding, and wait for HTTP and decoding."""
    from dwave.cloud.computation import Future
    from dwave.cloud.solver import StructuredSolver

    found = Clock()
    found.wrap(StructuredSolver, "_sample")
    for name in ("wait", "wait_id", "_load_result", "wait_sampleset"):
        found.wrap(Future, name)
    return found


def plugin(
    server: SolverServer, properties: dict[str, Any], J: torch.Tensor
) -> tuple[Callable[[], Any], Any] | None:
    """One read by dwave-pytorch-plugin's DimodSampler on DWaveSampler, and what must be closed."""
    try:
        from dwave.plugins.torch.models import GraphRestrictedBoltzmannMachine  # pyright: ignore[reportMissingImports]
        from dwave.plugins.torch.samplers import DimodSampler  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    from dwave.system import DWaveSampler

    edges = [tuple(pair) for pair in properties["couplers"]]
    model = GraphRestrictedBoltzmannMachine(
        properties["qubits"], edges, quadratic=dict(zip(edges, J.tolist(), strict=True)), linear={}
    )
    device = DWaveSampler(endpoint=server.endpoint, token=server.token)
    sampler = DimodSampler(model, device, 1.0, sample_kwargs={"num_reads": 1, "auto_scale": False})
    return sampler.sample, device


def main(o: Options) -> None:
    """Run it."""
    torch.set_num_threads(1)
    os.environ |= {"DWAVE_CACHE_ENABLED": "0", "DWAVE_CONFIG_FILE": os.devnull}
    timer, rng, rounds = clock(), random.Random(0), {"DWave": [], "plugin": []}
    with SolverServer(o.topology, chip=Chip(sweeps=2)) as server:
        settings = {"client": {"endpoint": server.endpoint}, "token": server.token}
        with DWave(**settings, prefactor=1.0) as sampler:
            properties = sampler.state.device(sampler).properties
            qubits = list(properties["qubits"])
            place = {q: k for k, q in enumerate(qubits)}
            ends = torch.tensor([[place[a], place[b]] for a, b in properties["couplers"]])
            J = 0.05 * torch.randn(len(ends), generator=torch.Generator().manual_seed(0))
            graph = qs.Graph.sparse(len(qubits), ends, qubits)
            problem = qs.Ising(graph, torch.zeros(len(qubits)), J)
            calls: dict[str, Callable[[], Any]] = {"DWave": lambda: sampler.sample(problem, 1)}
            other = plugin(server, dict(properties), J)
            if other is not None:
                calls["plugin"] = other[0]
            for call in calls.values():
                call()  # imports, placements, connections
            for _ in progress_bar(range(o.rounds)):
                for name in rng.sample(list(calls), len(calls)):
                    rounds[name].append(timer.measure(calls[name]))
            if other is not None:
                other[1].close()
        with DWave(**settings) as sampler:
            small = qs.Graph.bipartite(8, 8)
            h = torch.randn(o.problems, 16, generator=torch.Generator().manual_seed(1))
            batch = qs.Ising(small, h, torch.full((8, 8), 0.1))
            sampler.sample(batch, 1)
            before, begun = server.programmings, time.perf_counter()
            spent = sampler.sample(batch, 100).info["qpu_access_time"]
            tiles = {"problems": o.problems, "programmings": server.programmings - before}
            tiles |= {"seconds": time.perf_counter() - begun, "qpu_access_time": spent}
    results: dict[str, Any] = {
        name: {kind: statistics.median(one[kind] for one in found) for kind in ("total", "own")}
        for name, found in rounds.items()
        if found
    }
    if "plugin" in results:
        pairs = list(zip(rounds["DWave"], rounds["plugin"], strict=True))
        results["own_ratio"] = statistics.median(
            ours["own"] / theirs["own"] for ours, theirs in pairs
        )
    results["tiles"] = tiles
    about = {
        "options": {**asdict(o), "out": str(o.out)},
        "spins": len(qubits),
        "couplers": len(ends),
    }
    about |= {
        "versions": {
            name: _version(name) for name in ("dwave-cloud-client", "dwave-pytorch-plugin", "torch")
        }
    }
    o.out.mkdir(parents=True, exist_ok=True)
    (o.out / "results.json").write_text(json.dumps({"about": about, "results": results}, indent=1))
    draw({name: results[name] for name in rounds if name in results}, o)
    print(json.dumps(results, indent=1), o.out / "calls.png", sep="\n")


def draw(results: dict[str, dict[str, float]], o: Options) -> None:
    """Bars of each call: its own time, and the client's."""
    figure, axes = plt.subplots(figsize=(6, 1.5 + 0.5 * len(results)), layout="constrained")
    own = [1e3 * one["own"] for one in results.values()]
    rest = [1e3 * (one["total"] - one["own"]) for one in results.values()]
    axes.barh(list(results), own, label="own")
    axes.barh(list(results), rest, left=own, label="client and HTTP", color="0.85")
    axes.set_xlabel(f"ms of a call: 1 read on {o.topology}, no QPU time")
    axes.legend()
    figure.savefig(o.out / "calls.png", dpi=120)
    plt.close(figure)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
