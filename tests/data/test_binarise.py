"""Bits of grey levels: by a threshold, by one draw, and by a fresh draw in each epoch."""

from itertools import islice

import numpy as np
import pytest
import torch

from qsample.data import Batches, Dataset, load
from qsample.data.batches import shuffled
from tests.support.exact import Z_MAX

GREY = np.random.default_rng(0).random((400, 6, 5))


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "grey.npy", GREY)
    return tmp_path / "grey.npy"


def test_a_threshold(path):
    dataset = load(path, binarise="threshold")
    assert torch.equal(
        dataset.x, torch.from_numpy(GREY.astype(np.float32) >= 0.5).flatten(1).float()
    )
    assert dataset.grey is None and dataset.binarised == "threshold 0.5 of grey levels of 0 to 1"


@pytest.mark.parametrize("binarise", ["fixed", "sample"])
def test_a_draw_has_the_right_mean_and_goes_by_its_seed(path, binarise):
    x = load(path, binarise=binarise, seed=3).x
    assert torch.equal(x, load(path, binarise=binarise, seed=3).x)
    assert not torch.equal(x, load(path, binarise=binarise, seed=4).x)
    p = torch.from_numpy(GREY).flatten(1)
    z = (x - p).sum() / (p * (1 - p)).sum().sqrt()
    assert abs(float(z)) < Z_MAX
    spins = load(path, binarise=binarise, seed=3, coding="spins")
    assert torch.equal(spins.x, 2 * x - 1)


def test_what_is_said_of_each(path):
    fixed = load(path, binarise="fixed", seed=2)
    assert (
        fixed.binarised == "one draw by the grey levels of 0 to 1 (seed 2)" and fixed.grey is None
    )
    sampled = load(path, binarise="sample").split(100)[0]
    assert "in each epoch" in sampled.binarised
    assert sampled.grey is not None and sampled.grey.shape == (300, 30)


@pytest.mark.parametrize(
    ("array", "top"),
    [
        (np.array([[0, 200], [3, 90]], np.uint8), 255),
        (np.array([[0, 200], [3, 90]], np.int64), 200),
        (np.array([[0, 1.0], [0.7, 0]]), 1),
        (np.array([[0, 16.0], [9, 0]]), 16),
    ],
)
def test_the_range_of_grey_levels(tmp_path, array, top):
    np.save(tmp_path / "x.npy", array)
    dataset = load(tmp_path / "x.npy", binarise="threshold")
    assert torch.equal(dataset.x, torch.from_numpy(array / top >= 0.5).float())
    assert f"0 to {top:g}" in dataset.binarised


def test_data_sets_by_name():
    pytest.importorskip("sklearn")
    digits = load("digits")
    assert digits.binarised == "threshold 0.5 of grey levels of 0 to 16"
    sampled = load("digits", binarise="sample")
    assert sampled.grey is not None and float(sampled.grey.max()) == 1
    assert torch.equal((sampled.grey >= 0.5).float(), digits.x)
    assert load("bars-and-stripes", binarise="sample").grey is None  # bits already


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([[0.5, -2.0]], r"got -2.0 at \[0, 1\]; expected grey levels of 0 or more, or bits"),
        ([[0.5, np.nan]], r"got nan at \[0, 1\]"),
        (
            np.full((2, 2), 16, np.uint8),
            "no bit is left of .* of 0 to 255: none reach 127.5, and t",
        ),
        (np.array([[0.6, 0.7]]), "all reach 0.5"),
    ],
)
def test_what_is_no_grey_level(tmp_path, array, message):
    np.save(tmp_path / "x.npy", np.array(array))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "x.npy", binarise="threshold")


@pytest.mark.parametrize("at", [0, 16])
def test_a_nameless_column_of_labels_is_no_pixel(tmp_path, at):
    """MNIST as .csv: the digit first, then 784 grey values, and no header."""
    grey = np.random.default_rng(0).integers(0, 256, (30, 16))
    rows = np.insert(grey, at, np.arange(30) % 10, 1)
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",", fmt="%d")
    with pytest.raises(
        ValueError, match=rf"column {at} of 17 holds the numbers 0 to 9 .* 4x4: lab"
    ):
        load(tmp_path / "x.csv", binarise="threshold")
    header = ",".join("label" if k == at else f"p{k}" for k in range(17))
    np.savetxt(tmp_path / "x.csv", rows, delimiter=",", fmt="%d", header=header, comments="")
    assert load(tmp_path / "x.csv", binarise="threshold").x.shape == (30, 16)


def test_keras_files_keep_their_test_rows(tmp_path):
    arrays = {
        "x_train": GREY[:300],
        "x_test": GREY[300:],
        "y_train": [0] * 300,
        "y_test": [1] * 100,
    }
    np.savez(tmp_path / "mnist.npz", **arrays)
    dataset = load(tmp_path / "mnist.npz", binarise="threshold")
    assert (len(dataset), dataset.own_test, dataset.image_shape) == (400, 100, (6, 5))
    assert dataset.labels is not None and dataset.labels.sum() == 100
    assert torch.equal(dataset.split(100)[2].x, dataset.x[300:])
    np.savez(tmp_path / "mnist.npz", x_train=GREY, x_test=GREY[:, :5])
    with pytest.raises(ValueError, match=r"rows of one shape; got \[400, 6, 5\] and \[400, 5, 5\]"):
        load(tmp_path / "mnist.npz", binarise="threshold")
    np.savez(tmp_path / "positional.npz", GREY, np.arange(400))
    assert load(tmp_path / "positional.npz", binarise="threshold").x.shape == (400, 30)


# ---- batches ----------------


def grey_set(levels: torch.Tensor) -> Dataset:
    return Dataset((levels >= 0.5).float(), None, "grey", grey=levels)


def test_batches_of_bits_are_those_that_fit_deals():
    from qsample import Settings
    from qsample.annealers import Gibbs
    from qsample.learning.run import Run
    from qsample.models import BernoulliRBM

    x = load("bars-and-stripes-3x3").x
    run = Run(BernoulliRBM(9, 2), x, Gibbs(1), Settings(batch=5, seed=4))
    stream = iter(Batches(Dataset(x, None, "x"), 5, seed=4))
    for update in range(9):
        run.update = update
        assert torch.equal(next(stream), run.rows())


def test_batches_are_fresh_draws_of_the_right_chance():
    levels = torch.tensor([[0.0, 1.0, 0.3], [0.3, 0.8, 0.5]]).repeat(10, 1)
    stream = Batches(grey_set(levels), 20, seed=1)
    orders = [shuffled(20, 20, 1, k).argsort() for k in range(500)]
    epochs = torch.stack([stream.of_update(k)[order] for k, order in enumerate(orders)])
    mean = epochs.mean(0).double()
    error = (levels * (1 - levels) / 500).sqrt()
    z = (mean - levels) / error.where(error > 0, 1)
    assert float(z.abs().max()) < Z_MAX
    assert len(epochs[:, 0, 2].unique()) == 2, "each epoch draws anew"


def test_each_iteration_is_the_same_stream():
    dataset = grey_set(torch.rand(13, 4, generator=torch.Generator().manual_seed(0)))
    stream = Batches(dataset, 4, seed=2)
    first = list(islice(stream, 9))
    again = list(islice(stream, 9))
    assert all(map(torch.equal, first, again))
    assert torch.equal(first[7], stream.of_update(7))
    assert not torch.equal(first[7], Batches(dataset, 4, seed=3).of_update(7))
    with pytest.raises(ValueError, match="expected batch >= 1; got 0"):
        Batches(dataset, 0)


def test_spins_stay_spins():
    dataset = load("digits", binarise="sample", coding="spins")
    assert Batches(dataset, 50).of_update(0).unique().tolist() == [-1, 1]
