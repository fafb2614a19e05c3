"""A process that trains runs of a study, one after the other: `qsample.cli.study.worker`.

Folders come as lines on standard input. A run ends with a record in its folder; one without goes on
where it was. Where the study is no more, the pipe ends, and the present run saves itself and ends.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qsample.cli.errors import EXPECTED, line_of
from qsample.cli.study.costs import Meter
from qsample.cli.study.folder import COSTS, LOG, read_job, write_record
from qsample.learning.metrics import evaluated
from qsample.sampling.samples import ReliabilityWarning
from qsample.support.files import FolderInUse

PATIENCE = 20.0  # seconds until a process of before has let go of the run


def work(own: Path) -> dict[str, Any]:
    """Train the run in a folder, and return its record."""
    try:
        command = read_job(own)
        meter = Meter(own / COSTS)
        learnt = patiently(lambda: command.learn([meter]))
        result = dict(learnt.history[-1])
        del result["seconds"]
        if len(learnt.test):
            generator = torch.Generator().manual_seed(command.settings.seed)
            held_out = evaluated("auto", learnt.model, learnt.test, generator)
            result |= {f"test_{name}": value for name, value in held_out.items()}
    except EXPECTED as error:
        line = line_of(error)
        if line is None:
            traceback.print_exc()
            line = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return {"state": "failed", "error": line}
    return {"state": "done", "result": result}


def patiently(call: Callable[[], Any]) -> Any:
    """The call's result, once no process of before writes the run's folder."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return call()
        except FolderInUse:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def folders() -> queue.Queue[Path]:
    """Folders as they come; SIGTERM to this process when whoever sends them is no more."""
    waiting: queue.Queue[Path] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            waiting.put(Path(line.rstrip("\n")))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=listen, daemon=True).start()
    return waiting


def write_to(path: Path) -> None:
    """Send what this process says to the end of a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)


def main() -> None:
    """Work off the folders."""
    warnings.simplefilter("ignore", ReliabilityWarning)  # the report states the numbers
    waiting = folders()
    while True:
        own = waiting.get()
        write_to(own / LOG)
        write_record(own, work(own))


if __name__ == "__main__":
    main()
