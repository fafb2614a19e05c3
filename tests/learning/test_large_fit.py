"""Runs of a large RBM: no copy of its weights, and their gradient applied as it is made."""

import subprocess
import sys

import pytest
import torch

import qsample as qs
from qsample import fit, load_run
from qsample.annealers import Gibbs
from qsample.learning import by_products, large_looks
from qsample.learning.divergence import Diverged, Judge
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.sampling.temperature import beta_of_reads

N = 40
M = 24
SETTINGS = {"updates": 6, "batch": 16, "chains": 16, "optimizer": "sgd", "lr": 0.1}
SETTINGS |= {"evaluate_every": 3, "checkpoint_every": 3}
FUSED = SETTINGS | {"fused_update": True}


@pytest.fixture(autouse=True)
def always(monkeypatch):
    monkeypatch.setattr(by_products, "LARGE", 1)


@pytest.fixture
def uncopied(monkeypatch):
    """An error where the Ising form of an RBM is made, or the model is copied."""

    def refuse(*_):
        raise AssertionError("a copy of W was made")

    monkeypatch.setattr(BernoulliRBM, "_joint", refuse)
    monkeypatch.setattr(BernoulliRBM, "__deepcopy__", refuse, raising=False)


def rbm(n=N, m=M):
    return BernoulliRBM(n, m, scale=2.0, generator=torch.Generator().manual_seed(0))


def rows(count=64, n=N):
    return (torch.rand(count, n, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def trained(settings, **options):
    model = rbm()
    history = fit(model, rows(), Gibbs(1), settings, progress=False, **options)
    return model, history


@pytest.mark.parametrize("start", ["data", "persistent"])
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_a_fused_update_is_that_of_sgd(start, decay, uncopied):
    more = {"start": start, "weight_decay": decay}
    ours, _ = trained(FUSED | more)
    usual, _ = trained(SETTINGS | more)
    assert ours.W.grad is None
    assert usual.W.grad is not None
    assert not torch.equal(ours.W, rbm().W)
    for a, b in zip(ours.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_gradient_from_before_is_dropped(uncopied):
    model = rbm()
    model.W.grad = torch.ones_like(model.W)
    fit(model, rows(), Gibbs(1), FUSED, progress=False)
    assert torch.equal(model.W, trained(FUSED)[0].W)


def test_schedulers_set_its_rate(uncopied):
    def halved(optimizer):
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    ours, _ = trained(FUSED, scheduler=halved)
    usual, _ = trained(SETTINGS, scheduler=halved)
    torch.testing.assert_close(ours.W, usual.W, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [SETTINGS, FUSED, SETTINGS | {"optimizer": "adam"}])
def test_a_run_goes_on_from_its_checkpoint(settings, tmp_path, uncopied):
    whole, history = trained(settings)
    assert [line["update"] for line in history] == [3, 6]
    assert all("log_likelihood" not in line for line in history)
    steady = settings | {"decay": "none"}
    whole, _ = trained(steady)
    trained(steady | {"updates": 3}, out=tmp_path / "run")
    model, _ = trained(steady, out=tmp_path / "run", resume=True)
    assert torch.equal(model.W, whole.W)
    assert torch.equal(load_run(tmp_path / "run").model.get_parameter("W"), whole.W)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"optimizer": "adam"}, "expected optimizer='sgd' beside it; got 'adam'"),
        ({"clip": 1.0}, "expected clip=None beside it; got 1.0"),
        ({"average": "ema"}, "expected average='none' beside it; got 'ema'"),
        ({"centred": True}, "expected centred=False beside it; got True"),
        ({"exact_sums": True}, "expected exact_sums=False beside it; got True"),
    ],
)
def test_what_needs_the_whole_gradient_is_refused(more, said):
    with pytest.raises(ValueError, match=said):
        qs.Settings(**(FUSED | more))


def test_models_and_optimizers_without_it_are_refused():
    machine = BoltzmannMachine(qs.Graph.complete(4))
    with pytest.raises(ValueError, match="fused_update is for a BernoulliRBM of"):
        fit(machine, 2 * rows(8, 4) - 1, Gibbs(1), FUSED, progress=False)
    model = rbm()
    model.W.register_hook(lambda grad: grad)
    with pytest.raises(ValueError, match="expected W as a plain parameter"):
        fit(model, rows(), Gibbs(1), FUSED, progress=False)
    with pytest.raises(ValueError, match="does not apply beside an optimizer of your own"):
        settings = {"updates": 2, "fused_update": True, "optimizer": "sgd"}
        optimizer = torch.optim.SGD(rbm().parameters())
        fit(rbm(), rows(), Gibbs(1), settings, optimizer=optimizer, progress=False)


def test_training_that_diverges_is_noticed(tmp_path):
    with pytest.raises(Diverged, match="lower the learning rate"):
        trained(FUSED | {"lr": 1e5, "decay": "none"}, out=tmp_path / "run")
    with pytest.raises(Diverged, match="lower the learning rate"):
        trained(FUSED | {"lr": 1e29})


def test_the_bound_is_below_the_likelihood_of_the_rows(monkeypatch):
    model = rbm(8, 6)
    with torch.no_grad():
        model.W.mul_(3)
    data = rows(200, 8)
    bound = Judge(model, data, 0).bound(None)
    nats = -qs.log_likelihood(model, data, "exact").value
    monkeypatch.setattr(by_products, "LARGE", 1 << 24)
    usual = Judge(model, data, 0).bound(None)
    assert bound <= nats + 1
    assert abs(bound - usual) < 2


def test_beta_is_that_of_the_reads():
    model = rbm()
    with torch.no_grad():
        model.b.copy_(torch.linspace(-1, 1, N))
    reads = Gibbs(20).sample(model.ising(), 200, generator=torch.Generator().manual_seed(2))
    ours = large_looks.beta_of_reads(model, reads)
    usual = beta_of_reads(model.ising().detach(), reads)
    assert abs(ours.value - usual.value) < 1e-4
    assert 0 < ours.stderr <= usual.stderr * 1.0001


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_strength(value):
    model = rbm()
    problem = model.ising().detach()
    usual = max(float(problem.h.abs().max()), float(problem.J.abs().max()))
    assert usual <= large_looks.strength(model) < float("inf")
    with torch.no_grad():
        model.W[3, 5] = value
    assert not large_looks.strength(model) < 2**30


def test_a_likelihood_out_of_reach_is_refused():
    for name in ("exact", "pseudo", "bracket"):
        with pytest.raises(ValueError, match=f"evaluate='{name}' of an RBM of 40 x 24 weights"):
            trained(SETTINGS, evaluate=name)
    with pytest.raises(ValueError, match="needs a score"):
        trained(SETTINGS | {"patience": 2}, validation=rows())


SCRIPT = """
import resource, sys, tempfile, torch, qsample as qs
from qsample.annealers import Gibbs
from qsample.models import BernoulliRBM

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

fused = sys.argv[1] == "fused"
small = BernoulliRBM(64, 64)
settings = dict(updates=4, batch=16, chains=16, optimizer="sgd", start="data", lr=0.01)
settings |= dict(evaluate_every=2, checkpoint_every=2)
data = (torch.rand(64, 8192) < 0.2).float()
with tempfile.TemporaryDirectory() as folder:
    qs.fit(small, data[:, :64], Gibbs(1), settings, out=folder + "/a", progress=False)
    model = BernoulliRBM(8192, 4096)
    before = peak()
    settings["fused_update"] = fused
    qs.fit(model, data, Gibbs(1), settings, out=folder + "/b", progress=False)
    after = peak()
print((after - before) / (4 * model.W.numel()))
"""


@pytest.mark.long  # some seconds of a model of 128 MiB
@pytest.mark.parametrize(("kind", "most"), [("fused", 0.4), ("usual", 1.4)])
def test_peak_memory_of_a_run_with_checkpoints(kind, most):
    """Beyond the weights: nothing, or their gradient."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < most
