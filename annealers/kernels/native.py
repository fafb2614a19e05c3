"""Sparse problems on the native kernel: the structure is laid out once a graph, a call only hands over h and J."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.kernels.update import Precision, Rule, flatten
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising


class Structure(NamedTuple):
    """A graph as the kernel reads it, int32: spins renumbered in the order of a sweep, neighbours by CSR."""

    order: np.ndarray  # the graph's number of each renumbered spin
    place: np.ndarray  # the inverse
    start: np.ndarray  # [n + 1]
    near: np.ndarray  # [2 k] renumbered neighbours, in the graph's order
    edge: np.ndarray  # [2 k] their edges
    colour: np.ndarray  # [C + 1] where each colour begins


def structure(graph: Graph) -> Structure:
    """Colour by colour, within a colour by degree: no spin waits for the one just before it, loops run evenly."""

    def make() -> Structure:
        start, neighbour, edge = graph.csr
        colours = [colour[(-graph.degree[colour]).argsort(stable=True)] for colour in graph.colours]
        order = torch.cat(colours) if colours else torch.empty(0, dtype=torch.int64)
        place = order.argsort()
        degree = graph.degree[order]
        first = torch.zeros(len(order) + 1, dtype=torch.int64)
        first[1:] = degree.cumsum(0)
        at = torch.arange(int(first[-1])) + (start[order] - first[:-1]).repeat_interleave(degree)
        ends = torch.tensor([0, *map(len, colours)]).cumsum(0)
        parts = (order, place, first, place[neighbour[at]], edge[at], ends)
        return Structure(*(np.ascontiguousarray(part.numpy().astype(np.int32)) for part in parts))

    return graph.cached("structure", make)


class Swept(NamedTuple):
    """What a call leaves. Replicas are swept in blocks: a call that was ended leaves some done and some not begun."""

    spins: Tensor  # int8 [P, R, n]
    # float64 [P, R], with the offset; the native kernels take h and J in single precision
    energy: Tensor
    sweeps: int  # done by every replica
    done: Tensor  # int32 [P, R], by each


def sweep(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    spins: Tensor | None = None,
    first_replica: int = 0,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    palindromic: bool = False,
    precision: Precision = "full",
    alive: Callable[[], bool] | None = None,
    isa: str = "",
) -> Swept:
    """Sweeps of P problems on one sparse graph, R = `num` replicas each, on the CPU.

    The number that decides a spin is a function of (seed of its problem, replica, sweep, spin)
    alone, so neither the batch nor the threads nor how sweeps are split into calls can change a
    draw. Threads are torch's.

    Args:
        problem: sparse, on the CPU, checked.
        num: replicas of each problem.
        betas: one inverse temperature a sweep, `[S]`, or one for each replica too, `[S, P, R]`.
        seeds: one 63-bit seed a problem.
        spins: where to start, `[P, R, n]`; uniform random spins by default.
        first_replica: the number of replica 0, for randomness.
        first_sweep: the number of the first sweep, for randomness: S after a call of S sweeps
            continues it.
        rule: "gibbs" or "metropolis"; see `update.rule_of`.
        palindromic: each sweep visits the spins forward and back (reversible under the heat bath).
        precision: of the fields. "full" is single precision. "fixed16" is 16-bit fixed point, twice
            the lanes: with F the largest field that any state has, or 1.5 times the largest that J
            alone makes, u = F/32766: couplings are rounded to multiples of u/2, fields to u (2**-15
            of F in the mean square), and probabilities to 6.5e-5, those below 1e-5 to 0; energies
            stay full. Problems that share J are fastest where h is small beside it.
        alive: asked some times a second; False ends the call after the present sweep.
        isa: "avx512", "avx2" or "plain"; the best of this machine by default.

    Raises:
        ValueError: 16 bits would round logits 2 beta f to steps of more than 1/64, as a field that
            dwarfs the others or a very low temperature makes them.
    """
    from qsample.annealers import _engine

    h, J = (t.detach().to(torch.float32).contiguous().numpy() for t in flatten(problem))
    problems, n = h.shape
    beta = torch.as_tensor(betas, dtype=torch.float32)
    beta = beta.reshape(len(beta), beta[:1].numel() or 1).contiguous().numpy()
    start = torch.empty(problems * num, n, dtype=torch.int8)
    if spins is not None:
        start.copy_(spins.reshape(problems * num, n))
    energy = np.empty(problems * num)
    done = np.empty(problems * num, dtype=np.int32)
    fewest = _engine.sweep(
        start.numpy(),
        energy,
        done,
        *structure(problem.graph),
        h,
        J,
        beta,
        np.array(seeds, dtype=np.int64),
        first_replica,
        first_sweep,
        rule == "metropolis",
        palindromic,
        spins is None,
        precision == "fixed16",
        torch.get_num_threads(),
        isa,
        alive,
    )
    offset = problem.offset.detach().double().expand(problem.batch_shape).reshape(-1, 1)
    energies, dones = (torch.from_numpy(a).reshape(problems, num) for a in (energy, done))
    return Swept(start.reshape(problems, num, n), energies + offset, fewest, dones)
