"""What training refuses, in a line that names the value; the last good checkpoint stands."""

import errno
import json
import math
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qsample.annealers import Gibbs
from qsample.learning import checkpoint
from qsample.learning.checkpoint import CheckpointError, load
from qsample.learning.fit import fit
from qsample.learning.settings import Settings
from qsample.models import BernoulliRBM
from tests.support.thinning import thinned
from tests.support.training import (
    SHORT,
    Dies,
    Stop,
    assert_refused,
    assert_same,
    coupled,
    rbm,
    run,
)


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that stopped after its checkpoint of update 5."""
    with pytest.raises(Stop):
        run(rbm(), Dies(Gibbs(1), 8), out=tmp_path, config={"data": "mine"})
    return tmp_path


def test_an_existing_run_is_not_overwritten(stopped):
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    message = f"{stopped} already holds a run: give resume=True to resume it"
    assert_refused(message, rbm(), Gibbs(1), out=stopped)
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("updates", 21),
        ("batch", 14),
        ("lr", 0.06),
        ("decay", "none"),
        ("optimizer", "sgd"),
        ("weight_decay", 0.1),
        ("start", "data"),
        ("chains", 25),
        ("centred", True),
        ("seed", 6),
        ("decay_from", 3),
    ],
)
def test_another_setting_is_refused_on_resume(stopped, name, value):
    before = {path.name: path.read_bytes() for path in stopped.iterdir()}
    settings = replace(SHORT, **{name: value})
    was = re.escape(repr(getattr(SHORT.resolved(Gibbs(1)), name)))
    match = f"cannot resume {stopped}: it was made with {name}={was}, not {value!r}; use the same"
    assert_refused(
        match, rbm(), Gibbs(1), settings, out=stopped, resume=True, config={"data": "mine"}
    )
    assert {path.name: path.read_bytes() for path in stopped.iterdir()} == before


def test_another_configuration_is_refused_on_resume(stopped):
    options = {"out": stopped, "resume": True}
    assert_refused(
        "made with data='mine', not 'yours'", rbm(), Gibbs(1), config={"data": "yours"}, **options
    )
    assert_refused("made with data='mine', not None", rbm(), Gibbs(1), config={}, **options)
    assert_refused(
        "made with more=None, not 1", rbm(), Gibbs(1), config={"data": "mine", "more": 1}, **options
    )


@pytest.mark.parametrize("make", [coupled, lambda: BernoulliRBM(9, 5)])
def test_another_model_is_refused_on_resume(stopped, make):
    match = (
        f"cannot resume {stopped}: "
        "(weights of another model: its sizes is .*, this one's|it was made with data=)"
    )
    assert_refused(match, make(), Gibbs(1), out=stopped, resume=True, config={"data": "mine"})


def test_somebody_elses_checkpoint_is_refused(tmp_path):
    checkpoint.save(tmp_path, {"model": {}, "epoch": 3}, step=3)
    assert_refused(
        f"cannot resume {tmp_path}: .* lacks 'carry'", rbm(), Gibbs(1), out=tmp_path, resume=True
    )
    assert load(tmp_path)["epoch"] == 3


@pytest.mark.parametrize("damage", ["manifest", "tensors", "empty"])
def test_a_damaged_checkpoint_is_refused_on_resume(stopped, damage):
    (file,) = stopped.glob("*.json" if damage == "manifest" else "*.safetensors")
    file.write_bytes(b"" if damage == "empty" else file.read_bytes()[:-9])
    assert_refused(
        "corrupt|truncated", rbm(), Gibbs(1), out=stopped, resume=True, config={"data": "mine"}
    )


# ---- divergence ----------------


class Breaks(Dies):
    """Pushes a weight out of bounds in its k-th call, after the reads are drawn."""

    def __init__(self, sampler, call, model, value):
        super().__init__(sampler, call)
        self.model, self.value = model, value

    def sample(self, problem, num, *, initial=None, generator=None):
        samples = self.sampler.sample(problem, num, initial=initial, generator=generator)
        self.left -= 1
        if self.left == 0:
            with torch.no_grad():
                self.model.W[0, 0] = self.value
        return samples


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("call", thinned([6, 1, 10], 3))
def test_a_loss_that_is_not_finite_stops_and_the_last_checkpoint_stands(tmp_path, value, call):
    model = rbm()
    with pytest.raises(
        FloatingPointError, match=r"at update \d+: lower the learning rate \(lr=0.05\); the last"
    ) as caught:
        run(model, Breaks(Gibbs(1), call, model, value), out=tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    if call == 1:
        assert not (tmp_path / "checkpoint.json").exists()
    else:
        state = load(tmp_path)
        assert state["update"] == 5
        assert all(t.isfinite().all() for t in state["model"].values())
    again, whole = rbm(), rbm()
    assert_same(run(again, Gibbs(1), out=tmp_path, resume=True), run(whole, Gibbs(1)))


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("lr", [1e4, 1e29])
def test_a_mad_learning_rate_never_costs_the_checkpoint_nor_ends_deep_inside(
    tmp_path, optimizer, lr
):
    settings = replace(
        SHORT,
        optimizer=optimizer,
        lr=lr,
        checkpoint_every=1,
        updates=60,
        decay="none",
        weight_decay=0.9,
    )
    try:
        run(rbm(), Gibbs(1), settings, out=tmp_path)
    except FloatingPointError as error:
        assert "lower the learning rate" in str(error)
    if (tmp_path / "checkpoint.json").exists():
        assert all(t.isfinite().all() for t in load(tmp_path)["model"].values())


# ---- folders that cannot be written ----------------


@pytest.mark.parametrize("inner", ["", "/run"])
def test_a_file_where_the_folder_should_be(tmp_path, inner):
    (tmp_path / "taken").write_text("a file")
    out = f"{tmp_path}/taken{inner}"
    assert_refused(
        f"cannot write to {out}: (File exists|Not a directory); choose", rbm(), Gibbs(1), out=out
    )
    assert (tmp_path / "taken").read_text() == "a file"


def refuse_writing(monkeypatch, name, number):
    """From now on opening that file for writing fails as the system would."""
    real = Path.open

    def opened(self, mode="r", *args, **kwargs):
        if self.name == name and mode != "r":
            raise OSError(
                number,
                "No space left on device" if number == errno.ENOSPC else "Read-only file system",
            )
        return real(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EROFS, "Read-only file system"), (errno.ENOSPC, "No space left on device")],
)
def test_a_folder_that_cannot_be_written_is_refused_before_the_first_update(
    tmp_path, monkeypatch, number, reason
):
    refuse_writing(monkeypatch, "metrics.jsonl", number)
    match = f"cannot write {tmp_path}/metrics.jsonl: {reason}"
    assert_refused(match, rbm(), Dies(Gibbs(1), 1), out=tmp_path)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    real, calls = checkpoint.write_whole, []

    def full(path, data):
        calls.append(path)
        if len(calls) > 2:  # two files a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(checkpoint, "write_whole", full)
        run(rbm(), Gibbs(1), out=tmp_path)
    assert str(caught.value) == f"cannot save step 10 in {tmp_path}: No space left on device"
    assert load(tmp_path)["update"] == 5
    again, whole = rbm(), rbm()
    assert_same(run(again, Gibbs(1), out=tmp_path, resume=True), run(whole, Gibbs(1)))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


def test_metrics_on_a_full_device(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(
        ValueError, match=f"cannot write {tmp_path}/metrics.jsonl: No space left on device"
    ):
        run(rbm(), Gibbs(1), out=tmp_path)


def test_any_thread_may_train(tmp_path):
    result = []
    thread = threading.Thread(target=lambda: result.append(run(rbm(), Gibbs(1), out=tmp_path)))
    thread.start()
    thread.join()
    assert_same(result, [run(rbm(), Gibbs(1))])
    assert (
        json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["update"]
        == SHORT.updates
    )


@pytest.mark.parametrize(
    ("change", "named"), [("sampler", "sampler=.*sweeps=2"), ("data", "data=")]
)
def test_resume_refuses_another_sampler_or_other_data(tmp_path, change, named):
    data = (torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    settings = Settings(updates=2, batch=5, chains=4, evaluate_every=2)
    fit(BernoulliRBM(4, 2), data, Gibbs(2), settings, out=tmp_path, progress=False)
    other = data.flip(0) if change == "data" else data
    sampler = Gibbs(3) if change == "sampler" else Gibbs(2)
    with pytest.raises(ValueError, match=f"cannot resume.*{named}"):
        fit(BernoulliRBM(4, 2), other, sampler, settings, out=tmp_path, progress=False, resume=True)
