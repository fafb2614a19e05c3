"""Chains and statistics spread over ranks: on 1, 2 and 4 of them the same, bit for bit."""

import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.learning import exact_sums, large
from qsample.learning.distributed import RankLost, check_agree, share
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
    large.LARGE, before = 1 if case.large else large.LARGE, large.LARGE
    try:
        cd = net(case)
        optimizer = torch.optim.SGD(cd.model.parameters(), 0.5)
        said = []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = cd(rows(case.rows, step))
            loss.backward()
            assert cd.samples is not None
            said += [loss.detach(), cd.samples.spins, cd.samples.energy, cd.chains, cd.offsets]
            said += [p.grad.clone() for p in cd.model.parameters() if p.grad is not None]
            optimizer.step()
        return [t.clone() for t in said] + [p.detach().clone() for p in cd.model.parameters()]
    finally:
        large.LARGE = before


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


def work(rank: int, world: int, folder: str, name: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store{world}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    result: dict[str, Any] = {key: run(case) for key, case in CASES.items()}
    result["refused"] = refusals(rank)
    torch.save(result, f"{folder}/{name}{world}.{rank}")
    torch.distributed.barrier()
    if rank == world - 1:
        os._exit(0)  # as one that is killed: the others see it in their next exchange
    try:
        check_agree({"nothing": 0}, torch.device("cpu"))
    except RankLost as error:
        torch.save(str(error), f"{folder}/lost{world}.{rank}")
    os._exit(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for world in (2, 4):
        start_processes(work, (world, str(folder), "run"), world, start_method="fork")
    return folder


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_any_number_of_ranks_is_one_process_bit_for_bit(name, folder):
    alone = run(CASES[name])
    for world in (2, 4):
        for rank in range(world):
            ranks = torch.load(folder / f"run{world}.{rank}")[name]
            for ours, theirs in zip(ranks, alone, strict=True):
                assert torch.equal(ours, theirs) or (ours.isnan().all() and theirs.isnan().all())
