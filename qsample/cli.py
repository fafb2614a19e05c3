"""The command line: qsample train, evaluate, sample, samplers, sapi."""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from qsample.annealers.catalogue import CATALOGUE, named
from qsample.checkpoint import NoCheckpoint
from qsample.data import Dataset, load
from qsample.diagnostics import diagnose
from qsample.interrupts import Stopped
from qsample.likelihood import log_likelihood, pseudo_log_likelihood
from qsample.models import EnergyModel
from qsample.run import digest, strict_json
from qsample.saved import build, load_run, read_state
from qsample.temperature import effective_beta
from qsample.testing.sapi.command import Sapi
from qsample.train import Settings, fit

Kind = Literal["rbm", "boltzmann", "grid"]


@dataclass(frozen=True)
class Train:
    """Train a model on data with any sampler; checkpoints and metrics go to a folder."""

    out: Path
    """folder of the run"""
    data: str = "digits"
    """digits, bars-and-stripes, mnist5k, planted-ising, or a .npy, .npz or .csv file of 0/1 or -1/+1"""
    model: Kind = "rbm"
    """rbm; boltzmann: every unit coupled to every other; grid: visible spins on the data's own grid"""
    hidden: int = 16
    """hidden units"""
    sampler: str = "gibbs"
    """negative samples: a name that `qsample samplers` lists"""
    sweeps: int = 10
    """sweeps of the sampler an update"""
    test: int | None = None
    """rows held out for `qsample evaluate`; a fifth of 500 rows or more by default"""
    resume: bool = False
    """go on from the checkpoint in the folder, with its flags where none are given"""
    threads: int = 1
    """torch threads; more than one pays for wide models only"""
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes] = field(default_factory=Settings)

    def __call__(self) -> None:
        """Run it."""
        if self.threads < 1:
            raise ValueError(f"expected threads >= 1; got {self.threads}")
        torch.set_num_threads(self.threads)
        sampler = named(self.sampler, self.sweeps)
        dataset = _dataset(self.data, self.model)
        config = _config(self, dataset)
        rows = dataset.split(config["test"])[0].x
        model = build(config)
        model.set_visible_bias(rows)
        fit(model, rows, sampler, self.settings, out=self.out, resume=self.resume, config=config)
        print(f"checkpoint: {self.out}\nnext: qsample evaluate {self.out}")

    def former(self) -> Train:
        """The command that made the run in the folder; this one where there is none yet."""
        try:
            state = read_state(self.out)
        except NoCheckpoint:
            return self
        names = ("data", "model", "hidden", "test", "sampler", "sweeps")
        if any(name not in state["config"] for name in names):
            raise ValueError(f"{self.out} holds no run of `qsample train`: its flags are not there")
        flags = {name: state["config"][name] for name in names}
        return replace(self, settings=Settings(**state["settings"]), **flags)


@dataclass(frozen=True)
class Evaluate:
    """Log-likelihood of a trained run, exact where it can be, and the effective beta of a sampler on its model."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    data: str | None = None
    """where the run's data are now, if their file has moved"""
    method: Literal["auto", "exact", "ais"] = "auto"
    """how log Z is found"""
    sampler: str = "gibbs"
    """whose reads are judged"""
    sweeps: int = 100
    """its sweeps"""
    reads: int = 2000
    """how many"""
    seed: int = 0
    """of all randomness"""
    json: bool = False
    """print one JSON object"""

    def __call__(self) -> None:
        """Run it."""
        model, config = restore(self.run)
        dataset = _dataset(self.data or config["data"], config["model"])
        train, _, test = (part.x for part in dataset.split(config["test"]))
        if digest(train) != config["digest"]:
            raise ValueError(f"{dataset.name} does not hold the rows that {self.run} was trained on")
        generator = torch.Generator().manual_seed(Settings(seed=self.seed).seed)  # checked
        problem = model.ising().detach()
        samples = named(self.sampler, self.sweeps).sample(problem, self.reads, generator=generator)
        result: dict[str, Any] = {"run": str(self.run), "data": config["data"], "test_rows": len(test)}
        for name, rows in (("train", train), ("test", test)):
            if len(rows):
                found = log_likelihood(model, rows, self.method, generator=generator)
                result |= {f"{name}_log_likelihood": found.value, f"{name}_log_likelihood_stderr": found.stderr}
                if model.tractable:
                    result[f"{name}_pseudo_log_likelihood"] = pseudo_log_likelihood(model, rows[:500])
        found = diagnose(problem, samples)
        result |= {"sampler": self.sampler, "exactness": samples.exactness.value}
        result |= {"beta": found.beta.value, "beta_stderr": found.beta.stderr, "verdict": found.text}
        if self.json:
            return print(strict_json(result))
        for name, value in result.items():
            _show(name, value, result.get(f"{name}_stderr"))


@dataclass(frozen=True)
class Sample:
    """Draw visible samples from a trained run into a .npy file: 0/1 from an rbm, -1/+1 from the other models."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    out: Path = Path("samples.npy")
    """where the array [num, n_visible] goes"""
    num: int = 64
    """how many"""
    sampler: str = "gibbs"
    """a name that `qsample samplers` lists"""
    sweeps: int = 1000
    """its sweeps"""
    seed: int = 0
    """of all randomness"""

    def __call__(self) -> None:
        """Run it."""
        model, _ = restore(self.run)
        problem = model.ising().detach()
        generator = torch.Generator().manual_seed(Settings(seed=self.seed).seed)  # checked
        if not self.out.parent.is_dir():
            raise ValueError(f"cannot write {self.out}: there is no folder {self.out.parent}")
        samples = named(self.sampler, self.sweeps).sample(problem, self.num, generator=generator)
        with self.out.open("wb") as file:
            np.save(file, model.split(samples.spins)[0].to(torch.int8).numpy())
        beta = effective_beta(problem, samples)
        print(f"{self.num} samples ({samples.exactness.value}, effective beta {beta}): {self.out}")


@dataclass(frozen=True)
class Samplers:
    """List the samplers, whether they are installed, and how far each can be trusted."""

    def __call__(self) -> None:
        """Run it."""
        for name, entry in CATALOGUE.items():
            there = "installed" if entry.installed else f"needs {entry.needs}"
            print(f"{name:22}{entry.exactness.value:12}{there:12}{entry.about}")


def restore(run: Path) -> tuple[EnergyModel, dict[str, Any]]:
    """The model of a run's last checkpoint, and its configuration with the digest of its rows."""
    saved = load_run(run)
    return saved.model, saved.config | {"digest": saved.data}


def _dataset(name: str, kind: Kind) -> Dataset:
    return load(name, coding="bits" if kind == "rbm" else "spins")


def _config(command: Train, dataset: Dataset) -> dict[str, Any]:
    N, visible = dataset.x.shape
    test = command.test if command.test is not None else 397 if dataset.name == "digits" else N // 5 * (N >= 500)
    if not 0 <= test < N:
        raise ValueError(f"expected test between 0 and {N - 1}, {dataset.name} having {N} rows; got {test}")
    if command.model == "grid" and dataset.image_shape is None:
        raise ValueError(f"{dataset.name} has no rows and columns, so model grid cannot be laid out: use boltzmann")
    if command.hidden < (command.model == "rbm"):
        raise ValueError(f"expected hidden >= 1 for an rbm, >= 0 otherwise; got {command.hidden}")
    hidden = 0 if command.model == "grid" else command.hidden
    shape = None if dataset.image_shape is None else list(dataset.image_shape)
    config = {"data": command.data, "model": command.model, "visible": visible, "hidden": hidden, "test": test}
    config |= {"image_shape": shape, "model_seed": command.settings.seed}
    return config | {"sampler": command.sampler, "sweeps": command.sweeps}


def _show(name: str, value: Any, stderr: float | None) -> None:
    """One line of a report; the error stands beside its number."""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    if stderr is not None:
        text += " (exact)" if stderr == 0 else f" ± {stderr:.4f}"
    if not name.endswith("_stderr"):
        print(f"{name.replace('_', ' '):28}{text}")


def _parse(arguments: list[str] | None) -> Train | Evaluate | Sample | Samplers | Sapi:
    """The command asked for; a ValueError with the point of tyro's boxed complaint where there is one."""
    commands = {"train": Train, "evaluate": Evaluate, "sample": Sample, "samplers": Samplers, "sapi": Sapi}
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            command = tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog="qsample")
            if isinstance(command, Train) and command.resume:  # again, with the run's own defaults
                given = sys.argv[1:] if arguments is None else arguments
                flags = given[given.index("train") + 1 :]
                return tyro.cli(Train, args=flags, default=command.former(), prog="qsample train")
            return command
    except SystemExit as stop:
        if not stop.code:
            raise  # it was --help
    lines = [line.strip("│╭╮╰╯─ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).splitlines()]
    lines = lines[1 : lines.index("", 1)]  # between the title and the first rule
    raise ValueError(re.sub(r"Error parsing __\S+: ", "", " ".join(lines)) + " (qsample --help says more)")


def main(arguments: list[str] | None = None) -> None:
    """The `qsample` command: expected errors are one line on stderr, exit code 2."""
    command = None
    try:
        command = _parse(arguments)
        command()
    except KeyboardInterrupt as error:
        hint = "; resume with the same command and --resume" if isinstance(command, Train) else ""
        print(f"\nqsample: {str(error) or 'interrupted'}{hint}", file=sys.stderr)
        raise SystemExit(130) from None
    except Stopped as error:
        print(f"\nqsample: {error}; go on with --resume", file=sys.stderr, flush=True)
        if arguments is None:  # all is on the disk; a busy machine takes seconds to tear Python down
            os._exit(128 + error.number)
        raise SystemExit(error.code) from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"qsample: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
