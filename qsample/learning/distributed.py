"""Processes under `torch.distributed`: what each takes of the work, and what all of them know."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qsample.sampling.random import draw_seed, mix

PATIENCE = 60.0  # seconds that a rank waits for the others
START = 300.0  # seconds that it waits for them at the start: programs load, on busy machines


class RankLost(RuntimeError):
    """Another rank ended, or cannot be reached: this one cannot go on."""


class Ranks(NamedTuple):
    """Processes that exchange among each other.

    Args:
        rank: number of this one among them.
        size: how many they are.
        group: their group of torch.distributed; None is all processes.
    """

    rank: int
    size: int
    group: Any = None


ALONE = Ranks(0, 1)


# ---- who is there ----------------


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) where no process group was made."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def join(backend: str = "gloo", seconds: float = PATIENCE, start: float = START) -> tuple[int, int]:
    """Meet the processes that `torchrun` has started beside this one: its rank, and their number.

    Alone, without `torchrun`, that is (0, 1) and nothing is done.

    Args:
        backend: backend of torch.distributed, "gloo" on CPUs.
        seconds: time to wait for the others at each exchange.
        start: time to wait now, until all have come, in seconds.

    Raises:
        RankLost: not all ranks came.
    """
    if "WORLD_SIZE" not in os.environ or torch.distributed.is_initialized():
        return world()
    from torch.distributed.rendezvous import rendezvous

    size = int(os.environ["WORLD_SIZE"])
    rank = int(os.environ["RANK"])
    try:
        store = next(rendezvous("env://", timeout=timedelta(seconds=start)))[0]
        _wait_for_all(store, size, start)
        limit = timedelta(seconds=seconds)
        torch.distributed.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=limit
        )
    except (RuntimeError, ValueError) as error:
        raise RankLost(
            f"rank {rank} of {size} did not meet the others within {start:g} s: start all of "
            f"them in that time ({_first_line(error)})"
        ) from None
    return world()


def _wait_for_all(store: Any, size: int, seconds: float) -> None:
    """Wait until as many processes as there are to be have come to the store."""
    limit = time.monotonic() + seconds
    come = store.add("qsample/come", 1)
    while come < size:
        if time.monotonic() > limit:
            raise RuntimeError(f"{come} came")
        time.sleep(0.02)
        come = store.add("qsample/come", 0)


# ---- a stream for each rank, and means of all ----------------


def own_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """The generator of this rank's draws in one call: its own stream, from one seed on all ranks.

    With `num` replicas on each rank, replica r of rank k is number k num + r of all; its stream is
    a function of the seed and of (k, r), so one seed on all ranks makes no copies, and two runs on
    as many ranks are equal. A single process draws from `generator` itself.
    """
    rank, size = world()
    if size == 1:
        return generator
    return torch.Generator().manual_seed(mix(draw_seed(generator), rank))


def mean_of_ranks(t: Tensor) -> Tensor:
    """The mean of a tensor over ranks, each with the same share.

    DistributedDataParallel takes that of gradients in the same way.
    """
    _, size = world()
    if size == 1:
        return t
    total = t.clone()
    torch.distributed.all_reduce(total)
    return total / size


# ---- one run, spread over ranks ----------------


def everyone() -> Ranks:
    """All processes."""
    return Ranks(*world())


def share(total: int, what: str, ranks: Ranks | None = None) -> slice:
    """This rank's part of so many things that are numbered through all ranks.

    Args:
        total: number of things.
        what: their name, for the error.
        ranks: those that share them; None is all.

    Raises:
        ValueError: they do not divide.
    """
    rank, size, _ = ranks or everyone()
    if total % size:
        raise ValueError(
            f"{total} {what} do not divide over {size} ranks: use a multiple of {size}"
        )
    each = total // size
    return slice(rank * each, (rank + 1) * each)


def check_agree(
    values: Mapping[str, int], device: torch.device, ranks: Ranks | None = None
) -> None:
    """A ValueError on every rank unless all ranks have the same numbers, of 63 bits.

    Args:
        values: numbers by the name of what they stand for, the same names on all ranks.
        device: where the backend exchanges tensors.
        ranks: those that compare; None is all.
    """
    Agreement(values, device, ranks).check()


class Agreement:
    """Numbers that all ranks should have alike, on their way to be compared.

    Args:
        values: numbers of 63 bits by the name of what they stand for, the same names on all ranks.
        device: where the backend exchanges tensors.
        ranks: those that compare; None is all.
    """

    def __init__(
        self, values: Mapping[str, int], device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.names = [*values]
        self.ranks = ranks or everyone()
        numbers = torch.tensor([*values.values()], dtype=torch.int64, device=device)
        self._sent = Gathered(numbers[None], self.ranks)

    def check(self) -> None:
        """A ValueError on every rank unless they agree."""
        of_ranks = self._sent.wait().cpu()
        for k, name in enumerate(self.names):
            different = (of_ranks[:, k] != of_ranks[0, k]).nonzero()[:, 0].tolist()
            if different:
                raise ValueError(
                    f"rank {self.ranks.rank} of {self.ranks.size}: {name} of rank {different[0]} "
                    f"differ from those of rank 0 ({int(of_ranks[different[0], k])}, not "
                    f"{int(of_ranks[0, k])}): give every rank the same"
                )


class Gathered:
    """The tensors of all ranks, of one shape, on their way to lie one after the other.

    Args:
        t: this rank's tensor.
        ranks: those whose tensors are gathered, along the first dimension; None is all.
    """

    def __init__(self, t: Tensor, ranks: Ranks | None = None) -> None:
        _, size, group = ranks or everyone()
        self._work: Any = None
        self._t = t
        if size > 1:
            own = t.contiguous()
            self._t = t.new_empty(size * t.shape[0], *t.shape[1:])
            parts = [*self._t.view(size, *t.shape)]
            with _one_line():
                self._work = torch.distributed.all_gather(parts, own, group=group, async_op=True)

    def wait(self) -> Tensor:
        """All of them.

        Raises:
            RankLost: another rank has ended.
        """
        _finish(self._work)
        self._work = None
        return self._t


class Summed:
    """A tensor on its way to being its sum over ranks.

    Args:
        t: the tensor, contiguous; it is replaced.
        ranks: those whose tensors are added; None is all.
        largest: whether each number becomes the largest of all ranks' instead.
    """

    def __init__(self, t: Tensor, ranks: Ranks | None = None, largest: bool = False) -> None:
        self._t = t
        self._work: Any = None
        _, size, group = ranks or everyone()
        if size > 1:
            op = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
            with _one_line():
                self._work = torch.distributed.all_reduce(t, op, group=group, async_op=True)

    def wait(self) -> Tensor:
        """The sum, in the memory of the tensor.

        Raises:
            RankLost: another rank has ended.
        """
        _finish(self._work)
        self._work = None
        return self._t


def largest_of_ranks(number: int) -> int:
    """The largest of the numbers that all ranks name."""
    return int(Summed(torch.tensor([number], dtype=torch.int32), largest=True).wait())


def gathered(t: Tensor, ranks: Ranks | None = None) -> Tensor:
    """The tensors of all ranks, of one shape, one after the other along their first dimension."""
    return Gathered(t, ranks).wait()


def add_over_ranks(t: Tensor, ranks: Ranks | None = None) -> None:
    """Replace a tensor by its sum over all ranks."""
    Summed(t, ranks).wait()


def _finish(work: Any) -> None:
    """Wait for an exchange; None is over."""
    if work is not None:
        with _one_line():
            work.wait()


@contextmanager
def _one_line() -> Iterator[None]:
    """What the backend says of a rank that is gone, as one line."""
    try:
        yield
    except RuntimeError as error:
        rank, size = world()
        raise RankLost(
            f"rank {rank} of {size} lost another one ({_first_line(error)}): the last checkpoint "
            "is good; start all ranks again and resume"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
