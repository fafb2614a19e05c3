"""Training on the exact gradient of an RBM with few hidden units, in the steps that `fit` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import qsample as qs
from qsample.data.batches import shuffled
from qsample.learning.steps import Steps
from qsample.models import BernoulliRBM, EnergyModel

Judge = Callable[[EnergyModel, Tensor], dict[str, float]]


class Moments(NamedTuple):
    """Means under the model, the gradient of log Z by W, b and c: <v h^T>, <v> and <h>."""

    W: Tensor
    b: Tensor
    c: Tensor


@torch.no_grad()
def moments(model: BernoulliRBM) -> Moments:
    r"""Means under the model by a sum over all states of its hidden units.

    A state is one of the left half of the units and one of the right half, so that its factors $1 +
    e^{b_i + (W h)_i}$, one for each visible unit, are one plus a product of two small tables.

    Args:
        model: the model, of some 20 hidden units at most.
    """
    W, b, c = (weight.detach() for weight in (model.W, model.b, model.c))
    half = model.num_hidden // 2
    left = states(half)
    right = states(model.num_hidden - half)
    factors = torch.mul((left @ W[:, :half].T).exp()[:, None], (right @ W[:, half:].T + b).exp())
    factors += 1  # [L, R, v]
    log_weight = factors.log().sum(-1) + (left @ c[:half])[:, None] + right @ c[half:]
    p = log_weight.flatten().softmax(0).view_as(log_weight)
    off = factors.reciprocal_()  # probability of a 0 of each visible unit
    p_left = p.sum(1)
    p_right = p.sum(0)
    # joint means of each visible unit with the states of a half
    on_left = p_left[:, None] - torch.einsum("lr,lrv->lv", p, off)
    on_right = p_right[:, None] - torch.einsum("lr,lrv->rv", p, off)
    return Moments(
        torch.cat([on_left.T @ left, on_right.T @ right], 1),
        on_left.sum(0),
        torch.cat([p_left @ left, p_right @ right]),
    )


def states(units: int) -> Tensor:
    """All states of units of 0 and 1, `[2^units, units]`."""
    numbers = torch.arange(2**units)[:, None]
    return (numbers >> torch.arange(units) & 1).float()


def fit_exactly(
    model: BernoulliRBM, rows: Tensor, settings: qs.Settings, held_out: Tensor, evaluate: Judge
) -> list[dict[str, float]]:
    """Train in place as `qs.fit` does, on the same batches; returns the metrics.

    Args:
        model: the model, at its start.
        rows: rows to train on.
        settings: how to train; what is about chains has no meaning.
        held_out: rows to evaluate.
        evaluate: metrics of a model and rows.
    """
    steps = Steps(model, settings)
    history: list[dict[str, float]] = []
    for update in range(settings.updates):
        steps.begin(update)
        batch = rows[shuffled(len(rows), settings.batch, settings.seed, update)]
        negative = moments(model)
        loss = model.free_energy(batch).mean()
        for weight, mean in zip((model.W, model.b, model.c), negative, strict=True):
            loss = loss + (weight * mean).sum()
        loss.backward()
        number = update + 1
        steps.take(number)
        if number % settings.evaluate_every == 0 or number == settings.updates:
            history.append({"update": number, **evaluate(steps.averaged, held_out)})
    return history
