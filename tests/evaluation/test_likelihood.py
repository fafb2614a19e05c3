"""Log Z, log-likelihood and pseudo-likelihood against slow sums over all states."""

import itertools
import math

import jaxtyping
import pytest
import torch

import qsample.problem.enumeration
from qsample import (
    Graph,
    Ising,
    ReliabilityWarning,
    log_likelihood,
    log_partition,
    pseudo_log_likelihood,
)
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.models.energy import Intractable
from tests.support.exact import KINDS, Z_MAX, a_graph, a_problem, one_by_one, slow_law
from tests.support.thinning import thinned

BATCHES = [((), (), ()), ((3,), (), ()), ((), (2,), ()), ((2, 1), (3,), (2, 3)), ((), (), (4,))]


# ---- exact log Z ----------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("h", "J", "offset"), BATCHES)
@pytest.mark.parametrize("scale", [0.7, 300.0])
def test_log_z_is_the_sum_over_states(kind, h, J, offset, scale):
    problem = a_problem(a_graph(kind), h=h, J=J, offset=offset, scale=scale)
    found = log_partition(problem, "exact")
    slow = torch.tensor([slow_law(one)[2] for _, one in one_by_one(problem)], dtype=torch.float64)
    value = torch.as_tensor(found.value, dtype=torch.float64)
    torch.testing.assert_close(value, slow.reshape(problem.batch_shape), rtol=1e-12, atol=0)
    assert isinstance(found.value, float) == (problem.batch_shape == ())
    assert not torch.as_tensor(found.stderr).any()
    torch.testing.assert_close(
        torch.as_tensor(log_partition(problem, "exact").value), torch.as_tensor(found.value)
    )


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (1, 6), (6, 1), (3, 3)])
def test_log_z_of_lopsided_bipartite_graphs(sizes):
    problem = a_problem(Graph.bipartite(*sizes), h=(2,))
    slow = [slow_law(one)[2] for _, one in one_by_one(problem)]
    assert log_partition(problem, "exact").value.tolist() == pytest.approx(slow, rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 22])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_chunks_do_not_matter(monkeypatch, chunk, batch):
    problem = a_problem(Graph.bipartite(6, 4), h=batch)
    whole = torch.as_tensor(log_partition(problem, "exact").value)
    monkeypatch.setattr(qsample.problem.enumeration, "CHUNK", chunk)
    torch.testing.assert_close(
        torch.as_tensor(log_partition(problem, "exact").value), whole, rtol=1e-14, atol=0
    )


def test_single_precision_problems_are_summed_in_double():
    problem = a_problem(a_graph("complete"), dtype=torch.float32)
    slow = slow_law(problem)[2]
    assert log_partition(problem, "exact").value == pytest.approx(slow, rel=1e-12)


def test_beyond_the_limit_the_error_names_ais(monkeypatch):
    for problem in (a_problem(Graph.complete(25)), a_problem(Graph.bipartite(25, 30))):
        with pytest.raises(
            ValueError, match=r"would list 2\^25 states \(limit 2\^24\): use .*method='ais'"
        ):
            log_partition(problem, "exact")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # which would refuse it first
    match = "unknown method 'guess'; expected one of auto, exact, bracket, ais"
    with pytest.raises(ValueError, match=match):
        log_partition(a_problem(a_graph("sparse")), "guess")  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(ValueError, match=r"takes one problem at a time; got a batch \[2\]"):
        log_partition(a_problem(Graph.complete(25), h=(2,)))
    for steps, chains in ((0, 2), (1, 1)):
        with pytest.raises(
            ValueError,
            match=f"expected steps >= 1, chains >= 2 and width > 0; got {steps}, {chains} and ",
        ):
            log_partition(a_problem(a_graph("sparse")), "ais", steps=steps, chains=chains)


# ---- annealed importance sampling ----------------


def ais_errors(kind, base, *, trials=30, steps=30, chains=200):
    """(Z estimated / Z - 1) / its stderr, over random problems of 8 spins."""
    z = []
    for seed in range(trials):
        ring = Graph.sparse(8, [(i, (i + 1) % 8) for i in range(8)] + [(0, 4), (2, 7)])
        graph = {"sparse": ring, "bipartite": Graph.bipartite(5, 3), "complete": Graph.complete(8)}[
            kind
        ]
        problem = a_problem(graph, scale=0.5, seed=seed, offset=())
        generator = torch.Generator().manual_seed(seed)
        fields = {"own": None, "zero": torch.zeros(8), "other": torch.linspace(-0.8, 0.8, 8)}[base]
        found = log_partition(
            problem, "ais", steps=steps, chains=chains, base=fields, generator=generator
        )
        ratio = math.exp(found.value - log_partition(problem, "exact").value)
        z.append((ratio - 1) / (ratio * found.stderr))
        assert 1 <= found.ess <= chains and (found.note == "") == (found.ess >= 10)
    return torch.tensor(z)


@pytest.mark.parametrize("kind", thinned(KINDS[1:] + KINDS[:1], 3))
@pytest.mark.parametrize("base", thinned(["own", "zero", "other"], 3))
def test_ais_is_unbiased_and_knows_its_error(kind, base):
    """exp(log Z) is unbiased, so over 30 problems z is standard normal.

    That holds as far as its error is well estimated.
    """
    z = ais_errors(kind, base)
    assert z.abs().max() < Z_MAX
    assert abs(float(z.mean())) < Z_MAX / len(z) ** 0.5
    rms = float(z.square().mean().sqrt())
    assert 0.5 < rms < 1.5  # chi-squared of 30: 0.44 and 1.61 are one in 10^5


def test_ais_says_when_few_of_its_runs_count():
    """A single step is importance sampling from independent spins: hopeless for a cold problem."""
    cold = a_problem(Graph.complete(12), scale=8.0)
    cold = Ising(cold.graph, torch.zeros(12).double(), cold.J)
    with pytest.warns(ReliabilityWarning) as said:
        poor = log_partition(
            cold, "ais", steps=1, chains=50, check=False, generator=torch.Generator().manual_seed(1)
        )
    assert [str(w.message) for w in said] == [poor.note]
    assert poor.ess < 10 and poor.note == f"only {poor.ess:.1f} effective runs: raise steps"
    assert poor.note in str(poor)
    warm = log_partition(a_problem(Graph.complete(12), scale=0.1), "ais", steps=100, chains=50)
    assert warm.note == "" and warm.ess > 10 > poor.ess and warm.stderr < poor.stderr


def test_ais_without_couplings_is_exact():
    problem = Ising(
        Graph.sparse(3, []), torch.tensor([0.3, -2.0, 0.0]).double(), torch.zeros(0).double(), 0.7
    )
    found = log_partition(problem, "ais", steps=3, chains=5)
    assert found.value == pytest.approx(slow_law(problem)[2], rel=1e-12)
    assert found.stderr < 1e-12 and found.ess == pytest.approx(5)


# of 8 runs of 5 steps
@pytest.mark.filterwarnings("ignore::qsample.sampling.samples.ReliabilityWarning")
def test_ais_draws_from_its_generator_only():
    problem = a_problem(Graph.complete(30), scale=0.2)
    state = torch.get_rng_state()

    def value(seed):
        return log_partition(
            problem, "ais", steps=5, chains=8, generator=torch.Generator().manual_seed(seed)
        ).value

    assert value(3) == value(3) != value(4)
    assert torch.equal(state, torch.get_rng_state())
    # torch's default generator: seeded by the user's own call
    free = log_partition(problem, "ais", steps=5, chains=8).value
    torch.set_rng_state(state)
    assert log_partition(problem, "ais", steps=5, chains=8).value == free
    torch.set_rng_state(state)


# ---- likelihoods ----------------


def rbm(n=4, m=3):
    return BernoulliRBM(n, m, scale=2.0, generator=torch.Generator().manual_seed(0))


def machine(kind, hidden=""):
    model = BoltzmannMachine(
        a_graph(kind, "abcde"), hidden, scale=1.5, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        model.h.copy_(torch.linspace(-0.7, 0.5, 5))
    return model


MODELS = {
    "rbm": rbm,
    "rbm wide": lambda: rbm(2, 5),
    "sparse": lambda: machine("sparse"),
    "sparse, hidden apart": lambda: machine("sparse", "ca"),
    "sparse, hidden coupled": lambda: machine("sparse", "db"),
    "bipartite, both sides": lambda: machine("bipartite", "cb"),
    "complete": lambda: machine("complete"),
    "complete, hidden coupled": lambda: machine("complete", "dab"),
}
models = pytest.mark.parametrize("name", MODELS)


def visible_law(model):
    """Visible state (in the model's coding) to probability, summed in pure Python."""
    problem = model.ising().detach().to(dtype=torch.float64)
    states, p, _ = slow_law(problem)
    law: dict[tuple[int, ...], float] = {}
    for state, probability in zip(states, p, strict=True):
        x = tuple(
            (state[i] + 1) // 2 if model.coding == "bits" else state[i]
            for i in model.visible_index.tolist()
        )
        law[x] = law.get(x, 0.0) + probability
    return law


@models
def test_log_likelihood_is_that_of_the_enumerated_law(name):
    model = MODELS[name]()
    law = visible_law(model)
    total = 0.0
    for x, p in law.items():
        found = log_likelihood(model, torch.tensor([x]).float(), "exact")
        # weights are stored in float32
        assert found.value == pytest.approx(math.log(p), rel=1e-6, abs=1e-6)
        assert found.stderr == 0
        total += math.exp(found.value)
    assert total == pytest.approx(1, abs=1e-12)  # but all sums are in double
    data = torch.tensor(list(itertools.islice(itertools.cycle(law), 40))).float()
    mean = sum(math.log(law[tuple(int(u) for u in row)]) for row in data.tolist()) / 40
    assert log_likelihood(model, data, "exact").value == pytest.approx(mean, abs=1e-6)


@models
def test_log_likelihood_leaves_the_model_alone(name):
    model = MODELS[name]()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    log_likelihood(model, torch.tensor([next(iter(visible_law(model)))]).float())
    assert all(
        torch.equal(v, before[k]) and v.dtype == before[k].dtype
        for k, v in model.state_dict().items()
    )


@pytest.mark.long
def test_log_likelihood_by_ais_carries_its_error():
    model = rbm()
    data = torch.tensor(list(visible_law(model))).float()
    exact = log_likelihood(model, data, "exact")
    z = []
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = log_likelihood(model, data, "ais", steps=50, chains=200, generator=generator)
        assert found.stderr > 0 and found.ess is not None
        z.append(
            math.expm1(exact.value - found.value)
            / found.stderr
            / math.exp(exact.value - found.value)
        )
    assert max(map(abs, z)) < Z_MAX


@models
def test_pseudo_likelihood_is_the_product_of_conditionals(name):
    model = MODELS[name]()
    law = visible_law(model)
    data = torch.tensor(list(itertools.islice(itertools.cycle(law), 23))).float()
    if not model.tractable:
        with pytest.raises(Intractable, match="hidden units are coupled"):
            pseudo_log_likelihood(model, data)
        return
    slow = 0.0
    for row in data.int().tolist():
        for i, u in enumerate(row):
            other = [*row[:i], 1 - u if model.coding == "bits" else -u, *row[i + 1 :]]
            slow += math.log(law[tuple(row)] / (law[tuple(row)] + law[tuple(other)]))
    assert pseudo_log_likelihood(model, data) == pytest.approx(slow / len(data), rel=1e-5)


@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3), (2, 2, 4)])
def test_data_of_the_wrong_shape(shape):
    for f in (log_likelihood, pseudo_log_likelihood):
        with pytest.raises(ValueError, match=r"expected data of shape \[(N|\*), 4\].*; got \["):
            f(rbm(), torch.zeros(shape))
