"""The contract of a sampler as a test: the right law on problems small enough to enumerate, and good manners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from qsample.checks import plain_seed
from qsample.enumerate import log_weights
from qsample.graph import Graph
from qsample.ising import Ising
from qsample.sampler import Sampler, check_is_sampler
from qsample.samples import Exactness, Samples

FALSE_ALARM = 1e-4  #: chance that the whole suite rejects right samplers; shared out over its cases (Bonferroni)


class ContractError(AssertionError):
    """A sampler broke the contract; the message names the case, the p-value and the seed."""


class Case(NamedTuple):
    """A problem (or batch) that can be enumerated, with a name."""

    name: str
    problem: Ising


class Verdict(NamedTuple):
    """One G-test: p-value, total variation to the exact law, and what exact draws would show on average."""

    case: str
    p_value: float
    total_variation: float
    floor: float

    def __str__(self) -> str:
        return (
            f"{self.case}: p = {self.p_value:.2g}, total variation {self.total_variation:.4f} "
            f"where exact draws show {self.floor:.4f}"
        )


def reference_cases() -> list[Case]:
    """Frustrated, biased problems of each kind of graph, a batch that shares J and one that does not."""
    g = torch.Generator().manual_seed(20)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float32)

    ring = Graph.sparse(6, [(0, 1), (2, 1), (2, 3), (3, 4), (5, 4), (0, 5), (0, 3)])
    dense = normal(2, 5, 5).triu(1) * 0.5
    return [
        Case("sparse", Ising(ring, 0.4 * normal(6), 0.9 * normal(7), 0.3)),
        Case("sparse, other weights", Ising(ring, 0.4 * normal(6), 0.9 * normal(7))),
        Case("bipartite", Ising(Graph.bipartite(4, 3), 0.4 * normal(7), 0.6 * normal(4, 3))),
        Case("complete, a batch", Ising(Graph.complete(5), 0.3 * normal(2, 5), dense + dense.mT)),
        Case("sparse, a batch sharing J", Ising(ring, 0.6 * normal(3, 6), 0.7 * normal(7))),
        Case("conditional: one side empty", Ising(Graph.bipartite(0, 4), 0.7 * normal(2, 4), normal(0, 4))),
        Case("one spin", Ising(Graph.sparse(1, []), torch.tensor([0.3], dtype=torch.float32), normal(0))),
    ]


def g_test(problem: Ising, samples: Samples) -> list[tuple[float, float, float]]:
    r"""`(p-value, total variation, its floor)` of reads against the enumerated law, for each problem of the batch.

    $G = 2 N \sum_k q_k \log(q_k / p_k)$ over states, those of expected count under 5 pooled, against chi-squared,
    with Williams' correction for small counts (Sokal and Rohlf, Biometry). Reads must be independent; weighted reads
    count by their effective number N. The floor is the expected total variation of N independent exact draws.
    """
    from scipy.stats import binom, chi2

    n = problem.num_spins
    exact = log_weights(problem).softmax(-1).reshape(-1, 1 << n)
    code = (((samples.spins.reshape(-1, samples.num, n) + 1) // 2).long() << torch.arange(n)).sum(-1)
    weight = samples.weight.double().reshape(code.shape)
    results = []
    for p, k, w, N in zip(exact, code, weight, samples.ess().double().reshape(-1), strict=True):
        q = torch.zeros_like(p).index_add_(0, k, w)
        floor = float(_mean_deviation(p, N).sum() / 2)
        distance = float((q - p).abs().sum() / 2)
        rare = N * p < 5
        if rare.any():  # the pool may itself be rare: then it joins the smallest of the others
            q, p = (torch.cat([t[~rare], t[rare].sum()[None]]) for t in (q, p))
            if N * p[-1] < 5 and len(p) == 2:  # no third to join: an exact test of the rare states' number
                number = int((N * q[-1]).round()) - 1
                results.append((float(binom.sf(number, int(N.round()), float(p[-1]))), distance, floor))
                continue
            if N * p[-1] < 5 and len(p) > 1:
                least = int(p[:-1].argmin())
                q[least] += q[-1]
                p[least] += p[-1]
                q, p = q[:-1], p[:-1]
        free = max(1, len(p) - 1)
        G = 2 * N * torch.special.xlogy(q, q / p).sum() / (1 + ((1 / p).sum() - 1) / (6 * N * free))
        results.append((float(chi2.sf(float(G), free)), distance, floor))
    return results


def _mean_deviation(p: Tensor, N: Tensor) -> Tensor:
    """E|X/N - p|, X binomial (N, p): 2 v C(N, v) p^v (1 - p)^(N - v + 1) / N, v = floor(N p) + 1 (De Moivre 1730)."""
    v = (N * p).floor() + 1
    choose = torch.lgamma(N + 1) - torch.lgamma(v + 1) - torch.lgamma((N - v).clamp_min(0) + 1)
    return 2 * v / N * (choose + torch.xlogy(v, p) + torch.xlogy(N - v + 1, 1 - p)).exp() * (p < 1)


def check_sampler(
    sampler: Sampler,
    *,
    reads: int = 20_000,
    false_alarm: float = FALSE_ALARM,
    seed: int = 0,
    cases: Sequence[Case] | None = None,
) -> list[Verdict]:
    r"""Run the contract on a sampler: `check_sampler(MySampler())`.

    Each case is enumerated and the reads are compared by a G-test. A sampler that can continue chains is also
    started from all spins up, and must forget it. Shapes, types, energies, freshness of the tensors and the errors
    on bad requests are checked too. Give the sampler settings at which it should pass.

    Args:
        sampler: any sampler.
        reads: reads a case; 20,000 reject a sampler whose beta is 3 % off.
        false_alarm: chance that a right sampler fails, over all cases together.
        seed: of all randomness.
        cases: problems of at most 16 or so spins; `reference_cases()` by default.

    Returns:
        The verdicts, to print: `print(*check_sampler(sampler), sep="\n")` sets each distance beside its floor.

    Raises:
        ContractError: the first failure, with the case, its p-value and the seed.
    """
    check_is_sampler(sampler)
    seed = plain_seed(seed)
    cases = reference_cases() if cases is None else cases
    tests = 2 * sum(case.problem.batch_shape.numel() for case in cases)
    verdicts, last = [], None
    for number, (name, problem) in enumerate(cases):
        n, batch = problem.num_spins, problem.batch_shape
        starts: list[tuple[str, Samples | None]] = [(name, None)]
        if sampler.warm_start:
            up = torch.ones(*batch, reads, n, dtype=torch.int8)
            starts.append((f"{name}, started from all spins up", Samples(up, problem.energy(up))))
        for label, initial in starts:
            where = f"{type(sampler).__name__} on {label!r}, seed {seed}"
            generator = torch.Generator().manual_seed(1000 * seed + number)
            samples = sampler.sample(problem, reads, initial=initial, generator=generator)
            _check_values(where, problem, samples, reads)
            for p_value, distance, floor in g_test(problem, samples):
                verdicts.append(Verdict(label, p_value, distance, floor))
                if p_value < false_alarm / tests:
                    raise ContractError(
                        f"{where}: the reads do not follow exp(-E): p = {p_value:.2g} < {false_alarm / tests:.2g}, "
                        f"total variation {distance:.4f} where exact draws show {floor:.4f}"
                    )
            if last is not None and samples.spins.data_ptr() == last.data_ptr():
                raise ContractError(f"{where}: two calls share the memory of their spins: return fresh tensors")
            last = samples.spins
    _check_manners(sampler, cases[0].problem, seed)
    return verdicts


def _check_values(where: str, problem: Ising, samples: Samples, reads: int) -> None:
    if not isinstance(samples, Samples):
        raise ContractError(f"{where}: expected Samples; got {type(samples).__name__}")
    expected = (*problem.batch_shape, reads, problem.num_spins)
    spins, energy = samples.spins, samples.energy
    if spins.shape != expected or spins.dtype != torch.int8:
        raise ContractError(f"{where}: expected int8 spins {list(expected)}; got {spins.dtype} {list(spins.shape)}")
    if not (spins.abs() == 1).all():
        raise ContractError(f"{where}: expected spins of -1 and +1 only")
    if spins.device != problem.device or energy.dtype != problem.dtype or energy.requires_grad:
        raise ContractError(f"{where}: expected detached results on the problem's device and in its dtype")
    right = problem.energy(spins)
    if not torch.allclose(energy, right, rtol=1e-4, atol=1e-4):
        worst = float((energy - right).abs().max())
        raise ContractError(f"{where}: the energies are not those of the spins (off by up to {worst:.3g})")
    if not isinstance(samples.exactness, Exactness):
        raise ContractError(f"{where}: expected an Exactness tag; got {samples.exactness!r}")


def _check_manners(sampler: Sampler, problem: Ising, seed: int) -> None:
    """Seeds matter, and bad requests raise ValueError."""
    name = type(sampler).__name__
    one, two = (
        sampler.sample(problem, 64, generator=torch.Generator().manual_seed(2 * seed + k)).spins for k in (0, 1)
    )
    if torch.equal(one, two):
        raise ContractError(f"{name}: calls with seeds {2 * seed} and {2 * seed + 1} return the same 64 reads")
    bad = Ising(problem.graph, problem.h * float("nan"), problem.J)
    wrong = Samples(torch.ones(3, problem.num_spins + 1, dtype=torch.int8), torch.zeros(3))
    requests = {"num=0": (problem, 0, None), "NaN fields": (bad, 4, None), "a misshapen initial": (problem, 3, wrong)}
    for what, (p, num, initial) in requests.items():
        try:
            sampler.sample(p, num, initial=initial)
        except ValueError:
            continue
        raise ContractError(f"{name}: expected a ValueError for {what}; qsample.sampler.check_request raises it")
