"""Functions of numbers do not depend on what stands beside them."""

import pytest
import torch

from qsample.support.one_by_one import one_by_one


@pytest.mark.parametrize("function", [torch.sigmoid, torch.nn.functional.softplus])
def test_a_function_of_a_number_does_not_depend_on_its_neighbours(function):
    """Which torch's own does, where a tensor ends within a vector."""
    t = torch.randn(40_001, generator=torch.Generator().manual_seed(0))
    whole = one_by_one(function, t)
    torch.testing.assert_close(whole, function(t))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.equal(one_by_one(function, t), whole)
    finally:
        torch.set_num_threads(threads)
    for size in (1, 3, 7, 24, 33):
        parts = [one_by_one(function, part) for part in t[:4000].split(size)]
        assert torch.equal(torch.cat(parts), whole[:4000])
