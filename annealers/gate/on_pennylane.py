"""QAOA's circuit in PennyLane: on Lightning where it is installed, gradients by the adjoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.gate.ansatz import Circuit, order
from qsample.support.optional import needs

with needs("pennylane", "QAOA(kit='pennylane')"):
    import pennylane as qml  # pyright: ignore[reportMissingImports]


def layers(circuit: Circuit) -> None:
    """Queue the gates of all layers."""
    wires = range(circuit.num_qubits)
    for gamma, beta in zip(circuit.gamma, circuit.beta, strict=True):
        for wire, field in zip(wires, circuit.fields, strict=True):
            if field != 0:
                qml.RZ(2 * gamma * field, wire)
        for pair, coupling in zip(circuit.pairs, circuit.couplings, strict=True):
            qml.IsingZZ(2 * gamma * coupling, pair)
        for wire in wires:
            qml.RX(2 * beta, wire)


def from_plus(circuit: Circuit) -> None:
    """Queue |+...+> and the layers."""
    for wire in range(circuit.num_qubits):
        qml.Hadamard(wire)
    layers(circuit)


def simulator(n: int, seed: int | None = None) -> Any:
    """Lightning's state vector, or PennyLane's own where Lightning is not installed."""
    try:
        return qml.device("lightning.qubit", wires=n, seed=seed)
    except (qml.exceptions.DeviceError, ImportError):
        return qml.device("default.qubit", wires=n, seed=seed)


def bits(circuit: Circuit, shots: int, seed: int, device: Any) -> np.ndarray:
    """See `Backend`; `device` is a device, or its name, made for n wires."""
    n = circuit.num_qubits
    if isinstance(device, str):
        device = qml.device(device, wires=n)
    device = simulator(n, seed) if device is None else device

    @qml.set_shots(shots)
    @qml.qnode(device, interface=None, diff_method=None)
    def measured() -> Any:
        from_plus(circuit)
        return qml.sample(wires=range(n))

    return np.asarray(measured()).reshape(shots, n)


def expected_energy(circuit: Circuit) -> Tensor:
    """Mean of C after the circuit, a float64 scalar; its gradient is by the adjoint method."""
    n = circuit.num_qubits
    terms = [qml.Z(i) for i in range(n)] + [qml.Z(i) @ qml.Z(j) for i, j in circuit.pairs]
    C = qml.Hamiltonian([*circuit.fields, *circuit.couplings], terms)

    @qml.qnode(simulator(n), interface="torch", diff_method="adjoint")
    def mean() -> Any:
        from_plus(circuit)
        return qml.expval(C)

    return torch.as_tensor(mean()).double()


def unitary(circuit: Circuit) -> Tensor:
    """The layers' matrix in our order of states."""
    wires = list(range(circuit.num_qubits))
    matrix = np.asarray(qml.matrix(layers, wire_order=wires)(circuit), dtype=complex)
    place = order(circuit.num_qubits, first_is_high=True)
    return torch.from_numpy(matrix)[place][:, place]
