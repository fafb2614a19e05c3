"""Known bits: a step given them against enumeration, and the law of images that are filled in."""

import pytest
import torch
from scipy.stats import power_divergence
from torch import nn

from qsample import Graph, Ising, Samples
from qsample.annealers import Exact, Gibbs
from qsample.diffusion import UniformBits, log_times
from qsample.diffusion.known import Known
from qsample.models import IsingCopula
from qsample.problem.enumeration import log_weights, states
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import Z_MAX, a_graph, untyped
from tests.support.models import Still, randomise
from tests.support.seeds import generator

N = 4
EVERY = states(N).double()
KNOWN = torch.tensor([0.0, 1.0, 0.0, -1.0])
SITES = torch.tensor([1, 3])
FITS = (EVERY[:, SITES] == KNOWN[SITES]).all(-1)  # the states that agree with what is known
RATES = torch.tensor([0.4, 1.0, 2.0, 1.3], dtype=torch.float64)


def given(known, num) -> Known:
    """Known bits, of which there are some."""
    found = Known.of(known, num, known.shape[-1])
    assert found is not None
    return found


class Linear(nn.Module):
    def __init__(self, n, steps):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(n, n))
        self.b = nn.Parameter(torch.zeros(steps + 1, n))

    def forward(self, x, k):
        return (x[:, None] * self.W).sum(-1) + self.b[k]


def a_copula(graph=None, times=None, centred=False, rate: torch.Tensor | float = 1.0):
    process = UniformBits(log_times(3) if times is None else times, rate)
    graph = Graph.complete(N) if graph is None else graph
    denoiser = Linear(graph.num_spins, process.steps)
    return randomise(IsingCopula(denoiser, graph, process, centred=centred))


def forward_law(process, k, start):
    """q(x_k = y | x_start = x) of every site and state, by the kernel: `[x, y, N]`."""
    kernel = process.kernel(k, start).expand(N, 2, 2)
    up = (EVERY > 0).long()
    return torch.stack([kernel[i][up[:, i, None], up[:, i]] for i in range(N)], -1)


def of_known(process, k, start):
    """The same of the known sites alone, given x_0 there: `[y, c]`."""
    return forward_law(process, k, start)[FITS][0][:, SITES]


def given_step(model, k):
    """P(x_{k-1} | x_k, x_0^K) of all states, `[x_k, x_{k-1}]`, by Bayes and by enumeration."""
    # the others, given the spins at the known sites
    joint = log_weights(model.step_problem(EVERY, k).detach()).softmax(-1)
    same = (EVERY[:, None, SITES] == EVERY[:, SITES]).all(-1).double()
    others = joint / (joint @ same)
    # the known sites, given both ends of the forward process
    near = forward_law(model.process, k, k - 1)[:, :, SITES].movedim(0, 1)
    both = near * of_known(model.process, k - 1, 0)
    up = EVERY[:, SITES] > 0
    # each value of a site stands in half of the states
    above = (both * up).sum(1, keepdim=True) / (len(EVERY) / 2)
    below = (both * ~up).sum(1, keepdim=True) / (len(EVERY) / 2)
    return (both / (above + below)).prod(-1) * others


def filled_in(model):
    """The law of x_0 given what is known, `[2^N]`: the chain of steps pushed state by state."""
    steps = model.process.steps
    law = of_known(model.process, steps, 0).prod(-1) * 2.0 ** -(N - len(SITES))
    for k in range(steps, 0, -1):
        law = law @ given_step(model, k)
    return law


def p_value(law, x):
    """Of a G-test of images `[num, N]` against a law `[2^N]`; rare states are one bin."""
    number = ((x > 0).long() * 2 ** torch.arange(N)).sum(-1)
    seen = number.bincount(minlength=1 << N).double()
    expected = law * len(x)
    assert not seen[law < 1e-9].any()
    # one bin for the least likely state of the frequent ones and all rarer ones
    rare = expected <= expected[expected > 5].min()

    def bins(count):
        return torch.cat([count[~rare], count[rare].sum()[None]]).numpy()

    return power_divergence(bins(seen), bins(expected), lambda_="log-likelihood").pvalue


@pytest.mark.parametrize("centred", [False, True])
def test_images_have_the_law_of_the_steps_given_what_is_known(centred):
    model = a_copula(centred=centred, rate=RATES)
    law = filled_in(model)
    assert float(law.sum()) == pytest.approx(1)
    assert float(law[~FITS].sum()) < 1e-9
    x = model.sample(Exact(), 1500, known=KNOWN, generator=generator())
    assert x.dtype == torch.int8
    assert (x[:, SITES] == KNOWN[SITES]).all()
    assert p_value(law, x) > FALSE_ALARM
    first_flipped = torch.arange(1 << N) ^ 1
    assert p_value(law[first_flipped], x) < FALSE_ALARM


def test_chains_that_start_at_independent_bits_start_at_those_not_known():
    model = a_copula(centred=True, rate=RATES)
    law = filled_in(IsingCopula(model.denoiser, Graph.sparse(N, []), model.process))
    x = model.sample(Still(), 1500, known=KNOWN, start="independent", generator=generator())
    assert p_value(law, x) > FALSE_ALARM


@pytest.mark.long  # the scheduler's tests ask the same, and less
def test_a_step_given_spins_is_the_joint_step_of_those_that_agree():
    """The clamp is exact: the law of the others given x_k and spins, against enumeration."""
    model = a_copula(a_graph("sparse"), centred=True)
    num = 5_000
    x = torch.tensor([1.0, -1, 1, 1, -1]).expand(num, 5)
    known = given(torch.tensor([0.0, 1.0, 0.0, -1.0, 0.0]), num)
    assert known.sites.tolist() == [1, 3]
    problem = model.step_problem(x[:1], 2)
    many = Ising(problem.graph, problem.h.expand(num, 5), problem.J)
    bits = torch.tensor([-1, 1], dtype=torch.int8)

    def exact(rest):
        return Exact().sample(rest, 1, generator=generator())

    drawn = known.draw(many, bits.expand(num, 2), exact)
    assert torch.equal(drawn.spins[:, 0, known.sites], bits.expand(num, 2))
    torch.testing.assert_close(drawn.energy, many.energy(drawn.spins))
    spins = drawn.spins[:, 0]
    rest = Ising(problem.graph, problem.h[0], problem.J).clamp(known.sites, bits)
    free = torch.tensor([0, 2, 4])
    seen = Samples(spins[:, free], torch.zeros(num))
    assert g_test(rest, seen)[0][0] > FALSE_ALARM
    every = states(5).double()
    joint = log_weights(problem)[0].detach()
    agree = (every[:, known.sites] == bits).all(-1)
    mean = joint[agree].softmax(-1) @ every[agree]
    z = (spins.double().mean(0) - mean).abs() / ((1 - mean**2) / num).sqrt().clamp_min(1e-9)
    assert z.max() < Z_MAX


@pytest.mark.parametrize("k", [1, 2, 3])
def test_known_bits_go_back_as_the_forward_process_came(k):
    process = UniformBits(log_times(3), RATES)
    num = 20_000
    x = torch.tensor([1.0, 1.0, -1.0, 1.0]).expand(num, N)
    known = given(KNOWN, num)
    uniform = torch.rand(num, 2, generator=generator(), dtype=torch.float64)
    up = (known.before(process, x, k, uniform) > 0).double().mean(0)
    for c, site in enumerate(SITES.tolist()):
        near = process.kernel(k)[site]
        start = process.kernel(k - 1, 0)[site]
        both = start[int(KNOWN[site] > 0)] * near[:, int(x[0, site] > 0)]
        p = float(both[1] / both.sum())
        assert abs(float(up[c]) - p) <= Z_MAX * (p * (1 - p) / num) ** 0.5
    start = known.start(process, x, generator(1))
    assert torch.equal(start[:, [0, 2]], x[:, [0, 2]])
    assert start[:, SITES].mean(0).abs().max() < Z_MAX / num**0.5  # the last time is infinite


def exact_copula(times):
    """A copula whose first step is the exact posterior of an Ising law of x_0, and that law."""
    model = a_copula(times=times)
    problem = model.step_problem(EVERY, 1)
    law = Ising(model.graph, torch.tensor([0.4, -0.2, 0.1, 0.3]).double(), problem.J.detach())
    w = model.process.coupling(1) / 2

    class Exactly(nn.Module):
        def forward(self, x, k):
            return -2 * (law.h - w * x)

    model.denoiser = Exactly()
    return model, law


@pytest.mark.long
@pytest.mark.parametrize(("repeats", "right"), [(1, False), (10, True)])
def test_repeats_of_an_exact_step_reach_the_conditional_law(repeats, right):
    model, law = exact_copula(torch.tensor([0.0, 0.4]))
    conditional = log_weights(law).masked_fill(~FITS, -torch.inf).softmax(-1)
    # the step itself is the posterior: the law of x_0 does not change on the way there and back
    step = log_weights(model.step_problem(EVERY, 1)).softmax(-1)
    there = forward_law(model.process, 1, 0).prod(-1)
    p = log_weights(law).softmax(-1)
    torch.testing.assert_close(p @ there @ step, p)
    back = there @ given_step(model, 1)
    torch.testing.assert_close(conditional @ back, conditional, rtol=0, atol=1e-9)

    x = model.sample(Exact(), 1000, known=KNOWN, repeats=repeats, generator=generator())
    assert (p_value(conditional, x) > FALSE_ALARM) == right


@pytest.mark.parametrize("start", ["fresh", "independent"])
@pytest.mark.parametrize("kind", ["sparse", "complete"])
def test_images_are_what_they_are_alone(kind, start):
    model = a_copula(a_graph(kind))
    rows = torch.tensor([[0.0, 1, 0, -1, 0], [0, 1, 0, 1, 0], [0, -1, 0, -1, 0]])

    def drawn(num, known, seeds):
        generators = [generator(s) for s in seeds]
        return model.sample(
            Gibbs(5), num, known=known, repeats=2, start=start, generator=generators
        )

    together = drawn(3, rows, range(3))
    for s in range(3):
        alone = drawn(1, rows[s], [s])
        assert torch.equal(alone, together[s : s + 1])


def test_nothing_known_and_all_known():
    model = a_copula()
    plain = model.sample(Gibbs(5), 6, generator=generator())
    nothing = model.sample(Gibbs(5), 6, known=torch.zeros(N), generator=generator())
    assert torch.equal(plain, nothing)
    everything = torch.tensor([1.0, -1, -1, 1])
    filled = model.sample(Gibbs(5), 6, known=everything, generator=generator())
    assert torch.equal(filled, everything.to(torch.int8).expand(6, N))


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (torch.ones(3), r"expected known of shape \[4\] or \[2, 4\].*got \[3\]"),
        (torch.tensor([0.0, 2.0, 0, 1]), r"known bits of -1 and \+1; got 2.*0 is a bit that is"),
        (torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, 1]]), "same sites in every row: call once"),
    ],
)
def test_what_does_not_fit_is_said(known, message):
    with untyped(), pytest.raises(ValueError, match=message):
        a_copula().sample(Gibbs(1), 2, known=known)


def test_repeats_and_tensors_are_checked():
    with untyped(), pytest.raises(ValueError, match="repeats >= 1; got 0"):
        a_copula().sample(Gibbs(1), 2, repeats=0)
    with untyped(), pytest.raises(TypeError, match="known as a torch tensor; got list"):
        Known.of([1, 0], 1, 2)  # pyright: ignore[reportArgumentType]
