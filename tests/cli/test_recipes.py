"""Recipes fill the flags that are not given; wrong ones are refused in one line."""

import json

import pytest

from experiments.common import published
from qsample import Settings
from qsample.cli import main
from qsample.cli.command import _parse
from qsample.cli.recipes import FOLDER, read_recipe, recipe_names
from qsample.cli.train import Train
from qsample.learning.checkpoint import load
from tests.support.commands import TINY

MINE = """
about = "nine bits"
[train]
data = "bars-and-stripes-3x3"
hidden = 3
sweeps = 1
set = ["scan=palindromic"]
test = 4
[settings]
updates = 6
batch = 10
chains = 16
lr = 0.01
"""


def parsed(*arguments) -> Train:
    command = _parse(["train", *map(str, arguments)])
    assert isinstance(command, Train)
    return command


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def test_every_recipe_is_read_and_listed(capsys):
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names()
    assert {"digits-rbm-16", "mnist-rbm-500"} <= set(recipe_names())
    for name, line in zip(recipe_names(), lines, strict=True):
        assert line.endswith(read_recipe(name).about) and read_recipe(name).about
        main(["recipes", name])
        shown = capsys.readouterr().out
        assert (FOLDER / f"{name}.toml").read_text().rstrip() in shown


def test_the_recipe_of_the_digits_is_the_one_that_validation_chose():
    recipe = parsed("--out", "x", "--recipe", "digits-rbm-16")
    plain = parsed("--out", "x")
    for name in ("data", "model", "hidden", "sampler", "sweeps", "set"):
        assert getattr(recipe, name) == getattr(plain, name)
    script = published("digits_likelihood")
    chosen = script["result"]["recipe"]
    assert chosen["trainer"] == recipe.settings.start
    updates = script["options"]["updates"]
    assert recipe.settings == Settings(
        updates=updates, start=recipe.settings.start, **chosen["setting"]
    )


def test_flags_that_are_given_override(mine):
    command = parsed(
        "--out", "x", "--recipe", mine, "--hidden", "5", "--lr", "0.3", "--set", "sweeps=2"
    )
    assert (command.hidden, command.settings.lr, command.set) == (5, 0.3, ("sweeps=2",))
    assert (command.data, command.settings.updates) == ("bars-and-stripes-3x3", 6)


def test_a_run_by_a_recipe_is_resumed(mine, tmp_path, capsys):
    out = tmp_path / "run"
    main(["train", "--recipe", str(mine), "--out", str(out), "--decay", "none"])
    state = load(out)
    assert state["config"]["set"] == ["scan=palindromic"] and state["config"]["test"] == 4
    # what is not given is the run's, not the recipe's
    main(["train", "--out", str(out), "--recipe", str(mine), "--resume", "--updates", "8"])
    assert load(out)["update"] == 8 and load(out)["settings"]["decay"] == "none"
    main(["train", "--out", str(tmp_path / "new"), "--recipe", str(mine), "--resume"])
    assert load(tmp_path / "new")["update"] == 6
    assert "10 rows of 9, 4 held out; bits as they are" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hidden = 3", "hiden = 3"), "unknown train.hiden: did you mean hidden?; expected data,"),
        (("hidden = 3", 'hidden = "3"'), "expected hidden as a whole number; got '3'"),
        (("hidden = 3", "hidden = true"), "expected hidden as a whole number; got True"),
        (('"scan=palindromic"', "2"), "expected set as a list of strings; got [2]"),
        (("lr = 0.01", "lr = -1.0"), "expected a learning rate > 0 and < 1e30; got -1.0"),
        (("lr = 0.01", 'lr = "x"'), "mine.toml: "),
        (("lr = 0.01", "rate = 1"), "unknown setting 'rate'"),
        (("[settings]", "[setting]"), "unknown setting: did you mean settings?"),
        (("[settings]", "settings"), "mine.toml is no recipe: "),
    ],
)
def test_bad_recipes(mine, tmp_path, capsys, change, message):
    mine.write_text(MINE.replace(*change))
    with pytest.raises(SystemExit) as stop:
        main(["train", "--out", str(tmp_path / "run"), "--recipe", str(mine)])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.count("\n") == 1
    assert str(mine) in line and message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mnist",
            "unknown recipe 'mnist': did you mean mnist-rbm-500?; expected one of digits-rbm-16,",
        ),
        ("gone.toml", "cannot read gone.toml: No such file or directory"),
        ("../recipes/digits-rbm-16", "unknown recipe"),
    ],
)
@pytest.mark.parametrize("command", ["train", "recipes"])
def test_recipes_that_are_not_there(tmp_path, capsys, name, message, command):
    arguments = ["recipes", name]
    if command == "train":
        arguments = ["train", "--out", str(tmp_path / "run"), "--recipe", name]
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


# ---- bits of grey levels ----------------


def test_grey_data_by_the_command(tmp_path, capsys):
    import numpy as np

    rng = np.random.default_rng(0)
    np.save(tmp_path / "grey.npy", rng.random((40, 3, 3)))
    given = ["train", "--out", str(tmp_path / "run"), "--data", str(tmp_path / "grey.npy"), *TINY]
    with pytest.raises(SystemExit):
        main(given)
    assert (
        "for grey levels give --binarise threshold, 'fixed' or 'sample'" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
    main([*given, "--binarise", "fixed", "--test", "10"])
    assert (
        "30 rows of 9, 10 held out; one draw by the grey levels of 0 to 1"
        in capsys.readouterr().out
    )
    assert load(tmp_path / "run")["config"]["binarise"] == "fixed"
    main(["train", "--out", str(tmp_path / "run"), "--resume"])  # the same bits again
    capsys.readouterr()
    main(["evaluate", str(tmp_path / "run"), "--reads", "50", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["train_rows"], report["test_rows"], report["units"]) == (30, 10, 9)
    assert report["binarisation"] == "one draw by the grey levels of 0 to 1 (seed 0)"


def test_fresh_draws_reach_fit_as_a_stream(tmp_path, monkeypatch):
    """Until a run of them is made here, what `fit` is given is looked at."""
    import numpy as np

    from qsample.cli import train as module
    from qsample.data import Batches

    given = {}

    def fit(model, learnt, sampler, settings, **options):
        given.update(options, learnt=learnt)

    monkeypatch.setattr(module, "fit", fit)
    np.save(tmp_path / "grey.npy", np.random.default_rng(0).random((40, 9)))
    main(
        ["train", "--out", str(tmp_path / "run"), "--data", str(tmp_path / "grey.npy"), *TINY]
        + ["--binarise", "sample", "--test", "10", "--seed", "3"]
    )
    stream = given["learnt"]
    assert isinstance(stream, Batches) and (stream.batch, stream.seed) == (10, 3)
    assert stream.of_update(0).shape == (10, 9) and given["validation"].shape == (30, 9)
    assert len(given["config"]["rows"]) == 16
