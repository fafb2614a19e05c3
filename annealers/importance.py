"""Annealed importance sampling: every annealing run ends in a read with a weight that makes expectations right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qsample import enumerate as enumeration
from qsample.annealers.replicas import (
    Replicas,
    as_log_weight,
    effective_fraction,
    log_mean_exp,
    relative_error,
)
from qsample.checks import whole_settings
from qsample.ising import Ising
from qsample.sampler import Generators, check_request, draw_seeds
from qsample.samples import Exactness, Samples

Schedule = Literal["linear"]


@dataclass(frozen=True)
class AnnealedImportance:
    r"""Annealed importance sampling (Neal, Stat. Comput. 11, 2001): independent weighted reads and log Z.

    The path leads from independent spins in fields `base` to the problem, $E_b(s) = (1 - b) base \cdot s + b E(s)$,
    one Gibbs sweep at each b, and a run collects $\log w = \sum_t E_{b_{t-1}}(s_{t-1}) - E_{b_t}(s_{t-1})$. The mean
    of w over runs, times $Z_0 = \prod_i 2 \cosh base_i$, is unbiased for Z, and weighted means are right in the
    limit of many runs, however fast the annealing.

    A bipartite problem is weighted by its left side's marginal, which has the smaller variance (Salakhutdinov and
    Murray, ICML 2008); the last sweep, at the target itself, draws the right side anew, so that such a weight serves
    both.

    Args:
        sweeps: sweeps of the named schedule.
        schedule: "linear", or the values of b themselves: increasing, above 0, the last 1.
        base: fields `[n]` where the path begins; by default the problem's own, so that couplings alone are annealed.

    `info`: "log_partition", "log_partition_stderr" and "ess" `[*B]` (the effective number of runs), "note" where
    that is under 10.
    """

    sweeps: int = 1000
    schedule: Schedule | Tensor | Sequence[float] = "linear"
    base: Tensor | None = None

    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1)
        if isinstance(self.schedule, str) and self.schedule not in get_args(Schedule):
            raise ValueError(f"unknown schedule {self.schedule!r}; expected linear, or the betas themselves")
        path = self.betas
        if not path or path[0] <= 0 or path[-1] != 1 or path != sorted(path):
            raise ValueError(f"expected betas that increase, above 0, to 1; got {path[:4]}")

    @property
    def betas(self) -> list[float]:
        """The b of each sweep."""
        if isinstance(self.schedule, str):
            return [t / self.sweeps for t in range(1, self.sweeps + 1)]
        return [float(b) for b in self.schedule]

    def sample(
        self, problem: Ising, num: int, *, initial: Samples | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Sampler.sample`; the reads are weighted."""
        problem = check_request(self, problem, num, initial)
        seeds, batch = draw_seeds(generator, problem.batch_shape), problem.batch_shape
        base = problem.h if self.base is None else self.base.to(problem.h)
        if base.shape[-1:] != problem.h.shape[-1:]:
            raise ValueError(f"expected base fields of shape [{problem.num_spins}]; got {list(base.shape)}")
        replicas, log_w = anneal(problem.without_offset(), num, self.betas, seeds, base)
        spins = replicas.spins.reshape(*batch, num, problem.num_spins)
        free = enumeration.log_2cosh(base.double()).cumsum(-1)[..., -1]
        start = (free - problem.offset.double()).cpu()
        ess = num * effective_fraction(log_w)
        info = {
            "sweeps": len(self.betas),
            "log_partition": log_mean_exp(log_w).reshape(batch) + start,
            "log_partition_stderr": relative_error(log_w).reshape(batch),
            "ess": ess.reshape(batch),
            "note": "" if ess.min() >= 10 else f"only {ess.min():.1f} effective runs: raise sweeps",
        }
        weight = as_log_weight(log_w, problem)
        return Samples(spins, problem.energy(spins), weight, Exactness.ASYMPTOTIC, info)


def anneal(
    problem: Ising, num: int, betas: Sequence[float], seeds: Sequence[int], base: Tensor
) -> tuple[Replicas, Tensor]:
    """Replicas annealed along the path from `base`, and their log weights `[P, num]`, float64 on the CPU."""
    batch, sizes = problem.batch_shape, problem.graph.sizes
    rise = Ising(problem.graph, problem.h - base, problem.J, problem.offset)  # dE_b / db, itself an Ising energy
    wide = problem.to(dtype=torch.float64)

    def at(b: float, like: Ising = problem) -> Ising:
        field = base.to(like.h)
        return Ising(like.graph, (1 - b) * field + b * like.h, b * like.J, b * like.offset)

    def marginal(b: float) -> Tensor:
        left = replicas.spins[..., : sizes[0]].reshape(*batch, num, sizes[0])
        return enumeration.side_log_weights(at(b, wide), 0, left).reshape(-1, num).cpu()

    replicas, once = Replicas(at(0.0), num, seeds), torch.ones(1, dtype=torch.float32)
    replicas.sweep(once)  # no couplings: an exact draw
    log_w = torch.zeros(len(seeds), num, dtype=torch.float64)
    for b, following in zip([0.0, *betas], betas, strict=False):
        if problem.graph.kind == "bipartite":
            log_w += marginal(following) - marginal(b)
        else:
            log_w -= (following - b) * replicas.energy_under(rise)
        replicas.move(at(following))
        replicas.sweep(once)
    return replicas, log_w
