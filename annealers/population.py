"""Population annealing: replicas cooled together, multiplied or removed by their weight at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.replicas import Replicas, effective_fraction, log_mean_exp, ordered_sum, relative_error
from qsample.annealers.streams import Streams
from qsample.ising import Ising
from qsample.sampler import Generators, check_request, draw_seeds, mix
from qsample.samples import Exactness, Samples
from qsample.transforms import uncompiled

BLOCKS = 32  # populations that never mix: their spread is the error of log Z


@dataclass(frozen=True)
class PopulationAnnealing:
    r"""Population annealing (Hukushima and Iba 2003; Machta, PRE 82, 2010): weighted reads, and log Z with its error.

    A population starts at beta 0, where it is exact. A step to beta' weighs each replica by $e^{-(\beta' - \beta) E}$,
    resamples it in proportion (systematically) and sweeps it by Gibbs at beta'. The size of a step is such that the
    weights' effective sample size is `target_ess` of the population.

    The population consists of 32 that share the steps and never mix. Of each, the product of mean weights
    estimates Z, $\hat Z_k = 2^n \prod_t \langle w_t \rangle$; log Z is the log of their mean, its error comes from
    their spread, and a read of population k has weight $\hat Z_k$ (Machta's weighted average), which makes
    expectations right however small populations are, up to what the adaptive steps owe to the same replicas (that
    vanishes as the population grows: Beskos et al., Ann. Appl. Probab. 26, 2016). Hence ASYMPTOTIC.

    Reads of one family (descendants of one first replica) are correlated as far as sweeps have not undone it.

    Args:
        sweeps: sweeps at each step.
        population: replicas of each problem, at least; there are never fewer than reads, and a multiple of 32.
        target_ess: effective sample size of a step, as a fraction; nearer 1 means smaller steps.

    `info`: "log_partition", "log_partition_stderr" and "steps" `[*B]`, "population" N, "family_size" `[*B]` (rho_t: N
    times the sum of the families' squared fractions, 1 if none was multiplied; Wang, Machta and Katzgraber, PRE 92,
    2015), "ess" `[*B]` (of the weights of the 32 populations, in replicas, over rho_t: the independent families the
    answer stands on), "note" where that is under 100.
    """

    sweeps: int = 10
    population: int = 1024
    target_ess: float = 0.8

    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        for name in ("sweeps", "population"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} >= 1; got {value!r}")
        if not 0 < self.target_ess < 1:
            raise ValueError(f"expected target_ess between 0 and 1; got {self.target_ess!r}")

    @uncompiled
    def sample(
        self, problem: Ising, num: int, *, initial: Samples | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Sampler.sample`; the reads are weighted, and a random choice of the population."""
        problem = check_request(self, problem, num, initial)
        seeds, batch, n = draw_seeds(generator, problem.batch_shape), problem.batch_shape, problem.num_spins
        P, N = len(seeds), -(-max(num, self.population) // BLOCKS) * BLOCKS
        streams = Streams([mix(seed, 1) for seed in seeds], torch.device("cpu"))
        replicas = Replicas(problem, N, seeds)
        beta, steps = torch.zeros(P, dtype=torch.float64), torch.zeros(P, dtype=torch.int64)
        log_z = torch.zeros(P, BLOCKS, dtype=torch.float64)
        family = torch.arange(N).expand(P, N)
        while (going := beta < 1).any():
            energy = replicas.energy
            following = step(energy, beta, self.target_ess)
            log_w = (-(following - beta)[:, None] * energy).unflatten(-1, (BLOCKS, -1))
            log_z += log_mean_exp(log_w) * going[:, None]
            u = streams.uniform(BLOCKS, 1)
            kept = torch.where(going[:, None], systematic(log_w, u), torch.arange(N))  # those at beta 1 rest
            family = family.gather(-1, kept)
            before = replicas.spins
            replicas.take(before.take_along_dim(kept.to(before.device)[..., None], 1))
            beta = following
            replicas.sweep(beta[:, None].float().expand(self.sweeps, P, 1).expand(-1, -1, N))
            if not going.all():
                replicas.take(torch.where(going.to(before.device)[:, None, None], replicas.spins, before))
            steps += going
        pick = Streams([mix(seed, 2) for seed in seeds], torch.device("cpu")).uniform64(N).argsort(-1)[:, :num]
        spins = replicas.spins.take_along_dim(pick.to(problem.device)[..., None], 1).reshape(*batch, num, n)
        weight = log_z.gather(-1, pick // (N // BLOCKS)).to(problem.device, problem.dtype).reshape(*batch, num)
        members = torch.zeros(P, N, dtype=torch.float64).scatter_add_(-1, family, torch.ones(P, N, dtype=torch.float64))
        rho = ordered_sum(members.square()) / N
        ess = N * effective_fraction(log_z) / rho
        info = {
            "log_partition": (n * math.log(2) + log_mean_exp(log_z)).reshape(batch),
            "log_partition_stderr": relative_error(log_z).reshape(batch),
            "ess": ess.reshape(batch),
            "family_size": rho.reshape(batch),
            "steps": steps.reshape(batch),
            "population": N,
            "note": "" if ess.min() >= 100 else f"only {ess.min():.0f} effective families: raise population or sweeps",
        }
        return Samples(spins, problem.energy(spins), weight, Exactness.ASYMPTOTIC, info)


def step(energy: Tensor, beta: Tensor, target: float) -> Tensor:
    """The next beta of each problem `[P]`, at most 1: where weights of `energy` [P, N] have that effective fraction.

    By bisection; the fraction is 1 for a step of nothing and falls. Rounded to single precision, as kernels take it.
    """
    low, high = beta, torch.ones_like(beta)

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
