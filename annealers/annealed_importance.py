"""Annealed importance sampling: runs end in reads with weights that make expectations right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from qsample.annealers.kernels.precision import field_sizes
from qsample.annealers.kernels.results import samples_of
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.annealers.modes.missed import missed
from qsample.problem import enumeration
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples, warn_of
from qsample.sampling.weights import (
    as_log_weight,
    effective_fraction,
    log_mean_exp,
    relative_error,
)
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.progress import tracked

Schedule = Literal["linear"]
LONG_STEP = 8.0  # a change of a local field in one sweep that turns a spin for certain


@public("qsample.annealers")
@dataclass(frozen=True)
class AnnealedImportance:
    r"""Annealed importance sampling: independent weighted reads and log Z, with its error.

    (Neal, Stat. Comput. 11, 2001.) The path leads from independent spins in fields `base` to the
    problem, $E_b(s) = (1 - b) base \cdot s + b E(s)$, one Gibbs sweep at each b, and a run collects
    $\log w = \sum_t E_{b_{t-1}}(s_{t-1}) - E_{b_t}(s_{t-1})$. The mean of w over runs, times $Z_0 =
    \prod_i 2 \cosh base_i$, is unbiased for Z, and weighted means are right in the limit of many
    runs, however fast the annealing.

    A bipartite problem is weighted by its left side's marginal, which has the smaller variance
    (Salakhutdinov and Murray, ICML 2008); the last sweep, at the target itself, draws the right
    side anew, so that such a weight serves both.

    Runs that all take one way may all miss a mode, and then agree with each other. So `check`
    compares them with runs from each basin that chains started apart find (`missed` says how), for
    about the cost of the runs themselves. Where these see more, log Z counts it, its error is as
    wide as the disagreement, and a `ReliabilityWarning` says so; the reads keep the weights of
    their own runs. What no start finds is missed all the same.

    Args:
        sweeps: number of sweeps of the named schedule.
        schedule: "linear", or the values of b themselves: increasing, above 0, the last 1.
        base: fields `[n]` where the path begins; None is the problem's own, so that couplings alone
            are annealed.
        check: whether to compare with runs that begin elsewhere.

    Raises:
        ValueError: a setting that is none of these.

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

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw `num` weighted reads of each problem.

        Args:
            problem: the problems, a batch of any dimensions `*B`.
            num: reads of each problem.
            initial: refused, because a path begins at independent spins.
            generator: randomness, as in `Sampler.sample`.
        """
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
        """As `sample`, without its warning.

        Args:
            problem: the problems, a batch of any dimensions `*B`.
            num: reads of each problem.
            initial: refused.
            generator: randomness, as in `Sampler.sample`.
            starts: further rows of spins `[S, n]` from which `check` begins, such as data; None for
                none.

        Raises:
            ValueError: `base` or `starts` of another number of spins.
        """
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        base = self._base_of(problem, starts)
        # an offset counts at the end: beside a large one nothing is exact
        bare = problem.without_offset()
        sweeper, log_w = anneal(bare, num, self.betas, seeds, base)
        start = log_2cosh_sum(base).cpu().expand(problem.batch_shape).reshape(-1)
        ess = num * effective_fraction(log_w)
        log_z = log_mean_exp(log_w) + start
        stderr = relative_error(log_w)
        nats = torch.zeros_like(start)
        mode_note = ""
        if self.check and num > 1:
            comparison = missed(
                bare.flat(),
                sweeper.spins,
                log_w + start[:, None],
                len(self.betas),
                seeds,
                self._again,
                starts,
            )
            log_z = comparison.log_z
            stderr = comparison.stderr
            nats = comparison.nats
            mode_note = comparison.notes[int(nats.argmax())]
        offset = problem.offset.double().expand(problem.batch_shape).reshape(-1).cpu()
        info = {
            "sweeps": len(self.betas),
            "log_partition": log_z - offset,
            "log_partition_stderr": stderr,
            "ess": ess,
            "missed": nats,
            "note": self._note(
                mode_note, float(ess.min()), num, _longest_step(bare, base, self.betas)
            ),
        }
        weight = as_log_weight(log_w, problem)
        return samples_of(problem, sweeper.spins, Exactness.ASYMPTOTIC, info, log_weight=weight)

    def _base_of(self, problem: Ising, starts: Tensor | None) -> Tensor:
        """Fields where the path begins, like h; the sizes of `base` and `starts` are checked."""
        n = problem.num_spins
        base = problem.h if self.base is None else self.base.to(problem.h)
        if base.shape[-1:] != problem.h.shape[-1:]:
            raise ValueError(f"expected base fields of shape [{n}]; got {list(base.shape)}")
        if starts is not None:
            rows = starts.dim() == 2 and starts.shape[-1] == n and len(starts) > 0
            if not rows:
                raise ValueError(f"expected starts of shape [S, {n}]; got {list(starts.shape)}")
        return base

    def _note(self, mode_note: str, ess: float, num: int, longest_step: float) -> str:
        """What is to be said of the runs: a missed mode, long steps, few effective runs."""
        notes = [mode_note] if mode_note else []
        too_few = ess < min(10, num / 2)
        if longest_step > LONG_STEP and not too_few:
            notes.append(
                f"a sweep changes a field by up to {longest_step:.3g}: raise sweeps, or scale the "
                "problem down"
            )
        if too_few:
            notes.append(f"only {ess:.1f} effective runs: raise sweeps")
        return "; ".join(notes)

    def _again(
        self, problem: Ising, num: int, seeds: Sequence[int], base: Tensor
    ) -> tuple[Tensor, Tensor]:
        """More runs, from other fields; their ends and log weights, whose mean exp estimates Z."""
        sweeper, log_w = anneal(problem, num, self.betas, seeds, base)
        return sweeper.spins, log_w + log_2cosh_sum(base).cpu()[:, None]


def _longest_step(problem: Ising, base: Tensor, betas: Sequence[float]) -> float:
    """The largest change of a local field from one b to the next, of any state.

    Where it is far above 1 the law of a step is another than that of the step before, and what lies
    between is never visited: all runs may miss the same part of the law and agree.
    """
    rise = Ising(problem.graph, problem.h - base, problem.J)
    steps = torch.tensor([0.0, *betas], dtype=torch.float64).diff()
    return float(field_sizes(rise).max() * steps.max())


def _as_matrix(problem: Ising) -> Ising:
    """A sparse problem in double on the complete graph, where that is quicker.

    A matrix product is quicker there than a sum over edges; in single precision the native kernels
    sum over edges.
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
) -> tuple[Sweeper, Tensor]:
    """Replicas annealed along the path from `base`, and their log weights.

    The weights are `[P, num]`, float64 on the CPU.

    Args:
        problem: a batch of P problems, without offset.
        num: runs of each.
        betas: the b of each sweep.
        seeds: one 63-bit seed per problem.
        base: fields where the path begins, like h.
    """
    batch = problem.batch_shape
    sizes = problem.graph.sizes
    # dE_b / db, itself an Ising energy
    rise = _as_matrix(Ising(problem.graph, problem.h - base, problem.J, problem.offset))
    wide = problem.to(dtype=torch.float64)

    def on_path(b: float, end: Ising = problem) -> Ising:
        field = base.to(end.h)
        return Ising(end.graph, (1 - b) * field + b * end.h, b * end.J, b * end.offset)

    def marginal(b: float) -> Tensor:
        left = sweeper.spins[..., : sizes[0]].reshape(*batch, num, sizes[0])
        weight = enumeration.side_log_weights(on_path(b, wide), 0, left)
        return weight.reshape(-1, num).cpu()

    hardest = Ising(problem.graph, torch.maximum(base.abs(), problem.h.abs()), problem.J)
    sweeper = Sweeper(on_path(0.0), num, seeds, hardest=hardest)
    one_sweep = torch.ones(1, dtype=torch.float32)
    sweeper.sweep(one_sweep)  # no couplings: an exact draw
    log_w = torch.zeros(len(seeds), num, dtype=torch.float64)
    path = list(zip([0.0, *betas], betas, strict=False))
    for b, following in tracked(path, "annealed importance sampling", "temperature"):
        # weigh the states of b under the next law, then sweep under it
        if problem.graph.kind == "bipartite":
            log_w += marginal(following) - marginal(b)
        else:
            log_w -= (following - b) * sweeper.energy(rise)
        sweeper.move(on_path(following))
        sweeper.sweep(one_sweep)
    return sweeper, log_w
