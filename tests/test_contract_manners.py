"""The contract's other clauses: energies, types, fresh tensors, seeds, and requests that must be refused."""

from dataclasses import replace

import pytest
import torch

from qsample import Graph, Ising, Samples
from qsample.annealers import Exact, Gibbs
from qsample.testing import Case, ContractError, check_sampler
from tests.test_contract import SHARE, Sampler


def changed(change):
    """A sampler whose results are changed by a function of (problem, samples)."""

    class Changed(Sampler):
        def draw(self, problem, num, initial, generator):
            return change(problem, super().draw(problem, num, initial, generator))

    return Changed()


class Lenient(Sampler):
    """Answers requests that it should refuse."""

    def __init__(self, forgives):
        self.forgives = forgives

    def sample(self, problem, num, *, initial=None, generator=None):
        if self.forgives == "NaN fields" and problem.h.isnan().any():
            problem = Ising(problem.graph, problem.h.nan_to_num(), problem.J.nan_to_num())
        if self.forgives == "num=0" and num == 0:
            return Samples(torch.ones(0, problem.num_spins, dtype=torch.int8), torch.ones(0))
        if self.forgives == "a misshapen initial":
            initial = None
        return super().sample(problem, num, initial=initial, generator=generator)


class Deaf(Sampler):
    """Does not listen to its generator."""

    def draw(self, problem, num, initial, generator):
        return super().draw(problem, num, initial, torch.Generator().manual_seed(1))


class Shared(Sampler):
    """Writes into one buffer for ever."""

    buffer = torch.empty(0, dtype=torch.int8)

    def draw(self, problem, num, initial, generator):
        found = super().draw(problem, num, initial, generator)
        if self.buffer.shape != found.spins.shape:
            self.buffer = torch.empty_like(found.spins)
        return replace(found, spins=self.buffer.copy_(found.spins))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (changed(lambda p, s: replace(s, energy=s.energy - 0.3)), "the energies are not those of the spins .*0.3"),
        (changed(lambda p, s: replace(s, energy=s.energy.clone().index_fill_(-1, torch.tensor(5), 9.0))), "energies"),
        (changed(lambda p, s: replace(s, energy=s.energy * torch.nan)), "the energies are not those of the spins"),
        (changed(lambda p, s: replace(s, energy=s.energy.double())), "expected detached results on .* in its dtype"),
        (changed(lambda p, s: replace(s, energy=s.energy.clone().requires_grad_())), "expected detached results"),
        (changed(lambda p, s: replace(s, spins=s.spins.long())), r"expected int8 spins \[20000, 6\]; got torch.int64"),
        (changed(lambda p, s: replace(s, spins=(s.spins + 1) // 2)), r"expected spins of -1 and \+1 only"),
        (changed(lambda p, s: Samples(s.spins[..., 1:, :], s.energy[..., 1:])), r"\[20000, 6\]; got .*\[19999, 6\]"),
        (Lenient("NaN fields"), "Lenient: expected a ValueError for NaN fields"),
        (Lenient("num=0"), "Lenient: expected a ValueError for num=0"),
        (Lenient("a misshapen initial"), "Lenient: expected a ValueError for a misshapen initial"),
        (Deaf(), "Deaf: calls with seeds 0 and 1 return the same 64 reads"),
        (Shared(), "Shared on 'sparse, started from all .*', seed 0: two calls share the memory of their spins"),
    ],
)
def test_bad_manners_are_rejected(sampler, message):
    with pytest.raises(ContractError, match=message):
        check_sampler(sampler, false_alarm=SHARE)


def test_own_cases_and_the_verdicts():
    problem = Ising(Graph.sparse(2, [(0, 1)]), torch.zeros(3, 2), torch.tensor([0.5]))
    verdicts = check_sampler(Gibbs(30), cases=[Case("a pair", problem)], reads=500)
    assert [v.case for v in verdicts] == ["a pair"] * 3 + ["a pair, started from all spins up"] * 3
    assert all(0 <= v.p_value <= 1 and v.floor > 0 for v in verdicts)
    cold = check_sampler(Exact(), cases=[Case("a pair", problem)], reads=500)
    assert len(cold) == 3  # it cannot continue chains
