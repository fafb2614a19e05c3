"""Callbacks see a run, may stop it, and cost no more than an error of their own."""

import signal
import sys
import time
from dataclasses import replace
from types import ModuleType

import pytest
import torch

import qsample as qs
from qsample import Callback
from qsample.annealers import Gibbs
from qsample.learning.checkpoint import load
from qsample.learning.tensorboard import TensorBoard
from tests.support.thinning import thinned
from tests.support.training import SHORT, Dies, Stop, assert_same, rbm, run

FEW = replace(SHORT, updates=8, evaluate_every=3, checkpoint_every=4)


class Notes(Callback):
    """Writes down what it is told."""

    def __init__(self):
        self.said = []

    def on_begin(self, run):
        self.said.append(f"begin {run.update}")

    def on_update(self, run):
        assert run.samples is not None and run.model is run.averaged
        self.said.append(f"{run.update}")

    def on_evaluate(self, run, metrics):
        assert metrics == run.history[-1] and metrics["update"] == run.update
        self.said.append("evaluate")

    def on_checkpoint(self, run, folder):
        assert load(folder)["update"] == run.update
        self.said.append("checkpoint")

    def on_end(self, run):
        self.said.append(f"end {run.update}")


class Raises(Callback):
    """Raises its error in one method, at an update."""

    def __init__(self, method, update=6):
        self.method, self.update = method, update

    def __getattribute__(self, name):
        if name.startswith("on_") and name == object.__getattribute__(self, "method"):
            return self._raise
        return object.__getattribute__(self, name)

    def _raise(self, run, *_):
        if run.update >= self.update:
            raise LookupError("no such place")


def test_a_callback_hears_of_everything_in_order(tmp_path):
    notes = Notes()
    heard = []
    run(rbm(), Gibbs(1), FEW, out=tmp_path, callbacks=[notes, heard.append])
    said = "begin 0,1,2,evaluate,3,4,checkpoint,5,evaluate,6,7,evaluate,8,checkpoint,end 8"
    assert ",".join(notes.said) == said
    assert [metrics["update"] for metrics in heard] == [3, 6, 8]
    notes.said.clear()
    run(rbm(), Gibbs(1), FEW, out=tmp_path, resume=True, callbacks=[notes])
    assert notes.said == ["begin 8", "end 8"]


@pytest.mark.long
def test_callbacks_change_nothing(tmp_path):
    model, alone = rbm(), rbm()
    history = run(model, Gibbs(1), FEW, callbacks=[Notes(), lambda metrics: metrics.clear()])
    assert_same(history, run(alone, Gibbs(1), FEW))
    assert_same(dict(model.state_dict()), dict(alone.state_dict()))


class Stops(Callback):
    """Asks to stop at an update."""

    def __init__(self, update):
        self.update = update

    def on_update(self, run):
        if run.update == self.update:
            run.stop()


@pytest.mark.parametrize("stops", thinned([lambda m: m["update"] == 6, Stops(6)], 2))
def test_a_callback_may_stop_the_run_which_goes_on_later(tmp_path, stops):
    history = run(rbm(), Gibbs(1), FEW, out=tmp_path, callbacks=[stops])
    assert [metrics["update"] for metrics in history] == [3, 6]
    assert load(tmp_path)["update"] == 6
    model, whole = rbm(), rbm()
    assert_same(run(model, Gibbs(1), FEW, out=tmp_path, resume=True), run(whole, Gibbs(1), FEW))
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))


@pytest.mark.parametrize("method", thinned(["on_update", "on_evaluate"], 2))
def test_a_callback_that_raises_ends_the_run_and_costs_nothing(tmp_path, method):
    notes = Notes()
    with pytest.raises(LookupError, match="no such place") as caught:
        run(rbm(), Gibbs(1), FEW, out=tmp_path, callbacks=[Raises(method), notes])
    assert notes.said[-1] == "end 6"
    assert load(tmp_path)["update"] == 6
    assert caught.value.__notes__ == [f"{tmp_path} holds a checkpoint of update 6"]
    model, whole = rbm(), rbm()
    assert_same(run(model, Gibbs(1), FEW, out=tmp_path, resume=True), run(whole, Gibbs(1), FEW))
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))


def test_a_function_that_raises_too(tmp_path):
    def broken(metrics):
        return metrics["likelihood"]

    with pytest.raises(KeyError, match="likelihood"):
        run(rbm(), Gibbs(1), FEW, out=tmp_path, callbacks=[broken])
    assert load(tmp_path)["update"] == 3


def test_at_the_beginning_nothing_is_written_and_at_the_end_all_is(tmp_path):
    notes = Notes()
    with pytest.raises(LookupError):
        run(rbm(), Gibbs(1), FEW, out=tmp_path, callbacks=[notes, Raises("on_begin", 0)])
    assert notes.said == ["begin 0", "end 0"] and not (tmp_path / "checkpoint.json").exists()
    with pytest.raises(LookupError):
        run(rbm(), Gibbs(1), FEW, out=tmp_path, callbacks=[Raises("on_checkpoint"), notes])
    assert load(tmp_path)["update"] == 8 and notes.said[-1] == "end 8"
    run(rbm(), Gibbs(1), FEW, out=tmp_path, resume=True)  # the folder is free


def test_a_state_that_is_not_good_is_not_saved(tmp_path):
    class Breaks(Callback):
        def on_update(self, run):
            if run.update == 6:
                with torch.no_grad():
                    run.model.weights()[0].fill_(float("nan"))
                raise LookupError

    with pytest.raises(LookupError) as caught:
        run(rbm(), Gibbs(1), FEW, out=tmp_path, callbacks=[Breaks()])
    assert load(tmp_path)["update"] == 4 and not hasattr(caught.value, "__notes__")


def test_errors_at_the_end_do_not_hide_the_first(tmp_path):
    late = Notes()
    with pytest.raises(LookupError):
        run(rbm(), Gibbs(1), FEW, callbacks=[Raises("on_end"), late])
    assert late.said[-1] == "end 8"
    with pytest.raises(Stop) as caught:
        run(rbm(), Dies(Gibbs(1), 7), FEW, callbacks=[Raises("on_end"), late])
    assert caught.value.__notes__ == ["Raises.on_end raised LookupError('no such place') then"]


@pytest.mark.parametrize("wrong", [Notes, "print", 3, None])
def test_what_is_no_callback_is_refused(wrong):
    with pytest.raises(TypeError, match=r"expected callbacks as objects of qs.Callback, or funct"):
        run(rbm(), Dies(Gibbs(1), 1), callbacks=[wrong])


def test_a_callback_that_takes_too_long_is_cut_after_a_signal(tmp_path, monkeypatch):
    from qsample.support import interrupts

    class Slow(Callback):
        def on_update(self, run):
            if run.update == 7:
                signal.raise_signal(signal.SIGTERM)
                time.sleep(20)

    monkeypatch.setattr(interrupts, "GRACE", 0.1)
    began = time.monotonic()
    with pytest.raises(SystemExit, match="stopped by SIGTERM after update 7"):
        run(rbm(), Gibbs(1), FEW, out=tmp_path, callbacks=[Slow()])
    assert time.monotonic() - began < 5 and load(tmp_path)["update"] == 7


# ---- TensorBoard ----------------


class Writer:
    """Plays TensorBoard's: keeps what it is given, by folder."""

    made: list["Writer"]

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars = []
        folder.mkdir(parents=True, exist_ok=True)
        Writer.made.append(self)

    def add_scalar(self, name, number, update):
        self.scalars.append((name, number, update))

    def close(self):
        self.closed = True


@pytest.fixture
def writers(monkeypatch):
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # pyright: ignore
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    Writer.made = []
    return Writer.made


def test_tensorboard_writes_into_the_folder_of_a_run_by_itself(tmp_path, writers):
    with pytest.raises(Stop):
        run(rbm(), Dies(Gibbs(1), 6), FEW, out=tmp_path)
    history = run(rbm(), Gibbs(1), FEW, out=tmp_path, resume=True)
    first, second = writers
    assert first.folder == second.folder == tmp_path / "tensorboard"
    assert (first.purge_step, second.purge_step) == (0, 4)
    assert first.closed and second.closed
    lines = [line for line in history if line["update"] > 4]
    numbers = [(name, line[name], line["update"]) for line in lines for name in line]
    assert second.scalars == numbers
    run(rbm(), Gibbs(1), FEW)  # no folder, no files
    assert len(writers) == 2


def test_tensorboard_where_one_asks_for_it(tmp_path, writers):
    run(rbm(), Gibbs(1), FEW, out=tmp_path / "run", callbacks=[TensorBoard(tmp_path / "board")])
    (writer,) = writers
    assert writer.folder == tmp_path / "board"
    with pytest.raises(ValueError, match=r"TensorBoard\(\) writes to the folder of the run: pass"):
        run(rbm(), Dies(Gibbs(1), 1), FEW, callbacks=[qs.TensorBoard()])


def test_tensorboard_that_is_deleted_begins_anew(tmp_path, writers):
    def delete(metrics):
        if metrics["update"] == 6:
            (tmp_path / "board").rmdir()

    board = TensorBoard(tmp_path / "board")
    history = run(rbm(), Gibbs(1), FEW, callbacks=[delete, board])
    first, second = writers
    assert first.closed and second.purge_step == 0
    assert {update for _, _, update in second.scalars} == {line["update"] for line in history}


def test_without_tensorboard_asking_for_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="needs the package tensorboard: pip install tensorboard"):
        TensorBoard()
    run(rbm(), Gibbs(1), replace(FEW, updates=1), out=tmp_path)
    assert not (tmp_path / "tensorboard").exists()
