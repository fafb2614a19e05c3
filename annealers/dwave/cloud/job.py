"""One job: charged, sent, waited for, checked, and sent again where that is right.

A `Connection` is what the jobs of one sampler share: the session with the service, the ledger and
the limits. Times that the service reports are in microseconds, waiting times in seconds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qsample.annealers.dwave.cloud.errors import (
    BudgetExceeded,
    ChargeWarning,
    DeviceError,
    Unavailable,
)
from qsample.annealers.dwave.cloud.ledger import Allowance, Ledger, is_charge
from qsample.annealers.dwave.cloud.session import CLOSED, REFUSED, Session, code, one_line, passing
from qsample.annealers.dwave.programming import Programming

DOUBTFUL = 10  # ratio of an access time and its estimate beyond which the service's word is doubted
CANCELLING = 2.0  # seconds that the confirmation of a cancelled job is waited for


@dataclass(frozen=True, eq=False)
class Answer:
    """What a job brought.

    Args:
        spins: reads `[R, Q]` in the programming's order of qubits, -1 and +1.
        timing: the service's times, in microseconds.
        id: the service's name of the job.
    """

    spins: np.ndarray
    timing: Mapping[str, float]
    id: str


class Wrong(Exception):
    """An answer that is not this job's, or is damaged."""


class Late(Exception):
    """No answer in time."""


@dataclass(eq=False)
class Connection:
    """What jobs share: the session, the ledger, the limits, and the ids of answers delivered.

    Args:
        session: the client's connection to the solver.
        ledger: where every submission is charged.
        budget: microseconds of access time that the ledger may reach; None is no limit.
        retries: repetitions of a failed request.
        pause: seconds to wait after failure k, from 0.
        label: what the service shows beside each job.
        record: called with the solver's name and each job's programming, parameters and answer;
            None records nothing.
        delivered: ids of jobs whose answers were given out.
        outstanding: jobs sent that have no answer yet.
        rested: time of the clock when the last pause was over: failures from before it wait no
            more.
    """

    session: Session
    ledger: Ledger
    budget: float | None
    retries: int
    pause: Callable[[int], float]
    label: str
    record: Callable[[str, Programming, Mapping[str, Any], Answer], None] | None = None
    delivered: set[str] = field(default_factory=set)
    outstanding: set[Job] = field(default_factory=set)
    rested: float = 0.0

    @property
    def name(self) -> str:
        """The solver's name."""
        return self.session.name

    @property
    def properties(self) -> Mapping[str, Any]:
        """What the solver says of itself."""
        return self.session.properties

    def max_reads(self, qubits: int, params: Mapping[str, Any]) -> int:
        """Number of reads that the solver allows one job on so many qubits: 0 where not one fits.

        Its range bounds them, and the longest run that it allows.
        """
        properties = self.properties
        single = self.session.cost(qubits, {**params, "num_reads": 1})
        double = self.session.cost(qubits, {**params, "num_reads": 2})
        longest = properties["problem_run_duration_range"][1]
        room = longest - properties["default_programming_thermalization"]
        return min(int(properties["num_reads_range"][1]), int(room / (double - single)))

    def _costs(self, qubits: int, params: Sequence[Mapping[str, Any]]) -> list[float]:
        """The estimated access time of each job, in microseconds; equal jobs are asked for once."""
        by_reads: dict[int, float] = {}
        for asked in params:
            reads = asked["num_reads"]
            if reads not in by_reads:
                by_reads[reads] = self.session.cost(qubits, asked)
        return [by_reads[asked["num_reads"]] for asked in params]

    def afford(self, qubits: int, params: Sequence[Mapping[str, Any]], call: Allowance) -> None:
        """Check that jobs could be paid for, and charge nothing.

        Args:
            qubits: number of qubits in use.
            params: everything that each job asks for.
            call: what the call may spend.

        Raises:
            BudgetExceeded: they cost more than is left to the run or to the call.
        """
        self.ledger.afford(sum(self._costs(qubits, params)), self.budget, call)

    def send(
        self,
        programmings: Sequence[Programming],
        params: Sequence[Mapping[str, Any]],
        call: Allowance,
    ) -> list[Job]:
        """Jobs under way, all charged before the first is submitted.

        Args:
            programmings: fields and couplings of each job, on the same qubits.
            params: everything else that each asks for.
            call: what the call may spend.

        Raises:
            BudgetExceeded: the jobs cost more than is left; nothing was sent.
        """
        costs = self._costs(len(programmings[0].wiring.qubits), params)
        jobs = [
            Job(self, programming, asked, cost, call)
            for programming, asked, cost in zip(programmings, params, costs, strict=True)
        ]
        Job.send(self, jobs)
        return jobs

    def cancel_all(self) -> None:
        """Cancel all that is outstanding, of every call."""
        cancel(list(self.outstanding))

    def rest(self, seconds: float, failed: float) -> None:
        """Pause after a failure at the time `failed`, once for all jobs that failed together."""
        if failed > self.rested:
            time.sleep(seconds)
            self.rested = time.time()


def cancel(jobs: Iterable[Any], patience: float = CANCELLING) -> None:
    """Cancel jobs, and wait `patience` seconds for the confirmation that frees their charge."""
    jobs = list(jobs)
    for job in jobs:
        job.cancel()
    until = time.monotonic() + patience
    for job in jobs:
        job.abandon(until)


class Job:
    """A programming under way. `Job.send` sends many at once; `answer` waits for one.

    Args:
        connection: what it shares with other jobs.
        programming: the fields and couplings.
        params: everything else that it asks for.
        cost: estimated access time, in microseconds.
        call: what its call may spend.
    """

    def __init__(
        self,
        connection: Connection,
        programming: Programming,
        params: Mapping[str, Any],
        cost: float,
        call: Allowance,
    ) -> None:
        self.connection = connection
        self.programming = programming
        self.params = params
        self.cost = cost
        self.call = call
        self.entry = ""  # of the ledger
        self.id = None  # the service's name of it
        self.future = None
        self.attempt = 0

    @staticmethod
    def send(connection: Connection, jobs: list[Job]) -> None:
        """Charge all, then submit all; `BudgetExceeded` before anything is sent."""
        entries = connection.ledger.post(
            [job.cost for job in jobs],
            budget=connection.budget,
            call=jobs[0].call,
            solver=connection.name,
        )
        for job, entry in zip(jobs, entries, strict=True):
            job.entry = entry
            job.id = None
            job.future = None
        try:
            for job in jobs:
                job._submit()
        except BaseException:
            for job in jobs:
                job.cancel()
                if job.future is None:
                    job._free("never sent")
            until = time.monotonic() + CANCELLING
            for job in jobs:
                job.abandon(until)
            raise

    @property
    def label(self) -> str:
        """What the service shows beside it: the sampler's label and the ledger's entry."""
        return f"{self.connection.label}:{self.entry}"

    def _submit(self) -> None:
        session = self.connection.session
        self.future = session.post(self.programming, self.params, self.label)
        self.connection.outstanding.add(self)

    def answer(self, until: float) -> Answer:
        """Wait for the answer; every failure that another try can mend is tried again.

        Args:
            until: when to give up, on the monotonic clock.
        """
        connection = self.connection
        while True:
            try:
                answer, doubt = self._received(until)
            except DeviceError:
                raise
            except Exception as error:
                self._mend(error, until)
                continue
            connection.delivered.add(answer.id)
            us = answer.timing.get("qpu_access_time", self.cost)
            connection.ledger.settle(self.entry, us, self.call, answer.id)
            connection.outstanding.discard(self)
            if connection.record is not None:
                connection.record(connection.name, self.programming, self.params, answer)
            if doubt:
                warnings.warn(doubt, ChargeWarning, stacklevel=4)
            return answer

    def done(self) -> bool:
        """Whether an answer or an error is there."""
        return self.future is not None and self.future.done()

    def cancel(self) -> None:
        """Ask for it not to run."""
        if self.future is not None:
            self.future.cancel()

    def abandon(self, until: float) -> None:
        """After `cancel`: take back the charge where the service confirms by `until`."""
        from dwave.cloud.exceptions import CanceledFutureError

        if self.future is not None and self in self.connection.outstanding:
            self.future.wait(max(0.0, until - time.monotonic()))
            error = getattr(self.future, "_exception", None)
            if self.future.done() and isinstance(error, CanceledFutureError):
                self._free("cancelled")
        self.connection.outstanding.discard(self)

    # ---- one try ----------------

    def _received(self, until: float) -> tuple[Answer, str]:
        """The answer, checked; and why its access time is doubted, where it is."""
        future = self.future
        assert future is not None
        # the service's name of the job, noted before its answer may be lost
        try:
            name = self.id or future.wait_id(max(0.0, until - time.monotonic()))
        except TimeoutError:
            raise Late from None
        if self.id is None and name is not None:
            self.id = name
            self.connection.ledger.note(self.entry, "job", job=name)
        if not future.wait(max(0.0, until - time.monotonic())):
            raise Late
        result = future.result()
        # the client may mix answers up, or bring one twice
        if future.label is not None and future.label != self.label or future.id != self.id:
            wrong = Wrong(f"an answer of job {future.id} came for job {self.id}")
            # it came before we asked for the id: ours was never known, the answer is lost
            if future.id == self.id:
                self.id = None
            raise wrong
        if self.id in self.connection.delivered:
            raise Wrong(f"the answer of job {self.id} came twice")
        return self._checked(result)

    def _checked(self, result: Mapping[str, Any]) -> tuple[Answer, str]:
        """The reads, if they are this problem's, complete, and of the energies that they claim."""
        qubits = self.programming.wiring.qubits
        reads = self.params["num_reads"]
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
        timing, doubt = self._timing(result.get("timing"))
        energy, size = self.programming.energy(spins)
        if not np.allclose(np.asarray(result["energies"]), energy, rtol=0, atol=1e-6 * (1 + size)):
            raise Wrong(f"the answer of job {self.id} has energies that its spins do not have")
        return Answer(spins.repeat(count, 0), timing, str(self.id)), doubt

    def _timing(self, reported: object) -> tuple[dict[str, float], str]:
        """The answer's times, as far as they are times, and what is wrong with its access time.

        A job may cost a little more or less than the estimate. An access time that is no number
        from 0 to 100 seconds, or less than a tenth of the estimate, becomes the estimate; more than
        ten times as much is charged as reported.
        """
        reported = reported if isinstance(reported, Mapping) else {}
        timing = {str(name): float(value) for name, value in reported.items() if is_charge(value)}
        us = reported.get("qpu_access_time", self.cost)
        if is_charge(us) and self.cost / DOUBTFUL <= us <= self.cost * DOUBTFUL:
            return timing, ""
        if not is_charge(us) or us < self.cost:
            timing["qpu_access_time"] = self.cost
        claim = f"solver {self.connection.name} says that job {self.id} took {str(us)[:40]} us"
        charged = f"{timing['qpu_access_time']:.6g} us are charged"
        return timing, f"{claim} where {self.cost:.6g} were estimated: {charged}"

    # ---- after a failure ----------------

    def _mend(self, error: Exception, until: float) -> None:
        """Fetch the answer again or submit again, after a pause; or raise what the caller reads.

        Args:
            error: what went wrong.
            until: when to give up, on the monotonic clock.
        """
        from dwave.cloud.exceptions import SolverFailureError

        connection = self.connection
        hide = connection.session.hide
        ran = self.id is not None
        failed = isinstance(error, SolverFailureError)
        self.attempt += 1
        self._refuse(error, until)
        # what the failed submission costs
        if not ran and code(error) in REFUSED:
            self._free("refused")
        elif not ran or failed:
            # stays charged: it may have run
            connection.outstanding.discard(self)
        # whether there is another try
        if self.attempt > connection.retries:
            what = f"job {self.id}" if ran else "the submission"
            self._give_up(hide(f"{what} failed {self.attempt} times, last with: {one_line(error)}"))
        wait = connection.pause(self.attempt - 1)
        if time.monotonic() + wait >= until:
            self._give_up(hide(f"no answer within timeout=; last was: {one_line(error)}"))
        resolved = getattr(self.future, "time_resolved", None)
        connection.rest(wait, resolved.timestamp() if resolved is not None else time.time())
        # a job that ran is asked for its answer again; one that did not, or failed, is sent again
        if ran and not failed:
            self.future = connection.session.fetch(str(self.id))
        else:
            self._again(code(error))

    def _refuse(self, error: Exception, until: float) -> None:
        """Raise what the caller reads where no other try can help."""
        from dwave.cloud.exceptions import (
            CanceledFutureError,
            SolverFailureError,
            SolverOfflineError,
        )

        session = self.connection.session
        status = code(error)
        ran = self.id is not None
        if session.closed and not isinstance(error, CanceledFutureError):
            raise DeviceError(CLOSED)
        if isinstance(error, CanceledFutureError):
            self._free("cancelled")
            raise DeviceError(f"job {self.id} was cancelled") from None
        if isinstance(error, SolverOfflineError):
            self._free("offline")
            raise Unavailable(
                f"solver {session.name} is offline: name another with solver="
            ) from None
        if isinstance(error, Late) or time.monotonic() >= until:
            name = self.id or "(not yet accepted)"
            self._give_up(f"job {name} has no answer within timeout=")
        if not ran and status in (401, 403):
            self._free("refused")
            raise DeviceError(
                f"{session.where} refused the token: check DWAVE_API_TOKEN or token="
            ) from None
        final = isinstance(error, SolverFailureError) or status is not None and not passing(error)
        if not ran and final:
            self._free("refused")
            raise DeviceError(
                session.hide(f"solver {session.name} refused the job: {one_line(error)}")
            ) from None

    def _give_up(self, message: str) -> None:
        """Cancel it, and raise that the device is unavailable."""
        self.cancel()
        self.abandon(time.monotonic() + 1.0)
        raise Unavailable(message) from None

    def _again(self, status: int | None) -> None:
        """Charge and submit it once more, after a failure of this HTTP status."""
        try:
            Job.send(self.connection, [self])
        except BudgetExceeded as refused:
            lost = "its answer was lost, so it stays charged"
            why = "it was refused" if status in REFUSED else lost
            raise BudgetExceeded(f"a job cannot be submitted again ({why}): {refused}") from None

    def _free(self, why: str) -> None:
        """Take its charge back."""
        self.connection.ledger.free(self.entry, self.call, why)
        self.connection.outstanding.discard(self)
