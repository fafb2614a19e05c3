"""Population annealing: replicas cooled together, multiplied or removed by their weight at each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.kernels.energies import energies_of
from qsample.annealers.kernels.replicas import (
    Replicas,
    as_log_weight,
    effective_fraction,
    log_mean_exp,
    ordered_sum,
    relative_error,
)
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import one_batch, some_of
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators, check_request, draw_seeds, mix
from qsample.sampling.samples import Exactness, Samples, warn_of
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled

BLOCKS = 32  # populations that never mix: their spread is the error of log Z
AT_ONCE = 1 << 20  # spins swept at once


@public("qsample.annealers")
@dataclass(frozen=True)
class PopulationAnnealing:
    r"""Population annealing (Hukushima and Iba 2003; Machta, PRE 82, 2010): weighted reads, and log Z with its error.

    A population starts at beta 0, where it is exact. A step to beta' weighs each replica by
    $e^{-(\beta' - \beta) E}$, resamples it in proportion (systematically) and sweeps it by Gibbs at
    beta'. The size of a step is such that the weights' effective sample size is `target_ess` of the
    population.

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
        sweeps: sweeps at each step.
        population: replicas of each problem, at least; there are never fewer than reads, and a
            multiple of 32.
        target_ess: effective sample size of a step, as a fraction; nearer 1 means smaller steps.
        max_steps: steps at most. Their number grows with the scale of the problem; at the limit one
            last step goes to beta 1 whatever its effective size, and a `ReliabilityWarning` says
            so.

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

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`; the reads are weighted, and a random choice of the population."""
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        batch = problem.batch_shape
        n = problem.num_spins
        P = len(seeds)
        N = -(-max(num, self.population) // BLOCKS) * BLOCKS
        flat = one_batch(problem.without_offset())
        at_once = max(1, AT_ONCE // (N * n))  # problems whose replicas stay in a core's cache
        parts = []
        for a in range(0, P, at_once):
            few = slice(a, a + at_once)
            parts += self._cooled(some_of(flat, few), num, seeds[few], N)
        spins, log_w, family, log_z, rho, steps, left = (
            torch.stack(column) for column in zip(*parts, strict=True)
        )
        spins = spins.reshape(*batch, num, n)
        weight = as_log_weight(log_w, problem)
        ess = N * effective_fraction(log_z) / rho
        note = self._note(float(ess.min()), float(left.max()))
        info = {
            "log_partition": (n * math.log(2) + log_mean_exp(log_z)).reshape(batch)
            - problem.offset.double().cpu(),
            "log_partition_stderr": relative_error(log_z).reshape(batch),
            "ess": ess.reshape(batch),
            "family_size": rho.reshape(batch),
            "steps": steps.reshape(batch),
            "population": N,
            "note": note,
        }
        warn_of(note)
        family = family.reshape(*batch, num).to(problem.device)
        return Samples(
            spins, energies_of(problem, spins), weight, Exactness.ASYMPTOTIC, info, family=family
        )

    def _cooled(
        self, problem: Ising, num: int, seeds: Sequence[int], N: int
    ) -> list[tuple[Tensor, ...]]:
        """Of each problem: `num` of its reads, their log weights and families, and what `info` is made of."""
        P = len(seeds)
        cpu = torch.device("cpu")
        streams = Streams([mix(seed, 1) for seed in seeds], cpu)
        pick = Streams([mix(seed, 2) for seed in seeds], cpu).uniform64(N).argsort(-1)[:, :num]
        replicas = Replicas(problem, N, seeds)
        number = torch.arange(P)
        beta = torch.zeros(P, dtype=torch.float64)
        left = torch.zeros(P, dtype=torch.float64)
        log_z = torch.zeros(P, BLOCKS, dtype=torch.float64)
        family = torch.arange(N).expand(P, N)
        cooled = dict[int, tuple[Tensor, ...]]()
        steps = 0
        while len(number):
            steps += 1
            energy = replicas.energy
            following = step(energy, beta, self.target_ess)
            if steps == self.max_steps:
                left = 1 - following
                following = torch.ones_like(beta)
            log_w = (-(following - beta)[:, None] * energy).unflatten(-1, (BLOCKS, -1))
            log_z = log_z + log_mean_exp(log_w)
            kept = systematic(log_w, streams.uniform(BLOCKS, 1))
            family = family.gather(-1, kept)
            spins = replicas.spins
            replicas.take(spins.take_along_dim(kept.to(spins.device)[..., None], 1))
            beta = following
            replicas.sweep(
                beta[:, None].float().expand(self.sweeps, len(beta), 1).expand(-1, -1, N)
            )
            done = beta == 1
            if not done.any():
                continue
            spins = replicas.spins
            for k in done.nonzero()[:, 0].tolist():
                mine = pick[number[k]]
                members = family[k].bincount(minlength=N).double()
                rho = ordered_sum(members.square()) / N
                log_weight = log_z[k][mine // (N // BLOCKS)]
                reads = spins[k][mine.to(spins.device)]
                about = log_z[k], rho, torch.tensor(steps), left[k]
                cooled[int(number[k])] = (reads, log_weight, family[k][mine], *about)
            going = (~done).nonzero()[:, 0]
            if len(going):  # a problem at beta 1 rests: nobody waits for the slowest
                replicas.keep(going)
                streams.keep(going.tolist())
            number = number[going]
            beta = beta[going]
            left = left[going]
            log_z = log_z[going]
            family = family[going]
        return [cooled[k] for k in range(P)]

    def _note(self, ess: float, left: float) -> str:
        notes = []
        if left > 0:
            ran_out = f"steps ran out at beta {1 - left:.3g} (max_steps={self.max_steps})"
            notes.append(f"{ran_out}: raise max_steps or lower target_ess")
        if ess < 100:
            notes.append(f"only {ess:.0f} effective families: raise population or sweeps")
        return "; ".join(notes)


def step(energy: Tensor, beta: Tensor, target: float) -> Tensor:
    """The next beta of each problem `[P]`, at most 1: where weights of `energy` [P, N] have that effective fraction.

    By bisection; the fraction is 1 for a step of nothing and falls. Rounded to single precision, as
    kernels take it.
    """
    low = beta
    high = torch.ones_like(beta)

    def good(at: Tensor) -> Tensor:
        return effective_fraction((beta - at)[:, None] * energy) >= target

    low = torch.where(good(high), high, low)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (torch.where(good(middle), *pair) for pair in ((middle, low), (high, middle)))
    return torch.maximum(low, beta + 2.0**-20).float().double().clamp_max(1)


def systematic(log_w: Tensor, u: Tensor) -> Tensor:
    """Indices `[P, K M]` of the replicas kept: systematic resampling within each block of `log_w` [P, K, M].

    Replica i is kept M w_i / sum w times on average, and no further from that than one.
    """
    _, K, M = log_w.shape
    total = (log_w - log_w.amax(-1, keepdim=True)).exp().cumsum(-1)
    points = (torch.arange(M, dtype=torch.float64) + u) / M * total[..., -1:]
    index = torch.searchsorted(total, points, right=True).clamp_max(M - 1)
    return (index + M * torch.arange(K)[:, None]).flatten(1)
