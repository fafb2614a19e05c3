"""A fresh install must import: what the code imports is what pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED = packages_distributions()
# Distributions by the names they are imported under, where the environment may not know them.
OPTIONAL = {
    "cirq": "cirq-core",
    "qiskit_aer": "qiskit-aer",
    "tensorboard": "tensorboard",
    "dwave.cloud": "dwave-cloud-client",
    "dwave.embedding": "dwave-system",
    "dwave.graphs": "dwave-graphs",
    "dwave.system": "dwave-system",
}
# Packages that are measured against, by choice: a benchmark says which it left out.
PEERS = {"openjij", "rbms", "dwave.plugins"}
MODULES = sorted(
    p
    for folder in ("qsample", "models", "annealers", "experiments")
    for p in (ROOT / folder).rglob("*.py")
)
MODULES = [p for p in MODULES if not any(parent.is_symlink() for parent in p.parents)]


def names(requirements):
    return {re.split(r"[<>=!~;\[ ]", r)[0].lower() for r in requirements}


def is_typing(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree, at_import):
    """(module, whether it is imported when the file is) of every import outside TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if is_typing(node):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, at_import
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (
                (name.value, False)
                for name in node.args
                if isinstance(name, ast.Constant) and isinstance(name.value, str)
            )
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.Try)
            inside |= isinstance(node, ast.With) and ast.unparse(node.items[0]).startswith("needs(")
            yield from imports(node, at_import and not inside)


def distributions(module):
    known = [OPTIONAL[name] for name in OPTIONAL if module == name or module.startswith(name + ".")]
    if known:
        return set(known)
    top = module.split(".")[0]
    return (
        {"dwave-samplers"}
        if module.startswith("dwave.samplers")
        else set(INSTALLED.get(top, [top]))
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_are_declared(path):
    core = names(PROJECT["dependencies"])
    extras = names(r for group in PROJECT["optional-dependencies"].values() for r in group)
    for module, at_import in imports(ast.parse(path.read_text()), True):
        if module.split(".")[0] in {*sys.stdlib_module_names, "qsample", "experiments"}:
            continue
        if "experiments" in path.parts and any(
            f"{module}.".startswith(f"{peer}.") for peer in PEERS
        ):
            continue
        # an experiment needs its extra; a module of the package at most inside a function
        free = "experiments" in path.parts
        allowed = core if at_import and not free else core | extras | {"tensorboard"}
        assert {d.lower() for d in distributions(module)} & allowed, (
            f"{path.name} imports {module}: declare it"
        )


def test_the_check_sees_what_is_missing():
    code = "import einops\ndef f():\n    import sklearn\nif TYPE_CHECKING:\n    import nothing\n"
    tree = ast.parse(code + "x = importlib.import_module('unheard')")
    assert list(imports(tree, True)) == [("einops", True), ("sklearn", False), ("unheard", False)]
    assert distributions("sklearn.datasets") == {"scikit-learn"} and distributions("einops.x") == {
        "einops"
    }
    assert distributions("dwave.samplers.tree") == {"dwave-samplers"}
