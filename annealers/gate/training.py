"""Angles of QAOA by gradient: the mean energy of its state, and Adam on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qsample.annealers.gate.statevector import ones


def expected_energy(energy: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    r"""Mean of E in QAOA's state, `[P]` float64; differentiable in energies and angles.

    $|\psi\rangle = \prod_k e^{-i \beta_k \sum X} e^{-i \gamma_k C} |{+}\dots{+}\rangle$ in
    complex64, with two Hadamard transforms per layer, which are linear and keep nothing for the
    gradient but the states between layers.

    Args:
        energy: C of all states, `[P, 2^n]` float64.
        gamma: angles of the phases, `[P, layers]` float64.
        beta: angles of the mixers, `[P, layers]` float64.
    """
    states = energy.shape[-1]
    n = states.bit_length() - 1
    mixer = n - 2 * ones(n, energy.device)
    psi = torch.full(energy.shape, states**-0.5, dtype=torch.complex64, device=energy.device)
    for k in range(gamma.shape[-1]):
        psi = _transformed(psi * _phase(gamma[:, k, None] * energy))
        psi = _transformed(psi * _phase(beta[:, k, None] * mixer)) / states
    return (psi.abs().square().double() * energy).sum(-1)


def _phase(angle: Tensor) -> Tensor:
    """e^{-i angle} in complex64."""
    return torch.complex(angle.cos().float(), -angle.sin().float())


def _transformed(psi: Tensor) -> Tensor:
    """Hadamard's transform of `[P, 2^n]`, unscaled."""
    stride = 1
    while stride < psi.shape[-1]:
        low, high = psi.reshape(len(psi), -1, 2, stride).unbind(-2)
        psi = torch.stack([low + high, low - high], -2).reshape(psi.shape)
        stride *= 2
    return psi


def trained(mean: Callable[[Tensor], Tensor], start: Tensor, updates: int, rate: float) -> Tensor:
    """Angles of the least mean energy that Adam saw on its way, `[P, 2, depth]` float64.

    Args:
        mean: the mean energies `[P]` of angles `[P, 2, depth]`, differentiable.
        start: where it begins, `[P, 2, depth]`.
        updates: number of steps.
        rate: learning rate of the steps, radians.
    """
    with torch.enable_grad():
        angles = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([angles], lr=rate)
        best = angles.detach().clone()
        least = torch.full((len(start),), torch.inf, dtype=torch.float64, device=start.device)
        for update in range(updates + 1):
            energies = mean(angles)
            lower = energies.detach() < least
            least = torch.where(lower, energies.detach(), least)
            best = torch.where(lower[:, None, None], angles.detach(), best)
            if update < updates:
                optimiser.zero_grad()
                energies.sum().backward()
                optimiser.step()
    return best
