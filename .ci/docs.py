"""What `make docs` does before and after `zensical build`.

    python .ci/docs.py gallery
    python .ci/docs.py finish

`gallery` writes docs/results from experiments/results: for each JSON its picture, the command that
made it and what it was made on. `finish` turns the formulas of the built pages into MathML, which
browsers draw by themselves, and follows every link inside the site: a broken one is an error.
"""

from __future__ import annotations

import ast
import html
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
GALLERY = ROOT / "docs" / "results"
SITE = ROOT / "build" / "site"

SPELLED = {"dwave": "D-Wave", "pcd": "PCD", "qpu": "QPU", "rbm": "RBM"}
HEAD = """# Results

The figures of experiments that the README and these pages state come from these files, written
by the command that stands with each. `experiments/` holds the scripts; `--help` says what can be
varied.
"""


def gallery(results: Path = RESULTS, out: Path = GALLERY) -> None:
    """Write the page of all results, with copies of the files that it shows."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    sections = [HEAD]
    for path in sorted(results.rglob("*.json")):
        data = json.loads(path.read_text())
        sections.append(section(path, data if isinstance(data, dict) else {}))
        shutil.copy(path, out / path.name)
        picture = path.with_suffix(".png")
        if picture.exists():
            shutil.copy(picture, out / picture.name)
    (out / "index.md").write_text("\n".join(sections))


def section(path: Path, data: Mapping[str, Any]) -> str:
    """One result: what it claims, its picture, its command, its machine, its file."""
    title = " ".join(SPELLED.get(word, word) for word in path.stem.split("_"))
    lines = [f"## {title[0].upper()}{title[1:]}", ""]
    command = data.get("command")
    claim = described(path.stem)
    if claim:
        lines += [claim, ""]
    if path.with_suffix(".png").exists():
        lines += [f"![{title}]({path.stem}.png)", ""]
    if isinstance(command, str):
        lines += ["```text", command, "```", ""]
    made_on = ", ".join(machine(data))
    if made_on:
        lines += [f"Made on {made_on}.", ""]
    lines += [f"[All figures: {path.name}]({path.name})", ""]
    return "\n".join(lines)


def described(name: str) -> str | None:
    """The first paragraph of the docstring of the script that a result is named after."""
    for script in sorted((ROOT / "experiments").rglob(f"{name}.py")):
        docstring = ast.get_docstring(ast.parse(script.read_text()))
        if docstring:
            return docstring.split("\n\n")[0].replace("\n", " ")
    return None


def machine(data: Mapping[str, Any]) -> Iterator[str]:
    """What a result says of the machine, the versions and the day that made it, as short texts."""
    for key in ("date", "about", "machine", "processor", "instruction_set", "cores", "versions"):
        value = data.get(key)
        if isinstance(value, Mapping):
            pairs = value.items() if key == "versions" else ()
            yield from (f"{name} {version}" for name, version in pairs if version)
            yield from machine(value)
        elif key == "date" and isinstance(value, str):
            yield value[:10]
        elif value is not None:
            yield f"{value} cores" if key == "cores" else str(value)


def finish(site: Path = SITE) -> None:
    """Formulas become MathML; then every link inside the site is followed."""
    pages = sorted(site.rglob("*.html"))
    for page in pages:
        text = page.read_text()
        drawn = with_formulas(text)
        if drawn != text:
            page.write_text(drawn)
    broken = list(broken_links(site))
    for message in broken:
        print(message, file=sys.stderr)
    if broken:
        raise SystemExit(f"{len(broken)} broken links")
    print(f"{len(pages)} pages, no broken link: {site / 'index.html'}")


def with_formulas(text: str) -> str:
    r"""A page with MathML where `\(...\)` and `\[...\]` stood, as arithmatex marks them."""
    from latex2mathml.converter import convert

    def drawn(match: re.Match[str]) -> str:
        formula = html.unescape(match["inline"] or match["block"])
        return convert(formula, display="inline" if match["inline"] else "block")

    inline = r"\\\((?P<inline>.*?)\\\)"
    block = r"\\\[(?P<block>.*?)\\\]"
    marked = rf'<(?P<tag>span|div) class="arithmatex">(?:{inline}|{block})</(?P=tag)>'
    return re.sub(marked, drawn, text, flags=re.DOTALL)


class Page(HTMLParser):
    """The anchors of a page and what it links to or shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One opening tag."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src") and value:
                self.targets.append(value)


def broken_links(site: Path) -> Iterator[str]:
    """Links to pages, files or anchors of the site that are not there."""
    pages = {path.resolve(): Page(path.read_text()) for path in site.rglob("*.html")}
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are absolute: it is shown at any address
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if file.is_dir():
                file = file / "index.html"
            if not file.exists():
                yield f"{path.relative_to(site.resolve())}: {target} is not there"
            elif (
                parts.fragment
                and file in pages
                and unquote(parts.fragment) not in pages[file].anchors
            ):
                yield f"{path.relative_to(site.resolve())}: {target} has no such anchor"


if __name__ == "__main__":
    {"gallery": gallery, "finish": finish}[sys.argv[1]]()
