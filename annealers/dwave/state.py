"""What a `DWave` holds beside its settings: connection, ledger, temperatures, sites.

All are made at first use. One client serves all threads, and one ledger. A forked child has
neither: it opens its own, and what the parent had under way is left to the parent.
"""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsample.annealers.dwave.chip.chip import Chip
from qsample.annealers.dwave.chip.embedding import place
from qsample.annealers.dwave.cloud import secret
from qsample.annealers.dwave.cloud.errors import DeviceError
from qsample.annealers.dwave.cloud.job import Connection
from qsample.annealers.dwave.cloud.ledger import Ledger
from qsample.annealers.dwave.cloud.recording import Recorder, Replay
from qsample.annealers.dwave.cloud.secret import Secret
from qsample.annealers.dwave.cloud.session import CLOSED, Session
from qsample.annealers.dwave.programming import Site
from qsample.annealers.dwave.settings import Settings
from qsample.annealers.dwave.temperature import Track
from qsample.problem.graph import Graph
from qsample.support.faces import public

LONGEST_PAUSE = 30.0  # seconds between tries, before the jitter


@dataclass(eq=False)
class Opened:
    """What must be closed.

    Args:
        connection: to the solver; None before the first call, and after `close`.
        recorder: the file that answers are added to, where one is named.
    """

    connection: Connection | None = None
    recorder: Recorder | None = None

    def close(self) -> None:
        """Cancel what is outstanding, end the client's threads, let go of the files."""
        connection = self.connection
        recorder = self.recorder
        self.connection = self.recorder = None
        try:
            if connection is not None:
                connection.cancel_all()
                connection.session.close()
        finally:
            if recorder is not None:
                recorder.close()


class Opening:
    """A connection that one thread opens, and others wait for."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.closed = False  # while it was being opened
        self.error: DeviceError | None = None


@public("qsample.annealers.dwave")
@dataclass(eq=False)
class State:
    """The state of one `DWave`: copies of the sampler share it, a pickle takes little of it.

    Args:
        tracks: temperature by solver, graph and anneal.
        sites: where each graph lies, by solver and graph.
        kept: lines that a ledger in memory begins with; all that a pickle keeps.
        opened: what `close` closes.
    """

    tracks: dict[str, Track] = field(default_factory=dict)
    sites: dict[tuple[str, str], Site] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    opened: Opened = field(default_factory=Opened)

    def __post_init__(self) -> None:
        self._make_locks()
        self._ledger: Ledger | None = None
        self._replay: Replay | None = None
        self.forked = False
        weakref.finalize(self, self.opened.close)
        _LIVING.add(self)

    def _make_locks(self) -> None:
        # of what is held in this object; never held while the network is waited for
        self.lock = threading.RLock()
        self.placing = threading.RLock()
        self.pilots: dict[str, threading.RLock] = {}
        self._opening: Opening | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        in_memory = self._ledger is not None and self._ledger.path is None
        lines = self._ledger.lines if self._ledger and in_memory else self.kept
        return State, ({}, {}, list(lines))

    def after_fork(self) -> None:
        """In the child: the client's threads, its sockets and all locks are the parent's."""
        self._make_locks()
        self.opened.connection = self.opened.recorder = None
        self.forked = True
        if self._ledger is not None:
            self._ledger.after_fork()

    def close(self) -> None:
        """See `DWave.close`; temperatures, sites and a ledger in memory stay."""
        with self.lock:
            connection = self.opened.connection
            recorder = self.opened.recorder
            self.opened.connection = self.opened.recorder = self._replay = None
            if self._opening is not None:
                self._opening.closed = True
            if self._ledger is not None and self._ledger.path is not None:
                self._ledger = None
        Opened(connection, recorder).close()

    # ---- the ledger and the connection ----------------

    def ledger(self, settings: Settings) -> Ledger:
        """The ledger, opened."""
        with self.lock:
            if self._ledger is None:
                in_memory = settings.ledger is None or settings.replay is not None
                ledger = Ledger(None if in_memory else path_of(settings.ledger))
                if ledger.path is None:
                    ledger.merge(self.kept)
                self._ledger = ledger
            return self._ledger

    def device(self, settings: Settings) -> Connection | Replay:
        """What answers: a connection to the solver, or a recording of it.

        The first call opens the connection, others wait for that.

        Raises:
            DeviceError: it cannot be opened, or was closed meanwhile.
        """
        if settings.replay is not None:
            with self.lock:
                if self._replay is None:
                    self._replay = Replay(path_of(settings.replay))
                return self._replay
        if self.forked and settings.budget is not None and settings.ledger is None:
            raise DeviceError(
                "a forked process cannot share a budget that is kept in memory: name a file, "
                "ledger=, for both"
            )
        while True:
            with self.lock:
                if self.opened.connection is not None:
                    return self.opened.connection
                opening = self._opening
                first = opening is None
                if opening is None:
                    opening = self._opening = Opening()
            if first:
                return self._open(settings, opening)
            opening.over.wait()
            if opening.error is not None:
                raise type(opening.error)(*opening.error.args)

    def _open(self, settings: Settings, opening: Opening) -> Connection:
        """Open the connection for all threads that wait for it."""
        try:
            connection, recorder = self._connect(settings)
        except BaseException as error:
            opening.error = error if isinstance(error, DeviceError) else None
            raise
        else:
            with self.lock:
                if not opening.closed:
                    self.opened.connection = connection
                    self.opened.recorder = recorder
                    return connection
            Opened(connection, recorder).close()
            opening.error = DeviceError(CLOSED)
            raise DeviceError(CLOSED)
        finally:
            with self.lock:
                self._opening = None if self._opening is opening else self._opening
            opening.over.set()

    def _connect(self, settings: Settings) -> tuple[Connection, Recorder | None]:
        ledger = self.ledger(settings)
        pause = backoff(settings.backoff)
        assert isinstance(settings.token, Secret)
        session = Session(
            settings.solver,
            settings.token,
            settings.client,
            timeout=settings.timeout,
            pause=pause,
            retries=settings.retries,
        )
        recorder = None
        try:
            if settings.record is not None:
                recorder = Recorder(path_of(settings.record), session.name, session.properties)
        except BaseException:
            session.close()
            raise
        connection = Connection(
            session,
            ledger,
            budget=microseconds(settings.budget),
            retries=settings.retries,
            pause=pause,
            label=settings.label,
            record=None if recorder is None else recorder.add,
        )
        return connection, recorder

    # ---- what is known of a graph ----------------

    def site(self, settings: Settings, graph: Graph, device: Connection | Replay) -> Site:
        """Where a graph lies on the chip, searched for once.

        Args:
            settings: the sampler's, of which copies, cache and timeout matter.
            graph: the problem's graph.
            device: the solver.

        Raises:
            ValueError: the graph does not fit the chip.
            DeviceError: the embedding cannot be written to the cache.
        """
        key = (device.name, graph.hash)
        with self.placing:
            if key not in self.sites:
                cache = None if settings.cache is None else path_of(settings.cache)
                try:
                    placement = place(
                        graph,
                        Chip.from_properties(device.properties),
                        copies=settings.copies,
                        seed=0,
                        cache=cache,
                        timeout=settings.timeout,
                    )
                except OSError as error:
                    raise DeviceError(
                        f"cannot keep embeddings in {cache}: {error.strerror}"
                    ) from None
                self.sites[key] = Site.of(placement, device.properties)
            return self.sites[key]

    def track(self, device: Connection | Replay, graph: Graph, params: Mapping[str, Any]) -> Track:
        """The temperature of a graph's problems; a new one begins where the last one stands.

        Args:
            device: the solver.
            graph: the problem's graph.
            params: what every job asks for: a temperature belongs to one anneal.
        """
        key = _key(device, graph, params)
        with self.lock:
            if key not in self.tracks:
                last = next(reversed(self.tracks.values()), Track())
                self.tracks[key] = Track(last.value)
            return self.tracks[key]

    def pilot(
        self, device: Connection | Replay, graph: Graph, params: Mapping[str, Any]
    ) -> threading.RLock:
        """The lock by which one thread at a time measures a `track` that is not known.

        Args:
            device: the solver.
            graph: the problem's graph.
            params: what every job asks for.
        """
        with self.lock:
            return self.pilots.setdefault(_key(device, graph, params), threading.RLock())


def _key(device: Connection | Replay, graph: Graph, params: Mapping[str, Any]) -> str:
    """The name of a temperature: solver, graph and anneal."""
    names = ("annealing_time", "anneal_schedule")
    anneal = {name: params[name] for name in names if name in params}
    return f"{device.name} {graph.hash[:16]} {anneal}"


_LIVING: weakref.WeakSet[State] = weakref.WeakSet()


def _after_fork() -> None:
    secret.after_fork()
    for state in list(_LIVING):
        state.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def path_of(name: Path | str | None) -> Path:
    """A path as the user wrote it, `~` being home."""
    return Path(name or "").expanduser()


def microseconds(seconds: float | int | None) -> float | None:
    """A limit in microseconds; None stays no limit."""
    return None if seconds is None else float(seconds) * 1e6


def backoff(base: float) -> Callable[[int], float]:
    """Seconds before try k + 2: base 2^k, at most 30, times 0.5 to 1.5 at random."""
    jitter = random.Random()  # of waiting times only: no read depends on it
    return lambda attempt: min(base * 2**attempt, LONGEST_PAUSE) * (0.5 + jitter.random())
