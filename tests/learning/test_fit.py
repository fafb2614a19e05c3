"""Training can be stopped anywhere and goes on bit for bit."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from qsample.annealers import Gibbs
from qsample.learning.checkpoint import NoCheckpoint, last_step, load
from tests.support.thinning import thinned
from tests.support.training import RUNS, SHORT, Dies, Stop, assert_same, rbm, run


def without_seconds(history):
    return [{k: v for k, v in metrics.items() if k != "seconds"} for metrics in history]


# ---- resume equals an uninterrupted run ----------------


@pytest.mark.parametrize("name", thinned(RUNS, 4))
def test_resume_equals_an_uninterrupted_run_bit_for_bit(tmp_path, name):
    make, inner, options = RUNS[name]
    settings = replace(SHORT, **options)

    def sampler():
        """One that lives: `Gibbs` itself draws otherwise than what wraps it."""
        return Dies(inner(), 10**9)

    whole = make()
    expected = run(whole, sampler(), settings, out=tmp_path / "whole")
    alone = make()
    assert_same(run(alone, sampler(), settings), expected)  # nor does writing change anything
    assert_same(dict(alone.state_dict()), dict(whole.state_dict()))
    calls = 1 if make is rbm else 2  # a sampled positive phase calls the sampler too
    with pytest.raises(Stop):  # in update 8, in the middle of the fourth epoch of 30 rows
        run(make(), Dies(sampler(), 8 * calls), settings, out=tmp_path / "cut")
    assert load(tmp_path / "cut")["update"] == 5
    # 12 whole updates more, to 17: past the checkpoint of 15 and the evaluation of 16
    with pytest.raises(Stop):
        run(make(), Dies(sampler(), 13 * calls), settings, out=tmp_path / "cut", resume=True)
    assert load(tmp_path / "cut")["update"] == 15
    model = make()
    assert_same(run(model, sampler(), settings, out=tmp_path / "cut", resume=True), expected)
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))
    assert_same(load(tmp_path / "cut"), load(tmp_path / "whole"))
    lines = [
        json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [m["update"] for m in lines] == [4, 8, 12, 16, 20]
    assert_same(lines, expected)


def test_a_finished_run_resumes_to_itself(tmp_path):
    model, again = rbm(), rbm()
    history = run(model, Gibbs(1), out=tmp_path)
    assert_same(run(again, Dies(Gibbs(1), 1), out=tmp_path, resume=True), history)
    assert_same(dict(again.state_dict()), dict(model.state_dict()))


def test_resume_without_a_checkpoint_starts_at_the_beginning(tmp_path):
    with pytest.raises(Stop):
        run(rbm(), Dies(Gibbs(1), 5), out=tmp_path)  # evaluated at 4, not yet saved
    model, whole = rbm(), rbm()
    history = run(model, Gibbs(1), out=tmp_path, resume=True)
    assert_same(history, run(whole, Gibbs(1)))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5


KILLED = """
import sys, torch
from qsample import Settings, fit
from qsample.annealers import Gibbs
from qsample.models import BernoulliRBM
torch.set_num_threads(1)
model = BernoulliRBM(9, 4, generator=torch.Generator().manual_seed(1))
data = (torch.rand(40, 9, generator=torch.Generator().manual_seed(2)) < 0.5).float()
settings = Settings(
    updates=150, batch=16, chains=16, centred=True, evaluate_every=7, checkpoint_every=1
)
print("ready", flush=True)
fit(model, data, Gibbs(2), settings, out=sys.argv[1], resume=True, progress=False)
"""


@pytest.mark.long
def test_kill_9_at_any_moment_and_resume_ends_where_an_unharmed_run_does(tmp_path):
    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        return process

    def reached():
        try:
            return last_step(tmp_path / "cut")
        except NoCheckpoint:
            return 0

    whole = start(tmp_path / "whole")
    whole.communicate()
    assert whole.returncode == 0
    dice, at = random.Random(0), 0
    for _ in range(2):
        at += dice.randint(1, 25)
        process = start(tmp_path / "cut")
        while reached() < at and process.poll() is None:
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.02))  # anywhere in an update or a save
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert at <= reached() < 150
        at = reached()
    last = start(tmp_path / "cut")
    last.communicate()
    assert last.returncode == 0
    assert_same(load(tmp_path / "cut"), load(tmp_path / "whole"))
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )
    lines = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [*range(7, 150, 7), 150]


class Interrupts(Dies):
    """Sends this process a Ctrl-C in its k-th call, `times` times, and goes on."""

    def __init__(self, sampler, call, times=1):
        super().__init__(sampler, call)
        self.times = times

    def sample(self, problem, num, *, initial=None, generator=None):
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return self.sampler.sample(problem, num, initial=initial, generator=generator)


def test_ctrl_c_finishes_the_update_and_saves(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped after update 7"):
        run(rbm(), Interrupts(Gibbs(2), 7), out=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert load(tmp_path)["update"] == 7
    model, whole = rbm(), rbm()
    assert_same(run(model, Gibbs(2), out=tmp_path, resume=True), run(whole, Gibbs(2)))
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(rbm(), Interrupts(Gibbs(2), 7, times=2), out=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert load(tmp_path)["update"] == 5
