"""The one table of samplers: every property test asks each of its rows.

A new sampler is its file, one line in `qsample.annealers.registry` and one line here; a test of
tests/house says which are missing. `pytest -k "name of the row"` runs what is asked of one.
"""

from typing import NamedTuple

import numpy as np
import torch
from dwave.samplers import RandomSampler, SimulatedAnnealingSampler

from qsample import Exactness, Graph, Ising, Sampler
from qsample.annealers import (
    QAOA,
    AnnealedImportance,
    Corrected,
    DimodAnnealer,
    DWave,
    Exact,
    FromCallable,
    Gibbs,
    Neal,
    ParallelTempering,
    PopulationAnnealing,
    QuantumProposal,
    SimulatedAnnealing,
    TemperedGibbs,
    TrajectoryTempering,
)
from qsample.annealers.registry import CATALOGUE
from qsample.testing import FALSE_ALARM
from tests.support.seeds import generator

ALL_KINDS = ("sparse", "bipartite", "complete")


class Row(NamedTuple):
    """A sampler with the settings at which the tests ask it.

    Args:
        quick: settings of a few sweeps: what a test of bits, memory or manners asks.
        right: settings at which the reads must follow the law of every case of the contract; None
            where another row of the same class is held to it.
        slow: whether the contract of `right` is left to `make test-long`.
        kinds: the kinds of graph that it samples.
        tag: the tag of its reads.
        max_spins: spins of the largest problem that tests ask of it.
        elsewhere: cases of the contract whose law a test of its own asks for, at slower settings.
        cpu_only: whether it draws on the CPU wherever the problem lies.
        server: whether it asks a processor, which takes no seed: tests/annealers/dwave asks it.
    """

    quick: Sampler
    right: Sampler | None = None
    slow: bool = True
    kinds: tuple[str, ...] = ALL_KINDS
    tag: Exactness = Exactness.HEURISTIC
    max_spins: int = 1 << 30
    elsewhere: tuple[str, ...] = ()
    cpu_only: bool = False
    server: bool = False


def coins(problem: Ising, num: int, seed: int) -> np.ndarray:
    """Bits of no law, as a foreign kit returns them."""
    return np.random.default_rng(seed).integers(0, 2, (num, problem.num_spins))


def exact(problem: Ising, num: int, seed: int) -> torch.Tensor:
    """Independent draws of the law, as spins."""
    return Exact().sample(problem, num, generator=generator(seed)).spins


# Down from infinite temperature in 40 sweeps, then 80 at the target: annealing slow enough for the
# problems of the contract.
SLOW = torch.cat([torch.linspace(0, 1, 40), torch.ones(80)])
SLOW_OF_DWAVE = {
    "beta_schedule_type": "custom",
    "beta_schedule": SLOW.tolist(),
    "proposal_acceptance_criteria": "Gibbs",
}
EXACT = Exactness.EXACT
ASYMPTOTIC = Exactness.ASYMPTOTIC

SAMPLERS: dict[str, Row] = {
    "exact": Row(Exact(), Exact(), slow=False, tag=EXACT),
    # Gibbs
    "gibbs": Row(Gibbs(3), Gibbs(60), slow=False, tag=ASYMPTOTIC),
    "gibbs palindromic": Row(
        Gibbs(3, scan="palindromic"), Gibbs(40, scan="palindromic"), tag=ASYMPTOTIC
    ),
    "gibbs schedule": Row(Gibbs(betas=[0.3, 1.0]), Gibbs(betas=SLOW.tolist())),
    "gibbs bfloat16": Row(Gibbs(3, precision="bfloat16"), kinds=("bipartite",)),
    # Simulated annealing
    "annealing": Row(SimulatedAnnealing(5), SimulatedAnnealing(schedule=SLOW)),
    "annealing linear": Row(SimulatedAnnealing(6, (0.0, 1.0), "linear")),
    "annealing betas": Row(SimulatedAnnealing(schedule=[0.1, 0.5, 1.0])),
    "annealing adaptive": Row(
        SimulatedAnnealing(40, schedule="adaptive"), SimulatedAnnealing(200, (0.0, 1.0), "adaptive")
    ),
    "annealing metropolis": Row(
        SimulatedAnnealing(5, rule="metropolis"),
        SimulatedAnnealing(schedule=SLOW, rule="metropolis"),
        slow=False,
    ),
    "annealing adaptive metropolis": Row(
        SimulatedAnnealing(12, (0.0, 1.0), "adaptive", "metropolis")
    ),
    # Tempering
    "tempering": Row(ParallelTempering(6, 4), ParallelTempering(40, 3), tag=ASYMPTOTIC),
    "tempering annealed": Row(
        ParallelTempering(4, 3, anneal=3, rule="metropolis"),
        ParallelTempering(40, (0.3, 0.6, 1.0), swap_every=2, anneal=20, rule="metropolis"),
        tag=ASYMPTOTIC,
    ),
    "tempering in blocks": Row(
        ParallelTempering(4, 3, reads_per_ladder=2, swap_every=2), tag=ASYMPTOTIC
    ),
    "tempering by betas": Row(ParallelTempering(4, (0.2, 0.5, 1.0), adapt=False), tag=ASYMPTOTIC),
    "tempered gibbs": Row(
        TemperedGibbs(4, rounds=2), TemperedGibbs((1.0, 0.5, 0.0), rounds=8), tag=ASYMPTOTIC
    ),
    "tempered gibbs by betas": Row(TemperedGibbs((1.0, 0.5), 2), tag=ASYMPTOTIC),
    "trajectory": Row(
        TrajectoryTempering(sweeps=6), TrajectoryTempering(sweeps=60), tag=ASYMPTOTIC
    ),
    # With weights
    "population": Row(
        PopulationAnnealing(1, population=64), PopulationAnnealing(20), slow=False, tag=ASYMPTOTIC
    ),
    "importance": Row(AnnealedImportance(3), AnnealedImportance(60), tag=ASYMPTOTIC),
    "importance betas": Row(AnnealedImportance(schedule=[0.3, 1.0]), tag=ASYMPTOTIC),
    # Samplers of dimod
    "neal": Row(Neal(5), Neal(schedule=SLOW), cpu_only=True),
    "neal betas": Row(Neal(schedule=(0.1, 1.0)), cpu_only=True),
    "neal metropolis": Row(
        Neal(5, rule="metropolis"), Neal(schedule=SLOW, rule="metropolis"), cpu_only=True
    ),
    "dimod": Row(
        DimodAnnealer(RandomSampler()),
        DimodAnnealer(SimulatedAnnealingSampler(), **SLOW_OF_DWAVE),
        cpu_only=True,
    ),
    # Two in a row
    "corrected": Row(
        Corrected(SimulatedAnnealing(3), Gibbs(2)),
        Corrected(SimulatedAnnealing(5, beta_range=(0.1, 3.0)), Gibbs(60)),
        tag=ASYMPTOTIC,
    ),
    "corrected tempering": Row(
        Corrected(ParallelTempering(3, 3), TemperedGibbs(2)), tag=ASYMPTOTIC
    ),
    "corrected neal": Row(
        Corrected(Neal(3), Gibbs(2)),
        Corrected(Neal(5), Gibbs(40, scan="palindromic")),
        tag=ASYMPTOTIC,
        cpu_only=True,
    ),
    # Simulated quantum circuits
    "corrected qaoa": Row(
        Corrected(QAOA(2), Gibbs(2)), Corrected(QAOA(2), Gibbs(60)), tag=ASYMPTOTIC, max_spins=11
    ),
    "quantum proposal": Row(
        QuantumProposal(2, layers=4),
        QuantumProposal(160, hold=40, time=(2.0, 6.0), layers=8),
        tag=ASYMPTOTIC,
        max_spins=11,
        elsewhere=("strong",),
    ),
    "quantum quench": Row(
        QuantumProposal(3, ramp="quench", hold=2, layers=3), tag=ASYMPTOTIC, max_spins=11
    ),
    "qaoa": Row(QAOA(2), max_spins=11),
    "qaoa trained": Row(QAOA(1, angles="trained", updates=2), max_spins=11),
    # Foreign ones
    "callable": Row(FromCallable(coins, "bits"), FromCallable(exact), cpu_only=True),
    "dwave": Row(DWave(), server=True),
}
# Those that draw here, from a seed.
LOCAL = {name: row for name, row in SAMPLERS.items() if not row.server}
# Those that the contract asks, at settings at which they must pass.
RIGHT = {name: row.right for name, row in SAMPLERS.items() if row.right is not None}
# One false-alarm rate for all tests of the contract together.
SHARE = FALSE_ALARM / (len(RIGHT) + len(CATALOGUE) + 1)


def pairs(graphs: dict[str, Graph]) -> list[tuple[str, str]]:
    """Every pair of a local sampler and a graph that it can sample.

    Args:
        graphs: graphs by their names; "sparse" is one that is too wide for `Exact`.
    """
    return [
        (name, graph)
        for name, row in LOCAL.items()
        for graph in graphs
        if graphs[graph].kind in row.kinds
        and graphs[graph].num_spins <= row.max_spins
        and (name, graph) != ("exact", "sparse")
    ]
