"""The house has floors: a module imports from its own floor and the floors below, never upward."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Top to bottom. Rooms of one floor that stand in different sets do not import each other.
FLOORS: list[list[set[str]]] = [
    [{"experiments.*"}],
    [{"qsample.cli"}],
    [
        {
            "qsample.train",
            "qsample.run",
            "qsample.settings",
            "qsample.checkpoint",
            "qsample.data",
            "qsample.likelihood",
            "qsample.diagnostics",
            "qsample.comparison",
            "qsample.reference",
            "qsample.testing",
            "qsample.testing.*",
            "qsample.metrics",
            "qsample.pictures",
            "qsample.diffusion",
            "qsample.diffusion.scheduler",
            "qsample.diffusion.pipeline",
            "qsample.diffusion.noise",
        }
    ],
    [{"qsample.models", "qsample.models.*"}, {"qsample.annealers", "qsample.annealers.*"}],
    [
        {
            "qsample.gradient",
            "qsample.temperature",
            "qsample.mixing",
            "qsample.enumerate",
            "qsample.diffusion.draws",
            "qsample.diffusion.answers",
            "qsample.diffusion.latents",
            "qsample.diffusion.steps",
            "qsample.diffusion.counted",
            "qsample.diffusion.chains",
            "qsample.diffusion.expansion",
            "qsample.diffusion.hadamard",
            "qsample.diffusion.local",
            "qsample.diffusion.forward",
            "qsample.diffusion.surrogate",
            "qsample.diffusion.metropolis",
            "qsample.diffusion.reverse",
        }
    ],
    [{"qsample.sampler", "qsample.samples"}],
    [
        {
            "qsample.ising",
            "qsample.graph",
            "qsample.grid",
            "qsample.bqm",
            "qsample.clamping",
            "qsample.products",
            "qsample.files",
            "qsample.checks",
        }
    ],
]


def modules() -> dict[str, Path]:
    """Every module by its import name; the links in qsample/ are not followed."""
    found = {}
    for folder, package in [
        ("qsample", "qsample"),
        ("models", "qsample.models"),
        ("annealers", "qsample.annealers"),
        ("experiments", "experiments"),
    ]:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "qsample" and parts[0] in ("models", "annealers"):
                continue
            found[".".join([package, *(p for p in parts if p != "__init__")])] = path
    return found


MODULES = modules()
LIBRARY = {name: path for name, path in MODULES.items() if name.startswith("qsample")}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(path: Path, *, inside_functions: bool = True) -> Iterator[tuple[str, str | None]]:
    """(module, name) for each `from module import name`, (module, None) for each `import module`."""

    def walk(node: ast.AST) -> Iterator[tuple[str, str | None]]:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                assert isinstance(child, ast.If)
                for other in child.orelse:
                    yield from walk(other)
            elif isinstance(child, ast.Import):
                yield from ((alias.name, None) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: import absolutely"
                yield from ((child.module or "", alias.name) for alias in child.names)
            elif inside_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from walk(child)

    yield from walk(ast.parse(path.read_text(), str(path)))


def imported(path: Path, *, inside_functions: bool = True) -> set[str]:
    """The modules of ours that a file imports; `from qsample import ising` imports qsample.ising."""
    found = {
        f"{module}.{name}"
        if name and (f"{module}.{name}" in MODULES or module == "qsample.annealers" and name == "_engine")
        else module
        for module, name in imports(path, inside_functions=inside_functions)
    }
    return {name for name in found if name.split(".")[0] in ("qsample", "models", "annealers", "experiments")}


def place(name: str) -> tuple[int, int]:
    """Floor (0 is the top) and room."""
    for floor, rooms in enumerate(FLOORS):
        for room, patterns in enumerate(rooms):
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return floor, room
    raise AssertionError(f"{name} is on no floor: add it to FLOORS in {Path(__file__).name} and to the design")


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_floor(name):
    if name != "qsample":  # exports names of every floor, lazily
        place(name)


@pytest.mark.parametrize("name", [n for n in LIBRARY if n != "qsample"])
def test_imports_go_down(name):
    floor, room = place(name)
    for other in imported(MODULES[name]):
        assert other != "qsample", f"{name} imports from qsample itself: import from the module that defines it"
        below, beside = place(other)
        assert below >= floor, f"{name} imports {other}, which is on a floor above it"
        assert below > floor or beside == room, f"{name} and {other} must not know each other"


def test_no_cycles_at_import():
    """An import inside a function runs later, and may close a circle on its own floor."""
    graph = {name: imported(path, inside_functions=False) - {name} for name, path in LIBRARY.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("experiments")])
def test_experiments_use_the_public_api(name):
    for module, attribute in imports(MODULES[name]):
        if module.split(".")[0] == "qsample":
            private = [part for part in (*module.split("."), attribute or "") if part.startswith("_")]
            assert not private, f"{name} imports {module} {attribute or ''}, which is private"


def test_the_checks_see_a_breach(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from typing import TYPE_CHECKING\n"
        "import qsample.models.rbm\n"
        "if TYPE_CHECKING:\n    import qsample.cli\n"
        "def f():\n    from qsample import graph\n"
    )
    assert imported(bad, inside_functions=False) == {"qsample.models.rbm"}
    assert imported(bad) == {"qsample.models.rbm", "qsample.graph"}
    assert place("qsample.cli") < place("qsample.models.rbm") < place("qsample.graph")
    with pytest.raises(AssertionError, match="add it to FLOORS"):
        place("qsample.utils")
