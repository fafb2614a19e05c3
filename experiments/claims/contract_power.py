"""What the contract test finds: wrong samplers of many kinds, and how often each is rejected.

    python experiments/claims/contract_power.py --seeds 2 --publish

The table of docs/contract.md. Each wrong sampler is right but for one thing. Beside the table
stands the smallest error of beta that a call finds with probability 0.95, by the Fisher information
of its reads.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from qsample import Exactness, Ising, Sampler, Samples
from qsample.annealers import Exact, Gibbs, SimulatedAnnealing
from qsample.sampling import check_request
from qsample.testing import ContractError, check_sampler

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import OURS, THEIRS, CommonOptions, Report, command_line, progress_bar

EXACT = Exact()


class Draw(Protocol):
    """Draws reads of a request that was checked; the functions below are such."""

    def __call__(
        self, problem: Ising, num: int, initial: Samples | None, generator: Any
    ) -> Samples:
        """Draw.

        Args:
            problem: problem, or a batch of problems.
            num: reads of each problem.
            initial: chains to continue; None for none.
            generator: generator, a list of them, or None for torch's default one.
        """
        ...


class Wrong:
    """A sampler made of one function, which has its say after the requests were checked."""

    reversible = False

    def __init__(self, draw: Draw, warm_start: bool = False, reversible: bool = False) -> None:
        self.draw, self.warm_start, self.reversible = draw, warm_start, reversible

    def sample(
        self, problem: Ising, num: int, *, initial: Samples | None = None, generator: Any = None
    ) -> Samples:
        """See `Sampler.sample`."""
        check_request(self, problem, num, initial)
        return self.draw(problem, num, initial, generator)


def exact(
    problem: Ising, num: int, initial: Samples | None = None, generator: Any = None
) -> Samples:
    """What a right sampler answers."""
    return EXACT.sample(problem, num, generator=generator)


def as_of(problem: Ising, samples: Samples) -> Samples:
    """The reads of another problem, with this problem's energies."""
    return replace(samples, energy=problem.detach().energy(samples.spins), info={})


def of(problem: Ising, spins: Tensor) -> Samples:
    """Samples of these spins."""
    return Samples(spins.contiguous(), problem.detach().energy(spins))


def scaled(beta: float) -> Draw:
    """Reads at another temperature."""

    def draw(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
        return as_of(problem, exact(problem.scale(beta), num, generator=generator))

    return draw


def changed(change: Callable[[Ising], Ising]) -> Draw:
    """Reads of a changed problem."""

    def draw(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
        return as_of(problem, exact(change(problem), num, generator=generator))

    return draw


def after(change: Callable[[Ising, Samples], Samples]) -> Draw:
    """Right reads, changed afterwards."""

    def draw(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
        return change(problem, exact(problem, num, generator=generator))

    return draw


def only_if(condition: Callable[[Ising, int], bool], wrong: Draw | None = None) -> Draw:
    """Right only under a condition; else at beta 1.2."""
    other = wrong or scaled(1.2)

    def conditional(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
        draw = exact if condition(problem, num) else other
        return draw(problem, num, initial, generator)

    return conditional


# ---- one thing wrong -------------------------------------------------------------------------


def fields_up_to(spin: int) -> Callable[[Ising], Ising]:
    """Fields beyond a spin are left out."""
    return lambda p: Ising(p.graph, p.h * (torch.arange(p.num_spins) < spin), p.J, p.offset)


def couplings_up_to(edge: int) -> Callable[[Ising], Ising]:
    """Couplings beyond an edge are left out (sparse graphs)."""

    def change(p: Ising) -> Ising:
        if p.graph.kind != "sparse":
            return p
        return Ising(p.graph, p.h, p.J * (torch.arange(p.graph.num_edges) < edge), p.offset)

    return change


def without_edge(p: Ising) -> Ising:
    """The last edge is dropped."""
    if p.graph.num_edges < 2:
        return p
    values = p.graph.edge_values(p.J).clone()
    values[..., -1] = 0
    return Ising(p.graph, p.h, p.graph.couplings(values), p.offset)


def clipped(p: Ising) -> Ising:
    """Fields and couplings are cut off at 4."""
    return Ising(p.graph, p.h.clamp(-4, 4), p.J.clamp(-4, 4), p.offset)


def flipped(p: Ising) -> Ising:
    """The sign of h."""
    return Ising(p.graph, -p.h, p.J, p.offset)


def first_of_batch(p: Ising) -> Ising:
    """A batch is answered with its first problem."""
    batch, layout = p.batch_shape, p.graph.coupling_shape
    h = (
        p.h.expand(*batch, -1)
        .reshape(-1, p.num_spins)[:1]
        .expand(batch.numel(), -1)
        .reshape(*batch, p.num_spins)
    )
    J = p.J
    if J.dim() > len(layout):
        J = (
            J.expand(*batch, *layout)
            .reshape(batch.numel(), *layout)[:1]
            .expand(batch.numel(), *layout)
        )
        J = J.reshape(*batch, *layout)
    return Ising(p.graph, h, J, p.offset)


def repeated(fraction: float) -> Draw:
    """A fraction of the reads are copies of others, anywhere in the call."""

    def change(problem: Ising, samples: Samples) -> Samples:
        num = samples.num
        copies = int(fraction * num)
        g = torch.Generator().manual_seed(int(samples.spins[..., :64, :].long().sum()) + num)
        order = torch.randperm(num, generator=g)
        spins = samples.spins.clone()
        spins[..., order[:copies], :] = samples.spins[..., order[num - copies :], :]
        return of(problem, spins)

    return after(change)


def next_to_each_other(problem: Ising, samples: Samples) -> Samples:
    """Every fifth read is the one before."""
    spins = samples.spins.clone()
    spins[..., 1::5, :] = samples.spins[..., 0::5, :][..., : spins[..., 1::5, :].shape[-2], :]
    return of(problem, spins)


def sorted_by_energy(problem: Ising, samples: Samples) -> Samples:
    """From the lowest to the highest."""
    order = samples.energy.argsort(-1)
    return of(problem, samples.spins.take_along_dim(order[..., None], -2))


def sorted_by_state(problem: Ising, samples: Samples) -> Samples:
    """By the number of the state."""
    code = ((samples.spins > 0).double() * 2.0 ** torch.arange(samples.spins.shape[-1])).sum(-1)
    return of(problem, samples.spins.take_along_dim(code.argsort(-1)[..., None], -2))


def pick(problem: Ising, u: Tensor) -> Samples:
    """Reads by inverting the cumulative sum at the given uniform numbers `[..., R]`."""
    from qsample.testing.law import Law

    problem = problem.detach()
    num = u.shape[-1]
    if problem.num_spins > 16:
        seed = int(1e9 * float(u.flatten()[0]))
        return exact(problem, num, generator=torch.Generator().manual_seed(seed))
    laws = Law.of(problem)
    numbers = u.expand(*problem.batch_shape, num).reshape(len(laws), -1)
    spins = torch.empty(*numbers.shape, problem.num_spins, dtype=torch.int8)
    for k, law in enumerate(laws):
        rest = numbers[k].double()
        for part in law.parts:
            # The state in whose slice of the cumulative sum the number lies ...
            total = part.p.cumsum(0)
            code = torch.searchsorted(total, rest * total[-1]).clamp_(max=len(total) - 1)
            bits = (code[:, None] >> torch.arange(len(part.spins))) & 1
            spins[k][:, part.spins] = bits.to(torch.int8) * 2 - 1
            # ... and where in it: a uniform number again, for the next part of the problem.
            low = total[code] - part.p[code]
            rest = ((rest - low) / part.p[code]).clamp(0, 1)
    return of(problem, spins.reshape(*problem.batch_shape, num, problem.num_spins))


def uniforms(generator: Any, shape: tuple[int, ...]) -> Tensor:
    """Numbers from a generator, or from the first of a list."""
    source = generator[0] if isinstance(generator, list) else generator
    return torch.rand(*shape, generator=source, dtype=torch.float64)


def antithetic(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """Reads in pairs, from u and from 1 - u."""
    u = uniforms(generator, (*problem.batch_shape, (num + 1) // 2))
    return pick(problem, torch.stack([u, 1 - u], -1).flatten(-2)[..., :num])


def antithetic_halves(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """The second half of the reads from 1 - u of the first, in another order."""
    u = uniforms(generator, (*problem.batch_shape, (num + 1) // 2))
    order = torch.randperm(u.shape[-1], generator=torch.Generator().manual_seed(num))
    return pick(problem, torch.cat([u, 1 - u[..., order]], -1)[..., :num])


def stratified(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """One read from each of `num` equal slices of the law, in random order."""
    shape = (*problem.batch_shape, num)
    slots = uniforms(generator, shape).argsort(-1)
    return pick(problem, (slots + uniforms(generator, shape)) / num)


def same_numbers(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """The same random numbers for each problem of a batch."""
    return pick(problem, uniforms(generator, (num,)))


def negative_numbers(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """The second problem of a batch draws from 1 - u."""
    u = uniforms(generator, (num,))
    size = problem.batch_shape.numel()
    sign = (torch.arange(size) % 2).double()[:, None]
    rows = u * (1 - sign) + (1 - u) * sign
    return pick(problem, rows.reshape(*problem.batch_shape, num))


def batch_in_another_order(
    problem: Ising, num: int, initial: Samples | None, generator: Any
) -> Samples:
    """The problems of a batch draw the same numbers, each in its own order."""
    u = uniforms(generator, (num,))
    size = max(1, problem.batch_shape.numel())
    g = torch.Generator().manual_seed(7)
    rows = torch.stack([u[torch.randperm(num, generator=g)] for _ in range(size)])
    return pick(problem, rows.reshape(*problem.batch_shape, num))


class RightAtFirst:
    """Right on the first 30 calls, at beta 1.2 on all others."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, problem: Ising, num: int, initial: Samples | None, generator: Any
    ) -> Samples:
        """Draw, and count the calls."""
        self.calls += 1
        draw = exact if self.calls <= 30 else scaled(1.2)
        return draw(problem, num, initial, generator)


class SharesReads:
    """Half of the reads are those of the call before, where they fit."""

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def __call__(
        self, problem: Ising, num: int, initial: Samples | None, generator: Any
    ) -> Samples:
        """Draw, and remember the reads."""
        spins = exact(problem, num, generator=generator).spins.clone()
        last = self.last
        if last is not None and num > 200 and last.dim() == spins.dim():
            half = min(num, last.shape[-2]) // 2
            if last[..., :half, :].shape == spins[..., :half, :].shape:
                spins[..., :half, :] = last[..., :half, :]
        self.last = spins
        return of(problem, spins)


def one_chain(sweeps: int) -> Draw:
    """The reads of a call are one chain's, a few sweeps apart."""

    def draw(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
        if problem.num_spins > 12 or num < 200:
            return exact(problem, num, generator=generator)
        state = Gibbs(100).sample(problem, 1, generator=generator)
        rows: list[Tensor] = []
        seeds = uniforms(generator, (num,))
        for r in range(num):
            g = torch.Generator().manual_seed(int(2**53 * float(seeds[r])))
            state = Gibbs(sweeps).sample(problem, 1, initial=state, generator=g)
            rows.append(state.spins)
        return of(problem, torch.cat(rows, -2))

    return draw


def deaf(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """The generator is not listened to: torch's default one is."""
    return exact(problem, num)


def constant(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """Every call draws from one seed."""
    return exact(problem, num, generator=torch.Generator().manual_seed(5))


def first_generator(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """Of a list of generators the first serves all."""
    return exact(problem, num, generator=generator[0] if isinstance(generator, list) else generator)


def not_advanced(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """Draws from a copy of the generator."""
    if not isinstance(generator, torch.Generator):
        return exact(problem, num, generator=generator)
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return exact(problem, num, generator=copy)


def touches_torch(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """Seeds torch's own generator on the way."""
    if generator is not None:
        torch.rand(1)
    return exact(problem, num, generator=generator)


def forgets_initial(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """Takes `initial` and does not look at it."""
    return exact(problem, num, generator=generator)


def gives_back(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """Hands back the chains it was given."""
    return (
        exact(problem, num, generator=generator)
        if initial is None
        else of(problem, initial.spins.clone())
    )


def overwrites_initial(
    problem: Ising, num: int, initial: Samples | None, generator: Any
) -> Samples:
    """Writes the result into the spins it was given."""
    samples = Gibbs(60).sample(problem, num, initial=initial, generator=generator)
    if initial is not None:
        initial.spins.copy_(samples.spins)
    return samples


def clips_in_place(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
    """Changes the problem's own fields."""
    with torch.no_grad():
        problem.h.clamp_(-0.5, 0.5)
    return exact(problem, num, generator=generator)


def wrong_energy(first: int) -> Draw:
    """The energies of the reads from number `first` on are those of the read before."""

    def change(problem: Ising, samples: Samples) -> Samples:
        energy = samples.energy.clone()
        energy[..., first:] = samples.energy[..., first - 1 : -1]
        return replace(samples, energy=energy)

    return after(change)


def weighted(weight: Callable[[Samples], Tensor]) -> Draw:
    """Right reads with weights that they do not need."""
    return after(lambda p, s: Samples(s.spins, s.energy, weight(s), Exactness.ASYMPTOTIC))


def tagged(sampler: Sampler) -> Draw:
    """Reads of a chain, tagged EXACT."""

    def draw(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
        return replace(sampler.sample(problem, num, generator=generator), exactness=Exactness.EXACT)

    return draw


def chains(sampler: Sampler) -> Draw:
    """A sampler as it is."""

    def draw(problem: Ising, num: int, initial: Samples | None, generator: Any) -> Samples:
        return sampler.sample(problem, num, initial=initial, generator=generator)

    return draw


def size_of(p: Ising) -> float:
    """The largest coupling."""
    return float(p.J.detach().abs().max()) if p.J.numel() else 0.0


def shared(p: Ising) -> bool:
    """Whether J has no batch dimensions."""
    return p.J.dim() == len(p.graph.coupling_shape)


CONDITIONS: dict[str, Callable[[Ising, int], bool]] = {
    "odd num": lambda p, num: num % 2 == 1,
    "even num": lambda p, num: num % 2 == 0,
    "num > 1": lambda p, num: num > 1,
    "num > 3": lambda p, num: num > 3,
    "num < 1,000": lambda p, num: num < 1000,
    "num > 300": lambda p, num: num > 300,
    "single precision": lambda p, num: p.dtype == torch.float32,
    "double precision": lambda p, num: p.dtype == torch.float64,
    "a problem alone": lambda p, num: not p.batch_shape,
    "a batch": lambda p, num: bool(p.batch_shape),
    "at most 2 problems": lambda p, num: p.batch_shape.numel() <= 2,
    "at most 32 problems": lambda p, num: p.batch_shape.numel() <= 32,
    "one batch dimension": lambda p, num: len(p.batch_shape) <= 1,
    "a shared J": lambda p, num: shared(p),
    "a shared h": lambda p, num: p.h.dim() == 1,
    "no offset": lambda p, num: not p.offset.any(),
    "an offset": lambda p, num: bool(p.offset.any()),
    "an offset under 100": lambda p, num: bool((p.offset.abs() < 100).all()),
    "fewer than 8 spins": lambda p, num: p.num_spins < 8,
    "8 spins or more": lambda p, num: p.num_spins >= 8,
    "at most 64 spins": lambda p, num: p.num_spins <= 64,
    "more than one spin": lambda p, num: p.num_spins > 1,
    "couplings under 3": lambda p, num: size_of(p) < 3,
    "couplings over 0.4": lambda p, num: size_of(p) > 0.4,
    "fields": lambda p, num: bool(p.h.any()),
    "sparse graphs": lambda p, num: p.graph.kind == "sparse",
    "all but bipartite graphs": lambda p, num: p.graph.kind != "bipartite",
    "all but complete graphs": lambda p, num: p.graph.kind != "complete",
    "connected graphs": lambda p, num: (
        p.num_spins < 100 and (p.num_spins == 1 or p.graph.num_edges > 0)
    ),
}

WRONG: dict[str, Callable[[], Sampler]] = {
    "beta 1.2": lambda: Wrong(scaled(1.2)),
    "beta 0.9": lambda: Wrong(scaled(0.9)),
    "beta 1.03": lambda: Wrong(scaled(1.03)),
    "h flipped": lambda: Wrong(changed(flipped)),
    "no fields beyond spin 8": lambda: Wrong(changed(fields_up_to(8))),
    "no fields beyond spin 64": lambda: Wrong(changed(fields_up_to(64))),
    "no field at spin 131": lambda: Wrong(changed(fields_up_to(131))),
    "no couplings beyond edge 8": lambda: Wrong(changed(couplings_up_to(8))),
    "no couplings beyond edge 64": lambda: Wrong(changed(couplings_up_to(64))),
    "the last edge dropped": lambda: Wrong(changed(without_edge)),
    "h and J clipped at 4": lambda: Wrong(changed(clipped)),
    "a batch's first problem": lambda: Wrong(changed(first_of_batch)),
    **{f"right only for {name}": lambda c=c: Wrong(only_if(c)) for name, c in CONDITIONS.items()},
    "40 % of reads repeated": lambda: Wrong(repeated(0.4)),
    "10 % of reads repeated": lambda: Wrong(repeated(0.1)),
    "every fifth read repeated": lambda: Wrong(after(next_to_each_other)),
    "sorted by energy": lambda: Wrong(after(sorted_by_energy)),
    "sorted by state": lambda: Wrong(after(sorted_by_state)),
    "antithetic pairs": lambda: Wrong(antithetic),
    "antithetic halves": lambda: Wrong(antithetic_halves),
    "stratified": lambda: Wrong(stratified),
    "chains one sweep apart": lambda: Wrong(one_chain(1)),
    "the same numbers for each problem": lambda: Wrong(same_numbers),
    "negative numbers for the next problem": lambda: Wrong(negative_numbers),
    "the same numbers in another order": lambda: Wrong(batch_in_another_order),
    "half of the call before": lambda: Wrong(SharesReads()),
    "right on the first 30 calls": lambda: Wrong(RightAtFirst()),
    "generator ignored": lambda: Wrong(deaf),
    "one seed for ever": lambda: Wrong(constant),
    "the first generator of a list": lambda: Wrong(first_generator),
    "a generator not advanced": lambda: Wrong(not_advanced),
    "torch's generator touched": lambda: Wrong(touches_torch),
    "initial ignored": lambda: Wrong(forgets_initial, warm_start=True),
    "initial handed back": lambda: Wrong(gives_back, warm_start=True),
    "initial overwritten": lambda: Wrong(overwrites_initial, warm_start=True),
    "the problem overwritten": lambda: Wrong(clips_in_place),
    "energies wrong beyond read 1,000": lambda: Wrong(wrong_energy(1000)),
    "weights exp(energy)": lambda: Wrong(weighted(lambda s: 0.3 * s.energy)),
    "weights of a few reads": lambda: Wrong(
        weighted(lambda s: 50 * torch.sin(1e4 * s.energy + torch.arange(s.num)))
    ),
    "weights nan": lambda: Wrong(weighted(lambda s: s.energy * torch.nan)),
    "Gibbs(60) called reversible": lambda: Wrong(
        chains(Gibbs(60)), warm_start=True, reversible=True
    ),
    "Gibbs(1,000) tagged EXACT": lambda: Wrong(tagged(Gibbs(1000))),
    "Gibbs(2)": lambda: Gibbs(2),
    "annealing in 10 sweeps": lambda: SimulatedAnnealing(10),
    "annealing to beta 1.5": lambda: SimulatedAnnealing(200, beta_range=(0.01, 1.5)),
}


@dataclass(frozen=True)
class Options(CommonOptions):
    """How often to ask."""

    seeds: int = 20
    """seeds of each wrong sampler"""
    power: float = 1.0
    """power of check_sampler: times the reads"""
    only: tuple[str, ...] = ()
    """names of the wrong samplers; all by default"""


def main(options: Options) -> None:
    """Ask how often each wrong sampler is rejected."""
    report = Report(options, __file__)
    passed = check_sampler(EXACT, power=options.power)
    beta = next(verdict.detects for verdict in passed if verdict.check == "beta")
    samplers: dict[str, Any] = {}
    result = {"detects": beta, "verdicts": len(passed), "samplers": samplers}
    for name in progress_bar(options.only or tuple(WRONG), unit="sampler"):
        samplers[name] = rejected(WRONG[name], options.seeds, options.power)
        report.write(result)
    for name, row in samplers.items():
        print(f"{name:45} {row['rejected']:3} of {row['seeds']}  {row['message'][:150]}")
    report.finish(result, picture(samplers))


def rejected(sampler: Callable[[], Sampler], seeds: int, power: float) -> dict[str, Any]:
    """How often a sampler is rejected, and the first message.

    Args:
        sampler: makes the sampler anew for each seed.
        seeds: number of seeds.
        power: power of check_sampler.
    """
    messages: list[str] = []
    for seed in range(seeds):
        try:
            check_sampler(sampler(), seed=seed, power=power)
        except ContractError as error:
            messages.append(str(error))
    message = messages[0] if messages else ""
    return {"rejected": len(messages), "seeds": seeds, "message": message}


def picture(samplers: dict[str, Any]) -> Figure:
    """How sure the first test is that rejects each wrong sampler, and at how many seeds."""
    figure, axis = plt.subplots(figsize=(9, 1.4 + 0.17 * len(samplers)))
    for place, row in enumerate(samplers.values()):
        colour = OURS if row["rejected"] == row["seeds"] else THEIRS
        digits = evidence(row["message"])
        if digits is None:
            axis.plot(1.5, place, "s", color=colour, mfc="white", ms=4)
        else:
            axis.plot(digits, place, "o", color=colour, ms=4)
        share = f"{row['rejected']} of {row['seeds']}"
        axis.text(1.01, place, share, transform=axis.get_yaxis_transform(), va="center", fontsize=6)
    axis.set_yticks(range(len(samplers)), list(samplers), fontsize=7)
    axis.set_ylim(len(samplers) - 0.5, -0.5)
    axis.set(xscale="log", xlim=(1, 400))
    axis.set_xlabel(
        "digits of the p-value, -log10 p, of the first test that fails; square: a rule, no test\n"
        "(right: seeds at which it is rejected)"
    )
    axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


def evidence(message: str) -> float | None:
    """-log10 of the p-value in a message, at most 320; None where it has none."""
    number = re.search(r"p = ([\d.e+-]+)", message)
    if number is None:
        return None
    return min(320.0, -math.log10(max(float(number[1]), 1e-320)))


if __name__ == "__main__":
    command_line(main, Options)
