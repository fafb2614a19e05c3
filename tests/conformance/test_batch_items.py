"""Batch of 4 with a generator an item equals four single calls, bit for bit, for every sampler and kernel.

`test_streams.py` asks the same of fresh calls on every graph; here are the settings, the warm
starts and the weights that it leaves out, and the check that no sampler and no kernel is missing
from both.
"""

from dataclasses import replace

import pytest
import torch
from dwave.samplers import RandomSampler, SteepestDescentSampler

import qsample.annealers
import qsample.diffusion
from qsample import Graph, Ising, Samples
from qsample.annealers import (
    AnnealedImportance,
    Corrected,
    DimodAnnealer,
    Exact,
    Gibbs,
    Neal,
    ParallelTempering,
    PopulationAnnealing,
    SimulatedAnnealing,
    TemperedGibbs,
)
from qsample.annealers.registry import CATALOGUE, named
from tests.conformance.test_streams import SAMPLERS
from tests.neural.test_kernels import KERNELS
from tests.support.thinning import thinned

# of so few reads, some have few effective runs: what is asked here is which they are
pytestmark = pytest.mark.filterwarnings("ignore::qsample.sampling.samples.ReliabilityWarning")

ITEMS, READS = 4, 6
GRAPHS = {
    "sparse": Graph.sparse(20, [(i, (i + k) % 20) for i in range(20) for k in (1, 7)]),
    "bipartite": Graph.bipartite(9, 7),
    "complete": Graph.complete(8),
}
EVERYWHERE = {
    "gibbs palindromic": Gibbs(3, scan="palindromic"),
    "annealing linear": SimulatedAnnealing(6, (0.0, 1.0), "linear"),
    "annealing betas": SimulatedAnnealing(schedule=[0.1, 0.5, 1.0]),
    "annealing adaptive metropolis": SimulatedAnnealing(12, (0.0, 1.0), "adaptive", "metropolis"),
    "tempering in blocks": ParallelTempering(4, 3, reads_per_ladder=2, swap_every=2),
    "tempering by betas": ParallelTempering(4, (0.2, 0.5, 1.0), adapt=False),
    "tempered gibbs": TemperedGibbs(4, rounds=2),
    "tempered gibbs by betas": TemperedGibbs((1.0, 0.5), 2),
    "population": PopulationAnnealing(2, population=16),
    "importance betas": AnnealedImportance(schedule=[0.3, 1.0], base=torch.zeros(1)),
    "corrected tempering": Corrected(ParallelTempering(3, 3), TemperedGibbs(2)),
    "neal betas": Neal(schedule=(0.1, 1.0)),
    "dimod random": DimodAnnealer(RandomSampler()),
    "dimod descent": DimodAnnealer(SteepestDescentSampler()),
}
EVERYWHERE |= {
    f"named {name}": named(name, 20) for name, entry in CATALOGUE.items() if not entry.device
}
CASES = [
    (name, graph)
    for name in EVERYWHERE
    for graph in GRAPHS
    if (name, graph) != ("named exact", "sparse")
]  # which is too wide for it
SOMEWHERE = {
    "gibbs fixed16": (Gibbs(3, precision="fixed16"), ("sparse", "bipartite")),
    "annealing fixed16": (SimulatedAnnealing(5, precision="fixed16"), ("sparse", "bipartite")),
    "adaptive fixed16": (
        SimulatedAnnealing(12, schedule="adaptive", precision="fixed16"),
        ("sparse", "bipartite"),
    ),
    "gibbs bfloat16": (Gibbs(3, precision="bfloat16"), ("bipartite",)),
    "exact of a small side": (Exact(), ("bipartite", "complete")),
}
CASES += [(name, graph) for name, (_, graphs) in SOMEWHERE.items() for graph in graphs]
ALL = EVERYWHERE | {name: sampler for name, (sampler, _) in SOMEWHERE.items()}


def generators():
    return [torch.Generator().manual_seed(10 + k) for k in range(ITEMS)]


def items(graph, own):
    """A batch that shares J, or not, and its items."""
    g = torch.Generator().manual_seed(3)
    values = torch.randn(*([ITEMS] if own else []), graph.num_edges, generator=g) / 3
    batch = Ising(
        graph,
        torch.randn(ITEMS, graph.num_spins, generator=g),
        graph.couplings(values),
        torch.randn(ITEMS),
    )
    alone = [
        Ising(graph, batch.h[k], batch.J[k] if own else batch.J, batch.offset[k])
        for k in range(ITEMS)
    ]
    return batch, alone


def assert_same(together, alone, k):
    assert torch.equal(together.spins[k], alone.spins) and torch.equal(
        together.energy[k], alone.energy
    )
    if alone.log_weight is not None:
        assert torch.equal(together.log_weight[k], alone.log_weight)
    if alone.family is not None:
        assert torch.equal(together.family[k], alone.family)
    for name, value in alone.info.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(together.info[name][k], value), name


@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of populations this small
@pytest.mark.parametrize("own", [False, True], ids=["J shared", "J each"])
@pytest.mark.parametrize(("name", "graph"), thinned(CASES, 2))
def test_a_batch_of_four_is_four_singles(name, graph, own):
    sampler, (batch, singles) = ALL[name], items(GRAPHS[graph], own)
    if isinstance(sampler, AnnealedImportance) and sampler.base is not None:
        sampler = replace(sampler, base=torch.linspace(-1, 1, batch.num_spins))
    together = sampler.sample(batch, READS, generator=generators())
    assert together.spins.shape == (ITEMS, READS, batch.num_spins)
    for k, problem in enumerate(singles):
        assert_same(together, sampler.sample(problem, READS, generator=generators()[k]), k)
    if sampler.warm_start:
        start = Samples(together.spins, together.energy, torch.randn(ITEMS, READS))
        assert start.log_weight is not None
        again = sampler.sample(batch, READS, initial=start, generator=generators())
        for k, problem in enumerate(singles):
            mine = Samples(start.spins[k], start.energy[k], start.log_weight[k])
            assert_same(
                again, sampler.sample(problem, READS, initial=mine, generator=generators()[k]), k
            )


def test_no_sampler_and_no_kernel_is_missing():
    """A `DWave` draws on a processor, which takes no seed; `AsDimod` answers one problem a call."""
    covered = {type(sampler).__name__ for sampler in (*ALL.values(), *SAMPLERS.values())}
    assert covered == set(qsample.annealers.__all__) - {"DWave", "AsDimod"}
    kernels = {
        name
        for name in qsample.diffusion.__all__
        if hasattr(getattr(qsample.diffusion, name), "reversible")
    }
    # by test_metropolis.py
    assert {type(kernel).__name__ for kernel in KERNELS.values()} == kernels
