"""Signals: the update ends or is given up, a checkpoint is written, and the end comes in time."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from qsample.annealers import Gibbs
from qsample.learning.checkpoint import load
from qsample.learning.run import Run
from qsample.support import interrupts
from qsample.support.interrupts import Stopped
from tests.support.training import Counts, Dies, assert_same, rbm, run

ENDS = [signal.SIGTERM, signal.SIGHUP]


class Sends(Dies):
    """Sends this process a signal in its k-th call, `times` times, then takes `seconds`."""

    def __init__(self, sampler, call, number, times=1, seconds=0.0):
        super().__init__(sampler, call)
        self.number, self.times, self.seconds = number, times, seconds

    def sample(self, problem, num, *, initial=None, generator=None):
        self.left -= 1
        if self.left == 0:
            for _ in range(self.times):
                signal.raise_signal(self.number)
            until = time.monotonic() + self.seconds
            while time.monotonic() < until:
                time.sleep(0.01)
        return self.sampler.sample(problem, num, initial=initial, generator=generator)


@contextmanager
def disposition(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, *ENDS)]


def assert_goes_on(folder, sampler=lambda: Gibbs(2)):
    """A run taken up there ends where one that was never stopped does, bit for bit."""
    model, whole = rbm(), rbm()
    expected = run(whole, sampler())
    assert_same(run(model, sampler(), out=folder, resume=True), expected)
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))


@pytest.mark.parametrize("number", ENDS)
def test_sigterm_and_sighup_finish_the_update_and_save(tmp_path, number):
    before = handlers()
    with pytest.raises(SystemExit, match=f"stopped by {number.name} after update 7") as stop:
        run(rbm(), Sends(Gibbs(2), 7, number), out=tmp_path)
    assert isinstance(stop.value, Stopped) and stop.value.code == 128 + number
    assert handlers() == before
    assert load(tmp_path)["update"] == 7
    assert_goes_on(tmp_path)


@pytest.mark.parametrize("sampler", [lambda: Gibbs(2), Counts])
def test_an_update_that_takes_too_long_is_given_up(tmp_path, monkeypatch, sampler):
    monkeypatch.setattr(interrupts, "GRACE", 0.1)
    began = time.monotonic()
    with pytest.raises(SystemExit):
        run(rbm(), Sends(sampler(), 8, signal.SIGTERM, seconds=20), out=tmp_path)
    assert time.monotonic() - began < 5
    # its chains, offsets and sampler are those before the eighth
    assert load(tmp_path)["update"] == 7
    assert_goes_on(tmp_path, sampler)


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDS])
def test_an_evaluation_is_cut_and_made_again(tmp_path, monkeypatch, number):
    def slow(self, real=Run.likelihood):
        if self.update == 8:
            signal.raise_signal(number)
            time.sleep(20)
        return real(self)

    began = time.monotonic()
    with monkeypatch.context() as patch, pytest.raises((SystemExit, KeyboardInterrupt)):
        patch.setattr(Run, "likelihood", slow)
        run(rbm(), Gibbs(2), out=tmp_path)
    assert time.monotonic() - began < 5
    assert load(tmp_path)["update"] == 8 and load(tmp_path)["pending"]["update"] == 8
    assert_goes_on(tmp_path)


def test_a_signal_before_an_evaluation_leaves_it_for_later(tmp_path):
    with pytest.raises(SystemExit, match="after update 8"):  # where metrics are due
        run(rbm(), Sends(Gibbs(2), 8, signal.SIGTERM), out=tmp_path)
    assert [m["update"] for m in load(tmp_path)["history"]] == [4]
    assert_goes_on(tmp_path)


def test_what_was_ignored_stays_ignored(tmp_path):
    with disposition(signal.SIGHUP, signal.SIG_IGN):  # nohup
        run(rbm(), Sends(Gibbs(2), 7, signal.SIGHUP), out=tmp_path)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert load(tmp_path)["update"] == 20


def test_the_programs_own_handler_is_called_after_the_checkpoint(tmp_path):
    seen = []
    with disposition(signal.SIGTERM, lambda number, _: seen.append(load(tmp_path)["update"])):
        with pytest.raises(SystemExit, match="after update 7"):
            run(rbm(), Sends(Gibbs(2), 7, signal.SIGTERM), out=tmp_path)
    assert seen == [7]


def test_a_second_signal_ends_at_once_and_the_last_checkpoint_stands(tmp_path):
    def at_once(number, frame):
        raise ZeroDivisionError

    with disposition(signal.SIGTERM, at_once), pytest.raises(ZeroDivisionError):
        run(rbm(), Sends(Gibbs(2), 8, signal.SIGTERM, times=2), out=tmp_path)
    assert load(tmp_path)["update"] == 5
    assert_goes_on(tmp_path)


def test_without_a_folder_sigterm_is_left_alone():
    seen = []
    with disposition(signal.SIGTERM, lambda number, _: seen.append(number)):
        assert len(run(rbm(), Sends(Gibbs(2), 7, signal.SIGTERM))) == 5
    assert seen == [signal.SIGTERM]


def test_another_thread_takes_no_signals(tmp_path):
    before, seen = handlers(), []

    def watched():
        class Looks(Dies):
            def sample(self, problem, num, **options):
                seen.append(handlers())
                return self.sampler.sample(problem, num, **options)

        run(rbm(), Looks(Gibbs(1), 0), out=tmp_path)

    thread = threading.Thread(target=watched)
    thread.start()
    thread.join()
    assert seen and all(found == before for found in seen)


SCRIPT = """
import os, sys, time, torch
from qsample import Settings, fit
from qsample.support import interrupts
from qsample.annealers import Gibbs
from qsample.models import BernoulliRBM
import ctypes
torch.set_num_threads(1)
interrupts.GRACE, interrupts.STUCK = 0.2, 0.4
libc = ctypes.CDLL(None)  # its calls let go of the interpreter, and nothing interrupts these
class Stuck:
    warm_start, reversible, calls = True, False, 0
    def __repr__(self):
        return "Stuck"
    def sample(self, problem, num, *, initial=None, generator=None):
        Stuck.calls += 1
        if Stuck.calls == 8:
            os.write(1, b"stuck\\n")
            lock = (ctypes.c_int * 32)()
            libc.pthread_mutex_lock(lock)
            libc.pthread_mutex_lock(lock)  # for ever
        return Gibbs(2).sample(problem, num, initial=initial, generator=generator)
def go(out):
    model = BernoulliRBM(9, 4, generator=torch.Generator().manual_seed(1))
    data = (torch.rand(40, 9, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    settings = Settings(updates=20, batch=16, chains=16, centred=True, checkpoint_every=5)
    fit(model, data, Stuck(), settings, out=out, progress=False)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        go(line.strip())
    os.write(1, b"pid %d\\n" % child)
    os.write(1, b"ended %d\\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.long
def test_a_call_that_nothing_interrupts_is_left_behind(tmp_path):
    """The main thread is in C for ever: the checkpoint is of the update before."""
    command = [sys.executable, "-c", SCRIPT]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert server.stdin is not None and server.stdout is not None
    with server, server.stdin, server.stdout:
        for number, times in ((signal.SIGTERM, 1), (signal.SIGHUP, 1), (signal.SIGTERM, 2)):
            out = tmp_path / f"{number.name}-{times}"
            print(out, file=server.stdin, flush=True)
            lines = sorted(server.stdout.readline() for _ in range(2))
            assert [line.split()[0] for line in lines] == ["pid", "stuck"]
            began = time.monotonic()
            for _ in range(times):
                os.kill(int(lines[0].split()[1]), number)
                time.sleep(0.05)
            assert server.stdout.readline() == f"ended {128 + number}\n"
            assert time.monotonic() - began < 5
            assert load(out)["update"] in ((7,) if times == 1 else (5, 7))
