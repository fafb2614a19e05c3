"""One model of every sort, with random parameters, in double precision."""

import itertools

import torch
from torch import Tensor

from qsample import Exactness, Ising, Samples
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.sampling.random import Generators
from tests.support.exact import a_graph, all_states


def randomise(model, seed=0, scale=0.7):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=g))
    return model.double()


def rbm(n=3, m=2):
    return randomise(BernoulliRBM(n, m))


def machine(kind, hidden=()):
    return randomise(BoltzmannMachine(a_graph(kind, "abcde"), hidden))


MODELS = {
    "rbm": rbm,
    "rbm wide": lambda: rbm(2, 4),
    "sparse, none hidden": lambda: machine("sparse"),
    "sparse, hidden apart": lambda: machine("sparse", "ca"),
    "sparse, hidden coupled": lambda: machine("sparse", "db"),
    "bipartite, right hidden": lambda: machine("bipartite", "ecd"),
    "bipartite, both sides": lambda: machine("bipartite", "cb"),
    "complete, one hidden": lambda: machine("complete", "c"),
    "complete, hidden coupled": lambda: machine("complete", "dab"),
}


def law_samples(problem: Ising) -> Samples:
    """Every state, weighted by its probability: what infinitely many exact draws would be."""
    problem = problem.detach()
    states = torch.tensor(all_states(problem.num_spins), dtype=torch.int8)
    spins = states.expand(*problem.batch_shape, *states.shape)
    energy = problem.energy(spins)
    return Samples(spins, energy, -energy, Exactness.EXACT)


class Law:
    """A sampler that answers with the law itself, whatever `num` is."""

    warm_start = False
    reversible = True

    def sample(
        self,
        problem: Ising,
        num: int,
        *,
        initial: Samples | None = None,
        generator: Generators | None = None,
    ):
        return law_samples(problem)


def units(model, n):
    """All states of n units in the model's coding."""
    low = 0 if model.coding == "bits" else -1
    return torch.tensor(list(itertools.product((low, 1), repeat=n)), dtype=torch.float64)


def log_likelihood(model, data: Tensor, weight: Tensor | None = None) -> Tensor:
    """The exact mean log-likelihood, by summing joint energies over all states; differentiable."""
    hidden = units(model, model.num_hidden)
    log_z = (-model.energy(units(model, model.num_visible)[:, None], hidden)).flatten().logsumexp(0)
    each = (-model.energy(data[:, None], hidden)).logsumexp(-1) - log_z
    return each.mean() if weight is None else (weight * each).sum() / weight.sum()


def gradients(model, loss: Tensor) -> dict[str, Tensor]:
    names, values = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values, materialize_grads=True), strict=True))


def some_data(model, rows: int = 7, seed: int = 1) -> Tensor:
    bits = torch.randint(
        2, (rows, model.num_visible), generator=torch.Generator().manual_seed(seed)
    ).double()
    return bits if model.coding == "bits" else 2 * bits - 1


class Still:
    """A sampler that leaves its chains where they are."""

    warm_start = reversible = True

    def sample(self, problem, num, *, initial=None, generator=None):
        assert initial is not None
        return Samples(initial.spins, problem.energy(initial.spins))
