"""Sweeps over an Ising problem in torch: the kernel beneath `Gibbs` and `SimulatedAnnealing`.

Which kernel serves which graph is decided in `kernel_for`, here and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from qsample.annealers import compiled, compiled_bipartite, compiled_dense
from qsample.annealers.bipartite import Bipartite
from qsample.annealers.chromatic import Chromatic
from qsample.annealers.dense import Dense
from qsample.annealers.streams import Streams
from qsample.annealers.update import Precision, Rule
from qsample.ising import Ising
from qsample.samples import Samples

Scan = Literal["forward", "palindromic"]


@runtime_checkable
class Kernel(Protocol):
    """P problems with R replicas each; `update` redraws one group of mutually uncoupled spins of all of them."""

    groups: int

    def update(self, group: int, beta: float | Tensor) -> None:
        """Redraw one group given all others, at inverse temperature beta: a number, or `[P, R]`, one a replica."""
        ...

    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8."""
        ...


def kernel_for(problem: Ising, spins: Tensor, streams: Streams, rule: Rule, precision: Precision) -> Kernel:
    """The kernel for this graph, started at `spins` [P, R, n].

    | graph | kernel | a sweep costs |
    |---|---|---|
    | bipartite | two matrix products | R n m |
    | sparse | colour by colour, neighbours gathered | R x edges, in (sum over colours of the largest degree) steps |
    | complete, or sparse with more such steps than spins (to 4096 spins) | spin by spin, fields cached | R n^2 |
    """
    graph = problem.graph
    if graph.kind == "bipartite":
        return Bipartite(problem, spins, streams, rule, precision)
    if precision != "full":
        raise ValueError(f"precision {precision!r} is for bipartite problems; this one is {graph.kind}: use 'full'")
    if graph.kind == "complete":
        return Dense(problem, spins, streams, rule)
    steps = sum(int(graph.degree[colour].max()) for colour in graph.colours)
    return (Dense if steps > graph.num_spins and graph.num_spins <= 4096 else Chromatic)(problem, spins, streams, rule)


def run(
    problem: Ising,
    num: int,
    betas: Sequence[float],
    *,
    initial: Samples | None,
    seeds: Sequence[int],
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    precision: Precision = "full",
    time_limit: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One sweep at each of `betas` from `initial` or from uniform random spins, of `[*B, num]` reads.

    A palindromic sweep visits the groups forward and back, which makes any number of sweeps reversible. After
    `time_limit` seconds the present sweeps are the last.

    Returns:
        spins, energies, and the sweeps that each read did, int32.
    """
    alive = None if time_limit is None else _clock(time_limit)
    batch, n = problem.batch_shape, problem.num_spins
    native = native_for(problem, precision)
    if native is not None:
        at = None if initial is None else initial.spins
        back = scan == "palindromic"
        swept = native(problem, num, betas, seeds, spins=at, rule=rule, palindromic=back, alive=alive)
        spins, energy = swept.spins.reshape(*batch, num, n), swept.energy.to(problem.dtype).reshape(*batch, num)
        return spins, energy, swept.done.reshape(*batch, num)
    how = {"rule": rule, "scan": scan, "precision": precision, "alive": alive}
    return run_torch(problem, num, betas, initial=initial, seeds=seeds, **how)


def _clock(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def native_for(problem: Ising, precision: Precision = "full") -> Callable[..., compiled.Swept] | None:
    """The native kernel for this problem, or None: other devices are torch's, and so are RBMs in double precision.

    Lanes of replicas add up the fields of a sparse problem; where half of all pairs are coupled it is cheaper to keep
    the fields and add a row of J at a flip. Couplings of a bipartite problem are added up by fours,
    in 16 bits by fives.
    """
    graph = problem.graph
    dense = graph.kind == "complete" or 4 * graph.num_edges > graph.num_spins**2
    if precision == "fixed16":
        if problem.device.type == "cpu" and graph.kind == "bipartite" and problem.dtype == torch.float32:
            return partial(compiled_bipartite.sweep_bipartite, precision="fixed16")
        if problem.device.type != "cpu" or graph.kind != "sparse" or dense:
            what = (
                f"{graph.num_edges} edges on {graph.num_spins} spins, {graph.kind}, {problem.dtype}, {problem.device}"
            )
            wanted = "sparse problems and float32 bipartite ones on the CPU"
            raise ValueError(f"precision 'fixed16' is for {wanted}; got {what}: use 'full'")
        return partial(compiled.sweep, precision="fixed16")
    if precision != "full" or problem.device.type != "cpu":
        return None
    if graph.kind == "bipartite":
        return compiled_bipartite.sweep_bipartite if problem.dtype == torch.float32 else None
    return compiled_dense.sweep_dense if dense else compiled.sweep


def run_torch(
    problem: Ising,
    num: int,
    betas: Sequence[float],
    *,
    initial: Samples | None,
    seeds: Sequence[int],
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    precision: Precision = "full",
    alive: Callable[[], bool] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`run` on the torch kernels: for other devices and precisions, and to test the native kernels against."""
    batch, n = problem.batch_shape, problem.num_spins
    streams = Streams(seeds, problem.device)
    start = streams.spins(num, n) if initial is None else initial.spins.reshape(-1, num, n)
    if rule == "gibbs" and problem.graph.num_edges == 0:
        betas = betas[-1:]  # independent spins: one heat-bath update is an exact draw
    kernel = kernel_for(problem, start, streams, rule, precision)
    order = list(range(kernel.groups))
    if scan == "palindromic":
        order += order[-2::-1]
    done = 0
    for beta in betas:
        if alive is not None and not alive():
            break
        for group in order:
            kernel.update(group, beta)
        done += 1
    spins = kernel.spins().reshape(*batch, num, n)
    return spins, problem.energy(spins), torch.full((*batch, num), done, dtype=torch.int32)
