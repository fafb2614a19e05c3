"""Surrogates against enumeration: where each is exact, what it costs, batches one by one."""

from collections.abc import Hashable
from functools import partial

import numpy as np
import pytest
import torch

from qsample import Graph, Ising
from qsample.annealers import Exact
from qsample.diffusion import Counted, UniformBits, linear, regression, secant, taylor
from qsample.problem.enumeration import states
from tests.support.exact import a_problem, slow_energy, untyped
from tests.support.seeds import generator

N = 6
S = states(N).double()
RING = Graph.sparse(N, [(i, (i + 1) % N) for i in range(N)])
SURROGATES = {
    "linear": linear,
    "secant": secant,
    "secant on a ring": partial(secant, graph=RING),
    "taylor": taylor,
    "taylor on a ring": partial(taylor, graph=RING),
    "regression": regression,
    "regression on a ring": partial(regression, graph=RING, flips=0.4, states=50),
    "regression with a sampler": partial(regression, sampler=Exact(), rounds=3),
}


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def network(seed=0, n=N, scale=1.0):
    """A tanh network of 16 units."""
    g = generator(seed)
    W, b, v = (
        torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((n, 16), (16,), (16,))
    )
    return lambda s: scale * (torch.tanh((s.double() @ W + b) / 2) @ v)


def anchors(*batch, n=N, seed=3):
    return torch.randint(2, (*batch, n), generator=generator(seed)).double() * 2 - 1


def distance(a):
    """Flips from the anchor to each state of S."""
    return (a != S).sum(-1)


# ---- where they are exact ----------------


def test_secant_is_exact_within_two_flips():
    E, a = network(), anchors()
    error = (secant(E, a).energy(S) - E(S)).abs()
    assert error[distance(a) <= 2].max() < 1e-10
    assert error[distance(a) == 3].max() > 1e-2


def test_secant_on_a_graph_is_exact_on_its_edges():
    E, a = network(), anchors()
    error = (secant(E, a, graph=RING).energy(S) - E(S)).abs()
    ends = torch.zeros(len(RING.pairs.T), N, dtype=torch.bool)
    ends[torch.arange(N), RING.pairs[0]] = ends[torch.arange(N), RING.pairs[1]] = True
    on_an_edge = ((a != S)[:, None] == ends).all(-1).any(-1)
    assert error[on_an_edge | (distance(a) <= 1)].max() < 1e-10
    assert error[(distance(a) == 2) & ~on_an_edge].max() > 1e-2


def test_taylor_is_the_second_order_polynomial():
    E, a = network(), anchors()
    g, H = torch.autograd.functional.jacobian(E, a), torch.autograd.functional.hessian(E, a)
    assert isinstance(g, torch.Tensor) and isinstance(H, torch.Tensor)
    polynomial = E(a) + (S - a) @ g + ((S - a) @ H * (S - a)).sum(-1) / 2
    close(taylor(E, a).energy(S), polynomial)
    close(linear(E, a).energy(S), E(a) + (S - a) @ g)
    i, j = RING.edges
    kept = H.diagonal().diag()
    kept[i, j], kept[j, i] = H[i, j], H[j, i]
    close(
        taylor(E, a, graph=RING).energy(S),
        E(a) + (S - a) @ g + ((S - a) @ kept * (S - a)).sum(-1) / 2,
    )


@pytest.mark.parametrize(
    "surrogate", [secant, taylor, partial(regression, ridge=1e-14, flips=0.5, states=300)]
)
@pytest.mark.parametrize("graph", [Graph.complete(N), RING])
def test_a_quadratic_energy_is_its_own_surrogate(surrogate, graph):
    problem = a_problem(graph)
    found = surrogate(problem.energy, anchors(), graph=graph, generator=generator())
    assert found.graph is graph
    close(found.energy(S), problem.energy(S), 1e-8)
    close(found.J, problem.J, 1e-8)


def test_a_forward_coupling_is_a_field_of_every_surrogate():
    """Adding -w x_k.y to the energy adds -w x_k to h: the surrogates need not know of it."""
    forward, x = UniformBits(torch.tensor([0.0, 0.7])), anchors(seed=5)
    E = network()
    for surrogate in (linear, secant, taylor):
        with_it, without = (
            surrogate(forward.conditioned(E, x, 1), anchors()),
            surrogate(E, anchors()),
        )
        close(with_it.h - without.h, forward.fields(x, 1))
        close(with_it.J, without.J)


def test_the_problems_bqm_and_qubo_have_its_energies():
    problem = secant(network(), anchors())
    bqm, (Q, offset) = problem.to_bqm(), problem.to_qubo()
    flipped = Ising(problem.graph, -problem.h, problem.J, problem.offset).to_bqm()
    worst = 0.0
    for s, E in zip(S.tolist(), problem.energy(S).tolist(), strict=True):
        by_label = dict(enumerate(int(v) for v in s))
        b: dict[Hashable, int] = {i: (v + 1) // 2 for i, v in by_label.items()}
        assert slow_energy(problem, s) == pytest.approx(E, abs=1e-10)
        assert float(bqm.energy(by_label)) == pytest.approx(E, abs=1e-10)
        assert offset + sum(q * b[i] * b[j] for (i, j), q in Q.items()) == pytest.approx(
            E, abs=1e-10
        )
        worst = max(worst, abs(float(flipped.energy(by_label)) - E))
    assert worst > 0.1  # the mutant fails


# ---- regression ----------------


class Seen:
    """An energy that keeps the states it is asked for."""

    def __init__(self, energy):
        self.energy, self.states = energy, []

    def __call__(self, s):
        self.states.append(s.clone())
        return self.energy(s)


@pytest.mark.parametrize("graph", [Graph.complete(N), RING])
def test_regression_is_least_squares(graph):
    E, ridge = Seen(network()), 0.05
    found = regression(E, anchors(), graph=graph, ridge=ridge, states=60, generator=generator())
    s = torch.cat(E.states)
    assert s.shape == (60, N)
    i, j = graph.edges
    X = np.column_stack([s, s[:, i] * s[:, j]])
    X0, y = X - X.mean(0), E.energy(s).numpy()
    top = np.vstack([X0, np.sqrt(60 * ridge) * np.eye(X.shape[1])])
    beta, *_ = np.linalg.lstsq(
        top, np.concatenate([y - y.mean(), np.zeros(X.shape[1])]), rcond=None
    )
    close(torch.cat([found.h, graph.edge_values(found.J)]), torch.from_numpy(beta))
    assert float(found.offset) == pytest.approx(float(y.mean() - X.mean(0) @ beta), abs=1e-10)


def test_regression_on_given_states():
    """Those states and no others: the fit of uniform weights on all of them, for every anchor."""
    E = network()
    found = regression(E, anchors(2), states=S, ridge=1e-12)
    assert found.batch_shape == (2,) and torch.equal(found.h[0], found.h[1])
    residual = E(S) - found.energy(S)[0]
    # least squares: orthogonal to every feature
    close(S.T @ residual, torch.zeros(N).double(), 1e-6)
    close(residual.sum(), torch.zeros(()).double(), 1e-6)
    counted = Counted(E)
    regression(counted, anchors(), states=S)
    assert counted.counts["evaluations"] == len(S)


def test_regressions_states_lie_near_the_anchor():
    E, a, flips = Seen(network()), anchors(), 0.2
    regression(E, a, flips=flips, states=5000, generator=generator())
    share = (torch.cat(E.states) != a).double().mean(0)
    assert ((share - flips).abs() / (flips * (1 - flips) / 5000) ** 0.5 < 5).all()


def acceptance(E, U):
    """The mean of independent draws of exp(-U) as proposals for exp(-E), over all states."""
    p, q = (-E).softmax(-1), (-U).softmax(-1)
    log_w = (-E).log_softmax(-1) - (-U).log_softmax(-1)
    return float((p[:, None] * q * (log_w[None] - log_w[:, None]).clamp(max=0).exp()).sum())


def test_a_sampler_takes_regression_to_where_the_mass_is():
    """On 20 rugged networks of 10 sites, with as many evaluations."""
    every, better = states(10).double(), 0
    for seed in range(20):
        E, a = network(seed, 10, scale=3.0), anchors(n=10)
        found = [
            regression(E, a, flips=0.5, states=400, sampler=sampler, generator=generator(seed))
            for sampler in (None, Exact())
        ]
        plain, sent = (acceptance(E(every), U.energy(every)) for U in found)
        better += sent > plain
    assert better >= 18  # by chance: 2e-4


# ---- batches, cost, refusals ----------------


@pytest.mark.parametrize("name", SURROGATES)
def test_a_batch_is_its_items_one_by_one(name):
    surrogate, a, shift = (
        SURROGATES[name],
        anchors(2, 3),
        torch.arange(6.0, dtype=torch.float64).reshape(2, 3, 1),
    )
    E = network()

    def conditional(shift):
        return lambda s: E(s) + (0.1 * shift * s.prod(-1))

    generators = [generator(k) for k in range(6)]
    together = surrogate(conditional(shift), a, generator=generators)
    assert together.batch_shape == (2, 3) and together.dtype == torch.float64
    for k in range(6):
        at = k // 3, k % 3
        alone = surrogate(conditional(shift[at]), a[at], generator=generator(k))
        for t, u in ((together.h, alone.h), (together.J, alone.J), (together.offset, alone.offset)):
            close(t[at] if t.dim() > u.dim() else t, u, 1e-9)


def test_what_they_cost():
    def cost(surrogate, **options):
        E = Counted(network())
        surrogate(E, anchors(4), **options)
        return tuple(E.counts.values())

    p = 1 + N + N * (N - 1) // 2
    assert cost(linear) == (0, 4, 0)
    assert cost(secant) == (4 * p, 0, 0)
    assert cost(secant, graph=RING) == (4 * (1 + 2 * N), 0, 0)
    assert cost(taylor) == (0, 4, 4 * N)
    assert cost(regression) == cost(regression, sampler=Exact()) == (8 * p, 0, 0)


def test_many_states_go_in_parts(monkeypatch):
    E, a = Seen(network()), anchors(2)
    whole = secant(E, a)
    assert len(E.states) == 1
    monkeypatch.setattr("qsample.neural.energy.CHUNK", 5 * 2 * N)
    E.states.clear()
    close(secant(E, a).h, whole.h)
    assert [s.shape for s in E.states] == [(2, 5, N)] * 4 + [(2, 2, N)]
    close(taylor(E, a).J, taylor(network(), a).J)


def test_a_linear_network_has_no_curvature():
    v = torch.randn(N, generator=generator(), dtype=torch.float64)
    found = taylor(lambda s: s @ v, anchors())
    close(found.h, v)
    close(found.J, torch.zeros(N, N, dtype=torch.float64))


def test_refusals():
    a = anchors(2)
    for call, said in [
        (
            lambda: secant(network(), a.clamp_min(0)),
            r"anchor .* of -1 and \+1; got 0: take its sign",
        ),
        (
            lambda: secant(network(), a, graph=Graph.complete(7)),
            r"graph has 7 spins, the anchor 6 sites",
        ),
        (
            lambda: secant(lambda s: s, a),
            r"expected energies \[2, 22\] of states \[2, 22, 6\]; got \[2, 22, 6\]",
        ),
        (lambda: secant(lambda s: s.sum(-1) * torch.nan, a), r"energy of a state is nan"),
        (lambda: linear(lambda s: s.detach().sum(-1), a), r"no gradient.*use secant or SiteGibbs"),
        (
            lambda: linear(lambda s: torch.empty(s.shape[:-1], device="meta"), a),
            r"energy is on meta, the states on cpu",
        ),
        (lambda: regression(network(), a, flips=0.6), r"0 < flips <= 0\.5; got 0\.6"),
        (
            lambda: regression(network(), a, states=a[0]),
            r"states \[\*B, M, 6\] of -1 and \+1; got \[6\]",
        ),
        (lambda: regression(network(), a, states=0 * S), r"states \[\*B, M, 6\] of -1 and \+1"),
        (lambda: regression(network(), a, states=0), r"got 0 states in 1 rounds"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
    with untyped(), pytest.raises(TypeError, match="expected an energy, a function"):
        Counted(3)  # pyright: ignore[reportArgumentType]
