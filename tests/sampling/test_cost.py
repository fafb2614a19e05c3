"""What a call cost stands in `info`: updates counted by hand, joules with their source."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from qsample import Graph
from qsample.annealers import (
    QAOA,
    Corrected,
    Exact,
    FromCallable,
    Gibbs,
    Neal,
    SimulatedAnnealing,
)
from qsample.sampling.cost import count_updates, with_cost
from qsample.support import power
from tests.support.problems import numbered
from tests.support.samplers import LOCAL
from tests.support.seeds import generator

PROBLEM = numbered(Graph.complete(5))
KEYS = {"cpu_seconds", "spin_updates", "qpu_seconds", "joules_per_read", "joules_source"}


def coins(problem, num, seed):
    return torch.ones(num, problem.num_spins)


@pytest.mark.parametrize(
    ("sampler", "updates"),
    [
        (Gibbs(7), 7 * 40),
        (Gibbs(7, scan="palindromic"), 14 * 40),
        (SimulatedAnnealing(7), 7 * 40),
        (Corrected(SimulatedAnnealing(7), Gibbs(3)), 10 * 40),
        (Neal(7), 7 * 45),  # a read more, which it drops
        (Exact(), 0),
        (QAOA(1), 0),
        (FromCallable(coins), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_updates_of_single_spins_are_counted(sampler, updates):
    cost = sampler.sample(PROBLEM, 8, generator=generator()).info["cost"]
    assert cost.keys() == KEYS and cost["spin_updates"] == updates
    assert 0 <= cost["cpu_seconds"] < 60 and cost["qpu_seconds"] == 0
    batch = numbered(Graph.complete(5), batch=(3,))
    assert sampler.sample(batch, 8).info["cost"]["spin_updates"] == 3 * updates


def test_continued_chains_cost_the_kernel_alone():
    sampler = Corrected(SimulatedAnnealing(7), Gibbs(3))
    first = sampler.sample(PROBLEM, 8)
    assert first.info["before"]["cost"]["spin_updates"] == 7 * 40
    again = sampler.sample(PROBLEM, 8, initial=first)
    assert again.info["cost"]["spin_updates"] == 3 * 40


def test_joules_are_power_times_time(monkeypatch):
    monkeypatch.setattr(power, "counter", lambda: power.Counter(power.Path("nowhere")))
    monkeypatch.setenv(power.STATED, "10/5")
    cost = Gibbs(3).sample(PROBLEM, 8).info["cost"]
    assert cost["joules_per_read"] == pytest.approx(2 * cost["cpu_seconds"] / 8)
    assert cost["joules_source"] == "CPU: 10 W over 5 cores, as QSAMPLE_TDP states"
    monkeypatch.delenv(power.STATED)
    cost = Gibbs(3).sample(PROBLEM, 8).info["cost"]
    assert cost["joules_per_read"] is None and "not known" in cost["joules_source"]


def test_a_processor_is_charged_with_its_refrigerator(monkeypatch):
    monkeypatch.setattr(power, "counter", lambda: power.Counter(power.Path("nowhere")))
    monkeypatch.delenv(power.STATED, raising=False)

    def sample(problem, num):
        reads = Gibbs(1).sample(problem, num)
        return replace(reads, info={"qpu_access_time": 20_000.0})  # microseconds

    def corrected(problem, num):
        reads = Gibbs(1).sample(problem, num)
        return replace(reads, info={"before": {"qpu_access_time": 20_000.0}})

    for function in (sample, corrected):
        cost = with_cost(function)(PROBLEM, 10).info["cost"]
        assert cost["qpu_seconds"] == 0.02
        assert cost["joules_per_read"] == pytest.approx(25_000 * 0.02 / 10)
        assert "25 kW" in cost["joules_source"] and "IEEE Spectrum" in cost["joules_source"]


def test_times_are_in_no_sampleset():
    """The same seed gives the same SampleSet."""
    reads = Gibbs(2).sample(PROBLEM, 3, generator=generator())
    assert "cost" in reads.info and "cost" not in reads.to_sampleset().info


@pytest.mark.parametrize("name", ["gibbs", "exact", "tempering", "importance", "trajectory"])
def test_every_kind_of_sampler_says_it(name):
    cost = LOCAL[name].quick.sample(PROBLEM, 4, generator=generator()).info["cost"]
    assert cost.keys() == KEYS and math.isfinite(cost["cpu_seconds"])


def test_counts_are_plain_numbers():
    """A count of numpy's stays one for ever, and no checkpoint could be written again."""
    count_updates(np.int64(3))  # pyright: ignore[reportArgumentType]
    cost = Gibbs(2).sample(PROBLEM, 2).info["cost"]
    json.dumps(cost)
    assert type(cost["spin_updates"]) is int
