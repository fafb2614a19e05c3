"""How likely the data are under a model: exact where enumeration can, annealed importance sampling beyond."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from qsample.annealers import treewidth
from qsample.annealers.annealed_importance import AnnealedImportance
from qsample.annealers.exact import Exact
from qsample.problem import enumeration
from qsample.problem.ising import Ising
from qsample.sampling.sampler import check_finite
from qsample.sampling.samples import Estimate, warn_of
from qsample.support.checks import evenly
from qsample.support.wrapped import bare

if TYPE_CHECKING:
    from qsample.models import EnergyModel

Method = Literal["auto", "exact", "ais"]
EXACT_LIMIT = 24  # spins listed: 2^24 states


def log_partition(
    problem: Ising,
    method: Method = "auto",
    *,
    steps: int = 1000,
    chains: int = 256,
    base: Tensor | None = None,
    starts: Tensor | None = None,
    check: bool = True,
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
        starts: rows `[S, n]` of spins from which basins are sought too, such as data; random rows and local minima
            of the energy always are.
        check: compare the run with others that begin in each basin found, as in `AnnealedImportance`; about
            doubles the cost.
        generator: randomness of "ais".

    Returns:
        `Estimate`, stderr 0 where exact. From AIS, `exp(value)` is unbiased for Z, so the value is low on average;
        `ess` is the effective number of runs. `note`, which is a `ReliabilityWarning` too, says where that is under
        10, and where runs that begin elsewhere see a mode which the run misses: value and error then count it.

    Raises:
        ValueError: exact was asked for and too large, or AIS for a batch; numbers that are not finite.
    """
    options = {"steps": steps, "chains": chains, "base": base, "starts": starts, "check": check}
    found = _log_partition(problem, method, generator=generator, **options)
    warn_of(found.note)
    return found


@torch.no_grad()
def _log_partition(
    problem: Ising,
    method: Method,
    *,
    steps: int = 1000,
    chains: int = 256,
    base: Tensor | None = None,
    starts: Tensor | None = None,
    check: bool = True,
    generator: torch.Generator | None = None,
) -> Estimate:
    """`log_partition` without its warning."""
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
    sampler = AnnealedImportance(steps, base=base, check=check)
    found = sampler.annealed(problem, chains, generator=generator, starts=starts).info
    value, stderr, ess = (float(found[name]) for name in ("log_partition", "log_partition_stderr", "ess"))
    return Estimate(value, stderr, ess, found["note"].replace("sweeps", "steps"))


def log_likelihood(
    model: EnergyModel,
    data: Tensor,
    method: Method = "auto",
    *,
    log_z: Estimate | None = None,
    **options: object,
) -> Estimate:
    """Mean log p(x) over the rows of `data`, nats a row: -F(x) - log Z, in double precision.

    Coupled hidden units are summed by enumeration, up to 24 of them. `options` go to `log_partition`; the stderr is
    that of log Z (the data are taken as given). AIS starts from the units' means given the data, smoothed by one
    count of each value, and its check begins from the data too; a `base` or `starts` of your own goes before.

    Args:
        model: an energy model.
        data: rows `[N, n_visible]` in the model's coding.
        method: of log Z, see `log_partition`.
        log_z: log Z where it is known, from `model_log_partition`: it is not found again, nor its note repeated.
        options: of `log_partition`.
    """
    found = _log_likelihood(model, data, method, log_z, options)
    if log_z is None:
        warn_of(found.note)
    return found


def model_log_partition(model: EnergyModel, data: Tensor, method: Method = "auto", **options: object) -> Estimate:
    """Log Z of a model as `log_likelihood` finds it, by AIS from the data's means, for several sets of rows."""
    with torch.no_grad():
        wide = copy.deepcopy(bare(model)).double()
        found = _model_log_partition(wide, wide.check_rows(data).double(), method, options)
    warn_of(found.note)
    return found


@torch.no_grad()
def _log_likelihood(
    model: EnergyModel, data: Tensor, method: Method, log_z: Estimate | None, options: dict[str, Any]
) -> Estimate:
    model = copy.deepcopy(bare(model)).double()
    data = model.check_rows(data).double()
    if model.tractable:
        free = torch.cat([model.free_energy(rows) for rows in data.split(4096)])
    else:
        at_once = max(1, min(4096, (1 << 22) >> model.num_hidden))  # rows, each with 2^num_hidden numbers
        free = -torch.cat(
            [enumeration.log_partition(model.ising(visible=rows), EXACT_LIMIT) for rows in data.split(at_once)]
        )
    if log_z is None:
        log_z = _model_log_partition(model, data, method, options)
    return Estimate(-float(free.mean()) - log_z.value, log_z.stderr, log_z.ess, log_z.note)


def _model_log_partition(model: EnergyModel, data: Tensor, method: Method, options: dict[str, Any]) -> Estimate:
    mean, starts = _units_of_data(model, data)
    return _log_partition(model.ising(), method, **{"base": -torch.atanh(mean), "starts": starts, **options})


def _units_of_data(model: EnergyModel, data: Tensor) -> tuple[Tensor, Tensor]:
    """Mean spins `[n]` over the data, smoothed by one count of each value, and rows `[S, n]` of spins like them.

    Hidden spins are those given the visible ones, each in its own field alone where they are coupled.
    """
    rows = data[evenly(len(data), 1024).to(data.device)]
    hidden = -model.ising(visible=rows).h.tanh()
    spins = torch.empty(len(rows), model.graph.num_spins, dtype=data.dtype, device=data.device)
    spins[:, model.visible_index] = model.encode(rows).to(spins)
    spins[:, model.hidden_index] = hidden
    mean = spins.mean(0)
    mean[model.visible_index] = model.encode(data).double().mean(0)
    starts = torch.where(spins < 0, -1, 1).to(torch.int8)
    return mean * (len(data) / (len(data) + 2)), starts


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
