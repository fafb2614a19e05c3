"""The effective inverse temperature of any set of reads, with an error that can be trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.sampling.sampler import check_finite
from qsample.sampling.samples import Estimate, Samples, check_samples, warn_of
from qsample.support.checks import evenly, is_whole

LEAST = 5  # independent reads (or blocks) below which no error is stated
FEW = 30  # and below which a note says that the error is itself uncertain
WORK = 1 << 19  # pairs of neighbours looked at for the error under the model


def effective_beta(problem: Ising, samples: Samples, *, block: int | None = None) -> Estimate:
    r"""The beta at which the reads look like exp(-beta E), by maximum pseudo-likelihood; 1 for a right sampler.

    $$\hat\beta = \arg\max \sum_r w_r \sum_i \log \sigma(\beta a_{ri}), \qquad a_{ri} = -2 s_{ri} f_i(s_r)$$

    (Besag 1975; Raymond, Yarkoni and Andriyash 2016). value ± 1.96 stderr is an interval of 95 %: with $g_b$ the score
    of block b (a read, by default), $H_b$ its part of the curvature H and $q_b = H_b / H$,

    $$\mathrm{stderr}^2 = H^{-2} \max\Big(t^2 \sum_b \frac{g_b^2}{1 - q_b},\; \sum_r w_r^2 v_r\Big)$$

    The first is the sandwich (spins of one read are dependent, so the inverse Hessian alone is too small) in the form
    for few reads: each score is freed of its own pull on the fit (HC2; MacKinnon and White, J. Econometrics 29, 1985),
    and t is Student's 97.5 % point at $1 / \sum_b q_b^2 - 1$ degrees of freedom (Bell and McCaffrey, Survey Methodology
    28, 2002) over 1.96. The second is what reads of exp(-beta E) itself would show: $v_r$ is the variance of a read's
    score, conditional on all spins but one pair at a time. It keeps few reads that agree by chance from looking sure.

    Args:
        problem: one problem or a batch.
        samples: reads of it, `[*B, R, n]`, with any weights.
        block: consecutive reads that may be correlated (a chain's length, when reads come chain by chain); their
            scores are added before squaring. By default the families that the sampler named, or `info["block"]`.

    Returns:
        `Estimate(value, stderr, ess)`: floats for one problem, tensors `[*B]` for a batch. The value is +inf where
        every spin of every read is aligned with its field (all reads are local minima: no finite beta explains
        them), -inf in the opposite case, nan where no spin feels a field. The error is inf there, and below 5
        independent reads (or blocks), where it cannot be told. `note` says so, and where there are fewer than 30; it
        is also given as a `ReliabilityWarning`.
    """
    estimate = beta_of_reads(problem, samples, block)
    warn_of(estimate.note)
    return estimate


@torch.no_grad()
def beta_of_reads(problem: Ising, samples: Samples, block: int | None = None) -> Estimate:
    """`effective_beta` without the warning, for those who show its note themselves."""
    check_finite(problem)
    check_samples(samples)
    R, ess = samples.num, samples.ess().double()
    named = block is None
    if block is None:
        given = samples.info.get("block", 1)
        block = given if isinstance(given, int) and given > 0 and R % given == 0 else 1
    if not is_whole(block) or block < 1 or R % block:
        raise ValueError(f"expected a block that divides the {R} reads; got {block}")
    spins = samples.spins
    if not (spins.abs() == 1).all():
        raise ValueError("expected spins of -1 and +1: reads of 0 and 1 become these by 2 * spins - 1")
    weight = samples.weight.double()
    if not weight.isfinite().all():
        raise ValueError("the weights are nan: every log_weight of a problem is -inf, or one is nan")
    exact = problem.to(dtype=torch.promote_types(problem.dtype, torch.float32))  # halves are too coarse
    field = exact.field(spins).double()
    families = samples.by_family if named and samples.family is not None else None
    beta, stderr, note = beta_of_alignment(-2 * spins * field, weight, block, families)
    model = _model_error(exact, spins, field, weight, beta)
    stderr = torch.where(stderr.isfinite(), torch.maximum(stderr, model), stderr)
    number = 1 / _grouped(weight, block, families).square().sum(-1) + 1e-6
    stderr = stderr.where(number >= LEAST, torch.inf)
    least = float(number.min())
    if least < FEW:
        few = f"only {least:.0f} independent {'blocks' if block > 1 or families else 'reads'}: "
        few += f"the error is {'not determined' if least < LEAST else 'itself uncertain'}"
        note = f"{note}; {few}" if note else few
    if beta.dim() == 0:
        return Estimate(float(beta), float(stderr), float(ess), note)
    return Estimate(beta.to(exact.dtype), stderr.to(exact.dtype), ess.to(exact.dtype), note)


Families = Callable[[Tensor], Tensor]


def _grouped(values: Tensor, block: int, families: Families | None) -> Tensor:
    """Sums of `values` [*B, R] over the reads of a family, or over consecutive reads."""
    if families is not None:
        return families(values)
    return values.unflatten(-1, (-1, block)).sum(-1)


def beta_of_alignment(
    a: Tensor, weight: Tensor, block: int = 1, families: Families | None = None
) -> tuple[Tensor, Tensor, str]:
    r"""Value, standard error and note from a = -2 s f, `[*B, R, n]`, and weights `[*B, R]`, for any number of reads.

    The error is the sandwich of `effective_beta`, at least $1/\sqrt{H}$ as if the spins of a read were independent
    where blocks are so few that it says nothing (fewer than 5): of a single block it would vanish.
    `families` adds numbers `[*B, R]` of correlated reads, `Samples.by_family`.
    """
    a = a.where(weight[..., None] > 0, 0)
    cold, hot = (a >= 0).flatten(-2).all(-1), (a <= 0).flatten(-2).all(-1)
    flat, finite = cold & hot, ~(cold | hot)
    beta = _newton(a, weight, finite)
    p = (-beta[..., None, None] * a).sigmoid()
    score = _grouped(weight * (a * p).sum(-1), block, families)
    bend = (a * a * p * (1 - p)).sum(-1)
    share = _grouped(weight * bend, block, families)
    curvature = share.sum(-1)
    share = share / curvature[..., None]
    sandwich = (score.square() / (1 - share).clamp_min(1e-3)).sum(-1).sqrt() / curvature
    freedom = 1 / share.square().sum(-1) - 1
    stderr = sandwich * _student(freedom)
    independent = (weight.square() * bend).sum(-1).sqrt() / curvature
    stderr = torch.where(freedom < LEAST - 1 - 1e-6, torch.maximum(sandwich, independent), stderr)
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


def _student(freedom: Tensor) -> Tensor:
    """Student's 97.5 % point over the normal law's."""
    from scipy.special import ndtri, stdtrit

    point = stdtrit(freedom.nan_to_num(1.0).clamp_min(1.0).cpu().numpy(), 0.975) / ndtri(0.975)
    return torch.as_tensor(point).to(freedom)


def score_variance(problem: Ising, spins: Tensor, field: Tensor, beta: Tensor) -> Tensor:
    r"""The variance of each read's score $\sum_i u_i$ under exp(-beta E), `[*B, R]`, unbiased for reads of that law.

    $$v = \sum_i E[u_i^2 | s_{-i}] + 2 \sum_{(i,j)} E[u_i u_j | s_{-ij}], \qquad u_i = a_i \sigma(-\beta a_i)$$

    over the edges, by the four states of each; spins that are not coupled add nothing, because $E[u_i | s_{-i}] = 0$.
    """
    b = beta[..., None, None]
    a = -2 * spins * field
    p = (-b * a).sigmoid()
    total = (a * a * p * (1 - p)).sum(-1)
    i, j = problem.graph.edges.to(problem.device)
    if not len(i):
        return total
    J = problem.graph.edge_values(problem.J).double()[..., None, :]
    first, second = field[..., i] - J * spins[..., j], field[..., j] - J * spins[..., i]
    products, logs = [], []
    for x in (-1, 1):
        for y in (-1, 1):
            a_i, a_j = -2 * x * (first + y * J), -2 * y * (second + x * J)
            products.append(a_i * a_j * (-b * a_i).sigmoid() * (-b * a_j).sigmoid())
            logs.append(-b * (x * first + y * second + x * y * J))
    chance = torch.stack(logs).softmax(0)
    return total + 2 * (chance * torch.stack(products)).sum((0, -1))


def _model_error(problem: Ising, spins: Tensor, field: Tensor, weight: Tensor, beta: Tensor) -> Tensor:
    """The standard error under the model, `[*B]`; from evenly spaced reads where there are very many pairs."""
    R = spins.shape[-2]
    work = problem.graph.num_edges * max(1, spins.shape[:-2].numel())
    some = evenly(R, max(LEAST, WORK // max(work, 1)))
    some = some.to(spins.device)
    beta = beta.where(beta.isfinite(), 0)
    spins, field = spins[..., some, :].double(), field[..., some, :]
    a = -2 * spins * field
    p = (-beta[..., None, None] * a).sigmoid()
    w = weight[..., some]
    squares = (w.square() * score_variance(problem, spins, field, beta)).sum(-1).clamp_min(0)
    curvature = (w * (a * a * p * (1 - p)).sum(-1)).sum(-1)
    # the part of the weights looked at stands for all of them
    squares = squares * weight.square().sum(-1) / w.square().sum(-1)
    return squares.sqrt() / (curvature / w.sum(-1))


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
