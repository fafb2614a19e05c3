"""How likely a chain of reverse steps makes the data: the evidence bound, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

from qsample.annealers import treewidth
from qsample.annealers.exact import Exact
from qsample.annealers.kernels.sweeper import Sweeper
from qsample.problem import enumeration
from qsample.problem.enumeration import log_2cosh
from qsample.problem.graph import Graph
from qsample.problem.ising import Ising
from qsample.sampling.random import draw_seed, mix, mix_many
from qsample.sampling.samples import Bracket, Estimate, Side
from qsample.sampling.weights import log_mean_exp
from qsample.support.checks import check_choice, whole
from qsample.support.faces import public
from qsample.support.progress import tracked
from qsample.support.wrapped import bare

if TYPE_CHECKING:
    from qsample.models import DenoisingThermodynamicModel, IsingCopula

    Chain = IsingCopula | DenoisingThermodynamicModel

Method = Literal["auto", "exact", "bracket"]
TAIL = 0.005  # probability beyond each end
SUMMED = 14  # spins whose states are summed for every condition
MISSED = 5.0  # nats, which an estimate exceeds log Z by in one case of 148 at most
AT_ONCE = 1 << 24  # spins of all runs, or numbers of a sum, in memory at once


# ---- what is known of the bound ----------------


@public("qsample")
@dataclass(frozen=True, eq=False)
class EvidenceTerms:
    r"""The evidence bound of each row, split over the steps, in nats; see `evidence_terms`.

    Attributes:
        low: lower ends, `[draws, rows, T + 1]` float64: at k >= 1 the term of step k, at 0 that of
            the prior, $-KL(q(x_T | x_0) \| p(x_T))$.
        high: upper ends, of the same shape; the same tensor where log Z is exact.
        method: how log Z was measured.
    """

    low: Tensor
    high: Tensor
    method: str

    @property
    def exact(self) -> bool:
        """Whether each log Z is exact, so that the ends are one."""
        return self.low is self.high

    @property
    def bound(self) -> Estimate | Bracket:
        """Mean over the rows of the sum over the terms: what `evidence_bound` returns."""
        return self._joined(self.low.sum(-1), self.high.sum(-1))

    def step(self, k: int) -> Estimate | Bracket:
        """Mean over the rows of the term of step k, or of the prior, k = 0.

        Raises:
            ValueError: no such step.
        """
        last = self.low.shape[-1] - 1
        if not 0 <= k <= last:
            raise ValueError(f"expected a step 0 <= k <= {last}; got {k}")
        return self._joined(self.low[..., k], self.high[..., k])

    def _joined(self, low: Tensor, high: Tensor) -> Estimate | Bracket:
        """What the ends `[draws, rows]` say of the mean, the rows taken as given."""
        below = _mean_over_draws(low)
        if self.exact:
            return below
        above = _mean_over_draws(high)
        quantile = float(stdtrit(low.shape[1] * (len(low) - 1), 1 - TAIL))
        sides = (
            Side("low", f"{self.method}, down", below.value, below.stderr, "if equilibrated"),
            Side("high", f"{self.method}, up", above.value, above.stderr, "bound"),
        )
        bottom = below.value - quantile * below.stderr
        top = above.value + quantile * above.stderr
        note = ""
        if bottom > top:
            note = f"annealing down sees {bottom - top:.2f} nats less than up: raise sweeps"
        return Bracket(min(bottom, top), max(bottom, top), note, sides)


def _mean_over_draws(values: Tensor) -> Estimate:
    """Mean of `[draws, rows]`, and its error from the draws of each row."""
    draws, rows = values.shape
    within = values.var(0).sum() / draws
    return Estimate(float(values.mean()), float(within.sqrt()) / rows)


# ---- the bound ----------------


@public("qsample")
def evidence_bound(
    model: Chain,
    data: Tensor,
    labels: Tensor | None = None,
    method: Method = "auto",
    *,
    draws: int = 2,
    sweeps: int = 100,
    chains: int = 4,
    generator: torch.Generator | None = None,
) -> Estimate | Bracket:
    r"""The evidence lower bound of a diffusion model on log p(x_0), mean over rows, in nats.

    $$\log p(x_0) \ge \mathbb{E}_q\Bigl[\log \frac{p(x_T)}{q(x_T | x_0)}
      + \sum_{k=2}^{T} \log \frac{P_k(x_{k-1} | x_k)}{q(x_{k-1} | x_k, x_0)}
      + \log P_1(x_0 | x_1)\Bigr]$$

    (Sohl-Dickstein et al., ICML 2015; Austin et al., NeurIPS 2021, Eq. 1.) q is the forward process
    and P_k the reverse step, whose law needs the log Z of the problem of each x_k. The bound tells
    a step's law from its sampler: no draw of the model enters it.

    Args:
        model: an `IsingCopula` (without couplings: the factorised denoiser) or a
            `DenoisingThermodynamicModel`.
        data: x_0, spins `[N, bits]`.
        labels: `[N]`, for a model with classes.
        method: method for log Z: "exact" sums over states or by tree decomposition; "bracket"
            anneals the couplings up from the independent spins of the same fields, whose estimate
            is low in the mean, and down again, whose estimate is high if the states after the way
            up are equilibrated, and all spins from coins, in case that finds a mode that the
            former missed; "auto" is exact where that is cheap for every x_k, else a bracket.
        draws: number of independent x_1, ..., x_T per row, at least 2, which give the error.
        sweeps: temperatures of an annealing run; half as many sweeps follow before the way down.
        chains: number of annealing runs per x_k.
        generator: randomness; None is torch's default generator. The noise depends on it alone:
            two models with one seed are compared on the same x_k.

    Returns:
        An `Estimate` where every log Z is exact, its error that of the draws with the rows taken as
        given; else a `Bracket`, whose upper end is sure and whose lower end holds if the annealing
        runs are equilibrated.

    Raises:
        ValueError: rows that are not the model's, draws < 2, an exact log Z that is too large.
        TypeError: another model.
    """
    return evidence_terms(
        model,
        data,
        labels,
        method,
        draws=draws,
        sweeps=sweeps,
        chains=chains,
        generator=generator,
    ).bound


@public("qsample")
@torch.no_grad()
def evidence_terms(
    model: Chain,
    data: Tensor,
    labels: Tensor | None = None,
    method: Method = "auto",
    *,
    draws: int = 2,
    sweeps: int = 100,
    chains: int = 4,
    generator: torch.Generator | None = None,
) -> EvidenceTerms:
    """The terms of `evidence_bound`, per row and step: for paired comparisons.

    Args:
        model: as in `evidence_bound`.
        data: x_0, spins `[N, bits]`.
        labels: `[N]`, for a model with classes.
        method: as in `evidence_bound`.
        draws: number of independent x_1, ..., x_T per row, at least 2.
        sweeps: temperatures of an annealing run.
        chains: number of annealing runs per x_k.
        generator: randomness; None is torch's default generator.

    Raises:
        ValueError: as in `evidence_bound`.
        TypeError: another model.
    """
    check_choice("method", method, Method)
    draws = whole("draws", draws, 2)
    effort = Effort(method, whole("sweeps", sweeps, 1), whole("chains", chains, 1))
    law = _law_of(model, data, labels)
    x_0 = law.x_0.repeat(draws, 1)
    seed = draw_seed(generator)
    steps = law.process.steps
    ends = [law.prior().to(x_0).expand(len(x_0))]
    others = [ends[0]]
    exact = True
    for k in tracked(range(1, steps + 1), "evidence bound", "step"):
        low, high = law.term(x_0, k, effort, mix(seed, k))
        exact = exact and low is high
        ends.append(low)
        others.append(high)
    shape = (draws, len(law.x_0), steps + 1)
    low = torch.stack(ends, -1).reshape(shape)
    if exact:
        return EvidenceTerms(low, low, "exact")
    high = torch.stack(others, -1).reshape(shape)
    return EvidenceTerms(low, high, f"annealing in {sweeps} steps, {chains} runs")


# ---- the law of a step ----------------


def _law_of(model: Chain, data: Tensor, labels: Tensor | None) -> CopulaLaw | ThermodynamicLaw:
    """The steps of a model beside its data; a TypeError for another model."""
    from qsample.models import DenoisingThermodynamicModel, IsingCopula

    model = bare(model, "parameters")
    if isinstance(model, DenoisingThermodynamicModel):
        return ThermodynamicLaw(model, model.encode(data, labels).double())
    if not isinstance(model, IsingCopula):
        raise TypeError(
            "expected an IsingCopula or a DenoisingThermodynamicModel; got "
            f"{type(model).__name__}: log_likelihood takes energy models"
        )
    if labels is not None:
        raise ValueError("an IsingCopula has no classes: leave labels out")
    model(data[:1], 1)  # its own checks of a row
    return CopulaLaw(model, data.double())


class CopulaLaw:
    """Reverse steps whose spins are the bits themselves.

    Args:
        model: a copula, or a factorised denoiser.
        x_0: spins `[N, n]`, float64.
    """

    def __init__(self, model: IsingCopula, x_0: Tensor) -> None:
        self.model = model
        self.process = model.process
        self.x_0 = x_0

    def prior(self) -> Tensor:
        r"""$-KL(q(x_T | x_0) \| p(x_T))$, a number: the same for every x_0."""
        same = (-self.process.rate_dt(self.process.steps, 0)).exp().expand(self.x_0.shape[-1])
        entropy = torch.special.entr((1 + same) / 2) + torch.special.entr((1 - same) / 2)
        return (entropy - math.log(2)).sum()

    def term(self, x_0: Tensor, k: int, effort: Effort, seed: int) -> tuple[Tensor, Tensor]:
        r"""Both ends of $E_q[\log P_k(x_{k-1} | x_k) - \log q(x_{k-1} | x_k, x_0)]$, `[B]`.

        Given x_k and x_0 the bits of x_{k-1} are independent: its energy has the mean that the
        bits' means have, and its entropy is a sum.

        Args:
            x_0: spins `[B, n]`.
            k: the step.
            effort: how log Z is measured.
            seed: seed of noise and of log Z.
        """
        after = self.process.noise(x_0, k, generator=_generators(seed, len(x_0)))
        mean, entropy = self._before(x_0, after, k)
        low, high = [], []
        for rows in _parts(len(x_0), _numbers(self.model.graph, effort)):
            problem = self.model.step_problem(after[rows], k).detach().to(dtype=torch.float64)
            energy = problem.energy(mean[rows][:, None])[:, 0]
            base = self.model.fields(after[rows], k).detach().double()
            log_z = log_partitions(problem, base, effort, mix(seed, rows.start))
            low.append(entropy[rows] - energy - log_z.high)
            high.append(low[-1] if log_z.exact else entropy[rows] - energy - log_z.low)
        return _ends(low, high)

    def _before(self, x_0: Tensor, after: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Means `[B, n]` of x_{k-1} given x_k and x_0, and its entropy `[B]`."""
        if k == 1:
            return x_0, x_0.new_zeros(len(x_0))
        h = self.process.posterior_fields(after, x_0, k)
        mean = -h.tanh()
        return mean, (log_2cosh(h) + h * mean).sum(-1)


class ThermodynamicLaw(CopulaLaw):
    """Reverse steps with latent spins, which are summed for a draw of x_{k-1}.

    Args:
        model: a denoising thermodynamic model.
        x_0: visible spins `[N, v]`, float64.
    """

    model: DenoisingThermodynamicModel

    def __init__(self, model: DenoisingThermodynamicModel, x_0: Tensor) -> None:
        self.model = model
        self.process = model.process
        self.x_0 = x_0

    def term(self, x_0: Tensor, k: int, effort: Effort, seed: int) -> tuple[Tensor, Tensor]:
        """As in `CopulaLaw`, log P_k as the difference of two log Z: latent spins, all spins.

        Args:
            x_0: visible spins `[B, v]`.
            k: the step.
            effort: how log Z is measured.
            seed: seed of noise and of log Z.
        """
        after = self.process.noise(x_0, k, generator=_generators(seed, len(x_0)))
        mean, entropy = self._before(x_0, after, k)
        u = torch.rand(mean.shape, generator=torch.Generator().manual_seed(mix(seed, 1)))
        before = torch.where(u.to(mean) < (1 + mean) / 2, 1, -1).to(torch.int8)
        low, high = [], []
        for rows in _parts(len(x_0), _numbers(self.model.graph, effort)):
            problem = self.model.ising(k, after[rows]).detach().to(dtype=torch.float64)
            all_spins = log_partitions(problem, problem.h, effort, mix(seed, 2 + rows.start))
            clamped = problem.clamp(self.model.sites, before[rows])
            latent = log_partitions(clamped, clamped.h, effort, mix(seed, 3 + rows.start))
            low.append(entropy[rows] + latent.low - all_spins.high)
            exact = latent.exact and all_spins.exact
            high.append(low[-1] if exact else entropy[rows] + latent.high - all_spins.low)
        return _ends(low, high)


def _generators(seed: int, rows: int) -> list[torch.Generator]:
    """A generator per row."""
    return [torch.Generator().manual_seed(row) for row in mix_many(seed, rows)]


def _numbers(graph: Graph, effort: Effort) -> int:
    """Numbers in memory for each condition."""
    return max(graph.num_spins * effort.chains, 4 * graph.num_edges)


def _parts(rows: int, numbers: int) -> list[slice]:
    """Rows that are worked on at once, `numbers` for each."""
    step = max(1, AT_ONCE // max(1, numbers))
    return [slice(first, min(rows, first + step)) for first in range(0, rows, step)]


def _ends(low: list[Tensor], high: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Both ends, one tensor twice where they are one."""
    joined = torch.cat(low)
    exact = all(a is b for a, b in zip(low, high, strict=True))
    return joined, joined if exact else torch.cat(high)


# ---- log Z of many problems ----------------


class Effort(NamedTuple):
    """How log Z is measured."""

    method: Method
    sweeps: int
    chains: int


class LogZ(NamedTuple):
    """Measurements of log Z, `[M]`: low and high in the mean; one tensor twice where exact."""

    low: Tensor
    high: Tensor

    @property
    def exact(self) -> bool:
        """Whether both are one."""
        return self.low is self.high


def log_partitions(problem: Ising, base: Tensor, effort: Effort, seed: int) -> LogZ:
    """Log Z of M problems on one graph, float64, exact where that is cheap.

    Args:
        problem: a batch `[M]`.
        base: fields `[M, n]` of independent spins near each law, where annealing begins.
        effort: method, and how much annealing.
        seed: of all randomness.

    Raises:
        ValueError: exact was asked for and too large.
    """
    if problem.num_spins == 0 or not problem.J.any():
        value = log_2cosh(problem.h).sum(-1) - problem.offset
        return LogZ(value, value)
    summed = enumeration.num_enumerated(problem) <= SUMMED
    narrow = not summed and _is_narrow(problem.graph)
    if effort.method == "exact" and not (summed or narrow):
        raise ValueError(
            f"an exact log Z for every x_k takes up to {SUMMED} spins, or a sparse graph of as "
            f'small a treewidth; got {problem.num_spins} spins: take method="bracket"'
        )
    if effort.method == "bracket" or not (summed or narrow):
        return _annealed(problem, base, effort, seed)
    if narrow:
        generator = torch.Generator().manual_seed(seed)
        value = Exact().sample(problem, 1, generator=generator).info["log_partition"]
        return LogZ(value, value)
    flat = problem.flat()
    places = torch.arange(len(flat.h))
    parts = _parts(len(flat.h), 1 << enumeration.num_enumerated(problem))
    value = torch.cat([enumeration.log_partition(flat.take(places[part])) for part in parts])
    return LogZ(value, value)


def _is_narrow(graph: Graph) -> bool:
    """Whether a tree decomposition is cheap for every condition."""
    if graph.kind != "sparse":
        return False
    width, order = treewidth.elimination(graph)
    return bool(order) and width <= SUMMED


def _annealed(problem: Ising, base: Tensor, effort: Effort, seed: int) -> LogZ:
    """Annealed from the base and, for what it may miss, from coins: the same law seen from afar.

    Couplings may order spins that the base holds apart, a first-order transition that runs near the
    base do not cross. An estimate up exceeds log Z by c nats with a chance of at most e^-c
    (Markov's inequality), so where one quick run from coins sees `MISSED` nats more it found a
    mode, and annealing from coins counts.
    """
    near = _from_base(problem, base, effort, mix(seed, 1))
    scout = Effort(effort.method, max(1, effort.sweeps // 2), 1)
    coins = torch.zeros_like(base)
    found = _from_base(problem, coins, scout, mix(seed, 2)).low > near.low + MISSED
    if not found.any():
        return near
    places = found.nonzero()[:, 0]
    far = _from_base(problem.take(places), coins[places], effort, mix(seed, 3))
    return LogZ(near.low.index_copy(0, places, far.low), near.high.index_copy(0, places, far.high))


def _from_base(problem: Ising, base: Tensor, effort: Effort, seed: int) -> LogZ:
    r"""Annealed up from independent spins, and down again (Neal 2001; Grosse et al. 2015).

    $E_b(s) = (1 - b) base \cdot s + b E(s)$. Up, the mean of w is $Z / Z_0$; down from the law
    itself it is $Z_0 / Z$. The logarithm of a mean over few runs is below that, on average.
    """
    graph = problem.graph
    # single precision, whose kernel sums over edges; its rounding is far below the spread of runs
    rise = Ising(graph, problem.h - base, problem.J).to(dtype=torch.float32)
    db = 1 / effort.sweeps

    def on_path(t: int) -> Ising:
        b = t * db
        return Ising(graph, (1 - b) * base + b * problem.h, b * problem.J)

    hardest = Ising(graph, torch.maximum(base.abs(), problem.h.abs()), problem.J)
    seeds = mix_many(seed, len(problem.h))
    sweeper = Sweeper(on_path(0), effort.chains, seeds, hardest=hardest)
    sweep = torch.ones(1, dtype=torch.float32)
    sweeper.sweep(sweep)  # independent spins: an exact draw

    up = torch.zeros(len(seeds), effort.chains, dtype=torch.float64)
    for t in range(1, effort.sweeps + 1):
        up -= db * sweeper.energy(rise)
        sweeper.move(on_path(t))
        sweeper.sweep(sweep)
    sweeper.sweep(torch.ones(max(1, effort.sweeps // 2), dtype=torch.float32))

    down = torch.zeros_like(up)
    for t in range(effort.sweeps - 1, -1, -1):
        down += db * sweeper.energy(rise)
        if t:
            sweeper.move(on_path(t))
            sweeper.sweep(sweep)
    start = log_2cosh(base).sum(-1) - problem.offset
    return LogZ(start + log_mean_exp(up).to(start), start - log_mean_exp(down).to(start))
