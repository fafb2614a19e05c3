"""The models against enumeration: energies, marginals, conditionals."""

import itertools
import math

import pytest
import torch

from qsample import Graph, Ising
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.models.energy import Intractable
from qsample.problem.enumeration import log_partition
from tests.support.exact import KINDS, a_graph, all_states, slow_law
from tests.support.models import MODELS, machine, randomise, rbm, units

models = pytest.mark.parametrize("name", MODELS)


def test_rbm_energy_is_its_formula_state_by_state():
    model, n, m = rbm(3, 2), 3, 2
    model.requires_grad_(False)
    W, b, c = (p.tolist() for p in (model.W, model.b, model.c))
    problem = model.ising()
    assert problem.graph.kind == "bipartite" and problem.graph.sizes == (3, 2)
    for v in itertools.product((0, 1), repeat=n):
        for h in itertools.product((0, 1), repeat=m):
            slow = -sum(v[i] * W[i][j] * h[j] for i in range(n) for j in range(m))
            slow -= sum(v[i] * b[i] for i in range(n)) + sum(c[j] * h[j] for j in range(m))
            spins = torch.tensor([[2 * u - 1 for u in (*v, *h)]], dtype=torch.int8)
            assert float(problem.energy(spins)) == pytest.approx(slow)
            x, hidden = torch.tensor(v), torch.tensor(h)
            assert float(model.energy(x.double(), hidden.double())) == pytest.approx(slow)
            assert torch.equal(model.join(x, hidden), spins[0])


def test_boltzmann_machine_energy_goes_by_label_and_edge():
    graph = Graph.sparse(4, [(3, 0), (1, 2)], ["w", "x", "y", "z"])
    model = randomise(BoltzmannMachine(graph, ["y", "w"])).requires_grad_(False)
    for x, z, w, y in itertools.product((-1, 1), repeat=4):
        h = dict(zip("wxyz", model.h.tolist(), strict=True))
        slow = (
            h["w"] * w
            + h["x"] * x
            + h["y"] * y
            + h["z"] * z
            + float(model.J[0]) * w * z
            + float(model.J[1]) * x * y
        )
        data, hidden = torch.tensor([x, z]), torch.tensor([w, y])  # both in the graph's order
        assert float(model.energy(data.double(), hidden.double())) == pytest.approx(slow)


@models
def test_split_and_join_are_inverse(name):
    model = MODELS[name]()
    spins = torch.tensor(all_states(model.graph.num_spins), dtype=torch.int8)
    x, hidden = model.split(spins)
    assert x.shape == (len(spins), model.num_visible) and hidden.shape == (
        len(spins),
        model.num_hidden,
    )
    assert x.dtype == torch.float64
    assert torch.equal(model.join(x, hidden), spins) and model.join(x, hidden).dtype == torch.int8
    assert set(x.unique().tolist()) == ({0, 1} if model.coding == "bits" else {-1, 1})
    torch.testing.assert_close(model.ising().energy(spins), model.energy(x, hidden))
    # leading axes broadcast: every x with every hidden
    both = model.join(units(model, model.num_visible)[:, None], units(model, model.num_hidden))
    assert both.shape == (2**model.num_visible, 2**model.num_hidden, model.graph.num_spins)
    assert (
        model.energy(units(model, model.num_visible)[0], units(model, model.num_hidden)[0]).shape
        == ()
    )


@models
def test_free_energy_and_conditional_law(name):
    """p(hidden | x), and the sum over hidden of the conditional problem, are the joint's."""
    model = MODELS[name]()
    x, hidden = units(model, model.num_visible), units(model, model.num_hidden)
    joint = model.energy(x[:, None], hidden[None])
    assert joint.shape == (len(x), len(hidden))
    conditional = model.ising(visible=x)
    assert conditional.batch_shape == (len(x),) and conditional.num_spins == model.num_hidden
    assert conditional.J.dim() == len(conditional.graph.coupling_shape)  # one J for all rows
    torch.testing.assert_close(conditional.energy(model.encode(hidden)), joint)
    torch.testing.assert_close(-log_partition(conditional), -(-joint).logsumexp(-1))
    torch.testing.assert_close(
        log_partition(model.ising()),
        torch.tensor(slow_law(model.ising().detach())[2], dtype=torch.float64),
    )
    if not model.num_hidden:
        return
    one = conditional.detach()
    states, p, _ = slow_law(Ising(one.graph, one.h[0], one.J, one.offset[0]))
    expected = dict(
        zip(map(tuple, model.encode(hidden).tolist()), (-joint[0]).softmax(0).tolist(), strict=True)
    )
    assert dict(zip(states, p, strict=True)) == pytest.approx(expected)


@models
def test_free_energy(name):
    model = MODELS[name]()
    x, hidden = units(model, model.num_visible), units(model, model.num_hidden)
    coupled = "coupled" in name or "both" in name
    assert model.tractable is not coupled
    if coupled:
        with pytest.raises(
            Intractable, match=r"sampler\.sample\(model\.ising\(visible=data\), num\)"
        ):
            model.free_energy(x)
        assert issubclass(Intractable, ValueError)
    else:
        torch.testing.assert_close(
            model.free_energy(x), -(-model.energy(x[:, None], hidden[None])).logsumexp(-1)
        )


@models
def test_everything_is_differentiable(name):
    model = MODELS[name]()
    x = units(model, model.num_visible)
    names, leaves = zip(
        *((k, p.detach().clone().requires_grad_()) for k, p in model.named_parameters()),
        strict=True,
    )

    class Ways(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            joint, rest = model.ising(), model.ising(visible=x)
            return joint.h, joint.J, joint.offset, rest.h, rest.offset, model.energy(x, hidden)

    hidden = units(model, model.num_hidden)[-1:].expand(len(x), -1)
    ways = Ways()

    def call(*values):
        return torch.func.functional_call(
            ways, {f"model.{k}": v for k, v in zip(names, values, strict=True)}, ()
        )

    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool]
)
def test_data_of_any_type(dtype):
    model = rbm()
    x = torch.tensor([[0, 1, 1], [1, 0, 0]]).to(dtype)
    for call in (model.free_energy, lambda x: model.ising(visible=x).h, model.encode):
        torch.testing.assert_close(call(x), call(x.double()))
    spins = machine("sparse", "ca")
    if not (dtype.is_floating_point or dtype.is_signed):
        return
    x = torch.tensor([[-1, 1, 1]]).to(dtype)
    torch.testing.assert_close(spins.free_energy(x), spins.free_energy(x.double()))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.full((2, 3), 0.5), "data of 0 and 1 only; got 0.5"),
        (torch.tensor([[0, 1, -1]]), "data of 0 and 1 only; got -1"),
        (torch.tensor([[0.0, 1.0, math.nan]]), "data of 0 and 1 only; got nan"),
        (torch.tensor([[0, 1, 255]], dtype=torch.uint8), "data of 0 and 1 only; got 255"),
        (torch.zeros(2, 4), r"data of shape \[\*, 3\]; got \[2, 4\]"),
        (torch.tensor(1.0), r"data of shape \[\*, 3\]; got \[\]"),
    ],
)
def test_bad_bits(bad, message):
    model = rbm()
    for call in (
        model.check,
        lambda x: model.ising(visible=x),
        lambda x: model.join(x, torch.zeros(2)),
    ):
        with pytest.raises(ValueError, match=message):
            call(bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(2, 3), r"data of -1 and \+1 only; got 0"),
        # 127^2 = 1 in int8
        (torch.full((2, 3), 127, dtype=torch.int8), r"data of -1 and \+1 only; got 127"),
        # -1 in uint8
        (torch.tensor([[1, 1, 255]], dtype=torch.uint8), r"data of -1 and \+1 only; got 255"),
        (torch.tensor([[True, True, False]]), r"data of -1 and \+1 only; got 0"),
        (torch.ones(2, 5), r"data of shape \[\*, 3\]; got \[2, 5\]"),
    ],
)
def test_bad_spins(bad, message):
    with pytest.raises(ValueError, match=message):
        machine("sparse", "ca").check(bad)


def test_bad_hidden_units_and_sizes():
    with pytest.raises(ValueError, match="expected hidden of 0 and 1 only; got 2"):
        rbm().join(torch.zeros(3), torch.tensor([2, 0]))
    with pytest.raises(ValueError, match=r"expected hidden of shape \[\*, 2\]; got \[3\]"):
        rbm().join(torch.zeros(3), torch.zeros(3))
    for n, m in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match=f"one visible and one hidden unit; got {n} and {m}"):
            BernoulliRBM(n, m)
    with pytest.raises(ValueError, match="no visible spin: all 5 spins"):
        machine("sparse", "abcde")
    with pytest.raises(ValueError, match="no spin is labelled 'f'"):
        machine("sparse", "f")


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_the_hidden_may_come_in_any_order(kind):
    graph = a_graph(kind, "abcde")
    model = BoltzmannMachine(graph, "db")
    assert model.visible_index.tolist() == [0, 2, 4] and model.hidden_index.tolist() == [1, 3]
    assert list(model.ising(visible=torch.ones(1, 3)).graph.labels) == ["b", "d"]
