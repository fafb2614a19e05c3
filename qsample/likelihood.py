"""How likely the data are under a model: exact where enumeration can, annealed importance sampling beyond."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from qsample import enumerate as enumeration
from qsample.annealers import treewidth
from qsample.annealers.exact import Exact
from qsample.annealers.importance import AnnealedImportance
from qsample.ising import Ising
from qsample.sampler import check_finite
from qsample.samples import Estimate
from qsample.wrapped import bare

if TYPE_CHECKING:
    from qsample.models import EnergyModel

Method = Literal["auto", "exact", "ais"]
EXACT_LIMIT = 24  # spins listed: 2^24 states


@torch.no_grad()
def log_partition(
    problem: Ising,
    method: Method = "auto",
    *,
    steps: int = 1000,
    chains: int = 256,
    base: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Estimate:
    """Log Z = log of the sum over all states of exp(-E), in double precision.

    Args:
        problem: one problem or, for the exact method, a batch.
        method: "exact" lists the states (a bipartite problem: of its smaller side), up to 2^24, or goes by tree
            decomposition where a sparse graph is narrow enough; "ais" is annealed importance sampling, as in
            `AnnealedImportance`; "auto" is exact where it can be.
        steps: temperatures of the annealing run.
        chains: independent runs.
        base: fields `[n]` of the independent spins the run starts from; by default the problem's own fields.
        generator: randomness of "ais".

    Returns:
        `Estimate`, stderr 0 where exact. From AIS, `exp(value)` is unbiased for Z, so the value is low on average;
        `ess` is the effective number of runs, and `note` warns where it is under 10.

    Raises:
        ValueError: exact was asked for and too large, or AIS for a batch; numbers that are not finite.
    """
    check_finite(problem)
    problem = problem.detach().to(dtype=torch.float64)
    if method not in ("auto", "exact", "ais"):
        raise ValueError(f"unknown method {method!r}; expected auto, exact or ais")
    small = enumeration.num_enumerated(problem) <= EXACT_LIMIT
    narrow = not small and problem.graph.kind == "sparse" and bool(treewidth.elimination(problem.graph)[1])
    if method == "exact" or (method == "auto" and (small or narrow)):
        tree = Exact().sample(problem, 1).info if narrow else {}
        value = tree["log_partition"] if narrow else enumeration.log_partition(problem, EXACT_LIMIT)
        return Estimate(float(value), 0.0) if value.dim() == 0 else Estimate(value, torch.zeros_like(value))
    if problem.batch_shape:
        raise ValueError(f"ais takes one problem at a time; got a batch {list(problem.batch_shape)}")
    if steps < 1 or chains < 2:
        raise ValueError(f"expected steps >= 1 and chains >= 2; got {steps} and {chains}")
    found = AnnealedImportance(steps, base=base).sample(problem, chains, generator=generator).info
    value, stderr, ess = (float(found[name]) for name in ("log_partition", "log_partition_stderr", "ess"))
    return Estimate(value, stderr, ess, found["note"].replace("sweeps", "steps"))


@torch.no_grad()
def log_likelihood(model: EnergyModel, data: Tensor, method: Method = "auto", **options: object) -> Estimate:
    """Mean log p(x) over the rows of `data`, nats a row: -F(x) - log Z, in double precision.

    Coupled hidden units are summed by enumeration, up to 24 of them. `options` go to `log_partition`; the stderr is
    that of log Z (the data are taken as given).
    """
    model = copy.deepcopy(bare(model)).double()
    data = model.check_rows(data).double()
    if model.tractable:
        free = torch.cat([model.free_energy(rows) for rows in data.split(4096)])
    else:
        at_once = max(1, min(4096, (1 << 22) >> model.num_hidden))  # rows, each with 2^num_hidden numbers
        free = -torch.cat(
            [enumeration.log_partition(model.ising(visible=rows), EXACT_LIMIT) for rows in data.split(at_once)]
        )
    log_z = log_partition(model.ising(), method, **options)  # pyright: ignore[reportArgumentType]
    return Estimate(-float(free.mean()) - log_z.value, log_z.stderr, log_z.ess, log_z.note)


@torch.no_grad()
def pseudo_log_likelihood(model: EnergyModel, data: Tensor) -> float:
    r"""Mean over rows of $\sum_i \log P(x_i \mid x_{\setminus i})$, nats a row, hidden units summed out (Besag 1975).

    It grows with the number of visible units; compare models of the same data only. Needs a tractable free energy.
    """
    model = bare(model)
    data = model.check_rows(data).to(next(model.parameters()))
    d, total = model.num_visible, 0.0
    one = torch.eye(d, dtype=data.dtype, device=data.device)
    for rows in data.split(max(1, (1 << 22) // (d * max(d, model.num_hidden)))):
        flipped = (rows[:, None] - one).abs() if model.coding == "bits" else rows[:, None] * (1 - 2 * one)
        change = model.free_energy(rows)[:, None] - model.free_energy(flipped.flatten(0, 1)).reshape(-1, d)
        total -= float(torch.nn.functional.softplus(change.double()).sum())
    return total / len(data)
