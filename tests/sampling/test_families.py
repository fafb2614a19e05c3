"""Reads that share an ancestor count once: in `ess`, in resampling, in the errors of estimates."""

import math

import pytest
import torch

import qsample as qs
from qsample import Graph, Ising, Samples
from qsample.annealers import AnnealedImportance, ParallelTempering, PopulationAnnealing
from qsample.problem.enumeration import log_weights, states
from tests.support.seeds import generator

pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of runs this short

RING = Graph.sparse(12, [(i, (i + k) % 12) for i in range(12) for k in (1, 3)])
K12 = Graph.complete(12)
G = torch.Generator().manual_seed(11)
PROBLEMS = {
    "a cold glass": Ising(
        K12, 0.3 * torch.randn(12, generator=G), K12.couplings(torch.randn(66, generator=G))
    ),
    "a ferromagnet": Ising(RING, torch.full((12,), 0.02), torch.full((24,), -1.0)),
    "an RBM": Ising(
        Graph.bipartite(8, 5), 0.5 * torch.randn(13, generator=G), torch.randn(8, 5, generator=G)
    ),
}


def z_scores(problem, reads):
    """Of the mean energy and the magnetisation of each problem of a batch, by the error that `ess`
    gives them.
    """
    law, every = log_weights(problem).softmax(-1), states(problem.num_spins)
    found = {}
    for name, f in (("energy", problem.energy), ("magnetisation", lambda s: s.float().mean(-1))):
        value = f(every).double()
        mean = law @ value
        error = ((law @ value.square() - mean.square()) / reads.ess().double()).sqrt()
        found[name] = (reads.mean(f).double() - mean) / error
    return found


def many(problem, runs):
    return Ising(problem.graph, problem.h.expand(runs, -1).contiguous(), problem.J, problem.offset)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(("sweeps", "population", "num"), [(1, 256, 256), (1, 256, 32)])
def test_the_error_of_population_annealing_is_honest(name, sweeps, population, num):
    runs = 60
    sampler = PopulationAnnealing(sweeps, population)
    reads = sampler.sample(many(PROBLEMS[name], runs), num, generator=generator(3))
    assert (reads.ess() < 0.9 * num).all()
    for z in z_scores(PROBLEMS[name], reads).values():
        assert float(z.square().mean().sqrt()) < 1.2 + 3 / math.sqrt(2 * runs)


@pytest.mark.long
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize(
    ("sweeps", "population", "num"), [(1, 256, 256), (10, 1024, 1024), (2, 512, 64)]
)
def test_the_error_of_population_annealing_over_many_runs(name, sweeps, population, num):
    reads = PopulationAnnealing(sweeps, population).sample(
        many(PROBLEMS[name], 300), num, generator=generator(4)
    )
    for z in z_scores(PROBLEMS[name], reads).values():
        assert float(z.square().mean().sqrt()) < 1.2


def test_few_families_of_a_large_cold_ferromagnet():
    """64 spins at beta 1.5 keep a few families of 256: one spin's mean is 0 by symmetry, its error
    that of families.
    """
    side = 8
    sites = [(r, c) for r in range(side) for c in range(side)]
    at = {site: k for k, site in enumerate(sites)}
    edges = [(at[r, c], at[(r + a) % side, (c + 1 - a) % side]) for r, c in sites for a in (0, 1)]
    problem = Ising(Graph.sparse(64, edges), torch.zeros(60, 64), torch.full((128,), -1.5))
    with pytest.warns(qs.ReliabilityWarning, match="effective families"):
        reads = PopulationAnnealing(1, 256).sample(problem, 256, generator=generator())
    assert reads.ess().median() < 20
    z = reads.mean(reads.spins[..., 0]) * reads.ess().sqrt()
    assert float(z.square().mean().sqrt()) < 1.5
    weights_alone = 1 / reads.weight.square().sum(-1)
    assert float((z * (weights_alone / reads.ess()).sqrt()).square().mean().sqrt()) > 2


def clustered(copies=20, families=50):
    """Independent reads, each there `copies` times, in a random order; and the same without a word
    of it.
    """
    problem = Ising(RING, torch.full((12,), 0.2), torch.full((24,), -0.2))
    few = qs.annealers.Exact().sample(problem, families, generator=generator(5))
    label = torch.arange(families).repeat(copies)[
        torch.randperm(families * copies, generator=generator(6))
    ]
    spins = few.spins[label]
    return (
        problem,
        few,
        Samples(spins, problem.energy(spins), family=label),
        Samples(spins, problem.energy(spins)),
    )


def test_copies_count_once_everywhere():
    problem, few, known, unknown = clustered()
    assert float(known.ess()) == pytest.approx(50) and float(unknown.ess()) == pytest.approx(1000)
    true, told, untold = (qs.effective_beta(problem, reads) for reads in (few, known, unknown))
    assert told.value == pytest.approx(true.value)
    # the error is the larger of two; that of the model counts reads, and is smaller here
    assert told.stderr == pytest.approx(true.stderr, rel=0.05)
    assert untold.stderr == pytest.approx(true.stderr / 20**0.5)
    # by the variance between 50 families there, by the exact one here: they differ by 1 / sqrt(2 *
    # 49) or so
    assert qs.diagnose(problem, known).energy_z == pytest.approx(
        qs.diagnose(problem, few).energy_z, rel=0.5
    )


def test_labels_are_any_integers_and_each_problem_has_its_own():
    spins, energy = torch.ones(2, 6, 3, dtype=torch.int8), torch.zeros(2, 6)
    family = torch.tensor([[7, -3, 7, 7, -3, 9], [0, 1, 2, 3, 4, 5]])
    reads = Samples(spins, energy, family=family)
    torch.testing.assert_close(reads.ess(), torch.tensor([36 / 14, 6.0]))
    weighted = Samples(
        spins,
        energy,
        torch.tensor([0.0, 0.1, 0.4, 0.0, 0.2, 0.3]).log().expand(2, 6),
        family=family,
    )
    by_hand = [0.4**2 + 0.3**2 + 0.3**2, 0.1**2 + 0.4**2 + 0.2**2 + 0.3**2]
    torch.testing.assert_close(weighted.ess(), 1 / torch.tensor(by_hand))
    moved = weighted.to(dtype=torch.float64)
    assert moved.family is not None and torch.equal(moved.family, family)
    with pytest.raises(
        ValueError, match=r"expected family of shape \[2, 6\] beside the spins; got \[6\]"
    ):
        Samples(spins, energy, family=family[0])


def test_resampling_keeps_what_the_weights_left():
    """400 equal reads of 40 effective ones are 40, however often they are drawn again."""
    problem = PROBLEMS["a cold glass"]
    reads = AnnealedImportance(6).sample(problem, 400, generator=generator())
    left = float(reads.ess())
    assert left < 200
    again = reads.resample(generator=generator())
    assert again.log_weight is None and float(again.ess()) < 1.2 * left
    twice = again.resample(4000, generator=generator(1))
    assert float(twice.ess()) < 1.2 * left
    whole = Samples(reads.spins, reads.energy).resample()
    assert float(whole.ess()) == pytest.approx(400)  # equal weights: each read exactly once


def test_ladders_of_tempering_are_families():
    problem = PROBLEMS["a ferromagnet"]
    reads = ParallelTempering(4, 3, reads_per_ladder=25).sample(problem, 100, generator=generator())
    assert float(reads.ess()) == pytest.approx(4)
    alone = ParallelTempering(4, 3).sample(problem, 100, generator=generator())
    assert alone.family is None and float(alone.ess()) == pytest.approx(100)
    told, block = qs.effective_beta(problem, reads), qs.effective_beta(problem, reads, block=25)
    assert told.stderr == pytest.approx(block.stderr)
