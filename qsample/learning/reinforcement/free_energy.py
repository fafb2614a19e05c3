"""Free energies of hidden spins, F = -log Z of a batch of small problems: summed, or from reads.

All are differentiable in the problems' fields and couplings.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from qsample.problem.enumeration import log_2cosh, log_weights, states
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.samples import Samples

Estimator = Literal["auto", "seen", "entropy"]
MAX_LISTED = 16  # spins whose states are listed, for each row of a batch
MAX_MATRIX = 8  # quantum spins whose transfer matrix is made


# ---- sums ----------------


def listed(problem: Ising) -> Tensor:
    """F of each problem, `[*B]`, by the states of as few spins as can be.

    The others, no two of which are coupled, are summed out of each state.

    Raises:
        ValueError: more than 2^16 states would have to be listed.
    """
    kept, _ = parted(problem.graph)
    if len(kept) > MAX_LISTED:
        raise ValueError(
            f"an exact free energy would list 2^{len(kept)} states of {problem.num_spins} hidden "
            f"spins (limit 2^{MAX_LISTED}): give the critic a sampler, such as Gibbs(sweeps=20)"
        )
    every = states(len(kept)).to(problem.device)
    return -log_weights_of(problem, every).logsumexp(-1)


def by_transfer(problem: Ising, gamma: float, slices: int) -> Tensor:
    r"""F of each problem in a transverse field, `[*B]`, at a number of slices.

    $Z = \mathrm{Tr}\,(e^{-E/2m} e^{\Gamma/m \sum_i \sigma^x_i} e^{-E/2m})^m$, the sum over all
    states of the m slices that `transverse_field` couples.

    Args:
        problem: problems `[*B]` of up to 8 spins.
        gamma: strength of the transverse field.
        slices: number of slices, m.

    Raises:
        ValueError: more than 8 spins.
    """
    n = problem.num_spins
    if n > MAX_MATRIX:
        raise ValueError(
            f"an exact free energy in a transverse field takes {1 << n} x {1 << n} matrices for "
            f"{n} hidden spins (limit {MAX_MATRIX} spins): give the critic a sampler, such as "
            "Gibbs(sweeps=20)"
        )
    weights = log_weights(problem)
    top = weights.detach().amax(-1, keepdim=True)
    half = ((weights - top) / (2 * slices)).exp()
    cosh = math.cosh(gamma / slices)
    sinh = math.sinh(gamma / slices)
    turn = weights.new_tensor([[cosh, sinh], [sinh, cosh]])
    whole = weights.new_ones(1, 1)
    for _ in range(n):
        whole = torch.kron(whole, turn)
    step = half[..., :, None] * whole * half[..., None, :]
    trace = torch.linalg.matrix_power(step, slices).diagonal(0, -2, -1).sum(-1)
    return (problem.offset - trace.log() - top[..., 0]).to(problem.dtype)


# ---- from reads ----------------


def from_reads(problem: Ising, samples: Samples, estimator: Estimator) -> Tensor:
    r"""F of each problem from a sampler's reads, `[*B]`.

    * What the sampler itself says of log Z ("auto", where it does): its gradient is the mean over
      reads.
    * "seen": $-\log \sum_c e^{-E(c)}$ over the states c that were read, once each, with every spin
      summed out that can be: never below F, and equal to it once all states that matter were seen,
      whatever the sampler's law.
    * "entropy": the mean energy of the reads less the entropy of their frequencies (Crawford et
      al., arXiv 1612.05695; Levit et al., arXiv 1706.00074), as published.

    Args:
        problem: the problems that were sampled, `*B`.
        samples: reads of them, `[*B, R, n]`.
        estimator: which of these.
    """
    told = samples.info.get("log_partition") if estimator == "auto" else None
    if estimator in ("auto", "seen") and told is None:
        return seen(problem, samples.spins)
    weight = read_weights(samples).to(problem.dtype)
    mean = (weight * problem.energy(samples.spins)).sum(-1)
    if told is not None:
        return mean - mean.detach() - torch.as_tensor(told).to(mean)
    return mean - entropy(samples.spins, weight)


def seen(problem: Ising, spins: Tensor) -> Tensor:
    """F by the states that were read, `[*B]`: an upper bound of F.

    Args:
        problem: the problems, `*B`.
        spins: reads, `[*B, R, n]`.
    """
    kept, _ = parted(problem.graph)
    if not len(kept):
        return listed(problem)
    spins = spins[..., kept.to(spins.device)]
    key, order = keys(spins).sort(-1)
    spins = spins.gather(-2, order[..., None].expand(spins.shape))
    again = torch.zeros_like(key, dtype=torch.bool)
    again[..., 1:] = key[..., 1:] == key[..., :-1]
    weights = log_weights_of(problem, spins)
    return -weights.masked_fill(again, -math.inf).logsumexp(-1)


def entropy(spins: Tensor, weight: Tensor) -> Tensor:
    """Entropy of the frequencies of states among reads, `[*B]`, in nats.

    Args:
        spins: reads, `[*B, R, n]`.
        weight: of the reads, `[*B, R]`, each row adding up to 1.
    """
    key, order = keys(spins).sort(-1)
    weight = weight.gather(-1, order)
    first = torch.ones_like(key, dtype=torch.int64)
    first[..., 1:] = key[..., 1:] != key[..., :-1]
    number = first.cumsum(-1) - 1
    frequency = torch.zeros_like(weight).scatter_add(-1, number, weight)
    return -torch.special.xlogy(frequency, frequency).sum(-1)


def read_weights(samples: Samples) -> Tensor:
    """Weights of reads, `[*B, R]`, each row adding up to 1."""
    if samples.log_weight is None:
        return torch.ones_like(samples.energy) / samples.energy.shape[-1]
    return samples.log_weight.softmax(-1)


def keys(spins: Tensor) -> Tensor:
    """One int64 number per read, the same for equal reads: `[..., n]` to `[...]`.

    Beyond 62 spins a hash of 64 bits: 10^4 reads collide once in 10^11 calls.
    """
    n = spins.shape[-1]
    if n <= 62:
        place = 1 << torch.arange(n, device=spins.device)
    else:
        generator = torch.Generator().manual_seed(n)
        limit = (1 << 63) - 1
        place = torch.randint(-limit, limit, (n,), generator=generator).to(spins.device)
    return ((spins > 0) * place).sum(-1)


# ---- spins that are summed out ----------------


def parted(graph: Graph) -> tuple[Tensor, Tensor]:
    """Numbers of the spins that are kept, and of those summed out: no two of these are coupled."""

    def make() -> tuple[Tensor, Tensor]:
        colours = graph.colours
        out = max(colours, key=len) if colours else torch.arange(0)
        stays = torch.ones(graph.num_spins, dtype=torch.bool)
        stays[out] = False
        return stays.nonzero()[:, 0], out.sort().values

    return graph.cached("spins that are summed out", make)


def log_weights_of(problem: Ising, kept: Tensor) -> Tensor:
    r"""Log of the weight of states of the kept spins, the others summed out: `[*B, R]`.

    $-E(c) + \sum_i \log 2\cosh f_i(c)$, with the offset.

    Args:
        problem: the problems, `*B`.
        kept: states of the kept spins, `[R, k]` or `[*B, R, k]`.
    """
    inside, outside = (numbers.to(problem.device) for numbers in parted(problem.graph))
    J = _matrix(problem)
    c = kept.to(problem.h)
    own = J[..., inside, :][..., inside]
    energy = (c * problem.h[..., None, inside]).sum(-1) + ((c @ own) * c).sum(-1) / 2
    field = problem.h[..., None, outside] + c @ J[..., inside, :][..., outside]
    return log_2cosh(field).sum(-1) - energy - problem.offset[..., None]


def _matrix(problem: Ising) -> Tensor:
    """All couplings, symmetric, `[*B, n, n]`."""
    if problem.graph.kind == "complete":
        return problem.J
    n = problem.num_spins
    i, j = problem.graph.edges.to(problem.device)
    values = problem.graph.edge_values(problem.J)
    J = values.new_zeros(*values.shape[:-1], n, n)
    J[..., i, j] = values
    return J + J.mT
