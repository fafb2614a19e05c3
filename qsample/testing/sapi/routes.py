"""The routes of the solver API, without HTTP: method, path and body become status and body."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from qsample.testing.sapi.faults import Fault, Route, corrupted
from qsample.testing.sapi.parameters import Refusal
from qsample.testing.sapi.qpu import Job, Processor
from qsample.testing.sapi.solver import Solver

LONGEST_POLL = 30.0  # seconds


class Reply(NamedTuple):
    """What is answered to a request.

    Args:
        status: the HTTP status.
        kind: what the body is, in the API's media types; None is plain JSON.
        body: the bytes.
    """

    status: int
    kind: str | None
    body: bytes


class Routes:
    """Solvers and a processor behind the paths of the solver API, version 3.

    Its paths begin with `/sapi/v2/`.
    """

    def __init__(self, solvers: Sequence[Solver], processor: Processor) -> None:
        self.solvers = {solver.name: solver for solver in solvers}
        self.processor = processor
        self._encoded: dict[tuple[str, str, bool], bytes] = {}

    def route(self, method: str, path: str) -> Route | None:
        """Which route a request takes, None for a path that does not exist."""
        try:
            parts = urlsplit(path).path.strip("/").split("/")
        except ValueError:  # such as "//["
            return None
        if parts[:2] != ["sapi", "v2"]:
            return None
        match method, *parts[2:]:
            case "GET", "solvers", "remote", *rest if len(rest) <= 1:
                return "solvers"
            case "POST", "problems":
                return "post"
            case "GET", "problems":
                return "poll"
            case "GET", "problems", _:
                return "answer"
            case "DELETE", "problems":
                return "cancel"
        return None

    def answer(self, route: Route, path: str, body: bytes, fault: Fault | None = None) -> Reply:
        """The reply to a request that came through.

        Args:
            route: which route it takes.
            path: its path, with the query.
            body: its body.
            fault: what goes wrong with it. Default: nothing.

        Raises:
            Refusal: the service would refuse it.
        """
        parts = urlsplit(path)
        last = parts.path.strip("/").split("/")[-1]
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if route == "solvers":
            return self._definitions(last, query.get("filter", "all"))
        if route == "post":
            return self._submit(_decoded(body), fault)
        if route == "poll":
            return self._poll(query, fault)
        if route == "answer":
            return self._load(self.processor.find(last), fault)
        names = _decoded(body)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Refusal(400, "expected a JSON array of problem ids")
        jobs = [self.processor.find(name) for name in names]
        for job in jobs:
            self.processor.cancel(job)
        return _reply("problems", [job.message() for job in jobs])

    # ---- solvers ----------------

    def _definitions(self, last: str, chosen: str) -> Reply:
        if last == "remote":
            definitions = [self._definition(solver, chosen) for solver in self.solvers.values()]
            return Reply(200, "solver-definition-list", b"[" + b",".join(definitions) + b"]")
        return Reply(200, "solver-definition", self._definition(self._solver(last), chosen))

    def _solver(self, name: object) -> Solver:
        if not isinstance(name, str) or name not in self.solvers:
            raise Refusal(404, "Solver does not exist or apparently you don't have access")
        return self.solvers[name]

    def _definition(self, solver: Solver, chosen: str) -> bytes:
        """A definition's fields, chosen by a filter such as `all,-status` or `none,+status`.

        They are megabytes, and made once.
        """
        online = self.processor.online
        key = solver.name, chosen, online
        if key not in self._encoded:
            whole = solver.definition | {"status": "ONLINE" if online else "OFFLINE"}
            first, *rest = chosen.split(",")
            fields = set(whole) if first == "all" else set()
            for item in rest:
                if item.startswith("-"):
                    fields.discard(item[1:])
                else:
                    fields.add(item.lstrip("+ "))
            chosen_fields = {name: whole[name] for name in whole if name in fields}
            self._encoded[key] = json.dumps(chosen_fields).encode()
        return self._encoded[key]

    # ---- problems ----------------

    def _submit(self, body: Any, fault: Fault | None) -> Reply:
        """One status per problem, or the error for which it was refused.

        The others of the array run all the same.
        """
        items = body if isinstance(body, list) else [body]
        if not items or not all(isinstance(item, dict) for item in items):
            raise Refusal(400, "expected a JSON array of problems")
        statuses: list[dict[str, Any]] = []
        for item in items:
            try:
                job = self._job(item)
            except Refusal as refusal:
                statuses.append({"error_code": refusal.code, "error_msg": str(refusal)})
                continue
            job.doomed = fault is not None and fault.kind == "failed"
            statuses.append(job.message())  # PENDING, before the processor may take it
            self.processor.accept(job)
        return _reply("problems", statuses if isinstance(body, list) else statuses[0])

    def _job(self, item: dict[str, Any]) -> Job:
        """The job in one problem of a submission; a `Refusal` for a solver that is not there."""
        identity = item.get("solver")
        solver = self._solver(identity.get("name") if isinstance(identity, dict) else identity)
        version = identity.get("version") if isinstance(identity, dict) else None
        if version not in (None, solver.definition["identity"]["version"]):
            raise Refusal(
                404,
                "Solver does not exist or apparently you don't have access: its working graph "
                "changed",
            )
        return self.processor.prepare(solver, item)

    def _poll(self, query: dict[str, str], fault: Fault | None) -> Reply:
        """The status of each job, when one of them is over or the time is up."""
        jobs = [self.processor.find(name) for name in query.get("id", "").split(",")]
        try:
            timeout = float(query.get("timeout", 0))
        except ValueError:
            raise Refusal(
                400, f"timeout must be a number of seconds; got {query['timeout']!r}"
            ) from None
        self.processor.wait(jobs, min(max(timeout, 0.0), LONGEST_POLL))
        statuses = [job.message() for job in jobs]
        twice = fault is not None and fault.kind == "duplicate"
        return _reply("problems", statuses * 2 if twice else statuses)

    def _load(self, job: Job, fault: Fault | None) -> Reply:
        """The answer of a job that is over, or that of another where the fault says so."""
        if fault is not None and fault.kind == "stale":
            others = [
                other
                for other in self.processor.jobs
                if other.answer is not None and other is not job
            ]
            job = others[-1] if others else job
        message = job.message()
        if message["status"] == "COMPLETED" and job.answer is not None:
            job.deliveries += 1
            message["answer"] = job.answer if fault is None else corrupted(job.answer, fault.kind)
        return _reply("problem", message)


def _reply(kind: str, body: Any) -> Reply:
    return Reply(200, kind, json.dumps(body).encode())


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
