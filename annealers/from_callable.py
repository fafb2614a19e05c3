"""A general door: a function that returns bits or spins as a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.kernels.results import samples_of
from qsample.problem.ising import Ising
from qsample.sampling.cost import with_cost
from qsample.sampling.random import Generators, draw_seeds, mix
from qsample.sampling.sampler import check_request
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import check_choice
from qsample.support.faces import public

Coding = Literal["spins", "bits", "qubits"]
VALUES: dict[Coding, tuple[int, int]] = {"spins": (-1, 1), "bits": (0, 1), "qubits": (0, 1)}


@public("qsample.annealers")
@dataclass(frozen=True)
class FromCallable:
    """Any function `function(problem, num, seed)` as a sampler: a kit, a service, a chip.

    The function is called once per problem of a batch. Where it has nothing to do with the seed,
    its draws are beyond our control. Its reads are HEURISTIC, whatever it promises: `Corrected`
    makes a law of them.

    Args:
        function: takes an `Ising` problem without batch dimensions, on its own device, the number
            of reads, and a seed of 31 bits; returns the reads `[num, n]`, columns in the order of
            the problem's spins, as a tensor, an array or nested lists of integers, floats or bools.
        returns: what its numbers are. "spins": s of -1 and +1. "bits": b of 0 and 1, s = 2b - 1, as
            a QUBO has them. "qubits": measured qubits, s = 1 - 2b, as |0> is the +1 of Z.

    Raises:
        TypeError: `function` cannot be called, or it returned what holds no numbers.
        ValueError: an unknown `returns`, or reads of another shape or other numbers than that.
    """

    function: Callable[[Ising, int, int], Any]
    returns: Coding = "spins"

    exactness = Exactness.HEURISTIC
    warm_start = False
    reversible = False

    def __post_init__(self) -> None:
        check_choice("returns", self.returns, Coding)
        if not callable(self.function) or isinstance(self.function, type):
            raise TypeError(
                "expected a function of (problem, num, seed) that returns reads [num, n]; "
                f"got {self.function!r}"
            )

    @with_cost
    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Draw reads of each problem, one problem after the other; see `Sampler.sample`.

        Args:
            problem: one problem, or a batch `*B` of problems.
            num: number of reads per problem.
            initial: refused, as a function of this kind cannot continue chains.
            generator: source of the seeds; None is torch's default generator.
        """
        problem = check_request(self, problem, num, initial)
        seeds = draw_seeds(generator, problem.batch_shape)
        rows = [
            self._ask(item, num, mix(seed, 0) >> 32)
            for item, seed in zip(problem.unbind(), seeds, strict=True)
        ]
        return samples_of(problem, torch.stack(rows), Exactness.HEURISTIC, {})

    def _ask(self, problem: Ising, num: int, seed: int) -> Tensor:
        """The function's answer to one problem as spins `[num, n]`, int8, checked."""
        answer = self.function(problem, num, seed)
        name = getattr(self.function, "__name__", type(self.function).__name__)
        numbers = _as_tensor(answer, name)
        wanted = [num, problem.num_spins]
        if list(numbers.shape) != wanted:
            raise ValueError(
                f"expected {name} to return reads of shape {wanted}, a row per read; "
                f"got {list(numbers.shape)}{_shape_remedy(numbers, num, problem.num_spins)}"
            )
        low, high = VALUES[self.returns]
        odd = numbers[(numbers != low) & (numbers != high)]
        if len(odd):
            raise ValueError(
                f"expected {name} to return {self.returns} of {low} and {high}; "
                f"got {float(odd[0]):g}{self._coding_remedy(numbers)}"
            )
        spins = numbers.to(problem.device, torch.int8, copy=True)
        if self.returns == "spins":
            return spins
        return 2 * spins - 1 if self.returns == "bits" else 1 - 2 * spins

    def _coding_remedy(self, numbers: Tensor) -> str:
        """The `returns` that fits the numbers, in words; empty where none does."""
        values = set(numbers.unique().tolist())
        if values <= {0, 1} and self.returns == "spins":
            return ': FromCallable(..., returns="bits") takes 0 and 1 ("qubits": 0 is up)'
        if values <= {-1, 1} and self.returns != "spins":
            return ': FromCallable(..., returns="spins") takes -1 and +1'
        return ": round or threshold the reads first"


def _as_tensor(answer: Any, name: str) -> Tensor:
    """Reads as a tensor of real numbers; TypeError for what holds none."""
    try:
        numbers = answer if isinstance(answer, Tensor) else torch.from_numpy(np.asarray(answer))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"expected {name} to return a tensor or an array of reads [num, n]; "
            f"got {type(answer).__name__}: count strings such as '0110' become "
            "[[int(bit) for bit in row] for row in rows]"
        ) from None
    if numbers.is_complex():
        raise TypeError(
            f"expected {name} to return bits or spins; got {numbers.dtype}, "
            "which looks like amplitudes: measure first"
        )
    # unsigned integers would take -1 for their largest number
    return numbers.detach() if numbers.is_floating_point() else numbers.detach().long()


def _shape_remedy(numbers: Tensor, num: int, n: int) -> str:
    """What to do about a wrong shape, in words; empty where nobody knows."""
    if list(numbers.shape) == [n, num]:
        return ": return its transpose, .T"
    if numbers.dim() == 2 and numbers.shape[1] == n:
        return f": it was asked for num={num} reads; repeat each read as often as it was counted"
    return ""
