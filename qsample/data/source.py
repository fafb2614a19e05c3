"""What a file holds, before anything is made bits of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Source(NamedTuple):
    """The contents of a file, or of a package's data set.

    Attributes:
        values: array of the rows, `[N, d]` or `[N, rows, columns]`.
        labels: array of the labels `[N]`; None without any.
        note: what was kept apart or left out, in words.
        own_test: number of last rows that the source keeps for tests.
        top: end of the range of its grey values; None where the values themselves tell.
        columns: columns of the rows as messages say them, `0 ('id')`; empty where none has a name.
    """

    values: np.ndarray
    labels: np.ndarray | None = None
    note: str = ""
    own_test: int = 0
    top: float | None = None
    columns: tuple[str, ...] = ()

    def column(self, k: int) -> str:
        """Column k of the rows, as messages say it."""
        return self.columns[k] if self.columns else str(k)
