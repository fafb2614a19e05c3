"""One run at a time in a folder, readers beside it, and a folder that vanishes in mid-run."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from qsample import load_run
from qsample.annealers import Gibbs
from qsample.learning.checkpoint import load
from qsample.support import files
from qsample.support.files import FolderInUse, FolderLock
from tests.support.training import Dies, assert_same, rbm, run


class Does(Dies):
    """Calls `act` in its k-th call."""

    def __init__(self, sampler, call, act):
        super().__init__(sampler, call)
        self.act = act

    def sample(self, problem, num, *, initial=None, generator=None):
        self.left -= 1
        if self.left == 0:
            self.act()
        return self.sampler.sample(problem, num, initial=initial, generator=generator)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_whole(folder):
    """All metrics and the last checkpoint of a run that nothing happened to."""
    model = rbm()
    expected = run(model, Gibbs(2))
    assert_same(lines(folder), expected)
    assert_same(load(folder)["model"], dict(model.state_dict()))
    assert load(folder)["update"] == 20


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_is_refused_while_the_first_goes_on(tmp_path, resume):
    said = []

    def second():
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(FolderInUse, match="another run") as caught:
            run(rbm(), Dies(Gibbs(2), 1), out=tmp_path, resume=resume)
        said.append(str(caught.value))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    run(rbm(), Does(Gibbs(2), 7, second), out=tmp_path)
    run(rbm(), Gibbs(2), out=tmp_path, resume=True)  # free again
    assert said == [
        f"{tmp_path} is being written by another run of this process ({os.getpid()}): "
        "wait for it, stop it, or choose another output folder"
    ]
    assert_whole(tmp_path)


def test_two_threads_do_not_share_a_folder(tmp_path):
    inside, refused = threading.Event(), threading.Event()
    errors = []

    def first():
        run(rbm(), Does(Gibbs(2), 7, lambda: (inside.set(), refused.wait(20))), out=tmp_path)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(20)
    try:
        run(rbm(), Gibbs(2), out=tmp_path, resume=True)
    except FolderInUse as error:
        errors.append(error)
    refused.set()
    thread.join()
    assert len(errors) == 1
    assert_whole(tmp_path)


def test_readers_are_free(tmp_path):
    seen = []

    def reads():
        seen.append(load_run(tmp_path, rbm()).update)

    run(rbm(), Does(Gibbs(2), 13, reads), out=tmp_path)
    assert seen == [10]


OTHER = """
import sys
from pathlib import Path
from qsample.support.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_holds_it_until_it_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=f"another run of process {other.pid} on "):
            run(rbm(), Gibbs(2), out=tmp_path)
        other.kill()
        other.wait()
        run(rbm(), Gibbs(2), out=tmp_path)
    assert_whole(tmp_path)


def test_a_forked_child_does_not_keep_the_folder(tmp_path):
    lock = FolderLock(tmp_path)
    child = os.fork()
    if child == 0:
        threading.Event().wait(20)
        os._exit(0)
    with pytest.raises(FolderInUse):
        FolderLock(tmp_path)
    lock.release()
    FolderLock(tmp_path).release()  # although the child lives
    os.kill(child, 9)
    os.waitpid(child, 0)


def test_where_the_file_system_has_no_locks_a_warning_says_so(tmp_path, monkeypatch):
    class NoLocks:
        LOCK_EX, LOCK_NB, LOCK_UN = 2, 4, 8

        @staticmethod
        def flock(file, how):
            raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "fcntl", NoLocks)
    with pytest.warns(RuntimeWarning, match=f"{tmp_path} is not protected .*: No locks available"):
        lock = FolderLock(tmp_path)
    with pytest.raises(FolderInUse):  # within a process it is
        FolderLock(tmp_path)
    lock.release()
    monkeypatch.setattr(files, "fcntl", None)
    with pytest.warns(RuntimeWarning, match="this system has no file locks"):
        FolderLock(tmp_path).release()


def test_a_lock_that_is_dropped_lets_go(tmp_path):
    lock = FolderLock(tmp_path)
    assert lock.intact()
    del lock
    lock = FolderLock(tmp_path)
    (tmp_path / files.LOCK).unlink()
    assert not lock.intact()
    FolderLock(tmp_path).release()
    lock.release()


@pytest.mark.parametrize(
    ("how", "call"),
    [("deleted", 3), ("deleted", 20), ("moved", 7), ("emptied", 7), ("replaced", 7)],
)
def test_a_folder_that_vanishes_is_made_anew_with_everything(tmp_path, call, how):
    out = tmp_path / "run"

    def vanish():
        if how == "emptied":
            for path in out.iterdir():
                path.unlink()
            return
        out.rename(tmp_path / "elsewhere")
        if how == "deleted":
            shutil.rmtree(tmp_path / "elsewhere")
        if how == "replaced":
            out.mkdir()

    with pytest.warns(RuntimeWarning, match=f"{out} was deleted or replaced in mid-run"):
        run(rbm(), Does(Gibbs(2), call, vanish), out=out)
    assert_whole(out)


def test_a_folder_replaced_by_another_run_stops_this_one(tmp_path):
    out, other = tmp_path / "run", tmp_path / "other"
    run(rbm(), Gibbs(1), out=other)
    before = {path.name: path.read_bytes() for path in other.iterdir()}

    def replace():
        out.rename(tmp_path / "moved")
        other.rename(out)

    with pytest.raises(
        ValueError, match="replaced in mid-run by a folder with another run: stopped"
    ):
        run(rbm(), Does(Gibbs(2), 7, replace), out=out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert load(tmp_path / "moved")["update"] == 5


def test_a_run_in_the_new_folder_keeps_the_first_one_out(tmp_path):
    out, taken = tmp_path / "run", []

    def replace():
        out.rename(tmp_path / "moved")
        out.mkdir()
        taken.append(FolderLock(out))

    with pytest.raises(FolderInUse):
        run(rbm(), Does(Gibbs(2), 7, replace), out=out)
    assert [path.name for path in out.iterdir()] == [files.LOCK]
    taken[0].release()


@pytest.mark.parametrize("how", ["deleted", "cut"])
def test_metrics_changed_in_mid_run_are_written_anew(tmp_path, how):
    path = tmp_path / "metrics.jsonl"

    def change():
        path.unlink() if how == "deleted" else path.write_text("")

    with pytest.warns(RuntimeWarning, match=f"{path} was changed in mid-run"):
        run(rbm(), Does(Gibbs(2), 7, change), out=tmp_path)
    assert_whole(tmp_path)
