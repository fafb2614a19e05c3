"""Where chains start, where they go, and that nobody else touches them."""

import copy

import pytest
import torch

from qsample import ContrastiveDivergence, Exactness, Samples, cd_loss
from qsample.annealers import Corrected, Exact, Gibbs, SimulatedAnnealing
from tests.support.exact import Z_MAX, untyped
from tests.support.models import (
    MODELS,
    gradients,
    log_likelihood,
    machine,
    randomise,
    rbm,
    some_data,
    units,
)
from tests.support.seeds import generator

models = pytest.mark.parametrize("name", MODELS)


class Spy:
    """Notes every request, then lets the sampler answer."""

    warm_start = True
    reversible = False

    def __init__(self, sampler):
        self.sampler, self.requests, self.answers = sampler, [], []

    def sample(self, problem, num, *, initial=None, generator=None):
        self.requests.append((problem, num, None if initial is None else initial.spins.clone()))
        self.answers.append(self.sampler.sample(problem, num, initial=initial, generator=generator))
        return self.answers[-1]


class Flip:
    """A kernel whose every call turns all spins: the first answer is all +1."""

    warm_start = True
    reversible = False

    def sample(self, problem, num, *, initial=None, generator=None):
        shape = (*problem.batch_shape, num, problem.num_spins)
        spins = torch.ones(shape, dtype=torch.int8) if initial is None else -initial.spins
        return Samples(spins, problem.detach().energy(spins))


@models
def test_persistent_chains_go_on_and_the_loss_uses_where_they_arrive(name):
    model, data = MODELS[name](), some_data(MODELS[name]())
    spy = Spy(Flip())
    cd = ContrastiveDivergence(model, spy, num=6, positive_sampler=Exact(), generator=generator())
    for step in range(4):
        loss = cd(data)
        assert cd.samples is not None and cd.samples is spy.answers[-1]
        assert torch.equal(cd.chains, cd.samples.spins) and bool((cd.chains == (-1) ** step).all())
        initial = spy.requests[-1][2]
        assert initial is None if step == 0 else torch.equal(initial, -cd.samples.spins)
        if model.tractable:
            torch.testing.assert_close(loss, cd_loss(model, data, cd.samples))
            assert (
                loss - cd_loss(model, data, Samples(-cd.samples.spins, cd.samples.energy))
            ).abs() > 1e-6


def test_persistent_chains_move():
    cd = ContrastiveDivergence(rbm(), Gibbs(sweeps=1), num=50, generator=generator())
    seen = []
    for _ in range(3):
        cd(some_data(rbm()))
        seen.append(cd.chains.clone())
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[1], seen[2])


@models
def test_chains_belong_to_the_module(name):
    """What the caller does to the samples reaches neither chains nor model."""
    runs: list[tuple] = []
    for vandal in (False, True):
        model = MODELS[name]()
        cd = ContrastiveDivergence(model, Gibbs(sweeps=2), num=6, generator=generator())
        gradient = {}
        for seed in range(3):
            data = some_data(model, seed=seed)
            gradient = gradients(model, cd(data))
            if vandal and cd.samples is not None:
                cd.samples.spins.fill_(0)
                cd.samples.energy.fill_(float("nan"))
                data.fill_(7)
        runs.append((gradient, cd.chains.clone()))
    assert torch.equal(runs[0][1], runs[1][1])
    assert all(torch.equal(runs[0][0][k], runs[1][0][k]) for k in runs[0][0])


@pytest.mark.parametrize("name", [name for name in MODELS if "coupled" in name or "both" in name])
def test_the_positive_phase_leaves_negative_chains_alone(name):
    model = MODELS[name]()
    for own in (True, False):
        spy, other = Spy(Gibbs(sweeps=1)), Spy(Gibbs(sweeps=3))
        cd = ContrastiveDivergence(
            model, spy, num=6, positive_sampler=None if own else other, positive_num=2
        )
        chains = None
        for _ in range(3):
            cd(some_data(model, 5))
            positive, negative = (
                (spy.requests[-2], spy.requests[-1])
                if own
                else (other.requests[-1], spy.requests[-1])
            )
            assert positive[0].batch_shape == (5,) and positive[1] == 2 and positive[2] is None
            assert negative[0].batch_shape == () and negative[1] == 6
            assert negative[2] is None if chains is None else torch.equal(negative[2], chains)
            chains = cd.chains.clone()


@models
def test_a_data_start_is_one_chain_a_row(name):
    model = MODELS[name]()
    data, spy = some_data(model, 11), Spy(Gibbs(sweeps=1))
    cd = ContrastiveDivergence(model, spy, start="data", num=3)
    for _ in range(2):
        cd(data)
        _, num, initial = spy.requests[-1]
        assert num == 11 and initial.shape == (11, model.graph.num_spins)
        assert torch.equal(model.split(initial)[0], data)
        if not model.tractable:  # the hidden units of the positive phase, from their conditional
            assert torch.equal(initial[:, model.hidden_index], spy.answers[-2].spins[:, 0])


@pytest.mark.parametrize("name", [name for name in MODELS if "none" not in name])
def test_a_data_start_draws_hidden_units_from_their_conditional(name):
    model, rows = MODELS[name](), 2000
    spy = Spy(Gibbs(sweeps=1))
    cd = ContrastiveDivergence(
        model, spy, start="data", positive_sampler=Exact(), generator=generator()
    )
    hidden = units(model, model.num_hidden)
    for x in some_data(model, 2):
        cd(x.expand(rows, -1))
        drawn = model.split(spy.requests[-1][2])[1]
        p = (-model.energy(x, hidden)).softmax(0).detach()
        count = (drawn[:, None] == hidden).all(-1).sum(0)
        z = (count - rows * p) / (rows * p * (1 - p)).sqrt()
        assert z.abs().max() < Z_MAX


def transition(model):
    """P(x'|x) of one block-Gibbs sweep of an RBM, hidden then visible, over all x."""
    x, hidden = units(model, model.num_visible), units(model, model.num_hidden)
    joint = -model.energy(x[:, None], hidden).detach()
    return joint.softmax(1) @ joint.softmax(0).T


@pytest.mark.parametrize("weighted", [False, True])
def test_cd_k_is_what_k_sweeps_make_of_the_data(weighted):
    """The exact mean and variance of the CD-k gradient, by the sweep's transition matrix."""
    model = randomise(rbm(), seed=3, scale=2.0)
    x, P = units(model, 3), transition(model)
    rows, copies = some_data(model, 3), 1000
    data = rows.repeat(copies, 1)
    weight = torch.tensor([5.0, 1.0, 0.5]).double() if weighted else torch.ones(3).double()
    share = weight / weight.sum()
    exact = gradients(model, -log_likelihood(model, rows, weight))
    # dF(x)/d(parameter) by state
    each = [gradients(model, model.free_energy(state[None])[0]) for state in x]
    bias = []
    for k in (1, 3, 30):
        cd = ContrastiveDivergence(model, Gibbs(sweeps=k), start="data", generator=generator(k))
        gradient = gradients(model, cd(data, weight.repeat(copies) if weighted else None))
        reached = torch.stack(
            [torch.linalg.matrix_power(P, k)[(x == row).all(1)][0] for row in rows]
        )
        expected = gradients(
            model, (share @ model.free_energy(rows)) - (share @ reached) @ model.free_energy(x)
        )
        for name in gradient:
            F = torch.stack([g[name] for g in each])
            mean, square = torch.tensordot(reached, F, 1), torch.tensordot(reached, F**2, 1)
            variance = torch.tensordot(share**2, square - mean**2, 1) / copies
            z = (gradient[name] - expected[name]) / variance.sqrt()
            assert z.abs().max() < Z_MAX
        bias.append(max(float((expected[name] - exact[name]).abs().max()) for name in gradient))
    assert bias[0] > 2 * bias[1] > 4 * bias[2]  # of the expectation: no noise in it


def test_a_fresh_start_never_hands_chains_back():
    spy = Spy(Gibbs(sweeps=1))
    cd = ContrastiveDivergence(rbm(), spy, start="fresh", num=4)
    for _ in range(2):
        cd(some_data(rbm()))
        assert spy.requests[-1][1:] == (4, None)


def test_weighted_reads_become_chains_by_resampling():
    """The weights belong to this call's parameters; the next call's chains have none."""

    class Weighted(Flip):
        def sample(self, problem, num, *, initial=None, generator=None):
            spins = torch.ones(num, problem.num_spins, dtype=torch.int8)
            spins[: num // 2] = -1
            weight = torch.zeros(num).masked_fill(spins[:, 0] < 0, -float("inf"))
            return Samples(
                spins, problem.detach().energy(spins), weight.double(), Exactness.ASYMPTOTIC
            )

    cd = ContrastiveDivergence(rbm(), Weighted(), num=10, generator=generator())
    cd(some_data(rbm()))
    assert bool((cd.chains == 1).all())


@models
@pytest.mark.parametrize("centred", [False, True])
def test_state_dict_restores_the_run(name, centred):
    def make():
        torch.manual_seed(99)
        model = MODELS[name]()
        return ContrastiveDivergence(
            model, Gibbs(sweeps=2), num=6, centred=centred, generator=generator(5)
        )

    def steps(cd, seeds):
        optimiser = torch.optim.SGD(cd.parameters(), 0.1)
        for seed in seeds:
            optimiser.zero_grad()
            cd(some_data(cd.model, seed=seed)).backward()
            optimiser.step()

    straight, first, resumed = make(), make(), make()
    steps(straight, range(6))
    steps(first, range(3))
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    resumed.generator, first.generator = first.generator, None
    steps(resumed, range(3, 6))
    for key, value in straight.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value.nan_to_num(), resumed.state_dict()[key].nan_to_num()), key
        else:
            assert torch.equal(value, resumed.state_dict()[key]), key
    assert bool((resumed.chains.abs() == 1).all())
    # once each: safetensors refuses shared tensors
    names = {key.removeprefix("model.") for key in straight.state_dict()}
    assert len(names) == len(straight.state_dict()) == len(straight.model.state_dict()) + 2
    assert straight.double().chains.dtype == torch.int8


def test_other_settings_refuse_the_chains():
    cd = ContrastiveDivergence(rbm(), Gibbs(), num=6)
    with pytest.raises(RuntimeError, match="chains"):
        ContrastiveDivergence(rbm(), Gibbs(), num=7).load_state_dict(cd.state_dict())
    with pytest.raises(ValueError, match="weights of another model"):
        cd.load_state_dict(
            ContrastiveDivergence(machine("complete", "de"), Gibbs(), num=6).state_dict()
        )


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"start": "warm"}, "unknown start 'warm'; expected one of data, persistent, fresh"),
        ({"num": 0}, "expected num >= 1; got 0"),
        ({"positive_num": 0}, "expected positive_num >= 1; got 0"),
        ({"centring_rate": 0.0}, "0 < centring_rate <= 1; got 0"),
    ],
)
def test_bad_settings(kwargs, message):
    with untyped(), pytest.raises(ValueError, match=message):
        ContrastiveDivergence(rbm(), Gibbs(), **kwargs)


@pytest.mark.parametrize("sampler", [Exact(), SimulatedAnnealing()])
@pytest.mark.parametrize("start", ["data", "persistent"])
def test_chains_need_a_sampler_that_continues_them(sampler, start):
    way_out = f"start='fresh', Gibbs.*, or Corrected\\({type(sampler).__name__}"
    with pytest.raises(ValueError, match=way_out):
        ContrastiveDivergence(rbm(), sampler, start=start)
    ContrastiveDivergence(rbm(), Corrected(sampler, Gibbs(sweeps=1)), start=start, num=4)(
        some_data(rbm())
    )
