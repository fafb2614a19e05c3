"""The recipe for MNIST's 60,000 rows: the test likelihood of its run, between two ends.

    qsample train --recipe mnist-rbm-500 --data MNIST --test 10000 --out runs/mnist
    python experiments/claims/mnist_record.py --run runs/mnist --publish

MNIST is the folder of its four files, which no package ships. Beside, of networks as large trained
on as many rows by others: PyDeep's RBM of 500 hidden units reports -84.86 by annealing up and
-96.61 by annealing down. The likelihood is that of all rows which the run held out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import qsample as qs
from qsample.data import load
from qsample.models import BernoulliRBM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.claims.mnist_likelihood import drawn
from experiments.common import CommonOptions, Report, command_line, mosaic

RECIPE = "mnist-rbm-500"


@dataclass(frozen=True)
class Options(CommonOptions):
    """What to judge."""

    run: Path | None = None
    """folder of a run of `qsample train`; None trains the recipe on mnist5k first"""
    hidden: int = 500
    """hidden units of a run that is trained first"""
    updates: int = 5000
    """its updates"""
    width: float = 0.3
    """nats between the ends at which a bracket is good enough"""
    steps: int = 40_000
    """the most temperatures of annealing, and sweeps of a ladder"""


def main(options: Options) -> None:
    """Train unless it was, judge; write the figures and the picture."""
    report = Report(options, __file__)
    run = options.run or trained(report.folder / "run", options)
    saved = qs.load_run(run)
    flags = ["--method", "bracket", "--width", options.width, "--steps", options.steps]
    told = qsample("evaluate", run, *flags, "--threads", options.threads, "--json")
    found: dict[str, Any] = json.loads(told)
    result = {"updates": saved.update, "train_seconds": saved.seconds, **found}
    del result["run"]  # a place on this machine, as the data may be
    result["data"] = Path(result["data"]).name
    for rows in ("test", "train"):
        low, high = result[f"{rows}_log_likelihood"]
        print(f"{rows}: between {low:.2f} and {high:.2f} nats {result['note'] or ''}")
    report.finish(result, picture(saved, result))


def trained(folder: Path, options: Options) -> Path:
    """The folder of a run on mnist5k by the recipe, which goes on where it was ended."""
    flags = ["--recipe", RECIPE, "--hidden", options.hidden, "--updates", options.updates]
    begun = ["--resume"] if folder.exists() else []
    qsample("train", *flags, "--threads", options.threads, "--out", folder, *begun)
    return folder


def qsample(*words: object) -> str:
    """What the command prints."""
    call = [sys.executable, "-m", "qsample.cli", *map(str, words)]
    return subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout


def picture(saved: qs.SavedRun, result: dict[str, Any]) -> Figure:
    """Rows of the data beside draws of the model."""
    assert isinstance(saved.model, BernoulliRBM)
    figure, axes = plt.subplots(1, 2, figsize=(10, 5.4))
    rows = load("mnist5k").x[::100][:49]
    low, high = result["test_log_likelihood"]
    titles = ("data", f"draws after 1,000 sweeps: {low:.2f} to {high:.2f} nats per test row")
    for axis, images, title in zip(
        axes, (mosaic(rows, (28, 28)), drawn(saved.model)), titles, strict=True
    ):
        axis.imshow(1 - images.numpy(), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
