"""Early stopping: the weights that the validation rows liked best, and when to wait no longer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qsample.learning.folder import Metrics

if TYPE_CHECKING:
    from qsample.models import EnergyModel

# metrics that say how good a model is, higher is better; the first one that is there counts
SCORES = ("score", "log_likelihood_low", "log_likelihood", "pseudo_log_likelihood")


def check_score(metrics: Metrics, whose: str) -> None:
    """A ValueError for metrics without a score; `whose` says what needs one."""
    if not any(name in metrics for name in SCORES):
        raise ValueError(
            f"{whose} needs a score, one of {', '.join(SCORES)}; the evaluation gave "
            f"{', '.join(metrics) or 'none'}: pass evaluate= a function that returns one"
        )


def score_of(metrics: Metrics) -> tuple[str, float]:
    """The name and the number by which models are compared, of metrics that have one."""
    name = next(name for name in SCORES if name in metrics)
    return name, metrics[name]


class Best:
    """The best weights so far.

    Args:
        patience: evaluations in a row without a better score, after which it is over.

    Attributes:
        update: number of updates of these weights; None before the first evaluation.
        weights: their copy, as `state_dict` gives it.
        waited: evaluations since.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.update: int | None = None
        self.weights: dict[str, Tensor] = {}
        self.waited = 0
        self._name = ""
        self._score = -math.inf

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return self.waited >= self.patience

    def look(self, model: EnergyModel, metrics: Metrics) -> None:
        """Keep the model's weights where its metrics are the best so far."""
        name, score = score_of(metrics)
        if self.update is None or name != self._name or score > self._score:
            self._name = name
            self._score = -math.inf if math.isnan(score) else score
            self.update = int(metrics["update"])
            self.weights = {key: t.detach().clone() for key, t in model.state_dict().items()}
            self.waited = 0
        else:
            self.waited += 1

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "update": self.update,
            "name": self._name,
            "score": self._score,
            "waited": self.waited,
            "weights": self.weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.update = state["update"]
        self._name = state["name"]
        self._score = state["score"]
        self.waited = state["waited"]
        self.weights = dict(state["weights"])
