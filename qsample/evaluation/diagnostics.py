"""Is this sample right, and how many independent reads is it worth?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from qsample.evaluation.comparison import (
    Finding,
    Reads,
    all_columns,
    compare_cells,
    compare_columns,
    compare_means,
    compare_modes,
    kernel_tests,
    order_test,
    quantile_cells,
    repeats,
    score_cumulants,
    state_tests,
    subset_laws,
    temperature_alone,
)
from qsample.evaluation.reference import Reference, default_budget, exact_reference, kernel_reads, ladders_apart, plain
from qsample.problem.ising import Ising
from qsample.sampling.sampler import check_finite
from qsample.sampling.samples import Estimate, Samples, check_samples
from qsample.sampling.temperature import beta_of_reads

FALSE_ALARM = 1e-4  #: chance that `diagnose` calls right reads wrong; shared out over its tests (Bonferroni)
LEAST_READS = 5  # independent reads below which nothing is called right
PUSHED = 2000  # reads that are put through the kernel, at most


@dataclass(frozen=True)
class Diagnosis:
    """What could be checked about a set of reads.

    Attributes:
        ok: False where a test failed, True where all passed against a reference that can be trusted, None where no
            test failed and there was nothing to judge the weights of modes by, or fewer than five independent reads
            ("not judged: ..." says why).
        text: the verdict and what was tested, in one line.
        beta: the effective temperature.
        energy_z: z of the mean energy against the exact one; None where states are too many to list.
        tests: every test with its p-value, before it is multiplied by their number.
        reference: what the reads were compared with.
        p_value: the chance of such reads or stranger ones from a right sampler, over all tests (Bonferroni).
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

    | problem | reads are compared with |
    |---|---|
    | 2^`limit` states at most (all spins, or the smaller side if bipartite) | the law itself, and exact reads |
    | treewidth 16 at most (of the couplings that are not zero) | exact reads |
    | any other | themselves after tempered transitions, and parallel tempering started apart, where it agrees |

    Tested are the spins' values and energies, the temperature, the mean and the distribution of the energy, each spin,
    each pair, products of three, four and many spins, the law of a few spins together, the weights of modes, how
    often states come back, the order of the reads, and, where states are listed, each of them. Most tests are exact
    for independent reads; weights and families (blocks of a chain, copies) enter by the variance between families.

    All tests together call right reads wrong once in 10,000 times (FALSE_ALARM, Bonferroni). What passes is right as
    far as so many reads can show; docs/judges.md has the sizes of errors that are seen.

    Args:
        problem: one problem.
        samples: reads of it, `[R, n]`.
        limit: log2 of the states that may be listed, up to 20.
        budget: sweeps of each ladder of the second sampler, where neither enumeration nor decomposition is possible; 0
            for none. By default 512, fewer above 20,000 couplings. More of them decide more: where ladders still
            disagree, `ok` is None.
        generator: of the tests' own randomness; torch's default generator by default.

    Raises:
        ValueError: a batch of problems or of reads, or reads of another number of spins.
    """
    check_finite(problem)
    check_samples(samples)
    if samples.spins.dim() != 2 or problem.batch_shape.numel() != 1:
        shape = list(samples.spins.shape if samples.spins.dim() != 2 else problem.batch_shape)
        what = "reads of one problem [R, n]" if samples.spins.dim() != 2 else "one problem"
        raise ValueError(f"expected {what}; got {shape}")
    if samples.spins.shape[-1] != problem.num_spins:
        raise ValueError(f"expected reads of {problem.num_spins} spins; got {list(samples.spins.shape)}")
    if problem.batch_shape:
        problem = Ising(
            problem.graph,
            problem.h.reshape(-1),
            problem.J.reshape(problem.graph.coupling_shape),
            problem.offset.reshape(()),
        )
    broken = _broken(problem, samples)
    if broken:
        return Diagnosis(False, f"wrong: {broken}", Estimate(math.nan, math.inf, None, broken), None)
    draw = torch.Generator().manual_seed(_seed(generator))
    beta = beta_of_reads(problem, samples)
    exact = plain(problem)
    reads = _reads(exact, samples)
    offset = float(problem.offset)
    tests, reference, energy_z = _law_tests(exact, reads, offset, limit, budget, draw)
    wrong = _wrong_energies(problem, samples)
    return _verdict(samples, reads.effective, beta, tests, reference, energy_z, wrong)


def _seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def _broken(problem: Ising, samples: Samples) -> str:
    """Why these are no reads at all, or nothing."""
    spins = samples.spins
    if spins.shape[0] == 0:
        return "there are no reads"
    odd = spins[spins.abs() != 1]
    if len(odd):
        hint = ": 2 * spins - 1 turns 0 and 1 into them" if bool(((spins == 0) | (spins == 1)).all()) else ""
        return f"expected spins of -1 and +1; got {float(odd[0]):g}{hint}"
    if not samples.energy.isfinite().all():
        return "an energy is not finite"
    if not samples.weight.isfinite().all():
        return "the weights are nan: every log_weight is -inf, or one is nan"
    return ""


def _wrong_energies(problem: Ising, samples: Samples) -> str:
    """What is wrong with `samples.energy`, beyond rounding; or nothing."""
    exact = problem.detach().to(dtype=torch.float64)
    parts = [exact.energy(some) for some in samples.spins.split(4096)]
    off = (samples.energy.double() - torch.cat(parts)).abs()
    scale = float(exact.offset.abs() + exact.h.abs().sum() + exact.graph.edge_values(exact.J).abs().sum())
    coarse = max(torch.finfo(t.dtype).eps for t in (samples.energy, torch.empty(0)))
    factor = 16 if coarse < 1e-4 else 4
    if float(off.max()) <= factor * coarse * scale + 1e-12:
        return ""
    r = int(off.argmax())
    return f"samples.energy is not the energy of the spins: read {r} is off by {float(off[r]):.3g}"


def _reads(problem: Ising, samples: Samples) -> Reads:
    """The reads with the weights and families that the samples name."""
    R = samples.num
    cluster = None if samples.family is None else samples.family.cpu()
    block = samples.info.get("block", 1)
    if cluster is None and isinstance(block, int) and block > 1 and R % block == 0:
        cluster = torch.arange(R) // block
    if cluster is not None and len(cluster.unique()) == R:
        cluster = None
    weight = None
    if samples.log_weight is not None:
        weight = samples.log_weight.cpu().double().softmax(-1)
        if float(weight.max() - weight.min()) < 1e-9 / R:
            weight = None
    return Reads.of(problem, samples.spins.cpu(), weight, cluster)


def _law_tests(
    problem: Ising, reads: Reads, offset: float, limit: int, budget: int | None, draw: torch.Generator
) -> tuple[list[Finding], Reference, float | None]:
    """Every test that can be made, what they were made against, and z of the mean energy where that is known."""
    tests: list[Finding] = []
    counted = reads.countable(draw)
    if counted is not None and len(counted) < 20:
        counted = None
    reference = exact_reference(problem, len(reads), limit, draw)
    if reference is None:
        reference = Reference("nothing: budget=0 leaves no second sampler")
        budget = default_budget(problem) if budget is None else budget
        if budget > 0:
            reference = ladders_apart(problem, reads, budget, draw)
            tests += _by_kernel(problem, reads, reference, draw)
    energy_z = None
    if reference.reads is not None:
        more, z = _against(problem, reads, reference, offset, draw)
        tests += more
        energy_z = z if reference.listed is not None else None
        if len(more) and len(tests):  # one test of the temperature is enough
            tests = [test for test in tests if test.name != "temperature" or test in more]
    if counted is not None:
        order = order_test(counted)
        tests += [] if order is None else [order]
        if reference.reads is not None and reference.reads.independent:
            again = repeats(counted, reference.reads.spins, draw)
            tests += [] if again is None else [again]
        if reference.chance is not None and reference.listed is not None:
            listed = reference.listed.to(counted.spins.device)
            power = 1 << torch.arange(len(listed), device=listed.device)
            codes = ((counted.spins[:, listed] > 0).long() * power).sum(-1)
            tests += state_tests(codes, reference.chance, draw)
    return tests, reference, energy_z


def _by_kernel(problem: Ising, reads: Reads, reference: Reference, draw: torch.Generator) -> list[Finding]:
    """The reads against themselves after tempered transitions on the ladder that tempering adapted."""
    some = reads
    if len(reads) > PUSHED and reads.cluster is None:
        some = reads.take(torch.randperm(len(reads), generator=draw)[:PUSHED].sort().values.to(reads.spins.device))
    after = kernel_reads(problem, some, reference.betas, 2, draw)
    tests = [*kernel_tests(problem, some, after, draw), temperature_alone(reads)]
    if some.independent:
        again = repeats(some, after.spins, draw)
        tests += [] if again is None else [again]
    return tests


def _against(
    problem: Ising, reads: Reads, reference: Reference, offset: float, draw: torch.Generator
) -> tuple[list[Finding], float]:
    """The reads against the reads of a reference."""
    other = reference.reads
    assert other is not None
    exact = reference.energy
    energy, z = compare_means("mean energy", reads, reads.energy, other, other.energy, exact=exact, generator=draw)
    score = score_cumulants(problem, other) if other.independent else None
    temperature, _ = compare_means("temperature", reads, reads.score, other, other.score, exact=score, generator=draw)
    tests = [energy, temperature]
    if min(len(reads), len(other)) >= 20:
        ours, theirs = (part.energy.mul(1e6).round() for part in (reads, other))  # equal ones stay equal
        cells = quantile_cells(ours, theirs)
        tests.append(compare_cells("energies", reads, other, *cells))
        tests.append(compare_modes(reads, other))
        tests.append(subset_laws(problem, reads, other, draw))
    tests += [compare_columns(reads, other, columns) for columns in all_columns(problem, draw)]
    return tests, z


def _verdict(
    samples: Samples,
    effective: float,
    beta: Estimate,
    tests: list[Finding],
    reference: Reference,
    energy_z: float | None,
    wrong: str,
) -> Diagnosis:
    """The tests in words."""
    level = FALSE_ALARM / max(1, len(tests))
    failed = [test for test in sorted(tests, key=lambda test: test.p_value) if test.p_value < level]
    p_value = min(1.0, min((test.p_value for test in tests), default=1.0) * max(1, len(tests)))
    enough = effective > LEAST_READS - 0.01
    judged = reference.reads is not None and enough
    ok = False if failed or wrong else True if judged else None
    why = reference.text if enough else f"only {effective:.1f} effective reads, at least {LEAST_READS} are needed"
    said = [{True: "right, as far as can be seen", False: "wrong", None: f"not judged: {why}"}[ok]]
    said += [wrong] if wrong else []
    said += [f"{test.name} (p = {test.p_value:.1g}; {test.text})" for test in failed[:4]]
    said += [f"{len(failed) - 4} more tests failed"] if len(failed) > 4 else []
    said.append(_temperature(beta, tests, level))
    for test in tests:
        if test.name == "mean energy":
            verdict = "right" if test.p_value >= level else "too high" if "z = +" in test.text else "too low"
            said.append(f"mean energy {test.text}: {verdict}")
    if judged:
        said.append(f"against {reference.text}")
    if tests:
        least = min(tests, key=lambda test: test.p_value)
        said.append(f"{len(tests)} tests, smallest p = {least.p_value:.2g} ({least.name})")
    if samples.log_weight is not None:
        said.append(f"weights: {effective:.0f} effective of {samples.num} reads")
    elif effective < samples.num - 0.5:
        said.append(f"{effective:.0f} families of {samples.num} reads")
    said.append(f"tag: {samples.exactness.value}")
    return Diagnosis(ok, "; ".join(said), beta, energy_z, tuple(tests), reference.text, p_value)


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
