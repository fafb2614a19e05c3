"""What a job costs, by the timing model 1.0 of a solver's `problem_timing_data`.

All times are in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qsample.testing.sapi.parameters import Request


def readout_time(timing: Mapping[str, Any], num_qubits: int) -> float:
    """Readout of one sample: piecewise linear in the number of qubits, or in both logarithms."""
    parameters = timing["readout_time_model_parameters"]
    half = len(parameters) // 2
    sizes = parameters[:half]
    times = parameters[half:]
    if timing["readout_time_model"] == "pwl_log_log":
        return float(10 ** np.interp(np.log10(num_qubits), sizes, times))
    return float(np.interp(num_qubits, sizes, times))


def duration(timing: Mapping[str, Any], request: Request, num_qubits: int) -> float:
    """What `problem_run_duration_range` bounds.

    (anneal + thermalisation + readout) reads + programming's wait.

    Args:
        timing: the solver's `problem_timing_data`.
        request: what the job asks for.
        num_qubits: number of active qubits.
    """
    per_read = request.anneal + request.readout_thermalization + readout_time(timing, num_qubits)
    return per_read * request.num_reads + request.programming_thermalization


def charge(timing: Mapping[str, Any], request: Request, num_qubits: int) -> dict[str, float]:
    """The answer's `timing`.

    access = programming + reads (anneal + readout + delay), where programming includes its
    thermalisation and the delay that of the readout, or the longer wait that decorrelates reads;
    reverse anneals cost a little more or less.

    Args:
        timing: the solver's `problem_timing_data`.
        request: what the job asks for.
        num_qubits: number of active qubits.
    """
    # programming, and the delay of each read
    programming = timing["typical_programming_time"]
    delay = timing["qpu_delay_time_per_sample"]
    programming += request.programming_thermalization
    if request.reverse:
        start = "with_reinit" if request.reinitialize_state else "without_reinit"
        programming += timing[f"reverse_annealing_{start}_prog_time_delta"]
        delay += timing[f"reverse_annealing_{start}_delay_time_delta"]
    wait = request.readout_thermalization
    if request.reduce_intersample_correlation:
        shortest, longest = timing["decorrelation_time_range"]
        share = request.anneal / timing["decorrelation_max_nominal_anneal_time"]
        wait = max(wait, shortest + share * (longest - shortest))
    delay = delay + wait

    # all reads
    readout = readout_time(timing, num_qubits)
    sampling = request.num_reads * (request.anneal + readout + delay)
    return {
        "qpu_access_time": programming + sampling,
        "qpu_programming_time": programming,
        "qpu_sampling_time": sampling,
        "qpu_anneal_time_per_sample": request.anneal,
        "qpu_readout_time_per_sample": readout,
        "qpu_delay_time_per_sample": delay,
        "qpu_access_overhead_time": 0.0,
        "total_post_processing_time": 0.0,
        "post_processing_overhead_time": 0.0,
    }
