"""The Ising copula against enumeration: its step, its gradients, what it draws and can learn."""

import math

import pytest
import torch
from torch import nn

from qsample import Graph
from qsample.annealers import Exact, Gibbs, ParallelTempering, SimulatedAnnealing
from qsample.diffusion import Uniform, UniformBits, log_times
from qsample.diffusion.process import SMALLEST
from qsample.models import IsingCopula
from qsample.models.identity import tensor_of
from qsample.problem.enumeration import log_partition, log_weights, states
from qsample.sampling.random import draw_seeds
from qsample.testing import FALSE_ALARM
from tests.support.exact import KINDS, Z_MAX, a_graph, untyped
from tests.support.models import Law, Still, randomise
from tests.support.seeds import generator
from tests.support.thinning import thinned

RATES = torch.tensor([0.4, 1.0, 2.0, 1.3, 0.7], dtype=torch.float64)


def close(a, b, atol=1e-12):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


class Linear(nn.Module):
    """Summed a row at a time, so that a row rounds alike in any batch."""

    def __init__(self, n, steps, rank):
        super().__init__()
        self.W, self.b = nn.Parameter(torch.zeros(n, n)), nn.Parameter(torch.zeros(steps + 1, n))
        self.V = nn.Parameter(torch.zeros(n * rank, n)) if rank else None

    def forward(self, x, k):
        logits = (x[:, None] * self.W).sum(-1) + self.b[k]
        return (
            logits
            if self.V is None
            else (logits, (x[:, None] * self.V).sum(-1).unflatten(1, (x.shape[1], -1)))
        )


class Table(nn.Module):
    """Any function of x_k and k."""

    def __init__(self, n, steps):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(steps + 1, 2**n, n, dtype=torch.float64))

    def forward(self, x, k):
        # in the order of `states`
        return self.logits[k, ((x > 0) * 2 ** torch.arange(x.shape[1])).sum(-1)]


def a_copula(graph, rank=0, steps=3, seed=0, rate: torch.Tensor | float = 1.0) -> IsingCopula:
    model = IsingCopula(
        Linear(graph.num_spins, steps, rank), graph, UniformBits(log_times(steps), rate)
    )
    return randomise(model, seed)


def some(model, rows=4, seed=1):
    """Spins of the model's width: x_{k-1}, x_k and k of each row."""
    n, g = model.graph.num_spins, generator(seed)
    x, after = (2.0 * torch.randint(2, (rows, n), generator=g) - 1 for _ in range(2))
    return x, after, torch.randint(1, model.process.steps + 1, (rows,), generator=g)


def log_p(model, x, after, k):
    """Of x_{k-1} = x given x_k = after, a row, by enumeration."""
    problem = model.step_problem(after, k)
    return -problem.energy(x[:, None])[:, 0] - log_partition(problem)


def gradient(loss, model):
    parts = torch.autograd.grad(
        loss, list(model.parameters()), allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


def factorised_law(process, x, logits, k):
    """The law of all states of x_{k-1}, `[B, 2^n]`, by the M-ary formula: a product over bits."""
    p = torch.sigmoid(logits)
    general = Uniform(process.times, process.rate, states=2)
    sites = general.posterior((x > 0).long(), torch.stack([1 - p, p], -1), k)
    listed = (states(x.shape[1]) > 0).long()
    return torch.stack([sites[:, i, listed[:, i]] for i in range(x.shape[1])]).prod(0)


# ---- the step ----------------


@pytest.mark.parametrize(
    "graph", [Graph.complete(5), Graph.sparse(5, [])], ids=["J = 0", "no edges"]
)
@pytest.mark.parametrize("k", [1, 2, 3, None])
def test_without_couplings_it_is_the_factorised_step(graph, k):
    model = a_copula(graph, rate=RATES)
    with torch.no_grad():
        model.J.zero_()
    _, x, steps = some(model)
    k = steps if k is None else k
    logits, problem = model(x, k).logits, model.step_problem(x, k)
    close(problem.h, model.process.posterior_fields(x, (logits / 2).tanh(), k))
    for row, at in enumerate(steps.tolist() if k is steps else [k] * len(x)):
        expected = factorised_law(model.process, x[row : row + 1], logits[row : row + 1], at)[0]
        # t_0 = 0 has an infinite coupling, which is clamped for each bit
        clamped = 5 * SMALLEST if at == 1 else 0
        close(log_weights(problem)[row].softmax(-1), expected, 1e-12 + clamped)


def test_couplings_are_the_steps_own_and_those_of_the_features():
    graph = a_graph("sparse")
    model = a_copula(graph, rank=2)
    x, _, k = some(model)
    assert model(x, 2).coupling.shape == (4, graph.num_edges)
    _, u = model.denoiser(x, k)
    for row in range(4):
        for edge, (i, j) in enumerate(graph.edges.T.tolist()):
            expected = model.J[k[row] - 1, edge] - u[row, i] @ u[row, j] / 2
            close(model(x, k).coupling[row, edge], expected)
    plain = a_copula(graph)
    assert torch.equal(plain(x, 2).coupling, plain.J[1])  # one for the batch: samplers share it
    assert torch.equal(plain(x, k).coupling, plain.J[k - 1])
    assert plain.step_problem(x, 2).J.shape == graph.coupling_shape


def test_a_sure_denoiser_keeps_finite_fields_and_gradients():
    model = a_copula(Graph.complete(3)).float()
    with torch.no_grad():
        model.denoiser.get_parameter("b").fill_(500.0)
    x, after, _ = some(model)
    for k in (1, 3):
        loss = model.pseudo_likelihood(x, after, k).sum()
        assert (
            model.step_problem(after, k).h.isfinite().all()
            and gradient(loss, model).isfinite().all()
        )


# ---- learning ----------------


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_pseudo_likelihood_is_that_of_the_enumerated_conditionals(kind, rank):
    model = a_copula(a_graph(kind), rank)
    x, after, k = some(model)
    problem, expected = model.step_problem(after, k), torch.zeros(len(x), dtype=torch.float64)
    for i in range(model.graph.num_spins):
        other = x.clone()
        other[:, i] *= -1
        both = -problem.energy(torch.stack([x, other], 1))
        expected = expected + both.log_softmax(-1)[:, 0]
    found = model.pseudo_likelihood(x, after, k)
    close(found, expected)
    close(gradient(found.sum(), model), gradient(expected.sum(), model))


def test_without_couplings_the_pseudo_likelihood_is_the_likelihood():
    model = a_copula(Graph.sparse(4, []))
    x, after, k = some(model)
    close(model.pseudo_likelihood(x, after, k), log_p(model, x, after, k))


@pytest.mark.parametrize("rank", [0, 2])
def test_contrastive_divergence_from_the_law_is_the_slope_of_the_likelihood(rank):
    model = a_copula(a_graph("sparse"), rank)
    x, after, k = some(model)
    found = gradient(model.cd_loss(x, after, k, Law(), start="fresh").sum(), model)
    close(found, gradient(-log_p(model, x, after, k).sum(), model))
    step, slopes = 1e-5, []
    with torch.no_grad():
        for values in (p.view(-1) for p in model.parameters()):
            for at in range(len(values)):
                before, ends = values[at].item(), []
                for move in (step, -step):
                    values[at] = before + move
                    ends.append(-float(log_p(model, x, after, k).sum()))
                values[at] = before
                slopes.append((ends[0] - ends[1]) / (2 * step))
    # central differences: step^2
    torch.testing.assert_close(found, found.new_tensor(slopes), rtol=0, atol=1e-7)


def test_the_sampled_gradient_is_right_in_the_mean():
    model, num = a_copula(Graph.complete(4), rank=1), 4000
    x, after, k = some(model, rows=3)
    exact = gradient(-log_p(model, x, after, k).sum(), model)
    found = gradient(
        model.cd_loss(x, after, k, Exact(), start="fresh", num=num, generator=generator()).sum(),
        model,
    )
    problem = model.step_problem(after, k)
    listed = states(4).expand(3, -1, -1)
    energy, law = problem.energy(listed), log_weights(problem).softmax(-1).detach()
    variance = torch.zeros_like(exact)
    for row in range(3):
        slopes = torch.stack([_slope(one, model) for one in energy[row]])
        variance += law[row] @ (slopes - law[row] @ slopes).square() / num
    moves = variance > 1e-20
    assert (
        (found - exact).abs()[moves] < Z_MAX * variance[moves].sqrt()
    ).all() and moves.sum() > 20
    close(found[~moves], exact[~moves])


def _slope(energy, model):
    found = torch.autograd.grad(
        energy,
        list(model.parameters()),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([part.flatten() for part in found])


def test_chains_start_at_the_data():
    model = a_copula(Graph.complete(4))
    x, after, k = some(model)
    loss = model.cd_loss(x, after, k, Still(), num=3)
    close(loss, torch.zeros_like(loss))
    assert model.cd_loss(x, after, k, Gibbs(3), generator=generator()).shape == (4,)


def test_pairs_are_the_forward_process():
    model, num = a_copula(Graph.complete(4), steps=2), 20_000
    x_0 = torch.ones(num, 4)
    x, after, k = model.pairs(x_0, generator())
    a = (-model.process.times).exp()  # 1, 1/2, 0
    assert abs(float((k == 1).double().mean()) - 0.5) < Z_MAX * 0.5 / math.sqrt(num)
    assert torch.equal(x[k == 1], x_0[k == 1])
    for seen, mean in [(x[k == 2], a[1]), ((x * after)[k == 1], a[1]), ((x * after)[k == 2], a[2])]:
        flat = seen.double().flatten()
        assert abs(float(flat.mean() - mean)) < Z_MAX * math.sqrt(
            (1 - float(mean) ** 2) / len(flat)
        )


def train(model, law):
    """The exact expectation of the pseudo-likelihood over a law of x_0 `[2^n]`, minimised."""
    n, process = model.graph.num_spins, model.process
    listed = states(n).double()
    same = (listed[:, None] == listed).double()

    def kernel(k, start):  # of whole states, [2^n, 2^n]
        Q = process.kernel(k, start)
        return torch.where(same == 1, Q[0, 0], Q[0, 1]).prod(-1)

    x, after = listed.repeat_interleave(2**n, 0), listed.repeat(2**n, 1)
    weights = [
        ((law @ kernel(k - 1, 0))[:, None] * kernel(k, k - 1)).flatten()
        for k in range(1, process.steps + 1)
    ]
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=2000,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure():
        optimizer.zero_grad()
        loss = -torch.stack(
            [w @ model.pseudo_likelihood(x, after, k) for k, w in enumerate(weights, 1)]
        ).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    p = torch.full((2**n,), 2.0**-n, dtype=torch.float64)
    for k in range(process.steps, 0, -1):
        p = p @ log_weights(model.step_problem(listed, k).detach()).softmax(-1)
    return float(law @ (law / p).log())


@pytest.mark.parametrize("steps", [1, 2])
def test_it_learns_a_joint_law_that_no_factorised_step_can(steps):
    """Two bits that nearly always agree: only the factorised step loses their information."""
    law = torch.tensor([0.42, 0.03, 0.05, 0.5], dtype=torch.float64)
    joint = law.reshape(2, 2)
    information = float((joint * (joint / (joint.sum(1, keepdim=True) * joint.sum(0))).log()).sum())
    alone, together = (
        train(IsingCopula(Table(2, steps), graph, UniformBits(log_times(steps))), law)
        for graph in (Graph.sparse(2, []), Graph.complete(2))
    )
    assert together < 1e-9
    if steps == 1:
        assert alone == pytest.approx(information, abs=1e-9)
    assert alone > 0.02


# ---- drawing ----------------


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    "sampler",
    [Gibbs(5), SimulatedAnnealing(20), Exact(), ParallelTempering(5)],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("kind", thinned(KINDS, 3))
def test_a_batch_draws_what_its_items_draw_alone(kind, sampler, rank):
    model = a_copula(a_graph(kind), rank)
    whole = model.sample(sampler, 4, generator=[generator(s) for s in range(4)])
    assert whole.dtype == torch.int8 and whole.shape == (4, 5)
    assert torch.equal(
        whole, torch.cat([model.sample(sampler, 1, generator=[generator(s)]) for s in range(4)])
    )
    one = model.sample(sampler, 4, generator=generator(7))
    assert torch.equal(one, model.sample(sampler, 4, generator=generator(7)))


def test_a_batch_that_starts_at_independent_bits_too():
    model = a_copula(a_graph("sparse"))
    seeds = [generator(s) for s in range(4)]
    whole = model.sample(Gibbs(2), 4, start="independent", generator=seeds)
    for s in range(4):
        alone = model.sample(Gibbs(2), 1, start="independent", generator=[generator(s)])
        assert torch.equal(whole[s : s + 1], alone)


def factorised(model):
    """The same denoiser without couplings."""
    return IsingCopula(model.denoiser, Graph.sparse(3, []), model.process)


@pytest.mark.parametrize(
    ("sampler", "start", "law_of"),
    [
        (Exact(), "fresh", lambda model: model),
        (Gibbs(40), "independent", lambda model: model),
        # chains that stay where they begin show where that is
        (Still(), "independent", factorised),
    ],
    ids=["exact", "from independent bits", "independent bits"],
)
def test_images_have_the_law_of_the_chain_of_steps(sampler, start, law_of):
    from scipy.stats import power_divergence

    model, num = a_copula(Graph.complete(3), rank=1, steps=2), 5000
    listed = states(3).double()
    p = torch.full((8,), 1 / 8, dtype=torch.float64)
    for k in (2, 1):
        p = p @ log_weights(law_of(model).step_problem(listed, k).detach()).softmax(-1)
    x = model.sample(sampler, num, start=start, generator=generator())
    seen = ((x > 0) * 2 ** torch.arange(3)).sum(-1).bincount(minlength=8)
    assert (p * num > 5).all()
    assert (
        power_divergence(seen.numpy(), (p * num).numpy(), lambda_="log-likelihood").pvalue
        > FALSE_ALARM
    )
    wrong = p.flip(0) * num
    assert (
        power_divergence(seen.numpy(), wrong.numpy(), lambda_="log-likelihood").pvalue < FALSE_ALARM
    )


# ---- weights and refusals ----------------


def test_weights_travel_with_their_graph():
    model, other = (a_copula(a_graph("sparse"), seed=s) for s in (0, 1))
    other.load_state_dict(model.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )
    elsewhere = a_copula(Graph.sparse(5, [(0, 1), (1, 2), (2, 3), (3, 4)]))  # as many edges
    before = elsewhere.J.clone()
    # weights saved before models shared one identity hold the bare hash
    old = model.state_dict() | {"_extra_state": tensor_of(model.graph.hash)}
    other.load_state_dict(old)
    for state in (model.state_dict(), old):
        with pytest.raises(ValueError, match="weights of another model: its graph is"):
            elsewhere.load_state_dict(state)
    assert torch.equal(elsewhere.J, before)


class Wrong(nn.Module):
    """Answers what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, k):
        return self.answer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m(x[:, :3], 1), r"expected spins \[B, 5\].*got \[4, 3\]"),
        (lambda m, x: m(x[0], 1), r"expected spins \[B, 5\]"),
        (lambda m, x: m.step_problem((x + 1) / 2, 1), "of -1 and \\+1; got 0: 2 \\* bits - 1"),
        (lambda m, x: m.pseudo_likelihood(0 * x, x, 1), "of -1 and \\+1; got 0"),
        (lambda m, x: m.cd_loss(x / 2, x, 1, Gibbs(1)), "of -1 and \\+1; got -?0.5"),
        (lambda m, x: m.pairs(x[:, :2]), r"expected spins \[B, 5\]"),
        (lambda m, x: m.step_problem(x, 0), "expected steps 1 <= k <= 3; got 0"),
        (
            lambda m, x: m.step_problem(x, torch.tensor([1, 2, 3, 4])),
            r"1 <= k <= 3; got \[1, 2, 3, 4\]",
        ),
        (
            lambda m, x: m.step_problem(x, torch.tensor([1, 2])),
            r"one for each of 4 rows; got \[2\]",
        ),
        (lambda m, x: m.cd_loss(x, x, 1, Exact()), "Exact cannot continue chains"),
        (
            lambda m, x: m.cd_loss(x, x, 1, Gibbs(1), start="persistent"),
            "unknown start 'persistent'",
        ),
        (lambda m, x: m.sample(Gibbs(1), 0), "expected num >= 1 images; got 0"),
        (lambda m, x: m.sample(Gibbs(1), 2, start="data"), "unknown start 'data'"),
        (
            lambda m, x: m.sample(SimulatedAnnealing(9), 2, start="independent"),
            "SimulatedAnnealing cannot continue chains",
        ),
        (
            lambda m, x: m.sample(Gibbs(1), 2, generator=[generator()]),
            "one for each of 2 problems; got 1",
        ),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    model = a_copula(a_graph("sparse"))
    with untyped(), pytest.raises(ValueError, match=message) as error:
        call(model, some(model)[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (torch.zeros(4, 3), r"expected the denoiser's logits \[4, 5\]; got \[4, 3\]"),
        (
            (torch.zeros(4, 5), torch.zeros(4, 5)),
            r"expected the denoiser's features \[4, 5, r\]; got \[4, 5\]",
        ),
    ],
)
def test_a_denoiser_of_another_shape(answer, message):
    model = IsingCopula(Wrong(answer), a_graph("sparse"), UniformBits(log_times(3)))
    with pytest.raises(ValueError, match=message):
        model(torch.ones(4, 5), 1)


def test_things_of_the_wrong_kind():
    graph, denoiser = a_graph("sparse"), Linear(5, 2, 0)
    with untyped(), pytest.raises(TypeError, match=r"expected a process of spins.*got 3"):
        IsingCopula(denoiser, graph, 3)  # pyright: ignore[reportArgumentType]
    model = IsingCopula(denoiser, graph, UniformBits(log_times(2)))
    with untyped(), pytest.raises(TypeError, match="expected a sampler"):
        model.sample("gibbs", 2)  # pyright: ignore[reportArgumentType]
    with untyped(), pytest.raises(TypeError, match="spins as a torch tensor; got ndarray"):
        model.pairs(torch.ones(2, 5).numpy())  # pyright: ignore[reportArgumentType]
    with untyped(), pytest.raises(TypeError, match="expected k as the number of a step.*got 1.5"):
        model(torch.ones(2, 5), 1.5)  # pyright: ignore[reportArgumentType]
    bits = torch.tensor([[0, 1, 0, 1, 1]], dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"2 \* bits.to\(torch.int8\) - 1 makes spins"):
        model.pairs(bits)
    model.pairs(2 * bits.to(torch.int8) - 1)


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (lambda x, k: x, "expected denoiser as an nn.Module.*; got function: write a class"),
        (Linear, r"got the class Linear: Linear\(\.\.\.\) makes one"),
    ],
)
def test_a_denoiser_is_a_module(denoiser, message):
    with untyped(), pytest.raises(TypeError, match=message):
        IsingCopula(denoiser, a_graph("sparse"), UniformBits(log_times(2)))


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (None, "logits.*NoneType"),
        ({"logits": torch.zeros(4, 5)}, "logits.*dict"),
        (torch.zeros(4, 5) > 0, "logits.*torch.bool"),
        ((torch.zeros(4, 5),) * 3, "logits.*tuple"),
        ((torch.zeros(4, 5), torch.zeros(4, 5, 1).numpy()), "features.*ndarray"),
    ],
)
def test_answers_of_the_wrong_kind(answer, got):
    model = IsingCopula(Wrong(answer), a_graph("sparse"), UniformBits(log_times(3)))
    with untyped(), pytest.raises(TypeError, match=got):
        model(torch.ones(4, 5), 1)


# ---- centred couplings ----------------


def a_centred(graph, seed=0, rank=0):
    model = IsingCopula(
        Linear(graph.num_spins, 3, rank), graph, UniformBits(log_times(3)), centred=True
    )
    return randomise(model, seed)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_centred_couplings_are_between_deviations_from_the_means(kind, rank):
    model = a_centred(a_graph(kind), rank=rank)
    _, x, _ = some(model)
    every = states(5).double()
    k = 2
    h = model.fields(x, k)
    deviation = every + h.tanh()[:, None]  # s - m, [B, 2^n, n]
    i, j = model.graph.edges
    J = model(x, k).coupling.expand(len(x), -1)[:, None]
    pairs = (J * deviation[..., i] * deviation[..., j]).sum(-1)
    assert model.b is not None
    energy = ((h + model.b[k - 1])[:, None] * every).sum(-1) + pairs
    law = (-energy).log_softmax(-1)
    close(log_weights(model.step_problem(x, k)).log_softmax(-1), law)
    with torch.no_grad():  # by blocks of edges, where couplings need no derivative
        close(log_weights(model.step_problem(x, k)).log_softmax(-1), law)


@pytest.mark.parametrize("k", [2, torch.tensor([1, 2, 3, 2])])
def test_centred_steps_are_the_same_with_a_gradient_and_without_one_and_alone(k):
    model = a_centred(a_graph("sparse"), rank=2).float()
    _, x, _ = some(model)
    x = x.float()
    learned = model.step_problem(x, k)
    with torch.no_grad():
        plain = model.step_problem(x, k)
        assert torch.equal(plain.h, learned.h)
        assert torch.equal(plain.J, learned.J)
        for row in range(4):
            at = k if isinstance(k, int) else k[row : row + 1]
            alone = model.step_problem(x[row : row + 1], at)
            assert torch.equal(alone.h[0], plain.h[row])
            assert torch.equal(alone.J[0], plain.J[row])


def test_centred_couplings_leave_means_as_they_are_to_first_order():
    model = a_centred(Graph.complete(4))
    _, x, _ = some(model)
    every = states(4).double()
    changes = []
    for scale in (1e-2, 1e-3):
        with torch.no_grad():
            assert model.b is not None
            model.b.zero_()
            model.J.copy_(scale * torch.randn(model.J.shape, generator=generator(3)))
        law = log_weights(model.step_problem(x, 2)).softmax(-1)
        changes.append(float((law @ every + model.fields(x, 2).tanh()).detach().abs().max()))
    assert changes[1] < changes[0] / 50  # 100 where only the square of J moves them


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_evidence_loss_has_the_slope_of_the_bound(k):
    model = a_centred(Graph.complete(4))
    x_0, _, _ = some(model)
    loss = model.evidence_loss(x_0, k, Law(), generator=generator(7)).mean()
    seed = draw_seeds(generator(7), (3,))[0]
    after = model.process.noise(x_0, k, generator=generator(seed))
    mean = -model.process.posterior_fields(after, x_0.double(), k).tanh()
    problem = model.step_problem(after, k)
    term = -problem.energy(mean[:, None])[:, 0] - log_partition(problem)
    close(gradient(loss, model), -gradient(term.mean(), model), 1e-10)


def test_the_evidence_loss_of_steps_that_are_given():
    """As of those that it draws; what is no x_k is refused."""
    model = a_centred(Graph.complete(4))
    x_0, _, _ = some(model)
    noise = int(draw_seeds(generator(7), (3,))[0])
    after = model.process.noise(x_0, 2, generator=generator(noise))
    drawn = model.evidence_loss(x_0, 2, Gibbs(2), generator=generator(7))
    given = model.evidence_loss(x_0, 2, Gibbs(2), after=after, generator=generator(7))
    assert drawn.equal(given)
    with pytest.raises(ValueError, match="spins"):
        model.evidence_loss(x_0, 2, Gibbs(2), after=torch.zeros_like(after))


def test_weights_of_centred_couplings_are_their_own():
    plain = a_copula(Graph.complete(4))
    with pytest.raises(ValueError, match="centred"):
        a_centred(Graph.complete(4)).load_state_dict(plain.state_dict())
