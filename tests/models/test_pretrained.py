"""A model saved whole comes back equal, in another process too; what is not it is refused."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qsample as qs
from qsample.models import BernoulliRBM, BoltzmannMachine, EnergyModel, pretrained
from qsample.models.pretrained import CONFIG, WEIGHTS
from qsample.models.registry import MODELS as REGISTRY
from qsample.models.registry import _restored, new_model
from tests.support.models import MODELS
from tests.support.training import assert_same

LABELS = ["a", ("b", 1), 7, (0, ("x", 2.5))]
GRAPH = qs.Graph.sparse(4, [(0, 1), (1, 3), (2, 3)], LABELS)


def labelled():
    return BoltzmannMachine(GRAPH, [7, "a"], generator=torch.Generator().manual_seed(1))


def assert_equal(model, other):
    assert type(model) is type(other)
    assert_same(dict(model.state_dict()), dict(other.state_dict()))
    assert model.graph.hash == other.graph.hash
    assert list(model.graph.labels) == list(other.graph.labels)
    assert torch.equal(model.hidden_index, other.hidden_index)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_kind_of_model_comes_back(tmp_path, name, dtype):
    model = MODELS[name]().to(dtype)
    assert model.save_pretrained(tmp_path / "new") == tmp_path / "new"
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for face in (type(model), EnergyModel):
        assert_equal(model, face.from_pretrained(str(tmp_path / "new")))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_model_of_the_registry_comes_back(tmp_path, name):
    hidden = 0 if REGISTRY[name].max_hidden == 0 else 2
    model = new_model(name, 6, hidden, (2, 3))
    model.save_pretrained(tmp_path)
    assert_equal(model, EnergyModel.from_pretrained(tmp_path))


def test_labels_come_back_as_they_were(tmp_path):
    model = labelled()
    model.save_pretrained(tmp_path)
    again = BoltzmannMachine.from_pretrained(tmp_path, graph=GRAPH)
    assert [type(label) for label in again.graph.labels] == [type(label) for label in LABELS]
    assert_equal(model, again)
    x = torch.tensor([[1.0, -1.0]])
    assert torch.equal(model.free_energy(x), again.free_energy(x))


names = st.text(max_size=4) | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
labels = st.recursive(names, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


@settings(max_examples=25, deadline=None)
@given(st.lists(labels, min_size=1, max_size=4, unique=True))
def test_any_labels_survive_the_file(given_labels):
    graph = qs.Graph.complete(len(given_labels), given_labels)
    tensors = {}
    text = json.dumps(pretrained._to_json(graph, "graph", tensors))
    again = _restored(pretrained._from_json(json.loads(text), tensors))
    assert repr(list(again.labels)) == repr(given_labels) and again.hash == graph.hash


def test_a_model_replaces_the_one_before(tmp_path):
    BernoulliRBM(3, 2).save_pretrained(tmp_path)
    labelled().save_pretrained(tmp_path)
    assert_equal(labelled(), EnergyModel.from_pretrained(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, WEIGHTS}


def test_a_class_of_ones_own(tmp_path):
    class Mine(BernoulliRBM):
        """Trained further, as a user's own class."""

    model = Mine(3, 2)
    model.save_pretrained(tmp_path)
    assert_equal(model, Mine.from_pretrained(tmp_path))
    for face, match in (
        (EnergyModel, f"{tmp_path} holds a Mine, which is no model of qsample: call from_pre"),
        (BernoulliRBM, f"{tmp_path} holds a Mine; expected a BernoulliRBM: Mine.from_pretrained"),
    ):
        with pytest.raises(ValueError, match=match):
            face.from_pretrained(tmp_path)


FRESH = """
import sys, torch
from qsample.models import EnergyModel
for line in sys.stdin:
    model = EnergyModel.from_pretrained(line.strip())
    model.save_pretrained(line.strip() + "-again")
"""


def test_a_fresh_process_reads_and_writes_the_same_files(tmp_path):
    made = {"labels": labelled(), "rbm": BernoulliRBM(4, 2).double()}
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
    folders = "\n".join(str(tmp_path / name) for name in made)
    subprocess.run([sys.executable, "-c", FRESH], input=folders, text=True, check=True)
    for name, model in made.items():
        assert_equal(model, EnergyModel.from_pretrained(tmp_path / f"{name}-again"))
        for file in (CONFIG, WEIGHTS):
            again = (tmp_path / f"{name}-again" / file).read_bytes()
            assert again == (tmp_path / name / file).read_bytes()


# ---- what is refused ----------------


def test_another_graph_is_named(tmp_path):
    labelled().save_pretrained(tmp_path)
    other = qs.Graph.sparse(4, [(0, 1), (1, 2), (2, 3)], LABELS)
    with pytest.raises(
        ValueError,
        match=rf"{tmp_path} holds a model on another graph: expected a sparse one of 4 spins and 3 "
        rf"edges \({other.hash[:8]}\); got a sparse one of 4 spins and 3 edges \({GRAPH.hash[:8]}",
    ):
        EnergyModel.from_pretrained(tmp_path, graph=other)
    renamed = qs.Graph.sparse(4, [(0, 1), (1, 3), (2, 3)], ["a", "b", 7, LABELS[3]])
    with pytest.raises(ValueError, match=r"other labels: expected 'b'; got \('b', 1\)"):
        EnergyModel.from_pretrained(tmp_path, graph=renamed)


def test_another_class_is_named(tmp_path):
    labelled().save_pretrained(tmp_path)
    with pytest.raises(
        ValueError,
        match=f"{tmp_path} holds a BoltzmannMachine; expected a BernoulliRBM: "
        "BoltzmannMachine.from_pretrained loads it",
    ):
        BernoulliRBM.from_pretrained(tmp_path)


def test_files_of_two_models_are_no_model(tmp_path):
    labelled().save_pretrained(tmp_path / "a")
    other = BoltzmannMachine(qs.Graph.sparse(4, [(0, 1), (1, 2), (2, 3)], LABELS), [7, "a"])
    other.save_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    config["arguments"]["graph"]["graph"]["labels"][0] = "z"
    config["arguments"]["hidden"][0] = "z"
    (tmp_path / "a" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="weights of another model than config.json .* its labels"):
        EnergyModel.from_pretrained(tmp_path / "a")
    (tmp_path / "a" / CONFIG).write_bytes((tmp_path / "b" / CONFIG).read_bytes())
    with pytest.raises(ValueError, match="damaged or was replaced: its SHA-256 is not the one in"):
        EnergyModel.from_pretrained(tmp_path / "a")


DAMAGE = {
    "no folder": (None, None, "no model at .*: expected a folder that save_pretrained wrote"),
    "no configuration": (CONFIG, None, r"expected config.json and model.safetensors in it \(No"),
    "no weights": (WEIGHTS, None, "lacks model.safetensors: No such file"),
    "cut weights": (WEIGHTS, lambda b: b[:-3], "is damaged: no safetensors"),
    "empty weights": (WEIGHTS, lambda b: b"", "is damaged: no safetensors"),
    "a flipped bit": (WEIGHTS, lambda b: b[:-1] + bytes([b[-1] ^ 1]), "is damaged"),
    "cut configuration": (CONFIG, lambda b: b[:40], "config.json is damaged: not JSON"),
    "another format": (CONFIG, lambda b: b'{"format": "x"}', "of no model of qsample: .*; got x"),
    "a list": (CONFIG, lambda b: b"[]", "of no model of qsample: expected format .*; got list"),
    "a later version": (
        CONFIG,
        lambda b: b.replace(b'"version": 1', b'"version": 2'),
        "has format version 2: expected 1; a newer qsample may read it",
    ),
    "no class": (CONFIG, lambda b: b.replace(b'"class"', b'"clas"'), "holds a None, which is no"),
    "a class that is none": (
        CONFIG,
        lambda b: b.replace(b'"BoltzmannMachine"', b'"reverse_rhat"'),
        "holds a reverse_rhat, which is no model of qsample",
    ),
    "a huge graph": (
        CONFIG,
        lambda b: b.replace(b'"sparse"', b'"complete"').replace(b"   4\n", b"   99999999\n"),
        "its BoltzmannMachine cannot be made",
    ),
    "no hash": (CONFIG, lambda b: b.replace(b"sha256", b"sha"), "is damaged: it lacks its"),
    "another argument": (
        CONFIG,
        lambda b: b.replace(b'"hidden"', b'"latent"'),
        r"its BoltzmannMachine cannot be made \(BoltzmannMachine is made otherwise",
    ),
    "an unknown tensor": (
        CONFIG,
        lambda b: b.replace(b'"arguments.graph.graph.edges"', b'"edges"'),
        r"its BoltzmannMachine cannot be made \(no 'edges'\)",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_one_line_that_names_the_file(tmp_path, name):
    file, change, match = DAMAGE[name]
    folder = labelled().save_pretrained(tmp_path / "model")
    if file is None:
        folder = folder / "gone"
    elif change is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(ValueError, match=match) as caught:
        EnergyModel.from_pretrained(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_what_cannot_be_saved_says_why(tmp_path):
    class Silent(BernoulliRBM):
        arguments = property()  # pyright: ignore

    parametrised = BernoulliRBM(3, 2)
    torch.nn.utils.parametrizations.spectral_norm(parametrised, "W")
    strange = BoltzmannMachine(qs.Graph.complete(2, [frozenset({1}), frozenset({2})]))
    for model, match in (
        (parametrised, r"BernoulliRBM whose weights are made of others .*remove_parametrizations"),
        (strange, "labels are neither numbers nor strings nor tuples of them"),
        (Silent(3, 2), r"cannot save a Silent, .*: give it a method arguments\(\)"),
    ):
        with pytest.raises(ValueError, match=match):
            model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


# ---- the Hub ----------------


def test_the_hub_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = r"; pip install \"qsample-torch\[hub\]\" brings it"
    with pytest.raises(ImportError, match=f"push_to_hub: .*{line}"):
        labelled().push_to_hub("me/model")
    with pytest.raises(ImportError, match=f"me/model is no folder here, .*{line}"):
        EnergyModel.from_pretrained("me/model")
    labelled().save_pretrained(tmp_path)  # without it
    EnergyModel.from_pretrained(tmp_path)


def test_a_repository_is_written_and_read(tmp_path, monkeypatch):
    """The Hub is played by a folder: what goes up is what comes down."""
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    class Api:
        def __init__(self, token=None):
            assert token == "secret"

        def create_repo(self, repo_id, private, exist_ok):
            asked.append((repo_id, private, exist_ok))
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, revision, commit_message):
            for path in pretrained.Path(folder_path).iterdir():
                (tmp_path / path.name).write_bytes(path.read_bytes())
            return f"https://hub/{repo_id}"

    def download(name, allow_patterns, revision, token, cache_dir):
        asked.append((name, allow_patterns, revision, token))
        if name != "me/model":
            raise OSError("404 Client Error\nRepository Not Found")
        return str(tmp_path)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    model = labelled()
    assert model.push_to_hub("me/model", private=True, token="secret") == "https://hub/me/model"
    assert_equal(model, EnergyModel.from_pretrained("me/model", revision="main"))
    assert asked == [("me/model", True, True), ("me/model", [CONFIG, WEIGHTS], "main", None)]
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: qsample\n")
    assert 'BoltzmannMachine.from_pretrained("me/model")' in card
    with pytest.raises(ValueError, match=r"no model me/other: .*\(Repository Not Found\)"):
        EnergyModel.from_pretrained("me/other")
