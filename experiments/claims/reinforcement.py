"""Free energies as critics: environment steps and reads until a policy is 95 % of the best.

    python experiments/claims/reinforcement.py --out runs/reinforcement

A maze of 5 x 3 cells, beam steering in one dimension and FrozenLake, whose best policies are known
exactly. One agent, one loop; what differs is the critic: an RBM, a deep Boltzmann machine, the same
in a transverse field, each with its free energy summed exactly or measured by a sampler; a table
(tabular Q-learning) and a network (DQN). Settings are the best of `--trials` random ones for RBM,
deep machine, table and DQN alike, drawn from the same lists and judged on seeds of their own; those
that sample take what was found with the exact sum. "Steps" is the first look, one every
`--look` steps, from which on three looks in a row find the greedy policy at 95 % of the best. Looks
cost no reads.

What the function class errs is told apart from what the sampler errs: the best values are fitted by
each critic, and then measured by each sampler at the same weights. A run that is killed goes on.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import (
    DWave,
    Exact,
    Gibbs,
    ParallelTempering,
    SimulatedAnnealing,
)
from qsample.models import BernoulliRBM
from qsample.testing.sapi import Chip, SolverServer

sys.path.append(str(Path(__file__).parents[2]))
from experiments.benchmarks.journal import Journal
from experiments.common import (
    OURS,
    THEIRS,
    CommonOptions,
    Report,
    Stopwatch,
    command_line,
    progress_bar,
)
from experiments.worlds import (
    Finite,
    NetworkCritic,
    Solved,
    TableCritic,
    frozen_lake,
    maze,
    steering,
)

ENOUGH = 0.95
"""part of the best value at which a policy has learnt"""
IN_A_ROW = 3
"""looks that must find it"""
WORLDS: dict[str, tuple[Callable[[], Finite], float]] = {
    "maze": (maze, 0.8),
    "steering": (steering, 0.85),
    "lake": (frozen_lake, 0.9),
}
"""environment and discount"""
LEVELS = 20
"""thermometer units of the beam's position: they tell all its 21 values apart"""

# what a search draws from, the same lists for all critics but the size and the table's own rate;
# narrowed once by hand, for all alike: returns of 3 steps did worse everywhere while exploring
SHARED: dict[str, Sequence[Any]] = {
    "target_every": (10, 50),
    "explore_steps": (200, 500),
    "updates": (1, 2),
    "lr": (0.003, 0.01, 0.03),
    "reward_scale": (1.0, 5.0),
}
SIZES: dict[str, Sequence[Any]] = {
    "RBM": (8, 16),
    "deep": (8, 16),
    "DQN": (32, 64),
    "table": (0,),
}
"""hidden units, or the width of two hidden layers"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """How much is searched and measured."""

    worlds: tuple[str, ...] = ("maze", "steering")
    """environments: maze, steering, lake"""
    trials: int = 20
    """settings tried per critic"""
    judges: int = 2
    """seeds that judge each of them; four times as many judge the best quarter"""
    seeds: int = 20
    """seeds of the measurement"""
    limit: int = 3000
    """steps after which a run is given up"""
    look: int = 10
    """steps from one look at the policy to the next"""
    reads: int = 50
    """reads per state and action"""
    methods: tuple[str, ...] = ()
    """methods that are measured; all by default"""
    fits: int = 1500
    """updates of a fit to the best values"""


@dataclass(frozen=True)
class Method:
    """A critic and how its free energy is measured.

    Args:
        critic: RBM, deep (two layers, each of half its units), quantum (two layers of 2), DQN or
            table; quantum takes the settings found for deep.
        sampler: of the free energy; None sums it.
        estimator: how it is made of reads.
        transverse: field on hidden units.
    """

    critic: str
    sampler: qs.Sampler | None = None
    estimator: Any = "seen"
    transverse: float = 0.0

    @property
    def searched(self) -> str:
        """The critic whose settings it takes."""
        return "deep" if self.critic == "quantum" else self.critic


ANNEALING = SimulatedAnnealing(20, (0.0, 1.0), "linear")
METHODS: dict[str, dict[str, Method]] = {
    "maze": {
        "table": Method("table"),
        "DQN": Method("DQN"),
        "RBM, exact": Method("RBM"),
        "deep, exact": Method("deep"),
        "deep, Gibbs": Method("deep", Gibbs(10)),
        "deep, annealing": Method("deep", ANNEALING),
        "deep, tempering": Method("deep", ParallelTempering(5, 4)),
        "deep, Gibbs, entropy": Method("deep", Gibbs(10), "entropy"),
        "quantum, exact": Method("quantum", transverse=0.5),
        "quantum, Gibbs": Method("quantum", Gibbs(20), transverse=0.5),
    },
    "steering": {
        "table": Method("table"),
        "DQN": Method("DQN"),
        "RBM, exact": Method("RBM"),
    },
    "lake": {"table": Method("table"), "DQN": Method("DQN"), "RBM, exact": Method("RBM")},
}


def main(options: Options) -> None:
    """Search, measure, tell errors apart."""
    report = Report(options, __file__, ("gymnasium",))
    kept = ("limit", "look", "reads", "judges", "fits")
    settings = {name: getattr(options, name) for name in kept}
    journal = Journal(report.folder / "journal.jsonl", settings)
    result: dict[str, Any] = {"worlds": {}, "errors": {}}
    for world in options.worlds:
        solved = Solved(WORLDS[world][0](), WORLDS[world][1])
        asked = {
            name: method
            for name, method in METHODS[world].items()
            if not options.methods or name in options.methods
        }
        best = {
            critic: searched(world, critic, solved, journal, options)
            for critic in dict.fromkeys(method.searched for method in asked.values())
        }
        methods = {}
        for name, method in asked.items():
            runs = []
            for seed in progress_bar(range(options.seeds), desc=f"{world}: {name}"):
                key = f"{world}/{name}/{best[method.searched]['choice']}/{seed}"
                if key not in journal:
                    choice = best[method.searched]["choice"]
                    journal.add(key, learnt(world, method, choice, 1000 + seed, solved, options))
                runs.append(journal[key])
            methods[name] = summary(runs, options)
            print(f"{world}: {name}: {methods[name]['median_steps']} steps", flush=True)
        result["worlds"][world] = {"best_value": solved.best, "search": best, "methods": methods}
        compared(result["worlds"][world])
        report.write(result)
    if {"RBM", "DQN"} <= result["worlds"].get("maze", {"search": {}})["search"].keys():
        result["errors"] = errors(result["worlds"]["maze"]["search"], journal, options)
    report.finish(result, picture(result))
    journal.end()


# ---- one run ----------------


def made(method: Method, choice: dict[str, Any], env: Finite, seed: int, reads: int) -> Any:
    """A critic with its initial weights, shifted so that values start near 0 if so chosen."""
    generator = torch.Generator().manual_seed(seed)
    num_state = LEVELS if env.observation_space.shape else len(env.observations)
    num_action = len(env.P[0])
    size = choice["size"]
    if method.critic == "table":
        return TableCritic(len(env.observations), num_action)
    if method.critic == "DQN":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return NetworkCritic(num_state, num_action, size)
    if method.critic == "RBM":
        model: Any = BernoulliRBM(num_state + num_action, size, generator=generator)
    else:
        layers = (size // 2, size // 2) if method.critic == "deep" else (2, 2)
        model = qs.layered_machine(num_state, layers, num_action, generator=generator)
    critic = qs.FreeEnergyCritic(
        model,
        num_state,
        sampler=method.sampler,
        num=reads,
        estimator=method.estimator,
        transverse=method.transverse,
    )
    if choice["start"] == "zero":
        shift(critic)
    return critic


@torch.no_grad()
def shift(critic: qs.FreeEnergyCritic) -> None:
    """Let all values start near 0: the same bias on all action units, of which one is always on.

    A model of m free hidden spins starts at -F = m log 2, far above what rewards add up to.
    """
    model: Any = critic.model
    state = torch.zeros(1, critic.num_state)
    every = torch.eye(critic.num_action)
    exact = qs.FreeEnergyCritic(model, critic.num_state, transverse=critic.transverse)
    free = -math.sqrt(critic.num_state) * float(exact(state, every).mean())
    if isinstance(model, BernoulliRBM):
        model.b[critic.num_state :] += free
    else:
        model.h[model.visible_index[critic.num_state :]] -= free


def learnt(
    world: str,
    method: Method,
    choice: dict[str, Any],
    seed: int,
    solved: Solved,
    options: Options,
) -> dict[str, Any]:
    """Train an agent until its policy is good enough: steps, reads, problems, CPU seconds."""
    env = WORLDS[world][0]()
    critic = made(method, choice, env, seed, options.reads)
    settings = qs.AgentSettings(
        discount=solved.discount,
        **{name: choice[name] for name in SHARED},
        **choice["extra"],
    )
    observe = one_hot(env) if method.critic == "table" else None
    agent = qs.FreeEnergyAgent(
        env,
        critic,
        settings,
        observe=observe,
        levels=LEVELS,
        generator=torch.Generator().manual_seed(seed),
    )
    watcher = Watcher(solved, options.look)
    watch = Stopwatch()
    agent.train(options.limit, after=watcher)
    return {
        "steps": watcher.since if watcher.good >= IN_A_ROW else None,
        "reads": watcher.reads,
        "problems": watcher.problems,
        "cpu_seconds": watch.read().cpu,
        "curve": watcher.curve,
    }


def one_hot(env: Finite) -> Callable[[Any], Tensor]:
    """Each state of an environment as a unit of its own."""
    places = {np.asarray(x).tobytes(): k for k, x in enumerate(env.observations)}
    unit = torch.eye(len(places))
    return lambda x: unit[
        places[np.asarray(x, dtype=np.asarray(env.observations[0]).dtype).tobytes()]
    ]


class Watcher:
    """Looks at the greedy policy now and then, and ends the run once it is good enough.

    Args:
        solved: the environment's best values.
        every: steps from look to look.
    """

    def __init__(self, solved: Solved, every: int) -> None:
        self.solved = solved
        self.every = every
        self.good = 0
        self.since: int | None = None
        self.reads = 0
        self.problems = 0
        self.curve: list[float] = []

    def __call__(self, agent: qs.FreeEnergyAgent) -> bool:
        """After a step: whether the run is over."""
        if agent.steps % self.every:
            return False
        spent = getattr(agent.critic, "spent", None)
        before = (spent.reads, spent.problems) if spent else (0, 0)
        actions = [int(action) for action in agent.greedy(self.solved.env.observations)]
        if spent:
            spent.reads, spent.problems = before
        part = self.solved.part_of_best(actions)
        self.curve.append(round(part, 4))
        if part < ENOUGH:
            self.good = 0
            return False
        if self.good == 0:
            self.since = agent.steps
            self.reads, self.problems = before
        self.good += 1
        return self.good >= IN_A_ROW


# ---- the search ----------------


def draws(critic: str, trials: int) -> list[dict[str, Any]]:
    """Random settings of a critic, the same every time."""
    random = np.random.default_rng(list(critic.encode()))
    listed = []
    for _ in range(trials):
        choice = {name: picked(values, random) for name, values in SHARED.items()}
        choice["size"] = picked(SIZES[critic], random)
        choice["start"] = ("zero", "optimistic")[random.integers(2)]
        choice["extra"] = {}
        if critic == "table" and random.integers(2):  # as in the books: each step once, no copy
            choice["extra"] = {"memory": 1, "batch": 1, "optimizer": "sgd"}
            choice |= {"lr": (0.1, 0.25, 0.5)[random.integers(3)], "target_every": 1, "updates": 1}
        listed.append(choice)
    return listed


def picked(values: Sequence[Any], random: np.random.Generator) -> Any:
    """One of some values, each equally likely."""
    return values[int(random.integers(len(values)))]


def searched(
    world: str, critic: str, solved: Solved, journal: Journal, options: Options
) -> dict[str, Any]:
    """The best of random settings, by the mean number of steps over the judging seeds.

    All are tried on `judges` seeds, and the best quarter of them on four times as many: a mean over
    few seeds favours settings that were lucky.
    """

    def steps_of(choice: dict[str, Any], judges: int) -> float:
        steps = []
        for seed in range(judges):
            key = f"search/{world}/{critic}/{choice}/{seed}"
            if key not in journal:
                run = learnt(world, Method(critic), choice, seed, solved, options)
                journal.add(key, run["steps"])
            # a run that was given up counts as half as long again
            steps.append(journal[key] or 1.5 * options.limit)
        return sum(steps) / len(steps)

    rows = []
    for choice in progress_bar(draws(critic, options.trials), desc=f"{world}: search {critic}"):
        rows.append({"choice": choice, "steps": steps_of(choice, options.judges)})
    rows.sort(key=lambda row: row["steps"])
    finals = [
        row | {"steps": steps_of(row["choice"], 4 * options.judges)}
        for row in progress_bar(rows[: max(1, len(rows) // 4)], desc=f"{world}: finals {critic}")
    ]
    tried = {"tried": [row["steps"] for row in rows], "finals": [row["steps"] for row in finals]}
    return min(finals, key=lambda row: row["steps"]) | tried


# ---- figures ----------------


def summary(runs: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Medians over seeds, bootstrap intervals of 95 %; a run given up counts as the limit."""
    steps = [options.limit if run["steps"] is None else run["steps"] for run in runs]
    reads = [run["reads"] for run in runs if run["steps"] is not None]
    row: dict[str, Any] = {
        "reached": sum(run["steps"] is not None for run in runs),
        "seeds": len(runs),
        "steps": steps,
        "median_steps": float(np.median(steps)),
        "steps_interval": interval(steps),
        "mean_steps": float(np.mean(steps)),
        "mean_steps_interval": interval(steps, np.mean),
        "cpu_seconds": float(np.median([run["cpu_seconds"] for run in runs])),
        "curves": [run["curve"] for run in runs],
    }
    if any(reads):
        row |= {"median_reads": float(np.median(reads)), "reads_interval": interval(reads)}
    return row


def interval(values: Sequence[float], of: Callable[..., Any] = np.median) -> list[float]:
    """A bootstrap interval of 95 %."""
    random = np.random.default_rng(0)
    drawn = random.choice(np.asarray(values, dtype=float), (4000, len(values)))
    low, high = np.quantile(of(drawn, axis=1), (0.025, 0.975))
    return [float(low), float(high)]


def compared(world: dict[str, Any]) -> None:
    """Ratios of mean steps: sampled critics to the sum of theirs, free energies to the DQN."""
    methods = world["methods"]
    for name, row in methods.items():
        head, _, tail = name.partition(", ")
        for key, base in (("to_exact", f"{head}, exact"), ("to_dqn", "DQN")):
            if (
                base in methods
                and name not in (base, "table")
                and (tail != "exact" or key != "to_exact")
            ):
                row[key] = ratio(row["steps"], methods[base]["steps"])


def ratio(steps: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """The ratio of means, with a bootstrap interval of 95 %."""
    random = np.random.default_rng(0)
    above = random.choice(np.asarray(steps, dtype=float), (4000, len(steps))).mean(1)
    below = random.choice(np.asarray(base, dtype=float), (4000, len(base))).mean(1)
    low, high = np.quantile(above / below, (0.025, 0.975))
    return {"ratio": float(np.mean(steps) / np.mean(base)), "interval": [float(low), float(high)]}


# ---- errors apart ----------------


def errors(best: dict[str, Any], journal: Journal, options: Options) -> dict[str, Any]:
    """What each function class leaves of the best values, and what each sampler adds to it.

    Root mean squares over all states and actions of the maze.
    """
    env = maze()
    solved = Solved(env, WORLDS["maze"][1])
    rows = env.starts
    state = torch.eye(len(env.observations))[rows]
    action = torch.eye(len(env.P[0]))
    goal = torch.as_tensor(solved.values[rows], dtype=torch.float32)
    classes: dict[str, Any] = {}
    machine: Any = None
    for name, transverse in (("RBM", 0.0), ("deep", 0.0), ("quantum", 0.5), ("DQN", 0.0)):
        method = Method(name, transverse=transverse)
        choice = best[method.searched]["choice"] | {"start": "zero"}
        critic = made(method, choice, env, 0, options.reads)
        classes[name] = fitted(critic, state, action, goal, solved, options)
        classes[name]["parameters"] = sum(p.numel() for p in critic.parameters())
        if name == "deep":
            machine = critic.model
    return {"classes": classes, "samplers": sampler_errors(machine, state, action, options)}


def fitted(
    critic: Any, state: Tensor, action: Tensor, goal: Tensor, solved: Solved, options: Options
) -> dict[str, Any]:
    """Fit the best values by exact free energies: the error that is left, and the policy."""
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.fits)
    for _ in range(options.fits):
        loss = (critic(state[:, None], action[None]) - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        value = critic(state[:, None], action[None])
    actions = np.zeros(len(solved.env.P), dtype=int)
    actions[solved.env.starts] = value.argmax(-1).numpy()
    return {
        "rms": float((value - goal).square().mean().sqrt()),
        "part_of_best": solved.part_of_best(actions.tolist()),
    }


def sampler_errors(
    model: Any, state: Tensor, action: Tensor, options: Options
) -> list[dict[str, Any]]:
    """Root mean square of Q by a sampler less Q by the sum, at the same weights."""
    num_state = state.shape[1]
    with torch.no_grad():
        exact = qs.FreeEnergyCritic(model, num_state)(state[:, None], action[None])
    listed = []
    with SolverServer("zephyr-2", chip=Chip(beta=3.0, noise=0.03)) as server:
        client = {"endpoint": server.endpoint, "token": server.token}
        with DWave(client=client) as device:
            samplers: dict[str, qs.Sampler] = {
                "exact draws": Exact(),
                "Gibbs": Gibbs(10),
                "annealing": ANNEALING,
                "tempering": ParallelTempering(5, 4),
                "loopback QPU": device,
            }
            for (name, sampler), estimator, reads in itertools.product(
                samplers.items(), ("seen", "entropy"), (10, 50, 250)
            ):
                critic = qs.FreeEnergyCritic(
                    model, num_state, sampler=sampler, num=reads, estimator=estimator
                )
                generator = torch.Generator().manual_seed(reads)
                with torch.no_grad():
                    value = critic(state[:, None], action[None], generator=generator)
                rms = float((value - exact).square().mean().sqrt())
                row = {"sampler": name, "estimator": estimator, "reads": reads, "rms": rms}
                # what is the same for all actions of a state changes no policy
                off = value - exact
                among = off - off.mean(-1, keepdim=True)
                row["rms_among_actions"] = float(among.square().mean().sqrt())
                listed.append(row)
    return listed


# ---- the picture ----------------


def picture(result: dict[str, Any]) -> Figure:
    """Steps of each method in each world, and the error of samplers against reads."""
    worlds = result["worlds"]
    figure, axes = plt.subplots(1, len(worlds) + 1, figsize=(4.2 * (len(worlds) + 1), 4.2))
    for axis, (name, world) in zip(axes, worlds.items(), strict=False):
        for place, (method, row) in enumerate(world["methods"].items()):
            low, high = row["steps_interval"]
            middle = row["median_steps"]
            colour = THEIRS if method in ("table", "DQN") else OURS
            reach = [[middle - low], [high - middle]]
            axis.errorbar([middle], [place], xerr=reach, fmt="o", color=colour, capsize=3)
        labels = [f"{m} ({r['reached']}/{r['seeds']})" for m, r in world["methods"].items()]
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.invert_yaxis()
        axis.set(xlabel="steps to 95 % of the best, median", title=name)
        axis.grid(alpha=0.3)
    axis = axes[-1]
    rows = result["errors"].get("samplers", []) if result["errors"] else []
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        for estimator, style in (("seen", "-"), ("entropy", "--")):
            own = [r for r in rows if (r["sampler"], r["estimator"]) == (sampler, estimator)]
            axis.plot(
                [r["reads"] for r in own],
                [r["rms"] for r in own],
                style,
                label=f"{sampler}, {estimator}",
            )
    if rows:
        axis.set(xscale="log", yscale="log", xlabel="reads", ylabel="error of Q, root mean square")
        axis.legend(fontsize=6)
    axis.set_title("maze: error of the sampler")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
