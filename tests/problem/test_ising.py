"""Energies, fields and clamps against pure Python over all states, in every combination of batch
dimensions.
"""

import itertools

import pytest
import torch

from qsample import Graph, Ising
from qsample.problem.exact_products import product
from tests.support.exact import (
    KINDS,
    a_graph,
    a_problem,
    all_states,
    coupling_list,
    one_by_one,
    slow_energy,
    untyped,
)

# batch dimensions of h, J and offset: alone, together, broadcast against each other, and none
LAYOUTS = [
    *itertools.product([(), (2,)], repeat=3),
    ((3, 1), (2,), ()),
    ((), (3, 2), (2,)),
    ((2,), (), (3, 1)),
    ((1,), (2,), ()),
]
STATES = torch.tensor(all_states(5), dtype=torch.int8)


def make(kind, layout=((), (), ())):
    h, J, offset = layout
    return a_problem(a_graph(kind), h=h, J=J, offset=offset)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_energy_and_field_of_all_states(kind, layout):
    problem = make(kind, layout)
    batch = torch.broadcast_shapes(*layout)
    assert problem.batch_shape == batch
    energy, field = problem.energy(STATES), problem.field(STATES)
    own = problem.energy(STATES.expand(*batch, -1, -1))
    assert energy.shape == (*batch, len(STATES)) or (batch == () and energy.shape == (len(STATES),))
    for at, one in one_by_one(problem):
        expected = torch.tensor([slow_energy(one, s) for s in STATES.tolist()], dtype=torch.float64)
        torch.testing.assert_close(energy[at], expected)
        torch.testing.assert_close(own[at], expected)
        slow = torch.empty(len(STATES), 5, dtype=torch.float64)
        for r, s in enumerate(STATES.tolist()):
            for i in range(5):
                neighbours = [J * s[a + b - i] for a, b, J in coupling_list(one) if i in (a, b)]
                slow[r, i] = float(one.h[i]) + sum(neighbours)
        # where no tensor of the batch enters a field (a batched offset), fields need not repeat it
        torch.testing.assert_close(field.expand(*batch, -1, -1)[at], slow)


@pytest.mark.parametrize("kind", KINDS)
def test_field_is_half_the_energy_of_a_flip_and_gives_the_conditional(kind):
    problem = make(kind)
    energy = {
        tuple(s): float(e) for s, e in zip(STATES.tolist(), problem.energy(STATES), strict=True)
    }
    field = problem.field(STATES)
    for r, s in enumerate(STATES.tolist()):
        for i in range(5):
            up, down = (energy[(*s[:i], sign, *s[i + 1 :])] for sign in (1, -1))
            assert float(field[r, i]) == pytest.approx((up - down) / 2)
            p = torch.tensor([-up, -down], dtype=torch.float64).softmax(0)[0]
            torch.testing.assert_close((-2 * field[r, i]).sigmoid(), p)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[7], LAYOUTS[8]])
def test_derivatives(kind, layout):
    problem = make(kind, layout)
    spins = STATES[::5]
    values = torch.tensor([[1, -1], [-1, -1]])[(slice(None),) * bool(problem.batch_shape)]

    def all_ways_out(h, values_of_J, offset, beta):
        p = Ising(problem.graph, h, problem.graph.couplings(values_of_J), offset)
        rest = p.clamp([4, 1], values).scale(beta)
        return (
            p.energy(spins),
            p.field(spins),
            rest.energy(STATES[:8, :3]),
            rest.field(STATES[:8, :3]),
        )

    J = problem.graph.edge_values(problem.J)
    leaves = [
        t.detach().clone().requires_grad_()
        for t in (problem.h, J, problem.offset, torch.tensor(0.7).double())
    ]
    assert torch.autograd.gradcheck(all_ways_out, leaves)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values_batch", [(), pytest.param((2,), marks=pytest.mark.long), (3, 2)])
def test_clamp_keeps_every_energy(kind, layout, values_batch):
    problem = make(kind, layout)
    g = torch.Generator().manual_seed(7)
    for count in range(6):
        index = torch.randperm(5, generator=g)[:count]
        free = [i for i in range(5) if i not in index.tolist()]
        values = torch.randint(2, (*values_batch, count), generator=g, dtype=torch.int8) * 2 - 1
        batch = torch.broadcast_shapes(problem.batch_shape, values_batch)
        rest = problem.clamp(index, values)
        assert rest.graph.kind == kind and rest.batch_shape == batch
        assert list(rest.graph.labels) == free
        states = torch.tensor(all_states(len(free)), dtype=torch.int8)
        joined = torch.empty(*batch, len(states), 5, dtype=torch.int8)
        joined[..., free], joined[..., index] = states, values[..., None, :]
        torch.testing.assert_close(rest.energy(states).expand(*batch, -1), problem.energy(joined))
        # the graph it leaves is a true one: fields agree too
        expected = problem.field(joined)[..., free]
        torch.testing.assert_close(rest.field(states).expand(expected.shape), expected)


def test_clamp_takes_lists_and_any_numbers():
    for kind in KINDS:
        problem = make(kind)
        expected = problem.clamp(torch.tensor([3, 0]), torch.tensor([1, -1], dtype=torch.int8))
        for index, values in (([3, 0], torch.tensor([1.0, -1.0])), ((3, 0), torch.tensor([1, -1]))):
            assert torch.equal(problem.clamp(index, values).h, expected.h)
        assert problem.clamp([], torch.empty(0)).num_spins == 5


def test_a_whole_side_is_taken_without_a_copy():
    """An RBM's conditional problems over 500 rows must not copy W for each, nor even once."""
    problem = make("bipartite")
    rest = problem.clamp([], torch.empty(4, 0))
    assert rest.J.data_ptr() == problem.J.data_ptr()
    for kind in KINDS:
        rest = make(kind).clamp([0, 1], torch.tensor([[1, -1]] * 6))
        # shared by the six
        assert rest.h.shape == (6, 3) and rest.J.shape == rest.graph.coupling_shape
    rest = problem.clamp([0, 1], torch.tensor([[1, -1]] * 6))
    assert rest.graph.sizes == (0, 3) and rest.J.shape == (0, 3)
    rest = problem.clamp([3, 2, 4], torch.tensor([[1, -1, 1]] * 6))
    assert rest.graph.sizes == (2, 0) and rest.J.shape == (2, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_clamp_twice_is_clamp_once(kind):
    problem = a_problem(a_graph(kind, "abcde"))
    once = problem.clamp([4, 0, 2], torch.tensor([1, -1, -1]))
    first = problem.clamp([0], torch.tensor([-1]))
    twice = first.clamp(first.graph.index("ec"), torch.tensor([1, -1]))
    assert list(twice.graph.labels) == list(once.graph.labels) == ["b", "d"]
    torch.testing.assert_close(twice.energy(STATES[:4, 3:]), once.energy(STATES[:4, 3:]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_scale(kind, layout):
    problem = make(kind, layout)
    batch = problem.batch_shape
    energy = problem.energy(STATES).expand(*batch, -1)
    torch.testing.assert_close(problem.scale(0.3).energy(STATES).expand(*batch, -1), 0.3 * energy)
    for shape in [(), batch, (4, *[1] * len(batch))]:
        beta = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        scaled = problem.scale(beta)
        assert (
            scaled.batch_shape == torch.broadcast_shapes(batch, shape)
            and scaled.dtype == torch.float64
        )
        expected = beta.double()[..., None] * energy
        torch.testing.assert_close(scaled.energy(STATES).expand(expected.shape), expected)


def test_from_edges_and_from_dense():
    h = torch.tensor([0.5, -1.0, 0.25])
    one = Ising.from_edges(h, [(2, 0), (1, 2)], torch.tensor([1.5, -0.5]), 2.0)
    J = torch.tensor([[0, 0, 1.5], [0, 0, -0.5], [1.5, -0.5, 0]])
    states = STATES[:8, 2:]
    torch.testing.assert_close(Ising.from_dense(h, J, 2.0).energy(states), one.energy(states))
    for bad, message in [
        (J.triu(), r"\(J \+ J\.T\)/2.*triu\(J,1\) \+ triu\(J,1\)\.T"),
        (J + torch.eye(3), "non-zero diagonal"),
        (J[:2], r"square J \[\*, n, n\]; got \[2, 3\]"),
        (h, "square J"),
        (torch.zeros(4, 4), r"expected h of shape \[\*, 4\]; got \[3\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            Ising.from_dense(h, bad)
    torch.testing.assert_close(
        Ising.from_dense(h, torch.stack([J, 2 * J])).energy(states)[0], one.energy(states) - 2.0
    )


@pytest.mark.parametrize(
    ("graph", "h", "J", "offset", "message"),
    [
        (Graph.sparse(3, [(0, 1)]), (3, 2), (1,), (), r"h of shape \[\*, 3\]; got \[3, 2\]"),
        (Graph.sparse(3, [(0, 1)]), (), (1,), (), r"h of shape \[\*, 3\]; got \[\]"),
        (
            Graph.sparse(3, [(0, 1)]),
            (3,),
            (2,),
            (),
            r"J of shape \[\*, 1\] \(sparse graph\); got \[2\]",
        ),
        (Graph.sparse(3, [(0, 1)]), (3,), (), (), r"J of shape .* got \[\]"),
        (
            Graph.bipartite(2, 1),
            (3,),
            (1, 2),
            (),
            r"J of shape \[\*, 2, 1\] \(bipartite graph\); got \[1, 2\]",
        ),
        (
            Graph.complete(3),
            (3,),
            (3,),
            (),
            r"J of shape \[\*, 3, 3\] \(complete graph\); got \[3\]",
        ),
        (
            Graph.complete(3),
            (2, 3),
            (4, 3, 3),
            (),
            r"h \[2, 3\], J \[4, 3, 3\], offset \[\] do not broadcast",
        ),
        (Graph.complete(3), (2, 3), (3, 3), (5,), "do not broadcast"),
    ],
)
def test_bad_shapes(graph, h, J, offset, message):
    with pytest.raises(ValueError, match=message):
        Ising(graph, torch.zeros(h), torch.zeros(J), torch.zeros(offset))


def test_bad_types_and_values():
    graph, h, J = Graph.sparse(2, [(0, 1)]), torch.zeros(2), torch.zeros(1)
    with pytest.raises(TypeError, match=r"floating-point h; got torch\.int64"):
        Ising(graph, h.long(), J)
    for bad in ((h, J.double()), (h, J, torch.tensor(0.0, dtype=torch.float16)), (h, J.to("meta"))):
        with pytest.raises(TypeError, match=r"like h, torch\.float32 on cpu; got"):
            Ising(graph, *bad)
    problem = Ising(graph, h, J)
    with pytest.raises(ValueError, match=r"spins of shape \[\*B, R, 2\]; got \[4, 3\]"):
        problem.energy(torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"spins of shape \[\*B, R, 2\]; got \[2\]"):
        problem.field(torch.ones(2))
    for bits in (torch.ones(4, 2) > 0, torch.ones(4, 2, dtype=torch.uint8)):
        for call in (problem.energy, problem.field):
            with (
                untyped(),
                pytest.raises(ValueError, match=r"2 \* spins.to\(torch.int8\) - 1 makes spins"),
            ):
                call(bits)
    for call in (problem.energy, problem.field):
        for kind in (torch.int8, torch.int64):
            with pytest.raises(ValueError, match=r"-1 and \+1; got 0: 2 \* bits - 1 makes"):
                call(torch.tensor([[0, 1]], dtype=kind))
        assert call(torch.tensor([[0.0, 1.0]])).isfinite().all()  # means may be any
    batch = Ising(graph, torch.zeros(3, 2), J)
    for call in (batch.energy, batch.field):
        with pytest.raises(
            ValueError, match=r"batch \[4\] of spins does not broadcast with the problem's \[3\]"
        ):
            call(torch.ones(4, 1, 2))
    with pytest.raises(
        ValueError, match=r"batch \[4\] of values does not broadcast with the problem's \[3\]"
    ):
        batch.clamp([0], torch.ones(4, 1))
    for values, message in [
        (torch.ones(3, 2), r"values of shape \[\*, 1\]; got \[3, 2\]"),
        (torch.tensor([0]), r"clamped values of -1 and \+1; got 0"),
        (torch.tensor([float("nan")]), r"clamped values of -1 and \+1; got nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            problem.clamp([0], values)


def test_to_and_detach():
    problem = make("complete", LAYOUTS[7])
    h = problem.h.requires_grad_()
    other = Ising(problem.graph, h, problem.J, problem.offset).detach().to(dtype=torch.float32)
    assert (other.dtype, other.J.dtype, other.offset.dtype) == (torch.float32,) * 3
    assert not other.h.requires_grad and other.to("meta").device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("R", "a", "b"), [(1, 9, 4), (9, 33, 9), (3, 65, 137), (16, 80, 1), (40, 200, 150), (5, 0, 3)]
)
def test_products_round_alike_for_any_batch_and_thread_count(R, a, b, dtype):
    """(The matrix library does not: its 7 products of 9 x 33 by 33 x 9 at once differ from one
    alone.)
    """
    g = torch.Generator().manual_seed(0)
    rows = (torch.randint(2, (7, R, a), generator=g) * 2 - 1).to(dtype)
    for J in (
        torch.randn(a, b, generator=g, dtype=dtype),
        torch.randn(7, a, b, generator=g, dtype=dtype),
    ):
        together = product(rows, J)
        torch.testing.assert_close(together, rows @ J)
        assert together.dtype == dtype
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert torch.equal(product(rows, J), together)
                for k in (0, 3, 6):
                    assert torch.equal(product(rows[k], J if J.dim() == 2 else J[k]), together[k])
        finally:
            torch.set_num_threads(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [(), (3,), (2, 3)])
def test_a_batch_flat_taken_and_one_by_one(kind, own):
    graph = a_graph(kind)
    h = torch.randn(2, 3, graph.num_spins, dtype=torch.float64)
    J = graph.couplings(torch.randn(*own, graph.num_edges, dtype=torch.float64))
    problem = Ising(graph, h, J, torch.randn(3, dtype=torch.float64))
    spins = torch.randint(2, (2, 3, 4, graph.num_spins)) * 2 - 1
    energy = problem.energy(spins).flatten(0, 1)
    flat = problem.flat()
    assert flat.h.shape == (6, graph.num_spins) and len(flat.J) == (6 if own else 1)
    assert torch.equal(flat.energy(spins.flatten(0, 1)), energy)
    places = torch.tensor([4, 1])
    assert torch.equal(problem.take(places).energy(spins.flatten(0, 1)[places]), energy[places])
    for k, single in enumerate(problem.unbind()):
        assert single.batch_shape == ()
        assert torch.equal(single.energy(spins.flatten(0, 1)[k]), energy[k])


def test_whole_spins_under_transforms():
    """Plain integers are looked at while a transform acts on others."""
    spins = torch.tensor([[1, -1, 1]], dtype=torch.int8)
    graph = Graph.sparse(3, [(0, 1), (1, 2)])

    def energy(h):
        return Ising(graph, h, torch.ones(2)).energy(spins).sum()

    h = torch.zeros(3)
    torch.testing.assert_close(torch.func.grad(energy)(h), spins[0].float())
    spins = 0 * spins
    with pytest.raises(ValueError, match="got 0"):
        torch.func.grad(energy)(h)
