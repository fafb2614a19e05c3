"""QAOA's circuit in Qiskit, by the V2 primitives: on Aer where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.gate.ansatz import Circuit, order
from qsample.support.optional import needs

with needs("qiskit", "QAOA(kit='qiskit')"):
    from qiskit import (  # pyright: ignore[reportMissingImports]
        QuantumCircuit,
        transpile,
    )
    from qiskit.primitives import (  # pyright: ignore[reportMissingImports]
        BackendSamplerV2,
        StatevectorSampler,
    )
    from qiskit.quantum_info import Operator  # pyright: ignore[reportMissingImports]


def layers(circuit: Circuit, gates: QuantumCircuit) -> None:
    """Append the gates of all layers."""
    wires = range(circuit.num_qubits)
    for gamma, beta in zip(circuit.gamma, circuit.beta, strict=True):
        for wire, field in zip(wires, circuit.fields, strict=True):
            if field != 0:
                gates.rz(2 * float(gamma) * field, wire)
        for (i, j), coupling in zip(circuit.pairs, circuit.couplings, strict=True):
            gates.rzz(2 * float(gamma) * coupling, i, j)
        for wire in wires:
            gates.rx(2 * float(beta), wire)


def simulator(seed: int) -> Any:
    """Aer's sampler, or Qiskit's own where Aer is not installed."""
    try:
        from qiskit_aer.primitives import SamplerV2  # pyright: ignore[reportMissingImports]
    except ImportError:
        return StatevectorSampler(seed=seed)
    return SamplerV2(seed=seed)


def bits(circuit: Circuit, shots: int, seed: int, device: Any) -> np.ndarray:
    """See `Backend`; `device` is a backend, or a V2 sampler of the user's."""
    gates = QuantumCircuit(circuit.num_qubits)
    gates.h(range(circuit.num_qubits))
    layers(circuit, gates)
    gates.measure_all()
    if device is None:
        sampler = simulator(seed)
    elif hasattr(device, "target"):  # a backend knows its gates; noise models are its own
        gates = transpile(gates, device, seed_transpiler=seed)
        sampler = BackendSamplerV2(backend=device, options={"seed_simulator": seed})
    else:
        sampler = device
    (answer,) = sampler.run([(gates,)], shots=shots).result()
    # Qiskit prints qubit 0 last: "little" puts it first
    return answer.data.meas.to_bool_array(order="little").astype(np.int8)


def unitary(circuit: Circuit) -> Tensor:
    """The layers' matrix in our order of states."""
    gates = QuantumCircuit(circuit.num_qubits)
    layers(circuit, gates)
    place = order(circuit.num_qubits, first_is_high=False)
    return torch.from_numpy(np.asarray(Operator(gates).data))[place][:, place]
