"""Inference mode, default dtype and default device leave no trace in caches, draws or training."""

from contextlib import contextmanager

import pytest
import torch

import qsample as qs
from qsample import Graph, Ising
from qsample.annealers import (
    AnnealedImportance,
    Exact,
    Gibbs,
    ParallelTempering,
    PopulationAnnealing,
)
from qsample.data import planted_ising
from qsample.diffusion import AnnealedGuidance, IsingScheduler, UniformBits, log_times
from qsample.models import (
    BernoulliRBM,
    BoltzmannMachine,
    DenoisingThermodynamicModel,
    denoising_loss,
)
from qsample.problem.lattices import grid
from qsample.testing.contract import reference_cases
from tests.support.samplers import LOCAL
from tests.support.seeds import generator
from tests.support.thinning import thinned

RING = [(i, (i + 1) % 5) for i in range(5)]
GRAPHS = {
    "sparse": lambda: Graph.sparse(5, RING),
    "no edges": lambda: Graph.sparse(5, []),
    "bipartite": lambda: Graph.bipartite(2, 3),
    "complete": lambda: Graph.complete(5),
    "of networkx": lambda: Graph.from_networkx(networkx_ring()),
    "of a QUBO": lambda: Ising.from_qubo({(a, b): 1.0 for a, b in RING}).graph,
}
# of populations this small
pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")


def networkx_ring():
    import networkx as nx

    return nx.Graph(RING)


# ---- inference mode and the default device ----------------


@pytest.mark.parametrize("hidden", [[4], [3, 4]], ids=["apart", "coupled"])
@pytest.mark.parametrize("made_inside", [False, True])
@pytest.mark.parametrize("kind", GRAPHS)
def test_what_inference_mode_leaves_can_be_trained_on(kind, made_inside, hidden):
    with torch.inference_mode(made_inside):
        graph = GRAPHS[kind]()
    model = BoltzmannMachine(graph, [graph.labels[k] for k in hidden], generator=generator())
    x = torch.ones(4, 5 - len(hidden))
    with torch.inference_mode():
        _ = graph.edges, graph.csr, graph.degree, graph.colours, graph.hash
        model.ising(x).energy(torch.ones(4, 2, len(hidden), dtype=torch.int8))
        model.centred(model.weights(), torch.zeros(5))
        for sampler in (Gibbs(1), Exact(), ParallelTempering(2, 3)):
            sampler.sample(model.ising(), 4)
        if model.tractable:
            model.free_energy(x)
    joint = model.ising().energy(torch.ones(3, 5, dtype=torch.int8))
    conditional = model.ising(x).energy(torch.ones(4, 3, len(hidden), dtype=torch.int8))
    losses = [joint.sum(), conditional.sum()] + (
        [model.free_energy(x).sum()] if model.tractable else []
    )
    fresh = BoltzmannMachine(
        GRAPHS[kind](), [graph.labels[k] for k in hidden], generator=generator()
    )
    for loss in losses:
        loss.backward()
    expected = fresh.ising().energy(torch.ones(3, 5, dtype=torch.int8)).sum()
    expected = (
        expected + fresh.ising(x).energy(torch.ones(4, 3, len(hidden), dtype=torch.int8)).sum()
    )
    (expected + (fresh.free_energy(x).sum() if model.tractable else 0)).backward()
    for ours, theirs in zip(model.parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    tensors = [
        graph.pairs,
        graph.edges,
        *graph.csr,
        graph.degree,
        *graph.colours,
        *graph.without(model.visible_index)[1:],
    ]
    assert not any(t.is_inference() or t.requires_grad for t in tensors)


@pytest.mark.parametrize(
    "sampler", [Gibbs(2), ParallelTempering(2, 3)], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("start", ["data", "persistent", "fresh"])
def test_a_validation_step_in_inference_mode_leaves_training_whole(start, centred, sampler):
    def gradients(inside):
        model, x = BernoulliRBM(4, 2, generator=generator()), torch.ones(8, 4)
        how = {"start": start, "num": 8, "centred": centred, "generator": generator(1)}
        cd = qs.ContrastiveDivergence(model, sampler, **how)
        with torch.inference_mode(inside):
            cd(x)
        cd(x).backward()
        cd(x).backward()
        return [p.grad for p in cd.parameters() if p.grad is not None]

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("kind", GRAPHS)
def test_a_default_device_does_not_reach_a_graph(kind, device):
    with torch.device(device):
        graph = GRAPHS[kind]()
        _ = graph.edges, graph.csr, graph.colours, graph.degree
        part = graph.without(torch.tensor([0], device="cpu"))
    plain = GRAPHS[kind]()
    assert torch.equal(graph.edges, plain.edges) and torch.equal(part.free, torch.arange(1, 5))
    assert all(torch.equal(a, b) for a, b in zip(graph.colours, plain.colours, strict=True))


def test_the_couplings_of_a_process_are_no_inference_tensors():
    process = UniformBits(log_times(3))
    with torch.inference_mode():
        process.coupling(2)
        process.coupling(3, 0)
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    (w * process.coupling(2) * process.coupling(3, 0)).sum().backward()
    assert w.grad is not None and float(w.grad) == pytest.approx(
        float(process.coupling(2) * process.coupling(3, 0))
    )


# ---- the default dtype ----------------

DEFAULTS = [
    torch.float64,
    torch.bfloat16,
    pytest.param(torch.float16, marks=pytest.mark.long),
]


@contextmanager
def default(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def problems(dtype):
    g = generator(4)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    complete = Graph.complete(5)
    yield Ising(Graph.sparse(6, [(i, (i + 1) % 6) for i in range(6)]), normal(2, 6), normal(6))
    yield Ising(Graph.bipartite(3, 2), normal(5), normal(3, 2))
    yield Ising(complete, normal(5), complete.couplings(normal(10)))


@pytest.mark.parametrize("dtype", DEFAULTS, ids=str)
@pytest.mark.parametrize("name", list(LOCAL))
def test_draws_do_not_depend_on_the_default_dtype(name, dtype):
    row = LOCAL[name]
    sampler = row.quick

    def draws():
        for own in (torch.float32, torch.float64):
            for problem in problems(own):
                if problem.graph.kind not in row.kinds:
                    continue
                first = sampler.sample(problem, 8, generator=generator(1))
                assert first.energy.dtype == own
                yield first
                if sampler.warm_start:
                    yield sampler.sample(problem, 8, initial=first, generator=generator(2))

    plain = list(draws())
    with default(dtype):
        for found, expected in zip(draws(), plain, strict=True):
            assert torch.equal(found.spins, expected.spins) and torch.equal(
                found.energy, expected.energy
            )
            assert torch.equal(found.weight, expected.weight) and torch.equal(
                found.ess(), expected.ess()
            )


def filled(model):
    """The same weights whatever the default: float32, from 64 bits."""
    with torch.no_grad():
        for k, p in enumerate(model.float().parameters()):
            p.copy_(torch.linspace(-0.5, 0.5 + k, p.numel(), dtype=torch.float64).reshape(p.shape))
    return model


BITS = (torch.rand(40, 6, generator=generator(3), dtype=torch.float64) < 0.5).to(torch.float32)


def fitted(start, centred, sampler):
    model = filled(BernoulliRBM(6, 3))
    settings = qs.Settings(
        updates=3, batch=8, chains=8, start=start, centred=centred, evaluate_every=2
    )
    qs.fit(model, BITS, sampler, settings, progress=False)
    return list(model.parameters())


def machine_fitted():
    model = filled(BoltzmannMachine(Graph.complete(6), [4, 5]))
    qs.fit(
        model,
        2 * BITS[:, :4] - 1,
        Gibbs(2),
        qs.Settings(updates=2, batch=8, chains=8),
        progress=False,
    )
    return list(model.parameters())


def loss_and_gradients():
    model = filled(BernoulliRBM(6, 3))
    loss = qs.cd_loss(
        model, BITS, PopulationAnnealing(1, 64).sample(model.ising(), 16, generator=generator())
    )
    loss.backward()
    return [loss, *(p.grad for p in model.parameters())]


def estimates():
    model = filled(BernoulliRBM(6, 3))
    problem = model.ising().detach()
    reads = Gibbs(3).sample(problem, 64, generator=generator())
    found = [
        qs.log_likelihood(model, BITS),
        qs.log_partition(problem, "ais", steps=20, chains=16, generator=generator()),
        qs.effective_beta(problem, reads),
    ]
    return [torch.tensor([e.value, e.stderr], dtype=torch.float64) for e in found] + [
        reads.resample(8, generator()).spins
    ]


def scheduled(**settings):
    scheduler = IsingScheduler(3, **settings)
    logits = torch.linspace(-1, 1, 32, dtype=torch.float32).reshape(2, 4, 4)
    x = scheduler.prior((2, 4, 4), generator(), dtype=torch.float32)
    steps = [x]
    for t in scheduler.timesteps:
        x = scheduler.step(logits, t, x, generator=generator(5)).prev_sample
        steps.append(x)
    noise = torch.randn(2, 4, 4, generator=generator(), dtype=torch.float64)
    return [*steps, scheduler.add_noise(x, noise, scheduler.timesteps[1])]


def guided():
    diffusers = pytest.importorskip("diffusers")
    guidance = AnnealedGuidance(
        diffusers.DDPMScheduler(10),
        lambda x, x0, t: 0.1 * (x**2).flatten(1).sum(1),
        Gibbs(3, scan="palindromic"),
        scale=1.0,
        K=16,
    )
    guidance.set_timesteps(3)
    x = torch.randn(2, 1, 4, 4, generator=generator(), dtype=torch.float64).float()
    for t in guidance.timesteps:
        x = guidance.step(0.1 * x, t, x, generator=generator(2)).prev_sample
    return [x]


def thermodynamic():
    model = filled(DenoisingThermodynamicModel(Graph.complete(5), 3, 2))
    loss = denoising_loss(model, 2 * BITS[:8, :3] - 1, Gibbs(3), generator=generator())
    loss.backward()
    return [
        loss,
        model.sample(Gibbs(3), 4, generator=generator())[0],
        *(p.grad for p in model.parameters()),
    ]


WORK = {
    **{
        f"fit, {start}{', centred' * centred}": (
            lambda start=start, centred=centred: fitted(start, centred, Gibbs(2))
        )
        for start in ("data", "persistent", "fresh")
        for centred in (False, True)
    },
    **{
        f"fit on {type(sampler).__name__}": (
            lambda sampler=sampler: fitted("fresh", False, sampler)
        )
        for sampler in (Exact(), PopulationAnnealing(2, 64), AnnealedImportance(4))
    },
    "fit of a machine": machine_fitted,
    "cd_loss": loss_and_gradients,
    "estimates": estimates,
    "scheduler": scheduled,
    "scheduler, coupled": lambda: scheduled(neighbours=[[0, 1], [1, 0]]),
    "guidance": guided,
    "thermodynamic model": thermodynamic,
    "planted problem": lambda: [(p := planted_ising(3, 3, 10, seed=2))[0].h, p[0].J, p[1]],
    "contract": lambda: [t for c in reference_cases() for t in (c.problem.h, c.problem.J)],
    "grid": lambda: grid(4, degree=4).colours,
}


@pytest.mark.parametrize("dtype", DEFAULTS, ids=str)
@pytest.mark.parametrize("name", thinned(WORK, 2))
def test_work_does_not_depend_on_the_default_dtype(name, dtype):
    expected = WORK[name]()
    with default(dtype):
        found = WORK[name]()
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True)
    )


def test_a_model_of_the_default_dtype_is_trained():
    """Data stay float32: what a script that sets a default dtype does."""
    settings = qs.Settings(updates=2, batch=8, chains=8)
    with default(torch.float64):
        model = BernoulliRBM(6, 3, generator=generator())
        qs.fit(model, BITS, Gibbs(2), settings, progress=False)
        assert model.W.dtype == torch.float64 and model.W.isfinite().all()
    with default(torch.bfloat16), pytest.raises(ValueError, match="got W of bfloat16"):
        qs.fit(BernoulliRBM(6, 3), BITS, Gibbs(2), settings, progress=False)
