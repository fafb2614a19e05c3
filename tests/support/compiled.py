"""What `torch.compile` makes of callers of qsample.

test_transforms runs it in a process without type checks: `python -m tests.support.compiled`.
"""

from typing import Any

import torch

from qsample import ContrastiveDivergence, Graph, cd_loss
from qsample.annealers import Exact, Gibbs, ParallelTempering, SimulatedAnnealing
from qsample.models import BernoulliRBM, BoltzmannMachine
from tests.support.seeds import generator


def draws(backend):
    """The reads of each sampler for a seed and torch's default generator, compiled and not."""
    model = BoltzmannMachine(Graph.sparse(5, [(0, 1), (1, 4), (2, 4)]), [4], generator=generator())
    problem = model.ising().detach()
    for sampler in (Gibbs(3), SimulatedAnnealing(3), Exact(), ParallelTempering(2, betas=3)):

        def draw(problem, seeds, sampler=sampler):
            return sampler.sample(problem.scale(1.5), 6, generator=seeds).spins * 2

        compiled = torch.compile(draw, backend=backend)
        assert torch.equal(compiled(problem, generator(3)), draw(problem, generator(3)))
        torch.manual_seed(9)
        plain = draw(problem, None)
        torch.manual_seed(9)
        assert torch.equal(compiled(problem, None), plain), sampler


def learning(start):
    """Three calls of the loss: reads, offsets, loss and gradient."""
    runs = []
    x = (torch.rand(5, 4, generator=generator(1)) < 0.5).float()
    for compile_it in (False, True):
        model = BernoulliRBM(4, 3, generator=generator())
        how: Any = {"start": start, "num": 8, "centred": True, "generator": generator(4)}
        cd = ContrastiveDivergence(model, Gibbs(2), **how)
        step = torch.compile(cd, backend="eager") if compile_it else cd
        step(x), step(x)
        loss = step(x)
        loss.backward()
        assert cd.samples is not None
        runs.append((cd.samples.spins, cd.offsets, loss.detach(), model.W.grad))
        compiled = torch.compile(cd_loss, backend="eager")(model, x, cd.samples)
        torch.testing.assert_close(compiled, cd_loss(model, x, cd.samples))
        wrapped: Any = torch.compile(model, backend="eager")
        torch.testing.assert_close(cd_loss(wrapped, x, cd.samples), compiled)
        whole = torch.compile(model.free_energy, backend="eager", fullgraph=True)
        torch.testing.assert_close(whole(x), model.free_energy(x))
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b)


if __name__ == "__main__":
    torch.set_num_threads(1)
    draws("aot_eager")
    learning("data")
    print("equal")
