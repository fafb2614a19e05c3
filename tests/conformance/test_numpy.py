"""NumPy's integers where an int is expected, and arrays where a tensor is: taken as meant, or refused with the way."""

# what is passed is of the wrong kind on purpose
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportPrivateImportUsage=false

import json
import re
from collections import OrderedDict

import dimod
import networkx as nx
import numpy as np
import pytest
import torch

import qsample as qs
from qsample import Graph, Ising, Samples
from qsample.annealers import (
    AnnealedImportance,
    AsDimod,
    DimodAnnealer,
    Exact,
    Gibbs,
    Neal,
    ParallelTempering,
    PopulationAnnealing,
    SimulatedAnnealing,
    TemperedGibbs,
)
from qsample.data import planted_ising
from qsample.diffusion import IsingScheduler
from qsample.models import BernoulliRBM, BoltzmannMachine
from qsample.sampling.mixing import autocorrelation_time, split_rhat
from tests.support.exact import untyped
from tests.support.seeds import generator

I64 = np.int64
PLAIN_AND_NUMPY = {
    "Gibbs": (Gibbs(3), lambda: Gibbs(I64(3))),
    "Gibbs, betas": (Gibbs(betas=[0.5, 1.0]), lambda: Gibbs(betas=np.array([0.5, 1.0]))),
    "SimulatedAnnealing": (SimulatedAnnealing(4), lambda: SimulatedAnnealing(np.uint16(4))),
    "SimulatedAnnealing, betas": (
        SimulatedAnnealing(schedule=[0.5, 1.0]),
        lambda: SimulatedAnnealing(schedule=np.array([0.5, 1.0], dtype=np.float32)),
    ),
    "ParallelTempering": (
        ParallelTempering(4, 3, swap_every=2, reads_per_ladder=2, anneal=1),
        lambda: ParallelTempering(
            I64(4), I64(3), swap_every=I64(2), reads_per_ladder=I64(2), anneal=np.int32(1)
        ),
    ),
    "ParallelTempering, betas": (
        ParallelTempering(4, (0.25, 0.5, 1.0)),
        lambda: ParallelTempering(4, np.array([0.25, 0.5, 1.0])),
    ),
    "TemperedGibbs": (TemperedGibbs(3, 2, 2), lambda: TemperedGibbs(I64(3), I64(2), np.int8(2))),
    "TemperedGibbs, betas": (
        TemperedGibbs((1.0, 0.5)),
        lambda: TemperedGibbs(np.array([1.0, 0.5])),
    ),
    "PopulationAnnealing": (
        PopulationAnnealing(2, 640, max_steps=40),
        lambda: PopulationAnnealing(I64(2), I64(640), max_steps=I64(40)),
    ),
    "AnnealedImportance": (AnnealedImportance(9), lambda: AnnealedImportance(I64(9))),
    "Neal": (Neal(5), lambda: Neal(I64(5))),
}


@pytest.fixture(scope="module")
def problem():
    return Ising(
        Graph.bipartite(3, 2), torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 6).reshape(3, 2)
    )


@pytest.mark.parametrize("name", PLAIN_AND_NUMPY)
def test_numpy_integers_set_a_sampler(problem, name):
    plain, make = PLAIN_AND_NUMPY[name]
    with untyped():
        sampler = make()
        found = sampler.sample(problem, I64(8), generator=generator())
    assert torch.equal(found.spins, plain.sample(problem, 8, generator=generator()).spins)
    counts = (
        "sweeps",
        "rounds",
        "swap_every",
        "reads_per_ladder",
        "anneal",
        "population",
        "max_steps",
    )
    values = {name: getattr(sampler, name) for name in counts if hasattr(sampler, name)}
    json.dumps(values)  # as a config holds them
    assert all(type(value) is int for value in values.values())


@pytest.mark.parametrize(
    "kind", [Gibbs, SimulatedAnnealing, ParallelTempering, PopulationAnnealing, AnnealedImportance]
)
@pytest.mark.parametrize(
    "wrong",
    [True, np.bool_(True), 2.0, np.float64(2), "2", None, I64(0), torch.tensor(True)],
    ids=repr,
)
def test_what_is_no_integer_is_refused(kind, wrong):
    with (
        untyped(),
        pytest.raises(ValueError, match=re.escape(f"expected sweeps >= 1; got {wrong!r}")),
    ):
        kind(sweeps=wrong)


def test_numpy_integers_set_training_and_everything_with_a_seed(problem):
    data = (torch.arange(24).reshape(8, 3) % 5 < 2).float()

    def trained(integer):
        model = BernoulliRBM(integer(3), integer(2), generator=generator())
        settings = qs.Settings(
            updates=integer(3), batch=integer(4), chains=integer(8), seed=integer(-3)
        )
        json.dumps([settings.updates, settings.batch, settings.seed])
        qs.fit(model, data, Gibbs(2), settings, progress=False)
        return model.W

    with untyped():
        assert torch.equal(trained(I64), trained(int))
        cd = qs.ContrastiveDivergence(BernoulliRBM(3, 2), Gibbs(2), num=I64(4), positive_num=I64(2))
        assert type(cd.num) is int and cd.chains.shape == (4, 5)
        for seed in (5, I64(5), np.int32(5), torch.tensor(5)):
            assert torch.equal(
                planted_ising(2, 3, 4, seed=seed)[1], planted_ising(2, 3, 4, seed=5)[1]
            )
        reads = Gibbs(3).sample(problem, 8, generator=generator())
        with pytest.warns(qs.ReliabilityWarning, match="only 4 independent blocks"):
            assert qs.effective_beta(problem, reads, block=I64(2)) == qs.effective_beta(
                problem, reads, block=2
            )
        assert reads.resample(I64(3), generator()).num == 3
        assert Graph.complete(I64(4)).sizes == (4,) and type(Graph.complete(I64(4)).sizes[0]) is int


# ---- the diffusers scheduler ----------------

NEAR = {"neighbours": [[0, 1], [1, 0]], "edges": [[0, 1], [1, 2]]}


@pytest.mark.parametrize(
    "make",
    [torch.tensor, np.array, list, lambda rows: tuple(map(tuple, rows))],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("setting", ["neighbours", "edges"])
def test_a_scheduler_of_arrays_is_saved_as_lists(tmp_path, setting, make):
    with untyped():
        scheduler = IsingScheduler(
            I64(4),
            reads=I64(2),
            sampler_settings={"sweeps": I64(5)},
            **{setting: make(NEAR[setting])},
        )
    scheduler.save_pretrained(tmp_path)
    again = IsingScheduler.from_pretrained(tmp_path)
    assert again.config[setting] == NEAR[setting] == scheduler.config[
        setting
    ] and again.sampler == Gibbs(5)
    x = scheduler.prior((2, 3, 3), generator())
    one, two = (
        s.step(x, s.timesteps[0], x, generator=generator(1)).prev_sample for s in (scheduler, again)
    )
    assert torch.equal(one, two)
    with untyped(), pytest.raises(ValueError, match=f"expected {setting} as rows of whole numbers"):
        IsingScheduler(**{setting: torch.tensor([[0.5, 1.0]])})


def test_a_scheduler_takes_a_sampler_itself(tmp_path):
    scheduler = IsingScheduler(4, sampler=Gibbs(3), neighbours=NEAR["neighbours"])
    assert scheduler.sampler == Gibbs(3) and scheduler.config["sampler"] == "gibbs"
    scheduler.save_pretrained(tmp_path)
    assert IsingScheduler.from_pretrained(tmp_path).sampler == Gibbs(3)
    assert IsingScheduler(sampler=Exact()).config["sampler"] == "exact"
    live = IsingScheduler(sampler=DimodAnnealer(dimod.RandomSampler()))
    assert live.config["sampler"] == "live: DimodAnnealer"
    with (
        untyped(),
        pytest.raises(
            TypeError, match=r"expected a sampler, such as Gibbs\(sweeps=100\); got <class"
        ),
    ):
        IsingScheduler(sampler=Gibbs)
    with pytest.raises(ValueError, match="sampler_settings are for a sampler's name"):
        IsingScheduler(sampler=Gibbs(3), sampler_settings={"sweeps": 4})
    with untyped(), pytest.raises(ValueError, match=r"expected reads >= 1; got 1\.5"):
        IsingScheduler(reads=1.5)


# ---- arrays, and models of other packages ----------------

SPINS = np.ones((4, 5), dtype=np.int8)
TENSOR_WANTED = {
    "energy": lambda p, m, r: p.energy(SPINS),
    "field": lambda p, m, r: p.field(SPINS),
    "Samples": lambda p, m, r: Samples(SPINS, torch.zeros(4)),
    "Samples, energy": lambda p, m, r: Samples(torch.from_numpy(SPINS), np.zeros(4)),
    "Samples, log_weight": lambda p, m, r: Samples(r.spins, r.energy, np.zeros(4)),
    "Samples, family": lambda p, m, r: Samples(r.spins, r.energy, family=np.zeros(4)),
    "mean": lambda p, m, r: r.mean(np.ones(4)),
    "mean of a function": lambda p, m, r: r.mean(lambda s: s.numpy()),
    "log_likelihood": lambda p, m, r: qs.log_likelihood(m, SPINS[:, :3]),
    "pseudo_log_likelihood": lambda p, m, r: qs.pseudo_log_likelihood(m, SPINS[:, :3]),
    "free_energy": lambda p, m, r: m.free_energy(SPINS[:, :3]),
    "model.energy": lambda p, m, r: m.energy(SPINS[:, :3], SPINS[:, 3:]),
    "model.ising": lambda p, m, r: m.ising(SPINS[:, :3]),
    "split": lambda p, m, r: m.split(SPINS),
    "join": lambda p, m, r: m.join(SPINS[:, :3], SPINS[:, 3:]),
    "set_visible_bias": lambda p, m, r: m.set_visible_bias(SPINS[:, :3]),
    "cd_loss": lambda p, m, r: qs.cd_loss(m, SPINS[:, :3], r),
    "cd_loss, weights": lambda p, m, r: qs.cd_loss(m, torch.ones(4, 3), r, data_weight=np.ones(4)),
    "ContrastiveDivergence": lambda p, m, r: qs.ContrastiveDivergence(m, Gibbs(1))(SPINS[:, :3]),
    "fit": lambda p, m, r: qs.fit(m, SPINS[:, :3], Gibbs(1)),
    "scale": lambda p, m, r: p.scale(np.ones(3)),
    "Ising, J": lambda p, m, r: Ising(p.graph, p.h, p.J.numpy()),
    "from_edges": lambda p, m, r: Ising.from_edges(p.h, [(0, 1)], np.ones(1)),
    "autocorrelation_time": lambda p, m, r: autocorrelation_time(np.ones((9, 2))),
    "split_rhat": lambda p, m, r: split_rhat(np.ones((9, 2))),
}


@pytest.mark.parametrize("name", TENSOR_WANTED)
def test_an_array_is_refused_with_the_way_to_a_tensor(problem, name):
    model, reads = BernoulliRBM(3, 2), Gibbs(1).sample(problem, 4)
    with (
        untyped(),
        pytest.raises(
            TypeError, match=r"as a .*torch tensor.*; got ndarray: use torch\.as_tensor$"
        ),
    ):
        TENSOR_WANTED[name](problem, model, reads)


SAMPLES_WANTED = {
    "effective_beta": lambda p, x: qs.effective_beta(p, x),
    "diagnose": lambda p, x: qs.diagnose(p, x),
    "cd_loss": lambda p, x: qs.cd_loss(BernoulliRBM(3, 2), torch.ones(4, 3), x),
    "initial": lambda p, x: Gibbs(1).sample(p, 4, initial=x),
}


@pytest.mark.parametrize("name", SAMPLES_WANTED)
@pytest.mark.parametrize(
    "kind",
    [SPINS, torch.from_numpy(SPINS), dimod.SampleSet.from_samples(SPINS, "SPIN", 0), None, 3],
)
def test_what_is_no_samples_is_refused(problem, name, kind):
    if name == "initial" and kind is None:
        return
    with untyped(), pytest.raises(TypeError, match=f"as Samples; got {type(kind).__name__}"):
        SAMPLES_WANTED[name](problem, kind)


def test_numbers_of_numpy_do_not_change_a_problem(problem):
    for beta in (2, 2.0, np.float64(2), np.float32(2), I64(2)):
        with untyped():
            scaled = problem.scale(beta)
        assert scaled.dtype == torch.float32 and torch.equal(scaled.h, 2 * problem.h)
    with untyped():
        part = problem.clamp(np.array([1, 3]), np.array([1, -1]))
        assert torch.equal(part.h, problem.clamp([1, 3], [1, -1]).h)
        for index in (["a"], None, {0}):
            with pytest.raises(TypeError, match="expected index as a tensor or a list of numbers"):
                problem.clamp(index, [1])


CQM, DQM, QM = (
    dimod.ConstrainedQuadraticModel(),
    dimod.DiscreteQuadraticModel(),
    dimod.QuadraticModel(),
)
CQM.set_objective(dimod.Binary("a") + 2 * dimod.Binary("a") * dimod.Binary("b"))
DQM.add_variable(3, "x")
QM.add_variable("BINARY", "a")
QM.add_variable("SPIN", "b")
QM.add_quadratic("a", "b", 1.5)
POLY = dimod.BinaryPolynomial({("a", "b", "c"): 1.0}, "SPIN")
BQM = dimod.BinaryQuadraticModel({"a": 1.0}, {("a", "b"): 0.5}, "SPIN")
STRANGERS = {
    "CQM": (CQM, "dimod.cqm_to_bqm(cqm)"),
    "DQM": (DQM, "from_discrete_quadratic_model(dqm)"),
    "QM": (QM, "from_quadratic_model(qm.spin_to_binary(inplace=False))"),
    "polynomial": (POLY, "dimod.make_quadratic(poly, strength, dimod.SPIN)"),
    "networkx": (nx.cycle_graph(3), "Graph.from_networkx(graph)"),
    "directed": (nx.DiGraph([(0, 1)]), "Graph.from_networkx(graph)"),
}
OTHERS = {
    "dict": ({("a", "b"): 1.0}, ""),
    "ordered": (OrderedDict(a=1.0), ""),
    "array": (np.eye(2), ""),
    "list": ([1, 2], ""),
    "text": ("a", ""),
    "nothing": (None, ""),
    "number": (2.5, ""),
    "reads": (dimod.SampleSet.from_samples([{"a": 1}], "SPIN", 0), ""),
}
OF_A_BQM = {
    "from_bqm": Ising.from_bqm,
    "AsDimod": lambda x: AsDimod(Gibbs(1)).sample(x),
    "AsDimod, optimise": lambda x: AsDimod(Gibbs(1), optimise=True).sample(x, num_reads=2),
}
OF_A_PROBLEM = {
    "sample": lambda x: Gibbs(1).sample(x, 2),
    "log_partition": qs.log_partition,
    "effective_beta": lambda x: qs.effective_beta(x, Gibbs(1).sample(Ising.from_bqm(BQM), 2)),
    "DimodAnnealer": lambda x: DimodAnnealer(dimod.RandomSampler()).sample(x, 2),
}
OF_A_QUBO = {"from_qubo": Ising.from_qubo}
OF_A_GRAPH = {
    "BoltzmannMachine": BoltzmannMachine,
    "Ising": lambda x: Ising(x, torch.zeros(2), torch.zeros(1)),
    "to_sampleset": lambda x: Gibbs(1).sample(Ising.from_bqm(BQM), 2).to_sampleset(x),
    "Graph.sparse": lambda x: Graph.sparse(x, [(0, 1)]),
    "Graph.complete": Graph.complete,
    "edges": lambda x: Graph.sparse(3, x),
}


@pytest.mark.parametrize("call", [*OF_A_BQM, *OF_A_PROBLEM, *OF_A_QUBO, *OF_A_GRAPH])
@pytest.mark.parametrize("kind", [*STRANGERS, *OTHERS])
def test_strangers_are_refused_with_the_way(call, kind):
    thing, way = (STRANGERS | OTHERS)[kind]
    table = OF_A_BQM | OF_A_PROBLEM | OF_A_QUBO | OF_A_GRAPH
    if (call, kind) in {("from_qubo", "dict"), ("to_sampleset", "nothing")}:
        return  # right
    with untyped(), pytest.raises((TypeError, ValueError)) as caught:
        table[call](thing)
    text = str(caught.value)
    assert "expected" in text and "\n" not in text and len(text) < 400
    # a list of numbers is edges of the wrong shape
    assert type(caught.value) is TypeError or call == "edges"
    if call not in OF_A_GRAPH or "Graph" in way:
        assert way in text


@pytest.mark.parametrize(
    ("call", "thing", "way"),
    [
        (lambda: Ising.from_qubo(BQM), None, "Ising.from_bqm(bqm) takes it as it is"),
        (lambda: Ising.from_qubo(BQM.to_qubo()), None, "Ising.from_qubo(Q, offset)"),
        (lambda: Ising.from_qubo(np.eye(2)), None, "dict(np.ndenumerate(Q)) makes one of a matrix"),
        (
            lambda: Ising.from_qubo({"ab": 1.0}),
            None,
            "expected a QUBO with keys (i, j); got the key 'ab'",
        ),
        (lambda: Ising.from_qubo({("a",): 1.0}), None, "got the key ('a',)"),
        (lambda: Gibbs(1).sample(BQM, 2), None, "Ising.from_bqm(bqm) makes one"),
        (lambda: Gibbs(1).sample(dimod.DictBQM(BQM), 2), None, "Ising.from_bqm(bqm) makes one"),
        (lambda: AsDimod(Gibbs(1)).sample(Ising.from_bqm(BQM)), None, "problem.to_bqm() makes one"),
        (lambda: BoltzmannMachine(BQM), None, "Ising.from_bqm(bqm).graph is its graph"),
        (lambda: BoltzmannMachine(Ising.from_bqm(BQM)), None, "problem.graph is its graph"),
        (
            lambda: BoltzmannMachine(4),
            None,
            "Graph.complete(n), .bipartite(n, m) or .sparse(n, edges) makes one",
        ),
        (
            lambda: Graph.from_networkx(BQM),
            None,
            "expected a networkx graph; got BinaryQuadraticModel",
        ),
        (lambda: Graph.complete(2.5), None, "expected a number of spins; got float"),
        (lambda: BernoulliRBM(2.5, 2), None, "expected n_visible as a number of units; got float"),
    ],
)
def test_the_way_is_named(call, thing, way):
    with untyped(), pytest.raises(TypeError, match=re.escape(way)):
        call()


def test_the_ways_lead_there():
    """Every advice followed: each gives a problem with the energies of what it was made of."""
    bqm, _ = dimod.cqm_to_bqm(CQM)
    assert Ising.from_bqm(bqm).num_spins == 2
    cqm = dimod.ConstrainedQuadraticModel.from_discrete_quadratic_model(DQM)
    assert Ising.from_bqm(dimod.cqm_to_bqm(cqm)[0]).num_spins == 3
    cqm = dimod.ConstrainedQuadraticModel.from_quadratic_model(QM.spin_to_binary(inplace=False))
    mixed = Ising.from_bqm(dimod.cqm_to_bqm(cqm)[0])
    assert sorted(mixed.energy(torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]])).tolist()) == [
        -1.5,
        0,
        0,
        1.5,
    ]
    assert Ising.from_bqm(dimod.make_quadratic(POLY, 5.0, dimod.SPIN)).num_spins >= 3
    Q = np.array([[1.0, 2.0], [0.0, -1.0]])
    of_matrix, of_bqm = (
        Ising.from_qubo(dict(np.ndenumerate(Q))),
        Ising.from_bqm(dimod.BinaryQuadraticModel(Q, "BINARY")),
    )
    states = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    torch.testing.assert_close(of_matrix.energy(states), of_bqm.energy(states))
    assert BoltzmannMachine(Graph.from_networkx(nx.cycle_graph(3))).num_visible == 3
