"""What a call of a sampler costs: CPU time, spin updates, QPU time, modelled joules per read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

from qsample.sampling.samples import Samples
from qsample.support.power import QPU_SOURCE, QPU_WATTS, core_power
from qsample.support.transforms import uncompiled

P = ParamSpec("P")


class _Count(threading.local):
    updates = 0


_count = _Count()


def count_updates(updates: int) -> None:
    """Note spin updates that are made in this thread, for the call that makes them."""
    _count.updates += int(updates)  # a number of numpy is none that JSON takes


def with_cost(sample: Callable[P, Samples]) -> Callable[P, Samples]:
    """A sampler's `sample`, run as written, whose reads say what they cost: `info["cost"]`.

    | key | what |
    |---|---|
    | `cpu_seconds` | CPU time of the process during the call, all its threads |
    | `spin_updates` | updates of single spins, by the kernels that count them |
    | `qpu_seconds` | access time of a quantum processor; of a replay, that of the recording |
    | `joules_per_read` | power times time over all reads, modelled; None where it is not known |
    | `joules_source` | which power that is, in words |

    Joules are CPU time times the power of a core (see `qsample.support.power`), and QPU time times
    that of the machine.
    """

    @wraps(sample)
    def run(*args: P.args, **kwargs: P.kwargs) -> Samples:
        before = _count.updates
        began = time.process_time()
        samples = sample(*args, **kwargs)
        seconds = time.process_time() - began
        info = samples.info
        if isinstance(info, dict):  # fresh ones, as our samplers make them
            info["cost"] = _cost(samples, seconds, _count.updates - before)
        return samples

    return uncompiled(run)


def _cost(samples: Samples, seconds: float, updates: int) -> dict[str, Any]:
    """The table of `with_cost`."""
    qpu = _qpu_seconds(samples.info)
    watts, source = core_power()
    device = samples.spins.device.type
    if device != "cpu":
        watts = None
        source = f"{device}: not known"
    joules = None
    if qpu:
        # the machine elsewhere is most of it: what is done here is left out where it is not known
        joules = QPU_WATTS * qpu + (watts or 0.0) * seconds
        source = QPU_SOURCE if watts is None else f"{QPU_SOURCE}; {source}"
    elif watts is not None:
        joules = watts * seconds
    return {
        "cpu_seconds": seconds,
        "spin_updates": updates,
        "qpu_seconds": qpu,
        "joules_per_read": None if joules is None else joules / max(1, samples.energy.numel()),
        "joules_source": source,
    }


def _qpu_seconds(info: Mapping[str, Any]) -> float:
    """Access time of the processor in this call; of a composite, that of its first sampler."""
    microseconds = info.get("qpu_access_time")
    if isinstance(microseconds, int | float):
        return microseconds / 1e6
    before = info.get("before")
    return _qpu_seconds(before) if isinstance(before, Mapping) else 0.0
