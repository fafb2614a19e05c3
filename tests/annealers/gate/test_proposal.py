"""Quantum proposals: U is the right one and symmetric, and steps keep the law exactly."""

import math

import pytest
import torch

from qsample import Graph, Ising
from qsample.annealers import Exact, QuantumProposal
from qsample.annealers.gate.proposal import scaling
from qsample.annealers.gate.statevector import basis, energies, evolved
from qsample.problem.enumeration import states
from qsample.testing import FALSE_ALARM, Case, check_sampler, g_test
from qsample.testing.contract import reference_cases
from tests.support.exact import a_graph, a_problem
from tests.support.problems import numbered
from tests.support.seeds import generator

RAMPS = ["symmetric", "quench"]


def whole(problem, sampler, draws):
    """U of each problem of a flat batch, `[P, 2^n, 2^n]`, and its angles."""
    n = problem.num_spins
    gamma, beta = sampler.angles(draws, scaling(problem))
    number = torch.arange(1 << n).expand(len(problem.h), -1)
    state = evolved(basis(number, n), energies(problem), gamma, beta)
    return torch.complex(state[0], state[1]), gamma, beta


def sum_of_x(n):
    """The sum of all X_i as a matrix, `[2^n, 2^n]`; spin i is bit i of a state's number."""
    number = torch.arange(1 << n)
    X = torch.zeros(1 << n, 1 << n, dtype=torch.complex128)
    for i in range(n):
        X[number, number ^ (1 << i)] = 1
    return X


@pytest.mark.parametrize("ramp", RAMPS)
@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_the_evolution_is_symmetric_unitary_and_that_of_the_formula(ramp, kind):
    problem = a_problem(a_graph(kind), h=(2,), J=(2,), offset=(2,))
    sampler = QuantumProposal(ramp=ramp, layers=5)
    draws = torch.tensor([[0.1, 0.9], [0.7, 0.3]], dtype=torch.float64)
    U, gamma, beta = whole(problem, sampler, draws)
    n = problem.num_spins
    torch.testing.assert_close(U, U.mT, atol=2e-6, rtol=0)
    torch.testing.assert_close(U @ U.mH, torch.eye(1 << n).to(U).expand_as(U), atol=5e-6, rtol=0)
    E = problem.without_offset().energy(states(n))
    for k in range(2):
        exact = torch.eye(1 << n, dtype=torch.complex128)
        for g, b in zip(gamma[k], beta[k], strict=True):
            phase = torch.diag((-1j * g * E[k]).exp())
            exact = torch.linalg.matrix_exp(-1j * b * sum_of_x(n)) @ phase @ exact
        torch.testing.assert_close(U[k].to(exact), exact, atol=2e-6, rtol=0)


@pytest.mark.parametrize("ramp", RAMPS)
def test_many_layers_are_the_evolution_in_time(ramp):
    """Trotter's layers become exp of -i int H, up to the phases that no measurement sees."""
    problem = a_problem(Graph.complete(3), scale=0.5).flat()
    draws = torch.full((1, 2), 0.5, dtype=torch.float64)
    fine = QuantumProposal(ramp=ramp, time=(3.0, 3.0), layers=200)
    U, _, _ = whole(problem, fine, draws)
    C = torch.diag(energies(problem)[0] * scaling(problem)[0]).to(torch.complex128)
    X = sum_of_x(3)
    exact = torch.eye(8, dtype=torch.complex128)
    for tau in (torch.arange(400, dtype=torch.float64) + 0.5) / 400:
        g = 0.6 * float(fine.shape(tau))
        exact = torch.linalg.matrix_exp(-1j * 3 / 400 * ((1 - g) * C + g * X)) @ exact
    torch.testing.assert_close(U[0].abs().double(), exact.abs(), atol=1e-3, rtol=0)


def test_ramps_are_the_same_in_both_directions_of_time():
    x = torch.linspace(0.01, 0.99, 40, dtype=torch.float64)
    for ramp in RAMPS:
        shape = QuantumProposal(ramp=ramp).shape(x)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(shape, shape.flip(0))
    assert QuantumProposal().shape(torch.tensor([0.5, 0.2])).tolist() == pytest.approx([1, 0.5])


@pytest.mark.parametrize("ramp", RAMPS)
def test_the_kernel_keeps_the_law_and_detailed_balance(ramp):
    """The whole transition matrix, from the proposal's own."""
    problem = numbered(Graph.complete(6))
    Q = QuantumProposal(ramp=ramp).proposal_matrix(problem, torch.tensor([0.3, 0.6]))
    E = problem.to(dtype=torch.float64).energy(states(6))
    P = Q * (E[:, None] - E).clamp(max=0).exp()
    P += torch.diag(1 - P.sum(-1))
    law = (-E).softmax(0)
    flow = law[:, None] * P
    torch.testing.assert_close(flow, flow.mT, atol=1e-7, rtol=0)
    torch.testing.assert_close(law @ P, law, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("chains", "steps"), [(400, 2), (20, 4)])
def test_few_chains_draw_as_the_whole_matrix_would(chains, steps):
    """Where chains are few they are evolved one by one: the same draws."""
    problem = numbered(Graph.complete(7))
    sampler = QuantumProposal(steps, hold=2, layers=3)
    found = sampler.sample(problem, chains, generator=generator(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qsample.annealers.gate.proposal.WHOLE", 1 if chains > 100 else 1 << 11)
        patch.setattr("qsample.annealers.gate.proposal.AMPLITUDES", 1 << 12)
        other = sampler.sample(problem, chains, generator=generator(1))
    assert torch.equal(found.spins, other.spins)
    for key in ("acceptance", "moved"):
        assert torch.equal(found.info[key], other.info[key])
    assert 0 < float(found.info["moved"]) <= float(found.info["acceptance"]) <= 1


@pytest.mark.parametrize("ramp", RAMPS)
def test_exact_reads_stay_exact_at_nine_spins(ramp):
    problem = numbered(Graph.complete(9))
    start = Exact().sample(problem, 4000, generator=generator(1))
    sampler = QuantumProposal(3, hold=3, ramp=ramp, layers=4)
    found = sampler.sample(problem, 4000, initial=start, generator=generator(2))
    assert not torch.equal(found.spins, start.spins)
    assert g_test(problem, found)[0][0] > FALSE_ALARM


@pytest.mark.long
@pytest.mark.parametrize("ramp", RAMPS)
def test_the_contract_at_eight_to_ten_spins(ramp):
    cases = [Case(f"{n} spins", numbered(Graph.complete(n), seed=n)) for n in (8, 9, 10)]
    sampler = QuantumProposal(160, hold=40, ramp=ramp, time=(2.0, 6.0), layers=8)
    check_sampler(sampler, cases=cases, power=0.5)


@pytest.mark.long
def test_the_law_of_strong_fields_is_reached():
    """The contract's slowest case: a gap of 0.009 per step, where one flip has 0.066."""
    (case,) = [case for case in reference_cases() if case.name == "strong"]
    sampler = QuantumProposal(2000, hold=100)
    found = sampler.sample(case.problem, 4000, generator=generator(1))
    assert g_test(case.problem, found)[0][0] > FALSE_ALARM


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "expected steps >= 1; got 0"),
        ({"ramp": "linear"}, "unknown ramp 'linear'; expected one of symmetric, quench"),
        ({"gamma": (0.5, 1.5)}, r"gamma as a pair 0 < smallest <= largest <= 1; got \(0.5, 1.5\)"),
        ({"gamma": 0.5}, r"gamma as a pair .* got 0.5"),
        ({"time": (3.0, 2.0)}, r"time as a pair 0 < smallest <= largest; got \(3.0, 2.0\)"),
        ({"time": (3.0, math.inf)}, "time as a pair"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        QuantumProposal(**settings)


def test_too_many_qubits_are_refused_with_the_memory_they_take():
    for n, memory in ((21, "16 MiB"), (40, "8 TiB")):
        problem = Ising(Graph.sparse(n, []), torch.zeros(n), torch.zeros(0))
        with pytest.raises(ValueError, match=rf"{n} spins are 2\^{n} amplitudes, {memory} per"):
            QuantumProposal().sample(problem, 1)
    with pytest.raises(ValueError, match="13 spins .* at most 12"):
        QuantumProposal().proposal_matrix(numbered(Graph.complete(13)), torch.zeros(2))
