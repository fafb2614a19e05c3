"""QAOA by state vectors in torch: its law, its angles, its tag, and what is refused."""

import importlib.metadata
import sys

import pytest
import torch

import qsample as qs
from qsample import Exactness, Graph, Ising
from qsample.annealers import QAOA, Corrected, Gibbs
from qsample.annealers.gate import kits
from qsample.annealers.gate.ansatz import Circuit, order, ramp
from qsample.annealers.gate.proposal import scaling
from qsample.annealers.gate.sampler import layered
from qsample.models import BernoulliRBM
from qsample.problem.enumeration import states
from qsample.testing import Case, ContractError, check_sampler
from tests.support.exact import Z_MAX, a_graph, a_problem
from tests.support.problems import numbered
from tests.support.seeds import generator

PROBLEM = numbered(Graph.complete(6))


def pauli(matrix, i, n):
    """A matrix on qubit i, spin i, of n; qubit 0 is the lowest bit, |0> is spin +1, bit set."""
    out = torch.ones(1, 1, dtype=torch.complex128)
    for k in reversed(range(n)):
        out = torch.kron(out, matrix if k == i else torch.eye(2, dtype=torch.complex128))
    return out


def exact_state(problem, gamma, beta):
    """QAOA's state by dense matrices, term by term."""
    n = problem.num_spins
    Z = torch.diag(torch.tensor([-1, 1], dtype=torch.complex128))  # bit set: +1
    X = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128)
    C = sum(float(h) * pauli(Z, i, n) for i, h in enumerate(problem.h))
    edges = problem.graph.edges.T.tolist()
    J = problem.graph.edge_values(problem.J).tolist()
    for (i, j), value in zip(edges, J, strict=True):
        C = C + value * pauli(Z, i, n) @ pauli(Z, j, n)
    mixer = sum(pauli(X, i, n) for i in range(n))
    psi = torch.full((1 << n,), 2 ** (-n / 2), dtype=torch.complex128)
    for g, b in zip(gamma, beta, strict=True):
        psi = torch.linalg.matrix_exp(-1j * float(g) * C) @ psi
        psi = torch.linalg.matrix_exp(-1j * float(b) * mixer) @ psi
    return psi


@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_reads_follow_the_circuit(kind):
    problem = a_problem(a_graph(kind))
    sampler = QAOA(depth=2, angles=torch.tensor([[0.4, 0.9], [0.7, 0.2]]))
    reads = sampler.sample(problem, 20_000, generator=generator())
    angles = torch.tensor([[[0.4, 0.9], [0.7, 0.2]]])
    gamma, beta = layered(angles.double(), scaling(problem.flat()))
    law = exact_state(problem, gamma[0], beta[0]).abs().square()
    place = ((reads.spins > 0) << torch.arange(5)).sum(-1)
    counts = place.bincount(minlength=32).double()
    z = (counts - 20_000 * law) / (20_000 * law * (1 - law)).sqrt()
    assert z.abs().max() < Z_MAX
    mean = (law * problem.energy(states(5))).sum()
    torch.testing.assert_close(sampler.expected_energy(problem), mean, rtol=1e-5, atol=1e-5)


def test_it_is_a_heuristic_that_the_contract_rejects_and_gibbs_corrects():
    sampler = QAOA(depth=2)
    reads = sampler.sample(PROBLEM, 10)
    assert reads.exactness is Exactness.HEURISTIC
    assert reads.info["kit"] == "torch" and torch.equal(reads.info["angles"], ramp(2))
    with pytest.raises(ContractError, match="QAOA on 'six spins'"):
        check_sampler(sampler, cases=[Case("six spins", PROBLEM)], power=0.25)
    corrected = Corrected(sampler, Gibbs(sweeps=2))
    assert corrected.sample(PROBLEM, 4).exactness is Exactness.ASYMPTOTIC


def test_trained_angles_lower_the_mean_energy_of_each_problem():
    batch = numbered(Graph.complete(5), batch=(3,), J_batch=(3,))
    fixed = QAOA(depth=3)
    better = QAOA(depth=3, angles="trained", updates=12)
    assert (better.expected_energy(batch) < fixed.expected_energy(batch) - 0.05).all()
    angles = better.sample(batch, 2).info["angles"]
    assert angles.shape == (3, 2, 3) and not torch.equal(angles[0], angles[1])
    alone = better.sample(Ising(batch.graph, batch.h[1], batch.J[1], batch.offset[1]), 2)
    torch.testing.assert_close(alone.info["angles"], angles[1], rtol=1e-4, atol=1e-4)


def test_one_optimiser_moves_weights_and_angles():
    model = BernoulliRBM(4, 2, generator=generator())
    data = (torch.rand(16, 4, generator=generator(1)) < 0.5).float()
    angles = torch.nn.Parameter(ramp(2).float())
    sampler = QAOA(depth=2, angles=angles)
    corrected = Corrected(sampler, Gibbs(sweeps=1))
    before = angles.detach().clone()
    optimiser = torch.optim.Adam([*model.parameters(), angles], lr=0.05)
    for _ in range(3):
        samples = corrected.sample(model.ising(), 32, generator=generator())
        loss = qs.cd_loss(model, data, samples) + sampler.expected_energy(model.ising())
        optimiser.zero_grad()
        loss.backward()
        assert angles.grad is not None and bool(angles.grad.isfinite().all())
        optimiser.step()
    assert not torch.equal(angles.detach(), before)
    assert torch.equal(sampler.sample(model.ising(), 1).info["angles"], angles.detach().double())


def test_gradients_of_angles_are_differences():
    start = torch.tensor([[0.3, 0.5], [0.6, 0.2]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(QAOA(2, angles=start).expected_energy(PROBLEM), start)
    for row, column in ((0, 1), (1, 0)):
        step = torch.zeros(2, 2, dtype=torch.float64)
        step[row, column] = 0.01
        ends = [QAOA(2, angles=start.detach() + s * step).expected_energy(PROBLEM) for s in (1, -1)]
        slope = float(ends[0] - ends[1]) / 0.02
        assert float(gradient[row, column]) == pytest.approx(slope, rel=1e-2, abs=1e-2)


def test_places_of_amplitudes_in_kits():
    """Two spins (+1, -1): qubits 0 and 1, so 01 where qubit 0 is first and high, 10 where low."""
    assert int(order(2, first_is_high=True)[0b01]) == 0b01
    assert int(order(2, first_is_high=False)[0b01]) == 0b10
    assert order(3, True).sort().values.tolist() == list(range(8))


def test_gates_of_no_angle_are_left_out():
    problem = Ising.from_edges(
        torch.tensor([0.0, 1.0, 0.0]), [(0, 1), (1, 2)], torch.tensor([0.0, 2.0])
    )
    circuit = Circuit.of(problem, torch.ones(1), torch.ones(1))
    assert circuit.pairs == [(1, 2)] and circuit.couplings == [2.0] and circuit.num_qubits == 3


def test_angles_as_lists_are_angles():
    """As `--set depth=2 angles=[[...],[...]]` gives them."""
    rows = [[0.4, 0.9], [0.7, 0.2]]
    drawn = [
        QAOA(2, angles=angles).sample(PROBLEM, 50, generator=generator()).spins
        for angles in (rows, tuple(map(tuple, rows)), torch.tensor(rows, dtype=torch.float64))
    ]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[1], drawn[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kit": "braket"}, "unknown kit 'braket'; expected one of torch, pennylane, qiskit, cirq"),
        ({"depth": 0}, "expected depth >= 1; got 0"),
        ({"angles": "fixed"}, "unknown angles 'fixed'; expected ramp, trained, or a tensor"),
        ({"angles": torch.zeros(2, 3)}, r"angles of shape \[2, 4\], .* got \[2, 3\]"),
        ({"angles": [[0.1, 0.2]]}, r"angles of shape \[2, 4\], .* got \[1, 2\]"),
        ({"angles": [[0.1], 2]}, r"expected angles as numbers \[2, depth\]; got \[\[0.1\], 2\]"),
        ({"angles": ["x"]}, "expected angles as numbers"),
        ({"rate": 0}, "expected rate > 0; got 0"),
        ({"device": "cuda"}, "kit=\"torch\" runs where the problem lies, so device='cuda'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        QAOA(**settings)


@pytest.mark.parametrize("kit", ["torch", "pennylane"])
def test_too_many_qubits_are_refused_with_the_memory_they_take(kit):
    problem = Ising(Graph.sparse(32, []), torch.zeros(32), torch.zeros(0))
    message = rf"QAOA\(kit='{kit}'\) simulates .* 2\^32 amplitudes, 32 GiB per state vector"
    for call in (lambda s: s.sample(problem, 1), lambda s: s.expected_energy(problem)):
        with pytest.raises(ValueError, match=message):
            call(QAOA(kit=kit))


@pytest.mark.parametrize("kit", ["pennylane", "qiskit", "cirq"])
def test_a_kit_that_is_missing_or_old_is_named_with_its_extra(kit, monkeypatch):
    distribution, oldest = kits.OLDEST[kit]
    monkeypatch.setitem(sys.modules, kit, None)
    monkeypatch.delitem(sys.modules, f"qsample.annealers.gate.on_{kit}", raising=False)

    def asked(version):
        monkeypatch.setattr(kits, "version", version)
        with pytest.raises(ImportError) as error:
            QAOA(kit=kit).sample(PROBLEM, 2)
        text = str(error.value)
        assert text.startswith(f"QAOA(kit='{kit}'): ") and "\n" not in text
        assert text.count("brings it") == text.count("QAOA(") == 1
        assert text.endswith(f'pip install "qsample-torch[{kit}]" brings it')
        return text

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    assert kit in asked(missing)
    wanted = ".".join(map(str, oldest))
    assert f"expected {distribution} >= {wanted}; got 0.30.1" in asked(lambda name: "0.30.1")
