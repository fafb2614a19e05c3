"""Batches, labels, files, the penalty's controller, and the thermodynamic model on bad input."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from qsample import Graph
from qsample.annealers import Exact, Gibbs, SimulatedAnnealing
from qsample.annealers.registry import CATALOGUE
from qsample.models import (
    AdaptivePenalty,
    DenoisingThermodynamicModel,
    denoising_loss,
    reverse_rhat,
)
from qsample.models.diffusion.visible_bits import VisibleBits
from qsample.problem.enumeration import log_weights, states
from qsample.problem.lattices import OFFSETS, grid, scatter
from qsample.sampling.mixing import split_rhat
from tests.support.exact import Z_MAX, untyped
from tests.support.models import randomise
from tests.support.seeds import generator

SAMPLERS = {name: entry.make(10) for name, entry in CATALOGUE.items() if not entry.device}
CIRCUITS = [name for name in SAMPLERS if "qaoa" in name or "quantum" in name]  # of 2^16 amplitudes


def small(steps=2, seed=0, **settings):
    """4 x 4 torus of degree 4: 8 visible spins at most in one colour."""
    model = DenoisingThermodynamicModel(
        grid(4, degree=4), 4, steps, generator=generator(seed), **settings
    )
    return randomise(model, seed, 0.4).float()


def data(rows=6, bits=4):
    return torch.randint(2, (rows, bits), generator=generator(9)) * 2 - 1


# ---- batches ----------------


@pytest.mark.filterwarnings("ignore::qsample.ReliabilityWarning")  # of one weighted read
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n in CIRCUITS)) for n in SAMPLERS]
)
def test_a_batch_of_four_is_four_singles(name):
    """Bit for bit, with a generator for each draw; and any sampler serves."""
    model, sampler = small(3), SAMPLERS[name]
    batch = model.sample(sampler, 4, generator=[generator(k) for k in range(4)])
    singles = [model.sample(sampler, 1, generator=[generator(k)]) for k in range(4)]
    assert batch.shape == (4, 4) and batch.dtype == torch.int8 and (batch.abs() == 1).all()
    assert torch.equal(batch, torch.cat(singles))
    again = [model.sample(sampler, 4, generator=generator(7)) for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize("name", ["gibbs", "annealed-importance"])
def test_so_is_one_with_labels_and_weighted_reads(name):
    model = small(2, classes=2, copies=2)
    labels, how = torch.tensor([0, 1, 1, 0]), {"reads": 3}
    batch = model.sample(
        SAMPLERS[name], 4, labels, generator=[generator(k) for k in range(4)], **how
    )
    singles = [
        model.sample(SAMPLERS[name], 1, labels[k, None], generator=[generator(k)], **how)
        for k in range(4)
    ]
    assert torch.equal(batch, torch.cat(singles))


@pytest.mark.long
def test_weighted_reads_are_kept_by_their_weight():
    """Reads of a hotter problem with the weights that make up for it; else the means are wrong."""

    class Hot:
        warm_start = False
        reversible = False
        weigh = True

        def sample(self, problem, num, *, initial=None, generator=None):
            hot = problem.scale(0.7)
            found = Exact().sample(hot, num, generator=generator)
            weight = hot.energy(found.spins) - problem.energy(found.spins)
            return replace(found, log_weight=weight if self.weigh else None)

    model, num, sampler = small(1), 4000, Hot()
    after = torch.ones(num, 4, dtype=torch.int8)
    log_p = log_weights(model.ising(1, after[0])).double()
    exact = log_p.softmax(-1) @ states(16)[:, model.sites].double()

    def z():
        drawn = model.step(sampler, after, 1, reads=100, generator=generator(2)).double()
        return ((drawn.mean(0) - exact) / ((1 - exact.square()) / num).sqrt()).abs().max()

    assert z() < Z_MAX
    sampler.weigh = False
    assert z() > Z_MAX


def test_a_step_is_one_call_with_one_coupling():
    """Conditioning is a field: one batched problem, one J, for any number of conditions."""
    model, seen = small(2), []

    class Watched:
        warm_start = False
        reversible = False

        def sample(self, problem, num, *, initial=None, generator=None):
            seen.append((problem.batch_shape, problem.J.dim(), problem.h.shape))
            return Gibbs(1).sample(problem, num, generator=generator)

    model.sample(Watched(), 5)
    assert seen == [((5,), 1, (5, 16))] * 2
    seen.clear()
    denoising_loss(model, data(6), Watched(), chains=2)
    # latent spins given x_{k-1}, then all given x_k
    assert seen == [((6,), 1, (6, 12)), ((6,), 1, (6, 16))] * 2


# ---- places and labels ----------------


@pytest.mark.parametrize("degree", OFFSETS)
def test_grids(degree):
    """By hand from the rule, on a torus; two colours; every site of that degree."""
    rows, columns = 34, 60
    graph = grid(rows, columns, degree=degree)
    assert (
        (graph.degree == degree).all()
        and len(graph.colours) == 2
        and graph.num_spins == rows * columns
    )
    edges = {frozenset(edge) for edge in graph.pairs.T.tolist()}
    r, c = 3, 50
    mine = {
        (r + down) % rows * columns + (c + right) % columns
        for a, b in OFFSETS[degree]
        for down, right in ((a, b), (-b, a), (-a, -b), (b, -a))
    }
    at = r * columns + c
    assert {next(iter(edge - {at})) for edge in edges if at in edge} == mine
    assert graph.labels[at] == (r, c)
    flat = grid(rows, columns, degree=degree, torus=False)
    assert {frozenset(edge) for edge in flat.pairs.T.tolist()} < edges and len(flat.colours) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 4, "degree": 5}, "expected degree 4, 8, 12, 16, 20, 24; got 5"),
        ({"rows": 5}, "expected even sides of a torus; got 5 x 5"),
        ({"rows": 0, "torus": False}, "expected rows, columns >= 1; got 0 x 0"),
        ({"rows": 4, "degree": 8}, "a torus of 4 x 4 is too small for degree 8"),
    ],
)
def test_grids_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        grid(**settings)


def test_visible_spins_lie_in_one_colour_while_there_is_room():
    graph = grid(6, degree=4)
    colour = {int(i): c for c, group in enumerate(graph.colours) for i in group}
    for num, colours in ((18, 1), (19, 2)):
        sites = scatter(graph, num, generator())
        assert len(sites.unique()) == num and len({colour[i] for i in sites.tolist()}) == colours
    model = DenoisingThermodynamicModel(graph, 18, 1, generator=generator())
    assert model.machine(1).tractable  # latent spins of one colour: averaged out exactly
    assert not DenoisingThermodynamicModel(graph, 17, 1, generator=generator()).machine(1).tractable


def test_labels_are_repeated_one_hot_spins():
    code = VisibleBits(2, 3, 2)
    x, labels = torch.tensor([[1, -1], [-1, -1]]), torch.tensor([2, 0])
    v = code.encode(x, labels)
    assert (
        v.tolist() == [[1, -1, -1, -1, 1, -1, -1, 1], [-1, -1, 1, -1, -1, 1, -1, -1]]
        and v.dtype == torch.int8
    )
    back, votes = code.decode(v)
    assert votes is not None and torch.equal(back, x.to(torch.int8)) and torch.equal(votes, labels)
    assert VisibleBits(2).decode(v[:, :2])[1] is None


def test_labels_have_their_own_rate_and_guide():
    """A model trained with labels draws what they ask for; a model left free does not care."""
    model = DenoisingThermodynamicModel(
        grid(4, degree=4), 2, 2, classes=2, copies=3, generator=generator()
    )
    assert torch.as_tensor(model.process.rate).tolist() == [0.9] * 2 + [0.2] * 6
    labels = torch.randint(2, (400,), generator=generator(1))
    x = torch.stack([labels * 2 - 1, 1 - labels * 2], 1)
    optimizer, g = torch.optim.Adam(model.parameters(), lr=0.05), generator(2)
    for _ in range(60):
        optimizer.zero_grad()
        denoising_loss(model, x, Gibbs(10), labels=labels, generator=g).backward()
        optimizer.step()
    drawn = model.sample(Gibbs(30), 400, labels, generator=g)
    right = (drawn == x).double().mean()
    free = (model.sample(Gibbs(30), 400, generator=g) == x).double().mean()
    assert right > 0.9 and abs(free - 0.5) < Z_MAX * 0.5 / 20


# ---- steps and files ----------------


def test_a_file_keeps_everything(tmp_path):
    model = small(3, classes=2, rate=0.7, label_rate=0.1)
    model.penalty.fill_(0.25)
    model.save(tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    back = DenoisingThermodynamicModel.load(tmp_path / "model.safetensors", grid(4, degree=4))
    for name, value in model.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]) or value.isnan().all(), name
    assert torch.equal(back.sites, model.sites) and torch.equal(
        back.process.times, model.process.times
    )
    drawn = [
        m.sample(Gibbs(5), 3, torch.tensor([1, 0, 1]), generator=generator()) for m in (model, back)
    ]
    assert torch.equal(*drawn)
    double = small(1).double()
    double.save(tmp_path / "double")
    assert (
        DenoisingThermodynamicModel.load(tmp_path / "double", double.graph).machine(1).h.dtype
        == torch.float64
    )


def test_files_that_are_not_this_model(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(ValueError, match=f"cannot read {path}: "):
        DenoisingThermodynamicModel.load(path, grid(4, degree=4))
    path.write_text("no tensors")
    with pytest.raises(ValueError, match=f"cannot read {path}: ") as caught:
        DenoisingThermodynamicModel.load(path, grid(4, degree=4))
    assert "\n" not in str(caught.value)
    small().save(path)
    with pytest.raises(
        ValueError, match=r"was saved with another graph, \w{16}; this one is \w{16}: load it with"
    ):
        DenoisingThermodynamicModel.load(path, grid(4, degree=4, torus=False))


def test_steps_can_be_taken_from_another_model():
    ours, theirs = small(3, seed=0), small(3, seed=0)
    randomise(theirs, seed=5).float()
    kept, theirs.penalty[1] = ours.machine(1).J.clone(), 0.5
    ours.adopt(theirs, [2, 3])
    assert torch.equal(ours.machine(1).J, kept) and torch.equal(
        ours.machine(2).J, theirs.machine(2).J
    )
    assert ours.penalty.tolist() == [0, 0.5, 0]
    for other, difference in (
        (small(3, seed=1), "sites"),
        (small(2), "steps"),
        (small(3, rate=0.5), "rate"),
    ):
        with pytest.raises(ValueError, match=f"weights of another model: its {difference} is"):
            ours.adopt(other, [1])
        with pytest.raises(ValueError, match=f"weights of another model: its {difference} is"):
            ours.load_state_dict(other.state_dict())


# ---- the controller ----------------


def test_split_rhat_of_chains_that_agree_and_that_do_not():
    x = torch.randn(200, 8, 50, generator=generator(), dtype=torch.float64)
    # the mean over 50 statistics of B/(nW): its standard deviation is 1/n sqrt(2 / (15 * 50))
    assert abs(float(split_rhat(x).square()) - 1) < Z_MAX * 0.01 * (2 / (15 * 50)) ** 0.5 * 1.1
    apart = x + 0.5 * torch.arange(8)[:, None]
    shift = 0.25 * 16 / 15 * 63 / 12  # the variance of 16 half chains' true means, two of each
    assert float(split_rhat(apart)) ** 2 == pytest.approx(1 + shift, rel=0.02)
    # all alike, but not stationary: what splitting sees
    drift = x + torch.linspace(0, 3, 200)[:, None, None]
    assert float(split_rhat(drift)) > 1.2
    assert float(split_rhat(torch.ones(8, 3))) == 1
    assert float(split_rhat(torch.ones(8, 3) * torch.arange(3))) == math.inf
    with pytest.raises(ValueError, match=r"expected at least 4 times of 2 .*; got \[3, 5, 50\]"):
        split_rhat(x[:3, :5])


def test_rhat_of_steps_that_mix_and_of_one_that_sticks():
    """Without its field the last step sits in one of two ferromagnetic states; x_1 holds step 1."""
    model = small(2)
    with torch.no_grad():
        for k in (1, 2):
            model.machine(k).h.zero_()
            model.machine(k).J.fill_(-0.9)
    found = reverse_rhat(model, data(16), Gibbs(2), generator=generator())
    assert found.shape == (2,) and found[1] > 1.5
    with torch.no_grad():
        model.machine(2).J.fill_(-0.1)
    mixed = reverse_rhat(model, data(16), Gibbs(20), steps=[2], generator=generator())
    assert abs(float(mixed) - 1) < 0.02
    with pytest.raises(ValueError, match="SimulatedAnnealing cannot continue them: use Gibbs"):
        reverse_rhat(model, data(2), SimulatedAnnealing(2))


def test_the_controller():
    model, rule = small(3), AdaptivePenalty(threshold=0.1, change=0.5, least=0.01)
    rule(model, torch.tensor([1.05, 1.2, math.inf]))
    # well mixed; and two that begin
    torch.testing.assert_close(model.penalty, torch.tensor([0.0, 0.01, 0.01]))
    rule(model, torch.tensor([1.05, 1.15, math.inf]))
    # falling, and not rising: kept
    torch.testing.assert_close(model.penalty, torch.tensor([0.0, 0.01, 0.01]))
    rule(model, torch.tensor([1.3, 1.4]), steps=[1, 2])
    torch.testing.assert_close(model.penalty, torch.tensor([0.01, 0.015, 0.01]))
    rule(model, torch.tensor([1.05, 1.05]), steps=[1, 2])
    # below the least: off
    torch.testing.assert_close(model.penalty, torch.tensor([0.0, 0.0, 0.01]))
    assert model.rhat.tolist() == pytest.approx([1.05, 1.05, math.inf])
    assert {"penalty", "rhat"} <= model.state_dict().keys()


# ---- bad input ----------------

x = data(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(0), "expected steps >= 1; got 0"),
        (lambda: DenoisingThermodynamicModel(grid(4, degree=4), 0, 1), "expected bits >= 1; got 0"),
        (
            lambda: DenoisingThermodynamicModel(Graph.complete(5), 6, 1),
            "5 spins has no room for 6 bits and 0 label bits",
        ),
        (
            lambda: small(classes=7, copies=2),
            "16 spins has no room for 4 bits and 14 label bits: take a larger",
        ),
        (lambda: small(visible=[(0, 0)]), "expected visible spins for 4 bits; got 1"),
        (lambda: small(visible=[(0, 0), (0, 1), (0, 2), (9, 9)]), r"no spin is labelled \(9, 9\)"),
        (lambda: small(2, times=torch.tensor([0.0, 1.0])), "expected 3 times for 2 steps; got 2"),
        (lambda: small(classes=2, copies=0), "expected copies >= 1; got 0"),
        (
            lambda: denoising_loss(small(), (x + 1) // 2, Gibbs(1)),
            r"expected x of -1 and \+1; got 0: 2 \* bits - 1",
        ),
        (
            lambda: denoising_loss(small(), x[:, :3], Gibbs(1)),
            r"expected x of shape \[N, 4\]; got \[3, 3\]",
        ),
        (
            lambda: denoising_loss(small(), x, Gibbs(1), steps=[3]),
            "expected a step 1 <= k <= 2; got 3",
        ),
        (
            lambda: denoising_loss(small(), x, Gibbs(1), chains=1, penalty=0.1),
            "step 1 has a penalty of 0.1, which needs",
        ),
        (
            lambda: denoising_loss(small(), x, Gibbs(1), labels=torch.zeros(3).long()),
            "no classes, so it takes no",
        ),
        (
            lambda: denoising_loss(small(classes=2), x, Gibbs(1)),
            "the model has 2 classes: pass labels",
        ),
        (
            lambda: denoising_loss(small(classes=2), x, Gibbs(1), labels=torch.tensor([0, 1, 2])),
            "labels 0..1; got 2",
        ),
        (
            lambda: denoising_loss(small(classes=2), x, Gibbs(1), labels=torch.tensor([0])),
            r"one label per row of x, \[3\]",
        ),
        (
            lambda: small(classes=2).sample(Gibbs(1), 2, torch.tensor([0, -1])),
            "expected labels 0..1; got -1",
        ),
        (
            lambda: small(classes=2).sample(Gibbs(1), 2, torch.tensor([0])),
            r"expected one label per draw, \[2\]; got \[1\]",
        ),
        (lambda: small().sample(Gibbs(1), 0), "num >= 1; got 0"),
        (lambda: small().to("meta").encode(x), "x is on cpu, the model on meta: move one"),
        (
            lambda: small(classes=2).sample(Gibbs(1), 2, torch.zeros(2, device="meta").long()),
            "labels is on meta, the model on cpu: move one",
        ),
        (
            lambda: small(classes=2).encode(x, torch.zeros(3, device="meta").long()),
            "labels are on meta, x on cpu: move one",
        ),
        (lambda: small().ising(1, x[:, :2]), r"expected x_k of shape \[\*, 4\]; got \[3, 2\]"),
        (
            lambda: small().step(Gibbs(1), x * 0, 1),
            r"expected spins x \[\*, n\] of -1 and \+1; got 0",
        ),
    ],
)
def test_bad_input(make, message):
    with untyped(), pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_is_no_sampler():
    no: Any = "gibbs"
    for call in (lambda: small().sample(no, 2), lambda: denoising_loss(small(), x, no)):
        with untyped(), pytest.raises(TypeError, match="expected a sampler, such as Gibbs"):
            call()
