"""On every sampler and of every model, a run that dies and resumes ends as an unharmed one."""

from dataclasses import replace

import pytest

from qsample import fit
from qsample.annealers import Gibbs
from tests.support.models import MODELS, some_data
from tests.support.samplers import LOCAL
from tests.support.thinning import thinned
from tests.support.training import SHORT, Dies, Stop, assert_same, rbm, run

# Of so few reads, some have few effective runs.
pytestmark = pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")

SETTINGS = replace(SHORT, updates=5, evaluate_every=2, checkpoint_every=2)


@pytest.mark.parametrize(
    "name", thinned([name for name, row in LOCAL.items() if "bipartite" in row.kinds], 4)
)
def test_a_run_on_every_sampler_resumes_bit_for_bit(tmp_path, name):
    sampler = LOCAL[name].quick
    settings = replace(SETTINGS, start="persistent" if sampler.warm_start else "fresh")
    whole, model = rbm(), rbm()
    expected = run(whole, sampler, settings)
    with pytest.raises(Stop):
        run(rbm(), Dies(sampler, 4), settings, out=tmp_path)
    assert_same(run(model, sampler, settings, out=tmp_path, resume=True), expected)
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))


@pytest.mark.parametrize("name", MODELS)
def test_a_run_of_every_model_resumes_bit_for_bit(tmp_path, name):
    whole, model = MODELS[name](), MODELS[name]()
    data = some_data(whole, rows=30)

    def train(model, sampler, **options):
        return fit(model, data, sampler, SETTINGS, progress=False, **options)

    expected = train(whole, Gibbs(2))
    with pytest.raises(Stop):
        train(MODELS[name](), Dies(Gibbs(2), 4), out=tmp_path)
    assert_same(train(model, Gibbs(2), out=tmp_path, resume=True), expected)
    assert_same(dict(model.state_dict()), dict(whole.state_dict()))
