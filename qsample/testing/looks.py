"""The looks at one call: each compares the reads with the law and states the error it finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qsample.problem.ising import Ising
from qsample.sampling.samples import Exactness, Samples
from qsample.testing.independence import (
    STEADY,
    Finding,
    across,
    least_of,
    neighbours,
    slices,
    standard,
    two_sided,
    within,
)
from qsample.testing.law import CLEAR, Law, Reads, codes, g_of, quadratic
from qsample.testing.manners import ContractError
from qsample.testing.verdicts import Look, Pool, Run

# Probability with which the errors that a verdict states are found.
POWER = 0.95
# Least effective number of reads as a part of all: below it weights leave nothing to judge.
LEAST_ESS = 0.02
# Number of moments from which the worst one is looked at beside their sum.
MANY = 60
# Number of spins that any sampler must take.
MAX_ASKED = 16


def law_of_call(run: Run, label: str, problem: Ising, num: int, initial: Samples | None) -> None:
    """Ask once, and compare with the law.

    Args:
        run: the run, which takes the looks.
        label: the case's name in messages.
        problem: a problem or batch that can be enumerated.
        num: number of reads.
        initial: the chains to continue, or None.

    Raises:
        ContractError: the weights of the reads are worth too few equal ones to judge.
    """
    try:
        samples = run.ask(label, problem, num, initial=initial)
    except ValueError as refusal:
        if problem.num_spins <= MAX_ASKED:
            raise
        run.verdicts.notes.append(f"{label}: refused ({refusal})")
        return
    laws = Law.of(problem)
    _check_log_partition(run.ask.where(label), problem, laws, samples)
    call = Reads.of(laws, samples)
    least = min(reads.ess for reads in call)
    if least < LEAST_ESS * num:
        raise ContractError(
            f"{run.ask.where(label)}: the weights of {num} reads are worth {least:.1f} equal "
            "ones: too few to judge"
        )
    collect(run, label, call)


def _check_log_partition(where: str, problem: Ising, laws: Sequence[Law], samples: Samples) -> None:
    """A log Z that is given is right: within 8 standard errors, or to rounding beside EXACT."""
    value = samples.info.get("log_partition")
    error = samples.info.get(
        "log_partition_stderr", 0.0 if samples.exactness is Exactness.EXACT else None
    )
    if value is None or error is None or problem.dtype not in (torch.float32, torch.float64):
        return
    batch = problem.batch_shape
    right = (
        torch.tensor([law.log_z for law in laws]).double().reshape(batch)
        - problem.offset.detach().double()
    )
    off = (torch.as_tensor(value).double().reshape(batch) - right).abs()
    if not (off <= 8 * torch.as_tensor(error).double() + 1e-4 * (1 + right.abs())).all():
        raise ContractError(f"{where}: info['log_partition'] is off by {float(off.max()):.3g}")


def collect(run: Run, label: str, call: Sequence[Reads], *, by_state: bool = True) -> None:
    """All looks at one call, and its part of the pooled sums.

    Args:
        run: the run, which takes the looks.
        label: the case's name in messages.
        call: the reads of each problem of the batch.
        by_state: whether states are counted as well as moments.
    """
    for reads in call:
        if by_state and reads.num >= 200 and len(reads.law.parts) == 1:
            run.looks += _state_by_state(label, reads)
    total, rank = _score(call)
    if rank:
        run.looks += _moments(label, total, rank, call)
    finding = (
        within(call) if sum(reads.num for reads in call) >= 100 and call[0].num >= 20 else None
    )
    if finding is not None:
        run.looks.append(_independence(label, finding, call))
    finding = across(call)
    if finding is not None:
        run.looks.append(Look(label, "problems of a batch", *finding, lambda alpha: ""))
    _add(run.pool, call, total, rank)


def _add(pool: Pool, call: Sequence[Reads], total: float, rank: int) -> None:
    for reads in call:
        c = reads.law.coefficients
        heat = reads.law.energy_variance
        if heat <= 0:
            continue
        excess = float(reads.deviation.mean(0) @ c)
        variance = float(c @ reads.covariance @ c) / reads.num
        information = heat * heat / variance
        if information * heat > 0:
            pool.beta -= information * excess / heat
            pool.information += information
    if all(reads.weight is None for reads in call):
        pool.quadratic += total
        pool.rank += rank
    if call[0].num >= 20:
        for name in ("spins", "products"):
            correlations = neighbours(call, name)
            if correlations is not None:
                total_of_distance, variance = correlations
                pool.neighbours += float(total_of_distance[0])
                pool.variance += variance


def few_reads(run: Run, label: str, reads: Reads) -> None:
    """The looks at the union of calls of few reads each.

    Args:
        run: the run, which takes the looks.
        label: the case's name in messages.
        reads: the reads of all calls.
    """
    total, rank = quadratic(reads.deviation.sum(0), reads.law.covariance, reads.num)
    if rank:
        run.looks += _moments(label, total, rank, [reads])
    finding = within([reads]) if reads.num >= 100 else None
    if finding is not None:
        run.looks.append(_independence(label, finding, [reads]))


# ---- the law ----------------


def _state_by_state(label: str, reads: Reads) -> list[Look]:
    """G-tests on all states; on windows of the spins where states are too many for the reads."""
    n = reads.law.graph.num_spins
    (part,) = reads.law.parts
    width = max(1, int(math.log2(max(2.0, reads.ess / 20))))  # spins whose states can be counted
    windows = math.ceil(n / width) if n > width else 1
    looks = []
    weight = (
        torch.full((reads.num,), 1 / reads.num).double() if reads.weight is None else reads.weight
    )
    joint = part.p.reshape([2] * n)  # axis 0 is the last spin
    for spins in torch.arange(n).chunk(windows):
        others = [n - 1 - i for i in range(n) if i not in spins.tolist()]
        p = (joint.sum(others) if others else joint).flatten()
        N = torch.tensor(reads.ess, dtype=torch.float64)
        p_value, distance, floor = g_of(p, codes(reads.spins[:, spins]), weight, N)
        seen = (
            f"the reads do not follow exp(-E), total variation {distance:.4f} where exact draws "
            f"show {floor:.4f}"
        )
        check = "law" if windows == 1 else f"law of spins {int(spins[0])} to {int(spins[-1])}"
        information = reads.ess * reads.law.energy_variance
        states = int((p * reads.ess >= 5).sum())
        looks.append(
            Look(
                label,
                check,
                p_value,
                seen,
                _beta_error(max(1, states), information),
                distance,
                floor,
            )
        )
    return looks


def _score(call: Sequence[Reads]) -> tuple[float, int]:
    """The score test of each problem of a call, summed; of the sum where each has few reads."""
    if min(reads.num for reads in call) >= 200:
        each = [quadratic(reads.deviation.sum(0), reads.covariance, reads.num) for reads in call]
        return sum(total for total, _ in each), sum(rank for _, rank in each)
    total = 0.0
    covariance = 0.0
    num = 0
    for reads in call:
        wide = _directions(reads.law)
        total = total + reads.deviation.sum(0) @ wide
        covariance = covariance + reads.num * (wide.mT @ reads.covariance @ wide)
        num += reads.num
    assert isinstance(total, Tensor) and isinstance(covariance, Tensor)
    return quadratic(total, covariance / num, num)


def _directions(law: Law) -> Tensor:
    """The features, and the energies of fields and of couplings, each of variance 1.

    A wrong temperature changes these energies alike in every problem of a batch.
    """
    size = len(law.mean)
    columns = [torch.eye(size, dtype=torch.float64)]
    for part in slices(law).values():
        c = torch.zeros(size, dtype=torch.float64)
        c[part] = law.coefficients[part]
        variance = c @ law.covariance @ c
        if variance > 0:
            columns.append((c / variance.sqrt())[:, None])
    return torch.cat(columns, -1)


def _moments(label: str, total: float, rank: int, call: Sequence[Reads]) -> list[Look]:
    """The score test of all moments; where they are many, the worst one as well.

    One wrong field is lost in the sum of hundreds.
    """
    from scipy.stats import chi2

    information = sum(reads.ess * reads.law.energy_variance for reads in call)
    seen = f"means of spins and of products over edges are off: chi-squared {total:.0f} for {rank}"
    each = torch.cat([reads.ess * reads.covariance.diagonal() for reads in call])
    own = float(each[each > 1].median()) if (each > 1).any() else 0.0

    def detects(alpha: float) -> str:
        size = _noncentral(alpha, rank)
        single = f", one field or coupling by {math.sqrt(size / own):.2g}" if own else ""
        return _beta_error(rank, information)(alpha) + single

    looks = [Look(label, "moments", float(chi2.sf(total, rank)), seen, detects)]
    return looks + _worst_moment(label, call) if rank >= MANY else looks


def _worst_moment(label: str, call: Sequence[Reads]) -> list[Look]:
    """The moment that is most off, after C^(-1/2), symmetric, has made all of them independent.

    That transformation makes them independent and changes each as little as can be (Kessy, Lewin
    and Strimmer, arXiv 1512.00809, ZCA), so that the least p-value is one of known law and still
    names a spin or an edge.
    """
    deviations = []
    names = []
    sizes = []
    for k, reads in enumerate(call):
        graph = reads.law.graph
        steady = _steady(reads)
        covariance = reads.covariance[steady][:, steady]
        value, vector = torch.linalg.eigh(covariance)
        root = vector * value.rsqrt() @ vector.mT
        deviations.append(root @ reads.deviation.sum(0)[steady] / math.sqrt(reads.num))
        sizes.append(math.sqrt(reads.ess) * (root @ covariance).diagonal())
        features = [f"spin {i}" for i in range(graph.num_spins)]
        features += [f"edge {tuple(edge)}" for edge in graph.edges.T.tolist()]
        names += [f"{features[i]} of problem {k}" for i in steady.tolist()]
    z = torch.cat(deviations)
    number = len(z)
    if number == 0:
        return []
    worst = int(z.abs().argmax())
    typical = float(torch.cat(sizes).median())
    seen = f"the mean of {names[worst]} is off: z = {float(z[worst]):.1f}"

    def detects(alpha: float) -> str:
        return f"one field or coupling by {_sigmas(alpha / number) / typical:.2g}"

    return [
        Look(label, "worst moment", least_of(two_sided(float(z[worst])), number), seen, detects)
    ]


def _steady(reads: Reads) -> Tensor:
    """The features that vary, without those that others nearly determine: C can be inverted."""
    steady = (reads.law.covariance.diagonal() >= STEADY).nonzero()[:, 0]
    while True:
        value, vector = torch.linalg.eigh(reads.covariance[steady][:, steady])
        low = value < CLEAR / reads.num
        if not low.any():
            return steady
        # Of each direction that hardly varies, the feature with the largest part in it goes.
        keep = torch.ones(len(steady), dtype=torch.bool)
        keep[vector[:, low].abs().argmax(0)] = False
        steady = steady[keep]


# ---- independence ----------------


def _independence(label: str, finding: Finding, call: Sequence[Reads]) -> Look:
    correlations = neighbours(call, "spins")
    size = 0.0
    if correlations is not None:
        steady = sum(r.num * standard(r, slices(r.law)["spins"]).z.shape[1] for r in call)
        size = correlations[1] ** 0.5 / steady

    def detects(alpha: float) -> str:
        return f"correlations of {_sigmas(alpha / 7) * size:.2g} between neighbours" if size else ""

    return Look(label, "independent reads", *finding, detects)


def repeated(reads: Reads) -> Callable[[float], str]:
    """The part of the reads that two calls may share unseen, where equal pairs are counted."""
    law = reads.law
    N = reads.num
    a = law.coincidence(2)
    b = law.coincidence(3)
    sigma = N * math.sqrt(max(0.0, a - a * a + 2 * N * (b - a * a)))
    return lambda alpha: (
        f"{min(100.0, 100 * _sigmas(alpha / 8) * sigma / N):.2g} % of reads in common"
    )


# ---- all calls together ----------------


def pooled(run: Run) -> None:
    """Small errors of one sign in every call: wrong temperature, wrong spread, correlated reads."""
    from scipy.stats import chi2

    pool = run.pool
    if pool.information > 0:
        off = pool.beta / pool.information
        error = pool.information**-0.5
        seen = f"the reads have beta {1 + off:.4f} ± {error:.4f}"
        p_value = two_sided(off / error)
        run.looks.append(
            Look(
                "all calls",
                "beta",
                p_value,
                seen,
                lambda alpha: f"beta off by {100 * _sigmas(alpha) * error:.2g} %",
            )
        )
    if pool.rank:
        tails = (
            float(chi2.cdf(pool.quadratic, pool.rank)),
            float(chi2.sf(pool.quadratic, pool.rank)),
        )
        ratio = pool.quadratic / pool.rank
        seen = f"means over reads spread {ratio:.2f} times as much as those of independent reads"
        run.looks.append(
            Look(
                "all calls",
                "spread of means",
                min(1.0, 2 * min(tails)),
                seen,
                lambda alpha: (
                    f"a spread off by {100 * _sigmas(alpha) * (2 / pool.rank) ** 0.5:.2g} %"
                ),
            )
        )
    if pool.variance > 0:
        z = pool.neighbours / pool.variance**0.5
        seen = f"neighbouring reads are correlated: z = {z:.1f}"
        run.looks.append(
            Look(
                "all calls",
                "neighbouring reads",
                two_sided(z),
                seen,
                lambda alpha: f"a correlation of {_sigmas(alpha) / pool.variance**0.5:.2g}",
            )
        )


# ---- the errors that a test finds ----------------


def _sigmas(alpha: float) -> float:
    """The size, in standard errors, that a two-sided normal test at `alpha` finds by `POWER`."""
    from scipy.stats import norm

    return float(norm.isf(alpha / 2) + norm.ppf(POWER))


def _noncentral(alpha: float, free: int) -> float:
    """The non-centrality that a chi-squared test at `alpha` finds by `POWER`."""
    from scipy.special import chndtrinc
    from scipy.stats import chi2

    return float(chndtrinc(chi2.isf(alpha, free), free, 1 - POWER))


def _beta_error(free: int, information: float) -> Callable[[float], str]:
    def detects(alpha: float) -> str:
        if information <= 0:
            return ""
        return f"beta off by {100 * math.sqrt(_noncentral(alpha, free) / information):.2g} %"

    return detects
