"""The absorbing process against enumeration: kernel, noise, posteriors, what stays masked."""

import math

import pytest
import torch

from qsample.diffusion import Absorbing, cosine_times, log_times
from tests.support.exact import Z_MAX, untyped
from tests.support.seeds import generator

RATES = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "forward", [Absorbing(log_times(5), states=3), Absorbing(cosine_times(5), RATES, 4)]
)
def test_kernels_compose_and_a_mask_stays(forward):
    M = forward.states
    whole = torch.eye(M + 1, dtype=torch.float64)
    for k in range(1, forward.steps + 1):
        whole = whole @ forward.kernel(k)
        close(whole, forward.kernel(k, 0))
        close(whole.sum(-1), torch.ones_like(whole.sum(-1)))
    step = forward.kernel(2).expand(3, -1, -1)
    kept = (-forward.rate_dt(2)).exp().expand(3)
    close(step[:, M], torch.eye(M + 1, dtype=torch.float64)[M].expand(3, -1))
    close(step.diagonal(dim1=1, dim2=2)[:, :M], kept[:, None].expand(3, M))
    close(step[:, :M, M], (1 - kept)[:, None].expand(3, M))


def test_noise_has_the_kernels_law():
    forward = Absorbing(log_times(4), RATES, states=2)
    num = 20_000
    x = torch.tensor([0, 1, 2]).expand(num, 3)
    y = forward.noise(x, 3, 1, generator())
    assert y.dtype == x.dtype
    p = forward.kernel(3, 1)[torch.arange(3), x[0]]
    seen = torch.nn.functional.one_hot(y, 3).double().mean(0)
    possible = (p > 0) & (p < 1)
    z = (seen - p).abs() / (p * (1 - p) / num).sqrt().clamp_min(1e-12)
    assert (z[possible] < Z_MAX).all()
    assert torch.equal(seen[~possible], p[~possible])
    assert torch.equal(forward.noise(x[:5], 2, 2), x[:5])
    assert (forward.noise(x[:50], 4, 1) == 2).all()
    assert torch.equal(forward.prior((4, 3)), torch.full((4, 3), 2))


def by_bayes(forward, x, probs, k):
    """P(x_{k-1} | x_k) of each site by the kernels, where the denoiser knows what shows."""
    found = torch.zeros(*x.shape, forward.width, dtype=torch.float64)
    for row in range(len(x)):
        matrices = [forward.kernel(k, k - 1), forward.kernel(k - 1, 0), forward.kernel(k, 0)]
        near, start, through = (Q.expand(x.shape[1], -1, -1) for Q in matrices)
        for i in range(x.shape[1]):
            after = int(x[row, i])
            sure = torch.eye(forward.states, dtype=torch.float64)
            p = probs[row, i] if after == forward.states else sure[after]
            for c in range(forward.states):
                if p[c] > 0:
                    each = near[i, :, after] * start[i, c] / through[i, c, after]
                    found[row, i] += p[c] * each
    return found


@pytest.mark.parametrize("rate", [0.7, RATES])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_posterior_is_that_of_bayes(rate, k):
    forward = Absorbing(log_times(4), rate, states=3)
    x = torch.tensor([[0, 3, 3], [3, 2, 1], [3, 3, 3]])
    x = x.clamp_min(3) if k == 4 else x  # at infinite time nothing shows
    probs = torch.rand(3, 3, 3, generator=generator(), dtype=torch.float64)
    probs = probs / probs.sum(-1, keepdim=True)
    found = forward.posterior(x, probs, k)
    close(found, by_bayes(forward, x, probs, k))
    each = forward.posterior(x, probs, torch.full((3,), k))
    assert torch.equal(each, found)


def test_what_stays_masked_is_no_matter_of_the_data():
    """Sites that show stay; masked ones by their chance; and given them the states alone vary."""
    forward = Absorbing(log_times(4), RATES, states=3)
    num = 20_000
    x = torch.tensor([3, 1, 3]).expand(num, 3)
    hidden = forward.hidden(x, 3, generator())
    assert not hidden[:, 1].any()
    stay = (-torch.expm1(-RATES * -math.log(0.5))) / (-torch.expm1(-RATES * -math.log(0.25)))
    error = (stay * (1 - stay) / num).sqrt()
    masked = torch.tensor([0, 2])
    assert ((hidden.double().mean(0) - stay).abs() < Z_MAX * error)[masked].all()
    assert not forward.hidden(x, 1).any()

    probs = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).expand(1, 3, 3)
    law = forward.posterior(x[:1], probs, 3)
    given = forward.given(law, torch.tensor([[True, False, False]]))
    given = given / given.sum(-1, keepdim=True)
    expected = [[0, 0, 0, 1], [0, 1, 0, 0], [0.2, 0.5, 0.3, 0]]
    close(given, torch.tensor([expected], dtype=torch.float64))


def test_an_item_draws_what_it_would_alone():
    forward = Absorbing(log_times(6), states=5)
    x = torch.randint(5, (4, 9), generator=generator())
    k = torch.tensor([1, 3, 4, 6])
    together = forward.noise(x, k, generator=[generator(s) for s in range(4)])
    hidden = forward.hidden(together, k, generator=[generator(s) for s in range(4)])
    for s in range(4):
        row = slice(s, s + 1)
        one = int(k[s])
        assert torch.equal(together[row], forward.noise(x[row], one, generator=[generator(s)]))
        assert torch.equal(
            hidden[row], forward.hidden(together[row], one, generator=[generator(s)])
        )


def test_refusals():
    forward = Absorbing(log_times(3), states=3)
    with pytest.raises(ValueError, match=r"integers in 0\.\.3, 3 for the mask; got .* 4"):
        forward.noise(torch.tensor([[4]]), 1)
    with pytest.raises(ValueError, match=r"x_0 in 0\.\.2; got 3, the mask.*states=4\) takes it"):
        forward.noise(torch.tensor([[1, 3]]), 2)
    later = torch.tensor([1, 0])  # the mask is noise after the first step, and none in x_0
    forward.noise(torch.tensor([[1, 3], [0, 2]]), 2, later)
    with pytest.raises(ValueError, match="x_0 in"):
        forward.noise(torch.tensor([[1, 3], [0, 3]]), 2, later)
    with untyped(), pytest.raises(TypeError, match="x as a torch tensor; got list"):
        forward.noise([[1]], 1)  # pyright: ignore[reportArgumentType]
    with untyped(), pytest.raises(TypeError, match="expected k as the number of a step.*got 1.5"):
        forward.noise(torch.tensor([[1]]), 1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"k <= 3; got start = 0, k = 4"):
        forward.noise(torch.tensor([[1]]), 4)
    with pytest.raises(ValueError, match="states >= 2; got 1"):
        Absorbing(log_times(3), states=1)
    with untyped(), pytest.raises(TypeError, match=r"times as a tensor, such as log_times\(8\)"):
        Absorbing(8)  # pyright: ignore[reportArgumentType]
