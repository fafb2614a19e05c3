"""A solver's graph as arrays.

Problems are decoded from the format `qp` and checked against ranges, answers are encoded in it.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from qsample.problem.graph import Graph
from qsample.support.optional import needs
from qsample.testing.sapi.parameters import Refusal

if TYPE_CHECKING:
    from scipy.sparse import csr_array

ROUNDING = 1e-9  # a problem scaled onto the edge of a range is still inside
KEPT = 64  # number of graphs kept, the oldest given up first


@dataclass(frozen=True, eq=False)
class Problem:
    """A decoded problem on its active qubits; all arrays are float64 in the units submitted.

    Args:
        kind: "ising" or "qubo".
        active: numbers `[n]` of the active qubits, in the solver's order.
        coupler: places `[k]` of the couplers among the solver's.
        graph: the graph of the active qubits, with edges in the order of `quadratic`.
        linear: linear terms `[n]`, as sent.
        quadratic: quadratic terms `[k]`, as sent.
        h: fields `[n]` that give spins the same energies, but for a constant.
        J: couplings `[k]` that do.
    """

    kind: str
    active: np.ndarray
    coupler: np.ndarray
    graph: Graph
    linear: np.ndarray
    quadratic: np.ndarray
    h: np.ndarray
    J: np.ndarray

    def energy(self, spins: np.ndarray) -> np.ndarray:
        """The energy as submitted, without its offset, of int8 spins `[R, n]`."""
        from scipy.sparse import coo_array, csr_array

        values = spins.astype(np.float64) if self.kind == "ising" else (spins + 1.0) / 2
        first, second = self.graph.pairs.numpy()
        n = len(self.active)
        pull = csr_array(coo_array((self.quadratic, (first, second)), shape=(n, n))) @ values.T
        return values @ self.linear + (values.T * pull).sum(0)


class Solver:
    """A solver definition and what follows from it."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        self.definition = dict(definition)
        self.properties: Mapping[str, Any] = definition["properties"]
        self.name: str = definition["identity"]["name"]
        self.qubits = np.array(self.properties["qubits"], dtype=np.int64)
        self.couplers = np.array(self.properties["couplers"], dtype=np.int64).reshape(-1, 2)
        place = np.full(int(self.properties["num_qubits"]), -1)
        place[self.qubits] = np.arange(len(self.qubits))
        self.ends = place[self.couplers]  # the couplers by place in `qubits`
        self._graphs: dict[bytes, Graph] = {}

    @functools.cached_property
    def _groups(self) -> tuple[str, list[float], csr_array] | None:
        """The property that bounds sums of couplings, its range, and which couplers add up.

        The last as a matrix `[groups, couplers]` of ones.
        """
        from scipy.sparse import coo_array, csr_array

        number = np.arange(len(self.couplers))
        topology = self.properties["topology"]
        if "per_qubit_coupling_range" in self.properties:
            rows = self.ends.T.ravel()
            columns = np.concatenate([number, number])
            name = "per_qubit_coupling_range"
        elif "per_group_coupling_range" in self.properties and topology["type"] == "zephyr":
            with needs("dwave", "the loopback solver API"):
                import dwave.graphs
                from dwave.system.coupling_groups import coupling_groups

            couplers = [(int(a), int(b)) for a, b in self.couplers]
            place = {frozenset(pair): k for k, pair in enumerate(couplers)}
            chip = dwave.graphs.zephyr_graph(
                *topology["shape"],
                node_list=self.qubits.tolist(),
                edge_list=couplers,
                check_node_list=False,
            )
            pairs = [
                (row, place[frozenset(pair)])
                for row, group in enumerate(coupling_groups(chip))
                for pair in group
            ]
            rows, columns = np.array(pairs).T
            name = "per_group_coupling_range"
        else:
            return None
        shape = (int(rows.max(initial=0)) + 1, len(number))
        member = csr_array(coo_array((np.ones(len(rows)), (rows, columns)), shape=shape))
        return name, self.properties[name], member

    # ---- problems ----------------

    def decode(self, kind: object, data: object) -> Problem:
        """The problem in a job's `type` and `data`.

        Raises:
            Refusal: what is malformed.
        """
        if kind not in self.properties["supported_problem_types"]:
            raise Refusal(400, f"problem type {kind!r} is not supported by solver {self.name}")
        if not isinstance(data, dict) or data.get("format") != "qp":
            raise Refusal(400, "problem data must have format 'qp'")
        linear = _floats(data, "lin", len(self.qubits))
        # qubits whose term is no number are not active, and have no couplers
        mask = ~np.isnan(linear)
        if not mask.any():
            raise Refusal(400, "the problem is empty: no qubit is active")
        coupler = np.flatnonzero(mask[self.ends].all(1))
        quadratic = _floats(data, "quad", len(coupler))
        if not (np.isfinite(linear[mask]).all() and np.isfinite(quadratic).all()):
            raise Refusal(400, "problem data must be finite")
        linear = linear[mask]
        graph = self._graph(mask, coupler)
        # the same energies in spins
        h = linear
        J = quadratic
        if kind == "qubo":  # x = (1 + s) / 2
            h = linear / 2
            J = quadratic / 4
            for end in graph.pairs.numpy():
                h = h + np.bincount(end, J, len(h))
        return Problem(str(kind), self.qubits[mask], coupler, graph, linear, quadratic, h, J)

    def _graph(self, mask: np.ndarray, coupler: np.ndarray) -> Graph:
        """The graph of the qubits in a mask, made once: the engine keeps much beside it."""
        key = mask.tobytes()
        if key not in self._graphs:
            if len(self._graphs) == KEPT:
                del self._graphs[next(iter(self._graphs))]
            ends = (mask.cumsum() - 1)[self.ends[coupler]]
            self._graphs[key] = Graph.sparse(int(mask.sum()), torch.from_numpy(ends))
        return self._graphs[key]

    def _loads(self, problem: Problem) -> list[tuple[str, list[float], np.ndarray]]:
        """(property, its range, the numbers it bounds) of all that has a range on the chip."""
        loads = [
            ("h_range", self.properties["h_range"], problem.h),
            ("extended_j_range", self.properties["extended_j_range"], problem.J),
        ]
        if self._groups is not None:
            name, bounds, member = self._groups
            J = np.zeros(len(self.couplers))
            J[problem.coupler] = problem.J
            loads.append((name, bounds, member @ J))
        return loads

    def auto_scale(self, problem: Problem) -> float:
        """The largest factor on h and J that fits every range, which `auto_scale` chooses.

        It is 1 if all are zero.
        """
        factor = 0.0
        for _, (low, high), values in self._loads(problem):
            factor = max(factor, values.max(initial=0) / high, values.min(initial=0) / low)
        return float(1 / factor) if factor else 1.0

    def check_ranges(self, problem: Problem) -> None:
        """A `Refusal` for an h, a J or a total of couplings outside the solver's ranges."""
        for name, (low, high), values in self._loads(problem):
            wrong = values[(values < low - ROUNDING) | (values > high + ROUNDING)]
            if len(wrong):
                raise Refusal(
                    400, f"{wrong[0]:g} is outside {name} [{low:g}, {high:g}] of solver {self.name}"
                )

    # ---- answers ----------------

    def encode(
        self,
        problem: Problem,
        spins: np.ndarray,
        timing: dict[str, float],
        raw: bool,
        max_answers: int,
    ) -> dict:
        """The answer: reads in their order, or a histogram of distinct states by energy.

        Args:
            problem: the problem.
            spins: reads `[R, n]`, int8.
            timing: the answer's times, in microseconds.
            raw: whether the reads come in their order.
            max_answers: largest number of answers.
        """
        count = np.ones(len(spins), dtype="<i4")
        bits = np.packbits(spins > 0, axis=1)
        if not raw:
            bits, first, number = np.unique(bits, axis=0, return_index=True, return_counts=True)
            spins = spins[first]
            count = number.astype("<i4")
        energy = problem.energy(spins)
        order = np.arange(len(spins)) if raw else energy.argsort(kind="stable")
        order = order[:max_answers]
        return {
            "format": "qp",
            "num_variables": self.properties["num_qubits"],
            "active_variables": _text(problem.active.astype("<i4")),
            "energies": _text(energy[order].astype("<f8")),
            "num_occurrences": _text(count[order]),
            "solutions": _text(bits[order]),
            "timing": timing,
        }


def _text(array: np.ndarray) -> str:
    """An array's bytes in base 64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _floats(data: dict[str, Any], name: str, count: int) -> np.ndarray:
    """The `count` numbers of one field of a problem's data; a `Refusal` for what they are not."""
    try:
        numbers = np.frombuffer(base64.b64decode(data[name], validate=True), dtype="<f8")
    except (KeyError, TypeError, ValueError) as error:
        raise Refusal(
            400, f"problem data {name!r} must be base64 of little-endian doubles ({error})"
        ) from None
    if len(numbers) != count:
        raise Refusal(400, f"problem data {name!r} must hold {count} numbers; got {len(numbers)}")
    return numbers
