"""A pytest fixture: a loopback processor, the only one that D-Wave's tools find.

from qsample.testing.sapi.fixture import sapi     # in conftest.py

def test_mine(sapi): ...
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from qsample.support.optional import needs
from qsample.testing.sapi.server import SolverServer

with needs("test", "the fixture"):
    import pytest


@pytest.fixture
def sapi(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> SolverServer:
    """A server of a Zephyr-4 chip; no configuration of the user's is read."""
    # not a yield: a fixture that runtime type checkers wrap would not be seen to be a generator
    stack = ExitStack()
    request.addfinalizer(stack.close)
    server = stack.enter_context(SolverServer("zephyr-4"))
    for name in [name for name in os.environ if name.startswith("DWAVE_")]:
        monkeypatch.delenv(name)
    for name, value in (server.environment | {"DWAVE_CONFIG_FILE": os.devnull}).items():
        monkeypatch.setenv(name, value)
    return server
