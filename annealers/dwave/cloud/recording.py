"""Answers kept in a file, and given again without hardware, bit for bit."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import stat
import threading
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsample.annealers.dwave.cloud.errors import DeviceError
from qsample.annealers.dwave.cloud.job import Answer
from qsample.annealers.dwave.cloud.ledger import Allowance
from qsample.annealers.dwave.programming import Programming

# The first line is {"format", "solver", "properties"}, each further one an answer by the hash of
# what was asked. Each ends with the SHA-256 of the rest of it.
FORMAT = "qsample dwave recording 2"
LARGEST = 1 << 31  # number of spins that an answer may hold


def request_key(solver: str, programming: Programming, params: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a job asks for, in hexadecimal.

    Args:
        solver: the solver's name.
        programming: the fields and couplings.
        params: everything else.
    """
    digest = hashlib.sha256(json.dumps([solver, dict(params)], sort_keys=True).encode())
    parts = (
        (programming.qubits, "<i8"),
        (programming.wiring.pairs, "<i8"),
        (programming.h, "<f8"),
        (programming.J, "<f8"),
    )
    for array, kind in parts:
        digest.update(np.ascontiguousarray(array.astype(kind)).tobytes())
    return digest.hexdigest()


def _is_there(path: Path) -> bool:
    """Whether there is something in the file; a `DeviceError` for what is no plain file."""
    try:
        status = path.stat()
    except OSError:  # whoever opens it hears why
        return False
    if not stat.S_ISREG(status.st_mode):
        raise DeviceError(f"cannot record to {path}: it is no plain file, name another")
    return status.st_size > 0


class Recorder:
    """Appends answers to a file; one that exists must be of the same solver.

    Args:
        path: the file, made if it is not there.
        solver: the solver's name.
        properties: what the solver says of itself.

    Raises:
        DeviceError: a file that is no recording, or of another solver, or that cannot be written.
    """

    def __init__(self, path: Path, solver: str, properties: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()  # threads share it
        if _is_there(path):
            name = _head(path)["solver"]
            if name != solver:
                raise DeviceError(
                    f"{path} records solver {name}, this is {solver}: record to another file"
                )
            _cut_torn(path)
            self._file = path.open("a")
        else:
            try:
                self._file = path.open("w")
            except OSError as error:
                raise DeviceError(f"cannot record to {path}: {error.strerror}") from None
            self._write({"format": FORMAT, "solver": solver, "properties": properties})

    def add(
        self, solver: str, programming: Programming, params: Mapping[str, Any], answer: Answer
    ) -> None:
        """Append one answer.

        Args:
            solver: the solver's name.
            programming: the fields and couplings of the job.
            params: everything else that it asked for.
            answer: what it brought.

        Raises:
            DeviceError: the file was closed meanwhile.
        """
        bits = np.packbits(answer.spins > 0, axis=1)
        record = {
            "key": request_key(solver, programming, params),
            "id": answer.id,
            "timing": dict(answer.timing),
            "shape": list(answer.spins.shape),
            "spins": base64.b64encode(bits.tobytes()).decode(),
        }
        with self._lock:
            if self._file.closed:
                raise DeviceError(
                    "this DWave was closed before an answer was recorded: call it again"
                )
            self._write(record)

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(_render(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        with self._lock:
            self._file.close()


class Played:
    """A job whose answer comes from a recording: it is there at once."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def done(self) -> bool:
        """Always: nothing is waited for."""
        return True

    def answer(self, until: float) -> Answer:
        """The answer recorded."""
        return self._answer

    def cancel(self) -> None:
        """Do nothing: nothing runs."""

    def abandon(self, until: float) -> None:
        """Do nothing: nothing was charged."""


class Replay:
    """The answers of a recording, each given once, in the order recorded.

    It stands in for a `Connection`: jobs cost nothing and are answered from the file.

    Args:
        path: the recording.

    Raises:
        DeviceError: a file that is no recording, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        head = _head(path)
        self.name: str = head["solver"]
        self.properties: Mapping[str, Any] = head["properties"]
        self._answers: dict[str, deque[Answer]] = defaultdict(deque)
        data = path.read_bytes()
        torn = not data.endswith(b"\n")
        lines = data.split(b"\n")[1 : None if torn else -1]
        for number, line in enumerate(lines, 2):
            try:
                record = _parse(line)
                self._answers[record["key"]].append(_answer(record))
            except (ValueError, LookupError, TypeError, RecursionError):
                if torn and number == len(lines) + 1 and _is_begun(line):
                    break  # the last line of a run that was killed
                raise DeviceError(f"{path} is damaged in line {number}: record it again") from None

    def take(self, key: str) -> Answer:
        """The next answer to the request of this key.

        Raises:
            DeviceError: none is left, or there never was one.
        """
        if not self._answers.get(key):
            further = "further " if key in self._answers else ""
            raise DeviceError(
                f"{self.path} holds no {further}answer to this request: problem, reads, settings, "
                "seed and order of calls must be those recorded"
            )
        return self._answers[key].popleft()

    # ---- as a connection ----------------

    def max_reads(self, qubits: int, params: Mapping[str, Any]) -> int:
        """Number of reads that the solver allows one job."""
        return int(self.properties["num_reads_range"][1])

    def afford(self, qubits: int, params: Sequence[Mapping[str, Any]], call: Allowance) -> None:
        """Do nothing: nothing is spent.

        Args:
            qubits: number of qubits in use.
            params: everything that each job asks for.
            call: what the call may spend.
        """

    def send(
        self,
        programmings: Sequence[Programming],
        params: Sequence[Mapping[str, Any]],
        call: Allowance,
    ) -> list[Played]:
        """The jobs, answered.

        Args:
            programmings: fields and couplings of each job.
            params: everything else that each asks for.
            call: what the call may spend; not used.

        Raises:
            DeviceError: the recording holds no answer to one of them.
        """
        pairs = zip(programmings, params, strict=True)
        keys = [request_key(self.name, programming, asked) for programming, asked in pairs]
        return [Played(self.take(key)) for key in keys]

    def cancel_all(self) -> None:
        """Do nothing: nothing is outstanding."""


def _head(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            line = file.readline()
    except OSError as error:
        raise DeviceError(f"cannot read the recording {path}: {error.strerror}") from None
    try:
        head = json.loads(line)
        if head["format"] != FORMAT:
            raise ValueError(head["format"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise DeviceError(
            f"{path} is no recording of DWave (format {FORMAT!r}): name one made with record="
        ) from None
    try:
        head = _parse(line.removesuffix(b"\n"))
        if type(head["solver"]) is str and isinstance(head["properties"], dict):
            return head
    except (ValueError, LookupError):
        pass
    raise DeviceError(f"{path} is damaged in line 1: record it again")


def _render(record: Mapping[str, Any]) -> str:
    """A line: the record with the SHA-256 of its JSON."""
    digest = hashlib.sha256(json.dumps(record).encode()).hexdigest()
    return json.dumps({**record, "sha256": digest})


def _parse(line: bytes) -> dict[str, Any]:
    """The record in a line; a ValueError where any byte of it was changed."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("no record")
    record.pop("sha256", None)
    if _render(record).encode() != line:
        raise ValueError("another hash")
    return record


def _answer(record: Mapping[str, Any]) -> Answer:
    """The answer in a record; a ValueError, LookupError or TypeError where it is none."""
    R, Q = record["shape"]
    if type(R) is not int or type(Q) is not int or R < 1 or Q < 0 or R * Q > LARGEST:
        raise ValueError("no shape of spins")
    bits = base64.b64decode(record["spins"], validate=True)
    if len(bits) != R * -(-Q // 8) or type(record["id"]) is not str:
        raise ValueError("spins of another shape")
    timing = dict(record["timing"])
    if not all(type(t) in (int, float) and math.isfinite(t) and t >= 0 for t in timing.values()):
        raise ValueError("no times")
    rows = np.frombuffer(bits, np.uint8).reshape(R, -1)
    spins = np.unpackbits(rows, axis=1, count=Q).astype(np.int8) * 2 - 1
    return Answer(spins, timing, record["id"])


def _is_begun(line: bytes) -> bool:
    """Whether a line was cut short: it begins as one, and no whole JSON stands in it."""
    try:
        json.JSONDecoder().raw_decode(line.decode())
    except ValueError:
        return b'{"key": '.startswith(line[:8]) and not line.endswith(b"}")
    return False


def _cut_torn(path: Path) -> None:
    """Cut off the line that a killed run left unfinished, so that the next one begins anew."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)
