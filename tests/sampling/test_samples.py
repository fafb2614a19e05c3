"""Reads and their weights."""

import math
from dataclasses import replace

import dimod
import numpy as np
import pytest
import torch

from qsample import Exactness, Graph, Ising, Samples
from qsample.annealers import Gibbs
from qsample.sampling.samples import Estimate
from tests.support.exact import Z_MAX


def reads(*batch, num=4, n=3, weighted=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    spins = torch.randint(2, (*batch, num, n), generator=g, dtype=torch.int8) * 2 - 1
    weight = torch.randn(*batch, num, generator=g) if weighted else None
    return Samples(spins, torch.randn(*batch, num, generator=g), weight)


@pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
@pytest.mark.parametrize("weighted", [True, False])
def test_weight_mean_and_ess(batch, weighted):
    s = reads(*batch, weighted=weighted)
    assert s.num == 4
    w = s.weight
    assert w.shape == (*batch, 4)
    expected = s.log_weight.exp() if s.log_weight is not None else torch.ones(*batch, 4)
    torch.testing.assert_close(w, expected / expected.sum(-1, keepdim=True))
    torch.testing.assert_close(s.ess(), expected.sum(-1) ** 2 / (expected**2).sum(-1))
    torch.testing.assert_close(s.mean(), torch.einsum("...r,...ri->...i", w, s.spins.float()))
    torch.testing.assert_close(s.mean(s.energy), (w * s.energy).sum(-1))
    outer = s.spins[..., :, None] * s.spins[..., None, :]
    torch.testing.assert_close(
        s.mean(lambda x: x[..., :, None] * x[..., None, :]),
        torch.einsum("...r,...rij->...ij", w, outer.float()),
    )


def test_weights_of_any_size():
    """Log weights know no scale: 1e4 must not overflow, and -inf is a weight of zero."""
    s = Samples(
        torch.ones(3, 2, dtype=torch.int8),
        torch.zeros(3),
        torch.tensor([1e4, 1e4 - math.log(3), -math.inf]),
    )
    torch.testing.assert_close(s.weight, torch.tensor([0.75, 0.25, 0.0]), rtol=1e-3, atol=0)
    assert s.ess() == pytest.approx(1 / (0.75**2 + 0.25**2), rel=1e-3)
    assert Samples(s.spins, s.energy).ess() == pytest.approx(3)


@pytest.mark.parametrize("num", [1, 7, 40])
def test_resampling_is_unbiased_and_systematic(num):
    weight = torch.tensor([0.31, 0.0, 0.02, 0.4, 0.27, 0.0])
    which = torch.arange(6, dtype=torch.float32)
    s = Samples(torch.ones(6, 1, dtype=torch.int8), which, weight.log())
    g = torch.Generator().manual_seed(0)
    times, count = 2000, torch.zeros(6)
    for _ in range(times):
        again = s.resample(num, generator=g)
        assert again.log_weight is None and again.num == num
        kept = again.energy.long().bincount(minlength=6)
        expected = num * weight
        # systematic: each read is kept floor or ceil of its share, so never one of weight zero
        assert (kept >= expected.floor() - 1e-3).all() and (kept <= (expected - 1e-4).ceil()).all()
        count += kept
    share = num * weight.double()
    fraction = share - share.floor()
    variance = times * fraction * (1 - fraction)  # exact: the count is floor or floor + 1
    z = (count.double() - times * share) / (variance + 1e-6 * times).sqrt()
    assert z.abs().max() < Z_MAX


def test_resampling_a_batch_keeps_reads_with_their_problem():
    s = reads(3, 2, num=5, n=4)
    again = s.resample(50, generator=torch.Generator().manual_seed(1))
    assert again.spins.shape == (3, 2, 50, 4) and again.energy.shape == (3, 2, 50)
    for i in range(3):
        for j in range(2):
            pairs = {
                (float(e), *x) for e, x in zip(s.energy[i, j], s.spins[i, j].tolist(), strict=True)
            }
            found = {
                (float(e), *x)
                for e, x in zip(again.energy[i, j], again.spins[i, j].tolist(), strict=True)
            }
            assert found <= pairs and len(found) > 1
    again.spins.zero_()
    assert s.spins.abs().all()
    plain = reads(weighted=False)  # equal weights: each read exactly once
    assert torch.equal(plain.resample().spins, plain.spins)


def test_resampling_follows_the_global_seed_where_none_is_given():
    s = reads(num=30)
    torch.manual_seed(3)
    first = s.resample(7).spins
    torch.manual_seed(3)
    assert torch.equal(s.resample(7).spins, first)
    assert len({tuple(s.resample(7).energy.tolist()) for _ in range(10)}) > 1


def test_to_sampleset():
    s = replace(reads(), exactness=Exactness.ASYMPTOTIC, info={"sweeps": 3})
    labels = ["b", ("a", 1), 0]
    found = s.to_sampleset(Graph.complete(3, labels))
    assert found.vartype is dimod.SPIN and list(found.variables) == labels
    assert np.array_equal(found.record.sample, s.spins.numpy())
    assert s.log_weight is not None
    assert np.allclose(found.record.energy, s.energy) and np.allclose(
        found.record.log_weight, s.log_weight
    )
    assert found.info == {"exactness": "asymptotic", "sweeps": 3}
    assert list(s.to_sampleset().variables) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"reads of one problem \[R, n\]; got a batch \[2, 4, 3\]"):
        reads(2).to_sampleset()


def test_to():
    s = reads()
    s = Samples(s.spins, s.energy, s.log_weight, carry={"hot": s.spins})
    other = s.to(dtype=torch.float64)
    assert other.spins.dtype == torch.int8 and other.energy.dtype == torch.float64
    assert other.log_weight is not None and other.log_weight.dtype == torch.float64
    meta = s.to("meta")
    assert meta.carry is not None and meta.log_weight is not None
    assert {
        t.device.type for t in (meta.spins, meta.energy, meta.log_weight, meta.carry["hot"])
    } == {"meta"}


@pytest.mark.parametrize(
    ("energy", "weight", "message"),
    [
        ((3,), None, r"energy of shape \[2, 4\] beside the spins; got \[3\]"),
        ((2, 4), (4,), r"log_weight of shape \[2, 4\] beside the spins; got \[4\]"),
    ],
)
def test_shapes(energy, weight, message):
    with pytest.raises(ValueError, match=message):
        Samples(
            torch.ones(2, 4, 3),
            torch.zeros(energy),
            None if weight is None else torch.zeros(weight),
        )


def test_defaults_promise_nothing():
    s = Samples(spins=torch.ones(2, 3, dtype=torch.int8), energy=torch.zeros(2))
    assert (
        s.exactness is Exactness.HEURISTIC
        and s.log_weight is None
        and s.carry is None
        and s.info == {}
    )


def test_an_estimate_reads_well():
    assert str(Estimate(1.23456, 0.00321)) == "1.2346 ± 0.0032"
    assert str(Estimate(math.inf, math.inf, note="all cold")) == "inf ± inf (all cold)"


def test_values_show_their_shape_not_their_numbers():
    problem = Ising.from_edges(torch.zeros(2, 3), [(0, 1)], torch.ones(1))
    assert repr(problem) == "Ising(sparse, 3 spins, batch [2], torch.float32)"
    assert (
        repr(Gibbs(2).sample(problem, 4))
        == "Samples([2, 4, 3], asymptotic, info=['cost', 'sweeps'])"
    )


def test_resampling_without_a_single_weight_is_refused():
    reads = Samples(
        torch.ones(3, 2, dtype=torch.int8), torch.zeros(3), torch.full((3,), -torch.inf)
    )
    with pytest.raises(ValueError, match="the weights are nan"):
        reads.resample()
