"""Bennett's ratio on Gaussian work, where log Z ratios are known."""

import pytest
import torch

from qsample.annealers.log_z.bennett import log_ratio


def gaussian_work(delta, spread, times, ladders, seed):
    """Work between laws of log ratios `delta`: F ~ N(D - s^2/2, s), and G, by Crooks' relation."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, times, len(delta), ladders, generator=generator, dtype=torch.float64)
    centre = torch.stack([delta, -delta])[:, None, :, None] - spread**2 / 2
    return (centre + spread * noise).unbind(0)


def test_it_finds_the_ratio_within_its_error():
    delta = torch.tensor([3.0, -40.0, 0.2], dtype=torch.float64)
    z = []
    for seed in range(40):
        ratio = log_ratio(*gaussian_work(delta, 1.5, 50, 16, seed))
        z.append((ratio.value - float(delta.sum())) / ratio.stderr)
    z = torch.tensor(z)
    assert abs(float(z.mean())) < 4.5 / len(z) ** 0.5
    assert 0.7 < float(z.square().mean().sqrt()) < 1.45  # t of 15 degrees, 40 of them


def test_the_error_counts_ladders_not_reads():
    """Reads of one ladder that are all alike say no more than one of them."""
    delta = torch.zeros(2, dtype=torch.float64)
    forward, backward = gaussian_work(delta, 1.0, 1, 400, 0)
    once = log_ratio(forward, backward)
    often = log_ratio(forward.expand(50, -1, -1), backward.expand(50, -1, -1))
    assert often.value == pytest.approx(once.value)
    assert often.stderr == pytest.approx(once.stderr)


def test_laws_that_hardly_overlap_are_solved_too():
    forward, backward = gaussian_work(torch.tensor([1000.0]).double(), 30.0, 20, 8, 0)
    ratio = log_ratio(forward, backward)
    assert abs(ratio.value - 1000) < 400


def test_equal_laws_have_ratio_zero():
    nothing = torch.zeros(4, 3, 5, dtype=torch.float64)
    ratio = log_ratio(nothing, nothing)
    assert ratio.value == 0
    assert ratio.stderr == 0
