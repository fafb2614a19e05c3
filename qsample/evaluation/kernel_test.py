"""Reads of a law are as likely before as after a kernel that leaves the law as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.tempered_transitions import TemperedGibbs
from qsample.evaluation.cells import projections
from qsample.evaluation.reads import Finding, Reads, student
from qsample.problem.ising import Ising
from qsample.sampling.samples import Samples

PAIRS = 4000  # coupled pairs that are looked at
MOVED = 20  # reads or clusters that must have changed for a statistic to be tested


class Change(NamedTuple):
    """The statistic of one kind that changes most one way: p over the whole kind, and words."""

    p_value: float
    text: str


def in_single(problem: Ising) -> Ising:
    """In single precision, where the native kernels run, if that shows in no probability."""
    ends = problem.graph.edges.to(problem.device).flatten()
    size = problem.graph.edge_values(problem.J).abs().repeat(2)
    field = problem.h.abs().index_add(0, ends, size)  # the largest that each spin may feel
    return problem.to(dtype=torch.float32) if float(field.max()) < 1e4 else problem


def kernel_reads(
    problem: Ising,
    reads: Reads,
    betas: tuple[float, ...],
    rounds: int,
    generator: torch.Generator,
) -> Reads:
    """The reads after tempered transitions, a reversible kernel that leaves the law as it is.

    Args:
        problem: one problem in double precision.
        reads: reads of it.
        betas: ladder of inverse temperatures from 0 to 1.
        rounds: number of transitions of each read.
        generator: randomness of the transitions.
    """
    kernel = TemperedGibbs(betas=tuple(reversed(betas)), rounds=rounds)
    single = in_single(problem)
    start = Samples(reads.spins.to(torch.int8), single.energy(reads.spins))
    after = kernel.sample(single, len(reads), initial=start, generator=generator)
    return replace(Reads.of(problem, after.spins), weight=reads.weight, cluster=reads.cluster)


def kernel_tests(
    problem: Ising, before: Reads, after: Reads, generator: torch.Generator
) -> Iterator[Finding]:
    """Reads before and after a reversible kernel.

    Of a right law each pair is as likely the other way round, so of the reads in which a statistic
    changed, it rises in half: a sign test, exact for independent reads; elsewhere z from the sums
    over clusters. The sum of changes over the root of the sum of their squares is the other test.

    Args:
        problem: problem of which both are reads.
        before: reads under test.
        after: the same reads after the kernel, in the same order.
        generator: randomness of the choice of pairs, where they are many.
    """
    names = []
    changes = []
    for name, change in _differences(problem, before, after, generator):
        names.append(name)
        changes.append(_worst_change(before, change.double()))
    worst = min(range(len(changes)), key=lambda k: changes[k].p_value)
    p, text = changes[worst]
    yield Finding("kernel", min(1.0, p * len(changes)), f"{names[worst]} change one way: {text}")


def _differences(
    problem: Ising, before: Reads, after: Reads, generator: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Statistics, kind by kind, and how they changed, `[R, q]`."""
    yield "spins", after.spins - before.spins
    edges = problem.graph.edges.to(before.spins.device)
    if edges.shape[1] > PAIRS:
        order = torch.randperm(edges.shape[1], generator=generator)
        edges = edges[:, order[:PAIRS].to(edges.device)]
    if edges.shape[1]:
        i, j = edges
        last = after.spins[:, i] * after.spins[:, j]
        yield "coupled pairs", last - before.spins[:, i] * before.spins[:, j]
    yield "energy", _without_rounding(before.energy, after.energy)[:, None]
    yield "temperature", _without_rounding(before.score, after.score)[:, None]
    for name, first, last in projections(before, after):
        middle = torch.cat([first, last]).double().mean()
        crossed = (last > middle).double() - (first > middle).double()
        yield name, torch.stack([last - first, crossed], 1)


def _without_rounding(first: Tensor, last: Tensor) -> Tensor:
    """The change of a number, 0 where it is rounding alone."""
    change = last - first
    return change.where(change.abs() > 1e-9 * (1 + first.abs()), 0)


def _worst_change(before: Reads, change: Tensor) -> Change:
    """The statistic whose `change` [R, q] goes one way most.

    p is Bonferroni's over all q statistics and both tests.
    """
    from scipy.stats import binom

    # the sum of changes over the root of the sum of their squares
    sums = before.by_cluster(before.shares[:, None] * change)
    z = (sums.sum(0) / sums.square().sum(0).sqrt()).nan_to_num(0.0)
    moved = (sums != 0).sum(0)
    z = z.where(moved >= MOVED, 0)
    k = int(z.abs().argmax())
    p = student(float(z[k]), before.effective - 1)
    text = f"z = {float(z[k]):+.1f}"
    if before.independent:
        # Hoeffding's bound for sums of given sizes and random signs
        p = 2 * math.exp(-(float(z[k]) ** 2) / 2)
        # the sign test
        up = (change > 0).sum(0).cpu().numpy()
        down = (change < 0).sum(0).cpu().numpy()
        tail = 2 * binom.cdf(np.minimum(up, down), up + down, 0.5)
        worst = int(tail.argmin())
        if tail[worst] < p:
            p = float(tail[worst])
            text = f"{up[worst]} up, {down[worst]} down"
        p = min(1.0, 2 * p)
    return Change(min(1.0, p * change.shape[1]), text)
