"""The bridge to Ocean: dimod's samplers as ours, ours as dimod's, and dwave-samplers' annealer with safe defaults."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dimod
import numpy as np
import torch

from qsample.annealers.betas import Schedule, schedule
from qsample.annealers.gibbs import SimulatedAnnealing
from qsample.annealers.precision import check_sizes
from qsample.annealers.update import Rule
from qsample.ising import Ising
from qsample.sampler import Generators, Sampler, check_is_sampler, check_request, draw_seeds, mix
from qsample.samples import Exactness, Samples


class DimodAnnealer:
    """Any dimod sampler as one of ours: one BQM a problem, `num` reads of it, `num_occurrences` spread out.

    Args:
        sampler: a `dimod.Sampler`; it must take `num_reads`. Where it takes `seed`, it gets 31 bits of the problem's
            own seed; where it does not, its draws are beyond our control.
        **kwargs: passed on at every call.

    Raises:
        ValueError: the sampler does not take `num_reads` (an `ExactSolver` lists states, it does not sample), or
            it returned another number of reads than asked.
    """

    warm_start = False
    reversible = False

    def __init__(self, sampler: dimod.Sampler, **kwargs: Any) -> None:
        if not isinstance(getattr(sampler, "parameters", None), Mapping):  # a class, say, or one of ours
            raise TypeError(f"expected a dimod sampler, such as TabuSampler(); got {sampler!r}")
        if "num_reads" not in sampler.parameters:
            raise ValueError(f"{type(sampler).__name__} takes no num_reads, so it cannot be asked for a sample size")
        self.sampler, self.kwargs = sampler, kwargs

    def __repr__(self) -> str:
        return f"DimodAnnealer({type(self.sampler).__name__}(), **{self.kwargs})"

    def sample(
        self, problem: Ising, num: int, *, initial: Samples | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Sampler.sample`; a batch is answered one problem after the other."""
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        reads, infos = zip(
            *[self._ask(one, num, seed) for one, seed in zip(_each(problem), seeds, strict=True)], strict=True
        )
        spins = torch.from_numpy(np.stack(reads)).reshape(*problem.batch_shape, num, problem.num_spins)
        spins = spins.to(problem.device)
        info = infos[0] if len(infos) == 1 else {"problems": list(infos)}
        return Samples(spins, problem.energy(spins), exactness=Exactness.HEURISTIC, info=info)

    def _ask(self, problem: Ising, num: int, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        kwargs = {"num_reads": num, **self.kwargs}
        if "seed" in self.sampler.parameters:
            kwargs.setdefault("seed", mix(seed, 0) >> 32)
        found = self.sampler.sample(problem.to_bqm(), **kwargs)
        return _rows(found, problem, num), dict(found.info)


@dataclass(frozen=True)
class Neal:
    """dwave-samplers' simulated annealing (what the package `neal` became), with Boltzmann-safe settings.

    Its own defaults are an optimiser's: a final beta far above 1 and a Metropolis rule that is near-deterministic
    when hot. Here the schedule ends at beta 1 under the Gibbs rule. Its first read hardly depends on the seed, so
    one more read is taken than asked and the first is dropped.

    Its Metropolis rule flips a spin in no field at every visit: visits in a fixed order leave a ring of
    10 at a mean energy of -1.9 for -7.96, for ever. Under that rule spins are therefore visited at
    random, which takes a third more time.

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
        SimulatedAnnealing(self.sweeps, self.beta_range, self.schedule, self.rule)  # the same settings, the same checks
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

    def sample(
        self, problem: Ising, num: int, *, initial: Samples | None = None, generator: Generators | None = None
    ) -> Samples:
        """See `Sampler.sample`."""
        check_request(self, problem, num, initial)
        check_sizes(problem)
        found = self._annealer.sample(problem, num + 1, generator=generator)
        return Samples(found.spins[..., 1:, :].contiguous(), found.energy[..., 1:].contiguous(), info=found.info)


class AsDimod(dimod.Sampler):
    """Any of our samplers inside Ocean: `AsDimod(Gibbs()).sample(bqm, num_reads=100, seed=1)`.

    `seed` builds the torch generator; without it the reads come from torch's default generator. The SampleSet has
    the caller's vartype and labels; `info["exactness"]` says how far to trust it.
    """

    def __init__(self, sampler: Sampler) -> None:
        check_is_sampler(sampler)
        self.sampler = sampler

    def __repr__(self) -> str:
        return f"AsDimod({self.sampler!r})"

    @property
    def parameters(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The keyword arguments of `sample`."""
        return {"num_reads": [], "seed": []}

    @property
    def properties(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What stands behind."""
        return {"sampler": repr(self.sampler)}

    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, bqm: dimod.BinaryQuadraticModel, num_reads: int = 1, seed: int | None = None, **kwargs: Any
    ) -> dimod.SampleSet:
        """`num_reads` reads of a BQM; unknown keyword arguments warn, as dimod's local samplers do."""
        self.remove_unknown_kwargs(**kwargs)
        if num_reads < 1:
            raise ValueError(f"expected num_reads >= 1; got {num_reads}")
        if bqm.num_variables == 0:
            return dimod.SampleSet.from_samples_bqm(([[]] * num_reads, []), bqm)
        problem = Ising.from_bqm(bqm)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        found = self.sampler.sample(problem, num_reads, generator=generator).to_sampleset(problem.graph)
        found.change_vartype(bqm.vartype, inplace=True)
        beside = {name: vector for name, vector in found.data_vectors.items() if name != "energy"}  # weights too
        return dimod.SampleSet.from_samples_bqm(found, bqm, info=found.info, **beside)


def _each(problem: Ising) -> list[Ising]:
    """The problems of a batch, one by one."""
    batch, layout = problem.batch_shape, problem.graph.coupling_shape
    h = problem.h.expand(*batch, problem.num_spins).reshape(-1, problem.num_spins)
    J = problem.J.expand(*batch, *layout).flatten(0, len(batch) - 1) if batch else problem.J[None]
    return [Ising(problem.graph, *one) for one in zip(h, J, problem.offset.expand(batch).reshape(-1), strict=True)]


def _rows(found: dimod.SampleSet, problem: Ising, num: int) -> np.ndarray:
    """Exactly `num` reads, int8, columns in the problem's order, repeated by `num_occurrences`."""
    found = found.change_vartype(dimod.SPIN, inplace=False)
    columns = [found.variables.index(label) for label in problem.graph.labels]
    rows = found.record.sample[:, columns].astype(np.int8).repeat(found.record.num_occurrences, 0)
    if len(rows) != num:
        raise ValueError(f"asked for {num} reads, the sampler returned {len(rows)}: set its reads by num_reads only")
    return rows
