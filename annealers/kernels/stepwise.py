"""Sweeps in torch, one group of uncoupled spins after the other: other devices' kernels, and double precision's.

Which torch kernel serves which graph is decided in `kernel_for`, here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from qsample.annealers.kernels.native import Swept
from qsample.annealers.kernels.precision import wide_problems
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.torch_bipartite import Bipartite
from qsample.annealers.kernels.torch_dense import Dense
from qsample.annealers.kernels.torch_sparse import Chromatic
from qsample.annealers.kernels.update import Precision, Rule, rule_of
from qsample.problem.ising import Ising


@runtime_checkable
class Kernel(Protocol):
    """P problems with R replicas each; `update` redraws one group of mutually uncoupled spins of all of them."""

    groups: int
    rule: Rule

    def update(self, group: int, beta: float | Tensor) -> None:
        """Redraw one group given all others, at inverse temperature beta: a number, or `[P, R]`, one a replica."""
        ...

    def spins(self) -> Tensor:
        """The state, `[P, R, n]` int8."""
        ...


def kernel_for(problem: Ising, spins: Tensor, streams: Streams, precision: Precision) -> Kernel:
    """The kernel for this graph, started at `spins` [P, R, n].

    | graph | kernel | a sweep costs |
    |---|---|---|
    | bipartite | two matrix products | R n m |
    | sparse | colour by colour, neighbours gathered | R x edges, in (sum over colours of the largest degree) steps |
    | complete, or sparse with more such steps than spins (to 4096 spins) | spin by spin, fields cached | R n^2 |
    """
    graph = problem.graph
    if graph.kind == "bipartite":
        return Bipartite(problem, spins, streams, precision)
    if precision != "full":
        raise ValueError(
            f"precision {precision!r} is for bipartite problems; this one is {graph.kind}: use "
            "'full'"
        )
    if graph.kind == "complete":
        return Dense(problem, spins, streams)
    steps = sum(int(graph.degree[colour].max()) for colour in graph.colours)
    return (Dense if steps > graph.num_spins and graph.num_spins <= 4096 else Chromatic)(
        problem, spins, streams
    )


def sweep_kernel(
    kernel: Kernel,
    betas: Tensor,
    rule: Rule,
    *,
    first_sweep: int = 0,
    palindromic: bool = False,
    alive: Callable[[], bool] | None = None,
    before: Callable[[int], None] = lambda _: None,
) -> int:
    """A sweep at each of `betas`, `[S]` or `[S, P, R]` on the kernel's device, until `alive` says no: the sweeps done.

    `before` is told the number of each sweep.
    """
    order = [*range(kernel.groups)]
    if palindromic:
        order += order[-2::-1]
    each = betas.tolist() if betas.dim() == 1 else betas  # numbers are cheaper than tensors of one
    done = 0
    for k in range(len(betas)):
        if alive is not None and not alive():
            break
        before(first_sweep + done)
        kernel.rule = rule_of(rule, first_sweep + done)
        for group in order:
            kernel.update(group, each[k])
        done += 1
    return done


def working(problem: Ising, coldest: float = 1.0, precision: Precision = "full") -> Ising:
    """The problem in the type that torch kernels need: no narrower than single, double where single would not do.

    Raises:
        ValueError: fields beyond double precision, or beyond single where bfloat16 is asked for.
    """
    wide = wide_problems(problem, coldest)
    if wide is None:
        return (
            problem
            if problem.dtype in (torch.float32, torch.float64)
            else problem.to(dtype=torch.float32)
        )
    if precision != "full":
        raise ValueError(
            f"precision {precision!r} is too coarse for fields that single precision cannot "
            "hold: use 'full'"
        )
    return problem.to(dtype=torch.float64)


def sweep_double(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    spins: Tensor | None = None,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    palindromic: bool = False,
    alive: Callable[[], bool] | None = None,
) -> Swept:
    """Sweeps with fields in double precision, on the CPU; see `compiled.sweep` for the arguments.

    Sweep s draws from its own stretch of a problem's stream, so that calls may split the sweeps
    anyhow.
    """
    wide = problem.to(dtype=torch.float64)
    streams = Streams(seeds, problem.device)
    size = num * problem.num_spins
    start = (
        streams.spins(num, problem.num_spins)
        if spins is None
        else spins.reshape(len(seeds), num, -1)
    )
    kernel = kernel_for(wide, start, streams, "full")

    def turn(number: int) -> None:
        streams.position = size * (1 + 2 * number)  # a palindromic sweep takes two numbers a spin

    done = sweep_kernel(
        kernel,
        torch.as_tensor(betas, dtype=torch.float64),
        rule,
        first_sweep=first_sweep,
        palindromic=palindromic,
        alive=alive,
        before=turn,
    )
    end = kernel.spins()
    energy = wide.energy(end.reshape(*problem.batch_shape, num, -1)).reshape(len(seeds), num)
    return Swept(end, energy, done, torch.full((len(seeds), num), done, dtype=torch.int32))
