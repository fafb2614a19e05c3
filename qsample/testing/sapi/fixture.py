"""A pytest fixture: `from qsample.testing.sapi.fixture import sapi` in conftest.py, `def test_mine(sapi): ...`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from qsample.testing.sapi.server import SolverServer

try:
    import pytest
except ImportError as error:
    raise ImportError(f"{error}: the fixture needs pip install qsample[test]") from None


@pytest.fixture
def sapi(monkeypatch: pytest.MonkeyPatch) -> Iterator[SolverServer]:
    """A server of a Zephyr-4 chip, the only one that D-Wave's tools find: no configuration of the user's is read."""
    with SolverServer("zephyr-4") as server:
        for name in os.environ:
            if name.startswith("DWAVE_"):
                monkeypatch.delenv(name)
        for name, value in (server.environment | {"DWAVE_CONFIG_FILE": os.devnull}).items():
            monkeypatch.setenv(name, value)
        yield server
