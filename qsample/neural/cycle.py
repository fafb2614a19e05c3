"""Kernels in turn, as one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsample.neural.energy import Energy
from qsample.neural.kernel import Chains, Kernel, check_kernel, weaker
from qsample.sampling.random import Generators
from qsample.sampling.samples import Exactness, Samples
from qsample.support.checks import whole_settings
from qsample.support.faces import public
from qsample.support.transforms import uncompiled


@public("qsample.diffusion")
@dataclass(frozen=True)
class Cycle:
    """Kernels in turn: blocks for far moves, local ones for what the surrogate gets wrong.

    Each leaves the law alone, so all of them do. Reversible only if the turn reads the same
    backward, such as `Cycle([local, blocks, local])`. `info["kernels"]` lists what each accepted
    and cost.

    Args:
        kernels: in their order; a kernel may come twice.
        rounds: turns per call.

    Raises:
        ValueError: no kernels, or rounds < 1.
    """

    kernels: Sequence[Kernel]
    rounds: int = 1

    def __post_init__(self) -> None:
        if not len(self.kernels):
            raise ValueError("a cycle of no kernels: expected at least one, such as SiteGibbs()")
        for kernel in self.kernels:
            check_kernel(kernel)
        whole_settings(self, rounds=1)

    @property
    def reversible(self) -> bool:
        """Whether the kernels are, and read the same backward."""
        forward = list(self.kernels)
        backward = list(reversed(self.kernels))
        return forward == backward and all(kernel.reversible for kernel in forward)

    @uncompiled
    def sample(
        self,
        energy: Energy,
        x: Tensor,
        *,
        anchor: Tensor | None = None,
        generator: Generators | None = None,
    ) -> Samples:
        """Make `rounds` turns from `x`; see `Kernel.sample`.

        Args:
            energy: E, a function of states `[*B, M, n]` to `[*B, M]`.
            x: spins `[*B, R, n]`, R chains per item.
            anchor: spins `[*B, n]`, handed to every kernel.
            generator: one for the batch, or a list with one per item; None is torch's default.

        Returns:
            The chains moved; `info["acceptance"]` is the mean over the kernels.
        """
        chains = Chains(energy, x, generator)
        generators = chains.draws.generators()
        tag = Exactness.ASYMPTOTIC
        # what each kernel accepted, on average over the rounds, and evaluated, in all of them
        notes: list[dict[str, Any]] = [
            {"acceptance": 0, **dict.fromkeys(chains.cost(), 0)} for _ in self.kernels
        ]
        E = torch.empty(0)
        for _ in range(self.rounds):
            for kernel, note in zip(self.kernels, notes, strict=True):
                samples = kernel.sample(
                    chains.energy, chains.s, anchor=anchor, generator=generators
                )
                tag = weaker(tag, samples.exactness)
                chains.s = samples.spins.to(chains.s)
                E = samples.energy
                note["acceptance"] += samples.info["acceptance"] / self.rounds
                for name in chains.cost():
                    note[name] += samples.info[name]
        acceptance = torch.stack([note["acceptance"] for note in notes]).mean(0)
        return chains.result(E, tag, acceptance=acceptance, kernels=notes)
