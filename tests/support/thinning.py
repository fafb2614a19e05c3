"""What `make test` leaves to `make test-long` of a grid of cases."""

from collections.abc import Iterable
from typing import Any

import pytest


def thinned(cases: Iterable[Any], every: int) -> list[Any]:
    """Each `every`-th case as it is, the first included; the others as parameters marked `long`."""
    return [case if k % every == 0 else _long(case) for k, case in enumerate(cases)]


def _long(case: Any) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.long)
