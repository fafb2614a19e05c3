"""A study's file: a grid of runs, each with a name made of all that decides its result."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from qsample.cli.recipes import KINDS, check_names, checked, read_toml
from qsample.cli.shared import sampler_of
from qsample.cli.train import Train, check_start
from qsample.learning.settings import Settings
from qsample.models.registry import check_hidden, entry_of

FORMAT = 1  # of a run's name: another one where runs of before are no longer the same
TABLES = ["about", "train", "settings", "grid", "model", "sampler", "budget"]
SETTINGS = [field.name for field in fields(Settings)]


@dataclass(frozen=True)
class Budget:
    """The most that all runs together may cost; None is no limit.

    Args:
        qpu_us: access time of quantum processors, microseconds.
        simulator_seconds: CPU seconds of samplers that compute here.
        spin_updates: updates of single spins by samplers.
        joules: modelled joules of the samplers.
    """

    qpu_us: float | None = None
    simulator_seconds: float | None = None
    spin_updates: float | None = None
    joules: float | None = None


@dataclass(frozen=True, eq=False)
class Planned:
    """One run of a study.

    Args:
        key: its name, 16 hexadecimal digits of the SHA-256 of all that decides its result.
        labels: its place in the grid, values by axis.
        flags: flags of `qsample train`.
        settings: its settings.
    """

    key: str
    labels: dict[str, Any]
    flags: dict[str, Any]
    settings: Settings

    @property
    def cell(self) -> tuple[tuple[str, Any], ...]:
        """Its place in the grid but for the seed: runs of one cell are repeats."""
        return tuple((axis, value) for axis, value in self.labels.items() if axis != "seed")

    def __str__(self) -> str:
        return ", ".join(f"{axis} {value}" for axis, value in self.labels.items())

    def train(self, out: Path) -> Train:
        """The command of the run, which goes on with what is in the folder."""
        return Train(out=out, resume=True, settings=self.settings, **self.flags)


@dataclass(frozen=True)
class Plan:
    """What a study's file says.

    Args:
        path: the file.
        about: one line of description.
        axes: the grid's axes, in the file's order.
        runs: its runs; the last axis moves first.
        budget: the budget.
    """

    path: Path
    about: str
    axes: tuple[str, ...]
    runs: tuple[Planned, ...]
    budget: Budget


def read_plan(path: Path) -> Plan:
    """The plan in a file.

    Raises:
        ValueError: a file that cannot be read, a name that is none, a value that is out of range or
            of another kind, two runs that are the same; one line, with the file's name.
    """
    content = read_toml(path, "study")
    check_names(path, content, TABLES)
    for name in TABLES[1:]:
        if not isinstance(content.get(name, {}), dict):
            raise ValueError(f"{path}: expected a table [{name}]; got {content[name]!r}")
    base = {**content.get("train", {}), **content.get("settings", {})}
    checked(path, {name: content.get(name, {}) for name in ("train", "settings")})
    grid = _grid(path, content.get("grid", {}))
    special: dict[str, dict[str, dict[str, Any]]] = {}
    for axis in ("model", "sampler"):
        names = grid.get(axis, [base.get(axis, getattr(Train(out=path), axis))])
        special[axis] = _special(path, axis, content.get(axis, {}), names)
        base[axis] = names[0]  # where the grid does not say it
    digests: dict[str, str] = {}
    runs: dict[str, Planned] = {}
    for values in itertools.product(*grid.values()):
        labels = dict(zip(grid, values, strict=True))
        values = {**base}
        for axis, tables in special.items():
            values |= tables.get(labels.get(axis, base[axis]), {})
        run = _planned(path, labels, values | labels, digests)
        if run.key in runs:
            raise ValueError(f"{path}: {run} is the same run as {runs[run.key]}: drop one")
        runs[run.key] = run
    budget = _budget(path, content.get("budget", {}))
    return Plan(path, str(content.get("about", "")), tuple(grid), tuple(runs.values()), budget)


def _grid(path: Path, table: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The axes with their values, each a list without repeats."""
    check_names(path, table, [*KINDS, *SETTINGS], "grid.")
    if not table:
        raise ValueError(f"{path}: expected a table [grid], as in sampler = ['gibbs', 'exact']")
    for axis, values in table.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{path}: expected grid.{axis} as a list of values; got {values!r}")
        texts = [json.dumps(value, default=str) for value in values]
        twice = next((text for text in texts if texts.count(text) > 1), None)
        if twice is not None:
            raise ValueError(f"{path}: grid.{axis} holds {twice} twice")
    return dict(table)


def _special(
    path: Path, axis: str, tables: Mapping[str, Any], names: list[Any]
) -> dict[str, dict[str, Any]]:
    """What `[sampler.gibbs]` and the like set, by name; a ValueError for one that no run has."""
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"{path}: expected a table [{axis}.{name}]; got {table!r}")
        if name not in names:
            raise ValueError(
                f"{path}: [{axis}.{name}] is for no run, whose {axis} is "
                f"{' or '.join(map(str, names))}"
            )
        check_names(path, table, [*KINDS, *SETTINGS], f"{axis}.{name}.")
    return dict(tables)


def _planned(
    path: Path, labels: dict[str, Any], values: Mapping[str, Any], digests: dict[str, str]
) -> Planned:
    """A run with everything checked that needs no data."""
    tables = {
        "train": {name: value for name, value in values.items() if name in KINDS},
        "settings": {name: value for name, value in values.items() if name in SETTINGS},
    }
    recipe = checked(path, tables)
    train = Train(out=path, settings=recipe.settings, **recipe.train)
    try:
        _check(train)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except ImportError:
        pass  # the run will say it, and the others go on
    flags = {name: getattr(train, name) for name in KINDS}
    if train.data not in digests:
        digests[train.data] = _digest(Path(train.data).expanduser())
    whole = {
        "format": FORMAT,
        "flags": flags,
        "settings": asdict(recipe.settings),
        "data": digests[train.data],
    }
    text = json.dumps(whole, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Planned(key, labels, flags, recipe.settings)


def _check(train: Train) -> None:
    """ValueError for a model, a sampler or a start that cannot be."""
    entry_of(train.model)
    hidden = 0 if entry_of(train.model).max_hidden == 0 else train.hidden
    check_hidden(train.model, hidden)
    sampler = sampler_of(train.sampler, train.sweeps, train.set)
    check_start(train.settings.start, sampler, train.sampler)
    if train.settings.patience is not None and not train.validation:
        raise ValueError("patience needs rows that are not learnt from, as in validation = 200")


def _digest(data: Path) -> str:
    """What tells the bytes of a file, or of a folder's files, from others; "" for data by name."""
    if not data.exists():
        return ""
    files = [data] if data.is_file() else sorted(file for file in data.iterdir() if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.name.encode())
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:16]


def _budget(path: Path, table: Mapping[str, Any]) -> Budget:
    """The budget, numbers above 0."""
    check_names(path, table, [field.name for field in fields(Budget)], "budget.")
    for name, value in table.items():
        if type(value) not in (int, float) or not value > 0:
            raise ValueError(f"{path}: expected budget.{name} as a number > 0; got {value!r}")
    return Budget(**table)
