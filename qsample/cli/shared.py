"""What the commands share: runs, devices, samplers and data by their names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qsample.annealers.registry import adjusted, named
from qsample.data.binarise import Binarisation
from qsample.data.dataset import Dataset
from qsample.data.loading import load
from qsample.learning.saved import load_run
from qsample.models import EnergyModel
from qsample.models.registry import entry_of
from qsample.sampling.sampler import Sampler
from qsample.sampling.samples import ReliabilityWarning
from qsample.support.checks import plain_seed
from qsample.support.progress import shown


def restore(run: Path) -> tuple[EnergyModel, dict[str, Any]]:
    """The model of a run's last checkpoint, and its configuration with the digest of its rows."""
    saved = load_run(run)
    return saved.model, saved.config | {"digest": saved.data}


@contextmanager
def quiet() -> Iterator[None]:
    """Bars for what takes long, and no warnings of doubts that the report states itself."""
    with warnings.catch_warnings(), shown():
        warnings.simplefilter("ignore", ReliabilityWarning)
        yield


def seeded(seed: int) -> torch.Generator:
    """A generator with that seed; ValueError for one of more than 64 bits."""
    return torch.Generator().manual_seed(plain_seed(seed))


def sampler_of(name: str, sweeps: int, settings: Sequence[str]) -> Sampler:
    """The sampler of that name with a budget of sweeps, and with settings `name=value`.

    Args:
        name: name of the sampler.
        sweeps: sweeps of a read.
        settings: its other settings, as `--set` takes them.
    """
    pairs: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ValueError(f"expected --set NAME=VALUE; got {setting!r}")
        pairs[key] = value
    return adjusted(named(name, sweeps), pairs)


def device_of(name: str) -> torch.device:
    """The device of that name, tried."""
    try:
        device = torch.device(name)
        float(torch.zeros(1, device=device).sum())
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"cannot compute on --device {name}: {reason}") from None
    return device


def dataset_of(name: str, model: str, binarise: Binarisation | None = None) -> Dataset:
    """The data in the coding of the named model, bits made of grey levels as asked.

    Args:
        name: name of the data, or their file.
        model: name of the model.
        binarise: how bits are made of grey levels; None is the data's own way.
    """
    return load(name, coding=entry_of(model).coding, binarise=binarise)


def said_of(dataset: Dataset) -> str:
    """How a data set came to its bits, in words."""
    return dataset.binarised or "bits as they are"


def set_threads(threads: int) -> None:
    """Set torch's threads; a ValueError for none."""
    if threads < 1:
        raise ValueError(f"expected threads >= 1; got {threads}")
    torch.set_num_threads(threads)
