"""What one job programs: fields and couplings on qubits, and the energies that its answer must have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class Wiring:
    """The qubits and couplers of a placement, made once: the keys that the client wants, and a sparse product."""

    qubits: np.ndarray  # [Q] numbers of qubits
    pairs: np.ndarray  # [E, 2] into `qubits`

    @cached_property
    def keys(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Of the dictionaries of fields and couplings."""
        ends = self.qubits[self.pairs].tolist()
        return self.qubits.tolist(), [(a, b) for a, b in ends]

    @cached_property
    def _csr(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from scipy.sparse import coo_array

        n = len(self.qubits)
        number = np.arange(len(self.pairs))
        first, second = self.pairs.T
        shape = coo_array((number + 1, (first, second)), shape=(n, n)).tocsr()
        return shape.data - 1, shape.indices, shape.indptr

    def quadratic(self, spins: np.ndarray, J: np.ndarray) -> np.ndarray:
        """Sum J_ij s_i s_j of int8 spins `[R, Q]`, in double precision."""
        from scipy.sparse import csr_array

        order, indices, indptr = self._csr
        n = len(self.qubits)
        s = spins.T.astype(np.float64)
        return (s * (csr_array((J[order], indices, indptr), shape=(n, n)) @ s)).sum(0)


@dataclass(frozen=True, eq=False)
class Programming:
    """One set of fields `[Q]` and couplings `[E]` on a wiring, as it is sent."""

    wiring: Wiring
    h: np.ndarray
    J: np.ndarray

    @property
    def qubits(self) -> np.ndarray:
        """Numbers of the qubits in use."""
        return self.wiring.qubits

    @property
    def dicts(self) -> tuple[dict[int, float], dict[tuple[int, int], float]]:
        """As the client takes them."""
        nodes, pairs = self.wiring.keys
        return dict(zip(nodes, self.h.tolist(), strict=True)), dict(
            zip(pairs, self.J.tolist(), strict=True)
        )

    def energy(self, spins: np.ndarray) -> tuple[np.ndarray, float]:
        """The energy of each read, and the largest that could be, which sets the rounding."""
        size = float(np.abs(self.h).sum() + np.abs(self.J).sum())
        return spins @ self.h + self.wiring.quadratic(spins, self.J), size
