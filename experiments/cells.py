"""Results that are kept as a run goes: one that was ended goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


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
