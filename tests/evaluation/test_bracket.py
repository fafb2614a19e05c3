"""Brackets of log Z hold the exact value, or say that they may not."""

from typing import Any

import pytest
import torch

from qsample import (
    Bracket,
    Estimate,
    Graph,
    Ising,
    ReliabilityWarning,
    Side,
    log_likelihood,
    log_partition,
)
from qsample.evaluation.bracket import Effort, bracket
from qsample.models import BernoulliRBM
from tests.support.exact import KINDS, a_graph, a_problem
from tests.support.thinning import thinned

QUICK: Any = {"steps": 256, "chains": 64, "width": 0.5}


def a_random_rbm(seed, scale, size=20):
    """Couplings of standard deviation scale / (4 sqrt(size)); 4 and more are glassy."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(size, size, generator=generator, dtype=torch.float64) * scale / size**0.5
    h = torch.randn(2 * size, generator=generator, dtype=torch.float64) / 2
    return Ising(Graph.bipartite(size, size), h, W / 4, torch.tensor(0.5).double())


def a_hidden_mode(seed, mass):
    """An RBM of 60 x 12 with a mode that data never visit; data; log Z, by its 13 hidden sums."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(60, generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, (60,), generator=generator).double() * 2 - 1
    on = torch.arange(13, dtype=torch.float64)
    given = torch.nn.functional.softplus(b + on[:, None] * 0.42 * sign).sum(-1)
    count = torch.lgamma(torch.tensor(13.0)).double()
    given += count - torch.lgamma(on + 1) - torch.lgamma(13 - on)
    few = on < 6

    def excess(c):
        terms = given + c * on
        return float(terms[~few].logsumexp(0) - terms[few].logsumexp(0))

    low, high = -100.0, 100.0
    goal = float(torch.as_tensor(mass).logit())
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < goal else (low, middle)
    model = BernoulliRBM(60, 12).double()
    with torch.no_grad():
        model.b.copy_(b)
        model.c.fill_(low)
        model.W.copy_(0.42 * sign[:, None].expand(60, 12))
    data = (torch.rand(2000, 60, generator=generator) < b.sigmoid()).double()
    return model, data, float((given + low * on).logsumexp(0))


def exact_of(problem):
    return log_partition(problem, "exact").value


@pytest.mark.parametrize("kind", thinned(KINDS, 3))
def test_the_exact_value_lies_inside(kind):
    problem = a_problem(a_graph(kind), offset=(), scale=0.7)
    generator = torch.Generator().manual_seed(1)
    found = log_partition(problem, "bracket", **QUICK, generator=generator)
    assert isinstance(found, Bracket)
    assert exact_of(problem) in found
    assert found.width < 0.2 and not found.note
    assert {side.holds for side in found.sides} == {"bound", "if equilibrated"}


def test_a_mode_that_data_do_not_visit_is_inside_and_noted():
    model, data, log_z = a_hidden_mode(0, 0.95)
    with pytest.warns(ReliabilityWarning, match="ladders started apart disagree"):
        found = log_partition_of(model, data)
    assert log_z in found
    assert "data" in found.note and "raise steps" in found.note


def log_partition_of(model, data, **options):
    free = -float(model.free_energy(data).mean().detach())
    generator = torch.Generator().manual_seed(0)
    found = log_likelihood(model, data, "bracket", **{**QUICK, **options}, generator=generator)
    assert isinstance(found, Bracket)
    return found.taken_from(free)


def test_a_likelihood_is_the_free_energies_less_log_z():
    model = BernoulliRBM(6, 4, generator=torch.Generator().manual_seed(0))
    data = (torch.rand(50, 6, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    exact = log_likelihood(model, data)
    assert isinstance(exact, Estimate) and exact.stderr == 0
    found = log_likelihood(model, data, "bracket", **QUICK)
    assert isinstance(found, Bracket)
    assert exact.value in found
    ends = [side.end for side in found.sides]
    assert ends == ["low", "low", "high"]  # what bounds log Z from below bounds this from above
    assert found.sides[-1].holds == "bound"


def test_beyond_enumeration_a_bracket_is_what_one_gets():
    problem = a_problem(Graph.complete(26), scale=0.05)
    found = log_partition(problem, **QUICK, generator=torch.Generator().manual_seed(1))
    assert isinstance(found, Bracket)
    again = log_partition(problem, **QUICK, generator=torch.Generator().manual_seed(1))
    assert again == found
    assert str(found) == f"between {found.low:.4f} and {found.high:.4f}"


def test_bad_requests_are_refused():
    problem = a_problem(a_graph("sparse"))
    n = problem.num_spins
    with pytest.raises(ValueError, match=rf"expected starts of shape \[S, {n}\]; got \[3\]"):
        log_partition(problem, "bracket", starts=torch.ones(3))
    with pytest.raises(ValueError, match=rf"expected base fields of shape \[{n}\]; got \[2\]"):
        log_partition(problem, "bracket", base=torch.zeros(2))
    with pytest.raises(ValueError, match="width > 0; got 1000, 256 and 0"):
        log_partition(problem, "bracket", steps=1000, width=0)


def test_a_bracket_turns_around():
    sides = (Side("low", "annealing up", 1.0, 0.1, "bound"),)
    turned = Bracket(0.5, 2.0, "why", sides).taken_from(10.0)
    assert (turned.low, turned.high, turned.note) == (8.0, 9.5, "why")
    assert turned.sides[0].end == "high" and turned.sides[0].value == 9.0
    assert str(turned) == "between 8.0000 and 9.5000 (why)"


@pytest.mark.long
def test_brackets_of_random_rbms():
    """Of 100, weak to glassy: at least 97 inside, most are narrow, few carry a note."""
    widths = []
    inside = 0
    notes = 0
    for seed in range(100):
        problem = a_random_rbm(seed, scale=[0.5, 1, 2, 4, 6, 8, 10, 14, 18, 24][seed % 10])
        found = bracket(problem, None, None, Effort(), seed)
        inside += exact_of(problem) in found
        notes += bool(found.note)
        widths.append(found.width)
    widths = torch.tensor(widths).sort().values
    assert inside >= 97
    assert notes <= 10
    assert widths[50] <= 0.1 and widths[95] <= 1


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")
@pytest.mark.parametrize("seed", range(20))
def test_planted_modes(seed):
    model, data, log_z = a_hidden_mode(seed, torch.linspace(0.05, 0.99, 20)[seed])
    found = log_partition_of(model, data, steps=2000, chains=256, width=0.1)
    assert log_z in found or found.note
    assert log_z in found  # more than is asked for


@pytest.mark.parametrize("kind", thinned(KINDS, len(KINDS)))
def test_any_number_of_steps_serves_and_torch_draws_on(kind):
    """The last part of the work may be a round; torch's own generator is left as it was."""
    problem = a_problem(a_graph(kind), scale=0.7)
    state = torch.get_rng_state()
    effort = Effort(width=1e-6, chains=16, steps=260)
    assert bracket(problem.to(dtype=torch.float64), None, None, effort, 3).width > 0
    assert torch.equal(state, torch.get_rng_state())
