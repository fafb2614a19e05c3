"""Products of spins with couplings, and parts of a matrix, as energies and clamps need them."""

from __future__ import annotations

import torch
from torch import Tensor


def product(rows: Tensor, J: Tensor) -> Tensor:
    """The product rows J, `[*B, R, a]` of -1, 0 and +1 by `[*B, a, b]`, rounded alike for any batch and thread count.

    BLAS rounds by the batch, the threads and the alignment of what it is given. So on a CPU J is put on a grid of
    2^-52 a max|J| in double precision, where sums of it are exact in any order; large products in single precision
    go one problem at a time, in fresh memory. Where J needs derivatives there is one product for all, and far leaner.
    """
    if J.requires_grad or J.device.type != "cpu":
        return rows @ J
    (R, a), b = rows.shape[-2:], J.shape[-1]
    batch = torch.broadcast_shapes(rows.shape[:-2], J.shape[:-2])
    own = J.shape[:-2].numel() > 1
    flat = rows.expand(*batch, R, a).reshape(batch.numel(), R, a)
    J = J.expand(*batch, a, b).reshape(batch.numel(), a, b) if own else J.reshape(1, a, b)
    if J.dtype == torch.float32 and R >= 16 and min(a, b) >= 16 and R * a * b >= 1 << 20:
        out = torch.stack([flat[k].clone() @ (J[k].clone() if own else J[0]) for k in range(len(flat))])
    else:
        size = J.double().abs().amax((-2, -1), keepdim=True) * a if J.numel() else J.new_zeros(1, 1, 1)
        grid = torch.ldexp(torch.ones_like(size), torch.frexp(size).exponent - 52)
        exact = (J / grid).round_().mul_(grid)
        out = torch.bmm(flat.to(exact), exact.expand(len(flat), a, b)).to(J.dtype)
    return out.reshape(*batch, R, b)


def times(v: Tensor, J: Tensor) -> Tensor:
    """The product v J for rows `[*B, a]` and `[*B, a, b]`: one matrix product where J is shared."""
    return v @ J if J.dim() == 2 else (v[..., None, :] @ J)[..., 0, :]


def pick(J: Tensor, rows: Tensor, columns: Tensor, n: int) -> Tensor:
    """J[rows, columns], without a copy where a side is taken whole (the RBM's conditional problems)."""
    J = J if _whole(rows, n) else J[..., rows, :]
    return J if _whole(columns, J.shape[-1]) else J[..., columns]


def _whole(index: Tensor, n: int) -> bool:
    return len(index) == n and torch.equal(index, torch.arange(n, device=index.device))
