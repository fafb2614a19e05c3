"""What a copula asks of its denoiser: that it is a module, and that it answers with logits."""

from __future__ import annotations

from torch import Tensor, nn


def check_denoiser(name: str, denoiser: object) -> None:
    """TypeError for what is no module: a function hides its parameters from the optimizer."""
    if isinstance(denoiser, nn.Module):
        return
    if isinstance(denoiser, type):
        raise TypeError(
            f"expected {name} as an nn.Module; got the class {denoiser.__name__}: "
            f"{denoiser.__name__}(...) makes one"
        )
    raise TypeError(
        f"expected {name} as an nn.Module, whose parameters are trained; got "
        f"{type(denoiser).__name__}: write a class of nn.Module whose forward calls it"
    )


def check_logits(logits: object, shape: tuple[int, ...], also: str = "") -> None:
    """Refuses an answer that is no tensor of logits.

    Args:
        logits: what the denoiser answered.
        shape: shape of the logits.
        also: what else it might answer, in words.

    Raises:
        TypeError: no tensor, or numbers that are not floating point.
        ValueError: another shape.
    """
    expected = f"expected the denoiser's logits {list(shape)}"
    if not isinstance(logits, Tensor):
        raise TypeError(f"{expected}{also}, as a torch tensor; got {type(logits).__name__}")
    if not logits.is_floating_point():
        raise TypeError(f"{expected}, floating point; got {logits.dtype}: logits.float()")
    if logits.shape != shape:
        raise ValueError(f"{expected}; got {list(logits.shape)}")
