"""The contract of a sampler as a test: law, independence, seeds, claims and manners."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.sampling.random import mix
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.sampling.samples import Samples
from qsample.support.checks import plain_seed
from qsample.support.faces import public
from qsample.testing.claims import check_claims
from qsample.testing.independence import Finding, between
from qsample.testing.law import Law, Reads, g_test
from qsample.testing.looks import MAX_ASKED, collect, few_reads, law_of_call, pooled, repeated
from qsample.testing.manners import ContractError, Watched, check_alone, check_refusals, check_seeds
from qsample.testing.problems import Case, alone, other_dtype, reference_cases, twins
from qsample.testing.verdicts import Look, Run, Verdict, Verdicts

__all__ = [
    "FALSE_ALARM",
    "Case",
    "ContractError",
    "Verdict",
    "Verdicts",
    "check_sampler",
    "g_test",
    "reference_cases",
]

# chance that the whole suite rejects right samplers; shared out over its tests (Bonferroni)
FALSE_ALARM = 1e-4
CLAUSES = ("seeds", "alone", "initial", "reversible", "exact", "half")


@public("qsample.testing")
def check_sampler(
    sampler: Sampler,
    *,
    reads: int = 4000,
    false_alarm: float = FALSE_ALARM,
    seed: int = 0,
    cases: Sequence[Case] | None = None,
    power: float | int = 1.0,
    skip: Collection[str] = (),
) -> Verdicts:
    r"""Run the contract on a sampler: `check_sampler(MySampler())`.

    The law of each case is enumerated, and the reads are compared with it state by state (a G-test)
    and moment by moment (Rao's score test of all fields and couplings). Reads must be independent
    of each other, of the other problems of a batch and of other calls. A sampler that can continue
    chains is also started from all spins up, from exact reads and from its own; it must forget the
    first, keep the law of the second, and know its start where it cannot leave it. Claims are
    tested (`reversible`, EXACT), and so are seeds, energies, weights, fresh memory, untouched
    arguments and the errors on bad requests. Give the sampler settings at which it should pass.

    Args:
        sampler: any sampler.
        reads: number of reads of a case of share 1; `reads x power` are taken.
        false_alarm: chance that a right sampler fails, over all tests together.
        seed: the seed of all randomness.
        cases: problems whose connected parts have at most 16 spins; `reference_cases()` by default.
        power: factor on the number of reads: 4 halves every error that is found, at four times the
            time.
        skip: clauses that the sampler does not promise. "seeds": a generator decides its reads.
            "alone": problem k of a batch draws as alone. "initial", "reversible", "exact": claims.
            "half": half-precision problems.

    Returns:
        The verdicts, to print: each with the smallest error it finds, and what could not be
        checked. With equal weights every p-value is uniform for a right sampler, up to the steps of
        counts.

    Raises:
        ContractError: the first failure, with the case, its p-value and the seed.
        ValueError: a case that cannot be enumerated, or an unknown clause.
    """
    check_is_sampler(sampler)
    seed = plain_seed(seed)
    unknown = set(skip) - set(CLAUSES)
    if unknown:
        raise ValueError(
            f"unknown clause {min(unknown)!r} in skip; expected some of {', '.join(CLAUSES)}"
        )
    if not power > 0:
        raise ValueError(f"expected power > 0; got {power!r}")
    cases = list(reference_cases() if cases is None else cases)
    run = Run(Watched(sampler, seed), cases, max(1, round(reads * power)), false_alarm, skip)
    with torch.random.fork_rng(devices=[]):
        for stage in (_manners, _fresh, _started, _varied, _few, _twice, pooled, check_claims):
            stage(run)
            run.judge()
    run.verdicts.notes += [f"{clause}: skipped on request" for clause in CLAUSES if clause in skip]
    return run.verdicts


# ---- the stages ----------------


def _manners(run: Run) -> None:
    """Seeds, lists of generators, refusals: no law needed."""
    first = _liveliest(run.cases)
    single = alone(first.problem)
    if "seeds" not in run.skip:
        num = _enough(single)
        if num:
            check_seeds(run.ask, first.name, single, num)
        else:
            run.verdicts.notes.append("seeds: every case has all but one state")
    if "alone" not in run.skip:
        kinds = {
            case.problem.graph.kind: case
            for case in reversed(run.cases)
            if case.problem.batch_shape
        }
        for case in kinds.values() or [first]:
            check_alone(run.ask, case.name, case.problem, 33)
    check_refusals(run.ask, run.cases[0].problem)


def _enough(problem: Ising) -> int:
    """A number of reads, two sets of which are never equal by chance; 0 where 4,096 are too few."""
    (law,) = Law.of(problem)
    return next((num for num in (64, 512, 4096) if law.coincidence() ** num < 1e-12), 0)


def _fresh(run: Run) -> None:
    """Every case without a start; the first is asked again at the end, by `_twice`."""
    for number, case in enumerate(run.cases):
        num = run.number(case.share) | number % 2  # odd numbers of reads as well
        law_of_call(run, case.name, case.problem, num, None)


def _started(run: Run) -> None:
    """Every case from a start: in turn all spins up, exact reads, and the sampler's own reads."""
    if not run.sampler.warm_start:
        run.verdicts.notes.append("starts: the sampler cannot continue chains")
        return
    for number, case in enumerate(run.cases):
        num = run.number(case.share)
        for which in [number % 3] if len(run.cases) > 2 else range(3):
            name, initial = _start(run, case, num, which)
            law_of_call(run, f"{case.name}, {name}", case.problem, num, initial)


def _start(run: Run, case: Case, num: int, which: int) -> tuple[str, Samples]:
    problem = case.problem
    shape = (*problem.batch_shape, num, problem.num_spins)
    if which == 0:
        spins = torch.ones(shape, dtype=torch.int8)
        return "started from all spins up", Samples(spins, problem.detach().energy(spins))
    if which == 1:
        generator = run.ask.generator()
        rows = [law.draw(num, generator) for law in Law.of(problem)]
        spins = torch.stack(rows).reshape(shape)
        return "started from exact reads", Samples(spins, problem.detach().energy(spins))
    return "continued", run.ask(case.name, problem, num)


def _varied(run: Run) -> None:
    """What the cases leave unvaried: the other precision, a batch or none, half precision."""
    case = _liveliest(run.cases)
    problem = case.problem
    num = run.number(0.5)
    if len({c.problem.dtype for c in run.cases}) == 1:
        law_of_call(
            run, f"{case.name}, in {other_dtype(problem).dtype}", other_dtype(problem), num, None
        )
    if not any(c.problem.batch_shape for c in run.cases):
        law_of_call(run, f"{case.name}, as a batch of two", twins(problem), num, None)
    if all(c.problem.batch_shape for c in run.cases):
        law_of_call(run, f"{case.name}, problem 0 alone", alone(problem), num, None)
    _asked_otherwise(run, case)
    batched = next((c for c in run.cases if c.problem.batch_shape.numel() > 1), None)
    halves = [
        (dtype, run.cases[0].name, alone(run.cases[0].problem))
        for dtype in (torch.float16, torch.bfloat16)
    ]
    if batched is not None:
        halves.append((torch.bfloat16, batched.name, batched.problem.detach()))
    for dtype, name, whole in halves if "half" not in run.skip else ():
        half = whole.to(dtype=dtype)
        label = f"{name}, in {dtype}"
        try:
            run.ask(label, half, 2)
        except (TypeError, ValueError) as refusal:
            run.verdicts.notes.append(f"{dtype}: refused ({refusal})")
        except RuntimeError as error:
            raise ContractError(
                f"{run.ask.where(label)}: {error}: sample it, or refuse it by a TypeError or "
                "ValueError"
            ) from error
        else:
            law_of_call(run, label, half, num, None)


def _asked_otherwise(run: Run, case: Case) -> None:
    """Without a generator, as most callers do, and with a list of generators, one per problem."""
    if "seeds" in run.skip:
        return
    problem = case.problem
    num = run.number(0.5)
    seed = mix(run.ask.seed, 8000)
    torch.manual_seed(seed)
    label = f"{case.name}, without a generator"
    collect(run, label, Reads.of(Law.of(problem), run.ask.watched(label, problem, num, None, None)))
    batch = problem if problem.batch_shape else twins(problem)
    generators = [
        torch.Generator().manual_seed(mix(seed, k)) for k in range(batch.batch_shape.numel())
    ]
    label = f"{case.name}, a generator per problem"
    collect(run, label, Reads.of(Law.of(batch), run.ask(label, batch, num, generator=generators)))


# (problems of a batch, or 0 for one alone; reads; calls): few reads per call, whose union over the
# calls is tested.
FEW = [
    (300, 1, 5),
    (150, 2, 5),
    (100, 3, 5),
    (100, 7, 2),
    (0, 1, 40),
    (0, 2, 20),
    (0, 3, 14),
    (0, 50, 6),
    (0, 255, 3),
]
# Numbers that people ask for.
FEW += [(0, 10, 12), (0, 100, 4), (0, 256, 2), (0, 1000, 1), (0, 1024, 1)]


def _few(run: Run) -> None:
    """Few reads per call, of one problem or many: the union of many calls follows the law."""
    case = _liveliest([c for c in run.cases if c.problem.num_spins <= 8] or run.cases)
    single = alone(case.problem)
    (law,) = Law.of(single)
    times = run.reads / 4000
    for rows, num, calls in FEW:
        wide = max(4, round(rows * times)) if rows else 0
        problem = single
        if wide:
            problem = Ising(single.graph, single.h.expand(wide, -1), single.J, single.offset)
        label = f"{case.name}, {num} reads" + (f" of each of {wide} alike" if wide else "")
        rows_of_calls = []
        for _ in range(calls if wide else math.ceil(calls * min(1.0, times))):
            samples = run.ask(label, problem, num)
            if samples.log_weight is not None:
                break
            rows_of_calls.append(samples.spins.reshape(-1, single.num_spins))
        else:
            rows = torch.cat(rows_of_calls)
            few_reads(run, label, Reads(law, rows, None, float(len(rows))))
            continue
        run.verdicts.notes.append(
            "few reads: weights mean something beside others of their call only"
        )
        return


def _twice(run: Run) -> None:
    """A batch of two alike, called twice: all four answers are independent."""
    case = _liveliest(run.cases)
    problem = twins(case.problem)
    num = run.number(0.5)
    laws = Law.of(problem)
    label = f"{case.name}, a batch of two alike"
    calls = []
    for _ in range(2):
        calls.append(Reads.of(laws, run.ask(label, problem, num)))
        collect(run, label, calls[-1])
    (a, b), (c, d) = calls
    problems = [between(x, y, "two problems of a batch", alike=True) for x, y in ((a, b), (c, d))]
    others = [between(x, y, "two calls", alike=True) for x, y in ((a, c), (b, d), (a, d), (b, c))]
    for check, groups in (("problems of a batch", problems), ("calls", others)):
        parts = [part for group in groups for part in group]
        if parts:
            finding = Finding.of(parts)
            run.looks.append(Look(label, check, *finding, repeated(a)))
    if "seeds" not in run.skip:
        _once_more(run, case.name, problem)


def _once_more(run: Run, label: str, batch: Ising) -> None:
    """Calls repeated with other calls between them: nothing is remembered."""
    first = run.cases[0]
    requests = [(first.name, first.problem, 100), (label, batch, 301)]

    def answers() -> list[Tensor]:
        generator = torch.Generator().manual_seed(2 * run.ask.seed)
        return [
            run.ask(name, problem, num, generator=generator).spins
            for name, problem, num in requests
        ]

    before = answers()
    after = answers()
    for (name, _, num), early, late in zip(requests, before, after, strict=True):
        if not torch.equal(early, late):
            raise ContractError(
                f"{run.ask.where(name)}: the same call of {num} reads, later, returns other reads: "
                "draws must not depend on former calls"
            )


def _liveliest(cases: Sequence[Case]) -> Case:
    """The case two reads of which are most seldom alike, of those of ordinary size."""
    small = [case for case in cases if case.problem.num_spins <= MAX_ASKED] or cases
    return min(small, key=lambda case: Law.of(alone(case.problem))[0].coincidence())
