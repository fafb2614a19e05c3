"""Sums over edges a block at a time: the same numbers as all at once, alone and in a batch."""

import pytest
import torch

from qsample import Graph, Ising
from qsample.problem import edge_products
from qsample.problem.edge_products import edge_blocks, is_plain
from tests.support.seeds import generator

N = 9
PAIRS = torch.combinations(torch.arange(N))[::2].flip(0, 1)
GRAPH = Graph.sparse(N, PAIRS)


@pytest.fixture(params=[1, 7, 1 << 17])
def block(request, monkeypatch):
    """Numbers of a block: of one edge, of several, of all."""
    monkeypatch.setattr(edge_products, "BLOCK", request.param)


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=generator(len(shape)), dtype=dtype)


def dense_field(problem, s):
    """Fields by a symmetric matrix per problem, in double precision."""
    i, j = problem.graph.pairs
    matrix = torch.zeros(*problem.J.shape[:-1], N, N, dtype=torch.float64)
    matrix[..., i, j] = problem.J.detach().double()
    return problem.h.detach().double()[..., None, :] + s.double() @ (matrix + matrix.mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shared", [(), (1,), (3, 1), (2,), (3, 2)])
@pytest.mark.parametrize("reads", [1, 5])
def test_fields_of_any_batch(block, shared, reads, dtype):
    problem = Ising(GRAPH, random(3, 2, N, dtype=dtype), random(*shared, len(PAIRS), dtype=dtype))
    s = random(3, 2, reads, N, dtype=dtype)
    field = problem.field(s)
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(field.double(), dense_field(problem, s), rtol=0, atol=tolerance * 4)
    assert torch.equal(problem.field(s[0, 0])[0, 0], field[0, 0])


@pytest.mark.parametrize("reads", [1, 2, 5])
def test_fields_are_the_same_with_a_derivative_under_a_transform_and_alone(block, reads):
    h, J = random(4, N), random(4, len(PAIRS))
    s = random(4, reads, N)
    field = Ising(GRAPH, h, J).field(s)
    assert torch.equal(Ising(GRAPH, h, J.clone().requires_grad_()).field(s), field)
    each = torch.func.vmap(lambda h, J, s: Ising(GRAPH, h, J).field(s))
    assert torch.equal(each(h, J, s), field)
    for k in range(4):
        assert torch.equal(Ising(GRAPH, h[k], J[k]).field(s[k]), field[k])
        assert torch.equal(Ising(GRAPH, h[k], J[k]).field(s[k, :1]), field[k, :1])


def test_derivatives_of_fields_are_those_of_the_matrix():
    J = random(2, len(PAIRS), dtype=torch.float64).requires_grad_()
    h = random(2, N, dtype=torch.float64).requires_grad_()
    s = random(2, 3, N, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda h, J, s: Ising(GRAPH, h, J).field(s), (h, J, s))


def test_blocks_cover_the_edges_once():
    for edges, columns in [(0, 3), (1, 1), (10, 1 << 16), (300_000, 1), (5, 1 << 20), (5, 0)]:
        blocks = edge_blocks(edges, columns)
        covered = [edge for block in blocks for edge in range(edges)[block]]
        assert covered == list(range(edges))


def test_what_may_not_be_written_in_place():
    plain = torch.ones(3)
    learned = torch.ones(3, requires_grad=True)
    assert is_plain(plain)
    assert not is_plain(plain, learned)
    with torch.no_grad():
        assert is_plain(plain, learned)
    assert not is_plain(torch.ones(3, device="meta"))
    assert not is_plain(plain, plain.bfloat16())
    inside = []
    torch.func.vmap(lambda t: inside.append(is_plain(t)) or t)(plain)
    assert inside == [False]
