"""The rows of each update: shuffled from a tensor, or as a loader brings them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from qsample.data.batches import shuffled
from qsample.learning.files import digest
from qsample.learning.settings import Settings
from qsample.sampling.random import mix

if TYPE_CHECKING:
    from qsample.models import EnergyModel

_NONE = object()  # instead of a batch, at the end of a pass


class Batches(Protocol):
    """Where the rows of an update come from.

    Attributes:
        known: rows that are there from the start `[N, n_visible]`: all of them, or a first batch.
        name: what tells these data from others, as far as that can be told beforehand.
        ordered: whether the rows of an update are a function of its number and the seed for sure.
    """

    known: Tensor
    name: str
    ordered: bool

    def of_update(self, update: int) -> Tensor:
        """The rows `[batch, n_visible]` of an update; numbers may be left out, but only rise."""
        ...


def batches_of(model: EnergyModel, data: Any, settings: Settings) -> Batches:
    """The source of rows that `data` is; see `fit`.

    Args:
        model: model that takes the rows.
        data: rows, or a loader of them.
        settings: settings of the run, for its batch and its seed.

    Raises:
        ValueError: rows that are not the model's, or no batch at all.
        TypeError: what is neither a tensor nor a loader of tensors.
    """
    if isinstance(data, IterableDataset):
        return Loaded(model, DataLoader(data, settings.batch), settings)
    if isinstance(data, Dataset):
        return Loaded(model, DataLoader(data, settings.batch, shuffle=True), settings)
    if _is_loader(data):
        return Loaded(model, data, settings)
    return Shuffled(model.check_rows(data).to(model.device), settings)


def _is_loader(data: Any) -> bool:
    """Whether it is iterated over for batches: what NumPy reads, and lists of numbers, are not."""
    if isinstance(data, list | tuple):
        return len(data) > 0 and isinstance(_first(data[0]), Tensor)
    if isinstance(data, str | bytes | Mapping):
        return False
    return isinstance(data, Iterable) and not hasattr(data, "__array__")


def _first(batch: Any) -> Any:
    """The rows of a batch: itself, or the first entry of a tuple such as (rows, label)."""
    return batch[0] if isinstance(batch, list | tuple) and len(batch) > 0 else batch


class Shuffled:
    """A tensor, as an endless stream of shuffled epochs: that of epoch e is one of (seed, e).

    Args:
        rows: checked rows `[N, n_visible]`.
        settings: settings of the run, for its batch and its seed.
    """

    ordered = True

    def __init__(self, rows: Tensor, settings: Settings) -> None:
        self.known = rows
        self.name = digest(rows)
        self.batch = settings.batch
        self.seed = settings.seed

    def of_update(self, update: int) -> Tensor:
        """See `Batches`."""
        index = shuffled(len(self.known), self.batch, self.seed, update)
        return self.known[index.to(self.known.device)]


class Loaded:
    """The batches of a loader, one per update; where it runs dry, it is begun again.

    torch's default generator is lent to each pass over the loader, seeded by (seed, pass), and has
    its own state again outside: what shuffles or binarises by it does so reproducibly, in the
    worker processes of a `DataLoader` too. Other sources of randomness are the loader's own affair.
    An update that lies ahead is reached by reading the batches before it.

    Args:
        model: the model that takes the rows.
        loader: an iterable of batches `[batch, n_visible]`, or of tuples that begin with one.
        settings: settings of the run, for its seed.

    Raises:
        ValueError: no batch at all, or rows that are not the model's.
        TypeError: batches that are no tensors.
    """

    ordered = False

    def __init__(self, model: EnergyModel, loader: Iterable[Any], settings: Settings) -> None:
        self.model = model
        self.loader = loader
        self.settings = settings
        self.name = f"batches of a {type(loader).__name__}"
        self.passes = 0
        self.drawn = 0
        self._random: Tensor | None = None  # the lent generator's state, in a pass
        self._pass: Iterator[Any] = iter(())
        self._last = self._next()
        self.known = self._last.clone()  # a loader may fill the same tensor anew

    def of_update(self, update: int) -> Tensor:
        """See `Batches`.

        Raises:
            ValueError: the loader ran dry and cannot be begun again; rows that are not the model's.
        """
        while self.drawn <= update:
            self._last = self._next()
        return self._last

    def _next(self) -> Tensor:
        """The next batch, checked and on the model's device."""
        batch = self._read()
        if batch is _NONE:
            self._begin_pass()
            batch = self._read()
        if batch is _NONE:
            raise ValueError(self._dry())
        return self._checked(batch)

    def _read(self) -> Any:
        """The next batch of this pass, or `_NONE`."""
        with self._lent():
            return next(self._pass, _NONE)

    def _begin_pass(self) -> None:
        generator = torch.Generator().manual_seed(mix(self.settings.seed, -1 - self.passes))
        self._random = generator.get_state()
        with self._lent():
            self._pass = iter(self.loader)
        self.passes += 1

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """Inside, torch's default generator is that of the pass."""
        before = torch.get_rng_state()
        if self._random is not None:
            torch.set_rng_state(self._random)
        try:
            yield
        finally:
            self._random = torch.get_rng_state()
            torch.set_rng_state(before)

    def _checked(self, batch: Any) -> Tensor:
        rows = _first(batch)
        if not isinstance(rows, Tensor):
            raise TypeError(
                f"expected batches of rows [N, {self.model.num_visible}] as tensors, or tuples "
                f"that begin with them; got {type(rows).__name__} as batch {self.drawn}"
            )
        try:
            rows = self.model.check_rows(rows.to(self.model.device), f"batch {self.drawn}")
        except ValueError as error:
            hint = "; x.flatten(1) makes rows of images" if rows.dim() > 2 else ""
            raise ValueError(f"{error}{hint}") from None
        self.drawn += 1
        return rows

    def _dry(self) -> str:
        kind = type(self.loader).__name__
        if self.drawn == 0:
            return f"expected data with at least one batch; got a {kind} that holds none"
        return (
            f"the data ran dry: {self.drawn} batches came of a {kind}, which cannot be begun "
            f"again, and updates={self.settings.updates} need one each: pass what can be iterated "
            f"over anew, such as a DataLoader, or set updates={self.drawn}"
        )
