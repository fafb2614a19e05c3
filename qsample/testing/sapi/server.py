"""The solver API over HTTP, on this machine only: what D-Wave's client talks to, not the cloud."""

from __future__ import annotations

import hmac
import io
import json
import re
import secrets
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from qsample.support.faces import public
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
LARGEST = 64 << 20  # bytes of a body, as sent and inflated
CHUNK = 1 << 16
HEAD = 1 << 15  # bytes of a request's line and headers
PATIENCE = 15.0  # seconds that a client has for those, until it has shown the token
BODY_PATIENCE = 60.0  # seconds for a body
CONNECTIONS = 512  # number of connections at once; further ones are closed unread
KEPT = 10_000  # number of requests without the token that are listed


class Arrival(NamedTuple):
    """A request that arrived.

    Args:
        route: which route it took; None where there is no such path.
        status: the status answered, 0 where the answer was lost.
    """

    route: Route | None
    status: int


@public("qsample.testing.sapi")
class SolverServer:
    """A loopback solver API: D-Wave's own client, unchanged, samples from our engine.

    In a `with` statement:

        with SolverServer("zephyr-4", chip=Chip(beta=6.35)) as server:
            sampler = DWaveSampler(endpoint=server.endpoint, token=server.token)

    It listens on 127.0.0.1 alone, writes no log, and leaves no thread behind. Jobs run one after
    the other, as on a processor; `jobs` is the ledger, `charged` the microseconds of access time of
    those that ran. Who does not show the token is given 15 seconds and 32 KiB for a request's head
    and nothing else: its body is not read, its connection closed.

    Args:
        *solvers: topologies to serve, such as "zephyr-12", or what `definition(...)` returns.
            Default: one "zephyr-4".
        chip: the physics, with the beta that the client is not told. Default: `Chip()`.
        real_time: whether a job takes as long as its access time; otherwise as long as our engine
            takes.
        port: number of the port; 0 picks a free one.

    Attributes:
        faults: what goes wrong, on demand or at random.
        requests: every request that arrived, in the order answered.
        token: what a client must show.

    Raises:
        ValueError: an unknown topology, or a port that is none.
    """

    def __init__(
        self,
        *solvers: str | Mapping[str, Any],
        chip: Chip | None = None,
        real_time: bool = False,
        port: int = 0,
    ) -> None:
        solvers = solvers or ("zephyr-4",)
        served = [definition(solver) if isinstance(solver, str) else solver for solver in solvers]
        self.token = f"loopback-{secrets.token_hex(16)}"
        self.faults = Faults()
        self.requests = list[Arrival]()
        self._processor = Processor(chip or Chip(), real_time)
        self._routes = Routes([Solver(solver) for solver in served], self._processor)
        if not 0 <= port <= 65535:
            raise ValueError(f"expected a port from 0 (any free one) to 65535; got {port}")
        self._http = _HTTP(self, port)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.05,), name="sapi-server"
        )

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
        """The environment variables that lead D-Wave's tools here.

        They also keep them from caching solvers on disk.
        """
        return {
            "DWAVE_API_ENDPOINT": self.endpoint,
            "DWAVE_API_TOKEN": self.token,
            "DWAVE_CACHE_ENABLED": "0",
        }

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
        """Whether the solvers are online; set to False, jobs fail with "Solver is offline"."""
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
    """The listening socket, and the connections that are open."""

    daemon_threads = False  # joined by server_close
    request_queue_size = 128

    def __init__(self, owner: SolverServer, port: int) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            full = len(self._open) >= CONNECTIONS
            if not full:
                self._open.add(request)
        if full:
            self.shutdown_request(request)
        else:
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


class _Incoming(io.RawIOBase):
    """What a socket receives, up to a time and a number of bytes; beyond either, `TimeoutError`."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.allow(HEAD, PATIENCE)

    def allow(self, count: int | None, seconds: float | None) -> None:
        """Receive up to `count` further bytes, for so many seconds; None is no limit."""
        self.left = count
        self.until = None if seconds is None else time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        if self.left is not None:
            if not self.left:
                raise TimeoutError("too much was sent")
            view = view[: self.left]
        if self.until is not None:
            self.connection.settimeout(max(1e-3, self.until - time.monotonic()))
        try:
            count = self.connection.recv_into(view)
        finally:
            self.connection.settimeout(None)
        self.left = None if self.left is None else self.left - count
        return count


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # status, headers and body leave in one piece

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.connection)
        self.rfile = io.BufferedReader(self._incoming, 8192)

    @property
    def _owner(self) -> SolverServer:
        assert isinstance(self.server, _HTTP)
        return self.server.owner

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def handle_expect_100(self) -> bool:
        """Who may not send a body is not asked for it."""
        return not self._known or super().handle_expect_100()

    @property
    def _known(self) -> bool:
        """Whether the request shows the token."""
        given = self.headers.get("X-Auth-Token", "").encode(errors="replace")
        return hmac.compare_digest(given, self._owner.token.encode())

    def _handle(self) -> None:
        owner = self._owner
        if not self._known:
            return self._refuse()
        route = owner._routes.route(self.command, self.path)
        fault = None
        try:
            body = self._body()
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
            error = {"error_code": refusal.code, "error_msg": str(refusal)}
            reply = Reply(refusal.code, None, json.dumps(error).encode())
        self._send(route, reply, fault)

    def _refuse(self) -> None:
        """Answer 401 and leave the body unread.

        What is sent in spite of it is dropped for a moment, so that the answer arrives.
        """
        requests = self._owner.requests
        if len(requests) < KEPT:
            requests.append(Arrival(self._owner._routes.route(self.command, self.path), 401))
        self.close_connection = True
        body = json.dumps(
            {"error_code": 401, "error_msg": "Invalid token or access denied"}
        ).encode()
        self._write(Reply(401, None, body), None)
        self.wfile.flush()
        self._incoming.allow(1 << 20, 1.0)
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self._length(refuse=False) and self.rfile.read1(CHUNK):
                pass

    def _length(self, *, refuse: bool = True) -> int:
        """Number of bytes of the body; where that cannot be known, a `Refusal`, or 1."""
        lengths = self.headers.get_all("Content-Length", ["0"])
        number = len(lengths) == 1 and re.fullmatch(r"[0-9]{1,12}", lengths[0])
        if number and int(lengths[0]) <= LARGEST and "Transfer-Encoding" not in self.headers:
            return int(lengths[0])
        if not refuse:
            return 1
        self.close_connection = True
        if "Transfer-Encoding" in self.headers:
            raise Refusal(411, "a body must come with a Content-Length")
        raise Refusal(
            413,
            f"Content-Length must be one number, at most {LARGEST}; got {', '.join(lengths)[:40]}",
        )

    def _body(self) -> bytes:
        """The body, inflated; never more of either than `LARGEST`."""
        remaining = self._length()
        encoding = self.headers.get("Content-Encoding", "identity")
        if encoding not in ("identity", "deflate"):
            self.close_connection = True
            raise Refusal(415, f"Content-Encoding must be deflate or none; got {encoding[:40]!r}")
        inflate = zlib.decompressobj() if encoding == "deflate" else None
        body = bytearray()
        self._incoming.allow(remaining, BODY_PATIENCE)  # some may be in the buffer already
        try:
            while remaining:
                chunk = self.rfile.read1(min(remaining, CHUNK))
                if not chunk:
                    raise Refusal(400, f"the body ends {remaining} bytes before its Content-Length")
                remaining -= len(chunk)
                if inflate is not None:
                    chunk = inflate.decompress(chunk, LARGEST + 1 - len(body))
                body += chunk
                if len(body) > LARGEST:
                    raise Refusal(413, f"a body must inflate to at most {LARGEST} bytes")
            if inflate is not None and not inflate.eof:
                raise Refusal(400, "the body is not deflated: it ends too early")
        except zlib.error as error:
            self.close_connection = True
            raise Refusal(400, f"the body is not deflated: {error}") from None
        except TimeoutError:
            self.close_connection = True
            raise Refusal(408, f"the body did not come within {BODY_PATIENCE:g} s") from None
        except Refusal:
            self.close_connection = True
            raise
        self._incoming.allow(None, None)  # who has shown the token may keep the connection
        return bytes(body)

    def _accepts(self, route: Route) -> None:
        """406 for a client that wants another media type or version than this API speaks."""
        media, _, version = self.headers.get("Accept", "*/*").replace('"', "").partition(";")
        kinds = [f"application/vnd.dwave.sapi.{kind}+json" for kind in KINDS[route]]
        kinds += ["*/*", "application/json"]
        version = version.strip().removeprefix("version=")
        if media.strip() not in kinds or (version and version.split(".")[0] != "3"):
            raise Refusal(
                406,
                f"expected to be asked for {MEDIA.format(KINDS[route][0])}; got {media};{version}",
            )

    def _drop(self, route: Route) -> None:
        """Close the connection without an answer."""
        self._owner.requests.append(Arrival(route, 0))
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed by the client

    def _send(self, route: Route | None, reply: Reply, fault: Fault | None) -> None:
        self._owner.requests.append(Arrival(route, reply.status))
        self._write(reply, fault)

    def _write(self, reply: Reply, fault: Fault | None) -> None:
        self.send_response(reply.status)
        self.send_header(
            "Content-Type", "application/json" if reply.kind is None else MEDIA.format(reply.kind)
        )
        self.send_header("Content-Length", str(len(reply.body)))
        if fault is not None and fault.retry_after is not None:
            self.send_header("Retry-After", str(fault.retry_after))
        self.end_headers()
        self.wfile.write(reply.body)
