"""Every rule, kernel and sampler reaches the law where spins stand in hardly any field.

A rule that flips such spins for certain, visited in a fixed order, moves domain walls round a ring
for ever.
"""

import networkx
import numpy as np
import pytest
import torch

from qsample import Graph, Ising, Samples
from qsample.annealers import (
    AsDimod,
    Corrected,
    DimodAnnealer,
    ParallelTempering,
    SimulatedAnnealing,
)
from qsample.annealers.kernels.double import sweep_double
from qsample.annealers.kernels.native import sweep_bipartite, sweep_dense, sweep_sparse
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.annealers.kernels.update import METROPOLIS_CYCLE, rule_of
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import Z_MAX
from tests.support.samplers import RIGHT, SLOW
from tests.support.sweeps import run
from tests.support.thinning import thinned

SPREADS = (0.0, 1e-6, 1e-4)  # of h and of J about its value
READS = 2000

# A graph, and |J| at which a hundred sweeps are many.
GRAPHS = {
    "even ring": (networkx.cycle_graph(10), -1.0),
    "odd ring": (networkx.cycle_graph(9), 1.0),
    "chain": (networkx.path_graph(8), -1.0),
    "even torus": (networkx.grid_2d_graph(4, 4, periodic=True), -0.4),
    "odd torus": (networkx.grid_2d_graph(3, 3, periodic=True), 0.5),
    "tree": (networkx.balanced_tree(2, 2), -0.8),
    "K33": (networkx.complete_bipartite_graph(3, 3), 0.4),
    "frustrated K5": (networkx.complete_graph(5), 1.0),
    "cube": (networkx.hypercube_graph(3), -0.5),
}
SPARSE = {
    "sparse": sweep_sparse,
    "dense": sweep_dense,
    "double": sweep_double,
}
SIDES = {
    "bipartite": sweep_bipartite,
    "bipartite, double": sweep_double,
}


def spread_out(graph: Graph, coupling: float) -> Ising:
    """One problem for each spread, a J of their own."""
    g = torch.Generator().manual_seed(3)
    spread = torch.tensor(SPREADS)[:, None]
    J = coupling * (1 + spread * torch.randn(len(SPREADS), graph.num_edges, generator=g))
    return Ising(
        graph, spread * torch.randn(len(SPREADS), graph.num_spins, generator=g), graph.couplings(J)
    )


def a_case(name: str) -> Ising:
    structure, coupling = GRAPHS[name]
    return spread_out(Graph.from_networkx(structure), coupling)


def energy_moments(problem: Ising) -> list[tuple[float, float]]:
    """Mean and standard deviation of E of each problem, over all states in NumPy."""
    n = problem.num_spins
    s = 2.0 * (np.arange(1 << n)[:, None] >> np.arange(n) & 1) - 1
    i, j = problem.graph.edges.numpy()
    values = problem.graph.edge_values(problem.J).double().numpy()
    moments = []
    for h, J in zip(problem.h.double().numpy(), values, strict=True):
        E = s @ h + (s[:, i] * s[:, j]) @ J
        p = np.exp(E.min() - E)
        p /= p.sum()
        mean = float(p @ E)
        moments.append((mean, float(p @ (E - mean) ** 2) ** 0.5))
    return moments


def check_law(
    problem: Ising, spins: torch.Tensor, cases: int, weights: torch.Tensor | None = None
) -> None:
    energy = problem.to(dtype=torch.float64).energy(spins)
    samples = Samples(spins, energy, weights)
    means, sizes = samples.mean(energy), samples.ess()
    for k, (mean, deviation) in enumerate(energy_moments(problem)):
        z = (float(means[k]) - mean) / (deviation / float(sizes[k]) ** 0.5)
        assert abs(z) < Z_MAX, (SPREADS[k], float(means[k]), mean)
    for spread, (p_value, distance, floor) in zip(SPREADS, g_test(problem, samples), strict=True):
        assert p_value > FALSE_ALARM / (len(SPREADS) * cases), (spread, distance, floor)


CASES = [(name, kernel, "metropolis") for name in GRAPHS for kernel in SPARSE if kernel != "double"]
# in torch, and slow
CASES += [(name, "double", "metropolis") for name in ("even ring", "frustrated K5")]
CASES += [("even ring", kernel, "gibbs") for kernel in SPARSE]


@pytest.mark.parametrize(("name", "kernel", "rule"), CASES)
def test_every_kernel_reaches_the_law(name, kernel, rule):
    problem = a_case(name)
    swept = SPARSE[kernel](problem, READS, [1.0] * 100, [1, 2, 3], rule=rule)
    check_law(problem, swept.spins, len(CASES))


@pytest.mark.parametrize("sizes", [(3, 3), (1, 6)])
@pytest.mark.parametrize("kernel", SIDES)
@pytest.mark.parametrize("rule", ["gibbs", "metropolis"])
def test_every_kernel_of_two_sides_reaches_the_law(sizes, kernel, rule):
    problem = spread_out(Graph.bipartite(*sizes), -0.4)
    swept = SIDES[kernel](problem, READS, [1.0] * 100, [1, 2, 3], rule=rule)
    check_law(problem, swept.spins, 2 * len(SIDES) * 2)


TORCH = {
    "colours": lambda: a_case("even ring"),
    "one by one": lambda: spread_out(Graph.complete(5), 1.0),
    "two sides": lambda: spread_out(Graph.bipartite(3, 3), -0.4),
}


@pytest.mark.parametrize(
    ("kernel", "precision"), [*((kernel, "full") for kernel in TORCH), ("two sides", "bfloat16")]
)
def test_torch_kernels_reach_the_law(kernel, precision):
    """What other devices run, and the products with their native draws."""
    problem = TORCH[kernel]()
    settings = {"rule": "metropolis", "precision": precision, "native": False}
    spins, _, _ = run(problem, READS, [1.0] * 100, [1, 2, 3], **settings)
    check_law(problem, spins, 4)


# Rules that the contract does not ask.
SAMPLERS = RIGHT | {
    "annealing adaptive metropolis": SimulatedAnnealing(400, (0.0, 1.0), "adaptive", "metropolis"),
    "tempering metropolis": ParallelTempering(60, 4, rule="metropolis"),
    "corrected by metropolis": Corrected(
        SimulatedAnnealing(3, (0.1, 5.0)), ParallelTempering(60, 4, rule="metropolis")
    ),
    "through Ocean": DimodAnnealer(AsDimod(SimulatedAnnealing(schedule=SLOW, rule="metropolis"))),
}


@pytest.mark.parametrize("name", thinned(SAMPLERS, 2))
def test_every_sampler_reaches_the_law_of_a_ring(name):
    problem = a_case("even ring")
    found = SAMPLERS[name].sample(problem, 2000, generator=torch.Generator().manual_seed(5))
    check_law(problem, found.spins, len(SAMPLERS), found.log_weight)


@pytest.mark.parametrize("sweeps", [1, 3])
def test_short_calls_one_after_the_other_reach_it_too(sweeps):
    """Each call numbers its sweeps from 0: the heat bath must be among the first."""
    problem, sampler = a_case("even ring"), ParallelTempering(sweeps, (0.5, 1.0), rule="metropolis")
    generator, found = torch.Generator().manual_seed(6), None
    for _ in range(40):
        found = sampler.sample(problem, 1000, initial=found, generator=generator)
    assert found is not None
    check_law(problem, found.spins, 2)


@pytest.mark.parametrize("graph", [Graph.from_networkx(networkx.cycle_graph(6)), Graph.complete(5)])
def test_replicas_swept_one_sweep_a_call_go_on_counting(graph):
    """As between swaps: the draws of sweep t do not depend on how sweeps are split into calls."""
    problem = spread_out(graph, 0.5)
    whole, parts = (Sweeper(problem, 40, [1, 2, 3], rule="metropolis") for _ in range(2))
    whole.sweep(torch.ones(2 * METROPOLIS_CYCLE + 1))
    for _ in range(2 * METROPOLIS_CYCLE + 1):
        parts.sweep(torch.ones(1))
    assert torch.equal(whole.spins, parts.spins)


def test_which_sweeps_are_of_the_heat_bath():
    assert [rule_of("metropolis", k) for k in range(5)] == ["gibbs", *["metropolis"] * 3, "gibbs"]
    assert {rule_of("gibbs", k) for k in range(5)} == {"gibbs"}
