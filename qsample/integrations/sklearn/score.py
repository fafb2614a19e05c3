"""The pseudo-log-likelihood of rows, over all bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import softplus

from qsample.integrations.sklearn.machine import Array
from qsample.integrations.sklearn.rows import pieces

FLIPS = 1 << 17
"""numbers computed at once: what a core's cache holds"""


@torch.no_grad()
def pseudo_log_likelihood(components: Array, hidden: Array, visible: Array, X: Any) -> Array:
    r"""$\sum_i \log P(v_i \mid v_{\setminus i})$ of each row, `[N]` float64 (Besag 1975).

    $$\log P(v_i \mid v_{\setminus i}) = -\log\bigl(1 + e^{F(v) - F(v^{(i)})}\bigr), \quad
      F(v) - F(v^{(i)}) = \delta_i b_i + \sum_j \bigl[\zeta(a_j + \delta_i W_{ji})
      - \zeta(a_j)\bigr]$$

    with $a = c + Wv$, $\delta = 1 - 2v$ and $\zeta(x) = \log(1 + e^x)$; grey levels are taken as
    they are, as in scikit-learn.

    Args:
        components: couplings W, `[m, n]`.
        hidden: biases c of the hidden units, `[m]`.
        visible: biases b of the visible units, `[n]`.
        X: array or sparse matrix `[N, n]`.
    """
    W = torch.from_numpy(components.T.astype(np.float64))
    b = torch.from_numpy(visible.astype(np.float64))
    c = torch.from_numpy(hidden.astype(np.float64))
    at_once = max(1, FLIPS // W.numel())
    scores = [
        _scores(W, b, c, rows)
        for piece in pieces(X, 1, np.float64)
        for rows in torch.from_numpy(np.ascontiguousarray(piece)).split(at_once)
    ]
    return torch.cat(scores).numpy()


def _scores(W: torch.Tensor, b: torch.Tensor, c: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Scores of rows `[R, n]`, features in blocks."""
    latent = torch.addmm(c, rows, W)
    before = softplus(latent).sum(-1, keepdim=True)
    delta = 1 - 2 * rows
    score = torch.zeros(len(rows), dtype=torch.float64, device="cpu")
    at_once = max(1, FLIPS // (len(rows) * len(c)))
    for units in torch.arange(len(b), device="cpu").split(at_once):
        block = slice(int(units[0]), int(units[-1]) + 1)
        step = delta[:, block]
        after = softplus(latent[:, None] + step[..., None] * W[block]).sum(-1)
        score -= softplus(step * b[block] + after - before).sum(-1)
    return score
