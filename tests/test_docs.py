"""The documentation is a test: each page's Python blocks run in order, as one program."""

import importlib
import importlib.util
import json
import re
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from qsample.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if path.parent != DOCS / "results"  # written by `make docs`
}
# A block below such a mark, and a page that takes more than a few seconds, run with the long tests.
BLOCK = re.compile(r"(?P<long><!-- test: long -->\n)?```python\n(?P<code>.*?)```", re.DOTALL)
SLOW_PAGES = {"guides/diffusers.md"}
ELSEWHERE = {"guides/qpu.md"}  # tests/test_qpu_page.py runs it, and looks at what it prints
FACES = (
    "qsample",
    "qsample.models",
    "qsample.annealers",
    "qsample.annealers.dwave",
    "qsample.diffusion",
    "qsample.sampling",
    "qsample.sklearn",
    "qsample.testing",
)


def programs(long: bool) -> list[str]:
    """Pages with blocks for the short tests, or pages of which some block is for the long ones."""
    names = []
    for name, text in PAGES.items():
        marks = [name in SLOW_PAGES or bool(block["long"]) for block in BLOCK.finditer(text)]
        if name not in ELSEWHERE and any(mark == long for mark in marks):
            names.append(name)
    return names


def run(name: str, every: bool) -> None:
    """A page's blocks as one program; an error names the line of the page."""
    text = PAGES[name]
    program = {"__name__": "page"}
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        for block in BLOCK.finditer(text):
            if block["long"] and not every:
                continue
            above = "\n" * text.count("\n", 0, block.start("code"))
            exec(compile(above + block["code"], str(DOCS / name), "exec"), program)


@pytest.mark.parametrize("name", programs(long=False))
def test_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(name, every=False)


@pytest.mark.long
@pytest.mark.parametrize("name", programs(long=True))
def test_whole_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(name, every=True)


def test_every_page_is_in_the_navigation():
    configuration = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r": ([\w/-]+\.md)$", configuration, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(PAGES) | {"results/index.md"}


def test_links_lead_somewhere():
    """Links to anchors are followed by `make docs`."""
    texts = {DOCS / name: text for name, text in PAGES.items()}
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        texts[ROOT / name] = (ROOT / name).read_text()
    for page, text in texts.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text):
            assert leads(page, target), (page, target)


def leads(page: Path, target: str) -> bool:
    """Whether a link's file is there, or will be: `make docs` copies experiments/results."""
    path = (page.parent / target).resolve()
    if path.parent == DOCS / "results":
        return path.name == "index.md" or (ROOT / "experiments" / "results" / path.name).exists()
    return path.exists()


def test_commands_take_the_flags_that_pages_give(capsys):
    pages = [*PAGES.values(), (ROOT / "README.md").read_text()]
    commands = {
        line
        for text in pages
        for line in re.findall(r"^(?: {4})?(qsample \w+.*)$", text, re.MULTILINE)
    }
    commands |= {line for text in pages for line in re.findall(r"`(qsample \w+[^`]*)`", text)}
    assert len(commands) > 5
    given: dict[str, set[str]] = {}
    for command in commands:
        given.setdefault(command.split()[1], set()).update(re.findall(r" (--[a-z-]+)", command))
    for command, flags in given.items():
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert flags <= known | {"--help"}, (command, flags - known)


def test_every_public_name_is_in_the_reference():
    """A name that several faces show stands in the reference once."""
    written = [
        name for text in PAGES.values() for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    ]
    assert len(written) == len(set(written))
    shown = {id(value_of(name)) for name in written}
    missing = []
    for face in FACES:
        for name in importlib.import_module(face).__all__:
            value = value_of(f"{face}.{name}")
            if not isinstance(value, ModuleType) and id(value) not in shown:
                missing.append(f"{face}.{name}")
    assert not missing, "write ::: NAME on a page under docs/api"


def value_of(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_every_experiment_is_listed():
    listed = set(re.findall(r"`(experiments/[\w/]+\.py)`", PAGES["experiments.md"]))
    paths = (ROOT / "experiments").rglob("*.py")
    scripts = {
        path.relative_to(ROOT).as_posix() for path in paths if "__main__" in path.read_text()
    }
    assert listed == scripts
    for name, text in PAGES.items():
        for script in re.findall(r"`(experiments/[\w/]+\.py)", text):
            assert script in scripts, (name, script)


# ---- .ci/docs.py -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_builder", ROOT / ".ci" / "docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gallery_shows_any_result(builder, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    document = {
        "command": "python experiments/train_rbm.py --out runs/demo",
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"processor": "a processor", "cores": 2},
        "versions": {"torch": "2.13.0", "absent": None},
        "result": {"loss": 1.0},
    }
    (results / "train_rbm.json").write_text(json.dumps(document))
    (results / "train_rbm.png").write_bytes(b"picture")
    (results / "bare.json").write_text("[1, 2]")
    builder.gallery(results, tmp_path / "out")
    page = (tmp_path / "out" / "index.md").read_text()
    assert page.index("## Bare") < page.index("## Train RBM")
    assert "![train RBM](train_rbm.png)" in page and "(bare.json)" in page
    assert document["command"] in page and "Train an RBM from annealed samples" in page
    assert "Made on 2026-01-02, a processor, 2 cores, torch 2.13.0." in page
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"index.md", "train_rbm.json", "train_rbm.png", "bare.json"}


def test_broken_links_are_named(builder, tmp_path):
    pytest.importorskip("latex2mathml", reason="make docs brings what pages are built with")
    (tmp_path / "index.html").write_text(
        '<h1 id="top"></h1><a href="other.html#here">x</a><a href="#top">x</a>'
    )
    (tmp_path / "other.html").write_text(
        '<p id="here"></p><a href="gone.html">x</a><a href="index.html#no">x</a>'
    )
    assert sorted(builder.broken_links(tmp_path)) == [
        "other.html: gone.html is not there",
        "other.html: index.html#no has no such anchor",
    ]
    with pytest.raises(SystemExit, match="2 broken links"):
        builder.finish(tmp_path)


def test_formulas_become_mathml(builder):
    pytest.importorskip(
        "latex2mathml", reason="comes with the extra docs, which `make docs` installs"
    )
    text = builder.with_formulas(r'a <span class="arithmatex">\(x &lt; \frac{1}{2}\)</span> b')
    assert text.startswith("a <math") and text.endswith("</math> b") and "<mfrac>" in text
