"""Independent draws from the exact law, by enumeration or tree decomposition."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.kernels.results import samples_of
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.treewidth import LIMIT, elimination
from qsample.problem.enumeration import (
    CHUNK,
    check_range,
    log_weights,
    side_log_weights,
    small_side,
    states,
    states_of,
)
from qsample.problem.exact_products import product
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.support.faces import public

MAX_STATES = 1 << 22  # weights held at once over a batch
MAX_SIDE = 20  # spins of a side whose states are listed
MAX_SPINS = 24  # spins of a problem whose states are listed


@public("qsample.annealers")
@dataclass(frozen=True)
class Exact:
    """Exact, independent Boltzmann samples of small or simple problems.

    | problem | method | limit |
    |---|---|---|
    | bipartite | list the smaller side, draw the other given it | 20 spins of that side |
    | any | list all states | 24 spins |
    | sparse | tree decomposition (dwave-samplers) | treewidth 25 |

    Anything beyond raises ValueError and names a sampler that can. Weights are computed in double
    precision without the offset, whatever the problem's dtype. `info["log_partition"]` is log Z,
    float64 `[*B]`.
    """

    name = "exact"
    about = "independent exact draws of small or tree-like problems"
    exactness = Exactness.EXACT
    warm_start = False
    reversible = True  # independent draws: any order of states is as likely as its reverse

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw `num` independent reads of each problem.

        Args:
            problem: the problems, a batch of any dimensions `*B`.
            num: reads of each problem.
            initial: refused, because there is nothing to continue.
            generator: randomness, as in `Sampler.sample`.

        Raises:
            ValueError: a problem beyond the limits, or numbers that double precision cannot hold.
        """
        problem = check_request(self, problem, num, initial)
        check_range(problem)
        seeds = draw_seeds(generator, problem.batch_shape)
        flat = problem.without_offset().flat().to(dtype=torch.float64)
        side = small_side(problem)
        info = {}
        if side is not None and problem.graph.sizes[side] <= MAX_SIDE:
            spins, log_z = _by_side(flat, num, seeds, side)
        elif problem.num_spins <= MAX_SPINS:
            spins, log_z = _by_state(flat, num, seeds)
        else:
            spins, log_z, info["treewidth"] = _by_tree(flat, num, seeds)
        offset = problem.offset.double().expand(problem.batch_shape).reshape(-1)
        info["log_partition"] = log_z - offset
        return samples_of(problem, spins, Exactness.EXACT, info)


def _parts(problem: Ising, numbers: int) -> list[slice]:
    """As many problems at once as memory allows where each takes so many numbers.

    Each draws from its own stream, so the split does not show.
    """
    step = max(1, MAX_STATES // numbers)
    return [slice(first, first + step) for first in range(0, len(problem.h), step)]


def _pick(log_weight: Tensor, num: int, streams: Streams) -> Tensor:
    """`num` places of each row, by inverting the cumulative sum in double precision."""
    weight = (log_weight - log_weight.amax(-1, keepdim=True)).exp_()
    total = weight.cumsum_(-1)
    points = streams.uniform64(num) * total[..., -1:].clone()
    return torch.searchsorted(total, points).clamp_(max=total.shape[-1] - 1)


# ---- the methods: spins `[P, num, n]` and log Z `[P]` of P flat problems ----------------


def _by_state(problem: Ising, num: int, seeds: list[int]) -> tuple[Tensor, Tensor]:
    """From the weights of all states."""
    n = problem.num_spins
    spins = []
    log_z = []
    for part in _parts(problem, 1 << n):
        weights = log_weights(_taken(problem, part))
        streams = Streams(seeds[part], problem.device)
        spins.append(states_of(_pick(weights, num, streams), n))
        log_z.append(weights.logsumexp(-1))
    return torch.cat(spins), torch.cat(log_z)


def _by_side(problem: Ising, num: int, seeds: list[int], side: int) -> tuple[Tensor, Tensor]:
    """One side from the weights of its states, the other from its conditional."""
    listed = problem.graph.sizes[side]
    other = problem.graph.sizes[1 - side]
    numbers = max(1 << listed, min(other << listed, CHUNK))
    spins = []
    log_z = []
    for part in _parts(problem, numbers):
        problems = _taken(problem, part)
        streams = Streams(seeds[part], problem.device)
        weights = _side_weights(problems, side)
        chosen = states_of(_pick(weights, num, streams), listed)
        # the other side's spins are independent in the field of the chosen ones
        J = problems.J if side == 0 else problems.J.mT
        own = problems.h.split(problem.graph.sizes, -1)[1 - side]
        field = own[:, None] + product(chosen.to(own), J)
        up = streams.uniform(num, other) < (-2 * field).sigmoid_()
        drawn = up.to(torch.int8) * 2 - 1
        spins.append(torch.cat([chosen, drawn] if side == 0 else [drawn, chosen], -1))
        log_z.append(weights.logsumexp(-1))
    return torch.cat(spins), torch.cat(log_z)


def _side_weights(problem: Ising, side: int) -> Tensor:
    """Log weights of all states of a side, `[P, 2^k]`."""
    k = problem.graph.sizes[side]
    other = problem.graph.sizes[1 - side]
    rows = max(1, CHUNK // max(1, other))  # not of the batch: rounding must not depend on it
    weights = []
    for first in range(0, 1 << k, rows):
        listed = states(k, first, min(first + rows, 1 << k)).to(problem.device)
        weights.append(side_log_weights(problem, side, listed))
    return torch.cat(weights, -1)


def _by_tree(problem: Ising, num: int, seeds: list[int]) -> tuple[Tensor, Tensor, int]:
    """Tree decomposition (Koller and Friedman 2009, ch. 10), one problem after the other.

    The third value is the treewidth.
    """
    from dwave.samplers import TreeDecompositionSampler

    graph = problem.graph
    n = problem.num_spins
    width, order = elimination(graph) if graph.kind == "sparse" else (LIMIT + 1, [])
    if width > LIMIT:
        raise ValueError(
            f"Exact cannot sample {n} spins on this {graph.kind} graph (limits: {MAX_SPINS} spins, "
            f"{MAX_SIDE} on the smaller side if bipartite, treewidth {LIMIT} if sparse): use "
            "Gibbs(sweeps=...) or Corrected(SimulatedAnnealing(), Gibbs())"
        )
    plain = Graph("sparse", graph.sizes, graph.pairs, range(n))  # dimod labels by number
    spins = []
    log_z = []
    for single, seed in zip(problem.unbind(), seeds, strict=True):
        reads = TreeDecompositionSampler().sample(
            Ising(plain, single.h, single.J, single.offset).to_bqm(),
            num_reads=num,
            elimination_order=list[Hashable](order),
            marginals=False,
            seed=mix(seed, 0) >> 32,
        )
        columns = [reads.variables.index(i) for i in range(n)]
        states = reads.record.sample[:, columns].repeat(reads.record.num_occurrences, 0)
        spins.append(torch.as_tensor(states, dtype=torch.int8, device=problem.device))
        log_z.append(reads.info["log_partition_function"])
    log_partition = torch.tensor(log_z, dtype=torch.float64, device=problem.device)
    return torch.stack(spins), log_partition, width


def _taken(problem: Ising, part: slice) -> Ising:
    """Some of flat problems; all of them as they are."""
    places = torch.arange(len(problem.h), device=problem.device)[part]
    return problem if len(places) == len(problem.h) else problem.take(places)
