"""The draws of a numbering, by their digests: the same on every machine for good.

python -m tests.annealers.kernels.test_numbering  # writes tests/data: a new numbering
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import qsample as qs
from qsample.annealers import _engine
from qsample.annealers.kernels.native import Swept, sweep_bipartite, sweep_dense, sweep_sparse

RECORDED = Path(__file__).parents[2] / "data" / "numbering.json"
BETAS = torch.linspace(0.1, 2.0, 12)


def numbers(*shape: int, seed: int) -> torch.Tensor:
    """Whole numbers of -8 to 8 by a rule that no library can change, over 8."""
    count = torch.Size(shape).numel()
    values = [(seed + 1) * 7919 * (k + 3) ** 2 % 65537 % 17 - 8 for k in range(count)]
    return torch.tensor(values, dtype=torch.float32).reshape(shape) / 8


def sparse(problems: int, own_J: bool, n: int = 120) -> qs.Ising:
    """Each spin is coupled to six others; those of a batch share J or have one each."""
    edges = torch.tensor([(i, (i + k) % n) for i in range(n) for k in (1, 7, 31)])
    J = numbers(*([problems] if own_J else []), len(edges), seed=1)
    return qs.Ising(qs.Graph.sparse(n, edges), numbers(problems, n, seed=2), J)


def complete(n: int = 40) -> qs.Ising:
    J = numbers(n, n, seed=3).triu(1) / 4
    return qs.Ising(qs.Graph.complete(n), numbers(n, seed=4), J + J.T)


def bipartite(n: int = 70, m: int = 50) -> qs.Ising:
    h = numbers(n + m, seed=5)
    return qs.Ising(qs.Graph.bipartite(n, m), h, numbers(n, m, seed=6) / 8)


Sweep = Callable[..., Swept]
CASES: dict[str, tuple[Sweep, qs.Ising, int, torch.Tensor]] = {
    "one replica": (sweep_sparse, sparse(1, False), 1, BETAS),
    "many replicas": (sweep_sparse, sparse(1, False), 131, BETAS),
    "too cold to filter": (sweep_sparse, sparse(1, False), 64, BETAS * 1000),
    "J shared": (sweep_sparse, sparse(37, False), 3, BETAS),
    "a J each": (sweep_sparse, sparse(33, True), 1, BETAS),
    "dense": (sweep_dense, complete(), 67, BETAS),
    "bipartite, few": (sweep_bipartite, bipartite(), 5, BETAS),
    "bipartite, many": (sweep_bipartite, bipartite(), 200, BETAS),
}


def digest(case: str, rule: str, isa: str) -> str:
    """Of spins and energies, forward and back."""
    sweep, problem, num, betas = CASES[case]
    seeds = list(range(11, 11 + problem.batch_shape.numel()))
    swept = sweep(problem, num, betas, seeds, rule=rule, scan="palindromic", isa=isa)
    spins = swept.spins.contiguous().numpy().tobytes()
    return hashlib.sha256(spins + swept.energy.contiguous().numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", _engine.instruction_sets())
@pytest.mark.parametrize("case", CASES)
def test_a_numbering_keeps_its_draws(case: str, isa: str, threads: int) -> None:
    recorded = json.loads(RECORDED.read_text())
    assert recorded["numbering"] == _engine.NUMBERING, "a new numbering has digests of its own"
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rule in ("gibbs", "metropolis"):
            assert digest(case, rule, isa) == recorded[f"{case}, {rule}"], rule
    finally:
        torch.set_num_threads(before)


def write() -> None:
    """The digests of this build, by its plainest code."""
    isa = _engine.instruction_sets()[-1]
    found: dict[str, object] = {"numbering": _engine.NUMBERING}
    for case in CASES:
        found |= {f"{case}, {rule}": digest(case, rule, isa) for rule in ("gibbs", "metropolis")}
    RECORDED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    write()
