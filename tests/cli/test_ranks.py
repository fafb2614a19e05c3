"""`qsample train` on several processes: started by itself, or by torchrun."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from qsample.cli import main
from qsample.cli.ranks import _verdict
from qsample.learning import checkpoint

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--chains",
    "32",
    "--batch",
    "32",
    "--sweeps",
    "1",
    "--hidden",
    "8",
    "--evaluate",
    "pseudo",
]
LONG = pytest.mark.long


def line(out, updates, *more):
    every = ["--updates", str(updates), "--decay", "none", "--checkpoint-every", "5"]
    return ["train", "--out", str(out), *every, *FLAGS, *more]


def start(arguments, *launcher):
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *(launcher or ("-m", "qsample.cli")), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """Its code, output, and the last line of its errors; within some minutes."""
    try:
        out, errors = process.communicate(timeout=400)
    finally:
        process.kill()
    lines = [text for text in errors.splitlines() if text.strip()]
    return process.returncode, out, lines[-1] if lines else ""


def state(out):
    saved = checkpoint.load(out)
    return {**saved["model"], "chains": saved["chains"], "update": torch.tensor(saved["update"])}


def assert_same(a, b):
    for name, values in state(a).items():
        assert torch.equal(values, state(b)[name]), name


def wait_for(path):
    limit = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    main(line(out, 20, "--exact-sums"))
    return out


@LONG
def test_two_ranks_write_the_run_of_one_process(alone, tmp_path):
    code, out, said = ended(start(line(tmp_path / "run", 10, "--ranks", "2")))
    assert code == 0, said
    assert out.count("next: qsample evaluate") == 1
    # and it goes on without them
    main(["train", "--out", str(tmp_path / "run"), "--resume", "--updates", "20"])
    assert_same(tmp_path / "run", alone)


@LONG
def test_torchrun_starts_them_too(alone, tmp_path):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    launcher += ["--nproc-per-node", "2", "-m", "qsample.cli"]
    code, out, said = ended(start(line(tmp_path / "run", 20), *launcher))
    assert code == 0, said
    assert out.count("next: qsample evaluate") == 1
    assert_same(tmp_path / "run", alone)


@LONG
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_all_with_a_checkpoint(name, alone, tmp_path):
    out = tmp_path / "run"
    process = start(line(out, 10**6, "--ranks", "2"))
    wait_for(out / checkpoint.LATEST)
    if name == "SIGINT":
        for child in children(process.pid):  # a terminal reaches the whole group
            os.kill(child, signal.SIGINT)
    process.send_signal(getattr(signal, name))
    code, _, said = ended(process)
    assert code == {"SIGINT": 130, "SIGTERM": 143}[name]
    assert said.startswith("qsample: stopped")
    reached = int(state(out)["update"])
    code, _, said = ended(start(line(out, reached + 3, "--ranks", "2", "--resume")))
    assert code == 0, said
    assert int(state(out)["update"]) == reached + 3


@LONG
def test_a_rank_that_is_killed_is_one_line(tmp_path):
    out = tmp_path / "run"
    process = start(line(out, 10**6, "--ranks", "2"))
    wait_for(out / checkpoint.LATEST)
    began = time.monotonic()
    os.kill(children(process.pid)[1], signal.SIGKILL)
    code, _, said = ended(process)
    assert time.monotonic() < began + 60
    assert code == 2
    assert said.startswith("qsample: error: rank 0 of 2 lost another one")
    checkpoint.load(out)


@LONG
def test_an_error_of_all_ranks_is_said_once(tmp_path):
    code, _, said = ended(start(line(tmp_path, 5, "--ranks", "2", "--chains", "31")))
    assert code == 2
    assert said == "qsample: error: 31 chains do not divide over 2 ranks: use a multiple of 2"


def children(parent):
    """Processes that it started, in the order of their numbers."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return sorted(map(int, text.split()))


# ---- in this process ----------------


@pytest.mark.parametrize(
    ("codes", "said", "code"),
    [
        ([0, 0], "", 0),
        ([2, 2], "", 2),
        ([0, 2], "rank 1 of 2 failed: no such data", 2),
        ([-9, -15], "rank 0 of 2 failed: no such data", 137),
    ],
)
def test_the_verdict_is_that_of_the_first_unless_it_has_none(codes, said, code, capsys):
    errors = io.StringIO("a warning\nqsample: error: no such data\n")
    assert _verdict(codes, errors) == code
    assert said in capsys.readouterr().err


def test_a_rank_that_was_killed_is_named(capsys):
    assert _verdict([0, -9], io.StringIO()) == 137
    assert capsys.readouterr().err == "qsample: error: rank 1 of 2 failed: ended by SIGKILL\n"


@pytest.mark.parametrize(
    ("flags", "size", "said"),
    [
        (["--ranks", "0"], None, "expected ranks >= 1; got 0"),
        (["--ranks", "4"], 2, "--ranks 4 in a process that is one of 2 already"),
        (["--device", "meta"], 2, "ranks are for --device cpu; got --device meta"),
        (
            ["--sampler", "simulated-annealing"],
            2,
            "which --sampler gibbs does; got SimulatedAnnealing",
        ),
    ],
)
def test_what_ranks_cannot_do_is_one_line(flags, size, said, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", str(size))
        monkeypatch.setattr("qsample.cli.train.join", lambda: (0, size))
    with pytest.raises(SystemExit) as stop:
        main(line(tmp_path, 5, *flags))
    assert stop.value.code == 2
    (text,) = capsys.readouterr().err.splitlines()
    assert said in text


def test_memory_that_will_not_do_is_said_with_its_numbers(tmp_path, capsys, monkeypatch):
    def fit(*_, **__):
        raise MemoryError("a step needs 9.00 GiB more and 1.00 GiB are free on cpu: use fewer rows")

    monkeypatch.setattr("qsample.cli.train.fit", fit)
    with pytest.raises(SystemExit):
        main(line(tmp_path, 5))
    assert capsys.readouterr().err.startswith("qsample: error: a step needs 9.00 GiB more and")
