"""Bits of numbers: two values as they are, grey values by a threshold or by chance."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsample.data.source import Source
from qsample.support.checks import plain_seed

Binarisation = Literal["threshold", "fixed", "sample"]
ROWS = 4096  # rows that are drawn at a time
COUNTED = 5  # rows from which on 0, 1, 2, ... in the first column is no chance


class Bits(NamedTuple):
    """Rows of bits, and where they come from.

    Attributes:
        x: bits `[N, d]`.
        grey: chance of each bit to be 1, `[N, d]` float32, where each epoch draws anew.
        text: how bits were made of grey values; empty where the source has bits.
    """

    x: Tensor
    grey: Tensor | None = None
    text: str = ""


def bits_of(source: Source, name: str, binarise: Binarisation | None, seed: int) -> Bits:
    """Bits of the source's numbers.

    Args:
        source: numbers `[N, d]` or `[N, rows, columns]`.
        name: the source's name, for errors.
        binarise: how bits are made of grey values; None refuses them.
        seed: seed of the draw, where there is one.

    Raises:
        ValueError: values that are neither bits nor spins without `binarise`; values that are no
            grey levels; grey levels that a threshold makes all equal; a column that counts the
            rows or holds their classes.
    """
    array = source.values.reshape(len(source.values), -1)
    bits = _two_values(array)
    if bits is not None:
        return Bits(torch.from_numpy(np.ascontiguousarray(bits)))
    if binarise is None:
        raise _refusal(source, name)
    if _counts_rows(source.values):
        raise ValueError(f"{name}: {_about_counter(source, 0)}")
    _check_no_labels(array, name)
    top = _top(source, name)
    grey = torch.from_numpy(array.astype(np.float32)) / top
    levels = f"grey levels of 0 to {top:g}"
    if binarise == "threshold":
        x = grey >= 0.5
        if bool(x.all()) or not bool(x.any()):
            largest = float(source.values.max())
            raise ValueError(
                f"{name}: no bit is left of {levels}: {'all' if bool(x.any()) else 'none'} reach "
                f"{top / 2:g}, and the largest is {largest:g}; scale them to 0 to 1 first"
            )
        return Bits(x, None, f"threshold 0.5 of {levels}")
    x = drawn(grey, torch.Generator().manual_seed(plain_seed(seed)))
    if binarise == "fixed":
        return Bits(x, None, f"one draw by the {levels} (seed {seed})")
    return Bits(x, grey, f"a draw by the {levels} in each epoch (here: seed {seed})")


def drawn(grey: Tensor, generator: torch.Generator) -> Tensor:
    """A Bernoulli draw of each chance, `[N, d]` bool; uniform numbers of 24 bits on the CPU."""
    parts = []
    for rows in grey.split(ROWS):
        uniform = torch.rand(rows.shape, generator=generator, dtype=torch.float32, device="cpu")
        parts.append(uniform.to(rows.device) < rows)
    return torch.cat(parts)


def _two_values(array: np.ndarray) -> np.ndarray | None:
    """True where {0,1} data are 1 or -1/+1 data are +1; None for other values."""
    high = array == 1
    low = array == (-1 if (array == -1).any() else 0)
    return high if (high | low).all() else None


def _top(source: Source, name: str) -> float:
    """The end of the range of grey levels, which begins at 0: 1, 255 for bytes, or the largest."""
    values = source.values
    bad = ~np.isfinite(values) | (values < 0)
    if bad.any():
        place = [int(k) for k in np.argwhere(bad)[0]]
        raise ValueError(
            f"{name}: got {values[tuple(place)].item()} at {place}; expected grey levels of 0 or "
            "more, or bits, or spins of -1 and +1"
        )
    largest = float(values.max())
    top = source.top
    if top is None:
        top = 255.0 if values.dtype == np.uint8 else largest
        top = 1.0 if largest <= 1 else top
    return top


# ---- what is wrong with other values ----------------


def _counts_rows(array: np.ndarray) -> bool:
    """Whether the first column counts the rows, from 0 or 1, beside others that do not.

    A column of grey levels may rise like that in a few rows.
    """
    if array.ndim != 2 or len(array) < COUNTED:
        return False
    number = np.arange(len(array))
    if array[0, 0] not in (0, 1) or not np.array_equal(array[:, 0], array[0, 0] + number):
        return False
    return not np.array_equal(array, array[0] + number[:, None])


def _about_counter(source: Source, k: int) -> str:
    """That a column counts the rows, and the remedy."""
    remedy = "leave it out (pandas: to_csv(index=False)), or name it 'index' in a header line"
    return f"column {source.column(k)} counts the rows; {remedy}"


def _check_no_labels(array: np.ndarray, name: str) -> None:
    """A ValueError where one column more than a square image has holds the classes.

    So MNIST is sold as .csv: 785 numbers per line, of which the first is the digit.
    """
    side = math.isqrt(array.shape[1] - 1)
    if side < 2 or side**2 != array.shape[1] - 1:
        return
    for k in (0, array.shape[1] - 1):
        column = array[:, k]
        classes = np.unique(column)
        if 1 < len(classes) <= 20 and np.array_equal(classes, np.arange(len(classes))):
            raise ValueError(
                f"{name}: column {k} of {array.shape[1]} holds the numbers 0 to {len(classes) - 1} "
                f"beside images of {side}x{side}: labels? Leave it out, or name it 'label' in a "
                "header line"
            )


def _refusal(source: Source, name: str) -> ValueError:
    """The error for values that are neither bits nor spins."""
    array = source.values
    low = -1 if (array == -1).any() else 0
    place = [int(k) for k in np.argwhere((array != 1) & (array != low))[0]]
    value = array[tuple(place)].item()
    hint = _about_column(source) or _about_threshold(array, value)
    return ValueError(
        f"{name}: got {value} at {place}; expected all values 0 or 1, or all -1 or +1{hint}"
    )


def _about_column(source: Source) -> str:
    """A hint where a column counts the rows, or alone holds other whole numbers than bits."""
    array = source.values
    if _counts_rows(array):
        return f": {_about_counter(source, 0)}"
    if array.ndim != 2 or array.shape[1] < 3:
        return ""
    bits = (array == 0) | (array == 1) | (array == -1)
    odd = np.flatnonzero(~bits.all(0))
    if len(odd) != 1:
        return ""
    k = int(odd[0])
    column = array[:, k]
    if not (np.isfinite(column).all() and (column == np.round(column)).all()):
        return ""
    if np.array_equal(column - column[0], np.arange(len(column))):
        return f": {_about_counter(source, k)}"
    labels = f"does column {source.column(k)} hold labels?"
    return f": {labels} Leave it out, or name it 'label' in a header line"


def _about_threshold(array: np.ndarray, value: float) -> str:
    """A hint where a value is a grey level: what makes bits of it."""
    if not np.isfinite(value) or value == 0:
        return ""
    finite = array[np.isfinite(array)]
    if finite.min() < 0:
        middle = (float(finite.min()) + float(finite.max())) / 2
        return f": threshold first, e.g. x >= {middle}"
    return ": for grey levels give binarise='threshold', 'fixed' or 'sample'"
