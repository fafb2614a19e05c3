"""Samplers by name: a name that is none, settings as a command line spells them, new samplers."""

import re
from dataclasses import dataclass

import pytest

from qsample import Exactness
from qsample.annealers import (
    QAOA,
    Corrected,
    Gibbs,
    Neal,
    ParallelTempering,
    QuantumProposal,
    TemperedGibbs,
)
from qsample.annealers.registry import (
    CATALOGUE,
    CONFIGURABLE,
    CorrectedEntry,
    Entry,
    adjusted,
    configured,
    described,
    named,
    nearest,
    tunable,
)
from qsample.cli import main
from tests.support.exact import untyped


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("pt", "parallel-tempering"),
        ("PT", "parallel-tempering"),
        ("sa", "simulated-annealing"),
        ("pa", "population-annealing"),
        ("tg", "tempered-gibbs"),
        ("ais", "annealed-importance"),
        ("qpu", "dwave"),
        ("qp", "quantum-proposal"),
        ("QeMCMC", "quantum-proposal"),
        ("d-wave", "dwave"),
        ("gibs", "gibbs"),
        ("tempering", "parallel-tempering"),
        ("annealing", "simulated-annealing"),
        ("simulated_annealing", "simulated-annealing"),
        ("Parallel Tempering", "parallel-tempering"),
    ],
)
def test_the_name_that_was_meant_comes_first_among_at_most_three(asked, meant):
    assert nearest(asked)[0] == meant and len(nearest(asked)) <= 3
    with pytest.raises(ValueError, match=rf"unknown sampler {asked!r}; did you mean {meant}"):
        named(asked)


@pytest.mark.parametrize("asked", ["zebra", "", "mcmc"])
def test_a_name_like_none_of_them_gets_no_guess(asked):
    assert nearest(asked) == []
    with pytest.raises(
        ValueError, match=r"expected a name of the list \(qsample samplers lists all\)"
    ):
        named(asked)


def test_settings_as_text():
    sampler = adjusted(
        named("parallel-tempering"), {"betas": "[0.0, 0.5, 1.0]", "rule": "metropolis"}
    )
    assert sampler == ParallelTempering(sweeps=12, betas=(0.0, 0.5, 1.0), rule="metropolis")
    pair = adjusted(
        named("corrected-annealing"), {"kernel.sweeps": "20", "sampler.time_limit": "null"}
    )
    assert pair.kernel == Gibbs(20)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gibbs", {"betaz": "1"}, "'betaz' is no setting of Gibbs; expected sweeps, scan"),
        ("exact", {"sweeps": "1"}, "'sweeps' is no setting of Exact; it takes none"),
        ("gibbs", {"sweeps": "ten"}, "sweeps=ten: expected sweeps >= 1; got 'ten'"),
        ("gibbs", {"sweeps": "0"}, "sweeps=0: expected sweeps >= 1; got 0"),
        (
            "corrected-neal",
            {"kernel": "3"},
            "kernel=3: kernel is a sampler of its own, as in kernel.sweeps=20",
        ),
        ("corrected-neal", {"kernel.x": "3"}, "'x' is no setting of Gibbs"),
        ("gibbs", {"sweeps.x": "3"}, "sweeps.x=3"),
    ],
)
def test_wrong_settings_repeat_themselves(name, settings, message):
    with untyped(), pytest.raises(ValueError, match=re.escape(message)):
        adjusted(named(name), settings)


def test_no_secret_can_be_set_or_listed():
    device = CATALOGUE["dwave"].make(1)
    assert "token" not in tunable(device)
    with pytest.raises(ValueError, match="'token' is no setting of DWave"):
        adjusted(device, {"token": "x"})


# ---- what classes say of themselves ----------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_an_entry_is_what_its_class_says(name):
    entry = CATALOGUE[name]
    assert isinstance(entry.make(3), entry.sampler_class)
    assert isinstance(entry.exactness, Exactness)
    assert entry.about and len(entry.about) <= 80
    if not isinstance(entry, CorrectedEntry):
        assert entry.sampler_class.name == name


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    monkeypatch.setattr(Neal, "needs", "not_there.at_all")
    assert not CATALOGUE["neal"].installed and not CATALOGUE["corrected-neal"].installed
    main(["samplers"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("needs not_there.at_all   " in line for line in lines) == 2
    assert len({line.index(CATALOGUE[line.split()[0]].about) for line in lines}) == 1


def test_a_budget_of_sweeps_is_shared():
    assert named("gibbs", 100) == Gibbs(100)
    assert named("parallel-tempering", 100) == ParallelTempering(sweeps=12, betas=8)
    assert named("parallel-tempering", 1) == ParallelTempering(sweeps=1, betas=8)
    assert named("tempered-gibbs", 100) == TemperedGibbs(betas=8, rounds=3)
    assert named("quantum-proposal", 5) == QuantumProposal(5) and named("qaoa", 5) == QAOA()
    assert named("corrected-qaoa", 5) == Corrected(QAOA(), Gibbs(5))
    assert named("corrected-neal", 5) == Corrected(named("neal", 5), Gibbs(5))
    with pytest.raises(ValueError, match="expected sweeps >= 1; got 0"):
        named("parallel-tempering", 0)


def test_a_new_sampler_is_a_class_and_one_line(monkeypatch):
    import qsample.annealers

    @dataclass(frozen=True)
    class Slow(Gibbs):
        name = "slow"
        about = "a sampler of this test"
        sweep_share = ("sweeps", 2)

    monkeypatch.setattr(qsample.annealers, "Slow", Slow, raising=False)
    monkeypatch.setitem(CATALOGUE, "slow", Entry("Slow"))
    assert named("slow", 10) == Slow(5) and nearest("slo")[0] == "slow"
    assert CATALOGUE["slow"].about == "a sampler of this test" and CATALOGUE["slow"].installed
    assert described(Slow(5)) is None  # no file may name it before its settings are listed
    monkeypatch.setitem(CONFIGURABLE, "slow", ("sweeps",))
    assert described(Slow(5)) == ("slow", {"sweeps": 5})
    assert configured("slow", {"sweeps": 5}) == Slow(5)
