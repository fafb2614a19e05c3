"""`qsample evaluate`: how likely data are under a run, and whether its samples are right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor

from qsample.cli.shared import (
    dataset_of,
    device_of,
    quiet,
    said_of,
    sampler_of,
    seeded,
    set_threads,
)
from qsample.data.dataset import Dataset
from qsample.evaluation.diagnostics import diagnose
from qsample.evaluation.fidelity import LEAST_ROWS, Fidelity, model_fidelity
from qsample.evaluation.likelihood import (
    Method,
    log_likelihood,
    model_log_partition,
    pseudo_log_likelihood,
)
from qsample.evaluation.picture import Page, draw
from qsample.learning.files import digest, strict_json
from qsample.learning.saved import SavedRun, load_run
from qsample.models import EnergyModel
from qsample.sampling.samples import Bracket, Estimate, Samples
from qsample.support.files import write_whole


@dataclass(frozen=True)
class Evaluate:
    """Log-likelihood of a trained run, exact where it can be, and whether its samples are right.

    Args:
        run: folder of the run.
        data: place of the run's data now, if their file has moved.
        picture: file for a picture of it all: .png, .pdf or .svg.
        overwrite: replace a picture that is there.
        method: method for log Z: exact; bracket, from both sides; ais, from below alone; auto is
            exact where it can be, else a bracket.
        sampler: sampler whose reads are judged: a name that `qsample samplers` lists.
        sweeps: sweeps of the sampler per read, which its temperatures share.
        set: more settings of the sampler, as in --set betas=16.
        reads: number of reads that are judged.
        steps: where log Z is not exact, the most temperatures of annealing, and sweeps of the
            ladders; by default 20,000, of ais 1,000.
        chains: number of annealing runs.
        width: nats between the ends at which a bracket is good enough.
        seed: seed of all randomness.
        device: device to compute on: cpu, cuda, mps.
        threads: number of torch threads.
        json: print one JSON object.
    """

    run: Annotated[Path, tyro.conf.Positional]
    data: str | None = None
    picture: Path | None = None
    overwrite: bool = False
    method: Method = "auto"
    sampler: str = "gibbs"
    sweeps: int = 100
    set: tuple[str, ...] = ()
    reads: int = 2000
    steps: int | None = None
    chains: int = 256
    width: float = 0.1
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    json: bool = False

    def __call__(self) -> None:
        """Judge the run, and print the report."""
        self._check_picture()
        set_threads(self.threads)
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
        train, _, test = dataset.split(saved.config["test"], saved.config.get("validation", 0))
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
            width=self.width,
            generator=generator,
        )
        report: dict[str, Any] = _ends("log_partition", log_z)
        if isinstance(log_z, Bracket):
            report["log_partition_sides"] = [str(side) for side in log_z.sides]
        elif log_z.ess is not None:
            report["effective_runs"] = log_z.ess
        report["note"] = log_z.note or None
        for name, x in rows.items():
            if len(x) == 0:
                continue
            report |= _ends(f"{name}_log_likelihood", log_likelihood(model, x, log_z=log_z))
            if model.tractable:
                report[f"{name}_pseudo_log_likelihood"] = pseudo_log_likelihood(model, x[:500])
        return report


def _ends(name: str, found: Estimate | Bracket) -> dict[str, Any]:
    """A number with its error, or the two ends between which it is known to lie."""
    if isinstance(found, Bracket):
        return {name: [found.low, found.high]}
    return {name: found.value, f"{name}_stderr": found.stderr}


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
    if isinstance(value, list) and isinstance(value[0], float):
        return f"between {value[0]:.4f} and {value[1]:.4f}"
    if isinstance(value, list):
        return f"\n{'':28}".join(value)
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    if stderr is not None:
        text += " (exact)" if stderr == 0 else f" ± {stderr:.4f}"
    return text
