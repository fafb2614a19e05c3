import math

import pytest
import torch

from qsample.metrics import ImageFeatures, frechet_distance, pair_correlation_error


def test_the_correlation_error_is_that_of_the_covariances_written_out():
    a, b = (
        2 * torch.randint(2, (40, 5), generator=torch.Generator().manual_seed(k)) - 1
        for k in range(2)
    )

    def covariance(s, i, j):
        s = s.double()
        return (s[:, i] * s[:, j]).mean() - s[:, i].mean() * s[:, j].mean()

    pairs = [(i, j) for i in range(5) for j in range(i)]
    error = math.sqrt(
        sum((covariance(a, i, j) - covariance(b, i, j)) ** 2 for i, j in pairs) / len(pairs)
    )
    assert pair_correlation_error(a, b) == pytest.approx(error, rel=1e-12)
    assert pair_correlation_error(a, a) == 0


@pytest.mark.parametrize(("a", "b"), [((3, 4), (3, 5)), ((1, 4), (3, 4)), ((3, 1), (3, 1))])
def test_rows_that_cannot_be_compared(a, b):
    with pytest.raises(ValueError, match="expected rows of the same n"):
        pair_correlation_error(torch.ones(a), torch.ones(b))
    with pytest.raises(ValueError, match="expected spins"):
        pair_correlation_error(torch.zeros(3, 4), torch.ones(3, 4))


def test_the_distance_of_two_gaussians():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 4, generator=g, dtype=torch.float64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 2) == pytest.approx(16, rel=1e-9)  # means only: 4 * 2^2
    C = torch.cov(x.T)
    assert frechet_distance(x, 3 * x - 2 * x.mean(0)) == pytest.approx(
        float(4 * C.trace()), rel=1e-9
    )  # (3 - 1)^2


def test_the_classifier_learns_and_is_the_same_for_a_seed():
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(2, (300,), generator=g)
    images = (2 * (torch.rand(300, 6, 7, generator=g) < 0.3) - 1).float()
    images[labels == 1, :, :3] = 1  # the left half is bright
    state = torch.get_rng_state()
    net, again = (ImageFeatures(images.flatten(1), labels, (6, 7), epochs=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert (net.logits(images.flatten(1)).argmax(1) == labels).float().mean() > 0.95
    assert net(images.flatten(1)).shape == (300, 32)
    assert torch.equal(net(images.flatten(1)), again(images.flatten(1)))
