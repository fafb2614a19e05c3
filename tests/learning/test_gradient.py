"""Under exact samples the surrogate's gradient is that of the exact log-likelihood."""

import pytest
import torch

from qsample import ContrastiveDivergence, Samples, cd_loss
from qsample.annealers import Exact, Gibbs
from qsample.models import BernoulliRBM
from qsample.support import autocast
from tests.support.exact import Z_MAX
from tests.support.models import (
    MODELS,
    Law,
    gradients,
    law_samples,
    log_likelihood,
    machine,
    rbm,
    some_data,
    units,
)

models = pytest.mark.parametrize("name", MODELS)
coupled = [name for name in MODELS if "coupled" in name or "both" in name]


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-9, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


@models
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sampled", [False, True])
def test_gradient_is_that_of_the_log_likelihood(name, weighted, sampled):
    model = MODELS[name]()
    if not model.tractable and not sampled:
        return
    data = some_data(model)
    weight = torch.arange(7).double() if weighted else None  # a row of weight zero among them
    positive = law_samples(model.ising(visible=data)) if sampled else None
    loss = cd_loss(model, data, law_samples(model.ising()), positive=positive, data_weight=weight)
    exact = gradients(model, -log_likelihood(model, data, weight))
    assert_same(gradients(model, loss), exact)
    assert max(g.abs().max() for g in exact.values()) > 0.05  # there is something to compare
    cd = ContrastiveDivergence(model, Law(), start="fresh", num=1)
    assert_same(gradients(model, cd(data, weight)), exact)


@models
def test_weights_are_counts(name):
    """A histogram 99:1 is a hundred rows, of data and of samples; not two of equal weight."""
    model = MODELS[name]()
    data = some_data(model, 2)
    count = torch.tensor([99, 1])
    rows = data.repeat_interleave(count, 0)
    few = law_samples(model.ising())
    few = Samples(few.spins[3:5], few.energy[3:5], count.double().log())
    many = Samples(few.spins.repeat_interleave(count, 0), few.energy.repeat_interleave(count))

    def positive(data):
        problem = model.ising(visible=data).detach()
        spins = torch.ones(len(data), 2, model.num_hidden, dtype=torch.int8)
        spins[:, 0] = -1
        return Samples(spins, problem.energy(spins))

    for make in (lambda x: None, positive) if model.tractable else (positive,):
        compact = cd_loss(model, data, few, positive=make(data), data_weight=count)
        long = cd_loss(model, rows, many, positive=make(rows))
        torch.testing.assert_close(compact, long)
        assert_same(gradients(model, compact), gradients(model, long))


@models
def test_weights_of_the_positive_phase(name):
    model = MODELS[name]()
    data, negative = some_data(model, 2), law_samples(model.ising())
    spins = torch.ones(2, 2, model.num_hidden, dtype=torch.int8)
    spins[:, 0] = -1
    energy = model.ising(visible=data).detach().energy(spins)
    weighted = Samples(spins, energy, torch.tensor([[3.0, 1.0], [1.0, 1.0]]).double().log())
    spread = Samples(spins[:, [0, 0, 0, 1]].clone(), energy[:, [0, 0, 0, 1]])
    spread.spins[1] = spins[1, [0, 0, 1, 1]]
    by_weight = gradients(model, cd_loss(model, data, negative, positive=weighted))
    assert_same(by_weight, gradients(model, cd_loss(model, data, negative, positive=spread)))


@models
def test_centred_gradient_is_its_formula(name):
    model = MODELS[name]()
    data = some_data(model)
    plain = gradients(
        model,
        cd_loss(
            model, data, law_samples(model.ising()), positive=law_samples(model.ising(visible=data))
        ),
    )
    cd = ContrastiveDivergence(model, Law(), start="fresh", num=1, centred=True)
    ours = gradients(model, cd(data))
    mu = cd.offsets
    assert mu.isfinite().all() and mu.dtype == torch.float64
    if isinstance(model, BernoulliRBM):
        n, m = model.W.shape
        W = torch.empty(n, m).double()
        for i in range(n):
            for j in range(m):
                W[i, j] = plain["W"][i, j] - mu[i] * plain["c"][j] - plain["b"][i] * mu[n + j]
        b = torch.stack(
            [plain["b"][i] - sum(W[i, j] * mu[n + j] for j in range(m)) for i in range(n)]
        )
        c = torch.stack([plain["c"][j] - sum(W[i, j] * mu[i] for i in range(n)) for j in range(m)])
        assert_same(ours, {"W": W, "b": b, "c": c})
    else:
        J, h = plain["J"].clone(), plain["h"].clone()
        for k, (i, j) in enumerate(model.graph.edges.T.tolist()):
            J[k] = plain["J"][k] - mu[i] * plain["h"][j] - mu[j] * plain["h"][i]
            h[i] -= J[k] * mu[j]
            h[j] -= J[k] * mu[i]
        assert_same(ours, {"h": h, "J": J})
    # the step changes how learning goes, not what is learnt: both vanish together
    assert sum(float((ours[k] * plain[k]).sum()) for k in ours) > 0


@models
@pytest.mark.parametrize("weighted", [False, True])
def test_offsets_are_moving_averages_of_the_unit_means(name, weighted):
    model = MODELS[name]()
    cd = ContrastiveDivergence(model, Law(), start="fresh", num=1, centred=True, centring_rate=0.25)
    hidden, expected = units(model, model.num_hidden), None
    for seed in range(3):
        data = some_data(model, 5, seed)
        weight = torch.arange(1, 6).double() if weighted else None
        share = torch.full((5,), 0.2).double() if weight is None else weight / weight.sum()
        p = (-model.energy(data[:, None], hidden)).softmax(-1)
        means = torch.empty(model.graph.num_spins).double()
        means[model.visible_index], means[model.hidden_index] = (
            share @ data,
            (share @ p @ hidden).detach(),
        )
        expected = means if expected is None else 0.75 * expected + 0.25 * means
        cd(data, weight)
        torch.testing.assert_close(cd.offsets, expected)


@pytest.mark.parametrize("name", coupled)
def test_sampled_positive_phase_is_unbiased(name):
    """Coupled hidden units, both phases drawn: every parameter's z, from the exact variance."""
    model = MODELS[name]()
    data = some_data(model, 4)
    num, positive_num = 4000, 1000
    generator = torch.Generator().manual_seed(0)
    cd = ContrastiveDivergence(
        model, Exact(), start="fresh", num=num, positive_num=positive_num, generator=generator
    )
    gradient = gradients(model, cd(data))
    exact = gradients(model, -log_likelihood(model, data))
    states = units(model, model.graph.num_spins)
    i, j = model.graph.edges
    joint = (-model.ising().energy(states)).detach().exp()
    statistics = {"h": states, "J": states[:, i] * states[:, j]}
    visible = states[:, model.visible_index]
    for key, t in statistics.items():
        p = joint / joint.sum()
        variance = (p @ t**2 - (p @ t) ** 2) / num
        for row in data:
            p = joint * (visible == row).all(1)
            p = p / p.sum()
            variance += (p @ t**2 - (p @ t) ** 2) / positive_num / len(data) ** 2
        z = (gradient[key] - exact[key]) / variance.sqrt().clamp_min(1e-12)
        assert z.isfinite().all() and z.abs().max() < Z_MAX


def test_intractable_without_a_positive_phase_says_what_to_do():
    model = machine("sparse", "db")
    with pytest.raises(
        ValueError,
        match=r"positive=sampler\.sample\(model\.ising\(visible=data\), "
        r"num\).*ContrastiveDivergence",
    ):
        cd_loss(model, some_data(model), law_samples(model.ising()))


@pytest.mark.parametrize(
    ("data", "weight", "message"),
    [
        (torch.zeros(3), None, r"data of shape \[N, 3\] with N >= 1; got \[3\]"),
        (torch.zeros(0, 3), None, r"with N >= 1; got \[0, 3\]"),
        (torch.zeros(2, 4), None, r"data of shape \[\*, 3\]; got \[2, 4\]"),
        (torch.full((2, 3), 0.5), None, "data of 0 and 1 only; got 0.5"),
        (torch.zeros(2, 3), torch.ones(3), r"data_weight of shape \[2\]; got \[3\]"),
        (
            torch.zeros(2, 3),
            torch.tensor([1.0, -1.0]),
            r"data_weight >= 0, not all zero; got \[1\.0, -1\.0\]",
        ),
        (torch.zeros(2, 3), torch.zeros(2), r"not all zero; got \[0\.0, 0\.0\]"),
        (torch.zeros(2, 3), torch.tensor([1.0, float("nan")]), "finite data_weight"),
        (torch.zeros(2, 3), torch.tensor([1.0, float("inf")]), "finite data_weight"),
    ],
)
def test_bad_batches(data, weight, message):
    model = rbm()
    cd = ContrastiveDivergence(model, Exact(), start="fresh", num=4, centred=True)
    with pytest.raises(ValueError, match=message):
        cd_loss(model, data, law_samples(model.ising()), data_weight=weight)
    with pytest.raises(ValueError, match=message):
        cd(data, weight)
    assert cd.offsets.isnan().all() and cd.samples is None  # and nothing has moved


def test_a_batch_of_samples_is_refused():
    model = rbm()
    batch = law_samples(model.ising(visible=some_data(model)))
    with pytest.raises(ValueError, match=r"samples of one problem, \[R, n\]; got \[7, 4, 2\]"):
        cd_loss(model, some_data(model), batch)


@pytest.mark.parametrize("multiplies", [False, True])
def test_autocast_takes_the_products_that_are_fast(multiplies, monkeypatch):
    """In bfloat16 where the CPU has instructions, else in single precision of rounded weights."""
    monkeypatch.setattr(autocast, "MULTIPLIES_BFLOAT16", multiplies)
    model = BernoulliRBM(6, 5, scale=3.0, generator=torch.Generator().manual_seed(0))
    samples = law_samples(model.ising())
    data = some_data(model)
    units = model.rows(data, samples.spins, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cd_loss(model, data, samples)
        kind = autocast.factor_dtype("cpu", torch.float32)
        assert autocast.factor_dtype("cpu", torch.float64) == torch.float64
        energy = model.free_energy_of_units(units)
    rounded = model.W.detach().bfloat16().float()
    with torch.no_grad(), model.acting((rounded, model.b, model.c)):
        single = model.free_energy_of_units(units)
    assert loss.dtype == torch.float32
    assert kind == (torch.bfloat16 if multiplies else torch.float32)
    assert torch.equal(energy, single) is not multiplies
    assert autocast.factor_dtype("cpu", torch.float32) == torch.float32


def test_autocast_rounds_the_loss_and_nothing_else():
    """The error of the gradient of W from the roundings to 8 bits, 2^-9 each.

    It is doubled for what is of second order.
    """
    generator = torch.Generator().manual_seed(0)
    model = BernoulliRBM(60, 40, scale=3.0, generator=generator)
    data = (torch.rand(200, 60, generator=generator) < 0.3).float()
    cd = ContrastiveDivergence(
        model, Gibbs(6), start="fresh", num=300, generator=generator.manual_seed(1)
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = cd(data)
    assert loss.dtype == torch.float32 and cd.samples is not None
    drawn = cd.samples.spins
    rounded = gradients(model, loss)["W"]
    exact = gradients(model, cd_loss(model, data, cd.samples))["W"]
    generator.manual_seed(1)
    assert torch.equal(cd._negatives(data, None, None, generator).spins, drawn)  # pyright: ignore[reportPrivateUsage]
    with torch.no_grad():
        x = torch.cat([data, model.split(drawn)[0]])
        share = torch.cat([torch.full((200,), 1 / 200), torch.full((300,), 1 / 300)])[:, None]
        logit = model.c + x @ model.W
        size = model.c.abs() + x @ model.W.abs() + logit.abs()
        bound = 2**-8 * (x.T @ (share * (logit.sigmoid() + size / 4)) + exact.abs())
    assert bool(((rounded - exact).abs() <= bound).all())
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).norm() / exact.norm()) < 2**-7
