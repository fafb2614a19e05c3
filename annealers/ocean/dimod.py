"""The bridge to Ocean, in both directions: dimod's samplers as ours, and ours as dimod's."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import dimod
import numpy as np
import torch
from torch import Tensor

from qsample.annealers.composites.corrected import Corrected
from qsample.annealers.kernels.betas import schedule
from qsample.annealers.kernels.energies import energies_of
from qsample.annealers.parallel_tempering import ParallelTempering
from qsample.problem.convert import check_bqm
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import Sampler, check_is_sampler, check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import plain_seed, whole
from qsample.support.faces import public
from qsample.support.transforms import uncompiled

COLDEST = 1e6  # beta times the largest change of energy, where every flip is decided


@public("qsample.annealers")
class DimodAnnealer:
    """Any dimod sampler as one of ours: one BQM per problem, with `num` reads of it.

    Reads that a SampleSet holds once with `num_occurrences` are repeated. A vector `log_weight` of
    the SampleSet, as `AsDimod(..., keep_weights=True)` makes it, is the reads' weights.

    Args:
        sampler: a `dimod.Sampler`; it must take `num_reads`. Where it takes `seed`, it gets 31 bits
            of the problem's own seed; where it does not, its draws are beyond our control.
        **kwargs: keyword arguments of every call.

    Raises:
        TypeError: the sampler is not one of dimod's, or has no such keyword argument, which many of
            them would ignore.
        ValueError: the sampler does not take `num_reads` (an `ExactSolver` lists states, it does
            not sample), or it returned another number of reads than asked.
    """

    warm_start = False
    reversible = False

    def __init__(self, sampler: dimod.Sampler, **kwargs: Any) -> None:
        # a class that was not called, say, or one of our own samplers
        if not isinstance(getattr(sampler, "parameters", None), Mapping):
            raise TypeError(f"expected a dimod sampler, such as TabuSampler(); got {sampler!r}")
        if "num_reads" not in sampler.parameters:
            raise ValueError(
                f"{type(sampler).__name__} takes no num_reads, so it cannot be asked for a "
                "sample size"
            )
        for name in kwargs.keys() - sampler.parameters:
            near = difflib.get_close_matches(name, sampler.parameters, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {sorted(sampler.parameters)}"
            raise TypeError(f"{type(sampler).__name__} has no option {name!r}: {hint}")
        self.sampler = sampler
        self.kwargs = kwargs

    def __repr__(self) -> str:
        return f"DimodAnnealer({type(self.sampler).__name__}(), **{self.kwargs})"

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw reads of each problem, one problem after the other; see `Sampler.sample`.

        Args:
            problem: one problem, or a batch `*B` of problems.
            num: number of reads per problem.
            initial: refused, as dimod's samplers cannot continue chains.
            generator: source of the seeds; None is torch's default generator.
        """
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        rows: list[np.ndarray] = []
        weights: list[np.ndarray | None] = []
        infos: list[dict[str, Any]] = []
        for item, seed in zip(problem.unbind(), seeds, strict=True):
            sampleset = self._ask(item, num, seed)
            rows.append(_rows(sampleset, item, num))
            weights.append(_weights(sampleset))
            infos.append(dict(sampleset.info))

        spins = torch.from_numpy(np.stack(rows)).to(problem.device)
        spins = spins.reshape(*problem.batch_shape, num, problem.num_spins)
        energy = energies_of(problem, spins)
        log_weight = _stacked(weights, problem, num)
        info = infos[0] if len(infos) == 1 else {"problems": infos}
        return Samples(spins, energy, log_weight, Exactness.HEURISTIC, info)

    def _ask(self, problem: Ising, num: int, seed: int) -> dimod.SampleSet:
        """The sampler's own answer to one problem."""
        kwargs = {"num_reads": num, **self.kwargs}
        if "seed" in self.sampler.parameters:
            kwargs.setdefault("seed", mix(seed, 0) >> 32)
        return self.sampler.sample(problem.to_bqm(), **kwargs)


def _rows(sampleset: dimod.SampleSet, problem: Ising, num: int) -> np.ndarray:
    """Exactly `num` reads, int8, columns in the problem's order, each as often as it occurred."""
    sampleset = sampleset.change_vartype(dimod.SPIN, inplace=False)
    columns = [sampleset.variables.index(label) for label in problem.graph.labels]
    rows = sampleset.record.sample[:, columns].astype(np.int8)
    rows = rows.repeat(sampleset.record.num_occurrences, 0)
    if len(rows) != num:
        raise ValueError(
            f"asked for {num} reads, the sampler returned {len(rows)}: set its reads by "
            "num_reads only"
        )
    return rows


def _weights(sampleset: dimod.SampleSet) -> np.ndarray | None:
    """The log-weights that `AsDimod(..., keep_weights=True)` keeps, one per read; None without."""
    weight = sampleset.data_vectors.get("log_weight")
    if weight is None:
        return None
    return np.asarray(weight, dtype=float).repeat(sampleset.record.num_occurrences)


def _stacked(weights: Sequence[np.ndarray | None], problem: Ising, num: int) -> Tensor | None:
    """The log-weights of a batch; a problem without any has equal ones, and None is none at all."""
    if all(weight is None for weight in weights):
        return None
    filled = [np.zeros(num) if weight is None else weight for weight in weights]
    stacked = torch.from_numpy(np.stack(filled))
    return stacked.reshape(*problem.batch_shape, num).to(problem.device)


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
            `info["resampled"]` is the number of effective reads that the weights left.

    Raises:
        TypeError: `sampler` is not one of ours.
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
        """The keyword arguments of `sample`, as dimod lists them."""
        return {"num_reads": [], "seed": []}

    @property
    def properties(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The sampler and its settings, in words."""
        return {"sampler": repr(self.sampler)}

    @uncompiled
    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        bqm: dimod.BinaryQuadraticModel,
        num_reads: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> dimod.SampleSet:
        """Draw reads of a BQM; unknown keyword arguments warn, as dimod's local samplers do.

        Args:
            bqm: a binary quadratic model of any vartype and labels.
            num_reads: number of reads; None is 1, as in dimod's own samplers.
            seed: seed of the draws, 64 bits; None draws from torch's default generator.
            **kwargs: keyword arguments of other samplers, ignored with a warning.

        Raises:
            ValueError: num_reads < 1, or a seed that is no integer of 64 bits.
        """
        self.remove_unknown_kwargs(**kwargs)
        check_bqm(bqm)
        num = whole("num_reads", 1 if num_reads is None else num_reads, 1)
        if bqm.num_variables == 0:
            return dimod.SampleSet.from_samples_bqm(([[]] * num, []), bqm)
        problem = Ising.from_bqm(bqm)
        sampler = self.sampler
        info: dict[str, Any] = {}

        # as an optimiser: the problem at its coldest, and a way down to it
        if self.optimise:
            hot, cold = optimising_range(problem)
            problem = problem.scale(cold)
            sampler = _cooled(sampler, hot / cold)
            info["beta_range"] = (hot, cold)

        generator = None if seed is None else torch.Generator().manual_seed(plain_seed(seed))
        reads = sampler.sample(problem, num, generator=generator)
        if reads.log_weight is not None and not self.keep_weights:
            info["resampled"] = float(reads.ess())
            reads = reads.resample(generator=generator)
        return _answer(reads, problem, bqm, info)


def _answer(
    reads: Samples, problem: Ising, bqm: dimod.BinaryQuadraticModel, info: Mapping[str, Any]
) -> dimod.SampleSet:
    """Reads as a SampleSet with the vartype, labels and energies of the caller's BQM."""
    sampleset = reads.to_sampleset(problem.graph)
    sampleset.change_vartype(bqm.vartype, inplace=True)
    # all vectors but the energies travel on, weights among them
    vectors = dict(sampleset.data_vectors)
    vectors.pop("energy")
    info = {**sampleset.info, **info}
    return dimod.SampleSet.from_samples_bqm(sampleset, bqm, info=info, **vectors)


def optimising_range(problem: Ising) -> tuple[float, float]:
    r"""Inverse temperatures `(hot, cold)` between which annealing finds low energies of a problem.

    With $\Delta_i$ the largest change of energy that a flip of spin i can make, $2 (|h_i| + \sum_j
    |J_{ij}|)$, and $\delta$ the smallest number other than 0 among all $2 |h_i|$ and $2 |J_{ij}|$,
    a scale of the gap above the ground state:

    $$\beta_\mathrm{hot} = \ln 2 / \max_i \Delta_i, \quad
      \beta_\mathrm{cold} = \ln(100\, n_\delta) / \delta$$

    so that at the start every flip is accepted half of the time at least, and at the end the
    $n_\delta$ spins of the smallest scale are all in place but for one time in a hundred. (1, 1)
    where no number differs from 0.

    Args:
        problem: one problem, without batch dimensions.
    """
    graph = problem.graph
    h = problem.h.abs().double()
    J = graph.edge_values(problem.J).abs().double()

    # per spin: the sum of all that acts on it, and the smallest number other than 0 among it
    total = h.clone()
    smallest = h.where(h > 0, torch.inf)
    for end in graph.edges.to(problem.device):
        total.index_add_(0, end, J)
        smallest.scatter_reduce_(0, end, J.where(J > 0, torch.inf), "amin")
    if not total.any():
        return 1.0, 1.0

    largest_flip = 2 * float(total.max())
    hot = math.log(2) / largest_flip
    gap = 2 * float(smallest.min())
    number = int((2 * smallest <= gap * (1 + 1e-9)).sum())
    # rounding noise is no gap: no colder than where every flip is decided
    cold = min(math.log(100 * number) / gap, COLDEST / largest_flip)
    return hot, max(cold, hot)


def _cooled(sampler: Any, first: float) -> Any:
    """The sampler, going from beta `first` to 1 where its settings can say so.

    A problem at its coldest is what `AsDimod(..., optimise=True)` gives it.
    """
    if isinstance(sampler, Corrected):
        return replace(sampler, sampler=_cooled(sampler.sampler, first))
    if isinstance(sampler, ParallelTempering) and isinstance(sampler.betas, int):
        ladder = sampler.betas
        if first < 1:
            betas = schedule("geometric", sampler.betas, (first, 1.0))
            ladder = betas.block(0, sampler.betas).tolist()
        return replace(sampler, betas=ladder, anneal=sampler.anneal or sampler.sweeps)
    # an annealing that goes down a range of betas: `SimulatedAnnealing`, `Neal`
    if (
        is_dataclass(sampler)
        and hasattr(sampler, "beta_range")
        and isinstance(getattr(sampler, "schedule", None), str)
    ):
        return replace(sampler, beta_range=(first, 1.0))  # pyright: ignore[reportArgumentType]
    return sampler
