"""What a run measures of itself: the likelihood, independent reads per update, and doubts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from qsample.evaluation.likelihood import log_likelihood, pseudo_log_likelihood
from qsample.learning import by_products
from qsample.learning.settings import Settings
from qsample.problem.enumeration import num_enumerated
from qsample.sampling.mixing import chain_ess
from qsample.sampling.samples import ReliabilityWarning
from qsample.support.checks import check_choice

if TYPE_CHECKING:
    from qsample.models import EnergyModel

WINDOW = 64  # updates over which the chains' autocorrelation is measured
STICKY = 16  # updates of autocorrelation from which on the chains are said not to move
LISTED = 20  # log2 of the largest number of states that are listed at each evaluation
NUMBERS = 1 << 27  # and of their spins
PSEUDO_ROWS = 256  # validation rows that the pseudo-likelihood is taken of
TAKEN = ("update", "loss", "beta", "beta_stderr", "ess", "seconds")  # metrics of the run itself


Evaluation = Literal["auto", "exact", "pseudo", "bracket"]
Evaluates = Callable[["EnergyModel", Tensor], Mapping[str, Any]]


def _auto(model: EnergyModel, rows: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Exact log-likelihood of rows where that is quick, else their pseudo-likelihood, if any."""
    if by_products.is_large(model):
        return {}  # each of them is out of reach
    listed = num_enumerated(model.ising())
    hidden_listed = model.tractable or model.num_hidden <= 8
    quick = listed <= LISTED and (model.graph.num_spins << listed) <= NUMBERS
    if quick and hidden_listed:
        return _exact(model, rows, generator)
    return _pseudo(model, rows, generator) if model.tractable else {}


def _exact(model: EnergyModel, rows: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Exact log-likelihood of rows, however long that takes."""
    return {"log_likelihood": log_likelihood(model, rows, "exact").value}


def _pseudo(model: EnergyModel, rows: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Pseudo-likelihood of the first rows."""
    return {"pseudo_log_likelihood": pseudo_log_likelihood(model, rows[:PSEUDO_ROWS])}


def _both_ends(model: EnergyModel, rows: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Both ends of the log-likelihood of rows: a quick bracket, of some thousand sweeps."""
    found = log_likelihood(
        model, rows, "bracket", steps=4000, chains=128, width=0.5, generator=generator
    )
    return {"log_likelihood_low": found.low, "log_likelihood_high": found.high}


# by name: what `fit` may be asked to evaluate; the generator is that of the update
EVALUATIONS: dict[str, Callable[[EnergyModel, Tensor, torch.Generator], dict[str, Any]]] = {
    "auto": _auto,
    "exact": _exact,
    "pseudo": _pseudo,
    "bracket": _both_ends,
}


def check_evaluation(evaluate: Evaluation | Evaluates) -> None:
    """An error for what names no evaluation, and is none."""
    if not callable(evaluate):
        check_choice("evaluate", evaluate, Evaluation)


def evaluated(
    evaluate: Evaluation | Evaluates, model: EnergyModel, rows: Tensor, generator: torch.Generator
) -> dict[str, float | int]:
    """Metrics of a model on validation rows.

    Args:
        evaluate: a name of `EVALUATIONS`, or a function of model and rows.
        model: the model, whose weights the function must leave as they are.
        rows: validation rows `[M, n_visible]`.
        generator: randomness of an evaluation that draws.

    Raises:
        TypeError: the function returned no numbers by names.
        ValueError: it returned a metric of a name that is taken.
    """
    if not callable(evaluate):
        return EVALUATIONS[evaluate](model, rows, generator)
    with torch.no_grad():
        metrics = evaluate(model, rows)
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"expected evaluate to return a dict of numbers; got {type(metrics).__name__}"
        )
    plain: dict[str, float | int] = {}
    for name, value in metrics.items():
        if name in TAKEN:
            raise ValueError(f"evaluate returned {name!r}, which names another metric of the run")
        try:
            plain[str(name)] = value if type(value) is int else float(value)
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise TypeError(
                f"expected evaluate to return numbers; got {kind} as {name!r}"
            ) from None
    return plain


def independent_reads(energies: list[Tensor], settings: Settings) -> float:
    """Independent reads per update: all of them for fresh starts, R / tau for chains.

    Args:
        energies: energies `[R]` of the reads of the last updates, at most WINDOW of them.
        settings: settings of the run, its start resolved.
    """
    chains = settings.start == "persistent" and settings.chains >= 2
    if not chains or len(energies) < 4:
        return float(len(energies[-1]))
    return chain_ess(torch.stack(energies))


def doubt_about_chains(ess: float, settings: Settings, update: int) -> str:
    """A sentence where the chains hardly move; empty where they do, or there are none.

    Args:
        ess: independent reads per update.
        settings: settings of the run, its start resolved.
        update: number of updates made.
    """
    if settings.start != "persistent" or ess * STICKY > settings.chains:
        return ""
    return (
        f"chains hardly move: {ess:.3g} of {settings.chains} reads per update are independent "
        f"(update {update}); more sweeps, a lower learning rate or ParallelTempering may help"
    )


class Doubts:
    """Warnings about a run's own results, each kind of them once.

    Two warnings that differ in numbers only are of one kind.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, text: str) -> None:
        """Warn, unless such a warning was given before."""
        kind = re.sub(r"[-+]?[\d.]+(e[-+]?\d+)?", "#", text)
        if text and kind not in self._said:
            self._said.add(kind)
            warnings.warn(text, ReliabilityWarning, stacklevel=2)

    @contextmanager
    def of_estimators(self) -> Iterator[None]:
        """Inside, estimators' doubts about their results are said once; other warnings pass."""
        caught: list[warnings.WarningMessage] = []
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", ReliabilityWarning)
                yield
        finally:
            for warning in caught:
                if issubclass(warning.category, ReliabilityWarning):
                    self.say(str(warning.message))
                else:
                    warnings.warn_explicit(
                        warning.message, warning.category, warning.filename, warning.lineno
                    )
