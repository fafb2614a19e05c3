"""The ledger touches no file but its own, counts no charge that cannot be, overspends no budget."""

import json
import math
import multiprocessing
import os
import threading

import pytest
import torch

from tests.support.seeds import generator
from tests.support.solver_api import cell, connect

pytest.importorskip("dwave.cloud")
pytest.importorskip("dwave.system")
from qsample.annealers.dwave import BudgetExceeded, ChargeWarning, DeviceError  # noqa: E402
from qsample.annealers.dwave.cloud.job import Job  # noqa: E402
from qsample.annealers.dwave.cloud.ledger import LONGEST, Allowance, Ledger  # noqa: E402
from qsample.testing.sapi import Chip, SolverServer  # noqa: E402
from qsample.testing.sapi.routes import Routes  # noqa: E402

pytestmark = pytest.mark.usefixtures("isolated")
POST = {"entry": "0123456789abcdef", "event": "post", "us": 20_000.0, "solver": "s", "time": 1.0}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def post(ledger, *costs, budget=None):
    return ledger.post(costs, budget=budget, call=Allowance(), solver="s")


@pytest.fixture(scope="module")
def server():
    with SolverServer("chimera-1", chip=Chip(beta=3.0, sweeps=8)) as server:
        yield server


# ---- files that are not ours ----------------

STRANGE = {
    "a note": b"buy milk, call Ann, 17:30",
    "a note with an end": b"buy milk, call Ann, 17:30\n",
    "an open brace": b"{",
    "JSON that is cut": b'{"entry": "tomorrow"',
    "JSON of another kind": b'{"entry": "tomorrow", "event": "party"}',
    "JSON lines of another kind": b'{"entry": 1}\n{"entry": 2}\n',
    "a list": b'["entry", "event"]\n',
    "a number": b"12",
    "bytes": bytes(range(256)) * 4,
    "UTF-16": "{}\n".encode("utf-16"),
    "an empty line": b"\n",
    "a ledger with a note at its end": lines(POST).encode() + b"buy milk",
    "a ledger with a note in it": lines(POST).encode() + b"buy milk\n" + lines(POST).encode(),
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("data", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("argument", ["ledger", "record"])
def test_a_file_that_is_not_ours_is_left_as_it_is(server, tmp_path, data, argument):
    """Refused in one line that names it, by the file's own bytes and times."""
    path = tmp_path / "mine"
    if argument == "record" and data.startswith(b"[["):
        pytest.skip("the recording's own tests have it")
    path.write_bytes(data)
    before = path.stat()
    with (
        connect(server, **{argument: path}) as sampler,
        pytest.raises(DeviceError, match=r"mine") as caught,
    ):
        sampler.sample(cell(), 1)
    assert path.read_bytes() == data and path.stat().st_mtime_ns == before.st_mtime_ns
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("argument", ["ledger", "record"])
@pytest.mark.parametrize("kind", ["folder", "fifo", "missing folder", "device", "under a file"])
def test_what_is_no_plain_file(server, tmp_path, argument, kind):
    path = tmp_path / "mine"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "missing folder":
        path = tmp_path / "no" / "mine"
    elif kind == "device":
        path = "/dev/null"
    else:
        path.write_text("x")
        path = path / "mine"
    with connect(server, **{argument: path}) as sampler, pytest.raises(DeviceError):
        sampler.sample(cell(), 1)
    assert len(list(tmp_path.iterdir())) <= 1


def test_one_file_for_two_things(server, tmp_path):
    with pytest.raises(ValueError, match="ledger= and record= are both"):
        connect(server, ledger=tmp_path / "x", record=tmp_path / "y" / ".." / "x")
    with connect(server, ledger=tmp_path / "l", record=tmp_path / "r") as sampler:
        sampler.sample(cell(), 1, generator=generator())
    for other in ({"record": tmp_path / "l"}, {"ledger": tmp_path / "r"}):
        before = [(tmp_path / name).read_bytes() for name in "lr"]
        with connect(server, **other) as sampler, pytest.raises(DeviceError):
            sampler.sample(cell(), 1)
        assert before == [(tmp_path / name).read_bytes() for name in "lr"]


# ---- charges that cannot be ----------------

WRONG = [
    "NaN",
    "-1.0",
    "-1e12",
    "1e12",
    "1e300",
    "Infinity",
    "-Infinity",
    '"7"',
    "true",
    "null",
    "[7]",
    "{}",
    "9" * 400,
]


@pytest.mark.parametrize("us", WRONG)
@pytest.mark.parametrize("event", ["post", "done"])
def test_a_charge_that_cannot_be_is_damage(server, tmp_path, us, event):
    """Nothing is sent on such a ledger, the line is named, the file stays as it is."""
    path = tmp_path / "ledger"
    path.write_text(
        lines(POST)
        + json.dumps(POST | {"event": event, "us": 0}).replace('"us": 0', f'"us": {us}')
        + "\n"
    )
    text, before = path.read_text(), len(server.requests)
    with connect(server, ledger=path, budget=1e-6) as sampler:
        with pytest.raises(
            DeviceError, match=r"ledger .* is damaged in line 2: .* nothing is spent"
        ):
            sampler.sample(cell(), 10)
        with pytest.raises(DeviceError, match="line 2"):
            _ = sampler.spent
    assert path.read_text() == text and len(server.requests) == before


@pytest.mark.parametrize("us", WRONG)
def test_a_checkpoint_with_such_a_charge_is_refused(server, us):
    line = json.dumps(POST | {"us": 0}).replace('"us": 0', f'"us": {us}')
    with connect(server) as sampler:
        state = sampler.state_dict()
        with pytest.raises(DeviceError, match="ledger is damaged in entry 2"):
            sampler.load_state_dict(state | {"ledger": [json.dumps(POST), line]})
        assert sampler.spent == 0


@pytest.mark.parametrize(
    "track", [["x", 1.0, 1], [math.nan, 1.0, 1], [-1.0, 1.0, 1], [1.0, math.nan, 1], [1.0], 3]
)
def test_a_checkpoint_with_a_temperature_that_cannot_be(server, track):
    with connect(server) as sampler:
        with pytest.raises(DeviceError, match="temperatures are damaged"):
            sampler.load_state_dict({"temperatures": {"k": track}, "ledger": [json.dumps(POST)]})
        assert sampler.spent == 0 and not sampler.state_dict()["temperatures"]


@pytest.mark.parametrize(
    ("us", "charged"),
    [
        (math.nan, 1),
        (-1.0, 1),
        (-1e12, 1),
        (1e12, 1),
        (math.inf, 1),
        ("7", 1),
        (True, 1),
        (None, 1),
        ([], 1),
        (0, 1),
    ]
    + [(1e-9, 1), (0.05, 1), (0.2, None), (5.0, None), (20.0, None)],
)
def test_an_answer_with_an_access_time_that_cannot_be(server, monkeypatch, tmp_path, us, charged):
    """The estimate is charged, with a warning; beyond ten times as much, what the service says."""
    checked = Job._checked
    with connect(server, ledger=tmp_path / "ledger", record=tmp_path / "record") as sampler:
        sampler.sample(cell(), 20, generator=generator())
        usual, before = (
            sampler.sample(cell(), 20, generator=generator()).info["qpu_access_time"],
            sampler.spent,
        )
        reported = us * usual if type(us) is float and 0.01 < us < 100 else us

        def lying(self, result):  # the client itself refuses NaN
            return checked(
                self, {**result, "timing": {**result["timing"], "qpu_access_time": reported}}
            )

        monkeypatch.setattr(Job, "_checked", lying)
        if us in (0.2, 5.0):
            samples = sampler.sample(cell(), 20, generator=generator())
        else:
            with pytest.warns(ChargeWarning, match=r"says that job .* took .* us are charged$"):
                samples = sampler.sample(cell(), 20, generator=generator())
        expected = usual if charged else reported
        assert sampler.spent - before == pytest.approx(expected / 1e6)
        assert samples.info["qpu_access_time"] == pytest.approx(expected)
    with connect(server, ledger=tmp_path / "ledger") as sampler:  # what was written can be read
        assert sampler.spent == pytest.approx(before + expected / 1e6)


def test_a_budget_holds_against_a_lying_service(server, monkeypatch):
    """Answers that say -1e12 us do not make a budget endless, nor NaN."""
    load = Routes._load
    for us in (-1e12, 0.0):

        def lying(self, job, fault, us=us):
            reply = load(self, job, fault)
            body = json.loads(reply.body)
            body["answer"]["timing"]["qpu_access_time"] = us
            return reply._replace(body=json.dumps(body).encode())

        monkeypatch.setattr(Routes, "_load", lying)
        before = server.charged
        with (
            connect(server, budget=0.1) as sampler,
            pytest.warns(ChargeWarning),
            pytest.raises(BudgetExceeded),
        ):
            for k in range(100):
                sampler.sample(cell(), 20, generator=generator(k))
        assert 0.05e6 < server.charged - before <= 0.1e6


@pytest.mark.parametrize("cost", [math.nan, -1.0, math.inf, 2 * LONGEST])
def test_an_estimate_that_cannot_be(cost):
    ledger = Ledger()
    with pytest.raises(DeviceError, match="which cannot be: nothing was sent"):
        post(ledger, cost)
    assert ledger.spent == 0


@pytest.mark.parametrize("name", ["budget", "budget_per_call"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, "1", True, [1]])
def test_budgets_that_are_none(server, name, value):
    with pytest.raises((ValueError, TypeError), match="budget"):
        connect(server, **{name: value})


# ---- crashes, and several at once ----------------


@pytest.mark.parametrize("cut", [1, 10, 40, 60])
def test_a_line_cut_by_a_crash(tmp_path, cut):
    """It is dropped, the lines before it stay; a whole one that lacks its end only is kept."""
    path = tmp_path / "ledger"
    other = POST | {"entry": "fedcba9876543210", "us": 5.0}
    path.write_text(lines(POST) + lines(other)[:cut])
    assert Ledger(path).spent == POST["us"] and path.read_text() == lines(POST)
    path.write_text(lines(POST, other)[:-1])
    ledger = Ledger(path)
    assert ledger.spent == POST["us"] + 5.0
    post(ledger, 7.0)
    assert Ledger(path).spent == ledger.spent == POST["us"] + 12.0


def test_the_first_line_cut_by_a_crash(tmp_path):
    path = tmp_path / "ledger"
    path.write_text(lines(POST)[:50])
    assert Ledger(path).spent == 0 and path.read_text() == ""


def test_a_full_disk(tmp_path, monkeypatch):
    """A charge that cannot be written is none: nothing is sent on it, and the file is whole."""
    path = tmp_path / "ledger"
    ledger, write = Ledger(path), os.write
    post(ledger, 5.0)

    def full(file, data):
        write(file, data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DeviceError, match="cannot write the ledger .*: No space left on device"):
        post(ledger, 7.0)
    monkeypatch.undo()
    assert ledger.spent == 5.0 and Ledger(path).spent == 5.0
    post(ledger, 7.0)
    assert ledger.spent == Ledger(path).spent == 12.0


@pytest.mark.parametrize("change", ["deleted", "replaced", "cut"])
def test_a_ledger_that_vanishes(tmp_path, change):
    path = tmp_path / "ledger"
    ledger = Ledger(path)
    post(ledger, 5.0)
    if change == "cut":
        os.truncate(path, 0)
    else:
        path.rename(tmp_path / "gone")
        if change == "replaced":
            path.write_text("")
    with pytest.raises(DeviceError, match=r"ledger .*(was replaced or cut|No such file)"):
        post(ledger, 7.0)
    assert change == "cut" or (tmp_path / "gone").read_text().count("post") == 1


def test_a_relative_path_stays(tmp_path, monkeypatch):
    """The process goes to another folder, the ledger does not; messages say it as the user did."""
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    ledger = Ledger(Path("ledger"))
    monkeypatch.chdir("/")
    post(ledger, 5.0)
    with pytest.raises(BudgetExceeded, match=r"\(ledger ledger\)"):
        post(ledger, 5.0, budget=6.0)
    assert Ledger(tmp_path / "ledger").spent == 5.0


def test_what_a_file_may_only_read(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    path = tmp_path / "ledger"
    path.write_text(lines(POST))
    path.chmod(0o400)
    with pytest.raises(DeviceError, match="cannot write the ledger .*: Permission denied"):
        Ledger(path)


def spend(path, budget, count, results):
    ledger, sent = Ledger(path), 0
    for _ in range(count):
        try:
            (entry,) = post(ledger, 10.0, budget=budget)
        except BudgetExceeded:
            continue
        sent += 1
        ledger.settle(entry, 10.0, Allowance(), "job")
    results.put(sent)


def test_processes_share_a_budget(tmp_path):
    """Four processes at once spend what one would, to the last job, and each sees the sum."""
    path, context = tmp_path / "ledger", multiprocessing.get_context("fork")
    results = context.Queue()
    runs = [context.Process(target=spend, args=(path, 300.0, 20, results)) for _ in range(4)]
    for run in runs:
        run.start()
    sent = [results.get(timeout=30) for _ in runs]
    for run in runs:
        run.join(30)
    assert sum(sent) == 30 and Ledger(path).spent == 300.0


def test_threads_share_a_budget(tmp_path):
    for ledger in (Ledger(), Ledger(tmp_path / "ledger")):
        sent = []

        def work(ledger=ledger, sent=sent):
            for _ in range(10):
                try:
                    sent.extend(post(ledger, 10.0, 10.0, budget=500.0))
                except BudgetExceeded:
                    pass

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(set(sent)) == 50 and ledger.spent == 500.0


def test_a_job_is_freed_once():
    ledger, call = Ledger(), Allowance(100.0)
    (first, second) = ledger.post([10.0, 20.0], budget=None, call=call, solver="s")
    for _ in range(2):
        ledger.free(first, call, "cancelled")
    assert call.used == 20.0 == ledger.spent
    ledger.settle(second, 25.0, call, "job")
    ledger.free(second, call, "cancelled")
    assert call.used == 25.0 == ledger.spent
    ledger.settle(first, 12.0, call, "job")  # its cancellation came too late: it ran
    assert call.used == 37.0 == ledger.spent


def test_the_cache_holds_embeddings_only(server, tmp_path):
    """A cache that is a file is refused; other files in the folder stay."""
    folder, note = tmp_path / "cache", tmp_path / "note"
    note.write_text("mine")
    graph_of = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert graph_of.shape == (2, 2)
    import qsample as qs

    problem = qs.Ising(
        qs.Graph.complete(3), torch.zeros(3), 0.1 * (torch.ones(3, 3) - torch.eye(3))
    )
    with (
        connect(server, cache=note) as sampler,
        pytest.raises((DeviceError, ValueError), match="note"),
    ):
        sampler.sample(problem, 1)
    assert note.read_text() == "mine"
    folder.mkdir()
    (folder / "other.json").write_text("{}")
    with connect(server, cache=folder) as sampler:
        sampler.sample(problem, 1, generator=generator())
    assert (folder / "other.json").read_text() == "{}" and len(list(folder.iterdir())) == 2
