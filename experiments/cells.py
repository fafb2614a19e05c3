"""Results that are kept as a run goes: one that was ended goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Cells:
    """Values by name, in a folder `kept` of a run's own.

    Args:
        folder: folder of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "kept"
        self.folder.mkdir(exist_ok=True)

    def get(self, name: str) -> Any:
        """What was put, or None."""
        path = self.folder / f"{name}.pt"
        return torch.load(path) if path.exists() else None

    def put(self, name: str, value: Any) -> Any:
        """Write in one step, and return, a value."""
        temporary = self.folder / f"{name}.tmp"
        torch.save(value, temporary)
        temporary.replace(self.folder / f"{name}.pt")
        return value


def digest(about: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for options."""
    return hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:12]


class Kept:
    """Parts of a run in its folder, by name and by the options that they depend on.

    Args:
        folder: folder of the run.
        about: the options; a run of others makes the parts anew.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.cells = Cells(folder)
        self.digest = digest(about)

    def part(self, name: str, make: Callable[[], T]) -> T:
        """A part that is there already, or is made now.

        Args:
            name: name of the part.
            make: makes tensors, numbers, words, and lists and dictionaries of them.
        """
        place = f"{self.digest}-{name.replace(' ', '_')}"
        value = self.cells.get(place)
        return self.cells.put(place, make()) if value is None else value
