"""One reverse step: couplings of features, and reads kept by their weights."""

import pytest
import torch

from qsample import Exactness, Graph, Ising, ReliabilityWarning, Samples
from qsample.annealers import AnnealedImportance, Exact
from qsample.diffusion.reverse_step import (
    Denoised,
    by_gumbel_weight,
    by_inverse_weight,
    draw,
    draw_near,
    feature_couplings,
    pulling_couplings,
)
from qsample.problem import edge_products
from qsample.sampling.random import Draws
from tests.support.exact import Z_MAX, a_problem

GRAPH = Graph.sparse(4, [(0, 3), (1, 2), (2, 0)])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_features_on_either_axis_are_the_same_couplings():
    u = torch.randn(3, 4, 2, generator=generator(), dtype=torch.float64)
    coupling = feature_couplings(u, GRAPH, sites=1)
    torch.testing.assert_close(feature_couplings(u.mT, GRAPH, sites=2), coupling)
    for edge, (i, j) in enumerate(GRAPH.edges.T.tolist()):
        torch.testing.assert_close(coupling[:, edge], -(u[:, i] * u[:, j]).sum(1) / 2)
    # with a gradient, without one, and row by row: the same numbers
    learned = u.clone().requires_grad_()
    assert torch.equal(feature_couplings(learned, GRAPH, sites=1), coupling)
    assert torch.autograd.gradcheck(lambda v: feature_couplings(v, GRAPH, sites=1), learned)
    each = torch.func.vmap(lambda v: feature_couplings(v[None], GRAPH, sites=1)[0])
    assert torch.equal(each(u), coupling)
    assert not feature_couplings(u[..., :0], GRAPH, sites=1).any()
    logits = torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(Denoised(logits).mean, 2 * logits.sigmoid() - 1)


@pytest.mark.parametrize("shared", [(), (3,)])
@pytest.mark.parametrize("block", [1, 7, 1 << 17])
def test_couplings_of_features_beside_shared_ones(monkeypatch, block, shared):
    """Block by block, with a gradient, and by their formula."""
    monkeypatch.setattr(edge_products, "BLOCK", block)
    u = torch.randn(3, 4, 2, generator=generator())
    own = torch.randn(*shared, GRAPH.num_edges, generator=generator(1))
    coupling = feature_couplings(u, GRAPH, sites=1, shared=own)
    i, j = GRAPH.edges
    expected = own.double() - (u[:, i] * u[:, j]).double().sum(-1) / 2
    torch.testing.assert_close(coupling.double(), expected, rtol=0, atol=1e-6)
    assert coupling.is_contiguous()
    for parts in [(u.clone().requires_grad_(), own), (u, own.clone().requires_grad_())]:
        assert torch.equal(feature_couplings(parts[0], GRAPH, 1, shared=parts[1]), coupling)
    wide = feature_couplings(u, GRAPH, sites=1, shared=own.double())
    assert wide.dtype == torch.float64
    mean = torch.randn(3, 4, generator=generator(2)).tanh()
    again, pull = pulling_couplings(u, GRAPH, own, mean)
    assert torch.equal(again, coupling)
    assert pull is not None
    fields = Ising(GRAPH, torch.zeros(3, 4), coupling).field(mean[:, None])
    assert torch.equal(pull, fields[:, 0])
    assert pulling_couplings(u, GRAPH, own.requires_grad_(), mean)[1] is None  # a slope needs it
    exact = (u.double().requires_grad_(), own.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda v, J: feature_couplings(v, GRAPH, 1, shared=J), exact)


@pytest.mark.parametrize(
    "choose",
    [
        lambda num: by_inverse_weight(Draws(range(num), torch.device("cpu"))),
        lambda num: by_gumbel_weight(generator()),
    ],
)
def test_a_read_is_kept_by_its_weight(choose):
    num, p = 20_000, torch.tensor([0.1, 0.2, 0.0, 0.7], dtype=torch.float64)
    spins = torch.ones(num, 4, 3, dtype=torch.int8)
    log_weight = p.log().expand(num, 4) + torch.randn(num, 1, generator=generator())
    kept = choose(num)(Samples(spins, torch.zeros(num, 4), log_weight))
    assert kept.shape == (num, 1)
    share = kept.flatten().bincount(minlength=4) / num
    assert share[2] == 0
    z = (share - p) / (p * (1 - p) / num).sqrt().clamp_min(1e-9)
    assert z.abs().max() < Z_MAX


def test_without_weights_the_first_read_is_kept():
    problem = a_problem(GRAPH, h=(5,))
    reads = Exact().sample(problem, 3, generator=generator())
    for choose in (None, by_gumbel_weight(None)):
        samples = draw(problem, Exact(), 3, choose=choose, generator=generator())
        assert torch.equal(samples.spins, reads.spins[:, :1])
        assert torch.equal(samples.energy, reads.energy[:, :1])
        assert samples.exactness is reads.exactness


@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of the annealing itself
def test_one_read_of_a_sampler_of_weights_is_a_doubtful_one():
    problem, sampler = a_problem(GRAPH, h=(5,)), AnnealedImportance(2)
    with pytest.warns(ReliabilityWarning, match="AnnealedImportance have weights.*as Gibbs"):
        assert draw(problem, sampler).exactness is Exactness.HEURISTIC
    draws = Draws(range(5), problem.device)
    with pytest.warns(ReliabilityWarning, match="one read alone.*such as reads=16"):
        draw_near(problem, draws, lambda: sampler)
    many = draw_near(problem, draws, lambda: sampler, 16)
    assert many.spins.shape == (5, 1, problem.num_spins)
    assert many.exactness is Exactness.ASYMPTOTIC
