"""One call under way: its jobs are submitted, its result is to come."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from qsample.annealers.dwave.cloud.errors import DeviceError
from qsample.annealers.dwave.cloud.job import Answer, Job
from qsample.annealers.dwave.cloud.secret import cleaned

T = TypeVar("T")


class Pending(Generic[T]):
    """A call's future: `result()` waits for the reads, `cancel()` gives them up."""

    def __init__(
        self,
        jobs: Sequence[Any],
        finish: Callable[[list[Answer]], T],
        timeout: float,
        everything: Callable[[], None],
        instead: Callable[[DeviceError], T],
    ) -> None:
        self._jobs, self._finish, self._everything, self._instead = list(jobs), finish, everything, instead
        self._until = time.monotonic() + timeout
        self._found: T | None = None
        self._cancelled = False
        self._process = os.getpid()
        self._reading = threading.RLock()

    @staticmethod
    def ready(found: Any) -> Pending[Any]:
        """One whose result is there."""
        pending = Pending([], lambda _: found, 0.0, lambda: None, lambda _: found)
        pending._found = found
        return pending

    def done(self) -> bool:
        """Whether `result` returns at once."""
        return self._found is not None or all(job.done() for job in self._jobs)

    def cancel(self) -> None:
        """Ask the service to run none of what has not run; a cancelled job is taken back from the ledger."""
        if self._found is None and not self._cancelled:
            self._cancelled = True
            if self._process != os.getpid():
                return
            try:
                give_up(self._jobs)
            except BaseException as error:
                raise cleaned(error) from None

    def result(self) -> T:
        """The reads.

        Raises:
            DeviceError: the device failed and no `fallback` is named; what was outstanding of this call is cancelled.
        """
        if self._found is None and self._process != os.getpid():
            raise DeviceError("this call was submitted before a fork: the parent reads it; call the sampler anew")
        with self._reading:
            if self._found is None:
                self._found = self._read()
            return self._found

    def _read(self) -> T:
        if self._cancelled:
            raise DeviceError("this call was cancelled")
        answers: list[Answer] = []
        try:
            for job in self._jobs:
                answers.append(job.answer(self._until))
            return self._finish(answers)
        except DeviceError as error:
            failed = error
        except BaseException as error:
            self._cancelled = True
            give_up(self._jobs[len(answers) :])
            if not isinstance(error, Exception):  # Ctrl-C ends what other calls have under way, too
                self._everything()
            raise cleaned(error) from None
        give_up(self._jobs[len(answers) :])
        self._cancelled = True
        return self._instead(cleaned(failed))


def give_up(jobs: list[Job], patience: float = 2.0) -> None:
    """Cancel jobs, and wait a little for the confirmation that frees their charge."""
    for job in jobs:
        job.cancel()
    until = time.monotonic() + patience
    for job in jobs:
        job.abandon(until)


class Played:
    """A job whose answer comes from a recording."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def done(self) -> bool:
        """At once."""
        return True

    def answer(self, until: float) -> Answer:
        """The answer recorded."""
        return self._answer

    def cancel(self) -> None:
        """Nothing runs."""

    def abandon(self, until: float) -> None:
        """Nothing is outstanding."""
