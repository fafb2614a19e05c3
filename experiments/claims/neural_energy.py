"""Two far modes of a trained neural energy: which kernels cross, and which are fastest within one.

    python experiments/claims/neural_energy.py --out runs/neural_energy

An energy network of 64 pixels is trained on the rows of two digits nearest to their class means,
its negative samples from parallel tempering, so that both modes have the weight they should. That
weight is then measured by a longer tempered run. Every kernel starts with all its chains in the
first mode, and gets the same CPU time of this process on one thread (wall time would measure the
machine's other work):

- single-site Gibbs, Gibbs with gradients, discrete Langevin (the step size that moves most sites);
- blocks: QUBO blocks of 16 sites, a secant surrogate for each, and single-site Gibbs in turn;
- fitted blocks: one quadratic surrogate of all 64 pixels, fitted to data with random flips;
  tempered transitions on it (`TemperedGibbs`, native and cheap) propose for all pixels at once, so
  does Gibbs on it, in turn with single-site Gibbs of the network. Fit and ladder count as its own
  CPU time;
- tempered transitions and parallel tempering of the network itself (its hops are those of the place
  at beta 1).

How much is won depends on the energy, and the default was chosen for being hard: of five tried, one
where local kernels hardly cross. On all rows of two nearer digits (--digits 0 1 --rows 178 --noise
0.02 --updates 2000) local kernels cross by themselves. Within a mode Gibbs with gradients is faster
than the mixture, whose time goes to the tempered transitions. The fit needs data of both modes:
nothing here finds a mode that the data lack.

Acceptance and effective samples per second are also compared by surrogate and block size, and the
chains' law is tested against enumeration on an energy of 10 pixels.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from scipy.stats import power_divergence
from torch import Tensor, nn

import qsample as qs
from qsample.annealers import Gibbs, ParallelTempering, TemperedGibbs
from qsample.data import load
from qsample.diffusion import (
    BlockMetropolis,
    Counted,
    Cycle,
    DiscreteLangevin,
    GibbsWithGradients,
    SiteGibbs,
    TemperedTransitions,
    linear,
    regression,
    secant,
    taylor,
)
from qsample.problem.enumeration import states
from qsample.sampling.mixing import autocorrelation_time
from qsample.testing import FALSE_ALARM

sys.path.append(str(Path(__file__).parents[2]))
from experiments.common import CommonOptions, Report, command_line, progress_bar

COLOURS = {
    "single-site Gibbs": "#969696",
    "Gibbs with gradients": "#1b7837",
    "discrete Langevin": "#a6611a",
    "blocks": "#92c5de",
    "fitted blocks": "#2166ac",
    "tempered transitions": "#d6604d",
    "parallel tempering": "#762a83",
}
LOCAL = ("single-site Gibbs", "Gibbs with gradients", "discrete Langevin")
SURROGATES = {
    "linear": "#969696",
    "taylor": "#a6611a",
    "secant": "#92c5de",
    "regression": "#1b7837",
    "fitted once": "#2166ac",
}
STEP_SIZES = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0)
PALINDROMIC = Gibbs(2, scan="palindromic")
Energy = Callable[[Tensor], Tensor]
Step = Callable[[Tensor], tuple[Tensor, Tensor]]
"""chains [R, n] to chains and energies"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """One setting for all kernels."""

    digits: tuple[int, int] = (3, 4)
    """the two modes"""
    rows: int = 40
    """rows of each digit: those nearest to its mean"""
    noise: float = 0.005
    """share of pixels flipped in training"""
    width: int = 64
    """units of each of the network's two hidden layers"""
    updates: int = 1500
    """gradient steps"""
    chains: int = 32
    """chains of every kernel, all from the first mode"""
    seconds: float = 10.0
    """CPU time of each kernel and seed"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """seeds of the chains"""
    reference: int = 1000
    """tempered rounds that measure the modes' weights"""
    blocks: tuple[int, ...] = (8, 16, 32, 64)
    """block sizes"""
    cell: float = 2.5
    """CPU time of each surrogate and block size"""
    law: int = 10_000
    """chains of the test against enumeration"""


def main(options: Options) -> None:
    """Train, measure, test the law, race."""
    report = Report(options, __file__)
    digits = load("digits", coding="spins")
    assert digits.labels is not None
    rows = [near(digits.x[digits.labels == k], options.rows) for k in options.digits]
    result: dict[str, Any] = {"law": law(rows, options)}
    start = time.process_time()
    E, tempered = train(rows, options)
    result["training_seconds"] = time.process_time() - start
    modes = Modes.of(rows)
    result["reference"] = weigh(tempered, modes, options)
    weight = "{weight:.3f} ± {stderr:.3f}".format(**result["reference"])
    print(f"first mode's weight by a long tempered run: {weight}")
    result["surrogates"] = surrogates(E, rows, tempered.cold, modes, options)
    moved = pilot(E, tempered.cold)
    result["step_sizes"] = moved
    result["step_size"] = max(moved, key=moved.__getitem__)
    race = Race(E, rows, modes, result["step_size"], options)
    runs = [race.run(name, seed) for seed in options.seeds for name in COLOURS]
    result["summary"] = summary(runs, options)
    result["runs"] = runs
    report.finish(result, picture(result, options))


def near(rows: Tensor, count: int) -> Tensor:
    """The rows nearest to their mean."""
    return rows[(rows - rows.mean(0)).abs().sum(-1).argsort()[:count]]


# ---- the energy -------------------------------------------------------------------------------


class Tempered:
    """Parallel tempering of any energy: ladders of single-site Gibbs chains, the last at beta 1.

    `x` holds the chains `[L, R, n]`: L temperatures of R ladders.
    """

    def __init__(self, E: Energy, x: Tensor, seed: int, betas: int = 12) -> None:
        """Start all temperatures of a ladder at one state.

        Args:
            E: energy of states `[..., n]`.
            x: states `[R, n]`.
            seed: seed of the chains.
            betas: temperatures of a ladder, L.
        """
        self.E = E
        self.beta = torch.linspace(0.05, 1, betas)
        self.generator = torch.Generator().manual_seed(seed)
        self.x = x.expand(betas, *x.shape[-2:]).clone()
        self.energy = torch.empty(0)
        self.round = 0

    def step(self, sites: int) -> None:
        """So many sites of each chain, and one round of swaps between neighbours."""
        beta = self.beta[:, None]
        kernel = SiteGibbs(sites)
        moved = kernel.sample(lambda s: beta * self.E(s), self.x, generator=self.generator)
        energy = moved.energy / beta
        # Swaps of even and of odd pairs in turn.
        low = torch.arange(self.round % 2, len(beta) - 1, 2)
        gain = (beta[low + 1] - beta[low]) * (energy[low + 1] - energy[low])
        swapped = torch.rand(gain.shape, generator=self.generator) < gain.exp()
        order = torch.arange(len(beta))[:, None].repeat(1, self.x.shape[1])
        order[low] += swapped
        order[low + 1] -= swapped.long()
        self.x = moved.spins.float().take_along_dim(order[..., None], 0)
        self.energy = energy.take_along_dim(order, 0)
        self.round += 1

    @property
    def cold(self) -> Tensor:
        """The chains at beta 1, [R, n]."""
        return self.x[-1]


def train(rows: list[Tensor], options: Options) -> tuple[Energy, Tempered]:
    """Maximum likelihood by persistent tempered chains; the energy, and those chains."""
    torch.manual_seed(0)
    data = torch.cat(rows)
    n = data.shape[-1]
    width = options.width
    network = nn.Sequential(
        nn.Linear(n, width),
        nn.SiLU(),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Linear(width, 1),
        nn.Flatten(-2),
    )
    chains = Tempered(network, torch.randint(2, (64, n)).mul(2.0).sub(1), 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    bar = progress_bar(range(options.updates), desc=f"training on {n} pixels", leave=False)
    for update in bar:
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - update / options.updates)
        chains.step(max(1, n // 4))
        batch = data[torch.randint(len(data), (128,))]
        batch = torch.where(torch.rand_like(batch) < options.noise, -batch, batch)
        positive = network(batch)
        negative = network(chains.cold)
        small = positive.square().mean() + negative.square().mean()
        loss = positive.mean() - negative.mean() + 1e-3 * small
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.requires_grad_(False), chains


@dataclass(frozen=True, eq=False)
class Modes:
    """Where a state lies between the two: +1 at the mean of the first, -1 at that of the second."""

    axis: Tensor
    middle: Tensor

    @staticmethod
    def of(rows: list[Tensor]) -> Modes:
        """From the rows of each."""
        first = rows[0].mean(0)
        second = rows[1].mean(0)
        axis = 2 * (first - second) / (first - second).square().sum()
        return Modes(axis, (first + second) / 2 @ axis)

    def place(self, x: Tensor) -> Tensor:
        """`[..., n]` to `[...]`."""
        return x.float() @ self.axis - self.middle


def weigh(tempered: Tempered, modes: Modes, options: Options) -> dict[str, float]:
    """The first mode's weight, its error from ladders that know nothing of each other.

    Args:
        tempered: chains of the trained energy.
        modes: tells where a state lies.
        options: options of the run.
    """
    shares: list[Tensor] = []
    for _ in progress_bar(range(options.reference), desc="the modes' weights", leave=False):
        tempered.step(16)
        shares.append((modes.place(tempered.cold) > 0).float())
    each = torch.stack(shares).mean(0)
    return {"weight": float(each.mean()), "stderr": float(each.std() / len(each) ** 0.5)}


# ---- kernels ----------------------------------------------------------------------------------


def fit(E: Energy, rows: list[Tensor]) -> qs.Ising:
    """One quadratic surrogate of all pixels, from the data with up to 6 % of the pixels flipped."""
    g = torch.Generator().manual_seed(0)
    data = torch.cat(rows)
    n = data.shape[-1]
    coefficients = 1 + n + n * (n - 1) // 2
    copies = -(-max(2000, 3 * coefficients) // len(data))
    s = data.repeat(copies, 1)
    rate = 0.06 * torch.rand(len(s), 1, generator=g)
    s = torch.where(torch.rand(s.shape, generator=g) < rate, -s, s)
    return regression(E, torch.ones(n), states=s)


def ladder(problem: qs.Ising, steps: int) -> list[float]:
    """Betas from 1 down, evenly hard to pass: between those that parallel tempering adapts."""
    generator = torch.Generator().manual_seed(0)
    info = ParallelTempering(100, 12).sample(problem, 16, generator=generator).info
    adapted = info["betas"].flip(0).double()
    place = torch.linspace(0, len(adapted) - 1, steps + 1, dtype=torch.float64)
    low = place.floor().long().clamp(max=len(adapted) - 2)
    return (adapted[low] + (place - low) * (adapted[low + 1] - adapted[low])).tolist()


def fitted_blocks(problem: qs.Ising, steps: int = 48) -> Cycle:
    """Tempered transitions on the surrogate across modes; Gibbs on it and single sites within."""
    n = problem.num_spins
    across = BlockMetropolis(TemperedGibbs(ladder(problem, steps)), problem, n)
    within = BlockMetropolis(PALINDROMIC, problem, n, 16)
    return Cycle([across, within, SiteGibbs(16)])


def kernels(step_size: float) -> dict[str, Any]:
    """Those that need no fit."""
    betas = torch.linspace(1, 0.05, 25).tolist()
    return {
        "single-site Gibbs": SiteGibbs(64),
        "Gibbs with gradients": GibbsWithGradients(32),
        "discrete Langevin": DiscreteLangevin(step_size, 32),
        "blocks": Cycle([BlockMetropolis(PALINDROMIC, secant, 16, 2), SiteGibbs(16)]),
        "tempered transitions": TemperedTransitions(SiteGibbs(16), betas),
    }


def effective(record: Mapping[str, Tensor], modes: Modes) -> float:
    """Effective samples, of the energy less the mean of each mode.

    0 where a tenth of the run is still correlated.
    """
    first = record["place"] > 0
    values = record["energy"]
    for side in (first, ~first):
        values = values - side * (values * side).sum() / side.sum().clamp(min=1)
    tau = autocorrelation_time(values)
    return values.numel() / tau if tau < len(values) / 10 else 0.0


def run(step: Step, x: Tensor, modes: Modes, seconds: float) -> dict[str, Tensor]:
    """Steps of chains for so much CPU time: `seconds` [T], `place` and `energy` [T, R].

    Args:
        step: a call of a kernel.
        x: chains `[R, n]`.
        modes: tells where a state lies.
        seconds: CPU time.
    """
    record: dict[str, list[Tensor]] = {"seconds": [], "place": [], "energy": []}
    start = time.process_time()
    while len(record["seconds"]) < 6 or time.process_time() - start < seconds:
        x, energy = step(x)
        record["seconds"].append(torch.tensor(time.process_time() - start))
        record["place"].append(modes.place(x))
        record["energy"].append(energy)
    return {name: torch.stack(values) for name, values in record.items()}


def stepper(
    kernel: Any, E: Energy, anchor: Tensor, seed: int, notes: list[Any] | None = None
) -> Step:
    """A kernel's call as a step of `run`.

    Args:
        kernel: MCMC kernel.
        E: energy.
        anchor: state around which surrogates are expanded.
        seed: seed of the chains.
        notes: where acceptance and flips of each call are added; None for nowhere.
    """
    g = torch.Generator().manual_seed(seed)

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        samples = kernel.sample(E, x, anchor=anchor, generator=g)
        if notes is not None:
            info = samples.info
            notes.append([float(info["acceptance"]), float(info.get("flips", 0))])
        return samples.spins.float(), samples.energy

    return step


def middle(rows: list[Tensor]) -> Tensor:
    """One state near the data, which knows of no chain: the anchor of every local surrogate."""
    return torch.where(torch.cat(rows).mean(0) < 0, -1.0, 1.0)


# ---- what is measured -------------------------------------------------------------------------


def surrogates(
    E: Energy, rows: list[Tensor], x: Tensor, modes: Modes, options: Options
) -> list[dict[str, Any]]:
    """Acceptance, sites changed and effective samples per second, by surrogate and block size.

    Args:
        E: energy of the network.
        rows: data of each mode.
        x: chains in both modes.
        modes: tells where a state lies.
        options: options of the run.
    """
    problem = fit(E, rows)
    makers = {
        "linear": linear,
        "taylor": taylor,
        "secant": secant,
        "regression": partial(regression, flips=0.5),
    }
    cells: list[dict[str, Any]] = []
    for name in SURROGATES:
        for K in options.blocks:
            if name == "regression" and K > 32:
                continue  # 2,081 coefficients for every chain and move
            kernel = BlockMetropolis(PALINDROMIC, makers.get(name, problem), K, max(1, 64 // K))
            notes: list[Any] = []
            step = stepper(kernel, E, middle(rows), 0, notes)
            record = run(step, x[: options.chains], modes, options.cell)
            seconds = float(record["seconds"][-1])
            cell = {
                "surrogate": name,
                "block": K,
                "acceptance": fmean(note[0] for note in notes),
                "flips": fmean(note[1] for note in notes),
                "ms_per_move": 1e3 * seconds / len(notes) / kernel.moves,
                "ess": effective(record, modes) / seconds,
            }
            cells.append(cell)
            figures = f"acceptance {cell['acceptance']:.3f}, {cell['ess']:.1f} effective samples/s"
            print(f"{name:12} block {K:2}: {figures}")
    return cells


def pilot(E: Energy, x: Tensor, steps: int = 200) -> dict[float, float]:
    """Sites that a step of discrete Langevin changes, on average over chains, by its step size.

    Args:
        E: energy of the network.
        x: chains in both modes.
        steps: steps of each size.
    """
    moved: dict[float, float] = {}
    for size in STEP_SIZES:
        step = stepper(DiscreteLangevin(size), E, x[0], 0)
        states = x
        changed = 0.0
        for _ in range(steps):
            after, _ = step(states)
            changed += float((after != states).sum(-1).double().mean())
            states = after
        moved[size] = changed / steps
    return moved


@dataclass(frozen=True, eq=False)
class Race:
    """Every kernel for the same CPU time, all its chains from the first mode."""

    E: Energy
    rows: list[Tensor]
    modes: Modes
    step_size: float
    options: Options

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """One kernel and seed; what it made before counts as its own time."""
        options = self.options
        g = torch.Generator().manual_seed(seed)
        x = self.rows[0][torch.randint(len(self.rows[0]), (options.chains,), generator=g)]
        E = Counted(self.E)
        start = time.process_time()
        step = self.stepper(name, E, x, seed)
        before = time.process_time() - start
        record = run(step, x, self.modes, options.seconds - before)
        place = record["place"]
        seconds = record["seconds"] + before
        later = {key: value[len(place) // 4 :] for key, value in record.items()}
        ess = effective(later, self.modes) / float(later["seconds"][-1] - later["seconds"][0])
        crossed = hops(place)
        spent = float(seconds[-1])
        figures = f"{crossed} hops, {ess:.1f} effective samples/s within a mode, {spent:.1f} s"
        print(f"{name:22} seed {seed}: {figures}", flush=True)
        keep = torch.linspace(0, len(place) - 1, min(200, len(place))).long()
        share = (place > 0).float().mean(1)
        return {
            "kernel": name,
            "seed": seed,
            "before": before,
            "seconds": spent,
            "calls": len(place),
            "hops": crossed,
            "evaluations": sum(E.counts.values()),
            "ess": ess,
            "curve": torch.stack([seconds[keep], share[keep]], 1).tolist(),
            "trace": torch.stack([seconds[keep], place[keep, 0]], 1).tolist(),
        }

    def stepper(self, name: str, E: Energy, x: Tensor, seed: int) -> Step:
        """The step of a kernel.

        Args:
            name: key of COLOURS.
            E: energy, which counts its evaluations.
            x: chains.
            seed: seed of the chains.
        """
        if name == "parallel tempering":
            tempered = Tempered(E, x, seed)

            def swapping(x: Tensor) -> tuple[Tensor, Tensor]:
                tempered.step(16)
                return tempered.cold, tempered.energy[-1]

            return swapping
        if name == "fitted blocks":
            kernel = fitted_blocks(fit(E, self.rows))
        else:
            kernel = kernels(self.step_size)[name]
        return stepper(kernel, E, middle(self.rows), seed)


def hops(place: Tensor) -> int:
    """Hops of chains `[T, R]`: from half way into one mode to half way into the other."""
    side = torch.ones(place.shape[1])
    count = 0
    for now in place:
        after = torch.where(now.abs() > 0.5, now.sign(), side)
        count += int((after != side).sum())
        side = after
    return count


def law(rows: list[Tensor], options: Options) -> dict[str, float]:
    """G-test of the fitted blocks against all states of an energy trained on ten of the pixels.

    Independent chains, all from one state of the first mode, one read of each; a tenth of the
    pixels are flipped in training, so that hundreds of states count.
    """
    # The ten pixels in which the modes differ most, and their energy.
    difference = (rows[0].mean(0) - rows[1].mean(0)).abs()
    pixels = difference.argsort(descending=True)[:10]
    ten = [row[:, pixels] for row in rows]
    E, _ = train(ten, replace(options, noise=0.1, updates=max(1, options.updates // 4)))
    every = states(10).float()
    exact = (-E(every).double()).softmax(-1)

    # Independent chains from one state.
    kernel = Cycle(fitted_blocks(fit(E, ten), 12).kernels, rounds=12)
    x = ten[0][:1].expand(options.law, -1)
    spins = kernel.sample(E, x, generator=torch.Generator().manual_seed(1)).spins

    # Counts against expected ones; rare states share a bin.
    code = (((spins + 1) // 2).long() << torch.arange(10)).sum(-1)
    counts = torch.bincount(code, minlength=1024).double()
    expected = exact * options.law
    rare = expected < 5
    if rare.any():
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    p = 1.0  # one bin says nothing
    if len(counts) > 1:
        test = power_divergence(counts.numpy(), expected.numpy(), lambda_="log-likelihood")
        p = float(test.pvalue)

    modes = Modes.of(ten)
    weight = float(exact[modes.place(every) > 0].sum())
    measured = float((modes.place(spins) > 0).double().mean())
    verdict = "exact" if p > FALSE_ALARM else "WRONG"
    print(
        f"law at n = 10: G-test p = {p:.3f} over {len(counts)} bins, {verdict} at {FALSE_ALARM:g}; "
        f"first mode's weight {measured:.3f}, enumerated {weight:.3f}"
    )
    return {
        "p_value": p,
        "bins": len(counts),
        "weight": measured,
        "exact_weight": weight,
        "reads": options.law,
    }


def summary(runs: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Hops per chain and second, effective samples per second, where the chains end.

    And how many times as often as the best local kernel the fitted blocks cross.
    """
    table: dict[str, Any] = {}
    for name in COLOURS:
        mine = [run for run in runs if run["kernel"] == name]
        spent = options.chains * sum(run["seconds"] for run in mine)
        last = [row[1] for run in mine for row in run["curve"][-len(run["curve"]) // 4 :]]
        crossed = sum(run["hops"] for run in mine)
        table[name] = {
            "hops": crossed,
            "rate": crossed / spent,
            "ess": fmean(run["ess"] for run in mine),
            "share": fmean(last),
            "evaluations": sum(run["evaluations"] for run in mine),
        }
        print(
            "{name:22} {hops:5} hops, {rate:.4f} per chain and CPU second; {ess:6.1f} effective "
            "samples/s within a mode; {share:.2f} in the first mode at the end; {evaluations:.2g} "
            "network evaluations".format(name=name, **table[name])
        )
    best = max(table[name]["rate"] for name in LOCAL)
    gain = table["fitted blocks"]["rate"] / best if best else None
    return {"kernels": table, "fitted_over_best_local": gain}


# ---- the picture ------------------------------------------------------------------------------


def picture(result: dict[str, Any], options: Options) -> Figure:
    """Who crosses, how often, how fast within a mode; acceptance and speed by surrogate."""
    figure, axes = plt.subplots(2, 3, figsize=(18, 9.5))
    draw_curves(axes[0, 0], axes[0, 1], result)
    spent = options.chains * options.seconds * len(options.seeds)
    none = f"none in {spent:.0f} chain seconds"
    bars(axes[0, 2], result, "rate", 0.5 / spent, none)
    axes[0, 2].set_title("hops between the modes, per chain and CPU second")
    bars(axes[1, 0], result, "ess", 1.0, "not resolved")
    axes[1, 0].set_title("effective samples of the energy per CPU second, within a mode")
    draw_surrogates(axes[1, 1], axes[1, 2], result, options)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    a, b = options.digits
    figure.suptitle(
        f"A neural energy of 64 pixels trained on digits {a} and {b}: {options.chains} chains, "
        f"seeds {options.seeds}, {options.seconds:g} CPU seconds each on one thread; "
        f"law at n = 10: p = {result['law']['p_value']:.2f}"
    )
    figure.tight_layout()
    return figure


def draw_curves(curves: Any, traces: Any, result: dict[str, Any]) -> None:
    """The share of chains in the first mode, and one chain of each kernel.

    Args:
        curves: axis of the shares.
        traces: axis of the chains.
        result: result of the script.
    """
    for k, (name, colour) in enumerate(COLOURS.items()):
        runs = [run for run in result["runs"] if run["kernel"] == name]
        for i, run in enumerate(runs):
            t, share = torch.tensor(run["curve"]).T
            label = name if i == 0 else None
            curves.plot(t, share, color=colour, lw=1.4, alpha=0.8, label=label)
        t, place = torch.tensor(runs[0]["trace"]).T
        traces.plot(t, 0.3 * place.clamp(-1.3, 1.3) - k, color=colour, lw=0.9)
    weight = result["reference"]["weight"]
    curves.axhline(weight, color="black", ls=":", label=f"long tempered run: {weight:.2f}")
    curves.set(title="from the first mode to both", ylim=(-0.03, 1.03))
    curves.set_ylabel("share of chains in the first mode")
    curves.legend(fontsize=8, loc="lower left")
    traces.set(title="one chain of each: up the first mode, down the second")
    traces.set_yticks([-k for k in range(len(COLOURS))], list(COLOURS))
    for axis in (curves, traces):
        axis.set_xlabel("CPU seconds, what was fitted before included")


def bars(axis: Any, result: dict[str, Any], key: str, least: float, none: str) -> None:
    """A figure of each kernel.

    Args:
        axis: where to draw.
        result: result of the script.
        key: rate or ess.
        least: length of the bar where there is nothing.
        none: text of that bar.
    """
    kernels = result["summary"]["kernels"]
    values = [kernels[name][key] for name in COLOURS]
    lengths = [max(value, least) for value in values]
    drawn = axis.barh(list(COLOURS), lengths, color=list(COLOURS.values()))
    texts = [short(value) if value else none for value in values]
    axis.bar_label(drawn, texts, padding=3, fontsize=9)
    axis.set(xscale="log")
    axis.invert_yaxis()
    axis.margins(x=0.35)


def short(value: float) -> str:
    """Two digits, or a whole number."""
    return f"{value:.0f}" if value > 100 else f"{value:.2g}"


def draw_surrogates(accepted: Any, speed: Any, result: dict[str, Any], options: Options) -> None:
    """Acceptance and effective samples by surrogate and block size.

    Args:
        accepted: axis of the acceptance.
        speed: axis of the effective samples.
        result: result of the script.
        options: options of the run.
    """
    for axis, key in ((accepted, "acceptance"), (speed, "ess")):
        for name, colour in SURROGATES.items():
            cells = [cell for cell in result["surrogates"] if cell["surrogate"] == name]
            blocks = [cell["block"] for cell in cells]
            values = [cell[key] or None for cell in cells]
            axis.plot(blocks, values, "o-", color=colour, label=name)
        axis.set(xscale="log", xlabel="sites of a block", xticks=options.blocks)
        axis.set_xticks(options.blocks, [str(K) for K in options.blocks], minor=False)
        axis.minorticks_off()
    title = "acceptance by surrogate (Gibbs within, started in both modes)"
    accepted.set(title=title, ylim=(0, 1))
    accepted.legend(fontsize=9)
    fastest = max(10.0, *(cell["ess"] for cell in result["surrogates"]))
    speed.set(title="effective samples per CPU second, where resolved", yscale="log")
    speed.set_ylim(1, 2 * fastest)


if __name__ == "__main__":
    command_line(main, Options)
