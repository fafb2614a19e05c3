"""The command line: one line and exit code 2 for every mistake."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from qsample.cli import main
from qsample.learning import checkpoint
from qsample.learning.checkpoint import load
from qsample.learning.saved import model_of_flags
from tests.support.commands import DATA, ROOT, TINY, train
from tests.support.thinning import thinned


def refused(capsys, *arguments) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == ""
    # the bar may have begun
    lines = [line for line in said.err.splitlines() if "update/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("qsample: error: "), said.err
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "rbm"
    train(out, "--test", "4")
    return out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nosuch"], "unknown data set 'nosuch'"),
        (["--data", "digit"], "unknown data set 'digit': did you mean 'digits'?"),
        (["--data", "gone.npy"], "cannot read gone.npy: No such file or directory"),
        (["--data", "bars-and-stripes-99x2"], "99x2"),
        (["--sampler", "gibs"], "unknown sampler 'gibs'; did you mean gibbs"),
        (["--sampler", "pt"], "unknown sampler 'pt'; did you mean parallel-tempering? ("),
        (
            ["--sampler", "exact", "--start", "persistent"],
            "--start persistent continues chains, which exact cannot: use --start fresh (the "
            "default for exact)",
        ),
        (["--set", "sweeps"], "expected --set NAME=VALUE; got 'sweeps'"),
        (["--set", "sweeps=-1"], "sweeps=-1: expected sweeps >= 1; got -1"),
        (["--set", "kernel.sweeps=3"], "'kernel' is no setting of Gibbs; expected sweeps, scan"),
        (["--device", "abacus"], "cannot compute on --device abacus: "),
        (["--device", "cuda"], "cannot compute on --device cuda: "),
        (["--device", "meta"], "cannot compute on --device meta: "),
        (["--sweeps", "0"], "expected sweeps >= 1; got 0"),
        (
            ["--test", "14"],
            "expected test between 0 and 13, bars-and-stripes-3x3 having 14 rows; got 14",
        ),
        (
            ["--test", "-1"],
            "expected test between 0 and 13, bars-and-stripes-3x3 having 14 rows; got -1",
        ),
        (["--hidden", "0"], "expected hidden >= 1 for model rbm; got 0"),
        (
            ["--model", "boltzmann", "--hidden", "-2"],
            "expected hidden >= 0 for model boltzmann; got -2",
        ),
        (["--model", "cube"], "unknown model 'cube'; expected one of rbm, boltzmann, grid"),
        (["--optimizer", "lion"], "'lion'"),
        (["--updates", "0"], "expected updates >= 1; got 0"),
        (["--updates", "many"], "--updates: invalid literal for int() with base 10: 'many'"),
        (["--lr", "nan"], "expected a learning rate > 0 and < 1e30; got nan"),
        (["--seed", str(1 << 65)], f"expected a seed of 64 bits; got {1 << 65}"),
        (["--threads", "0"], "expected threads >= 1; got 0"),
        (["--out", "/dev/null"], "cannot write to /dev/null: File exists"),
        (["--out", "/dev/null/run"], "cannot write to /dev/null/run: Not a directory"),
        (["--bogus", "3"], "Unrecognized options: --bogus, 3"),
    ],
)
def test_train_refuses_in_one_line(tmp_path, capsys, options, message):
    given = ["train", "--out", tmp_path / "run", "--data", "bars-and-stripes-3x3", *TINY]
    assert message in refused(capsys, *given, *options)
    assert not (tmp_path / "run" / "checkpoint.json").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0,1,0\n1,nan,0\n", "got nan at [1, 1]"),
        ("0,1,0\n1,2,0\n", "got 2.0 at [1, 1]"),
        ("0,1,0\n1,-1,0\n", "[0, 0]; expected all values 0 or 1, or all -1 or +1"),
        ("0,1,0\n1,0\n", "cannot read"),
        ("", "shape [0, 0]"),
        ("a,b\n", "shape [0, 2]"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_bad_files_of_the_user(tmp_path, capsys, rows, message, command):
    file = tmp_path / "mine.csv"
    file.write_text("0,1,0\n1,1,0\n0,0,1\n")
    given = ["train", "--out", str(tmp_path / "run"), "--data", str(file), "--hidden", "2", *TINY]
    if command == "evaluate":
        main(given)
        given = ["evaluate", str(tmp_path / "run")]
    file.write_text(rows)
    line = refused(capsys, *given)
    assert str(file) in line and message in line
    assert (tmp_path / "run" / "checkpoint.json").exists() == (command == "evaluate")


def test_a_grid_needs_rows_and_columns(tmp_path, capsys):
    file = tmp_path / "mine.csv"
    file.write_text("0,1,0\n1,1,0\n0,0,1\n")
    assert "mine.csv has no rows and columns" in refused(
        capsys, "train", "--out", tmp_path / "run", "--data", file, "--model", "grid", *TINY
    )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--hidden", "4"], "hidden=3, not 4"),
        (["--sampler", "corrected-neal"], "sampler='gibbs', not 'corrected-neal'"),
        (
            ["--data", "bars-and-stripes-2x3"],
            "data='bars-and-stripes-3x3', not 'bars-and-stripes-2x3'",
        ),
        (["--lr", "0.5"], "lr=0.02, not 0.5"),
        (["--updates", "7"], "updates=6, not 7"),
        (["--model", "boltzmann"], "model='rbm', not 'boltzmann'"),
    ],
)
def test_resume_refuses_another_run(trained, capsys, options, name):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    given = ["train", "--out", trained, *DATA, "--test", "4", *TINY]
    assert f"cannot resume {trained}: it was made with {name}" in refused(
        capsys, *given, *options, "--resume"
    )
    line = refused(capsys, *given, *options)
    assert f"{trained} already holds a run: give --resume to resume it, or choose another" in line
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_runs_that_cannot_be_read(tmp_path, capsys, command, trained):
    def line():
        return refused(capsys, command, tmp_path)

    assert f"no checkpoint at {tmp_path}" in line()
    for name in ("checkpoint.json", "checkpoint-00000006.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    whole = (tmp_path / "checkpoint-00000006.safetensors").read_bytes()
    (tmp_path / "checkpoint-00000006.safetensors").write_bytes(whole[:-5])
    assert "is truncated or damaged: expected" in line()
    (tmp_path / "checkpoint-00000006.safetensors").write_bytes(whole[:-5] + b"12345")
    assert "is corrupt: its SHA-256" in line()
    (tmp_path / "checkpoint-00000006.safetensors").write_bytes(whole)
    (tmp_path / "checkpoint.json").write_text("{")
    assert "is corrupt: not JSON" in line()


@pytest.mark.parametrize("extra", [True, False])
def test_checkpoints_of_another_model(tmp_path, capsys, trained, extra):
    state = load(trained)
    other = model_of_flags({**state["config"], "hidden": 5}).state_dict()
    if not extra:
        del other["_extra_state"]
    checkpoint.save(tmp_path / "a", {**state, "model": dict(other)}, step=6)
    assert f"{tmp_path}/a holds weights of another model" in refused(
        capsys, "evaluate", tmp_path / "a"
    )
    checkpoint.save(tmp_path / "b", {"weights": torch.zeros(3)}, step=1)
    assert f"{tmp_path}/b holds no run of `qsample train`" in refused(
        capsys, "evaluate", tmp_path / "b"
    )
    checkpoint.save(tmp_path / "c", {"model": {}, "config": {"model": "mine"}}, step=1)
    assert f"{tmp_path}/c holds" in refused(capsys, "sample", tmp_path / "c")


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("evaluate", ["--sampler", "quantum"], "unknown sampler 'quantum'"),
        ("evaluate", ["--reads", "0"], "expected num >= 1 reads; got 0"),
        ("evaluate", ["--method", "guess"], "'guess'"),
        (
            "evaluate",
            ["--picture", "x.txt"],
            "cannot draw x.txt: expected a .png, .pdf or .svg file",
        ),
        ("evaluate", ["--picture", "gone/x.png"], "cannot write gone/x.png: there is no folder"),
        ("sample", ["--num", "-4"], "expected num >= 1 reads; got -4"),
        ("sample", ["--sweeps", "0"], "expected sweeps >= 1; got 0"),
        ("sample", ["--out", "/dev/null/x.npy"], "/dev/null/x.npy"),
        (
            "sample",
            ["--out", "x.txt"],
            "cannot write x.txt: expected a .npy, .npz, .csv or .png file",
        ),
        (
            "sample",
            ["--sampler", "exact", "--set", "limit=3"],
            "'limit' is no setting of Exact; it takes none",
        ),
        ("evaluate", ["--method", "ais", "--steps", "0"], "expected steps >= 1"),
        ("evaluate", ["--device", "abacus"], "cannot compute on --device abacus"),
        ("sample", ["--seed", str(1 << 65)], str(1 << 65)),
        ("evaluate", ["--seed", str(1 << 65)], str(1 << 65)),
        ("sample", ["--nmu", "3"], "--nmu"),
    ],
)
def test_evaluate_and_sample_refuse_in_one_line(
    trained, tmp_path, monkeypatch, capsys, command, options, message
):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, command, trained, *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", thinned(["ascii", "utf-8"], 2))
def test_the_line_is_the_same_in_any_locale(encoding):
    command = [sys.executable, "-m", "qsample.cli", "samplers", "--bogus", "3"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 2
    assert (
        done.stderr
        == "qsample: error: Unrecognized options: --bogus, 3 (qsample --help says more)\n"
    )


def test_no_command_and_an_unknown_one(capsys):
    assert "unknown sampler 'quantum'" in refused(capsys, "samplers", "quantum")
    assert "train, study, evaluate, sample, samplers, recipes" in refused(capsys)
    assert "frobnicate" in refused(capsys, "frobnicate")


def test_evaluate_refuses_rows_that_the_run_did_not_see(tmp_path, capsys):
    rows = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 1, 1]]).repeat(5, 1)
    np.save(tmp_path / "mine.npy", rows.numpy())
    train(tmp_path / "run", "--data", str(tmp_path / "mine.npy"))
    (tmp_path / "mine.npy").rename(tmp_path / "moved.npy")
    assert "cannot read" in refused(capsys, "evaluate", tmp_path / "run")
    main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "moved.npy")])
    assert "(exact)" in capsys.readouterr().out
    np.save(tmp_path / "mine.npy", 1 - rows.numpy())
    said = refused(capsys, "evaluate", tmp_path / "run")
    assert f"mine.npy does not hold the rows that {tmp_path / 'run'} was trained on" in said


def test_a_mistyped_folder_is_not_resumed(tmp_path, capsys):
    """It would begin another run, on the default data."""
    with pytest.raises(SystemExit) as error:
        main(["train", "--out", str(tmp_path / "gone"), "--resume"])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert f"no checkpoint at {tmp_path / 'gone'} to resume: name the run's folder by --out" in said
    assert not (tmp_path / "gone").exists()
