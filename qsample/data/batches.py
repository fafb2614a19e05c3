"""An endless stream of batches, grey images drawn anew in each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch import Tensor

from qsample.data.binarise import drawn
from qsample.data.dataset import Dataset
from qsample.sampling.random import mix
from qsample.support.checks import plain_seed, whole
from qsample.support.faces import public

DRAWS = 1 << 62  # parts the seeds of draws from those of the orders


@public("qsample.data")
class Batches:
    """An endless stream of batches of a data set, in shuffled epochs, as `fit` deals tensors.

    Batch k holds places k * batch to (k + 1) * batch of the epochs one behind the other; the order
    of epoch e is a function of (seed, e), the draw of grey levels one of (seed, k): each row is
    drawn anew whenever it comes. Each iteration begins at batch 0, and `of_update` is any batch, so
    that a run that is taken up sees what one that never stopped saw.

    Args:
        dataset: rows; where it has grey levels (`binarise="sample"`), batches are draws of them.
        batch: number of rows per batch.
        seed: seed of the orders and of the draws, 64 bits.

    Raises:
        ValueError: a batch below 1, or a seed of more than 64 bits.
    """

    def __init__(self, dataset: Dataset, batch: int, seed: int = 0) -> None:
        self.dataset = dataset
        self.batch = whole("batch", batch, 1)
        self.seed = plain_seed(seed)

    def __iter__(self) -> Iterator[Tensor]:
        """Batches `[batch, d]`, without end."""
        return map(self.of_update, count())

    def of_update(self, update: int) -> Tensor:
        """The batch of an update, counted from 0: `[batch, d]` in the data set's coding."""
        places = shuffled(len(self.dataset), self.batch, self.seed, update)
        grey = self.dataset.grey
        if grey is None:
            return self.dataset.x[places.to(self.dataset.x.device)]
        generator = torch.Generator().manual_seed(mix(mix(self.seed, DRAWS), update))
        bits = drawn(grey[places.to(grey.device)], generator).to(self.dataset.x)
        return bits if self.dataset.coding == "bits" else 2 * bits - 1


def shuffled(rows: int, batch: int, seed: int, update: int) -> Tensor:
    """Numbers of the rows of an update's batch, `[batch]`, in an endless stream of epochs.

    The order of epoch e is a function of (seed, e).

    Args:
        rows: number of rows of an epoch.
        batch: number of rows of a batch.
        seed: seed of the orders, 64 bits.
        update: number of the update, from 0.
    """
    first = update * batch
    place = torch.arange(first, first + batch)
    index = torch.empty_like(place)
    for epoch in range(int(place[0]) // rows, int(place[-1]) // rows + 1):
        generator = torch.Generator().manual_seed(mix(seed, -1 - epoch))
        order = torch.randperm(rows, generator=generator)
        inside = place // rows == epoch
        index[inside] = order[place[inside] % rows]
    return index
