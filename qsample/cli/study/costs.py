"""What runs cost: written as they go on, added up over all, and held against the budget."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from qsample.annealers.registry import CATALOGUE
from qsample.cli.shared import dataset_of
from qsample.cli.study.folder import COSTS, RUN
from qsample.cli.study.plan import Budget, Planned
from qsample.learning.callbacks import Callback
from qsample.learning.files import strict_json
from qsample.learning.folder import METRICS
from qsample.learning.run import Run


class Cost(NamedTuple):
    """What a run cost, or all of them.

    Attributes:
        qpu_us: access time of quantum processors, microseconds.
        simulator_seconds: CPU seconds of the samplers' calls.
        spin_updates: updates of single spins.
        joules: modelled joules of the calls; None where they are not known.
        reads: number of reads that were drawn.
        sources: which powers the joules are made of, in words.
    """

    qpu_us: float = 0.0
    simulator_seconds: float = 0.0
    spin_updates: float = 0
    joules: float | None = 0.0
    reads: int = 0
    sources: tuple[str, ...] = ()

    def __add__(self, other: Cost) -> Cost:  # pyright: ignore[reportIncompatibleMethodOverride]
        joules = None
        if self.joules is not None and other.joules is not None:
            joules = self.joules + other.joules
        return Cost(
            self.qpu_us + other.qpu_us,
            self.simulator_seconds + other.simulator_seconds,
            self.spin_updates + other.spin_updates,
            joules,
            self.reads + other.reads,
            tuple(dict.fromkeys([*self.sources, *other.sources])),
        )


class Meter(Callback):
    """Writes what the sampler's calls cost to a file, a line at each checkpoint and at the end.

    A run that is killed so loses no more than it has to do again.

    Args:
        path: the file, which is appended to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new()

    def _new(self) -> None:
        self._seconds = 0.0
        self._joules: float | None = 0.0
        self._reads = 0
        self._sources: dict[str, None] = {}

    def on_update(self, run: Run) -> None:
        """Add the costs of the update's reads."""
        samples = run.samples
        cost = None if samples is None else samples.info.get("cost")
        if samples is None or cost is None:
            self._joules = None
            return
        reads = samples.energy.numel()
        self._reads += reads
        self._seconds += cost["cpu_seconds"]
        per_read = cost["joules_per_read"]
        if per_read is None or self._joules is None:
            self._joules = None
        else:
            self._joules += per_read * reads
        self._sources[cost["joules_source"]] = None

    def on_checkpoint(self, run: Run, folder: Path) -> None:
        """Write them."""
        self._write()

    def on_end(self, run: Run) -> None:
        """Write them."""
        self._write()

    def _write(self) -> None:
        if not self._reads:
            return
        line = {
            "simulator_seconds": self._seconds,
            "joules": self._joules,
            "reads": self._reads,
            "sources": list(self._sources),
        }
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, (strict_json(line) + "\n").encode())
        finally:
            os.close(file)
        self._new()


def cost_of(folder: Path) -> Cost:
    """What the run in a folder has cost so far; times with what was lost and done again.

    Args:
        folder: folder of the run in the study.
    """
    total = Cost()
    for line in _lines(folder / COSTS):
        total += Cost(
            simulator_seconds=float(line.get("simulator_seconds", 0.0)),
            joules=line.get("joules"),
            reads=int(line.get("reads", 0)),
            sources=tuple(line.get("sources", ())),
        )
    last = (_lines(folder / RUN / METRICS) or [{}])[-1]
    return total._replace(
        qpu_us=1e6 * float(last.get("qpu_seconds", 0.0)),
        spin_updates=last.get("spin_updates", 0),
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects of a file, a line each; one that a kill cut short is left out."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


# ---- the budget ----------------


def expected(run: Planned, done: Mapping[tuple[Any, ...], Iterable[Cost]]) -> Cost:
    """What a run will probably cost: the dearest run of its cell, else what can be told before.

    That is its spin updates: sweeps, chains and units, which samplers of several temperatures
    share. Nothing is told of times before the first run of a cell.

    Args:
        run: the run.
        done: costs of the runs that are done, by cell.
    """
    known = list(done.get(run.cell, ()))
    if known:
        joules = [cost.joules for cost in known if cost.joules is not None]
        return Cost(
            max(cost.qpu_us for cost in known),
            max(cost.simulator_seconds for cost in known),
            max(cost.spin_updates for cost in known),
            max(joules, default=None),
        )
    return Cost(spin_updates=foretold(run))


@functools.cache
def visible_units(data: str, model: str) -> int:
    """Number of visible units that these data make."""
    return dataset_of(data, model, "threshold").x.shape[1]


def foretold(run: Planned) -> float:
    """Spin updates of the run's negative phase: sweeps, chains, units and updates."""
    flags = run.flags
    sampler = CATALOGUE[flags["sampler"]].sampler_class
    names = [field.name for field in fields(sampler)]
    if not {"sweeps", "kernel", "rounds"} & set(names):
        return 0
    units = visible_units(flags["data"], flags["model"]) + flags["hidden"]
    return flags["sweeps"] * run.settings.chains * units * run.settings.updates


def excess(budget: Budget, spent: Cost, under_way: Cost, expected: Cost) -> str:
    """Why the next run would exceed the budget, in words; empty where it does not.

    Args:
        budget: the budget.
        spent: costs of the runs so far.
        under_way: expected costs of the runs that are under way.
        expected: those of the next run.
    """
    for field in fields(Budget):
        name = field.name
        limit = getattr(budget, name)
        if limit is None:
            continue
        used = getattr(spent, name)
        if used is None:
            return (
                f"[budget] {name} cannot be kept, as joules are not known "
                f"({'; '.join(spent.sources)}): drop it"
            )
        reserved = getattr(under_way, name) or 0
        more = getattr(expected, name) or 0
        if used + reserved + more > limit or used >= limit:
            return (
                f"it would take about {more:.3g} of {name}, and of the budget of {limit:.3g} "
                f"{used + reserved:.3g} are spent or under way: raise [budget] {name}"
            )
    return ""
