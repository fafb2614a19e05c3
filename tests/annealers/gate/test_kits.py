"""The kits as witnesses: one unitary for all, one law, gradients by the adjoint; skipped without.

make test-gate        # installs the kits beside qsample and runs this folder
"""

import pytest
import torch

import qsample as qs
from qsample import Exactness, Graph, Ising
from qsample.annealers import QAOA, Corrected, Gibbs, QuantumProposal
from qsample.annealers.gate.ansatz import Circuit, ramp
from qsample.annealers.gate.kits import kit_backend
from qsample.annealers.gate.proposal import scaling
from qsample.annealers.gate.sampler import layered
from qsample.annealers.gate.statevector import basis, cumulated, energies, evolved, uniform
from qsample.models import BernoulliRBM
from tests.support.exact import Z_MAX, a_graph, a_problem
from tests.support.problems import numbered
from tests.support.seeds import generator

# kits warn of what will change in their own parts
pytestmark = pytest.mark.filterwarnings("ignore")
KITS = ["pennylane", "qiskit", "cirq"]


@pytest.fixture(params=KITS)
def kit(request):
    pytest.importorskip(request.param)
    return request.param


def ours(problem, gamma, beta):
    """The matrix of a circuit's layers by our state vectors."""
    n = problem.num_spins
    start = basis(torch.arange(1 << n)[None], n)
    state = evolved(start, energies(problem.flat()), gamma, beta)
    return torch.complex(*state.double())[0]


@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_every_kit_has_our_unitary(kit, kind):
    problem = a_problem(a_graph(kind))
    scale = scaling(problem.flat())
    circuits = {
        "qaoa": layered(ramp(3)[None], scale),
        **{
            shape: QuantumProposal(ramp=shape, layers=4).angles(
                torch.tensor([[0.3, 0.6]], dtype=torch.float64), scale
            )
            for shape in ("symmetric", "quench")
        },
    }
    for name, (gamma, beta) in circuits.items():
        theirs = kit_backend(kit).unitary(Circuit.of(problem, gamma[0], beta[0]))
        # ours is in single precision: 1e-6 per entry
        error = (theirs - ours(problem, gamma, beta)).abs().max()
        assert float(error) < 1e-6, name
        if name != "qaoa":
            torch.testing.assert_close(theirs, theirs.mT, atol=1e-12, rtol=0)


def test_every_kit_draws_the_law_of_the_circuit(kit):
    """Six spins whose order matters: no bit is swapped for another."""
    problem = numbered(Graph.complete(6))
    sampler = QAOA(2, kit=kit)
    reads = sampler.sample(problem, 4000, generator=generator())
    assert reads.exactness is Exactness.HEURISTIC and reads.info["kit"] == kit
    gamma, beta = layered(ramp(2)[None], scaling(problem.flat()))
    start = uniform(1, 6, torch.device("cpu"))
    total = cumulated(evolved(start, energies(problem.flat()), gamma, beta))[0, :, 0]
    law = total.diff(prepend=torch.zeros(1, dtype=torch.float64))
    place = ((reads.spins > 0) << torch.arange(6)).sum(-1)
    z = (place.bincount(minlength=64) - 4000 * law) / (4000 * law * (1 - law)).sqrt()
    likely = 4000 * law >= 5
    assert z[likely].abs().max() < Z_MAX
    torch.testing.assert_close(reads.energy, problem.energy(reads.spins))


def test_the_generator_decides(kit):
    problem = numbered(Graph.complete(5), batch=(2,))
    sampler = QAOA(1, kit=kit)
    first = sampler.sample(problem, 16, generator=generator(1)).spins
    assert torch.equal(first, sampler.sample(problem, 16, generator=generator(1)).spins)
    assert not torch.equal(first, sampler.sample(problem, 16, generator=generator(2)).spins)
    alone = Ising(problem.graph, problem.h[0], problem.J, problem.offset[0])
    assert torch.equal(first[0], sampler.sample(alone, 16, generator=generator(1)).spins)
    assert sampler.sample(alone, 1).spins.shape == (1, 5)


def test_it_trains_a_model_corrected(kit):
    model = BernoulliRBM(3, 2, generator=generator())
    data = (torch.rand(8, 3, generator=generator(1)) < 0.5).float()
    sampler = Corrected(QAOA(1, kit=kit), Gibbs(sweeps=2))
    samples = sampler.sample(model.ising(), 16, generator=generator())
    assert samples.exactness is Exactness.ASYMPTOTIC
    qs.cd_loss(model, data, samples).backward()
    assert model.W.grad is not None and bool(model.W.grad.isfinite().all())


def test_pennylanes_adjoint_gradient_is_torchs():
    pytest.importorskip("pennylane")
    problem = a_problem(a_graph("complete"))
    results = []
    for kit in ("torch", "pennylane"):
        angles = ramp(2).requires_grad_()
        mean = QAOA(2, kit=kit, angles=angles).expected_energy(problem)
        (gradient,) = torch.autograd.grad(mean, angles)
        results.append((mean.detach(), gradient))
    for torchs, pennylanes in zip(*results, strict=True):
        torch.testing.assert_close(torchs, pennylanes, rtol=1e-4, atol=1e-4)


def test_pennylane_trains_angles():
    pytest.importorskip("pennylane")
    problem = numbered(Graph.complete(4))
    better = QAOA(2, kit="pennylane", angles="trained", updates=8)
    assert better.expected_energy(problem) < QAOA(2).expected_energy(problem) - 0.05


def test_devices_with_noise_are_handed_in():
    """A device that loses all phases leaves coins; the noiseless one does not."""
    problem = Ising(Graph.complete(2), torch.zeros(2), torch.tensor([[0.0, -1.0], [-1.0, 0.0]]))
    clean = QAOA(1).sample(problem, 2000, generator=generator()).energy.mean()
    assert clean < -0.5
    noisy = noisy_devices(problem.num_spins)
    if not noisy:
        pytest.skip("no kit is installed")
    for kit, device in noisy.items():
        energy = QAOA(1, kit=kit, device=device).sample(problem, 2000).energy.mean()
        assert abs(float(energy)) < 5 / 2000**0.5, kit


def noisy_devices(n):
    """Devices of each installed kit under full depolarisation."""
    devices = {}
    try:
        import cirq  # pyright: ignore[reportMissingImports]

        noise = cirq.ConstantQubitNoiseModel(cirq.depolarize(0.75))
        devices["cirq"] = cirq.DensityMatrixSimulator(noise=noise, seed=1)
    except ImportError:
        pass
    try:
        from qiskit_aer import AerSimulator  # pyright: ignore[reportMissingImports]
        from qiskit_aer.noise import (  # pyright: ignore[reportMissingImports]
            NoiseModel,
            depolarizing_error,
        )

        model = NoiseModel()
        model.add_all_qubit_quantum_error(depolarizing_error(1.0, 1), ["h", "rx", "sx", "rz"])
        devices["qiskit"] = AerSimulator(noise_model=model)
    except ImportError:
        pass
    return devices
