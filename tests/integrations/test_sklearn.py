"""scikit-learn's `BernoulliRBM`, ours: its checks, its numbers, and a step against autograd."""

import pickle
import re
import subprocess
import sys
import warnings
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array, csc_matrix, csr_array, lil_matrix
from sklearn import base
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import BernoulliRBM as Theirs
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import qsample as qs
from qsample.annealers import Corrected, Exact, Gibbs, PopulationAnnealing, SimulatedAnnealing
from qsample.integrations.sklearn.machine import Machine, Parameters
from qsample.integrations.sklearn.negatives import Answers, Chains
from qsample.models import BernoulliRBM as Model
from qsample.sklearn import BernoulliRBM
from qsample.testing import FALSE_ALARM
from qsample.testing.contract import g_test
from tests.support.exact import Z_MAX

LOADED: Any = load_digits()
DIGITS = LOADED.data / 16
FITTED = ("components_", "intercept_hidden_", "intercept_visible_", "h_samples_")


def clone(estimator: Any) -> Any:
    """Of any estimator: scikit-learn's annotations say other things too."""
    return base.clone(estimator)


def some_parameters(seed: int = 0, hidden: int = 3, visible: int = 4) -> Parameters:
    rng = np.random.default_rng(seed)
    return Parameters(
        rng.normal(size=(hidden, visible)),
        rng.normal(size=hidden),
        rng.normal(size=visible),
        rng.uniform(size=visible),
        rng.uniform(size=hidden),
    )


def theirs_of(ours: BernoulliRBM) -> Any:
    """scikit-learn's, of the same weights."""
    their = Theirs(ours.n_components, random_state=0)
    for name in FITTED[:3]:
        setattr(their, name, getattr(ours, name))
    return their


# ---- scikit-learn's own demands ----------------


@parametrize_with_checks([BernoulliRBM()])
def test_every_check_of_scikit_learn(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as scikit-learn's own tests have it
        check(estimator)


@pytest.mark.long
def test_all_47_checks_pass_and_none_is_skipped():
    """One of them needs SciPy's array API, which is chosen before SciPy is imported."""
    code = """
import os; os.environ["SCIPY_ARRAY_API"] = "1"
from sklearn.utils.estimator_checks import check_estimator
from qsample.sklearn import BernoulliRBM
verdicts = check_estimator(BernoulliRBM(), on_fail=None)
assert len(verdicts) >= 40, len(verdicts)
assert {verdict["status"] for verdict in verdicts} == {"passed"}, verdicts
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_name_is_public_and_survives_a_pickle():
    rbm = BernoulliRBM(4, n_iter=1, random_state=0, sampler=Gibbs(2)).fit(DIGITS[:30])
    content = pickle.dumps(rbm)
    assert b"qsample.sklearn" in content and b"qsample.integrations" not in content
    again = pickle.loads(content)
    assert np.array_equal(again.transform(DIGITS), rbm.transform(DIGITS))
    assert again.partial_fit(DIGITS[:10]).chains_.shape == (10, 68)


def test_a_pipeline_and_a_grid_search_over_samplers():
    x = DIGITS[:200]
    y = LOADED.target[:200]
    rbm = BernoulliRBM(16, n_iter=3, random_state=0)
    pipeline = Pipeline([("rbm", rbm), ("logistic", LogisticRegression(max_iter=500))])
    grid = {"rbm__sampler": [None, Gibbs(sweeps=2)], "rbm__learning_rate": [0.1, 0.5]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x, y)
    assert search.best_score_ > 0.3  # chance is 0.1
    assert clone(search.best_estimator_).get_params()["rbm__n_components"] == 16


def test_names_of_features_and_outputs():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(DIGITS[:30], columns=[f"pixel {i}" for i in range(64)])
    rbm = BernoulliRBM(3, n_iter=1).set_output(transform="pandas").fit(frame)
    assert list(rbm.transform(frame).columns) == [f"bernoullirbm{j}" for j in range(3)]
    assert list(rbm.feature_names_in_) == list(frame.columns) and rbm.n_features_in_ == 64


# ---- what it has in common with scikit-learn's ----------------


def test_the_first_weights_are_scikit_learn_s():
    ours, theirs = (RBM(5, n_iter=0, random_state=3).fit(DIGITS) for RBM in (BernoulliRBM, Theirs))
    for name in ("components_", "intercept_hidden_", "h_samples_"):
        assert np.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=0)
        assert getattr(ours, name).dtype == getattr(theirs, name).dtype


def test_the_same_weights_transform_and_draw_alike():
    ours = BernoulliRBM(8, n_iter=2, random_state=0).fit(DIGITS)
    theirs = theirs_of(ours)
    assert np.array_equal(ours.transform(DIGITS), theirs.transform(DIGITS))
    ours.random_state_ = np.random.RandomState(5)
    theirs.random_state_ = np.random.RandomState(5)
    drawn = ours.gibbs(DIGITS)
    assert np.array_equal(drawn, theirs.gibbs(DIGITS)) and drawn.dtype == bool
    assert not np.array_equal(ours.gibbs(DIGITS), drawn)


def test_digits_are_learned_as_scikit_learn_s_test_demands():
    x = DIGITS.astype(np.float32)
    rbm = BernoulliRBM(64, learning_rate=0.1, batch_size=10, n_iter=7, random_state=9).fit(x)
    assert rbm.score_samples(x).mean() == pytest.approx(-21, abs=1.5)
    assert rbm.components_.dtype == np.float32


def test_precision_changes_no_draw():
    fits = [
        BernoulliRBM(16, batch_size=5, n_iter=5, random_state=42).fit(DIGITS[:100].astype(dtype))
        for dtype in (np.float32, np.float64)
    ]
    for name in FITTED:
        single, double = (getattr(fit, name) for fit in fits)
        assert (single.dtype, double.dtype) == (np.float32, np.float64)
        assert np.array_equal(single, double)


@pytest.mark.parametrize("form", [csr_array, csc_matrix, lil_matrix, coo_array])
def test_sparse_rows_are_the_same_rows(form):
    x = DIGITS[:53]
    rbm = BernoulliRBM(5, n_iter=2, random_state=0)
    dense, sparse = clone(rbm).fit(x), clone(rbm).fit(form(x))
    for name in FITTED:
        assert np.array_equal(getattr(dense, name), getattr(sparse, name))
    assert np.allclose(dense.score_samples(x), sparse.score_samples(form(x)))
    a, b = clone(rbm).partial_fit(x), clone(rbm).partial_fit(form(x))
    assert np.array_equal(a.components_, b.components_)


def test_what_verbose_prints(capsys):
    BernoulliRBM(4, n_iter=2, verbose=1, random_state=0).fit(DIGITS[:100])
    lines = capsys.readouterr().out.splitlines()
    number = r"-?\d+\.\d\d"
    for k, line in enumerate(lines, 1):
        form = rf"\[BernoulliRBM\] Iteration {k}, pseudo-likelihood = {number}, time = {number}s"
        assert re.fullmatch(form, line)
    assert len(lines) == 2


def numpy_state() -> bytes:
    """Where NumPy's global stream is."""
    return pickle.dumps(np.random.get_state())  # noqa: NPY002


def test_only_random_state_is_drawn_from():
    before = torch.get_rng_state(), numpy_state()
    make = BernoulliRBM(4, n_iter=1, random_state=0, sampler=Gibbs(1))
    first, second = clone(make).fit(DIGITS[:50]), clone(make).fit(DIGITS[:50])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert numpy_state() == before[1]
    assert np.array_equal(first.components_, second.components_)
    other = clone(make).set_params(random_state=1).fit(DIGITS[:50])
    assert not np.array_equal(first.components_, other.components_)


# ---- the pseudo-likelihood ----------------


def test_the_score_is_the_sum_of_the_conditionals():
    """Against the enumerated joint law."""
    rbm = BernoulliRBM(3, n_iter=0, random_state=0).fit(DIGITS[:, 20:24])
    parameters = some_parameters()
    for name, value in zip(FITTED[:3], parameters, strict=False):
        setattr(rbm, name, value)
    states = np.array(list(product([0.0, 1.0], repeat=4)))
    p = np.exp(-rbm._free_energy(states)).reshape((2,) * 4)
    expected = np.zeros(16)
    for i in range(4):
        expected += np.log(p / p.sum(axis=i, keepdims=True)).ravel()
    score = rbm.score_samples(states)
    assert np.allclose(score, expected, rtol=1e-12)
    judged = qs.pseudo_log_likelihood(rbm.to_model(), torch.tensor(states).float())
    assert judged == pytest.approx(score.mean(), rel=1e-5)


def test_the_score_is_what_scikit_learn_estimates():
    """The mean of its scores with one random bit per row, within its standard error."""
    ours = BernoulliRBM(8, n_iter=3, random_state=0).fit(DIGITS)
    theirs = theirs_of(ours).set_params(random_state=np.random.RandomState(1))
    rows = DIGITS[:20]
    scores = np.array([theirs.score_samples(rows).mean() for _ in range(400)])
    z = (scores.mean() - ours.score_samples(rows).mean()) / (scores.std(ddof=1) / 20)
    assert abs(z) < Z_MAX


def test_the_score_of_huge_numbers_is_finite():
    rbm = BernoulliRBM(5, n_iter=1, random_state=0).fit(DIGITS)
    with np.errstate(under="ignore"):
        assert np.isfinite(rbm.score_samples([np.arange(64) * 1e5])).all()


# ---- the step ----------------


class Reads:
    """Negatives that are given."""

    spins = None
    hidden = None

    def __init__(self, visible, weight):
        self.visible, self.weight = visible, weight

    def draw(self, machine):
        machine.reads[:] = self.visible - machine.mu
        machine.weigh_reads(self.weight)

    def follow(self, machine):
        pass


@pytest.mark.parametrize("rows", [6, 4])  # as many as there is room for, or a last batch
def test_a_step_is_the_centred_gradient(rows):
    rng = np.random.default_rng(1)
    now = some_parameters()
    data = rng.uniform(size=(rows, 4))  # grey levels
    reads = rng.integers(2, size=(5, 4)).astype(float)
    weight = rng.dirichlet(np.ones(5))
    machine = Machine(now, rows=6, chains=5)
    for _ in range(2):  # from stale buffers too
        machine = Machine(now, 6, 5) if rows == 6 else machine
        machine.step(np.zeros((6, 4)), Reads(reads, weight), 1e-12)
    machine.step(data, Reads(reads, weight), 0.3)
    after = machine.parameters

    model = Model(4, 3).double()
    for name, value in (("W", now.components.T), ("b", now.visible), ("c", now.hidden)):
        model.set_parameter(name, torch.tensor(value))
    offsets = torch.tensor(np.concatenate([now.mu, now.lam]))
    with model.acting(model.centred(model.weights(), offsets)):
        free = [model.free_energy(torch.tensor(x)) for x in (data, reads)]
        (free[0].mean() - torch.tensor(weight) @ free[1]).backward()
    for moved, was, parameter in (
        (after.components.T, now.components.T, model.W),
        (after.visible, now.visible, model.b),
        (after.hidden, now.hidden, model.c),
    ):
        assert parameter.grad is not None
        expected = was - 0.3 * parameter.grad.numpy()
        assert np.allclose(moved, expected, rtol=1e-4, atol=1e-5)


def test_moved_offsets_are_the_same_model():
    now = some_parameters()
    machine = Machine(now, 2, 5)
    reads = Reads(np.zeros((5, 4)), np.full(5, 0.2))
    machine.step(np.ones((2, 4)), reads, 1e-12, move=0.5)
    after = machine.parameters
    assert not np.allclose(after.lam, now.lam, atol=0.01)
    means = 1 / (1 + np.exp(-(now.components.sum(1) + now.hidden)))
    assert np.allclose(after.lam, (now.lam + means) / 2, atol=1e-6)
    for k in range(3):
        assert np.allclose(after[k], now[k], atol=1e-5)


def test_plain_coordinates_are_scikit_learn_s_gradient():
    """One `partial_fit` on as many rows as chains, on the chains that it drew."""
    x = DIGITS[:10]
    rbm = BernoulliRBM(6, learning_rate=0.2, random_state=0, centred=False, sampler=Gibbs(1))
    rbm.partial_fit(x)
    theirs: Any = Theirs(6, learning_rate=0.2)
    start = BernoulliRBM(6, n_iter=0, random_state=0).fit(x)
    for name in FITTED:
        setattr(theirs, name, getattr(start, name).copy())
    reads = (rbm.chains_[:, :64] + 1) / 2
    theirs._sample_visibles = lambda h, rng: reads
    theirs._fit(x, np.random.RandomState(0))
    for name in FITTED[:3]:
        assert np.allclose(getattr(rbm, name), getattr(theirs, name), atol=1e-6)


@pytest.mark.parametrize("kind", ["own", "sampler"])
def test_chains_come_to_the_law_of_the_model(kind):
    """Where nothing is learned: independent chains after 40 sweeps, counted."""
    parameters = some_parameters()
    machine = Machine(parameters, 1, 4000)
    negatives = (
        Chains(np.zeros((4000, 3)), machine, 7)
        if kind == "own"
        else Answers(Gibbs(sweeps=2), None, 7)
    )
    for _ in range(40 if kind == "own" else 20):
        machine.step(np.zeros((1, 4)), negatives, 1e-12)
    visible = np.rint(machine.reads + machine.mu)
    hidden = negatives.hidden
    assert hidden is not None
    spins = torch.tensor(2 * np.hstack([visible, hidden]) - 1).to(torch.int8)
    model = Model(4, 3)
    for name, value in (("W", 0), ("c", 1), ("b", 2)):
        model.set_parameter(name, torch.tensor(parameters[value].T))
    problem = model.ising().detach()
    ((p, _, _),) = g_test(problem, qs.Samples(spins, problem.energy(spins)))
    assert p > FALSE_ALARM / 100


SAMPLERS = [
    Gibbs(sweeps=2),
    Exact(),
    SimulatedAnnealing(sweeps=20, beta_range=(0.1, 1.0)),
    Corrected(SimulatedAnnealing(sweeps=20), Gibbs(2)),
    pytest.param(PopulationAnnealing(3, 10), marks=pytest.mark.long),  # weighted reads
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of reads this few
def test_any_sampler_trains(sampler):
    """On four pairs of equal bits: half of log 2 per bit is to be learned."""
    x = np.repeat(DIGITS[:300, [20, 21, 26, 34]] >= 0.5, 2, axis=1).astype(np.float32)
    make = BernoulliRBM(4, batch_size=20, learning_rate=1.0, n_iter=4, random_state=0)
    rbm = clone(make).set_params(sampler=sampler).fit(x)
    start = clone(make).set_params(n_iter=0).fit(x)
    assert rbm.score_samples(x).mean() > start.score_samples(x).mean() + 0.5
    assert rbm.chains_.shape == (20, 12) and set(np.unique(rbm.chains_)) == {-1, 1}
    assert np.array_equal(rbm.h_samples_, rbm.chains_[:, 8:] > 0)


def test_partial_fit_goes_on():
    rbm = BernoulliRBM(4, random_state=0)
    first = rbm.partial_fit(DIGITS[:20]).components_.copy()
    chains = rbm.h_samples_.copy()
    assert rbm.partial_fit(DIGITS[20:27]) is rbm
    assert not np.array_equal(rbm.components_, first)
    assert not np.array_equal(rbm.h_samples_, chains) and rbm.h_samples_.shape == (10, 4)
    mean = DIGITS[:20].mean(axis=0)
    moved = mean + 0.01 * (DIGITS[20:27].mean(axis=0) - mean)
    assert np.allclose(rbm.visible_mean_, moved, atol=1e-6)


@pytest.mark.long
def test_large_learning_rates_leave_features_where_the_gradient_is_centred():
    """At rate 1 scikit-learn's hidden units on digits are all constant, ours are not."""
    spread = {}
    for RBM in (BernoulliRBM, Theirs):
        rbm = RBM(100, learning_rate=1.0, random_state=0).fit(DIGITS)
        spread[RBM] = rbm.transform(DIGITS).std(axis=0).max()
    assert spread[BernoulliRBM] > 0.2 > 1e-3 > spread[Theirs]


def test_weights_that_were_set_by_hand():
    """As scikit-learn takes them: nothing of a fit is needed but what a method reads."""
    fitted = BernoulliRBM(4, n_iter=1, random_state=0).fit(DIGITS[:40])
    rbm = BernoulliRBM(4, random_state=0)
    for name in FITTED[:3]:
        setattr(rbm, name, getattr(fitted, name).copy())
    assert np.array_equal(rbm.transform(DIGITS), fitted.transform(DIGITS))
    assert np.array_equal(rbm.score_samples(DIGITS), fitted.score_samples(DIGITS))
    assert rbm.gibbs(DIGITS).shape == DIGITS.shape
    assert rbm.to_model().W.shape == (64, 4)
    rbm.partial_fit(DIGITS[:20])
    moved = np.abs(rbm.components_ - fitted.components_).max()
    assert 0 < moved < 0.2  # from there on


# ---- bad input ----------------


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"sampler": "gibbs"}, ValueError, "'sampler' parameter of BernoulliRBM must be"),
        ({"sampler": Gibbs}, TypeError, r"expected a sampler, such as Gibbs\(sweeps=100\)"),
        ({"learning_rate": 0}, ValueError, "'learning_rate' parameter"),
        ({"learning_rate": 1e300}, ValueError, r"learning_rate=1e\+300: take a smaller one"),
        ({"batch_size": 0}, ValueError, "'batch_size' parameter"),
        ({"centred": "yes"}, ValueError, "'centred' parameter"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_bad_setting_is_named(settings, error, said):
    with pytest.raises(error, match=said):
        BernoulliRBM(4, random_state=0, **settings).fit(DIGITS[:40])


def test_rows_of_another_width_are_refused():
    rbm = BernoulliRBM(4, n_iter=1).fit(DIGITS[:40])
    for call in (rbm.transform, rbm.gibbs, rbm.score_samples, rbm.partial_fit):
        with pytest.raises(ValueError, match="X has 63 features, but BernoulliRBM is expecting 64"):
            call(DIGITS[:3, 1:])
