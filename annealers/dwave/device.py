"""What a `DWave` holds beside its settings: the line, the ledger, temperatures, placements. Made at first use."""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsample.annealers.dwave.call import give_up
from qsample.annealers.dwave.chip.chip import Chip
from qsample.annealers.dwave.chip.embedding import place
from qsample.annealers.dwave.cloud import secret
from qsample.annealers.dwave.cloud.errors import DeviceError
from qsample.annealers.dwave.cloud.job import Line
from qsample.annealers.dwave.cloud.ledger import Ledger
from qsample.annealers.dwave.cloud.recording import Recorder, Replay
from qsample.annealers.dwave.cloud.secret import Secret
from qsample.annealers.dwave.cloud.session import CLOSED, Session
from qsample.annealers.dwave.plan import Site
from qsample.annealers.dwave.settings import Settings
from qsample.annealers.dwave.temperature import Track
from qsample.problem.graph import Graph
from qsample.support.faces import public


@dataclass(eq=False)
class Opened:
    """What must be closed."""

    line: Line | None = None
    recorder: Recorder | None = None

    def close(self) -> None:
        """Cancel what is outstanding, end the client's threads, let go of the files."""
        line = self.line
        recorder = self.recorder
        self.line = self.recorder = None
        try:
            if line is not None:
                give_up(list(line.outstanding))
                line.session.close()
        finally:
            if recorder is not None:
                recorder.close()


class Opening:
    """A line that one thread opens, and others wait for."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.closed = False  # meanwhile
        self.error: DeviceError | None = None


@public("qsample.annealers.dwave")
@dataclass(eq=False)
class State:
    """The state of one `DWave`: copies of the sampler share it, pickles leave all but a ledger in memory out.

    One client serves all threads, and one ledger. A forked child has neither: it opens its own, and
    what the parent had under way is left to the parent.
    """

    tracks: dict[str, Track] = field(default_factory=dict)
    sites: dict[tuple[str, str], Site] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)  # lines that a ledger in memory begins with
    opened: Opened = field(default_factory=Opened)

    def __post_init__(self) -> None:
        self._locks()
        self._ledger: Ledger | None = None
        self._replay: Replay | None = None
        self.forked = False
        weakref.finalize(self, self.opened.close)
        _LIVING.add(self)

    def _locks(self) -> None:
        self.lock = threading.RLock()  # of what is held here; never while the network is waited for
        self.placing = threading.RLock()
        self.pilots: dict[str, threading.RLock] = {}
        self._opening: Opening | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        in_memory = self._ledger is not None and self._ledger.path is None
        return State, (
            {},
            {},
            list(self._ledger.lines if self._ledger and in_memory else self.kept),
        )

    def after_fork(self) -> None:
        """In the child: the client's threads are the parent's, and so are its sockets and its locks."""
        self._locks()
        self.opened.line = self.opened.recorder = None
        self.forked = True
        if self._ledger is not None:
            self._ledger.after_fork()

    def close(self) -> None:
        """See `DWave.close`; temperatures, placements and a ledger in memory stay."""
        with self.lock:
            line = self.opened.line
            recorder = self.opened.recorder
            self.opened.line = self.opened.recorder = self._replay = None
            if self._opening is not None:
                self._opening.closed = True
            if self._ledger is not None and self._ledger.path is not None:
                self._ledger = None
        Opened(line, recorder).close()

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

    def device(self, settings: Settings) -> Session | Replay:
        """The solver, or a recording of it."""
        found = self.answering(settings)
        return found.session if isinstance(found, Line) else found

    def answering(self, settings: Settings) -> Line | Replay:
        """What answers: the line to the solver, or a recording of it. The first call opens it, others wait for that."""
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
                if self.opened.line is not None:
                    return self.opened.line
                opening = self._opening
                mine = self._opening is None
                if opening is None:
                    opening = self._opening = Opening()
            if mine:
                return self._open(settings, opening)
            opening.over.wait()
            if opening.error is not None:
                raise type(opening.error)(*opening.error.args)

    def _open(self, settings: Settings, opening: Opening) -> Line:
        try:
            line, recorder = self._made(settings)
        except BaseException as error:
            opening.error = error if isinstance(error, DeviceError) else None
            raise
        else:
            with self.lock:
                if not opening.closed:
                    self.opened.line = line
                    self.opened.recorder = recorder
                    return line
            Opened(line, recorder).close()
            opening.error = DeviceError(CLOSED)
            raise DeviceError(CLOSED)
        finally:
            with self.lock:
                self._opening = None if self._opening is opening else self._opening
            opening.over.set()

    def _made(self, settings: Settings) -> tuple[Line, Recorder | None]:
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
        try:
            recorder = None
            if settings.record is not None:
                recorder = Recorder(path_of(settings.record), session.name, session.properties)
        except BaseException:
            session.close()
            raise
        budget = None if settings.budget is None else float(settings.budget) * 1e6
        record = None if recorder is None else recorder.add
        return Line(
            session, ledger, budget, settings.retries, pause, settings.label, record
        ), recorder

    def site(self, settings: Settings, graph: Graph, device: Session | Replay) -> Site:
        """Where a graph lies on the chip, found once."""
        key = device.name, graph.hash
        with self.placing:
            if key not in self.sites:
                chip = Chip.from_properties(device.properties)
                cache = None if settings.cache is None else path_of(settings.cache)
                try:
                    placement = place(
                        graph,
                        chip,
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

    def track(self, device: Session | Replay, graph: Graph, params: Mapping[str, Any]) -> Track:
        """The temperature of problems of a graph under these parameters; a new one begins where the last one stands."""
        key = self._key(device, graph, params)
        with self.lock:
            if key not in self.tracks:
                last = next(reversed(self.tracks.values()), Track())
                self.tracks[key] = Track(last.value)
            return self.tracks[key]

    def pilot(
        self, device: Session | Replay, graph: Graph, params: Mapping[str, Any]
    ) -> threading.RLock:
        """What lets one thread at a time look for that temperature."""
        with self.lock:
            return self.pilots.setdefault(self._key(device, graph, params), threading.RLock())

    @staticmethod
    def _key(device: Session | Replay, graph: Graph, params: Mapping[str, Any]) -> str:
        anneal = {
            name: params[name] for name in ("annealing_time", "anneal_schedule") if name in params
        }
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


def backoff(base: float) -> Callable[[int], float]:
    """Seconds before try k + 2: base 2^k, at most 30, times 0.5 to 1.5 at random."""
    jitter = random.Random()  # of waiting times only: no read depends on it
    return lambda attempt: min(base * 2**attempt, 30.0) * (0.5 + jitter.random())
