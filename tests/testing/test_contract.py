"""The contract test over every sampler, and its power: what must be rejected is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dwave.samplers import SimulatedAnnealingSampler, TabuSampler
from scipy.stats import kstest

from experiments.claims.contract_power import (
    CONDITIONS,
    WRONG,
    Wrong,
    exact,
    only_if,
    repeated,
    scaled,
)
from qsample import Graph, Ising
from qsample.annealers import (
    DimodAnnealer,
    Exact,
    Gibbs,
    PopulationAnnealing,
)
from qsample.annealers.registry import CATALOGUE, named
from qsample.testing import Case, ContractError, check_sampler
from qsample.testing.contract import reference_cases
from tests.support.problems import numbered
from tests.support.samplers import RIGHT, SAMPLERS, SHARE
from tests.support.thinning import thinned

CASES = {case.name: case for case in reference_cases()}
FEW = [
    CASES[name]
    for name in (
        "sparse, double, labelled",
        "bipartite, double, a batch of J",
        "complete, a batch",
        "no fields",
    )
]
POWER = 0.15  # of the quick runs; `long` ones have the whole power and all cases
NAMED = [name for name, entry in CATALOGUE.items() if not entry.device]


def marked(names, long):
    """Names as parameters, those in `long` left to `make test-long`."""
    return [pytest.param(name, marks=[pytest.mark.long] * (name in long)) for name in names]


@pytest.mark.parametrize("name", marked(RIGHT, [n for n in RIGHT if SAMPLERS[n].slow]))
def test_right_samplers_pass(name):
    verdicts = check_sampler(RIGHT[name], false_alarm=SHARE, power=POWER, cases=FEW)
    print(verdicts)  # each total variation beside its floor: pytest -rP shows them
    assert {case.name for case in FEW} < {v.case for v in verdicts}
    assert all(0 <= v.p_value <= 1 for v in verdicts)
    assert all(v.total_variation < 4 * v.floor for v in verdicts if v.floor == v.floor)


@pytest.mark.long
@pytest.mark.parametrize("name", RIGHT)
def test_right_samplers_pass_with_full_power(name):
    row = SAMPLERS[name]
    cases = [
        case
        for case in CASES.values()
        if case.problem.num_spins <= row.max_spins and case.name not in row.elsewhere
    ]
    check_sampler(RIGHT[name], false_alarm=SHARE, cases=cases)


@pytest.mark.parametrize("name", NAMED)
def test_every_sampler_of_the_catalogue_has_its_tag(name):
    assert CATALOGUE[name].installed
    assert named(name, 2).sample(CASES["sparse"].problem, 2).exactness is CATALOGUE[name].exactness


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in NAMED if name != "qaoa"])
def test_every_sampler_of_the_catalogue_passes(name):
    """Cases that a row of the same class leaves to a test of its own are left out here too."""
    sampler = named(name, 400)
    rows = [row for row in SAMPLERS.values() if type(row.quick) is type(sampler)]
    elsewhere = {case for row in rows for case in row.elsewhere}
    check_sampler(sampler, false_alarm=SHARE, cases=[CASES[c] for c in CASES if c not in elsewhere])


@pytest.mark.long
@pytest.mark.parametrize("case", ["sparse", "no fields"])
def test_a_circuit_of_the_catalogue_is_rejected_and_its_correction_passes(case):
    """QAOA is a heuristic by its tag, and by its reads; `corrected-qaoa` mends them."""
    message = rejection(named("qaoa"), cases=[CASES[case]], power=0.25)
    assert f"QAOA on '{case}'" in message
    check_sampler(named("corrected-qaoa", 60), false_alarm=SHARE, cases=[CASES[case]], power=POWER)


@pytest.mark.long
def test_bfloat16_products_pass():
    cases = [case for case in CASES.values() if case.problem.graph.kind == "bipartite"][:1]
    check_sampler(Gibbs(60, precision="bfloat16"), false_alarm=SHARE, cases=cases, power=0.3)


# ---- power ----------------


def rejection(sampler, **settings):
    """The message with which a sampler is rejected."""
    with pytest.raises(ContractError) as error:
        check_sampler(sampler, false_alarm=SHARE, **settings)
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    thinned(["beta 1.2", "h flipped", "the last edge dropped", "a batch's first problem"], 4),
)
@pytest.mark.parametrize("seed", [0, pytest.param(7, marks=pytest.mark.long)])
def test_wrong_laws_are_rejected_by_case_p_value_and_seed(name, seed):
    message = rejection(WRONG[name](), seed=seed, power=0.5, skip={"alone"})
    assert any(f"Wrong on '{case}" in message for case in CASES), message
    assert f", seed {seed}: " in message and ": p = " in message and " < " in message


# what a quick run finds without the clause that a batch draws as its problems alone, which sees
# many of them first
SEEN = {
    "every fifth read repeated": "of neighbouring reads are correlated",
    "40 % of reads repeated": "pairs of reads are equal|do not follow|are off",
    "sorted by energy": "neighbouring reads are correlated",
    "antithetic pairs": "neighbouring reads are correlated",
    "chains one sweep apart": "neighbouring reads are correlated",
    "the same numbers for each "
    "problem": "problems 0 and 1, read by read, are correlated: z = [0-9]",
    "negative numbers for the next "
    "problem": "problems 0 and 1, read by read, are correlated: z = -",
    "the same numbers in another order": "are off|equal pairs",
    "initial ignored": "do not know the `initial`",
    "initial handed back": "do not follow|are off",
    "initial overwritten": "changed its own argument, initial.spins",
    "the problem overwritten": "changed its own argument, h",
    "generator ignored": "changed the random state of torch",
    "one seed for ever": "calls with seeds 0 and 1 return the same 64 reads",
    "a generator not advanced": "it was not advanced",
    "Gibbs(1,000) tagged EXACT": "'two modes, tagged EXACT'",
    "weights exp(energy)": "do not follow|are off",
    "weights nan": "expected log weights",
    "right only for single precision": "'sparse, double, labelled'",
    "right only for at most 64 spins": "'many parts'",
    "right only for couplings under 3": "'strong'",
    "right only for fields": "'no fields'",
}


LENGTHY = {
    "40 % of reads repeated", "antithetic pairs", "the same numbers in another order",
    "negative numbers for the next problem", "every fifth read repeated",
    "weights exp(energy)", "right only for single precision", "right only for fields",
    "initial overwritten", "right only for at most 64 spins", "right only for couplings under 3",
    "chains one sweep apart", "initial ignored", "initial handed back", "Gibbs(1,000) tagged EXACT",
}  # fmt: skip


@pytest.mark.parametrize("name", marked(SEEN, LENGTHY))
def test_one_fault_is_found_by_the_test_made_for_it(name):
    import re

    message = rejection(WRONG[name](), power=0.4, skip={"alone"})
    assert re.search(SEEN[name], message), message


def test_a_list_of_generators_counts():
    assert "draws other reads than alone" in rejection(
        WRONG["the first generator of a list"](), power=0.1
    )


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in WRONG if name != "beta 1.03"])
@pytest.mark.parametrize("seed", [1, 2])
def test_every_wrong_sampler_is_rejected(name, seed):
    rejection(WRONG[name](), seed=seed)


@pytest.mark.long
@pytest.mark.parametrize("name", CONDITIONS)
def test_samplers_right_only_sometimes_are_rejected_for_their_law(name):
    """Without the clauses that compare calls with each other."""
    rejection(Wrong(only_if(CONDITIONS[name])), skip={"alone", "seeds"})


@pytest.mark.long
def test_an_error_of_the_size_stated_is_found():
    """The error of beta that is stated, found with probability 0.95, is found in 15 of 20 calls."""
    verdicts = check_sampler(Exact())
    (beta,) = [v.detects for v in verdicts if v.check == "beta"]
    error = float(beta.removeprefix("beta off by ").removesuffix(" %")) / 100
    found = 0
    for seed in range(20):
        try:
            check_sampler(Wrong(scaled(1 + error)), seed=seed)
        except ContractError:
            found += 1
    assert found >= 15  # of Binomial(20, 0.95) fewer than 15 have a chance of 3e-4
    assert error < 0.02


@pytest.mark.long
def test_p_values_on_exact_draws_are_uniform():
    """Over 200 runs: of all verdicts together, which are nearly independent, and of each."""
    runs = np.array([[v.p_value for v in check_sampler(Exact(), seed=s)] for s in range(200)])
    assert kstest(runs.flatten(), "uniform").pvalue > 0.01
    assert min(kstest(column, "uniform").pvalue for column in runs.T) > 1e-4 / runs.shape[1]


@pytest.mark.long
def test_power_buys_smaller_errors():
    small, large = (
        next(v for v in check_sampler(Exact(), power=power) if v.check == "beta").detects
        for power in (0.5, 2.0)
    )
    ratio = float(small.split()[-2]) / float(large.split()[-2])
    assert ratio == pytest.approx(2, rel=0.2)


def test_the_honest_base_of_the_impostors_passes():
    check_sampler(Wrong(exact), false_alarm=SHARE, power=POWER)


def test_optimisers_are_rejected():
    assert "DimodAnnealer on " in rejection(
        DimodAnnealer(TabuSampler(), timeout=1),
        reads=200,
        cases=[CASES["sparse"]],
        skip={"seeds", "alone"},
    )
    assert "DimodAnnealer on 'sparse', seed 0: the reads" in rejection(
        DimodAnnealer(SimulatedAnnealingSampler()),
        reads=2000,
        cases=[CASES["sparse"]],
        skip={"seeds", "alone"},
    )


def test_repeated_reads_among_many_states():
    """Copies anywhere in a call: equal pairs, where the G-test sees too little."""
    assert "pairs of reads are equal" in rejection(
        Wrong(repeated(0.2)), cases=[CASES["weak"]], skip={"alone"}
    )


def test_the_table_in_the_docs_is_the_measured_one():
    root = Path(__file__).parents[2]
    measured = json.loads((root / "experiments" / "results" / "contract_power.json").read_text())
    page = (root / "docs" / "contract.md").read_text()
    for name, row in measured["result"]["samplers"].items():
        assert f"| {name} | {row['rejected']} of {row['seeds']} |" in page


@pytest.mark.parametrize("graph", [Graph.complete(4), Graph.bipartite(2, 2)])
def test_cases_of_one_kind_of_graph(graph):
    """Rows of three spins stand for a kernel's turning back, whatever the kind of graph."""
    sampler = Gibbs(20, scan="palindromic")
    check_sampler(sampler, false_alarm=SHARE, cases=[Case("own", numbered(graph))], power=0.2)


def test_what_a_case_must_be():
    long = Graph.sparse(20, [(k, k + 1) for k in range(19)])
    with pytest.raises(
        ValueError, match="a connected part of 20 spins cannot be enumerated: expected at most 16"
    ):
        check_sampler(Exact(), cases=[Case("long", Ising(long, torch.zeros(20), torch.ones(19)))])
    with pytest.raises(
        ValueError, match="unknown clause 'seed' in skip; expected some of seeds, alone"
    ):
        check_sampler(Exact(), skip={"seed"})
    with pytest.raises(ValueError, match="expected power > 0; got 0"):
        check_sampler(Exact(), power=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 3])
def test_few_weighted_reads_of_a_batch_are_no_alarm(seed):
    """Means by weights of three reads are off alike in 48 problems: z was 11 to 19."""
    check_sampler(PopulationAnnealing(20), power=0.05, seed=seed)
