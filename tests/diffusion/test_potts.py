"""The Potts problem term by term, and its block Gibbs sampler against enumeration."""

import itertools
from typing import Any

import pytest
import torch

from qsample import Graph, Ising
from qsample.annealers import Gibbs
from qsample.diffusion import Potts, PottsGibbs
from qsample.testing import FALSE_ALARM
from tests.support.exact import untyped
from tests.support.seeds import generator
from tests.support.tokens import number_of, p_value, rows_of

N, S = 4, 3
EVERY = rows_of(S, N)
ANY: Any = PottsGibbs()
EDGES = [(2, 0), (0, 1), (1, 2), (3, 1)]  # a triangle, and a site that hangs on it


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def a_problem(graph=None, h=(), J=(), scale=1.0):
    graph = Graph.sparse(N, EDGES) if graph is None else graph
    costs = scale * normal(*J, graph.num_edges, S, S, seed=1)
    return Potts(graph, scale * normal(*h, N, S), costs)


def by_hand(problem, state):
    """E of one state of one problem, term by term."""
    total = sum(float(problem.h[i, c]) for i, c in enumerate(state))
    for e, (i, j) in enumerate(problem.graph.edges.T.tolist()):
        total += float(problem.J[e, state[i], state[j]])
    return total


def law(problem, every=EVERY):
    return (-problem.energy(every)).softmax(-1)


@pytest.mark.parametrize(
    "graph", [Graph.sparse(N, EDGES), Graph.complete(N), Graph.bipartite(1, 3)]
)
def test_energies_and_fields_are_those_by_hand(graph):
    problem = a_problem(graph)
    expected = torch.tensor([by_hand(problem, state) for state in EVERY.tolist()])
    torch.testing.assert_close(problem.energy(EVERY), expected.double())
    field = problem.field(EVERY)
    for i, c in itertools.product(range(N), range(S)):
        other = EVERY.clone()
        other[:, i] = c
        change = problem.energy(other) - problem.energy(EVERY)
        kept = field[:, i].gather(-1, EVERY[:, i, None])[:, 0]
        torch.testing.assert_close(field[:, i, c] - kept, change)


@pytest.mark.parametrize("J", [(), (2,)])
def test_a_batch_is_its_problems(J):
    problem = a_problem(h=(2,), J=J)
    x = EVERY.expand(2, -1, -1)
    for row in range(2):
        one = Potts(problem.graph, problem.h[row], problem.J[row] if J else problem.J)
        torch.testing.assert_close(problem.energy(x)[row], one.energy(EVERY))
        torch.testing.assert_close(problem.field(x)[row], one.field(EVERY))
    together = PottsGibbs(3).sample(problem, 5, generator=[generator(0), generator(1)])
    for row in range(2):
        one = Potts(problem.graph, problem.h[row], problem.J[row] if J else problem.J)
        assert torch.equal(PottsGibbs(3).sample(one, 5, generator=[generator(row)]), together[row])


@pytest.mark.parametrize(
    "graph", [Graph.sparse(N, EDGES), pytest.param(Graph.complete(N), marks=pytest.mark.long)]
)
def test_reads_have_the_law_of_all_states(graph):
    problem = a_problem(graph)
    x = PottsGibbs(30).sample(problem, 5000, generator=generator())
    assert x.shape == (5000, N) and x.dtype == torch.int64
    assert p_value(law(problem), number_of(x)) > FALSE_ALARM
    hotter = Potts(graph, problem.h / 1.2, problem.J / 1.2)
    assert p_value(law(hotter), number_of(x)) < FALSE_ALARM
    swapped = Potts(graph, problem.h, problem.J.mT)  # the edge's ends are not alike
    assert p_value(law(swapped), number_of(x)) < FALSE_ALARM


def test_a_sweep_leaves_the_law_as_it_is():
    """Every state as often as the law says, then one sweep: the law of the reads is the same."""
    problem = a_problem()
    p = law(problem)
    start = EVERY[torch.multinomial(p, 5000, replacement=True, generator=generator(1))]
    x = PottsGibbs(1).sample(problem, 5000, initial=start, generator=generator())
    assert p_value(p, number_of(x)) > FALSE_ALARM
    assert (x != start).any(-1).double().mean() > 0.3


def test_given_states_stay():
    problem = a_problem(h=(2,))
    known = torch.tensor([[1, -1, -1, 2], [-1, 0, -1, -1]])
    given = problem.given(known)
    for row in range(2):
        fits = ((known[row] < 0) | (EVERY == known[row])).all(-1)
        one = Potts(problem.graph, problem.h[row], problem.J)
        expected = law(one) * fits
        found = law(Potts(problem.graph, given.h[row], problem.J))
        torch.testing.assert_close(found, expected / expected.sum())
    x = PottsGibbs(2).sample(given, 50, generator=generator())
    assert torch.equal(x[0, :, [0, 3]], torch.tensor([1, 2]).expand(50, 2))
    assert (x[1, :, 1] == 0).all()


def test_two_states_are_an_ising_problem():
    spins = Ising.from_edges(normal(N), EDGES, normal(len(EDGES), seed=1))
    values = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    costs = spins.J[:, None, None] * values[:, None] * values
    problem = Potts(spins.graph, spins.h[:, None] * values, costs)
    every = rows_of(2, N)
    torch.testing.assert_close(problem.energy(every), spins.energy(2 * every - 1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: Potts(p.graph, p.h[:3], p.J), ValueError, r"h of shape \[\*, 4, S\].*\[3, 3\]"),
        (
            lambda p: Potts(p.graph, p.h, p.J[:2]),
            ValueError,
            r"J of shape \[4, 3, 3\].*got \[2, 3, 3\]",
        ),
        (lambda p: Potts(p.graph, p.h.float(), p.J), TypeError, "of one float; got torch.float32"),
        (lambda p: Potts(p, p.h, p.J), TypeError, "expected a qsample Graph; got Potts"),
        (lambda p: PottsGibbs(0), ValueError, "sweeps >= 1; got 0"),
        (lambda p: PottsGibbs().sample(p, 0), ValueError, "num >= 1 reads; got 0"),
        (
            lambda p: PottsGibbs().sample(p, 2, initial=EVERY[:3]),
            ValueError,
            r"initial of shape \[2, 4\]; got \[3, 4\]",
        ),
        (
            lambda p: PottsGibbs().sample(Potts(p.graph, p.h / 0, p.J)),
            ValueError,
            "finite h and J",
        ),
        (
            lambda p: ANY.sample(Ising.from_edges(p.h[:, 0], EDGES, p.J[:, 0, 0])),
            TypeError,
            r"expected a Potts problem.*; got Ising: Gibbs\(sweeps=100\)",
        ),
        (
            lambda p: Gibbs().sample(p, 2),
            TypeError,
            r"got Potts: PottsGibbs\(sweeps=100\) draws from it",
        ),
    ],
)
def test_what_does_not_fit_is_said(call, error, message):
    with untyped(), pytest.raises(error, match=message):
        call(a_problem())
