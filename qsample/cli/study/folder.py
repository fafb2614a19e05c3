"""The folder of a study: what lies in that of a run, and where the run stands by it.

| file | what |
|---|---|
| `job.json` | flags and settings, as the worker reads them |
| `run/` | the folder of `fit`: checkpoint and metrics |
| `costs.jsonl` | what its sampler's calls cost, a line at each checkpoint |
| `log.txt` | what its process wrote |
| `record.json` | once it has ended: "done" with its result, or "failed" with the error |
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from qsample.cli.study.plan import Planned
from qsample.cli.train import Train
from qsample.learning.checkpoint import CheckpointError, last_step
from qsample.learning.files import strict_json
from qsample.learning.settings import Settings
from qsample.support.files import LOCK, write_whole

JOB = "job.json"
RUN = "run"
COSTS = "costs.jsonl"
LOG = "log.txt"
RECORD = "record.json"


class State(NamedTuple):
    """Where a run stands.

    Attributes:
        name: "done", "failed", "under way", "stopped" or "waiting".
        text: more about it, such as the error's line.
        result: metrics of a run that is done.
    """

    name: str
    text: str = ""
    result: dict[str, Any] | None = None


def state_of(run: Planned, folder: Path) -> State:
    """Where a run stands, by the files of the study's folder."""
    own = folder / run.key
    record = read_record(own)
    if record.get("state") == "done":
        return State("done", "", record["result"])
    if record.get("state") == "failed":
        return State("failed", record["error"])
    try:
        update = last_step(own / RUN)
    except CheckpointError:
        update = 0
    at = f"at update {update} of {run.settings.updates}"
    if _is_written(own / RUN):
        return State("under way", at)
    return State("stopped", at) if update else State("waiting")


def _is_written(folder: Path) -> bool:
    """Whether a process of this machine writes the run's folder, as its lock says."""
    try:
        os.kill(int(json.loads((folder / LOCK).read_text())["pid"]), 0)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return True


def read_record(own: Path) -> dict[str, Any]:
    """The record in a run's folder; empty where the run has not ended."""
    try:
        return json.loads((own / RECORD).read_text())
    except FileNotFoundError:
        return {}


def write_record(own: Path, record: dict[str, Any]) -> None:
    """Note how a run has ended."""
    write_whole(own / RECORD, strict_json(record).encode())


def write_job(own: Path, run: Planned) -> None:
    """Make the folder of a run, for a worker; the record of a failure is dropped."""
    own.mkdir(exist_ok=True)
    (own / RECORD).unlink(missing_ok=True)
    job = {"flags": run.flags, "settings": asdict(run.settings)}
    write_whole(own / JOB, strict_json(job).encode())


def read_job(own: Path) -> Train:
    """The command of the run in a folder, which goes on with what is there."""
    job = json.loads((own / JOB).read_text())
    flags = job["flags"] | {"set": tuple(job["flags"]["set"])}
    return Train(out=own / RUN, resume=True, settings=Settings(**job["settings"]), **flags)
