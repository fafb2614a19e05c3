"""Progress for people (a bar), notebooks (a widget) and log files (a line now and then)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
_shown: ContextVar[bool] = ContextVar("shown", default=False)


@contextmanager
def shown() -> Iterator[None]:
    """Inside, long loops of the library show a bar: those over `tracked`, silent otherwise."""
    before = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(before)


def tracked(items: Sequence[T], what: str, unit: str) -> Iterator[T]:
    """The items one by one, with a bar where `shown` asks for it.

    Args:
        items: what the loop runs over.
        what: name of the loop, beside the bar.
        unit: name of an item, such as "update".
    """
    with progress_bar(items, desc=what, unit=unit, disable=not _shown.get(), leave=False) as bar:
        yield from bar


def counted(total: int, what: str, unit: str) -> Any:
    """A bar to be moved by `update`, shown as that of `tracked` is; a context.

    Args:
        total: number of items.
        what: name of the loop, beside the bar.
        unit: name of an item.
    """
    return progress_bar(total=total, desc=what, unit=unit, disable=not _shown.get(), leave=False)


def progress_bar(iterable: Any = None, *args: Any, disable: bool = False, **options: Any) -> Any:
    """A bar of tqdm that suits the terminal, notebook or log file it is written to.

    A terminal or a notebook sees it move ten times per second, a log file gets a line every ten
    seconds, and nothing is written where there is no standard error (a service, pythonw).

    Args:
        iterable: items that are counted; None where the caller counts.
        *args: further positional arguments of tqdm.
        disable: whether nothing is shown.
        **options: keyword arguments of tqdm.
    """
    from tqdm.auto import tqdm

    options.setdefault("mininterval", 0.1 if _watched() else 10.0)
    return tqdm(iterable, *args, disable=disable or not _open(), **options)


def _open() -> bool:
    """Whether there is a standard error to write to."""
    return sys.stderr is not None and not getattr(sys.stderr, "closed", False)


def _watched() -> bool:
    """Whether somebody looks: a terminal, or a notebook, whose streams are no terminals."""
    if "ipykernel" in type(sys.stderr).__module__:
        return True
    try:
        shell = sys.modules["IPython"].get_ipython()
        if "IPKernelApp" in shell.config:
            return True
    except (AttributeError, KeyError, TypeError):
        pass
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError, OSError):
        return False
