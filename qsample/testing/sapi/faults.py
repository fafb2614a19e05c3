"""What can go wrong between a client and the cloud, on demand or at random."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np

from qsample.support.faces import public

Route = Literal["solvers", "post", "poll", "answer", "cancel"]
STATUSES = ("401", "429", "500", "502", "503", "504")
# Statuses are answered and nothing is done; "drop-before" closes the connection, nothing done;
# "drop-after" does the work and loses the answer; "slow" answers `seconds` late; "failed" jobs end
# as FAILED; "duplicate" delivers each status twice; "stale" is the answer of another job; the rest
# are answers not in base64, a byte short, off in energy.
_OF_ROUTE = {
    "post": ("failed",),
    "poll": ("duplicate",),
    "answer": ("stale", "bad-base64", "short", "energies"),
}


@public("qsample.testing.sapi")
class Fault(NamedTuple):
    """One thing that goes wrong at one route.

    Args:
        route: where, such as "post".
        kind: an HTTP status, or what happens in place of an answer.
        retry_after: seconds in the header `Retry-After` of a status. Default: no such header.
        seconds: delay of "slow", in seconds.
    """

    route: str
    kind: str
    retry_after: int | None = None
    seconds: float = 0.5


def _checked(fault: Fault) -> Fault:
    """The fault; a ValueError where there is none such."""
    if fault.route not in get_args(Route):
        raise ValueError(
            f"unknown route {fault.route!r}; expected one of {', '.join(get_args(Route))}"
        )
    kinds = _kinds(fault.route)
    if fault.kind not in kinds:
        raise ValueError(
            f"no fault {fault.kind!r} at {fault.route!r}; expected one of {', '.join(kinds)}"
        )
    return fault


def _kinds(route: str) -> tuple[str, ...]:
    """What can go wrong at a route."""
    return (*STATUSES, "drop-before", "drop-after", "slow", *_OF_ROUTE.get(route, ()))


#: Every fault there is, statuses 429 and 503 also with Retry-After:
#: `faults.mix(dict.fromkeys(EVERY, 0.005))`.
EVERY: tuple[Fault, ...] = tuple(
    Fault(route, kind, retry_after)
    for route in get_args(Route)
    for kind in _kinds(route)
    for retry_after in ((None, 1) if kind in ("429", "503") else (None,))
)


class Faults:
    """The faults of a server: those queued by `next`, then those of the random mix.

    Attributes:
        seen: what was injected, in order.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """No more faults; forgets what was seen."""
        with self._lock:
            self._queued: list[Fault] = []
            self._mix: Mapping[Fault, float] = {}
            self._random = random.Random(0)
            self.seen: list[Fault] = []

    def next(
        self,
        route: str,
        kind: str | int,
        *,
        retry_after: int | None = None,
        seconds: float = 0.5,
        times: int = 1,
    ) -> None:
        """Let the next requests at a route go wrong: `faults.next("post", 503, retry_after=1)`.

        Args:
            route: where, such as "post".
            kind: an HTTP status, or what happens in place of an answer.
            retry_after: seconds in the header `Retry-After` of a status. Default: no such header.
            seconds: delay of "slow", in seconds.
            times: number of requests.

        Raises:
            ValueError: no such route, or no such fault at it.
        """
        fault = _checked(Fault(route, str(kind), retry_after, seconds))
        with self._lock:
            self._queued += [fault] * times

    def mix(self, chances: Mapping[Fault, float], seed: int = 0) -> None:
        """Let each request at a fault's route meet it by chance, at most one fault per request.

        Args:
            chances: probability by fault; those of a route sum to 1 at most.
            seed: seed of the choice.

        Raises:
            ValueError: chances that are none, or sum to more than 1.
        """
        chances = {_checked(fault): float(chance) for fault, chance in chances.items()}
        for route in get_args(Route):
            total = sum(chance for fault, chance in chances.items() if fault.route == route)
            if total > 1 + 1e-9 or any(chance < 0 for chance in chances.values()):
                raise ValueError(
                    f"expected chances >= 0 that sum to 1 at most; those at {route!r} sum to "
                    f"{total:g}"
                )
        with self._lock:
            self._mix = chances
            self._random = random.Random(seed)

    def take(self, route: Route) -> Fault | None:
        """The fault that the present request meets."""
        with self._lock:
            fault = next((fault for fault in self._queued if fault.route == route), None)
            if fault is not None:
                self._queued.remove(fault)
            elif self._mix:
                fault = self._drawn(route)
            if fault is not None:
                self.seen.append(fault)
            return fault

    def _drawn(self, route: Route) -> Fault | None:
        """A fault of the mix, or none: where a uniform number falls among the summed chances."""
        u = self._random.random()
        for fault, chance in self._mix.items():
            if fault.route == route:
                u -= chance
                if u < 0:
                    return fault
        return None


def corrupted(answer: dict, kind: str) -> dict:
    """The answer as it arrives after a fault of this kind."""
    if kind == "bad-base64":
        return answer | {"solutions": "A"}
    if kind == "short":
        whole = base64.b64decode(answer["solutions"])
        return answer | {"solutions": base64.b64encode(whole[:-1]).decode()}
    if kind == "energies":
        energies = np.frombuffer(base64.b64decode(answer["energies"]), "<f8") + 1
        return answer | {"energies": base64.b64encode(energies.tobytes()).decode()}
    return answer
