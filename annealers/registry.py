"""Samplers by name, for the command line and for settings files."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Exactness


class Entry(NamedTuple):
    """A named sampler: how to make one with so many sweeps, its tag, and the package it stands on."""

    make: Callable[[int], Sampler]
    exactness: Exactness
    needs: str
    about: str
    device: bool = False  # it asks a machine elsewhere, for money
    kind: str = ""  # the class's name, where this is its plain form

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        return importlib.util.find_spec(self.needs) is not None


def _exact(sweeps: int) -> Sampler:
    from qsample.annealers.exact import Exact

    return Exact()


def _gibbs(sweeps: int) -> Sampler:
    from qsample.annealers.gibbs import Gibbs

    return Gibbs(sweeps=sweeps)


def _annealing(sweeps: int) -> Sampler:
    from qsample.annealers.simulated_annealing import SimulatedAnnealing

    return SimulatedAnnealing(sweeps=sweeps, beta_range=(0.0, 1.0), schedule="linear")


def _tempering(sweeps: int) -> Sampler:
    from qsample.annealers.parallel_tempering import ParallelTempering

    return ParallelTempering(sweeps=max(1, sweeps // 8), betas=8)


def _tempered(sweeps: int) -> Sampler:
    from qsample.annealers.tempered_transitions import TemperedGibbs

    return TemperedGibbs(betas=8, rounds=max(1, sweeps // 32))


def _population(sweeps: int) -> Sampler:
    from qsample.annealers.population_annealing import PopulationAnnealing

    return PopulationAnnealing(sweeps=max(1, sweeps // 10))


def _importance(sweeps: int) -> Sampler:
    from qsample.annealers.annealed_importance import AnnealedImportance

    return AnnealedImportance(sweeps=sweeps)


def _neal(sweeps: int) -> Sampler:
    from qsample.annealers.ocean.dimod import Neal

    return Neal(sweeps=sweeps, beta_range=(0.0, 1.0), schedule="linear")


def _dwave(sweeps: int) -> Sampler:
    from qsample.annealers.dwave import DWave

    return DWave()


def _corrected(first: Callable[[int], Sampler]) -> Callable[[int], Sampler]:
    def make(sweeps: int) -> Sampler:
        from qsample.annealers.composites.corrected import Corrected

        return Corrected(first(sweeps), _gibbs(sweeps))

    return make


CATALOGUE = {
    "exact": Entry(
        _exact,
        Exactness.EXACT,
        "torch",
        "independent exact draws of small or tree-like problems",
        kind="Exact",
    ),
    "gibbs": Entry(
        _gibbs,
        Exactness.ASYMPTOTIC,
        "torch",
        "chromatic heat bath at the target; continues chains",
        kind="Gibbs",
    ),
    "parallel-tempering": Entry(
        _tempering,
        Exactness.ASYMPTOTIC,
        "torch",
        "8 temperatures that swap, and share the sweeps; continues chains",
        kind="ParallelTempering",
    ),
    "tempered-gibbs": Entry(
        _tempered,
        Exactness.ASYMPTOTIC,
        "torch",
        "up and down 8 temperatures as one reversible move; continues chains",
        kind="TemperedGibbs",
    ),
    "population-annealing": Entry(
        _population,
        Exactness.ASYMPTOTIC,
        "torch",
        "replicas cooled and resampled together; weighted reads, log Z",
        kind="PopulationAnnealing",
    ),
    "annealed-importance": Entry(
        _importance,
        Exactness.ASYMPTOTIC,
        "torch",
        "annealing with importance weights; weighted reads, log Z",
        kind="AnnealedImportance",
    ),
    "simulated-annealing": Entry(
        _annealing,
        Exactness.HEURISTIC,
        "torch",
        "linear annealing to beta 1",
        kind="SimulatedAnnealing",
    ),
    "neal": Entry(
        _neal,
        Exactness.HEURISTIC,
        "dwave.samplers",
        "dwave-samplers' annealing, Boltzmann-safe settings",
        kind="Neal",
    ),
    "corrected-annealing": Entry(
        _corrected(_annealing),
        Exactness.ASYMPTOTIC,
        "torch",
        "annealing, then as many Gibbs sweeps",
    ),
    "corrected-neal": Entry(
        _corrected(_neal), Exactness.ASYMPTOTIC, "dwave.samplers", "neal, then as many Gibbs sweeps"
    ),
    "dwave": Entry(
        _dwave,
        Exactness.HEURISTIC,
        "dwave.system",
        "a D-Wave processor at the problem's temperature",
        device=True,
        kind="DWave",
    ),
    "corrected-dwave": Entry(
        _corrected(_dwave),
        Exactness.ASYMPTOTIC,
        "dwave.system",
        "a D-Wave processor, then Gibbs sweeps",
        device=True,
    ),
}


SHORT = {"ais": "annealed-importance", "qpu": "dwave", "cd": "gibbs"}  # as people say


def named(name: str, sweeps: int = 100) -> Sampler:
    """The sampler of that name; ValueError for an unknown one, with the nearest names."""
    if name not in CATALOGUE:
        near = nearest(name)
        hint = f"did you mean {' or '.join(near)}? (" if near else "expected a name of the list ("
        raise ValueError(f"unknown sampler {name!r}; {hint}qsample samplers lists all)")
    return CATALOGUE[name].make(sweeps)


def nearest(name: str) -> list[str]:
    """At most three names that were probably meant: by initials (pt), a part (tempering), or spelling."""
    asked = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if asked in CATALOGUE:
        return [asked]
    initials = [known for known in CATALOGUE if "".join(w[0] for w in known.split("-")) == asked]
    if asked in SHORT:
        initials = [SHORT[asked]]
    parts = [known for known in CATALOGUE if asked and len(asked) > 2 and asked in known]
    spelt = difflib.get_close_matches(asked, CATALOGUE, 3, 0.6)
    return list(dict.fromkeys([*initials, *spelt[:1], *parts, *spelt]))[:3]


def adjusted(sampler: Sampler, settings: Mapping[str, str]) -> Sampler:
    """`sampler` with settings as a command line spells them, `{"betas": "8", "kernel.sweeps": "20"}`.

    Values are JSON (numbers, true, null, lists) or else plain words; a dotted name reaches into a
    sampler made of two.

    Raises:
        ValueError: an unknown setting, or a value that its class refuses; the message repeats
            `name=value`.
    """
    for key, text in settings.items():
        head, _, rest = key.partition(".")
        known = tunable(sampler)
        if head not in known:
            wanted = f"expected {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"{head!r} is no setting of {type(sampler).__name__}; {wanted}")
        inner = getattr(sampler, head)
        if rest or hasattr(inner, "sample"):
            if not (rest and hasattr(inner, "sample")):
                example = f"{head}.sweeps=20"
                raise ValueError(f"{key}={text}: {head} is a sampler of its own, as in {example}")
            value: Any = adjusted(inner, {rest: text})
        else:
            value = _value(text)
        try:
            sampler = dataclasses.replace(sampler, **{head: value})  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{key}={text}: {error}") from None
    return sampler


def tunable(sampler: Sampler) -> list[str]:
    """The names of a sampler's settings; secrets are not among them."""
    if not dataclasses.is_dataclass(sampler):
        return []
    return [field.name for field in dataclasses.fields(sampler) if field.init and field.repr]


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


# What a file may say of a sampler. A file may come from anyone: it names no device, no path and no
# callable, so a setting that is not here is refused, and only code can set it. `PLAIN` says of what
# kind a value may be.
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
LIVE_REMEDY = 'load it with sampler="gibbs", sampler_settings=None and set it in code, scheduler.sampler = ...'


def configured(name: object, settings: object) -> Sampler:
    """The sampler that a file names, with `settings`, arguments of its class that the file holds.

    Files come from anyone. They may name samplers that compute here, and set numbers, words and
    lists of numbers; a sampler made of two (`corrected-annealing`) takes `sweeps` alone.

    Raises:
        ValueError: an unknown name or setting, or what no file may say: a device, a path, an
            object.
        ImportError: what the sampler stands on is not installed.
    """
    if not isinstance(name, str) or not isinstance(settings, Mapping):
        raise ValueError(
            f"expected a sampler's name and its settings; got {name!r} and {settings!r}"
        )
    if name in CATALOGUE and (CATALOGUE[name].device or name not in CONFIGURABLE):
        reason = (
            "asks a machine elsewhere, for money"
            if CATALOGUE[name].device
            else "is no sampler for files"
        )
        raise ValueError(f"{name!r} {reason}, so no config may name it: {LIVE_REMEDY}")
    if name in CATALOGUE and not CATALOGUE[name].installed:
        raise ImportError(
            f'sampler {name!r} needs {CATALOGUE[name].needs}: pip install "dwave-samplers", or '
            "name another"
        )
    for key, value in settings.items():
        known = CONFIGURABLE.get(name)
        if known is not None and key not in known:
            wanted = f"expected {', '.join(known)}" if known else f"{name!r} takes none"
            raise ValueError(
                f"{key!r} is not a setting of {name!r} that a config may hold; {wanted} "
                f"({LIVE_REMEDY})"
            )
        if not _plain(value):
            raise ValueError(
                f"{key}={value!r} is no number, word or list of numbers, which a config may "
                f"hold: {LIVE_REMEDY}"
            )
    sampler = named(name, settings.get("sweeps", 100))
    if name.startswith("corrected-"):
        return sampler
    plain = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    return dataclasses.replace(sampler, **plain)  # pyright: ignore[reportArgumentType]


def _plain(value: object) -> bool:
    """Whether this is None, a number, a word or a list of numbers."""
    if isinstance(value, list | tuple):
        return all(isinstance(item, int | float) for item in value)
    if isinstance(value, str):
        return re.fullmatch(r"[A-Za-z0-9_-]{1,40}", value) is not None
    return value is None or isinstance(value, int | float)


def described(sampler: Sampler) -> tuple[str, dict[str, Any]] | None:
    """The name and settings that `configured` makes such a sampler of; None where no config may hold it."""
    for name, known in CONFIGURABLE.items():
        entry = CATALOGUE[name]
        if (
            not entry.installed
            or name.startswith("corrected-")
            or type(entry.make(1)) is not type(sampler)
        ):
            continue
        settings: dict[str, Any] = {}
        for field in dataclasses.fields(sampler):  # pyright: ignore[reportArgumentType]
            value = getattr(sampler, field.name)
            if field.name in known and _plain(value):
                settings[field.name] = list(value) if isinstance(value, tuple) else value
            elif not _is_default(field, value):
                return None
        return name, settings
    return None


def _is_default(field: dataclasses.Field[Any], value: object) -> bool:
    """Whether leaving the setting out of a config says the same."""
    return (
        not field.init
        or field.default is value
        or type(value) in (bool, int, float, str)
        and field.default == value
    )
