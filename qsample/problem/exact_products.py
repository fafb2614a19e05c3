"""Products of spins with couplings, and parts of a matrix, as energies and clamps need them."""

from __future__ import annotations

import torch
from torch import Tensor


def product(rows: Tensor, J: Tensor) -> Tensor:
    """The product rows J, `[*B, R, b]`, rounded alike for any batch and thread count.

    BLAS rounds by the batch, the threads and the alignment of what it is given. So on a CPU J is
    put on a grid of 2^-52 a max|J| in double precision, where sums of it are exact in any order;
    large products in single precision go one problem at a time, in fresh memory. Where J needs
    derivatives there is one product for all, and far leaner.

    Args:
        rows: Numbers -1, 0 and +1, `[*B, R, a]`.
        J: Couplings, `[*B, a, b]` or `[a, b]`.
    """
    if J.requires_grad or J.device.type != "cpu":
        return rows @ J
    R, a = rows.shape[-2:]
    b = J.shape[-1]
    batch = torch.broadcast_shapes(rows.shape[:-2], J.shape[:-2])
    flat = rows.expand(*batch, R, a).reshape(batch.numel(), R, a)
    shared = J.shape[:-2].numel() <= 1
    if shared:
        J = J.reshape(1, a, b)
    else:
        J = J.expand(*batch, a, b).reshape(batch.numel(), a, b)
    large = R >= 16 and min(a, b) >= 16 and R * a * b >= 1 << 20
    if J.dtype == torch.float32 and large:
        out = torch.stack(
            [flat[k].clone() @ (J[0] if shared else J[k].clone()) for k in range(len(flat))]
        )
    else:
        exact = _on_grid(J, a)
        out = torch.bmm(flat.to(exact), exact.expand(len(flat), a, b)).to(J.dtype)
    return out.reshape(*batch, R, b)


def _on_grid(J: Tensor, terms: int) -> Tensor:
    """J in double precision, on a grid so coarse that sums of `terms` of them are exact."""
    if J.numel():
        size = J.double().abs().amax((-2, -1), keepdim=True) * terms
    else:
        size = J.new_zeros(1, 1, 1)
    grid = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - 52)
    return (J / grid).round_().mul_(grid)


def times(v: Tensor, J: Tensor) -> Tensor:
    """The product v J for rows `[*B, a]` and `[*B, a, b]`: one matrix product where J is shared."""
    if J.dim() == 2:
        return v @ J
    return (v[..., None, :] @ J)[..., 0, :]


def pick(J: Tensor, rows: Tensor, columns: Tensor, n: int) -> Tensor:
    """J[rows, columns], without a copy where a side is taken whole, as in an RBM's conditionals.

    Args:
        J: Matrices, `[*B, n, m]`.
        rows: Numbers of rows.
        columns: Numbers of columns.
        n: Number of rows that J has.
    """
    if not _whole(rows, n):
        J = J[..., rows, :]
    if not _whole(columns, J.shape[-1]):
        J = J[..., columns]
    return J


def _whole(index: Tensor, n: int) -> bool:
    return len(index) == n and torch.equal(index, torch.arange(n, device=index.device))
