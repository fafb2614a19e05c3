"""The evidence bound against enumeration of all paths, and its brackets against exact sums."""

import math

import pytest
import torch
from torch import nn

from qsample import Bracket, Estimate, Graph, evidence_bound, evidence_terms
from qsample.diffusion import UniformBits, log_times
from qsample.models import BernoulliRBM, DenoisingThermodynamicModel, IsingCopula
from qsample.problem.enumeration import log_weights, states
from tests.support.exact import Z_MAX, untyped
from tests.support.models import randomise
from tests.support.seeds import generator

T = 3
RATES = torch.tensor([0.4, 1.0, 2.0, 1.3], dtype=torch.float64)
FINITE = torch.tensor([0.0, 0.3, 0.8, 1.5])  # x_T still knows x_0


class Linear(nn.Module):
    def __init__(self, n, steps):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(n, n))
        self.b = nn.Parameter(torch.zeros(steps + 1, n))

    def forward(self, x, k):
        return (x[:, None] * self.W).sum(-1) + self.b[k]


class Sites(nn.Module):
    """The exact denoiser of independent bits: log odds of x_0 given x_k, bit by bit."""

    def __init__(self, odds, process):
        super().__init__()
        self.odds = nn.Parameter(odds)
        self.process = process

    def forward(self, x, k):
        return self.odds + self.process.coupling(k, torch.zeros_like(k)) * x


def a_copula(n=4, centred=False, times=FINITE, rate: torch.Tensor | float = RATES, scale=0.7):
    process = UniformBits(times, rate)
    denoiser = Linear(n, process.steps)
    model = IsingCopula(denoiser, Graph.complete(n), process, centred=centred)
    return randomise(model, 2, scale)


def a_machine(visible=(2, 0, 1)):
    graph = Graph.complete(5)
    model = DenoisingThermodynamicModel(
        graph, len(visible), T, visible=visible, times=FINITE[: T + 1]
    )
    return randomise(model, 3, 0.6)


def reverse_laws(model):
    """log P_k(x_{k-1} | x_k), `[2^n (x_k), 2^n (x_{k-1})]`, for k = 1..T."""
    if isinstance(model, IsingCopula):
        every = states(model.graph.num_spins).double()
        problems = [model.step_problem(every, k) for k in range(1, model.process.steps + 1)]
        return [log_weights(problem).log_softmax(-1).detach() for problem in problems]
    bits = len(model.sites)
    number = ((states(model.graph.num_spins)[:, model.sites] > 0).long() << torch.arange(bits)).sum(
        -1
    )
    laws = []
    for k in range(1, model.steps + 1):
        joint = log_weights(model.ising(k, states(bits).double())).softmax(-1).detach()
        laws.append(torch.zeros(1 << bits, 1 << bits).double().index_add(1, number, joint).log())
    return laws


def forward_law(process, k, start, bits):
    """Q[x_start, x_k] over all states."""
    x = (states(bits) > 0).long()
    kernel = process.kernel(k, start).expand(bits, 2, 2)
    whole = torch.ones(1 << bits, 1 << bits, dtype=torch.float64)
    for i in range(bits):
        whole = whole * kernel[i][x[:, None, i], x[None, :, i]]
    return whole


def log_marginal(laws, bits):
    """log p(x_0) of all states, by pushing the uniform law through every step."""
    p = torch.full((1 << bits,), -bits * math.log(2), dtype=torch.float64)
    for law in reversed(laws):
        p = (p[:, None] + law).logsumexp(0)
    return p


def enumerated_bound(model, laws, bits):
    """The bound of every x_0: the sum over all x_{k-1}, x_k of what a path's log ratio adds."""
    process = model.process
    last = forward_law(process, process.steps, 0, bits)
    bound = (last * (-bits * math.log(2) - last.log())).sum(-1)
    for k, law in enumerate(laws, 1):
        before = forward_law(process, k - 1, 0, bits)  # [x_0, x_{k-1}]
        step = forward_law(process, k, k - 1, bits)  # [x_{k-1}, x_k]
        after = forward_law(process, k, 0, bits)
        pair = before[:, :, None] * step
        posterior = (pair / after[:, None]).log()
        term = pair * (law.T - posterior)
        bound += torch.where(pair > 1e-11, term, 0.0).sum((1, 2))
    return bound


MODELS = {
    "factorised": lambda: without_couplings(a_copula()),
    "copula": a_copula,
    "centred copula": lambda: a_copula(centred=True),
    "thermodynamic": a_machine,
}
models = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def without_couplings(model):
    with torch.no_grad():
        model.J.zero_()
    return model


@models
def test_the_bound_is_the_enumerated_one_and_below_the_likelihood(make):
    model = make()
    bits = model.graph.num_spins if isinstance(model, IsingCopula) else len(model.sites)
    laws = reverse_laws(model)
    expected = enumerated_bound(model, laws, bits)
    assert (expected < log_marginal(laws, bits) + 1e-9).all()
    data = states(bits).double()
    terms = evidence_terms(model, data, draws=100, generator=generator(5))
    assert terms.exact
    assert terms.low.shape == (100, 1 << bits, T + 1)
    each = terms.low.sum(-1)
    z = (each.mean(0) - expected) / (each.std(0) / 100**0.5).clamp_min(1e-9)
    assert z.abs().max() < Z_MAX
    bound = terms.bound
    assert isinstance(bound, Estimate)
    assert abs(bound.value - float(expected.mean())) < Z_MAX * bound.stderr + 1e-9


def test_an_exact_posterior_reaches_the_likelihood():
    process = UniformBits(log_times(T))
    odds = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64)
    model = IsingCopula(Sites(odds, process), Graph.sparse(3, []), process)
    data = states(3).double()
    log_p = nn.functional.logsigmoid(odds * data).sum(-1)
    laws = reverse_laws(model)
    torch.testing.assert_close(log_marginal(laws, 3), log_p, rtol=0, atol=1e-9)
    torch.testing.assert_close(enumerated_bound(model, laws, 3), log_p, rtol=0, atol=1e-9)


@pytest.mark.parametrize("centred", [False, True])
def test_a_bracket_holds_the_exact_bound_of_the_same_noise(centred):
    model = a_copula(8, centred, rate=1.0, scale=0.4)
    data = states(8)[::32].double()
    exact = evidence_terms(model, data, method="exact", generator=generator(1))
    found = evidence_terms(model, data, method="bracket", sweeps=10, generator=generator(1))
    assert isinstance(exact.bound, Estimate)
    assert isinstance(found.bound, Bracket)
    assert exact.bound.value in found.bound
    assert [side.holds for side in found.bound.sides] == ["if equilibrated", "bound"]
    for k in range(T + 1):
        value = exact.low[..., k]
        for excess in (found.low[..., k] - value, value - found.high[..., k]):
            assert excess.mean() < Z_MAX * excess.std() / excess.numel() ** 0.5 + 1e-9


def test_a_bracket_of_latent_spins_holds_the_exact_bound():
    model = a_machine()
    data = states(3).double()
    exact = evidence_bound(model, data, generator=generator(1))
    found = evidence_bound(model, data, method="bracket", sweeps=10, generator=generator(1))
    assert isinstance(found, Bracket)
    assert isinstance(exact, Estimate)
    assert exact.value in found


@pytest.mark.long  # more than a second to find the order and draw
def test_a_narrow_graph_is_exact_by_tree_decomposition():
    graph = Graph.sparse(20, [(i, i + 1) for i in range(19)])
    model = IsingCopula(Linear(20, 2), graph, UniformBits(log_times(2)))
    randomise(model, 1, 0.3)
    data = (2 * torch.randint(2, (2, 20), generator=generator(2)) - 1).double()
    exact = evidence_bound(model, data, generator=generator(3))
    found = evidence_bound(model, data, method="bracket", sweeps=10, generator=generator(3))
    assert isinstance(exact, Estimate)
    assert isinstance(found, Bracket)
    assert exact.value in found


def test_two_models_of_one_seed_see_the_same_noise():
    copula = without_couplings(a_copula())
    plain = IsingCopula(copula.denoiser, Graph.sparse(4, []), copula.process)
    data = states(4).double()
    first = evidence_terms(copula, data, generator=generator(1))
    assert torch.equal(first.low, evidence_terms(plain, data, generator=generator(1)).low)
    prior = first.step(0)
    assert isinstance(prior, Estimate)
    assert prior.value == pytest.approx(float(first.low[..., 0].mean()))


def test_what_is_refused_names_the_remedy():
    model = a_copula()
    data = states(4).double()
    with pytest.raises(ValueError, match="draws >= 2; got 1"):
        evidence_bound(model, data, draws=1)
    with pytest.raises(ValueError, match="no classes"):
        evidence_bound(model, data, torch.zeros(16, dtype=torch.int64))
    with pytest.raises(ValueError, match="0 <= k <= 3; got 4"):
        evidence_terms(model, data, generator=generator(1)).step(4)
    large = IsingCopula(Linear(20, 1), Graph.complete(20), UniformBits(log_times(1)))
    randomise(large)
    with pytest.raises(ValueError, match='method="bracket"'):
        evidence_bound(large, torch.ones(1, 20), method="exact")
    with untyped(), pytest.raises(TypeError, match="log_likelihood takes energy models"):
        evidence_bound(BernoulliRBM(4, 2), data)  # pyright: ignore[reportArgumentType]


class Sure(nn.Module):
    """A denoiser that is nearly sure of every bit."""

    def forward(self, x, k):
        return torch.full(x.shape, -4.0)


@pytest.mark.parametrize("coupling", [-0.2, -0.3])
def test_a_mode_that_couplings_make_far_from_the_fields_counts(coupling):
    """All bits turned over are likeliest; runs from the factorised step see e^14 times less."""
    process = UniformBits(log_times(1))
    model = IsingCopula(Sure(), Graph.complete(14), process, centred=True)
    with torch.no_grad():
        model.J.fill_(coupling)
    rows = -torch.ones(6, 14)
    exact = evidence_bound(model, rows, method="exact", generator=generator(1))
    found = evidence_bound(model, rows, method="bracket", generator=generator(1))
    assert isinstance(exact, Estimate) and isinstance(found, Bracket)
    assert exact.value < -10
    assert found.low <= exact.value <= found.high and found.high - found.low < 7
