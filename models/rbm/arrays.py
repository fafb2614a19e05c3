"""Weights of other people's RBMs: which way their matrix lies, and what their offsets mean."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from qsample.support.checks import as_numbers, check_choice

Orientation = Literal["visible-hidden", "hidden-visible", "pydeep", "rbms", "scikit-learn"]
LYING = {  # by the axes of the matrix, or by who keeps it so
    "visible-hidden": "visible-hidden",
    "hidden-visible": "hidden-visible",
    "pydeep": "visible-hidden",
    "rbms": "visible-hidden",
    "scikit-learn": "hidden-visible",
}


class Weights(NamedTuple):
    """The parameters of E(v, h) = -v.W.h - b.v - c.h: `[n, m]`, `[n]` and `[m]`."""

    W: Tensor
    b: Tensor
    c: Tensor


def weights_of(
    W: Any,
    b: Any,
    c: Any,
    orientation: Orientation | None,
    visible_offset: Any,
    hidden_offset: Any,
) -> Weights:
    r"""The plain weights of an RBM that others keep another way; see `BernoulliRBM.from_arrays`.

    A centred energy (Melchior, Fischer and Wiskott, JMLR 17(99), 2016, Eq. 4) is a plain one of
    other biases, up to a constant:

    $$-(v - \mu)^\top W (h - \lambda) - b \cdot (v - \mu) - c \cdot (h - \lambda)
      = -v^\top W h - (b - W\lambda) \cdot v - (c - W^\top\mu) \cdot h + \mathrm{const}$$

    Args:
        W: couplings, a matrix.
        b: biases of the visible units.
        c: biases of the hidden units.
        orientation: which way W lies; None where its shape says so.
        visible_offset: mu; None for none.
        hidden_offset: lambda; None for none.
    """
    if orientation is not None:
        check_choice("orientation", orientation, Orientation)
    b = _vector("b", b)
    c = _vector("c", c)
    W = _upright(_finite("W", W), b, c, orientation)

    dtype = torch.promote_types(torch.promote_types(W.dtype, b.dtype), c.dtype)
    if dtype not in (torch.float32, torch.float64):
        dtype = torch.get_default_dtype()
    # in double precision: biases and offsets nearly cancel in trained models
    W, b, c = (t.double() for t in (W, b, c))
    if visible_offset is not None:
        c = c - _offset("visible_offset", visible_offset, len(b)).to(c) @ W
    if hidden_offset is not None:
        b = b - W @ _offset("hidden_offset", hidden_offset, W.shape[1]).to(b)
    return Weights(W.to(dtype), b.to(dtype), c.to(dtype))


def _upright(W: Tensor, b: Tensor, c: Tensor, orientation: Orientation | None) -> Tensor:
    """The matrix as [visible, hidden]; a ValueError that says which orientation would fit."""
    if W.dim() != 2:
        raise ValueError(f"expected a matrix W [visible, hidden]; got shape {list(W.shape)}")
    n = len(b)
    m = len(c)
    sizes = f"W {list(W.shape)}, b [{n}] of visible and c [{m}] of hidden units"
    fits = {"visible-hidden": W.shape == (n, m), "hidden-visible": W.shape == (m, n)}
    if orientation is None:
        if all(fits.values()) and n > 1:
            raise ValueError(
                f"a square W may lie either way ({sizes}): give orientation='visible-hidden' "
                "(PyDeep, rbms) or 'hidden-visible' (scikit-learn)"
            )
        lying = next((name for name in fits if fits[name]), None)
    else:
        lying = LYING[orientation]
    if lying is None or not fits[lying]:
        raise ValueError(_misfit(sizes, orientation, fits, W.shape == (m, n) or W.shape == (n, m)))
    return W if lying == "visible-hidden" else W.T


def _misfit(
    sizes: str, orientation: Orientation | None, fits: dict[str, bool], swapped: bool
) -> str:
    """What is wrong with shapes that do not fit, and what would be right."""
    other = next((name for name in fits if fits[name]), None)
    if other is not None and swapped:
        return f"{sizes} do not fit orientation={orientation!r}: they fit {other!r}"
    return (
        f"{sizes} fit no orientation: expected W [visible, hidden] (PyDeep's w, rbms' "
        "weight_matrix) or [hidden, visible] (scikit-learn's components_), b of the visible units "
        "and c of the hidden ones"
    )


def _finite(name: str, value: Any) -> Tensor:
    tensor = as_numbers(name, value).detach()
    if tensor.is_complex():
        raise TypeError(f"expected {name} of real numbers; got {tensor.dtype}")
    if not tensor.isfinite().all():
        raise ValueError(f"expected {name} of finite numbers; got nan or inf")
    return tensor


def _vector(name: str, value: Any) -> Tensor:
    """Biases `[n]`, also where they are kept as one row `[1, n]`, as PyDeep does."""
    tensor = _finite(name, value)
    if tensor.dim() == 2 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.dim() != 1 or len(tensor) == 0:
        raise ValueError(f"expected {name} as a vector of biases; got shape {list(tensor.shape)}")
    return tensor


def _offset(name: str, value: Any, units: int) -> Tensor:
    """An offset of each unit, or one of all."""
    tensor = _finite(name, value)
    if tensor.dim() == 0:
        return tensor.expand(units)
    tensor = _vector(name, tensor)
    if len(tensor) != units:
        raise ValueError(f"expected {name} of {units} units; got {len(tensor)}")
    return tensor
