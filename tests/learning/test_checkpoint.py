import copy
import errno
import hashlib
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qsample.learning.checkpoint import CheckpointError, NoCheckpoint, last_step, load, save

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
]


def tensor_bytes(t: Tensor) -> bytes:
    return bytes(t.contiguous().flatten().view(torch.uint8).numpy())


def assert_same(a: Any, b: Any) -> None:
    """Equal in value, type, key order and, for floats and tensors, bit by bit."""
    if isinstance(a, Tensor):
        assert isinstance(b, Tensor) and (a.dtype, a.shape) == (b.dtype, b.shape)
        assert tensor_bytes(a) == tensor_bytes(b)
        return
    assert type(a) is type(b), (a, b)
    if isinstance(a, dict):
        assert [(type(k), repr(k)) for k in a] == [(type(k), repr(k)) for k in b]
        for x, y in zip(a.values(), b.values(), strict=True):
            assert_same(x, y)
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, float) and a == a:
        assert struct.pack("d", a) == struct.pack("d", b)
    else:
        assert repr(a) == repr(b)


def state_of(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "W": torch.full((7, 3), float(step)),
        "chains": torch.ones(5, dtype=torch.int8) * (step % 2),
    }


def assert_is(folder: Path, *steps: int) -> None:
    state = load(folder)
    assert state["step"] in steps
    assert_same(state, state_of(state["step"]))
    assert last_step(folder) == state["step"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- round trips ----------------


@st.composite
def tensors(draw) -> Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype == torch.bool:
        return torch.tensor([b & 1 for b in raw], dtype=torch.bool).reshape(shape)
    if size == 0:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**53, 2**200)
    | st.floats()
    | st.text(max_size=5)
)
keys = scalars | st.sampled_from(["$tensor", "$dict", "$", "__metadata__", "a.b", "a", "", 0, "0"])
nested = st.recursive(
    scalars | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(keys, nested, max_size=5))
def test_any_nested_state_comes_back(state):
    with tempfile.TemporaryDirectory() as folder:
        before = copy.deepcopy(state)
        path = save(folder, state, step=3)
        assert_same(state, before)
        assert_same(load(folder), before)
        assert_same(load(path), before)
        json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON: no NaN, no Infinity


def test_an_optimiser_and_a_generator_go_on_as_if_nothing_happened(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(5)

    def steps(model, optimiser, generator):
        for _ in range(3):
            optimiser.zero_grad()
            model(torch.rand(4, 3, generator=generator)).square().sum().backward()
            optimiser.step()

    steps(model, optimiser, generator)
    parts = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "rng": generator.get_state(),
    }
    save(tmp_path, parts, step=3)
    steps(model, optimiser, generator)

    state = load(tmp_path)
    assert list(state["optimiser"]["state"]) == [0, 1]
    assert state["optimiser"]["param_groups"][0]["betas"] == (0.9, 0.999)
    again = torch.nn.Linear(3, 2)
    again.load_state_dict(state["model"])
    other = torch.optim.Adam(again.parameters(), lr=7.0)
    other.load_state_dict(state["optimiser"])
    rng = torch.Generator()
    rng.set_state(state["rng"])
    steps(again, other, rng)
    assert_same(dict(again.state_dict()), dict(model.state_dict()))


def test_views_and_shared_tensors_are_stored_as_their_values(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    state = {
        "base": base,
        "same": base,
        "transposed": base.T,
        "strided": base[:, ::2],
        "expanded": base[0].expand(2, 4),
        "conjugate": z.conj(),
        "negative": z.conj().imag,
        "parameter": torch.nn.Parameter(base),
    }
    save(tmp_path, state, step=0)
    stored = load(tmp_path)
    for name, tensor in state.items():
        assert torch.equal(stored[name], tensor), name
    stored["same"].zero_()
    assert torch.equal(stored["base"], base)


def test_numpy_floats_and_string_subclasses_become_plain(tmp_path):
    save(tmp_path, {"a": np.float64(0.1), "v": torch.__version__}, step=0)
    assert_same(load(tmp_path), {"a": 0.1, "v": str(torch.__version__)})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [1, {2}]}, r"cannot store set at 'a\.1': expected tensors, None"),
        ({"a": np.int64(3)}, "cannot store int64 at 'a'"),
        ({"a": {(1, 2): 3}}, r"cannot store tuple at key \(1, 2\) of 'a'"),
        ({"a": errno}, "cannot store module at 'a'"),
        ({"z": torch.zeros(1, dtype=torch.complex128)}, r"cannot store tensor 'z' \(.*complex128"),
        ({"z": torch.eye(2).to_sparse()}, r"cannot store tensor 'z' \(torch.sparse_coo"),
        ({"n": 10**5000}, "cannot store state: Exceeds the limit"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_written(tmp_path, state, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        save(tmp_path / "new", state, step=1)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_state_that_contains_itself(tmp_path):
    state: dict[str, Any] = {}
    state["self"] = state
    with pytest.raises(CheckpointError, match="cannot store state: .*recursion"):
        save(tmp_path, state, step=1)


@pytest.mark.parametrize(("step", "keep"), [(-1, 1), (True, 1), (1, 0), (1, False)])
def test_step_and_keep_are_checked(tmp_path, step, keep):
    with pytest.raises(ValueError, match="expected (step|keep) >= "):
        save(tmp_path, {}, step=step, keep=keep)


# ---- what stays in the folder ----------------


def test_one_checkpoint_stays_by_default_and_strangers_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoint-best.safetensors").write_text("mine too")
    for step in (1, 2, 10**9):
        assert save(tmp_path, state_of(step), step=step) == tmp_path / "checkpoint.json"
    expected = [
        "checkpoint-1000000000.safetensors",
        "checkpoint-best.safetensors",
        "checkpoint.json",
        "notes.txt",
    ]
    assert names(tmp_path) == expected
    assert_is(tmp_path, 10**9)


def test_keep_leaves_older_checkpoints_with_their_own_manifests(tmp_path):
    for step in (1, 5, 7, 9):
        save(tmp_path, state_of(step), step=step, keep=3)
    stems = [f"checkpoint-0000000{step}" for step in (5, 7, 9)]
    assert names(tmp_path) == sorted(
        [f"{s}.{e}" for s in stems for e in ("json", "safetensors")] + ["checkpoint.json"]
    )
    for step, stem in zip((5, 7, 9), stems, strict=True):
        assert_same(load(tmp_path / f"{stem}.json"), state_of(step))
    save(tmp_path, state_of(8), step=8, keep=2)  # another run, from an earlier step
    assert_is(tmp_path, 8)
    assert_same(load(tmp_path / f"{stems[1]}.json"), state_of(7))
    assert len(names(tmp_path)) == 5
    save(tmp_path, state_of(9), step=9)
    assert names(tmp_path) == ["checkpoint-00000009.safetensors", "checkpoint.json"]


def test_saving_a_step_again_does_not_touch_its_committed_file(tmp_path, monkeypatch):
    save(tmp_path, state_of(4), step=4)
    with monkeypatch.context() as patch, pytest.raises(CheckpointError):
        fail_at(patch, "replace", 2)
        save(tmp_path, {"step": 4, "other": True}, step=4)
    assert_is(tmp_path, 4)
    save(tmp_path, {"other": True}, step=4)
    assert load(tmp_path) == {"other": True}
    assert len(names(tmp_path)) == 2


# ---- faults ----------------


class Died(BaseException):
    """The process stops here: no handler of ours may be relied on."""


def fail_at(patch, function: str, call: int, error: BaseException | None = None) -> list[str]:
    """The call-th `os.function` from now on raises; the names of the calls so far."""
    calls, real = [], getattr(os, function)

    def wrapped(*args):
        calls.append(function)
        if len(calls) == call:
            raise error or OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    patch.setattr(os, function, wrapped)
    return calls


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize(("function", "stages"), [("fsync", 5), ("replace", 2), ("open", 3)])
def test_a_fault_at_any_stage_keeps_the_last_checkpoint(
    tmp_path, monkeypatch, function, stages, keep, dies
):
    stages += {"fsync": 2, "replace": 1, "open": 1}[function] * (keep - 1)
    save(tmp_path, state_of(1), step=1, keep=keep)
    for call in range(1, stages + 1):
        with monkeypatch.context() as patch:
            calls = fail_at(patch, function, call, Died() if dies else None)
            if dies:
                real = Path.unlink

                def unlink(path, real=real, calls=calls, call=call):
                    return real(path) if len(calls) < call else None

                patch.setattr(Path, "unlink", unlink)
            with pytest.raises(Died if dies else CheckpointError) as caught:
                save(tmp_path, state_of(2), step=2, keep=keep)
        if not dies:
            assert str(caught.value) == f"cannot save step 2 in {tmp_path}: No space left on device"
            assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
        # the fault came after the commit's rename
        renamed = function != "replace" and call == stages
        assert_is(tmp_path, 2 if renamed else 1)
    with monkeypatch.context() as patch:
        calls = fail_at(patch, function, -1)
        save(tmp_path, state_of(3), step=3, keep=1)
        # the stages above are all there are
        assert len(calls) == {"fsync": 5, "replace": 2, "open": 3}[function]
    assert_is(tmp_path, 3)
    assert names(tmp_path) == ["checkpoint-00000003.safetensors", "checkpoint.json"]


def test_the_first_save_interrupted_is_no_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        fail_at(patch, "replace", 2, KeyboardInterrupt())
        save(tmp_path, state_of(1), step=1)
    with pytest.raises(NoCheckpoint, match="no checkpoint at .*checkpoint.json"):
        load(tmp_path)


def test_a_file_system_that_cannot_fsync_folders(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(file):
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(file)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", fsync)
    save(tmp_path, state_of(1), step=1)
    assert_is(tmp_path, 1)


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)


def test_a_full_disk(tmp_path):
    """A limit on file size: the system refuses in the middle of the tensors or the manifest."""
    save(tmp_path, state_of(1), step=1)
    code = """
import resource, sys, torch
from qsample.learning.checkpoint import CheckpointError, save
for state, limit in (({"W": torch.zeros(100_000)}, 65536), ({"text": "x" * 100_000}, 65536)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        save(sys.argv[1], state, step=2)
    except CheckpointError as error:
        print(error)
"""
    done = python(code, str(tmp_path))
    assert done.stdout.splitlines() == [f"cannot save step 2 in {tmp_path}: File too large"] * 2, (
        done.stderr
    )
    assert_is(tmp_path, 1)
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_a_read_only_folder(tmp_path, monkeypatch):
    save(tmp_path, state_of(1), step=1)
    if os.geteuid():  # the superuser may write anywhere
        tmp_path.chmod(0o555)
    else:
        fail_at(monkeypatch, "replace", 1, PermissionError(errno.EACCES, "Permission denied"))
    try:
        with pytest.raises(
            CheckpointError, match=f"cannot save step 2 in {tmp_path}: Permission denied"
        ):
            save(tmp_path, state_of(2), step=2)
    finally:
        tmp_path.chmod(0o755)
    assert_is(tmp_path, 1)


@pytest.mark.parametrize("inner", ["", "/run"])
def test_a_file_where_the_folder_should_be(tmp_path, inner):
    (tmp_path / "taken").write_text("a file")
    folder = f"{tmp_path}/taken{inner}"
    with pytest.raises(
        CheckpointError, match=f"cannot save step 2 in {folder}: (File exists|Not a directory)"
    ):
        save(folder, {}, step=2)
    assert (tmp_path / "taken").read_text() == "a file"


# ---- damage ----------------


def assert_refused(path: Path, match: str | None = None) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path if path.is_dir() else path.parent) in str(caught.value)


@pytest.mark.parametrize("file", ["checkpoint.json", "checkpoint-00000006.safetensors"])
def test_any_changed_byte_and_any_truncation_is_detected(tmp_path, file):
    save(tmp_path, {**state_of(6), "rate": 0.125, 0: [None, True]}, step=6)
    whole = (tmp_path / file).read_bytes()
    rng = random.Random(0)
    for k in range(len(whole)):
        for other in (
            whole[k] ^ (1 << rng.randrange(8)),
            rng.choice([b for b in range(256) if b != whole[k]]),
        ):
            (tmp_path / file).write_bytes(whole[:k] + bytes([other]) + whole[k + 1 :])
            with pytest.raises(CheckpointError):
                load(tmp_path)
    for size in range(0, len(whole), 7):
        (tmp_path / file).write_bytes(whole[:size])
        assert_refused(
            tmp_path,
            "is truncated or damaged: expected" if file.endswith("safetensors") else "is corrupt",
        )
    (tmp_path / file).write_bytes(whole + b"\n")
    assert_refused(tmp_path)
    (tmp_path / file).write_bytes(whole)
    assert load(tmp_path)["rate"] == 0.125


def test_messages_say_what_is_wrong(tmp_path):
    assert_refused(tmp_path, f"no checkpoint at {tmp_path}/checkpoint.json")
    assert_refused(tmp_path / "gone", f"no checkpoint at {tmp_path}/gone")
    manifest = save(tmp_path, state_of(1), step=1)
    text = manifest.read_text()
    for new, match in [
        (text.replace('"version": 1', '"version": 2'), "has format version 2: expected 1"),
        (text.replace('"step": 1', '"step": 2'), "is corrupt or edited"),
        (text[: len(text) // 2], "is corrupt: not JSON"),
        ("[" * 100_000, "is corrupt: not JSON"),
        ("[1, 2]", "is not a qsample checkpoint"),
        ('{"format": "other"}', "is not a qsample checkpoint"),
    ]:
        manifest.write_text(new)
        assert_refused(manifest, match)
        with pytest.raises(CheckpointError, match=match):
            last_step(tmp_path)
    manifest.write_bytes(b"\xff\xfe\x00")
    assert_refused(manifest, "is corrupt: not JSON")
    manifest.write_text(text)
    tensors = tmp_path / "checkpoint-00000001.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    assert_refused(
        tmp_path,
        "checkpoint-00000001.safetensors is corrupt: its SHA-256 is not the one in checkpoint.json",
    )
    tensors.unlink()
    assert_refused(tmp_path, "needs checkpoint-00000001.safetensors: No such file")


def test_a_damaged_manifest_costs_no_tensors_before_the_next_commit(tmp_path, monkeypatch):
    manifest = save(tmp_path, state_of(1), step=1)
    text = manifest.read_text()
    manifest.write_text("damaged")
    with monkeypatch.context() as patch, pytest.raises(CheckpointError):
        fail_at(patch, "replace", 1)
        save(tmp_path, state_of(2), step=2)
    manifest.write_text(text)
    assert_is(tmp_path, 1)


def test_the_manifest_tells_the_hash_of_the_tensors(tmp_path):
    manifest = json.loads(save(tmp_path, state_of(1), step=1).read_text())
    data = (tmp_path / manifest["tensors"]["file"]).read_bytes()
    assert manifest["tensors"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["tensors"]["bytes"] == len(data)
    assert (manifest["step"], manifest["version"]) == (1, 1)


# ---- kill -9 ----------------

SAVER = """
import os, sys, torch
from qsample.learning.checkpoint import save
torch.set_num_threads(1)
for line in sys.stdin:  # each line starts a saver; to fork costs less than to import torch again
    child = os.fork()
    if child == 0:
        step = int(line)
        while True:
            step += 1
            state = {"step": step, "W": torch.full((40_000,), float(step))}
            save(sys.argv[1], state, step=step, keep=1 + step % 2)
            os.write(1, b"step %d\\n" % step)
    os.write(1, b"pid %d\\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_the_last_acknowledged_step_or_a_later_one(tmp_path):
    rng, acknowledged = random.Random(0), 0
    server = subprocess.Popen(
        [sys.executable, "-c", SAVER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    with server, server.stdin, server.stdout:
        for _ in range(15):
            print(acknowledged, file=server.stdin, flush=True)
            lines = []
            while not {"pid", "step"} <= {line.split()[0] for line in lines}:
                lines.append(server.stdout.readline())
                assert lines[-1] not in ("", "dead\n"), "the saver failed"
            pid = next(int(line.split()[1]) for line in lines if line.startswith("pid"))
            until = time.monotonic() + rng.uniform(0, 0.1)
            while time.monotonic() < until:
                load(tmp_path)  # reading beside a running save always finds a whole checkpoint
            os.kill(pid, signal.SIGKILL)
            lines += iter(server.stdout.readline, "dead\n")
            acknowledged = max(int(line.split()[1]) for line in lines if line.startswith("step"))
            state = load(tmp_path)
            assert state["step"] >= acknowledged
            assert torch.equal(state["W"], torch.full((40_000,), float(state["step"])))
            acknowledged = state["step"]
    save(tmp_path, state_of(acknowledged + 1), step=acknowledged + 1)
    assert len(names(tmp_path)) == 2
