"""`qsample evaluate`: how likely data are under a run, and whether its samples are right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from qsample.cli.shared import dataset_of, device_of, quiet, said_of, sampler_of, seeded
from qsample.data.dataset import Dataset
from qsample.evaluation.diagnostics import diagnose
from qsample.evaluation.fidelity import LEAST_ROWS, Fidelity, model_fidelity
from qsample.evaluation.likelihood import log_likelihood, model_log_partition, pseudo_log_likelihood
from qsample.evaluation.picture import Page, draw
from qsample.learning.files import digest, strict_json
from qsample.learning.saved import SavedRun, load_run
from qsample.models import EnergyModel
from qsample.sampling.samples import Samples
from qsample.support.files import write_whole


@dataclass(frozen=True)
class Evaluate:
    """Log-likelihood of a trained run, exact where it can be, and whether its samples are right.

    Args:
        run: folder of the run.
        data: place of the run's data now, if their file has moved.
        picture: file for a picture of it all: .png, .pdf or .svg.
        overwrite: replace a picture that is there.
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
    picture: Path | None = None
    overwrite: bool = False
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
        self._check_picture()
        saved = load_run(self.run)
        model = saved.model
        device = device_of(self.device)
        model.to(device)
        sampler = sampler_of(self.sampler, self.sweeps, self.set)
        dataset = self._dataset(saved)
        rows = self._rows(dataset, saved, device)
        generator = seeded(self.seed)
        problem = model.ising().detach()
        against = "test" if len(rows["test"]) >= LEAST_ROWS else "train"
        with quiet():
            samples = sampler.sample(problem, self.reads, generator=generator)
            likelihoods = self._likelihoods(model, rows, generator)
            judged = diagnose(problem, samples, generator=generator)
            fidelity = model_fidelity(model, rows[against], samples, generator=generator)
        report: dict[str, Any] = {
            "run": str(self.run),
            "data": saved.config["data"],
            "binarisation": said_of(dataset),
            "train_rows": len(rows["train"]),
            "test_rows": len(rows["test"]),
            "units": model.num_visible,
            **likelihoods,
            "sampler": self.sampler,
            "exactness": samples.exactness.value,
            "beta": judged.beta.value,
            "beta_stderr": judged.beta.stderr,
            "ok": judged.ok,
            "verdict": judged.text,
        }
        if self.picture is not None:
            page = self._page(saved, dataset, rows, samples, fidelity, report)
            file = self.picture.expanduser()
            write_whole(file, draw(page, file.suffix[1:]))
        if self.json:
            print(strict_json(report | {"fidelity": _table(fidelity, against)}))
            return
        for name, value in report.items():
            _show(name, value, report.get(f"{name}_stderr"))
        print(f"{f'samples beside {against} rows':28}{fidelity.text}")
        for measure in fidelity.measures:
            print(f"  {measure.name:32}{measure}")
        if self.picture is not None:
            print(f"picture: {self.picture}")

    def _check_picture(self) -> None:
        """ValueError for a picture that cannot or should not be written, before all else."""
        if self.picture is None:
            return
        file = self.picture.expanduser()
        if file.suffix not in (".png", ".pdf", ".svg"):
            raise ValueError(f"cannot draw {file}: expected a .png, .pdf or .svg file")
        if not file.parent.is_dir():
            raise ValueError(f"cannot write {file}: there is no folder {file.parent}")
        if file.exists() and not self.overwrite:
            raise ValueError(f"{file} is there already: give --overwrite, or another --picture")

    def _page(
        self,
        saved: SavedRun,
        dataset: Dataset,
        rows: dict[str, Tensor],
        samples: Samples,
        fidelity: Fidelity,
        report: dict[str, Any],
    ) -> Page:
        """What the picture shows."""
        if samples.log_weight is not None:
            samples = samples.resample(generator=seeded(self.seed))
        lines = {}
        for name, value in report.items():
            if name in ("run", "ok") or name.endswith("_stderr") or value is None:
                continue
            lines[name.replace("_", " ")] = _said(value, report.get(f"{name}_stderr"))
        return Page(
            saved.model,
            rows["train"],
            rows["test"],
            saved.model.split(samples.spins)[0],
            dataset.image_shape,
            saved.history,
            fidelity,
            f"{self.run}: {saved.model.num_visible} visible, {saved.model.num_hidden} hidden "
            f"units after {saved.update:,} updates",
            lines,
        )

    def _dataset(self, saved: SavedRun) -> Dataset:
        """The run's data."""
        config = saved.config
        return dataset_of(self.data or config["data"], config["model"], config.get("binarise"))

    def _rows(self, dataset: Dataset, saved: SavedRun, device: torch.device) -> dict[str, Tensor]:
        """The rows that the run was trained on, and those held out; a ValueError for others."""
        train, _, test = dataset.split(saved.config["test"])
        if digest(train.x) != saved.config.get("rows", saved.data):
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


def _table(fidelity: Fidelity, against: str) -> dict[str, Any]:
    """The comparison of samples and data as JSON holds it."""
    measures = {}
    for measure in fidelity.measures:
        values = asdict(measure)
        measures[values.pop("name")] = values
    return {
        "against": against,
        "rows": fidelity.rows,
        "ok": fidelity.ok,
        "p_value": fidelity.p_value,
        "text": fidelity.text,
        "note": fidelity.note or None,
        "measures": measures,
    }


def _show(name: str, value: Any, stderr: float | None) -> None:
    """One line of a report; the error stands beside its number."""
    if value is None or name.endswith("_stderr"):
        return
    print(f"{name.replace('_', ' '):28}{_said(value, stderr)}")


def _said(value: Any, stderr: float | None) -> str:
    """A value, and its error where it has one."""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    if stderr is not None:
        text += " (exact)" if stderr == 0 else f" ± {stderr:.4f}"
    return text
