"""Optimisers and schedulers of torch, clipping, averages: what they do, and what is refused."""

import copy
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qsample import Callback, Settings, log_likelihood
from qsample.annealers import Gibbs
from qsample.learning.checkpoint import CheckpointError, load
from qsample.learning.saved import load_run
from tests.support.thinning import thinned
from tests.support.training import SHORT as LONGER
from tests.support.training import assert_refused, assert_same, rbm, rows, run, weights

SHORT = replace(LONGER, updates=6, evaluate_every=3, checkpoint_every=6)
PLAIN = replace(SHORT, lr=Settings.lr)


class Watch(Callback):
    """Keeps a copy of the weights after every update."""

    def __init__(self):
        self.weights = []
        self.rates = []

    def on_update(self, run):
        self.weights.append(copy.deepcopy(run.model))
        self.rates.append(run.steps.optimizer.param_groups[0]["lr"])


# ---- optimisers and schedulers ----------------


def test_an_optimizer_is_that_of_the_settings_where_they_say_the_same():
    expected = rbm()
    few = replace(PLAIN, updates=2)
    run(expected, Gibbs(1), replace(few, decay="none", optimizer="sgd", lr=0.3))
    made = [
        lambda model: SGD(model.parameters(), lr=0.3),
        lambda _: lambda parameters: SGD(parameters, lr=0.3),
        lambda _: partial(SGD, lr=0.3),
    ]
    for make in made:
        model = rbm()
        run(model, Gibbs(1), few, optimizer=make(model))
        assert_same(weights(model), weights(expected))


def test_a_scheduler_is_the_rate_of_the_settings_where_it_says_the_same():
    expected, model = rbm(), rbm()
    watch, theirs = Watch(), Watch()
    run(expected, Gibbs(1), SHORT, callbacks=[watch])
    rate = lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 6)  # noqa: E731
    run(model, Gibbs(1), SHORT, scheduler=rate, callbacks=[theirs])
    # after an update a scheduler has set the next rate
    assert theirs.rates[:-1] == pytest.approx(watch.rates[1:])
    torch.testing.assert_close(model.W, expected.W)


def test_a_plateau_is_told_the_likelihood_after_each_evaluation():
    watch = Watch()
    plateau = partial(
        lr_scheduler.ReduceLROnPlateau,
        mode="max",
        factor=0.5,
        patience=0,
        threshold=1e9,
        threshold_mode="abs",
    )
    settings = replace(PLAIN, evaluate_every=2)
    run(rbm(), Gibbs(1), settings, scheduler=plateau, callbacks=[watch])
    assert watch.rates == pytest.approx([0.02, 0.02, 0.02, 0.01, 0.01, 0.005])


class Closure(torch.optim.LBFGS):
    """Needs the loss again within a step."""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "adam"}, TypeError, "expected optimizer as a function; got str"),
        (
            {"optimizer": lambda p: 3},
            TypeError,
            "a torch.optim.Optimizer, or a function .* got int",
        ),
        (
            {"optimizer": Adam(rbm().parameters())},
            ValueError,
            r"of this model's parameters; got one of others: make it of model.parameters\(\), or",
        ),
        ({"optimizer": Closure}, ValueError, "takes one gradient per step; got LBFGS"),
        (
            {"scheduler": lr_scheduler.StepLR(Adam(rbm().parameters()), 3)},
            TypeError,
            "expected scheduler as a function; got StepLR: pass what makes it, as in lambda opt",
        ),
        ({"scheduler": lambda o: o}, TypeError, "that makes an LRScheduler .* got Adam from it"),
    ],
)
def test_what_is_none_is_refused(options, error, message):
    assert_refused(message, rbm(), Gibbs(1), PLAIN, error=error, **options)


@pytest.mark.parametrize("name", ["lr", "weight_decay", "optimizer", "decay_from"])
def test_settings_that_do_not_apply_are_refused(name):
    value = {"optimizer": "sgd", "decay_from": 3}.get(name, 0.3)
    settings = replace(PLAIN, **{name: value})
    match = f"{name}={value!r} of the settings does not apply beside an optimizer of your own"
    assert_refused(re.escape(match), rbm(), Gibbs(1), settings, optimizer=Adam)
    if name == "decay_from":
        scheduler = partial(lr_scheduler.StepLR, step_size=3)
        match = "does not apply beside a scheduler of your own: leave it out, and say it there"
        assert_refused(match, rbm(), Gibbs(1), settings, scheduler=scheduler)


def test_another_optimizer_is_refused_on_resume(tmp_path):
    step = partial(lr_scheduler.StepLR, step_size=3)
    run(rbm(), Gibbs(1), PLAIN, out=tmp_path, optimizer=partial(Adam, lr=0.01), scheduler=step)
    options = {"out": tmp_path, "resume": True}
    for optimizer, scheduler, match in (
        (partial(Adam, lr=0.02), step, r"made with optimizer='Adam\(lr=0.01, .*, not 'Adam\(lr=0."),
        (None, step, r"made with optimizer='Adam\(lr=0.01"),
        (partial(Adam, lr=0.01), None, "made with scheduler='StepLR', not None; use the same"),
    ):
        assert_refused(
            match, rbm(), Gibbs(1), PLAIN, optimizer=optimizer, scheduler=scheduler, **options
        )
    assert load_run(tmp_path).settings.decay == "none"


def test_a_schedule_that_no_file_can_hold_is_named(tmp_path):
    class Odd(lr_scheduler.StepLR):
        def state_dict(self):
            return {"rule": print}

    with pytest.raises(CheckpointError, match="cannot store builtin_function_or_method at 'sched"):
        run(rbm(), Gibbs(1), PLAIN, out=tmp_path, scheduler=partial(Odd, step_size=3))


# ---- clipping ----------------


def test_a_gradient_is_clipped_to_its_norm():
    """With a rate of 1 a step of plain gradient descent is the gradient itself."""
    settings = replace(SHORT, optimizer="sgd", lr=1.0, updates=1, decay="none")
    before, free, clipped = rbm(), rbm(), rbm()
    run(free, Gibbs(1), settings)
    run(clipped, Gibbs(1), replace(settings, clip=0.01))
    steps = []
    for model in (free, clipped):
        pairs = zip(model.parameters(), before.parameters(), strict=True)
        steps.append(torch.cat([(p - q).flatten() for p, q in pairs]).detach())
    assert float(steps[0].norm()) > 0.1 and float(steps[1].norm()) == pytest.approx(0.01, rel=1e-4)
    torch.testing.assert_close(steps[1] / steps[1].norm(), steps[0] / steps[0].norm())


@pytest.mark.long
def test_a_clip_that_nothing_reaches_changes_nothing():
    model, free = rbm(), rbm()
    run(model, Gibbs(1), replace(SHORT, clip=1e6))
    run(free, Gibbs(1), SHORT)
    assert_same(weights(model), weights(free))


# ---- averages ----------------


@pytest.mark.parametrize("rule", thinned(["mean", "ema"], 2))
def test_the_average_is_what_is_evaluated_and_returned(tmp_path, rule):
    settings = replace(SHORT, average=rule, average_from=3, average_decay=0.8)
    watch, plain = Watch(), Watch()
    model, alone = rbm(), rbm()
    history = run(model, Gibbs(1), settings, callbacks=[watch], out=tmp_path)
    without = run(alone, Gibbs(1), SHORT, callbacks=[plain])
    # chains and gradients follow the weights themselves
    for mine, other in zip(watch.weights, plain.weights, strict=True):
        assert_same(dict(mine.state_dict()), dict(other.state_dict()))

    expected = AveragedModel(
        rbm(), multi_avg_fn=get_ema_multi_avg_fn(0.8) if rule == "ema" else None
    )
    for moved in watch.weights[3:]:
        expected.update_parameters(moved)
    assert_same(weights(model), weights(expected.module))
    if rule == "mean":
        stacked = torch.stack([moved.W.detach() for moved in watch.weights[3:]])
        torch.testing.assert_close(model.W.detach(), stacked.mean(0))

    assert history[0]["log_likelihood"] == without[0]["log_likelihood"]  # at 3: not yet
    assert history[-1]["log_likelihood"] == log_likelihood(model, rows(model), "exact").value
    state = load(tmp_path)
    assert_same(state["model"], weights(model))
    assert_same(state["training"], weights(alone))
    assert_same(weights(load_run(tmp_path).model), weights(model))


def test_without_an_average_a_checkpoint_holds_the_weights_once(tmp_path):
    run(rbm(), Gibbs(1), replace(SHORT, updates=1), out=tmp_path)
    state = load(tmp_path)
    assert state["training"] is state["average"] is state["best"] is state["scheduler"] is None


def test_an_average_begins_anew_in_a_longer_run(tmp_path):
    steady = replace(SHORT, decay="none", average="mean", average_from=2)
    run(rbm(), Gibbs(1), steady, out=tmp_path / "cut")
    longer = replace(steady, updates=9)
    for name, value in (("average_from", 4), ("average", "ema"), ("average_decay", 0.5)):
        match = rf"made with {name}=.*use the same value, or average_from=6 \(--average-from 6"
        settings = replace(longer, **{name: value})
        assert_refused(match, rbm(), Gibbs(1), settings, out=tmp_path / "cut", resume=True)
    anew = replace(longer, average="ema", average_from=7)
    model, whole = rbm(), rbm()
    run(model, Gibbs(1), anew, out=tmp_path / "cut", resume=True)
    run(whole, Gibbs(1), anew)
    assert_same(weights(model), weights(whole))
    assert [former["until"] for former in load(tmp_path / "cut")["former"]] == [6]


@pytest.mark.parametrize("average", ["ema", "mean"])
def test_parametrised_and_double_models_are_averaged_too(average):
    model = rbm().double()
    torch.nn.utils.parametrizations.weight_norm(model, "W")
    run(model, Gibbs(1), replace(SHORT, updates=3, average=average))
    assert model.W.dtype == torch.float64 and bool(model.W.isfinite().all())


def test_where_to_train():
    model, same = rbm(), rbm()
    few = replace(SHORT, updates=2)
    run(model, Gibbs(1), few, device="cpu")
    run(same, Gibbs(1), few)
    assert_same(weights(model), weights(same))
    with pytest.raises(RuntimeError):
        run(rbm(), Gibbs(1), SHORT, device="no device")
