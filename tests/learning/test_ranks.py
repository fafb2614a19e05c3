"""Training on ranks that are processes of their own: killed, resumed, and missing."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import qsample as qs
from qsample.annealers import Gibbs
from qsample.learning import checkpoint
from qsample.models import BernoulliRBM

pytestmark = pytest.mark.long

SIZES = (784, 500)

SCRIPT = """
import sys, torch
import qsample as qs
from qsample.annealers import Gibbs
from qsample.learning.distributed import RankLost, join
from tests.learning.test_ranks import rbm, rows, settings

torch.set_num_threads(1)
try:
    out, updates, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "resume"
    join(seconds=40, start=20 if sys.argv[3] == "missing" else 300)
    qs.fit(rbm(), rows(), Gibbs(2), settings(updates), out=out, resume=resume, progress=False,
           evaluate=lambda model, rows: {"score": 0.0})
except RankLost as error:
    sys.exit(f"lost: {error}")
"""


def rbm() -> BernoulliRBM:
    return BernoulliRBM(*SIZES, generator=torch.Generator().manual_seed(0))


def rows() -> torch.Tensor:
    return (torch.rand(256, SIZES[0], generator=torch.Generator().manual_seed(1)) < 0.2).float()


def settings(updates: int) -> qs.Settings:
    return qs.Settings(
        updates=updates,
        batch=64,
        chains=64,
        lr=0.01,
        decay="none",
        start="persistent",
        exact_sums=True,
        evaluate_every=10**6,
        checkpoint_every=20,
    )


def start(world: int, arguments: list[str], only: int | None = None) -> list[subprocess.Popen]:
    """The ranks of one run on this machine, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(world if only is None else only):
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        numbers = {"RANK": str(rank), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
        ranks.append(
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, *arguments],
                env=os.environ | where | numbers | {"PYTHONPATH": "."},
                stderr=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
        )
    return ranks


def ended(ranks: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Codes and last lines of errors, within some minutes, after which all are ended."""
    try:
        said = [rank.communicate(timeout=400)[1].strip() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [
        (rank.returncode, text.splitlines()[-1] if text else "")
        for rank, text in zip(ranks, said, strict=True)
    ]


def state(out: Path) -> dict[str, torch.Tensor]:
    """Weights and chains of the last checkpoint."""
    saved = checkpoint.load(out)
    return {**saved["model"], "chains": saved["chains"], "update": torch.tensor(saved["update"])}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process ends with, by the number of updates."""
    states = {}
    for updates in (60, 200):
        out = tmp_path_factory.mktemp("alone")
        qs.fit(
            rbm(),
            rows(),
            Gibbs(2),
            settings(updates),
            out=out,
            progress=False,
            evaluate=lambda model, rows: {"score": 0.0},
        )
        states[updates] = state(out)
    return states


def test_training_is_that_of_one_process(alone, tmp_path):
    codes = ended(start(2, [str(tmp_path), "200", "new"]))
    assert [code for code, _ in codes] == [0, 0], codes
    for name, values in state(tmp_path).items():
        assert torch.equal(values, alone[200][name]), name


def test_the_checkpoint_of_four_ranks_goes_on_with_one(alone, tmp_path):
    codes = ended(start(4, [str(tmp_path), "30", "new"]))
    assert [code for code, _ in codes] == [0] * 4, codes
    codes = ended(start(1, [str(tmp_path), "60", "resume"]))
    assert codes[0][0] == 0, codes
    for name, values in state(tmp_path).items():
        assert torch.equal(values, alone[60][name]), name


def test_the_others_end_when_one_is_killed_and_resume_as_if_nothing_was(alone, tmp_path):
    ranks = start(2, [str(tmp_path), "100000", "new"])
    began = time.monotonic()
    try:
        while not (tmp_path / checkpoint.LATEST).exists():
            assert time.monotonic() < began + 400
            assert ranks[0].poll() is None
            time.sleep(0.05)
        ranks[1].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        code, said = ended(ranks)[0]
    finally:
        for rank in ranks:
            rank.kill()
    assert time.monotonic() < killed + 60
    assert code == 1
    assert said.startswith("lost: rank 0 of 2 lost another one")
    assert int(state(tmp_path)["update"]) < 60
    # of the settings only the number of updates is another, which nothing before depends on
    codes = ended(start(2, [str(tmp_path), "60", "resume"]))
    assert [code for code, _ in codes] == [0, 0], codes
    for name, values in state(tmp_path).items():
        assert torch.equal(values, alone[60][name]), name


def test_a_rank_that_does_not_come_is_missed(tmp_path):
    code, said = ended(start(2, [str(tmp_path), "10", "missing"], only=1))[0]
    assert code == 1
    assert said.startswith("lost: rank 0 of 2 did not meet the others within 20 s")
    # by our count, or by that of the store that torch keeps
    assert said.endswith(("(1 came)", "1/2 clients joined.)"))
