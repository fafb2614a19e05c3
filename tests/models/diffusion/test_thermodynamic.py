"""The denoising thermodynamic model against enumeration: gradients, penalty, posterior, chain."""

import pytest
import torch
from scipy.stats import chi2

from qsample import Exactness, Graph, Samples
from qsample.annealers import Exact, Gibbs
from qsample.diffusion import log_times
from qsample.models import DenoisingThermodynamicModel, denoising_loss
from qsample.models.diffusion.thermodynamic_loss import step_loss
from qsample.models.diffusion.thermodynamic_moments import Reads, pair_sums
from qsample.problem.enumeration import log_weights, states
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import untyped
from tests.support.models import Law, randomise
from tests.support.seeds import generator
from tests.support.thinning import thinned

GRAPHS = {
    "latent spins coupled": Graph.complete(5),
    "latent spins apart": Graph.sparse(5, [(0, 3), (1, 3), (1, 4), (2, 4), (0, 4), (1, 2)]),
}
graphs = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
VISIBLE = (2, 0, 1)  # bit i is not spin i


def tiny(
    graph=GRAPHS["latent spins coupled"], steps=2, visible=VISIBLE, seed=0, scale=0.6, **settings
):
    model = DenoisingThermodynamicModel(graph, len(visible), steps, visible=visible, **settings)
    return randomise(model, seed, scale)


def law_of(bits=3, seed=3):
    """A law of x_0 over `states(bits)`."""
    return (
        torch.randn(1 << bits, generator=generator(seed), dtype=torch.float64).mul(1.2).softmax(0)
    )


def transition(process, k, start, bits):
    """Q[x, y] of all bits, from their single ones."""
    x, whole = (states(bits) > 0).long(), torch.ones(1 << bits, 1 << bits, dtype=torch.float64)
    kernel = process.kernel(k, start)
    for i in range(bits):
        whole = whole * kernel[i][x[:, None, i], x[None, :, i]]
    return whole


def pairs_law(model, q, k):
    """q(x_{k-1}, x_k), `[2^v, 2^v]`."""
    v = len(model.sites)
    return (q @ transition(model.process, k - 1, 0, v))[:, None] * transition(
        model.process, k, k - 1, v
    )


def joint_law(model, k):
    """log P(s | x_k) of all spins, `[2^v, 2^n]`, written out anew from h, J and w."""
    machine, v = model.machine(k), len(model.sites)
    s, x = states(model.graph.num_spins).double(), states(v).double()
    i, j = model.graph.edges
    energy = s @ machine.h + (s[:, i] * s[:, j]) @ machine.J
    w = -0.5 * torch.log(torch.tanh(model.process.rate_dt(k) / 2))
    energy = energy - (x * w) @ s[:, model.sites].T
    return (-energy).log_softmax(1)


def reverse_law(model, k):
    """log P_k(x_{k-1} | x_k), `[2^v of x_k, 2^v of x_{k-1}]`."""
    v = len(model.sites)
    number = ((states(model.graph.num_spins)[:, model.sites] > 0).long() << torch.arange(v)).sum(1)
    log_p = joint_law(model, k)
    return torch.stack([log_p[:, number == x].logsumexp(1) for x in range(1 << v)], 1)


def bound(model, q):
    """sum_k E_q[-log P_k(x_{k-1} | x_k)], exact; differentiable."""
    return -sum(
        (pairs_law(model, q, k).T * reverse_law(model, k)).sum() for k in range(1, model.steps + 1)
    )


def exact_loss(model, q, penalty=0.0, sampler=None, steps=(1, 2)):
    """The library's loss with every pair (x_{k-1}, x_k) as a row, weighted by its probability."""
    v = len(model.sites)
    rows = states(v)
    before, after = rows.repeat_interleave(1 << v, 0), rows.repeat(1 << v, 1)
    return sum(
        step_loss(
            model,
            k,
            before,
            after,
            sampler or Law(),
            weight=pairs_law(model, q, k).flatten(),
            penalty=penalty,
        )
        for k in steps
    )


def gradient(model, loss):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


# ---- the gradient ----------------


@graphs
def test_the_gradient_is_that_of_the_bound(graph):
    """Of every parameter: central differences of the exact bound, and autograd of it."""
    model, q, step = tiny(graph), law_of(), 1e-5
    found, slopes = gradient(model, exact_loss(model, q)), []
    with torch.no_grad():
        for p in model.parameters():
            for at in range(p.numel()):
                value, ends = float(p.view(-1)[at]), []
                for sign in (1, -1):
                    p.view(-1)[at] = value + sign * step
                    ends.append(float(bound(model, q)))
                p.view(-1)[at] = value
                slopes.append((ends[0] - ends[1]) / (2 * step))
    assert len(slopes) == 2 * (5 + graph.num_edges)
    torch.testing.assert_close(found, torch.tensor(slopes, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(found, gradient(model, bound(model, q)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", thinned(GRAPHS, 2))
@pytest.mark.parametrize("sampler", thinned([Exact(), Gibbs(sweeps=60)], 2), ids=["exact", "Gibbs"])
def test_the_sampled_gradient_has_the_exact_mean(name, sampler):
    """Every parameter within 4 standard errors, the penalty of each step included."""
    model, q, batches, rows = tiny(GRAPHS[name]), law_of(), 100, 100
    model.penalty.copy_(torch.tensor([0.3, 0.7]))
    g = generator(5)
    drawn = []
    for _ in range(batches):
        x = states(3)[torch.multinomial(q, rows, replacement=True, generator=g)]
        drawn.append(gradient(model, denoising_loss(model, x, sampler, chains=3, generator=g)))
    drawn = torch.stack(drawn)
    penalties = sum(float(model.penalty[k - 1]) * total_correlation(model, q, k) for k in (1, 2))
    exact = gradient(model, bound(model, q) + penalties)
    z = (drawn.mean(0) - exact) / (drawn.std(0) / batches**0.5)
    assert z.abs().max() < 4
    assert z.abs().max() > 0.5  # and not because the error is overstated


def test_only_the_chosen_steps_learn():
    model = tiny()
    x = states(3)
    denoising_loss(model, x, Law(), steps=[2]).backward()
    first, second = (model.machine(k).J.grad for k in (1, 2))
    assert first is None and second is not None and second.abs().sum() > 0


# ---- the penalty ----------------


def spin_moments(model, k):
    """<s_i> `[2^v, n]` and <s_i s_j> `[2^v, edges]` given each x_k."""
    p, s = joint_law(model, k).exp(), states(model.graph.num_spins).double()
    i, j = model.graph.edges
    return p @ s, p @ (s[:, i] * s[:, j])


def total_correlation(model, q, k, held=True):
    """E_{x_k} KL(prod_i P(s_i | x_k) || P(s | x_k)); `held`: the factorised law is a constant."""
    log_p, s = joint_law(model, k), states(model.graph.num_spins).double()
    mean = spin_moments(model, k)[0]
    log_f = ((1 + s * mean[:, None]) / 2).log().sum(-1)
    log_f = log_f.detach() if held else log_f
    return pairs_law(model, q, k).sum(0) @ (log_f.exp() * (log_f - log_p)).sum(1)


class AllPairs:
    """Two reads of every problem: over n^2 copies of a problem, all pairs of states in turn."""

    warm_start = False
    reversible = False

    def sample(self, problem, num, *, initial=None, generator=None):
        s = states(problem.num_spins)
        both = torch.stack([s.repeat_interleave(len(s), 0), s.repeat(len(s), 1)], 1)
        spins = both.repeat(problem.batch_shape[0] // len(both), 1, 1)
        return Samples(spins, problem.energy(spins), None, Exactness.EXACT)


@graphs
def test_the_penalty_is_the_semi_gradient_of_the_total_correlation(graph):
    """With two chains whose pairs of states are all listed, weighted by P(s) P(s')."""
    model, q, k = tiny(graph), law_of(), 1
    p = joint_law(model, k).exp().detach()
    every = (pairs_law(model, q, k).sum(0)[:, None, None] * p[:, :, None] * p[:, None, :]).flatten()
    after = states(3).repeat_interleave(p.shape[1] ** 2, 0)
    before = after  # the clamped phase is the same with and without the penalty
    how = {"weight": every, "chains": 2, "positive": Law()}

    def found(penalty):
        loss = step_loss(model, k, before, after, AllPairs(), penalty=penalty, **how)
        return torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(loss, [model.machine(k).h, model.machine(k).J])
            ]
        )

    def slopes(loss):
        return torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(loss, [model.machine(k).h, model.machine(k).J])
            ]
        )

    term, held = found(1.0) - found(0.0), slopes(total_correlation(model, q, k))
    torch.testing.assert_close(term, held, rtol=0, atol=1e-12)
    n = graph.num_spins
    assert (term[:n] == 0).all() and term[n:].abs().max() > 0.01
    # a semi-gradient: not the gradient of its own value
    full = slopes(total_correlation(model, q, k, held=False))
    assert (full - held).norm() > 0.05 * held.norm()
    mean, second = spin_moments(model, k)
    i, j = graph.edges
    share = pairs_law(model, q, k).sum(0)
    averaged_first = (share @ mean)[i] * (share @ mean)[j] - share @ second
    assert (averaged_first - held[n:]).norm() > 0.2 * held.norm()


def test_weighted_reads_count_by_their_weight_in_the_penalty():
    """The product of means from different reads, r != r', written out."""
    g, graph = generator(), Graph.complete(4)
    spins = torch.randn(3, 5, 4, generator=g, dtype=torch.float64)
    weight = torch.rand(3, 5, generator=g, dtype=torch.float64)
    weight, share = (
        weight / weight.sum(1, keepdim=True),
        torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    )
    i, j = graph.edges
    expected = torch.zeros(6, dtype=torch.float64)
    for p in range(3):
        s, w = spins[p], weight[p]
        different = [(r, t) for r in range(5) for t in range(5) if r != t]
        total = sum(w[r] * w[t] * s[r, i] * s[t, j] for r, t in different)
        expected += share[p] * total / sum(w[r] * w[t] for r, t in different)
    torch.testing.assert_close(
        Reads(spins, weight, share).products(graph), expected, rtol=0, atol=1e-12
    )


def test_pair_sums_of_large_and_small_graphs():
    """Few spins go by one product, many edge by edge."""
    for n in (4, 300):
        graph = Graph.sparse(n, [(0, 3), (2, 1), (1, 3)])
        rows = torch.randn(7, n, generator=generator(), dtype=torch.float64)
        w = torch.rand(7, generator=generator(1), dtype=torch.float64)
        expected = [(w * rows[:, a] * rows[:, b]).sum() for a, b in ((0, 3), (1, 2), (1, 3))]
        torch.testing.assert_close(
            pair_sums(graph, rows, w), torch.stack(expected), rtol=0, atol=1e-12
        )
    assert pair_sums(Graph.sparse(3, []), rows[:, :3], w).shape == (0,)


# ---- posterior and chain ----------------


def posterior(model, q, k):
    """q(x_{k-1} | x_k), `[2^v of x_k, 2^v]`."""
    both = pairs_law(model, q, k).T
    return both / both.sum(1, keepdim=True)


def oracle(q, steps, times=None):
    """Two visible spins and none latent: a machine holds any law, and this one the noised law."""
    model = DenoisingThermodynamicModel(
        Graph.complete(2), 2, steps, visible=[1, 0], times=times
    ).double()
    x = states(2).double()
    with torch.no_grad():
        for k in range(1, steps + 1):
            log_q = (q @ transition(model.process, k - 1, 0, 2)).log()
            model.machine(k).h.copy_(-(log_q @ x / 4)[[1, 0]])
            model.machine(k).J.copy_(-(log_q @ (x[:, 0] * x[:, 1]) / 4)[None])
    return model


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_true_marginals_make_true_posteriors(steps):
    q = law_of(2)
    model = oracle(q, steps)
    for k in range(1, steps + 1):
        torch.testing.assert_close(
            reverse_law(model, k).exp(), posterior(model, q, k), rtol=0, atol=1e-12
        )


@graphs
def test_true_marginals_make_true_posteriors_with_latent_spins(graph):
    """The data are the machine's own marginal: step 1 is the Bayes posterior, as `ising` says."""
    model = tiny(graph, steps=3)
    s, v = states(5), 3
    number = ((s[:, model.sites] > 0).long() << torch.arange(v)).sum(1)
    weights = log_weights(model.machine(1).ising()).exp()
    q = torch.stack([weights[number == x].sum() for x in range(8)])
    q = q / q.sum()
    torch.testing.assert_close(
        reverse_law(model, 1).exp(), posterior(model, q, 1), rtol=0, atol=1e-12
    )
    for k in (1, 2, 3):
        law = log_weights(model.ising(k, states(v))).log_softmax(-1)
        torch.testing.assert_close(law, joint_law(model, k), rtol=0, atol=1e-12)


def chain_law(model):
    """p(x_0): uniform x_T pushed through all reverse conditionals."""
    p = torch.full((1 << len(model.sites),), 0.5 ** len(model.sites), dtype=torch.float64)
    for k in range(model.steps, 0, -1):
        p = p @ reverse_law(model, k).exp()
    return p


def divergence(q, p):
    return float((q * (q / p).log()).sum())


def test_the_oracle_chain_is_as_good_as_its_start():
    q = law_of(2)
    for times in (torch.tensor([0.0, 0.4, 1.0]), torch.tensor([0.0, 0.1, 0.3, 0.6, 2.0])):
        model = oracle(q, len(times) - 1, times)
        last = q @ transition(model.process, model.steps, 0, 2)
        start = divergence(last, torch.full((4,), 0.25, dtype=torch.float64))
        assert 1e-6 < divergence(q, chain_law(model).detach()) <= start
    for steps in (1, 2, 5):  # the last time is infinite: w = 0
        assert abs(divergence(q, chain_law(oracle(q, steps)).detach())) < 1e-12


@pytest.mark.long
def test_a_trained_chain_lowers_the_exact_likelihood_and_sample_draws_from_it():
    q, g = law_of(), generator(1)
    model = tiny(scale=0.1)
    before = divergence(q, chain_law(model).detach())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        x = states(3)[torch.multinomial(q, 100, replacement=True, generator=g)]
        optimizer.zero_grad()
        denoising_loss(model, x, Exact(), generator=g).backward()
        optimizer.step()
    p = chain_law(model).detach()
    assert divergence(q, p) < before / 5
    assert_law(model.sample(Exact(), 20_000, generator=g), p)
    assert_law(model.sample(Gibbs(sweeps=100), 20_000, generator=g), p)


def assert_law(x, p):
    """A G-test of rows against the probabilities of all rows; cells of fewer than 5 go together."""
    seen = ((x > 0).long() << torch.arange(x.shape[1])).sum(1).bincount(minlength=len(p)).double()
    expected = p * len(x)
    rare = expected < 5
    if rare.any():
        seen, expected = (torch.cat([v[~rare], v[rare].sum()[None]]) for v in (seen, expected))
    G = 2 * torch.xlogy(seen, seen / expected).sum()
    assert chi2.sf(float(G), len(seen) - 1) > FALSE_ALARM / 10


@pytest.mark.parametrize("labels", [None, 1])
def test_a_step_has_the_conditional_law(labels):
    """Gibbs on one condition, label bits free or clamped."""
    model = labelled()
    num, after = 20_000, torch.tensor([[1, -1, -1, 1]], dtype=torch.int8)
    given = None if labels is None else torch.full((num,), labels)
    x = model.step(Gibbs(sweeps=60), after.expand(num, -1), 1, given, generator=generator(2))
    p = reverse_law(model, 1).exp().detach()[((after > 0).long() << torch.arange(4)).sum()]
    if labels is None:
        return assert_law(x, p)
    assert (x[:, 2:] == torch.tensor([-1, 1])).all()
    p = p.reshape(2, 2, 4)[1, 0]  # bit 3 up, bit 2 down; bits 1 and 0
    return assert_law(x[:, :2], p / p.sum())


def labelled():
    """Two bits, two label bits, two latent spins."""
    model = DenoisingThermodynamicModel(Graph.complete(6), 2, 2, classes=2, visible=[4, 1, 3, 0])
    return randomise(model, 0, 0.5)


def test_the_last_times_are_infinite():
    assert tiny().process.times.tolist() == log_times(2).tolist()
    with untyped(), pytest.raises(ValueError, match="expected steps >= 1; got 0"):
        tiny(steps=0)


def test_g_test_of_a_step_against_its_problem():
    """The free phase is the problem `ising`: the suite's own test, on latent spins too."""
    model = tiny()
    problem = model.ising(2, states(3)[5:6]).detach()
    samples = Gibbs(sweeps=60).sample(problem, 20_000, generator=generator())
    assert g_test(problem, samples)[0][0] > FALSE_ALARM / 10
