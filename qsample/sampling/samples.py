"""What a sampler returns, and how far it can be trusted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qsample.problem.graph import Graph, check_graph
from qsample.sampling.weights import systematic
from qsample.support.checks import check_tensors, whole
from qsample.support.faces import public
from qsample.support.transforms import uncompiled

if TYPE_CHECKING:
    import dimod


@public("qsample")
class Exactness(Enum):
    """What is known about the law of the draws. A composite may raise it; nothing may hide it."""

    EXACT = "exact"
    """independent draws from the target itself"""
    ASYMPTOTIC = "asymptotic"
    """a valid Markov kernel at the target, or proper weights: exact in the long run"""
    HEURISTIC = "heuristic"
    """everything else: annealers, foreign samplers, quantum processors"""


@public("qsample")
class ReliabilityWarning(UserWarning):
    """A result that may be wrong; the text is the `note` of that result.

    One class for all of them: `warnings.simplefilter("error", qs.ReliabilityWarning)` makes each an
    error.
    """


# kinds of notes, within `warned_once`
_said: ContextVar[set[str] | None] = ContextVar("said", default=None)


def warn_of(note: str) -> None:
    """Say a note, if there is one, as a warning where the caller's caller stands."""
    kind = re.sub(r"[-\d.]+", "#", note)
    said = _said.get()
    if not note or (said is not None and kind in said):
        return
    if said is not None:
        said.add(kind)
    warnings.warn(note, ReliabilityWarning, stacklevel=3)


@contextmanager
def warned_once() -> Iterator[None]:
    """Within it, notes that differ by their numbers only are said once.

    A training run draws many samples.
    """
    before = _said.set(set())
    try:
        yield
    finally:
        _said.reset(before)


@public("qsample")
@dataclass(frozen=True)
class Estimate:
    """A number with its standard error.

    Attributes:
        value: The number, a float, or a tensor `[*B]` for a batch.
        stderr: Its standard error, of the same shape.
        ess: Effective number of reads, where weights made the number.
        note: What the number cannot say: why it is infinite or undetermined.
    """

    value: Any
    stderr: Any
    ess: Any = None
    note: str = ""

    def __str__(self) -> str:
        text = f"{self.value}"
        if isinstance(self.value, float):
            text = f"{self.value:.4f} ± {self.stderr:.4f}"
        return f"{text} ({self.note})" if self.note else text


@public("qsample")
@dataclass(frozen=True)
class Side:
    """One measurement of a number that is known between two ends.

    Attributes:
        end: "low" or "high", the end of the bracket that it speaks for.
        method: How it was measured.
        value: The number.
        stderr: Its standard error.
        holds: "bound": its mean lies beyond the truth on this side, whatever mixes; or "if
            equilibrated": it holds if the chains that made it have seen the whole law.
    """

    end: str
    method: str
    value: float
    stderr: float
    holds: str

    def __str__(self) -> str:
        kind = "a bound" if self.holds == "bound" else "if its chains are equilibrated"
        return f"{self.end}: {self.value:.4f} ± {self.stderr:.4f} by {self.method}, {kind}"


@public("qsample")
@dataclass(frozen=True)
class Bracket:
    """A number known between two ends, each of 99 %, their Monte Carlo error inside.

    There is no middle: what is known is that the number is neither below `low` nor above `high`.

    Attributes:
        low: The lower end.
        high: The upper end.
        note: Why an end may not hold; "" where nothing speaks against it.
        sides: The measurements that the ends are made of.
    """

    low: float
    high: float
    note: str = ""
    sides: tuple[Side, ...] = ()

    @property
    def width(self) -> float:
        """The upper end less the lower one."""
        return self.high - self.low

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def taken_from(self, number: float) -> Bracket:
        """The bracket of `number` less this one."""
        other = {"low": "high", "high": "low"}
        sides = [
            replace(side, end=other[side.end], value=number - side.value) for side in self.sides
        ]
        return Bracket(number - self.high, number - self.low, self.note, tuple(reversed(sides)))

    def __str__(self) -> str:
        text = f"between {self.low:.4f} and {self.high:.4f}"
        return f"{text} ({self.note})" if self.note else text


@public("qsample")
@dataclass(frozen=True, eq=False)
class Samples:
    """Reads of an Ising problem (or a batch `*B` of them).

    Attributes:
        spins: States of -1 and +1, `[*B, R, n]` int8.
        energy: E of each read, `[*B, R]`.
        log_weight: Log importance weights, `[*B, R]`, up to a constant; None means equal weights.
        exactness: What is known about the law of these reads.
        info: What the sampler learned: effective beta, acceptance, timing, chain breaks.
        carry: Whatever the sampler wants back through `initial`; opaque, safe to drop, saved in
            checkpoints.
        family: Integer labels, `[*B, R]`; reads of one label are correlated (descendants of one
            replica, copies of one read, times of one chain), and count as one in `ess` and in
            errors. None: reads are independent.
    """

    spins: Tensor
    energy: Tensor
    log_weight: Tensor | None = None
    exactness: Exactness = Exactness.HEURISTIC
    info: Mapping[str, Any] = field(default_factory=dict)
    carry: Mapping[str, Tensor] | None = None
    family: Tensor | None = None

    def __post_init__(self) -> None:
        beside = {"energy": self.energy}
        if self.log_weight is not None:
            beside["log_weight"] = self.log_weight
        if self.family is not None:
            beside["family"] = self.family
        check_tensors(spins=self.spins, **beside)
        reads = list(self.spins.shape[:-1])
        for name, tensor in beside.items():
            if list(tensor.shape) != reads:
                raise ValueError(
                    f"expected {name} of shape {reads} beside the spins; got {list(tensor.shape)}"
                )

    def __repr__(self) -> str:
        weighted = "" if self.log_weight is None else ", weighted"
        shape = list(self.spins.shape)
        return f"Samples({shape}, {self.exactness.value}{weighted}, info={sorted(self.info)})"

    @property
    def num(self) -> int:
        """Reads in each problem, R."""
        return self.spins.shape[-2]

    @property
    def weight(self) -> Tensor:
        """Normalised weights, `[*B, R]`, which sum to 1 over the reads of each problem.

        In single precision at least.
        """
        dtype = torch.promote_types(self.energy.dtype, torch.float32)
        if self.log_weight is None:
            return torch.full_like(self.energy, 1 / self.num, dtype=dtype)
        return self.log_weight.to(dtype).softmax(-1)

    def mean(self, f: Tensor | Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The weighted mean over reads, `[*B, ...]`, in the energy's dtype.

        Args:
            f: What is averaged: values `[*B, R, ...]`, or a function that makes them of the spins;
                by default the spins themselves.

        Raises:
            ValueError: Values that are not of one number or tensor per read.
        """
        values = f(self.spins) if callable(f) else f
        if values is None:
            values = self.spins
        check_tensors(f=values)
        if values.shape[: self.energy.dim()] != self.energy.shape:
            raise ValueError(
                f"expected f of shape {[*self.energy.shape, '...']}; got {list(values.shape)}"
            )
        weight = self.weight
        values = values.to(weight)
        trailing = [1] * (values.dim() - weight.dim())
        weighted = weight.reshape(*weight.shape, *trailing) * values
        return weighted.sum(weight.dim() - 1).to(self.energy)

    def by_family(self, values: Tensor) -> Tensor:
        """Sums of `values` `[*B, R]` over the reads of each family, `[*B, R]`.

        Families stand first, zeros behind them. The sum of their squares is what the square of a
        sum over reads is on average, where only reads of one family are correlated.
        """
        if self.family is None:
            return values
        ordered, order = self.family.expand(values.shape).sort(-1)
        first = ordered.diff(dim=-1, prepend=ordered[..., :1]) != 0
        place = first.cumsum(-1)
        return torch.zeros_like(values).scatter_add(-1, place, values.gather(-1, order))

    def ess(self) -> Tensor:
        r"""Effective sample size over families k, `[*B]`.

        $$(\sum_r w_r)^2 / \sum_k (\sum_{r \in k} w_r)^2$$

        R for equal weights of independent reads (Kong 1992). Reads of one family count as one, so
        it is the least that they can be worth; correlations that `family` does not name are not in
        it.
        """
        return 1 / self.by_family(self.weight).square().sum(-1)

    @uncompiled
    def resample(self, num: int | None = None, generator: torch.Generator | None = None) -> Samples:
        """Equally weighted reads by systematic resampling.

        Each read is kept w·num times on average, w its weight. The copies of a read are one
        `family`, so that `ess` stays what the weights had left of it.
        """
        num = self.num if num is None else whole("num", num, 1)
        weight = self.weight.double().reshape(-1, self.num)
        if not weight.isfinite().all():
            raise ValueError(
                "the weights are nan: every log_weight of a problem is -inf, or one is nan"
            )
        device = weight.device if generator is None else generator.device
        start = torch.rand(
            len(weight), 1, generator=generator, dtype=torch.float64, device=device
        ).to(weight.device)
        pick = systematic(weight, start, num)
        pick = pick.reshape(*self.spins.shape[:-2], num)
        spins = self.spins.take_along_dim(pick[..., None], -2)
        # the same read twice is not two independent ones
        tag = Exactness.ASYMPTOTIC if self.exactness is Exactness.EXACT else self.exactness
        energy = self.energy.gather(-1, pick)
        family = pick if self.family is None else self.family.gather(-1, pick)
        return replace(
            self,
            spins=spins,
            energy=energy,
            log_weight=None,
            exactness=tag,
            carry=None,
            family=family,
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Samples:
        """On another device, or with energies and weights in another dtype; spins stay int8."""
        weight = None if self.log_weight is None else self.log_weight.to(device=device, dtype=dtype)
        carry = None if self.carry is None else {k: v.to(device) for k, v in self.carry.items()}
        energy = self.energy.to(device=device, dtype=dtype)
        family = None if self.family is None else self.family.to(device)
        spins = self.spins.to(device)
        return replace(
            self, spins=spins, energy=energy, log_weight=weight, carry=carry, family=family
        )

    def to_sampleset(self, graph: Graph | None = None) -> dimod.SampleSet:
        """These reads (of one problem) as a dimod SampleSet with the graph's labels.

        Weights stand as a vector beside them. Ocean's tools do not look at weights:
        `samples.resample().to_sampleset(graph)` gives reads of equal ones.
        """
        import dimod

        if self.spins.dim() != 2:
            raise ValueError(
                f"expected reads of one problem [R, n]; got a batch {list(self.spins.shape)}"
            )
        if graph is not None:
            check_graph(graph)
        labels = range(self.spins.shape[-1]) if graph is None else graph.labels
        vectors: dict[str, Any] = {}
        if self.log_weight is not None:
            vectors["log_weight"] = self.log_weight.cpu().numpy()
        info = {"exactness": self.exactness.value, **_plain(self.info)}
        info.pop("cost", None)  # times: the same seed gives the same SampleSet
        return dimod.SampleSet.from_samples(
            (self.spins.cpu().numpy(), list(labels)),
            dimod.SPIN,
            self.energy.cpu().numpy(),
            info=info,
            **vectors,
        )


def check_samples(samples: object, name: str = "samples") -> None:
    """TypeError for what is no `Samples`."""
    if not isinstance(samples, Samples):
        got = type(samples).__name__
        way = {
            "SampleSet": "DimodAnnealer(sampler).sample(problem, num) returns reads of a dimod "
            "sampler",
            "Tensor": "Samples(spins=..., energy=problem.energy(spins))",
            "ndarray": "spins = torch.as_tensor(...), then Samples(spins=spins, "
            "energy=problem.energy(spins))",
        }
        raise TypeError(
            f"expected {name} as Samples; got {got}" + (f": {way[got]}" if got in way else "")
        )


def _plain(value: Any) -> Any:
    """Tensors as numbers and lists, which a SampleSet can be serialised with."""
    if isinstance(value, Tensor):
        return value.tolist()
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value
