"""The effective inverse temperature of any set of reads, with an error that can be trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qsample.checks import is_whole
from qsample.ising import Ising
from qsample.sampler import check_finite
from qsample.samples import Estimate, Samples, check_samples


@torch.no_grad()
def effective_beta(problem: Ising, samples: Samples, *, block: int = 1) -> Estimate:
    r"""The beta at which the reads look like exp(-beta E), by maximum pseudo-likelihood; 1 for a right sampler.

    $$\hat\beta = \arg\max \sum_r w_r \sum_i \log \sigma(\beta a_{ri}), \qquad a_{ri} = -2 s_{ri} f_i(s_r)$$

    (Besag 1975; Raymond, Yarkoni and Andriyash 2016). The standard error is the sandwich
    $\sqrt{\sum_r w_r^2 g_r^2} / H$ from per-read scores $g_r$: spins of one read are dependent, so the inverse
    Hessian alone is too small.

    Args:
        problem: one problem or a batch.
        samples: reads of it, `[*B, R, n]`, with any weights.
        block: consecutive reads that may be correlated (a chain's length, when reads come chain by chain); their
            scores are added before squaring, and by default those of each family of the reads.

    Returns:
        `Estimate(value, stderr, ess)`: floats for one problem, tensors `[*B]` for a batch. The value is +inf where
        every spin of every read is aligned with its field (all reads are local minima: no finite beta explains
        them), -inf in the opposite case, nan where no spin feels a field; `note` says so.
    """
    check_finite(problem)
    check_samples(samples)
    R = samples.num
    if not is_whole(block) or block < 1 or R % block:
        raise ValueError(f"expected a block that divides the {R} reads; got {block}")
    a = -2 * samples.spins * problem.field(samples.spins)
    families = samples.by_family if block == 1 else None
    beta, stderr, note = beta_of_alignment(a.double(), samples.weight.double(), block, families)
    ess = samples.ess()
    if beta.dim() == 0:
        return Estimate(float(beta), float(stderr), float(ess), note)
    return Estimate(beta.to(problem.dtype), stderr.to(problem.dtype), ess, note)


def beta_of_alignment(
    a: Tensor,
    weight: Tensor,
    block: int = 1,
    families: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, str]:
    """Value, standard error and note of `effective_beta` from a = -2 s f, `[*B, R, n]`, and weights `[*B, R]`.

    `families` adds scores `[*B, R]` of correlated reads, `Samples.by_family`.
    """
    a = a.where(weight[..., None] > 0, 0)
    cold, hot = (a >= 0).flatten(-2).all(-1), (a <= 0).flatten(-2).all(-1)
    flat, finite = cold & hot, ~(cold | hot)
    beta = _newton(a, weight, finite)
    p = (-beta[..., None, None] * a).sigmoid()
    score = (weight * (a * p).sum(-1)).unflatten(-1, (-1, block)).sum(-1)
    score = score if families is None else families(score)
    curvature = (weight * (a * a * p * (1 - p)).sum(-1)).sum(-1)
    stderr = score.square().sum(-1).sqrt() / curvature
    inf = torch.full_like(beta, torch.inf)
    beta = beta.where(finite, inf.where(cold, -inf)).where(~flat, torch.nan)
    stderr = stderr.where(finite, inf)
    note = ""
    if not finite.all():
        note = "no finite beta explains the reads: "
        note += (
            "no spin feels a field"
            if flat.any()
            else "all spins are "
            + ("aligned with their fields (local minima only)" if cold.any() else "against their fields")
        )
    return beta, stderr, note


def _newton(a: Tensor, weight: Tensor, finite: Tensor) -> Tensor:
    """The root of the decreasing score g(beta), from beta = 0, bracketed: a Newton step, or bisection outside."""

    def score(beta: Tensor) -> tuple[Tensor, Tensor]:
        p = (-beta[..., None, None] * a).sigmoid()
        return (weight * (a * p).sum(-1)).sum(-1), (weight * (a * a * p * (1 - p)).sum(-1)).sum(-1)

    beta = torch.zeros(a.shape[:-2], dtype=a.dtype, device=a.device)
    low, high = torch.full_like(beta, -torch.inf), torch.full_like(beta, torch.inf)
    for _ in range(200):
        g, slope = score(beta)
        low, high = torch.where(g > 0, beta, low), torch.where(g > 0, high, beta)
        step = (beta + g / slope.clamp_min(1e-300)).clamp(-4 * beta.abs() - 1, 4 * beta.abs() + 1)
        inside = (step > low) & (step < high)
        middle = torch.where(low.isfinite() & high.isfinite(), (low + high) / 2, 2 * beta + g.sign())
        new = torch.where(inside, step, middle).where(finite, beta)
        done = ((new - beta).abs() <= 1e-12 * (1 + beta.abs())) | (g == 0)
        beta = new.where(g != 0, beta)
        if done.all():
            break
    return beta
