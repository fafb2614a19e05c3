"""Training that diverges, finite or not, is an error and keeps the last good checkpoint."""

import itertools
import math
import warnings
from dataclasses import replace

import pytest
import torch

from qsample import Graph, ReliabilityWarning, Settings, fit
from qsample.annealers import Gibbs
from qsample.cli import main
from qsample.learning.checkpoint import load
from qsample.learning.divergence import Diverged, Judge
from qsample.learning.run import Run
from qsample.models import BernoulliRBM, BoltzmannMachine
from tests.support.training import SHORT, Dies, assert_same, coupled, rbm, rows, run


def visible_only():
    return BoltzmannMachine(Graph.complete(9), generator=torch.Generator().manual_seed(1))


def states(n):
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64)


@torch.no_grad()
def exact_nats(model, data):
    """-log p of the rows, over all states of all units."""
    n = model.graph.num_spins
    joint = (2 * states(n) - 1).to(torch.int8)
    energy = model.double().energy(*model.split(joint))
    log_z = (-energy).logsumexp(0)
    total = 0.0
    for row in data.double():
        mine = (model.split(joint)[0] == row).all(1)
        total += float(log_z - (-energy[mine]).logsumexp(0))
    return total / len(data)


MODELS = [rbm, coupled, visible_only]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 100.0])
def test_the_bound_is_one(make, scale):
    """Never above the exact number, of all states; near it where the model is far off."""
    model = make()
    data = rows(model)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    bound = Judge(model, data, 0).bound(None)
    exact = exact_nats(model, data)
    slack = model.num_hidden * math.log(2) * (not model.tractable)  # joint energies
    assert bound <= exact + slack + 1e-6 * exact
    if scale == 100:
        assert bound > 0.8 * exact > 200


@pytest.mark.parametrize("start", ["persistent", "data", "fresh"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("lr", [1e4, 1e6])
@pytest.mark.parametrize("make", MODELS)
def test_a_finite_divergence_is_an_error(tmp_path, make, lr, optimizer, start):
    settings = replace(
        SHORT, lr=lr, optimizer=optimizer, start=start, decay="none", checkpoint_every=1
    )
    with (
        warnings.catch_warnings(),
        pytest.raises(Diverged, match="lower the learning rate") as caught,
    ):
        warnings.simplefilter("ignore", ReliabilityWarning)
        run(make(), Gibbs(2), settings, out=tmp_path)
    assert "\n" not in str(caught.value) and f"lr={lr:g}" in str(caught.value)
    assert not (tmp_path / "checkpoint.json").exists()  # the first update was too much


def test_the_last_good_checkpoint_stands(tmp_path):
    class Pushes(Dies):
        """Weights grow in its k-th call."""

        def __init__(self, model, call):
            super().__init__(Gibbs(2), call)
            self.model = model

        def sample(self, problem, num, *, initial=None, generator=None):
            self.left -= 1
            if self.left == 0:
                with torch.no_grad():
                    for p in self.model.parameters():
                        p.mul_(-3000)
            return self.sampler.sample(problem, num, initial=initial, generator=generator)

    model = rbm()
    with pytest.raises(Diverged, match="the data cost .* nats per row, beyond .* at update 8"):
        run(model, Pushes(model, 7), out=tmp_path)
    assert load(tmp_path)["update"] == 5
    again, whole = rbm(), rbm()
    assert_same(run(again, Gibbs(2), out=tmp_path, resume=True), run(whole, Gibbs(2)))
    assert_same(dict(again.state_dict()), dict(whole.state_dict()))


KINDS = [
    {"optimizer": optimizer, "start": start, "centred": centred}
    for optimizer in ("adam", "sgd")
    for start, centred in (("persistent", False), ("data", True), ("fresh", False))
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize(
    "lr", [0.1, *(pytest.param(lr, marks=pytest.mark.long) for lr in (0.005, 0.02, 0.3))]
)
def test_ordinary_training_is_never_stopped(make, lr):
    for options in KINDS[:: 2 if lr == 0.1 else 1]:
        run(make(), Gibbs(2), replace(SHORT, lr=lr, **options))


@pytest.mark.parametrize("count", [1, 2])
def test_nor_is_training_on_a_few_rows(count):
    """The model piles up on them, its weights grow, every read is a local minimum: as it should."""
    for lr in (0.05, 0.5):
        model = rbm()
        settings = replace(SHORT, lr=lr, updates=30, decay="none", start="fresh")
        fit(model, rows(model)[:count], Gibbs(5), settings, progress=False)


def test_nor_is_a_model_that_begins_badly():
    model = rbm()
    with torch.no_grad():
        model.b.fill_(-400.0)
    data = torch.ones(20, 9)
    fit(model, data, Gibbs(2), replace(SHORT, start="fresh"), progress=False)


def test_on_the_command_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
        warnings.simplefilter("ignore", ReliabilityWarning)
        main(
            ["train", "--out", str(tmp_path), "--data", "bars-and-stripes-3x3", "--updates", "30"]
            + ["--lr", "1e5", "--chains", "16", "--sweeps", "1"]
        )
    assert stop.value.code not in (0, None)
    assert "lower the learning rate (lr=100000)" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("make", MODELS)
def test_sixteen_bits_are_refused_with_the_real_reason(make, dtype):
    model = make().to(dtype)
    with pytest.raises(ValueError, match=r"16 bits round small steps.*model.float\(\)") as caught:
        fit(model, rows(model), Gibbs(1), SHORT, progress=False)
    assert "learning rate" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_remedy_for_sixteen_bits_works():
    model = rbm()
    before = model.W.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        history = run(model, Gibbs(2))
    assert len(history) == 5 and not torch.equal(before, model.W)


# ---- chains that do not move ----------------


class Frozen:
    """A sampler whose chains stay where they are."""

    warm_start, reversible = True, True

    def sample(self, problem, num, *, initial=None, generator=None):
        if initial is None:
            return Gibbs(1).sample(problem, num, generator=generator)
        samples = Gibbs(1).sample(problem, num, initial=initial, generator=generator)
        return replace(samples, spins=initial.spins, energy=problem.energy(initial.spins))


def test_chains_that_hardly_move_are_told_once():
    settings = replace(SHORT, updates=80, lr=1e-4)
    with pytest.warns(ReliabilityWarning, match="chains hardly move: .* of 24 reads") as caught:
        history = run(rbm(), Frozen(), settings)
    assert len([w for w in caught if w.category is ReliabilityWarning]) == 1
    assert history[-1]["ess"] < 2


def test_chains_that_move_are_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ReliabilityWarning)
        run(rbm(), Gibbs(2), replace(SHORT, updates=80))


def test_doubts_of_estimators_are_told_once_and_other_warnings_as_ever(monkeypatch):
    def doubtful(self, real=Run.likelihood):
        warnings.warn(f"only {self.update} effective runs", ReliabilityWarning, stacklevel=2)
        warnings.warn(f"update {self.update}", RuntimeWarning, stacklevel=2)
        return real(self)

    monkeypatch.setattr(Run, "likelihood", doubtful)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(rbm(), Gibbs(2))
    texts = [str(w.message) for w in caught]
    every = [f"update {update}" for update in (4, 8, 12, 16, 20)]
    assert sorted(texts) == sorted(["only 4 effective runs", *every])


def test_a_double_model_trains():
    model = BernoulliRBM(9, 4).double()
    assert (
        len(fit(model, rows(model), Gibbs(2), Settings(updates=3, chains=8), progress=False)) == 1
    )
