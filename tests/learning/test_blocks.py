"""Products block by block: those of the rounded matrix, whatever stands beside a row."""

import pytest
import torch

from qsample.learning import blocks
from qsample.learning.blocks import Blocks

N = 37
M = 21


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(blocks, "SIDE", 16)


def matrix(dtype=torch.float32):
    return torch.randn(N, M, generator=torch.Generator().manual_seed(0)).to(dtype)


def bits(rows, columns, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)
    return (torch.rand(rows, columns, generator=generator) < 0.4).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_products_are_those_of_the_matrix_within_the_bound(dtype):
    W = matrix(dtype)
    products = Blocks(W)
    v = bits(7, N, products.dtype)
    h = bits(7, M, products.dtype)
    wide = W.double()
    # half of a grid below 2^-p of twice a block's largest sum, for each weight that is added
    bound = torch.finfo(products.dtype).eps / 2 * 4 * 16 * float(wide.abs().max())
    left = (products.from_left(v).double() - v.double() @ wide).abs().max()
    right = (products.from_right(h).double() - h.double() @ wide.T).abs().max()
    assert left < bound * N
    assert right < bound * M


def test_a_row_does_not_see_the_others_nor_the_threads():
    W = matrix()
    v = bits(9, N)
    h = bits(9, M)
    left = Blocks(W).from_left(v)
    right = Blocks(W).from_right(h)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            for rows in (1, 2, 5, 9):
                products = Blocks(W)
                assert torch.equal(products.from_left(v[:rows]), left[:rows])
                assert torch.equal(products.from_right(h[-rows:]), right[-rows:])
    finally:
        torch.set_num_threads(threads)


def test_sums_of_a_block_are_exact_in_any_order():
    W = matrix()
    products = Blocks(W)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    for rows, _, block in products._blocks():
        block = block.clone()
        if block.shape[0] < 16:
            continue
        v = bits(5, N)[:, rows]
        exact = (v.double() @ block.double()).float()
        assert torch.equal(v @ block, exact)
        assert torch.equal(v[:, order] @ block[order], exact)


@pytest.mark.parametrize(
    "W", [torch.zeros(3, 2), torch.full((3, 2), 2.0**-99), torch.tensor([[3.0]])]
)
def test_weights_that_need_no_rounding_stay(W):
    v = torch.ones(2, len(W))
    assert torch.equal(Blocks(W).from_left(v), v @ W)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(value):
    W = matrix()
    W[20, 3] = value
    with pytest.raises(ValueError, match="W holds a weight that is not finite"):
        Blocks(W).from_left(bits(1, N))
