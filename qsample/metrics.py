"""How far generated images are from real ones: in pair correlations and in a classifier's eyes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from qsample.support.checks import check_spins, plain_seed


def pair_correlation_error(real: Shaped[Tensor, "N _"], generated: Shaped[Tensor, "M _"]) -> float:
    r"""Root mean square difference of the covariances of all pairs of spins.

    $$\sqrt{\frac{2}{n(n-1)}\sum_{i<j}\bigl(C_{ij} - C'_{ij}\bigr)^2}, \quad
      C_{ij} = \langle s_i s_j\rangle - \langle s_i\rangle\langle s_j\rangle$$

    Of two halves of the same data it is not 0: print that floor beside it.

    Args:
        real: rows of spins -1 and +1, `[N, n]`.
        generated: rows of spins -1 and +1, `[M, n]`.

    Raises:
        ValueError: fewer than two rows or sites, other widths, values that are not spins.
    """
    same_width = real.shape[-1] == generated.shape[-1]
    if not same_width or real.shape[-1] < 2 or min(len(real), len(generated)) < 2:
        raise ValueError(
            f"expected rows of the same n >= 2 spins; got {list(real.shape)} and "
            f"{list(generated.shape)}"
        )
    check_spins("spins", real)
    check_spins("spins", generated)
    covariance = torch.cov(real.double().T, correction=0)
    difference = covariance - torch.cov(generated.double().T, correction=0)
    i, j = torch.triu_indices(*difference.shape, offset=1)
    return float(difference[i, j].square().mean().sqrt())


def frechet_distance(real: Float[Tensor, "N d"], generated: Float[Tensor, "M d"]) -> float:
    r"""Distance of two Gaussians with the samples' moments (Heusel et al., NeurIPS 2017, Eq. 6).

    $$|\mu - \mu'|^2 + \operatorname{tr}\bigl(C + C' - 2 (C C')^{1/2}\bigr)$$

    It falls with the number of samples: compare figures of equal N only.

    Args:
        real: features of real images, one row per image.
        generated: features of generated images, one row per image.
    """
    mean = (real.double().mean(0) - generated.double().mean(0)).square().sum()
    C = torch.cov(real.double().T)
    D = torch.cov(generated.double().T)
    # the trace of (C D)^(1/2), by the symmetric matrix C^(1/2) D C^(1/2) of the same eigenvalues
    root = _root(C)
    cross = torch.linalg.eigvalsh(root @ D @ root).clamp_min(0).sqrt().sum()
    return float(mean + C.trace() + D.trace() - 2 * cross)


class ImageFeatures(nn.Module):
    """A small classifier of binary images, trained once and frozen.

    Its last hidden layer, 32 numbers per image, are the features.

    Args:
        images: images of spins, one per row, `[N, n]`.
        labels: class numbers, `[N]`.
        shape: (rows, columns) of an image.
        epochs: number of passes over the images (Adam, batches of 100).
        seed: seed of the weights and of the order of the rows, 64 bits.
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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plain_seed(seed))
            # two poolings by 2 leave a quarter of each side, rounded up
            pooled = math.prod((side + 3) // 4 for side in shape)
            self.hidden = nn.Sequential(
                nn.Conv2d(1, 16, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.Flatten(),
                nn.Linear(32 * pooled, 32),
                nn.ReLU(),
            )
            self.head = nn.Linear(32, int(labels.max()) + 1)
            self.float()  # as the images are, whatever torch's default is
            self._train(images, labels, epochs)
        self.eval().requires_grad_(False)

    def _train(self, images: Tensor, labels: Tensor, epochs: int) -> None:
        """Minimise the cross-entropy of the labels."""
        optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(images)).split(100):
                loss = nn.functional.cross_entropy(self.logits(images[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def logits(self, images: Shaped[Tensor, "N n"]) -> Float[Tensor, "N classes"]:
        """The logits of the classes, for images of spins `[N, n]`."""
        return self.head(self(images))

    def forward(self, images: Shaped[Tensor, "N n"]) -> Float[Tensor, "N 32"]:
        """The features of images of spins `[N, n]`."""
        return self.hidden(images.float().reshape(-1, 1, *self.shape))


def _root(C: Tensor) -> Tensor:
    """The symmetric square root of a covariance matrix; rounding's negative eigenvalues are 0."""
    values, vectors = torch.linalg.eigh(C)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T
