"""How far a problem can be scaled before it leaves a range of the chip: one factor for h and J, nothing clipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qsample.annealers.dwave.chip.chip import Lattice

ROUNDING = 1e-12  # the factor is this much smaller, relatively, than exact: products and sums stay inside


@dataclass(frozen=True, eq=False)
class Limits:
    """The ranges of a solver on given qubits and couplers; made once, used at every submission."""

    h: tuple[float, float]
    J: tuple[float, float]
    sums: tuple[tuple[tuple[float, float], Tensor, Tensor, int], ...]  # range, coupler [k], sum it enters [k], sums

    @staticmethod
    def of(edges: Tensor, properties: Mapping[str, Any], qubits: Sequence[int] | None = None) -> Limits:
        """The limits in a solver's properties; see `largest_factor`."""
        chosen = properties["qubits"] if qubits is None else qubits
        ids, ends = np.array(chosen, dtype=np.int64), edges.cpu().numpy().reshape(-1, 2)
        if len(ends) and not 0 <= ends.min() <= ends.max() < len(ids):
            raise ValueError(f"expected edges as positions 0..{len(ids) - 1} into the qubits; got {int(ends.max())}")
        coupler, sums = torch.arange(len(ends)).repeat(2), []
        if (bounds := properties.get("per_qubit_coupling_range")) is not None:
            sums.append((_range(bounds), coupler, torch.from_numpy(ends.T.ravel().copy()), len(ids)))
        topology = properties.get("topology", {})
        if (bounds := properties.get("per_group_coupling_range")) is not None and topology.get("type") == "zephyr":
            group = zephyr_groups(ids, ends, topology["shape"])
            sums.append((_range(bounds), coupler, torch.from_numpy(group), 2 * len(ids)))
        J = properties.get("extended_j_range") or properties["j_range"]
        return Limits(_range(properties["h_range"]), _range(J), tuple(sums))

    def largest_factor(self, h: Tensor, J: Tensor) -> float:
        """See the function of the same name."""
        h, J = h.detach().double(), J.detach().double()
        loads = [_load(h, self.h), _load(J, self.J)]
        for bounds, coupler, sum_of, number in self.sums:
            coupler, sum_of = coupler.to(J.device), sum_of.to(J.device)
            total = J.new_zeros(*J.shape[:-1], number).index_add(-1, sum_of, J[..., coupler])
            loads.append(_load(total, bounds))
        load = max(loads)
        return (1 - ROUNDING) / load if load else float("inf")


def largest_factor(
    h: Tensor, J: Tensor, edges: Tensor, properties: Mapping[str, Any], *, qubits: Sequence[int] | None = None
) -> float:
    """The largest c for which c h and c J satisfy every range of the solver; infinite where h and J are zero.

    | property | bounds |
    |---|---|
    | `h_range` | each field |
    | `extended_j_range`, where a solver has none `j_range` | each coupling |
    | `per_qubit_coupling_range` | the sum of the couplings at each qubit |
    | `per_group_coupling_range` | the same for the two groups of couplers at each qubit of a Zephyr chip |

    The positive and the negative part have bounds of their own. The factor is rounded down by a relative 1e-12: use
    it in double precision (`c * h.double()`), as c h in single precision may cross a range by its rounding.

    Args:
        h: fields `[*, Q]`.
        J: couplings `[*, E]`. The factor fits the whole batch.
        edges: `[E, 2]`, positions into the qubits.
        properties: of the solver.
        qubits: the solver's numbers of the Q qubits. Default: all of the solver's, in its order.

    Raises:
        ValueError: a number that is not finite, or an edge that leaves the qubits.
    """
    return Limits.of(edges, properties, qubits).largest_factor(h, J)


def zephyr_groups(qubits: np.ndarray, edges: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The group [2 E] that each coupler enters at its first end, then at its second; qubit number i has 2 i, 2 i + 1.

    With p = 2 z + j the place of a qubit along its line: the first group holds its neighbours ahead on the line
    (p' > p) and on the crossing lines w' = p + 1, the second those behind and on w' = p. These are the groups of
    `dwave.system.coupling_groups`, for all couplers at once.
    """
    lattice = Lattice("zephyr", (*map(int, shape), 4)[:2])
    u, w, _, p = lattice.coordinates(qubits)
    near, far = edges.T.ravel(), edges[:, ::-1].T.ravel()
    crossing = u[near] != u[far]
    return 2 * near + np.where(crossing, p[near] + 1 - w[far], p[far] < p[near])


def _range(bounds: Sequence[float | int]) -> tuple[float, float]:
    low, high = map(float, bounds)
    if not low <= 0 <= high:
        raise ValueError(f"expected a range around zero; got [{low:g}, {high:g}]")
    return low, high


def _load(values: Tensor, bounds: tuple[float, float]) -> float:
    """How much of its range the worst value takes: 1 is just inside."""
    if not values.numel():
        return 0.0
    least, most = (float(end) for end in values.aminmax())
    if not (math.isfinite(least) and math.isfinite(most)):
        raise ValueError(f"expected finite h and J to scale into the solver's ranges; got values {least:g} to {most:g}")
    return max(_share(-least, -bounds[0]), _share(most, bounds[1]))


def _share(value: float, bound: float) -> float:
    if value <= 0:
        return 0.0
    return value / bound if bound else float("inf")
