"""MNIST's own files: read as they are, gzipped, alone or as a folder; damaged ones are named."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qsample.data import load

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 4)).astype(np.uint8)
LABELS = np.arange(7).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return (
        struct.pack(">BBBB", 0, 0, 8, array.ndim)
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def refused(path: Path, *parts: str, binarise: Any = "threshold") -> None:
    with pytest.raises(ValueError) as caught:
        load(path, binarise=binarise)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "name", ["train-images-idx3-ubyte", "train-images.idx3-ubyte", "mine", "mine.gz"]
)
def test_a_file_of_images(tmp_path, name, zipped):
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx(IMAGES)) if zipped else idx(IMAGES))
    dataset = load(str(path), binarise="threshold")
    assert torch.equal(dataset.x, torch.from_numpy(IMAGES.reshape(7, 12) >= 128).float())
    assert dataset.image_shape == (3, 4) and dataset.labels is None and dataset.own_test == 0
    assert dataset.binarised == "threshold 0.5 of grey levels of 0 to 255"


def test_labels_beside_the_images(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    dataset = load(tmp_path / "train-images-idx3-ubyte", binarise="threshold")
    assert dataset.labels is not None and dataset.labels.tolist() == list(range(7))
    assert dataset.note == "labels: train-labels-idx1-ubyte"


def test_the_folder_of_the_four_files(tmp_path):
    for part, rows in (("train", slice(0, 5)), ("t10k", slice(5, 7))):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES[rows])))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS[rows]))
    dataset = load(tmp_path, binarise="threshold")
    assert (len(dataset), dataset.own_test) == (7, 2)
    # labels of a gzipped file stand gzipped beside it
    assert dataset.labels is None
    train, validation, test = dataset.split(2, validation=1)
    assert (len(train), len(validation)) == (4, 1)
    assert torch.equal(test.x, dataset.x[5:])
    rows = torch.cat([train.x, validation.x])
    assert sorted(rows.tolist()) == sorted(dataset.x[:5].tolist())
    assert len(dataset.split(0)[0]) == 5, "test rows are never trained on"
    with pytest.raises(ValueError, match="expected test <= 2, the test rows that .* keeps itself"):
        dataset.split(3)


def test_the_folder_without_the_test_files(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    dataset = load(tmp_path, binarise="threshold")
    assert dataset.own_test == 0 and dataset.labels is not None
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:, :2]))
    refused(tmp_path, "expected train and t10k images of one size; got [7, 3, 4] and [7, 2, 4]")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (
            b"",
            ["is too short: expected an IDX file of images, which begins 00 00 08 03; found noth"],
        ),
        (idx(IMAGES)[:3], ["is too short", "found 00 00 08"]),
        (idx(LABELS), ["is a file of labels", "begins 00 00 08 03; found 00 00 08 01"]),
        (idx(IMAGES[0]), ["is a file of 2 dimensions", "found 00 00 08 02"]),
        (b"\0\0\x0d\x03" + idx(IMAGES)[4:], ["is no IDX file of bytes", "found 00 00 0d 03"]),
        (idx(IMAGES)[:9], ["is cut short: expected a header of 16 bytes; found 9"]),
        (
            idx(IMAGES)[:-1],
            ["cut short: expected images 7x3x4, 84 bytes behind its header; found 83"],
        ),
        (idx(IMAGES) + b"x", ["is longer than it says: expected images 7x3x4", "found more"]),
        (b"\0\0\x08\x03" + b"\xff" * 12, ["is cut short", "found 0"]),
        (b"\0\0\x08\x03" + bytes(12), ["not empty; got shape [0, 0, 0]"]),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_files_say_what_was_expected_and_what_was_there(tmp_path, content, parts, zipped):
    path = tmp_path / ("images-idx3-ubyte" + (".gz" if zipped else ""))
    path.write_bytes(gzip.compress(content) if zipped else content)
    refused(path, *parts)


def test_damaged_gzip(tmp_path):
    path = tmp_path / "images-idx3-ubyte.gz"
    whole = gzip.compress(idx(IMAGES))
    for content in (whole[:-9], whole[:20], whole[:-8] + b"12345678"):
        path.write_bytes(content)
        refused(path, "images-idx3-ubyte.gz is a damaged gzip file: ")


def test_grey_images_need_a_choice(tmp_path):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(idx(IMAGES))
    refused(path, "for grey levels give binarise='threshold', 'fixed' or 'sample'", binarise=None)
    path.write_bytes(idx(IMAGES % 2))
    assert load(path).binarised == ""  # bits as they are
