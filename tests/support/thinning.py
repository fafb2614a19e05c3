"""What `make test` leaves to `make test-long` of a grid of cases."""

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """A grid for `pytest.mark.parametrize`, most of whose cases run in `make test-long` alone.

    Args:
        cases: the cases, each a value or a tuple of values. Put those that `make test` is to keep
            at the places 0, `every`, 2 `every`, ...
        every: distance of the kept cases; all others are marked `long`.
    """
    return [case if place % every == 0 else _long(case) for place, case in enumerate(cases)]


def _long(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.long)
