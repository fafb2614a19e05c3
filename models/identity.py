"""What weights are for, as text that travels with them in their `state_dict`."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def tensor_of(text: str) -> Tensor:
    """The bytes of a text, uint8 `[bytes]`: a tensor is what every way of saving weights keeps."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def text_of(state: Any) -> str:
    """The text again, also where the whole `state_dict` was cast to floats.

    Raises:
        ValueError: numbers that are no longer the bytes of a text, as an average of weights makes
            of them.
    """
    damaged = "the weights' '_extra_state' is damaged: copy it unchanged, or leave it out, where weights are averaged"
    if not isinstance(state, Tensor) or state.is_meta or state.is_complex():
        raise ValueError(damaged)
    values = state.detach().cpu().double()
    if not bool(((values == values.round()) & (values >= 0) & (values < 256)).all()):
        raise ValueError(damaged)
    try:
        return bytes(values.to(torch.uint8).numpy()).decode()
    except UnicodeDecodeError:
        raise ValueError(damaged) from None


def record_of(state: Any) -> dict[str, Any]:
    """The text as JSON; ValueError for another."""
    try:
        record = json.loads(text_of(state))
    except (json.JSONDecodeError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            "the weights' '_extra_state' is damaged: it holds no record of what they are for"
        )
    return record
