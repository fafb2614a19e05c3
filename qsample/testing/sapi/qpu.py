"""The queue before a simulated processor, and the list of what it ran."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from qsample.testing.sapi import timing
from qsample.testing.sapi.chip import Chip, initial_spins
from qsample.testing.sapi.parameters import Refusal, Request, read
from qsample.testing.sapi.solver import Problem, Solver

OVER = ("COMPLETED", "FAILED", "CANCELLED")


def _now() -> str:
    """The present time, as the API writes it."""
    return datetime.now(UTC).isoformat()


@dataclass(eq=False)
class Job:
    """One accepted problem: what arrived, what it cost and how often its answer was delivered.

    Args:
        id: the service's name of it.
        solver: the solver that it is for.
        problem: the problem, decoded.
        request: what it asks for.
        scale: factor on h and J, other than 1 under `auto_scale`.
        label: the client's text beside it.
        seed: seed of its reads.
        params: its parameters, as they arrived.
        doomed: whether it will fail.
        submitted_on: when it arrived.
        solved_on: when it was over.
        status: what the service says of it.
        error: why it failed.
        spins: reads `[R, n]`, int8, in the order drawn.
        answer: the reads as they are sent.
        programming: its number among the programmings of the processor.
        charged: microseconds of access time.
        deliveries: number of times that its answer was sent.
    """

    id: str
    solver: Solver
    problem: Problem
    request: Request
    scale: float
    label: str | None
    seed: int
    params: dict[str, Any]
    doomed: bool = False
    submitted_on: str = field(default_factory=_now)
    solved_on: str | None = None
    status: str = "PENDING"
    error: str | None = None
    spins: np.ndarray | None = None
    answer: dict[str, Any] | None = None
    programming: int | None = None
    charged: float = 0.0
    deliveries: int = 0

    def message(self) -> dict[str, Any]:
        """Its status as the API tells it."""
        status = {
            "id": self.id,
            "type": self.problem.kind,
            "solver": self.solver.definition["identity"],
            "status": self.status,
            "submitted_on": self.submitted_on,
        }
        more = {"label": self.label, "solved_on": self.solved_on, "error_message": self.error}
        return status | {name: value for name, value in more.items() if value is not None}


class Processor:
    """Runs jobs one after the other in a thread of its own.

    Args:
        chip: the physics.
        real_time: whether a job takes as long as its access time.

    Attributes:
        jobs: everything that was ever accepted, in the order of arrival.
        online: whether jobs run; otherwise they fail.
        programmings: number of times that the chip was programmed.
    """

    def __init__(self, chip: Chip, real_time: bool) -> None:
        self.chip = chip
        self.real_time = real_time
        self.jobs: list[Job] = []
        self.online = True
        self.programmings = 0
        self._by_id: dict[str, Job] = {}
        self._alike: Counter[bytes] = Counter()
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._held = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="sapi-processor")

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End after the present job; whoever waits is woken."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def hold(self, held: bool) -> None:
        """Start no job (True), or go on (False)."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    # ---- what the API asks for ----------------

    def prepare(self, solver: Solver, body: dict[str, Any]) -> Job:
        """A job from the body of a submission, checked whole.

        Raises:
            Refusal: the service would refuse it.
        """
        params = body.get("params", {})
        label = body.get("label")
        if not isinstance(params, dict) or not (label is None or isinstance(label, str)):
            raise Refusal(400, "params must be an object and label a string")
        request = read(params, solver.properties)
        problem = solver.decode(body.get("type"), body.get("data"))
        if request.reverse:
            initial_spins(problem, request)

        # how long it runs, and whether it fits the ranges
        needed = timing.duration(
            solver.properties["problem_timing_data"], request, len(problem.active)
        )
        longest = solver.properties["problem_run_duration_range"][1]
        if needed > longest:
            raise Refusal(
                400,
                "The upper limit on user-specified timing-related parameters exceeded: problem run "
                f"duration {needed:.0f} us is over {longest:.0f} us",
            )
        scale = solver.auto_scale(problem) if request.auto_scale else 1.0
        if not request.auto_scale:
            solver.check_ranges(problem)

        # its seed: equal jobs differ by how many of them came before
        asked = (
            self.chip.seed,
            solver.name,
            problem.kind,
            body["data"]["lin"],
            body["data"]["quad"],
            params,
        )
        content = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).digest()
        with self._changed:
            repetition = self._alike[content]
            self._alike[content] += 1
            number = len(self._alike)
        seed = hashlib.sha256(content + repetition.to_bytes(8, "little")).digest()
        return Job(
            id=f"{number:06d}-{seed.hex()[:12]}-{repetition}",
            solver=solver,
            problem=problem,
            request=request,
            scale=scale,
            label=label,
            seed=int.from_bytes(seed[:8], "little") >> 1,
            params=params,
        )

    def accept(self, job: Job) -> None:
        """Put a prepared job into the queue."""
        with self._changed:
            self.jobs.append(job)
            self._by_id[job.id] = job
            self._waiting.append(job)
            self._changed.notify_all()

    def find(self, name: str) -> Job:
        """The job of that id; a `Refusal` if there is none."""
        with self._changed:
            if name not in self._by_id:
                raise Refusal(404, "Problem does not exist or apparently you don't have access")
            return self._by_id[name]

    def cancel(self, job: Job) -> None:
        """Take a job out of the queue; one that runs or ran is left alone."""
        with self._changed:
            if job.status == "PENDING":
                self._waiting.remove(job)
                self._end(job, "CANCELLED")

    def wait(self, jobs: list[Job], timeout: float) -> None:
        """Return when one of the jobs is over, `timeout` seconds are or the processor stops."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or any(job.status in OVER for job in jobs), timeout
            )

    def pause(self, seconds: float) -> None:
        """Sleep, unless the processor stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)

    # ---- its own thread ----------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or (self._waiting and not self._held))
                if self._stopped:
                    return
                job = self._waiting.popleft()
                job.status = "IN_PROGRESS"
            try:
                self._work(job)
            except Exception as error:  # a fault of ours must not hang the client
                with self._changed:
                    self._end(job, "FAILED", f"internal error: {error!r}")

    def _work(self, job: Job) -> None:
        """Draw the reads of a job, and end it."""
        if job.doomed or not self.online:
            reason = "The problem failed on the processor" if self.online else "Solver is offline"
            with self._changed:
                return self._end(job, "FAILED", reason)
        begun = time.monotonic()
        solver = job.solver
        request = job.request
        job.programming = self.programmings
        spins = self.chip.draw(job.problem, request, job.scale, job.programming, job.seed)
        cost = timing.charge(
            solver.properties["problem_timing_data"], request, len(job.problem.active)
        )
        answer = solver.encode(job.problem, spins, cost, request.raw, request.max_answers)
        if self.real_time:
            self.pause(cost["qpu_access_time"] / 1e6 - (time.monotonic() - begun))
        with self._changed:
            self.programmings += 1
            job.spins = spins
            job.answer = answer
            job.charged = cost["qpu_access_time"]
            self._end(job, "COMPLETED")

    def _end(self, job: Job, status: str, error: str | None = None) -> None:
        """Say that a job is over, and wake whoever waits for it."""
        job.status = status
        job.error = error
        job.solved_on = _now()
        self._changed.notify_all()
