"""One call of an engine, ours or another package's, and a process of its own to time it in."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing

Call = Callable[[], Any]


def caller(
    engine: str, problem: qs.Ising, betas: list[float], reads: int, warm: bool, seed: int = 1
) -> Call:
    """A function that makes one call.

    Args:
        engine: "qsample", "dwave Metropolis", "dwave Gibbs", "openjij".
        problem: problem, or a batch of problems.
        betas: inverse temperature of each sweep.
        reads: reads of each problem.
        warm: whether chains are continued, at constant beta, as in a training step.
        seed: seed of the engine's randomness.
    """
    start = None
    if warm:
        spins = torch.ones(reads, problem.num_spins, dtype=torch.int8)
        start = qs.Samples(spins, problem.energy(spins))
    if engine == "qsample":
        return ours(problem, betas, reads, start, seed)
    models = bqms(problem)
    if engine == "openjij":
        return openjij(models, betas, reads)
    if engine not in ("dwave Metropolis", "dwave Gibbs"):
        raise ValueError(f"unknown engine {engine!r}")
    return dwave_samplers(engine.split()[1], models, betas, reads, start, seed)


def bqms(problem: qs.Ising) -> list[Any]:
    """The problems of a batch as dimod's BQMs; those that share J hold it each."""
    flat = problem.flat()
    couplings = flat.J.expand(len(flat.h), *flat.J.shape[1:])
    pairs = zip(flat.h, couplings, strict=True)
    return [qs.Ising(problem.graph, h, J).to_bqm() for h, J in pairs]


def ours(
    problem: qs.Ising,
    betas: list[float],
    reads: int,
    start: qs.Samples | None,
    seed: int,
) -> Call:
    """A call of qsample: Gibbs for chains and batches, else simulated annealing.

    Args:
        problem: problem, or a batch of problems.
        betas: inverse temperature of each sweep.
        reads: reads of each problem.
        start: chains to continue; None for random spins.
        seed: seed of the generator.
    """
    generator = torch.Generator().manual_seed(seed)
    if start is not None or problem.batch_shape:
        gibbs = Gibbs(len(betas))
        return lambda: gibbs.sample(problem, reads, initial=start, generator=generator)
    annealing = SimulatedAnnealing(schedule=betas)
    return lambda: annealing.sample(problem, reads, generator=generator)


def openjij(models: list[Any], betas: list[float], reads: int) -> Call:
    """A call of openjij, without a seed: with one, all its reads are the same.

    Args:
        models: problems as dimod's BQMs.
        betas: inverse temperature of each sweep.
        reads: reads of each problem.
    """
    package = importlib.import_module("openjij")
    sampler = package.SASampler()
    schedule = [(beta, 1) for beta in betas]
    make = package.BinaryQuadraticModel
    theirs = [make(bqm.linear, bqm.quadratic, 0.0, "SPIN", sparse=True) for bqm in models]
    settings: dict[str, Any] = {"schedule": schedule, "num_reads": reads, "sparse": True}
    return lambda: [sampler.sample(model, **settings) for model in theirs]


def dwave_samplers(
    rule: str,
    models: list[Any],
    betas: list[float],
    reads: int,
    start: qs.Samples | None,
    seed: int,
) -> Call:
    """A call of dwave-samplers' simulated annealing of ready BQMs.

    Args:
        rule: its proposal_acceptance_criteria, Metropolis or Gibbs.
        models: problems as dimod's BQMs.
        betas: inverse temperature of each sweep.
        reads: reads of each problem.
        start: chains to continue; None for random spins.
        seed: its seed.
    """
    from dwave.samplers import SimulatedAnnealingSampler

    sampler = SimulatedAnnealingSampler()
    settings: dict[str, Any] = {
        "beta_schedule_type": "custom",
        "beta_schedule": betas,
        "num_reads": reads,
        "proposal_acceptance_criteria": rule,
        "seed": seed,
    }
    if start is not None:
        spins = start.spins.numpy()
        settings["initial_states"] = (spins, list(range(spins.shape[1])))
    return lambda: [sampler.sample(bqm, **settings) for bqm in models]


def spins_of(sampleset: Any) -> np.ndarray:
    """Reads `[R, n]` of a dimod sample set, spins in the order of their numbers."""
    order = np.argsort(np.asarray(sampleset.variables, dtype=int))
    return sampleset.record.sample[:, order]


def isolated(script: str, *arguments: object) -> dict[str, Any] | str:
    """The row that a process of its own prints, as its last line; or why there is none."""
    line = [sys.executable, script, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    errors = done.stderr.strip().splitlines()
    return errors[-1] if errors else f"exit code {done.returncode}"
