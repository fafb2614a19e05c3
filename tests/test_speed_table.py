"""Rows and columns of benchmarks/engine.py and of the README's table, on figures made up."""

import dataclasses
import inspect
import json
import re
import tomllib
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import common, readme_table
from experiments.benchmarks import cell, columns, engine
from experiments.benchmarks.cases import ALL, LINES, case
from experiments.benchmarks.instances import make, sizes
from experiments.benchmarks.journal import Journal
from experiments.common import ROOT, Seconds, instruction_sets

QUICK = cell.QUICK


def row(problem, isa, threads=1, seconds=1.0, engine="qsample", **figures):
    return {
        "problem": problem,
        "engine": engine,
        "isa": isa,
        "threads": threads,
        "problems": 1,
        "spins": 10,
        "reads": 4,
        "sweeps": 5,
        "seconds": seconds,
        "cpu_seconds": seconds,
        "fastest": seconds,
        **figures,
    }


def section(best, *isas, numbering=2, date="2026-01-01", processor="A", scale=1.0):
    """All rows of a machine, each figure told from those of others by the scale."""
    figures: dict[str, Any] = {
        "times dwave Metropolis": 20 * scale,
        "times one thread": scale,
        "updates_per_ns": scale,
        "reads_per_second": 1000 * scale,
        "times_base": 0.25 * scale,
    }
    rows = [
        row(case.name, isa, threads, **figures)
        for case in ALL
        for isa in isas
        for threads in case.threads
    ]
    return {
        "machine": {"processor": processor, "instruction_set": best, "cores": 2},
        "versions": {"qsample": "1", "torch": "2", "dwave-samplers": "3"},
        "numbering": numbering,
        "date": date,
        "rows": rows,
    }


# ---- lines and cases --------------------------------------------------------------------------


def test_every_line_is_measured_and_every_case_is_stated():
    measured = {(case.name, threads) for case in ALL for threads in case.threads}
    stated = {key for line in LINES for key in line.rows}
    assert stated <= measured
    assert {name for name, _ in stated} == {case.name for case in ALL}
    for line in LINES:
        kinds = [case(name) for name, _ in line.rows]
        assert line.measure in readme_table.FIGURES
        assert all((c.base is not None) == (line.measure == "share") for c in kinds)
        if line.measure == "times":
            assert all(c.peers for c in kinds)
        if line.measure == "threads":
            assert all(c.threads == (1, 2) for c in kinds)


def test_a_case_of_a_name():
    assert case("pegasus-16").threads == (1, 2)
    other = case("2d-4, 2 x 3")
    assert other.threads == (1,) and other.peers and other.base is None
    assert case("pcd-3x2, 4 x 1").base == "plain torch"


def test_what_the_readme_installs_brings_the_chips():
    """`pip install ".[experiments]"` and `make setup`: none of the rows needs another extra."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = " ".join(extras["optional-dependencies"]["experiments"])
    assert "dwave-graphs" in names and "matplotlib" in names
    assert "[test,dev,experiments,dwave" in (ROOT / "Makefile").read_text()


def test_problems_with_couplings_of_their_own():
    problem = make("own-64x28")
    assert problem.J.shape == (64, 12202) and problem.h.shape == (64, 784)


# ---- the table --------------------------------------------------------------------------------


def test_columns_come_from_where_they_are_at_home():
    wide = section("avx512", "avx512", "avx2", "plain", processor="W", date="2026-02-01")
    narrow = section("avx2", "avx2", "plain", processor="N", date="2026-01-01")
    chosen = readme_table.chosen([wide, narrow])
    assert list(chosen) == ["avx512", "avx2", "plain"]
    assert [s["machine"]["processor"] for s in chosen.values()] == ["W", "N", "W"]
    old = section("avx2", "avx2", processor="N", numbering=1)
    assert readme_table.chosen([old, wide])["avx2"] is wide  # an older build gives way


def test_the_table():
    old = section("avx512", "avx512", numbering=1, scale=2.0, processor="Wide")
    new = section("avx2", "avx2", "sse41", processor="Narrow")
    table = readme_table.table([new, old])
    lines = table.splitlines()
    assert lines[0] == "| reads × sweeps | AVX-512 | AVX2 | SSE4.1 |"
    assert len([line for line in lines if line.startswith("| ")]) == 1 + len(LINES)
    assert "| Pegasus-16, 64 reads × 100 sweeps | 40 (2) | 20 (1) | 20 (1) |" in lines
    assert "64 reads | 2.00 / 2.00 / 2.00 | 1.00 / 1.00 / 1.00 | 1.00 / 1.00 / 1.00 |" in table
    assert "64 / 512 × 100 | 2,000 / 2,000 | 1,000 / 1,000 | 1,000 / 1,000 |" in table
    assert "512 chains, 784 × 500 | 0.50 | 0.25 | 0.25 |" in table
    newer, older = lines[-1].split("; ")[::-1]
    assert newer.startswith("AVX2, SSE4.1: 2 cores of Narrow") and "older" not in newer
    assert older.startswith("AVX-512: 2 cores of Wide") and "**an older build**" in older


def test_a_new_instruction_set_has_a_column():
    table = readme_table.table([section("sve", "sve", "plain")])
    assert table.splitlines()[0] == "| reads × sweeps | plain C++ | sve |"


def test_what_is_not_there_is_a_dash():
    some = section("avx2", "avx2")
    some["rows"] = [r for r in some["rows"] if "256" in r["problem"] and "3d" not in r["problem"]]
    some["rows"].append(row("zephyr-15", "plain", updates_per_ns=0.5))
    table = readme_table.table([some])
    assert "| Zephyr-15, 64 × 100 | – | – (0.5) |" in table
    assert "| the same, 256 reads | 1.00 / 1.00 / – | – |" in table
    assert "Pegasus-16, 64 reads" not in table  # a line of dashes alone


def test_the_readme_is_rewritten_between_its_marks():
    text = f"head\n{readme_table.BEGIN}old\n{readme_table.END}tail\n"
    new = readme_table.rewritten(text, [section("avx2", "avx2")])
    assert new.startswith(f"head\n{readme_table.BEGIN}| reads") and new.endswith("tail\n")
    assert "old\n" not in new and readme_table.rewritten(new, [section("avx2", "avx2")]) == new


def test_all_rows_of_two_machines_leave_the_readme_short():
    """Publishing must not break the bound on its length, whatever is measured."""
    sections = [section("avx2", "avx2", "sse41", "plain"), section("avx512", "avx512")]
    text = (ROOT / "README.md").read_text()
    assert len(readme_table.rewritten(text, sections).splitlines()) <= 120


# ---- rounds -----------------------------------------------------------------------------------


def test_ratios_are_within_a_round():
    """The second round is ten times slower for all; the ratios do not see it."""
    rounds = [
        [
            row("a", "avx2", 1, 2.0 * slow),
            row("a", "avx2", 2, slow),
            row("a", None, 1, 8.0 * slow, "dwave Metropolis"),
        ]
        for slow in (1.0, 10.0, 1.0)
    ]
    one, two, peer = engine.summary(rounds)
    assert one["times dwave Metropolis"] == 4 and two["times dwave Metropolis"] == 8
    assert two["times one thread"] == 2 and "times one thread" not in one
    assert "times dwave Metropolis" not in peer
    assert one["seconds"] == 2 and one["rounds"] == 3
    assert one["updates_per_ns"] == 10 * 4 * 5 / 2 / 1e9 and one["reads_per_second"] == 2


def test_rows_of_other_instruction_sets_are_not_compared():
    (one, two), *_ = [engine.summary([[row("a", "avx2", 1), row("a", "plain", 2)]])]
    assert "times one thread" not in one and "times one thread" not in two


def test_a_row_that_is_missing_is_named():
    options = engine.Options(problems=("pegasus-16", "sk-1000"))
    rows = [row("pegasus-16", "avx2", 1), row("sk-1000", "avx2"), row("sk-1000", "plain")]
    assert list(engine.lacking(options, ["avx2", "plain"], rows)) == [
        "pegasus-16, avx2, threads: 2",
        "pegasus-16, plain, threads: 1",
        "pegasus-16, plain, threads: 2",
    ]


def test_sections_of_other_machines_stay():
    a = section("avx2", "avx2", processor="A")
    wide = section("avx512", "avx512", processor="A")
    again = section("avx2", "avx2", processor="A", scale=3.0)
    assert engine.merged([a, wide], again) == [again, wide]
    assert engine.merged([wide], a) == [a, wide]
    other = section("avx2", "avx2", processor="A")
    other["machine"]["model"] = "another generation"
    assert engine.merged([a], other) == [other, a]


def test_older_builds_stay_while_the_table_shows_them():
    old = section("avx512", "avx512", numbering=1)
    narrow = section("avx2", "avx2", "plain")
    wide = section("avx512", "avx512", "avx2", processor="W")
    assert engine.merged([old], narrow) == [narrow, old]
    assert engine.merged([narrow, old], wide) == [wide, narrow]


def test_what_may_be_published(tmp_path):
    sets = instruction_sets()
    assert engine.whole(engine.Options(), sets)
    assert not engine.whole(engine.Options(quick=True), sets)
    assert not engine.whole(engine.Options(rounds=2), sets)
    assert not engine.whole(engine.Options(problems=("sk-1000",)), sets)
    assert engine.whole(engine.Options(), sets[:1])
    assert not engine.whole(engine.Options(), sets[1:])
    with pytest.raises(SystemExit, match="a run of all rows"):
        engine.main(engine.Options(out=tmp_path, publish=True, quick=True))


def test_an_instruction_set_that_is_not_there():
    with pytest.raises(SystemExit, match="this machine has .*; got altivec"):
        engine.columns_of(engine.Options(isas=("altivec",)))
    sets = instruction_sets()
    assert engine.columns_of(engine.Options(isas=(sets[-1],))) == sets[-1:]


def test_reasons_are_told_once():
    left_out = [
        {"problem": name, "engine": "openjij", "isa": None, "reason": "no such package"}
        for name in ("a", "b")
    ]
    left_out.append({"problem": "a", "engine": "qsample", "isa": "neon", "reason": "bad"})
    assert engine.reasons(left_out) == [
        "openjij on a; b (no such package)",
        "qsample, neon on a (bad)",
    ]


def test_a_killed_run_goes_on(tmp_path):
    path = tmp_path / "finished.jsonl"
    journal = Journal(path, {"rounds": 3})
    journal.add("a, round 0", [1])
    journal.add("b, round 0", [2])
    path.write_text(path.read_text() + '{"c, round 0": [3')  # killed as it wrote
    again = Journal(path, {"rounds": 3})
    assert len(again) == 2 and again["b, round 0"] == [2] and "c, round 0" not in again
    again.add("c, round 0", [4])
    assert Journal(path, {"rounds": 3})["c, round 0"] == [4]
    assert len(Journal(path, {"rounds": 4})) == 0  # another run
    again.end()
    assert not path.exists()


def test_finished_turns_are_not_measured_again(tmp_path, monkeypatch):
    """The first run ends in its second round; the next one measures what is left."""
    path = tmp_path / "finished.jsonl"
    turns = []

    def turn(of_case, *_):
        if len(turns) == 3:
            raise KeyboardInterrupt
        turns.append(of_case.name)
        seconds = float(len(turns))
        return {"rows": [row(of_case.name, "avx2", seconds=seconds)], "left_out": []}

    monkeypatch.setattr(engine, "turn", turn)
    options = engine.Options(problems=("a-1", "b-1"), rounds=2)
    with pytest.raises(KeyboardInterrupt):
        engine.measure(options, ["avx2"], Journal(path, 0))
    assert turns == ["a-1", "b-1", "a-1"]
    turns.pop()  # lets one more pass
    rows, left_out = engine.measure(options, ["avx2"], Journal(path, 0))
    assert turns == ["a-1", "b-1", "b-1"] and not left_out
    assert [r["seconds"] for r in rows] == [2.0, 2.5]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A README and committed figures of another machine, to publish into."""
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(readme_table, "ROOT", tmp_path)
    before = {"result": {"sections": [section("avx512", "avx512", processor="Wide")]}}
    (tmp_path / "engine.json").write_text(json.dumps(before))
    (tmp_path / "README.md").write_text(f"head\n{readme_table.BEGIN}{readme_table.END}tail\n")
    return tmp_path


def made_up_turn(of_case, columns, *_):
    """All rows of a case, without timing them."""
    figures: dict[str, Any] = {} if of_case.base is None else {"base": "b", "times_base": 0.5}
    figures |= {"base_seconds": 2.0, "base_cpu_seconds": 2.0} if figures else {}
    rows = [
        row(of_case.name, isa, threads, **figures)
        for isa in columns
        if isa is not None
        for threads in of_case.threads
    ]
    return {"rows": rows, "left_out": []}


def test_publishing(checkout, monkeypatch):
    monkeypatch.setattr(engine, "turn", made_up_turn)
    engine.main(engine.Options(out=checkout / "run", publish=True))
    new, old = json.loads((checkout / "engine.json").read_text())["result"]["sections"]
    assert old["machine"]["processor"] == "Wide"
    assert {r["isa"] for r in new["rows"]} == set(instruction_sets())
    assert new["machine"]["instruction_sets"] == instruction_sets()
    assert (checkout / "engine.png").exists()
    assert not (checkout / "run" / "finished.jsonl").exists()
    readme = (checkout / "README.md").read_text()
    # this machine's own AVX-512 column, where it has one, takes the place of the other's
    assert ("cores of Wide" in readme) == ("avx512" not in instruction_sets())
    assert "/ a PCD-10 step /" in readme
    assert readme.startswith("head\n") and readme.endswith("tail\n")


def test_nothing_is_published_where_a_row_is_missing(checkout, monkeypatch):
    def broken(of_case, columns, *_):
        part = made_up_turn(of_case, columns)
        return part if of_case.name != "sk-1000" else {"rows": [], "left_out": []}

    before = (checkout / "engine.json").read_text()
    monkeypatch.setattr(engine, "turn", broken)
    with pytest.raises(
        SystemExit, match=f"nothing is published:\nsk-1000, {instruction_sets()[0]}"
    ):
        engine.main(engine.Options(out=checkout / "run", publish=True))
    assert (checkout / "engine.json").read_text() == before
    assert (checkout / "run" / "results.json").exists()  # what there is


# ---- processes --------------------------------------------------------------------------------


def test_how_often_a_call_is_timed():
    effort = cell.Effort(calls=3, shortest=1.0, longest=5.0)

    def seconds(number, each):
        return [Seconds(each, each)] * number

    assert not cell.enough([], QUICK) and cell.enough(seconds(1, 0.1), QUICK)
    assert not cell.enough(seconds(2, 1.0), effort) and cell.enough(seconds(3, 1.0), effort)
    assert not cell.enough(seconds(5, 0.1), effort) and cell.enough(seconds(11, 0.1), effort)
    assert cell.enough(seconds(1, 6.0), effort)


@pytest.mark.parametrize(
    ("name", "threads"),
    [("own-2x10, 1 x 2", (1,)), ("3d-3, 2 x 2", (1, 2)), ("rbm-6x4, 3 x 1", (1,))],
)
def test_rows_of_calls(name, threads):
    of_case = dataclasses.replace(case(name), threads=threads)
    _, reads, sweeps = sizes(name)
    rows = cell.visit(of_case, "qsample", QUICK)
    assert not isinstance(rows, str), rows
    assert [r["threads"] for r in rows] == list(threads)
    for r in rows:
        assert (r["reads"], r["sweeps"], r["isa"]) == (reads, sweeps, instruction_sets()[0])
        assert r["seconds"] > 0 and r["cpu_seconds"] > 0
    peers = cell.visit(of_case, "dwave Gibbs", QUICK)
    assert not isinstance(peers, str), peers
    assert [(r["threads"], r["isa"]) for r in peers] == [(1, None)]


@pytest.mark.parametrize("name", ["products-12x8, 10 x 1", "pcd-12x8, 10 x 2"])
def test_rows_beside_a_base(name):
    rows = cell.visit(case(name), "qsample", QUICK)
    assert not isinstance(rows, str), rows
    (r,) = rows
    assert r["base"] == case(name).base and r["base_seconds"] > 0 and r["base_cpu_seconds"] > 0
    assert r["times_base"] == pytest.approx(r["seconds"] / r["base_seconds"])  # of one pair


def test_what_cannot_be_measured_says_why():
    reason = cell.visit(case("no-16"), "qsample", QUICK)
    assert isinstance(reason, str) and "unknown problem no-16" in reason


@pytest.mark.long
def test_the_process_of_a_column_is_held_to_its_instruction_set():
    isa = instruction_sets()[-1]
    column = columns.Column(isa)
    try:
        (r,) = column.measure(case("3d-3, 2 x 2"), "qsample", QUICK)
        assert isinstance(r, dict) and r["isa"] == isa
    finally:
        column.close()


def test_no_kernel_overlooks_the_variable():
    """QSAMPLE_ISA is the default of each that takes an instruction set."""
    source = inspect.getsource(cell.native)
    assert "isa: str = ISA" in source and 'isa: str = ""' not in source


def test_a_process_that_dies_takes_no_other_with_it(monkeypatch):
    class Broken:
        def __init__(self, *_):
            pass

        def submit(self, *_):
            def result():
                raise columns.BrokenProcessPool

            return SimpleNamespace(result=result)

        def shutdown(self):
            pass

    monkeypatch.setattr(columns, "ProcessPoolExecutor", Broken)
    assert columns.Column("plain").measure(case("a"), "qsample", QUICK) == "its process died"


# ---- the committed figures --------------------------------------------------------------------


def test_the_readme_has_the_committed_figures():
    """`python experiments/readme_table.py` writes the table."""
    readme = (ROOT / "README.md").read_text()
    report = json.loads((ROOT / "experiments/results/engine.json").read_text())
    sections = report["result"]["sections"]
    assert readme_table.rewritten(readme, sections) == readme
    assert len({engine.place(s) for s in sections}) == len(sections)
    (stated,) = re.findall(r"^\| Pegasus-16, 64 reads × 100 sweeps \| (.*?) ", readme, re.M)
    isa, best = next(iter(readme_table.chosen(sections).items()))  # by hand, for one cell
    of_problem = [r for r in best["rows"] if r["problem"] == "pegasus-16" and r["threads"] == 1]
    rows = {r["engine"]: r for r in of_problem if r["isa"] in (isa, None)}
    ratio = rows["dwave Metropolis"]["seconds"] / rows["qsample"]["seconds"]
    assert float(stated) == pytest.approx(ratio, rel=0.2)  # of medians, not of each round
