"""A run read back, a longer one, and one that goes on with former settings."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.utils.parametrizations import spectral_norm

import qsample as qs
from qsample import load_run
from qsample.annealers import Gibbs, _engine
from qsample.cli import main
from qsample.learning import checkpoint
from qsample.learning.checkpoint import CheckpointError, NoCheckpoint, load
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.models.registry import architecture, rebuilt
from tests.support.commands import TINY
from tests.support.training import SHORT, Counts, Dies, Stop, assert_same, coupled, rbm, run

OLD = Path(__file__).parents[1] / "data" / "run"
STEADY = replace(SHORT, decay="none")
FORMER = "--updates 6 --batch 10 --chains 16 --evaluate-every 4 --checkpoint-every 2 --sweeps 1"


def train(out, *options):
    main(["train", "--out", str(out), *options])


# ---- load_run ----------------


@pytest.mark.parametrize("make", [rbm, coupled])
def test_a_run_of_fit_is_read_back(tmp_path, make):
    model = make()
    history = run(model, Gibbs(2), out=tmp_path)
    saved = load_run(str(tmp_path), make())
    assert_same(dict(saved.model.state_dict()), dict(model.state_dict()))
    assert (
        saved.history == history
        and saved.update == 20
        and saved.settings == replace(SHORT, start="persistent")
    )
    assert saved.config == {} and saved.sampler == repr(Gibbs(2)) and saved.folder == tmp_path
    assert saved.chains is not None and saved.chains.shape == (24, model.graph.num_spins)
    assert (saved.chains.abs() == 1).all() and saved.seconds > 0


@pytest.mark.parametrize("kind", ["rbm", "boltzmann", "grid"])
def test_a_run_of_the_command_line_is_read_back(tmp_path, kind):
    train(tmp_path, "--model", kind, "--data", "bars-and-stripes-3x3", "--hidden", "3", *TINY)
    saved = qs.load_run(tmp_path)
    assert saved.config["model"] == kind and saved.settings.updates == 6
    assert_same(dict(saved.model.state_dict()), load(tmp_path)["model"])
    assert len(saved.history) == 3


@pytest.mark.parametrize("make", [rbm, coupled])
def test_a_run_of_fit_says_how_its_model_is_made(tmp_path, make):
    model = make().double()
    run(model, Gibbs(1), replace(SHORT, updates=4, batch=4), out=tmp_path)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    saved = load_run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(saved.model) is type(model) and saved.model.graph.kind == model.graph.kind
    assert_same(dict(saved.model.state_dict()), dict(model.state_dict()))


def test_labels_and_hidden_units_come_back():
    graph = qs.Graph.sparse(4, [(0, 1), (1, 3), (2, 3)], ["a", ("b", 1), 7, "d"])
    model = BoltzmannMachine(graph, [7, "a"])
    record = architecture(model)
    assert record is not None and record["name"] == "boltzmann"
    again = rebuilt(record, 4)
    again.load_state_dict(model.state_dict())  # which compares graph, labels and hidden units
    assert list(again.graph.labels) == list(graph.labels)
    with pytest.raises(ValueError, match="it has 3 units, not 4"):
        rebuilt(record, 3)


def test_a_model_that_no_name_stands_for_has_no_architecture():
    class Mine(BernoulliRBM):
        """A user's own."""

    parametrised = rbm()
    spectral_norm(parametrised, "W")
    strange = BoltzmannMachine(qs.Graph.complete(2, [frozenset({1}), frozenset({2})]))
    for model in (Mine(3, 2), parametrised, strange):
        assert architecture(model) is None


def test_runs_of_before_are_read_back(tmp_path):
    """A checkpoint that does not say how its model is made: the weights, or the flags, do."""
    saved = load_run(OLD)
    assert isinstance(saved.model, BernoulliRBM) and saved.model.num_hidden == 4
    assert_same(dict(saved.model.state_dict()), load(OLD)["model"])
    train(tmp_path / "new", "--model", "grid", "--data", "bars-and-stripes-2x2", *TINY)
    state = load(tmp_path / "new")
    del state["architecture"]
    checkpoint.save(tmp_path / "old", state, step=6)
    assert_same(dict(load_run(tmp_path / "old").model.state_dict()), state["model"])
    train(tmp_path / "old", "--resume", "--updates", "8", "--decay-from", "6")


@pytest.mark.parametrize(
    ("record", "match"),
    [
        ({"name": "cube", "arguments": {}}, "unknown model 'cube'; expected one of rbm"),
        ({"name": "rbm", "arguments": {"n_visible": 10**9, "n_hidden": 1}}, "it has .* units, not"),
        ({"name": "rbm", "arguments": {"n_visible": 9, "size": 4}}, "BernoulliRBM is made other"),
        ({"name": "boltzmann", "arguments": {"graph": {"graph": {"kind": "x"}}}}, "no 'sizes'"),
        ({"name": "rbm", "arguments": {"n_visible": 9, "n_hidden": 3}}, "weights of another model"),
        ({"name": 3}, "its 'architecture' is damaged"),
    ],
)
def test_a_false_architecture_is_one_line(tmp_path, record, match):
    checkpoint.save(tmp_path, load(OLD) | {"architecture": record}, step=6)
    with pytest.raises(ValueError, match=match) as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_double_run_is_read_back_as_one(tmp_path):
    model = rbm().double()
    run(model, Gibbs(1), out=tmp_path)
    assert load_run(tmp_path, rbm().double()).model.W.dtype == torch.float64
    with pytest.raises(
        ValueError, match=r"holds weights of torch.float64; got .*use model.to\(torch.f"
    ):
        load_run(tmp_path, rbm())


def test_chains_are_none_where_there_are_none(tmp_path):
    run(rbm(), Gibbs(1), replace(SHORT, start="data"), out=tmp_path)
    assert load_run(tmp_path, rbm()).chains is None


def test_what_cannot_be_read_is_one_line(tmp_path):
    class Mine(BernoulliRBM):
        """A user's own."""

    run(Mine(9, 4), Gibbs(1), out=tmp_path / "fit", config={"notes": "mine"})
    checkpoint.save(tmp_path / "other", {"weights": torch.zeros(3)}, step=1)
    for folder, model, error, match in (
        ("gone", None, NoCheckpoint, "no checkpoint at .*gone"),
        (
            "fit",
            None,
            ValueError,
            r"does not say how to build its model: .* load_run\(folder, model\)",
        ),
        ("fit", BernoulliRBM(9, 5), ValueError, "holds weights of another model .*: weights of an"),
        (
            "other",
            None,
            CheckpointError,
            "holds no run of `qsample train` or fit: it lacks 'carry'",
        ),
    ):
        with pytest.raises(error, match=match) as caught:
            load_run(tmp_path / folder, model)
        assert "\n" not in str(caught.value) and str(tmp_path / folder) in str(caught.value)


# ---- longer runs ----------------


@pytest.mark.parametrize(("updates", "sampler"), [(12, lambda: Gibbs(2)), (15, Counts)])
def test_under_a_constant_rate_a_longer_run_equals_an_uninterrupted_one(tmp_path, updates, sampler):
    """Bit for bit, also where the shorter one ended between two evaluations."""
    run(rbm(), sampler(), replace(STEADY, updates=updates), out=tmp_path / "cut")
    longer, whole = rbm(), rbm()
    history = run(longer, sampler(), STEADY, out=tmp_path / "cut", resume=True)
    assert_same(history, run(whole, sampler(), STEADY, out=tmp_path / "whole"))
    assert_same(dict(longer.state_dict()), dict(whole.state_dict()))
    assert_same(load(tmp_path / "cut"), load(tmp_path / "whole"))
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [4, 8, 12, 16, 20]


def test_under_a_decay_it_is_offered_as_a_continued_run(tmp_path):
    first = rbm()
    run(first, Gibbs(2), out=tmp_path)
    longer = replace(SHORT, updates=30)
    offer = "with decay='linear' .* depends on it; to go on from update 20 .* set decay_from=20"
    with pytest.raises(ValueError, match=f"made with updates=20, not 30; .*{offer}"):
        run(rbm(), Gibbs(2), longer, out=tmp_path, resume=True)
    settings = replace(longer, decay_from=20)
    rates = [settings.rate(update) for update in (0, 19, 20, 25, 29)]
    assert rates == [0.05, 0.05, 0.05, 0.025, pytest.approx(0.005)]
    with pytest.raises(Stop):  # its decay survives a kill
        run(rbm(), Dies(Gibbs(2), 8), settings, out=tmp_path, resume=True)
    assert load(tmp_path)["update"] == 25
    model = rbm()
    history = run(model, Gibbs(2), settings, out=tmp_path, resume=True)
    assert [m["update"] for m in history] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert not torch.equal(model.W, first.W)
    saved = load(tmp_path)
    assert [former["until"] for former in saved["former"]] == [20]
    assert saved["former"][0]["updates"] == 20 and saved["settings"]["decay_from"] == 20
    assert load_run(tmp_path, rbm()).settings == replace(settings, start="persistent")


def test_a_decay_after_a_constant_rate_is_one_run(tmp_path):
    """The rates so far are the same, so it equals a run of that schedule, bit for bit."""
    settings = replace(SHORT, updates=30, decay_from=20)
    run(rbm(), Gibbs(2), STEADY, out=tmp_path / "cut")
    model, whole = rbm(), rbm()
    run(model, Gibbs(2), settings, out=tmp_path / "cut", resume=True)
    run(whole, Gibbs(2), settings, out=tmp_path / "whole")
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))


def test_fewer_updates_than_were_made_are_refused(tmp_path):
    run(rbm(), Gibbs(2), STEADY, out=tmp_path)
    with pytest.raises(ValueError, match="updates=20, not 10; use the same value: 20 updates are"):
        run(rbm(), Gibbs(2), replace(STEADY, updates=10), out=tmp_path, resume=True)


def test_a_decay_must_have_updates_left():
    with pytest.raises(ValueError, match="expected decay_from < updates=20, .*; got 20"):
        replace(SHORT, decay_from=20)
    with pytest.raises(ValueError, match="expected decay_from >= 0; got -1"):
        replace(SHORT, decay_from=-1)


@pytest.mark.parametrize("change", [{"evaluate_every": 3}, {"checkpoint_every": 2}])
def test_what_no_weight_depends_on_may_change(tmp_path, change):
    with pytest.raises(Stop):
        run(rbm(), Dies(Gibbs(2), 8), out=tmp_path)
    model, whole = rbm(), rbm()
    run(model, Gibbs(2), replace(SHORT, **change), out=tmp_path, resume=True)
    run(whole, Gibbs(2))
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))
    assert load_run(tmp_path, rbm()).settings == replace(SHORT, start="persistent", **change)


def test_fit_takes_up_former_settings_and_config(tmp_path):
    with pytest.raises(Stop):
        run(rbm(), Dies(Gibbs(2), 8), out=tmp_path, config={"notes": "mine"})
    model, whole = rbm(), rbm()
    run(model, Gibbs(2), None, out=tmp_path, resume=True)
    run(whole, Gibbs(2))
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))
    assert load_run(tmp_path, rbm()).config == {"notes": "mine"}


@pytest.mark.parametrize("former", [None, 1])
def test_a_run_saved_under_other_draws_goes_on_and_says_so(tmp_path, former):
    """The first checkpoints, of numbering 1, do not name it."""
    whole = rbm()
    run(whole, Gibbs(2), STEADY, out=tmp_path / "whole")
    cut = tmp_path / "cut"
    run(rbm(), Gibbs(2), replace(STEADY, updates=8), out=cut)
    state = load(cut)
    assert state.pop("numbering") == _engine.NUMBERING
    checkpoint.save(cut, state if former is None else state | {"numbering": former}, step=8)
    with pytest.warns(RuntimeWarning, match="under numbering 1 of the .* from update 8 on") as said:
        longer = rbm()
        run(longer, Gibbs(2), STEADY, out=cut, resume=True)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    # here the draws are the same; and by now it is a run of this numbering, which goes on silently
    assert_same(dict(longer.state_dict()), dict(whole.state_dict()))
    assert load(cut)["numbering"] == _engine.NUMBERING
    run(rbm(), Gibbs(2), replace(STEADY, updates=24), out=cut, resume=True)


def test_a_run_that_is_done_has_no_draws_left_to_differ(tmp_path):
    run(rbm(), Gibbs(2), out=tmp_path)
    checkpoint.save(tmp_path, load(tmp_path) | {"numbering": 1}, step=20)
    run(rbm(), Gibbs(2), out=tmp_path, resume=True)


# ---- the command line ----------------


def test_resume_alone_takes_the_former_flags(tmp_path, monkeypatch):
    from qsample.learning.run import Run

    given = ["--data", "bars-and-stripes-3x3", "--hidden", "3", "--decay", "none", *FORMER.split()]
    train(tmp_path / "whole", *given)

    def step(self, real=Run.step):
        if self.update == 5:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Run, "step", step)
        train(tmp_path / "cut", *given)
    train(tmp_path / "cut", "--resume")
    assert_same(load(tmp_path / "cut"), load(tmp_path / "whole"))
    train(tmp_path / "cut", "--resume", "--updates", "9")
    train(tmp_path / "longer", *given, "--updates", "9")
    assert_same(load(tmp_path / "cut"), load(tmp_path / "longer"))


def test_resume_names_what_differs(tmp_path, capsys):
    train(tmp_path, "--data", "bars-and-stripes-3x3", "--hidden", "3", *FORMER.split())
    for options, match in (
        (["--hidden", "4"], "hidden=3, not 4"),
        (["--lr", "0.5"], "lr=0.02, not 0.5"),
        (["--updates", "9"], r"updates=6, not 9; .*\(--decay-from 6\)"),
    ):
        with pytest.raises(SystemExit):
            train(tmp_path, "--resume", *options)
        assert re.search(match, capsys.readouterr().err)
    train(tmp_path, "--resume", "--updates", "9", "--decay-from", "6")
    assert load(tmp_path)["update"] == 9


def test_resume_of_a_run_of_fit_says_so(tmp_path, capsys):
    run(rbm(), Gibbs(1), out=tmp_path)
    with pytest.raises(SystemExit):
        train(tmp_path, "--resume")
    assert "holds no run of `qsample train`: its flags are not there" in capsys.readouterr().err
