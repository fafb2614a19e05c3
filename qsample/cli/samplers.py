"""`qsample samplers`: what draws, and what can be set."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import tyro

from qsample.annealers.registry import CATALOGUE, named, tunable
from qsample.sampling.sampler import Sampler


@dataclass(frozen=True)
class Samplers:
    """List the samplers, whether they are installed, and their tags; or the settings of one.

    Args:
        name: sampler whose settings are listed.
    """

    name: Annotated[str | None, tyro.conf.Positional] = None

    def __call__(self) -> None:
        """Print the list."""
        if self.name is not None:
            sampler = named(self.name)
            print(f"{self.name}: {CATALOGUE[self.name].about}")
            _list_settings(sampler)
            return
        states = [
            "installed" if entry.installed else f"needs {entry.needs}"
            for entry in CATALOGUE.values()
        ]
        width = max(map(len, states)) + 3
        for (name, entry), state in zip(CATALOGUE.items(), states, strict=True):
            print(f"{name:22}{entry.exactness.value:12}{state:{width}}{entry.about}")


def _list_settings(sampler: Sampler, path: str = "") -> None:
    """One line per setting, `name=value` as --set takes it; dotted names in a sampler made of two.

    Args:
        sampler: the sampler whose settings are listed.
        path: dotted name of the sampler inside another one; empty for the outermost.
    """
    for setting in tunable(sampler):
        value = getattr(sampler, setting)
        if hasattr(value, "sample"):
            _list_settings(value, f"{path}{setting}.")
        else:
            print(f"  {path}{setting}={json.dumps(value, default=str)}")
