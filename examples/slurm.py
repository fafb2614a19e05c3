"""One run over many ranks of a SLURM cluster, which is queued again when its time is over.

    pip install submitit
    python examples/slurm.py --nodes 4 --tasks-per-node 8 --minutes 240 --out runs/mnist
    python examples/slurm.py --cluster local --tasks-per-node 2 --out runs/trial  # here

SLURM sends SIGUSR1 before the end, or before it gives the nodes to others. All ranks then end after
the same update, the first one, which alone writes, saves, and the job is queued again. It goes on
as if it had not been stopped; a new job in the same folder may have another number of ranks.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

import qsample as qs
from qsample.annealers import Gibbs
from qsample.data import load
from qsample.learning.distributed import join
from qsample.models import BernoulliRBM

# submitit's own choice is SIGUSR2; read when it is imported, also in the jobs
os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")


@dataclass(frozen=True)
class Options:
    """Where the run goes."""

    out: Path = Path("runs/slurm")
    """folder of the run, which all nodes see"""
    nodes: int = 1
    """nodes"""
    tasks_per_node: int = 2
    """ranks on each node; they divide chains and batch"""
    minutes: int = 240
    """time limit of the job; another begins where it ends"""
    cluster: str | None = None
    """slurm, or local; by default SLURM where there is one"""
    updates: int = 20_000
    """updates of the run"""
    data: str = "mnist5k"
    """data by name, or a file"""
    hidden: int = 500
    """hidden units"""


class StopsAtSignal(qs.Callback):
    """Ends the run after an update at SIGUSR1, which `handler` was to handle."""

    def on_begin(self, run: Any) -> None:
        """Listen, as long as the run lasts."""
        self.run = run
        self.handler: Any = signal.signal(signal.SIGUSR1, lambda *_: run.stop())


class Job:
    """What every rank does.

    Args:
        options: options of the run.
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    def __call__(self) -> int:
        """Train; returns the number of updates made."""
        become_rank()
        rank, _ = join()
        rows = load(self.options.data).x
        generator = torch.Generator().manual_seed(0)
        model = BernoulliRBM(rows.shape[1], self.options.hidden, generator=generator)
        settings = qs.Settings(updates=self.options.updates, batch=512, chains=512, exact_sums=True)
        stops = StopsAtSignal()
        qs.fit(
            model,
            rows,
            Gibbs(10),
            settings,
            out=self.options.out,
            resume=True,
            progress=rank == 0,
            callbacks=[stops],
        )
        if not stops.run.done:
            stops.handler(signal.SIGUSR1, None)  # submitit queues the job again, on the first rank
        return stops.run.update

    def checkpoint(self) -> Any:
        """What to queue again: the same, which takes up the checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Job(self.options))


def become_rank() -> None:
    """Tell torch.distributed what SLURM knows, and leave the end to SIGUSR1."""
    import submitit

    task = submitit.JobEnvironment()
    local = task.cluster == "local"
    job = int(task.job_id.split("_")[0])
    os.environ |= {
        "RANK": str(task.global_rank),
        "WORLD_SIZE": str(task.num_tasks),
        "LOCAL_RANK": str(task.local_rank),
        "MASTER_ADDR": "127.0.0.1" if local else task.hostnames[0],
        "MASTER_PORT": str(20_000 + job % 20_000),
    }
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def main(options: Options) -> None:
    """Queue the job, and say where."""
    import submitit

    executor = submitit.AutoExecutor(options.out / "jobs", cluster=options.cluster)
    executor.update_parameters(
        nodes=options.nodes,
        tasks_per_node=options.tasks_per_node,
        cpus_per_task=1,
        timeout_min=options.minutes,
        slurm_signal_delay_s=120,
    )
    job = executor.submit(Job(options))
    print(f"job {job.job_id}; metrics: {options.out}/metrics.jsonl")
    if options.cluster == "local":
        print(f"updates: {job.results()}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
