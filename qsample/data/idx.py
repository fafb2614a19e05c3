"""MNIST's own files (IDX: LeCun, Cortes and Burges 1998), as they are or gzipped.

A file begins with two bytes 0, one for the type of its values (8: unsigned bytes) and one for the
number of dimensions; the sizes follow, four bytes each, most significant first, then the values.
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from qsample.data.source import Source

PARTS = ("train", "t10k")  # what is learnt from, and the test rows
KINDS = {3: "images", 1: "labels"}  # by the number of dimensions
GZIP = b"\x1f\x8b"
CHUNK = 1 << 20  # bytes read at a time: a header may claim anything


def is_idx(path: Path) -> bool:
    """Whether a file's name or its first bytes say that it is IDX, or gzipped."""
    if re.search(r"idx\d-ubyte", path.name) or path.suffix.lower() == ".gz":
        return True
    with path.open("rb") as file:
        first = file.read(4)
    return first[:3] == b"\0\0\x08" or first[:2] == GZIP


def read_images(path: Path) -> Source:
    """Images `[N, rows, columns]` of bytes, and labels where their file lies beside them."""
    images = _read(path, 3)
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == path or not beside.exists():
        return Source(images)
    labels = _read(beside, 1)
    return Source(images, labels, f"labels: {beside.name}")


def read_folder(folder: Path) -> Source:
    """MNIST's training images and, behind them, its test images, where they lie in the folder."""
    parts = []
    for part in PARTS:
        path = _image_file(folder, part)
        if path is not None:
            parts.append(read_images(path))
        elif part == "train":
            names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
            raise ValueError(
                f"expected a file train-images-idx3-ubyte[.gz] in it; it holds {names}"
            )
    values = [part.values for part in parts]
    if len({array.shape[1:] for array in values}) > 1:
        shapes = " and ".join(str(list(array.shape)) for array in values)
        raise ValueError(f"expected train and t10k images of one size; got {shapes}")
    labels = None
    note = ""
    if all(part.labels is not None for part in parts):
        labels = np.concatenate([part.labels for part in parts if part.labels is not None])
        note = "; ".join(part.note for part in parts)
    own_test = len(values[1]) if len(values) > 1 else 0
    return Source(np.concatenate(values), labels, note, own_test)


def _image_file(folder: Path, part: str) -> Path | None:
    """The file of a part's images, in either of its usual names; None without any."""
    for name in (f"{part}-images-idx3-ubyte", f"{part}-images.idx3-ubyte"):
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _read(path: Path, dimensions: int) -> np.ndarray:
    """The values of an IDX file of unsigned bytes; a ValueError that says what was found."""
    try:
        with _opened(path) as file:
            sizes = _sizes(file, path, dimensions)
            number = math.prod(sizes)
            # one byte more than there should be shows what is too long
            values = _at_most(file, number + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name} is a damaged gzip file: {error}") from None
    if len(values) != number:
        shape = "x".join(map(str, sizes))
        state = "cut short" if len(values) < number else "longer than it says"
        more = "more" if len(values) > number else str(len(values))
        raise ValueError(
            f"{path.name} is {state}: expected {KINDS[dimensions]} {shape}, {number} bytes behind "
            f"its header; found {more}"
        )
    return np.frombuffer(values, np.uint8).reshape(sizes)


def _opened(path: Path) -> BinaryIO:
    """The file, unzipped where its first bytes say that it is gzipped."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    return cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb")


def _sizes(file: BinaryIO, path: Path, dimensions: int) -> tuple[int, ...]:
    """The sizes in the header."""
    magic = file.read(4)
    expected = bytes([0, 0, 8, dimensions])
    if magic != expected:
        kind = "too short"
        if len(magic) == 4:
            kind = "no IDX file of bytes"
            if magic[:3] == expected[:3]:
                kind = f"a file of {KINDS.get(magic[3], f'{magic[3]} dimensions')}"
        raise ValueError(
            f"{path.name} is {kind}: expected an IDX file of {KINDS[dimensions]}, which begins "
            f"{expected.hex(' ')}; found {magic.hex(' ') or 'nothing'}"
        )
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise ValueError(
            f"{path.name} is cut short: expected a header of {4 + 4 * dimensions} bytes; found "
            f"{4 + len(header)}"
        )
    return tuple(int(size) for size in np.frombuffer(header, ">u4"))


def _at_most(file: BinaryIO, number: int) -> bytes:
    """The next `number` bytes, or all there are."""
    parts = []
    while number > 0 and (part := file.read(min(CHUNK, number))):
        parts.append(part)
        number -= len(part)
    return b"".join(parts)
