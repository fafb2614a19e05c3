"""Exact test log-likelihood of an RBM on the 8 x 8 digits, for each way to get negative samples. JSON and a picture.

    python experiments/digits_likelihood.py --out runs/digits_likelihood

Binarised at >= 8, split by a permutation of seed 0 into 1,400 rows to train on and 397 to test; 16 hidden units. The
annealing schedule, the learning rate and the number of updates of each method are chosen on the last 200 of the 1,400
(models trained on the first 1,200, mean of three seeds); then the seeds are trained on all 1,400 and tested once.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
import tyro

import qsample as qs
from qsample.annealers import Exact, Gibbs, SimulatedAnnealing
from qsample.data import load
from qsample.models import BernoulliRBM

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Ways to draw for each start; where there are several, the validation rows choose.
METHODS: dict[str, tuple[dict[str, qs.Sampler], qs.Start]] = {
    "exact": ({"exact draws": Exact()}, "fresh"),
    "persistent": ({"persistent chains, 10 sweeps (PCD-10)": Gibbs(10)}, "persistent"),
    "fresh": (
        {
            "annealed anew, 50 sweeps to beta 1": SimulatedAnnealing(50, (0.0, 1.0), "linear"),
            "annealed anew, 50 sweeps to beta 1 and 50 there": SimulatedAnnealing(
                schedule=[*torch.linspace(0, 1, 50).tolist(), *[1.0] * 50]
            ),
        },
        "fresh",
    ),
    "data": ({"chains from the data, 10 sweeps (CD-10)": Gibbs(10)}, "data"),
}


@dataclass(frozen=True)
class Options:
    """What to run."""

    out: Path = Path("runs/digits_likelihood")
    """folder for results.json and likelihood.png"""
    methods: tuple[str, ...] = ("persistent", "fresh", "exact", "data")
    """which of exact, persistent, fresh, data"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of every setting"""
    lrs: tuple[float, ...] = (0.01, 0.02, 0.04)
    """learning rates to choose from"""
    updates: tuple[int, ...] = (6000,)
    """numbers of updates to choose from"""
    chains: int = 512
    """negative samples an update"""
    hidden: int = 16
    """hidden units"""
    threads: int = 1
    """torch threads"""


def train(
    method: str,
    way: str,
    rows: torch.Tensor,
    held_out: torch.Tensor,
    lr: float,
    updates: int,
    seed: int,
    options: Options,
) -> dict[str, Any]:
    """One run: its exact log-likelihood on `held_out`, times and curve."""
    samplers, start = METHODS[method]
    model = BernoulliRBM(
        rows.shape[1], options.hidden, generator=torch.Generator().manual_seed(seed)
    )
    model.set_visible_bias(rows)
    settings = qs.Settings(
        updates=updates,
        lr=lr,
        start=start,
        chains=options.chains,
        seed=seed,
        evaluate_every=max(1, updates // 20),
    )
    wall, cpu = time.perf_counter(), time.process_time()
    history = qs.fit(model, rows, samplers[way], settings, validation=held_out, progress=False)
    result: dict[str, Any] = {"lr": lr, "updates": updates, "seed": seed}
    result |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    result["log_likelihood"] = qs.log_likelihood(model, held_out, "exact").value
    return result | {"curve": [(m["update"], m["log_likelihood"]) for m in history]}


def main(options: Options) -> None:
    """Choose, train, test."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    digits = load("digits")
    first, validation, test = (part.x for part in digits.split(397, 200))
    whole = torch.cat([first, validation])
    results: dict[str, Any] = {}
    for method in options.methods:
        tried = []
        for way, lr, updates in itertools.product(METHODS[method][0], options.lrs, options.updates):
            runs = [
                train(method, way, first, validation, lr, updates, seed, options)
                for seed in options.seeds
            ]
            value = statistics.fmean(run["log_likelihood"] for run in runs)
            tried.append({"way": way, "lr": lr, "updates": updates, "log_likelihood": value})
            print(f"{way:50} validation {value:.3f}   lr {lr:<5} {updates} updates", flush=True)
        best = max(tried, key=lambda setting: setting["log_likelihood"])
        way, lr, updates = best["way"], best["lr"], best["updates"]
        final = [
            train(method, way, whole, test, lr, updates, seed, options) for seed in options.seeds
        ]
        values = [run["log_likelihood"] for run in final]
        results[method] = {
            "about": way,
            "mean": statistics.fmean(values),
            "worst": min(values),
            "lr": lr,
        }
        results[method] |= {"updates": updates, "runs": final, "validation": tried}
        print(
            f"{way:50} TEST {results[method]['mean']:.3f}  ({', '.join(f'{v:.3f}' for v in values)})",
            flush=True,
        )
        (options.out / "results.json").write_text(json.dumps(results, indent=1))
    picture(results, options)
    print(f"{options.out / 'results.json'}\n{options.out / 'likelihood.png'}")


def picture(results: dict[str, Any], options: Options) -> None:
    """Test log-likelihood along training, against updates and against processor time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), sharey=True)
    for method, result in results.items():
        colour = f"C{list(METHODS).index(method)}"
        for k, run in enumerate(result["runs"]):
            updates, values = zip(*run["curve"], strict=True)
            seconds = [run["cpu_seconds"] * u / run["updates"] for u in updates]
            label = f"{result['about']}: {result['mean']:.2f}" if k == 0 else None
            left.plot(updates, values, color=colour, label=label, lw=1.3)
            right.plot(seconds, values, color=colour, lw=1.3)
    lowest = min(result["worst"] for result in results.values())
    left.set(
        xlabel="update", ylabel="exact test log-likelihood, nats an image", ylim=(lowest - 1, None)
    )
    right.set(xlabel=f"processor seconds ({options.threads} torch thread)", xscale="log")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    left.legend(loc="lower right")
    figure.suptitle("8 x 8 digits, 16 hidden units: mean of the seeds, one line each")
    figure.tight_layout()
    figure.savefig(options.out / "likelihood.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
