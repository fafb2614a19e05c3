"""Data that are no tensor: the error names a way to one, and it works. Paths with a tilde."""

import re
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

import qsample as qs
from qsample.annealers import Exact, Gibbs
from qsample.data import load
from qsample.learning import checkpoint
from qsample.models import BernoulliRBM
from tests.support.exact import untyped
from tests.support.training import SHORT, rbm

ROWS = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 1, 1]]).float()


def frame():
    return pytest.importorskip("pandas").DataFrame(ROWS.numpy())


MADE = {
    "frame": frame,
    "dataset": lambda: replace(load("bars-and-stripes-1x3"), x=ROWS),
    "loader": lambda: DataLoader(TensorDataset(ROWS), batch_size=2),
    "subset": lambda: Subset(TensorDataset(ROWS), [0, 1, 2]),
    "array": ROWS.numpy,
    "list": ROWS.tolist,
}


@pytest.mark.parametrize("name", MADE)
def test_the_advice_works(name):
    value, model = MADE[name](), BernoulliRBM(3, 2)
    calls = [
        lambda x: qs.log_likelihood(model, x),
        lambda x: model.set_visible_bias(x),
        lambda x: qs.cd_loss(model, x, Exact().sample(model.ising(), 4)),
    ]
    if name not in ("loader", "subset"):  # fit takes both as they are
        calls.append(lambda x: qs.fit(model, x, Gibbs(1), SHORT, progress=False))
    for call in calls:
        with untyped(), pytest.raises(TypeError) as caught:
            call(value)
        said = re.search(r": (.+?)(?: is one| makes one)?$", str(caught.value))
        assert said is not None
        advice = said[1] if said[1] != "use torch.as_tensor" else "torch.as_tensor(value)"
        rows = eval(advice, {"torch": torch, name: value, "value": value})
        assert torch.equal(rows.float(), ROWS)
    torch_set = TensorDataset(ROWS)
    with untyped(), pytest.raises(TypeError, match=r"dataset\.tensors\[0\] is one"):
        qs.log_likelihood(model, torch_set)  # pyright: ignore[reportArgumentType]


def test_settings_as_a_mapping():
    qs.fit(rbm(), torch.eye(9), Gibbs(1), {"updates": 2, "chains": 4, "batch": 3}, progress=False)
    with pytest.raises(
        ValueError,
        match=r"unknown setting 'update': did you mean 'updates'\? expected updates, batch",
    ):
        qs.fit(rbm(), torch.eye(9), Gibbs(1), {"update": 2}, progress=False)


def test_a_model_prints_its_sizes():
    assert repr(BernoulliRBM(64, 16)) == "BernoulliRBM(64 visible, 16 hidden, bipartite)"
    assert "5 visible, 1 hidden, complete" in repr(
        qs.models.BoltzmannMachine(qs.Graph.complete(6), [2])
    )


def test_faces_are_attributes():
    assert qs.data.load is load and qs.metrics.__name__ == "qsample.metrics"


def test_a_tilde_is_the_home_folder_of_checkpoints_and_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    checkpoint.save("~/a", {"x": 1}, step=0)
    assert checkpoint.load("~/a") == {"x": 1} and checkpoint.last_step("~/a/checkpoint.json") == 0
    qs.fit(rbm(), torch.eye(9), Gibbs(1), SHORT, out="~/b", progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
