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

AT_ONCE = 16
"""states of the left half at a time, so that their tables stay in the cache"""
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
    right_factor = (right @ W[:, half:].T + b).exp()  # [R, v]
    right_weight = right @ c[half:]
    logs: list[Tensor] = []
    parts: list[tuple[Tensor, ...]] = []
    for some in left.split(AT_ONCE):
        factors = (some @ W[:, :half].T).exp()[:, None] * right_factor + 1  # [L, R, v]
        log_weight = factors.log().sum(-1) + (some @ c[:half])[:, None] + right_weight
        logs.append(log_weight.logsumexp((0, 1)))
        p = (log_weight - logs[-1]).exp()  # of the states of this part
        on = p[..., None] - p[..., None] * factors.reciprocal_()  # of a visible unit too
        parts.append((p.sum(1), p.sum(0), on.sum(1), on.sum(0)))
    share = torch.stack(logs).softmax(0)
    p_left, p_right, on_left, on_right = (torch.stack(part) for part in zip(*parts, strict=True))
    p_left = (share[:, None] * p_left).flatten()
    on_left = (share[:, None, None] * on_left).flatten(0, 1)
    p_right = share @ p_right
    on_right = torch.einsum("k,krv->rv", share, on_right)
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
