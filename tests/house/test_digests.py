"""Draws are bit for bit those that were recorded, and files of before still load.

    python -m tests.house.test_digests        # writes tests/data anew: draws are meant to change

Draws depend on the instruction set in their last place at most, but torch's own products do; so
they are compared on machines of the set that wrote them, and by `make test-long` alone.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import qsample as qs
from qsample.annealers import DWave, Gibbs, _engine
from qsample.diffusion import UniformBits, log_times
from qsample.models import BernoulliRBM, DenoisingThermodynamicModel, IsingCopula
from tests.support.problems import SHAPES, random_problem
from tests.support.samplers import LOCAL, pairs
from tests.support.solver_api import cell, connect

DATA = Path(__file__).parents[1] / "data"
DIGESTS = DATA / "digests.json"
RECORDED = json.loads(DIGESTS.read_text())
RUN = DATA / "run"
THERMODYNAMIC = DATA / "thermodynamic.safetensors"
COPULA = DATA / "copula.pt"
RECORDING = DATA / "recording.jsonl"
READS = DATA / "recording_reads.json"
SETTINGS = {
    "updates": 6,
    "batch": 8,
    "chains": 8,
    "checkpoint_every": 6,
    "evaluate_every": 6,
    "decay": "none",
}

pytestmark = [
    pytest.mark.usefixtures("isolated"),
    pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning"),  # of runs this short
]


def machine() -> dict[str, str]:
    """What a draw's last bit may depend on."""
    return {
        "instructions": _engine.instruction_sets()[-1],
        "torch": torch.__version__.split("+")[0],
    }


def digest(name: str, graph: str) -> str:
    """SHA-256 of spins and energies of a batch of three."""
    generator = torch.Generator().manual_seed(7)
    samples = LOCAL[name].quick.sample(random_problem(graph, (3,)), 20, generator=generator)
    sha = hashlib.sha256(samples.spins.numpy().tobytes())
    sha.update(samples.energy.numpy().tobytes())
    return sha.hexdigest()[:32]


def rows() -> torch.Tensor:
    """Data of the run."""
    return (torch.rand(40, 9, generator=torch.Generator().manual_seed(2)) < 0.5).float()


def model() -> BernoulliRBM:
    """The model of the run, before it."""
    return BernoulliRBM(9, 4, generator=torch.Generator().manual_seed(1))


def train(out: Path, updates: int, resume: bool) -> None:
    """The run, or its continuation."""
    settings = SETTINGS | {"updates": updates}
    qs.fit(model(), rows(), Gibbs(2), settings, out=out, resume=resume, progress=False)


def grid() -> qs.Graph:
    """The graph of the diffusion models: a ring of eight with chords."""
    return qs.Graph.sparse(
        8, sorted((min(i, (i + d) % 8), max(i, (i + d) % 8)) for i in range(8) for d in (1, 3))
    )


def thermodynamic() -> DenoisingThermodynamicModel:
    """A model of two steps."""
    return DenoisingThermodynamicModel(grid(), 3, 2, generator=torch.Generator().manual_seed(5))


def copula() -> IsingCopula:
    """A joint denoiser with couplings of its own."""
    torch.manual_seed(6)
    return IsingCopula(torch.nn.Linear(8, 8), grid(), UniformBits(log_times(4)))


def reads_of(sampler: DWave) -> list[list[int]]:
    """What a processor answers to one problem, in two gauges."""
    return sampler.sample(cell(), 6, generator=torch.Generator().manual_seed(0)).spins.tolist()


def write_recording() -> None:
    """A call to the loopback processor, and its reads."""
    from qsample.testing.sapi import Chip, SolverServer

    RECORDING.unlink(missing_ok=True)
    with SolverServer("chimera-1", chip=Chip(beta=3.0)) as server:
        with connect(server, record=str(RECORDING), gauges=2) as sampler:
            READS.write_text(json.dumps(reads_of(sampler)) + "\n")


def write() -> None:
    """All of tests/data."""
    torch.set_num_threads(1)
    draws = {f"{name}, {graph}": digest(name, graph) for name, graph in pairs(SHAPES)}
    DIGESTS.parent.mkdir(exist_ok=True)
    shutil.rmtree(RUN, ignore_errors=True)
    DIGESTS.write_text(json.dumps({"machine": machine(), "draws": draws}, indent=1) + "\n")
    train(RUN, SETTINGS["updates"], resume=False)
    (RUN / ".lock").unlink()
    thermodynamic().save(THERMODYNAMIC)
    torch.save(copula().state_dict(), COPULA)
    write_recording()


@pytest.mark.long
@pytest.mark.parametrize("key", RECORDED["draws"])
def test_the_draws_are_those_of_before(key):
    if RECORDED["machine"] != machine():
        pytest.skip(f"written on {RECORDED['machine']}, this is {machine()}")
    name, graph = key.split(", ")
    assert digest(name, graph) == RECORDED["draws"][key]


def test_a_run_of_before_loads_and_goes_on(tmp_path):
    for path in RUN.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert qs.load_run(tmp_path, model()).update == SETTINGS["updates"]
    with pytest.warns(RuntimeWarning, match="numbering 1 of the .* from update 6 on"):
        train(tmp_path, 2 * SETTINGS["updates"], resume=True)
    assert qs.load_run(tmp_path, model()).update == 2 * SETTINGS["updates"]


def test_models_of_before_load():
    model = DenoisingThermodynamicModel.load(THERMODYNAMIC, grid())
    for name, tensor in thermodynamic().state_dict().items():
        assert_close(model.state_dict()[name], tensor, rtol=0, atol=0, equal_nan=True)
    copula().load_state_dict(torch.load(COPULA))


def test_a_recording_of_before_replays():
    pytest.importorskip("dwave.cloud")
    with DWave(replay=str(RECORDING), gauges=2) as sampler:
        assert reads_of(sampler) == json.loads(READS.read_text())


if __name__ == "__main__":
    sys.exit(write())
