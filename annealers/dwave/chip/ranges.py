"""How far a problem can be scaled before it leaves a range of the chip.

One factor serves h and J, and nothing is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.dwave.chip.chip import Lattice

# the factor is this much smaller, relatively, than exact: products and sums stay inside
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class SumRange:
    """A range that sums of couplings must keep.

    Args:
        bounds: lowest and highest sum.
        coupler: `[k]`, a coupling that enters a sum.
        group: `[k]`, the number of that sum.
        number: number of sums.
    """

    bounds: tuple[float, float]
    coupler: Tensor
    group: Tensor
    number: int


@dataclass(frozen=True, eq=False)
class Limits:
    """The ranges of a solver on given qubits and couplers; made once, used at every call.

    Args:
        h: lowest and highest field.
        J: lowest and highest coupling.
        sums: ranges of sums of couplings.
    """

    h: tuple[float, float]
    J: tuple[float, float]
    sums: tuple[SumRange, ...]

    @staticmethod
    def of(
        edges: Tensor, properties: Mapping[str, Any], qubits: Sequence[int] | None = None
    ) -> Limits:
        """The limits in a solver's properties; see the function `largest_factor`.

        Args:
            edges: `[E, 2]`, couplers as positions into the qubits.
            properties: the solver's properties.
            qubits: the solver's numbers of the qubits. Default: all of the solver's, in its order.
        """
        chosen = properties["qubits"] if qubits is None else qubits
        ids = np.array(chosen, dtype=np.int64)
        ends = edges.cpu().numpy().reshape(-1, 2)
        if len(ends) and not 0 <= ends.min() <= ends.max() < len(ids):
            raise ValueError(
                f"expected edges as positions 0..{len(ids) - 1} into the qubits; got "
                f"{int(ends.max())}"
            )
        coupler = torch.arange(len(ends)).repeat(2)
        sums = []
        bounds = properties.get("per_qubit_coupling_range")
        if bounds is not None:
            qubit = torch.from_numpy(ends.T.ravel().copy())
            sums.append(SumRange(_range(bounds), coupler, qubit, len(ids)))
        bounds = properties.get("per_group_coupling_range")
        topology = properties.get("topology", {})
        if bounds is not None and topology.get("type") == "zephyr":
            group = torch.from_numpy(zephyr_groups(ids, ends, topology["shape"]))
            sums.append(SumRange(_range(bounds), coupler, group, 2 * len(ids)))
        J = properties.get("extended_j_range") or properties["j_range"]
        return Limits(_range(properties["h_range"]), _range(J), tuple(sums))

    def largest_factor(self, h: Tensor, J: Tensor) -> float:
        """See the function of the same name."""
        h = h.detach().double()
        J = J.detach().double()
        loads = [_load(h, self.h), _load(J, self.J)]
        for limit in self.sums:
            terms = J[..., limit.coupler.to(J.device)]
            zeros = J.new_zeros(*J.shape[:-1], limit.number)
            sums = zeros.index_add(-1, limit.group.to(J.device), terms)
            loads.append(_load(sums, limit.bounds))
        load = max(loads)
        return (1 - ROUNDING) / load if load else float("inf")


def largest_factor(
    h: Tensor,
    J: Tensor,
    edges: Tensor,
    properties: Mapping[str, Any],
    *,
    qubits: Sequence[int] | None = None,
) -> float:
    """The largest c for which c h and c J satisfy every range of the solver.

    It is infinite where h and J are zero.

    | property | bounds |
    |---|---|
    | `h_range` | each field |
    | `extended_j_range`, where a solver has none `j_range` | each coupling |
    | `per_qubit_coupling_range` | the sum of the couplings at each qubit |
    | `per_group_coupling_range` | the same for both groups of couplers at a Zephyr qubit |

    The positive and the negative part have bounds of their own. The factor is rounded down by a
    relative 1e-12: use it in double precision (`c * h.double()`), as c h in single precision may
    cross a range by its rounding.

    Args:
        h: fields `[*, Q]`.
        J: couplings `[*, E]`. The factor fits the whole batch.
        edges: `[E, 2]`, couplers as positions into the qubits.
        properties: the solver's properties.
        qubits: the solver's numbers of the Q qubits. Default: all of the solver's, in its order.

    Raises:
        ValueError: a number that is not finite, or an edge that leaves the qubits.
    """
    return Limits.of(edges, properties, qubits).largest_factor(h, J)


def zephyr_groups(qubits: np.ndarray, edges: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The group `[2 E]` that each coupler enters at its first end, then at its second.

    Qubit number i has the groups 2 i and 2 i + 1. With p = 2 z + j the place of a qubit along its
    line: the first group holds its neighbours ahead on the line (p' > p) and on the crossing lines
    w' = p + 1, the second those behind and on w' = p. These are the groups of
    `dwave.system.coupling_groups`, for all couplers at once.

    Args:
        qubits: the solver's numbers of the qubits, `[Q]`.
        edges: `[E, 2]`, couplers as positions into the qubits.
        shape: the chip's sizes.
    """
    lattice = Lattice("zephyr", (*map(int, shape), 4)[:2])
    u, w, _, p = lattice.coordinates(qubits)
    near = edges.T.ravel()
    far = edges[:, ::-1].T.ravel()
    crossing = u[near] != u[far]
    return 2 * near + np.where(crossing, p[near] + 1 - w[far], p[far] < p[near])


def _range(bounds: Sequence[float | int]) -> tuple[float, float]:
    """Two bounds around zero, as floats."""
    low, high = map(float, bounds)
    if not low <= 0 <= high:
        raise ValueError(f"expected a range around zero; got [{low:g}, {high:g}]")
    return low, high


def _load(values: Tensor, bounds: tuple[float, float]) -> float:
    """How much of its range the worst value takes: 1 is just inside."""
    if not values.numel():
        return 0.0
    smallest = float(values.min())
    largest = float(values.max())
    if not (math.isfinite(smallest) and math.isfinite(largest)):
        raise ValueError(
            "expected finite h and J to scale into the solver's ranges; got values "
            f"{smallest:g} to {largest:g}"
        )
    return max(_share(-smallest, -bounds[0]), _share(largest, bounds[1]))


def _share(value: float, bound: float) -> float:
    """What part of a bound a value takes; infinite where the bound is zero and the value is not."""
    if value <= 0:
        return 0.0
    return value / bound if bound else float("inf")
