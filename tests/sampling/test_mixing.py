"""R-hat and effective sizes of ranks: by hand, against plain loops, and of known chains."""

import math

import pytest
import torch

from qsample.sampling.mixing import bulk_ess, nested_rhat, rank_rhat, split_rhat, tail_ess
from tests.support.seeds import generator


def scores(ranks, S):
    """Normal scores by the inverse error function."""
    p = (torch.tensor(ranks, dtype=torch.float64) - 0.375) / (S + 0.25)
    return math.sqrt(2) * torch.erfinv(2 * p - 1)


def plain_rhat(halves):
    """R-hat of half chains `[n, C]`."""
    n = len(halves)
    between = halves.mean(0).var()
    return float(((n - 1) / n + between / halves.var(0).mean()).sqrt())


def plain_ess(halves):
    """The effective size of half chains `[n, C]` by loops over lags (Vehtari et al. 2021)."""
    n, C = halves.shape
    y = halves - halves.mean(0)
    c = [float((y[: n - k] * y[k:]).sum(0).mean()) / n for k in range(n)]
    W = c[0] * n / (n - 1)
    V = c[0] + float(halves.mean(0).var())
    rho = [1.0] + [1 - (W - c[k]) / V for k in range(1, n)]
    tau = -1.0
    last = math.inf
    for k in range(0, n - 1, 2):
        pair = rho[k] + rho[k + 1]
        if pair < 0:
            tau += max(rho[k], 0)
            break
        last = min(last, pair)
        tau += 2 * last
    return n * C / max(tau, 1 / math.log10(n * C))


def walk(T, R, phi, seed=0):
    """Gaussian chains of autocorrelation phi, in equilibrium, `[T, R]`."""
    noise = torch.randn(T, R, dtype=torch.float64, generator=generator(seed))
    x = [noise[0]]
    for t in range(1, T):
        x.append(phi * x[-1] + math.sqrt(1 - phi**2) * noise[t])
    return torch.stack(x)


def test_rhat_of_ranks_by_hand():
    # ties share a rank: values 1 1 2 3 | 4 5 6 9 have ranks 1.5 1.5 3 4 | 5 6 7 8
    x = torch.tensor([[1.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 9.0]])
    z = scores([[1.5, 5, 3, 7], [1.5, 6, 4, 8]], 8)
    # halves [1 1], [4 5], [2 3], [6 9]; distances from the median 3.5
    distance = scores([[5.5, 1.5, 3.5, 5.5], [5.5, 3.5, 1.5, 8]], 8)
    expected = max(plain_rhat(z), plain_rhat(distance))
    assert float(rank_rhat(x)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("T", "R", "phi"), [(40, 3, 0.0), (101, 4, 0.8), (60, 1, -0.4)])
def test_sizes_are_those_of_plain_loops(T, R, phi):
    x = walk(T, R, phi).round(decimals=1)
    n = T // 2
    halves = torch.cat([x[:n], x[-n:]], 1)
    flat = halves.flatten()
    below = (flat[:, None] > flat).sum(1)
    up_to = (flat[:, None] >= flat).sum(1)
    z = scores(((below + up_to + 1) / 2).reshape(halves.shape).tolist(), n * 2 * R)
    assert float(bulk_ess(x)) == pytest.approx(plain_ess(z), rel=1e-9)
    tails = [plain_ess((halves <= flat.quantile(q)).double()) for q in (0.05, 0.95)]
    assert float(tail_ess(x)) == pytest.approx(min(tails), rel=1e-9)


def test_independent_chains_are_worth_their_draws():
    x = walk(500, 4, 0.0)
    assert float(rank_rhat(x)) < 1.01
    assert 0.8 < float(bulk_ess(x)) / 2000 < 1.2
    assert 0.7 < float(tail_ess(x)) / 2000 < 1.3


def test_the_size_of_correlated_chains():
    """tau = (1 + phi) / (1 - phi)."""
    x = walk(4000, 8, 0.8)
    assert 32000 / 9 * 0.8 < float(bulk_ess(x)) < 32000 / 9 * 1.2


def test_chains_in_different_places_disagree():
    x = walk(200, 4, 0.0)
    shifted = x + torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert float(rank_rhat(shifted)) > 1.05
    assert float(bulk_ess(shifted)) < float(bulk_ess(x)) / 20


def test_folding_sees_chains_of_another_spread():
    x = walk(200, 4, 0.0) * torch.tensor([1.0, 1.0, 1.0, 4.0])
    assert float(split_rhat(x)) < 1.02
    assert float(rank_rhat(x)) > 1.05


def test_ranks_see_a_shift_beneath_heavy_tails():
    """A Cauchy law has no variance for R-hat to compare."""
    x = torch.tan(math.pi * (torch.rand(400, 4, dtype=torch.float64, generator=generator()) - 0.5))
    assert float(rank_rhat(x)) < 1.01
    x[:, 3] += 2
    assert float(split_rhat(x)) < 1.02
    assert float(rank_rhat(x)) > 1.05


def test_a_drift_is_seen_by_halves():
    x = walk(200, 4, 0.0) + torch.linspace(0, 3, 200)[:, None]
    assert float(rank_rhat(x)) > 1.2


def test_stuck_chains():
    apart = torch.tensor([1.0, 2.0, 2.0]).expand(8, 3)
    assert float(rank_rhat(apart)) == math.inf
    assert float(bulk_ess(apart)) == float(tail_ess(apart)) == 2  # two places
    together = torch.ones(8, 3)
    assert float(rank_rhat(together)) == 1
    assert float(bulk_ess(together)) == float(tail_ess(together)) == 1
    still = walk(200, 4, 0.0)
    still[:, 0] = 0.3  # one of four
    assert float(rank_rhat(still)) > 1.05


def test_two_values_have_no_tails_of_their_own():
    x = (walk(400, 4, 0.5) > 0).double()
    assert float(tail_ess(x)) == pytest.approx(float(bulk_ess(x)), rel=1e-9)


def test_each_statistic_by_itself():
    parts = [walk(60, 3, phi, k) for k, phi in enumerate([0.0, 0.5, 0.9, -0.5])]
    x = torch.stack(parts, -1).reshape(60, 3, 2, 2)
    for measure in (rank_rhat, bulk_ess, tail_ess):
        alone = torch.stack([measure(part) for part in parts]).reshape(2, 2)
        assert torch.allclose(measure(x), alone, rtol=1e-12)


def test_what_is_no_number_stays_none():
    x = walk(20, 2, 0.0)
    x[3, 1] = torch.nan
    both = torch.stack([x, walk(20, 2, 0.0)], -1)
    for measure in (rank_rhat, bulk_ess, tail_ess):
        assert measure(both).isnan().tolist() == [True, False]


@pytest.mark.parametrize("measure", [rank_rhat, bulk_ess, tail_ess])
def test_too_few_times(measure):
    with pytest.raises(ValueError, match=r"4 times of a chain.*got \[3, 2\]"):
        measure(torch.zeros(3, 2))


def test_nested_rhat_by_hand():
    x = torch.tensor([[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]])  # groups of two chains and of one
    z = scores([[1, 2, 5], [3, 4, 6]], 6)
    first = z[:, :2]
    second = z[:, 2:]
    W = (first.mean(0).var() + first.var(0).mean() + second.var(0).mean()) / 2
    B = torch.stack([first.mean(), second.mean()]).var()
    assert float(nested_rhat(x, [2, 1])) == pytest.approx(float((1 + B / W).sqrt()), rel=1e-12)


def test_many_short_chains():
    """Their starts are forgotten, and a chain of 8 times is too short for R-hat between chains."""
    x = walk(8, 4 * 64, 0.9)
    assert float(rank_rhat(x)) > 1.2
    sizes = [64] * 4
    assert float(nested_rhat(x, sizes)) < 1.03
    x[:, 192:] += 1
    assert float(nested_rhat(x, sizes)) > 1.05


def test_groups_at_rest():
    x = torch.tensor([1.0, 1.0, 2.0, 2.0]).expand(5, 4)
    assert float(nested_rhat(x, [2, 2])) == math.inf
    assert float(nested_rhat(torch.ones(5, 4), [2, 2])) == 1
    for sizes in ([4], [2, 1], [4, 0]):
        with pytest.raises(ValueError, match=r"2 groups of chains or more.*got \[5, 4\] and"):
            nested_rhat(torch.ones(5, 4), sizes)
