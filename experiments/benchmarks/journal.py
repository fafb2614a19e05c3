"""What a run has finished, line by line in its folder: a run that is killed goes on from there."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

from qsample import annealers


class Journal:
    """Finished parts of a run by their names, on disk as soon as they are there.

    Args:
        path: its file, of JSON lines; parts of a run under other settings, or of another build of
            the library, are forgotten.
        settings: what the parts depend on.
    """

    def __init__(self, path: Path, settings: Any) -> None:
        self._path = path
        self._parts: dict[str, Any] = {}
        first = json.dumps({"settings": settings, "library": library()})
        lines = path.read_text().splitlines() if path.exists() else []
        if lines[:1] == [first]:
            for line in lines[1:]:
                try:
                    self._parts |= json.loads(line)
                except json.JSONDecodeError:
                    pass  # the end of one that was killed as it wrote
        parts = (json.dumps({name: part}) for name, part in self._parts.items())
        path.write_text("\n".join([first, *parts]) + "\n")

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def __getitem__(self, name: str) -> Any:
        return self._parts[name]

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, name: str, part: Any) -> None:
        """A part that is finished."""
        self._parts[name] = part
        with self._path.open("a") as file:
            file.write(json.dumps({name: part}) + "\n")

    def end(self) -> None:
        """The run is over: the next one measures anew."""
        self._path.unlink()


def library() -> str:
    """A digest of what runs: the samplers' Python and the compiled kernels."""
    compiled = importlib.import_module("qsample.annealers._engine").__file__
    sources = Path(str(annealers.__file__)).parent.rglob("*.py")
    digest = hashlib.sha256()
    for path in [Path(str(compiled)), *sorted(sources)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
