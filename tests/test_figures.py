"""Every figure that README and docs state stands in a committed file of experiments/results/.

A paragraph, or a row of a table, that states figures ends with a comment that names them:

    <!-- figures: few_steps/means/copula/1/frechet .3f; few_steps/floor/frechet .1f -->

Each entry is the file's name, the keys of its result, a blank, and the format of the number as the
text states it.
"""

import json
import re

import matplotlib.pyplot as plt
import pytest

from experiments.benchmarks import ranks
from experiments.claims.judge_calibration import caught
from experiments.common import RESULTS, ROOT, published

DOCS = ROOT / "docs"
GALLERY = DOCS / "results"
"""pages that `make docs` writes from the files themselves"""
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if p.parent != GALLERY)]
MARK = re.compile(r"<!-- figures: (.*?) -->", re.DOTALL)
SCRIPT = re.compile(r"experiments/(?:claims|benchmarks)/(\w+)\.py")
NUMBER = re.compile(r"\d\.\d")


def paragraphs(text):
    """Paragraphs, lists and rows of tables, without code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.split(r"\n\s*\n", text):
        table = [line for line in block.splitlines() if line.startswith("|")]
        if table:
            yield from table
            block = "\n".join(line for line in block.splitlines() if line not in table)
        yield block


def entries(mark):
    """(file, keys, format) of a comment."""
    for entry in mark.split(";"):
        path, _, form = entry.strip().rpartition(" ")
        name, *keys = " ".join(path.split()).split("/")
        yield name, keys, form


def value_of(name, keys):
    value = published(name)["result"]
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


def states(text, number):
    """Whether a text holds a number as a word of its own: 0.03 is not in 0.032, nor 3 in 3.5."""
    return re.search(rf"(?<![\d.,]){re.escape(number)}(?![\d]|[.,]\d)", text) is not None


STATED = [
    pytest.param(
        " ".join(MARK.sub("", block).split()),
        *entry,
        id=f"{page.name}: {'/'.join([entry[0], *entry[1]])}",
    )
    for page in PAGES
    for block in paragraphs(page.read_text())
    for mark in MARK.findall(block)
    for entry in entries(mark)
]


@pytest.mark.parametrize(("text", "name", "keys", "form"), STATED)
def test_a_stated_figure_is_the_file_s(text, name, keys, form):
    number = format(value_of(name, keys), form)
    assert states(text, number), f"{name}.json says {number}; the text: {text}"
    assert (RESULTS / f"{name}.png").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_figures_beside_a_script_name_their_file(page):
    for block in paragraphs(page.read_text()):
        text = MARK.sub("", block)
        named = {name for mark in MARK.findall(block) for name, _, _ in entries(mark)}
        if NUMBER.search(text):
            missing = set(SCRIPT.findall(text)) - named
            assert not missing, (
                f"{page.name} states figures of {missing} without their keys: {text}"
            )


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_committed_file_is_strict_and_says_how_it_was_made(path):
    report = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert list(report) == ["command", "date", "machine", "versions", "options", "result"]
    assert report["command"].startswith("python experiments/")
    # the name may end in a variant
    (script,) = (
        script
        for script in (ROOT / "experiments").rglob("*.py")
        if f"{path.stem}_".startswith(f"{script.stem}_")
    )
    assert script.parent.name in ("claims", "benchmarks", "experiments")
    assert path.with_suffix(".png").exists()


def test_pictures_have_figures():
    assert {p.stem for p in RESULTS.glob("*.png")} <= {p.stem for p in RESULTS.glob("*.json")}


def test_the_table_of_judges():
    """docs/judges.md: a row for each fault, 300 and 1,500 reads."""
    page = (ROOT / "docs" / "judges.md").read_text()
    for fault, cells in published("judge_calibration")["result"]["power"].items():
        columns = ["{} of {}".format(*caught(cells, size)) for size in (300, 1500)]
        assert f"| {fault} | {' | '.join(columns)} |" in page


@pytest.mark.skipif(not (RESULTS / "ranks.json").exists(), reason="not published")
def test_the_table_of_ranks():
    page = (DOCS / "guides" / "beyond-one-machine.md").read_text()
    assert ranks.rewritten(page, published("ranks")["result"]) == page


def test_the_check_sees_a_wrong_figure():
    (entry,) = entries("few_steps/floor/frechet .1f")
    assert entry == ("few_steps", ["floor", "frechet"], ".1f")
    assert states("an error of 0.03, and", "0.03") and not states("an error of 0.032", "0.03")
    assert states("a floor of 3.", "3") and not states("3.5", "3") and not states("13", "3")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.png")), ids=lambda path: path.stem)
def test_a_committed_picture_is_whole(path):
    assert plt.imread(path).ndim == 3
