"""A batch with a generator per problem draws what its problems draw alone: bit for bit."""

from collections.abc import Sequence

import pytest
import torch

from qsample import Ising, Samples
from tests.support.problems import SHAPES, random_problem
from tests.support.samplers import LOCAL, pairs
from tests.support.seeds import generator
from tests.support.thinning import thinned

# Of so few reads, some have few effective runs: what is asked here is which they are.
pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")

ITEMS = 4
READS = 8


def generators(items: Sequence[int] = range(ITEMS)):
    return [generator(100 + k) for k in items]


def item(batch, k):
    """Problem k of a batch by its fields, whose couplings are shared or its own."""
    J = batch.J
    if J.dim() > len(batch.graph.coupling_shape):
        J = J[k % len(J)]
    return Ising(batch.graph, batch.h[k], J, batch.offset[k])


def assert_row(together, k, alone):
    """Row k of the answer to a batch is the answer to the problem alone, all that it says."""
    assert torch.equal(together.spins[k], alone.spins)
    assert torch.equal(together.energy[k], alone.energy)
    for name in ("log_weight", "family"):
        value = getattr(alone, name)
        assert value is None or torch.equal(getattr(together, name)[k], value), name
    for name, value in alone.info.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(together.info[name][k], value), name


@pytest.mark.parametrize(
    ("J_batch", "dtype"),
    [((), torch.float32), ((ITEMS,), torch.float32), ((1,), torch.float64)],
    ids=["J shared", "J of each", "J shared, double"],
)
@pytest.mark.parametrize(("name", "shape"), thinned(pairs(SHAPES), 14))
def test_a_batch_of_four_is_four_singles(name, shape, J_batch, dtype):
    sampler = LOCAL[name].quick
    plain = random_problem(shape, (ITEMS,), J_batch, dtype)
    offset = torch.randn(ITEMS, generator=generator(3), dtype=dtype)
    batch = Ising(plain.graph, plain.h, plain.J, offset)

    together = sampler.sample(batch, READS, generator=generators())
    assert together.spins.shape == (ITEMS, READS, batch.num_spins)
    assert together.spins.dtype == torch.int8
    assert together.energy.dtype == dtype
    for k, own in enumerate(generators()):
        assert_row(together, k, sampler.sample(item(batch, k), READS, generator=own))

    # Other problems around it change nothing either.
    chosen = [1, 3]
    J = batch.J[chosen] if J_batch == (ITEMS,) else batch.J
    pair = Ising(batch.graph, batch.h[chosen], J, batch.offset[chosen])
    answer = sampler.sample(pair, READS, generator=generators(chosen))
    assert torch.equal(answer.spins, together.spins[chosen])
    assert torch.equal(answer.energy, together.energy[chosen])

    if sampler.warm_start:
        weight = torch.randn(ITEMS, READS, generator=generator(4))
        start = Samples(together.spins, together.energy, weight)
        again = sampler.sample(batch, READS, initial=start, generator=generators())
        for k, own in enumerate(generators()):
            mine = Samples(start.spins[k], start.energy[k], weight[k])
            alone = sampler.sample(item(batch, k), READS, initial=mine, generator=own)
            assert_row(again, k, alone)
