"""The folder of a run: metrics and checkpoint, for one writer at a time."""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import Any

from qsample.learning import checkpoint
from qsample.learning.checkpoint import CheckpointError
from qsample.learning.files import strict_json
from qsample.support.files import FolderLock

METRICS = "metrics.jsonl"
Metrics = dict[str, float | int]


class RunFolder:
    """The folder that a run writes.

    Args:
        path: path of the folder, which `take` makes.

    Attributes:
        saved: update of this run's last checkpoint in it, -1 before the first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved = -1
        self._lock: FolderLock | None = None
        self._size = 0  # of the metrics' file, as it was left

    def take(self) -> None:
        """Make the folder if need be, and keep other runs out of it.

        Raises:
            ValueError: it cannot be written.
            FolderInUse: another run writes it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as error:
            reason = f"{error.strerror}; choose another output folder"
            raise ValueError(f"cannot write to {self.path}: {reason}") from None

    def holds_checkpoint(self) -> bool:
        """Whether there is a checkpoint in it, of whatever run."""
        return (self.path / checkpoint.LATEST).exists()

    def close(self) -> None:
        """Let others write the folder."""
        if self._lock is not None:
            self._lock.release()

    # ---- what is written ----------------

    def begin(self, history: list[Metrics]) -> None:
        """Write the history so far."""
        self._write("w", history)

    def add(self, history: list[Metrics]) -> None:
        """Append the last line of the history; write all of it where the file was changed."""
        path = self.path / METRICS
        if _was_changed(path, self._size):
            warnings.warn(
                f"{path} was changed in mid-run: it is written anew", RuntimeWarning, stacklevel=2
            )
            self._write("w", history)
        else:
            self._write("a", history[-1:])

    def save(self, state: dict[str, Any], update: int, history: list[Metrics]) -> None:
        """Make `state` the folder's checkpoint.

        Args:
            state: state of the run, as `state_of` gives it.
            update: number of updates made.
            history: all metrics, for a folder that has to be made anew.

        Raises:
            CheckpointError: it cannot be written; the last one still stands.
            ValueError: the folder is another run's by now.
        """
        self.keep(update, history)
        checkpoint.save(self.path, state, step=update)
        self.saved = update
        if self._lock is not None and not self._lock.intact():  # deleted while it was written
            self.keep(update, history)
            checkpoint.save(self.path, state, step=update)

    def _write(self, mode: str, lines: list[Metrics]) -> None:
        """Metrics as JSON objects, one per line; mode "w" begins the file anew, "a" appends."""
        path = self.path / METRICS
        text = "".join(strict_json(metrics) + "\n" for metrics in lines)
        try:
            with path.open(mode) as file:
                file.write(text)
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from error
        self._size = len(text) + (self._size if mode == "a" else 0)

    # ---- a folder that vanishes ----------------

    def keep(self, update: int, history: list[Metrics]) -> None:
        """Notice that the folder was deleted or replaced in mid-run.

        Then nothing is lost, or the run stops. A deleted folder is made again, with all metrics,
        and a warning says so. One that was replaced is taken if it holds no other run.

        Args:
            update: number of updates made.
            history: all metrics so far.

        Raises:
            ValueError: another run writes the folder now, or its files stand in it.
        """
        if self._lock is None or self._lock.intact():
            return
        self._lock.release()
        self.take()
        if self.holds_checkpoint() and not self._is_ours():
            raise ValueError(
                f"{self.path} was replaced in mid-run by a folder with another run: "
                f"stopped after update {update}, and nothing was written to it"
            )
        self.begin(history)
        warnings.warn(
            f"{self.path} was deleted or replaced in mid-run: it is made anew, with all metrics",
            RuntimeWarning,
            stacklevel=2,
        )

    def _is_ours(self) -> bool:
        """Whether the checkpoint in the folder is this run's: its lock's file alone was lost."""
        try:
            return self.saved >= 0 and checkpoint.last_step(self.path) == self.saved
        except CheckpointError:
            return False


def _was_changed(path: Path, size: int) -> bool:
    """Whether a plain file is no longer there, or not of the size it was left with."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return True
    return stat.S_ISREG(status.st_mode) and status.st_size != size
