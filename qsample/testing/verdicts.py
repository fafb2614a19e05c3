"""What a contract test says: verdicts, the looks they come from, and the sums over all calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from qsample.sampling.sampler import Sampler
from qsample.support.faces import public
from qsample.testing.manners import ContractError, Watched
from qsample.testing.problems import Case

# Number of stages that share the false-alarm rate.
SHARES = 7


@public("qsample.testing")
class Verdict(NamedTuple):
    """One test: its p-value, uniform for a right sampler, and the smallest error that it finds.

    Args:
        case: the case that was asked.
        p_value: the p-value of the test.
        total_variation: distance to the exact law, for "law"; nan for other tests.
        floor: mean distance of exact draws, for "law"; nan for other tests.
        check: name of the test.
        detects: the error that is rejected with probability 0.95 at this number of reads, in words.
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
            distance = (
                f", total variation {self.total_variation:.4f} where exact draws show "
                f"{self.floor:.4f}"
            )
        detects = f" (finds {self.detects})" if self.detects else ""
        return f"{self.case}{check}: p = {self.p_value:.2g}{distance}{detects}"


@public("qsample.testing")
class Verdicts(list[Verdict]):
    """The verdicts of a sampler that passed, to print.

    Args:
        verdicts: one per test.
        notes: what could not be checked.
    """

    def __init__(self, verdicts: Iterable[Verdict] = (), notes: Iterable[str] = ()) -> None:
        super().__init__(verdicts)
        self.notes = list(notes)

    def __str__(self) -> str:
        return "\n".join([*map(str, self), *(f"not checked: {note}" for note in self.notes)])


class Look(NamedTuple):
    """A test that was made, and is not judged yet.

    Args:
        case: the case that was asked.
        check: name of the test.
        p_value: its p-value, uniform for a right sampler.
        seen: what is wrong where it is rejected.
        detects: the error that it finds, in words, given the p-value below which it rejects.
        total_variation: distance to the exact law, nan where the test has none.
        floor: mean distance of exact draws, nan where the test has none.
    """

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
    """One sampler under test: its settings, the looks that wait for judgement, the verdicts.

    Args:
        ask: the sampler.
        cases: the problems.
        reads: number of reads of a case of share 1.
        false_alarm: chance that a right sampler fails.
        skip: clauses that are not tested.
        looks: tests of the present stage, not judged yet.
        verdicts: tests that were passed.
        pool: sums over all calls.
    """

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
