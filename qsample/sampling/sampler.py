"""The contract that every sampler meets, and the checks that all of them make."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.problem.sizes import for_one_call, largest
from qsample.sampling.random import Generators
from qsample.sampling.samples import Samples, check_samples
from qsample.support.checks import WAYS_TO_ISING, check_spins, is_whole, wrong_kind
from qsample.support.faces import public


@public("qsample.sampling")
class OffTarget(UserWarning):
    """Reads at another temperature than the problem's, and nothing that corrects them."""


_CORRECTED: ContextVar[bool] = ContextVar("corrected", default=False)


@contextmanager
def corrected_later() -> Iterator[None]:
    """Inside, in this thread alone, nobody is told of an `OffTarget`: draws are corrected later."""
    before = _CORRECTED.set(True)  # not `catch_warnings`, whose filters are those of all threads
    try:
        yield
    finally:
        _CORRECTED.reset(before)


def warn_off_target(said: str, stacklevel: int = 2) -> None:
    """Warn of reads at another temperature, unless they are `corrected_later`."""
    if not _CORRECTED.get():
        warnings.warn(said, OffTarget, stacklevel=stacklevel + 1)


@public("qsample")
@runtime_checkable
class Sampler(Protocol):
    """Draws reads of an Ising problem. Structural: any class with these members is a sampler.

    A sampler holds settings only; chains persist because the caller passes the last `Samples` back
    as `initial`. `warm_start`: it can continue chains. `reversible`: its kernel, with its current
    settings, satisfies detailed balance at the target.
    """

    @property
    def warm_start(self) -> bool:
        """Whether it can continue chains from `initial`."""
        ...

    @property
    def reversible(self) -> bool:
        """Whether its kernel satisfies detailed balance at the target."""
        ...

    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Reads of each problem of the batch, fresh and detached: spins `[*B, num, n]`.

        Args:
            problem: One problem or a batch `*B`.
            num: Number of reads of each problem.
            initial: Reads to go on from, of a call before; None begins anew.
            generator: Source of the seeds, one for the batch or a list with one for each problem;
                torch's default generator by default.
        """
        ...


@public("qsample.sampling")
@runtime_checkable
class Stateful(Protocol):
    """A sampler that owns a session with a device and has a state beside its settings.

    Checkpoints hold the state: any sampler with these two methods is saved and resumed.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state, as nested dicts, lists, numbers, strings and tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        ...


def is_stateful(sampler: object) -> TypeGuard[Stateful]:
    """Whether a sampler has a state to save, of its own or passed on from one that it wraps."""
    return hasattr(sampler, "state_dict") and hasattr(sampler, "load_state_dict")


def check_is_sampler(sampler: object) -> None:
    """TypeError for what is no sampler: a name, a class not yet called, a dimod sampler."""
    if isinstance(sampler, type) or not isinstance(sampler, Sampler):
        raise TypeError(
            f"expected a sampler, such as Gibbs(sweeps=100); got {sampler!r} "
            "(DimodAnnealer(...) wraps dimod's)"
        )


def check_finite(problem: Ising) -> None:
    """TypeError for what is no problem, ValueError for an h, J or offset that is not finite."""
    if not isinstance(problem, Ising):
        raise wrong_kind("an Ising problem, such as model.ising()", problem, WAYS_TO_ISING)
    for name, size in largest(problem)._asdict().items():
        if math.isfinite(size):
            continue
        tensor: Tensor = getattr(problem, name).detach()
        place = [int(i) for i in (~tensor.isfinite()).nonzero()[0]]
        value = float(tensor[tuple(place)])
        raise ValueError(f"{name}{place} is {value}: expected finite numbers only")


@public("qsample.sampling")
def check_request(sampler: Sampler, problem: Ising, num: int, initial: Samples | None) -> Ising:
    """The checks that every sampler makes once per call; the detached problem, ready to sample.

    Args:
        sampler: The sampler that is asked.
        problem: One problem or a batch.
        num: Number of reads of each problem.
        initial: Reads to go on from, or None.

    Raises:
        ValueError: num < 1, an empty problem, an h, J or offset that is not finite, an asymmetric
            dense J, an `initial` of the wrong shape or for a sampler that cannot continue chains.
        TypeError: `problem` is no Ising problem, or `initial` no Samples.
    """
    if not is_whole(num) or num < 1:
        raise ValueError(f"expected num >= 1 reads; got {num!r}")
    if isinstance(problem, Ising):
        problem = for_one_call(problem)
    check_finite(problem)
    if problem.num_spins == 0:
        raise ValueError("the problem is empty (0 spins): there is nothing to sample")
    if num * problem.num_spins * max(1, problem.batch_shape.numel()) >= 1 << 50:
        raise ValueError(
            f"num={num} reads of {problem.num_spins} spins are more than any memory holds: "
            "ask for fewer"
        )
    if problem.batch_shape.numel() == 0:
        raise ValueError(f"the batch is empty: batch dimensions {list(problem.batch_shape)}")
    if problem.graph.kind == "complete" and not _is_symmetric(problem.J):
        raise ValueError(
            "expected a symmetric J with zero diagonal on a complete graph; "
            "Ising.from_dense says more"
        )
    if initial is not None:
        _check_initial(sampler, problem, num, initial)
    return problem


def _is_symmetric(J: Tensor) -> bool:
    return torch.equal(J, J.mT) and bool((J.diagonal(0, -2, -1) == 0).all())


def _check_initial(sampler: Sampler, problem: Ising, num: int, initial: Samples) -> None:
    if not sampler.warm_start:
        name = type(sampler).__name__
        raise ValueError(
            f"{name} cannot continue chains from `initial`: "
            f"use Gibbs, or Corrected({name}(...), Gibbs(...))"
        )
    check_samples(initial, "`initial`")
    spins = initial.spins.detach()
    expected = [*problem.batch_shape, num, problem.num_spins]
    if list(spins.shape) != expected:
        raise ValueError(f"expected initial spins of shape {expected}; got {list(spins.shape)}")
    if spins.device != problem.device:
        raise ValueError(f"initial is on {spins.device}, the problem on {problem.device}: move one")
    check_spins("initial spins", spins)
