"""Population annealing: replicas cooled together, and at each step kept by their weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qsample.annealers.kernels.results import samples_of
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples, warn_of
from qsample.sampling.weights import (
    as_log_weight,
    effective_fraction,
    log_mean_exp,
    ordered_sum,
    relative_error,
    systematic,
)
from qsample.support.checks import whole_settings
from qsample.support.faces import public

BLOCKS = 32  # populations that never mix: their spread is the error of log Z
AT_ONCE = 1 << 20  # spins swept at once


@public("qsample.annealers")
@dataclass(frozen=True)
class PopulationAnnealing:
    r"""Population annealing: weighted reads, and log Z with its error.

    (Hukushima and Iba 2003; Machta, PRE 82, 2010.) A population starts at beta 0, where it is
    exact. A step to beta' weighs each replica by $e^{-(\beta' - \beta) E}$, resamples it in
    proportion (systematically) and sweeps it by Gibbs at beta'. The size of a step is such that the
    weights' effective sample size is `target_ess` of the population.

    The population consists of 32 that share the steps and never mix. Of each, the product of mean
    weights estimates Z, $\hat Z_k = 2^n \prod_t \langle w_t \rangle$; log Z is the log of their
    mean, its error comes from their spread, and a read of population k has weight $\hat Z_k$
    (Machta's weighted average), which makes expectations right however small populations are, up to
    what the adaptive steps owe to the same replicas (that vanishes as the population grows: Beskos
    et al., Ann. Appl. Probab. 26, 2016). Hence ASYMPTOTIC.

    Reads of one family (descendants of one first replica) are correlated as far as sweeps have not
    undone it; the reads' `family` names them, so that `Samples.ess` counts them as one.

    A mode that the population never finds, or loses, is missed without a note: log Z is then too
    low by more than its error. `AnnealedImportance` and `log_partition` look for such modes,
    `diagnose` judges the reads.

    Args:
        sweeps: number of sweeps at each step.
        population: least number of replicas of each problem: there are never fewer than reads, and
            a multiple of 32.
        target_ess: effective sample size of a step, as a fraction; nearer 1 means smaller steps.
        max_steps: largest number of steps. Their number grows with the scale of the problem; at the
            limit one last step goes to beta 1 whatever its effective size, and a
            `ReliabilityWarning` says so.

    Raises:
        ValueError: a setting that is none of these.

    `info`: "log_partition", "log_partition_stderr" and "steps" `[*B]`, "population" N,
    "family_size" `[*B]` (rho_t: N times the sum of the families' squared fractions, 1 if none was
    multiplied; Wang, Machta and Katzgraber, PRE 92, 2015), "ess" `[*B]` (of the weights of the 32
    populations, in replicas, over rho_t: the independent families the answer stands on), "note"
    where that is under 100 or steps ran out, which is a `ReliabilityWarning` too.
    """

    sweeps: int = 10
    population: int = 1024
    target_ess: float = 0.8
    max_steps: int = 1000

    name = "population-annealing"
    about = "replicas cooled and resampled together; weighted reads, log Z"
    exactness = Exactness.ASYMPTOTIC
    sweep_share = ("sweeps", 10)
    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1, population=1, max_steps=1)
        if not 0 < self.target_ess < 1:
            raise ValueError(f"expected target_ess between 0 and 1; got {self.target_ess!r}")

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw `num` weighted reads of each problem, a random choice of its population.

        Args:
            problem: the problems, a batch of any dimensions `*B`.
            num: reads of each problem.
            initial: refused, because a population starts at beta 0.
            generator: randomness, as in `Sampler.sample`.
        """
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        n = problem.num_spins
        size = -(-max(num, self.population) // BLOCKS) * BLOCKS
        flat = problem.without_offset().flat()
        # a few problems at a time, whose replicas stay in a core's cache
        at_once = max(1, AT_ONCE // (size * n))
        cooled: list[Cooled] = []
        for first in range(0, len(seeds), at_once):
            last = min(first + at_once, len(seeds))
            part = flat.take(torch.arange(first, last, device=flat.device))
            cooled += self._cooled(part, num, seeds[first:last], size)

        def of_all(name: str) -> Tensor:
            return torch.stack([getattr(population, name) for population in cooled])

        log_z = of_all("log_z")
        rho = of_all("family_size")
        ess = size * effective_fraction(log_z) / rho
        offset = problem.offset.double().expand(problem.batch_shape).reshape(-1).cpu()
        note = self._note(float(ess.min()), float(of_all("missing").max()))
        info = {
            "log_partition": n * math.log(2) + log_mean_exp(log_z) - offset,
            "log_partition_stderr": relative_error(log_z),
            "ess": ess,
            "family_size": rho,
            "steps": of_all("steps"),
            "population": size,
            "note": note,
        }
        warn_of(note)
        return samples_of(
            problem,
            of_all("spins"),
            Exactness.ASYMPTOTIC,
            info,
            log_weight=as_log_weight(of_all("log_weight"), problem),
            family=of_all("family"),
        )

    def _cooled(self, problem: Ising, num: int, seeds: Sequence[int], size: int) -> list[Cooled]:
        """Populations of `size` replicas cooled to beta 1, one per problem."""
        count = len(seeds)
        cpu = torch.device("cpu")
        streams = Streams([mix(seed, 1) for seed in seeds], cpu)
        choice = Streams([mix(seed, 2) for seed in seeds], cpu).uniform64(size)
        reads = choice.argsort(-1)[:, :num]
        sweeper = Sweeper(problem, size, seeds)
        sweeper.scatter()
        number = torch.arange(count)  # of each problem that is not at beta 1 yet
        beta = torch.zeros(count, dtype=torch.float64)
        missing = torch.zeros(count, dtype=torch.float64)
        log_z = torch.zeros(count, BLOCKS, dtype=torch.float64)
        family = torch.arange(size).expand(count, size)
        cooled: dict[int, Cooled] = {}
        steps = 0
        while len(number):
            # the next beta, at which the weights keep their effective size
            steps += 1
            energy = sweeper.energy()
            following = step(energy, beta, self.target_ess)
            if steps == self.max_steps:
                missing = 1 - following
                following = torch.ones_like(beta)
            # weigh each block of replicas, and resample it
            log_w = (-(following - beta)[:, None] * energy).unflatten(-1, (BLOCKS, -1))
            log_z = log_z + log_mean_exp(log_w)
            kept = survivors(log_w, streams.uniform(BLOCKS, 1))
            family = family.gather(-1, kept)
            spins = sweeper.spins
            sweeper.take(spins.take_along_dim(kept.to(spins.device)[..., None], 1))
            # sweep at the new beta
            beta = following
            sweeper.sweep(beta[:, None].float().expand(self.sweeps, len(beta), 1))
            # a problem at beta 1 rests: nobody waits for the slowest
            done = beta == 1
            if not done.any():
                continue
            for k in done.nonzero()[:, 0].tolist():
                chosen = reads[number[k]]
                members = family[k].bincount(minlength=size).double()
                cooled[int(number[k])] = Cooled(
                    spins=sweeper.spins[k][chosen.to(spins.device)],
                    log_weight=log_z[k][chosen // (size // BLOCKS)],
                    family=family[k][chosen],
                    log_z=log_z[k],
                    family_size=ordered_sum(members.square()) / size,
                    steps=torch.tensor(steps),
                    missing=missing[k],
                )
            going = (~done).nonzero()[:, 0]
            if len(going):
                sweeper.keep(going)
                streams.keep(going.tolist())
            number = number[going]
            beta = beta[going]
            missing = missing[going]
            log_z = log_z[going]
            family = family[going]
        return [cooled[k] for k in range(count)]

    def _note(self, ess: float, missing: float) -> str:
        notes = []
        if missing > 0:
            notes.append(
                f"steps ran out at beta {1 - missing:.3g} (max_steps={self.max_steps}): raise "
                "max_steps or lower target_ess"
            )
        if ess < 100:
            notes.append(f"only {ess:.0f} effective families: raise population or sweeps")
        return "; ".join(notes)


class Cooled(NamedTuple):
    """A population at beta 1: the reads chosen of it, and what it went through."""

    spins: Tensor  # [num, n]
    log_weight: Tensor  # [num]
    family: Tensor  # [num] the first replica that each comes from
    log_z: Tensor  # [BLOCKS] log of the product of mean weights, of each block
    family_size: Tensor  # rho_t
    steps: Tensor
    missing: Tensor  # of beta 1, where steps ran out


def step(energy: Tensor, beta: Tensor, target: float) -> Tensor:
    """The next beta of each problem, at most 1: where weights have the effective fraction `target`.

    By bisection; the fraction is 1 for a step of nothing and falls. Rounded to single precision, as
    kernels take it.

    Args:
        energy: E of the replicas, `[P, N]`.
        beta: the present beta of each problem, `[P]` float64.
        target: effective sample size of the weights over N.
    """

    def fits(following: Tensor) -> Tensor:
        return effective_fraction((beta - following)[:, None] * energy) >= target

    high = torch.ones_like(beta)
    low = torch.where(fits(high), high, beta)
    for _ in range(30):
        middle = (low + high) / 2
        fit = fits(middle)
        low = torch.where(fit, middle, low)
        high = torch.where(fit, high, middle)
    return torch.maximum(low, beta + 2.0**-20).float().double().clamp_max(1)


def survivors(log_w: Tensor, u: Tensor) -> Tensor:
    """Places `[P, K M]` of the replicas kept: systematic resampling within each block.

    Args:
        log_w: log weights `[P, K, M]` of K blocks of M replicas.
        u: one uniform number per block, `[P, K, 1]`.
    """
    _, blocks, size = log_w.shape
    weight = (log_w - log_w.amax(-1, keepdim=True)).exp()
    place = systematic(weight, u, size)
    return (place + size * torch.arange(blocks)[:, None]).flatten(1)
