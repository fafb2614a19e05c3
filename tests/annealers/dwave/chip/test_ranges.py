"""A problem's factor is the largest that every range of the solver allows: by brute force."""

import base64
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsample.annealers.dwave.chip.chip import Chip
from qsample.annealers.dwave.chip.ranges import Limits, largest_factor
from qsample.testing.sapi import definition
from qsample.testing.sapi.parameters import Refusal
from qsample.testing.sapi.solver import Solver

groups = pytest.importorskip("dwave.system.coupling_groups")
SOLVERS = {name: definition(name)["properties"] for name in ("chimera-2", "pegasus-2", "zephyr-2")}
WIDE = [-1e9, 1e9]
FREE = {"h_range": WIDE, "j_range": WIDE, "qubits": list(range(4))}
EDGES = torch.tensor([[0, 1], [1, 2], [2, 3], [0, 3]])


def position(properties):
    """The solver's couplers as positions into its qubits."""
    of = {q: i for i, q in enumerate(properties["qubits"])}
    return torch.tensor([[of[a], of[b]] for a, b in properties["couplers"]])


def sums(properties):
    """(range, the solver's couplers that add up) of every sum with a range, by Ocean's groups."""
    couplers = [tuple(sorted(pair)) for pair in properties["couplers"]]
    if "per_qubit_coupling_range" in properties:
        for q in properties["qubits"]:
            yield (
                properties["per_qubit_coupling_range"],
                [k for k, pair in enumerate(couplers) if q in pair],
            )
    if "per_group_coupling_range" in properties:
        place = {pair: k for k, pair in enumerate(couplers)}
        for group in groups.coupling_groups(Chip.from_properties(properties).graph()):
            yield (
                properties["per_group_coupling_range"],
                [place[tuple(sorted(pair))] for pair in group],
            )


def worst(values, bounds):
    """The largest factor for numbers, one by one."""
    low, high = bounds
    return min(
        [high / v for v in values if v > 0] + [low / v for v in values if v < 0], default=math.inf
    )


def slow(h, J, properties):
    bounds = properties.get("extended_j_range", properties.get("j_range"))
    loads = [worst(h.tolist(), properties["h_range"]), worst(J.tolist(), bounds)]
    loads += [
        worst([sum(J[k].item() for k in group)], bounds) for bounds, group in sums(properties)
    ]
    return min(loads)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize(
    "size_h, size_J", [(1, 1), (50, 1), (0.1, 1), (1, 0), (0, 1), (0, -1), (0, 0.2)]
)
def test_brute_force(name, size_h, size_J):
    """Fields, couplings or sums bind in turn; size_J = -1 makes all couplings negative."""
    properties, g = SOLVERS[name], torch.Generator().manual_seed(0)
    h = size_h * torch.randn(len(properties["qubits"]), generator=g, dtype=torch.float64)
    J = size_J * torch.randn(len(properties["couplers"]), generator=g, dtype=torch.float64)
    J = -J.abs() if size_J < 0 else J
    assert largest_factor(h, J, position(properties), properties) == pytest.approx(
        slow(h, J, properties), rel=1e-11
    )


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("uniform", [-1.0, 1.0, None])
def test_the_solver_accepts_the_factor_and_no_more(name, uniform):
    solver, g = Solver(definition(name)), torch.Generator().manual_seed(1)
    J = torch.rand(len(solver.couplers), generator=g, dtype=torch.float64) * 2 - 1
    J = J if uniform is None else torch.full_like(J, uniform)
    h = torch.randn(len(solver.qubits), generator=g, dtype=torch.float64)
    c = largest_factor(h, J, position(solver.properties), solver.properties)
    for factor, fits in ((c, True), (c * (1 + 1e-6), False)):
        problem = solver.decode("ising", encoded(solver, factor * h, factor * J))
        if fits:
            solver.check_ranges(problem)
        else:
            with pytest.raises(Refusal):
                solver.check_ranges(problem)


def encoded(solver, h, J):
    return {
        "format": "qp",
        "lin": base64.b64encode(h.numpy().tobytes()).decode(),
        "quad": base64.b64encode(J.numpy().tobytes()).decode(),
    }


@pytest.mark.parametrize(
    "ranges, h, J, factor",
    [
        ({"h_range": [-4, 4]}, [1, -2, 0, 0], [1, 0, 0, 0], 2),
        ({"h_range": [-1, 8]}, [2, -0.5, 0, 0], [0, 0, 0, 0], 2),
        ({"j_range": [-1, 1]}, [0, 0, 0, 0], [0.5, -0.25, 0, 0], 2),
        ({"extended_j_range": [-2, 1], "j_range": [-1, 1]}, [0, 0, 0, 0], [0.25, -1, 0, 0], 2),
        ({"extended_j_range": [-2, 1], "j_range": [-1, 1]}, [0, 0, 0, 0], [2, -1, 0, 0], 0.5),
        ({"per_qubit_coupling_range": [-9, 6]}, [0, 0, 0, 0], [2, 1, 0, 0], 2),
        ({"per_qubit_coupling_range": [-9, 6]}, [0, 0, 0, 0], [-2, -1, 0, 0], 3),
        # sums cancel: J's range binds
        ({"per_qubit_coupling_range": [-9, 6]}, [0, 0, 0, 0], [2, -2, 2, -2], 5e8),
        ({"h_range": [0, 4]}, [1, -1, 0, 0], [0, 0, 0, 0], 0),
        ({}, [0, 0, 0, 0], [0, 0, 0, 0], math.inf),
    ],
)
def test_by_hand(ranges, h, J, factor):
    largest = largest_factor(
        torch.tensor(h, dtype=torch.float64), torch.tensor(J) * 1.0, EDGES, FREE | ranges
    )
    assert largest == pytest.approx(factor, rel=1e-11) and largest <= factor


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**20), name=st.sampled_from(sorted(SOLVERS)), size=st.integers(1, 40))
def test_any_part_of_a_chip(seed, name, size):
    """Some couplers of a chip, in any order and direction, are as all with zeros elsewhere."""
    properties, g = SOLVERS[name], torch.Generator().manual_seed(seed)
    whole = position(properties)
    chosen = torch.randperm(len(whole), generator=g)[:size]
    J = torch.zeros(len(whole), dtype=torch.float64)
    J[chosen] = torch.randn(len(chosen), generator=g, dtype=torch.float64)
    used, ends = whole[chosen].flip(1).unique(return_inverse=True)
    h = torch.zeros(len(properties["qubits"]), dtype=torch.float64)
    h[used] = torch.randn(len(used), generator=g, dtype=torch.float64)
    order = torch.randperm(len(used), generator=g)
    qubits = [properties["qubits"][i] for i in used[order].tolist()]
    factor = largest_factor(
        h[used[order]], J[chosen], order.argsort()[ends], properties, qubits=qubits
    )
    assert factor == pytest.approx(largest_factor(h, J, whole, properties), rel=1e-14)


def test_a_batch_has_the_least_of_its_factors():
    properties, g = SOLVERS["zephyr-2"], torch.Generator().manual_seed(0)
    edges = position(properties)
    h = torch.randn(2, 1, len(properties["qubits"]), generator=g)
    J = torch.randn(3, len(edges), generator=g)
    limits = Limits.of(edges, properties)
    each = [limits.largest_factor(h[i, 0], J[j]) for i, j in itertools.product(range(2), range(3))]
    assert limits.largest_factor(h, J) == min(each) and len(set(each)) > 1


def test_refusals():
    zero = torch.zeros(4)
    for h, J in [
        (torch.tensor([0, math.nan, 0, 0]), zero),
        (zero, torch.tensor([0, 0, -math.inf, 0])),
    ]:
        with pytest.raises(ValueError, match="expected finite h and J"):
            largest_factor(h, J, EDGES, FREE | {"per_qubit_coupling_range": [-9, 6]})
    with pytest.raises(ValueError, match="expected edges as positions 0..2 into the qubits; got 3"):
        largest_factor(zero[:3], zero, EDGES, FREE, qubits=[5, 6, 7])
    with pytest.raises(ValueError, match=r"expected a range around zero; got \[1, 2\]"):
        largest_factor(zero, zero, EDGES, FREE | {"h_range": [1, 2]})
