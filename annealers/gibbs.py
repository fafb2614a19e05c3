"""Gibbs sampling at the target, and simulated annealing down to it: one kernel, two schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from qsample.annealers.kernels.betas import Constant, Schedule, listed, schedule
from qsample.annealers.kernels.schedules import equal_lengths
from qsample.annealers.kernels.sweeper import Scan, clock, run
from qsample.annealers.kernels.update import Precision, Rule
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators, check_request, draw_seeds
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import check_choice, whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.annealers")
@dataclass(frozen=True)
class Gibbs:
    """Chromatic heat bath (block Gibbs) at constant temperature, for any batch of problems.

    Starts from `initial` or from uniform random spins; every spin is redrawn from P(s_i = +1 |
    rest) = sigmoid(-2 f_i) once a sweep (Geman and Geman 1984). On a bipartite graph the right side
    (hidden units) comes first.

    Args:
        sweeps: sweeps a call.
        scan: "forward", or "palindromic": the groups forward and back, which makes the kernel
            reversible.
        precision: "bfloat16" rounds the weights of a bipartite problem to 8 bits for the matrix
            products (for GPUs: on a CPU full precision is as fast). "fixed16" keeps the fields of
            sparse and bipartite problems in 16 bits, on the CPU (two to three times as fast with
            AVX-512 and 32 reads or more; `compiled.sweep` says what is rounded, and it is refused
            where that would be too coarse). Unless it is "full" the reads are HEURISTIC.
        betas: optional, one inverse temperature a sweep instead of `sweeps` sweeps at 1; unless all
            are 1 the reads are HEURISTIC.
        time_limit: seconds after which a call (but one of milliseconds) ends with the present
            sweeps and returns what is done; reads are swept in blocks, so some may have all their
            sweeps and some none: `info["done"]` `[*B, num]` says it. Sweeps that are not reached
            cost nothing: ask for 10**12.
    """

    sweeps: int = 100
    scan: Scan = "forward"
    precision: Precision = "full"
    betas: Sequence[float] | None = None
    time_limit: float | None = None

    name = "gibbs"
    about = "chromatic heat bath at the target; continues chains"
    exactness = Exactness.ASYMPTOTIC

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1)
        check_choice("scan", self.scan, Scan)
        check_choice("precision", self.precision, Precision)
        if self.betas is not None:
            listed(self.betas)
        _time_limit(self.time_limit)

    @property
    def warm_start(self) -> bool:
        """Whether chains are continued: not where the first of `betas` is 0, which draws every spin anew."""
        return self.betas is None or self.betas[0] > 0

    @property
    def reversible(self) -> bool:
        """Whether the palindromic scan was chosen, at the target throughout."""
        return self.scan == "palindromic" and self._valid

    @property
    def _valid(self) -> bool:
        return self.precision == "full" and (
            self.betas is None or all(beta == 1 for beta in self.betas)
        )

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`. Weights of `initial` are kept: the kernel leaves the problem's law invariant."""
        problem = check_request(self, problem, num, initial)
        alive = clock(self.time_limit)
        betas = Constant(int(self.sweeps)) if self.betas is None else listed(self.betas)
        seeds = draw_seeds(generator, problem.batch_shape)
        how = {"scan": self.scan, "precision": self.precision, "alive": alive}
        spins, energy, done = run(problem, num, betas, initial=initial, seeds=seeds, **how)
        weight = (
            None
            if initial is None or initial.log_weight is None or not self._valid
            else initial.log_weight
        )
        tag = Exactness.ASYMPTOTIC if self._valid else Exactness.HEURISTIC
        info = {"sweeps": betas.count} | ({} if self.time_limit is None else {"done": done})
        family = None if initial is None else initial.family
        return Samples(
            spins, energy, None if weight is None else weight.clone(), tag, info, family=family
        )


@public("qsample.annealers")
@dataclass(frozen=True)
class SimulatedAnnealing:
    """Simulated annealing (Kirkpatrick, Gelatt and Vecchi 1983) to beta 1 by default: approximate Boltzmann draws.

    Independent reads from random spins, one sweep at each beta of the schedule, with the kernel of
    `Gibbs`. The slower the schedule, the nearer the reads come to the target; how near,
    `effective_beta` tells.

    It is no optimiser as it stands: beta 1 is where the law is. For the lowest energy of a BQM use
    `AsDimod(SimulatedAnnealing(1000), optimise=True)`, which takes the temperatures from the BQM,
    or end far above 1.

    Args:
        sweeps: sweeps of a named schedule.
        beta_range: first and last beta; the last is 1 for Boltzmann samples, larger for an
            optimiser.
        schedule: "geometric", "linear", "adaptive" (for each problem, equal steps of thermodynamic
            length, measured by a pilot run: see `schedules`), or the betas themselves (a tensor or
            sequence; `sweeps` and `beta_range` are then unused).
        rule: "gibbs" (heat bath) or "metropolis" (mixes faster when cold; near-deterministic when
            hot). The first of every four Metropolis sweeps is of the heat bath, without which rings
            never reach their law: see `update.rule_of`.
        precision: see `Gibbs`.
        time_limit: see `Gibbs`; the pilot run of "adaptive" counts, and its `info["betas"]` are
            those that were swept.
    """

    sweeps: int = 1000
    beta_range: tuple[float, float] = (0.01, 1.0)
    schedule: Schedule | Tensor | Sequence[float] = "geometric"
    rule: Rule = "gibbs"
    precision: Precision = "full"
    time_limit: float | None = None

    name = "simulated-annealing"
    about = "linear annealing to beta 1"
    exactness = Exactness.HEURISTIC
    preset = {"beta_range": (0.0, 1.0), "schedule": "linear"}
    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1)
        check_choice("rule", self.rule, Rule)
        check_choice("precision", self.precision, Precision)
        _time_limit(self.time_limit)
        if self._adaptive:
            listed(self.beta_range)
        else:
            schedule(self.schedule, self.sweeps, self.beta_range)

    @property
    def _adaptive(self) -> bool:
        return isinstance(self.schedule, str) and self.schedule == "adaptive"

    @property
    def betas(self) -> list[float]:
        """The inverse temperature of each sweep; an adaptive schedule's are in `info["betas"]` `[*B, sweeps]`."""
        betas = schedule(self.schedule, self.sweeps, self.beta_range)
        return betas.block(0, betas.count).tolist()

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`; `initial` is refused, because annealing starts hot and would forget it."""
        problem = check_request(self, problem, num, initial)
        alive = clock(self.time_limit)
        seeds = draw_seeds(generator, problem.batch_shape)
        if self._adaptive:
            betas = equal_lengths(problem, self.beta_range, int(self.sweeps), seeds, alive)
        else:
            betas = schedule(self.schedule, int(self.sweeps), self.beta_range)
        how = {"rule": self.rule, "precision": self.precision, "alive": alive}
        spins, energy, done = run(problem, num, betas, initial=None, seeds=seeds, **how)
        ends = [float(betas.block(k, k + 1).flatten()[0]) for k in (0, betas.count - 1)]
        info = {
            "sweeps": betas.count,
            "beta_range": self.beta_range if self._adaptive else tuple(ends),
        }
        if self._adaptive:
            swept = betas.count if alive is None else int(done.max())
            info["betas"] = (
                betas.block(0, swept)[..., 0].float().T.reshape(*problem.batch_shape, swept)
            )
        if alive is not None:
            info["done"] = done
        return Samples(spins, energy, exactness=Exactness.HEURISTIC, info=info)


def _time_limit(seconds: float | None) -> None:
    if seconds is not None and not seconds > 0:
        raise ValueError(f"expected time_limit > 0 seconds, or None for none; got {seconds!r}")
