"""Data as visible spins: the bits of x, then class labels in a repeated one-hot code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from qsample.support.checks import check_spins, whole_settings
from qsample.support.faces import public


@public("qsample.models")
@dataclass(frozen=True)
class VisibleBits:
    """Spins of data, then copies of a one-hot code of labels, so that many spins feel the label.

    Args:
        bits: spins of data.
        classes: number of labels, 0..classes-1; 0 for none.
        copies: copies of the code.

    Raises:
        ValueError: bits < 1, classes < 0, or copies < 1.
    """

    bits: int
    classes: int = 0
    copies: int = 1

    def __post_init__(self) -> None:
        whole_settings(self, bits=1, classes=0, copies=1)

    @property
    def label_bits(self) -> int:
        """Number of spins of a label."""
        return self.classes * self.copies

    @property
    def num(self) -> int:
        """Number of spins of both."""
        return self.bits + self.label_bits

    def encode(self, x: Shaped[Tensor, "N _"], labels: Tensor | None = None) -> Int[Tensor, "N v"]:
        """Rows of data (spins -1 and +1) and their labels as visible spins, int8."""
        if x.dim() != 2 or x.shape[1] != self.bits:
            raise ValueError(f"expected x of shape [N, {self.bits}]; got {list(x.shape)}")
        check_spins("x", x)
        if labels is None and self.classes:
            raise ValueError(
                f"the model has {self.classes} classes: pass labels, one for each row of x"
            )
        if labels is None:
            return x.to(torch.int8)
        if labels.shape != x.shape[:1]:
            raise ValueError(
                f"expected one label per row of x, [{len(x)}]; got {list(labels.shape)}"
            )
        if labels.device != x.device:
            raise ValueError(f"labels are on {labels.device}, x on {x.device}: move one")
        return torch.cat([x.to(torch.int8), self.encode_labels(labels)], 1)

    def decode(self, visible: Int[Tensor, "*batch v"]) -> tuple[Tensor, Tensor | None]:
        """`(x, labels)`: labels by the votes of the copies; None without classes.

        Of labels with equal votes the first is taken.
        """
        x, votes = visible.split([self.bits, self.label_bits], -1)
        if not self.classes:
            return x, None
        return x, votes.unflatten(-1, (self.copies, self.classes)).sum(-2).argmax(-1)

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
