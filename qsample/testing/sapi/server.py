"""The solver API over HTTP on this machine only: what dwave-cloud-client talks to in place of the cloud."""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from qsample.testing.sapi.chip import Chip
from qsample.testing.sapi.definitions import definition
from qsample.testing.sapi.faults import STATUSES, Fault, Faults, Route
from qsample.testing.sapi.parameters import Refusal
from qsample.testing.sapi.qpu import Job, Processor
from qsample.testing.sapi.routes import Reply, Routes
from qsample.testing.sapi.solver import Solver

MEDIA = "application/vnd.dwave.sapi.{}+json; version=3.0.0"
KINDS: dict[Route, tuple[str, ...]] = {
    "solvers": ("solver-definition-list", "solver-definition"),
    "post": ("problems",),
    "poll": ("problems",),
    "answer": ("problem",),
    "cancel": ("problems",),
}
LARGEST = 64 << 20  # bytes of a body


class Arrival(NamedTuple):
    """A request that arrived: its route (None: no such path) and the status answered, 0 where the answer was lost."""

    route: Route | None
    status: int


class SolverServer:
    """A loopback solver API, in a `with` statement: D-Wave's own client, unchanged, samples from our engine.

        with SolverServer("zephyr-4", chip=Chip(beta=6.35)) as server:
            sampler = DWaveSampler(endpoint=server.endpoint, token=server.token)

    It listens on 127.0.0.1 alone, writes no log, and leaves no thread behind. Jobs run one after the other, as on a
    processor; `jobs` is the ledger, `charged` the microseconds of access time of those that ran.

    Args:
        *solvers: what is served: topologies such as "zephyr-12", or what `definition(...)` returns.
        chip: the physics, with the beta that the client is not told.
        real_time: a job takes as long as its access time says; otherwise as long as our engine takes.
        port: 0 picks a free one.

    Attributes:
        faults: what goes wrong, on demand or at random.
        requests: every request that arrived, in the order answered.
    """

    def __init__(
        self,
        *solvers: str | Mapping[str, Any],
        chip: Chip | None = None,
        real_time: bool = False,
        port: int = 0,
    ) -> None:
        served = [definition(s) if isinstance(s, str) else s for s in solvers or ("zephyr-4",)]
        self.token = f"loopback-{secrets.token_hex(16)}"
        self.faults, self.requests = Faults(), list[Arrival]()
        self._processor = Processor(chip or Chip(), real_time)
        self._routes = Routes([Solver(found) for found in served], self._processor)
        self._http = _HTTP(self, port)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), name="sapi-server")

    def __repr__(self) -> str:
        return f"SolverServer({', '.join(self._routes.solvers)} at {self.endpoint})"

    def __enter__(self) -> SolverServer:
        self._processor.start()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._processor.stop()
        self._http.server_close()

    @property
    def endpoint(self) -> str:
        """The URL that a client is given."""
        return f"http://127.0.0.1:{self._http.server_port}/sapi/v2/"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that lead D-Wave's tools here, and keep them from caching solvers on disk."""
        return {"DWAVE_API_ENDPOINT": self.endpoint, "DWAVE_API_TOKEN": self.token, "DWAVE_CACHE_ENABLED": "0"}

    @property
    def jobs(self) -> list[Job]:
        """Every job that was accepted, in the order of arrival."""
        return self._processor.jobs

    @property
    def charged(self) -> float:
        """Microseconds of access time charged so far."""
        return sum((job.charged for job in self.jobs), 0.0)

    @property
    def programmings(self) -> int:
        """How often the processor was programmed."""
        return self._processor.programmings

    @property
    def online(self) -> bool:
        """Whether the solvers are; set it to False and jobs fail with "Solver is offline"."""
        return self._processor.online

    @online.setter
    def online(self, value: bool) -> None:
        self._processor.online = value

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, jobs are accepted and stay PENDING."""
        self._processor.hold(True)
        try:
            yield
        finally:
            self._processor.hold(False)


class _HTTP(ThreadingHTTPServer):
    daemon_threads = False  # joined by server_close
    request_queue_size = 128

    def __init__(self, owner: SolverServer, port: int) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news; nothing is ever printed."""

    def server_close(self) -> None:
        with self._guard:  # kept-alive connections would keep their threads
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # closed by the client
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # status, headers and body leave in one piece

    @property
    def _owner(self) -> SolverServer:
        assert isinstance(self.server, _HTTP)
        return self.server.owner

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def _handle(self) -> None:
        owner = self._owner
        route = owner._routes.route(self.command, self.path)
        fault = None
        try:
            body = self._body()
            if not hmac.compare_digest(self.headers.get("X-Auth-Token", "").encode(), owner.token.encode()):
                raise Refusal(401, "Invalid token or access denied")
            if route is None:
                raise Refusal(404, f"no route {self.command} {self.path.split('?')[0]}")
            self._accepts(route)
            fault = owner.faults.take(route)
            if fault is not None and fault.kind == "drop-before":
                return self._drop(route)
            if fault is not None and fault.kind in STATUSES:
                raise Refusal(int(fault.kind), f"injected {fault.kind}")
            if fault is not None and fault.kind == "slow":
                owner._processor.pause(fault.seconds)
            reply = owner._routes.answer(route, self.path, body, fault)
            if fault is not None and fault.kind == "drop-after":
                return self._drop(route)
        except Refusal as refusal:
            said = {"error_code": refusal.code, "error_msg": str(refusal)}
            reply = Reply(refusal.code, None, json.dumps(said).encode())
        self._send(route, reply, fault)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True
            raise Refusal(413, f"Content-Length must be at most {LARGEST}; got {length}")
        body, encoding = self.rfile.read(int(length)), self.headers.get("Content-Encoding", "identity")
        if encoding not in ("identity", "deflate"):
            raise Refusal(415, f"Content-Encoding must be deflate or none; got {encoding!r}")
        try:
            return zlib.decompress(body) if encoding == "deflate" else body
        except zlib.error as error:
            raise Refusal(400, f"the body is not deflated: {error}") from None

    def _accepts(self, route: Route) -> None:
        """406 for a client that wants another media type or version than this API speaks."""
        media, _, version = self.headers.get("Accept", "*/*").replace('"', "").partition(";")
        kinds = ["*/*", "application/json", *(f"application/vnd.dwave.sapi.{kind}+json" for kind in KINDS[route])]
        version = version.strip().removeprefix("version=")
        if media.strip() not in kinds or (version and version.split(".")[0] != "3"):
            raise Refusal(406, f"expected to be asked for {MEDIA.format(KINDS[route][0])}; got {media};{version}")

    def _drop(self, route: Route) -> None:
        self._owner.requests.append(Arrival(route, 0))
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed by the client

    def _send(self, route: Route | None, reply: Reply, fault: Fault | None) -> None:
        self._owner.requests.append(Arrival(route, reply.status))
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json" if reply.kind is None else MEDIA.format(reply.kind))
        self.send_header("Content-Length", str(len(reply.body)))
        if fault is not None and fault.retry_after is not None:
            self.send_header("Retry-After", str(fault.retry_after))
        self.end_headers()
        self.wfile.write(reply.body)
