"""Short runs of `fit`, samplers that stop them, and the comparison of two runs bit for bit."""

import pytest
import torch

from qsample import Graph, Settings, fit
from qsample.annealers import Corrected, Exact, Gibbs, SimulatedAnnealing
from qsample.data import bars_and_stripes
from qsample.models import BernoulliRBM, BoltzmannMachine
from tests.support.seeds import generator

SHORT = Settings(
    updates=20, batch=13, lr=0.05, chains=24, seed=5, evaluate_every=4, checkpoint_every=5
)
ANNEAL = SimulatedAnnealing(8, beta_range=(0.0, 1.0), schedule="linear")


class Stop(BaseException):
    """As good as a kill: no handler of ours catches it."""


class Dies:
    """A sampler that raises `error` in its `call`-th call, and draws as `sampler` does before."""

    reversible = False

    def __init__(self, sampler, call, error=Stop):
        self.sampler = sampler
        self.left = call
        self.error = error
        self.warm_start = sampler.warm_start

    def __repr__(self):
        return repr(self.sampler)  # to a checkpoint, it is the sampler it wraps

    def __getattr__(self, name):
        return getattr(self.sampler, name)

    def sample(self, problem, num, *, initial=None, generator=None):
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.sampler.sample(problem, num, initial=initial, generator=generator)


class Counts:
    """A sampler whose draws depend on a state of its own: the number of calls."""

    reversible = False
    warm_start = True

    def __init__(self):
        self.calls = 0

    def sample(self, problem, num, *, initial=None, generator=None):
        self.calls += 1
        return Gibbs(1 + self.calls % 3).sample(problem, num, initial=initial, generator=generator)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


def rbm():
    """A small machine for images of 3 x 3 pixels, always with the same weights."""
    return BernoulliRBM(9, 4, generator=generator(1))


def coupled():
    """The same with couplings inside a layer: its hidden units have no closed conditional."""
    return BoltzmannMachine(Graph.complete(12), range(9, 12), generator=generator(1))


def rows(model):
    """30 images in the model's coding: some twice, some of noise."""
    images = bars_and_stripes(3, 3).float()
    noise = (torch.rand(9, 9, generator=generator(2)) < 0.5).float()
    x = torch.cat([images, images[:7], noise])
    return x if model.coding == "bits" else 2 * x - 1


def run(model, sampler, settings: Settings | None = SHORT, **options):
    """A training run of a few updates, without a bar; its history."""
    return fit(model, rows(model), sampler, settings, progress=False, **options)


def assert_same(ours, theirs):
    """Bit for bit, whatever is nested in it; clocks apart."""
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        # nan equals nan here
        assert bytes(ours.contiguous().numpy()) == bytes(theirs.contiguous().numpy())
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"seconds"}:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    else:
        assert repr(ours) == repr(theirs)


# Name of a run -> (model, sampler, settings that differ from SHORT).
RUNS = {
    "persistent gibbs": (rbm, lambda: Gibbs(2), {}),
    "persistent gibbs, centred, sgd": (
        rbm,
        lambda: Gibbs(2),
        {"centred": True, "optimizer": "sgd"},
    ),
    "persistent corrected": (rbm, lambda: Corrected(ANNEAL, Gibbs(2)), {"centred": True}),
    "persistent, a sampler with state": (rbm, Counts, {}),
    "persistent, coupled hidden units": (coupled, lambda: Gibbs(2), {"centred": True}),
    "data gibbs, centred": (rbm, lambda: Gibbs(2), {"start": "data", "centred": True}),
    "data gibbs, sgd": (
        rbm,
        lambda: Gibbs(2),
        {"start": "data", "optimizer": "sgd", "weight_decay": 0.01},
    ),
    "data gibbs, coupled hidden units": (coupled, lambda: Gibbs(2), {"start": "data"}),
    "data corrected": (rbm, lambda: Corrected(ANNEAL, Gibbs(2)), {"start": "data"}),
    "fresh exact": (rbm, Exact, {"start": "fresh", "decay": "none"}),
    "fresh exact, coupled hidden units": (coupled, Exact, {"start": "fresh", "centred": True}),
    "fresh annealing, centred, sgd": (
        rbm,
        lambda: ANNEAL,
        {"start": "fresh", "centred": True, "optimizer": "sgd"},
    ),
    "fresh gibbs": (rbm, lambda: Gibbs(3), {"start": "fresh"}),
    "fresh corrected": (rbm, lambda: Corrected(ANNEAL, Gibbs(2)), {"start": "fresh"}),
}


def weights(model):
    """A copy of all parameters and buffers."""
    return {name: t.clone() for name, t in model.state_dict().items()}


def assert_refused(
    match, model, sampler, settings=SHORT, error: type[Exception] = ValueError, **options
):
    """A run is refused in one line that matches, and the model stays as it was."""
    before = weights(model)
    with pytest.raises(error, match=match) as caught:
        run(model, sampler, settings, **options)
    assert "\n" not in str(caught.value)
    assert_same(weights(model), before)
