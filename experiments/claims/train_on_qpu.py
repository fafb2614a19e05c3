"""Training on a quantum processor: raw, calibrated and corrected reads beside exact, CD and PCD.

    python experiments/claims/train_on_qpu.py               # against a loopback processor
    python experiments/claims/train_on_qpu.py --hardware --budget 150 --seeds 0  # against D-Wave's

Two models of bars and stripes, 3 x 3: a Boltzmann machine on the chip's own qubits and couplers (9
visible, 8 hidden), and an RBM of the same size whose variables are chains of qubits. The loopback
processor draws at a beta that the client is not told, with relative errors of h and J. The
likelihood is exact.

- raw: h and J are programmed as they are (prefactor 1);
- calibrated: times the factor at which the measured temperature is the model's;
- corrected: the same reads, then Gibbs sweeps from them;
- exact, CD and PCD use no processor; every run makes the same number of updates from the same
  number of samples.

Each run has a folder of its own in `out` with its checkpoint, metrics and ledger; `--resume` goes
on after a stop.
"""

from __future__ import annotations

import json
import math
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import torch
from matplotlib.figure import Figure

import qsample as qs
from qsample.annealers import Corrected, DWave, Exact, Gibbs
from qsample.data import load
from qsample.models import BernoulliRBM, BoltzmannMachine, EnergyModel

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, check_choices, command_line

COLOURS = {
    "exact": "black",
    "raw": "#b2182b",
    "calibrated": "#f4a582",
    "corrected": "#2166ac",
    "CD": "#b8b8b8",
    "PCD": "#7fbf7b",
}
MODELS = ("native", "embedded")
READS = ("raw", "calibrated", "corrected")
"""sources that use the processor"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """One setting for all runs."""

    hardware: bool = False
    """use the processor that D-Wave's configuration or DWAVE_API_TOKEN names, not a loopback"""
    solver: str | None = None
    """name of the processor; the largest by default"""
    budget: float | None = None
    """seconds of QPU access time that all runs together may take; needed with --hardware"""
    topology: str = "zephyr-4"
    """topology of the loopback processor"""
    beta: float = 6.35
    """hidden inverse temperature of the loopback processor"""
    noise: float = 0.03
    """relative errors of its h and J"""
    fixed_noise: bool = False
    """the errors are the chip's own, the same at every programming; else drawn afresh at each"""
    models: tuple[str, ...] = MODELS
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
    """negative samples of a step"""
    sweeps: int = 10
    """Gibbs sweeps of the correction, of CD and of PCD"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of all randomness"""
    resume: bool = False
    """go on from the checkpoints in the folder"""


@dataclass(frozen=True)
class Job:
    """One run, and what the runs before have spent, in seconds of QPU access time."""

    model: str
    source: str
    seed: int
    spent: float


def main(options: Options) -> None:
    """Train every model from every source of samples, compare."""
    check_choices("models", options.models, MODELS)
    if options.hardware and options.budget is None:
        need = 0.045 * options.updates * 3 * len(options.seeds) * len(options.models)
        budget = f"seconds of QPU access time; these runs take about {need:.0f}"
        raise SystemExit(f"--hardware needs --budget, {budget}")
    if options.hardware:
        check_token()
    report = Report(options, __file__, packages=("dwave-cloud-client", "dwave-system"))
    rows = load(options.data).x
    runs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        client = {} if options.hardware else loopback(stack, options)
        for name, seed, source in product(options.models, options.seeds, COLOURS):
            spent = sum(run.get("qpu_seconds", 0.0) for run in runs)
            job = Job(name, source, seed, spent)
            runs.append(train(job, rows, client, report.folder, options))
    result: dict[str, Any] = {
        "optimum": -math.log(len(rows)),
        "samples": options.chains,
        "summary": summary(runs, options),
        "runs": runs,
    }
    show(result["summary"])
    report.finish(result, picture(result, options))


def check_token() -> None:
    """A SystemExit where D-Wave's configuration has no token, or cannot be read."""
    from dwave.cloud.config import load_config

    try:
        token = load_config().get("token")
    except Exception as error:  # its text may repeat a line of the file, which may hold the token
        raise SystemExit(
            f"--hardware: D-Wave's configuration cannot be read ({type(error).__name__}): "
            "`dwave config inspect` shows it"
        ) from None
    if not (token or "").strip():
        raise SystemExit(
            "--hardware needs a D-Wave token: set DWAVE_API_TOKEN or run `dwave config create`; "
            "without --hardware a loopback processor takes its place"
        )


def loopback(stack: ExitStack, options: Options) -> dict[str, Any]:
    """How to reach a loopback processor, which runs until the stack ends."""
    from qsample.testing.sapi import Chip, SolverServer

    chip = Chip(beta=options.beta, noise=options.noise, fixed_noise=options.fixed_noise)
    server = stack.enter_context(SolverServer(options.topology, chip=chip))
    return {"endpoint": server.endpoint, "token": server.token}


# ---- training ---------------------------------------------------------------------------------


def train(
    job: Job, rows: torch.Tensor, client: dict[str, Any], out: Path, options: Options
) -> dict[str, Any]:
    """One run: its curve and, from its ledger, what it cost.

    Args:
        job: model, source of samples and seed.
        rows: data `[N, visible]` of 0 and 1.
        client: how to reach the processor.
        out: folder of all runs.
        options: options of the run.
    """
    folder = out / f"{job.model}-{job.source}-{job.seed}"
    folder.mkdir(exist_ok=True)
    make = {"native": native, "embedded": embedded}[job.model]
    model = make(options, rows.shape[1], client, job.seed)
    device = processor(job, client, folder, options) if job.source in READS else None
    sampler, start = source_of(job.source, device, options)
    model.set_visible_bias(model.decode(2 * rows.to(torch.int8) - 1))
    if start == "data":  # as many chains as elsewhere
        rows = rows.repeat(-(-options.chains // len(rows)), 1)
    settings = qs.Settings(
        updates=options.updates,
        batch=len(rows),
        lr=options.lr,
        start=start,
        chains=options.chains,
        seed=job.seed,
        evaluate_every=max(1, options.updates // 25),
        checkpoint_every=max(1, options.updates // 5),
    )
    coded = model.decode(2 * rows.to(torch.int8) - 1)
    history = qs.fit(model, coded, sampler, settings, out=folder, resume=options.resume)
    last = history[-1]
    row: dict[str, Any] = {"model": job.model, "source": job.source, "seed": job.seed}
    row["curve"] = [[m["update"], m.get("qpu_seconds", 0.0), m["log_likelihood"]] for m in history]
    row["log_likelihood"] = last["log_likelihood"]
    row["seconds"] = last["seconds"]
    if device is not None:
        device.close()
        lines = (folder / "ledger.jsonl").read_text().splitlines()
        events = [json.loads(line)["event"] for line in lines]
        row["qpu_seconds"] = last["qpu_seconds"]
        row["programmings"] = events.count("done")
        row["beta"] = last["beta"]
    likelihood = f"log-likelihood {row['log_likelihood']:.3f}"
    print(f"{folder.name:24} {likelihood} after {row['seconds']:.0f} s", flush=True)
    return row


def processor(job: Job, client: dict[str, Any], folder: Path, options: Options) -> DWave:
    """The processor of a run, with what is left of the budget.

    Args:
        job: the run.
        client: how to reach the processor.
        folder: folder of the run's ledger.
        options: options of the run.
    """
    return DWave(
        solver=options.solver,
        client=client,
        cache=folder.parent / "embeddings",
        ledger=folder / "ledger.jsonl",
        budget=None if options.budget is None else options.budget - job.spent,
        prefactor=1.0 if job.source == "raw" else None,
    )


def source_of(source: str, device: DWave | None, options: Options) -> tuple[qs.Sampler, qs.Start]:
    """The sampler of a source, and where its chains start.

    Args:
        source: key of COLOURS.
        device: processor, for the sources that use one.
        options: options of the run.
    """
    kernel = Gibbs(options.sweeps)
    if device is not None:
        return (Corrected(device, kernel) if source == "corrected" else device), "fresh"
    if source == "exact":
        return Exact(), "fresh"
    return kernel, "data" if source == "CD" else "persistent"


def native(options: Options, visible: int, client: dict[str, Any], seed: int) -> EnergyModel:
    """A Boltzmann machine on qubits of the chip; hidden units are not coupled to each other.

    Args:
        options: options of the run.
        visible: visible units.
        client: how to reach the processor.
        seed: seed of the weights.
    """
    from dwave.system import DWaveSampler

    with DWaveSampler(solver=options.solver, **client) as chip:
        graph, hidden = patch(nx.Graph(chip.edgelist), visible, options.hidden)
    return BoltzmannMachine(graph, hidden, generator=torch.Generator().manual_seed(seed))


def embedded(options: Options, visible: int, client: dict[str, Any], seed: int) -> EnergyModel:
    """An RBM, which the sampler lays on chains of qubits.

    Args:
        options: options of the run.
        visible: visible units.
        client: how to reach the processor; not needed.
        seed: seed of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    return BernoulliRBM(visible, options.hidden, generator=generator)


# ---- qubits for the native model --------------------------------------------------------------


def patch(chip: nx.Graph, visible: int, hidden: int) -> tuple[qs.Graph, list[int]]:
    """Qubits of a chip with all their couplers: uncoupled hidden ones and their neighbours.

    Args:
        chip: qubits and couplers.
        visible: number of visible qubits.
        hidden: number of hidden qubits.

    Raises:
        ValueError: the chip holds no such qubits.
    """
    patches = [patch_around(chip, q, visible, hidden) for q in sorted(chip)[:64]]
    fitting = [qubits for qubits in patches if qubits]
    if not fitting:
        units = f"{visible} visible and {hidden} hidden units"
        raise ValueError(f"the chip holds no {units}: ask for fewer")
    qubits = max(fitting, key=lambda qubits: chip.subgraph(qubits).number_of_edges())
    place = {q: k for k, q in enumerate(qubits)}
    couplers = sorted(map(sorted, chip.subgraph(qubits).edges))
    edges = [(place[a], place[b]) for a, b in couplers]
    return qs.Graph.sparse(len(qubits), edges, qubits), qubits[visible:]


def patch_around(chip: nx.Graph, first: int, visible: int, hidden: int) -> list[int]:
    """Visible, then hidden qubits around one; none where it has too few neighbours.

    Args:
        chip: qubits and couplers.
        first: the first hidden qubit.
        visible: number of visible qubits.
        hidden: number of hidden qubits.
    """
    dark = [first]
    around = dict.fromkeys(chip[first], 1)
    # Hidden qubits, one by one: the uncoupled one that shares most neighbours with those before.
    while len(dark) < hidden:
        coupled = {r for q in dark for r in (q, *chip[q])}
        near = {r for q in around for r in chip[q]} - coupled
        if not near:
            return []
        shared = {r: sum(around.get(q, 0) for q in chip[r]) for r in sorted(near)}
        dark.append(max(shared, key=shared.__getitem__))
        for q in chip[dark[-1]]:
            around[q] = around.get(q, 0) + 1
    # Visible qubits: the neighbours of most hidden ones.
    neighbours = sorted((q for q in around if q not in dark), key=lambda q: (-around[q], q))
    bright = neighbours[:visible]
    return bright + dark if len(bright) == visible else []


# ---- figures ----------------------------------------------------------------------------------


def summary(runs: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """By model and source: distance to training with exact samples, what an update costs.

    Distances are log-likelihoods below those of exact samples, seed by seed.
    """
    table: dict[str, Any] = {}
    exact: dict[int, float] = {}
    for model, source in product(options.models, COLOURS):  # exact comes first
        mine = {
            run["seed"]: run for run in runs if (run["model"], run["source"]) == (model, source)
        }
        row: dict[str, Any] = {
            "log_likelihood": fmean(run["log_likelihood"] for run in mine.values())
        }
        table.setdefault(model, {})[source] = row
        if source == "exact":
            exact = {seed: run["log_likelihood"] for seed, run in mine.items()}
            continue
        below = [exact[seed] - run["log_likelihood"] for seed, run in mine.items()]
        row |= {"below": below, "mean_below": fmean(below)}
        row |= {"worst_below": max(below), "best_below": min(below)}
        if source in READS:
            seconds = fmean(run["qpu_seconds"] for run in mine.values())
            row["qpu_seconds"] = seconds
            row["qpu_ms_per_update"] = 1e3 * seconds / options.updates
            row["programmings"] = fmean(run["programmings"] for run in mine.values())
    return table


def show(table: dict[str, Any]) -> None:
    """Print the figures."""
    for model, sources in table.items():
        for source, row in sources.items():
            if source == "exact":
                continue
            line = "{mean_below:+.3f} nat below exact ({best_below:+.3f} to {worst_below:+.3f})"
            if source in READS:
                line += "; {qpu_ms_per_update:.1f} ms of QPU time per update"
            print(f"{model:9} {source:11} {line.format(**row)}")


def picture(result: dict[str, Any], options: Options) -> Figure:
    """How far below the best possible, by update and by QPU time: means and bands over seeds."""
    size = (14, 4 * len(options.models))
    figure, axes = plt.subplots(len(options.models), 2, figsize=size, squeeze=False)
    for (left, right), model in zip(axes, options.models, strict=True):
        draw_curves(left, right, model, result)
        labels = (left, "update"), (right, "QPU access time by the ledger, seconds")
        for axis, label in labels:
            axis.set(xlabel=label, yscale="log")
            axis.set_ylabel("log-likelihood below the optimum,\nexact, nats per row")
            axis.grid(alpha=0.3, which="both")
        lines = {line.get_label(): line for axis in (left, right) for line in axis.get_lines()}
        place = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        right.legend(lines.values(), lines, title="log-likelihood at the end", **place)
        left.set_title(f"{model}: all sources, {options.chains} samples per update")
        right.set_title(f"{model}: reads of the processor")
    chip = f"loopback {options.topology}, beta {options.beta:g}, noise {options.noise:.0%}"
    if options.hardware:
        chip = "hardware"
    figure.suptitle(f"{options.data} on {chip}; seeds {options.seeds}")
    figure.tight_layout()
    return figure


def draw_curves(left: Any, right: Any, model: str, result: dict[str, Any]) -> None:
    """The curves of a model: means over seeds, bands from worst to best.

    Args:
        left: axis of updates.
        right: axis of QPU time.
        model: native or embedded.
        result: result of the script.
    """
    exact = torch.zeros(0)
    for source, colour in COLOURS.items():
        cell = (model, source)
        runs = [r["curve"] for r in result["runs"] if (r["model"], r["source"]) == cell]
        update, seconds, value = torch.tensor(runs, dtype=torch.float64).unbind(-1)
        below = result["optimum"] - value
        mean = below.mean(0)
        label = f"{source} {value[:, -1].mean():.3f}"
        for axis, x in ((left, update), (right, seconds)):
            if x[0, -1] > 0:
                axis.plot(x.mean(0), mean, color=colour, label=label, lw=1.6)
                band = below.min(0).values, below.max(0).values
                axis.fill_between(x.mean(0), *band, color=colour, alpha=0.2, lw=0)
        if source == "exact":
            exact = mean
        elif source == "corrected":
            label = "exact, update for update"
            right.plot(seconds.mean(0), exact, color="black", ls=":", label=label)


if __name__ == "__main__":
    command_line(main, Options)
