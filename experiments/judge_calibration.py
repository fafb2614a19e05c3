"""How often `diagnose` calls right reads wrong, and which wrong reads it sees: the table of docs/judges.md.

    python experiments/judge_calibration.py --right 100 --wrong 3

Right reads are drawn exactly (or by long tempering where nothing is exact) from 20 problems of six kinds, and come in
all shapes: few and many, single reads and blocks of chains, weighted, in two dtypes. Wrong reads are those of the
function `faults`. The figures go to experiments/results/judges.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from tqdm import tqdm

import qsample as qs
from qsample.annealers import Exact, Gibbs, ParallelTempering

SMALL = (5, 30, 100, 300, 1000)  # reads in a set


def ring(n: int, J: float, h: float) -> qs.Ising:
    """A uniform ring."""
    edges = [(i, (i + 1) % n) for i in range(n)]
    return qs.Ising.from_edges(torch.full((n,), h), edges, torch.full((n,), J))


def glass(n: int, scale: float, h: float, seed: int) -> qs.Ising:
    """All spins coupled by normal numbers of variance scale^2 / n."""
    g = torch.Generator().manual_seed(seed)
    J = (torch.randn(n, n, generator=g) * scale / n**0.5).triu(1)
    return qs.Ising(qs.Graph.complete(n), torch.randn(n, generator=g) * h, J + J.T)


def rbm(n: int, m: int, scale: float, seed: int) -> qs.Ising:
    """A bipartite problem of normal numbers."""
    g = torch.Generator().manual_seed(seed)
    h, J = torch.randn(n + m, generator=g) * 0.3, torch.randn(n, m, generator=g) * scale
    return qs.Ising(qs.Graph.bipartite(n, m), h, J)


def ferromagnet(n: int, J: float, h: float) -> qs.Ising:
    """All spins coupled alike: two modes where n J > 1."""
    coupling = -J * (torch.ones(n, n) - torch.eye(n))
    return qs.Ising(qs.Graph.complete(n), torch.full((n,), -h), coupling)


def narrow(n: int, width: int, scale: float, seed: int) -> qs.Ising:
    """A strip of spins with normal couplings: treewidth `width`."""
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


JUDGED = (  # for power
    "ring of 8",
    "glass of 10",
    "ferromagnet of 14, two modes",
    "RBM 64 x 12",
    "strip of 60",
    "ferromagnet of 40",
)
BEYOND = {"ferromagnet of 40", "RBM 40 x 30"}  # neither listed nor decomposed


def right_pool(name: str, problem: qs.Ising, num: int, seed: int) -> qs.Samples:
    """Independent right reads."""
    g = torch.Generator().manual_seed(seed)
    if name in BEYOND:
        return ParallelTempering(sweeps=400).sample(problem, num, generator=g)
    return Exact().sample(problem, num, generator=g)


def of(problem: qs.Ising, spins: Tensor, **more: Any) -> qs.Samples:
    """Samples with the energies that belong to the spins."""
    return qs.Samples(spins, problem.energy(spins), **more)


def right_sets(name: str, problem: qs.Ising, times: int) -> list[tuple[qs.Ising, qs.Samples]]:
    """`times` sets of right reads of all shapes."""
    sizes = [SMALL[k % len(SMALL)] for k in range(times)]
    if name in BEYOND:
        sizes = [min(size, 300) for size in sizes]
    pool = right_pool(name, problem, sum(sizes), 0).spins
    found, start = [], 0
    for k, size in enumerate(sizes):
        spins = pool[start : start + size]
        start += size
        g = torch.Generator().manual_seed(k)
        shape = k // len(SMALL) % 4
        if shape == 1 and size >= 100 and name not in BEYOND:  # blocks of chains that start right
            spins = spins[: size // 5]
            parts = [spins]
            for _ in range(4):
                parts.append(
                    Gibbs(2)
                    .sample(problem, len(spins), initial=of(problem, parts[-1]), generator=g)
                    .spins
                )
            spins = torch.stack(parts, 1).flatten(0, 1)
            found.append((problem, of(problem, spins, info={"block": 5})))
        elif shape == 2 and name not in BEYOND:  # weighted draws of another temperature
            hot = problem.scale(0.8)
            spins = Exact().sample(hot, size, generator=g).spins
            weight = hot.energy(spins) - problem.energy(spins)
            found.append((problem, of(problem, spins, log_weight=weight)))
        elif shape == 3:
            dtype = (torch.float64, torch.float32)[k % 2]
            other = problem.to(dtype=dtype)
            found.append((other, of(other, spins)))
        else:
            found.append((problem, of(problem, spins)))
    return found


def one_mode(problem: qs.Ising, spins: Tensor) -> Tensor:
    """The reads on one side of their first principal component."""
    centred = spins.float() - spins.float().mean(0)
    axis = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    side = centred @ axis > 0
    return spins[side] if side.sum() * 2 >= len(side) else spins[~side]


def without_an_edge(problem: qs.Ising) -> qs.Ising:
    """The problem without its strongest coupling."""
    values = problem.graph.edge_values(problem.J).clone()
    values[values.abs().argmax()] = 0
    return qs.Ising(problem.graph, problem.h, problem.graph.couplings(values))


def even_only(spins: Tensor) -> Tensor:
    """The reads with an even number of spins down, where there are enough of them."""
    return spins[(spins < 0).sum(1) % 2 == 0]


def faults(name: str) -> dict[str, Callable[[qs.Ising, int, int], qs.Samples]]:
    """Wrong reads: a function of the problem, the number of reads and a seed."""

    def draw(problem: qs.Ising, num: int, seed: int) -> Tensor:
        return right_pool(name, problem, num, seed).spins

    def repeated(p: qs.Ising, num: int, seed: int) -> qs.Samples:
        spins = draw(p, num, seed)
        g = torch.Generator().manual_seed(seed)
        copies = int(0.4 * num)
        spins[num - copies :] = spins[torch.randint(num - copies, (copies,), generator=g)]
        return of(p, spins[torch.randperm(num, generator=g)])

    def half(p: qs.Ising, num: int, seed: int) -> qs.Samples:
        return of(p, one_mode(p, draw(p, 2 * num, seed))[:num])

    def antithetic(p: qs.Ising, num: int, seed: int) -> qs.Samples:
        spins = draw(p, num // 2, seed)
        return of(p, torch.stack([spins, -spins], 1).flatten(0, 1))

    def ordered(p: qs.Ising, num: int, seed: int) -> qs.Samples:
        spins = draw(p, num, seed)
        return of(p, spins[p.energy(spins).argsort()])

    def permuted(p: qs.Ising, num: int, seed: int) -> qs.Samples:
        return of(p, draw(p, num, seed).roll(1, -1))

    def zeros(p: qs.Ising, num: int, seed: int) -> qs.Samples:
        spins = draw(p, num, seed)
        return qs.Samples((spins + 1) // 2, p.energy(spins))

    def energies(p: qs.Ising, num: int, seed: int) -> qs.Samples:
        spins = draw(p, num, seed)
        return qs.Samples(spins, p.energy(spins).roll(1))

    def weighted(p: qs.Ising, num: int, seed: int) -> qs.Samples:
        spins = draw(p, num, seed)
        return of(p, spins, log_weight=0.3 * p.energy(spins))

    return {
        "40 % repeated": repeated,
        "every read twice": lambda p, num, seed: of(
            p, draw(p, num // 2, seed).repeat_interleave(2, 0)
        ),
        "half of the reads again": lambda p, num, seed: of(p, draw(p, num // 2, seed).repeat(2, 1)),
        "one half of the modes": half,
        "12 states": lambda p, num, seed: of(
            p,
            draw(p, 12, seed)[
                torch.randint(12, (num,), generator=torch.Generator().manual_seed(seed))
            ],
        ),
        "antithetic pairs": antithetic,
        "sorted by energy": ordered,
        "1.1 times colder": lambda p, num, seed: of(p, draw(p.scale(1.1), num, seed)),
        "1.1 times hotter": lambda p, num, seed: of(p, draw(p.scale(1 / 1.1), num, seed)),
        "strongest coupling dropped": lambda p, num, seed: of(
            p, draw(without_an_edge(p), num, seed)
        ),
        "fields dropped": lambda p, num, seed: of(
            p, draw(qs.Ising(p.graph, 0 * p.h, p.J), num, seed)
        ),
        "even numbers of spins down only": lambda p, num, seed: of(
            p, even_only(draw(p, 3 * num, seed))[:num]
        ),
        "spins moved by one place": permuted,
        "0 and 1 for -1 and +1": zeros,
        "energies of other reads": energies,
        "wrong weights": weighted,
    }


@dataclass
class Options:
    """How often `diagnose` is wrong."""

    right: int = 100
    """sets of right reads of each problem"""
    wrong: int = 3
    """sets of wrong reads of each fault, problem and size"""
    sizes: tuple[int, ...] = (300, 1500)
    """reads in a wrong set"""
    processes: int = 2
    """problems at a time"""
    out: Path = Path("experiments/results/judges.json")
    """where the figures go"""


def uniform(p_values: list[float]) -> float:
    """Kolmogorov's p-value of p-values that should be uniform."""
    from scipy.stats import kstest

    return float(kstest(p_values, "uniform").pvalue)


def judge_right(name: str, times: int) -> dict[str, Any]:
    """Verdicts on right reads of a problem, every p-value by test, CPU seconds."""
    torch.set_num_threads(1)
    verdicts, alarms = {"True": 0, "False": 0, "None": 0}, []
    p_values: dict[str, list[float]] = {}
    began = time.process_time()
    for k, (problem, samples) in enumerate(right_sets(name, problems()[name], times)):
        verdict = qs.diagnose(problem, samples, generator=torch.Generator().manual_seed(k))
        verdicts[str(verdict.ok)] += 1
        for test in verdict.tests:
            plain = (
                ""
                if samples.log_weight is None and "block" not in samples.info
                else ", weighted or in blocks"
            )
            p_values.setdefault(test.name + plain, []).append(test.p_value)
        if verdict.ok is False:
            alarms.append(
                {"problem": name, "set": k, "reads": samples.num, "verdict": verdict.text}
            )
    seconds = time.process_time() - began
    return {
        "name": name,
        "verdicts": verdicts,
        "alarms": alarms,
        "p_values": p_values,
        "seconds": seconds,
    }


def judge_wrong(name: str, times: int, sizes: tuple[int, ...]) -> dict[str, dict[str, str]]:
    """Of `times` wrong sets, those called wrong, for each fault and size."""
    torch.set_num_threads(1)
    problem, power = problems()[name], dict[str, dict[str, str]]()
    for fault, make in faults(name).items():
        for size in sizes:
            ok = []
            for seed in range(times):
                samples = make(problem, size, 1000 + seed)
                if samples.num >= size // 2:
                    ok.append(
                        qs.diagnose(
                            problem, samples, generator=torch.Generator().manual_seed(seed)
                        ).ok
                    )
            if ok:
                text = f"{ok.count(False)}/{len(ok)}"
                text += f" ({ok.count(None)} not judged)" if None in ok else ""
                power.setdefault(fault, {})[f"{name}, {size}"] = text
    return power


def figures(parts: list[dict[str, Any]], powers: list[dict[str, dict[str, str]]]) -> dict[str, Any]:
    """What is known so far, in the form of the file."""
    p_values: dict[str, list[float]] = {}
    for part in parts:
        for test, values in part["p_values"].items():
            p_values.setdefault(test, []).extend(values)
    power: dict[str, dict[str, str]] = {}
    for each in powers:
        for fault, caught in each.items():
            power.setdefault(fault, {}).update(caught)
    total = sum(sum(part["verdicts"].values()) for part in parts)
    return {
        "right_sets": total,
        "alarms": [alarm for part in parts for alarm in part["alarms"]],
        "verdicts": {part["name"]: part["verdicts"] for part in parts},
        "cpu_seconds_per_call": round(sum(part["seconds"] for part in parts) / max(total, 1), 3),
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


def main(options: Options) -> None:
    """Run both; the figures are written anew after each problem."""
    names = list(problems()) if options.right else []
    right = partial(judge_right, times=options.right)
    wrong = partial(judge_wrong, times=options.wrong, sizes=options.sizes)
    parts, powers = list[dict[str, Any]](), list[dict[str, dict[str, str]]]()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with Pool(options.processes) as pool:
        for done, store in (
            (pool.imap_unordered(right, names), parts),
            (pool.imap(wrong, JUDGED if options.wrong else ()), powers),
        ):
            for part in tqdm(done, unit="problem"):
                store.append(part)
                options.out.write_text(json.dumps(figures(parts, powers), indent=1) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main(tyro.cli(Options))
