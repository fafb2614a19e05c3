"""One job: charged, sent, waited for, checked, and sent again where that is right."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qsample.annealers.dwave.cloud.errors import BudgetExceeded, ChargeWarning, DeviceError, Unavailable
from qsample.annealers.dwave.cloud.ledger import Allowance, Ledger, is_charge
from qsample.annealers.dwave.cloud.session import CLOSED, REFUSED, Session, _line, code, passing
from qsample.annealers.dwave.programming import Programming

DOUBTFUL = 10  # between an access time and its estimate: beyond, the service's word is doubted


@dataclass(frozen=True, eq=False)
class Answer:
    """What a job brought: spins `[R, Q]` in the programming's order of qubits, its timing in microseconds, its id."""

    spins: np.ndarray
    timing: Mapping[str, float]
    id: str


class Wrong(Exception):
    """An answer that is not this job's, or is damaged."""


@dataclass(eq=False)
class Line:
    """What jobs share: the session, the ledger, the limits, and the ids whose answers were delivered."""

    session: Session
    ledger: Ledger
    budget: float | None  # us
    retries: int
    pause: Callable[[int], float]
    label: str
    record: Callable[[str, Programming, Mapping[str, Any], Answer], None] | None = None
    delivered: set[str] = field(default_factory=set)
    outstanding: set[Job] = field(default_factory=set)
    rested: float = 0.0  # when the last pause after a failure was over: failures from before it wait no more

    def rest(self, seconds: float, failed: float) -> None:
        """Pause after a failure at the time `failed`, once for all jobs that failed together."""
        if failed > self.rested:
            time.sleep(seconds)
            self.rested = time.time()


class Job:
    """A programming under way. `Job.send` sends many at once; `answer` waits for one."""

    def __init__(
        self, line: Line, programming: Programming, params: Mapping[str, Any], cost: float, call: Allowance
    ) -> None:
        self.line, self.programming, self.params, self.cost, self.call = line, programming, params, cost, call
        self.entry, self.id, self.future, self.attempt = "", None, None, 0
        self.lost = 0  # submissions charged without an answer

    @staticmethod
    def send(line: Line, jobs: list[Job]) -> None:
        """Charge all, then submit all; `BudgetExceeded` before anything is sent."""
        costs, call = [job.cost for job in jobs], jobs[0].call
        entries = line.ledger.post(costs, budget=line.budget, call=call, solver=line.session.name)
        for job, entry in zip(jobs, entries, strict=True):
            job.entry, job.id, job.future = entry, None, None
        try:
            for job in jobs:
                job._submit()
        except BaseException:
            for job in jobs:
                job.cancel()
                if job.future is None:
                    job._free("never sent")
            until = time.monotonic() + 2.0
            for job in jobs:
                job.abandon(until)
            raise

    def _submit(self) -> None:
        linear, quadratic = self.programming.dicts
        self.future = self.line.session.post(linear, quadratic, self.params, f"{self.line.label}:{self.entry}")
        self.line.outstanding.add(self)

    def answer(self, until: float) -> Answer:
        """Wait; every failure that another try can mend is tried again until `until` (of the monotonic clock)."""
        line = self.line
        while True:
            try:
                found, doubt = self._received(until)
            except DeviceError:
                raise
            except Exception as error:
                self._mend(error, until)
                continue
            line.delivered.add(found.id)
            us = found.timing.get("qpu_access_time", self.cost)
            line.ledger.settle(self.entry, us, self.call, found.id)
            line.outstanding.discard(self)
            if line.record is not None:
                line.record(line.session.name, self.programming, self.params, found)
            if doubt:
                warnings.warn(doubt, ChargeWarning, stacklevel=4)
            return found

    def done(self) -> bool:
        """Whether an answer or an error is there."""
        return self.future is not None and self.future.done()

    def cancel(self) -> None:
        """Ask for it not to run."""
        if self.future is not None:
            self.future.cancel()

    def abandon(self, until: float) -> None:
        """After `cancel`: take back the charge where the service confirms."""
        from dwave.cloud.exceptions import CanceledFutureError

        if self.future is not None and self in self.line.outstanding:
            self.future.wait(max(0.0, until - time.monotonic()))
            error = getattr(self.future, "_exception", None)
            if self.future.done() and isinstance(error, CanceledFutureError):
                self._free("cancelled")
        self.line.outstanding.discard(self)

    # ---- one try ---------------------------------------------------------------------------------------------------

    def _received(self, until: float) -> tuple[Answer, str]:
        """The answer, checked; and why its access time is doubted, where it is."""
        future = self.future
        assert future is not None
        left = max(0.0, until - time.monotonic())
        try:
            name = self.id or future.wait_id(left)
        except TimeoutError:
            raise Late from None
        if self.id is None and name is not None:
            self.id = name
            self.line.ledger.note(self.entry, "job", job=name)
        if not future.wait(max(0.0, until - time.monotonic())):
            raise Late
        result = future.result()
        label = f"{self.line.label}:{self.entry}"
        if future.label is not None and future.label != label or future.id != self.id:
            wrong = Wrong(f"an answer of job {future.id} came for job {self.id}")
            if future.id == self.id:  # it came before we asked for the id: ours was never known, the answer is lost
                self.id = None
            raise wrong
        if self.id in self.line.delivered:
            raise Wrong(f"the answer of job {self.id} came twice")
        return self._checked(result)

    def _checked(self, result: Mapping[str, Any]) -> tuple[Answer, str]:
        """The reads, if they are of this problem, complete, and have the energies that they are said to have."""
        qubits, reads = self.programming.qubits, self.params["num_reads"]
        active = np.asarray(result["active_variables"])
        rows = np.asarray(result["solutions"])
        if not np.array_equal(active, np.sort(qubits)) or rows.ndim != 2:
            raise Wrong(f"the answer of job {self.id} is of {len(active)} other qubits")
        spins = rows[:, qubits].astype(np.int8)
        if not (np.abs(spins) == 1).all():
            raise Wrong(f"the answer of job {self.id} has spins that are not -1 or +1")
        count = np.asarray(result.get("num_occurrences", np.ones(len(spins)))).astype(np.int64)
        if len(count) != len(spins) or (count < 1).any() or count.sum() != reads:
            raise Wrong(f"the answer of job {self.id} has {count.sum()} reads of {reads}")
        energy, size = self.programming.energy(spins)
        if not np.allclose(np.asarray(result["energies"]), energy, rtol=0, atol=1e-6 * (1 + size)):
            raise Wrong(f"the answer of job {self.id} has energies that its spins do not have")
        timing, doubt = self._timing(result.get("timing"))
        return Answer(spins.repeat(count, 0), timing, str(self.id)), doubt

    def _timing(self, told: object) -> tuple[dict[str, float], str]:
        """The answer's times, as far as they are times, and what is wrong with its access time.

        A job may cost a little more or less than the estimate. An access time that is no number from 0 to 100 seconds,
        or less than a tenth of the estimate, becomes the estimate; more than ten times as much is charged as told.
        """
        told = told if isinstance(told, Mapping) else {}
        timing = {str(name): float(value) for name, value in told.items() if is_charge(value)}
        us = told.get("qpu_access_time", self.cost)
        if is_charge(us) and self.cost / DOUBTFUL <= us <= self.cost * DOUBTFUL:
            return timing, ""
        if not is_charge(us) or us < self.cost:
            timing["qpu_access_time"] = self.cost
        said = f"solver {self.line.session.name} says that job {self.id} took {str(us)[:40]} us"
        charged = f"{timing['qpu_access_time']:.6g} us are charged"
        return timing, f"{said} where {self.cost:.6g} were estimated: {charged}"

    # ---- after a failure -------------------------------------------------------------------------------------------

    def _mend(self, error: Exception, until: float) -> None:
        """Fetch the answer again or submit again, after a pause; or raise what the caller should read."""
        from dwave.cloud.exceptions import CanceledFutureError, SolverFailureError, SolverOfflineError

        line, status, hide = self.line, code(error), self.line.session.hide
        ran = self.id is not None
        self.attempt += 1
        if line.session.closed and not isinstance(error, CanceledFutureError):
            raise DeviceError(CLOSED)
        if isinstance(error, CanceledFutureError):
            self._free("cancelled")
            raise DeviceError(f"job {self.id} was cancelled") from None
        if isinstance(error, SolverOfflineError):
            self._free("offline")
            raise Unavailable(f"solver {line.session.name} is offline: name another with solver=") from None
        if isinstance(error, Late) or time.monotonic() >= until:
            self.cancel()
            self.abandon(time.monotonic() + 1.0)
            raise Unavailable(f"job {self.id or '(not yet accepted)'} has no answer within timeout=") from None
        if not ran and status in (401, 403):
            self._free("refused")
            raise DeviceError(f"{line.session.where} refused the token: check DWAVE_API_TOKEN or token=") from None
        if not ran and (isinstance(error, SolverFailureError) or status is not None and not passing(error)):
            self._free("refused")
            raise DeviceError(hide(f"solver {line.session.name} refused the job: {_line(error)}")) from None
        if not ran and status in REFUSED:
            self._free("refused")
        elif not ran or isinstance(error, SolverFailureError):
            self.lost += 1  # stays charged: it may have run
            line.outstanding.discard(self)
        if self.attempt > line.retries:
            self.cancel()
            self.abandon(time.monotonic() + 1.0)
            what = f"job {self.id}" if ran else "the submission"
            raise Unavailable(hide(f"{what} failed {self.attempt} times, last with: {_line(error)}")) from None
        wait = line.pause(self.attempt - 1)
        if time.monotonic() + wait >= until:
            self.cancel()
            self.abandon(time.monotonic() + 1.0)
            raise Unavailable(hide(f"no answer within timeout=; last was: {_line(error)}")) from None
        resolved = getattr(self.future, "time_resolved", None)
        line.rest(wait, resolved.timestamp() if resolved is not None else time.time())
        if ran and not isinstance(error, SolverFailureError):
            self.future = line.session.fetch(str(self.id))
        else:
            self._again(error, status)

    def _again(self, error: Exception, status: int | None) -> None:
        try:
            Job.send(self.line, [self])
        except BudgetExceeded as refused:
            lost = "its answer was lost, so it stays charged" if status not in REFUSED else "it was refused"
            raise BudgetExceeded(f"a job cannot be submitted again ({lost}): {refused}") from None

    def _free(self, why: str) -> None:
        self.line.ledger.free(self.entry, self.call, why)
        self.line.outstanding.discard(self)


class Late(Exception):
    """No answer in time."""
