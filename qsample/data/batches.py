"""An endless stream of batches, grey images drawn anew in each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from qsample.data.binarise import drawn
from qsample.data.dataset import Dataset
from qsample.sampling.random import mix
from qsample.support.checks import plain_seed, whole
from qsample.support.faces import public

DRAWS = 1 << 62  # parts the seeds of draws from those of the orders


@public("qsample.data")
class Batches(IterableDataset[Tensor]):
    """An endless stream of batches of a data set, in shuffled epochs, as `fit` deals tensors.

    Batch k holds places k * batch to (k + 1) * batch of the epochs one behind the other; the order
    of epoch e is a function of (seed, e), the draw of grey levels one of (seed, k): each row is
    drawn anew whenever it comes. A stream that is taken up at batch k equals one that never
    stopped. It may stand in a `DataLoader(batches, batch_size=None)`, with any number of workers.

    Args:
        dataset: rows; where it has grey levels (`binarise="sample"`), batches are draws of them.
        batch: number of rows per batch.
        seed: seed of the orders and of the draws, 64 bits.
    """

    def __init__(self, dataset: Dataset, batch: int, seed: int = 0) -> None:
        self.dataset = dataset
        self.batch = whole("batch", batch, 1)
        self.seed = plain_seed(seed)
        self.position = 0  # of the next batch

    def __iter__(self) -> Iterator[Tensor]:
        """Batches `[batch, d]` from `position` on, without end."""
        worker = get_worker_info()
        if worker is None:
            while True:
                self.position += 1
                yield self.rows(self.position - 1)
        # a loader takes from its workers in turn: worker w makes every W-th batch
        k = self.position + worker.id
        while True:
            yield self.rows(k)
            k += worker.num_workers

    def rows(self, k: int) -> Tensor:
        """Batch k, `[batch, d]` in the data set's coding."""
        places = self.places(k)
        grey = self.dataset.grey
        if grey is None:
            return self.dataset.x[places.to(self.dataset.x.device)]
        generator = torch.Generator().manual_seed(mix(mix(self.seed, DRAWS), k))
        bits = drawn(grey[places.to(grey.device)], generator).to(self.dataset.x)
        return bits if self.dataset.coding == "bits" else 2 * bits - 1

    def places(self, k: int) -> Tensor:
        """Numbers of the rows of batch k, `[batch]`."""
        N = len(self.dataset)
        first = k * self.batch
        place = torch.arange(first, first + self.batch)
        index = torch.empty_like(place)
        for epoch in range(int(place[0]) // N, int(place[-1]) // N + 1):
            generator = torch.Generator().manual_seed(mix(self.seed, -1 - epoch))
            shuffle = torch.randperm(N, generator=generator)
            inside = place // N == epoch
            index[inside] = shuffle[place[inside] % N]
        return index

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands: the number of the next batch, for `load_state_dict`."""
        return {"position": self.position, "batch": self.batch, "seed": self.seed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: the state of a stream of another batch size or seed.
        """
        for name in ("batch", "seed"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"a stream of {name}={state[name]!r} goes on with the same, not with "
                    f"{getattr(self, name)!r}"
                )
        self.position = whole("position", state["position"], 0)
