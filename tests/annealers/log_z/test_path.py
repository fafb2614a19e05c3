"""The path to a problem: densities, tempered problems and exact draws, by enumeration."""

import pytest
import torch

import qsample as qs
from qsample.annealers.kernels.streams import Streams
from qsample.annealers.log_z import path as path_module
from qsample.annealers.log_z.path import Path
from qsample.problem.enumeration import states
from tests.support.exact import KINDS, a_graph, a_problem

PLACES = torch.tensor([[0.0, 0.3, 1.0]], dtype=torch.float64)


def a_path(kind):
    problem = a_problem(a_graph(kind), offset=())
    base = torch.linspace(-1, 1, problem.num_spins, dtype=torch.float64)
    return problem, Path(problem, base)


def energies(problem, path, listed):
    """E_b of the listed states at `PLACES`, `[count, 3]`."""
    s = listed.double()
    end = problem.without_offset().energy(listed)
    return (1 - PLACES) * (s @ path.base)[:, None] + PLACES * end[:, None]


@pytest.mark.parametrize("kind", KINDS)
def test_densities_sum_to_z_at_every_place(kind):
    problem, path = a_path(kind)
    listed = states(problem.num_spins)
    energy = energies(problem, path, listed)
    density = path.log_density(listed[None], PLACES)[0]
    if kind == "bipartite":  # a left state's density is the sum over its right states
        left = listed[:, : problem.graph.sizes[0]]
        for state in left.unique(dim=0):
            rows = (left == state).all(1)
            summed = (-energy[rows]).logsumexp(0)
            torch.testing.assert_close(density[rows], summed.expand(int(rows.sum()), 3))
    else:
        torch.testing.assert_close(density, -energy)
    assert path.log_z0 == pytest.approx(float((-energy[:, 0]).logsumexp(0)), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_tempered_problems_have_the_laws_of_their_places(kind):
    problem, path = a_path(kind)
    listed = states(problem.num_spins)
    b = PLACES[0, 1:]
    energy = path.tempered(b).energy(listed.expand(2, -1, -1)).T * b
    torch.testing.assert_close(energy, energies(problem, path, listed)[:, 1:])


def test_independent_draws_have_the_means_of_the_base():
    _, path = a_path("sparse")
    draws = path.independent(20_000, Streams([1], torch.device("cpu"))).double()
    error = (draws.mean(0) + path.base.tanh()) / (1 - path.base.tanh() ** 2).sqrt() * 20_000**0.5
    assert error.abs().max() < 4.5


def test_densities_of_many_couplings_are_those_of_double_precision(monkeypatch):
    """Fields in single precision: what rounding leaves is far below what a bracket tells apart."""
    generator = torch.Generator().manual_seed(0)
    graph = qs.Graph.bipartite(300, 260)
    J = torch.randn(300, 260, generator=generator, dtype=torch.float64) / 4
    h = torch.randn(560, generator=generator, dtype=torch.float64)
    problem = qs.Ising(graph, h, J)
    spins = Streams([1], torch.device("cpu")).spins(20, 560)
    quick = Path(problem, h).log_density(spins, PLACES)
    monkeypatch.setattr(path_module, "MANY", 1 << 30)
    exact = Path(problem, h).log_density(spins, PLACES)
    assert quick.dtype == torch.float64
    assert 0 < float((quick - exact).abs().max()) < 1e-4
