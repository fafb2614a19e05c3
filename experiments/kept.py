"""Parts of a run that are made once: a run that was ended goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from experiments.cells import Cells, digest

T = TypeVar("T")


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
