"""Learning in two processes: chains of their own from one seed, offsets of all; DDP and FSDP2."""

from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from qsample import ContrastiveDivergence, cd_loss
from qsample.annealers import Gibbs
from qsample.learning.distributed import mean_of_ranks, own_generator
from qsample.models import BernoulliRBM

WORLD, STEPS = 2, 3


def rows(rank):
    return (torch.rand(6, 5, generator=torch.Generator().manual_seed(rank)) < 0.5).double()


def net(start):
    model = BernoulliRBM(5, 3, generator=torch.Generator().manual_seed(0)).double()
    return ContrastiveDivergence(
        model,
        Gibbs(2),
        num=6,
        start=start,
        centred=True,
        generator=torch.Generator().manual_seed(7),
    )


def wrapped(kind: str, cd: ContrastiveDivergence) -> Any:
    if kind == "ddp":
        return DistributedDataParallel(cd)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(cd, mesh=init_device_mesh("cpu", (WORLD,)))


def work(rank, folder, kinds):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD)
    results = {}
    for kind in kinds:
        cd = net("persistent")
        many, chains, reads = wrapped(kind, cd), [], []
        optimizer = torch.optim.SGD(many.parameters(), 0.1)
        for _ in range(STEPS):
            optimizer.zero_grad()
            many(rows(rank)).backward()
            assert cd.samples is not None
            optimizer.step()
            chains.append(cd.chains.clone())
            reads.append(cd.samples.spins.clone())
        whole = [getattr(p, "full_tensor", lambda p=p: p)().detach() for p in cd.model.parameters()]
        results[kind] = chains, reads, cd.offsets, whole
    cd = net("data")
    cd(rows(0))
    assert cd.samples is not None
    results["data"] = cd.samples.spins
    results["refused"] = refusals()
    torch.save(results, f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def refusals():
    said = []
    cd = net("data")
    model, reads = DistributedDataParallel(cd.model), Gibbs(1).sample(cd.model.ising(), 2)
    for call in (
        lambda: ContrastiveDivergence(model, Gibbs()),  # pyright: ignore
        lambda: cd_loss(model, rows(0), reads),  # pyright: ignore
    ):
        try:
            call()
        except TypeError as error:
            said.append(str(error))
    return said


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    start_processes(work, (str(folder), ("ddp", "fsdp")), WORLD, start_method="fork")
    return [torch.load(folder / str(rank)) for rank in range(WORLD)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_chains_of_each_rank_survive_and_are_no_copies(kind, runs):
    (chains, reads, offsets, weights), (other, _, other_offsets, other_weights) = (
        run[kind] for run in runs
    )
    for step in range(STEPS):
        assert torch.equal(chains[step], reads[step])  # nobody wrote them over
        assert not torch.equal(chains[step], other[step])
    assert torch.equal(runs[1][kind][0][-1], runs[1][kind][1][-1])
    assert torch.equal(offsets, other_offsets)
    for a, b in zip(weights, other_weights, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_ranks_together_are_one_process_that_averages_their_losses(runs, monkeypatch):
    """The same run by hand, rank after rank in this process, with the offsets' means over both."""
    nets = [net("persistent") for _ in range(WORLD)]
    model = nets[0].model
    for cd in nets:
        cd.model = model
    for _ in range(STEPS):
        model.zero_grad()
        means: list = [None] * WORLD
        for turn in range(2):  # first the means, then the losses that take their average
            for rank, cd in enumerate(nets):
                kept = cd.chains.clone(), cd.offsets.clone(), cd.generator.get_state()  # pyright: ignore
                monkeypatch.setattr(
                    "qsample.learning.distributed.world", lambda rank=rank: (rank, WORLD)
                )

                def mean(t, rank=rank, turn=turn, means=means):
                    means[rank] = t if turn == 0 else means[rank]
                    return t if turn == 0 else (means[0] + means[1]) / 2

                monkeypatch.setattr("qsample.learning.contrastive.mean_of_ranks", mean)
                loss = cd(rows(rank))
                if turn == 0:
                    cd.chains, cd.offsets = kept[:2]
                    cd.generator.set_state(kept[2])  # pyright: ignore
                else:
                    (loss / WORLD).backward()
        with torch.no_grad():
            for p in model.parameters():
                assert p.grad is not None
                p -= 0.1 * p.grad
    for kind in ("ddp", "fsdp"):
        for rank, cd in enumerate(nets):
            chains, _, offsets, weights = runs[rank][kind]
            assert torch.equal(chains[-1], cd.chains)
            torch.testing.assert_close(offsets, cd.offsets)
            for a, b in zip(weights, model.parameters(), strict=True):
                torch.testing.assert_close(a, b.detach())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_same_rows_on_all_ranks_draw_other_hidden_units(runs):
    assert not torch.equal(runs[0]["data"], runs[1]["data"])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_model_under_ddp_names_what_averages_its_gradients(runs):
    said = runs[0]["refused"]
    assert len(said) == 2
    for line in said:
        assert "DistributedDataParallel around BernoulliRBM: pass its .module" in line
        assert "DistributedDataParallel(ContrastiveDivergence(model.module, ...))" in line


def test_one_process_draws_from_the_generator_itself():
    generator = torch.Generator()
    assert own_generator(generator) is generator and own_generator(None) is None
    t = torch.ones(2)
    assert mean_of_ranks(t) is t


def test_streams_of_ranks_differ_and_repeat(monkeypatch):
    seeds = set()
    for rank in range(8):
        monkeypatch.setattr("qsample.learning.distributed.world", lambda rank=rank: (rank, 8))
        ours = [own_generator(torch.Generator().manual_seed(3)) for _ in range(2)]
        drawn = {int(torch.randint(2**60, (), generator=g)) for g in ours}
        assert len(drawn) == 1
        seeds |= drawn
    assert len(seeds) == 8
