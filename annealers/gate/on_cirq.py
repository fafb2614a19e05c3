"""QAOA's circuit in Cirq: on qsim where it is installed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.gate.ansatz import Circuit, order
from qsample.support.optional import needs

with needs("cirq", "QAOA(kit='cirq')"):
    import cirq  # pyright: ignore[reportMissingImports]


def layers(circuit: Circuit, qubits: list[Any]) -> Iterator[Any]:
    """The gates of all layers."""
    for gamma, beta in zip(circuit.gamma, circuit.beta, strict=True):
        for qubit, field in zip(qubits, circuit.fields, strict=True):
            if field != 0:
                yield cirq.rz(2 * float(gamma) * field)(qubit)
        for (i, j), coupling in zip(circuit.pairs, circuit.couplings, strict=True):
            turns = 2 * float(gamma) * coupling / math.pi
            yield cirq.ZZPowGate(exponent=turns, global_shift=-0.5)(qubits[i], qubits[j])
        for qubit in qubits:
            yield cirq.rx(2 * float(beta))(qubit)


def simulator(seed: int) -> Any:
    """qsim, or Cirq's own simulator where qsim is not installed."""
    try:
        import qsimcirq  # pyright: ignore[reportMissingImports]
    except ImportError:
        return cirq.Simulator(seed=seed)
    return qsimcirq.QSimSimulator(seed=seed)


def bits(circuit: Circuit, shots: int, seed: int, device: Any) -> np.ndarray:
    """See `Backend`; `device` is a `cirq.Sampler`, a noisy simulator too."""
    qubits = cirq.LineQubit.range(circuit.num_qubits)
    gates = cirq.Circuit(cirq.H.on_each(*qubits), layers(circuit, qubits))
    gates.append(cirq.measure(*qubits, key="spins"))
    sampler = simulator(seed) if device is None else device
    return np.asarray(sampler.run(gates, repetitions=shots).measurements["spins"])


def unitary(circuit: Circuit) -> Tensor:
    """The layers' matrix in our order of states."""
    qubits = cirq.LineQubit.range(circuit.num_qubits)
    gates = cirq.Circuit(layers(circuit, qubits))
    matrix = gates.unitary(qubit_order=qubits, qubits_that_should_be_present=qubits)
    place = order(circuit.num_qubits, first_is_high=True)
    return torch.from_numpy(np.asarray(matrix, dtype=complex))[place][:, place]
