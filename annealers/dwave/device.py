"""What a `DWave` holds beside its settings: the line, the ledger, temperatures, placements. Made at first use."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsample.annealers.dwave.calibration import Track
from qsample.annealers.dwave.call import give_up
from qsample.annealers.dwave.chip import Chip
from qsample.annealers.dwave.embedding import place
from qsample.annealers.dwave.job import Line
from qsample.annealers.dwave.ledger import Ledger
from qsample.annealers.dwave.plan import Site
from qsample.annealers.dwave.recording import Recorder, Replay
from qsample.annealers.dwave.secret import Secret
from qsample.annealers.dwave.session import Session
from qsample.annealers.dwave.settings import Settings
from qsample.graph import Graph


@dataclass(eq=False)
class Opened:
    """What must be closed."""

    line: Line | None = None
    ledger: Ledger | None = None
    recorder: Recorder | None = None
    replay: Replay | None = None

    def close(self) -> None:
        """Cancel what is outstanding, end the client's threads, let go of the files."""
        line, ledger, recorder = self.line, self.ledger, self.recorder
        self.line = self.ledger = self.recorder = self.replay = None
        try:
            if line is not None:
                give_up(list(line.outstanding))
                line.session.close()
        finally:
            for one in (ledger, recorder):
                if one is not None:
                    one.close()


@dataclass(eq=False)
class State:
    """The state of one `DWave`: copies of the sampler share it, pickles leave it out."""

    tracks: dict[str, Track] = field(default_factory=dict)
    sites: dict[tuple[str, str], Site] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)  # lines of a ledger in memory, while it is closed
    opened: Opened = field(default_factory=Opened)

    def __post_init__(self) -> None:
        weakref.finalize(self, self.opened.close)

    def __deepcopy__(self, memo: dict[int, Any]) -> State:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return State, ()

    def close(self) -> None:
        """See `DWave.close`; temperatures, placements and a ledger in memory stay."""
        ledger = self.opened.ledger
        self.opened.close()
        if ledger is not None and ledger.path is None:
            self.kept = list(ledger.lines)

    def ledger(self, settings: Settings) -> Ledger:
        """The ledger, opened."""
        if self.opened.ledger is None:
            ledger = Ledger(None if settings.ledger is None or settings.replay else Path(settings.ledger))
            if ledger.path is None:
                ledger.merge(self.kept)
            self.opened.ledger = ledger
        return self.opened.ledger

    def device(self, settings: Settings) -> Session | Replay:
        """What answers: the solver, or a recording of it."""
        opened = self.opened
        if settings.replay is not None:
            if opened.replay is None:
                opened.replay = Replay(Path(settings.replay))
            return opened.replay
        if opened.line is None:
            ledger, pause = self.ledger(settings), backoff(settings.backoff)
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
                if settings.record is not None:
                    opened.recorder = Recorder(Path(settings.record), session.name, session.properties)
            except BaseException:
                session.close()
                raise
            budget = None if settings.budget is None else settings.budget * 1e6
            record = None if opened.recorder is None else opened.recorder.add
            opened.line = Line(session, ledger, budget, settings.retries, pause, settings.label, record)
        return opened.line.session

    def site(self, settings: Settings, graph: Graph, device: Session | Replay) -> Site:
        """Where a graph lies on the chip, found once."""
        key = device.name, graph.hash
        if key not in self.sites:
            chip = Chip.from_properties(device.properties)
            cache = None if settings.cache is None else Path(settings.cache)
            placement = place(graph, chip, copies=settings.copies, seed=0, cache=cache, timeout=settings.timeout)
            self.sites[key] = Site.of(placement, device.properties)
        return self.sites[key]

    def track(self, device: Session | Replay, graph: Graph, params: Mapping[str, Any]) -> Track:
        """The temperature of problems of a graph under these parameters; a new one begins where the last one stands."""
        anneal = {name: params[name] for name in ("annealing_time", "anneal_schedule") if name in params}
        key = f"{device.name} {graph.hash[:16]} {anneal}"
        if key not in self.tracks:
            last = next(reversed(self.tracks.values()), Track())
            self.tracks[key] = Track(last.value)
        return self.tracks[key]


def backoff(base: float) -> Callable[[int], float]:
    """Seconds before try k + 2: base 2^k, at most 30, times 0.5 to 1.5 at random."""
    jitter = random.Random()  # of waiting times only: no read depends on it
    return lambda attempt: min(base * 2**attempt, 30.0) * (0.5 + jitter.random())
