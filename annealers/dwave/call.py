"""One call of a `DWave`, in three steps: `plan` the programmings, `send` them, `finish`.

    problem  -- plan -->  Plan  -- send -->  Sent  ... answers ...  -- finish -->  Samples

`submit` puts the steps together; `Pending` is the call between the second and the third.
"""

from __future__ import annotations

import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.dwave.cloud.errors import DeviceError, Fallback, Unavailable
from qsample.annealers.dwave.cloud.job import Answer, Connection, cancel
from qsample.annealers.dwave.cloud.ledger import Allowance
from qsample.annealers.dwave.cloud.recording import Replay
from qsample.annealers.dwave.cloud.secret import cleaned
from qsample.annealers.dwave.programming import Programmings
from qsample.annealers.dwave.settings import Settings
from qsample.annealers.dwave.state import State, microseconds
from qsample.annealers.dwave.temperature import (
    Track,
    chip_beta,
    energies,
    local_fields,
    repaired,
)
from qsample.problem.ising import Ising
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import warn_off_target
from qsample.sampling.samples import Estimate, Exactness, Samples
from qsample.sampling.weights import as_log_weight

T = TypeVar("T")

# Numbers of reads of the programmings that first measure a temperature; the next one is sent only
# if those before did not tell it.
PILOT = (40, 20, 20, 10, 10)
TOO_COLD = 4.0  # factor on the supposed beta where reads are all local minima
TOO_HOT = 0.25  # where they tell nothing
MARGIN = 1 - 1e-6  # of the largest scale that is used: rounding to six digits stays inside


def submit(
    settings: Settings,
    state: State,
    problem: Ising,
    num: int,
    initial: Samples | None,
    generator: Generators | None,
) -> Pending[Samples]:
    """Plan and send; the call under way. Where the device fails, the sampler's fallback serves.

    Args:
        settings: the sampler's settings.
        state: what it holds beside them.
        problem: a problem, or a batch of them, checked.
        num: number of reads of each problem.
        initial: states where reverse anneals begin; None anneals forward.
        generator: source of the gauges; None is torch's default generator.
    """

    def fallback(error: DeviceError) -> Samples:
        if settings.fallback is None or not isinstance(error, Unavailable):
            raise cleaned(error)
        name = type(settings.fallback).__name__
        warnings.warn(f"{error}; {name} serves instead", Fallback, stacklevel=4)
        samples = settings.fallback.sample(problem, num, generator=generator)
        return replace(samples, info={**samples.info, "fallback": name}, carry=None)

    try:
        planned = plan(settings, state, problem, num, initial, generator)
        sent = send(planned)
        return Pending(
            sent.jobs,
            lambda answers: finish(planned, sent, answers),
            settings.timeout,
            planned.device.cancel_all,
            fallback,
        )
    except DeviceError as error:
        refused = error
    except BaseException as error:
        connection = state.opened.connection
        # Ctrl-C ends what other calls have under way
        if connection is not None and not isinstance(error, Exception):
            connection.cancel_all()
        raise cleaned(error) from None
    return Pending.ready(fallback(refused))


# ---- first step: what is programmed ----------------


@dataclass(frozen=True, eq=False)
class Plan:
    """What one call programs, before its scale is chosen.

    Args:
        settings: the sampler's settings.
        device: the solver, or a recording of it.
        problem: the problems `*B` as they were asked, whose shape, device and dtype the samples
            get.
        flat: the same P problems in one batch dimension, on the CPU.
        num: number of reads of each problem.
        seeds: a seed per problem.
        gauge: signs `[P, G, n]`.
        params: what every job asks of the solver.
        programmings: fields and couplings on the qubits at scale 1.
        track: the chip's temperature for this graph and anneal.
        lock: held while the track is changed.
        pilot: held while an unknown temperature is measured.
        allowance: what the call may spend.
    """

    settings: Settings
    device: Connection | Replay
    problem: Ising
    flat: Ising
    num: int
    seeds: Sequence[int]
    gauge: np.ndarray
    params: dict[str, Any]
    programmings: Programmings
    track: Track
    lock: threading.RLock
    pilot: threading.RLock
    allowance: Allowance


def plan(
    settings: Settings,
    state: State,
    problem: Ising,
    num: int,
    initial: Samples | None,
    generator: Generators | None,
) -> Plan:
    """Lay the problems on the chip, in their gauges and copies.

    Args:
        settings: the sampler's settings.
        state: what it holds beside them.
        problem: a problem, or a batch of them, checked.
        num: number of reads of each problem.
        initial: states where reverse anneals begin; None anneals forward.
        generator: source of the gauges; None is torch's default generator.

    Raises:
        DeviceError: the device cannot be opened, or does not take what the settings ask for.
        ValueError: the problem does not fit the chip.
    """
    seeds = draw_seeds(generator, problem.batch_shape)

    # the solver, and where the graph lies on its chip
    device = state.device(settings)
    params = _params(settings, device, reverse=initial is not None)
    site = state.site(settings, problem.graph, device)

    # a gauge for each job at least: reads beyond the longest job become several jobs
    jobs = -(-num // _max_reads(settings, device, len(site.wiring.qubits), params))
    gauge = _gauges(seeds, max(settings.gauges, jobs), problem.num_spins, settings.gauges > 0)
    states = None
    if initial is not None:
        states = initial.spins.reshape(len(seeds), num, -1).cpu().numpy()

    flat = problem.flat().to("cpu")
    return Plan(
        settings=settings,
        device=device,
        problem=problem,
        flat=flat,
        num=num,
        seeds=seeds,
        gauge=gauge,
        params=params,
        programmings=Programmings(flat, gauge, num, site, settings.chain_strength, states),
        track=state.track(device, problem.graph, params),
        lock=state.lock,
        pilot=state.pilot(device, problem.graph, params),
        allowance=Allowance(microseconds(settings.budget_per_call)),
    )


def _params(settings: Settings, device: Connection | Replay, reverse: bool) -> dict[str, Any]:
    """What every job asks for; a `DeviceError` for a parameter that the solver does not have."""
    params = {"answer_mode": "raw", "auto_scale": False, **settings.parameters}
    if reverse:
        schedule = settings.reverse or ()
        params["anneal_schedule"] = [list(map(float, point)) for point in schedule]
    elif settings.annealing_time is not None:
        params["annealing_time"] = settings.annealing_time
    known = device.properties["parameters"]
    for name in params:
        if name not in known and not name.startswith("x_"):
            raise DeviceError(
                f"solver {device.name} takes no {name!r}; it takes {', '.join(sorted(known))}"
            )
    return params


def _max_reads(
    settings: Settings, device: Connection | Replay, qubits: int, params: dict[str, Any]
) -> int:
    """Number of reads that one job asks for at most: the solver's limit, or the caller's."""
    largest = device.max_reads(qubits, params)
    if largest < 1:
        raise DeviceError(
            f"not one read fits the longest run of solver {device.name}: anneal for less time"
        )
    return largest if settings.num_reads is None else min(settings.num_reads, largest)


def _gauges(seeds: Sequence[int], gauges: int, n: int, random: bool) -> np.ndarray:
    """Signs `[P, G, n]`, each problem's from its own seed; all +1 where they are not random."""
    if not random:
        return np.ones((len(seeds), gauges, n), np.int8)
    signs = []
    for seed in seeds:
        bits = np.random.default_rng(seed).integers(0, 2, (gauges, n), np.int8)
        signs.append(bits * 2 - 1)
    return np.stack(signs)


# ---- second step: scale and jobs ----------------


@dataclass(frozen=True, eq=False)
class Sent:
    """What was sent.

    Args:
        scale: factor on h and J.
        limited: whether a range of the solver forbids the factor that beta 1 would need.
        jobs: the jobs under way, one per programming.
        pilots: answers of the jobs that measured the temperature beforehand.
    """

    scale: float
    limited: bool
    jobs: Sequence[Any]
    pilots: Sequence[Answer] = field(default_factory=list)


def send(plan: Plan) -> Sent:
    """Measure the temperature if it is not known, choose the scale, and submit every job.

    Raises:
        DeviceError: the problem cannot be scaled into the solver's ranges, or the device fails;
            `BudgetExceeded` before anything that cannot be afforded is sent.
    """
    settings = plan.settings
    track = plan.track
    largest = plan.programmings.largest_scale
    if not largest > 0:
        raise DeviceError(
            f"h and J cannot be scaled into the ranges of solver {plan.device.name}: remove a bias"
        )

    pilots = []
    if settings.prefactor is None and not track.known:
        with plan.pilot:  # one thread measures, others wait for it
            if not track.known:
                pilots = _measure(plan)

    scale = 1 / track.value if settings.prefactor is None else settings.prefactor
    limited = scale > largest
    scale = _rounded(min(scale, largest * MARGIN) if limited else scale)

    params = [plan.params | more for more in plan.programmings.params]
    jobs = plan.device.send(plan.programmings.at(scale), params, plan.allowance)
    return Sent(scale, limited, jobs, pilots)


def _measure(plan: Plan) -> list[Answer]:
    """The answers to a few reads of the first programming, by which the temperature is measured.

    Where they are too cold or too hot to tell it, the next are at another scale.
    """
    device = plan.device
    track = plan.track
    params = [plan.params | more for more in plan.programmings.params]

    # nothing is spent on the pilot of a call that cannot be afforded
    shortest = params[0] | {"num_reads": PILOT[0]}
    device.afford(len(plan.programmings.site.wiring.qubits), [shortest, *params], plan.allowance)

    pilots = []
    for reads in PILOT:
        # a few reads, at what the temperature is supposed to be
        scale = _rounded(min(1 / track.value, plan.programmings.largest_scale * MARGIN))
        programming = plan.programmings.at(scale)[0]
        pilot = params[0] | {"num_reads": reads}
        jobs = device.send([programming], [pilot], plan.allowance)
        timeout = plan.settings.timeout
        (answer,) = Pending(jobs, list, timeout, device.cancel_all, _raise).result()
        pilots.append(answer)

        # what they tell of it
        spins, problems = plan.programmings.first(answer.spins)
        problem = plan.flat.take(problems)
        beta = chip_beta(scale * local_fields(problem, spins), spins, track.value)
        with plan.lock:
            if track.update(beta, plan.settings.drift) or np.isnan(beta.value):
                break
            track.value *= TOO_COLD if beta.value == np.inf else TOO_HOT
    return pilots


def _rounded(scale: float) -> float:
    """Six digits: a replay asks for the same bits though a sum was rounded otherwise."""
    return float(f"{scale:.6g}")


def _raise(error: DeviceError) -> Any:
    raise error


# ---- third step: samples ----------------


def finish(plan: Plan, sent: Sent, answers: Sequence[Answer]) -> Samples:
    """The samples, with what was learned of the device.

    Args:
        plan: what was programmed.
        sent: at which scale.
        answers: the answer of each job.

    Raises:
        DeviceError: the reads are to be reweighted, and no beta explains them.
    """
    settings = plan.settings
    flat = plan.flat
    track = plan.track

    # the reads of each problem, out of gauges, copies and chains
    info = _info(plan, sent, [*sent.pilots, *answers])
    spins, broken = plan.programmings.gather([answer.spins for answer in answers])
    broken_fraction = float(broken.double().mean())

    # the temperature they have, for this call and those that follow
    fields = local_fields(flat, spins)
    chip = chip_beta(sent.scale * fields, spins, track.value)
    with plan.lock:
        updated = track.update(chip, settings.drift)
        if not updated and not track.known and chip.value == np.inf:
            track.value *= TOO_COLD
    beta = Estimate(chip.value * sent.scale, chip.stderr * sent.scale, note=chip.note)
    info |= {"beta": beta.value, "beta_stderr": beta.stderr, "chip_beta": track.value}
    info |= {"note": beta.note} if beta.note else {}

    # chains mended, energies, weights
    info["chain_break_fraction"] = broken_fraction
    if settings.repair == "gibbs" and broken_fraction:
        generator = torch.Generator().manual_seed(mix(plan.seeds[0], 1))
        spins = repaired(flat, spins, broken, generator)
        fields = local_fields(flat, spins)
    energy = energies(flat, spins, fields)
    weight = _weight(plan, energy, beta) if settings.reweight else None

    if sent.limited and not settings.reweight:
        warn_off_target(
            f"the ranges of solver {plan.device.name} allow the factor {sent.scale:g} at most: the "
            f"reads are at beta {beta.value:.3g} instead of 1; use Corrected(DWave(...), "
            "Gibbs(...)), reweight=True or smaller weights",
            stacklevel=4,
        )

    problem = plan.problem
    shape = (*problem.batch_shape, plan.num)
    samples = Samples(
        spins.reshape(*shape, -1).to(problem.device),
        energy.reshape(shape).to(problem.h),
        weight,
        Exactness.HEURISTIC,
        info,
    )
    if weight is not None:
        info["ess"] = samples.ess()
    return samples


def _weight(plan: Plan, energy: Tensor, beta: Estimate) -> Tensor:
    """Log-weights that take reads at beta to reads at 1: log w = (beta - 1) E."""
    if not np.isfinite(beta.value):
        raise DeviceError(f"cannot reweight: {beta.note}")
    log_weight = (beta.value - 1) * energy
    return as_log_weight(log_weight.reshape(-1, plan.num), plan.problem)


def _info(plan: Plan, sent: Sent, answers: Sequence[Answer]) -> dict[str, Any]:
    """What the samples say of the jobs behind them; see `DWave`."""
    gauge = torch.from_numpy(plan.gauge)
    times = [answer.timing.get("qpu_access_time", 0.0) for answer in answers]
    return {
        "scale": sent.scale,
        "range_limited": sent.limited,
        "gauge": gauge.reshape(*plan.problem.batch_shape, *gauge.shape[1:]),
        "qpu_access_time": math.fsum(times),
        "qpu_parts": _parts([answer.timing for answer in answers]),
        "job_ids": [answer.id for answer in answers],
    }


def _parts(timings: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What the access times of jobs consist of, in microseconds.

    The service tells the times of one read; what all reads took is shared out in their proportion.
    """
    parts = {"programming": 0.0, "anneal": 0.0, "readout": 0.0, "delay": 0.0}
    for timing in timings:
        parts["programming"] += timing.get("qpu_programming_time", 0.0)
        of_a_read = {
            name: timing.get(f"qpu_{name}_time_per_sample", 0.0)
            for name in ("anneal", "readout", "delay")
        }
        whole = sum(of_a_read.values())
        if whole > 0:
            for name, time in of_a_read.items():
                parts[name] += timing.get("qpu_sampling_time", 0.0) * time / whole
    return parts


# ---- between sending and finishing ----------------


class Pending(Generic[T]):
    """A call under way: `result()` waits for the reads, `cancel()` gives them up.

    Args:
        jobs: the jobs that were sent.
        finish: makes the result of their answers.
        timeout: seconds from now to the last answer.
        cancel_all: called where the wait is interrupted, as by Ctrl-C: ends other calls, too.
        fallback: makes the result where the device failed, or raises its error.
    """

    def __init__(
        self,
        jobs: Sequence[Any],
        finish: Callable[[list[Answer]], T],
        timeout: float,
        cancel_all: Callable[[], None],
        fallback: Callable[[DeviceError], T],
    ) -> None:
        self._jobs = list(jobs)
        self._finish = finish
        self._cancel_all = cancel_all
        self._fallback = fallback
        self._until = time.monotonic() + timeout
        self._result: T | None = None
        self._cancelled = False
        self._process = os.getpid()
        self._reading = threading.RLock()

    @staticmethod
    def ready(result: Any) -> Pending[Any]:
        """A call whose result is there."""
        pending = Pending([], lambda _: result, 0.0, lambda: None, lambda _: result)
        pending._result = result
        return pending

    def done(self) -> bool:
        """Whether `result` returns at once."""
        return self._result is not None or all(job.done() for job in self._jobs)

    def cancel(self) -> None:
        """Ask the service to run none of what has not run.

        A cancelled job is taken back from the ledger.
        """
        if self._result is None and not self._cancelled:
            self._cancelled = True
            if self._process != os.getpid():
                return
            try:
                cancel(self._jobs)
            except BaseException as error:
                raise cleaned(error) from None

    def result(self) -> T:
        """The reads, waited for.

        Raises:
            DeviceError: the device failed and no `fallback` is named; what was outstanding of this
                call is cancelled.
        """
        if self._result is None and self._process != os.getpid():
            raise DeviceError(
                "this call was submitted before a fork: the parent reads it; call the sampler anew"
            )
        with self._reading:
            if self._result is None:
                self._result = self._read()
            return self._result

    def _read(self) -> T:
        if self._cancelled:
            raise DeviceError("this call was cancelled")
        answers: list[Answer] = []
        try:
            for job in self._jobs:
                answers.append(job.answer(self._until))
            return self._finish(answers)
        except DeviceError as error:
            failed = error
        except BaseException as error:
            self._cancelled = True
            cancel(self._jobs[len(answers) :])
            if not isinstance(error, Exception):
                self._cancel_all()
            raise cleaned(error) from None
        cancel(self._jobs[len(answers) :])
        self._cancelled = True
        return self._fallback(cleaned(failed))
