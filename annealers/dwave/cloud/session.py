"""A session with the service: D-Wave's own client, opened at first use.

Closing it ends everything that it began.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

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
from qsample.annealers.dwave.programming import Programming
from qsample.support.optional import install_line

REFUSED = (429, 503)  # the service did not take the request
DOUBTFUL = (500, 502, 504)  # it may have
CLOSED = "this DWave was closed while its call was under way: call it again"
CLOSING = 10.0  # seconds that each of the client's threads is waited for


class Session:
    """A connected solver.

    Args:
        solver: its name, or features that it must have; None is the configured or largest one.
        token: the token of the API.
        settings: further configuration of D-Wave's client.
        timeout: seconds that the solver is asked for, and the client's own limit.
        pause: seconds to wait after failure k, from 0.
        retries: repetitions of a failed request.

    Attributes:
        properties: what the solver says of itself.
        name: the solver's name.
        closed: whether it was closed.

    Raises:
        DeviceError: no such solver, no token or one that is refused, a configuration that cannot be
            read; `Unavailable` where the service does not answer or the solver is offline.
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
        self._secrets = [
            self.token,
            *(value for value in config.values() if isinstance(value, Secret)),
        ]
        guard(*self._secrets)
        config.pop("client", None)
        config["polling_timeout"] = timeout
        config["request_timeout"] = min(float(config.get("request_timeout") or 60), timeout)
        try:
            self.client = _client(dwave.cloud.Client)(
                token=self.token.reveal(), **_revealed(config)
            )
        except Exception as error:
            raise DeviceError(
                self.hide(f"D-Wave's client does not start: {one_line(error)}")
            ) from None
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

    def _find(
        self, solver: Any, timeout: float, pause: Callable[[int], float], retries: int
    ) -> Any:
        from dwave.cloud.exceptions import SolverAuthenticationError, SolverNotFoundError

        filters = {"name": solver} if isinstance(solver, str) else dict(solver or {})
        if not filters and not self.client.config.solver:
            filters = {"qpu": True, "order_by": "-num_active_qubits"}
        until = time.monotonic() + timeout
        for attempt in itertools.count():
            try:
                connected = self.client.get_solver(**filters)
            except SolverAuthenticationError:
                raise DeviceError(
                    f"{self.where} refused the token: check DWAVE_API_TOKEN or token="
                ) from None
            except SolverNotFoundError:
                raise DeviceError(
                    f"no solver {_described(solver)} at {self.where}; {self._others()}"
                ) from None
            except Exception as error:
                wait = pause(attempt)
                if not passing(error) or attempt == retries or time.monotonic() + wait > until:
                    raise Unavailable(
                        self.hide(f"{self.where} does not answer: {one_line(error)}")
                    ) from None
                time.sleep(wait)
            else:
                if not connected.online:
                    raise Unavailable(f"solver {connected.name} is offline; {self._others()}")
                return connected

    @property
    def where(self) -> str:
        """The endpoint."""
        return without_password(str(self.client.config.endpoint))

    def _others(self) -> str:
        """What may be named in place of the solver, in an error's words."""
        try:
            names = sorted(solver.name for solver in self.client.get_solvers(online=True))
        except Exception:
            return "name another with solver="
        return f"online are {', '.join(names)}" if names else "none is online"

    def cost(self, qubits: int, params: Mapping[str, Any]) -> float:
        """Microseconds of access time of a job by the client's own estimate.

        Raises:
            DeviceError: the client cannot tell.
        """
        ignored = ("answer_mode", "auto_scale")
        timed = {name: value for name, value in params.items() if name not in ignored}
        if "anneal_schedule" in timed:
            # the estimate asks only whether there is one
            timed.setdefault("initial_state", {0: 1})
        try:
            return float(self.solver.estimate_qpu_access_time(qubits, **timed))
        except (KeyError, ValueError, TypeError) as error:
            raise DeviceError(
                f"solver {self.name} cannot estimate the cost: {one_line(error)}"
            ) from None

    def post(self, programming: Programming, params: Mapping[str, Any], label: str) -> Any:
        """Submit a job; the client's future, at once.

        Args:
            programming: the fields and couplings of the job.
            params: everything else that the job asks for.
            label: what the service shows beside it.

        Raises:
            DeviceError: the session is closed, or the client refuses the problem.
        """
        if self.closed:
            raise DeviceError(CLOSED)
        qubits, couplers = programming.wiring.keys
        linear = dict(zip(qubits, programming.h.tolist(), strict=True))
        quadratic = dict(zip(couplers, programming.J.tolist(), strict=True))
        try:
            problem = (linear, quadratic, 0.0)
            return self.solver.sample_problem(
                problem, undirected_biases=True, label=label, **params
            )
        except KeyError as error:
            raise DeviceError(self.hide(f"solver {self.name}: {error.args[0]}")) from None
        except ValueError as error:
            what = f"solver {self.name} cannot take the problem: {one_line(error)}"
            raise DeviceError(CLOSED if self.closed else self.hide(what)) from None
        except Exception:
            if self.closed:
                raise DeviceError(CLOSED) from None
            raise

    def fetch(self, name: str) -> Any:
        """The answer of a job that ran, once more, as the client's future."""
        try:
            future = self.client.retrieve_answer(name)
        except Exception:
            if self.closed:
                raise DeviceError(CLOSED) from None
            raise
        future.solver = self.solver
        future.return_matrix = True
        return future

    def close(self) -> None:
        """End the client's threads; what is outstanding is left alone."""
        self.closed = True
        self.client.close(wait=False)
        for kind in ("submission", "cancel", "poll", "load"):
            for worker in getattr(self.client, f"_{kind}_workers", []):
                worker.join(CLOSING)


def _configuration(token: Secret, settings: Mapping[str, Any]) -> dict[str, Any]:
    """D-Wave's configuration of arguments, environment and files, what is secret in a `Secret`."""
    import dwave.cloud.config

    token = _checked(token)
    guard(token, *(value for value in settings.values() if isinstance(value, Secret)))
    given = {name: value for name, value in _revealed(settings).items() if value is not None}
    try:
        with quiet():
            config = sealed(dwave.cloud.config.load_config(**given))
    # a parser repeats the line that it cannot read, and the token may be in it
    except Exception as error:
        plain = type(error) is ValueError or type(error).__name__ == "ConfigFileReadError"
        what = token.hide(one_line(error)) if plain else type(error).__name__
        hint = "a file holds [section] and key = value, with %% for a %"
        raise DeviceError(f"D-Wave's configuration cannot be read: {what}; {hint}") from None
    if token.reveal() is None:
        token = _checked(config.get("token", Secret(None)))
    if token.reveal() is None:
        raise DeviceError(
            "no D-Wave token: set DWAVE_API_TOKEN, pass token= or run `dwave config create`; "
            "`qsample sapi` serves a loopback processor that needs no account"
        )
    return config | {"token": token}


def _checked(token: Secret) -> Secret:
    """The token without what lies around it; a `DeviceError` for what no token is."""
    try:
        return token.token()
    except ValueError as error:
        raise DeviceError(str(error)) from None


def _revealed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as the client takes them, for the client alone."""
    return {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in settings.items()
    }


@functools.cache
def _client(made: type[Any]) -> type[Any]:
    """D-Wave's client with the token hidden again, which it validates into a plain string."""

    class Client(made):
        def create_session(self) -> Any:
            self.config.token = Spoken(self.config.token)
            return super().create_session()

    return Client


def code(error: BaseException) -> int | None:
    """The HTTP status behind an error of the client's, if one is."""
    status = str(getattr(error, "error_code", None))
    return int(status) if status.isdecimal() else None


def passing(error: BaseException) -> bool:
    """Whether another try may go better: the service is overloaded, or the connection broke."""
    from dwave.cloud.exceptions import InvalidAPIResponseError, Timeout

    if code(error) is not None:
        return code(error) in (*REFUSED, *DOUBTFUL)
    # those of requests are OSErrors
    return isinstance(error, Timeout | InvalidAPIResponseError | OSError)


def one_line(error: BaseException) -> str:
    """The words of an error in one line; its class where it has none."""
    return " ".join((str(error) or type(error).__name__).split())


def _described(solver: Any) -> str:
    """The solver asked for, in an error's words."""
    if isinstance(solver, str):
        return repr(solver)
    return f"with {dict(solver)}" if solver else "of the qpu kind"
