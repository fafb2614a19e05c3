"""The command line: qsample train, evaluate, sample, samplers, sapi, and qsample --version."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from qsample.annealers.registry import CATALOGUE, adjusted, named, tunable
from qsample.data import Dataset, load
from qsample.evaluation.diagnostics import diagnose
from qsample.evaluation.likelihood import log_likelihood, model_log_partition, pseudo_log_likelihood
from qsample.learning.checkpoint import NoCheckpoint
from qsample.learning.fit import Settings, fit
from qsample.learning.run import digest, strict_json
from qsample.learning.saved import build, load_run, read_state
from qsample.models import EnergyModel
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import ReliabilityWarning
from qsample.sampling.temperature import effective_beta
from qsample.support.files import write_whole
from qsample.support.interrupts import Stopped
from qsample.support.optional import DISTRIBUTION
from qsample.support.pictures import mosaic, png
from qsample.support.progress import shown
from qsample.testing.sapi.command import Sapi

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
    set: tuple[str, ...] = ()
    """more settings of the sampler, as in --set betas=16 rule=metropolis (`qsample samplers NAME` lists them)"""
    device: str = "cpu"
    """where the model and its chains are: cpu, cuda, mps"""
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
        device = _device(self.device)
        sampler = _sampler(self.sampler, self.sweeps, self.set)
        _check_start(self.settings.start, sampler, self.sampler)
        dataset = _dataset(self.data, self.model)
        config = _config(self, dataset)
        rows = dataset.split(config["test"])[0].x.to(device)
        model = build(config).to(device)
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
        flags["set"] = tuple(state["config"].get("set", ()))
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
    set: tuple[str, ...] = ()
    """more settings of the sampler, as in --set betas=16"""
    reads: int = 2000
    """how many"""
    steps: int = 1000
    """temperatures of annealed importance sampling, where log Z is not exact"""
    chains: int = 256
    """its runs"""
    seed: int = 0
    """of all randomness"""
    device: str = "cpu"
    """where to compute: cpu, cuda, mps"""
    json: bool = False
    """print one JSON object"""

    def __call__(self) -> None:
        """Run it."""
        model, config = restore(self.run)
        model.to(device := _device(self.device))
        sampler = _sampler(self.sampler, self.sweeps, self.set)
        dataset = _dataset(self.data or config["data"], config["model"])
        train, _, test = (part.x for part in dataset.split(config["test"]))
        if digest(train) != config["digest"]:
            raise ValueError(
                f"{dataset.name} does not hold the rows that {self.run} was trained on"
            )
        generator = torch.Generator().manual_seed(Settings(seed=self.seed).seed)  # checked
        problem = model.ising().detach()
        rows = {"train": train.to(device), "test": test.to(device)}
        with warnings.catch_warnings(), shown():
            warnings.simplefilter("ignore", ReliabilityWarning)  # the report says what they say
            samples = sampler.sample(problem, self.reads, generator=generator)
            result: dict[str, Any] = {
                "run": str(self.run),
                "data": config["data"],
                "test_rows": len(test),
            }
            result |= self._likelihoods(model, rows, generator)
            judged = diagnose(problem, samples)
        result |= {"sampler": self.sampler, "exactness": samples.exactness.value}
        result |= {"beta": judged.beta.value, "beta_stderr": judged.beta.stderr}
        result |= {"ok": judged.ok, "verdict": judged.text}
        if self.json:
            return print(strict_json(result))
        for name, value in result.items():
            _show(name, value, result.get(f"{name}_stderr"))

    def _likelihoods(
        self, model: EnergyModel, rows: dict[str, Tensor], generator: torch.Generator
    ) -> dict[str, Any]:
        """Log Z, found once, and what it says of the rows."""
        options: dict[str, Any] = {
            "steps": self.steps,
            "chains": self.chains,
            "generator": generator,
        }
        log_z = model_log_partition(model, rows["train"], self.method, **options)
        result: dict[str, Any] = {
            "log_partition": log_z.value,
            "log_partition_stderr": log_z.stderr,
        }
        if log_z.ess is not None:
            result |= {"effective_runs": log_z.ess, "note": log_z.note or None}
        for name, part in rows.items():
            if not len(part):
                continue
            found = log_likelihood(model, part, log_z=log_z)
            result[f"{name}_log_likelihood"] = found.value
            result[f"{name}_log_likelihood_stderr"] = found.stderr
            if model.tractable:
                result[f"{name}_pseudo_log_likelihood"] = pseudo_log_likelihood(model, part[:500])
        return result


@dataclass(frozen=True)
class Sample:
    """Draw visible samples from a trained run into a file: 0/1 from an rbm, -1/+1 from the other models."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    out: Path = Path("samples.npy")
    """where the array [num, n_visible] goes: .npy, .npz (as x) or .csv; .png draws it, where the data are images"""
    num: int = 64
    """how many"""
    sampler: str = "gibbs"
    """a name that `qsample samplers` lists"""
    sweeps: int = 1000
    """its sweeps"""
    set: tuple[str, ...] = ()
    """more settings of the sampler, as in --set betas=16"""
    seed: int = 0
    """of all randomness"""
    device: str = "cpu"
    """where to sample: cpu, cuda, mps"""
    overwrite: bool = False
    """replace a file that is there"""

    def __call__(self) -> None:
        """Run it."""
        out = self.out.expanduser()
        self._check_out(out)
        model, config = restore(self.run)
        shape = config.get("image_shape")
        if out.suffix == ".png" and shape is None:
            raise ValueError(
                f"cannot draw {out}: the data of {self.run} are no images; use .npy, .npz or .csv"
            )
        model.to(_device(self.device))
        problem = model.ising().detach()
        generator = torch.Generator().manual_seed(Settings(seed=self.seed).seed)  # checked
        sampler = _sampler(self.sampler, self.sweeps, self.set)
        with warnings.catch_warnings(), shown():
            warnings.simplefilter("ignore", ReliabilityWarning)  # said below
            samples = sampler.sample(problem, self.num, generator=generator)
            beta = effective_beta(problem, samples)
        if samples.log_weight is not None:  # a file holds rows alone
            samples = samples.resample(generator=generator)
        x = model.split(samples.spins)[0].to("cpu", torch.int8).numpy()
        write_whole(out, _file_of(x, out.suffix, shape))
        note = samples.info.get("note")
        said = f"; {note}" if note else ""
        print(f"{self.num} samples ({samples.exactness.value}, effective beta {beta}{said}): {out}")

    def _check_out(self, out: Path) -> None:
        """ValueError for a file that cannot or should not be written, before anything is drawn."""
        if out.suffix not in (".npy", ".npz", ".csv", ".png"):
            raise ValueError(f"cannot write {out}: expected a .npy, .npz, .csv or .png file")
        if not out.parent.is_dir():
            raise ValueError(f"cannot write {out}: there is no folder {out.parent}")
        if out.exists() and not self.overwrite:
            raise ValueError(f"{out} is there already: give --overwrite, or another --out")


def _file_of(x: np.ndarray, suffix: str, shape: Sequence[int] | None) -> bytes:
    """The bytes of a file of this kind that holds the rows."""
    if suffix == ".csv":
        return "".join(",".join(map(str, row)) + "\n" for row in x.tolist()).encode()
    if suffix == ".png":
        assert shape is not None
        return png(mosaic((x > 0).astype(np.uint8), (shape[0], shape[1])))
    file = io.BytesIO()
    if suffix == ".npz":
        np.savez_compressed(file, x=x)
    else:
        np.save(file, x)
    return file.getvalue()


@dataclass(frozen=True)
class Samplers:
    """List the samplers, whether they are installed, and how far each can be trusted; or one's settings."""

    name: Annotated[str | None, tyro.conf.Positional] = None
    """a sampler, whose settings are listed"""

    def __call__(self) -> None:
        """Run it."""
        if self.name is not None:
            return _list_settings(self.name, named(self.name))
        for name, entry in CATALOGUE.items():
            there = "installed" if entry.installed else f"needs {entry.needs}"
            print(f"{name:22}{entry.exactness.value:12}{there:12}{entry.about}")


def _list_settings(name: str, sampler: Sampler, path: str = "") -> None:
    """One line a setting, `name=value` as --set takes it; a sampler made of two by dotted names."""
    if not path:
        print(f"{name}: {CATALOGUE[name].about}")
    for setting in tunable(sampler):
        value = getattr(sampler, setting)
        if hasattr(value, "sample"):
            _list_settings(name, value, f"{path}{setting}.")
        else:
            print(f"  {path}{setting}={json.dumps(value, default=str)}")


def restore(run: Path) -> tuple[EnergyModel, dict[str, Any]]:
    """The model of a run's last checkpoint, and its configuration with the digest of its rows."""
    saved = load_run(run)
    return saved.model, saved.config | {"digest": saved.data}


def _sampler(name: str, sweeps: int, settings: Sequence[str]) -> Sampler:
    """The sampler of that name, with settings `key=value`."""
    pairs: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ValueError(f"expected --set NAME=VALUE; got {setting!r}")
        pairs[key] = value
    return adjusted(named(name, sweeps), pairs)


def _check_start(start: str, sampler: Sampler, name: str) -> None:
    if start in ("data", "persistent") and not sampler.warm_start:
        raise ValueError(
            f"--start {start} continues chains, which {name} cannot: use --start fresh (the "
            f"default for {name}), "
            "or --sampler gibbs"
        )


def _device(name: str) -> torch.device:
    """The device of that name, tried."""
    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device).sum())
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot compute on --device {name}: {reason}") from None
    return device


def _dataset(name: str, kind: Kind) -> Dataset:
    return load(name, coding="bits" if kind == "rbm" else "spins")


def _config(command: Train, dataset: Dataset) -> dict[str, Any]:
    N, visible = dataset.x.shape
    test = (
        command.test
        if command.test is not None
        else 397
        if dataset.name == "digits"
        else N // 5 * (N >= 500)
    )
    if not 0 <= test < N:
        raise ValueError(
            f"expected test between 0 and {N - 1}, {dataset.name} having {N} rows; got {test}"
        )
    if command.model == "grid" and dataset.image_shape is None:
        raise ValueError(
            f"{dataset.name} has no rows and columns, so model grid cannot be laid out: use "
            "boltzmann"
        )
    if command.hidden < (command.model == "rbm"):
        raise ValueError(f"expected hidden >= 1 for an rbm, >= 0 otherwise; got {command.hidden}")
    hidden = 0 if command.model == "grid" else command.hidden
    shape = None if dataset.image_shape is None else list(dataset.image_shape)
    config = {
        "data": command.data,
        "model": command.model,
        "visible": visible,
        "hidden": hidden,
        "test": test,
    }
    config |= {"image_shape": shape, "model_seed": command.settings.seed}
    config |= {"sampler": command.sampler, "sweeps": command.sweeps}
    return config | ({"set": list(command.set)} if command.set else {})


def _show(name: str, value: Any, stderr: float | None) -> None:
    """One line of a report; the error stands beside its number."""
    if value is None:
        return
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    if stderr is not None:
        text += " (exact)" if stderr == 0 else f" ± {stderr:.4f}"
    if not name.endswith("_stderr"):
        print(f"{name.replace('_', ' '):28}{text}")


def _parse(arguments: list[str] | None) -> Train | Evaluate | Sample | Samplers | Sapi:
    """The command asked for; a ValueError with the point of tyro's boxed complaint where there is one."""
    commands = {
        "train": Train,
        "evaluate": Evaluate,
        "sample": Sample,
        "samplers": Samplers,
        "sapi": Sapi,
    }
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
    raise ValueError(f"{_point(said.getvalue())} (qsample --help says more)")


def _point(complaint: str) -> str:
    """What stands in tyro's box, drawn in Unicode or in ASCII, between the title and the first rule."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", complaint).splitlines()[1:]
    lines = [re.sub(r"^[│|]|[│|]$", "", line).strip() for line in plain]
    said = [line if not re.fullmatch(r"[╰]?[─-]{3,}[╯]?", line) else "" for line in lines]
    text = " ".join(takewhile(bool, dropwhile(lambda line: not line, said)))
    return re.sub(r"Error parsing __\S+: ", "", text)


def _advice(text: str) -> str:
    """A message of the library with its advice as flags: Gibbs(sweeps=...) becomes --sampler gibbs."""
    names = {entry.kind: name for name, entry in CATALOGUE.items() if entry.kind}
    pair = r"Corrected\((\w+)\([^()]*\), Gibbs\([^()]*\)\)"
    text = re.sub(
        pair, lambda m: f"--sampler corrected-{'neal' if m[1] == 'Neal' else 'annealing'}", text
    )
    classes = "|".join(names)
    text = re.sub(rf"\b({classes})\([^()]*\)", lambda m: f"--sampler {names[m[1]]}", text)
    return re.sub(r"\b(start|decay)='(\w+)'", r"--\1 \2", text)


def main(arguments: list[str] | None = None) -> None:
    """The `qsample` command: expected errors are one line on stderr, exit code 2."""
    command = None
    if (sys.argv[1:] if arguments is None else arguments) == ["--version"]:
        print(f"qsample {version(DISTRIBUTION)}")
        return
    try:
        command = _parse(arguments)
        command()
    except KeyboardInterrupt as error:
        hint = "; resume with the same command and --resume" if isinstance(command, Train) else ""
        print(f"\nqsample: {str(error) or 'interrupted'}{hint}", file=sys.stderr)
        raise SystemExit(130) from None
    except Stopped as error:
        print(f"\nqsample: {error}; go on with --resume", file=sys.stderr, flush=True)
        # all is on the disk; a busy machine takes seconds to tear Python down
        if arguments is None:
            os._exit(128 + error.number)
        raise SystemExit(error.code) from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"qsample: error: {_advice(' '.join(str(error).split()))}", file=sys.stderr)
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        print(
            "qsample: error: not enough memory: ask for fewer reads, chains or hidden units",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def _out_of_memory(error: Exception) -> bool:
    """Whether memory did not suffice, in the words of Python or of torch."""
    words = (
        "can't allocate memory",
        "out of memory",
        "Storage size calculation overflowed",
        "not enough memory",
    )
    return isinstance(error, MemoryError) or any(part in str(error) for part in words)


if __name__ == "__main__":
    main()
