"""Is my model right? Its samples beside the data, in numbers with what a right model would show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qsample.evaluation import two_samples
from qsample.models.energy import EnergyModel
from qsample.sampling.random import draw_seed
from qsample.sampling.samples import Samples
from qsample.support.checks import whole
from qsample.support.faces import public
from qsample.support.wrapped import bare

# chance that samples of the data's own law are called wrong
FALSE_ALARM = 0.01
LEAST_PERMUTATIONS = 99  # whose smallest p-value is FALSE_ALARM
LEAST_ROWS = 20  # rows of each set below which nothing is judged
ROUNDED = 1e-12  # differences that are rounding

Side = Literal["both", "high", "low"]


@public("qsample")
@dataclass(frozen=True)
class Measure:
    """One comparison of data and samples.

    Attributes:
        name: what is compared.
        value: the number.
        expected: its mean where both sets are of one law, at these sizes.
        low: lower end of the 95 % of the values that such sets have.
        high: upper end.
        p_value: the chance of such a value or a stranger one where both sets are of one law.
    """

    name: str
    value: float
    expected: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        expected = f"{self.expected:.4g} [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g} (right: {expected}; p = {self.p_value:.2g})"


@public("qsample")
@dataclass(frozen=True)
class Fidelity:
    """How samples of a model compare with data; see `model_fidelity`.

    Attributes:
        ok: False where samples and data differ by more than chance (p_value <= 0.01), True where
            no difference is seen, None where there are fewer than 20 of either.
        text: the verdict in one line.
        p_value: the chance of such differences or stranger ones, over all measures, where the model
            is right.
        measures: all comparisons.
        rows: number of data rows that were used, and of samples.
        permutations: number of relabellings behind the expected values.
        note: what was left out, in words.
    """

    ok: bool | None
    text: str
    p_value: float
    measures: tuple[Measure, ...]
    rows: int
    permutations: int
    note: str = ""

    def __getitem__(self, name: str) -> Measure:
        for measure in self.measures:
            if measure.name == name:
                return measure
        names = ", ".join(measure.name for measure in self.measures)
        raise KeyError(f"no measure {name!r}; there are {names}")

    def __str__(self) -> str:
        lines = [f"{measure.name:32}{measure}" for measure in self.measures]
        return "\n".join([self.text, *lines])


@public("qsample")
@torch.no_grad()
def model_fidelity(
    model: EnergyModel,
    data: Tensor,
    samples: Samples | Tensor,
    *,
    permutations: int = 199,
    rows: int = 2000,
    generator: torch.Generator | None = None,
) -> Fidelity:
    r"""Do samples of a model look like data, and where do they not?

    Equally many rows of both are compared, in spins of -1 and +1:

    - *adversarial accuracy* of data and of samples: how often a row's nearest neighbour is of its
      own set, 1/2 is right (Yale et al., ESANN 2019; `rbms` and Decelle et al. judge by it). Above:
      the sets lie apart. Below, against training rows: the samples copy them;
    - *energy distance* (Szekely and Rizzo 2013): 0 is right, and it sees any difference of laws;
    - *means* and *pair correlations*: root mean square difference of $\langle s_i\rangle$ and of
      $\langle s_i s_j\rangle - \langle s_i\rangle\langle s_j\rangle$ over all pairs, and the
      *largest* of a pair: what is expected is the Monte Carlo floor;
    - *PCA overlap*: the data's variance along the ten leading components of the samples, over that
      along their own; 1 is right;
    - *PCA distance*: Wasserstein's distance along the ten leading components of both, in standard
      deviations, on average;
    - *free energy gap*: mean F of data minus that of samples, in nats, 0 is right: negative where
      the samples are too hot, or stuck outside of the valleys of the data; *free energy distance*:
      Wasserstein's between the two laws of F. Both where the hidden units can be summed out.

    What a right model would show is found by permutation: where data and samples are of one law,
    it does not matter which are called which, so each measure is computed again for random
    relabellings of the pooled rows. `p_value`s are exact for independent rows and samples, for any
    sizes, and that over all measures together too (the largest standardised deviation of them;
    Westfall and Young 1993): a right model is called wrong once in 100 times. Rows of a test set
    judge the model; rows it was trained on are fitted, and look better than they should.

    Not refused is not right: what passes is right as far as so many rows can show.

    Args:
        model: an energy model.
        data: rows `[N, n_visible]` in the model's coding, independent draws of what it is to learn.
        samples: reads of `model.ising()`, or visible rows `[M, n_visible]` in the model's coding.
            Weighted reads are resampled; of reads of one family (copies, times of one chain) one is
            taken.
        permutations: number of relabellings, 99 or more.
        rows: largest number of rows of each set, taken at random; time grows with it as
            rows * n_visible^2 * permutations.
        generator: randomness of the choice of rows and of the relabellings; None is torch's default
            generator.

    Raises:
        ValueError: rows or samples that are not the model's, a batch of problems, fewer than two
            of either, fewer than 99 permutations.
        TypeError: what is no model, or no tensor.
    """
    model = bare(model)
    draw = torch.Generator().manual_seed(draw_seed(generator))
    # with fewer the smallest p-value could not call anything wrong
    permutations = whole("permutations", permutations, LEAST_PERMUTATIONS)
    rows = whole("rows", rows, 2)
    data = model.check_rows(data)
    visible, note = _visible(model, samples, draw)
    n = min(len(data), len(visible), rows)
    if n < 2:
        raise ValueError(
            f"expected two rows and two samples or more; got {len(data)} and {len(visible)}"
        )
    pool = torch.cat([_some(data, n, draw), _some(visible.to(data), n, draw)])
    labels = _labels(n, permutations, draw)
    measures, deviations = _measured(model, pool, labels)
    if not model.tractable:
        note = "; ".join(filter(None, [note, "free energies left out: hidden units are coupled"]))
    # the largest deviation of any measure, and its law under relabelling
    largest = torch.stack(deviations).amax(0)
    p_value = float((largest >= largest[0] - ROUNDED).double().mean())
    ok = None if n < LEAST_ROWS else p_value > FALSE_ALARM
    text = _text(ok, p_value, measures, deviations, n)
    return Fidelity(ok, text, p_value, tuple(measures), n, permutations, note)


# ---- rows and labels ----------------


def _visible(
    model: EnergyModel, samples: Samples | Tensor, draw: torch.Generator
) -> tuple[Tensor, str]:
    """Visible rows of independent reads of equal weight, in the model's coding, and a note."""
    if isinstance(samples, Tensor):
        return model.check_rows(samples, "samples"), ""
    if samples.spins.dim() != 2:
        raise ValueError(f"expected reads of one problem [R, n]; got {list(samples.spins.shape)}")
    note = ""
    if samples.log_weight is not None:
        samples = samples.resample(generator=draw)
    spins = samples.spins
    if samples.family is not None:
        # in random order the first of each family is any of them
        order = torch.randperm(len(spins), generator=draw).to(spins.device)
        family = samples.family[order].unique(return_inverse=True)[1]
        first = torch.full((int(family.max()) + 1,), len(spins), device=spins.device)
        first.scatter_reduce_(0, family, torch.arange(len(spins), device=spins.device), "amin")
        if len(first) < len(spins):
            note = f"{len(first)} of {len(spins)} samples are independent, one of each family"
        spins = spins[order[first]]
    return model.split(spins)[0], note


def _some(rows: Tensor, n: int, draw: torch.Generator) -> Tensor:
    """Some rows at random; all of them in their order where there are no more."""
    if len(rows) == n:
        return rows
    place = torch.randperm(len(rows), generator=draw)[:n]
    return rows[place.to(rows.device)]


def _labels(n: int, permutations: int, draw: torch.Generator) -> Bool[Tensor, "P rows"]:
    """The true labels, then random ones: True for n of the 2n pooled rows."""
    true = torch.arange(2 * n) < n
    others = [true[torch.randperm(2 * n, generator=draw)] for _ in range(permutations)]
    return torch.stack([true, *others])


# ---- measures ----------------


def _measured(
    model: EnergyModel, pool: Tensor, labels: Tensor
) -> tuple[list[Measure], list[Tensor]]:
    """Every measure, and its standardised deviation `[P]` for each labelling."""
    spins = model.encode(pool).to("cpu", torch.float32)
    distance = two_samples.hamming(spins)
    accuracies = two_samples.adversarial_accuracies(distance, labels)
    moments = two_samples.second_moments(spins, labels)
    table: list[tuple[str, Tensor, Side]] = [
        ("adversarial accuracy, data", accuracies.data, "both"),
        ("adversarial accuracy, samples", accuracies.samples, "both"),
        ("energy distance", two_samples.energy_distances(distance, labels), "high"),
        ("means", two_samples.mean_errors(spins, labels), "high"),
        ("pair correlations", moments.pairs, "high"),
        ("largest pair correlation", moments.largest, "high"),
        ("PCA overlap", moments.overlap, "low"),
        ("PCA distance", two_samples.component_distances(spins, labels), "high"),
    ]
    if model.tractable:
        free = model.free_energy(pool).double().cpu()
        z = labels.double()
        gap = z @ free / z.sum(1) - (1 - z) @ free / (1 - z).sum(1)
        table.append(("free energy gap", gap, "both"))
        distances = two_samples.wasserstein(free[:, None], labels)[:, 0]
        table.append(("free energy distance", distances, "high"))
    measures = []
    deviations = []
    for name, values, side in table:
        deviation = _deviation(values, side)
        measures.append(_measure(name, values, deviation))
        deviations.append(deviation)
    return measures, deviations


def _deviation(values: Float[Tensor, "P"], side: Side) -> Float[Tensor, "P"]:
    """How far each labelling's value lies from the mean of all, in standard deviations."""
    away = values - values.mean()
    if side == "both":
        away = away.abs()
    elif side == "low":
        away = -away
    spread = float(values.std())
    if spread <= ROUNDED * (1 + float(values.abs().max())):
        return torch.zeros_like(values)
    return away / spread


def _measure(name: str, values: Tensor, deviation: Tensor) -> Measure:
    """The first labelling's value beside those of the others."""
    others = values[1:]
    ends = others.quantile(torch.tensor([0.025, 0.975], dtype=others.dtype))
    p_value = float((deviation >= deviation[0] - ROUNDED).double().mean())
    return Measure(
        name, float(values[0]), float(others.mean()), float(ends[0]), float(ends[1]), p_value
    )


def _text(
    ok: bool | None,
    p_value: float,
    measures: list[Measure],
    deviations: list[Tensor],
    n: int,
) -> str:
    """The verdict in one line."""
    against = f"{n} samples against {n} rows"
    if ok is None:
        return f"not judged: {against}, at least {LEAST_ROWS} are needed"
    if ok:
        return f"no difference seen: {against}, p = {p_value:.2g}"
    order = sorted(range(len(measures)), key=lambda k: -float(deviations[k][0]))
    worst = [measures[k] for k in order[:3] if measures[k].p_value <= FALSE_ALARM]
    named = [f"{m.name} {m.value:.3g}, expected {m.expected:.3g}" for m in worst]
    return f"wrong: {'; '.join(named) or 'all measures together'}; {against}, p = {p_value:.2g}"
