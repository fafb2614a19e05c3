"""The number format of matrix products under `torch.autocast`, and what serves in its place."""

from __future__ import annotations

import platform

import torch


def _multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products in bfloat16.

    Without, they take several times as long as those in single precision.
    """
    if platform.machine().lower() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


MULTIPLIES_BFLOAT16 = _multiplies_bfloat16()
"""asked once, as a compiler could not ask"""


def rounded_alone(device: str, dtype: torch.dtype) -> bool:
    """Whether autocast's products are to be those of rounded factors, in single precision.

    So they are as exact as bfloat16 asks for, and as fast as this CPU can.

    Args:
        device: type of the device of the factors.
        dtype: what the factors are before autocast, which leaves double precision alone.
    """
    return (
        device == "cpu"
        and not MULTIPLIES_BFLOAT16
        and dtype == torch.float32
        and torch.is_autocast_enabled(device)
        and torch.get_autocast_dtype(device) == torch.bfloat16
    )


def widened(device: str, dtype: torch.dtype) -> bool:
    """Whether products of 16-bit weights are best taken in single precision, as this CPU does them.

    It multiplies such numbers one by one, in a hundred times the time of the widened product.

    Args:
        device: type of the device of the weights.
        dtype: their dtype.
    """
    short = dtype in (torch.bfloat16, torch.float16)
    return device == "cpu" and short and not MULTIPLIES_BFLOAT16


def factor_dtype(device: str, dtype: torch.dtype) -> torch.dtype:
    """What a product's factors are best made in: autocast's dtype, or `dtype` where it rests.

    Args:
        device: type of the device of the factors.
        dtype: what the factors are before autocast.
    """
    alone = rounded_alone(device, dtype)
    if alone or dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return dtype
    return torch.get_autocast_dtype(device)
