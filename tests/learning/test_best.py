"""Early stopping: the best weights on validation rows come back, and what can be evaluated."""

from dataclasses import replace

import pytest
import torch

from qsample import Settings, fit, log_likelihood, pseudo_log_likelihood
from qsample.annealers import Gibbs
from qsample.learning.best import Best, score_of
from qsample.learning.checkpoint import load
from qsample.learning.saved import load_run
from qsample.models import BoltzmannMachine
from qsample.problem.graph import Graph
from tests.support.thinning import thinned
from tests.support.training import SHORT as LONGER
from tests.support.training import (
    assert_refused,
    assert_same,
    coupled,
    rbm,
    rows,
    run,
    weights,
)

VALIDATION = rows(rbm())[20:]
SHORT = replace(LONGER, updates=6, evaluate_every=3, checkpoint_every=6)
STEADY = replace(SHORT, updates=20, decay="none", evaluate_every=1)


class Scores:
    """Plays an evaluation: the k-th one scores the k-th number."""

    def __init__(self, *numbers):
        self.left = list(numbers)
        self.models = []

    def __call__(self, model, rows):
        self.models.append(weights(model))
        return {"score": self.left.pop(0)}


def test_it_stops_after_so_many_worse_ones_and_returns_the_best(tmp_path):
    scores = Scores(1.0, 3.0, 2.0, 3.0, 4.0, 3.9, 3.9, 4.0)
    model = rbm()
    settings = replace(STEADY, patience=3)
    options = {"validation": VALIDATION, "out": tmp_path}
    history = run(model, Gibbs(1), settings, evaluate=scores, **options)
    assert [metrics["score"] for metrics in history] == [1.0, 3.0, 2.0, 3.0, 4.0, 3.9, 3.9, 4.0]
    assert_same(weights(model), scores.models[4])
    state = load(tmp_path)
    assert state["update"] == 8
    assert_same(state["model"], scores.models[4])
    assert_same(state["training"], scores.models[7])
    saved = load_run(tmp_path)
    assert (saved.update, saved.best) == (8, 5)
    assert_same(weights(saved.model), scores.models[4])

    # it is over, until there is more patience
    assert_same(run(rbm(), Gibbs(1), settings, evaluate=Scores(), resume=True, **options), history)
    more = Scores(3.0, 5.0, *[0.0] * 5)
    settings = replace(settings, patience=5)
    longer = run(rbm(), Gibbs(1), settings, evaluate=more, resume=True, **options)
    assert longer[:8] == history and longer[-1]["update"] == 15
    assert load_run(tmp_path).best == 10


def test_without_a_worse_one_it_ends_with_the_updates_and_the_best():
    scores = Scores(0, 1, 99, 5, 6)
    model = rbm()
    run(
        model,
        Gibbs(1),
        replace(STEADY, updates=5, patience=30),
        validation=VALIDATION,
        evaluate=scores,
    )
    assert_same(weights(model), scores.models[2])


@pytest.mark.parametrize("average", thinned(["ema", "none"], 2))
def test_it_looks_at_the_likelihood_of_the_validation_rows(average):
    model = rbm()
    settings = replace(STEADY, updates=9, patience=50, lr=1.0, average=average, average_decay=0.5)
    history = run(model, Gibbs(1), settings, validation=VALIDATION)
    best = max(metrics["log_likelihood"] for metrics in history)
    assert best > history[-1]["log_likelihood"]
    assert log_likelihood(model, VALIDATION, "exact").value == best


def test_a_number_that_is_none_is_never_better():
    model, best = rbm(), Best(3)
    for update, score in enumerate([float("nan"), -2.0, float("nan"), float("inf")]):
        best.look(model, {"update": update, "score": score})
        assert best.update == [0, 1, 1, 3][update]


def test_patience_needs_validation_rows():
    assert_refused(
        "patience=3 waits for validation rows to become more likely: pass validation=, rows that",
        rbm(),
        Gibbs(1),
        replace(SHORT, patience=3),
    )


def test_patience_needs_a_score(tmp_path):
    """Coupled hidden units, too many to sum over: there is no likelihood without sampling."""
    model = BoltzmannMachine(Graph.complete(20), range(9, 20))
    options = {"validation": rows(coupled())[20:], "out": tmp_path}
    settings = replace(SHORT, patience=3)
    match = "patience=3 needs a score, one of score, .*; the evaluation gave none: pass evaluate="
    with pytest.raises(ValueError, match=match):
        fit(model, rows(coupled()), Gibbs(1), settings, progress=False, **options)
    assert load(tmp_path)["update"] == 3
    options["evaluate"] = lambda model, rows: {"score": 1.0}
    fit(model, rows(coupled()), Gibbs(1), settings, progress=False, resume=True, **options)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3"])
def test_no_patience_is_none(wrong):
    with pytest.raises(ValueError, match="expected patience >= 1; got"):
        Settings(patience=wrong)


def test_a_lower_end_goes_before_a_point():
    assert score_of({"log_likelihood": 1.0, "log_likelihood_low": 0.5}) == (
        "log_likelihood_low",
        0.5,
    )


# ---- what is evaluated ----------------


def test_evaluations_by_name():
    for name, metric, judge in (
        ("exact", "log_likelihood", lambda model, x: log_likelihood(model, x, "exact").value),
        ("pseudo", "pseudo_log_likelihood", pseudo_log_likelihood),
    ):
        model = rbm()
        history = run(model, Gibbs(1), SHORT, validation=VALIDATION, evaluate=name)
        assert history[-1][metric] == judge(model, VALIDATION)
    match = "unknown evaluate 'aic'; expected one of auto, exact, pseudo"
    assert_refused(match, rbm(), Gibbs(1), evaluate="aic")


def test_an_evaluation_of_ones_own():
    def free_energy(model, x):
        assert torch.equal(x, VALIDATION) and not torch.is_grad_enabled()
        return {"free_energy": model.free_energy(x).mean(), "rows": len(x)}

    model = rbm()
    history = run(model, Gibbs(1), SHORT, validation=VALIDATION, evaluate=free_energy)
    with torch.no_grad():
        expected = float(model.free_energy(VALIDATION).mean())
    assert history[-1]["free_energy"] == expected and history[-1]["rows"] == len(VALIDATION)
    assert "log_likelihood" not in history[-1]


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (3.0, TypeError, "expected evaluate to return a dict of numbers; got float"),
        ({"score": "high"}, TypeError, "expected evaluate to return numbers; got str as 'score'"),
        ({"score": torch.zeros(3)}, TypeError, "got Tensor as 'score'"),
        ({"beta": 1.0}, ValueError, "returned 'beta', which names another metric of the run"),
    ],
)
def test_what_an_evaluation_must_return(tmp_path, answer, error, match):
    with pytest.raises(error, match=match):
        run(rbm(), Gibbs(1), SHORT, evaluate=lambda model, x: answer, out=tmp_path)
    state = load(tmp_path)  # which may be evaluated again
    assert state["update"] == 3 and state["pending"]["update"] == 3
    history = run(rbm(), Gibbs(1), SHORT, out=tmp_path, resume=True)
    assert [metrics["update"] for metrics in history] == [3, 6]
