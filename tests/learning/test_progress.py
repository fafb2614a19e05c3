"""The bar: silent without a standard error, quick where somebody looks, slow in a log file."""

import io
import sys
from types import SimpleNamespace

import pytest

from qsample.annealers import Gibbs
from qsample.cli import main
from qsample.support.progress import progress_bar
from tests.support.commands import TINY
from tests.support.training import SHORT, rbm, run


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Bare:
    """A stream with nothing but write."""

    def write(self, text):
        return len(text)

    def flush(self):
        pass


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [None, closed(), Bare()], ids=["None", "closed", "bare"])
@pytest.mark.parametrize("progress", [True, False])
def test_any_standard_error_will_do(monkeypatch, stream, progress):
    monkeypatch.setattr(sys, "stderr", stream)
    from qsample import fit

    model = rbm()
    fit(model, (model.b.detach() > 1).float()[None], Gibbs(1), SHORT, progress=progress)
    assert list(progress_bar(range(3))) == [0, 1, 2]


def test_the_command_line_without_standard_streams(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", None)
    main(
        ["train", "--out", str(tmp_path), "--data", "bars-and-stripes-3x3", "--hidden", "3", *TINY]
    )
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(tmp_path / "gone")])
    assert stop.value.code == 2


def pace(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(total=3) as bar:
        return bar.mininterval


def test_a_log_file_gets_a_line_now_and_then(monkeypatch):
    assert pace(monkeypatch, io.StringIO()) == 10
    assert pace(monkeypatch, Terminal()) == 0.1


def test_a_notebook_is_watched_although_it_is_no_terminal(monkeypatch):
    outstream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    assert pace(monkeypatch, outstream()) == 0.1
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert pace(monkeypatch, io.StringIO()) == 0.1
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert pace(monkeypatch, io.StringIO()) == 10


def test_no_bar_is_no_output(capsys):
    run(rbm(), Gibbs(1))
    assert capsys.readouterr().err == ""
