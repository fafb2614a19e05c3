"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop.

The work is brought to a point from which it can go on.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

GRACE = 1.0  # seconds that an update has left after SIGTERM or SIGHUP, before it is given up
STUCK = 1.8  # seconds after which a call that cannot be interrupted no longer holds up the end


class Stopped(SystemExit):
    """Ended by SIGTERM or SIGHUP; `code` is the shell's convention, 128 + the signal's `number`."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        self.code = 128 + number


class Cut(BaseException):
    """Raised inside a part whose time is over; `Stopper.cuttable` says where."""


class Stopper:
    """Turns the first signal into `number`, to be looked at between updates.

    A second signal ends the process at once.

    SIGTERM and SIGHUP give the present part `GRACE` seconds, then `Cut` is raised in it; a call
    that no signal can interrupt (a foreign sampler) is left behind after `STUCK` seconds: a thread
    calls `rescue` and ends the process. Ctrl-C has no such limit, but cuts an evaluation, which can
    be made again. Signals that were ignored stay so (`nohup`), and outside the main thread, where
    Python takes none, nothing is touched.

    Args:
        rescue: function that writes what the work can go on from; None leaves SIGTERM and SIGHUP
            as they are.

    Attributes:
        number: the first signal's number; None as long as there was none.
    """

    def __init__(self, rescue: Callable[[], None] | None = None) -> None:
        self.number: int | None = None
        self._rescue = rescue
        self._before: dict[int, Any] = {}
        self._part: str | None = None
        self._over = False  # the part's time is over
        self._poked = False  # the next signal is our own and says so
        self._guard = threading.Lock()
        self._sockets: tuple[socket.socket, socket.socket] | None = None
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Stopper:
        if threading.current_thread() is not threading.main_thread():
            return self
        names = ["SIGINT"]
        if self._rescue is not None:
            names += ["SIGTERM", "SIGHUP"]
        for name in names:
            number = getattr(signal, name, None)
            if number is None:
                continue  # not on this system
            before = signal.getsignal(number)
            if before is not None and before != signal.SIG_IGN:  # None: a handler in C
                self._before[number] = before
        if any(number != signal.SIGINT for number in self._before):
            self._watch()
        for number in self._before:
            signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if self._watcher is not None:
            self._watcher.join(1.0)

    @contextmanager
    def cuttable(self, part: str) -> Iterator[None]:
        """A part that may be given up: "update" (its time being over) or "evaluation" (at once)."""
        try:
            with self._guard:
                self._part = part
            if self._over or part == "evaluation" and self.number is not None:
                raise Cut
            yield
        finally:
            self._part = None  # first: from here on no handler raises
            with self._guard:  # the watcher that has it ends the process
                pass

    def leave(self, what: str) -> None:
        """Raise what the signal asks for, after everything was saved.

        Args:
            what: where the work stands, such as "after update 7", for the message.

        Raises:
            KeyboardInterrupt: the signal was Ctrl-C.
            Stopped: it was SIGTERM or SIGHUP, which the program does not handle itself.
        """
        assert self.number is not None
        number = self.number
        before = self._before.get(number)  # none where another rank had the signal
        self._restore()
        if number == signal.SIGINT:
            raise KeyboardInterrupt(f"stopped {what}")
        if callable(before):
            before(number, None)  # the program's own way to end
        raise Stopped(f"stopped by {signal.Signals(number).name} {what}", number)

    # ---- in the main thread ----------------

    def _handle(self, number: int, frame: Any) -> None:
        """Note the first signal, obey the second, and cut the part that may be given up."""
        if self._poked:
            self._poked = False
            self._over = True
        elif self.number is None:
            self.number = number
            if self._watcher is None and number != signal.SIGINT:
                timer = threading.Timer(GRACE, self._poke)
                timer.daemon = True
                timer.start()
        else:
            self._end_now(number, frame)
        if self._part is not None and (self._over or self._part == "evaluation"):
            self._part = None
            raise Cut

    def _end_now(self, number: int, frame: Any) -> None:
        """Do what the signal did before, for the second one."""
        before = self._before[number]
        self._restore()
        if callable(before):
            before(number, frame)
        else:
            signal.raise_signal(number)
        raise Stopped("stopped at once", number)

    def _restore(self) -> None:
        """Give everything back as it was."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)
        if self._sockets is not None:
            signal.set_wakeup_fd(-1)
            for end in self._sockets:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for end in self._sockets:
                end.close()
            self._sockets = None

    # ---- in a thread, for calls in which no handler runs ----------------

    def _watch(self) -> None:
        """Start a thread that hears of signals as the system delivers them.

        It does so whatever the main thread is in: Python writes each signal's number into a socket.
        """
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        if previous != -1:  # an event loop's: it stays
            signal.set_wakeup_fd(previous)
            reader.close()
            writer.close()
            return
        self._sockets = reader, writer
        self._watcher = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        self._watcher.start()

    def _listen(self, reader: socket.socket) -> None:
        """Wait for SIGTERM or SIGHUP, then for the end, and make it come."""
        first: int | None = None  # the first SIGTERM or SIGHUP
        began = 0.0  # when it came
        heard = 0  # signals in all, our own among them
        pokes = 0  # signals that we sent ourselves
        while True:
            # sleep until a signal comes, or until the main thread should have ended
            timeout = None
            if first is not None:
                limit = STUCK if pokes else GRACE
                timeout = max(0.01, began + limit - time.monotonic())
            try:
                reader.settimeout(timeout)
                data = reader.recv(64)
            except TimeoutError:
                assert first is not None
                if not pokes:
                    pokes = 1
                    self._poke()
                else:
                    self._leave_behind(first)
                    began = time.monotonic()  # not stuck: it is saving; look again later
                continue
            except OSError:
                return  # closed
            if not data:
                return

            # count the signals that are ours to handle
            for number in data:
                if number not in self._before:
                    continue
                heard += 1
                if first is None and number != signal.SIGINT:
                    first = number
                    began = time.monotonic()

            # a second one ends at once: the main thread does it, where it can
            if heard - pokes >= 2 and first is not None:
                time.sleep(0.5)
                if self._sockets is not None and self._part is not None:
                    os._exit(128 + first)

    def _poke(self) -> None:
        """Have the handler run in the main thread, to say that time is over."""
        number = self.number
        if number is None:  # it has not come to its handler yet: the signal itself waits there
            return
        self._poked = True
        if hasattr(signal, "pthread_kill"):
            # also ends a system call
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        else:
            import _thread

            _thread.interrupt_main(number)  # pyright: ignore[reportArgumentType]

    def _leave_behind(self, number: int) -> None:
        """Save and end the process where the main thread is still in a part that is over."""
        with self._guard:
            if self._part is None:
                return
            name = signal.Signals(number).name
            text = f"stopped by {name}, in the middle of a call; resume from the checkpoint"
            try:
                if self._rescue is not None:
                    self._rescue()
            except BaseException as error:
                text = f"stopped by {name}; no checkpoint could be written: {error}"
            with suppress(Exception):
                print(f"\nqsample: {text}", file=sys.stderr, flush=True)
            with suppress(Exception):
                sys.stdout.flush()
            os._exit(128 + number)
