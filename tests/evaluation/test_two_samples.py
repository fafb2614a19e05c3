"""Distances of two sets of rows against their definitions, for every labelling that is asked."""

import numpy as np
import pytest
import torch

from qsample.evaluation import two_samples
from qsample.metrics import pair_correlation_error
from tests.support.seeds import generator


def pool(rows: int = 24, d: int = 6, seed: int = 0):
    """Spins of two laws, and three labellings of them; the first and a third one are lopsided."""
    g = generator(seed)
    spins = (torch.rand(rows, d, generator=g) < torch.linspace(0.2, 0.9, d)).float() * 2 - 1
    true = torch.arange(rows) < rows // 2
    return spins, torch.stack([true, true[torch.randperm(rows, generator=g)], ~true])


def slow_accuracy(spins: torch.Tensor, own: torch.Tensor) -> float:
    """The share of own rows whose nearest other row is of the own set; ties are halves."""
    total = 0.0
    for i in own.nonzero()[:, 0].tolist():
        distance = (spins != spins[i]).sum(1).tolist()
        near = min(distance[k] for k in own.nonzero()[:, 0].tolist() if k != i)
        far = min(distance[k] for k in (~own).nonzero()[:, 0].tolist())
        total += 1.0 if far > near else 0.5 * (far == near)
    return total / int(own.sum())


@pytest.mark.parametrize("neighbours", [1, 3, 32])
def test_adversarial_accuracies(monkeypatch, neighbours):
    """Also where the nearest rows that are kept are all of one set."""
    monkeypatch.setattr(two_samples, "NEIGHBOURS", neighbours)
    spins, labels = pool()
    both = two_samples.adversarial_accuracies(two_samples.hamming(spins), labels)
    for p, label in enumerate(labels):
        assert float(both.data[p]) == pytest.approx(slow_accuracy(spins, label))
        assert float(both.samples[p]) == pytest.approx(slow_accuracy(spins, ~label))


def test_energy_distance():
    spins, labels = pool()
    bits = (spins + 1) / 2
    values = two_samples.energy_distances(two_samples.hamming(spins), labels)
    for value, label in zip(values, labels, strict=True):
        x = bits[label]
        y = bits[~label]
        n = len(x)
        within = torch.cdist(x, x).sum() / (n * (n - 1)) + torch.cdist(y, y).sum() / (n * (n - 1))
        assert float(value) == pytest.approx(float(2 * torch.cdist(x, y).mean() - within), abs=1e-5)


def test_wasserstein():
    from scipy.stats import wasserstein_distance

    values = torch.randn(24, 2, generator=generator())
    values[3] = values[8]  # equal numbers
    labels = pool()[1]
    distances = two_samples.wasserstein(values, labels)
    for p, label in enumerate(labels):
        for k in range(2):
            expected = wasserstein_distance(values[label, k].numpy(), values[~label, k].numpy())
            assert float(distances[p, k]) == pytest.approx(expected, abs=1e-6)


def test_moments():
    spins, labels = pool(rows=60)
    spins[:, 2] = 1  # a unit that never varies
    means = two_samples.mean_errors(spins, labels)
    moments = two_samples.second_moments(spins, labels)
    for p, label in enumerate(labels):
        x = spins[label].double()
        y = spins[~label].double()
        expected = (x.mean(0) - y.mean(0)).square().mean().sqrt()
        assert float(means[p]) == pytest.approx(float(expected), abs=1e-6)
        kept = [0, 1, 3, 4, 5]
        errors = pair_correlation_error(x[:, kept], y[:, kept])
        assert float(moments.pairs[p]) == pytest.approx(errors, abs=1e-6)
        C = torch.cov(x[:, kept].T, correction=0)
        D = torch.cov(y[:, kept].T, correction=0)
        largest = (C - D).triu(1).abs().max()
        assert float(moments.largest[p]) == pytest.approx(float(largest), abs=1e-6)
        assert float(moments.overlap[p]) == pytest.approx(1)  # five components of five units


def test_the_overlap_is_that_of_the_leading_components(monkeypatch):
    monkeypatch.setattr(two_samples, "COMPONENTS", 2)
    monkeypatch.setattr(two_samples, "ITERATIONS", 300)
    spins, labels = pool(rows=60)
    overlap = two_samples.second_moments(spins, labels).overlap
    for p, label in enumerate(labels):
        C = np.cov(spins[label].numpy().T, bias=True)
        D = np.cov(spins[~label].numpy().T, bias=True)
        U = np.linalg.eigh(D)[1][:, -2:]
        expected = np.trace(U.T @ C @ U) / np.linalg.eigvalsh(C)[-2:].sum()
        assert float(overlap[p]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("d", [6, 40])
def test_components_are_the_leading_directions(d):
    spins = pool(rows=24, d=d)[0]
    U = two_samples.components(spins)
    k = min(two_samples.COMPONENTS, d)
    assert torch.allclose(U.T @ U, torch.eye(k), atol=1e-5)
    away = spins - spins.mean(0)
    along = (away @ U).square().sum(0)
    expected = torch.linalg.eigvalsh(away.T @ away).flip(0)[:k]
    assert torch.allclose(along, expected, rtol=1e-4)


def test_constant_rows_have_no_distance():
    spins = torch.ones(10, 3)
    labels = torch.stack([torch.arange(10) < 5])
    assert two_samples.component_distances(spins, labels).tolist() == [0]
    assert two_samples.second_moments(spins, labels).overlap.tolist() == [1]
