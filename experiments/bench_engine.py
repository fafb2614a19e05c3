"""Spin updates per nanosecond of whole sampler calls: ours and dwave-samplers, on the problems people run.

    python experiments/bench_engine.py --out runs/bench_engine

Each cell is a process of its own. A call is all that a training loop pays: the problem handed over, sweeps, reads and
energies back (for dwave-samplers the BQM is ready beforehand). Medians of several calls; processor time stands beside
wall time. Pegasus and Zephyr need dwave-networkx (in dwave-ocean-sdk). Writes results.json and engine.png.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro
from tqdm import tqdm

import qsample as qs
from qsample.annealers import SimulatedAnnealing

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle


@dataclass(frozen=True)
class Options:
    """What to time."""

    out: Path = Path("runs/bench_engine")
    """folder for results.json and engine.png"""
    problems: tuple[str, ...] = ("pegasus-16", "zephyr-15", "zephyr-12", "2d-128", "3d-16", "sk-1000", "rbm-784x500")
    """which problems"""
    engines: tuple[str, ...] = ("qsample", "qsample, 2 threads", "dwave Metropolis", "dwave Gibbs")
    """which engines"""
    reads: int = 64
    """reads a call"""
    sweeps: int = 100
    """sweeps a read; 1 on the RBM"""
    repeats: int = 5
    """timed calls, after one to warm up"""
    cell: tuple[str, str] | None = None
    """a problem and an engine: time just that, in this process, and print the row as JSON"""


def lattice(shape: tuple[int, ...]) -> torch.Tensor:
    """Edges of a periodic lattice."""
    place = torch.arange(torch.Size(shape).numel()).reshape(shape)
    return torch.cat([torch.stack([place, place.roll(-1, axis)], -1).reshape(-1, 2) for axis in range(len(shape))])


def chip(kind: str, size: int) -> torch.Tensor:
    """Edges of a quantum processor's graph, nodes numbered 0, 1, ...."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces its successor
        graphs = importlib.import_module("dwave_networkx")
    graph = getattr(graphs, f"{kind}_graph")(size)
    index = {node: i for i, node in enumerate(graph.nodes)}
    return torch.tensor([(index[a], index[b]) for a, b in graph.edges])


def make(name: str) -> tuple[qs.Ising, list[float]]:
    """A problem, and the betas of a run over it (the last one is repeated or the range is stretched to the sweeps)."""
    g = torch.Generator().manual_seed(0)
    kind, _, size = name.partition("-")
    if kind == "rbm":
        n, m = (int(part) for part in size.split("x"))
        return qs.Ising(qs.Graph.bipartite(n, m), torch.zeros(n + m), 0.02 * torch.randn(n, m, generator=g)), [1.0, 1.0]
    if kind == "sk":
        n = int(size)
        J = torch.randn(n, n, generator=g).triu(1) / n**0.5
        return qs.Ising(qs.Graph.complete(n), torch.zeros(n), J + J.T), [0.0, 3.0]
    if kind in ("2d", "3d"):
        edges = lattice((int(size),) * int(kind[0]))
        sign = -torch.ones(len(edges)) if kind == "2d" else torch.randint(2, (len(edges),), generator=g) * 2.0 - 1
        betas = [0.4406868, 0.4406868] if kind == "2d" else [0.0, 3.0]
    else:
        edges = chip(kind, int(size))
        sign, betas = torch.rand(len(edges), generator=g) * 2 - 1, [0.0, 3.0]
    n = int(edges.max()) + 1
    return qs.Ising(qs.Graph.sparse(n, edges), torch.zeros(n), sign), betas


def caller(engine: str, problem: qs.Ising, betas: list[float], reads: int) -> Callable[[], float]:
    """A function that makes one call and returns its mean energy."""
    if engine.startswith("qsample"):
        torch.set_num_threads(2 if "2 threads" in engine else 1)
        sampler = SimulatedAnnealing(schedule=betas)
        generator = torch.Generator().manual_seed(1)
        return lambda: float(sampler.sample(problem, reads, generator=generator).energy.mean())
    from dwave.samplers import SimulatedAnnealingSampler

    bqm, annealer = problem.to_bqm(), SimulatedAnnealingSampler()
    rule = engine.split()[1]
    return lambda: float(
        annealer.sample(
            bqm,
            num_reads=reads,
            beta_schedule_type="custom",
            beta_schedule=betas,
            proposal_acceptance_criteria=rule,
            seed=1,
        ).record.energy.mean()
    )


def cell(problem_name: str, engine: str, reads: int, sweeps: int, repeats: int) -> dict[str, Any]:
    """Time one engine on one problem; runs in a process of its own."""
    torch.set_num_threads(1)
    problem, (first, last) = make(problem_name)
    sweeps = 1 if problem_name.startswith("rbm") else sweeps
    betas = torch.linspace(first, last, sweeps).tolist() if sweeps > 1 else [last]
    call = caller(engine, problem, betas, reads)
    energy, wall, cpu = call(), [], []
    for _ in range(repeats):
        w, c = time.perf_counter(), time.process_time()
        energy = call()
        wall.append(time.perf_counter() - w)
        cpu.append(time.process_time() - c)
    updates = reads * sweeps * problem.num_spins
    median = statistics.median(wall)
    row = {"problem": problem_name, "engine": engine, "spins": problem.num_spins, "reads": reads, "sweeps": sweeps}
    row |= {"seconds": median, "fastest": min(wall), "cpu_seconds": statistics.median(cpu), "mean_energy": energy}
    return row | {"updates_per_ns": updates / median / 1e9, "reads_per_second": reads / median}


def isolated(problem: str, engine: str, o: Options) -> dict[str, Any] | None:
    """`cell` in a process of its own; None, and a line that says why, where a package is missing."""
    sizes = ["--reads", str(o.reads), "--sweeps", str(o.sweeps), "--repeats", str(o.repeats)]
    command = [sys.executable, __file__, "--cell", problem, engine, *sizes]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
    print(f"left out: {engine} on {problem} ({reason})")
    return None


def main(o: Options) -> None:
    """Time all cells, print the ratios, draw them."""
    if o.cell is not None:
        print(json.dumps(cell(*o.cell, o.reads, o.sweeps, o.repeats)))
        return
    o.out.mkdir(parents=True, exist_ok=True)
    cells = [(problem, engine) for problem in o.problems for engine in o.engines]
    rows = [row for pair in tqdm(cells, unit="cell") if (row := isolated(*pair, o)) is not None]
    peer = {row["problem"]: row["seconds"] for row in rows if row["engine"] == "dwave Metropolis"}
    for row in rows:
        row["times_dwave"] = peer[row["problem"]] / row["seconds"] if row["problem"] in peer else None
        ratio = "" if row["times_dwave"] is None else f"{row['times_dwave']:8.1f} x dwave Metropolis"
        print(
            f"{row['problem']:13} {row['engine']:20} {row['updates_per_ns']:8.4f} updates/ns "
            f"{1e3 * row['seconds']:9.2f} ms  {row['reads_per_second']:9.0f} reads/s {ratio}"
        )
    about = {"torch": torch.__version__, "repeats": o.repeats}
    (o.out / "results.json").write_text(json.dumps({"about": about, "results": rows}, indent=1))
    if rows:
        picture(rows, o)
    print(f"{o.out / 'results.json'}\n{o.out / 'engine.png'}")


def picture(rows: list[dict[str, Any]], o: Options) -> None:
    """Updates per nanosecond, one group a problem."""
    problems = list(dict.fromkeys(row["problem"] for row in rows))
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    colours = dict(zip(o.engines, ("#2166ac", "#67a9cf", "#b35806", "#fdb863"), strict=False))
    figure, axis = plt.subplots(figsize=(1.4 * len(problems) + 3, 4.2))
    for row in rows:
        k = engines.index(row["engine"])
        x = problems.index(row["problem"]) + 0.8 * ((k + 0.5) / len(engines) - 0.5)
        axis.bar(x, row["updates_per_ns"], width=0.75 / len(engines), color=colours.get(row["engine"], "gray"))
        if row["engine"].startswith("qsample") and row["times_dwave"]:
            axis.text(x, row["updates_per_ns"], f"{row['times_dwave']:.0f}×", ha="center", va="bottom", fontsize=8)
    axis.set_xticks(range(len(problems)), problems)
    axis.set(yscale="log", ylabel="spin updates per ns, whole call", title=f"{o.reads} reads × {o.sweeps} sweeps")
    handles = [Rectangle((0, 0), 1, 1, color=colours.get(engine, "gray")) for engine in engines]
    axis.legend(handles, engines, frameon=False, ncol=len(engines), loc="upper center", bbox_to_anchor=(0.5, -0.1))
    axis.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(o.out / "engine.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
