"""The bridge to Ocean: dimod's samplers as ours, ours as dimod's, and dwave-samplers' annealer with safe defaults."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dimod
import numpy as np
import torch

from qsample.annealers.composites.corrected import Corrected
from qsample.annealers.kernels.betas import Schedule, schedule
from qsample.annealers.kernels.energies import energies_of
from qsample.annealers.kernels.precision import check_sizes
from qsample.annealers.kernels.update import Rule
from qsample.annealers.parallel_tempering import ParallelTempering
from qsample.annealers.simulated_annealing import SimulatedAnnealing
from qsample.problem.convert import check_bqm
from qsample.problem.ising import Ising
from qsample.sampling.sampler import (
    Generators,
    Sampler,
    check_is_sampler,
    check_request,
    draw_seeds,
    mix,
)
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import plain_seed, whole
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.annealers")
class DimodAnnealer:
    """Any dimod sampler as one of ours: one BQM per problem, `num` reads of it, `num_occurrences` spread out.

    A vector `log_weight` of the SampleSet, as `AsDimod(..., keep_weights=True)` makes it, is the
    reads' weights.

    Args:
        sampler: a `dimod.Sampler`; it must take `num_reads`. Where it takes `seed`, it gets 31 bits
            of the problem's own seed; where it does not, its draws are beyond our control.
        **kwargs: passed on at every call.

    Raises:
        ValueError: the sampler does not take `num_reads` (an `ExactSolver` lists states, it does
            not sample), or it returned another number of reads than asked.
    """

    warm_start = False
    reversible = False

    def __init__(self, sampler: dimod.Sampler, **kwargs: Any) -> None:
        # a class, say, or one of ours
        if not isinstance(getattr(sampler, "parameters", None), Mapping):
            raise TypeError(f"expected a dimod sampler, such as TabuSampler(); got {sampler!r}")
        if "num_reads" not in sampler.parameters:
            raise ValueError(
                f"{type(sampler).__name__} takes no num_reads, so it cannot be asked for a "
                "sample size"
            )
        self.sampler = sampler
        self.kwargs = kwargs

    def __repr__(self) -> str:
        return f"DimodAnnealer({type(self.sampler).__name__}(), **{self.kwargs})"

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`; a batch is answered one problem after the other."""
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        answers = [
            self._ask(one, num, seed) for one, seed in zip(_each(problem), seeds, strict=True)
        ]
        reads, weights, infos = zip(*answers, strict=True)
        spins = torch.from_numpy(np.stack(reads)).reshape(
            *problem.batch_shape, num, problem.num_spins
        )
        spins = spins.to(problem.device)
        info = infos[0] if len(infos) == 1 else {"problems": list(infos)}
        log_weight = None
        if any(weight is not None for weight in weights):
            each = [np.zeros(num) if weight is None else weight for weight in weights]
            log_weight = (
                torch.from_numpy(np.stack(each))
                .reshape(*problem.batch_shape, num)
                .to(problem.device)
            )
        return Samples(spins, energies_of(problem, spins), log_weight, Exactness.HEURISTIC, info)

    def _ask(
        self, problem: Ising, num: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
        kwargs = {"num_reads": num, **self.kwargs}
        if "seed" in self.sampler.parameters:
            kwargs.setdefault("seed", mix(seed, 0) >> 32)
        found = self.sampler.sample(problem.to_bqm(), **kwargs)
        rows = _rows(found, problem, num)
        weight = found.data_vectors.get("log_weight")  # of AsDimod(..., keep_weights=True)
        if weight is not None:
            weight = np.asarray(weight, dtype=float).repeat(found.record.num_occurrences)
        return rows, weight, dict(found.info)


@public("qsample.annealers")
@dataclass(frozen=True)
class Neal:
    """dwave-samplers' simulated annealing (what the package `neal` became), with Boltzmann-safe settings.

    Its own defaults are an optimiser's: a final beta far above 1 and a Metropolis rule that is
    near-deterministic when hot. Here the schedule ends at beta 1 under the Gibbs rule. Its first
    read hardly depends on the seed, so one more read is taken than asked and the first is dropped.

    Its Metropolis rule flips a spin in no field at every visit: visits in a fixed order leave a
    ring of 10 at a mean energy of -1.9 for -7.96, for ever. Under that rule spins are therefore
    visited at random, which takes a third more time.

    Args:
        sweeps: sweeps of a named schedule.
        beta_range: first and last beta.
        schedule: "geometric", "linear", or the betas themselves.
        rule: "gibbs" or "metropolis".
    """

    sweeps: int = 1000
    beta_range: tuple[float, float] = (0.01, 1.0)
    schedule: Schedule | torch.Tensor | tuple[float, ...] = "geometric"
    rule: Rule = "gibbs"

    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        # the same checks
        same = SimulatedAnnealing(self.sweeps, self.beta_range, self.schedule, self.rule)
        object.__setattr__(self, "sweeps", same.sweeps)
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

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`."""
        check_request(self, problem, num, initial)
        check_sizes(problem)
        found = self._annealer.sample(problem, num + 1, generator=generator)
        return Samples(
            found.spins[..., 1:, :].contiguous(),
            found.energy[..., 1:].contiguous(),
            info=found.info,
        )


@public("qsample.annealers")
class AsDimod(dimod.Sampler):
    """Any of our samplers inside Ocean: `AsDimod(Gibbs()).sample(bqm, num_reads=100, seed=1)`.

    The reads follow exp(-E), at beta 1: a sampler is no optimiser, and an Ocean program that swaps
    one in for `SimulatedAnnealingSampler` finds worse energies. `AsDimod(SimulatedAnnealing(1000),
    optimise=True)` finds as good ones: it goes down to where only ground states are left, from the
    temperatures that `optimising_range` reads off the BQM. The SampleSet has the caller's vartype,
    labels and energies; `info["exactness"]` says how far to trust it.

    Args:
        sampler: any of our samplers.
        optimise: cool for the lowest energy, not for the law. `SimulatedAnnealing` and `Neal` run
            down that range, `ParallelTempering` spreads its betas over it and anneals first; any
            other sampler is given the problem at the range's end. `info["beta_range"]` holds it.
        keep_weights: leave the reads as the sampler weighted them, with their `log_weight` as a
            vector of the SampleSet. Ocean's tools do not look at it (`aggregate()` drops all but
            the first), so by default weighted reads are resampled to equal ones:
            `info["resampled"]` is how many effective reads the weights left.
    """

    def __init__(
        self, sampler: Sampler, *, optimise: bool = False, keep_weights: bool = False
    ) -> None:
        check_is_sampler(sampler)
        self.sampler = sampler
        self.optimise = optimise
        self.keep_weights = keep_weights

    def __repr__(self) -> str:
        flags = [f"{name}=True" for name in ("optimise", "keep_weights") if getattr(self, name)]
        return f"AsDimod({', '.join([repr(self.sampler), *flags])})"

    @property
    def parameters(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The keyword arguments of `sample`."""
        return {"num_reads": [], "seed": []}

    @property
    def properties(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What stands behind."""
        return {"sampler": repr(self.sampler)}

    @uncompiled
    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        bqm: dimod.BinaryQuadraticModel,
        num_reads: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> dimod.SampleSet:
        """`num_reads` reads of a BQM; unknown keyword arguments warn, as dimod's local samplers do.

        Args:
            bqm: of any vartype and labels.
            num_reads: None is 1, as in dimod's own.
            seed: builds the torch generator; without it the reads come from torch's default one.
            **kwargs: what other samplers know.
        """
        self.remove_unknown_kwargs(**kwargs)
        check_bqm(bqm)
        num = whole("num_reads", 1 if num_reads is None else num_reads, 1)
        if bqm.num_variables == 0:
            return dimod.SampleSet.from_samples_bqm(([[]] * num, []), bqm)
        problem = Ising.from_bqm(bqm)
        sampler = self.sampler
        info: dict[str, Any] = {}
        if self.optimise:
            hot, cold = optimising_range(problem)
            problem = problem.scale(cold)
            sampler = _cooled(sampler, hot / cold)
            info = {"beta_range": (hot, cold)}
        generator = None if seed is None else torch.Generator().manual_seed(plain_seed(seed))
        reads = sampler.sample(problem, num, generator=generator)
        if reads.log_weight is not None and not self.keep_weights:
            info["resampled"] = float(reads.ess())
            reads = reads.resample(generator=generator)
        found = reads.to_sampleset(problem.graph)
        found.change_vartype(bqm.vartype, inplace=True)
        # weights too
        beside = {name: vector for name, vector in found.data_vectors.items() if name != "energy"}
        return dimod.SampleSet.from_samples_bqm(found, bqm, info={**found.info, **info}, **beside)


def optimising_range(problem: Ising) -> tuple[float, float]:
    r"""Inverse temperatures `(hot, cold)` between which annealing finds low energies of one problem.

    With $\Delta_i$ the largest change of energy that a flip of spin i can make, $2 (|h_i| + \sum_j
    |J_{ij}|)$, and $\delta$ the smallest number other than 0 among all $2 |h_i|$ and $2 |J_{ij}|$,
    a scale of the gap above the ground state:

    $$\beta_\mathrm{hot} = \ln 2 / \max_i \Delta_i, \qquad \beta_\mathrm{cold} = \ln(100\, n_\delta) / \delta$$

    so that at the start every flip is accepted half of the time at least, and at the end the
    $n_\delta$ spins of the smallest scale are all in place but for one time in a hundred. (1, 1)
    where no number differs from 0.
    """
    graph = problem.graph
    h, J = problem.h.abs().double(), graph.edge_values(problem.J).abs().double()
    total = h.clone()
    least = h.where(h > 0, torch.inf)
    for end in graph.edges.to(problem.device):
        total.index_add_(0, end, J)
        least.scatter_reduce_(0, end, J.where(J > 0, torch.inf), "amin")
    if not total.any():
        return 1.0, 1.0
    hot = math.log(2) / (2 * float(total.max()))
    gap = 2 * float(least.min())
    number = int((2 * least <= gap * (1 + 1e-9)).sum())
    # no colder than a field of 10^6, where every flip is decided: rounding noise is no gap
    cold = min(math.log(100 * number) / gap, 1e6 / (2 * float(total.max())))
    return hot, max(cold, hot)


def _cooled(sampler: Sampler, first: float) -> Sampler:
    """`sampler` as an optimiser of a problem at its coldest: from beta `first` to 1 where it can be told."""
    if isinstance(sampler, Corrected):
        return replace(sampler, sampler=_cooled(sampler.sampler, first))
    if isinstance(sampler, SimulatedAnnealing | Neal) and isinstance(sampler.schedule, str):
        return replace(sampler, beta_range=(first, 1.0))
    if isinstance(sampler, ParallelTempering) and isinstance(sampler.betas, int):
        ladder = sampler.betas
        if first < 1:
            ladder = (
                schedule("geometric", sampler.betas, (first, 1.0)).block(0, sampler.betas).tolist()
            )
        return replace(sampler, betas=ladder, anneal=sampler.anneal or sampler.sweeps)
    return sampler


def _each(problem: Ising) -> list[Ising]:
    """The problems of a batch, one by one."""
    batch = problem.batch_shape
    layout = problem.graph.coupling_shape
    h = problem.h.expand(*batch, problem.num_spins).reshape(-1, problem.num_spins)
    J = problem.J.expand(*batch, *layout).flatten(0, len(batch) - 1) if batch else problem.J[None]
    return [
        Ising(problem.graph, *one)
        for one in zip(h, J, problem.offset.expand(batch).reshape(-1), strict=True)
    ]


def _rows(found: dimod.SampleSet, problem: Ising, num: int) -> np.ndarray:
    """Exactly `num` reads, int8, columns in the problem's order, repeated by `num_occurrences`."""
    found = found.change_vartype(dimod.SPIN, inplace=False)
    columns = [found.variables.index(label) for label in problem.graph.labels]
    rows = found.record.sample[:, columns].astype(np.int8).repeat(found.record.num_occurrences, 0)
    if len(rows) != num:
        raise ValueError(
            f"asked for {num} reads, the sampler returned {len(rows)}: set its reads by "
            "num_reads only"
        )
    return rows
