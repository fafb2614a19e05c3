"""Training on a quantum processor: raw, calibrated and corrected reads beside exact samples, CD and PCD.

    python experiments/train_on_qpu.py --out runs/train_on_qpu               # against a loopback processor
    python experiments/train_on_qpu.py --out runs/mine --hardware --budget 150 --seeds 0  # against D-Wave's

Two models of bars and stripes, 3 x 3: a Boltzmann machine on the chip's own qubits and couplers (9 visible, 8
hidden), and an RBM of the same size whose variables are chains of qubits. The loopback processor draws at a beta that
the client is not told, with relative errors of h and J. The likelihood is exact.

- raw: h and J are programmed as they are (prefactor 1);
- calibrated: times the factor at which the measured temperature is the model's;
- corrected: the same reads, then Gibbs sweeps from them;
- exact, CD and PCD use no processor; every run makes the same number of updates from the same number of samples.

Each run has a folder of its own in `out` with its checkpoint, metrics and ledger; `--resume` goes on after a stop.
Writes results.json and curves.png.
"""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import networkx as nx
import torch
import tyro

import qsample as qs
from qsample.annealers import Corrected, DWave, Exact, Gibbs
from qsample.data import load
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.models.energy import EnergyModel

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"exact": "black", "raw": "#b2182b", "calibrated": "#f4a582", "corrected": "#2166ac"}
COLOURS |= {"CD": "#b8b8b8", "PCD": "#7fbf7b"}


@dataclass(frozen=True)
class Options:
    """One setting for all runs."""

    out: Path = Path("runs/train_on_qpu")
    """folder for results.json, curves.png and the runs"""
    hardware: bool = False
    """use the processor that D-Wave's configuration or DWAVE_API_TOKEN names; without, a loopback one"""
    solver: str | None = None
    """its name; the largest by default"""
    budget: float | None = None
    """seconds of QPU access time that all runs together may take; needed with --hardware"""
    topology: str = "zephyr-4"
    """of the loopback processor"""
    beta: float = 6.35
    """its hidden inverse temperature"""
    noise: float = 0.03
    """its relative errors of h and J"""
    fixed_noise: bool = False
    """the errors are the chip's own, the same at every programming; otherwise drawn afresh at each"""
    models: tuple[str, ...] = ("native", "embedded")
    """native, embedded"""
    data: str = "bars-and-stripes-3x3"
    """images; small, so that the likelihood is exact: pixels and hidden units are 20 at most"""
    hidden: int = 8
    """hidden units"""
    updates: int = 600
    """gradient steps"""
    lr: float = 0.05
    """Adam's learning rate, falling to zero"""
    chains: int = 512
    """negative samples a step"""
    sweeps: int = 10
    """Gibbs sweeps of the correction, of CD and of PCD"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """of all randomness"""
    resume: bool = False
    """go on from the checkpoints in the folder"""
    threads: int = 1
    """torch threads"""


def main(options: Options) -> None:
    """Train every model from every source of samples, compare."""
    if options.hardware and options.budget is None:
        need = 0.045 * options.updates * 3 * len(options.seeds) * len(options.models)
        raise SystemExit(
            f"--hardware needs --budget, seconds of QPU access time; these runs take about {need:.0f}"
        )
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    rows = load(options.data).x
    results: dict[str, Any] = {
        "optimum": -math.log(len(rows)),
        "samples": options.chains,
        "runs": [],
    }
    with ExitStack() as stack:
        client: dict[str, Any] = {}
        if not options.hardware:
            from qsample.testing.sapi import Chip, SolverServer

            chip = Chip(beta=options.beta, noise=options.noise, fixed_noise=options.fixed_noise)
            server = stack.enter_context(SolverServer(options.topology, chip=chip))
            client = {"endpoint": server.endpoint, "token": server.token}
        makers = {"native": native, "embedded": embedded}
        for name in options.models:
            for seed in options.seeds:
                for source in COLOURS:
                    spent = sum(run.get("qpu_seconds", 0.0) for run in results["runs"])
                    model = makers[name](options, rows.shape[1], client, seed)
                    results["runs"].append(
                        train(name, source, seed, model, rows, client, spent, options)
                    )
    summary(results, options)
    results["options"] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    picture(results, options)
    print(f"{options.out / 'results.json'}\n{options.out / 'curves.png'}")


def train(
    name: str,
    source: str,
    seed: int,
    model: EnergyModel,
    rows: torch.Tensor,
    client: dict[str, Any],
    spent: float,
    options: Options,
) -> dict[str, Any]:
    """One run: its curve and, from its ledger, what it cost."""
    folder = options.out / f"{name}-{source}-{seed}"
    folder.mkdir(exist_ok=True)
    qpu: dict[str, Any] = {
        "solver": options.solver,
        "client": client,
        "cache": options.out / "embeddings",
    }
    qpu |= {"ledger": folder / "ledger.jsonl"}
    qpu |= {"budget": None if options.budget is None else options.budget - spent}
    kernel, device = Gibbs(options.sweeps), None
    sampler, start = kernel, "fresh"
    if source == "exact":
        sampler = Exact()
    elif source in ("CD", "PCD"):
        start = "data" if source == "CD" else "persistent"
    else:
        device = DWave(prefactor=1.0 if source == "raw" else None, **qpu)
        sampler = Corrected(device, kernel) if source == "corrected" else device
    data = (
        rows if start != "data" else rows.repeat(-(-options.chains // len(rows)), 1)
    )  # as many chains of CD
    model.set_visible_bias(model.decode(2 * rows.to(torch.int8) - 1))
    settings = qs.Settings(
        updates=options.updates,
        batch=len(data),
        lr=options.lr,
        start=start,
        chains=options.chains,
        seed=seed,
        evaluate_every=max(1, options.updates // 25),
        checkpoint_every=max(1, options.updates // 5),
    )
    coded = model.decode(2 * data.to(torch.int8) - 1)
    history = qs.fit(model, coded, sampler, settings, out=folder, resume=options.resume)
    result: dict[str, Any] = {"model": name, "source": source, "seed": seed}
    result["curve"] = [
        [m["update"], m.get("qpu_seconds", 0.0), m["log_likelihood"]] for m in history
    ]
    result |= {"log_likelihood": history[-1]["log_likelihood"], "seconds": history[-1]["seconds"]}
    if device is not None:
        device.close()
        events = [
            json.loads(line)["event"] for line in (folder / "ledger.jsonl").read_text().splitlines()
        ]
        result |= {"qpu_seconds": history[-1]["qpu_seconds"], "programmings": events.count("done")}
        result["beta"] = history[-1]["beta"]
    print(
        f"{folder.name:24} log-likelihood {result['log_likelihood']:.3f} after {result['seconds']:.0f} s",
        flush=True,
    )
    return result


def native(options: Options, visible: int, client: dict[str, Any], seed: int) -> EnergyModel:
    """A Boltzmann machine on qubits of the chip; hidden units are not coupled to each other."""
    from dwave.system import DWaveSampler

    with DWaveSampler(solver=options.solver, **client) as chip:
        graph, hidden = patch(nx.Graph(chip.edgelist), visible, options.hidden)
    return BoltzmannMachine(graph, hidden, generator=torch.Generator().manual_seed(seed))


def embedded(options: Options, visible: int, client: dict[str, Any], seed: int) -> EnergyModel:
    """An RBM, which the sampler lays on chains of qubits."""
    return BernoulliRBM(visible, options.hidden, generator=torch.Generator().manual_seed(seed))


def patch(chip: nx.Graph, visible: int, hidden: int) -> tuple[qs.Graph, list[int]]:
    """Qubits of a chip with all their couplers: uncoupled hidden ones that share neighbours, and those neighbours."""
    best: tuple[int, list[int], list[int]] = (-1, [], [])
    for first in sorted(chip)[:64]:
        dark, around = [first], dict.fromkeys(chip[first], 1)
        while len(dark) < hidden:
            near = {r for q in around for r in chip[q]} - {r for q in dark for r in (q, *chip[q])}
            if not near:
                break
            shared = {r: sum(around.get(q, 0) for q in chip[r]) for r in sorted(near)}
            dark.append(max(shared, key=shared.__getitem__))
            for q in chip[dark[-1]]:
                around[q] = around.get(q, 0) + 1
        bright = sorted((q for q in around if q not in dark), key=lambda q: (-around[q], q))[
            :visible
        ]
        if len(dark) == hidden and len(bright) == visible:
            best = max(
                best,
                (chip.subgraph(dark + bright).number_of_edges(), bright, dark),
                key=lambda found: found[0],
            )
    _, bright, dark = best
    if not bright:
        raise ValueError(
            f"the chip holds no {visible} visible and {hidden} hidden units: ask for fewer"
        )
    qubits = bright + dark
    place = {q: k for k, q in enumerate(qubits)}
    edges = [(place[a], place[b]) for a, b in sorted(map(sorted, chip.subgraph(qubits).edges))]
    return qs.Graph.sparse(len(qubits), edges, qubits), dark


def mean(results: dict[str, Any], model: str, source: str, key: str) -> float:
    """Of a figure over the seeds."""
    return fmean(
        run[key] for run in results["runs"] if (run["model"], run["source"]) == (model, source)
    )


def summary(results: dict[str, Any], options: Options) -> None:
    """Distance to training with exact samples, seed by seed, and what an update costs."""
    results["below_exact"] = {}
    for model in options.models:
        final = {
            (run["source"], run["seed"]): run["log_likelihood"]
            for run in results["runs"]
            if run["model"] == model
        }
        for source in COLOURS:
            if source == "exact":
                continue
            below = [final["exact", seed] - final[source, seed] for seed in options.seeds]
            results["below_exact"][f"{model} {source}"] = below
            line = f"{model:9} {source:11} {fmean(below):+.3f} nat below exact ({min(below):+.3f} to {max(below):+.3f})"
            if source in ("raw", "calibrated", "corrected"):
                cost = mean(results, model, source, "qpu_seconds") / options.updates * 1e3
                times = mean(results, model, source, "programmings") / options.updates
                line += f"; {cost:.1f} ms of QPU time and {times:.2f} programmings an update"
            print(line)


def picture(results: dict[str, Any], options: Options) -> None:
    """How far below the best possible, by update and by QPU time: means over seeds, bands from worst to best."""
    figure, axes = plt.subplots(
        len(options.models), 2, figsize=(14, 4 * len(options.models)), squeeze=False
    )
    for (left, right), model in zip(axes, options.models, strict=True):
        exact = torch.zeros(0)
        for source, colour in COLOURS.items():
            runs = [
                run["curve"]
                for run in results["runs"]
                if (run["model"], run["source"]) == (model, source)
            ]
            update, seconds, value = torch.tensor(runs, dtype=torch.float64).unbind(-1)
            below = results["optimum"] - value
            label = f"{source} {value[:, -1].mean():.3f}"
            for axis, x in ((left, update), (right, seconds)):
                if x[0, -1] > 0:
                    axis.plot(x.mean(0), below.mean(0), color=colour, label=label, lw=1.6)
                    axis.fill_between(
                        x.mean(0),
                        below.min(0).values,
                        below.max(0).values,
                        color=colour,
                        alpha=0.2,
                        lw=0,
                    )
            if source == "exact":
                exact = below.mean(0)
            elif source == "corrected":
                right.plot(
                    seconds.mean(0), exact, color="black", ls=":", label="exact, update for update"
                )
        for axis, what in ((left, "update"), (right, "QPU access time by the ledger, seconds")):
            axis.set(
                xlabel=what,
                ylabel="log-likelihood below the optimum,\nexact, nats a row",
                yscale="log",
            )
            axis.grid(alpha=0.3, which="both")
        lines = {line.get_label(): line for axis in (left, right) for line in axis.get_lines()}
        right.legend(
            lines.values(),
            lines,
            title="log-likelihood at the end",
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
        left.set_title(f"{model}: all sources, {options.chains} samples an update")
        right.set_title(f"{model}: reads of the processor")
    where = f"loopback {options.topology}, beta {options.beta:g}, noise {options.noise:.0%}"
    figure.suptitle(
        f"{options.data} on {'hardware' if options.hardware else where}; seeds {options.seeds}"
    )
    figure.tight_layout()
    figure.savefig(options.out / "curves.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
