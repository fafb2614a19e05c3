"""From a problem to jobs, and from their answers to samples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from qsample.annealers.dwave.call import Pending, Played, give_up
from qsample.annealers.dwave.cloud.errors import DeviceError, Fallback, Unavailable
from qsample.annealers.dwave.cloud.job import Answer, Job, Line
from qsample.annealers.dwave.cloud.ledger import Allowance
from qsample.annealers.dwave.cloud.recording import Replay, request_key
from qsample.annealers.dwave.cloud.secret import cleaned
from qsample.annealers.dwave.cloud.session import Session
from qsample.annealers.dwave.device import State
from qsample.annealers.dwave.physics import energies, local_fields, repaired
from qsample.annealers.dwave.plan import Plan
from qsample.annealers.dwave.programming import Programming
from qsample.annealers.dwave.settings import Settings
from qsample.annealers.dwave.temperature import pooled_beta
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators, draw_seeds, mix, warn_off_target
from qsample.sampling.samples import Exactness, Samples
from qsample.sampling.weights import as_log_weight

PILOT = (
    40,
    20,
    20,
    10,
    10,
)  # reads of the programmings by which a temperature is first found; the next only if one fails


def submit(
    settings: Settings,
    state: State,
    problem: Ising,
    num: int,
    initial: Samples | None,
    generator: Generators | None,
) -> Pending[Samples]:
    """See `DWave.submit`."""
    seeds = draw_seeds(generator, problem.batch_shape)

    def instead(error: DeviceError) -> Samples:
        if settings.fallback is None or not isinstance(error, Unavailable):
            raise cleaned(error)
        name = type(settings.fallback).__name__
        warnings.warn(f"{error}; {name} serves instead", Fallback, stacklevel=4)
        found = settings.fallback.sample(problem, num, generator=generator)
        return replace(found, info={**found.info, "fallback": name}, carry=None)

    try:
        call = Call(settings, state, problem, num, initial, seeds)
        return Pending(call.send(), call.finish, settings.timeout, call.everything, instead)
    except DeviceError as error:
        refused = error
    except BaseException as error:
        line = state.opened.line
        # Ctrl-C ends what other calls have under way
        if line is not None and not isinstance(error, Exception):
            give_up(list(line.outstanding))
        raise cleaned(error) from None
    return Pending.ready(instead(refused))


class Call:
    """One call: its plan, the factor it is programmed with, and what its answers make."""

    def __init__(
        self,
        settings: Settings,
        state: State,
        problem: Ising,
        num: int,
        initial: Samples | None,
        seeds: Sequence[int],
    ) -> None:
        self.settings = settings
        self.state = state
        self.problem = problem
        self.num = num
        self.seeds = seeds
        self.line = state.answering(settings)
        self.device = self.line.session if isinstance(self.line, Line) else self.line
        self.params = self._params(reverse=initial is not None)
        site = state.site(settings, problem.graph, self.device)
        self.flat = problem.flat().to("cpu")
        jobs = -(-num // self._most_reads(len(site.wiring.qubits)))
        rngs = [np.random.default_rng(seed) for seed in seeds]
        shape = (max(settings.gauges, jobs), problem.num_spins)
        signs = [
            rng.integers(0, 2, shape, np.int8) * 2 - 1
            if settings.gauges
            else np.ones(shape, np.int8)
            for rng in rngs
        ]
        self.gauge = np.stack(signs)
        states = (
            None if initial is None else initial.spins.reshape(len(seeds), num, -1).cpu().numpy()
        )
        self.plan = Plan(self.flat, self.gauge, num, site, settings.chain_strength, states)
        limit = settings.budget_per_call
        self.allowance = Allowance(None if limit is None else limit * 1e6)
        self.track = state.track(self.device, problem.graph, self.params)
        self.access = 0.0
        self.ids = list[str]()

    def _params(self, reverse: bool) -> dict[str, Any]:
        """What every job asks for; a `DeviceError` for a parameter that the solver does not have."""
        settings = self.settings
        there = self.device.properties["parameters"]
        params = {"answer_mode": "raw", "auto_scale": False, **settings.parameters}
        if reverse:
            params |= {
                "anneal_schedule": [list(map(float, point)) for point in settings.reverse or ()]
            }
        elif settings.annealing_time is not None:
            params["annealing_time"] = settings.annealing_time
        if unknown := [name for name in params if name not in there and not name.startswith("x_")]:
            raise DeviceError(
                f"solver {self.device.name} takes no {unknown[0]!r}; it takes "
                f"{', '.join(sorted(there))}"
            )
        return params

    def _most_reads(self, qubits: int) -> int:
        """Reads that one job may ask for: by the solver's range, its longest run, and the caller's num_reads."""
        properties = self.device.properties
        asked = self.settings.num_reads
        most = int(properties["num_reads_range"][1])
        if isinstance(self.device, Session):
            one, two = (self.device.cost(qubits, self.params | {"num_reads": k}) for k in (1, 2))
            room = (
                properties["problem_run_duration_range"][1]
                - properties["default_programming_thermalization"]
            )
            most = min(most, int(room / (two - one)))
        if most < 1:
            raise DeviceError(
                f"not one read fits the longest run of solver {self.device.name}: anneal for "
                "less time"
            )
        return most if asked is None else min(asked, most)

    # ---- out ----------------

    def send(self) -> list[Any]:
        """Measure the temperature if it is not known, choose the factor, and submit every job."""
        settings = self.settings
        most = self.plan.largest_scale
        if not most > 0:
            raise DeviceError(
                f"h and J cannot be scaled into the ranges of solver {self.device.name}: remove "
                "a bias"
            )
        if settings.prefactor is None and not self.track.known:
            # one for all threads
            with self.state.pilot(self.device, self.problem.graph, self.params):
                if not self.track.known:
                    self._pilot(most)
        wanted = 1 / self.track.value if settings.prefactor is None else settings.prefactor
        self.limited = wanted > most
        # six digits: a replay asks for the same bits though a sum was rounded otherwise
        self.scale = (
            float(f"{min(wanted, most * (1 - 1e-6)):.6g}")
            if self.limited
            else float(f"{wanted:.6g}")
        )
        return self._jobs(self.plan.programmings(self.scale), self.plan.params)

    def _pilot(self, most: float) -> None:
        cost = self._costs([PILOT[0]])[0] + sum(
            self._costs([one["num_reads"] for one in self.plan.params])
        )
        if isinstance(self.line, Line):
            self.line.ledger.afford(cost, self.line.budget, self.allowance)
        for reads in PILOT:
            scale = float(f"{min(1 / self.track.value, most * (1 - 1e-6)):.6g}")
            params = self.plan.params[0] | {"num_reads": reads}
            jobs = self._jobs(self.plan.programmings(scale)[:1], [params])
            answers = Pending(
                jobs, lambda found: found, self.settings.timeout, self.everything, _raise
            ).result()
            spins, which = self.plan.first(answers[0].spins)
            J = self.flat.J[which] if len(self.flat.J) > 1 else self.flat.J
            part = Ising(self.flat.graph, self.flat.h[which], J)
            found = pooled_beta(
                (-2 * scale * local_fields(part, spins) * spins).flatten(0, 1).numpy(),
                self.track.value,
            )
            self._account(answers)
            with self.state.lock:
                if self.track.update(found, self.settings.drift) or np.isnan(found.value):
                    return
                # too cold to tell, or too hot
                self.track.value *= 4.0 if found.value == np.inf else 0.25

    def _costs(self, reads: Sequence[int]) -> list[float]:
        if not isinstance(self.device, Session):
            return [0.0] * len(reads)
        qubits = len(self.plan.site.wiring.qubits)
        once = {
            count: self.device.cost(qubits, self.params | {"num_reads": count})
            for count in set(reads)
        }
        return [once[count] for count in reads]

    def _jobs(
        self, programmings: Sequence[Programming], more: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        params = [self.params | dict(one) for one in more]
        if isinstance(self.line, Replay):
            keys = [
                request_key(self.line.name, *pair)
                for pair in zip(programmings, params, strict=True)
            ]
            return [Played(self.line.take(key)) for key in keys]
        costs = self._costs([one["num_reads"] for one in params])
        jobs = [
            Job(self.line, *each, self.allowance)
            for each in zip(programmings, params, costs, strict=True)
        ]
        Job.send(self.line, jobs)
        return jobs

    def everything(self) -> None:
        """Cancel all that is outstanding, of other calls too."""
        if isinstance(self.line, Line):
            give_up(list(self.line.outstanding))

    # ---- back ----------------

    def _account(self, answers: Sequence[Answer]) -> None:
        self.access += sum(answer.timing.get("qpu_access_time", 0.0) for answer in answers)
        self.ids += [answer.id for answer in answers]

    def finish(self, answers: Sequence[Answer]) -> Samples:
        """The samples, with what was learned of the device."""
        settings = self.settings
        problem = self.problem
        scale = self.scale
        self._account(answers)
        spins, broken = self.plan.gather([answer.spins for answer in answers])
        info: dict[str, Any] = {"chain_break_fraction": float(broken.double().mean())}
        field = local_fields(self.flat, spins)
        found = pooled_beta((-2 * scale * field * spins).flatten(0, 1).numpy(), self.track.value)
        with self.state.lock:
            told = self.track.update(found, settings.drift)
            if not told and not self.track.known and found.value == np.inf:
                self.track.value *= 4.0
        if settings.repair == "gibbs" and info["chain_break_fraction"]:
            seed = torch.Generator().manual_seed(mix(self.seeds[0], 1))
            spins = repaired(self.flat, spins, broken, seed)
            field = local_fields(self.flat, spins)
        energy = energies(self.flat, spins, field)
        beta = found.value * scale
        stderr = found.stderr * scale
        shape = (*problem.batch_shape, self.num)
        weight = None
        if settings.reweight:
            if not np.isfinite(beta):
                raise DeviceError(f"cannot reweight: {found.note}")
            weight = as_log_weight(((beta - 1) * energy).reshape(-1, shape[-1]), problem)
        info |= {"beta": beta, "beta_stderr": stderr, "chip_beta": self.track.value, "scale": scale}
        info |= {"range_limited": self.limited, "qpu_access_time": self.access, "job_ids": self.ids}
        info["gauge"] = torch.from_numpy(self.gauge).reshape(
            *problem.batch_shape, *self.gauge.shape[1:]
        )
        if found.note:
            info["note"] = found.note
        if self.limited and not settings.reweight:
            warn_off_target(
                f"the ranges of solver {self.device.name} allow the factor {scale:g} at most: "
                "the reads are at beta "
                f"{beta:.3g} instead of 1; use Corrected(DWave(...), Gibbs(...)), reweight=True "
                "or smaller weights",
                stacklevel=4,
            )
        spins = spins.reshape(*shape, -1).to(problem.device)
        energy = energy.reshape(shape).to(problem.h)
        samples = Samples(spins, energy, weight, Exactness.HEURISTIC, info)
        if weight is not None:
            info["ess"] = samples.ess()
        return samples


def _raise(error: DeviceError) -> Any:
    raise error
