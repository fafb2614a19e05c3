"""Answers kept in a file, and given again without hardware, bit for bit."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qsample.annealers.dwave.errors import DeviceError
from qsample.annealers.dwave.job import Answer
from qsample.annealers.dwave.programming import Programming

# The first line is {"format", "solver", "properties"}, each further one an answer by the hash of what was asked.
FORMAT = "qsample dwave recording 1"


def request_key(solver: str, programming: Programming, params: Mapping[str, Any]) -> str:
    """SHA-256 of everything that a job asks for."""
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
        found = path.stat()
    except OSError:  # the one who opens it hears why
        return False
    if not stat.S_ISREG(found.st_mode):
        raise DeviceError(f"cannot record to {path}: it is no plain file, name another")
    return found.st_size > 0


class Recorder:
    """Appends answers to a file; one that exists must be of the same solver."""

    def __init__(self, path: Path, solver: str, properties: Mapping[str, Any]) -> None:
        self._lock = threading.Lock()  # threads share it
        if _is_there(path):
            name = _head(path)["solver"]
            if name != solver:
                raise DeviceError(f"{path} records solver {name}, this is {solver}: record to another file")
            self._file = path.open("a")
        else:
            try:
                self._file = path.open("w")
            except OSError as error:
                raise DeviceError(f"cannot record to {path}: {error.strerror}") from None
            self._write({"format": FORMAT, "solver": solver, "properties": properties})

    def add(self, solver: str, programming: Programming, params: Mapping[str, Any], answer: Answer) -> None:
        """One more answer."""
        key = request_key(solver, programming, params)
        bits = base64.b64encode(np.packbits(answer.spins > 0, axis=1).tobytes()).decode()
        shape = list(answer.spins.shape)
        with self._lock:
            if self._file.closed:
                raise DeviceError("this DWave was closed before an answer was recorded: call it again")
            self._write({"key": key, "id": answer.id, "timing": dict(answer.timing), "shape": shape, "spins": bits})

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        with self._lock:
            self._file.close()


class Replay:
    """The answers of a recording, each given once, in the order recorded."""

    def __init__(self, path: Path) -> None:
        self.path = path
        head = _head(path)
        self.name: str = head["solver"]
        self.properties: Mapping[str, Any] = head["properties"]
        self._answers: dict[str, deque[Answer]] = defaultdict(deque)
        lines = path.read_text().splitlines()[1:]
        for number, line in enumerate(lines, 2):
            try:
                found = json.loads(line)
                R, Q = found["shape"]
                rows = np.frombuffer(base64.b64decode(found["spins"]), np.uint8).reshape(R, -1)
                spins = np.unpackbits(rows, axis=1, count=Q).astype(np.int8) * 2 - 1
                self._answers[found["key"]].append(Answer(spins, found["timing"], found["id"]))
            except (ValueError, KeyError, TypeError):
                if number == len(lines) + 1:
                    break  # the last line of a run that was killed
                raise DeviceError(f"{path} is damaged in line {number}: record it again") from None

    def take(self, key: str) -> Answer:
        """The next answer to this request."""
        if not self._answers.get(key):
            raise DeviceError(
                f"{self.path} holds no {'further ' if key in self._answers else ''}answer to this request: problem, "
                "reads, settings, seed and order of calls must be those recorded"
            )
        return self._answers[key].popleft()


def _head(path: Path) -> dict[str, Any]:
    try:
        with path.open() as file:
            head = json.loads(file.readline())
        if head["format"] == FORMAT:
            return head
    except OSError as error:
        raise DeviceError(f"cannot read the recording {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        pass
    raise DeviceError(f"{path} is no recording of DWave: name one made with record=")
