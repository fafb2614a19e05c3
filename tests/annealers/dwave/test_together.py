"""One `DWave` for many threads and processes, closed at any time: one client, no thread left."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import qsample as qs
from tests.support.seeds import generator
from tests.support.solver_api import cell, connect

pytest.importorskip("dwave.cloud")
pytest.importorskip("dwave.system")
from qsample.annealers.dwave import BudgetExceeded, DeviceError  # noqa: E402
from qsample.annealers.dwave.cloud import session as module  # noqa: E402
from qsample.testing.sapi import Chip, SolverServer  # noqa: E402

pytestmark = pytest.mark.usefixtures("isolated")
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def server():
    with SolverServer("chimera-1", chip=Chip(beta=3.0, sweeps=8)) as server:
        yield server


def strangers(before):
    """The client's threads that are new, after a wait for those that end; the server's left out."""
    deadline = time.monotonic() + 5
    while True:
        threads = [
            thread
            for thread in threading.enumerate()
            if thread not in before and "request" not in thread.name
        ]
        if not threads or time.monotonic() > deadline:
            return threads
        time.sleep(0.02)


def at_once(count, work):
    """The results of `work(k)` in as many threads, all begun together; exceptions as results."""
    barrier = threading.Barrier(count)

    def run(k):
        barrier.wait(10)
        try:
            return work(k)
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize(
    "settings", [{}, {"ledger": "ledger"}, {"ledger": "ledger", "record": "record"}]
)
def test_a_first_call_from_many_threads(server, tmp_path, monkeypatch, settings):
    """One client, one pilot, no failure; the charges are the service's, and no thread is left."""
    before, made = set(threading.enumerate()), []
    client = module._client
    monkeypatch.setattr(
        module, "_client", lambda kind: lambda **more: made.append(1) or client(kind)(**more)
    )
    settings = {name: tmp_path / value for name, value in settings.items()}
    jobs = len(server.jobs)
    with connect(server, **settings) as sampler:
        results = at_once(20, lambda k: sampler.sample(cell(), 10, generator=generator(k)))
        assert not [result for result in results if isinstance(result, Exception)]
        assert len(made) == 1 and len(server.jobs) - jobs == 21
        spent = sum(job.charged for job in server.jobs[jobs:]) / 1e6
        assert sampler.spent == pytest.approx(spent)
        names = {
            name
            for result in results
            if isinstance(result, qs.Samples)
            for name in result.info["job_ids"]
        }
        assert len(names) == 21
    assert not strangers(before)
    if "record" in settings:  # whole lines, one an answer
        assert len(settings["record"].read_text().splitlines()) == 1 + 21


def test_threads_do_not_overspend(server, tmp_path):
    with connect(server, budget=0.2, ledger=tmp_path / "ledger") as sampler:
        jobs = len(server.jobs)
        results = at_once(
            16, lambda k: [sampler.sample(cell(), 20, generator=generator(k)) for _ in range(3)]
        )
        refused = [result for result in results if isinstance(result, BudgetExceeded)]
        assert refused and not [
            result for result in results if isinstance(result, Exception) and result not in refused
        ]
        assert (
            0.15 < sum(job.charged for job in server.jobs[jobs:]) / 1e6 <= 0.2
            and sampler.spent <= 0.2
        )


def test_an_opening_that_fails_fails_for_all_who_wait(server):
    """Once, not once a thread; and the next call tries anew."""
    before, asked = set(threading.enumerate()), len(server.requests)
    with connect(server, token="loopback-wrong-token") as sampler:
        results = at_once(10, lambda k: sampler.sample(cell(), 1))
        assert all("refused the token" in str(result) for result in results)
        assert len(server.requests) - asked < 10
        object.__setattr__(sampler, "token", connect(server).token)
        assert sampler.sample(cell(), 3, generator=generator()).spins.shape == (3, 8)
    assert not strangers(before)


def test_an_opening_that_is_interrupted(server, monkeypatch):
    """Ctrl-C in the thread that opens: the others open for themselves."""
    find, tries = module.Session._find, []

    def interrupted(self, *args):
        tries.append(1)
        if len(tries) == 1:
            time.sleep(0.2)
            raise KeyboardInterrupt
        return find(self, *args)

    monkeypatch.setattr(module.Session, "_find", interrupted)
    before = set(threading.enumerate())
    with connect(server) as sampler:
        seen = []

        def work(k):
            try:
                return sampler.sample(cell(), 3, generator=generator(k))
            except KeyboardInterrupt:
                seen.append(k)
                return None

        results = at_once(4, work)
        assert (
            len(seen) == 1
            and len(tries) == 2
            and sum(result is not None for result in results) == 3
        )
    assert not strangers(before)


def test_closing_while_it_opens(server, monkeypatch):
    find = module.Session._find
    begun, go = threading.Event(), threading.Event()

    def slow(self, *args):
        begun.set()
        go.wait(5)
        return find(self, *args)

    monkeypatch.setattr(module.Session, "_find", slow)
    before = set(threading.enumerate())
    sampler = connect(server)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(sampler.sample, cell(), 1)
        assert begun.wait(5)
        sampler.close()
        go.set()
        with pytest.raises(DeviceError, match="was closed while its call was under way"):
            call.result(10)
    assert not strangers(before) and sampler.state.opened.connection is None


def test_closing_while_calls_run(server, tmp_path):
    """Each ends within seconds; what ran is charged, what did not is not; and it opens again."""
    before = set(threading.enumerate())
    path = tmp_path / "ledger"
    sampler = connect(server, ledger=path, record=tmp_path / "record")
    sampler.sample(cell(), 5, generator=generator())
    spent, jobs = sampler.spent, len(server.jobs)
    with ThreadPoolExecutor(6) as pool:
        with server.held():
            calls = [pool.submit(sampler.sample, cell(), 5) for _ in range(6)]
            deadline = time.monotonic() + 10
            while len(server.jobs) < jobs + 6 and time.monotonic() < deadline:
                time.sleep(0.01)
            sampler.close()
            sampler.close()
        for call in calls:
            with pytest.raises(DeviceError, match="was cancelled|was closed"):
                call.result(10)
    assert sampler.spent == pytest.approx(spent) and not strangers(before)
    for _ in range(3):  # at any moment
        with ThreadPoolExecutor(4) as pool:
            calls = [pool.submit(sampler.sample, cell(), 5) for _ in range(4)]
            time.sleep(0.02)
            sampler.close()
            for call in calls:
                assert call.exception(20) is None or isinstance(call.exception(), DeviceError)
    sampler.close()
    labels = {line.split('"')[3] for line in path.read_text().splitlines()}
    charged = (
        sum(job.charged for job in server.jobs if job.label and job.label.split(":")[1] in labels)
        / 1e6
    )
    assert sampler.spent >= charged - 1e-9 and not strangers(before)


# ---- processes ----------------


def in_child(work, seconds=60.0):
    """What `work()` returns or raises in a forked child."""
    ours, theirs = FORK.Pipe()

    def run():
        try:
            theirs.send(work())
        except BaseException as error:
            theirs.send(error)

    with warnings.catch_warnings():
        # of forking with threads, from 3.12 on: it is the point
        warnings.simplefilter("ignore", DeprecationWarning)
        child = FORK.Process(target=run)
        child.start()
    assert ours.poll(seconds), "the child hangs"
    result = ours.recv()
    child.join(20)
    assert child.exitcode == 0
    return result


def test_a_forked_child(server, tmp_path):
    """It opens a client of its own, and both see what either spent."""
    torch.set_num_threads(1)
    path = tmp_path / "ledger"
    with connect(server, ledger=path, record=tmp_path / "record", budget=10.0) as sampler:
        sampler.sample(cell(), 5, generator=generator())
        spent, jobs = sampler.spent, len(server.jobs)

        def work():
            shape = sampler.sample(cell(), 5, generator=generator()).spins.shape
            return tuple(shape), sampler.spent

        shape, theirs = in_child(work)
        cost = sum(job.charged for job in server.jobs[jobs:]) / 1e6
        assert shape == (5, 8) and len(server.jobs) == jobs + 1
        assert sampler.spent == pytest.approx(theirs) == pytest.approx(spent + cost)
        assert sampler.sample(cell(), 5, generator=generator()).spins.shape == (5, 8)
        assert sampler.spent == pytest.approx(
            sum(j.charged for j in server.jobs if j.label[8:] in path.read_text()) / 1e6
        )


def test_a_fork_while_calls_run(server, tmp_path):
    """Locks that the parent's threads hold are not the child's; nor are the calls under way."""
    torch.set_num_threads(1)
    with connect(server, ledger=tmp_path / "ledger") as sampler:
        sampler.sample(cell(), 5, generator=generator())
        with server.held():
            pending = sampler.submit(cell(), 5)
            sampler.state.lock.acquire()
            sampler.state.ledger(sampler)._lock.acquire()
            try:
                error = in_child(pending.result)
                assert isinstance(error, DeviceError) and "submitted before a fork" in str(error)
                assert in_child(pending.cancel) is None and in_child(sampler.close) is None
                assert in_child(lambda: sampler.spent) == pytest.approx(sampler.spent)
            finally:
                sampler.state.ledger(sampler)._lock.release()
                sampler.state.lock.release()
        assert pending.result().spins.shape == (5, 8)


def test_a_budget_in_memory_is_not_forked(server):
    with connect(server, budget=1.0) as sampler:
        sampler.sample(cell(), 5, generator=generator())
        error = in_child(lambda: sampler.sample(cell(), 5))
        assert isinstance(error, DeviceError) and "name a file, ledger=, for both" in str(error)


def test_pickles_and_copies(server, tmp_path):
    """A pickle knows what was spent, and has its own client; a deep copy shares the sampler's."""
    with connect(server, budget=0.2) as sampler:
        sampler.sample(cell(), 5, generator=generator())
        other = copy.deepcopy(sampler)
        assert other.state is sampler.state
        loaded = pickle.loads(pickle.dumps(sampler))
        assert loaded.state is not sampler.state and loaded.spent == sampler.spent > 0
        assert loaded.token.reveal() is None
        again = pickle.loads(pickle.dumps(loaded))
        assert again.spent == sampler.spent
        with pytest.raises(DeviceError, match="no D-Wave token"):
            loaded.sample(cell(), 1)


@pytest.mark.long
def test_a_spawned_process_that_ends_with_a_call_under_way(server, tmp_path):
    """It gets the settings, takes the token from its environment and shares the ledger.

    The interpreter's end closes it: the call is cancelled and taken back, at once, with nothing on
    stderr.
    """
    path = tmp_path / "ledger"
    with connect(server, ledger=path) as sampler:
        sampler.sample(cell(), 5, generator=generator())
        (tmp_path / "pickle").write_bytes(pickle.dumps(sampler))
        code = (
            f"import pickle, sys; sys.path.insert(0, {os.getcwd()!r})\n"
            "from tests.support.solver_api import cell, generator\n"
            f"s = pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb'))\n"
            "before = s.spent\ns.sample(cell(), 5, generator=generator())\n"
            "print(before, s.spent, flush=True)\ninput()\n"
            "p = s.submit(cell(), 5)\n[job.future.wait_id(10) for job in p._jobs]\n"
        )
        env = os.environ | {"DWAVE_API_TOKEN": server.token}
        spent = sampler.spent
        run = subprocess.Popen(
            [sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1, text=True, env=env
        )
        assert run.stdout is not None
        before, after = map(float, run.stdout.readline().split())
        assert (
            before == pytest.approx(spent)
            and sampler.spent == pytest.approx(after)
            and after > before
        )
        with server.held():
            output = run.communicate("\n", timeout=60)
            assert run.returncode == 0 and output == ("", "")
            assert server.jobs[-1].status == "CANCELLED"
        assert sampler.spent == pytest.approx(after)


def test_corrected_threads_leave_the_warnings_alone():
    """Each is told of its own reads' temperature or not; the process's filters stay as they are."""
    from qsample.annealers import Corrected, Gibbs
    from qsample.annealers.dwave import OffTarget
    from qsample.testing.sapi import definition

    with SolverServer(definition("chimera-1", h_range=[-0.1, 0.1]), chip=Chip(beta=3.0)) as hot:
        with connect(hot) as sampler, warnings.catch_warnings():
            warnings.simplefilter("error", OffTarget)
            filters = list(warnings.filters)
            sampler.sample(cell(scale=0.05), 100, generator=generator())
            both = Corrected(sampler, Gibbs(1))
            results = at_once(
                8, lambda k: (both if k % 2 else sampler).sample(cell(), 5, generator=generator(k))
            )
            assert [isinstance(result, OffTarget) for result in results] == [
                k % 2 == 0 for k in range(8)
            ]
            assert warnings.filters == filters


def test_one_that_is_forgotten(server):
    """No reference, no client."""
    import gc

    before = set(threading.enumerate())
    connect(server).sample(cell(), 5, generator=generator())
    gc.collect()
    assert not strangers(before)
