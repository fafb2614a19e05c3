"""Independent draws from the exact law, by enumeration or tree decomposition."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.kernels.energies import energies_of
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import one_batch, some_of
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
from qsample.sampling.sampler import Generators, check_request, draw_seeds, mix
from qsample.sampling.samples import Exactness, Samples
from qsample.support.faces import public
from qsample.support.transforms import uncompiled

MAX_STATES = 1 << 22  # weights held at once over a batch


@public("qsample.annealers")
@dataclass(frozen=True)
class Exact:
    """Exact, independent Boltzmann samples of small or simple problems.

    | problem | method | limit |
    |---|---|---|
    | bipartite | enumerate the smaller side, draw the other from its conditional | 20 spins on that side |
    | any | enumerate all states | 24 spins |
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

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`."""
        problem = check_request(self, problem, num, initial)
        check_range(problem)
        batch = problem.batch_shape
        n = problem.num_spins
        side = small_side(problem)
        seeds = draw_seeds(generator, batch)
        if side is not None and problem.graph.sizes[side] <= 20:
            method = _by_side
            listed = problem.graph.sizes[side]
        elif n <= 24:
            method = _by_state
            listed = n
        else:
            return _by_tree(problem, num, seeds)
        # as many problems at once as memory allows; each draws from its own stream, so the split
        # does not show
        flat = one_batch(problem.to(dtype=torch.float64))
        work = (
            1 << listed
            if method is _by_state
            else max(1 << listed, min(n - listed << listed, CHUNK))
        )
        step = max(1, MAX_STATES // work)
        few = [slice(a, a + step) for a in range(0, len(seeds), step)]
        parts = [method(some_of(flat, some), num, seeds[some]) for some in few]
        spins = torch.cat([part[0] for part in parts]).reshape(*batch, num, n)
        log_z = torch.cat([part[1] for part in parts]).reshape(batch) - problem.offset.double()
        return Samples(
            spins, energies_of(problem, spins), None, Exactness.EXACT, {"log_partition": log_z}
        )


def _pick(log_weight: Tensor, num: int, streams: Streams) -> Tensor:
    """`num` indices into each row, by inverting the cumulative sum in double precision."""
    weight = (log_weight - log_weight.amax(-1, keepdim=True)).exp_()
    total = weight.cumsum_(-1)[..., -1:].clone()
    return torch.searchsorted(weight, streams.uniform64(num) * total).clamp_(
        max=weight.shape[-1] - 1
    )


def _by_state(problem: Ising, num: int, seeds: list[int]) -> tuple[Tensor, Tensor]:
    weights = log_weights(problem)
    number = _pick(weights, num, Streams(seeds, problem.device))
    return states_of(number, problem.num_spins), weights.logsumexp(-1)


def _by_side(problem: Ising, num: int, seeds: list[int]) -> tuple[Tensor, Tensor]:
    side = small_side(problem)
    assert side is not None
    k = problem.graph.sizes[side]
    other = problem.graph.sizes[1 - side]
    streams = Streams(seeds, problem.device)
    rows = max(1, CHUNK // max(1, other))  # not of the batch: rounding must not depend on it
    weights = torch.cat(
        [
            side_log_weights(problem, side, states(k, a, min(a + rows, 1 << k)).to(problem.device))
            for a in range(0, 1 << k, rows)
        ],
        -1,
    )
    number = _pick(weights, num, streams)
    chosen = states_of(number, k)
    pull = product(chosen.to(problem.h), problem.J if side == 0 else problem.J.mT)
    field = problem.h.split(problem.graph.sizes, -1)[1 - side][:, None] + pull
    drawn = (streams.uniform(num, other) < (-2 * field).sigmoid_()).to(torch.int8) * 2 - 1
    return torch.cat([chosen, drawn] if side == 0 else [drawn, chosen], -1), weights.logsumexp(-1)


def _by_tree(problem: Ising, num: int, seeds: list[int]) -> Samples:
    """Tree decomposition (Koller and Friedman 2009, ch. 10), one problem after the other."""
    from dwave.samplers import TreeDecompositionSampler

    graph = problem.graph
    n = problem.num_spins
    width, order = elimination(graph) if graph.kind == "sparse" else (LIMIT + 1, [])
    if width > LIMIT:
        raise ValueError(
            f"Exact cannot sample {n} spins on this {graph.kind} graph (limits: 24 spins, 20 on "
            "the smaller side if "
            f"bipartite, treewidth {LIMIT} if sparse): use Gibbs(sweeps=...) or "
            "Corrected(SimulatedAnnealing(), Gibbs())"
        )
    plain = Graph("sparse", graph.sizes, graph.pairs, range(n))  # dimod labels by number
    flat = one_batch(problem.to(dtype=torch.float64).without_offset())
    reads = []
    log_z = []
    for k, seed in enumerate(seeds):
        J = flat.J if flat.J.dim() == 1 else flat.J[k]
        found = TreeDecompositionSampler().sample(
            Ising(plain, flat.h[k], J, flat.offset[k]).to_bqm(),
            num_reads=num,
            elimination_order=list[Hashable](order),
            marginals=False,
            seed=mix(seed, 0) >> 32,
        )
        columns = [found.variables.index(i) for i in range(n)]
        samples = found.record.sample[:, columns].repeat(found.record.num_occurrences, 0)
        reads.append(torch.as_tensor(samples, dtype=torch.int8, device=problem.device))
        log_z.append(found.info["log_partition_function"])
    spins = torch.stack(reads).reshape(*problem.batch_shape, num, n)
    log_partition = torch.tensor(log_z, dtype=torch.float64, device=problem.device).reshape(
        problem.batch_shape
    )
    info = {"log_partition": log_partition - problem.offset.double(), "treewidth": width}
    return Samples(spins, energies_of(problem, spins), None, Exactness.EXACT, info)
