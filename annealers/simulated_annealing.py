"""Simulated annealing: one sweep at each beta of a schedule, which may be made for the problem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsample.annealers.kernels.betas import Betas, Schedule, listed, schedule
from qsample.annealers.kernels.sweeper import Sweeper, check_time_limit, clock
from qsample.annealers.kernels.update import Precision, Rule
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.sampling.weights import ordered_sum
from qsample.support.checks import check_choice, whole_settings
from qsample.support.faces import public

PILOTS = 64  # replicas of the run that measures the energies
TEMPERATURES = 64  # of that run


@public("qsample.annealers")
@dataclass(frozen=True)
class SimulatedAnnealing:
    """Simulated annealing (Kirkpatrick, Gelatt and Vecchi 1983), by default to beta 1.

    Independent reads from random spins, one sweep at each beta of the schedule, with the kernel of
    `Gibbs`: approximate Boltzmann draws. The slower the schedule, the nearer the reads come to the
    target; how near, `effective_beta` tells.

    It is no optimiser as it stands: beta 1 is where the law is. For the lowest energy of a BQM use
    `AsDimod(SimulatedAnnealing(1000), optimise=True)`, which takes the temperatures from the BQM,
    or end far above 1.

    Args:
        sweeps: number of sweeps of a named schedule.
        beta_range: first and last beta; the last is 1 for Boltzmann samples, larger for an
            optimiser.
        schedule: "geometric", "linear", "adaptive" (for each problem, equal steps of thermodynamic
            length, measured by a pilot run: see `equal_lengths`), or the betas themselves (a tensor
            or sequence; `sweeps` and `beta_range` are then unused).
        rule: "gibbs" (heat bath) or "metropolis" (mixes faster when cold; near-deterministic when
            hot). The first of every four Metropolis sweeps is of the heat bath, without which rings
            never reach their law: see `update.rule_of`.
        precision: number format of the local fields; see `Gibbs`.
        time_limit: seconds, as in `Gibbs`; the pilot run of "adaptive" counts, and its
            `info["betas"]` are those that were swept.

    Raises:
        ValueError: a setting that is none of these.
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
        check_time_limit(self.time_limit)
        if self._adaptive:
            listed(self.beta_range)
        else:
            schedule(self.schedule, self.sweeps, self.beta_range)

    @property
    def _adaptive(self) -> bool:
        return isinstance(self.schedule, str) and self.schedule == "adaptive"

    @property
    def betas(self) -> list[float]:
        """The inverse temperature of each sweep.

        An adaptive schedule's are in `info["betas"]` `[*B, sweeps]` of its samples.
        """
        betas = schedule(self.schedule, self.sweeps, self.beta_range)
        return betas.block(0, betas.count).tolist()

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw `num` reads of each problem.

        Args:
            problem: the problems, a batch of any dimensions `*B`.
            num: reads of each problem.
            initial: refused, because annealing starts hot and would forget it.
            generator: randomness, as in `Sampler.sample`.

        Raises:
            ValueError: as `check_request` says, or fields beyond the precision.
        """
        problem = check_request(self, problem, num, initial)
        alive = clock(self.time_limit)
        seeds = draw_seeds(generator, problem.batch_shape)
        if self._adaptive:
            betas = equal_lengths(problem, self.beta_range, int(self.sweeps), seeds, alive)
        else:
            betas = schedule(self.schedule, int(self.sweeps), self.beta_range)
        sweeper = Sweeper(
            problem,
            num,
            seeds,
            rule=self.rule,
            precision=self.precision,
            coldest=betas.coldest,
            alive=alive,
        )
        sweeper.run(betas)
        spins, energy = sweeper.reads()
        info = self._info(betas, sweeper.done.reshape(energy.shape))
        return Samples(spins, energy, exactness=Exactness.HEURISTIC, info=info)

    def _info(self, betas: Betas, done: Tensor) -> dict[str, Any]:
        """What was swept, given the sweeps that each read did, `[*B, num]`."""
        info: dict[str, Any] = {"sweeps": betas.count}
        if self._adaptive:
            swept = betas.count if self.time_limit is None else int(done.max())
            each = betas.block(0, swept)[..., 0].float()
            info["beta_range"] = self.beta_range
            info["betas"] = each.T.reshape(*done.shape[:-1], swept)
        else:
            first = betas.block(0, 1)
            last = betas.block(betas.count - 1, betas.count)
            info["beta_range"] = (float(first), float(last))
        if self.time_limit is not None:
            info["done"] = done
        return info


# ---- a schedule made for a problem ----------------


@dataclass(frozen=True, eq=False)
class EqualLengths:
    """Betas of P problems at equal steps of thermodynamic length.

    Attributes:
        count: sweeps.
        grid: betas of the pilot run, `[T]`.
        length: thermodynamic length of each problem up to these betas, `[P, T]`.
    """

    count: int
    grid: Tensor
    length: Tensor

    @property
    def coldest(self) -> float:
        """The colder end."""
        return float(self.grid.max())

    def block(self, first: int, last: int) -> Tensor:
        """See `Betas`: `[S, P, 1]`."""
        fraction = torch.arange(first, last, dtype=torch.float64) / max(self.count - 1, 1)
        goal = self.length[:, -1:] * fraction
        # the length is linear between the betas of the grid
        k = torch.searchsorted(self.length, goal).clamp(1, len(self.grid) - 1)
        left = self.length.gather(-1, k - 1)
        right = self.length.gather(-1, k)
        below = self.grid[k - 1]
        above = self.grid[k]
        beta = below + (goal - left) / (right - left) * (above - below)
        if last == self.count:
            beta[:, -1:] = self.grid[-1]
        return beta.T[..., None]


def equal_lengths(
    problem: Ising,
    beta_range: tuple[float, float],
    sweeps: int,
    seeds: Sequence[int],
    alive: Callable[[], bool] | None = None,
) -> EqualLengths:
    r"""Betas at equal steps of thermodynamic length from the first beta of the range to the last.

    $$\ell(\beta) = \int_{\beta_0}^\beta \sigma_E(\beta') \, d\beta'$$

    so that neighbouring laws overlap alike, $d\beta \sim 1/\sigma_E$ (Salamon and Berry, PRL 51,
    1983). The standard deviation of E is measured by a pilot annealing of a few replicas, denser
    where hot.

    Args:
        problem: a batch of P problems.
        beta_range: first and last beta.
        sweeps: betas of each problem.
        seeds: one 63-bit seed per problem.
        alive: whether the pilot run may go on. Where it ends it, the last deviation stands for
            those of all colder temperatures.
    """
    first, last = beta_range
    t = torch.linspace(0, 1, TEMPERATURES, dtype=torch.float64)
    grid = first + (last - first) * t**2
    # a pilot run, two sweeps at each temperature, measures the spread of E
    pilot_seeds = [mix(seed, 4) for seed in seeds]
    pilot = Sweeper(problem.without_offset(), PILOTS, pilot_seeds, coldest=max(beta_range))
    pilot.scatter()
    sigma: list[Tensor] = []
    for beta in grid.tolist():
        if alive is not None and not alive():
            break
        pilot.sweep(torch.tensor([beta, beta], dtype=torch.float32))
        energy = pilot.energy()
        mean = ordered_sum(energy)[:, None] / PILOTS
        sigma.append((ordered_sum((energy - mean).square()) / (PILOTS - 1)).sqrt())
    rest = sigma[-1] if sigma else torch.ones(len(seeds), dtype=torch.float64)
    density = torch.stack(sigma + [rest] * (TEMPERATURES - len(sigma)), -1)  # [P, TEMPERATURES]
    # a little everywhere, so that frozen replicas do not stop the clock
    density = density + 1e-3 * density.amax(-1, keepdim=True) + 1e-9
    # the integral by the trapezoidal rule
    steps = (density[:, 1:] + density[:, :-1]) / 2 * grid.diff().abs()
    length = torch.cat([torch.zeros(len(seeds), 1, dtype=torch.float64), steps.cumsum(-1)], -1)
    return EqualLengths(sweeps, grid, length)
