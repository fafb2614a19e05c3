"""Are reads that should be independent so?

Then their order says nothing, and states come back no more often than chance has it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from qsample.evaluation.reads import Finding, Reads

ENOUGH = 20  # reads below which nothing is tested
DIMENSIONS = 256  # spins of more are projected to so many


def order_test(reads: Reads) -> Finding | None:
    r"""Does the order of the reads matter? Autocorrelation at any lag.

    $T_L = \sum_r x_r \cdot x_{r+L}$ (cyclic), x the spins less their mean as unit vectors (less
    their mean), or the ranks of the energies. All orders being equally likely, its mean is $-\sum_r
    |x_r|^2 / (R - 1)$ and its variance V near $R\,\mathrm{tr}(C^2)$ with C the covariance; p is
    Bernstein's bound $2 \exp(-t^2 / 2 (V + b t / 3))$, b the largest $|x_r|^2$: rare reads are far
    from normal. Lag 1 (sorted or antithetic reads, one chain) counts as one test, all others
    together as one.

    Args:
        reads: independent reads, which could stand in any order.
    """
    if len(reads) < ENOUGH:
        return None
    findings = []
    for name, x in (("spins", _directions(reads)), ("energies", _ranks(reads.energy)[:, None])):
        finding = _autocorrelation(name, x - x.mean(0))
        if finding is not None:
            findings.append(finding)
    if not findings:
        return None
    worst = min(findings, key=lambda test: test.p_value)
    return worst._replace(p_value=min(1.0, worst.p_value * len(findings)))


def _directions(reads: Reads) -> Tensor:
    """The spins of each read less their mean, as unit vectors `[R, q]`."""
    spins = reads.spins.double() - reads.spins.double().mean(0)
    if spins.shape[1] > DIMENSIONS:
        turn = torch.Generator().manual_seed(0)
        shape = (spins.shape[1], DIMENSIONS)
        spins = spins @ torch.randn(shape, generator=turn, dtype=torch.float64).to(spins)
    return spins / spins.norm(dim=1, keepdim=True).clamp_min(1e-9)


def _ranks(x: Tensor) -> Tensor:
    """Ranks from -1 to 1, those of equal numbers averaged; numbers are equal up to rounding."""
    rounded = (x / x.abs().max().clamp_min(1e-300) * 1e9).round()
    _, label, count = rounded.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return ((last - (count - 1) / 2)[label] / len(x)) * 2 - 1


def _autocorrelation(name: str, x: Tensor) -> Finding | None:
    """Bernstein's bound at the worst lag of `x` [R, q], of mean 0; None where x does not vary."""
    R = len(x)
    square = float((x.T @ x / R).square().sum())
    if square <= 1e-18:
        return None
    # T at the lags 1 to R // 2, by Fourier transform
    f = torch.fft.rfft(x, dim=0)
    T = torch.fft.irfft((f * f.conj()).real.sum(-1), n=R)[1 : R // 2 + 1]
    away = (T + float(x.square().sum()) / (R - 1)).abs()
    variance = torch.full_like(T, R * square)
    if R % 2 == 0:
        variance[-1] *= 2  # the cyclic sum at lag R/2 holds each pair twice
    bound = float(x.square().sum(1).max())
    p = 2 * (-away.square() / 2 / (variance + bound * away / 3)).exp()
    # lag 1 is one test, all lags together another
    any_lag = float(p.min()) * len(p)
    lag = 1 if float(p[0]) <= any_lag else int(p.argmin()) + 1
    text = f"{name} of reads {lag} apart are correlated"
    return Finding("order", min(1.0, 2 * min(float(p[0]), any_lag)), text)


def repeats(reads: Reads, fresh: Tensor, generator: torch.Generator) -> Finding | None:
    """Do states come back more often than they should?

    A random half C of the reads; of each read of the other half and the draw in its place, at most
    one is in C: by symmetry the read as often as the draw (a sign test, exact).

    Args:
        reads: independent reads.
        fresh: other draws `[R, n]` of the law, one in the place of each read.
        generator: randomness of the choice of the half.
    """
    from scipy.stats import binom

    R = min(len(reads), len(fresh))
    if R < ENOUGH:
        return None
    order = torch.randperm(R, generator=generator)
    states = list(_states(reads.spins[:R][order]))
    draws = list(_states(fresh[:R].float()[order]))
    half = set(states[: R // 2])
    read_repeats = np.array([state in half for state in states[R // 2 :]])
    draw_repeats = np.array([state in half for state in draws[R // 2 :]])
    only_reads = int((read_repeats & ~draw_repeats).sum())
    only_draws = int((draw_repeats & ~read_repeats).sum())
    law = binom(only_reads + only_draws, 0.5)
    p = 2 * min(float(law.sf(only_reads - 1)), float(law.cdf(only_reads)))
    text = (
        f"{int(read_repeats.sum())} of {len(read_repeats)} reads are found in the other half, "
        f"expected {int(draw_repeats.sum())}"
    )
    return Finding("repeats", min(1.0, p), text)


def _states(spins: Tensor) -> Iterator[bytes]:
    """Each read `[R, n]` as packed bits, which a set can hold."""
    for row in np.packbits((spins > 0).cpu().numpy(), axis=1):
        yield row.tobytes()
