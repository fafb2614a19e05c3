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

    EXACT = "exact"  #: independent draws from the target itself
    # a valid Markov kernel at the target, or proper weights: exact in the long run
    ASYMPTOTIC = "asymptotic"
    HEURISTIC = "heuristic"  #: everything else: annealers, foreign samplers, quantum processors


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
    """Within it, notes that differ by their numbers only are said once: a training run draws many samples."""
    before = _said.set(set())
    try:
        yield
    finally:
        _said.reset(before)


@public("qsample")
@dataclass(frozen=True)
class Estimate:
    """A number with its standard error: floats, or tensors `[*B]` for a batch; `ess` where weights made it.

    `note` says in words what the number cannot: why it is infinite or undetermined.
    """

    value: Any
    stderr: Any
    ess: Any = None
    note: str = ""

    def __str__(self) -> str:
        text = (
            f"{self.value:.4f} ± {self.stderr:.4f}"
            if isinstance(self.value, float)
            else f"{self.value}"
        )
        return text + (f" ({self.note})" if self.note else "")


@public("qsample")
@dataclass(frozen=True, eq=False)
class Samples:
    """Reads of an Ising problem (or a batch `*B` of them).

    Attributes:
        spins: `[*B, R, n]` int8, -1 or +1.
        energy: E of each read, `[*B, R]`.
        log_weight: log importance weights `[*B, R]`, up to a constant; None means equal weights.
        exactness: what is known about the law of these reads.
        info: what the sampler learned: effective beta, acceptance, timing, chain breaks.
        carry: whatever the sampler wants back through `initial`; opaque, safe to drop, saved in
            checkpoints.
        family: integer labels `[*B, R]`; reads of one label are correlated (descendants of one
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
        given = {name: getattr(self, name) for name in ("log_weight", "family")}
        check_tensors(spins=self.spins, energy=self.energy)
        check_tensors(**{name: t for name, t in given.items() if t is not None})
        reads = self.spins.shape[:-1]
        beside = {"energy": self.energy, "log_weight": self.log_weight, "family": self.family}
        for name, t in beside.items():
            if t is not None and t.shape != reads:
                raise ValueError(
                    f"expected {name} of shape {list(reads)} beside the spins; got {list(t.shape)}"
                )

    def __repr__(self) -> str:
        weighted = "" if self.log_weight is None else ", weighted"
        return f"Samples({list(self.spins.shape)}, {self.exactness.value}{weighted}, info={sorted(self.info)})"

    @property
    def num(self) -> int:
        """Reads in each problem, R."""
        return self.spins.shape[-2]

    @property
    def weight(self) -> Tensor:
        """Normalised weights `[*B, R]`, which sum to 1 over the reads of each problem; in single precision at least."""
        dtype = torch.promote_types(self.energy.dtype, torch.float32)
        if self.log_weight is None:
            return torch.full_like(self.energy, 1 / self.num, dtype=dtype)
        return self.log_weight.to(dtype).softmax(-1)

    def mean(self, f: Tensor | Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The weighted mean over reads of `f`: a tensor `[*B, R, ...]`, a function of the spins, or the spins."""
        values = self.spins if f is None else f(self.spins) if callable(f) else f
        check_tensors(f=values)
        if values.shape[: self.energy.dim()] != self.energy.shape:
            raise ValueError(
                f"expected f of shape {[*self.energy.shape, '...']}; got {list(values.shape)}"
            )
        weight = self.weight
        values = values.to(weight)
        mean = (weight.reshape(*weight.shape, *[1] * (values.dim() - weight.dim())) * values).sum(
            weight.dim() - 1
        )
        return mean.to(self.energy)

    def by_family(self, values: Tensor) -> Tensor:
        """Sums of `values` `[*B, R]` over the reads of each family, `[*B, R]`: families first, zeros behind them.

        The sum of their squares is what the square of a sum over reads is on average, where only
        reads of one family are correlated.
        """
        if self.family is None:
            return values
        order = self.family.expand(values.shape).sort(-1)
        first = order.values.diff(dim=-1, prepend=order.values[..., :1]) != 0
        return torch.zeros_like(values).scatter_add(
            -1, first.cumsum(-1), values.gather(-1, order.indices)
        )

    def ess(self) -> Tensor:
        r"""Effective sample size $(\sum_r w_r)^2 / \sum_k (\sum_{r \in k} w_r)^2$ over families k, `[*B]`.

        R for equal weights of independent reads (Kong 1992). Reads of one family count as one, so
        it is the least that they can be worth; correlations that `family` does not name are not in
        it.
        """
        return 1 / self.by_family(self.weight).square().sum(-1)

    @uncompiled
    def resample(self, num: int | None = None, generator: torch.Generator | None = None) -> Samples:
        """`num` equally weighted reads drawn by systematic resampling: each read is kept w·num times on average.

        The copies of a read are one `family`, so that `ess` stays what the weights had left of it.
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
        """These reads (of one problem) as a dimod SampleSet with the graph's labels; weights as a vector beside.

        Ocean's tools do not look at weights: `samples.resample().to_sampleset(graph)` gives reads
        of equal ones.
        """
        import dimod

        if self.spins.dim() != 2:
            raise ValueError(
                f"expected reads of one problem [R, n]; got a batch {list(self.spins.shape)}"
            )
        if graph is not None:
            check_graph(graph)
        labels = range(self.spins.shape[-1]) if graph is None else graph.labels
        vectors: dict[str, Any] = (
            {} if self.log_weight is None else {"log_weight": self.log_weight.cpu().numpy()}
        )
        info = {"exactness": self.exactness.value, **_plain(self.info)}
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
