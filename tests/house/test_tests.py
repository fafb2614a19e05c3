"""The tests' own house: no test module needs another, folders mirror the tree, tables are whole."""

import ast
from pathlib import Path

import pytest

import qsample.annealers
import qsample.diffusion
import qsample.models
from qsample.models import EnergyModel
from tests.support.models import MODELS
from tests.support.neural import KERNELS
from tests.support.samplers import SAMPLERS

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
MODULES = sorted(TESTS.rglob("*.py"))
# Where a folder of tests finds what it tests; these ask something of the whole tree.
SOURCES = [ROOT / "qsample", ROOT]
OF_ALL = {"conformance", "house", "support", "data", "cli"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, or may import by `from package import module`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_module_is_imported(path):
    for name in imported(path):
        last = name.split(".")[-1]
        assert not (name.startswith("tests.") and last.startswith(("test_", "conftest"))), (
            f"{path.relative_to(ROOT)} imports {name}: move what they share to tests/support"
        )


def test_folders_mirror_the_tree():
    folders = {path.parent.relative_to(TESTS) for path in MODULES}
    for folder in sorted(folders):
        if folder.parts and folder.parts[0] not in OF_ALL:
            assert any((source / folder).is_dir() for source in SOURCES), (
                f"tests/{folder} tests no folder of the tree: name it as what it tests"
            )


def test_every_sampler_stands_in_the_table():
    """`AsDimod` is a sampler of dimod's, not one of ours."""
    ours = set(qsample.annealers.__all__) - {"AsDimod"}
    samplers = {name for name in ours if hasattr(getattr(qsample.annealers, name), "reversible")}
    rows = {type(row.quick).__name__ for row in SAMPLERS.values()}
    held_to_the_law = {type(row.right).__name__ for row in SAMPLERS.values() if row.right}
    assert samplers == rows, "add a line to tests/support/samplers.py"
    assert rows - held_to_the_law == {"DWave", "QAOA"}, (
        "give a row settings at which its law is right"
    )


def test_every_kernel_stands_in_its_table():
    shown = [getattr(qsample.diffusion, name) for name in qsample.diffusion.__all__]
    kernels = {thing for thing in shown if hasattr(thing, "reversible")}
    assert kernels == {type(kernel) for kernel in KERNELS.values()}, "tests/support/neural.py"


def test_every_energy_model_stands_in_the_table():
    shown = [getattr(qsample.models, name) for name in qsample.models.__all__]
    models = {
        thing for thing in shown if isinstance(thing, type) and issubclass(thing, EnergyModel)
    }
    rows = {type(make()) for make in MODELS.values()}
    assert models - {EnergyModel} == rows, "add a line to MODELS in tests/support/models.py"
