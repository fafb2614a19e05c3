"""An annealing schedule made for a problem, from what its energies do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qsample.annealers.replicas import Replicas, ordered_sum
from qsample.ising import Ising
from qsample.sampler import mix

PILOTS, TEMPERATURES = 64, 64  # replicas and temperatures of the run that measures the energies


def equal_lengths(problem: Ising, beta_range: tuple[float, float], sweeps: int, seeds: Sequence[int]) -> Tensor:
    r"""Betas `[sweeps, P]` at equal steps of thermodynamic length from the first beta of the range to the last.

    $$\ell(\beta) = \int_{\beta_0}^\beta \sigma_E(\beta') \, d\beta'$$

    so that neighbouring laws overlap alike, $d\beta \sim 1/\sigma_E$ (Salamon and Berry, PRL 51, 1983). The standard
    deviation of E is measured by a pilot annealing of a few replicas, denser where hot.
    """
    first, last = beta_range
    t = torch.linspace(0, 1, TEMPERATURES, dtype=torch.float64)
    grid = first + (last - first) * t**2
    pilot = Replicas(problem.without_offset(), PILOTS, [mix(seed, 4) for seed in seeds])
    sigma = []
    for beta in grid.tolist():
        pilot.sweep(torch.tensor([beta, beta], dtype=torch.float32))
        energy = pilot.energy
        mean = ordered_sum(energy)[:, None] / PILOTS
        sigma.append((ordered_sum((energy - mean).square()) / (PILOTS - 1)).sqrt())
    density = torch.stack(sigma, -1)  # [P, TEMPERATURES]
    density = density + 1e-3 * density.amax(-1, keepdim=True) + 1e-9  # so that frozen replicas do not stop the clock
    steps = (density[:, 1:] + density[:, :-1]) / 2 * grid.diff().abs()
    length = torch.cat([torch.zeros(len(seeds), 1, dtype=torch.float64), steps.cumsum(-1)], -1)
    goal = length[:, -1:] * torch.linspace(0, 1, sweeps, dtype=torch.float64)
    k = torch.searchsorted(length, goal.contiguous()).clamp(1, TEMPERATURES - 1)
    left, right = length.gather(-1, k - 1), length.gather(-1, k)
    beta = grid[k - 1] + (goal - left) / (right - left) * (grid[k] - grid[k - 1])
    beta[:, -1] = last
    return beta.T.float()
