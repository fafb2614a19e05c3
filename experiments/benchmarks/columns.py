"""A process for each column of the table: an instruction set, or other packages.

QSAMPLE_ISA holds the process of a column to its instruction set, through the public samplers. A
process stays for all cases, so that it is warm, and an engine that dies takes no other with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread

from experiments.benchmarks.cases import Case
from experiments.benchmarks.cell import Effort, Row, visit


class Column:
    """A process that measures.

    Args:
        isa: its instruction set; None for that of other packages.
    """

    def __init__(self, isa: str | None) -> None:
        self.isa = isa
        self._process: ProcessPoolExecutor | None = None

    def measure(self, case: Case, engine: str, effort: Effort) -> list[Row] | str:
        """Rows of an engine on a case; or why there are none.

        Args:
            case: what to call.
            engine: "qsample", or one of another package.
            effort: how often and how long.
        """
        if self._process is None:
            self._process = ProcessPoolExecutor(1, get_context("spawn"), end_with_parent)
        with _environment("QSAMPLE_ISA", self.isa):  # which a process takes over as it starts
            rows = self._process.submit(visit, case, engine, effort)
        try:
            return rows.result()
        except BrokenProcessPool:
            self.close()
            return "its process died"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.shutdown()
            self._process = None


def end_with_parent() -> None:
    """Let this process end when its parent does, even if that is killed."""
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
