"""Data as visible spins: the bits of x, then class labels in a one-hot code, repeated so that many spins feel it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from qsample.support.faces import public


@public("qsample.models")
@dataclass(frozen=True)
class VisibleBits:
    """`bits` spins of data and `copies` copies of a one-hot code of labels 0..classes-1.

    Raises:
        ValueError: bits < 1, classes < 0, or copies < 1.
    """

    bits: int
    classes: int = 0
    copies: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (
            ("bits", self.bits, 1),
            ("classes", self.classes, 0),
            ("copies", self.copies, 1),
        ):
            if value < least:
                raise ValueError(f"expected {name} >= {least}; got {value}")

    @property
    def label_bits(self) -> int:
        """Spins of a label."""
        return self.classes * self.copies

    @property
    def num(self) -> int:
        """Spins of both."""
        return self.bits + self.label_bits

    def encode(self, x: Shaped[Tensor, "N _"], labels: Tensor | None = None) -> Int[Tensor, "N v"]:
        """Rows of data (spins -1 and +1) and their labels as visible spins, int8."""
        if x.dim() != 2 or x.shape[1] != self.bits:
            raise ValueError(f"expected x of shape [N, {self.bits}]; got {list(x.shape)}")
        if not (x.abs() == 1).all():
            odd = float(x[x.abs() != 1][0])
            raise ValueError(
                f"expected x of -1 and +1; got {odd:g}: 2 * bits - 1 makes spins of bits"
            )
        if labels is None and self.classes:
            raise ValueError(
                f"the model has {self.classes} classes: pass labels, one for each row of x"
            )
        if labels is None:
            return x.to(torch.int8)
        if labels.shape != x.shape[:1]:
            raise ValueError(f"expected one label a row of x, [{len(x)}]; got {list(labels.shape)}")
        if labels.device != x.device:
            raise ValueError(f"labels are on {labels.device}, x on {x.device}: move one")
        return torch.cat([x.to(torch.int8), self.encode_labels(labels)], 1)

    def decode(self, visible: Int[Tensor, "*batch v"]) -> tuple[Tensor, Tensor | None]:
        """`(x, labels)`: labels by the votes of the copies, the first of equals; None without classes."""
        x, votes = visible.split([self.bits, self.label_bits], -1)
        return x, votes.unflatten(-1, (self.copies, self.classes)).sum(-2).argmax(
            -1
        ) if self.classes else None

    def encode_labels(self, labels: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch l"]:
        """Spins int8: +1 at the label's place in every copy."""
        if not self.classes:
            raise ValueError(
                "the model has no classes, so it takes no labels: make it with classes="
            )
        bad = (labels < 0) | (labels >= self.classes)
        if bad.any():
            raise ValueError(f"expected labels 0..{self.classes - 1}; got {int(labels[bad][0])}")
        spins = torch.nn.functional.one_hot(labels.long(), self.classes) * 2 - 1
        return spins.to(torch.int8).repeat(*[1] * labels.dim(), self.copies)
