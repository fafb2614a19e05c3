"""The native bipartite kernel: its law, its energies, and bits no split of the work changes."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from qsample import Graph, Ising, Samples
from qsample.annealers import Gibbs, _engine
from qsample.annealers.kernels.native import Bipartite, sweep_bipartite
from qsample.annealers.kernels.precision import field_sizes
from qsample.annealers.kernels.sweeper import clock, native_for
from qsample.testing import FALSE_ALARM, g_test
from tests.support.problems import NUMBERS, numbered
from tests.support.reference_sweep import assert_lawful
from tests.support.sweeps import run
from tests.support.thinning import thinned

ISAS = _engine.instruction_sets()
RULES = ["gibbs", "metropolis"]
SCANS = ["forward", "palindromic"]
EACH_ISA = pytest.mark.parametrize("isa", ISAS)
COUNTS = [1, 2, 3, 7, 8, 9, 31, 33, 64, 65, 130]
SIZES = [(1, 1), (3, 0), (0, 2), (5, 4), (33, 9), (67, 130)]


def normal(
    n: int,
    m: int,
    h: tuple[int, ...] = (),
    J: tuple[int, ...] = (),
    scale: float = 0.5,
    seed: int = 0,
) -> Ising:
    g = torch.Generator().manual_seed(seed)
    fields, couplings = (
        scale * torch.randn(*h, n + m, generator=g),
        scale * torch.randn(*J, n, m, generator=g),
    )
    return Ising(Graph.bipartite(n, m), fields, couplings, torch.randn(h, generator=g))


def part(problem: Ising, k: Any) -> Ising:
    J = problem.J[k] if problem.J.dim() > 2 else problem.J
    return Ising(problem.graph, problem.h[k], J, problem.offset[k])


# ---- the law ----------------

LAWS = {
    "sixteen spins": normal(9, 7, scale=0.25),
    "a batch sharing J": normal(4, 3, h=(3,)),
    "a batch with a J each": normal(4, 3, h=(3,), J=(3,)),
}
FORMS = {
    "forward": {},
    "palindromic": {"scan": "palindromic"},
    "a beta each": {},
}
SHARE = FALSE_ALARM / (len(RULES) * (len(LAWS) * len(FORMS) + 2))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", thinned(LAWS, 3))
@pytest.mark.parametrize("form", thinned(FORMS, 2))
def test_reads_follow_the_law(rule, name, form):
    problem, reads = LAWS[name], 20_000
    P = problem.batch_shape.numel()
    betas, scales = torch.ones(60), [1.0]
    if form == "a beta each":  # two temperatures by turns
        scales = [1.0, 0.5]
        betas = betas[:, None, None] * torch.tensor(scales).repeat(reads // 2).expand(P, -1)
    swept = sweep_bipartite(problem, reads, betas, list(range(P)), rule=rule, **FORMS[form])
    for k, scale in enumerate(scales):
        spins = swept.spins.reshape(*problem.batch_shape, reads, -1)[..., k :: len(scales), :]
        verdicts = g_test(problem.scale(scale), Samples(spins, problem.energy(spins)))
        assert min(p for p, _, _ in verdicts) > SHARE / len(scales) / P


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scan", ["forward", "palindromic"])
def test_the_torch_kernel_follows_the_law(rule, scan):
    """What other devices and double precision run."""
    problem = LAWS["sixteen spins"]
    spins, energy, _ = run(problem, 20_000, [1.0] * 60, [1], rule=rule, scan=scan, native=False)
    assert g_test(problem, Samples(spins, energy))[0][0] > SHARE / 2


# ---- energies ----------------


@EACH_ISA
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("shape", [((), ()), ((3,), ()), ((3,), (3,))])
@pytest.mark.parametrize("scan", SCANS)
def test_energies_are_those_of_the_spins(isa, sizes, shape, scan):
    problem = normal(*sizes, *shape)
    grid = Ising(
        problem.graph, (problem.h * 64).round() / 64, (problem.J * 64).round() / 64, problem.offset
    )
    seeds = list(range(problem.batch_shape.numel()))
    for num in (1, 17, 70):
        for sweeps in (0, 1, 3):
            swept = sweep_bipartite(grid, num, [0.5] * sweeps, seeds, isa=isa, scan=scan)
            spins = swept.spins.reshape(*problem.batch_shape, num, -1)
            exact = grid.to(dtype=torch.float64).energy(spins)
            # sums on a grid have no error
            assert torch.equal(swept.energy.reshape(exact.shape), exact)


def test_energy_is_right_to_units():
    """h and J are each rounded to a unit of 2^-26 at most of the largest field."""
    problem = normal(300, 200, scale=0.1)
    swept = sweep_bipartite(problem, 64, [1.0] * 3, [1])
    exact = problem.to(dtype=torch.float64).energy(swept.spins[0])
    unit = 2**-26 * float(field_sizes(problem))
    assert float((swept.energy[0] - exact).abs().max()) < (300 * 200 + 500) * unit / 2
    assert float(exact.std()) > 1


# ---- bit for bit ----------------

BETAS = torch.linspace(0.2, 1.5, 5)
DRAWS: list[dict[str, Any]] = [{"rule": rule, "scan": scan} for rule in RULES for scan in SCANS]


LARGE = [(draw, (300, 260)) for draw in DRAWS]


@pytest.mark.parametrize(
    ("draw", "sizes"), [*itertools.product(DRAWS, SIZES), *thinned(LARGE, len(LARGE))]
)
def test_the_law_bit_for_bit(draw, sizes):
    rng = np.random.default_rng(sum(sizes))
    problem = numbered(Graph.bipartite(*sizes), seed=sizes[0])
    for num in COUNTS:
        seed, sweep = (int(x) for x in rng.integers(0, 2**30, 2))
        betas = torch.from_numpy(rng.uniform(0, 2, (2, 1, num)).astype(np.float32))
        spins = assert_lawful(
            sweep_bipartite, problem, num, betas, [seed], first_sweep=sweep, **draw
        )
        how = {"spins": spins, "first_sweep": sweep + 2, **draw}
        assert_lawful(sweep_bipartite, problem, num, betas[:, 0, 0], [seed], **how)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("rule", RULES)
def test_numbers_of_every_size_bit_for_bit(numbers, rule):
    problem = numbered(Graph.bipartite(45, 30), numbers)
    betas = torch.logspace(-1.5, 1, 20)
    for num in (1, 5, 70):
        assert_lawful(sweep_bipartite, problem, num, betas, [num], rule=rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("by_lane", thinned([True, False], 2))
def test_ten_million_decisions_are_those_of_the_plain_rule(rule, by_lane):
    """What a filter decides by its bounds, and leaves open, on each instruction set."""
    problem = numbered(Graph.bipartite(220, 180))
    betas = torch.linspace(0.1, 2, 100)
    if by_lane:
        betas = betas[:, None, None] * torch.linspace(0.5, 1.5, 256)
    plain = sweep_bipartite(problem, 256, betas, [1], rule=rule, isa="plain")
    for isa in ISAS:
        swept = sweep_bipartite(problem, 256, betas, [1], rule=rule, isa=isa)
        assert torch.equal(swept.spins, plain.spins), isa
        assert torch.equal(swept.energy, plain.energy), isa


# a table's entries reach as far as four of the largest couplings, a field as far as all of them
@pytest.mark.parametrize("kind", ["one large", "heavy tails", "positive"])
@pytest.mark.parametrize("sizes", [(7, 190), (120, 33)])
def test_instruction_sets_agree_whatever_the_couplings(kind, sizes):
    torch.manual_seed(3)
    J = torch.randn(sizes) * 0.2
    if kind == "one large":
        J[0, 0] = 60.0
    elif kind == "heavy tails":
        J /= torch.rand(sizes).clamp(min=1e-3)
    else:
        J = J.abs()
    problem = Ising(Graph.bipartite(*sizes), torch.randn(sum(sizes)), J)
    betas = [0.3] * 12 + [1.0] * 8
    plain = sweep_bipartite(problem, 130, betas, [7], isa="plain")
    for isa in ISAS:
        swept = sweep_bipartite(problem, 130, betas, [7], isa=isa)
        assert torch.equal(swept.spins, plain.spins), isa
        assert torch.equal(swept.energy, plain.energy), isa


@pytest.mark.parametrize("sizes", [(33, 9), (1, 1), (3, 2), (67, 130)])
@pytest.mark.parametrize("J", [(), (3,)], ids=["J shared", "J each"])
def test_batches_bit_for_bit(sizes, J):
    rng = np.random.default_rng(sum(sizes))
    problem, seeds = numbered(Graph.bipartite(*sizes), "normal", (3,), J), [7, 8, 2**63 - 1]
    draws = DRAWS if J else DRAWS[::-1]
    for num, draw in zip((1, 6, 33, 140), draws, strict=True):
        betas = torch.from_numpy(rng.uniform(0, 2, (2, 3, num)).astype(np.float32))
        start = 2 * torch.from_numpy(rng.integers(0, 2, (3, num, sum(sizes)), dtype=np.int8)) - 1
        assert_lawful(sweep_bipartite, problem, num, betas, seeds, spins=start, **draw)


@EACH_ISA
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("J", [(), (9,)], ids=["J shared", "J each"])
@pytest.mark.parametrize("num", [1, 7, 40, 270])
def test_batch_threads_and_position_change_nothing(isa, draw, J, num):
    problem, seeds = normal(23, 14, (9,), J), list(range(100, 109))
    beta = torch.rand(4, 9, num, generator=torch.Generator().manual_seed(0))
    start = (
        2
        * torch.randint(
            2, (9, num, 37), dtype=torch.int8, generator=torch.Generator().manual_seed(1)
        )
        - 1
    )
    together = sweep_bipartite(problem, num, beta, seeds, spins=start, isa=isa, **draw)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = sweep_bipartite(problem, num, beta, seeds, spins=start, isa=isa, **draw)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together.spins, again.spins) and torch.equal(together.energy, again.energy)
    for k in (slice(0, 1), slice(4, 5), slice(2, 8)):
        alone = sweep_bipartite(
            part(problem, k), num, beta[:, k], seeds[k], spins=start[k], isa=isa, **draw
        )
        assert torch.equal(alone.spins, together.spins[k]) and torch.equal(
            alone.energy, together.energy[k]
        )


@pytest.mark.parametrize("threads", [1, 2])
def test_large_calls_are_shared_out_over_threads_alike(threads):
    problem, before = normal(200, 130, scale=0.1), torch.get_num_threads()
    expected = sweep_bipartite(problem, 300, [1.0] * 20, [5]).spins[:, :150]
    try:
        torch.set_num_threads(threads)
        assert torch.equal(sweep_bipartite(problem, 150, [1.0] * 20, [5]).spins, expected)
    finally:
        torch.set_num_threads(before)


def test_start_is_continued_and_kept():
    problem = normal(6, 5)
    start = torch.ones(1, 3, 11, dtype=torch.int8)
    swept = sweep_bipartite(problem, 3, [], [1], spins=start)
    assert torch.equal(swept.spins, start)
    moved = sweep_bipartite(problem, 3, [0.0], [1], spins=start)
    assert not torch.equal(moved.spins, start) and bool((start == 1).all())


@pytest.mark.parametrize("draw", DRAWS)
def test_a_run_goes_on_where_it_stopped(draw):
    problem = normal(23, 14)
    whole = sweep_bipartite(problem, 9, BETAS, [4], **draw)
    first = sweep_bipartite(problem, 9, BETAS[:2], [4], **draw)
    rest = sweep_bipartite(problem, 9, BETAS[2:], [4], spins=first.spins, first_sweep=2, **draw)
    assert torch.equal(rest.spins, whole.spins) and torch.equal(rest.energy, whole.energy)


@EACH_ISA
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("threads", [1, 2])
def test_chains_that_are_kept_draw_as_fresh_ones(isa, scan, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    problem = normal(37, 21, (2,), scale=0.2)
    betas = torch.rand(5, 2, 70, generator=torch.Generator().manual_seed(1))
    betas[3:] *= 1e-3  # for which tables are made anew
    seeds = [3, 4]
    whole = sweep_bipartite(problem, 70, betas, seeds, isa=isa, scan=scan)
    kept = Bipartite(problem, 70, seeds, isa=isa, scan=scan)
    energy = torch.empty(0)
    for sweep, beta in enumerate(betas):
        before = kept.spins.clone() if sweep else None
        energy = kept.sweep(beta[None], sweep).energy
        if sweep == 1 and before is not None:  # elsewhere and back
            after = kept.spins.clone()
            kept.take(before)
            assert torch.equal(kept.sweep(beta[None], sweep).energy, energy)
            assert torch.equal(kept.spins, after)
    assert torch.equal(kept.spins, whole.spins) and torch.equal(energy, whole.energy)


@pytest.mark.parametrize(
    ("sizes", "field"), [((40, 30), 8.0), ((40, 30), 0.1), ((3, 2100), 0.1), ((2100, 3), 2.0)]
)
def test_strong_fields_and_long_rows_are_summed_exactly(sizes, field):
    problem = normal(*sizes, scale=0.1)
    problem = Ising(problem.graph, field * problem.h.sign(), problem.J)
    start = torch.Generator().manual_seed(2)
    spins = torch.randint(2, (1, 80, sum(sizes)), generator=start).to(torch.int8) * 2 - 1
    for scan in SCANS:
        draw: dict[str, Any] = {"spins": spins, "scan": scan}
        plain = sweep_bipartite(problem, 80, [0.5, 0.5], [1], isa="plain", **draw)
        for isa in ISAS:
            swept = sweep_bipartite(problem, 80, [0.5, 0.5], [1], isa=isa, **draw)
            assert torch.equal(swept.spins, plain.spins)
            assert torch.equal(swept.energy, plain.energy)


def test_problems_that_share_units_or_filters_draw_as_alone():
    problem = normal(30, 20, (5,), scale=0.2)
    scale = torch.tensor([99.0, 99.0, 9.0, 1.0, 1.0])[
        :, None
    ]  # levels of a path: hot, strong fields
    problem = Ising(problem.graph, problem.h * scale, problem.J)
    betas = (1 / scale).expand(3, 5, 70)
    together = sweep_bipartite(problem, 70, betas, [0, 1, 2, 3, 4])
    for p in range(5):
        part = problem.take(torch.tensor([p]))
        alone = sweep_bipartite(part, 70, betas[:, p : p + 1], [p])
        assert torch.equal(alone.spins[0], together.spins[p])
        assert torch.equal(alone.energy[0], together.energy[p])


def test_interrupt_returns_what_is_done():
    problem = normal(200, 150, scale=0.1)
    swept = sweep_bipartite(problem, 64, [1.0] * 100_000, [1], alive=clock(0.1))
    assert 0 < int(swept.done.max()) < 100_000 and swept.sweeps == int(swept.done.min())
    exact = problem.to(dtype=torch.float64).energy(swept.spins)
    torch.testing.assert_close(swept.energy, exact, rtol=1e-6, atol=1e-3)


def test_who_serves_whom():
    problem = normal(2, 3)
    assert native_for(problem) is sweep_bipartite
    assert native_for(problem.to(dtype=torch.float64)) is sweep_bipartite
    with pytest.raises(ValueError, match="instruction set 'mmx'"):
        sweep_bipartite(problem, 2, [1.0], [1], isa="mmx")


@pytest.mark.parametrize("name", ["h", "J"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_name(name, value):
    problem = normal(6, 5)
    where = (4,) if name == "h" else (4, 2)
    getattr(problem, name)[where] = value
    place = str(list(where)).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=f"{name}{place} is {value}: expected finite numbers only"):
        Gibbs(1).sample(problem, 4)
