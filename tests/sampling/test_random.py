"""Random numbers by item: SplitMix64 to the bit, any split of a stream alike, uniform, and
independent of the batch.
"""

import torch
from scipy.stats import kstest

from qsample.sampling.random import Draws
from qsample.testing import FALSE_ALARM
from tests.support.exact import Z_MAX

CPU = torch.device("cpu")
MASK = 2**64 - 1


def split_mix(seed, i):
    z = (seed + i * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_published_generator():
    # the first numbers from seed 0, as published with the reference implementation
    assert [split_mix(0, i) for i in (1, 2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    seeds = [0, 1, 2**63 - 1]
    found = Draws(seeds, CPU).uniform(5)
    right = [[((split_mix(seed, i) >> 12) + 0.5) / 2**52 for i in range(1, 6)] for seed in seeds]
    assert found.tolist() == right


def test_streams_split_and_stand_alone():
    whole, parts = Draws([7, 8], CPU).uniform(3, 4), Draws([7, 8], CPU)
    assert torch.equal(whole, torch.cat([parts.uniform(1, 4), parts.uniform(2, 4)], 1))
    assert torch.equal(whole[1:], Draws([8], CPU).uniform(3, 4))
    a, b = Draws([7, 8], CPU).generators(2), Draws([8], CPU).generators(2)
    assert [g.initial_seed() for g in a[2:]] == [g.initial_seed() for g in b]
    assert len({g.initial_seed() for g in a}) == 4


def test_uniform_spins_and_subsets():
    draws, num = Draws([3], CPU), 50_000
    u = draws.uniform(num)[0]
    assert 0 < float(u.min()) and float(u.max()) < 1
    assert kstest(u.numpy(), "uniform").pvalue > FALSE_ALARM
    assert abs(float(draws.spins(num).double().mean())) * num**0.5 < Z_MAX
    sets = draws.subsets(num, 2, 5)[0]
    assert (sets[:, 0] != sets[:, 1]).all()
    pairs = (sets[:, 0] * 5 + sets[:, 1]).bincount(minlength=25).double() / num
    p = (1 - torch.eye(5, dtype=torch.float64).flatten()) / 20
    assert ((pairs - p).abs() / (p * (1 - p) / num + 1e-30).sqrt() < Z_MAX).all()
