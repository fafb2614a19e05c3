"""What travels with the weights, and where they begin."""

import copy

import pytest
import torch

from qsample import Graph
from qsample.models import BernoulliRBM, BoltzmannMachine
from tests.support.exact import a_graph, slow_law
from tests.support.models import MODELS, machine

models = pytest.mark.parametrize("name", MODELS)


@models
def test_weights_travel_with_their_graph(name):
    model, other = MODELS[name](), MODELS[name]()
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (lambda: BoltzmannMachine(a_graph("sparse", "edcba"), "c"), "labels"),
        (lambda: BoltzmannMachine(a_graph("sparse", "abcde"), "a"), "hidden"),
        (
            lambda: BoltzmannMachine(
                Graph.sparse(5, [(3, 1), (0, 1), (3, 0), (2, 4)], "abcde"), "c"
            ),
            "graph",
        ),
        (lambda: BoltzmannMachine(Graph.bipartite(1, 4, "abcde"), "c"), "kind"),
        (
            lambda: BoltzmannMachine(
                Graph.sparse(6, [(3, 1), (0, 1), (3, 0), (1, 4)], "abcdef"), "c"
            ),
            "sizes",
        ),
        (lambda: BernoulliRBM(4, 1), "model"),
    ],
)
def test_weights_of_another_graph_are_refused(other, difference):
    """All but two have tensors of the same shape: only the graph's identity can tell them apart."""
    model = machine("sparse", "c")
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=f"weights of another model: its {difference} is"):
        model.load_state_dict(other().state_dict())
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), "refused weights must not be half loaded"
    torch.nn.Sequential(model).load_state_dict(
        torch.nn.Sequential(machine("sparse", "c")).state_dict()
    )
    with pytest.raises(ValueError, match="weights of another model"):
        torch.nn.Sequential(model).load_state_dict(torch.nn.Sequential(other()).state_dict())


GRAPHS = {
    "rbm": lambda k: BernoulliRBM(
        20 * k, 10 * k, generator=torch.Generator().manual_seed(k)
    ).ising(),
    "complete": lambda k: BoltzmannMachine(
        Graph.complete(30 * k), generator=torch.Generator().manual_seed(k)
    ).ising(),
    "ring": lambda k: BoltzmannMachine(
        Graph.sparse(90 * k, [(i, (i + 1) % (90 * k)) for i in range(90 * k)]),
        generator=torch.Generator().manual_seed(k),
    ).ising(),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("k", [1, 4])
def test_a_new_model_is_disordered_whatever_its_size(name, k):
    """Order sets in where an eigenvalue of -J is 1: 1 + J is the naive mean-field Hessian."""
    problem = GRAPHS[name](k)
    n = problem.num_spins
    i, j = problem.graph.edges
    J = torch.zeros(n, n)
    J[i, j] = problem.graph.edge_values(problem.J).detach()
    largest = float(torch.linalg.eigvalsh(J + J.T).abs().max())
    # disordered, and not so small that symmetry between hidden units lasts
    assert 0.02 < largest < 0.5


@pytest.mark.parametrize("weighted", [False, True])
def test_visible_bias_is_the_smoothed_logit(weighted):
    """Without couplings the visible marginals are the data's, one count of each value added."""
    g = torch.Generator().manual_seed(0)
    data = (torch.rand(40, 3, generator=g) < torch.tensor([0.1, 0.5, 0.9])).double()
    weight = torch.rand(40, generator=g) if weighted else None
    w = torch.ones(40).double() if weight is None else weight.double() * 40 / weight.double().sum()
    expected = ((w[:, None] * data).sum(0) + 1) / 42
    model = BernoulliRBM(3, 2).double()
    bits_to_spins = BoltzmannMachine(a_graph("sparse", "abcde"), "ca").double()
    for m, x in ((model, data), (bits_to_spins, 2 * data - 1)):
        for name, p in m.named_parameters():
            if name in "WJ":
                p.data.zero_()
        m.set_visible_bias(x, weight)
        states, p, _ = slow_law(m.ising().detach())
        visible = torch.tensor(states)[:, m.visible_index] == 1
        marginal = (torch.tensor(p, dtype=torch.float64)[:, None] * visible).sum(0)
        torch.testing.assert_close(marginal, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_features_stay_finite(value):
    data = torch.full((100, 3), value)
    model = BernoulliRBM(3, 2)
    model.set_visible_bias(data)
    assert model.b.isfinite().all() and model.free_energy(data).isfinite().all()
    other = BoltzmannMachine(a_graph("sparse", "abcde"), "ca")
    other.set_visible_bias(2 * data - 1)
    assert other.h.isfinite().all()


def test_nothing_global_is_touched():
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    g = torch.Generator().manual_seed(0)
    models = BernoulliRBM(3, 2, generator=g), BoltzmannMachine(a_graph("complete"), generator=g)
    assert torch.get_default_dtype() is dtype and torch.equal(torch.get_rng_state(), state)
    for model in models:
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert {p.dtype for p in model.double().parameters()} == {torch.float64}
        assert model.ising().dtype == torch.float64
    again = BernoulliRBM(3, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.W, models[0].W.float())
