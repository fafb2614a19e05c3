"""Each fault of the loopback API as D-Wave's client meets it, and what the server charges."""

import os
import time

import numpy as np
import pytest
import requests

from qsample.testing.sapi import EVERY, Chip, Fault, SolverServer
from qsample.testing.sapi.faults import Faults
from tests.support.thinning import thinned

cloud = pytest.importorskip("dwave.cloud")
from dwave.cloud.exceptions import (  # noqa: E402
    SolverAuthenticationError,
    SolverError,
    SolverFailureError,
)


@pytest.fixture(scope="module")
def connected(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DWAVE_")]:
            patch.delenv(name)
        patch.setenv("DWAVE_CONFIG_FILE", os.devnull)
        patch.setenv("DWAVE_CACHE_ENABLED", "0")
        with SolverServer("chimera-1", chip=Chip(beta=3.0, sweeps=8)) as server:
            with cloud.Client(
                endpoint=server.endpoint, token=server.token, polling_timeout=10
            ) as client:
                yield server, client.get_solver()


@pytest.fixture
def server(connected):
    connected[0].faults.clear()
    yield connected[0]
    connected[0].faults.clear()


@pytest.fixture
def ask(connected):
    """One job of three reads, as a future."""
    return lambda: connected[1].sample_ising(
        {0: 1.0, 4: -0.5}, {(0, 4): 0.25}, num_reads=3, answer_mode="raw"
    )


def last(server):
    return server.jobs[-1]


@pytest.mark.parametrize("retry_after", [None, 1])
@pytest.mark.parametrize("status", [401, 429, 500, 502, 503, 504])
def test_a_refused_submission_never_ran(server, ask, status, retry_after):
    """The client does not retry a POST: the error is the caller's, and nothing was charged."""
    jobs, spent = len(server.jobs), server.charged
    server.faults.next("post", status, retry_after=retry_after)
    expected = SolverAuthenticationError if status == 401 else SolverError
    with pytest.raises(expected) as caught:
        ask().result()
    assert caught.value.error_code == status
    assert len(server.jobs) == jobs and server.charged == spent
    assert server.faults.seen == [Fault("post", str(status), retry_after)]
    assert len(ask().result()["energies"]) == 3


@pytest.mark.parametrize(("kind", "ran"), [("drop-before", 0), ("drop-after", 1)])
def test_a_dropped_submission_ran_or_not(server, ask, kind, ran):
    """The client sees the same error either way; only the ledger here knows."""
    jobs, spent = len(server.jobs), server.charged
    server.faults.next("post", kind)
    with pytest.raises(Exception, match="(?i)connection"):
        ask().result()
    assert len(server.jobs) == jobs + ran
    if ran:
        server._processor.wait([last(server)], 10.0)
        assert (
            last(server).charged == pytest.approx(server.charged - spent)
            and last(server).deliveries == 0
        )


@pytest.mark.parametrize("route", ["poll", "answer"])
@pytest.mark.parametrize("kind", thinned(["429", "503"], 2))
def test_reads_are_retried_where_the_server_says_when(server, ask, route, kind):
    server.faults.next(route, kind, retry_after=1)
    assert len(ask().result()["energies"]) == 3
    assert server.faults.seen == [Fault(route, kind, 1)] and last(server).deliveries == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_polls_go_on_after_errors_of_the_server(server, ask, status):
    server.faults.next("poll", status, times=2)
    assert len(ask().result()["energies"]) == 3
    assert len(server.faults.seen) == 2


@pytest.mark.parametrize(
    ("route", "kind"), [("poll", "401"), ("poll", "429"), ("answer", "401"), ("answer", "500")]
)
def test_the_answer_is_still_there_after_a_lost_delivery(server, connected, ask, route, kind):
    """The job ran and is charged once; its answer can be fetched again by the id."""
    programmings = server.programmings
    server.faults.next(route, kind)
    future = ask()
    with pytest.raises((SolverError, SolverAuthenticationError)):
        future.result()
    again = connected[1].client.retrieve_answer(future.id)
    assert len(again.result()["energies"]) == 3 and server.programmings == programmings + 1


@pytest.mark.parametrize("route", ["poll", "answer"])
@pytest.mark.parametrize("kind", ["drop-before", "drop-after"])
def test_dropped_reads_are_repeated(server, ask, route, kind):
    server.faults.next(route, kind)
    assert len(ask().result()["energies"]) == 3
    assert len(server.faults.seen) == 1


@pytest.mark.parametrize("route", ["post", "poll", "answer"])
def test_slow_answers_arrive(server, ask, route):
    server.faults.next(route, "slow", seconds=0.3)
    begun = time.monotonic()
    ask().result()
    assert time.monotonic() - begun > 0.3


def test_failed_jobs_cost_nothing(server, ask):
    spent = server.charged
    server.faults.next("post", "failed")
    with pytest.raises(SolverFailureError, match="The problem failed on the processor"):
        ask().result()
    assert last(server).status == "FAILED" and server.charged == spent


@pytest.mark.parametrize("kind", ["bad-base64", "short"])
def test_undecodable_answers_raise(server, ask, kind):
    server.faults.next("answer", kind)
    with pytest.raises(ValueError):
        ask().result()
    assert server.faults.seen == [Fault("answer", kind)]


def test_wrong_energies_and_the_answer_of_another_job_get_through(server, connected, ask):
    """The client notices neither: energies recomputed from the spins, and the id, betray them."""
    server.faults.next("answer", "energies")
    future = ask()
    assert np.allclose(
        np.array(future.energies) - 1, last(server).problem.energy(last(server).spins)
    )
    other = future.id
    server.faults.next("answer", "stale")
    future = connected[1].sample_ising({1: 1.0}, {}, num_reads=2, answer_mode="raw")
    name = future.wait_id(timeout=10)
    future.result()
    assert last(server).id == name and future.id == other and last(server).deliveries == 0


def test_duplicate_statuses(server, ask):
    server.faults.next("poll", "duplicate")
    assert len(ask().result()["energies"]) == 3


def test_lost_cancellations(server, ask):
    with server.held():
        future = ask()
        name = future.wait_id(timeout=10)
        headers, url = {"X-Auth-Token": server.token}, server.endpoint + "problems/"
        server.faults.next("cancel", 503)
        assert requests.delete(url, json=[name], headers=headers, timeout=10).status_code == 503
        assert last(server).status == "PENDING"
        server.faults.next("cancel", "drop-after")
        with pytest.raises(requests.ConnectionError):
            requests.delete(url, json=[name], headers=headers, timeout=10)
        assert last(server).status == "CANCELLED"


def test_a_random_mix_loses_nothing_on_the_server(server, ask):
    """Whatever the client saw, each accepted job was programmed once, and the ledger adds up."""
    chances = {fault: 0.02 for fault in EVERY if fault.retry_after is None and fault.kind != "slow"}
    server.faults.mix(chances, seed=4)
    before, programmings, answered = len(server.jobs), server.programmings, 0
    futures = [ask() for _ in range(12)]
    for future in futures:
        try:
            answered += len(future.result()["energies"]) == 3
        except Exception:  # any of the client's many
            continue
    server.faults.clear()
    jobs = server.jobs[before:]
    for job in jobs:
        server._processor.wait([job], 10.0)
    ran = [job for job in jobs if job.charged]
    assert server.programmings - programmings == len(ran) == len({job.programming for job in ran})
    assert answered <= len(futures)
    assert all(job.status in ("COMPLETED", "FAILED") for job in jobs)


def test_the_mix_has_its_chances_and_its_seed():
    def draw(seed):
        faults = Faults()
        faults.mix(
            {Fault("post", "503"): 0.2, Fault("post", "slow"): 0.1, Fault("poll", "500"): 1.0}, seed
        )
        return [faults.take("post") for _ in range(2000)]

    first = draw(1)
    assert first == draw(1) != draw(2)
    for kind, chance in (("503", 0.2), ("slow", 0.1)):
        count = sum(fault is not None and fault.kind == kind for fault in first)
        assert abs(count - 2000 * chance) < 5 * (2000 * chance * (1 - chance)) ** 0.5
    assert len(EVERY) == len(set(EVERY)) and {fault.route for fault in EVERY} == {
        "solvers",
        "post",
        "poll",
        "answer",
        "cancel",
    }


def test_unknown_faults():
    faults = Faults()
    for route, kind, message in [
        ("post", 418, "no fault '418' at 'post'; expected one of 401, 429"),
        ("poll", "failed", "no fault 'failed' at 'poll'"),
        ("put", 503, "unknown route 'put'"),
    ]:
        with pytest.raises(ValueError, match=message):
            faults.next(route, kind)
    with pytest.raises(ValueError, match="those at 'post' sum to 1.2"):
        faults.mix({Fault("post", "503"): 0.6, Fault("post", "500"): 0.6})
