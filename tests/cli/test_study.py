"""`qsample study`: a grid is run, what is missing alone is done again, and nothing is lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from qsample.annealers import Gibbs
from qsample.cli import main
from qsample.cli.study import runner
from qsample.cli.study.costs import Cost, cost_of, excess, expected
from qsample.cli.study.folder import RECORD, RUN, read_record, state_of, write_job, write_record
from qsample.cli.study.plan import Budget, read_plan
from qsample.cli.study.report import MEASURED, picture_of, report_of, table_of
from qsample.cli.study.worker import work
from tests.support.commands import ROOT

STUDY = """
about = "two models, three samplers"
[train]
data = "bars-and-stripes-3x3"
hidden = 3
test = 4
sweeps = 2
[settings]
updates = 6
batch = 10
chains = 16
evaluate_every = 2
checkpoint_every = 2
[grid]
model = ["rbm", "boltzmann"]
sampler = ["gibbs", "exact", "corrected-annealing"]
seed = [0, 1]
[sampler.gibbs]
sweeps = 3
set = ["scan=palindromic"]
"""
UPDATES = 6 * 16 * 12  # spin updates of a run per sweep


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def inline(monkeypatch):
    """Runs are done here, not in processes; the list of their names."""
    done = []

    class Inline(runner.Worker):
        def start(self, run, folder):
            self.run = run
            done.append(str(run))
            write_job(folder / run.key, run)
            write_record(folder / run.key, work(folder / run.key))

        def ended(self, folder):
            return True

    monkeypatch.setattr(runner, "Worker", Inline)
    monkeypatch.setattr(runner, "POLL", 0)
    return done


def refused(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(["study", *map(str, arguments)])
    line = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and line.startswith("qsample: error: ")
    return line.removeprefix("qsample: error: ")


# ---- the plan ----------------


def test_the_grid_in_order_with_what_one_sampler_has_of_its_own(file):
    plan = read_plan(file)
    assert [str(run) for run in plan.runs[:3]] == [
        "model rbm, sampler gibbs, seed 0",
        "model rbm, sampler gibbs, seed 1",
        "model rbm, sampler exact, seed 0",
    ]
    keys = {run.key for run in plan.runs}
    assert len(keys) == len(plan.runs) == 12
    gibbs, exact = plan.runs[0], plan.runs[2]
    assert (gibbs.flags["sweeps"], gibbs.flags["set"]) == (3, ("scan=palindromic",))
    assert (exact.flags["sweeps"], exact.flags["set"]) == (2, ())
    assert gibbs.settings.seed == 0 and gibbs.cell == plan.runs[1].cell != exact.cell


def test_a_run_keeps_its_name_unless_what_decides_its_result_changes(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = [run.key for run in read_plan(file).runs]
    other = STUDY.replace("two models", "2 models").replace('["rbm", "boltzmann"]', '["boltzmann"]')
    file.write_text(other)
    assert [run.key for run in read_plan(file).runs] == keys[6:]
    for change in (("hidden = 3", "hidden = 4"), ("updates = 6", "updates = 7")):
        file.write_text(STUDY.replace(*change))
        assert not {run.key for run in read_plan(file).runs} & set(keys)
    # data of a file go by their bytes
    file.write_text(STUDY.replace("bars-and-stripes-3x3", "mine.csv"))
    names = []
    for text in ("0,1\n1,1\n", "0,1\n1,0\n", "0,1\n1,1\n"):
        (tmp_path / "mine.csv").write_text(text)
        names.append(read_plan(file).runs[0].key)
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[grid]", "[gird]"), "unknown gird: did you mean grid?; expected about, train,"),
        (("hidden = 3", "hiden = 3"), "unknown train.hiden: did you mean hidden?"),
        (("updates = 6", "update = 6"), "unknown setting 'update': did you mean 'updates'?"),
        (("updates = 6", "updates = 0"), "expected updates >= 1; got 0"),
        (('model = ["rbm"', 'modle = ["rbm"'), "unknown grid.modle: did you mean model?"),
        (("seed = [0, 1]", "seed = 0"), "expected grid.seed as a list of values; got 0"),
        (("seed = [0, 1]", "seed = []"), "expected grid.seed as a list of values; got []"),
        (("seed = [0, 1]", "seed = [1, 1]"), "grid.seed holds 1 twice"),
        (("seed = [0, 1]", 'seed = ["x"]'), "expected a seed"),
        (('"exact"', '"exat"'), "unknown sampler 'exat'; did you mean exact"),
        (('"rbm"', '"rmb"'), "unknown model 'rmb'"),
        (
            ("[sampler.gibbs]", "[sampler.gibs]"),
            "[sampler.gibs] is for no run, whose sampler is gibbs or",
        ),
        (("scan=palindromic", "scann=1"), "'scann' is no setting of Gibbs"),
        (("[sampler.gibbs]\nsweeps = 3", "[sampler.gibbs]\nsweps = 3"), "unknown sampler.gibbs.sw"),
        (
            ("chains = 16", 'chains = 16\nstart = "persistent"'),
            "--start persistent continues chains, which exact cannot",
        ),
        (("[grid]", "[budget]\njuoles = 1\n[grid]"), "unknown budget.juoles: did you mean joules?"),
        (("[grid]", "[budget]\njoules = 0\n[grid]"), "expected budget.joules as a number > 0"),
        (("[grid]", "[grid"), "study.toml is no study: "),
        (("seed = [0, 1]", "hidden = [3, 4]\nseed = [0, 1]"), None),
    ],
)
def test_a_typo_is_one_line_before_anything_runs(file, tmp_path, capsys, change, message):
    assert change[0] in STUDY
    file.write_text(STUDY.replace(change[0], change[1], 1))
    if message is None:
        assert len(read_plan(file).runs) == 24
        return
    line = refused(capsys, file, "--out", tmp_path / "out")
    assert str(file) in line and message in line
    assert not (tmp_path / "out").exists()


def test_what_stands_over_what(file, capsys):
    """The grid over the tables of a sampler, these over what all share; names without a grid."""
    file.write_text(STUDY.replace('sampler = ["gibbs", "exact", "corrected-annealing"]', ""))
    assert {run.flags["sweeps"] for run in read_plan(file).runs} == {3}  # gibbs by default
    file.write_text(file.read_text().replace("[sampler.gibbs]", "[sampler.exact]"))
    line = refused(capsys, file)
    assert "[sampler.exact] is for no run, whose sampler is gibbs" in line
    file.write_text(STUDY.replace("seed = [0, 1]", "sweeps = [1, 2]"))
    assert {run.flags["sweeps"] for run in read_plan(file).runs} == {1, 2}
    assert "cannot read gone.toml" in refused(capsys, "gone.toml")
    assert "no study at" in refused(capsys, file, "report", "--out", "nowhere")


# ---- what is done ----------------


def test_only_what_is_missing_is_done(file, tmp_path, capsys, inline):
    file.write_text(STUDY.replace('["rbm", "boltzmann"]', '["rbm"]').replace('"exact", ', ""))
    out = tmp_path / "out"
    main(["study", str(file), "--out", str(out)])
    said = capsys.readouterr().out
    assert len(inline) == 4 and "done: model rbm, sampler gibbs, seed 1" in said
    report = json.loads((out / "report.json").read_text())
    assert report["score"] == "test_log_likelihood"
    rows = report["rows"]
    assert [row["sampler"] for row in rows] == ["gibbs", "corrected-annealing"]
    assert rows[0]["spin_updates"] == 2 * 6 * UPDATES and rows[0]["done"] == rows[0]["runs"] == 2
    assert rows[0]["score_stderr"] > 0 and report["ledger"]["simulator_seconds"] > 0
    assert report["ledger"]["spin_updates"] == sum(row["spin_updates"] for row in rows)
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "| rbm | gibbs | 2 of 2 | -" in (out / "report.md").read_text()

    run = read_plan(file).runs[2]
    (out / run.key / RECORD).unlink()
    main(["study", str(file), "--out", str(out)])
    assert inline[4:] == [str(run)]
    again = json.loads((out / "report.json").read_text())
    assert without_times(again) == without_times(report)
    # a seed more: only its runs are done
    file.write_text(file.read_text().replace("seed = [0, 1]", "seed = [0, 1, 2]"))
    main(["study", str(file), "status", "--out", str(out)])
    assert "4 done, 2 waiting" in capsys.readouterr().out
    main(["study", str(file), "--out", str(out)])
    assert inline[5:] == [
        f"model rbm, sampler {s}, seed 2" for s in ("gibbs", "corrected-annealing")
    ]


def without_times(report):
    """A report without times, joules and what they are made of."""
    if isinstance(report, dict):
        return {k: without_times(v) for k, v in report.items() if k not in MEASURED}
    return [without_times(item) for item in report] if isinstance(report, list) else report


def test_a_run_that_fails_loses_no_other(file, tmp_path, capsys, inline, monkeypatch):
    file.write_text(STUDY.replace('["rbm", "boltzmann"]', '["rbm"]'))
    real = Gibbs.sample

    def broken(self, problem, num, **kwargs):
        if self.scan == "palindromic":
            raise RuntimeError("out of\norder")
        return real(self, problem, num, **kwargs)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Gibbs, "sample", broken)
        line = refused(capsys, file, "--out", out)
    assert line.startswith("2 of 6 runs failed") and len(inline) == 6
    plan = read_plan(file)
    names = [state_of(run, out).name for run in plan.runs]
    assert names == ["failed", "failed", "done", "done", "done", "done"]
    table = (out / "report.md").read_text()
    assert "| rbm | gibbs | 0 of 2 | – | – | 0 |" in table
    assert "Failed: model rbm, sampler gibbs, seed 1: RuntimeError: out of order" in table
    main(["study", str(file), "--out", str(out)])  # once it is mended, those two alone
    assert inline[6:] == [str(run) for run in plan.runs[:2]]
    assert [state_of(run, out).name for run in plan.runs] == ["done"] * 6


# ---- the budget ----------------


def test_a_budget_that_the_next_run_would_exceed_is_one_line(file, tmp_path, capsys, inline):
    one = 3 * UPDATES  # foretold of a run of Gibbs; palindromic sweeps are twice as many
    file.write_text(STUDY + f"[budget]\nspin_updates = {one - 1}\n")
    line = refused(capsys, file, "--out", tmp_path / "none")
    assert inline == [] and "0 of 12 runs are done; the next is model rbm, sampler gibbs" in line
    assert "raise [budget] spin_updates" in line
    file.write_text(STUDY + f"[budget]\nspin_updates = {2 * one}\n")
    line = refused(capsys, file, "--out", tmp_path / "out")
    assert len(inline) == 1 and "1 of 12 runs are done; the next is model rbm" in line
    few = STUDY.replace('["rbm", "boltzmann"]', '["rbm"]').replace('"exact", ', "")
    file.write_text(few + f"[budget]\nspin_updates = {100 * one}\n")
    main(["study", str(file), "--out", str(tmp_path / "out")])
    assert len(inline) == 4


def test_the_budget_knows_what_is_under_way_and_what_is_not_known():
    budget = Budget(qpu_us=100.0)
    assert excess(budget, Cost(qpu_us=40), Cost(qpu_us=30), Cost(qpu_us=30)) == ""
    text = excess(budget, Cost(qpu_us=40), Cost(qpu_us=31), Cost(qpu_us=30))
    assert "about 30 of qpu_us, and of the budget of 100 71 are spent or under way" in text
    assert excess(budget, Cost(qpu_us=100), Cost(), Cost())  # nothing is left
    assert "joules are not known (CPU: not known)" in excess(
        Budget(joules=1.0), Cost(joules=None, sources=("CPU: not known",)), Cost(), Cost()
    )
    assert excess(Budget(), Cost(joules=None), Cost(), Cost()) == ""


def test_a_run_is_expected_to_cost_what_its_dearest_repeat_did(file):
    first, second, exact, *_ = read_plan(file).runs
    assert expected(first, {}).spin_updates == 3 * UPDATES
    assert expected(exact, {}).spin_updates == 0
    dear = [Cost(1.0, 2.0, 30, 4.0, 5), Cost(2.0, 1.0, 40, None, 5)]
    assert expected(second, {first.cell: dear}) == Cost(2.0, 2.0, 40, 4.0)


def test_costs_that_a_kill_cut_short_are_read(file, tmp_path):
    run = read_plan(file).runs[0]
    write_job(tmp_path / run.key, run)
    assert work(tmp_path / run.key)["state"] == "done"
    costs = tmp_path / run.key / "costs.jsonl"
    whole = cost_of(tmp_path / run.key)
    assert whole.reads == 6 * 16 and whole.spin_updates == 6 * UPDATES
    assert len(costs.read_text().splitlines()) == 3  # one per checkpoint
    costs.write_text(costs.read_text() + '{"simulator_seconds": 1')
    assert cost_of(tmp_path / run.key) == whole


def test_a_report_of_nothing(file, tmp_path):
    report = report_of(read_plan(file), tmp_path)
    assert report["score"] is None and len(report["rows"]) == 6
    assert "0 of 2" in table_of(report) and "No reads yet" in table_of(report)
    assert picture_of(report).startswith(b"\x89PNG")


# ---- processes ----------------


def command(file, out, *more):
    return [sys.executable, "-m", "qsample.cli", "study", str(file), "--out", str(out), *more]


@pytest.mark.long
def test_twelve_runs_killed_five_times_end_with_the_same_report(file, tmp_path):
    """`kill -9` of the study and of all its processes, at random."""
    # so long that the study is not over before its fifth kill
    longer = STUDY.replace("updates = 6", "updates = 1000").replace("_every = 2", "_every = 100")
    file.write_text(longer)
    subprocess.run(command(file, tmp_path / "whole"), cwd=ROOT, check=True, capture_output=True)
    wait = random.Random(1)
    killed = 0
    while killed < 5:
        process = subprocess.Popen(
            command(file, tmp_path / "killed", "--workers", "2"),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        before = written(tmp_path / "killed")
        until = time.monotonic() + 120
        while written(tmp_path / "killed") == before and time.monotonic() < until:
            time.sleep(0.05)  # processes load PyTorch first
        time.sleep(wait.uniform(0.0, 2.0))
        assert process.poll() is None, "over before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
    subprocess.run(command(file, tmp_path / "killed"), cwd=ROOT, check=True, capture_output=True)
    reports = [
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "killed")
    ]
    assert without_times(reports[0]) == without_times(reports[1])
    assert all(run["state"] == "done" for run in reports[1]["runs"])


def written(folder):
    """How much all metrics of a study hold."""
    return sum(path.stat().st_size for path in folder.glob(f"*/{RUN}/metrics.jsonl"))


@pytest.mark.long
def test_a_worker_that_dies_is_a_failure_of_its_run_alone(file, tmp_path):
    file.write_text(
        STUDY.replace('["rbm", "boltzmann"]', '["rbm"]')
        .replace("updates = 6", "updates = 3000")
        .replace("evaluate_every = 2", "evaluate_every = 1000")
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(file, out), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first, *others = read_plan(file).runs
    lock = out / first.key / RUN / ".lock"
    while not (lock.exists() and lock.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(json.loads(lock.read_text())["pid"], signal.SIGKILL)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and "1 of 6 runs failed" in errors
    assert "its process ended by signal SIGKILL" in read_record(out / first.key)["error"]
    assert all(state_of(run, out).name == "done" for run in others), said


@pytest.mark.long
def test_a_study_that_is_stopped_saves_its_runs(file, tmp_path):
    """SIGTERM to the study alone: its worker's pipe ends, the run is saved."""
    file.write_text(STUDY.replace("updates = 6", "updates = 100000"))
    out = tmp_path / "out"
    process = subprocess.Popen(command(file, out), cwd=ROOT, stdout=subprocess.DEVNULL)
    run = read_plan(file).runs[0]
    while not written(out):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    process.wait(60)
    until = time.monotonic() + 60
    while state_of(run, out).name != "stopped" and time.monotonic() < until:
        time.sleep(0.1)
    state = state_of(run, out)
    assert state.name == "stopped" and "of 100000" in state.text
