"""Samplers by name, for the command line and for settings files."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from qsample.optional import install_line
from qsample.sampler import Sampler
from qsample.samples import Exactness


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
    from qsample.annealers.gibbs import SimulatedAnnealing

    return SimulatedAnnealing(sweeps=sweeps, beta_range=(0.0, 1.0), schedule="linear")


def _tempering(sweeps: int) -> Sampler:
    from qsample.annealers.tempering import ParallelTempering

    return ParallelTempering(sweeps=max(1, sweeps // 8), betas=8)


def _tempered(sweeps: int) -> Sampler:
    from qsample.annealers.tempered import TemperedGibbs

    return TemperedGibbs(betas=8, rounds=max(1, sweeps // 32))


def _population(sweeps: int) -> Sampler:
    from qsample.annealers.population import PopulationAnnealing

    return PopulationAnnealing(sweeps=max(1, sweeps // 10))


def _importance(sweeps: int) -> Sampler:
    from qsample.annealers.importance import AnnealedImportance

    return AnnealedImportance(sweeps=sweeps)


def _neal(sweeps: int) -> Sampler:
    from qsample.annealers.ocean import Neal

    return Neal(sweeps=sweeps, beta_range=(0.0, 1.0), schedule="linear")


def _dwave(sweeps: int) -> Sampler:
    from qsample.annealers.dwave import DWave

    return DWave()


def _corrected(first: Callable[[int], Sampler]) -> Callable[[int], Sampler]:
    def make(sweeps: int) -> Sampler:
        from qsample.annealers.corrected import Corrected

        return Corrected(first(sweeps), _gibbs(sweeps))

    return make


CATALOGUE = {
    "exact": Entry(
        _exact, Exactness.EXACT, "torch", "independent exact draws of small or tree-like problems", kind="Exact"
    ),
    "gibbs": Entry(
        _gibbs, Exactness.ASYMPTOTIC, "torch", "chromatic heat bath at the target; continues chains", kind="Gibbs"
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
        _annealing, Exactness.HEURISTIC, "torch", "linear annealing to beta 1", kind="SimulatedAnnealing"
    ),
    "neal": Entry(
        _neal, Exactness.HEURISTIC, "dwave.samplers", "dwave-samplers' annealing, Boltzmann-safe settings", kind="Neal"
    ),
    "corrected-annealing": Entry(
        _corrected(_annealing), Exactness.ASYMPTOTIC, "torch", "annealing, then as many Gibbs sweeps"
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
        _corrected(_dwave), Exactness.ASYMPTOTIC, "dwave.system", "a D-Wave processor, then Gibbs sweeps", device=True
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

    Values are JSON (numbers, true, null, lists) or else plain words; a dotted name reaches into a sampler made of two.

    Raises:
        ValueError: an unknown setting, or a value that its class refuses; the message repeats `name=value`.
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


def configured(name: str, settings: Mapping[str, Any]) -> Sampler:
    """The sampler of that name with `settings`, the arguments of its class, as a JSON file holds them.

    A sampler made of two (`corrected-annealing`) takes `sweeps` alone.

    Raises:
        ValueError: an unknown name or setting, or one that is secret.
        ImportError: what the sampler stands on is not installed.
    """
    if name in CATALOGUE and not CATALOGUE[name].installed:
        package = install_line("dwave") if CATALOGUE[name].device else "pip install dwave-samplers"
        raise ImportError(f"sampler {name!r} needs {CATALOGUE[name].needs}: {package}, or name another")
    sampler = named(name, settings.get("sweeps", 100))
    fields = {field.name: field for field in dataclasses.fields(sampler) if field.init}  # pyright: ignore[reportArgumentType]
    pair = "sampler" in fields
    known = ["sweeps"] if pair else [key for key, field in fields.items() if field.repr]
    for key in settings:
        if key not in known:
            secret = key in fields and not fields[key].repr
            why = "a secret, which no file may hold" if secret else f"not a setting of {name!r}"
            wanted = f"expected {', '.join(known)}" if known else f"{name!r} takes none"
            raise ValueError(f"{key!r} is {why}; {wanted}")
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return sampler if pair else dataclasses.replace(sampler, **plain)  # pyright: ignore[reportArgumentType]


def described(sampler: Sampler) -> tuple[str, dict[str, Any]] | None:
    """The name and settings that `configured` makes such a sampler of; None where JSON cannot hold it."""
    for name, entry in CATALOGUE.items():
        if entry.device or not entry.installed or type(entry.make(1)) is not type(sampler):
            continue
        settings = {field.name: getattr(sampler, field.name) for field in dataclasses.fields(sampler)}  # pyright: ignore[reportArgumentType]
        try:
            return (name, json.loads(json.dumps(settings))) if "sampler" not in settings else None
        except TypeError:
            return None
    return None
