"""`qsample train`: a model of data, any sampler, and a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from torch import Tensor

from qsample.cli.shared import dataset_of, device_of, said_of, sampler_of, set_threads
from qsample.data.batches import Batches
from qsample.data.binarise import Binarisation
from qsample.data.dataset import Dataset
from qsample.learning.callbacks import Callback
from qsample.learning.checkpoint import NoCheckpoint
from qsample.learning.distributed import join, world
from qsample.learning.files import digest
from qsample.learning.fit import Settings, fit
from qsample.learning.metrics import Evaluation
from qsample.learning.saved import model_of_flags, read_state
from qsample.models import EnergyModel
from qsample.models.registry import check_hidden, entry_of
from qsample.sampling.sampler import Sampler

# The flags of `qsample train` that its checkpoint keeps, and that a resumed run takes up.
FLAGS = ("data", "model", "hidden", "test", "sampler", "sweeps")


class Learnt(NamedTuple):
    """What a run leaves beside its folder.

    Attributes:
        model: the trained model.
        dataset: the data, before they were split.
        rows: number of rows that were learnt from.
        test: rows that were held out, `[M, n_visible]`; none where M is 0.
        history: the metrics, as `fit` returns them.
    """

    model: EnergyModel
    dataset: Dataset
    rows: int
    test: Tensor
    history: list[dict[str, float | int]]


@dataclass(frozen=True)
class Train:
    """Train a model on data with any sampler; checkpoints and metrics go to a folder.

    Args:
        out: folder of the run.
        recipe: recipe whose flags are the defaults: a name that `qsample recipes` lists, or a .toml
            file.
        data: digits, bars-and-stripes, mnist5k, planted-ising; a .npy, .npz, .csv or IDX file of
            bits, spins or grey levels; or the folder of MNIST's four files.
        binarise: how bits are made of grey levels: threshold, at half of their range (the default
            of data sets by name); fixed, one draw by them; sample, a fresh draw whenever a row is
            learnt from.
        model: rbm; boltzmann: every unit coupled to every other; grid: visible spins on the
            data's own grid.
        hidden: number of hidden units.
        sampler: sampler of the negative phase: a name that `qsample samplers` lists.
        sweeps: sweeps of the sampler per update, which its temperatures share.
        set: more settings of the sampler, as in --set betas=16 rule=metropolis (`qsample
            samplers NAME` lists them).
        device: device of the model and its chains: cpu, cuda, mps.
        test: number of rows held out for `qsample evaluate`; by default the test rows that the
            data bring (MNIST's 10,000), else a fifth of 500 rows or more.
        validation: number of rows that are neither learnt from nor held out: the metrics are taken
            of them, and `--patience` needs them.
        evaluate: what the metrics say of the likelihood: exact, pseudo, bracket (both ends); auto
            is exact where that is quick, else pseudo.
        resume: go on from the checkpoint in the folder, with its flags where none are given.
        threads: number of torch threads; more than one pays for wide models only.
        ranks: number of processes on this machine, over which chains are spread (`--exact-sums`:
            the same run on any number); `torchrun -m qsample.cli train ...` starts them elsewhere.
    """

    out: Path
    recipe: str | None = None
    data: str = "digits"
    binarise: Binarisation | None = None
    model: str = "rbm"
    hidden: int = 16
    sampler: str = "gibbs"
    sweeps: int = 10
    set: tuple[str, ...] = ()
    device: str = "cpu"
    test: int | None = None
    validation: int = 0
    evaluate: Evaluation = "auto"
    resume: bool = False
    threads: int = 1
    ranks: int = 1
    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes] = field(default_factory=Settings)

    def __call__(self) -> None:
        """Train the model, and say what comes next."""
        learnt = self.learn()
        if world()[0]:
            return  # the first rank speaks for all
        dataset = learnt.dataset
        print(
            f"data: {dataset.name}, {learnt.rows} rows of {dataset.x.shape[1]}, "
            f"{len(learnt.test)} held out; {said_of(dataset)}"
        )
        print(f"checkpoint: {self.out}\nnext: qsample evaluate {self.out}")

    def learn(self, callbacks: Sequence[Callback] = ()) -> Learnt:
        """Train the model, with callbacks of `fit`; says nothing."""
        set_threads(self.threads)
        rank, size = join()
        settings = self._settings_of(size)
        device = device_of(self.device)
        sampler = sampler_of(self.sampler, self.sweeps, self.set)
        check_start(settings.start, sampler, self.sampler)
        dataset = dataset_of(self.data, self.model, self.binarise)
        config = self._config(dataset)
        train, validation, test = dataset.split(config["test"], self._rows_to_validate(dataset))
        rows = train.x.to(device)
        model = model_of_flags(config).to(device)
        model.set_visible_bias(rows)
        options: dict[str, Any] = {}
        if len(validation):
            config["validation"] = len(validation)
            options["validation"] = validation.x.to(device)
        learnt: Any = rows
        if train.grey is not None:
            # fresh draws to learn from; one draw to judge by, which evaluate knows again
            fresh = replace(train, x=rows, grey=train.grey.to(device))
            learnt = Batches(fresh, self.settings.batch, self.settings.seed)
            options.setdefault("validation", rows)
            config["rows"] = digest(rows)
        history = fit(
            model,
            learnt,
            sampler,
            settings,
            out=self.out,
            resume=self.resume,
            progress=rank == 0,
            evaluate=self.evaluate,
            config=config,
            callbacks=callbacks,
            **options,
        )
        return Learnt(model, dataset, len(train), test.x.to(device), history)

    def _settings_of(self, size: int) -> Settings:
        """The settings of a run on so many ranks, which do not depend on how many."""
        if size == 1:
            return self.settings
        if self.ranks not in (1, size):
            raise ValueError(
                f"--ranks {self.ranks} in a process that is one of {size} already: leave it out, "
                "or torchrun"
            )
        if self.device != "cpu":
            raise ValueError(f"ranks are for --device cpu; got --device {self.device}")
        return replace(self.settings, exact_sums=True)

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
        if self.binarise is not None:
            config["binarise"] = self.binarise
        return config

    def _rows_held_out(self, dataset: Dataset) -> int:
        """The number of test rows, as given or by default."""
        rows = len(dataset)
        if self.test is None:
            if dataset.own_test:
                return dataset.own_test
            if dataset.name == "digits":
                return 397
            return rows // 5 if rows >= 500 else 0
        if not 0 <= self.test < rows:
            raise ValueError(
                f"expected test between 0 and {rows - 1}, {dataset.name} having {rows} rows; got "
                f"{self.test}"
            )
        return self.test

    def _rows_to_validate(self, dataset: Dataset) -> int:
        """The number of validation rows, checked."""
        if not 0 <= self.validation < len(dataset):
            raise ValueError(
                f"expected validation between 0 and {len(dataset) - 1}, {dataset.name} having "
                f"{len(dataset)} rows; got {self.validation}"
            )
        if self.settings.patience is not None and not self.validation:
            raise ValueError(
                "--patience stops by the likelihood of rows that are not learnt from: keep some, "
                "as in --validation 200"
            )
        return self.validation

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
        flags["binarise"] = config.get("binarise")
        flags["validation"] = config.get("validation", 0)
        return replace(self, settings=Settings(**state["settings"]), **flags)


def check_start(start: str, sampler: Sampler, name: str) -> None:
    """ValueError for a start that continues chains, with a sampler that cannot.

    Args:
        start: where chains begin, a `Start`.
        sampler: sampler of the negative phase.
        name: its name in the catalogue.
    """
    if start in ("data", "persistent") and not sampler.warm_start:
        raise ValueError(
            f"--start {start} continues chains, which {name} cannot: use --start fresh (the "
            f"default for {name}), or --sampler gibbs"
        )
