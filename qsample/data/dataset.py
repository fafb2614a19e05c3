"""Rows of binary data, and how they are dealt out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qsample.models.energy import Coding
from qsample.support.checks import is_whole, plain_seed
from qsample.support.faces import public


@public("qsample.data")
@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of binary data.

    Attributes:
        x: `[N, d]` float32 in {0,1} or, with `coding="spins"`, -1/+1.
        image_shape: (rows, columns) of one sample where it is an image.
        name: the name or path it was loaded by.
        labels: `[N]` int64 class numbers, where the source has them.
        note: what of the source is not in `x`, in words.
        grey: `[N, d]` float32, the chance of each bit to be 1, where each epoch draws anew
            (`binarise="sample"`; `x` is one such draw, to be judged by); None where `x` is all.
        binarised: how bits were made of grey values, in words; empty where the source has bits.
        own_test: number of last rows that the source itself keeps for tests, as MNIST does.
        coding: what the values of `x` are: "bits" or "spins".
    """

    x: Tensor
    image_shape: tuple[int, int] | None
    name: str
    labels: Tensor | None = None
    note: str = ""
    grey: Tensor | None = None
    binarised: str = ""
    own_test: int = 0
    coding: Coding = "bits"

    def __len__(self) -> int:
        return len(self.x)

    def split(
        self, test: int, validation: int = 0, seed: int = 0
    ) -> tuple[Dataset, Dataset, Dataset]:
        """(train, validation, test): consecutive parts, in this order, of the shuffled rows.

        The order is `torch.randperm(N, generator=torch.Generator().manual_seed(seed))`. Where the
        source keeps test rows of its own, those are the test rows, the first `test` of them as they
        stand, and none of them is trained on; the other rows are shuffled.

        Args:
            test: number of test rows.
            validation: number of validation rows.
            seed: seed of the order, 64 bits.

        Raises:
            ValueError: a negative size, more test rows than the source's own, or nothing left to
                train on.
            TypeError: a size that is no whole number, such as a share of the rows.
        """
        for name, rows in (("test", test), ("validation", validation)):
            if not is_whole(rows):
                raise TypeError(
                    f"expected {name} to be a number of rows, of {len(self)}; got {rows!r}"
                )
        total = len(self) - self.own_test
        train = total - validation - (0 if self.own_test else test)
        if min(test, validation) < 0 or train <= 0:
            rows = f"the {total} rows of {self.name}"
            raise ValueError(
                f"expected test, validation >= 0, below {rows} together; got {test} and "
                f"{validation}"
            )
        if self.own_test and test > self.own_test:
            raise ValueError(
                f"expected test <= {self.own_test}, the test rows that {self.name} keeps itself; "
                f"got {test}"
            )
        generator = torch.Generator().manual_seed(plain_seed(seed))
        order = torch.randperm(total, generator=generator)
        if self.own_test:
            order = torch.cat([order, torch.arange(total, total + test)])
        places = order.split([train, validation, test])
        return self._rows(places[0]), self._rows(places[1]), self._rows(places[2])

    def _rows(self, places: Tensor) -> Dataset:
        """The rows at these places."""
        labels = None if self.labels is None else self.labels[places]
        grey = None if self.grey is None else self.grey[places]
        return replace(self, x=self.x[places], labels=labels, grey=grey, own_test=0)
