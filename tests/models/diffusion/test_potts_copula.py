"""The Potts copula at 4 tokens of 3 letters, against enumeration of all rows."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from qsample import Graph
from qsample.annealers import Gibbs
from qsample.diffusion import Absorbing, Potts, PottsGibbs, Uniform, UniformBits, log_times
from qsample.models import PottsCopula
from qsample.testing import FALSE_ALARM
from tests.support.exact import untyped
from tests.support.models import randomise
from tests.support.seeds import generator
from tests.support.tokens import number_of, p_value, rows_of

N, M = 4, 3
EVERY = rows_of(M, N)
MASKED = rows_of(M + 1, N)  # with the mask
GRAPH = Graph.sparse(N, [(2, 0), (0, 1), (1, 2), (3, 1)])
RATES = torch.tensor([0.4, 1.0, 2.0, 1.3], dtype=torch.float64)
NOISES = {
    "uniform": Uniform(log_times(2), RATES, M),
    "masks": Absorbing(log_times(2), RATES, M),
}
noises = pytest.mark.parametrize("process", NOISES.values(), ids=NOISES)
KNOWN = torch.tensor([-1, 2, -1, 0])
FITS = ((KNOWN < 0) | (EVERY == KNOWN)).all(-1)


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


class Linear(nn.Module):
    """Logits of a token from the letters of all, and the step."""

    def __init__(self, steps):
        super().__init__()
        self.W = nn.Parameter(torch.zeros(N, M + 1, N, M))
        self.b = nn.Parameter(torch.zeros(steps + 1, N, M))

    def forward(self, x, k):
        letters = nn.functional.one_hot(x, M + 1).to(self.W)
        return torch.einsum("bnc,ncij->bij", letters, self.W) + self.b[k]


def a_copula(process, seed=0):
    return randomise(PottsCopula(Linear(process.steps), GRAPH, process), seed)


def noisy_rows(process):
    """All rows of x_k: with masks, those of the mask too."""
    return MASKED if isinstance(process, Absorbing) else EVERY


def step_law(model, k):
    """P(x_{k-1} | x_k) of all rows, `[x_k, x_{k-1}]`: the sum over which sites show, with masks."""
    process = model.process
    rows = noisy_rows(process)
    if not isinstance(process, Absorbing):
        return (-model.step_problem(rows, k).energy(rows.expand(len(rows), -1, -1))).softmax(-1)
    law = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    stay = (process.lost(k - 1, 0) / process.lost(k, 0)).expand(N)
    for which in itertools.product((False, True), repeat=N):
        hidden = torch.tensor(which) & (rows == M)
        # sites that show count once
        chance = torch.where(torch.tensor(which), stay, 1 - stay)
        chance = torch.where(rows == M, chance, torch.where(torch.tensor(which), 0.0, 1.0)).prod(-1)
        if not chance.any():
            continue
        energy = model.step_problem(rows, k, hidden).energy(rows.expand(len(rows), -1, -1))
        law += chance[:, None] * (-energy).softmax(-1)
    return law


def forward_law(process, k, start, rows):
    """Q[x_start, x_k] of all rows, by the kernel."""
    kernel = process.kernel(k, start).expand(N, -1, -1)
    return torch.stack([kernel[i][rows[:, i, None], rows[:, i]] for i in range(N)]).prod(0)


# ---- the step ----------------


@noises
@pytest.mark.parametrize("k", [1, pytest.param(2, marks=pytest.mark.long)])
def test_without_couplings_it_is_the_factorised_step(process, k):
    model = a_copula(process)
    with torch.no_grad():
        model.J.zero_()
    rows = noisy_rows(process)
    sites = model.posterior(rows, k)
    each = torch.stack([sites[:, i, rows[:, i]] for i in range(N)])
    close(step_law(model, k), each.prod(0).detach())


def a_law():
    """A Potts law of x_0."""
    g = generator(5)
    h = torch.randn(N, M, generator=g, dtype=torch.float64)
    J = torch.randn(GRAPH.num_edges, M, M, generator=g, dtype=torch.float64)
    return Potts(GRAPH, h, J)


class Exactly(nn.Module):
    """Logits with which the first step of a copula is the posterior of a Potts law, its J given."""

    def __init__(self, law, process):
        super().__init__()
        self.law = law
        self.process = process

    def forward(self, x, k):
        logits = -self.law.h.expand(len(x), N, M)
        if isinstance(self.process, Absorbing):
            return logits
        gamma = self.process.coupling(1)[..., None]
        return logits + gamma * nn.functional.one_hot(x, M)


def exact_copula(process):
    law = a_law()
    model = PottsCopula(Exactly(law, process), GRAPH, process).double()
    with torch.no_grad():
        model.J[0] = law.J
    return model, (-law.energy(EVERY)).softmax(-1)


@noises
def test_the_first_step_of_a_potts_law_is_its_posterior(process):
    """The fields of x_1 and the law's own couplings: Bayes, for every x_1 that can be."""
    model, p = exact_copula(process)
    rows = noisy_rows(process)
    clean = (rows < M).all(-1)
    start = torch.zeros(len(rows), dtype=torch.float64)
    start[clean] = p
    joint = start[:, None] * forward_law(process, 1, 0, rows)
    found = step_law(model, 1).detach()
    close((joint / joint.sum(0)).T, found)
    with torch.no_grad():
        model.J.zero_()
    assert (step_law(model, 1).detach() - found).abs().max() > 0.05


def test_of_masks_only_the_letters_are_joint():
    """Which sites show has its own law, whatever the couplings; a mask is coupled to nothing."""
    process = NOISES["masks"]
    model = a_copula(process)
    law = step_law(model, 2).detach()
    stay = (process.lost(1, 0) / process.lost(2, 0)).expand(N)
    masked = (MASKED == M).double()
    row = torch.tensor([M, 1, M, M])
    close(law @ masked, stay * masked)
    hidden = torch.tensor([True, False, False, True])
    problem = model.step_problem(row[None], 2, hidden[None])
    field = problem.field(torch.tensor([[[M, 1, 0, M], [M, 1, 2, M]]]))[0].detach()
    # tokens 0 and 2 are coupled, 0 and 3 are hidden
    close(field[0, [0, 3], M], field[1, [0, 3], M])
    assert float((-field[0, 2]).softmax(-1)[M]) < 1e-300


# ---- learning ----------------


@noises
def test_the_pseudo_likelihood_is_that_of_the_enumerated_conditionals(process):
    model = a_copula(process)
    x_0 = EVERY[torch.randint(len(EVERY), (6,), generator=generator(3))]
    x, after, k = model.pairs(x_0, generator(4))
    found = model.pseudo_likelihood(x, after, k)
    expected = []
    for row in range(len(x)):
        hidden = x[row : row + 1] == M if isinstance(process, Absorbing) else None
        problem = model.step_problem(after[row : row + 1], int(k[row]), hidden)
        total = torch.zeros((), dtype=torch.float64)
        for i in range(N):
            others = x[row].repeat(problem.states, 1)
            others[:, i] = torch.arange(problem.states)
            total = total + (-problem.energy(others[None]))[0].log_softmax(-1)[x[row, i]]
        expected.append(total)
    close(found, torch.stack(expected))
    found.sum().backward()
    assert model.J.grad is not None
    assert model.J.grad.isfinite().all()
    assert model.J.grad.abs().max() > 0


def test_contrastive_divergence_is_a_difference_of_energies():
    model = a_copula(NOISES["uniform"])
    x, after, k = model.pairs(EVERY[::9], generator())

    class Flips(PottsGibbs):
        """A sampler that answers with the reads' next letters."""

        def sample(self, problem, num=1, *, initial=None, generator=None):
            assert initial is not None
            return (initial + 1) % M

    problem = model.step_problem(after, k)
    expected = problem.energy(x[:, None]) - problem.energy((x[:, None] + 1) % M)
    close(model.cd_loss(x, after, k, Flips()), expected[:, 0])
    still = model.cd_loss(x, after, k, PottsGibbs(2), generator=generator())
    assert still.shape == (len(x),) and still.requires_grad


# ---- drawing ----------------


@pytest.mark.long  # with known tokens the same is asked of the short tests
@noises
def test_rows_have_the_law_of_the_chain_of_steps(process):
    model = a_copula(process)
    rows = noisy_rows(process)
    p = forward_law(process, 2, 0, rows)[0]  # the last time is infinite: x_0 is no matter
    for k in (2, 1):
        p = p @ step_law(model, k).detach()
    clean = (rows < M).all(-1)
    close(p[~clean], torch.zeros_like(p[~clean]))
    x = model.sample(PottsGibbs(20), 3000, generator=generator())
    assert p_value(p[clean], number_of(x)) > FALSE_ALARM
    assert p_value(p[clean].flip(0), number_of(x)) < FALSE_ALARM


def test_with_masks_known_tokens_condition_the_whole_chain():
    """Where the step is exact, rows have the law of x_0 given what is known."""
    process = Absorbing(log_times(1), states=M)
    model, p = exact_copula(process)
    x = model.sample(PottsGibbs(20), 2000, known=KNOWN, generator=generator())
    assert torch.equal(x[:, [1, 3]], KNOWN[[1, 3]].expand(2000, 2))
    conditional = p * FITS / p[FITS].sum()
    assert p_value(conditional, number_of(x)) > FALSE_ALARM
    plain = model.sample(PottsGibbs(20), 2000, generator=generator())
    assert p_value(p, number_of(plain)) > FALSE_ALARM


def test_of_uniform_noise_known_tokens_go_back_as_they_came():
    """The law of rows by enumeration: the bridge of the known tokens, the step of the others."""
    process = NOISES["uniform"]
    model = a_copula(process)
    sites = (KNOWN >= 0).nonzero()[:, 0]
    p = torch.full((len(EVERY),), 1 / len(EVERY), dtype=torch.float64)
    same = (EVERY[:, None, sites] == EVERY[:, sites]).all(-1).double()
    sure = nn.functional.one_hot(KNOWN.clamp_min(0), M).double().expand(len(EVERY), -1, -1)
    for k in (2, 1):
        joint = step_law(model, k).detach()
        bridge = process.posterior(EVERY, sure, k)[:, sites]
        way = torch.stack([bridge[:, c][:, EVERY[:, site]] for c, site in enumerate(sites)])
        p = p @ (joint / (joint @ same) * way.prod(0))
    x = model.sample(PottsGibbs(20), 2000, known=KNOWN, generator=generator())
    assert torch.equal(x[:, sites], KNOWN[sites].expand(2000, 2))
    assert p_value(p, number_of(x)) > FALSE_ALARM


@noises
def test_a_row_draws_what_it_would_alone(process):
    model = a_copula(process)
    known = torch.tensor([[0, -1, -1, 1], [-1, 2, -1, -1], [-1, -1, -1, -1]])
    together = model.sample(
        PottsGibbs(3), 3, known=known, generator=[generator(s) for s in range(3)]
    )
    for s in range(3):
        alone = model.sample(PottsGibbs(3), 1, known=known[s], generator=[generator(s)])
        assert torch.equal(alone, together[s : s + 1])
    plain = model.sample(PottsGibbs(3), 1, generator=[generator(2)])
    assert torch.equal(plain, together[2:]), "where nothing is known nothing changes"


# ---- weights and refusals ----------------


def test_weights_travel_with_graph_and_noise():
    model = a_copula(NOISES["masks"])
    a_copula(NOISES["masks"], seed=1).load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="its noise is Absorbing, this one's Uniform"):
        a_copula(NOISES["uniform"]).load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.step_problem(EVERY[:2], 1), r"process.hidden\(x, k\) draws them"),
        (lambda m: m.step_problem(EVERY[:2, :3], 1), r"expected states \[B, 4\].*got \[2, 3\]"),
        (lambda m: m.posterior(EVERY[:2], 3), "expected steps 1 <= k <= 2; got 3"),
        (lambda m: m.posterior(EVERY[:2], torch.tensor([1])), r"each of 2 rows; got \[1\]"),
        (lambda m: m.posterior(EVERY[:2] + 3, 1), r"integers in 0\.\.3, 3 for the mask"),
        (lambda m: m.sample(PottsGibbs(1), 0), "num >= 1; got 0"),
        (lambda m: m.pairs(MASKED[-2:]), r"data in 0\.\.2; got 3, the mask, which noise alone"),
        (
            lambda m: m.pseudo_likelihood(MASKED[-2:], MASKED[-2:], torch.tensor([2, 1])),
            r"x at k = 1, which is x_0, in 0\.\.2; got 3, the mask",
        ),
        (
            lambda m: m.cd_loss(MASKED[-2:], MASKED[-2:], 1, PottsGibbs(1)),
            r"x at k = 1, which is x_0, in 0\.\.2; got 3, the mask",
        ),
        (
            lambda m: m.pseudo_likelihood(EVERY[:3], MASKED[-2:], 2),
            r"of one shape; got \[3, 4\] and \[2, 4\]",
        ),
        (
            lambda m: m.sample(PottsGibbs(1), 2, known=EVERY[0, :3]),
            r"known of shape \[4\] or \[2, 4\].*got \[3\]",
        ),
        (lambda m: m.sample(PottsGibbs(1), 2, known=EVERY[0] + 3), r"tokens in 0\.\.2.*3 to 3"),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with untyped(), pytest.raises(ValueError, match=message):
        call(a_copula(NOISES["masks"]))


def test_tokens_have_no_mask_whatever_the_couplings_cost():
    model = a_copula(NOISES["masks"])
    with torch.no_grad():
        model.J.fill_(2000)  # more than the logarithm of the smallest number
    assert (model.sample(PottsGibbs(3), 50, generator=generator()) < M).all()


@noises
def test_tokens_of_any_integers_are_the_same(process):
    model = a_copula(process)
    x, after, k = model.pairs(EVERY[::9], generator())
    small = (x.to(torch.int8), after.to(torch.int16), k)
    close(model.pseudo_likelihood(*small), model.pseudo_likelihood(x, after, k))
    sampler = PottsGibbs(2)
    found = model.cd_loss(*small, sampler, generator=generator())
    close(found, model.cd_loss(x, after, k, sampler, generator=generator()))


MAKE: Any = PottsCopula  # of arguments of any kind


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.sample(Gibbs(5), 4), r"such as PottsGibbs\(sweeps=100\); got Gibbs\(.*Ising"),
        (lambda m: m.sample(PottsGibbs, 4), "expected a sampler of Potts problems"),
        (lambda m: m.cd_loss(EVERY[:2], EVERY[:2], 1, Gibbs(5)), "Potts problems.*got Gibbs"),
        (lambda m: m.pairs(EVERY.numpy()), "x as a torch tensor; got ndarray"),
        (lambda m: MAKE(lambda x, k: x, GRAPH, m.process), "an nn.Module.*; got function"),
        (
            lambda m: MAKE(Linear, GRAPH, m.process),
            r"the class Linear: Linear\(\.\.\.\)",
        ),
    ],
)
def test_samplers_tokens_and_denoisers_of_the_wrong_kind(call, message):
    with untyped(), pytest.raises(TypeError, match=message) as error:
        call(a_copula(NOISES["masks"]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "got"),
    [(None, "NoneType"), ({}, "dict"), (torch.zeros(2, N, M).long(), "torch.int64")],
)
def test_answers_of_the_wrong_kind(answer, got):
    model = a_copula(NOISES["masks"])
    model.denoiser.forward = lambda x, k: answer
    with untyped(), pytest.raises(TypeError, match=rf"logits \[2, 4, 3\].*; got {got}"):
        model.posterior(EVERY[:2], 1)


def test_things_of_the_wrong_kind():
    bits = UniformBits(log_times(2))
    with untyped(), pytest.raises(TypeError, match="spins are for IsingCopula"):
        PottsCopula(Linear(2), GRAPH, bits)
    wrong = PottsCopula(nn.Embedding(4, 2), GRAPH, NOISES["uniform"])
    wrong.denoiser.forward = lambda x, k: torch.zeros(len(x), N, 2)
    with untyped(), pytest.raises(ValueError, match=r"logits \[2, 4, 3\]; got \[2, 4, 2\]"):
        wrong.posterior(EVERY[:2], 1)
