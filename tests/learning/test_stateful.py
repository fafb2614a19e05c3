"""Samplers with a state: it is saved, what they spent is in the metrics, and charges stay."""

from dataclasses import replace

import pytest
import torch

from qsample import Settings, fit
from qsample.annealers import Corrected, Gibbs
from qsample.learning import checkpoint
from qsample.learning.checkpoint import CheckpointError
from qsample.learning.run import Run
from qsample.learning.state import state_of
from qsample.models import BernoulliRBM

SETTINGS = Settings(updates=8, batch=5, chains=6, seed=5, evaluate_every=4, checkpoint_every=4)


class Meter:
    """Charges half a second per call, and says so; may stop the process, as it were, in a call."""

    reversible = False
    warm_start = True
    irrevocable = True

    def __init__(self, stop=None):
        self.calls = 0
        self.stop = stop

    def __repr__(self):
        return "Meter()"

    def sample(self, problem, num, *, initial=None, generator=None):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        samples = Gibbs(1).sample(problem, num, initial=initial, generator=generator)
        return replace(samples, info={"spent": {"qpu_seconds": self.calls / 2}})

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]


class Revocable(Meter):
    """One whose state is that of its draws alone."""

    irrevocable = False


def rbm():
    return BernoulliRBM(4, 3, generator=torch.Generator().manual_seed(1))


def rows():
    return (torch.rand(11, 4, generator=torch.Generator().manual_seed(2)) < 0.5).float()


def train(sampler, settings=SETTINGS, **options):
    return fit(rbm(), rows(), sampler, settings, progress=False, **options)


def test_metrics_hold_what_the_sampler_has_spent(tmp_path):
    history = train(Meter(), out=tmp_path)
    assert [metrics["qpu_seconds"] for metrics in history] == [2.0, 4.0]
    assert list(history[0])[-2:] == ["seconds", "qpu_seconds"]
    state = checkpoint.load(tmp_path)
    assert state["sampler"] == {"calls": 8} and state["spent"] == {"qpu_seconds": 4.0}


def test_a_resumed_run_goes_on_counting(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Meter(stop=7), out=tmp_path)
    history = train(Meter(), out=tmp_path, resume=True)
    assert [metrics["qpu_seconds"] for metrics in history] == [2.0, 4.0]


def test_chains_that_a_kernel_continues_remember_what_their_start_cost(tmp_path):
    sampler = Corrected(Meter(), Gibbs(1))
    assert sampler.irrevocable and not Corrected(Gibbs(1), Gibbs(1)).irrevocable
    history = train(sampler, out=tmp_path)  # persistent: the meter is called once
    assert [metrics["qpu_seconds"] for metrics in history] == [0.5, 0.5]
    longer = replace(SETTINGS, updates=9, decay_from=8)
    history = train(Corrected(Meter(), Gibbs(1)), longer, out=tmp_path, resume=True)
    assert [metrics["qpu_seconds"] for metrics in history] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(("sampler", "calls"), [(Meter, 3), (Revocable, 2)])
def test_an_update_given_up_takes_back_a_state_but_no_charge(sampler, calls):
    run = Run(rbm(), rows(), sampler(stop=3), SETTINGS)
    run.step()
    run.step()
    with pytest.raises(KeyboardInterrupt):
        run.step()
    assert state_of(run)["update"] == 2 and state_of(run)["sampler"] == {"calls": calls}


@pytest.mark.parametrize("spent", [{"qpu_seconds": "much"}, {"qpu_seconds": float("nan")}, 3])
def test_damaged_costs_are_refused(tmp_path, spent):
    train(Meter(), out=tmp_path)
    state = checkpoint.load(tmp_path)
    checkpoint.save(tmp_path, state | {"spent": spent}, step=8)
    with pytest.raises(CheckpointError, match="holds no state of this run"):
        train(Meter(), out=tmp_path, resume=True)


def test_a_state_needs_a_sampler_that_has_one(tmp_path):
    train(Meter(), out=tmp_path)

    class Stateless:
        reversible = False
        warm_start = True
        sample = Meter.sample

        def __repr__(self):
            return "Meter()"

    with pytest.raises(CheckpointError, match="a sampler's state, for a sampler that has none"):
        train(Stateless(), out=tmp_path, resume=True)
