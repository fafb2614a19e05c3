"""`DWave` on the loopback processor: the law of its reads, temperature, placements and gauges."""

from dataclasses import replace

import dimod
import dimod.testing
import numpy as np
import pytest
import torch

import qsample as qs
from qsample.annealers import AsDimod, Corrected, Exact, Gibbs
from qsample.testing import FALSE_ALARM, g_test
from tests.support.seeds import generator
from tests.support.solver_api import cell, connect, whole

pytest.importorskip("dwave.cloud")
pytest.importorskip("dwave.system")
from qsample.annealers.dwave import OffTarget  # noqa: E402
from qsample.testing.sapi import Chip, SolverServer, definition  # noqa: E402
from tests.support.thinning import thinned

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture(scope="module")
def chimera():
    with SolverServer("chimera-1", chip=Chip(beta=3.0)) as server:
        yield server


@pytest.fixture(scope="module", params=thinned(["zephyr-4", "zephyr-12"], 2))
def zephyr(request):
    """A server, its name, and the graph of all its qubits."""
    with SolverServer(request.param, chip=Chip(sweeps=32)) as server:
        yield server, request.param, whole(server, f"loopback_{request.param}", 1.0, bias=1.0)


# Couplings such that 1/beta times each problem fits the ranges: |h| <= 4, -2 <= J <= 1, groups in
# [-13, 10].
@pytest.mark.parametrize(
    ("beta", "scale"), thinned([(1.0, 0.12), (0.5, 0.06), (3.0, 0.2), (8.5, 0.2)], 4)
)
def test_the_hidden_beta_is_found(zephyr, beta, scale):
    """After 1,000 reads: |z| < 4 and within 3 %; the next call is at beta 1."""
    server, name, problem = zephyr
    server._processor.chip = replace(server._processor.chip, beta=beta)
    with connect(server) as sampler:
        info = sampler.sample(problem.scale(scale), 1000, generator=generator()).info
        assert not info["range_limited"]
        estimate, stderr = info["beta"] / info["scale"], info["beta_stderr"] / info["scale"]
        assert abs(estimate - beta) < 4 * stderr and abs(estimate - beta) < 0.03 * beta
        if name == "zephyr-4":
            again = sampler.sample(problem.scale(scale), 1000, generator=generator(1)).info
            assert (
                abs(again["beta"] - 1)
                < 5 * (again["beta_stderr"] ** 2 + stderr**2 / beta**2) ** 0.5
            )


# ---- the law ----------------


def test_second_moments_after_calibration(chimera):
    """K_4,4 exactly: every mean and pair, after the first call has set the temperature."""
    problem = cell()
    with connect(chimera) as sampler:
        sampler.sample(problem, 4000, generator=generator())
        samples = sampler.sample(problem, 4000, generator=generator(1))
    states = torch.tensor(list(np.ndindex(*[2] * 8))).to(torch.int8) * 2 - 1
    p = (-problem.energy(states)).softmax(0)
    i, j = torch.triu_indices(8, 8, 1)

    def features(spins):
        return torch.cat([spins, spins[:, i] * spins[:, j]], 1).double()

    mean = p @ features(states)
    z = (features(samples.spins).mean(0) - mean) / ((1 - mean**2) / 4000).sqrt()
    assert z.abs().max() < 5
    assert g_test(problem, samples)[0][0] > FALSE_ALARM / 100
    assert g_test(problem.scale(1.2), samples)[0][0] < FALSE_ALARM / 100
    assert torch.allclose(samples.energy, problem.energy(samples.spins))
    assert samples.exactness is qs.Exactness.HEURISTIC


@pytest.mark.parametrize(
    "graph", [qs.Graph.complete(6), qs.Graph.bipartite(5, 4), None], ids=["K6", "RBM", "sparse"]
)
def test_embedded_problems(chimera, graph):
    """A graph that needs chains: the logical beta, energies and the caller's order of spins."""
    g = generator(3)
    graph = graph or qs.Graph.sparse(5, [(0, 1), (1, 2), (2, 0), (3, 1), (4, 3)], "abcde")
    J = graph.couplings(0.4 * torch.randn(graph.num_edges, generator=g, dtype=torch.float64))
    problem = qs.Ising(
        graph, 0.4 * torch.randn(graph.num_spins, generator=g, dtype=torch.float64), J
    )
    with (
        SolverServer("zephyr-4", chip=Chip(beta=3.0)) as server,
        connect(server, copies=1) as sampler,
    ):
        sampler.sample(problem, 2000, generator=generator())
        samples = sampler.sample(problem, 2000, generator=generator(1))
    info = samples.info
    assert info["beta_stderr"] < 0.1 and abs(info["beta"] - 1) < 5 * 2**0.5 * info["beta_stderr"]
    assert 0 <= info["chain_break_fraction"] < 0.2
    assert torch.allclose(samples.energy, problem.energy(samples.spins))
    exact = Exact().sample(problem, 20_000, generator=g)
    z = (samples.mean() - exact.mean()) / ((1 - exact.mean() ** 2) * (1 / 2000 + 1 / 20_000)).sqrt()
    assert z.abs().max() < 8  # chains bend the law a little


def test_a_batch_is_one_programming_a_group_of_tiles():
    """100 conditional problems: few jobs, and all accepted before the first is read."""
    problem = cell((100,))
    with SolverServer("zephyr-4", chip=Chip(beta=3.0)) as server, connect(server) as sampler:
        sampler.sample(problem, 10, generator=generator())  # pilot, and the search for a place
        before = server.programmings
        with server.held():
            pending = sampler.submit(problem, 10, generator=generator(1))
            assert not pending.done()
        samples = pending.result()
        (site,) = sampler.state.sites.values()
        assert site.placement.copies > 10
        assert server.programmings - before == -(-100 // site.placement.copies)
    assert samples.spins.shape == (100, 10, 8) and samples.info["gauge"].shape == (100, 1, 8)
    assert torch.allclose(samples.energy, problem.energy(samples.spins))
    states = torch.tensor(list(np.ndindex(*[2] * 8))).to(torch.int8) * 2 - 1
    p = (-problem.energy(states.expand(100, -1, -1))).softmax(-1)
    energy = problem.energy(states.expand(100, -1, -1))
    mean = (p * energy).sum(-1)
    variance = (p * energy**2).sum(-1) - mean**2
    z = (samples.energy.mean(-1) - mean).sum() / (variance / 10).sum().sqrt()
    assert abs(z) < 5


def test_copies_of_one_problem_share_the_reads():
    """On many tiles, a few reads of the chip are many of the problem, each counted once."""
    with SolverServer("zephyr-4", chip=Chip(beta=3.0)) as server, connect(server) as sampler:
        samples = sampler.sample(cell(), 500, generator=generator())
        (site,) = sampler.state.sites.values()
        assert server.jobs[-1].request.num_reads == -(-500 // site.placement.copies)
        assert samples.spins.shape == (500, 8)


# ---- options ----------------


def test_a_range_that_forbids_beta_1():
    """The largest factor is used, the beta told, and a warning says that nothing corrects it."""
    with SolverServer(definition("chimera-1", h_range=[-0.1, 0.1]), chip=Chip(beta=3.0)) as server:
        problem = cell()
        with connect(server) as sampler:
            sampler.sample(cell(scale=0.05), 100, generator=generator())
            with pytest.warns(
                OffTarget, match=r"allow the factor 0.0\d+ at most: the reads are at beta 0"
            ):
                samples = sampler.sample(problem, 4000, generator=generator())
            info = samples.info
            assert info["range_limited"] and 0.1 < info["beta"] < 0.5
            assert abs(info["beta"] - 3 * info["scale"]) < 5 * info["beta_stderr"]
            assert float(problem.h.abs().max()) * info["scale"] == pytest.approx(0.1, rel=1e-4)
            corrected = Corrected(sampler, Gibbs(50)).sample(problem, 4000, generator=generator())
            assert g_test(problem, corrected)[0][0] > FALSE_ALARM / 100
            assert corrected.info["before"]["range_limited"]
        with connect(server, reweight=True) as sampler:
            weighted = sampler.sample(problem, 4000, generator=generator())
    assert weighted.exactness is qs.Exactness.HEURISTIC and 10 < float(weighted.info["ess"]) < 4000
    exact = Exact().sample(problem, 20_000, generator=generator())
    spread = (weighted.energy.var() / weighted.info["ess"]).sqrt()
    assert abs(weighted.mean(weighted.energy) - exact.energy.mean()) < 5 * spread


def test_gauges_average_a_bias_out():
    """A chip that favours one direction shifts every spin without gauges; many average it out."""
    problem = cell(scale=0.0)
    with SolverServer("chimera-1", chip=Chip(beta=3.0, bias=0.2)) as server:
        with connect(server, gauges=0, prefactor=1 / 3) as sampler:
            bare = sampler.sample(problem, 2000, generator=generator()).spins.double().mean()
        with connect(server, gauges=20, prefactor=1 / 3) as sampler:
            samples = sampler.sample(problem, 2000, generator=generator())
            assert len(server.jobs) == 21 and samples.info["gauge"].shape == (20, 8)
    turned = np.tanh(0.2 * 3.0)
    assert abs(bare + turned) < 5 * ((1 - turned**2) / 16_000) ** 0.5
    means = samples.spins.reshape(20, 100, 8).double().mean(1) * samples.info["gauge"]
    assert abs(means.mean() + turned) < 5 * ((1 - turned**2) / 16_000) ** 0.5
    assert abs(samples.spins.double().mean()) < 5 * turned / 160**0.5


def test_reads_beyond_one_job_are_several(chimera):
    with connect(chimera, num_reads=300) as sampler:
        samples = sampler.sample(cell(), 1000, generator=generator())
        assert samples.spins.shape == (1000, 8) and len(samples.info["job_ids"]) == 1 + 4
        assert samples.info["gauge"].shape == (4, 8)


def test_parameters_pass_through(chimera):
    more = {
        "readout_thermalization": 10.0,
        "reduce_intersample_correlation": True,
        "answer_mode": "histogram",
    }
    with connect(chimera, annealing_time=50.0, parameters=more) as sampler:
        samples = sampler.sample(cell(), 500, generator=generator())
        params = chimera.jobs[-1].params
        assert params == more | {"annealing_time": 50.0, "num_reads": 500, "auto_scale": False}
        assert samples.spins.shape == (500, 8)
        assert samples.info["qpu_access_time"] == pytest.approx(
            sum(job.charged for job in chimera.jobs[-2:])
        )
        parts = samples.info["qpu_parts"]
        assert sum(parts.values()) == pytest.approx(samples.info["qpu_access_time"])
        reads = parts["anneal"] / 50.0  # every read, the pilot's too, annealed for 50 µs
        assert reads == pytest.approx(sum(job.params["num_reads"] for job in chimera.jobs[-2:]))


def test_a_problem_of_local_minima_only():
    """No finite beta explains the reads: the pilot tries smaller scales, the estimate says why."""
    with SolverServer("chimera-1", chip=Chip(beta=60.0)) as server:
        with connect(server) as sampler:
            cold = sampler.sample(cell(scale=15.0), 50, generator=generator())
            assert cold.info["beta"] == np.inf and "local minima" in cold.info["note"]
            assert 20 < cold.info["chip_beta"] < 180 and len(server.jobs) > 2
        with connect(server) as sampler:
            flat = sampler.sample(cell(scale=0.0), 50, generator=generator())
            assert np.isnan(flat.info["beta"]) and "no spin feels a field" in flat.info["note"]


def test_reverse_annealing(chimera):
    problem = cell()
    reverse = [(0, 1), (5, 0.5), (10, 1)]
    with (
        connect(chimera) as sampler,
        pytest.raises(ValueError, match=r"pass reverse=.*or use Corrected"),
    ):
        sampler.sample(problem, 4, initial=Exact().sample(problem, 4))
    with connect(chimera, reverse=reverse, parameters={"reinitialize_state": True}) as sampler:
        assert sampler.warm_start and not sampler.reversible
        first = sampler.sample(problem, 6, generator=generator())
        start = torch.ones(6, 8, dtype=torch.int8)
        start[4:] = -1
        before = len(chimera.jobs)
        samples = sampler.sample(
            problem, 6, initial=qs.Samples(start, torch.zeros(6)), generator=generator()
        )
        assert samples.spins.shape == first.spins.shape
        jobs = chimera.jobs[before + 1 :]  # the pilot of this anneal comes first
        assert sorted(job.request.num_reads for job in jobs) == [2, 4] and all(
            job.request.reverse for job in jobs
        )
        for job in jobs:
            state = torch.tensor(job.request.initial_state[:8]) * samples.info["gauge"][0]
            assert abs(state.sum()) == 8


def test_repair_of_broken_chains():
    """Weak chains break; a heat-bath step on the broken variables leaves the others as they are."""
    g = generator(3)
    graph = qs.Graph.complete(8)
    J = graph.couplings(0.5 * torch.randn(28, generator=g, dtype=torch.float64))
    problem = qs.Ising(graph, torch.zeros(8, dtype=torch.float64), J)
    samples = {}
    for repair in ("majority", "gibbs"):
        with SolverServer("zephyr-4", chip=Chip(beta=3.0)) as server:
            with connect(server, repair=repair, chain_strength=0.3, copies=1) as sampler:
                samples[repair] = sampler.sample(problem, 500, generator=generator())
    same = (samples["majority"].spins == samples["gibbs"].spins).double().mean()
    broken = samples["gibbs"].info["chain_break_fraction"]
    assert broken > 0.01 and 1 - broken <= same < 1
    assert torch.allclose(samples["gibbs"].energy, problem.energy(samples["gibbs"].spins))


def test_calls_overlap():
    """Two calls are under way at once, and read in any order."""
    problem = cell()
    with SolverServer("chimera-1", chip=Chip(beta=3.0)) as server, connect(server) as sampler:
        sampler.sample(problem, 10, generator=generator())
        with server.held():
            first, second = (sampler.submit(problem, 10, generator=generator(k)) for k in range(2))
            for job in (*first._jobs, *second._jobs):
                job.future.wait_id(10)
            assert not first.done() and not second.done() and len(server.jobs) == 4
        assert second.result() is second.result() and first.result().spins.shape == (10, 8)
        assert set(first.result().info["job_ids"]) != set(second.result().info["job_ids"])


# ---- as dimod sees it ----------------


@pytest.fixture(scope="module")
def session():
    with (
        SolverServer("chimera-2", chip=Chip(beta=3.0, sweeps=16)) as server,
        connect(server) as sampler,
    ):
        yield AsDimod(sampler)


def test_dimod_api(session):
    dimod.testing.assert_sampler_api(session)


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
@pytest.mark.parametrize("linear", [{}, {"a": 0.5}, {"a": 1.0, "b": -1.0, (0, "c"): 0.25}])
@pytest.mark.parametrize("kind", [dimod.DictBQM, dimod.Float32BQM, dimod.Float64BQM])
def test_dimod_problems(session, kind, linear, vartype):
    """The cases of `dimod.testing.load_sampler_bqm_tests`: empty, one variable, a path."""
    labels = list(linear)
    bqm = kind(linear, dict.fromkeys(zip(labels, labels[1:], strict=False), 0.75), 1.5, vartype)
    sampleset = session.sample(bqm, num_reads=3)
    assert (
        sampleset.vartype is bqm.vartype
        and set(sampleset.variables) == set(bqm.variables)
        and len(sampleset) == 3
    )
    dimod.testing.assert_sampleset_energies(sampleset, bqm, precision=5)
