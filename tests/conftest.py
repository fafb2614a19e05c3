"""What every test stands on: one thread, type checks of shapes, and the fixtures."""

import os
import signal

import pytest
import torch
from jaxtyping import install_import_hook

from tests.support.shapes import with_shapes

# Samplers draw the same bits for any thread count; one thread is what a shared machine runs
# fastest.
torch.set_num_threads(1)

# A shell that starts a run in the background has it, and all that it starts, ignore Ctrl-C, which
# tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Shapes are checked where they are named; elsewhere the check would cost two thirds of the tests'
# time.
install_import_hook(with_shapes(), "beartype.beartype")

# After the hook, so that what it imports is checked as well. `sapi`: a server of a Zephyr-4 chip.
from qsample.testing.sapi.fixture import sapi as sapi  # noqa: E402


@pytest.fixture(scope="module")
def isolated():
    """Hide the configuration of the user from D-Wave's tools."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("DWAVE_")]:
            patch.delenv(name)
        patch.setenv("DWAVE_CONFIG_FILE", os.devnull)
        patch.setenv("DWAVE_CACHE_ENABLED", "0")
        yield
