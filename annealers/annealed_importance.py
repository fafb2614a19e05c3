"""Annealed importance sampling: every annealing run ends in a read with a weight that makes expectations right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qsample.annealers.kernels.energies import energies_of
from qsample.annealers.kernels.precision import field_sizes
from qsample.annealers.kernels.replicas import (
    Replicas,
    as_log_weight,
    effective_fraction,
    log_mean_exp,
    relative_error,
)
from qsample.annealers.modes.missed import flat, missed
from qsample.problem import enumeration
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Generators, check_request, draw_seeds
from qsample.sampling.samples import Exactness, Samples, warn_of
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.progress import tracked
from qsample.support.transforms import uncompiled

Schedule = Literal["linear"]
LONG_STEP = 8.0  # a change of a local field in one sweep that turns a spin for certain


@public("qsample.annealers")
@dataclass(frozen=True)
class AnnealedImportance:
    r"""Annealed importance sampling (Neal, Stat. Comput. 11, 2001): independent weighted reads and log Z.

    The path leads from independent spins in fields `base` to the problem, $E_b(s) = (1 - b) base
    \cdot s + b E(s)$, one Gibbs sweep at each b, and a run collects $\log w = \sum_t
    E_{b_{t-1}}(s_{t-1}) - E_{b_t}(s_{t-1})$. The mean of w over runs, times $Z_0 = \prod_i 2 \cosh
    base_i$, is unbiased for Z, and weighted means are right in the limit of many runs, however fast
    the annealing.

    A bipartite problem is weighted by its left side's marginal, which has the smaller variance
    (Salakhutdinov and Murray, ICML 2008); the last sweep, at the target itself, draws the right
    side anew, so that such a weight serves both.

    Runs that all take one way may all miss a mode, and then agree with each other. So `check`
    compares them with runs from each basin that chains started apart find (`missed` says how), for
    about the cost of the runs themselves. Where these see more, log Z counts it, its error is as
    wide as the disagreement, and a `ReliabilityWarning` says so; the reads keep the weights of
    their own runs. What no start finds is missed all the same.

    Args:
        sweeps: sweeps of the named schedule.
        schedule: "linear", or the values of b themselves: increasing, above 0, the last 1.
        base: fields `[n]` where the path begins; by default the problem's own, so that couplings
            alone are annealed.
        check: whether to compare with runs that begin elsewhere.

    `info`: "log_partition", "log_partition_stderr" and "ess" `[*B]` (the effective number of runs),
    "missed" `[*B]` (nats that only runs from elsewhere saw), "note" where that is above 0, the
    effective number under 10 and under half of the runs, or a step so long that all runs may agree
    on another law: a field changes by 8 or more in it.
    """

    sweeps: int = 1000
    schedule: Schedule | Tensor | Sequence[float] = "linear"
    base: Tensor | None = None
    check: bool = True

    name = "annealed-importance"
    about = "annealing with importance weights; weighted reads, log Z"
    exactness = Exactness.ASYMPTOTIC
    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        whole_settings(self, sweeps=1)
        if isinstance(self.schedule, str) and self.schedule not in get_args(Schedule):
            raise ValueError(
                f"unknown schedule {self.schedule!r}; expected linear, or the betas themselves"
            )
        path = self.betas
        if not path or path[0] <= 0 or path[-1] != 1 or path != sorted(path):
            raise ValueError(f"expected betas that increase, above 0, to 1; got {path[:4]}")

    @property
    def betas(self) -> list[float]:
        """The b of each sweep."""
        if isinstance(self.schedule, str):
            return [t / self.sweeps for t in range(1, self.sweeps + 1)]
        return [float(b) for b in self.schedule]

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`; the reads are weighted."""
        samples = self.annealed(problem, num, initial=initial, generator=generator)
        warn_of(samples.info["note"])
        return samples

    def annealed(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
        starts: Tensor | None = None,
    ) -> Samples:
        """As `sample` without its warning; `check` begins from rows `starts` `[S, n]` of spins too."""
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        batch = problem.batch_shape
        base = problem.h if self.base is None else self.base.to(problem.h)
        if base.shape[-1:] != problem.h.shape[-1:]:
            raise ValueError(
                f"expected base fields of shape [{problem.num_spins}]; got {list(base.shape)}"
            )
        rows = None if starts is None else (starts.dim(), starts.shape[-1], len(starts) > 0)
        if starts is not None and rows != (2, problem.num_spins, True):
            raise ValueError(
                f"expected starts of shape [S, {problem.num_spins}]; got {list(starts.shape)}"
            )
        # an offset counts at the end: beside a large one nothing is exact
        bare = problem.without_offset()
        replicas, log_w = anneal(bare, num, self.betas, seeds, base)
        start = log_2cosh_sum(base).cpu().expand(batch).reshape(-1)
        ess = num * effective_fraction(log_w)
        log_z = log_mean_exp(log_w) + start
        stderr = relative_error(log_w)
        nats = torch.zeros_like(start)
        notes = [""] * len(seeds)
        if self.check and num > 1:
            whole = log_w + start[:, None]
            found = missed(
                flat(bare), replicas.spins, whole, len(self.betas), seeds, self._again, starts
            )
            log_z = found.log_z
            stderr = found.stderr
            nats = found.nats
            notes = found.notes
        few = (
            ""
            if ess.min() >= min(10, num / 2)
            else f"only {ess.min():.1f} effective runs: raise sweeps"
        )
        jump = _longest_step(bare, base, self.betas)
        coarse = (
            f"a sweep changes a field by up to {jump:.3g}: raise sweeps, or scale the problem down"
        )
        coarse = coarse if jump > LONG_STEP and not few else ""
        worst = notes[int(nats.argmax())]
        spins = replicas.spins.reshape(*batch, num, problem.num_spins)
        info = {
            "sweeps": len(self.betas),
            "log_partition": log_z.reshape(batch) - problem.offset.double().cpu(),
            "log_partition_stderr": stderr.reshape(batch),
            "ess": ess.reshape(batch),
            "missed": nats.reshape(batch),
            "note": "; ".join(filter(None, (worst, coarse, few))),
        }
        weight = as_log_weight(log_w, problem)
        return Samples(spins, energies_of(problem, spins), weight, Exactness.ASYMPTOTIC, info)

    def _again(
        self, problem: Ising, num: int, seeds: Sequence[int], base: Tensor
    ) -> tuple[Tensor, Tensor]:
        replicas, log_w = anneal(problem, num, self.betas, seeds, base)
        return replicas.spins, log_w + log_2cosh_sum(base).cpu()[:, None]


def _longest_step(problem: Ising, base: Tensor, betas: Sequence[float]) -> float:
    """The largest change of a local field from one b to the next, for the state that sees most of it.

    Where it is far above 1 the law of a step is another than that of the step before, and what lies
    between is never visited: all runs may miss the same part of the law and agree.
    """
    rise = Ising(problem.graph, problem.h - base, problem.J)
    steps = torch.tensor([0.0, *betas], dtype=torch.float64).diff()
    return float(field_sizes(rise).max() * steps.max())


def _as_matrix(problem: Ising) -> Ising:
    """A sparse problem in double on the complete graph, where a matrix product is quicker than a sum over edges.

    In single precision the native kernels sum over edges.
    """
    graph = problem.graph
    n = problem.num_spins
    if graph.kind != "sparse" or problem.dtype != torch.float64 or n * n > 16 * graph.num_edges:
        return problem
    i, j = graph.pairs.to(problem.device)
    J = problem.J.new_zeros(*problem.J.shape[:-1], n, n)
    J[..., i, j] = problem.J
    return Ising(Graph.complete(n), problem.h, J + J.mT, problem.offset)


def log_2cosh_sum(base: Tensor) -> Tensor:
    """Log Z of independent spins in fields `base` [..., n], double."""
    return enumeration.log_2cosh(base.double()).cumsum(-1)[..., -1]


def anneal(
    problem: Ising, num: int, betas: Sequence[float], seeds: Sequence[int], base: Tensor
) -> tuple[Replicas, Tensor]:
    """Replicas annealed along the path from `base`, and their log weights `[P, num]`, float64 on the CPU."""
    batch = problem.batch_shape
    sizes = problem.graph.sizes
    # dE_b / db, itself an Ising energy
    rise = Ising(problem.graph, problem.h - base, problem.J, problem.offset)
    rise = _as_matrix(rise)
    wide = problem.to(dtype=torch.float64)

    def at(b: float, like: Ising = problem) -> Ising:
        field = base.to(like.h)
        return Ising(like.graph, (1 - b) * field + b * like.h, b * like.J, b * like.offset)

    def marginal(b: float) -> Tensor:
        left = replicas.spins[..., : sizes[0]].reshape(*batch, num, sizes[0])
        return enumeration.side_log_weights(at(b, wide), 0, left).reshape(-1, num).cpu()

    hardest = Ising(problem.graph, torch.maximum(base.abs(), problem.h.abs()), problem.J)
    replicas = Replicas(at(0.0), num, seeds, hardest=hardest)
    once = torch.ones(1, dtype=torch.float32)
    replicas.sweep(once)  # no couplings: an exact draw
    log_w = torch.zeros(len(seeds), num, dtype=torch.float64)
    path = list(zip([0.0, *betas], betas, strict=False))
    for b, following in tracked(path, "annealed importance sampling", "temperature"):
        if problem.graph.kind == "bipartite":
            log_w += marginal(following) - marginal(b)
        else:
            log_w -= (following - b) * replicas.energy_under(rise)
        replicas.move(at(following))
        replicas.sweep(once)
    return replicas, log_w
