"""The settings of `DWave`: each is explained where it is defined, and shown by `help(DWave)`."""

import copy
import dataclasses
import inspect
import pickle

from qsample.annealers import DWave, Gibbs


def test_help_explains_every_setting():
    shown = inspect.getdoc(DWave)
    assert shown is not None
    lines = [line.strip() for line in shown.splitlines()]
    for setting in dataclasses.fields(DWave):
        (explained,) = [line for line in lines if line.startswith(f"{setting.name}: ")]
        assert explained[len(setting.name) + 2].islower()  # a noun phrase
    assert max(map(len, shown.splitlines())) <= 100


def test_a_dwave_is_a_frozen_dataclass_of_its_settings():
    sampler = DWave(num_reads=7, fallback=Gibbs(2), token="secret-token-of-mine")
    changed = dataclasses.replace(sampler, gauges=3)
    assert (changed.num_reads, changed.gauges) == (7, 3)
    assert changed.token is sampler.token
    assert changed.state is not sampler.state
    assert repr(changed).startswith("DWave(solver=None, num_reads=7, ")
    assert "gauges=3" in repr(changed) and "secret" not in repr(changed)
    assert "state" not in {setting.name for setting in dataclasses.fields(DWave)}
    assert copy.copy(sampler) == sampler == copy.deepcopy(sampler)
    assert pickle.loads(pickle.dumps(sampler)).num_reads == 7
    assert DWave.__module__ == "qsample.annealers"
