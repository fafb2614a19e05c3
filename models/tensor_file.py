"""Tensors and a few words about them in one safetensors file, written all or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from qsample.files import write_whole


def write_file(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Put the tensors at `path`, `about` in the header: readers see the old file or the whole new one."""
    from safetensors.torch import save

    write_whole(Path(path), save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(about)))


def read_file(path: str | os.PathLike[str], form: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors at `path`, on the CPU, and what was said about them.

    Raises:
        ValueError: a file that is missing, damaged, or whose `about["format"]` is not `form`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), "pt") as file:
            about: dict[str, str] = file.metadata() or {}
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot read {path}: {str(error).splitlines()[0]}") from None
    if about.get("format") != form:
        raise ValueError(f"{path} holds no {form}; its format is {about.get('format')!r}")
    return tensors, about
