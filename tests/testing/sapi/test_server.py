"""The loopback solver API, driven by D-Wave's own client, unchanged."""

import base64
import json
import logging
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import dimod
import numpy as np
import pytest
import requests
import torch

import qsample as qs
from qsample.annealers import Gibbs
from qsample.testing import FALSE_ALARM, g_test
from qsample.testing.sapi import Chip, SolverServer, definition
from qsample.testing.sapi.parameters import read
from qsample.testing.sapi.solver import Solver

cloud = pytest.importorskip("dwave.cloud")
system = pytest.importorskip("dwave.system")
from dwave.cloud.exceptions import (  # noqa: E402
    CanceledFutureError,
    SolverAuthenticationError,
    SolverFailureError,
    SolverNotFoundError,
    SolverOfflineError,
)

from tests.support.thinning import thinned  # noqa: E402

pytestmark = pytest.mark.usefixtures("isolated")
BETA = 2.0


@pytest.fixture(scope="module")
def server():
    with SolverServer("zephyr-4", "zephyr-12", chip=Chip(beta=BETA)) as server:
        yield server


def connect(server, **more):
    return cloud.Client(endpoint=server.endpoint, token=server.token, polling_timeout=15, **more)


@pytest.fixture(scope="module")
def solver(server):
    with connect(server) as client:
        yield client.get_solver(name="loopback_zephyr-4")


def small(solver, n=6):
    """A frustrated, biased problem on `n` connected qubits, drawn with a fixed seed."""
    rng = np.random.default_rng(3)
    nodes = [min(solver.nodes)]
    neighbours = {q: sorted(b for a, b in solver.edges if a == q) for q in solver.nodes}
    while len(nodes) < n:
        nodes.append(next(q for other in nodes for q in neighbours[other] if q not in nodes))
    edges = sorted(pair for pair in solver.undirected_edges if set(pair) <= set(nodes))
    h = {q: float(rng.uniform(-0.4, 0.4)) for q in sorted(nodes)}
    return h, {pair: float(rng.uniform(-0.8, 0.8)) for pair in edges}


def as_ising(h, J):
    nodes = sorted(h)
    graph = qs.Graph.sparse(len(nodes), [(nodes.index(a), nodes.index(b)) for a, b in J])
    return qs.Ising(graph, torch.tensor(list(h.values())), torch.tensor(list(J.values())))


def spins_of(job):
    spins = torch.from_numpy(job.spins)
    return qs.Samples(spins, torch.zeros(len(spins)))


# ---- the law ----------------


@pytest.mark.parametrize("auto_scale", [False, True])
@pytest.mark.parametrize("kind", thinned(["ising", "qubo"], 2))
def test_reads_follow_the_hidden_beta(server, solver, kind, auto_scale):
    """What the client decodes follows exp(-beta E), E as programmed, auto_scale's factor in it."""
    h, J = small(solver)
    params = {"num_reads": 10_000, "answer_mode": "raw", "auto_scale": auto_scale}
    if kind == "ising":
        answer = solver.sample_ising(h, J, **params)
    else:
        Q, offset = dimod.ising_to_qubo(h, J)
        answer = solver.sample_qubo(Q, offset=offset, **params)
    values = np.array(answer.samples)[:, sorted(h)].astype(np.int8)
    spins = torch.from_numpy(values if kind == "ising" else 2 * values - 1)
    problem, scale = as_ising(h, J), server.jobs[-1].scale
    assert (scale > 1) == auto_scale
    assert np.allclose(answer.energies, problem.to(dtype=torch.float64).energy(spins), atol=1e-6)
    samples = qs.Samples(spins, torch.zeros(len(spins)))
    assert g_test(problem.scale(BETA * scale), samples)[0][0] > FALSE_ALARM / 4
    assert g_test(problem.scale(1.2 * BETA * scale), samples)[0][0] < FALSE_ALARM / 4


def test_moments_of_a_whole_chip(server, solver):
    """On all 576 qubits: the hidden beta by pseudo-likelihood, the mean energy of Gibbs chains."""
    rng = np.random.default_rng(0)
    h = {q: float(v) for q, v in zip(sorted(solver.nodes), rng.normal(0, 0.1, 576), strict=True)}
    edges = sorted(solver.undirected_edges)
    J = {pair: float(v) for pair, v in zip(edges, rng.normal(0, 0.1, len(edges)), strict=True)}
    solver.sample_ising(h, J, num_reads=500, answer_mode="raw", auto_scale=False).result()
    problem, spins = as_ising(h, J), spins_of(server.jobs[-1])
    beta = qs.effective_beta(problem, spins)
    assert abs(beta.value - BETA) < 5 * beta.stderr and beta.stderr < 0.02 * BETA
    energy = problem.energy(spins.spins)
    chains = Gibbs(sweeps=500).sample(
        problem.scale(BETA), 500, generator=torch.Generator().manual_seed(1)
    )
    right = problem.energy(chains.spins)
    z = (energy.mean() - right.mean()) / ((energy.var() + right.var()) / 500).sqrt()
    assert abs(z) < 5


def test_bias_noise_and_drift():
    solver = Solver(definition("chimera-1"))
    problem = decoded(solver, np.full(8, 0.5), np.full(16, 0.25))
    calm = Chip().programmed(problem, 2.0, 7)
    assert torch.equal(calm.h, torch.full((8,), 1.0).double()) and torch.equal(
        calm.J, torch.full((16,), 0.5).double()
    )
    assert torch.equal(Chip(bias=0.1).programmed(problem, 1.0, 7).h, calm.h / 2 + 0.1)
    for fixed in (False, True):
        chip = Chip(noise=0.03, fixed_noise=fixed)
        first, second = chip.programmed(problem, 1.0, 7), chip.programmed(problem, 1.0, 8)
        assert torch.equal(first.J, second.J) == fixed
    errors = [Chip(noise=0.03).programmed(problem, 1.0, seed).J / 0.25 - 1 for seed in range(200)]
    spread = torch.cat(errors).std() / 0.03
    assert abs(spread - 1) < 5 / (2 * 3200) ** 0.5
    partial = decoded(solver, np.where(np.arange(8) % 4 < 3, 0.5, np.nan), np.full(9, 0.25))
    whole = Chip(noise=0.03, fixed_noise=True).programmed(problem, 1.0, 7).J
    assert torch.equal(
        Chip(noise=0.03, fixed_noise=True).programmed(partial, 1.0, 9).J, whole[partial.coupler]
    )
    chip = Chip(beta=2.0, drift=0.1, period=100)
    assert [round(chip.beta_at(k), 12) for k in (0, 25, 50, 75)] == [2.0, 2.2, 2.0, 1.8]
    for name, value in (("beta", 0.0), ("drift", 1.0), ("noise", -1.0), ("sweeps", 1)):
        with pytest.raises(ValueError, match=f"expected .*{name}"):
            replace(chip, **{name: value})


def decoded(solver, linear, quadratic):
    return solver.decode("ising", {"format": "qp", "lin": text(linear), "quad": text(quadratic)})


def text(numbers):
    return base64.b64encode(np.asarray(numbers, "<f8").tobytes()).decode()


def test_reverse_anneals_begin_at_the_state(server, solver):
    """Cold ferromagnets stay where they begin, and hot ones forget."""
    qubits = sorted(solver.nodes)
    edges = {pair: -1.0 for pair in sorted(solver.undirected_edges)}
    schedule = [[0.0, 1.0], [5.0, 0.4], [10.0, 1.0]]
    params = {
        "num_reads": 5,
        "answer_mode": "raw",
        "auto_scale": False,
        "anneal_schedule": schedule,
    }
    for up in (1, -1):
        for again in (True, False):
            more = {"initial_state": dict.fromkeys(qubits, up), "reinitialize_state": again}
            solver.sample_ising({}, {p: J / 2 for p, J in edges.items()}, **more, **params).result()
            assert (server.jobs[-1].spins.mean(1) * up > 0.9).all()
    hot = solver.sample_ising(
        dict.fromkeys(qubits, 0.0), {}, initial_state=dict.fromkeys(qubits, 1), **params
    )
    hot.result()
    assert abs(server.jobs[-1].spins.mean()) < 5 / (5 * len(qubits)) ** 0.5


def test_equal_servers_give_equal_reads_in_any_order():
    chip, reads = Chip(beta=1.0, seed=5), []
    for order in ([0, 1, 2, 2], [2, 1, 2, 0]):
        with SolverServer("chimera-1", chip=chip) as server, connect(server) as client:
            solver = client.get_solver()
            for k in order:
                solver.sample_ising({0: 0.1 * k}, {}, num_reads=200, auto_scale=False).result()
            reads.append(
                {
                    (job.problem.h[0], job.seed): np.asarray(job.spins).tobytes()
                    for job in server.jobs
                }
            )
    assert reads[0] == reads[1] and len(reads[0]) == len(set(reads[0].values())) == 4


# ---- the client's ways ----------------


def test_histogram_counts_the_reads_by_energy(server, solver):
    h, J = small(solver, 4)
    answer = solver.sample_ising(h, J, num_reads=1000, auto_scale=False, label="mine")
    assert (
        sum(answer.num_occurrences) == 1000
        and len(answer.energies) == len(answer.num_occurrences) <= 16
    )
    assert answer.label == "mine" and server.jobs[-1].label == "mine"
    assert list(answer.energies) == sorted(answer.energies)
    states, counts = np.unique(server.jobs[-1].spins, axis=0, return_counts=True)
    counted = {tuple(s): c for s, c in zip(states.tolist(), counts, strict=True)}
    rows = np.array(answer.samples)[:, sorted(h)].tolist()
    assert {tuple(s): c for s, c in zip(rows, answer.num_occurrences, strict=True)} == counted
    few = solver.sample_ising(h, J, num_reads=1000, auto_scale=False, max_answers=3)
    assert len(few.energies) == 3


def test_embedded_problems(server):
    """DWaveSampler and EmbeddingComposite, a clique on a chip without triangles of its size."""
    with system.DWaveSampler(
        endpoint=server.endpoint, token=server.token, solver="loopback_zephyr-4", polling_timeout=15
    ) as sampler:
        J = {(a, b): 0.2 for a in range(8) for b in range(a)}
        sampleset = system.EmbeddingComposite(sampler).sample_ising(
            {0: -1.0}, J, num_reads=50, return_embedding=True
        )
        assert len(sampleset.variables) == 8 and sampleset.record.num_occurrences.sum() == 50
        bqm = dimod.BinaryQuadraticModel.from_ising({0: -1.0}, J)
        assert np.allclose(
            sampleset.record.energy, bqm.energies((sampleset.record.sample, sampleset.variables))
        )
        assert sampleset.info["timing"]["qpu_access_time"] == pytest.approx(server.jobs[-1].charged)


def test_fifty_jobs_at_once(server, solver):
    """Each answer is its own job's: the job's number, in bits, is written in strong fields."""
    before, qubits = len(server.jobs), sorted(solver.nodes)[:6]
    fields = [{q: -4.0 if k >> i & 1 else 4.0 for i, q in enumerate(qubits)} for k in range(50)]
    futures = [
        solver.sample_ising(h, {}, num_reads=3, answer_mode="raw", auto_scale=False) for h in fields
    ]
    for k, future in enumerate(futures):
        rows = np.array(future.samples)[:, qubits]
        assert (rows @ (1 << np.arange(6)) == 2 * k - 63).all()
    jobs = server.jobs[before:]
    assert len({job.id for job in jobs}) == 50 and {job.id for job in jobs} == {
        future.id for future in futures
    }
    assert sorted(job.programming for job in jobs) == list(
        range(jobs[0].programming, jobs[0].programming + 50)
    )


def test_cancelled_jobs_cost_nothing(server, solver):
    spent = server.charged
    with server.held():
        futures = [solver.sample_ising({0: 1.0}, {}, num_reads=2) for _ in range(3)]
        names = [future.wait_id(timeout=10) for future in futures]
        futures[0].cancel()
        with pytest.raises(CanceledFutureError):
            futures[0].result()
    for future in futures[1:]:
        future.result()
    assert [server._processor.find(name).status for name in names] == [
        "CANCELLED",
        "COMPLETED",
        "COMPLETED",
    ]
    assert server._processor.find(names[0]).charged == 0 and server.charged > spent


def test_a_chip_of_full_size(server):
    with connect(server) as client:
        solver = client.get_solver(name="loopback_zephyr-12")
        assert len(solver.nodes) == 4800 and len(solver.undirected_edges) == 45_864
        h = dict.fromkeys(solver.nodes, 4.0)
        assert (np.array(solver.sample_ising(h, {}, auto_scale=False).samples) == -1).all()


REVERSE = {"anneal_schedule": [[0.0, 1.0], [7.0, 0.5], [30.0, 1.0]]}


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"num_reads": 100},
        {"num_reads": 10, "annealing_time": 200.0},
        {"num_reads": 10, "anneal_schedule": [[0.0, 0.0], [50.0, 1.0]]},
        {"num_reads": 3, "programming_thermalization": 50.0, "readout_thermalization": 9.0},
        {"num_reads": 3, "reduce_intersample_correlation": True},
        {"num_reads": 3, "reinitialize_state": True, **REVERSE},
        {"num_reads": 3, "reinitialize_state": False, **REVERSE},
    ],
)
@pytest.mark.parametrize("num_qubits", [1, 40, 576])
def test_the_charge_is_what_the_client_estimates(server, solver, params, num_qubits):
    qubits = sorted(solver.nodes)[:num_qubits]
    if params.get("anneal_schedule") == REVERSE["anneal_schedule"]:
        params = params | {"initial_state": dict.fromkeys(qubits, 1)}
    spent = server.charged
    answer = solver.sample_ising(dict.fromkeys(qubits, 0.1), {}, **params)
    charged = answer.timing["qpu_access_time"]
    assert charged == pytest.approx(
        solver.estimate_qpu_access_time(num_qubits, **params), rel=1e-12
    )
    assert server.charged - spent == pytest.approx(charged)


@pytest.mark.parametrize("topology", ["pegasus-2", "chimera-2", "zephyr-2-2"])
def test_other_shapes_and_defects(topology):
    whole = definition(topology)["properties"]
    (a, b), dead = whole["couplers"][0], whole["qubits"][-1]
    with SolverServer(
        definition(topology, broken_qubits=[dead], broken_couplers=[(b, a)])
    ) as server:
        with connect(server) as client:
            solver = client.get_solver()
            assert dead not in solver.nodes and (a, b) not in solver.edges
            assert len(solver.nodes) == len(whole["qubits"]) - 1
            h = {q: 2.0 if i % 2 else -2.0 for i, q in enumerate(sorted(solver.nodes))}
            sampleset = solver.sample_ising(
                h, {pair: 0.01 for pair in solver.undirected_edges}, auto_scale=False
            )
            assert all(sampleset.samples[0][q] == -np.sign(h[q]) for q in h)
    for qubits, couplers in (([10**6], []), ([], [(a, a)])):
        with pytest.raises(ValueError, match="that could be broken"):
            definition(topology, broken_qubits=qubits, broken_couplers=couplers)


@pytest.mark.parametrize("topology", ["zephyr", "kings-4", "zephyr-0", "zephyr-x"])
def test_unknown_shapes(topology):
    with pytest.raises(
        ValueError, match=f"unknown topology '{topology}': expected one like zephyr-12"
    ):
        definition(topology)


# ---- refusals ----------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_reads": 0}, r"num_reads must be a whole number in \[1, 10000\]; got 0"),
        ({"num_reads": 10_001}, "num_reads must be"),
        (
            {"num_reads": 10_000, "annealing_time": 100.0},
            "problem run duration .* us is over 1000000 us",
        ),
        ({"annealing_time": 0.1}, "annealing_time must be a number in"),
        ({"annealing_time": 9.0, "anneal_schedule": [[0.0, 0.0], [9.0, 1.0]]}, "set only one"),
        ({"anneal_schedule": [[0.0, 0.0], [9.0, 0.7]]}, "anneal_schedule must have"),
        ({"anneal_schedule": [[0.0, 1.0], [9.0, 1.0]]}, "initial_state needs"),
        ({"initial_state": {0: 1}}, "initial_state needs"),
        ({"initial_state": {1: 1}, **REVERSE}, "every active qubit"),
        ({"answer_mode": "best"}, "answer_mode must be"),
        ({"auto_scale": 1}, "auto_scale must be true or false"),
        ({"max_answers": 2}, "max_answers must be"),
        ({"x_strange": 1, "num_reads": True}, "num_reads must be"),
    ],
)
def test_refused_parameters(server, solver, params, message):
    jobs = len(server.jobs)
    with pytest.raises(SolverFailureError, match=message):
        solver.sample_ising({0: 1.0}, {}, **params).result()
    assert len(server.jobs) == jobs


def test_unknown_parameters():
    with pytest.raises(Exception, match="unknown parameter 'beta'"):
        read({"beta": 1}, definition("chimera-1")["properties"])


def test_ranges(server, solver):
    """Outside a range is refused by its name, the edge is inside, auto_scale fits the chip."""
    degree = np.bincount([a for a, _ in solver.edges])
    a, b = pair = next(edge for edge in sorted(solver.edges) if degree[edge[0]] == 20)
    around = {edge: -2.0 for edge in solver.edges if edge[0] == a}
    for h, J, name in [
        ({a: 4.01}, {}, "4.01 is outside h_range"),
        ({}, {pair: 1.01}, "1.01 is outside extended_j_range"),
        ({}, {pair: -2.01}, "-2.01 is outside extended_j_range"),
        ({}, around, "outside per_group_coupling_range"),
    ]:
        with pytest.raises(SolverFailureError, match=re.escape(name)):
            solver.sample_ising(h, J, auto_scale=False).result()
        solver.sample_ising(h, J).result()
        assert server.jobs[-1].scale < 1
    solver.sample_ising({a: 4.0, b: -4.0}, {pair: -2.0}, auto_scale=False).result()
    solver.sample_ising({a: 1.0, b: -0.5}, {pair: -0.1}).result()
    assert server.jobs[-1].scale == 4.0
    solver.sample_ising({a: 0.0}, {}).result()
    assert server.jobs[-1].scale == 1.0


def test_the_coupling_limit_of_pegasus():
    solver = Solver(definition("pegasus-2"))
    assert solver._groups is not None
    group, bounds, member = solver._groups
    assert group == "per_qubit_coupling_range" and bounds == [-18.0, 15.0]
    assert (member.sum(0) == 2).all() and member.shape == (40, len(solver.couplers))


def test_wrong_token_and_solver(server, solver, monkeypatch):
    with pytest.raises(SolverAuthenticationError):
        cloud.Client(endpoint=server.endpoint, token="wrong").get_solver()
    with connect(server) as client:
        with pytest.raises(SolverNotFoundError):
            client.get_solver(name="another")
    monkeypatch.setattr(type(solver.identity), "dict", lambda self: {"name": "gone"})
    with pytest.raises(SolverFailureError, match="Solver does not exist"):
        solver.sample_ising({0: 1.0}, {}).result()


def test_offline():
    with SolverServer("chimera-1") as server, connect(server) as client:
        solver = client.get_solver()
        server.online = False
        with pytest.raises(SolverOfflineError):
            solver.sample_ising({0: 1.0}, {}).result()
        with pytest.raises(SolverNotFoundError):
            client.get_solver(online=True, refresh=True)
        assert server.charged == 0


def test_malformed_requests(server):
    """What no proper client sends: each has its status, and a body that says what was wrong."""
    url, token = server.endpoint + "problems/", {"X-Auth-Token": server.token}
    identity = {"name": "loopback_zephyr-4"}
    good = {
        "solver": identity,
        "type": "ising",
        "data": {"format": "qp", "lin": "", "quad": ""},
        "params": {},
    }
    for body, status, message in [
        ("{", 400, "not JSON"),
        ("[]", 400, "array of problems"),
        ("[3]", 400, "array of problems"),
    ]:
        answer = requests.post(url, data=body, headers=token, timeout=10)
        assert answer.status_code == status and message in answer.json()["error_msg"]
    for change, code, message in [
        ({}, 400, "'lin' must hold 576 numbers; got 0"),
        ({"data": {"format": "qp", "lin": "%", "quad": ""}}, 400, "'lin' must be base64"),
        ({"data": {"format": "qp"}}, 400, "'lin' must be base64"),
        ({"data": {"format": "bq"}}, 400, "format 'qp'"),
        ({"type": "cqm"}, 400, "problem type 'cqm' is not supported"),
        ({"params": []}, 400, "params must be an object"),
        ({"solver": {"name": "gone"}}, 404, "does not exist"),
        ({"solver": identity | {"version": {"graph_id": "old"}}}, 404, "working graph changed"),
    ]:
        answer = requests.post(url, data=json.dumps([good | change]), headers=token, timeout=10)
        (item,) = answer.json()
        assert (
            answer.status_code == 200
            and item["error_code"] == code
            and message in item["error_msg"]
        )
    for path, headers, status in [
        ("problems/?id=nothing", {}, 404),
        ("problems/nothing/", {}, 404),
        ("elsewhere/", {}, 404),
        ("problems/?id=", {"X-Auth-Token": ""}, 401),
        ("solvers/remote/", {"Accept": "application/vnd.dwave.sapi.problems+json"}, 406),
        (
            "solvers/remote/",
            {"Accept": "application/vnd.dwave.sapi.solver-definition-list+json; version=4.0.0"},
            406,
        ),
        ("solvers/remote/", {"Content-Encoding": "br"}, 415),
        ("solvers/remote/", {"Content-Length": "-1"}, 413),
    ]:
        answer = requests.get(server.endpoint + path, headers=token | headers, timeout=10)
        assert answer.status_code == answer.json()["error_code"] == status, path
    assert requests.delete(url, data='{"a": 1}', headers=token, timeout=10).status_code == 400


# ---- manners ----------------


def test_nothing_is_left_behind_and_the_token_is_nowhere(capfd, caplog):
    before = set(threading.enumerate())
    caplog.set_level(logging.DEBUG)
    with SolverServer("chimera-1") as server:
        assert server._http.server_address[0] == "127.0.0.1"
        with connect(server) as client:
            client.get_solver().sample_ising({0: 1.0}, {}).result()
            token = server.token
            assert token not in repr(server) + repr(server.requests) + repr(server.jobs)
        idle = requests.Session()  # a connection kept alive must not keep its thread
        idle.get(server.endpoint, timeout=10)
    idle.close()
    assert set(threading.enumerate()) <= before
    out, err = capfd.readouterr()
    # Ocean logs it at DEBUG itself
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith("dwave")]
    assert ours and token not in out + err + str(ours)


def test_real_time_and_long_polls():
    """A job takes its access time, and a long poll ends with it; both end when the server stops."""
    with SolverServer("chimera-1", real_time=True) as server:
        url, headers = server.endpoint + "problems/", {"X-Auth-Token": server.token}
        data = {"format": "qp", "lin": text(np.ones(8)), "quad": text(np.zeros(16))}
        job = {"solver": {"name": "loopback_chimera-1"}, "type": "ising", "data": data}

        def post(reads):
            body = json.dumps([job | {"params": {"num_reads": reads}}])
            return requests.post(url, data=body, headers=headers, timeout=10).json()[0]["id"]

        first = post(1000)
        (status,) = requests.get(f"{url}?id={first}&timeout=30", headers=headers, timeout=20).json()
        assert status["status"] == "COMPLETED"
        took = datetime.fromisoformat(status["solved_on"]) - datetime.fromisoformat(
            status["submitted_on"]
        )
        assert 1e5 < server.charged <= took.total_seconds() * 1e6
        names = ",".join(post(4000) for _ in range(50))  # half a minute of access time
        last = f"{url}?id={names.split(',')[-1]}&timeout=30"

        def wait():
            # the server may be gone before the request arrives
            with suppress(requests.ConnectionError):
                requests.get(last, headers=headers, timeout=20)

        poll = threading.Thread(target=wait)
        poll.start()
    poll.join(timeout=10)
    assert not poll.is_alive() and server.programmings < 50


def test_the_fixture(sapi):
    """The environment alone leads D-Wave's tools to the server."""
    with system.DWaveSampler() as sampler:
        assert sampler.solver.name == "loopback_zephyr-4"
        assert len(sampler.sample_ising({0: -1.0}, {}, num_reads=3).record) >= 1
    assert len(sapi.jobs) == 1


@pytest.mark.long
def test_the_command(tmp_path):
    """`qsample sapi` prints what to export, serves, and ends with the bill on Ctrl-C."""
    command = [
        sys.executable,
        "-m",
        "qsample.cli",
        "sapi",
        "--topology",
        "chimera-1",
        "--beta",
        "3",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout is not None
        lines = [served.stdout.readline() for _ in range(4)]
        environment = dict(
            line.removeprefix("export ").rstrip().split("=", 1) for line in lines[:3]
        )
        assert "Ctrl-C" in lines[3] and environment["DWAVE_API_ENDPOINT"].startswith(
            "http://127.0.0.1:"
        )
        with cloud.Client(
            endpoint=environment["DWAVE_API_ENDPOINT"], token=environment["DWAVE_API_TOKEN"]
        ) as client:
            client.get_solver().sample_ising({0: 1.0}, {}).result()
        served.send_signal(signal.SIGINT)
        try:
            out, err = served.communicate(timeout=20)
        finally:
            served.kill()  # else leaving the block would wait for it
    assert served.returncode == 0 and err == ""
    assert re.search(r"1 jobs, 1 programmings, 0\.01\d s of QPU access time", out)
