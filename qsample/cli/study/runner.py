"""The runs of a study in local processes: what is missing is done, and none loses the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from qsample.cli.study.costs import Cost, cost_of, excess, expected
from qsample.cli.study.folder import LOG, read_record, state_of, write_job, write_record
from qsample.cli.study.plan import Plan, Planned
from qsample.support.files import FolderLock

POLL = 0.05  # seconds between looks at the processes
SAVING = 15.0  # seconds that they have to save themselves
# what a process ends with that was asked to, by Ctrl-C, SIGTERM or SIGHUP: it goes on next time
ASKED = {-signal.SIGINT, -signal.SIGTERM, -1, 129, 130, 143}
COMMAND = [sys.executable, "-m", "qsample.cli.study.worker"]


class Worker:
    """A process, and the run that it is at.

    Attributes:
        run: the run; None where it waits for one.
    """

    def __init__(self) -> None:
        self.run: Planned | None = None
        self._process: subprocess.Popen[str] | None = None

    def start(self, run: Planned, folder: Path) -> None:
        """Begin a run, or go on with it.

        Args:
            run: the run.
            folder: the study's folder.
        """
        own = (folder / run.key).absolute()
        write_job(own, run)
        if self._process is None:
            with (own / LOG).open("a") as log:
                self._process = subprocess.Popen(
                    COMMAND, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
                )
        assert self._process.stdin is not None
        self.run = run
        with suppress(BrokenPipeError):  # it has died: `ended` sees it
            self._process.stdin.write(f"{own}\n")
            self._process.stdin.flush()

    def ended(self, folder: Path) -> bool:
        """Whether its run has a record, or the process is no more."""
        if self.run is None or self._process is None:
            return False
        code = self._process.poll()
        if read_record(folder / self.run.key):
            return True
        if code is None:
            return False
        self._process = None
        if code not in ASKED:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            own = folder / self.run.key
            error = f"its process ended by {how}: {own / LOG} says more"
            write_record(own, {"state": "failed", "error": error})
        return True

    def stop(self) -> None:
        """Let it save its run and end."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait for its end, and end it after so many seconds."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Runner:
    """Does what is missing of a study.

    Args:
        plan: the study.
        folder: its folder, which holds one for each run.
        workers: number of processes.
        say: what is called with a line for each run that ends.
    """

    def __init__(
        self, plan: Plan, folder: Path, workers: int, say: Callable[[str], None] = print
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.workers = [Worker() for _ in range(workers)]
        self.say = say

    def run(self) -> None:
        """Start what is missing, in the plan's order, and wait for it.

        Raises:
            FolderInUse: another process does.
            ValueError: the next run would exceed the budget; those under way are done first.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.folder)
        try:
            missing = [run for run in self.plan.runs if state_of(run, self.folder).name != "done"]
            self._do(missing)
        finally:
            self._end()
            lock.release()

    def _do(self, missing: list[Planned]) -> None:
        """Keep the workers busy until nothing is left."""
        refusal = ""
        while True:
            for worker in self.workers:
                if worker.run is None and missing and not refusal:
                    refusal = self._refusal(missing[0])
                    if not refusal:
                        worker.start(missing.pop(0), self.folder)
            if all(worker.run is None for worker in self.workers):
                break
            time.sleep(POLL)
            for worker in self.workers:
                if worker.run is not None and worker.ended(self.folder):
                    state = state_of(worker.run, self.folder)
                    text = f": {state.text}" if state.text else ""
                    self.say(f"{state.name}: {worker.run}{text}")
                    worker.run = None
        if refusal:
            raise ValueError(refusal)

    def _refusal(self, run: Planned) -> str:
        """Why the budget does not allow the run; empty where it does."""
        costs = {other: cost_of(self.folder / other.key) for other in self.plan.runs}
        done: dict[tuple[Any, ...], list[Cost]] = defaultdict(list)
        for other, cost in costs.items():
            if state_of(other, self.folder).name == "done":
                done[other.cell].append(cost)
        active = [worker.run for worker in self.workers]
        spent = Cost()
        under_way = Cost()
        for other, cost in costs.items():
            if other in active:
                under_way += expected(other, done)
            elif other is not run:  # what it has spent so far is in what is expected of it
                spent += cost
        why = excess(self.plan.budget, spent, under_way, expected(run, done))
        if not why:
            return ""
        count = sum(map(len, done.values()))
        return f"{self.plan.path}: {count} of {len(costs)} runs are done; the next is {run}: {why}"

    def _end(self) -> None:
        """Let the processes that are left save themselves, and wait for them."""
        for worker in self.workers:
            worker.stop()
        until = time.monotonic() + SAVING
        for worker in self.workers:
            worker.wait(max(0.1, until - time.monotonic()))
