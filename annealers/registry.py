"""Samplers by name, for the command line and for settings files.

A sampler is its own file and one line of `CATALOGUE`; its class says the rest in attributes:

| attribute | what |
|---|---|
| `name` | its name, as in the catalogue |
| `about` | one line of description |
| `exactness` | the tag of its reads, with the settings that the name stands for |
| `needs` | the package that it stands on; torch by default |
| `remote` | whether it asks a machine elsewhere, for money; False by default |
| `preset` | settings that the name stands for, where they are not the class's defaults |
| `sweep_share` | the setting that a budget of sweeps pays for, and the sweeps that one unit of it \
costs; `("sweeps", 1)` by default, where the class has a setting `sweeps` |
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Exactness
from qsample.support.checks import whole


@dataclass(frozen=True)
class Entry:
    """A named sampler: a class of the face `qsample.annealers`, which is imported when asked.

    Args:
        kind: name of the class.
    """

    kind: str

    @property
    def sampler_class(self) -> Any:
        """The class."""
        return getattr(importlib.import_module("qsample.annealers"), self.kind)

    @property
    def about(self) -> str:
        """One line of description."""
        return self.sampler_class.about

    @property
    def exactness(self) -> Exactness:
        """The tag of its reads."""
        return self.sampler_class.exactness

    @property
    def needs(self) -> str:
        """The package that it stands on."""
        return getattr(self.sampler_class, "needs", "torch")

    @property
    def device(self) -> bool:
        """Whether it asks a machine elsewhere, for money."""
        return getattr(self.sampler_class, "remote", False)

    @property
    def installed(self) -> bool:
        """Whether the package is there that it stands on."""
        try:
            return importlib.util.find_spec(self.needs) is not None
        except ModuleNotFoundError:  # not even the package around it
            return False

    def make(self, sweeps: int) -> Sampler:
        """The sampler with a budget of sweeps per read, which its temperatures share."""
        settings = dict(getattr(self.sampler_class, "preset", {}))
        known = [field.name for field in dataclasses.fields(self.sampler_class)]
        default = ("sweeps", 1) if "sweeps" in known else None
        share = getattr(self.sampler_class, "sweep_share", default)
        if share is not None:
            setting, cost = share
            settings[setting] = max(1, whole("sweeps", sweeps, 1) // cost)
        return self.sampler_class(**settings)


@dataclass(frozen=True)
class CorrectedEntry(Entry):
    """A named `Corrected`: two samplers of the catalogue, the second correcting the first.

    Args:
        kind: name of the class.
        sampler: name of the sampler that draws first.
        summary: one line of description.
        kernel: name of the sampler that sets the law.
    """

    sampler: str
    summary: str
    kernel: str = "gibbs"

    @property
    def about(self) -> str:
        """One line of description."""
        return self.summary

    @property
    def needs(self) -> str:
        """The package that the first sampler stands on."""
        return CATALOGUE[self.sampler].needs

    @property
    def device(self) -> bool:
        """Whether the first sampler asks a machine elsewhere, for money."""
        return CATALOGUE[self.sampler].device

    def make(self, sweeps: int) -> Sampler:
        """Both samplers, each with a budget of sweeps per read."""
        return self.sampler_class(named(self.sampler, sweeps), named(self.kernel, sweeps))


CATALOGUE: dict[str, Entry] = {
    "exact": Entry("Exact"),
    "gibbs": Entry("Gibbs"),
    "parallel-tempering": Entry("ParallelTempering"),
    "trajectory-tempering": Entry("TrajectoryTempering"),
    "tempered-gibbs": Entry("TemperedGibbs"),
    "population-annealing": Entry("PopulationAnnealing"),
    "annealed-importance": Entry("AnnealedImportance"),
    "simulated-annealing": Entry("SimulatedAnnealing"),
    "neal": Entry("Neal"),
    "corrected-annealing": CorrectedEntry(
        "Corrected", "simulated-annealing", "annealing, then as many Gibbs sweeps"
    ),
    "corrected-neal": CorrectedEntry("Corrected", "neal", "neal, then as many Gibbs sweeps"),
    "quantum-proposal": Entry("QuantumProposal"),
    "qaoa": Entry("QAOA"),
    "corrected-qaoa": CorrectedEntry("Corrected", "qaoa", "QAOA, then Gibbs sweeps"),
    "dwave": Entry("DWave"),
    "corrected-dwave": CorrectedEntry(
        "Corrected", "dwave", "a D-Wave processor, then Gibbs sweeps"
    ),
}

# Short names, as people say them.
SHORT = {
    "ais": "annealed-importance",
    "qpu": "dwave",
    "cd": "gibbs",
    "qemcmc": "quantum-proposal",
}


def named(name: str, sweeps: int = 100) -> Sampler:
    """The sampler of that name.

    Args:
        name: a name of the catalogue.
        sweeps: budget of sweeps per read; a sampler of several temperatures shares it between them,
            and one that does not sweep needs none.

    Raises:
        ValueError: an unknown name, with the nearest ones; fewer than one sweep.
        ImportError: what the sampler stands on is not installed.
    """
    if name not in CATALOGUE:
        near = nearest(name)
        hint = f"did you mean {' or '.join(near)}? (" if near else "expected a name of the list ("
        raise ValueError(f"unknown sampler {name!r}; {hint}qsample samplers lists all)")
    return CATALOGUE[name].make(sweeps)


def nearest(name: str) -> list[str]:
    """At most three names that were probably meant: by initials (pt), a part, or spelling."""
    asked = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if asked in CATALOGUE:
        return [asked]
    if asked in SHORT:
        initials = [SHORT[asked]]
    else:
        initials = [known for known in CATALOGUE if _initials(known) == asked]
    parts = [known for known in CATALOGUE if len(asked) > 2 and asked in known]
    spelt = difflib.get_close_matches(asked, CATALOGUE, 3, 0.6)
    return list(dict.fromkeys([*initials, *spelt[:1], *parts, *spelt]))[:3]


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("-"))


# ---- settings as a command line spells them ----------------


def adjusted(sampler: Sampler, settings: Mapping[str, str]) -> Sampler:
    """The sampler with other settings, spelt as in `{"betas": "8", "kernel.sweeps": "20"}`.

    Args:
        sampler: a sampler whose settings are the fields of a dataclass.
        settings: values by name. Values are JSON (numbers, true, null, lists) or else plain words;
            a dotted name reaches into a sampler made of two.

    Raises:
        ValueError: an unknown setting, or a value that its class refuses; the message repeats
            `name=value`.
    """
    for name, text in settings.items():
        sampler = _adjusted(sampler, name, text)
    return sampler


def _adjusted(sampler: Sampler, name: str, text: str) -> Sampler:
    """The sampler with one other setting."""
    head, _, rest = name.partition(".")
    known = tunable(sampler)
    if head not in known:
        expected = f"expected {', '.join(known)}" if known else "it takes none"
        raise ValueError(f"{head!r} is no setting of {type(sampler).__name__}; {expected}")

    # a setting that is a sampler takes settings of its own, and no other setting does
    inner = getattr(sampler, head)
    if bool(rest) != hasattr(inner, "sample"):
        raise ValueError(f"{name}={text}: {head} is a sampler of its own, as in {head}.sweeps=20")
    value = adjusted(inner, {rest: text}) if rest else _value(text)
    try:
        return dataclasses.replace(sampler, **{head: value})  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{name}={text}: {error}") from None


def tunable(sampler: Sampler) -> list[str]:
    """The names of a sampler's settings; secrets are not among them."""
    if not dataclasses.is_dataclass(sampler):
        return []
    return [field.name for field in dataclasses.fields(sampler) if field.init and field.repr]


def _value(text: str) -> Any:
    """A setting's value from its spelling: JSON, or else a plain word."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


# ---- settings as a file holds them ----------------

# A file may come from anyone: it names no device, no path and no callable, so a setting that is not
# listed is refused, and only code can set it. `_plain` says of what kind a value may be.
CONFIGURABLE: dict[str, tuple[str, ...]] = {
    "exact": (),
    "gibbs": ("sweeps", "scan", "precision", "betas", "time_limit"),
    "parallel-tempering": (
        "sweeps",
        "betas",
        "swap_every",
        "adapt",
        "reads_per_ladder",
        "anneal",
        "rule",
    ),
    "tempered-gibbs": ("betas", "sweeps", "rounds"),
    "population-annealing": ("sweeps", "population", "target_ess", "max_steps"),
    "annealed-importance": ("sweeps", "schedule", "base", "check"),
    "simulated-annealing": ("sweeps", "beta_range", "schedule", "rule", "precision", "time_limit"),
    "neal": ("sweeps", "beta_range", "schedule", "rule"),
    "corrected-annealing": ("sweeps",),
    "corrected-neal": ("sweeps",),
}
LIVE_REMEDY = (
    'load it with sampler="gibbs", sampler_settings=None and set it in code, '
    "scheduler.sampler = ..."
)


def configured(name: object, settings: object) -> Sampler:
    """The sampler that a file names, with `settings`, arguments of its class that the file holds.

    Files come from anyone. They may name samplers that compute here, and set numbers, words and
    lists of numbers; a sampler made of two (`corrected-annealing`) takes `sweeps` alone.

    Args:
        name: a name of the catalogue.
        settings: values by name.

    Raises:
        ValueError: an unknown name or setting, or what no file may say: a device, a path, an
            object.
        ImportError: what the sampler stands on is not installed.
    """
    if not isinstance(name, str) or not isinstance(settings, Mapping):
        raise ValueError(
            f"expected a sampler's name and its settings; got {name!r} and {settings!r}"
        )
    _check_name(name)
    _check_settings(name, settings)
    sampler = named(name, settings.get("sweeps", 100))
    if isinstance(CATALOGUE[name], CorrectedEntry):
        return sampler
    values = {setting: _frozen(value) for setting, value in settings.items()}
    return dataclasses.replace(sampler, **values)  # pyright: ignore[reportArgumentType]


def _check_name(name: str) -> None:
    """An error for a sampler that no file may name, or that is not installed."""
    entry = CATALOGUE.get(name)
    if entry is None:
        return  # `named` says what may have been meant
    if entry.device or name not in CONFIGURABLE:
        reason = (
            "asks a machine elsewhere, for money" if entry.device else "is no sampler for files"
        )
        raise ValueError(f"{name!r} {reason}, so no config may name it: {LIVE_REMEDY}")
    if not entry.installed:
        raise ImportError(
            f'sampler {name!r} needs {entry.needs}: pip install "dwave-samplers", or name another'
        )


def _check_settings(name: str, settings: Mapping[str, object]) -> None:
    """A ValueError for what no file may set."""
    known = CONFIGURABLE.get(name)
    for setting, value in settings.items():
        if known is not None and setting not in known:
            expected = f"expected {', '.join(known)}" if known else f"{name!r} takes none"
            raise ValueError(
                f"{setting!r} is not a setting of {name!r} that a config may hold; {expected} "
                f"({LIVE_REMEDY})"
            )
        if not _plain(value):
            raise ValueError(
                f"{setting}={value!r} is no number, word or list of numbers, which a config may "
                f"hold: {LIVE_REMEDY}"
            )


def _plain(value: object) -> bool:
    """Whether this is None, a number, a word or a list of numbers."""
    if isinstance(value, list | tuple):
        return all(isinstance(item, int | float) for item in value)
    if isinstance(value, str):
        return re.fullmatch(r"[A-Za-z0-9_-]{1,40}", value) is not None
    return value is None or isinstance(value, int | float)


def _frozen(value: object) -> object:
    """A list of a file as the tuple that settings hold."""
    return tuple(value) if isinstance(value, list) else value


def described(sampler: Sampler) -> tuple[str, dict[str, Any]] | None:
    """The name and settings that `configured` makes such a sampler of.

    None where no config may hold the sampler: a device, a composite, a class that is not in the
    catalogue, a setting that is no plain value.
    """
    name = getattr(type(sampler), "name", None)
    if not isinstance(name, str) or name not in CONFIGURABLE:
        return None
    if type(sampler) is not CATALOGUE[name].sampler_class:
        return None
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(sampler):  # pyright: ignore[reportArgumentType]
        value = getattr(sampler, field.name)
        if field.name in CONFIGURABLE[name] and _plain(value):
            settings[field.name] = list(value) if isinstance(value, tuple) else value
        elif not _is_default(field, value):
            return None
    return name, settings


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    """Whether leaving the setting out of a config says the same."""
    if not field.init or field.default is value:
        return True
    return type(value) in (bool, int, float, str) and field.default == value
