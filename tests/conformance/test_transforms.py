"""Models under torch.func, torch.compile, autocast and meta devices, on rows of any leading shape, and between values.

The oracles are sums over all states of the joint energy, written out here.
"""

import copy
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, hessian, vmap

from qsample import ContrastiveDivergence, Graph, cd_loss
from qsample.annealers import Exact, Gibbs
from qsample.diffusion import UniformBits, log_times
from qsample.models import (
    BernoulliRBM,
    BoltzmannMachine,
    DenoisingThermodynamicModel,
    IsingCopula,
)
from tests.support.exact import untyped
from tests.support.models import MODELS, law_samples, machine, rbm, some_data, units
from tests.support.seeds import generator

models = pytest.mark.parametrize("name", MODELS)
TRACTABLE = [name for name in MODELS if "coupled" not in name and "both" not in name]
tractable = pytest.mark.parametrize("name", TRACTABLE)
# of torch's own second derivatives
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def plain_energy(model, x, hidden, weights):
    """E by its formula, term by term, for units of any real value."""
    if isinstance(model, BernoulliRBM):
        W, b, c = weights
        return -torch.einsum("...i,ij,...j->...", x, W, hidden) - x @ b - hidden @ c
    h, J = weights
    joint: list[Any] = [None] * model.graph.num_spins
    for part, index in ((x, model.visible_index), (hidden, model.hidden_index)):
        for at, spin in enumerate(index.tolist()):
            joint[spin] = part[..., at]
    energy = torch.zeros(x.shape[:-1], dtype=x.dtype)
    for i, s in enumerate(joint):
        energy = energy + h[i] * s
    for k, (i, j) in enumerate(model.graph.edges.T.tolist()):
        energy = energy + J[k] * joint[i] * joint[j]
    return energy


def plain_free_energy(model, x, weights):
    values = (0.0, 1.0) if model.coding == "bits" else (-1.0, 1.0)
    states = torch.tensor(list(itertools.product(values, repeat=model.num_hidden)), dtype=x.dtype)
    states = states.reshape(len(values) ** model.num_hidden, model.num_hidden)
    wide = x[..., None, :].expand(*x.shape[:-1], len(states), x.shape[-1])
    energy = plain_energy(model, wide, states.expand(*wide.shape[:-1], -1), weights)
    return -(-energy).logsumexp(-1)


def between(model, rows=6, seed=3):
    x = torch.rand(rows, model.num_visible, generator=generator(seed)).double()
    return x if model.coding == "bits" else 2 * x - 1


def numbers_of(model):
    return tuple(getattr(model, name).detach() for name in model.names)


# ---- one rule for rows ----------------


@models
def test_energies_are_multilinear_in_rows_of_any_leading_shape(name):
    model, x = MODELS[name](), between(MODELS[name]())
    hidden = torch.rand(6, model.num_hidden, generator=generator(5)).double()
    hidden = hidden if model.coding == "bits" else 2 * hidden - 1
    expected = plain_energy(model, x, hidden, numbers_of(model))
    torch.testing.assert_close(model.energy(x, hidden), expected)
    torch.testing.assert_close(model.energy(x[0], hidden[0]), expected[0])
    cube = model.energy(x.reshape(2, 3, -1), hidden.reshape(2, 3, -1))
    torch.testing.assert_close(cube, expected.reshape(2, 3))
    leaves: Any = [x.clone().requires_grad_(), hidden.clone().requires_grad_()]
    plain = [x.clone().requires_grad_(), hidden.clone().requires_grad_()]
    ours = torch.autograd.grad(model.energy(*leaves).sum(), leaves, materialize_grads=True)
    theirs = plain_energy(model, plain[0], plain[1], numbers_of(model)).sum()
    theirs = torch.autograd.grad(theirs, plain, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@tractable
@pytest.mark.parametrize("frozen", [False, True])
def test_free_energy_has_a_gradient_in_relaxed_rows(name, frozen):
    model = MODELS[name]().requires_grad_(not frozen)
    x = between(model).requires_grad_()
    plain = x.detach().clone().requires_grad_()
    expected = plain_free_energy(model, plain, numbers_of(model))
    found = model.free_energy(x)
    torch.testing.assert_close(found.detach(), expected.detach())
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), x)[0], torch.autograd.grad(expected.sum(), plain)[0]
    )
    torch.testing.assert_close(model.free_energy(x[0]), found[0])
    torch.testing.assert_close(model.free_energy(x.reshape(3, 2, -1)), found.reshape(3, 2))


@tractable
def test_what_is_sampled_or_learnt_from_takes_the_two_values_only(name):
    model, x = MODELS[name](), between(MODELS[name]())
    samples = law_samples(model.ising())
    for call in (lambda: model.ising(visible=x), lambda: cd_loss(model, x, samples)):
        with pytest.raises(ValueError, match="only; got"):
            call()
    for call in (lambda: model.join(x, units(model, model.num_hidden)[:1]),):
        with pytest.raises(ValueError, match="only; got"):
            call()
    for bad, said in ((1.5, "or between them; got 1.5"), (float("nan"), "got nan")):
        with untyped(), pytest.raises(ValueError, match=said):
            model.free_energy(torch.full((2, model.num_visible), bad))


def test_bits_are_not_taken_for_relaxed_spins():
    model = machine("sparse", "ca")
    with pytest.raises(ValueError, match=r"got 0 and 1 only: 2 \* bits - 1 makes spins"):
        model.free_energy(torch.tensor([[0.0, 1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"-1 and \+1 only; got 0"):
        model.free_energy(torch.tensor([[0, 1, 1]]))
    centre = torch.zeros(2, 3, dtype=torch.float64)
    torch.testing.assert_close(
        model.free_energy(centre), plain_free_energy(model, centre, numbers_of(model))
    )


# ---- torch.func ----------------


class Call(torch.nn.Module):
    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *args):
        return self.function(self.model, *args)


def functional(model, function):
    """`function(model, *args)` as one of the parameters too."""
    call = Call(model, function)

    def run(parameters, *args):
        named = {f"model.{name}": value for name, value in parameters.items()}
        return functional_call(call, named, args)

    return run, {name: value.detach() for name, value in model.named_parameters()}


@tractable
def test_per_sample_gradients_of_free_energy(name):
    model = MODELS[name]()
    x = some_data(model, 5)
    run, parameters = functional(model, lambda m, row: m.free_energy(row))
    found = vmap(grad(run), in_dims=(None, 0))(parameters, x)
    for k, row in enumerate(x):
        leaves = [value.clone().requires_grad_() for value in numbers_of(model)]
        energy = plain_free_energy(model, row, leaves)
        exact = torch.autograd.grad(energy, leaves, materialize_grads=True)
        for key, value in zip(model.names, exact, strict=True):
            torch.testing.assert_close(found[key][k], value)
    relaxed = between(model, 2)
    second = vmap(hessian(model.free_energy))(relaxed)

    def plain_at(row):
        return plain_free_energy(model, row, numbers_of(model))

    each: Any = [torch.autograd.functional.hessian(plain_at, row) for row in relaxed]
    torch.testing.assert_close(second, torch.stack(each))


@tractable
def test_per_sample_gradients_of_cd_loss(name):
    model = MODELS[name]()
    x, samples = some_data(model, 5), law_samples(model.ising())
    run, parameters = functional(model, lambda m, row: cd_loss(m, row[None], samples))
    found = vmap(grad(run), in_dims=(None, 0))(parameters, x)
    for k, row in enumerate(x):
        loss = cd_loss(model, row[None], samples)
        exact = torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)
        for (key, _), value in zip(model.named_parameters(), exact, strict=True):
            torch.testing.assert_close(found[key][k], value)
    weight = torch.arange(1.0, 6)
    run, parameters = functional(model, lambda m, rows, w: cd_loss(m, rows, samples, data_weight=w))
    whole = grad(run)(parameters, x, weight)
    exact = torch.autograd.grad(
        cd_loss(model, x, samples, data_weight=weight),
        list(model.parameters()),
        materialize_grads=True,
    )
    for (key, _), value in zip(model.named_parameters(), exact, strict=True):
        torch.testing.assert_close(whole[key], value)


def test_per_sample_gradients_with_a_sampled_positive_phase():
    model = machine("sparse", "db")
    x, samples = some_data(model, 3), law_samples(model.ising())
    positive = Exact().sample(model.ising(visible=x), 4, generator=generator())
    run, parameters = functional(
        model, lambda m, rows: cd_loss(m, rows, samples, positive=positive)
    )
    found = grad(run)(parameters, x)
    loss = cd_loss(model, x, samples, positive=positive)
    exact = torch.autograd.grad(loss, list(model.parameters()))
    for (key, _), value in zip(model.named_parameters(), exact, strict=True):
        torch.testing.assert_close(found[key], value)


def test_per_sample_gradients_of_a_copula():
    class Line(torch.nn.Linear):
        def forward(self, x, k):  # pyright: ignore[reportIncompatibleMethodOverride]
            return super().forward(x)

    graph, process = Graph.sparse(4, [(0, 1), (2, 1)]), UniformBits(log_times(3))
    copula = IsingCopula(Line(4, 4, dtype=torch.float64), graph, process)
    copula.J.data.normal_(generator=generator())
    x, after, k = copula.pairs(2 * units(rbm(4), 4) - 1, generator())

    def one(model, *row):
        return model.pseudo_likelihood(*(t[None] for t in row))[0]

    run, parameters = functional(copula, one)
    found = vmap(grad(run), in_dims=(None, 0, 0, 0))(parameters, x, after, k)
    for at in range(len(x)):
        exact = torch.autograd.grad(one(copula, x[at], after[at], k[at]), list(copula.parameters()))
        for (key, _), value in zip(copula.named_parameters(), exact, strict=True):
            torch.testing.assert_close(found[key][at], value)


def test_an_ensemble_of_models_and_bad_rows_under_vmap():
    model = rbm()
    run, parameters = functional(model, lambda m, rows: m.free_energy(rows))
    many = {key: torch.stack([value, 2 * value]) for key, value in parameters.items()}
    x = some_data(model)
    found = vmap(run, in_dims=(0, None))(many, x)
    for k in range(2):
        weights = tuple(many[key][k] for key in model.names)
        torch.testing.assert_close(found[k], plain_free_energy(model, x, weights))
    with pytest.raises(ValueError, match="got 7"):
        vmap(grad(model.free_energy))(torch.full((2, 3), 7.0).double())


# ---- torch.compile ----------------


@pytest.mark.long
def test_compiled_callers_draw_and_learn_what_others_do():
    """In a process of its own: the compiler cannot read the type checks that tests make."""
    command = [sys.executable, "-m", "tests.support.compiled"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.stdout == "equal\n", done.stderr


# ---- autocast and meta devices ----------------


@tractable
def test_double_precision_stays_double_under_autocast(name):
    model = MODELS[name]()
    x, samples = some_data(model), law_samples(model.ising())
    cd = ContrastiveDivergence(
        model, Gibbs(2), num=4, centred=True, positive_sampler=Exact(), generator=generator()
    )
    exact = model.free_energy(x), cd_loss(model, x, samples), cd(x)
    cd.chains.zero_()
    cd.offsets.fill_(float("nan"))
    generator_of(cd).manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.free_energy(x), cd_loss(model, x, samples), cd(x)
        rows = model.free_energy(x.to(torch.int8))
    assert all(value.dtype is torch.float64 for value in found)
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(rows, exact[0])


def generator_of(cd):
    assert cd.generator is not None
    return cd.generator


META = {
    "rbm": lambda g: BernoulliRBM(3, 2, generator=g),
    "sparse": lambda g: BoltzmannMachine(Graph.sparse(4, [(3, 0), (1, 2)]), [2, 0], generator=g),
    "complete": lambda g: BoltzmannMachine(Graph.complete(4), [1], generator=g),
    "bipartite": lambda g: BoltzmannMachine(Graph.bipartite(2, 2), [3], generator=g),
}


@pytest.mark.parametrize("name", META)
def test_models_on_the_meta_device(name):
    model = META[name](generator())
    for given in (generator(), None):
        with torch.device("meta"):
            empty = META[name](given)
        assert all(p.is_meta for p in empty.parameters())
        assigned = copy.deepcopy(empty)
        assigned.load_state_dict(model.state_dict(), assign=True)
        filled = empty.to_empty(device="cpu")
        filled.load_state_dict(model.state_dict())
        x = some_data(model).float()
        for other in (assigned, filled):
            assert torch.equal(other.visible_index, model.visible_index)
            torch.testing.assert_close(other.free_energy(x), model.free_energy(x))
            assert other.ising().energy(torch.ones(1, other.graph.num_spins)).isfinite().all()


def test_learning_from_the_meta_device():
    model = rbm().float()
    with torch.device("meta"):
        cd = ContrastiveDivergence(
            BernoulliRBM(3, 2), Gibbs(2), num=4, centred=True, generator=generator()
        )
    cd.to_empty(device="cpu")
    cd.model.load_state_dict(model.state_dict())
    assert not cd.chains.any() and cd.offsets.isnan().all()
    assert cd(some_data(model).float()).isfinite()


def test_a_thermodynamic_model_on_the_meta_device():
    def make():
        return DenoisingThermodynamicModel(
            Graph.sparse(6, [(0, 1), (2, 3), (4, 5), (1, 2)]), 3, 2, visible=[5, 0, 2]
        )

    model = make()
    with torch.device("meta"):
        empty = make()
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty.sites, model.sites)
    x = torch.tensor([[1.0, -1.0, 1.0]])
    torch.testing.assert_close(empty.machine(1).free_energy(x), model.machine(1).free_energy(x))
    assert len(empty.sample(Gibbs(2), 3, generator=generator())) == 3
    with torch.device("meta"):
        copula = IsingCopula(torch.nn.Linear(6, 6), model.graph, UniformBits(log_times(2)))
    assert copula.J.is_meta and copula.process.steps == 2
