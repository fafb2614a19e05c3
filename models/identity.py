"""Weights travel with what they are for: text in their `state_dict`, compared before loading."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Identified(nn.Module):
    """A module whose weights cannot be loaded into another: its identity is part of its state.

    A model says what its weights are for in `_identity`, such as the hash of its graph.
    """

    #: entries of the identity in which the weights' own may differ
    _may_differ: ClassVar[frozenset[str]] = frozenset()

    def _identity(self) -> dict[str, Any]:
        """What the weights are for, as JSON can hold it."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """The identity, as bytes in a tensor."""
        return tensor_of(json.dumps(self._identity()))

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: `_load_from_state_dict` has compared it."""

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        name = prefix + "_extra_state"
        if name in state_dict:  # before any tensor is copied
            self._refuse_others(record_of(state_dict[name]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refuse_others(self, theirs: dict[str, Any]) -> None:
        """A ValueError that names the first difference, for the weights of another model."""
        ours: dict[str, Any] = json.loads(json.dumps(self._identity()))
        for key, value in ours.items():
            if key not in self._may_differ and theirs.get(key) != value:
                raise ValueError(
                    f"weights of another model: its {key} is {theirs.get(key)}, this one's {value}"
                )


def short_hash(value: object) -> str:
    """16 hexadecimal digits that stand for a value, by its `repr`."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def tensor_of(text: str) -> Tensor:
    """The bytes of a text, uint8 `[bytes]`: a tensor is what every way of saving weights keeps."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def text_of(state: Any) -> str:
    """The text again, also where the whole `state_dict` was cast to floats.

    Raises:
        ValueError: numbers that are no longer the bytes of a text, as an average of weights makes
            of them.
    """
    damaged = (
        "the weights' '_extra_state' is damaged: copy it unchanged, or leave it out, where weights "
        "are averaged"
    )
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
    """The text as a record.

    The weights of an Ising copula held the bare hash of its graph once: that is a record of it.

    Raises:
        ValueError: text that is no record.
    """
    text = text_of(state)
    if re.fullmatch("[0-9a-f]{64}", text):
        return {"graph": text[:16]}
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            "the weights' '_extra_state' is damaged: it holds no record of what they are for"
        )
    return record
