"""Sweeps over an Ising problem by the kernel that serves it: what lies beneath `Gibbs` and `SimulatedAnnealing`.

Who serves which problem is decided in `native_for` (the CPU) and `stepwise.kernel_for` (torch), and
nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from qsample.annealers.kernels import native as compiled
from qsample.annealers.kernels import native_bipartite as compiled_bipartite
from qsample.annealers.kernels import native_dense as compiled_dense
from qsample.annealers.kernels.betas import BLOCK, LISTENING, Betas, blocks, listed
from qsample.annealers.kernels.energies import energies, narrowed
from qsample.annealers.kernels.native import Swept
from qsample.annealers.kernels.precision import Wide, check_sizes, wide_problems
from qsample.annealers.kernels.stepwise import kernel_for, sweep_double, sweep_kernel, working
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import Precision, Rule, flatten
from qsample.problem.ising import Ising
from qsample.sampling.sampler import mix_each
from qsample.sampling.samples import Samples

Scan = Literal["forward", "palindromic"]
Alive = Callable[[], bool]
Native = Callable[..., Swept]

EPOCH = 1 << 30  # sweeps that one seed numbers


def clock(seconds: float | None) -> Alive | None:
    """Whether so many seconds from now are not over yet; None for no limit."""
    if seconds is None:
        return None
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def run(
    problem: Ising,
    num: int,
    betas: Betas,
    *,
    initial: Samples | None,
    seeds: Sequence[int],
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    precision: Precision = "full",
    alive: Alive | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One sweep at each of `betas` from `initial` or from uniform random spins, of `[*B, num]` reads.

    A palindromic sweep visits the groups forward and back, which makes any number of sweeps of the
    heat bath reversible. Once `alive` says no, the present sweeps are the last.

    Returns:
        spins, energies, and the sweeps that each read did, int64.
    """
    batch = problem.batch_shape
    n = problem.num_spins
    native = native_for(problem, precision, betas.coldest)
    if native is None:
        asked = {"rule": rule, "scan": scan, "precision": precision, "alive": alive}
        return run_torch(problem, num, betas, initial=initial, seeds=seeds, **asked)
    spins = None if initial is None else initial.spins
    how = {"rule": rule, "palindromic": scan == "palindromic", "alive": alive}
    if precision == "fixed16" and betas.count > BLOCK:  # refused before the first block, if at all
        native(problem, 1, [betas.coldest], seeds, **how)
    done = torch.zeros(len(seeds), num, dtype=torch.int64)
    energy = torch.empty(0)
    for first, beta in blocks(betas, _longest(betas, len(seeds) * num, alive)):
        if first and alive is not None and not alive():
            break
        beta = beta.expand(-1, -1, num) if beta.dim() > 1 else beta
        epoch, number = divmod(first, EPOCH)
        own = mix_each(seeds, epoch + 8) if epoch else seeds
        swept = native(problem, num, beta, own, spins=spins, first_sweep=number, **how)
        spins = swept.spins
        energy = swept.energy
        done += swept.done
    assert spins is not None
    if problem.dtype == torch.float64:
        energy = energies(problem, spins.reshape(len(seeds), num, n))
    shape = (*batch, num)
    return (
        spins.reshape(*shape, n),
        narrowed(energy, problem.dtype).reshape(shape),
        done.reshape(shape),
    )


def _longest(betas: Betas, replicas: int, alive: Alive | None) -> int:
    """Sweeps of a block, a power of two: fewer where each replica has a beta of its own, which takes memory."""
    longest = BLOCK if alive is None else LISTENING
    if betas.block(0, 1).dim() == 1:
        return longest
    while longest > 64 and longest * replicas > 1 << 22:
        longest //= 2
    return longest


def native_for(
    problem: Ising, precision: Precision = "full", coldest: float = 1.0
) -> Native | None:
    """The native kernel for this problem at betas up to `coldest`, or None: other devices and bfloat16 are torch's.

    Lanes of replicas add up the fields of a sparse problem; where half of all pairs are coupled it
    is cheaper to keep the fields and add a row of J at a flip. Couplings of a bipartite problem are
    added up by fours, in 16 bits by fives. All of them work in single precision, whatever the
    problem's: where that would draw other spins (see `precision`), those problems of a batch go to
    `stepwise.sweep_double`.

    Raises:
        ValueError: a precision that does not serve this problem, or fields that double precision
            cannot hold.
    """
    graph = problem.graph
    dense = graph.kind == "complete" or 4 * graph.num_edges > graph.num_spins**2
    if precision == "fixed16":
        check_sizes(problem)
        if problem.device.type == "cpu" and graph.kind == "bipartite":
            return partial(compiled_bipartite.sweep_bipartite, precision="fixed16")
        if problem.device.type != "cpu" or graph.kind != "sparse" or dense:
            what = f"{graph.num_edges} edges on {graph.num_spins} spins, {graph.kind}, {problem.dtype}, {problem.device}"
            wanted = "sparse problems and bipartite ones on the CPU"
            raise ValueError(f"precision 'fixed16' is for {wanted}; got {what}: use 'full'")
        return partial(compiled.sweep, precision="fixed16")
    if precision != "full" or problem.device.type != "cpu":
        return None
    if graph.kind == "bipartite":
        native = compiled_bipartite.sweep_bipartite
    else:
        native = compiled_dense.sweep_dense if dense else compiled.sweep
    wide = wide_problems(problem, coldest)
    return native if wide is None else partial(sweep_mixed, native=native, wide=wide)


def sweep_mixed(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    native: Native,
    wide: Wide,
    spins: Tensor | None = None,
    **how,
) -> Swept:
    """Sweeps of a batch whose problems need different precision, each as it would be swept alone."""
    beta = torch.as_tensor(betas)
    start = None if spins is None else spins.reshape(len(seeds), num, -1)
    parts = [(native, ~wide.fields), (sweep_double, wide.fields)]
    found = []
    places = []
    for kernel, mine in parts:
        place = mine.nonzero()[:, 0]
        if not len(place):
            continue
        one = _only(problem, place)
        own = beta[:, place] if beta.dim() > 1 else beta
        begin = None if start is None else start[place]
        swept = kernel(one, num, own, [seeds[k] for k in place.tolist()], spins=begin, **how)
        exact = wide.energies[place].nonzero()[:, 0]
        if len(exact):
            swept.energy[exact] = energies(_only(one, exact), swept.spins[exact])
        found.append(swept)
        places.append(place)
    back = torch.cat(places).argsort()
    together = [
        torch.cat(part)[back]
        for part in zip(*[(s.spins, s.energy, s.done) for s in found], strict=True)
    ]
    return Swept(together[0], together[1], min(s.sweeps for s in found), together[2])


def _only(problem: Ising, place: Tensor) -> Ising:
    """Some problems of a batch, `[P']`."""
    h, J = flatten(problem)
    offset = problem.offset.expand(problem.batch_shape).reshape(-1)
    return Ising(problem.graph, h[place], J[place] if len(J) > 1 else J[0], offset[place])


def run_torch(
    problem: Ising,
    num: int,
    betas: Betas | Sequence[float],
    *,
    initial: Samples | None,
    seeds: Sequence[int],
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    precision: Precision = "full",
    alive: Alive | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`run` on the torch kernels: for other devices and precisions, and to test the native kernels against."""
    betas = listed(betas) if isinstance(betas, Sequence) else betas
    batch = problem.batch_shape
    n = problem.num_spins
    work = working(problem, betas.coldest, precision)
    streams = Streams(seeds, problem.device)
    start = streams.spins(num, n) if initial is None else initial.spins.reshape(-1, num, n)
    kernel = kernel_for(work, start, streams, precision)
    done = 0
    every = blocks(betas, _longest(betas, len(seeds) * num, alive))
    # independent spins: one heat-bath update is an exact draw
    if rule == "gibbs" and problem.graph.num_edges == 0:
        every = [(0, betas.block(betas.count - 1, betas.count))]
    for first, part in every:
        if first and alive is not None and not alive():
            break
        beta = part.to(work.device, work.dtype)
        beta = beta.expand(-1, -1, num) if beta.dim() > 1 else beta
        done += sweep_kernel(
            kernel, beta, rule, first_sweep=first, palindromic=scan == "palindromic", alive=alive
        )
    spins = kernel.spins().reshape(*batch, num, n)
    energy = narrowed(work.energy(spins), problem.dtype)
    return spins, energy, torch.full((*batch, num), done, dtype=torch.int64)
