"""A downloaded file names no device, path or object, spends no QPU time and writes no file."""

import json
import os
from typing import Any

import pytest
import torch

from qsample.annealers import Corrected, Gibbs, SimulatedAnnealing
from qsample.annealers.registry import CATALOGUE, CONFIGURABLE, configured, described

os.environ["HF_HUB_OFFLINE"] = "1"
pytest.importorskip("diffusers")
from qsample.diffusion import IsingScheduler  # noqa: E402

GRID = [[0, 1], [1, 0]]
DEVICES = [name for name, entry in CATALOGUE.items() if entry.device]


def downloaded(folder, **config):
    """A scheduler's folder as a stranger may have written it."""
    IsingScheduler(2, neighbours=GRID, pair_features=2).save_pretrained(folder)
    path = folder / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize(
    "settings", [{}, {"record": "r"}, {"ledger": "l", "cache": "c"}, {"sweeps": 3}, None]
)
def test_a_config_names_no_device(tmp_path, monkeypatch, name, settings):
    """No file is made, no socket opened, not even the package of the device imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qsample.annealers.dwave.DWave.__init__", None)
    folder = downloaded(tmp_path / "theirs", sampler=name, sampler_settings=settings)
    reason = "asks a machine elsewhere, for money, so no config may name it"
    said = rf"'{name}' {reason}: .* scheduler\.sampler = "
    for load in (
        lambda: IsingScheduler.from_pretrained(folder),
        lambda: IsingScheduler.from_config(
            json.loads((folder / "scheduler_config.json").read_text())
        ),
        lambda: configured(name, settings or {}),
    ):
        with pytest.raises(ValueError, match=said):
            load()
    # the remedy
    again: Any = IsingScheduler.from_pretrained(folder, sampler="gibbs", sampler_settings=None)
    assert again.sampler == Gibbs(100) and [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gibbs", {"record": "r"}),
        ("gibbs", {"scan": "/etc/passwd"}),
        ("gibbs", {"scan": {"__import__": "os"}}),
        ("gibbs", {"betas": [[1.0]]}),
        ("gibbs", {"betas": ["dwave"]}),
        ("gibbs", {"warm_start": True}),
        ("gibbs", {"__class__": "x"}),
        ("simulated-annealing", {"schedule": "../schedule"}),
        ("corrected-annealing", {"sampler": "dwave"}),
        ("corrected-annealing", {"kernel": {"sampler": "dwave"}}),
        ("corrected-neal", {"sampler": ["dwave", {"ledger": "l"}]}),
        ("neal", {"fallback": "dwave"}),
        ("live: DWave", {"ledger": "l"}),
        (["dwave"], {}),
        ({"sampler": "dwave"}, {}),
        ("gibbs", ["ledger"]),
        ("DWave", {}),
        ("qsample.annealers.DWave", {}),
        (None, {}),
    ],
)
def test_a_config_holds_plain_settings_only(name, settings):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        configured(name, settings)


def test_settings_that_come_later_are_refused(monkeypatch):
    """A new field of a sampler is refused in a config, and left out of one, until it is listed."""
    monkeypatch.setitem(CONFIGURABLE, "gibbs", ("sweeps", "scan"))
    with pytest.raises(
        ValueError, match="'time_limit' is not a setting of 'gibbs' that a config may hold"
    ):
        configured("gibbs", {"time_limit": 1.0})
    assert described(Gibbs(7)) == ("gibbs", {"sweeps": 7, "scan": "forward"})
    assert described(Gibbs(7, time_limit=1.0)) is None


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_what_is_listed_is_there(name):
    """Every listed setting is one of the class, and what is saved of a sampler is what loads."""
    made = configured(name, {})
    if not name.startswith("corrected-"):
        assert set(CONFIGURABLE[name]) <= {key for key in vars(made)}
        found = described(made)
        assert found is not None and configured(*found) == made


def test_saving_writes_nothing_that_loading_refuses(tmp_path):
    from qsample.annealers import DWave

    scheduler = IsingScheduler(2, neighbours=GRID)
    for sampler in (
        DWave(record=tmp_path / "r"),
        Corrected(DWave(), Gibbs(3)),
        SimulatedAnnealing(9),
    ):
        scheduler.sampler = sampler
        scheduler.save_pretrained(tmp_path / "mine")
        again: Any = IsingScheduler.from_pretrained(tmp_path / "mine")
        if isinstance(sampler, SimulatedAnnealing):
            assert again.sampler == sampler
        else:
            with pytest.raises(
                ValueError, match=r"saved with a live (DWave|Corrected): set it again"
            ):
                _ = again.sampler
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"generator": "x"},
        {"visible": "/etc/passwd"},
        {"bits": "4"},
        {"bits": True},
        {"rate": [0.9]},
        {"times": "log_times"},
        {"times": [0, "1"]},
    ],
)
def test_a_model_file_holds_numbers_only(tmp_path, wrong):
    import qsample as qs
    from qsample.models import DenoisingThermodynamicModel
    from qsample.models.diffusion.tensor_file import write_file
    from qsample.models.diffusion.thermodynamic import FORMAT

    graph = qs.Graph.sparse(6, [(k, k + 1) for k in range(5)])
    model = DenoisingThermodynamicModel(graph, 2, 2, generator=torch.Generator().manual_seed(0))
    settings = json.dumps(model._settings | wrong)
    tensors = model.state_dict() | {"sites": model.sites}
    write_file(
        tmp_path / "m", tensors, {"format": FORMAT, "settings": settings, "graph": graph.hash}
    )
    with pytest.raises(ValueError, match=r"m: (its settings|it has)"):
        DenoisingThermodynamicModel.load(tmp_path / "m", graph)
