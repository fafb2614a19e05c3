"""From a gradient to new weights: clipping, the optimiser, its rates, and the average."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from qsample.learning import by_products
from qsample.learning.settings import Settings

if TYPE_CHECKING:
    from qsample.models import EnergyModel

OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
MakesOptimizer = Callable[[Any], Optimizer]
MakesScheduler = Callable[[Optimizer], LRScheduler]


class Steps:
    """What makes new weights of gradients.

    Args:
        model: the model whose weights move.
        settings: how to train.
        optimizer: an optimiser of the model's parameters, or a function that makes one of them;
            None means that of the settings.
        scheduler: a function that makes a scheduler of the optimiser; None means the rates of the
            settings, or those of an optimiser that was given.

    Attributes:
        averaged: the model with averaged weights; the model itself before the average begins.

    Raises:
        ValueError: settings that do not apply beside what was given; an optimiser of other weights.
        TypeError: what is no optimiser or scheduler.
    """

    def __init__(
        self,
        model: EnergyModel,
        settings: Settings,
        optimizer: Optimizer | MakesOptimizer | None = None,
        scheduler: MakesScheduler | None = None,
    ) -> None:
        _check_settings(settings, optimizer, scheduler)
        if settings.fused_update:
            _check_fused(model, settings)
        self.model = model
        self.settings = settings
        # names of what was given: a checkpoint is for others of the same
        self.names: dict[str, str] = {}
        self.optimizer = self._optimizer(optimizer)
        self.scheduler = self._scheduler(scheduler)
        self._average: AveragedModel | None = None

    # ---- one step ----------------

    def begin(self, update: int) -> None:
        """Forget the last gradient, and set the rate of an update where the settings say it."""
        if not self.names:
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.rate(update)
        if self.settings.fused_update:
            self.model.get_parameter("W").grad = None
        # memory as large as W is kept: to get it afresh from the system takes long
        self.optimizer.zero_grad(set_to_none=not by_products.is_large(self.model))

    def at_once(self) -> AbstractContextManager[None]:
        """Inside, a backward pass takes the step of a large model's weights, where that is asked.

        Its rate is that of the optimiser as it stands, after `begin`.
        """
        if not self.settings.fused_update:
            return nullcontext()
        W = self.model.get_parameter("W")
        group = next(g for g in self.optimizer.param_groups if any(p is W for p in g["params"]))
        return by_products.applied_at_once(W, float(group["lr"]), float(group["weight_decay"]))

    def take(self, update: int) -> None:
        """New weights, by the gradient; `update` counts this one."""
        if self.settings.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        if self.scheduler is not None and not self.on_plateau:
            self.scheduler.step()
        if self.settings.average != "none" and update > self.settings.average_from:
            self.average().update_parameters(self.model)

    @property
    def on_plateau(self) -> bool:
        """Whether the scheduler waits for evaluations."""
        return isinstance(self.scheduler, ReduceLROnPlateau)

    def plateau(self, score: float) -> None:
        """Tell such a scheduler what the validation rows think of the weights."""
        assert isinstance(self.scheduler, ReduceLROnPlateau)
        self.scheduler.step(score)

    @property
    def rate(self) -> float:
        """The learning rate to name in an error: that of the settings where it is from them."""
        if not self.names:
            return self.settings.lr
        return float(self.optimizer.param_groups[0]["lr"])

    # ---- the average ----------------

    @property
    def averaged(self) -> EnergyModel:
        """See the class."""
        if self._average is None:
            return self.model
        return self._average.module  # pyright: ignore[reportReturnType]

    def average(self) -> AveragedModel:
        """The average, which begins with the first weights that it is updated with."""
        if self._average is None:
            rule = None
            if self.settings.average == "ema":
                rule = get_ema_multi_avg_fn(self.settings.average_decay)
            self._average = AveragedModel(self.model, multi_avg_fn=rule)
        return self._average

    # ---- what a checkpoint holds ----------------

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts, by name; None where there is no such part."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "average": None if self._average is None else dict(self._average.state_dict()),
        }

    # ---- what was given ----------------

    def _optimizer(self, given: Any) -> Optimizer:
        parameters = list(self.model.parameters())
        settings = self.settings
        if given is None:
            made = OPTIMIZERS[settings.optimizer]
            return made(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        optimizer = (
            given if isinstance(given, Optimizer) else _called("optimizer", given, parameters)
        )
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "expected optimizer as a torch.optim.Optimizer, or a function that makes one of "
                f"the parameters; got {type(optimizer).__name__}"
            )
        ours = {id(parameter) for parameter in parameters}
        for group in optimizer.param_groups:
            if not ours.issuperset(map(id, group["params"])):
                raise ValueError(
                    "expected an optimizer of this model's parameters; got one of others: make it "
                    "of model.parameters(), or pass the function that makes it"
                )
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "expected an optimizer that takes one gradient per step; got LBFGS, which "
                "evaluates the loss anew within a step, where there are no samples"
            )
        defaults = ", ".join(f"{name}={value}" for name, value in optimizer.defaults.items())
        self.names["optimizer"] = f"{type(optimizer).__name__}({defaults})"
        return optimizer

    def _scheduler(self, given: Any) -> LRScheduler | None:
        if given is None:
            return None
        scheduler = _called("scheduler", given, self.optimizer)
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(
                "expected scheduler as a function that makes an LRScheduler of the optimizer; got "
                f"{type(scheduler).__name__} from it"
            )
        self.names["scheduler"] = type(scheduler).__name__
        return scheduler


def _called(name: str, function: Any, argument: Any) -> Any:
    """What a function makes of its argument; a TypeError for what is no function."""
    if not callable(function):
        way = ""
        if isinstance(function, LRScheduler):
            way = ": pass what makes it, as in lambda optimizer: StepLR(optimizer, 100)"
        raise TypeError(f"expected {name} as a function; got {type(function).__name__}{way}")
    return function(argument)


def _check_fused(model: EnergyModel, settings: Settings) -> None:
    """A ValueError for a model that has no step at once."""
    if not by_products.is_large(model):
        count = sum(p.numel() for p in model.parameters())
        raise ValueError(
            f"fused_update is for a BernoulliRBM of {by_products.LARGE} weights or more, of "
            f"float32; got {type(model).__name__} of {count} parameters: leave it out"
        )
    W = model.weights()[0]
    if not W.is_leaf or not W.is_contiguous() or W._backward_hooks:
        raise ValueError(
            "fused_update makes new weights of W without its gradient: expected W as a plain "
            "parameter, contiguous, without hooks or parametrisation"
        )


def _check_settings(settings: Settings, optimizer: Any, scheduler: Any) -> None:
    """A ValueError for settings, other than the defaults, which do not apply."""
    useless: list[str] = []
    if optimizer is not None:
        useless += ["optimizer", "lr", "weight_decay", "fused_update"]
    if optimizer is not None or scheduler is not None:
        useless += ["decay_from"]
    for name in useless:
        value = getattr(settings, name)
        if value != getattr(Settings, name):
            given = "an optimizer" if optimizer is not None else "a scheduler"
            raise ValueError(
                f"{name}={value!r} of the settings does not apply beside {given} of your own: "
                "leave it out, and say it there"
            )
