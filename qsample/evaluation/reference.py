"""What reads are judged against: an enumerated law, exact reads, or ladders of temperatures started apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qsample.annealers.exact import Exact
from qsample.annealers.gibbs import Gibbs
from qsample.annealers.parallel_tempering import ParallelTempering
from qsample.annealers.tempered_transitions import TemperedGibbs
from qsample.annealers.treewidth import elimination
from qsample.evaluation.comparison import Reads, projections, student
from qsample.problem.enumeration import check_range, log_weights, num_enumerated, side_log_weights, small_side, states
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.mixing import split_rhat
from qsample.sampling.samples import Samples

WIDTH = 16  # treewidth up to which exact reads are made
LADDERS, DRAWS = 32, 32  # of each start, and the draws of each ladder
AGREE = 1.1  # R-hat up to which ladders are taken to agree


@dataclass(frozen=True)
class Reference:
    """Reads of the right law, or the reason why there are none.

    Attributes:
        text: where they come from.
        reads: independent ones, or correlated within each ladder; None where ladders disagree.
        chance: probabilities of the states of the spins `listed`, `[2^k]`; None where they are too many.
        listed: numbers of these spins, `[k]`.
        energy: exact mean, variance and third cumulant of the energy without offset; None where not enumerated.
        betas: a ladder of temperatures, from 0 to 1, where one was adapted.
    """

    text: str
    reads: Reads | None = None
    chance: Tensor | None = None
    listed: Tensor | None = None
    energy: tuple[float, float, float] | None = None
    betas: tuple[float, ...] = ()


def plain(problem: Ising) -> Ising:
    """The problem in double precision on the CPU, without its offset."""
    exact = problem.detach().to(device="cpu", dtype=torch.float64)
    return Ising(exact.graph, exact.h, exact.J)


def coupled(problem: Ising) -> Ising:
    """The problem on the sparse graph of its couplings that are not zero."""
    values, edges = problem.graph.edge_values(problem.J), problem.graph.edges
    kept = (values != 0).cpu()
    if problem.graph.kind == "sparse" and bool(kept.all()):
        return problem
    graph = Graph.sparse(problem.num_spins, edges[:, kept].T)
    return Ising(graph, problem.h, values[kept.to(values.device)])


def listed_law(problem: Ising, side: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Log-weights of all states, or of those of one side, and three cumulants of E in each, all `[2^k]`.

    Given the states v of a side, the others are independent: with fields f, and m = -tanh f their means, E has the
    cumulants $h_v v + \sum f m$, $\sum f^2 (1 - m^2)$ and $\sum f^3 (-2 m)(1 - m^2)$.
    """
    if side is None:
        weights = log_weights(problem)
        return weights, -weights, torch.zeros(()), torch.zeros(())
    k, parts = problem.graph.sizes[side], []
    h = problem.h.split(problem.graph.sizes, -1)
    step = max(1, (1 << 20) // problem.num_spins)
    for a in range(0, 1 << k, step):
        v = states(k, a, min(a + step, 1 << k))
        s = v.to(problem.h)
        f = h[1 - side] + s @ (problem.J if side == 0 else problem.J.mT)
        m = -f.tanh()
        open_ = 1 - m.square()
        cumulants = s @ h[side] + (f * m).sum(-1), (f.square() * open_).sum(-1), (-2 * f**3 * m * open_).sum(-1)
        parts.append((side_log_weights(problem, side, v), *cumulants))
    weights, first, second, third = (torch.cat(part) for part in zip(*parts, strict=True))
    return weights, first, second, third


def total_cumulants(chance: Tensor, first: Tensor, second: Tensor, third: Tensor) -> tuple[float, float, float]:
    """Mean, variance and third cumulant of a number whose cumulants are given in each state (Brillinger 1969)."""
    mean = chance @ first
    away = first - mean
    variance = chance @ (second + away.square())
    skew = chance @ (third + 3 * away * second + away**3)
    return float(mean), float(variance), float(skew)


def exact_reference(problem: Ising, num: int, limit: int, generator: torch.Generator) -> Reference | None:
    """Exact reads of a `plain` problem, about ten for each of `num`, and its law where it can be listed; else None."""
    n = problem.num_spins
    wanted = min(max(10 * num, 4000), 40_000, max(4000, (1 << 23) // n))
    check_range(problem)
    listed = min(n, num_enumerated(problem))
    if listed <= min(limit, 20):
        side = None if n <= min(limit, 20) else small_side(problem)
        weights, *given = listed_law(problem, side)
        listed = n if side is None else listed
        first = problem.graph.sizes[0] if side == 1 else 0
        chance, index = weights.softmax(-1), torch.arange(first, first + listed)
        reads = Reads.of(problem, Exact().sample(problem, wanted, generator=generator).spins)
        text = f"the law of all 2^{listed} states"
        return Reference(text, reads, chance, index, total_cumulants(chance, *given))
    sparse = coupled(problem)
    if sparse.graph.num_edges <= WIDTH * n and elimination(sparse.graph)[0] <= WIDTH:
        reads = Exact().sample(sparse, wanted, generator=generator).spins
        return Reference(f"{wanted} exact reads by tree decomposition", Reads.of(problem, reads))
    return None


def kernel_reads(problem: Ising, reads: Reads, betas: tuple[float, ...], rounds: int, seed: torch.Generator) -> Reads:
    """The reads after tempered transitions on a ladder: a reversible kernel that leaves the law as it is."""
    kernel = TemperedGibbs(betas=tuple(reversed(betas)), rounds=rounds)
    swift = _swift(problem)
    start = Samples(reads.spins.to(torch.int8), swift.energy(reads.spins))
    after = kernel.sample(swift, len(reads), initial=start, generator=seed)
    return replace(Reads.of(problem, after.spins), weight=reads.weight, cluster=reads.cluster)


def _swift(problem: Ising) -> Ising:
    """In single precision, where the native kernels run, if that loses nothing that shows in a probability."""
    ends = problem.graph.edges.to(problem.device).flatten()
    size = problem.graph.edge_values(problem.J).abs().repeat(2)
    field = problem.h.abs().index_add(0, ends, size)  # the largest that each spin may feel
    return problem.to(dtype=torch.float32) if float(field.max()) < 1e4 else problem


def ladder(problem: Ising, sweeps: int, generator: torch.Generator) -> Tensor:
    """An adapted ladder `[L]` from 0 to 1 with two levels for each unit of its barrier (swap rates near 1/2)."""
    levels, betas = 16, torch.linspace(0, 1, 16, dtype=torch.float64)
    for _ in range(3):
        sampler = ParallelTempering(sweeps=max(32, sweeps), betas=levels)
        info = sampler.sample(_swift(problem), 16, generator=generator).info
        betas = info["betas"].double()
        wanted = min(64, max(6, math.ceil(2 * float(info["barrier"])) + 2))
        if wanted <= levels <= 2 * wanted:
            break
        levels = wanted
    return betas


def default_budget(problem: Ising) -> int:
    """Sweeps of each ladder: 512, or as many as take some seconds on a large problem, 64 at least."""
    work = 3 * LADDERS * 16 * max(problem.graph.num_edges, problem.num_spins)
    return max(64, min(512, (1 << 34) // work))


def ladders_apart(problem: Ising, reads: Reads, budget: int, generator: torch.Generator) -> Reference:
    """Parallel tempering from random spins, from local minima and from the reads: a reference where they agree.

    The second half of `budget` sweeps counts. They agree where split R-hat of energy, magnetisation, principal
    components and their signs is below AGREE over all ladders, and no start differs from another at p < 1e-3.
    """
    swift, n = _swift(problem), problem.num_spins
    betas = ladder(problem, budget // 4, generator)
    L, N = len(betas), 3 * LADDERS
    random = torch.randint(0, 2, (LADDERS, L, n), generator=generator).to(torch.int8) * 2 - 1
    down = Gibbs(betas=[100 / max(float(swift.h.abs().mean()) + _mean_coupling(swift), 1e-3)] * 20)
    minima = down.sample(swift, LADDERS, generator=generator).spins
    pick = torch.randint(len(reads), (LADDERS,), generator=generator)
    given = reads.spins[pick.to(reads.spins.device)].to(torch.int8)
    starts = torch.cat([random.to(minima.device), *(t[:, None].expand(-1, L, -1) for t in (minima, given))])
    cold = starts[:, -1:].expand(-1, DRAWS, -1).reshape(N * DRAWS, n)
    carry = {"hot": starts[:, :-1].contiguous(), "betas": betas.to(torch.float32)}
    initial = Samples(cold, swift.energy(cold), carry=carry)
    sampler = ParallelTempering(sweeps=max(1, budget // DRAWS), betas=L, reads_per_ladder=DRAWS)
    found = sampler.sample(swift, N * DRAWS, initial=initial, generator=generator)
    half = found.spins.reshape(N, DRAWS, n)[:, DRAWS // 2 :]
    every = Reads.of(problem, half.reshape(-1, n), cluster=torch.arange(N).repeat_interleave(DRAWS // 2))
    worst, name = _disagreement(every, N)
    trips = int(found.info["round_trips"])
    about = f"{N} ladders of {L} temperatures started apart (R-hat {worst:.2f}, {trips} round trips)"
    told = tuple(float(b) for b in betas)
    if worst > AGREE or trips < N // 4:
        return Reference(f"{about} disagree in {name}", betas=told)
    independent = every.take(torch.arange(2 * LADDERS * DRAWS // 2))
    return Reference(about, independent, betas=told)


def _mean_coupling(problem: Ising) -> float:
    values = problem.graph.edge_values(problem.J).abs()
    return float(values.mean()) if values.numel() else 0.0


def _disagreement(reads: Reads, ladders: int) -> tuple[float, str]:
    """The largest split R-hat of any statistic over ladders, infinite where starts differ; and its name."""
    columns = {"energy": reads.energy, "local fields": reads.score}
    for name, values, _ in projections(reads, reads):
        values = values.double()
        columns[name] = values
        columns[f"sign of {name}"] = (values > values.mean()).double()
    worst, at = 1.0, "nothing"
    for name, values in columns.items():
        x = values.reshape(ladders, -1).T
        if float(x.var()) <= 1e-18:
            continue
        rhat = float(split_rhat(x))
        mean = x.mean(0).reshape(3, -1)
        error = (mean.var(1) / mean.shape[1]).clamp_min(1e-300)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            z = float((mean[a].mean() - mean[b].mean()) / (error[a] + error[b]).sqrt())
            if student(z, float(mean.shape[1] - 1)) < 1e-3 / (3 * len(columns)):
                rhat = max(rhat, math.inf)
        if rhat > worst:
            worst, at = rhat, name
    return worst, at
