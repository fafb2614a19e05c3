"""What breaks a loss by products of its own, and did: each beside the ordinary loss."""

import os
import threading
import time

import pytest
import torch

import qsample as qs
from qsample.annealers import Gibbs
from qsample.learning import by_products
from qsample.learning.products import Products
from qsample.models import BernoulliRBM

N = 40
M = 37  # enough weights


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rbm():
    return BernoulliRBM(N, M, generator=generator())


def rows(count=9):
    return (torch.rand(count, N, generator=generator(1)) < 0.4).float()


def reads(model):
    return Gibbs(2).sample(model.ising().detach(), 7, generator=generator(2))


@pytest.fixture
def ordinary(monkeypatch):
    """What a function gives by the ordinary loss."""

    def run(function):
        with monkeypatch.context() as patch:
            patch.setattr(by_products, "MANY", 1 << 60)
            return function()

    return run


class Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.reads = reads(model)

    def forward(self, data, data_weight=None):
        return qs.cd_loss(self.model, data, self.reads, data_weight=data_weight)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_the_model_is_one_of_these():
    assert by_products.holds(rbm()) and not by_products.is_large(rbm())


def test_rows_that_ask_for_a_gradient_have_it(ordinary):
    model = rbm()
    given = reads(model)

    def slope():
        x = rows().requires_grad_()
        qs.cd_loss(model, x, given).backward()
        return x.grad

    close(slope(), ordinary(slope))


TRANSFORMS = {
    "grad of W": lambda loss: torch.func.grad(
        lambda W: torch.func.functional_call(loss, {"model.W": W}, (rows(),))
    )(loss.model.W.detach()),
    "grad of a bias": lambda loss: torch.func.grad(
        lambda b: torch.func.functional_call(loss, {"model.b": b}, (rows(),))
    )(loss.model.b.detach()),
    "vmap of rows": lambda loss: torch.func.vmap(loss)(torch.stack([rows(), 1 - rows()])),
    "grad of weights of rows": lambda loss: torch.func.grad(lambda w: loss(rows(), w))(
        torch.ones(9)
    ),
    "grad of a factor": lambda loss: torch.func.grad(lambda t: t * loss(rows()))(torch.tensor(2.0)),
    "many gradients at once": lambda loss: torch.autograd.grad(
        loss(rows()), [loss.model.W], torch.ones(2), is_grads_batched=True
    )[0],
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name, ordinary):
    loss = Loss(rbm())
    close(TRANSFORMS[name](loss), ordinary(lambda: TRANSFORMS[name](loss)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_forward_mode(ordinary):
    loss = Loss(rbm())
    forward = torch.autograd.forward_ad

    def slope():
        W = loss.model.W.detach()
        with forward.dual_level():
            dual = forward.make_dual(W, torch.ones_like(W))
            out = torch.func.functional_call(loss, {"model.W": dual}, (rows(),))
            return forward.unpack_dual(out).tangent

    close(slope(), ordinary(slope))


def test_weights_may_change_between_loss_and_backward(ordinary):
    def slopes():
        model = rbm()
        first, second = (qs.cd_loss(model, x, reads(model)) for x in (rows(), rows(4)))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        first.backward()
        optimizer.step()
        second.backward()
        return model.W.grad

    close(slopes(), ordinary(slopes))
    model = rbm()
    loss = qs.cd_loss(model, rows(), reads(model))
    with torch.no_grad():
        model.W.add_(1)
    with pytest.raises(RuntimeError, match="changed in place after the loss"):
        torch.autograd.grad(loss, [model.W], create_graph=True)


def test_a_gradient_that_was_saved_is_seen_to_change():
    model = rbm()
    loss = qs.cd_loss(model, rows(), reads(model))
    model.W.grad = torch.ones_like(model.W)
    p = torch.ones_like(model.W, requires_grad=True)
    product = (p * model.W.grad).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_a_gradient_of_another_dtype(ordinary):
    def slope():
        model = rbm()
        model.W.grad_dtype = torch.float16
        model.W.grad = torch.ones(N, M, dtype=torch.float16)
        qs.cd_loss(model, rows(), reads(model)).backward()
        return model.W.grad.float()

    torch.testing.assert_close(slope(), ordinary(slope), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("shape", [(2000, 1), (1, 2000)])
def test_a_single_row_or_column_that_lies_otherwise(shape, ordinary):
    n, m = shape

    def slope():
        model = BernoulliRBM(n, m)
        model.W = torch.nn.Parameter(torch.linspace(-0.01, 0.01, 2000).reshape(m, n).T)
        model.W.grad = torch.zeros(1, 4000)[:, :2000].reshape(n, m) if n == 1 else None
        data = (torch.rand(3, n, generator=generator()) < 0.5).float()
        spins = torch.ones(2, n + m, dtype=torch.int8)
        qs.cd_loss(model, data, qs.Samples(spins, torch.zeros(2))).backward()
        assert model.W.grad is not None
        return model.W.grad.clone()

    close(slope(), ordinary(slope))


def test_threads_that_add_to_one_gradient_lose_nothing():
    model = BernoulliRBM(400, 300, generator=generator())
    data = (torch.rand(64, 400, generator=generator(1)) < 0.4).float()
    given = Gibbs(1).sample(model.ising().detach(), 64, generator=generator(2))
    (once,) = torch.autograd.grad(qs.cd_loss(model, data, given), [model.W])
    model.W.grad = torch.zeros_like(model.W)

    def passes():
        for _ in range(20):
            qs.cd_loss(model, data, given).backward()

    together = [threading.Thread(target=passes) for _ in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    torch.testing.assert_close(model.W.grad, 40 * once, rtol=1e-3, atol=1e-5)


def test_storage_stays_resizable():
    """Which FSDP needs, and `Tensor.numpy` would end."""
    model = rbm()
    model.W.grad = torch.zeros_like(model.W)
    qs.ContrastiveDivergence(model, Gibbs(1), start="data")(rows()).backward()
    assert model.W.untyped_storage().resizable()
    assert model.W.grad.untyped_storage().resizable()


@pytest.mark.parametrize("start", ["data", "persistent", "fresh"])
def test_a_chain_draws_by_its_number(start):
    def spins(first, num):
        cd = qs.ContrastiveDivergence(
            rbm(), Gibbs(2, first_replica=first), start=start, num=num, generator=generator(5)
        )
        cd(rows(num))
        assert cd.samples is not None
        return cd.samples.spins

    whole = spins(0, 9)
    if start == "fresh":
        assert torch.equal(spins(4, 5), whole[4:])
    assert not torch.equal(spins(9, 9), whole)


@pytest.mark.parametrize("exact_sums", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("name", ["b", "c"])
def test_a_bias_that_is_no_number_is_named(name, value, exact_sums):
    model = rbm()
    with torch.no_grad():
        model.get_parameter(name)[3] = value
    cd = qs.ContrastiveDivergence(model, Gibbs(1), num=8, exact_sums=exact_sums)
    before = cd.chains.clone()
    with pytest.raises(ValueError, match=rf"{name}\[3\] is .*: expected finite numbers only"):
        cd(rows(8))
    assert torch.equal(cd.chains, before)


def test_a_time_limit_leaves_drawn_hidden_units():
    """A chain without a sweep is the row and units drawn given it."""
    cd = qs.ContrastiveDivergence(rbm(), Gibbs(5, time_limit=1e-9), start="data")
    cd(rows().repeat(400, 1))
    assert cd.samples is not None
    hidden = cd.samples.spins[:, N:].double().mean()
    assert -0.9 < hidden < 0.9


FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@FORKS
@pytest.mark.parametrize("ours_first", [False, True])
def test_a_fork_does_not_wait_for_threads_that_it_lost(ours_first):
    products = Products(torch.randn(784, 500))
    v = (torch.rand(64, 784) < 0.5).float()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        if ours_first:
            products.from_left(v)
        torch.randn(10**6).exp()  # torch's threads are there
        child = os.fork()
        if child == 0:
            products.from_left(v)
            os._exit(0)
    finally:
        torch.set_num_threads(threads)
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


@pytest.mark.parametrize("start", ["data", "persistent"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(start, tmp_path):
    settings = qs.Settings(
        updates=12, batch=30, chains=30, start=start, evaluate_every=100, checkpoint_every=5
    )

    def weights(folder, stop=None, **more):
        model = rbm()

        class Stops(qs.Callback):
            def on_update(self, run):
                if run.update == stop:
                    run.stop()

        qs.fit(
            model,
            rows(90),
            Gibbs(2),
            settings,
            out=tmp_path / folder,
            callbacks=[Stops()],
            progress=False,
            **more,
        )
        return [p.detach().clone() for p in model.parameters()]

    whole = weights("whole")
    weights("cut", stop=7)
    again = weights("cut", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))
