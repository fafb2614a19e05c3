"""Gibbs sampling at the target, and simulated annealing down to it: one kernel, two schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qsample.annealers.heat_bath import Precision, Rule, Scan, run
from qsample.annealers.replicas import Replicas
from qsample.annealers.schedules import equal_lengths
from qsample.checks import whole_settings
from qsample.ising import Ising
from qsample.sampler import Generators, check_request, draw_seeds
from qsample.samples import Exactness, Samples

Schedule = Literal["geometric", "linear", "adaptive"]


@dataclass(frozen=True)
class Gibbs:
    """Chromatic heat bath (block Gibbs) at constant temperature, for any batch of problems.

    Starts from `initial` or from uniform random spins; every spin is redrawn from P(s_i = +1 | rest) =
    sigmoid(-2 f_i) once a sweep (Geman and Geman 1984). On a bipartite graph the right side (hidden units)
    comes first.

    Args:
        sweeps: sweeps a call.
        scan: "forward", or "palindromic": the groups forward and back, which makes the kernel reversible.
        precision: "bfloat16" rounds the weights of a bipartite problem to 8 bits for the matrix products (for
            GPUs: on a CPU full precision is as fast). "fixed16" keeps the fields of sparse and bipartite problems in
            16 bits, on the CPU (two to three times as fast with AVX-512 and 32 reads or more; `compiled.sweep` says
            what is rounded, and it is refused where that would be too coarse). Unless it is "full" the reads are
            HEURISTIC.
        betas: optional, one inverse temperature a sweep instead of `sweeps` sweeps at 1; unless all are 1 the reads
            are HEURISTIC.
        time_limit: seconds after which a call (but one of milliseconds) ends with the present sweeps and returns what
            is done; reads are swept in blocks, so some may have all their sweeps and some none: `info["done"]`
            `[*B, num]` says it.
    """

    sweeps: int = 100
    scan: Scan = "forward"
    precision: Precision = "full"
    betas: Sequence[float] | None = None
    time_limit: float | None = None

    warm_start = True

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1)
        _choice("scan", self.scan, Scan)
        _choice("precision", self.precision, Precision)
        if self.betas is not None:
            _finite_betas(self.betas)
        _time_limit(self.time_limit)

    @property
    def reversible(self) -> bool:
        """Whether the palindromic scan was chosen, at the target throughout."""
        return self.scan == "palindromic" and self._valid

    @property
    def _valid(self) -> bool:
        return self.precision == "full" and (self.betas is None or all(beta == 1 for beta in self.betas))

    def sample(
        self, problem: Ising, num: int, *, initial: Samples | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Sampler.sample`. Weights of `initial` are kept: the kernel leaves the problem's law invariant."""
        problem = check_request(self, problem, num, initial)
        betas = [1.0] * self.sweeps if self.betas is None else [float(beta) for beta in self.betas]
        seeds = draw_seeds(generator, problem.batch_shape)
        how = {"scan": self.scan, "precision": self.precision, "time_limit": self.time_limit}
        spins, energy, done = run(problem, num, betas, initial=initial, seeds=seeds, **how)
        weight = None if initial is None or initial.log_weight is None or not self._valid else initial.log_weight
        tag = Exactness.ASYMPTOTIC if self._valid else Exactness.HEURISTIC
        info = {"sweeps": len(betas)} | ({} if self.time_limit is None else {"done": done})
        family = None if initial is None else initial.family
        return Samples(spins, energy, None if weight is None else weight.clone(), tag, info, family=family)


@dataclass(frozen=True)
class SimulatedAnnealing:
    """Simulated annealing (Kirkpatrick, Gelatt and Vecchi 1983) to beta 1 by default: approximate Boltzmann draws.

    Independent reads from random spins, one sweep at each beta of the schedule, with the kernel of `Gibbs`. The
    slower the schedule, the nearer the reads come to the target; how near, `effective_beta` tells.

    It is no optimiser as it stands: beta 1 is where the law is. For the lowest energy of a BQM use
    `AsDimod(SimulatedAnnealing(1000), optimise=True)`, which takes the temperatures from the BQM, or end far above 1.

    Args:
        sweeps: sweeps of a named schedule.
        beta_range: first and last beta; the last is 1 for Boltzmann samples, larger for an optimiser.
        schedule: "geometric", "linear", "adaptive" (for each problem, equal steps of thermodynamic length, measured
            by a pilot run: see `schedules`), or the betas themselves (a tensor or sequence; `sweeps` and `beta_range`
            are then unused).
        rule: "gibbs" (heat bath) or "metropolis" (mixes faster when cold; near-deterministic when hot).
        precision: see `Gibbs`.
        time_limit: see `Gibbs`; for "adaptive", see its `betas` and give them as a schedule.
    """

    sweeps: int = 1000
    beta_range: tuple[float, float] = (0.01, 1.0)
    schedule: Schedule | Tensor | Sequence[float] = "geometric"
    rule: Rule = "gibbs"
    precision: Precision = "full"
    time_limit: float | None = None

    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1)
        _choice("rule", self.rule, Rule)
        _choice("precision", self.precision, Precision)
        _time_limit(self.time_limit)
        if self._adaptive and self.time_limit is not None:
            raise ValueError("an adaptive schedule has no time_limit: give the betas it found as the schedule")
        _finite_betas(self.beta_range if self._adaptive else self.betas)

    @property
    def _adaptive(self) -> bool:
        return isinstance(self.schedule, str) and self.schedule == "adaptive"

    @property
    def betas(self) -> list[float]:
        """The inverse temperature of each sweep; an adaptive schedule's are in `info["betas"]` `[*B, sweeps]`."""
        return schedule(self.schedule, self.sweeps, self.beta_range)

    def sample(
        self, problem: Ising, num: int, *, initial: Samples | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Sampler.sample`; `initial` is refused, because annealing starts hot and would forget it."""
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        if self._adaptive:
            return self._adapted(problem, num, seeds)
        betas = self.betas
        how = {"rule": self.rule, "precision": self.precision, "time_limit": self.time_limit}
        spins, energy, done = run(problem, num, betas, initial=None, seeds=seeds, **how)
        info = {"sweeps": len(betas), "beta_range": (betas[0], betas[-1])}
        info |= {} if self.time_limit is None else {"done": done}
        return Samples(spins, energy, exactness=Exactness.HEURISTIC, info=info)

    def _adapted(self, problem: Ising, num: int, seeds: Sequence[int]) -> Samples:
        betas, batch = equal_lengths(problem, self.beta_range, self.sweeps, seeds), problem.batch_shape
        replicas = Replicas(problem, num, seeds, rule=self.rule, precision=self.precision)
        for some in betas[..., None].split(32):
            replicas.sweep(some.expand(-1, -1, num))
        spins = replicas.spins.reshape(*batch, num, problem.num_spins)
        info = {"sweeps": self.sweeps, "beta_range": self.beta_range, "betas": betas.T.reshape(*batch, self.sweeps)}
        return Samples(spins, problem.energy(spins), exactness=Exactness.HEURISTIC, info=info)


def schedule(name: Schedule | Tensor | Sequence[float], sweeps: int, beta_range: tuple[float, float]) -> list[float]:
    """The betas of a named schedule, its ends exact, or the given ones as floats."""
    if not isinstance(name, str):
        return [float(beta) for beta in name]
    first, last = beta_range
    if name == "geometric" and not 0 < min(beta_range):
        raise ValueError(f"a geometric schedule needs beta_range > 0; got {beta_range}: use schedule='linear'")
    _choice("schedule", name, Schedule)
    if name == "adaptive":
        raise ValueError("an adaptive schedule depends on the problem: info['betas'] of its samples holds it")
    t = torch.linspace(0, 1, sweeps, dtype=torch.float64)
    betas = first * (last / first) ** t if name == "geometric" else first + (last - first) * t
    return [*betas[:-1].tolist(), last]


def _time_limit(seconds: float | None) -> None:
    if seconds is not None and not seconds > 0:
        raise ValueError(f"expected time_limit > 0 seconds, or None for none; got {seconds!r}")


def _choice(name: str, value: object, options: object) -> None:
    if value not in get_args(options):
        raise ValueError(f"unknown {name} {value!r}; expected one of {', '.join(get_args(options))}")


def _finite_betas(betas: Sequence[float]) -> None:
    if not len(betas) or not all(0 <= beta < float("inf") for beta in betas):
        raise ValueError(f"expected finite betas >= 0, at least one; got {list(betas)[:4]}")
