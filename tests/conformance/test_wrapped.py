"""Models and losses inside other modules: parametrised, wrapped, averaged, in eval mode. Oracles by enumeration."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_map

import qsample as qs
from qsample import ContrastiveDivergence, Graph, cd_loss
from qsample.annealers import Exact, Gibbs, ParallelTempering
from qsample.models import (
    BernoulliRBM,
    BoltzmannMachine,
    DenoisingThermodynamicModel,
    denoising_loss,
)
from tests.support.exact import untyped
from tests.support.models import MODELS, Law, law_samples, log_likelihood, randomise, rbm, some_data
from tests.support.seeds import generator

models = pytest.mark.parametrize("name", MODELS)


# ---- the centred gradient through parametrisations ----------------


class Scaled(nn.Module):
    def forward(self, t):
        return 1.7 * t


class Symmetric(nn.Module):
    """As tied weights are: two entries of the parameter are one of the weight."""

    def forward(self, t):
        return (t + t.flip(0)) / 2


class LowRank(nn.Module):
    """A frozen weight and a trained update of rank 1."""

    def __init__(self, n, m):
        super().__init__()
        self.left = nn.Parameter(torch.linspace(-1, 1, n).double()[:, None])
        self.right = nn.Parameter(torch.linspace(0.5, 1, m).double()[None])

    def forward(self, t):
        return t.detach() + self.left @ self.right


def wrap_first(model, make: Any):
    make(model, model.names[0] if isinstance(model, BernoulliRBM) else model.names[1])
    return model


PARAMETRISED = {
    "scaled": lambda m, name: parametrize.register_parametrization(m, name, Scaled()),
    "tied": lambda m, name: parametrize.register_parametrization(m, name, Symmetric()),
    "weight_norm": parametrizations.weight_norm,
}
ON_MATRICES = {
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "low rank": lambda m, name: parametrize.register_parametrization(m, name, LowRank(3, 2)),
    "pruned": lambda m, name: prune.random_unstructured(m, name, amount=2),
}
CASES = [(name, kind) for name in ("rbm", "complete, one hidden") for kind in PARAMETRISED]
CASES += [("rbm", kind) for kind in ON_MATRICES]


def parametrised(name, kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = wrap_first(MODELS[name](), {**PARAMETRISED, **ON_MATRICES}[kind])
    return model.eval()  # else spectral_norm's estimate moves with every look


def twin_of(model):
    """A plain model of the same weights."""
    with torch.no_grad():
        weights = [getattr(model, name).clone() for name in model.names]
    if isinstance(model, BernoulliRBM):
        twin: Any = BernoulliRBM(model.num_visible, model.num_hidden).double()
    else:
        twin = BoltzmannMachine(
            model.graph, [model.graph.labels[i] for i in model.hidden_index]
        ).double()
    for name, value in zip(model.names, weights, strict=True):
        getattr(twin, name).data.copy_(value)
    return twin


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_centred_gradient_goes_through_a_parametrisation(name, kind):
    """On the weights as they act: the formula over the exact gradient, chained through by autograd."""
    model = parametrised(name, kind)
    twin = twin_of(model)
    data = some_data(twin)
    exact = torch.autograd.grad(-log_likelihood(twin, data), [getattr(twin, n) for n in twin.names])
    cd = ContrastiveDivergence(model, Law(), start="fresh", num=1, centred=True)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    loss = cd(data)
    for key, p in model.named_parameters():
        assert torch.equal(p, before[key])  # a loss changes no weights
    loss.backward()
    mu = cd.offsets
    if isinstance(twin, BernoulliRBM):
        W, b, c = exact
        visible, hidden = mu.split([3, 2])
        W = W - torch.outer(visible, c) - torch.outer(b, hidden)
        expected = [W, b - W @ hidden, c - visible @ W]
    else:
        h, J = (value.clone() for value in exact)
        i, j = twin.graph.edges
        J = J - mu[i] * h[j] - mu[j] * h[i]
        for k in range(len(i)):
            h[i[k]] -= J[k] * mu[j[k]]
            h[j[k]] -= J[k] * mu[i[k]]
        expected = [h, J]
    found = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    acting = model.weights()
    chained = torch.autograd.grad(
        acting, list(model.parameters()), expected, allow_unused=True, materialize_grads=True
    )
    for (key, _), value in zip(model.named_parameters(), chained, strict=True):
        torch.testing.assert_close(found.get(key, torch.zeros_like(value)), value)


@pytest.mark.parametrize("kind", ["spectral_norm", "weight_norm"])
def test_a_loss_of_a_parametrised_model_leaves_its_weights(kind):
    """2.5 without an optimiser, once: `functional_call` set the weight through the right inverse."""
    model: Any = rbm()
    before = model.W.detach().clone()
    getattr(parametrizations, kind)(model, "W")
    start = (
        model.parametrizations.W.original0
        if kind == "weight_norm"
        else model.parametrizations.W.original
    )
    start = start.detach().clone()
    cd = ContrastiveDivergence(model, Gibbs(1), num=4, centred=True, generator=generator())
    for _ in range(3):
        cd(some_data(model)).backward()
    now = (
        model.parametrizations.W.original0
        if kind == "weight_norm"
        else model.parametrizations.W.original
    )
    assert torch.equal(now, start)
    if kind == "weight_norm":
        torch.testing.assert_close(model.W.detach(), before)


@pytest.mark.parametrize("frozen", ["W", "b", "c"])
def test_what_is_frozen_needs_no_making_up_for(frozen):
    """At the optimum of the rest the centred gradient of the rest vanishes too, as descent along it must stop there."""
    model = rbm()
    getattr(model, frozen).requires_grad_(False)
    data = some_data(model)
    rest = [p for p in model.parameters() if p.requires_grad]
    cd = ContrastiveDivergence(model, Law(), start="fresh", num=1, centred=True)
    plain = torch.autograd.grad(cd_loss(model, data, law_samples(model.ising())), rest)
    centred = torch.autograd.grad(cd(data), rest)
    along = sum(float((a * b).sum()) for a, b in zip(plain, centred, strict=True))
    assert along > 0
    if frozen == "W":
        for a, b in zip(plain, centred, strict=True):
            torch.testing.assert_close(a, b)


def test_tied_biases_share_their_centred_gradient():
    model = rbm(3, 3)
    separate = rbm(3, 3)
    model.c = model.b
    separate.c.data.copy_(separate.b.data)
    data = some_data(model)
    for m in (model, separate):
        ContrastiveDivergence(m, Law(), start="fresh", num=1, centred=True)(data).backward()
    assert model.b.grad is not None
    assert separate.b.grad is not None and separate.c.grad is not None
    torch.testing.assert_close(model.b.grad, separate.b.grad + separate.c.grad)


def test_visible_biases_are_set_through_a_parametrisation():
    class Doubled(Scaled):
        def right_inverse(self, t):
            return t / 1.7

    data = some_data(rbm(), 20)
    plain, doubled, scaled = rbm(), rbm(), rbm()
    plain.set_visible_bias(data)
    parametrize.register_parametrization(doubled, "b", Doubled())
    doubled.set_visible_bias(data)
    torch.testing.assert_close(doubled.b, plain.b)
    parametrize.register_parametrization(scaled, "b", Scaled())
    with pytest.raises(ValueError, match="b is parametrised without a right_inverse"):
        scaled.set_visible_bias(data)


def test_weights_keep_their_model_when_torch_makes_subclasses():
    model, other = rbm(), rbm()
    parametrizations.weight_norm(model, "W")
    state = model.state_dict()
    parametrizations.weight_norm(other, "W")
    other.load_state_dict(state)
    parametrize.remove_parametrizations(model, "W")
    rbm().load_state_dict(model.state_dict())


# ---- wrappers ----------------


def wrappers(model):
    yield nn.DataParallel(model)
    yield AveragedModel(model)
    yield nn.DataParallel(AveragedModel(model))


def test_a_wrapped_model_is_refused_by_name():
    model = rbm()
    data, samples = some_data(model), law_samples(model.ising())
    for wrapped in wrappers(model):
        calls: list[Any] = [
            lambda w: cd_loss(w, data, samples),
            lambda w: ContrastiveDivergence(w, Gibbs()),
            lambda w: qs.log_likelihood(w, data),
            lambda w: qs.fit(w, data, Gibbs(), progress=False),
        ]
        for call in calls:
            with (
                untyped(),
                pytest.raises(
                    TypeError, match=f"{type(wrapped).__name__} around .*.module"
                ) as found,
            ):
                call(wrapped)
            assert "\n" not in str(found.value)
    with untyped(), pytest.raises(TypeError, match="expected an energy model.*got Linear"):
        cd_loss(nn.Linear(3, 2), data, samples)  # pyright: ignore[reportArgumentType]
    thermodynamic = DenoisingThermodynamicModel(Graph.complete(4), 3, 2)
    with (
        untyped(),
        pytest.raises(TypeError, match="DataParallel around DenoisingThermodynamicModel.*.module"),
    ):
        denoising_loss(nn.DataParallel(thermodynamic), 2 * some_data(model) - 1, Gibbs())  # pyright: ignore


# ---- eval mode ----------------


@models
@pytest.mark.parametrize("start", ["persistent", "data", "fresh"])
def test_eval_moves_nothing(name, start):
    model = MODELS[name]()
    how: Any = {"start": start, "num": 6, "positive_sampler": Exact(), "centred": True}
    cd = ContrastiveDivergence(model, ParallelTempering(2, betas=3), generator=generator(), **how)
    data = some_data(model)
    for _ in range(2):
        cd(data)

    def state():
        seed = None if cd.generator is None else cd.generator.get_state()
        return copy.deepcopy((cd.state_dict(), cd.carry, seed))

    before = state()
    cd.eval()
    first = cd(some_data(model, 4, seed=8))
    assert first.isfinite() and torch.equal(first, cd(some_data(model, 4, seed=8)))
    tree_map(lambda a, b: torch.testing.assert_close(a, b), before, state())
    straight = copy.deepcopy(cd).train()
    cd.train()
    assert torch.equal(cd(data), straight(data))


def test_eval_starts_from_the_chains_and_from_this_batch_where_there_is_none():
    seen: list[Any] = []

    class Still:
        warm_start, reversible = True, True

        def sample(self, problem, num, *, initial=None, generator=None):
            seen.append(initial)
            spins = (
                torch.ones(num, problem.num_spins, dtype=torch.int8)
                if initial is None
                else initial.spins
            )
            return qs.Samples(spins, problem.energy(spins))

    cd = ContrastiveDivergence(rbm(), Still(), num=4, centred=True)
    cd.eval()(some_data(rbm()))
    assert seen[-1] is None and not cd.chains.any() and cd.offsets.isnan().all()
    cd.train()(some_data(rbm()))
    cd.eval()(some_data(rbm()))
    last: Any = seen[-1]
    assert torch.equal(last.spins, cd.chains)


# ---- averages, copies, state ----------------


@models
def test_averaging_with_buffers_averages_weights_and_nothing_else(name):
    first, second = MODELS[name](), randomise(MODELS[name](), seed=5)
    averaged: Any = AveragedModel(first, use_buffers=True)
    averaged.update_parameters(first)
    averaged.update_parameters(second)
    model: Any = averaged.module
    for a, b, mean in zip(first.parameters(), second.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mean, (a + b) / 2)
    assert torch.equal(model.visible_index, first.visible_index)
    x = some_data(first)
    mean = copy.deepcopy(first)
    with torch.no_grad():
        for p, q in zip(mean.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    torch.testing.assert_close(model.ising(visible=x).h, mean.ising(visible=x).h)


def test_averaging_a_loss_and_a_thermodynamic_model():
    cd = ContrastiveDivergence(rbm(), Gibbs(1), num=4)
    cd(some_data(rbm()))
    averaged: Any = AveragedModel(cd, use_buffers=True)
    for _ in range(3):
        cd(some_data(rbm()))
        averaged.update_parameters(cd)
    assert bool((averaged.module.chains.abs() == 1).all())
    model = DenoisingThermodynamicModel(Graph.complete(4), 3, 2, visible=[3, 0, 2])
    both: Any = AveragedModel(model, use_buffers=True)
    for _ in range(3):
        both.update_parameters(model)
    assert both.module.sites.tolist() == [3, 0, 2]


def test_chains_and_offsets_move_and_are_saved_like_buffers():
    cd = ContrastiveDivergence(rbm(), Gibbs(1), num=4, centred=True)
    cd(some_data(rbm()))
    assert dict(cd.named_buffers()) == {}
    state = cd.state_dict()
    assert set(state) >= {"chains", "offsets"} and state["chains"].dtype is torch.int8
    single = copy.deepcopy(cd).float()
    assert single.offsets.dtype is torch.float32 and single.chains.dtype is torch.int8
    assert cd.to("meta").chains.is_meta
    inside = nn.ModuleDict({"loss": ContrastiveDivergence(rbm(), Gibbs(1), num=4, centred=True)})
    inside.load_state_dict({f"loss.{key}": value for key, value in state.items()})
    assert torch.equal(inside["loss"].chains, state["chains"])  # pyright: ignore
    assigned = ContrastiveDivergence(rbm(), Gibbs(1), num=4)
    assigned.load_state_dict(state, assign=True)
    assert assigned.chains is state["chains"] or torch.equal(assigned.chains, state["chains"])
    lacking = {key: value for key, value in state.items() if key != "offsets"}
    with pytest.raises(RuntimeError, match="Missing key.*offsets"):
        assigned.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match="Unexpected key.*others"):
        assigned.load_state_dict({**state, "others": torch.zeros(1)})
    assert assigned.load_state_dict(lacking, strict=False).missing_keys == ["offsets"]
