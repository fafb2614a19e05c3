"""What the loopback server does for those who show no token, and for bodies that lie: little."""

import contextlib
import json
import socket
import threading
import time
import tracemalloc
import zlib

import pytest

pytest.importorskip("dwave.cloud")
from qsample.testing.sapi import SolverServer  # noqa: E402
from qsample.testing.sapi import server as module  # noqa: E402

BOMB = zlib.compress(bytes(100 << 20), 9)  # 100 KB
POST = "POST /sapi/v2/problems/ HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server():
    with SolverServer("chimera-1") as server:
        yield server


def ask(server, head, body=b"", seconds=10.0):
    """The status and body that come back for raw bytes; 0 where the connection was just closed."""
    with socket.create_connection(("127.0.0.1", server._http.server_port), seconds) as line:
        with contextlib.suppress(ConnectionError):
            line.sendall(head.encode("latin-1") + body)
        reply = b""
        with contextlib.suppress(ConnectionError):
            while chunk := line.recv(1 << 16):
                reply += chunk
        return (int(reply.split()[1]), reply.split(b"\r\n\r\n", 1)[1]) if reply else (0, b"")


def head(body, server=None, more=""):
    token = "" if server is None else f"X-Auth-Token: {server.token}\r\n"
    return f"{POST}Connection: close\r\nContent-Length: {len(body)}\r\n{token}{more}\r\n"


DEFLATE = "Content-Encoding: deflate\r\n"


@pytest.mark.parametrize("token", ["", "X-Auth-Token: wrong\r\n", "X-Auth-Token: \xff\xfe\r\n"])
def test_a_strangers_body_is_not_inflated(server, token):
    """100 KB that would be 100 MB: a 401, and a peak that shows that it was not even kept."""
    tracemalloc.start()
    try:
        status, body = ask(server, head(BOMB, more=DEFLATE + token), BOMB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == 401 and json.loads(body)["error_msg"] == "Invalid token or access denied"
    assert peak < 4 << 20


def test_a_body_inflates_to_a_bound(server, monkeypatch):
    """With the token, too; what fits is still read."""
    monkeypatch.setattr(module, "LARGEST", 1 << 20)
    tracemalloc.start()
    try:
        status, body = ask(server, head(BOMB, server, DEFLATE), BOMB)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status == 413 and b"inflate to at most" in body and peak < 8 << 20
    fits = zlib.compress(b"[" + b" " * ((1 << 20) - 2) + b"]")
    assert ask(server, head(fits, server, DEFLATE), fits)[0] == 400  # an empty list of problems


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        ("Content-Length: 99999999999999\r\n", b"", 413),
        (f"Content-Length: {'9' * 5000}\r\n", b"", 413),
        ("Content-Length: -1\r\n", b"", 413),
        ("Content-Length: +1\r\n", b"1", 413),
        ("Content-Length: 2\r\nContent-Length: 4\r\n", b"[]", 413),
        ("Transfer-Encoding: chunked\r\n", b"2\r\n[]\r\n0\r\n\r\n", 411),
        ("Content-Length: 2\r\nContent-Encoding: gzip\r\n", b"[]", 415),
        ("Content-Length: 2\r\nContent-Encoding: deflate\r\n", b"[]", 400),
        (f"Content-Length: 8\r\n{DEFLATE}", zlib.compress(bytes(999))[:8], 400),
        ("Content-Length: 200000\r\n", b"[" * 200_000, 400),
    ],
)
def test_bodies_that_lie(server, lines, body, status):
    """A status with the token, 401 without: and the next request is served."""
    known = f"{POST}Connection: close\r\nX-Auth-Token: {server.token}\r\n{lines}\r\n"
    assert ask(server, known, body)[0] == status
    assert ask(server, f"{POST}Connection: close\r\n{lines}\r\n", body)[0] == 401
    assert (
        ask(server, f"GET /sapi/v2/problems/x/ HTTP/1.0\r\nX-Auth-Token: {server.token}\r\n\r\n")[0]
        == 404
    )


@pytest.mark.parametrize(
    "sent",
    [
        "GET /sapi/v2/ HTTP/1.1\r\n" + "X: y\r\n" * 99 + "Z: " + "z" * 60_000,
        "GET /" + "a" * 60_000 + " HTTP/1.1\r\n\r\n",
        "POST /sapi/v2/problems/ HTTP/1.1\r\nContent-Length: 9\r\n\r\n[",  # and no more
        "GET //[ HTTP/1.1\r\n\r\n",
        "GET /sapi",
        "",
        "\x16\x03\x01\x02\x00\x01\x00\x01",  # TLS
    ],
)
def test_strangers_are_not_waited_for(server, monkeypatch, sent):
    """Huge heads, slow heads and cut bodies end within their time, each its connection alone."""
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    begun = time.monotonic()
    assert ask(server, sent)[0] in (0, 400, 401, 414, 431)
    assert time.monotonic() - begun < 3


def test_a_body_that_drips(server, monkeypatch):
    monkeypatch.setattr(module, "BODY_PATIENCE", 0.3)
    known = f"{POST}Connection: close\r\nX-Auth-Token: {server.token}\r\nContent-Length: 9\r\n\r\n["
    assert ask(server, known)[0] == 408


def test_connections_are_counted(server, monkeypatch):
    """Beyond the bound a connection is closed unread; those that end make room."""
    monkeypatch.setattr(module, "CONNECTIONS", 4)
    monkeypatch.setattr(module, "PATIENCE", 5.0)
    hungry = [
        socket.create_connection(("127.0.0.1", server._http.server_port), 5) for _ in range(12)
    ]
    try:
        deadline = time.monotonic() + 5
        while len(server._http._open) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        handlers = [thread for thread in threading.enumerate() if "process_request" in thread.name]
        assert len(handlers) <= 4
    finally:
        for thread in hungry:
            thread.close()
    deadline = time.monotonic() + 5
    while server._http._open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (
        ask(server, f"GET /sapi/v2/problems/x/ HTTP/1.0\r\nX-Auth-Token: {server.token}\r\n\r\n")[0]
        == 404
    )


def test_continue_is_for_those_who_show_the_token(server):
    """Expect: 100-continue does not make a stranger's body welcome."""
    more = "Expect: 100-continue\r\n"
    assert ask(server, head(b"[]", more=more), b"")[0] == 401
    assert ask(server, head(b"[]", server, more), b"[]")[0] == 100


def test_what_strangers_asked_is_not_listed_for_ever(server, monkeypatch):
    monkeypatch.setattr(module, "KEPT", len(server.requests) + 3)
    for _ in range(5):
        assert ask(server, "GET /sapi/v2/solvers/remote/ HTTP/1.0\r\n\r\n")[0] == 401
    assert len(server.requests) == module.KEPT
