"""One model of every sort, with random parameters, in double precision."""

import torch

from qsample.models import BernoulliRBM, BoltzmannMachine
from tests.oracle import a_graph


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
