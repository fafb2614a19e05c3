"""Rows from .npy, .npz and .csv files: what is a pixel, and what stands beside the pixels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from qsample.data.source import Source

SUFFIXES = (".npy", ".npz", ".csv")
LABELS = ("label", "labels", "class", "target", "y")  # names of columns that hold no pixels
INDEX = ("", "unnamed: 0", "index")  # names of the row numbers that pandas writes first
ROWS = ("x", "data", "arr_0")  # names of the array of rows, where there are others


def read_table(path: Path) -> Source:
    """What a .npy, .npz or .csv file holds; the reader's own errors pass."""
    return _from_csv(path) if path.suffix.lower() == ".csv" else _from_numpy(path)


def _from_numpy(path: Path) -> Source:
    with path.open("rb") as file:
        # numpy would suspect, and suggest, a pickle
        if file.peek(4)[:4] not in (b"\x93NUM", b"PK\x03\x04"):
            raise ValueError("it is neither an .npy nor an .npz file, or is damaged")
        contents = np.load(file, allow_pickle=False)
        if isinstance(contents, np.ndarray):
            return Source(contents)
        with contents:
            return _from_arrays(contents)


def _from_arrays(arrays: Any) -> Source:
    """The rows among the arrays of an open .npz file, and the labels where it has some."""
    if "x_train" in arrays.files:
        return _with_own_test(arrays)
    labels = [name for name in arrays.files if name.lower() in LABELS]
    labels = [name for name in labels if np.ndim(arrays[name]) == 1]
    others = [name for name in arrays.files if name not in labels]
    named = [name for name in ROWS if name in others]
    candidates = named or others
    if not named and len(others) != 1:
        raise ValueError(
            "expected one array, or one named x, data, arr_0 or x_train; it holds "
            f"{', '.join(arrays.files) or 'none'}"
        )
    values = _array(arrays, candidates[0])
    if not labels:
        return Source(values)
    return Source(values, arrays[labels[0]], f"labels: array {labels[0]!r}")


def _with_own_test(arrays: Any) -> Source:
    """x_train and, behind them, x_test, as Keras keeps MNIST; y_train and y_test are labels."""
    parts = [part for part in ("train", "test") if f"x_{part}" in arrays.files]
    values = [_array(arrays, f"x_{part}") for part in parts]
    if len({array.shape[1:] for array in values}) > 1:
        shapes = " and ".join(str(list(array.shape)) for array in values)
        raise ValueError(f"expected x_train and x_test of rows of one shape; got {shapes}")
    labels = None
    note = ""
    if all(f"y_{part}" in arrays.files for part in parts):
        labels = np.concatenate([_array(arrays, f"y_{part}").reshape(-1) for part in parts])
        note = "labels: " + " and ".join(f"array 'y_{part}'" for part in parts)
    own_test = len(values[1]) if len(values) > 1 else 0
    return Source(np.concatenate(values), labels, note, own_test)


def _array(arrays: Any, name: str) -> np.ndarray:
    """An array of an .npz file; a file inside it that is none comes as bytes."""
    values = arrays[name]
    if not isinstance(values, np.ndarray) or values.ndim == 0:
        raise ValueError(f"{name} inside it is no array of rows")
    return values


def _from_csv(path: Path) -> Source:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        return Source(np.empty((0, 0)))
    delimiter = next((mark for mark in ",;\t" if mark in lines[0]), None)
    header = _cells(lines[0], delimiter)
    if not _is_header(header):
        return Source(_numbers(lines, delimiter, None))
    rows = lines[1:]
    if not rows:
        return Source(np.empty((0, len(header))))

    # columns that hold no pixels
    names = [name.lower() for name in header]
    label = next((k for k, name in enumerate(names) if name in LABELS), None)
    first = 1 if label == 0 else 0
    index = first if len(names) > first + 1 and names[first] in INDEX else None
    pixels = [k for k in range(len(names)) if k not in (label, index)]
    notes = []
    labels = None
    if index is not None:
        notes.append(f"column {header[index]!r} left out as row numbers")
    if label is not None:
        notes.append(f"labels: column {header[label]!r}")
        labels = np.array([_cells(row, delimiter)[label] for row in rows])
    columns = tuple(f"{k} ({header[k]!r})" for k in pixels)
    values = _numbers(rows, delimiter, pixels)
    return Source(values, labels, "; ".join(notes), columns=columns)


def _is_header(cells: list[str]) -> bool:
    """Whether the first line names columns: by words, or 0, 1, 2, ... as pandas does by default."""
    numbered = len(cells) > 2 and cells == [str(k) for k in range(len(cells))]
    return numbered or not all(_is_number(cell) for cell in cells)


def _cells(line: str, delimiter: str | None) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _numbers(rows: list[str], delimiter: str | None, columns: list[int] | None) -> np.ndarray:
    """The numbers in some columns; True and False, as pandas writes bits, are 1 and 0.

    Args:
        rows: lines of the file.
        delimiter: mark between cells; None is white space.
        columns: numbers of the columns; None is all.
    """
    if re.search(r"\b(true|false)\b", rows[0], re.IGNORECASE):
        rows = [re.sub(r"(?i)\bfalse\b", "0", row) for row in rows]
        rows = [re.sub(r"(?i)\btrue\b", "1", row) for row in rows]
    return np.loadtxt(rows, delimiter=delimiter, ndmin=2, quotechar='"', usecols=columns)


def _is_number(cell: str) -> bool:
    if cell.lower() in ("true", "false"):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True
