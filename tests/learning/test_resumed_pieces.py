"""Optimisers, schedules, averages, patience and loaders: a resumed run is an uninterrupted one."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, TensorDataset

from qsample import Settings
from qsample.annealers import Gibbs
from qsample.learning import checkpoint
from qsample.learning.checkpoint import load
from qsample.learning.files import digest
from qsample.learning.fit import fit
from tests.support.thinning import thinned
from tests.support.training import SHORT as LONGER
from tests.support.training import Dies, Stop, assert_same, rbm, rows

SHORT = replace(LONGER, updates=10, evaluate_every=3, checkpoint_every=4)
PLAIN = replace(SHORT, lr=Settings.lr)
ROWS = rows(rbm())
VALIDATION = ROWS[20:]


class Noisy(Dataset):
    """Rows that are binarised anew each time, by torch's default generator."""

    def __len__(self):
        return 30

    def __getitem__(self, k):
        return (torch.rand(9) < 0.2 + 0.6 * ROWS[k]).float(), k


def loader(**options):
    return DataLoader(TensorDataset(ROWS, torch.arange(30)), 13, **options)


# Name -> (settings, further arguments of fit, made anew for each run)
PIECES: dict[str, tuple[Settings, Any]] = {
    "all at once": (
        replace(PLAIN, average="ema", average_from=3, average_decay=0.5, patience=3, clip=0.5),
        lambda: {
            "data": loader(shuffle=True),
            "validation": VALIDATION,
            "optimizer": lambda p: AdamW(p, lr=0.01),
            "scheduler": lambda o: OneCycleLR(o, 0.1, total_steps=11),
        },
    ),
    "ema": (replace(SHORT, average="ema", average_decay=0.7), dict),
    "mean from 3": (replace(SHORT, average="mean", average_from=3), dict),
    "mean, clip, sgd": (
        replace(SHORT, average="mean", clip=0.5, optimizer="sgd", centred=True),
        dict,
    ),
    "patience": (replace(SHORT, patience=2), lambda: {"validation": VALIDATION}),
    "patience, ema": (
        replace(SHORT, patience=3, average="ema", average_decay=0.5),
        lambda: {"validation": VALIDATION},
    ),
    "optimizer, scheduler": (
        PLAIN,
        lambda: {
            "optimizer": lambda p: AdamW(p, lr=0.01, amsgrad=True),
            "scheduler": lambda o: OneCycleLR(o, 0.1, total_steps=11),
        },
    ),
    "scheduler, clip": (
        replace(SHORT, clip=0.1),
        lambda: {"scheduler": lambda o: LambdaLR(o, lambda k: 0.9**k)},
    ),
    "plateau": (
        SHORT,
        lambda: {"scheduler": lambda o: ReduceLROnPlateau(o, "max", 0.5, 0, threshold=1.0)},
    ),
    "loader": (PLAIN, lambda: {"data": loader(shuffle=True)}),
    "loader with its own seed": (
        PLAIN,
        lambda: {"data": loader(shuffle=True, generator=torch.Generator().manual_seed(7))},
    ),
    "data set that draws": (PLAIN, lambda: {"data": Noisy()}),
    "generator": (PLAIN, lambda: {"data": (ROWS[k : k + 5] for k in range(12))}),
    "list": (PLAIN, lambda: {"data": list(ROWS.split(7))}),
}


def train(name, sampler, settings=None, **options):
    given, further = PIECES[name]
    model = rbm()
    options = {"data": rows(model), "progress": False} | further() | options
    history = fit(model, options.pop("data"), sampler, settings or given, **options)
    return model, history


@pytest.mark.parametrize("name", thinned(PIECES, 20))
def test_resume_equals_an_uninterrupted_run_bit_for_bit(tmp_path, name):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    whole, expected = train(name, Gibbs(2), out=tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)  # on which nothing depends
    with pytest.raises(Stop):
        train(name, Dies(Gibbs(2), 7), out=tmp_path / "cut")
    assert load(tmp_path / "cut")["update"] == 4
    with pytest.raises(Stop):
        train(name, Dies(Gibbs(2), 5), out=tmp_path / "cut", resume=True)
    model, history = train(name, Gibbs(2), out=tmp_path / "cut", resume=True)
    assert_same(history, expected)
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))
    assert_same(load(tmp_path / "cut"), load(tmp_path / "whole"))
    # and again, of the finished run
    again, history = train(name, Dies(Gibbs(2), 1), out=tmp_path / "cut", resume=True)
    assert_same(history, expected)
    assert_same(dict(again.state_dict()), dict(whole.state_dict()))


@pytest.mark.long
@pytest.mark.parametrize("name", ["mean from 3", "ema", "patience", "loader"])
def test_a_finished_run_is_extended_to_a_longer_one(tmp_path, name):
    """Under a constant rate it is the longer run, bit for bit: the raw weights go on."""
    settings = replace(PIECES[name][0], decay="none", patience=None)
    options = {"validation": VALIDATION}
    if name == "patience":
        settings = replace(settings, patience=50)
    longer = replace(settings, updates=14)
    train(name, Gibbs(2), settings, out=tmp_path / "cut", **options)
    model, history = train(name, Gibbs(2), longer, out=tmp_path / "cut", resume=True, **options)
    whole, expected = train(name, Gibbs(2), longer, out=tmp_path / "whole", **options)
    assert_same(history, expected)
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))
    assert_same(load(tmp_path / "cut"), load(tmp_path / "whole"))


def test_a_run_of_before_goes_on_and_takes_up_averages_and_patience(tmp_path):
    """Its checkpoint knows nothing of them."""
    old = load(Path(__file__).parents[1] / "data" / "run")
    old["identity"]["data"] = digest(ROWS)
    plain = Settings(**old["settings"] | {"updates": 10, "evaluate_every": 2})
    pieces = replace(plain, average="mean", average_from=8, patience=2, clip=None)
    models = []
    for name, settings in (("plain", plain), ("pieces", pieces)):
        checkpoint.save(tmp_path / name, old, step=6)
        model = rbm()
        options = {"validation": VALIDATION, "out": tmp_path / name, "resume": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of draws of another numbering
            fit(model, ROWS, Gibbs(2), settings, progress=False, **options)
        models.append(model)
    assert_same(load(tmp_path / "pieces")["training"], dict(models[0].state_dict()))
    assert load(tmp_path / "plain")["training"] is None
    assert int(load(tmp_path / "pieces")["average"]["n_averaged"]) == 2
