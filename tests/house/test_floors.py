"""The house has floors, rows of folders: imports go down, rooms of a floor know no other."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Top to bottom.
FLOORS = [
    ["experiments"],
    ["qsample.cli", "qsample.integrations"],
    ["qsample.learning"],
    ["qsample.data", "qsample.metrics", "qsample.testing"],
    ["qsample.evaluation"],
    ["qsample.models", "qsample.annealers"],
    ["qsample.neural", "qsample.diffusion"],
    ["qsample.sampling"],
    ["qsample.problem"],
    ["qsample.support"],
]
FOLDERS = {
    "qsample": "qsample",
    "models": "qsample.models",
    "annealers": "qsample.annealers",
    "experiments": "experiments",
}
# they show names of every floor, and load them at first use
FACES = {"qsample", "qsample.diffusion", "qsample.sklearn"}


def modules() -> dict[str, Path]:
    """Every module by its import name; the links in qsample/ are not followed."""
    paths = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            if folder == "qsample" and parts[0] in ("models", "annealers"):
                continue
            paths[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return paths


MODULES = modules()
LIBRARY = {name: path for name, path in MODULES.items() if name.startswith("qsample")}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(path: Path, inside_functions: bool = True) -> Iterator[tuple[str, str | None]]:
    """(module, name) per `from module import name`, (module, None) per `import module`."""

    def walk(node: ast.AST) -> Iterator[tuple[str, str | None]]:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, None) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: import absolutely"
                yield from ((child.module or "", alias.name) for alias in child.names)
            elif inside_functions or not isinstance(child, ast.FunctionDef | ast.Lambda):
                yield from walk(child)

    yield from walk(ast.parse(path.read_text(), str(path)))


def imported(path: Path, inside_functions: bool = True) -> set[str]:
    """The modules of ours that a file imports, also by `from package import module`."""
    names = set()
    for module, name in imports(path, inside_functions):
        inner = f"{module}.{name}"
        names.add(inner if inner in MODULES or inner == "qsample.annealers._engine" else module)
    return {
        name
        for name in names
        if name.split(".")[0] in ("qsample", "models", "annealers", "experiments")
    }


def place(name: str) -> tuple[int, str]:
    """Floor (0 is the top) and room."""
    for floor, rooms in enumerate(FLOORS):
        for room in rooms:
            if name == room or name.startswith(f"{room}."):
                return floor, room
    raise AssertionError(
        f"{name} is on no floor: move it into a folder of FLOORS in {Path(__file__).name}"
    )


@pytest.mark.parametrize("name", [name for name in LIBRARY if name not in FACES])
def test_imports_go_down(name):
    floor, room = place(name)
    for other in imported(MODULES[name]):
        assert other != "qsample", (
            f"{name} imports from qsample itself: import from the module that defines it"
        )
        below, beside = place(other)
        assert below >= floor, f"{name} imports {other}, which is on a floor above it"
        assert below > floor or beside == room, f"{name} and {other} must not know each other"


def test_no_cycles_at_import():
    """An import inside a function runs later, and may close a circle on its own floor."""
    graph = {
        name: imported(path, inside_functions=False) - {name} for name, path in LIBRARY.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("experiments")])
def test_experiments_use_the_public_api(name):
    for module, attribute in imports(MODULES[name]):
        if module.split(".")[0] == "qsample":
            private = [
                part for part in (*module.split("."), attribute or "") if part.startswith("_")
            ]
            assert not private, f"{name} imports {module} {attribute or ''}, which is private"


def test_the_checks_see_a_breach(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from typing import TYPE_CHECKING\n"
        "import qsample.models.rbm.bernoulli\n"
        "if TYPE_CHECKING:\n    import qsample.cli\n"
        "def f():\n    from qsample.problem import graph\n"
    )
    assert imported(bad, inside_functions=False) == {"qsample.models.rbm.bernoulli"}
    assert imported(bad) == {"qsample.models.rbm.bernoulli", "qsample.problem.graph"}
    assert (
        place("qsample.cli")
        < place("qsample.models.rbm.bernoulli")
        < place("qsample.problem.graph")
    )
    with pytest.raises(AssertionError, match="move it into a folder"):
        place("qsample.utils")
