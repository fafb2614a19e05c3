"""What was spent: an append-only file, on the disk before each submission."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsample.annealers.dwave.errors import BudgetExceeded, DeviceError

# A line is one event of one submission, {"entry", "event", ...}. "post" charges its estimate and is on the disk before
# anything is sent; "done" replaces it by the access time that the processor reports; "free" takes it back, where the
# service refused or cancelled the job. A post without any other event stays charged: its answer was lost, it may have
# run. "job" notes the id under which the service knows it.
EVENTS = ("post", "job", "done", "free")


@dataclass
class Allowance:
    """What one call may spend, and has spent, in microseconds."""

    limit: float | None = None
    used: float = 0.0


class Ledger:
    """Microseconds of QPU access time, by submission.

    Args:
        path: the file, made if it is not there and taken up if it is; None keeps the entries in memory.

    Raises:
        DeviceError: the file is no ledger, or another process writes it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.lines: list[str] = []
        self._charge: dict[str, float] = {}
        self._lock = threading.Lock()
        self._file = None if path is None else _open(path)
        if self._file is not None:
            try:
                self._take_up(_whole(self._file.read(), path))
            except BaseException:
                self._file.close()
                raise

    @property
    def spent(self) -> float:
        """Microseconds charged so far."""
        return sum(self._charge.values(), 0.0)

    def afford(self, cost: float, budget: float | None, call: Allowance) -> None:
        """`BudgetExceeded` where so many microseconds are not left, of the run or of the call."""
        limits = (("budget", budget, self.spent), ("budget_per_call", call.limit, call.used))
        for name, limit, used in limits:
            if limit is not None and cost > limit - used:
                where = f" (ledger {self.path})" if self.path and name == "budget" else ""
                raise BudgetExceeded(
                    f"{cost / 1e6:.6g} s of QPU access time are needed, {max(limit - used, 0.0) / 1e6:.6g} s of "
                    f"{name}={limit / 1e6:.6g} are left{where}: raise it or ask for fewer reads"
                )

    def post(self, costs: Sequence[float], *, budget: float | None, call: Allowance, solver: str) -> list[str]:
        """Charge jobs about to be submitted, all or none; their entries, on the disk when this returns.

        Raises:
            BudgetExceeded: together they cost more than `budget` microseconds, or the call's own, leave.
        """
        with self._lock:
            self.afford(sum(costs), budget, call)
            entries = [uuid.uuid4().hex[:16] for _ in costs]
            for entry, cost in zip(entries, costs, strict=True):
                self._write({"entry": entry, "event": "post", "us": cost, "solver": solver, "time": time.time()})
            self._flush(sync=True)
            call.used += sum(costs)
            return entries

    def note(self, entry: str, event: str, **more: Any) -> None:
        """A later event of an entry."""
        with self._lock:
            self._write({"entry": entry, "event": event, **more})
            self._flush(sync=False)

    def merge(self, lines: Sequence[str]) -> None:
        """Take over the lines of a checkpoint that are not here; what the file has beyond them stays."""
        with self._lock:
            known = set(self.lines)
            for line in lines:
                if line not in known:
                    self._write(json.loads(line))
            self._flush(sync=True)

    def close(self) -> None:
        """Let another process write the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _write(self, record: dict[str, Any]) -> None:
        self._count(record)
        self.lines.append(json.dumps(record))
        if self._file is not None:
            self._file.write(self.lines[-1].encode() + b"\n")

    def _flush(self, *, sync: bool) -> None:
        if self._file is not None:
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())

    def _take_up(self, lines: list[str]) -> None:
        for number, line in enumerate(lines, 1):
            try:
                self._count(json.loads(line))
            except (ValueError, KeyError, TypeError):
                raise DeviceError(f"{self.path} is no ledger (line {number}): name another file") from None
            self.lines.append(line)

    def _count(self, record: dict[str, Any]) -> None:
        entry, event = record["entry"], record["event"]
        if event not in EVENTS:
            raise ValueError(event)
        if event == "post" or event == "done":
            if event == "done" or entry not in self._charge:
                self._charge[entry] = float(record["us"])
        elif event == "free":
            self._charge[entry] = 0.0


def _open(path: Path) -> Any:
    import fcntl

    new = not path.exists()
    try:
        file = path.open("a+b")
    except OSError as error:
        raise DeviceError(f"cannot write the ledger {path}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise DeviceError(f"the ledger {path} is in use: close() the sampler that has it, or name another") from None
    if new:  # the name, too, must survive a crash
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    file.seek(0)
    return file


def _whole(data: bytes, path: Path | None) -> list[str]:
    """The lines; one that a crash cut short was never fsynced, so nothing was sent for it, and it is cut off."""
    end = data.rfind(b"\n") + 1
    if end < len(data) and path is not None:
        os.truncate(path, end)
    try:
        return data[:end].decode().splitlines()
    except UnicodeDecodeError:
        raise DeviceError(f"{path} is no ledger: name another file") from None
