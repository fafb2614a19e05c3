"""IsingScheduler: the right law, every draw from the generator, and diffusers' conventions."""

import inspect
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_discrete_ddim import DiscreteDDIMScheduler
from torch import nn

from qsample import Graph, Ising, Samples
from qsample.annealers import Corrected, Exact, Gibbs, Neal, SimulatedAnnealing
from qsample.annealers.registry import CATALOGUE, CONFIGURABLE, configured, described
from qsample.diffusion import IsingScheduler, UniformBits, log_times
from qsample.models import IsingCopula
from qsample.problem.lattices import grid_edges
from qsample.sampling.samples import Exactness
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import Z_MAX, untyped
from tests.support.seeds import generator

SHAPE, N = (1, 2, 3), 6
GRID = [[0, 1], [1, 0]]
EDGES = [(0, 1), (1, 2), (3, 4), (4, 5), (0, 3), (1, 4), (2, 5)]  # of GRID on SHAPE, by hand
DRAWS, CASES = 20_000, 30
LEVEL = FALSE_ALARM / CASES
CPU_SAMPLERS = [
    name for name, entry in CATALOGUE.items() if not entry.device and name in CONFIGURABLE
]


def loaded(source, **settings) -> Any:
    """From a folder or a config."""
    make: Any = (
        IsingScheduler.from_pretrained if isinstance(source, Path) else IsingScheduler.from_config
    )
    return make(source, **settings)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


LOGITS, COUPLING = 1.5 * normal(N), 0.7 * normal(len(EDGES), seed=1)
X = torch.tensor([1.0, -1, -1, 1, 1, -1])


def answer(logits, coupling=None):
    return SimpleNamespace(logits=logits, coupling=coupling)


def exact(s, t, coupling=None):
    """The law of x_s given x_t = X, from the kernel's own probabilities, site by site."""
    # exp(-time) is 1 - t on the log schedule
    keep = {"near": (1 - t) / (1 - s), "start": 1 - s, "whole": 1 - t}

    def q(name, x, y):
        return (1 + keep[name] * x * y) / 2

    h = []
    for logit, x_t in zip(LOGITS.double().tolist(), X.tolist(), strict=True):
        p0 = {1: 1 / (1 + 2.718281828459045**-logit)}
        p0[-1] = 1 - p0[1]
        p = {
            x: sum(
                p0[o] * q("near", x, x_t) * q("start", o, x) / q("whole", o, x_t) for o in (-1, 1)
            )
            for x in (-1, 1)
        }
        h.append(torch.tensor(p[-1] / p[1], dtype=torch.float64).log() / 2)
    J = torch.zeros(len(EDGES)) if coupling is None else coupling
    return Ising(Graph.sparse(N, EDGES), torch.stack(h), J.double())


def p_value(problem, sample):
    spins = sample.reshape(-1, N).to(torch.int8)
    return g_test(problem, Samples(spins, torch.zeros(len(spins))))[0][0]


def many(*shape):
    return torch.zeros(DRAWS, *shape) + X.reshape(shape)


def drawn(scheduler, coupling=None, t=0.5, logits=LOGITS):
    output = answer(logits.expand(DRAWS, N), coupling)
    return scheduler.step(output, t, many(*SHAPE), generator())


# ---- the law ----------------


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.75), (0.5, 0.25), (0.25, 0.0)])
def test_a_step_without_couplings_has_the_law_of_the_posterior(t, s):
    found = drawn(IsingScheduler(4), t=t)
    assert p_value(exact(s, t), found.prev_sample) > LEVEL
    assert found.exactness is Exactness.EXACT and found.prev_sample.shape == (DRAWS, *SHAPE)
    torch.testing.assert_close(found.pred_original_sample[0].flatten(), (LOGITS / 2).tanh())
    assert p_value(exact(s, t), drawn(IsingScheduler(4), t=t, logits=-LOGITS).prev_sample) < LEVEL


@pytest.mark.parametrize(
    "sampler",
    [Exact(), Gibbs(100), Corrected(SimulatedAnnealing(20), Gibbs(100))],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_step_with_couplings_has_their_law(sampler):
    scheduler = IsingScheduler(4, neighbours=GRID)
    scheduler.sampler = sampler
    found = drawn(scheduler, COUPLING)
    assert p_value(exact(0.25, 0.5, COUPLING), found.prev_sample) > LEVEL
    tag = Exactness.EXACT if isinstance(sampler, Exact) else Exactness.ASYMPTOTIC
    assert found.exactness is tag and not found.prev_sample.requires_grad


KEEP = torch.tensor([True, False, False, False, True, False]).reshape(SHAPE)
ORIGINAL = torch.tensor([-1.0, 1, 1, 1, 1, 1])


def kept_step(t, coupling=COUPLING):
    """Samples of a step of which two bits of x_0 are known."""
    scheduler = IsingScheduler(4, neighbours=GRID, sampler="exact")
    output = answer(LOGITS.expand(DRAWS, N), coupling)
    original = torch.zeros(DRAWS, N) + ORIGINAL
    original = original.reshape(DRAWS, *SHAPE)
    step = scheduler.step(output, t, many(*SHAPE), generator(), original=original, keep=KEEP)
    return step.prev_sample.flatten(1)


@pytest.mark.parametrize("coupling", [COUPLING, None])
def test_the_last_step_has_the_law_given_the_bits_that_stay(coupling):
    x = kept_step(0.25, coupling)
    sites = KEEP.flatten().nonzero()[:, 0]
    free = (~KEEP.flatten()).nonzero()[:, 0]
    assert torch.equal(x[:, sites], ORIGINAL[sites].expand(DRAWS, 2))
    law = exact(0.0, 0.25, coupling).clamp(sites, ORIGINAL[sites])
    spins = x[:, free].to(torch.int8)
    assert g_test(law, Samples(spins, torch.zeros(DRAWS)))[0][0] > LEVEL


@pytest.mark.long
def test_a_step_in_between_has_the_law_given_both_ends_of_the_bits_that_stay():
    s, t = 0.25, 0.5
    x = kept_step(t).double()
    joint = exact(s, t, COUPLING)
    for site in KEEP.flatten().nonzero()[:, 0].tolist():
        near = math.atanh((1 - t) / (1 - s)) * float(X[site])
        p = 1 / (1 + math.exp(-2 * (near + math.atanh(1 - s) * float(ORIGINAL[site]))))
        up = float((x[:, site] > 0).double().mean())
        assert abs(up - p) < Z_MAX * (p * (1 - p) / DRAWS) ** 0.5
    # of each of the four ways that they may come out, the others have the step's law
    sites = KEEP.flatten().nonzero()[:, 0]
    free = (~KEEP.flatten()).nonzero()[:, 0]
    for values in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        values = torch.tensor(values)
        rows = x[(x[:, sites] == values).all(1)][:, free].to(torch.int8)
        assert len(rows) > 100
        law = joint.clamp(sites, values)
        assert g_test(law, Samples(rows, torch.zeros(len(rows))))[0][0] > LEVEL


def test_what_stays_is_checked():
    scheduler = IsingScheduler(4)
    x = many(*SHAPE)[:2]
    output = answer(LOGITS.expand(2, N))
    for original, keep, message in [
        (x, None, "expected original and keep"),
        (x, KEEP[0], r"bool, of \[1, 2, 3\]; got .*bool of \[2, 3\]"),
        (x, KEEP.float(), r"torch.float32 of \[1, 2, 3\]"),
        (0 * x, KEEP, r"an original of -1 and \+1; got 0: 2 \* bits - 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            scheduler.step(output, 0.5, x, generator(), original=original, keep=keep)
    plain = scheduler.step(output, 0.5, x, generator())
    none = torch.zeros_like(KEEP)
    nothing = scheduler.step(output, 0.5, x, generator(), original=x, keep=none)
    assert torch.equal(nothing.prev_sample, plain.prev_sample)


def test_of_several_reads_one_is_kept_by_its_weight():
    """Reads of all states, weighted by a law: what is kept has that law exactly."""
    law = exact(0.25, 0.5, COUPLING)
    states = 2 * (torch.arange(1 << N)[:, None] >> torch.arange(N) & 1) - 1

    class Weighted:
        warm_start = reversible = False

        def sample(self, problem, num, *, initial=None, generator=None):
            spins = states.to(torch.int8).expand(*problem.batch_shape, -1, -1)
            energy = problem.energy(spins)
            return Samples(spins, energy, -energy, Exactness.ASYMPTOTIC)

    scheduler = IsingScheduler(4, neighbours=GRID, reads=1 << N)
    scheduler.sampler = Weighted()
    assert p_value(law, drawn(scheduler, COUPLING).prev_sample) > LEVEL


@pytest.mark.parametrize("wrong", ["beta", "sign", "factorised", "graph"])
def test_the_check_rejects_a_wrong_law(wrong):
    scheduler, coupling = IsingScheduler(4, sampler="exact", neighbours=GRID), COUPLING
    if wrong == "beta":
        scheduler.sampler = Gibbs(betas=[1.2] * 100)
    elif wrong == "sign":
        coupling = -COUPLING
    elif wrong == "factorised":
        coupling = None
    else:
        scheduler.graph = Graph.sparse(N, EDGES[::-1])
    assert p_value(exact(0.25, 0.5, COUPLING), drawn(scheduler, coupling).prev_sample) < LEVEL


def test_the_step_of_diffusers_own_scheduler_has_the_same_law():
    """An implementation that shares no code with ours, on tokens; timesteps are step numbers."""
    theirs: Any = DiscreteDDIMScheduler(num_inference_steps=4)
    logits = torch.stack([torch.zeros(N), LOGITS], -1).expand(DRAWS, N, 2)
    tokens = ((many(N) + 1) / 2).long()
    ours = loaded(theirs.config).step(logits, 2, tokens, generator=generator())
    found = theirs.step(logits, 2, tokens, temperature=1.0, generator=generator())
    for sample in (found.prev_sample, ours.prev_sample):
        assert sample.dtype == torch.int64 and p_value(exact(0.25, 0.5), 2 * sample - 1) > LEVEL


def test_noise_has_the_law_of_the_forward_process():
    x0, t = many(N), 0.3
    flat = torch.full((DRAWS,), t)
    for schedule, kept in [("log", 1 - t), ("cosine", None)]:
        scheduler = IsingScheduler(schedule=schedule)
        if kept is None:
            f = [
                torch.cos(torch.tensor((u + 0.008) / 1.008 * torch.pi / 2)).square()
                for u in (t, 0.0)
            ]
            kept = float(f[0] / f[1])
        flip = (1 - kept) / 2
        for noise in (
            torch.randn(DRAWS, N, generator=generator()),
            2.0 * (normal(DRAWS, N) > 0) - 1,
        ):
            x = scheduler.add_noise(x0, noise, flat, generator=generator(1))
            count = (x != x0).sum(0)
            assert ((count - DRAWS * flip).abs() < Z_MAX * (DRAWS * flip * (1 - flip)) ** 0.5).all()
            assert x.dtype == x0.dtype
    at_both_ends = [
        scheduler.add_noise(x0, normal(DRAWS, N), torch.tensor(end)) for end in (0.0, 1.0)
    ]
    assert torch.equal(at_both_ends[0], x0) and torch.equal(
        at_both_ends[1] != x0, normal(DRAWS, N) < 0
    )
    tokens = ((x0 + 1) / 2).long()
    assert torch.equal(
        2 * scheduler.add_noise(tokens, noise.long().clamp_min(0), flat, generator(1)) - 1, x.long()
    )


# ---- randomness ----------------


@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of one weighted read
@pytest.mark.parametrize("name", CPU_SAMPLERS)
@pytest.mark.parametrize("shared", [True, False])
def test_a_batch_is_four_singles(name, shared):
    scheduler = IsingScheduler(
        4, sampler=name, sampler_settings={} if name == "exact" else {"sweeps": 5}, neighbours=GRID
    )
    logits, x = normal(4, *SHAPE), scheduler.prior((4, *SHAPE), generator(5))
    J = normal(len(EDGES)) if shared else normal(4, len(EDGES))

    def step(items, generators):
        output = answer(logits[items], J if shared else J[items])
        return scheduler.step(output, 0.75, x[items], generators).prev_sample

    together = step(slice(0, 4), [generator(k) for k in range(4)])
    for k in range(4):
        assert torch.equal(together[k : k + 1], step(slice(k, k + 1), [generator(k)]))
        assert torch.equal(together[k : k + 1], step(slice(k, k + 1), generator(k)))
    assert torch.equal(step(slice(0, 4), generator(9)), step(slice(0, 4), generator(9)))


def test_other_draws_by_item():
    scheduler, shape = IsingScheduler(4), (4, *SHAPE)
    x = scheduler.prior(shape, [generator(k) for k in range(4)])
    noise, t = 2.0 * (normal(*shape) > 0) - 1, torch.rand(4, generator=generator())
    noisy = scheduler.add_noise(x, noise, t, [generator(k) for k in range(4)])
    plain = scheduler.step(normal(*shape), 0.5, x, [generator(k) for k in range(4)]).prev_sample
    for k in range(4):
        one = slice(k, k + 1)
        assert torch.equal(x[one], scheduler.prior((1, *SHAPE), generator(k)))
        assert torch.equal(
            noisy[one], scheduler.add_noise(x[one], noise[one], t[one], generator(k))
        )
        assert torch.equal(
            plain[one], scheduler.step(normal(*shape)[one], 0.5, x[one], generator(k)).prev_sample
        )
    before = torch.get_rng_state()
    scheduler.add_noise(x, normal(*shape), t)
    assert torch.equal(before, torch.get_rng_state()), "normal noise is all the randomness there is"


# ---- what the denoiser may answer ----------------


def test_pair_features_are_couplings():
    x, output = X.reshape(1, *SHAPE), normal(1, 3, *SHAPE[1:])
    u = output[0, 1:].reshape(2, N)
    J = torch.stack([-(u[:, i] * u[:, j]).sum() / 2 for i, j in EDGES])
    one = IsingScheduler(4, neighbours=GRID, pair_features=2)
    problem = one.ising(output, 0.5, x)
    torch.testing.assert_close(problem.J[0], J)
    torch.testing.assert_close(problem.h, IsingScheduler(4).ising(output[:, :1], 0.5, x).h)
    assert one.step(output, 0.5, x, generator()).exactness is Exactness.ASYMPTOTIC


@pytest.mark.parametrize(
    "graph",
    [Graph.complete(N), Graph.bipartite(2, 4), Graph.sparse(N, EDGES)],
    ids=lambda g: g.kind,
)
def test_any_graph_and_what_its_config_keeps(graph):
    scheduler, J = IsingScheduler(4, sampler="exact"), normal(graph.num_edges)
    scheduler.graph = graph
    assert scheduler.graph is graph
    again = loaded(json.loads(scheduler.to_json_string()))
    x, output = X.reshape(1, *SHAPE), answer(LOGITS[None], J)
    states = (
        Exact()
        .sample(Ising(graph, torch.zeros(N), graph.couplings(J)), 20, generator=generator())
        .spins
    )
    torch.testing.assert_close(
        *(one.ising(output, 0.5, x).energy(states) for one in (scheduler, again))
    )
    torch.testing.assert_close(
        *(one.step(output, 0.5, x, generator(3)).prev_sample.shape for one in (scheduler, again))
    )


class FromSpins(nn.Module):
    """A denoiser without weights."""

    def forward(self, x, k):
        return x * LOGITS + x.roll(1, -1)


def test_an_ising_copula_is_a_denoiser():
    """Its answer at step k is the scheduler's at time k/T, and the problem the same."""
    graph = Graph.sparse(N, EDGES)
    copula = IsingCopula(FromSpins(), graph, UniformBits(log_times(4)))
    with torch.no_grad():
        copula.J.copy_(normal(4, len(EDGES)))
    scheduler, x = IsingScheduler(4), 2.0 * (normal(3, *SHAPE) > 0) - 1
    scheduler.graph = graph
    for k in (1, 2, 4):
        with torch.no_grad():
            theirs, ours = (
                copula.step_problem(x.flatten(1), k),
                scheduler.ising(copula(x.flatten(1), k), k / 4, x),
            )
        torch.testing.assert_close(ours.h, theirs.h)
        torch.testing.assert_close(ours.J.expand_as(theirs.J), theirs.J)
    assert scheduler.step(copula(x.flatten(1), 2), 0.5, x, generator()).prev_sample.shape == x.shape


def test_grid_edges():
    assert sorted(grid_edges(SHAPE, GRID)) == sorted(EDGES)
    assert grid_edges((3,), [[2]]) == [(0, 2)]
    assert grid_edges((2, 1, 2), [[1, 0, 0], [1, 0, -1]]) == [(0, 2), (1, 3), (1, 2)]
    assert grid_edges((1, 2), [[0, 5]]) == []
    assert grid_edges((1, 4), [[0, 5]]) == []


def test_the_problem_can_be_trained():
    """Also where logits have run away: in float32 their probabilities round to 0 and 1."""
    output = (100 * normal(1, 2, *SHAPE[1:])).requires_grad_()
    problem = IsingScheduler(4, neighbours=GRID, pair_features=1).ising(
        output, 0.5, X.reshape(1, *SHAPE)
    )
    problem.energy(X[None]).sum().backward()
    assert output.grad is not None and output.grad.isfinite().all() and output.grad.abs().max() > 0


# ---- diffusers' conventions ----------------


def test_times():
    scheduler = IsingScheduler(4)
    assert scheduler.timesteps.tolist() == [1.0, 0.75, 0.5, 0.25] and len(scheduler) == 4
    assert scheduler.order == 1 and scheduler.init_noise_sigma == 1
    assert scheduler.step_index is None and scheduler.begin_index is None
    scheduler.set_timesteps(timesteps=[0.9, 0.5])
    assert len(scheduler) == scheduler.num_inference_steps == 2
    scheduler.set_begin_index(1)
    assert scheduler.begin_index == 1
    x = scheduler.prior((1, *SHAPE))
    assert scheduler.scale_model_input(x, 0.5) is x
    for t in scheduler.timesteps:
        x = scheduler.step(LOGITS[None], t, x).prev_sample
    assert scheduler.step_index == 2
    scheduler.set_timesteps(8)
    assert scheduler.step_index is None and scheduler.begin_index is None
    assert list(inspect.signature(scheduler.step).parameters)[:5] == [
        *("model_output", "timestep", "sample", "generator", "return_dict"),
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_are_kept(dtype):
    scheduler = IsingScheduler(4, neighbours=GRID, sampler_settings={"sweeps": 2})
    x = scheduler.prior((2, *SHAPE), generator(), dtype=dtype)
    assert x.dtype == dtype and set(x.flatten().tolist()) == {-1.0, 1.0}
    output = answer(normal(2, *SHAPE).to(dtype), COUPLING.to(dtype))
    previous, mean = scheduler.step(output, scheduler.timesteps[1].to(dtype), x, return_dict=False)
    assert (
        previous.dtype == mean.dtype == dtype
        and (previous.abs() == 1).all()
        and previous.shape == x.shape
    )
    noise = normal(2, *SHAPE).to(dtype)
    assert scheduler.add_noise(x, noise, torch.tensor([0.5])).dtype == dtype


def test_an_existing_pipeline_takes_it_in_one_line():
    """A loop as the discrete pipelines of diffusers have it: tokens, step numbers, signatures."""
    pipe = SimpleNamespace(scheduler=DiscreteDDIMScheduler(num_inference_steps=6))

    def generate():
        scheduler, tokens = pipe.scheduler, torch.randint(0, 2, (3, N), generator=generator())
        scheduler.set_timesteps(5)
        options = {"temperature": 1.0, "generator": generator()}
        known = inspect.signature(scheduler.step).parameters
        options = {name: value for name, value in options.items() if name in known}
        for k in range(5):
            logits = torch.stack([-tokens, tokens], -1).float()
            out = scheduler.step(
                model_output=logits, timestep=k, sample=tokens, return_dict=True, **options
            )
            tokens = out.prev_sample
            assert torch.equal(out.pred_logits, logits)
        return tokens

    first = generate()
    pipe.scheduler = loaded(pipe.scheduler.config, sampler="exact")
    assert pipe.scheduler.config["num_inference_steps"] == 6
    second = generate()
    assert (
        first.shape == second.shape
        and second.dtype == first.dtype
        and set(second.flatten().tolist()) <= {0, 1}
    )


# ---- configs ----------------


def test_a_config_survives_the_disk(tmp_path):
    scheduler = IsingScheduler(
        3, "cosine", "gibbs", {"sweeps": 7, "scan": "palindromic"}, neighbours=GRID
    )
    scheduler.save_pretrained(tmp_path)
    again = loaded(tmp_path)
    assert again.sampler == scheduler.sampler == Gibbs(7, scan="palindromic")
    assert torch.equal(again.timesteps, scheduler.timesteps)
    output, x = answer(normal(2, *SHAPE), COUPLING), scheduler.prior((2, *SHAPE), generator())
    a, b = (one.step(output, 2 / 3, x, generator()).prev_sample for one in (scheduler, again))
    assert torch.equal(a, b)


def test_a_sampler_that_was_set_is_in_the_config(tmp_path):
    scheduler = IsingScheduler(3)
    scheduler.sampler = SimulatedAnnealing(50, beta_range=(0.1, 1.0))
    scheduler.save_pretrained(tmp_path)
    for again in (loaded(tmp_path), loaded(scheduler.config)):
        assert again.sampler == scheduler.sampler and len(again) == 3
    scheduler.sampler = Corrected(SimulatedAnnealing(50), Gibbs(5))  # no name says this
    again = loaded(scheduler.config)
    x = X.reshape(1, *SHAPE)
    assert again.step(LOGITS[None], 1.0, x).exactness is Exactness.EXACT, "nothing to draw jointly"
    with pytest.raises(
        ValueError, match=r"saved with a live Corrected: set it again, scheduler\.sampler = "
    ):
        _ = again.sampler


@pytest.mark.parametrize("name", CPU_SAMPLERS)
def test_names_and_settings_of_samplers(name):
    made = configured(name, {})
    if (found := described(made)) is None:
        assert name.startswith("corrected")
    else:
        assert configured(*json.loads(json.dumps(found))) == made
    if name != "exact":
        sweeps = 40
        assert str(sweeps) in repr(configured(name, {"sweeps": sweeps}))


@pytest.mark.long
def test_the_extra_is_named_where_diffusers_is_missing():
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "import qsample.diffusion as d\n"
        "d.log_times(2)\n"
        "d.IsingScheduler"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("ImportError: IsingScheduler: ") and '"qsample-torch[diffusion]"' in line


def test_refusals(monkeypatch):
    x, plain, grid = X.reshape(1, *SHAPE), IsingScheduler(4), IsingScheduler(4, neighbours=GRID)
    logits, features = normal(1, *SHAPE), IsingScheduler(4, neighbours=GRID, pair_features=2)
    tokens = torch.tensor([[0, 1, 2]])
    half = torch.tensor(0.5)
    make: Any = IsingScheduler
    monkeypatch.setattr(Neal, "needs", "not_there")
    with pytest.raises(
        ImportError, match=r"sampler 'neal' needs not_there: pip install \"dwave-samplers\""
    ):
        loaded({"sampler": "neal"})
    monkeypatch.undo()
    for call, said in [
        (lambda: IsingScheduler(sampler="gibs"), r"unknown sampler 'gibs'; did you mean gibbs"),
        (
            lambda: IsingScheduler(sampler_settings={"sweep": 3}),
            r"'sweep' is not a setting of 'gibbs' that a config may hold; expected sweeps",
        ),
        (
            lambda: IsingScheduler(sampler="exact", sampler_settings={"sweeps": 3}),
            r"'exact' takes none",
        ),
        (lambda: IsingScheduler(sampler_settings={"sweeps": 0}), r"sweeps >= 1; got 0"),
        (
            lambda: IsingScheduler(sampler="dwave", sampler_settings={"token": "x"}),
            r"'dwave' asks a machine elsewhere, for money, so no config may name it: load it "
            r"with sampler=\"gibbs\"",
        ),
        (lambda: IsingScheduler(reads=0), r"reads >= 1; got 0"),
        (lambda: IsingScheduler(pair_features=-1), r"pair_features >= 0; got -1"),
        (lambda: IsingScheduler(0), r"num_inference_steps >= 1; got 0"),
        (lambda: IsingScheduler(neighbours=GRID, edges=EDGES), r"both given"),
        (
            lambda: plain.set_timesteps(timesteps=[0.5, 0.75]),
            r"timesteps that fall.*got \[0\.5, 0\.75\]",
        ),
        (lambda: plain.set_timesteps(timesteps=[2.0, 1.0]), r"in \(0, 1\]; got \[2\.0"),
        (lambda: plain.set_timesteps(), r"num_inference_steps or timesteps"),
        (
            lambda: plain.step(logits, 0.6, x),
            r"timestep 0\.6 is none of the 4 from 1 to 0\.25: pass those",
        ),
        (lambda: plain.step(logits, 4, x), r"timestep 4 is none"),
        (lambda: plain.step(logits, 0.5, 0 * x), r"spins x .* of -1 and \+1; got 0"),
        (lambda: plain.step(normal(1, 3, 2), 0, tokens), r"tokens 0 and 1 .*; got 2"),
        (
            lambda: plain.step(normal(1, 7), 0.5, x),
            r"logits of shape \[1, 1, 2, 3\].*; got \[1, 7\]",
        ),
        (
            lambda: plain.step(normal(1, 3), 0, tokens.clamp_max(1)[:, :2]),
            r"logits of shape \[1, 2, 2\]",
        ),
        (lambda: plain.step(logits * torch.nan, 0.5, x), r"mean in \[-1, 1\]; got nan"),
        (
            lambda: plain.step(answer(logits, COUPLING), 0.5, x),
            r"no graph for them: scheduler\.graph = graph, or",
        ),
        (
            lambda: grid.step(answer(logits, COUPLING[:3]), 0.5, x),
            r"J of shape \[\*, 7\].*got \[3\]",
        ),
        (
            lambda: features.step(logits, 0.5, x),
            r"expected 3 channels .* 1 of logits and 2 features.*\[1, 1, 2, 3\]",
        ),
        (
            lambda: plain.step(logits, 0.5, x, [generator()] * 2),
            r"one for each of 1 problems; got 2",
        ),
        (
            lambda: plain.add_noise(x, normal(1, 2), torch.tensor([0.5])),
            r"noise of shape \[1, 1, 2, 3\]; got \[1, 2\]",
        ),
        (
            lambda: plain.add_noise(x, logits, torch.tensor([500])),
            r"fractions of the way to noise; got 500",
        ),
        (lambda: plain.add_noise((x + 1) / 2, logits, half), r"samples of -1 and \+1; got 0: 2 \*"),
        (lambda: plain.add_noise(x * torch.nan, logits, half), r"samples of -1 and \+1; got nan"),
        (lambda: plain.add_noise(x, logits * torch.nan, half), r"noise of normal numbers.*got nan"),
        (
            lambda: plain.add_noise(x, (x > 0).float(), half),
            r"spins -1 and \+1.*got floats 0 and 1",
        ),
        (
            lambda: plain.add_noise(255 * (x > 0).to(torch.uint8), logits, half),
            r"tokens 0 and 1 in a sample of torch\.uint8; got 255",
        ),
        (lambda: plain.add_noise(x[0, 0, 0], logits[0, 0, 0], half), r"\[B, \.\.\.\]; got \[3\]"),
        (
            lambda: plain.add_noise(x, logits, torch.tensor([0.5, 0.2])),
            r"one for each of 1 samples; got 2",
        ),
        (lambda: plain.step(logits[0, 0, 0], 0.5, x[0, 0, 0]), r"\[B, \.\.\.\]; got \[3\]"),
        (lambda: plain.step(logits.mT, 0.5, x), r"logits of shape \[1, 1, 2, 3\].*\[1, 1, 3, 2\]"),
        (lambda: plain.step(logits[0, 0, 0, 0], 0.5, x), r"logits of shape .*; got \[\]"),
        (
            lambda: features.step(normal(1, 3, 2, 2), 0.5, x),
            r"features for each, \[1, 3, 2, 3\]; got \[1, 3, 2, 2\]",
        ),
        (
            lambda: make(neighbours=[0, 1]),
            r"neighbours as rows of numbers, such as \[\[0, 1\], \[1, 0\]\]; got \[0, 1\]",
        ),
        (lambda: make(edges=torch.tensor([0, 1])), r"edges as rows.*got tensor"),
        (
            lambda: IsingScheduler(4, neighbours=[[0, 9]]).step(logits, 0.5, x),
            r"neighbours \[\[0, 9\]\] leave the grid \[1, 2, 3\] from every site",
        ),
        (lambda: grid_edges(SHAPE, [[0, 0]]), r"not all zero; got \[0, 0\]"),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
    grid.graph = Graph.complete(4)
    with pytest.raises(ValueError, match=r"graph has 4 spins and a sample of shape \[1, 2, 3\] 6"):
        grid.step(logits, 0.5, x)
    with untyped():
        with pytest.raises(TypeError, match=r"expected a sampler, such as Gibbs"):
            plain.sampler = "gibbs"  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(
            ValueError, match=r"unknown schedule 'linear'; expected one of log, cosine"
        ):
            IsingScheduler(schedule="linear")  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match=r"expected logits from the denoiser.*; got str"):
            plain.step("logits", 0.5, x)
        with pytest.raises(TypeError, match=r"sample as a torch tensor; got ndarray"):
            plain.step(logits, 0.5, x.numpy())  # pyright: ignore[reportArgumentType]
        with pytest.raises(TypeError, match=r"original_samples as a torch tensor; got ndarray"):
            plain.add_noise(x.numpy(), logits, half)  # pyright: ignore[reportArgumentType]
