"""The command line: qsample train, evaluate, sample, samplers, sapi, and qsample --version."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from qsample.annealers.registry import CATALOGUE, CorrectedEntry, adjusted, named, tunable
from qsample.data import Dataset, load
from qsample.evaluation.diagnostics import diagnose
from qsample.evaluation.likelihood import log_likelihood, model_log_partition, pseudo_log_likelihood
from qsample.learning.checkpoint import NoCheckpoint
from qsample.learning.files import digest, strict_json
from qsample.learning.fit import Settings, fit
from qsample.learning.saved import load_run, model_of_flags, read_state
from qsample.models import EnergyModel
from qsample.models.registry import check_hidden, entry_of
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import ReliabilityWarning
from qsample.sampling.temperature import effective_beta
from qsample.support.checks import plain_seed
from qsample.support.files import write_whole
from qsample.support.interrupts import Stopped
from qsample.support.optional import DISTRIBUTION
from qsample.support.pictures import mosaic, png
from qsample.support.progress import shown
from qsample.testing.sapi.command import Sapi

# The flags of `qsample train` that its checkpoint keeps, and that a resumed run takes up.
FLAGS = ("data", "model", "hidden", "test", "sampler", "sweeps")


@dataclass(frozen=True)
class Train:
    """Train a model on data with any sampler; checkpoints and metrics go to a folder.

    Args:
        out: folder of the run.
        data: digits, bars-and-stripes, mnist5k, planted-ising, or a .npy, .npz or .csv file of bits
            or spins.
        model: rbm; boltzmann: every unit coupled to every other; grid: visible spins on the
            data's own grid.
        hidden: number of hidden units.
        sampler: sampler of the negative phase: a name that `qsample samplers` lists.
        sweeps: sweeps of the sampler per update, which its temperatures share.
        set: more settings of the sampler, as in --set betas=16 rule=metropolis (`qsample
            samplers NAME` lists them).
        device: device of the model and its chains: cpu, cuda, mps.
        test: number of rows held out for `qsample evaluate`; a fifth of 500 rows or more by
            default.
        resume: go on from the checkpoint in the folder, with its flags where none are given.
        threads: number of torch threads; more than one pays for wide models only.
    """

    out: Path
    data: str = "digits"
    model: str = "rbm"
    hidden: int = 16
    sampler: str = "gibbs"
    sweeps: int = 10
    set: tuple[str, ...] = ()
    device: str = "cpu"
    test: int | None = None
    resume: bool = False
    threads: int = 1
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes] = field(default_factory=Settings)

    def __call__(self) -> None:
        """Train the model, and say what comes next."""
        if self.threads < 1:
            raise ValueError(f"expected threads >= 1; got {self.threads}")
        torch.set_num_threads(self.threads)
        device = _device(self.device)
        sampler = _sampler(self.sampler, self.sweeps, self.set)
        _check_start(self.settings.start, sampler, self.sampler)
        dataset = _dataset(self.data, self.model)
        config = self._config(dataset)
        rows = dataset.split(config["test"])[0].x.to(device)
        model = model_of_flags(config).to(device)
        model.set_visible_bias(rows)
        fit(model, rows, sampler, self.settings, out=self.out, resume=self.resume, config=config)
        print(f"checkpoint: {self.out}\nnext: qsample evaluate {self.out}")

    def _config(self, dataset: Dataset) -> dict[str, Any]:
        """What the checkpoint keeps: enough to make the model and the sampler again."""
        test = self._rows_held_out(dataset)
        entry = entry_of(self.model)
        if entry.on_images and dataset.image_shape is None:
            raise ValueError(
                f"{dataset.name} has no rows and columns, so model {self.model} cannot be laid "
                "out: use boltzmann"
            )
        hidden = 0 if entry.max_hidden == 0 else self.hidden
        check_hidden(self.model, hidden)
        config = {
            "data": self.data,
            "model": self.model,
            "visible": dataset.x.shape[1],
            "hidden": hidden,
            "test": test,
            "image_shape": None if dataset.image_shape is None else list(dataset.image_shape),
            "model_seed": self.settings.seed,
            "sampler": self.sampler,
            "sweeps": self.sweeps,
        }
        if self.set:
            config["set"] = list(self.set)
        return config

    def _rows_held_out(self, dataset: Dataset) -> int:
        """The number of test rows, as given or by default."""
        rows = len(dataset)
        if self.test is None:
            if dataset.name == "digits":
                return 397
            return rows // 5 if rows >= 500 else 0
        if not 0 <= self.test < rows:
            raise ValueError(
                f"expected test between 0 and {rows - 1}, {dataset.name} having {rows} rows; got "
                f"{self.test}"
            )
        return self.test

    def former(self) -> Train:
        """The command that made the run in the folder; this one where there is none yet."""
        try:
            state = read_state(self.out)
        except NoCheckpoint:
            return self
        config = state["config"]
        if any(name not in config for name in FLAGS):
            raise ValueError(f"{self.out} holds no run of `qsample train`: its flags are not there")
        flags = {name: config[name] for name in FLAGS}
        flags["set"] = tuple(config.get("set", ()))
        return replace(self, settings=Settings(**state["settings"]), **flags)


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
        device = _device(self.device)
        model.to(device)
        sampler = _sampler(self.sampler, self.sweeps, self.set)
        rows = self._rows(config, device)
        generator = _generator(self.seed)
        problem = model.ising().detach()
        with _quiet():
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
        dataset = _dataset(self.data or config["data"], config["model"])
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


@dataclass(frozen=True)
class Sample:
    """Draw visible samples from a trained run into a file: 0/1 or -1/+1, as its data were.

    Args:
        run: folder of the run.
        out: file for the array [num, n_visible]: .npy, .npz (as x) or .csv; .png draws it,
            where the data are images.
        num: number of samples.
        sampler: sampler that draws: a name that `qsample samplers` lists.
        sweeps: sweeps of the sampler per sample, which its temperatures share.
        set: more settings of the sampler, as in --set betas=16.
        seed: seed of all randomness.
        device: device to sample on: cpu, cuda, mps.
        overwrite: replace a file that is there.
    """

    run: Annotated[Path, tyro.conf.Positional]
    out: Path = Path("samples.npy")
    num: int = 64
    sampler: str = "gibbs"
    sweeps: int = 1000
    set: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"
    overwrite: bool = False

    def __call__(self) -> None:
        """Draw the samples, write the file, and say how far they can be trusted."""
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
        generator = _generator(self.seed)
        sampler = _sampler(self.sampler, self.sweeps, self.set)
        with _quiet():
            samples = sampler.sample(problem, self.num, generator=generator)
            beta = effective_beta(problem, samples)
        # a file holds rows alone, without their weights
        if samples.log_weight is not None:
            samples = samples.resample(generator=generator)
        x = model.split(samples.spins)[0].to("cpu", torch.int8).numpy()
        write_whole(out, _file_of(x, out.suffix, shape))
        note = samples.info.get("note")
        doubts = f"; {note}" if note else ""
        trust = f"{samples.exactness.value}, effective beta {beta}{doubts}"
        print(f"{self.num} samples ({trust}): {out}")

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
        lines = [",".join(map(str, row)) + "\n" for row in x.tolist()]
        return "".join(lines).encode()
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
    """List the samplers, whether they are installed, and their tags; or the settings of one.

    Args:
        name: sampler whose settings are listed.
    """

    name: Annotated[str | None, tyro.conf.Positional] = None

    def __call__(self) -> None:
        """Print the list."""
        if self.name is not None:
            sampler = named(self.name)
            print(f"{self.name}: {CATALOGUE[self.name].about}")
            _list_settings(sampler)
            return
        states = [
            "installed" if entry.installed else f"needs {entry.needs}"
            for entry in CATALOGUE.values()
        ]
        width = max(map(len, states)) + 3
        for (name, entry), state in zip(CATALOGUE.items(), states, strict=True):
            print(f"{name:22}{entry.exactness.value:12}{state:{width}}{entry.about}")


def _list_settings(sampler: Sampler, path: str = "") -> None:
    """One line per setting, `name=value` as --set takes it; dotted names in a sampler made of two.

    Args:
        sampler: the sampler whose settings are listed.
        path: dotted name of the sampler inside another one; empty for the outermost.
    """
    for setting in tunable(sampler):
        value = getattr(sampler, setting)
        if hasattr(value, "sample"):
            _list_settings(value, f"{path}{setting}.")
        else:
            print(f"  {path}{setting}={json.dumps(value, default=str)}")


# ---- what the commands share ----------------


def restore(run: Path) -> tuple[EnergyModel, dict[str, Any]]:
    """The model of a run's last checkpoint, and its configuration with the digest of its rows."""
    saved = load_run(run)
    return saved.model, saved.config | {"digest": saved.data}


@contextmanager
def _quiet() -> Iterator[None]:
    """Bars for what takes long, and no warnings of doubts that the report states itself."""
    with warnings.catch_warnings(), shown():
        warnings.simplefilter("ignore", ReliabilityWarning)
        yield


def _generator(seed: int) -> torch.Generator:
    """A generator with that seed; ValueError for one of more than 64 bits."""
    return torch.Generator().manual_seed(plain_seed(seed))


def _sampler(name: str, sweeps: int, settings: Sequence[str]) -> Sampler:
    """The sampler of that name with a budget of sweeps, and with settings `name=value`."""
    pairs: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ValueError(f"expected --set NAME=VALUE; got {setting!r}")
        pairs[key] = value
    return adjusted(named(name, sweeps), pairs)


def _check_start(start: str, sampler: Sampler, name: str) -> None:
    """ValueError for a start that continues chains, with a sampler that cannot."""
    if start in ("data", "persistent") and not sampler.warm_start:
        raise ValueError(
            f"--start {start} continues chains, which {name} cannot: use --start fresh (the "
            f"default for {name}), or --sampler gibbs"
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


def _dataset(name: str, model: str) -> Dataset:
    """The data in the coding of the named model."""
    return load(name, coding=entry_of(model).coding)


def _show(name: str, value: Any, stderr: float | None) -> None:
    """One line of a report; the error stands beside its number."""
    if value is None or name.endswith("_stderr"):
        return
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    if stderr is not None:
        text += " (exact)" if stderr == 0 else f" ± {stderr:.4f}"
    print(f"{name.replace('_', ' '):28}{text}")


# ---- from arguments to a command, from an error to a line ----------------


def _parse(arguments: list[str] | None) -> Train | Evaluate | Sample | Samplers | Sapi:
    """The command asked for; a ValueError with the point of tyro's boxed complaint otherwise."""
    commands = {
        "train": Train,
        "evaluate": Evaluate,
        "sample": Sample,
        "samplers": Samplers,
        "sapi": Sapi,
    }
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            command = tyro.extras.subcommand_cli_from_dict(commands, args=arguments, prog="qsample")
            if isinstance(command, Train) and command.resume:
                return _resumed(command, sys.argv[1:] if arguments is None else arguments)
            return command
    except SystemExit as stop:
        if not stop.code:
            raise  # it was --help
    raise ValueError(f"{_point(complaint.getvalue())} (qsample --help says more)")


def _resumed(command: Train, arguments: list[str]) -> Train:
    """The command again, with the run's own flags as the defaults."""
    flags = arguments[arguments.index("train") + 1 :]
    former = command.former()
    names_data = any(flag.split("=")[0] == "--data" for flag in flags)
    if former is command and not names_data:
        # a folder mistyped would begin another run, on the default data
        raise ValueError(
            f"no checkpoint at {command.out} to resume: name the run's folder by --out, "
            "or begin a run without --resume"
        )
    return tyro.cli(Train, args=flags, default=former, prog="qsample train")


def _point(complaint: str) -> str:
    """The first paragraph in tyro's box, which is drawn in Unicode or in ASCII."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", complaint).splitlines()[1:]
    lines = [re.sub(r"^[│|]|[│|]$", "", line).strip() for line in plain]
    # a rule ends a paragraph as an empty line does
    rule = re.compile(r"[╰]?[─-]{3,}[╯]?")
    lines = ["" if rule.fullmatch(line) else line for line in lines]
    paragraph = takewhile(bool, dropwhile(lambda line: not line, lines))
    return re.sub(r"Error parsing __\S+: ", "", " ".join(paragraph))


def _advice(text: str) -> str:
    """A message of the library with its advice as flags, `Gibbs(sweeps=...)` as --sampler gibbs."""
    plain: dict[str, str] = {}  # names of the catalogue by class
    corrected: dict[str, str] = {}  # and of its composites, by the class of their first sampler
    for name, entry in CATALOGUE.items():
        if isinstance(entry, CorrectedEntry):
            corrected[CATALOGUE[entry.sampler].kind] = name
        else:
            plain[entry.kind] = name

    def pair(match: re.Match[str]) -> str:
        return f"--sampler {corrected.get(match[1], 'corrected-annealing')}"

    def single(match: re.Match[str]) -> str:
        return f"--sampler {plain[match[1]]}"

    text = re.sub(r"Corrected\((\w+)\([^()]*\), Gibbs\([^()]*\)\)", pair, text)
    text = re.sub(rf"\b({'|'.join(plain)})\([^()]*\)", single, text)
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
        stopped = str(error) or "interrupted"
        remedy = "; resume with the same command and --resume" if isinstance(command, Train) else ""
        print(f"\nqsample: {stopped}{remedy}", file=sys.stderr)
        raise SystemExit(130) from None
    except Stopped as error:
        print(f"\nqsample: {error}; go on with --resume", file=sys.stderr, flush=True)
        # all is on the disk; a busy machine takes seconds to tear Python down
        if arguments is None:
            os._exit(128 + error.number)
        raise SystemExit(error.code) from None
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        line = _advice(" ".join(str(error).split()))
        print(f"qsample: error: {line}", file=sys.stderr)
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
    if isinstance(error, MemoryError):
        return True
    phrases = (
        "can't allocate memory",
        "out of memory",
        "Storage size calculation overflowed",
        "not enough memory",
    )
    return any(phrase in str(error) for phrase in phrases)


if __name__ == "__main__":
    main()
