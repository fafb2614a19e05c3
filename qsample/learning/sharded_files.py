"""Checkpoints of weights that are spread over ranks, which go on with another number of ranks.

Each rank writes its own part, by `torch.distributed.checkpoint`, into a new folder `step-00000012`
under a temporary name; the first one then renames it, which is the commit, and removes the folders
before. All ranks must see the same files.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from qsample.learning.checkpoint import CheckpointError, NoCheckpoint
from qsample.learning.contrastive import ContrastiveDivergence
from qsample.learning.distributed import add_over_ranks, world
from qsample.models import EnergyModel
from qsample.support.checks import whole

_STEP = re.compile(r"step-(\d{8,})")


def save_sharded(
    folder: str | os.PathLike[str],
    cd: ContrastiveDivergence,
    optimizer: Optimizer | None = None,
    *,
    step: int,
) -> Path:
    """Make a checkpoint of weights, optimiser, chains and generator; every rank calls it.

    Args:
        folder: folder of the checkpoints of one run, the same on all ranks.
        cd: what is trained.
        optimizer: an optimiser of its model's parameters, if one is used.
        step: number of steps made.

    Returns:
        The folder of this checkpoint.

    Raises:
        CheckpointError: it cannot be written; the one before still stands.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    folder = Path(folder).expanduser()
    step = whole("step", step, 0)
    path = folder / f"step-{step:08d}"
    temporary = folder / f".step-{step:08d}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if world()[0] == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        _meet()
        save(_state(cd, optimizer), checkpoint_id=temporary)
    except Exception as error:
        raise CheckpointError(f"cannot save step {step} in {folder}: {_reason(error)}") from None
    if world()[0] == 0:
        before = [old for number, old in _listed(folder) if number != step]
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        for old in before:
            shutil.rmtree(old, ignore_errors=True)
    _meet()
    return path


def load_sharded(
    folder: str | os.PathLike[str],
    cd: ContrastiveDivergence,
    optimizer: Optimizer | None = None,
) -> int:
    """Take up the last checkpoint in a folder, of any number of ranks; every rank calls it.

    Args:
        folder: folder of the checkpoints of the run.
        cd: what is trained, made as it was; its weights may be spread over other ranks, or whole.
        optimizer: an optimiser as it was.

    Returns:
        The number of steps made.

    Raises:
        NoCheckpoint: there is none.
        CheckpointError: it cannot be read, or is one of another model or number of chains.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict import set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    folder = Path(folder).expanduser()
    listed = _listed(folder)
    if not listed:
        raise NoCheckpoint(f"no checkpoint of spread weights in {folder}")
    step, path = listed[-1]
    state = _state(cd, optimizer)
    try:
        saved = FileSystemReader(path).read_metadata().state_dict_metadata
        _check_sizes(saved, state)
        load(state, checkpoint_id=path)
    except Exception as error:
        raise CheckpointError(f"cannot resume {path}: {_reason(error)}") from None
    optimizers: Any = () if optimizer is None else optimizer
    set_state_dict(
        cd.model,
        optimizers,
        model_state_dict=state["model"],
        optim_state_dict=state.get("optimizer", {}),
    )
    cd.chains = state["chains"]
    cd.offsets = state["offsets"]
    if cd.generator is not None:
        cd.generator.set_state(state["generator"])
    return step


def _state(cd: ContrastiveDivergence, optimizer: Optimizer | None) -> dict[str, Any]:
    """What a checkpoint holds, in whose tensors it is loaded."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model: EnergyModel = cd.model
    weights, moments = get_state_dict(model, () if optimizer is None else optimizer)
    state: dict[str, Any] = {
        "model": weights,
        "chains": cd.chains.clone(),
        "offsets": cd.offsets.clone(),
    }
    if optimizer is not None:
        state["optimizer"] = moments
    if cd.generator is not None:
        state["generator"] = cd.generator.get_state()
    return state


def _check_sizes(saved: dict[str, Any], state: dict[str, Any]) -> None:
    """A ValueError for the first tensor that has another shape there."""
    parts = {f"model.{name}": t for name, t in state["model"].items()}
    for name, ours in {**parts, "chains": state["chains"]}.items():
        there = tuple(saved[name].size) if name in saved else None
        if there != tuple(ours.shape):
            raise ValueError(
                f"it holds {name} of shape {None if there is None else list(there)}, not "
                f"{list(ours.shape)}: make model and chains as they were"
            )
    for part in ("optimizer", "generator"):
        holds = any(name.split(".")[0] == part for name in saved)
        if part in state and not holds:
            raise ValueError(f"it holds no {part}: leave it out")


def _listed(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints, in order."""
    listed = []
    for path in folder.iterdir() if folder.is_dir() else []:
        match = _STEP.fullmatch(path.name)
        if match:
            listed.append((int(match[1]), path))
    return sorted(listed)


def _meet() -> None:
    """Wait until all ranks are here."""
    add_over_ranks(torch.zeros(1))


def _reason(error: BaseException) -> str:
    """One line of an error, of the first rank's where torch tells of several."""
    failures = getattr(error, "failures", None)
    if failures:
        first = next(iter(failures.values()))
        error = first[0] if isinstance(first, tuple) else first
    return " ".join((str(error).strip() or repr(error)).splitlines()[-1:])[:300]
