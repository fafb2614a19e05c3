"""`qsample evaluate`: how likely data are under a run, and whether its samples are right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from qsample.cli.shared import dataset_of, device_of, quiet, restore, sampler_of, seeded
from qsample.evaluation.diagnostics import diagnose
from qsample.evaluation.likelihood import log_likelihood, model_log_partition, pseudo_log_likelihood
from qsample.learning.files import digest, strict_json
from qsample.models import EnergyModel


@dataclass(frozen=True)
class Evaluate:
    """Log-likelihood of a trained run, exact where it can be, and a sampler's effective beta.

    Args:
        run: folder of the run.
        data: place of the run's data now, if their file has moved.
        method: method for log Z.
        sampler: sampler whose reads are judged: a name that `qsample samplers` lists.
        sweeps: sweeps of the sampler per read, which its temperatures share.
        set: more settings of the sampler, as in --set betas=16.
        reads: number of reads that are judged.
        steps: number of temperatures of annealed importance sampling, where log Z is not exact.
        chains: number of runs of annealed importance sampling.
        seed: seed of all randomness.
        device: device to compute on: cpu, cuda, mps.
        json: print one JSON object.
    """

    run: Annotated[Path, tyro.conf.Positional]
    data: str | None = None
    method: Literal["auto", "exact", "ais"] = "auto"
    sampler: str = "gibbs"
    sweeps: int = 100
    set: tuple[str, ...] = ()
    reads: int = 2000
    steps: int = 1000
    chains: int = 256
    seed: int = 0
    device: str = "cpu"
    json: bool = False

    def __call__(self) -> None:
        """Judge the run, and print the report."""
        model, config = restore(self.run)
        device = device_of(self.device)
        model.to(device)
        sampler = sampler_of(self.sampler, self.sweeps, self.set)
        rows = self._rows(config, device)
        generator = seeded(self.seed)
        problem = model.ising().detach()
        with quiet():
            samples = sampler.sample(problem, self.reads, generator=generator)
            likelihoods = self._likelihoods(model, rows, generator)
            judged = diagnose(problem, samples)
        report: dict[str, Any] = {
            "run": str(self.run),
            "data": config["data"],
            "test_rows": len(rows["test"]),
            **likelihoods,
            "sampler": self.sampler,
            "exactness": samples.exactness.value,
            "beta": judged.beta.value,
            "beta_stderr": judged.beta.stderr,
            "ok": judged.ok,
            "verdict": judged.text,
        }
        if self.json:
            print(strict_json(report))
            return
        for name, value in report.items():
            _show(name, value, report.get(f"{name}_stderr"))

    def _rows(self, config: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
        """The rows that the run was trained on, and those held out; a ValueError for others."""
        dataset = dataset_of(self.data or config["data"], config["model"])
        train, _, test = dataset.split(config["test"])
        if digest(train.x) != config["digest"]:
            raise ValueError(
                f"{dataset.name} does not hold the rows that {self.run} was trained on"
            )
        return {"train": train.x.to(device), "test": test.x.to(device)}

    def _likelihoods(
        self, model: EnergyModel, rows: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Any]:
        """Log Z, estimated once, and the likelihoods of the rows that follow from it."""
        log_z = model_log_partition(
            model,
            rows["train"],
            self.method,
            steps=self.steps,
            chains=self.chains,
            generator=generator,
        )
        report: dict[str, Any] = {
            "log_partition": log_z.value,
            "log_partition_stderr": log_z.stderr,
        }
        if log_z.ess is not None:
            report["effective_runs"] = log_z.ess
            report["note"] = log_z.note or None
        for name, x in rows.items():
            if len(x) == 0:
                continue
            estimate = log_likelihood(model, x, log_z=log_z)
            report[f"{name}_log_likelihood"] = estimate.value
            report[f"{name}_log_likelihood_stderr"] = estimate.stderr
            if model.tractable:
                report[f"{name}_pseudo_log_likelihood"] = pseudo_log_likelihood(model, x[:500])
        return report


def _show(name: str, value: Any, stderr: float | None) -> None:
    """One line of a report; the error stands beside its number."""
    if value is None or name.endswith("_stderr"):
        return
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    if stderr is not None:
        text += " (exact)" if stderr == 0 else f" ± {stderr:.4f}"
    print(f"{name.replace('_', ' '):28}{text}")
