"""scikit-learn's `BernoulliRBM`, trained by any sampler."""

from __future__ import annotations

import time
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import expit

from qsample.integrations.sklearn.machine import SINGLE, Array, Machine, Negatives, Parameters
from qsample.integrations.sklearn.negatives import Answers, Chains
from qsample.integrations.sklearn.rows import pieces, visible_mean
from qsample.integrations.sklearn.score import pseudo_log_likelihood
from qsample.models.rbm.bernoulli import BernoulliRBM as Model
from qsample.sampling.sampler import Sampler, check_is_sampler
from qsample.support.faces import public
from qsample.support.optional import needs

with needs("sklearn", "qsample.sklearn"):
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        TransformerMixin,
        _fit_context,
    )
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils._param_validation import HasMethods, Interval
    from sklearn.utils.extmath import safe_sparse_dot
    from sklearn.utils.validation import check_is_fitted, validate_data

_checked: Any = check_array  # its annotations are of its defaults
FLOATS = (np.float64, np.float32)
EVERY = 20
"""steps between moves of the hidden offsets in `fit`"""
RATE = 0.01
"""weight of a batch in the moving averages that the offsets are"""
STATE = (
    "components_",
    "intercept_hidden_",
    "intercept_visible_",
    "h_samples_",
    "visible_mean_",
    "hidden_mean_",
    "chains_",
)
"""attributes that `fit` begins anew"""


@public("qsample.sklearn")
class BernoulliRBM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""A drop-in for `sklearn.neural_network.BernoulliRBM`, trained by any sampler.

    $P(v, h) \propto \exp(h \cdot W v + b \cdot v + c \cdot h)$ on {0,1} with W `components_`, b
    `intercept_visible_` and c `intercept_hidden_`. Parameters, attributes and methods are those of
    scikit-learn, and so is the algorithm: gradient ascent along minibatches in the order of the
    rows, with one persistent chain per row of a batch (Tieleman 2008). Five things differ.

    - `sampler=` draws the negative phase.
    - `intercept_visible_` starts at the data's logits, and the gradient is centred (Melchior,
      Fischer and Wiskott, JMLR 17(99), 2016), at the same `learning_rate`.
    - A last batch of fewer rows is a mean over its rows; scikit-learn weighs the chains by
      `batch_size` over its rows there.
    - Training is in single precision; attributes have the precision of the data.
    - `score_samples` takes all bits, and draws nothing.

    Args:
        n_components: number of hidden units.
        learning_rate: length of a step.
        batch_size: rows of a minibatch, and number of chains.
        n_iter: number of passes over the data.
        verbose: whether to print the pseudo-likelihood after each pass: scikit-learn's estimate
            from one random bit per row.
        random_state: source of the initial weights and of all seeds, as in scikit-learn.
        sampler: draws `batch_size` reads of the model per step; chains go on in a sampler that can
            continue them (`Gibbs(sweeps=10)` is PCD-10), and begin anew in others. None is one
            Gibbs sweep of persistent chains, computed with the products of the step itself.
        centred: whether the gradient is centred; else it is scikit-learn's.

    Attributes: `components_` [n_components, n_features], `intercept_hidden_` [n_components],
    `intercept_visible_` [n_features], `h_samples_` [batch_size, n_components] (hidden units of the
    chains), `random_state_`, `n_features_in_`, `feature_names_in_`, `visible_mean_` and
    `hidden_mean_` (the offsets of the centred gradient; zeros where it is not), and with a sampler
    `chains_` [batch_size, n_features + n_components], its last reads, spins -1 and +1.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "n_iter": [Interval(Integral, 0, None, closed="left")],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "sampler": [None, HasMethods("sample")],
        "centred": ["boolean"],
    }
    components_: Array
    intercept_hidden_: Array
    intercept_visible_: Array
    h_samples_: Array
    visible_mean_: Array
    hidden_mean_: Array
    chains_: Array
    random_state_: Any

    def __init__(
        self,
        n_components: int = 256,
        *,
        learning_rate: float = 0.1,
        batch_size: int = 10,
        n_iter: int = 10,
        verbose: int = 0,
        random_state: Any = None,
        sampler: Sampler | None = None,
        centred: bool = True,
    ) -> None:
        self.n_components = n_components
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.verbose = verbose
        self.random_state = random_state
        self.sampler = sampler
        self.centred = centred

    # ---- training ----------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> BernoulliRBM:
        """Fit the model to the data, from new weights.

        Args:
            X: rows `[N, n_features]`, an array or a sparse matrix: bits, or grey levels, which
                stand for the probability of a bit; values outside [0, 1] are taken as they are.
            y: not used.

        Raises:
            ValueError: rows that are no finite numbers, or a `learning_rate` so large that the
                weights are not finite either.
            TypeError: a sampler that is none.
        """
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS)
        self.random_state_ = check_random_state(self.random_state)
        for name in STATE:
            vars(self).pop(name, None)
        self._begin(X)
        batch = int(self.batch_size)
        machine = Machine(self._parameters(), min(batch, X.shape[0]), batch)
        negatives = self._negatives(machine)
        rate = float(self.learning_rate)
        begin = time.time()
        for iteration in range(1, self.n_iter + 1):
            step = 0
            for rows in pieces(X, batch, SINGLE):
                for first in range(0, len(rows), batch):
                    move = EVERY * RATE if self.centred and step % EVERY == 0 else 0.0
                    machine.step(rows[first : first + batch], negatives, rate, move)
                    step += 1
            if self.verbose:
                self._take(machine, negatives, X.dtype)
                self._say(iteration, X, begin)
                begin = time.time()
        self._take(machine, negatives, X.dtype)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> BernoulliRBM:
        """Take one step on the rows, which are one minibatch; weights and chains go on.

        Args:
            X: rows `[N, n_features]`, as in `fit`.
            y: not used.

        Raises:
            ValueError: as in `fit`, and rows of another width than those before.
            TypeError: a sampler that is none.
        """
        first = not hasattr(self, "components_")
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=first)
        self._begin(X)
        if self.centred:
            old = self.visible_mean_
            self.visible_mean_ = (old + RATE * (visible_mean(X) - old)).astype(old.dtype)
        machine = Machine(self._parameters(), X.shape[0], len(self.h_samples_))
        negatives = self._negatives(machine)
        (rows,) = pieces(X, X.shape[0], SINGLE)
        move = RATE if self.centred else 0.0
        machine.step(rows, negatives, float(self.learning_rate), move)
        self._take(machine, negatives, self.components_.dtype)
        return self

    def _begin(self, X: Any) -> None:
        """What is not there yet: weights N(0, 0.01^2), visible biases of X, chains of zeros."""
        if not hasattr(self, "random_state_"):
            self.random_state_ = check_random_state(self.random_state)
        if not hasattr(self, "components_"):
            shape = (int(self.n_components), X.shape[1])
            weights = self.random_state_.normal(0, 0.01, shape)
            self.components_ = np.asarray(weights, order="F", dtype=X.dtype)
        units = self._n_features_out = len(self.components_)
        mean = visible_mean(X)
        # one count of each value more, so that no bias is infinite
        count = X.shape[0]
        smooth = (mean * count + 1) / (count + 2)
        centred = float(self.centred)
        starts = {
            "intercept_hidden_": np.zeros(units),
            "intercept_visible_": np.log(smooth / (1 - smooth)),
            "h_samples_": np.zeros((int(self.batch_size), units)),
            "visible_mean_": centred * mean,
            "hidden_mean_": np.full(units, 0.5 * centred),
        }
        for name, value in starts.items():
            if not hasattr(self, name):
                setattr(self, name, value.astype(self.components_.dtype))

    def _parameters(self) -> Parameters:
        return Parameters(
            self.components_,
            self.intercept_hidden_,
            self.intercept_visible_,
            self.visible_mean_,
            self.hidden_mean_,
        )

    def _negatives(self, machine: Machine) -> Negatives:
        """The chains, or the sampler, on a seed of its own."""
        seed = int(self.random_state_.randint(0, 2**63 - 1, dtype=np.int64))
        if self.sampler is None:
            return Chains(self.h_samples_, machine, seed)
        check_is_sampler(self.sampler)
        return Answers(self.sampler, getattr(self, "chains_", None), seed)

    def _take(self, machine: Machine, negatives: Negatives, dtype: np.dtype) -> None:
        """The machine's state as attributes."""
        now = machine.parameters
        finite = all(np.isfinite(values).all() for values in now)
        if not finite:
            raise ValueError(
                f"the weights are not finite with learning_rate={self.learning_rate!r}: take a "
                "smaller one, or scale the data to [0, 1]"
            )
        self.components_ = now.components.astype(dtype, copy=False)
        self.intercept_hidden_ = now.hidden.astype(dtype, copy=False)
        self.intercept_visible_ = now.visible.astype(dtype, copy=False)
        self.visible_mean_ = now.mu.astype(dtype, copy=False)
        self.hidden_mean_ = now.lam.astype(dtype, copy=False)
        if negatives.hidden is not None:
            self.h_samples_ = negatives.hidden.astype(dtype)
        if negatives.spins is not None:
            self.chains_ = negatives.spins

    def _say(self, iteration: int, X: Any, begin: float) -> None:
        """A pass in scikit-learn's words: one random bit per row of at most 1,000 rows."""
        seconds = time.time() - begin
        rows = next(pieces(X[:1000], 1000, np.float64))
        bits = np.random.default_rng(iteration).integers(rows.shape[1], size=len(rows))
        flipped = rows.copy()
        places = (np.arange(len(rows)), bits)
        flipped[places] = 1 - flipped[places]
        change = self._free_energy(rows) - self._free_energy(flipped)
        score = -rows.shape[1] * np.logaddexp(0, change).mean()
        name = type(self).__name__
        print(
            f"[{name}] Iteration {iteration}, pseudo-likelihood = {score:.2f}, "
            f"time = {seconds:.2f}s"
        )

    # ---- use ----------------

    def transform(self, X: Any) -> Array:
        """Means of the hidden units, P(h = 1 | v), `[N, n_components]` in the precision of X.

        Args:
            X: rows `[N, n_features]`, an array or a sparse matrix.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False, dtype=FLOATS)
        return self._mean_hiddens(X)

    def gibbs(self, v: Any) -> Array:
        """One Gibbs step: hidden units given the rows, then visible ones, bool `[N, n_features]`.

        Args:
            v: rows `[N, n_features]`. Draws are those of `random_state_`, which goes on.
        """
        check_is_fitted(self)
        v = _checked(v, accept_sparse="csr", dtype=FLOATS)
        features = self.components_.shape[1]
        if v.shape[1] != features:
            raise ValueError(
                f"X has {v.shape[1]} features, but {type(self).__name__} is expecting "
                f"{features} features as input"
            )
        if not hasattr(self, "random_state_"):
            self.random_state_ = check_random_state(self.random_state)
        rng = self.random_state_
        return self._sample_visibles(self._sample_hiddens(v, rng), rng)

    def score_samples(self, X: Any) -> Array:
        r"""The pseudo-log-likelihood of each row, `[N]` (Besag 1975).

        $$\sum_i \log P(v_i \mid v_{\setminus i})
          = -\sum_i \log\bigl(1 + e^{F(v) - F(v^{(i)})}\bigr)$$

        with F the free energy and $v^{(i)}$ the row whose unit i became $1 - v_i$: the mean of what
        scikit-learn estimates from one random unit, times `n_features`. It costs as much as
        `n_features` transforms.

        Args:
            X: rows `[N, n_features]`, an array or a sparse matrix.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False, dtype=FLOATS)
        weights = self.components_, self.intercept_hidden_, self.intercept_visible_
        return pseudo_log_likelihood(*weights, X)

    def to_model(self) -> Model:
        """The torch model of these weights: `qsample.log_likelihood` judges it."""
        check_is_fitted(self)
        hidden, visible = self.components_.shape
        model = Model(visible, hidden, generator=torch.Generator())
        parts = {
            "W": self.components_.T,
            "b": self.intercept_visible_,
            "c": self.intercept_hidden_,
        }
        for name, value in parts.items():
            model.set_parameter(name, torch.from_numpy(np.ascontiguousarray(value)))
        return model

    # ---- scikit-learn's inner names ----------------

    def _mean_hiddens(self, v: Any) -> Array:
        """P(h = 1 | v)."""
        p = safe_sparse_dot(v, self.components_.T)
        p += self.intercept_hidden_
        return expit(p, out=p)

    def _sample_hiddens(self, v: Any, rng: Any) -> Array:
        """Hidden units given the rows."""
        p = self._mean_hiddens(v)
        return rng.uniform(size=p.shape) < p

    def _sample_visibles(self, h: Array, rng: Any) -> Array:
        """Visible units given the hidden ones."""
        p = np.dot(h, self.components_)
        p += self.intercept_visible_
        expit(p, out=p)
        return rng.uniform(size=p.shape) < p

    def _free_energy(self, v: Any) -> Array:
        """F(v) = -b.v - sum_j log(1 + exp(c_j + (W v)_j))."""
        latent = safe_sparse_dot(v, self.components_.T) + self.intercept_hidden_
        return -safe_sparse_dot(v, self.intercept_visible_) - np.logaddexp(0, latent).sum(axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
