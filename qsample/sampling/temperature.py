"""The effective inverse temperature of any set of reads, with an error that can be trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.sampling.sampler import check_finite
from qsample.sampling.samples import Estimate, Samples, check_samples, warn_of
from qsample.support.checks import check_spins, evenly, is_whole
from qsample.support.faces import public

LEAST = 5  # independent reads (or blocks) below which no error is stated
FEW = 30  # and below which a note says that the error is itself uncertain
WORK = 1 << 19  # pairs of neighbours looked at for the error under the model


@public("qsample")
def effective_beta(problem: Ising, samples: Samples, *, block: int | None = None) -> Estimate:
    r"""The beta at which the reads look like exp(-beta E): 1 for a right sampler.

    By maximum pseudo-likelihood (Besag 1975; Raymond, Yarkoni and Andriyash 2016):

    $$\hat\beta = \arg\max \sum_r w_r \sum_i \log \sigma(\beta a_{ri}), \qquad
      a_{ri} = -2 s_{ri} f_i(s_r)$$

    value ± 1.96 stderr is an interval of 95 % over all draws, those without a finite value
    included: with $g_b$ the score of block b (a read, by default), $H_b$ its part of the curvature
    H and $q_b = H_b / H$,

    $$\mathrm{stderr}^2 = H^{-2} \max\Big(
      t^2 \sum_b \frac{g_b^2}{1 - q_b},\; \sum_r w_r^2 v_r\Big)$$

    The first is the sandwich (spins of one read are dependent, so the inverse Hessian alone is too
    small) in the form for few reads: each score is freed of its own pull on the fit (HC2; MacKinnon
    and White, J. Econometrics 29, 1985), and t is Student's 97.5 % point at $1 / \sum_b q_b^2 - 1$
    degrees of freedom (Bell and McCaffrey, Survey Methodology 28, 2002) over 1.96. The second is
    what reads of exp(-beta E) itself would show: $v_r$ is the variance of a read's score,
    conditional on all spins but one pair at a time. It keeps few reads that agree by chance from
    looking sure.

    Args:
        problem: One problem or a batch.
        samples: Reads of it, `[*B, R, n]`, with any weights.
        block: Number of consecutive reads that may be correlated (a chain's length, when reads come
            chain by chain); their scores are added before squaring. By default the families that
            the sampler named, or `info["block"]`.

    Returns:
        `Estimate(value, stderr, ess)`: floats for one problem, tensors `[*B]` for a batch. The
        value is +inf where every spin of every read is aligned with its field (all reads are local
        minima: no finite beta explains them), -inf in the opposite case, nan where no spin feels a
        field. The error is inf there, and below 5 independent reads (or blocks), where it cannot be
        told. `note` says so, and where there are fewer than 30; it is also given as a
        `ReliabilityWarning`.

    Raises:
        ValueError: Spins that are not -1 and +1, weights that are nan, a block that does not divide
            the reads.
    """
    estimate = beta_of_reads(problem, samples, block)
    warn_of(estimate.note)
    return estimate


@torch.no_grad()
def beta_of_reads(problem: Ising, samples: Samples, block: int | None = None) -> Estimate:
    """`effective_beta` without the warning, for those who show its note themselves.

    Args:
        problem: One problem or a batch.
        samples: Reads of it, with any weights.
        block: Number of consecutive reads that may be correlated; None as in `effective_beta`.
    """
    check_finite(problem)
    check_samples(samples)
    families = samples.by_family if block is None and samples.family is not None else None
    block = _block_of(samples) if block is None else block
    if not is_whole(block) or block < 1 or samples.num % block:
        raise ValueError(f"expected a block that divides the {samples.num} reads; got {block}")
    spins = samples.spins
    check_spins("spins", spins, "reads of 0 and 1 become these by 2 * spins - 1")
    weight = samples.weight.double()
    if not weight.isfinite().all():
        raise ValueError(
            "the weights are nan: every log_weight of a problem is -inf, or one is nan"
        )

    # half precision is too coarse for fields
    exact = problem.to(dtype=torch.promote_types(problem.dtype, torch.float32))
    field = exact.field(spins).double()
    beta, stderr, note = beta_of_alignment(-2 * spins * field, weight, block, families)

    # few reads may agree by chance: the error is at least that under the model
    model = _model_error(exact, spins, field, weight, beta)
    stderr = torch.where(stderr.isfinite(), torch.maximum(stderr, model), stderr)
    independent = 1 / _grouped(weight, block, families).square().sum(-1) + 1e-6
    stderr = stderr.where(independent >= LEAST, torch.inf)
    kind = "blocks" if block > 1 or families else "reads"
    few = _note_of_few(float(independent.min()), kind)
    note = "; ".join(text for text in (note, few) if text)

    ess = samples.ess().double()
    if beta.dim() == 0:
        return Estimate(float(beta), float(stderr), float(ess), note)
    return Estimate(beta.to(exact.dtype), stderr.to(exact.dtype), ess.to(exact.dtype), note)


def _block_of(samples: Samples) -> int:
    """The block that a sampler named in `info`; 1 where it named none that divides the reads."""
    block = samples.info.get("block", 1)
    named = isinstance(block, int) and block > 0 and samples.num % block == 0
    return block if named else 1


def _note_of_few(independent: float, kind: str) -> str:
    """What is said of an error made of few independent reads or blocks."""
    if independent >= FEW:
        return ""
    state = "not determined" if independent < LEAST else "itself uncertain"
    return f"only {independent:.0f} independent {kind}: the error is {state}"


Families = Callable[[Tensor], Tensor]


def _grouped(values: Tensor, block: int, families: Families | None) -> Tensor:
    """Sums of `values` `[*B, R]` over the reads of a family, or over consecutive reads."""
    if families is not None:
        return families(values)
    return values.unflatten(-1, (-1, block)).sum(-1)


def beta_of_alignment(
    a: Tensor, weight: Tensor, block: int = 1, families: Families | None = None
) -> tuple[Tensor, Tensor, str]:
    r"""Value, standard error and note from a = -2 s f, for any number of reads.

    The error is the sandwich of `effective_beta`, at least $1/\sqrt{H}$ as if the spins of a read
    were independent where blocks are so few that it says nothing (fewer than 5): of a single block
    it would vanish.

    Args:
        a: Alignments, `[*B, R, n]`.
        weight: Weights of the reads, `[*B, R]`.
        block: Number of consecutive reads that are correlated; 1 by default.
        families: A sum of numbers `[*B, R]` over correlated reads, `Samples.by_family`; by default
            consecutive reads are added.
    """
    a = a.where(weight[..., None] > 0, 0)
    cold = (a >= 0).flatten(-2).all(-1)
    hot = (a <= 0).flatten(-2).all(-1)
    flat = cold & hot
    finite = ~(cold | hot)
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
    if finite.all():
        return beta, stderr, ""
    why = "all spins are against their fields"
    if flat.any():
        why = "no spin feels a field"
    elif cold.any():
        why = "all spins are aligned with their fields (local minima only)"
    return beta, stderr, f"no finite beta explains the reads: {why}"


def _student(freedom: Tensor) -> Tensor:
    """Student's 97.5 % point over the normal law's."""
    from scipy.special import ndtri, stdtrit

    point = stdtrit(freedom.nan_to_num(1.0).clamp_min(1.0).cpu().numpy(), 0.975) / ndtri(0.975)
    return torch.as_tensor(point).to(freedom)


def score_variance(problem: Ising, spins: Tensor, field: Tensor, beta: Tensor) -> Tensor:
    r"""The variance of each read's score $\sum_i u_i$ under exp(-beta E), `[*B, R]`.

    $$v = \sum_i E[u_i^2 | s_{-i}] + 2 \sum_{(i,j)} E[u_i u_j | s_{-ij}], \qquad
      u_i = a_i \sigma(-\beta a_i)$$

    over the edges, by the four states of each; spins that are not coupled add nothing, because
    $E[u_i | s_{-i}] = 0$. Unbiased for reads of that law.

    Args:
        problem: One problem or a batch.
        spins: Reads of it, `[*B, R, n]`.
        field: Their local fields, `[*B, R, n]`.
        beta: Inverse temperature of each problem, `[*B]`.
    """
    b = beta[..., None, None]
    a = -2 * spins * field
    p = (-b * a).sigmoid()
    total = (a * a * p * (1 - p)).sum(-1)
    i, j = problem.graph.edges.to(problem.device)
    if not len(i):
        return total
    J = problem.graph.edge_values(problem.J).double()[..., None, :]
    first = field[..., i] - J * spins[..., j]
    second = field[..., j] - J * spins[..., i]
    products = []
    logs = []
    for x in (-1, 1):
        for y in (-1, 1):
            a_i = -2 * x * (first + y * J)
            a_j = -2 * y * (second + x * J)
            products.append(a_i * a_j * (-b * a_i).sigmoid() * (-b * a_j).sigmoid())
            logs.append(-b * (x * first + y * second + x * y * J))
    chance = torch.stack(logs).softmax(0)
    return total + 2 * (chance * torch.stack(products)).sum((0, -1))


def _model_error(
    problem: Ising, spins: Tensor, field: Tensor, weight: Tensor, beta: Tensor
) -> Tensor:
    """The standard error under the model, `[*B]`, from evenly spaced reads where pairs are many."""
    pairs = problem.graph.num_edges * max(1, spins.shape[:-2].numel())
    chosen = evenly(spins.shape[-2], max(LEAST, WORK // max(pairs, 1))).to(spins.device)
    beta = beta.where(beta.isfinite(), 0)
    spins = spins[..., chosen, :].double()
    field = field[..., chosen, :]
    a = -2 * spins * field
    p = (-beta[..., None, None] * a).sigmoid()
    w = weight[..., chosen]
    squares = (w.square() * score_variance(problem, spins, field, beta)).sum(-1).clamp_min(0)
    curvature = (w * (a * a * p * (1 - p)).sum(-1)).sum(-1)
    # the chosen reads stand for all of them
    squares = squares * weight.square().sum(-1) / w.square().sum(-1)
    return squares.sqrt() / (curvature / w.sum(-1))


def _newton(a: Tensor, weight: Tensor, finite: Tensor) -> Tensor:
    """The root of the decreasing score g(beta), from beta = 0 and bracketed.

    Newton's step where it stays inside the bracket, bisection where not.
    """
    beta = torch.zeros(a.shape[:-2], dtype=a.dtype, device=a.device)
    low = torch.full_like(beta, -torch.inf)
    high = torch.full_like(beta, torch.inf)
    for _ in range(200):
        p = (-beta[..., None, None] * a).sigmoid()
        g = (weight * (a * p).sum(-1)).sum(-1)
        slope = (weight * (a * a * p * (1 - p)).sum(-1)).sum(-1)
        low = torch.where(g > 0, beta, low)
        high = torch.where(g > 0, high, beta)
        farthest = 4 * beta.abs() + 1
        step = (beta + g / slope.clamp_min(1e-300)).clamp(-farthest, farthest)
        inside = (step > low) & (step < high)
        bracketed = low.isfinite() & high.isfinite()
        middle = torch.where(bracketed, (low + high) / 2, 2 * beta + g.sign())
        new = torch.where(inside, step, middle).where(finite, beta)
        done = ((new - beta).abs() <= 1e-12 * (1 + beta.abs())) | (g == 0)
        beta = new.where(g != 0, beta)
        if done.all():
            break
    return beta
