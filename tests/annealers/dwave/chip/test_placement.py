"""A problem on a chip has the energies of the problem itself, and its reads come back whole."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsample import Graph
from qsample.annealers.dwave.chip.chip import Chip
from qsample.annealers.dwave.chip.embedding import place
from qsample.annealers.dwave.chip.placement import Placement, uniform_torque_compensation
from tests.support.exact import a_graph, a_problem, all_states, one_by_one, slow_energy

pytest.importorskip("dwave.graphs")
embedding = pytest.importorskip("dwave.embedding")

CHIPS = [("chimera", 2, 2, 4), ("pegasus", 3), ("zephyr", 2)]
NAMES = [f"s{i}" for i in range(5)]  # of no qubits
GRAPHS = {kind: a_graph(kind, NAMES) for kind in ("sparse", "bipartite", "complete")}
SMALL = Chip.perfect("chimera", 3, 3, 4)
RING = Chip("ring", "ring", (), tuple(range(6)), tuple((i, (i + 1) % 6) for i in range(6)))


def physical_energy(placement, h, J, spins):
    return sum(h[q] * spins[q] for q in range(len(spins))) + sum(
        float(J[k]) * spins[i] * spins[j] for k, (i, j) in enumerate(placement.edges.tolist())
    )


def laid(placement, copy_states):
    """Reads of unbroken chains: a state for each copy."""
    value = {q: s for chains, state in zip(placement.chains, copy_states, strict=True)
             for chain, s in zip(chains, state, strict=True) for q in chain}  # fmt: skip
    return [value[q] for q in placement.qubits]


@pytest.mark.parametrize("shape", CHIPS, ids=lambda c: c[0])
@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_unbroken_chains_have_the_logical_energy_but_for_a_constant(kind, shape):
    graph, chip = a_graph(kind, NAMES), Chip.perfect(*shape)
    problem, placement = a_problem(graph, offset=()), place(graph, chip, copies=1)
    h, J = placement.physical(problem)
    gaps = [
        physical_energy(placement, h, J, laid(placement, [state])) - slow_energy(problem, state)
        for state in all_states(5)
    ]
    within = placement.edges.shape[0] - len(placement._edge)
    constant = -float(problem.offset) - within * float(uniform_torque_compensation(problem))
    assert gaps == pytest.approx([constant] * 32, abs=1e-12)


def test_couplings_are_split_over_all_couplers_and_fields_over_chains():
    """Two chains of 3 on a ring of 6: two couplers join them."""
    graph = Graph.sparse(2, [(1, 0)], labels="ab")
    placement = Placement.of(graph, RING, (((0, 1, 2), (3, 4, 5)),))
    problem = a_problem(graph)
    h, J = placement.physical(problem, chain_strength=2.5)
    assert torch.equal(h, problem.h.repeat_interleave(3) / 3)
    couplings = {
        tuple(sorted(placement.qubits[e] for e in pair)): float(j)
        for pair, j in zip(placement.edges, J, strict=False)
    }
    half = float(problem.J[0]) / 2
    assert couplings == {
        (2, 3): half,
        (0, 5): half,
        (0, 1): -2.5,
        (1, 2): -2.5,
        (3, 4): -2.5,
        (4, 5): -2.5,
    }
    assert not placement.native and placement.longest_chain == 3 and placement.copies == 1


def test_chain_strength_is_oceans():
    for kind in ("sparse", "bipartite", "complete"):
        problem = a_problem(a_graph(kind), h=(3,), J=(3,))
        ocean = [
            embedding.chain_strength.uniform_torque_compensation(p.to_bqm())
            for _, p in one_by_one(problem)
        ]
        assert uniform_torque_compensation(problem).tolist() == pytest.approx(ocean)
    still = a_problem(a_graph("complete"), scale=0.0)
    assert uniform_torque_compensation(still) == 1


@pytest.mark.parametrize(
    "h, J, offset",
    [((), (), ()), ((2, 3), (), ()), ((), (3,), ()), ((3,), (2, 1), ()), ((), (), (2,))],
)
@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_a_batch_is_its_problems_one_by_one(kind, h, J, offset):
    graph = a_graph(kind, NAMES)
    problem = a_problem(graph, h=h, J=J, offset=offset, dtype=torch.float32)
    placement = place(graph, Chip.perfect("zephyr", 1), copies=1)
    fields, couplings = placement.physical(problem)
    assert (
        fields.shape == (*problem.batch_shape, len(placement.qubits))
        and fields.dtype == torch.float32
    )
    assert couplings.shape == (*problem.batch_shape, len(placement.edges))
    for index, single in one_by_one(problem):
        alone = placement.physical(single)
        torch.testing.assert_close((fields[index], couplings[index]), alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["sparse", "bipartite", "complete"])
def test_tiles_hold_the_problems_of_a_batch_in_turn(kind):
    graph, chip = a_graph(kind, NAMES), SMALL
    placement = place(graph, chip, copies=4)
    problem = a_problem(graph, h=(3,), J=() if kind == "sparse" else (3,))
    fields, couplings = placement.physical_tiled(problem)
    whole_h, whole_J = placement.physical(problem)
    copy = placement._copy[placement.edges[:, 0]]
    assert torch.equal(copy, placement._copy[placement.edges[:, 1]])  # no coupler joins two copies
    for k in range(4):
        assert torch.equal(fields[placement._copy == k], whole_h[k % 3][placement._copy == k])
        assert torch.equal(couplings[copy == k], whole_J[k % 3][copy == k])


@pytest.mark.parametrize(
    "shape",
    [("chimera", 4, 4, 4), ("chimera", 6, 5, 3), ("pegasus", 4), ("zephyr", 2), ("zephyr", 3, 2)],
    ids=str,
)
def test_copies_are_disjoint_and_valid_also_around_defects(shape):
    graph, perfect = Graph.complete(6, labels="abcdef"), Chip.perfect(*shape)
    draw = random.Random(0)
    gone = set(draw.sample(perfect.nodelist, 4))
    edges = tuple(e for e in perfect.edgelist if not gone & set(e) and draw.random() < 0.98)
    chip = Chip(
        "worn",
        perfect.topology,
        shape[1:],
        tuple(q for q in perfect.nodelist if q not in gone),
        edges,
    )
    placement = place(graph, chip)
    everywhere = [q for chains in placement.chains for chain in chains for q in chain]
    assert len(everywhere) == len(set(everywhere)) == len(placement.qubits)
    assert sorted(everywhere) == sorted(placement.qubits)
    source = [(i, j) for i, j in graph.edges.T.tolist()]
    for chains in placement.chains:
        embedding.verify_embedding(dict(enumerate(chains)), source, chip.graph())
    assert placement.copies == len(placement.chains) >= 2


@settings(deadline=None, max_examples=50)
@given(
    data=st.data(),
    kind=st.sampled_from(["sparse", "bipartite", "complete"]),
    copies=st.integers(1, 4),
)
def test_states_survive_the_round_trip(data, kind, copies):
    placement = place(GRAPHS[kind], SMALL, copies=copies)
    spin = st.sampled_from([-1, 1])
    state = st.lists(spin, min_size=5, max_size=5)
    reads = data.draw(
        st.lists(st.lists(state, min_size=copies, max_size=copies), min_size=1, max_size=3)
    )
    spins, broken = placement.logical(
        torch.tensor([laid(placement, read) for read in reads], dtype=torch.int8)
    )
    assert spins.tolist() == reads and spins.dtype == torch.int8 and not broken.any()


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_the_majority_of_any_read(data):
    """Chains of 1 to 4 qubits in a path, two copies: every tie and every break counted by hand."""
    path = Chip("path", "path", (), tuple(range(20)), tuple((i, i + 1) for i in range(19)))
    copy = ((0,), (1, 2), (3, 4, 5), (6, 7, 8, 9))
    chains = (copy, tuple(tuple(q + 10 for q in chain) for chain in copy))
    placement = Placement.of(Graph.sparse(4, [(0, 1), (1, 2), (2, 3)]), path, chains)
    reads = data.draw(
        st.lists(
            st.lists(st.sampled_from([-1, 1]), min_size=20, max_size=20), min_size=1, max_size=3
        )
    )
    tensor = torch.tensor(reads, dtype=torch.int8)
    spins, broken = placement.logical(tensor)
    again, _ = placement.logical(tensor, torch.Generator().manual_seed(1))
    for r, read in enumerate(reads):
        for k, chains in enumerate(placement.chains):
            for i, chain in enumerate(chains):
                values = [read[placement.qubits.index(q)] for q in chain]
                total = sum(values)
                assert spins[r, k, i] == (values[0] if total == 0 else (1 if total > 0 else -1))
                assert broken[r, k, i] == (len(set(values)) == 2)
                assert total == 0 or again[r, k, i] == spins[r, k, i]


def test_ties_are_drawn_on_request():
    pair = Placement.of(Graph.sparse(1, [], labels="a"), RING, (((0, 1),),))
    torn = torch.tensor([[1, -1]], dtype=torch.int8).expand(10_000, -1)
    assert (pair.logical(torn)[0] == 1).all()
    spins, broken = pair.logical(torn, torch.Generator().manual_seed(0))
    assert broken.all() and abs(float(spins.double().mean())) * 100 < 5
    assert torch.equal(spins, pair.logical(torn, torch.Generator().manual_seed(0))[0])


def test_reads_may_have_batch_dimensions():
    placement = place(a_graph("complete", NAMES), SMALL, copies=2)
    reads = torch.randint(0, 2, (2, 3, 7, len(placement.qubits)), dtype=torch.int8) * 2 - 1
    spins, broken = placement.logical(reads)
    assert spins.shape == broken.shape == (2, 3, 7, 2, 5)
    assert torch.equal(spins[1, 2], placement.logical(reads[1, 2])[0])


def test_refusals():
    graph = Graph.sparse(2, [(0, 1)], labels="ab")
    for chains, message in [
        ((((0,), (2,)),), "no coupler of ring joins the chains of 'a' and 'b'"),
        ((((0, 2), (1,)),), "chain 0 falls into 2 pieces"),
        ((((0, 1), (1, 2)),), "use a qubit twice"),
        ((((0,), (9,)),), "or one that ring does not have"),
        ((((0,), ()),), "expected a chain of one or more qubits for each of 2 variables"),
        ((((0,),),), "expected a chain of one or more qubits for each of 2 variables"),
        ((), "expected a chain of one or more qubits for each of 2 variables"),
    ]:
        with pytest.raises(ValueError, match=message):
            Placement.of(graph, RING, chains)
    placement = Placement.of(graph, RING, (((0,), (1,)), ((2,), (3,))))
    with pytest.raises(
        ValueError, match="another graph than the problem's .complete graph of 5 spins"
    ):
        placement.physical(a_problem(a_graph("complete")))
    with pytest.raises(ValueError, match="chain_strength > 0; got -1"):
        placement.physical(a_problem(graph), -1.0)
    for batch in ((), (3,), (1, 2)):
        with pytest.raises(ValueError, match="expected a batch of 1 to 2 problems"):
            placement.physical_tiled(a_problem(graph, h=batch))
    with pytest.raises(ValueError, match=r"expected spins of shape \[\*, R, 4\]; got \[1, 3\]"):
        placement.logical(torch.ones(1, 3, dtype=torch.int8))
