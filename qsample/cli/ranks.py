"""Processes of one run on this machine: started together, ended together, heard through one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

HERE = "127.0.0.1"
OTHERS = 15.0  # seconds that the other ranks have to end by themselves after one failed


def is_rank() -> bool:
    """Whether `torchrun`, or `run_ranks`, has started this process as one of several."""
    return "WORLD_SIZE" in os.environ


def run_ranks(arguments: Sequence[str], ranks: int) -> int:
    """Run a `qsample` command in so many processes of this machine; the exit code of the run.

    The first one's output is that of the run; of the others only an error is shown, where the first
    one has none. Ctrl-C and SIGTERM reach all of them.

    Args:
        arguments: arguments of the command.
        ranks: number of processes.

    Raises:
        ValueError: a number of ranks that is none.
    """
    if ranks < 1:
        raise ValueError(f"expected ranks >= 1; got {ranks}")
    command = [sys.executable, "-m", "qsample.cli", *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        processes = [
            subprocess.Popen(
                command,
                env=_environment(rank, ranks, port),
                stdout=None if rank == 0 else subprocess.DEVNULL,
                stderr=None if rank == 0 else errors,
            )
            for port in [_free_port()]
            for rank in range(ranks)
        ]
        with _signals_passed_on(processes):
            codes = _codes(processes)
        return _verdict(codes, errors)


def _environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What `torchrun` tells a process, which talks to this machine alone."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    place = {"MASTER_ADDR": HERE, "MASTER_PORT": str(port)}
    if sys.platform == "linux":
        place["GLOO_SOCKET_IFNAME"] = "lo"
    return os.environ | place | {name: str(number) for name, number in numbers.items()}


def _free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind((HERE, 0))
        return free.getsockname()[1]


def _codes(processes: Sequence[subprocess.Popen[Any]]) -> list[int]:
    """Exit codes of all, once they have ended; where one failed the others are then ended."""
    limit: float | None = None
    try:
        while any(process.poll() is None for process in processes):
            failed = any(process.poll() for process in processes)
            if failed and limit is None:
                limit = time.monotonic() + OTHERS
            if limit is not None and time.monotonic() > limit:
                break
            time.sleep(0.05)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    return [process.wait() for process in processes]


def _verdict(codes: Sequence[int], errors: IO[str]) -> int:
    """The code of the run; says what the first rank, which has its own voice, could not."""
    failed = [rank for rank, code in enumerate(codes) if code]
    if not failed:
        return 0
    if codes[0] <= 0:
        # killed, or content: another one knows more
        errors.seek(0)
        lines = [line.strip() for line in errors if line.strip()]
        rank = failed[0]
        said = lines[-1].removeprefix("qsample: error: ") if lines else _how(codes[rank])
        print(f"qsample: error: rank {rank} of {len(codes)} failed: {said}", file=sys.stderr)
    code = codes[0] or codes[failed[0]]
    return 128 - code if code < 0 else code


def _how(code: int) -> str:
    """An exit code in words."""
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@contextmanager
def _signals_passed_on(processes: Sequence[subprocess.Popen[Any]]) -> Iterator[None]:
    """While inside, signals go on to all processes, and this one waits for them.

    A terminal's Ctrl-C reaches them by itself.
    """

    def pass_on(number: int, _: Any) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: pass_on}
    if hasattr(signal, "SIGHUP"):
        handlers[signal.SIGHUP] = pass_on
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
