import importlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from qsample.cli import main
from qsample.support.optional import DISTRIBUTION, install_line
from tests.support.shapes import with_shapes

ROOT = Path(__file__).parents[1]
TEXT = (".py", ".md", ".toml", ".yml", ".cff", ".txt", ".hpp", ".cpp", "")
FOLDERS = {"qsample": "qsample", "models": "qsample/models", "annealers": "qsample/annealers"}


def sources() -> dict[str, str]:
    """Each file of the package: its place in the checkout -> its place in the wheel."""
    found = {}
    for folder, installed in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            inner = path.relative_to(ROOT / folder)
            through_link = folder == "qsample" and inner.parts[0] in ("models", "annealers")
            if path.suffix in (".py", ".pyi", ".typed", ".toml") and not through_link:
                found[f"{folder}/{inner.as_posix()}"] = f"{installed}/{inner.as_posix()}"
    return found


def python(code: str, cwd: Path, executable: Path | str = sys.executable) -> str:
    done = subprocess.run([str(executable), "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """(wheel, sdist): the wheel is built from the sdist, as a user's would be."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.long
def test_wheel_holds_every_file_at_its_place(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = [name for name in wheel.namelist() if not name.endswith("/")]
    assert len(names) == len(set(names))
    assert {re.sub(r"-.*", "", name.split("/")[0]) for name in names} == {
        "qsample",
        "qsample_torch",
    }
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
    native = {"annealers/native/bindings.cpp", "annealers/native/law/rule.hpp"}
    assert {*native, "CMakeLists.txt"} <= set(names)
    assert not [name for name in names if name.startswith(("qsample/models", "qsample/annealers"))]
    assert not [name for name in names if name.startswith((".venv", "build/", "runs/"))]


@pytest.fixture(scope="module")
def environment(built, tmp_path_factory) -> Path:
    """The Python of a new virtual environment in which nothing but the wheel is installed.

    What the wheel depends on is not downloaded again: the packages of the environment that runs the
    tests are made visible by a path file. With QSAMPLE_WHEEL_TEST=download, as in CI, pip installs
    them as it would for a user.
    """
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False)
    executable = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--python", str(executable), "install", "--quiet"]
    if os.environ.get("QSAMPLE_WHEEL_TEST") == "download":
        pip += ["-c", str(ROOT / "constraints.txt"), f"{built[0]}[experiments]"]
    else:
        pip += ["--no-deps", str(built[0])]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "--no-deps" in pip:
        site = Path(
            python(
                "import sysconfig; print(sysconfig.get_path('purelib'))", folder, executable
            ).strip()
        )
        (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return executable


@pytest.mark.long
def test_wheel_claims_no_other_name(environment, tmp_path):
    code = """
from importlib.metadata import distribution
from importlib.util import find_spec
import qsample.models, qsample.annealers
assert distribution("qsample-torch").version
assert find_spec("models") is None and find_spec("annealers") is None
"""
    python(code, tmp_path, environment)


@pytest.mark.long
def test_wheel_works_in_an_empty_environment(environment, tmp_path):
    """Its import, kernel, draws, command and the README's twenty lines, from another folder."""
    command = [str(environment), str(ROOT / ".ci" / "wheel_check.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("the installed wheel works\n")


def test_the_distribution_has_a_name_of_ours():
    """`qsample` on PyPI is another project: nothing here tells anyone to install it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION == "qsample-torch"
    assert 'pip install "qsample-torch[dwave]"' in install_line("dwave")
    strangers = re.compile(
        r"(pip3?|uv|pipx) (install|add)( -\S+)* [\"'\[]?qsample(?!-torch|_torch)\b"
    )
    assert strangers.search('pip install "qsample[dwave]"') and strangers.search(
        "pip install -U qsample"
    )
    assert not strangers.search('pip install "qsample-torch[dwave]"')
    for path in tracked():
        if path.suffix in TEXT and path != Path(__file__):
            assert not strangers.search(path.read_text(errors="replace")), path


def test_the_command_says_its_version(capsys):
    main(["--version"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out == f"qsample {project['version']}\n"


def test_every_extra_that_a_message_names_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    called = re.compile(r"""\b(?:needs|install_line)\(["']([\w-]+)["']""")
    named = {extra for place in sources() for extra in called.findall((ROOT / place).read_text())}
    assert {"dwave", "diffusion", "experiments"} <= named <= set(extras)
    written = re.compile(r"qsample-torch\[([\w,-]+)\]")
    for path in tracked():
        if path.suffix in (".md", ".py"):
            for names in written.findall(path.read_text()):
                assert set(names.split(",")) <= set(extras), path


def tracked() -> list[Path]:
    """The project's own files: what git knows or, without git, what no folder of builds holds."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.splitlines()]
    else:
        folders = ("qsample", "models", "annealers", "experiments", "tests", "docs")
        paths = [
            *ROOT.glob("*"),
            *(path for folder in folders for path in (ROOT / folder).rglob("*")),
        ]
    return [path for path in paths if path.is_file()]


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
    """jaxtyping's hook loaded each module whose signatures name shapes, also behind the links."""
    modules = with_shapes()
    assert {
        "qsample.problem.ising",
        "qsample.models.rbm.bernoulli",
        "qsample.annealers.dwave.chip.placement",
    } <= set(modules)
    for name in modules:
        module = importlib.import_module(name)
        assert "Jaxtyping" in type(module.__loader__).__name__, name
