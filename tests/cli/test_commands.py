"""The command line: the four commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from qsample import data
from qsample.annealers.registry import CATALOGUE, adjusted, named
from qsample.cli import main
from qsample.cli.errors import advice
from qsample.cli.shared import restore
from qsample.learning.checkpoint import load
from qsample.learning.saved import model_of_flags
from tests.support.commands import ROOT, TINY, train
from tests.support.thinning import thinned
from tests.support.training import assert_same


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "rbm"
    train(out, "--test", "4")
    return out


# ---- the four commands ----------------


def test_train_says_what_comes_next(tmp_path, capsys):
    train(tmp_path / "run")
    assert (
        capsys.readouterr().out
        == "data: bars-and-stripes-3x3, 14 rows of 9, 0 held out; bits as they are\n"
        f"checkpoint: {tmp_path}/run\nnext: qsample evaluate {tmp_path}/run\n"
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [2, 4, 6]


@pytest.mark.parametrize("model", ["rbm", "boltzmann", "grid"])
@pytest.mark.parametrize("sampler", thinned(["gibbs", "exact", "corrected-annealing"], 2))
def test_every_model_trains_evaluates_and_samples(tmp_path, capsys, model, sampler):
    run = tmp_path / "run"
    start = "fresh" if sampler == "exact" else "persistent"
    train(run, "--model", model, "--sampler", sampler, "--start", start)
    main(["evaluate", str(run), "--reads", "50", "--sweeps", "2"])
    assert "train log likelihood" in capsys.readouterr().out
    main(["sample", str(run), "--num", "7", "--sweeps", "2", "--out", str(tmp_path / "x.npy")])
    x = np.load(tmp_path / "x.npy")
    assert x.shape == (7, 9) and x.dtype == np.int8
    assert set(np.unique(x)) <= ({0, 1} if model == "rbm" else {-1, 1})
    rebuilt, config = restore(run)
    assert_same(dict(rebuilt.state_dict()), load(run)["model"])
    kind = {"rbm": "bipartite", "boltzmann": "complete", "grid": "sparse"}[model]
    assert rebuilt.graph.kind == model_of_flags(config).graph.kind == kind


def settings_of(run):
    return load(run)["settings"]


@pytest.mark.parametrize("sampler", [name for name, entry in CATALOGUE.items() if not entry.device])
def test_every_sampler_trains_without_a_start_being_named(tmp_path, sampler):
    train(tmp_path / "run", "--sampler", sampler, "--updates", "2")
    chains = named(sampler).warm_start
    assert settings_of(tmp_path / "run")["start"] == ("persistent" if chains else "fresh")


def test_settings_of_a_sampler_are_part_of_the_run(tmp_path):
    options = ["--sampler", "parallel-tempering", "--set", "betas=3", "swap_every=2"]
    train(tmp_path / "run", *options)
    state = load(tmp_path / "run")
    assert state["config"]["set"] == ["betas=3", "swap_every=2"]
    assert "betas=3, swap_every=2" in state["identity"]["sampler"]
    main(["train", "--out", str(tmp_path / "run"), "--resume"])  # nothing to do, and the same run
    with pytest.raises(SystemExit):
        train(tmp_path / "run", *options[:-1], "--resume")
    other = "--sampler gibbs --set scan=palindromic --reads 50".split()
    main(["evaluate", str(tmp_path / "run"), *other])


def test_evaluate_finds_log_z_once_and_says_how_well(trained, capsys, monkeypatch):
    from qsample.evaluation import likelihood

    calls = []
    real = likelihood._log_partition
    monkeypatch.setattr(
        likelihood, "_log_partition", lambda *a, **k: calls.append(k) or real(*a, **k)
    )
    capsys.readouterr()
    options = "--json --method ais --steps 7 --chains 20 --reads 50".split()
    main(["evaluate", str(trained), *options])
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert len(calls) == 1 and calls[0]["steps"] == 7 and calls[0]["chains"] == 20
    assert 0 < result["effective_runs"] <= 20 and "note" in result
    assert result["ok"] in (True, False, None)
    assert "annealed importance sampling" in said.err  # a bar: nobody waits in silence
    both = result["train_log_likelihood_stderr"], result["test_log_likelihood_stderr"]
    assert both == (result["log_partition_stderr"],) * 2


def test_samples_in_every_format(trained, tmp_path, capsys):
    arguments = ["sample", str(trained), "--num", "5", "--sweeps", "2", "--seed", "3", "--out"]
    for suffix in ("npy", "npz", "csv", "png"):
        main([*arguments, str(tmp_path / f"x.{suffix}")])
    x = np.load(tmp_path / "x.npy")
    assert (np.load(tmp_path / "x.npz")["x"] == x).all()
    assert (data.load(tmp_path / "x.csv").x.numpy() == x).all()
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    before = (tmp_path / "x.npy").read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*arguments, str(tmp_path / "x.npy"), "--seed", "4"])
    line = capsys.readouterr().err
    assert "x.npy is there already: give --overwrite, or another --out" in line
    assert (tmp_path / "x.npy").read_bytes() == before
    main([*arguments, str(tmp_path / "x.npy"), "--seed", "4", "--overwrite"])
    assert (tmp_path / "x.npy").read_bytes() != before


def test_a_tilde_is_the_home_folder(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "mine.npy", np.eye(4, dtype=int).repeat(3, 0))
    main(["train", "--out", "~/run", "--data", "~/mine.npy", "--hidden", "2", *TINY])
    main(["sample", "~/run", "--num", "2", "--sweeps", "1", "--out", "~/x.npy"])
    main(["evaluate", "~/run", "--reads", "20"])
    assert {"run", "mine.npy", "x.npy"} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize("name", CATALOGUE)
def test_settings_are_listed_as_set_takes_them(name, capsys):
    main(["samplers", name])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{name}: {CATALOGUE[name].about}"
    pairs = dict(line.strip().split("=", 1) for line in lines)
    assert "token" not in pairs
    assert bool(pairs) == (name != "exact")
    assert repr(adjusted(named(name), pairs)) == repr(named(name))


def test_advice_speaks_in_flags():
    text = "use Gibbs(sweeps=...) or Corrected(SimulatedAnnealing(), Gibbs()); start='fresh'"
    assert advice(text) == "use --sampler gibbs or --sampler corrected-annealing; --start fresh"


@pytest.mark.parametrize("method", ["auto", "exact", "ais"])
def test_evaluate_as_json(trained, capsys, method):
    capsys.readouterr()
    quick = ["--steps", "100", "--chains", "64"]
    main(["evaluate", str(trained), "--json", "--reads", "500", "--method", method, *quick])
    result = json.loads(capsys.readouterr().out)
    assert (
        result["test_rows"] == 4
        and result["data"] == "bars-and-stripes-3x3"
        and result["run"] == str(trained)
    )
    for name in ("train", "test"):
        assert (result[f"{name}_log_likelihood_stderr"] > 0) == (method == "ais")
        assert (
            -9 < result[f"{name}_log_likelihood"] < 0
            and -9 < result[f"{name}_pseudo_log_likelihood"] < 0
        )
    assert abs(result["beta"] - 1) < 5 * result["beta_stderr"]
    assert result["exactness"] == "asymptotic" and "effective beta" in result["verdict"]


def test_evaluate_for_people(trained, capsys):
    capsys.readouterr()
    main(["evaluate", str(trained), "--reads", "100"])
    out = capsys.readouterr().out
    assert re.search(r"^test log likelihood +-\d+\.\d{4} \(exact\)$", out, re.M)
    assert re.search(r"^beta +\d\.\d{4} ± \d\.\d{4}$", out, re.M)
    assert "stderr" not in out


def test_sampling_goes_by_its_seed(trained, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = str(tmp_path / f"{name}.npy")
        main(["sample", str(trained), "--num", "20", "--seed", str(seed), "--out", out])
    a, b, c = (np.load(tmp_path / f"{name}.npy") for name in "abc")
    assert (a == b).all() and (a != c).any()


def test_samplers_lists_all(capsys):
    main(["samplers"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CATALOGUE)
    for line, entry in zip(lines, CATALOGUE.values(), strict=True):
        assert line.split()[1:3] == [entry.exactness.value, "installed"] and line.endswith(
            entry.about
        )


def test_as_a_module():
    command = [sys.executable, "-m", "qsample.cli", "samplers"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "gibbs" in done.stdout and done.stderr == ""


@pytest.mark.parametrize(
    "command", [[], ["train"], ["study"], ["evaluate"], ["sample"], ["samplers"], ["recipes"]]
)
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code in (0, None)
    said = capsys.readouterr()
    assert "qsample" in said.out and said.err == ""


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for words in ("folder of the run", "number of hidden units", "number of gradient steps"):
        assert words in said


def test_resume_is_the_run_itself(trained, tmp_path, monkeypatch, capsys):
    from qsample.learning.run import Run

    def step(self, real=Run.step):
        if self.update == 5:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(Run, "step", step)
        train(tmp_path / "run", "--test", "4")
    assert stop.value.code == 130
    assert load(tmp_path / "run")["update"] == 4
    assert capsys.readouterr().err.endswith(
        "\nqsample: interrupted; resume with the same command and --resume\n"
    )
    train(tmp_path / "run", "--test", "4", "--resume")
    assert_same(load(tmp_path / "run"), load(trained))


def test_ctrl_c_from_the_keyboard(tmp_path):
    command = [sys.executable, "-m", "qsample.cli", "train", "--out", str(tmp_path)]
    options = "--updates 1000000 --checkpoint-every 10 --sweeps 1 --chains 8"
    command += ["--data", "bars-and-stripes", *options.split()]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "TERM": "dumb"}
    )
    while not (tmp_path / "checkpoint.json").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    update = load(tmp_path)["update"]
    last = said.replace("\r", "\n").splitlines()[-1]
    assert (
        last == f"qsample: stopped after update {update}; resume with the same command and --resume"
    )
    assert "Traceback" not in said


def test_ctrl_c_while_torch_is_loaded(tmp_path):
    """One line, as later; pressed from within the import, so that it is there at any speed."""
    (tmp_path / "torch.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    python = [sys.executable, "-m", "qsample.cli", "samplers"]
    script = [sys.executable, "-c", "from qsample.cli import main; main()", "samplers"]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    for command in (python, script):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert (done.returncode, done.stderr) == (130, "\nqsample: interrupted\n")


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe of POSIX")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["recipes", "--help", "--version"])
def test_a_pipe_that_nobody_reads_is_no_error(command, unbuffered):
    """As of `qsample recipes | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "qsample.cli", command],
            cwd=ROOT,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


# ---- the picture ----------------


def test_a_picture_of_a_run(trained, tmp_path, capsys):
    """Also where its data are the training rows, for there are too few others."""
    pytest.importorskip("matplotlib")
    file = tmp_path / "report.png"
    main(["evaluate", str(trained), "--reads", "50", "--picture", str(file)])
    said = capsys.readouterr().out
    assert f"picture: {file}" in said
    assert re.search(
        r"^samples beside train rows +not judged: 10 samples against 10 rows", said, re.M
    )
    assert re.search(r"^binarisation +bits as they are$", said, re.M)
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        main(["evaluate", str(trained), "--picture", str(file)])
    assert "is there already: give --overwrite, or another --picture" in capsys.readouterr().err
    assert file.read_bytes() == content


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_pictures_of_rows_that_are_no_images_and_of_coupled_hidden_units(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    x = np.random.default_rng(0).integers(0, 2, (60, 5))
    np.save(tmp_path / "x.npy", x)
    given = ["--data", str(tmp_path / "x.npy"), "--model", "boltzmann", "--hidden", "2"]
    train(tmp_path / "run", *given, "--test", "25")
    file = tmp_path / f"report.{suffix}"
    main(["evaluate", str(tmp_path / "run"), "--reads", "50", "--picture", str(file)])
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert file.read_bytes().startswith(begins[suffix])


def test_evaluate_compares_samples_with_rows(tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 2, (60, 5))
    np.save(tmp_path / "x.npy", x)
    train(tmp_path / "run", "--data", str(tmp_path / "x.npy"), "--test", "25")
    arguments = ["evaluate", str(tmp_path / "run"), "--reads", "50", "--json"]
    capsys.readouterr()
    main(arguments)
    report = json.loads(capsys.readouterr().out)
    main(arguments)
    assert json.loads(capsys.readouterr().out) == report, "it goes by its seed"
    fidelity = report["fidelity"]
    assert (fidelity["against"], fidelity["rows"]) == ("test", 25)
    assert fidelity["ok"] == (fidelity["p_value"] > 0.01)
    assert set(fidelity["measures"]["energy distance"]) == {
        *("value", "expected", "low", "high", "p_value")
    }
