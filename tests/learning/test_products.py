"""Products by sums that are looked up: those of the matrix, whatever stands beside a row."""

import pytest
import torch

from qsample.learning.products import Products, add_outer

N = 1100  # more than two tiles, and ragged
M = 77
DTYPES = [torch.float32, torch.bfloat16]


def matrix(dtype=torch.float32):
    return torch.randn(N, M, generator=torch.Generator().manual_seed(0)).to(dtype)


def bits(rows, columns):
    generator = torch.Generator().manual_seed(rows)
    return (torch.rand(rows, columns, generator=generator) < 0.4).float()


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_the_matrix(dtype):
    W = matrix(dtype)
    v = bits(7, N)
    h = bits(7, M)
    wide = W.double()
    # additions: 8 in a look-up, 16 in a tile, then tiles
    bound = 32 * torch.finfo(torch.float32).eps / 2
    for ours, exact, size in (
        (Products(W).from_left(v), v.double() @ wide, v.double() @ wide.abs()),
        (Products(W).from_right(h), h.double() @ wide.T, h.double() @ wide.T.abs()),
    ):
        assert ours.dtype == torch.float32
        assert ((ours - exact).abs() <= bound * size).all()


def test_a_row_does_not_see_the_others_nor_the_threads():
    W = matrix()
    v = bits(9, N)
    h = bits(9, M)
    left = Products(W).from_left(v)
    right = Products(W).from_right(h)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            for rows in (1, 2, 5, 9):
                assert torch.equal(Products(W).from_left(v[:rows]), left[:rows])
                assert torch.equal(Products(W).from_right(h[-rows:]), right[-rows:])
    finally:
        torch.set_num_threads(threads)


def test_rows_that_do_not_lie_together():
    W = matrix()
    v = bits(3, N)
    wide = torch.zeros(N, 2 * M)
    wide[:, :M] = W
    assert torch.equal(Products(wide[:, :M]).from_left(v), Products(W).from_left(v))
    assert torch.equal(Products(W.T.contiguous().T).from_left(v), Products(W).from_left(v))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("terms", [1, 8, 70])
def test_a_product_is_added_in_place(dtype, terms):
    x = bits(terms, N)
    p = torch.randn(terms, M, generator=torch.Generator().manual_seed(1))
    into = matrix(dtype)
    expected = 0.5 * into.double() - 2 * (x.T.double() @ p.double())
    place = into.data_ptr()
    add_outer(into, x, p, keep=0.5, times=-2.0)
    assert into.data_ptr() == place
    rounding = torch.finfo(dtype).eps * expected.abs() + 1e-5 * terms
    assert ((into.double() - expected).abs() <= rounding).all()


def test_what_is_not_kept_is_not_read():
    into = torch.full((N, M), float("nan"))
    x = bits(4, N)
    p = torch.ones(4, M)
    add_outer(into, x, p, keep=0.0)
    assert torch.equal(into, x.T @ p)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (N - 1, M - 1), (512, 32)])
def test_a_weight_that_is_not_finite_is_named(value, place):
    W = matrix()
    W[place] = value
    with pytest.raises(ValueError, match="W holds a weight that is not finite"):
        Products(W).from_left(torch.zeros(1, N))
    with pytest.raises(ValueError, match="W holds a weight that is not finite"):
        Products(W).from_right(torch.zeros(1, M))
