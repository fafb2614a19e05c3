"""Chains and statistics spread over ranks: on 1, 2 and 4 of them the same, bit for bit."""

import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.learning import by_products, columns, exact_sums, sharded
from qsample.learning.columns import Columns, Place
from qsample.learning.distributed import (
    ALONE,
    RankLost,
    check_agree,
    everyone,
    gathered,
    share,
)
from qsample.learning.exact_sums import Counts
from qsample.models import BernoulliRBM, BoltzmannMachine

N = 20
M = 12
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A run of a few steps."""

    start: Any
    rows: int
    chains: int
    centred: bool = False
    large: bool = False


CASES = {
    "data": Case("data", 8, 8),
    "persistent": Case("persistent", 8, 8),
    "more chains than rows, centred": Case("persistent", 4, 12, centred=True),
    "odd shares": Case("fresh", 12, 4),
    "more than 1024": Case("persistent", 8, 2048),
    "products with W": Case("persistent", 8, 8, large=True),
    "products with W, from data": Case("data", 8, 8, large=True),
}


def rows(count: int, step: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return (torch.rand(count, N, generator=generator) < 0.4).float()


def net(case: Case, seed: int = 7) -> qs.ContrastiveDivergence:
    model = BernoulliRBM(N, M, scale=3.0, generator=torch.Generator().manual_seed(0))
    return qs.ContrastiveDivergence(
        model,
        Gibbs(2),
        start=case.start,
        num=case.chains,
        centred=case.centred,
        exact_sums=True,
        generator=torch.Generator().manual_seed(seed),
    )


def run(case: Case) -> list[torch.Tensor]:
    """Losses, reads, gradients and weights of all steps."""
    by_products.LARGE, before = 1 if case.large else by_products.LARGE, by_products.LARGE
    try:
        cd = net(case)
        said = []
        for step in range(STEPS):
            cd.zero_grad()
            loss = cd(rows(case.rows, step))
            loss.backward()
            assert cd.samples is not None
            said += [loss.detach(), cd.samples.spins, cd.samples.energy, cd.chains, cd.offsets]
            # by hand: torch's optimisers load the compiler, which takes seconds
            with torch.no_grad():
                for p in cd.model.parameters():
                    assert p.grad is not None
                    said.append(p.grad.clone())
                    p -= 0.5 * p.grad
        return [t.clone() for t in said] + [p.detach().clone() for p in cd.model.parameters()]
    finally:
        by_products.LARGE = before


def spread() -> list[torch.Tensor]:
    """Chains and fields of weights that are spread over all ranks, in pieces of 8."""
    columns.SIDE, before = 8, columns.SIDE
    try:
        weights = [p.detach() for p in net(CASES["data"]).model.parameters()]
        mine = share(M, "hidden units")
        own = (weights[0][:, mine].contiguous(), weights[1], torch.linspace(-1, 1, M)[mine])
        place = Place(ALONE, everyone(), mine.start, M)
        products = Columns(own[0], place)
        found = sharded.chains(own, Gibbs(3), None, 7, 5, products, None, 0)
        fields = gathered(products.from_left(rows(5)).T).T
        return [found.spins, found.energy, fields]
    finally:
        columns.SIDE = before


def refusals(rank: int) -> list[str]:
    """What is said where ranks differ, or do not divide."""
    case = CASES["persistent"]
    calls = [
        lambda: net(case)(rows(8, step=rank)),
        lambda: net(case, seed=rank)(rows(8)),
        lambda: net(Case("persistent", 8, 7))(rows(8)),
        lambda: net(case)(rows(7)),
    ]
    said = []
    for call in calls:
        try:
            call()
        except ValueError as error:
            said.append(str(error))
    return said


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    result: dict[str, Any] = {key: run(case) for key, case in CASES.items()}
    result["refused"] = refusals(rank)
    result["spread"] = spread()
    torch.save(result, f"{folder}/run.{rank}")
    torch.distributed.barrier()
    if rank == world - 1:
        os._exit(0)  # as one that is killed: the others see it in their next exchange
    try:
        check_agree({"nothing": 0}, torch.device("cpu"))
    except RankLost as error:
        torch.save(str(error), f"{folder}/lost.{rank}")
    os._exit(0)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.long)])
def ranks(request, tmp_path_factory):
    """What each rank found, of the runs on so many."""
    world = request.param
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(work, (world, str(folder)), world, start_method="fork")
    found = [torch.load(folder / f"run.{rank}") for rank in range(world)]
    found[0]["lost"] = torch.load(folder / "lost.0")
    return found


FORKS = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@FORKS
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_ranks_is_one_process_bit_for_bit(name, ranks):
    alone = run(CASES[name])
    for found in ranks:
        for ours, theirs in zip(found[name], alone, strict=True):
            assert torch.equal(ours, theirs) or (ours.isnan().all() and theirs.isnan().all())


@FORKS
def test_chains_of_spread_weights_are_those_of_one_process(ranks):
    """With meshes, gradients and checkpoints in `test_sharded`."""
    alone = spread()
    for found in ranks:
        for ours, theirs in zip(found["spread"], alone, strict=True):
            assert torch.equal(ours, theirs)


@FORKS
def test_ranks_that_differ_are_told_which(ranks):
    world = len(ranks)
    data, seeds, chains, odd = ranks[1]["refused"]
    assert f"rank 1 of {world}: values of the data of rank 1 differ from those of rank 0" in data
    assert "give every rank the same" in data
    assert "seeds of rank 1 differ from those of rank 0" in seeds
    assert chains == f"7 chains do not divide over {world} ranks: use a multiple of {world}"
    assert odd.startswith(f"7 rows of data do not divide over {world} ranks")


@FORKS
def test_a_rank_that_ends_is_told_in_one_line(ranks):
    said = ranks[0]["lost"]
    assert "\n" not in said
    assert f"rank 0 of {len(ranks)} lost another one" in said
    assert "the last checkpoint is good" in said


# ---- a control ----------------


def naive(rank: int, world: int, folder: str) -> None:
    """Bits of sharded probabilities, as torch draws them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    store = f"file://{folder}/store{world}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    for axis in (0, 1):
        sharded = distribute_tensor(torch.full((8, 16), 0.5), mesh, [Shard(axis)])
        torch.manual_seed(0)
        bits: Any = torch.bernoulli(sharded)
        whole = bits.full_tensor()
        if rank == 0:
            torch.save(whole, f"{folder}/bits{world}.{axis}")
    torch.distributed.destroy_process_group()


@FORKS
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:DTensor random operators")  # on a CPU, as shown here
@pytest.mark.parametrize("axis", [0, 1])
def test_bits_that_torch_draws_of_shards_fail_this_test(axis, tmp_path):
    """What the tests above ask of ours: the bits of one process, on two ranks and on four."""
    torch.manual_seed(0)
    alone = torch.bernoulli(torch.full((8, 16), 0.5))
    same = []
    for world in (2, 4):
        start_processes(naive, (world, str(tmp_path)), world, start_method="fork")
        bits = torch.load(tmp_path / f"bits{world}.{axis}")
        same.append(torch.equal(bits, alone))
        # worse, on a CPU: all shards are alike
        first, *others = bits.chunk(world, axis)
        assert all(torch.equal(first, other) for other in others)
    assert not any(same)


# ---- in one process ----------------


def test_the_gradient_is_that_of_the_ordinary_loss_within_half_a_unit():
    case = CASES["more chains than rows, centred"]
    cd = net(Case(case.start, case.rows, case.chains))
    loss = cd(rows(case.rows))
    loss.backward()
    ours = [p.grad.clone() for p in cd.model.parameters() if p.grad is not None]
    cd.zero_grad()
    assert cd.samples is not None
    ordinary = qs.cd_loss(cd.model, rows(case.rows), cd.samples)
    ordinary.backward()
    torch.testing.assert_close(loss, ordinary)
    for a, p in zip(ours, cd.model.parameters(), strict=True):
        # each of the two means may be off by half a unit, and a field by its own rounding
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=Counts(4, 12).unit + 1e-6)


@pytest.mark.parametrize(("counts", "bits"), [((512, 8), 15), ((8, 1024), 14), ((8, 2048), 15)])
def test_the_unit_leaves_24_bits_for_a_sum(counts, bits):
    assert Counts(*counts).unit == 2.0**-bits
    p = exact_sums.probabilities(torch.randn(100, 3), Counts(*counts))
    assert torch.equal(p * 2.0**bits, (p * 2.0**bits).round())


def test_sums_that_are_not_rounded_depend_on_their_order():
    """What the unit is for: the same sum in two halves, and a control without the rounding."""
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(512, 50, generator=generator)
    x = (torch.rand(512, 40, generator=generator) < 0.5).float()
    rounded = (p / Counts(512, 512).unit).round() * Counts(512, 512).unit
    halves = [slice(0, 256), slice(256, 512)]
    for values, same in ((rounded, True), (p, False)):
        whole = x.T @ values
        parts = sum(x[half].T @ values[half] for half in halves)
        assert torch.equal(whole, parts) == same  # pyright: ignore[reportArgumentType]


def test_reads_are_numbered_from_the_first_replica():
    rbm = BernoulliRBM(N, M, scale=3.0, generator=torch.Generator().manual_seed(0)).ising()
    sparse = qs.Ising.from_edges(torch.ones(3) / 9, [(0, 1), (1, 2)], torch.ones(2))
    for problem, num in ((rbm, 128), (sparse, 16)):
        whole = Gibbs(3).sample(problem, num, generator=torch.Generator().manual_seed(3))
        for first in (num // 2, num // 2 - 3):
            part = Gibbs(3, first_replica=first).sample(
                problem, num - first, generator=torch.Generator().manual_seed(3)
            )
            assert torch.equal(part.spins, whole.spins[first:])
            assert torch.equal(part.energy, whole.energy[first:])


def test_what_has_no_numbered_replicas_or_exact_sums_is_refused():
    model = BernoulliRBM(4, 3)
    made = qs.ContrastiveDivergence
    dense = BoltzmannMachine(qs.Graph.complete(4), hidden=[3])
    with pytest.raises(ValueError, match="exact_sums is for a BernoulliRBM of float32"):
        made(dense, Gibbs(), exact_sums=True)
    with pytest.raises(ValueError, match="got BernoulliRBM of torch.float64"):
        made(BernoulliRBM(4, 3).double(), Gibbs(), exact_sums=True)
    with pytest.raises(ValueError, match=r"Gibbs\(...\) does; got SimulatedAnnealing"):
        made(model, SimulatedAnnealing(), start="fresh", exact_sums=True)
    with pytest.raises(ValueError, match="chains of equal weight"):
        made(model, Gibbs(), start="jarzynski", exact_sums=True)
    cd = made(model, Gibbs(1), exact_sums=True, num=4)
    with pytest.raises(ValueError, match="leave data_weight out"):
        cd(torch.ones(4, 4), data_weight=torch.ones(4))
    with pytest.raises(ValueError, match="first_replica=2 is for sparse and bipartite problems"):
        Gibbs(first_replica=2).sample(qs.Ising.from_dense(torch.ones(3), torch.zeros(3, 3)), 4)


def test_one_process_has_all_of_it():
    assert share(7, "chains") == slice(0, 7)
    check_agree({"chains": 3}, torch.device("cpu"))
