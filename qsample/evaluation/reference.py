"""What reads are judged against: the listed law, exact reads, or ladders started apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.exact import Exact
from qsample.annealers.gibbs import Gibbs
from qsample.annealers.parallel_tempering import ParallelTempering
from qsample.annealers.treewidth import elimination
from qsample.evaluation.cells import projections
from qsample.evaluation.enumerated import listed_law, total_cumulants
from qsample.evaluation.kernel_test import in_single
from qsample.evaluation.means import Cumulants
from qsample.evaluation.reads import Reads, student
from qsample.problem.enumeration import check_range, num_enumerated, small_side
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.mixing import split_rhat
from qsample.sampling.samples import Samples

WIDTH = 16  # treewidth up to which exact reads are made
LISTED = 20  # log2 of the largest number of states that are listed
LADDERS = 32  # ladders of each start
DRAWS = 32  # draws of each ladder
AGREE = 1.1  # R-hat up to which ladders are taken to agree
DIFFERENT = 1e-3  # p-value below which two starts disagree, over all pairs and statistics


@dataclass(frozen=True)
class Reference:
    """Reads of the right law, or the reason why there are none.

    Attributes:
        text: origin of the reads, or the reason.
        reads: independent ones, or correlated within each ladder; None where ladders disagree.
        chance: probabilities of the states of the spins `listed`, `[2^k]`; None where they are too
            many.
        listed: numbers of these spins, `[k]`.
        energy: exact cumulants of the energy without offset; None where not enumerated.
        betas: a ladder of temperatures, from 0 to 1, where one was adapted.
    """

    text: str
    reads: Reads | None = None
    chance: Tensor | None = None
    listed: Tensor | None = None
    energy: Cumulants | None = None
    betas: tuple[float, ...] = ()


def plain(problem: Ising) -> Ising:
    """The problem in double precision on the CPU, without its offset."""
    exact = problem.detach().to(device="cpu", dtype=torch.float64)
    return Ising(exact.graph, exact.h, exact.J)


def coupled(problem: Ising) -> Ising:
    """The problem on the sparse graph of its couplings that are not zero."""
    values = problem.graph.edge_values(problem.J)
    edges = problem.graph.edges
    nonzero = (values != 0).cpu()
    if problem.graph.kind == "sparse" and bool(nonzero.all()):
        return problem
    graph = Graph.sparse(problem.num_spins, edges[:, nonzero].T)
    return Ising(graph, problem.h, values[nonzero.to(values.device)])


# ---- exact ----------------


def exact_reference(
    problem: Ising, num: int, limit: int, generator: torch.Generator
) -> Reference | None:
    """Exact reads, and the law itself where it can be listed; None where neither can be had.

    Args:
        problem: a `plain` problem.
        num: number of reads under test; about ten exact ones are drawn for each.
        limit: log2 of the largest number of states that may be listed, at most 20.
        generator: randomness of the exact reads.
    """
    n = problem.num_spins
    number = min(max(10 * num, 4000), 40_000, max(4000, (1 << 23) // n))
    check_range(problem)
    limit = min(limit, LISTED)
    if min(n, num_enumerated(problem)) <= limit:
        return _listed_reference(
            problem, number, None if n <= limit else small_side(problem), generator
        )
    sparse = coupled(problem)
    narrow = sparse.graph.num_edges <= WIDTH * n and elimination(sparse.graph)[0] <= WIDTH
    if not narrow:
        return None
    spins = Exact().sample(sparse, number, generator=generator).spins
    return Reference(f"{number} exact reads by tree decomposition", Reads.of(problem, spins))


def _listed_reference(
    problem: Ising, number: int, side: int | None, generator: torch.Generator
) -> Reference:
    """Exact reads, with the law of all spins or of those of one side."""
    weights, *given = listed_law(problem, side)
    chance = weights.softmax(-1)
    if side is None:
        listed = torch.arange(problem.num_spins)
    else:
        first = problem.graph.sizes[0] if side == 1 else 0
        listed = torch.arange(first, first + problem.graph.sizes[side])
    reads = Reads.of(problem, Exact().sample(problem, number, generator=generator).spins)
    text = f"the law of all 2^{len(listed)} states"
    return Reference(text, reads, chance, listed, total_cumulants(chance, *given))


# ---- parallel tempering, started apart ----------------


def default_budget(problem: Ising) -> int:
    """Sweeps of each ladder: 512, or what takes some seconds on a large problem; at least 64."""
    work = 3 * LADDERS * 16 * max(problem.graph.num_edges, problem.num_spins)
    return max(64, min(512, (1 << 34) // work))


def ladder(problem: Ising, sweeps: int, generator: torch.Generator) -> Tensor:
    """An adapted ladder `[L]` of inverse temperatures from 0 to 1.

    It has two levels for each unit of its barrier, for swap rates near 1/2.

    Args:
        problem: problem to be tempered.
        sweeps: number of sweeps of each adaption; 32 are the least.
        generator: randomness of the sweeps.
    """
    levels = 16
    betas = torch.linspace(0, 1, 16, dtype=torch.float64)
    for _ in range(3):
        sampler = ParallelTempering(sweeps=max(32, sweeps), betas=levels)
        info = sampler.sample(in_single(problem), 16, generator=generator).info
        betas = info["betas"].double()
        enough = min(64, max(6, math.ceil(2 * float(info["barrier"])) + 2))
        if enough <= levels <= 2 * enough:
            break
        levels = enough
    return betas


def ladders_apart(
    problem: Ising, reads: Reads, budget: int, generator: torch.Generator
) -> Reference:
    """Parallel tempering from three kinds of starts: a reference where they agree.

    They start from random spins, from local minima and from the reads; the second half of the
    sweeps counts. They agree where split R-hat of energy, magnetisation, principal components and
    their signs is below AGREE over all ladders, and no start differs from another at p < 1e-3.

    Args:
        problem: a `plain` problem.
        reads: reads under test.
        budget: number of sweeps of each ladder.
        generator: randomness of starts and sweeps.
    """
    betas = ladder(problem, budget // 4, generator)
    levels = len(betas)
    N = 3 * LADDERS
    samples = _tempered(problem, reads, betas, budget, generator)

    # the second half of each ladder's draws
    half = samples.spins.reshape(N, DRAWS, -1)[:, DRAWS // 2 :]
    family = torch.arange(N).repeat_interleave(DRAWS // 2)
    drawn = Reads.of(problem, half.reshape(-1, problem.num_spins), cluster=family)

    rhat, statistic = _disagreement(drawn, N)
    trips = int(samples.info["round_trips"])
    text = (
        f"{N} ladders of {levels} temperatures started apart "
        f"(R-hat {rhat:.2f}, {trips} round trips)"
    )
    temperatures = tuple(float(beta) for beta in betas)
    if rhat > AGREE or trips < N // 4:
        return Reference(f"{text} disagree in {statistic}", betas=temperatures)
    # not those that began from the reads under test
    independent = drawn.take(torch.arange(2 * LADDERS * DRAWS // 2))
    return Reference(text, independent, betas=temperatures)


def _tempered(
    problem: Ising, reads: Reads, betas: Tensor, budget: int, generator: torch.Generator
) -> Samples:
    """The draws of all ladders, `[3 * LADDERS * DRAWS, n]`, those of a start together."""
    single = in_single(problem)
    n = problem.num_spins
    L = len(betas)
    starts = _starts(single, reads, L, generator)
    # the last level is the coldest: its spins are `initial`, the others travel as carry
    cold = starts[:, -1:].expand(-1, DRAWS, -1).reshape(-1, n)
    carry = {"hot": starts[:, :-1].contiguous(), "betas": betas.to(torch.float32)}
    initial = Samples(cold, single.energy(cold), carry=carry)
    sampler = ParallelTempering(sweeps=max(1, budget // DRAWS), betas=L, reads_per_ladder=DRAWS)
    return sampler.sample(single, len(cold), initial=initial, generator=generator)


def _starts(problem: Ising, reads: Reads, L: int, generator: torch.Generator) -> Tensor:
    """Spins `[3 * LADDERS, L, n]` to start from, of three kinds.

    Random ones, other ones at each level; then local minima and reads, the same at all levels.
    """
    shape = (LADDERS, L, problem.num_spins)
    random = torch.randint(0, 2, shape, generator=generator).to(torch.int8) * 2 - 1
    scale = float(problem.h.abs().mean()) + _mean_coupling(problem)
    quench = Gibbs(betas=[100 / max(scale, 1e-3)] * 20)
    minima = quench.sample(problem, LADDERS, generator=generator).spins
    pick = torch.randint(len(reads), (LADDERS,), generator=generator)
    given = reads.spins[pick.to(reads.spins.device)].to(torch.int8)
    cold = [start[:, None].expand(-1, L, -1) for start in (minima, given)]
    return torch.cat([random.to(minima.device), *cold])


def _mean_coupling(problem: Ising) -> float:
    values = problem.graph.edge_values(problem.J).abs()
    return float(values.mean()) if values.numel() else 0.0


def _disagreement(reads: Reads, ladders: int) -> tuple[float, str]:
    """The largest split R-hat of any statistic over ladders, and that statistic's name.

    It is infinite where the three kinds of starts differ.
    """
    statistics = {"energy": reads.energy, "local fields": reads.score}
    for name, values, _ in projections(reads, reads):
        values = values.double()
        statistics[name] = values
        statistics[f"sign of {name}"] = (values > values.mean()).double()
    largest = 1.0
    worst = "nothing"
    for name, values in statistics.items():
        x = values.reshape(ladders, -1).T
        if float(x.var()) <= 1e-18:
            continue
        rhat = float(split_rhat(x))
        if _starts_differ(x.mean(0), DIFFERENT / (3 * len(statistics))):
            rhat = max(rhat, math.inf)
        if rhat > largest:
            largest = rhat
            worst = name
    return largest, worst


def _starts_differ(means: Tensor, level: float) -> bool:
    """Whether two of three kinds of starts differ in the means of their ladders (Welch's z)."""
    mean = means.reshape(3, -1)
    ladders = mean.shape[1]
    error = (mean.var(1) / ladders).clamp_min(1e-300)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        z = float((mean[a].mean() - mean[b].mean()) / (error[a] + error[b]).sqrt())
        if student(z, float(ladders - 1)) < level:
            return True
    return False
