"""The slices of a transverse field against exact diagonalisation, and their error as m^-2."""

import pytest
import torch

import qsample as qs
from qsample import Graph, Ising
from qsample.annealers import Gibbs
from qsample.problem.enumeration import log_partition, states
from tests.support.exact import KINDS, Z_MAX, a_graph, a_problem
from tests.support.seeds import generator


def hamiltonian(problem, gamma):
    """E(sigma_z) - gamma sum of sigma_x, `[2^n, 2^n]`; spin i is bit i of a state's number."""
    n = problem.num_spins
    number = torch.arange(1 << n)
    H = torch.diag(problem.energy(states(n)).double())
    for i in range(n):
        H[number, number ^ (1 << i)] -= gamma
    return H


def quantum(problem, gamma):
    """Log Z and the correlations <sigma_z,i sigma_z,j> by diagonalisation."""
    values, vectors = torch.linalg.eigh(hamiltonian(problem, gamma))
    law = vectors.square() @ (-values).softmax(0)  # of the diagonal of exp(-H) / Z
    s = states(problem.num_spins).double()
    return (-values).logsumexp(0), s.T @ (law[:, None] * s)


def sliced(problem, gamma, slices):
    """Log Z and the correlations of the slices, by enumeration of all of them."""
    classical = qs.transverse_field(problem, gamma, slices)
    s = states(classical.num_spins)
    law = (-classical.energy(s)).softmax(-1)
    s = s.double().unflatten(-1, (slices, problem.num_spins))
    correlations = torch.einsum("r,rki,rkj->ij", law, s, s) / slices
    return log_partition(classical), correlations


@pytest.mark.parametrize("kind", KINDS)
def test_one_and_two_slices_are_the_trace_of_the_products(kind):
    """Term by term: the trace of (exp(-E/m) exp(gamma X/m))^m, whatever m."""
    problem = a_problem(a_graph(kind), scale=0.6)
    E = problem.energy(states(5))
    X = -(hamiltonian(problem, 1.0) - torch.diag(E))
    for slices in (1, 2, 3):
        step = torch.diag((-E / slices).exp()) @ torch.linalg.matrix_exp(0.8 / slices * X)
        trace = torch.linalg.matrix_power(step, slices).trace().log()
        torch.testing.assert_close(sliced(problem, 0.8, slices)[0], trace)


def transfer(problem, gamma, slices):
    """Log Z and correlations of any number of slices, by the power of one slice's matrix."""
    E = problem.energy(states(problem.num_spins))
    X = torch.diag(E) - hamiltonian(problem, gamma)
    half = torch.diag((-E / (2 * slices)).exp())
    step = half @ torch.linalg.matrix_exp(X / slices) @ half
    power = torch.linalg.matrix_power(step, slices)
    s = states(problem.num_spins).double()
    law = power.diagonal() / power.trace()
    return power.trace().log(), s.T @ (law[:, None] * s)


def test_the_transfer_matrix_is_the_sliced_problem():
    problem = a_problem(Graph.complete(4), scale=0.6)
    for ours, theirs in zip(sliced(problem, 0.9, 4), transfer(problem, 0.9, 4), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_error_falls_as_the_square_of_the_slices():
    """Eight spins against exact diagonalisation."""
    problem = a_problem(Graph.complete(8), scale=0.5)
    log_z, correlations = quantum(problem, 1.2)
    errors = []
    for slices in (8, 16, 32, 64):
        found = transfer(problem, 1.2, slices)
        errors.append((float((found[0] - log_z).abs()), float((found[1] - correlations).norm())))
    for coarse, fine in zip(errors, errors[1:], strict=False):
        for k in range(2):
            assert coarse[k] / fine[k] == pytest.approx(4, rel=0.05)
    assert errors[-1][0] < 1e-2 and errors[-1][1] < 1e-2


def test_samplers_take_it():
    """Reads of a chain of slices have the correlations of the quantum problem, slices enough."""
    problem = a_problem(Graph.complete(3), scale=0.5)
    slices = 8
    classical = qs.transverse_field(problem, 1.0, slices)
    assert classical.graph is qs.transverse_field(problem, 0.3, slices).graph
    reads = Gibbs(sweeps=60).sample(classical, 4000, generator=generator())
    s = reads.spins.unflatten(-1, (slices, 3)).double()
    values = (s[..., 0] * s[..., 1]).mean(-1)
    exact = transfer(problem, 1.0, slices)[1][0, 1]
    assert abs(float((values.mean() - exact) / (values.std() / 4000**0.5))) < Z_MAX
    assert abs(float(exact - quantum(problem, 1.0)[1][0, 1])) < 0.01


def test_batches_labels_and_gradients():
    graph = Graph.sparse(3, [(0, 1), (1, 2)], ["a", "b", "c"])
    h = torch.randn(2, 3, generator=generator(), dtype=torch.float64)
    J = torch.tensor([0.5, -0.4], dtype=torch.float64)
    gamma = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    batch = qs.transverse_field(Ising(graph, h, J), gamma, 3)
    assert batch.batch_shape == (2,) and batch.num_spins == 9
    assert batch.graph.labels[4] == (1, "b")
    for k in range(2):
        alone = qs.transverse_field(Ising(graph, h[k], J), float(gamma[k].detach()), 3)
        torch.testing.assert_close(log_partition(batch)[k], log_partition(alone))
    log_partition(batch).sum().backward()
    higher = qs.transverse_field(Ising(graph, h, J), gamma.detach() + 1e-4, 3)
    lower = qs.transverse_field(Ising(graph, h, J), gamma.detach() - 1e-4, 3)
    slope = (log_partition(higher) - log_partition(lower)) / 2e-4
    torch.testing.assert_close(gamma.grad, slope)
    shared = qs.transverse_field(Ising(graph, h, J), 0.7, 3)
    assert shared.J.shape == (9 + 6,)  # not expanded


def test_extreme_fields_stay_finite():
    problem = Ising(Graph.sparse(1, []), torch.zeros(1), torch.zeros(0))
    for gamma, expected in ((500.0, 500.0), (1e-6, 0.6931472)):
        log_z = log_partition(qs.transverse_field(problem, gamma, 2))
        assert float(log_z) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("gamma", "slices", "error", "message"),
    [
        (0.0, 4, ValueError, "expected gamma > 0 and finite; got 0: without a transverse field"),
        (-1.0, 4, ValueError, "got -1"),
        (float("nan"), 4, ValueError, "got nan"),
        (torch.ones(3), 4, ValueError, r"gamma of shape \[3\] does not broadcast .* \[2\]"),
        ("1", 4, TypeError, "gamma as a number or a tensor .* got str"),
        (1.0, 0, ValueError, "expected slices >= 1; got 0"),
    ],
)
def test_bad_requests_are_refused(gamma, slices, error, message):
    problem = a_problem(a_graph("complete"), h=(2,))
    with pytest.raises(error, match=message):
        qs.transverse_field(problem, gamma, slices)
    with pytest.raises(TypeError, match="expected an Ising problem"):
        qs.transverse_field("problem", 1.0, 2)  # pyright: ignore[reportArgumentType]
