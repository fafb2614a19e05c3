"""How often `diagnose` calls right reads wrong, and which wrong reads it sees.

    python experiments/claims/judge_calibration.py --right 100 --wrong 3 --publish

The tables of docs/judges.md. Right reads are drawn exactly (or by long tempering where nothing is
exact) from 20 problems of six kinds, and come in all shapes: few and many, single reads and blocks
of chains, weighted, in two dtypes. Wrong reads are those of the table `FAULTS`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import Exact, Gibbs, ParallelTempering

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import OURS, CommonOptions, Report, command_line, progress_bar

Fault = Callable[["Reads"], qs.Samples]
"""wrong reads, from right ones"""
SMALL = (5, 30, 100, 300, 1000)
"""reads in a right set"""


def ring(n: int, J: float, h: float) -> qs.Ising:
    """A uniform ring.

    Args:
        n: number of spins.
        J: coupling of neighbours.
        h: field of every spin.
    """
    edges = [(i, (i + 1) % n) for i in range(n)]
    return qs.Ising.from_edges(torch.full((n,), h), edges, torch.full((n,), J))


def glass(n: int, scale: float, h: float, seed: int) -> qs.Ising:
    """All spins coupled by normal numbers of variance scale^2 / n.

    Args:
        n: number of spins.
        scale: coupling strength.
        h: standard deviation of the fields.
        seed: seed of the numbers.
    """
    g = torch.Generator().manual_seed(seed)
    J = (torch.randn(n, n, generator=g) * scale / n**0.5).triu(1)
    return qs.Ising(qs.Graph.complete(n), torch.randn(n, generator=g) * h, J + J.T)


def rbm(n: int, m: int, scale: float, seed: int) -> qs.Ising:
    """A bipartite problem of normal numbers.

    Args:
        n: spins of the first side.
        m: spins of the second side.
        scale: standard deviation of the couplings.
        seed: seed of the numbers.
    """
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(n + m, generator=g) * 0.3
    J = torch.randn(n, m, generator=g) * scale
    return qs.Ising(qs.Graph.bipartite(n, m), h, J)


def ferromagnet(n: int, J: float, h: float) -> qs.Ising:
    """All spins coupled alike: two modes where n J > 1.

    Args:
        n: number of spins.
        J: coupling strength of a pair.
        h: field that favours spins up.
    """
    coupling = -J * (torch.ones(n, n) - torch.eye(n))
    return qs.Ising(qs.Graph.complete(n), torch.full((n,), -h), coupling)


def narrow(n: int, width: int, scale: float, seed: int) -> qs.Ising:
    """A strip of spins with normal couplings: treewidth `width`.

    Args:
        n: number of spins, a multiple of the width.
        width: spins across the strip.
        scale: standard deviation of the couplings.
        seed: seed of the numbers.
    """
    g = torch.Generator().manual_seed(seed)
    rows = n // width
    edges = [(r * width + k, r * width + k + 1) for r in range(rows) for k in range(width - 1)]
    edges += [(r * width + k, (r + 1) * width + k) for r in range(rows - 1) for k in range(width)]
    J = torch.randn(len(edges), generator=g) * scale
    return qs.Ising.from_edges(torch.randn(rows * width, generator=g) * 0.2, edges, J)


def problems() -> dict[str, qs.Ising]:
    """20 problems."""
    return {
        "ring of 8": ring(8, -0.5, 0.0),
        "ring of 12, cold": ring(12, -1.5, 0.0),
        "ring of 16, frustrated": ring(16, 0.8, 0.3),
        "ring of 100": ring(100, -0.6, 0.1),
        "glass of 5": glass(5, 1.0, 0.3, 1),
        "glass of 10": glass(10, 1.0, 0.3, 2),
        "glass of 12, cold": glass(12, 2.5, 0.2, 3),
        "glass of 14": glass(14, 1.0, 0.0, 4),
        "strong fields": glass(12, 0.5, 2.5, 5),
        "ferromagnet of 10": ferromagnet(10, 0.15, 0.0),
        "ferromagnet of 14, two modes": ferromagnet(14, 0.14, 0.02),
        "RBM 12 x 5": rbm(12, 5, 0.6, 6),
        "RBM 64 x 12": rbm(64, 12, 0.25, 7),
        "RBM 40 x 10, strong": rbm(40, 10, 0.6, 8),
        "RBM 100 x 8": rbm(100, 8, 0.3, 9),
        "strip of 60": narrow(60, 4, 0.7, 10),
        "strip of 48, cold": narrow(48, 4, 1.5, 11),
        "tree of 40": narrow(40, 1, 1.0, 12),
        "ferromagnet of 40": ferromagnet(40, 0.05, 0.1),
        "RBM 40 x 30": rbm(40, 30, 0.12, 13),
    }


JUDGED = (
    "ring of 8",
    "glass of 10",
    "ferromagnet of 14, two modes",
    "RBM 64 x 12",
    "strip of 60",
    "ferromagnet of 40",
)
"""problems of which wrong reads are judged"""
BEYOND = {"ferromagnet of 40", "RBM 40 x 30"}
"""problems that can be neither enumerated nor decomposed"""


def right_pool(name: str, problem: qs.Ising, num: int, seed: int) -> qs.Samples:
    """Independent right reads.

    Args:
        name: name of the problem.
        problem: the problem, or a scaled one.
        num: number of reads.
        seed: seed of the draws.
    """
    g = torch.Generator().manual_seed(seed)
    if name in BEYOND:
        return ParallelTempering(sweeps=400).sample(problem, num, generator=g)
    return Exact().sample(problem, num, generator=g)


def of(problem: qs.Ising, spins: Tensor, **more: Any) -> qs.Samples:
    """Samples with the energies that belong to the spins."""
    return qs.Samples(spins, problem.energy(spins), **more)


def right_sets(name: str, problem: qs.Ising, times: int) -> list[tuple[qs.Ising, qs.Samples]]:
    """Sets of right reads of all shapes, each with its problem.

    Args:
        name: name of the problem.
        problem: the problem.
        times: number of sets.
    """
    sizes = [SMALL[k % len(SMALL)] for k in range(times)]
    if name in BEYOND:
        sizes = [min(size, 300) for size in sizes]
    pool = right_pool(name, problem, sum(sizes), 0).spins
    sets: list[tuple[qs.Ising, qs.Samples]] = []
    for k, spins in enumerate(pool.split(sizes)):
        g = torch.Generator().manual_seed(k)
        shape = k // len(SMALL) % 4
        if shape == 1 and len(spins) >= 100 and name not in BEYOND:
            sets.append((problem, blocks(problem, spins[: len(spins) // 5], g)))
        elif shape == 2 and name not in BEYOND:
            sets.append((problem, weighted_draws(problem, len(spins), g)))
        elif shape == 3:
            other = problem.to(dtype=(torch.float64, torch.float32)[k % 2])
            sets.append((other, of(other, spins)))
        else:
            sets.append((problem, of(problem, spins)))
    return sets


def blocks(problem: qs.Ising, spins: Tensor, generator: torch.Generator) -> qs.Samples:
    """Blocks of five reads of chains that start right.

    Args:
        problem: the problem.
        spins: right reads, where the chains start.
        generator: source of the chains.
    """
    states = [spins]
    for _ in range(4):
        start = of(problem, states[-1])
        samples = Gibbs(2).sample(problem, len(spins), initial=start, generator=generator)
        states.append(samples.spins)
    return of(problem, torch.stack(states, 1).flatten(0, 1), info={"block": 5})


def weighted_draws(problem: qs.Ising, num: int, generator: torch.Generator) -> qs.Samples:
    """Exact draws of a hotter problem, with the weights that mend them.

    Args:
        problem: the problem.
        num: number of reads.
        generator: source of the draws.
    """
    hot = problem.scale(0.8)
    spins = Exact().sample(hot, num, generator=generator).spins
    return of(problem, spins, log_weight=hot.energy(spins) - problem.energy(spins))


def one_mode(problem: qs.Ising, spins: Tensor) -> Tensor:
    """The reads on one side of their first principal component."""
    centred = spins.float() - spins.float().mean(0)
    axis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    side = centred @ axis > 0
    return spins[side] if side.sum() * 2 >= len(side) else spins[~side]


@dataclass(frozen=True)
class Reads:
    """Right reads of a problem, from which wrong ones are made."""

    name: str
    problem: qs.Ising
    num: int
    seed: int

    def draw(self, times: float = 1, problem: qs.Ising | None = None) -> Tensor:
        """So many times the reads, of the problem or of a changed one."""
        num = int(times * self.num)
        return right_pool(self.name, problem or self.problem, num, self.seed).spins

    @property
    def generator(self) -> torch.Generator:
        """A source of what goes wrong."""
        return torch.Generator().manual_seed(self.seed)

    def of(self, spins: Tensor, **more: Any) -> qs.Samples:
        """Samples of the problem."""
        return of(self.problem, spins, **more)


def repeated_reads(reads: Reads) -> qs.Samples:
    """Four in ten reads are copies of others, in random order."""
    spins = reads.draw()
    num = reads.num
    copies = int(0.4 * num)
    g = reads.generator
    spins[num - copies :] = spins[torch.randint(num - copies, (copies,), generator=g)]
    return reads.of(spins[torch.randperm(num, generator=g)])


def one_half(reads: Reads) -> qs.Samples:
    """Reads of one side only."""
    return reads.of(one_mode(reads.problem, reads.draw(2))[: reads.num])


def twelve_states(reads: Reads) -> qs.Samples:
    """Reads of twelve states."""
    states = right_pool(reads.name, reads.problem, 12, reads.seed).spins
    return reads.of(states[torch.randint(12, (reads.num,), generator=reads.generator)])


def antithetic(reads: Reads) -> qs.Samples:
    """Reads in pairs, each with its opposite."""
    spins = reads.draw(0.5)
    return reads.of(torch.stack([spins, -spins], 1).flatten(0, 1))


def by_energy(reads: Reads) -> qs.Samples:
    """From the lowest to the highest energy."""
    spins = reads.draw()
    return reads.of(spins[reads.problem.energy(spins).argsort()])


def even_only(reads: Reads) -> qs.Samples:
    """The reads with an even number of spins down, where there are enough of them."""
    spins = reads.draw(3)
    return reads.of(spins[(spins < 0).sum(1) % 2 == 0][: reads.num])


def zeros_and_ones(reads: Reads) -> qs.Samples:
    """Bits for spins."""
    spins = reads.draw()
    return qs.Samples((spins + 1) // 2, reads.problem.energy(spins))


def other_energies(reads: Reads) -> qs.Samples:
    """Each read with the energy of the one before."""
    spins = reads.draw()
    return qs.Samples(spins, reads.problem.energy(spins).roll(1))


def wrong_weights(reads: Reads) -> qs.Samples:
    """Right reads with weights that they do not need."""
    spins = reads.draw()
    return reads.of(spins, log_weight=0.3 * reads.problem.energy(spins))


def of_changed(change: Callable[[qs.Ising], qs.Ising]) -> Fault:
    """Reads of a changed problem."""
    return lambda reads: reads.of(reads.draw(problem=change(reads.problem)))


def without_an_edge(problem: qs.Ising) -> qs.Ising:
    """The problem without its strongest coupling."""
    values = problem.graph.edge_values(problem.J).clone()
    values[values.abs().argmax()] = 0
    return qs.Ising(problem.graph, problem.h, problem.graph.couplings(values))


def without_fields(problem: qs.Ising) -> qs.Ising:
    """The problem without its fields."""
    return qs.Ising(problem.graph, 0 * problem.h, problem.J)


FAULTS: dict[str, Fault] = {
    "40 % repeated": repeated_reads,
    "every read twice": lambda reads: reads.of(reads.draw(0.5).repeat_interleave(2, 0)),
    "half of the reads again": lambda reads: reads.of(reads.draw(0.5).repeat(2, 1)),
    "one half of the modes": one_half,
    "12 states": twelve_states,
    "antithetic pairs": antithetic,
    "sorted by energy": by_energy,
    "1.1 times colder": of_changed(lambda problem: problem.scale(1.1)),
    "1.1 times hotter": of_changed(lambda problem: problem.scale(1 / 1.1)),
    "strongest coupling dropped": of_changed(without_an_edge),
    "fields dropped": of_changed(without_fields),
    "even numbers of spins down only": even_only,
    "spins moved by one place": lambda reads: reads.of(reads.draw().roll(1, -1)),
    "0 and 1 for -1 and +1": zeros_and_ones,
    "energies of other reads": other_energies,
    "wrong weights": wrong_weights,
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """How often `diagnose` is wrong."""

    right: int = 100
    """sets of right reads of each problem"""
    wrong: int = 3
    """sets of wrong reads of each fault, problem and size"""
    sizes: tuple[int, ...] = (300, 1500)
    """reads in a wrong set"""
    processes: int = 2
    """problems at a time"""
    problems: tuple[str, ...] = ()
    """names of the problems; all by default"""


def main(options: Options) -> None:
    """Judge right and wrong reads; the JSON is written anew after each problem."""
    report = Report(options, __file__)
    names = list(options.problems or problems())
    judged = [name for name in JUDGED if name in names and options.wrong]
    right = partial(judge_right, times=options.right)
    wrong = partial(judge_wrong, times=options.wrong, sizes=options.sizes)
    verdicts: list[dict[str, Any]] = []
    powers: list[dict[str, dict[str, str]]] = []
    with Pool(options.processes) as pool:
        for row in progress_bar(pool.imap_unordered(right, names), total=len(names)):
            verdicts.append(row)
            report.write(figures(verdicts, powers))
        for power in progress_bar(pool.imap(wrong, judged), total=len(judged)):
            powers.append(power)
            report.write(figures(verdicts, powers))
    result = figures(verdicts, powers)
    print(f"{len(result['alarms'])} of {result['right_sets']} right sets called wrong")
    report.finish(result, picture(result))


def judge_right(name: str, times: int) -> dict[str, Any]:
    """Verdicts on right reads of a problem, every p-value by test, CPU seconds."""
    torch.set_num_threads(1)
    verdicts = {"True": 0, "False": 0, "None": 0}
    alarms: list[dict[str, Any]] = []
    p_values: dict[str, list[float]] = {}
    start = time.process_time()
    for k, (problem, samples) in enumerate(right_sets(name, problems()[name], times)):
        verdict = qs.diagnose(problem, samples, generator=torch.Generator().manual_seed(k))
        verdicts[str(verdict.ok)] += 1
        families = samples.log_weight is not None or "block" in samples.info
        for test in verdict.tests:
            kind = test.name + (", weighted or in blocks" if families else "")
            p_values.setdefault(kind, []).append(test.p_value)
        if verdict.ok is False:
            alarm = {"problem": name, "set": k, "reads": samples.num, "verdict": verdict.text}
            alarms.append(alarm)
    return {
        "name": name,
        "verdicts": verdicts,
        "alarms": alarms,
        "p_values": p_values,
        "seconds": time.process_time() - start,
    }


def judge_wrong(name: str, times: int, sizes: tuple[int, ...]) -> dict[str, dict[str, str]]:
    """How many wrong sets are called wrong, for each fault and size.

    Args:
        name: name of the problem.
        times: sets of each fault and size.
        sizes: numbers of reads.
    """
    torch.set_num_threads(1)
    problem = problems()[name]
    power: dict[str, dict[str, str]] = {}
    for fault, make in FAULTS.items():
        for size in sizes:
            verdicts = []
            for seed in range(times):
                samples = make(Reads(name, problem, size, 1000 + seed))
                generator = torch.Generator().manual_seed(seed)
                if samples.num >= size // 2:
                    verdicts.append(qs.diagnose(problem, samples, generator=generator).ok)
            if verdicts:
                text = f"{verdicts.count(False)}/{len(verdicts)}"
                if None in verdicts:
                    text += f" ({verdicts.count(None)} not judged)"
                power.setdefault(fault, {})[f"{name}, {size}"] = text
    return power


def figures(
    verdicts: list[dict[str, Any]], powers: list[dict[str, dict[str, str]]]
) -> dict[str, Any]:
    """What is known so far, in the form of the file."""
    p_values: dict[str, list[float]] = {}
    for row in verdicts:
        for test, values in row["p_values"].items():
            p_values.setdefault(test, []).extend(values)
    power: dict[str, dict[str, str]] = {}
    for of_problem in powers:
        for fault, caught in of_problem.items():
            power.setdefault(fault, {}).update(caught)
    total = sum(sum(row["verdicts"].values()) for row in verdicts)
    seconds = sum(row["seconds"] for row in verdicts)
    return {
        "right_sets": total,
        "alarms": [alarm for row in verdicts for alarm in row["alarms"]],
        "verdicts": {row["name"]: row["verdicts"] for row in verdicts},
        "cpu_seconds_per_call": round(seconds / max(total, 1), 3),
        "tests": {
            name: {
                "times": len(values),
                "least_p": min(values),
                "below_1e-3": sum(p < 1e-3 for p in values),
            }
            for name, values in sorted(p_values.items())
        },
        "uniform": {
            name: uniform(p_values[name])
            for name in ("mean energy", "temperature")
            if name in p_values
        },
        "power": power,
    }


def uniform(p_values: list[float]) -> float:
    """Kolmogorov's p-value of p-values that should be uniform."""
    from scipy.stats import kstest

    return float(kstest(p_values, "uniform").pvalue)


def caught(power: dict[str, str], size: int) -> tuple[int, int]:
    """Sets of a size called wrong, and sets judged, over all problems."""
    cells = [text for name, text in power.items() if name.endswith(f", {size}")]
    counts = [re.findall(r"\d+", text)[:2] for text in cells]
    return sum(int(wrong) for wrong, _ in counts), sum(int(of) for _, of in counts)


def picture(result: dict[str, Any]) -> Figure:
    """The share of wrong sets called wrong, a pair of bars for each fault."""
    power = result["power"]
    sizes = sorted({int(cell.split(", ")[-1]) for cells in power.values() for cell in cells})
    figure, axis = plt.subplots(figsize=(8, 1.6 + 0.36 * len(power)))
    for k, size in enumerate(sizes):
        for place, cells in enumerate(power.values()):
            wrong, judged = caught(cells, size)
            share = wrong / max(judged, 1)
            height = 0.8 / len(sizes)
            label = f"{size} reads" if place == 0 else None
            colour = [OURS, "#92c5de"][k % 2]
            axis.barh(place + (k - 0.5) * height, share, height, color=colour, label=label)
    axis.set_yticks(range(len(power)), list(power))
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of wrong sets called wrong")
    alarms = f"{len(result['alarms'])} of {result['right_sets']} right sets called wrong"
    axis.set_title(alarms, fontsize=10)
    if sizes:
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=2, frameon=False)
    axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
