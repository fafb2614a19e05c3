"""Arguments of the wrong kind are refused in words, not by an error from inside torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import dimod
import pytest
import torch

import qsample as qs
from qsample.annealers import AsDimod, Corrected, Exact, Gibbs
from qsample.models import BernoulliRBM, BoltzmannMachine

SETTING = """
import dimod
import numpy as np
import torch
import qsample as qs
from qsample.annealers import AsDimod, Corrected, DimodAnnealer, Exact, Gibbs
from qsample.models import BernoulliRBM
from qsample.testing import check_sampler

MODEL = BernoulliRBM(4, 2, generator=torch.Generator().manual_seed(0))
PROBLEM = MODEL.ising().detach()
X = torch.tensor([[0.0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
GRAPH = qs.Graph.sparse(2, [(0, 1)])
READS = Gibbs(2).sample(PROBLEM, 5, generator=torch.Generator().manual_seed(0))
NAN = qs.Ising(PROBLEM.graph, PROBLEM.h.clone().fill_(float("nan")), PROBLEM.J)

def positive(*rows):
    return qs.Samples(torch.ones(*rows, 3, 2, dtype=torch.int8), torch.zeros(*rows, 3))

class Bare:
    warm_start = reversible = False

    def sample(self, problem, num, *, initial=None, generator=None):
        return Exact().sample(problem, num, generator=generator).spins
"""

WRONG_KINDS = [  # TypeError
    ("qs.fit(MODEL, X.numpy(), Gibbs(2))", "expected data as a torch tensor; got ndarray"),
    ("qs.log_likelihood(MODEL, X.tolist())", "expected data as a torch tensor; got list"),
    ('qs.fit(MODEL, X, "gibbs")', "expected a sampler, such as Gibbs(sweeps=100); got 'gibbs'"),
    (
        "qs.ContrastiveDivergence(MODEL, Gibbs)",
        "expected a sampler, such as Gibbs(sweeps=100); got <class",
    ),
    ("Corrected(Gibbs, Gibbs(2))", "expected a sampler"),
    ("AsDimod(Exact)", "expected a sampler"),
    ("check_sampler(dimod.RandomSampler())", "DimodAnnealer(...) wraps dimod's"),
    (
        "DimodAnnealer(dimod.RandomSampler)",
        "expected a dimod sampler, such as TabuSampler(); got <class",
    ),
    ("DimodAnnealer(Gibbs(2))", "expected a dimod sampler"),
    (
        "Gibbs(2).sample(MODEL, 4)",
        "expected an Ising problem, such as model.ising(); got BernoulliRBM",
    ),
    (
        "qs.log_partition(MODEL)",
        "expected an Ising problem, such as model.ising(); got BernoulliRBM",
    ),
    ("qs.effective_beta(MODEL, READS)", "expected an Ising problem"),
    (
        "Gibbs(2).sample(PROBLEM, 5, initial=READS.spins)",
        "expected `initial` as Samples; got Tensor",
    ),
    ("Gibbs(2).sample(PROBLEM, 5, generator=7)", "expected a torch.Generator"),
    ("Gibbs(2).sample(PROBLEM, 5, generator=[7])", "expected a torch.Generator"),
    ("qs.Ising(GRAPH, [0.0, 0.0], [1.0])", "expected h as a torch tensor; got list"),
    ("qs.Ising(GRAPH, torch.zeros(2), [1.0])", "expected J as a torch tensor; got list"),
    (
        "qs.Ising.from_edges(np.zeros(2), [(0, 1)], np.ones(1))",
        "expected h as a torch tensor; got ndarray",
    ),
    (
        "qs.Ising.from_dense(np.zeros(2), np.zeros((2, 2)))",
        "expected J as a torch tensor; got ndarray",
    ),
    (
        "qs.Ising.from_qubo(torch.ones(3, 3))",
        "expected a QUBO as a dictionary {(i, j): value}; got Tensor",
    ),
]

MISFITS = [  # ValueError
    (
        "qs.cd_loss(MODEL, X, Gibbs(2).sample(BernoulliRBM(5, 2).ising(), 4))",
        "expected joint spins of shape [*, 6]; got [4, 7]",
    ),
    ("MODEL.split(torch.ones(4, 5))", "expected joint spins of shape [*, 6]; got [4, 5]"),
    (
        "qs.cd_loss(MODEL, X, READS, positive=positive(1))",
        "expected positive spins of shape [3, R, 2], one problem per row of data; got [1, 3, 2]",
    ),
    ("qs.cd_loss(MODEL, X, READS, positive=positive())", "one problem per row of data; got [3, 2]"),
    ("qs.log_partition(NAN)", "h[0] is nan: expected finite numbers only"),
    ("qs.effective_beta(NAN, READS)", "h[0] is nan: expected finite numbers only"),
    (
        'qs.log_partition(PROBLEM, "ais", base=torch.zeros(3))',
        "expected base fields of shape [6]; got [3]",
    ),
    ("MODEL.set_visible_bias(X[0])", "expected data of shape [N, 4] with N >= 1; got [4]"),
    ("MODEL.set_visible_bias(X[:0])", "expected data of shape [N, 4] with N >= 1; got [0, 4]"),
    ("qs.ContrastiveDivergence(MODEL, Gibbs(2), num=2.5)", "expected num >= 1; got 2.5"),
    ("qs.Settings(batch=3.5)", "expected batch >= 1; got 3.5"),
    ("qs.Settings(updates=True)", "expected updates >= 1; got True"),
    ("qs.Settings(seed=1.5)", "expected a seed of 64 bits; got 1.5"),
    (
        "qs.Ising(GRAPH, torch.zeros(4, 2), torch.ones(1)).scale(torch.ones(3))",
        "batch [3] of beta does not broadcast with the problem's [4]",
    ),
    (
        "qs.Ising(GRAPH, torch.zeros(2), torch.ones(2))",
        "expected J of shape [*, 1] (sparse graph); got [2]",
    ),
    ('qs.Graph.sparse(2, [("a", "b")])', "expected edges as pairs of spin numbers"),
]


@pytest.fixture(scope="module")
def said() -> dict[str, list[str]]:
    """What each call raises, in a process without the type checks that these tests make."""
    calls = [call for call, _ in WRONG_KINDS + MISFITS] + ["check_sampler(Bare())"]
    code = f"""{SETTING}
import json, sys
found = {{}}
for call in json.loads(sys.argv[1]):
    try:
        found[call] = ["returned", repr(eval(call))]
    except Exception as error:
        found[call] = [type(error).__name__, str(error)]
print(json.dumps(found))"""
    command = [sys.executable, "-c", code, json.dumps(calls)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("call", "message"), WRONG_KINDS)
def test_wrong_kinds(said, call, message):
    kind, words = said[call]
    assert kind == "TypeError" and message in words and "\n" not in words


@pytest.mark.parametrize(("call", "message"), MISFITS)
def test_misfits(said, call, message):
    kind, words = said[call]
    assert kind == "ValueError" and message in words and "\n" not in words


def test_the_contract_says_what_is_missing(said):
    kind, words = said["check_sampler(Bare())"]
    assert kind == "ContractError" and "expected Samples; got Tensor" in words


def test_weights_that_are_not_finite_have_no_likelihood():
    model = BernoulliRBM(4, 2)
    with torch.no_grad():
        model.W[1, 0] = float("inf")
    with pytest.raises(ValueError, match=r"is -?(inf|nan): expected finite numbers only"):
        qs.log_likelihood(model, torch.eye(4))


def test_graphs_name_edges_by_their_labels():
    import networkx as nx

    loop, parallel = nx.Graph([("a", "b"), ("b", "b")]), nx.MultiGraph([("a", "b"), ("b", "a")])
    with pytest.raises(ValueError, match=re.escape("self-loop ('b', 'b')")):
        qs.Graph.from_networkx(loop)
    with pytest.raises(ValueError, match=re.escape("edge ('a', 'b') is given 2 times")):
        qs.Graph.from_networkx(parallel)


def test_clamp_takes_plain_lists():
    problem = BernoulliRBM(4, 2).ising().detach()
    listed = problem.clamp([1, 3], [1, -1])
    assert torch.equal(listed.h, problem.clamp(torch.tensor([1, 3]), torch.tensor([1.0, -1.0])).h)


@pytest.mark.parametrize("sampler", [Exact(), Corrected(Exact(), Gibbs(2))])
def test_sample_sets_can_be_serialised(sampler):
    found = AsDimod(sampler).sample_ising({"a": 1.0}, {("a", "b"): 0.5}, num_reads=2, seed=1)
    again = dimod.SampleSet.from_serializable(json.loads(json.dumps(found.to_serializable())))
    assert again == found and again.info["exactness"] == found.info["exactness"]
    info = found.info if "log_partition" in found.info else found.info["before"]
    exact = float(
        qs.log_partition(
            qs.Ising.from_bqm(dimod.BQM({"a": 1.0}, {("a", "b"): 0.5}, "SPIN")), "exact"
        ).value
    )
    assert info["log_partition"] == pytest.approx(exact)


def test_coupled_hidden_units_are_summed_in_chunks_of_any_size(monkeypatch):
    graph = qs.Graph.complete(6)
    model = BoltzmannMachine(
        graph, hidden=[3, 4, 5], scale=1.0, generator=torch.Generator().manual_seed(1)
    )
    x = torch.where(torch.rand(40, 3, generator=torch.Generator().manual_seed(2)) < 0.5, -1.0, 1.0)
    whole = qs.log_likelihood(model, x, "exact").value
    from qsample.problem import enumeration as enumeration

    sizes: list[torch.Size] = []
    found = enumeration.log_partition
    monkeypatch.setattr(
        enumeration,
        "log_partition",
        lambda p, limit: sizes.append(p.batch_shape) or found(p, limit),
    )
    assert qs.log_likelihood(model, x, "exact").value == pytest.approx(whole)
    assert sizes[0] == (40,)  # few hidden units: many rows at once
