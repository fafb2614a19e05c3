"""The contract of a sampler as a test: the right law, independent reads, seeds, true claims and good manners."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from qsample.problem.graph import Kind
from qsample.problem.ising import Ising
from qsample.sampling.sampler import Sampler, check_is_sampler, mix
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import plain_seed
from qsample.support.faces import public
from qsample.testing.independence import (
    STEADY,
    Finding,
    Part,
    across,
    between,
    least_of,
    neighbours,
    slices,
    standard,
    two_sided,
    within,
)
from qsample.testing.law import CLEAR, Law, Reads, codes, g_of, g_test, quadratic, whitened
from qsample.testing.manners import ContractError, Watched, check_alone, check_refusals, check_seeds
from qsample.testing.problems import (
    Case,
    alone,
    long_row,
    other_dtype,
    reference_cases,
    rows_of_three,
    twins,
    two_modes,
)

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
POWER = 0.95  # with which the errors that a verdict states are found
LEAST_ESS = 0.02  # of reads: below it weights leave nothing to judge
STRENGTHS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)  # of couplings whose memory lasts 5 to 200 sweeps
MANY = 60  # moments: beside their sum the worst one is looked at
SHARES = 7  # stages that share the false-alarm rate
Clause = str
CLAUSES = ("seeds", "alone", "initial", "reversible", "exact", "half")


@public("qsample.testing")
class Verdict(NamedTuple):
    """One test: its p-value, uniform for a right sampler, and the smallest error that it finds.

    `total_variation` to the exact law and `floor`, what exact draws would show on average: of
    "law", else nan. `detects`: the error that is rejected with probability 0.95 at this number of
    reads, in words.
    """

    case: str
    p_value: float
    total_variation: float = math.nan
    floor: float = math.nan
    check: str = "law"
    detects: str = ""

    def __str__(self) -> str:
        check = "" if self.check == "law" else f", {self.check}"
        distance = ""
        if not math.isnan(self.floor):
            distance = f", total variation {self.total_variation:.4f} where exact draws show {self.floor:.4f}"
        detects = f" (finds {self.detects})" if self.detects else ""
        return f"{self.case}{check}: p = {self.p_value:.2g}{distance}{detects}"


@public("qsample.testing")
class Verdicts(list[Verdict]):
    """The verdicts of a sampler that passed; `notes` says what could not be checked, `str` shows all of it."""

    def __init__(self, verdicts: Iterable[Verdict] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(verdicts)
        self.notes = list(notes)

    def __str__(self) -> str:
        return "\n".join([*map(str, self), *(f"not checked: {note}" for note in self.notes)])


class Look(NamedTuple):
    """A test that was made, and not judged yet: `detects` takes the p-value below which it will reject."""

    case: str
    check: str
    p_value: float
    seen: str
    detects: Callable[[float], str]
    total_variation: float = math.nan
    floor: float = math.nan


@dataclass
class Pool:
    """Sums over all calls: small errors of one sign show here first."""

    beta: float = 0.0  # sum of information x (beta - 1)
    information: float = 0.0
    quadratic: float = 0.0
    rank: int = 0
    neighbours: float = 0.0
    variance: float = 0.0


@dataclass
class Run:
    """One sampler under test, what it was asked so far, and what was found."""

    ask: Watched
    cases: Sequence[Case]
    reads: int
    false_alarm: float
    skip: Collection[str]
    looks: list[Look] = field(default_factory=list)
    verdicts: Verdicts = field(default_factory=Verdicts)
    pool: Pool = field(default_factory=Pool)

    @property
    def sampler(self) -> Sampler:
        """The one under test."""
        return self.ask.sampler

    def number(self, share: float) -> int:
        """Reads of a share of `reads`."""
        return max(1, round(self.reads * share))

    def judge(self) -> None:
        """Reject what is too unlikely; a stage's looks share its part of the false-alarm rate."""
        if not self.looks:
            return
        threshold = self.false_alarm / SHARES / len(self.looks)
        for look in self.looks:
            if not look.p_value >= threshold:
                raise ContractError(
                    f"{self.ask.where(look.case)}: {look.seen}: p = {look.p_value:.2g} < "
                    f"{threshold:.2g}"
                )
            self.verdicts.append(
                Verdict(
                    look.case,
                    look.p_value,
                    look.total_variation,
                    look.floor,
                    look.check,
                    look.detects(threshold),
                )
            )
        self.looks = []


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
        reads: reads of a case of share 1; `reads x power` are taken.
        false_alarm: chance that a right sampler fails, over all tests together.
        seed: of all randomness.
        cases: problems whose connected parts have at most 16 spins; `reference_cases()` by default.
        power: times as many reads: 4 halves every error that is found, at four times the time.
        skip: clauses that the sampler does not promise. "seeds": a generator decides its reads.
            "alone": problem k of a batch draws as alone. "initial", "reversible", "exact": claims.
            "half": half-precision problems.

    Returns:
        The verdicts, to print: each with the smallest error it finds, and what could not be checked. With equal
        weights every p-value is uniform for a right sampler, up to the steps of counts.

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
        for stage in (_manners, _fresh, _started, _varied, _few, _twice, _pooled, _claims):
            stage(run)
            run.judge()
    run.verdicts.notes += [f"{clause}: skipped on request" for clause in CLAUSES if clause in skip]
    return run.verdicts


# ---- the stages ----------------


def _manners(run: Run) -> None:
    """Seeds, lists of generators, refusals: no law needed."""
    first = _liveliest(run.cases)
    one = alone(first.problem)
    if "seeds" not in run.skip:
        num = _enough(one)
        if num:
            check_seeds(run.ask, first.name, one, num)
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
    """Reads enough that two sets of them are never equal by chance, 64 or more; 0 where thousands are not enough."""
    (law,) = Law.of(problem)
    return next((num for num in (64, 512, 4096) if law.coincidence() ** num < 1e-12), 0)


def _fresh(run: Run) -> None:
    """Every case without a start; the first is asked again at the end, by `_twice`."""
    for number, case in enumerate(run.cases):
        num = run.number(case.share) | number % 2  # odd numbers of reads as well
        _law_of_call(run, case.name, case.problem, num, None)


def _started(run: Run) -> None:
    """Every case from a start, for samplers that continue chains: all spins up, exact reads, its own reads in turn."""
    if not run.sampler.warm_start:
        run.verdicts.notes.append("starts: the sampler cannot continue chains")
        return
    for number, case in enumerate(run.cases):
        num = run.number(case.share)
        for which in [number % 3] if len(run.cases) > 2 else range(3):
            name, initial = _start(run, case, num, which)
            _law_of_call(run, f"{case.name}, {name}", case.problem, num, initial)


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
    """What the cases leave unvaried: the other precision, a batch, a problem alone; half precision."""
    case = _liveliest(run.cases)
    problem = case.problem
    num = run.number(0.5)
    if len({c.problem.dtype for c in run.cases}) == 1:
        _law_of_call(
            run, f"{case.name}, in {other_dtype(problem).dtype}", other_dtype(problem), num, None
        )
    if not any(c.problem.batch_shape for c in run.cases):
        _law_of_call(run, f"{case.name}, as a batch of two", twins(problem), num, None)
    if all(c.problem.batch_shape for c in run.cases):
        _law_of_call(run, f"{case.name}, problem 0 alone", alone(problem), num, None)
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
            _law_of_call(run, label, half, num, None)


def _asked_otherwise(run: Run, case: Case) -> None:
    """Without a generator, as most callers do, and with a list of generators, one per problem."""
    if "seeds" in run.skip:
        return
    problem = case.problem
    num = run.number(0.5)
    seed = mix(run.ask.seed, 8000)
    torch.manual_seed(seed)
    label = f"{case.name}, without a generator"
    _collect(
        run, label, Reads.of(Law.of(problem), run.ask.watched(label, problem, num, None, None))
    )
    batch = problem if problem.batch_shape else twins(problem)
    generators = [
        torch.Generator().manual_seed(mix(seed, k)) for k in range(batch.batch_shape.numel())
    ]
    label = f"{case.name}, a generator per problem"
    _collect(run, label, Reads.of(Law.of(batch), run.ask(label, batch, num, generator=generators)))


# (problems of a batch, or 0 for one alone; reads; calls): few reads, whose union over calls is
# tested
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
# numbers that people ask for
FEW += [(0, 10, 12), (0, 100, 4), (0, 256, 2), (0, 1000, 1), (0, 1024, 1)]


def _few(run: Run) -> None:
    """One, two, three reads a call, one problem or many: the union of many calls follows the law."""
    case = _liveliest([c for c in run.cases if c.problem.num_spins <= 8] or run.cases)
    one = alone(case.problem)
    (law,) = Law.of(one)
    times = run.reads / 4000
    for rows, num, calls in FEW:
        wide = max(4, round(rows * times)) if rows else 0
        problem = Ising(one.graph, one.h.expand(wide, -1), one.J, one.offset) if wide else one
        label = f"{case.name}, {num} reads" + (f" of each of {wide} alike" if wide else "")
        rows_of_calls = []
        for _ in range(calls if wide else math.ceil(calls * min(1.0, times))):
            samples = run.ask(label, problem, num)
            if samples.log_weight is not None:
                break
            rows_of_calls.append(samples.spins.reshape(-1, one.num_spins))
        else:
            rows = torch.cat(rows_of_calls)
            _few_reads(run, label, Reads(law, rows, None, float(len(rows))))
            continue
        run.verdicts.notes.append(
            "few reads: weights mean something beside others of their call only"
        )
        return


def _few_reads(run: Run, label: str, reads: Reads) -> None:
    total, rank = quadratic(reads.deviation.sum(0), reads.law.covariance, reads.num)
    if rank:
        run.looks += _moments(label, total, rank, [reads])
    finding = within([reads]) if reads.num >= 100 else None
    if finding is not None:
        run.looks.append(_independence(label, finding, [reads]))


def _twice(run: Run) -> None:
    """A batch of two alike, called twice: all four answers are independent. And the first call once more."""
    case = _liveliest(run.cases)
    problem = twins(case.problem)
    num = run.number(0.5)
    laws = Law.of(problem)
    label = f"{case.name}, a batch of two alike"
    calls = []
    for _ in range(2):
        calls.append(Reads.of(laws, run.ask(label, problem, num)))
        _collect(run, label, calls[-1])
    (a, b), (c, d) = calls
    problems = [between(x, y, "two problems of a batch", alike=True) for x, y in ((a, b), (c, d))]
    others = [between(x, y, "two calls", alike=True) for x, y in ((a, c), (b, d), (a, d), (b, c))]
    for check, groups in (("problems of a batch", problems), ("calls", others)):
        parts = [part for group in groups for part in group]
        if parts:
            finding = Finding.of(parts)
            run.looks.append(Look(label, check, *finding, _repeated(a)))
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


def _pooled(run: Run) -> None:
    """Small errors of one sign in every call: a wrong temperature, too much or too little spread, stickiness."""
    from scipy.stats import chi2

    pool = run.pool
    if pool.information > 0:
        off = pool.beta / pool.information
        error = pool.information**-0.5
        seen = f"the reads have beta {1 + off:.4f} ± {error:.4f}"
        p_value = two_sided(off / error)
        run.looks.append(
            Look(
                "all calls",
                "beta",
                p_value,
                seen,
                lambda alpha: f"beta off by {100 * _sigmas(alpha) * error:.2g} %",
            )
        )
    if pool.rank:
        tails = (
            float(chi2.cdf(pool.quadratic, pool.rank)),
            float(chi2.sf(pool.quadratic, pool.rank)),
        )
        ratio = pool.quadratic / pool.rank
        seen = f"means over reads spread {ratio:.2f} times as much as those of independent reads"
        run.looks.append(
            Look(
                "all calls",
                "spread of means",
                min(1.0, 2 * min(tails)),
                seen,
                lambda alpha: (
                    f"a spread off by {100 * _sigmas(alpha) * (2 / pool.rank) ** 0.5:.2g} %"
                ),
            )
        )
    if pool.variance > 0:
        z = pool.neighbours / pool.variance**0.5
        seen = f"neighbouring reads are correlated: z = {z:.1f}"
        run.looks.append(
            Look(
                "all calls",
                "neighbouring reads",
                two_sided(z),
                seen,
                lambda alpha: f"a correlation of {_sigmas(alpha) / pool.variance**0.5:.2g}",
            )
        )


# ---- the looks at one call ----------------


def _law_of_call(run: Run, label: str, problem: Ising, num: int, initial: Samples | None) -> None:
    """Ask once, and compare with the law; samples with too little weight raise."""
    try:
        samples = run.ask(label, problem, num, initial=initial)
    except ValueError as refusal:
        if problem.num_spins <= MAX_ASKED:
            raise
        run.verdicts.notes.append(f"{label}: refused ({refusal})")
        return
    laws = Law.of(problem)
    _check_log_partition(run.ask.where(label), problem, laws, samples)
    call = Reads.of(laws, samples)
    least = min(reads.ess for reads in call)
    if least < LEAST_ESS * num:
        raise ContractError(
            f"{run.ask.where(label)}: the weights of {num} reads are worth {least:.1f} equal "
            "ones: too few to judge"
        )
    _collect(run, label, call)


def _check_log_partition(where: str, problem: Ising, laws: Sequence[Law], samples: Samples) -> None:
    """A log Z that is given is right: to rounding beside the EXACT tag, within 8 of its standard errors else."""
    value = samples.info.get("log_partition")
    error = samples.info.get(
        "log_partition_stderr", 0.0 if samples.exactness is Exactness.EXACT else None
    )
    if value is None or error is None or problem.dtype not in (torch.float32, torch.float64):
        return
    batch = problem.batch_shape
    right = (
        torch.tensor([law.log_z for law in laws]).double().reshape(batch)
        - problem.offset.detach().double()
    )
    off = (torch.as_tensor(value).double().reshape(batch) - right).abs()
    if not (off <= 8 * torch.as_tensor(error).double() + 1e-4 * (1 + right.abs())).all():
        raise ContractError(f"{where}: info['log_partition'] is off by {float(off.max()):.3g}")


MAX_ASKED = 16  # spins that any sampler must take


def _collect(run: Run, label: str, call: Sequence[Reads], *, by_state: bool = True) -> None:
    """All looks at one call, and its part of the pooled sums."""
    for reads in call:
        if by_state and reads.num >= 200 and len(reads.law.parts) == 1:
            run.looks += _state_by_state(label, reads)
    total, rank = _score(call)
    if rank:
        run.looks += _moments(label, total, rank, call)
    finding = (
        within(call) if sum(reads.num for reads in call) >= 100 and call[0].num >= 20 else None
    )
    if finding is not None:
        run.looks.append(_independence(label, finding, call))
    finding = across(call)
    if finding is not None:
        run.looks.append(Look(label, "problems of a batch", *finding, lambda alpha: ""))
    _add(run.pool, call, total, rank)


def _state_by_state(label: str, reads: Reads) -> list[Look]:
    """G-tests on all states; on windows of the spins where states are too many for the reads."""
    n = reads.law.graph.num_spins
    (part,) = reads.law.parts
    most = max(1, int(math.log2(max(2.0, reads.ess / 20))))
    windows = math.ceil(n / most) if n > most else 1
    looks = []
    weight = (
        torch.full((reads.num,), 1 / reads.num).double() if reads.weight is None else reads.weight
    )
    whole = part.p.reshape([2] * n)  # axis 0 is the last spin
    for spins in torch.arange(n).chunk(windows):
        others = [n - 1 - i for i in range(n) if i not in spins.tolist()]
        p = (whole.sum(others) if others else whole).flatten()
        N = torch.tensor(reads.ess, dtype=torch.float64)
        p_value, distance, floor = g_of(p, codes(reads.spins[:, spins]), weight, N)
        seen = f"the reads do not follow exp(-E), total variation {distance:.4f} where exact draws show {floor:.4f}"
        check = "law" if windows == 1 else f"law of spins {int(spins[0])} to {int(spins[-1])}"
        information = reads.ess * reads.law.energy_variance
        states = int((p * reads.ess >= 5).sum())
        looks.append(
            Look(
                label,
                check,
                p_value,
                seen,
                _beta_error(max(1, states), information),
                distance,
                floor,
            )
        )
    return looks


def _score(call: Sequence[Reads]) -> tuple[float, int]:
    """The score test of each problem of a call, summed; of all together where each has few reads."""
    if min(reads.num for reads in call) >= 200:
        each = [quadratic(reads.deviation.sum(0), reads.covariance, reads.num) for reads in call]
        return sum(total for total, _ in each), sum(rank for _, rank in each)
    total = 0.0
    covariance = 0.0
    num = 0
    for reads in call:
        wide = _directions(reads.law)
        total = total + reads.deviation.sum(0) @ wide
        covariance = covariance + reads.num * (wide.mT @ reads.covariance @ wide)
        num += reads.num
    assert isinstance(total, Tensor) and isinstance(covariance, Tensor)
    return quadratic(total, covariance / num, num)


def _directions(law: Law) -> Tensor:
    """The features, and the energies of fields and of couplings (of variance 1), whose sign no problem changes."""
    size = len(law.mean)
    columns = [torch.eye(size, dtype=torch.float64)]
    for part in slices(law).values():
        c = torch.zeros(size, dtype=torch.float64)
        c[part] = law.coefficients[part]
        variance = c @ law.covariance @ c
        if variance > 0:
            columns.append((c / variance.sqrt())[:, None])
    return torch.cat(columns, -1)


def _moments(label: str, total: float, rank: int, call: Sequence[Reads]) -> list[Look]:
    """The score test; and the worst moment where they are many: one wrong field is lost in the sum of hundreds."""
    from scipy.stats import chi2

    information = sum(reads.ess * reads.law.energy_variance for reads in call)
    seen = f"means of spins and of products over edges are off: chi-squared {total:.0f} for {rank}"
    one = torch.cat([reads.ess * reads.covariance.diagonal() for reads in call])
    own = float(one[one > 1].median()) if (one > 1).any() else 0.0

    def detects(alpha: float) -> str:
        size = _noncentral(alpha, rank)
        single = f", one field or coupling by {math.sqrt(size / own):.2g}" if own else ""
        return _beta_error(rank, information)(alpha) + single

    looks = [Look(label, "moments", float(chi2.sf(total, rank)), seen, detects)]
    return looks + _worst_moment(label, call) if rank >= MANY else looks


def _worst_moment(label: str, call: Sequence[Reads]) -> list[Look]:
    """The moment that is most off, of independent ones: C^(-1/2) times the deviations, C^(-1/2) symmetric.

    That transformation makes them independent and changes each as little as can be (Kessy, Lewin
    and Strimmer, arXiv 1512.00809, ZCA), so that the least p-value is one of known law and still
    names a spin or an edge.
    """
    deviations = []
    names = []
    sizes = []
    for k, reads in enumerate(call):
        graph = reads.law.graph
        steady = _steady(reads)
        covariance = reads.covariance[steady][:, steady]
        value, vector = torch.linalg.eigh(covariance)
        root = vector * value.rsqrt() @ vector.mT
        deviations.append(root @ reads.deviation.sum(0)[steady] / math.sqrt(reads.num))
        sizes.append(math.sqrt(reads.ess) * (root @ covariance).diagonal())
        features = [f"spin {i}" for i in range(graph.num_spins)]
        features += [f"edge {tuple(edge)}" for edge in graph.edges.T.tolist()]
        names += [f"{features[i]} of problem {k}" for i in steady.tolist()]
    z = torch.cat(deviations)
    number = len(z)
    if number == 0:
        return []
    worst = int(z.abs().argmax())
    typical = float(torch.cat(sizes).median())
    seen = f"the mean of {names[worst]} is off: z = {float(z[worst]):.1f}"

    def detects(alpha: float) -> str:
        return f"one field or coupling by {_sigmas(alpha / number) / typical:.2g}"

    return [
        Look(label, "worst moment", least_of(two_sided(float(z[worst])), number), seen, detects)
    ]


def _steady(reads: Reads) -> Tensor:
    """The features that vary, without those that others nearly determine: a covariance that can be inverted."""
    steady = (reads.law.covariance.diagonal() >= STEADY).nonzero()[:, 0]
    while True:
        value, vector = torch.linalg.eigh(reads.covariance[steady][:, steady])
        low = value < CLEAR / reads.num
        if not low.any():
            return steady
        # of each direction that hardly varies, the feature with the largest part in it goes
        keep = torch.ones(len(steady), dtype=torch.bool)
        keep[vector[:, low].abs().argmax(0)] = False
        steady = steady[keep]


def _independence(label: str, finding: Finding, call: Sequence[Reads]) -> Look:
    found = neighbours(call, "spins")
    size = 0.0
    if found is not None:
        steady = sum(r.num * standard(r, slices(r.law)["spins"]).z.shape[1] for r in call)
        size = found[1] ** 0.5 / steady

    def detects(alpha: float) -> str:
        return f"correlations of {_sigmas(alpha / 7) * size:.2g} between neighbours" if size else ""

    return Look(label, "independent reads", *finding, detects)


def _repeated(reads: Reads) -> Callable[[float], str]:
    """The part of the reads that two calls may share unseen, where equal pairs are counted."""
    law = reads.law
    N = reads.num
    a = law.coincidence(2)
    b = law.coincidence(3)
    sigma = N * math.sqrt(max(0.0, a - a * a + 2 * N * (b - a * a)))
    return lambda alpha: (
        f"{min(100.0, 100 * _sigmas(alpha / 8) * sigma / N):.2g} % of reads in common"
    )


def _add(pool: Pool, call: Sequence[Reads], total: float, rank: int) -> None:
    for reads in call:
        c = reads.law.coefficients
        heat = reads.law.energy_variance
        if heat <= 0:
            continue
        excess = float(reads.deviation.mean(0) @ c)
        variance = float(c @ reads.covariance @ c) / reads.num
        information = heat * heat / variance
        if information * heat > 0:
            pool.beta -= information * excess / heat
            pool.information += information
    if all(reads.weight is None for reads in call):
        pool.quadratic += total
        pool.rank += rank
    if call[0].num >= 20:
        for name in ("spins", "products"):
            found = neighbours(call, name)
            if found is not None:
                pool.neighbours += float(found[0][0])
                pool.variance += found[1]


def _sigmas(alpha: float) -> float:
    """The size, in standard errors, of what a two-sided normal test at `alpha` finds with probability `POWER`."""
    from scipy.stats import norm

    return float(norm.isf(alpha / 2) + norm.ppf(POWER))


def _noncentral(alpha: float, free: int) -> float:
    """The non-centrality that a chi-squared test at `alpha` finds with probability `POWER`."""
    from scipy.special import chndtrinc
    from scipy.stats import chi2

    return float(chndtrinc(chi2.isf(alpha, free), free, 1 - POWER))


def _beta_error(free: int, information: float) -> Callable[[float], str]:
    def detects(alpha: float) -> str:
        if information <= 0:
            return ""
        return f"beta off by {100 * math.sqrt(_noncentral(alpha, free) / information):.2g} %"

    return detects


# ---- claims ----------------


def _claims(run: Run) -> None:
    """`warm_start`, `reversible` and the EXACT tag, on problems where a false claim shows."""
    kinds = [case.problem.graph.kind for case in run.cases if case.problem.graph.num_edges]
    if not kinds:
        run.verdicts.notes.append("claims: no case has couplings")
        return
    kind = next(k for k in get_args(Kind) if k in kinds)
    if run.sampler.warm_start and "initial" not in run.skip:
        _knows_its_start(run, kind)
    if run.sampler.reversible and "reversible" not in run.skip:
        if run.sampler.warm_start:
            _is_reversible(run, kind)
        else:
            run.verdicts.notes.append(
                "reversible: the sampler cannot continue chains, so the claim says nothing"
            )
    if "exact" not in run.skip:
        _is_exact(run, kind)


def _knows_its_start(run: Run, kind: Kind) -> None:
    """From either ground state of a long row, which no sampler turns over, each read resembles its own start.

    Of reads that do not know their start the mean overlap is 0 with a standard error of 1/8 or
    less.
    """
    row, ground = long_row(kind)
    problem = twins(row)
    num = 64
    label = "a long row, from its ground states"
    sign = torch.randint(2, (2, num, 1), generator=run.ask.generator(), dtype=torch.int8) * 2 - 1
    start = sign * ground
    try:
        samples = run.ask(label, problem, num, initial=Samples(start, problem.energy(start)))
    except ValueError as refusal:
        run.verdicts.notes.append(f"initial: refused ({refusal})")
        return
    overlap = float((samples.spins.double() * start).mean((-2, -1)).min())
    if overlap < 0.5:
        raise ContractError(
            f"{run.ask.where(label)}: the reads do not know the `initial` they start from: their "
            "overlap with it is "
            f"{overlap:.3f}, expected nearly 1; a sampler that forgets its start says warm_start "
            "= False"
        )


def _is_reversible(run: Run, kind: Kind) -> None:
    """In equilibrium a reversible kernel goes from state x to state y as often as back.

    Strong couplings keep a memory of many sweeps: each strength is a time scale.
    """
    problem, rows = rows_of_three(kind, STRENGTHS, 16)
    label = "rows of three, from exact reads"
    num = run.number(0.5)
    start = Law.of(problem)[0].draw(num, run.ask.generator())
    try:
        end = run.ask(label, problem, num, initial=Samples(start, problem.energy(start))).spins
    except ValueError as refusal:
        run.verdicts.notes.append(f"reversible: refused ({refusal})")
        return
    for strength, spins in zip(STRENGTHS, rows, strict=True):
        x = start[:, spins]
        y = end[:, spins]
        step = (
            torch.nn.functional.one_hot(8 * codes(x) + codes(y), 64)
            .sum(1)
            .double()
            .reshape(num, 8, 8)
        )
        i, j = torch.triu_indices(8, 8, 1)
        s = x.double()
        t = y.double()
        # the middle after the ends, less the ends after the middle: what a scan in a fixed order
        # favours
        turns = s[..., [1]] * t[..., [0, 2]] - s[..., [0, 2]] * t[..., [1]]
        flows = [(step - step.mT)[:, i, j], turns.sum(1)]
        seen = f"the kernel is not reversible: states of spins coupled by {strength:g} follow each other one way"
        parts = [Part(p_value, seen) for p_value in map(_symmetric, flows) if p_value is not None]
        if parts:
            run.looks.append(
                Look(label, f"reversible at {strength:g}", *Finding.of(parts), lambda alpha: "")
            )


def _symmetric(flow: Tensor) -> float | None:
    """The p-value of rows `[R, f]` each of which is as likely as its negative; None where too few are not 0."""
    from scipy.stats import chi2

    basis = whitened(flow.mT @ flow, 25.0)
    if not basis.shape[1]:
        return None
    return float(chi2.sf(float((flow.sum(0) @ basis).square().sum()), basis.shape[1]))


def _is_exact(run: Run, kind: Kind) -> None:
    """Draws tagged EXACT follow a law that chains do not reach."""
    problem = two_modes(kind)
    label = "two modes"
    num = run.number(0.5)
    if run.ask(label, problem, 1).exactness is not Exactness.EXACT:
        return
    call = Reads.of(Law.of(problem), run.ask(label, problem, num))
    # two states in all: moments say as much
    _collect(run, f"{label}, tagged EXACT", call, by_state=False)


def _liveliest(cases: Sequence[Case]) -> Case:
    """The case two reads of which are most seldom alike, of those of ordinary size."""
    small = [case for case in cases if case.problem.num_spins <= MAX_ASKED] or cases
    return min(small, key=lambda case: Law.of(alone(case.problem))[0].coincidence())
