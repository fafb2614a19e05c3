"""Training learns: every row once per epoch, a rising likelihood, a law that can be represented."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qsample import Graph, Settings, fit, log_likelihood
from qsample.annealers import Exact, Gibbs
from qsample.learning.run import Run
from qsample.models import BernoulliRBM, BoltzmannMachine
from tests.support.thinning import thinned
from tests.support.training import RUNS, SHORT, assert_same, rbm, rows, run


@pytest.mark.parametrize("batch", [1, 7, 30, 64, 100])
def test_every_epoch_visits_each_row_once(batch):
    data = torch.cat([torch.eye(9), torch.zeros(1, 9), 1 - torch.eye(9), torch.ones(1, 9)])
    settings = replace(SHORT, batch=batch, updates=-(-3 * len(data) // batch))
    training = Run(rbm(), data, Gibbs(1), settings, None, None, {})
    seen = []
    for training.update in range(settings.updates):
        drawn = training.rows()
        assert len(drawn) == batch
        seen += [int((data == row).all(1).nonzero()) for row in drawn]
    epochs = [seen[k : k + len(data)] for k in range(0, 3 * len(data), len(data))]
    assert all(sorted(epoch) == list(range(len(data))) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


@pytest.mark.parametrize("name", thinned([name for name in RUNS if "state" not in name], 6))
def test_training_raises_the_exact_likelihood(name):
    make, sampler, options = RUNS[name]
    model = make()
    # nearly the best model without couplings: the gain is what couplings learnt
    model.set_visible_bias(rows(model))
    before = log_likelihood(model, rows(model), "exact").value
    options = options | {
        "updates": 120,
        "batch": 30,
        "chains": 200,
        "evaluate_every": 120,
        "weight_decay": 0.0,
    }
    (metrics,) = run(
        model, sampler(), replace(SHORT, **options, lr=0.2 if "optimizer" in options else 0.05)
    )
    after = log_likelihood(model, rows(model), "exact").value
    assert after == metrics["log_likelihood"] > before


@pytest.mark.parametrize(
    ("model", "options"),
    thinned(
        [
            ("machine", {}),
            ("machine", {"centred": True}),
            ("machine", {"optimizer": "sgd", "lr": 0.3}),
            ("rbm", {}),
            ("rbm", {"centred": True}),
        ],
        5,
    ),
)
def test_exact_samples_reach_a_law_that_the_model_can_represent(model, options):
    """Two visible units represent every law: the KL divergence tends to 0, but for noise.

    Were the weights fitted to the N = 4,096 reads of a single update, 2 N KL would be chi-squared
    with 3 degrees of freedom; the falling learning rate averages over many. 31 is exceeded once in
    a million.
    """
    bits = (
        torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        .float()
        .repeat_interleave(torch.tensor([5, 3, 1, 7]), 0)
    )
    generator = torch.Generator().manual_seed(3)
    if model == "rbm":
        fitted, data = BernoulliRBM(2, 2, scale=1.0, generator=generator), bits
    else:
        fitted, data = BoltzmannMachine(Graph.complete(2), generator=generator), 2 * bits - 1
    settings = Settings(
        **({"updates": 400, "lr": 0.05} | options), batch=16, start="fresh", chains=4096
    )
    negative_entropy = sum(k / 16 * math.log(k / 16) for k in (5, 3, 1, 7))
    before = negative_entropy - log_likelihood(fitted, data, "exact").value
    after = (
        negative_entropy
        - fit(fitted, data, Exact(), settings, progress=False)[-1]["log_likelihood"]
    )
    assert 0 < after < 31 / (2 * settings.chains) < before


def test_the_same_seed_gives_the_same_run_and_another_another():
    first, same, other = rbm(), rbm(), rbm()
    assert_same(run(first, Gibbs(1)), run(same, Gibbs(1)))
    run(other, Gibbs(1), replace(SHORT, seed=6))
    assert not torch.equal(first.W, other.W)


GLOBAL = """
import random, numpy, torch
from qsample import fit
from dataclasses import replace
from tests.support.training import RUNS, SHORT, rows
def states():
    return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()
before = states()
for make, sampler, options in RUNS.values():
    fit(model := make(), rows(model), sampler(), replace(SHORT, **options), progress=False)
    assert states() == before, options
"""


@pytest.mark.long
def test_global_random_states_are_untouched():
    """In a process of its own: the type checker of these tests draws from Python's."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", GLOBAL], check=True, cwd=root)


def test_metrics_name_what_was_measured(tmp_path):
    model = rbm()
    history = run(model, Gibbs(2), validation=rows(model)[:5], out=tmp_path)
    names = {"update", "loss", "log_likelihood", "beta", "beta_stderr", "ess", "seconds"}
    names |= {"spin_updates"}
    assert all(metrics.keys() == names for metrics in history)
    assert history[-1]["log_likelihood"] == log_likelihood(model, rows(model)[:5], "exact").value
    assert all(1 <= metrics["ess"] <= SHORT.chains for metrics in history)
    wide = BernoulliRBM(40, 30)
    data = (torch.rand(20, 40) < 0.5).float()
    assert (
        "pseudo_log_likelihood"
        in fit(wide, data, Gibbs(1), replace(SHORT, updates=1), progress=False)[0]
    )
