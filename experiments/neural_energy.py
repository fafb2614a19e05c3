"""Two far modes of a trained neural energy: which kernels cross between them, and which move fastest within one.

    python experiments/neural_energy.py --out runs/neural_energy

An energy network of 64 pixels is trained on the rows of two digits nearest to their class means, its negative samples
from parallel tempering, so that both modes have the weight they should. That weight is then measured by a longer
tempered run. Every kernel starts with all its chains in the first mode, and gets the same CPU time of this process on
one thread (wall time would measure the machine's other work):

- single-site Gibbs, Gibbs with gradients, discrete Langevin (the step size that moves most sites);
- blocks: QUBO blocks of 16 sites, a secant surrogate for each, and single-site Gibbs in turn;
- fitted blocks: one quadratic surrogate of all 64 pixels, fitted to data with random flips; tempered transitions on
  it (`TemperedGibbs`, native and cheap) propose for all pixels at once, so does Gibbs on it, in turn with
  single-site Gibbs of the network. Fit and ladder count as its own CPU time;
- tempered transitions and parallel tempering of the network itself (its hops are those of the place at beta 1).

How much is won depends on the energy, and the default was chosen for being hard: of five tried, one where local
kernels hardly cross. There the fitted blocks cross 0.88 times a chain and CPU second, Gibbs with gradients and Langevin
0.004 times (4 hops each), single-site Gibbs and secant blocks never. On all rows of two nearer digits (--digits 0 1
--rows 178 --noise 0.02 --updates 2000) local kernels cross by themselves and the fitted blocks lead by 4 to 16 times.
Within a mode Gibbs with gradients is three times as fast as the mixture, whose time goes to the tempered transitions.
Parallel tempering of so small a network changes sides more often still, with 40 times the network evaluations, and has
not reached the right weights after 10 s; the fitted blocks have. The fit needs data of both modes: nothing here finds
a mode that the data lack.

Acceptance and effective samples a second are also compared by surrogate and block size, and the chains' law is
tested against enumeration on an energy of 10 pixels. Writes results.json and modes.png.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
import torch
import tyro
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
from qsample.support.progress import progress_bar
from qsample.testing import FALSE_ALARM

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "single-site Gibbs": "#969696",
    "Gibbs with gradients": "#1b7837",
    "discrete Langevin": "#a6611a",
    "blocks": "#92c5de",
    "fitted blocks": "#2166ac",
    "tempered transitions": "#d6604d",
    "parallel tempering": "#762a83",
}
SURROGATES = {
    "linear": "#969696",
    "taylor": "#a6611a",
    "secant": "#92c5de",
    "regression": "#1b7837",
}
SURROGATES |= {"fitted once": "#2166ac"}
Energy = Callable[[Tensor], Tensor]
Step = Callable[[Tensor], tuple[Tensor, Tensor]]  # chains [R, n] to chains and energies
STEP_SIZES = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0)
PALINDROMIC = Gibbs(2, scan="palindromic")


@dataclass(frozen=True)
class Options:
    """One setting for all kernels."""

    out: Path = Path("runs/neural_energy")
    """folder for results.json and modes.png"""
    digits: tuple[int, int] = (3, 4)
    """the two modes"""
    rows: int = 40
    """of each digit: those nearest to its mean"""
    noise: float = 0.005
    """share of pixels flipped in training"""
    width: int = 64
    """units of each of the network's two hidden layers"""
    updates: int = 1500
    """gradient steps"""
    chains: int = 32
    """of every kernel, all from the first mode"""
    seconds: float = 10.0
    """CPU time of each kernel and seed"""
    seeds: tuple[int, ...] = (0, 1, 2)
    """of the chains"""
    reference: int = 1000
    """tempered rounds that measure the modes' weights"""
    blocks: tuple[int, ...] = (8, 16, 32, 64)
    """block sizes"""
    cell: float = 2.5
    """CPU time of each surrogate and block size"""
    law: int = 10_000
    """chains of the test against enumeration"""
    threads: int = 1
    """torch threads"""


def main(options: Options) -> None:
    """Train, measure, test the law, race."""
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    digits = load("digits", coding="spins")
    assert digits.labels is not None
    rows = [near(digits.x[digits.labels == k], options.rows) for k in options.digits]
    results: dict[str, Any] = {"law": law(rows, options)}
    began = time.process_time()
    E, tempered = train(rows, options)
    modes = Modes.of(rows)
    results |= {
        "training_seconds": time.process_time() - began,
        "reference": weigh(tempered, modes, options),
    }
    print(
        "first mode's weight by a long tempered run: {weight:.3f} ± {stderr:.3f}".format(
            **results["reference"]
        )
    )
    results["surrogates"] = surrogates(E, rows, tempered.cold, modes, options)
    moved = pilot(E, tempered.cold)
    results |= {"step_size": max(moved, key=moved.__getitem__), "step_sizes": moved}
    results["runs"] = [
        race(name, seed, E, rows, modes, results["step_size"], options)
        for seed in options.seeds
        for name in COLOURS
    ]
    summary(results, options)
    results["options"] = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    (options.out / "results.json").write_text(json.dumps(results, indent=1))
    picture(results, options)
    print(f"{options.out / 'results.json'}\n{options.out / 'modes.png'}")


def near(rows: Tensor, count: int) -> Tensor:
    """The rows nearest to their mean."""
    return rows[(rows - rows.mean(0)).abs().sum(-1).argsort()[:count]]


# ---- the energy ------------------------------------------------------------------------------------------------


class Tempered:
    """Parallel tempering of any energy: R ladders of single-site Gibbs chains, `x` [L, R, n], the last at beta 1."""

    def __init__(self, E: Energy, x: Tensor, seed: int, betas: int = 12) -> None:
        self.E, self.beta, self.generator = (
            E,
            torch.linspace(0.05, 1, betas),
            torch.Generator().manual_seed(seed),
        )
        self.x, self.energy, self.round = x.expand(betas, *x.shape[-2:]).clone(), torch.empty(0), 0

    def step(self, sites: int) -> None:
        """So many sites of each chain, and one round of swaps between neighbours."""
        beta = self.beta[:, None]
        found = SiteGibbs(sites).sample(
            lambda s: beta * self.E(s), self.x, generator=self.generator
        )
        self.x, energy = found.spins.float(), found.energy / beta
        low = torch.arange(self.round % 2, len(beta) - 1, 2)
        gain = (beta[low + 1] - beta[low]) * (energy[low + 1] - energy[low])
        swapped = torch.rand(gain.shape, generator=self.generator) < gain.exp()
        order = torch.arange(len(beta))[:, None].repeat(1, self.x.shape[1])
        order[low] += swapped
        order[low + 1] -= swapped.long()
        self.x = self.x.take_along_dim(order[..., None], 0)
        self.energy, self.round = energy.take_along_dim(order, 0), self.round + 1

    @property
    def cold(self) -> Tensor:
        """The chains at beta 1, [R, n]."""
        return self.x[-1]


def train(rows: list[Tensor], options: Options) -> tuple[Energy, Tempered]:
    """Maximum likelihood, negative samples from persistent tempered chains; the energy, and those chains."""
    torch.manual_seed(0)
    data, n, width = torch.cat(rows), rows[0].shape[-1], options.width
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
    for update in progress_bar(range(options.updates), desc=f"training on {n} pixels", leave=False):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - update / options.updates)
        chains.step(max(1, n // 4))
        batch = data[torch.randint(len(data), (128,))]
        batch = torch.where(torch.rand_like(batch) < options.noise, -batch, batch)
        here, there = network(batch), network(chains.cold)
        optimizer.zero_grad()
        loss = here.mean() - there.mean() + 1e-3 * (here.square().mean() + there.square().mean())
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
        first, second = (r.mean(0) for r in rows)
        axis = 2 * (first - second) / (first - second).square().sum()
        return Modes(axis, (first + second) / 2 @ axis)

    def place(self, x: Tensor) -> Tensor:
        """`[..., n]` to `[...]`."""
        return x.float() @ self.axis - self.middle


def weigh(tempered: Tempered, modes: Modes, options: Options) -> dict[str, float]:
    """The first mode's weight, its error from ladders that know nothing of each other."""
    found = []
    for _ in progress_bar(range(options.reference), desc="the modes' weights", leave=False):
        tempered.step(16)
        found.append((modes.place(tempered.cold) > 0).float())
    each = torch.stack(found).mean(0)
    return {"weight": float(each.mean()), "stderr": float(each.std() / len(each) ** 0.5)}


# ---- kernels ---------------------------------------------------------------------------------------------------


def fit(E: Energy, rows: list[Tensor]) -> qs.Ising:
    """One quadratic surrogate of all pixels, from the data with up to 6 % of the pixels flipped."""
    g, data = torch.Generator().manual_seed(0), torch.cat(rows)
    n = data.shape[-1]
    s = data.repeat(-(-max(2000, 3 * (1 + n + n * (n - 1) // 2)) // len(data)), 1)
    rate = 0.06 * torch.rand(len(s), 1, generator=g)
    s = torch.where(torch.rand(s.shape, generator=g) < rate, -s, s)
    return regression(E, torch.ones(n), states=s)


def ladder(problem: qs.Ising, steps: int) -> list[float]:
    """Betas from 1 down, evenly hard to pass: between those that parallel tempering adapts."""
    found = ParallelTempering(100, 12).sample(
        problem, 16, generator=torch.Generator().manual_seed(0)
    )
    old = found.info["betas"].flip(0).double()
    at = torch.linspace(0, len(old) - 1, steps + 1, dtype=torch.float64)
    low = at.floor().long().clamp(max=len(old) - 2)
    return (old[low] + (at - low) * (old[low + 1] - old[low])).tolist()


def fitted_blocks(problem: qs.Ising, steps: int = 48) -> Cycle:
    """Tempered transitions on the surrogate across modes, Gibbs on it and single sites of the network within them."""
    n = problem.num_spins
    across = BlockMetropolis(TemperedGibbs(ladder(problem, steps)), problem, n)
    within = BlockMetropolis(PALINDROMIC, problem, n, 16)
    return Cycle([across, within, SiteGibbs(16)])


def kernels(step_size: float) -> dict[str, Any]:
    """Those that need no fit."""
    return {
        "single-site Gibbs": SiteGibbs(64),
        "Gibbs with gradients": GibbsWithGradients(32),
        "discrete Langevin": DiscreteLangevin(step_size, 32),
        "blocks": Cycle([BlockMetropolis(PALINDROMIC, secant, 16, 2), SiteGibbs(16)]),
        "tempered transitions": TemperedTransitions(
            SiteGibbs(16), torch.linspace(1, 0.05, 25).tolist()
        ),
    }


def effective(record: Mapping[str, Tensor], modes: Modes) -> float:
    """Effective samples, of the energy less the mean of each mode; 0 where a tenth of the run is still correlated."""
    first, values = record["place"] > 0, record["energy"]
    for side in (first, ~first):
        values = values - side * (values * side).sum() / side.sum().clamp(min=1)
    tau = autocorrelation_time(values)
    return values.numel() / tau if tau < len(values) / 10 else 0.0


def run(step: Step, x: Tensor, modes: Modes, seconds: float) -> dict[str, Tensor]:
    """Steps of chains `[R, n]` for so much CPU time: `seconds` [T], `place` and `energy` [T, R]."""
    record: dict[str, list[Tensor]] = {"seconds": [], "place": [], "energy": []}
    began = time.process_time()
    while len(record["seconds"]) < 6 or time.process_time() - began < seconds:
        x, energy = step(x)
        record["seconds"].append(torch.tensor(time.process_time() - began))
        record["place"].append(modes.place(x))
        record["energy"].append(energy)
    return {name: torch.stack(found) for name, found in record.items()}


def stepper(
    kernel: Any, E: Energy, anchor: Tensor, seed: int, notes: list[Any] | None = None
) -> Step:
    """A kernel's call as a step of `run`; its acceptance and flips are noted."""
    g = torch.Generator().manual_seed(seed)

    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        found = kernel.sample(E, x, anchor=anchor, generator=g)
        if notes is not None:
            notes.append([float(found.info["acceptance"]), float(found.info.get("flips", 0))])
        return found.spins.float(), found.energy

    return step


def middle(rows: list[Tensor]) -> Tensor:
    """One state near the data, which knows nothing of any chain: the anchor of every local surrogate."""
    return torch.where(torch.cat(rows).mean(0) < 0, -1.0, 1.0)


# ---- what is measured ------------------------------------------------------------------------------------------


def surrogates(
    E: Energy, rows: list[Tensor], x: Tensor, modes: Modes, options: Options
) -> list[dict[str, Any]]:
    """Acceptance, sites changed and effective samples a second of blocks, by surrogate and size."""
    cells, problem = [], fit(E, rows)
    named = {
        "linear": linear,
        "taylor": taylor,
        "secant": secant,
        "regression": partial(regression, flips=0.5),
    }
    for name in SURROGATES:
        for K in options.blocks:
            if name == "regression" and K > 32:
                continue  # 2,081 coefficients for every chain and move
            kernel = BlockMetropolis(PALINDROMIC, named.get(name, problem), K, max(1, 64 // K))
            notes: list[Any] = []
            record = run(
                stepper(kernel, E, middle(rows), 0, notes), x[: options.chains], modes, options.cell
            )
            cost = float(record["seconds"][-1])
            acceptance, flips = (fmean(column) for column in zip(*notes, strict=True))
            cell = {"surrogate": name, "block": K, "acceptance": acceptance, "flips": flips}
            cell |= {
                "ms_a_move": 1e3 * cost / len(notes) / kernel.moves,
                "ess": effective(record, modes) / cost,
            }
            cells.append(cell)
            print(
                f"{name:12} block {K:2}: acceptance {acceptance:.3f}, {cell['ess']:.1f} effective samples/s"
            )
    return cells


def pilot(E: Energy, x: Tensor, steps: int = 200) -> dict[float, float]:
    """Sites that a step of discrete Langevin changes, on average over chains in both modes, by its step size."""
    found = {}
    for size in STEP_SIZES:
        step, at, moved = stepper(DiscreteLangevin(size), E, x[0], 0), x, 0.0
        for _ in range(steps):
            new, _ = step(at)
            at, moved = new, moved + float((new != at).sum(-1).double().mean()) / steps
        found[size] = moved
    return found


def race(
    name: str,
    seed: int,
    E: Energy,
    rows: list[Tensor],
    modes: Modes,
    step_size: float,
    options: Options,
) -> dict[str, Any]:
    """One kernel for so much CPU time, all its chains from the first mode; what it made before counts."""
    g = torch.Generator().manual_seed(seed)
    x = rows[0][torch.randint(len(rows[0]), (options.chains,), generator=g)]
    began, E = time.process_time(), Counted(E)
    if name == "parallel tempering":
        tempered = Tempered(E, x, seed)

        def swapping(x: Tensor) -> tuple[Tensor, Tensor]:
            tempered.step(16)
            return tempered.cold, tempered.energy[-1]

        step: Step = swapping
    else:
        kernel = (
            fitted_blocks(fit(E, rows)) if name == "fitted blocks" else kernels(step_size)[name]
        )
        step = stepper(kernel, E, middle(rows), seed)
    before = time.process_time() - began
    record = run(step, x, modes, options.seconds - before)
    place, seconds = record["place"], record["seconds"] + before
    side, hops = torch.ones(place.shape[1]), 0
    for now in place:  # a hop is from half way into one mode to half way into the other
        new = torch.where(now.abs() > 0.5, now.sign(), side)
        hops, side = hops + int((new != side).sum()), new
    spent = float(seconds[-1])
    later = {key: value[len(place) // 4 :] for key, value in record.items()}
    ess = effective(later, modes) / float(later["seconds"][-1] - later["seconds"][0])
    print(
        f"{name:22} seed {seed}: {hops} hops, {ess:.1f} effective samples/s within a mode, {spent:.1f} s",
        flush=True,
    )
    keep = torch.linspace(0, len(place) - 1, min(200, len(place))).long()
    share = (place > 0).float().mean(1)
    return {
        "kernel": name,
        "seed": seed,
        "before": before,
        "seconds": spent,
        "calls": len(place),
        "hops": hops,
        "evaluations": sum(E.counts.values()),
        "ess": ess,
        "curve": torch.stack([seconds[keep], share[keep]], 1).tolist(),
        "trace": torch.stack([seconds[keep], place[keep, 0]], 1).tolist(),
    }


def law(rows: list[Tensor], options: Options) -> dict[str, float]:
    """G-test of the fitted blocks against all states of an energy trained on ten of the pixels.

    Independent chains, all from one state of the first mode, one read of each; a tenth of the pixels are flipped in
    training, so that hundreds of states count.
    """
    first, second = (r.mean(0) for r in rows)
    few = [r[:, (first - second).abs().argsort(descending=True)[:10]] for r in rows]
    E, _ = train(few, replace(options, noise=0.1, updates=max(1, options.updates // 4)))
    every = states(10).float()
    exact = (-E(every).double()).softmax(-1)
    kernel = Cycle(fitted_blocks(fit(E, few), 12).kernels, rounds=12)
    x = few[0][:1].expand(options.law, -1)
    found = kernel.sample(E, x, generator=torch.Generator().manual_seed(1))
    code = (((found.spins + 1) // 2).long() << torch.arange(10)).sum(-1)
    seen, expected = torch.bincount(code, minlength=1024).double(), exact * options.law
    rare = expected < 5
    if rare.any():
        seen, expected = (torch.cat([t[~rare], t[rare].sum()[None]]) for t in (seen, expected))
    p = 1.0  # one bin says nothing
    if len(seen) > 1:
        p = float(power_divergence(seen.numpy(), expected.numpy(), lambda_="log-likelihood").pvalue)
    modes = Modes.of(few)
    weight = float(exact[modes.place(every) > 0].sum())
    measured = float((modes.place(found.spins) > 0).double().mean())
    verdict = "exact" if p > FALSE_ALARM else "WRONG"
    print(
        f"law at n = 10: G-test p = {p:.3f} over {len(seen)} bins, {verdict} at {FALSE_ALARM:g}; "
        f"first mode's weight {measured:.3f}, enumerated {weight:.3f}"
    )
    return {
        "p_value": p,
        "bins": len(seen),
        "weight": measured,
        "exact_weight": weight,
        "reads": options.law,
    }


def mean(results: dict[str, Any], name: str, key: str) -> float:
    """Of a figure over the seeds."""
    return fmean(run[key] for run in results["runs"] if run["kernel"] == name)


def summary(results: dict[str, Any], options: Options) -> None:
    """Hops a chain and second, effective samples a second, and where the chains are at the end."""
    results["summary"] = {}
    for name in COLOURS:
        runs = [run for run in results["runs"] if run["kernel"] == name]
        spent = options.chains * sum(run["seconds"] for run in runs)
        last = [row[1] for run in runs for row in run["curve"][-len(run["curve"]) // 4 :]]
        hops = sum(run["hops"] for run in runs)
        found = {
            "hops": hops,
            "rate": hops / spent,
            "ess": mean(results, name, "ess"),
            "share": fmean(last),
        }
        found["evaluations"] = sum(run["evaluations"] for run in runs)
        results["summary"][name] = found
        print(
            "{name:22} {hops:5} hops, {rate:.4f} a chain and CPU second; {ess:6.1f} effective samples/s within a mode; "
            "{share:.2f} in the first mode at the end; {evaluations:.2g} network evaluations".format(
                name=name, **found
            )
        )


def picture(results: dict[str, Any], options: Options) -> None:
    """Who crosses, how often, how fast within a mode; acceptance and speed by surrogate and block size."""
    figure, axes = plt.subplots(2, 3, figsize=(18, 9.5))
    (curves, traces, hops), (within, accepted, speed) = axes
    names, spent = list(COLOURS), options.chains * options.seconds * len(options.seeds)
    for name, colour in COLOURS.items():
        runs = [run for run in results["runs"] if run["kernel"] == name]
        for k, run in enumerate(runs):
            t, share = zip(*run["curve"], strict=True)
            curves.plot(t, share, color=colour, lw=1.4, alpha=0.8, label=None if k else name)
    weight = results["reference"]["weight"]
    curves.axhline(weight, color="black", ls=":", label=f"long tempered run: {weight:.2f}")
    curves.set(
        title="from the first mode to both",
        ylabel="share of chains in the first mode",
        ylim=(-0.03, 1.03),
    )
    curves.legend(fontsize=8, loc="lower left")
    for k, name in enumerate(names):
        run = next(run for run in results["runs"] if run["kernel"] == name)
        t, place = torch.tensor(run["trace"]).T
        traces.plot(t, 0.3 * place.clamp(-1.3, 1.3) - k, color=COLOURS[name], lw=0.9)
    traces.set(title="one chain of each: up the first mode, down the second")
    traces.set_yticks([-k for k in range(len(names))], names)
    for axis in (curves, traces):
        axis.set_xlabel("CPU seconds, what was fitted before included")
    for axis, key, title in (
        (hops, "rate", "hops between the modes, a chain and CPU second"),
        (within, "ess", "effective samples of the energy a CPU second, within a mode"),
    ):
        values = [results["summary"][name][key] for name in names]
        least = 0.5 / spent if key != "ess" else 1.0
        bars = axis.barh(names, [max(v, least) for v in values], color=list(COLOURS.values()))
        none = f"none in {spent:.0f} chain seconds" if key != "ess" else "not resolved"
        text = [(f"{v:.0f}" if v > 100 else f"{v:.2g}") if v else none for v in values]
        axis.bar_label(bars, text, padding=3, fontsize=9)
        axis.set(xscale="log", title=title)
        axis.invert_yaxis()
        axis.margins(x=0.35)
    for axis, key in ((accepted, "acceptance"), (speed, "ess")):
        for name, colour in SURROGATES.items():
            cells = [cell for cell in results["surrogates"] if cell["surrogate"] == name]
            axis.plot(
                [c["block"] for c in cells],
                [c[key] or None for c in cells],
                "o-",
                color=colour,
                label=name,
            )
        axis.set(xscale="log", xlabel="sites of a block", xticks=options.blocks)
        axis.set_xticks(options.blocks, [str(K) for K in options.blocks], minor=False)
        axis.minorticks_off()
    accepted.set(title="acceptance by surrogate (Gibbs within, started in both modes)", ylim=(0, 1))
    speed.set(title="effective samples a CPU second, where resolved")
    speed.set(yscale="log", ylim=(1, 2 * max(10.0, *(c["ess"] for c in results["surrogates"]))))
    accepted.legend(fontsize=9)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    a, b = options.digits
    figure.suptitle(
        f"A neural energy of 64 pixels trained on digits {a} and {b}: {options.chains} chains, seeds {options.seeds}, "
        f"{options.seconds:g} CPU seconds each on one thread; law at n = 10: p = {results['law']['p_value']:.2f}"
    )
    figure.tight_layout()
    figure.savefig(options.out / "modes.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(tyro.cli(Options))
