r"""A restricted Boltzmann machine in centred coordinates, and the buffers of a training step.

With offsets $\mu$ and $\lambda$ of the visible and hidden units (Melchior, Fischer and Wiskott,
JMLR 17(99), 2016)

$$E(v, h) = -(v - \mu)^\top W (h - \lambda) - b' \cdot (v - \mu) - c' \cdot (h - \lambda)$$

is the law of $-v^\top W h - b \cdot v - c \cdot h$ with $b = b' - W\lambda$, $c = c' - \mu W$.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray
SINGLE = np.float32


class Parameters(NamedTuple):
    """An RBM and its offsets, as scikit-learn lays them out: `m` hidden, `n` visible units."""

    components: Array
    """couplings, `[m, n]`"""
    hidden: Array
    """biases of the hidden units, `[m]`"""
    visible: Array
    """biases of the visible units, `[n]`"""
    mu: Array
    """offsets of the visible units, `[n]`; zeros are plain coordinates"""
    lam: Array
    """offsets of the hidden units, `[m]`"""


class Negatives(Protocol):
    """What draws the negative phase of a step."""

    @property
    def hidden(self) -> Array | None:
        """Hidden units of the last reads, `[chains, m]` of 0 and 1; None before the first."""
        ...

    @property
    def spins(self) -> Array | None:
        """All units of the last reads, `[chains, n + m]` of -1 and +1, where chains are those."""
        ...

    def draw(self, machine: Machine) -> None:
        """Put reads of the present model, less mu, in `machine.reads`."""
        ...

    def follow(self, machine: Machine) -> None:
        """Go on: `machine.read_logits` has the logits of the hidden units given the reads."""
        ...


class Machine:
    r"""Weights, biases and rows in single precision, so that an update is three matrix products.

    $A = \begin{pmatrix} W & b' \\ c' & \cdot \end{pmatrix}$ of shape `[n + 1, m + 1]` takes rows
    $(v - \mu, 1)$ to logits of the hidden units and $(h - \lambda, 1)$ to those of the visible
    ones, and the gradients of W, b' and c' are one product of such rows.

    Args:
        parameters: where to begin.
        rows: largest number of data rows of a step.
        chains: number of negative reads of a step.
    """

    def __init__(self, parameters: Parameters, rows: int, chains: int) -> None:
        hidden, visible = parameters.components.shape
        self.visible = visible
        self.rows = rows
        self.chains = chains
        self.mu = parameters.mu.astype(SINGLE)
        self.lam = parameters.lam.astype(SINGLE)
        self._lam = torch.from_numpy(self.lam)

        # the machine, and views of its parts
        W = parameters.components.T.astype(SINGLE)
        A = np.zeros((visible + 1, hidden + 1), SINGLE)
        A[:visible, :hidden] = W
        A[:visible, hidden] = parameters.visible.astype(SINGLE) + W @ self.lam
        A[visible, :hidden] = parameters.hidden.astype(SINGLE) + self.mu @ W
        self._A = torch.from_numpy(A)
        self._W = self._A[:visible, :hidden]
        self._b = self._A[:visible, hidden]
        self._c = self._A[visible, :hidden]
        self._to_hidden = self._A[:, :hidden]
        self.to_visible = self._A[:visible].T

        # (v - mu, 1) of the rows, then of the reads
        V = np.ones((rows + chains, visible + 1), SINGLE)
        V[:, :visible] = 0
        self._V = torch.from_numpy(V)
        self._data = V[:rows, :visible]
        self.reads = V[rows:, :visible]
        # logits of their hidden units, and (mean - lambda, 1) times the weight of the row
        single = {"dtype": torch.float32, "device": "cpu"}
        self._logits = torch.zeros(rows + chains, hidden, **single)
        self.read_logits = self._logits[rows:].numpy()
        self._H = torch.zeros(rows + chains, hidden + 1, **single)
        self._statistics = self._H[:, :hidden]
        self._row_weight = self._H[:, hidden:]
        self._lam_weight = torch.zeros_like(self._logits)
        self._read_weight = np.full(chains, 1 / chains, SINGLE)
        self._weighed = (0, 0.0)

    @property
    def parameters(self) -> Parameters:
        """The machine as it is now, float32."""
        W = self._W.numpy()
        b = self._b.numpy() - W @ self.lam
        c = self._c.numpy() - self.mu @ W
        return Parameters(W.T.copy("F"), c, b, self.mu.copy(), self.lam.copy())

    def step(self, data: Array, negatives: Negatives, rate: float, move: float = 0.0) -> None:
        """Take one step up the centred gradient of the log-likelihood.

        Hidden units are summed out in both phases: their means stand in the statistics.

        Args:
            data: rows `[k, n]`, k at most `rows`: bits, or what lies between them.
            negatives: the source of the negative reads.
            rate: length of the step.
            move: by how much of the way lambda follows the means of this batch, 0 to 1.
        """
        count = len(data)
        np.subtract(data, self.mu, out=self._data[:count], casting="same_kind")
        negatives.draw(self)
        torch.mm(self._V, self._to_hidden, out=self._logits)
        negatives.follow(self)
        means = self._logits.sigmoid_()
        self._weigh(count, rate)
        # (mean - lambda) times the weight of the row
        torch.addcmul(self._lam_weight, means, self._row_weight, out=self._statistics)
        self._A.addmm_(self._V.T, self._H)
        if move:
            self._move(means[:count].mean(0).sub_(self._lam).mul_(move))

    def weigh_reads(self, weight: Array) -> None:
        """Weights of the reads that follow, `[chains]`, of sum 1; equal unless this was called."""
        self._read_weight[:] = weight
        self._weighed = (0, 0.0)

    def _weigh(self, count: int, rate: float) -> None:
        """Weights of the rows: the mean over the data less that over the reads."""
        if self._weighed == (count, rate):
            return
        weight = self._row_weight[:, 0].numpy()
        weight[:count] = rate / count
        weight[count : self.rows] = 0  # stale rows of a batch before
        np.multiply(self._read_weight, -rate, out=weight[self.rows :])
        torch.mul(self._row_weight, -self._lam, out=self._lam_weight)
        self._weighed = (count, rate)

    def _move(self, drift: Tensor) -> None:
        """Move lambda; b' makes up for it, so that the law stays."""
        self._lam.add_(drift)
        self._b.addmv_(self._W, drift)
        self._weighed = (0, 0.0)
