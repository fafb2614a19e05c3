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
from qsample.problem.graph import Graph

if TYPE_CHECKING:
    from qsample.models import EnergyModel


@dataclass(frozen=True, eq=False)
class SavedRun:
    """The last checkpoint of a run of `fit` or `qsample train`.

    Attributes:
        folder: of the run.
        model: with the weights of the checkpoint.
        config: what was given to `fit`; of `qsample train`, its flags.
        settings: how it was trained; `replace(run.settings, updates=...)` makes those of a longer run.
        update: updates made.
        history: the metrics, one dict an evaluation.
        sampler: its name and settings in words.
        chains: the persistent chains `[num, n]`, int8 spins; None without any.
        data: the digest of the training rows.
        seconds: of training.
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


def load_run(folder: str | os.PathLike[str], model: EnergyModel | None = None) -> SavedRun:
    """The run in a folder, as of its last checkpoint; it may still be going on.

    Args:
        folder: the `out` of `fit`, or the `--out` of `qsample train`.
        model: takes the weights; needed for a run of `fit` whose config does not say how the model was made.

    Raises:
        CheckpointError: a ValueError; no checkpoint, a damaged one, one of something else.
        ValueError: no way to build the model, or one of another shape.
    """
    folder = Path(folder).expanduser()
    state = read_state(folder)
    if model is None:
        model = _built(folder, state)
    elif (kind := _dtype(state)) is not None:
        kinds = {p.dtype for p in model.parameters()}
        if kinds != {kind}:
            raise ValueError(
                f"{folder} holds weights of {kind}; got a model of {', '.join(map(str, kinds))}: use model.to({kind})"
            )
    try:
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"{folder} holds weights of another model than "
            f"{'its configuration names' if state['config'] else 'the given one'}: {reason}"
        ) from None
    chains = state["chains"]
    return SavedRun(
        folder,
        model,
        state["config"],
        Settings(**state["settings"]),
        state["update"],
        state["history"],
        state["identity"]["sampler"],
        chains if len(chains) and bool(chains[0, 0]) else None,
        state["identity"]["data"],
        state["seconds"],
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


def build(config: dict[str, Any]) -> EnergyModel:
    """The untrained model that a run's configuration names."""
    from qsample.models import BernoulliRBM, BoltzmannMachine

    generator = torch.Generator().manual_seed(config["model_seed"])
    visible, hidden = config["visible"], config["hidden"]
    if config["model"] == "rbm":
        return BernoulliRBM(visible, hidden, generator=generator)
    if config["model"] == "boltzmann":
        graph = Graph.complete(visible + hidden)
        return BoltzmannMachine(graph, range(visible, visible + hidden), generator=generator)
    rows, columns = config["image_shape"]
    places = torch.arange(visible).reshape(rows, columns)
    across = torch.stack([places[:, :-1].flatten(), places[:, 1:].flatten()], 1)
    down = torch.stack([places[:-1].flatten(), places[1:].flatten()], 1)
    return BoltzmannMachine(Graph.sparse(visible, torch.cat([across, down])), generator=generator)


def _built(folder: Path, state: dict[str, Any]) -> EnergyModel:
    """The model that a checkpoint's configuration names, in the precision of its weights."""
    config = state["config"]
    if "model" not in config:
        raise ValueError(
            f"{folder} does not say how to build its model: give one that was made in the same way, "
            "load_run(folder, model)"
        )
    try:
        units = config["visible"] + config["hidden"]
        if units != len(state["offsets"]):  # before anything as large as that is made
            raise ValueError(f"it has {len(state['offsets'])} units, not {units}")
        model = build(config)
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[-1]
        raise ValueError(f"{folder} holds weights of another model than its configuration names: {reason}") from None
    return model.to(_dtype(state))


def _dtype(state: dict[str, Any]) -> torch.dtype | None:
    """The precision of the weights."""
    kinds = [t.dtype for t in state["model"].values() if t.is_floating_point()]
    return kinds[0] if kinds else None


# ---- what a checkpoint of fit must hold ------------------------------------------------------------------------------


def fault_of(state: Any) -> str:
    """What is wrong with a state as one of `fit`, in words; nothing is wrong with an empty answer."""
    if not isinstance(state, dict):
        return "it is no dict"
    for name in sorted(_PARTS):
        if name not in state:
            return f"it lacks {name!r}"
    for name, check in (_PARTS | {k: v for k, v in _LATER.items() if k in state}).items():
        if not check(state[name]):
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
    return _are_tensors(value) and all(bool(t.isfinite().all()) for t in value.values())


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
    parts = ("loss", "beta", "beta_stderr")
    return value is None or _are_metrics(value) and all(_is_number(value.get(k)) for k in parts)


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
    "pending": _is_pending,
    "former": lambda value: isinstance(value, list) and all(map(_is_table, value)),
}
