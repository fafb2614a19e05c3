"""Runs that were saved: what a checkpoint of `fit` must hold, and how to have it back."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qsample.learning import checkpoint
from qsample.learning.checkpoint import CheckpointError
from qsample.learning.settings import Settings
from qsample.models.identity import record_of
from qsample.models.registry import (
    MODELS,
    architecture_of_weights,
    new_model,
    rebuilt,
)
from qsample.support.faces import public

if TYPE_CHECKING:
    from qsample.models import EnergyModel


@public("qsample")
@dataclass(frozen=True, eq=False)
class SavedRun:
    """The last checkpoint of a run of `fit` or `qsample train`.

    Attributes:
        folder: folder of the run.
        model: the model, with the weights that `fit` would return: averaged, or the best so far,
            where the settings ask for it.
        config: what was given to `fit`; of `qsample train`, its flags.
        settings: how it was trained; `replace(run.settings, updates=...)` makes those of a longer
            run.
        update: number of updates made.
        history: the metrics, one dict per evaluation.
        sampler: the sampler's class and settings, in words.
        chains: the persistent chains `[num, n]`, int8 spins; None without any.
        data: digest of the training rows.
        seconds: time spent on training.
        best: number of updates of the model's weights, where patience chose them; else None.
    """

    folder: Path
    model: EnergyModel
    config: dict[str, Any]
    settings: Settings
    update: int
    history: list[dict[str, float | int]]
    sampler: str
    chains: Tensor | None
    data: str
    seconds: float
    best: int | None = None


@public("qsample")
def load_run(folder: str | os.PathLike[str], model: EnergyModel | None = None) -> SavedRun:
    """The run in a folder, as of its last checkpoint; it may still be going on.

    Args:
        folder: the `out` of `fit`, or the `--out` of `qsample train`.
        model: a model that takes the weights; by default one is made as the checkpoint says. It
            must be given for a model of another class than qsample's own, or one whose parameters
            are parametrised or pruned.

    Raises:
        CheckpointError: a ValueError; no checkpoint, a damaged one, one of something else.
        ValueError: no way to build the model, or one of another shape.
    """
    folder = Path(folder).expanduser()
    state = read_state(folder)
    source = "the given one"
    if model is None:
        model = _built(folder, state)
        source = "its configuration names"
    else:
        _check_dtype(folder, state, model)
    try:
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"{folder} holds weights of another model than {source}: {reason}"
        ) from None

    chains = state["chains"]
    has_chains = len(chains) > 0 and bool(chains[0, 0])  # zeros before the first update
    return SavedRun(
        folder=folder,
        model=model,
        config=state["config"],
        settings=Settings(**state["settings"]),
        update=state["update"],
        history=state["history"],
        sampler=state["identity"]["sampler"],
        chains=chains if has_chains else None,
        data=state["identity"]["data"],
        seconds=state["seconds"],
        best=(state.get("best") or {}).get("update"),
    )


def read_state(folder: Path) -> dict[str, Any]:
    """The checked state of the run in a folder; raises as `load_run` does."""
    state = checkpoint.load(folder)
    if fault := fault_of(state):
        raise CheckpointError(f"{folder} holds no run of `qsample train` or fit: {fault}")
    return state


def former_settings(folder: Path) -> Settings | None:
    """How the run in a folder was trained; None where there is no checkpoint."""
    if not (folder / checkpoint.LATEST).exists():
        return None
    return Settings(**read_state(folder)["settings"])


# ---- the model that a checkpoint describes ----------------


def _built(folder: Path, state: dict[str, Any]) -> EnergyModel:
    """The untrained model that a checkpoint describes, in the precision of its weights."""
    try:
        model = _described(state)
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[-1]
        raise ValueError(
            f"{folder} holds weights of another model than its configuration names: {reason}"
        ) from None
    if model is None:
        raise ValueError(
            f"{folder} does not say how to build its model: give one that was made in the same "
            "way, load_run(folder, model)"
        )
    return model.to(_dtype(state))


def _described(state: dict[str, Any]) -> EnergyModel | None:
    """The untrained model, by whatever tells it; None where nothing does."""
    units = len(state["offsets"])
    if state.get("architecture") is not None:
        return rebuilt(state["architecture"], units)
    # checkpoints of before: the flags of `qsample train`, or what the weights say of themselves
    if state["config"].get("model") in MODELS:
        return model_of_flags(state["config"], units)
    if "_extra_state" not in state["model"]:
        return None
    identity = record_of(state["model"]["_extra_state"])
    architecture = architecture_of_weights(identity)
    return None if architecture is None else rebuilt(architecture, units)


def model_of_flags(config: dict[str, Any], max_units: int | None = None) -> EnergyModel:
    """The untrained model that the flags of `qsample train` name.

    Args:
        config: the flags, as a checkpoint holds them.
        max_units: number of units that the model must have; None is any.

    Raises:
        KeyError: a flag that is missing.
        ValueError: flags that name no model, or one with another number of units.
    """
    units = config["visible"] + config["hidden"]
    if max_units is not None and units != max_units:  # before anything as large as that is made
        raise ValueError(f"it has {max_units} units, not {units}")
    generator = torch.Generator().manual_seed(config["model_seed"])
    return new_model(
        config["model"],
        config["visible"],
        config["hidden"],
        config["image_shape"],
        generator=generator,
    )


def _check_dtype(folder: Path, state: dict[str, Any], model: EnergyModel) -> None:
    """A ValueError for a model in another precision than the checkpoint's weights."""
    dtype = _dtype(state)
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if dtype is not None and dtypes != {dtype}:
        raise ValueError(
            f"{folder} holds weights of {dtype}; got a model of {', '.join(map(str, dtypes))}: "
            f"use model.to({dtype})"
        )


def _dtype(state: dict[str, Any]) -> torch.dtype | None:
    """The precision of the weights; None without any."""
    for tensor in state["model"].values():
        if tensor.is_floating_point():
            return tensor.dtype
    return None


# ---- what a checkpoint of fit must hold ----------------


def fault_of(state: Any) -> str:
    """What is wrong with a state as one of `fit`, in words; empty where nothing is."""
    if not isinstance(state, dict):
        return "it is no dict"
    for name in sorted(_PARTS):
        if name not in state:
            return f"it lacks {name!r}"
    for name, check in (_PARTS | _LATER).items():
        if name in state and not check(state[name]):
            return f"its {name!r} is damaged"
    try:
        Settings(**state["settings"])
    except (TypeError, ValueError) as error:
        return f"its 'settings' are damaged: {str(error).splitlines()[0]}"
    if state["chains"].shape[1:] != state["offsets"].shape:
        return "its 'chains' and 'offsets' are of different units"
    return ""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(type(key) is str for key in value)


def _are_numbers(value: Any) -> bool:
    return _is_table(value) and all(map(_is_number, value.values()))


def _are_metrics(value: Any) -> bool:
    return _are_numbers(value) and _is_count(value.get("update"))


def _are_tensors(value: Any) -> bool:
    return _is_table(value) and all(isinstance(item, Tensor) for item in value.values())


def _are_weights(value: Any) -> bool:
    """Tensors, and finite numbers."""
    return _are_tensors(value) and all(map(_is_finite, value.values()))


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; without a copy of them."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor.detach()))


def _are_chains(value: Any) -> bool:
    """Spins, or zeros before the first update."""
    if not isinstance(value, Tensor) or value.dtype != torch.int8 or value.dim() != 2:
        return False
    return bool((value.abs() == 1).all() or (value == 0).all())


def _are_offsets(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 1


def _are_energies(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 2


def _is_optimizer(value: Any) -> bool:
    if not _is_table(value) or not isinstance(value.get("state"), dict):
        return False
    groups = value.get("param_groups")
    parts = value["state"]
    return (
        all(_is_count(key) and _is_table(item) for key, item in parts.items())
        and isinstance(groups, list)
        and all(_is_table(group) and isinstance(group.get("params"), list) for group in groups)
    )


def _is_identity(value: Any) -> bool:
    return _is_table(value) and all(type(value.get(key)) is str for key in ("sampler", "data"))


def _is_pending(value: Any) -> bool:
    if value is None:
        return True
    numbers = ("loss", "beta", "beta_stderr")
    return _are_metrics(value) and all(_is_number(value.get(name)) for name in numbers)


def _is_best(value: Any) -> bool:
    if value is None:
        return True
    return (
        _is_table(value)
        and (value.get("update") is None or _is_count(value["update"]))
        and type(value.get("name")) is str
        and _is_number(value.get("score"))
        and _is_count(value.get("waited"))
        and _are_weights(value.get("weights"))
    )


def _is_architecture(value: Any) -> bool:
    if value is None:
        return True
    return _is_table(value) and type(value.get("name")) is str and _is_table(value.get("arguments"))


_PARTS: dict[str, Any] = {
    "model": _are_weights,
    "optimizer": _is_optimizer,
    "chains": _are_chains,
    "offsets": _are_offsets,
    "carry": lambda value: value is None or _are_tensors(value),
    "sampler": lambda value: value is None or isinstance(value, dict),
    "update": _is_count,
    "energies": _are_energies,
    "history": lambda value: isinstance(value, list) and all(map(_are_metrics, value)),
    "seconds": lambda value: _is_number(value) and math.isfinite(value) and value >= 0,
    "settings": _is_table,
    "config": _is_table,
    "identity": _is_identity,
}
_LATER: dict[str, Any] = {  # not in the first checkpoints
    "training": lambda value: value is None or _are_weights(value),
    "average": lambda value: value is None or _are_weights(value),
    "scheduler": lambda value: value is None or _is_table(value),
    "best": _is_best,
    "seen": lambda value: value is None or type(value) is str,
    "pending": _is_pending,
    "architecture": _is_architecture,
    "former": lambda value: isinstance(value, list) and all(map(_is_table, value)),
    "numbering": _is_count,
}
