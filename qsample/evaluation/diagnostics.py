"""Is this sample right, and how many independent reads is it worth?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qsample.evaluation.cells import compare_cells, compare_modes, quantile_cells, subset_laws
from qsample.evaluation.enumerated import state_tests
from qsample.evaluation.independence import order_test, repeats
from qsample.evaluation.kernel_test import kernel_reads, kernel_tests
from qsample.evaluation.means import compare_means, score_cumulants, temperature_alone
from qsample.evaluation.reads import Finding, Reads
from qsample.evaluation.reference import (
    Reference,
    default_budget,
    exact_reference,
    ladders_apart,
    plain,
)
from qsample.evaluation.spin_products import all_products, compare_products
from qsample.problem.ising import Ising
from qsample.sampling.random import draw_seed
from qsample.sampling.sampler import check_finite
from qsample.sampling.samples import Estimate, Samples, check_samples
from qsample.sampling.temperature import beta_of_reads
from qsample.support.faces import public

# chance that `diagnose` calls right reads wrong; shared out over its tests (Bonferroni)
FALSE_ALARM = 1e-4
LEAST_READS = 5  # independent reads below which nothing is called right
FEW = 20  # reads below which their order, their energies' law and single states are not tested
PUSHED = 2000  # largest number of reads that are put through the kernel
SHOWN = 4  # failed tests that the text names


@dataclass(frozen=True)
class Diagnosis:
    """What could be checked about a set of reads.

    Attributes:
        ok: False where a test failed, True where all passed against a reference that can be
            trusted, None where no test failed and there was nothing to judge the weights of modes
            by, or fewer than five independent reads ("not judged: ..." says why).
        text: the verdict and what was tested, in one line.
        beta: the effective temperature.
        energy_z: z of the mean energy against the exact one; None where states are too many to
            list.
        tests: every test with its p-value, before it is multiplied by their number.
        reference: description of what the reads were compared with.
        p_value: the chance of such reads or stranger ones from a right sampler, over all tests
            (Bonferroni).
    """

    ok: bool | None
    text: str
    beta: Estimate
    energy_z: float | None
    tests: tuple[Finding, ...] = ()
    reference: str = ""
    p_value: float = 1.0

    def __str__(self) -> str:
        return self.text


@public("qsample")
@torch.no_grad()
def diagnose(
    problem: Ising,
    samples: Samples,
    *,
    limit: int = 20,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> Diagnosis:
    """Are these reads of one problem right? The law is tested, as far as it can be known.

    What the reads are compared with depends on the problem:

    - at most 2^`limit` states (of all spins, or of the smaller side if bipartite): the law itself,
      and exact reads;
    - treewidth of at most 16 (of the couplings that are not zero): exact reads;
    - any other: the reads themselves after tempered transitions, and parallel tempering from
      starts far apart, where its ladders agree.

    Tested are the spins' values and energies, the temperature, the mean and the distribution of the
    energy, each spin, each pair, products of three, four and many spins, the law of a few spins
    together, the weights of modes, how often states come back, the order of the reads, and, where
    states are listed, each of them. Most tests are exact for independent reads; weights and
    families (blocks of a chain, copies) enter by the variance between families.

    All tests together call right reads wrong once in 10,000 times (FALSE_ALARM, Bonferroni). What
    passes is right as far as so many reads can show; docs/judges.md has the sizes of errors that
    are seen.

    Args:
        problem: one problem.
        samples: reads of it, `[R, n]`.
        limit: log2 of the largest number of states that may be listed, at most 20.
        budget: sweeps of each ladder of the second sampler, where neither enumeration nor
            decomposition is possible; 0 leaves it out. None means 512, fewer above 20,000
            couplings. More sweeps decide more: where ladders still disagree, `ok` is None.
        generator: randomness of the tests themselves; None is torch's default generator.

    Raises:
        ValueError: a batch of problems or of reads, reads of another number of spins, or numbers
            of the problem that are not finite.
        TypeError: what is no problem or no samples, or reads that are bool.
    """
    problem = _one_problem(problem, samples)
    broken = _broken(problem, samples)
    if broken:
        unknown = Estimate(math.nan, math.inf, None, broken)
        return Diagnosis(False, f"wrong: {broken}", unknown, None)
    draw = torch.Generator().manual_seed(draw_seed(generator))
    beta = beta_of_reads(problem, samples)
    exact = plain(problem)
    reads = _reads(exact, samples)
    tests, reference, energy_z = _law_tests(exact, reads, limit, budget, draw)
    wrong = _wrong_energies(problem, samples)
    return _verdict(samples, reads.effective, beta, tests, reference, energy_z, wrong)


# ---- what was given ----------------


def _one_problem(problem: Ising, samples: Samples) -> Ising:
    """The problem without batch dimensions; an error where it, or the reads, are of several."""
    check_finite(problem)
    check_samples(samples)
    spins = samples.spins
    if spins.dtype == torch.bool:
        raise TypeError(
            "expected spins of -1 and +1; got torch.bool: 2 * spins.to(torch.int8) - 1 makes spins "
            "of bits"
        )
    if spins.dim() != 2:
        raise ValueError(f"expected reads of one problem [R, n]; got {list(spins.shape)}")
    if problem.batch_shape.numel() != 1:
        raise ValueError(f"expected one problem; got {list(problem.batch_shape)}")
    if spins.shape[-1] != problem.num_spins:
        raise ValueError(f"expected reads of {problem.num_spins} spins; got {list(spins.shape)}")
    if not problem.batch_shape:
        return problem
    return problem.unbind()[0]


def _broken(problem: Ising, samples: Samples) -> str:
    """Why these are no reads at all; empty where they are."""
    spins = samples.spins
    if spins.shape[0] == 0:
        return "there are no reads"
    odd = spins[spins.abs() != 1]
    if len(odd):
        bits = bool(((spins == 0) | (spins == 1)).all())
        wide = ".to(torch.int8)" if spins.dtype == torch.uint8 else ""
        hint = f": 2 * spins{wide} - 1 turns 0 and 1 into them" if bits else ""
        return f"expected spins of -1 and +1; got {float(odd[0]):g}{hint}"
    if not samples.energy.isfinite().all():
        return "an energy is not finite"
    if not samples.weight.isfinite().all():
        return "the weights are nan: every log_weight is -inf, or one is nan"
    return ""


def _wrong_energies(problem: Ising, samples: Samples) -> str:
    """What is wrong with `samples.energy`, beyond rounding; empty where nothing is."""
    exact = problem.detach().to(dtype=torch.float64)
    energy = torch.cat([exact.energy(spins) for spins in samples.spins.split(4096)])
    off = (samples.energy.double() - energy).abs()
    # the largest energy that could be, which rounding is relative to
    couplings = exact.graph.edge_values(exact.J)
    scale = float(exact.offset.abs() + exact.h.abs().sum() + couplings.abs().sum())
    coarse = max(torch.finfo(t.dtype).eps for t in (samples.energy, torch.empty(0)))
    factor = 16 if coarse < 1e-4 else 4
    if float(off.max()) <= factor * coarse * scale + 1e-12:
        return ""
    r = int(off.argmax())
    return f"samples.energy is not the energy of the spins: read {r} is off by {float(off[r]):.3g}"


def _reads(problem: Ising, samples: Samples) -> Reads:
    """The reads with the weights and families that the samples name."""
    R = samples.num
    # families: named by the sampler, or blocks of a chain
    cluster = None if samples.family is None else samples.family.cpu()
    block = samples.info.get("block", 1)
    blocks = isinstance(block, int) and block > 1 and R % block == 0
    if cluster is None and blocks:
        cluster = torch.arange(R) // block
    if cluster is not None and len(cluster.unique()) == R:
        cluster = None
    # equal weights are none
    weight = None
    if samples.log_weight is not None:
        weight = samples.log_weight.cpu().double().softmax(-1)
        if float(weight.max() - weight.min()) < 1e-9 / R:
            weight = None
    return Reads.of(problem, samples.spins.cpu(), weight, cluster)


# ---- the tests ----------------


def _law_tests(
    problem: Ising, reads: Reads, limit: int, budget: int | None, draw: torch.Generator
) -> tuple[list[Finding], Reference, float | None]:
    """Every test that can be made, the reference, and z of the mean energy where that is exact."""
    tests: list[Finding] = []
    counted = reads.countable(draw)
    if counted is not None and len(counted) < FEW:
        counted = None

    # what to judge by: the law, exact reads, or a second sampler and the reads themselves
    reference = exact_reference(problem, len(reads), limit, draw)
    if reference is None:
        reference = Reference("nothing: budget=0 leaves no second sampler")
        budget = default_budget(problem) if budget is None else budget
        if budget > 0:
            reference = ladders_apart(problem, reads, budget, draw)
            tests += _by_kernel(problem, reads, reference, draw)

    # the law of the reads against that of the reference
    energy_z = None
    if reference.reads is not None:
        against, z = _against(problem, reads, reference, reference.reads, draw)
        if reference.listed is not None:
            energy_z = z
        # one test of the temperature is enough
        tests = [test for test in tests if test.name != "temperature"] + against

    # what only independent reads of equal weight can tell
    if counted is not None:
        tests += _of_counted(counted, reference, draw)
    return tests, reference, energy_z


def _by_kernel(
    problem: Ising, reads: Reads, reference: Reference, draw: torch.Generator
) -> list[Finding]:
    """The reads against themselves after tempered transitions on the adapted ladder."""
    pushed = reads
    if len(reads) > PUSHED and reads.cluster is None:
        index = torch.randperm(len(reads), generator=draw)[:PUSHED].sort().values
        pushed = reads.take(index.to(reads.spins.device))
    after = kernel_reads(problem, pushed, reference.betas, 2, draw)
    tests = [*kernel_tests(problem, pushed, after, draw), temperature_alone(reads)]
    if pushed.independent:
        again = repeats(pushed, after.spins, draw)
        tests += [] if again is None else [again]
    return tests


def _against(
    problem: Ising, reads: Reads, reference: Reference, other: Reads, draw: torch.Generator
) -> tuple[list[Finding], float]:
    """The reads against the reads of a reference, and z of the mean energy."""
    energy, z = compare_means(
        "mean energy",
        reads,
        reads.energy,
        other,
        other.energy,
        exact=reference.energy,
        generator=draw,
    )
    temperature, _ = compare_means(
        "temperature",
        reads,
        reads.score,
        other,
        other.score,
        exact=score_cumulants(problem, other) if other.independent else None,
        generator=draw,
    )
    tests = [energy, temperature]
    if min(len(reads), len(other)) >= FEW:
        # rounded: equal ones stay equal
        energies = reads.energy.mul(1e6).round()
        cells, other_cells = quantile_cells(energies, other.energy.mul(1e6).round())
        tests.append(compare_cells("energies", reads, other, cells, other_cells))
        tests.append(compare_modes(reads, other))
        tests.append(subset_laws(problem, reads, other, draw))
    for products in all_products(problem, draw):
        tests.append(compare_products(reads, other, products))
    return tests, z


def _of_counted(counted: Reads, reference: Reference, draw: torch.Generator) -> list[Finding]:
    """Order, repetitions and single states of independent reads of equal weight."""
    tests: list[Finding] = []
    order = order_test(counted)
    if order is not None:
        tests.append(order)
    if reference.reads is not None and reference.reads.independent:
        again = repeats(counted, reference.reads.spins, draw)
        if again is not None:
            tests.append(again)
    if reference.chance is not None and reference.listed is not None:
        listed = reference.listed.to(counted.spins.device)
        power = 1 << torch.arange(len(listed), device=listed.device)
        codes = ((counted.spins[:, listed] > 0).long() * power).sum(-1)
        tests += state_tests(codes, reference.chance, draw)
    return tests


# ---- the verdict ----------------


def _verdict(
    samples: Samples,
    effective: float,
    beta: Estimate,
    tests: list[Finding],
    reference: Reference,
    energy_z: float | None,
    wrong: str,
) -> Diagnosis:
    """What the tests say together, and the sentences that say it."""
    # Bonferroni: each test fails at its share of the false-alarm rate
    number = max(1, len(tests))
    level = FALSE_ALARM / number
    p_value = min(1.0, min((test.p_value for test in tests), default=1.0) * number)
    by_p_value = sorted(tests, key=lambda test: test.p_value)
    failed = [test for test in by_p_value if test.p_value < level]

    enough = effective > LEAST_READS - 0.01
    judged = reference.reads is not None and enough
    if failed or wrong:
        ok = False
        sentences = ["wrong"]
    elif judged:
        ok = True
        sentences = ["right, as far as can be seen"]
    else:
        ok = None
        reason = reference.text
        if not enough:
            reason = f"only {effective:.1f} effective reads, at least {LEAST_READS} are needed"
        sentences = [f"not judged: {reason}"]

    if wrong:
        sentences.append(wrong)
    for test in failed[:SHOWN]:
        sentences.append(f"{test.name} (p = {test.p_value:.1g}; {test.text})")
    if len(failed) > SHOWN:
        sentences.append(f"{len(failed) - SHOWN} more tests failed")
    sentences.append(_temperature(beta, tests, level))
    sentences += [_energy(test, level) for test in tests if test.name == "mean energy"]
    if judged:
        sentences.append(f"against {reference.text}")
    if tests:
        least = by_p_value[0]
        sentences.append(f"{len(tests)} tests, smallest p = {least.p_value:.2g} ({least.name})")
    sentences += _worth(samples, effective)
    sentences.append(f"tag: {samples.exactness.value}")
    text = "; ".join(sentences)
    return Diagnosis(ok, text, beta, energy_z, tuple(tests), reference.text, p_value)


def _worth(samples: Samples, effective: float) -> list[str]:
    """How many reads weighted or correlated ones are worth, in words; none where all count."""
    if samples.log_weight is not None:
        return [f"weights: {effective:.0f} effective of {samples.num} reads"]
    if effective < samples.num - 0.5:
        return [f"{effective:.0f} families of {samples.num} reads"]
    return []


def _energy(test: Finding, level: float) -> str:
    """The mean energy in words."""
    verdict = "right"
    if test.p_value < level:
        verdict = "too high" if "z = +" in test.text else "too low"
    return f"mean energy {test.text}: {verdict}"


def _temperature(beta: Estimate, tests: list[Finding], level: float) -> str:
    """The effective temperature in words; whether it is right is what the test of it says."""
    p_value = min((test.p_value for test in tests if test.name == "temperature"), default=1.0)
    if not math.isfinite(beta.value):
        return beta.note
    verdict = "consistent with 1"
    if not math.isfinite(beta.stderr):
        verdict = "not determined"
    if p_value < level:
        verdict = "too hot" if beta.value < 1 else "too cold"
    note = f" ({beta.note})" if beta.note else ""
    return f"effective beta {beta.value:.3f} ± {beta.stderr:.3f}: {verdict}{note}"
