"""The native kernel of sparse problems, for every instruction set of this machine."""

import math
import os
import re
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from qsample import Graph, Ising, Samples
from qsample.annealers import Gibbs, SimulatedAnnealing, _engine
from qsample.annealers.kernels.native import Swept, columns_of, structure, sweep_sparse
from qsample.annealers.kernels.sweeper import native_for
from qsample.testing import FALSE_ALARM, g_test
from tests.support.exact import Z_MAX
from tests.support.problems import NUMBERS, numbered, random_graph
from tests.support.reference_sweep import assert_lawful, onsager
from tests.support.seeds import generator
from tests.support.thinning import thinned

ISAS = _engine.instruction_sets()
EACH_ISA = pytest.mark.parametrize("isa", ISAS)
RULES = ["gibbs", "metropolis"]


def normal(
    graph: Graph,
    h: tuple[int, ...] = (),
    J: tuple[int, ...] = (),
    scale: float = 0.6,
    seed: int = 0,
) -> Ising:
    g = torch.Generator().manual_seed(seed)
    fields, couplings = (
        scale * torch.randn(*s, generator=g) for s in ((*h, graph.num_spins), (*J, graph.num_edges))
    )
    return Ising(graph, fields, couplings, 0.25)


def torus(size: int) -> Graph:
    at = torch.arange(size * size).reshape(size, size)
    return Graph.sparse(
        size * size,
        torch.cat([torch.stack([at, at.roll(1, d)], -1).reshape(-1, 2) for d in (0, 1)]),
    )


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# ---- the law ----------------

SIXTEEN = random_graph(16, 30)
LAWS = {
    "sixteen spins": lambda: normal(SIXTEEN),
    "a batch sharing J": lambda: normal(random_graph(6, 9), h=(3,)),
    "a batch with a J each": lambda: normal(random_graph(6, 9), h=(3,), J=(3,)),
    "every spin coupled to every other": lambda: normal(random_graph(6, 15), scale=0.4),
}
# down from infinite temperature, then at the target
SLOW = torch.cat([torch.linspace(0, 1, 40), torch.ones(80)])
FORMS = {
    "forward": {},
    "palindromic": {"scan": "palindromic"},
    "a beta each": {},
}
SHARE = FALSE_ALARM / (len(RULES) * len(LAWS) * len(FORMS))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", thinned(LAWS, 2))
@pytest.mark.parametrize("form", thinned(FORMS, 2))
def test_reads_follow_the_law(rule, name, form):
    problem, reads = LAWS[name](), 20_000
    P = problem.batch_shape.numel()
    betas, scales = SLOW, [1.0]
    if form == "a beta each":  # two temperatures by turns
        scales = [1.0, 0.5]
        betas = SLOW[:, None, None] * torch.tensor(scales).repeat(reads // 2).expand(P, -1)
    swept = sweep_sparse(problem, reads, betas, list(range(P)), rule=rule, **FORMS[form])
    for k, scale in enumerate(scales):
        spins = swept.spins.reshape(*problem.batch_shape, reads, -1)[..., k :: len(scales), :]
        verdicts = g_test(problem.scale(scale), Samples(spins, problem.energy(spins)))
        assert min(p for p, _, _ in verdicts) > SHARE / len(scales) / P


@pytest.mark.long
def test_mean_energy_of_the_2d_ferromagnet():
    size, beta, chains = 64, 0.40, 128
    graph = torus(size)
    problem = Ising(graph, torch.zeros(size * size), -torch.ones(graph.num_edges))
    swept, means = sweep_sparse(problem, chains, [beta] * 300, [5]), []
    for k in range(40):
        swept = sweep_sparse(
            problem, chains, [beta] * 10, [5], spins=swept.spins, first_sweep=300 + 10 * k
        )
        means.append(swept.energy[0])
    chain = torch.stack(means).mean(0)  # chains are independent; a chain's sweeps are not
    assert abs(chain.mean() - onsager(beta, size)) < Z_MAX * chain.std() / chains**0.5


# ---- energies ----------------


@EACH_ISA
@pytest.mark.parametrize("shape", [((), ()), ((3,), ()), ((3,), (3,))])
def test_energies_are_those_of_the_spins(isa, shape):
    problem = normal(random_graph(37, 90), *shape)
    grid = Ising(
        problem.graph, (problem.h * 64).round() / 64, (problem.J * 64).round() / 64, problem.offset
    )
    for num in (1, 3, 40, 70):
        swept = sweep_sparse(
            grid, num, [0.5, 0.5], list(range(3))[: max(1, problem.batch_shape.numel())], isa=isa
        )
        spins = swept.spins.reshape(*problem.batch_shape, num, -1)
        assert torch.equal(
            swept.energy.reshape(spins.shape[:-1]), grid.to(dtype=torch.float64).energy(spins)
        )


# ---- bit for bit ----------------

DRAW = {
    "gibbs": {"rule": "gibbs"},
    "metropolis": {"rule": "metropolis"},
    "palindromic": {"rule": "gibbs", "scan": "palindromic"},
    "palindromic metropolis": {"rule": "metropolis", "scan": "palindromic"},
}
EACH_DRAW = pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
BETAS = torch.linspace(0.2, 1.5, 7)


def same(one: Swept, two: Swept) -> bool:
    return (
        torch.equal(one.spins, two.spins)
        and torch.equal(one.energy, two.energy)
        and one.sweeps == two.sweeps
    )


@EACH_ISA
@EACH_DRAW
def test_threads_change_nothing(isa, draw, threads):
    for problem, num in (
        (normal(random_graph(50, 120)), 200),
        (normal(random_graph(50, 120), (5,)), 50),
    ):
        betas = BETAS.repeat(40)
        found = []
        for count in (1, 2, 3):
            threads(count)
            found.append(
                sweep_sparse(
                    problem, num, betas, list(range(problem.batch_shape.numel())), isa=isa, **draw
                )
            )
        assert same(found[0], found[1]) and same(found[0], found[2])


# colours of 800 spins, and of 400 and fewer, which threads share out
LARGE = {"two colours": lambda: torus(40), "more": lambda: random_graph(4000, 5000)}


@EACH_ISA
@EACH_DRAW
@pytest.mark.parametrize("graph", LARGE)
@pytest.mark.parametrize("num", [40, 64])
def test_threads_that_sweep_a_block_together_change_nothing(isa, draw, graph, num, threads):
    problem = normal(LARGE[graph]())
    found = []
    for count in (1, 2, 3, 8):
        threads(count)
        found.append(sweep_sparse(problem, num, BETAS.repeat(3), [5], isa=isa, **draw))
    assert all(same(found[0], other) for other in found[1:])


@EACH_ISA
@EACH_DRAW
@pytest.mark.parametrize("J", [(), (9,)], ids=["J shared", "J each"])
@pytest.mark.parametrize("num", [1, 7, 40])
def test_batch_and_position_change_nothing(isa, draw, J, num):
    graph = random_graph(23, 60)
    problem, seeds = normal(graph, (9,), J), list(range(100, 109))
    beta = torch.rand(4, 9, num, generator=torch.Generator().manual_seed(0))
    start = (
        2
        * torch.randint(
            2, (9, num, 23), dtype=torch.int8, generator=torch.Generator().manual_seed(1)
        )
        - 1
    )
    together = sweep_sparse(problem, num, beta, seeds, spins=start, isa=isa, **draw)
    for part in (slice(0, 1), slice(4, 5), slice(8, 9), slice(2, 8)):
        some = Ising(graph, problem.h[part], problem.J[part] if J else problem.J, problem.offset)
        alone = sweep_sparse(
            some, num, beta[:, part], seeds[part], spins=start[part], isa=isa, **draw
        )
        assert torch.equal(alone.spins, together.spins[part]) and torch.equal(
            alone.energy, together.energy[part]
        )


@EACH_ISA
@EACH_DRAW
@pytest.mark.parametrize("num", [2, 45])
def test_sweeps_split_into_calls(isa, draw, num):
    problem = normal(random_graph(23, 60))
    whole = sweep_sparse(problem, num, BETAS, [3], isa=isa, **draw)
    for cut in (0, 1, 4):
        one = sweep_sparse(problem, num, BETAS[:cut], [3], isa=isa, **draw)
        two = sweep_sparse(
            problem, num, BETAS[cut:], [3], spins=one.spins, first_sweep=cut, isa=isa, **draw
        )
        assert torch.equal(two.spins, whole.spins) and torch.equal(two.energy, whole.energy)


@EACH_ISA
@EACH_DRAW
@pytest.mark.parametrize("h", [(), (2,)], ids=["one problem", "two"])
def test_replicas_split_into_calls_and_blocks(isa, draw, h):
    # whole: blocks of 64 lanes; the parts: of 32, or by colour
    problem, num = normal(random_graph(23, 60), h), 150
    seeds = [3, 4][: problem.batch_shape.numel()]
    whole = sweep_sparse(problem, num, BETAS, seeds, isa=isa, **draw)
    edges = [0, 1, 3, 8, 14, 30, 63, 95, 150]
    for a, b in zip(edges, edges[1:], strict=False):
        part = sweep_sparse(problem, b - a, BETAS, seeds, first_replica=a, isa=isa, **draw)
        assert torch.equal(part.spins, whole.spins[:, a:b]) and torch.equal(
            part.energy, whole.energy[:, a:b]
        )


# ---- shapes ----------------

SHAPES = [
    (1, 0), (2, 0), (2, 1), (5, 0), (7, 1), (9, 36), (16, 15), (17, 40), (31, 100), (64, 64),
    (65, 200), (70, 2415),
]  # fmt: skip


# One, pairs and odd numbers of replicas, and whole blocks of lanes with more and fewer.
COUNTS = [1, 2, 3, 7, 8, 9, 31, 33, 64, 65, 130]


@EACH_DRAW
@pytest.mark.parametrize(("n", "edges"), thinned(SHAPES, 5))
def test_the_law_bit_for_bit(draw, n, edges):
    rng = np.random.default_rng(n)
    problem = numbered(random_graph(n, edges, seed=n), seed=n)
    for num in COUNTS:
        seed, first, sweep = (int(x) for x in rng.integers(0, 2**30, 3))
        betas = torch.from_numpy(rng.uniform(0, 2, (2, 1, num)).astype(np.float32))
        how = {"first_replica": first, "first_sweep": sweep, **draw}
        spins = assert_lawful(sweep_sparse, problem, num, betas, [seed], **how)
        how["first_sweep"] += 2
        assert_lawful(sweep_sparse, problem, num, betas[:, 0, 0], [seed], spins=spins, **how)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("rule", RULES)
def test_numbers_of_every_size_bit_for_bit(numbers, rule):
    """Over enough sweeps that tables pay, from hot to cold."""
    problem = numbered(random_graph(40, 110), numbers)
    betas = torch.logspace(-1.5, 1, 30)
    for num in (1, 5, 70):
        assert_lawful(sweep_sparse, problem, num, betas, [num], rule=rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("by_lane", [False, True])
def test_ten_million_decisions_are_those_of_the_plain_rule(rule, by_lane):
    """What a filter decides by its bounds, and leaves open, on each instruction set."""
    problem = numbered(random_graph(400, 1600))
    betas = torch.linspace(0.1, 2, 100)
    if by_lane:
        betas = betas[:, None, None] * torch.linspace(0.5, 1.5, 256)
    plain = sweep_sparse(problem, 256, betas, [1], rule=rule, isa="plain")
    for isa in ISAS:
        swept = sweep_sparse(problem, 256, betas, [1], rule=rule, isa=isa)
        assert torch.equal(swept.spins, plain.spins), isa
        assert torch.equal(swept.energy, plain.energy), isa


@pytest.mark.parametrize("trial", thinned(range(40), 3))
def test_batches_of_any_shape_bit_for_bit(trial):
    rng = np.random.default_rng(trial)
    n, P, num = int(rng.integers(1, 40)), int(rng.integers(1, 7)), int(rng.integers(1, 50))
    graph = random_graph(n, int(rng.integers(0, n * (n - 1) // 2 + 1)), trial)
    numbers = list(NUMBERS)[trial % len(NUMBERS)]
    problem = numbered(graph, numbers, (P,), (P,) if trial % 2 else (), trial)
    draw = list(DRAW.values())[trial // 2 % len(DRAW)]
    betas = torch.from_numpy(rng.uniform(0, 2, (3, P, num)).astype(np.float32))
    seeds = rng.integers(0, 2**63, P).tolist()
    spins = assert_lawful(sweep_sparse, problem, num, betas, seeds, **draw)
    assert_lawful(
        sweep_sparse, problem, num, torch.ones(3), seeds, spins=spins, first_sweep=3, **draw
    )


@EACH_ISA
def test_nothing_to_do(isa):
    empty = Ising(Graph.sparse(0, []), torch.zeros(0), torch.zeros(0), 1.5)
    swept = sweep_sparse(empty, 3, [1.0], [0], isa=isa)
    assert swept.spins.shape == (1, 3, 0) and swept.energy.tolist() == [[1.5] * 3]
    problem = normal(random_graph(9, 12))
    assert sweep_sparse(problem, 0, [1.0], [0], isa=isa).spins.shape == (1, 0, 9)
    start = torch.ones(1, 5, 9, dtype=torch.int8)
    still = sweep_sparse(problem, 5, [], [0], spins=start, isa=isa)
    assert torch.equal(still.spins, start) and still.sweeps == 0
    assert torch.allclose(still.energy.float(), problem.energy(start))


@EACH_ISA
@pytest.mark.parametrize("num", [1, 50])
@pytest.mark.parametrize("rule", RULES)
def test_extreme_fields_neither_overflow_nor_stick(isa, num, rule):
    for sign in (1, -1):
        problem = Ising(
            Graph.sparse(3, [(0, 1)]), torch.tensor([1e4, -3e38 * sign, 0.0]), torch.tensor([1e37])
        )
        spins = sweep_sparse(problem, num, [1.0] * 20, [1], rule=rule, isa=isa).spins * sign
        assert (spins[..., 1] == 1).all() and (spins[..., 0] != spins[..., 1]).all()
        frozen = sweep_sparse(problem, num, [3e38] * 5, [1], rule=rule, isa=isa).spins
        assert (frozen.abs() == 1).all()


# ---- the former 16 bits ----------------


@pytest.mark.parametrize("make", [Gibbs, SimulatedAnnealing])
@pytest.mark.parametrize("graph", [SIXTEEN, Graph.complete(6), Graph.bipartite(5, 4)])
def test_fixed16_is_another_name_of_full(make, graph):
    problem = numbered(graph)
    full, same_draws = (
        make(20, precision=precision).sample(problem, 64, generator=generator(1))
        for precision in ("full", "fixed16")
    )
    assert torch.equal(same_draws.spins, full.spins)
    assert torch.equal(same_draws.energy, full.energy)
    assert same_draws.exactness is full.exactness
    large = problem.scale(1e6).to(dtype=torch.float64)  # in double precision too
    assert native_for(large, "fixed16") is not None
    wide = make(20, precision="fixed16").sample(large, 4, generator=generator(2))
    assert torch.equal(wide.spins, make(20).sample(large, 4, generator=generator(2)).spins)


# ---- errors ----------------


def arguments(**changed: Any) -> list[Any]:
    graph = random_graph(4, 5)
    given: dict[str, Any] = dict(
        spins=np.ones((6, 4), np.int8), energy=np.empty(6), done=np.empty(6, np.int32),
        **structure(graph)._asdict(),
        h=np.zeros((2, 4), np.float32), J=np.zeros((1, 5), np.float32),
        beta=np.ones((3, 1), np.float32), seed=np.zeros(2, np.int64),
        first_replica=0, first_sweep=0, metropolis=False, palindromic=False,
        random_start=True, threads=1, isa="", alive=None,
    )  # fmt: skip
    return list((given | changed).values())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spins": np.ones((5, 4), np.int8)}, "rows of spins to be a multiple"),
        ({"spins": np.ones((6, 3), np.int8)}, r"spins \[P R, n\]"),
        ({"energy": np.empty(5)}, "one energy and one"),
        ({"done": np.empty(5, np.int32)}, "one energy and one"),
        ({"seed": np.zeros(3, np.int64)}, "one seed a problem"),
        ({"order": np.zeros(3, np.int32)}, "structure of a graph"),
        ({"start": np.zeros(4, np.int32)}, "structure of a graph"),
        ({"near": np.zeros(9, np.int32)}, "structure of a graph"),
        ({"J": np.zeros((3, 5), np.float32)}, r"J \[1 or P, k\]"),
        ({"J": np.zeros((1, 4), np.float32)}, "one number an edge"),
        ({"beta": np.ones((3, 4), np.float32)}, r"beta \[S, 1 or P R\]"),
        ({"threads": 0}, "threads >= 1"),
        ({"isa": "sse9"}, "no instruction set 'sse9'"),
        ({"first_sweep": 2**31 - 3}, r"first_sweep \+ S < 2\*\*31"),
        ({"first_sweep": -1}, r"0 <= first_sweep"),
        ({"first_replica": 2**32 - 2}, r"first_replica \+ R <= 2\*\*32"),
        ({"first_replica": -1}, r"0 <= first_replica"),
    ],
)
def test_errors_are_one_line(changed, message):
    _engine.sweep(*arguments())
    with pytest.raises(ValueError, match=message) as caught:
        _engine.sweep(*arguments(**changed))
    assert re.fullmatch(r"[^\n]+", str(caught.value))


# ---- interrupts ----------------

LONG = [0.5] * 2_000_000  # minutes, were it not stopped


def test_listed_betas_are_of_single_precision_whatever_the_default():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        columns = columns_of([0.1, 1 / 3])
    finally:
        torch.set_default_dtype(before)
    assert columns.tolist() == torch.tensor([[0.1], [1 / 3]], dtype=torch.float32).tolist()


def native_threads(most: float = math.inf) -> int:
    """Threads of this process, once they are at most so many: one that was joined takes a while."""
    if not os.path.isdir("/proc/self/task"):
        return 0
    end = time.monotonic() + 2
    while (count := len(os.listdir("/proc/self/task"))) > most and time.monotonic() < end:
        time.sleep(0.01)
    return count


# one read, two blocks, and one block that threads sweep together
STOPPED = {
    "1": (1, lambda: random_graph(200, 600)),
    "100": (100, lambda: random_graph(200, 600)),
    "64, together": (64, lambda: torus(40)),
}


@pytest.mark.parametrize("reads", STOPPED)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_alive_false_returns_what_is_done(reads, count, threads):
    threads(count)
    num, graph = STOPPED[reads]
    problem = normal(graph())
    asked: list[float] = []

    def alive() -> bool:
        asked.append(time.perf_counter())
        return asked[-1] - asked[0] < 0.2

    swept = sweep_sparse(problem, num, LONG, [1], alive=alive)
    assert len(asked) > 1 and 0.2 <= asked[-1] - asked[0] < 20
    assert swept.sweeps == swept.done.min() < len(LONG) and swept.done.max() > 0
    assert torch.allclose(
        swept.energy[0].float(), problem.energy(swept.spins[0]), rtol=1e-4, atol=1e-3
    )
    # what is done is done right: as many sweeps asked for give the same state
    for r in (0, num - 1):
        betas = LONG[: int(swept.done[0, r])]
        again = sweep_sparse(problem, 1, betas, [1], first_replica=r)
        assert torch.equal(again.spins[0, 0], swept.spins[0, r])


@pytest.mark.parametrize("num", [1, 100])
def test_an_error_in_alive_is_raised(num):
    with pytest.raises(ZeroDivisionError):
        sweep_sparse(normal(random_graph(200, 600)), num, LONG, [1], alive=lambda: 1 // 0 == 0)


@pytest.mark.parametrize("num", [1, 100])
def test_ctrl_c_surfaces_and_leaves_no_thread(num, threads):
    threads(2)
    problem = normal(random_graph(200, 600))
    sweep_sparse(problem, num, LONG[:5000], [1])  # torch's pool starts at first use, and stays
    before, sent = native_threads(), []

    def press() -> None:
        sent.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.3, press)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        sweep_sparse(problem, num, LONG, [1])
    assert time.perf_counter() - sent[0] < 5  # some 50 ms, but for a busy machine
    timer.join()
    assert native_threads(before) <= before
