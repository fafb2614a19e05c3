"""What was spent: an append-only file, on the disk before each submission.

Several samplers, threads and processes may share it, and one budget. All times are microseconds of
QPU access time.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsample.annealers.dwave.cloud.errors import BudgetExceeded, DeviceError
from qsample.support.files import sync_folder

# A line is one event of one submission, {"entry", "event", ...}. "post" charges its estimate and is
# on the disk before anything is sent; "done" replaces it by the access time that the processor
# reports; "free" takes it back, where the service refused or cancelled the job. A post without any
# other event stays charged: its answer was lost, it may have run. "job" notes the id under which
# the service knows it.
EVENTS = ("post", "job", "done", "free")
BEGINS = b'{"entry": "'  # every line that we write
PATIENCE = 30.0  # seconds that a lock is waited for
# Microseconds that a job can have cost: a hundred times the longest that a service runs today.
LONGEST = 1e8


@dataclass
class Allowance:
    """What one call may spend, and has spent.

    Args:
        limit: microseconds that it may spend. Default: no limit.
        used: microseconds that it has spent.
    """

    limit: float | None = None
    used: float = 0.0


def is_charge(us: object) -> bool:
    """Whether this is an access time: a number of microseconds from 0 to 100 seconds."""
    return isinstance(us, int | float) and not isinstance(us, bool) and 0 <= us <= LONGEST


class Ledger:
    """Microseconds of QPU access time, by submission.

    A file is held locked only while it is read or written (`flock`, which the system lets go of
    with the process; on NFS, Linux turns it into a lock of the server's, if that keeps locks at
    all), and what others have appended is read before anything is charged: several samplers,
    threads and processes may share one file and one budget.

    Args:
        path: the file, made at the first charge if it is not there; None keeps the entries in
            memory.

    Raises:
        DeviceError: the file is no ledger (it is left as it is), is damaged, or cannot be read or
            written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path  # as the user says it
        self._place = None if path is None else path.absolute()  # wherever the process goes to
        self.lines: list[str] = []
        self._known: set[str] = set()
        self._charge: dict[str, float] = {}
        # what this process has posted, until it is settled or freed
        self._open: dict[str, float] = {}
        self._lock = threading.RLock()
        self._read = 0  # bytes of the file that are in `lines`
        self._file: tuple[int, int] | None = None  # which one it is: device and inode
        with self._locked():
            pass  # it is made, or read, and can be written

    def after_fork(self) -> None:
        """In a forked child: a lock of its own, as the parent's may be held."""
        self._lock = threading.RLock()

    @property
    def spent(self) -> float:
        """Microseconds charged so far, by whoever writes the file."""
        with self._lock:
            self.refresh()
            return self._total()

    def _total(self) -> float:
        return math.fsum(self._charge.values())

    def afford(self, cost: float, budget: float | None, call: Allowance) -> None:
        """Check that a cost could be paid, and charge nothing.

        Args:
            cost: microseconds that are to be spent.
            budget: microseconds that the ledger may reach; None is no limit.
            call: what the call may spend.

        Raises:
            BudgetExceeded: so much is not left to the run or to the call.
        """
        with self._lock:
            self.refresh()
            self._check(cost, budget, call)

    def _check(self, cost: float, budget: float | None, call: Allowance) -> None:
        limits = (("budget", budget, self._total()), ("budget_per_call", call.limit, call.used))
        for name, limit, used in limits:
            if limit is not None and not cost <= limit - used:
                where = f" (ledger {self.path})" if self.path and name == "budget" else ""
                raise BudgetExceeded(
                    f"{cost / 1e6:.6g} s of QPU access time are needed, "
                    f"{max(limit - used, 0.0) / 1e6:.6g} s of "
                    f"{name}={limit / 1e6:.6g} are left{where}: raise it or ask for fewer reads"
                )

    def post(
        self, costs: Sequence[float], *, budget: float | None, call: Allowance, solver: str
    ) -> list[str]:
        """Charge jobs about to be submitted, all or none; their entries.

        The charges are on the disk when this returns.

        Args:
            costs: estimated microseconds of each job.
            budget: microseconds that the ledger may reach; None is no limit.
            call: what the call may spend.
            solver: the solver's name, for whoever reads the file.

        Raises:
            BudgetExceeded: together they cost more than `budget` microseconds, or the call's own,
                leave.
            DeviceError: a cost that is none, a ledger that cannot be read or written.
        """
        for cost in costs:
            if not is_charge(cost):
                raise DeviceError(
                    f"solver {solver} estimates a job at {cost} us, which cannot be: nothing was "
                    "sent"
                )
        with self._locked() as file:
            self._check(math.fsum(costs), budget, call)
            entries = [uuid.uuid4().hex[:16] for _ in costs]
            records = []
            for entry, cost in zip(entries, costs, strict=True):
                record = {"entry": entry, "event": "post", "us": float(cost)}
                records.append(record | {"solver": solver, "time": time.time()})
            self._append(file, records, sync=True)
            self._open |= zip(entries, costs, strict=True)
            call.used += math.fsum(costs)
            return entries

    def note(self, entry: str, event: str, **more: Any) -> None:
        """Add a later event of an entry.

        Args:
            entry: the ledger's name of the submission.
            event: one of `EVENTS`.
            **more: what the event says.
        """
        with self._locked() as file:
            self._append(file, [{"entry": entry, "event": event, **more}], sync=False)

    def settle(self, entry: str, us: float, call: Allowance, job: str) -> None:
        """Charge the access time of a job that ran, in place of its estimate.

        Args:
            entry: the ledger's name of the submission.
            us: its access time in microseconds.
            call: what the call may spend.
            job: the service's name of the job.
        """
        with self._lock:
            self.note(entry, "done", us=us, job=job)
            call.used += us - self._open.pop(entry, 0.0)

    def free(self, entry: str, call: Allowance, why: str) -> None:
        """Take back the charge of a job that did not run, once.

        Args:
            entry: the ledger's name of the submission.
            call: what the call may spend.
            why: the reason, for whoever reads the file.
        """
        with self._lock:
            if entry in self._open:
                self.note(entry, "free", why=why)
                call.used -= self._open.pop(entry)

    def merge(self, lines: Sequence[str]) -> None:
        """Take over the lines of a checkpoint that are missing; the file's further ones stay.

        Raises:
            DeviceError: a line that is none of a ledger; nothing is taken over.
        """
        with self._locked() as file:
            new = []
            for number, line in enumerate(lines, 1):
                record = _record(line)
                if record is None:
                    raise DeviceError(
                        f"the checkpoint's ledger is damaged in entry {number}: nothing is spent "
                        "on it"
                    )
                if line not in self._known:
                    new.append(record)
            if new:
                self._append(file, new, sync=True)

    def refresh(self) -> None:
        """Read what others have appended."""
        if self._place is None or self._file is None and not _exists(self._place):
            return
        with (
            self._lock,
            _opened(self._place, os.O_RDONLY) as file,
            _flock(file, self._place, shared=True),
        ):
            self._take_up(file)

    # ---- the file ----------------

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """The file, its own, up to date; None where the entries are in memory."""
        with self._lock:
            if self._place is None:
                yield None
                return
            self.refresh()  # a file that is no ledger is refused before it is opened for writing
            new = not _exists(self._place)
            with _opened(self._place, os.O_RDWR | os.O_APPEND | (os.O_CREAT if new else 0)) as file:
                if new:  # the name, too, must survive a crash
                    self._sync_name(self._place.parent)
                with _flock(file, self._place, shared=False):
                    rest = self._take_up(file)
                    if rest:
                        self._mend(file, rest)
                    yield file

    def _sync_name(self, folder: Path) -> None:
        try:
            sync_folder(folder)
        except OSError as error:
            raise DeviceError(f"cannot write the ledger {self.path}: {error.strerror}") from None

    def _mend(self, file: int, rest: bytes) -> None:
        """End a whole line that lacks its end; drop one that a crash cut short.

        That was never on the disk, so nothing was sent for it.
        """
        if _record(rest) is not None:
            _write(file, b"\n")
            self._take_up(file)
        else:
            os.ftruncate(file, self._read)

    def _append(self, file: int | None, records: Sequence[dict[str, Any]], *, sync: bool) -> None:
        lines = [json.dumps(record) for record in records]
        if file is not None:
            try:
                _write(file, "".join(line + "\n" for line in lines).encode())
                if sync:
                    os.fsync(file)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(file, self._read)
                raise DeviceError(
                    f"cannot write the ledger {self.path}: {error.strerror}"
                ) from None
            self._read = os.fstat(file).st_size
        self._add(records, lines)

    def _add(self, records: Sequence[dict[str, Any]], lines: Sequence[str]) -> None:
        for record, line in zip(records, lines, strict=True):
            self._count(record)
            self.lines.append(line)
            self._known.add(line)

    def _take_up(self, file: int) -> bytes:
        """Count what the file has beyond what was read; what follows its last line.

        A `DeviceError` where that is not ours, or the file no more the one that was read: it is
        left as it is.
        """
        status = os.fstat(file)
        identity = (status.st_dev, status.st_ino)
        if self._file is not None and (identity != self._file or status.st_size < self._read):
            raise DeviceError(
                f"the ledger {self.path} was replaced or cut while in use: put it back, or "
                "close() and begin anew"
            )
        # whole lines, each a record of ours
        data = os.pread(file, status.st_size - self._read, self._read)
        end = data.rfind(b"\n") + 1
        rest = data[end:]
        records = list[dict[str, Any]]()
        lines = list[str]()
        for number, line in enumerate(data[:end].split(b"\n")[:-1], len(self.lines) + 1):
            record = _record(line)
            if record is None:
                raise self._refused(number, known=bool(self.lines or lines))
            records.append(record)
            lines.append(line.decode())
        # what a crash cut short begins as a record does
        number = len(self.lines) + len(lines) + 1
        if rest and _record(rest) is None and not _begun(rest, alone=number == 1):
            raise self._refused(number, known=number > 1)
        self._add(records, lines)
        self._file = identity
        self._read = self._read + end
        return rest

    def _refused(self, number: int, *, known: bool) -> DeviceError:
        if known:
            return DeviceError(
                f"the ledger {self.path} is damaged in line {number}: its charge or event cannot "
                "be; nothing is spent until that line is mended"
            )
        return DeviceError(f"{self.path} is no ledger (line {number}): name another file")

    def _count(self, record: dict[str, Any]) -> None:
        """Take a record into the charges by entry."""
        entry = record["entry"]
        event = record["event"]
        if event == "done" or event == "post" and entry not in self._charge:
            self._charge[entry] = float(record["us"])
        elif event == "free":
            self._charge[entry] = 0.0


def _record(line: str | bytes) -> dict[str, Any] | None:
    """The event in a line; None where it is none, or has a charge that cannot be."""
    try:
        record = json.loads(line if isinstance(line, str) else line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    entry = record.get("entry")
    event = record.get("event")
    if not isinstance(entry, str) or not entry:
        return None
    if not isinstance(event, str) or event not in EVENTS:
        return None
    charges = event in ("post", "done")
    return None if charges and not is_charge(record.get("us")) else record


def _begun(rest: bytes, *, alone: bool) -> bool:
    """Whether these bytes begin a line of ours; beyond doubt where they are `alone` in the file."""
    if alone:
        return re.match(rb'\{"entry": "[0-9a-f]{16}", "ev', rest) is not None
    return rest.startswith(BEGINS) or BEGINS.startswith(rest)


def _write(file: int, data: bytes) -> None:
    """Write all of it: the system may take a part at a time."""
    while data:
        data = data[os.write(file, data) :]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # whoever opens it hears why
        return False


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """The file's descriptor; a `DeviceError` for what is no plain file, or cannot be opened."""
    try:
        if _exists(path) and not stat.S_ISREG(path.stat().st_mode):
            raise DeviceError(f"the ledger {path} is no plain file: name another")
        file = os.open(path, flags | os.O_CLOEXEC, 0o666)
    except DeviceError:
        raise
    except OSError as error:
        what = "write" if flags & os.O_RDWR else "read"
        raise DeviceError(f"cannot {what} the ledger {path}: {error.strerror}") from None
    try:
        yield file
    finally:
        os.close(file)


@contextmanager
def _flock(file: int, path: Path, *, shared: bool) -> Iterator[None]:
    """Inside, the file is locked; a `DeviceError` where it cannot be."""
    import fcntl

    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    until = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise DeviceError(
                        f"the ledger {path} is in use: close() the sampler that has it, or name "
                        "another"
                    ) from None
                time.sleep(0.002)
    except DeviceError:
        raise
    except OSError as error:
        raise DeviceError(
            f"cannot lock the ledger {path}: {error.strerror}; keep it on a file system with locks"
        ) from None
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
