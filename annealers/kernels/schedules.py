"""An annealing schedule made for a problem, from what its energies do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qsample.annealers.kernels.replicas import Replicas, ordered_sum
from qsample.problem.ising import Ising
from qsample.sampling.sampler import mix

# replicas and temperatures of the run that measures the energies
PILOTS = 64
TEMPERATURES = 64


@dataclass(frozen=True, eq=False)
class EqualLengths:
    """Betas of P problems at equal steps of thermodynamic length, `length` [P, T] of it reached at `grid` [T]."""

    count: int
    grid: Tensor
    length: Tensor

    @property
    def coldest(self) -> float:
        """The colder end."""
        return float(self.grid.max())

    def block(self, first: int, last: int) -> Tensor:
        """See `Betas`: `[S, P, 1]`."""
        part = torch.arange(first, last, dtype=torch.float64) / max(self.count - 1, 1)
        goal = self.length[:, -1:] * part
        k = torch.searchsorted(self.length, goal).clamp(1, len(self.grid) - 1)
        left = self.length.gather(-1, k - 1)
        right = self.length.gather(-1, k)
        below = self.grid[k - 1]
        above = self.grid[k]
        beta = below + (goal - left) / (right - left) * (above - below)
        if last == self.count:
            beta[:, -1:] = self.grid[-1]
        return beta.T[..., None]


def equal_lengths(
    problem: Ising,
    beta_range: tuple[float, float],
    sweeps: int,
    seeds: Sequence[int],
    alive: Callable[[], bool] | None = None,
) -> EqualLengths:
    r"""Betas at equal steps of thermodynamic length from the first beta of the range to the last.

    $$\ell(\beta) = \int_{\beta_0}^\beta \sigma_E(\beta') \, d\beta'$$

    so that neighbouring laws overlap alike, $d\beta \sim 1/\sigma_E$ (Salamon and Berry, PRL 51,
    1983). The standard deviation of E is measured by a pilot annealing of a few replicas, denser
    where hot. Where `alive` ends it, the last deviation stands for those of all colder
    temperatures.
    """
    first, last = beta_range
    t = torch.linspace(0, 1, TEMPERATURES, dtype=torch.float64)
    grid = first + (last - first) * t**2
    pilot = Replicas(
        problem.without_offset(), PILOTS, [mix(seed, 4) for seed in seeds], coldest=max(beta_range)
    )
    sigma: list[Tensor] = []
    for beta in grid.tolist():
        if alive is not None and not alive():
            break
        pilot.sweep(torch.tensor([beta, beta], dtype=torch.float32))
        energy = pilot.energy
        mean = ordered_sum(energy)[:, None] / PILOTS
        sigma.append((ordered_sum((energy - mean).square()) / (PILOTS - 1)).sqrt())
    rest = sigma[-1] if sigma else torch.ones(len(seeds), dtype=torch.float64)
    density = torch.stack(sigma + [rest] * (TEMPERATURES - len(sigma)), -1)  # [P, TEMPERATURES]
    # so that frozen replicas do not stop the clock
    density = density + 1e-3 * density.amax(-1, keepdim=True) + 1e-9
    steps = (density[:, 1:] + density[:, :-1]) / 2 * grid.diff().abs()
    length = torch.cat([torch.zeros(len(seeds), 1, dtype=torch.float64), steps.cumsum(-1)], -1)
    return EqualLengths(sweeps, grid, length)
