"""Rows as scikit-learn hands them over, dense or sparse, in pieces that are dense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.sparse import issparse

Array = np.ndarray
NUMBERS = 1 << 22
"""numbers of a piece that is made dense, or converted, at once"""


def pieces(X: Any, whole: int, dtype: Any) -> Iterator[Array]:
    """The rows in order, dense, `[k, n]` of a dtype; X itself where it is so already.

    Args:
        X: array or sparse matrix `[N, n]`.
        whole: each piece but the last has a multiple of so many rows.
        dtype: the pieces' dtype.
    """
    count, width = X.shape
    if not issparse(X) and X.dtype == dtype:
        yield X
        return
    size = max(1, NUMBERS // (whole * max(1, width))) * whole
    for first in range(0, count, size):
        rows = X[first : first + size]
        yield (rows.toarray() if issparse(rows) else rows).astype(dtype, copy=False)


def visible_mean(X: Any) -> Array:
    """Mean of each column, of values drawn into [0, 1]: what a visible unit can follow.

    Args:
        X: array or sparse matrix `[N, n]`, at least one row.
    """
    total = np.zeros(X.shape[1])
    for rows in pieces(X, 1, X.dtype):
        total += rows.clip(0, 1).sum(axis=0, dtype=np.float64)
    return total / X.shape[0]
