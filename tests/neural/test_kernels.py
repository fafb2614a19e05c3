"""Kernels on a neural energy: transition matrices by enumeration, reads by G-tests, power."""

from contextlib import contextmanager
from functools import partial
from itertools import combinations, product

import pytest
import torch
from scipy.stats import power_divergence

from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import (
    Corrected,
    Exact,
    Gibbs,
    ParallelTempering,
    SimulatedAnnealing,
    TemperedGibbs,
)
from qsample.diffusion import (
    BlockMetropolis,
    Counted,
    Cycle,
    DiscreteLangevin,
    GibbsWithGradients,
    SiteGibbs,
    TemperedTransitions,
    linear,
    regression,
    secant,
    taylor,
)
from qsample.neural.kernel import Chains, Kernel
from qsample.problem.enumeration import states
from qsample.testing import FALSE_ALARM
from tests.support.exact import Z_MAX, a_problem, all_states, untyped
from tests.support.neural import CHAINS, FITTED, KERNELS, NET, PALINDROMIC, SITES, network
from tests.support.seeds import generator
from tests.support.thinning import thinned

K5 = Graph.complete(5)
EXACT = 1e-12


def listed(n):
    return torch.tensor(all_states(n), dtype=torch.float64)


def number(s):
    """Of a state, in `listed`."""
    return ((s > 0) * 2 ** torch.arange(s.shape[-1]).flip(0)).sum(-1)


# ---- transition matrices ----------------


@contextmanager
def ratios(monkeypatch):
    """The log acceptance ratios of the moves made inside, `[*B, R]` each; all are accepted."""
    found = []

    def accept(self, log_ratio):
        found.append(log_ratio.clone())
        return self.count(torch.ones_like(log_ratio, dtype=torch.bool))

    with monkeypatch.context() as patch:
        patch.setattr(Chains, "accept", accept)
        yield found


def chain(moves):
    """The matrix of moves (from, to, probability) `[k]` each; what is left stays."""
    x, y, p = moves
    size = int(x.max()) + 1
    P = torch.zeros(size, size, dtype=torch.float64).index_put((x, y), p, accumulate=True)
    return P + (1 - P.sum(1)).diag()


def broken(law, P):
    """(violation of law P = law, violation of detailed balance)."""
    assert P.min() > -EXACT
    flow = law[:, None] * P
    return float((law @ P - law).abs().max()), float((flow - flow.T).abs().max())


@pytest.mark.parametrize("kernel", [GibbsWithGradients(), DiscreteLangevin(1.5)])
def test_first_order_moves_have_detailed_balance(kernel, monkeypatch):
    n = 5
    E, S = network(n), listed(n)
    law, x = (-E(S)).softmax(-1), torch.arange(2**n)
    at = S.clone().requires_grad_()
    g = torch.autograd.grad(E(at).sum(), at)[0]
    if isinstance(kernel, GibbsWithGradients):
        targets = [torch.where(torch.arange(n) == i, -S, S) for i in range(n)]
        q = [(S * g).softmax(-1)[:, i] for i in range(n)]
    else:
        targets = [s.expand(2**n, n) for s in S]
        p = torch.sigmoid(S * g - 2 / kernel.step_size)
        q = [torch.where(y != S, p, 1 - p).prod(-1) for y in targets]
    torch.testing.assert_close(sum(q), torch.ones(2**n, dtype=torch.float64), rtol=0, atol=EXACT)
    moves, careless = [], []
    for y, q_y in zip(targets, q, strict=True):
        monkeypatch.setattr(type(kernel), "propose", lambda self, s, g, chains, y=y: y)
        with ratios(monkeypatch) as found:
            kernel.sample(E, S, generator=generator())
        there = number(y)
        moves.append((x, there, q_y * found[0].exp().clamp(max=1)))
        # without the reverse proposal
        careless.append((x, there, q_y * (E(S) - E(y)).exp().clamp(max=1)))
    invariant, balance = broken(law, chain([torch.cat(t) for t in zip(*moves, strict=True)]))
    assert invariant < EXACT and balance < EXACT
    assert broken(law, chain([torch.cat(t) for t in zip(*careless, strict=True)]))[0] > 1e-3


class Told:
    """A sampler that proposes what it is told, for every chain, and keeps the problem."""

    warm_start = reversible = True
    y: torch.Tensor

    def sample(self, problem, num, *, initial=None, generator=None):
        self.problem = problem.to(dtype=torch.float64)
        spins = self.y.to(torch.int8).expand(*problem.batch_shape, num, -1).clone()
        return Samples(spins, problem.energy(spins), exactness=Exactness.ASYMPTOTIC)


def heat_bath(E, i):
    """One site redrawn, of n spins with energies E [*B, 2^n] in the order of `listed`."""
    size = E.shape[-1]
    n = size.bit_length() - 1
    x = torch.arange(size)
    there = x ^ (1 << (n - 1 - i))
    P = torch.zeros(*E.shape, size, dtype=torch.float64)
    P[..., x, there] = torch.sigmoid(E - E[..., there])
    P[..., x, x] = 1 - P[..., x, there]
    return P


def sweep(E, order):
    P = torch.eye(E.shape[-1], dtype=torch.float64)
    for i in order:
        P = P @ heat_bath(E, i)
    return P


def draws(E):
    """Independent draws from exp(-E)."""
    return (-E).softmax(-1)[..., None, :].expand(*E.shape, -1)


INNER = {
    "palindromic": lambda U: sweep(U, [0, 1, 2, 2, 1, 0]),
    "exact": draws,
    "ordered": lambda U: sweep(U, [0, 1, 2]),
    "hot": lambda U: draws(0.8 * U),
}


def block_chain(inner, surrogate, anchor, monkeypatch, n=5, K=3, scale=2.0):
    """The law and matrix of BlockMetropolis over every block of K sites, by a sampler `inner`.

    At an `anchor`, or at the state itself for None.
    """
    E, S, parts = network(n, scale=scale), listed(n), listed(K)
    moves, blocks = [], list(combinations(range(n), K))
    for block in blocks:
        sampler = Told()
        kernel = BlockMetropolis(sampler, surrogate, torch.tensor([block]))
        for y in parts:
            sampler.y = y
            with ratios(monkeypatch) as found:
                at = S if anchor is None else anchor.expand(2**n, n)
                # each state an item: the same random numbers for all of them
                same = [generator() for _ in S]
                kernel.sample(E, S[:, None], anchor=at, generator=same)
            T = INNER[inner](
                sampler.problem.energy(parts.expand(*sampler.problem.batch_shape, -1, -1))
            )
            T = T.reshape(2**n, 2**K, 2**K)
            here, there = number(S[:, block]), S.clone()
            there[:, block] = y
            p = T[torch.arange(2**n), here, number(y)] * found[0].reshape(-1).exp().clamp(max=1)
            moves.append((torch.arange(2**n), number(there), p / len(blocks)))
    return (-E(S)).softmax(-1), chain([torch.cat(t) for t in zip(*moves, strict=True)])


ANCHOR = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize("inner", thinned(["palindromic", "exact"], 2))
@pytest.mark.parametrize(
    "surrogate",
    thinned(
        [
            linear,
            secant,
            taylor,
            regression,
            partial(regression, sampler=Exact(), rounds=2),
            a_problem(K5, scale=0.3),
        ],
        2,
    ),
)
def test_blocks_have_detailed_balance(inner, surrogate, monkeypatch):
    law, P = block_chain(inner, surrogate, ANCHOR, monkeypatch)
    invariant, balance = broken(law, P)
    assert invariant < EXACT and balance < EXACT
    second = P.diag().min() < 0.99 and torch.linalg.eigvals(P).abs().sort().values[-2] < 0.9999
    assert second  # it moves, and everywhere


@pytest.mark.parametrize(
    ("inner", "anchor"), [("ordered", ANCHOR), ("hot", ANCHOR), ("palindromic", None)]
)
def test_what_must_fail(inner, anchor, monkeypatch):
    """An ordered sweep, a wrong beta, and an anchor that follows the state, unnormalised."""
    law, P = block_chain(inner, secant, anchor, monkeypatch)
    invariant, balance = broken(law, P)
    assert invariant > 1e-4 and balance > 1e-4


class Path:
    """A kernel that follows given states, [M, R, n], and keeps the energies that it moved on."""

    reversible = True

    def __init__(self, *states):
        self.states, self.energies = list(states), []

    def sample(self, energy, x, *, anchor=None, generator=None):
        self.energies.append(energy(listed(x.shape[-1])))
        y = self.states[len(self.energies) - 1].to(torch.int8)
        return Samples(y, torch.zeros(y.shape[:-1]), exactness=Exactness.ASYMPTOTIC)


@pytest.mark.parametrize("scan", ["reversible", "ordered"])
def test_tempered_transitions_have_detailed_balance(scan, monkeypatch):
    n, betas = 2, (1.0, 0.5, 0.2)
    E, S = network(n, scale=3.0), listed(n)
    paths = torch.tensor(list(product(range(4), repeat=5)))
    kernel = Path(*[S[paths[:, k]] for k in range(1, 5)])
    with ratios(monkeypatch) as found:
        TemperedTransitions(kernel, betas).sample(E, S[paths[:, 0]])
    p = torch.ones(len(paths), dtype=torch.float64)
    for k, energies in enumerate(kernel.energies):
        torch.testing.assert_close(energies, (0.5, 0.2, 0.2, 0.5)[k] * E(S))
        T = sweep(energies, [0, 1, 0] if scan == "reversible" else [0, 1])
        p = p * T[paths[:, k], paths[:, k + 1]]
    invariant, balance = broken(
        (-E(S)).softmax(-1), chain((paths[:, 0], paths[:, 4], p * found[0].exp().clamp(max=1)))
    )
    if scan == "reversible":
        assert invariant < EXACT and balance < EXACT
    else:
        assert invariant > 1e-5 and balance > 1e-5


# ---- reads of the shipped kernels ----------------


class Claims:
    """Says that a sampler is reversible, at a beta of its own."""

    reversible = True

    def __init__(self, sampler, beta=1.0):
        self.sampler, self.beta, self.warm_start = sampler, beta, sampler.warm_start

    def sample(self, problem, num, *, initial=None, generator=None):
        return self.sampler.sample(
            problem.scale(self.beta), num, initial=initial, generator=generator
        )


WRONG: dict[str, Kernel] = {
    "an ordered sweep": BlockMetropolis(Claims(Gibbs(1)), block=torch.arange(SITES)[None], moves=3),
    "a wrong beta": BlockMetropolis(Claims(Exact(), 0.7), block=6, moves=3),
}
LAW = (-NET(states(SITES).double())).softmax(-1)
SHARE = FALSE_ALARM / (len(KERNELS) + 1)
X_T = torch.where(torch.arange(SITES) % 3 == 0, 1.0, -1.0).double()


def exact_reads(num, seed=5):
    return states(SITES)[
        torch.multinomial(LAW, num, replacement=True, generator=generator(seed))
    ].double()


def p_value(spins):
    """The G-test of independent reads against LAW."""
    code = (((spins.reshape(-1, SITES) + 1) // 2).long() << torch.arange(SITES)).sum(-1)
    seen, expected = torch.bincount(code, minlength=2**SITES).double(), LAW * len(code)
    rare = expected < 5
    seen, expected = (torch.cat([t[~rare], t[rare].sum()[None]]) for t in (seen, expected))
    return float(power_divergence(seen.numpy(), expected.numpy(), lambda_="log-likelihood").pvalue)


@pytest.mark.parametrize("name", thinned(KERNELS, 3))
def test_kernels_keep_the_law(name):
    """Reads drawn from the law and moved: any bias of the kernel shows, slow mixing does not."""
    x = exact_reads(CHAINS)
    found = KERNELS[name].sample(NET, x, anchor=X_T, generator=generator(1))
    assert found.exactness is Exactness.ASYMPTOTIC and found.spins.dtype == torch.int8
    torch.testing.assert_close(found.energy, NET(found.spins.double()))
    assert float((found.spins != x).double().mean()) > 0.05  # it moves
    assert 0.05 < float(found.info["acceptance"]) <= 1
    assert p_value(found.spins) > SHARE


@pytest.mark.parametrize(
    "blocks",
    thinned(
        [
            BlockMetropolis(PALINDROMIC, partial(regression, flips=0.5), 4),
            BlockMetropolis(TemperedGibbs(6), FITTED, SITES),
        ],
        2,
    ),
)
@pytest.mark.long
def test_a_cycle_finds_the_law(blocks):
    """From all spins up: blocks at random anchors or of one surrogate, and local moves."""
    kernel = Cycle([blocks, GibbsWithGradients(10)], 8)
    found = kernel.sample(
        NET, torch.ones(CHAINS, SITES, dtype=torch.float64), generator=generator(2)
    )
    assert p_value(found.spins) > SHARE


@pytest.mark.parametrize("name", WRONG)
def test_wrong_kernels_are_rejected(name):
    found = WRONG[name].sample(NET, exact_reads(CHAINS), anchor=X_T, generator=generator(1))
    assert p_value(found.spins) < SHARE


def test_an_anchor_that_follows_the_state_is_rejected():
    kernel, x = BlockMetropolis(PALINDROMIC, block=6), exact_reads(CHAINS)
    for step in range(3):
        x = kernel.sample(NET, x[:, None], anchor=x, generator=generator(step)).spins[:, 0].double()
    assert p_value(x) < SHARE


def test_the_way_up_weighs_the_partition_function():
    """Mean of exp(info["log_weight"]) = Z(b_L) / Z(1), from reads of the law."""
    betas, E = (1.0, 0.8, 0.5, 0.2, 0.0), NET
    found = TemperedTransitions(SiteGibbs(5), betas).sample(
        E, exact_reads(CHAINS), generator=generator(3)
    )
    w = found.info["log_weight"].exp()
    ratio = 2**SITES / float((-E(states(SITES).double())).exp().sum())
    assert abs(float(w.mean()) - ratio) / (float(w.std()) / CHAINS**0.5) < Z_MAX
    assert float(w.std()) > 0


# ---- manners ----------------


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("dtype", thinned([torch.float64, torch.int8], 2))
def test_a_batch_of_four_is_four_singles(name, dtype):
    """Bit for bit, with an energy of each item's own that rounds alike for any batch."""
    kernel = KERNELS[name]
    x = torch.randint(2, (4, 3, SITES), generator=generator()).mul(2).sub(1).to(dtype)
    anchor, shift = x[:, 0].flip(0), torch.tensor([0.1, -0.4, 0.8, 0.0]).reshape(4, 1, 1)

    def energy(shift):
        return lambda s: (
            (shift.to(s) * s * s.roll(1, -1) * s.roll(3, -1)).sum(-1)
            + 0.2 * s[..., :4].sum(-1).square()
        )

    together = kernel.sample(
        energy(shift), x, anchor=anchor, generator=[generator(k) for k in range(4)]
    )
    assert together.spins.shape == (4, 3, SITES) and together.info["acceptance"].shape == (4,)
    assert together.energy.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    for k in range(4):
        options = {"anchor": anchor[k : k + 1], "generator": [generator(k)]}
        alone = kernel.sample(energy(shift[k : k + 1]), x[k : k + 1], **options)
        assert torch.equal(together.spins[k], alone.spins[0]) and torch.equal(
            together.energy[k], alone.energy[0]
        )
    again, other = (
        kernel.sample(
            energy(shift), x, anchor=anchor, generator=[generator(k + s) for k in range(4)]
        ).spins
        for s in (0, 50)
    )
    assert torch.equal(again, together.spins) and not torch.equal(other, again)


def test_what_a_call_costs():
    x, E = exact_reads(7), Counted(NET)

    def cost(kernel):
        info = kernel.sample(E, x).info
        return tuple(info[name] for name in ("evaluations", "gradients", "hessian_vectors"))

    assert cost(SiteGibbs(5)) == (7 * 6, 0, 0)
    assert cost(GibbsWithGradients(5)) == cost(DiscreteLangevin(steps=5)) == (0, 7 * 6, 0)
    assert cost(BlockMetropolis(PALINDROMIC, block=4, moves=3)) == (7 * (1 + 3 * (11 + 1)), 0, 0)
    assert cost(BlockMetropolis(PALINDROMIC, taylor, 4, 3)) == (7 * (1 + 3), 7 * 3, 7 * 3 * 4)
    cycle = Cycle([SiteGibbs(5), GibbsWithGradients(2)], 2)
    info = cycle.sample(E, x).info
    assert (info["evaluations"], info["gradients"]) == (7 * 12, 7 * 6)
    assert [note["evaluations"] for note in info["kernels"]] == [7 * 12, 0]
    mean = sum(note["acceptance"] for note in info["kernels"]) / 2
    torch.testing.assert_close(info["acceptance"], mean)


def test_a_problem_of_all_sites_is_restricted_exactly():
    """A quadratic energy as its own surrogate: all blocks accepted, one evaluation per move."""
    for graph in (
        Graph.complete(SITES),
        Graph.sparse(SITES, [(k, (k + 3) % SITES) for k in range(SITES)]),
    ):
        problem = Ising(
            graph,
            torch.linspace(-1, 1, SITES),
            graph.couplings(torch.linspace(-1, 1, graph.num_edges)),
        )
        for block in (1, 4, SITES, torch.arange(SITES).flip(0)[None]):
            E = Counted(partial(direct, problem))
            kernel = BlockMetropolis(PALINDROMIC, problem, block, 3)
            found = kernel.sample(E, exact_reads(50), generator=generator())
            assert float(found.info["acceptance"]) > 0.999 and float(found.info["flips"]) > 0
            assert found.info["evaluations"] == 50 * 4


def test_a_surrogate_of_each_item():
    """A batch of problems, one an item, is restricted item by item."""
    x = exact_reads(12).reshape(2, 6, SITES)
    both = Ising(
        FITTED.graph, torch.stack([FITTED.h, -FITTED.h]), torch.stack([FITTED.J, FITTED.J / 2])
    )
    for block in (4, SITES):
        each = [torch.Generator().manual_seed(k) for k in range(2)]
        together = BlockMetropolis(PALINDROMIC, both, block, 2).sample(
            elementwise, x, generator=each
        )
        for k in range(2):
            alone = BlockMetropolis(PALINDROMIC, Ising(both.graph, both.h[k], both.J[k]), block, 2)
            found = alone.sample(elementwise, x[k], generator=generator(k))
            assert torch.equal(found.spins, together.spins[k])


def direct(problem, s):
    """The energy of states of any batch, all on one problem."""
    return problem.to(dtype=torch.float64).energy(s.reshape(-1, SITES)).reshape(s.shape[:-1])


def elementwise(s):
    """An energy that rounds alike for any batch."""
    return (0.3 * s * s.roll(1, -1) * s.roll(3, -1)).sum(-1)


def test_a_perfect_surrogate_is_always_accepted():
    h = torch.linspace(-1, 1, SITES)
    found = BlockMetropolis(PALINDROMIC, block=SITES, moves=3).sample(
        lambda s: (h.to(s) * s).sum(-1) + s[..., 0] * s[..., 5],
        exact_reads(500),
        generator=generator(),
    )
    assert float(found.info["acceptance"]) > 0.999 and float(found.info["flips"]) > 1


def test_kernels_say_whether_they_are_reversible():
    a, b = SiteGibbs(), GibbsWithGradients()
    assert Cycle([a, b, a]).reversible and not Cycle([a, b]).reversible
    assert all(kernel.reversible for kernel in (a, b, DiscreteLangevin(), BlockMetropolis(Exact())))
    assert BlockMetropolis(Corrected(SimulatedAnnealing(), PALINDROMIC)).reversible


def test_a_heuristic_sampler_is_not_hidden():
    class Heuristic(Claims):
        def sample(self, problem, num, *, initial=None, generator=None):
            found = super().sample(problem, num, initial=initial, generator=generator)
            return Samples(found.spins, found.energy)

    blocks = BlockMetropolis(Heuristic(PALINDROMIC), block=3)
    for kernel in (blocks, Cycle([SiteGibbs(), blocks]), TemperedTransitions(blocks)):
        assert kernel.sample(NET, exact_reads(3)).exactness is Exactness.HEURISTIC


def test_refusals():
    x, blocks = exact_reads(3), BlockMetropolis(PALINDROMIC)
    for call, said in [
        (
            lambda: BlockMetropolis(Gibbs(5)),
            r'Gibbs\(sweeps=5.* is not reversible.*use Gibbs\(scan="palindromic"\)',
        ),
        (
            lambda: BlockMetropolis(ParallelTempering()),
            r"ParallelTempering\(.* is not reversible, so no correction",
        ),
        (
            lambda: BlockMetropolis(PALINDROMIC, a_problem(K5), 2).sample(NET, x),
            r"surrogate has 5 spins on cpu, x 10 sites on cpu: expected one problem of all sites",
        ),
        (
            lambda: BlockMetropolis(PALINDROMIC, FITTED.to("meta"), 2).sample(NET, x),
            r"surrogate has 10 spins on meta, x 10 sites on cpu",
        ),
        (
            lambda: SiteGibbs().sample(lambda s: torch.empty(s.shape[:-1], device="meta"), x),
            r"energy is on meta, the states on cpu: move",
        ),
        (lambda: GibbsWithGradients().sample(NET, 3 * x), r"spins x of -1 and \+1; got"),
        (lambda: DiscreteLangevin().sample(NET, x.clamp_min(0)), r"spins x of -1 and \+1; got 0"),
        (lambda: blocks.sample(NET, x.clamp_min(0)), r"spins x of -1 and \+1; got 0"),
        (lambda: Cycle([SiteGibbs()]).sample(NET, x.clamp_min(0)), r"spins x of -1 and \+1; got 0"),
        (
            lambda: BlockMetropolis(SimulatedAnnealing()),
            r'not reversible.*Gibbs\(scan="palindromic"\)',
        ),
        (lambda: BlockMetropolis(PALINDROMIC, block=0), r"block >= 1; got 0"),
        (lambda: BlockMetropolis(PALINDROMIC, moves=0), r"moves >= 1; got 0"),
        (
            lambda: BlockMetropolis(PALINDROMIC, block=torch.tensor([[1, 1]])),
            r"different sites; got \[\[1, 1\]\]",
        ),
        (lambda: blocks.sample(NET, x), r"block 16 is larger than x, 10 sites: use block=10"),
        (
            lambda: BlockMetropolis(PALINDROMIC, block=torch.tensor([[1, 10]])).sample(NET, x),
            r"site 10.*0\.\.9",
        ),
        (
            lambda: SiteGibbs().sample(NET, x.clamp_min(0)),
            r"spins x of -1 and \+1; got 0: 2 \* bits - 1",
        ),
        (lambda: SiteGibbs().sample(NET, x[0]), r"x \[\*B, R, n\].*got \[10\]: x\[:, None\]"),
        (lambda: SiteGibbs(0), r"steps >= 1; got 0"),
        (lambda: DiscreteLangevin(0.0), r"step_size > 0; got 0\.0"),
        (
            lambda: BlockMetropolis(PALINDROMIC, block=2).sample(NET, x, anchor=x),
            r"anchor \[10\].*got \[3, 10\]",
        ),
        (
            lambda: BlockMetropolis(PALINDROMIC, block=2).sample(NET, x, anchor=x[0].clamp_min(0)),
            r"anchor of .*got 0: take its",
        ),
        (
            lambda: BlockMetropolis(PALINDROMIC, block=2).sample(NET, x, anchor=x[0].to("meta")),
            r"anchor is on meta, x on cpu",
        ),
        (
            lambda: TemperedTransitions(SiteGibbs(), (0.9, 0.5)),
            r"1 = b_0 > b_1.*got \[0\.9, 0\.5\]",
        ),
        (
            lambda: TemperedTransitions(Cycle([SiteGibbs(), GibbsWithGradients()])),
            r"is not reversible: tempered",
        ),
        (lambda: Cycle([]), r"a cycle of no kernels"),
        (
            lambda: SiteGibbs().sample(NET, x, generator=[generator()] * 3),
            r"one for each of 1 problems; got 3",
        ),
    ]:
        with pytest.raises(ValueError, match=said):
            call()
    with untyped():
        for wrong in (PALINDROMIC, SiteGibbs):
            with pytest.raises(
                TypeError, match=r"expected a kernel, such as SiteGibbs\(steps=10\)"
            ):
                Cycle([wrong])  # pyright: ignore[reportArgumentType]
