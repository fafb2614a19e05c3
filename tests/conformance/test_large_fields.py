"""Fields too large for single precision: draws in double precision, or a refusal in one line."""

import math

import pytest
import torch

from qsample import Graph, Ising, ReliabilityWarning, Samples, diagnose, log_partition
from qsample.annealers import (
    AnnealedImportance,
    Corrected,
    Exact,
    Gibbs,
    Neal,
    ParallelTempering,
    PopulationAnnealing,
    SimulatedAnnealing,
    TemperedGibbs,
)
from qsample.annealers.kernels.double import sweep_double
from qsample.annealers.kernels.energies import energies
from qsample.annealers.kernels.native import sweep_bipartite, sweep_dense, sweep_sparse
from qsample.annealers.kernels.precision import field_sizes, wide_problems, working
from qsample.annealers.kernels.sweeper import native_for
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import KINDS, Z_MAX, a_graph, a_problem, one_by_one, slow_energy
from tests.support.sweeps import run

pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of runs this short

READS = 2000


def cancelling(
    kind: str, v: float, small: float = 0.5, dtype: torch.dtype = torch.float64
) -> Ising:
    """Two spins: 4 v holds the second at -1: the first stands in the field v + small - v."""
    h, J = torch.tensor([v + small, 4 * v], dtype=dtype), torch.tensor(v, dtype=dtype)
    graph = {
        "sparse": Graph.sparse(2, [(0, 1)]),
        "bipartite": Graph.bipartite(1, 1),
        "complete": Graph.complete(2),
    }[kind]
    return Ising(graph, h, graph.couplings(J[None]))


def z_of_first_spin(spins: torch.Tensor, field: float) -> float:
    """Of the mean of spin 0, which is -tanh(field)."""
    mean = -math.tanh(field)
    return (float(spins[..., 0].double().mean()) - mean) / (
        (1 - mean**2) / spins[..., 0].numel()
    ) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("v", [3e7, 1e11])
def test_a_small_field_beside_large_ones_that_cancel(kind, v):
    spins = (
        Gibbs(9)
        .sample(cancelling(kind, v), READS, generator=torch.Generator().manual_seed(1))
        .spins
    )
    assert abs(z_of_first_spin(spins, 0.5)) < Z_MAX
    assert (spins[:, 1] == -1).all()


SAMPLERS = {
    "gibbs": Gibbs(9),
    "palindromic": Gibbs(9, scan="palindromic"),
    "annealing": SimulatedAnnealing(20),
    "metropolis": SimulatedAnnealing(20, rule="metropolis"),
    "adaptive": SimulatedAnnealing(20, (0.01, 1.0), "adaptive"),
    "tempering": ParallelTempering(8, 3),
    "tempered": TemperedGibbs(3, rounds=2),
    "importance": AnnealedImportance(20),
    "corrected": Corrected(SimulatedAnnealing(3), Gibbs(9)),
    "neal": Neal(50),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_minds_them(name):
    found = SAMPLERS[name].sample(
        cancelling("sparse", 1e8), READS, generator=torch.Generator().manual_seed(2)
    )
    assert abs(z_of_first_spin(found.spins, 0.5)) < Z_MAX
    assert found.energy.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_single_precision_numbers_are_rounded_too(kind):
    """h and J are float32: only their sum, 0.25, is not within reach of the first terms."""
    v = 2.0**26
    h = torch.tensor([v, 4 * v, -9.0])
    J = torch.tensor([v, 0.25, 0.0])  # 0-1, 0-2, 1-2: spin 1 is held at -1, spin 2 at +1
    if kind == "sparse":
        problem = Ising.from_edges(h, [(0, 1), (0, 2)], J[:2])
    else:
        graph = Graph.bipartite(1, 2) if kind == "bipartite" else Graph.complete(3)
        problem = Ising(graph, h, graph.couplings(J[: graph.num_edges]))
    spins = Gibbs(9).sample(problem, READS, generator=torch.Generator().manual_seed(3)).spins
    assert abs(z_of_first_spin(spins, 0.25)) < Z_MAX


def test_whole_numbers_of_one_unit_need_no_more_than_single_precision():
    for scale in (2.0**20, 3.0 * 2.0**19):
        wide = wide_problems(cancelling("sparse", scale, scale / 2), coldest=1e9)
        assert (
            wide is not None
            and wide.fields.tolist() == [False]
            and wide.energies.tolist() == [True]
        )
    assert native_for(cancelling("sparse", 1.0), coldest=1e9) is sweep_sparse
    spins = (
        Gibbs(9)
        .sample(
            cancelling("sparse", 2.0**21, 1.0), READS, generator=torch.Generator().manual_seed(4)
        )
        .spins
    )
    assert abs(z_of_first_spin(spins, 1.0)) < Z_MAX


def test_who_serves_whom():
    native = {"sparse": sweep_sparse, "bipartite": sweep_bipartite, "complete": sweep_dense}
    for kind in KINDS:
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            graph = (
                Graph.sparse(9, [(k, k + 1) for k in range(8)])
                if kind == "sparse"
                else a_graph(kind)
            )
            assert native_for(a_problem(graph, dtype=dtype)) is native[kind]
    cold = a_problem(Graph.sparse(9, [(k, k + 1) for k in range(8)]))
    assert native_for(cold, coldest=1e6) is not sweep_sparse  # the largest beta counts
    assert working(cold).dtype == working(cold.to(dtype=torch.float64)).dtype == torch.float64
    assert working(cold.to(dtype=torch.float16)).dtype == torch.float32
    assert working(cold.to(dtype=torch.float32), 1e6).dtype == torch.float64


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [False, True])
def test_field_sizes(kind, own):
    problem = a_problem(a_graph(kind), h=(3,), J=(3,) if own else ())
    for k, (_, alone) in enumerate(one_by_one(problem)):
        fields = alone.h.abs().clone()
        i, j = alone.graph.edges
        for a, b, J in zip(
            i.tolist(), j.tolist(), alone.graph.edge_values(alone.J).tolist(), strict=True
        ):
            fields[a] += abs(J)
            fields[b] += abs(J)
        torch.testing.assert_close(field_sizes(problem)[k], fields.max(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["gibbs", "adaptive", "tempering", "tempered"])
@pytest.mark.parametrize("offset", [1e17, -3e300])
def test_an_offset_changes_no_draw(name, offset):
    """Beside a large one differences of energies would be rounded away."""
    problem = a_problem(a_graph("sparse"), scale=0.7)
    shifted = Ising(problem.graph, problem.h, problem.J, torch.tensor(offset, dtype=torch.float64))
    found, other = (
        SAMPLERS[name].sample(p, 50, generator=torch.Generator().manual_seed(1))
        for p in (problem, shifted)
    )
    assert torch.equal(found.spins, other.spins)


# ---- beyond double ----------------

REFUSING = SAMPLERS | {"population": PopulationAnnealing(2)}


@pytest.mark.parametrize("name", REFUSING)
@pytest.mark.parametrize("size", [1e15, 1e300])
def test_what_double_precision_cannot_hold_is_refused(name, size):
    problem = cancelling("sparse", size)
    with pytest.raises(
        ValueError, match=rf"local fields of up to 5e\+{round(math.log10(size))}: .*problem.scale"
    ) as e:
        REFUSING[name].sample(problem, 4)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_refusal_names_the_problem_of_a_batch(kind, dtype):
    one = cancelling(kind, 1e30, dtype=dtype)
    scale = torch.tensor([1e-30, 1.0], dtype=dtype)
    with pytest.raises(
        ValueError, match=r"problem 1 of the batch has local fields of up to 5e\+30"
    ):
        Gibbs(3).sample(one.scale(scale), 4)


def test_a_beta_may_be_too_cold():
    problem = a_problem(a_graph("sparse"))
    with pytest.raises(
        ValueError, match=r"local fields of up to \S+ at beta 1e\+20: .*problem.scale"
    ):
        SimulatedAnnealing(3, (1.0, 1e20)).sample(problem, 2)
    whole = Ising(problem.graph, problem.h.round(), problem.J.round())
    assert SimulatedAnnealing(3, (1.0, 1e20)).sample(whole, 2).spins.shape == (2, 5)


def test_bfloat16_products_are_refused_where_single_precision_would_not_do():
    problem = cancelling("bipartite", 1e6 / 3, dtype=torch.float32)
    with pytest.raises(ValueError, match="'bfloat16' is too coarse for fields.*use 'full'"):
        Gibbs(3, precision="bfloat16").sample(problem, 2)


# ---- batches ----------------


BATCHES = [(name, kind) for name in ("gibbs", "tempering") for kind in KINDS]
BATCHES += [(name, "sparse") for name in ("metropolis", "tempered", "importance")]
SLOW = pytest.param("adaptive", "sparse", marks=pytest.mark.long)


@pytest.mark.parametrize(("name", "kind"), [*BATCHES, SLOW])
@pytest.mark.parametrize(("own", "dtype"), [(False, torch.float64), (True, torch.float32)])
def test_a_large_problem_changes_nothing_for_the_others_of_a_batch(kind, own, dtype, name):
    problem = a_problem(a_graph(kind), h=(4,), J=(4,) if own else (), offset=(4,), dtype=dtype)
    large = problem.h.clone()
    large[2] *= 3e6
    problem, sampler = Ising(problem.graph, large, problem.J, problem.offset), SAMPLERS[name]
    wide = wide_problems(problem)
    assert wide is not None and wide.fields.tolist() == [False, False, True, False]

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(k) for k in range(4)]

    together = sampler.sample(problem, 6, generator=generators())
    for ((k,), alone), generator in zip(one_by_one(problem), generators(), strict=True):
        single = sampler.sample(alone, 6, generator=generator)
        assert torch.equal(single.spins, together.spins[k])
        assert torch.equal(single.energy, together.energy[k])


# ---- energies ----------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [((), ()), ((3,), (3,))])
def test_energies_of_double_problems_are_double(kind, shape):
    problem = a_problem(a_graph(kind), h=shape[0], J=shape[1], offset=shape[0])
    for name, sampler in SAMPLERS.items():
        found = sampler.sample(problem, 5, generator=torch.Generator().manual_seed(0))
        assert found.energy.dtype == torch.float64
        for at, alone in one_by_one(problem):
            for spins, energy in zip(
                found.spins[at].tolist(), found.energy[at].tolist(), strict=True
            ):
                assert math.isclose(
                    energy, slow_energy(alone, spins), rel_tol=1e-12, abs_tol=1e-13
                ), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energies_that_decide_are_summed_in_double(kind, dtype):
    """Those of swaps and weights, also where float32 would round sums of large whole numbers."""
    problem = a_problem(a_graph(kind), h=(2,), J=(2,), offset=(2,), scale=1e5)
    problem = Ising(
        problem.graph, *(t.round().to(dtype) for t in (problem.h, problem.J, problem.offset))
    )
    spins = (
        2
        * torch.randint(2, (2, 37, 5), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
        - 1
    )
    found = energies(problem, spins)
    for (k,), alone in one_by_one(problem):
        for state, energy in zip(spins[k].tolist(), found[k].tolist(), strict=True):
            assert math.isclose(
                energy, slow_energy(alone.to(dtype=torch.float64), state), rel_tol=1e-12
            )


def test_native_energies_of_many_spins():
    """A graph of several blocks of reads, against torch's own sum."""
    g = torch.Generator().manual_seed(0)
    pairs = torch.triu_indices(70, 70, 1).T[torch.randperm(2415, generator=g)[:300]]
    problem = Ising(
        Graph.sparse(70, pairs),
        torch.randn(3, 70, generator=g, dtype=torch.float64),
        torch.randn(3, 300, generator=g, dtype=torch.float64),
    )
    for reads in (1, 16, 45):
        spins = 2 * torch.randint(2, (3, reads, 70), generator=g, dtype=torch.int8) - 1
        torch.testing.assert_close(
            energies(problem, spins), problem.energy(spins), rtol=1e-12, atol=1e-12
        )


# ---- other types ----------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["native", "torch"])
def test_half_precision_problems_follow_their_law(kind, dtype, way):
    """Their numbers are few bits, the sums of them are not."""
    problem = a_problem(a_graph(kind), scale=0.5, dtype=dtype)
    if way == "native":
        found = Gibbs(30).sample(problem, 20_000, generator=torch.Generator().manual_seed(1))
        spins, energy = found.spins, found.energy
    else:
        spins, energy, _ = run(problem, 20_000, [1.0] * 30, [1], native=False)
    assert energy.dtype == dtype
    exact = problem.to(dtype=torch.float64)
    torch.testing.assert_close(energy, exact.energy(spins).to(dtype))
    found = Gibbs(1).sample(exact, 1)
    samples = type(found)(spins, exact.energy(spins))
    assert g_test(exact, samples)[0][0] > FALSE_ALARM / 12


def test_energies_beyond_float16_are_refused():
    h, J = torch.tensor([6e4, -6e4], dtype=torch.float16), torch.tensor([6e4], dtype=torch.float16)
    problem = Ising.from_edges(h, [(0, 1)], J)
    for sampler in (
        Gibbs(3),
        Exact(),
        ParallelTempering(4, 2),
        PopulationAnnealing(2, 64),
        AnnealedImportance(20),
    ):
        with pytest.raises(
            ValueError,
            match=r"energies of up to 180000 do not fit torch.float16.*dtype=torch.float32",
        ):
            sampler.sample(problem, 2)
    assert Gibbs(3).sample(problem.to(dtype=torch.float32), 2).energy.isfinite().all()


def test_one_seed_one_answer_in_single_and_double():
    """Wherever single precision decides alike."""
    for kind in KINDS:
        problem = a_problem(a_graph(kind), dtype=torch.float32)
        for name in ("gibbs", "palindromic", "metropolis", "tempered"):
            found = [
                SAMPLERS[name].sample(p, 50, generator=torch.Generator().manual_seed(7)).spins
                for p in (problem, problem.to(dtype=torch.float64))
            ]
            assert torch.equal(*found), (kind, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["gibbs", "metropolis"])
@pytest.mark.parametrize("scan", ["forward", "palindromic"])
def test_double_sweeps_go_on_where_they_stopped(kind, rule, scan):
    problem, betas = a_problem(a_graph(kind), h=(2,)), torch.linspace(0.2, 1.5, 9)
    how = {"rule": rule, "scan": scan}
    whole = sweep_double(problem, 7, betas, [4, 5], **how)
    first = sweep_double(problem, 7, betas[:2], [4, 5], **how)
    rest = sweep_double(problem, 7, betas[2:], [4, 5], spins=first.spins, first_sweep=2, **how)
    assert torch.equal(rest.spins, whole.spins) and torch.equal(rest.energy, whole.energy)


def test_exact_refuses_what_double_precision_loses():
    """A field of .5 is lost beside one of 1e16; whole multiples of one number are not."""
    for graph in (Graph.sparse(2, [(0, 1)]), Graph.bipartite(1, 1), Graph.complete(2)):
        lost = Ising(
            graph, torch.tensor([1e16, 0.5]).double(), graph.couplings(torch.zeros(1).double())
        )
        calls = {
            "Exact": lambda p=lost: Exact().sample(p, 2),
            "log_partition": lambda p=lost: log_partition(p, "exact"),
            "diagnose": lambda p=lost: diagnose(
                p, Samples(torch.ones(40, 2).to(torch.int8), torch.ones(40).double())
            ),
        }
        for call in calls.values():
            with pytest.raises(
                ValueError, match=r"of 1e\+16 smaller ones are lost.*problem.scale\(1e-16\)"
            ):
                call()
    whole = Ising(graph, torch.tensor([1e16, 2e16]).double(), torch.zeros(2, 2).double())
    assert (Exact().sample(whole, 50).spins == -1).all()


def test_a_path_of_long_steps_is_noted():
    """A pin that nearly cancels at the end: all runs agree on a law that is not the problem's."""
    v = 1e3
    pinned = Ising.from_edges(torch.tensor([v + 0.5, 2 * v]), [(0, 1)], torch.tensor([v]))
    with pytest.warns(ReliabilityWarning, match="a sweep changes a field by up to 10: raise s"):
        samples = AnnealedImportance(100).sample(
            pinned, 200, generator=torch.Generator().manual_seed(0)
        )
    assert "a sweep changes a field" in samples.info["note"]
    free = Ising.from_edges(torch.tensor([v, 0.5]), [(0, 1)], torch.tensor([0.3]))
    # a large field alone is no step
    assert AnnealedImportance(100).sample(free, 200).info["note"] == ""
