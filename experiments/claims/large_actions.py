"""2^40 actions: a free energy, whose actions a sampler draws, beside factorised policies.

    python experiments/claims/large_actions.py --out runs/large_actions

The task of Sallans and Hinton (JMLR 5, 1063, 2004): pairs of random bits, 12 of a state and 40 of
an action, are keys; the reward of an action is the part of its bits that agree with the action of
the key whose state is nearest. The critic is an RBM, its actions are reads of the problem in which
the state is clamped, in the end the best of 16. A factorised policy draws each bit by itself: with
a logit that is linear in the state, learnt from as many rewards by policy gradient (Williams,
Machine Learning 8, 1992), or at its optimum, fitted to the right actions of all states, which no
learner is shown; and one that does not look at the state, at its optimum.

The rates of both learners are the best of `--rates`. Every seed has keys of its own; the reward is
that of the best action for states of a test set. A run that is killed goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import qsample as qs
from qsample.annealers import Gibbs, SimulatedAnnealing
from qsample.models import BernoulliRBM

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
from experiments.worlds import KeyPairs

TESTED = 500
"""states of the test set"""


@dataclass(frozen=True)
class Options(CommonOptions):
    """Size of the task and of what learns it."""

    keys: int = 13
    """pairs of a state and an action"""
    steps: int = 32_000
    """rewards that a learner sees"""
    hidden: int = 100
    """hidden units"""
    batch: int = 512
    """transitions per update of the critic"""
    lanes: int = 32
    """environments side by side"""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """learning rates tried, of the critic and of the policy gradient"""
    cold: float = 0.1
    """last temperature of the critic's actions, as a part of the first"""
    scale: float = 40.0
    """what rewards are multiplied by for the critic: 1 per bit"""
    seeds: int = 20
    """keys that are measured"""


def main(options: Options) -> None:
    """Choose rates, measure, compare."""
    report = Report(options, __file__, ("gymnasium",))
    kept = ("keys", "steps", "hidden", "batch", "lanes", "cold", "scale")
    journal = Journal(
        report.folder / "journal.jsonl", {name: getattr(options, name) for name in kept}
    )
    annealing = SimulatedAnnealing(20, (0.0, 1.0), "linear")
    learners: dict[str, Callable[..., dict[str, Any]]] = {
        "free energy, Gibbs": partial(by_free_energy, sampler=Gibbs(20), options=options),
        "free energy, annealing": partial(by_free_energy, sampler=annealing, options=options),
        "factorised, learnt": partial(by_policy_gradient, options=options),
    }
    optima = {"factorised, optimum": linear_best, "no state, optimum": constant_best}

    def kept_or(key: str, call: Callable[..., Any], *arguments: Any) -> Any:
        if key not in journal:
            journal.add(key, call(*arguments))
        return journal[key]

    result: dict[str, Any] = {"random": 0.5, "rates": {}, "rewards": {}, "curves": {}}
    for name, learner in learners.items():
        tried = {}
        for rate in options.rates:  # on keys that are not measured
            run = kept_or(f"{name}/search/{rate}", learner, 10_000, rate)
            tried[rate] = run["reward"]
        rate = max(tried, key=lambda r: tried[r])
        result["rates"][name] = {"rate": rate, "tried": list(tried.values())}
        runs = []
        for seed in progress_bar(range(options.seeds), desc=name):
            runs.append(kept_or(f"{name}/{rate}/{seed}", learner, seed, rate))
        result["rewards"][name] = row_of([run["reward"] for run in runs])
        result["curves"][name] = [run["curve"] for run in runs]
        report.write(result)
    for name, best in optima.items():
        rewards = []
        for seed in range(options.seeds):
            rewards.append(kept_or(f"{name}/{seed}", best, seed, options))
        result["rewards"][name] = row_of(rewards)
    result["ratio"] = ratios(result["rewards"])
    report.finish(result, picture(result, options))
    journal.end()


def states_of(seed: int, options: Options) -> tuple[KeyPairs, np.ndarray]:
    """The task of a seed, and its test states `[TESTED, 12]`."""
    env = KeyPairs(options.keys, seed=seed)
    random = np.random.default_rng(seed + 1)
    return env, random.integers(0, 2, (TESTED, env.key_states.shape[1]), dtype=np.int8)


# ---- learners ----------------


def by_free_energy(seed: int, rate: float, sampler: qs.Sampler, options: Options) -> dict[str, Any]:
    """Reward of the best of 16 drawn actions after learning, and the curve of it."""
    task, test = states_of(seed, options)
    envs = [KeyPairs(options.keys, seed=seed) for _ in range(options.lanes)]
    generator = torch.Generator().manual_seed(seed)
    num_state = test.shape[1]
    bits = task.key_actions.shape[1]
    model = BernoulliRBM(num_state + bits, options.hidden, generator=generator)
    hot = options.scale / bits
    settings = qs.AgentSettings(
        policy="sampled",
        explore=(hot, hot * options.cold),
        explore_steps=options.steps,
        discount=0.0,
        reward_scale=options.scale,
        lr=rate,
        batch=options.batch,
        memory=options.steps,
    )
    agent = qs.FreeEnergyAgent(
        envs,
        qs.FreeEnergyCritic(model, num_state),
        settings,
        sampler=sampler,
        generator=generator,
    )
    right = task.best(test)
    watch = Stopwatch()
    curve = []
    for _ in range(10):
        agent.train(max(options.lanes, options.steps // 10))
        curve.append(float((np.stack(agent.greedy(list(test))) == right).mean()))
    return {"reward": curve[-1], "curve": curve, "cpu_seconds": watch.read().cpu}


def by_policy_gradient(seed: int, rate: float, options: Options) -> dict[str, Any]:
    """Reward of the likeliest action of a factorised policy, and the curve of it."""
    task, test = states_of(seed, options)
    random = np.random.default_rng(seed + 2)
    generator = torch.Generator().manual_seed(seed)
    policy = torch.nn.Linear(test.shape[1], task.key_actions.shape[1])
    torch.nn.init.zeros_(policy.weight)
    torch.nn.init.zeros_(policy.bias)
    optimiser = torch.optim.Adam(policy.parameters(), lr=rate)
    watch = Stopwatch()
    rounds = options.steps // options.lanes
    baseline = 0.5
    curve = []
    for k in range(rounds):
        shown = random.integers(0, 2, (options.lanes, test.shape[1]), dtype=np.int8)
        logit = policy(spins(shown))
        action = torch.bernoulli(logit.detach().sigmoid(), generator=generator)
        reward = (action.numpy() == task.best(shown)).mean(1)
        gain = torch.as_tensor(reward - baseline, dtype=torch.float32)
        baseline += 0.1 * (float(reward.mean()) - baseline)
        log_p = torch.nn.functional.binary_cross_entropy_with_logits(
            logit, action, reduction="none"
        )
        loss = (gain[:, None] * log_p).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (k + 1) % max(1, rounds // 10) == 0:
            curve.append(reward_of(policy, test, task))
    return {
        "reward": reward_of(policy, test, task),
        "curve": curve,
        "cpu_seconds": watch.read().cpu,
    }


@torch.no_grad()
def reward_of(policy: torch.nn.Linear, test: np.ndarray, task: KeyPairs) -> float:
    """Mean reward of the likeliest actions."""
    return float(((policy(spins(test)) > 0).numpy() == task.best(test)).mean())


def spins(bits: np.ndarray) -> Tensor:
    """Bits as numbers -1 and +1."""
    return torch.as_tensor(bits).float() * 2 - 1


# ---- the best there are ----------------


def linear_best(seed: int, options: Options) -> float:
    """Reward of logistic regressions of each bit on the state, fitted to all right actions."""
    task, test = states_of(seed, options)
    n = test.shape[1]
    every = ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1).astype(np.int8)
    goal = torch.as_tensor(task.best(every)).float()
    policy = torch.nn.Linear(n, goal.shape[1])
    torch.nn.init.zeros_(policy.weight)
    torch.nn.init.zeros_(policy.bias)
    optimiser = torch.optim.LBFGS(policy.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        logit = policy(spins(every))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, goal)
        loss.backward()
        return loss

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    return reward_of(policy, test, task)


def constant_best(seed: int, options: Options) -> float:
    """Reward of the bits that are right most often, whatever the state."""
    task, test = states_of(seed, options)
    share = task.best(test).mean(0)
    return float(np.maximum(share, 1 - share).mean())


# ---- figures ----------------


def row_of(rewards: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds and its bootstrap interval of 95 %."""
    random = np.random.default_rng(0)
    drawn = random.choice(np.asarray(rewards), (4000, len(rewards))).mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "mean": float(np.mean(rewards)),
        "interval": [float(low), float(high)],
        "seeds": list(rewards),
    }


def ratios(rewards: dict[str, Any]) -> dict[str, Any]:
    """Rewards of the free energies over those of each factorised policy, seed by seed."""
    listed: dict[str, Any] = {}
    for ours in (name for name in rewards if name.startswith("free energy")):
        for other in (name for name in rewards if not name.startswith("free energy")):
            pairs = zip(rewards[ours]["seeds"], rewards[other]["seeds"], strict=True)
            listed[f"{ours} over {other}"] = row_of([a / b for a, b in pairs])
    return listed


def picture(result: dict[str, Any], options: Options) -> Figure:
    """Rewards while learning, and in the end."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name, curves in result["curves"].items():
        mean = np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
        seen = np.linspace(options.steps / len(mean), options.steps, len(mean))
        style = "-" if name.startswith("free energy") else "--"
        left.plot(seen, mean, style, label=name)
    left.set(xlabel="rewards seen", ylabel="reward of the best action", ylim=(0.45, 1.0))
    left.legend(fontsize=8)
    for place, (name, row) in enumerate(result["rewards"].items()):
        low, high = row["interval"]
        reach = [[row["mean"] - low], [high - row["mean"]]]
        colour = OURS if name.startswith("free energy") else THEIRS
        right.errorbar([row["mean"]], [place], xerr=reach, fmt="o", color=colour, capsize=3)
    right.set_yticks(range(len(result["rewards"])), list(result["rewards"]), fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="reward, 1 is all 40 bits right", title=f"{options.keys} keys, 2^40 actions")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    command_line(main, Options)
