"""Chains that carry weights: log Z along a training, weighted means, and what they refuse."""

import math

import pytest
import torch

import qsample
from experiments.claims.clustered_data import EXACT, METHODS, Options
from experiments.claims.clustered_data import train as train_on_clusters
from qsample import ContrastiveDivergence, Settings, fit
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.data import load
from qsample.learning.jarzynski import Walkers, first_walkers, free_energies
from qsample.models import BernoulliRBM
from qsample.problem.enumeration import log_partition, log_weights, states
from tests.support.exact import Z_MAX
from tests.support.models import MODELS, log_likelihood, rbm, some_data
from tests.support.seeds import generator


def exact_log_z(model):
    return float(log_partition(model.ising().detach().to(dtype=torch.float64)))


def train(model, cd, data, updates, rate):
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(updates):
        optimizer.zero_grad()
        cd(data).backward()
        optimizer.step()


@pytest.mark.parametrize("name", MODELS)
def test_log_z_follows_the_parameters(name):
    """Along any change of them, which here does not depend on the chains."""
    model = MODELS[name]()
    data = some_data(model)
    cd = ContrastiveDivergence(
        model,
        Gibbs(2),
        start="jarzynski",
        num=500,
        positive_sampler=Gibbs(2),
        generator=generator(),
    )
    cd(data)
    before = exact_log_z(model)
    with torch.no_grad():
        for _ in range(12):
            for parameter in model.parameters():
                parameter *= 1.05
            cd(data)
    found = cd.log_partition()
    assert abs(exact_log_z(model) - before) > 0.2
    assert abs(found.value - exact_log_z(model)) / found.stderr < Z_MAX
    assert found.stderr < 0.2 and found.note == ""
    assert cd.samples is not None and cd.samples.log_weight is not None


def test_weighted_means_are_right_where_chains_hardly_move():
    """A spin in a field that is switched on, between moves that never turn it."""
    model = rbm(3, 2)
    before = first_walkers(model, 5_000, generator())
    with torch.no_grad():
        model.b.add_(torch.tensor([1.0, -0.5, 0.3]))
    after = before.moved_to(model)
    problem = model.ising().detach().to(dtype=torch.float64)
    law = log_weights(problem).softmax(-1)
    exact = law @ states(5).double()
    weight = after.log_weight.softmax(-1)
    mean = weight @ after.spins.double()
    error = (weight.square()[:, None] * (after.spins - mean).square()).sum(0).sqrt()
    assert float(((mean - exact).abs() / error)[:3].max()) < Z_MAX
    plain = after.spins.double().mean(0)
    assert float(((plain - exact).abs() / error)[:3].max()) > 3 * Z_MAX


def test_training_prints_its_likelihood():
    torch.manual_seed(0)
    model = BernoulliRBM(6, 4)
    data = torch.tensor([[0.0] * 6, [1.0] * 6])
    cd = ContrastiveDivergence(model, Gibbs(2), start="jarzynski", num=256, generator=generator())
    train(model, cd, data, 60, 0.1)
    log_z = cd.log_partition()
    with torch.no_grad():
        running = -float(model.free_energy(data).mean()) - log_z.value
        exact = float(log_likelihood(model.double(), data.double()))
    assert abs(running - exact) / log_z.stderr < Z_MAX and log_z.stderr < 0.05
    assert cd.samples is not None
    assert {"log_partition", "log_partition_stderr", "ess", "note"} <= cd.samples.info.keys()


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_two_far_clusters(name):
    """Chains that stay in their cluster cost nats; tempered or weighted ones cost none."""
    options = Options(updates=600)
    best = train_on_clusters(EXACT, 0, options)["log_likelihood"][-1]
    run = train_on_clusters(name, 0, options)
    below = best - run["log_likelihood"][-1]
    if "PCD" in name:
        assert below > 1
        return
    assert below < 0.1
    if run["log_z_error"] is not None:
        error, stderr = run["log_z_error"]
        assert abs(error) < Z_MAX * stderr


def test_resampling_keeps_log_z_and_means():
    model = rbm(3, 2)
    log_weight = torch.linspace(-3, 3, 4000, dtype=torch.float64)
    spins = torch.where(torch.arange(4000)[:, None] % 5 == torch.arange(5), 1, -1).to(torch.int8)
    zero = torch.zeros((), dtype=torch.float64)
    walkers = Walkers(spins, log_weight, free_energies(model, spins), zero, zero)
    fresh = walkers.resampled(generator())
    assert fresh.fraction == 1 and walkers.fraction < 0.5
    assert fresh.log_partition().value == pytest.approx(walkers.log_partition().value, rel=1e-12)
    assert torch.equal(fresh.energy, free_energies(model, fresh.spins))
    mean = walkers.log_weight.softmax(-1) @ walkers.spins.double()
    assert float((fresh.spins.double().mean(0) - mean).abs().max()) < 0.01


def test_never_or_always_resampled():
    for below, equal in ((0.0, False), (1.0, True)):
        model = rbm(3, 2)
        cd = ContrastiveDivergence(
            model, Gibbs(1), start="jarzynski", num=64, resample_below=below, generator=generator()
        )
        train(model, cd, some_data(model), 5, 0.5)
        assert cd.carry is not None
        assert bool((cd.carry["log_weight"] == 0).all()) is equal


def test_in_eval_mode_the_chains_stay():
    model = rbm(3, 2)
    cd = ContrastiveDivergence(model, Gibbs(1), start="jarzynski", num=32, generator=generator())
    cd(some_data(model))
    chains = cd.chains.clone()
    carry = cd.carry
    value = cd.log_partition().value
    cd.eval()(some_data(model))
    assert torch.equal(cd.chains, chains) and cd.carry is carry
    assert cd.log_partition().value == value


def test_resume_equals_an_uninterrupted_run_bit_for_bit(tmp_path):
    settings = {
        "updates": 20,
        "batch": 4,
        "chains": 16,
        "start": "jarzynski",
        "decay": "none",
    }
    data = (torch.rand(12, 3, generator=generator()) < 0.5).float()

    def run(updates, folder, resume=False):
        model = rbm(3, 2)
        chosen = Settings(**{**settings, "updates": updates})
        fit(model, data, Gibbs(1), chosen, out=folder, resume=resume, progress=False)
        return model

    whole = run(20, tmp_path / "whole")
    run(10, tmp_path / "cut")
    cut = run(20, tmp_path / "cut", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, cut.state_dict()[name])


def test_lost_weights_begin_anew():
    model = rbm(3, 2)
    cd = ContrastiveDivergence(model, Gibbs(1), start="jarzynski", num=256, generator=generator())
    cd(some_data(model))
    state = cd.state_dict()
    other = ContrastiveDivergence(
        model, Gibbs(1), start="jarzynski", num=256, generator=generator()
    )
    other.load_state_dict(state)
    other(some_data(model))
    found = other.log_partition()
    assert abs(found.value - exact_log_z(model)) / max(found.stderr, 1e-3) < Z_MAX


def test_few_effective_chains_are_noted():
    model = rbm(3, 2)
    walkers = first_walkers(model, 50, generator())
    lopsided = torch.full((50,), -40.0, dtype=torch.float64)
    lopsided[0] = 0
    zero = torch.zeros((), dtype=torch.float64)
    found = Walkers(walkers.spins, lopsided, walkers.energy, zero, zero).log_partition()
    assert "only 1.0 of 50 chains are effective" in found.note and math.isfinite(found.value)


def test_what_is_refused():
    model = rbm(3, 2)
    plain = ContrastiveDivergence(model, Gibbs(1))
    with pytest.raises(ValueError, match="use start='jarzynski'.*got start='persistent'"):
        plain.log_partition()
    with pytest.raises(ValueError, match="expected 0 <= resample_below <= 1; got 2"):
        ContrastiveDivergence(model, Gibbs(1), resample_below=2)
    with pytest.raises(ValueError, match="SimulatedAnnealing cannot: use start='fresh'"):
        ContrastiveDivergence(model, SimulatedAnnealing(5), start="jarzynski")
    ramp = Gibbs(betas=[0.5, 1.0])  # no kernel of the law at 1
    annealed = ContrastiveDivergence(model, ramp, start="jarzynski", num=8)
    with pytest.raises(ValueError, match=r"weights need a kernel.*Gibbs\(.*heuristic"):
        annealed(some_data(model))


def test_fit_prints_both_ends_and_a_running_likelihood():
    model = BernoulliRBM(9, 4, generator=generator())
    data = load("bars-and-stripes-3x3").x
    settings = Settings(
        updates=20, batch=8, chains=512, start="jarzynski", evaluate_every=20, lr=0.01
    )
    metrics = fit(model, data, Gibbs(2), settings, evaluate="bracket", progress=False)[-1]
    exact = qsample.log_likelihood(model, data, "exact").value
    assert metrics["log_likelihood_low"] <= exact <= metrics["log_likelihood_high"]
    error = metrics["running_log_likelihood"] - exact
    assert abs(error) < 5 * metrics["running_log_likelihood_stderr"] + 1e-3
