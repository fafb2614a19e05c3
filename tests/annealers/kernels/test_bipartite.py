"""The native bipartite kernel: its law, its energies, and bits no split of the work changes."""

from typing import Any

import numpy as np
import pytest
import torch

from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import Gibbs, _engine
from qsample.annealers.kernels.native import sweep_bipartite
from qsample.annealers.kernels.sweeper import clock, native_for
from qsample.testing import FALSE_ALARM, g_test
from tests.support.reference_sweep import Fixed16, random_bits
from tests.support.sweeps import run
from tests.support.thinning import thinned

ISAS = _engine.instruction_sets()
RULES = ["gibbs", "metropolis"]
SCANS = ["forward", "palindromic"]
EACH_ISA = pytest.mark.parametrize("isa", ISAS)
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
    "16 bits": {"precision": "fixed16"},
}
SHARE = FALSE_ALARM / (len(RULES) * (len(ISAS) * len(LAWS) * len(FORMS) + 2))


@EACH_ISA
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", thinned(LAWS, 3))
@pytest.mark.parametrize("form", thinned(FORMS, 2))
def test_reads_follow_the_law(isa, rule, name, form):
    problem, reads = LAWS[name], 20_000
    P = problem.batch_shape.numel()
    betas, scales = torch.ones(60), [1.0]
    if form == "a beta each":  # two temperatures by turns
        scales = [1.0, 0.5]
        betas = betas[:, None, None] * torch.tensor(scales).repeat(reads // 2).expand(P, -1)
    swept = sweep_bipartite(
        problem, reads, betas, list(range(P)), rule=rule, isa=isa, **FORMS[form]
    )
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
@pytest.mark.parametrize("form", [{}, {"scan": "palindromic"}, {"precision": "fixed16"}])
def test_energies_are_those_of_the_spins(isa, sizes, shape, form):
    problem = normal(*sizes, *shape)
    grid = Ising(
        problem.graph, (problem.h * 64).round() / 64, (problem.J * 64).round() / 64, problem.offset
    )
    seeds = list(range(problem.batch_shape.numel()))
    for num in (1, 17, 70):
        for sweeps in (0, 1, 3):
            swept = sweep_bipartite(grid, num, [0.5] * sweeps, seeds, isa=isa, **form)
            spins = swept.spins.reshape(*problem.batch_shape, num, -1)
            exact = grid.to(dtype=torch.float64).energy(spins)
            # sums on a grid have no error
            assert torch.equal(swept.energy.reshape(exact.shape), exact)


def test_energy_is_right_to_single_precision():
    problem = normal(300, 200, scale=0.1)
    swept = sweep_bipartite(problem, 64, [1.0] * 3, [1])
    exact = problem.to(dtype=torch.float64).energy(swept.spins[0])
    # a sum of at most n + 1 terms errs by less than n eps times the sum of their sizes; there is
    # one for each spin
    size = float(problem.h.abs().sum() + problem.J.abs().sum())
    assert float((swept.energy[0] - exact).abs().max()) < 300 * 2**-24 * size
    assert float(exact.std()) > 1


# ---- bit for bit ----------------

BETAS = torch.linspace(0.2, 1.5, 5)
DRAWS: list[dict[str, Any]] = [{"rule": rule, "scan": scan} for rule in RULES for scan in SCANS]
DRAWS += [{"rule": rule, "precision": "fixed16"} for rule in RULES]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("sizes", SIZES)
def test_instruction_sets_agree(draw, sizes):
    problem = normal(*sizes)
    found = [sweep_bipartite(problem, 70, BETAS, [3], isa=isa, **draw) for isa in ISAS]
    for one in found[1:]:  # e^x differs in its last place: one draw in millions could
        assert torch.equal(one.spins, found[0].spins)


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
@pytest.mark.parametrize("precision", ["full", "fixed16"])
def test_large_calls_are_shared_out_over_threads_alike(threads, precision):
    problem, before = normal(200, 130, scale=0.1), torch.get_num_threads()
    expected = sweep_bipartite(problem, 300, [1.0] * 20, [5], precision=precision).spins[:, :150]
    try:
        torch.set_num_threads(threads)
        assert torch.equal(
            sweep_bipartite(problem, 150, [1.0] * 20, [5], precision=precision).spins, expected
        )
    finally:
        torch.set_num_threads(before)


class Reference(Fixed16):
    """The 16-bit sweep once more, spin by spin, in NumPy."""

    def __init__(self, problem: Ising, rule: str) -> None:
        n, m = problem.graph.sizes
        edges = [(i, n + j) for i in range(n) for j in range(m)]
        super().__init__(Ising(Graph.sparse(n + m, edges), problem.h, problem.J.flatten()), rule)
        self.sides, self.h = (range(n), range(n, n + m)), problem.h.numpy()
        self.coupling = np.zeros((n + m, n + m), dtype=np.float32)
        self.coupling[:n, n:] = self.twice_J.reshape(n, m)
        self.coupling += self.coupling.T

    def sweep(self, up: np.ndarray, number: int, beta: np.ndarray, seed: int, back: bool) -> None:
        replica, unit = np.arange(len(up)), self.unit
        for side, visit in [
            (1, 2 * number),
            (0, 2 * number),
            *([(1, 2 * number + 1)] if back else []),
        ]:
            for i in self.sides[side]:
                base = np.rint(
                    (self.h[i] - unit * self.coupling[i].sum() / np.float32(2)) * self.inverse
                )
                q, word = base + up @ self.coupling[i], random_bits(seed, replica >> 1, visit, i)
                below = self.below(
                    q, beta, np.where(replica & 1, word >> np.uint32(16), word & np.uint32(65535))
                )
                up[:, i] = (
                    below ^ (q < 0)
                    if self.rule == "gibbs"
                    else up[:, i] ^ (up[:, i] ^ (q < 0) | below)
                )


@EACH_ISA
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("sizes", thinned([[33, 9], [1, 1], [3, 2], [67, 130]], 4))
def test_16_bits_spin_by_spin(isa, rule, back, sizes):
    rng = np.random.default_rng(sum(sizes))
    problem = normal(*sizes, h=(2,), scale=1 / max(sizes) ** 0.5)
    for num in (1, 6, 33, 70, 290):
        betas, first = rng.uniform(0, 2, (2, 2, num)).astype(np.float32), int(rng.integers(2**30))
        start = 2 * torch.from_numpy(rng.integers(0, 2, (2, num, sum(sizes)), dtype=np.int8)) - 1
        how: dict[str, Any] = {
            "rule": rule,
            "scan": "palindromic" if back else "forward",
            "precision": "fixed16",
            "first_sweep": first,
        }
        swept = sweep_bipartite(
            problem, num, torch.from_numpy(betas), [7, 8], spins=start, isa=isa, **how
        )
        for p in range(2):
            up = start[p].numpy() > 0
            for k in range(2):
                now = rule if (first + k) % 4 else "gibbs"
                reference = Reference(Ising(problem.graph, problem.h[p], problem.J), now)
                reference.sweep(up, first + k, betas[k, p], 7 + p, back)
            assert np.array_equal(swept.spins[p].numpy() > 0, up)


def test_16_bits_refuse_what_they_cannot_hold():
    problem, large = normal(5, 4), normal(5, 4)
    large.h[3] = 1e5
    with pytest.raises(
        ValueError,
        match=r"2 beta \|f\| up to 512; got beta 1 with a field of up to 10000.*use precision",
    ):
        sweep_bipartite(large, 4, [1.0], [0], precision="fixed16")
    with pytest.raises(ValueError, match="got beta 1000 with a field"):
        sweep_bipartite(problem, 4, [1.0, 1000.0], [0], precision="fixed16")
    with pytest.raises(ValueError, match="betas >= 0 beside"):
        sweep_bipartite(problem, 4, [-1.0], [0], precision="fixed16")
    zero = Ising(problem.graph, torch.zeros(9), torch.zeros(5, 4))
    assert sweep_bipartite(zero, 4, [1.0], [0], precision="fixed16").sweeps == 1


def test_samplers_in_16_bits():
    problem = normal(9, 7, h=(3,))
    found = Gibbs(20, precision="fixed16").sample(problem, 64)
    assert found.exactness is Exactness.HEURISTIC
    assert torch.allclose(found.energy, problem.energy(found.spins), rtol=1e-5, atol=1e-4)
    double = Gibbs(20, precision="fixed16").sample(problem.to(dtype=torch.float64), 2)
    assert double.energy.dtype == torch.float64


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


@pytest.mark.parametrize("precision", ["full", "fixed16"])
def test_interrupt_returns_what_is_done(precision):
    problem = normal(200, 150, scale=0.1)
    swept = sweep_bipartite(
        problem, 64, [1.0] * 100_000, [1], alive=clock(0.1), precision=precision
    )
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
