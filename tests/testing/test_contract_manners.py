"""The contract's other clauses: energies, types, fresh tensors, seeds, and requests that must be refused."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import Exact, Gibbs
from qsample.testing import Case, ContractError, check_sampler
from qsample.testing.contract import reference_cases
from tests.support.samplers import SHARE

FIRST = reference_cases()[:1]
EXACT = Exactness.EXACT


class Sampler:
    """Right in everything; the impostors below differ in one thing."""

    warm_start, reversible = True, False

    def sample(self, problem, num, *, initial=None, generator=None):
        if initial is not None and initial.spins.shape != (
            *problem.batch_shape,
            num,
            problem.num_spins,
        ):
            raise ValueError("initial")
        return self.draw(problem, num, initial, generator)

    def draw(self, problem, num, initial, generator):
        return Gibbs(60).sample(problem, num, initial=initial, generator=generator)


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


class Stale(Sampler):
    """Writes into the result of the call before."""

    last = None

    def draw(self, problem, num, initial, generator):
        found = super().draw(problem, num, initial, generator)
        if self.last is not None and self.last.shape == found.spins.shape:
            self.last.neg_()
        self.last = found.spins
        return found


class Aliased(Sampler):
    """Hands back the tensors of `initial`."""

    def draw(self, problem, num, initial, generator):
        return super().draw(problem, num, None, generator) if initial is None else initial


class Numpy(Sampler):
    """Seeds NumPy's global generator."""

    def draw(self, problem, num, initial, generator):
        np.random.seed(1)  # noqa: NPY002
        return super().draw(problem, num, initial, generator)


class Unseeded(Sampler):
    """Without a generator it draws from one of its own."""

    def draw(self, problem, num, initial, generator):
        own = torch.Generator().manual_seed(time.perf_counter_ns() if self.fresh else 3)
        return super().draw(problem, num, initial, own if generator is None else generator)

    def __init__(self, fresh):
        self.fresh = fresh


class Cold(Sampler):
    """Cannot continue chains, and says nothing where it is asked to."""

    warm_start = False

    def draw(self, problem, num, initial, generator):
        return super().draw(problem, num, None, generator)


class Halved(Sampler):
    """Fails in half precision."""

    def draw(self, problem, num, initial, generator):
        if problem.dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return super().draw(problem, num, initial, generator)


def weighted(weight):
    return changed(lambda p, s: Samples(s.spins, s.energy, weight(s), s.exactness))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            changed(lambda p, s: replace(s, energy=s.energy - 0.3)),
            "the energies are not those of the spins .*0.3",
        ),
        (
            changed(
                lambda p, s: replace(
                    s, energy=s.energy.clone().index_fill_(-1, torch.tensor(0), 9.0)
                )
            ),
            "energies",
        ),
        (
            changed(lambda p, s: replace(s, energy=s.energy * torch.nan)),
            "the energies are not those of the spins",
        ),
        (
            changed(lambda p, s: replace(s, energy=s.energy.half())),
            "expected detached results on .* in its dtype",
        ),
        (
            changed(lambda p, s: replace(s, energy=s.energy.clone().requires_grad_())),
            "expected detached results",
        ),
        (
            changed(lambda p, s: replace(s, spins=s.spins.long())),
            r"expected int8 spins \[64, 6\]; got torch.int64",
        ),
        (
            changed(lambda p, s: replace(s, spins=(s.spins + 1) // 2)),
            r"expected spins of -1 and \+1 only",
        ),
        (
            changed(lambda p, s: Samples(s.spins[..., 1:, :], s.energy[..., 1:])),
            r"\[64, 6\]; got .*\[63, 6\]",
        ),
        (
            changed(lambda p, s: replace(s, info={"acceptance": 1.7})),
            r"info\['acceptance'\] = 1.7 is not between",
        ),
        (
            changed(
                lambda p, s: replace(
                    s, info={"log_partition": torch.ones(p.batch_shape)}, exactness=EXACT
                )
            ),
            r"info\['log_partition'\] is off by",
        ),
        (
            changed(lambda p, s: replace(s, spins=s.spins[..., :1, :].expand_as(s.spins))),
            "energies|share their memory",
        ),
        (weighted(lambda s: s.energy), "two parts of the result share their memory"),
        (weighted(lambda s: s.energy * 0 - torch.inf), "every read of a problem has weight 0"),
        (weighted(lambda s: s.energy * 0 + torch.inf), "expected log weights that are numbers"),
        (
            weighted(lambda s: (torch.arange(s.num) * 30.0).expand_as(s.energy).clone()),
            "are worth 1.0 equal ones",
        ),
        (
            changed(lambda p, s: Samples(s.spins, s.energy, s.energy * 0, Exactness.EXACT)),
            "tagged EXACT and weighted",
        ),
        (Lenient("NaN fields"), "Lenient: expected a ValueError for NaN fields"),
        (Lenient("num=0"), "Lenient: expected a ValueError for num=0"),
        (Lenient("a misshapen initial"), "Lenient: expected a ValueError for a misshapen initial"),
        (Cold(), "Cold: expected a ValueError for an initial, which it cannot continue"),
        (Deaf(), "Deaf: calls with seeds 0 and 1 return the same 64 reads"),
        (Shared(), "Shared on 'sparse', seed 0: two calls share the memory of their spins"),
        (Stale(), "Stale on 'sparse', seed 0: the call changed the result of the call before"),
        (Aliased(), "Aliased on .*: the result shares the memory of initial.spins"),
        (
            Numpy(),
            "Numpy on 'sparse', seed 0: a call with a generator changed the random state of numpy",
        ),
        (
            Unseeded(fresh=True),
            "Unseeded: without a generator, torch.manual_seed does not decide the reads",
        ),
        (
            Unseeded(fresh=False),
            "Unseeded: without a generator, two calls return the same 64 reads",
        ),
        (
            Halved(),
            "Halved on 'sparse, in torch.float16', seed 0: not implemented for 'Half': sample "
            "it, or refuse",
        ),
    ],
)
def test_bad_manners_are_rejected(sampler, message):
    with pytest.raises(ContractError, match=message):
        check_sampler(sampler, false_alarm=SHARE, cases=FIRST, reads=300)


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    check_sampler(Exact(), false_alarm=SHARE, cases=FIRST, reads=200)
    assert torch.equal(before, torch.get_rng_state())


def test_own_cases_and_the_verdicts():
    problem = Ising(Graph.sparse(2, [(0, 1)]), torch.zeros(3, 2), torch.tensor([0.5]))
    verdicts = check_sampler(Gibbs(30), cases=[Case("a pair", problem)], reads=500)
    law = [v.case for v in verdicts if v.check == "law" and v.case.startswith("a pair")]
    starts = [
        "a pair, started from all spins up",
        "a pair, started from exact reads",
        "a pair, continued",
    ]
    assert law[:12] == [label for label in ["a pair", *starts] for _ in range(3)]
    assert all(0 <= v.p_value <= 1 for v in verdicts)
    assert all(v.floor > 0 for v in verdicts if v.check == "law")
    assert "beta off by" in str(verdicts)
    cold = check_sampler(Exact(), cases=[Case("a pair", problem)], reads=500)
    assert not any("started" in v.case for v in cold)
    assert "starts: the sampler cannot continue chains" in cold.notes
    assert "not checked: starts" in str(cold)


def test_what_is_skipped_is_said():
    class Own(Sampler):
        """A batch draws in its own way, and no seed counts."""

        def draw(self, problem, num, initial, generator):
            own = torch.Generator().manual_seed(time.perf_counter_ns())
            return super().draw(problem, num, initial, own)

    verdicts = check_sampler(
        Own(), cases=FIRST, reads=300, false_alarm=SHARE, skip={"seeds", "alone"}
    )
    assert {"seeds: skipped on request", "alone: skipped on request"} <= set(verdicts.notes)
    with pytest.raises(ContractError, match=r"check_sampler\(..., skip=\{'seeds'\}\)"):
        check_sampler(Own(), cases=FIRST, reads=300, false_alarm=SHARE)
