"""The adaptive schedule: equal steps of thermodynamic length, by the exact law."""

import pytest
import torch

from qsample.annealers import SimulatedAnnealing
from qsample.annealers.simulated_annealing import equal_lengths
from qsample.problem.enumeration import log_weights
from qsample.sampling.random import mix
from tests.support.problems import GRAPHS, problems
from tests.support.seeds import generator


def lengths(problem, betas):
    """The exact length of each step: sigma_E by enumeration, on 20 points within each, times it."""
    energy = -log_weights(problem.to(dtype=torch.float64))
    fine = betas[:-1, None] + betas.diff()[:, None] * (torch.arange(20) + 0.5) / 20
    law = (-fine[..., None] * energy).softmax(-1)
    variance = (law * energy**2).sum(-1) - (law * energy).sum(-1) ** 2
    return variance.clamp_min(0).sqrt().mean(-1) * betas.diff()


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("last", [1.0, 4.0])
def test_steps_are_more_even_than_those_of_named_schedules(kind, last):
    problem, beta_range = problems(kind, 1), (0.01, last)
    adaptive = equal_lengths(problem, beta_range, 30, [mix(1, 0)]).block(0, 30)[:, 0, 0]
    assert adaptive[0] == 0.01 and adaptive[-1] == last and (adaptive.diff() > 0).all()
    named = [SimulatedAnnealing(30, beta_range, name).betas for name in ("linear", "geometric")]

    def unevenness(betas):
        steps = lengths(problem, betas)
        return float(steps.std() / steps.mean())

    assert unevenness(adaptive) < min(unevenness(torch.tensor(betas).double()) for betas in named)


def test_each_problem_has_its_own():
    problem = problems("sparse", 3)
    found = SimulatedAnnealing(70, (0.0, 2.0), "adaptive").sample(problem, 4, generator=generator())
    betas = found.info["betas"]
    assert betas.shape == (3, 70) and (betas.diff(dim=-1) > 0).all()
    assert (
        (betas[:, 0] == 0).all()
        and (betas[:, -1] == 2).all()
        and not torch.equal(betas[0], betas[1])
    )


def test_a_problem_without_energies_has_one_too():
    flat = problems("complete", 1).scale(0.0)
    betas = SimulatedAnnealing(5, (0.0, 1.0), "adaptive").sample(flat, 2).info["betas"][0]
    assert torch.isfinite(betas).all() and (betas.diff() > 0).all()


def test_falling_betas_and_single_sweeps():
    problem = problems("sparse", 1)
    falling = (
        SimulatedAnnealing(9, (1.0, 0.1), "adaptive", "metropolis")
        .sample(problem, 2)
        .info["betas"][0]
    )
    assert (falling.diff() < 0).all() and float(falling[0]) == 1
    assert SimulatedAnnealing(1, (0.1, 1.0), "adaptive").sample(problem, 2).info[
        "betas"
    ].tolist() == [[1.0]]


def test_its_betas_belong_to_a_problem():
    with pytest.raises(ValueError, match=r"depends on the problem: info\['betas'\]"):
        _ = SimulatedAnnealing(schedule="adaptive").betas
