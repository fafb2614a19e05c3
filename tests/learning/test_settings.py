"""Bad settings and bad data: one line that repeats the value, before anything is written."""

import math
import re
from dataclasses import replace

import jaxtyping
import pytest
import torch

from qsample import Settings, fit
from qsample.annealers import Exact, Gibbs
from tests.support.training import SHORT, assert_refused, rbm, rows, run


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"updates": 0}, "expected updates >= 1; got 0"),
        ({"batch": -3}, "expected batch >= 1; got -3"),
        ({"chains": 0}, "expected chains >= 1; got 0"),
        ({"evaluate_every": 0}, "expected evaluate_every >= 1; got 0"),
        ({"checkpoint_every": 0}, "expected checkpoint_every >= 1; got 0"),
        ({"lr": 0.0}, "learning rate > 0 and < 1e30; got 0.0"),
        ({"lr": math.nan}, "learning rate > 0 and < 1e30; got nan"),
        ({"lr": math.inf}, "learning rate > 0 and < 1e30; got inf"),
        ({"weight_decay": -0.5}, "expected a weight_decay >= 0; got -0.5"),
        ({"weight_decay": math.nan}, "expected a weight_decay >= 0; got nan"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; expected one of adam, sgd"),
        ({"decay": "cosine"}, "unknown decay 'cosine'; expected one of linear, none"),
        ({"start": "cold"}, "unknown start 'cold'; expected one of data, persistent, fresh"),
        ({"seed": 1 << 70}, "expected a seed of 64 bits; got 1180591620717411303424"),
    ],
)
def test_bad_settings(monkeypatch, wrong, message):
    # which would refuse some of them first
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=re.escape(message)):
        Settings(**wrong)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.zeros(4, 8), "expected data of shape [*, 9]; got [4, 8]"),
        (torch.zeros(0, 9), "expected data of shape [N, 9] with N >= 1; got [0, 9]"),
        (torch.zeros(9), "expected data of shape [N, 9] with N >= 1; got [9]"),
        (torch.full((4, 9), 0.5), "expected data of 0 and 1 only; got 0.5"),
        (torch.full((4, 9), math.nan), "expected data of 0 and 1 only; got nan"),
        (-torch.ones(4, 9), "expected data of 0 and 1 only; got -1"),
    ],
)
def test_bad_data(tmp_path, data, message):
    options = {"progress": False, "out": tmp_path / "run"}
    with pytest.raises(ValueError) as caught:
        fit(rbm(), data, Gibbs(1), SHORT, **options)
    assert str(caught.value) == message
    with pytest.raises(ValueError) as caught:
        fit(rbm(), rows(rbm()), Gibbs(1), SHORT, validation=data, **options)
    assert str(caught.value) == message.replace("expected data", "expected validation")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_finite_to_begin_with():
    model = rbm()
    with torch.no_grad():
        model.W[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"h\[0\] is nan: expected finite numbers only"):
        run(model, Gibbs(1))


@pytest.mark.parametrize("start", ["data", "persistent"])
def test_a_sampler_that_cannot_continue_chains_is_refused_for_such_starts(start):
    assert_refused(
        f"start='{start}' continues chains and Exact cannot",
        rbm(),
        Exact(),
        replace(SHORT, start=start),
    )
