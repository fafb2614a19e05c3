"""Round trips between Ising problems, dimod's BQMs and QUBO dictionaries, whatever the labels."""

import itertools

import dimod
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsample import Graph, Ising
from tests.support.exact import KINDS, a_graph, a_problem, all_states, coupling_list, slow_energy

# None is no label of dimod's: add_variable(None) invents one
plain = st.integers(-3, 9) | st.text(max_size=3) | st.floats(0.1, 0.9) | st.binary(max_size=2)
labels_st = st.recursive(
    plain, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=2), max_leaves=4
)
numbers = st.floats(-8, 8, width=16)


@st.composite
def bqms(draw):
    """(labels, linear, quadratic, offset): labels of mixed types in an order of their own."""
    labels = draw(st.lists(labels_st, unique=True, max_size=5))
    pairs = list(itertools.combinations(range(len(labels)), 2))
    linear = {label: draw(numbers) for label in labels}
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    quadratic = {
        (labels[j], labels[i]) if draw(st.booleans()) else (labels[i], labels[j]): draw(numbers)
        for i, j in chosen
    }
    return linear, quadratic, draw(numbers)


def check_same_energies(problem, bqm):
    """On all states; `bqm` of any vartype, its variables in any order."""
    labels = list(problem.graph.labels)
    assert len(labels) == bqm.num_variables and set(labels) == set(bqm.variables)
    states = np.array(all_states(len(labels)), dtype=np.int8).reshape(2 ** len(labels), len(labels))
    values = states if bqm.vartype is dimod.SPIN else (states + 1) // 2
    ours = problem.energy(torch.from_numpy(states)).numpy()
    theirs = bqm.energies((values, labels)) if labels else [float(bqm.offset)]
    np.testing.assert_allclose(
        ours, theirs, rtol=1e-5 if problem.dtype == torch.float32 else 1e-12, atol=1e-4
    )


@pytest.mark.parametrize("cls", [dimod.BQM, dimod.Float32BQM, dimod.Float64BQM, dimod.DictBQM])
@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
@given(data=bqms(), dtype=st.sampled_from([torch.float64, torch.float32]))
@settings(max_examples=25, deadline=None)
def test_bqm_round_trip(cls, vartype, data, dtype):
    bqm = cls(*data, vartype)
    before = bqm.copy()
    problem = Ising.from_bqm(bqm, dtype)
    assert bqm == before  # the caller's BQM is left as it was
    assert problem.graph.kind == "sparse" and problem.dtype == dtype
    assert list(problem.graph.labels) == list(bqm.variables)  # dimod's own order
    check_same_energies(problem, bqm)
    back = problem.to_bqm()
    assert back.vartype is dimod.SPIN and list(back.variables) == list(problem.graph.labels)
    check_same_energies(problem, back)
    again = Ising.from_bqm(back, dtype)
    assert again.graph.hash == problem.graph.hash and torch.equal(again.h, problem.h)
    assert torch.equal(again.J, problem.J) and torch.equal(again.offset, problem.offset)


@given(data=bqms(), twice=st.lists(st.integers(0, 20)), constant=numbers)
@settings(max_examples=50, deadline=None)
def test_qubo_round_trip(data, twice, constant):
    linear, quadratic, offset = data
    Q = {(label, label): value for label, value in linear.items()} | quadratic
    for k in twice:  # the same pair the other way round: both count
        pairs = list(quadratic)
        if pairs:
            a, b = pairs[k % len(pairs)]
            Q[b, a] = constant
    bqm = dimod.BQM.from_qubo(Q, offset)
    problem = Ising.from_qubo(Q, offset)
    check_same_energies(problem, bqm)
    back, rest = problem.to_qubo()
    check_same_energies(problem, dimod.BQM.from_qubo(back, rest))
    again = Ising.from_qubo(back, rest)
    assert list(again.graph.labels) == list(problem.graph.labels)
    torch.testing.assert_close(again.h, problem.h)
    check_same_energies(again, bqm)


@pytest.mark.parametrize("kind", KINDS)
def test_to_qubo_formulas(kind):
    problem = a_problem(a_graph(kind, ["a", ("b", 2), "c", 4, frozenset("x")]))
    labels, couplings = list(problem.graph.labels), coupling_list(problem)
    Q, offset = problem.to_qubo()
    for i, label in enumerate(labels):
        around = sum(J for a, b, J in couplings if i in (a, b))
        assert Q.pop((label, label)) == pytest.approx(2 * float(problem.h[i]) - 2 * around)
    for i, j, J in couplings:
        assert Q.pop((labels[i], labels[j])) == pytest.approx(4 * J)
    assert not Q
    expected = float(problem.offset) + sum(J for *_, J in couplings) - float(problem.h.sum())
    assert offset == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_a_bqm(kind):
    problem = a_problem(a_graph(kind, ["a", ("b", 2), "c", 4, frozenset("x")]))
    bqm = problem.to_bqm()
    assert list(bqm.variables) == list(problem.graph.labels)
    check_same_energies(problem, bqm)
    back = Ising.from_bqm(bqm)
    for state in all_states(5):
        assert slow_energy(back, state) == pytest.approx(slow_energy(problem, state))


def test_the_same_pair_both_ways_is_summed():
    problem = Ising.from_qubo({("b", "a"): 1.0, ("a", "b"): 2.5, ("a", "a"): -1.0})
    assert list(problem.graph.labels) == ["b", "a"]
    assert problem.J.tolist() == [3.5 / 4] and problem.h.tolist() == [3.5 / 4, 3.5 / 4 - 0.5]
    cancelled = Ising.from_qubo({(0, 1): 2.0, (1, 0): -2.0})
    assert cancelled.num_spins == 2 and cancelled.J.tolist() == [0.0]


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_empty_and_constant(vartype):
    for bqm in (dimod.BQM(vartype), dimod.BQM({}, {}, 2.5, vartype)):
        problem = Ising.from_bqm(bqm)
        assert problem.num_spins == 0 and float(problem.offset) == bqm.offset
        assert problem.to_bqm().num_variables == 0 and problem.to_bqm().offset == bqm.offset
    assert Ising.from_qubo({}, 1.5).to_qubo() == ({}, 1.5)
    lonely = Ising.from_bqm(dimod.BQM({"a": 1.0, "b": 0.0}, {}, "SPIN"))
    assert lonely.graph.num_edges == 0 and list(lonely.graph.labels) == ["a", "b"]


def test_numbers_as_labels_in_another_order():
    bqm = dimod.BQM("SPIN")
    for label, bias in ((2, 1.0), (0, 2.0), (1, 3.0)):
        bqm.add_linear(label, bias)
    bqm.add_quadratic(0, 2, 0.5)
    problem = Ising.from_bqm(bqm)
    assert list(problem.graph.labels) == [2, 0, 1] and problem.h.tolist() == [1.0, 2.0, 3.0]
    assert problem.graph.edges.T.tolist() == [[0, 1]]
    check_same_energies(problem, problem.to_bqm())


def test_a_batch_is_refused():
    problem = Ising(Graph.complete(2), torch.zeros(3, 2), torch.zeros(2, 2))
    for convert in (problem.to_bqm, problem.to_qubo):
        with pytest.raises(ValueError, match=r"expected one problem; got a batch \[3\]"):
            convert()


def test_gradients_stay_behind():
    J = torch.zeros(2, 2, requires_grad=True)
    assert (
        Ising(Graph.complete(2), torch.zeros(2, requires_grad=True), J).to_bqm().num_interactions
        == 1
    )
