"""The state of a run: what a checkpoint holds, and how a run takes it up again."""

from __future__ import annotations

import dataclasses
import math
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qsample.learning import by_products, checkpoint
from qsample.learning.checkpoint import CheckpointError
from qsample.learning.files import digest
from qsample.learning.saved import fault_of
from qsample.learning.settings import Settings
from qsample.models.registry import architecture
from qsample.sampling.sampler import Sampler, is_stateful

if TYPE_CHECKING:
    from qsample.learning.run import Run
    from qsample.learning.steps import Steps
    from qsample.models import EnergyModel

BUFFER = "model."  # before the name of a model's buffer, among the moving parts


# ---- what a checkpoint holds ----------------


def before_update(run: Run) -> dict[str, Any]:
    """A copy of what an update moves before its last step: to return to, if it is given up.

    The state of a sampler that is `irrevocable` is not among it: what was charged stays charged.
    """
    parts = _moving(run)
    if not getattr(run.cd.sampler, "irrevocable", False):
        parts["sampler"] = _state_of(run.cd.sampler)
    return _copied(parts)


def state_of(run: Run) -> dict[str, Any]:
    """Everything the run's future depends on; in the middle of an update, as it was before."""
    moving = _moving(run) | (run.before or {})
    if moving.get("sampler") is None:
        moving["sampler"] = _state_of(run.cd.sampler)
    training = dict(run.model.state_dict())
    training |= {name: moving.pop(BUFFER + name) for name in run.buffers}
    result = run.result()
    return {
        "model": training if result is None else result,  # what a run gives that ends here
        "training": None if result is None else training,  # what it goes on from
        "best": None if run.best is None else run.best.state_dict(),
        **run.steps.state_dict(),
        **moving,
        "seen": run.seen,
        "update": run.update,
        "energies": torch.stack(run.energies) if run.energies else None,
        "history": run.history,
        "pending": run.pending,
        "spent": run.spent,
        "seconds": time.perf_counter() - run.began,
        "settings": dataclasses.asdict(run.settings),
        "former": run.former,
        "numbering": _numbering(),
        "config": run.config,
        "architecture": architecture(run.model),
        "identity": _identity(run),
    }


def _moving(run: Run) -> dict[str, Any]:
    """What an update moves before its last step, but for the sampler's own state."""
    parts: dict[str, Any] = {
        "chains": run.cd.chains,
        "offsets": run.cd.offsets,
        "carry": run.cd.carry,
    }
    return parts | {BUFFER + name: buffer for name, buffer in run.buffers.items()}


def _state_of(sampler: Sampler) -> Mapping[str, Any] | None:
    return sampler.state_dict() if is_stateful(sampler) else None


def _numbering() -> int:
    """Which draws the native kernels make of a seed: the same under one number, bit for bit."""
    from qsample.annealers import _engine

    return _engine.NUMBERING


def _identity(run: Run) -> dict[str, str]:
    """What may not differ between a run and the one that takes it up, beside its settings."""
    # memory addresses, which no two runs share, are left out
    sampler = re.sub(r" at 0x[0-9a-f]+", "", repr(run.cd.sampler))
    return {"sampler": sampler, "data": run.batches.name, **run.steps.names}


def _copied(value: Any) -> Any:
    """Nested containers with their tensors cloned."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return value


# ---- taking it up ----------------


def restore(run: Run, folder: Path) -> None:
    """Take up the checkpoint in a folder; where that fails, the run's model is as it was.

    A model that is too large to copy then has the checkpoint's weights.

    A warning says where draws will differ from those of a run that was never stopped.

    Raises:
        CheckpointError: the checkpoint is damaged, or none of `fit`.
        ValueError: it is another run's; the message names the first difference.
    """
    state = checkpoint.load(folder)
    if fault := fault_of(state):
        raise CheckpointError(f"cannot resume {folder}: its checkpoint is not one of fit, {fault}")
    if run.keeps_config:
        run.config = state["config"]
    _check_same(run, state, folder)
    weights = None if by_products.is_large(run.model) else _copied(dict(run.model.state_dict()))
    try:
        run.model.load_state_dict(state.get("training") or state["model"])
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(f"cannot resume {folder}: {reason}") from None
    try:
        _take_up(run, state)
    except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        _put_back(run, weights)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        path = folder / checkpoint.LATEST
        raise CheckpointError(f"{path} holds no state of this run: {reason}") from None
    try:
        _compare_batches(run, folder)
    except BaseException:
        _put_back(run, weights)
        raise
    numbering = state.get("numbering", 1)  # the first checkpoints do not name it
    if numbering != _numbering() and run.update < run.settings.updates:
        warnings.warn(
            f"{folder} was saved under numbering {numbering} of the native kernels' draws, and "
            f"this is {_numbering()}: from update {run.update} on their draws differ from those "
            "of a run that was never stopped",
            RuntimeWarning,
            stacklevel=4,
        )


def _put_back(run: Run, weights: dict[str, Tensor] | None) -> None:
    """The model's weights as they were, where they were copied."""
    if weights is not None:
        run.model.load_state_dict(weights)


def _compare_batches(run: Run, folder: Path) -> None:
    """Read a loader's batches up to the present update; warn where they come in another order."""
    if run.batches.ordered or run.update == 0 or run.done:
        return
    if digest(run.batches.of_update(run.update - 1)) != run.seen:
        warnings.warn(
            f"{folder} was trained on other batches, or on the same in another order: from update "
            f"{run.update} on the run differs from one that was never stopped; a DataLoader is "
            "repeated where it and its data draw from torch's default generator only, or from one "
            "that begins with the same seed",
            RuntimeWarning,
            stacklevel=5,
        )


def _take_up(run: Run, state: dict[str, Any]) -> None:
    """Everything but the weights."""
    # all that can be wrong is looked at before anything changes
    _check_optimizer(state["optimizer"], run.steps)
    for name in ("chains", "offsets"):
        if state[name].shape != getattr(run.cd, name).shape:
            raise ValueError(f"{name} of shape {list(state[name].shape)}")
    spent = _checked_spent(state.get("spent", {}))
    best = state.get("best")
    if best is not None and best["update"] is not None:
        _check_weights(best["weights"], run.model)

    _take_up_steps(run, state)
    run.cd.chains.copy_(state["chains"])
    run.cd.offsets = state["offsets"].to(run.cd.offsets, copy=True)
    run.cd.carry = state["carry"]
    if state["sampler"] is not None:
        if not is_stateful(run.cd.sampler):
            raise ValueError("a sampler's state, for a sampler that has none")
        run.cd.sampler.load_state_dict(state["sampler"])
    run.update = state["update"]
    run.history = state["history"]
    run.pending = state.get("pending")
    run.energies = [] if state["energies"] is None else list(state["energies"])
    run.spent = spent
    run.seen = state.get("seen")
    if run.best is not None and best is not None:
        run.best.load_state_dict(best)
    run.began -= state["seconds"]
    _take_up_settings(run, state)


def _take_up_steps(run: Run, state: dict[str, Any]) -> None:
    """The optimiser, the scheduler and the average, which may have to begin anew."""
    run.steps.optimizer.load_state_dict(state["optimizer"])
    if run.steps.scheduler is not None:
        run.steps.scheduler.load_state_dict(state["scheduler"])
    if state.get("average") is not None and _averages_on(run, state):
        run.steps.average().load_state_dict(state["average"])


def _averages_on(run: Run, state: dict[str, Any]) -> bool:
    """Whether the average of the weights is that of the run that is taken up."""
    former = Settings(**state["settings"])
    names = ("average", "average_from", "average_decay")
    return all(getattr(run.settings, name) == getattr(former, name) for name in names)


def _take_up_settings(run: Run, state: dict[str, Any]) -> None:
    """Note a learning rate that changes, for the record.

    Where a shorter run goes on, its last metrics are dropped unless they are due anyway.
    """
    former = Settings(**state["settings"])
    run.former = [*state.get("former", [])]
    restarts = state.get("average") is not None and not _averages_on(run, state)
    if restarts or run.settings.rates(run.update) != former.rates(run.update):
        run.former.append(state["settings"] | {"until": run.update})
        return
    longer = run.settings.updates > former.updates
    if longer and former.updates % former.evaluate_every:
        run.history = [m for m in run.history if m["update"] != former.updates]
        if run.pending is not None and run.pending["update"] == former.updates:
            run.pending = None


def _check_same(run: Run, state: dict[str, Any], folder: Path) -> None:
    """A ValueError that names the first difference between the checkpoint's run and this one."""
    former = Settings(**state["settings"])
    parts = {
        "settings": (dataclasses.asdict(run.settings), dataclasses.asdict(former)),
        "config": (run.config, state["config"]),
        "identity": (_identity(run), state["identity"]),
    }
    for kind, (present, saved) in parts.items():
        for name in sorted(present.keys() | saved.keys()):
            if saved.get(name) == present.get(name):
                continue
            remedy = "use the same value, or another output folder"
            if kind == "settings":
                remedy = run.settings.remedy(name, former, state["update"])
            if remedy:
                raise ValueError(
                    f"cannot resume {folder}: it was made with {name}={saved.get(name)!r}, "
                    f"not {present.get(name)!r}; {remedy}"
                )


def _check_weights(weights: dict[str, Tensor], model: EnergyModel) -> None:
    """A ValueError for weights of another model."""
    ours = {name: t.shape for name, t in model.state_dict().items()}
    if ours != {name: t.shape for name, t in weights.items()}:
        raise ValueError("the best weights are those of another model")


def _check_optimizer(state: Any, steps: Steps) -> None:
    """A ValueError for a state whose tensors do not belong to these parameters."""
    optimizer = steps.optimizer
    groups = optimizer.state_dict()["param_groups"]
    saved_groups = state["param_groups"]
    if len(saved_groups) != len(groups):
        raise ValueError(f"{len(saved_groups)} groups of parameters")
    for group, saved in zip(groups, saved_groups, strict=True):
        if group.keys() != saved.keys() or group["params"] != saved["params"]:
            raise ValueError("an optimiser's state for other parameters")
        for key, value in group.items():
            if type(value) is not type(saved[key]) and not _are_numbers(value, saved[key]):
                raise ValueError(f"{key}={saved[key]!r} of the optimiser")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, moments in state["state"].items():
        shape = parameters[index].shape
        for name, t in moments.items():
            if not isinstance(t, Tensor):
                continue
            # an optimiser that is not ours may keep moments of other shapes
            fits = t.shape in (shape, ()) or "optimizer" in steps.names
            if not fits or not t.isfinite().all():
                raise ValueError(f"{name} of the optimiser of shape {list(t.shape)}")


def _are_numbers(*values: Any) -> bool:
    """Whether all are plain numbers: a rate of 1 may have become 0.5."""
    return all(type(value) in (int, float) for value in values)


def _checked_spent(spent: Any) -> dict[str, float]:
    """What the sampler had spent, a table of numbers; the first checkpoints lack it."""
    for name, number in dict(spent).items():
        if type(number) not in (int, float) or not math.isfinite(number):
            raise ValueError(f"{name}={number!r} of what the sampler spent")
    return dict(spent)
