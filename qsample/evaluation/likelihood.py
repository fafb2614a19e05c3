"""How likely the data are under a model: exact where that is possible, by annealing beyond."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor

from qsample.annealers import treewidth
from qsample.annealers.annealed_importance import AnnealedImportance
from qsample.annealers.exact import Exact
from qsample.evaluation.bracket import Effort, bracket
from qsample.problem import enumeration
from qsample.problem.ising import Ising
from qsample.sampling.random import draw_seed
from qsample.sampling.sampler import check_finite
from qsample.sampling.samples import Bracket, Estimate, warn_of
from qsample.support.checks import check_choice, evenly
from qsample.support.faces import public
from qsample.support.wrapped import bare

if TYPE_CHECKING:
    from qsample.models import EnergyModel

Method = Literal["auto", "exact", "bracket", "ais"]
EXACT_LIMIT = 24  # log2 of the largest number of states that are listed
ROWS = 4096  # rows of data whose free energies are computed at once
LIKE_DATA = 1024  # rows of data that annealing starts are made of
NUMBERS = 1 << 22  # numbers in memory at once


class Options(TypedDict, total=False):
    """What `log_partition` may be told of how to measure log Z, by name."""

    steps: int | None
    chains: int
    width: float
    base: Tensor | None
    starts: Tensor | None
    check: bool
    generator: torch.Generator | None


# ---- log Z of a problem ----------------


@overload
def log_partition(
    problem: Ising, method: Literal["exact", "ais"], **options: Unpack[Options]
) -> Estimate: ...
@overload
def log_partition(
    problem: Ising, method: Literal["bracket"], **options: Unpack[Options]
) -> Bracket: ...
@overload
def log_partition(
    problem: Ising, method: Method = "auto", **options: Unpack[Options]
) -> Estimate | Bracket: ...
@public("qsample")
def log_partition(
    problem: Ising,
    method: Method = "auto",
    *,
    steps: int | None = None,
    chains: int = 256,
    width: float = 0.1,
    base: Tensor | None = None,
    starts: Tensor | None = None,
    check: bool = True,
    generator: torch.Generator | None = None,
) -> Estimate | Bracket:
    """Log Z = log of the sum over all states of exp(-E), in double precision.

    Args:
        problem: one problem or, for the exact method, a batch.
        method: "exact" lists the states (a bipartite problem: of its smaller side), up to 2^24, or
            goes by tree decomposition where a sparse graph is narrow enough; "bracket" measures
            from both sides, as in `bracket`; "ais" is annealed importance sampling alone, as in
            `AnnealedImportance`; "auto" is exact where it can be, else a bracket.
        steps: number of temperatures of the annealing run, 1,000 by default; of a bracket, the most
            of them, and of sweeps of its ladders, 20,000 by default.
        chains: number of independent runs.
        width: nats between the ends at which a bracket is good enough; a model of 784 × 500 units
            takes minutes, which a wider one shortens.
        base: fields `[n]` of the independent spins that the run starts from; None means the
            problem's own fields.
        starts: rows `[S, n]` of spins from which basins are sought too, such as data; random rows
            and local minima of the energy always are.
        check: whether to compare the run of "ais" with others that begin in each basin, as in
            `AnnealedImportance`, which about doubles the cost.
        generator: randomness; None is torch's default generator.

    Returns:
        `Estimate`, stderr 0, where exact; else `Bracket`. From "ais", an `Estimate`: `exp(value)`
        is unbiased for Z, so the value is low on average; `ess` is the effective number of runs.
        `note`, which is a `ReliabilityWarning` too, says where that is under 10, and where runs
        that begin elsewhere see a mode which the run misses: value and error then count it.

    Raises:
        ValueError: exact was asked for and too large, or a batch otherwise; numbers that are not
            finite, or out of range.
        TypeError: what is no problem.
    """
    estimate = _log_partition(
        problem,
        method,
        steps=steps,
        chains=chains,
        width=width,
        base=base,
        starts=starts,
        check=check,
        generator=generator,
    )
    warn_of(estimate.note)
    return estimate


@torch.no_grad()
def _log_partition(
    problem: Ising,
    method: Method,
    *,
    steps: int | None = None,
    chains: int = 256,
    width: float = 0.1,
    base: Tensor | None = None,
    starts: Tensor | None = None,
    check: bool = True,
    generator: torch.Generator | None = None,
) -> Estimate | Bracket:
    """`log_partition` without its warning."""
    check_finite(problem)
    check_choice("method", method, Method)
    problem = problem.detach().to(dtype=torch.float64)
    small = enumeration.num_enumerated(problem) <= EXACT_LIMIT
    narrow = not small and _is_narrow(problem)
    if method == "exact" or (method == "auto" and (small or narrow)):
        return _exact_log_partition(problem, narrow)
    if problem.batch_shape:
        raise ValueError(
            f"a log Z that is not exact takes one problem at a time; got a batch "
            f"{list(problem.batch_shape)}"
        )
    if (steps is not None and steps < 1) or chains < 2 or not width > 0:
        raise ValueError(
            f"expected steps >= 1, chains >= 2 and width > 0; got {steps}, {chains} and {width}"
        )
    if method != "ais":
        effort = Effort(width, chains, steps or Effort.steps)
        return bracket(problem, base, starts, effort, draw_seed(generator))
    sampler = AnnealedImportance(steps or 1000, base=base, check=check)
    info = sampler.annealed(problem, chains, generator=generator, starts=starts).info
    return Estimate(
        float(info["log_partition"]),
        float(info["log_partition_stderr"]),
        float(info["ess"]),
        info["note"].replace("sweeps", "steps"),
    )


def _is_narrow(problem: Ising) -> bool:
    """Whether a tree decomposition of the graph is narrow enough to sum over."""
    return problem.graph.kind == "sparse" and bool(treewidth.elimination(problem.graph)[1])


def _exact_log_partition(problem: Ising, narrow: bool) -> Estimate:
    """By tree decomposition where that is narrow, else from the list of states."""
    if narrow:
        value = Exact().sample(problem, 1).info["log_partition"]
    else:
        value = enumeration.log_partition(problem, EXACT_LIMIT)
    if value.dim():
        return Estimate(value, torch.zeros_like(value))
    return Estimate(float(value), 0.0)


# ---- likelihood of data ----------------


@overload
def log_likelihood(
    model: EnergyModel,
    data: Tensor,
    method: Literal["exact", "ais"],
    *,
    log_z: Any = None,
    **options: Unpack[Options],
) -> Estimate: ...
@overload
def log_likelihood(
    model: EnergyModel,
    data: Tensor,
    method: Literal["bracket"],
    *,
    log_z: Any = None,
    **options: Unpack[Options],
) -> Bracket: ...
@overload
def log_likelihood(
    model: EnergyModel,
    data: Tensor,
    method: Method = "auto",
    *,
    log_z: Estimate | Bracket | None = None,
    **options: Unpack[Options],
) -> Estimate | Bracket: ...
@public("qsample")
def log_likelihood(
    model: EnergyModel,
    data: Tensor,
    method: Method = "auto",
    *,
    log_z: Estimate | Bracket | None = None,
    **options: Unpack[Options],
) -> Estimate | Bracket:
    """Mean log p(x) over the rows of `data`, in nats per row: -F(x) - log Z, in double precision.

    Coupled hidden units are summed by enumeration, up to 24 of them. What is returned follows log
    Z: an `Estimate` of stderr 0 where it is exact, else a `Bracket` (the data are taken as given).
    Annealing starts from the units' means given the data, smoothed by one count of each value, and
    some of the ladders start from the data; a `base` or `starts` of your own goes before.

    Args:
        model: an energy model.
        data: rows `[N, n_visible]` in the model's coding.
        method: method for log Z, see `log_partition`.
        log_z: log Z where it is known, from `model_log_partition`: it is not computed again, nor
            its note repeated. None means that it is computed.
        options: further arguments of `log_partition`.

    Raises:
        ValueError: rows that are not the model's, or what `log_partition` refuses.
        TypeError: data that are no tensor.
    """
    estimate = _log_likelihood(model, data, method, log_z, options)
    if log_z is None:
        warn_of(estimate.note)
    return estimate


@public("qsample")
def model_log_partition(
    model: EnergyModel, data: Tensor, method: Method = "auto", **options: Unpack[Options]
) -> Estimate | Bracket:
    """Log Z of a model as `log_likelihood` computes it, for several sets of rows.

    Args:
        model: an energy model.
        data: rows `[N, n_visible]` in the model's coding; annealing starts from their means.
        method: method for log Z, see `log_partition`.
        options: further arguments of `log_partition`.
    """
    with torch.no_grad():
        model = copy.deepcopy(bare(model)).double()
        data = model.check_rows(data).double()
        estimate = _model_log_partition(model, data, method, options)
    warn_of(estimate.note)
    return estimate


@torch.no_grad()
def _log_likelihood(
    model: EnergyModel,
    data: Tensor,
    method: Method,
    log_z: Estimate | Bracket | None,
    options: Options,
) -> Estimate | Bracket:
    """`log_likelihood` without its warning."""
    model = copy.deepcopy(bare(model)).double()
    data = model.check_rows(data).double()
    free = _free_energies(model, data)
    if log_z is None:
        log_z = _model_log_partition(model, data, method, options)
    mean = -float(free.mean())
    if isinstance(log_z, Bracket):
        return log_z.taken_from(mean)
    return Estimate(mean - log_z.value, log_z.stderr, log_z.ess, log_z.note)


def _free_energies(model: EnergyModel, data: Tensor) -> Tensor:
    """F of each row, `[N]`; coupled hidden units are summed by enumeration."""
    if model.tractable:
        return torch.cat([model.free_energy(rows) for rows in data.split(ROWS)])
    # each row has 2^num_hidden numbers
    step = max(1, min(ROWS, NUMBERS >> model.num_hidden))
    sums = []
    for rows in data.split(step):
        sums.append(enumeration.log_partition(model.ising(visible=rows), EXACT_LIMIT))
    return -torch.cat(sums)


def _model_log_partition(
    model: EnergyModel, data: Tensor, method: Method, options: Options
) -> Estimate | Bracket:
    """Log Z, from units as the data have them unless the options say otherwise."""
    mean, starts = _units_of_data(model, data)
    given: Options = {"base": -torch.atanh(mean), "starts": starts, **options}
    return _log_partition(model.ising(), method, **given)


def _units_of_data(model: EnergyModel, data: Tensor) -> tuple[Tensor, Tensor]:
    """Mean spins `[n]` over the data, and rows `[S, n]` of spins like them.

    Means are smoothed by one count of each value. Hidden spins are those given the visible ones,
    each in its own field alone where they are coupled.
    """
    rows = data[evenly(len(data), LIKE_DATA).to(data.device)]
    hidden = -model.ising(visible=rows).h.tanh()
    spins = torch.empty(len(rows), model.graph.num_spins, dtype=data.dtype, device=data.device)
    spins[:, model.visible_index] = model.encode(rows).to(spins)
    spins[:, model.hidden_index] = hidden
    mean = spins.mean(0)
    mean[model.visible_index] = model.encode(data).double().mean(0)
    starts = torch.where(spins < 0, -1, 1).to(torch.int8)
    return mean * (len(data) / (len(data) + 2)), starts


@public("qsample")
@torch.no_grad()
def pseudo_log_likelihood(model: EnergyModel, data: Tensor) -> float:
    r"""The pseudo-likelihood of data, in nats per row, hidden units summed out (Besag 1975).

    It is the mean over rows of $\sum_i \log P(x_i \mid x_{\setminus i})$ and grows with the number
    of visible units: compare models of the same data only.

    Args:
        model: an energy model with a tractable free energy.
        data: rows `[N, n_visible]` in the model's coding.

    Raises:
        Intractable: hidden units are coupled.
        ValueError: rows that are not the model's.
    """
    model = bare(model)
    data = model.check_rows(data).to(next(model.parameters()))
    d = model.num_visible
    unit = torch.eye(d, dtype=data.dtype, device=data.device)
    total = 0.0
    for rows in data.split(max(1, NUMBERS // (d * max(d, model.num_hidden)))):
        # each row with each of its units flipped, [N, d, d]
        if model.coding == "bits":
            flipped = (rows[:, None] - unit).abs()
        else:
            flipped = rows[:, None] * (1 - 2 * unit)
        free = model.free_energy(rows)[:, None]
        change = free - model.free_energy(flipped.flatten(0, 1)).reshape(-1, d)
        # log P(x_i | rest) = -log(1 + exp(F(x) - F(flipped)))
        total -= float(torch.nn.functional.softplus(change.double()).sum())
    return total / len(data)
