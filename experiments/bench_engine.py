"""Spin updates per nanosecond of whole sampler calls: ours and other packages', on the problems people run.

    python experiments/bench_engine.py             # writes runs/bench_engine/results.json and engine.png
    python experiments/bench_engine.py --publish   # ... and experiments/results/engine.json and the README's table

Each cell is a process of its own, and the engines of a problem run one after the other, in rounds. A call is all that a
training loop pays: the problem handed over, sweeps, reads and energies back (for other packages their own problem
object is ready beforehand). Figures are medians; processor time stands beside wall time. An engine that is not
installed is left out, with a line that says so.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dwave.graphs
import matplotlib
import numpy as np
import readme_table
import torch
import tyro

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.support.progress import progress_bar

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
SHORTEST, LONGEST = (
    0.5,
    5.0,
)  # seconds: a cell of short calls goes on for that long; a slow one is not repeated
COLOURS = {"qsample": "#2166ac", "qsample, 2 threads": "#67a9cf", "qsample, 16-bit": "#1b7837"}
COLOURS |= {
    "qsample, 16-bit, 2 threads": "#7fbf7b",
    "dwave Metropolis": "#b35806",
    "dwave Gibbs": "#fdb863",
}
BETAS = {
    "pegasus": (0.05, 4.0),
    "zephyr": (0.05, 4.0),
    "2d": (0.44, 0.44),
    "3d": (0.1, 3.0),
    "sk": (0.1, 8.0),
}


@dataclass(frozen=True)
class Options:
    """What to time."""

    out: Path = Path("runs/bench_engine")
    """folder for results.json and engine.png"""
    problems: tuple[str, ...] = (
        *(
            "pegasus-16",
            "zephyr-15",
            "3d-16",
            "sk-1000",
            "2d-128",
            "rbm-784x500, 64 x 1",
            "shared-512x200, 1 x 20",
        ),
        *("pegasus-16, 1 x 1000", "zephyr-12", "zephyr-12, 512 x 100"),
    )
    """which problems; "name, R x S" sets reads and sweeps, which are otherwise 64 x 100"""
    engines: tuple[str, ...] = (*COLOURS, "openjij")
    """which engines"""
    repeats: int = 5
    """timed calls of a cell, after one to warm up; more of short calls"""
    rounds: int = 3
    """times that each cell is run"""
    publish: bool = False
    """write experiments/results/engine.json and the README's table too"""
    cell: tuple[str, str] | None = None
    """a problem and an engine: time just that, in this process, and print the row as JSON"""


def lattice(shape: tuple[int, ...]) -> torch.Tensor:
    """Edges of a periodic lattice."""
    place = torch.arange(torch.Size(shape).numel()).reshape(shape)
    return torch.cat(
        [
            torch.stack([place, place.roll(-1, axis)], -1).reshape(-1, 2)
            for axis in range(len(shape))
        ]
    )


def chip(kind: str, size: int) -> torch.Tensor:
    """Edges of a quantum processor's graph, nodes numbered in their order."""
    if kind not in ("pegasus", "zephyr"):
        raise ValueError(
            f"unknown problem {kind}-{size}: expected pegasus, zephyr, 2d, 3d, sk, rbm or shared"
        )
    graph = getattr(dwave.graphs, f"{kind}_graph")(size)
    index = {node: i for i, node in enumerate(sorted(graph.nodes))}
    return torch.tensor([(index[a], index[b]) for a, b in graph.edges])


def make(name: str) -> qs.Ising:
    """The instance of a name, always the same. Couplings: uniform on chips, +-1 in 3D, normal of variance 1/n in SK."""
    kind, _, size = name.partition("-")
    rng = np.random.default_rng(1)
    if kind == "rbm":
        n, m = (int(part) for part in size.split("x"))
        W, h = rng.normal(0, 0.05, (n, m)), rng.normal(0, 0.1, n + m)
        return qs.Ising(qs.Graph.bipartite(n, m), torch.tensor(h).float(), torch.tensor(W).float())
    if kind == "sk":
        n = int(size)
        J = torch.zeros(n, n)
        J[tuple(torch.triu_indices(n, n, 1))] = torch.tensor(
            rng.normal(0, n**-0.5, n * (n - 1) // 2)
        ).float()
        return qs.Ising(qs.Graph.complete(n), torch.zeros(n), J + J.T)
    if kind == "shared":  # problems that share J and differ in h, each spin coupled to 8 others
        count, n = (int(part) for part in size.split("x"))
        edges = torch.tensor([(i, (i + k) % n) for i in range(n) for k in (1, 7, 31, 63)])
        h, J = rng.normal(0, 0.3, (count, n)), rng.normal(0, 0.3, len(edges))
        return qs.Ising(qs.Graph.sparse(n, edges), torch.tensor(h).float(), torch.tensor(J).float())
    edges = lattice((int(size),) * int(kind[0])) if kind in ("2d", "3d") else chip(kind, int(size))
    k, n = len(edges), int(edges.max()) + 1
    J = (
        -np.ones(k)
        if kind == "2d"
        else rng.choice([-1.0, 1.0], k)
        if kind == "3d"
        else rng.uniform(-1, 1, k)
    )
    return qs.Ising(qs.Graph.sparse(n, edges), torch.zeros(n), torch.tensor(J).float())


def caller(
    engine: str, problem: qs.Ising, betas: list[float], reads: int, warm: bool, seed: int = 1
) -> Callable[[], Any]:
    """A function that makes one call. `warm`: chains are continued, at constant beta, as in a training step."""
    generator = torch.Generator().manual_seed(seed)
    start = (
        qs.Samples(
            spins := torch.ones(reads, problem.num_spins, dtype=torch.int8), problem.energy(spins)
        )
        if warm
        else None
    )
    if engine.startswith("qsample"):
        torch.set_num_threads(2 if "2 threads" in engine else 1)
        settings: dict[str, Any] = {"precision": "fixed16"} if "16-bit" in engine else {}
        if warm or problem.batch_shape:
            gibbs = Gibbs(len(betas), **settings)
            return lambda: gibbs.sample(problem, reads, initial=start, generator=generator)
        annealing = SimulatedAnnealing(schedule=betas, **settings)
        return lambda: annealing.sample(problem, reads, generator=generator)
    fields = problem.h.reshape(-1, problem.num_spins)
    bqms = [qs.Ising(problem.graph, h, problem.J).to_bqm() for h in fields]
    if engine == "openjij":  # no seed: with one, all its reads are the same
        package = importlib.import_module("openjij")
        sampler, schedule = package.SASampler(), [(beta, 1) for beta in betas]
        theirs = [
            package.BinaryQuadraticModel(b.linear, b.quadratic, 0.0, "SPIN", sparse=True)
            for b in bqms
        ]
        return lambda: [
            sampler.sample(b, schedule=schedule, num_reads=reads, sparse=True) for b in theirs
        ]
    from dwave.samplers import SimulatedAnnealingSampler

    dwave = SimulatedAnnealingSampler()
    settings = {
        "beta_schedule_type": "custom",
        "seed": seed,
        "proposal_acceptance_criteria": engine.split()[1],
    }
    settings |= {"beta_schedule": betas, "num_reads": reads}
    if start is not None:
        settings["initial_states"] = (start.spins.numpy(), list(range(problem.num_spins)))
    return lambda: [dwave.sample(bqm, **settings) for bqm in bqms]


def cell(name: str, engine: str, repeats: int) -> dict[str, Any]:
    """Time one engine on one problem; runs in a process of its own."""
    torch.set_num_threads(1)
    instance, reads, sweeps = readme_table.sizes(name)
    problem, kind = make(instance), instance.partition("-")[0]
    first, last = BETAS.get(kind, (1.0, 1.0))
    betas = np.linspace(first, last, sweeps).tolist()
    call = caller(engine, problem, betas, reads, kind == "rbm")
    wall, cpu = [], []
    while len(wall) < 2 or sum(wall) < (LONGEST if len(wall) <= repeats else SHORTEST):
        w, c = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    problems = problem.batch_shape.numel()
    median, updates = statistics.median(wall[1:]), problems * reads * sweeps * problem.num_spins
    row = {
        "problem": name,
        "engine": engine,
        "spins": problem.num_spins,
        "reads": reads,
        "sweeps": sweeps,
    }
    row |= {"seconds": median, "fastest": min(wall[1:]), "cpu_seconds": statistics.median(cpu[1:])}
    return row | {
        "updates_per_ns": updates / median / 1e9,
        "reads_per_second": problems * reads / median,
    }


def isolated(script: str, *arguments: object) -> dict[str, Any] | str:
    """The row that a process of its own prints, as its last line; or why there is none."""
    command = [sys.executable, script, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return (
        done.stderr.strip().splitlines()[-1]
        if done.stderr.strip()
        else f"exit code {done.returncode}"
    )


def about() -> dict[str, Any]:
    """The machine and the packages, for the record."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    packages = {name: version(name) for name in ("qsample", "torch", "dwave-samplers")}
    machine = {"processor": model[1] if model else "unknown", "cores": os.cpu_count()}
    return machine | {"avx512": "avx512f" in info, "versions": packages}


def main(o: Options) -> None:
    """Time all cells, print the ratios, draw them."""
    if o.cell is not None:
        print(json.dumps(cell(*o.cell, o.repeats)))
        return
    o.out.mkdir(parents=True, exist_ok=True)
    rows, reasons = [], {}
    for name in progress_bar(o.problems, unit="problem"):
        found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in o.engines}
        for _ in range(o.rounds):
            for engine in [e for e in o.engines if (name, e) not in reasons]:
                row = isolated(__file__, "--cell", name, engine, "--repeats", o.repeats)
                if isinstance(row, str):
                    reasons[name, engine] = row
                else:
                    found[engine].append(row)
        best = {
            e: sorted(r, key=lambda row: row["seconds"])[len(r) // 2] for e, r in found.items() if r
        }
        for engine, row in best.items():
            for peer in ("dwave Metropolis", "dwave Gibbs"):
                row[f"times {peer}"] = (
                    best[peer]["seconds"] / row["seconds"] if peer in best else None
                )
            rows.append(row)
            print(
                f"{name:24} {engine:27} {row['updates_per_ns']:8.4f} updates/ns {1e3 * row['seconds']:9.2f} ms "
                f"{row['reads_per_second']:9.0f} reads/s {row['times dwave Metropolis'] or 0:7.1f} x dwave Metropolis"
            )
    for engine, reason in dict.fromkeys(
        (engine, reason) for (_, engine), reason in reasons.items()
    ):
        names = [name for (name, other), why in reasons.items() if (other, why) == (engine, reason)]
        print(f"left out: {engine} on {'; '.join(names)} ({reason})")
    results = {"about": about() | {"repeats": o.repeats, "rounds": o.rounds}, "results": rows}
    results["left_out"] = [
        {"problem": p, "engine": e, "reason": reason} for (p, e), reason in reasons.items()
    ]
    text = json.dumps(results, indent=1) + "\n"
    (o.out / "results.json").write_text(text)
    if rows:
        picture(rows, o.out / "engine.png")
    print(f"{o.out / 'results.json'}\n{o.out / 'engine.png'}")
    if o.publish:
        (published := ROOT / "experiments/results/engine.json").write_text(text)
        readme = ROOT / "README.md"
        readme.write_text(
            readme_table.rewritten(readme.read_text(), json.loads(published.read_text()))
        )


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Updates per nanosecond: a row of dots a problem, a colour an engine."""
    names = list(dict.fromkeys(row["problem"] for row in rows))[::-1]
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    figure, axis = plt.subplots(figsize=(9, 0.55 * len(names) + 1.8))
    for engine in engines:
        own = [row for row in rows if row["engine"] == engine]
        place = [names.index(row["problem"]) for row in own]
        values = [row["updates_per_ns"] for row in own]
        axis.scatter(
            values, place, s=60, color=COLOURS.get(engine, "#999999"), label=engine, zorder=3
        )
    for row in rows:
        if row["engine"] == "qsample" and row["times dwave Metropolis"]:
            label = f"{row['times dwave Metropolis']:.0f}×"
            axis.annotate(
                label,
                (row["updates_per_ns"], names.index(row["problem"])),
                (0, 7),
                textcoords="offset points",
            )
    axis.set_yticks(
        range(len(names)),
        [f"{i}\n{r} × {s}" for i, r, s in map(readme_table.sizes, names)],
        fontsize=8,
    )
    axis.set(xscale="log", xlabel="spin updates per ns, whole call (×: over dwave Metropolis)")
    axis.margins(y=0.12)
    axis.legend(frameon=False, ncol=4, loc="lower center", bbox_to_anchor=(0.45, 1), fontsize=8)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
