"""Rows of tokens: all of them, and a test of their law."""

import itertools

import torch
from scipy.stats import power_divergence
from torch import Tensor


def rows_of(states: int, n: int) -> Tensor:
    """All rows of n tokens, `[states^n, n]`, the last token changing first."""
    return torch.tensor(list(itertools.product(range(states), repeat=n)))


def number_of(x: Tensor, states: int = 3) -> Tensor:
    """The place of rows `[*, n]` among all of them."""
    return (x * states ** torch.arange(x.shape[-1] - 1, -1, -1)).sum(-1)


def p_value(law: Tensor, number: Tensor) -> float:
    """Of a G-test of places of rows against a law of all rows; the rare ones are one bin."""
    seen = number.bincount(minlength=len(law)).double()
    expected = law * len(number)
    rare = expected <= expected[expected > 5].min()

    def bins(count: Tensor):
        return torch.cat([count[~rare], count[rare].sum()[None]]).numpy()

    return float(power_divergence(bins(seen), bins(expected), lambda_="log-likelihood").pvalue)
