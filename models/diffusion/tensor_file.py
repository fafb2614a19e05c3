"""Tensors and words about them in one safetensors file, written whole, every bit of it checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from qsample.support.files import write_whole

HASH = "sha256"  # the entry of the header that holds the digest of all the rest


def write_file(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, str]
) -> None:
    """Write a file all or nothing: readers see the old file or the whole new one.

    Args:
        path: where it goes; an old file there is replaced.
        tensors: its contents, by name.
        about: words for its header; `about["format"]` is what `read_file` asks for.
    """
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {**about, HASH: _digest(plain, about)}
    write_whole(Path(path).expanduser(), save(plain, header))


def read_file(path: str | os.PathLike[str], form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors at `path`, on the CPU, and what was said about them.

    Raises:
        ValueError: a file that is missing, damaged, or whose `about["format"]` is not `form`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(path).expanduser(), "pt") as file:
            about: dict[str, str] = dict(file.metadata() or {})
            tensors: dict[str, torch.Tensor] = {
                name: file.get_tensor(name) for name in list(file.keys())
            }
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"cannot read {path}: {reason}") from None
    if about.get("format") != form:
        raise ValueError(f"{path} holds no {form}; its format is {about.get('format')!r}")
    expected = about.pop(HASH, None)
    if expected is None:
        raise ValueError(f"{path} is damaged: it holds no SHA-256; save it again")
    if expected != _digest(tensors, about):
        raise ValueError(f"{path} is damaged: its SHA-256 is not that of its contents")
    return tensors, about


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes of the tensors, and of the words."""
    words = json.dumps(dict(about), sort_keys=True).encode()
    digest = hashlib.sha256(words)
    for name in sorted(tensors):
        tensor = tensors[name]
        kind = [name, str(tensor.dtype), list(tensor.shape)]
        digest.update(json.dumps(kind).encode())
        if tensor.numel():
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
