"""The forward process against enumeration: coupling, composition, noise, posteriors."""

import itertools
import math

import pytest
import torch

from qsample import Graph, Ising
from qsample.diffusion import Uniform, UniformBits, cosine_times, log_times
from qsample.diffusion.process import coupling
from tests.support.exact import Z_MAX, a_graph, a_problem, all_states, slow_law, untyped
from tests.support.seeds import generator

RATES = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def states(n):
    return torch.tensor(all_states(n), dtype=torch.float64)


# ---- the coupling ----------------


@pytest.mark.parametrize("u", [1e-6, 0.01, 0.2, 1.0, 3.0, 30.0])
def test_the_coupling_is_the_kernel(u):
    a, w = math.exp(-u), float(coupling(u)) / 2
    assert w == pytest.approx(-0.5 * math.log(math.tanh(u / 2)), rel=1e-9)
    assert 1 / (1 + math.exp(-2 * w)) == pytest.approx((1 + a) / 2, abs=1e-15)
    for M in (2, 3, 7):
        gamma = float(coupling(u, M))
        assert gamma == pytest.approx(math.log((1 + (M - 1) * a) / -math.expm1(-u)), abs=1e-12)
        keep = math.exp(gamma) / (math.exp(gamma) + M - 1)
        assert keep == pytest.approx(a + (1 - a) / M, abs=1e-15)


def test_the_coupling_is_finite_at_both_ends():
    assert float(coupling(math.inf)) == 0 and float(coupling(math.inf, 5)) == 0
    assert 14 < float(coupling(0.0)) / 2 < 15
    forward = UniformBits(log_times(4))
    assert float(forward.coupling(4)) == 0  # t_4 is infinite
    assert float(forward.coupling(3, 3)) == float(coupling(0.0))


@pytest.mark.parametrize(
    "forward", [Uniform(log_times(5), states=3), Uniform(cosine_times(5), RATES, 4)]
)
def test_kernels_compose(forward):
    whole = torch.eye(forward.states, dtype=torch.float64)
    for k in range(1, forward.steps + 1):
        whole = whole @ forward.kernel(k)
        close(whole, forward.kernel(k, 0))
        close(whole.sum(-1), torch.ones_like(whole.sum(-1)))
    logits = forward.coupling(2)[..., None, None] * torch.eye(forward.states)
    close(logits.softmax(-1), forward.kernel(2))


def test_schedules():
    close((-log_times(4)).exp(), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64))
    times = cosine_times(6)
    assert times[0] == 0 and times[-1] == math.inf and (times.diff() > 0).all()
    f = [math.cos((k / 6 + 0.008) / 1.008 * math.pi / 2) ** 2 for k in range(6)]
    close((-times[:-1]).exp(), torch.tensor(f, dtype=torch.float64) / f[0])


# ---- noise ----------------


def test_noise_has_the_kernels_law():
    forward, num = Uniform(log_times(4), RATES, states=3), 20_000
    x = torch.tensor([0, 1, 2]).expand(num, 3)
    y = forward.noise(x, 3, 1, generator())
    assert y.dtype == x.dtype
    p = forward.kernel(3, 1)[torch.arange(3), x[0]]
    seen = torch.nn.functional.one_hot(y, 3).double().mean(0)
    assert ((seen - p).abs() / (p * (1 - p) / num).sqrt() < Z_MAX).all()


def test_noise_of_spins_and_the_prior():
    forward, num = UniformBits(log_times(4), RATES), 20_000
    x = torch.tensor([1, -1, 1], dtype=torch.int8).expand(num, 3)
    y = forward.noise(x, 2, generator=generator())
    keep = (1 + (-forward.rate_dt(2, 0)).exp()) / 2
    assert y.dtype == torch.int8 and (y.abs() == 1).all()
    assert (
        ((y == x).double().mean(0) - keep).abs() / (keep * (1 - keep) / num).sqrt() < Z_MAX
    ).all()
    agree = ((y == x).double() - keep) / (keep * (1 - keep)).sqrt()  # bits are independent
    assert (agree.T @ agree / num).triu(1).abs().max() * num**0.5 < Z_MAX
    assert torch.equal(forward.noise(x[:5], 2, 2), x[:5])
    prior = forward.prior((num, 3), generator(1))
    assert prior.dtype == torch.int8 and (prior.double().mean(0).abs() * num**0.5 < Z_MAX).all()


@pytest.mark.parametrize("forward", [UniformBits(log_times(6)), Uniform(log_times(6), states=5)])
def test_an_item_draws_what_it_would_alone(forward):
    x = forward.prior((4, 9), generator())
    k = torch.tensor([1, 3, 4, 6])
    together = forward.noise(x, k, generator=[generator(s) for s in range(4)])
    alone = [forward.noise(x[s : s + 1], int(k[s]), generator=[generator(s)]) for s in range(4)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(
        together, forward.noise(x, k, generator=[generator(s + 9) for s in range(4)])
    )


# ---- posteriors ----------------


def transition(forward, k, n):
    """P(x_k | x_{k-1}) between all states, by the kernel of each site."""
    keep = forward.kernel(k).expand(n, 2, 2)
    bits = ((states(n) + 1) / 2).long()
    return torch.stack([keep[i][bits[:, i]][:, bits[:, i]] for i in range(n)]).prod(0)


@pytest.mark.parametrize("rate", [0.7, RATES])
@pytest.mark.parametrize("k", [1, 3, 4])
def test_a_model_of_the_marginal_plus_the_field_is_the_bayes_posterior(rate, k):
    """With latent spins: a model of q_{k-1} has, given the field, the law q(x_{k-1} | x_k)."""
    forward, n = UniformBits(log_times(4), rate), 3
    problem = a_problem(a_graph("sparse"))  # 5 spins, the last 2 of them latent
    s = states(n)
    _, p, _ = slow_law(problem)
    q = torch.tensor(p, dtype=torch.float64).reshape(8, 4).sum(-1)
    bayes = q[:, None] * transition(forward, k, n)
    bayes = bayes / bayes.sum(0)

    conditional = forward.condition(problem, s, k)
    assert conditional.J is problem.J and conditional.batch_shape == (8,)
    for at, x_k in enumerate(s):
        one = Ising(problem.graph, conditional.h[at], problem.J, problem.offset)
        found = torch.tensor(slow_law(one)[1], dtype=torch.float64).reshape(8, 4).sum(-1)
        close(found, bayes[:, at])
        wrong_sign = Ising(problem.graph, 2 * problem.h - one.h, problem.J, problem.offset)
        if k < 4:  # the last step forgets everything
            wrong = torch.tensor(slow_law(wrong_sign)[1], dtype=torch.float64).reshape(8, 4).sum(-1)
            assert (wrong - bayes[:, at]).abs().max() > 0.01
        energy = forward.conditioned(
            lambda y: -q.log()[(((y > 0) * torch.tensor([4, 2, 1])).sum(-1))], x_k, k
        )
        close((-energy(s)).softmax(-1), bayes[:, at])


def test_the_bits_may_lie_on_any_spins():
    """A condition on given sites is the one on the first spins of a problem numbered anew."""
    forward, k = UniformBits(log_times(4), RATES), 2
    problem, x = a_problem(a_graph("sparse")), states(3)
    sites = torch.tensor([4, 0, 2])
    conditional = forward.condition(problem, x, k, sites)
    close(conditional.h[:, sites] - problem.h[sites], forward.fields(x, k))
    assert torch.equal(conditional.h[:, [1, 3]], problem.h[[1, 3]].expand(8, 2))
    first = forward.condition(problem, x, k)
    assert torch.equal(first.h, forward.condition(problem, x, k, torch.arange(3)).h)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_factorised_posterior(k):
    """The posterior of one bit by Bayes, over a denoiser's x_0 and given x_0 itself."""
    forward, n = UniformBits(log_times(4), RATES), 3
    x, mean = states(n), 2 * torch.rand(8, n, generator=generator(), dtype=torch.float64) - 1
    before, last, whole = (
        forward.kernel(k - 1, 0),
        forward.kernel(k).expand(n, 2, 2),
        forward.kernel(k, 0),
    )
    before, whole = before.expand(n, 2, 2), whole.expand(n, 2, 2)

    def by_hand(mean):
        up = torch.zeros(8, n, dtype=torch.float64)
        for r in range(8):
            for i in range(n):
                b = int(x[r, i] > 0)
                for x_0, p in enumerate(((1 - mean[r, i]) / 2, (1 + mean[r, i]) / 2)):
                    up[r, i] += p * before[i, x_0, 1] * last[i, 1, b] / whole[i, x_0, b]
        return up

    exact = 1e-10 if k == 1 else 1e-12  # x_0 is x_{k-1} then, but for the clamp
    close(torch.sigmoid(-2 * forward.posterior_fields(x, mean, k)), by_hand(mean), exact)
    logits = 2 * mean.atanh()
    close(forward.logit_fields(x, logits, k), forward.posterior_fields(x, mean, k))
    probs = torch.stack([(1 - mean) / 2, (1 + mean) / 2], -1)
    close(forward.posterior(x, probs, k), torch.stack([1 - by_hand(mean), by_hand(mean)], -1))
    sure = mean.sign()
    w, w_0 = forward.coupling(k) / 2, forward.coupling(k - 1, 0) / 2
    close(forward.posterior_fields(x, sure, k), -w * x - w_0 * sure)
    close(torch.sigmoid(-2 * forward.posterior_fields(x, sure, k)), by_hand(sure), exact)
    for surest in (200.0, 1e5, float("inf")):
        close(forward.logit_fields(x, surest * sure, k), -w * x - w_0 * sure)


def test_fields_of_large_log_odds_keep_their_digits():
    """Against the formula in numbers of 60 digits, where 1 - tanh(l / 2) has lost most of 16."""
    from decimal import Decimal, localcontext

    forward = UniformBits(log_times(4))
    x = torch.ones(1, 1, dtype=torch.float64)
    with localcontext() as context:
        context.prec = 60
        for k, logit in itertools.product([1, 3], [-34.5, -25.0, 0.3, 27.0, 33.0]):
            near = Decimal(float(forward.coupling(k) / 2))
            start = Decimal(float(forward.coupling(k - 1, 0) / 2))
            both = near + start
            apart = near - start
            ratio = (both.exp() + (-both).exp()) / (apart.exp() + (-apart).exp())
            odds = ratio * Decimal(-logit).exp()
            small = (-2 * start).exp()
            expected = ((small + odds) / (1 + small * odds)).ln() / 2 - near
            field = forward.logit_fields(x, torch.tensor([[logit]], dtype=torch.float64), k)
            assert float(field) == pytest.approx(float(expected), rel=1e-14)
    learned = torch.tensor([[1e5, -1e5, 40.0]], dtype=torch.float64, requires_grad=True)
    forward.logit_fields(torch.ones(1, 3), learned, 1).sum().backward()
    assert learned.grad is not None
    assert learned.grad.isfinite().all()


def test_the_posterior_of_many_states():
    forward = Uniform(log_times(4), torch.tensor([0.5, 2.0]), states=3)
    probs = torch.rand(6, 2, 3, generator=generator(), dtype=torch.float64)
    probs = probs / probs.sum(-1, keepdim=True)
    x = torch.randint(3, (6, 2), generator=generator())
    k = torch.tensor([1, 2, 3, 4, 2, 3])
    found = forward.posterior(x, probs, k)
    close(found.sum(-1), torch.ones(6, 2, dtype=torch.float64))
    for r in range(6):
        Q, before, whole = (
            forward.kernel(*at) for at in ((int(k[r]),), (int(k[r]) - 1, 0), (int(k[r]), 0))
        )
        for i in range(2):
            b = int(x[r, i])
            each = [before[i, :, y] * Q[i, y, b] / whole[i, :, b] for y in range(3)]
            close(found[r, i], torch.stack([(probs[r, i] * e).sum() for e in each]))


# ---- refusals ----------------


def test_refusals():
    forward = UniformBits(log_times(4))
    x = torch.ones(2, 3)
    problem = Ising(Graph.complete(3), torch.zeros(3), torch.zeros(3, 3))
    for call, said in [
        (lambda: log_times(0), r"steps >= 1; got 0"),
        (
            lambda: UniformBits(torch.tensor([0.0, 2.0, 1.0])),
            r"t_0 < t_1.*\[0\.0, 2\.0, 1\.0\].*log_times",
        ),
        (lambda: UniformBits(log_times(3), rate=0.0), r"rate > 0.*got 0\.0"),
        (lambda: Uniform(log_times(3), states=1), r"states >= 2; got 1"),
        (lambda: forward.noise(torch.tensor([[0, 1, 1]]), 1), r"-1 and \+1; got 0: 2 \* bits - 1"),
        (lambda: forward.noise(x, 5), r"k <= 4; got start = 0, k = 5"),
        (lambda: forward.coupling(0), r"start = -1, k = 0"),
        (
            lambda: Uniform(log_times(3), states=3).noise(torch.tensor([[3]]), 1),
            r"integers in 0\.\.2; got .* 3",
        ),
        (
            lambda: forward.condition(problem, torch.ones(2, 4), 1),
            r"4 bits and the problem 3 spins",
        ),
        (
            lambda: forward.condition(problem, torch.ones(2, 3, device="meta"), 1),
            r"x is on meta.*problem on cpu",
        ),
        (lambda: forward.posterior_fields(x, 2 * x, 1), r"mean in \[-1, 1\]; got 2"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
    with (
        untyped(),
        pytest.raises(TypeError, match=r"times as a tensor, such as log_times\(8\); got 8"),
    ):
        UniformBits(8)  # pyright: ignore[reportArgumentType]
