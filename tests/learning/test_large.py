"""The step by products with W: the ordinary loss and law, without a copy of the weights."""

import pytest
import torch

import qsample as qs
from qsample.annealers import Exact, Gibbs, SimulatedAnnealing
from qsample.learning import by_products, memory
from qsample.models import BernoulliRBM, BoltzmannMachine

N = 6
M = 5


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(by_products, "LARGE", 1)


def rbm(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    model = BernoulliRBM(N, M, scale=2.0, generator=generator)
    with torch.no_grad():
        model.b.copy_(torch.randn(N, generator=generator) / 2)
        model.c.copy_(torch.randn(M, generator=generator) / 2)
    return model.to(dtype)


def rows(count=8):
    return (torch.rand(count, N, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_and_its_gradient_are_the_ordinary_ones(weighted, monkeypatch):
    model = rbm()
    reads = Gibbs(2).sample(model.ising(), 10, generator=torch.Generator().manual_seed(2))
    weight = torch.rand(8, generator=torch.Generator().manual_seed(3)) if weighted else None
    if weighted:
        log_weight = torch.linspace(-1, 1, 10)
        reads = qs.Samples(reads.spins, reads.energy, log_weight)
    loss = qs.cd_loss(model, rows(), reads, data_weight=weight)
    ordinary = gradients(model, loss)
    monkeypatch.setattr(by_products, "LARGE", 1)
    ours = qs.cd_loss(model, rows(), reads, data_weight=weight)
    torch.testing.assert_close(ours, loss)
    for a, b in zip(gradients(model, ours), ordinary, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("start", ["data", "persistent", "fresh"])
@pytest.mark.parametrize("centred", [False, True])
def test_a_step_is_that_of_the_reads_it_leaves(start, centred, always):
    model = rbm()
    cd = qs.ContrastiveDivergence(model, Gibbs(2), start=start, num=7, centred=centred)
    loss = cd(rows())
    assert cd.samples is not None
    assert cd.samples.spins.shape == (8 if start == "data" else 7, N + M)
    torch.testing.assert_close(cd.samples.energy, model.ising().energy(cd.samples.spins).detach())
    torch.testing.assert_close(loss, qs.cd_loss(model, rows(), cd.samples))
    if not centred:
        expected = gradients(model, qs.cd_loss(model, rows(), cd.samples))
        for a, b in zip(gradients(model, cd(rows()) * 0 + loss), expected, strict=True):
            torch.testing.assert_close(a, b)
    if start == "persistent":
        assert torch.equal(cd.chains, cd.samples.spins) or not centred


def test_chains_have_the_law_of_the_model(always):
    """Moments of visible, hidden and both against enumeration, by their exact variances."""
    model = rbm()
    num = 4000
    cd = qs.ContrastiveDivergence(
        model, Gibbs(20), start="fresh", num=num, generator=torch.Generator().manual_seed(4)
    )
    assert by_products.serves(model, cd.sampler, "fresh")
    cd(rows())
    assert cd.samples is not None
    spins = cd.samples.spins.double()
    exact = Exact().sample(model.ising(), 100_000, generator=torch.Generator().manual_seed(5))
    law = exact.spins.double()
    for moments, expected in (
        (spins.mean(0), law.mean(0)),
        ((spins.T @ spins) / num, (law.T @ law) / len(law)),
    ):
        error = ((1 - expected.square()) * (1 / num + 1 / len(law))).clamp_min(1e-12).sqrt()
        assert ((moments - expected).abs() / error).max() < 5


def test_draws_repeat_and_do_not_depend_on_threads_or_number(always):
    def chains(num, threads=1):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            generator = torch.Generator().manual_seed(6)
            cd = qs.ContrastiveDivergence(
                rbm(), Gibbs(3), start="data", num=num, generator=generator
            )
            cd(rows(64)[:num])
            assert cd.samples is not None
            return cd.samples.spins
        finally:
            torch.set_num_threads(before)

    whole = chains(64)
    assert torch.equal(whole, chains(64, threads=2))
    assert torch.equal(whole[:5], chains(5))


def test_a_gradient_is_added_in_place_only_where_nobody_could_tell(always):
    model = rbm()
    cd = qs.ContrastiveDivergence(model, Gibbs(1), start="data")
    (once,) = torch.autograd.grad(cd(rows()), model.W)
    model.W.grad = torch.ones_like(model.W)
    place = model.W.grad.data_ptr()
    loss = qs.cd_loss(model, rows(), cd.samples)  # pyright: ignore
    # autograd.grad leaves .grad alone
    (again,) = torch.autograd.grad(loss, model.W, retain_graph=True)
    assert torch.equal(model.W.grad, torch.ones(N, M))
    torch.testing.assert_close(again, once)
    loss.backward(retain_graph=True)
    assert model.W.grad.data_ptr() == place
    torch.testing.assert_close(model.W.grad, once + 1)
    # a hook sees the gradient alone
    seen = []
    model.W.register_hook(seen.append)
    loss.backward()
    torch.testing.assert_close(seen[0], once)
    torch.testing.assert_close(model.W.grad, 2 * once + 1)


def test_weights_of_16_bits_have_a_gradient_of_16_bits(always):
    model = rbm(torch.bfloat16)
    cd = qs.ContrastiveDivergence(model, Gibbs(1), start="data")
    cd(rows()).backward()
    wide = rbm(torch.bfloat16).float()
    qs.cd_loss(wide, rows(), cd.samples).backward()  # pyright: ignore
    for a, b in zip(model.parameters(), wide.parameters(), strict=True):
        assert a.grad is not None and b.grad is not None
        assert a.grad.dtype == torch.bfloat16
        torch.testing.assert_close(a.grad.float(), b.grad, atol=4e-3, rtol=1e-2)


def test_which_models_and_samplers_take_this_path(always):
    model = rbm()
    assert by_products.serves(model, Gibbs(1), "data")
    assert not by_products.serves(model, Gibbs(1, scan="palindromic"), "data")
    assert not by_products.serves(model, Gibbs(betas=[0.5, 1.0]), "data")
    assert not by_products.serves(model, SimulatedAnnealing(10), "fresh")
    assert not by_products.serves(model, Gibbs(1), "jarzynski")
    assert not by_products.holds(rbm(torch.float64))
    assert not by_products.holds(BoltzmannMachine(qs.Graph.complete(4), hidden=[3]))
    # another sampler draws as ever, and the loss is by products
    cd = qs.ContrastiveDivergence(model, SimulatedAnnealing(10), start="fresh", num=4)
    cd(rows()).backward()


def test_a_small_model_does_not():
    assert not by_products.holds(BernoulliRBM(8, 8))


# ---- weights that are many, not too many to copy ----------------


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(by_products, "MANY", 1)


def test_few_sweeps_are_by_products_and_many_by_the_kernel(many):
    model = rbm()
    assert by_products.holds(model) and not by_products.is_large(model)
    assert by_products.serves(model, Gibbs(1), "data")
    assert not by_products.serves(model, Gibbs(10), "data")
    with torch.autocast("cpu", torch.bfloat16):
        assert not by_products.holds(model)  # whose factors the user wants rounded


@pytest.mark.parametrize("start", ["data", "persistent"])
@pytest.mark.parametrize("sweeps", [1, 10])
def test_steps_of_both_kinds_have_the_law_of_the_model(start, sweeps, many):
    """Chains that go on for 60 steps at fixed parameters, against enumeration."""
    model = rbm()
    num = 4000
    generator = torch.Generator().manual_seed(7)
    cd = qs.ContrastiveDivergence(model, Gibbs(sweeps), start=start, num=num, generator=generator)
    v = (torch.rand(num, N, generator=generator) < 0.5).float()
    for _ in range(60):
        cd(v)
        assert cd.samples is not None
        if start == "data":
            v = model.split(cd.samples.spins)[0].float()
    spins = cd.samples.spins.double()  # pyright: ignore
    law = Exact().sample(model.ising(), 100_000, generator=torch.Generator().manual_seed(8))
    expected = law.spins.double()
    for moments, wanted in (
        (spins.mean(0), expected.mean(0)),
        ((spins.T @ spins) / num, (expected.T @ expected) / len(expected)),
    ):
        error = ((1 - wanted.square()) * (1 / num + 1 / len(expected))).clamp_min(1e-12).sqrt()
        assert ((moments - wanted).abs() / error).max() < 5


def test_the_gradient_has_a_gradient(many, monkeypatch):
    """As that of the ordinary loss: a penalty on the gradient's size, with fields known or not."""
    model = rbm()
    cd = qs.ContrastiveDivergence(model, Gibbs(1), start="data")
    found = []
    for least in (1, 1 << 60):
        monkeypatch.setattr(by_products, "MANY", least)
        for loss in (
            *([cd(rows())] if least == 1 else []),
            qs.cd_loss(model, rows(), cd.samples),  # pyright: ignore
        ):
            slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            size = torch.stack([slope.square().sum() for slope in slopes]).sum()
            # that of b is a sum of units: nothing moves it
            found.append(torch.autograd.grad(size, [model.W, model.c]))
    for other in found[:-1]:
        for a, b in zip(other, found[-1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("error")
def test_a_centred_step_is_quiet(many):
    model = rbm()
    cd = qs.ContrastiveDivergence(model, Gibbs(1), start="data", centred=True)
    cd(rows()).backward()
    cd(rows()).backward()
    assert model.W.grad is not None and model.W.grad.isfinite().all()


def test_too_little_memory_is_said_before_it_is_taken(always, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 100)
    cd = qs.ContrastiveDivergence(rbm(), Gibbs(1), start="data")
    said = r"a step of an RBM of 6 x 5 weights needs .* GiB more \(gradient .*\) and .* are free"
    with pytest.raises(MemoryError, match=said):
        cd(rows())


def test_free_memory_is_known_on_a_cpu():
    free = memory.available(torch.device("cpu"))
    assert free is None or free > 2**20
    assert memory.available(torch.device("meta")) is None
