"""The kits that run a circuit: which there are, how each is loaded, and its version checked."""

from __future__ import annotations

import importlib
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, Protocol, cast

import numpy as np
from torch import Tensor

from qsample.annealers.gate.ansatz import Circuit
from qsample.support.optional import needs

Kit = Literal["torch", "pennylane", "qiskit", "cirq"]
# distribution, and the oldest version whose calls are those that we make
OLDEST = {"pennylane": ("pennylane", (0, 43)), "qiskit": ("qiskit", (2, 0))}
OLDEST["cirq"] = ("cirq-core", (1, 5))


class Backend(Protocol):
    """What the module of a kit has: `on_pennylane`, `on_qiskit`, `on_cirq`.

    (A file of the kit's own name would hide the kit from type checkers.)
    """

    def bits(self, circuit: Circuit, shots: int, seed: int, device: Any) -> np.ndarray:
        """Measured qubits, `[shots, n]` of 0 and 1, from |+...+> and the circuit.

        Args:
            circuit: the circuit.
            shots: number of measurements.
            seed: 31 bits, for a simulator of our own making.
            device: the user's device, or None.
        """
        ...

    def unitary(self, circuit: Circuit) -> Tensor:
        """The matrix of the circuit's layers, `[2^n, 2^n]` complex128, in our order of states."""
        ...


def kit_backend(kit: str) -> Backend:
    """The module of a kit.

    Raises:
        ImportError: the kit is missing, or older than what we call; the line names the extra.
    """
    with needs(kit, f"QAOA(kit={kit!r})"):
        check_version(kit)
    # the module says itself which extra brings it
    return cast(Backend, importlib.import_module(f"qsample.annealers.gate.on_{kit}"))


def check_version(kit: str) -> None:
    """ImportError for a kit older than what we call; one that is missing is not found out here."""
    distribution, oldest = OLDEST[kit]
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        return  # the import says it
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < oldest:
        raise ImportError(
            f"expected {distribution} >= {'.'.join(map(str, oldest))}; got {installed}"
        )
