"""RBMs of other packages, taken over from their arrays: the same law, whatever way they lie."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import qsample as qs
from qsample.models import BernoulliRBM
from tests.support.exact import untyped

N = 4
M = 3


def arrays(dtype: Any = np.float64, n: int = N, m: int = M):
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=shape).astype(dtype) for shape in ((n, m), n, m))


def direct(W, b, c, mu: Any = 0.0, lam: Any = 0.0) -> np.ndarray:
    """-(v - mu) W (h - lam) - b (v - mu) - c (h - lam) of every state, in pure NumPy."""
    energies = []
    for v in itertools.product((0, 1), repeat=len(b)):
        for h in itertools.product((0, 1), repeat=len(c)):
            x = np.array(v) - mu
            y = np.array(h) - lam
            energies.append(-x @ W @ y - b @ x - c @ y)
    return np.array(energies)


def energies(model) -> np.ndarray:
    v = torch.tensor(list(itertools.product((0, 1), repeat=model.num_visible)))
    h = torch.tensor(list(itertools.product((0, 1), repeat=model.num_hidden)))
    return model.energy(v[:, None].double(), h.double()).detach().flatten().numpy()


@pytest.mark.parametrize("orientation", [None, "visible-hidden", "pydeep", "rbms"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_energy_is_the_formula(orientation, kind):
    W, b, c = arrays()
    model = BernoulliRBM.from_arrays(kind(W), kind(b), kind(c), orientation=orientation)
    assert model.W.dtype == torch.float64
    np.testing.assert_allclose(energies(model), direct(W, b, c), atol=1e-12)


@pytest.mark.parametrize("orientation", [None, "hidden-visible", "scikit-learn"])
def test_a_matrix_that_lies_the_other_way(orientation):
    W, b, c = arrays(np.float32)
    model = BernoulliRBM.from_arrays(W.T, b, c, orientation=orientation)
    assert model.W.dtype == torch.float32
    np.testing.assert_array_equal(model.W.detach(), W)


def test_pydeep_with_its_offsets():
    """Its biases are rows [1, n]; the constant between the energies is the documented one."""
    W, b, c = arrays()
    rng = np.random.default_rng(1)
    mu = rng.random(N)
    lam = rng.random(M)
    model = BernoulliRBM.from_arrays(
        W, b[None], c[None], orientation="pydeep", visible_offset=mu[None], hidden_offset=lam[None]
    )
    theirs = direct(W, b, c, mu, lam)
    constant = b @ mu + c @ lam - mu @ W @ lam
    np.testing.assert_allclose(theirs - energies(model), constant, atol=1e-12)
    log_z = np.logaddexp.reduce(-theirs)
    assert qs.log_partition(model.ising(), "exact").value == pytest.approx(log_z + constant)
    half = BernoulliRBM.from_arrays(W, b, c, visible_offset=0.5, hidden_offset=0.5)
    np.testing.assert_allclose(np.ptp(direct(W, b, c, 0.5, 0.5) - energies(half)), 0, atol=1e-12)


def test_scikit_learn_itself():
    network = pytest.importorskip("sklearn.neural_network")
    x = np.random.default_rng(0).integers(0, 2, (40, 5)).astype(float)
    theirs = network.BernoulliRBM(n_components=3, n_iter=2, random_state=0).fit(x)
    ours = BernoulliRBM.from_arrays(
        theirs.components_,
        theirs.intercept_visible_,
        theirs.intercept_hidden_,
        orientation="scikit-learn",
    )
    free = ours.free_energy(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(free, theirs._free_energy(x), atol=1e-12)


def test_weights_are_copies_and_leave_the_default_generator_alone():
    W, b, c = arrays()
    before = torch.get_rng_state()
    model = BernoulliRBM.from_arrays(W, b, c)
    W[:] = 0
    assert float(model.W.detach().abs().min()) > 0
    assert torch.equal(torch.get_rng_state(), before)
    assert model.W.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"orientation": "scikit-learn"},
            r"W \[4, 3\], b \[4\] of visible and c \[3\] of hidden units do not fit "
            "orientation='scikit-learn': they fit 'visible-hidden'",
        ),
        ({"b": np.zeros(5)}, r"b \[5\] .* fit no orientation: expected W \[visible, hidden\]"),
        ({"W": np.zeros(4)}, r"expected a matrix W \[visible, hidden\]; got shape \[4\]"),
        ({"b": np.zeros((2, 4))}, r"expected b as a vector of biases; got shape \[2, 4\]"),
        ({"c": np.array([0, np.nan, 0])}, "expected c of finite numbers; got nan or inf"),
        ({"orientation": "up"}, "unknown orientation 'up'; expected one of visible-hidden, "),
        ({"visible_offset": np.zeros(3)}, "expected visible_offset of 4 units; got 3"),
    ],
)
def test_misfits(change, message):
    W, b, c = arrays()
    arguments = {"W": W, "b": b, "c": c} | change
    with untyped(), pytest.raises(ValueError, match=message):
        BernoulliRBM.from_arrays(**arguments)


def test_a_square_matrix_must_say_how_it_lies():
    W, b, c = arrays(n=3, m=3)
    with pytest.raises(ValueError, match=r"a square W may lie either way .*'hidden-visible'"):
        BernoulliRBM.from_arrays(W, b, c)
    model = BernoulliRBM.from_arrays(W, b, c, orientation="hidden-visible")
    np.testing.assert_array_equal(model.W.detach(), W.T)


def test_what_holds_no_numbers():
    with pytest.raises(TypeError, match="expected b as a tensor or a list of numbers; got str"):
        BernoulliRBM.from_arrays(np.zeros((4, 3)), "biases", np.zeros(3))
