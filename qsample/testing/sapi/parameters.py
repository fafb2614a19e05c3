"""The parameters of a job, checked as the service checks them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qsample.testing.sapi.definitions import PARAMETERS


class Refusal(Exception):
    """A job or request that the service does not accept: an HTTP status and what is wrong."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Request:
    """What a job asks for, with defaults filled in.

    Args:
        num_reads: number of anneals.
        max_answers: largest number of answers returned.
        raw: whether reads come in their order; otherwise as a histogram.
        auto_scale: whether h and J are scaled to use the whole range.
        anneal: microseconds of one anneal.
        initial_state: spins or bits by qubit where reverse anneals begin, 3 where unused; None
            anneals forward.
        reinitialize_state: whether each reverse anneal begins at that state; otherwise at the last
            read.
        programming_thermalization: microseconds waited after programming.
        readout_thermalization: microseconds waited after each readout.
        reduce_intersample_correlation: whether to wait longer between reads.
    """

    num_reads: int
    max_answers: int
    raw: bool
    auto_scale: bool
    anneal: float
    initial_state: tuple[int, ...] | None
    reinitialize_state: bool
    programming_thermalization: float
    readout_thermalization: float
    reduce_intersample_correlation: bool

    @property
    def reverse(self) -> bool:
        """Whether the anneal begins at s = 1, in a state."""
        return self.initial_state is not None


def read(params: Mapping[str, Any], properties: Mapping[str, Any]) -> Request:
    """The request in a job's parameters.

    Raises:
        Refusal: an unknown parameter, or a value outside the solver's range.
    """
    for name in params:
        if name not in PARAMETERS and not name.startswith("x_"):
            raise Refusal(400, f"unknown parameter {name!r} for solver {properties['chip_id']}")
    num_reads = _whole(params, "num_reads", 1, properties["num_reads_range"])
    mode = params.get("answer_mode", "histogram")
    if mode not in ("histogram", "raw"):
        raise Refusal(400, f"answer_mode must be 'histogram' or 'raw'; got {mode!r}")
    defaults = {
        "auto_scale": True,
        "flux_drift_compensation": True,
        "reinitialize_state": True,
        "reduce_intersample_correlation": False,
    }
    flags = {name: _flag(params, name, default) for name, default in defaults.items()}
    anneal, reverse = _anneal(params, properties)
    state = params.get("initial_state")
    if (state is None) == reverse:
        raise Refusal(
            400,
            "initial_state needs an anneal_schedule that begins at s = 1, and the other way round",
        )
    times = {
        name: _number(params, name, properties[f"default_{name}"], properties[f"{name}_range"])
        for name in ("programming_thermalization", "readout_thermalization")
    }
    return Request(
        num_reads=num_reads,
        max_answers=_whole(params, "max_answers", num_reads, [1, num_reads]),
        raw=mode == "raw",
        auto_scale=flags["auto_scale"],
        anneal=anneal,
        initial_state=_state(state, properties["num_qubits"]),
        reinitialize_state=flags["reinitialize_state"],
        reduce_intersample_correlation=flags["reduce_intersample_correlation"],
        **times,
    )


def _anneal(params: Mapping[str, Any], properties: Mapping[str, Any]) -> tuple[float, bool]:
    """Microseconds of one anneal, and whether it is a reverse one."""
    bounds = properties["annealing_time_range"]
    points = params.get("anneal_schedule")
    if points is None:
        default = properties["default_annealing_time"]
        return _number(params, "annealing_time", default, bounds), False
    if "annealing_time" in params:
        raise Refusal(400, "annealing_time and anneal_schedule are both given: set only one")
    longest = properties["max_anneal_schedule_points"]
    try:
        times, fractions = zip(*((float(t), float(s)) for t, s in points), strict=True)
    except (TypeError, ValueError):
        raise Refusal(400, f"anneal_schedule must be a list of [time, s]; got {points!r}") from None
    rising = times[0] == 0 and all(a < b for a, b in zip(times, times[1:], strict=False))
    anneals = fractions[0] in (0, 1) and fractions[-1] == 1
    if not (2 <= len(times) <= longest and rising and anneals):
        raise Refusal(
            400,
            f"anneal_schedule must have 2 to {longest} points from time 0 on, times rising, s from "
            f"0 or 1 to 1; got {points!r}",
        )
    if not all(0 <= s <= 1 for s in fractions) or not times[-1] <= bounds[1]:
        raise Refusal(
            400, f"anneal_schedule must have s in [0, 1] and end by {bounds[1]} us; got {points!r}"
        )
    return times[-1], fractions[0] == 1


def _state(state: object, num_qubits: int) -> tuple[int, ...] | None:
    """The state of a reverse anneal, a number for each qubit of the chip."""
    if state is None:
        return None
    values = state if isinstance(state, list) else []
    if len(values) != num_qubits or not all(value in (-1, 0, 1, 3) for value in values):
        raise Refusal(
            400, f"initial_state must hold {num_qubits} numbers of -1, 0, 1, or 3 where unused"
        )
    return tuple(int(value) for value in values)


def _flag(params: Mapping[str, Any], name: str, default: bool) -> bool:
    """A parameter that is true or false."""
    value = params.get(name, default)
    if not isinstance(value, bool):
        raise Refusal(400, f"{name} must be true or false; got {value!r}")
    return value


def _whole(params: Mapping[str, Any], name: str, default: int, bounds: list) -> int:
    """A parameter that is a whole number within bounds."""
    value = params.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not bounds[0] <= value <= bounds[1]:
        raise Refusal(
            400, f"{name} must be a whole number in [{bounds[0]}, {bounds[1]}]; got {value!r}"
        )
    return value


def _number(params: Mapping[str, Any], name: str, default: float, bounds: list) -> float:
    """A parameter that is a finite number within bounds."""
    value = params.get(name, default)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not bounds[0] <= value <= bounds[1]:
        raise Refusal(400, f"{name} must be a number in [{bounds[0]}, {bounds[1]}]; got {value!r}")
    return float(value)
