"""The notebooks of examples/: their code cells run in order, as one program."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(path: Path) -> list[tuple[str, str]]:
    """Kind and text of each cell."""
    document = json.loads(path.read_text())
    return [(cell["cell_type"], "".join(cell["source"])) for cell in document["cells"]]


def run(path: Path, **numbers: int) -> dict:
    """The names that the code cells leave, with other numbers than those of the notebook."""
    names = {"__name__": "notebook"}
    with torch.random.fork_rng():
        for place, (kind, text) in enumerate(cells(path)):
            if kind == "code":
                for name, number in numbers.items():
                    lines = text.splitlines()
                    text = "\n".join(
                        f"{name} = {number}" if line.startswith(f"{name} = ") else line
                        for line in lines
                    )
                exec(compile(text, f"{path.name}, cell {place}", "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _no_windows():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def test_there_are_notebooks():
    assert "few_steps" in {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path):
    document = json.loads(path.read_text())
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in document["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            compile("".join(cell["source"]), path.name, "exec")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
def test_few_steps_runs_in_small():
    """Every cell, on a denoiser that has hardly learned."""
    (path,) = (path for path in NOTEBOOKS if path.stem == "few_steps")
    names = run(path, DENOISER_UPDATES=3, COUPLING_UPDATES=2, IMAGES=40)
    assert set(names["joint"]) == {1, 2, 4} and names["joint"][1].shape == (40, 64)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
def test_few_steps_shows_what_it_says(capsys):
    """As committed: one joint step is nearer to the test digits than one independent step."""
    (path,) = (path for path in NOTEBOOKS if path.stem == "few_steps")
    table = run(path)["table"]
    for metric in (0, 1):
        assert table["joint", 1][metric] < table["independent", 1][metric]
        assert table["joint", 1][metric] > table["floor", 0][metric]
    assert "4 steps: independent" in capsys.readouterr().out
