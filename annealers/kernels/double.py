"""Where single precision would draw other spins: sweeps in double, alone or within a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qsample.annealers.kernels.choose import torch_kernel
from qsample.annealers.kernels.energies import energies
from qsample.annealers.kernels.native import Native, Swept
from qsample.annealers.kernels.precision import Wide
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.kernels.update import Rule, Scan, sweep_groups
from qsample.problem.ising import Ising


def sweep_double(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    spins: Tensor | None = None,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    alive: Callable[[], bool] | None = None,
) -> Swept:
    """Sweeps with fields in double precision, on the CPU, by the torch kernels.

    Sweep s draws from its own stretch of a problem's stream, so that calls may split the sweeps
    anyhow.

    Args:
        problem: problems on the CPU; the arguments are those of `native.sweep_sparse`.
        num: number of replicas of each problem.
        betas: inverse temperatures, `[S]` or `[S, P, R]`.
        seeds: one 63-bit seed per problem.
        spins: where to start, `[P, R, n]`; uniform random spins of the streams by default.
        first_sweep: number of the first sweep.
        rule: "gibbs" or "metropolis".
        scan: "forward" or "palindromic".
        alive: False ends the call after the present sweep.
    """
    wide = problem.flat().to(dtype=torch.float64)
    streams = Streams(seeds, problem.device)
    size = num * problem.num_spins
    if spins is None:
        start = streams.spins(num, problem.num_spins)
    else:
        start = spins.reshape(len(seeds), num, -1)
    kernel = torch_kernel(wide, start, streams)

    def turn_to(number: int) -> None:
        streams.position = size * (1 + 2 * number)  # a palindromic sweep takes two numbers a spin

    done = sweep_groups(
        kernel,
        torch.as_tensor(betas, dtype=torch.float64),
        rule=rule,
        scan=scan,
        first_sweep=first_sweep,
        alive=alive,
        before=turn_to,
    )
    end = kernel.spins()
    sweeps = torch.full((len(seeds), num), done, dtype=torch.int32)
    return Swept(end, wide.energy(end), done, sweeps)


def sweep_mixed(
    problem: Ising,
    num: int,
    betas: Tensor | Sequence[float],
    seeds: Sequence[int],
    *,
    native: Native,
    wide: Wide,
    spins: Tensor | None = None,
    first_sweep: int = 0,
    rule: Rule = "gibbs",
    scan: Scan = "forward",
    alive: Callable[[], bool] | None = None,
) -> Swept:
    """Sweeps of a batch whose problems need different precision, each as it would be swept alone.

    Args:
        problem: problems on the CPU; the arguments are those of `native.sweep_sparse`.
        num: number of replicas of each problem.
        betas: inverse temperatures, `[S]` or `[S, P, R]`.
        seeds: one 63-bit seed per problem.
        native: the kernel of problems that single precision serves.
        wide: the problems that it does not serve.
        spins: where to start, `[P, R, n]`.
        first_sweep: number of the first sweep.
        rule: "gibbs" or "metropolis".
        scan: "forward" or "palindromic".
        alive: False ends the call after the present sweep.
    """
    betas = torch.as_tensor(betas, dtype=torch.float64)
    start = None if spins is None else spins.reshape(len(seeds), num, -1)
    sweeps: list[Swept] = []
    places: list[Tensor] = []
    kernels: list[tuple[Native, Tensor]] = [(native, ~wide.fields), (sweep_double, wide.fields)]
    for kernel, served in kernels:
        place = served.nonzero()[:, 0]
        if not len(place):
            continue
        part = problem.take(place)
        swept = kernel(
            part,
            num,
            betas[:, place] if betas.dim() > 1 else betas,
            [seeds[k] for k in place.tolist()],
            spins=None if start is None else start[place],
            first_sweep=first_sweep,
            rule=rule,
            scan=scan,
            alive=alive,
        )
        # fields without rounding may still make energies that have it
        exact = wide.energies[place].nonzero()[:, 0]
        if len(exact):
            swept.energy[exact] = energies(part.take(exact), swept.spins[exact])
        sweeps.append(swept)
        places.append(place)
    # back into the order of the batch
    order = torch.cat(places).argsort()
    return Swept(
        torch.cat([swept.spins for swept in sweeps])[order],
        torch.cat([swept.energy for swept in sweeps])[order],
        min(swept.sweeps for swept in sweeps),
        torch.cat([swept.done for swept in sweeps])[order],
    )
