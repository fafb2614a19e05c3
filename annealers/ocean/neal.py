"""dwave-samplers' simulated annealing, with settings that are safe for Boltzmann sampling."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from qsample.annealers.kernels.betas import Schedule, schedule
from qsample.annealers.kernels.precision import check_sizes
from qsample.annealers.kernels.update import Rule
from qsample.annealers.ocean.dimod import DimodAnnealer
from qsample.annealers.simulated_annealing import SimulatedAnnealing
from qsample.problem.ising import Ising
from qsample.sampling.cost import count_updates, with_cost
from qsample.sampling.random import Generators
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.support.faces import public


@public("qsample.annealers")
@dataclass(frozen=True)
class Neal:
    """dwave-samplers' simulated annealing (what the package `neal` became), Boltzmann-safe.

    Its own defaults are an optimiser's: a final beta far above 1 and a Metropolis rule that is
    near-deterministic when hot. Here the schedule ends at beta 1 under the Gibbs rule. Its first
    read hardly depends on the seed, so one more read is taken than asked and the first is dropped.

    Its Metropolis rule flips a spin in no field at every visit: visits in a fixed order leave a
    ring of 10 at a mean energy of -1.9 for -7.96, for ever. Under that rule spins are therefore
    visited at random, which takes a third more time.

    Args:
        sweeps: number of sweeps of a named schedule.
        beta_range: first and last beta of a named schedule.
        schedule: "geometric", "linear", or the betas themselves, one per sweep.
        rule: acceptance of a flip, "gibbs" or "metropolis".

    Raises:
        ValueError: a setting that `SimulatedAnnealing` refuses too.
        ImportError: dwave-samplers is not installed.
    """

    sweeps: int = 1000
    beta_range: tuple[float, float] = (0.01, 1.0)
    schedule: Schedule | torch.Tensor | tuple[float, ...] = "geometric"
    rule: Rule = "gibbs"

    name = "neal"
    about = "dwave-samplers' annealing, Boltzmann-safe settings"
    exactness = Exactness.HEURISTIC
    needs = "dwave.samplers"
    preset = {"beta_range": (0.0, 1.0), "schedule": "linear"}
    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        # our own annealing has the same settings, so its checks are these
        checked = SimulatedAnnealing(self.sweeps, self.beta_range, self.schedule, self.rule)
        object.__setattr__(self, "sweeps", checked.sweeps)
        _ = self._annealer

    @functools.cached_property
    def _annealer(self) -> DimodAnnealer:
        from dwave.samplers import SimulatedAnnealingSampler

        betas = schedule(self.schedule, self.sweeps, self.beta_range)
        return DimodAnnealer(
            SimulatedAnnealingSampler(),
            beta_schedule_type="custom",
            beta_schedule=betas.block(0, betas.count).tolist(),
            proposal_acceptance_criteria=self.rule.capitalize(),
            randomize_order=self.rule == "metropolis",
        )

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw reads of each problem; see `Sampler.sample`.

        Args:
            problem: one problem, or a batch `*B` of problems.
            num: number of reads per problem.
            initial: refused, as this sampler cannot continue chains.
            generator: source of the seeds; None is torch's default generator.
        """
        check_request(self, problem, num, initial)
        check_sizes(problem)
        # the first read hardly depends on the seed: it is drawn and dropped
        reads = self._annealer.sample(problem, num + 1, generator=generator)
        sweeps = schedule(self.schedule, self.sweeps, self.beta_range).count
        count_updates(sweeps * reads.spins.numel())
        spins = reads.spins[..., 1:, :].contiguous()
        energy = reads.energy[..., 1:].contiguous()
        return Samples(spins, energy, info=reads.info)
