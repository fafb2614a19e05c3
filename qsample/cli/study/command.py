"""`qsample study`: run a grid, say where it stands, report it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from qsample.cli.study.folder import state_of
from qsample.cli.study.plan import Plan, read_plan
from qsample.cli.study.report import picture_of, report_of, table_of
from qsample.cli.study.runner import Runner
from qsample.learning.files import strict_json
from qsample.support.checks import whole
from qsample.support.files import write_whole


@dataclass(frozen=True)
class Study:
    """Run a grid of models, samplers and seeds; what is done already is not done again.

    Args:
        file: the study, a .toml file.
        action: run, what is missing, and report; status, a line per run; report, the table and the
            picture of what is done.
        out: folder of the study; by default runs/ and the file's name.
        workers: number of runs at a time, each a process.
    """

    file: Annotated[Path, tyro.conf.Positional]
    action: Annotated[Literal["run", "status", "report"], tyro.conf.Positional] = "run"
    out: Path | None = None
    workers: int = 1

    def __call__(self) -> None:
        """Do it; a run that failed is a ValueError once all the others are done."""
        whole("workers", self.workers, 1)
        plan = read_plan(self.file.expanduser())
        folder = (self.out or Path("runs") / self.file.stem).expanduser()
        if self.action == "status":
            self._status(plan, folder)
            return
        if self.action == "report":
            if not folder.is_dir():
                raise ValueError(f"no study at {folder}: run it first, or name it by --out")
            self._report(plan, folder)
            return
        try:
            Runner(plan, folder, self.workers, lambda line: print(line, flush=True)).run()
        finally:
            if folder.is_dir():
                self._report(plan, folder)
        failed = sum(state_of(run, folder).name == "failed" for run in plan.runs)
        if failed:
            raise ValueError(
                f"{failed} of {len(plan.runs)} runs failed, as the report says; the same command "
                "tries them again"
            )

    def _status(self, plan: Plan, folder: Path) -> None:
        """Print a line per run, and how many stand where."""
        states = {run: state_of(run, folder) for run in plan.runs}
        for run, state in states.items():
            line = f"{run.key}  {state.name:10}{run}"
            print(f"{line}: {state.text}" if state.text else line)
        counts = Counter(state.name for state in states.values())
        print(", ".join(f"{count} {name}" for name, count in counts.items()))

    def _report(self, plan: Plan, folder: Path) -> None:
        """Write report.json, report.md and report.png, and print the table."""
        report = report_of(plan, folder)
        table = table_of(report)
        write_whole(folder / "report.json", (strict_json(report) + "\n").encode())
        write_whole(folder / "report.md", table.encode())
        print(table, end="")
        try:
            write_whole(folder / "report.png", picture_of(report))
        except ImportError as error:
            print(f"no picture: {error}")
        print(f"report: {folder / 'report.md'}")
