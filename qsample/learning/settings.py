"""How to train: what a run needs to be repeated, beside the model, the data and the sampler."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from qsample.learning.contrastive import Start
from qsample.sampling.sampler import Sampler
from qsample.support.checks import check_choice, plain_seed, whole_settings
from qsample.support.faces import public

Decay = Literal["linear", "none"]
Optimizer = Literal["adam", "sgd"]
Average = Literal["none", "ema", "mean"]


@public("qsample")
@dataclass(frozen=True)
class Settings:
    """How to train; with the model, the data and the sampler, all that a run needs to be repeated.

    Args:
        updates: number of gradient steps.
        batch: rows of data per step.
        lr: learning rate at the start.
        decay: linear, where the learning rate falls to zero at the last update, or none.
        decay_from: update at which a linear decay begins; to go on after its end, the update
            reached.
        optimizer: torch optimiser.
        weight_decay: L2 penalty of the optimiser.
        clip: largest norm of the gradient of all parameters together, to which a larger one is
            scaled down; None is any.
        average: which average of the weights is evaluated and returned, while chains and gradients
            follow the weights themselves: ema, a moving average; mean, of all weights since
            average_from (Polyak and Juditsky 1992); or none.
        average_from: update after which the average begins; before it the weights are their own.
        average_decay: weight of the former average in ema, at each update.
        start: where the negative chains begin: data (CD), persistent (PCD), fresh (annealed);
            auto means persistent where the sampler can continue chains, else fresh.
        chains: negative samples per step.
        centred: whether to use the centred gradient, with offsets by moving average.
        exact_sums: whether chains and statistics are the same on any number of ranks, bit for bit;
            see `ContrastiveDivergence`.
        fused_update: whether the weights W of a `BernoulliRBM` of 2^24 of them or more are updated
            as their gradient is made, which so takes no memory. For sgd, without clip, average,
            centred or exact_sums; equal to the update by torch's SGD up to rounding.
        seed: seed of all randomness.
        evaluate_every: updates between lines of metrics.
        checkpoint_every: updates between checkpoints.
        patience: evaluations in a row without a better likelihood of validation rows, after which
            training stops; the best weights are then returned. None is without end.

    Raises:
        ValueError: a value out of range.
    """

    updates: int = 5000
    batch: int = 200
    lr: float = 0.02
    decay: Decay = "linear"
    decay_from: int = 0
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    clip: float | None = None
    average: Average = "none"
    average_from: int = 0
    average_decay: float = 0.999
    start: Start | Literal["auto"] = "auto"
    chains: int = 512
    centred: bool = False
    exact_sums: bool = False
    fused_update: bool = False
    seed: int = 0
    evaluate_every: int = 250
    checkpoint_every: int = 1000
    patience: int | None = None

    def __post_init__(self) -> None:
        # plain ints: a checkpoint stores them as they are
        whole_settings(
            self,
            updates=1,
            batch=1,
            chains=1,
            evaluate_every=1,
            checkpoint_every=1,
            decay_from=0,
            average_from=0,
        )
        if self.patience is not None:
            whole_settings(self, patience=1)
        object.__setattr__(self, "seed", plain_seed(self.seed))
        check_choice("decay", self.decay, Decay)
        check_choice("optimizer", self.optimizer, Optimizer)
        check_choice("average", self.average, Average)
        check_choice("start", self.start, Literal[Start, "auto"])
        if self.decay == "linear" and self.decay_from >= self.updates:
            raise ValueError(
                f"expected decay_from < updates={self.updates}, where the rate is zero; got "
                f"{self.decay_from}"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"expected a weight_decay >= 0; got {self.weight_decay}")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"expected clip > 0, or None; got {self.clip}")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"expected 0 <= average_decay < 1; got {self.average_decay}")
        if self.average != "none" and self.average_from >= self.updates:
            raise ValueError(
                f"expected average_from < updates={self.updates}, or there is nothing to average; "
                f"got {self.average_from}"
            )
        if self.fused_update:
            self._check_fused()
        if not 0 < self.lr < 1e30:  # beyond, float32 overflows inside the optimiser
            raise ValueError(f"expected a learning rate > 0 and < 1e30; got {self.lr}")

    def _check_fused(self) -> None:
        """A ValueError for settings that need the gradient of all weights at once."""
        wanted = {
            "optimizer": "sgd",
            "clip": None,
            "average": "none",
            "centred": False,
            "exact_sums": False,
        }
        for name, value in wanted.items():
            if getattr(self, name) != value:
                raise ValueError(
                    f"fused_update=True applies each gradient as it is made: expected {name}="
                    f"{value!r} beside it; got {getattr(self, name)!r}"
                )

    @staticmethod
    def of(values: Mapping[str, Any]) -> Settings:
        """Settings from their names and values.

        Raises:
            ValueError: a name that is none, with the nearest one; a value out of range.
        """
        known = [field.name for field in fields(Settings)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1, 0.5)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"unknown setting {name!r}: {hint}expected {', '.join(known)}")
        return Settings(**values)

    def resolved(self, sampler: Sampler) -> Settings:
        """These settings with `start` chosen for the sampler where it is "auto"."""
        if self.start != "auto":
            return self
        return replace(self, start="persistent" if sampler.warm_start else "fresh")

    def rate(self, update: int) -> float | int:
        """The learning rate of an update, counted from 0."""
        if self.decay == "none" or update <= self.decay_from:
            return self.lr
        return self.lr * (1 - (update - self.decay_from) / (self.updates - self.decay_from))

    def rates(self, until: int) -> tuple[float | int, ...]:
        """The settings that the learning rates of the first `until` updates depend on."""
        if self.decay == "none" or until <= self.decay_from + 1:
            return (self.lr,)
        return self.lr, self.decay_from, self.updates

    def remedy(self, name: str, former: Settings, update: int) -> str:
        """What to do where a setting differs from that of the run to be continued.

        Empty where the run may simply go on: settings that no number depends on, more updates where
        the rates so far stay as they were, or a decay that begins anew at `update`.

        Args:
            name: name of the setting.
            former: settings of the run to be continued.
            update: number of updates it made.
        """
        if name in ("evaluate_every", "checkpoint_every", "patience"):
            return ""
        if name in ("average", "average_from", "average_decay"):
            return self._remedy_of_average(update)
        if name not in ("updates", "decay", "decay_from"):
            return "use the same value, or another output folder"
        if self.updates < update:
            return f"use the same value: {update} updates are made already"
        begins_anew = self.decay == "linear" and self.decay_from == update
        if begins_anew or self.rates(update) == former.rates(update):
            return ""
        return (
            "use the same value: with decay='linear' the learning rate of every update depends "
            f"on it; to go on from update {update} with a rate that falls to zero anew, "
            f"set decay_from={update} (--decay-from {update})"
        )

    def _remedy_of_average(self, update: int) -> str:
        """As `remedy`: averages may differ where the present one has not begun."""
        if self.average == "none" or self.average_from >= update:
            return ""
        return (
            f"use the same value, or average_from={update} (--average-from {update}) to begin an "
            "average anew"
        )
