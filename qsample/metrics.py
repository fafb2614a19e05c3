"""How far generated images are from real ones: in correlations of pairs of bits, and in a classifier's eyes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from qsample.support.checks import plain_seed


def pair_correlation_error(real: Shaped[Tensor, "N _"], generated: Shaped[Tensor, "M _"]) -> float:
    r"""Root mean square difference of the covariances of all pairs of spins.

    $$\sqrt{\frac{2}{n(n-1)}\sum_{i<j}\bigl(C_{ij} - C'_{ij}\bigr)^2}, \quad
      C_{ij} = \langle s_i s_j\rangle - \langle s_i\rangle\langle s_j\rangle$$

    Both are spins, -1 and +1. Of two halves of the same data it is not 0: print that floor beside it.

    Raises:
        ValueError: fewer than two rows or sites, other widths, values that are not spins.
    """
    if real.shape[-1] != generated.shape[-1] or real.shape[-1] < 2 or min(len(real), len(generated)) < 2:
        raise ValueError(f"expected rows of the same n >= 2 spins; got {list(real.shape)} and {list(generated.shape)}")
    if not ((real.abs() == 1).all() and (generated.abs() == 1).all()):
        raise ValueError("expected spins -1 and +1: 2 * bits - 1 makes spins of bits")
    difference = torch.cov(real.double().T, correction=0) - torch.cov(generated.double().T, correction=0)
    i, j = torch.triu_indices(*difference.shape, offset=1)
    return float(difference[i, j].square().mean().sqrt())


def frechet_distance(real: Float[Tensor, "N d"], generated: Float[Tensor, "M d"]) -> float:
    r"""Distance of two Gaussians with the samples' moments (Frechet; Heusel et al., NeurIPS 2017, Eq. 6).

    $$|\mu - \mu'|^2 + \operatorname{tr}\bigl(C + C' - 2 (C C')^{1/2}\bigr)$$

    It falls with the number of samples: compare figures of equal N only.
    """
    mean = (real.double().mean(0) - generated.double().mean(0)).square().sum()
    C, D = torch.cov(real.double().T), torch.cov(generated.double().T)
    root = _root(C)
    cross = torch.linalg.eigvalsh(root @ D @ root).clamp_min(0).sqrt().sum()
    return float(mean + C.trace() + D.trace() - 2 * cross)


class ImageFeatures(nn.Module):
    """A small classifier of binary images, trained once and frozen; its last hidden layer are the features.

    Args:
        images: spins `[N, n]`.
        labels: class numbers `[N]`.
        shape: (rows, columns) of an image.
        epochs: of training (Adam, batches of 100).
        seed: of its weights and of the order of the rows.
    """

    def __init__(
        self,
        images: Shaped[Tensor, "N n"],
        labels: Shaped[Tensor, "N"],
        shape: tuple[int, int],
        *,
        epochs: int = 20,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shape = shape
        classes = int(labels.max()) + 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plain_seed(seed))
            flat = 32 * math.prod((side + 3) // 4 for side in shape)
            self.hidden = nn.Sequential(
                *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
                *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
                *(nn.Flatten(), nn.Linear(flat, 32), nn.ReLU()),
            )
            self.head = nn.Linear(32, classes)
            self.float()  # whatever torch's default is: images are
            optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
            for _ in range(epochs):
                for rows in torch.randperm(len(images)).split(100):
                    loss = nn.functional.cross_entropy(self.logits(images[rows]), labels[rows])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        self.eval().requires_grad_(False)

    def logits(self, images: Shaped[Tensor, "N n"]) -> Float[Tensor, "N classes"]:
        """Of the classes."""
        return self.head(self(images))

    def forward(self, images: Shaped[Tensor, "N n"]) -> Float[Tensor, "N 32"]:
        """The features of images of spins `[N, n]`."""
        return self.hidden(images.float().reshape(-1, 1, *self.shape))


def _root(C: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(C)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
