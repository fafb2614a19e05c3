"""Is a model right? Exact draws of it are; each kind of wrong ones is seen."""

import pytest
import torch

import qsample as qs
from qsample import Exactness, Samples
from qsample.annealers import Exact
from qsample.evaluation.fidelity import FALSE_ALARM, _visible
from qsample.models import BernoulliRBM, BoltzmannMachine
from tests.support.exact import a_graph
from tests.support.models import randomise
from tests.support.seeds import generator

ROWS = 300


def two_valleys(n: int = 16, m: int = 6) -> BernoulliRBM:
    """An RBM of two equal valleys, a pattern and its negative, with some disorder."""
    g = generator(1)
    pattern = torch.randint(2, (n, 1), generator=g) * 2.0 - 1
    W = 0.9 * pattern + 0.3 * torch.randn(n, m, generator=g)
    return BernoulliRBM.from_arrays(W, -W.sum(1) / 2, -W.sum(0) / 2)


MODEL = two_valleys()
PROBLEM = MODEL.ising().detach()


def draws(seed: int, rows: int = ROWS, beta: float = 1.0) -> torch.Tensor:
    spins = Exact().sample(PROBLEM.scale(beta), rows, generator=generator(seed)).spins
    return MODEL.split(spins)[0]


def side(rows: torch.Tensor) -> torch.Tensor:
    """On which side of the two valleys each row lies."""
    return (2 * rows - 1) @ MODEL.W.detach().mean(1) > 0


def one_valley() -> torch.Tensor:
    rows = draws(2, 3 * ROWS)
    return rows[side(rows)][:ROWS]


def independent() -> torch.Tensor:
    g = generator(3)
    return (torch.rand(ROWS, 16, generator=g) < draws(2).mean(0)).float()


WRONG = {
    "a valley missing": (one_valley, {"means", "energy distance", "PCA distance"}),
    "too hot": (lambda: draws(2, beta=0.7), {"free energy gap", "free energy distance"}),
    "independent pixels": (independent, {"pair correlations", "energy distance", "PCA overlap"}),
    "one row again and again": (
        lambda: draws(2, 1).expand(ROWS, -1),
        {"means", "energy distance"},
    ),
}


def test_exact_draws_are_right():
    judged = qs.model_fidelity(MODEL, draws(0), draws(1), permutations=99, generator=generator())
    assert judged.ok is True and judged.p_value > FALSE_ALARM
    assert judged.text.startswith("no difference seen: 300 samples against 300 rows, p = ")
    for measure in judged.measures:
        assert measure.low <= measure.expected <= measure.high, measure
    # what a right model shows, where that is known
    assert judged["adversarial accuracy, data"].expected == pytest.approx(0.5, abs=0.02)
    assert judged["energy distance"].expected == pytest.approx(0, abs=0.003)
    assert judged["free energy gap"].expected == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_samples_are_seen(name):
    (make, measures) = WRONG[name]
    judged = qs.model_fidelity(MODEL, draws(0), make(), permutations=119, generator=generator())
    assert judged.ok is False and judged.p_value == pytest.approx(1 / 120)
    seen = {m.name for m in judged.measures if m.p_value <= FALSE_ALARM}
    assert measures <= seen, f"{measures - seen} did not see it"
    assert judged.text.startswith("wrong: ")


def test_the_fewest_permutations_see_what_is_wrong():
    judged = qs.model_fidelity(MODEL, draws(0), one_valley(), permutations=99)
    assert judged.ok is False and judged.p_value == pytest.approx(0.01)


def test_copies_of_the_training_rows_are_seen():
    """Each row has a twin in the other set: both accuracies are 0, not 1/2."""
    wide = BernoulliRBM(40, 2, generator=generator())
    rows = torch.randint(2, (60, 40), generator=generator(1)).float()
    judged = qs.model_fidelity(wide, rows, rows, permutations=999, generator=generator())
    assert judged["adversarial accuracy, data"].value == 0
    assert judged["adversarial accuracy, samples"].value == 0
    assert judged.ok is False


@pytest.mark.long
def test_right_models_are_called_wrong_at_their_rate():
    """The overall p-value is exact: uniform over the 100 ranks, up to ties."""
    p_values = []
    for trial in range(200):
        judged = qs.model_fidelity(
            MODEL,
            draws(1000 + 2 * trial, 60),
            draws(1001 + 2 * trial, 60),
            permutations=99,
            generator=generator(trial),
        )
        p_values.append(judged.p_value)
    p = torch.tensor(p_values)
    for level in (0.05, 0.2, 0.5):
        z = ((p <= level).double().mean() - level) / (level * (1 - level) / len(p)) ** 0.5
        assert abs(float(z)) < 4, (level, z)


def test_reads_as_samples_are_resampled_and_thinned():
    reads = Exact().sample(PROBLEM, 60, generator=generator())
    same = qs.model_fidelity(MODEL, draws(0), reads, permutations=99, generator=generator())
    assert same.rows == 60 and same.note == ""
    families = Samples(
        reads.spins, reads.energy, exactness=Exactness.ASYMPTOTIC, family=torch.arange(60) // 3
    )
    (rows, note) = _visible(MODEL, families, generator())
    assert len(rows) == 20 and note == "20 of 60 samples are independent, one of each family"
    twins = MODEL.split(reads.spins)[0].reshape(20, 3, 16)
    assert all((row == three).all(1).any() for row, three in zip(rows, twins, strict=True))
    weight = torch.full((60,), -torch.inf)
    weight[:5] = 0
    weighted = Samples(reads.spins, reads.energy, log_weight=weight)
    assert len(_visible(MODEL, weighted, generator())[0]) == 5


def test_spins_with_coupled_hidden_units():
    model = randomise(BoltzmannMachine(a_graph("sparse", "abcde"), "db")).float()
    reads = Exact().sample(model.ising().detach(), 80, generator=generator())
    rows = model.split(Exact().sample(model.ising().detach(), 90, generator=generator(1)).spins)[0]
    judged = qs.model_fidelity(model, rows, reads, permutations=99, generator=generator())
    assert judged.ok and judged.rows == 80
    assert judged.note == "free energies left out: hidden units are coupled"
    with pytest.raises(KeyError, match="no measure 'free energy gap'; there are adversarial"):
        judged["free energy gap"]


def test_the_text_and_the_table():
    few = qs.model_fidelity(MODEL, draws(0), draws(1)[:5], permutations=99, generator=generator())
    assert few.ok is None
    assert few.text == "not judged: 5 samples against 5 rows, at least 20 are needed"
    lines = str(few).splitlines()
    assert len(lines) == 1 + len(few.measures) and lines[1].startswith("adversarial accuracy, data")


def test_the_same_generator_gives_the_same_numbers():
    first, again = (
        qs.model_fidelity(
            MODEL, draws(0), draws(1), permutations=99, rows=50, generator=generator()
        )
        for _ in range(2)
    )
    assert first == again and first.rows == 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": torch.zeros(5, 4)}, r"expected samples of shape \[\*, 16\]; got \[5, 4\]"),
        ({"data": torch.full((5, 16), 0.5)}, "0.5"),
        ({"samples": torch.zeros(1, 16)}, "expected two rows and two samples or more; got 300"),
        ({"permutations": 98}, "expected permutations >= 99; got 98"),
    ],
)
def test_refusals(change, message):
    arguments = {"data": draws(0), "samples": draws(1)} | change
    with pytest.raises(ValueError, match=message):
        qs.model_fidelity(MODEL, **arguments)
