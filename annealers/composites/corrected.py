"""A heuristic sampler followed by a valid kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qsample.annealers.gibbs import Gibbs
from qsample.problem.ising import Ising
from qsample.sampling.sampler import (
    Generators,
    Sampler,
    check_is_sampler,
    check_request,
    corrected_later,
)
from qsample.sampling.samples import Exactness, Samples
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.annealers")
@dataclass(frozen=True)
class Corrected:
    """`sampler`'s reads, then `kernel`'s sweeps from them: an annealer finds the modes, the kernel sets the law.

    The tag becomes the kernel's, ASYMPTOTIC for `Gibbs`, and never EXACT. With `initial` the chains
    continue under the kernel alone, so that `start="persistent"` anneals once and then runs on.

    Args:
        sampler: any sampler.
        kernel: a sampler that can continue chains; `Gibbs(sweeps=10)` by default.

    Raises:
        ValueError: the kernel cannot continue chains.
    """

    sampler: Sampler
    kernel: Sampler = field(default_factory=lambda: Gibbs(sweeps=10))

    warm_start = True

    def __post_init__(self) -> None:
        for one in (self.sampler, self.kernel):
            check_is_sampler(one)
        if not self.kernel.warm_start:
            raise ValueError(
                f"{type(self.kernel).__name__} cannot continue chains, so it corrects nothing: "
                "use Gibbs(sweeps=...)"
            )

    @property
    def reversible(self) -> bool:
        """Whether the kernel is; the sampler only makes the starting points."""
        return self.kernel.reversible

    @property
    def spent(self) -> float | None:
        """Seconds of QPU access time, where the sampler is a `DWave`; else None."""
        return getattr(self.sampler, "spent", None)

    @property
    def irrevocable(self) -> bool:
        """Whether the sampler's state cannot be taken back, such as what a `DWave` was charged."""
        return getattr(self.sampler, "irrevocable", False)

    @uncompiled
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """See `Sampler.sample`; `info["before"]` holds what the sampler itself reported."""
        check_request(self, problem, num, initial)
        before: dict[str, Any] = {}
        if initial is None:
            with corrected_later():  # the kernel corrects the temperature
                first = self.sampler.sample(problem, num, generator=generator)
            before = {"before": dict(first.info)}
            if "spent" in first.info:
                before["spent"] = first.info["spent"]
            initial = replace(first, carry=None)  # the sampler's own, which the kernel cannot read
        last = self.kernel.sample(problem, num, initial=initial, generator=generator)
        tag = Exactness.HEURISTIC if last.exactness is Exactness.HEURISTIC else Exactness.ASYMPTOTIC
        return replace(last, exactness=tag, info={**last.info, **before})

    def state_dict(self) -> dict[str, Any]:
        """The state of a sampler that has one, a `DWave`, for checkpoints."""
        state_dict = getattr(self.sampler, "state_dict", None)
        return {"sampler": None if state_dict is None else state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if state["sampler"] is not None:
            self.sampler.load_state_dict(state["sampler"])  # pyright: ignore
