"""What a run has done so far, so that one that is ended goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")


class Kept:
    """Parts of a run in its folder, by name and by the options that they depend on.

    Args:
        folder: folder of the run.
        about: the options; a run of others makes the parts anew.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder / "kept"
        self.folder.mkdir(exist_ok=True)
        self.digest = hashlib.sha256(repr(sorted(about.items())).encode()).hexdigest()[:12]

    def part(self, name: str, make: Callable[[], T]) -> T:
        """A part that is there already, or is made now and written in one step.

        Args:
            name: name of the part.
            make: makes tensors, numbers, words, and lists and dictionaries of them.
        """
        path = self.folder / f"{self.digest}-{name.replace(' ', '_')}.pt"
        if path.exists():
            return torch.load(path)
        value = make()
        temporary = path.with_suffix(".tmp")
        torch.save(value, temporary)
        temporary.replace(path)
        return value
