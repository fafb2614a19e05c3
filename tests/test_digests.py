"""What was drawn and written before files are moved: the same bits are drawn after, and old files still load.

    python -m tests.test_digests        # writes tests/data anew: only where draws are meant to change

Draws depend on the instruction set in their last place at most, but torch's own products do; so they are compared on
machines of the set that wrote them, and by `make test-long` alone.
"""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

import qsample as qs
from qsample.annealers import Gibbs, _engine
from qsample.models import BernoulliRBM
from tests.test_streams import CASES, SAMPLERS, problem_of

DATA = Path(__file__).parent / "data"
DIGESTS = DATA / "digests.json"
RUN = DATA / "run"
SETTINGS = {"updates": 6, "batch": 8, "chains": 8, "checkpoint_every": 6, "evaluate_every": 6, "decay": "none"}

pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of runs this short


def machine() -> dict[str, str]:
    """What a draw's last bit may depend on."""
    return {"instructions": _engine.instruction_sets()[-1], "torch": torch.__version__.split("+")[0]}


def digest(name: str, graph: str) -> str:
    """SHA-256 of spins and energies of a batch of three."""
    generator = torch.Generator().manual_seed(7)
    samples = SAMPLERS[name].sample(problem_of(graph, (3,)), 20, generator=generator)
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


def write() -> None:
    """All of tests/data."""
    torch.set_num_threads(1)
    draws = {f"{name}, {graph}": digest(name, graph) for name, graph in CASES}
    DIGESTS.parent.mkdir(exist_ok=True)
    DIGESTS.write_text(json.dumps({"machine": machine(), "draws": draws}, indent=1) + "\n")
    train(RUN, SETTINGS["updates"], resume=False)
    (RUN / ".lock").unlink()


@pytest.mark.long
@pytest.mark.parametrize(("name", "graph"), CASES)
def test_the_draws_are_those_of_before(name, graph):
    recorded = json.loads(DIGESTS.read_text())
    if recorded["machine"] != machine():
        pytest.skip(f"written on {recorded['machine']}, this is {machine()}")
    assert digest(name, graph) == recorded["draws"][f"{name}, {graph}"]


def test_a_run_of_before_loads_and_goes_on(tmp_path):
    for path in RUN.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert qs.load_run(tmp_path, model()).update == SETTINGS["updates"]
    train(tmp_path, 2 * SETTINGS["updates"], resume=True)
    assert qs.load_run(tmp_path, model()).update == 2 * SETTINGS["updates"]


if __name__ == "__main__":
    sys.exit(write())
