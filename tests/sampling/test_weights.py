"""Importance weights: sums in logarithms, effective sizes, and systematic resampling."""

import math

import torch

from qsample.sampling.weights import (
    as_log_weight,
    effective_fraction,
    log_mean_exp,
    relative_error,
    systematic,
)
from tests.support.exact import a_graph, a_problem


def test_means_of_exponentials_that_no_number_holds():
    x = torch.tensor([[1000.0, 1000.0 + math.log(3.0)], [-2000.0, -2000.0]]).double()
    expected = torch.tensor([1000.0 + math.log(2.0), -2000.0]).double()
    torch.testing.assert_close(log_mean_exp(x), expected)


def test_effective_sizes_and_errors():
    one_of_four = torch.tensor([0.0, -1e4, -1e4, -1e4]).double()
    assert float(effective_fraction(one_of_four)) == 0.25
    assert float(effective_fraction(torch.full((9,), 5.0).double())) == 1.0
    w = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = w.std() / 50**0.5 / w.mean()
    torch.testing.assert_close(relative_error(w.log() + 700.0), expected)


def test_log_weights_have_the_largest_at_zero_and_the_batch_dimensions():
    problem = a_problem(a_graph("sparse"), h=(2, 3), dtype=torch.float32)
    log_w = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = as_log_weight(log_w + 1e6, problem)
    assert weight.shape == (2, 3, 5) and weight.dtype == torch.float32
    assert (weight.amax(-1) == 0).all()
    half = as_log_weight(log_w, problem.to(dtype=torch.bfloat16))
    assert half.dtype == torch.float32


def test_systematic_resampling_never_keeps_a_read_of_weight_zero():
    weight = torch.tensor([0.0, 2.0, 0.0, 1.0, 1.0, 0.0]).double()
    for u in (0.0, 0.3, 0.999999):
        place = systematic(weight, torch.tensor([u]).double(), 8)
        assert place.bincount(minlength=6).tolist() == [0, 4, 0, 2, 2, 0]
