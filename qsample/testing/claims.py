"""The claims of a sampler, on problems where a false one shows: warm start, reversible, EXACT."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from qsample.problem.graph import Kind
from qsample.sampling.samples import Exactness, Samples
from qsample.testing.independence import Finding, Part
from qsample.testing.law import Law, Reads, codes, whitened
from qsample.testing.looks import collect
from qsample.testing.manners import ContractError
from qsample.testing.problems import long_row, rows_of_three, twins, two_modes
from qsample.testing.verdicts import Look, Run

STRENGTHS = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5)  # of couplings whose memory lasts 5 to 200 sweeps


def check_claims(run: Run) -> None:
    """`warm_start`, `reversible` and the EXACT tag, on problems where a false claim shows."""
    kinds = [case.problem.graph.kind for case in run.cases if case.problem.graph.num_edges]
    if not kinds:
        run.verdicts.notes.append("claims: no case has couplings")
        return
    kind = next(k for k in get_args(Kind) if k in kinds)
    if run.sampler.warm_start and "initial" not in run.skip:
        _knows_its_start(run, kind)
    if run.sampler.reversible and "reversible" not in run.skip:
        if run.sampler.warm_start:
            _is_reversible(run, kind)
        else:
            run.verdicts.notes.append(
                "reversible: the sampler cannot continue chains, so the claim says nothing"
            )
    if "exact" not in run.skip:
        _is_exact(run, kind)


def _knows_its_start(run: Run, kind: Kind) -> None:
    """Reads that start from the ground states of a long row resemble each its own start.

    No sampler turns the whole row over. Of reads that do not know their start the mean overlap is 0
    with a standard error of 1/8 or less.
    """
    row, ground = long_row(kind)
    problem = twins(row)
    num = 64
    label = "a long row, from its ground states"
    sign = torch.randint(2, (2, num, 1), generator=run.ask.generator(), dtype=torch.int8) * 2 - 1
    start = sign * ground
    try:
        samples = run.ask(label, problem, num, initial=Samples(start, problem.energy(start)))
    except ValueError as refusal:
        run.verdicts.notes.append(f"initial: refused ({refusal})")
        return
    overlap = float((samples.spins.double() * start).mean((-2, -1)).min())
    if overlap < 0.5:
        raise ContractError(
            f"{run.ask.where(label)}: the reads do not know the `initial` they start from: their "
            f"overlap with it is {overlap:.3f}, expected nearly 1; a sampler that forgets its "
            "start says warm_start = False"
        )


def _is_reversible(run: Run, kind: Kind) -> None:
    """In equilibrium a reversible kernel goes from state x to state y as often as back.

    Strong couplings keep a memory of many sweeps: each strength is a time scale.
    """
    problem, rows = rows_of_three(kind, STRENGTHS, 16)
    label = "rows of three, from exact reads"
    num = run.number(0.5)
    start = torch.empty(num, problem.num_spins, dtype=torch.int8)
    generator = run.ask.generator()
    for strength, spins in zip(STRENGTHS, rows, strict=True):
        # of any kind of graph: rows of a complete one are not apart for an enumeration of it
        (law,) = Law.of(rows_of_three("sparse", (strength,), 1)[0])
        start[:, spins] = law.draw(num * len(spins), generator).reshape(num, *spins.shape)
    try:
        end = run.ask(label, problem, num, initial=Samples(start, problem.energy(start))).spins
    except ValueError as refusal:
        run.verdicts.notes.append(f"reversible: refused ({refusal})")
        return
    for strength, spins in zip(STRENGTHS, rows, strict=True):
        x = start[:, spins]
        y = end[:, spins]
        step = (
            torch.nn.functional.one_hot(8 * codes(x) + codes(y), 64)
            .sum(1)
            .double()
            .reshape(num, 8, 8)
        )
        i, j = torch.triu_indices(8, 8, 1)
        s = x.double()
        t = y.double()
        # the middle after the ends, less the ends after the middle: what a scan in a fixed order
        # favours
        turns = s[..., [1]] * t[..., [0, 2]] - s[..., [0, 2]] * t[..., [1]]
        flows = [(step - step.mT)[:, i, j], turns.sum(1)]
        seen = (
            f"the kernel is not reversible: states of spins coupled by {strength:g} follow each "
            "other one way"
        )
        parts = [Part(p_value, seen) for p_value in map(_symmetric, flows) if p_value is not None]
        if parts:
            run.looks.append(
                Look(label, f"reversible at {strength:g}", *Finding.of(parts), lambda alpha: "")
            )


def _symmetric(flow: Tensor) -> float | None:
    """The p-value of rows `[R, f]`, each as likely as its negative; None where most are 0."""
    from scipy.stats import chi2

    basis = whitened(flow.mT @ flow, 25.0)
    if not basis.shape[1]:
        return None
    return float(chi2.sf(float((flow.sum(0) @ basis).square().sum()), basis.shape[1]))


def _is_exact(run: Run, kind: Kind) -> None:
    """Draws tagged EXACT follow a law that chains do not reach."""
    problem = two_modes(kind)
    label = "two modes"
    num = run.number(0.5)
    if run.ask(label, problem, 1).exactness is not Exactness.EXACT:
        return
    call = Reads.of(Law.of(problem), run.ask(label, problem, num))
    # two states in all: moments say as much
    collect(run, f"{label}, tagged EXACT", call, by_state=False)
