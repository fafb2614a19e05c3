"""The three rows of the article behind this project, beside what is measured here.

    python experiments/claims/article_table.py --out runs/article_table

The article claims that a quantum co-processor takes sampling of a Boltzmann law from 120 ms to
2 ms, the gradient of a model of 10^9 parameters from 15 minutes to 30 seconds, and speeds up the
product of two matrices of order 1024. It names neither sizes, nor accuracies, nor machines, so the
claims can be stated and not be reproduced. What can be measured is here, with its accuracy:

- the CPU time until reads of a spin glass of few spins, all pairs coupled, are within 0.01 of the
  total variation that as many exact draws have; and until energy and bonds of 4,800 spins (a
  lattice glass) are within three standard errors of a long run. A D-Wave processor is a loopback:
  its law is simulated; its programming, anneals, readouts and delays are what the processor would
  charge by its own formula, without network and queue. A circuit is simulated: its CPU time says
  nothing of a device.
- the gradient by contrastive divergence, from `experiments/results/billion.json` and, of a GPU,
  `billion_cuda.json`;
- linear algebra by sampling, from `experiments/results/linear_algebra.json`.

Beside the first row stands a claim of the field: that training by diabatic annealing samples 64
times faster than persistent chains of 100 sweeps (of arXiv 2509.09374, by a summary of it; its
abstract names neither the factor nor sizes). What can be set beside it is the time of 100 sweeps of
as many chains on a whole chip's graph, and the processor's access time by its formula.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from dwave.cloud import Client
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import (
    QAOA,
    Corrected,
    DWave,
    Exact,
    Gibbs,
    ParallelTempering,
    SimulatedAnnealing,
)
from qsample.sampling import Sampler
from qsample.testing.sapi import Chip, SolverServer

sys.path.append(str(Path(__file__).parents[2]))
from experiments.benchmarks.instances import chip
from experiments.claims.quantum_proposal import all_states, spin_glass
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    Stopwatch,
    command_line,
    progress_bar,
    published,
)

CLAIMED = {
    "sampling": {"before": 0.120, "after": 0.002},
    "gradient": {"before": 900.0, "after": 30.0},
}
"""seconds that the article states: claimed, not reproduced"""
CLAIMED_OF_CHIPS = 64  # times faster than PCD-100; unverified
PARTS = ("programming", "anneal", "readout", "delay")
NEAR = 0.01  # of total variation over its floor
LIMIT = 3.0  # standard errors


@dataclass(frozen=True)
class Options(CommonOptions):
    """Settings."""

    spins: int = 8
    """spins of the small problem"""
    reads: int = 20_000
    """reads of it"""
    lattice: tuple[int, int, int] = (20, 20, 12)
    """sides of the large one"""
    chains: int = 64
    """reads of it"""
    reference: int = 4000
    """sweeps of its long run"""
    longest: int = 4096
    """most sweeps that are tried"""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """draws of every point, whose mean is taken"""
    chip: int = 12
    """size of the Zephyr chip beside persistent chains"""
    chip_reads: int = 512
    """chains, and reads of the chip"""


def main(options: Options) -> None:
    """Measure, gather, draw."""
    report = Report(options, __file__)
    with loopback() as device:
        small = small_rows(options, device)
    result = {
        "claimed": CLAIMED,
        "small": small,
        "large": large_rows(options),
        "chip": chip_row(options),
        "gradient": gradient_rows("billion"),
        "gradient_on_gpu": gradient_rows("billion_cuda"),
        "matrices": published("linear_algebra")["result"]["verdict"],
    }
    for row in (*result["small"], *result["large"]):
        print(row)
    report.finish(result, picture(result))


@contextmanager
def loopback() -> Iterator[DWave]:
    """A processor of D-Wave's on this machine, at a hidden temperature and with noise."""
    with SolverServer("zephyr-2", chip=Chip(beta=3.0, noise=0.03)) as server:
        client = {"endpoint": server.endpoint, "token": server.token}
        with DWave(client=client) as device:
            yield device


class Point(NamedTuple):
    """What a sampler did at one number of sweeps: means over draws.

    Attributes:
        distance: how far its reads are, in the row's own measure.
        cpu_seconds: CPU time of the call.
        programming: access time of a processor, in seconds: programming it;
        anneal: anneals;
        readout: readouts;
        delay: what passes between reads.
    """

    distance: float
    cpu_seconds: float
    programming: float = 0.0
    anneal: float = 0.0
    readout: float = 0.0
    delay: float = 0.0

    @property
    def qpu_seconds(self) -> float:
        """The whole access time."""
        return self.programming + self.anneal + self.readout + self.delay


def averaged(points: list[Point]) -> tuple[Point, float]:
    """The mean of draws, and the standard error of their mean distance (0 of one draw)."""
    mean = Point(*(sum(values) / len(points) for values in zip(*points, strict=True)))
    if len(points) < 2:
        return mean, 0.0
    return mean, statistics.stdev(p.distance for p in points) / len(points) ** 0.5


def samplers(sweeps: int, small: bool, device: DWave | None) -> dict[str, Sampler]:
    """Who is asked, with so many sweeps."""
    linear = SimulatedAnnealing(sweeps, (0.0, 1.0), "linear")
    by_name: dict[str, Sampler] = {
        "Gibbs": Gibbs(sweeps),
        "annealing": linear,
        "annealing, corrected": Corrected(linear, Gibbs(sweeps)),
        "tempering": ParallelTempering(sweeps, 4, reads_per_ladder=1 if not small else 16),
    }
    if small:
        by_name["QAOA, corrected"] = Corrected(QAOA(4), Gibbs(sweeps))
    if device is not None:
        by_name["loopback QPU, corrected"] = Corrected(device, Gibbs(sweeps))
    return by_name


def searched(
    options: Options, names: list[str], measure: Any, limit: float
) -> list[dict[str, Any]]:
    """For each sampler the fewest sweeps, a power of two, at which it is within the limit.

    Args:
        options: settings.
        names: samplers.
        measure: function of a name, sweeps and seed that returns a `Point`.
        limit: the distance that is near enough.
    """
    rows: list[dict[str, Any]] = []
    for name in progress_bar(names, desc="samplers"):
        sweeps = 1
        while True:
            points = [measure(name, sweeps, seed) for seed in options.seeds]
            found, error = averaged(points)
            if found.distance <= limit or sweeps >= options.longest:
                break
            sweeps *= 2
        rows.append(row_of(name, sweeps, found, error, limit))
    return rows


def row_of(name: str, sweeps: int, found: Point, error: float, limit: float) -> dict[str, Any]:
    """A row of the table."""
    return {
        "sampler": name,
        "sweeps": sweeps,
        "reached": found.distance <= limit,
        **found._asdict(),
        "distance_stderr": error,
        "qpu_seconds": found.qpu_seconds,
    }


# ---- few spins --------------------------------------------------------------------------------


def small_rows(options: Options, device: DWave) -> list[dict[str, Any]]:
    """Time to a total variation within 0.01 of its floor; and the circuit and the chip raw."""
    problem = spin_glass(options.spins, 1.0, 0)
    law = (-problem.energy(all_states(options.spins))).softmax(0)
    floor = sum(
        variation(Exact().sample(problem, options.reads, generator=seeded(90 + k)), law)
        for k in range(5)
    )
    floor /= 5

    def measure(name: str, sweeps: int, seed: int) -> Point:
        sampler = (
            samplers(sweeps, True, device).get(name)
            or {
                "QAOA": QAOA(4),
                "loopback QPU": device,
            }[name]
        )
        reads, seconds = drawn(sampler, problem, options.reads, seed)
        return Point(variation(reads, law) - floor, seconds, **access(reads.info))

    device.sample(problem, 16)  # it looks for a place on the chip, and for its temperature, once
    names = [*samplers(1, True, device)]
    rows = searched(options, names, measure, NEAR)
    for name in ("QAOA", "loopback QPU"):
        found, error = averaged([measure(name, 1, seed) for seed in options.seeds])
        rows.append(row_of(name, 0, found, error, NEAR))
    return rows


def access(info: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of a processor's access time by part; none where no processor was asked."""
    if "qpu_parts" in info:
        return {name: time / 1e6 for name, time in info["qpu_parts"].items()}
    return access(info["before"]) if "before" in info else {}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(sampler: Sampler, problem: qs.Ising, num: int, seed: int) -> tuple[qs.Samples, float]:
    """Reads, and the CPU time of the call."""
    watch = Stopwatch()
    reads = sampler.sample(problem, num, generator=seeded(seed))
    return reads, watch.read().cpu


def variation(reads: qs.Samples, law: Tensor) -> float:
    """Total variation between the reads' frequencies and the law of all states."""
    place = ((reads.spins > 0) << torch.arange(reads.spins.shape[-1])).sum(-1)
    counts = place.bincount(minlength=len(law)).double()
    return float((counts / counts.sum() - law).abs().sum() / 2)


# ---- thousands of spins -----------------------------------------------------------------------


def large_rows(options: Options) -> list[dict[str, Any]]:
    """Time until energy and bonds by direction are within three standard errors of a long run."""
    problem, direction = lattice(options.lattice)
    long = Gibbs(options.reference).sample(problem, options.chains, generator=seeded(99))
    truth = moments(problem, long, direction)

    def measure(name: str, sweeps: int, seed: int) -> Point:
        sampler = samplers(sweeps, False, None)[name]
        reads, seconds = drawn(sampler, problem, options.chains, seed)
        z = scores(moments(problem, reads, direction), truth)
        return Point(float(z.abs().max()), seconds)

    return searched(options, [*samplers(1, False, None)], measure, LIMIT)


def lattice(sides: tuple[int, int, int]) -> tuple[qs.Ising, Tensor]:
    """A periodic lattice of couplings of random sign at beta 0.5, and each edge's direction."""
    number = torch.arange(sides[0] * sides[1] * sides[2]).reshape(sides)
    edges: list[Tensor] = []
    direction: list[Tensor] = []
    for axis in range(3):
        pairs = torch.stack([number.flatten(), number.roll(-1, axis).flatten()], -1)
        edges.append(pairs)
        direction.append(torch.full((len(pairs),), axis))
    signs = torch.randint(2, (3 * number.numel(),), generator=seeded(5)) * 2 - 1
    graph = qs.Graph.sparse(number.numel(), torch.cat(edges).tolist())
    problem = qs.Ising(graph, torch.zeros(number.numel()), 0.5 * signs.float())
    return problem, torch.cat(direction)


def moments(problem: qs.Ising, reads: qs.Samples, direction: Tensor) -> Tensor:
    """Energy per spin, and J s s per edge of each direction, of every read, `[R, 4]`."""
    i, j = problem.graph.edges
    s = reads.spins.double()
    bonds = problem.J.double() * s[:, i] * s[:, j]
    parts = [bonds[:, direction == axis].mean(-1) for axis in range(3)]
    return torch.stack([reads.energy.double() / problem.num_spins, *parts], -1)


def scores(found: Tensor, truth: Tensor) -> Tensor:
    """Differences of means of independent reads over their standard errors."""
    error = (found.var(0) / len(found) + truth.var(0) / len(truth)).sqrt()
    return (found.mean(0) - truth.mean(0)) / error


# ---- persistent chains beside a chip ----------------------------------------------------------


def chip_row(options: Options) -> dict[str, Any]:
    """Time of 100 sweeps of persistent chains on a whole chip, and what the chip would charge."""
    edges = chip("zephyr", options.chip)
    num = int(edges.max()) + 1
    signs = torch.randint(2, (len(edges),), generator=seeded(7)) * 2 - 1
    problem = qs.Ising(qs.Graph.sparse(num, edges), torch.zeros(num), 0.3 * signs.float())
    chains = Gibbs(100).sample(problem, options.chip_reads, generator=seeded(1))
    seconds = []
    for seed in options.seeds:
        watch = Stopwatch()
        Gibbs(100).sample(problem, options.chip_reads, initial=chains, generator=seeded(seed))
        seconds.append(watch.read().wall)
    with SolverServer(f"zephyr-{options.chip}") as server:
        with Client(endpoint=server.endpoint, token=server.token) as client:
            ask: Any = client.get_solver().estimate_qpu_access_time
            charged = ask(num, num_reads=options.chip_reads, annealing_time=0.5) / 1e6
            of_one = ask(num, num_reads=1, annealing_time=0.5) / 1e6
    middle = statistics.median(seconds)
    return {
        "spins": num,
        "reads": options.chip_reads,
        "threads": torch.get_num_threads(),
        "chains_seconds": middle,
        "qpu_seconds": charged,
        "qpu_seconds_of_one_read": of_one,
        "times_faster": middle / charged,
        "claimed_times_faster": CLAIMED_OF_CHIPS,
    }


# ---- gradients, and the picture ---------------------------------------------------------------


def gradient_rows(name: str) -> list[dict[str, float]]:
    """Weights, and median and fastest seconds of a step, as a published file has them."""
    rows = published(name)["result"]["rows"]
    listed = []
    for row in rows:
        times = row["times"]["qsample"]
        found = {"seconds": times["seconds"], "fastest": times["fastest"]}
        listed.append({"weights": row["weights"]} | found)
    return listed


def picture(result: dict[str, Any]) -> Figure:
    """The three rows, each claim dashed and labelled."""
    figure, axes = plt.subplots(2, 2, figsize=(16.0, 10.0))
    titles = {
        "small": "row 1, few spins: until total variation is 0.01 over its floor",
        "large": "row 1, a lattice glass: until |z| ≤ 3 in energy and bonds",
    }
    for axis, (name, title) in zip(axes[0], titles.items(), strict=True):
        bars(axis, result[name], "TV - floor" if name == "small" else "|z|")
        claimed(axis.axvline, "sampling")
        axis.set(title=title, xlabel="seconds")
    chip_bars(axes[0, 1], result["chip"], len(result["large"]))
    left, right = axes[1]
    for rows, label, colour in (
        (result["gradient"], "two CPU cores, CD-1, 64 rows", OURS),
        (result["gradient_on_gpu"], "one H200, CD-1, 64 rows", "C2"),
    ):
        weights = [row["weights"] for row in rows]
        seconds = [row["seconds"] for row in rows]
        down = [row["seconds"] - row["fastest"] for row in rows]
        left.errorbar(
            weights, seconds, (down, [0.0] * len(down)), fmt="o-", ms=4, capsize=3, color=colour
        )
        left.plot([], [], "o-", color=colour, label=f"measured: {label}; bars: to the fastest")
    left.set(xscale="log", yscale="log")
    left.axvline(1e9, color="0.8", lw=4, label="the article's size, neither batch nor model stated")
    claimed(left.axhline, "gradient")
    left.set(title="row 2, gradient of a Boltzmann machine, float32; the time of one whole step")
    left.set(xlabel="weights", ylabel="seconds")
    slower = result["matrices"]["times_slower_at_one_percent"]
    for k, name in enumerate(next(iter(slower.values()))):
        values = [row[name] for row in slower.values()]
        label = f"measured: {name.replace('_', ' ')}, to 1 %"
        right.loglog([int(n) for n in slower], values, "o-", ms=4, color=f"C{k}", label=label)
    right.axhline(1, color="k", ls="--", lw=1, label="claimed, not reproduced: below this line")
    right.set(title="row 3, matrices: time of 1 % by sampling, over torch's for 15 digits")
    right.set(xlabel="order N", ylabel="times slower")
    for axis in (*axes[0], left):  # under the bars and lines, not on them
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.35, -0.12), ncols=2)
    right.legend(fontsize=7)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.suptitle("The article's table: claimed, not reproduced (dashed), beside measurements")
    figure.tight_layout()
    return figure


def bars(axis: Axes, rows: list[dict[str, Any]], measure: str) -> None:
    """A bar per sampler with its accuracy, a processor's access time and its parts below it."""
    for place, row in enumerate(rows):
        hatch = "" if row["reached"] else "///"
        axis.barh(place, row["cpu_seconds"], 0.5, color=OURS, alpha=0.7, hatch=hatch)
        if row["qpu_seconds"]:
            axis.barh(place + 0.35, row["qpu_seconds"], 0.2, color=THEIRS)
            parts = ", ".join(f"{part} {row[part] * 1e3:.0f}" for part in PARTS)
            at_edge = axis.get_yaxis_transform()
            axis.text(
                0.01, place + 0.58, f"ms: {parts}", transform=at_edge, va="center", fontsize=7
            )
    axis.barh(0, 0, color=OURS, alpha=0.7, label="measured: CPU time (QAOA, QPU: of a simulation)")
    axis.barh(0, 0, color="w", hatch="///", label="measured: accuracy not reached")
    if any(row["qpu_seconds"] for row in rows):
        axis.barh(0, 0, color=THEIRS, label="estimated: access time of a D-Wave processor")
    labels = []
    for row in rows:
        sweeps = f", {row['sweeps']} sweeps" if row["sweeps"] else ""
        off = f"{row['distance']:.2g} ± {row['distance_stderr']:.1g}"
        labels.append(f"{row['sampler']}{sweeps}\n{measure} {off}")
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xscale("log")


def chip_bars(axis: Axes, row: dict[str, Any], first: int) -> None:
    """Two more bars: persistent chains on a whole chip, and its access time."""
    labels = [text.get_text() for text in axis.get_yticklabels()]
    for place, (key, colour, name) in enumerate(
        (
            ("chains_seconds", OURS, "measured, wall: 100 sweeps of persistent chains"),
            ("qpu_seconds", THEIRS, "estimated: access time of a chip"),
        ),
        first,
    ):
        axis.barh(place, row[key], 0.5, color=colour)
        axis.text(row[key], place, f" {row[key]:.3f} s", va="center", fontsize=8)
        labels.append(f"{name}\n{row['reads']} reads of {row['spins']:,} spins")
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.plot(
        [],
        [],
        " ",
        label=f"chip {row['times_faster']:.2f} x as fast as chains here; claimed, not verified:\n"
        f"{row['claimed_times_faster']} x (a summary of arXiv 2509.09374, sizes not stated)",
    )


def claimed(line: Any, name: str) -> None:
    """The article's two figures as dashed lines; `line` is a method of the axes that draws one."""
    for (key, seconds), color in zip(CLAIMED[name].items(), ("k", "C3"), strict=True):
        line(
            seconds,
            color=color,
            ls="--",
            lw=1,
            label=f"claimed {key}, not reproduced: {seconds:g} s",
        )


if __name__ == "__main__":
    command_line(main, Options)
