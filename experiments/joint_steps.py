"""What scripts on joint steps share: couplings on top of a denoiser that stands still.

They learn the evidence bound by Newton's steps, cut short: those of bits that hardly vary are
small, and so is their noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.models import IsingCopula
from qsample.sampling import Sampler
from qsample.support.progress import progress_bar

NEWTON = 0.3  # first share of a Newton step
LEAST = 0.01  # curvature that is added: couplings of bits that hardly vary stay small
SURE = 2.0  # standard errors by which validation rows must gain from couplings
SCALES = (1.0, 0.5, 0.25)  # of couplings, from which validation rows choose, or 0


class AtSteps(nn.Module):
    """A denoiser of times as one of T steps, as models call it.

    Args:
        net: the network, which takes x_k `[B, n]` and k/T `[B]`.
        steps: number of steps, T.
    """

    def __init__(self, net: nn.Module, steps: int) -> None:
        super().__init__()
        self.net = net
        self.steps = steps

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        """Logits `[B, n]` of x_k at steps k `[B]`."""
        return self.net(x, k / self.steps)


def annealing(sweeps: int) -> SimulatedAnnealing:
    """To beta 1 and as many sweeps there: a schedule that ends as it arrives is too hot."""
    rise = max(1, sweeps // 2)
    return SimulatedAnnealing(
        schedule=[*torch.linspace(0, 1, rise + 1)[1:].tolist(), *[1.0] * rise]
    )


@dataclass(frozen=True)
class Learning:
    """How couplings learn.

    Args:
        pool: draws of x_k from which the couplings of a step learn: the denoiser sees each once.
        batch: how many of them a gradient step takes.
        chain: sweeps of its chains.
        updates: gradient steps of each reverse step.
        longest: the most that a coupling changes in one, falling to zero.
    """

    pool: int
    batch: int
    chain: int
    updates: int
    longest: float


def train_steps(model: IsingCopula, data: Tensor, learning: Learning, seed: int) -> None:
    """The couplings of every step, each from a pool of draws of x_k.

    Args:
        model: a centred copula of a trained denoiser, which stays as it is.
        data: rows to learn from, spins `[N, n]`.
        learning: how.
        seed: seed of noise and chains.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    ks = range(1, model.process.steps + 1)
    for k in progress_bar(ks, desc="couplings", unit="step", leave=False):
        rows = data[torch.randint(len(data), (learning.pool,), generator=generator)]
        noisy = model.process.noise(rows, k, generator=generator)

        def batch(rows: Tensor = rows, noisy: Tensor = noisy) -> tuple[Tensor, Tensor]:
            some = torch.randint(learning.pool, (learning.batch,), generator=generator)
            return rows[some], noisy[some]

        train_step(
            model,
            k,
            noisy,
            batch,
            Gibbs(learning.chain),
            updates=learning.updates,
            longest=learning.longest,
            generator=generator,
        )


def train_step(
    model: IsingCopula,
    k: int,
    noisy: Tensor,
    batch: Callable[[], tuple[Tensor, Tensor | None]],
    sampler: Sampler,
    *,
    updates: int,
    longest: float,
    generator: torch.Generator,
) -> None:
    """The couplings of one step, by the gradient of its term of the evidence bound.

    Args:
        model: a centred copula of a trained denoiser, which stays as it is.
        k: the step.
        noisy: draws of x_k, of which the curvature is taken.
        batch: rows x_0 of a gradient step, and their x_k, or None to draw it anew.
        sampler: draws the step.
        updates: gradient steps.
        longest: the most that a coupling changes in one, falling to zero.
        generator: randomness.
    """
    assert model.b is not None
    learned = (model.J, model.b)
    curvatures = curvature_of(model, k, noisy)
    for update in range(updates):
        x_0, after = batch()
        loss = model.evidence_loss(x_0, k, sampler, after=after, generator=generator).mean()
        slopes = torch.autograd.grad(loss, learned)
        left = 1 - update / updates
        with torch.no_grad():
            for parameter, slope, curvature in zip(learned, slopes, curvatures, strict=True):
                change = left * NEWTON * slope[k - 1] / curvature
                parameter[k - 1] -= change.clamp(-left * longest, left * longest)


@torch.no_grad()
def curvature_of(model: IsingCopula, k: int, noisy: Tensor) -> tuple[Tensor, Tensor]:
    """Second derivatives of step k's loss in J and in b where both are 0: the others vanish there.

    Pair products of independent bits are uncorrelated, with variance (1 - m_i^2)(1 - m_j^2).

    Args:
        model: a centred copula.
        k: the step.
        noisy: draws of x_k.
    """
    variance = 1 - model.fields(noisy, k).float().tanh().square()
    i, j = model.graph.edges
    return (variance.T @ variance / len(variance))[i, j] + LEAST, variance.mean(0) + LEAST


# ---- which couplings are kept ------------------------------------------------------------------


@torch.no_grad()
def choose_scales(model: IsingCopula, validation: Tensor, anneal: int) -> list[dict[str, Any]]:
    """Couplings of each step times the scale that validation rows like best, or 0; what was seen.

    0 where no scale surely gains: the step is then the factorised one.

    Args:
        model: a copula; without couplings it is the factorised model.
        validation: rows that the model has not learned from, spins `[N, n]`.
        anneal: temperatures at which log Z is measured.
    """
    learned = {name: p.clone() for name, p in (("J", model.J), ("b", model.b)) if p is not None}
    plain, _ = bounds(without_couplings(model), validation, anneal)
    gains = []
    for scale in SCALES:
        for name, value in learned.items():
            model.get_parameter(name).copy_(scale * value)
        low, _ = bounds(model, validation, anneal)
        gains.append((low - plain).mean(0))  # [rows, T + 1]
    every = torch.stack(gains)
    mean = every.mean(1)
    error = every.std(1) / every.shape[1] ** 0.5
    seen = []
    for k in range(1, model.process.steps + 1):
        best = int(mean[:, k].argmax())
        gain = float(mean[best, k])
        on = gain > SURE * float(error[best, k])
        scale = SCALES[best] if on else 0.0
        for name, value in learned.items():
            model.get_parameter(name)[k - 1] = scale * value[k - 1]
        row = {"step": k, "gain": gain, "error": float(error[best, k]), "on": on, "scale": scale}
        seen.append({**row, "gains": mean[:, k].tolist()})
    return seen


def without_couplings(model: IsingCopula) -> IsingCopula:
    """The factorised model of the same denoiser.

    It keeps the graph: the same kernel then spends the same random numbers on the same bits, and
    images of both models differ by the couplings alone.
    """
    return IsingCopula(model.denoiser, model.graph, model.process)


def bounds(model: IsingCopula, rows: Tensor, anneal: int) -> tuple[Tensor, Tensor]:
    """Both ends of the terms of the evidence bound, `[draws, N, T + 1]`, on the same noise.

    Args:
        model: a copula.
        rows: data, spins `[N, n]`.
        anneal: temperatures at which log Z is measured.
    """
    generator = torch.Generator().manual_seed(0)
    terms = qs.evidence_terms(model, rows, sweeps=anneal, generator=generator)
    return terms.low, terms.high
