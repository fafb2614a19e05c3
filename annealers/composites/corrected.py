"""A heuristic sampler followed by a valid kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qsample.annealers.gibbs import Gibbs
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators
from qsample.sampling.sampler import (
    Sampler,
    check_is_sampler,
    check_request,
    corrected_later,
    is_stateful,
)
from qsample.sampling.samples import Exactness, Samples
from qsample.support.faces import public


@public("qsample.annealers")
@dataclass(frozen=True)
class Corrected:
    """`sampler`'s reads, then `kernel`'s sweeps from them.

    An annealer finds the modes, the kernel sets the law. The tag becomes the kernel's, ASYMPTOTIC
    for `Gibbs`, and never EXACT. With `initial` the chains continue under the kernel alone, so that
    `start="persistent"` anneals once and then runs on.

    Args:
        sampler: any sampler; its reads are the kernel's starting points.
        kernel: a sampler that can continue chains; `Gibbs(sweeps=10)` by default.

    Raises:
        TypeError: one of the two is no sampler.
        ValueError: the kernel cannot continue chains.
    """

    sampler: Sampler
    kernel: Sampler = field(default_factory=lambda: Gibbs(sweeps=10))

    exactness = Exactness.ASYMPTOTIC
    warm_start = True

    def __post_init__(self) -> None:
        check_is_sampler(self.sampler)
        check_is_sampler(self.kernel)
        if not self.kernel.warm_start:
            raise ValueError(
                f"{type(self.kernel).__name__} cannot continue chains, so it corrects nothing: "
                "use Gibbs(sweeps=...)"
            )

    @property
    def reversible(self) -> bool:
        """Whether the kernel is reversible; the sampler only makes the starting points."""
        return self.kernel.reversible

    @property
    def irrevocable(self) -> bool:
        """Whether the sampler's state cannot be taken back, as what a device has charged."""
        return getattr(self.sampler, "irrevocable", False)

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw reads of each problem; see `Sampler.sample`.

        Args:
            problem: one problem, or a batch `*B` of problems.
            num: number of reads per problem.
            initial: chains to continue, `[*B, num, n]`; None draws new ones by the sampler, whose
                own report is then `info["before"]`.
            generator: source of the seeds; None is torch's default generator.
        """
        check_request(self, problem, num, initial)
        info: dict[str, Any] = {}
        if initial is None:
            with corrected_later():  # the kernel corrects the temperature
                first = self.sampler.sample(problem, num, generator=generator)
            info["before"] = dict(first.info)
            if "spent" in first.info:
                info["spent"] = first.info["spent"]
            # the carry is the sampler's own, which the kernel cannot read
            initial = replace(first, carry=None)
        last = self.kernel.sample(problem, num, initial=initial, generator=generator)
        tag = Exactness.HEURISTIC if last.exactness is Exactness.HEURISTIC else Exactness.ASYMPTOTIC
        return replace(last, exactness=tag, info={**last.info, **info})

    def state_dict(self) -> dict[str, Any]:
        """The state of the sampler, where it has one, for checkpoints."""
        state = self.sampler.state_dict() if is_stateful(self.sampler) else None
        return {"sampler": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        if state["sampler"] is None:
            return
        assert is_stateful(self.sampler)
        self.sampler.load_state_dict(state["sampler"])
