"""Graphs: layouts, structure computed once, and what a clamp leaves."""

import random

import networkx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsample import Graph
from tests.support.exact import KINDS, a_graph


@st.composite
def sparse_edges(draw):
    n = draw(st.integers(0, 9))
    pairs = [(i, j) for i in range(n) for j in range(i)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    flips = draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
    return (
        "sparse",
        n,
        [pair[::-1] if flip else pair for pair, flip in zip(chosen, flips, strict=True)],
    )


# Recipes, not graphs: beartype checks random items of what a strategy would build, and hypothesis
# forbids that.
any_graph = (
    sparse_edges()
    | st.tuples(st.just("bipartite"), st.integers(0, 4), st.integers(0, 4))
    | st.tuples(st.just("complete"), st.integers(0, 6))
)


def build(recipe):
    return getattr(Graph, recipe[0])(*recipe[1:])


def edge_list(graph):
    return [tuple(pair) for pair in graph.edges.T.tolist()]


def test_layouts():
    sparse, bipartite, complete = map(a_graph, KINDS)
    assert edge_list(sparse) == [(1, 3), (0, 1), (0, 3), (1, 4)]  # the caller's order, each i < j
    assert edge_list(bipartite) == [(0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4)]
    assert edge_list(complete) == [(i, j) for i in range(5) for j in range(i + 1, 5)]
    assert [g.coupling_shape for g in (sparse, bipartite, complete)] == [(4,), (2, 3), (5, 5)]
    assert [g.num_edges for g in (sparse, bipartite, complete)] == [4, 6, 10]
    assert [g.num_spins for g in (sparse, bipartite, complete)] == [5, 5, 5]
    assert [list(g.labels) for g in (sparse, bipartite, complete)] == [[0, 1, 2, 3, 4]] * 3


@given(any_graph, st.sampled_from([(), (2,), (3, 1)]))
@settings(max_examples=50, deadline=None)
def test_one_number_an_edge_and_back(recipe, batch):
    graph = build(recipe)
    values = torch.randn(*batch, graph.num_edges, dtype=torch.float64, requires_grad=True)
    J = graph.couplings(values)
    assert J.shape == (*batch, *graph.coupling_shape)
    assert torch.equal(graph.edge_values(J), values)
    for k, (i, j) in enumerate(edge_list(graph)):
        at = {"sparse": (k,), "bipartite": (i, j - graph.sizes[0]), "complete": (i, j)}[graph.kind]
        assert torch.equal(J[(..., *at)], values[..., k])
        if graph.kind == "complete":
            assert torch.equal(J[..., j, i], values[..., k])
    if values.numel():
        graph.edge_values(J).sum().backward()
        assert values.grad is not None and torch.equal(values.grad, torch.ones_like(values))


@pytest.mark.parametrize(
    "edges", [[], torch.empty(0, 2), torch.empty(0, dtype=torch.int64), iter(())]
)
def test_no_edges(edges):
    graph = Graph.sparse(3, edges)
    assert graph.edges.shape == (2, 0) and graph.degree.tolist() == [0, 0, 0]
    assert [c.tolist() for c in graph.colours] == [[0, 1, 2]]


def test_edges_from_a_tensor_or_any_iterable():
    pairs = [(2, 0), (1, 2)]
    expected = Graph.sparse(3, pairs)
    for edges in (
        torch.tensor(pairs),
        torch.tensor(pairs, dtype=torch.int16),
        iter(pairs),
        [[2, 0], [1, 2]],
    ):
        assert torch.equal(Graph.sparse(3, edges).pairs, expected.pairs)


def test_from_networkx():
    other = networkx.Graph([("b", "a"), ("a", (1, ("x",))), ("b", 7)])
    graph = Graph.from_networkx(other)
    assert list(graph.labels) == list(other.nodes)
    named = {frozenset((graph.labels[i], graph.labels[j])) for i, j in edge_list(graph)}
    assert named == {frozenset(edge) for edge in other.edges}
    with pytest.raises(ValueError, match="self-loop"):
        Graph.from_networkx(networkx.Graph([(0, 0)]))


def test_hash_is_structure():
    sparse, bipartite, complete = map(a_graph, KINDS)
    # fixed for ever: hashes stand in checkpoints
    assert sparse.hash == "13a26d2ebbf189646cdb20556df14d41ef4d8121ade67ba3e0da3de214da8c92"
    assert bipartite.hash == "1c1805ed57aede6e5aff2291a59187192129b86544b23d788d4b415742065a65"
    assert complete.hash == "2577ce511d3313deb30e9b8e36f1ae6903de22bcb4be3ba4bb2b415bcdd1562e"
    assert a_graph("sparse", "abcde").hash == sparse.hash  # labels do not enter
    # nor which end is named first
    assert Graph.sparse(5, [(1, 3), (1, 0), (0, 3), (4, 1)]).hash == sparse.hash
    # the order does: J follows it
    assert Graph.sparse(5, [(0, 1), (3, 1), (3, 0), (1, 4)]).hash != sparse.hash
    assert Graph.sparse(6, [(3, 1), (0, 1), (3, 0), (1, 4)]).hash != sparse.hash
    graphs = [
        Graph.bipartite(3, 2),
        Graph.bipartite(2, 3),
        Graph.complete(5),
        Graph.sparse(5, complete.edges.T),
    ]
    assert len({graph.hash for graph in graphs}) == len(graphs)


@given(any_graph)
@settings(max_examples=50, deadline=None)
def test_neighbours_degrees_and_colours(recipe):
    graph = build(recipe)
    edges = edge_list(graph)
    start, neighbour, edge = graph.csr
    assert len(start) == graph.num_spins + 1
    for i in range(graph.num_spins):
        row = slice(int(start[i]), int(start[i + 1]))
        expected = sorted((a + b - i, k) for k, (a, b) in enumerate(edges) if i in (a, b))
        assert list(zip(neighbour[row].tolist(), edge[row].tolist(), strict=True)) == expected
        assert int(graph.degree[i]) == len(expected)
    colour = {i: c for c, group in enumerate(graph.colours) for i in group.tolist()}
    assert sorted(colour) == list(range(graph.num_spins)) and all(
        len(group) for group in graph.colours
    )
    assert sum(map(len, graph.colours)) == graph.num_spins
    assert all(colour[i] != colour[j] for i, j in edges)
    assert len(graph.colours) <= 1 + max(graph.degree.tolist(), default=0)


def shuffled(graph: networkx.Graph, seed: int = 0) -> Graph:
    """Spins and edges in random order, each edge either way round."""
    rng = random.Random(seed)
    names = rng.sample(range(graph.number_of_nodes()), graph.number_of_nodes())
    number = dict(zip(graph.nodes, names, strict=True))
    edges = [tuple(rng.sample((number[a], number[b]), 2)) for a, b in graph.edges]
    return Graph.sparse(len(names), rng.sample(edges, len(edges)))


BIPARTITE = {
    "open grid": networkx.grid_2d_graph(7, 9),
    "even torus": networkx.grid_2d_graph(6, 8, periodic=True),
    "tree": networkx.random_labeled_tree(80, seed=1),
    "even ring": networkx.cycle_graph(12),
    "K_nm": networkx.complete_bipartite_graph(4, 9),
    "hypercube": networkx.hypercube_graph(5),
    "union": networkx.disjoint_union_all(
        [
            networkx.path_graph(5),
            networkx.cycle_graph(8),
            networkx.empty_graph(3),
            networkx.star_graph(6),
        ]
    ),
}


@pytest.mark.parametrize("name", BIPARTITE)
def test_bipartite_graphs_have_two_colours(name):
    for seed in range(5):
        graph = shuffled(BIPARTITE[name], seed)
        colour = torch.empty(graph.num_spins, dtype=torch.int64)
        for c, group in enumerate(graph.colours):
            colour[group] = c
        first, second = graph.pairs
        assert len(graph.colours) == 2 and (colour[first] + colour[second] == 1).all()


def test_an_odd_part_costs_the_others_no_colour():
    graph = networkx.disjoint_union(networkx.cycle_graph(5), networkx.grid_2d_graph(6, 7))
    colours = shuffled(graph).colours
    assert len(colours) == 3 and len(colours[2]) == 1


def test_a_hundred_thousand_spins_are_coloured_at_once():
    """Parts are not taken one by one, and a long chain is no deep recursion."""
    chain = torch.arange(100_000)
    assert len(Graph.sparse(100_000, torch.stack([chain[:-1], chain[1:]], 1)).colours) == 2
    assert len(Graph.sparse(100_000, chain.reshape(-1, 2)).colours) == 2


def test_colouring_of_random_graphs_is_proper():
    for seed in range(5):
        graph = Graph.from_networkx(networkx.gnm_random_graph(60, 200, seed=seed))
        colour = torch.empty(60, dtype=torch.int64)
        for c, group in enumerate(graph.colours):
            colour[group] = c
        assert (colour[graph.pairs[0]] != colour[graph.pairs[1]]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_structure_is_computed_once(kind):
    graph = a_graph(kind)
    index = torch.tensor([2, 0])
    for name in ("edges", "csr", "colours", "hash"):
        assert getattr(graph, name) is getattr(graph, name)
    assert graph.without(index) is graph.without(index.clone())
    assert graph.without(index) is graph.without(index.to(torch.int32))
    # the order of the clamped values differs
    assert graph.without(index) is not graph.without(index.flip(0))
    index[0] = 1  # the caller's tensor is the caller's
    assert graph.without(torch.tensor([2, 0])).clamped.tolist() == [2, 0]


@given(any_graph, st.randoms())
@settings(max_examples=100, deadline=None)
def test_without(recipe, random):
    graph = build(recipe)
    index = random.sample(range(graph.num_spins), random.randint(0, graph.num_spins))
    part = graph.without(torch.tensor(index, dtype=torch.int64))
    free = [i for i in range(graph.num_spins) if i not in index]
    assert part.graph.kind == graph.kind and part.graph.num_spins == len(free)
    assert part.free.tolist() == free and part.clamped.tolist() == index
    assert list(part.graph.labels) == free
    left = [(free[i], free[j]) for i, j in edge_list(part.graph)]
    assert left == [(i, j) for i, j in edge_list(graph) if i in free and j in free]
    if graph.kind == "bipartite":
        assert part.graph.sizes == tuple(sum(i in free for i in side) for side in sides(graph))
    if graph.kind == "sparse":
        edges = edge_list(graph)
        cut = {(edges[e], free[f], index[c]) for e, f, c in part.cut.T.tolist()}
        assert cut == {((i, j), i, j) for i, j in edges if i in free and j in index} | {
            ((i, j), j, i) for i, j in edges if j in free and i in index
        }
        inside = {frozenset((index[a], index[b])) for _, a, b in part.inside.T.tolist()}
        assert inside == {
            frozenset(edge) for edge in edges if edge[0] in index and edge[1] in index
        }


def sides(graph):
    n, m = graph.sizes
    return range(n), range(n, n + m)


def test_without_keeps_labels():
    labels = ["a", ("b", 1), None, 3.5, frozenset("x")]
    for kind in KINDS:
        assert (
            list(a_graph(kind, labels).without(torch.tensor([3, 0])).graph.labels)
            == labels[1:3] + labels[4:]
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([0, 5]), r"spins in 0\.\.4"),
        (torch.tensor([-1]), r"spins in 0\.\.4"),
        (torch.tensor([1, 1]), "clamped twice"),
        (torch.tensor([[0], [1]]), r"spin numbers to clamp, \[c\]; got torch.int64 \[2, 1\]"),
        (torch.tensor([True, False, False, False, False]), "spin numbers"),  # a mask is not a list
        (torch.tensor([0.5]), "spin numbers"),
    ],
)
def test_bad_clamps(kind, index, message):
    graph = a_graph(kind)
    graph.without(torch.tensor([0, 1]))  # whatever is cached already
    with pytest.raises(ValueError, match=message):
        graph.without(index)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([(0, 1), (2, 2)], r"self-loop \(2, 2\)"),
        ([(0, 1), (1, 2), (0, 1)], r"edge \(0, 1\) is given 2 times"),
        ([(0, 1), (1, 2), (1, 0)], r"edge \(0, 1\) is given 2 times"),
        ([(0, 1), (1, 2), (1, 0), (1, 2), (2, 1)], r"edge \(0, 1\) is given 2 times"),
        ([(0, 1), (1, 3)], r"edge \(1, 3\) leaves the graph: expected spins 0\.\.2"),
        ([(-1, 1)], r"edge \(-1, 1\) leaves the graph"),
        ([(0, 1, 2)], r"pairs of spin numbers, \[k, 2\]"),
        (torch.tensor([[0.0, 1.0]]), "pairs of spin numbers"),
    ],
)
def test_bad_edges(edges, message):
    with pytest.raises(ValueError, match=message):
        Graph.sparse(3, edges)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: Graph.sparse(3, [], x),
        lambda x: Graph.bipartite(1, 2, x),
        lambda x: Graph.complete(3, x),
    ],
)
def test_labels(make):
    assert make("abc").index("ca").tolist() == [2, 0]
    assert make("abc").index([]).dtype == torch.int64
    for bad in ("ab", "abcd", "aba"):
        with pytest.raises(ValueError, match="expected 3 different labels"):
            make(bad)
    with pytest.raises(ValueError, match="no spin is labelled 'd'"):
        make("abc").index("ad")
    with pytest.raises(ValueError, match="given twice"):
        make("abc").index("aa")


def test_negative_sizes():
    for make in (
        lambda: Graph.sparse(-1, []),
        lambda: Graph.bipartite(2, -1),
        lambda: Graph.complete(-2),
    ):
        with pytest.raises(ValueError, match=">= 0; got -"):
            make()
