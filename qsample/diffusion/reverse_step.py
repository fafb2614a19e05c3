r"""One reverse step: fields and couplings make an Ising problem, and a sampler draws from it.

$$P(x_{k-1} | x_k) \propto
  \exp\Bigl(-h \cdot x_{k-1} - \sum_{(i,j)} J_{ij}\, x_{k-1,i} x_{k-1,j}\Bigr)$$

The Ising copula, the thermodynamic model and the scheduler all step this way.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.diffusion.process import Step, UniformBits
from qsample.problem.edge_products import BlockPulls, edge_blocks, is_plain
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.random import Draws, Generators, draw_seeds
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import Exactness, ReliabilityWarning, Samples
from qsample.support.faces import public

Choice = Callable[[Samples], Tensor]

# ---- what a denoiser says ----------------


@public("qsample.models")
@dataclass(frozen=True, eq=False)
class Denoised:
    """What a denoiser says of x_k.

    Without couplings E[x_0 | x_k] = tanh(logits / 2); with them the logits are those of a step
    without its couplings.

    Args:
        logits: log odds of x_0 = +1, `[B, n]`.
        coupling: J of x_{k-1}, one number per edge of the graph, `[B, edges]` or `[edges]`; None
            for independent bits.
    """

    logits: Tensor
    coupling: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """E[x_0 | x_k] of each bit, `[B, n]`."""
        return (self.logits / 2).tanh()


def feature_couplings(
    features: Tensor, graph: Graph, sites: int, shared: Tensor | None = None
) -> Tensor:
    r"""Couplings $J_{ij} = J^0_{ij} - \tfrac12 u_i \cdot u_j$ of the graph's edges, `[B, edges]`.

    Args:
        features: u of each spin, `[B, n, r]` or `[B, r, n]`.
        graph: whose edges (i, j) are coupled.
        sites: the axis of `features` that counts the spins, 1 or 2.
        shared: J^0, `[edges]` or `[B, edges]`; 0 by default.
    """
    ends = graph.edges.to(features.device)
    if shared is None:
        shared = features.new_zeros(graph.num_edges)
    # ends pick rows of all images: [r, n, B]
    u = features.to(_common(features, shared)).movedim((3 - sites, sites), (0, 1)).contiguous()
    if is_plain(features, shared):
        return _in_blocks(u, ends, shared, None)
    i, j = ends
    total = u.new_zeros(len(i), len(features))
    for one in u:
        total = total.addcmul(one.index_select(0, i), one.index_select(0, j))
    return shared - total.T.contiguous() / 2


def pulling_couplings(
    features: Tensor, graph: Graph, shared: Tensor, mean: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    r"""`feature_couplings`, and what they add to fields of means, $\sum_j J_{ij} m_j$, `[B, n]`.

    The sums are taken while couplings are in the processor's cache, or, as None, left to whoever
    needs them.

    Args:
        features: u of each spin, `[B, n, r]`.
        graph: whose edges (i, j) are coupled.
        shared: J^0, `[edges]` or `[B, edges]`.
        mean: m of each spin, `[B, n]`, in the couplings' dtype; None where nobody needs the sums.
    """
    if mean is None or graph.kind != "sparse" or not is_plain(features, mean, shared):
        return feature_couplings(features, graph, sites=1, shared=shared), None
    sums = BlockPulls(mean[:, None])
    u = features.to(_common(features, shared)).permute(2, 1, 0).contiguous()
    J = _in_blocks(u, graph.pairs, shared, sums)
    return J, sums.total()[:, 0]


def _in_blocks(u: Tensor, ends: Tensor, shared: Tensor, sums: BlockPulls | None) -> Tensor:
    """Couplings `[B, edges]` of numbers alone.

    Args:
        u: features `[r, n, B]`.
        ends: ends of the edges, `[2, edges]`.
        shared: further couplings, `[edges]` or `[B, edges]`.
        sums: what takes in each block; None for nothing.
    """
    i, j = ends
    images = u.shape[2]
    J = u.new_empty(images, len(i))
    blocks = edge_blocks(len(i), images)
    size = len(i[blocks[0]]) if blocks else 0
    # the same memory for every block
    buffers = u.new_empty(3, size, images)
    for block in blocks:
        first, second = i[block], j[block]
        total, left, right = buffers[:, : len(first)]
        for number, one in enumerate(u):
            torch.index_select(one, 0, first, out=left)
            torch.index_select(one, 0, second, out=right)
            if number:
                total.addcmul_(left, right)
            else:
                torch.mul(left, right, out=total)
        if not len(u):
            total.zero_()
        own = shared[..., block].expand(images, -1).T
        coupling = torch.sub(own, total, alpha=0.5, out=left)
        J[:, block] = coupling.T
        if sums is not None:
            sums.add(first, second, coupling)
    return J


def _common(features: Tensor, shared: Tensor) -> torch.dtype:
    """The dtype of couplings."""
    return torch.promote_types(features.dtype, shared.dtype)


# ---- the problem ----------------


def reverse_problem(
    process: UniformBits, graph: Graph, x: Tensor, mean: Tensor, k: Step, J: Tensor
) -> Ising:
    """The law of x_{k-1} given x_k, one problem per row; differentiable in `mean` and J.

    Args:
        process: the forward process.
        graph: which bits of x_{k-1} are coupled.
        x: x_k, spins `[B, n]`.
        mean: a denoiser's E[x_0 | x_k] in [-1, 1], `[B, n]`.
        k: step of x, for all rows or one for each `[B]`.
        J: couplings in the graph's own layout; they and the fields are in J's dtype.
    """
    h = process.posterior_fields(x, mean, k)
    return Ising(graph, h.to(J), J)


def centred_problem(problem: Ising, shift: Tensor, pull: Tensor | None = None) -> Ising:
    r"""Couplings between deviations from the means of independent spins in the same fields.

    $E(s) = (h + b) \cdot s + \sum_{(i,j)} J_{ij} (s_i - m_i)(s_j - m_j)$ with $m = -\tanh h$, up to
    a constant: couplings then leave the means as they are, to first order in J.

    Args:
        problem: fields h `[B, n]` and couplings J.
        shift: further fields b `[B, n]` or `[n]`.
        pull: sum_j J_ij m_j, `[B, n]`; None where it is not known yet.
    """
    if pull is None:
        pull = _pull(problem)
    return Ising(problem.graph, problem.h + shift - pull, problem.J, problem.offset)


def _pull(problem: Ising) -> Tensor:
    """What couplings add to the fields of independent spins' means, `[B, n]`."""
    mean = -problem.h.tanh()
    matrix = _matrix(problem)
    if matrix is not None:
        return mean @ (matrix + matrix.T)
    couplings = Ising(problem.graph, torch.zeros_like(problem.h), problem.J)
    return couplings.field(mean[:, None])[:, 0]


def pair_energy(problem: Ising, states: Tensor) -> Tensor:
    """E of states `[B, R, n]`, as `Ising.energy`; by a matrix where one J serves all rows."""
    matrix = _matrix(problem)
    if matrix is None:
        return problem.energy(states)
    s = states.to(problem.h)
    pairs = ((s @ matrix) * s).sum(-1)
    return problem.offset[..., None] + (s * problem.h[..., None, :]).sum(-1) + pairs


def _matrix(problem: Ising) -> Tensor | None:
    """Couplings `[n, n]`, each pair once, where one J serves all rows and fills it well; or None.

    A product with a matrix is quicker than a sum over edges, and its slope too.
    """
    graph = problem.graph
    n = problem.num_spins
    if graph.kind != "sparse" or problem.J.dim() > 1 or n * n > 64 * graph.num_edges:
        return None
    i, j = graph.pairs.to(problem.J.device)
    return problem.J.new_zeros(n, n).index_put((i, j), problem.J)


# ---- the draw ----------------


def draw(
    problem: Ising,
    sampler: Sampler,
    reads: int = 1,
    *,
    choose: Choice | None = None,
    initial: Samples | None = None,
    generator: Generators | None = None,
) -> Samples:
    """One read of each problem, spins `[B, 1, n]`.

    Args:
        problem: problems `[B]`.
        sampler: draws `reads` of each, in one call.
        reads: reads per problem, of which one is kept.
        choose: numbers `[B, 1]` of the reads kept, by their weights; the first by default.
        initial: where the sampler's chains begin.
        generator: the sampler's, one or a list with one per problem; None is torch's default.

    One read of a sampler whose reads have weights follows another law: it is `HEURISTIC`, and a
    `ReliabilityWarning` says so.
    """
    samples = sampler.sample(problem, reads, initial=initial, generator=generator)
    exactness = samples.exactness
    if samples.num == 1 and samples.log_weight is not None:
        exactness = Exactness.HEURISTIC
        note = (
            f"reads of {type(sampler).__name__} have weights, of which one read alone makes no "
            "use: its law is another. Take a sampler of equal weights, such as Gibbs, or, where "
            "the number of reads can be chosen, more of them, such as reads=16"
        )
        warnings.warn(note, ReliabilityWarning, stacklevel=2)
    if choose is None:
        kept = torch.zeros_like(samples.energy[:, :1], dtype=torch.int64)
    else:
        kept = choose(samples)
    spins = samples.spins.take_along_dim(kept[..., None], 1)
    energy = samples.energy.gather(1, kept)
    return Samples(spins, energy, None, exactness, samples.info)


# Two ways to keep a read by its weight, of the same law. They use random numbers differently, so
# each stays where it was: what a seed draws from a scheduler or a saved model does not change.


def by_inverse_weight(draws: Draws) -> Choice:
    """Keep a read with its weight's probability, where a uniform number meets the weights' sum."""

    def choose(samples: Samples) -> Tensor:
        cumulative = samples.weight.double().cumsum(-1)
        level = draws.uniform(1) * cumulative[:, -1:]
        kept = torch.searchsorted(cumulative, level, right=True)
        return kept.clamp_(max=samples.num - 1)

    return choose


def by_gumbel_weight(generator: Generators | None) -> Choice:
    """Keep a read with its weight's probability: the largest of log weight plus Gumbel noise.

    Reads of equal weights need no noise: the first is kept.
    """

    def choose(samples: Samples) -> Tensor:
        if samples.log_weight is None:
            return torch.zeros_like(samples.energy[:, :1], dtype=torch.int64)
        seeds = draw_seeds(generator, samples.energy.shape[:1])
        u = Draws(seeds, samples.spins.device).uniform(samples.num)
        return (samples.log_weight - (-u.log()).log()).argmax(-1, keepdim=True)

    return choose


def draw_near(
    problem: Ising, draws: Draws, sampler: Callable[[], Sampler], reads: int = 1
) -> Samples:
    r"""One read of each problem, from the factorised law or from chains that begin there.

    Without couplings the spins are independent, $P(s_i = +1) = \sigma(-2h_i)$, and no sampler is
    asked. With them, a sampler that continues chains starts from that factorised law, which is
    near. Spins are `[B, 1, n]`.

    Args:
        problem: problems `[B]`.
        draws: a stream of random numbers per problem.
        sampler: makes the sampler of problems with couplings.
        reads: reads per problem, of which one is kept, by its weight.
    """
    p_up = (-2 * problem.h).sigmoid()[:, None]
    if not problem.J.any():
        spins = _signs(draws.uniform(1, problem.num_spins) < p_up)
        return Samples(spins, problem.h.new_zeros(len(spins), 1), None, Exactness.EXACT)
    annealer = sampler()
    initial = None
    if annealer.warm_start:
        start = _signs(draws.uniform(reads, problem.num_spins) < p_up)
        initial = Samples(start, problem.h.new_zeros(start.shape[:-1]))
    return draw(
        problem,
        annealer,
        reads,
        choose=by_inverse_weight(draws),
        initial=initial,
        generator=draws.generators(),
    )


def _signs(up: Tensor) -> Tensor:
    return up.to(torch.int8) * 2 - 1
