"""The line to the service: D-Wave's own client, opened at first use, closed with everything it began."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from qsample.annealers.dwave.cloud.errors import DeviceError, Unavailable
from qsample.annealers.dwave.cloud.secret import (
    Secret,
    Spoken,
    guard,
    hidden,
    quiet,
    sealed,
    without_password,
)
from qsample.support.optional import install_line

T = TypeVar("T")
REFUSED = (429, 503)  # the service did not take the request
DOUBTFUL = (500, 502, 504)  # it may have


CLOSED = "this DWave was closed while its call was under way: call it again"


class Session:
    """A connected solver.

    Attributes:
        properties: what the solver says of itself.
        name: of the solver.
        closed: whether it was closed.
    """

    def __init__(
        self,
        solver: str | Mapping[str, Any] | None,
        token: Secret,
        settings: Mapping[str, Any],
        *,
        timeout: float,
        pause: Callable[[int], float],
        retries: int,
    ) -> None:
        try:
            import dwave.cloud
            import dwave.cloud.config
        except ImportError as error:
            raise DeviceError(f"DWave: {error}; {install_line('dwave')} brings it") from None
        self.closed = False
        config = _configuration(token, settings)
        self.token: Secret = config.pop("token")
        self._secrets = [self.token, *(one for one in config.values() if isinstance(one, Secret))]
        guard(*self._secrets)
        config.pop("client", None)
        config["polling_timeout"] = timeout
        config["request_timeout"] = min(float(config.get("request_timeout") or 60), timeout)
        try:
            self.client = _client(dwave.cloud.Client)(token=self.token.reveal(), **_revealed(config))
        except Exception as error:
            raise DeviceError(self.hide(f"D-Wave's client does not start: {_line(error)}")) from None
        try:
            self.solver = self._find(solver, timeout, pause, retries)
        except BaseException:
            self.close()
            raise
        self.solver.return_matrix = True
        self.properties: Mapping[str, Any] = self.solver.properties
        self.name: str = self.solver.name
        guard()  # loggers made meanwhile

    def hide(self, text: str) -> str:
        """The text without the token, and without the passwords of headers and proxy."""
        return hidden(text, self._secrets)

    def _find(self, solver: Any, timeout: float, pause: Callable[[int], float], retries: int) -> Any:
        from dwave.cloud.exceptions import SolverAuthenticationError, SolverNotFoundError

        filters = {"name": solver} if isinstance(solver, str) else dict(solver or {})
        if not filters and not self.client.config.solver:
            filters = {"qpu": True, "order_by": "-num_active_qubits"}
        until = time.monotonic() + timeout
        for attempt in itertools.count():
            try:
                found = self.client.get_solver(**filters)
            except SolverAuthenticationError:
                raise DeviceError(f"{self.where} refused the token: check DWAVE_API_TOKEN or token=") from None
            except SolverNotFoundError:
                raise DeviceError(f"no solver {_spoken(solver)} at {self.where}; {self._others()}") from None
            except Exception as error:
                wait = pause(attempt)
                if not passing(error) or attempt == retries or time.monotonic() + wait > until:
                    raise Unavailable(self.hide(f"{self.where} does not answer: {_line(error)}")) from None
                time.sleep(wait)
            else:
                if not found.online:
                    raise Unavailable(f"solver {found.name} is offline; {self._others()}")
                return found

    @property
    def where(self) -> str:
        """The endpoint."""
        return without_password(str(self.client.config.endpoint))

    def _others(self) -> str:
        try:
            names = sorted(one.name for one in self.client.get_solvers(online=True))
        except Exception:
            return "name another with solver="
        return f"online are {', '.join(names)}" if names else "none is online"

    def cost(self, qubits: int, params: Mapping[str, Any]) -> float:
        """Microseconds of access time by the client's own estimate."""
        wanted = {name: value for name, value in params.items() if name not in ("answer_mode", "auto_scale")}
        if "anneal_schedule" in wanted:
            wanted.setdefault("initial_state", {0: 1})  # the estimate asks only whether there is one
        try:
            return float(self.solver.estimate_qpu_access_time(qubits, **wanted))
        except (KeyError, ValueError, TypeError) as error:
            raise DeviceError(f"solver {self.name} cannot estimate the cost: {_line(error)}") from None

    def post(self, linear: dict, quadratic: dict, params: Mapping[str, Any], label: str) -> Any:
        """Submit; the client's future, at once."""
        if self.closed:
            raise DeviceError(CLOSED)
        try:
            problem = (linear, quadratic, 0.0)
            return self.solver.sample_problem(problem, undirected_biases=True, label=label, **params)
        except KeyError as error:
            raise DeviceError(self.hide(f"solver {self.name}: {error.args[0]}")) from None
        except ValueError as error:
            what = f"solver {self.name} cannot take the problem: {_line(error)}"
            raise DeviceError(CLOSED if self.closed else self.hide(what)) from None
        except Exception:
            if self.closed:
                raise DeviceError(CLOSED) from None
            raise

    def fetch(self, name: str) -> Any:
        """The answer of a job that ran, as a future, once more."""
        try:
            future = self.client.retrieve_answer(name)
        except Exception:
            if self.closed:
                raise DeviceError(CLOSED) from None
            raise
        future.solver, future.return_matrix = self.solver, True
        return future

    def close(self) -> None:
        """End the client's threads; what is outstanding is left alone."""
        self.closed = True
        self.client.close(wait=False)
        for kind in ("submission", "cancel", "poll", "load"):
            for worker in getattr(self.client, f"_{kind}_workers", []):
                worker.join(10.0)


def _configuration(token: Secret, settings: Mapping[str, Any]) -> dict[str, Any]:
    """D-Wave's configuration of arguments, environment and files, what is secret in a `Secret`."""
    import dwave.cloud.config

    token = _checked(token)
    guard(token, *(one for one in settings.values() if isinstance(one, Secret)))
    asked = {name: value for name, value in _revealed(settings).items() if value is not None}
    try:
        with quiet():
            found = sealed(dwave.cloud.config.load_config(**asked))
    except Exception as error:  # a parser repeats the line that it cannot read, and the token may be in it
        plain = type(error) is ValueError or type(error).__name__ == "ConfigFileReadError"
        what = token.hide(_line(error)) if plain else type(error).__name__
        hint = "a file holds [section] and key = value, with %% for a %"
        raise DeviceError(f"D-Wave's configuration cannot be read: {what}; {hint}") from None
    if token.reveal() is None:
        token = _checked(found.get("token", Secret(None)))
    if token.reveal() is None:
        raise DeviceError(
            "no D-Wave token: set DWAVE_API_TOKEN, pass token= or run `dwave config create`; "
            "`qsample sapi` serves a loopback processor that needs no account"
        )
    return found | {"token": token}


def _checked(token: Secret) -> Secret:
    try:
        return token.token()
    except ValueError as error:
        raise DeviceError(str(error)) from None


def _revealed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """For the client alone."""
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in settings.items()}


@functools.cache
def _client(made: type[Any]) -> type[Any]:
    """D-Wave's client, which validates its configuration into plain strings: the token in it hidden again."""

    class Client(made):
        def create_session(self) -> Any:
            self.config.token = Spoken(self.config.token)
            return super().create_session()

    return Client


def code(error: BaseException) -> int | None:
    """The HTTP status behind an error of the client's, if one is."""
    found = str(getattr(error, "error_code", None))
    return int(found) if found.isdecimal() else None


def passing(error: BaseException) -> bool:
    """Whether another try may go better: an overloaded or failing service, a connection that broke."""
    from dwave.cloud.exceptions import InvalidAPIResponseError, Timeout

    if code(error) is not None:
        return code(error) in (*REFUSED, *DOUBTFUL)
    return isinstance(error, Timeout | InvalidAPIResponseError | OSError)  # those of requests are OSErrors


def _line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())


def _spoken(solver: Any) -> str:
    return repr(solver) if isinstance(solver, str) else f"with {dict(solver)}" if solver else "of the qpu kind"
