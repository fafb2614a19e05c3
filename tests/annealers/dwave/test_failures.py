"""What fails between `DWave` and the cloud: no read lost or counted twice, no cost forgotten."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

import qsample as qs
from qsample.annealers import Gibbs
from tests.support.seeds import generator
from tests.support.solver_api import cell, connect

pytest.importorskip("dwave.cloud")
pytest.importorskip("dwave.system")
from qsample.annealers.dwave import BudgetExceeded, DeviceError, Fallback  # noqa: E402
from qsample.annealers.dwave.cloud.session import Session  # noqa: E402
from qsample.testing.sapi import EVERY, Chip, SolverServer  # noqa: E402

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture(scope="module")
def shared():
    with SolverServer("chimera-1", chip=Chip(beta=3.0, sweeps=8)) as server:
        yield server


@pytest.fixture
def server(shared):
    shared.faults.clear()
    yield shared
    shared.faults.clear()


def calm(sampler):
    """Past the pilot."""
    sampler.sample(cell(), 20, generator=generator())
    return sampler


def events(path):
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


# ---- mended ----------------


@pytest.mark.parametrize(
    ("route", "kind", "charged"),
    [
        ("post", "429", 1),
        ("post", "503", 1),
        ("post", "500", 2),
        ("post", "502", 2),
        ("post", "504", 2),
        ("post", "drop-before", 2),
        ("post", "drop-after", 2),
        ("post", "failed", 2),
        ("poll", "401", 1),
        ("poll", "429", 1),
        ("poll", "503", 1),
        ("poll", "drop-after", 1),
        ("poll", "duplicate", 1),
        ("answer", "500", 1),
        ("answer", "drop-before", 1),
        ("answer", "stale", 1),
        ("answer", "bad-base64", 1),
        ("answer", "short", 1),
        ("answer", "energies", 1),
    ],
)
def test_each_fault_is_mended(server, tmp_path, route, kind, charged):
    """The reads are of a job that ran; a second charge comes only if the first may have run."""
    path = tmp_path / "ledger"
    with calm(connect(server, ledger=path)) as sampler:
        before, spent = len(server.jobs), sampler.spent
        server.faults.next(route, kind)
        samples = sampler.sample(cell(), 30, generator=generator(1))
        jobs = {job.id: job for job in server.jobs[before:]}
        (name,) = samples.info["job_ids"]
        assert torch.equal(
            torch.from_numpy(jobs[name].spins) * samples.info["gauge"], samples.spins
        )
        cost = samples.info["qpu_access_time"] / 1e6
        assert sampler.spent - spent == pytest.approx(charged * cost)
        assert server.faults.seen and sampler.spent >= server_cost(server, path) - 1e-9


def server_cost(server, path):
    """What the server charged for the jobs of a ledger, in seconds."""
    labels = {json.loads(line)["entry"] for line in path.read_text().splitlines()}
    return (
        sum(job.charged for job in server.jobs if job.label and job.label.split(":")[1] in labels)
        / 1e6
    )


@pytest.mark.long
def test_a_random_mix_of_all_faults(server, tmp_path, caplog):
    """Each call's reads are its own jobs' and problem's; `qpu_faults.py` makes 1,000 such calls."""
    caplog.set_level(1)
    threads = set(threading.enumerate())
    path, record = tmp_path / "ledger", tmp_path / "record"
    with calm(connect(server, ledger=path, record=record, num_reads=3)) as sampler:
        server.faults.mix(dict.fromkeys(EVERY, 0.012), seed=5)
        used, failed, begun = set(), 0, time.monotonic()
        for k in range(25):
            problem = cell((2,), seed=k)
            try:
                samples = sampler.sample(problem, 4, generator=generator(k))
            except DeviceError as error:
                assert "refused the token" in str(error) and server.token not in str(error)
                failed += 1
                continue
            jobs = {job.id: job for job in server.jobs}
            names = samples.info["job_ids"]
            assert len(names) == 4 and not used & set(names)
            used |= set(names)
            for i, name in enumerate(names):
                b, g = divmod(i, 2)
                gauge = samples.info["gauge"][b, g]
                assert torch.equal(
                    torch.from_numpy(jobs[name].spins) * gauge, samples.spins[b].reshape(2, 2, 8)[g]
                )
                h = torch.from_numpy(jobs[name].problem.h) * gauge / samples.info["scale"]
                assert torch.allclose(h, problem.h[b])
        assert failed < 10 and len(server.faults.seen) > 10 and time.monotonic() - begun < 60 * 20
        assert sampler.spent >= server_cost(server, path) - 1e-9
    for place in (
        path.read_text(),
        record.read_text(),
        caplog.text,
        repr(sampler),
        str(sampler.state_dict()),
    ):
        assert server.token not in place
    assert "dwave.cloud" in caplog.text
    assert not [
        thread
        for thread in threading.enumerate()
        if thread not in threads and "request" not in thread.name
    ]


# ---- given up ----------------


def test_an_overloaded_service(server):
    with calm(connect(server, retries=2)) as sampler:
        spent = sampler.spent
        server.faults.next("post", 503, times=3)
        with pytest.raises(
            DeviceError, match="the submission failed 3 times, last with: injected 503"
        ):
            sampler.sample(cell(), 5)
        assert sampler.spent == spent


def test_a_fallback_serves_with_a_warning(server):
    with calm(connect(server, retries=0, fallback=Gibbs(20))) as sampler:
        for _ in range(2):
            server.faults.next("post", 503)
            with pytest.warns(Fallback, match="failed 1 times.*; Gibbs serves instead"):
                samples = sampler.sample(cell(), 5)
            assert (
                samples.info["fallback"] == "Gibbs" and samples.exactness is qs.Exactness.ASYMPTOTIC
            )
        assert "fallback" not in sampler.sample(cell(), 5).info


def test_a_job_that_never_ends(server):
    with calm(connect(server)) as sampler, server.held():
        spent, begun = sampler.spent, time.monotonic()
        object.__setattr__(sampler, "timeout", 0.5)
        with pytest.raises(DeviceError, match="has no answer within timeout="):
            sampler.sample(cell(), 5)
        assert time.monotonic() - begun < 5 and server.jobs[-1].status == "CANCELLED"
        assert sampler.spent == spent  # the service confirmed that it never ran


def test_ctrl_c_cancels_everything(server):
    """Also what another call has under way."""
    with calm(connect(server)) as sampler, server.held():
        spent, before = sampler.spent, len(server.jobs)
        other = sampler.submit(cell(), 5)

        def interrupt():
            deadline = time.monotonic() + 20
            while len(server.jobs) < before + 4 and time.monotonic() < deadline:
                time.sleep(0.05)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            sampler.sample(cell((3,)), 5)
        assert [job.status for job in server.jobs[before:]] == ["CANCELLED"] * 4
        assert sampler.spent == spent
        with pytest.raises(DeviceError, match="was cancelled"):
            other.result()


def test_cancel(server):
    with calm(connect(server)) as sampler, server.held():
        spent = sampler.spent
        pending = sampler.submit(cell(), 5)
        pending.cancel()
        assert server.jobs[-1].status == "CANCELLED" and sampler.spent == spent
        with pytest.raises(DeviceError, match="this call was cancelled"):
            pending.result()


def test_closing_cancels_and_leaves_no_thread(server):
    threads = set(threading.enumerate())
    sampler = calm(connect(server))
    with server.held():
        sampler.submit(cell(), 5)
        sampler.close()
        assert server.jobs[-1].status == "CANCELLED"
    assert not [
        thread for thread in set(threading.enumerate()) - threads if "request" not in thread.name
    ]
    assert sampler.sample(cell(), 5, generator=generator()).spins.shape == (5, 8)  # it opens again
    sampler.close()


# ---- cost ----------------


def test_the_estimate_is_the_cost(server):
    with connect(server) as sampler:
        before = server.charged
        sampler.sample(cell(), 100, generator=generator())
        assert sampler.spent == pytest.approx((server.charged - before) / 1e6)


@pytest.mark.parametrize("name", ["budget", "budget_per_call"])
def test_a_budget_raises_before_anything_is_sent(server, name, tmp_path):
    with connect(server, **{name: 0.01}, ledger=tmp_path / "ledger") as sampler:
        before = len(server.requests)
        sampler.state.device(sampler)
        asked = len(server.requests)
        with pytest.raises(
            BudgetExceeded, match=rf"s of {name}=0.01 are left.*raise it or ask for fewer reads"
        ):
            sampler.sample(cell(), 100)
        assert len(server.requests) == asked > before and sampler.spent == 0
        assert (tmp_path / "ledger").read_text() == ""


def test_the_budget_of_a_run_is_never_exceeded(server, tmp_path):
    path = tmp_path / "ledger"
    with connect(server, budget=0.5, ledger=path) as sampler:
        with pytest.raises(BudgetExceeded, match="of budget=0.5 are left"):
            for k in range(100):
                sampler.sample(cell(), 100, generator=generator(k))
        assert 0.4 < sampler.spent <= 0.5 and server_cost(server, path) <= 0.5


def test_a_lost_answer_is_resubmitted_only_within_the_budget(server, tmp_path):
    path = tmp_path / "ledger"
    with calm(connect(server, ledger=path)) as sampler:
        cost = sampler.sample(cell(), 30).info["qpu_access_time"] / 1e6
        object.__setattr__(sampler, "budget_per_call", 1.5 * cost)
        server.faults.next("post", "drop-after")
        before, spent = len(server.jobs), sampler.spent
        with pytest.raises(BudgetExceeded, match="its answer was lost, so it stays charged"):
            sampler.sample(cell(), 30)
        assert len(server.jobs) - before == 1 and sampler.spent - spent == pytest.approx(cost)
    assert events(path)[-1] == "post"


def test_an_entry_is_on_the_disk_before_its_post(server, tmp_path, monkeypatch):
    path, order = tmp_path / "ledger", []
    with calm(connect(server, ledger=path)) as sampler:
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), sync(fd)))
        post = Session.post
        monkeypatch.setattr(Session, "post", lambda *a: (order.append("post"), post(*a))[1])
        sampler.sample(cell((3,)), 5, generator=generator())
        assert order == ["fsync", "post", "post", "post"]


@pytest.mark.long
def test_the_ledger_survives_kill_9(tmp_path):
    """A run killed with a job under way stays charged; the next goes on from there."""
    path = tmp_path / "ledger"
    with SolverServer("chimera-1", chip=Chip(beta=3.0, sweeps=8)) as server:
        code = f"""
import sys; sys.path.insert(0, {os.getcwd()!r})
from tests.support.solver_api import cell
from tests.support.seeds import generator
from qsample.annealers import DWave
client = {{"endpoint": {server.endpoint!r}}}
sampler = DWave(client=client, ledger={str(path)!r}, timeout=20, backoff=0.01)
for k in range(10_000):
    sampler.sample(cell(), 20, generator=generator(k))
    print(k, flush=True)
"""
        env = os.environ | {"DWAVE_API_TOKEN": server.token}
        run = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env
        )
        assert run.stdout is not None
        for _ in range(3):
            assert run.stdout.readline()
        with server.held():
            count = len(server.jobs)
            deadline = time.monotonic() + 20
            while len(server.jobs) == count and time.monotonic() < deadline:
                time.sleep(0.01)
            run.kill()
            run.wait()
            run.stdout.close()
        server._processor.wait(server.jobs[-1:], 10.0)
        with path.open("a") as file:
            file.write('{"entry": "cut sh')  # as a power cut would leave it
        with connect(server, ledger=path) as sampler:
            assert sampler.spent >= server.charged / 1e6 - 1e-9
            assert events(path).count("post") == len(server.jobs) and events(path).count(
                "done"
            ) < len(server.jobs)
            sampler.sample(cell(), 20, generator=generator())
            assert sampler.spent >= server.charged / 1e6 - 1e-9
            assert server.token not in path.read_text()


def test_state_goes_through_a_checkpoint(server, tmp_path):
    from qsample.annealers import Corrected
    from qsample.learning import checkpoint

    with calm(connect(server)) as sampler:
        checkpoint.save(tmp_path, {"sampler": Corrected(sampler).state_dict()}, step=1)
        state = checkpoint.load(tmp_path)["sampler"]
        with connect(server) as other:
            Corrected(other).load_state_dict(state)
            assert other.spent == sampler.spent > 0
            before = len(server.jobs)
            resumed = other.sample(cell(), 5, generator=generator())
            assert len(server.jobs) == before + 1  # no pilot
            assert (
                resumed.info["scale"]
                == sampler.sample(cell(), 5, generator=generator()).info["scale"]
            )
    assert server.token not in (tmp_path / "checkpoint.json").read_text()


# ---- bad input ----------------


def test_no_token(server):
    with pytest.raises(DeviceError, match=r"no D-Wave token: set DWAVE_API_TOKEN.*qsample sapi"):
        connect(server, token=None).sample(cell(), 1)


def test_wrong_token(server):
    threads = threading.active_count()
    with pytest.raises(DeviceError, match="refused the token: check DWAVE_API_TOKEN") as caught:
        connect(server, token="a-wrong-secret").sample(cell(), 1)
    assert "a-wrong-secret" not in str(caught.value) and threading.active_count() <= threads + 1


@pytest.mark.parametrize("solver", ["Advantage9", {"num_reads_range__covers": 10**9}])
def test_unknown_solver(server, solver):
    with pytest.raises(
        DeviceError, match=r"no solver .* at http://127.*; online are loopback_chimera-1"
    ):
        connect(server, solver=solver).sample(cell(), 1)


def test_offline_solver(server):
    with calm(connect(server)) as sampler:
        spent = sampler.spent
        server.online = False
        try:
            with pytest.raises(
                DeviceError, match="solver loopback_chimera-1 is offline: name another"
            ):
                sampler.sample(cell(), 5)
            assert sampler.spent == spent
        finally:
            server.online = True


def test_a_problem_too_large(server):
    with (
        connect(server) as sampler,
        pytest.raises(ValueError, match=r"loopback_chimera-1 has 8 qubits"),
    ):
        sampler.sample(whole_on(64), 1)


def whole_on(n):
    graph = qs.Graph.complete(n)
    return qs.Ising(graph, torch.zeros(n), torch.zeros(n, n))


def test_biases_that_cannot_be_scaled():
    from qsample.testing.sapi import definition

    with (
        SolverServer(definition("chimera-1", h_range=[0.0, 0.0])) as server,
        connect(server) as sampler,
    ):
        with pytest.raises(
            DeviceError,
            match="h and J cannot be scaled into the ranges of solver loopback_chimera-1",
        ):
            sampler.sample(cell(), 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "expected budget > 0 seconds"),
        ({"budget_per_call": -1.0}, "expected budget_per_call > 0 seconds"),
        ({"repair": "minority"}, "repair"),
        ({"gauges": -1}, "expected gauges"),
        ({"prefactor": 0.0}, "expected prefactor > 0"),
        ({"parameters": {"auto_scale": True}}, "auto_scale is not among parameters="),
        ({"reverse": [(0, 0), (1, 1)]}, "expected reverse as"),
        ({"record": "a", "replay": "b"}, "record= and replay= are both given"),
    ],
)
def test_bad_settings(server, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        connect(server, **settings)


def test_unknown_parameters(server):
    with connect(server, parameters={"anneal_speed": 3}) as sampler:
        with pytest.raises(
            DeviceError, match="takes no 'anneal_speed'; it takes anneal_schedule, annealing_time"
        ):
            sampler.sample(cell(), 1)


def test_a_refused_job_says_why(server):
    with connect(server, annealing_time=1e6) as sampler:
        with pytest.raises(DeviceError):
            sampler.sample(cell(), 1)
        assert sampler.spent == 0


def test_files_that_are_no_ledger(server, tmp_path):
    path = tmp_path / "ledger"
    path.write_text("hello\n")
    with pytest.raises(DeviceError, match=r"ledger is no ledger \(line 1\): name another file"):
        connect(server, ledger=path).sample(cell(), 1)
    path.unlink()
    # they share it
    with calm(connect(server, ledger=path)) as first, connect(server, ledger=path) as second:
        assert second.spent == first.spent > 0


# ---- recordings ----------------


def test_a_recording_replays_bit_for_bit(server, tmp_path, monkeypatch):
    path, problem = tmp_path / "record", cell((3,))
    with connect(server, record=path, gauges=2) as sampler:
        live = [sampler.sample(problem, 10, generator=generator(k)) for k in range(3)]
    jobs = len(server.jobs)
    monkeypatch.delenv("DWAVE_API_TOKEN", raising=False)
    with connect(server, token=None, replay=path, gauges=2) as again:
        for k, samples in enumerate(live):
            two = again.sample(problem, 10, generator=generator(k))
            assert torch.equal(samples.spins, two.spins) and torch.equal(samples.energy, two.energy)
            assert torch.equal(samples.info["gauge"], two.info["gauge"])
            # a replay costs nothing
            assert samples.info["spent"]["qpu_seconds"] > 0 == two.info["spent"]["qpu_seconds"]
            unlike = {"gauge": 0, "spent": 0, "cost": 0}
            assert {**samples.info, **unlike} == {**two.info, **unlike}
        with pytest.raises(
            DeviceError, match=r"record holds no (further )?answer to this request: problem, reads"
        ):
            again.sample(problem, 10, generator=generator(7))
    assert len(server.jobs) == jobs and server.token not in path.read_text()
    with (
        connect(server, replay=path, gauges=2) as other,
        pytest.raises(DeviceError, match="holds no answer to this"),
    ):
        other.sample(cell((3,), seed=9), 10, generator=generator(0))


def test_files_that_are_no_recording(server, tmp_path):
    path = tmp_path / "record"
    with pytest.raises(DeviceError, match="cannot read the recording .*No such file"):
        connect(server, replay=path).sample(cell(), 1)
    path.write_text("{}\n")
    with pytest.raises(DeviceError, match="is no recording of DWave"):
        connect(server, replay=path).sample(cell(), 1)
    with SolverServer("chimera-2") as other, connect(other, record=tmp_path / "two") as sampler:
        sampler.sample(cell(), 1)
    with pytest.raises(
        DeviceError, match="records solver loopback_chimera-2, this is loopback_chimera-1"
    ):
        connect(server, record=tmp_path / "two").sample(cell(), 1)


def test_the_token_is_never_shown(server, caplog):
    import copy
    import pickle

    caplog.set_level(1)
    with calm(connect(server)) as sampler:
        shown = [
            repr(sampler),
            str(vars(sampler)),
            str(sampler.state_dict()),
            repr(copy.deepcopy(sampler)),
        ]
        shown += [pickle.dumps(sampler).decode("latin-1"), caplog.text]
        assert not [text for text in shown if server.token in text] and "dwave.cloud" in caplog.text
    assert logging.getLogger("dwave.cloud.client.base").filters
