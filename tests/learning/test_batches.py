"""Loaders as data: batches of any iterable, begun again, checked, and named where they run dry."""

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from qsample import fit
from qsample.annealers import Gibbs
from qsample.learning.batches import batches_of
from qsample.learning.checkpoint import load
from tests.support.exact import untyped
from tests.support.training import SHORT, Dies, Stop, assert_same, coupled, rbm, rows, weights

ROWS = rows(rbm())
SET = TensorDataset(ROWS, torch.arange(30))
FEW = replace(SHORT, updates=8, batch=13, evaluate_every=8)


def train(data, model=None, settings=FEW, sampler=None, **options):
    model = model or rbm()
    fit(model, data, sampler or Gibbs(1), settings, progress=False, **options)
    return model


class Endless(IterableDataset):
    """Rows without an end, in order."""

    def __iter__(self):
        while True:
            yield from ROWS


DATA = {
    "a loader": lambda: DataLoader(TensorDataset(ROWS), 13),
    "a loader with labels": lambda: DataLoader(SET, 13),
    "a list of tensors": lambda: list(ROWS.split(13)),
    "a tuple of pairs": lambda: tuple((x, 1) for x in ROWS.split(13)),
    "a generator": lambda: (x for _ in range(9) for x in ROWS.split(13)),
}


@pytest.mark.parametrize("name", DATA)
def test_all_of_these_bring_the_same_batches(name):
    source = batches_of(rbm(), DATA[name](), FEW)
    for update, place in enumerate([0, 13, 26, 0, 13]):
        assert torch.equal(source.of_update(update), ROWS[place : place + 13])
    assert torch.equal(source.known, ROWS[:13]) and not source.ordered


def test_data_sets_of_torch_are_loaded_in_batches_of_the_settings():
    source = batches_of(rbm(), Endless(), FEW)
    assert torch.equal(source.of_update(2), torch.cat([ROWS[26:], ROWS[:9]]))
    shuffled = batches_of(rbm(), Subset(SET, range(20)), FEW)
    first = torch.cat([shuffled.of_update(k) for k in (0, 1)])
    second = torch.cat([shuffled.of_update(k) for k in (2, 3)])
    for epoch in (first, second):
        assert not torch.equal(epoch, ROWS[:20])
        assert torch.equal(epoch.unique(dim=0), ROWS[:20].unique(dim=0)) and len(epoch) == 20
    assert not torch.equal(first, second)


def test_the_order_is_one_of_the_seed():
    def epochs(seed):
        source = batches_of(rbm(), DataLoader(SET, 13, shuffle=True), replace(FEW, seed=seed))
        torch.rand(1)  # whatever others draw
        return torch.cat([source.of_update(k) for k in range(6)])

    assert torch.equal(epochs(1), epochs(1)) and not torch.equal(epochs(1), epochs(2))


def test_a_loader_trains_as_its_rows_would():
    """Rows that are all the same: the same numbers, whoever brings them."""
    same = ROWS[:1].expand(13, 9).clone()
    assert_same(weights(train([same])), weights(train(same)))


def test_coupled_units_and_their_coding():
    train([rows(coupled())], coupled(), replace(FEW, centred=True))


def test_a_small_last_batch_has_as_few_chains(tmp_path):
    train(DataLoader(SET, 13), settings=replace(FEW, start="data", updates=4), out=tmp_path)
    assert load(tmp_path)["energies"].shape == (1, 13)  # after one of 4


# ---- what is refused ----------------


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], TypeError, "expected data as a torch tensor; got list: use torch.as_tensor"),
        (ROWS.tolist(), TypeError, "expected data as a torch tensor; got list"),
        (ROWS.numpy(), TypeError, "expected data as a torch tensor; got ndarray"),
        ("digits", TypeError, "expected data as a torch tensor; got str"),
        ({"x": ROWS}, TypeError, "expected data as a torch tensor; got dict"),
        (7, TypeError, "expected data as a torch tensor; got int"),
        (DataLoader([]), ValueError, "expected data with at least one batch; got a DataLoader"),  # pyright: ignore
        ([{"x": ROWS}], TypeError, "expected data as a torch tensor; got list"),
        (
            DataLoader([{"x": row} for row in ROWS]),  # pyright: ignore
            TypeError,
            "expected batches of rows [N, 9] as tensors, or tuples that begin with them; got dict "
            "as batch 0",
        ),
        ([ROWS[0]], ValueError, "expected batch 0 of shape [N, 9] with N >= 1; got [9]"),
        (
            [ROWS.reshape(-1, 1, 3, 3)],
            ValueError,
            "expected batch 0 of shape [N, 9] with N >= 1; got [30, 1, 3, 3]; x.flatten(1) makes "
            "rows of images",
        ),
        ([ROWS * 2 - 1], ValueError, "expected batch 0 of 0 and 1 only; got -1"),
    ],
)
def test_bad_batches_are_named_before_the_first_update(tmp_path, data, error, message):
    with untyped(), pytest.raises(error, match=re.escape(message)) as caught:
        train(data, sampler=Dies(Gibbs(1), 1), out=tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_bad_batch_later_on_leaves_a_checkpoint(tmp_path):
    data = [ROWS[:13], ROWS[13:], ROWS / 2]
    with pytest.raises(ValueError, match="expected batch 2 of 0 and 1 only; got 0.5"):
        train(data, out=tmp_path)
    assert load(tmp_path)["update"] == 2


def test_a_loader_that_runs_dry_says_how_many_came_and_leaves_a_checkpoint(tmp_path):
    model = rbm()
    with pytest.raises(
        ValueError,
        match="the data ran dry: 6 batches came of a generator, which cannot be begun again, and "
        "updates=8 need one each: pass what can be iterated over anew, such as a DataLoader, or "
        "set updates=6",
    ):
        train((ROWS[k : k + 9] for k in range(6)), model, out=tmp_path)
    assert load(tmp_path)["update"] == 6
    # the remedy works: and with more batches the run goes on
    whole = train(ROWS[k : k + 9] for k in range(8))
    train((ROWS[k : k + 9] for k in range(8)), model, out=tmp_path, resume=True)
    assert_same(weights(model), weights(whole))


def test_a_loader_that_hangs_is_left_after_a_signal(tmp_path, monkeypatch):
    from qsample.support import interrupts

    def hangs():
        for k in range(20):
            if k == 6:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(20)
            yield ROWS[k : k + 9]

    monkeypatch.setattr(interrupts, "GRACE", 0.1)
    began = time.monotonic()
    with pytest.raises(SystemExit, match="stopped by SIGTERM after update 6"):
        train(hangs(), out=tmp_path)
    assert time.monotonic() - began < 5 and load(tmp_path)["update"] == 6


def test_a_loader_that_breaks_leaves_a_checkpoint_and_its_own_error(tmp_path):
    def breaks():
        yield from ROWS.split(13)
        raise OSError("a file is gone")

    with pytest.raises(OSError, match="a file is gone") as caught:
        train(breaks(), out=tmp_path)
    assert caught.value.__notes__ == [f"{tmp_path} holds a checkpoint of update 3"]
    assert load(tmp_path)["update"] == 3


class OtherOrder:
    """Batches in an order of their own making, another one in each process as it were."""

    def __init__(self, start):
        self.start = start

    def __iter__(self):
        self.start += 1
        return iter(ROWS[self.start :].split(13))


def test_a_resumed_run_on_other_batches_says_so(tmp_path):
    with pytest.raises(Stop):
        train(OtherOrder(0), sampler=Dies(Gibbs(1), 7), out=tmp_path)
    with pytest.warns(RuntimeWarning, match="was trained on other batches, .* from update 5 on"):
        train(OtherOrder(5), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="made with data='batches of a OtherOrder', not '[0-9a-f]"):
        train(ROWS, out=tmp_path, resume=True)


@pytest.mark.long
def test_worker_processes_draw_by_the_seed_too(tmp_path):
    """Noise that workers draw, and their order: a resumed run goes on bit for bit."""
    code = (
        "import sys, torch\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "from qsample import Settings, fit\n"
        "from qsample.annealers import Gibbs\n"
        "from qsample.models import BernoulliRBM\n"
        "class Noisy(Dataset):\n"
        "    def __len__(self):\n        return 30\n"
        "    def __getitem__(self, k):\n        return (torch.rand(9) < 0.1 * (k % 9)).float()\n"
        "def train(updates, **options):\n"
        "    model = BernoulliRBM(9, 4, generator=torch.Generator().manual_seed(1))\n"
        "    data = DataLoader(Noisy(), 13, shuffle=True, num_workers=2)\n"
        "    s = Settings(updates=updates, chains=8, decay='none')\n"
        "    fit(model, data, Gibbs(1), s, progress=False, **options)\n"
        "    return model.W\n"
        "if __name__ == '__main__':\n"
        "    whole = train(8)\n"
        "    train(4, out=sys.argv[1])\n"
        "    assert torch.equal(train(8, out=sys.argv[1], resume=True), whole)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, str(script), str(tmp_path / "run")], check=True, cwd=root)
