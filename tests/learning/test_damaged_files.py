"""Flipped bits, and forged files with a right hash: the same content, or an error with the file."""

import copy
import json
import math
import random
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import save as to_bytes

from qsample import load_run
from qsample.annealers import Gibbs
from qsample.annealers.dwave.chip.embedding import place
from qsample.annealers.dwave.cloud.errors import DeviceError
from qsample.annealers.dwave.cloud.job import Answer
from qsample.annealers.dwave.cloud.recording import Recorder, Replay
from qsample.annealers.dwave.programming import Programming, Wiring
from qsample.learning import checkpoint
from qsample.learning.checkpoint import CheckpointError, load
from qsample.models import DenoisingThermodynamicModel
from qsample.models.diffusion.tensor_file import read_file, write_file
from qsample.problem.graph import Graph
from qsample.problem.lattices import grid
from tests.support.training import assert_same, rbm, run


def flipped(data: bytes, rng: random.Random) -> bytes:
    """One bit of it is another."""
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def damages(data: bytes, rng: random.Random, count: int):
    """Bit flips, changed bytes, cuts, insertions."""
    for _ in range(count):
        yield flipped(data, rng)
    for _ in range(count // 4):
        at = rng.randrange(len(data))
        yield data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        yield data[:at]
        yield data[:at] + bytes([rng.randrange(256)]) + data[at:]


def one_line(error) -> str:
    assert "\n" not in str(error)
    return str(error)


# ---- thermodynamic models ----------------


@pytest.fixture(scope="module")
def model():
    made = DenoisingThermodynamicModel(
        grid(4, degree=4), bits=6, steps=2, classes=2, generator=torch.Generator().manual_seed(0)
    )
    return made


def same_model(a, b) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(bytes(x.numpy()) == bytes(y.numpy()) for x, y in pairs) and torch.equal(
        a.sites, b.sites
    )


def test_a_damaged_model_is_never_loaded(tmp_path, model):
    path = tmp_path / "model.safetensors"
    model.save(path)
    whole = path.read_bytes()
    for data in damages(whole, random.Random(1), 300):
        path.write_bytes(data)
        try:
            back = DenoisingThermodynamicModel.load(path, model.graph)
        except ValueError as error:
            assert str(path) in one_line(error)
        else:
            assert same_model(back, model)


FORGED_MODELS = {
    "steps": lambda state, s: s.update(steps=3),
    "many steps": lambda state, s: s.update(steps=10**9),
    "bits": lambda state, s: s.update(bits=10**7),
    "negative": lambda state, s: s.update(bits=-1),
    "classes": lambda state, s: s.update(classes=10**6),
    "text": lambda state, s: s.update(copies="2"),
    "truth": lambda state, s: s.update(steps=True),
    "rate": lambda state, s: s.update(rate=math.inf),
    "scale": lambda state, s: s.update(scale=None),
    "times": lambda state, s: s.update(times=[1, 2]),
    "no times": lambda state, s: s.update(times=None),
    "missing": lambda state, s: s.pop("times"),
    "unknown": lambda state, s: s.update(more=1),
    "weights": lambda state, s: state["machines.0.J"].fill_(math.nan),
    "shape": lambda state, s: state.update({"machines.0.J": torch.zeros(3)}),
    "dtype": lambda state, s: state.update({"machines.0.J": torch.zeros(3, dtype=torch.int8)}),
    "no weights": lambda state, s: state.pop("machines.1.h"),
    "no sites": lambda state, s: state.pop("sites"),
    "sites": lambda state, s: state["sites"].fill_(999),
    "same sites": lambda state, s: state["sites"].fill_(1),
    "far sites": lambda state, s: state.update(sites=torch.zeros(3, 3)),
    "identity": lambda state, s: state.update(_extra_state=torch.zeros(3, dtype=torch.uint8)),
}


@pytest.mark.parametrize("how", FORGED_MODELS)
def test_a_forged_model_with_a_right_hash_is_refused(tmp_path, model, how):
    path = tmp_path / "model"
    state = {k: v.clone() for k, v in (model.state_dict() | {"sites": model.sites}).items()}
    settings = copy.deepcopy(model._settings)
    FORGED_MODELS[how](state, settings)
    about = {"format": "qsample thermodynamic model 2", "graph": model.graph.hash}
    write_file(path, state, about | {"settings": json.dumps(settings)})
    with pytest.raises(ValueError) as caught:
        DenoisingThermodynamicModel.load(path, model.graph)
    assert str(path) in one_line(caught.value)


@pytest.mark.parametrize("settings", ["[]", "{", "[" * 10**5, "3", "null"])
def test_settings_that_are_none(tmp_path, model, settings):
    state = model.state_dict() | {"sites": model.sites}
    about = {"format": "qsample thermodynamic model 2", "graph": model.graph.hash}
    write_file(tmp_path / "m", state, about | {"settings": settings})
    with pytest.raises(ValueError, match=str(tmp_path)) as caught:
        DenoisingThermodynamicModel.load(tmp_path / "m", model.graph)
    one_line(caught.value)


def test_a_file_without_a_hash_says_so(tmp_path):
    (tmp_path / "old").write_bytes(to_bytes({"a": torch.zeros(2)}, {"format": "mine"}))
    with pytest.raises(ValueError, match="it holds no SHA-256"):
        read_file(tmp_path / "old", "mine")


# ---- checkpoints ----------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    run(rbm(), Gibbs(2), out=out, config={"data": "mine"})
    return out


def forge(folder, change, tensors=None):
    """Change a manifest, or its tensors, and give it a right hash."""
    path = folder / checkpoint.LATEST
    manifest = json.loads(path.read_text())
    manifest.pop("sha256")
    manifest = change(manifest) or manifest
    if tensors is not None:
        import hashlib

        (folder / manifest["tensors"]["file"]).write_bytes(tensors)
        digest = hashlib.sha256(tensors).hexdigest()
        manifest["tensors"] |= {"bytes": len(tensors), "sha256": digest}
    path.write_bytes(checkpoint._render(manifest))


def deep(levels):
    tree: object = {"$tensor": "nothing"}
    for _ in range(levels):
        tree = [tree]
    return tree


def put(**values):
    return lambda manifest: manifest.update(values)


def put_file(**values):
    return lambda manifest: manifest["tensors"].update(values)


def put_state(name, value):
    return lambda manifest: manifest["state"].update({name: value})


FORGED = {
    "no state": lambda m: m.pop("state") and None,
    "state of a list": put(state=[1]),
    "state of a number": put(state=3),
    "a negative step": put(step=-1),
    "a huge step": put(step=10**30),
    "a step in words": put(step="3"),
    "a true step": put(step=True),
    "no tensors": lambda m: m.pop("tensors") and None,
    "tensors of a list": put(tensors=[]),
    "a file outside": put_file(file="../other/checkpoint-00000020.safetensors"),
    "an absolute file": put_file(file="/etc/passwd"),
    "a file of another name": put_file(file="notes.txt"),
    "the folder itself": put_file(file="."),
    "a file with a zero byte": put_file(file="checkpoint-\x00.safetensors"),
    "a file of a number": put_file(file=3),
    "a manifest as tensors": put_file(file="checkpoint-00000020.json"),
    "a file that is not there": put_file(file="checkpoint-00000099.safetensors"),
    "bytes below zero": put_file(bytes=-1),
    "bytes in words": put_file(bytes="1"),
    "no hash": put_file(sha256=None),
    "an unknown tensor": put_state("more", {"$tensor": "nothing"}),
    "a tensor of a list": put_state("more", {"$tensor": [1]}),
    "a tensor of a dict": put_state("more", {"$tensor": {}}),
    "a float in words": put_state("more", {"$float": "abc"}),
    "a float of a list": put_state("more", {"$float": []}),
    "an unknown kind": put_state("more", {"$code": "1"}),
    "a dict of a number": put_state("more", {"$dict": 3}),
    "a dict of triples": put_state("more", {"$dict": [[1, 2, 3]]}),
    "a key that is a list": put_state("more", {"$dict": [[[1], 2]]}),
    "a tuple of a number": put_state("more", {"$tuple": 3}),
    "a deep tree": put_state("more", deep(700)),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_manifest_with_a_right_hash_is_refused(tmp_path, folder, how):
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    forge(out, FORGED[how])
    with pytest.raises(CheckpointError) as caught:
        load(out)
    assert str(out) in one_line(caught.value)
    with pytest.raises(CheckpointError):
        load_run(out, rbm())


@pytest.mark.parametrize("tensors", [b"", b'\x08\0\0\0\0\0\0\0{"a": 1}', b"\xff" * 40, b"hello"])
def test_forged_tensors_with_a_right_hash_are_refused(tmp_path, folder, tensors):
    out = tmp_path / "run"
    shutil.copytree(folder, out)
    forge(out, lambda manifest: None, tensors)
    with pytest.raises(CheckpointError, match="is corrupt: no safetensors") as caught:
        load(out)
    one_line(caught.value)


NAN = torch.full((9, 4), math.nan)
BEST = {"update": 4, "name": "score", "score": 1.0, "waited": 0, "weights": {}}
LATER = {"pending", "former", "numbering", "training", "average", "scheduler", "best", "seen"}
PARTS = {
    "update": [-1, 1 << 70, "3", None, 1.5, True],
    "history": [None, {}, [1], [{"update": "x"}], [{"update": 1, "loss": "x"}], [{}]],
    "settings": [None, [], {"lr": -1}, {"updates": "many"}, {"more": 1}, {"lr": [1]}],
    "config": [None, [1], 3],
    "identity": [None, {}, {"sampler": 1, "data": "x"}],
    "seconds": [None, "x", math.nan, -1.0, math.inf],
    "model": [None, {}, {"W": 3}, {"W": NAN}, {"W": torch.zeros(3, 3)}, []],
    "chains": [
        None,
        torch.zeros(3),
        torch.full((24, 13), 2, dtype=torch.int8),
        torch.ones(1, 1).to(torch.int8),
    ],
    "offsets": [None, torch.zeros(2, 2), torch.zeros(5), torch.zeros(13, dtype=torch.int8)],
    "energies": [3, torch.zeros(3), torch.zeros(2, 2, dtype=torch.int8), [1]],
    "carry": [3, [torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}],
    "sampler": [3, [1]],
    "pending": [3, {}, {"update": 1}, {"update": 1, "loss": "x", "beta": 1.0, "beta_stderr": 1.0}],
    "former": [3, [3]],
    "numbering": [None, -1, "1", 1.0],
    "training": [3, {"W": NAN}, {"W": torch.zeros(3, 3)}, {"x": torch.zeros(3)}],
    "average": [3, {"module.W": NAN}, [1]],
    "scheduler": [3, [1]],
    "best": [
        3,
        {},
        BEST | {"update": -1},
        BEST | {"score": "x"},
        BEST | {"weights": {"W": NAN}},
        BEST,
    ],
    "seen": [3, [1]],
    "optimizer": [
        None,
        {},
        {"state": 3, "param_groups": []},
        {"state": {}, "param_groups": []},
        {"state": {}, "param_groups": [3]},
        {"state": {0: 3}, "param_groups": []},
        {"state": {9: {}}, "param_groups": "same"},
        {"state": {0: {"exp_avg": torch.zeros(7)}}, "param_groups": "same"},
        {"state": {0: {"exp_avg": NAN}}, "param_groups": "same"},
    ],
}


@pytest.mark.parametrize("part", PARTS)
def test_a_forged_state_with_a_right_hash_is_refused(tmp_path, folder, part):
    state = load(folder)
    for number, value in enumerate(PARTS[part]):
        if isinstance(value, dict) and value.get("param_groups") == "same":
            value = value | {"param_groups": state["optimizer"]["param_groups"]}
        out, model = tmp_path / f"{number}", rbm()
        checkpoint.save(out, state | {part: value}, step=20)
        before = {name: t.clone() for name, t in model.state_dict().items()}
        with pytest.raises(ValueError) as caught:
            run(model, Gibbs(2), out=out, resume=True)
        assert str(out) in one_line(caught.value), (part, value)
        assert_same(dict(model.state_dict()), before)
        with suppress(ValueError):  # what only matters for going on may be read
            load_run(out, rbm())


def test_a_lost_part_is_named(tmp_path, folder):
    state = load(folder)
    for part in PARTS.keys() - LATER:
        lost = {name: value for name, value in state.items() if name != part}
        checkpoint.save(tmp_path, lost, step=20)
        with pytest.raises(CheckpointError, match=f"{tmp_path} .* it lacks '{part}'"):
            load_run(tmp_path, rbm())


def test_bit_flips_anywhere_in_a_run(tmp_path, folder):
    out, rng = tmp_path / "run", random.Random(2)
    shutil.copytree(folder, out)
    expected = load(folder)
    for path in sorted(out.iterdir()):
        whole = path.read_bytes()
        for data in damages(whole, rng, 60) if whole else ():
            path.write_bytes(data)
            try:
                state = load_run(out, rbm())
            except ValueError as error:
                assert str(out) in one_line(error)
            else:
                assert_same(dict(state.model.state_dict()), expected["model"])
                assert state.history == expected["history"]
        path.write_bytes(whole)


# ---- recordings and embeddings ----------------


def asked(h):
    wiring = Wiring(np.array([3, 5, 8]), np.array([[0, 1]]))
    return Programming(wiring, np.array([h, 0.0, 1.0]), np.array([0.5]))


def answer(seed):
    spins = torch.randint(0, 2, (7, 3), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return Answer(spins.to(torch.int8).numpy(), {"qpu_access_time": 12.5 + seed}, f"job-{seed}")


def recorded(path):
    recorder = Recorder(path, "chip", {"topology": {"type": "zephyr"}, "num_qubits": 9})
    for seed in range(3):
        recorder.add("chip", asked(seed), {"num_reads": 7}, answer(seed))
    recorder.close()


def answers(path):
    replay = Replay(path)
    recorded = [(key, list(queue)) for key, queue in replay._answers.items()]
    spoken = [(k, [(a.spins.tolist(), a.timing, a.id) for a in queue]) for k, queue in recorded]
    return replay.name, replay.properties, spoken


def test_a_damaged_recording_is_never_replayed(tmp_path):
    path = tmp_path / "record"
    recorded(path)
    whole, expected = path.read_bytes(), answers(path)
    assert len(expected[2]) == 3
    for data in damages(whole, random.Random(3), 300):
        path.write_bytes(data)
        try:
            answered = answers(path)
        except DeviceError as error:
            assert str(path) in one_line(error)
        else:  # a line cut short is that of a run that was killed
            cut = whole.startswith(data)
            assert answered == expected or cut and answered[2] == expected[2][: len(answered[2])]


def test_a_recording_goes_on_after_a_killed_run(tmp_path):
    path = tmp_path / "record"
    recorded(path)
    expected = answers(path)
    path.write_bytes(path.read_bytes()[:-30])
    recorder = Recorder(path, "chip", {})
    recorder.add("chip", asked(2), {"num_reads": 7}, answer(2))
    recorder.close()
    assert answers(path) == expected


FORGED_ANSWERS = [
    {"shape": [0, 3]},
    {"shape": [-7, 3]},
    {"shape": [7, 1 << 60]},
    {"shape": [7]},
    {"shape": [7, 30]},
    {"shape": None},
    {"shape": [7.0, 3]},
    {"spins": "AAAA"},
    {"spins": "not base 64!"},
    {"spins": 3},
    {"timing": None},
    {"timing": {"qpu_access_time": -1}},
    {"timing": {"qpu_access_time": 1e400}},
    {"timing": {"qpu_access_time": "1"}},
    {"id": 3},
    {"key": [1]},
]


@pytest.mark.parametrize("change", FORGED_ANSWERS, ids=str)
def test_a_forged_answer_with_a_right_hash_is_refused(tmp_path, change):
    from qsample.annealers.dwave.cloud.recording import _render

    path = tmp_path / "record"
    recorded(path)
    lines = path.read_text().splitlines()
    record = json.loads(lines[2])
    record.pop("sha256")
    lines[2] = _render(record | change)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DeviceError, match="damaged in line 3"):
        Replay(path)


def test_a_changed_embedding_is_made_anew(tmp_path):
    from tests.support.chips import ZEPHYR, same

    first = place(Graph.complete(9), ZEPHYR, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole, rng = path.read_bytes(), random.Random(4)
    content = json.loads(whole)
    content["chains"][0] = content["chains"][0][1:] + content["chains"][0][:1]  # another, as valid
    for data in [json.dumps(content).encode(), *damages(whole, rng, 8)]:
        path.write_bytes(data)
        if data == whole:
            continue
        with pytest.warns(UserWarning, match=f"{path.name} cannot be read and is made anew"):
            again = place(Graph.complete(9), ZEPHYR, cache=tmp_path)
        assert same(again, first) and path.read_bytes() == whole
