"""An RBM's weights spread over ranks: the draws of one process, bit for bit, on any mesh."""

import os
from typing import Any, NamedTuple

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.learning import columns, memory
from qsample.learning.checkpoint import CheckpointError, NoCheckpoint
from qsample.learning.columns import Columns, Place
from qsample.learning.distributed import Ranks
from qsample.learning.sharded import is_sharded, shard_hidden, whole_model
from qsample.learning.sharded_files import load_sharded, save_sharded
from qsample.models import BernoulliRBM

N = 20
M = 16
STEPS = 3


class Case(NamedTuple):
    """A run of a few steps."""

    start: Any = "persistent"
    rows: int = 8
    chains: int = 8
    side: int = columns.SIDE
    meta: bool = False


CASES = {
    "many pieces": Case(side=6),
    "from data, new weights": Case("data", side=6, meta=True),
    "one piece": Case(),
    "more chains than rows, one per half": Case("fresh", 4, 12),
    "more than 1024": Case("persistent", 8, 2048, side=8),
}
MESHES = {1: [(1,)], 2: [(2,)], 4: [(4,), (2, 2), (1, 4), (4, 1)]}


def rows(count: int, step: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return (torch.rand(count, N, generator=generator) < 0.4).float()


def rbm(case: Case = CASES["one piece"]) -> BernoulliRBM:
    with torch.device("meta" if case.meta else "cpu"):
        model = BernoulliRBM(N, M, scale=3.0, generator=torch.Generator().manual_seed(0))
    if not case.meta:
        with torch.no_grad():
            model.c.copy_(torch.linspace(-1, 1, M))
    return model


def net(model: BernoulliRBM, case: Case, **options: Any) -> qs.ContrastiveDivergence:
    return qs.ContrastiveDivergence(
        model,
        Gibbs(2),
        start=case.start,
        num=case.chains,
        exact_sums=True,
        generator=torch.Generator().manual_seed(7),
        **options,
    )


def whole(t: Any) -> torch.Tensor:
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def run(case: Case, shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Losses, reads, gradients and weights of all steps."""
    from torch.distributed.device_mesh import init_device_mesh

    columns.SIDE, before = case.side, columns.SIDE
    try:
        mesh = init_device_mesh("cpu", shape)
        model = shard_hidden(rbm(case), mesh, scale=3.0, generator=torch.Generator().manual_seed(1))
        cd = net(model, case)
        said = []
        for step in range(STEPS):
            cd.zero_grad()
            loss = cd(rows(case.rows, step))
            loss.backward()
            assert cd.samples is not None
            said += [loss.detach(), cd.samples.spins, cd.samples.energy, cd.chains]
            said += [whole(p.grad).clone() for p in model.parameters()]
            # by hand: torch's optimisers load the compiler, which takes seconds
            with torch.no_grad():
                for p in model.parameters():
                    assert p.grad is not None
                    p -= 0.5 * p.grad
        return [t.clone() for t in said] + [whole(p.detach()).clone() for p in model.parameters()]
    finally:
        columns.SIDE = before


def naive() -> torch.Tensor:
    """A half sweep as torch does it, of spread weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    W = distribute_tensor(rbm().W.detach(), mesh, [Shard(1)])
    torch.manual_seed(0)
    v = DTensor.from_local(rows(8), mesh, [Replicate()])
    bits: Any = torch.bernoulli((v @ W).sigmoid())
    return bits.full_tensor()


def refusals(rank: int, world: int) -> dict[str, str]:
    """What is said of what does not fit, or differs."""
    case = CASES["one piece"]
    model = shard_hidden(rbm())
    calls = {
        "hidden": lambda: shard_hidden(BernoulliRBM(N, 2 * world + 1)),
        "data": lambda: net(model, case)(rows(8, step=rank)),
        "ordinary": lambda: qs.ContrastiveDivergence(model, Gibbs(2)),
        "cd_loss": lambda: qs.cd_loss(model, rows(8), Gibbs(1).sample(rbm().ising(), 4)),
        "fit": lambda: qs.fit(model, rows(8), Gibbs(1), progress=False),
        "sampler": lambda: net(model, case, centred=True),
        "twice": lambda: shard_hidden(model),
    }
    said = {}
    for name, call in calls.items():
        try:
            call()
        except (ValueError, TypeError) as error:
            said[name] = str(error)
    return said


def adam(shape: tuple[int, ...], steps: int, folder: Any, resume: bool = False) -> Any:
    """Adam from a checkpoint, or to one: weights, chains and moments after so many steps."""
    from torch.distributed.device_mesh import init_device_mesh

    model = shard_hidden(rbm(), init_device_mesh("cpu", shape))
    cd = net(model, CASES["one piece"])
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    first = load_sharded(folder, cd, optimizer) if resume else 0
    for step in range(first, steps):
        optimizer.zero_grad()
        cd(rows(8, step)).backward()
        optimizer.step()
    if not resume:
        save_sharded(folder, cd, optimizer, step=steps)
    moments = [whole(optimizer.state[p]["exp_avg_sq"]) for p in model.parameters()]
    return [*(whole(p.detach()) for p in model.parameters()), cd.chains, *moments]


def go_on(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/again{world}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    if world == 4:
        adam((2, 2), 1, f"{folder}/run")
        adam((4,), 2, f"{folder}/run")  # over the one before
        adam((2, 2), 2, f"{folder}/run")
    else:
        result = {"resumed": adam((world,), 4, f"{folder}/run", resume=True)}
        result["whole"] = adam((world,), 4, f"{folder}/whole{world}")
        torch.save(result, f"{folder}/again{world}.{rank}")
    torch.distributed.barrier()
    os._exit(0)


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    result: dict[Any, Any] = {}
    for shape in MESHES[world]:
        result |= {(name, shape): run(case, shape) for name, case in CASES.items()}
    result["naive"] = naive()
    result["refused"] = refusals(rank, world)
    torch.save(result, f"{folder}/run.{rank}")
    torch.distributed.barrier()
    os._exit(0)


def results(world: int, folder: Any) -> list[dict[Any, Any]]:
    """What each of so many ranks found."""
    start_processes(work, (world, str(folder)), world, start_method="fork")
    return [torch.load(folder / f"run.{rank}") for rank in range(world)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process finds."""
    return results(1, tmp_path_factory.mktemp("alone"))[0]


# `test_exact_sums` draws such chains on two ranks in less time
@pytest.fixture(scope="module", params=[pytest.param(k, marks=pytest.mark.long) for k in (2, 4)])
def ranks(request, tmp_path_factory):
    import torch.distributed.tensor  # noqa: F401  # once, before the processes part

    return results(request.param, tmp_path_factory.mktemp("ranks"))


def forks(test: Any) -> Any:
    """A test of processes, in which torch says that its draws of shards are not to be relied on."""
    for warning in ("ignore:.*fork:DeprecationWarning", "ignore:DTensor random operators"):
        test = pytest.mark.filterwarnings(warning)(test)
    return test


@forks
@pytest.mark.parametrize("name", CASES)
def test_any_mesh_is_one_process_bit_for_bit(name, ranks, alone):
    for found in ranks:
        for shape in MESHES[len(ranks)]:
            for ours, theirs in zip(found[name, shape], alone[name, (1,)], strict=True):
                assert torch.equal(ours, theirs), shape


@forks
def test_bits_that_torch_draws_of_shards_fail_this_test(ranks, alone):
    for found in ranks:
        assert not torch.equal(found["naive"], alone["naive"])


@forks
def test_what_does_not_fit_is_one_line(ranks):
    world = len(ranks)
    for found in ranks:
        said = found["refused"]
        assert not any("\n" in line for line in said.values())
        assert said["hidden"] == (
            f"{2 * world + 1} hidden units do not divide over {world} ranks: "
            f"use a multiple of {world}"
        )
        assert (
            f"of {world}: values of the data of rank 1 differ from those of rank 0" in said["data"]
        )
        assert "without exact_sums=True is for weights on one rank" in said["ordinary"]
        assert said["cd_loss"].startswith("cd_loss is for weights on one rank")
        assert said["fit"].startswith("fit is for weights on one rank")
        assert said["sampler"].startswith("centred=True is for weights on one rank")
        assert said["twice"].startswith(
            "expected a BernoulliRBM of float32, on the CPU or meta, that is"
        )


@forks
@pytest.mark.long
def test_the_checkpoint_of_four_ranks_goes_on_with_two_and_with_one(tmp_path):
    for world in (4, 2, 1):
        start_processes(go_on, (world, str(tmp_path)), world, start_method="fork")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["step-00000002"]
    for world in (2, 1):
        found = torch.load(tmp_path / f"again{world}.0")
        for ours, theirs in zip(found["resumed"], found["whole"], strict=True):
            assert torch.equal(ours, theirs)


# ---- in one process ----------------


@pytest.fixture
def group():
    """A mesh of one rank, which `shard_hidden` makes; it is gone afterwards."""
    yield
    torch.distributed.destroy_process_group()


def test_one_rank_has_the_gradient_of_the_ordinary_loss(group):
    case = CASES["more chains than rows, one per half"]
    model = shard_hidden(rbm())
    assert is_sharded(model)
    cd = net(model, case)
    loss = cd(rows(case.rows))
    loss.backward()
    plain = whole_model(model)
    assert not is_sharded(plain)
    assert cd.samples is not None
    ordinary = qs.cd_loss(plain, rows(case.rows), cd.samples)
    ordinary.backward()
    torch.testing.assert_close(loss, ordinary)
    torch.testing.assert_close(cd.samples.energy, plain.ising().energy(cd.samples.spins))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(whole(ours.grad), theirs.grad, rtol=1e-4, atol=1e-5)


def test_chains_have_the_law(group):
    """Means of pairs after many sweeps, beside those of all states."""
    with torch.no_grad():
        model = BernoulliRBM(4, 3, scale=3.0, generator=torch.Generator().manual_seed(3))
        problem = model.ising().detach()
        exact = qs.annealers.Exact().sample(problem, 20_000, generator=torch.Generator())
        cd = qs.ContrastiveDivergence(
            shard_hidden(model), Gibbs(60), start="fresh", num=20_000, exact_sums=True
        )
        cd.generator = torch.Generator().manual_seed(0)
        cd(torch.zeros(4, 4))
    assert cd.samples is not None
    ours, theirs = (s.spins.double() for s in (cd.samples, exact))
    off = (ours.T @ ours - theirs.T @ theirs) / 20_000
    assert float(off.abs().max()) < 5 * (2 / 20_000) ** 0.5


def test_fields_are_those_of_double_precision_within_a_unit():
    generator = torch.Generator().manual_seed(2)
    W = torch.randn(2100, 1300, generator=generator)
    v = (torch.rand(3, 2100, generator=generator) < 0.5).float()
    h = (torch.rand(3, 1300, generator=generator) < 0.5).float()
    products = Columns(W, Place(Ranks(0, 1)))
    grid = W.div(products.unit).double().round() * products.unit
    assert products.unit < 2.0**-12
    assert torch.equal(products.from_left(v), (v.double() @ grid).float())
    right = products.values(products.from_right(h).wait())
    assert torch.equal(right, (h.double() @ grid.T).float())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3e38])
def test_weights_beyond_bounds_are_one_line(value):
    W = torch.zeros(4, 4)
    W[1, 2] = value
    with pytest.raises(ValueError, match="W holds a weight that is not finite"):
        Columns(W, Place(Ranks(0, 1)))


@pytest.mark.parametrize("size", [0.0, 1e-42, 1e-25, 1.0, 1e30])
def test_weights_of_any_size_have_finite_fields(size):
    W = torch.full((5, 3), size)
    products = Columns(W, Place(Ranks(0, 1)))
    assert torch.allclose(products.from_left(torch.ones(2, 5)), torch.full((2, 3), 5 * size))


def test_only_what_is_served_is_taken(group):
    model = shard_hidden(rbm())
    with pytest.raises(ValueError, match="does; got SimulatedAnnealing"):
        qs.ContrastiveDivergence(model, SimulatedAnnealing(), start="fresh", exact_sums=True)
    with pytest.raises(ValueError, match="forward and without betas"):
        qs.ContrastiveDivergence(model, Gibbs(2, scan="palindromic"), exact_sums=True)
    with pytest.raises(TypeError, match="float32, on the CPU or meta, that is whole; got Ber"):
        shard_hidden(BernoulliRBM(4, 4).double())


def test_what_will_not_fit_is_said_before(group, monkeypatch):
    with torch.device("meta"):
        model = BernoulliRBM(2**18, 2**17)
    with pytest.raises(MemoryError, match="an RBM of 262144 x 131072 .* needs 256.00 GiB more"):
        shard_hidden(model)
    cd = net(shard_hidden(rbm()), CASES["one piece"])
    monkeypatch.setattr(memory, "available", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"a step of an RBM with 20 x 16 weights on this rank"):
        cd(rows(8))


@pytest.mark.long
def test_a_checkpoint_of_another_model_is_one_line(group, tmp_path):
    case = CASES["one piece"]
    cd = net(shard_hidden(rbm()), case)
    with pytest.raises(NoCheckpoint, match="no checkpoint of spread weights in"):
        load_sharded(tmp_path / "none", cd)
    path = save_sharded(tmp_path, cd, step=3)
    assert load_sharded(tmp_path, net(rbm(), case)) == 3  # one that is whole
    other = net(shard_hidden(BernoulliRBM(N, M + 1)), case)
    with pytest.raises(
        CheckpointError, match=r"it holds model.W of shape \[20, 16\], not \[20, 17"
    ):
        load_sharded(tmp_path, other)
    with pytest.raises(CheckpointError, match=r"it holds chains of shape \[8, 36\], not \[6, 36"):
        load_sharded(tmp_path, net(shard_hidden(rbm()), case._replace(chains=6)))
    with pytest.raises(CheckpointError, match="it holds no optimizer: leave it out"):
        load_sharded(tmp_path, cd, torch.optim.SGD(cd.model.parameters(), 0.1))
    (path / ".metadata").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot resume") as error:
        load_sharded(tmp_path, cd)
    assert "\n" not in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot save step 4"):
        save_sharded(tmp_path / "file", cd, step=4)
