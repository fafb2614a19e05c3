import importlib
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.shapes import with_shapes

ROOT = Path(__file__).parents[1]
FOLDERS = {"qsample": "qsample", "models": "qsample/models", "annealers": "qsample/annealers"}


def sources() -> dict[str, str]:
    """Each file of the package: its place in the checkout -> its place in the wheel."""
    found = {}
    for folder, installed in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            inner = path.relative_to(ROOT / folder)
            through_link = folder == "qsample" and inner.parts[0] in ("models", "annealers")
            if path.suffix in (".py", ".pyi", ".typed") and not through_link:
                found[f"{folder}/{inner.as_posix()}"] = f"{installed}/{inner.as_posix()}"
    return found


def python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """(wheel, sdist): the wheel is built from the sdist, as a user's would be."""
    out = tmp_path_factory.mktemp("dist")
    quickly = ["-C", "cmake.define.QSAMPLE_OPTIMIZE=-O0"]  # its files count here, not its speed
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        *quickly,
        "--outdir",
        str(out),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.long
def test_wheel_holds_every_file_at_its_place(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/")]
    assert len(names) == len(set(names))
    assert {re.sub(r"-.*", "", name.split("/")[0]) for name in names} == {"qsample"}
    package = {name for name in names if name.startswith("qsample/")}
    engine = {
        name for name in package if re.fullmatch(r"qsample/annealers/_engine\..*(so|pyd)", name)
    }
    assert len(engine) == 1
    assert package - engine == set(sources().values())
    assert all(".dist-info/" in name for name in set(names) - package)
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


@pytest.mark.long
def test_sdist_holds_every_file_once(built):
    with tarfile.open(built[1]) as sdist:
        names = [member.name.split("/", 1)[1] for member in sdist.getmembers() if member.isfile()]
        assert not [
            member.name for member in sdist.getmembers() if member.issym() or member.islnk()
        ]
    assert len(names) == len(set(names))
    assert set(sources()) <= set(names)
    assert {"annealers/native/engine.cpp", "annealers/native/philox.hpp", "CMakeLists.txt"} <= set(
        names
    )
    assert not [name for name in names if name.startswith(("qsample/models", "qsample/annealers"))]
    assert not [name for name in names if name.startswith((".venv", "build/", "runs/"))]


@pytest.mark.long
def test_wheel_works_and_claims_no_other_name(built, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(site)
    code = f"""
import sys
from importlib.util import find_spec
# The editable install, undone: its finder, and the checkout and its parent, which it puts on the path.
sys.meta_path = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
sys.path = [{str(site)!r}] + [p for p in sys.path if p not in ({str(ROOT)!r}, {str(ROOT.parent)!r})]
import qsample, qsample.models, qsample.annealers._engine as engine
assert qsample.__file__.startswith({str(site)!r}), qsample.__file__
assert engine.__file__.startswith({str(site)!r}), engine.__file__
assert find_spec("models") is None and find_spec("annealers") is None
"""
    python(code, cwd=tmp_path)


FACES = """
import qsample
from qsample import Graph, Ising, Samples
from qsample.models import BernoulliRBM
from qsample.annealers import Gibbs
from qsample.diffusion import BlockMetropolis, UniformBits
"""


def test_import_is_light(tmp_path):
    """What is imported beyond torch's and numpy's own imports: nothing but a few small things."""

    def loaded(statements: str) -> set[str]:
        code = f"{statements}\nimport json, sys; print(json.dumps(list(sys.modules)))"
        return {module.split(".")[0] for module in json.loads(python(code, cwd=tmp_path))}

    more = loaded(FACES) - loaded("import torch, numpy") - set(sys.stdlib_module_names)
    assert more <= {"qsample", "jaxtyping", "wadler_lindig"}, more


def test_shapes_are_checked_in_tests():
    """The hook of jaxtyping must have loaded each module whose signatures name shapes, also behind the two links."""
    modules = with_shapes()
    assert {
        "qsample.problem.ising",
        "qsample.models.rbm.bernoulli",
        "qsample.annealers.dwave.chip.placement",
    } <= set(modules)
    for name in modules:
        module = importlib.import_module(name)
        assert "Jaxtyping" in type(module.__loader__).__name__, name
