"""What a solver says of itself.

Shapes are those of dwave-cloud-client's own mock data, ranges those that D-Wave publishes. All
times are in microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from qsample.support.faces import public
from qsample.support.optional import needs

PARAMETERS = {
    "anneal_schedule": "points [time in us, anneal fraction s] of a piecewise linear anneal",
    "annealing_time": "us of one anneal",
    "answer_mode": "histogram or raw",
    "auto_scale": "rescale h and J to use the whole range",
    "flux_drift_compensation": "accepted, without effect",
    "initial_state": "spins (or bits) by qubit where a reverse anneal begins, 3 where unused",
    "label": "a name of the problem",
    "max_answers": "most answers returned",
    "num_reads": "anneals",
    "programming_thermalization": "us waited after programming",
    "readout_thermalization": "us waited after each readout",
    "reduce_intersample_correlation": "wait longer between reads",
    "reinitialize_state": "begin each reverse anneal at the initial state, not at the last read",
}
_COMMON = {
    "category": "qpu",
    "supported_problem_types": ["ising", "qubo"],
    "h_range": [-4.0, 4.0],
    "j_range": [-1.0, 1.0],
    "extended_j_range": [-2.0, 1.0],
    "num_reads_range": [1, 10_000],
    "annealing_time_range": [0.5, 2000.0],
    "default_annealing_time": 20.0,
    "max_anneal_schedule_points": 12,
    "programming_thermalization_range": [0.0, 10_000.0],
    "default_programming_thermalization": 1000.0,
    "readout_thermalization_range": [0.0, 10_000.0],
    "default_readout_thermalization": 0.0,
    "problem_run_duration_range": [0.0, 1_000_000.0],
    "quota_conversion_rate": 1,
}
# A family's own: the coupling limit is per group of couplers on Zephyr, per qubit elsewhere.
_FAMILY: dict[str, dict[str, Any]] = {
    "chimera": {"h_range": [-2.0, 2.0], "per_qubit_coupling_range": [-9.0, 6.0]},
    "pegasus": {"per_qubit_coupling_range": [-18.0, 15.0]},
    "zephyr": {"per_group_coupling_range": [-13.0, 10.0]},
}
# Advantage2_system1 as documented: 33.6 ms of programming (1 ms of it thermalisation), readout of
# 17 to 101 us.
_ADVANTAGE2 = {
    "typical_programming_time": 32_600.0,
    "qpu_delay_time_per_sample": 60.6,
    "readout_time_model": "pwl_log_log",
    "readout_time_model_parameters": [0.0, math.log10(4577), math.log10(17), math.log10(101)],
}


@public("qsample.testing.sapi")
def definition(
    topology: str = "zephyr-12",
    *,
    name: str | None = None,
    broken_qubits: Iterable[int] = (),
    broken_couplers: Iterable[Sequence[int]] = (),
    **properties: Any,
) -> dict[str, Any]:
    """The solver definition that the solver API would serve for a chip of this shape.

    Args:
        topology: "zephyr-12" (Advantage2), "pegasus-16" (Advantage), "chimera-16" (2000Q) or
            another size; further numbers are further sizes, as in "zephyr-3-2" or "chimera-2-3-4".
        name: name of the solver. Default: "loopback_" and the topology.
        broken_qubits: numbers of qubits that do not work: they and their couplers are not served.
        broken_couplers: pairs of qubits whose coupler does not work.
        **properties: properties of the solver in place of its own, such as `h_range=[-2, 2]`.

    Raises:
        ValueError: a topology of no known family, or defects that the chip does not have.
        ImportError: dwave-cloud-client is not installed.
    """
    family, *sizes = topology.split("-")
    numbers = sizes and all(size.isdecimal() and int(size) for size in sizes)
    if family not in _FAMILY or not numbers:
        raise ValueError(
            f"unknown topology {topology!r}: expected one like zephyr-12, pegasus-16 or chimera-16"
        )
    mocks = _mocks()
    make = getattr(mocks, f"qpu_{family}_solver_data")
    timing = mocks.qpu_problem_timing_data("2000q" if family == "chimera" else "advantage")
    if family == "zephyr":
        timing |= _ADVANTAGE2
    solver = make(*map(int, sizes))
    solver["avg_load"] = 0.0
    solver["identity"]["name"] = name or f"loopback_{topology}"
    chip = solver["properties"]
    chip |= _COMMON | _FAMILY[family]
    chip |= {"parameters": PARAMETERS, "problem_timing_data": timing, "tags": ["loopback"]}
    chip["chip_id"] = solver["identity"]["name"]
    if family == "zephyr" and chip["topology"]["shape"][1] != 4:
        del chip["per_group_coupling_range"]  # Ocean divides the couplers of tiles of 4 only
    qubits = {int(qubit) for qubit in broken_qubits}
    couplers = {(min(pair), max(pair)) for pair in broken_couplers}
    _break(chip, qubits, couplers)
    chip |= properties
    return solver


def _break(chip: dict[str, Any], qubits: set[int], couplers: set[tuple[int, int]]) -> None:
    """Take qubits, with their couplers, and couplers out of a chip's properties.

    Args:
        chip: the properties, changed in place.
        qubits: numbers of qubits.
        couplers: pairs of qubits, the lower first.
    """
    present = {(min(pair), max(pair)) for pair in chip["couplers"]}
    unknown = sorted(qubits - set(chip["qubits"])) or sorted(couplers - present)
    if unknown:
        raise ValueError(f"the chip has no {unknown[0]} that could be broken")
    chip["qubits"] = [qubit for qubit in chip["qubits"] if qubit not in qubits]
    chip["couplers"] = [
        [a, b]
        for a, b in chip["couplers"]
        if a not in qubits and b not in qubits and (min(a, b), max(a, b)) not in couplers
    ]


def _mocks() -> Any:
    """The client's own mock data."""
    with needs("dwave", "the loopback solver API"):
        from dwave.cloud.testing import mocks
    return mocks
