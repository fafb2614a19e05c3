"""Where graphs go on a chip: on their own qubits, copies, templates, from a file, or nowhere."""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor

import networkx as nx
import numpy as np
import pytest
import torch

from qsample import Graph
from qsample.annealers.dwave.chip.chains import largest
from qsample.annealers.dwave.chip.chip import Chip, Lattice
from qsample.annealers.dwave.chip.embedding import place
from qsample.annealers.dwave.chip.placement import Placement
from qsample.annealers.dwave.chip.wires import Wires
from qsample.support.files import write_whole
from qsample.testing.sapi import definition
from tests.support.chips import ZEPHYR, same
from tests.support.exact import a_problem

graphs = pytest.importorskip("dwave.graphs")
RING = Chip("ring", "ring", (), tuple(range(12)), tuple((i, (i + 1) % 12) for i in range(12)))
SHAPES = [("chimera", 2, 3, 4), ("pegasus", 4), ("zephyr", 3, 4), ("zephyr", 2, 2)]


def named(graph, name="s"):
    """A graph of networkx with labels that are no qubits."""
    return Graph.from_networkx(nx.relabel_nodes(graph, {i: f"{name}{i}" for i in graph}))


# ---- the chip ----------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_are_those_of_dwave_graphs(shape):
    lattice, qubits = Lattice(shape[0], shape[1:]), np.array(Chip.perfect(*shape).nodelist)
    u, w, k, p = coordinates = lattice.coordinates(qubits)
    assert np.array_equal(lattice.numbers(coordinates), qubits)
    size = shape[1]
    if shape[0] == "chimera":
        theirs = [graphs.chimera_coordinates(*shape[1:]).linear_to_chimera(q) for q in qubits]
        ours = np.stack([np.where(u == 0, p, w), np.where(u == 0, w, p), u, k], 1)
    elif shape[0] == "pegasus":
        theirs, ours = (
            [graphs.pegasus_coordinates(size).linear_to_pegasus(q) for q in qubits],
            coordinates.T,
        )
    else:
        theirs = [graphs.zephyr_coordinates(*shape[1:]).linear_to_zephyr(q) for q in qubits]
        ours = np.stack([u, w, k, p % 2, p // 2], 1)
    assert ours.tolist() == [list(map(int, c)) for c in theirs]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_moves_keep_couplers(shape):
    """A cell's couplers from one corner of the lattice to the other, at every move."""
    chip, tile = Chip.perfect(*shape), Chip.perfect(*shape).tile(2 if shape[0] == "pegasus" else 1)
    assert tile.lattice is not None and chip.lattice is not None
    coordinates, seen = tile.lattice.coordinates(tile.nodes), set()
    place_of = {q: i for i, q in enumerate(tile.nodelist)}
    ends = np.array([[place_of[a], place_of[b]] for a, b in tile.edgelist])
    for moved in chip.lattice.moves(coordinates):
        assert len(set(moved.tolist())) == len(moved) and 0 <= moved.min()
        present = np.isin(moved[ends], chip.nodes).all(
            1
        )  # of Pegasus some are cut off at the border
        assert chip.coupled(moved[ends])[present].all() and (shape[0] == "pegasus" or present.all())
        seen |= set(moved.tolist())
    assert seen >= set(chip.nodelist) or shape[0] == "pegasus"


def test_a_chip_comes_from_a_solver():
    solver = definition("zephyr-2", broken_qubits=[3], broken_couplers=[(0, 1)])["properties"]
    chip = Chip.from_properties(solver)
    assert (
        chip.name == "loopback_zephyr-2"
        and chip.topology == "zephyr"
        and chip.shape == tuple(solver["topology"]["shape"])
    )
    assert len(chip.nodelist) == 159 and 3 not in chip.nodelist and (0, 1) not in chip.edgelist
    graph = chip.graph()
    assert set(graph.nodes) == set(chip.nodelist) and graph.number_of_edges() == len(chip.edgelist)
    turned = Chip(
        "other",
        chip.topology,
        chip.shape,
        chip.nodelist[::-1],
        tuple((b, a) for a, b in chip.edgelist),
    )
    assert (
        turned.hash == chip.hash != Chip.from_properties(definition("zephyr-2")["properties"]).hash
    )
    with pytest.raises(
        ValueError, match="unknown topology 'torus': expected chimera, pegasus or zephyr"
    ):
        Chip.perfect("torus", 3)


# ---- where things go ----------------


def test_a_graph_of_qubits_stays_where_it_is():
    chip = ZEPHYR
    qubits = chip.nodelist[10:90]
    edges = [
        (qubits.index(a), qubits.index(b)) for a, b in chip.edgelist if a in qubits and b in qubits
    ][::-1]
    graph = Graph.sparse(80, edges, labels=qubits)
    placement, problem = place(graph, chip, copies=1), a_problem(graph)
    h, J = placement.physical(problem)
    assert placement.native and placement.qubits == list(qubits) and torch.equal(h, problem.h)
    assert torch.equal(J, problem.J) and torch.equal(placement.edges.T.sort(0).values, graph.pairs)
    assert place(graph, chip).qubits[:80] == list(qubits)  # further copies follow


def test_the_whole_chip_is_native():
    graph = Graph.sparse(len(ZEPHYR.nodelist), [*ZEPHYR.edgelist], labels=ZEPHYR.nodelist)
    assert place(graph, ZEPHYR).native and place(graph, ZEPHYR).copies == 1


@pytest.mark.parametrize(
    "shape", [("chimera", 4, 4, 4), ("pegasus", 5), ("zephyr", 3)], ids=lambda c: c[0]
)
def test_small_graphs_need_no_chains(shape):
    chip = Chip.perfect(*shape)
    placement = place(named(nx.cycle_graph(12)), chip)
    assert placement.native and placement.copies > 3
    assert place(named(nx.complete_bipartite_graph(4, 4)), chip).native


def test_spins_without_neighbours_get_qubits():
    graph = Graph.sparse(7, [(1, 4), (4, 5), (5, 1)], labels="abcdefg")
    # of 8 qubits; a triangle needs a chain of 2
    placement = place(graph, Chip.perfect("chimera", 1, 1, 4))
    assert len(placement.qubits) == 8 and placement.longest_chain == 2
    alone = place(Graph.sparse(5, [], labels="abcde"), ZEPHYR)
    assert (
        alone.native
        and alone.copies >= 20
        and alone.physical(a_problem(alone.graph))[1].shape == (0,)
    )


@pytest.mark.long
def test_templates_serve_where_the_heuristic_is_longer():
    for graph, longest in [
        (Graph.complete(32), 4),
        (Graph.bipartite(36, 32), 3),
        (Graph.bipartite(16, 8), 2),
    ]:
        assert place(graph, ZEPHYR, copies=1).longest_chain <= longest
    dense = named(nx.complete_graph(40))  # a sparse graph in name only
    assert place(dense, ZEPHYR, timeout=5).longest_chain <= 4


@pytest.mark.parametrize(
    "shape", [("chimera", 4, 4, 4), ("chimera", 3, 5, 2), ("pegasus", 4), ("zephyr", 3)], ids=str
)
def test_crossing_wires(shape):
    """The largest is the known one, all sizes are valid, and chains grow with the window."""
    chip = Chip.perfect(*shape)
    side, wires = largest("bipartite", chip), Wires.of(chip)
    assert side is not None
    longest = []
    for n, m in [(2, 2), (side // 2, side // 4), (side // 4, side // 2), (side, side)]:
        chains = wires.bipartite(n, m, math.inf)
        assert chains is not None
        longest.append(Placement.of(Graph.bipartite(n, m), chip, (chains,)).longest_chain)
    assert (
        longest == sorted(longest)
        and longest[1] == longest[2]
        and wires.bipartite(side + 9, side + 9, math.inf) is None
    )
    assert wires.bipartite(2, 2, 0.0) is None  # out of time


@pytest.mark.parametrize(
    "shape", [("chimera", 6, 6, 4), ("pegasus", 5), ("zephyr", 4)], ids=lambda c: c[0]
)
@pytest.mark.parametrize("seed", range(3))
def test_crossing_wires_avoid_defects(shape, seed):
    """With 5 % of the qubits and 1 % of the couplers gone, half of the largest side still fits."""
    perfect, draw = Chip.perfect(*shape), random.Random(seed)
    gone = set(draw.sample(perfect.nodelist, len(perfect.nodelist) // 20))
    edges = tuple(e for e in perfect.edgelist if not gone & set(e) and draw.random() < 0.99)
    chip = Chip(
        "worn", shape[0], shape[1:], tuple(q for q in perfect.nodelist if q not in gone), edges
    )
    side = (largest("bipartite", chip) or 0) // 2
    chains = Wires.of(chip).bipartite(side, side - 2, math.inf)
    assert (
        chains is not None
        and Placement.of(Graph.bipartite(side, side - 2), chip, (chains,)).copies == 1
    )


def test_a_chip_of_no_known_lattice():
    placement = place(named(nx.cycle_graph(5)), RING)
    assert placement.copies == 1 and len(placement.qubits) >= 5 and placement.longest_chain >= 2


def test_the_seed_decides_and_the_result_is_kept():
    graph = Graph.complete(9)
    placement = place(graph, ZEPHYR, seed=3)
    assert place(graph, ZEPHYR, seed=3) is placement
    assert place(Graph.complete(9), ZEPHYR, seed=3).chains == placement.chains
    assert place(graph, ZEPHYR, seed=3, copies=2).chains != placement.chains


# ---- what does not fit ----------------


def test_refusals_come_with_the_numbers():
    with pytest.raises(ValueError) as error:
        place(Graph.bipartite(784, 500), Chip.perfect("zephyr", 12))
    assert str(error.value) == (
        "an RBM of 784 x 500 needs chains of at least 28 and 44 qubits, 43952 qubits and 434668 "
        "couplers; "
        "zephyr-12 has 4800 qubits and 45864 couplers, and the largest complete bipartite graph "
        "on it is about "
        "184 x 184, less what its defects take: use a smaller model"
    )
    for graph, message in [
        (
            Graph.complete(46),
            "a complete graph of 46 spins does not fit; .* complete graph on it is about 40",
        ),
        (Graph.bipartite(41, 41), "an RBM of 41 x 41 does not fit; .* about 40 x 40"),
        (Graph.complete(200), "a complete graph of 200 spins needs chains of at least"),
        (
            Graph.sparse(400, []),
            "a graph of 400 spins and 0 couplings needs .* 400 qubits .*zephyr-3 has 336 qubits",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            place(graph, ZEPHYR)
    with pytest.raises(
        ValueError,
        match="found no place for a complete graph of 4 spins in 5 s; ring has 12 qubits .*: raise",
    ):
        place(Graph.complete(4, labels="abcd"), RING, timeout=5)
    with pytest.raises(
        ValueError, match="1 copies of a graph of 5 spins and 5 couplings fit on ring; got copies=2"
    ):
        place(named(nx.cycle_graph(5)), RING, copies=2)
    with pytest.raises(
        ValueError, match="copies of a complete graph of 16 spins fit on zephyr-3; got copies=100"
    ):
        place(Graph.complete(16), ZEPHYR, copies=100)
    for options, message in [({"copies": 0}, "copies >= 1"), ({"timeout": 0.0}, "timeout > 0")]:
        with pytest.raises(ValueError, match=message):
            place(Graph.complete(4), ZEPHYR, **options)
    with pytest.raises(ValueError, match="without spins"):
        place(Graph.complete(0), ZEPHYR)


# ---- files ----------------


def test_a_file_gives_the_same_placement(tmp_path, monkeypatch):
    folder = tmp_path / "new" / "embeddings"
    first = place(Graph.complete(9), ZEPHYR, cache=folder)
    (path,) = folder.iterdir()  # no temporary file is left
    assert Graph.complete(9).hash[:16] in path.name and ZEPHYR.hash[:16] in path.name
    # any search would fail
    monkeypatch.setattr("qsample.annealers.dwave.chip.embedding.find_embedding", None)
    assert same(place(Graph.complete(9), ZEPHYR, cache=folder), first)
    for other in ({"copies": 1}, {"seed": 1}):
        with pytest.raises(TypeError):
            place(Graph.complete(9), ZEPHYR, cache=folder, **other)


def test_threads_may_write_one_file_at_once(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([k]) * 100_000 for k in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_whole(path, content), contents * 4))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_something_else_is_refused(tmp_path):
    for graph, chip, what in [
        (Graph.complete(8), ZEPHYR, "graph"),
        (Graph.complete(9), Chip.perfect("zephyr", 2), "chip"),
    ]:
        place(Graph.complete(9), ZEPHYR, cache=tmp_path / what / "a")
        place(graph, chip, cache=tmp_path / what / "b")
        ((mine,), (theirs,)) = ((tmp_path / what / name).iterdir() for name in "ab")
        mine.write_bytes(theirs.read_bytes())
        with pytest.raises(
            ValueError, match=f"{mine.name} holds an embedding of another {what} .*: delete it"
        ):
            place(Graph.complete(9), ZEPHYR, cache=tmp_path / what / "a")


@pytest.mark.parametrize("damage", ["empty", "cut", "bytes", "list", "format", "chains", "key"])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    first = place(Graph.complete(9), ZEPHYR, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    whole = path.read_bytes()
    content["chains"][0][0] = content["chains"][0][1]
    damaged = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "bytes": b"\xff\xfe\x00" + whole,
        "list": b"[1, 2]",
        "format": whole.replace(b'"format": 2', b'"format": 7'),
        "chains": json.dumps(content).encode(),
        "key": b"{}",
    }[damage]
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match=f"{path.name} cannot be read and is made anew"):
        again = place(Graph.complete(9), ZEPHYR, cache=tmp_path)
    assert same(again, first) and path.read_bytes() == whole
