"""Tensors as a safetensors file, written and read without a second copy of them.

The file is the length of a header in 8 bytes, the header in JSON (dtype, shape and place of each
tensor by its name), and the tensors' bytes one after the other
(https://github.com/huggingface/safetensors). The library's own functions hold all bytes at once.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from typing import IO

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 24  # bytes that are written at a time

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
BY_NAME = {name: dtype for dtype, name in DTYPES.items()}


def pieces(tensors: Mapping[str, Tensor]) -> Iterator[memoryview | bytes]:
    """The bytes of a file of these tensors, some at a time.

    Args:
        tensors: dense tensors of `DTYPES` on any device, which are not written to meanwhile.
    """
    # wide types first, so that each lies at a multiple of its size
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header = {}
    place = 0
    for name in order:
        tensor = tensors[name]
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        data = _bytes_of(tensors[name]).data
        for first in range(0, len(data), PIECE):
            yield data[first : first + PIECE]


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """The bytes of a tensor as they lie, if they lie on the CPU and together."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy()


def mapped(file: IO[bytes]) -> mmap.mmap | bytes:
    """The bytes of an open file, which the system reads as they are looked at."""
    try:
        # a private copy: what is written to a tensor of it reaches no file
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (ValueError, OSError):  # an empty file, or a system that maps none
        return file.read()


def tensors_of(data: mmap.mmap | bytes) -> dict[str, Tensor]:
    """The tensors of a file, which lie in its bytes.

    Raises:
        ValueError: no such file.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("its header is longer than the file")
    header = json.loads(data[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no table")
    header.pop("__metadata__", None)
    begin = 8 + length
    tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype = BY_NAME[entry["dtype"]]
        shape = torch.Size(entry["shape"])
        first, last = entry["data_offsets"]
        if first != end or last - first != shape.numel() * dtype.itemsize:
            raise ValueError(f"tensor {name!r} does not lie where its shape says")
        end = last
        tensors[name] = _tensor_at(data, begin + first, shape, dtype)
    if begin + end != len(data):
        raise ValueError("it holds more than its tensors")
    return tensors


def _tensor_at(
    data: mmap.mmap | bytes, place: int, shape: torch.Size, dtype: torch.dtype
) -> Tensor:
    """The tensor at a place of a file's bytes; a copy where it cannot lie there."""
    if not shape.numel():
        return torch.empty(shape, dtype=dtype)
    size = shape.numel() * dtype.itemsize
    flat = np.frombuffer(data, dtype=np.uint8, count=size, offset=place)
    if not flat.flags.writeable or place % dtype.itemsize:
        flat = flat.copy()
    return torch.from_numpy(flat).view(dtype).view(shape)
