"""The contract test over every sampler, and its power: what must be rejected is."""

from dataclasses import replace

import pytest
import torch
from dwave.samplers import SimulatedAnnealingSampler, TabuSampler

from qsample import Ising, Samples
from qsample.annealers import (
    AnnealedImportance,
    Corrected,
    DimodAnnealer,
    Exact,
    Gibbs,
    Neal,
    ParallelTempering,
    PopulationAnnealing,
    SimulatedAnnealing,
    TemperedGibbs,
)
from qsample.annealers.catalogue import CATALOGUE, named
from qsample.testing import FALSE_ALARM, ContractError, check_sampler
from qsample.testing.contract import reference_cases

# Down from infinite temperature in 40 sweeps, then 80 at the target: annealing slow enough for these problems.
SLOW = torch.cat([torch.linspace(0, 1, 40), torch.ones(80)])
DWAVE = {
    "beta_schedule_type": "custom",
    "beta_schedule": SLOW.tolist(),
    "proposal_acceptance_criteria": "Gibbs",
}
RIGHT = {
    "Exact": Exact,
    "Gibbs": lambda: Gibbs(60),
    "Gibbs, palindromic": lambda: Gibbs(40, scan="palindromic"),
    "Gibbs, betas": lambda: Gibbs(betas=SLOW.tolist()),
    "SimulatedAnnealing": lambda: SimulatedAnnealing(schedule=SLOW),
    "SimulatedAnnealing, adaptive": lambda: SimulatedAnnealing(200, (0.0, 1.0), "adaptive"),
    "SimulatedAnnealing, metropolis": lambda: SimulatedAnnealing(schedule=SLOW, rule="metropolis"),
    "ParallelTempering": lambda: ParallelTempering(40, 3),
    "ParallelTempering, annealed, metropolis": lambda: ParallelTempering(
        40, (0.3, 0.6, 1.0), swap_every=2, anneal=20, rule="metropolis"
    ),
    "TemperedGibbs": lambda: TemperedGibbs((1.0, 0.5, 0.0), rounds=8),
    "PopulationAnnealing": lambda: PopulationAnnealing(20),
    "AnnealedImportance": lambda: AnnealedImportance(60),
    "Neal": lambda: Neal(schedule=SLOW),
    "Neal, metropolis": lambda: Neal(schedule=SLOW, rule="metropolis"),
    "DimodAnnealer": lambda: DimodAnnealer(SimulatedAnnealingSampler(), **DWAVE),
    "Corrected": lambda: Corrected(SimulatedAnnealing(5, beta_range=(0.1, 3.0)), Gibbs(60)),
    "Corrected, palindromic": lambda: Corrected(Neal(5), Gibbs(40, scan="palindromic")),
}
SHARE = FALSE_ALARM / (len(RIGHT) + len(CATALOGUE) + 1)  # one false-alarm rate for all of them together
BIPARTITE = [case for case in reference_cases() if case.problem.graph.kind == "bipartite"]


@pytest.mark.parametrize("name", RIGHT)
def test_right_samplers_pass(name):
    verdicts = check_sampler(RIGHT[name](), false_alarm=SHARE)
    print(*verdicts, sep="\n")  # each total variation beside its floor: pytest -rP shows them
    assert {v.case.removesuffix(", started from all spins up") for v in verdicts} == {c.name for c in reference_cases()}
    assert all(v.total_variation < 4 * v.floor for v in verdicts)


@pytest.mark.parametrize("name", [name for name, entry in CATALOGUE.items() if not entry.device])
def test_every_sampler_of_the_catalogue_passes(name):
    assert CATALOGUE[name].installed
    sampler = named(name, 400)
    check_sampler(sampler, false_alarm=SHARE, reads=3000)
    problem = reference_cases()[0].problem
    assert sampler.sample(problem, 2).exactness is CATALOGUE[name].exactness


def test_bfloat16_products_pass():
    check_sampler(Gibbs(60, precision="bfloat16"), false_alarm=SHARE, cases=BIPARTITE)


# ---- power ----------------------------------------------------------------------------------------------------------


class Sampler:
    """Right in everything; the impostors below differ in one thing."""

    warm_start, reversible = True, True

    def sample(self, problem, num, *, initial=None, generator=None):
        if initial is not None and initial.spins.shape != (*problem.batch_shape, num, problem.num_spins):
            raise ValueError("initial")
        return self.draw(problem, num, initial, generator)

    def draw(self, problem, num, initial, generator):
        return Exact().sample(problem, num, generator=generator)


class Scaled(Sampler):
    def __init__(self, beta):
        self.beta = beta

    def draw(self, problem, num, initial, generator):
        found = super().draw(problem.scale(self.beta), num, initial, generator)
        return replace(found, energy=problem.energy(found.spins))


class Flipped(Sampler):
    def draw(self, problem, num, initial, generator):
        other = Ising(problem.graph, -problem.h, problem.J, problem.offset)
        found = super().draw(other, num, initial, generator)
        return replace(found, energy=problem.energy(found.spins))


class Frozen(Sampler):
    """Hands back the chains it was given."""

    def draw(self, problem, num, initial, generator):
        if initial is None:
            return super().draw(problem, num, initial, generator)
        return Samples(initial.spins.clone(), problem.energy(initial.spins))


class Late(Sampler):
    """Hands back the last call's reads."""

    last: dict[tuple[int, ...], torch.Tensor] = {}

    def draw(self, problem, num, initial, generator):
        spins = super().draw(problem, num, initial, generator).spins
        before = self.last.get(tuple(spins.shape), spins)
        self.last = {**self.last, tuple(spins.shape): spins}
        return Samples(before.clone(), problem.energy(before))


class First(Late):
    """Hands back its first reads, for ever."""

    def draw(self, problem, num, initial, generator):
        spins = super().draw(problem, num, initial, generator).spins
        self.last = {**self.last, tuple(spins.shape): spins}
        return Samples(spins, problem.energy(spins))


class Copies(Sampler):
    """Draws a tenth of the reads, and repeats them."""

    def draw(self, problem, num, initial, generator):
        found = super().draw(problem, -(-num // 10), initial, generator)
        spins = found.spins.repeat_interleave(10, -2)[..., :num, :].contiguous()
        return Samples(spins, problem.energy(spins))


class OneRead(Sampler):
    def draw(self, problem, num, initial, generator):
        spins = super().draw(problem, 1, initial, generator).spins.repeat_interleave(num, -2)
        return Samples(spins, problem.energy(spins))


class OneProblem(Sampler):
    """Answers a batch with its first problem."""

    def draw(self, problem, num, initial, generator):
        if not problem.batch_shape:
            return super().draw(problem, num, initial, generator)
        h = problem.h.expand(*problem.batch_shape, -1)[0].expand_as(problem.h)
        J = problem.J[:1].expand_as(problem.J) if problem.J.dim() > len(problem.graph.coupling_shape) else problem.J
        found = super().draw(Ising(problem.graph, h, J, problem.offset), num, initial, generator)
        return replace(found, energy=problem.energy(found.spins))


WRONG = {
    "1.2 x beta": lambda: Scaled(1.2),
    "0.8 x beta": lambda: Scaled(0.8),
    "1.05 x beta": lambda: Scaled(1.05),
    "h flipped": Flipped,
    "its initial chains": Frozen,
    "the last call's reads": Late,
    "its first reads for ever": First,
    "copies": Copies,
    "one read": OneRead,
    "a batch's first problem": OneProblem,
    "too few sweeps": lambda: Gibbs(1),
    "quick annealing": lambda: SimulatedAnnealing(10),
    "an optimiser's schedule": lambda: SimulatedAnnealing(200, beta_range=(0.01, 3.0)),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("seed", [0, 7])
def test_wrong_samplers_are_rejected_by_case_p_value_and_seed(name, seed):
    sampler = WRONG[name]()
    cases = "|".join(case.name for case in reference_cases())
    message = rf"{type(sampler).__name__} on '({cases}).*', seed {seed}: the reads do not follow exp\(-E\): p = .* < "
    with pytest.raises(ContractError, match=message):
        check_sampler(sampler, seed=seed, false_alarm=SHARE)


def test_the_honest_base_of_the_impostors_passes():
    check_sampler(Sampler(), false_alarm=SHARE)


def test_optimisers_are_rejected():
    with pytest.raises(ContractError, match="DimodAnnealer on 'sparse', seed 0: the reads do not follow"):
        check_sampler(DimodAnnealer(TabuSampler(), timeout=1), reads=200)
    with pytest.raises(ContractError, match="DimodAnnealer on 'sparse', seed 0: the reads do not follow"):
        check_sampler(DimodAnnealer(SimulatedAnnealingSampler()), reads=2000)
